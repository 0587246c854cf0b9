"""Integer noise: Skellam and the discrete Gaussian, from cryptographic bits alone.

| sampler | law | distance from it, a draw |
|---|---|---|
| ``SkellamSampler`` | difference of two Poisson(variance / 2) | at most 2^-96 |
| ``DiscreteGaussianSampler`` | p(k) in proportion to exp(-k^2 / (2 variance)), k integer | 0 |

No floating point decides anything. Every call takes 32 bytes from ``entropy``, the key and
the first counter block of an AES-128-CTR stream [NIST SP 800-38A] that serves this call
alone; that its bits pass for uniform is the computational assumption. Draws are a function
of those bytes. Neither sampler hides, in its running time, what it draws.

[CKS20]: Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy,
arXiv 2004.00010. [AKL21]: Agarwal, Kairouz, Liu, The Skellam Mechanism, arXiv 2110.04995.
[Lemire 2019]: Fast Random Integer Generation in an Interval, arXiv 1805.10941.
"""

import math
import os
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from dp.errors import BadParameter
from dp.noise.skellam import ERROR, MAX_VARIANCE, MIN_VARIANCE, table

Entropy: TypeAlias = Callable[[int], bytes]
Integers: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

MAX_DRAWS: Final = 2**32  # of one call: far below the 2^64 blocks at which CTR shows itself

_CHUNK = 2**14  # words: 128 KiB, so that a chunk and what is made of it stay in the cache
_FAR = 16  # scales of the Laplace envelope; a draw beyond (e^-16) is decided by itself
_ONE = 32  # fractional bits of gamma, and bits of the uniform it is compared with
_MAX_K = 2**6  # more than this many steps (1 in 64!) are decided one by one


class SkellamSampler:
    """Draws of Skellam noise, the difference of two Poisson(``variance`` / 2) [AKL21].

    One draw is within ``error`` = 2^-96 of its exact law in total variation, so n draws are
    within n 2^-96; the proof is in ``dp.noise.skellam``. Adding the draws of independent samplers
    adds their variances.

    The table is built once a variance and process, then shared; eight are kept. A draw takes
    8 bytes of stream, but for one in 2^47 or fewer up to a variance of about 2.5 * 10^7.
    Above, one in 1,500 or fewer is decided by itself, in Python integers.

    Raises:
      BadParameter: variance outside [2^-16, 2^40].
    """

    def __init__(self, variance: float) -> None:
        exact = _variance(variance)
        self.variance = float(exact)
        if self.variance != exact:
            raise BadParameter(f"variance is {variance!r}, which is no double")
        self.error = ERROR
        self._table = table(self.variance)

    def __repr__(self) -> str:
        return f"SkellamSampler({self.variance!r})"

    def sample(self, count: int, *, entropy: Entropy = os.urandom) -> Integers:
        """``count`` independent draws, int64.

        Raises:
          BadParameter: count is no integer in [0, 2^32]; entropy gave another number of bytes.
        """
        out, done = _empty(count), 0
        stream = _Stream(entropy)
        while done < count:
            values = self._draw(stream.words(min(_CHUNK, count - done)), stream)
            out[done : done + len(values)] = values
            done += len(values)
        return out

    def _draw(self, words: NDArray[np.uint64], stream: "_Stream") -> Integers:
        """At most one draw a word, in their order."""
        t = self._table
        column = (words & np.uint64((1 << t.log_columns) - 1)).view(np.int64)
        limit = t.limits.take(column)
        own = words < limit
        # Where the high parts are equal, the difference is what lies below them in the word.
        unsure = words - limit < np.uint64(1 << 64 - t.high_bits)
        if unsure.any():
            for i in np.flatnonzero(unsure):
                own[i] = stream.words(1)[0] < t.low_limits[column[i]]
        outcome = t.aliases.take(column).astype(np.int64)
        np.copyto(outcome, column, where=own)
        negative = (words >> np.uint64(t.log_columns + t.log_width) & np.uint64(1)).view(np.int64)
        if t.blocks is None:
            return (outcome ^ -negative) + negative
        offset = words >> np.uint64(t.log_columns) & np.uint64((1 << t.log_width) - 1)
        value = (outcome >> 1 << t.log_width) + offset.view(np.int64)
        keep = (value | (negative ^ 1)) != 0  # 0 has one sign
        for i in np.flatnonzero(outcome & 1):
            keep[i] &= self._keeps(int(outcome[i]) >> 1, int(offset[i]), stream)
        value = (value ^ -negative) + negative
        return value if keep.all() else value[keep]

    def _keeps(self, block: int, offset: int, stream: "_Stream") -> bool:
        t = self._table
        if t.blocks is None or t.edges is None:
            raise RuntimeError("a table of magnitudes has no blocks")
        floor = t.edges[block + 1]
        return stream.bernoulli(t.blocks.weight(block, offset) - floor, t.edges[block] - floor)


