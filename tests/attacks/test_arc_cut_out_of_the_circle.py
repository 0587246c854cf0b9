"""Cut an arc out of the circle, so that its sum comes out where the sum of all was promised.

A server that lies after it drew the graph honestly has two ways to take edges off
the arc's ends: it says that a client is gone, and it does not pass on a client's
boxes. Who is gone is rebuilt, and refused by who then has too few neighbours. A
client whose boxes were held back masks with the arc, and the arc not with it;
if it counts as alive all the same, it helps to open the arc that it is cut off
from. So a client refuses survivors among its neighbours whose boxes never came.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params, Rates
from protocols.bonawitz.graph import GraphPlan, Harary
from protocols.bonawitz.messages import (
    MaskedFrame,
    ShareBoxes,
    Signatures,
    SignedSurvivors,
    Survivors,
)
from protocols.errors import RemoteProtocolError
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.testing import agreement_of, played

ACTIVE = Params(clients=20, rates=Rates(corrupt_fraction=0.05, dropout=0.1), words=3, active=True)
TRUSTED = Params(clients=20, rates=Rates(corrupt_fraction=0.1, dropout=0.1), words=3)


def input_of(n: int) -> NDArray[np.uint64]:
    return np.full(3, 3**n, np.uint64)


INPUTS = {n: input_of(n) for n in range(20)}


class LyingServer:
    """It knows the circle, and who answers what; all clients are honest."""

    def __init__(self, params: Params) -> None:
        self.agreement, self.active = agreement_of(params), params.active
        made = played(self.agreement, INPUTS, "roster")
        self.header, self.context, self.shares = made.header, made.context, made.shares
        self.graph = made.server._round.graph
        assert isinstance(self.graph, Harary)
        self.circle = self.graph._circle
        self.keys = made.keys
        made = made.until("boxes")
        self.states, self.boxes = dict(made.states), made.sealed

    def mask(self, arc: frozenset[int], gone: frozenset[int]) -> None:
        """The arc gets boxes from itself and from who will be gone; the others get all."""
        self.vectors = {}
        for n in range(20):
            senders = self.graph.neighbours(n)
            if n in arc:
                senders &= arc | gone
            boxes = {sender: self.boxes[sender][n] for sender in sorted(senders)}
            message = ShareBoxes(header=self.header, recipient=n, boxes=boxes).to_bytes()
            frames, self.states[n] = self.states[n].on_boxes(message, input_of(n))
            (self.vectors[n],) = frames

    def reveals(self, alive: Iterable[int], *, checked: bool) -> dict[int, dict[int, bytes]]:
        """What comes back for one set of survivors, shown to all of them."""
        named = Survivors(header=self.header, alive=frozenset(alive)).to_bytes()
        signed, found = {}, {}
        for n in sorted(alive):
            state = self.states[n] if checked else replace(self.states[n], silent=frozenset())
            try:
                if not self.active:
                    found[n] = state.on_survivors(named)
                    continue
                message, self.states[n] = state.sign_survivors(named)
            except RemoteProtocolError:
                continue
            signed[n] = SignedSurvivors.from_bytes(message, expect=self.header).signature
        message = Signatures(header=self.header, signatures=signed).to_bytes()
        for n in signed:
            try:
                found[n] = self.states[n].on_signatures(message)
            except RemoteProtocolError:
                continue
        return {n: self.shares(answer) for n, answer in found.items()}

    def open(
        self,
        arc: frozenset[int],
        gone: frozenset[int],
        revealed: dict[int, dict[int, bytes]],
    ) -> NDArray[np.uint64]:
        """The sum over the arc; ``KeyError`` where too few shares came back."""
        threshold = self.agreement.params.plan(20).threshold
        rebuilt = {}
        for n in arc | gone:
            shares = {
                place: revealed[holder][n]
                for place, holder in enumerate(self.graph.holders(n), 1)
                if holder in revealed and n in revealed[holder]
            }
            if len(shares) < threshold:
                raise KeyError(n)
            numbers = sorted(shares)[:threshold]
            (rebuilt[n],) = combine(numbers, [[shares[number] for number in numbers]])
        words, masks = np.zeros(4, np.uint64), []
        for n in arc:
            frame = MaskedFrame.from_bytes(self.vectors[n], expect=self.header, index=0, count=4)
            words += frame.words
            label = self.context.self_mask(n)
            masks.append(Mask(seed=rebuilt[n], label=label, subtract=True))
        for n in gone:
            for peer in self.graph.neighbours(n) & arc:
                label = self.context.pair(n, peer)
                (seed,) = PrivateKey(rebuilt[n]).agree(self.keys[peer].mask, label)
                masks.append(Mask(seed=seed, label=label, subtract=n < peer))
        Masks(masks).apply_to(words)
        return words[:-1]

    def at(self, *places: int) -> frozenset[int]:
        return frozenset(self.circle[place % 20] for place in places)


def attack(*, checked: bool) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """What is read of nine clients beside eighteen said to be alive, and the true sum of the nine.

    Two are said to be gone, as many as planned; nobody is corrupt.
    """
    server = LyingServer(ACTIVE)
    assert ACTIVE.plan(20) == GraphPlan(degree=6, threshold=4)
    arc, gone = server.at(*range(9)), server.at(-2, 10)
    server.mask(arc, gone)
    revealed = server.reveals(set(range(20)) - gone, checked=checked)
    return server.open(arc, gone, revealed), sum_of(arc)


def sum_of(clients: Iterable[int]) -> NDArray[np.uint64]:
    return np.sum([input_of(n) for n in clients], axis=0, dtype=np.uint64)


def test_were_silent_neighbours_to_count_as_alive_an_arc_would_be_opened_alone() -> None:
    stolen, truth = attack(checked=False)
    assert np.array_equal(stolen, truth)


def test_survivors_among_the_neighbours_whose_boxes_never_came_are_refused() -> None:
    with pytest.raises(KeyError):
        attack(checked=True)


def test_each_end_of_the_arc_refuses_by_name() -> None:
    server = LyingServer(ACTIVE)
    arc, gone = server.at(*range(9)), server.at(-2, 10)
    server.mask(arc, gone)
    named = Survivors(header=server.header, alive=frozenset(range(20)) - gone).to_bytes()
    for n in server.at(0, 1, 2, 6, 7, 8):
        with pytest.raises(RemoteProtocolError, match="named as alive, never shared"):
            server.states[n].sign_survivors(named)


@pytest.mark.parametrize("width", range(4, 14))
def test_no_arc_is_opened_by_saying_that_both_its_sides_are_gone(width: int) -> None:
    server = LyingServer(ACTIVE)
    arc = server.at(*range(width))
    gone = server.at(-1, -2, -3, width, width + 1, width + 2)
    server.mask(frozenset(), frozenset())
    with pytest.raises(KeyError):
        server.open(arc, gone, server.reveals(set(range(20)) - gone, checked=True))


def test_not_protected_from_an_arc_cut_out_where_the_server_is_trusted() -> None:
    server = LyingServer(TRUSTED)
    assert TRUSTED.plan(20) == GraphPlan(degree=6, threshold=3)
    arc, gone = server.at(0, 1, 2, 3), server.at(-1, -2, -3, 4, 5, 6)
    server.mask(frozenset(), frozenset())
    revealed = server.reveals(set(range(20)) - gone, checked=True)
    assert np.array_equal(server.open(arc, gone, revealed), sum_of(arc))
