"""Polynomials modulo X^4096 + 1 and a power of two: exact products by a floating transform.

A polynomial modulo q = 2**64 is a ``uint64`` array; modulo 2**72 its upper 64 bits are one, and
the lower eight a ``uint8`` array beside it. Sums wrap by themselves. A product of a ternary
polynomial and any other is made limb by limb, each limb signed, in a complex transform of half
the length in doubles, and is exact: an error below 7/8, which is proved, that lies within
1/8 of an integer, which is checked, is below 1/8 (docs/protocols/ckks-security.md).

Nothing here knows keys from messages. What is random comes out of streams that are handed in.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.errors import DecodeError, InputError, LocalProtocolError
from protocols.primitives.prg import Stream

Words: TypeAlias = NDArray[np.uint64]
Small: TypeAlias = NDArray[np.int64]
Spectrum: TypeAlias = NDArray[np.complex128]
Kept: TypeAlias = NDArray[np.unsignedinteger[Any]]

DEGREE: Final = 4096
MAX_MESSAGES: Final = 16  # of one c1: more save less than an eighth of a byte an entry
CHECKED: Final = 8  # coefficients of every polynomial that are zero, and must open as zero
ROW_ENTRIES: Final = DEGREE - CHECKED

_HALF: Final = DEGREE // 2
_LIMBS: Final = {2: (32, 64), 3: (24, 72)}  # number of limbs: bits of one, bits of q
_LARGEST_SPECTRUM: Final = 2.0**8.5  # a random ternary polynomial's is beyond once in 2**51 or less
_FURTHEST: Final = 1 / 8
_ERROR_BITS: Final = 21  # of each of the two halves of a centred binomial
_ERROR_MASK: Final = np.uint64(2**_ERROR_BITS - 1)
_PLANES: Final = {  # kept bytes: where each plane begins in a word, and its type
    2: ((0, "<u2"),),
    3: ((0, "<u2"), (2, "u1")),
    4: ((0, "<u4"),),
    5: ((0, "<u4"), (4, "u1")),
    6: ((0, "<u4"), (4, "<u2")),
    7: ((0, "<u4"), (4, "<u2"), (6, "u1")),
    8: ((0, "<u8"),),
}

# X^4096 + 1 = (X^2048 - i)(X^2048 + i): x_j + i x_(j+2048), twisted, makes the product cyclic.
_TWIST: Final = np.exp(1j * np.pi * np.arange(_HALF) / DEGREE)
_UNTWIST: Final = np.conj(_TWIST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """Z[X] modulo X^4096 + 1 and a power of two, and what of it travels.

    Attributes:
      limbs: 2 for q = 2**64, 3 for q = 2**72.
      messages: polynomials of a vector that share one c1, L; each has a secret of its own.
      kept: upper bytes of a coefficient of c0, and of a partial decryption, that are sent.

    Raises:
      InputError: an attribute out of range.
    """

    limbs: int = 2
    messages: int = 1
    kept: int = 4

    def __post_init__(self) -> None:
        if self.limbs not in _LIMBS:
            raise InputError(f"limbs is {self.limbs}, must be 2 or 3")
        if not 1 <= self.messages <= MAX_MESSAGES:
            raise InputError(f"messages is {self.messages}, must be in [1, {MAX_MESSAGES}]")
        if not 2 <= self.kept <= 8:
            raise InputError(f"kept is {self.kept}, must be in [2, 8]")

    @property
    def degree(self) -> int:
        return DEGREE

    @property
    def bits(self) -> float:
        """log2 of q: what the security table is asked about."""
        return float(_LIMBS[self.limbs][1])

    @property
    def modulus(self) -> int:
        """The modulus q."""
        return 1 << _LIMBS[self.limbs][1]

    @property
    def unit(self) -> int:
        """What the lowest bit of a word of 64 bits is worth: 1 or 2**8."""
        return self.modulus >> 64

    @property
    def dropped(self) -> int:
        """What the lowest bit that is sent of c0 is worth."""
        return self.modulus >> 8 * self.kept

    @property
    def whole(self) -> int:
        """Bytes of a polynomial that is sent whole."""
        return _LIMBS[self.limbs][1] // 8 * DEGREE


@dataclass(frozen=True, slots=True)
class Poly:
    """Polynomials modulo q: ``high`` of (..., 4096), and under 2**72 the eight bits below.

    Attributes:
      low: ``None`` modulo 2**64.
    """

    high: Words
    low: NDArray[np.uint8] | None

    @classmethod
    def zero(cls, ring: Coefficients) -> Self:
        return cls(np.zeros(DEGREE, np.uint64), _low(ring, np.zeros(DEGREE, np.uint8)))

    @classmethod
    def drawn(cls, ring: Coefficients, stream: Stream) -> Self:
        """A uniform one: 4096 words of the stream, and 512 more for the lower bits."""
        words = np.empty(DEGREE, np.uint64)
        stream.fill(words)
        if ring.limbs == 2:
            return cls(words, None)
        more = np.empty(DEGREE // 8, np.uint64)
        stream.fill(more)
        return cls(words, more.view(np.uint8))

    @classmethod
    def read(cls, ring: Coefficients, data: bytes | memoryview) -> Self:
        """Inverse of :meth:`to_bytes`; ``DecodeError`` for another length."""
        if len(data) != ring.whole:
            raise DecodeError(f"a polynomial has {len(data)} bytes, expected {ring.whole}")
        words = np.frombuffer(data, "<u8", DEGREE)
        return cls(words, _low(ring, np.frombuffer(data, np.uint8)[8 * DEGREE :]))

    def to_bytes(self) -> bytes:
        """The words, little-endian, then the lower bytes."""
        words = self.high.astype("<u8", copy=False).tobytes()
        return words if self.low is None else words + self.low.tobytes()

    def __add__(self, other: "Poly") -> "Poly":
        if self.low is None or other.low is None:
            return Poly(self.high + other.high, None)
        low = self.low.astype(np.uint16) + other.low
        return Poly(self.high + other.high + (low >> 8), low.astype(np.uint8))

    @property
    def words(self) -> Words:
        """The upper 64 bits, rounded to the nearest."""
        return self.high if self.low is None else self.high + (self.low >> 7)

    def __bool__(self) -> bool:
        """Whether any coefficient is not zero."""
        return bool(self.high.any()) or (self.low is not None and bool(self.low.any()))

    def centred(self) -> Small:
        """The coefficients of one that is small: below 2**55 in size, or it is not small."""
        if self.low is None:
            return self.high.view(np.int64)
        high = self.high.view(np.int64)
        return (np.clip(high, -(2**54), 2**54) << 8) + self.low


def _low(ring: Coefficients, values: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    return values if ring.limbs == 3 else None


# --- products ---


def small_spectrum(values: NDArray[np.generic]) -> Spectrum:
    """The transform of ternary polynomials, (..., 4096) to (..., 2048).

    Raises:
      LocalProtocolError: one is larger than a product may be exact for; a random one is so
        once in 2**51 or less.
    """
    found = _forward(values.astype(np.float64))
    if float(np.abs(found).max()) > _LARGEST_SPECTRUM:
        raise LocalProtocolError("a ternary polynomial is too regular for an exact product")
    return found


def spectra(ring: Coefficients, poly: Poly) -> Spectrum:
    """The transforms of a polynomial's signed limbs, (..., 4096) to (..., limbs, 2048)."""
    limbs = _split(ring, poly)
    return _forward(np.stack([limb.astype(np.float64) for limb in limbs], axis=-2))


