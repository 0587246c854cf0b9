"""Sums between the machines of ``secagg.adapters.testing``: on one model, with work of a kind."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dp.ledger.books import Budget
from dp.ledger.ledger import Ledger
from dp.noise.mechanisms import DistributedNoise
from protocols import bonawitz
from secagg.adapters import testing
from secagg.adapters.testing import ANYTHING
from secagg.nodes.coordinator import (
    Coordinator,
    FinishedSum,
    NoisySum,
    SumSettings,
    WeightedMean,
)
from secagg.nodes.identities import Roster, create_identity, sign_roster
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import Average, Contribution, Proposal
from secagg.vectors.arrays import Shapes

MODEL = bytes(range(32))
SHAPES: Shapes = (("weight", (2, 2)), ("bias", ()))
ENTRIES = 5
MAX_WEIGHT = 100
MEAN = WeightedMean(clip=1.0, max_weight=MAX_WEIGHT, train_metrics={"loss": 10.0})


def some_work(node: int, proposal: Proposal) -> Contribution:
    """Numbers that tell the nodes apart; the last entry is beyond the clip of MEAN."""
    vector = np.linspace(-0.9, 0.9, proposal.entries) / (1 + node % 7)
    if len(vector):
        vector[-1] = 1.5
    return Contribution(vector=vector, weight=1 + node % MAX_WEIGHT, metrics={"loss": node % 10})


@dataclass
class Machines(testing.Machines):
    """Nodes that were handed MODEL, and bring ``some_work``."""

    work: testing.Work = some_work
    model: bytes = MODEL


carry = partial(testing.carry, shapes=SHAPES)


def check_mean(finished: FinishedSum, machines: Machines) -> None:
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


def signing(machines: Machines, *, skip: int = 1) -> tuple[Roster, NodePolicy]:
    """Give every node an identity and the operator's roster, of other numbers than the server's."""
    operator = create_identity(machines.folder / "operator.key", "operator")
    count, members = len(machines.ids), {}
    for place, node in enumerate(machines.ids):
        identity = create_identity(machines.home(node) / "identity.key", f"node-{node}")
        members[(place + skip) % count] = (identity.name, identity.key.public)
    signed = sign_roster(operator, members)
    for node in machines.ids:
        (machines.home(node) / "roster.json").write_bytes(signed)
    policy = NodePolicy(
        allow_no_noise=True,
        sums_per_model=ANYTHING.sums_per_model,
        examples=50,
        active=True,
        operator=operator.key.public,
    )
    return Roster.read(signed, operator=operator.key.public), policy


def mean_of(cohort: SumSettings | None = None) -> Coordinator:
    return Coordinator(MEAN, cohort or SumSettings())


def mean_after_another_sum(cohort: SumSettings | None = None) -> Coordinator:
    """Its first sum follows one of others: keys come ahead of the next, no shares do."""
    coordinator = mean_of(cohort)
    coordinator.last = (bonawitz.Params(clients=2, threshold=2, words=1), frozenset({1, 2}))
    return coordinator
