"""The programs of ``examples`` for ranks run under torchrun."""

import json
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
    # with plain DDP as with ours. That every rank came to its end is in what rank 0 prints: it is
    # taken over all of them.
    return done.stdout


def test_houses_train() -> None:
    out = torchrun(6, Path("examples") / "houses" / "train.py")
    found = re.fullmatch(r"3 houses, 60 steps: accuracy ([\d.]+)\n", out)
    assert found is not None, out
    assert float(found[1]) > 0.9


@pytest.mark.parametrize(("model", "steps"), [("softmax", 60), ("gpt", 2)])
def test_peers_train_as_plain_ddp_does_and_as_one_party_with_all_data(
    model: str, steps: int
) -> None:
    out = torchrun(
        4, Path("examples") / "ddp" / "train.py", "--model", model, f"--steps={steps}", "--json"
    )
    found = json.loads(out)
    assert found["losses_apart"] < 1e-5  # of losses of 0.3 and 7
    assert found["secure_accuracy"] == pytest.approx(found["plain_accuracy"], abs=0.01)
    assert found["secure_accuracy"] == pytest.approx(found["central_accuracy"], abs=0.01)
    assert model == "gpt" or found["secure_accuracy"] > 0.9


def test_two_peers_are_refused_in_one_line() -> None:
    """Of two, each has the other's gradient."""
    done = subprocess.run(
        [sys.executable, "examples/ddp/train.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "3 ranks or more" in done.stderr.splitlines()[-1]
