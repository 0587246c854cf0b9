"""Engines of one process: try an app, a policy or an adapter, and lose whom you like.

    machines = Machines(folder, ids=(1, 2, 3), work=update_of)      # each node in its own folder
    done = carry(Coordinator(WeightedMean(...), SumSettings()), machines, lost={3: Stage.MASK})
    done.result                                                     # the mean of the others

    grid = LocalGrid({1: app, 2: app, 3: app}, lost=lambda node, stage: node == 3)   # Flower
    FedAvg(...).start(grid=SecureGrid(grid, Mean(...)), ...)

For tests only. The coding, the stages, the ledgers and the refusals are the true ones; but all
parties are one process, which holds everybody's secrets, and ``Machines`` agrees to any terms
unless it is told otherwise. No other module of these packages may import this one.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dp.ledger.ledger import Ledger
from protocols.errors import ProtocolError
from secagg.errors import NodeError, RefusedError
from secagg.nodes.buffer import Session
from secagg.nodes.coordinator import Coordinator, FinishedSum
from secagg.nodes.messages import Answer, Request
from secagg.nodes.node import Node, new_folder
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import Contribution, Proposal
from secagg.stage import Stage
from secagg.vectors.arrays import Shapes

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid
else:
    Grid = object  # Flower asks what a grid does, not what it is; and flwr need not be there

ANYTHING: Final = NodePolicy(
    protocols=("bonawitz", "threshold-ckks"),
    graphs=("complete", "sparse"),
    allow_no_noise=True,
    minimum_cohort=2,
    sums_per_model=1000,
    by_array=True,
    examples=50,
)
"""What no node should agree to outside a test."""

Work: TypeAlias = Callable[[int, Proposal], Contribution]
Change: TypeAlias = Callable[[int, Request], Request]


# Any engine


@dataclass
class Machines:
    """Nodes by id, each in its folder, with the state that its engine keeps for it.

    Attributes:
      work: what a node contributes to a sum.
      model: the digest of the model that nodes were handed, unless ``shown`` says otherwise.
      shown: other digests, by node.
      states: what the engine keeps for each node between two stages.
      brought: what each node contributed to the last sum.
      requests, before, answers: of the last sum, by node and stage: what a node was sent, the
        state that it was handed, and its answer.
      errors: why nodes did not answer in the last sum.
    """

    folder: Path
    ids: tuple[int, ...]
    work: Work
    policy: NodePolicy = ANYTHING
    model: bytes = bytes(32)
    shown: dict[int, bytes] = field(default_factory=dict)
    states: dict[int, bytes | None] = field(default_factory=dict)
    brought: dict[int, Contribution] = field(default_factory=dict)
    requests: dict[tuple[int, Stage], Request] = field(default_factory=dict)
    before: dict[tuple[int, Stage], bytes | None] = field(default_factory=dict)
    answers: dict[tuple[int, Stage], Answer] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        for node in self.ids:
            new_folder(self.home(node))

    def home(self, node: int) -> Path:
        return self.folder / str(node)

    def books(self, node: int) -> Ledger:
        """The node's own ledger."""
        return Ledger.open(self.home(node) / "ledger.sqlite")

    def ask(self, node: int, request: Request, state: bytes | None) -> Answer:
        """What the node's folder answers, whatever state it is handed; the state is not kept."""

        def compute(proposal: Proposal) -> Contribution:
            self.brought[node] = self.work(node, proposal)
            return self.brought[node]

        return Node(self.home(node), self.policy).answer(
            request, state, model=self.shown.get(node, self.model), compute=compute
        )

    def answer(self, node: int, request: Request) -> Answer:
        """The same with the state that was kept, as an honest engine does."""
        self.requests[node, request.stage] = request
        self.before[node, request.stage] = self.states.get(node)
        answer = self.ask(node, request, self.states.get(node))
        self.answers[node, request.stage], self.states[node] = answer, answer.state
        return answer

    def message(self, node: int, stage: Stage) -> bytes:
        """What the node was sent at a stage of the last sum."""
        return self.requests[node, stage].message


def carry(
    coordinator: Coordinator,
    machines: Machines,
    *,
    shapes: Shapes,
    lost: Mapping[int, Stage] | None = None,
    nodes: Iterable[int] | None = None,
    purpose: str = "train",
    session: Session | None = None,
    change: Change = lambda _, request: request,
) -> FinishedSum:
    """Carry one sum. A node that refuses, or fails, has not answered; ``machines.errors`` says why.

    Args:
      shapes: the arrays of the model, by name.
      lost: nodes that answer nothing from a stage on.
      nodes: who is asked; by default all.
      session: of a ``Buffer``, whose nodes they are.
      change: what becomes of a request on its way, as a server that lies would have it.

    Raises:
      TooFewSurvivors: too few nodes are left.
    """
    order, gone = list(Stage), lost or {}
    machines.brought.clear()
    machines.errors.clear()
    asked = list(machines.ids if nodes is None else nodes)
    under_way = coordinator.begin(
        purpose, asked, model=machines.model, shapes=shapes, session=session
    )
    for ask in under_way.asks():
        for node in under_way.asked(ask):
            if node in gone and order.index(gone[node]) <= order.index(ask.stage):
                continue
            try:
                answer = machines.answer(node, change(node, under_way.request(ask, node)))
                under_way.receive(ask, node, answer)
            except (ProtocolError, RefusedError, NodeError) as error:
                machines.errors.append(error)
    return under_way.finish()


