"""Whole sums between a coordinator and nodes: what comes of them, and what they cost."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from between import (
    MAX_WEIGHT,
    MEAN,
    SHAPES,
    Machines,
    carry,
    check_mean,
    mean_of,
    noise_of,
    noisy,
    signing,
)

from dp.accounting.events import Unit
from dp.errors import BudgetExceeded
from dp.ledger.ledger import State
from protocols.errors import LocalProtocolError, RemoteProtocolError, TooFewSurvivors
from secagg.adapters.testing import ANYTHING
from secagg.errors import IdentityError, InputError, RefusedError
from secagg.nodes import coordinator as coordinators
from secagg.nodes.coordinator import Coordinator, FinishedSum, SumSettings, WeightedMean
from secagg.nodes.messages import Request
from secagg.nodes.node import Node
from secagg.nodes.policy import NodePolicy
from secagg.rounds.ckks import PRECISION
from secagg.stage import UNSIGNED, Stage

SIX = tuple(range(100, 106))


def test_a_complete_sum_is_the_weighted_mean(folder: Path) -> None:
    machines = Machines(folder, SIX)
    finished = carry(mean_of(), machines)
    assert finished.survivors == SIX
    assert not machines.errors
    check_mean(finished, machines)


@pytest.mark.parametrize("stage", UNSIGNED)
def test_who_is_lost_at_a_stage_is_in_the_sum_only_if_its_vector_came(
    folder: Path, stage: Stage
) -> None:
    machines = Machines(folder, SIX)
    finished = carry(mean_of(), machines, lost={102: stage})
    expected = [node for node in SIX if node != 102 or stage is Stage.REVEAL]
    assert list(finished.survivors) == expected
    check_mean(finished, machines)


@pytest.mark.parametrize("stage", UNSIGNED[1:])
def test_nodes_that_lost_their_state_in_a_sum_that_failed_are_asked_for_keys_again(
    folder: Path, stage: Stage
) -> None:
    machines, coordinator = Machines(folder, SIX[:4]), mean_of()
    forgotten = {(100, stage), (101, stage)}

    def restarted(node: int, request: Request) -> Request:
        if (node, request.stage) in forgotten:
            machines.states[node] = None
        return request

    with pytest.raises(TooFewSurvivors):
        carry(coordinator, machines, change=restarted)
    for _ in range(2):
        finished = carry(coordinator, machines)
        assert finished.survivors == SIX[:4]
        check_mean(finished, machines)


def test_sums_follow_each_other_and_late_nodes_come_back(folder: Path) -> None:
    machines, coordinator = Machines(folder, SIX), mean_of()
    for lost in ({100: Stage.MASK}, {}, {101: Stage.SHARE, 105: Stage.REVEAL}, {}):
        check_mean(finished := carry(coordinator, machines, lost=lost), machines)
        gone = {node for node, stage in lost.items() if stage is not Stage.REVEAL}
        assert set(finished.survivors) == set(SIX) - gone


def stages_of(machines: Machines, coordinator: Coordinator, **more: Any) -> list[Stage]:
    """The stages that a sum took, which gave the mean of all who were not lost."""
    machines.requests.clear()
    check_mean(carry(coordinator, machines, **more), machines)
    asked = {stage for _, stage in machines.requests}
    return [stage for stage in Stage if stage in asked]


def test_a_steady_cohort_needs_two_messages_from_its_second_sum_on(folder: Path) -> None:
    machines, coordinator = Machines(folder, SIX), mean_of()
    assert stages_of(machines, coordinator) == list(UNSIGNED)
    for _ in range(3):
        assert stages_of(machines, coordinator) == [Stage.MASK, Stage.REVEAL]


def test_a_cohort_that_changes_shares_anew_and_loses_no_sum(folder: Path) -> None:
    machines, coordinator = Machines(folder, SIX), mean_of()
    steady, keys_known = [Stage.MASK, Stage.REVEAL], [Stage.SHARE, Stage.MASK, Stage.REVEAL]
    stages_of(machines, coordinator, nodes=SIX[:5])
    for nodes, first in ((SIX, list(UNSIGNED)), (SIX[1:], keys_known)):  # one is new; one leaves
        assert stages_of(machines, coordinator, nodes=nodes) == first
        assert not any(request.next_roster for request in machines.requests.values())
        assert stages_of(machines, coordinator, nodes=nodes) == keys_known
        assert stages_of(machines, coordinator, nodes=nodes) == steady
    for stage in (Stage.MASK, Stage.REVEAL):
        assert stages_of(machines, coordinator, nodes=SIX[1:], lost={102: stage}) == steady
        assert stages_of(machines, coordinator, nodes=SIX[1:]) == list(UNSIGNED)  # asked again
    assert stages_of(machines, coordinator, nodes=SIX[1:]) == steady


def test_sums_of_two_kinds_in_turn_share_nothing_in_vain(folder: Path) -> None:
    named = replace(MEAN, evaluate_metrics={"loss": 10.0})
    machines, coordinator = Machines(folder, SIX), Coordinator(named, SumSettings())
    stages_of(machines, coordinator)
    for _ in range(2):
        found = stages_of(machines, coordinator, purpose="evaluate", shapes=())
        assert found == [Stage.SHARE, Stage.MASK, Stage.REVEAL]
        assert not any(request.next_roster for request in machines.requests.values())
        assert stages_of(machines, coordinator) == [Stage.SHARE, Stage.MASK, Stage.REVEAL]


def test_a_hundred_sums_of_a_cohort_that_churns_are_exact(folder: Path) -> None:
    machines, coordinator = Machines(folder, SIX), mean_of()
    draw, took = np.random.default_rng(7), list[int]()
    for _ in range(100):
        lost = {node: UNSIGNED[draw.integers(4)] for node in SIX if draw.random() < 0.1}
        machines.requests.clear()
        try:
            finished = carry(coordinator, machines, lost=lost)
        except TooFewSurvivors:
            assert len(lost) >= 3
            continue
        check_mean(finished, machines)
        asked = {stage for _, stage in machines.requests}
        took.append(len(asked))
        gone = {node for node, at in lost.items() if at in asked and at is not Stage.REVEAL}
        assert set(finished.survivors) <= set(SIX) - gone
        assert len(finished.survivors) >= len(SIX) - len(lost)
    assert {2, 4} <= set(took)


def test_too_few_are_an_error_and_the_next_sum_works(folder: Path) -> None:
    machines, coordinator = Machines(folder, SIX), mean_of()
    for stage in (Stage.SHARE, Stage.MASK, Stage.REVEAL):
        with pytest.raises(TooFewSurvivors, match="nothing was released"):
            carry(coordinator, machines, lost=dict.fromkeys(SIX[2:], stage))
    check_mean(carry(coordinator, machines), machines)


def test_a_hundred_nodes_sum_in_the_sparse_graph_of_the_planner(folder: Path) -> None:
    machines, coordinator = Machines(folder, tuple(range(100))), mean_of()
    for lost in ({3: Stage.REVEAL, 50: Stage.MASK}, {7: Stage.SHARE}):
        finished = carry(coordinator, machines, lost=lost)
        assert finished.proposal.params.rates
        assert len(finished.survivors) == 99
        check_mean(finished, machines)


def test_a_cohort_that_signs_sums_by_its_roster(folder: Path) -> None:
    machines = Machines(folder, SIX)
    roster, machines.policy = signing(machines)
    coordinator = mean_of(SumSettings(roster=roster))
    for lost in ({}, {104: Stage.SIGN}, {101: Stage.REVEAL, 100: Stage.SHARE}):
        finished = carry(coordinator, machines, lost=lost)
        assert not machines.errors
        check_mean(finished, machines)
        numbers = {(place + 1) % 6: node for place, node in enumerate(SIX)}
        assert finished.survivors == tuple(numbers[client] for client in finished.result.survivors)


def test_a_node_with_another_roster_or_no_identity_takes_no_part(folder: Path) -> None:
    machines = Machines(folder, SIX)
    roster, machines.policy = signing(machines)
    other = Machines(folder / "other", (1, 2))
    old, _ = signing(other)
    data = (other.home(1) / "roster.json").read_bytes()
    (machines.home(103) / "roster.json").write_bytes(data)
    with pytest.raises(IdentityError, match="not signed by the operator"):
        carry(mean_of(SumSettings(roster=roster)), machines)
    with pytest.raises(RefusedError, match="roster is not this node's"):
        Node(machines.home(100), machines.policy).identity(old.digest)


def test_a_key_of_threshold_holders_opens_a_sum(folder: Path) -> None:
    machines, ckks = Machines(folder, SIX), SumSettings(protocol="threshold-ckks")
    coordinator = Coordinator(MEAN, ckks)
    for lost in ({}, {105: Stage.MASK, 101: Stage.MASK}):
        finished = carry(coordinator, machines, lost=lost)
        assert set(finished.survivors) == set(SIX) - lost.keys()
        check_mean_of_reals(finished, machines)
    with pytest.raises(TooFewSurvivors, match="nothing was opened"):
        carry(coordinator, machines, lost={101: Stage.REVEAL})
    kept = (machines.home(100) / "summands.jsonl").read_text().splitlines()
    assert [set(*json.loads(line).values()) for line in kept[:2]] == [set("012345"), set("0234")]


def check_mean_of_reals(finished: coordinators.FinishedSum, machines: Machines) -> None:
    there = [machines.brought[node] for node in finished.survivors]
    weight = sum(each.weight for each in there)
    mean = sum(each.weight * np.clip(each.vector, -1, 1) for each in there) / weight
    # Where the largest error is expected, so half of all sums are beyond; in vectors of so few
    # entries the deviation of one is .37 of it (measured), and 4 times is 10 deviations.
    precision = 4 * PRECISION * len(there) * MAX_WEIGHT / weight
    assert finished.result.weight == weight
    assert np.abs(finished.result.vector - mean).max() <= precision
    assert finished.result.clipped == len(there)


def test_noise_on_clients_is_in_the_sum_and_in_both_books(folder: Path) -> None:
    machines, mechanism = Machines(folder, SIX), noise_of(6)
    summed = noisy(folder / "server.sqlite", mechanism)
    coordinator = Coordinator(summed, SumSettings())
    finished = carry(coordinator, machines, lost={105: Stage.MASK})
    norms = {node: np.linalg.norm(machines.brought[node].vector) for node in SIX[:5]}
    total = sum(machines.brought[node].vector / max(1.0, norms[node]) for node in SIX[:5])
    assert np.abs(finished.result.vector - total).max() < 8 * mechanism.stddev(5)
    assert np.allclose(finished.model_update, finished.result.vector / 5)
    (server,) = {entry.actual for entry in summed.ledger.reservations() if entry.actual}
    assert server.server == mechanism.event(survivors=5)
    states = {entry.subject: entry.state for entry in summed.ledger.reservations()}
    assert states == {str(node): State.COMMITTED for node in SIX[:5]} | {"105": State.OPEN}
    for node in SIX[:5]:
        with machines.books(node) as books:
            (entry,) = books.reservations()
        assert (entry.state, entry.actual) == (State.COMMITTED, None)
        assert entry.charge.server == mechanism.event()
    assert not (machines.home(105) / "ledger.sqlite").exists()


def test_two_servers_of_one_ledger_charge_twice(folder: Path) -> None:
    summed = noisy(folder / "server.sqlite", noise_of(6))
    for name in ("one", "other"):
        carry(Coordinator(summed, SumSettings()), Machines(folder / name, SIX))
    assert len(summed.ledger.reservations()) == 12


def test_noise_on_examples_moves_the_model_by_their_public_number(folder: Path) -> None:
    machines = Machines(folder, SIX)
    mechanism = noise_of(6, unit=Unit.EXAMPLE, batch=64)
    summed = noisy(folder / "server.sqlite", mechanism, sampling_rate=0.5, learning_rate=0.1)
    finished = carry(Coordinator(summed, SumSettings()), machines)
    batch = 0.5 * 6 * 50
    assert np.allclose(finished.model_update, -0.1 / batch * finished.result.vector)
    with machines.books(100) as books:
        (entry,) = books.reservations()
    assert entry.charge.server.sampling.rate == 0.5


def told(folder: Path, says: Callable[[int, int], int], sums: int = 2) -> list[FinishedSum]:
    """Sums of noise on examples, in which node 100 says how many it has, by sum and truth."""
    machines, mechanism = Machines(folder, SIX), noise_of(6, unit=Unit.EXAMPLE, batch=64)
    summed = noisy(folder / "server.sqlite", mechanism, sampling_rate=0.5, learning_rate=0.1)
    coordinator, done = Coordinator(summed, SumSettings()), []
    for number in range(sums):
        under_way = coordinator.begin("train", SIX, model=machines.model, shapes=SHAPES)
        for ask in under_way.asks():
            for node in under_way.asked(ask):
                answer = machines.answer(node, under_way.request(ask, node))
                assert bool(answer.examples) is (ask.stage is Stage.MASK)
                said = says(number, answer.examples) if node == 100 else answer.examples
                with suppress(RemoteProtocolError):
                    under_way.receive(ask, node, replace(answer, examples=said))
        done.append(under_way.finish())
    return done


def test_how_many_examples_a_node_has_is_told_with_its_vector_and_in_the_result(
    folder: Path,
) -> None:
    (finished,) = told(folder, lambda _, true: true or 7, sums=1)  # at other stages it is not read
    assert finished.examples == dict.fromkeys(SIX, 50)


@pytest.mark.parametrize("said", [0, -1, 130, 2**62])
def test_a_number_of_examples_that_would_stop_or_blow_up_the_model_is_left_out(
    folder: Path, said: int
) -> None:
    (finished,) = told(folder, lambda _, true: said if true else 0, sums=1)
    assert finished.survivors == SIX[1:]
    assert finished.examples == dict.fromkeys(SIX[1:], 50)


def test_a_number_of_examples_stays_from_sum_to_sum(folder: Path) -> None:
    first, second = told(folder, lambda number, true: true and (50, 60)[number])
    assert (first.survivors, second.survivors) == (SIX, SIX[1:])


def test_nodes_that_do_not_say_how_many_examples_end_the_sum_unasked(folder: Path) -> None:
    machines = Machines(folder, SIX)
    summed = noisy(
        folder / "server.sqlite",
        noise_of(6, unit=Unit.EXAMPLE, batch=64),
        learning_rate=0.1,
    )
    machines.policy = NodePolicy(examples=None, minimum_cohort=2)
    with pytest.raises(TooFewSurvivors):
        carry(Coordinator(summed, SumSettings()), machines)
    assert all(isinstance(error, RefusedError) for error in machines.errors)
    assert summed.ledger.reservations() == []


def test_a_node_that_is_not_in_the_sum_is_not_heard_and_the_sum_goes_on(folder: Path) -> None:
    machines, coordinator = Machines(folder, (*SIX, 999)), mean_of()
    running = coordinator.begin("train", SIX, model=machines.model, shapes=SHAPES)
    ask = next(running.asks())
    answer = machines.ask(SIX[0], running.request(ask, SIX[0]), None)
    with pytest.raises(RemoteProtocolError, match="node 999 was not asked"):
        running.receive(ask, 999, answer)
    running.receive(ask, SIX[0], answer)


def test_a_node_whose_budget_is_spent_sends_nothing(folder: Path) -> None:
    machines = Machines(folder, SIX)
    machines.policy = NodePolicy(minimum_cohort=2, maximum_epsilon=0.1)
    summed = noisy(folder / "server.sqlite", noise_of(6))
    with pytest.raises(BudgetExceeded):
        carry(Coordinator(summed, SumSettings()), machines)
    assert not machines.brought  # nothing was computed


def test_a_changed_budget_does_not_open_the_old_ledger(folder: Path) -> None:
    machines = Machines(folder, SIX)
    coordinator = Coordinator(noisy(folder / "server.sqlite", noise_of(6)), SumSettings())
    carry(coordinator, machines)
    machines.policy = NodePolicy(minimum_cohort=2, maximum_epsilon=100.0)
    with pytest.raises(TooFewSurvivors):
        carry(coordinator, machines)
    assert "another budget" in str(machines.errors[0])


# What a coordinator refuses to propose


def test_evaluations_are_summed_only_by_name(folder: Path) -> None:
    machines = Machines(folder, SIX)
    with pytest.raises(InputError, match="evaluate_metrics="):
        carry(mean_of(), machines, purpose="evaluate", shapes=())
    named = WeightedMean(clip=1.0, max_weight=MAX_WEIGHT, evaluate_metrics={"loss": 10.0})
    finished = carry(Coordinator(named, SumSettings()), machines, purpose="evaluate", shapes=())
    check_mean(finished, machines)
    assert finished.result.vector.size == 0
    noise = Coordinator(noisy(folder / "server.sqlite", noise_of(6)), SumSettings())
    with pytest.raises(InputError, match="a release beside the noise"):
        carry(noise, machines, purpose="evaluate", shapes=())


def test_one_node_two_of_one_name_or_more_than_the_noise_is_for_are_refused(
    folder: Path,
) -> None:
    machines = Machines(folder, SIX)
    with pytest.raises(TooFewSurvivors, match="1 nodes were named, 3 needed"):
        carry(mean_of(), machines, nodes=[100])
    with pytest.raises(InputError, match="named twice"):
        carry(mean_of(), machines, nodes=[100, 100, 101])
    noise = Coordinator(noisy(folder / "server.sqlite", noise_of(5)), SumSettings())
    with pytest.raises(InputError, match="at most 5 nodes, 6 were named"):
        carry(noise, machines)


def test_cohorts_and_sums_that_contradict_themselves_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="unknown protocol"):
        SumSettings(protocol="plain")
    machines = Machines(folder, SIX)
    roster, _ = signing(machines)
    with pytest.raises(InputError, match="nothing is signed under threshold-ckks"):
        SumSettings(protocol="threshold-ckks", roster=roster)
    with pytest.raises(InputError, match="needs a learning_rate"):
        noisy(folder / "a.sqlite", noise_of(6), learning_rate=1.0)
    assert ANYTHING.minimum_cohort == 2


def test_a_sum_has_a_result_once_all_its_stages_were_carried(folder: Path) -> None:
    under_way = mean_of().begin("train", SIX, model=bytes(32), shapes=(("a", (2,)),))
    with pytest.raises(LocalProtocolError, match="no result"):
        under_way.finish()
    with pytest.raises(TooFewSurvivors):
        list(under_way.asks())  # and nobody answers
    with pytest.raises(LocalProtocolError, match="no result"):
        under_way.finish()
