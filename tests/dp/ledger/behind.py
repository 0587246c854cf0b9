"""Behind a ledger's back: edits of its file, a chain computed anew, other processes."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from dp.ledger.records import _hash


def raw(path: Path, *statements: str) -> None:
    """Change the file behind the ledger's back."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def rechain(path: Path) -> None:
    """What a forger does: compute every hash anew."""
    connection = sqlite3.connect(path, isolation_level=None)
    last = bytes(32)
    for seq, body in connection.execute("SELECT seq, body FROM records ORDER BY seq").fetchall():
        last = _hash(seq, last, body)
        connection.execute("UPDATE records SET hash = ? WHERE seq = ?", (last, seq))
    connection.close()


def in_child(work: Callable[[], int | None]) -> int:
    """Run ``work`` in a forked process; it ends with what that returns, for ``os.waitpid``."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            status = work() or 0
        finally:
            os._exit(status)
    return child
