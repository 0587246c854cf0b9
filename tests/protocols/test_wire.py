"""The encodings that messages are made of: complete, or an error."""

import hashlib
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import DecodeError, InputError
from protocols.wire import (
    CHECKSUM_SIZE,
    HEADER_SIZE,
    Header,
    Reader,
    opaque,
    read_subset,
    sender_of,
    u32,
    u64,
    with_checksum,
    without_checksum,
    write_subset,
)

quick = settings(max_examples=60, derandomize=True, deadline=None)
SESSION = bytes(range(16))


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary())
@quick
def test_what_was_written_is_read(byte: int, short: int, long: int, data: bytes) -> None:
    reader = Reader(bytes([byte]) + u32(short) + u64(long) + opaque(data))
    assert (reader.u8(), reader.u32(), reader.u64(), reader.opaque()) == (byte, short, long, data)
    reader.finish()


def test_integers_are_big_endian() -> None:
    assert u32(0x01020304) == bytes([1, 2, 3, 4])
    assert u64(0x0102030405060708) == bytes(range(1, 9))


@given(st.binary(max_size=7))
@quick
def test_a_field_that_is_cut_short_is_an_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=f"need 8 bytes, {len(data)} left"):
        Reader(data).u64()


@pytest.mark.parametrize("read", [Reader.u8, Reader.u32, Reader.u64, Reader.opaque])
def test_nothing_is_read_from_nothing(read: Callable[[Reader], object]) -> None:
    with pytest.raises(DecodeError, match="0 left"):
        read(Reader(b""))


def test_a_length_that_reaches_past_the_end_is_an_error() -> None:
    with pytest.raises(DecodeError, match="need 4294967295 bytes, 3 left"):
        Reader(u32(2**32 - 1) + b"abc").opaque()


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(min_size=3, max_size=3))), st.data())
@quick
def test_a_map_of_fixed_entries_is_read_as_any_map(
    entries: list[tuple[int, bytes]], drawn: st.DataObject
) -> None:
    data = u32(len(entries)) + b"".join(u32(client) + entry for client, entry in entries)
    data = data[: drawn.draw(st.integers(0, len(data)))] if drawn.draw(st.booleans()) else data
    found: list[object] = []
    for read in (lambda reader: reader.map(lambda each: each.take(3)), lambda r: r.fixed_map(3)):
        try:
            found.append(read(Reader(data)))
        except DecodeError as error:
            found.append("listed after" in str(error) or "left" in str(error))
    assert found[0] == found[1]


def test_bytes_left_over_are_an_error() -> None:
    reader = Reader(b"abc")
    reader.take(2)
    with pytest.raises(DecodeError, match="1 bytes left over"):
        reader.finish()


@given(st.binary())
@quick
def test_a_checksum_is_sixteen_bytes_of_sha_256(body: bytes) -> None:
    sealed = with_checksum(body)
    assert sealed == body + hashlib.sha256(body).digest()[:16]
    assert without_checksum(sealed) == body
    assert len(sealed) - len(body) == CHECKSUM_SIZE == 16


@given(st.binary(max_size=50), st.data())
@quick
def test_a_checksum_notices_any_one_bit(body: bytes, data: st.DataObject) -> None:
    sealed = bytearray(with_checksum(body))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DecodeError, match="checksum"):
        without_checksum(bytes(sealed))


@pytest.mark.parametrize("size", range(17))
def test_less_than_a_checksum_is_an_error(size: int) -> None:
    with pytest.raises(DecodeError, match="checksum"):
        without_checksum(bytes(size))


def test_a_header_is_session_and_round() -> None:
    header = Header(SESSION, 7)
    assert header.to_bytes() == SESSION + bytes([0, 0, 0, 7])
    assert len(header.to_bytes()) == HEADER_SIZE == 20


@pytest.mark.parametrize(
    ("session", "number"),
    [(b"", 0), (SESSION[:-1], 0), (SESSION + b"x", 0), (SESSION, -1), (SESSION, 2**32)],
)
def test_a_header_that_does_not_fit_is_refused(session: bytes, number: int) -> None:
    with pytest.raises(InputError):
        Header(session, number)