# Flower


def _never(node: int, stage: str) -> bool:
    return False


def carried(records: "RecordDict") -> "RecordDict":
    """What another process would find in a message: nothing is shared with its sender."""
    from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

    return recorddict_from_proto(recorddict_to_proto(records))


def _copied(message: "Message") -> "Message":
    made: Any = type(message)  # from content and metadata: no part of its public signature
    copied: Message = made(content=carried(message.content), metadata=message.metadata)
    return copied


def request_of(message: "Message") -> Request | None:
    """What a message to a node asks for; ``None`` if it asks for a plain reply."""
    from secagg.adapters.flower.records import request_in

    data = request_in(message.content)
    return None if data is None else Request.from_bytes(data)


def answer_of(message: "Message") -> Answer:
    """What a node's message answers.

    Raises:
      DecodeError: nothing of ours.
    """
    from secagg.adapters.flower.records import answer_in

    data = answer_in(message.content)
    return Answer.from_bytes(data if isinstance(data, bytes) else b"")


def stage_of(message: "Message") -> str:
    """The stage that a message to a node asks for; empty if it asks for a plain reply."""
    request = request_of(message)
    return "" if request is None else str(request.stage)


@dataclass
class LocalGrid(Grid):
    """A Flower grid of ``apps``, by node: they are called as Flower calls them.

    Messages, and a node's context between two of them, are copied by way of Flower's own
    encoding, as between two processes.

    Attributes:
      lost: says of a node and a stage that the message never reaches it.
      fails: that its process dies over the message, which Flower answers with an error.
      late: that its answer comes when the next messages are on their way.
      configs: the configuration of each node, such as ``{"partition-id": 0}``.
      run_config: of the run, as every app finds it.
      contexts: what Flower keeps for each node, encoded.
      seen: every reply that the server was handed.
      sent: every message that a node was handed.
    """

    apps: "Mapping[int, ClientApp]"
    lost: Callable[[int, str], bool] = _never
    fails: Callable[[int, str], bool] = _never
    late: Callable[[int, str], bool] = _never
    configs: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    run_config: dict[str, Any] = field(default_factory=dict)
    contexts: dict[int, Any] = field(default_factory=dict)
    seen: "list[Message]" = field(default_factory=list)
    sent: "list[Message]" = field(default_factory=list)
    _replies: "dict[str, Message]" = field(default_factory=dict)
    _late: "dict[str, Message]" = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        from flwr.supercore.task_identity import TaskIdentity

        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1

    def context(self, node: int) -> "Context":
        """What the node's app is called with."""
        from flwr.app import Context, RecordDict
        from flwr.common.serde import context_from_proto

        if (kept := self.contexts.get(node)) is not None:
            return context_from_proto(copy.deepcopy(kept))
        return Context(1, node, self.configs.get(node, {}), RecordDict(), self.run_config)

    def push_messages(self, messages: "Iterable[Message]") -> Iterable[str]:
        self._replies |= self._late
        self._late.clear()
        return [self._push(message) for message in messages]

    def _push(self, message: "Message") -> str:
        from flwr.app import Error, Message
        from flwr.common.serde import context_to_proto

        self._count += 1
        name, node = f"message-{self._count}", message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = name
        arrived = _copied(message)
        self.sent.append(arrived)
        stage = stage_of(arrived)
        if self.lost(node, stage):
            return name
        context = self.context(node)
        try:
            if self.fails(node, stage):
                raise RuntimeError("out of memory")
            reply = _copied(self.apps[node](arrived, context))
        except Exception as error:  # noqa: BLE001  # as flwr-clientapp does
            reply = Message(Error(code=2, reason=f"{type(error)}:<'{error}'>"), reply_to=arrived)
        self.contexts[node] = context_to_proto(context)
        (self._late if self.late(node, stage) else self._replies)[name] = reply
        return name

    def pull_messages(self, message_ids: Iterable[str]) -> "Iterable[Message]":
        found = [self._replies.pop(name) for name in list(message_ids) if name in self._replies]
        self.seen += found
        return found

    def send_and_receive(
        self, messages: "Iterable[Message]", *, timeout: float | None = None
    ) -> "Iterable[Message]":
        return self.pull_messages(self.push_messages(messages))

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **named: Any) -> "Message":
        raise NotImplementedError
