"""Noise, coins and orders from cryptographic bits alone.

| what is drawn               | law                                         | distance, a draw |
|-----------------------------|---------------------------------------------|------------------|
| ``BinnedGaussianSampler``   | the integer nearest to a N(0, deviation^2)  | at most 2^-121   |
| ``DiscreteGaussianSampler`` | p(k) ~ exp(-k^2 / (2 variance)), k integer  | at most 2^-121   |
| ``SkellamSampler``          | difference of two Poisson(variance / 2)     | at most 2^-96    |
| ``coins``                   | each position with probability ``rate``     | 0                |
| ``permutation``             | every order with the same probability       | 0                |

Distance is in total variation; ``error`` says it, and n draws are within n times as much. In
delta it counts (1 + e^epsilon) times.

No floating point decides anything. Every call takes 32 bytes from ``entropy``, the key and
the first counter block of an AES-128-CTR stream [NIST SP 800-38A] that serves this call
alone; that its bits pass for uniform is the computational assumption. What is drawn is a function
of those bytes and of ``count``. A sampler holds its public table and nothing random, so it may be
copied, pickled and forked; a stream ends with its call.

**Not constant in time.** How long a call takes, and which places of its table it reads, depends on
what it draws: an observer of the processor's caches or of exact times learns about the noise.

[AKL21]: Agarwal, Kairouz, Liu, The Skellam Mechanism, arXiv 2110.04995. [CKS20]: Canonne, Kamath,
Steinke, The Discrete Gaussian for Differential Privacy, arXiv 2004.00010.
"""

import math
import os
from collections.abc import Callable
from fractions import Fraction
from typing import Final, NoReturn, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from dp.errors import InputError
from dp.noise import gaussian, skellam
from dp.noise.skellam import MAX_VARIANCE, MIN_VARIANCE, Magnitudes
from dp.noise.strips import LOG_SLOTS, Strips

Entropy: TypeAlias = Callable[[int], bytes]
Integers: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

MAX_DRAWS: Final = 2**32  # of one call: far below the 2^64 blocks at which CTR shows itself
MAX_ORDERED: Final = 2**24  # beyond, too many keys of a permutation would be equal
MIN_DEVIATION: Final = 2.0**-2
MAX_DEVIATION: Final = 2.0**42  # 12.8 of them in cells of 1/2 stay below 2^47

_CHUNK = 2**15  # words: 256 KiB, so that a chunk and what is made of it stay in the cache
_SLAB = 2**20  # draws whose slow ones are made together: what a call needs beside its result
_FINE = 21  # a deviation of the cells that are joined to bins has 21 bits or more


class BinnedGaussianSampler:
    """Draws of the integer nearest to a normal variable of standard deviation ``deviation``.

    Formal guarantee. For integers q, q + rint(N) = rint(q + N): adding a draw to every entry of an
    *integer* vector is a function, free of data, of a Gaussian mechanism's output on that
    vector. So whatever bounds a Gaussian of multiplier ``deviation`` / (L2 sensitivity of the
    integers), Rényi DP, privacy-loss distributions, Poisson subsampling of it, bounds the
    release too, up to ``error`` a draw. On numbers that are not integers the claim is false:
    their fractional parts would be published. Proof: docs/privacy/gaussian-noise.md.

    From a deviation of 1 on, the variance of a draw is ``deviation``^2 + 1/12 or so; what is
    priced is ``deviation``.

    Raises:
      InputError: deviation outside [2^-2, 2^42].
    """

    def __init__(self, deviation: Fraction | int | float) -> None:
        self.deviation = _number("deviation", deviation, MIN_DEVIATION, MAX_DEVIATION)
        self.error = gaussian.ERROR
        # Cells of 2^-finer: the edges of a bin are edges of cells, so that joining them is exact.
        self._finer = max(1, _FINE - math.frexp(self.deviation)[1])
        self._table = gaussian.table((self.deviation * 2**self._finer) ** 2, real=True)

    def __repr__(self) -> str:
        return f"BinnedGaussianSampler({self.deviation!r})"

    def sample(self, count: int, *, entropy: Entropy = os.urandom) -> Integers:
        """``count`` independent draws, int64; magnitudes stay below 12.9 ``deviation`` + 2.

        Raises:
          InputError: count is no integer in [0, 2^32]; entropy gave another number of bytes.
        """
        draws = _strips(self._table, count, entropy)
        for start in range(0, count, _CHUNK):
            part = draws[start : start + _CHUNK]
            part += 1 << self._finer - 1
            part >>= self._finer
        return draws


