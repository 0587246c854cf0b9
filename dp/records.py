"""The ledger's records: an append-only hash chain, and what it adds up to.

A record is canonical JSON (keys sorted, no blanks), one a change of the book:

    hash = SHA-256(label | seq, 8 bytes | hash of the record before, 32 bytes | body)

The accounts (``charges`` and ``spent``) change through ``_fold`` alone, when a record
is written and again when ``check_chain`` replays the chain: they say what the records say.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import zip_longest
from json import dumps, loads
from typing import Any, Final

from dp.errors import LedgerCorrupt
from dp.events import Event, from_json

_LABEL: Final = b"dp.ledger record v1"
_NO_HASH: Final = bytes(32)

_TABLES: Final = """
CREATE TABLE records (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash BLOB NOT NULL);
CREATE TABLE events (id INTEGER PRIMARY KEY, json TEXT NOT NULL UNIQUE);
CREATE TABLE charges (
  subject TEXT, round INTEGER, attempt INTEGER, event INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'committed', 'aborted')),
  PRIMARY KEY (subject, round, attempt)
) WITHOUT ROWID;
CREATE TABLE spent (
  subject TEXT, event INTEGER, steps INTEGER NOT NULL,
  PRIMARY KEY (subject, event)
) WITHOUT ROWID;
"""
_FOLDED: Final = (  # what verify compares, without the numbers that stand for events
    "SELECT subject, round, attempt, json, state FROM charges LEFT JOIN events"
    " ON id = event ORDER BY subject, round, attempt",
    "SELECT subject, json, steps FROM spent LEFT JOIN events"
    " ON id = event WHERE steps <> 0 ORDER BY subject, json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of the chain. Kept elsewhere, it pins every record up to ``seq``."""

    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One change of the book.

    Attributes:
      seq: its place in the chain, from 0.
      action: "create", "reserve", "commit" or "abort".
      round: the round, ``None`` for "create".
      attempt: the attempt, ``None`` for "create".
      subjects: whom it concerns, in the order of the call.
      charges: for "reserve", what each subject was charged.
      hash: 32 bytes, over this record and all before it.
    """

    seq: int
    action: str
    round: int | None
    attempt: int | None
    subjects: tuple[str, ...]
    charges: Mapping[str, Event] = field(default_factory=dict)
    hash: bytes


def parse(seq: int, body: str, digest: bytes) -> Record:
    """One row of ``records``; raises ``LedgerCorrupt`` where it is none."""
    try:
        data = loads(body)
        charges = {
            name: from_json(text) for text, names in data.get("charges", ()) for name in names
        }
        return Record(
            seq=seq,
            action=data["action"],
            round=data.get("round"),
            attempt=data.get("attempt"),
            subjects=tuple(data.get("subjects", charges)),
            charges=charges,
            hash=digest,
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise LedgerCorrupt(f"record {seq} is unreadable") from None


def check_chain(
    connection: sqlite3.Connection, scratch: sqlite3.Connection, kept: Head | None
) -> Head:
    """Replay the chain into the empty ``scratch`` and compare the accounts; the last record.

    Raises ``LedgerCorrupt`` naming the first thing that is wrong.
    """
    (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        raise LedgerCorrupt(f"SQLite finds {state}")
    last = Head(seq=-1, hash=_NO_HASH)
    for seq, body, digest in connection.execute("SELECT seq, body, hash FROM records ORDER BY seq"):
        if seq != last.seq + 1:
            raise LedgerCorrupt(f"record {last.seq + 1} is missing")
        if not isinstance(body, str) or digest != _hash(seq, last.hash, body):
            raise LedgerCorrupt(f"record {seq} breaks the chain: edited, moved, or one was lost")
        last = Head(seq=seq, hash=digest)
        if kept is not None and seq == kept.seq and digest != kept.hash:
            raise LedgerCorrupt(f"record {seq} is not the one whose hash was kept")
        parse(seq, body, digest)
        try:
            _fold(scratch, loads(body))
        except (sqlite3.IntegrityError, KeyError, TypeError, ValueError) as error:
            raise LedgerCorrupt(f"record {seq} contradicts those before it ({error})") from error
    if last.seq < 0:
        raise LedgerCorrupt("no record is left")
    if kept is not None and kept.seq > last.seq:
        raise LedgerCorrupt(
            f"ends at record {last.seq}, record {kept.seq} was kept: truncated, or an older copy"
        )
    for query in _FOLDED:
        for held, said in zip_longest(connection.execute(query), scratch.execute(query)):
            if held != said:
                raise LedgerCorrupt(f"the accounts hold {held}, the records say {said}")
    return last


def make_tables(connection: sqlite3.Connection) -> None:
    """The records and the accounts, empty."""
    for statement in _TABLES.split(";"):
        connection.execute(statement)


def _hash(seq: int, previous: bytes, body: str) -> bytes:
    return sha256(_LABEL + seq.to_bytes(8, "big") + previous + body.encode()).digest()


def head_of(connection: sqlite3.Connection) -> Head:
    """The last record; ``seq`` is -1 where there is none."""
    row = connection.execute("SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1").fetchone()
    return Head(seq=row[0], hash=row[1]) if row else Head(seq=-1, hash=_NO_HASH)


def append(connection: sqlite3.Connection, data: dict[str, Any]) -> None:
    """Add one record to the chain and to the accounts, inside the caller's transaction."""
    body = dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    last = head_of(connection)
    digest = _hash(last.seq + 1, last.hash, body)
    connection.execute("INSERT INTO records VALUES (?, ?, ?)", (last.seq + 1, body, digest))
    _fold(connection, data)


