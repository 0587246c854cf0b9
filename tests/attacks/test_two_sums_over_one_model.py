"""Sum over one model twice, the second time without the victim, and subtract.

Nobody lies: a server that samples cohorts, or tries a round again, has such sums. Only noise
closes it; without noise a node counts what it brings to one model. What remains is in
SECURITY.md: within the few sums that it joins, and over a model of which one number was changed.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from between import ENTRIES, MODEL, Machines, carry, check_mean, mean_of, noise_of, noisy
from numpy.typing import NDArray

from protocols.errors import TooFewSurvivors
from secagg.adapters.testing import ANYTHING
from secagg.errors import RefusedError
from secagg.nodes.coordinator import Coordinator, SumSettings, WeightedMean
from secagg.nodes.proposal import Contribution
from secagg.stage import Stage

NODES, VICTIM = tuple(range(100, 108)), 105
SUMMED = WeightedMean(clip=1.0, max_weight=10)
OWN = {node: np.random.default_rng(node).uniform(-0.5, 0.5, ENTRIES) for node in NODES}


def machines_of(folder: Path, sums: int) -> Machines:
    policy = replace(ANYTHING, sums_per_model=sums, minimum_cohort=4)
    return Machines(
        folder,
        NODES,
        policy=policy,
        work=lambda node, _: Contribution(
            vector=OWN[node], weight=1 + node % 7, metrics={"loss": 1.0}
        ),
    )


def total(
    coordinator: Coordinator, machines: Machines, nodes: Sequence[int]
) -> tuple[NDArray[np.float64], int]:
    result = carry(coordinator, machines, nodes=nodes).result
    return result.vector * result.weight, result.weight


def difference(folder: Path, sums: int) -> tuple[NDArray[np.float64], int]:
    machines, coordinator = machines_of(folder, sums), Coordinator(SUMMED, SumSettings())
    everybody, weight = total(coordinator, machines, NODES)
    others, less = total(coordinator, machines, [node for node in NODES if node != VICTIM])
    return (everybody - others) / (weight - less), weight - less


def test_the_difference_of_two_sums_is_the_victims_update_and_weight(folder: Path) -> None:
    update, weight = difference(folder, sums=2)
    assert weight == 1 + VICTIM % 7
    assert np.abs(update - OWN[VICTIM]).max() < 0.01


def test_a_node_brings_its_update_of_one_model_to_so_many_sums(folder: Path) -> None:
    with pytest.raises(TooFewSurvivors):
        difference(folder / "one", sums=1)
    machines = machines_of(folder / "count", 2)
    for _ in range(2):
        check_mean(carry(mean_of(), machines), machines)
    with pytest.raises(TooFewSurvivors):
        carry(mean_of(), machines)  # of another server too
    assert not machines.brought
    assert {str(error) for error in machines.errors} == {
        "this node's policy refuses (sums_per_model 2): it has brought its update of this model "
        "to as many sums"
    }
    machines.model = MODEL[::-1]
    check_mean(carry(mean_of(), machines), machines)  # the next model
    machines.model = MODEL
    with pytest.raises(TooFewSurvivors):
        carry(mean_of(), machines)


def second_sum_of_one_session(folder: Path, protocol: str) -> None:
    """The server gives the nodes of a session that is over new numbers, and leaves one out."""
    machines = machines_of(folder, sums=1)
    for skip, nodes in ((0, NODES), (50, NODES[:-1])):
        coordinator = Coordinator(SUMMED, SumSettings(protocol=protocol))
        coordinator.session = bytes(16)
        coordinator.numbers = {node: skip + place for place, node in enumerate(NODES)}
        carry(coordinator, machines, nodes=nodes)


@pytest.mark.parametrize("protocol", ["bonawitz", "threshold-ckks"])
def test_a_second_sum_of_one_session_is_counted_too(folder: Path, protocol: str) -> None:
    with pytest.raises(TooFewSurvivors):
        second_sum_of_one_session(folder, protocol)


@pytest.mark.parametrize("stage", [Stage.MASK, Stage.REVEAL])
def test_three_rounds_lost_in_a_row_are_tried_again_under_the_default(
    folder: Path, stage: Stage
) -> None:
    machines = machines_of(folder, sums=4)  # the template's
    coordinator = mean_of()
    for _ in range(3):
        with pytest.raises(TooFewSurvivors):
            carry(coordinator, machines, lost=dict.fromkeys(NODES[2:], stage))
    finished = carry(coordinator, machines)
    assert finished.survivors == NODES
    check_mean(finished, machines)


def test_a_round_lost_before_a_vector_left_is_not_counted(folder: Path) -> None:
    machines, coordinator = machines_of(folder, sums=1), mean_of()
    for _ in range(3):
        with pytest.raises(TooFewSurvivors):
            carry(coordinator, machines, lost=dict.fromkeys(NODES[2:], Stage.SHARE))
    check_mean(carry(coordinator, machines), machines)


def test_the_count_is_written_before_the_work_begins(folder: Path) -> None:
    machines = machines_of(folder, sums=1)

    def killed(*_: object) -> Contribution:
        raise KeyboardInterrupt

    machines.work = killed
    with pytest.raises(KeyboardInterrupt):
        carry(mean_of(), machines)
    machines.work = lambda node, _: Contribution(vector=OWN[node], metrics={"loss": 1.0})
    finished = carry(mean_of(SumSettings(dropout="0.3")), machines)
    assert finished.survivors == NODES[1:]
    assert [type(error) for error in machines.errors] == [RefusedError]


def test_with_noise_every_sum_is_charged_and_none_is_counted(folder: Path) -> None:
    machines = machines_of(folder, sums=1)
    coordinator = Coordinator(noisy(folder / "server.sqlite", noise_of(8)), SumSettings())
    for _ in range(3):
        carry(coordinator, machines)
    with machines.books(VICTIM) as books:
        assert len(books.reservations()) == 3


def test_a_server_sees_how_many_sums_it_began_over_a_model(folder: Path) -> None:
    machines, coordinator = machines_of(folder, sums=4), mean_of()
    begun = [
        coordinator.begin("train", NODES, model=model, shapes=(("a", (2,)),)).sums_of_model
        for model in (MODEL, MODEL, bytes(32), MODEL)
    ]
    assert begun == [1, 2, 1, 3]
    assert not machines.errors
