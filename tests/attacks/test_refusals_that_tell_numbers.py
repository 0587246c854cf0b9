"""Read a node's numbers off what it refuses, one bit a question, without a vector ever leaving.

A server moves the largest weight or a metric's bound and looks at who refuses or is lost; or it
sends a model on which the work fails where a record has a certain feature, and has the price
given back. The node looks at the request first, then at its budget, then it works; and whatever
comes of the work, it answers.

The old order is here in few lines: work and encode before the boxes are looked at, refuse what
is out of range, give the price back.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from between import (
    ENTRIES,
    MODEL,
    SHAPES,
    Machines,
    carry,
    mean_of,
    noise_of,
    noisy,
    signing,
)

from dp.errors import NonFiniteGradient
from dp.ledger.ledger import Ledger, State
from dp.noise.mechanisms import DistributedNoise
from protocols import bonawitz
from protocols.bonawitz.messages import Advertise, Roster
from secagg.adapters.testing import ANYTHING
from secagg.errors import InputError
from secagg.nodes import node as nodes
from secagg.nodes.coordinator import Coordinator, SumSettings, WeightedMean
from secagg.nodes.messages import Request
from secagg.nodes.node import NOTHING, SUBJECT, Node, new_folder
from secagg.nodes.proposal import Average, Contribution, Noise, Proposal
from secagg.rounds.parties import BonawitzClient
from secagg.stage import Stage
from secagg.vectors.layout import Layout

WEIGHT, LOSS, FEATURES = 31337, 0.123456789, 0b10110
POLICY = replace(ANYTHING, minimum_cohort=3)
NOISE = DistributedNoise(
    entries=ENTRIES, clip=1.0, noise_multiplier=30.0, clients=3, minimum_survivors=3, bits=20
)


def old_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules removed."""

    def strict(self: nodes._Vector) -> Any:
        self.charge = self.node.reserve(self.proposal)
        try:
            own, content = self.compute(self.proposal), self.proposal.content
            if not np.isfinite(own.vector).all():
                raise InputError("the update is not finite")
            if isinstance(content, Average):
                if own.weight > content.max_weight:
                    raise InputError("the weight is out of range")
                if any(abs(own.metrics[name]) > most for name, most in content.metrics):
                    raise InputError("a metric is out of range")
            return self.proposal.encode(own)
        except BaseException:
            if self.charge:
                with Ledger.open(self.node.home / "ledger.sqlite") as ledger:
                    ledger.abort(self.charge.round, [SUBJECT], attempt=self.charge.attempt)
            raise

    def eager(self: BonawitzClient) -> Any:
        return [self.vector()]

    monkeypatch.setattr(nodes._Vector, "__call__", strict)
    monkeypatch.setattr(BonawitzClient, "_parts", eager)


def ask(home: Path, content: Average | Noise, own: Contribution) -> str:
    """What a node says to boxes that are none; all its peers are the server's inventions."""
    segments = content.segments(ENTRIES) if isinstance(content, Average) else content.segments()
    proposal = Proposal(
        purpose="train",
        session=os.urandom(16),
        params=bonawitz.Params(
            clients=3,
            threshold=2,
            minimum_survivors=3,
            words=Layout(segments=segments, clients=3).words,
        ),
        model_digest=MODEL,
        seed=os.urandom(32),
        shapes=SHAPES,
        content=content,
    )
    agreement, state = proposal.agreement(), None
    assert isinstance(agreement, bonawitz.Agreement)

    def answer(stage: Stage, message: bytes = b"") -> bytes:
        nonlocal state
        request = Request(stage=stage, proposal=proposal.to_bytes(), client=0, message=message)
        given = Node(home, POLICY).answer(request, state, model=MODEL, compute=lambda _: own)
        state = given.state
        return b"".join(given.messages)

    header = agreement.header
    said = [answer(Stage.ADVERTISE), *(bonawitz.join(agreement, peer)[0] for peer in (1, 2))]
    keys = {c: Advertise.from_bytes(each, expect=header).keys for c, each in enumerate(said)}
    answer(Stage.SHARE, Roster(header=header, agreement=agreement.tag, entries=keys).to_bytes())
    with pytest.raises(Exception) as refusal:  # noqa: PT011  # which it is, is the question
        answer(Stage.MASK, b"no boxes")
    return f"{type(refusal.value).__name__}: {refusal.value}"


def of(weight: int = 1, loss: float = 0.0, first: float = 0.0) -> Contribution:
    vector = np.zeros(ENTRIES)
    vector[0] = first
    return Contribution(vector=vector, weight=weight, metrics={"loss": loss})


def weight_read(home: Path) -> int:
    low, high = 1, 2**17
    while low < high:
        middle = (low + high) // 2
        content = Average(clip=1.0, bits=16, max_weight=middle, weighted_by="n")
        refused = "InputError" in ask(home, content, of(weight=WEIGHT))
        low, high = (middle + 1, high) if refused else (low, middle)
    return low


