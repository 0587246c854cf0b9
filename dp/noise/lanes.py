"""Lanes of a sum as numbers: what rounding adds to a norm, and the scale at which none wraps.

A lane is one integer of the sum, ``bits`` wide. The larger the scale, the less rounding costs
and the likelier a lane wraps. Bounds and proofs: docs/privacy/distributed-noise.md.

[KLS21]: Kairouz, Liu, Steinke, arXiv 2102.06387. [CKS20]: Canonne, Kamath, Steinke, arXiv
2004.00010.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from dp.accounting.accountant import ROUNDING_FAILURE
from dp.errors import InputError
from dp.noise.rotation import FLOAT64_ERROR, entry_error
from dp.noise.skellam import MAX_VARIANCE

REDRAW_BIAS: Final = math.exp(-0.5)  # beta where rounding is redrawn [KLS21]
WRAP_FAILURE: Final = 2.0**-40  # most that P[a lane of one sum wraps] may be
NORM_ERROR: Final = 2.0**-30  # relative, above the 2^-38 of a float64 norm in blocks of 2^15
DRAWN: Final = 32  # random bits by which an entry is rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """What comes into the lanes of one sum, at any scale.

    Attributes:
      bits: width of a lane.
      clients: most that the sum holds, n.
      size: entries of a rotated vector, d.
      clip: C, most that one unit adds to the L2 norm, in the vector's unit.
      batch: units in one client's vector, at most.
      share_stddev: sigma_l, of one client's noise, in the vector's unit.
      skellam: whether the noise is Skellam; otherwise a discrete Gaussian.
      redrawn: whether a client's rounding is redrawn until its norm is at most D2.
      indicator_share: part of D2^2 that a client's bit takes; 0 for none.
    """

    bits: int
    clients: int
    size: int
    clip: float
    batch: int
    share_stddev: float
    skellam: bool
    redrawn: bool
    indicator_share: float

    def l2_sensitivity(self, scale: float) -> float:
        """D2, the L2 norm of what one unit adds to the rotated integers."""
        c, beta = self.clip * scale, REDRAW_BIAS
        if not self.redrawn:
            # Two sums' distance after float rotation, clipping and the cut to ``fraction`` bits.
            beta = ROUNDING_FAILURE
            cut = 2.0 ** -fraction(self.batch * c)
            c += 2 * self.batch * c * (FLOAT64_ERROR + NORM_ERROR) + math.sqrt(self.size) * cut
        return rounded_norm(c, self.size, beta)

    def indicator_resolution(self, scale: float) -> int:
        """k, which a client's bit adds or takes away; 0 where none travels."""
        if not self.indicator_share:
            return 0
        return max(int(math.sqrt(self.indicator_share) * self.l2_sensitivity(scale)), 1)

    def log_wrap(self, scale: float) -> float:
        """Logarithm of a bound on P[some lane wraps]: over all lanes and both sides."""
        n = self.clients
        longest = scale * self.batch * self.clip
        signal = (n * longest) ** 2 / self.size
        noise = n * (scale * self.share_stddev) ** 2
        float_error = longest * entry_error(self.size) + 2.0 ** -(fraction(longest) + 1)
        edge = 2.0 ** (self.bits - 1)
        room = edge - n * float_error
        # Rounding errors are below 1 and independent; redrawing makes likelier what it lets
        # through, by 1 / (1 - beta) a client at most, so there their plain sum may be less.
        redrawn = -n * math.log1p(-REDRAW_BIAS) if self.redrawn else 0.0
        tail = min(
            redrawn + log_tail(room, signal + n / 4, noise, skellam=self.skellam),
            log_tail(room - n, signal, noise, skellam=self.skellam),
        )
        found = math.log(2 * self.size) + tail
        if said := self.indicator_resolution(scale):
            of_bit = log_tail(edge - n * said, 0, noise, skellam=self.skellam)
            found = float(np.logaddexp(found, math.log(2) + of_bit))
        return found

    def largest_scale(self) -> float:
        """The scale of the least k whose lanes hold, to a relative 2^-20, or the sampler's last.

        Raises:
          InputError: the lanes hold at no scale.
        """
        low, high, found = 1.0, 2.0**self.bits / math.sqrt(self.clients), 0.0
        while high - low > 2.0**-20 * high:
            middle = (low + high) / 2
            if self.log_wrap(scale := self.balanced_scale(middle)) <= math.log(WRAP_FAILURE):
                high, found = middle, scale
            else:
                low = middle
        if not found:
            raise InputError(
                f"{self.bits}-bit lanes are too narrow for {self.clients} clients and their noise: "
                "P[wrap] is above 2**-40 a round at every scale; take more bits or less noise"
            )
        return min(found, math.sqrt(MAX_VARIANCE) / self.share_stddev * (1 - 2.0**-40))

    def balanced_scale(self, k: float) -> float:
        """The scale at which k deviations of an entry of the sum reach the end of its lane.

        Signal, rounding and noise as if all were sub-Gaussian: (scale batch C n)^2 / d + n / 4 +
        n (scale sigma_l)^2 = (2^(bits-1) / k)^2 [KLS21], whose k is 4. 0 where rounding
        alone is more.
        """
        n = self.clients
        square = 2.0 ** (2 * self.bits) - n * k**2
        longest = self.batch * self.clip
        spread = math.sqrt((longest * n) ** 2 / self.size + n * self.share_stddev**2)
        return math.sqrt(max(square, 0.0)) / (2 * k * spread)


def rounded_norm(norm: float, entries: int, beta: float) -> float:
    """D2: the L2 norm of a vector of norm at most ``norm`` after stochastic rounding.

    Holds with probability at least 1 - ``beta``; of a bound that always holds, 0 gives it.
    [KLS21], see ``dp.noise.mechanisms``.
    """
    root = math.sqrt(entries)
    always = norm + root
    if beta == 0:
        return always
    square = norm**2 + entries / 4 + math.sqrt(-2 * math.log(beta)) * (norm + root / 2)
    return min(always, math.sqrt(square))


def fraction(longest: float) -> int:
    """Bits after the point, at most ``DRAWN``, that 53 leave beside those of ``longest``."""
    return max(min(DRAWN, 50 - math.frexp(longest + 1)[1]), 0)


def log_tail(room: float, variance: float, noise: float, *, skellam: bool) -> float:
    """Chernoff bound on ln P[X >= room], X = a ``variance``-sub-Gaussian plus the noise.

    Skellam of variance mu has ln E[exp(tX)] = mu (cosh t - 1); a discrete Gaussian is
    sub-Gaussian [CKS20]. Every t > 0 gives a bound; this one is close to the best.
    """
    if room <= 0:
        return 0.0
    if not skellam:
        return -(room**2) / (2 * (variance + noise))
    low, high = 0.0, min(room / (variance + noise), 700.0)
    for _ in range(50):  # of the derivative, which rises: t variance + mu sinh t = room
        middle = (low + high) / 2
        if middle * variance + noise * math.sinh(middle) < room:
            low = middle
        else:
            high = middle
    return high**2 * variance / 2 + 2 * noise * math.sinh(high / 2) ** 2 - high * room
