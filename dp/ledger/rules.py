"""What may be chosen from earlier outputs, and how a ledger admits and reports then.

| policy | chosen from earlier outputs | admits by | epsilon to state |
|---|---|---|---|
| "fixed plan" | nothing | Rényi DP, at its best order | what was spent |
| "zCDP", "GDP" | all parameters | the filter of that name | the budget, whole |
| "RDP at order A" | all parameters | ``RenyiFilter`` of that order | the budget, whole |

Under a filter what was spent depends on the outputs, so it is no guarantee by itself:
only the (epsilon, delta) that was fixed before the first release is one [FZ21, WRRW22].
It is stated as soon as anything was charged, and ``Ledger.filter_of`` says how much
of the currency is gone. Where an actual price passed the capacity after the fact
nothing finite was promised, and epsilon is infinite.

A price may depend on all earlier releases and on who was lost, never on its own output.
The best order of a fixed plan is chosen after the fact, which no adaptive choice allows:
budget that a cheaper release left over is freed under a filter alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import inf
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.accounting.accountant import ORDERS, Accountant, epsilon_pld, merge
from dp.accounting.events import Event
from dp.accounting.filters import SCALE, Filter, GdpFilter, RenyiFilter, ZcdpFilter
from dp.errors import InputError, UnsoundEvent
from dp.ledger import admission
from dp.ledger.books import Budget
from dp.ledger.records import Book

Basis: TypeAlias = Literal["reserved", "actual"]
Spent: TypeAlias = dict[tuple[Book, Basis], dict[Event, int]]
Alike: TypeAlias = tuple[frozenset[tuple[Event, int]], Budget]  # costs the same

RAISED: Final = (
    "a commit cost more than was reserved, so not all noise was fixed in advance, and there is no "
    "privacy loss distribution; RDP bounds it"
)
FIXED_PLAN: Final = "fixed plan"  # every parameter was chosen before the first round
_ENDLESS: Final = 2**128  # in place of an unbounded cost: above every capacity
_UNCOUNTABLE: Final = 2**62  # steps, so that no sum of admitted ones passes int64


class EpsilonQuery(NamedTuple):
    """The number that is asked for; ``book`` is ``None`` for the dearer of the two."""

    accountant: Accountant
    book: Book | None
    basis: Basis


class Weighed(NamedTuple):
    """What an actual event does to one book: add it? remove the reserved one? is it cheaper?"""

    rising: bool
    falling: bool
    lower: bool


@dataclass(frozen=True, slots=True)
class CompositionRule(ABC):
    """How one ledger decides. Amounts and limits are in one currency and compare exactly.

    Attributes:
      text: its one name, in the ledger's first record.
      currency: of the amounts.
    """

    text: str
    currency: str

    @abstractmethod
    def amounts(
        self, counts: admission.Counts, events: Sequence[Event], budget: Budget
    ) -> NDArray[Any]:
        """What every row of ``counts`` costs: how many steps of each one-step event.

        Raises ``UnsoundEvent`` for an event without a sound price here, and for a row that
        mixes units or adjacencies.
        """

    @abstractmethod
    def limit(self, budget: Budget) -> float | int:
        """The amount that may not be passed."""

    @abstractmethod
    def shown(self, amount: float | int) -> float:
        """An amount or a limit in whole units of the currency."""

    @abstractmethod
    def weigh(self, reserved: Event, real: Event) -> Weighed:
        """What admission counts once ``real`` was released in place of ``reserved``."""

    @abstractmethod
    def filter_of(self, composition: Mapping[Event, int], budget: Budget) -> Filter | None:
        """The filter as it stands after ``composition``; ``None`` where there is none."""

    @abstractmethod
    def _statable(self, composition: Mapping[Event, int], budget: Budget, by: Accountant) -> float:
        """The epsilon that may be stated for what one book holds."""

    @abstractmethod
    def _refuse(
        self, reserved: Mapping[Event, int], asked: Mapping[Event, int], by: Accountant
    ) -> None:
        """Raise ``UnsoundEvent`` where that accountant has no answer under this policy."""

    def epsilon(
        self,
        spent: Spent,
        budget: Budget,
        ask: EpsilonQuery,
        known: dict[Alike, float],
        raised: Container[Book] = (),
    ) -> float:
        """What may be stated for a subject; ``known`` spares pricing what was priced before.

        ``raised``: the books in which a commit cost more than its reservation.
        """
        for name, value, choices in (
            ("accountant", ask.accountant, ("rdp", "pld")),
            ("basis", ask.basis, ("reserved", "actual")),
        ):
            if value not in choices:
                raise InputError(f"{name} is {value!r}, must be one of {choices}")
        most = 0.0
        for book in Book if ask.book is None else (ask.book,):
            composition = spent.get((book, ask.basis), {})
            if ask.accountant == "pld" and book in raised:
                raise UnsoundEvent(RAISED)
            self._refuse(spent.get((book, "reserved"), {}), composition, ask.accountant)
            alike = (frozenset(composition.items()), budget)
            if composition and alike not in known:
                known[alike] = self._statable(composition, budget, ask.accountant)
            most = max(most, known.get(alike, 0.0))
        return most


class _FixedPlan(CompositionRule):
    """Rényi DP at all orders, the best one chosen at the end. A refund frees nothing."""

    __slots__ = ()

    def amounts(
        self, counts: admission.Counts, events: Sequence[Event], budget: Budget
    ) -> NDArray[Any]:
        return admission.epsilons(counts, events, budget.delta)

    def limit(self, budget: Budget) -> float:
        return budget.epsilon

    def shown(self, amount: float | int) -> float:
        return float(amount)

    def weigh(self, reserved: Event, real: Event) -> Weighed:
        lower = admission.raises_price(reserved, over=real)
        rising = admission.raises_price(real, over=reserved)
        # Where neither costs less at every order both count.
        return Weighed(rising=rising, falling=rising and not lower, lower=lower)

    def filter_of(self, composition: Mapping[Event, int], budget: Budget) -> None:
        return None

    def _statable(self, composition: Mapping[Event, int], budget: Budget, by: Accountant) -> float:
        return (admission.epsilon if by == "rdp" else epsilon_pld)(composition, budget.delta)

    def _refuse(
        self, reserved: Mapping[Event, int], asked: Mapping[Event, int], by: Accountant
    ) -> None:
        if by == "pld" and asked != reserved:
            raise UnsoundEvent(
                "noise that depends on who was lost was not fixed in advance, so it has no "
                "privacy loss distribution; ask by 'rdp', or for what is reserved"
            )


@dataclass(frozen=True, slots=True)
class _Filtered(CompositionRule):
    """A filter for each subject and book, of the subject's budget. A refund is spent again."""

    make: Callable[..., Filter]

    def amounts(
        self, counts: admission.Counts, events: Sequence[Event], budget: Budget
    ) -> NDArray[Any]:
        if not counts.size:
            return np.zeros(len(counts), dtype=object)
        counts, alike = np.unique(counts, axis=0, return_inverse=True)
        admission.refuse_mixtures(counts, events)
        costs = np.array([_cost(self, event) for event in events], dtype=object)
        found: NDArray[Any] = counts.astype(object) @ costs
        found[(counts >= _UNCOUNTABLE).any(axis=1)] = _ENDLESS
        return found[alike.reshape(-1)]

    def limit(self, budget: Budget) -> int:
        return _capacity(self, budget)

    def shown(self, amount: float | int) -> float:
        return inf if amount >= _ENDLESS else amount / SCALE

    def weigh(self, reserved: Event, real: Event) -> Weighed:
        merge([(reserved, 1), (real, 1)])
        before, after = (_cost(self, event.one_step()) * event.steps for event in (reserved, real))
        return Weighed(rising=True, falling=True, lower=after < before)

    def filter_of(self, composition: Mapping[Event, int], budget: Budget) -> Filter | None:
        if not (steps := merge(composition)):
            return None
        like = next(iter(steps))
        return self.make(
            epsilon=budget.epsilon,
            delta=budget.delta,
            unit=like.unit,
            adjacency=like.adjacency,
            spent=sum(_cost(self, event) * count for event, count in steps.items()),
        )

    def _statable(self, composition: Mapping[Event, int], budget: Budget, by: Accountant) -> float:
        stands = self.filter_of(composition, budget)
        return budget.epsilon if stands is None or stands.spent <= self.limit(budget) else inf

    def _refuse(
        self, reserved: Mapping[Event, int], asked: Mapping[Event, int], by: Accountant
    ) -> None:
        if by == "pld":
            raise UnsoundEvent(
                f"under the policy {self.text!r} parameters were chosen from earlier outputs, so "
                "what was spent has no privacy loss distribution; the budget holds, ask by 'rdp'"
            )


