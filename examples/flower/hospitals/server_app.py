"""The server: averages the hospitals' weights, and reports the accuracy."""

import json
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from hospitals import task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that the run's configuration asks for."""
    config = context.run_config
    minimum = int(config["minimum-hospitals"])
    strategy = FedAvg(
        min_train_nodes=minimum, min_evaluate_nodes=minimum, min_available_nodes=minimum
    )
    result = strategy.start(
        grid=grid,
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
        }
        Path(str(config["report"])).write_text(json.dumps(report, indent=2), encoding="utf-8")
