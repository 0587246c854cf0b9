"""The books: what every subject has spent, on disk before a byte leaves.

``reserve`` → release → ``commit``. A reservation counts as spent from the moment
``reserve`` returns, synced to disk, until ``abort`` takes it back; a crash in
between leaves it spent. One that would pass a subject's budget in either book is
refused, for all subjects of the call, by Rényi DP in integers rounded up. Several
processes may use one file: of two that reserve what is left once, one gets it.

Two books stand side by side. The server's holds against the aggregator, who picked
the cohort: charge it who took part, without client amplification. The release's holds
against whoever gets the model: charge it everyone eligible. A plain event in place of a
``Charge`` is charged to both, as local privacy asks, where both see the same updates.

``commit`` may say what noise was realised. A higher price counts at once. A lower one is
what a report may show, and frees no budget: under the policy "fixed plan" parameters that
depend on earlier rounds are not admitted. In a client's own ledger a price is lowered only
on evidence that the server cannot forge.

Every change is one record in a hash chain, ``dp.records``. The accounts are a fold of
the records; ``verify`` folds them anew and compares. **What a chain alone shows is
accidents**: whoever can write the file can compute the whole chain again, and a copy from
yesterday is in itself perfect. What is found beyond that, and what it takes:

| protection | finds | does not find |
|---|---|---|
| none | damage, edits that leave the chain as it was | a chain computed anew, an older copy |
| head kept elsewhere | every edit and loss up to that head | what was done to later records |
| signed head | every edit and loss, by whoever lacks the key | an older copy of the whole file |

No clock is read: a record says in which order, not when.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from hashlib import sha256
from json import loads
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self

from dp import admission
from dp.accountant import Accountant
from dp.accounts import Accounts, Alike, Ask, Basis, epsilon
from dp.books import (
    Budget,
    Keeper,
    Protection,
    Reservation,
    Seal,
    State,
    Verified,
    charge_both,
    integer,
    key_of,
    subject_name,
    subject_names,
)
from dp.errors import (
    BadParameter,
    LedgerConflict,
    LedgerCorrupt,
    LedgerError,
    LedgerMissing,
)
from dp.events import Event
from dp.migrations import migrate_1_to_2
from dp.records import (
    Book,
    Charge,
    Head,
    Record,
    append,
    check_chain,
    check_seal,
    head_of,
    make_tables,
    parse,
    write_seal,
)
from dp.storage import File

__all__ = [
    "FIXED_PLAN",
    "SCHEMA_VERSION",
    "Book",
    "Budget",
    "Charge",
    "Head",
    "Keeper",
    "Ledger",
    "Protection",
    "Record",
    "Reservation",
    "Seal",
    "State",
    "Verified",
]

SCHEMA_VERSION: Final = 2
FIXED_PLAN: Final = "fixed plan"  # every parameter was chosen before the first round
_POLICIES: Final = (FIXED_PLAN,)
_APPLICATION_ID: Final = 0x64704C67  # "dpLg", in the header of the file


class Ledger:
    """An open ledger. Make it with ``create`` or ``open``; use it as a context manager.

    One object serves one thread of one process; others open the file for themselves.
    Every method raises ``LedgerBusy`` when another process holds the file for longer
    than ``patience`` seconds, ``LedgerCorrupt`` when the file is damaged, ``LedgerError``
    when it cannot be read or written (disk full, read-only, moved). A write that raised
    happened wholly or not at all.
    """

    def __init__(
        self, path: str | PathLike[str], *, seal: Seal | None = None, patience: float = 5.0
    ) -> None:
        """Connect to an existing database; prefer ``create`` and ``open``."""
        self._file = File(path, patience)
        self._path = Path(path)
        self._seal = seal

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        budget: Budget,
        *,
        keeper: Keeper = Keeper.SERVER,
        policy: str = FIXED_PLAN,
        seal: Seal | None = None,
        patience: float = 5.0,
    ) -> Self:
        """A new ledger at ``path``, with the same budget for every subject.

        With ``seal`` its head is signed from the first record on. Raises
        ``LedgerConflict`` if the file exists and holds anything. An empty file, left by a
        process killed while creating, is taken over.
        """
        if policy not in _POLICIES:
            raise BadParameter(f"policy is {policy!r}, must be one of {_POLICIES}")
        if seal is not None and seal.sign is None:
            raise BadParameter("seal has no sign; a sealed ledger is created by who can sign")
        genesis = {
            "action": "create",
            "budget": {"epsilon": budget.epsilon, "delta": budget.delta},
            "keeper": Keeper(keeper).value,
            "policy": policy,
            "sealed": seal is not None,
        }
        place = _place(path)
        try:
            os.close(os.open(place, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise LedgerError(f"cannot create {place}: {error.strerror}") from error
        ledger = cls(place, seal=seal, patience=patience)
        try:
            ledger._create(genesis)
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
        seal: Seal | None = None,
        patience: float = 5.0,
    ) -> Self:
        """The ledger at ``path``; with ``budget`` given, only if that is its budget.

        A file of an older schema is brought to this one, its chain checked and kept.
        Otherwise the chain is not read: call ``verify`` before trusting a file from
        elsewhere. With ``seal`` the signature of the head is checked.

        Raises:
          LedgerMissing: nothing is there, or creating it was not finished.
          LedgerCorrupt: it is not a ledger, or its head is not signed as ``seal`` asks.
          LedgerConflict: its budget is another.
          LedgerError: it is a folder, or from a newer version of this package.
        """
        place = _place(path)
        if not place.exists():
            raise LedgerMissing(f"no ledger at {place}; create one")
        ledger = cls(place, seal=seal, patience=patience)
        try:
            ledger._settle(budget)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @property
    def budget(self) -> Budget:
        """The budget of every subject that has none of its own."""
        return self._budget

    @property
    def keeper(self) -> Keeper:
        """Whose ledger it is."""
        return self._keeper

    @property
    def policy(self) -> str:
        """What may be chosen from earlier outputs; admission is sound for that and no more."""
        return str(self._policy)

    # Charging

    def set_budgets(self, budgets: Mapping[str, Budget]) -> None:
        """Give subjects budgets of their own, before they are first charged.

        Repeating a call changes nothing. Raises ``LedgerConflict``, and sets none, for a
        subject that was charged: its budget is fixed.
        """
        wanted = {subject_name(subject): budget for subject, budget in budgets.items()}
        with self._file.transaction() as connection:
            groups: dict[Budget, list[str]] = {}
            for subject, budget in wanted.items():
                if self._accounts.budget_of(connection, subject) == budget:
                    continue
                if self._accounts.spent(connection, subject):
                    raise LedgerConflict(f"{subject!r} was charged before, its budget is fixed")
                groups.setdefault(budget, []).append(subject)
            if groups:
                listed = [[key.epsilon, key.delta, names] for key, names in groups.items()]
                self._append(connection, {"action": "budget", "budgets": listed})

    def reserve(
        self,
        round_number: int,
        charges: Mapping[str, Event | Charge],
        *,
        attempt: int = 0,
        minimum_survivors: int = 0,
    ) -> None:
        """Charge all subjects or none, durably, before anything leaves.

        Repeating a call with the same events changes nothing. A retry that draws new
        noise is a new ``attempt`` and a new charge; sending the same bytes again is not.
        Reserve noise shares at the price of ``minimum_survivors``, below which no commit
        is taken.

        Raises:
          BudgetExceeded: a subject would pass its budget in a book; nobody was charged.
          LedgerConflict: this (round, subject, attempt) holds another charge or was aborted.
          UnsoundEvent: an event that no accountant here treats soundly.
          BadParameter: round, attempt, minimum or a subject's name is out of range.
        """
        key = key_of(round_number, attempt)
        minimum = integer("minimum survivors", minimum_survivors)
        wanted = {subject_name(subject): charge_both(charge) for subject, charge in charges.items()}
        with self._file.transaction() as connection:
            held = self._accounts.held(connection, key, wanted)
            new: dict[Charge, list[str]] = {}
            for subject, charge in wanted.items():
                if (before := held.get(subject)) is None:
                    new.setdefault(charge, []).append(subject)
                elif before.state is State.ABORTED:
                    _conflict(before, "was aborted; retry as a new attempt")
                elif (before.charge, before.minimum_survivors) != (charge, minimum):
                    _conflict(before, "is reserved for another event or minimum of survivors")
            if new:
                self._accounts.admit(connection, new)
                listed = [[*charge.to_json(), names] for charge, names in new.items()]
                record = {"action": "reserve", **key, "minimum": minimum, "charges": listed}
                self._append(connection, record)

    def commit(
        self,
        round_number: int,
        subjects: Iterable[str] | Mapping[str, Event | Charge],
        *,
        attempt: int = 0,
        survivors: int | None = None,
        evidence: bytes | None = None,
    ) -> None:
        """Close reservations whose release happened, with what was released if that differs.

        A mapping gives each subject's realised events, for the books it was reserved in.
        Where one costs more than was reserved, at any order, admission counts it from now
        on, be the budget passed or not. Where it costs less, the reserved price
        stays for admission and ``basis="realised"`` shows the lower one. A client's ledger
        takes that only with ``evidence``, something the caller has checked and the server
        cannot forge, such as the survivors' signatures over their set; the record keeps
        its SHA-256. Repeating a call changes nothing.

        Raises ``LedgerConflict``, and closes none, if one was aborted, never reserved or
        committed otherwise, if ``survivors`` are below the reserved minimum or not given
        where there is one (leave the reservation open, it stays spent), if a realised
        charge is for other books, or lower without evidence.
        """
        key = key_of(round_number, attempt)
        if survivors is not None:
            survivors = integer("survivors", survivors)
        realised = {}
        if isinstance(subjects, Mapping):
            realised = {
                subject_name(name): charge_both(charge) for name, charge in subjects.items()
            }
        wanted = subject_names(subjects)
        with self._file.transaction() as connection:
            held = self._closing(connection, "commit", State.COMMITTED, key, wanted)
            groups: dict[tuple[Charge, tuple[tuple[str, ...], ...]], list[str]] = {}
            for before in held:
                if before.minimum_survivors and survivors is None:
                    _conflict(before, "was reserved with a minimum of survivors; say how many")
                if survivors is not None and survivors < before.minimum_survivors:
                    _conflict(
                        before,
                        f"needs {before.minimum_survivors} survivors, had {survivors}: nothing "
                        "may be released, and the reservation stands",
                    )
                real = _fitted(before, realised.get(before.subject, before.charge))
                if before.state is State.COMMITTED:
                    if (real, survivors) != (before.realised or before.charge, before.survivors):
                        _conflict(before, "is committed with other events or survivors")
                elif real != before.charge:
                    weighed = self._weigh(before, real, evidence)
                    groups.setdefault((real, weighed), []).append(before.subject)
            record: dict[str, Any] = {"action": "commit", "survivors": survivors}
            if groups:
                listed = [[*real.to_json(), *weighed, n] for (real, weighed), n in groups.items()]
                record["realised"] = listed
            if evidence is not None:
                record["evidence"] = sha256(evidence).hexdigest()
            self._close_open(connection, key, record, held)

    def abort(self, round_number: int, subjects: Iterable[str], *, attempt: int = 0) -> None:
        """Take reservations back, **only if nothing of the release left the client**.

        A masked vector that reached the server, a message that may have been sent, a
        process whose end nobody saw: then leave the reservation open, it stays spent.
        Repeating the call changes nothing.

        Raises ``LedgerConflict``, and takes none back, if one was committed or never
        reserved.
        """
        key = key_of(round_number, attempt)
        wanted = subject_names(subjects)
        with self._file.transaction() as connection:
            held = self._closing(connection, "abort", State.ABORTED, key, wanted)
            self._close_open(connection, key, {"action": "abort"}, held)

    # Reading

    def epsilon(
        self,
        subject: str,
        accountant: Accountant = "rdp",
        *,
        book: Book | None = None,
        basis: Basis = "held",
    ) -> float:
        """What ``subject`` has spent at its budget's delta, open reservations included.

                In one book, or in the one that costs more. 0 for a subject that was never charged.

                | accountant, basis | what it is |
        |---|---|
        | rdp, held | the number that admission uses |
        | rdp, realised | with realised noise: true if no output decided who was lost |
        | pld, held | tighter, for a report |
        | pld, realised | refused where it differs: a PLD needs parameters fixed in advance |
        """
        with self._file.snapshot() as connection:
            budget = self._accounts.budget_of(connection, subject_name(subject))
            found = self._accounts.spent(connection, subject)
        return epsilon(found.get(subject, {}), budget, Ask(accountant, book, basis), {})

    def epsilons(
        self, accountant: Accountant = "rdp", *, book: Book | None = None, basis: Basis = "held"
    ) -> dict[str, float]:
        """``epsilon`` of every subject that was ever reserved for, by name."""
        with self._file.snapshot() as connection:
            own = self._accounts.budgets(connection)
            found = self._accounts.spent(connection)
        ask, known = Ask(accountant, book, basis), dict[Alike, float]()
        return {
            name: epsilon(spent, own.get(name, self._budget), ask, known)
            for name, spent in found.items()
        }

    def spent(
        self, subject: str, book: Book = Book.SERVER, *, basis: Basis = "held"
    ) -> dict[Event, int]:
        """The composition charged to ``subject``: one-step events, and how many steps of each."""
        with self._file.translated():
            found = self._accounts.spent(self._file.connection, subject_name(subject))
        return found.get(subject, {}).get((book, basis), {})

    def budget_of(self, subject: str) -> Budget:
        """The budget of ``subject``, its own or everybody's."""
        with self._file.translated():
            return self._accounts.budget_of(self._file.connection, subject_name(subject))

    def subjects(self) -> list[str]:
        """Every subject that was ever reserved for, sorted."""
        with self._file.translated():
            rows = self._file.connection.execute(
                "SELECT name FROM subjects WHERE EXISTS"
                " (SELECT 1 FROM spent WHERE subject = id) ORDER BY name"
            )
            return [name for (name,) in rows]

    def reservations(self, round_number: int | None = None) -> list[Reservation]:
        """The reservations of one round or of all, by (round, attempt, subject)."""
        if round_number is not None:
            integer("round", round_number)
        with self._file.translated():
            return self._accounts.reservations(self._file.connection, round_number)

    def records(self) -> Iterator[Record]:
        """All records in order, one at a time. Their chain is checked by ``verify``, not here."""
        seq = -1
        while True:
            with self._file.translated():
                row = self._file.connection.execute(
                    "SELECT seq, body, hash FROM records WHERE seq > ? ORDER BY seq LIMIT 1",
                    (seq,),
                ).fetchone()
                if row is None:
                    return
                record = parse(*row)
            seq = record.seq
            yield record

    def head(self) -> Head:
        """The end of the chain now: keep it outside the file."""
        with self._file.translated():
            return head_of(self._file.connection)

    def verify(self, head: Head | None = None) -> Verified:
        """Check the whole file, that it continues ``head`` if one is given, and the seal.

        Finds damage, and every edit, deletion or reordering of records after which the
        chain was not computed anew; every difference between the records and the
        accounts; and more with ``head`` and with the seal the ledger was opened with, as
        the module's table and the result's ``protection`` say.

        Raises ``LedgerCorrupt`` naming the first thing that is wrong.
        """
        with (
            self._file.snapshot() as connection,
            closing(sqlite3.connect("", isolation_level=None)) as scratch,
        ):
            scratch.execute("PRAGMA journal_mode = OFF")
            scratch.execute("BEGIN")
            make_tables(scratch)
            last = check_chain(connection, scratch, head)
            self._check_seal(connection)
        stands = ((Protection.HEAD, head), (Protection.SIGNATURE, self._seal))
        protection = tuple(kind for kind, given in stands if given is not None)
        return Verified(head=last, protection=protection or (Protection.NONE,))

    def close(self) -> None:
        """Close the file. Reservations stay as they are. Closing twice is harmless."""
        self._file.close()

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

    def _create(self, genesis: dict[str, Any]) -> None:
        def refuse_content() -> None:
            (tables,) = self._file.connection.execute(
                "SELECT count(*) FROM sqlite_schema"
            ).fetchone()
            if tables:
                raise LedgerConflict(f"{self._path} exists already; open it, or choose another")

        with self._file.translated():
            refuse_content()  # before the journal's mode of a stranger's file is touched
            self._file.make_durable()
        with self._file.transaction() as connection:
            refuse_content()
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            make_tables(connection)
            self._sign(connection, append(connection, genesis))
        self._file.sync_folder()

    def _settle(self, budget: Budget | None) -> None:
        """Refuse what is not our ledger, and ask for durability before any use of it."""
        with self._file.translated():
            connection = self._file.connection
            if self._version(connection) < SCHEMA_VERSION:
                self._file.make_durable()
                with self._file.transaction():
                    if self._version(connection) == 1:  # nobody else did it meanwhile
                        migrate_1_to_2(connection)
            self._file.make_durable()
            row = connection.execute("SELECT body FROM records WHERE seq = 0").fetchone()
            try:
                genesis = loads(row[0])
                self._budget = Budget(**genesis["budget"])
                self._keeper = Keeper(genesis.get("keeper", "server"))
                self._policy = genesis.get("policy", FIXED_PLAN)
                self._sealed = genesis.get("sealed", False)
                self._accounts = Accounts(self._budget)
            except (AttributeError, TypeError, KeyError, ValueError):
                raise LedgerCorrupt("its first record holds no budget") from None
        with self._file.snapshot() as connection:
            self._check_seal(connection)
        if self._policy not in _POLICIES:
            raise LedgerError(f"{self._path} has the policy {self._policy!r}, unknown here")
        if budget is not None and budget != self._budget:
            raise LedgerConflict(
                f"{self._path} has the budget epsilon {self._budget.epsilon:g}, delta "
                f"{self._budget.delta:g}, not {budget.epsilon:g}, {budget.delta:g}"
            )

    def _version(self, connection: sqlite3.Connection) -> int:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION_ID:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if not tables:
                raise LedgerMissing(f"{self._path} is empty; create the ledger")
            raise LedgerCorrupt("is a SQLite file, but no ledger")
        if not 1 <= version <= SCHEMA_VERSION:
            raise LedgerError(
                f"{self._path} has schema {version}, this version reads up to {SCHEMA_VERSION}; "
                "use the version of secagg that wrote it, or a newer one"
            )
        return int(version)

    def _append(self, connection: sqlite3.Connection, data: dict[str, Any]) -> None:
        """One record more, if what it continues is what the seal says."""
        self._version(connection)  # another process may have migrated the file meanwhile
        self._check_seal(connection)
        if self._sealed and (self._seal is None or self._seal.sign is None):
            raise LedgerError(f"the head of {self._path} is signed; open it with its seal to write")
        self._sign(connection, append(connection, data))

    def _sign(self, connection: sqlite3.Connection, head: Head) -> None:
        if self._seal is not None and self._seal.sign is not None:
            write_seal(connection, head, self._seal.sign)

    def _check_seal(self, connection: sqlite3.Connection) -> None:
        if self._seal is not None:
            check_seal(connection, self._seal.verify)

    def _closing(
        self,
        connection: sqlite3.Connection,
        action: str,
        target: State,
        key: Mapping[str, int],
        subjects: list[str],
    ) -> list[Reservation]:
        """The reservations to close, each open or closed like this before."""
        held = self._accounts.held(connection, key, subjects)
        for subject in subjects:
            if subject not in held:
                raise LedgerConflict(
                    f"{subject!r} in round {key['round']}, attempt {key['attempt']} was never "
                    f"reserved; cannot {action}"
                )
            if held[subject].state not in (State.OPEN, target):
                _conflict(held[subject], f"is {held[subject].state.value}; cannot {action}")
        return [held[subject] for subject in subjects]

    def _close_open(
        self,
        connection: sqlite3.Connection,
        key: Mapping[str, int],
        record: Mapping[str, Any],
        held: Iterable[Reservation],
    ) -> None:
        still = [before.subject for before in held if before.state is State.OPEN]
        if still:
            self._append(connection, {**record, **key, "subjects": still})

    def _weigh(
        self, before: Reservation, real: Charge, evidence: bytes | None
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Books in which admission counts what was realised, and no longer what was reserved.

        Where neither costs less at every order it counts both.
        """
        rising, falling = [], []
        for book, event in real.events().items():
            reserved = before.charge.events()[book]
            lower = admission.raises_price(reserved, over=event)
            if admission.raises_price(event, over=reserved):
                rising.append(book.value)
                if not lower:
                    falling.append(book.value)
            if lower and self._keeper is Keeper.CLIENT and not evidence:
                _conflict(
                    before,
                    f"would cost less in the {book.value} book on the server's word alone; "
                    "commit it as reserved, or with evidence that the server cannot forge",
                )
        return tuple(rising), tuple(falling)


def _place(path: str | PathLike[str]) -> Path:
    place = Path(path)
    if place.is_dir():
        raise LedgerError(f"{place} is a folder, not a ledger")
    return place


def _fitted(before: Reservation, real: Charge) -> Charge:
    if real.events().keys() != before.charge.events().keys():
        _conflict(before, "is reserved in other books than those realised")
    return real


def _conflict(before: Reservation, what: str) -> NoReturn:
    raise LedgerConflict(
        f"{before.subject!r} in round {before.round}, attempt {before.attempt} {what}"
    )
