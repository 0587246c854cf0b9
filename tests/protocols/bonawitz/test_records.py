"""States that move through records: the same answer to the same request, and to no other."""

import hashlib
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
    Params,
    Rates,
    join,
    restore,
)
from protocols.bonawitz import params as bonawitz_params
from protocols.bonawitz.graph import GraphPlan, plan_graph
from protocols.bonawitz.messages import (
    Roster,
    SealedShares,
    ShareBoxes,
    Signatures,
    Survivors,
)
from protocols.bonawitz.records import RECORD
from protocols.errors import DecodeError, LocalProtocolError, RemoteProtocolError
from protocols.primitives.prg import Suite
from protocols.secrets import Secret
from protocols.testing import (
    BurnInMemory,
    Played,
    answered,
    insecure_entropy,
    insecure_identities,
    insecure_plan,
    played,
)
from protocols.wire import (
    opaque,
    read_subset,
    with_checksum,
    without_checksum,
    write_subset,
)

PARAMS = Params(clients=5, threshold=3, words=6, suite=Suite.CHACHA20)
RATES = Rates(corrupt_fraction=0.1, dropout=0.1)  # 12 clients: 4 neighbours, a threshold of 2, or 3
MODES = {
    "complete": PARAMS,
    "complete-active": replace(PARAMS, active=True, max_corrupt=0),
    "sparse": Params(clients=12, rates=RATES, words=6),
    "picks": Params(clients=12, rates=RATES, words=6, active=True),
}
AGREEMENTS = {
    mode: Agreement(params=params, session=bytes(range(16)), round=2, public_digest=bytes(32))
    for mode, params in MODES.items()
}
AGREEMENT = AGREEMENTS["complete"]
HEADER = AGREEMENT.header
CLIENTS = range(5)
ME = 3
WORDS = np.arange(6, dtype=np.uint64)
IDENTITIES = insecure_identities(range(12))


@pytest.fixture(scope="module", autouse=True)
def few_clients_pick() -> Iterator[None]:
    """Three of them, as the planner has it from 200 clients on."""
    few = insecure_plan(3, 2)

    def plan(*numbers: Any, active: bool, agreed: int) -> GraphPlan:
        return (few if active else plan_graph)(*numbers, active=active, agreed=agreed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bonawitz_params, "plan_graph", plan)
        yield


STAGE_NAMES: tuple[Any, ...] = ("", "roster", "boxes", "survivors", "signatures")
Case = tuple[str, int]  # a mode, and the stage of its state


def led_to(case: Case) -> tuple[Any, bytes]:
    """The state of client ``ME`` at a stage, and the message that it waits for."""
    mode, stage = case
    inputs = dict.fromkeys(range(MODES[mode].clients), WORDS)
    made = played(AGREEMENTS[mode], inputs, STAGE_NAMES[min(stage, 3)])
    if stage == 1:
        return made.states[ME], made.rosters[ME]
    if stage == 2:
        return made.states[ME], made.boxes[ME]
    named = without_a_peer(made, 0)
    if stage == 3:
        return made.states[ME], named[ME]
    signed, states = replace(made, named_to=named).answers()
    signatures = {client: message[26:90] for client, message in signed.items()}
    return states[ME], Signatures(header=HEADER, signatures=signatures).to_bytes()


def without_a_peer(made: Played, which: int) -> dict[int, bytes]:
    """Survivors for each: everybody but one of our peers."""
    gone = sorted(made.states[ME].peers - {ME})[which]
    named = {}
    for client, message in made.named_to.items():
        members = made.states[client].members
        part = len(members) < len(made.inputs)
        marked = bool(made.server._round.plan.picks)
        survivors = Survivors.from_bytes(
            message, expect=HEADER, members=members, part=part, marked=marked
        )
        marks = survivors.marks and {n: m for n, m in survivors.marks.items() if n != gone}
        fewer = replace(survivors, alive=survivors.alive - {gone}, marks=marks)
        if gone not in members:
            fewer = replace(fewer, unseen=(survivors.unseen or 0) - 1)
        if client != gone:
            named[client] = fewer.to_bytes()
    return named


