"""Deliver a box of an earlier round, or of another session, in place of this round's.

A client's sealing key may outlive a round. In round 1 the victim survives, and its
self-mask is opened. In round 2 it drops out; its peers, who hold the replayed
boxes, then reveal what they take for its new mask key, and it is the old one. With
both, its vector of round 1 is open.
"""

import hashlib
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, Params, client
from protocols.bonawitz.messages import (
    ShareBoxes,
)
from protocols.bonawitz.params import Context
from protocols.entropy import Entropy
from protocols.primitives.shamir import combine
from protocols.testing import Played, agreement_of, played, unmasked

FIRST = agreement_of(Params(clients=3, threshold=2, words=4))
CLIENTS, PEERS, VICTIM = (1, 2, 3), (2, 3), 1
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)


def keyring(number: int, agreement: Agreement) -> Entropy:
    """Everything fresh in each round, but the sealing key, which ``join`` draws second."""
    calls = itertools.count()

    def entropy(size: int) -> bytes:
        call = next(calls)
        fresh = "" if call == 1 else f"{agreement.round}{agreement.session.hex()}"
        return hashlib.shake_256(f"{number}/{call}/{fresh}".encode()).digest(size)

    return entropy


def run(agreement: Agreement) -> Played:
    return played(
        agreement,
        dict.fromkeys(CLIENTS, PRIVATE),
        "boxes",
        entropy=lambda number: keyring(number, agreement),
    )


def attack(second: Agreement) -> NDArray[np.uint64]:
    """The victim's vector of round 1, from what the server saw of it and of round 2."""
    first, later = run(FIRST), run(second)
    replayed = first.sealed[VICTIM]
    first = first.until("sum")
    seeds, keys = [], []
    for peer in PEERS:
        seeds.append(first.shares(first.reveals[peer])[VICTIM])
        boxes = {VICTIM: replayed[peer]} | {n: later.sealed[n][peer] for n in PEERS if n != peer}
        message = ShareBoxes(header=second.header, recipient=peer, boxes=boxes).to_bytes()
        _, state = later.states[peer].on_boxes(message, PRIVATE)
        keys.append(later.shares(state.on_survivors(later.named(*PEERS)))[VICTIM])
    seed, key = combine(PEERS, [seeds, keys])
    return unmasked(FIRST, first.roster, VICTIM, first.frames[VICTIM], seed=seed, key=key)


def unbind_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box key that knows only its two ends."""

    def seal(_: Context, sender: int, recipient: int, *__: bytes) -> bytes:
        return repr((sender, recipient)).encode()

    monkeypatch.setattr(Context, "seal", seal)


def unbind_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A box that says on its outside only who its two ends are."""

    def about(_: Context, sender: int, recipient: int) -> bytes:
        return repr((sender, recipient)).encode()

    monkeypatch.setattr(client, "_about", about)


LATER = pytest.mark.parametrize(
    "second",
    [replace(FIRST, round=2), replace(FIRST, session=b"another session!")],
    ids=["round", "session"],
)


@LATER
def test_a_replayed_box_does_not_open(second: Agreement) -> None:
    with pytest.raises(KeyError):  # who cannot open it holds no share
        attack(second)


@LATER
@pytest.mark.parametrize("unbind", [unbind_key, unbind_outside], ids=["outside", "key"])
def test_either_binding_alone_keeps_it_shut(
    monkeypatch: pytest.MonkeyPatch, second: Agreement, unbind: Any
) -> None:
    unbind(monkeypatch)
    with pytest.raises(KeyError):  # who cannot open it holds no share
        attack(second)


@LATER
def test_with_neither_binding_the_earlier_vector_is_read(
    monkeypatch: pytest.MonkeyPatch, second: Agreement
) -> None:
    unbind_key(monkeypatch)
    unbind_outside(monkeypatch)
    assert np.array_equal(attack(second), PRIVATE)
