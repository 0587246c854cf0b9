"""The messages of a session, in the order they travel.

    holder                                  server                    client
      | --- Advertise --------------------->  |                         |   once a session,
      | <---------------------- Roster -----  |                         |   threshold only
      | --- Opening ----------------------->  |                         |
      | <-------- ShareBoxes, Openings -----  | --- Openings -------->  |
      |                                       |                         |
      |                                       | <-- Frame, Frame, ...-  |   each round
      | <--------------------- Request -----  |                         |   threshold
      | --- Partial ----------------------->  |                         |
      |                                       | --- SharedSum ------->  |   shared key

Integers are big-endian. Every list is sorted by party, each at most once, so that a
message has one encoding. Polynomials stand in messages as they travel, packed; whoever
uses one decodes it by ``residues``, which refuses residues that are not below their
primes. Every message ends in a checksum, the first 16 bytes of SHA-256 over what stands
before it: a request that was damaged on its way would else be burnt.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self, TypeAlias

from protocols.ckks import residues
from protocols.ckks.params import DIGEST_SIZE, Params
from protocols.errors import DecodeError, RemoteProtocolError
from protocols.primitives.aead import OVERHEAD
from protocols.primitives.agree import KEY_SIZE
from protocols.primitives.prg import SEED_SIZE
from protocols.secrets import Secret
from protocols.wire import Header, Reader, open_checksum, read_map, seal_checksum, u32, write_map

ClientId: TypeAlias = int
SHARE_SIZE = SEED_SIZE  # bytes; a share is as long as the seed it is of
BOX_SIZE = SHARE_SIZE + OVERHEAD  # bytes: a share, nonce and tag
BLIND_SIZE = 32  # bytes: what hides a committed public share

# Stages in a burn store, at the ``place`` of a party, or the server's, which is the header alone.
# What is burnt once a session stands under round 0.
REQUEST_STAGE = 0  # a round's sum that the server sends
ALIVE_STAGE = 1  # a session's alive holders
PARTIAL_STAGE = 2  # a round's request to a holder
OPEN_STAGE = 3  # a round's sum that a client opens under a shared key
ROSTER_STAGE = 4  # a session's roster
OPENINGS_STAGE = 5  # a session's openings, and the boxes that came with them
UPLOAD_STAGE = 6  # a round's vector that a client encrypts


def share_size(params: Params) -> int:
    """Bytes of a holder's public share: a polynomial under all primes."""
    return residues.size(params.ring.degree, params.ring.key_primes)


