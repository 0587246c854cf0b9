"""One SQLite file that forgets nothing it has promised, and says plainly when it cannot.

Every connection is set to a write-ahead log that is synced at each commit, and reads both
settings back. SQLite's errors become ours, with the path before them.
"""

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Final

from dp.errors import LedgerBusy, LedgerCorrupt, LedgerError

_CODES: Final[dict[int, tuple[type[LedgerError], str]]] = {
    sqlite3.SQLITE_BUSY: (LedgerBusy, "another process holds it; try again"),
    sqlite3.SQLITE_LOCKED: (LedgerBusy, "another process holds it; try again"),
    sqlite3.SQLITE_FULL: (LedgerError, "the disk is full and nothing was written; make room"),
    sqlite3.SQLITE_READONLY: (LedgerError, "the file is read-only; mend its rights"),
    sqlite3.SQLITE_CANTOPEN: (LedgerError, "the file or its folder cannot be opened for writing"),
    sqlite3.SQLITE_IOERR: (LedgerError, "the disk fails; treat what was being written as charged"),
    sqlite3.SQLITE_ERROR: (LedgerCorrupt, "its tables are not those of a ledger"),
    sqlite3.SQLITE_CONSTRAINT: (LedgerCorrupt, "its accounts contradict each other"),
    sqlite3.SQLITE_CORRUPT: (LedgerCorrupt, "the file is damaged"),
    sqlite3.SQLITE_NOTADB: (LedgerCorrupt, "is not a SQLite file"),
}
_MEND: Final = "; charge nothing to it, restore a copy that verifies"


