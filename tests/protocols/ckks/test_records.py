"""Holders whose states move through records: one answer a stage, and the same sum."""

import hashlib
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.burn import Burn
from protocols.ckks import messages
from protocols.ckks.client import (
    AwaitOpenings,
    AwaitRoster,
    Holder,
    State,
    encrypt,
    generate,
    restore,
)
from protocols.ckks.keys import SharedKey
from protocols.ckks.messages import Entry, Opening, Openings, Roster, ShareBoxes
from protocols.ckks.params import Agreement, Engine
from protocols.ckks.records import RECORD
from protocols.ckks.server import CollectUploads
from protocols.errors import (
    DecodeError,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
)
from protocols.primitives.agree import PrivateKey
from protocols.secrets import Secret
from protocols.testing import (
    BurnInMemory,
    PlayedKey,
    insecure_entropy,
    played_key,
    reals_of,
    small_ckks,
    small_threshold,
)
from protocols.wire import with_checksum, without_checksum

HOLDERS, ME = (2, 3, 5, 7), 3
CLIENTS = (1, 4)
ENTRIES = 100


def agreed(engine: Engine) -> Agreement:
    params = small_threshold(engine, entries=ENTRIES, decryptions=2)
    return Agreement(params=params, session=bytes(range(16)), round=1, public_digest=bytes(32))


def vector(client: int) -> NDArray[np.float64]:
    return np.random.default_rng(client).uniform(-1, 1, ENTRIES)


class Session:
    """A key and a sum; what every holder waited in, and for."""

    def __init__(self, engine: Engine, *, through_records: bool) -> None:
        self.agreement = agreed(engine)
        self.header, self.params = self.agreement.key_header, self.agreement.params
        self.burns = {holder: BurnInMemory() for holder in HOLDERS}
        self.records: dict[tuple[int, int], Secret] = {}  # of a stage and a holder
        self.requests: dict[int, Any] = {}  # by stage
        self.answers: dict[int, Any] = {}
        self._through_records = through_records
        self._play()

    def moved(self, stage: int, made: PlayedKey) -> PlayedKey:
        if not self._through_records:
            return made
        states = {}
        for holder, state in made.states.items():
            self.records[stage, holder] = record = state.into_record()
            states[holder] = restore(record, burn=self.burns[holder])
        return replace(made, states=states)

    def _play(self) -> None:
        made = self.moved(4, played_key(self.agreement, HOLDERS, "roster"))
        made = self.moved(5, made.until("openings"))
        self.opened, key = made.opened, made.key
        made = self.moved(2, made.until("requests", burns=self.burns))
        self.requests |= {4: made.roster, 5: (made.shown, made.boxes[ME])}
        uploads = CollectUploads(self.agreement, key, CLIENTS)
        for client in CLIENTS:
            uploads.receive(encrypt(self.agreement, client, key, vector(client)))
        self.requests[2], partials = uploads.close_threshold((2, 3, 7))
        for holder in (2, 3, 7):
            parts, _ = made.states[holder].on_request(self.agreement, self.requests[2])
            partials.receive(parts)
        self.sum = partials.close()


@pytest.fixture(scope="module")
def made(engine: Engine) -> Session:
    return Session(engine, through_records=True)


def shared(made: Session) -> Agreement:
    params = small_ckks(made.params.engine, entries=ENTRIES, decryptions=2)
    return replace(made.agreement, params=params)


STAGES = pytest.mark.parametrize("stage", [4, 5, 2], ids=["roster", "openings", "request"])
MAKING = pytest.mark.parametrize("stage", [4, 5], ids=["roster", "openings"])


def restored(made: Session, stage: int, burn: Burn) -> State:
    return restore(made.records[stage, ME], burn=burn)


def answer(state: State, request: Any) -> tuple[Any, Any]:
    """What leaves, and the state after it."""
    match state:
        case AwaitRoster():
            return state.on_roster(request)
        case AwaitOpenings():
            after, key = state.on_openings(*request)
            return key.digest, after
        case Holder():
            return list(state.on_request(state.agreement, request)[0]), None


