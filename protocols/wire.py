"""Bytes in, bytes out: the few encodings that every message is made of.

Integers are big-endian and of fixed width, words of a masked vector
little-endian ``uint64``. A ``Message`` is decoded whole or refused, so it has one
encoding only. It begins with the version of this wire: a peer of another one is refused
by name. Every client message ends in a checksum against accidents (it
stops no forger).
"""

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Final, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocols.checks import check_integer, check_size
from protocols.errors import DecodeError, InputError
from protocols.secrets import Secret

T = TypeVar("T")
ClientId: TypeAlias = int  # a party's number in a session, in [0, 2**32)
Fields: TypeAlias = Iterable[bytes | memoryview]

VERSION: Final = 1  # the first byte of every message
SESSION_SIZE = 16  # bytes; random, so that two sessions never share a label
HEADER_SIZE = SESSION_SIZE + 4
CHECKSUM_SIZE = 16  # bytes of SHA-256: one accident in 2**128 goes unseen


@dataclass(frozen=True, slots=True)
class Header:
    """What every message of a session repeats: ``session`` (16 bytes) and ``round``."""

    session: bytes
    round: int

    def __post_init__(self) -> None:
        check_size("session", self.session, SESSION_SIZE)
        check_integer("round", self.round, 0)

    def to_bytes(self) -> bytes:
        return self.session + u32(self.round)

    def place(self, party: ClientId) -> bytes:
        """The key of a party's answers of this round in a burn store."""
        return self.to_bytes() + u32(party)