@lru_cache(maxsize=4096)
def _cost(policy: _Filtered, event: Event) -> int:
    """The cost of a one-step event, in the filter's units."""
    like = policy.make(epsilon=1.0, delta=0.5, unit=event.unit, adjacency=event.adjacency)
    cost = like.cost(event)
    return _ENDLESS if cost is None else min(cost, _ENDLESS)


@lru_cache(maxsize=4096)
def _capacity(policy: _Filtered, budget: Budget) -> int:
    return policy.make(epsilon=budget.epsilon, delta=budget.delta).capacity


def _policies() -> dict[str, CompositionRule]:
    filters: dict[str, Callable[..., Filter]] = {"zCDP": ZcdpFilter, "GDP": GdpFilter}
    filters |= {f"RDP at order {a:g}": partial(RenyiFilter, order=a) for a in ORDERS.tolist()}
    named = {"zCDP": "rho", "GDP": "mu^2"}
    found = [_Filtered(text, named.get(text, text), make) for text, make in filters.items()]
    return {policy.text: policy for policy in (_FixedPlan(FIXED_PLAN, "epsilon"), *found)}


_POLICIES: Final = _policies()


def composition_rule(text: str) -> CompositionRule:
    """The policy of that name, or ``InputError``: one spelling each, as in the table."""
    if not (isinstance(text, str) and text in _POLICIES):
        raise InputError(
            f"policy is {text!r:.80}, must be 'fixed plan', 'zCDP', 'GDP' or 'RDP at order A' "
            "with A one of dp.accounting.accountant.ORDERS"
        )
    return _POLICIES[text]
