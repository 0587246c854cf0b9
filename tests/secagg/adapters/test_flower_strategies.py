"""Strategies that average, unchanged, give under a SecureGrid what they give over a plain grid.

Tolerance: ``WeightedMean`` promises each mean within a step times max_weight over the mean
weight of the true one. None of these strategies, as set here, makes more than 6 of such an
error over three rounds (FedAvgM's momentum: 1 + 1.9 + 2.7), and the programs feed none of it
back. On top come a few roundings of the arrays' own type, which the plain grid makes too.
"""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import Program, arrays_of, grid_of, mean_of, programs, record
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
    Result,
    Strategy,
)

from secagg.adapters.flower import SecureGrid, SumSettings, WeightedMean
from secagg.errors import InputError
from secagg.vectors.quantize import FixedPoint

NODES, ROUNDS = 4, 3
BITS = 19  # 21, a third of a word, less two for four nodes
CLIP, MAX_WEIGHT, MEAN_WEIGHT = 0.1, 40, 25
MEAN = WeightedMean(
    clip=CLIP,
    max_weight=MAX_WEIGHT,
    train_metrics={"loss": 1.0},
    evaluate_metrics={"accuracy": 1.0},
)
ERROR = FixedPoint(clip=CLIP, bits=BITS).step * MAX_WEIGHT / MEAN_WEIGHT
METRIC_ERROR = FixedPoint(clip=1.0, bits=32).step * MAX_WEIGHT / MEAN_WEIGHT
START = {
    "layer.weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "layer.bias": np.linspace(0, 1, 3, dtype=np.float64),
    "half": np.linspace(-1, 1, 5, dtype=np.float16),
    "temperature": np.array(0.5, np.float32),
    "empty": np.zeros((0, 2), np.float32),
}


class ByHand(Strategy):
    """A strategy of somebody's own: half a step towards the mean, for an action of its own."""

    kind = "train.other"

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.arrays = arrays
        content = {"arrays": arrays, "config": ConfigRecord({"round": server_round})}
        return [Message(RecordDict(dict(content)), node, self.kind) for node in grid.get_node_ids()]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        found = [each.content for each in replies if not each.has_error()]
        weights = np.array([content["metrics"]["num-examples"] for content in found], float)
        trained = [arrays_of(content["arrays"]) for content in found]
        now = {
            key: (array + np.average([each[key] for each in trained], 0, weights)) / 2
            for key, array in arrays_of(self.arrays).items()
        }
        loss = np.average([content["metrics"]["loss"] for content in found], 0, weights)
        return record(now), MetricRecord({"loss": float(loss)})

    def configure_evaluate(self, *_: Any) -> Iterable[Message]:
        return []

    def aggregate_evaluate(self, *_: Any) -> MetricRecord | None:
        return None

    def summary(self) -> None:
        pass


# A large tau: these optimisers divide by the root of a second moment plus tau.
OPTIMISER = {"eta": 0.1, "tau": 0.1, "fraction_evaluate": 0.0}
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "FedAvg": FedAvg,
    "FedProx": lambda: FedProx(proximal_mu=0.1, fraction_evaluate=0.0),
    "FedAvgM": lambda: FedAvgM(
        server_learning_rate=1.0, server_momentum=0.9, fraction_evaluate=0.0
    ),
    "FedAdam": lambda: FedAdam(**OPTIMISER),
    "FedYogi": lambda: FedYogi(**OPTIMISER),
    "FedAdagrad": lambda: FedAdagrad(**OPTIMISER),
    "by hand": ByHand,
}


def run(strategy: Strategy, grid: Grid, start: dict[str, Any] = START) -> Result:
    return strategy.start(grid, record(start), num_rounds=ROUNDS, timeout=5)


def both(
    make: Callable[[], Strategy],
    root: Path,
    *,
    mean: WeightedMean = MEAN,
    cohort: SumSettings | None = None,
    nodes: dict[int, Program] | None = None,
    action: str = "default",
    start: dict[str, Any] = START,
) -> tuple[Result, Result]:
    """Over the plain grid, and as sums."""
    nodes = nodes or programs(NODES)
    plain, secured = (grid_of(nodes, where, action=action) for where in (None, root))
    return run(make(), plain, start), run(make(), SecureGrid(secured, mean, cohort), start)


