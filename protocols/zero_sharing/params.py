"""What all ranks of an epoch agree upon before it, and the labels that follow from it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from protocols.checks import check_integer, check_size
from protocols.primitives.prg import Suite
from protocols.wire import ClientId, Header, u32, u64

VERSION = b"secagg/1 zero sharing"
DIGEST_SIZE = 32  # bytes, SHA-256
TAG_SIZE = 8  # bytes of the same: two agreements in an accident, not in an attack
FLAG_BITS = 16  # of the flag word, for each reason
MAX_RANKS = 2**FLAG_BITS - 1  # or a count of them would run into the next reason's
TAIL_WORDS = 2  # behind the input words of each shard: flag word and check word


class Flag(IntEnum):
    """Why a rank adds zeros: its place in the flag word, which counts such ranks."""

    NOT_FINITE = 0
    OUT_OF_RANGE = 1
    FAILED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """The numbers that the guarantee depends on; every rank checks them for itself.

    Attributes:
      ranks: of the group, numbered from 0; all take part in every sum.
      suite: the cipher that expands masks.
      signed: keys are signed by identities that every rank knows beforehand. Without it
        whoever carries the keys can put its own in their place.
    """

    ranks: int
    suite: Suite = Suite.AES_128_CTR
    signed: bool = False

    def __post_init__(self) -> None:
        check_integer("ranks", self.ranks, 2, MAX_RANKS, why=": a rank alone has nobody to hide it")

    def to_bytes(self) -> bytes:
        return u32(self.ranks) + bytes([self.suite, self.signed])


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Everything public about one epoch, before its keys.

    Attributes:
      params: how many ranks, and whether keys are signed.
      session: 16 bytes; they may repeat, as keys are fresh in every epoch.
      round: a number, to tell epochs apart.
      public_digest: SHA-256 over whatever else the application made public: the model that all
        start from, the range and bits of an entry. Ranks that were told different things do not
        cancel, and nobody learns anything.
    """

    params: Params
    session: bytes
    round: int
    public_digest: bytes

    def __post_init__(self) -> None:
        Header(self.session, self.round)
        check_size("public_digest", self.public_digest, DIGEST_SIZE)

    @property
    def header(self) -> Header:
        return Header(self.session, self.round)

    def to_bytes(self) -> bytes:
        return self.header.to_bytes() + self.params.to_bytes() + self.public_digest

    @property
    def tag(self) -> bytes:
        """The start of SHA-256 of all of it: what a message says of what its sender agrees to."""
        return hashlib.sha256(self.to_bytes()).digest()[:TAG_SIZE]

    def advertised_by(self, rank: ClientId) -> bytes:
        """Label of the signature on a rank's key."""
        agreed = hashlib.sha256(self.to_bytes()).digest()
        return b" ".join((VERSION, b"keys", agreed, u32(rank)))

    def context(
        self, keys: Mapping[ClientId, bytes], identities: Mapping[ClientId, bytes]
    ) -> "Context":
        """The context of an epoch of these keys, under these identities if keys are signed."""
        members = (u32(rank) + keys[rank] + identities.get(rank, b"") for rank in sorted(keys))
        agreed = VERSION + self.to_bytes() + b"".join(members)
        return Context(header=self.header, digest=hashlib.sha256(agreed).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A hash of every public input of an epoch and of its keys; it enters every label of it."""

    header: Header
    digest: bytes

    def pair(self, one: ClientId, other: ClientId) -> bytes:
        """Label of the seed that two ranks share."""
        return self._label(b"pair", u32(min(one, other)) + u32(max(one, other)))

    def mask(
        self, *, counter: int, bucket: int, words: int, shards: int, after: int, seen: bytes
    ) -> bytes:
        """Label of the mask of one collective; ``seen``: of the totals before ``after``."""
        numbers = u64(counter) + u32(bucket) + u64(words) + u32(shards) + u64(after)
        return self._label(b"mask", numbers + seen)

    def total(self, counter: int) -> bytes:
        """Label of the key with which two ranks authenticate what they saw as a total."""
        return self._label(b"total", u64(counter))

    def _label(self, usage: bytes, about: bytes) -> bytes:
        return b" ".join((VERSION, usage, b"")) + self.digest + self.header.to_bytes() + about


def tail(flag: Flag | None) -> tuple[int, int]:
    """The flag word and the check word of one rank."""
    return (0 if flag is None else 1 << FLAG_BITS * flag), 1
