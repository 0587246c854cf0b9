"""The programs of ``examples``, run small: what they print is what they claim."""

import gzip
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn  # noqa: F401  # what the programs import, so that --without leaves them out
import torch  # noqa: F401  # the same

import secagg
from secagg.training.data import FASHION, FASHION_ROWS

ROOT = Path(__file__).parents[2]
ROUNDS = ["--rounds", "3", "--warmup", "2"]


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


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder as ``make data`` makes it, of images whose brightest band of rows is their class."""
    root = tmp_path_factory.mktemp("data")
    (root / FASHION).mkdir(parents=True)
    for part, rows in FASHION_ROWS.items():
        labels = (np.arange(rows) % 10).astype(np.uint8)
        images = np.zeros((rows, 28, 28), np.uint8)
        images[np.arange(rows), 2 * labels] = 255
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            packed = gzip.compress(head + array.tobytes(), compresslevel=1)
            (root / FASHION / f"{part}-{name}-ubyte.gz").write_bytes(packed)
    return str(root)


@pytest.mark.parametrize("name", ["hospitals", "linear_regression", "softmax_784"])
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


def test_softmax_is_within_a_point_of_plain_and_shows_no_clients_own_accuracy(
    clothes: str, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "run")]
    found = said("softmax_784", *ROUNDS, *out, "--clients", "4", SECAGG_DATA=clothes)
    assert found["secure_accuracy"] == pytest.approx(found["plain_accuracy"], abs=0.01)
    assert found["central_accuracy"] > 0.9
    tests = found["own_tests"]
    assert sum(tests["clients_by_tenth"]) == 4
    assert tests["clients_by_tenth"][round(10 * tests["lowest_tenth"])] > 0
    assert set(tests) == {"accuracy", "clients_by_tenth", "lowest_tenth"}


@pytest.mark.slow
def test_softmax_stops_at_its_target(clothes: str, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run"), "--stop-at", "0.01"]
    assert said("softmax_784", *ROUNDS, *out, SECAGG_DATA=clothes)["rounds"] == 1


@pytest.mark.slow
def test_softmax_that_was_killed_goes_on_and_only_with_the_same_settings(
    clothes: str, tmp_path: Path
) -> None:
    words = ["--rounds", "12", "--out", str(tmp_path / "run")]
    begun = subprocess.Popen(
        [sys.executable, "examples/softmax_784/train.py", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SECAGG_DATA": clothes},
        stdout=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while not (tmp_path / "run" / "model.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.05)
    begun.kill()
    begun.wait()
    done = len(secagg.load_run(tmp_path / "run").rounds)
    assert done >= 1
    for changed, why in (
        (["--alpha", "0.5"], "data"),
        (["--seed", "1"], "data"),
        (["--clients", "6"], "has 5 clients, not 6"),
        (["--server-learning-rate", "0.5"], "learning_rate=0.5"),
        (["--warmup", "3"], "by round"),
        (["--rounds", "9"], "has rounds 12, not 9"),
    ):
        refused = run("softmax_784", *words, "--resume", *changed, SECAGG_DATA=clothes)
        assert refused.returncode != 0
        assert why in refused.stderr
        assert "Traceback" not in refused.stderr
    assert len(secagg.load_run(tmp_path / "run").rounds) == done
    assert said("softmax_784", *words, "--resume", SECAGG_DATA=clothes)["rounds"] == 12


def test_every_hospital_has_a_ledger_and_the_audit_finds_four_of_one_budget(tmp_path: Path) -> None:
    found = said("hospitals", "--out", str(tmp_path / "study"))
    accuracy = found["accuracy"]
    assert accuracy["masked"] == pytest.approx(accuracy["plain"], abs=0.01)
    assert found["masked_off"] < 1e-3
    assert all(0.7 < value < 0.9 for value in accuracy.values())
    assert [row["held_out"] for row in found["hospitals"].values()] == [61, 59, 25, 40]
    audit = subprocess.run(
        [sys.executable, "-m", "secagg", "audit", *found["ledgers"], "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    (together,) = json.loads(audit.stdout)["together"]
    assert together["epsilon"] <= 4
    assert (together["subjects"], together["shared"]) == (4, 0)
    again = run("hospitals", "--out", str(tmp_path / "study"))
    assert "the ledger of another study" in again.stderr


@pytest.mark.parametrize(
    ("name", "words", "why"),
    [
        ("linear_regression", ["--clients", "1"], "'--clients': 1 is not in"),
        ("linear_regression", ["--learning-rate", "1"], "where descent diverges"),
        ("linear_regression", ["--learning-rate", "0"], "--learning-rate"),
        ("softmax_784", ["--clients", "1"], "'--clients': 1 is not in"),
        ("softmax_784", [], "run `make data`"),
        ("hospitals", ["--epsilon", "0"], "epsilon is 0"),
        ("hospitals", ["--delta", "0.01"], "below 1/735"),
        ("hospitals", ["--out", "/dev/null/study"], "/dev/null"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name: str, words: list[str], why: str) -> None:
    done = run(name, *words, SECAGG_DATA="/nowhere")
    assert done.returncode != 0
    assert why in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