def close(plain: Result, secured: Result, error: float = ERROR) -> None:
    expected, found = arrays_of(plain.arrays), arrays_of(secured.arrays)
    assert found.keys() == expected.keys()
    for key, array in found.items():
        own = float(np.finfo(START[key].dtype).eps)
        assert array.shape == expected[key].shape
        assert np.allclose(array, expected[key], rtol=0, atol=8 * error + 8 * own), key


def metrics_close(plain: dict[int, Any], secured: dict[int, Any], error: float) -> None:
    assert secured.keys() == plain.keys()
    for number, expected in plain.items():
        assert dict(secured[number]) == pytest.approx(dict(expected), rel=0, abs=error)


@pytest.mark.parametrize("name", STRATEGIES)
def test_gives_what_it_gives_over_a_plain_grid(name: str, folder: Path) -> None:
    action = "other" if name == "by hand" else "default"
    plain, secured = both(STRATEGIES[name], folder, action=action)
    close(plain, secured)
    assert list(plain.train_metrics_clientapp) == [1, 2, 3]
    metrics_close(plain.train_metrics_clientapp, secured.train_metrics_clientapp, METRIC_ERROR)
    metrics_close(
        plain.evaluate_metrics_clientapp, secured.evaluate_metrics_clientapp, METRIC_ERROR
    )
    assert (name == "FedAvg") is bool(secured.evaluate_metrics_clientapp)


def test_arrays_keep_their_types(folder: Path) -> None:
    _, secured = both(FedAvg, folder)
    assert {key: array.dtype for key, array in arrays_of(secured.arrays).items()} == {
        key: array.dtype for key, array in START.items()
    }


def test_arrays_keep_their_order(folder: Path) -> None:
    _, secured = both(FedAvg, folder)
    assert list(secured.arrays) == list(START)


def test_gives_it_under_threshold_ckks(folder: Path) -> None:
    mean = WeightedMean(clip=CLIP, max_weight=MAX_WEIGHT, evaluate_metrics={})
    plain, secured = both(FedAvg, folder, mean=mean, cohort=SumSettings(protocol="threshold-ckks"))
    own = CLIP * 2**-14 * MAX_WEIGHT / MEAN_WEIGHT  # secagg.rounds.ckks.PRECISION, of the range
    close(plain, secured, own)


def test_weights_under_another_name(folder: Path) -> None:
    nodes = programs(NODES)
    for each in nodes.values():
        each.weighted_by = "tokens"
    mean = WeightedMean(clip=CLIP, max_weight=MAX_WEIGHT, weighted_by="tokens", evaluate_metrics={})
    plain, secured = both(lambda: FedAvg(weighted_by_key="tokens"), folder, mean=mean, nodes=nodes)
    close(plain, secured)
    assert all(not metrics for metrics in secured.train_metrics_clientapp.values())


def test_metrics_that_nobody_named_stay_on_their_nodes(folder: Path) -> None:
    secured = SecureGrid(
        grid_of(programs(3), folder), WeightedMean(clip=CLIP, max_weight=MAX_WEIGHT)
    )
    result = run(FedAvg(fraction_evaluate=0), secured)
    assert [dict(metrics) for metrics in result.train_metrics_clientapp.values()] == [{}] * ROUNDS


def test_the_program_sees_what_the_strategy_sent_once_a_round(folder: Path) -> None:
    nodes = programs(3)
    plain = programs(3)
    run(FedProx(proximal_mu=0.5, fraction_evaluate=0), grid_of(plain, None))
    secured = SecureGrid(grid_of(nodes, folder), MEAN)
    run(FedProx(proximal_mu=0.5, fraction_evaluate=0), secured)
    for node, each in nodes.items():
        assert len(each.ran) == ROUNDS
        for ours, theirs in zip(each.ran, plain[node].ran, strict=True):
            assert set(ours) == set(theirs)
            assert dict(ours["config"]) == dict(theirs["config"])


def test_the_programs_own_records_last_between_rounds_and_are_not_touched(folder: Path) -> None:
    class Counting(Program):
        def train(self, message: Message, context: Any) -> Message:
            held = context.state.config_records.setdefault("mine", ConfigRecord({"rounds": 0}))
            held["rounds"] = int(held["rounds"]) + 1
            return super().train(message, context)

    nodes = {node: Counting(node=node, examples=10) for node in (100, 101, 102)}
    grid = grid_of(nodes, folder)
    run(FedAvg(), SecureGrid(grid, MEAN))
    for node in nodes:
        state = grid.context(node).state
        assert dict(state["mine"]) == {"rounds": ROUNDS}
        assert set(state) == {"mine", "secagg"}  # ours holds keys of the next round


