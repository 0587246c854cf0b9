"""Several ledgers of the same subjects, side by side and added up.

Two studies on the same people cost those people both. A subject that has the same name in
several ledgers is taken to be the same, which is their keepers' word; what it was charged in all
of them is one composition. Fixed plans compose event by event, by RDP or PLD, whichever is less;
a filter's events may follow from its outputs, so its whole budget is added to both epsilon and
delta. That every plan was fixed before *any* of the ledgers released something is the keepers'
word too: a plan that was chosen from another ledger's output is none.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dp.accounting.events import Event, NeighboringRelation, Unit
from dp.ledger import admission
from dp.ledger.ledger import FIXED_PLAN, Book, HeadSigner
from secagg.audit.recount import Counts, Kind, Recount
from secagg.audit.report import counted_audit, maximal, smallest
from secagg.audit.values import SCHEMA, Audit
from secagg.errors import InputError
from secagg.pages.numbers import counted
from secagg.pages.numbers import delta as as_delta
from secagg.pages.numbers import epsilon as as_epsilon

MAX_LEDGERS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What all ledgers together cost whoever stands in them, for one unit and adjacency.

    Attributes:
      subjects: how many names there are in all.
      shared: how many stand in more than one ledger.
      epsilon: no subject spent more over all ledgers, in the book that costs more.
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
        people = f"{counted(self.subjects, 'subject')}, {self.shared:,} in more than one ledger"
        if not math.isfinite(self.epsilon):
            return f"Together, for {whom} ({people}): no bound."
        return (
            f"Together, for {whom} ({people}): epsilon {as_epsilon(self.epsilon)} at delta "
            f"{as_delta(self.delta)}, by {self.accountant.upper()}."
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

    Raises as ``secagg.audit.audit``, and ``InputError`` for one ledger twice or too many.
    """
    if len(paths) > MAX_LEDGERS:
        raise InputError(f"{len(paths):,} ledgers are given, at most {MAX_LEDGERS} are added up")
    found = [counted_audit(path, seal=seal) for path in paths]
    heads = [one.head for one, _ in found]
    if len({(head.seq, head.hash) for head in heads}) < len(heads):
        raise InputError("two of the ledgers are one: the same chain would be counted twice")
    kinds = sorted(
        {(section.unit, section.adjacency) for one, _ in found for section in one.sections},
        key=lambda kind: (kind[0].value, kind[1].value),
    )
    return Portfolio(
        audits=tuple(one for one, _ in found),
        together=tuple(_together(kind, found) for kind in kinds),
    )


def _together(kind: Kind, found: Sequence[tuple[Audit, Recount]]) -> Together:
    names: dict[str, int] = {}
    events: dict[Event, int] = {}
    ledgers_of: dict[str, int] = {}
    parts = []
    flat = [0.0, 0.0]  # epsilon and delta of filters: whole budgets
    delta = extra = added = 0.0
    for one, recount in found:
        section = next((s for s in one.sections if (s.unit, s.adjacency) == kind), None)
        if section is None:
            continue
        for subject in section.subjects:
            names.setdefault(subject.name, len(names))
            ledgers_of[subject.name] = ledgers_of.get(subject.name, 0) + 1
        added += section.added
        if one.policy != FIXED_PLAN:
            # Nobody can be told apart in a filter's budget: the dearest stands for all.
            flat[0] += section.epsilon - section.added
            flat[1] += section.total_delta
            continue
        delta = max(delta, section.delta)
        extra += section.total_delta - section.delta
        for event in recount.events:
            events.setdefault(event, len(events))
        parts.append(recount)
    epsilon, accountant, why = 0.0, "filter", "every ledger is under a filter"
    if parts:
        epsilon, accountant, why = _joint(kind, parts, names, events, delta)
    return Together(
        unit=kind[0],
        adjacency=kind[1],
        subjects=len(names),
        shared=sum(many > 1 for many in ledgers_of.values()),
        epsilon=epsilon + flat[0] + added,
        delta=delta + extra + flat[1],
        accountant=accountant,
        why=why,
    )


def _joint(
    kind: Kind,
    parts: Iterable[Recount],
    names: dict[str, int],
    events: dict[Event, int],
    delta: float,
) -> tuple[float, str, str]:
    """The dearer book's epsilon of the sums of all counts, by whichever accountant is less."""
    counts: Counts = np.zeros((len(Book), len(names), len(events)), np.int64)
    raised = False
    for recount in parts:
        columns = [events[event] for event in recount.events]
        for name, at in recount.names.items():
            for book in Book:
                if recount.kind_of(at, book) == kind:
                    counts[book.number, names[name], columns] += recount.reserved[at, book.number]
                    raised |= (at, book.number) in recount.raised
    listed, dearest = list(events), (0.0, "rdp", "nothing was charged")
    for table in counts:
        largest = float(admission.epsilons(table, listed, delta).max(initial=0.0))
        histories = [
            ({event: n for event, n in zip(listed, row.tolist(), strict=True) if n}, delta)
            for row, _ in maximal(table, np.full(len(table), delta))
        ]
        found = smallest(histories, largest)
        if raised:
            found = (largest, "rdp", "a commit rose above its reservation")
        dearest = max(dearest, found)
    return dearest