def split(data: bytes, size: int) -> Iterator[bytes]:
    """Parts of ``size`` bytes, in order."""
    return (data[begin : begin + size] for begin in range(0, len(data), size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A holder as it stands in the roster.

    Attributes:
      seal_key: X25519, fresh; its secret half never leaves the holder.
      commitment: to the holder's public share, see ``keys.commit``.
    """

    seal_key: bytes
    commitment: bytes

    def to_bytes(self) -> bytes:
        return self.seal_key + self.commitment

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(seal_key=reader.take(KEY_SIZE), commitment=reader.take(DIGEST_SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertise:
    """A holder commits to its public share before it sees another.

    struct {
        uint8  type = 0x01;
        opaque session[16];
        uint32 round = 0;
        uint32 sender;
        opaque seal_key[32];
        opaque commitment[32];
        opaque checksum[16];
    } Advertise;
    """

    TYPE: ClassVar[int] = 0x01

    header: Header
    sender: ClientId
    entry: Entry

    def to_bytes(self) -> bytes:
        return seal_checksum(_head(self) + u32(self.sender) + self.entry.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, *, expect: Header) -> Self:
        """Raises ``DecodeError`` unless ``data`` is one ``Advertise`` of that session."""
        reader = _open(cls.TYPE, data, expect)
        message = cls(header=expect, sender=reader.u32(), entry=Entry.read(reader))
        reader.finish()
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """All holders with their commitments: now each may open its own.

    struct {
        uint32 holder;
        opaque seal_key[32];
        opaque commitment[32];
    } Entry;

    struct {
        uint8  type = 0x02;
        opaque session[16];
        uint32 round = 0;
        uint32 count;
        Entry  entries[count];
        opaque checksum[16];
    } Roster;
    """

    TYPE: ClassVar[int] = 0x02

    header: Header
    entries: Mapping[ClientId, Entry]

    def to_bytes(self) -> bytes:
        return seal_checksum(_head(self) + write_map(self.entries, Entry.to_bytes))

    def digest(self) -> bytes:
        """SHA-256 of the entries: it enters the labels of boxes."""
        return hashlib.sha256(write_map(self.entries, Entry.to_bytes)).digest()

    @classmethod
    def from_bytes(cls, data: bytes, *, expect: Header) -> Self:
        """Raises ``DecodeError`` unless ``data`` is one ``Roster`` of that session."""
        reader = _open(cls.TYPE, data, expect)
        message = cls(header=expect, entries=read_map(reader, Entry.read))
        reader.finish()
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A holder opens its commitment, and has a box for each other holder.

    struct {
        uint32 recipient;
        opaque box[60];             /* nonce[12], ciphertext[32], tag[16] */
    } Entry;

    struct {
        uint8  type = 0x03;
        opaque session[16];
        uint32 round = 0;
        uint32 sender;
        opaque blind[32];           /* the random bytes of the commitment */
        opaque share[];             /* b_i, packed, under all primes of the ring */
        uint32 count;
        Entry  boxes[count];
        opaque checksum[16];
    } Opening;
    """

    TYPE: ClassVar[int] = 0x03

    header: Header
    sender: ClientId
    blind: bytes
    share: bytes = field(repr=False)
    boxes: Mapping[ClientId, bytes] = field(repr=False)

    def to_bytes(self) -> bytes:
        body = u32(self.sender) + self.blind + self.share + write_map(self.boxes, bytes)
        return seal_checksum(_head(self) + body)

    @classmethod
    def from_bytes(cls, data: bytes, *, expect: Header, params: Params) -> Self:
        """Raises ``DecodeError`` unless ``data`` is one ``Opening`` of that session."""
        reader = _open(cls.TYPE, data, expect)
        message = cls(
            header=expect,
            sender=reader.u32(),
            blind=reader.take(BLIND_SIZE),
            share=reader.take(share_size(params)),
            boxes=read_map(reader, lambda source: source.take(BOX_SIZE)),
        )
        reader.finish()
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareBoxes:
    """The boxes that others sealed for one holder, passed on by the server.

    struct {
        uint32 sender;
        opaque box[60];
    } Entry;

    struct {
        uint8  type = 0x04;
        opaque session[16];
        uint32 round = 0;
        uint32 recipient;
        uint32 count;
        Entry  boxes[count];
        opaque checksum[16];
    } ShareBoxes;
    """

    TYPE: ClassVar[int] = 0x04

    header: Header
    recipient: ClientId
    boxes: Mapping[ClientId, bytes] = field(repr=False)

    def to_bytes(self) -> bytes:
        return seal_checksum(_head(self) + u32(self.recipient) + write_map(self.boxes, bytes))

    @classmethod
    def from_bytes(cls, data: bytes, *, expect: Header) -> Self:
        """Raises ``DecodeError`` unless ``data`` is one such message of that session."""
        reader = _open(cls.TYPE, data, expect)
        message = cls(
            header=expect,
            recipient=reader.u32(),
            boxes=read_map(reader, lambda source: source.take(BOX_SIZE)),
        )
        reader.finish()
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A public share with the commitment to it."""

    commitment: bytes
    blind: bytes
    share: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        return self.commitment + self.blind + self.share

    @classmethod
    def read(cls, reader: Reader, params: Params) -> Self:
        return cls(
            commitment=reader.take(DIGEST_SIZE),
            blind=reader.take(BLIND_SIZE),
            share=reader.take(share_size(params)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Openings:
    """All public shares. Everybody checks them and adds them up for itself.

    struct {
        uint32 holder;
        opaque commitment[32];
        opaque blind[32];
        opaque share[];             /* b_i, packed, under all primes of the ring */
    } Entry;

    struct {
        uint8  type = 0x05;
        opaque session[16];
        uint32 round = 0;
        uint32 count;
        Entry  entries[count];
        opaque checksum[16];
    } Openings;
    """

    TYPE: ClassVar[int] = 0x05

    header: Header
    entries: Mapping[ClientId, Opened] = field(repr=False)

    def to_bytes(self) -> bytes:
        return seal_checksum(_head(self) + write_map(self.entries, Opened.to_bytes))

    def digest(self) -> bytes:
        """SHA-256 of the entries: the name of the collective key."""
        return hashlib.sha256(write_map(self.entries, Opened.to_bytes)).digest()

    @classmethod
    def from_bytes(cls, data: bytes, *, expect: Header, params: Params) -> Self:
        """Raises ``DecodeError`` unless ``data`` is one ``Openings`` of that session."""
        reader = _open(cls.TYPE, data, expect)
        entries = read_map(reader, lambda source: Opened.read(source, params))
        reader.finish()
        return cls(header=expect, entries=entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One ciphertext of a client's vector; an upload is all of them in order.

    struct {
        uint8  type = 0x06;
        opaque session[16];
        uint32 round;
        uint32 sender;
        uint32 index;               /* of this ciphertext, from 0 */
        opaque context[32];
        opaque ciphertext[];        /* shared key: seed[64], c0; threshold: c0, c1 */
        opaque checksum[16];
    } Frame;
    """

    TYPE: ClassVar[int] = 0x06

    header: Header
    sender: ClientId
    index: int
    context: bytes
    ciphertext: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        body = u32(self.sender) + u32(self.index) + self.context + self.ciphertext
        return seal_checksum(_head(self) + body)

    @classmethod
    def from_bytes(
        cls, data: bytes, *, expect: Header, context: bytes, index: int, params: Params
    ) -> Self:
        """Raises ``DecodeError`` unless ``data`` is frame ``index`` under ``context``."""
        reader = _open(cls.TYPE, data, expect)
        sender = reader.u32()
        if (found := reader.u32()) != index:
            raise DecodeError(f"frame {found} of client {sender}, expected frame {index}")
        _expect(context, reader, f"frame {index} of client {sender}")
        body = reader.take(params.chunk_size)
        reader.finish()
        return cls(header=expect, sender=sender, index=index, context=context, ciphertext=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSum:
    """The sum under a shared key, for the clients to open.

    struct {
        uint32 client;
        opaque digest[32];          /* SHA-256 of all frames of its upload */
    } Entry;

    struct {
        uint8  type = 0x07;
        opaque session[16];
        uint32 round;
        opaque context[32];
        uint32 count;
        Entry  summands[count];
        opaque ciphertexts[];       /* c0, c1 of each chunk, in order */
        opaque checksum[16];
    } SharedSum;
    """

    TYPE: ClassVar[int] = 0x07

    header: Header
    context: bytes
    summands: Mapping[ClientId, bytes]
    ciphertexts: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        body = self.context + write_map(self.summands, bytes) + self.ciphertexts
        return seal_checksum(_head(self) + body)

    @classmethod
    def from_bytes(cls, data: bytes, *, expect: Header, context: bytes, params: Params) -> Self:
        """Raises ``DecodeError`` unless ``data`` is one ``SharedSum`` under ``context``."""
        reader = _open(cls.TYPE, data, expect)
        _expect(context, reader, "a sum")
        summands = read_map(reader, lambda source: source.take(DIGEST_SIZE))
        body = reader.take(2 * params.partial_size)
        reader.finish()
        return cls(header=expect, context=context, summands=summands, ciphertexts=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The server asks every holder that is left for its part of one decryption.

    It names only who is alive; who is gone is the rest. So one message cannot ask for a
    holder's partial decryption and for its key.

    struct {
        uint8  type = 0x08;
        opaque session[16];
        uint32 round;
        opaque context[32];
        uint32 alive_count;
        uint32 alive[alive_count];
        uint32 count;
        Entry  summands[count];     /* as in SharedSum */
        opaque seconds[];           /* c1 of the sum, chunk by chunk */
        opaque checksum[16];
    } Request;
    """

    TYPE: ClassVar[int] = 0x08

    header: Header
    context: bytes
    alive: frozenset[ClientId]
    summands: Mapping[ClientId, bytes]
    seconds: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        summands = write_map(self.summands, bytes)
        return seal_checksum(
            _head(self) + self.context + alive_bytes(self.alive) + summands + self.seconds
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, expect: Header, context: bytes, params: Params) -> Self:
        """Raises ``DecodeError`` unless ``data`` is one ``Request`` under ``context``."""
        reader = _open(cls.TYPE, data, expect)
        _expect(context, reader, "a request")
        alive = frozenset(read_map(reader, lambda _: None))
        summands = read_map(reader, lambda source: source.take(DIGEST_SIZE))
        seconds = reader.take(params.partial_size)
        reader.finish()
        return cls(header=expect, context=context, alive=alive, summands=summands, seconds=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """A holder's partial decryption, and its share of the key of each holder that is gone.

    struct {
        uint32 holder;
        opaque share[32];
    } Entry;

    struct {
        uint8  type = 0x09;
        opaque session[16];
        uint32 round;
        uint32 sender;
        opaque parts[];             /* c1 s_i + noise, chunk by chunk */
        uint32 count;
        Entry  shares[count];
        opaque checksum[16];
    } Partial;
    """

    TYPE: ClassVar[int] = 0x09

    header: Header
    sender: ClientId
    parts: bytes = field(repr=False)
    shares: Mapping[ClientId, Secret] = field(repr=False)

    def to_bytes(self) -> bytes:
        body = u32(self.sender) + self.parts + write_map(self.shares, Secret.expose)
        return seal_checksum(_head(self) + body)

    @classmethod
    def from_bytes(cls, data: bytes, *, expect: Header, params: Params) -> Self:
        """Raises ``DecodeError`` unless ``data`` is one ``Partial`` of that session and round."""
        reader = _open(cls.TYPE, data, expect)
        message = cls(
            header=expect,
            sender=reader.u32(),
            parts=reader.take(params.partial_size),
            shares=read_map(reader, lambda source: Secret(source.take(SHARE_SIZE))),
        )
        reader.finish()
        return message


Message: TypeAlias = (
    Advertise | Roster | Opening | ShareBoxes | Openings | Frame | SharedSum | Request | Partial
)


def place(header: Header, party: ClientId) -> bytes:
    """Of what a party burns in a round, or under the header of the key in a session."""
    return header.to_bytes() + u32(party)


def check_summands(summands: Mapping[ClientId, bytes], params: Params) -> None:
    """``RemoteProtocolError`` unless they are as many as agreed, and each another."""
    if not params.minimum_survivors <= len(summands) <= params.clients:
        raise RemoteProtocolError(
            f"a sum of {len(summands)} uploads is outside "
            f"[{params.minimum_survivors}, {params.clients}]"
        )
    if len(set(summands.values())) < len(summands):
        raise RemoteProtocolError("a sum names one upload twice")


def alive_bytes(alive: frozenset[ClientId]) -> bytes:
    """The set as it stands in a request."""
    return u32(len(alive)) + b"".join(map(u32, sorted(alive)))


def _head(message: Message) -> bytes:
    return bytes([message.TYPE]) + message.header.to_bytes()


def _open(kind: int, data: bytes, expect: Header) -> Reader:
    reader = Reader(open_checksum(data))
    reader.expect(kind, expect)
    return reader


def _expect(context: bytes, reader: Reader, what: str) -> None:
    if reader.view(DIGEST_SIZE) != context:
        raise DecodeError(f"{what} under another context: parameters, public inputs or key differ")