def product(
    ring: Coefficients, small: Spectrum, other: Spectrum, addend: Small | None = None
) -> Poly:
    """``small`` times ``other`` plus ``addend``, exact modulo q.

    Args:
      small: of ``small_spectrum``, (2048,) .
      other: of ``spectra``, (limbs, 2048).
      addend: integers below 2**55 in size, (4096,).

    Raises:
      LocalProtocolError: the transform was not exact. Never, on a machine that keeps IEEE 754.
    """
    found = np.fft.ifft(small * other)
    found *= _UNTWIST
    parts = found.view(np.float64)  # real and imaginary in turn
    whole = np.rint(parts)
    parts -= whole
    if not max(float(parts.max()), -float(parts.min())) < _FURTHEST:
        raise LocalProtocolError("a product is no integer: the transform of numpy is not exact")
    limbs = whole.astype(np.int64).reshape(ring.limbs, _HALF, 2)
    columns = np.concatenate([limbs[..., 0], limbs[..., 1]], axis=-1)
    if addend is not None:
        columns[0] += addend
    if ring.limbs == 2:
        return Poly((columns[0] + (columns[1] << 32)).view(np.uint64), None)
    high = (columns[0] >> 8) + (columns[1] << 16) + (columns[2] << 40)
    return Poly(high.view(np.uint64), columns[0].astype(np.uint8))