def other_request(made: Session, stage: int) -> Any:
    """As valid a request as the one that was answered, and another."""
    if stage == 4:
        roster = Roster.from_bytes(made.requests[4], expect=made.header)
        another = Entry(seal_key=PrivateKey(Secret(bytes(32))).public, commitment=bytes(32))
        return replace(roster, entries=dict(roster.entries) | {7: another}).to_bytes()
    shown, boxes = made.requests[5]
    found = ShareBoxes.from_bytes(boxes, expect=made.header)
    state = restored(made, 4, BurnInMemory())
    dealt = restore(made.records[4, 7], burn=BurnInMemory())
    assert isinstance(state, AwaitRoster)
    assert isinstance(dealt, AwaitRoster)
    return shown, replace(found, boxes=dict(found.boxes) | {7: other_box(made, dealt)}).to_bytes()


def other_box(made: Session, dealt: AwaitRoster) -> bytes:
    """Another box of holder 7's for us: it deals anew, under other coefficients."""
    making = dealt.secrets.take()
    again = AwaitRoster(
        agreement=made.agreement,
        me=7,
        entry=dealt.entry,
        secrets=type(dealt.secrets)(replace(making, own=Secret(bytes(32)))),
    )
    message, _ = again.on_roster(made.requests[4])
    return Opening.from_bytes(message, expect=made.header, params=made.params).boxes[ME]


# --- the same sum, and the same answers ---


def test_a_key_made_through_records_at_every_step_opens_the_same_sum(made: Session) -> None:
    plain = Session(made.params.engine, through_records=False)
    expected = vector(1) + vector(4)
    tolerance = 8 * 2 * made.params.mean_stddev(2)
    for session in (made, plain):
        assert session.sum.survivors == CLIENTS
        found = reals_of(made.params, session.sum.values)
        assert np.abs(found - expected).max() < tolerance
    assert tolerance < 0.1


@STAGES
def test_the_same_request_gets_the_same_bytes_again(made: Session, stage: int) -> None:
    store, request = BurnInMemory(), made.requests[stage]
    first, after = answer(restored(made, stage, store), request)
    again, after_again = answer(restored(made, stage, store), request)
    assert first == again
    if stage == 4:
        assert first == made.opened[ME]
    if after is not None:
        assert after.into_record() == after_again.into_record()


@MAKING
def test_any_other_request_for_an_answered_stage_is_refused(made: Session, stage: int) -> None:
    store = BurnInMemory()
    answer(restored(made, stage, store), made.requests[stage])
    with pytest.raises(RemoteProtocolError, match=r"holder 3 (answered another|took other)"):
        answer(restored(made, stage, store), other_request(made, stage))
    answer(restored(made, stage, BurnInMemory()), other_request(made, stage))


def test_no_randomness_serves_two_rosters(made: Session) -> None:
    boxes: list[bytes] = []
    for roster in (made.requests[4], other_request(made, 4)):
        message, _ = answer(restored(made, 4, BurnInMemory()), roster)
        boxes += Opening.from_bytes(message, expect=made.header, params=made.params).boxes.values()
    assert len({box[:12] for box in boxes}) == 6


def test_a_holder_that_begins_anew_cannot_answer_a_burnt_stage_either(made: Session) -> None:
    store = BurnInMemory()
    answer(restored(made, 4, store), made.requests[4])
    _, fresh = generate(replace(made.agreement, round=0), ME, insecure_entropy("fresh"))
    roster = Roster.from_bytes(made.requests[4], expect=made.header)
    shown = replace(roster, entries=dict(roster.entries) | {ME: fresh.entry}).to_bytes()
    with pytest.raises(RemoteProtocolError, match="answered another roster"):
        answer(restore(fresh.into_record(), burn=store), shown)


@STAGES
def test_a_request_that_is_refused_burns_nothing(made: Session, stage: int) -> None:
    store, request = BurnInMemory(), made.requests[stage]
    wrong = (request[0], request[1][:-1]) if stage == 5 else request[:-1]
    with pytest.raises(RemoteProtocolError):
        answer(restored(made, stage, store), wrong)
    assert not store.taken
    answer(restored(made, stage, store), request)


