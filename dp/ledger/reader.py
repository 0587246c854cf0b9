"""The reading half of a ledger: what was charged, what may be stated, whether it is whole."""

import sqlite3
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dp.accounting.accountant import Accountant
from dp.accounting.events import Event
from dp.accounting.filters import Filter
from dp.errors import InputError, LedgerCorrupt, LedgerError, LedgerMissing
from dp.ledger.accounts import Accounts
from dp.ledger.books import (
    Budget,
    HeadSigner,
    LedgerOwner,
    Protection,
    Reservation,
    Verified,
    number,
    subject_name,
)
from dp.ledger.description import SystemDescription
from dp.ledger.migrations import check_age
from dp.ledger.records import (
    Book,
    Entry,
    Head,
    check_chain,
    check_end,
    check_schema,
    check_seal,
    genesis_of,
    head_of,
    is_sealed,
    parse,
    sealed_from,
    statements,
)
from dp.ledger.rules import FIXED_PLAN, Alike, Basis, EpsilonQuery, composition_rule
from dp.ledger.storage import File

SCHEMA_VERSION: Final = 3
OLDEST_READ: Final = 2  # the same tables; schema 1 is read after its migration alone
_NO_SCHEMA: Final = 256  # nor above: a damaged header says such a number
UNFINISHED: Final = (
    "holds no table: making it was not finished, or it was copied without its log, the "
    "'-wal' file beside it. What was spent is unknown; remove it only if nothing ever was"
)
APPLICATION_ID: Final = 0x64704C67  # "dpLg", in the header of the file