class DiscreteGaussianSampler:
    """Draws of N_Z(0, ``variance``), exactly: ``error`` is 0 [CKS20, Alg. 1-3].

    A float is taken as the rational it is. A decision is a Bernoulli(exp(-p/q)) made of
    Bernoulli(p/(q k)), each of which compares a uniform with p/(q k): its first 32 bits with
    integers on both sides of p/(q k), many at once, and where these leave it open, as many
    more bits as it takes with p and q themselves, as Python integers. Where p/q = 1 the
    uniform is compared with 1/e in the same way.

    The variance of N_Z(0, s^2) is below s^2, and a sum of such draws is not of the same law.

    Raises:
      BadParameter: variance outside [2^-16, 2^40].
    """

    def __init__(self, variance: Fraction | int | float) -> None:
        self.variance = _variance(variance)
        self.error = 0.0
        a, b = self.variance.as_integer_ratio()
        self._scale = math.isqrt(a // b) + 1
        # gamma(y) = (y - center)^2 / (2 variance), y = |Y| < _FAR * scale; distances are taken
        # in units of 2^-shift, below 2^31, so that squares stay below 2^62.
        self._center = Fraction(a, b * self._scale)
        self._shift = 31 - (_FAR * self._scale).bit_length()
        center = self._center * 2**self._shift
        self._center_floor, self._center_ceil = math.floor(center), math.ceil(center)
        # gamma 2^32 = (square / 2^31) factor / 2^down, factor below 2^31.
        factor = Fraction(2 ** (31 + _ONE), 4**self._shift) / (2 * self.variance)
        self._down = 31 - math.ceil(factor).bit_length()
        self._factor_floor = math.floor(factor * Fraction(2) ** self._down)
        self._factor_ceil = self._factor_floor + 1

    def __repr__(self) -> str:
        return f"DiscreteGaussianSampler({self.variance!r})"

    def sample(self, count: int, *, entropy: Entropy = os.urandom) -> Integers:
        """``count`` independent draws, int64.

        Raises:
          BadParameter: count is no integer in [0, 2^32]; entropy gave another number of bytes.
        """
        out, done = _empty(count), 0
        stream = _Stream(entropy)
        while done < count:
            # About a third of the candidates come through, of a large variance about half.
            values = self._draw(min(_CHUNK, 3 * (count - done) + 16), stream)[: count - done]
            out[done : done + len(values)] = values
            done += len(values)
        return out

    def _draw(self, candidates: int, stream: "_Stream") -> Integers:
        """Draws from at most so many candidates [CKS20, Alg. 3]."""
        size, negative = _laplace(self._scale, candidates, stream)
        near = size < _FAR * self._scale
        low, high = self._gamma(np.where(near, size, 0))
        keep = _flips(low, high, lambda i: self._exact_gamma(int(size[i])), stream)
        for i in np.flatnonzero(~near):
            keep[i] = _flip(self._exact_gamma(int(size[i])), stream)
        value = (size ^ -negative) + negative
        return value[keep]

    def _exact_gamma(self, size: int) -> Fraction:
        return (size - self._center) ** 2 / (2 * self.variance)

    def _gamma(self, size: Integers) -> tuple[Integers, Integers]:
        """Integers around gamma 2^32."""
        at = size << self._shift
        after, before = at - self._center_floor, at - self._center_ceil
        least = np.maximum(np.maximum(before, -after), 0)
        most = np.maximum(after, -before)
        low = ((least * least >> 31) * self._factor_floor) >> self._down
        high = (((most * most >> 31) + 1) * self._factor_ceil >> self._down) + 1
        return low, high


class _Stream:
    """Bits that serve one call."""

    __slots__ = ("_update",)

    def __init__(self, entropy: Entropy) -> None:
        seed = entropy(32)
        if len(seed) != 32:
            raise BadParameter(f"entropy gave {len(seed)} bytes, expected 32")
        self._update = Cipher(algorithms.AES(seed[:16]), modes.CTR(seed[16:])).encryptor().update

    def words(self, count: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._update(bytes(8 * count)), np.dtype("<u8"))

    def halves(self, count: int) -> NDArray[np.uint64]:
        """Words of 32 bits, in 64."""
        return np.frombuffer(self._update(bytes(4 * count)), np.dtype("<u4")).astype(np.uint64)

    def below(self, bound: int, count: int) -> Integers:
        """At most ``count`` integers, uniform below ``bound`` < 2^32 [Lemire 2019]."""
        product = self.halves(count) * np.uint64(bound)
        fair = product & np.uint64(2**32 - 1) >= np.uint64(2**32 % bound)
        return (product >> np.uint64(32))[fair].view(np.int64)

    def bernoulli(self, top: int, bottom: int) -> bool:
        """True with probability top / bottom, exactly; never below 0, always above 1."""
        if not 0 < top < bottom:
            return top > 0
        while True:
            limit, top = divmod(top << 64, bottom)
            word = int.from_bytes(self._update(bytes(8)), "little")
            if word != limit or not top:
                return word < limit


def _laplace(scale: int, count: int, stream: _Stream) -> tuple[Integers, Integers]:
    """|Y| and, as 1, its sign, of Y in proportion to exp(-|Y| / scale) [CKS20, Alg. 2]."""
    drawn = stream.below(scale, count)
    low = (drawn << _ONE) // scale
    rest = drawn[_flips(low, low + 1, lambda i: Fraction(int(drawn[i]), scale), stream)]
    times = np.zeros(len(rest), np.int64)
    going = np.arange(len(rest))
    while len(going):
        going = going[_flips_of_one(len(going), stream)]
        times[going] += 1
    size = rest + scale * times
    negative = (stream.halves(len(size)) & np.uint64(1)).view(np.int64)
    once = (size | (negative ^ 1)) != 0  # 0 has one sign
    return size[once], negative[once]


def _flips(
    low: Integers, high: Integers, exact: Callable[[int], Fraction], stream: _Stream
) -> Flags:
    """Bernoulli(exp(-gamma)) of many gamma [CKS20, Alg. 1].

    ``low`` <= gamma 2^32 <= ``high``, and ``exact(i)`` is gamma itself. For any integer
    m >= gamma it is m times a Bernoulli(exp(-gamma/m)), each of them the parity of the first
    k at which a Bernoulli(gamma/(m k)) fails.
    """
    found = np.zeros(len(low), np.bool_)
    at = np.arange(len(low))
    parts = -(-high >> _ONE)
    left, k = parts, np.ones(len(low), np.int64)
    step = 0
    while len(at):
        step += 1
        width = k * parts  # below 2^30, as gamma < 2^24; times a uniform below 2^62
        uniform = stream.halves(len(at)).view(np.int64)
        product = uniform * width
        below, above = product + width <= low, product >= high
        if step > _MAX_K:
            below[:] = above[:] = False
        unsure = below == above
        if unsure.any():
            for i in np.flatnonzero(unsure):
                den = int(k[i]) * int(parts[i])
                gap = exact(int(at[i])) * 2**_ONE - int(uniform[i]) * den
                below[i] = stream.bernoulli(gap.numerator, gap.denominator * den)
        left = left - np.where(below, 0, k & 1)  # one part is done where k is odd
        over = left == 0
        found[at[over]] = True
        going = np.flatnonzero(below | ((k & 1) > over))
        k = np.where(below, k + 1, 1).take(going)
        at, parts, left = at.take(going), parts.take(going), left.take(going)
        low, high = low.take(going), high.take(going)
    return found


def _flips_of_one(count: int, stream: _Stream) -> Flags:
    """Bernoulli(exp(-1)): a uniform is compared with 1/e, at as many bits as it takes."""
    uniform, limit = stream.halves(count), _inverse_e(32)
    found = uniform < np.uint64(limit)
    for i in np.flatnonzero(uniform == np.uint64(limit)):
        bits, value = 32, limit
        while value == limit:
            bits += 64
            value, limit = value << 64 | int(stream.words(1)[0]), _inverse_e(bits)
        found[i], limit = value < limit, _inverse_e(32)
    return found


@lru_cache
def _inverse_e(bits: int) -> int:
    """floor(2^bits / e), between two partial sums of the alternating series."""
    total, term, n = Fraction(0), Fraction(2**bits), 0
    while math.floor(total) != math.floor(total + term):
        total, n = total + term, n + 1
        term /= -n
    return math.floor(total)


def _flip(gamma: Fraction, stream: _Stream) -> bool:
    """Bernoulli(exp(-gamma)), exactly, one by one."""
    parts = math.ceil(gamma)
    for _ in range(parts):
        k = 1
        while stream.bernoulli(gamma.numerator, gamma.denominator * parts * k):
            k += 1
        if not k % 2:
            return False
    return True


def _variance(value: Fraction | int | float) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, Fraction | int | float):
        raise BadParameter(f"variance is {value!r}, must be a number")
    if not MIN_VARIANCE <= value <= MAX_VARIANCE:
        raise BadParameter(f"variance is {value!r}, must be in [2^-16, 2^40]")
    return Fraction(value)


def _empty(count: int) -> Integers:
    if type(count) is not int or not 0 <= count <= MAX_DRAWS:
        raise BadParameter(f"count is {count!r}, must be an integer in [0, 2^32]")
    return np.empty(count, np.int64)
