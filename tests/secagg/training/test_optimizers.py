"""The server optimizers move a model as Flower's strategies do, from the same mean updates."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from secagg.errors import InputError
from secagg.training.optimizers import (
    SGD,
    Adagrad,
    Adam,
    ServerOptimizer,
    Yogi,
    describe_rate,
    rate_at,
    warmup,
)

ROUNDS = 12


def updates() -> list[np.ndarray]:
    """Mean updates of several rounds, of which one entry never moves."""
    drawn = np.random.default_rng(3).normal(scale=0.02, size=(ROUNDS, 7))
    drawn[:, 2] = 0
    return list(drawn)


def ours(optimizer: ServerOptimizer) -> list[np.ndarray]:
    position, moments, path = torch.zeros(7, dtype=torch.float64), {}, []
    for number, update in enumerate(updates(), 1):
        moved, moments = optimizer.step(torch.from_numpy(update), moments, number)
        position = position + moved
        path.append(position.numpy())
    return path


def flowers(strategy: Any) -> list[np.ndarray]:
    """The same by a strategy of Flower, whose clients answer with the moved model."""
    from flwr.app import ArrayRecord, MetricRecord, RecordDict

    position, path = np.zeros(7), []
    for number, update in enumerate(updates(), 1):
        record = ArrayRecord([position])
        if hasattr(strategy, "momentum_vector"):
            strategy.current_arrays = record
        else:
            strategy.current_arrays = {k: array.numpy() for k, array in record.items()}
        content = RecordDict(
            {
                "arrays": ArrayRecord([position + update]),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        reply = SimpleNamespace(content=content, has_error=lambda: False, has_content=lambda: True)
        arrays, _ = strategy.aggregate_train(number, [reply])
        (position,) = arrays.to_numpy_ndarrays()
        path.append(position)
    return path


@pytest.mark.parametrize(
    ("optimizer", "name", "settings"),
    [
        (SGD(), "FedAvg", {}),
        (SGD(learning_rate=0.5), "FedAvgM", {"server_learning_rate": 0.5}),
        (
            SGD(learning_rate=0.7, momentum=0.9),
            "FedAvgM",
            {"server_learning_rate": 0.7, "server_momentum": 0.9},
        ),
        (Adagrad(), "FedAdagrad", {}),
        (Adam(), "FedAdam", {}),
        (
            Adam(learning_rate=0.3, beta_1=0.5, beta_2=0.8, tau=0.1),
            "FedAdam",
            {"eta": 0.3, "beta_1": 0.5, "beta_2": 0.8, "tau": 0.1},
        ),
        (Yogi(), "FedYogi", {}),
        (Yogi(learning_rate=0.2, beta_1=0.0), "FedYogi", {"eta": 0.2, "beta_1": 0.0}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_model_moves_as_under_flower(
    optimizer: ServerOptimizer, name: str, settings: dict[str, Any]
) -> None:
    from flwr.serverapp import strategy

    theirs = flowers(getattr(strategy, name)(**settings))
    np.testing.assert_allclose(ours(optimizer), theirs, rtol=1e-12, atol=1e-15)


def test_plain_sgd_adds_the_mean_update_as_it_is() -> None:
    np.testing.assert_allclose(ours(SGD()), np.cumsum(updates(), axis=0), rtol=0, atol=1e-16)


def test_an_entry_that_never_moved_stays_without_tau() -> None:
    """0 / 0 is no number, and one such entry would end the run."""
    assert all(path[2] == 0 for path in ours(Adam(tau=0.0)))
    assert np.isfinite(ours(Yogi(tau=0.0))).all()


def test_a_warm_up_reaches_the_rate_in_equal_steps() -> None:
    rate = warmup(0.8, 4)
    assert [rate_at(rate, number) for number in (1, 2, 4, 5)] == [0.2, 0.4, 0.8, 0.8]
    decayed = warmup(lambda number: 1 / number, 2)
    assert [rate_at(decayed, number) for number in (1, 2, 4)] == [0.5, 0.5, 0.25]


def test_a_warm_up_begins_where_it_is_told_to() -> None:
    rate = warmup(0.7, 3, start=0.1)
    assert [rate_at(rate, number) for number in (1, 2, 3, 4)] == pytest.approx([0.1, 0.4, 0.7, 0.7])
    assert describe_rate(rate, 4) != describe_rate(warmup(0.7, 3), 4)


def test_a_description_tells_apart_what_moves_otherwise() -> None:
    said = {
        one.describe(ROUNDS)
        for one in (
            SGD(),
            SGD(momentum=0.5),
            Adam(),
            Adam(tau=0.1),
            Yogi(),
            Adam(learning_rate=warmup(0.1, 2)),
            Adam(learning_rate=warmup(0.1, 3)),
        )
    }
    assert len(said) == 7
    assert describe_rate(0.1, 5) == describe_rate(0.1, 5) == "0.1"
    assert describe_rate(warmup(0.1, 2), 5) == describe_rate(warmup(0.1, 2), 5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(momentum=1.0), "momentum 1.0"),
        (lambda: Adam(beta_1=-0.1), "beta_1 -0.1"),
        (lambda: Adam(tau=float("nan")), "tau nan"),
        (lambda: Adam(learning_rate=float("nan")), "round 1 is nan"),
        (lambda: SGD(learning_rate=lambda number: "fast"), "round 1 is 'fast'"),
        (lambda: SGD(learning_rate=-1.0), "round 1 is -1.0"),
        (lambda: warmup(0.1, 0), "warm-up of 0"),
        (lambda: warmup(0.1, 1, start=1e-5), "1 round that starts at 1e-05"),
        (lambda: warmup(0.1, 2, start=-1.0), "is -1.0"),
    ],
)
def test_a_setting_out_of_range_is_named(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
