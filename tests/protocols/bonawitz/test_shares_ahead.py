"""Shares that are sealed before everything public is known: what they are bound to, and when."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols.bonawitz import Agreement, AwaitBoxes, Params, Rates, restore
from protocols.bonawitz.params import UNKNOWN
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, Played, burn_nothing, played

COMPLETE = Params(clients=5, threshold=3, words=6)
SPARSE = Params(clients=12, rates=Rates(corrupt_fraction=0.1, dropout=0.1), words=6)
GRAPHS = pytest.mark.parametrize("params", [COMPLETE, SPARSE], ids=["complete", "sparse"])
WORDS = np.arange(6, dtype=np.uint64)
ME = 3


def unknown(params: Params = COMPLETE) -> Agreement:
    return Agreement(params=params, session=bytes(16), round=2, public_digest=UNKNOWN)


def known(params: Params = COMPLETE, public: bytes = b"m" * 32) -> Agreement:
    return replace(unknown(params), public_digest=public)


def shared(params: Params = COMPLETE) -> Played:
    """All have shared under what was known."""
    return played(unknown(params), dict.fromkeys(range(params.clients), WORDS), "roster")


@GRAPHS
def test_a_round_that_is_proposed_after_its_shares_is_exact(params: Params) -> None:
    before = shared(params)
    answers, states = before.answers()
    for answer in answers.values():
        before.server.receive(answer)
    boxes, vectors = before.server.rebind(known(params)).close()
    frames, waiting = {}, {}
    for client, message in boxes.items():
        state = restore(states[client].into_record(), burn=BurnInMemory())
        assert isinstance(state, AwaitBoxes)
        frames[client], waiting[client] = state.rebind(known(params)).on_boxes(message, WORDS)
    for client in boxes.keys() - {1}:  # one is lost
        vectors.receive(list(frames[client]))
    survivors, reveals = vectors.close()
    for client in boxes.keys() - {1}:
        reveals.receive(waiting[client].on_survivors(survivors[client]))
    total = reveals.close()
    assert total.survivors == tuple(sorted(boxes.keys() - {1}))
    assert np.array_equal(total.words, WORDS * np.uint64(len(total.survivors)))


def test_no_vector_is_masked_before_everything_public_is_known() -> None:
    made = shared().until("boxes")
    with pytest.raises(LocalProtocolError, match="no vector is masked before"):
        made.states[ME].on_boxes(made.boxes[ME], WORDS)


OTHERS: dict[str, Callable[[], Agreement]] = {
    "session": lambda: replace(known(), session=b"another session!"),
    "round": lambda: replace(known(), round=3),
    "words": lambda: known(replace(COMPLETE, words=7)),
    "threshold": lambda: known(replace(COMPLETE, threshold=4)),
    "nothing known": unknown,
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_shares_stay_with_their_session_and_parameters(other: Callable[[], Agreement]) -> None:
    made = shared().until("boxes")
    with pytest.raises(LocalProtocolError, match="sealed under another agreement"):
        made.states[ME].rebind(other())
    with pytest.raises(LocalProtocolError, match="sealed under another agreement"):
        shared().server.rebind(other())


def test_shares_that_were_sealed_for_one_proposal_stay_with_it() -> None:
    inputs = dict.fromkeys(range(5), WORDS)
    made = played(known(), inputs, "boxes")
    for agreement in (known(), known(public=b"o" * 32)):
        with pytest.raises(LocalProtocolError, match="sealed under another agreement"):
            made.states[ME].rebind(agreement)
    with pytest.raises(LocalProtocolError, match="sealed under another agreement"):
        played(known(), inputs, "roster").server.rebind(known())


def test_a_server_that_may_lie_gets_shares_for_no_proposal_to_come() -> None:
    params = replace(COMPLETE, active=True, max_corrupt=0)
    identities = {client: SigningKey(Secret(bytes([client]) * 32)) for client in range(5)}
    inputs = dict.fromkeys(range(5), WORDS)
    made = played(unknown(params), inputs, "boxes", identities=identities)
    with pytest.raises(LocalProtocolError, match="sealed under another agreement"):
        made.states[ME].rebind(known(params))


def test_a_collection_that_was_bound_takes_no_more_shares() -> None:
    made = shared()
    answers, _ = made.answers()
    made.server.rebind(known())
    with pytest.raises(LocalProtocolError, match="CollectShares is closed"):
        made.server.receive(answers[ME])
    with pytest.raises(LocalProtocolError, match="CollectShares is closed"):
        made.server.rebind(known())


def masked_for_two(burn: Any) -> bool:
    """One vector for two proposals, from two copies of one record."""
    made = shared().until("boxes")
    record = made.states[ME].into_record()
    frames = []
    for public in (b"m" * 32, b"o" * 32):
        state = restore(Secret(record.expose()), burn=burn)
        assert isinstance(state, AwaitBoxes)
        found, _ = state.rebind(known(public=public)).on_boxes(made.boxes[ME], WORDS)
        frames.append(list(found))
    return frames[0] != frames[1]


def test_the_burn_record_of_a_vector_holds_the_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert masked_for_two(burn_nothing)
    with pytest.raises(RemoteProtocolError, match="stage 2 of client 3 was answered for another"):
        masked_for_two(BurnInMemory())
    burn = AwaitBoxes._burn

    def boxes_alone(state: AwaitBoxes, request: bytes, *more: Any, place: bytes = b"") -> None:
        burn(state, request.removesuffix(state.agreement.to_bytes()), *more, place=place)

    monkeypatch.setattr(AwaitBoxes, "_burn", boxes_alone)  # the rule removed
    assert masked_for_two(BurnInMemory())