def _forward(values: NDArray[np.float64]) -> Spectrum:
    folded = np.empty((*values.shape[:-1], _HALF), np.complex128)
    folded.real, folded.imag = values[..., :_HALF], values[..., _HALF:]
    folded *= _TWIST
    return np.fft.fft(folded)


def _split(ring: Coefficients, poly: Poly) -> list[Small]:
    """Signed limbs, the lowest first, of at most half their range in size."""
    if ring.limbs == 2:
        low = poly.high.astype(np.uint32).view(np.int32).astype(np.int64)
        high = (poly.high - low.view(np.uint64)).view(np.int64) >> 32
        return [low, high]
    if poly.low is None:
        raise InputError("a polynomial modulo 2**64 is none modulo 2**72")
    mask, half = np.int64(2**24 - 1), np.int64(2**23)
    high = poly.high.view(np.int64)
    limbs = [(high << 8 & mask) | poly.low, high >> 16 & mask, high >> 40 & mask]
    for place in range(2):
        carry = (limbs[place] + half) >> 24
        limbs[place] = limbs[place] - (carry << 24)
        limbs[place + 1] = limbs[place + 1] + carry
    limbs[2] = limbs[2] - ((limbs[2] + half) >> 24 << 24)
    return limbs


# --- what is drawn ---


def ternary(stream: Stream, count: int) -> NDArray[np.int8]:
    """``count`` uniform in {-1, 0, 1}: bytes of the stream below 255, modulo 3, less 1."""
    found = np.empty(0, np.uint8)
    while len(found) < count:
        words = np.empty(-(-(count - len(found)) // 8) + 8, np.uint64)
        stream.fill(words)
        octets = words.view(np.uint8)
        found = np.concatenate([found, octets[octets < 255]])  # 255 = 3 x 85
    return (found[:count] % 3).view(np.int8) - np.int8(1)


def errors(stream: Stream, shape: tuple[int, ...]) -> Small:
    """Centred binomials of 21 bits: of each word the ones in its lowest 21 bits, less the next."""
    words = np.empty(math.prod(shape), np.uint64)
    stream.fill(words)
    ones = np.bitwise_count(words & _ERROR_MASK).view(np.int8)
    words >>= np.uint64(_ERROR_BITS)
    words &= _ERROR_MASK
    ones -= np.bitwise_count(words).view(np.int8)
    found: Small = ones.astype(np.int64).reshape(shape)
    return found


# --- what travels of c0 ---


def cut(words: Words, kept: int) -> bytes:
    """The upper ``kept`` bytes of each word, rounded to the nearest.

    Little-endian, in planes of 8, 4, 2 or 1 bytes of all words, the lowest first.
    """
    shift = 64 - 8 * kept
    if shift:
        words = (words + np.uint64(1 << (shift - 1))) >> np.uint64(shift)
    return b"".join(
        (words >> np.uint64(8 * at)).astype(kind).tobytes() for at, kind in _PLANES[kept]
    )


def uncut(data: bytes | memoryview, kept: int) -> Kept:
    """What :func:`cut` sent, as integers of ``kept`` bytes: they add up modulo 2**(8 kept)."""
    count = len(data) // kept
    found: Kept = np.zeros(count, np.uint32 if kept <= 4 else np.uint64)
    for at, kind in _PLANES[kept]:
        plane = np.frombuffer(data, kind, count, at * count).astype(found.dtype)
        plane <<= 8 * at
        found |= plane
    return found


def raised(sums: Kept, kept: int) -> Words:
    """Sums of such integers as words again: their upper bytes, zeros below."""
    return sums.astype(np.uint64) << np.uint64(64 - 8 * kept)
