"""Nodes that train a part of a model: each array is the mean of those who trained it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from between import MODEL, Machines, carry

from protocols.errors import TooFewSurvivors
from secagg.adapters.testing import ANYTHING
from secagg.errors import InputError
from secagg.nodes import work
from secagg.nodes.coordinator import Coordinator, SumSettings, WeightedMean
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import Average, Contribution, Failure, Proposal
from secagg.stage import UNSIGNED, Stage
from secagg.vectors.arrays import Arrays

SIX = tuple(range(100, 106))
START = {
    "head": np.zeros((2, 2), np.float32),
    "body": np.zeros(3, np.float32),
    "body.running_mean": np.zeros(3, np.float32),
}
SHAPES = tuple((name, array.shape) for name, array in START.items())
PARTS = WeightedMean(clip=1.0, max_weight=8, by_array=True)
SMALL = (100, 103)  # nodes that train the head alone


def after(node: int) -> Arrays:
    whole = {name: array + np.float32(node % 5 - 2) / 4 for name, array in START.items()}
    return {"head": whole["head"]} if node in SMALL else whole


def of_node(node: int, proposal: Proposal) -> Contribution:
    made = work.contribution(proposal, START, after(node), {"num-examples": 1 + node % 7})
    assert isinstance(made, Contribution)
    return made


def mean(name: str, nodes: tuple[int, ...]) -> float:
    weights = [1 + node % 7 for node in nodes]
    values = [(node % 5 - 2) / 4 for node in nodes]
    return float(np.average(values, weights=weights))


@pytest.mark.parametrize("protocol", ["bonawitz", "threshold-ckks"])
def test_an_array_is_the_mean_of_those_who_trained_it(folder: Path, protocol: str) -> None:
    machines = Machines(folder, SIX, work=of_node)
    coordinator = Coordinator(PARTS, SumSettings(protocol=protocol))
    finished = carry(coordinator, machines, shapes=SHAPES)
    assert not machines.errors
    large = tuple(node for node in SIX if node not in SMALL)
    assert finished.result.weight == sum(1 + node % 7 for node in SIX)
    head, body, statistics = np.split(finished.result.vector, [4, 7])
    off = 1e-4 if protocol == "bonawitz" else 1e-2
    assert np.abs(head - mean("head", SIX)).max() < off
    assert np.abs(body - mean("body", large)).max() < off
    assert np.abs(statistics - mean("body", large)).max() < off
    assert finished.result.clipped == 0
    assert finished.result.least_weight == sum(1 + node % 7 for node in large)


def test_an_array_that_nobody_trained_stays(folder: Path) -> None:
    machines = Machines(folder, (100, 103, 107), work=lambda _, p: of_node(100, p))
    finished = carry(Coordinator(PARTS, SumSettings()), machines, shapes=SHAPES)
    assert not finished.model_update[4:].any()
    assert finished.model_update[:4].any()


def test_what_a_node_sends_does_not_say_which_arrays_it_trained(folder: Path) -> None:
    machines = Machines(folder, SIX, work=of_node)
    carry(Coordinator(PARTS, SumSettings()), machines, shapes=SHAPES)
    sizes = {
        node: [
            len(message) for stage in UNSIGNED for message in machines.answers[node, stage].messages
        ]
        for node in SIX
    }
    assert len({tuple(size) for size in sizes.values()}) == 1
    assert all(machines.answers[node, Stage.MASK].examples == 0 for node in SIX)


def test_entries_of_an_array_that_is_not_said_to_be_trained_stay_here(folder: Path) -> None:
    """Whatever a program left in it."""
    proposal = (
        Coordinator(PARTS, SumSettings()).begin("train", SIX, model=MODEL, shapes=SHAPES).proposal
    )
    own = Contribution(vector=np.full(10, 0.5), weight=8, metrics={}, trained={"head"})
    sums = proposal.layout.decode(proposal.encode(own))
    assert sums["parts"].tolist() == [8, 0, 0]
    assert np.allclose(sums["update"], [0.5] * 4 + [0.0] * 3, atol=1e-4)


def test_without_by_array_a_program_returns_all_arrays() -> None:
    for by_array, expected in ((False, Failure.ARRAYS), (True, None)):
        summed = WeightedMean(clip=1.0, max_weight=8, by_array=by_array)
        proposal = (
            Coordinator(summed, SumSettings())
            .begin("train", SIX, model=MODEL, shapes=SHAPES)
            .proposal
        )
        made = work.contribution(proposal, START, after(100), {"num-examples": 1})
        assert (made if isinstance(made, Failure) else None) is expected
        strange = {"other": START["head"]}
        made = work.contribution(proposal, START, strange, {"num-examples": 1})
        assert made is Failure.ARRAYS


def test_by_array_is_true_or_false() -> None:
    with pytest.raises(InputError, match="neither true nor false"):
        Average(clip=1.0, bits=8, max_weight=1, weighted_by="n", by_array=1)  # type: ignore[arg-type]  # what is under test


def test_evaluations_have_no_arrays(folder: Path) -> None:
    named = WeightedMean(clip=1.0, max_weight=8, evaluate_metrics={"loss": 1.0}, by_array=True)
    machines = Machines(
        folder,
        SIX,
        work=lambda *_: Contribution(vector=np.empty(0), weight=1, metrics={"loss": 0.5}),
    )
    finished = carry(Coordinator(named, SumSettings()), machines, shapes=(), purpose="evaluate")
    assert finished.result.metrics["loss"] == pytest.approx(0.5, abs=1e-6)


def test_a_node_whose_policy_does_not_say_so_joins_no_sum_of_parts(folder: Path) -> None:
    machines = Machines(folder, SIX, work=of_node, policy=replace(ANYTHING, by_array=False))
    with pytest.raises(TooFewSurvivors):
        carry(Coordinator(PARTS, SumSettings()), machines, shapes=SHAPES)
    assert len(machines.errors) == len(SIX)
    assert all("by_array" in str(error) for error in machines.errors)
    assert not machines.brought
    assert not NodePolicy().by_array
