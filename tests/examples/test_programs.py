"""The programs of ``examples``, run small: what they print is what they claim."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, f"examples/{name}/train.py", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def said(name: str, *words: str, **environment: str) -> dict[str, Any]:
    """What the program prints with --json, and nothing beside it."""
    done = run(name, *words, "--json", **environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["linear_regression"])
def test_help_has_an_example_to_copy(name: str) -> None:
    done = run(name, "--help")
    assert f"python examples/{name}/train.py --" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("clients", ["2", "10"])
@pytest.mark.parametrize("data", ["diabetes", "synthetic"])
def test_least_squares_are_off_by_rounding_alone(data: str, clients: str) -> None:
    """By no more than the bounds, which are derived beside the code and far below any weight."""
    found = said("linear_regression", "--data", data, "--clients", clients, "--rounds", "10")
    for way in ("descent", "solution"):
        kept = found[way]
        assert kept["secure_off"] <= kept["bound"] < 1e-4
        assert kept["secure_r2"] == pytest.approx(kept["central_r2"], abs=1e-3)
        assert kept["secure_r2"] == pytest.approx(kept["plain_r2"], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "words", "why"),
    [
        ("linear_regression", ["--clients", "1"], "'--clients': 1 is not in"),
        ("linear_regression", ["--learning-rate", "1"], "where descent diverges"),
        ("linear_regression", ["--learning-rate", "0"], "--learning-rate"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name: str, words: list[str], why: str) -> None:
    done = run(name, *words)
    assert done.returncode != 0
    assert why in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
