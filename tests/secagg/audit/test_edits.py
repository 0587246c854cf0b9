"""Every edit of a signed ledger's file is found and named, and ``secagg audit`` ends with 3.

One value of one row, one row less, one object more or less in the schema, one page cut or
emptied: each alone, on a fresh copy. Whoever edits is not hindered by constraints.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dp.accounting.events import GaussianEvent, PoissonSampling
from dp.errors import LedgerCorrupt
from dp.ledger.ledger import Budget, HeadSigner, Ledger
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg.audit.report import SEAL_LABEL, audit, seal_of, verify

KEY = SigningKey(Secret(bytes(range(32))))
SEAL = HeadSigner(
    verify=seal_of(KEY.public).verify, sign=lambda message: KEY.sign(SEAL_LABEL, message)
)
PAGE = 4096
SCHEMA = (
    "CREATE TABLE notes (line TEXT)",
    "CREATE TABLE sums (total INTEGER)",
    "CREATE INDEX quick ON charges (state)",
    "CREATE UNIQUE INDEX one ON spent (subject, book, event)",
    "CREATE VIEW people AS SELECT name FROM subjects",
    "CREATE TRIGGER refunds AFTER INSERT ON spent BEGIN UPDATE spent SET held = 0; END",
    "CREATE TRIGGER deletes AFTER INSERT ON records BEGIN DELETE FROM charges; END",
    "CREATE TRIGGER signs AFTER UPDATE ON seal BEGIN DELETE FROM spent; END",
    "ALTER TABLE spent ADD COLUMN more INTEGER",
    "ALTER TABLE charges RENAME COLUMN minimum TO least",
    "ALTER TABLE subjects RENAME TO people",
    *(
        f"DROP TABLE {name}"
        for name in ("records", "seal", "events", "subjects", "charges", "spent")
    ),
    "PRAGMA application_id = 0",
    *(f"PRAGMA user_version = {version}" for version in (-1, 0, 1, 2)),
    "ANALYZE",
    "INSERT INTO events VALUES (99, 'x', 99, 1)",
    "INSERT INTO subjects VALUES (99, 'zed', NULL, NULL)",
    "INSERT INTO spent VALUES (1, 1, 99, 0, 0)",
    "INSERT INTO records VALUES (99, '{}', x'00')",
    "UPDATE spent SET held = 'abc'",
    "UPDATE spent SET held = held + 0.5",
    "UPDATE records SET body = CAST(body AS BLOB) WHERE seq = 1",
    "UPDATE records SET hash = hex(hash) WHERE seq = 2",
    "UPDATE subjects SET name = CAST(name AS BLOB)",
)
_OF = ("DELETE FROM {} WHERE {}", "UPDATE {} SET {} = ? WHERE {}", "SELECT * FROM {}")
Edit = Callable[[Path], None]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "ledger"
    with Ledger.create(path, Budget(epsilon=3, delta=1e-5), seal=SEAL) as book:
        book.set_budgets({"eve": Budget(epsilon=2, delta=1e-6)})
        for number in range(5):
            event = GaussianEvent(noise_multiplier=2 + number, sampling=PoissonSampling(rate=0.05))
            book.reserve(number, {"ann": event, "bob": event, "eve": event}, minimum_survivors=2)
            if number < 3:
                book.commit(number, ["ann", "bob", "eve"], survivors=3)
        book.abort(4, ["bob"])
    return path


def execute(statement: str, *given: object) -> Edit:
    def edit(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(statement, given)

    return edit


def cut(pages: int) -> Edit:
    return lambda path: path.write_bytes(path.read_bytes()[: pages * PAGE]) and None


def emptied(page: int) -> Edit:
    def edit(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        path.write_bytes(content)

    return edit


def appended(tail: bytes) -> Edit:
    return lambda path: path.write_bytes(path.read_bytes() + tail) and None


def another(value: object) -> object:
    match value:
        case None:
            return 1
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:]
        case str():
            return value[:-1] + ("x" if value[-1] != "x" else "y")
        case _:
            return value + 1000  # type: ignore[operator] - int or float, as SQLite gives them


def edits(path: Path) -> Iterator[tuple[str, Edit]]:
    """All of them, by what they do."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [
            row[0]
            for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        for table in tables:
            found = connection.execute(_OF[2].format(table))
            columns = [about[0] for about in found.description]
            for row in found.fetchall():
                where = " AND ".join(f"{column} IS ?" for column in columns)
                yield f"{table} less {row}", execute(_OF[0].format(table, where), *row)
                for column, value in zip(columns, row, strict=True):
                    change = _OF[1].format(table, column, where)
                    new = another(value)
                    yield f"{table}.{column} {value!r:.30}", execute(change, new, *row)
    for statement in SCHEMA:
        yield statement, execute(statement)
    for tail in (b"x", bytes(PAGE), b"x" * 3 * PAGE):
        yield f"{len(tail)} bytes of {tail[:1]!r} appended", appended(tail)
    for page in range(1, path.stat().st_size // PAGE):
        yield f"cut to {page} pages", cut(page)
        yield f"page {page} emptied", emptied(page)


def found_by(look: Callable[..., object], path: Path) -> str:
    """What is said of the file; nothing where nothing is found."""
    try:
        look(path, seal=SEAL)
    except LedgerCorrupt as error:
        return str(error)
    return ""


def tried(sound: Path, folder: Path, edit: Edit) -> Path:
    path = folder / "edited"
    shutil.copy(sound, path)
    edit(path)
    return path


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 8))]
)
def test_each_edit_is_found_and_named(part: int, sound: Path, tmp_path: Path) -> None:
    verify(sound, seal=SEAL)
    every = list(edits(sound))
    assert len(every) >= 200
    for name, edit in every[part::8]:
        path = tried(sound, tmp_path, edit)
        for look in (verify, audit):
            with pytest.raises(LedgerCorrupt) as found:  # or the edit `name` was not seen
                look(path, seal=SEAL)
            assert str(path) in str(found.value), name
            assert len(str(found.value)) > len(str(path)) + 10, name


def test_the_command_ends_with_3_and_one_line(
    secagg: Callable[..., tuple[int, str, str]], sound: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY.public)
    every = list(edits(sound))
    for name, edit in every[::40]:
        path = tried(sound, tmp_path, edit)
        for option in ((), ("--verify",)):
            code, _, err = secagg("audit", path, "--head-key", key, *option)
            assert code == 3, name
            assert len(err.strip().splitlines()) == 1, name


def test_a_schema_whose_text_is_no_unicode_ends_with_3_too(
    secagg: Callable[..., tuple[int, str, str]], sound: Path, tmp_path: Path
) -> None:
    whole = sound.read_bytes()
    path = tmp_path / "ledger"
    path.write_bytes(whole.replace(b"CREATE TABLE spent", b"CREATE\xf4TABLE spent", 1))
    assert path.read_bytes() != whole
    code, _, err = secagg("ledger", "verify", path)
    assert code == 3
    assert len(err.strip().splitlines()) == 1
