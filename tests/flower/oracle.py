"""What the app in examples/flower computes, without Flower."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hospitals import task

APP = Path(task.__file__).parents[1]
STEPS, LEARNING_RATE = 20, 0.1  # as in the app's pyproject.toml


def averaged(rounds: int) -> tuple[task.Array, list[float]]:
    """The weights after so many rounds of FedAvg, and the accuracy after each."""
    hospitals = [task.load(number) for number in range(len(task.HOSPITALS))]
    sizes = [len(patients) for patients, _ in hospitals]
    weights, accuracies = np.zeros(task.FEATURES), []
    for _ in range(rounds):
        updates = [
            task.train(weights, patients, steps=STEPS, learning_rate=LEARNING_RATE)
            for patients, _ in hospitals
        ]
        weights = np.average(updates, axis=0, weights=sizes)
        right = sum(task.accuracy(weights, held_out) * len(held_out) for _, held_out in hospitals)
        accuracies.append(right / sum(len(held_out) for _, held_out in hospitals))
    return weights, accuracies


def read(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def accuracies(report: dict[str, Any]) -> list[float]:
    """The accuracy after each round."""
    return [metrics["accuracy"] for _, metrics in sorted(report["evaluate"].items())]


def assert_averaged(report: dict[str, Any], *, rounds: int) -> None:
    """Everybody took part in every round: nothing else gives these weights."""
    weights, expected = averaged(rounds)
    assert np.allclose(report["weights"], weights, rtol=0, atol=1e-12)
    assert accuracies(report) == pytest.approx(expected)
