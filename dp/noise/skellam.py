"""The Skellam law as a table of exact integers, and the bound on what the table leaves out.

X is the difference of two Poisson(mu/2), mu its variance: p(k) = e^-mu I_|k|(mu). A table
has 2^c columns of 2^T units each, so its weights are integers that sum to 2^(c+T), and an
alias table [Walker 1977, Vose 1991] draws from them without any further error. Let e(k)
be what p(k) is computed as, S the magnitudes left out: the distance in total variation
is at most sum |e(k) - p(k)| + P[S] + units of rounding / 2^(c+T).

*Tail.* P[X >= t] <= exp(-(t asinh(t/mu) - sqrt(t^2 + mu^2) + mu)) by Chernoff, so
P[|X| > last] <= 2^-120 holds for ``last`` near 13 standard deviations.

*Up to 2^16 magnitudes: one outcome each.* f(k-1) = f(k+1) + (2k/mu) f(k), downwards from
f(last) = 2^160, f(last+1) = 0, in integers rounded down. All terms are positive, so
``last`` roundings cost at most last 2^-160 of each f. The exact solution is, but for a
factor, I_k +- K_k I_(last+1) / K_(last+1), and K grows with its order: its distance from
p(k) is at most p(last+1). Over all k: (2 last + 1) 2^-120 + last 2^-160 < 2^-102.

*More: blocks.* [b W, (b+1) W) has two outcomes: "sure", with weight W e((b+1) W), is
uniform in the block; "unsure", with weight W (e(b W) - e((b+1) W)), is uniform and
then kept with probability (e(k) - e((b+1) W)) / (e(b W) - e((b+1) W)). As p falls with
|k|, both together are e(k) for every k; a sign is drawn too, and -0 is dropped. Here
e(k) = (1/M) sum_j exp(-mu (1 - cos(2 pi j/M))) cos(2 pi j k/M), exactly
sum_n p(k + n M). With M = 27 standard deviations the neighbours n != 0 weigh less than
2^-140. The terms left out begin below 2^-160; each is less than half the one before up to
a quarter turn, and beyond they are exp(-mu) together. The cosines are off by less than
2^-170 after 2^16 rotations at 192 bits, which the sum multiplies by less than 2^14; its
own roundings are less than 2^-180. Over at most 2^25 values of k: less than 2^-113.

*Weights* are rounded down and the rest is given to one outcome: at most 2^17 units of at
most 2^-118. All together less than 2^-99; ``ERROR`` says 2^-96.

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
from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_VARIANCE: Final = 2.0**-16
MAX_VARIANCE: Final = 2.0**40  # a standard deviation of 2^20
ERROR: Final = 2.0**-96  # total variation of one draw; see the module

_TAIL = 122 * math.log(2)  # two bits over 2^-120: one for two sides, one for double rounding
_LOG_COLUMNS = 16  # at most; 2^16 columns take 0.75 MiB and stay in the second-level cache
_BITS = 192  # of the fixed point in which blocks are computed
_NEGLIGIBLE = Decimal("5e-49")  # below 2^-160


class Blocks:
    """p(k) of a large variance at any one k, as an integer over 2^192; see the module."""

    def __init__(self, variance: float, width: int, count: int) -> None:
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
            self._edges = _rotations(turn * width, count + 1)
            self._offsets = _rotations(turn, width)

    def weight(self, block: int, offset: int) -> int:
        """p(block * width + offset) 2^192."""
        (c, s), (d, t) = self._edges[block], self._offsets[offset]
        cosine = c * d - s * t >> _BITS
        twice = 2 * cosine
        above, here = 0, 0
        for term in self._terms[:-1]:  # Clenshaw's recurrence: a rounding changes one term by one
            here, above = term + (twice * here >> _BITS) - above, here
        return self._terms[-1] + (cosine * here >> _BITS) - above


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """An alias table over outcomes, and what an outcome means.

    A 64-bit word is, from its low bits: ``log_columns`` of column, ``log_width`` of offset, a
    sign, and the high part of a threshold whose low part is another word. A column gives its
    own outcome where (high, low) lies below its limit, else its alias. ``limits`` holds the
    high part where the word has it, so that one comparison of whole words decides.

    ``weights`` are the outcomes' probabilities in units of 2^-(log_columns + threshold bits).
    Where ``edges`` is not None, outcomes 2b and 2b + 1 are the sure and unsure part of block b.
    """

    log_columns: int
    log_width: int
    weights: Sequence[int] = field(repr=False)
    limits: NDArray[np.uint64] = field(repr=False)
    low_limits: NDArray[np.uint64] = field(repr=False)
    aliases: NDArray[np.uint16] = field(repr=False)
    edges: Sequence[int] | None = field(repr=False)
    blocks: Blocks | None = field(repr=False)

    @property
    def high_bits(self) -> int:
        """Bits of threshold in the first word."""
        return 63 - self.log_columns - self.log_width


@lru_cache(maxsize=8)
def table(variance: float) -> Table:
    """The table of Skellam noise of this variance, in [``MIN_VARIANCE``, ``MAX_VARIANCE``]."""
    last = reach(variance)
    if last < 2**_LOG_COLUMNS:
        masses, width, edges, blocks = _magnitudes(variance, last), 1, None, None
    else:
        width = 2
        while 2 * (count := last // width + 1) > 2**_LOG_COLUMNS:
            width *= 2
        blocks = Blocks(variance, width, count)
        edges = [max(0, blocks.weight(b, 0)) for b in range(count + 1)]
        for b in reversed(range(count)):  # beyond 2^-140 rounding may break the order
            edges[b] = max(edges[b], edges[b + 1])
        masses = [m for b in range(count) for m in (edges[b + 1], edges[b] - edges[b + 1])]
    log_width = width.bit_length() - 1
    log_columns = (len(masses) - 1).bit_length()
    high_bits = 63 - log_columns - log_width
    column = 1 << high_bits + 64
    total = sum(masses)
    weights = [mass * (column << log_columns) // total for mass in masses]
    weights[0] += (column << log_columns) - sum(weights)
    limits, aliases = alias(weights + [0] * ((1 << log_columns) - len(weights)), column)
    found = Table(
        log_columns=log_columns,
        log_width=log_width,
        weights=weights,
        limits=np.array([limit >> 64 << 64 - high_bits for limit in limits], np.uint64),
        low_limits=np.array([limit & 2**64 - 1 for limit in limits], np.uint64),
        aliases=np.array(aliases, np.uint16),
        edges=edges,
        blocks=blocks,
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
    """By their series; for angles below 1."""
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
