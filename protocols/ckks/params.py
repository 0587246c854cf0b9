"""What the parties of a session agree upon before it, and what it costs them.

Guarantee: a ``Params`` that exists has 128 bits of security against classical attacks
by [BCC+24], cannot wrap around, and floods for the ``flooding`` bits that it names.
What it predicts is an error of the *mean*, in the unit of ``clip``.

Errors, for a polynomial of N coefficients, P key holders and n clients. Error
polynomials are centred binomials of 21 bits (variance 21/2), secrets and the u of a
public-key encryption are uniform in {-1, 0, 1} (variance 2/3). A coefficient of one
ciphertext's error then has variance

    shared key     21/2
    threshold      v = 21/2 (1 + 2 (2/3) P N); under a special prime p of SEAL's, which encryption
                   divides away with a rounding: v / p^2 + (1 + (2/3) P N) / 12

of a sum n times that, of a flooded result P sigma^2 more. An entry is a coefficient; under SEAL
it is a slot, which collects N coefficients, half of the variance in each of its two reals.

[BCC+24]: Bossuat et al., Security Guidelines for Implementing Homomorphic Encryption,
https://eprint.iacr.org/2024/463
[LMSS22]: Li, Micciancio, Schultz, Sorrell, https://eprint.iacr.org/2022/816
"""

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from protocols.checks import NO_SUM, check_integer, check_size
from protocols.ckks import residues
from protocols.ckks.coefficients import CHECKED, ROW_ENTRIES, Coefficients
from protocols.ckks.encoding import Encoding
from protocols.ckks.noise import MAX_DEVIATION
from protocols.ckks.residues import Ring, size
from protocols.errors import DecodeError, InputError
from protocols.primitives.shamir import ORDER, majority
from protocols.wire import SESSION_SIZE, Header, Reader, u32

MAX_BITS: Final = {1024: 26, 2048: 53, 4096: 106, 8192: 214, 16384: 430, 32768: 868}
"""log2 of the product of *all* primes, ternary secret, 128 bits classical [BCC+24].

The older table of the HE standard, which SEAL goes by, allows 27, 54, 109, 218, 438, 881.
"""

MIN_FLOODING: Final = 30  # bits: a delta of 2**-17.8; with less it is no smaller than usual ones
MAX_FLOODING: Final = 128  # bits: as many as everything else has
MIN_EXACT_BITS: Final = 8  # with 8 checked coefficients: another sum opens once in 2**64
_ERROR_VARIANCE: Final = 21 / 2  # of a centred binomial of 21 bits; SEAL's is one too
_TERNARY_VARIANCE: Final = 2 / 3
_TAIL_BITS: Final = 40  # a norm passes its bound once in 2**40 ciphertexts
_NEVER: Final = 12.5  # deviations: a Gaussian passes them once in 2**115
_DOUBLE: Final = 2.0**-52  # of the largest slot: what SEAL's transforms in doubles lose


class Model(IntEnum):
    """The key model: it says who can decrypt."""

    SHARED_KEY = 1  # every client alone; the server not
    THRESHOLD = 2  # enough of the holders together; nobody alone


class Engine(IntEnum):
    """Arithmetic that a session is of."""

    SEAL = 1  # slots modulo primes, by tenseal
    COEFFICIENTS = 2  # coefficients modulo a power of two, by numpy


def error_variance(ring: Ring | Coefficients, model: Model, holders: int) -> float:
    """Variance of a coefficient of one fresh ciphertext's error."""
    if model is Model.SHARED_KEY:
        return _ERROR_VARIANCE
    spread = _TERNARY_VARIANCE * holders * ring.degree
    fresh = _ERROR_VARIANCE * (1 + 2 * spread)
    if isinstance(ring, Coefficients) or not ring.special_bits:
        return fresh
    return fresh / ring.key_primes[-1] ** 2 + (1 + spread) / 12


def norm_bound(degree: int, variance: float) -> float:
    """Bound on the L2 norm of a polynomial whose coefficients have ``variance``; T.

    The squared norm is the mean of N/2 products of two exponentials: the error's spectrum,
    taken as Gaussian, times the secret's. With h = N/2 and x = 40 ln 2 the second are all
    below ln h + x but for 2**-40; cut there, the sum passes the bound below, which has the form
    of [Laurent, Massart 2000, Lemma 1], with 2**-50 at most at N from 2048 on, by Chernoff.
    """
    half, tail = degree / 2, _TAIL_BITS * math.log(2)
    excess = 2 * math.sqrt(tail / half) + (math.log(half) + tail) * tail / half
    return math.sqrt(degree * variance * (1 + excess))


