"""The book: what every subject has spent, on disk before a byte leaves.

``reserve`` → release → ``commit``. A reservation counts as spent from the moment
``reserve`` returns, synced to disk, until ``abort`` takes it back; a crash in
between leaves it spent. One that would pass a subject's budget is refused, for all
subjects of the call, by Rényi DP at the orders of ``dp.accountant``. Several
processes may use one file: of two that reserve what is left once, one gets it.

Every change is one record in a hash chain, ``dp.records``. The accounts are a fold
of the records, kept so that admission is fast; ``verify`` folds them anew and
compares. **What a chain alone
shows is accidents.** Whoever can write the file can compute the whole chain again,
and a copy from yesterday is in itself perfect. Against both, keep ``head()``
somewhere else and hand it to ``verify``: it then finds every edit and every lost
record up to that head.

The budget admits a plan whose parameters were fixed in advance. Under ``local``
privacy whoever picks the clients and whoever gets the model see the same noisy
updates, so one account a subject stands for both. No clock is read: a record
says in which order, not when.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from json import dumps, loads
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, NoReturn, Self

from dp.accountant import check_delta, epsilon_pld, epsilon_rdp
from dp.errors import (
    BadParameter,
    BudgetExceeded,
    LedgerBusy,
    LedgerConflict,
    LedgerCorrupt,
    LedgerError,
    LedgerMissing,
)
from dp.events import Event, from_json, positive_float
from dp.records import Head, Record, append, check_chain, head_of, make_tables, parse

SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 0x64704C67  # "dpLg", in the header of the file
_LONGEST_SUBJECT: Final = 256  # characters
_LARGEST: Final = 2**63 - 1  # SQLite's integer

_CODES: Final[dict[int, tuple[type[LedgerError], str]]] = {
    sqlite3.SQLITE_BUSY: (LedgerBusy, "another process holds it; try again"),
    sqlite3.SQLITE_LOCKED: (LedgerBusy, "another process holds it; try again"),
    sqlite3.SQLITE_FULL: (LedgerError, "the disk is full; nothing was written"),
    sqlite3.SQLITE_READONLY: (LedgerError, "the file is read-only; nothing was written"),
    sqlite3.SQLITE_CANTOPEN: (LedgerError, "the file or its folder cannot be opened for writing"),
    sqlite3.SQLITE_IOERR: (LedgerError, "the disk fails; treat what was being written as charged"),
    sqlite3.SQLITE_ERROR: (LedgerCorrupt, "its tables are not those of a ledger"),
    sqlite3.SQLITE_CONSTRAINT: (LedgerCorrupt, "its accounts contradict each other"),
    sqlite3.SQLITE_CORRUPT: (LedgerCorrupt, "the file is damaged"),
    sqlite3.SQLITE_NOTADB: (LedgerCorrupt, "is not a SQLite file"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one subject may lose: (epsilon, delta), epsilon > 0 and 0 < delta < 1."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", positive_float("epsilon", self.epsilon))
        object.__setattr__(self, "delta", check_delta(self.delta))


class State(Enum):
    """Where a reservation stands. ``OPEN`` and ``COMMITTED`` are spent, ``ABORTED`` is not."""

    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One charge of one subject, under the key (round, subject, attempt)."""

    round: int
    subject: str
    attempt: int
    event: Event
    state: State


