"""Let a client use its mask key in two rounds, and drop out of the second.

Its peers then rebuild the key, as they should. It is the key of the first round
too, in which the client survived and its self-mask was opened: nothing is left on
its first vector. So ``join`` draws a mask key for each round.
"""

import hashlib
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, Params, join
from protocols.bonawitz.messages import Advertise
from protocols.entropy import Entropy, system
from protocols.primitives.shamir import combine
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.testing import Played, agreement_of, insecure_entropy, played, unmasked

FIRST = agreement_of(Params(clients=3, threshold=2, words=4))
CLIENTS, PEERS, VICTIM = (1, 2, 3), (2, 3), 1
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)


def fresh(number: int, agreement: Agreement) -> Entropy:
    return insecure_entropy(f"{number}/{agreement.round}/{agreement.session.hex()}")


def same_mask_key(number: int, agreement: Agreement) -> Entropy:
    """The rule removed: the mask key, which ``join`` draws first, is the client's for ever."""
    calls = itertools.count()

    def entropy(size: int) -> bytes:
        call = next(calls)
        seed = f"{number}/{call}/{agreement.round if call else ''}"
        return hashlib.shake_256(seed.encode()).digest(size)

    return entropy


def run(agreement: Agreement, entropy: Any, alive: tuple[int, ...]) -> tuple[Played, Secret]:
    """An honest round, and what its server rebuilds of the victim.

    That is its self-mask's seed if it is alive, its mask key if not.
    """
    made = played(
        agreement,
        dict.fromkeys(CLIENTS, PRIVATE),
        "sum",
        alive=alive,
        entropy=lambda number: entropy(number, agreement),
    )
    assert np.array_equal(made.server.close().words, PRIVATE * np.uint64(len(alive)))
    (rebuilt,) = combine(PEERS, [[made.shares(made.reveals[peer])[VICTIM] for peer in PEERS]])
    return made, rebuilt


def attack(entropy: Any, second: Agreement) -> NDArray[np.uint64]:
    """The victim's vector of the first round, if both rounds have one mask key."""
    (seen, seed), (_, key) = run(FIRST, entropy, CLIENTS), run(second, entropy, PEERS)
    return unmasked(FIRST, seen.roster, VICTIM, seen.frames[VICTIM], seed=seed, key=key)


LATER = pytest.mark.parametrize(
    "second",
    [replace(FIRST, round=2), replace(FIRST, session=b"another session!")],
    ids=["round", "session"],
)


@LATER
def test_a_mask_key_used_again_opens_the_earlier_vector(second: Agreement) -> None:
    assert np.array_equal(attack(same_mask_key, second), PRIVATE)


@LATER
def test_a_fresh_mask_key_leaves_the_earlier_vector_shut(second: Agreement) -> None:
    assert not np.any(attack(fresh, second) == PRIVATE)


def test_join_draws_new_keys_each_time() -> None:
    drawn = set()
    for _ in range(20):
        message, _ = join(FIRST, VICTIM)
        keys = Advertise.from_bytes(message, expect=FIRST.header).keys
        drawn |= {keys.mask, keys.seal}
    assert len(drawn) == 40


def test_an_identity_outlives_a_round_and_the_keys_that_it_signs_do_not() -> None:
    identity = SigningKey(Secret(bytes(32)))
    params = replace(FIRST.params, active=True, max_corrupt=0)
    drawn, signatures, asked = set(), set(), []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return system(size)

    for number in range(1, 11):
        agreement = replace(FIRST, params=params, round=number)
        message, _ = join(
            agreement, VICTIM, entropy, identity=identity, identities={VICTIM: identity.public}
        )
        keys = Advertise.from_bytes(message, expect=agreement.header, signed=True).keys
        drawn |= {keys.mask, keys.seal}
        signatures.add(keys.signature)
    assert len(drawn) == 20
    assert len(signatures) == 10
    assert asked == [32, 32, 32] * 10