def u32(value: int) -> bytes:
    """``value`` in four bytes, big-endian."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """``value`` in eight bytes, big-endian."""
    return value.to_bytes(8, "big")


def opaque(value: bytes) -> bytes:
    """A byte string: ``u32`` length, then the bytes."""
    return u32(len(value)) + value


def digest(*public: bytes | memoryview) -> bytes:
    """SHA-256 over any number of byte strings, as ``opaque``; for ``Agreement.public_digest``."""
    found = hashlib.sha256()
    for value in public:  # a model is not copied for it
        found.update(u32(len(value)))
        found.update(value)
    return found.digest()


def with_checksum(*parts: bytes | memoryview) -> bytes:
    """The body that ``parts`` make, and its checksum; each part is copied once."""
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return b"".join((*parts, checksum.digest()[:CHECKSUM_SIZE]))


def without_checksum(data: bytes | memoryview) -> memoryview:
    """The body of ``data``; ``DecodeError`` if it was cut or changed on its way."""
    view = memoryview(data)
    body = view[: max(len(view) - CHECKSUM_SIZE, 0)]
    if hashlib.sha256(body).digest()[:CHECKSUM_SIZE] != view[len(body) :]:
        raise DecodeError("checksum does not match: the message was cut or changed on its way")
    return body


def sender_of(message: bytes | memoryview) -> ClientId:
    """The sender that a client's message names, in the field behind the header.

    Raises:
      DecodeError: it is too short to say, or of another version.
    """
    reader = Reader(message)
    reader.expect_version()
    reader.view(1 + HEADER_SIZE)
    return reader.u32()


class Reader:
    """Takes fields off the front of ``data``; short input raises ``DecodeError``."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._rest = memoryview(data)

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._rest)

    @property
    def rest(self) -> memoryview:
        """What is not read yet."""
        return self._rest

    def view(self, length: int) -> memoryview:
        """The next ``length`` bytes, not copied."""
        if length > len(self._rest):
            raise DecodeError(f"need {length} bytes, {len(self._rest)} left")
        head, self._rest = self._rest[:length], self._rest[length:]
        return head

    def take(self, length: int) -> bytes:
        return bytes(self.view(length))

    def secret(self, length: int) -> Secret:
        return Secret(self.take(length))

    def u8(self) -> int:
        return self.view(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.view(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.view(8), "big")

    def opaque(self) -> bytes:
        return self.take(self.u32())

    def map(self, read: Callable[["Reader"], T]) -> dict[ClientId, T]:
        """Inverse of ``write_map``; ``DecodeError`` unless each client is above the last."""
        entries: dict[ClientId, T] = {}
        last = -1
        for _ in range(self.u32()):
            client = self.u32()
            if client <= last:
                raise DecodeError(f"client {client} listed after {last}: twice, or out of order")
            last = client
            entries[client] = read(self)
        return entries

    def fixed_map(self, size: int) -> dict[ClientId, bytes]:
        """Read a ``map`` of entries of ``size`` bytes each, at once: six times as fast."""
        return dict(self.rows(size))

    def rows(self, *sizes: int) -> list[tuple[Any, ...]]:
        """A ``map`` whose entries are fields of these sizes: each client and its fields.

        Raises:
          DecodeError: as ``map``.
        """
        entry = struct.Struct(">I" + "".join(f"{size}s" for size in sizes))
        found = list(entry.iter_unpack(self.view(self.u32() * entry.size)))
        for last, client in pairwise([row[0] for row in found]):
            if client <= last:
                raise DecodeError(f"client {client} listed after {last}: twice, or out of order")
        return found

    def set(self, what: str) -> frozenset[ClientId]:
        """Inverse of ``write_set``; ``DecodeError`` unless each client is above the last."""
        packed = self.view(4 * self.u32())
        clients = struct.unpack(f">{len(packed) // 4}I", packed)
        if any(client >= following for client, following in pairwise(clients)):
            raise DecodeError(f"{what} are listed twice, or out of order")
        return frozenset(clients)

    def subset(self, size: int) -> bytes:
        """A set of clients of a roster of ``size``, as ``write_subset`` writes it.

        Raises:
          DecodeError: not the one encoding of a set of such clients.
        """
        length, _ = _places(self._rest, size)
        return self.take(length)

    def expect_version(self) -> None:
        """Refuse a message of another version of the wire, whose other bytes mean anything."""
        if (found := self.u8()) != VERSION:
            raise DecodeError(f"the peer speaks version {found}, this is version {VERSION}")

    def expect(self, kind: int, header: Header) -> None:
        """Refuse a message of another version, type, session or round."""
        self.expect_version()
        if (found := self.u8()) != kind:
            raise DecodeError(f"message type {found:#04x}, expected {kind:#04x}")
        if self.view(HEADER_SIZE) != header.to_bytes():
            raise DecodeError("message of another session or round")

    def finish(self) -> None:
        if self._rest:
            raise DecodeError(f"{len(self._rest)} bytes left over")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(ABC):
    """The version, a type byte, the header, fields, and in most messages a checksum.

    Each class of messages writes and reads its fields, and has their struct in its
    docstring. The rest is here: no message can forget to refuse bytes left over.
    """

    TYPE: ClassVar[int]
    CHECKSUM: ClassVar[bool] = True

    header: Header

    @abstractmethod
    def fields(self) -> Fields:
        """The bytes behind the header, in parts and in the order of the struct."""

    @classmethod
    @abstractmethod
    def read(cls, reader: Reader, header: Header, *args: Any, **agreed: Any) -> Self:
        """Read the fields; raises ``DecodeError`` where they are not those of a message."""

    @classmethod
    def head(cls, header: Header) -> bytes:
        """Version, type, session and round: the bytes before the fields."""
        return bytes([VERSION, cls.TYPE]) + header.to_bytes()

    def to_bytes(self) -> bytes:
        parts = (self.head(self.header), *self.fields())
        return with_checksum(*parts) if self.CHECKSUM else b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, *, expect: Header, **agreed: Any) -> Self:
        """Decode all of ``data``.

        Args:
          agreed: keyword arguments of ``read``: what both sides know, on which fields depend.

        Raises:
          DecodeError: not one message of this type, of that session and round, and no more.
        """
        Reader(data).expect_version()  # another version may have another checksum
        reader = Reader(without_checksum(data) if cls.CHECKSUM else data)
        reader.expect(cls.TYPE, expect)
        message = cls.read(reader, expect, **agreed)
        reader.finish()
        return message


