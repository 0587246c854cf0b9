"""The Gaussian density under strips, and the bound on what its table leaves out.

phi(x) = exp(-x^2 / (2 s^2)) on the reals or on the integers, s^2 rational. Lengths are in cells.

*Tail.* By Mills' ratio P[|N(0, s^2)| > t s] <= sqrt(2 / pi) exp(-t^2 / 2) / t, at t = 12.8 less
than 2^-122.1. On the integers the sum of phi from K on is below its integral from K - 1 on, and
the sum of all is at least s sqrt(2 pi) [Poisson's formula], so P[|X| >= K] <= P[|N| > K - 1].
The strips end at or after 12.8 s + 1.

*Edges.* phi((b + 1) W) = phi(b W) r_b, r_(b+1) = r_b q, r_0 = exp(-W^2 / (2 s^2)), q = r_0^2, in
integers over 2^256 rounded down. A ratio is off by at most 3 b + 1 units, an edge by
at most 3 b^2: of fewer than 2^12 edges less than 2^-230.

*Weights.* ``strips.ROUNDING``, 2^-162. All together, given that a draw is kept (more than .99
of them are): below 2^-121, which ``ERROR`` says.

*Wedges.* With x = e - gap, the probability is expm1(y) / expm1(y_W), y = gap (2 e - gap) / (2 s^2)
and gap = W in y_W; y_W lies between 2^-17 and .11. In float64 with additions and products alone, no
library's exp: y is off by at most 5 roundings, the series by 4, the ratio by one more: less than
20 2^-53; gap by 2^-52 W, which the ratio multiplies by less than 2.5 / W; and the uniform by
2^-53. That is below 2^-48. A uniform that is nearer than ``MARGIN`` is compared again, with
bounds from decimal arithmetic, on as many more bits as it takes. So floating point decides
nothing, and draws do not depend on the machine.
"""

import math
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dp.noise.strips import Strips, build, width

ERROR: Final = 2.0**-121  # total variation of one draw; see the module
MARGIN: Final = 2.0**-44  # 16 times what a float probability is off

_REACH = Fraction(64, 5)  # standard deviations; a tail of 2^-122.1
_BITS = 256  # of the fixed point of edges
_SERIES = 14  # terms: .11^15 / 15! is below 2^-87


@dataclass(frozen=True, slots=True)
class GaussianWedges:
    """phi of a ``variance`` in squared cells; ``real`` as in ``strips.Wedges``."""

    variance: Fraction
    log_width: int
    real: bool

    def chance(
        self, strip: NDArray[np.int64], offset: NDArray[np.int64], fraction: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float64], float]:
        span, scale = float(1 << self.log_width), float(1 / (2 * self.variance))
        gap = span - (offset.astype(np.float64) + fraction.astype(np.float64) * 2.0**-64)
        twice = (2 << self.log_width) * (strip + 1).astype(np.float64)  # 2 e, below 2^53: exact
        below = _expm1(gap * (twice - gap) * scale)
        return below / _expm1(span * (twice - span) * scale), MARGIN

    def bounds(
        self, strip: int, offset: int, fraction: int, bits: int
    ) -> tuple[Fraction, Fraction]:
        span, end = 1 << self.log_width + bits, strip + 1 << self.log_width + bits
        gap = span - (offset << bits) - fraction
        # An exp is off by half a digit of the last place, and its part of the ratio by at
        # most 2^17 times that: less than 2^-(bits + 100).
        with localcontext(Context(prec=(bits + 132) * 31 // 100)):

            def expm1(length: int) -> Decimal:
                top, bottom = self.variance.as_integer_ratio()
                y = Decimal(length * (2 * end - length) * bottom)
                return (y / (2 * top << 2 * bits)).exp() - 1

            whole = expm1(span)
            most, least = expm1(gap) / whole, expm1(gap - self.real) / whole  # falls with x
        spare = Fraction(1, 1 << bits + 60)
        return Fraction(least) - spare, Fraction(most) + spare


@lru_cache(maxsize=8)
def table(variance: Fraction, *, real: bool) -> Strips:
    """Magnitudes of a Gaussian on the integers, or on cells [k, k + 1) of the reals.

    The table is good for variances from 2^-16 (on the reals from 2^14, so that W is a cell or
    more) to 2^86, in squared cells.
    """
    log_width = width(variance)
    reach = math.isqrt(int(_REACH**2 * variance)) + 2
    count = -(-reach >> log_width)
    top, bottom = variance.as_integer_ratio()
    with localcontext(Context(prec=100)):
        ratio = (Decimal(-bottom << 2 * log_width) / (2 * top)).exp()
        square = int(ratio * ratio * (1 << _BITS))
        r = int(ratio * (1 << _BITS))
    edges = [1 << _BITS]
    for _ in range(count):
        edges.append(edges[-1] * r >> _BITS)
        r = r * square >> _BITS
    wedges = GaussianWedges(variance, log_width, real)
    return build(edges, log_width, wedges)


def _expm1(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(y) - 1 of y in [0, .11] by its series, all of whose terms are positive."""
    found = np.full_like(y, 1 / math.factorial(_SERIES))
    for k in range(_SERIES - 1, 0, -1):
        found *= y
        found += 1 / math.factorial(k)
    found *= y
    return found
