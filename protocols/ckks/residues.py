"""Polynomials modulo X^N + 1 and several primes: their bytes, their sums, public random ones.

A polynomial is a ``uint64`` array of (primes, N), row i reduced modulo prime i, in
whatever order SEAL's number-theoretic transform leaves it. Nothing here multiplies, and
nothing here needs SEAL: a server that only adds does not either.

On the wire a polynomial is, prime by prime, its residues in exactly as many bits as
the prime has: first the whole low bytes of every residue, little-endian, then one
plane of N bits for each bit above them, the lowest first, entry i in bit i mod 8 of
byte i // 8. Every residue has one encoding; one that is not below its prime is refused.
"""

import functools
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.errors import DecodeError, InputError
from protocols.primitives.prg import Stream
from protocols.secrets import Secret

Rows: TypeAlias = NDArray[np.uint64]

DEGREES = (1024, 2048, 4096, 8192, 16384, 32768)  # those with a row in the security table
SEED_SIZE = 64  # bytes; of SEAL's generator, which expands a shared key's second polynomial
MAX_PRIMES = 16  # as many as any row of the security table has room for
MAX_PRIME_BITS = 60  # SEAL's limit for a prime of the user's
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)  # decide below 2**64 [Sorenson-Webster]


def is_prime(number: int) -> bool:
    """Whether ``number``, odd and in (37, 2**64), is prime: Miller and Rabin's test, exact here."""
    even = number - 1
    twos = (even & -even).bit_length() - 1
    for witness in _WITNESSES:
        power = pow(witness, even >> twos, number)
        if power == 1:
            continue
        for _ in range(twos):
            if power == even:
                break
            power = power * power % number
        else:
            return False
    return True


@functools.lru_cache(maxsize=256)
def ntt_primes(degree: int, bits: tuple[int, ...]) -> tuple[int, ...]:
    """The largest prime for each of ``bits``, 1 modulo 2 ``degree``, that is not yet taken.

    Raises:
      InputError: there is none.
    """
    taken: list[int] = []
    for size in bits:
        candidate = (2**size - 2) // (2 * degree) * 2 * degree + 1
        while candidate in taken or not is_prime(candidate):
            candidate -= 2 * degree
            if candidate < 2 ** (size - 1) or candidate <= _WITNESSES[-1]:
                raise InputError(f"no further prime of {size} bits is 1 modulo {2 * degree}")
        taken.append(candidate)
    return tuple(taken)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """Z[X] modulo X^N + 1 and the product q of some primes.

    Attributes:
      degree: N, one of ``DEGREES``.
      prime_bits: sizes of the primes that data live under.
      special_bits: size of one more prime, under which the keys live too and
        which encryption divides away again; 0 where there is none.
    """

    degree: int
    prime_bits: tuple[int, ...]
    special_bits: int = 0

    def __post_init__(self) -> None:
        if self.degree not in DEGREES:
            raise InputError(f"degree is {self.degree}, must be one of {DEGREES}")
        if len(self._all_bits) > MAX_PRIMES:
            raise InputError(f"prime_bits has {len(self._all_bits)} primes, at most {MAX_PRIMES}")
        low = self.degree.bit_length() + 1
        for size in self._all_bits:
            if not low <= size <= MAX_PRIME_BITS:
                raise InputError(
                    f"a prime of {size} bits is outside [{low}, {MAX_PRIME_BITS}] at "
                    f"degree {self.degree}"
                )
        if not self.prime_bits or (len(self.prime_bits) > 1) is not bool(self.special_bits):
            raise InputError(
                f"primes of {self.prime_bits} bits and a special one of {self.special_bits}: "
                "several need a special prime, a single one takes none"
            )
        ntt_primes(self.degree, self._all_bits)

    @property
    def _all_bits(self) -> tuple[int, ...]:
        return self.prime_bits + ((self.special_bits,) if self.special_bits else ())

    @property
    def primes(self) -> tuple[int, ...]:
        """Those that data live under."""
        return self.key_primes[: len(self.prime_bits)]

    @property
    def key_primes(self) -> tuple[int, ...]:
        """All, the special one last."""
        return ntt_primes(self.degree, self._all_bits)

    @property
    def modulus(self) -> int:
        """q, without the special prime."""
        return math.prod(self.primes)

    @property
    def bits(self) -> float:
        """log2 of the product of all primes: what the security table is asked about."""
        return math.log2(math.prod(self.key_primes))