def write_map(entries: Mapping[ClientId, T], encode: Callable[[T], bytes]) -> bytes:
    """``u32`` count, then each client's ``u32`` number and entry, by ascending number."""
    listed = (u32(client) + encode(entries[client]) for client in sorted(entries))
    return u32(len(entries)) + b"".join(listed)


def write_set(clients: Collection[ClientId]) -> bytes:
    """``u32`` count, then each client's ``u32`` number, ascending."""
    return struct.pack(f">{1 + len(clients)}I", len(clients), *sorted(clients))


BITMAP, GAPS = 0, 1  # the two forms of a set of clients; the shorter is its encoding


def write_subset(chosen: Collection[ClientId], members: Sequence[ClientId]) -> bytes:
    """Some of ``members``, a roster in ascending order that both sides know.

    struct {
        uint8 form;                 /* 0 bitmap, 1 gaps: the shorter, of equal ones the bitmap */
        opaque bitmap[];            /* form 0: ceil(n / 8) bytes, the highest bit of a byte first */
        uint32 count;               /* form 1, as what follows: clients in the set */
        opaque gaps[];              /* clients that are skipped before each one in it */
    } Subset;

    A gap is as many bytes of 255 as it has 255s, and one byte for the rest.

    Raises:
      InputError: somebody is chosen who is no member.
    """
    picked = frozenset(chosen)
    bits = np.fromiter((member in picked for member in members), np.bool_, len(members))
    if np.count_nonzero(bits) < len(picked):
        raise InputError(f"not in the roster: {sorted(picked - set(members))[:9]}")
    bitmap, longest = bytes([BITMAP]) + np.packbits(bits).tobytes(), _bitmap_size(len(members))
    if 4 + len(picked) >= longest:  # a gap is a byte at least
        return bitmap
    full, rest = np.divmod(_gaps(np.flatnonzero(bits)), 255)
    size = len(picked) + int(full.sum())
    if 4 + size >= longest:
        return bitmap
    gaps = np.full(size, 255, np.uint8)
    gaps[np.cumsum(full + 1) - 1] = rest
    return bytes([GAPS]) + u32(len(picked)) + gaps.tobytes()


def read_subset(data: bytes, members: Sequence[ClientId]) -> frozenset[ClientId]:
    """Inverse of ``write_subset``; ``DecodeError`` for any other bytes than those it writes."""
    length, places = _places(data, len(members))
    if length != len(data):
        raise DecodeError(f"{len(data) - length} bytes left over")
    return frozenset(members[place] for place in places.tolist())


def _places(data: bytes | memoryview, size: int) -> tuple[int, NDArray[np.int64]]:
    """How many bytes of ``data`` are a set of a roster of ``size``, and its places in order."""
    reader, longest = Reader(data), _bitmap_size(size)
    if (form := reader.u8()) == BITMAP:
        bits = np.unpackbits(np.frombuffer(reader.view(longest), np.uint8))
        if bits[size:].any():
            raise DecodeError(f"a set names more clients than the {size} of the roster")
        places = np.flatnonzero(bits)
        shorter = 4 + len(places) < longest  # a gap is a byte at least
        if shorter and 4 + len(places) + int((_gaps(places) // 255).sum()) < longest:
            raise DecodeError("a set as a bitmap that is shorter as gaps")
        return 1 + longest, places
    if form != GAPS:
        raise DecodeError(f"a set of form {form}: neither a bitmap nor gaps")
    count = reader.u32()
    rest = np.frombuffer(reader.view(min(reader.left, max(longest - 5, 0))), np.uint8)
    ends = np.flatnonzero(rest != 255)[:count]
    if 4 + count >= longest or len(ends) < count:
        raise DecodeError("a set as gaps that is cut short, or no shorter than a bitmap")
    length = int(ends[-1]) + 1 if count else 0
    places = np.cumsum(rest[:length], dtype=np.int64)[ends] + np.arange(count)
    if count and places[-1] >= size:
        raise DecodeError(f"a set names more clients than the {size} of the roster")
    return 5 + length, places


def _gaps(places: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.diff(places, prepend=-1) - 1


def _bitmap_size(size: int) -> int:
    return (size + 7) // 8