class File:
    """A connection to an existing database file, of one process and thread."""

    def __init__(
        self, path: str | PathLike[str], timeout: float, *, read_only: bool = False
    ) -> None:
        """Connect; nothing is read, and nothing made, before the first statement.

        With ``read_only`` no byte of the file, or beside it, is ever written.
        """
        self.path = Path(path)
        self.read_only = read_only
        self._process = os.getpid()
        self._connection: sqlite3.Connection | None = None
        self._still: tuple[int, int, int] | None = None
        mode = "rw"
        if read_only:
            # Without a log the file is all there is, and SQLite needs no lock or index beside it.
            beside = os.path.realpath(self.path)
            log, index = Path(f"{beside}-wal"), Path(f"{beside}-shm")
            mode = "ro&readonly_shm=1"
            if not (log.exists() and log.stat().st_size):
                mode, self._still = "ro&immutable=1", self._stamp()
            elif not index.exists():
                raise LedgerError(
                    f"{log} holds what is not in {self.path} yet, and {index.name} is missing: "
                    "copy both files and open the copy once without read_only"
                )
        before = _look(self.path)
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        with self.translated():
            self._connection = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None)
            _harden(self._connection)
        if _look(self.path) != before:
            self.close()
            raise LedgerBusy(f"{self.path} was replaced while it was opened; open it anew")
        # SQLite names them after the file itself, whatever link leads there.
        self._beside = [Path(f"{os.path.realpath(self.path)}{end}") for end in ("-wal", "-shm")]
        self._places = {self.path: before}

    @property
    def connection(self) -> sqlite3.Connection:
        """Raises ``LedgerError`` after ``close`` and after a fork."""
        if self._connection is None:
            raise LedgerError(f"the ledger {self.path} is closed; open it again")
        if os.getpid() != self._process:
            raise LedgerError(f"the ledger {self.path} was opened before a fork; open it anew")
        return self._connection

    @contextmanager
    def translated(self) -> Iterator[None]:
        """SQLite's errors as ours, and the path before what is wrong with the file."""
        try:
            yield
        except LedgerCorrupt as error:
            raise LedgerCorrupt(f"{self.path}: {error}{_MEND}") from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extended part
            kind, what = _CODES.get(code, (LedgerError, str(error)))
            if "Could not decode to UTF-8" in str(error):
                kind, what = LedgerCorrupt, "holds text that is no UTF-8"
            mend = _MEND if kind is LedgerCorrupt else ""
            raise kind(f"{self.path}: {what}{mend}") from error
        except UnicodeDecodeError as error:  # of SQLite's own message, which quotes the file
            raise LedgerCorrupt(f"{self.path}: holds text that is no UTF-8{_MEND}") from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Alone with the file; on disk when it ends well, undone when not."""
        with self.translated():
            connection = self.connection
            if self.read_only:
                raise LedgerError(f"{self.path} was opened with read_only, so nothing was written")
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._check_places("nothing was written")
                if os.stat(self.path).st_nlink > 1:
                    raise LedgerError(
                        f"{self.path} has a second name, a hard link: whoever opens it by that "
                        "one keeps another log, and charges get lost; remove one of the two"
                    )
                yield connection
                connection.execute("COMMIT")
                self._check_places("treat what was being written as charged")
            except BaseException:
                with suppress(sqlite3.Error):  # the first error is the one to tell
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """One state of the file for several reads, whatever others write meanwhile."""
        with self.translated():
            connection = self.connection
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                if self._still is not None and self._still != self._stamp():
                    raise LedgerBusy(f"{self.path} was written while it was read; open it anew")

    def make_durable(self) -> None:
        """Write-ahead log, synced at every commit: asserted by reading it back."""
        connection = self.connection
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = FULL")
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        if (mode, level) != ("wal", 2):
            raise LedgerError(
                f"{self.path}: SQLite gives journal {mode!r} and synchronous {level}, not "
                "'wal' and 2; without them a power cut forgets charges. Use a local disk"
            )
        # From the first read to ``close`` SQLite keeps both files beside it, and never changes them
        # for others: whoever finds another there writes into what nobody else reads.
        with self.snapshot():
            connection.execute("PRAGMA page_count").fetchone()
            self._places |= {path: _look(path) for path in self._beside}

    def checkpoint(self) -> None:
        """Bring the write-ahead log into the file and empty it, unless somebody reads in it."""
        with self.translated():
            if self.read_only:
                raise LedgerError(f"{self.path} was opened with read_only, so nothing was written")
            self._check_places("nothing was written")
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    @property
    def has_log(self) -> bool:
        """Whether the log beside it holds anything: the file alone is then not the ledger."""
        try:
            return self._beside[0].stat().st_size > 0
        except FileNotFoundError:
            return False
        except OSError as error:
            raise LedgerError(f"{self._beside[0]} cannot be read: {error.strerror}") from error

    def check_size(self) -> None:
        """Raise ``LedgerCorrupt`` where bytes follow the last page; inside ``snapshot``."""
        (pages,) = self.connection.execute("PRAGMA page_count").fetchone()
        (size,) = self.connection.execute("PRAGMA page_size").fetchone()
        if (more := self._stamp()[1] - pages * size) > 0:
            raise LedgerCorrupt(f"{more} bytes follow its last page, which no ledger wrote")

    def _check_places(self, then: str) -> None:
        """Refuse files moved away, or put back from a copy: they take charges nobody sees."""
        for path, place in self._places.items():
            if place is None or _look(path) != place:
                raise LedgerError(
                    f"{path} was moved, removed or replaced while {self.path.name} was open; "
                    f"{then}, open it anew"
                )

    def sync_folder(self) -> None:
        """Put the name of a new file on disk; SQLite syncs only what is in it."""
        try:
            folder = os.open(self.path.absolute().parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise LedgerError(f"cannot sync the folder of {self.path}: {error.strerror}") from error

    @property
    def is_void(self) -> bool:
        """Whether the file has no byte: nothing was ever written there."""
        return self._stamp()[1] == 0

    def close(self) -> None:
        """Closing twice is harmless."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _stamp(self) -> tuple[int, int, int]:
        """Differs once the file was written; read without a lock, it must not be."""
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise LedgerError(f"{self.path} cannot be read: {error.strerror}") from error
        return found.st_ino, found.st_size, found.st_mtime_ns


def _look(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _harden(connection: sqlite3.Connection) -> None:
    """Nothing that a file brings along runs, where Python can say so; its schema is checked too."""
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW, False)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
