"""What is shipped for tests of drivers gives honest rounds, the same ones each time."""

import numpy as np
import pytest

from protocols.bonawitz import Params, Rates
from protocols.ckks import Agreement, Engine
from protocols.errors import RemoteProtocolError
from protocols.primitives.shamir import combine
from protocols.testing import (
    BurnInMemory,
    agreement_of,
    insecure_entropy,
    played,
    played_key,
    small_threshold,
    unmasked,
)

COMPLETE = Params(clients=5, threshold=4, words=3)
RATES = Rates(corrupt_fraction="0.1", dropout="0.1")
ROUNDS = pytest.mark.parametrize(
    "params",
    [
        COMPLETE,
        Params(clients=5, threshold=4, words=3, active=True),
        Params(clients=12, rates=RATES, words=3),
        Params(clients=12, rates=RATES, words=3, active=True),
    ],
    ids=["complete", "complete-active", "sparse", "sparse-active"],
)
INPUTS = {client: np.full(3, 10**client, np.uint64) for client in range(5)}


@ROUNDS
def test_a_round_played_to_its_end_gives_the_sum_of_the_alive(params: Params) -> None:
    inputs = {client: np.full(3, 3**client, np.uint64) for client in range(params.clients)}
    alive = range(1, params.clients)
    made = played(agreement_of(params), inputs, "sum", alive=alive)
    assert made.server.close().words.tolist() == [sum(3**client for client in alive)] * 3


@ROUNDS
def test_played_twice_and_played_on_it_sends_the_same_bytes(params: Params) -> None:
    inputs = {client: np.arange(3, dtype=np.uint64) for client in range(params.clients)}
    agreement = agreement_of(params)
    at_once, on = played(agreement, inputs, "sum"), played(agreement, inputs, "roster")
    for stage in ("boxes", "survivors"):
        on = on.until(stage)
    on = on.until("sum")
    for sent in ("rosters", "shared", "boxes", "frames", "survivors", "signatures", "reveals"):
        assert getattr(on, sent) == getattr(at_once, sent)


def test_a_round_is_not_played_back() -> None:
    with pytest.raises(ValueError, match="played to its end"):
        played(agreement_of(COMPLETE), INPUTS, "survivors").until("boxes")


def test_what_an_attack_may_not_come_to_is_the_vector_itself() -> None:
    agreement = agreement_of(COMPLETE)
    made = played(agreement, INPUTS, "survivors")
    held = [made.states[n].shares.take()[0].expose() for n in range(4)]
    seed, key = combine(range(1, 5), [[both[:32] for both in held], [both[32:] for both in held]])
    words = unmasked(agreement, made.roster, 0, made.frames[0], seed=seed, key=key)
    assert words.tolist() == INPUTS[0].tolist()


def test_a_key_that_was_played_answers_one_set_of_boxes(engine: Engine) -> None:
    holders = (1, 2, 3, 4)
    agreement = Agreement(
        params=small_threshold(engine), session=bytes(16), public_digest=bytes(32)
    )
    made = played_key(agreement, holders, "requests")
    assert made.states.keys() == set(holders)
    with pytest.raises(ValueError, match="played to its end"):
        made.until("openings")
    burn = BurnInMemory()
    burn.taken[made.states[1].agreement.key_header.to_bytes() + bytes([0, 0, 0, 1]), 5] = b"another"
    again = played_key(agreement, holders, "openings")
    with pytest.raises(RemoteProtocolError, match="took other openings or boxes"):
        again.until("requests", burns=dict.fromkeys(holders, burn))


def test_entropy_of_one_seed_is_the_same_and_of_two_is_not() -> None:
    one, again, other = insecure_entropy(1), insecure_entropy(1), insecure_entropy(2)
    first = one(32)
    assert first == again(32) != other(32)
    assert one(32) == again(32) != first


def test_a_store_in_memory_lets_one_request_a_place_through() -> None:
    burn = BurnInMemory()
    assert burn(b"session", 1, b"request")
    assert burn(b"session", 1, b"request")
    assert not burn(b"session", 1, b"another")
    assert burn(b"session", 2, b"another")
