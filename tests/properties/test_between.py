"""Whoever is lost, whenever: the survivors' sum, or a typed error, and books that cover both."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from between import Machines, carry, check_mean, mean_of, noise_of, noisy, signing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp.ledger.ledger import State
from protocols.errors import ProtocolError
from secagg.adapters.testing import Change
from secagg.nodes.coordinator import Coordinator, FinishedSum, NoisySum, SumSettings
from secagg.nodes.messages import Request
from secagg.stage import UNSIGNED, Stage

NODES = (100, 101, 102, 103)
MECHANISM = noise_of(len(NODES), minimum_survivors=2)
LOST = st.dictionaries(st.sampled_from(NODES), st.sampled_from(Stage), max_size=3)
FORGOTTEN = st.sets(st.tuples(st.sampled_from(NODES), st.sampled_from(UNSIGNED)), max_size=2)
SCHEDULES = st.lists(st.tuples(LOST, FORGOTTEN), min_size=1, max_size=4)
SOME = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each takes a folder in it
)
fresh = itertools.count()


def forgetting(machines: Machines, forgotten: set[tuple[int, Stage]]) -> Change:
    """Nodes that were restarted just before a stage."""

    def change(node: int, request: Request) -> Request:
        if (node, request.stage) in forgotten:
            machines.states[node] = None
        return request

    return change


def run(
    coordinator: Coordinator,
    machines: Machines,
    schedule: list[tuple[dict[int, Stage], set[tuple[int, Stage]]]],
    check: Callable[..., None],
) -> int:
    """How many of the sums came about; each of them was checked."""
    opened = 0
    for lost, forgotten in schedule:
        machines.answers.clear()
        finished = None
        try:
            change = forgetting(machines, forgotten)
            finished = carry(coordinator, machines, lost=lost, change=change)
        except ProtocolError:
            pass
        else:
            opened += 1
            sent = {node for node, stage in machines.answers if stage is Stage.MASK}
            assert set(finished.survivors) == sent
            check(finished, machines)
    return opened


@pytest.mark.parametrize("kind", ["bonawitz", "signed"])
@given(SCHEDULES)
@SOME
def test_a_sum_is_the_survivors_mean_or_an_error(folder: Path, kind: str, schedule: list) -> None:  # type: ignore[type-arg]  # as run
    machines, cohort = Machines(folder / str(next(fresh)), NODES), SumSettings()
    if kind == "signed":
        roster, machines.policy = signing(machines)
        cohort = SumSettings(roster=roster)
    coordinator = mean_of(cohort)
    run(coordinator, machines, schedule, check_mean)
    assert run(coordinator, machines, [({}, set()), ({}, set())], check_mean) == 2


@given(SCHEDULES)
@SOME
def test_books_never_say_less_than_was_released(folder: Path, schedule: list) -> None:  # type: ignore[type-arg]  # as run
    folder = folder / str(next(fresh))
    machines = Machines(folder, NODES)
    summed = noisy(folder / "server.sqlite", MECHANISM)
    vectors: dict[int, int] = dict.fromkeys(NODES, 0)
    released: dict[int, list[int]] = {node: [] for node in NODES}

    def check(finished: FinishedSum, machines: Machines) -> None:
        result, survivors = finished.result, finished.survivors
        brought = [machines.brought[node].vector for node in survivors]
        total = sum(vector / max(1.0, float(np.linalg.norm(vector))) for vector in brought)
        assert np.abs(result.vector - total).max() < 10 * MECHANISM.stddev(len(survivors))
        for node in survivors:
            released[node].append(len(survivors))

    coordinator = Coordinator(summed, SumSettings())
    for one in schedule:
        run(coordinator, machines, [one], check)
        for node, stage in machines.answers:
            vectors[node] += stage is Stage.MASK
    for node in NODES:
        check_books(machines, summed, node, vectors[node], released[node])


def check_books(
    machines: Machines, summed: NoisySum, node: int, vectors: int, released: list[int]
) -> None:
    """A node was charged for every vector that left it; the server for each that may have come."""
    if (machines.home(node) / "ledger.sqlite").exists():
        with machines.books(node) as books:
            entries = books.reservations()
        assert sum(entry.state is not State.ABORTED for entry in entries) == vectors
        assert {entry.charge.server for entry in entries} <= {MECHANISM.event()}
        assert all(entry.actual is None for entry in entries)
    else:
        assert vectors == 0
    held = [entry for entry in summed.ledger.reservations() if entry.subject == str(node)]
    assert all(entry.state is not State.ABORTED for entry in held)
    assert len(held) >= vectors
    committed = [entry for entry in held if entry.state is State.COMMITTED]
    assert [entry.survivors for entry in committed] == released
    for entry in committed:
        assert (entry.actual or entry.charge).server == MECHANISM.event(survivors=entry.survivors)
