"""The server: sees the mean of the hospitals' weights and of their accuracies, and nothing below.

With an epsilon above 0 it sees a sum of clipped gradients with noise that hides each patient.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

import secagg  # noqa: F401  # first: it refuses a stranger's dp
from dp.ledger import Budget, Ledger
from hospitals import task
from secagg.adapters.flower import NoisySum, SecureGrid, SumSettings, WeightedMean
from secagg.nodes import Roster
from secagg.planning import NoiseWishes, SumWishes, plan_noise

app = ServerApp()

MEAN = WeightedMean(
    clip=0.5,  # one round moves no weight by more
    max_weight=300,  # patients of the largest hospital, rounded up
    train_metrics={"train_loss": 5.0},
    evaluate_metrics={"accuracy": 1.0},
)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that the run's configuration asks for."""
    config = context.run_config
    minimum = int(config["minimum-hospitals"])
    private = float(config["epsilon"]) > 0
    strategy = FedAvg(
        min_train_nodes=minimum,
        min_evaluate_nodes=minimum,
        min_available_nodes=minimum,
        fraction_evaluate=0.0 if private else 1.0,  # a number beside the noise is a release too
    )
    cohort = SumSettings(minimum_survivors=3, roster=_roster(config))
    secure = SecureGrid(
        grid, _noise(config) if private else MEAN, cohort, deadline=float(config["deadline"])
    )
    result = strategy.start(
        grid=secure,
        initial_arrays=ArrayRecord([np.zeros(task.FEATURES)]),
        num_rounds=int(config["rounds"]),
        timeout=float(config["timeout"]),
    )
    if not result.arrays:
        raise RuntimeError("no round has succeeded")
    if config["report"]:
        report = {
            "weights": result.arrays.to_numpy_ndarrays()[0].tolist(),
            "train": {r: dict(m) for r, m in result.train_metrics_clientapp.items()},
            "evaluate": {r: dict(m) for r, m in result.evaluate_metrics_clientapp.items()},
            "sums": [str(report) for report in secure.history],
        }
        Path(str(config["report"])).write_text(json.dumps(report, indent=2), encoding="utf-8")


def _roster(config: Mapping[str, Any]) -> Roster | None:
    """Whose signature counts, if the hospitals sign."""
    if not config["roster"]:
        return None
    return Roster.read(str(config["roster"]), operator=bytes.fromhex(str(config["operator"])))


def _noise(config: Mapping[str, Any]) -> NoisySum:
    """Noise that hides each patient over all rounds, and the ledger that counts what it costs."""
    epsilon, delta = float(config["epsilon"]), float(config["delta"])
    wishes = SumWishes(
        clients=len(task.HOSPITALS),
        rounds=int(config["rounds"]),
        entries=task.FEATURES,
        clip=float(config["clip"]),
    )
    noise = NoiseWishes(
        epsilon=epsilon,
        delta=delta,
        unit="example",
        examples=int(config["patients"]),
        max_batch=int(config["largest"]),
        minimum_survivors=3,
    )
    advice = plan_noise(wishes, noise, measure=False)
    ledger = Ledger.create(str(config["ledger"]), Budget(epsilon=epsilon, delta=delta))
    rate = float(config["private-learning-rate"])
    return NoisySum(mechanism=advice.mechanism, ledger=ledger, learning_rate=rate)
