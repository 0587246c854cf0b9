"""The messages of a round, in the order they travel.

    client                                  server
      | --- Advertise --------------------->  |   AdvertiseKeys
      | <---------------------- Roster -----  |
      | --- SealedShares ------------------>  |   ShareKeys
      | <------------------ ShareBoxes -----  |
      | --- MaskedFrame, ..., Mark -------->  |   MaskedInput; Mark where clients pick holders
      | <------------------- Survivors -----  |
      | --- SignedSurvivors --------------->  |   ConsistencyCheck, active server only
      | <------------------ Signatures -----  |
      | --- Reveal ------------------------>  |   Unmask

Integers are big-endian, words little-endian. Every list is sorted by client,
each at most once, and a set of clients is the shorter of two forms
(``protocols.wire.write_subset``), so that a message has one encoding. Client messages
end in a checksum: the first 16 bytes of SHA-256 over what stands before it.

[BIK+17]: https://eprint.iacr.org/2017/281, Figure 4.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from protocols.bonawitz.params import DIGEST_SIZE, TAG_SIZE, Agreement
from protocols.errors import DecodeError, RemoteProtocolError
from protocols.primitives.aead import OVERHEAD
from protocols.primitives.agree import KEY_SIZE
from protocols.primitives.prg import SEED_SIZE
from protocols.primitives.sign import SIGNATURE_SIZE, verify
from protocols.secrets import Secret
from protocols.wire import (
    ClientId,
    Fields,
    Header,
    Message,
    Reader,
    read_subset,
    u32,
    write_map,
    write_subset,
)

SHARE_SIZE = SEED_SIZE  # bytes; a share is as long as the seed or key it is of
BOX_SIZE = 2 * SHARE_SIZE + OVERHEAD  # bytes: both shares, nonce and tag
FRAME_WORDS = 2**15  # 256 KiB: header and checksum are under 0.02% of a full frame


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKeys:
    """A client's two public keys, X25519.

    Attributes:
      mask: agrees on pairwise masks, fresh for each round, since its secret half
        may be rebuilt by peers; s^PK in [BIK+17].
      seal: seals the shares; its secret half never leaves the client; c^PK there.
      signature: of both, by the client's identity; empty where the server is trusted
        to pass keys on unchanged.
    """

    mask: bytes
    seal: bytes
    signature: bytes = b""

    def to_bytes(self) -> bytes:
        return self.mask + self.seal + self.signature

    @classmethod
    def read(cls, reader: Reader, *, signed: bool) -> Self:
        data = reader.take(2 * KEY_SIZE + (SIGNATURE_SIZE if signed else 0))
        mask, seal = data[:KEY_SIZE], data[KEY_SIZE : 2 * KEY_SIZE]
        return cls(mask=mask, seal=seal, signature=data[2 * KEY_SIZE :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertise(Message):
    """AdvertiseKeys: a client's public keys.

    struct {
        uint8  version = 0x01;
        uint8  type = 0x01;
        opaque session[16];
        uint32 round;
        uint32 sender;
        opaque mask_key[32];
        opaque seal_key[32];
        opaque signature[64];       /* active server only */
        opaque checksum[16];
    } Advertise;
    """

    TYPE: ClassVar[int] = 0x01

    sender: ClientId
    keys: PublicKeys

    def fields(self) -> Fields:
        return u32(self.sender), self.keys.to_bytes()

    @classmethod
    def read(cls, reader: Reader, header: Header, *, signed: bool = False) -> Self:
        return cls(header=header, sender=reader.u32(), keys=PublicKeys.read(reader, signed=signed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster(Message):
    """The server's answer: who takes part, with which keys.

    Everybody, or in the server's sparse graph the recipient and its neighbours; the
    number and the hash of all are then the server's word.

    struct {
        uint32 client;
        opaque mask_key[32];
        opaque seal_key[32];
        opaque signature[64];       /* active server only */
    } Member;

    struct {
        uint8  version = 0x01;
        uint8  type = 0x02;
        opaque session[16];
        uint32 round;
        opaque agreement[8];        /* the start of SHA-256(Agreement) */
        uint32 size;                /* all who advertised */
        opaque digest[32];          /* SHA-256 of the members, all of them */
        uint32 count;
        Member members[count];      /* the recipient too */
    } Roster;
    """

    TYPE: ClassVar[int] = 0x02
    CHECKSUM: ClassVar[bool] = False

    agreement: bytes
    entries: dict[ClientId, PublicKeys]
    part_of: tuple[int, bytes] | None = None  # size and digest, where not everybody is listed
    _read: bytes = field(default=b"", init=False, repr=False, compare=False)  # digest of its bytes

    @property
    def size(self) -> int:
        """How many clients advertised."""
        return self.part_of[0] if self.part_of else len(self.entries)

    def digest(self) -> bytes:
        """SHA-256 of all entries: what the context of the round says of its members."""
        if self.part_of:
            return self.part_of[1]
        return self._read or hashlib.sha256(self._list()[4:]).digest()

    def part(self, clients: Iterable[ClientId], digest: bytes) -> Self:
        """The roster as it is shown to somebody who needs to know some of the clients.

        Args:
          digest: of all entries, so that it is made once for all recipients.
        """
        entries = {client: self.entries[client] for client in sorted(clients)}
        return replace(self, entries=entries, part_of=(self.size, digest))

    def fields(self) -> Fields:
        return self.agreement, u32(self.size), self.digest(), self._list()

    def _list(self) -> bytes:
        return write_map(self.entries, PublicKeys.to_bytes)

    @classmethod
    def read(cls, reader: Reader, header: Header, *, signed: bool = False) -> Self:
        agreement, size, digest = reader.take(TAG_SIZE), reader.u32(), reader.take(DIGEST_SIZE)
        listed = reader.rest
        sizes = (KEY_SIZE, KEY_SIZE, SIGNATURE_SIZE if signed else 0)
        entries = {
            client: PublicKeys(mask=mask, seal=seal, signature=signature)
            for client, mask, seal, signature in reader.rows(*sizes)
        }
        message = cls(header=header, agreement=agreement, entries=entries)
        if size > len(entries):
            return replace(message, part_of=(size, digest))
        read = listed[4 : len(listed) - reader.left]  # as they stand: they have one encoding
        object.__setattr__(message, "_read", hashlib.sha256(read).digest())
        if size < len(entries) or digest != message.digest():
            raise DecodeError(f"a roster of {len(entries)} clients has another size or hash")
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedShares(Message):
    """ShareKeys: for each peer a box with its two shares of the sender's secrets.

    struct {
        uint32 recipient;
        opaque box[92];             /* nonce[12], ciphertext[64], tag[16] */
    } BoxTo;

    struct {
        uint8  version = 0x01;
        uint8  type = 0x03;
        opaque session[16];
        uint32 round;
        uint32 sender;
        opaque agreement[8];        /* the start of SHA-256(Agreement) */
        uint32 count;
        BoxTo  boxes[count];
        opaque checksum[16];
    } SealedShares;
    """

    TYPE: ClassVar[int] = 0x03

    sender: ClientId
    agreement: bytes
    boxes: dict[ClientId, bytes] = field(repr=False)

    def fields(self) -> Fields:
        return u32(self.sender), self.agreement, write_map(self.boxes, bytes)

    @classmethod
    def read(cls, reader: Reader, header: Header) -> Self:
        sender, agreement = reader.u32(), reader.take(TAG_SIZE)
        boxes = reader.fixed_map(BOX_SIZE)
        return cls(header=header, sender=sender, agreement=agreement, boxes=boxes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareBoxes(Message):
    """The boxes that peers sealed for one client, passed on by the server.

    Where clients pick their holders, those are boxes of who picked the recipient, and the
    message says who shared, so that the recipient knows which of its own picks did.

    struct {
        uint32 sender;
        opaque box[92];
    } BoxFrom;

    struct {
        uint8  version = 0x01;
        uint8  type = 0x04;
        opaque session[16];
        uint32 round;
        uint32 recipient;
        uint32 count;
        BoxFrom boxes[count];
        Subset shared;              /* clients' own picks only: of the roster */
    } ShareBoxes;
    """

    TYPE: ClassVar[int] = 0x04
    CHECKSUM: ClassVar[bool] = False

    recipient: ClientId
    boxes: dict[ClientId, bytes] = field(repr=False)
    shared: bytes = b""

    def fields(self) -> Fields:
        return u32(self.recipient), write_map(self.boxes, bytes), self.shared

    @classmethod
    def read(cls, reader: Reader, header: Header, *, size: int = 0) -> Self:
        """``size``: of the roster where clients pick their own holders, or else 0."""
        recipient, boxes = reader.u32(), reader.fixed_map(BOX_SIZE)
        shared = reader.subset(size) if size else b""
        return cls(header=header, recipient=recipient, boxes=boxes, shared=shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedFrame(Message):
    """MaskedInput: one part of a client's masked vector, at most 2**15 words.

    The vector is the input and one more word, the check word, in which every
    client counts 1. All frames but the last are full.

    struct {
        uint8  version = 0x01;
        uint8  type = 0x05;
        opaque session[16];
        uint32 round;
        uint32 sender;
        uint32 index;               /* of this frame, from 0 */
        uint64 words[];             /* little-endian */
        opaque checksum[16];
    } MaskedFrame;
    """

    TYPE: ClassVar[int] = 0x05

    sender: ClientId
    index: int
    words: NDArray[np.uint64] = field(repr=False)

    def fields(self) -> Fields:
        return u32(self.sender), u32(self.index), self.words.astype("<u8", copy=False).data

    @classmethod
    def read(cls, reader: Reader, header: Header, *, index: int, count: int) -> Self:
        """Raises ``DecodeError`` unless this is frame ``index``, of ``count`` words.

        ``words`` of the result is a view into what is read.
        """
        sender = reader.u32()
        if (found := reader.u32()) != index:
            raise DecodeError(f"frame {found} of client {sender}, expected frame {index}")
        words = np.frombuffer(reader.view(8 * count), "<u8")
        return cls(header=header, sender=sender, index=index, words=words)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedSet:
    """The clients that one has masked with, as ``write_subset`` writes them, and its signature.

    struct {
        Subset included;            /* of the roster */
        opaque signature[64];       /* of included, under the label included(client) */
    } SignedSet;
    """

    included: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        return self.included + self.signature

    @classmethod
    def read(cls, reader: Reader, *, size: int) -> Self:
        """``size``: of the roster."""
        return cls(included=reader.subset(size), signature=_signature(reader))

    def check(
        self, identity: bytes, label: bytes, members: Sequence[ClientId]
    ) -> frozenset[ClientId]:
        """The clients that it names; ``RemoteProtocolError`` unless ``identity`` has signed it."""
        verify(identity, label, self.included, self.signature)
        return read_subset(self.included, members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark(Message):
    """MaskedInput, behind the last frame, where clients pick their holders.

    struct {
        uint8  version = 0x01;
        uint8  type = 0x0a;
        opaque session[16];
        uint32 round;
        uint32 sender;
        SignedSet mark;
        opaque checksum[16];
    } Mark;
    """

    TYPE: ClassVar[int] = 0x0A

    sender: ClientId
    mark: SignedSet

    def fields(self) -> Fields:
        return u32(self.sender), self.mark.to_bytes()

    @classmethod
    def read(cls, reader: Reader, header: Header, *, size: int) -> Self:
        """``size``: of the roster."""
        return cls(header=header, sender=reader.u32(), mark=SignedSet.read(reader, size=size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivors(Message):
    """The server says whose masked vectors it has. Who is not named is gone.

    Of those that the recipient was shown; in the server's sparse graph it learns of the others
    only how many they are. Where clients pick their holders, with the marks of those survivors
    that the recipient has masked with.

    struct {
        uint32 client;
        SignedSet mark;
    } MarkOf;

    struct {
        uint8  version = 0x01;
        uint8  type = 0x06;
        opaque session[16];
        uint32 round;
        Subset alive;               /* of the roster as the recipient was shown it */
        uint32 unseen;              /* part of a roster only: survivors that it was not shown */
        uint32 count;               /* clients' own picks only, as what follows */
        MarkOf marks[count];
    } Survivors;

    Attributes:
      members: the roster as the recipient was shown it, in order; it does not travel.
    """

    TYPE: ClassVar[int] = 0x06
    CHECKSUM: ClassVar[bool] = False

    alive: frozenset[ClientId]
    members: Sequence[ClientId] = field(repr=False, compare=False)
    unseen: int | None = None
    marks: dict[ClientId, SignedSet] | None = None

    @property
    def count(self) -> int:
        """How many survivors there are."""
        return len(self.alive) + (self.unseen or 0)

    def fields(self) -> Fields:
        unseen = b"" if self.unseen is None else u32(self.unseen)
        marks = b"" if self.marks is None else write_map(self.marks, SignedSet.to_bytes)
        return self.body(), unseen, marks

    @classmethod
    def read(
        cls,
        reader: Reader,
        header: Header,
        *,
        members: Sequence[ClientId],
        part: bool = False,
        marked: bool = False,
    ) -> Self:
        """``part``: of a roster is what ``members`` are; ``marked``: clients pick their holders."""
        size = len(members)
        alive = read_subset(reader.subset(size), members)
        unseen = reader.u32() if part else None
        marks = reader.map(lambda source: SignedSet.read(source, size=size)) if marked else None
        return cls(header=header, alive=alive, members=members, unseen=unseen, marks=marks)

    def body(self) -> bytes:
        """The set alone: what is signed, together with the context of the round."""
        return write_subset(self.alive, self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedSurvivors(Message):
    """ConsistencyCheck, active server only: the sender was shown this set and no other.

    struct {
        uint8  version = 0x01;
        uint8  type = 0x08;
        opaque session[16];
        uint32 round;
        uint32 sender;
        opaque signature[64];       /* of alive in Survivors, under the label survivors */
        opaque checksum[16];
    } SignedSurvivors;
    """

    TYPE: ClassVar[int] = 0x08

    sender: ClientId
    signature: bytes

    def fields(self) -> Fields:
        return u32(self.sender), self.signature

    @classmethod
    def read(cls, reader: Reader, header: Header) -> Self:
        return cls(header=header, sender=reader.u32(), signature=_signature(reader))


@dataclass(frozen=True, slots=True, kw_only=True)
class Signatures(Message):
    """The signatures of the recipient's peers, passed on by the server.

    struct {
        uint32 client;
        opaque signature[64];
    } SignatureOf;

    struct {
        uint8  version = 0x01;
        uint8  type = 0x09;
        opaque session[16];
        uint32 round;
        uint32 count;
        SignatureOf signatures[count];
    } Signatures;
    """

    TYPE: ClassVar[int] = 0x09
    CHECKSUM: ClassVar[bool] = False

    signatures: dict[ClientId, bytes]

    def fields(self) -> Fields:
        return (write_map(self.signatures, bytes),)

    @classmethod
    def read(cls, reader: Reader, header: Header) -> Self:
        return cls(header=header, signatures=reader.fixed_map(SIGNATURE_SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reveal(Message):
    """Unmask: for each peer one share, of its self-mask if it is alive, of its mask key if not.

    struct {
        uint32 peer;
        opaque share[32];
    } ShareOf;

    struct {
        uint8  version = 0x01;
        uint8  type = 0x07;
        opaque session[16];
        uint32 round;
        uint32 sender;
        uint32 count;
        ShareOf shares[count];
        opaque checksum[16];
    } Reveal;
    """

    TYPE: ClassVar[int] = 0x07

    sender: ClientId
    shares: dict[ClientId, Secret] = field(repr=False)

    def fields(self) -> Fields:
        return u32(self.sender), write_map(self.shares, Secret.expose)

    @classmethod
    def read(cls, reader: Reader, header: Header) -> Self:
        sender = reader.u32()
        shares = reader.fixed_map(SHARE_SIZE)
        return cls(
            header=header,
            sender=sender,
            shares={client: Secret(share) for client, share in shares.items()},
        )


def _signature(reader: Reader) -> bytes:
    return reader.take(SIGNATURE_SIZE)


def check_agreed(agreement: Agreement, tag: bytes, whose: str) -> None:
    """Raises ``RemoteProtocolError`` unless ``tag`` is that of ``agreement``.

    It stops no liar, whose boxes would not open; it says early what is wrong.
    """
    if tag != agreement.tag:
        raise RemoteProtocolError(
            f"{whose} agrees to something else: SHA-256 of its agreement begins with {tag.hex()}, "
            f"of ours with {agreement.tag.hex()}"
        )


def check_keys(label: bytes, client: ClientId, keys: PublicKeys, identity: bytes) -> None:
    """Raises ``RemoteProtocolError`` unless ``identity`` signed these keys under ``label``."""
    try:
        verify(identity, label, keys.mask + keys.seal, keys.signature)
    except RemoteProtocolError:
        raise RemoteProtocolError(
            f"the keys of client {client} are not signed by its identity"
        ) from None


def frame_sizes(words: int) -> list[int]:
    """Words of each frame of a vector of ``words`` words, the check word included."""
    full, rest = divmod(words, FRAME_WORDS)
    return [FRAME_WORDS] * full + [rest] * (rest > 0)