class DiscreteGaussianSampler:
    """Draws of N_Z(0, ``variance``) [CKS20], within ``error`` = 2^-121.

    A float is taken as the rational it is. The variance of N_Z(0, s^2) is below s^2, and a sum of
    such draws is not of the same law.

    Raises:
      InputError: variance outside [2^-16, 2^40].
    """

    def __init__(self, variance: Fraction | int | float) -> None:
        self.variance = _number("variance", variance, MIN_VARIANCE, MAX_VARIANCE)
        self.error = gaussian.ERROR
        self._table = gaussian.table(self.variance, real=False)

    def __repr__(self) -> str:
        return f"DiscreteGaussianSampler({self.variance!r})"

    def sample(self, count: int, *, entropy: Entropy = os.urandom) -> Integers:
        """``count`` independent draws, int64.

        Raises:
          InputError: count is no integer in [0, 2^32]; entropy gave another number of bytes.
        """
        return _strips(self._table, count, entropy)


class SkellamSampler:
    """Draws of Skellam noise, the difference of two Poisson(``variance`` / 2) [AKL21].

    One draw is within ``error`` = 2^-96 of its exact law, so n draws are within n 2^-96; the
    proof is in ``dp.noise.skellam``. Adding the draws of independent samplers adds their
    variances. The table is built once a variance and process, then shared; eight are kept.

    >>> SkellamSampler(100.0).sample(1000).shape
    (1000,)

    Raises:
      InputError: variance outside [2^-16, 2^40].
    """

    def __init__(self, variance: float) -> None:
        exact = _number("variance", variance, MIN_VARIANCE, MAX_VARIANCE)
        self.variance = float(exact)
        if self.variance != exact:
            raise InputError(f"variance is {variance!r}, must be exact as a float")
        self.error = skellam.ERROR
        self._table = skellam.table(self.variance)

    def __repr__(self) -> str:
        return f"SkellamSampler({self.variance!r})"

    def sample(self, count: int, *, entropy: Entropy = os.urandom) -> Integers:
        """``count`` independent draws, int64.

        Raises:
          InputError: count is no integer in [0, 2^32]; entropy gave another number of bytes.
        """
        if isinstance(self._table, Strips):
            return _strips(self._table, count, entropy)
        out = np.empty(_counted(count), np.int64)
        stream = _Stream(entropy)
        for start in range(0, count, _CHUNK):
            part = out[start : start + _CHUNK]
            part[:] = _magnitudes(self._table, stream.words(len(part)), stream)
        return out


def coins(count: int, rate: Fraction | int | float, *, entropy: Entropy = os.urandom) -> Integers:
    """Positions below ``count`` of the coins that fell, each with probability ``rate``, exactly.

    In rising order: a Poisson batch. Rate 0 gives none, rate 1 all; a float is taken as the
    rational it is. They are as secret as noise is.

    Args:
      count: of coins, at most 2^32.
      rate: chance of each, 0 to 1.
      entropy: gives as many secret bytes as it is asked for.

    Raises:
      InputError: count is no integer in [0, 2^32], or rate is outside [0, 1].
    """
    top, bottom = _number("rate", rate, 0, 1).as_integer_ratio()
    limit, rest = divmod(top << 32, bottom)
    found = [np.empty(0, np.int64)]
    stream = _Stream(entropy)
    for start in range(0, _counted(count), _CHUNK):
        uniform = stream.halves(min(_CHUNK, count - start))
        fell = uniform < limit
        for i in np.flatnonzero(uniform == limit):  # decided by as many more bits as it takes
            fell[i] = stream.bernoulli(rest, bottom)
        found.append(np.flatnonzero(fell) + start)
    return np.concatenate(found)


