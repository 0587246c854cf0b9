"""States that move through records: the same answer to the same request, and to no other."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.bonawitz import (
    Agreement,
    AwaitBoxes,
    AwaitRoster,
    AwaitSurvivors,
    CollectKeys,
    Params,
    join,
    restore,
)
from protocols.bonawitz.messages import Roster, SealedShares, ShareBoxes, Survivors
from protocols.entropy import Entropy
from protocols.errors import DecodeError, RemoteProtocolError
from protocols.primitives.prg import Suite
from protocols.secrets import Secret
from protocols.wire import open_checksum, seal_checksum

PARAMS = Params(clients=5, threshold=3, words=6, suite=Suite.CHACHA20)
AGREEMENT = Agreement(params=PARAMS, session=bytes(range(16)), round=2, public=bytes(32))
HEADER = AGREEMENT.header
CLIENTS = range(5)
ME = 3
WORDS = np.arange(6, dtype=np.uint64)


def counting(seed: object) -> Entropy:
    calls = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}/{next(calls)}".encode()).digest(size)


class Store:
    """Burnt stages, in memory."""

    def __init__(self) -> None:
        self.taken: dict[tuple[bytes, int], bytes] = {}

    def __call__(self, session: bytes, stage: int, request: bytes) -> bool:
        return self.taken.setdefault((session, stage), request) == request


def led_to(stage: int) -> tuple[Any, bytes]:
    """The state of client ``ME`` at a stage, and the message that it waits for."""
    collect, states = CollectKeys(AGREEMENT), {}
    for client in CLIENTS:
        message, states[client] = join(AGREEMENT, client, counting(client))
        collect.receive(message)
    rosters, shares = collect.close()
    if stage == 1:
        return states[ME], rosters[ME]
    waiting = {}
    for client in CLIENTS:
        message, waiting[client] = states[client].on_roster(rosters[client])
        shares.receive(message)
    boxes, _ = shares.close()
    if stage == 2:
        return waiting[ME], boxes[ME]
    _, last = waiting[ME].on_boxes(boxes[ME], WORDS)
    return last, Survivors(header=HEADER, alive=frozenset({0, 1, ME})).to_bytes()


def answer(state: Any, message: bytes) -> tuple[list[bytes], Any]:
    match state:
        case AwaitRoster():
            reply, after = state.on_roster(message)
            return [reply], after
        case AwaitBoxes():
            frames, after_boxes = state.on_boxes(message, WORDS)
            return list(frames), after_boxes
        case AwaitSurvivors():
            return [state.on_survivors(message)], None
    raise TypeError(type(state))


def other_request(stage: int, message: bytes) -> bytes:
    """As valid a message as ``message``, and another."""
    if stage == 1:
        entries = dict(Roster.from_bytes(message, expect=HEADER).entries)
        del entries[0]
        return Roster(header=HEADER, entries=entries).to_bytes()
    if stage == 2:
        boxes = dict(ShareBoxes.from_bytes(message, expect=HEADER).boxes)
        del boxes[0]
        return ShareBoxes(header=HEADER, recipient=ME, boxes=boxes).to_bytes()
    return Survivors(header=HEADER, alive=frozenset({0, 2, ME})).to_bytes()


STAGES = pytest.mark.parametrize("stage", [1, 2, 3], ids=["roster", "boxes", "survivors"])


@STAGES
def test_a_record_answers_as_the_state_would_have(stage: int) -> None:
    state, message = led_to(stage)
    expected, _ = answer(state, message)
    record = led_to(stage)[0].into_record()
    assert answer(restore(record, burn=Store()), message)[0] == expected


@STAGES
def test_the_same_request_gets_the_same_bytes_again(stage: int) -> None:
    state, message = led_to(stage)
    record, store = state.into_record(), Store()
    first, after = answer(restore(record, burn=store), message)
    again, after_again = answer(restore(record, burn=store), message)
    assert first == again
    if after is not None:
        assert after.into_record() == after_again.into_record()


@STAGES
def test_any_other_request_for_an_answered_stage_is_refused(stage: int) -> None:
    state, message = led_to(stage)
    record, store = state.into_record(), Store()
    answer(restore(record, burn=store), message)
    with pytest.raises(RemoteProtocolError, match=f"stage {stage} of client 3 was answered"):
        answer(restore(record, burn=store), other_request(stage, message))
    answer(restore(record, burn=Store()), other_request(stage, message))


def test_no_randomness_serves_two_rosters() -> None:
    state, message = led_to(1)
    record, nonces = state.into_record(), []
    for roster in (message, other_request(1, message)):
        (reply,), _ = answer(restore(record, burn=Store()), roster)
        boxes = SealedShares.from_bytes(reply, expect=HEADER).boxes
        nonces += [box[:12] for box in boxes.values()]
    assert len(nonces) == 4 + 3
    assert len(set(nonces)) == len(nonces)


@STAGES
def test_a_request_that_is_refused_burns_nothing(stage: int) -> None:
    state, message = led_to(stage)
    record, store = state.into_record(), Store()
    with pytest.raises(RemoteProtocolError):
        answer(restore(record, burn=store), message[:-1])
    assert not store.taken
    answer(restore(record, burn=store), message)


@STAGES
def test_no_answer_leaves_when_the_burn_cannot_be_written(stage: int) -> None:
    state, message = led_to(stage)

    def full(session: bytes, stage: int, request: bytes) -> bool:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        answer(restore(state.into_record(), burn=full), message)


@STAGES
def test_what_is_burnt_is_the_round_the_client_the_stage_and_a_hash(stage: int) -> None:
    state, message = led_to(stage)
    store = Store()
    answer(restore(state.into_record(), burn=store), message)
    request = message + hashlib.sha256(WORDS.tobytes()).digest() if stage == 2 else message
    place = HEADER.to_bytes() + (ME).to_bytes(4, "big")
    assert store.taken == {(place, stage): hashlib.sha256(request).digest()}


def test_a_state_restored_once_burns_every_later_stage_too() -> None:
    state, message = led_to(1)
    store = Store()
    _, after = answer(restore(state.into_record(), burn=store), message)
    _, last = answer(after, led_to(2)[1])
    answer(last, led_to(3)[1])
    assert [stage for _, stage in store.taken] == [1, 2, 3]


def test_another_input_to_the_same_boxes_is_refused() -> None:
    state, message = led_to(2)
    record, store = state.into_record(), Store()
    restored = restore(record, burn=store)
    assert isinstance(restored, AwaitBoxes)
    restored.on_boxes(message, WORDS)
    restored = restore(record, burn=store)
    assert isinstance(restored, AwaitBoxes)
    with pytest.raises(RemoteProtocolError, match="answered for another request"):
        restored.on_boxes(message, WORDS + np.uint64(1))


def test_an_input_in_parts_is_answered_once_only() -> None:
    state, message = led_to(2)
    record, store = state.into_record(), Store()

    def parts() -> Iterator[Any]:
        return iter(np.split(WORDS, 2))

    restored = restore(record, burn=store)
    assert isinstance(restored, AwaitBoxes)
    frames, _ = restored.on_boxes(message, parts())
    assert len(list(frames)) == 1
    for words in (parts(), WORDS):
        restored = restore(record, burn=store)
        assert isinstance(restored, AwaitBoxes)
        with pytest.raises(RemoteProtocolError, match="answered for another request"):
            restored.on_boxes(message, words)


@STAGES
@given(st.data())
@settings(max_examples=40, derandomize=True, deadline=None)
def test_a_record_that_was_changed_or_cut_is_refused(stage: int, data: st.DataObject) -> None:
    record = led_to(stage)[0].into_record().expose()
    changed = bytearray(record)
    bit = data.draw(st.integers(0, 8 * len(record) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    for broken in (bytes(changed), record[: bit // 8], record + bytes(changed[:5])):
        with pytest.raises(DecodeError):
            restore(Secret(broken), burn=Store())


@STAGES
@given(st.data())
@settings(max_examples=60, derandomize=True, deadline=None)
def test_a_record_changed_on_purpose_is_decoded_or_refused(stage: int, data: st.DataObject) -> None:
    body = bytearray(open_checksum(led_to(stage)[0].into_record().expose()))
    place = data.draw(st.integers(0, min(len(body) - 1, 160)))
    body[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(body)), st.integers(0, len(body))))
    forged = Secret(seal_checksum(bytes(body[:end])))
    try:
        state = restore(forged, burn=Store())
    except DecodeError:
        return
    assert state.into_record() == forged


@STAGES
def test_a_record_of_another_version_is_refused(stage: int) -> None:
    body = bytearray(open_checksum(led_to(stage)[0].into_record().expose()))
    body[len(b"secagg client state ")] = ord("2")
    with pytest.raises(DecodeError, match="not a client state of this version"):
        restore(Secret(seal_checksum(bytes(body))), burn=Store())


@pytest.mark.parametrize("number", [0, 4, 255])
def test_a_record_of_no_stage_is_refused(number: int) -> None:
    body = bytearray(open_checksum(led_to(1)[0].into_record().expose()))
    body[len(b"secagg client state 1")] = number
    with pytest.raises(DecodeError, match=f"no client state has stage {number}"):
        restore(Secret(seal_checksum(bytes(body))), burn=Store())


@STAGES
def test_a_record_is_a_secret(stage: int) -> None:
    record = led_to(stage)[0].into_record()
    assert isinstance(record, Secret)
    assert repr(record) == f"<Secret: {len(record)} bytes>"


def test_records_have_the_sizes_of_what_they_hold() -> None:
    head = len(b"secagg client state 1") + 1 + 20 + 21 + 32 + 4
    sizes = [len(led_to(stage)[0].into_record()) for stage in (1, 2, 3)]
    assert sizes == [
        head + 3 * 32 + 16,
        head + 32 + 32 + 32 + 64 + 4 + 4 * (4 + 32 + 32) + 16,
        head + 32 + 4 + 5 * (4 + 64) + 16,
    ]


def test_a_client_that_joins_anew_cannot_answer_a_burnt_stage_either() -> None:
    state, message = led_to(1)
    store = Store()
    answer(restore(state.into_record(), burn=store), message)
    advertise, fresh = join(AGREEMENT, ME, counting("fresh"))
    entries = dict(Roster.from_bytes(message, expect=HEADER).entries)
    entries[ME] = fresh.public
    roster = Roster(header=HEADER, entries=entries).to_bytes()
    with pytest.raises(RemoteProtocolError, match="answered for another request"):
        answer(restore(fresh.into_record(), burn=store), roster)
    assert advertise


def test_burns_of_two_rounds_and_two_clients_do_not_meet() -> None:
    store = Store()
    for client in (1, 2):
        for number in (1, 2):
            agreement = replace(AGREEMENT, round=number)
            states, collect = {}, CollectKeys(agreement)
            for each in CLIENTS:
                message, states[each] = join(agreement, each, counting((each, number)))
                collect.receive(message)
            rosters, _ = collect.close()
            answer(restore(states[client].into_record(), burn=store), rosters[client])
    assert len(store.taken) == 4