def answer(state: Any, message: bytes) -> tuple[list[bytes], Any]:
    reply, after = answered(state, message, WORDS)
    return reply if isinstance(reply, list) else [reply], after


def other_request(case: Case, message: bytes) -> bytes:
    """As valid a message as ``message``, and another."""
    mode, stage = case
    if stage == 1:
        roster = Roster.from_bytes(message, expect=HEADER, signed=MODES[mode].active)
        if roster.part_of:
            return replace(roster, part_of=(roster.size, bytes(32))).to_bytes()
        listed = range(1, len(roster.entries))
        return replace(roster, entries={c: roster.entries[c] for c in listed}).to_bytes()
    if stage == 2:
        size = 12 if mode == "picks" else 0
        passed_on = ShareBoxes.from_bytes(message, expect=HEADER, size=size)
        gone, shared = min(passed_on.boxes), passed_on.shared
        if size:
            shared = write_subset(read_subset(shared, range(12)) - {gone}, range(12))
        boxes = {sender: box for sender, box in passed_on.boxes.items() if sender != gone}
        return replace(passed_on, boxes=boxes, shared=shared).to_bytes()
    inputs = dict.fromkeys(range(MODES[mode].clients), WORDS)
    return without_a_peer(played(AGREEMENTS[mode], inputs, "survivors"), 1)[ME]


ALL = [(mode, stage) for mode in MODES for stage in (1, 2, 3, 4) if stage < 4 or "active" in mode]


def stages(cases: list[Case]) -> Any:
    names = [f"{mode}-{STAGE_NAMES[stage]}" for mode, stage in cases]
    return pytest.mark.parametrize("case", cases, ids=names)


STAGES = stages(ALL)
# What is signed stands in the record of stage 4: its request is settled before it arrives.
STAGES_WITH_A_CHOICE = stages([case for case in ALL if case[1] < 4])


@STAGES
def test_a_record_answers_as_the_state_would_have(case: Case) -> None:
    state, message = led_to(case)
    expected, _ = answer(state, message)
    record = led_to(case)[0].into_record()
    assert answer(restore(record, burn=BurnInMemory()), message)[0] == expected


@STAGES
def test_the_same_request_gets_the_same_bytes_again(case: Case) -> None:
    state, message = led_to(case)
    record, store = state.into_record(), BurnInMemory()
    first, after = answer(restore(record, burn=store), message)
    again, after_again = answer(restore(record, burn=store), message)
    assert first == again
    if after is not None:
        assert after.into_record() == after_again.into_record()


@STAGES_WITH_A_CHOICE
def test_any_other_request_for_an_answered_stage_is_refused(case: Case) -> None:
    state, message = led_to(case)
    record, store = state.into_record(), BurnInMemory()
    answer(restore(record, burn=store), message)
    with pytest.raises(RemoteProtocolError, match=f"stage {case[1]} of client 3 was answered"):
        answer(restore(record, burn=store), other_request(case, message))
    answer(restore(record, burn=BurnInMemory()), other_request(case, message))


@pytest.mark.parametrize("mode", MODES)
def test_no_randomness_serves_two_rosters(mode: str) -> None:
    state, message = led_to((mode, 1))
    record, nonces = state.into_record(), []
    for roster in (message, other_request((mode, 1), message)):
        (reply,), _ = answer(restore(record, burn=BurnInMemory()), roster)
        boxes = SealedShares.from_bytes(reply, expect=HEADER).boxes
        nonces += [box[:12] for box in boxes.values()]
    count = {"picks": 3 + 3, "sparse": 4 + 4}.get(mode, 4 + 3)
    assert len(nonces) == count
    assert len(set(nonces)) == len(nonces)


@STAGES
def test_a_request_that_is_refused_burns_nothing(case: Case) -> None:
    state, message = led_to(case)
    record, store = state.into_record(), BurnInMemory()
    with pytest.raises(RemoteProtocolError):
        answer(restore(record, burn=store), message[:-1])
    assert not store.taken
    answer(restore(record, burn=store), message)


