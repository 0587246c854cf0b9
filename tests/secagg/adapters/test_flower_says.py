"""What would have failed in silence is said: by an error, a line of log, or a named count."""

import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine import MEAN, START, Program, arrays_of, fit, grid_of, mean_of, programs, record
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from secagg.adapters.flower import SecureGrid, SumSettings, WeightedMean
from secagg.adapters.simulation import ACTORS, simulated_home
from secagg.adapters.testing import LocalGrid
from secagg.errors import InputError, NodeError

DEADLINE = 0.01


class Spoiling(Program):
    """Changes its reply: ``how`` is one of the methods below."""

    how = ""

    def train(self, message: Message, context: Any) -> Message:
        reply = super().train(message, context)
        if self.how:
            getattr(self, self.how)(reply.content)
        return reply

    def raises(self, content: RecordDict) -> None:
        raise KeyError("patient 4711")

    def adds(self, content: RecordDict) -> None:
        content["arrays"] = record({**arrays_of(content["arrays"]), "more": np.zeros(2)})

    def sends_two(self, content: RecordDict) -> None:
        content["other"] = content["arrays"]

    def names_twice(self, content: RecordDict) -> None:
        content["more"] = MetricRecord({"loss": 0.9})

    def has_no_weight(self, content: RecordDict) -> None:
        del content["metrics"]["num-examples"]

    def is_not_finite(self, content: RecordDict) -> None:
        content["arrays"] = record({key: array * np.nan for key, array in START.items()})

    def is_heavy(self, content: RecordDict) -> None:
        content["metrics"]["num-examples"] = 101

    def loses_a_metric(self, content: RecordDict) -> None:
        del content["metrics"]["loss"]

    def has_a_high_loss(self, content: RecordDict) -> None:
        content["metrics"]["loss"] = 12.0


REASONS = {
    "raises": "the app raised an error",
    "adds": "the reply's arrays are not those that were sent",
    "sends_two": "the reply's arrays are not those that were sent",
    "names_twice": "the reply names a metric in two records",
    "has_no_weight": "the reply has no whole number to weigh it by",
    "is_not_finite": "the update is not finite, or of another length",
    "is_heavy": "weight 'num-examples' outside 0 to 100",
    "loses_a_metric": "metric 'loss' missing or no number",
    "has_a_high_loss": "metric 'loss' beyond 1",
}


def spoiling(how: str, count: int) -> dict[int, Program]:
    """Five nodes, of which so many spoil their replies."""
    nodes: dict[int, Program] = {100 + i: Spoiling(node=100 + i, examples=20) for i in range(5)}
    for node in list(nodes)[:count]:
        nodes[node].how = how  # type: ignore[attr-defined]  # these are
    return nodes


@pytest.mark.parametrize("how", REASONS)
def test_the_server_reads_how_many_nodes_have_which_reason_and_not_whose(
    how: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "flwr")
    secured = SecureGrid(grid := grid_of(spoiling(how, 2), folder), MEAN, deadline=DEADLINE)
    fit(secured)
    (report,) = secured.history
    assert report.reasons == {REASONS[how]: 2}
    assert len(report.survivors) == 5
    assert f"2 of 5 nodes: {REASONS[how]}" in caplog.text
    assert not any(reply.has_error() for reply in grid.seen)


def test_the_error_of_a_strategy_without_a_sum_has_the_reason(folder: Path) -> None:
    secured = SecureGrid(grid_of(spoiling("has_no_weight", 5), folder), MEAN, deadline=DEADLINE)
    sent = [Message(RecordDict({"arrays": record(START)}), n, "train") for n in range(100, 105)]
    for reply in secured.send_and_receive(sent, timeout=DEADLINE):
        assert "; 5: the reply has no whole number to weigh it by" in reply.error.reason


# Runs that come to nothing


def test_a_run_that_never_has_a_sum_ends_at_its_third_training(folder: Path) -> None:
    secured = SecureGrid(grid_of(spoiling("raises", 5), folder), MEAN, deadline=DEADLINE)
    with pytest.raises(NodeError, match=r"3 trainings in a row .*5: the app raised an error"):
        fit(secured, rounds=9)
    assert len(secured.history) == 3


def later(secured: SecureGrid, grid: LocalGrid) -> None:
    """Lose all nodes after the first sum."""
    grid.lost = lambda node, stage: len(secured.history) > 1


def test_a_run_that_had_a_sum_keeps_its_model(folder: Path) -> None:
    secured = SecureGrid(grid := grid_of(programs(4), folder), MEAN, deadline=DEADLINE)
    later(secured, grid)
    result = fit(secured, rounds=6)
    assert [bool(report.failure) for report in secured.history] == [False] + [True] * 5
    assert result.arrays


