"""Data of the main job, dealt out to clients, and the simulated dropouts.

Everything here is a function of a seed, so that two runs can be compared.
Nothing here is a secret, and no secret may be drawn here: keys, noise, rounding
and batches come from the system's generator, whatever the seed.

What ``make data`` fetched is looked for under ``.data`` in the current directory, or in the
folder that the environment variable SECAGG_DATA names.

[IDX]: LeCun, Cortes, Burges, The MNIST database, "file formats", http://yann.lecun.com/exdb/mnist
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputError
from secagg.stage import UNSIGNED, Stage

FOLDER: Final = "SECAGG_DATA"  # the environment variable
FASHION: Final = Path("usr", "share", "datasets", "fashion-mnist")  # in Debian's package
FASHION_ROWS: Final = {"train": 60_000, "t10k": 10_000}
FASHION_SIDE, FASHION_CLASSES = 28, 10  # pixels; kinds of clothes
IDX_BYTES: Final = 0x08  # unsigned bytes, the third byte of a file [IDX]

ROW_NORM = 3.0  # about that of a digit, so that its bias weighs as little as before
EVALUATION_PARTS = ("test", "validation")
TEST_SHARE = VALIDATION_SHARE = 0.2  # of all examples; of the training examples


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Examples and their labels, along the first dimension.

    Those of this module are feature rows, each of L2 norm 3, and their classes, in numpy. Those of
    a user are tensors of any shape.
    """

    features: Any = field(repr=False)
    labels: Any = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> "Examples":
        return Examples(features=self.features[rows], labels=self.labels[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """All examples, or those to train with where the data set brings its own test examples."""

    examples: Examples
    test: Examples | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """The examples of each client, and those that the model is evaluated on.

    ``classes`` is of data of this module; a user's own have any targets. Without examples to
    evaluate on, ``evaluation`` is empty. ``groups`` names the group of each of those examples, or
    is empty.
    """

    clients: tuple[Examples, ...]
    evaluation: Examples
    classes: int = 0
    groups: tuple[str, ...] = ()


def _digits() -> Dataset:
    """1,797 handwritten digits of 8x8 pixels, from scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # 0.3: an ink level; no mean is used
    return Dataset(examples=_examples(bunch.data / 16.0 - 0.3, bunch.target))


def _breast_cancer() -> Dataset:
    """569 tumours of 30 measurements, from scikit-learn. Assumes that their ranges are public."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    low, high = bunch.data.min(axis=0), bunch.data.max(axis=0)
    return Dataset(examples=_examples((bunch.data - low) / (high - low) - 0.3, bunch.target))


def _fashion_mnist() -> Dataset:
    """70,000 pieces of clothing of 28x28 pixels, 10,000 of them for the test, by ``make data``."""
    return Dataset(examples=_fashion("train"), test=_fashion("t10k"))


def _fashion(part: str) -> Examples:
    folder = Path(os.environ.get(FOLDER) or ".data") / FASHION
    rows = FASHION_ROWS[part]
    try:
        images = read_idx(
            folder / f"{part}-images-idx3-ubyte.gz", (rows, FASHION_SIDE, FASHION_SIDE)
        )
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", (rows,))
    except FileNotFoundError as error:
        raise InputError(
            f"fashion-mnist is not in {folder}; run `make data`, or set {FOLDER}"
        ) from error
    if labels.max() >= FASHION_CLASSES:
        raise InputError(f"{folder} holds label {labels.max()}: run `make data` again")
    features = images.reshape(rows, -1).astype(np.float32) / 255 - np.float32(0.3)  # as the digits
    return _examples(features, labels)


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A gzipped IDX file of unsigned bytes, of exactly this shape.

        struct {
            uint8  zero[2], kind = 0x08, dimensions;
            uint32 shape[dimensions];   /* big-endian */
            uint8  entries[];           /* the last dimension runs fastest */
        } File;                         /* [IDX] */

    Raises:
      FileNotFoundError: there is no such file.
      InputError: it is no such file, or is cut short, or goes on. No more is unpacked than
        ``shape`` asks for.
    """
    head = struct.pack(f">HBB{len(shape)}I", 0, IDX_BYTES, len(shape), *shape)
    size = len(head) + math.prod(shape)
    try:
        with gzip.open(path) as file:
            data = file.read(size + 1)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is no whole gzip file: {error}") from error
    if not data.startswith(head):
        raise InputError(f"{path} is another file, it lacks the bytes {head.hex()} of its kind")
    if len(data) != size:
        raise InputError(f"{path} holds {len(data)} bytes or more, expected {size}")
    return np.frombuffer(data, np.uint8, offset=len(head)).reshape(shape)


def _examples(features: NDArray[np.floating[Any]], labels: NDArray[Any]) -> Examples:
    """Rows on one sphere: gradients of one clip then differ little in length."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    rows = ROW_NORM * features / np.maximum(norms, np.finfo(features.dtype).tiny)
    return Examples(features=rows.astype(np.float32), labels=labels.astype(np.int64))


DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "breast-cancer": _breast_cancer,
    "fashion-mnist": _fashion_mnist,
}


def federate(
    name: str, *, clients: int, partition: str, seed: int, evaluate_on: str = "test"
) -> Federation:
    """Deal a data set out to clients.

    Args:
      name: one of ``DATASETS``.
      clients: how many; each gets at least two examples.
      partition: ``iid``, or ``dirichlet:ALPHA``: each class is dealt out in shares
        drawn from Dirichlet(ALPHA), so that a small ALPHA gives clients of few classes.
      seed: of the partition. The test examples are the same whatever it is, so that settings
        chosen under one seed have not seen what another is evaluated on.
      evaluate_on: ``test``, or ``validation`` for choosing settings: the test examples
        then are not looked at, and a part of the training examples stands in.

    Raises:
      InputError: unknown names, too many clients for the data, or data that is not here.
      InputError: a file of the data is not what it should be.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data {name!r}; known: {', '.join(DATASETS)}")
    if evaluate_on not in EVALUATION_PARTS:
        raise InputError(
            f"unknown evaluate_on {evaluate_on!r}; known: {', '.join(EVALUATION_PARTS)}"
        )
    data = DATASETS[name]()
    everything, evaluation = data.examples, data.test
    training = np.arange(len(everything))
    if evaluation is None:
        training, test = _cut(np.random.default_rng(0).permutation(training), TEST_SHARE)
        evaluation = everything.take(test)
    generator = np.random.default_rng(seed)
    training = generator.permutation(training)
    if evaluate_on == "validation":
        training, held_out = _cut(training, VALIDATION_SHARE)
        evaluation = everything.take(held_out)
    if len(training) < 2 * clients:
        raise InputError(f"clients is {clients}, at most {len(training) // 2} have 2 examples each")
    alpha = parse_partition(partition)
    if alpha is None:
        parts = np.array_split(training, clients)
    else:
        parts = _dirichlet(everything.labels[training], training, clients, alpha, generator)
    return Federation(
        clients=tuple(everything.take(part) for part in parts),
        evaluation=evaluation,
        classes=int(everything.labels.max()) + 1,
    )


def parse_partition(partition: str) -> float | None:
    """The Dirichlet parameter of a partition, None for an iid one."""
    kind, _, alpha = partition.partition(":")
    if partition == "iid":
        return None
    try:
        value = float(alpha)
    except ValueError:
        value = float("nan")
    if kind != "dirichlet" or not 0.01 <= value <= 1000:
        raise InputError(
            f"partition {partition!r} must be iid, or dirichlet:ALPHA with ALPHA from .01"
        )
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
