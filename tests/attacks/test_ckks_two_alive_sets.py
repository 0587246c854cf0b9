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
from ciphertexts import ciphertext, opened
from numpy.typing import NDArray

from protocols.burn import Burn
from protocols.ckks import Engine
from protocols.ckks.client import encrypt, restore
from protocols.ckks.keys import CollectiveKey
from protocols.ckks.messages import Partial
from protocols.ckks.params import Agreement
from protocols.ckks.server import CollectUploads
from protocols.errors import RemoteProtocolError
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, burn_nothing, played_key, small_threshold

HOLDERS = (1, 2, 3, 4)
PRIVATE = np.linspace(-1, 1, 2048)
SETS = [frozenset(HOLDERS) - {gone} for gone in HOLDERS]


def agreed(engine: Engine, index: int = 0) -> Agreement:
    params = small_threshold(engine, decryptions=4)
    return Agreement(params=params, session=bytes(16), round=index, public_digest=bytes(32))


@functools.cache
def session(engine: Engine) -> tuple[CollectiveKey, dict[int, Secret], bytes]:
    """The key, every holder's record, and one client's ciphertext."""
    made = played_key(agreed(engine), HOLDERS, "requests")
    key, records = made.key, {n: state.into_record() for n, state in made.states.items()}
    (frame,) = encrypt(agreed(engine), 1, key, PRIVATE)
    return key, records, ciphertext(agreed(engine), key, frame)


@functools.cache
def request(engine: Engine, alive: frozenset[int], index: int) -> bytes:
    """For a sum of two; each time another, which is no matter."""
    key, _, _ = session(engine)
    collect = CollectUploads(agreed(engine, index), key, (1, 2))
    for client, values in ((1, PRIVATE), (2, PRIVATE[::-1].copy())):
        collect.receive(encrypt(agreed(engine, index), client, key, values))
    return collect.close_threshold(alive)[0]


def given(
    engine: Engine, holder: int, burn: Burn, alive: Iterable[int], index: int = 0
) -> dict[int, bytes]:
    """The shares of the keys of others that a holder gives, restored from an old copy."""
    agreement = agreed(engine, index)
    restored = restore(session(engine)[1][holder], burn=burn)
    frames, _ = restored.on_request(agreement, request(engine, frozenset(alive), index))
    first = Partial.from_bytes(
        next(frames), expect=agreement.header, index=0, params=agreement.params
    )
    return {owner: share.expose() for owner, share in first.shares.items()}


def attack(engine: Engine, burn: dict[int, Burn], *, later: bool) -> NDArray[np.float64]:
    """One client's vector: every holder's key is rebuilt from what the three others gave."""
    key, _, sent = session(engine)
    seeds = {}
    for turn, alive in enumerate(SETS):
        (gone,) = set(HOLDERS) - alive
        index = turn if later else 0
        shares = [given(engine, helper, burn[helper], alive, index)[gone] for helper in alive]
        (seeds[gone],) = combine(list(alive), [shares])
        assert key.is_of(gone, seeds[gone])
    return opened(agreed(engine), sent, seeds)


@pytest.mark.parametrize("later", [False, True], ids=["in one round", "in later rounds"])
def test_a_second_alive_set_is_refused(engine: Engine, later: bool) -> None:
    burns = {holder: BurnInMemory() for holder in HOLDERS}
    with pytest.raises(RemoteProtocolError, match="other holders were alive"):
        attack(engine, burns, later=later)


@pytest.mark.parametrize("later", [False, True], ids=["in one round", "in later rounds"])
def test_where_burn_records_are_forgotten_one_upload_is_read(engine: Engine, later: bool) -> None:
    read = attack(engine, dict.fromkeys(HOLDERS, burn_nothing), later=later)
    assert np.abs(read - PRIVATE).max() < 1e-6


def test_one_request_a_round_is_not_enough_without_the_set_of_the_session(engine: Engine) -> None:
    """The check that is missing: burnt per round only."""

    def burnt_by_round() -> Burn:
        whole = BurnInMemory()
        return lambda session, stage, request: stage == 1 or whole(session, stage, request)

    burns = {holder: burnt_by_round() for holder in HOLDERS}
    assert np.abs(attack(engine, burns, later=True) - PRIVATE).max() < 1e-6
    with pytest.raises(RemoteProtocolError, match="answered another request in round 0"):
        attack(engine, {holder: burnt_by_round() for holder in HOLDERS}, later=False)


def test_whatever_sets_a_server_tells_some_honest_holder_is_never_rebuilt(engine: Engine) -> None:
    """A corrupt holder helps, and each honest one is told a set of its own."""
    corrupt, honest = HOLDERS[-1], HOLDERS[:-1]
    gives: dict[tuple[int, frozenset[int]], frozenset[int]] = {}
    choices = [[alive for alive in (*SETS, frozenset(HOLDERS)) if me in alive] for me in honest]
    for me, sets in zip(honest, choices, strict=True):
        for alive in sets:
            gives[me, alive] = frozenset(given(engine, me, BurnInMemory(), alive))
    rebuilt = set()
    for told in itertools.product(*choices):
        shares = [gives[me, alive] for me, alive in zip(honest, told, strict=True)]
        helpers = {me: sum(me in given for given in shares) + (me != corrupt) for me in honest}
        found = frozenset(me for me in honest if helpers[me] >= agreed(engine).params.threshold)
        rebuilt.add(found)
        assert found < set(honest)
    assert max(map(len, rebuilt)) == 1
