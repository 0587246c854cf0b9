"""What all parties of a round agree upon before it, and the labels that follow from it."""

import hashlib
from dataclasses import dataclass
from typing import Self, TypeAlias

from protocols.errors import DecodeError, ParameterError
from protocols.primitives.prg import MAX_WORDS, Suite
from protocols.primitives.shamir import ORDER
from protocols.wire import SESSION_SIZE, Header, Reader, u32, u64

ClientId: TypeAlias = int  # a client's number in a session, in [0, 2**32)

VERSION = b"secagg/1 bonawitz"
DIGEST_SIZE = 32  # bytes, SHA-256


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """The numbers that the guarantee depends on; every client checks them for itself.

    Attributes:
      clients: most clients a round may have; the caller's lanes must hold the sum of so many.
      threshold: shares that rebuild a secret; t in [BIK+17]. Fewer survivors give nothing.
      minimum_survivors: each client refuses to help open a sum of fewer.
      words: uint64 words of an input vector, m there.
      suite: the cipher that expands masks.
    """

    clients: int
    threshold: int
    minimum_survivors: int = 2
    words: int
    suite: Suite = Suite.AES_128_CTR

    def __post_init__(self) -> None:
        if not 2 <= self.clients <= ORDER:
            raise ParameterError(f"{self.clients} clients: at least 2 and at most {ORDER} can sum")
        if not 2 <= self.threshold <= self.clients:
            raise ParameterError(
                f"threshold {self.threshold} of {self.clients} clients is outside "
                f"[2, {self.clients}]"
            )
        if not 2 <= self.minimum_survivors <= self.clients:
            raise ParameterError(
                f"minimum_survivors {self.minimum_survivors} of {self.clients} clients is outside "
                f"[2, {self.clients}]: the sum of one is no sum"
            )
        if not 1 <= self.words < MAX_WORDS:
            raise ParameterError(f"{self.words} words are outside [1, {MAX_WORDS})")

    @property
    def needed(self) -> int:
        """Survivors without whom nothing is released."""
        return max(self.threshold, self.minimum_survivors)

    def to_bytes(self) -> bytes:
        numbers = (self.clients, self.threshold, self.minimum_survivors)
        return b"".join(map(u32, numbers)) + u64(self.words) + bytes([self.suite])

    @classmethod
    def read(cls, reader: Reader) -> Self:
        clients, threshold, minimum_survivors = reader.u32(), reader.u32(), reader.u32()
        try:
            return cls(
                clients=clients,
                threshold=threshold,
                minimum_survivors=minimum_survivors,
                words=reader.u64(),
                suite=_suite(reader.u8()),
            )
        except ParameterError as error:
            raise DecodeError(str(error)) from None


def _suite(number: int) -> Suite:
    try:
        return Suite(number)
    except ValueError:
        raise DecodeError(f"no suite has number {number}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Everything public about one round.

    Attributes:
      session: 16 random bytes, never used twice.
      round: the round's number in its session.
      public: SHA-256 over whatever else the application made public for this
        round: the model's bytes, clip, scale, rotation seed, layout of the vector.
        Clients who were told different things then do not cancel, and nobody
        learns anything (arXiv 2111.07380 is the attack).
    """

    params: Params
    session: bytes
    round: int
    public: bytes

    def __post_init__(self) -> None:
        Header(self.session, self.round)
        if len(self.public) != DIGEST_SIZE:
            raise ParameterError(f"public has {len(self.public)} bytes, expected {DIGEST_SIZE}")

    @property
    def header(self) -> Header:
        return Header(self.session, self.round)

    def to_bytes(self) -> bytes:
        return self.header.to_bytes() + self.params.to_bytes() + self.public

    @classmethod
    def read(cls, reader: Reader) -> Self:
        session, round_number = reader.take(SESSION_SIZE), reader.u32()
        return cls(
            session=session,
            round=round_number,
            params=Params.read(reader),
            public=reader.take(DIGEST_SIZE),
        )

    def context(self, roster: bytes) -> "Context":
        """The context of a round among the clients of ``roster``, a digest."""
        return Context(
            header=self.header,
            digest=hashlib.sha256(VERSION + self.to_bytes() + roster).digest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A hash of every public input of a round; it enters every label of it."""

    header: Header
    digest: bytes

    def pair(self, one: ClientId, other: ClientId) -> bytes:
        """Label of the mask that two clients share."""
        return self._label(b"pair", u32(min(one, other)) + u32(max(one, other)))

    def self_mask(self, client: ClientId) -> bytes:
        """Label of the mask that a client adds alone; its seed is b_u in [BIK+17]."""
        return self._label(b"self", u32(client))

    def seal(
        self, sender: ClientId, recipient: ClientId, sender_key: bytes, recipient_key: bytes
    ) -> bytes:
        """Label of the box from one client to another; the keys are their fresh mask keys."""
        return self._label(b"seal", u32(sender) + u32(recipient) + sender_key + recipient_key)

    def draw(self, client: ClientId) -> bytes:
        """Label of the randomness that a client's second stage needs."""
        return self._label(b"draw", u32(client))

    def _label(self, usage: bytes, about: bytes) -> bytes:
        return b" ".join((VERSION, usage, b"")) + self.digest + self.header.to_bytes() + about