def flooding_stddev(flooding: int, opened: int, norm: float) -> float:
    """Deviation of each coefficient of the noise that a holder adds: sqrt(12 tau) 2^(s/2) T.

    [LMSS22], for s bits after tau opened ciphertexts whose errors have L2 norms up to T.
    It hides them without the noise of other holders, who may be the reader's friends.
    """
    return math.sqrt(12 * opened) * 2 ** (flooding / 2) * norm


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """The numbers that the guarantee depends on; every party checks them for itself.

    :func:`protocols.ckks.plan_parameters` finds them. What is called deviation is that of a
    Gaussian, in integers of a coefficient unless said otherwise.

    Attributes:
      model: who can decrypt.
      clients: most ciphertexts that one sum may have, n.
      minimum_survivors: a holder answers for no sum of fewer.
      entries: of a client's vector: words of 64 bits, or reals under SEAL.
      clip: largest absolute value of a real; ``encoding`` and SEAL's context divide by it.
      ring: polynomials, and whose arithmetic: ``Coefficients``, or a ``Ring`` of SEAL's.
      scale_sixteenths: 1 is encoded as 2**(scale_sixteenths / 16), in units of a coefficient.
      flooding: s, bits of noise over what a result says about the key [LMSS22]; at
        least 30. None: shared key only, for results that no client ever publishes.
      decryptions: sums that may be opened under one key.
      holders: of shares of the threshold key, P; 0 for a shared key.
      threshold: holders who decrypt together, t; 0 for a shared key.
      max_corrupt: holders that may work with the server, n_C.
    """

    model: Model
    clients: int
    minimum_survivors: int = 2
    entries: int
    clip: float
    ring: Ring | Coefficients
    scale_sixteenths: int
    flooding: int | None = 40
    decryptions: int = 1
    holders: int = 0
    threshold: int = 0
    max_corrupt: int = 0

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_holders()
        if self.ring.bits > MAX_BITS[self.ring.degree]:
            raise InputError(
                f"primes of {self.ring.bits:.2f} bits in all at degree {self.ring.degree}: "
                f"128-bit security allows {MAX_BITS[self.ring.degree]}"
            )
        if self.flooding is not None and not MIN_FLOODING <= self.flooding <= MAX_FLOODING:
            raise InputError(
                f"flooding for {self.flooding} bits is outside [{MIN_FLOODING}, {MAX_FLOODING}]"
            )
        if self.flooding_stddev > MAX_DEVIATION:
            raise InputError(
                f"flooding needs a standard deviation of 2**{math.log2(self.flooding_stddev):.1f}, "
                "above 2**50"
            )
        if (
            not least_scale(self.ring)
            <= self.scale_sixteenths
            < 16 * self.ring.modulus.bit_length()
        ):
            raise InputError(f"scale 2**({self.scale_sixteenths}/16) does not fit the ring")
        if self.largest_coefficient >= self.ring.modulus / 2:
            raise InputError(
                f"a sum of {self.clients} clients may reach 2**"
                f"{math.log2(self.largest_coefficient):.2f}, and wraps around at "
                f"2**{math.log2(self.ring.modulus / 2):.2f}"
            )
        if self.engine is Engine.COEFFICIENTS and self.exact_bits < MIN_EXACT_BITS:
            raise InputError(
                f"a sum has {self.exact_bits} exact bits, fewer than {MIN_EXACT_BITS}: its errors "
                "would hide that it is of other uploads; keep more bytes, or take three limbs"
            )

    def _check_counts(self) -> None:
        for name in ("clients", "entries", "decryptions", "scale_sixteenths"):
            check_integer(name, getattr(self, name), 1)
        for name in ("holders", "threshold", "max_corrupt"):
            check_integer(name, getattr(self, name), 0)
        if self.clients < 2:
            raise InputError(f"clients is {self.clients}, must be at least 2")
        check_integer("minimum_survivors", self.minimum_survivors, 2, self.clients, why=NO_SUM)
        if not (self.clip > 0 and math.isfinite(self.clip)):
            raise InputError(f"clip is {self.clip}, must be above 0 and finite")

    def _check_holders(self) -> None:
        if self.model is Model.SHARED_KEY:
            if self.holders or self.threshold or self.max_corrupt:
                raise InputError("holders, threshold, max_corrupt must be 0 under a shared key")
            return
        if self.flooding is None:
            raise InputError("flooding is None: a threshold key needs it")
        if not 2 <= self.holders <= ORDER or not 0 <= self.max_corrupt < self.holders:
            raise InputError(
                f"{self.holders} holders of whom {self.max_corrupt} corrupt: 2 to {ORDER}, not all"
            )
        needed = majority(self.holders, self.max_corrupt)
        if not needed <= self.threshold <= self.holders:
            raise InputError(
                f"threshold {self.threshold} of {self.holders} holders, {self.max_corrupt} "
                f"corrupt, is outside [{needed}, {self.holders}]: two sets of holders could both "
                "answer"
            )

    @property
    def engine(self) -> Engine:
        """Engine whose arithmetic it is."""
        return Engine.SEAL if isinstance(self.ring, Ring) else Engine.COEFFICIENTS

    @property
    def seal_ring(self) -> Ring:
        """The ring of a session on SEAL; ``InputError`` in another."""
        if not isinstance(self.ring, Ring):
            raise InputError("ring is of Coefficients, must be of SEAL's")
        return self.ring

    @property
    def lattice(self) -> Coefficients:
        """The ring of a session on coefficients; ``InputError`` in another."""
        if not isinstance(self.ring, Coefficients):
            raise InputError("ring is of SEAL's, must be of Coefficients")
        return self.ring

    @property
    def scale(self) -> float:
        """What 1, after the division by ``clip``, is encoded as."""
        return float(2 ** (self.scale_sixteenths / 16))

    @property
    def chunk_entries(self) -> int:
        """Entries in one ciphertext."""
        if isinstance(self.ring, Coefficients):
            return self.ring.messages * ROW_ENTRIES
        return self.ring.degree

    @property
    def chunks(self) -> int:
        """Ciphertexts of one vector."""
        return -(-self.entries // self.chunk_entries)

    def entries_of(self, index: int) -> int:
        """Entries in ciphertext ``index``; the last may have fewer."""
        return min(self.chunk_entries, self.entries - index * self.chunk_entries)

    def rows_of(self, index: int) -> int:
        """Polynomials with entries in ciphertext ``index``."""
        if isinstance(self.ring, Coefficients):
            return -(-self.entries_of(index) // ROW_ENTRIES)
        return 1

    @property
    def opened(self) -> int:
        """Polynomials that the key opens in all, tau."""
        row = ROW_ENTRIES if isinstance(self.ring, Coefficients) else self.ring.degree
        return -(-self.entries // row) * self.decryptions

    @property
    def sum_variance(self) -> float:
        """Variance of a coefficient of the error of a sum, before flooding."""
        return self.clients * error_variance(self.ring, self.model, self.holders)

    @property
    def flooding_stddev(self) -> float:
        """Deviation of the noise that each holder alone adds, sigma; 0 without flooding."""
        if self.flooding is None:
            return 0.0
        norm = norm_bound(self.ring.degree, self.sum_variance)
        return flooding_stddev(self.flooding, self.opened, norm)

    @property
    def _decryptors(self) -> int:
        return max(self.holders, 1)

    @property
    def _dropped(self) -> int:
        """What the lowest bit that travels is worth: 1 under SEAL."""
        return self.ring.dropped if isinstance(self.ring, Coefficients) else 1

    @property
    def _cuts(self) -> int:
        """Roundings to what travels that one coefficient of a sum has seen."""
        if self.engine is Engine.SEAL:
            return 0
        return self.clients + self.holders  # under a shared key nobody sends a part

    @property
    def _largest_rounding(self) -> float:
        """All cuts: to words where q is wider, by a decryptor too, and then to what travels.

        By 1/2 of what the lowest bit is worth each time.
        """
        if isinstance(self.ring, Ring):
            return 0.0
        word = self.ring.unit if self.ring.unit > 1 else 0
        return (self._cuts * (self.ring.dropped + word) + word) / 2

    @property
    def _gaussian_stddev(self) -> float:
        floods = self._decryptors * self.flooding_stddev**2
        return math.sqrt(self.sum_variance + floods)

    @property
    def result_deviation(self) -> float:
        """Deviation of a coefficient of an opened sum, all holders flooding, rounding too."""
        unit = self.ring.unit if isinstance(self.ring, Coefficients) else 1
        rounding = (self.clients * unit) ** 2 / 12  # equal vectors are rounded equally
        rounding += self._cuts * self._dropped**2 / 12
        return math.hypot(self._gaussian_stddev, math.sqrt(rounding))

    @property
    def largest_error(self) -> float:
        """Bound on the error of a coefficient of an opened sum, but for once in 2**115."""
        return _NEVER * self._gaussian_stddev + self._largest_rounding

    @property
    def exact_bits(self) -> int:
        """Upper bits of a word that an opened sum has exactly: integers modulo 2**exact_bits."""
        return min(63, math.floor(math.log2(self.lattice.modulus / 2 / self.largest_error)))

    @property
    def encoding(self) -> Encoding:
        """How reals and integers become words; ``InputError`` under SEAL, which takes reals."""
        return Encoding(
            clients=self.clients,
            clip=self.clip,
            scale=self.scale / self.lattice.unit,
            exact_bits=self.exact_bits,
        )

    @property
    def _peak(self) -> float:
        """The largest coefficient that entries in [-1, 1] make, over the scale."""
        return 1.0 if self.engine is Engine.COEFFICIENTS else math.sqrt(2)  # |slot| <= sqrt 2

    @property
    def _spread(self) -> float:
        """Deviation of an entry's error over that of a coefficient's."""
        slots = self.engine is Engine.SEAL
        return math.sqrt(self.ring.degree / 2) if slots else 1.0

    @property
    def largest_coefficient(self) -> float:
        """Bound on a coefficient of an opened sum: what the entries make of it, and the errors."""
        return self.clients * self._peak * self.scale + self._largest_deviation

    @property
    def _largest_deviation(self) -> float:
        if self.engine is Engine.SEAL:
            return _NEVER * self.result_deviation
        return self.largest_error + self.clients * self.lattice.unit / 2

    @property
    def largest_scale_sixteenths(self) -> int:
        """The largest scale at which this many clients cannot wrap around; may be negative."""
        room = self.ring.modulus / 2 - self._largest_deviation
        if room <= 0:
            raise InputError("flooding alone wraps around: take fewer bits of it, or larger primes")
        return math.ceil(16 * math.log2(room / (self.clients * self._peak))) - 1

    def mean_stddev(self, survivors: int | None = None) -> float:
        """Deviation of the error of an entry of the mean of ``survivors`` (default: all)."""
        count = self.clients if survivors is None else survivors
        entry = self.result_deviation * self._spread / self.scale
        return self.clip * math.hypot(entry / count, _DOUBLE)

    def mean_error(self, survivors: int | None = None) -> float:
        """The largest error among all entries of the mean is in expectation at most this.

        The maximum of m Gaussians of either sign: deviation times sqrt(2 ln 2m). Gaussian are
        flooding and a shared key's errors. Those of a collective key are larger in the slots
        where its spectrum is, and lie 2**-20 and more below the flooding.
        """
        return self.mean_stddev(survivors) * math.sqrt(2 * math.log(2 * self.entries))

    # --- sizes ---

    def _sent(self, index: int) -> int:
        """Bytes of what travels of c0, or of a partial decryption, of one ciphertext."""
        if isinstance(self.ring, Coefficients):
            return self.ring.kept * (self.entries_of(index) + CHECKED * self.rows_of(index))
        return size(self.ring.degree, self.ring.primes)

    @property
    def second_size(self) -> int:
        """Bytes of one c1."""
        if isinstance(self.ring, Coefficients):
            return self.ring.whole
        return size(self.ring.degree, self.ring.primes)

    @property
    def seed_size(self) -> int:
        """Bytes of the seed that stands for c1 in a ciphertext under a shared key."""
        return residues.SEED_SIZE if self.engine is Engine.SEAL else DIGEST_SIZE

    @property
    def share_size(self) -> int:
        """Bytes of a holder's public share."""
        if isinstance(self.ring, Coefficients):
            return self.ring.messages * self.ring.whole
        return size(self.ring.degree, self.ring.key_primes)

    def chunk_size(self, index: int = 0) -> int:
        """Bytes of ciphertext ``index`` of a client."""
        second = self.seed_size if self.model is Model.SHARED_KEY else self.second_size
        return second + self._sent(index)

    def part_size(self, index: int = 0) -> int:
        """Bytes of a holder's partial decryption of ciphertext ``index``."""
        return self._sent(index)

    @property
    def opened_size(self) -> int:
        """Bytes of the first ciphertext of a sum as those with a shared key get it.

        On coefficients they make c1 themselves, from the seeds of the summands.
        """
        second = self.second_size if self.engine is Engine.SEAL else 0
        return second + self._sent(0)

    @property
    def sum_size(self) -> int:
        """Bytes of all ciphertexts of such a sum."""
        return self._total(self.part_size) + self.chunks * (self.opened_size - self._sent(0))

    @property
    def vector_size(self) -> int:
        """Bytes of all ciphertexts of a client's vector."""
        return self._total(self.chunk_size)

    @property
    def partial_size(self) -> int:
        """Bytes of all partial decryptions of one holder."""
        return self._total(self.part_size)

    def _total(self, size_of: Callable[[int], int]) -> int:
        last = self.chunks - 1
        return last * size_of(0) + size_of(last)

    def to_bytes(self) -> bytes:
        """The encoding that enters the session's context.

        model u8 | clients, minimum survivors, entries, decryptions u32 | clip f64 |
        engine u8 | SEAL: degree u32, primes u8, bits of each u8, special bits u8;
        coefficients: limbs, messages, kept u8 | scale u32 |
        flooding u8 (0: none) | holders, threshold, corrupt u32
        """
        return b"".join(
            (
                bytes([self.model]),
                *map(u32, (self.clients, self.minimum_survivors, self.entries, self.decryptions)),
                struct.pack(">d", self.clip),
                bytes([self.engine]),
                _ring_bytes(self.ring),
                u32(self.scale_sixteenths),
                bytes([self.flooding or 0]),
                *map(u32, (self.holders, self.threshold, self.max_corrupt)),
            )
        )

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Inverse of :meth:`to_bytes`.

        Raises:
          DecodeError: no parameters, or parameters that promise nothing.
        """
        try:
            return cls(
                model=Model(reader.u8()),
                clients=reader.u32(),
                minimum_survivors=reader.u32(),
                entries=reader.u32(),
                decryptions=reader.u32(),
                clip=float(struct.unpack(">d", reader.view(8))[0]),
                ring=_read_ring(reader),
                scale_sixteenths=reader.u32(),
                flooding=reader.u8() or None,
                holders=reader.u32(),
                threshold=reader.u32(),
                max_corrupt=reader.u32(),
            )
        except ValueError as error:  # InputError is one, and so is an unknown model or engine
            raise DecodeError(str(error)) from None


def least_scale(ring: Ring | Coefficients) -> int:
    """Least scale in sixteenths of a bit: SEAL takes none of 1, a word of less holds no real."""
    return 16 * ring.unit.bit_length() if isinstance(ring, Coefficients) else 16


def _ring_bytes(ring: Ring | Coefficients) -> bytes:
    if isinstance(ring, Coefficients):
        return bytes([ring.limbs, ring.messages, ring.kept])
    return u32(ring.degree) + bytes([len(ring.prime_bits), *ring.prime_bits, ring.special_bits])


def _read_ring(reader: Reader) -> Ring | Coefficients:
    if Engine(reader.u8()) is Engine.COEFFICIENTS:
        return Coefficients(limbs=reader.u8(), messages=reader.u8(), kept=reader.u8())
    return Ring(
        degree=reader.u32(),
        prime_bits=tuple(reader.take(reader.u8())),
        special_bits=reader.u8(),
    )


VERSION: Final = b"secagg/1 ckks"
DIGEST_SIZE: Final = 32  # bytes, SHA-256


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Everything public about one round: one sum, and one opening of the session's key.

    Attributes:
      session: 16 random bytes, never used twice. Keys are the session's.
      round: the opening's index under its key, below ``params.decryptions``.
      public_digest: SHA-256 over whatever else the application made public for this round. An
        upload of somebody who was told otherwise is refused by an honest server.
    """

    params: Params
    session: bytes
    round: int = 0
    public_digest: bytes

    def __post_init__(self) -> None:
        Header(self.session, self.round)
        if self.round >= self.params.decryptions:
            raise InputError(f"round {self.round}: the key opens {self.params.decryptions} sums")
        check_size("public_digest", self.public_digest, DIGEST_SIZE)

    @property
    def header(self) -> Header:
        return Header(self.session, self.round)

    @property
    def key_header(self) -> Header:
        """The header of the messages that make the key, before every round: they say round 0."""
        return Header(self.session, 0)

    def to_bytes(self) -> bytes:
        return self.header.to_bytes() + self.params.to_bytes() + self.public_digest

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Inverse of :meth:`to_bytes`; raises ``DecodeError``."""
        session, round_number = reader.take(SESSION_SIZE), reader.u32()
        params, public = Params.read(reader), reader.take(DIGEST_SIZE)
        try:
            return cls(params=params, session=session, round=round_number, public_digest=public)
        except InputError as error:
            raise DecodeError(str(error)) from None

    def key_context(self) -> bytes:
        """A hash of what the session's key is for; it enters every label of a key."""
        return hashlib.sha256(VERSION + b" key " + self.session + self.params.to_bytes()).digest()

    def context(self, key: bytes) -> bytes:
        """A hash of every public input of the round, ``key`` the digest of its key."""
        return hashlib.sha256(VERSION + b" round " + self.to_bytes() + key).digest()

    def label(self, usage: bytes, about: bytes = b"") -> bytes:
        """Label of a value derived from a session secret; ``about`` has one length per use."""
        return b" ".join((VERSION, usage, b"")) + self.key_context() + about