def test_or_ends_after_as_many_as_were_said(folder: Path) -> None:
    grid = grid_of(programs(4), folder)
    secured = SecureGrid(grid, MEAN, deadline=DEADLINE, fail_after=2)
    later(secured, grid)
    with pytest.raises(NodeError, match=r"2 trainings in a row.*SecureGrid.model is the model"):
        fit(secured, rounds=6)
    assert len(secured.history) == 3
    with pytest.raises(InputError, match="fail_after is 0"):
        SecureGrid(grid, MEAN, fail_after=0)
    # The model of the sum that there was is not lost with the run.
    whole = fit(SecureGrid(grid_of(programs(4), folder / "more"), MEAN, deadline=DEADLINE))
    assert secured.model is not None
    for name, array in secured.model.items():
        assert np.allclose(array.numpy(), whole.arrays[name].numpy(), atol=1e-3)


def test_a_sum_of_too_few_says_what_to_set_and_has_no_empty_brackets(folder: Path) -> None:
    settings = WeightedMean(clip=1.0, evaluate_metrics={"accuracy": 1.0})
    secured = SecureGrid(grid_of(programs(3), folder), settings, deadline=DEADLINE)
    fit(secured, fraction_evaluate=0.5, min_evaluate_nodes=1)
    said = str(secured.history[-1])
    assert secured.history[-1].failure
    assert "fraction_evaluate=1.0 and min_evaluate_nodes=3, or fraction_evaluate=0" in said
    assert "()" not in said


# Nodes


def test_a_strategy_waits_for_as_many_nodes_as_a_sum_needs(folder: Path) -> None:
    nodes = programs(3)

    class Connecting(LocalGrid):
        """Two nodes are there at once, the third when it is asked again."""

        asked = 0

        def get_node_ids(self) -> Iterable[int]:
            self.asked += 1
            return list(self.apps)[: 2 if self.asked < 3 else 3]

    secured = SecureGrid(Connecting(grid_of(nodes, folder).apps), MEAN, deadline=5)
    result = FedAvg(fraction_evaluate=0).start(secured, record(START), num_rounds=1, timeout=1)
    assert set(secured.history[0].survivors) == set(nodes)
    assert result.arrays


def test_too_few_nodes_are_said_before_training(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "flwr")
    grid = grid_of(programs(2), folder)
    secured = SecureGrid(grid, MEAN, deadline=DEADLINE)
    fit(secured)
    assert "2 nodes are connected, a sum needs 3" in caplog.text
    assert "2 nodes were named, 3 needed" in secured.history[0].failure
    assert not grid.sent


# What nobody said


def test_without_a_word_small_weights_lose_nothing_and_metrics_need_a_name_alone(
    folder: Path,
) -> None:
    nodes = programs(4)
    named = WeightedMean(train_metrics=["loss"], evaluate_metrics=["accuracy"])
    secured = SecureGrid(grid_of(nodes, folder), named)
    result = fit(secured, timeout=1, fraction_evaluate=1.0)
    weights = [each.examples for each in nodes.values()]
    for name, found in (
        ("loss", result.train_metrics_clientapp[1]),
        ("accuracy", result.evaluate_metrics_clientapp[1]),
    ):
        true = np.average([each.metrics(name)[name] for each in nodes.values()], 0, weights)
        assert found[name] == pytest.approx(true, abs=2e-4)  # a step of 5e-8 times max_weight
    train, _ = secured.history
    assert train.error_share < 1e-3
    for key, mean in mean_of(nodes.values()).items():
        assert np.abs(arrays_of(result.arrays)[key] - mean).max() <= train.mean_error + 1e-6


def test_what_no_default_serves_is_refused() -> None:
    with pytest.raises(InputError, match="say max_weight"):
        SecureGrid(LocalGrid({}), cohort=SumSettings(protocol="threshold-ckks"))
    with pytest.raises(InputError, match=r"train_metrics is 'loss', expected names: \['loss'\]"):
        WeightedMean(train_metrics="loss")


def test_folders_are_made_in_an_actor_of_the_simulation_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, ACTORS, raising=False)  # a test before may have simulated
    assert simulated_home(1, 2) is None
    actor = SimpleNamespace(get_actor_id=lambda: "an actor")
    ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: actor)
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]  # in its place
    assert simulated_home(1, 2) is None  # Ray may be an app's own
    monkeypatch.setitem(sys.modules, ACTORS, ray)  # type: ignore[arg-type]  # the same
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    home = simulated_home(1, 2)
    assert home == simulated_home(1, 2)
    assert home is not None
    assert (home / "policy.toml").exists()
    assert home.parents[1].stat().st_mode & 0o077 == 0
    home.parents[1].rename(tmp_path / "elsewhere")
    home.parents[1].symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NodeError, match="another user's"):
        simulated_home(1, 2)
