"""Sums of updates of several versions: what each counts, and what a list of versions must be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from between import MODEL, SHAPES, Machines, carry, noise_of, noisy, some_work

from dp.accounting.events import Unit
from dp.noise import mechanisms
from protocols.errors import TooFewSurvivors
from secagg.adapters.testing import ANYTHING
from secagg.errors import InputError, RefusedError
from secagg.nodes.buffer import Session
from secagg.nodes.coordinator import Coordinator, SumSettings, WeightedMean
from secagg.nodes.proposal import Average, Contribution, Proposal
from secagg.nodes.versions import LARGEST_FACTOR, MOST_VERSIONS, Versions
from secagg.stage import Stage

SIX = tuple(range(100, 106))
OLD = bytes([1]) * 32
MIXES = replace(ANYTHING, maximum_staleness=3, minimum_same=2)
GIVEN: dict[str, Any] = {
    "digests": ((3, OLD), (5, MODEL)),
    "clients": ((0, 3), (2, 5), (3, 3), (4, 5)),
    "weights": (4, 2, 1),
    "minimum_same": 2,
}
VERSIONS = Versions(**GIVEN)


def test_a_client_counts_what_its_version_does() -> None:
    assert [VERSIONS.weight_of(client) for client, _ in VERSIONS.clients] == [1, 4, 1, 4]
    assert VERSIONS.total([0, 2, 3]) == 1.5
    assert (VERSIONS.newest, VERSIONS.stalest, VERSIONS.model_digest) == (5, 2, MODEL)
    assert [VERSIONS.digest_of(client) for client in (0, 2)] == [OLD, MODEL]
    with pytest.raises(RefusedError, match="client 1 is named no version"):
        VERSIONS.digest_of(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digests": ()}, "digests must be listed ascending"),
        ({"digests": ((5, MODEL), (3, OLD))}, "digests must be listed ascending"),
        ({"digests": ((3, OLD), (3, MODEL), (5, MODEL))}, "digests must be listed ascending"),
        ({"digests": ((3, OLD[1:]), (5, MODEL))}, "must have 32 bytes"),
        ({"digests": ((3, OLD), (6, MODEL))}, "no digest is listed for version 5"),
        ({"digests": ((2, OLD), (3, OLD), (5, MODEL))}, "version 2 is 3 behind"),
        ({"clients": ()}, "clients must be listed ascending"),
        ({"clients": ((0, 3), (0, 5), (3, 3), (4, 5))}, "clients must be listed ascending"),
        ({"clients": ((0, 3), (2, 5), (4, 5))}, "1 clients would be in the sum with version 3"),
        ({"clients": ((0, 3), (2, 5), (3, 3), (4, 4))}, "no digest is listed for version 4"),
        ({"clients": ((0, True), (2, 5))}, "must be integers"),
        ({"clients": ((-1, 3), (2, 5))}, "must be integers"),
        ({"weights": ()}, "must be from 1 on"),
        ({"weights": (1, 0, 1)}, "must be from 1 on"),
        ({"weights": (1, 2, 1)}, "largest first"),
        ({"weights": (LARGEST_FACTOR + 1, 1, 1)}, "largest first"),
        ({"weights": (1.0, 1, 1)}, "must be integers"),
        ({"weights": (4, 2)}, "weights are said up to 1"),
        ({"minimum_same": 1}, "minimum_same 1 must be at least 2"),
        ({"minimum_same": 3}, "2 clients would be in the sum with version"),
        (
            {
                "digests": tuple((number, OLD) for number in range(MOST_VERSIONS + 1)),
                "clients": ((0, 1000), (1, 1000)),
                "weights": (1,) * 2000,
            },
            "at most 1000",
        ),
    ],
    ids=str,
)
def test_versions_that_contradict_each_other_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Versions(**GIVEN | change)


def test_survivors_of_a_version_are_enough_or_none() -> None:
    for alive in ({0, 2, 3, 4}, {0, 3}, {2, 4}, set[int]()):
        VERSIONS.check_survivors(alive)
    for alive in ({0, 2, 4}, {0}, {0, 2, 3}):
        with pytest.raises(RefusedError, match="1 clients would be in the sum"):
            VERSIONS.check_survivors(alive)
    with pytest.raises(RefusedError, match="client 9 is named no version"):
        VERSIONS.check_survivors({0, 3, 9})


# Sums


def session(old: tuple[int, ...], **change: Any) -> Session:
    given: dict[str, Any] = {
        "nodes": {node: 3 if node in old else 5 for node in SIX},
        "digests": {3: OLD, 5: MODEL},
        "weights": (4, 2, 1),
        "minimum_same": 2,
    }
    return Session(**given | change)


def machines_of(folder: Path, old: tuple[int, ...], **more: Any) -> Machines:
    return Machines(folder, SIX, policy=MIXES, shown=dict.fromkeys(old, OLD), **more)


def on_integers(node: int, proposal: Proposal) -> Contribution:
    """Entries that all steps hold exactly at every weight: -1, 0 and 1 of a clip of 1."""
    vector = np.array([(node + place) % 3 - 1 for place in range(proposal.entries)], np.float64)
    return Contribution(vector=vector, weight=1 + node % 5, metrics={})


def test_a_mean_weighs_each_update_by_its_version_and_the_total_is_exact(folder: Path) -> None:
    machines = machines_of(folder, (100, 103), work=on_integers)
    coordinator = Coordinator(WeightedMean(clip=1.0, max_weight=5), SumSettings())
    finished = carry(coordinator, machines, session=session((100, 103)))
    assert not machines.errors
    counts = {node: (1 + node % 5) * (1 if node in (100, 103) else 4) for node in SIX}
    assert finished.result.weight == sum(counts.values())
    exact = sum(counts[node] * on_integers(node, finished.proposal).vector for node in SIX)
    average = finished.proposal.content
    assert isinstance(average, Average)
    step = 1.0 / (2 ** (average.bits - 1) - 1)
    # weight * version / 20 is no binary fraction: rounded up or down, by less than a step each
    off = np.abs(finished.result.vector * finished.result.weight - exact)
    assert off.max() < len(SIX) * step * 20
    assert finished.result.least_weight == sum(counts.values()) / 4
    bound = average.mean_error(finished.result.least_weight, len(SIX))
    assert (off / finished.result.weight).max() <= bound
    assert bound == pytest.approx(len(SIX) * step * 20 / finished.result.weight)


class Silent:
    """No noise: shows what is under it."""

    error = 0.0

    def sample(self, count: int, *, entropy: object) -> np.ndarray:
        return np.zeros(count, np.int64)


def test_noise_sees_the_update_times_what_it_counts_and_the_divisor_is_public(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mechanisms, "_sampler", lambda noise, variance: Silent())
    machines = machines_of(
        folder,
        (100, 103),
        work=lambda _, proposal: Contribution(vector=np.full(proposal.entries, 0.25), metrics={}),
    )
    summed = noisy(folder / "ledger.sqlite", noise_of(6))
    coordinator = Coordinator(summed, SumSettings())
    finished = carry(coordinator, machines, session=session((100, 103)))
    assert not machines.errors
    assert np.abs(finished.result.vector - 0.25 * (4 + 2 / 4)).max() < 0.02
    assert np.abs(finished.model_update - 0.25).max() < 0.005
    once = summed.ledger.epsilons("rdp")
    assert len(set(once.values())) == 1  # an old version costs what a new one does
    carry(coordinator, machines, session=session((100, 103)))
    assert summed.ledger.epsilons("rdp")["100"] > once["100"]  # and each time anew


def test_noise_that_hides_an_example_has_one_version(folder: Path) -> None:
    mechanism = noise_of(6, unit=Unit.EXAMPLE, batch=50)
    summed = noisy(folder / "ledger.sqlite", mechanism, learning_rate=1.0)
    machines = machines_of(folder, (100, 103))
    with pytest.raises(InputError, match="gradients of one model"):
        carry(Coordinator(summed, SumSettings()), machines, session=session((100, 103)))


@pytest.mark.parametrize("stage", [Stage.SHARE, Stage.MASK])
def test_a_version_that_loses_too_many_in_a_sum_is_not_opened_and_the_next_sum_works(
    folder: Path, stage: Stage
) -> None:
    machines = machines_of(folder, (100, 103), work=some_work)
    coordinator = Coordinator(WeightedMean(clip=1.0, max_weight=100), SumSettings())
    with pytest.raises(TooFewSurvivors):
        carry(coordinator, machines, session=session((100, 103)), lost={103: stage})
    again = session((100, 103))
    assert carry(coordinator, machines, session=again).survivors == SIX
    lost = carry(coordinator, machines, session=again, lost={105: stage})
    assert lost.survivors == SIX[:5]


def test_a_session_of_one_version_is_proposed_as_any_sum() -> None:
    alike = session((), minimum_same=None)
    assert alike.alike
    assert alike.factor == 1
    coordinator = Coordinator(WeightedMean(clip=1.0, max_weight=5), SumSettings())
    begun = coordinator.begin("train", SIX, model=MODEL, shapes=SHAPES, session=alike)
    assert b"versions" not in begun.proposal.to_bytes()
    old = session(SIX, minimum_same=None)
    assert old.model_digest == OLD
    assert old.factor == 1 / 4


def test_under_ckks_a_sum_has_one_version() -> None:
    cohort = SumSettings(protocol="threshold-ckks")
    coordinator = Coordinator(WeightedMean(clip=1.0, max_weight=5), cohort)
    with pytest.raises(InputError, match="a sum has one version"):
        coordinator.begin("train", SIX, model=MODEL, shapes=SHAPES, session=session((100, 103)))


def test_nodes_and_model_are_those_of_the_session() -> None:
    coordinator = Coordinator(WeightedMean(clip=1.0, max_weight=5), SumSettings())
    for nodes, model in ((SIX[:5], MODEL), (SIX, OLD)):
        with pytest.raises(InputError, match="must be those of the session"):
            coordinator.begin(
                "train", nodes, model=model, shapes=SHAPES, session=session((100, 103))
            )
