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
from typing import ClassVar, Self

from protocols.ckks.params import DIGEST_SIZE, Engine, Model, Params
from protocols.errors import DecodeError, RemoteProtocolError
from protocols.primitives.aead import OVERHEAD
from protocols.primitives.agree import KEY_SIZE
from protocols.primitives.prg import SEED_SIZE
from protocols.secrets import Secret
from protocols.wire import ClientId, Fields, Header, Message, Reader, u32, write_map, write_set

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


def split(data: bytes, size: int) -> Iterator[bytes]:
    """Parts of ``size`` bytes, in order, the last of what is left."""
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
class Advertise(Message):
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

    sender: ClientId
    entry: Entry

    def fields(self) -> Fields:
        return u32(self.sender), self.entry.to_bytes()

    @classmethod
    def read(cls, reader: Reader, header: Header) -> Self:
        return cls(header=header, sender=reader.u32(), entry=Entry.read(reader))


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster(Message):
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

    entries: Mapping[ClientId, Entry]

    def fields(self) -> Fields:
        return (write_map(self.entries, Entry.to_bytes),)

    @classmethod
    def read(cls, reader: Reader, header: Header) -> Self:
        return cls(header=header, entries=reader.map(Entry.read))

    def digest(self) -> bytes:
        """SHA-256 of the entries: it enters the labels of boxes."""
        return hashlib.sha256(b"".join(self.fields())).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening(Message):
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
        opaque share[];             /* b_i, packed: L polynomials, or under all primes */
        uint32 count;
        Entry  boxes[count];
        opaque checksum[16];
    } Opening;
    """

    TYPE: ClassVar[int] = 0x03

    sender: ClientId
    blind: bytes
    share: bytes = field(repr=False)
    boxes: Mapping[ClientId, bytes] = field(repr=False)

    def fields(self) -> Fields:
        return u32(self.sender), self.blind, self.share, write_map(self.boxes, bytes)

    @classmethod
    def read(cls, reader: Reader, header: Header, *, params: Params) -> Self:
        return cls(
            header=header,
            sender=reader.u32(),
            blind=reader.take(BLIND_SIZE),
            share=reader.take(params.share_size),
            boxes=reader.map(_box),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareBoxes(Message):
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

    recipient: ClientId
    boxes: Mapping[ClientId, bytes] = field(repr=False)

    def fields(self) -> Fields:
        return u32(self.recipient), write_map(self.boxes, bytes)

    @classmethod
    def read(cls, reader: Reader, header: Header) -> Self:
        return cls(header=header, recipient=reader.u32(), boxes=reader.map(_box))


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
            share=reader.take(params.share_size),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Openings(Message):
    """All public shares. Everybody checks them and adds them up for itself.

    struct {
        uint32 holder;
        opaque commitment[32];
        opaque blind[32];
        opaque share[];             /* b_i, packed: L polynomials, or under all primes */
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

    entries: Mapping[ClientId, Opened] = field(repr=False)

    def fields(self) -> Fields:
        return (write_map(self.entries, Opened.to_bytes),)

    @classmethod
    def read(cls, reader: Reader, header: Header, *, params: Params) -> Self:
        entries = reader.map(lambda source: Opened.read(source, params))
        return cls(header=header, entries=entries)

    def digest(self) -> bytes:
        """SHA-256 of the entries: the name of the collective key."""
        return hashlib.sha256(b"".join(self.fields())).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(Message):
    """One ciphertext of a client's vector; an upload is all of them in order.

    struct {
        uint8  type = 0x06;
        opaque session[16];
        uint32 round;
        uint32 sender;
        uint32 index;               /* of this ciphertext, from 0 */
        opaque context[32];
        opaque ciphertext[];        /* see docs/protocols/ckks.md */
        opaque checksum[16];
    } Frame;
    """

    TYPE: ClassVar[int] = 0x06

    sender: ClientId
    index: int
    context: bytes
    ciphertext: bytes = field(repr=False)

    def fields(self) -> Fields:
        return u32(self.sender), u32(self.index), self.context, self.ciphertext

    @classmethod
    def read(
        cls, reader: Reader, header: Header, *, context: bytes, index: int, params: Params
    ) -> Self:
        sender = reader.u32()
        if (found := reader.u32()) != index:
            raise DecodeError(f"frame {found} of client {sender}, expected frame {index}")
        _expect(context, reader, f"frame {index} of client {sender}")
        body = reader.take(params.chunk_size(index))
        return cls(header=header, sender=sender, index=index, context=context, ciphertext=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSum(Message):
    """The sum under a shared key, for the clients to open.

    struct {
        uint32 client;
        opaque name[32];            /* of its upload: SHA-256 of all frames, or its seed */
    } Entry;

    struct {
        uint8  type = 0x07;
        opaque session[16];
        uint32 round;
        opaque context[32];
        uint32 count;
        Entry  summands[count];
        opaque ciphertexts[];       /* of each chunk, in order: c0; under SEAL c0, c1 */
        opaque checksum[16];
    } SharedSum;
    """

    TYPE: ClassVar[int] = 0x07

    context: bytes
    summands: Mapping[ClientId, bytes]
    ciphertexts: bytes = field(repr=False)

    def fields(self) -> Fields:
        return self.context, write_map(self.summands, bytes), self.ciphertexts

    def summands_digest(self) -> bytes:
        """SHA-256 of the list of summands, in the round's context."""
        return hashlib.sha256(self.context + write_map(self.summands, bytes)).digest()

    @classmethod
    def read(cls, reader: Reader, header: Header, *, context: bytes, params: Params) -> Self:
        _expect(context, reader, "a sum")
        summands = reader.map(_digest)
        body = reader.take(params.sum_size)
        return cls(header=header, context=context, summands=summands, ciphertexts=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
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

    context: bytes
    alive: frozenset[ClientId]
    summands: Mapping[ClientId, bytes]
    seconds: bytes = field(repr=False)

    def fields(self) -> Fields:
        return self.context, write_set(self.alive), write_map(self.summands, bytes), self.seconds

    @classmethod
    def read(cls, reader: Reader, header: Header, *, context: bytes, params: Params) -> Self:
        _expect(context, reader, "a request")
        alive, summands = reader.set("holders"), reader.map(_digest)
        body = reader.take(params.chunks * params.second_size)
        return cls(header=header, context=context, alive=alive, summands=summands, seconds=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial(Message):
    """A holder's partial decryption of one ciphertext; an answer is all of them in order.

    The first holds the holder's share of the key of each holder that is gone; the others none.

    struct {
        uint32 holder;
        opaque share[32];
    } Entry;

    struct {
        uint8  type = 0x09;
        opaque session[16];
        uint32 round;
        uint32 sender;
        uint32 index;               /* of the ciphertext, from 0 */
        opaque part[];              /* c1 s_i + noise */
        uint32 count;
        Entry  shares[count];
        opaque checksum[16];
    } Partial;
    """

    TYPE: ClassVar[int] = 0x09

    sender: ClientId
    index: int
    part: bytes = field(repr=False)
    shares: Mapping[ClientId, Secret] = field(repr=False)

    def fields(self) -> Fields:
        shares = write_map(self.shares, Secret.expose)
        return u32(self.sender), u32(self.index), self.part, shares

    @classmethod
    def read(cls, reader: Reader, header: Header, *, index: int, params: Params) -> Self:
        sender = reader.u32()
        if (found := reader.u32()) != index:
            raise DecodeError(f"part {found} of holder {sender}, expected part {index}")
        part = reader.take(params.part_size(index))
        shares = reader.map(lambda source: source.secret(SHARE_SIZE))
        return cls(header=header, sender=sender, index=index, part=part, shares=shares)


def seeds_name_uploads(params: Params) -> bool:
    """Whether a sum names its summands by the seeds of their c1, not by digests of their frames."""
    return params.model is Model.SHARED_KEY and params.engine is Engine.COEFFICIENTS


def check_summands(summands: Mapping[ClientId, bytes], params: Params) -> None:
    """``RemoteProtocolError`` unless they are as many as agreed, and each another."""
    if not params.minimum_survivors <= len(summands) <= params.clients:
        raise RemoteProtocolError(
            f"a sum of {len(summands)} uploads is outside "
            f"[{params.minimum_survivors}, {params.clients}]"
        )
    if len(set(summands.values())) < len(summands):
        raise RemoteProtocolError("a sum names one upload twice")


def _box(reader: Reader) -> bytes:
    return reader.take(BOX_SIZE)


def _digest(reader: Reader) -> bytes:
    return reader.take(DIGEST_SIZE)


def _expect(context: bytes, reader: Reader, what: str) -> None:
    if reader.view(DIGEST_SIZE) != context:
        raise DecodeError(f"{what} under another context: parameters, public inputs or key differ")
