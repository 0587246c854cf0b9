"""What a server reports of a sum between machines, and warns of, whatever engine carried it."""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from secagg.errors import NodeError
from secagg.nodes.coordinator import FinishedSum
from secagg.nodes.proposal import Average
from secagg.stage import Stage
from secagg.vectors.buffers import STATISTICS

FAIL_AFTER: Final = 3  # trainings without a sum, of a run that had none
LOST_IN_ROUNDING: Final = 0.1  # of the root mean square of a mean: more error than this is told


@dataclass(kw_only=True)
class StageReport:
    """One stage of a sum: whom it asked, who answered, bytes of all nodes, and seconds.

    Attributes:
      stage: which one.
      asked, answered: how many nodes.
      bytes_up, bytes_down: of all nodes, from and to them.
      seconds: of the stage, at the server.
    """

    stage: Stage
    asked: int
    answered: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


@dataclass(kw_only=True)
class SumReport:
    """One sum, as the server saw it.

    Attributes:
      purpose: the type of the strategy's messages.
      nodes: that the strategy named.
      survivors: nodes in the sum; empty if it failed.
      clipped: share of all entries of the survivors' updates that the clip cut.
      mean_error: without noise: an entry of the mean is within this of the true one. It grows with
        ``max_weight`` over the mean weight.
      error_share: the same over the root mean square of the mean; infinite if the mean is 0.
      clamped: weights and metrics that were beyond their bounds, and cut to them, or missing.
      failed: survivors whose work failed: they brought zeros, and no weight.
      reasons: how many survivors counted each kind of both, in words that hold no data.
      kept: counters of batches that stayed as the server has them.
      examples: where noise hides examples, how many each survivor says that it has.
      sums_of_model: sums that were begun over this model, this one counted. Without noise, two
        that differ by one node give that node's update away.
      stages: what each took.
      failure: why there was no sum.
    """

    purpose: str
    nodes: tuple[int, ...]
    survivors: tuple[int, ...] = ()
    clipped: float = 0.0
    mean_error: float = 0.0
    error_share: float = 0.0
    clamped: int = 0
    failed: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    examples: Mapping[int, int] = field(default_factory=dict)
    sums_of_model: int = 1
    stages: list[StageReport] = field(default_factory=list)
    failure: str = ""

    def __str__(self) -> str:
        stages = ", ".join(
            f"{stage.stage} {stage.answered}/{stage.asked} in {stage.seconds:.1f} s"
            for stage in self.stages
        )
        left = self.failure or f"{len(self.survivors)} of {len(self.nodes)} nodes are in it"
        return f"{self.purpose} sum: {left}{f' ({stages})' if stages else ''}"

    def finish(self, finished: FinishedSum, log: logging.Logger) -> None:
        """Note what came of the sum, and warn of what its numbers alone do not show."""
        result, content = finished.result, finished.proposal.content
        self.survivors, self.examples = finished.survivors, finished.examples
        self.clamped, self.failed, self.reasons = result.clamped, result.failed, result.reasons
        log.info("secagg: %s", self)
        if not isinstance(content, Average):
            return
        count, entries = len(self.survivors), finished.proposal.entries
        for reason, nodes in self.reasons.items():
            log.warning("secagg: %d of %d nodes: %s", nodes, count, reason)
        if self.sums_of_model > 1:
            log.warning(
                "secagg: sum %d over one model: from who compares two of them, the nodes by which "
                "they differ are not hidden",
                self.sums_of_model,
            )
        if not entries:
            return
        if result.clipped:
            self.clipped = result.clipped / (entries * count)
            log.warning(
                "secagg: %.2g of all entries were beyond the clip of %g (running statistics: %g), "
                "and cut to it; raise it",
                *(self.clipped, content.clip, STATISTICS.clip),
            )
        trained = result.vector[finished.proposal.trained]
        self.mean_error = content.mean_error(result.least_weight, count)
        size = math.sqrt(np.mean(np.square(trained))) if len(trained) else 0.0
        self.error_share = self.mean_error / size if size else math.inf
        if self.error_share > LOST_IN_ROUNDING and len(trained):
            log.warning(
                "secagg: an entry of the mean is within %.2g of the true one, and of size %.2g: "
                "bring max_weight %d near the largest weight (the mean one is %.3g), or lower the "
                "clip",
                *(self.mean_error, size, content.max_weight, result.weight / count),
            )


def check_failures(history: Sequence[SumReport], fail_after: int | None) -> None:
    """End a run that comes to no sum: its model would be empty, and its exit code 0.

    Args:
      fail_after: trainings in a row; by default three, of a run that has had no sum yet.

    Raises:
      NodeError: there were as many.
    """
    past = [each for each in history if each.purpose.split(".")[0] == "train"]
    lost = list(itertools.takewhile(lambda each: each.failure, reversed(past)))
    if len(lost) >= (fail_after or (FAIL_AFTER if len(lost) == len(past) else math.inf)):
        raise NodeError(
            f"{len(lost)} trainings in a row came to no sum, the last: {lost[0].failure}"
        )
