"""Programs for the nodes of a ``LocalGrid``, under our mod, and the mean that they should give."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from numpy.typing import NDArray

from secagg.adapters.flower import WeightedMean, secure_mod
from secagg.adapters.testing import LocalGrid
from secagg.nodes.node import new_folder
from secagg.nodes.policy import NodePolicy

logging.getLogger("flwr").setLevel(logging.ERROR)

OPEN = NodePolicy(
    allow_no_noise=True,
    protocols=("bonawitz", "threshold-ckks"),
    minimum_cohort=2,
)
MEAN = WeightedMean(clip=0.1, max_weight=100, train_metrics={"loss": 1.0})
START = {"w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "b": np.linspace(0.1, 1, 4)}
Arrays = Mapping[str, NDArray[Any]]


@dataclass(kw_only=True)
class Program:
    """What a node computes: a new model that follows from the old one and its own data.

    Attributes:
      ran: the records that its ``train`` was called with.
    """

    node: int
    examples: int = 10
    weighted_by: str = "num-examples"
    ran: list[RecordDict] = field(default_factory=list)

    def update(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """What training adds; a hundredth of the model is forgotten."""
        data = np.random.default_rng(self.node)
        return {
            key: np.asarray(data.uniform(-0.05, 0.05, array.shape) - 0.01 * array, array.dtype)
            for key, array in arrays.items()
        }

    def metrics(self, name: str) -> dict[str, Any]:
        return {self.weighted_by: self.examples, name: 0.37 * self.node % 1}

    def train(self, message: Message, context: Context) -> Message:
        self.ran.append(message.content)
        arrays = arrays_of(message.content["arrays"])
        new = {
            key: np.asarray(array + self.update(arrays)[key], array.dtype)
            for key, array in arrays.items()
        }
        metrics = MetricRecord(self.metrics("loss"))
        return Message(RecordDict({"arrays": record(new), "metrics": metrics}), reply_to=message)

    def evaluate(self, message: Message, context: Context) -> Message:
        metrics = MetricRecord(self.metrics("accuracy"))
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    def app(
        self, home: Path | None, policy: NodePolicy | None = OPEN, action: str = "default"
    ) -> ClientApp:
        """A ``ClientApp``; with our mod if it has a home."""
        made = ClientApp(mods=[] if home is None else [secure_mod(home, policy=policy)])
        made.train(action)(lambda message, context: self.train(message, context))
        made.evaluate(action)(lambda message, context: self.evaluate(message, context))
        return made


def record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({key: Array(np.asarray(array)) for key, array in arrays.items()})


def arrays_of(found: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {key: np.asarray(array.numpy()) for key, array in found.items()}


def programs(count: int) -> dict[int, Program]:
    """Nodes 100, 101, ... with 10, 20, ... examples."""
    return {100 + i: Program(node=100 + i, examples=10 * (i + 1)) for i in range(count)}


def grid_of(
    nodes: Mapping[int, Program],
    root: Path | None,
    policy: NodePolicy | None = OPEN,
    action: str = "default",
) -> LocalGrid:
    """All nodes under our mod, each with a home in ``root``; without one, a plain grid."""
    homes = {node: new_folder(root / str(node)) if root else None for node in nodes}
    return LocalGrid({node: each.app(homes[node], policy, action) for node, each in nodes.items()})


def fit(grid: Grid, *, rounds: int = 1, timeout: float = 0.01, **strategy: Any) -> Result:
    """Train ``START`` by an unchanged FedAvg; nodes in this process have answered by then."""
    chosen = FedAvg(**{"fraction_evaluate": 0.0} | strategy)
    return chosen.start(grid, record(START), num_rounds=rounds, timeout=timeout)


def mean_of(nodes: Iterable[Program], arrays: Arrays = START) -> dict[str, NDArray[Any]]:
    """The weighted mean of the models of ``nodes`` after one round."""
    nodes = list(nodes)
    weights = [each.examples for each in nodes]
    return {
        key: array + np.average([each.update(arrays)[key] for each in nodes], 0, weights)
        for key, array in arrays.items()
    }


def is_mean_of(nodes: Iterable[Program], result: Result) -> bool:
    """Whether a round of ``MEAN`` gave it, up to 2**-12 of the clip: weights are a tenth at least.

    A lane has 17 bits or more, so a step is 2**-16 of the clip, and max_weight is ten times the
    mean weight at most.
    """
    expected, found = mean_of(nodes), arrays_of(result.arrays)
    return all(np.allclose(found[key], expected[key], 0, 0.1 * 2**-12) for key in START)