def test_a_strategy_that_compares_single_updates_finds_one_reply(folder: Path) -> None:
    seen = []

    class Looking(FedAvg):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            replies = list(replies)
            seen.append(len(replies))
            return super().aggregate_train(server_round, replies)

    run(Looking(), SecureGrid(grid_of(programs(4), folder), MEAN))
    assert seen == [1] * ROUNDS


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"counter": np.zeros(3, np.int64)}, "only floats are averaged"),
        ({"w": np.zeros(2), "mask": np.zeros(3, bool)}, "only floats are averaged"),
    ],
    ids=["integers", "booleans"],
)
def test_arrays_that_cannot_be_averaged_are_refused_at_once(
    arrays: dict[str, Any], words: str, folder: Path
) -> None:
    grid = grid_of(programs(3), folder)
    with pytest.raises(InputError, match=words):
        run(FedAvg(), SecureGrid(grid, MEAN), arrays)
    assert not grid.sent


def test_a_batch_norm_goes_through_and_its_counter_stays_as_the_server_has_it(
    folder: Path,
) -> None:
    start = {
        "bn.weight": np.ones(2, np.float32),
        "bn.running_var": np.ones(2, np.float32),
        "bn.num_batches_tracked": np.array(7),
    }
    result = run(FedAvg(fraction_evaluate=0), SecureGrid(grid_of(programs(4), folder), MEAN), start)
    after = {key: array.numpy() for key, array in result.arrays.items()}
    assert after.keys() == start.keys()
    assert after["bn.num_batches_tracked"] == 7
    assert not np.array_equal(after["bn.weight"], start["bn.weight"])


def test_a_sum_is_in_the_history_with_its_stages(folder: Path) -> None:
    secured = SecureGrid(grid_of(programs(4), folder), MEAN)
    run(FedAvg(fraction_evaluate=0), secured)
    first, *later = secured.history
    assert [str(stage.stage) for stage in first.stages] == ["advertise", "share", "mask", "reveal"]
    for report in later:  # the keys came with the last answer
        assert [str(stage.stage) for stage in report.stages] == ["share", "mask", "reveal"]
    for report in secured.history:
        assert sorted(report.nodes) == sorted(report.survivors) == [100, 101, 102, 103]
        assert all(stage.asked == stage.answered == 4 for stage in report.stages)
        assert not report.failure
        assert not report.clipped
    ups = [stage.bytes_up for stage in first.stages]
    assert all(up > 0 for up in ups)
    downs = itertools.chain.from_iterable(report.stages for report in secured.history)
    weights = sum(array.nbytes for array in START.values())
    assert all((stage.bytes_down > 4 * weights) for stage in downs if stage.stage == "mask")


def test_cohorts_that_change_from_round_to_round_give_their_own_mean(folder: Path) -> None:
    """Who was left out of a round holds keys of a sum that it is not asked for."""
    nodes = programs(7)
    means = []

    class Checking(FedAvg):
        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            self.arrays = arrays_of(arrays)
            return super().configure_train(server_round, arrays, config, grid)

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            arrays, metrics = super().aggregate_train(server_round, replies)
            means.append((self.arrays, arrays_of(arrays)))
            return arrays, metrics

    mean = WeightedMean(clip=CLIP, max_weight=70, evaluate_metrics={"accuracy": 1.0})
    secured = SecureGrid(grid_of(nodes, folder), mean)
    strategy = Checking(fraction_train=0.6, fraction_evaluate=0.5)
    strategy.start(secured, record(START), num_rounds=5, timeout=5)
    sums = [report for report in secured.history if report.purpose == "train"]
    assert len({frozenset(report.nodes) for report in sums}) > 1
    assert not any(report.failure for report in secured.history)
    for report, (before, after) in zip(sums, means, strict=True):
        assert set(report.survivors) == set(report.nodes)
        expected = mean_of([nodes[node] for node in report.nodes], before)
        for key, array in after.items():
            own = float(np.finfo(START[key].dtype).eps)
            assert np.allclose(array, expected[key], rtol=0, atol=0.1 * 2**-13 + 8 * own)
