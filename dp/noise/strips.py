"""Tables of a law whose density falls with the magnitude: strips of it, and integers that pick one.

Strip b holds the magnitudes from a = b W to e = (b + 1) W, and W is a power of two. Let f be the
density, up to a factor. A strip has two outcomes:

| outcome   | weight          | magnitude                                                      |
|-----------|-----------------|----------------------------------------------------------------|
| rectangle | W f(e)          | uniform in the strip                                           |
| wedge     | W (f(a) - f(e)) | uniform x, kept with probability (f(x) - f(e)) / (f(a) - f(e)) |

Both together have density f(x) at every x. A sign is drawn too; what is not kept is drawn again
from the beginning, which leaves the law, given that it is kept.

Of the 2^16 ``slots``, each is the whole of a 2^-16th that one rectangle fills: 16 bits of a
word name the strip, others the place in it and the sign, and nothing is compared. What is left
of the rectangles, and all wedges, share the last slots; there an alias table [Walker 1977, Vose
1991] picks the outcome. Its weights are integers that sum to 2^160 a slot, so it errs by
nothing but their rounding: less than 2^-176 an outcome, in all ``ROUNDING`` at most.

[Walker 1977]: An efficient method for generating discrete random variables with general
distributions, ACM TOMS 3(3). [Vose 1991]: A linear algorithm for generating random numbers
with a given distribution, IEEE TSE 17(9).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

LOG_SLOTS: Final = 16  # 2^16 slots take 512 KiB and stay in the second-level cache
ROUNDING: Final = 2.0**-162  # total variation; below 2^14 outcomes

_UNIT = 160  # log2 of a slot's weight
_STRIPS = 7  # log2 of strips a standard deviation, at least; below twice as many


class Wedges(Protocol):
    """What decides whether a place in a wedge is kept."""

    @property
    def real(self) -> bool:
        """Whether x is real, an integer part with a fraction, or an integer."""

    def chance(
        self, strip: NDArray[np.int64], offset: NDArray[np.int64], fraction: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | float]:
        """Probabilities at x = strip W + offset + fraction / 2^64, and how far off they may be.

        Held against a uniform of 64 bits as a float: its rounding is in what they may be off.
        """

    def bounds(
        self, strip: int, offset: int, fraction: int, bits: int
    ) -> tuple[Fraction, Fraction]:
        """The probability's bounds for every x whose fraction begins with these bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Strips:
    """The table; public, and the same for all who draw from it.

    Attributes:
      log_width: log2 of W.
      count: of strips. Outcome b < count is what is left of rectangle b, count + b its wedge.
      slots: the first magnitude of the slot's strip.
      sure: slots that hold one; the others have -1.
      limits: the first 64 - log_columns bits of each column's limit, in the place of a word's
        high bits; where a word is equal there, ``exact_limits`` out of ``column`` decide.
      aliases: the outcome of a column's part above its limit.
      wedges: what decides them.
    """

    log_width: int
    count: int
    slots: NDArray[np.int64] = field(repr=False)
    sure: int
    log_columns: int
    limits: NDArray[np.uint64] = field(repr=False)
    exact_limits: Sequence[int] = field(repr=False)
    column: int
    aliases: NDArray[np.int64] = field(repr=False)
    wedges: Wedges = field(repr=False)

    @property
    def zero_has_both_signs(self) -> bool:
        """Whether 0 may come with either sign: W = 1, where the weight of 0 is halved instead."""
        return not self.log_width


def width(variance: Fraction) -> int:
    """log2 of W: the largest power of two up to a 2^7th of the deviation, at least 1."""
    return max(0, (int(variance).bit_length() - 1) // 2 - _STRIPS)


def build(edges: Sequence[int], log_width: int, wedges: Wedges) -> Strips:
    """The table of a density that is ``edges[b]`` at b W, in any unit, and 0 from the last on.

    Integers alone and W = 1 need no wedge: strip b is the integer b.
    """
    count = len(edges) - 1
    if log_width or wedges.real:
        masses = [*edges[1:], *(a - e for a, e in pairwise(edges))]
    else:
        masses = [edges[0], *(2 * edge for edge in edges[1:-1])]
    whole, total = 1 << LOG_SLOTS + _UNIT, sum(masses)
    weights = [mass * whole // total for mass in masses]
    weights[0] += whole - sum(weights)
    slots: list[int] = []
    for strip in range(count):
        full = max(weights[strip] - 1, 0) >> _UNIT  # something is always left to the alias table
        weights[strip] -= full << _UNIT
        slots += [strip << log_width] * full
    sure = len(slots)
    slots += [-1] * ((1 << LOG_SLOTS) - sure)
    log_columns = (len(weights) - 1).bit_length()
    weights += [0] * ((1 << log_columns) - len(weights))
    # In units that the number of columns divides.
    column = sum(weights)
    exact, aliases = alias([weight << log_columns for weight in weights], column)
    high = 64 - log_columns
    found = Strips(
        log_width=log_width,
        count=count,
        slots=np.array(slots, np.int64),
        sure=sure,
        log_columns=log_columns,
        limits=np.array([(limit << high) // column << log_columns for limit in exact], np.uint64),
        exact_limits=exact,
        column=column,
        aliases=np.array(aliases, np.int64),
        wedges=wedges,
    )
    for shared in (found.slots, found.limits, found.aliases):
        shared.setflags(write=False)
    return found


def alias(weights: Sequence[int], column: int) -> tuple[list[int], list[int]]:
    """Limits and aliases of an alias table [Vose 1991], in integers, so exact.

    ``len(weights) * column`` is their sum. Outcome i has, over all columns, exactly
    ``weights[i]``: ``limits[i]`` in column i, and what is above the limit of each column whose
    alias is i. A full column is its own alias, with limit 0.
    """
    limits, aliases = list(weights), list(range(len(weights)))
    small = [i for i, weight in enumerate(weights) if weight < column]
    large = [i for i, weight in enumerate(weights) if weight >= column]
    for i in small:  # grows while it is read
        giver = large[-1]
        aliases[i] = giver
        limits[giver] -= column - limits[i]
        if limits[giver] < column:
            small.append(large.pop())
    for i in large:
        limits[i] = 0
    return limits, aliases
