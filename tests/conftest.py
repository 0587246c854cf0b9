"""One thread a process, and no word to anybody: read when torch, Flower or Ray are imported."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run in as many processes as cores
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A fresh folder, in memory where there is such a place: for files that are synced often."""
    memory = Path("/dev/shm")  # noqa: S108  # nothing there is reused, and its name is random
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)