@STAGES
def test_no_answer_leaves_when_the_burn_cannot_be_written(case: Case) -> None:
    state, message = led_to(case)

    def full(session: bytes, stage: int, request: bytes) -> bool:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        answer(restore(state.into_record(), burn=full), message)


@STAGES
def test_what_is_burnt_is_the_round_the_client_the_stage_and_a_hash(case: Case) -> None:
    state, message = led_to(case)
    store = BurnInMemory()
    answer(restore(state.into_record(), burn=store), message)
    stage = case[1]
    request = message
    if stage in (1, 2):  # what is agreed to, as keys and shares may be sent before it is known
        request += state.agreement.to_bytes()
    if stage == 2:
        request += hashlib.sha256(WORDS.tobytes()).digest()
    if stage == 4:  # the set that was signed, whichever signatures convinced us
        request = write_subset(state.alive, state.members)
    place = HEADER.to_bytes() + (ME).to_bytes(4, "big")
    places = [place]
    if stage == 1:  # and the mask key, whatever the session
        public = led_to(case)[0].public.mask
        places.append(hashlib.sha256(public).digest())
    assert store.taken == {(each, stage): hashlib.sha256(request).digest() for each in places}


@pytest.mark.parametrize("mode", MODES)
def test_a_state_restored_once_burns_every_later_stage_too(mode: str) -> None:
    state, _ = led_to((mode, 1))
    store, last = BurnInMemory(), 4 if MODES[mode].active else 3
    state = restore(state.into_record(), burn=store)
    for stage in range(1, last + 1):
        _, state = answer(state, led_to((mode, stage))[1])
    assert state is None
    assert [stage for _, stage in store.taken] == [1, *range(1, last + 1)]


@pytest.mark.parametrize("mode", ["complete-active", "picks"])
def test_whichever_signatures_convince_a_client_its_answer_is_the_same(mode: str) -> None:
    state, message = led_to((mode, 4))
    record, store = state.into_record(), BurnInMemory()
    signatures = Signatures.from_bytes(message, expect=HEADER).signatures
    near = sorted(signatures.keys() & state.peers - {ME})
    answers = [answer(restore(record, burn=store), message)]
    fewer = dict(signatures)
    if mode == "complete-active":
        del fewer[near[0]]
    fewer[11] = bytes(64)  # nobody's, and of no use
    other = Signatures(header=HEADER, signatures=fewer).to_bytes()
    assert other != message
    answers.append(answer(restore(record, burn=store), other))
    assert answers[0] == answers[1]


def test_another_input_to_the_same_boxes_is_refused() -> None:
    state, message = led_to(("complete", 2))
    record, store = state.into_record(), BurnInMemory()
    restored = restore(record, burn=store)
    assert isinstance(restored, AwaitBoxes)
    restored.on_boxes(message, WORDS)
    restored = restore(record, burn=store)
    assert isinstance(restored, AwaitBoxes)
    with pytest.raises(RemoteProtocolError, match="answered for another request"):
        restored.on_boxes(message, WORDS + np.uint64(1))


