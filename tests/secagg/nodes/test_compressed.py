"""Nodes that send less of an update, by a seed that all of them have or none gets a sum."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from between import MODEL, Machines, carry

from secagg.errors import InputError
from secagg.nodes.coordinator import Coordinator, SumSettings, WeightedMean
from secagg.nodes.proposal import Average, Contribution, Proposal
from secagg.vectors.compress import Compress

SIX = tuple(range(100, 106))
SHAPES = (("body", (5, 7)), ("body.running_mean", (3,)), ("head", (4,)))
EIGHTH = Compress(one_in=8)


def update(node: int) -> np.ndarray:
    return np.random.default_rng(node).uniform(-1, 1, 42)


def of_node(node: int, proposal: Proposal) -> Contribution:
    return Contribution(vector=update(node), weight=1 + node % 7, metrics={})


def true_mean() -> np.ndarray:
    return np.average([update(node) for node in SIX], axis=0, weights=[1 + n % 7 for n in SIX])


@pytest.mark.parametrize("protocol", ["bonawitz", "threshold-ckks"])
@pytest.mark.parametrize("compress", [EIGHTH, Compress(rotate=True)], ids=str)
def test_the_mean_is_the_estimate_of_the_mean(
    folder: Path, protocol: str, compress: Compress
) -> None:
    machines = Machines(folder, SIX, work=of_node)
    summed = WeightedMean(clip=8.0, max_weight=8, compress=compress)
    finished = carry(Coordinator(summed, SumSettings(protocol=protocol)), machines, shapes=SHAPES)
    assert not machines.errors
    found, true = finished.result.vector, true_mean()
    off = 2e-3 if protocol == "bonawitz" else 0.05
    statistics = np.zeros(42, bool)
    if protocol == "bonawitz":
        statistics[35:38] = True
        assert np.abs(found - true)[statistics].max() < off  # sent whole
    there = ~statistics
    if compress.rotate:
        assert np.abs(found - true)[there].max() < 7 * off
        return
    sent = there & (found != 0)
    assert 0 < np.count_nonzero(sent) <= -(-np.count_nonzero(there) // 8)
    assert np.abs(found - 8 * true)[sent].max() < 8 * off


def test_what_is_cut_is_counted_of_what_is_sent(folder: Path) -> None:
    machines = Machines(
        folder,
        SIX,
        work=lambda node, _: Contribution(vector=np.full(42, 3.0), weight=1, metrics={}),
    )
    summed = WeightedMean(clip=1.0, max_weight=8, compress=EIGHTH)
    finished = carry(Coordinator(summed, SumSettings()), machines, shapes=SHAPES)
    # 39 entries that are no statistics are five that are sent; the last block's may be none.
    assert finished.result.clipped in (6 * 5, 6 * 4)


@pytest.mark.parametrize(
    "compress", [EIGHTH, Compress(rotate=True), Compress(rotate=True, one_in=3)]
)
def test_a_proposal_says_it_and_is_read_as_it_was(compress: Compress) -> None:
    summed = WeightedMean(clip=1.0, max_weight=8, compress=compress)
    proposal = (
        Coordinator(summed, SumSettings()).begin("train", SIX, model=MODEL, shapes=SHAPES).proposal
    )
    assert isinstance(proposal.content, Average)
    assert Proposal.from_bytes(proposal.to_bytes()) == proposal
    assert f'"compress":"{compress}"' in proposal.to_bytes().decode()


def test_nodes_that_are_told_other_seeds_agree_to_other_sums() -> None:
    """Or a server could have the same entries twice, or of each node others: masks are bound."""
    summed = WeightedMean(clip=1.0, max_weight=8, compress=EIGHTH)
    proposal = (
        Coordinator(summed, SumSettings()).begin("train", SIX, model=MODEL, shapes=SHAPES).proposal
    )
    other = replace(proposal, seed=bytes(32))
    assert proposal.agreement().public_digest != other.agreement().public_digest


def test_every_sum_has_a_seed_of_its_own() -> None:
    coordinator = Coordinator(WeightedMean(clip=1.0, max_weight=8, compress=EIGHTH), SumSettings())
    seeds = {
        coordinator.begin("train", SIX, model=MODEL, shapes=SHAPES).proposal.seed for _ in range(5)
    }
    assert len(seeds) == 5


def test_a_rotation_and_means_by_array_are_refused_together() -> None:
    summed = WeightedMean(clip=1.0, max_weight=8, compress=Compress(rotate=True), by_array=True)
    with pytest.raises(InputError, match="mixes arrays"):
        Coordinator(summed, SumSettings()).begin("train", SIX, model=MODEL, shapes=SHAPES)
    with pytest.raises(InputError, match="expected a Compress"):
        Average(clip=1.0, bits=8, max_weight=1, weighted_by="n", compress="1/8")  # type: ignore[arg-type]  # what is under test
