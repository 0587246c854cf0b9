"""Several ledgers of the same subjects, side by side and added up.

Two studies on the same people cost those people both. A subject that has the same name in
several ledgers is taken to be the same, which is their keepers' word; what it was charged in
all of them is one composition. Fixed plans compose event by event, by RDP or PLD, whichever is
less; a filter's events may follow from its outputs, so its whole budget is added to both
epsilon and delta. Who looks may be the aggregator of some ledgers, and of the others anybody:
each choice of books is priced, or, where those are too many, every event's larger count. That
every plan was fixed before *any* of the ledgers released something is the keepers' word too: a
plan that was chosen from another ledger's output is none.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from dp.accounting.accountant import check_delta
from dp.accounting.events import Event, NeighboringRelation, Unit
from dp.ledger import admission
from dp.ledger.ledger import FIXED_PLAN, Book, HeadSigner
from dp.ledger.rules import RAISED
from secagg.audit.recount import Counts, Kind, Recount
from secagg.audit.report import Counted, counted_audit, maximal, smallest
from secagg.audit.values import SCHEMA, Audit
from secagg.errors import InputError
from secagg.pages.numbers import counted
from secagg.pages.numbers import delta as as_delta
from secagg.pages.numbers import epsilon as as_epsilon

MAX_LEDGERS: Final = 100
_VIEWS: Final = 64  # choices of a book for each ledger that are priced one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What all ledgers together cost whoever stands in them, for one unit and adjacency.

    Attributes:
      subjects: how many names there are in all.
      shared: how many stand in more than one ledger.
      epsilon: no subject spent more over all ledgers, whichever book of each is looked at.
      delta: beside it, with everything that the keepers stated.
      accountant: of the fixed plans: "rdp" or "pld"; "filter" where there is none.
      why: why it is that one.
    """

    unit: Unit
    adjacency: NeighboringRelation
    subjects: int
    shared: int
    epsilon: float
    delta: float
    accountant: str
    why: str

    @property
    def sentence(self) -> str:
        """What may be quoted, whole."""
        whom = f"one {self.unit.value}, {self.adjacency.value.replace('_', ' ')}"
        people = f"{counted(self.subjects, 'client')}, {self.shared:,} in more than one ledger"
        if not math.isfinite(self.epsilon):
            return f"Together, for {whom} ({people}): no bound."
        by = (
            "the sum of whole budgets"
            if self.accountant == "filter"
            else f"composed by {self.accountant.upper()}, not added up"
        )
        return (
            f"Together, for {whom} ({people}): epsilon {as_epsilon(self.epsilon)} at delta "
            f"{as_delta(self.delta)}, {by}."
        )

    def as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return values | {
            "unit": self.unit.value,
            "adjacency": self.adjacency.value,
            "epsilon": self.epsilon if math.isfinite(self.epsilon) else None,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Portfolio:
    """The audits of several ledgers, in the order given, and what they cost together."""

    audits: tuple[Audit, ...]
    together: tuple[Together, ...]

    def as_json(self) -> dict[str, Any]:
        """``ledgers`` as each audit's own JSON, ``together`` beside them."""
        return {
            "schema": f"{SCHEMA}, several",
            "ledgers": [one.as_json() for one in self.audits],
            "together": [one.as_dict() for one in self.together],
        }


def portfolio(paths: Sequence[Path], *, seal: HeadSigner | None = None) -> Portfolio:
    """Audit every ledger and add up what their subjects were charged.

    Raises as ``secagg.audit.audit``, and ``InputError`` for one ledger twice, too many, or a delta
    of one over the number of units or more.

    Args:
      paths: of ledgers.
      seal: verifies the signed head of each.
    """
    if len(paths) > MAX_LEDGERS:
        raise InputError(f"{len(paths):,} ledgers are given, at most {MAX_LEDGERS} are added up")
    found = [counted_audit(path, seal=seal) for path in paths]
    heads = [one.head for one, _, _ in found]
    if len({(head.seq, head.hash) for head in heads}) < len(heads):
        raise InputError("two of the ledgers are one: the same chain would be counted twice")
    kinds = sorted(
        {(section.unit, section.adjacency) for one, _, _ in found for section in one.sections},
        key=lambda kind: (kind[0].value, kind[1].value),
    )
    return Portfolio(
        audits=tuple(one for one, _, _ in found),
        together=tuple(_together(kind, found) for kind in kinds),
    )


def _together(kind: Kind, found: Sequence[Counted]) -> Together:
    names: dict[str, int] = {}
    ledgers_of: Counter[str] = Counter()
    parts = []
    epsilon = delta = 0.0  # of filters: whole budgets
    charged = []
    for one, recount, stated in found:
        section = next((s for s in one.sections if (s.unit, s.adjacency) == kind), None)
        if section is None:
            continue
        for subject in section.subjects:
            names.setdefault(subject.name, len(names))
            ledgers_of[subject.name] += 1
        charged.append((section, stated))
        if one.policy == FIXED_PLAN:
            parts.append((section.delta, recount))
            continue
        # Nobody can be told apart in a filter's budget: the dearest stands for all.
        epsilon += section.epsilon - section.added
        delta += section.delta
    accountant, why = "filter", "every ledger is under a filter"
    if parts:
        fixed = max(delta for delta, _ in parts)
        planned, accountant, why = _joint(kind, [recount for _, recount in parts], names, fixed)
        epsilon, delta = epsilon + planned, delta + fixed
    # What else may fail in one ledger counts beside the epsilon of all, not beside its own.
    for section, stated in charged:
        if stated is not None:
            beside = epsilon if math.isfinite(epsilon) else 0.0
            rounds = section.released
            delta = stated.delta(delta, epsilon=beside, rounds=rounds, steps=section.steps).total
            epsilon += stated.epsilon_added(beside, rounds=rounds)
    stated_units = [stated.unit_count for _, stated in charged if stated is not None]
    check_delta(delta, units=max([len(names), *stated_units]))
    return Together(
        unit=kind[0],
        adjacency=kind[1],
        subjects=len(names),
        shared=sum(many > 1 for many in ledgers_of.values()),
        epsilon=epsilon,
        delta=delta,
        accountant=accountant,
        why=why,
    )


def _joint(
    kind: Kind, parts: Sequence[Recount], names: Mapping[str, int], delta: float
) -> tuple[float, str, str]:
    """Epsilon of the sums of all counts, whoever looks, by whichever accountant is less."""
    listed = list(dict.fromkeys(event for recount in parts for event in recount.events))
    tables = [_tables(kind, recount, names, listed) for recount in parts]
    if math.prod(map(len, tables)) > _VIEWS:
        tables = [[np.maximum.reduce(both)] for both in tables]
    raised = any(recount.raised for recount in parts)
    dearest = (0.0, "rdp", "nothing was charged")
    for seen in product(*tables):
        table: Counts = np.sum(seen, axis=0)
        largest = float(admission.epsilons(table, listed, delta).max(initial=0.0))
        histories = [
            ({event: n for event, n in zip(listed, row.tolist(), strict=True) if n}, delta)
            for row, _ in maximal(table, np.full(len(table), delta))
        ]
        one = (largest, "rdp", RAISED) if raised else smallest(histories, largest)
        dearest = max(dearest, one)
    return dearest


def _tables(
    kind: Kind, recount: Recount, names: Mapping[str, int], listed: Sequence[Event]
) -> list[Counts]:
    """What each book of a ledger holds, or one of them where it holds all of the other.

    The aggregator of one ledger is anybody to another: it sees that one's releases alone.
    """
    both: Counts = np.zeros((len(Book), len(names), len(listed)), np.int64)
    columns = [listed.index(event) for event in recount.events]
    for name, at in recount.names.items():
        for book in Book:
            if recount.kind_of(at, book) == kind:
                both[book.number, names[name], columns] = recount.reserved[at, book.number]
    whole = [one for one in both if (one >= both).all()]
    return whole[:1] or list(both)
