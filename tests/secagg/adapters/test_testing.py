"""The engines for tests: what they lose is lost, and Flower is needed where it is asked for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import secagg.adapters.testing
from protocols.errors import TooFewSurvivors
from secagg.adapters.testing import Machines, carry
from secagg.nodes.coordinator import Coordinator, SumSettings, WeightedMean
from secagg.nodes.proposal import Contribution, Proposal
from secagg.stage import Stage

HOME = Path(secagg.adapters.testing.__file__).parents[2]
NODES = (7, 8, 9)


def work(node: int, proposal: Proposal) -> Contribution:
    return Contribution(vector=np.full(proposal.entries, node / 10), weight=1, metrics={})


def machines(folder: Path) -> tuple[Coordinator, Machines]:
    of_two = SumSettings(minimum_survivors=2)
    mean = WeightedMean(clip=1.0, max_weight=1)
    return Coordinator(mean, of_two), Machines(folder, NODES, work)


@pytest.mark.parametrize("stage", [Stage.MASK, Stage.REVEAL])
def test_a_sum_goes_on_without_who_is_lost(folder: Path, stage: Stage) -> None:
    coordinator, nodes = machines(folder)
    under_way = carry(coordinator, nodes, shapes=(("w", (4,)),), lost={9: stage})
    assert under_way.survivors == (NODES if stage is Stage.REVEAL else (7, 8))
    mean = np.mean([node / 10 for node in under_way.survivors])
    np.testing.assert_allclose(under_way.result.vector, mean, atol=1e-4)
    assert not nodes.errors


def test_with_too_many_lost_there_is_no_sum(folder: Path) -> None:
    coordinator, nodes = machines(folder)
    with pytest.raises(TooFewSurvivors):
        carry(coordinator, nodes, shapes=(("w", (4,)),), lost=dict.fromkeys((8, 9), Stage.MASK))


def test_without_flower_the_other_engine_is_there() -> None:
    script = """
import sys
sys.modules["flwr"] = None
from secagg.adapters.testing import LocalGrid, Machines
try:
    LocalGrid({})
except ImportError:
    print("no Flower, no grid")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=HOME, capture_output=True, text=True, check=True
    )
    assert done.stdout == "no Flower, no grid\n"
