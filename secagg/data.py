"""Data of the main job, dealt out to clients, and the simulated dropouts.

Everything here is a function of a seed, so that two runs can be compared.
Nothing here is a secret, and no secret may be drawn here: keys, noise, rounding
and batches come from the system's generator, whatever the seed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.errors import ConfigError
from secagg.stages import UNSIGNED, Stage

ROW_NORM = 3.0  # about that of a digit, so that its bias weighs as little as before
JUDGES = ("test", "validation")
TEST_SHARE = VALIDATION_SHARE = 0.2  # of all examples; of the training examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Feature rows, each of L2 norm 3, and their classes."""

    features: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Examples":
        return Examples(features=self.features[rows], labels=self.labels[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """The examples of each client, and those that the model is judged by."""

    clients: tuple[Examples, ...]
    judged_by: Examples
    classes: int


def _digits() -> Examples:
    """1,797 handwritten digits of 8x8 pixels, from scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _examples(bunch.data / 16.0 - 0.3, bunch.target)  # 0.3: an ink level; no mean is used


def _breast_cancer() -> Examples:
    """569 tumours of 30 measurements, from scikit-learn. Assumes that their ranges are public."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    low, high = bunch.data.min(axis=0), bunch.data.max(axis=0)
    return _examples((bunch.data - low) / (high - low) - 0.3, bunch.target)


def _examples(features: NDArray[np.float64], labels: NDArray[np.int64]) -> Examples:
    """Rows on one sphere: gradients of one clip then differ little in length."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    rows = ROW_NORM * features / np.maximum(norms, np.finfo(np.float64).tiny)
    return Examples(features=rows.astype(np.float32), labels=labels.astype(np.int64))


DATASETS: dict[str, Callable[[], Examples]] = {
    "digits": _digits,
    "breast-cancer": _breast_cancer,
}


def federate(name: str, *, clients: int, split: str, seed: int, judge: str = "test") -> Federation:
    """Deal a data set out to clients.

    Args:
      name: one of ``DATASETS``.
      clients: how many; each gets at least two examples.
      split: ``iid``, or ``dirichlet:ALPHA``: each class is dealt out in shares
        drawn from Dirichlet(ALPHA), so that a small ALPHA gives clients of few classes.
      seed: of the split.
      judge: ``test``, or ``validation`` for choosing settings: the test examples
        then are not looked at, and a part of the training examples stands in.

    Raises:
      ConfigError: unknown names, or too many clients for the data.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown data {name!r}; known: {', '.join(DATASETS)}")
    if judge not in JUDGES:
        raise ConfigError(f"unknown judge {judge!r}; known: {', '.join(JUDGES)}")
    everything = DATASETS[name]()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(everything))
    training, judged_by = _cut(order, TEST_SHARE)
    if judge == "validation":
        training, judged_by = _cut(training, VALIDATION_SHARE)
    if len(training) < 2 * clients:
        raise ConfigError(f"{clients} clients cannot have two of {len(training)} examples each")
    alpha = parse_split(split)
    if alpha is None:
        parts = np.array_split(training, clients)
    else:
        parts = _dirichlet(everything.labels[training], training, clients, alpha, generator)
    return Federation(
        clients=tuple(everything.take(part) for part in parts),
        judged_by=everything.take(judged_by),
        classes=int(everything.labels.max()) + 1,
    )


def parse_split(split: str) -> float | None:
    """The Dirichlet parameter of a split, None for an iid one."""
    kind, _, alpha = split.partition(":")
    if split == "iid":
        return None
    try:
        value = float(alpha or "0.5")
    except ValueError:
        value = float("nan")
    if kind != "dirichlet" or not 0.01 <= value <= 1000:
        raise ConfigError(f"split {split!r} is neither iid nor dirichlet:ALPHA, ALPHA from .01")
    return value


def simulated_dropouts(
    clients: int, probability: float, *, seed: int, round_number: int
) -> dict[int, Stage]:
    """Each client vanishes with ``probability``, at a stage drawn uniformly."""
    generator = np.random.default_rng([seed, round_number, 0xD0])
    gone = generator.random(clients) < probability
    stages = generator.integers(len(UNSIGNED), size=clients)
    return {int(client): UNSIGNED[stages[client]] for client in np.flatnonzero(gone)}


def _cut(rows: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    kept = int(len(rows) * (1 - share))
    return rows[:kept], rows[kept:]


def _dirichlet(
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    clients: int,
    alpha: float,
    generator: np.random.Generator,
) -> list[NDArray[np.int64]]:
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        members = rows[labels == label]
        edges = np.cumsum(generator.dirichlet(np.full(clients, alpha)))[:-1] * len(members)
        for part, share in zip(parts, np.split(members, edges.astype(int)), strict=True):
            part.extend(share.tolist())
    for part in parts:  # a client of one example or none takes from the richest
        while len(part) < 2:
            part.append(max(parts, key=len).pop())
    return [np.array(sorted(part)) for part in parts]
