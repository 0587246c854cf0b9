"""The Skellam law as a table of exact integers, and the bound on what the table leaves out.

X is the difference of two Poisson(mu/2), mu its variance: p(k) = e^-mu I_|k|(mu). Weights are
integers that sum to a power of two, and an alias table [Walker 1977, Vose 1991] draws from them
without any further error. Let e(k) be what p(k) is computed as, S the magnitudes left out: the
distance in total variation is at most sum |e(k) - p(k)| + P[S] + rounding of weights.

*Tail.* P[X >= t] <= exp(-(t asinh(t/mu) - sqrt(t^2 + mu^2) + mu)) by Chernoff, so
P[|X| > last] <= 2^-120 holds for ``last`` near 13 standard deviations.

*Up to 2^16 magnitudes: one outcome each.* f(k-1) = f(k+1) + (2k/mu) f(k), downwards from
f(last) = 2^160, f(last+1) = 0, in integers rounded down. All terms are positive, so
``last`` roundings cost at most last 2^-160 of each f. The exact solution is, but for a
factor, I_k +- K_k I_(last+1) / K_(last+1), and K grows with its order: its distance from
p(k) is at most p(last+1). Over all k: (2 last + 1) 2^-120 + last 2^-160 < 2^-102.

*More: strips* of e on the integers, see ``dp.noise.strips``, with
e(k) = (1/M) sum_j exp(-mu (1 - cos(2 pi j/M))) cos(2 pi j k/M), exactly
sum_n p(k + n M). With M = 27 standard deviations the neighbours n != 0 weigh less than
2^-140. The terms left out begin below 2^-160; each is less than half the one before up to
a quarter turn, and beyond they are exp(-mu) together. The cosines are off by less than
2^-170 after 2^16 rotations at 192 bits, which the sum multiplies by less than 2^14; its
own roundings are less than 2^-180. Over at most 2^25 values of k: less than 2^-113.

*Weights* are rounded down and the rest is given to one outcome: at most 2^16 units of 2^-127,
or ``strips.ROUNDING``. All together less than 2^-99; ``ERROR`` says 2^-96.

*Wedges.* The sum's factors are positive, so no second difference of e passes
D = 2 (e(0) - e(1)) either way, and in a strip e is within D W^2 / 8 of its chord. A uniform that is
farther than this from the chord's probability, 2^-145 for the errors of e and 2^-50 for
those of floats included, is decided; any other is compared with e itself, exactly.

[Walker 1977]: An efficient method for generating discrete random variables with general
distributions, ACM TOMS 3(3). [Vose 1991]: A linear algorithm for generating random numbers
with a given distribution, IEEE TSE 17(9).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp.noise.strips import Strips, alias, build, width

MIN_VARIANCE: Final = 2.0**-16
MAX_VARIANCE: Final = 2.0**40  # a standard deviation of 2^20
ERROR: Final = 2.0**-96  # total variation of one draw; see the module

_TAIL = 122 * math.log(2)  # two bits over 2^-120: one for two sides, one for double rounding
_LOG_COLUMNS = 16  # at most; 2^16 columns take 0.75 MiB and stay in the second-level cache
_BITS = 192  # of the fixed point in which strips are computed
_UNSURE = 1 << _BITS - 145  # more than e is off
_NEGLIGIBLE = Decimal("5e-49")  # below 2^-160


class SkellamWedges:
    """e(k) of a large variance at any one k, as an integer over 2^192; see the module."""

    real: Final = False

    def __init__(self, variance: float, log_width: int, count: int) -> None:
        self._log_width = log_width
        period = math.ceil(27 * math.sqrt(variance))
        one = 1 << _BITS
        with localcontext(Context(prec=90)):
            turn = 2 * _pi() / period
            self._terms = [one // period]
            while True:
                half = _sin_cos(turn * len(self._terms) / 2)[0]
                size = 2 / Decimal(period) * (-2 * Decimal(variance) * half * half).exp()
                if size < _NEGLIGIBLE:
                    break
                self._terms.append(int(size * one))
            self._terms.reverse()
            self._starts = _rotations(turn * (1 << log_width), count + 1)
            self._offsets = _rotations(turn, 1 << log_width)
        self.edges = [max(0, self.weight(strip, 0)) for strip in range(count + 1)]
        for strip in reversed(range(count)):  # beyond 2^-140 rounding may break the order
            self.edges[strip] = max(self.edges[strip], self.edges[strip + 1])
        bend = (self.edges[0] - self.weight(0, 1) << 2 * log_width) // 4 + _UNSURE
        self._slack = np.array(
            [bend / (a - e) + 2.0**-50 if a > e else 1.0 for a, e in pairwise(self.edges)]
        )

    def weight(self, strip: int, offset: int) -> int:
        """e(strip W + offset) 2^192."""
        (c, s), (d, t) = self._starts[strip], self._offsets[offset]
        cosine = c * d - s * t >> _BITS
        twice = 2 * cosine
        above, here = 0, 0
        for term in self._terms[:-1]:  # Clenshaw's recurrence: a rounding changes one term by one
            here, above = term + (twice * here >> _BITS) - above, here
        return self._terms[-1] + (cosine * here >> _BITS) - above

    def chance(
        self, strip: NDArray[np.int64], offset: NDArray[np.int64], fraction: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        del fraction  # of an integer there is none
        return 1 - offset.astype(np.float64) * 2.0**-self._log_width, self._slack.take(strip)

    def bounds(
        self, strip: int, offset: int, fraction: int, bits: int
    ) -> tuple[Fraction, Fraction]:
        del fraction, bits
        top, floor = self.edges[strip], self.edges[strip + 1]
        exact = Fraction(self.weight(strip, offset) - floor, top - floor)
        return exact, exact


@dataclass(frozen=True, slots=True, eq=False)
class Magnitudes:
    """An alias table whose outcomes are magnitudes.

    A 64-bit word is, from its low bits: ``log_columns`` of column, a sign, and the high part of a
    threshold whose low part is another word. A column gives its own outcome where (high, low)
    lies below its limit, else its alias. ``limits`` holds the high part where the word has it,
    so that one comparison of whole words decides.

    ``weights`` are the magnitudes' probabilities in units of 2^-127.
    """

    log_columns: int
    weights: Sequence[int] = field(repr=False)
    limits: NDArray[np.uint64] = field(repr=False)
    low_limits: NDArray[np.uint64] = field(repr=False)
    aliases: NDArray[np.uint16] = field(repr=False)

    @property
    def high_bits(self) -> int:
        """Bits of threshold in the first word."""
        return 63 - self.log_columns


@lru_cache(maxsize=8)
def table(variance: float) -> Magnitudes | Strips:
    """The table of Skellam noise of this variance, in [``MIN_VARIANCE``, ``MAX_VARIANCE``]."""
    last = reach(variance)
    if last >= 2**_LOG_COLUMNS:
        log_width = width(Fraction(variance))
        wedges = SkellamWedges(variance, log_width, (last >> log_width) + 1)
        return build(wedges.edges, log_width, wedges)
    masses = _magnitudes(variance, last)
    log_columns = (len(masses) - 1).bit_length()
    high_bits = 63 - log_columns
    column = 1 << high_bits + 64
    total = sum(masses)
    weights = [mass * (column << log_columns) // total for mass in masses]
    weights[0] += (column << log_columns) - sum(weights)
    limits, aliases = alias(weights + [0] * ((1 << log_columns) - len(weights)), column)
    found = Magnitudes(
        log_columns=log_columns,
        weights=weights,
        limits=np.array([limit >> 64 << 64 - high_bits for limit in limits], np.uint64),
        low_limits=np.array([limit & 2**64 - 1 for limit in limits], np.uint64),
        aliases=np.array(aliases, np.uint16),
    )
    for shared in (found.limits, found.low_limits, found.aliases):
        shared.setflags(write=False)
    return found


def reach(variance: float) -> int:
    """A magnitude that X passes with a probability of at most 2^-120."""

    def exponent(t: int) -> float:
        return t * math.asinh(t / variance) - t * t / (variance + math.hypot(t, variance))

    below, above = 0, 1
    while exponent(above) < _TAIL:
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if exponent(middle) < _TAIL else (below, middle)
    return above


def _magnitudes(variance: float, last: int) -> list[int]:
    """Numbers in proportion to P[|X| = k], k = 0..last."""
    top, bottom = Fraction(variance).as_integer_ratio()
    above, here = 0, 1 << 160
    masses = [2 * here]
    for twice_k in range(2 * last * bottom, 0, -2 * bottom):
        above, here = here, above + twice_k * here // top
        masses.append(2 * here)
    masses[-1] //= 2
    masses.reverse()
    return masses


def _pi() -> Decimal:
    """Pi to the precision of the context [Machin 1706]."""

    def arc(x: int) -> Decimal:
        power, n, found = 1 / Decimal(x), 1, Decimal(0)
        while found + power / n != found:
            found += power / n
            power, n = -power / (x * x), n + 2
        return found

    return 16 * arc(5) - 4 * arc(239)


def _sin_cos(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Sine and cosine by their series; for angles below 1."""
    term, n = Decimal(1), 0
    found = [Decimal(0), Decimal(0)]  # cosine, sine
    while abs(term) > Decimal(10) ** -90:
        found[n % 2] += -term if n % 4 > 1 else term
        n += 1
        term = term * angle / n
    return found[1], found[0]


def _rotations(angle: Decimal, count: int) -> list[tuple[int, int]]:
    """(cos, sin) 2^192 of ``count`` multiples of the angle from 0."""
    sine, cosine = (int(x * (1 << _BITS)) for x in _sin_cos(angle))
    c, s = 1 << _BITS, 0
    found = []
    for _ in range(count):
        found.append((c, s))
        c, s = c * cosine - s * sine >> _BITS, s * cosine + c * sine >> _BITS
    return found