def test_an_input_in_parts_is_answered_once_only() -> None:
    state, message = led_to(("complete", 2))
    record, store = state.into_record(), BurnInMemory()

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
@settings(max_examples=15, derandomize=True, deadline=None)
def test_a_record_that_was_changed_or_cut_is_refused(case: Case, data: st.DataObject) -> None:
    record = led_to(case)[0].into_record().expose()
    changed = bytearray(record)
    bit = data.draw(st.integers(0, 8 * len(record) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    for broken in (bytes(changed), record[: bit // 8], record + bytes(changed[:5])):
        with pytest.raises(DecodeError):
            restore(Secret(broken), burn=BurnInMemory())


@STAGES
@given(st.data())
@settings(max_examples=25, derandomize=True, deadline=None)
def test_a_record_changed_on_purpose_is_decoded_or_refused(case: Case, data: st.DataObject) -> None:
    body = bytearray(without_checksum(led_to(case)[0].into_record().expose()))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(body)), st.integers(0, len(body))))
    forged = Secret(with_checksum(bytes(body[:end])))
    try:
        state = restore(forged, burn=BurnInMemory())
    except DecodeError:
        return
    assert state.into_record() == forged


@STAGES
def test_a_record_of_another_version_is_refused(case: Case) -> None:
    body = bytearray(without_checksum(led_to(case)[0].into_record().expose()))
    assert RECORD.endswith(b"4")
    body[len(RECORD) - 1] = ord("3")
    with pytest.raises(DecodeError, match="a client state of version '3', this is version '4'"):
        restore(Secret(with_checksum(bytes(body))), burn=BurnInMemory())


@pytest.mark.parametrize("number", [0, 5, 255])
def test_a_record_of_no_stage_is_refused(number: int) -> None:
    body = bytearray(without_checksum(led_to(("complete", 1))[0].into_record().expose()))
    body[len(RECORD)] = number
    with pytest.raises(DecodeError, match=f"no client state has stage {number}"):
        restore(Secret(with_checksum(bytes(body))), burn=BurnInMemory())


@STAGES
def test_a_record_is_a_secret(case: Case) -> None:
    record = led_to(case)[0].into_record()
    assert isinstance(record, Secret)
    assert repr(record) == f"<Secret: {len(record)} bytes>"


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "picks"])
def test_records_have_the_sizes_of_what_they_hold(mode: str) -> None:
    params = MODES[mode]
    known = {1: params.clients, 2: 4, 3: 4, 4: 4} if params.active else dict.fromkeys(range(5), 0)
    own = 0 if params.rates else 1  # in a sparse graph nobody holds a share of its own secrets
    rates = 2 * (4 + len("1/10")) if params.rates else 0
    head = len(RECORD) + 1 + 20 + (4 + 4 + 4 + 8 + 1 + 1 + 4 + 4 + rates) + 32 + 4
    identity = (4 + 32 if params.active else 4) + 4
    content = {
        1: 3 * 32,
        2: 4 + 32 + 32 + 32 + (4 + 64 * own) + 4 + 4 * (4 + 32 + 32) + 4 + 4,
        3: 4 + 32 + 2 * (4 + 5 * 4) + 4 + (4 + (4 + own) * (4 + 64)),
    }
    content[4] = content[3] + 4 + 4 * (params.clients - 1)
    for stage in (stage for each, stage in ALL if each == mode):
        size = head + identity + known[stage] * (4 + 32) + content[stage] + 16
        assert len(led_to((mode, stage))[0].into_record()) == size


@STAGES
def test_a_record_that_lists_a_client_twice_or_out_of_order_is_refused(case: Case) -> None:
    record = led_to(case)[0].into_record()
    body = bytes(without_checksum(record.expose()))
    lists = {1: [], 2: [4 + 64], 3: [4], 4: [4]}[case[1]]
    if case[1] > 2 and len(led_to(case)[0].shares.take()) > 1:
        lists.append(4 + 64)
    if MODES[case[0]].active:
        lists = [*lists, 4 + 32]
    refused = 0
    for size in lists:
        for begin in range(len(RECORD), len(body) - 2 * size + 1):
            one, two = body[begin : begin + size], body[begin + size : begin + 2 * size]
            ids = int.from_bytes(one[:4], "big"), int.from_bytes(two[:4], "big")
            if not ids[0] < ids[1] < 12:
                continue
            for swapped in (two + one, one + one):
                forged = body[:begin] + swapped + body[begin + 2 * size :]
                try:
                    state = restore(Secret(with_checksum(forged)), burn=BurnInMemory())
                except DecodeError as error:
                    refused += "twice, or out of order" in str(error)
                else:
                    assert state.into_record() == Secret(with_checksum(forged))
    assert refused >= 2 * len(lists)