@pytest.mark.parametrize(
    ("kind", "header", "error"),
    [
        (2, Header(SESSION, 7), "message type 0x01, expected 0x02"),
        (1, Header(SESSION, 8), "another session or round"),
        (1, Header(bytes(16), 7), "another session or round"),
    ],
)
def test_a_message_of_another_type_session_or_round_is_an_error(
    kind: int, header: Header, error: str
) -> None:
    with pytest.raises(DecodeError, match=error):
        Reader(b"\x01\x01" + Header(SESSION, 7).to_bytes()).expect(kind, header)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_peer_of_another_version_is_refused_by_name(version: int) -> None:
    message = bytes([version, 1]) + Header(SESSION, 7).to_bytes() + u32(9)
    error = f"the peer speaks version {version}, this is version 1"
    with pytest.raises(DecodeError, match=error):
        Reader(message).expect(1, Header(SESSION, 7))
    with pytest.raises(DecodeError, match=error):
        sender_of(message)
    assert sender_of(b"\x01" + message[1:]) == 9


# Sets of clients

rosters = st.one_of(
    st.integers(0, 400).map(range), st.frozensets(st.integers(0, 2**32 - 1)).map(sorted)
)


@st.composite
def some_of_a_roster(draw: st.DrawFn) -> tuple[frozenset[int], Sequence[int]]:
    members = draw(rosters)
    share = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]))
    chosen = draw(st.randoms(use_true_random=False))
    return frozenset(m for m in members if chosen.random() < share), members


@given(some_of_a_roster())
@quick
def test_a_set_comes_out_as_it_went_in_and_is_the_shorter_of_its_two_forms(
    case: tuple[frozenset[int], Sequence[int]],
) -> None:
    chosen, members = case
    data = write_subset(chosen, members)
    assert read_subset(data, members) == chosen
    reader = Reader(data + b"more")
    assert reader.subset(len(members)) == data
    assert reader.left == 4
    bitmap, gaps = forms(chosen, members)
    assert data == (gaps if len(gaps) < len(bitmap) else bitmap)
    assert len(data) <= 1 + (len(members) + 7) // 8


def forms(chosen: frozenset[int], members: Sequence[int]) -> tuple[bytes, bytes]:
    """A set in both forms, written slowly."""
    bits = "".join(str(int(member in chosen)) for member in members)
    bits += "0" * (-len(bits) % 8)
    bitmap = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    gaps, skipped = b"", 0
    for member in members:
        if member not in chosen:
            skipped += 1
            continue
        gaps += b"\xff" * (skipped // 255) + bytes([skipped % 255])
        skipped = 0
    return b"\0" + bitmap, b"\1" + u32(len(chosen)) + gaps


@given(some_of_a_roster())
@quick
def test_the_longer_form_of_a_set_is_refused(
    case: tuple[frozenset[int], Sequence[int]],
) -> None:
    chosen, members = case
    bitmap, gaps = forms(chosen, members)
    longer = bitmap if len(gaps) < len(bitmap) else gaps
    with pytest.raises(DecodeError):
        read_subset(longer, members)


@given(st.integers(0, 300), st.binary(max_size=60))
@quick
def test_other_bytes_are_no_set_or_the_one_encoding_of_theirs(size: int, data: bytes) -> None:
    for form in (b"", b"\0", b"\1", b"\1\0\0\0"):
        try:
            found = read_subset(form + data, range(size))
        except DecodeError:
            continue
        assert write_subset(found, range(size)) == form + data


@pytest.mark.parametrize(
    ("data", "size", "why"),
    [
        ("0010", 3, "names more clients than the 3"),
        ("00e0", 9, "need 2 bytes, 1 left"),
        ("00e000", 3, "1 bytes left over"),
        ("02e0", 3, "a set of form 2"),
        ("0100000001", 300, "cut short"),
        ("0100000001ff", 600, "cut short"),
        ("0100000002fe2d", 300, "names more clients than the 300"),
        ("0100000001ff2d", 300, "names more clients than the 300"),
        ("01ffffffff0000", 300, "no shorter than a bitmap"),
        ("00" + "80" + 37 * "00", 300, "shorter as gaps"),
    ],
)
def test_a_set_that_is_none_is_refused(data: str, size: int, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        read_subset(bytes.fromhex(data), range(size))


@pytest.mark.parametrize(
    ("data", "chosen"),
    [("0100000000", set()), ("0100000001ff2c", {299}), ("0100000002fe2c", {254, 299})],
)
def test_a_gap_is_bytes_of_255_and_a_rest(data: str, chosen: set[int]) -> None:
    assert read_subset(bytes.fromhex(data), range(300)) == chosen
    assert write_subset(chosen, range(300)).hex() == data


def test_who_is_not_in_the_roster_is_in_no_set_of_it() -> None:
    with pytest.raises(InputError, match=r"not in the roster: \[9\]"):
        write_subset({1, 9}, [1, 2, 3])
