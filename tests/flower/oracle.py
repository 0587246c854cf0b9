"""What the app in examples/flower computes, without Flower, masks or noise."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hospitals import task
from hospitals.server_app import MEAN

APP = Path(task.__file__).parents[1]
STEPS, LEARNING_RATE = 20, 0.1  # as in the app's pyproject.toml
EVERYBODY = tuple(range(len(task.HOSPITALS)))


def trained(weights: task.Array, hospital: int) -> task.Array:
    """What this hospital makes of ``weights``: nobody else may see it."""
    patients, _ = task.load(hospital)
    return task.train(weights, patients, steps=STEPS, learning_rate=LEARNING_RATE)


def averaged(rounds: Sequence[Sequence[int]]) -> task.Array:
    """The weights after FedAvg of these hospitals, round by round; virtual ones may repeat."""
    weights = np.zeros(task.FEATURES)
    for hospitals in rounds:
        updates = {number: trained(weights, number) for number in set(hospitals)}
        # Where the clip cuts nothing it changes nothing, and need not be computed here.
        assert max(abs(after - weights).max() for after in updates.values()) <= MEAN.clip
        sizes = [len(task.load(number)[0]) for number in hospitals]
        weights = np.average([updates[number] for number in hospitals], axis=0, weights=sizes)
    return weights


def error(rounds: Sequence[Sequence[int]], *, named: int = len(EVERYBODY)) -> float:
    """The most by which rounding moves the weights of ``averaged``, in L2 norm.

    Each hospital's weighted update is within a step of its integer (secagg.vectors.quantize), so
    the mean of a round is within step * max_weight * survivors / total weight, entry by entry. A
    later round does not widen what came before: a descent with a rate below 2 / L brings no two
    vectors apart, where L is a quarter of the largest eigenvalue of the mean x x'. Sums in
    float64 add less than 1e-12.
    """
    codec = MEAN.content("train", named).segments(task.FEATURES)[0].codec
    assert 2 / max(map(smoothness, EVERYBODY)) > LEARNING_RATE
    mean = sum(
        len(hospitals) / sum(len(task.load(number)[0]) for number in hospitals)
        for hospitals in rounds
    )
    return float(codec.step * MEAN.max_weight * mean * math.sqrt(task.FEATURES)) + 1e-12


def smoothness(hospital: int) -> float:
    """L, of the gradient of the mean logistic loss of a hospital's patients."""
    features = task.load(hospital)[0].features
    return float(np.linalg.eigvalsh(features.T @ features / len(features))[-1] / 4)


def accuracy(weights: task.Array, hospitals: Sequence[int] = EVERYBODY) -> float:
    """Of all held-out patients together."""
    held_out = [task.load(number)[1] for number in hospitals]
    right = sum(task.accuracy(weights, patients) * len(patients) for patients in held_out)
    return right / sum(map(len, held_out))


def read(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def assert_averaged(
    report: dict[str, Any], rounds: Sequence[Sequence[int]], *, named: int = len(EVERYBODY)
) -> None:
    """These hospitals were in these rounds; test_app shows what this tells apart."""
    off = np.linalg.norm(np.array(report["weights"]) - averaged(rounds))
    assert off <= error(rounds, named=named)


def assert_accurate(report: dict[str, Any], hospitals: Sequence[int] = EVERYBODY) -> None:
    """The last accuracy is that of these hospitals together, to the 32 bits of a metric."""
    last = max(report["evaluate"], key=int)
    expected = accuracy(np.array(report["weights"]), hospitals)
    assert report["evaluate"][last]["accuracy"] == pytest.approx(expected, abs=1e-8)
