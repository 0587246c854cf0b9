"""Sums between machines in one process: a coordinator, nodes in folders, and who is lost when."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dp.ledger.books import Budget
from dp.ledger.ledger import Ledger
from dp.noise.mechanisms import DistributedNoise
from protocols.errors import ProtocolError
from secagg.errors import NodeError, RefusedError
from secagg.nodes.coordinator import (
    Cohort,
    Coordinator,
    Finished,
    ImpersonationError,
    Mean,
    NoisySum,
)
from secagg.nodes.identities import Roster, create_identity, sign_roster
from secagg.nodes.node import Answer, Node, Request, new_home
from secagg.nodes.policy import Policy
from secagg.nodes.proposal import Average, Contribution, Proposal
from secagg.stage import Stage
from secagg.vectors.arrays import Shapes

MODEL = bytes(range(32))
SHAPES: Shapes = (("weight", (2, 2)), ("bias", ()))
ENTRIES = 5
MAX_WEIGHT = 100
ANYTHING = Policy(
    protocols=("bonawitz", "threshold-ckks"),
    privacy=("none", "example", "client"),
    minimum_cohort=2,
    examples=50,
)
MEAN = Mean(clip=1.0, max_weight=MAX_WEIGHT, train_metrics={"loss": 10.0})
REFUSALS = (ProtocolError, RefusedError, NodeError)

Work = Callable[[int, Proposal], Contribution]


def some_work(node: int, proposal: Proposal) -> Contribution:
    """Numbers that tell the nodes apart; the last entry is beyond the clip of MEAN."""
    vector = np.linspace(-0.9, 0.9, proposal.entries) / (1 + node % 7)
    if len(vector):
        vector[-1] = 1.5
    return Contribution(vector=vector, weight=1 + node % MAX_WEIGHT, metrics={"loss": node % 10})


@dataclass
class Machines:
    """Nodes by id, each in its folder, with the state that its engine keeps for it."""

    folder: Path
    ids: tuple[int, ...]
    policy: Policy = ANYTHING
    work: Work = some_work
    states: dict[int, bytes | None] = field(default_factory=dict)
    brought: dict[int, Contribution] = field(default_factory=dict)  # in the last sum
    requests: dict[tuple[int, Stage], Request] = field(default_factory=dict)  # of the last sum
    before: dict[tuple[int, Stage], bytes | None] = field(default_factory=dict)  # states then
    answers: dict[tuple[int, Stage], Answer] = field(default_factory=dict)
    shown: dict[int, bytes] = field(default_factory=dict)  # model's digest, where it is not MODEL
    errors: list[Exception] = field(default_factory=list)  # of the last sum

    def __post_init__(self) -> None:
        for node in self.ids:
            new_home(self.home(node))

    def home(self, node: int) -> Path:
        return self.folder / str(node)

    def ask(self, node: int, request: Request, state: bytes | None) -> Answer:
        """What the node's folder answers, whatever state it is handed; the state is not kept."""

        def compute(proposal: Proposal) -> Contribution:
            self.brought[node] = self.work(node, proposal)
            return self.brought[node]

        return Node(self.home(node), self.policy).answer(
            request, state, model=self.shown.get(node, MODEL), compute=compute
        )

    def answer(self, node: int, request: Request) -> Answer:
        self.requests[node, request.stage] = request
        self.before[node, request.stage] = self.states.get(node)
        answer = self.ask(node, request, self.states.get(node))
        self.answers[node, request.stage], self.states[node] = answer, answer.state
        return answer

    def message(self, node: int, stage: Stage) -> bytes:
        """What the node was sent at a stage of the last sum."""
        return self.requests[node, stage].message

    def books(self, node: int) -> Ledger:
        return Ledger.open(self.home(node) / "ledger.sqlite")


Change = Callable[[int, Request], Request]


