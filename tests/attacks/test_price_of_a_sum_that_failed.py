"""Have noised vectors sent, and their price forgotten: as often as it takes to average noise away.

A server aborts every sum once the masked vectors are in and asks for another, or says that a
cheap sum was opened. Once a vector left a node, its price stands in the node's own ledger,
and in the server's; nothing that a server says lowers it.
"""

from pathlib import Path

import pytest
from between import Machines, carry, noise_of, noisy

from dp.errors import BudgetExceeded, LedgerConflict
from dp.ledger.books import LedgerOwner
from dp.ledger.ledger import Ledger, State
from protocols.errors import TooFewSurvivors
from secagg.nodes.coordinator import Coordinator, SumSettings
from secagg.nodes.node import SUBJECT, Node
from secagg.nodes.policy import NodePolicy
from secagg.stage import Stage

NODES = (100, 101, 102)
BUDGET = NodePolicy(minimum_cohort=2, maximum_epsilon=5.0)


def aborted(machines: Machines, coordinator: Coordinator) -> None:
    with pytest.raises(TooFewSurvivors, match="left after CollectReveals"):
        carry(coordinator, machines, lost=dict.fromkeys(NODES, Stage.REVEAL))


def machines_of(folder: Path) -> tuple[Machines, Coordinator]:
    summed = noisy(folder / "server.sqlite", noise_of(3))
    return Machines(folder, NODES, policy=BUDGET), Coordinator(summed, SumSettings())


def vectors_sent(machines: Machines, coordinator: Coordinator, sums: int) -> int:
    """How often the nodes sent one, of so many sums that all were aborted."""
    sent = 0
    for _ in range(sums):
        machines.answers.clear()
        try:
            aborted(machines, coordinator)
        except BudgetExceeded:
            break
        sent += (NODES[0], Stage.MASK) in machines.answers
    return sent


def test_without_a_charge_vectors_could_be_had_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Node, "reserve", lambda *_: None)
    assert vectors_sent(*machines_of(folder), 12) == 12


def test_a_budget_ends_it(folder: Path) -> None:
    machines, coordinator = machines_of(folder)
    sent = vectors_sent(machines, coordinator, 12)
    assert 0 < sent < 12
    with machines.books(NODES[0]) as books:
        assert [entry.state for entry in books.reservations()] == [State.OPEN] * sent


def test_a_sum_that_failed_after_vectors_left_stays_charged_in_both_books(folder: Path) -> None:
    machines, coordinator = machines_of(folder)
    aborted(machines, coordinator)
    carry(coordinator, machines)
    server = coordinator.summed.ledger  # type: ignore[union-attr]  # of noise
    expected = [State.OPEN] * 3 + [State.COMMITTED] * 3
    assert [entry.state for entry in server.reservations()] == expected
    for node in NODES:
        with machines.books(node) as books:
            entries = books.reservations()
        assert [entry.state for entry in entries] == [State.OPEN, State.COMMITTED]


def test_a_sum_that_failed_before_vectors_were_asked_for_costs_nothing(folder: Path) -> None:
    machines, coordinator = machines_of(folder)
    with pytest.raises(TooFewSurvivors):
        carry(coordinator, machines, lost=dict.fromkeys(NODES[1:], Stage.SHARE))
    assert coordinator.summed.ledger.reservations() == []  # type: ignore[union-attr]  # of noise
    assert not (machines.home(NODES[0]) / "ledger.sqlite").exists()


def test_nothing_that_a_server_says_lowers_a_nodes_price(folder: Path) -> None:
    machines, coordinator = machines_of(folder)
    carry(coordinator, machines)
    with machines.books(NODES[0]) as books:
        (entry,) = books.reservations()
    assert (entry.state, entry.actual) == (State.COMMITTED, None)
    assert entry.charge.server == noise_of(3).event(survivors=2)  # the fewest
    aborted(machines, coordinator)
    cheaper = noise_of(3).event(survivors=3)
    with machines.books(NODES[0]) as books, pytest.raises(LedgerConflict, match="evidence"):
        books.commit(1, {SUBJECT: cheaper}, survivors=3)


def test_in_a_ledger_that_takes_the_servers_word_the_price_would_fall(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Ledger.create.__func__  # type: ignore[attr-defined]  # a class method

    def trusting(cls: type[Ledger], *given: object, **named: object) -> Ledger:
        return create(cls, *given, **named | {"keeper": LedgerOwner.SERVER})  # type: ignore[no-any-return]  # what create returns

    machines, coordinator = machines_of(folder)
    monkeypatch.setattr(Ledger, "create", classmethod(trusting))
    aborted(machines, coordinator)
    cheaper = noise_of(3).event(survivors=3)
    with machines.books(NODES[0]) as books:
        books.commit(0, {SUBJECT: cheaper}, survivors=3)
        (entry,) = books.reservations()
    assert entry.actual is not None
    assert entry.actual.server == cheaper