class Ledger:
    """An open ledger. Make it with ``create`` or ``open``; use it as a context manager.

    One object serves one thread of one process; others open the file for themselves.
    Every method raises ``LedgerBusy`` when another process holds the file for longer
    than ``patience`` seconds, ``LedgerCorrupt`` when the file is damaged, ``LedgerError``
    when it cannot be read or written (disk full, read-only). A write that raised
    happened wholly or not at all.
    """

    def __init__(self, path: str | PathLike[str], *, patience: float = 5.0) -> None:
        """Connect to an existing database; prefer ``create`` and ``open``."""
        self._path = Path(path)
        self._process = os.getpid()
        self._events: dict[int, Event] = {}
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        self._open_connection: sqlite3.Connection | None = None
        with self._translated():
            self._open_connection = sqlite3.connect(
                uri, uri=True, timeout=patience, isolation_level=None
            )

    @classmethod
    def create(cls, path: str | PathLike[str], budget: Budget, *, patience: float = 5.0) -> Self:
        """A new ledger at ``path``, with the same budget for every subject.

        Raises ``LedgerConflict`` if the file exists and holds anything. An empty file,
        left by a process killed while creating, is taken over.
        """
        place = Path(path)
        if place.is_dir():
            raise LedgerError(f"{place} is a folder, not a ledger")
        try:
            os.close(os.open(place, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise LedgerError(f"cannot create {place}: {error.strerror}") from error
        ledger = cls(place, patience=patience)
        try:
            ledger._create(budget)
            ledger._settle(budget)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        budget: Budget | None = None,
        *,
        patience: float = 5.0,
    ) -> Self:
        """The ledger at ``path``; with ``budget`` given, only if that is its budget.

        Does not read the chain: call ``verify`` before trusting a file from elsewhere.

        Raises:
          LedgerMissing: nothing is there, or creating it was not finished.
          LedgerCorrupt: it is not a ledger.
          LedgerConflict: its budget is another.
          LedgerError: it is a folder, or from a newer version of this package.
        """
        place = Path(path)
        if place.is_dir():
            raise LedgerError(f"{place} is a folder, not a ledger")
        if not place.exists():
            raise LedgerMissing(f"no ledger at {place}; create one")
        ledger = cls(place, patience=patience)
        try:
            ledger._settle(budget)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @property
    def budget(self) -> Budget:
        """The budget of every subject."""
        return self._budget

    # Charging

    def reserve(self, round_number: int, charges: Mapping[str, Event], *, attempt: int = 0) -> None:
        """Charge all subjects or none, durably, before anything leaves.

        Repeating a call with the same events changes nothing. A retry that draws new
        noise is a new ``attempt`` and a new charge; sending the same bytes again is not.

        Raises:
          BudgetExceeded: a subject would pass its budget; nobody was charged.
          LedgerConflict: this (round, subject, attempt) holds another event or was aborted.
          UnsoundEvent: an event that no accountant here treats soundly.
          BadParameter: round, attempt or a subject's name is out of range.
        """
        key = _key(round_number, attempt)
        wanted = {_subject(subject): event for subject, event in charges.items()}
        with self._transaction() as connection:
            held = self._held(connection, key, wanted)
            new: dict[Event, list[str]] = {}
            for subject, event in wanted.items():
                if subject not in held:
                    new.setdefault(event, []).append(subject)
                elif held[subject][1] is State.ABORTED:
                    _conflict(key, subject, "was aborted; retry as a new attempt")
                elif held[subject][0] != event:
                    _conflict(key, subject, "is reserved for another event")
            if new:
                self._admit(connection, new)
                charged = [[event.to_json(), names] for event, names in new.items()]
                append(connection, {"action": "reserve", **key, "charges": charged})

    def commit(self, round_number: int, subjects: Iterable[str], *, attempt: int = 0) -> None:
        """Close reservations whose release happened. Repeating it changes nothing.

        Raises ``LedgerConflict``, and closes none, if one was aborted or never reserved.
        """
        self._close_reservations("commit", State.COMMITTED, _key(round_number, attempt), subjects)

    def abort(self, round_number: int, subjects: Iterable[str], *, attempt: int = 0) -> None:
        """Take reservations back, **only if nothing of the release left the client**.

        A masked vector that reached the server, a message that may have been sent, a
        process whose end nobody saw: then leave the reservation open, it stays spent.
        Repeating the call changes nothing.

        Raises ``LedgerConflict``, and takes none back, if one was committed or never
        reserved.
        """
        self._close_reservations("abort", State.ABORTED, _key(round_number, attempt), subjects)

    # Reading

    def epsilon(self, subject: str, accountant: Literal["rdp", "pld"] = "rdp") -> float:
        """What ``subject`` has spent, open reservations included, at the budget's delta.

        "rdp" is the number that admission uses, "pld" the tighter one for a report. 0
        for a subject that was never charged.
        """
        return self._price(self.spent(subject), accountant)

    def epsilons(self, accountant: Literal["rdp", "pld"] = "rdp") -> dict[str, float]:
        """``epsilon`` of every subject that was ever reserved for, by name."""
        prices: dict[frozenset[tuple[Event, int]], float] = {}
        result = {}
        for subject in self.subjects():
            composition = self.spent(subject)
            alike = frozenset(composition.items())
            if alike not in prices:
                prices[alike] = self._price(composition, accountant)
            result[subject] = prices[alike]
        return result

    def spent(self, subject: str) -> dict[Event, int]:
        """The composition charged to ``subject``: one-step events, and how many steps of each."""
        with self._translated():
            rows = self._connection.execute(
                "SELECT event, steps FROM spent WHERE subject = ? AND steps <> 0 ORDER BY event",
                (_subject(subject),),
            )
            return {self._event(event): steps for event, steps in rows}

    def subjects(self) -> list[str]:
        """Every subject that was ever reserved for, sorted."""
        with self._translated():
            rows = self._connection.execute("SELECT DISTINCT subject FROM charges ORDER BY 1")
            return [name for (name,) in rows]

    def reservations(self, round_number: int | None = None) -> list[Reservation]:
        """The reservations of one round or of all, by (round, attempt, subject)."""
        if round_number is not None:
            _key(round_number, 0)
        with self._translated():
            rows = self._connection.execute(
                "SELECT round, subject, attempt, event, state FROM charges"
                " WHERE ? IS NULL OR round = ? ORDER BY round, attempt, subject",
                (round_number, round_number),
            )
            return [
                Reservation(
                    round=at,
                    subject=subject,
                    attempt=attempt,
                    event=self._event(event),
                    state=State(state),
                )
                for at, subject, attempt, event, state in rows
            ]

    def records(self) -> Iterator[Record]:
        """All records in order, one at a time. Their chain is checked by ``verify``, not here."""
        seq = -1
        while True:
            with self._translated():
                row = self._connection.execute(
                    "SELECT seq, body, hash FROM records WHERE seq > ? ORDER BY seq LIMIT 1",
                    (seq,),
                ).fetchone()
            if row is None:
                return
            seq = row[0]
            yield parse(*row)

    def head(self) -> Head:
        """The end of the chain now: keep it outside the file."""
        with self._translated():
            return head_of(self._connection)

    def verify(self, head: Head | None = None) -> Head:
        """Check the whole file, and that it continues ``head`` if one is given.

        Finds damage, and every edit, deletion or reordering of records after which the
        chain was not computed anew; every difference between the records and the
        accounts; with ``head`` also truncation, an older copy and a chain computed anew
        before it. The module's docstring says what is not found.

        Raises ``LedgerCorrupt`` naming the first thing that is wrong.
        """
        with (
            self._translated(),
            self._snapshot() as connection,
            closing(sqlite3.connect("", isolation_level=None)) as scratch,
        ):
            scratch.execute("BEGIN")
            make_tables(scratch)
            return check_chain(connection, scratch, head)

    def close(self) -> None:
        """Close the file. Reservations stay as they are. Closing twice is harmless."""
        connection, self._open_connection = self._open_connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Ledger: {self._path}>"

    # Inside

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._open_connection is None:
            raise LedgerError(f"the ledger {self._path} is closed")
        if os.getpid() != self._process:
            raise LedgerError(f"the ledger {self._path} was opened before a fork; open it anew")
        return self._open_connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's errors as ours, and the path before what is wrong with the file."""
        try:
            yield
        except LedgerCorrupt as error:
            raise LedgerCorrupt(f"{self._path}: {error}") from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extended part
            kind, what = _CODES.get(code, (LedgerError, str(error)))
            raise kind(f"{self._path}: {what}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Alone with the file; on disk when it ends well, undone when not."""
        with self._translated():
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # the first error is the one to tell
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """One state of the file for several reads, whatever others write meanwhile."""
        connection = self._connection
        connection.execute("BEGIN")
        try:
            yield connection
        finally:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")

    def _create(self, budget: Budget) -> None:
        def refuse_content() -> None:
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if tables:
                raise LedgerConflict(f"{self._path} exists already; open it, or choose another")

        with self._translated():
            refuse_content()  # before the journal's mode of a stranger's file is touched
            self._make_durable()
        with self._transaction() as connection:
            refuse_content()
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            make_tables(connection)
            genesis = {"epsilon": budget.epsilon, "delta": budget.delta}
            append(connection, {"action": "create", "budget": genesis})
        try:
            folder = os.open(self._path.absolute().parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # SQLite syncs the file, not the name of a new one
            finally:
                os.close(folder)
        except OSError as error:
            raise LedgerError(f"cannot sync the folder of {self._path}: {error}") from error

    def _settle(self, budget: Budget | None) -> None:
        """Refuse what is not our ledger, and ask for durability before any use of it."""
        with self._translated():
            connection = self._connection
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if application != _APPLICATION_ID:
                (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                if not tables:
                    raise LedgerMissing(f"{self._path} is empty; create the ledger")
                raise LedgerCorrupt("is a SQLite file, but no ledger")
            if version != SCHEMA_VERSION:
                raise LedgerError(
                    f"{self._path} has schema {version}, this version reads {SCHEMA_VERSION}; "
                    "use the version of secagg that wrote it, or a newer one"
                )
            self._make_durable()
            row = connection.execute("SELECT body FROM records WHERE seq = 0").fetchone()
            try:
                genesis = loads(row[0])["budget"]
                self._budget = Budget(epsilon=genesis["epsilon"], delta=genesis["delta"])
            except (TypeError, KeyError, ValueError):
                raise LedgerCorrupt("its first record holds no budget") from None
        if budget is not None and budget != self._budget:
            raise LedgerConflict(
                f"{self._path} has the budget epsilon {self._budget.epsilon:g}, delta "
                f"{self._budget.delta:g}, not {budget.epsilon:g}, {budget.delta:g}"
            )

    def _make_durable(self) -> None:
        """Write-ahead log, synced at every commit: asserted by reading it back."""
        connection = self._connection
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = FULL")
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        if (mode, level) != ("wal", 2):
            raise LedgerError(
                f"{self._path}: SQLite gives journal {mode!r} and synchronous {level}, not "
                "'wal' and 2; without them a power cut forgets charges. Use a local disk"
            )

    def _event(self, number: int) -> Event:
        """The event that stands under this number, which never changes its meaning."""
        if number not in self._events:
            row = self._connection.execute(
                "SELECT json FROM events WHERE id = ?", (number,)
            ).fetchone()
            try:
                self._events[number] = from_json(row[0])
            except (TypeError, BadParameter):
                raise LedgerCorrupt(f"its event {number} is unreadable") from None
        return self._events[number]

    def _held(
        self, connection: sqlite3.Connection, key: Mapping[str, int], subjects: Iterable[str]
    ) -> dict[str, tuple[Event, State]]:
        rows = connection.execute(
            "SELECT subject, event, state FROM charges WHERE round = ? AND attempt = ?"
            " AND subject IN (SELECT value FROM json_each(?))",
            (key["round"], key["attempt"], dumps(list(subjects))),
        )
        return {subject: (self._event(event), State(state)) for subject, event, state in rows}

    def _admit(
        self, connection: sqlite3.Connection, charges: Mapping[Event, Iterable[str]]
    ) -> None:
        """Raise ``BudgetExceeded`` for the first subject whose budget would be passed."""
        spent: dict[str, tuple[tuple[int, int], ...]] = {}
        everyone = [subject for subjects in charges.values() for subject in subjects]
        for subject, event, steps in connection.execute(
            "SELECT subject, event, steps FROM spent WHERE steps <> 0"
            " AND subject IN (SELECT value FROM json_each(?)) ORDER BY subject, event",
            (dumps(everyone),),
        ):
            spent[subject] = (*spent.get(subject, ()), (event, steps))
        for event, subjects in charges.items():
            prices: dict[tuple[tuple[int, int], ...], float] = {}
            for subject in subjects:
                before = spent.get(subject, ())
                if before not in prices:
                    composition = [(self._event(held), steps) for held, steps in before]
                    prices[before] = epsilon_rdp([*composition, (event, 1)], self._budget.delta)
                if not prices[before] <= self._budget.epsilon:
                    raise BudgetExceeded(
                        subject=subject,
                        spent=self._price({self._event(e): n for e, n in before}, "rdp"),
                        would_be=prices[before],
                        budget=self._budget.epsilon,
                    )

    def _close_reservations(
        self, action: str, target: State, key: Mapping[str, int], subjects: Iterable[str]
    ) -> None:
        if isinstance(subjects, str):
            raise BadParameter(f"subjects is the text {subjects!r}, must be a collection of names")
        wanted = dict.fromkeys(_subject(subject) for subject in subjects)
        with self._transaction() as connection:
            held = self._held(connection, key, wanted)
            for subject in wanted:
                if subject not in held:
                    _conflict(key, subject, f"was never reserved; cannot {action}")
                if held[subject][1] not in (State.OPEN, target):
                    _conflict(key, subject, f"is {held[subject][1].value}; cannot {action}")
            still = [subject for subject in wanted if held[subject][1] is State.OPEN]
            if still:
                append(connection, {"action": action, **key, "subjects": still})

    def _price(self, composition: Mapping[Event, int], accountant: str) -> float:
        if accountant not in ("rdp", "pld"):
            raise BadParameter(f"accountant is {accountant!r}, must be 'rdp' or 'pld'")
        price = epsilon_rdp if accountant == "rdp" else epsilon_pld
        return price(composition, self._budget.delta)


def _key(round_number: int, attempt: int) -> dict[str, int]:
    for name, value in (("round", round_number), ("attempt", attempt)):
        if type(value) is not int or not 0 <= value <= _LARGEST:
            raise BadParameter(f"{name} is {value!r}, must be an integer in [0, 2**63)")
    return {"round": round_number, "attempt": attempt}


def _subject(name: str) -> str:
    if not (isinstance(name, str) and 0 < len(name) <= _LONGEST_SUBJECT and name.isprintable()):
        raise BadParameter(f"subject is {name!r:.80}, must be 1 to 256 printable characters")
    return name


def _conflict(key: Mapping[str, int], subject: str, what: str) -> NoReturn:
    raise LedgerConflict(f"{subject!r} in round {key['round']}, attempt {key['attempt']} {what}")