def carry(
    coordinator: Coordinator,
    machines: Machines,
    *,
    lost: Mapping[int, Stage] | None = None,
    nodes: Iterable[int] | None = None,
    shapes: Shapes = SHAPES,
    purpose: str = "train",
    change: Change = lambda _, request: request,
) -> Finished:
    """One sum. Nodes in ``lost`` answer nothing from that stage on; errors are no answers.

    Args:
      change: what becomes of a request on its way, as a server that lies would have it.
    """
    order, gone = list(Stage), lost or {}
    machines.brought.clear()
    machines.errors.clear()
    under_way = coordinator.begin(
        purpose, list(machines.ids if nodes is None else nodes), model=MODEL, shapes=shapes
    )
    for ask in under_way.asks():
        for node in under_way.asked(ask):
            if node in gone and order.index(gone[node]) <= order.index(ask.stage):
                continue
            try:
                answer = machines.answer(node, change(node, under_way.request(ask, node)))
                under_way.take(ask, node, answer)
            except ImpersonationError:
                raise
            except REFUSALS as error:
                machines.errors.append(error)
    return under_way.finish()


def check_mean(finished: Finished, machines: Machines) -> None:
    """The result is the survivors' mean, within the bound that ``secagg.nodes.proposal`` states."""
    average, result = finished.proposal.content, finished.result
    assert isinstance(average, Average)
    there = [machines.brought[node] for node in finished.survivors]
    weight = sum(each.weight for each in there)
    assert result.weight == weight

    def off(step: float, found: NDArray[np.float64], values: list[NDArray[np.float64]]) -> None:
        mean = sum(each.weight * value for each, value in zip(there, values, strict=True)) / weight
        bound = step * average.max_weight * len(there) / weight
        assert np.all(np.abs(found - mean) <= bound)

    clipped = [np.clip(each.vector, -average.clip, average.clip) for each in there]
    off(average.clip / (2 ** (average.bits - 1) - 1), result.vector, clipped)
    for name, most in average.metrics:
        values = [np.array(float(each.metrics[name])) for each in there]
        off(most / (2**31 - 1), np.array(result.metrics[name]), values)
    assert result.clipped == sum(int((np.abs(each.vector) > average.clip).sum()) for each in there)


class NoStore:
    """The rule removed: a burn file that lets every request be answered."""

    def __init__(self, _: Path) -> None: ...

    def __call__(self, session: bytes, stage: int, request: bytes) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def noise_of(clients: int, **change: object) -> DistributedNoise:
    """Of clients' updates of SHAPES; little of it."""
    given: dict[str, object] = {
        "entries": ENTRIES,
        "clip": 1.0,
        "noise_multiplier": 2.0,
        "clients": clients,
        "minimum_survivors": clients // 2 + 1,
    }
    return DistributedNoise(**given | change)  # type: ignore[arg-type]  # as a test says


def noisy(path: Path, mechanism: DistributedNoise, **more: object) -> NoisySum:
    """Its sums, charged in a server's ledger at ``path``."""
    ledger = Ledger.create(path, Budget(epsilon=50.0, delta=1e-5))
    return NoisySum(mechanism=mechanism, ledger=ledger, **more)  # type: ignore[arg-type]  # as above


def signing(machines: Machines, *, skip: int = 1) -> tuple[Roster, Policy]:
    """Give every node an identity and the operator's roster, of other numbers than the server's."""
    operator = create_identity(machines.folder / "operator.key", "operator")
    count, members = len(machines.ids), {}
    for place, node in enumerate(machines.ids):
        identity = create_identity(machines.home(node) / "identity.key", f"node-{node}")
        members[(place + skip) % count] = (identity.name, identity.key.public)
    signed = sign_roster(operator, members)
    for node in machines.ids:
        (machines.home(node) / "roster.json").write_bytes(signed)
    policy = Policy(
        privacy=ANYTHING.privacy, examples=50, active=True, operator=operator.key.public
    )
    return Roster.read(signed, operator=operator.key.public), policy


def mean_of(cohort: Cohort | None = None) -> Coordinator:
    return Coordinator(MEAN, cohort or Cohort())