def test_a_client_that_joins_anew_cannot_answer_a_burnt_stage_either() -> None:
    state, message = led_to(("complete", 1))
    store = BurnInMemory()
    answer(restore(state.into_record(), burn=store), message)
    advertise, fresh = join(AGREEMENT, ME, insecure_entropy("fresh"))
    entries = dict(Roster.from_bytes(message, expect=HEADER).entries)
    entries[ME] = fresh.public
    roster = Roster(header=HEADER, agreement=AGREEMENT.tag, entries=entries).to_bytes()
    with pytest.raises(RemoteProtocolError, match="answered for another request"):
        answer(restore(fresh.into_record(), burn=store), roster)
    assert advertise


def test_burns_of_two_rounds_and_two_clients_do_not_meet() -> None:
    store = BurnInMemory()
    for client in (1, 2):
        for number in (1, 2):
            agreement = replace(AGREEMENT, round=number)
            inputs = dict.fromkeys(CLIENTS, WORDS)
            made = played(
                agreement, inputs, "roster", entropy=lambda n, of=number: insecure_entropy((n, of))
            )
            record = made.states[client].into_record()
            answer(restore(record, burn=store), made.rosters[client])
    assert len(store.taken) == 2 * 4


def test_one_mask_key_answers_one_roster_whatever_the_session() -> None:
    """With the second session's check gone, one record would open both sums."""
    elsewhere = replace(AGREEMENT, session=b"another session!")
    inputs = dict.fromkeys(CLIENTS, WORDS)
    store = BurnInMemory()
    here, there = played(AGREEMENT, inputs, "roster"), played(elsewhere, inputs, "roster")
    assert here.states[ME].public == there.states[ME].public  # the same entropy
    answer(restore(here.states[ME].into_record(), burn=store), here.rosters[ME])
    record = there.states[ME].into_record()
    with pytest.raises(RemoteProtocolError, match="stage 1 of client 3 was answered"):
        answer(restore(record, burn=store), there.rosters[ME])
    only_rounds = BurnInMemory()  # the rule removed: the place of the mask key is not kept

    def burn(session: bytes, stage: int, request: bytes) -> bool:
        return len(session) == 32 or only_rounds(session, stage, request)

    here = played(AGREEMENT, inputs, "roster")
    answer(restore(here.states[ME].into_record(), burn=burn), here.rosters[ME])
    answer(restore(record, burn=burn), there.rosters[ME])


def test_keys_of_one_session_are_not_bound_to_another() -> None:
    state = played(AGREEMENT, dict.fromkeys(CLIENTS, WORDS), "roster").states[ME]
    for change in ({"session": b"another session!"}, {"round": 3}):
        with pytest.raises(LocalProtocolError, match="of another session or round"):
            state.rebind(replace(AGREEMENT, **change))
    signed = replace(AGREEMENT, params=replace(PARAMS, active=True, max_corrupt=0))
    with pytest.raises(LocalProtocolError, match="signed keys are of one agreement"):
        state.rebind(signed)
    assert state.rebind(replace(AGREEMENT, public_digest=b"x" * 32)).public == state.public


@pytest.mark.parametrize("size", [1, 31, 33])
def test_a_signing_key_of_another_size_is_refused(size: int) -> None:
    record = led_to(("complete", 1))[0].into_record()
    body = bytes(without_checksum(record.expose()))
    empty = body[: -3 * 32].rindex(bytes(8))  # no identity, and nobody's identities
    forged = body[:empty] + opaque(bytes(size)) + body[empty + 4 :]
    with pytest.raises(DecodeError, match=f"a signing key of {size} bytes"):
        restore(Secret(with_checksum(forged)), burn=BurnInMemory())


def test_a_sealing_key_of_another_size_is_refused() -> None:
    state, _ = led_to(("picks", 2))
    body = bytes(without_checksum(state.into_record().expose()))
    key = led_to(("picks", 2))[0].secrets.take().seal_key
    assert key is not None
    kept = opaque(key.secret.expose())
    assert body.count(kept) == 1
    for forged in (opaque(bytes(31)), opaque(bytes(33)), opaque(bytes(1))):
        record = Secret(with_checksum(body.replace(kept, forged)))
        with pytest.raises(DecodeError, match="a sealing key of"):
            restore(record, burn=BurnInMemory())
