"""Sums with noise: both books, what is charged before what, and what does not travel."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import OPEN, START, Program, arrays_of, fit, record
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict

from dp.accounting.events import NoSampling
from dp.errors import BudgetExceeded
from dp.ledger.books import Budget, State
from dp.ledger.ledger import Ledger
from secagg.adapters.flower import NoisySum, SecureGrid
from secagg.adapters.testing import LocalGrid, answer_of, stage_of
from secagg.errors import InputError
from secagg.nodes.node import SUBJECT, new_folder
from secagg.nodes.policy import NodePolicy
from secagg.planning import NoiseWishes, SumWishes, plan_noise
from secagg.vectors.arrays import model_digest

DEADLINE = 0.01  # seconds, after all who answer have answered
NODES = range(100, 108)
BUDGET = Budget(epsilon=8.0, delta=1e-4)
ENTRIES = sum(array.size for array in START.values())
WISHES = SumWishes(clients=8, rounds=2, entries=ENTRIES)
CLIENT, EXAMPLE = (
    plan_noise(WISHES, NoiseWishes(epsilon=8, delta=1e-4, **what), measure=False).mechanism
    for what in ({"unit": "client"}, {"unit": "example", "examples": 400})
)
# Almost no noise, so that sums can be compared: who asks for it needs such a budget.
AMPLE = Budget(epsilon=1e5, delta=1e-4)
FAINT = {"noise_multiplier": 0.03, "bits": 32, "scale": 1e4}
POLICY = replace(OPEN, examples=50, maximum_epsilon=9.0, delta=1e-4)


class Gradients(Program):
    """Replies a sum of clipped gradients, all alike."""

    def train(self, message: Message, context: Context) -> Message:
        self.ran.append(message.content)
        arrays = arrays_of(message.content["arrays"])
        sums = {key: np.full_like(array, 3) for key, array in arrays.items()}
        said = {"arrays": record(sums), "metrics": MetricRecord({"num-examples": 7})}
        return Message(RecordDict(dict(said)), reply_to=message)


class Trial:
    def __init__(
        self,
        folder: Path,
        *,
        policies: dict[int, NodePolicy] | None = None,
        example: bool = False,
        faint: bool = False,
    ) -> None:
        self.folder = folder
        kind = Gradients if example else Program
        self.nodes = {node: kind(node=node, examples=10 + node) for node in NODES}
        budget, mechanism = BUDGET, EXAMPLE if example else CLIENT
        common = POLICY
        if faint:
            budget, mechanism = AMPLE, replace(mechanism, **FAINT)
            common = replace(POLICY, maximum_epsilon=AMPLE.epsilon)
        apps = {
            node: each.app(new_folder(folder / str(node)), (policies or {}).get(node, common))
            for node, each in self.nodes.items()
        }
        self.grid = LocalGrid(apps)
        self.ledger = Ledger.create(folder / "server.sqlite", budget)
        self.summed = NoisySum(
            mechanism=mechanism,
            ledger=self.ledger,
            learning_rate=0.5 if example else None,
        )
        self.secured = SecureGrid(self.grid, self.summed, deadline=DEADLINE)

    def own(self, node: int) -> Ledger:
        return Ledger.open(self.folder / str(node) / "ledger.sqlite")

    def states(self) -> dict[str, State]:
        return {entry.subject: entry.state for entry in self.ledger.reservations()}

    def asked(self, stage: str) -> list[Message]:
        return [message for message in self.grid.sent if stage_of(message) == stage]

    def errors(self) -> dict[int, str]:
        found = (reply for reply in self.grid.seen if reply.has_error())
        return {reply.metadata.src_node_id: reply.error.reason for reply in found}


def names(nodes: Any) -> set[str]:
    return {str(node) for node in nodes}


def test_all_are_charged_before_a_vector_is_asked_for_and_committed_after(folder: Path) -> None:
    trial, before = Trial(folder), {}

    def look(node: int, stage: str) -> bool:
        if stage == "mask":
            before.setdefault(node, trial.states())
        elif stage in ("advertise", "share"):
            assert not trial.states()
        return False

    trial.grid.lost = look
    fit(trial.secured)
    assert before == dict.fromkeys(NODES, dict.fromkeys(names(NODES), State.OPEN))
    for entry in trial.ledger.reservations():
        assert entry.state is State.COMMITTED
        assert entry.survivors == len(NODES)
        assert entry.charge.server == CLIENT.event()
        assert entry.actual
        assert entry.actual.server == CLIENT.event(survivors=len(NODES))


def test_who_is_lost_after_it_was_asked_stays_charged(folder: Path) -> None:
    trial = Trial(folder)
    trial.grid.lost = lambda node, stage: (node, stage) == (103, "mask")
    fit(trial.secured)
    left = set(NODES) - {103}
    assert set(trial.secured.history[0].survivors) == left
    assert trial.states() == {**dict.fromkeys(names(left), State.COMMITTED), "103": State.OPEN}
    committed = [e for e in trial.ledger.reservations() if e.state is State.COMMITTED]
    assert all(entry.survivors == 7 for entry in committed)


def test_who_is_lost_before_is_not_charged(folder: Path) -> None:
    trial = Trial(folder)
    trial.grid.lost = lambda node, stage: (node, stage) == (103, "share")
    fit(trial.secured)
    assert set(trial.states()) == names(set(NODES) - {103})


def test_a_round_that_fails_stays_charged(folder: Path) -> None:
    trial = Trial(folder)
    trial.grid.lost = lambda node, stage: stage == "reveal"
    fit(trial.secured)
    assert trial.secured.history[0].failure
    assert trial.states() == dict.fromkeys(names(NODES), State.OPEN)


def test_a_nodes_own_book_is_charged_before_its_program_runs(folder: Path) -> None:
    trial, before = Trial(folder), []
    train = trial.nodes[103].train

    def looking(message: Message, context: Context) -> Message:
        before.append([entry.state for entry in trial.own(103).reservations()])
        return train(message, context)

    trial.nodes[103].train = looking  # type: ignore[method-assign]  # a spy
    fit(trial.secured)
    (entry,) = trial.own(103).reservations()
    assert before == [[State.OPEN]]
    assert (entry.subject, entry.state) == (SUBJECT, State.COMMITTED)
    assert entry.charge.server == CLIENT.event()


def test_a_program_that_failed_is_charged_as_any_other(folder: Path) -> None:
    trial = Trial(folder)

    def fails(message: Message, context: Context) -> Message:
        raise RuntimeError

    trial.nodes[103].train = fails  # type: ignore[method-assign]  # it brings its noise alone
    fit(trial.secured)
    (entry,) = trial.own(103).reservations()
    assert entry.state is State.COMMITTED
    assert trial.states()["103"] is State.COMMITTED
    assert not trial.errors()


def test_an_exhausted_budget_ends_the_strategy_before_a_vector_is_asked_for(folder: Path) -> None:
    trial = Trial(folder)
    with pytest.raises(BudgetExceeded):
        fit(trial.secured, rounds=9)
    *worked, refused = trial.secured.history
    assert len(worked) >= 2
    assert not any(report.failure for report in worked)
    assert "its budget is" in refused.failure
    assert len(trial.asked("mask")) == len(worked) * len(NODES)
    assert all(len(each.ran) == len(worked) for each in trial.nodes.values())
    assert max(trial.ledger.epsilons().values()) <= BUDGET.epsilon


def test_a_node_whose_own_budget_is_spent_says_nothing_of_it(folder: Path) -> None:
    poor = replace(POLICY, maximum_epsilon=3.5)
    trial = Trial(folder, policies={103: poor})
    fit(trial.secured, rounds=2)
    assert trial.errors().keys() == {103}
    said = trial.errors()[103]
    assert "this node cannot take part (BudgetExceeded)" in said
    assert not re.search(r"\d", said)
    assert all(103 not in report.survivors for report in trial.secured.history)
    assert not trial.nodes[103].ran


def test_the_reply_holds_the_sum_and_the_public_count_alone(folder: Path) -> None:
    trial = Trial(folder)
    trial.grid.lost = lambda node, stage: (node, stage) == (103, "mask")
    content = RecordDict({"arrays": record(START)})
    asked = [Message(content, node, "train") for node in NODES]
    (reply,) = trial.secured.send_and_receive(asked, timeout=DEADLINE)
    assert set(reply.content) == {"arrays", "metrics"}
    assert dict(reply.content["metrics"]) == {"num-examples": 7}
    for answer in trial.grid.seen:
        assert answer_of(answer).examples == 0
        assert not answer.content.metric_records


def deviation(trial: Trial) -> float:
    """Of the noise in an entry of the sum, and of one rounding a client."""
    mechanism = trial.summed.mechanism
    return float(np.sqrt(len(NODES) * (mechanism.share_variance + 1))) / mechanism.scale


def test_the_model_moves_by_the_mean_of_clients_updates(folder: Path) -> None:
    trial = Trial(folder, faint=True)
    for node, each in trial.nodes.items():
        step = 0.3 if node < 106 else -0.1  # whatever its examples, nobody weighs more

        def update(arrays: Any, step: float = step) -> Any:
            return {key: np.full_like(array, step) for key, array in arrays.items()}

        each.update = update  # type: ignore[method-assign]  # its data
    result = fit(trial.secured)
    error = 9 * deviation(trial) / len(NODES)
    assert error < 0.05
    for key, array in arrays_of(result.arrays).items():
        assert np.allclose(array, START[key] + (6 * 0.3 - 2 * 0.1) / 8, rtol=0, atol=error)


def test_a_cohort_that_the_server_picks_is_charged_without_amplification(folder: Path) -> None:
    private = NoiseWishes(epsilon=8, delta=1e-4, unit="client")
    mechanism = plan_noise(replace(WISHES, clients=4), private, measure=False).mechanism
    trial = Trial(folder)
    summed = NoisySum(mechanism=mechanism, ledger=trial.ledger)
    secured = SecureGrid(trial.grid, summed, deadline=DEADLINE)
    fit(secured, fraction_train=0.5)
    picked = secured.history[0].nodes
    assert len(picked) == 4
    assert set(trial.states()) == names(picked)
    for entry in trial.ledger.reservations():
        assert entry.charge.server == entry.charge.release == mechanism.event()
        assert entry.charge.server.sampling == NoSampling()  # type: ignore[union-attr]  # Skellam
    for node in picked:
        (own,) = trial.own(node).reservations()
        assert own.charge.server == mechanism.event()
    with pytest.raises(InputError, match="sampling_rate must be 1"):
        fit(SecureGrid(trial.grid, replace(summed, sampling_rate=0.5)), fraction_train=0.5)


def test_more_nodes_than_the_noise_is_for_are_refused(folder: Path) -> None:
    trial = Trial(folder)
    few = replace(CLIENT, clients=7, minimum_survivors=min(7, CLIENT.minimum_survivors))
    with pytest.raises(InputError, match="at most 7 nodes, 8 were named"):
        fit(SecureGrid(trial.grid, replace(trial.summed, mechanism=few)))


def test_evaluate_is_left_out_beside_noise(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    trial = Trial(folder)
    caplog.set_level("WARNING", "flwr")
    assert not fit(trial.secured, fraction_evaluate=1.0).evaluate_metrics_clientapp
    assert "fraction_evaluate=0" in caplog.text
    assert {message.metadata.message_type for message in trial.grid.sent} == {"train"}


def test_of_examples_the_program_is_told_clip_and_rate_and_the_divisor_is_public(
    folder: Path,
) -> None:
    trial = Trial(folder, example=True, faint=True)
    trial.grid.lost = lambda node, stage: (node, stage) == (103, "mask")
    result = fit(trial.secured)
    for node, each in trial.nodes.items():
        if node != 103:
            (content,) = each.ran
            told = {"clip": EXAMPLE.clip, "sampling-rate": 1.0}
            assert dict(content["secagg.privacy"]) == told
            assert "secagg" not in content
    gradient, examples = 7 * 3, 7 * 50  # of the survivors; 50 are in every policy
    error = 0.5 * 9 * deviation(trial) / examples
    assert error < 0.5 * gradient / examples / 40
    for key, array in arrays_of(result.arrays).items():
        step = START[key] - 0.5 * gradient / examples
        assert np.allclose(array, step, rtol=0, atol=error + 2**-23)
    assert dict(result.train_metrics_clientapp[1]) == {}


def test_who_says_no_number_of_examples_does_not_take_part(folder: Path) -> None:
    trial = Trial(folder, example=True, policies={103: replace(POLICY, examples=None)})
    fit(trial.secured)
    assert "this node's policy refuses (examples)" in trial.errors()[103]
    assert 103 not in trial.secured.history[0].survivors
    assert len(trial.secured.history[0].survivors) == 7


def test_noise_on_examples_needs_a_learning_rate_and_on_clients_none(folder: Path) -> None:
    ledger = Ledger.create(folder / "server.sqlite", BUDGET)
    for mechanism, rate in ((EXAMPLE, None), (CLIENT, 0.1)):
        with pytest.raises(InputError, match="learning_rate"):
            NoisySum(mechanism=mechanism, ledger=ledger, learning_rate=rate)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_becomes_zeros_and_the_share_of_noise(value: float, folder: Path) -> None:
    trial = Trial(folder)

    def spoilt(arrays: Any) -> Any:
        return {key: np.full_like(array, value) for key, array in arrays.items()}

    trial.nodes[103].update = spoilt  # type: ignore[method-assign]  # it diverged
    fit(trial.secured)
    assert set(trial.secured.history[0].survivors) == set(NODES)
    assert not trial.errors()


def test_two_runs_of_the_same_differ_by_their_noise(folder: Path) -> None:
    first, second = (fit(Trial(folder / name).secured) for name in ("first", "second"))
    assert isinstance(first.arrays, ArrayRecord)
    assert not np.array_equal(first.arrays["b"].numpy(), second.arrays["b"].numpy())


def test_the_ledger_names_the_model_that_came_of_each_sum(folder: Path) -> None:
    trial = Trial(folder)
    result = fit(trial.secured)
    (named,) = (entry for entry in trial.ledger.records() if entry.action == "model")
    assert named.data["model"] == model_digest(arrays_of(result.arrays)).hex()
    assert trial.ledger.verify().head.seq >= named.seq
