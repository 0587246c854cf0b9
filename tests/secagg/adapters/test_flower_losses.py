"""Nodes are lost, fail, come late or bring nonsense: a right mean of the others, or none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import (
    MEAN,
    OPEN,
    START,
    Program,
    arrays_of,
    fit,
    grid_of,
    is_mean_of,
    mean_of,
    programs,
    record,
)
from flwr.app import Error, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from secagg.adapters.flower import SecureGrid, SumSettings, WeightedMean
from secagg.errors import InputError
from secagg.stage import UNSIGNED

DEADLINE = 0.01  # seconds, after all who answer have answered
LOSSY = SumSettings(dropout="0.3")
VICTIM = 103
STAGES = [stage.value for stage in UNSIGNED]


def only(node: int, stage: str) -> Any:
    return lambda each, at: (each, at) == (node, stage)


@pytest.mark.parametrize("way", ["lost", "fails", "late"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_others_mean_comes_out_whenever_one_goes(stage: str, way: str, folder: Path) -> None:
    nodes = programs(5)
    grid = grid_of(nodes, folder)
    setattr(grid, way, only(VICTIM, stage))
    secured = SecureGrid(grid, MEAN, LOSSY, deadline=DEADLINE)
    result = fit(secured)
    # Whose vector has arrived is in the sum, even if it reveals no shares.
    left = set(nodes) if stage == "reveal" else set(nodes) - {VICTIM}
    (report,) = secured.history
    assert set(report.survivors) == left
    assert is_mean_of([nodes[node] for node in left], result)
    (short,) = [each for each in report.stages if each.answered < each.asked]
    assert short.stage == stage
    # Of errors the strategy is told, of silence it is not.
    replies = [reply.error.reason for reply in grid.seen if reply.has_error()]
    assert len(replies) == (way == "fails")


@pytest.mark.parametrize("way", ["lost", "fails"])
@pytest.mark.parametrize("stage", ["mask", "reveal"])
def test_also_under_threshold_ckks(stage: str, way: str, folder: Path) -> None:
    nodes = programs(5)
    grid = grid_of(nodes, folder)
    setattr(grid, way, only(VICTIM, stage))
    secured = SecureGrid(grid, MEAN, SumSettings(protocol="threshold-ckks"), deadline=DEADLINE)
    result = fit(secured)
    if stage == "reveal":  # who holds a key and has answered must answer again
        assert secured.history[0].failure
        assert result.arrays is None or not len(result.arrays)
        return
    left = set(nodes) - {VICTIM}
    assert set(secured.history[0].survivors) == left
    assert is_mean_of([nodes[node] for node in left], result)


def test_an_answer_that_comes_after_its_stage_is_never_pulled(folder: Path) -> None:
    grid = grid_of(programs(5), folder)
    grid.late = only(VICTIM, "mask")
    fit(SecureGrid(grid, MEAN, LOSSY, deadline=DEADLINE))
    (unread,) = grid._replies.values()
    assert unread.metadata.src_node_id == VICTIM
    assert not any(reply is unread for reply in grid.seen)


def test_a_node_that_was_lost_is_back_in_the_next_round(folder: Path) -> None:
    nodes = programs(5)
    grid = grid_of(nodes, folder)
    secured = SecureGrid(grid, MEAN, LOSSY, deadline=DEADLINE)
    for stage in STAGES:
        grid.lost = only(VICTIM, stage)
        fit(secured)
        grid.lost = only(0, "")
        assert is_mean_of(nodes.values(), fit(secured))
        assert set(secured.history[-1].survivors) == set(nodes)


@pytest.mark.parametrize("stage", STAGES)
def test_of_too_few_the_strategy_gets_errors_and_the_next_round_works(
    stage: str, folder: Path
) -> None:
    nodes = programs(4)
    grid = grid_of(nodes, folder)
    heard = []

    class Listening(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            heard.append(list(replies))
            return super().aggregate_train(server_round, heard[-1])

    secured = SecureGrid(grid, MEAN, deadline=DEADLINE)

    def silent_at_first(node: int, at: str) -> bool:
        return len(secured.history) == 1 and node > 100 and at == stage

    grid.lost = silent_at_first
    strategy = Listening(fraction_evaluate=0.0)
    result = strategy.start(secured, record(START), num_rounds=2, timeout=DEADLINE)
    failed, worked = secured.history
    assert failed.survivors == ()
    assert "none, " in failed.failure
    assert failed.failure in str(failed)
    assert {reply.metadata.src_node_id for reply in heard[0]} == set(nodes)
    assert all("no sum" in reply.error.reason for reply in heard[0])
    assert list(result.train_metrics_clientapp) == [2]
    assert set(worked.survivors) == set(nodes)
    assert is_mean_of(nodes.values(), result)  # one round's mean: the first moved nothing


@pytest.mark.parametrize("stage", ["share", "mask", "reveal"])
@pytest.mark.parametrize("protocol", ["bonawitz", "threshold-ckks"])
def test_a_node_without_its_context_is_lost(stage: str, protocol: str, folder: Path) -> None:
    nodes = programs(5)
    grid = grid_of(nodes, folder)

    def restarts(node: int, at: str) -> bool:
        if (node, at) == (VICTIM, stage):
            grid.contexts.pop(VICTIM)
        return False

    grid.lost = restarts
    secured = SecureGrid(
        grid, MEAN, SumSettings(protocol=protocol, dropout="0.3"), deadline=DEADLINE
    )
    result = fit(secured)
    errors = [reply for reply in grid.seen if reply.has_error()]
    assert [error.metadata.src_node_id for error in errors] == [VICTIM]
    assert "no state: this node was restarted" in errors[0].error.reason
    if protocol == "bonawitz":
        left = set(nodes) if stage == "reveal" else set(nodes) - {VICTIM}
        assert set(secured.history[0].survivors) == left
        assert is_mean_of([nodes[node] for node in left], result)
    elif stage != "mask":
        assert secured.history[0].failure


class Broken(Program):
    """Replies what ``spoil`` makes of a good reply."""

    def spoil(self, reply: Message) -> Message:
        raise NotImplementedError

    def train(self, message: Message, context: Any) -> Message:
        return self.spoil(super().train(message, context))


class NotANumber(Broken):
    def spoil(self, reply: Message) -> Message:
        arrays = arrays_of(reply.content["arrays"])
        arrays["w"][0, 0] = np.nan
        reply.content["arrays"] = record(arrays)
        return reply


class Infinite(Broken):
    def spoil(self, reply: Message) -> Message:
        arrays = arrays_of(reply.content["arrays"])
        arrays["b"][-1] = np.inf
        reply.content["arrays"] = record(arrays)
        return reply


class OtherShapes(Broken):
    def spoil(self, reply: Message) -> Message:
        arrays = arrays_of(reply.content["arrays"])
        reply.content["arrays"] = record({**arrays, "b": arrays["b"][:-1]})
        return reply


class OtherNames(Broken):
    def spoil(self, reply: Message) -> Message:
        arrays = arrays_of(reply.content["arrays"])
        reply.content["arrays"] = record({"w": arrays["w"], "c": arrays["b"]})
        return reply


class NoWeight(Broken):
    def spoil(self, reply: Message) -> Message:
        del reply.content["metrics"]["num-examples"]
        return reply


class HalfAnExample(Broken):
    def spoil(self, reply: Message) -> Message:
        reply.content["metrics"]["num-examples"] = 2.5
        return reply


class TooHeavy(Broken):
    def spoil(self, reply: Message) -> Message:
        reply.content["metrics"]["num-examples"] = MEAN.max_weight + 40
        return reply


class WeighsNothing(Broken):
    def spoil(self, reply: Message) -> Message:
        reply.content["metrics"]["num-examples"] = 0
        return reply


class WeighsNotANumber(Broken):
    def spoil(self, reply: Message) -> Message:
        reply.content["metrics"]["num-examples"] = float("nan")
        return reply


class LossBeyond(Broken):
    def spoil(self, reply: Message) -> Message:
        reply.content["metrics"]["loss"] = 1.5
        return reply


class LossMissing(Broken):
    def spoil(self, reply: Message) -> Message:
        del reply.content["metrics"]["loss"]
        return reply


class NothingAtAll(Broken):
    def spoil(self, reply: Message) -> Message:
        reply.content = RecordDict()
        return reply


CUT = (TooHeavy, LossBeyond, LossMissing)  # to a bound, and counted
NO_WEIGHT = (*(each for each in Broken.__subclasses__() if each not in CUT),)


@pytest.mark.parametrize("kind", NO_WEIGHT, ids=lambda kind: kind.__name__)
def test_work_that_cannot_be_summed_has_no_weight_and_nobody_sees_whose_it_is(
    kind: type[Broken], folder: Path
) -> None:
    nodes = programs(5)
    nodes[VICTIM] = kind(node=VICTIM, examples=40)
    secured = SecureGrid(grid := grid_of(nodes, folder), MEAN, LOSSY, deadline=DEADLINE)
    result = fit(secured)
    (report,) = secured.history
    assert set(report.survivors) == set(nodes)
    assert (report.failed, report.clamped) == (int(kind is not WeighsNothing), 0)
    assert is_mean_of([nodes[node] for node in set(nodes) - {VICTIM}], result)
    assert not any(reply.has_error() for reply in grid.seen)


@pytest.mark.parametrize("kind", CUT, ids=lambda kind: kind.__name__)
def test_a_weight_or_a_metric_beyond_its_bound_is_cut_and_counted(
    kind: type[Broken], folder: Path
) -> None:
    nodes = programs(5)
    nodes[VICTIM] = kind(node=VICTIM, examples=MEAN.max_weight if kind is TooHeavy else 40)
    secured = SecureGrid(grid_of(nodes, folder), MEAN, LOSSY, deadline=DEADLINE)
    result = fit(secured)
    (report,) = secured.history
    assert set(report.survivors) == set(nodes)
    assert (report.failed, report.clamped) == (0, 1)
    for key, mean in mean_of(nodes.values()).items():
        assert np.abs(arrays_of(result.arrays)[key] - mean).max() < 0.1 * 2**-10


def test_what_is_beyond_the_clip_is_cut_and_counted(folder: Path) -> None:
    class Wild(Program):
        def update(self, arrays: Any) -> Any:
            own = super().update(arrays)
            own["b"] = np.array([1.0, -1.0, 0.05, 7.0])
            return own

    nodes: dict[int, Program] = {node: Wild(node=node, examples=10) for node in (100, 101, 102)}
    nodes[103] = Program(node=103, examples=10)
    secured = SecureGrid(grid_of(nodes, folder), MEAN)
    result = fit(secured)
    assert secured.history[0].clipped == pytest.approx(9 / 40)  # of four nodes' ten entries
    calm = nodes[103].update(START)["b"]
    cut = (3 * np.array([0.1, -0.1, 0.05, 0.1]) + calm) / 4
    assert np.allclose(arrays_of(result.arrays)["b"], START["b"] + cut, rtol=0, atol=1e-4)


class Telling(Program):
    def train(self, message: Message, context: Any) -> Message:
        raise KeyError("patient 4711")


class Replying(Program):
    def train(self, message: Message, context: Any) -> Message:
        return Message(Error(code=0, reason="patient 4711"), reply_to=message)


@pytest.mark.parametrize("kind", [Telling, Replying])
def test_that_a_program_failed_stays_at_its_node(kind: type[Program], folder: Path) -> None:
    nodes = programs(4)
    nodes[VICTIM] = kind(node=VICTIM)
    grid = grid_of(nodes, folder)
    secured = SecureGrid(grid, MEAN, LOSSY, deadline=DEADLINE)
    fit(secured)
    assert not any(reply.has_error() for reply in grid.seen)
    assert secured.history[0].failed == 1


def test_weights_of_zero_everywhere_make_no_mean(folder: Path) -> None:
    nodes = {node: Program(node=node, examples=0) for node in (100, 101, 102)}
    secured = SecureGrid(
        grid_of(nodes, folder), WeightedMean(clip=1, max_weight=1), deadline=DEADLINE
    )
    fit(secured)
    assert secured.history[0].failure


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_a_deadline_that_nobody_can_keep_is_refused(deadline: float, folder: Path) -> None:
    grid = grid_of(programs(3), folder)
    with pytest.raises(InputError, match="must be above 0"):
        SecureGrid(grid, MEAN, deadline=deadline)
    with pytest.raises(InputError, match="must be above 0"):
        fit(SecureGrid(grid, MEAN), timeout=deadline)


def test_a_model_that_is_not_finite_is_said_to_be_the_servers(folder: Path) -> None:
    nodes = programs(3)
    secured = SecureGrid(grid := grid_of(nodes, folder), MEAN, deadline=DEADLINE)
    broken = record({"w": np.full((2, 3), np.nan, np.float32), "b": np.zeros(4)})
    sent = [Message(RecordDict({"arrays": broken}), node, "train") for node in nodes]
    replies = secured.send_and_receive(sent, timeout=DEADLINE)
    assert all("model that the server sent is NaN or infinite" in r.error.reason for r in replies)
    assert not grid.sent


def test_a_mean_that_is_lost_in_its_rounding_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes: dict[int, Program] = {node: Program(node=node, examples=1) for node in (100, 101, 102)}
    caplog.set_level("WARNING", "flwr")
    for name, most, lost in (("near", 1, False), ("far", 10**7, True)):
        (folder / name).mkdir()
        caplog.clear()
        secured = SecureGrid(grid_of(nodes, folder / name), WeightedMean(clip=0.5, max_weight=most))
        fit(secured)
        assert (secured.history[0].mean_error > 1) is lost
        assert (f"bring max_weight {most} near" in caplog.text) is lost


def test_why_there_was_no_sum_holds_what_most_nodes_said(folder: Path) -> None:
    nodes = programs(3)
    policy = replace(OPEN, allow_no_noise=False)
    secured = SecureGrid(grid_of(nodes, folder, policy), MEAN, deadline=DEADLINE)
    fit(secured)
    assert "3 of 3 errors: " in secured.history[0].failure
    assert "allow_no_noise" in secured.history[0].failure