def permutation(count: int, *, entropy: Entropy = os.urandom) -> Integers:
    """0 to ``count`` - 1 in an order that is any with exactly the same probability.

    Every position gets a key, and keys are sorted. Equal keys are put in a uniform order of their
    own [Fisher-Yates], so that the law does not change where positions are exchanged. An order is
    no Poisson sample: what is cut out of it must not be priced as one.

    >>> sorted(permutation(4).tolist())
    [0, 1, 2, 3]

    Args:
      count: at most 2^24.
      entropy: gives as many secret bytes as it is asked for.

    Raises:
      InputError: count is no integer in [0, 2^24]; entropy gave another number of bytes.
    """
    if _counted(count) > MAX_ORDERED:
        raise InputError(f"count is {count}, must be at most 2^24 for a permutation")
    stream = _Stream(entropy)
    below = np.uint64((1 << max(count - 1, 1).bit_length()) - 1)  # bits of a position
    keyed = stream.words(count) & ~below | np.arange(count, dtype=np.uint64)
    keyed.sort()
    order = (keyed & below).view(np.int64)
    equal = np.flatnonzero(keyed[1:] ^ keyed[:-1] <= below)  # i and i + 1 have equal keys
    for group in np.split(equal, np.flatnonzero(np.diff(equal) > 1) + 1) if len(equal) else ():
        first = int(group[0])
        for last in range(int(group[-1]) + 1, first, -1):
            other = first + stream.below(last - first + 1)
            order[[last, other]] = order[[other, last]]
    return order


class _Stream:
    """Bits that serve one call."""

    __slots__ = ("_update",)

    def __init__(self, entropy: Entropy) -> None:
        seed = entropy(32)
        if len(seed) != 32:
            raise InputError(f"entropy gave {len(seed)} bytes, expected 32")
        self._update = Cipher(algorithms.AES(seed[:16]), modes.CTR(seed[16:])).encryptor().update

    def __reduce__(self) -> NoReturn:
        raise TypeError("a stream is neither copied nor pickled: its bits would serve twice")

    def words(self, count: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._update(bytes(8 * count)), np.dtype("<u8"))

    def halves(self, count: int) -> NDArray[np.uint32]:
        """Words of 32 bits."""
        return np.frombuffer(self._update(bytes(4 * count)), np.dtype("<u4"))

    def below(self, bound: int) -> int:
        """An integer, uniform below ``bound`` <= 2^64."""
        fair = 2**64 // bound * bound
        while (word := int(self.words(1)[0])) >= fair:
            pass
        return word % bound

    def bernoulli(self, top: int, bottom: int) -> bool:
        """True with probability top / bottom, exactly; never below 0, always above 1."""
        if not 0 < top < bottom:
            return top > 0
        while True:
            limit, top = divmod(top << 64, bottom)
            word = int(self.words(1)[0])
            if word != limit or not top:
                return word < limit


def _strips(table: Strips, count: int, entropy: Entropy) -> Integers:
    """Draws from a table of strips."""
    out = np.empty(_counted(count), np.int64)
    stream = _Stream(entropy)
    for start in range(0, count, _SLAB):
        _fill(table, out[start : start + _SLAB], stream)
    return out


def _fill(table: Strips, out: Integers, stream: _Stream) -> None:
    """Fast draws of a whole slab first, then what they left to the slow table, all at once."""
    scratch = np.empty((3, min(_CHUNK, len(out))), np.int64)
    slow, again = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(out), _CHUNK):
        left, void = _fast(table, out[start : start + _CHUNK], stream, scratch)
        slow.append(left + start)
        again.append(void + start)
    due, anew = np.concatenate(slow), np.concatenate(again)
    while len(due) or len(anew):
        values, kept = _slow(table, len(due), stream)
        out[due[kept]] = values[kept]
        anew = np.concatenate([anew, due[~kept]])  # a draw that is not kept begins again
        fresh = np.empty(len(anew), np.int64)
        left, void = _fast(table, fresh, stream, np.empty((3, len(anew)), np.int64))
        out[anew] = fresh
        due, anew = anew[left], anew[void]


def _fast(
    table: Strips, out: Integers, stream: _Stream, scratch: Integers
) -> tuple[Integers, Integers]:
    """Draws by slots; where a slow one is due instead, and where -0 is to be drawn again.

    A word is, from its low bits: a slot, an offset of ``log_width`` bits, and at the top a sign.
    """
    words = stream.words(len(out))
    slot, start, sign = scratch[:, : len(out)]
    np.bitwise_and(words, np.uint64((1 << LOG_SLOTS) - 1), out=slot.view(np.uint64))
    table.slots.take(slot, out=start, mode="clip")  # clip: without a copy
    np.right_shift(words, np.uint64(LOG_SLOTS), out=out.view(np.uint64))
    out &= (1 << table.log_width) - 1
    out |= start
    np.right_shift(words.view(np.int64), 63, out=sign)
    _sign(table, out, sign)
    due = np.flatnonzero(slot >= table.sure)
    if table.wedges.real or table.zero_has_both_signs:
        return due, due[:0]
    void = np.flatnonzero(out == 0)
    return due, void[(sign[void] < 0) & (slot[void] < table.sure)]


