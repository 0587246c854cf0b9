"""The books: what every subject has spent, on disk before a byte leaves.

``reserve`` → release → ``commit``. A reservation counts as spent from the moment
``reserve`` returns, synced to disk, until ``abort`` takes it back; a crash in
between leaves it spent. One that would pass a subject's budget in either book is
refused, for all subjects of the call, in integers rounded up. Several processes may use
one file: of two that reserve what is left once, one gets it, and who numbers its rounds
by ``reserve_next`` shares no charge with another.

Two books stand side by side. The server's holds against the aggregator, who picked
the cohort: charge it who took part, without client amplification. The release's holds
against whoever gets the model: charge it everyone eligible. A plain event in place of a
``Charge`` is charged to both, as local noise asks, where both see the same updates.

What may be chosen from earlier outputs is the policy, fixed at creation: nothing under
"fixed plan", every parameter under a filter, ``dp.ledger.rules``. ``commit`` may say what noise
the sum really had. A higher price counts at once. A lower one is what a report may show; it
frees budget under a filter alone. In a client's own ledger a price is lowered only on
evidence that the server cannot forge.

Every change is one record in a hash chain, ``dp.ledger.records``. The accounts are a fold of
the records; ``verify`` folds them anew and compares. **What a chain alone shows is
accidents**: whoever can write the file can compute the whole chain again, and a copy from
yesterday is in itself perfect. What is found beyond that, and what it takes:

| protection | finds | does not find |
|---|---|---|
| none | damage, edits that leave the chain as it was | a chain computed anew, an older copy |
| head kept elsewhere | every edit and loss up to that head | what was done to later records |
| signed head | every edit and loss, by whoever lacks the key | an older copy of the whole file |
| signed, not checked | the same as none, until its key is given | |
| signed later | the same, from the record "seal" on | what was done to the file before |

No clock is read: a record says in which order, not when.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn, Self

from dp.accounting.events import Event
from dp.errors import (
    InputError,
    LedgerConflict,
    LedgerCorrupt,
    LedgerError,
    LedgerMissing,
)
from dp.ledger.books import (
    Budget,
    HeadSigner,
    Key,
    LedgerOwner,
    Protection,
    Reservation,
    State,
    Verified,
    charges_of,
    key_of,
    number,
    subject_name,
    subject_names,
)
from dp.ledger.description import SystemDescription
from dp.ledger.migrations import migrate_1_to_2, migrate_2_to_3
from dp.ledger.reader import APPLICATION_ID, SCHEMA_VERSION, UNFINISHED, Reader
from dp.ledger.records import (
    MODEL_DIGEST,
    Book,
    Charge,
    Entry,
    Head,
    append,
    check_chain,
    check_schema,
    check_seal,
    holds,
    is_sealed,
    make_tables,
    of_action,
    released,
    sealed_from,
    statements,
    write_seal,
)
from dp.ledger.rules import FIXED_PLAN
from dp.ledger.rules import composition_rule as named_policy

__all__ = [
    "FIXED_PLAN",
    "SCHEMA_VERSION",
    "Book",
    "Budget",
    "Charge",
    "Entry",
    "Head",
    "HeadSigner",
    "Key",
    "Ledger",
    "LedgerOwner",
    "Protection",
    "Reservation",
    "State",
    "SystemDescription",
    "Verified",
]


class Ledger(Reader):
    """An open ledger. Make it with ``create`` or ``open``; use it as a context manager.

    One object serves one thread of one process; others open the file for themselves.
    Every method raises ``LedgerBusy`` when another process holds the file for longer
    than ``timeout`` seconds, ``LedgerCorrupt`` when the file is damaged, ``LedgerError``
    when it cannot be read or written (disk full, read-only, moved). A write that raised
    happened wholly or not at all.

    >>> from tempfile import TemporaryDirectory
    >>> from dp.accounting import GaussianEvent, NoSampling
    >>> event = GaussianEvent(noise_multiplier=10.0, sampling=NoSampling())
    >>> with TemporaryDirectory() as folder:
    ...     with Ledger.create(f"{folder}/ledger", Budget(epsilon=2, delta=1e-5)) as ledger:
    ...         _ = ledger.reserve(1, {"hospital": event})  # before anything is released
    ...         _ = ledger.commit(1, ["hospital"])
    ...         ledger.head().seq
    2

    Args:
      path: of the SQLite file.
      seal: signs the head, and verifies it.
      timeout: seconds to wait for another process that holds the file.
      read_only: nothing is written; every method that would raises ``LedgerError``.
    """

    _added: Head | None = None

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        budget: Budget,
        *,
        keeper: LedgerOwner = LedgerOwner.SERVER,
        policy: str = FIXED_PLAN,
        seal: HeadSigner | None = None,
        timeout: float = 5.0,
    ) -> Self:
        """A new ledger at ``path``, with the same budget for every subject.

        ``policy`` is one of those of ``dp.ledger.rules``, for good. With ``seal`` its head is
        signed from the first record on. Raises ``LedgerConflict`` if the file exists and
        holds anything. A file of no bytes is taken over; one that has some and no table is
        ``LedgerCorrupt``: a process may have been killed while creating it, or it is a copy.
        """
        if seal is not None and seal.sign is None:
            raise InputError("seal has no sign: give a HeadSigner that can sign, or none")
        genesis = {
            "action": "create",
            "budget": {"epsilon": budget.epsilon, "delta": budget.delta},
            "keeper": LedgerOwner(keeper).value,
            "policy": named_policy(policy).text,
            "schema": SCHEMA_VERSION,
            "sealed": seal is not None,
        }
        place = _place(path)
        try:
            os.close(os.open(place, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise LedgerError(f"cannot create {place}: {error.strerror}") from error
        ledger = cls(place, seal=seal, timeout=timeout)
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
        seal: HeadSigner | None = None,
        timeout: float = 5.0,
        read_only: bool = False,
    ) -> Self:
        """The ledger at ``path``; with ``budget`` given, only if that is its budget.

        A file of an older schema is brought to this one, its chain checked and kept.
        Otherwise the chain is not read: call ``verify`` before trusting a file from
        elsewhere. With ``seal`` the signature of the head is checked.

        With ``read_only`` nothing is written, in the file or beside it, so that a copy on
        any medium can be audited: schema 2 is read as it is, schema 1 refused; what would
        write is refused. A file that others write meanwhile is ``LedgerBusy``, open it anew.

        Raises:
          LedgerMissing: nothing is there, or creating it was not finished.
          LedgerCorrupt: it is not a ledger, or its head is not signed as ``seal`` asks.
          LedgerConflict: its budget is another.
          LedgerError: it is a folder, or from a newer version of this package, or has a
            policy that is unknown here.
        """
        place = _place(path)
        if not place.exists():
            raise LedgerMissing(f"no ledger at {place}; create one")
        ledger = cls(place, seal=seal, timeout=timeout, read_only=read_only)
        try:
            ledger._settle(budget)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def checkpoint(self) -> None:
        """Bring the log beside the file into it: the file alone is then the whole ledger.

        While another process reads, some of the log may stay; nothing is lost by that.
        """
        self._file.checkpoint()

    # Stating

    def seal(self, seal: HeadSigner) -> None:
        """Sign the head of a ledger that was made without, from now on.

        The whole file is verified first. What then stands is pinned as it is; that it was
        true before, no signature made now can show. Raises ``LedgerConflict`` if it is
        signed already, ``LedgerCorrupt`` if it is not sound or ``seal`` does not fit itself.
        """
        if seal.sign is None:
            raise InputError("seal has no sign: give a HeadSigner that can sign")
        with self._file.transaction() as connection:
            self._check_writable(connection)
            if is_sealed(connection):
                raise LedgerConflict(
                    f"{self._path} is signed already, and nothing was changed: it keeps the key "
                    "that it was first signed with"
                )
            check_chain(connection, None)
            write_seal(connection, append(connection, {"action": "seal"}), seal.sign)
            check_seal(connection, seal.verify)
        self._seal = seal

    def declare(self, statement: SystemDescription) -> None:
        """Write down what the keeper states about the system; the last one stands.

        Stating the same again changes nothing. Raises ``InputError`` where the delta of a
        single round would reach 1 / ``unit_count``, at the budget's delta or a subject's own.
        """
        with self._writing() as connection:
            for budget in {self._budget, *self._accounts.budgets(connection).values()}:
                statement.delta(budget.delta, epsilon=budget.epsilon, rounds=1, steps=1)
            if next(statements(connection), None) != statement:
                self._append(connection, {"action": "state", "statement": statement.to_json()})

    # Charging

    def set_budgets(self, budgets: Mapping[str, Budget]) -> None:
        """Give subjects budgets of their own, before they are first charged.

        Repeating a call changes nothing. Raises ``LedgerConflict``, and sets none, for a
        subject that was charged: its budget is fixed; ``InputError`` for a delta that
        contradicts the statement.
        """
        wanted = {subject_name(subject): budget for subject, budget in budgets.items()}
        with self._writing() as connection:
            groups: dict[Budget, list[str]] = {}
            for subject, budget in wanted.items():
                if self._accounts.budget_of(connection, subject) == budget:
                    continue
                if self._accounts.spent(connection, subject):
                    raise LedgerConflict(
                        f"{subject!r} was charged, so its budget is fixed; leave it out"
                    )
                groups.setdefault(budget, []).append(subject)
            if groups:
                for said in islice(statements(connection), 1):
                    for budget in groups:
                        said.delta(budget.delta, epsilon=budget.epsilon, rounds=1, steps=1)
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
          UnsoundEvent: an event that the policy cannot price soundly, or of another unit or
            adjacency than those charged to the subject before.
          InputError: round, attempt, minimum or a subject's name is out of range.
        """
        key = key_of(round_number, attempt)
        minimum = number("minimum survivors", minimum_survivors)
        wanted = charges_of(charges)
        with self._writing() as connection:
            held = self._accounts.held(connection, key, wanted)
            for subject, before in held.items():
                if before.state is State.ABORTED:
                    _conflict(before, "was aborted; retry as a new attempt")
                if (before.charge, before.minimum_survivors) != (wanted.pop(subject), minimum):
                    _conflict(before, "is reserved for another event or minimum of survivors")
            self._charge(connection, key, wanted, minimum)

    def reserve_next(
        self,
        charges: Mapping[str, Event | Charge],
        *,
        round_number: int | None = None,
        minimum_survivors: int = 0,
    ) -> Key:
        """Charge as ``reserve`` does, under a key that nobody has used; returns that key.

        With ``round_number`` the key is the next attempt of that round, otherwise the first
        attempt of the round after the last. It is chosen and charged in one transaction, so
        of two processes each gets its own key and its own charge. Calling again charges again.

        Raises as ``reserve`` does, and ``InputError`` where there is nobody to charge.
        """
        minimum = number("minimum survivors", minimum_survivors)
        wanted = charges_of(charges)
        if round_number is not None:
            number("round", round_number)
        if not wanted:
            raise InputError("charges is empty, must name a subject at least")
        with self._writing() as connection:
            key = self._accounts.free_key(connection, round_number)
            self._charge(connection, key, wanted, minimum)
        return key

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

        A mapping gives each subject's actual events, for the books it was reserved in. If the
        actual event costs more than the reserved one, the higher price counts from now on,
        even if that exceeds the budget; under a fixed plan it does if it costs more at any
        order. If it costs less, the reserved price stays for admission and ``basis="actual"`` shows
        the lower one; under a filter the actual event takes its place. A client's ledger
        takes a lower price only with ``evidence``, something the caller has checked and the
        server cannot forge, such as the survivors' signatures over their set; the record
        keeps its SHA-256. Repeating a call changes nothing.

        Raises ``LedgerConflict``, and closes none, if one was aborted, never reserved or
        committed otherwise, if ``survivors`` are below the reserved minimum or not given
        where there is one (leave the reservation open, it stays spent), if an actual
        charge is for other books, or lower without evidence; ``UnsoundEvent`` as ``reserve``.
        """
        key = key_of(round_number, attempt)
        if survivors is not None:
            survivors = number("survivors", survivors)
        actual = charges_of(subjects) if isinstance(subjects, Mapping) else {}
        wanted = subject_names(subjects)
        with self._writing() as connection:
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
                real = _fitted(before, actual.get(before.subject, before.charge))
                if before.state is State.COMMITTED:
                    if (real, survivors) != (before.actual or before.charge, before.survivors):
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

        If anything may have been sent (for example the process was killed), do not abort:
        leave the reservation open, it stays spent.
        Repeating the call changes nothing.

        Raises ``LedgerConflict``, and takes none back, if one was committed or never
        reserved, or if a model of this round and attempt was released.
        """
        key = key_of(round_number, attempt)
        wanted = subject_names(subjects)
        with self._writing() as connection:
            held = self._closing(connection, "abort", State.ABORTED, key, wanted)
            models = {(one.round, one.attempt) for one in of_action(connection, "model")}
            if key in models and any(one.state is State.OPEN for one in held):
                raise LedgerConflict(
                    f"a model of round {key.round}, attempt {key.attempt} was released: its "
                    "charges stand"
                )
            self._close_open(connection, key, {"action": "abort"}, held)

    def release(self, round_number: int, model_digest: bytes, *, attempt: int = 0) -> None:
        """Write down which model came of a round: an audit then says of what it is.

        ``model_digest`` is a SHA-256 of the model as whoever released it hashes it. That this
        model came of this round is the keeper's word. Repeating the last call changes nothing.

        Raises ``LedgerConflict`` where nothing is charged in that round and attempt, or all was
        taken back.
        """
        key = key_of(round_number, attempt)
        if not (isinstance(model_digest, bytes) and len(model_digest) == MODEL_DIGEST):
            raise InputError("model_digest must be the 32 bytes of a SHA-256")
        record = {"action": "model", **key._asdict(), "model": model_digest.hex()}
        with self._writing() as connection:
            before = next(of_action(connection, "model"), None)
            if before is not None and before.data == record:
                return
            if not released(connection, *key):
                raise LedgerConflict(
                    f"nothing is charged in round {key.round}, attempt {key.attempt}: reserve first"
                )
            self._append(connection, record)

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
            if not self._file.is_void:
                raise LedgerCorrupt(UNFINISHED)
            self._file.make_durable()
        with self._writing() as connection:
            refuse_content()
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            make_tables(connection)
            self._append(connection, genesis, first=True)
        self._file.sync_folder()

    def _settle(self, budget: Budget | None) -> None:
        """Refuse what is not our ledger, and ask for durability before any use of it."""
        if not self._file.read_only:
            with self._file.translated():
                behind = self._version(self._file.connection) < SCHEMA_VERSION
                self._file.make_durable()
            if behind:
                self._migrate()
        self._load()
        if budget is not None and budget != self._budget:
            raise LedgerConflict(
                f"{self._path} has the budget epsilon {self._budget.epsilon:g}, delta "
                f"{self._budget.delta:g}, not {budget.epsilon:g}, {budget.delta:g}"
            )

    def _migrate(self) -> None:
        with self._file.transaction() as connection:
            if self._version(connection) == 1:
                migrate_1_to_2(connection)
            self._check_age(connection)
            if self._version(connection) == 2:  # nobody else did it meanwhile
                sealed = is_sealed(connection)
                if sealed:
                    self._check_signer(connection)
                head = migrate_2_to_3(connection)
                check_schema(connection)
                if sealed:
                    self._sign(connection, head)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, and once it ended a look whether the file kept what it added."""
        self._added = None
        with self._file.transaction() as connection:
            yield connection
        self._check_kept(self._added)

    def _check_kept(self, added: Head | None) -> None:
        if added is None:
            return
        with self._file.snapshot() as connection:
            if not holds(connection, added):
                raise LedgerCorrupt(
                    f"record {added.seq} was written and is not there: something in the file, or "
                    "another program, took it away"
                )

    def _append(
        self, connection: sqlite3.Connection, data: dict[str, Any], *, first: bool = False
    ) -> None:
        """One record more, if the file is ours and what it continues is what the seal says."""
        self._check_writable(connection)
        if not first:
            self._check_signer(connection)
        self._added = append(connection, data)
        self._sign(connection, self._added)

    def _check_writable(self, connection: sqlite3.Connection) -> None:
        # Another process may have migrated the file meanwhile, forwards alone.
        if (version := self._version(connection)) != SCHEMA_VERSION:
            raise LedgerCorrupt(f"says schema {version}, and was opened with {SCHEMA_VERSION}")
        self._check_schema(connection)

    def _check_signer(self, connection: sqlite3.Connection) -> None:
        self._check_seal(connection)
        if is_sealed(connection) and (self._seal is None or self._seal.sign is None):
            if sealed_from(connection) is None:
                raise LedgerCorrupt("carries a signature, and no record says that it is signed")
            raise LedgerError(
                f"the head of {self._path} is signed; to write, give seal with its key "
                "(--seal), or open it read_only"
            )

    def _sign(self, connection: sqlite3.Connection, head: Head) -> None:
        if self._seal is not None and self._seal.sign is not None:
            write_seal(connection, head, self._seal.sign)

    def _charge(
        self, connection: sqlite3.Connection, key: Key, wanted: Mapping[str, Charge], minimum: int
    ) -> None:
        """One record of what is new under a key, if all budgets leave room for it."""
        if not wanted:
            return
        alike: dict[Charge, list[str]] = {}
        for subject, charge in wanted.items():
            alike.setdefault(charge, []).append(subject)
        self._accounts.admit(connection, alike)
        listed = [[*charge.to_json(), names] for charge, names in alike.items()]
        record = {"action": "reserve", "minimum": minimum, "charges": listed}
        self._append(connection, {**record, **key._asdict()})

    def _closing(
        self,
        connection: sqlite3.Connection,
        action: str,
        target: State,
        key: Key,
        subjects: list[str],
    ) -> list[Reservation]:
        """The reservations to close, each open or closed like this before."""
        held = self._accounts.held(connection, key, subjects)
        for subject in subjects:
            if subject not in held:
                raise LedgerConflict(
                    f"{subject!r} in round {key.round}, attempt {key.attempt} was never "
                    f"reserved; cannot {action}"
                )
            if held[subject].state not in (State.OPEN, target):
                _conflict(held[subject], f"is {held[subject].state.value}; cannot {action}")
        return [held[subject] for subject in subjects]

    def _close_open(
        self,
        connection: sqlite3.Connection,
        key: Key,
        record: Mapping[str, Any],
        held: Iterable[Reservation],
    ) -> None:
        still = [before.subject for before in held if before.state is State.OPEN]
        if still:
            self._append(connection, {**record, **key._asdict(), "subjects": still})

    def _weigh(
        self, before: Reservation, real: Charge, evidence: bytes | None
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The books whose charge is replaced by the actual event, as the rule decides.

        In a client's ledger what costs less needs evidence.
        """
        rising, falling = [], []
        for book, event in real.events().items():
            found = self._policy.weigh(before.charge.events()[book], event)
            if found.rising:
                rising.append(book.value)
            if found.falling:
                falling.append(book.value)
            if found.lower and self._keeper is LedgerOwner.CLIENT and not evidence:
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
        _conflict(before, "is reserved in other books than the actual event")
    return real


def _conflict(before: Reservation, what: str) -> NoReturn:
    raise LedgerConflict(
        f"{before.subject!r} in round {before.round}, attempt {before.attempt} {what}"
    )
