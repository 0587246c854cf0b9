"""The programs of ``examples`` for ranks run under torchrun."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # 20 s each: torch is imported in five processes

ROOT = Path(__file__).parents[3]


def torchrun(ranks: int, *words: str | Path) -> str:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]  # a free port each time
    done = subprocess.run(
        [*run, "--nproc-per-node", str(ranks), *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # Not its exit code: gloo of torch 2.13 aborts a process in three that has ended its training,
    # with plain DDP as with ours.
    return done.stdout


@pytest.mark.parametrize(
    ("example", "ranks", "says"),
    [("ddp", 4, "4 parties, 60 steps"), ("houses", 6, "3 houses, 60 steps")],
)
def test_an_example_trains(example: str, ranks: int, says: str) -> None:
    out = torchrun(ranks, Path("examples") / example / "train.py")
    found = re.fullmatch(rf"{says}: accuracy ([\d.]+)\n", out)
    assert found is not None, out
    assert float(found[1]) > 0.9
