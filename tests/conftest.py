"""One thread a process: the tests run in as many processes as there are cores."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for child processes


@pytest.fixture
def folder() -> Iterator[Path]:
    """A fresh folder, in memory where there is such a place: for files that are synced often."""
    memory = Path("/dev/shm")  # noqa: S108  # nothing there is reused, and its name is random
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)
