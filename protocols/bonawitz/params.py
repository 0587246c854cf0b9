"""What all parties of a round agree upon before it, and the labels that follow from it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

from protocols.bonawitz.graph import GraphPlan, as_fraction, complete, plan_graph
from protocols.bonawitz.picks import LEFT_OUT
from protocols.checks import NO_SUM, check_integer, check_size
from protocols.errors import DecodeError, InputError
from protocols.primitives.prg import MAX_WORDS, Suite
from protocols.primitives.shamir import ORDER, majority
from protocols.wire import SESSION_SIZE, ClientId, Header, Reader, opaque, u32, u64

VERSION = b"secagg/1 bonawitz"
DIGEST_SIZE = 32  # bytes, SHA-256
UNKNOWN = hashlib.sha256(VERSION + b" keys alone").digest()  # of no public input that there is
TAG_SIZE = 8  # bytes of the same: two agreements in an accident, not in an attack


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a sparse graph is planned for, as decimals or fractions.

    Attributes:
      corrupt_fraction: fraction of the clients that work with the server.
      dropout: fraction that vanishes after the keys are in.
    """

    corrupt_fraction: Fraction | float | str
    dropout: Fraction | float | str

    def __post_init__(self) -> None:
        for name in ("corrupt_fraction", "dropout"):
            object.__setattr__(self, name, as_fraction(name, getattr(self, name)))

    def to_bytes(self) -> bytes:
        return opaque(str(self.corrupt_fraction).encode()) + opaque(str(self.dropout).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """The numbers that the guarantee depends on; every client checks them for itself.

    Attributes:
      clients: most clients a round may have; the caller's lanes must hold the sum of so many.
      threshold: complete graph: shares that rebuild a secret; t in [BIK+17].
      rates: instead of a threshold: the graph is planned for these and for the
        number of clients that advertise; see ``protocols.bonawitz.graph``.
      minimum_survivors: each client refuses to help open a sum of fewer. In a sparse graph
        without ``active`` a client sees its neighbours only, so it cannot verify this number.
      words: uint64 words of an input vector, m there.
      suite: the cipher that expands masks.
      active: the server may lie: identities, signed keys, signed survivors.
      max_corrupt: with ``active`` and ``threshold``: clients that may work with the
        server, n_C; by default a third of ``clients``, whoever is in the roster.
    """

    clients: int
    threshold: int | None = None
    rates: Rates | None = None
    minimum_survivors: int = 2
    words: int
    suite: Suite = Suite.AES_128_CTR
    active: bool = False
    max_corrupt: int | None = None

    def __post_init__(self) -> None:
        check_integer("clients", self.clients, 2)
        if (self.threshold is None) is (self.rates is None):
            raise InputError("give either threshold, or rates, for which a graph is planned")
        if self.threshold is not None:
            check_integer("threshold", self.threshold, 2, min(self.clients, ORDER))
        check_integer("minimum_survivors", self.minimum_survivors, 2, self.clients, why=NO_SUM)
        check_integer("words", self.words, 1, MAX_WORDS - 1)
        if self.max_corrupt is not None:
            check_integer("max_corrupt", self.max_corrupt, 0, self.clients - 1)
            if not self.active or self.rates is not None:
                raise InputError(
                    f"max_corrupt {self.max_corrupt} needs active=True and a threshold"
                )
        if self.active and self.threshold:
            self._check_majority(self.threshold)
        self.plan(self.clients)

    def _check_majority(self, threshold: int) -> None:
        """Against a server that may lie: no two rosters that share no honest client reach it."""
        if 2 * threshold <= self.clients + self.corrupted:
            raise InputError(
                f"threshold {threshold} is no majority of {self.clients} share holders, "
                f"{self.corrupted} of them corrupt"
            )

    def plan(self, size: int) -> GraphPlan:
        """The graph among ``size`` clients.

        Raises:
          InputError: no graph keeps what is promised.
        """
        chosen = (
            plan_graph(
                size,
                self.rates.corrupt_fraction,
                self.rates.dropout,
                active=self.active,
                agreed=self.clients,
            )
            if self.rates is not None
            else complete(self.threshold or 0)
        )
        if chosen.degree is None and size > ORDER:
            raise InputError(f"{size} clients: a complete graph has at most {ORDER}")
        return chosen

    @property
    def corrupted(self) -> int:
        """Clients that may work with a server that lies, whoever is in the roster; n_C there.

        With ``rates`` the fraction is of ``clients``: such a server may leave honest ones out.
        """
        if not self.active:
            return 0
        if self.rates is not None:
            return int(as_fraction("corrupt_fraction", self.rates.corrupt_fraction) * self.clients)
        return self.clients // 3 if self.max_corrupt is None else self.max_corrupt

    @property
    def left_out(self) -> int:
        """Most honest survivors, of the one set that was signed, that may not be in the sum.

        Only where clients pick their holders; of every roster that may come, as no plan leaves
        out more than this part of its clients.
        """
        return self.clients // LEFT_OUT if self.active and self.rates is not None else 0

    def needed(self, plan: GraphPlan) -> int:
        """Survivors without whom nothing is released.

        A graph is planned for the roster that was shown, and a server that lies shows several.
        So many of all ``clients`` must survive that two rosters share one that is honest.
        """
        several = self.active and self.rates is not None
        least = majority(self.clients, self.corrupted) if several else 0
        return max(self.minimum_survivors, plan.quorum, least)

    def to_bytes(self) -> bytes:
        rates = self.rates.to_bytes() if self.rates else b""
        return (
            u32(self.clients)
            + u32(self.threshold or 0)
            + u32(self.minimum_survivors)
            + u64(self.words)
            + bytes([self.suite, self.active])
            + u32(NO_CORRUPT if self.max_corrupt in (None, self.clients // 3) else self.max_corrupt)
            + opaque(rates)
        )

    @classmethod
    def read(cls, reader: Reader) -> Self:
        clients, threshold, minimum_survivors = reader.u32(), reader.u32(), reader.u32()
        words, suite, active = reader.u64(), reader.u8(), reader.u8()
        corrupt, rates = reader.u32(), reader.opaque()
        try:
            params = cls(
                clients=clients,
                threshold=threshold or None,
                rates=_rates(rates) if rates else None,
                minimum_survivors=minimum_survivors,
                words=words,
                suite=_suite(suite),
                active=bool(active),
                max_corrupt=None if corrupt == NO_CORRUPT else corrupt,
            )
        except (InputError, UnicodeDecodeError) as error:
            raise DecodeError(str(error)) from None
        unreduced = params.rates is not None and params.rates.to_bytes() != rates
        if active > 1 or corrupt == clients // 3 or unreduced:
            raise DecodeError("parameters in another encoding than ours")
        return params


NO_CORRUPT = 2**32 - 1  # on the wire: the default


def _rates(data: bytes) -> Rates:
    reader = Reader(data)
    rates = Rates(corrupt_fraction=reader.opaque().decode(), dropout=reader.opaque().decode())
    reader.finish()
    return rates


def _suite(number: int) -> Suite:
    try:
        return Suite(number)
    except ValueError:
        raise DecodeError(f"no suite has number {number}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Everything public about one round.

    Attributes:
      params: clients, threshold, graph and length of the vector.
      session: 16 random bytes, never used twice.
      round: the round's number in its session.
      public_digest: SHA-256 over whatever else the application made public for this
        round: the model's bytes, clip, scale, rotation seed, layout of the vector.
        Clients who were told different things then do not cancel, and nobody
        learns anything (arXiv 2111.07380 is the attack). ``UNKNOWN`` while keys and shares
        are sent ahead of it: no vector is masked under such an agreement.
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

    @property
    def known(self) -> bool:
        """Whether everything public is in it."""
        return self.public_digest != UNKNOWN

    def completes(self, earlier: "Agreement") -> bool:
        """Whether this is what ``earlier`` was to become: the same with all that is public."""
        unknown = replace(self, public_digest=UNKNOWN)
        return self.known and unknown == earlier and not self.params.active

    def to_bytes(self) -> bytes:
        return self.header.to_bytes() + self.params.to_bytes() + self.public_digest

    @classmethod
    def read(cls, reader: Reader) -> Self:
        session, round_number = reader.take(SESSION_SIZE), reader.u32()
        return cls(
            session=session,
            round=round_number,
            params=Params.read(reader),
            public_digest=reader.take(DIGEST_SIZE),
        )

    @property
    def tag(self) -> bytes:
        """The start of SHA-256 of all of it: what a message says of what its sender agrees to."""
        return hashlib.sha256(self.to_bytes()).digest()[:TAG_SIZE]

    def advertised_by(self) -> Callable[[ClientId], bytes]:
        """Labels of the signatures on clients' keys; the agreement is hashed once for all."""
        of_all = b" ".join((VERSION, b"keys", hashlib.sha256(self.to_bytes()).digest(), b""))
        return lambda client: of_all + u32(client)

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

    def included(self, client: ClientId) -> bytes:
        """Label of a client's mark: its signature on whom it has masked with."""
        return self._label(b"included", u32(client))

    def survivors(self) -> bytes:
        """Label of a signature on the set of survivors."""
        return self._label(b"survivors", b"")

    def _label(self, usage: bytes, about: bytes) -> bytes:
        return b" ".join((VERSION, usage, b"")) + self.digest + self.header.to_bytes() + about