@STAGES
def test_no_answer_leaves_when_the_burn_cannot_be_written(made: Session, stage: int) -> None:
    def full(session: bytes, stage: int, request: bytes) -> bool:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        answer(restored(made, stage, full), made.requests[stage])


def test_what_is_burnt_is_the_session_the_holder_the_stage_and_a_hash(made: Session) -> None:
    session, number = made.agreement.session, ME.to_bytes(4, "big")
    shown, boxes = made.requests[5]
    alive = b"".join(n.to_bytes(4, "big") for n in (3, 2, 3, 7))  # three of them
    assert made.burns[ME].taken == {
        (session + bytes(4) + number, 4): hashlib.sha256(made.requests[4]).digest(),
        (session + bytes(4) + number, 5): hashlib.sha256(shown + boxes).digest(),
        (session + bytes(4) + number, 1): hashlib.sha256(alive).digest(),
        (session + bytes(3) + b"\1" + number, 2): hashlib.sha256(made.requests[2]).digest(),
    }


def test_no_two_stages_have_one_number() -> None:
    numbers = [value for name, value in vars(messages).items() if name.endswith("_STAGE")]
    assert len(numbers) == 7
    assert len(set(numbers)) == 7


@STAGES
def test_no_secret_shows_in_a_state(made: Session, stage: int) -> None:
    text = repr(restored(made, stage, BurnInMemory()))
    entropy = insecure_entropy(ME)
    for secret in [entropy(32) for _ in range(4)]:
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text


@MAKING
def test_a_state_that_moved_is_used_up(made: Session, stage: int) -> None:
    state = restored(made, stage, BurnInMemory())
    state.into_record()
    for step in (state.into_record, lambda: answer(state, made.requests[stage])):
        with pytest.raises(LocalProtocolError, match="already answered"):
            step()


def test_a_restored_state_keeps_the_store_that_it_was_restored_with(made: Session) -> None:
    own, other = BurnInMemory(), BurnInMemory()
    state = restored(made, 5, own)
    assert isinstance(state, AwaitOpenings)
    holder, _ = state.on_openings(*made.requests[5], burn=other)
    assert holder.burn is own
    assert len(own.taken) == 1
    assert not other.taken


def test_no_holder_is_made_without_a_burn_store(made: Session) -> None:
    _, state = generate(made.agreement, ME, insecure_entropy(ME))
    roster = Roster.from_bytes(made.requests[4], expect=made.header)
    shown = replace(roster, entries=dict(roster.entries) | {ME: state.entry}).to_bytes()
    _, waiting = state.on_roster(shown)
    with pytest.raises(LocalProtocolError, match="burn is missing"):
        waiting.on_openings(*made.requests[5])


# --- any bytes ---


@STAGES
def test_a_record_comes_out_as_it_went_in(made: Session, stage: int) -> None:
    record = made.records[stage, ME]
    assert isinstance(record, Secret)
    assert repr(record) == f"<Secret: {len(record)} bytes>"
    assert restored(made, stage, BurnInMemory()).into_record() == record


def test_records_have_the_sizes_of_what_they_hold(made: Session) -> None:
    head = len(RECORD) + 1 + len(made.agreement.to_bytes()) + 4 + 16
    content = {
        4: 4 * 32 + made.params.share_size,
        5: 4 + 4 * (4 + 64) + 2 * 32 + 3 * 32,
        2: 3 * 32 + 4 + 3 * (4 + 32),
    }
    for stage, size in content.items():
        assert len(made.records[stage, ME]) == head + size


