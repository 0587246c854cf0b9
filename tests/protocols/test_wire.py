"""The encodings that messages are made of: complete, or an error."""

import hashlib
from collections.abc import Callable

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
    u32,
    u64,
    with_checksum,
    without_checksum,
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
        Reader(b"\x01" + Header(SESSION, 7).to_bytes()).expect(kind, header)
