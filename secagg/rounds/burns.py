"""Burn records: which stages a party has answered, and for which request.

A restored copy of a client's state would answer a second request, and two
answers open that client's peers. So every answer is written down here first,
in a file of its own that does not travel with the state. On a host that rolls
this file back too, the protection is gone.
"""

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self

from secagg.errors import RunError


class BurnFile:
    """A ``protocols.burn.Burn`` over SQLite, safe for several processes.

    Each answer is one insert with a unique (session, stage), on disk before the
    call returns. Use as a context manager, or ``close`` it.

    Args:
      path: of the file; it is made where there is none.

    Raises:
      RunError: the file cannot be opened or written; no answer may leave then.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._file = sqlite3.connect(self._path, isolation_level=None, timeout=30)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS burnt (session BLOB, stage INTEGER, "
                "request BLOB NOT NULL, PRIMARY KEY (session, stage)) STRICT, WITHOUT ROWID"
            )
            (synchronous,) = self._file.execute("PRAGMA synchronous").fetchone()
        except sqlite3.Error as error:
            raise RunError(f"cannot keep burn records in {path}: {error}") from error
        if synchronous != 2:
            raise RunError(f"cannot keep burn records in {path}: its disk does not sync")

    def __call__(self, session: bytes, stage: int, request: bytes) -> bool:
        """True if (session, stage) was free and now is taken, or was taken for this request."""
        try:
            self._file.execute(
                "INSERT INTO burnt VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (session, stage, request),
            )
            (stored,) = self._file.execute(
                "SELECT request FROM burnt WHERE session = ? AND stage = ?", (session, stage)
            ).fetchone()
        except sqlite3.Error as error:
            raise RunError(f"cannot keep burn records in {self._path}: {error}") from error
        return bool(stored == request)

    def close(self) -> None:
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


class MemoryBurn:
    """A ``protocols.burn.Burn`` for parties that end with this process: nothing is kept."""

    def __init__(self) -> None:
        self._burnt: dict[tuple[bytes, int], bytes] = {}

    def __call__(self, session: bytes, stage: int, request: bytes) -> bool:
        """True if (session, stage) was free and now is taken, or was taken for this request."""
        return self._burnt.setdefault((session, stage), request) == request
