"""Ledgers of older schemas, brought to the present one. Records stay as they are.

| from | to | what changes |
|---|---|---|
| 1 | 2 | one account a subject, for both adversaries, becomes two books that begin alike |
| 2 | 3 | policies other than "fixed plan"; records "state" and "seal", unknown before |

A file that says an older schema than its records are of was changed by hand: ``check_age``.
"""

import sqlite3
from itertools import zip_longest
from typing import Final

from dp.errors import LedgerCorrupt
from dp.ledger.records import (
    Head,
    append,
    check_chain,
    genesis_of,
    make_tables,
    of_action,
    replay,
)
from dp.ledger.rules import FIXED_PLAN

_OLD: Final = ("charges", "events", "spent")
_ALIKE: Final = (  # what schema 1 held, and the same seen through schema 2
    (
        "SELECT subject, round, attempt, json, state FROM old_charges LEFT JOIN old_events"
        " ON id = event ORDER BY subject, round, attempt",
        "SELECT name, round, attempt, json, state FROM charges JOIN subjects AS s ON s.id = subject"
        " LEFT JOIN events AS e ON e.id = server ORDER BY name, round, attempt",
    ),
    (
        "SELECT subject, json, old_spent.steps FROM old_spent LEFT JOIN old_events ON id = event"
        " WHERE old_spent.steps <> 0 ORDER BY subject, json",
        "SELECT name, json, held FROM spent JOIN subjects AS s ON s.id = subject"
        " LEFT JOIN events AS e ON e.id = event WHERE book = 0 AND held <> 0 ORDER BY name, json",
    ),
)


def check_age(connection: sqlite3.Connection, version: int) -> None:
    """Raise ``LedgerCorrupt`` where a record is newer than ``version``, which the file says.

    The first record says the schema that the file was made in. Of those made before it did, only
    what is in the table above tells.
    """
    genesis = genesis_of(connection)
    made_later = genesis.data.get("policy", FIXED_PLAN) != FIXED_PLAN or "schema" in genesis.data
    later = [genesis.seq] if made_later else []
    for action in ("state", "seal"):
        later += [record.seq for record in of_action(connection, action)]
    later += [
        record.seq
        for record in of_action(connection, "migrate")
        if record.data.get("schema") not in range(version + 1)
    ]
    if later:
        raise LedgerCorrupt(f"says schema {version}, and its record {min(later)} is of a later one")


def migrate_1_to_2(connection: sqlite3.Connection) -> None:
    """Fold the accounts anew out of the records, inside the caller's transaction.

    Raises ``LedgerCorrupt`` if the chain is broken or the old accounts say something else.
    """
    for table in _OLD:
        connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    make_tables(connection, records=False)
    replay(connection, connection, None)
    for old, new in _ALIKE:
        for held, said in zip_longest(connection.execute(old), connection.execute(new)):
            if held != said:
                raise LedgerCorrupt(f"the accounts hold {held}, the records say {said}")
    for table in _OLD:
        connection.execute(f"DROP TABLE old_{table}")
    connection.execute("PRAGMA user_version = 2")
    append(connection, {"action": "migrate", "schema": 2})


def migrate_2_to_3(connection: sqlite3.Connection) -> Head:
    """Nothing but the number, which keeps older versions from what they cannot read.

    Inside the caller's transaction. Raises ``LedgerCorrupt`` if the chain is broken or the
    accounts say something else. The new head, for who signs.
    """
    check_chain(connection, None)
    connection.execute("PRAGMA user_version = 3")
    return append(connection, {"action": "migrate", "schema": 3})
