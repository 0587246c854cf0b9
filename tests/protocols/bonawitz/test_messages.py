"""Messages: every byte counted, one encoding a value, ``DecodeError`` for everything else."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.bonawitz.messages import (
    BOX_SIZE,
    FRAME_WORDS,
    Advertise,
    MaskedFrame,
    PublicKeys,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Signatures,
    SignedSurvivors,
    Survivors,
    frame_sizes,
)
from protocols.errors import DecodeError
from protocols.secrets import Secret
from protocols.wire import Header, Reader, with_checksum, without_checksum

Message: TypeAlias = Any

HEADER = Header(bytes(range(16)), 3)
quick = settings(max_examples=60, derandomize=True, deadline=None)

client = st.integers(0, 2**32 - 1)
key = st.binary(min_size=32, max_size=32)
keys = st.builds(PublicKeys, mask=key, seal=key)
signature = st.binary(min_size=64, max_size=64)
signed_keys = st.builds(PublicKeys, mask=key, seal=key, signature=signature)
part_of = st.one_of(st.none(), st.tuples(st.integers(5, 2**32 - 1), key))
boxes = st.dictionaries(client, st.binary(min_size=BOX_SIZE, max_size=BOX_SIZE), max_size=4)
words = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=9).map(
    lambda values: np.array(values, np.uint64)
)
header = st.just(HEADER)
tag = st.binary(min_size=8, max_size=8)
MEMBERS = [*range(2, 90, 3), 2**31, 2**32 - 1]

MESSAGES: dict[type[Message], st.SearchStrategy[Message]] = {
    Advertise: st.builds(Advertise, header=header, sender=client, keys=keys),
    Roster: st.builds(
        Roster,
        header=header,
        agreement=tag,
        entries=st.dictionaries(client, keys, min_size=1, max_size=4),
        part_of=part_of,
    ),
    SealedShares: st.builds(SealedShares, header=header, sender=client, agreement=tag, boxes=boxes),
    ShareBoxes: st.builds(ShareBoxes, header=header, recipient=client, boxes=boxes),
    MaskedFrame: st.builds(
        MaskedFrame, header=header, sender=client, index=st.integers(0, 2**32 - 1), words=words
    ),
    Survivors: st.builds(
        Survivors,
        header=header,
        alive=st.frozensets(st.sampled_from(MEMBERS)),
        members=st.just(MEMBERS),
        unseen=st.integers(0, 2**32 - 1),
    ),
    Reveal: st.builds(
        Reveal,
        header=header,
        sender=client,
        shares=st.dictionaries(client, key.map(Secret), max_size=4),
    ),
    SignedSurvivors: st.builds(SignedSurvivors, header=header, sender=client, signature=signature),
    Signatures: st.builds(
        Signatures, header=header, signatures=st.dictionaries(client, signature, max_size=4)
    ),
}
KINDS = pytest.mark.parametrize("kind", list(MESSAGES), ids=lambda kind: kind.__name__)
CHECKED = (Advertise, SealedShares, MaskedFrame, Reveal, SignedSurvivors)


def decode(like: Message, data: bytes, expect: Header = HEADER) -> Message:
    if isinstance(like, MaskedFrame):
        count = len(like.words)
        return MaskedFrame.from_bytes(data, expect=expect, index=like.index, count=count)
    if isinstance(like, Survivors):
        return Survivors.from_bytes(data, expect=expect, members=MEMBERS, part=True)
    return type(like).from_bytes(data, expect=expect)


def decode_or_refuse(like: Message, data: bytes) -> None:
    """Decoding raises ``DecodeError``, or what it gives encodes to the very same bytes."""
    try:
        found = decode(like, data)
    except DecodeError:
        return
    assert found.to_bytes() == data


@KINDS
@given(st.data())
@quick
def test_a_message_comes_out_as_it_went_in(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    found = decode(message, message.to_bytes())
    assert found.to_bytes() == message.to_bytes()
    if isinstance(message, MaskedFrame):
        assert np.array_equal(found.words, message.words)
        assert (found.sender, found.index) == (message.sender, message.index)
    else:
        assert found == message


@KINDS
@given(st.data())
@quick
def test_one_bit_more_or_less_is_another_message_or_none(
    kind: type[Message], data: st.DataObject
) -> None:
    message = data.draw(MESSAGES[kind])
    changed = bytearray(message.to_bytes())
    bit = data.draw(st.integers(0, 8 * len(changed) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    if kind in CHECKED:
        with pytest.raises(DecodeError):
            decode(message, bytes(changed))
        body = bytearray(without_checksum(message.to_bytes()))
        bit %= 8 * len(body)
        body[bit // 8] ^= 1 << bit % 8
        decode_or_refuse(message, with_checksum(bytes(body)))
    else:
        decode_or_refuse(message, bytes(changed))


@KINDS
@given(st.data())
@quick
def test_bytes_cut_out_put_in_or_overwritten_are_no_second_encoding(
    kind: type[Message], data: st.DataObject
) -> None:
    message = data.draw(MESSAGES[kind])
    whole = message.to_bytes()
    body = bytes(without_checksum(whole)) if kind in CHECKED else whole
    begin = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(begin, min(len(body), begin + 40)))
    changed = body[:begin] + data.draw(st.binary(max_size=40)) + body[end:]
    decode_or_refuse(message, with_checksum(changed) if kind in CHECKED else changed)
    decode_or_refuse(message, changed)


@KINDS
@given(st.data())
@settings(max_examples=5, derandomize=True, deadline=None)
def test_a_message_cut_anywhere_is_refused(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    whole = message.to_bytes()
    for size in range(len(whole)):
        with pytest.raises(DecodeError):
            decode(message, whole[:size])
    if kind in CHECKED:  # also where the cut has a checksum of its own
        body = bytes(without_checksum(whole))
        for size in range(len(body)):
            with pytest.raises(DecodeError):
                decode(message, with_checksum(body[:size]))


@KINDS
@given(st.data(), st.binary(min_size=1, max_size=99))
@quick
def test_a_message_with_a_tail_is_refused(
    kind: type[Message], data: st.DataObject, tail: bytes
) -> None:
    message = data.draw(MESSAGES[kind])
    whole = message.to_bytes()
    with pytest.raises(DecodeError):
        decode(message, whole + tail)
    if kind in CHECKED:
        with pytest.raises(DecodeError, match="left over"):
            decode(message, with_checksum(bytes(without_checksum(whole)) + tail))


@KINDS
@given(st.binary(max_size=300), st.data())
@quick
def test_noise_is_refused(kind: type[Message], noise: bytes, data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    with pytest.raises(DecodeError):
        decode(message, noise)
    head = message.head(HEADER)
    decode_or_refuse(message, head + noise)
    decode_or_refuse(message, with_checksum(head + noise))


@KINDS
@pytest.mark.parametrize(
    "other",
    [Header(bytes(16), 3), Header(bytes(range(16)), 4), Header(bytes(range(16)), 2)],
    ids=["session", "next-round", "last-round"],
)
@given(st.data())
@settings(max_examples=3, derandomize=True, deadline=None)
def test_a_message_of_another_session_or_round_is_refused(
    kind: type[Message], other: Header, data: st.DataObject
) -> None:
    message = data.draw(MESSAGES[kind])
    with pytest.raises(DecodeError, match="another session or round"):
        decode(message, message.to_bytes(), expect=other)


@KINDS
@given(st.data())
@settings(max_examples=3, derandomize=True, deadline=None)
def test_a_message_of_another_type_is_refused(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    for other in MESSAGES:
        if other is not kind:
            stranger = data.draw(MESSAGES[other])
            with pytest.raises(DecodeError):
                decode(message, stranger.to_bytes())
            if kind in CHECKED:
                body = stranger.to_bytes()
                body = bytes(without_checksum(body)) if other in CHECKED else body
                with pytest.raises(DecodeError, match="message type"):
                    decode(message, with_checksum(body))


def test_every_type_has_a_number_of_its_own() -> None:
    assert [kind.TYPE for kind in MESSAGES] == [1, 2, 3, 4, 5, 6, 7, 8, 9]


@given(client, signed_keys)
@quick
def test_signed_keys_come_out_as_they_went_in_and_not_as_unsigned_ones(
    sender: int, signed: PublicKeys
) -> None:
    message = Advertise(header=HEADER, sender=sender, keys=signed)
    assert Advertise.from_bytes(message.to_bytes(), expect=HEADER, signed=True) == message
    with pytest.raises(DecodeError, match="64 bytes left over"):
        Advertise.from_bytes(message.to_bytes(), expect=HEADER)
    roster = Roster(header=HEADER, agreement=TAG, entries={sender: signed}, part_of=(7, bytes(32)))
    assert Roster.from_bytes(roster.to_bytes(), expect=HEADER, signed=True) == roster
    with pytest.raises(DecodeError):
        Roster.from_bytes(roster.to_bytes(), expect=HEADER)


@pytest.mark.parametrize(("size", "changed"), [(1, False), (0, False), (2, True)])
def test_a_whole_roster_says_its_own_size_and_hash_or_is_refused(size: int, changed: bool) -> None:
    entries = {n: PublicKeys(mask=bytes(32), seal=bytes([n] * 32)) for n in (1, 2)}
    data = bytearray(Roster(header=HEADER, agreement=TAG, entries=entries).to_bytes())
    data[30:34] = size.to_bytes(4, "big")
    data[34] ^= changed
    with pytest.raises(DecodeError, match="another size or hash"):
        Roster.from_bytes(bytes(data), expect=HEADER)


def test_what_is_signed_of_survivors_is_their_message_without_its_head() -> None:
    message = Survivors(header=HEADER, alive=frozenset({1, 5}), members=[0, 1, 5, 9])
    assert message.body() == message.to_bytes()[22:] == bytes([0, 0b0110_0000])


def listed(kind: int, about: bytes, entries: list[bytes], count: int | None = None) -> bytes:
    number = len(entries) if count is None else count
    head = bytes([1, kind]) + HEADER.to_bytes() + about
    return head + number.to_bytes(4, "big") + b"".join(entries)


LISTS: list[tuple[type[Message], bytes, bytes]] = [
    (Roster, bytes(8 + 4 + 32), bytes(64)),
    (SealedShares, bytes(4 + 8), bytes(BOX_SIZE)),
    (ShareBoxes, bytes(4), bytes(BOX_SIZE)),
    (Reveal, bytes(4), bytes(32)),
    (Signatures, b"", bytes(64)),
]


@pytest.mark.parametrize(("kind", "about", "value"), LISTS, ids=[k.__name__ for k, _, _ in LISTS])
@pytest.mark.parametrize("clients", [[1, 1], [2, 1], [1, 3, 2], [0, 0]])
def test_a_client_listed_twice_or_out_of_order_is_refused(
    kind: type[Message], about: bytes, value: bytes, clients: list[int]
) -> None:
    data = listed(kind.TYPE, about, [number.to_bytes(4, "big") + value for number in clients])
    with pytest.raises(DecodeError, match="twice, or out of order"):
        kind.from_bytes(with_checksum(data) if kind in CHECKED else data, expect=HEADER)


@pytest.mark.parametrize(("kind", "about", "value"), LISTS, ids=[k.__name__ for k, _, _ in LISTS])
@pytest.mark.parametrize("count", [1, 3, 2**32 - 1])
def test_a_count_that_is_not_that_of_the_entries_is_refused(
    kind: type[Message], about: bytes, value: bytes, count: int
) -> None:
    data = listed(kind.TYPE, about, [bytes([0, 0, 0, n]) + value for n in (1, 2)], count)
    with pytest.raises(DecodeError):
        kind.from_bytes(with_checksum(data) if kind in CHECKED else data, expect=HEADER)


@pytest.mark.parametrize(("index", "count"), [(1, 4), (0, 3), (0, 5), (0, FRAME_WORDS)])
def test_a_frame_of_another_index_or_length_is_refused(index: int, count: int) -> None:
    frame = MaskedFrame(header=HEADER, sender=1, index=0, words=np.zeros(4, np.uint64))
    with pytest.raises(DecodeError):
        MaskedFrame.from_bytes(frame.to_bytes(), expect=HEADER, index=index, count=count)


def test_words_travel_little_endian() -> None:
    value = np.array([0x0102030405060708], np.uint64)
    frame = MaskedFrame(header=HEADER, sender=1, index=0, words=value).to_bytes()
    assert frame[30:38] == bytes([8, 7, 6, 5, 4, 3, 2, 1])


HEAD = 1 + 1 + 16 + 4  # version, type, session, round
TAG = bytes(8)
ONE = bytes(32)


def some_boxes(count: int) -> dict[int, bytes]:
    return {number: bytes(BOX_SIZE) for number in range(count)}


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize(
    ("make", "size"),
    [
        (
            lambda _: Advertise(header=HEADER, sender=1, keys=PublicKeys(mask=ONE, seal=ONE)),
            lambda _: HEAD + 4 + 2 * 32 + 16,
        ),
        (
            lambda n: Roster(
                header=HEADER,
                agreement=TAG,
                entries=dict.fromkeys(range(n), PublicKeys(mask=ONE, seal=ONE)),
            ),
            lambda n: HEAD + 8 + 4 + 32 + 4 + n * (4 + 2 * 32),
        ),
        (
            lambda n: SealedShares(header=HEADER, sender=1, agreement=TAG, boxes=some_boxes(n)),
            lambda n: HEAD + 4 + 8 + 4 + n * (4 + 12 + 64 + 16) + 16,
        ),
        (
            lambda n: ShareBoxes(header=HEADER, recipient=1, boxes=some_boxes(n)),
            lambda n: HEAD + 4 + 4 + n * (4 + 12 + 64 + 16),
        ),
        (
            lambda n: MaskedFrame(
                header=HEADER, sender=1, index=0, words=np.zeros(n + 1, np.uint64)
            ),
            lambda n: HEAD + 4 + 4 + 8 * (n + 1) + 16,
        ),
        (
            lambda n: Survivors(header=HEADER, alive=frozenset(range(n)), members=range(n)),
            lambda n: HEAD + 1 + (n + 7) // 8,
        ),
        (
            lambda n: Reveal(
                header=HEADER, sender=1, shares=dict.fromkeys(range(n), Secret(bytes(32)))
            ),
            lambda n: HEAD + 4 + 4 + n * (4 + 32) + 16,
        ),
        (
            lambda _: SignedSurvivors(header=HEADER, sender=1, signature=bytes(64)),
            lambda _: HEAD + 4 + 64 + 16,
        ),
        (
            lambda n: Signatures(header=HEADER, signatures=dict.fromkeys(range(n), bytes(64))),
            lambda n: HEAD + 4 + n * (4 + 64),
        ),
    ],
    ids=[kind.__name__ for kind in MESSAGES],
)
def test_the_size_of_a_message_is_its_fields_and_no_more(
    make: Callable[[int], Message], size: Callable[[int], int], count: int
) -> None:
    assert len(make(count).to_bytes()) == size(count)


def test_an_advertise_is_106_bytes() -> None:
    keys = PublicKeys(mask=ONE, seal=ONE)
    assert len(Advertise(header=HEADER, sender=1, keys=keys).to_bytes()) == 106


def test_a_full_frame_carries_less_than_a_fiftieth_of_a_percent_beside_its_words() -> None:
    frame = MaskedFrame(header=HEADER, sender=1, index=0, words=np.zeros(FRAME_WORDS, np.uint64))
    size = len(frame.to_bytes())
    assert size == 8 * FRAME_WORDS + 46
    assert 46 / size < 0.0002


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, [1]),
        (FRAME_WORDS - 1, [FRAME_WORDS - 1]),
        (FRAME_WORDS, [FRAME_WORDS]),
        (FRAME_WORDS + 1, [FRAME_WORDS, 1]),
        (3 * FRAME_WORDS, [FRAME_WORDS] * 3),
    ],
)
def test_all_frames_but_the_last_are_full(count: int, sizes: list[int]) -> None:
    assert frame_sizes(count) == sizes


class EntryByEntry(Reader):
    """What reads the lists at once, written as the struct is."""

    def rows(self, *sizes: int) -> list[tuple[Any, ...]]:
        read = self.map(lambda each: [each.take(size) for size in sizes])
        return [(client, *fields) for client, fields in read.items()]


LISTS = [
    (Roster, MESSAGES[Roster], {}),
    (
        Roster,
        st.builds(
            Roster,
            header=header,
            agreement=tag,
            entries=st.dictionaries(client, signed_keys, min_size=1, max_size=4),
            part_of=part_of,
        ),
        {"signed": True},
    ),
    *((kind, MESSAGES[kind], {}) for kind in (SealedShares, ShareBoxes, Reveal, Signatures)),
]


@pytest.mark.parametrize(("kind", "messages", "agreed"), LISTS, ids=lambda each: str(each)[:9])
@given(data=st.data())
@settings(max_examples=150, derandomize=True, deadline=None)
def test_a_list_read_at_once_is_read_and_refused_as_entry_by_entry(
    kind: type[Message],
    messages: st.SearchStrategy[Message],
    agreed: dict[str, Any],
    data: st.DataObject,
) -> None:
    message = data.draw(messages)
    body = bytearray(b"".join(bytes(part) for part in message.fields()))
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                body[at] = data.draw(st.integers(0, 255))
            case 1:
                del body[at:]
                body += b"\x00"
            case 2:
                body[at:at] = data.draw(st.binary(max_size=200))
            case 3:
                other = data.draw(st.integers(0, len(body) - 1))
                body[at:] = body[other:] + body[at:]
    found: list[object] = []
    for reader in (Reader(bytes(body)), EntryByEntry(bytes(body))):
        try:
            read = kind.read(reader, HEADER, **agreed)
            reader.finish()
        except DecodeError:
            found.append(DecodeError)
        else:
            found.append(read.to_bytes())
    assert found[0] == found[1]
