"""The ledger's records: an append-only hash chain, and what it adds up to.

A record is canonical JSON (keys sorted, no blanks), one a change of the books:

    hash = SHA-256(label | seq, 8 bytes | hash of the record before, 32 bytes | body)

The file holds these tables, and nothing else: ``check_schema``. The accounts (all other
tables but ``seal``) change through ``_fold`` alone, when a
record is written and again when ``check_chain`` replays the chain: they say what the
records say, down to the numbers that stand for names.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from hashlib import sha256
from itertools import zip_longest
from json import dumps, loads
from typing import Any, Final

from dp.accounting.events import Event, from_json
from dp.errors import InputError, LedgerCorrupt
from dp.ledger.description import SystemDescription

_LABEL: Final = b"dp.ledger record v1"
_NO_HASH: Final = bytes(32)

RECORDS: Final = (
    "CREATE TABLE records (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash BLOB NOT NULL)"
)
# book: 0 is the server's, 1 the release's. held: what admission counts. realised: what left.
ACCOUNTS: Final = """
CREATE TABLE seal (
  only INTEGER PRIMARY KEY CHECK (only = 0), seq INTEGER NOT NULL, signature BLOB NOT NULL
);
CREATE TABLE events (
  id INTEGER PRIMARY KEY, json TEXT NOT NULL UNIQUE, one INTEGER NOT NULL, steps INTEGER NOT NULL
);
CREATE TABLE subjects (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epsilon REAL, delta REAL);
CREATE TABLE charges (
  round INTEGER, attempt INTEGER, subject INTEGER, server INTEGER, release INTEGER,
  minimum INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'committed', 'aborted')),
  survivors INTEGER, real_server INTEGER, real_release INTEGER,
  PRIMARY KEY (round, attempt, subject)
) WITHOUT ROWID;
CREATE TABLE spent (
  subject INTEGER, book INTEGER, event INTEGER,
  held INTEGER NOT NULL, realised INTEGER NOT NULL,
  PRIMARY KEY (subject, book, event)
) WITHOUT ROWID
"""
_KEYS: Final = {  # what a record of each action may say
    "create": {"budget", "keeper", "policy", "sealed", "schema"},
    "migrate": {"schema"},
    "seal": set[str](),
    "state": {"statement"},
    "budget": {"budgets"},
    "reserve": {"round", "attempt", "minimum", "charges"},
    "commit": {"round", "attempt", "subjects", "survivors", "realised", "evidence"},
    "abort": {"round", "attempt", "subjects"},
    "model": {"round", "attempt", "model"},
}
_FOLDED: Final = {  # what verify compares
    "events": "id",
    "subjects": "id",
    "charges": "round, attempt, subject",
    "spent": "subject, book, event",
}

_OBJECTS: Final = "SELECT type, name, tbl_name, sql FROM sqlite_schema"

# JOIN order is fixed, so that a batch costs what it holds and not what the file holds.
_SUBJECTS: Final = (
    "INSERT INTO subjects (name) SELECT value FROM json_each(:names) WHERE true ORDER BY key"
    " ON CONFLICT DO NOTHING"
)
_CHARGE: Final = (
    "INSERT INTO charges SELECT :round, :attempt, s.id, :server, :release, :minimum, 'open',"
    " NULL, NULL, NULL FROM json_each(:names) AS j CROSS JOIN subjects AS s ON name = j.value"
)
_AMONG: Final = (
    "WHERE round = :round AND attempt = :attempt AND subject IN"
    " (SELECT s.id FROM json_each(:names) AS j CROSS JOIN subjects AS s ON name = j.value)"
)
_CLOSE: Final = (
    "UPDATE charges SET state = :state, survivors = :survivors "  # noqa: S608 - text from above
    f"{_AMONG} AND state = 'open'"
)
_REALISE: Final = (
    "UPDATE charges SET real_server = :server, real_release = :release "  # noqa: S608 - likewise
    f"{_AMONG} AND state = 'committed' AND real_server IS NULL AND real_release IS NULL"
)
_COUNT: Final = (
    "INSERT INTO spent SELECT c.subject, :book, e.one, :held * e.steps, :realised * e.steps"
    " FROM json_each(:names) AS j CROSS JOIN subjects AS s ON s.name = j.value"
    " CROSS JOIN charges AS c ON round = :round AND attempt = :attempt AND c.subject = s.id"
    " CROSS JOIN events AS e ON e.id = {column} WHERE true"
    " ON CONFLICT DO UPDATE SET held = held + excluded.held,"
    " realised = realised + excluded.realised"
)


_RELEASED: Final = (
    "SELECT 1 FROM charges WHERE round = ? AND attempt = ? AND state != 'aborted' LIMIT 1"
)
MODEL_DIGEST: Final = 32  # bytes of a SHA-256


class Book(Enum):
    """Against whom an account holds.

    ``SERVER``: the aggregator, who picked the cohort and saw who took part.
    ``RELEASE``: whoever gets the model.
    """

    SERVER = "server"
    RELEASE = "release"

    @property
    def number(self) -> int:
        """What stands for the book in the file."""
        return 0 if self is Book.SERVER else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one release costs one subject in each book; ``None`` where it costs nothing.

    Who is eligible and was not picked is charged in the release book alone.

    Attributes:
      server: against who sees which subjects took part.
      release: against who sees the releases alone.
    """

    server: Event | None = None
    release: Event | None = None

    def __post_init__(self) -> None:
        if not self.events():
            raise InputError("charge holds no event; leave its subject out")
        for event in self.events().values():
            if not isinstance(event, Event):
                raise InputError(f"charge holds {event!r:.80}, must be of dp.accounting.events")

    def events(self) -> dict[Book, Event]:
        """The event of each book that is charged."""
        pairs = ((Book.SERVER, self.server), (Book.RELEASE, self.release))
        return {book: event for book, event in pairs if event is not None}

    def to_json(self) -> list[str | None]:
        """The texts of both events, server first."""
        events = (self.server, self.release)
        return [None if event is None else event.to_json() for event in events]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of the chain. Kept elsewhere, it pins every record up to ``seq``.

    Attributes:
      seq: number of the last record.
      hash: its SHA-256, 32 bytes.
    """

    seq: int
    hash: bytes

    def message(self) -> bytes:
        """What a signature of the head is over."""
        return b"dp.ledger head v1" + self.seq.to_bytes(8, "big") + self.hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One change of the books.

    Attributes:
      seq: its place in the chain, from 0.
      action: "create", "migrate", "seal", "state", "budget", "reserve", "commit", "abort"
        or "model".
      round: the round of a reserve, commit, abort or model, else ``None``.
      attempt: the attempt, likewise.
      subjects: whom it concerns, in the order of the call.
      charges: for "reserve", what each was charged; for "commit", what differed from it.
      data: the whole record, as its JSON says it.
      hash: 32 bytes, over this record and all before it.
    """

    seq: int
    action: str
    round: int | None
    attempt: int | None
    subjects: tuple[str, ...]
    charges: Mapping[str, Charge] = field(default_factory=dict)
    data: Mapping[str, Any] = field(repr=False)
    hash: bytes


