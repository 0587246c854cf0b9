"""Callbacks of a ``Trainer``, and those that write its numbers where others look at them.

Writers log what ``metrics.json`` holds, so under noise nothing that is not released anyway. Their
libraries come with the extra ``writers`` and are imported when a writer is made.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from secagg.extras import require
from secagg.stage import Stage

_REFUSED: Final = re.compile(r"[^/\w.\- ]")  # in the name of a metric of MLflow


class Callback:
    """Told of a run's progress; a subclass takes what it needs.

    What a method raises ends the run. The last finished round is on disk then.
    """

    def on_stage(self, round_number: int, stage: Stage) -> None:
        """A stage of a round begins. Clients train in the stage ``mask``."""

    def on_round(self, record: Mapping[str, Any]) -> None:
        """A round is finished and on disk."""

    def on_end(self, final: Mapping[str, Any]) -> None:
        """The run's last record is on disk."""


class TensorBoard(Callback):
    """Writes every number of a round as a scalar for TensorBoard."""

    def __init__(self, folder: str | Path) -> None:
        require("secagg.training.callbacks.TensorBoard", "tensorboard", extra="writers")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def on_round(self, record: Mapping[str, Any]) -> None:
        for name, value in numbers(record):
            self._writer.add_scalar(name, value, record["round"])
        self._writer.flush()

    def on_end(self, final: Mapping[str, Any]) -> None:
        self._writer.close()


class MLflow(Callback):
    """Logs every number of a round as a metric of the active run of MLflow, or of a new one."""

    def __init__(self) -> None:
        require("secagg.training.callbacks.MLflow", "mlflow", extra="writers")
        import mlflow

        self._mlflow = mlflow

    def on_round(self, record: Mapping[str, Any]) -> None:
        self._mlflow.log_metrics(dict(numbers(record)), step=record["round"])

    def on_end(self, final: Mapping[str, Any]) -> None:
        # MLflow refuses other letters, and a group of the evaluation may have any.
        named = {_REFUSED.sub("_", name): value for name, value in numbers(final)}
        self._mlflow.log_metrics({f"final/{name}": value for name, value in named.items()})


def numbers(record: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, float]]:
    """Every finite number of a record by its name; those of a table inside as ``table/name``."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{within}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value) and name != "round":
            yield f"{within}{name}", float(value)