class Reader:
    """What ``dp.ledger.ledger.Ledger`` answers; every answer is of one state of the file."""

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        seal: HeadSigner | None = None,
        timeout: float = 5.0,
        read_only: bool = False,
    ) -> None:
        """Connect to an existing database; prefer ``create`` and ``open``."""
        self._file = File(path, timeout, read_only=read_only)
        self._path = Path(path)
        self._seal = seal
        self._schema_seen: int | None = None

    @property
    def budget(self) -> Budget:
        """The budget of every subject that has none of its own."""
        return self._budget

    @property
    def keeper(self) -> LedgerOwner:
        """The owner of this ledger."""
        return self._keeper

    @property
    def policy(self) -> str:
        """What may be chosen from earlier outputs; admission is sound for that and no more."""
        return self._policy.text

    def epsilon(
        self,
        subject: str,
        accountant: Accountant = "rdp",
        *,
        book: Book | None = None,
        basis: Basis = "reserved",
    ) -> float:
        """What may be stated of ``subject`` at its budget's delta, open reservations included.

        In one book, or in the one that costs more. 0 for a subject that was never charged.

        | policy | accountant, basis | what it is |
        |---|---|---|
        | fixed plan | rdp, reserved | what was spent, the number that admission uses |
        | fixed plan | rdp, actual | with actual noise: true if no output decided who was lost |
        | fixed plan | pld, reserved | mostly tighter, for a report; refused once a commit rose |
        | fixed plan | pld, actual | refused where it differs: it needs a plan fixed in advance |
        | a filter | rdp, either | the whole budget; ``inf`` if an actual price passed it |
        | a filter | pld, either | refused: ``UnsoundEvent`` |

        Where a commit rose above its reservation, what is held is true under a fixed plan if no
        output decided that. Why a filter states the budget, ``dp.ledger.rules`` says.
        """
        with self._file.snapshot() as connection:
            budget = self._accounts.budget_of(connection, subject_name(subject))
            found = self._accounts.spent(connection, subject)
            raised = self._accounts.raised(connection, subject) if accountant == "pld" else {}
        ask = EpsilonQuery(accountant, book, basis)
        return self._policy.epsilon(
            found.get(subject, {}), budget, ask, {}, raised.get(subject, set())
        )

    def epsilons(
        self, accountant: Accountant = "rdp", *, book: Book | None = None, basis: Basis = "reserved"
    ) -> dict[str, float]:
        """``epsilon`` of every subject that was ever reserved for, by name."""
        with self._file.snapshot() as connection:
            own = self._accounts.budgets(connection)
            found = self._accounts.spent(connection)
            raised = self._accounts.raised(connection) if accountant == "pld" else {}
        ask, known = EpsilonQuery(accountant, book, basis), dict[Alike, float]()
        return {
            name: self._policy.epsilon(
                spent, own.get(name, self._budget), ask, known, raised.get(name, set())
            )
            for name, spent in found.items()
        }

    def filter_of(self, subject: str, book: Book = Book.SERVER) -> Filter | None:
        """The filter of ``subject`` in one book as it stands, open reservations included.

        Its ``share`` says how much is gone. ``None`` under "fixed plan" and where nothing is
        charged.
        """
        with self._file.snapshot() as connection:
            budget = self._accounts.budget_of(connection, subject_name(subject))
            found = self._accounts.spent(connection, subject)
        return self._policy.filter_of(found.get(subject, {}).get((book, "reserved"), {}), budget)

    def filters(self, book: Book = Book.SERVER) -> dict[str, Filter]:
        """``filter_of`` of every subject that has one, by name."""
        with self._file.snapshot() as connection:
            own = self._accounts.budgets(connection)
            found = self._accounts.spent(connection)
        pairs = (
            (
                name,
                self._policy.filter_of(
                    spent.get((book, "reserved"), {}), own.get(name, self._budget)
                ),
            )
            for name, spent in found.items()
        )
        return {name: stands for name, stands in pairs if stands is not None}

    def spent(
        self, subject: str, book: Book = Book.SERVER, *, basis: Basis = "reserved"
    ) -> dict[Event, int]:
        """The composition charged to ``subject``: one-step events, and how many steps of each."""
        with self._file.snapshot() as connection:
            found = self._accounts.spent(connection, subject_name(subject))
        return found.get(subject, {}).get((book, basis), {})

    def compositions(
        self, book: Book = Book.SERVER, *, basis: Basis = "reserved"
    ) -> dict[str, dict[Event, int]]:
        """``spent`` of every subject that was ever reserved for, by name."""
        with self._file.snapshot() as connection:
            found = self._accounts.spent(connection)
        return {name: spent.get((book, basis), {}) for name, spent in found.items()}

    def budget_of(self, subject: str) -> Budget:
        """The budget of ``subject``, its own or everybody's."""
        with self._file.snapshot() as connection:
            return self._accounts.budget_of(connection, subject_name(subject))

    def subjects(self) -> list[str]:
        """Every subject that was ever reserved for, sorted."""
        with self._file.snapshot() as connection:
            rows = connection.execute(
                "SELECT name FROM subjects WHERE EXISTS"
                " (SELECT 1 FROM spent WHERE subject = id) ORDER BY name"
            )
            return [name for (name,) in rows]

    def reservations(self, round_number: int | None = None) -> list[Reservation]:
        """The reservations of one round or of all, by (round, attempt, subject)."""
        if round_number is not None:
            number("round", round_number)
        with self._file.snapshot() as connection:
            return self._accounts.reservations(connection, round_number)

    def records(self) -> Iterator[Entry]:
        """All records in order, one at a time. Their chain is checked by ``verify``, not here."""
        seq = -1
        while True:
            with self._file.snapshot() as connection:
                row = connection.execute(
                    "SELECT seq, body, hash FROM records WHERE seq > ? ORDER BY seq LIMIT 1",
                    (seq,),
                ).fetchone()
                if row is None:
                    return
                record = parse(*row)
            seq = record.seq
            yield record

    def statement(self) -> SystemDescription | None:
        """What the keeper stated last; ``None`` where nothing was."""
        with self._file.snapshot() as connection:
            return next(statements(connection), None)

    def statements(self) -> list[SystemDescription]:
        """All that the keeper stated, in order: more than one says that it was changed."""
        with self._file.snapshot() as connection:
            return list(statements(connection))[::-1]

    def head(self) -> Head:
        """The end of the chain now: keep it outside the file."""
        with self._file.snapshot() as connection:
            return head_of(connection)

    def verify(self, head: Head | None = None) -> Verified:
        """Check the whole file, that it continues ``head`` if one is given, and the seal.

        Finds damage, and every edit, deletion or reordering of records after which the
        chain was not computed anew; every difference between the records and the
        accounts; and more with ``head`` and with the seal the ledger was opened with, as
        the table of ``dp.ledger.ledger`` and the result's ``protection`` say.

        Raises ``LedgerCorrupt`` naming the first thing that is wrong.
        """
        with self._file.snapshot() as connection:
            self._check_age(connection)
            self._file.check_size()
            last = check_chain(connection, head)
            check_end(connection)
            self._check_seal(connection)
            since = sealed_from(connection)
            signed = is_sealed(connection) or since is not None
        stands = {
            Protection.HEAD: head is not None,
            Protection.SIGNATURE: self._seal is not None,
            Protection.UNCHECKED: signed and self._seal is None,
        }
        return Verified(
            head=last,
            protection=tuple(kind for kind, given in stands.items() if given) or (Protection.NONE,),
            kept=None if head is None else head.seq,
            signed_from=None if self._seal is None else since,
        )

    @property
    def has_log(self) -> bool:
        """Whether a log beside the file holds what is not in it yet: both are the ledger."""
        return self._file.has_log

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
        return f"<{type(self).__name__}: {self._path}>"

    # Inside

    def _load(self) -> None:
        """What the first record fixes, for good."""
        with self._file.snapshot() as connection:
            if (schema := self._version(connection)) < OLDEST_READ:
                raise LedgerError(
                    f"{self._path} has schema {schema}, which is read after it was brought to "
                    f"schema {SCHEMA_VERSION}: open a copy of it without read_only, once"
                )
            self._file.check_size()
            self._check_schema(connection)
            self._check_age(connection)
            check_end(connection)
            genesis = genesis_of(connection).data
            try:
                self._budget = Budget(**genesis["budget"])
                self._keeper = LedgerOwner(genesis.get("keeper", "server"))
            except (TypeError, KeyError, ValueError):
                raise LedgerCorrupt("its first record holds no budget") from None
            self._check_seal(connection)
        try:
            self._policy = composition_rule(genesis.get("policy", FIXED_PLAN))
        except InputError as error:
            raise LedgerError(f"{self._path} needs a newer version of secagg: {error}") from None
        self._accounts = Accounts(self._budget, self._policy)

    def _version(self, connection: sqlite3.Connection) -> int:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if not tables and self._file.is_void:
                raise LedgerMissing(f"{self._path} is empty: nothing was written in it")
            if not tables:
                raise LedgerCorrupt(UNFINISHED)
            if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'records'").fetchone():
                raise LedgerCorrupt("has a ledger's table, and a header that names no ledger")
            raise LedgerCorrupt("is a SQLite file, but no ledger")
        if version < 1:
            raise LedgerCorrupt(f"says schema {version}, which no ledger has")
        if version >= _NO_SCHEMA:
            raise LedgerCorrupt(f"says schema {version}, which no ledger has")
        if version > SCHEMA_VERSION:
            raise LedgerError(
                f"{self._path} has schema {version}, this version reads up to {SCHEMA_VERSION}; "
                "use the version of secagg that wrote it, or a newer one"
            )
        if (
            version == 1
            and connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'subjects'").fetchone()
        ):
            raise LedgerCorrupt("says schema 1, and has the tables of a later one")
        return int(version)

    def _check_age(self, connection: sqlite3.Connection) -> None:
        if (version := self._version(connection)) < SCHEMA_VERSION:
            check_age(connection, version)

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        """Once for every state of the schema: SQLite counts its changes."""
        (state,) = connection.execute("PRAGMA schema_version").fetchone()
        if state != self._schema_seen:
            check_schema(connection)
            self._schema_seen = state

    def _check_seal(self, connection: sqlite3.Connection) -> None:
        if self._seal is not None:
            check_seal(connection, self._seal.verify)
