"""A Flower grid in this process: apps are called as Flower calls them, nothing is shared.

Every message is copied by way of Flower's own encoding in both directions, and so is a node's
context between two messages, as between two processes.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from secagg.adapters.flower import Mean, secure_mod
from secagg.nodes.node import new_home
from secagg.nodes.policy import Policy

logging.getLogger("flwr").setLevel(logging.ERROR)

OPEN = Policy(
    privacy=("none", "example", "client"),
    protocols=("bonawitz", "threshold-ckks"),
    minimum_cohort=2,
)
MEAN = Mean(clip=0.1, max_weight=100, train_metrics={"loss": 1.0})
START = {"w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "b": np.linspace(0.1, 1, 4)}
Arrays = Mapping[str, NDArray[Any]]


def never(node: int, stage: str) -> bool:
    return False


def carried(records: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(records))


def stage_of(message: Message) -> str:
    """What a message to a node asks for; empty if it asks for a plain reply."""
    return str(message.content.config_records.get("secagg", {}).get("stage", ""))


@dataclass
class LocalGrid(Grid):
    """Grid of ``apps``, by node.

    Attributes:
      lost: says of a node and a stage that the message never reaches it.
      fails: that its process dies over the message, which Flower answers with an error.
      late: that its answer comes when the next messages are on their way.
      seen: every reply that the server was handed.
      sent: every message that a node was handed.
    """

    apps: Mapping[int, ClientApp]
    lost: Callable[[int, str], bool] = never
    fails: Callable[[int, str], bool] = never
    late: Callable[[int, str], bool] = never
    configs: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    contexts: dict[int, bytes] = field(default_factory=dict)
    seen: list[Message] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    _replies: dict[str, Message] = field(default_factory=dict)
    _late: dict[str, Message] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1

    def context(self, node: int) -> Context:
        if (kept := self.contexts.get(node)) is not None:
            return context_from_proto(copy.deepcopy(kept))
        return Context(1, node, self.configs.get(node, {}), RecordDict(), {})

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self._replies |= self._late
        self._late.clear()
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        self._count += 1
        name, node = f"message-{self._count}", message.metadata.dst_node_id
        metadata = message.metadata
        metadata.__dict__["_message_id"] = name
        arrived = Message(content=carried(message.content), metadata=metadata)
        self.sent.append(arrived)
        stage = stage_of(arrived)
        if self.lost(node, stage):
            return name
        context = self.context(node)
        try:
            if self.fails(node, stage):
                raise RuntimeError("out of memory")
            reply = self.apps[node](arrived, context)
            reply = Message(content=carried(reply.content), metadata=reply.metadata)
        except Exception as error:  # noqa: BLE001  # as flwr-clientapp does
            reply = Message(Error(code=2, reason=f"{type(error)}:<'{error}'>"), reply_to=arrived)
        self.contexts[node] = context_to_proto(context)
        (self._late if self.late(node, stage) else self._replies)[name] = reply
        return name

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = [self._replies.pop(name) for name in list(message_ids) if name in self._replies]
        self.seen += found
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise NotImplementedError


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
        self, home: Path | None, policy: Policy | None = OPEN, action: str = "default"
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
    policy: Policy | None = OPEN,
    action: str = "default",
) -> LocalGrid:
    """All nodes under our mod, each with a home in ``root``; without one, a plain grid."""
    homes = {node: new_home(root / str(node)) if root else None for node in nodes}
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