@STAGES
@given(st.data())
@settings(max_examples=12, derandomize=True, deadline=None)
def test_a_record_that_was_changed_or_cut_is_refused(
    made: Session, stage: int, data: st.DataObject
) -> None:
    record = made.records[stage, ME].expose()
    changed = bytearray(record)
    bit = data.draw(st.integers(0, 8 * len(record) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    for broken in (bytes(changed), record[: bit // 8], record + bytes(changed[:5])):
        with pytest.raises(DecodeError):
            restore(Secret(broken), burn=BurnInMemory())


@STAGES
@given(st.data())
@settings(max_examples=25, derandomize=True, deadline=None)
def test_a_record_changed_on_purpose_is_decoded_or_refused(
    made: Session, stage: int, data: st.DataObject
) -> None:
    body = bytearray(without_checksum(made.records[stage, ME].expose()))
    place = data.draw(st.integers(0, min(len(body), 600) - 1))
    body[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(body)), st.integers(0, len(body))))
    forged = Secret(with_checksum(bytes(body[:end])))
    try:
        state = restore(forged, burn=BurnInMemory())
    except DecodeError:
        return
    assert state.into_record() == forged
    with suppress(ProtocolError):  # and nothing else
        answer(restore(forged, burn=BurnInMemory()), made.requests[stage])


def body_of(made: Session, stage: int) -> bytes:
    return bytes(without_checksum(made.records[stage, ME].expose()))


@STAGES
def test_a_record_of_another_version_is_refused(made: Session, stage: int) -> None:
    other = b"secagg ckks state 1" + body_of(made, stage)[len(RECORD) :]
    with pytest.raises(DecodeError, match="a holder's state of version"):
        restore(Secret(with_checksum(other)), burn=BurnInMemory())


@pytest.mark.parametrize("number", [0, 1, 3, 6, 255])
def test_a_record_of_no_stage_is_refused(made: Session, number: int) -> None:
    body = bytearray(body_of(made, 4))
    body[len(RECORD)] = number
    with pytest.raises(DecodeError, match=f"no holder's state has stage {number}"):
        restore(Secret(with_checksum(bytes(body))), burn=BurnInMemory())


def test_a_record_of_a_holder_under_a_shared_key_is_refused(made: Session) -> None:
    other = shared(made).to_bytes()
    body = body_of(made, 4).replace(made.agreement.to_bytes(), other)
    with pytest.raises(DecodeError, match="a shared key has no holders"):
        restore(Secret(with_checksum(body)), burn=BurnInMemory())


def test_a_record_whose_roster_lacks_its_holder_is_refused(made: Session) -> None:
    number = len(RECORD) + 1 + len(made.agreement.to_bytes())
    body = body_of(made, 5)[:number] + (4).to_bytes(4, "big") + body_of(made, 5)[number + 4 :]
    with pytest.raises(DecodeError, match="a roster without holder 4"):
        restore(Secret(with_checksum(body)), burn=BurnInMemory())


def test_openings_of_another_key_end_no_record(made: Session) -> None:
    """What is refused is not burnt: the right openings are still taken."""
    store = BurnInMemory()
    shown, boxes = made.requests[5]
    found = Openings.from_bytes(shown, expect=made.header, params=made.params)
    wrong = dict(found.entries) | {7: replace(found.entries[7], blind=bytes(32))}
    with pytest.raises(RemoteProtocolError, match="holder 7 opens another key"):
        answer(restored(made, 5, store), (replace(found, entries=wrong).to_bytes(), boxes))
    answer(restored(made, 5, store), (shown, boxes))


# --- uploads ---


def test_a_round_encrypts_one_vector_and_the_same_again(made: Session) -> None:
    agreement, store = shared(made), BurnInMemory()
    key = SharedKey(agreement, Secret(bytes(32)))
    one, same = (list(encrypt(agreement, 1, key, vector(1), burn=store)) for _ in range(2))
    assert one != same  # under fresh randomness
    with pytest.raises(LocalProtocolError, match=r"another vector, .* in round 1"):
        encrypt(agreement, 1, key, vector(4), burn=store)
    other = SharedKey(agreement, Secret(bytes([1]) * 32))
    with pytest.raises(LocalProtocolError, match=r"under another key, .* in round 1"):
        encrypt(agreement, 1, other, vector(1), burn=store)
    encrypt(replace(agreement, round=0), 1, key, vector(4), burn=store)
    encrypt(agreement, 4, key, vector(4), burn=store)


def test_a_vector_that_is_refused_burns_nothing(made: Session) -> None:
    agreement, store = shared(made), BurnInMemory()
    key = SharedKey(agreement, Secret(bytes(32)))
    with pytest.raises(LocalProtocolError, match="above the clip"):
        encrypt(agreement, 1, key, 2 * np.ones(ENTRIES), burn=store)
    assert not store.taken