def parse(seq: int, body: str, digest: bytes) -> Entry:
    """One row of ``records``; raises ``LedgerCorrupt`` where it is none."""
    try:
        data = loads(body)
        charges: dict[str, Charge] = {}
        for server, release, names in _groups(data):
            charge = charge_of(server, release)
            charges.update(dict.fromkeys(names, charge))
        named = [name for _, _, names in data.get("budgets", ()) for name in names]
        return Entry(
            seq=seq,
            action=data["action"],
            round=data.get("round"),
            attempt=data.get("attempt"),
            subjects=tuple(data.get("subjects", named or charges)),
            charges=charges,
            data=data,
            hash=digest,
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise LedgerCorrupt(f"record {seq} is unreadable") from None


def charge_of(server: str | None, release: str | None) -> Charge:
    """The charge of two JSON texts."""
    return Charge(
        server=None if server is None else from_json(server),
        release=None if release is None else from_json(release),
    )


def _groups(data: Mapping[str, Any]) -> Iterable[tuple[str | None, str | None, list[str]]]:
    """Events and names of a reserve or commit; schema 1 had one event for both books."""
    for group in data.get("charges", ()):
        *texts, names = group
        server, release = texts * 2 if len(texts) == 1 else texts
        yield server, release, names
    for server, release, _, _, names in data.get("realised", ()):
        yield server, release, names


def replay(connection: sqlite3.Connection, into: sqlite3.Connection, kept: Head | None) -> Head:
    """Fold the chain of ``connection`` into the empty accounts of ``into``; the last record.

    Raises ``LedgerCorrupt`` naming the first record that is wrong.
    """
    last, modelled = Head(seq=-1, hash=_NO_HASH), set[tuple[int | None, int | None]]()
    for seq, body, digest in connection.execute("SELECT seq, body, hash FROM records ORDER BY seq"):
        if seq != last.seq + 1:
            raise LedgerCorrupt(f"record {last.seq + 1} is missing")
        if not isinstance(body, str) or digest != _hash(seq, last.hash, body):
            raise LedgerCorrupt(f"record {seq} breaks the chain: edited, moved, or one was lost")
        last = Head(seq=seq, hash=digest)
        if kept is not None and seq == kept.seq and digest != kept.hash:
            raise LedgerCorrupt(f"record {seq} is not the one whose hash was kept")
        record = parse(seq, body, digest)
        _check_text(seq, body, record.data)
        try:
            if (record.action == "create") != (seq == 0):
                raise ValueError("a chain is created once, by its first record")
            _fold(into, record.data)
            key = (record.round, record.attempt)
            if record.action == "model":
                modelled.add(key)
            elif record.action == "abort" and key in modelled:
                raise ValueError("a charge was taken back whose model was released")
        except (sqlite3.IntegrityError, KeyError, TypeError, ValueError) as error:
            raise LedgerCorrupt(f"record {seq} contradicts those before it ({error})") from error
    if last.seq < 0:
        raise LedgerCorrupt("no record is left")
    if kept is not None and kept.seq > last.seq:
        raise LedgerCorrupt(
            f"ends at record {last.seq}, record {kept.seq} was kept: truncated, or an older copy"
        )
    return last


def check_chain(connection: sqlite3.Connection, kept: Head | None) -> Head:
    """Replay the chain into accounts made anew and compare them; the last record.

    Raises ``LedgerCorrupt`` naming the first thing that is wrong.
    """
    check_schema(connection)
    (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if state != "ok":
        raise LedgerCorrupt("the file is damaged: its pages do not fit together")
    with closing(sqlite3.connect("", isolation_level=None)) as scratch:
        scratch.execute("PRAGMA journal_mode = OFF")
        scratch.execute("BEGIN")
        make_tables(scratch)
        last = replay(connection, scratch, kept)
        for table, key in _FOLDED.items():
            query = f"SELECT * FROM {table} ORDER BY {key}"  # noqa: S608 - names from above
            for held, said in zip_longest(connection.execute(query), scratch.execute(query)):
                if held != said:
                    raise LedgerCorrupt(
                        "records and accounts disagree: records were removed or accounts edited; "
                        f"the accounts hold {_in_words(connection, table, held)}; the records say "
                        f"{_in_words(scratch, table, said)}"
                    )
    return last


def _in_words(connection: sqlite3.Connection, table: str, row: tuple[Any, ...] | None) -> str:
    """A row of the accounts as people read it."""
    if row is None:
        return f"nothing more in {table}"
    columns = [item[1] for item in connection.execute(f"PRAGMA table_info({table})")]
    told = dict(zip(columns, row, strict=True))
    if "subject" in told:
        find = "SELECT name FROM subjects WHERE id = ?"
        named = connection.execute(find, (told["subject"],)).fetchone()
        told["subject"] = named[0] if named else told["subject"]
    if "book" in told:
        told["book"] = next((b.value for b in Book if b.number == told["book"]), told["book"])
    return f"in {table} " + ", ".join(f"{name} {value!r:.200}" for name, value in told.items())


def of_action(connection: sqlite3.Connection, action: str) -> Iterator[Entry]:
    """The records of one action, the last first."""
    start = _start(action)
    for row in connection.execute(
        "SELECT seq, body, hash FROM records WHERE substr(body, 1, ?) = ? ORDER BY seq DESC",
        (len(start), start),
    ):
        yield parse(*row)


def _start(action: str) -> str:
    """How the body of such a record begins: its keys are sorted, and this is the first."""
    return f'{{"action":{dumps(action)}'


def statements(connection: sqlite3.Connection) -> Iterator[SystemDescription]:
    """What the keeper stated, the last first."""
    for record in of_action(connection, "state"):
        try:
            yield SystemDescription.from_json(record.data["statement"])
        except (InputError, KeyError):
            raise LedgerCorrupt(f"record {record.seq} holds no statement") from None


def released(connection: sqlite3.Connection, round_number: int, attempt: int) -> bool:
    """Whether anything is charged under a key, and not all of it taken back."""
    found = connection.execute(_RELEASED, (round_number, attempt)).fetchone()
    return found is not None


def make_tables(connection: sqlite3.Connection, *, records: bool = True) -> None:
    """The accounts, empty, and the records unless they stand already."""
    for statement in ((RECORDS,) if records else ()) + tuple(ACCOUNTS.split(";")):
        connection.execute(statement)


@cache
def _schema() -> frozenset[tuple[str, str, str, str | None]]:
    """Every row of ``sqlite_schema`` in a ledger, without where it lies."""
    with closing(sqlite3.connect(":memory:")) as made:
        make_tables(made)
        return frozenset(made.execute(_OBJECTS))


def check_schema(connection: sqlite3.Connection) -> None:
    """Raise ``LedgerCorrupt`` unless the file has our tables and nothing else.

    A trigger runs in the process of whoever writes, and may take back what was written.
    """
    found, ours = list(connection.execute(_OBJECTS)), _schema()
    names = {(kind, name) for kind, name, _, _ in ours}
    for row in found:
        kind, name = row[:2]
        if row not in ours:
            what = "is not as a ledger's" if (kind, name) in names else "is of no ledger"
            raise LedgerCorrupt(f"its {kind} {name!r} {what}")
    for kind, name, _, _ in sorted(ours - set(found), key=str):
        raise LedgerCorrupt(f"its {kind} {name!r} is missing")
    if len(found) != len(ours):
        raise LedgerCorrupt("one of its tables stands there twice")


def check_end(connection: sqlite3.Connection) -> None:
    """What one look shows: the first record, and the last as it follows from the one before.

    Raises ``LedgerCorrupt``. ``check_chain`` reads all of them.
    """
    rows = connection.execute(
        "SELECT seq, body, hash FROM records ORDER BY seq DESC LIMIT 2"
    ).fetchall()
    genesis = genesis_of(connection)
    seq, body, digest = rows[0]
    before = rows[1][2] if len(rows) > 1 else _NO_HASH
    if seq != (rows[1][0] + 1 if len(rows) > 1 else 0):
        raise LedgerCorrupt(f"the record before {seq} is missing")
    if not isinstance(body, str) or digest != _hash(seq, before, body):
        raise LedgerCorrupt(f"record {seq} breaks the chain: edited, moved, or one was lost")
    last = parse(seq, body, digest)
    _check_text(seq, body, last.data)
    seals = connection.execute("SELECT only FROM seal LIMIT 2").fetchall()
    if seals not in ([], [(0,)]):
        raise LedgerCorrupt("carries more than one signature, or one in a wrong place")
    signed = bool(seals)
    if signed and sealed_from(connection) is None:
        raise LedgerCorrupt("carries a signature, and no record says that it is signed")
    if not signed and genesis.data.get("sealed") is True:
        raise LedgerCorrupt("was signed from the start, and its signature was removed")


def holds(connection: sqlite3.Connection, head: Head) -> bool:
    """Whether a record is there as it was written."""
    row = connection.execute("SELECT hash FROM records WHERE seq = ?", (head.seq,)).fetchone()
    return bool(row == (head.hash,))


def _text(data: Mapping[str, Any]) -> str:
    """A record's one text."""
    return dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _check_text(seq: int, body: str, data: Mapping[str, Any]) -> None:
    """Raise ``LedgerCorrupt`` for a second spelling, and for what no record says."""
    try:
        ours = _text(data) == body
    except ValueError:  # NaN, or half a character
        ours = False
    if not ours:
        raise LedgerCorrupt(f"record {seq} is not written as a record is")
    if unknown := data.keys() - _KEYS.get(data["action"], data.keys()) - {"action"}:
        raise LedgerCorrupt(f"record {seq} says {min(unknown)!r:.80}, which no record does")


def _hash(seq: int, previous: bytes, body: str) -> bytes:
    return sha256(_LABEL + seq.to_bytes(8, "big") + previous + body.encode()).digest()


def head_of(connection: sqlite3.Connection) -> Head:
    """The last record; ``seq`` is -1 where there is none."""
    row = connection.execute("SELECT seq, hash FROM records ORDER BY seq DESC LIMIT 1").fetchone()
    return Head(seq=row[0], hash=row[1]) if row else Head(seq=-1, hash=_NO_HASH)


def append(connection: sqlite3.Connection, data: dict[str, Any]) -> Head:
    """Add one record to the chain and to the accounts, inside the caller's transaction."""
    body = _text(data)
    last = head_of(connection)
    head = Head(seq=last.seq + 1, hash=_hash(last.seq + 1, last.hash, body))
    connection.execute("INSERT INTO records VALUES (?, ?, ?)", (head.seq, body, head.hash))
    _fold(connection, data)
    return head


def write_seal(connection: sqlite3.Connection, head: Head, sign: Callable[[bytes], bytes]) -> None:
    """Sign the head; the signature of the one before goes, so that it cannot be cut back to."""
    connection.execute("REPLACE INTO seal VALUES (0, ?, ?)", (head.seq, sign(head.message())))


def genesis_of(connection: sqlite3.Connection) -> Entry:
    """The first record."""
    row = connection.execute("SELECT seq, body, hash FROM records WHERE seq = 0").fetchone()
    if row is None:
        raise LedgerCorrupt("its first record is missing")
    return parse(*row)


def is_sealed(connection: sqlite3.Connection) -> bool:
    """Whether its head is signed, or was from the start."""
    signed = connection.execute("SELECT 1 FROM seal").fetchone()
    return signed is not None or genesis_of(connection).data.get("sealed") is True


def sealed_from(connection: sqlite3.Connection) -> int | None:
    """The first record that was signed when it was written; ``None`` where none says so."""
    if genesis_of(connection).data.get("sealed") is True:
        return 0
    return next((record.seq for record in of_action(connection, "seal")), None)


def check_seal(connection: sqlite3.Connection, verify: Callable[[bytes, bytes], bool]) -> None:
    """Raise ``LedgerCorrupt`` unless the last record is the one that was signed."""
    head = head_of(connection)
    row = connection.execute("SELECT seq, signature FROM seal").fetchone()
    if row is None:
        raise LedgerCorrupt("carries no signature: made without one, or it was removed")
    if row[0] != head.seq:
        raise LedgerCorrupt(f"ends at record {head.seq}, its signature is of record {row[0]}")
    if not isinstance(row[1], bytes) or verify(head.message(), row[1]) is not True:
        raise LedgerCorrupt(
            f"the signature of its head, record {head.seq}, is not good: either the "
            "key is not its signer's or the ledger was changed; compare the key's fingerprint"
        )


def _fold(connection: sqlite3.Connection, data: Mapping[str, Any]) -> None:
    """What one record does to the accounts; the only code that changes them."""
    match data["action"]:
        case "create" | "migrate" | "seal":
            return
        case "state":
            SystemDescription.from_json(data["statement"])
        case "budget":
            for epsilon, delta, names in data["budgets"]:
                given = {"names": dumps(names), "epsilon": epsilon, "delta": delta}
                connection.execute(_SUBJECTS, given)
                _exactly(
                    names,
                    connection.execute(
                        "UPDATE subjects SET epsilon = :epsilon, delta = :delta"
                        " WHERE name IN (SELECT value FROM json_each(:names))",
                        given,
                    ),
                )
        case "reserve":
            for server, release, names in _groups(data):
                batch = _batch(data, names, server=server, release=release, connection=connection)
                connection.execute(_SUBJECTS, batch)
                _exactly(names, connection.execute(_CHARGE, batch))
                _count(connection, batch, held=1, realised=1)
        case "commit":
            _close(connection, data, "committed")
            for server, release, rising, falling, names in data.get("realised", ()):
                batch = _batch(data, names, server=server, release=release, connection=connection)
                _exactly(names, connection.execute(_REALISE, batch))
                _count(connection, batch, held=-1, realised=-1, among=falling)
                _count(connection, batch, held=1, realised=1, among=rising, of="real_")
        case "abort":
            _close(connection, data, "aborted")
            _count(connection, _batch(data, data["subjects"]), held=-1, realised=-1)
        case "model":
            model = bytes.fromhex(data["model"])
            if len(model) != MODEL_DIGEST or model.hex() != data["model"]:
                raise ValueError("a model has a digest of 32 bytes, in 64 lower-case hex digits")
            if not released(connection, data["round"], data["attempt"]):
                raise ValueError("a model came of a round in which nothing is charged")
        case action:
            raise ValueError(f"unknown action {action!r}")


def _batch(
    data: Mapping[str, Any],
    names: list[str],
    *,
    connection: sqlite3.Connection | None = None,
    **texts: str | None,
) -> dict[str, Any]:
    """What the statements above are given; events as the numbers that stand for them."""
    numbers = {
        column: None if text is None or connection is None else _number(connection, text)
        for column, text in texts.items()
    }
    return {
        "round": data["round"],
        "attempt": data["attempt"],
        "minimum": data.get("minimum", 0),
        "survivors": data.get("survivors"),
        "names": dumps(names),
        **numbers,
    }


def _number(connection: sqlite3.Connection, text: str) -> int:
    """The number that stands for an event in this file."""
    find = "SELECT id FROM events WHERE json = ?"
    row = connection.execute(find, (text,)).fetchone()
    if row is None:
        event = from_json(text)
        one = 0 if event.steps == 1 else _number(connection, event.one_step().to_json())
        connection.execute(
            "INSERT INTO events (json, one, steps) VALUES (?, ?, ?)", (text, one, event.steps)
        )
        connection.execute("UPDATE events SET one = id WHERE json = ? AND one = 0", (text,))
        row = connection.execute(find, (text,)).fetchone()
    return int(row[0])


def _count(
    connection: sqlite3.Connection,
    batch: Mapping[str, Any],
    *,
    held: int,
    realised: int,
    among: Iterable[str] = ("server", "release"),
    of: str = "",
) -> None:
    """Add the steps of a batch in both books; to what admission holds, in those ``among``."""
    for book in Book:
        given = {"book": book.number, "held": held * (book.value in among), "realised": realised}
        connection.execute(_COUNT.format(column=of + book.value), {**batch, **given})


def _close(connection: sqlite3.Connection, data: Mapping[str, Any], state: str) -> None:
    names = data["subjects"]
    _exactly(names, connection.execute(_CLOSE, {**_batch(data, names), "state": state}))


def _exactly(names: list[str], done: sqlite3.Cursor) -> None:
    if done.rowcount != len(names):
        raise ValueError(f"{len(names)} subjects, {done.rowcount} of them fit")
