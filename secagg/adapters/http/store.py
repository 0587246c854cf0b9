"""All that a server keeps, in one SQLite file: who may join, which sums there were, and models.

Tokens are 32 random bytes each, so a plain SHA-256 of them tells nothing; nobody could try them
all. A slow hash is for what people choose.
"""

import hashlib
import os
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from protocols.entropy import system
from secagg.errors import InputError, RunError

TOKEN_SIZE: Final = 32  # bytes
_VERSION: Final = 1  # PRAGMA user_version
_OURS: Final = 0x5345_4147  # PRAGMA application_id: "SEAG"
_SCHEMA: Final = (
    "CREATE TABLE nodes (node INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, "
    "token BLOB UNIQUE) STRICT",
    "CREATE TABLE sums (number INTEGER PRIMARY KEY AUTOINCREMENT, purpose TEXT NOT NULL, "
    "began TEXT NOT NULL, ended TEXT, asked INTEGER NOT NULL, survivors INTEGER, outcome TEXT) "
    "STRICT",
    "CREATE TABLE models (purpose TEXT PRIMARY KEY, sums INTEGER NOT NULL, model BLOB NOT NULL) "
    "STRICT",
)


class Member(NamedTuple):
    """A node by its number, the name that the operator gave it, and whether it may join."""

    node: int
    name: str
    joins: bool


class Store:
    """The file; for threads. Made where it is missing, for its owner alone.

    Raises:
      RunError: it cannot be opened, read or written, or is another program's.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._asks = path, threading.Lock(), threading.Lock()
        try:
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self._file, self._reads = (
                sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
                for _ in range(2)
            )
            self._open()
        except (OSError, ValueError, sqlite3.Error) as error:
            raise RunError(f"cannot keep the server's state in {path}: {error}") from None

    def _open(self) -> None:
        self._file.execute("BEGIN IMMEDIATE")  # nothing of a file that is not ours is changed
        try:
            (ours,) = self._file.execute("PRAGMA application_id").fetchone()
            (version,) = self._file.execute("PRAGMA user_version").fetchone()
            (tables,) = self._file.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if tables and (ours, version) != (_OURS, _VERSION):
                raise ValueError("it is another program's, or of another version")
            if not tables:
                for table in _SCHEMA:
                    self._file.execute(table)
                self._file.execute(f"PRAGMA application_id = {_OURS}")
                self._file.execute(f"PRAGMA user_version = {_VERSION}")
        finally:
            self._file.execute("COMMIT")
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = FULL")

    def _do(self, statement: str, *values: Any) -> list[Any]:
        try:
            with self._lock:
                return self._file.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise RunError(f"cannot keep the server's state in {self._path}: {error}") from None

    # Who may join

    def invite(self, name: str) -> str:
        """A token for a node, new or known; one that it had before is void from now on.

        Raises:
          InputError: the name is empty, too long, or no printable word.
        """
        if not (name.isascii() and name.isprintable() and 1 <= len(name) <= 64):
            raise InputError(f"{name!r:.80} is no name: 1 to 64 printable ASCII characters")
        token = system(TOKEN_SIZE).hex()
        self._do(
            "INSERT INTO nodes (name, token) VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET token = excluded.token",
            *(name, _hash(token)),
        )
        return token

    def revoke(self, name: str) -> None:
        """Make a node's token void.

        Raises:
          InputError: no node has that name.
        """
        if not self._do("UPDATE nodes SET token = NULL WHERE name = ? RETURNING node", name):
            raise InputError(f"no node is called {name!r:.80}")

    def members(self) -> list[Member]:
        """Everybody who was ever invited."""
        rows = self._do("SELECT node, name, token IS NOT NULL FROM nodes ORDER BY node")
        return [Member(node, name, bool(joins)) for node, name, joins in rows]

    def member(self, token: str) -> Member | None:
        """The node of a token. Found by its hash: how long that takes says nothing of a token."""
        wanted = "SELECT node, name FROM nodes WHERE token = ?"
        try:
            with self._asks:  # of a connection of its own: no call waits until a model is written
                row = self._reads.execute(wanted, (_hash(token),)).fetchone()
        except sqlite3.Error as error:
            raise RunError(f"cannot read the server's state in {self._path}: {error}") from None
        return Member(row[0], row[1], True) if row else None

    # Sums

    def begin(self, purpose: str, asked: Sequence[int]) -> int:
        """Note that a sum began; its number."""
        rows = self._do(
            "INSERT INTO sums (purpose, began, asked) VALUES (?, ?, ?) RETURNING number",
            *(purpose, _now(), len(asked)),
        )
        return int(rows[0][0])

    def end(self, number: int, outcome: str, survivors: int = 0) -> None:
        """Note what came of it."""
        self._do(
            "UPDATE sums SET ended = ?, outcome = ?, survivors = ? WHERE number = ?",
            *(_now(), outcome, survivors, number),
        )

    def give_up(self) -> int:
        """End the sums that were under way when the last server of this file ended; how many."""
        return len(
            self._do(
                "UPDATE sums SET ended = ?, outcome = 'ended by a restart', survivors = 0 "
                "WHERE ended IS NULL RETURNING number",
                _now(),
            )
        )

    def model(self, purpose: str) -> tuple[int, bytes] | None:
        """The model of a purpose, and how many sums made it."""
        rows = self._do("SELECT sums, model FROM models WHERE purpose = ?", purpose)
        return (rows[0][0], rows[0][1]) if rows else None

    def keep(self, purpose: str, sums: int, model: bytes) -> None:
        """Put a model in the place of the last one."""
        self._do("INSERT OR REPLACE INTO models VALUES (?, ?, ?)", purpose, sums, model)

    def close(self) -> None:
        self._reads.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _hash(token: str) -> bytes:
    return hashlib.sha256(b"secagg http token\0" + token.encode()).digest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