def loss_read(home: Path) -> float:
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        content = Average(
            clip=1.0, bits=16, max_weight=9, weighted_by="n", metrics=(("loss", middle),)
        )
        refused = "InputError" in ask(home, content, of(loss=LOSS))
        low, high = (middle, high) if refused else (low, middle)
    return (low + high) / 2


def features_read(home: Path) -> int:
    """The model of each question overflows where a feature is set."""
    bits = (
        "InputError" in ask(home, Noise(mechanism=NOISE), of(first=np.inf if bit else 0.0))
        for bit in (FEATURES >> place & 1 for place in range(5))
    )
    return sum(bit << place for place, bit in enumerate(bits))


def test_in_the_old_order_weight_and_metric_are_read_and_noise_costs_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_order(monkeypatch)
    home = new_folder(folder / "node")
    assert weight_read(home) == WEIGHT
    assert loss_read(home) == pytest.approx(LOSS, abs=2**-19)
    assert features_read(home) == FEATURES
    with Ledger.open(home / "ledger.sqlite") as books:
        states = [entry.state for entry in books.reservations()]
    assert states.count(State.ABORTED) == FEATURES.bit_count()


def test_a_node_says_the_same_whatever_its_numbers_are(folder: Path) -> None:
    home = new_folder(folder / "node")
    assert weight_read(home) == 1
    assert loss_read(home) == pytest.approx(0, abs=2**-19)
    assert features_read(home) == 0
    assert not (home / "ledger.sqlite").exists()  # nothing was computed, nothing is owed
    content = Average(clip=1.0, bits=16, max_weight=1, weighted_by="n")
    assert ask(home, content, of(weight=WEIGHT)) == ask(home, content, of())


def test_what_goes_wrong_once_the_work_was_done_has_one_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = Machines(folder, (100, 101, 102))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("protocols.bonawitz.client.MaskedFrame", full)
    with pytest.raises(Exception, match="left after"):
        carry(mean_of(), machines)
    assert {str(error) for error in machines.errors} == {NOTHING}


# The same by a server that follows every rule, and looks at whom it lost

NODES, VICTIM = tuple(range(100, 106)), 102


class Cohort:
    """Nodes that sign; the victim's work is told by ``first`` and its weight."""

    def __init__(self, folder: Path) -> None:
        self.machines = Machines(folder, NODES)
        roster, policy = signing(self.machines)
        self.machines.policy = replace(policy, sums_per_model=1000)
        self.settings, self.folder = SumSettings(roster=roster, dropout="0.3"), folder

    def lost(self, coordinator: Coordinator, work: Callable[[bool], Contribution]) -> bool:
        self.machines.work = lambda node, _: work(node == VICTIM)
        finished = carry(coordinator, self.machines)
        assert set(finished.survivors) >= set(NODES) - {VICTIM}
        return VICTIM not in finished.survivors

    def weight(self) -> int:
        low, high = 1, 2**6
        while low < high:
            middle = (low + high) // 2
            summed = WeightedMean(clip=1.0, max_weight=middle, bits=8)
            lost = self.lost(Coordinator(summed, self.settings), lambda mine: of(37 if mine else 1))
            low, high = (middle + 1, high) if lost else (low, middle)
        return low

    def features(self) -> int:
        summed, read = noisy(self.folder / "server.sqlite", noise_of(6)), 0
        for place in range(3):

            def work(mine: bool, wild: int = FEATURES >> place & 1) -> Contribution:
                if mine and wild:
                    raise NonFiniteGradient("as dp.sgd.ClippedSums on a model that overflows")
                return of()

            read |= self.lost(Coordinator(summed, self.settings), work) << place
        return read


def test_in_the_old_order_a_server_that_keeps_every_rule_reads_them_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_order(monkeypatch)
    monkeypatch.setattr("secagg.adapters.testing.NodeError", Exception)  # a node that is lost
    cohort = Cohort(folder)
    assert cohort.weight() == 37
    assert cohort.features() == FEATURES & 0b111
    with cohort.machines.books(VICTIM) as books:
        states = [entry.state for entry in books.reservations()]
    assert states == [State.COMMITTED, State.ABORTED, State.ABORTED]  # a bit each


def test_a_server_that_keeps_every_rule_loses_nobody_over_its_numbers(folder: Path) -> None:
    cohort = Cohort(folder)
    assert (cohort.weight(), cohort.features()) == (1, 0)
    books = []
    for node in (VICTIM, NODES[0]):
        with cohort.machines.books(node) as ledger:
            books.append([entry.state for entry in ledger.reservations()])
    assert books == [[State.COMMITTED] * 3] * 2