def _fold(connection: sqlite3.Connection, data: dict[str, Any]) -> None:
    """What one record does to the accounts; the only code that changes them."""
    key = (data.get("round"), data.get("attempt"))
    match data["action"]:
        case "create":
            return
        case "reserve":
            for text, subjects in data["charges"]:
                number = _number(connection, text)
                connection.executemany(
                    "INSERT INTO charges VALUES (?, ?, ?, ?, 'open')",
                    [(subject, *key, number) for subject in subjects],
                )
                _count(connection, text, subjects, 1)
        case "commit":
            _move(connection, data["subjects"], key, "committed")
        case "abort":
            for subject in data["subjects"]:
                (text,) = connection.execute(
                    "SELECT json FROM charges JOIN events ON id = event"
                    " WHERE subject = ? AND round = ? AND attempt = ?",
                    (subject, *key),
                ).fetchone()
                _count(connection, text, [subject], -1)
            _move(connection, data["subjects"], key, "aborted")
        case action:
            raise ValueError(f"unknown action {action!r}")


def _number(connection: sqlite3.Connection, text: str) -> int:
    """The number that stands for an event in this file."""
    connection.execute("INSERT INTO events (json) VALUES (?) ON CONFLICT DO NOTHING", (text,))
    (number,) = connection.execute("SELECT id FROM events WHERE json = ?", (text,)).fetchone()
    return int(number)


def _count(connection: sqlite3.Connection, text: str, subjects: list[str], sign: int) -> None:
    event = from_json(text)
    if event.steps:
        number = _number(connection, event.one_step().to_json())
        connection.executemany(
            "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (subject, event)"
            " DO UPDATE SET steps = steps + excluded.steps",
            [(subject, number, sign * event.steps) for subject in subjects],
        )


def _move(
    connection: sqlite3.Connection, subjects: list[str], key: tuple[Any, Any], state: str
) -> None:
    moved = connection.executemany(
        "UPDATE charges SET state = ? WHERE subject = ? AND round = ? AND attempt = ?"
        " AND state = 'open'",
        [(state, subject, *key) for subject in subjects],
    ).rowcount
    if moved != len(subjects):
        raise ValueError(f"{len(subjects)} reservations to close, {moved} are open")
