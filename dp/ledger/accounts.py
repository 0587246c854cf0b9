"""What the accounts of a ledger say, and whether they leave room for more.

Reads the tables of ``dp.ledger.records``; whoever calls holds the transaction.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from json import dumps
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp.accounting.events import Event, from_json
from dp.errors import BudgetExceeded, InputError, LedgerCorrupt
from dp.ledger.books import Budget, Key, Reservation, State, key_of
from dp.ledger.records import Book, Charge
from dp.ledger.rules import CompositionRule, Spent

_BATCH = "FROM json_each(:names) AS j CROSS JOIN subjects AS s ON s.name = j.value"


class Accounts:
    """One file's accounts, with the events that its numbers stand for kept in memory."""

    def __init__(self, budget: Budget, policy: CompositionRule) -> None:
        """``budget`` is everybody's who has none of its own."""
        self._budget = budget
        self._policy = policy
        self._events: dict[int, Event] = {}
        self._charges: dict[tuple[int | None, int | None], Charge] = {}

    def budgets(self, connection: sqlite3.Connection) -> dict[str, Budget]:
        """The budgets of those who have their own."""
        return {
            name: Budget(epsilon=epsilon, delta=delta)
            for name, epsilon, delta in connection.execute(
                "SELECT name, epsilon, delta FROM subjects WHERE epsilon IS NOT NULL"
            )
        }

    def budget_of(self, connection: sqlite3.Connection, subject: str) -> Budget:
        """The budget of one subject, its own or everybody's."""
        row = connection.execute(
            "SELECT epsilon, delta FROM subjects WHERE name = ? AND epsilon IS NOT NULL", (subject,)
        ).fetchone()
        return Budget(epsilon=row[0], delta=row[1]) if row else self._budget

    def reservations(
        self, connection: sqlite3.Connection, round_number: int | None
    ) -> list[Reservation]:
        """Those of one round or of all, by (round, attempt, subject)."""
        where = "" if round_number is None else "WHERE round = :round"
        return self._rows(
            connection,
            f"FROM charges JOIN subjects AS s ON s.id = subject {where}"
            " ORDER BY round, attempt, name",
            {"round": round_number},
        )

    def held(
        self, connection: sqlite3.Connection, key: Key, subjects: Iterable[str]
    ) -> dict[str, Reservation]:
        """Those of the subjects named, under one (round, attempt), by name."""
        rows = self._rows(
            connection,
            f"{_BATCH} CROSS JOIN charges"
            " ON round = :round AND attempt = :attempt AND subject = s.id",
            {**key._asdict(), "names": dumps(list(subjects))},
        )
        return {row.subject: row for row in rows}

    def free_key(self, connection: sqlite3.Connection, round_number: int | None) -> Key:
        """The attempt after the last of a round, or the first of the round after the last.

        One step down an index, however many reservations there are.
        """
        if round_number is None:
            (last,) = connection.execute("SELECT max(round) FROM charges").fetchone()
            return key_of(0 if last is None else last + 1, 0)
        (last,) = connection.execute(
            "SELECT max(attempt) FROM charges WHERE round = ?", (round_number,)
        ).fetchone()
        return key_of(round_number, 0 if last is None else last + 1)

    def spent(self, connection: sqlite3.Connection, subject: str | None = None) -> dict[str, Spent]:
        """What each subject, or one, was charged: by name, then by book and basis."""
        found: dict[str, Spent] = {}
        where = "" if subject is None else "WHERE name = :name"
        for name, number, event, held, realised in connection.execute(
            "SELECT name, book, event, held, realised FROM subjects CROSS JOIN spent"  # noqa: S608
            f" ON subject = id {where} ORDER BY name, book, event",  # where: one of the two above
            {"name": subject},
        ):
            book = Book.RELEASE if number else Book.SERVER
            mine = found.setdefault(name, {})
            if held:
                mine.setdefault((book, "reserved"), {})[self._event(connection, event)] = held
            if realised:
                mine.setdefault((book, "actual"), {})[self._event(connection, event)] = realised
        return found

    def raised(
        self, connection: sqlite3.Connection, subject: str | None = None
    ) -> dict[str, set[Book]]:
        """The books, by name, in which a commit changed what admission holds: not as planned."""
        planned = " UNION ALL ".join(
            f"SELECT c.subject, {book.number}, e.one, -e.steps FROM charges AS c"  # noqa: S608 - ours
            f" JOIN events AS e ON e.id = c.{book.value} WHERE c.state <> 'aborted'"
            for book in Book
        )
        found: dict[str, set[Book]] = {}
        for name, number in connection.execute(
            "SELECT name, book FROM (SELECT subject, book, event, held FROM spent"  # noqa: S608 - ours
            f" UNION ALL {planned}) JOIN subjects ON subject = id"
            " WHERE :name IS NULL OR name = :name"
            " GROUP BY subject, book, event HAVING sum(held) <> 0",
            {"name": subject},
        ):
            found.setdefault(name, set()).add(Book.RELEASE if number else Book.SERVER)
        return found

    def admit(self, connection: sqlite3.Connection, charges: Mapping[Charge, list[str]]) -> None:
        """Raise ``BudgetExceeded`` for the first subject whose budget would be passed."""
        names = [name for group in charges.values() for name in group]
        batch = {"names": dumps(names)}
        cells = np.array(
            connection.execute(
                f"SELECT j.key, book, event, held {_BATCH} CROSS JOIN spent"
                " ON subject = s.id WHERE held <> 0",
                batch,
            ).fetchall(),
            dtype=np.int64,
        ).reshape(-1, 4)
        numbers, column = np.unique(cells[:, 2], return_inverse=True)
        events = {self._event(connection, number): at for at, number in enumerate(numbers.tolist())}
        for charge in charges:
            for event in charge.events().values():
                events.setdefault(event.one_step(), len(events))
        steps = np.zeros((len(names), len(Book), len(events)), dtype=np.int64)
        steps[cells[:, 0], cells[:, 1], column] = cells[:, 3]
        before, asked, end = steps.copy(), np.zeros((len(names), len(Book)), dtype=bool), 0
        for charge, group in charges.items():
            start, end = end, end + len(group)
            for book, event in charge.events().items():
                steps[start:end, book.number, events[event.one_step()]] += event.steps
                asked[start:end, book.number] = True
        budgets: dict[Budget, list[int]] = {}
        own = {
            at: Budget(epsilon=epsilon, delta=delta)
            for at, epsilon, delta in connection.execute(
                f"SELECT j.key, s.epsilon, s.delta {_BATCH} WHERE s.epsilon IS NOT NULL", batch
            )
        }
        for at in range(len(names)):
            budgets.setdefault(own.get(at, self._budget), []).append(at)
        for budget, chosen in budgets.items():
            limit = self._policy.limit(budget)
            prices = self._prices(steps[chosen], events, budget)
            for at, book in np.argwhere(asked[chosen] & ~(prices <= limit))[:1]:
                already = self._prices(before[chosen][at : at + 1], events, budget)[0, book]
                raise BudgetExceeded(
                    subject=names[chosen[at]],
                    book=list(Book)[book].value,
                    currency=self._policy.currency,
                    spent=self._policy.shown(already),
                    would_be=self._policy.shown(prices[at, book]),
                    budget=self._policy.shown(limit),
                )

    def _prices(
        self, steps: NDArray[np.int64], events: Mapping[Event, int], budget: Budget
    ) -> NDArray[Any]:
        """The amounts of (subjects, books, events) as (subjects, books)."""
        flat = steps.reshape(-1, len(events))
        return self._policy.amounts(flat, list(events), budget).reshape(steps.shape[:2])

    def _rows(
        self, connection: sqlite3.Connection, what: str, given: Mapping[str, Any]
    ) -> list[Reservation]:
        rows = connection.execute(
            "SELECT round, name, attempt, server, release, minimum, state, survivors,"
            f" real_server, real_release {what}",
            given,
        )
        return [
            Reservation(
                round=at,
                subject=name,
                attempt=attempt,
                charge=self._charge(connection, *reserved),
                minimum_survivors=minimum,
                state=State(state),
                survivors=survivors,
                actual=None if real == [None, None] else self._charge(connection, *real),
            )
            for at, name, attempt, *reserved, minimum, state, survivors, a, b in rows
            for real in [[a, b]]
        ]

    def _event(self, connection: sqlite3.Connection, number: int) -> Event:
        """The event that stands under this number, which never changes its meaning."""
        if number not in self._events:
            row = connection.execute("SELECT json FROM events WHERE id = ?", (number,)).fetchone()
            try:
                self._events[number] = from_json(row[0])
            except (TypeError, InputError):
                raise LedgerCorrupt(f"its event {number} is unreadable") from None
        return self._events[number]

    def _charge(
        self, connection: sqlite3.Connection, server: int | None, release: int | None
    ) -> Charge:
        if (server, release) not in self._charges:
            numbers = (server, release)
            events = [None if n is None else self._event(connection, n) for n in numbers]
            try:
                self._charges[numbers] = Charge(server=events[0], release=events[1])
            except InputError:
                raise LedgerCorrupt("one of its charges holds no event") from None
        return self._charges[server, release]