def size(degree: int, primes: tuple[int, ...]) -> int:
    """Bytes of a packed polynomial."""
    return sum(degree // 8 * prime.bit_length() for prime in primes)


def pack(rows: Rows, primes: tuple[int, ...]) -> bytes:
    """The wire form of one polynomial; inverse of :func:`unpack`."""
    parts: list[bytes] = []
    for row, prime in zip(rows, primes, strict=True):
        whole, rest = divmod(prime.bit_length(), 8)
        low = np.ascontiguousarray(row, "<u8").view(np.uint8).reshape(-1, 8)
        parts.append(low[:, :whole].tobytes())
        high = low[:, whole] if rest else low[:, 0]
        parts.extend(
            np.packbits(high >> bit & 1, bitorder="little").tobytes() for bit in range(rest)
        )
    return b"".join(parts)


def unpack(data: bytes | memoryview, degree: int, primes: tuple[int, ...]) -> Rows:
    """One polynomial, from bytes that anybody may have made.

    Raises:
      DecodeError: wrong length, or a residue that is not below its prime.
    """
    if len(data) != size(degree, primes):
        raise DecodeError(f"a polynomial has {len(data)} bytes, expected {size(degree, primes)}")
    raw = np.frombuffer(data, np.uint8)
    rows = np.zeros((len(primes), degree, 8), np.uint8)
    begin, plane = 0, degree // 8
    for row, prime in zip(rows, primes, strict=True):
        whole, rest = divmod(prime.bit_length(), 8)
        row[:, :whole] = raw[begin : begin + whole * degree].reshape(degree, whole)
        begin += whole * degree
        for bit in range(rest):
            bits = np.unpackbits(raw[begin : begin + plane], bitorder="little")
            row[:, whole] |= bits << bit
            begin += plane
    words = rows.view("<u8")[..., 0].astype(np.uint64, copy=False)
    _below(words, primes)
    return words


def _below(rows: Rows, primes: tuple[int, ...]) -> None:
    if bool((rows >= _column(primes)).any()):
        raise DecodeError("a residue is not below its prime")


def pack_ciphertext(ciphertext: Rows, ring: Ring) -> bytes:
    """Both polynomials of a ciphertext, an array of (2, primes, N)."""
    return pack(ciphertext[0], ring.primes) + pack(ciphertext[1], ring.primes)


def unpack_ciphertext(data: bytes | memoryview, ring: Ring) -> Rows:
    """A ciphertext (c0, c1) of (2, primes, N), from bytes that anybody may have made.

    Raises:
      DecodeError: what :func:`unpack` refuses, or c1 = 0: such a ciphertext is no secret.
    """
    each = size(ring.degree, ring.primes)
    if len(data) != 2 * each:
        raise DecodeError(f"a ciphertext has {len(data)} bytes, expected {2 * each}")
    view = memoryview(data)
    halves = [unpack(part, ring.degree, ring.primes) for part in (view[:each], view[each:])]
    if not halves[1].any():
        raise DecodeError("the ciphertext's second polynomial is zero")
    return np.stack(halves)


def pack_seeded(seed: bytes, first: Rows, ring: Ring) -> bytes:
    """A ciphertext under a shared key: the 64-byte seed of c1, then c0."""
    return seed + pack(first, ring.primes)


def unpack_seeded(data: bytes | memoryview, ring: Ring) -> tuple[bytes, Rows]:
    """Inverse of :func:`pack_seeded`, of bytes that anybody may have made.

    Raises:
      DecodeError: what :func:`unpack` refuses. Every seed is a seed.
    """
    view = memoryview(data)
    if len(view) < SEED_SIZE:
        raise DecodeError(f"a ciphertext has {len(view)} bytes, fewer than its seed's {SEED_SIZE}")
    return bytes(view[:SEED_SIZE]), unpack(view[SEED_SIZE:], ring.degree, ring.primes)


def add(left: Rows, right: Rows, primes: tuple[int, ...]) -> Rows:
    """``left + right``; the last two axes are (primes, N), all residues reduced."""
    total = left + right
    reduced: Rows = np.minimum(total, total - _column(primes))  # it wraps where it is negative
    return reduced


def subtract(left: Rows, right: Rows, primes: tuple[int, ...]) -> Rows:
    """``left - right``, as in :func:`add`."""
    difference = left - right
    reduced: Rows = np.minimum(difference, difference + _column(primes))
    return reduced


def reduce(values: NDArray[np.int64], primes: tuple[int, ...]) -> Rows:
    """Signed coefficients to residues, (primes, N)."""
    column = np.array(primes, np.int64)[:, None]
    return np.mod(values[None, :], column).astype(np.uint64)


def uniform(seed: bytes, label: bytes, degree: int, primes: tuple[int, ...]) -> Rows:
    """The public polynomial of a ``seed`` (32 bytes): every residue uniform, by rejection.

    Anybody gets the same from the same seed and label; it is modelled as random.
    """
    rows = np.empty((len(primes), degree), np.uint64)
    for index, (row, prime) in enumerate(zip(rows, primes, strict=True)):
        stream = Stream(Secret(seed), label + b" prime %d" % index)
        words, mask = np.empty(degree, np.uint64), np.uint64(2 ** prime.bit_length() - 1)
        filled = 0
        while filled < degree:
            stream.fill(words)
            kept = words & mask
            kept = kept[kept < prime][: degree - filled]
            row[filled : filled + len(kept)] = kept
            filled += len(kept)
    return rows


def ternary(seed: Secret, label: bytes, degree: int) -> NDArray[np.int64]:
    """Coefficients uniform in {-1, 0, 1}, from 32 secret bytes: a secret polynomial."""
    stream = Stream(seed, label)
    words = np.empty(degree // 4, np.uint64)
    found = np.empty(0, np.uint8)
    while len(found) < degree:
        stream.fill(words)
        octets = words.view(np.uint8)
        found = np.concatenate([found, octets[octets < 255]])  # 255 = 3 x 85
    return found[:degree].astype(np.int64) % 3 - 1


def _column(primes: tuple[int, ...]) -> Rows:
    return np.array(primes, np.uint64)[:, None]
