"""What a client refuses, each refusal by name, and that no answer leaves it then."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols.bonawitz import (
    Agreement,
    AwaitBoxes,
    AwaitRoster,
    AwaitSurvivors,
    Params,
    join,
)
from protocols.bonawitz.messages import (
    FRAME_WORDS,
    Advertise,
    PublicKeys,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Survivors,
)
from protocols.errors import (
    DecodeError,
    InputError,
    LocalProtocolError,
    RemoteProtocolError,
)
from protocols.testing import insecure_entropy, played
from protocols.wire import Header

PARAMS = Params(clients=6, threshold=3, minimum_survivors=4, words=4)
AGREEMENT = Agreement(params=PARAMS, session=bytes(range(16)), round=2, public_digest=bytes(32))
HEADER = AGREEMENT.header
CLIENTS = range(5)
ME = 2
WORDS = np.arange(4, dtype=np.uint64)
LOW_ORDER = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")


def joined(
    agreement: Agreement = AGREEMENT, clients: range = CLIENTS
) -> tuple[dict[int, PublicKeys], AwaitRoster]:
    """The honest roster, and the state of client ``ME`` that waits for it."""
    entries, states = {}, {}
    for client in clients:
        message, states[client] = join(agreement, client, insecure_entropy(client))
        entries[client] = Advertise.from_bytes(message, expect=agreement.header).keys
    return entries, states[ME]


def roster(
    entries: dict[int, PublicKeys], header: Header = HEADER, agreement: Agreement = AGREEMENT
) -> bytes:
    return Roster(header=header, agreement=agreement.tag, entries=entries).to_bytes()


def shared(
    agreement: Agreement = AGREEMENT, clients: range = CLIENTS
) -> tuple[dict[int, bytes], AwaitBoxes]:
    """The honest boxes for client ``ME``, and its state that waits for them."""
    made = played(agreement, dict.fromkeys(clients, WORDS), "boxes")
    content = ShareBoxes.from_bytes(made.boxes[ME], expect=agreement.header).boxes
    return dict(content), made.states[ME]


def boxes(content: dict[int, bytes], header: Header = HEADER, recipient: int = ME) -> bytes:
    return ShareBoxes(header=header, recipient=recipient, boxes=content).to_bytes()


def masked() -> AwaitSurvivors:
    """The state of client ``ME`` that waits for the survivors."""
    content, state = shared()
    frames, waiting = state.on_boxes(boxes(content), WORDS)
    assert len(list(frames)) == 1
    return waiting


def survivors(*alive: int, header: Header = HEADER) -> bytes:
    return Survivors(header=header, alive=frozenset(alive), members=CLIENTS).to_bytes()


OTHER_PLACES = pytest.mark.parametrize(
    "header",
    [Header(bytes(16), 2), Header(bytes(range(16)), 1), Header(bytes(range(16)), 3)],
    ids=["session", "earlier-round", "later-round"],
)


def test_a_client_number_that_has_no_encoding_is_refused() -> None:
    for number in (-1, 2**32):
        with pytest.raises(InputError, match="client"):
            join(AGREEMENT, number)


# The roster


def refuses_roster(entries: dict[int, PublicKeys], state: AwaitRoster, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        state.on_roster(roster(entries, agreement=state.agreement))


def test_a_server_that_agrees_to_something_else_is_named_so_before_anything_is_shared() -> None:
    entries, state = joined()
    other = replace(AGREEMENT, public_digest=b"\1" * 32)
    why = f"the server agrees to something else: .* {other.tag.hex()}, of ours with"
    with pytest.raises(RemoteProtocolError, match=why):
        state.on_roster(roster(entries, agreement=other))
    assert state.on_roster(roster(entries))


def test_the_honest_roster_is_answered_with_a_box_for_each_peer() -> None:
    entries, state = joined()
    answer, _ = state.on_roster(roster(entries))
    message = SealedShares.from_bytes(answer, expect=HEADER)
    assert message.sender == ME
    assert message.boxes.keys() == set(CLIENTS) - {ME}


def test_a_roster_without_us_is_refused() -> None:
    entries, state = joined()
    del entries[ME]
    refuses_roster(entries, state, "lacks our keys")


@pytest.mark.parametrize("changed", ["mask", "seal"])
def test_a_roster_with_another_key_in_place_of_ours_is_refused(changed: str) -> None:
    entries, state = joined()
    other = Advertise.from_bytes(join(AGREEMENT, ME)[0], expect=HEADER).keys
    entries[ME] = replace(entries[ME], **{changed: getattr(other, changed)})
    refuses_roster(entries, state, "others in their place")


def test_a_roster_with_our_two_keys_exchanged_is_refused() -> None:
    entries, state = joined()
    entries[ME] = PublicKeys(mask=entries[ME].seal, seal=entries[ME].mask)
    refuses_roster(entries, state, "others in their place")


def test_a_roster_that_lists_a_peer_twice_is_refused() -> None:
    entries, state = joined()
    data = roster(entries)
    count = 22 + 8 + 4 + 32  # head, agreement, size and digest of all come before it
    twice = data[:count] + (6).to_bytes(4, "big") + data[count + 4 :] + data[-68:]
    with pytest.raises(DecodeError, match="twice"):
        state.on_roster(twice)


@pytest.mark.parametrize("mine", ["mask", "seal"])
@pytest.mark.parametrize("theirs", ["mask", "seal"])
@pytest.mark.parametrize("owner", [ME, 1])
def test_a_roster_in_which_one_key_stands_twice_is_refused(
    mine: str, theirs: str, owner: int
) -> None:
    entries, state = joined()
    entries[4] = replace(entries[4], **{theirs: getattr(entries[owner], mine)})
    refuses_roster(entries, state, "stands twice")


def test_a_peer_with_one_key_for_both_uses_is_refused() -> None:
    entries, state = joined()
    entries[4] = PublicKeys(mask=entries[4].mask, seal=entries[4].mask)
    refuses_roster(entries, state, "stands twice")


@pytest.mark.parametrize("which", ["mask", "seal"])
def test_a_roster_with_a_key_of_low_order_is_refused(which: str) -> None:
    entries, state = joined()
    entries[4] = replace(entries[4], **{which: LOW_ORDER})
    refuses_roster(entries, state, "low order")


def test_a_roster_of_which_the_threshold_is_no_majority_is_refused() -> None:
    entries, state = joined(clients=range(6))  # 2 * 3 <= 6: two disjoint sets could reach it
    refuses_roster(entries, state, "threshold 3 is no majority of 6")


def test_the_majority_is_of_the_clients_listed_not_of_those_planned() -> None:
    assert 2 * PARAMS.threshold <= PARAMS.clients
    entries, state = joined()
    state.on_roster(roster(entries))


def test_a_roster_of_more_clients_than_the_lanes_hold_is_refused() -> None:
    agreement = replace(AGREEMENT, params=replace(PARAMS, clients=4))
    entries, state = joined(agreement)
    refuses_roster(entries, state, "5 clients in the roster, at most 4")


def test_a_roster_of_fewer_clients_than_the_minimum_is_refused() -> None:
    entries, state = joined(clients=range(3))
    refuses_roster(entries, state, "3 clients in the roster, 4 needed")


def test_a_roster_of_fewer_clients_than_the_threshold_is_refused() -> None:
    agreement = replace(AGREEMENT, params=replace(PARAMS, threshold=5, minimum_survivors=2))
    entries, state = joined(agreement, range(4))
    refuses_roster(entries, state, "4 clients in the roster, 5 needed")


@OTHER_PLACES
def test_a_roster_of_another_session_or_round_is_refused(header: Header) -> None:
    entries, state = joined()
    with pytest.raises(DecodeError, match="another session or round"):
        state.on_roster(roster(entries, header))


# The boxes


def refuses_boxes(content: dict[int, bytes], state: AwaitBoxes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        state.on_boxes(boxes(content), WORDS)


def test_a_box_of_a_stranger_is_refused() -> None:
    content, state = shared()
    content[5] = content[4]
    refuses_boxes(content, state, r"not in the roster: \[5\]")


def test_a_box_of_our_own_is_refused() -> None:
    content, state = shared()
    content[ME] = content[4]
    refuses_boxes(content, state, r"not in the roster: \[2\]")


def test_too_few_boxes_are_refused() -> None:
    content, state = shared()
    refuses_boxes({0: content[0], 1: content[1]}, state, "3 clients have shared, 4 needed")


def test_as_few_boxes_as_are_needed_are_enough() -> None:
    content, state = shared()
    frames, waiting = state.on_boxes(boxes({n: content[n] for n in (0, 1, 4)}), WORDS)
    assert len(list(frames)) == 1
    assert waiting.peers == {0, 1, ME, 4}


def goes_on_without(content: dict[int, bytes], state: Any, *shut: int) -> None:
    """It masks with who sealed those boxes too, and holds no share of them."""
    frames, waiting = state.on_boxes(boxes(content), WORDS)
    assert len(list(frames)) == 1
    assert waiting.peers == {*content, ME}
    assert waiting.shares.take().keys() == {*content, ME} - {*shut}


@pytest.mark.parametrize("place", [0, 12, 60, 91], ids=["nonce", "first", "second", "tag"])
def test_a_box_that_was_changed_gives_no_share_and_ends_nothing(place: int) -> None:
    content, state = shared()
    changed = bytearray(content[3])
    changed[place] ^= 1
    goes_on_without({**content, 3: bytes(changed)}, state, 3)


def test_more_boxes_that_do_not_open_than_may_be_missing_are_refused() -> None:
    content, state = shared()
    rubbish = dict.fromkeys(list(content)[:2], bytes(92))
    refuses_boxes({**content, **rubbish}, state, "a box does not open, and too few do: 2, 3 needed")


def test_a_box_for_another_recipient_gives_no_share() -> None:
    made = played(AGREEMENT, dict.fromkeys(CLIENTS, WORDS), "boxes")
    sealed, state = made.sealed, made.states[ME]
    moved = {sender: sealed[sender][ME] for sender in CLIENTS if sender != ME}
    moved[0] = sealed[0][1]
    goes_on_without(moved, state, 0)


def test_boxes_addressed_to_another_client_are_refused() -> None:
    content, state = shared()
    with pytest.raises(RemoteProtocolError, match="boxes for client 3, we are 2"):
        state.on_boxes(boxes(content, recipient=3), WORDS)


@pytest.mark.parametrize(
    "change", [{"round": 1}, {"session": bytes(16)}, {"public_digest": b"x" * 32}]
)
def test_boxes_of_the_same_clients_in_another_round_do_not_open(change: dict[str, Any]) -> None:
    content, _ = shared(replace(AGREEMENT, **change))  # the same keys: entropy counts alike
    _, state = shared()
    refuses_boxes(content, state, "does not open")


@OTHER_PLACES
def test_boxes_of_another_session_or_round_are_refused(header: Header) -> None:
    content, state = shared()
    with pytest.raises(DecodeError, match="another session or round"):
        state.on_boxes(boxes(content, header), WORDS)


# The input


WRONG_WORDS = pytest.mark.parametrize(
    "words",
    [
        np.zeros(3, np.uint64),
        np.zeros(5, np.uint64),
        np.zeros(0, np.uint64),
        np.zeros(4, np.int64),
        np.zeros(4, np.float64),
        np.zeros(4, ">u8"),
        np.zeros((2, 2), np.uint64),
        np.zeros(8, np.uint64)[::2],
        np.zeros(4, object),
    ],
    ids=["short", "long", "none", "int64", "float", "big-endian", "matrix", "strided", "object"],
)


@WRONG_WORDS
def test_an_array_that_is_not_the_words_agreed_is_refused_and_costs_nothing(words: Any) -> None:
    content, state = shared()
    with pytest.raises(LocalProtocolError):
        state.on_boxes(boxes(content), words)
    frames, _ = state.on_boxes(boxes(content), WORDS)
    assert len(list(frames)) == 1


@WRONG_WORDS
def test_parts_that_are_not_the_words_agreed_are_refused_before_the_last_frame(words: Any) -> None:
    content, state = shared()
    frames, _ = state.on_boxes(boxes(content), iter([words]))
    with pytest.raises(LocalProtocolError):
        list(frames)


@pytest.mark.parametrize("missing", [-1, 1], ids=["one-more", "one-less"])
def test_parts_of_a_wrong_length_never_make_a_whole_vector(missing: int) -> None:
    count = FRAME_WORDS + 7
    agreement = replace(AGREEMENT, params=replace(PARAMS, words=count))
    content, state = shared(agreement)
    sent: list[bytes] = []
    frames, _ = state.on_boxes(boxes(content), iter([np.zeros(count - missing, np.uint64)]))
    with pytest.raises(LocalProtocolError):
        sent.extend(frames)
    assert len(sent) < 2


# The survivors


def refuses_survivors(state: AwaitSurvivors, message: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        state.on_survivors(message)


def test_for_the_alive_it_reveals_one_half_and_for_the_gone_the_other() -> None:
    alive = Reveal.from_bytes(masked().on_survivors(survivors(0, 1, 2, 3, 4)), expect=HEADER)
    fewer = Reveal.from_bytes(masked().on_survivors(survivors(0, 1, 2, 3)), expect=HEADER)
    assert alive.shares.keys() == fewer.shares.keys() == set(CLIENTS)
    assert all(alive.shares[peer] == fewer.shares[peer] for peer in range(4))
    assert alive.shares[4] != fewer.shares[4]


def test_a_set_that_the_application_does_not_accept_is_not_opened_and_another_may_be() -> None:
    told, state = list[object](), masked()

    def accept(alive: object) -> None:
        told.append(alive)
        if len(told) == 1:
            raise InputError("not these")

    with pytest.raises(InputError, match="not these"):
        state.on_survivors(survivors(0, 1, 2, 3, 4), accept=accept)
    reveal = Reveal.from_bytes(
        state.on_survivors(survivors(0, 1, 2, 3), accept=accept), expect=HEADER
    )
    assert told == [frozenset(range(5)), frozenset(range(4))]
    assert reveal.header == HEADER


def test_a_survivor_who_never_shared_is_refused() -> None:
    content, state = shared()
    del content[4]
    _, waiting = state.on_boxes(boxes(content), WORDS)
    refuses_survivors(waiting, survivors(0, 1, 2, 3, 4), r"never shared: \[4\]")


def test_survivors_without_us_are_refused() -> None:
    refuses_survivors(masked(), survivors(0, 1, 3, 4), "we are named as gone")


def test_survivors_fewer_than_the_minimum_are_refused() -> None:
    assert PARAMS.minimum_survivors > PARAMS.threshold
    refuses_survivors(masked(), survivors(0, 1, 2), "3 alive, at least 4 needed")


def test_survivors_fewer_than_the_threshold_are_refused() -> None:
    agreement = replace(AGREEMENT, params=replace(PARAMS, threshold=4, minimum_survivors=2))
    content, state = shared(agreement)
    _, waiting = state.on_boxes(boxes(content), WORDS)
    refuses_survivors(waiting, survivors(0, 1, 2), "3 alive, at least 4 needed")


@OTHER_PLACES
def test_survivors_of_another_session_or_round_are_refused(header: Header) -> None:
    refuses_survivors(masked(), survivors(*CLIENTS, header=header), "another session or round")


def test_a_refused_set_of_survivors_does_not_use_up_the_answer() -> None:
    state = masked()
    refuses_survivors(state, survivors(0, 1, 3, 4), "named as gone")
    state.on_survivors(survivors(*CLIENTS))


# Every stage


def at(stage: int) -> tuple[Any, bytes, Callable[[Any, bytes], object]]:
    """A state, the honest message for it, and the step between."""
    if stage == 1:
        entries, waiting = joined()
        return waiting, roster(entries), lambda state, message: state.on_roster(message)
    if stage == 2:
        content, state = shared()
        return state, boxes(content), lambda state, message: state.on_boxes(message, WORDS)
    return masked(), survivors(*CLIENTS), lambda state, message: state.on_survivors(message)


STAGES = pytest.mark.parametrize("stage", [1, 2, 3], ids=["roster", "boxes", "survivors"])


@STAGES
def test_a_stage_is_answered_once(stage: int) -> None:
    state, message, step = at(stage)
    step(state, message)
    with pytest.raises(LocalProtocolError, match="already answered"):
        step(state, message)


@STAGES
def test_a_state_that_moved_into_a_record_answers_no_more(stage: int) -> None:
    state, message, step = at(stage)
    state.into_record()
    with pytest.raises(LocalProtocolError, match="already answered"):
        step(state, message)
    with pytest.raises(LocalProtocolError, match="already answered"):
        state.into_record()


@STAGES
def test_a_stage_refuses_every_message_but_its_own(stage: int) -> None:
    entries, _ = joined()
    content, _ = shared()
    messages = [roster(entries), boxes(content), survivors(*CLIENTS)]
    del messages[stage - 1]
    state, honest, step = at(stage)
    messages.append(join(AGREEMENT, ME)[0])
    for message in messages:
        with pytest.raises(DecodeError, match="message type"):
            step(state, message)
    for cut in (honest[:-1], honest + b"\x00", b""):
        with pytest.raises(DecodeError):
            step(state, cut)
    step(state, honest)


@STAGES
def test_a_state_is_not_pickled_and_a_copy_shares_its_one_answer(stage: int) -> None:

    state, message, step = at(stage)
    for duplicate in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            duplicate(state)
    twin = copy.copy(state)
    step(twin, message)
    with pytest.raises(LocalProtocolError, match="already answered"):
        step(state, message)