def _slow(table: Strips, count: int, stream: _Stream) -> tuple[Integers, Flags]:
    """Draws by the alias table of what slots leave out, and whether each is kept."""
    words = stream.words(count)
    column = (words & np.uint64((1 << table.log_columns) - 1)).view(np.int64)
    limit = table.limits.take(column)
    own = words < limit  # the column's bits, below the limit's, change nothing where they differ
    high = np.uint64(table.log_columns)
    for i in np.flatnonzero(words >> high == limit >> high):
        at = int(column[i])
        exact = table.exact_limits[at] << 64 - table.log_columns
        own[i] = stream.bernoulli(exact % table.column, table.column)
    outcome = np.where(own, column, table.aliases.take(column))
    wedge = outcome >= table.count
    strip = np.where(wedge, outcome - table.count, outcome)
    words = stream.words(count)
    offset = (words & np.uint64((1 << table.log_width) - 1)).view(np.int64)
    sign = words.view(np.int64) >> 63
    kept = np.ones(count, np.bool_)
    wedges = np.flatnonzero(wedge)
    kept[wedges] = _keeps(table, strip[wedges], offset[wedges], stream)
    values = strip << table.log_width | offset
    if not (table.wedges.real or table.zero_has_both_signs):
        kept &= (values | ~sign) != 0  # 0 has one sign
    _sign(table, values, sign)
    return values, kept


def _sign(table: Strips, values: Integers, sign: Integers) -> None:
    """A magnitude k becomes k or -k, the cell [k, k + 1) becomes k or -1 - k; sign is 0 or -1."""
    values ^= sign
    if not table.wedges.real:
        values -= sign


def _keeps(table: Strips, strip: Integers, offset: Integers, stream: _Stream) -> Flags:
    """Whether places in wedges are kept; ``strips`` says how probable that is."""
    wedges = table.wedges
    fraction = stream.words(len(strip)) if wedges.real else np.zeros(len(strip), np.uint64)
    uniform = stream.words(len(strip))
    chance, slack = wedges.chance(strip, offset, fraction)
    gap = chance - uniform.astype(np.float64) * 2.0**-64
    kept = gap > 0
    for i in np.flatnonzero(np.abs(gap) <= slack):
        kept[i] = _decide(
            table, int(strip[i]), int(offset[i]), int(fraction[i]), int(uniform[i]), stream
        )
    return kept


def _decide(
    table: Strips, strip: int, offset: int, fraction: int, uniform: int, stream: _Stream
) -> bool:
    """Whether the uniform is below the probability, on as many bits of both as it takes."""
    bits = 64
    while True:
        least, most = table.wedges.bounds(strip, offset, fraction, bits)
        if uniform + 1 <= least * 2**bits:
            return True
        if uniform >= most * 2**bits:
            return False
        if table.wedges.real:
            fraction = fraction << 64 | int(stream.words(1)[0])
        uniform = uniform << 64 | int(stream.words(1)[0])
        bits += 64


def _magnitudes(table: Magnitudes, words: NDArray[np.uint64], stream: _Stream) -> Integers:
    """A draw a word."""
    column = (words & np.uint64((1 << table.log_columns) - 1)).view(np.int64)
    limit = table.limits.take(column)
    own = words < limit
    # Where the high parts are equal, the difference is what lies below them in the word.
    unsure = words - limit < np.uint64(1 << 64 - table.high_bits)
    if unsure.any():
        for i in np.flatnonzero(unsure):
            own[i] = stream.words(1)[0] < table.low_limits[column[i]]
    outcome = table.aliases.take(column).astype(np.int64)
    np.copyto(outcome, column, where=own)
    negative = (words >> np.uint64(table.log_columns) & np.uint64(1)).view(np.int64)
    return (outcome ^ -negative) + negative


def _number(name: str, value: Fraction | int | float, least: float, most: float) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, Fraction | int | float):
        raise InputError(f"{name} is {value!r}, must be a number")
    if not least <= value <= most:
        raise InputError(f"{name} is {value!r}, must be in [{_power(least)}, {_power(most)}]")
    return Fraction(value)


def _power(bound: float) -> str:
    return f"2^{math.frexp(bound)[1] - 1}" if bound not in (0, 1) else f"{bound}"


def _counted(count: int) -> int:
    if type(count) is not int or not 0 <= count <= MAX_DRAWS:
        raise InputError(f"count is {count!r}, must be an integer in [0, 2^32]")
    return count
