"""The books counted anew out of a ledger's records: steps by subject, book and event.

One pass, in the order of the chain. What is kept is a matrix of counts, one row a
subject, so memory follows subjects times distinct events and not the number of rounds.
Nothing is taken from the accounts that stand in the file beside the records.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.accounting.accountant import Vector
from dp.accounting.events import Event, GaussianEvent, NeighboringRelation, SkellamEvent, Unit
from dp.errors import LedgerCorrupt
from dp.ledger.records import Book, Charge, Entry, charge_of
from dp.ledger.rules import Basis

Kind: TypeAlias = tuple[Unit, NeighboringRelation]
Counts: TypeAlias = NDArray[np.int64]
Key: TypeAlias = tuple[int, int]  # round and attempt

BASES: Final[tuple[Basis, ...]] = ("reserved", "actual")
_NONE: Final[Counts] = np.zeros((0, len(Book), 0), np.int64)
MAX_SNAPSHOTS: Final = 100  # rounds at which everybody is priced; beyond, every second is dropped


@dataclass(slots=True, kw_only=True)
class Round:
    """What the records say of one round, for events of one kind.

    Attributes:
      number: as the ledger's keeper numbered it.
      reserved: reservations, of all attempts; each ends committed, aborted, or stays open.
      minimum: the most survivors that any reservation asked for.
      survivors: as the last commit said, ``None`` where none did.
      planned: the least noise that was reserved, deviation over the bound of one unit.
      actual: the least noise that was committed.
    """

    number: int
    reserved: int = 0
    committed: int = 0
    aborted: int = 0
    minimum: int = 0
    survivors: int | None = None
    planned: float = math.inf
    actual: float | None = None

    @property
    def open(self) -> int:
        """Reservations without an end: spent, and whether anything left nobody said."""
        return self.reserved - self.committed - self.aborted


@dataclass(slots=True)
class Recount:
    """The fold. ``add`` every record in order, then read.

    ``price`` is called with this object about ``MAX_SNAPSHOTS`` times on the way, and what it
    returned is kept with the round that had ended.
    """

    price: "Callable[[Recount], Vector]"
    names: dict[str, int] = field(default_factory=dict)
    events: dict[Event, int] = field(default_factory=dict)
    rounds: dict[Kind, dict[int, Round]] = field(default_factory=dict)
    snapshots: list[tuple[int, Vector]] = field(default_factory=list)
    default: tuple[float, float] = (math.nan, math.nan)
    own: dict[str, tuple[float, float]] = field(default_factory=dict)
    models: list[tuple[Key, bytes]] = field(default_factory=list)  # what came of a round, hashed
    raised: set[tuple[int, int]] = field(default_factory=set)  # subject and book of a dear commit
    _counts: dict[Basis, Counts] = field(default_factory=lambda: dict.fromkeys(BASES, _NONE))
    _kinds: dict[tuple[int, int], Kind] = field(default_factory=dict)
    _open: dict[Key, dict[int, Charge]] = field(default_factory=dict)
    _current: int | None = None
    _ended: int = 0
    _stride: int = 1

    @property
    def reserved(self) -> Counts:
        """Steps that admission counts: subjects, books (server first), events."""
        return self._counts["reserved"][: len(self.names), :, : len(self.events)]

    @property
    def actual(self) -> Counts:
        """Steps of what was released, with reservations that are open still."""
        return self._counts["actual"][: len(self.names), :, : len(self.events)]

    def budgets(self) -> Vector:
        """Epsilon and delta of every subject."""
        budgets = [self.own.get(name, self.default) for name in self.names]
        return np.array(budgets, dtype=np.float64).reshape(-1, 2)

    def kind_of(self, subject: int, book: Book) -> Kind | None:
        """What an account was last charged for; ``None`` where it never was."""
        return self._kinds.get((subject, book.number))

    def add(self, record: Entry) -> None:
        """Count one record. Raises ``LedgerCorrupt`` where it does not follow from those before."""
        try:
            self._add(record)
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerCorrupt(
                f"record {record.seq} contradicts those before it ({error})"
            ) from None

    def finish(self) -> None:
        """The last round has ended."""
        if (self.reserved < 0).any() or (self.actual < 0).any():
            raise LedgerCorrupt("more was taken back from a subject than it was charged")
        if self._current is not None:
            self.snapshots.append((self._current, self.price(self)))

    def _add(self, record: Entry) -> None:
        data = record.data
        match record.action:
            case "create":
                self.default = (data["budget"]["epsilon"], data["budget"]["delta"])
            case "budget":
                for epsilon, delta, names in data["budgets"]:
                    self.own.update(dict.fromkeys(names, (epsilon, delta)))
            case "reserve":
                self._reserve(record, _key(record))
            case "commit":
                self._commit(record, _key(record))
            case "abort":
                for charge, subjects in self._close(_key(record), record.subjects).items():
                    for basis in BASES:
                        self._count(basis, subjects, charge, -1)
                    for row in self._rows(_key(record)[0], charge):
                        row.aborted += len(subjects)
            case "model":
                self.models.append((_key(record), bytes.fromhex(data["model"])))
            case "migrate" | "seal" | "state":
                pass
            case action:
                raise ValueError(f"unknown action {action!r}")

    def _reserve(self, record: Entry, key: Key) -> None:
        if key[0] != self._current:
            self._round_ended(key[0])
        open_ = self._open.setdefault(key, {})
        for charge, names in _grouped(record.charges).items():
            subjects = [self.names.setdefault(name, len(self.names)) for name in names]
            for subject in subjects:
                if open_.setdefault(subject, charge) is not charge:
                    raise ValueError("a subject is reserved twice")
            for book, event in charge.events().items():
                kind = (event.unit, event.adjacency)
                self._kinds.update(dict.fromkeys(((s, book.number) for s in subjects), kind))
            for basis in BASES:
                self._count(basis, subjects, charge, 1)
            for row in self._rows(key[0], charge):
                row.reserved += len(subjects)
                row.minimum = max(row.minimum, record.data.get("minimum", 0))
                row.planned = min(row.planned, noise_of(charge))

    def _commit(self, record: Entry, key: Key) -> None:
        closed = self._close(key, record.subjects)
        reserved = {subject: charge for charge, group in closed.items() for subject in group}
        for server, release, rising, falling, names in record.data.get("realised", ()):
            real = charge_of(server, release)
            groups = _grouped({subject: reserved.pop(self.names[subject]) for subject in names})
            for charge, group in groups.items():
                subjects = [self.names[name] for name in group]
                self._count("actual", subjects, charge, -1)
                self._count("actual", subjects, real, 1)
                self._count("reserved", subjects, charge, -1, among=falling)
                self._count("reserved", subjects, real, 1, among=rising)
                self.raised.update(
                    (subject, book.number)
                    for book in real.events()
                    if book.value in rising
                    for subject in subjects
                )
            self._committed(key[0], real, len(names), record)
        for charge, group in _grouped(reserved).items():
            self._committed(key[0], charge, len(group), record)

    def _committed(self, number: int, charge: Charge, count: int, record: Entry) -> None:
        for row in self._rows(number, charge):
            row.committed += count
            if (survivors := record.data.get("survivors")) is not None:
                row.survivors = survivors
            noise = noise_of(charge)
            row.actual = noise if row.actual is None else min(row.actual, noise)

    def _close(self, key: Key, names: Iterable[str]) -> dict[Charge, list[int]]:
        """What the subjects hold under a key, and hold no longer."""
        open_ = self._open[key]
        subjects = [self.names[name] for name in names]
        closed = _grouped({subject: open_.pop(subject) for subject in subjects})
        if not open_:
            del self._open[key]
        return closed

    def _count(
        self,
        basis: Basis,
        subjects: list[int],
        charge: Charge,
        sign: int,
        *,
        among: Iterable[str] = ("server", "release"),
    ) -> None:
        """Add the steps of a charge, in the books ``among`` those it is for."""
        for book, event in charge.events().items():
            at = self.events.setdefault(event.one_step(), len(self.events))
            self._grow()
            if book.value in among:
                self._counts[basis][subjects, book.number, at] += sign * event.steps

    def _grow(self) -> None:
        rows, _, columns = self._counts["reserved"].shape
        if len(self.names) <= rows and len(self.events) <= columns:
            return
        rows = rows if len(self.names) <= rows else 2 * len(self.names)
        columns = columns if len(self.events) <= columns else 2 * len(self.events)
        for basis, before in self._counts.items():
            after = np.zeros((rows, len(Book), columns), np.int64)
            after[: before.shape[0], :, : before.shape[2]] = before
            self._counts[basis] = after

    def _rows(self, number: int, charge: Charge) -> list[Round]:
        kinds = {(event.unit, event.adjacency) for event in charge.events().values()}
        return [
            self.rounds.setdefault(kind, {}).setdefault(number, Round(number=number))
            for kind in kinds
        ]

    def _round_ended(self, next_round: int) -> None:
        if self._current is not None:
            self._ended += 1
            if self._ended % self._stride == 0:
                self.snapshots.append((self._current, self.price(self)))
            if len(self.snapshots) >= MAX_SNAPSHOTS:
                del self.snapshots[::2]
                self._stride *= 2
        self._current = next_round


def noise_of(charge: Charge) -> float:
    """Deviation of the noise over one unit's L2 bound, the least of a charge's events."""
    return min(map(_noise, charge.events().values()))


def _noise(event: Event) -> float:
    if isinstance(event, GaussianEvent):
        return event.noise_multiplier
    if isinstance(event, SkellamEvent):
        return math.sqrt(event.variance) / event.l2_sensitivity
    return math.sqrt(event.shares * event.share_variance) / event.l2_sensitivity


def _grouped(charges: Mapping[Any, Charge]) -> dict[Charge, list[Any]]:
    """Subjects by equal charge. Many charges are the same object, so ids go first."""
    by_id: dict[int, tuple[Charge, list[Any]]] = {}
    for who, charge in charges.items():
        by_id.setdefault(id(charge), (charge, []))[1].append(who)
    groups: dict[Charge, list[Any]] = {}
    for charge, group in by_id.values():
        groups.setdefault(charge, []).extend(group)
    return groups


def _key(record: Entry) -> Key:
    if record.round is None or record.attempt is None:
        raise ValueError("no round")
    return record.round, record.attempt
