"""Ask the holders twice, with other holders alive, and rebuild the whole key.

One request yields the parts of who is alive and the keys of who is gone. Asked with four
sets of three, the holders of a four-holder key give away each other's keys one by one,
and every upload opens, not the sum. So a holder burns its first set for the session, and one
request a round. The attack is made in one round and over two, on states that were restored
from old records; it works where the burn store forgets.
"""

import functools
import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.burn import Burn
from protocols.ckks.client import encrypt, restore
from protocols.ckks.keys import CollectiveKey, holder_key
from protocols.ckks.messages import Frame, Partial, Request
from protocols.ckks.microsoft_seal import context
from protocols.ckks.params import Agreement
from protocols.ckks.residues import add, pack, unpack_ciphertext
from protocols.errors import RemoteProtocolError
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, burn_nothing, played_key, small_threshold

HOLDERS = (1, 2, 3, 4)
PARAMS = small_threshold(decryptions=4)
RING = PARAMS.ring
PRIVATE = np.linspace(-1, 1, RING.degree)
SETS = [frozenset(HOLDERS) - {gone} for gone in HOLDERS]


def agreed(index: int = 0) -> Agreement:
    return Agreement(params=PARAMS, session=bytes(16), round=index, public_digest=bytes(32))


@functools.cache
def session() -> tuple[CollectiveKey, dict[int, Secret], NDArray[np.uint64], NDArray[np.uint64]]:
    """The key, every holder's record, one client's ciphertext and a sum's second polynomial."""
    made = played_key(agreed(), HOLDERS, "requests")
    key, records = made.key, {n: state.into_record() for n, state in made.states.items()}
    ciphertexts = []
    for sender, values in ((1, PRIVATE), (2, PRIVATE[::-1].copy())):
        (frame,) = encrypt(agreed(), sender, key, values)
        found = Frame.from_bytes(
            frame, expect=agreed().header, context=key.context(agreed()), index=0, params=PARAMS
        )
        ciphertexts.append(unpack_ciphertext(found.ciphertext, RING))
    total = add(ciphertexts[0], ciphertexts[1], RING.primes)
    return key, records, ciphertexts[0], total[1]


def request(alive: Iterable[int], index: int) -> bytes:
    key, _, _, second = session()
    return Request(
        header=agreed(index).header,
        context=key.context(agreed(index)),
        alive=frozenset(alive),
        summands={1: bytes(32), 2: bytes([1] * 32)},
        seconds=pack(second, RING.primes),
    ).to_bytes()


def attack(burn: dict[int, Burn], *, later: bool) -> NDArray[np.float64]:
    """One client's vector: every holder's key is rebuilt from what the three others gave."""
    key, records, ciphertext, _ = session()
    opened = ciphertext[0]
    for turn, alive in enumerate(SETS):
        (gone,) = set(HOLDERS) - alive
        index = turn if later else 0
        shares = []
        for helper in sorted(alive):
            holder = restore(records[helper], burn=burn[helper])  # from an old copy, each time
            answer, _ = holder.on_request(agreed(index), request(alive, index))
            partial = Partial.from_bytes(answer, expect=agreed(index).header, params=PARAMS)
            shares.append(partial.shares[gone].expose())
        (seed,) = combine(sorted(alive), [shares])
        assert key.is_of(gone, seed)
        part = holder_key(agreed(), gone, seed).partial(ciphertext[1], None)
        opened = add(opened, part, RING.primes)
    return context(RING, PARAMS.scale).decode(opened)


@pytest.mark.parametrize("later", [False, True], ids=["in one round", "in later rounds"])
def test_a_second_alive_set_is_refused(later: bool) -> None:
    burns = {holder: BurnInMemory() for holder in HOLDERS}
    with pytest.raises(RemoteProtocolError, match="other holders were alive"):
        attack(burns, later=later)


@pytest.mark.parametrize("later", [False, True], ids=["in one round", "in later rounds"])
def test_where_burn_records_are_forgotten_one_upload_is_read(later: bool) -> None:
    read = attack(dict.fromkeys(HOLDERS, burn_nothing), later=later)
    assert np.abs(read - PRIVATE).max() < 1e-6


def test_one_request_a_round_is_not_enough_without_the_set_of_the_session() -> None:
    """The check that is missing: burnt per round only."""

    def burnt_by_round() -> Burn:
        whole = BurnInMemory()
        return lambda session, stage, request: stage == 1 or whole(session, stage, request)

    burns = {holder: burnt_by_round() for holder in HOLDERS}
    assert np.abs(attack(burns, later=True) - PRIVATE).max() < 1e-6
    with pytest.raises(RemoteProtocolError, match="answered another request in round 0"):
        attack({holder: burnt_by_round() for holder in HOLDERS}, later=False)


def test_whatever_sets_a_server_tells_some_honest_holder_is_never_rebuilt() -> None:
    """A corrupt holder helps, and each honest one is told a set of its own."""
    corrupt, honest = HOLDERS[-1], HOLDERS[:-1]
    _, records, _, _ = session()
    gives: dict[tuple[int, frozenset[int]], frozenset[int]] = {}
    choices = [[alive for alive in (*SETS, frozenset(HOLDERS)) if me in alive] for me in honest]
    for me, sets in zip(honest, choices, strict=True):
        for alive in sets:
            holder = restore(records[me], burn=BurnInMemory())
            answer, _ = holder.on_request(agreed(), request(alive, 0))
            found = Partial.from_bytes(answer, expect=agreed().header, params=PARAMS)
            gives[me, alive] = frozenset(found.shares)
    rebuilt = set()
    for told in itertools.product(*choices):
        given = [gives[me, alive] for me, alive in zip(honest, told, strict=True)]
        helpers = {me: sum(me in shares for shares in given) + (me != corrupt) for me in honest}
        opened = frozenset(me for me in honest if helpers[me] >= PARAMS.threshold)
        rebuilt.add(opened)
        assert opened < set(honest)
    assert max(map(len, rebuilt)) == 1
