"""Filters: what may still be released when each release is chosen from the earlier ones.

An accountant's epsilon holds for parameters that were fixed in advance. A filter holds
for any choice along the way: it adds up the price of each release, in one currency
fixed at creation, and refuses the first that would pass its capacity. All that it
admitted is together (epsilon, delta)-differentially private [FZ21, WRRW22].

| filter | admits | price of a step | left on the table |
|---|---|---|---|
| ``ZcdpFilter`` | Gaussian, unamplified | rho = 1 / (2 z^2) | sampling; the conversion |
| ``GdpFilter`` | Gaussian, unamplified | mu^2 = 1 / z^2 | sampling |
| ``RenyiFilter`` | all that has RDP, amplified | RDP at the one order | all other orders |

Unamplified: a sampled Gaussian is admitted, at the price of one that is not sampled.
Under replace-one z counts half. Every filter refuses what ``dp.accounting.accountant`` refuses at
RDP, except sampled replace-one, which the first two admit at that price.

zCDP: rho in all bounds the RDP at every order a by a rho, so the best order may be
chosen after the fact. GDP: Gaussians of adaptive mu_1, mu_2, ... whose squares sum to at
most mu^2 are mu-GDP together [ST22], and epsilon follows from mu exactly [DRS19].

[FZ21]: Feldman and Zrnic, Individual Privacy Accounting via a Rényi Filter, arXiv
2008.11193. [WRRW22]: Whitehouse, Ramdas, Rogers, Wu, Fully Adaptive Composition, arXiv
2203.05481. [ST22]: Smith and Thakurta, Fully Adaptive Composition for Gaussian
Differential Privacy, arXiv 2210.17520. [DRS19]: Dong, Roth, Su, arXiv 1905.02383.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from dp.accounting.accountant import ORDERS, check_delta, check_design, conversion, rdp
from dp.accounting.events import Event, GaussianEvent, NeighboringRelation, Unit
from dp.checks import freeze_floats, integer
from dp.errors import FilterFull, InputError, UnsoundEvent

_LARGEST = 2.0**40  # no capacity is above, in the currency
SCALE = 2**60  # integer units in 1.0 of any currency: exact sums, whatever their order


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter(ABC):
    """A budget that adaptive choices cannot pass. A value: ``spend`` returns the next one.

    Attributes:
      epsilon, delta: what all admitted releases together are guaranteed to keep.
      unit, adjacency: of every event; another one is refused.
      spent: in units of 2^-60 of the currency, each step rounded up.
    """

    NAME: ClassVar[str]

    epsilon: float
    delta: float
    unit: Unit = Unit.EXAMPLE
    adjacency: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE
    spent: int = 0

    def __post_init__(self) -> None:
        check_delta(self.delta)
        freeze_floats(self, "epsilon", "delta")
        for name, kind in (("unit", Unit), ("adjacency", NeighboringRelation)):
            if not isinstance(value := getattr(self, name), kind):
                raise InputError(f"{name} is {value!r}, not one of dp.accounting.events")
        integer("spent", self.spent)

    @property
    @abstractmethod
    def capacity(self) -> int:
        """The most that ``spent`` may be, rounded down."""

    @property
    def share(self) -> float:
        """How much of the capacity is spent, 1 where it is full."""
        if self.spent and not self.capacity:
            return math.inf
        return self.spent / max(self.capacity, 1)

    @abstractmethod
    def _price(self, event: Event) -> float:
        """The price of one step, in the currency; inf where unbounded."""

    def cost(self, event: Event) -> int | None:
        """What ``event`` would add to ``spent``; ``None`` if more than any filter holds.

        Raises:
          UnsoundEvent: the design cannot be treated here, or protects something else.
        """
        if (event.unit, event.adjacency) != (self.unit, self.adjacency):
            raise UnsoundEvent(
                f"the filter is for {self.unit.value} under {self.adjacency.value}, the event "
                f"for {event.unit.value} under {event.adjacency.value}; take one for it"
            )
        price = self._price(event.one_step())
        # Above the rounding of the doubles that led to the price.
        units = price * (1 + 1e-12) * SCALE
        return math.ceil(units) * event.steps if math.isfinite(units) else None

    def admits(self, event: Event) -> bool:
        """Whether ``spend`` would succeed. Raises ``UnsoundEvent`` as ``cost`` does."""
        cost = self.cost(event)
        return cost is not None and self.spent + cost <= self.capacity

    def spend(self, event: Event) -> Self:
        """The filter after ``event``, all its steps.

        Raises:
          FilterFull: it does not fit; this filter stands unchanged.
          UnsoundEvent: see ``cost``.
        """
        cost = self.cost(event)
        if cost is None or self.spent + cost > self.capacity:
            left = max(self.capacity - self.spent, 0) / SCALE
            price = math.inf if cost is None else cost / SCALE
            raise FilterFull(f"the release costs {price:.4g}, {left:.4g} is left of the {self}")
        return replace(self, spent=self.spent + cost)

    def _title(self) -> str:
        return f"{self.NAME} filter"

    def __str__(self) -> str:
        return f"{self._title()} for epsilon {self.epsilon:g} at delta {self.delta:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZcdpFilter(Filter):
    """Zero-concentrated DP: rho adds up, and bounds every order at once."""

    NAME: ClassVar[str] = "zCDP"

    @property
    def capacity(self) -> int:
        slack = conversion(self.delta)
        return _most(lambda rho: float((rho * ORDERS + slack).min()) <= self.epsilon)

    def _price(self, event: Event) -> float:
        return _square_shift(event) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GdpFilter(Filter):
    """Gaussian DP: mu^2 adds up; exact for Gaussians that are not sampled."""

    NAME: ClassVar[str] = "GDP"

    @property
    def capacity(self) -> int:
        return _most(lambda square: _gdp_delta(math.sqrt(square), self.epsilon) <= self.delta)

    def _price(self, event: Event) -> float:
        return _square_shift(event)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenyiFilter(Filter):
    """Rényi DP at one order, chosen before the first release.

    Attributes:
      order: one of ``dp.accounting.accountant.ORDERS``; high for many quiet releases, low for a
        large epsilon.
    """

    NAME: ClassVar[str] = "Rényi"

    order: float

    def __post_init__(self) -> None:
        # super() would look for the class from before its slots were made.
        Filter.__post_init__(self)
        freeze_floats(self, "order")
        if self.order not in ORDERS:
            raise InputError(
                f"order is {self.order:g}, must be one of dp.accounting.accountant.ORDERS"
            )

    @property
    def capacity(self) -> int:
        slack = float(conversion(self.delta)[self.order == ORDERS][0])
        most = min((self.epsilon - slack) * (1 - 1e-12), _LARGEST)
        return max(math.floor(most * SCALE), 0)

    def _price(self, event: Event) -> float:
        return float(rdp(event)[self.order == ORDERS][0])

    def _title(self) -> str:
        return f"{self.NAME} filter of order {self.order:g}"


def _square_shift(event: Event) -> float:
    """(sensitivity / deviation)^2 of one unsampled step."""
    check_design(event)
    if not isinstance(event, GaussianEvent):
        raise UnsoundEvent(f"{type(event).__name__} is no Gaussian; take a RenyiFilter")
    shift = (
        2 if event.adjacency is NeighboringRelation.REPLACE_ONE else 1
    ) / event.noise_multiplier
    return shift * shift


def _gdp_delta(mu: float, epsilon: float) -> float:
    """delta(epsilon) of mu-GDP [DRS19, Cor. 2.13], without its subtraction where that is safe."""
    if mu == 0:
        return 0.0
    root = math.sqrt(2)
    first = math.erfc((epsilon / mu - mu / 2) / root) / 2
    second = math.erfc((epsilon / mu + mu / 2) / root) / 2
    # An underflown or overflown second term leaves delta larger, never smaller.
    weight = math.exp(min(epsilon, 700.0))
    return first * (1 + 1e-12) - weight * second * (1 - 1e-12)


def _most(fits: Callable[[float], bool]) -> int:
    """The largest amount that fits, in units rounded down, from below by bisection."""
    low, high = 0, SCALE
    while fits(high / SCALE):
        low, high = high, 2 * high
        if high > SCALE * _LARGEST:
            return low
    while high - low > max(1, low >> 40):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle / SCALE) else (low, middle)
    return low
