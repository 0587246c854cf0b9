"""Deliver a box of an earlier round, or of another session, in place of this round's.

A client's sealing key may outlive a round. In round 1 the victim survives, and its
self-mask is opened. In round 2 it drops out; its peers, who hold the replayed
boxes, then reveal what they take for its new mask key, and it is the old one. With
both, its vector of round 1 is open.
"""

import hashlib
import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, CollectKeys, Params, client, join
from protocols.bonawitz.messages import (
    MaskedFrame,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Survivors,
)
from protocols.bonawitz.params import Context
from protocols.entropy import Entropy
from protocols.errors import RemoteProtocolError
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine

FIRST = Agreement(
    params=Params(clients=3, threshold=2, words=4), session=bytes(16), round=1, public=bytes(32)
)
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


@dataclass
class Seen:
    """What the server sees of a round."""

    agreement: Agreement
    roster: Roster
    victims_boxes: dict[int, bytes]
    victims_frame: bytes
    reveals: dict[int, Reveal]


def run(agreement: Agreement, alive: tuple[int, ...], replayed: Seen | None = None) -> Seen:
    """A round, in which the server puts the victim's ``replayed`` boxes in place of the new."""
    header = agreement.header
    collect = CollectKeys(agreement)
    states: dict[int, Any] = {}
    for number in CLIENTS:
        message, states[number] = join(agreement, number, keyring(number, agreement))
        collect.receive(message)
    rosters, _ = collect.close()
    sealed: dict[int, dict[int, bytes]] = {}
    for number in CLIENTS:
        message, states[number] = states[number].on_roster(rosters[number])
        sealed[number] = SealedShares.from_bytes(message, expect=header).boxes
    own = sealed[VICTIM]
    if replayed:
        sealed[VICTIM] = replayed.victims_boxes
    frame = b""
    for number in alive:
        boxes = {sender: sealed[sender][number] for sender in CLIENTS if sender != number}
        message = ShareBoxes(header=header, recipient=number, boxes=boxes).to_bytes()
        frames, states[number] = states[number].on_boxes(message, PRIVATE)
        (sent,) = frames
        frame = sent if number == VICTIM else frame
    survivors = Survivors(header=header, alive=frozenset(alive)).to_bytes()
    reveals = {
        number: Reveal.from_bytes(states[number].on_survivors(survivors), expect=header)
        for number in alive
    }
    roster = Roster.from_bytes(rosters[VICTIM], expect=header)
    return Seen(agreement, roster, own, frame, reveals)


def attack(second: Agreement) -> NDArray[np.uint64]:
    """The victim's vector of round 1, from what the server saw of it and of round 2."""
    first = run(FIRST, alive=CLIENTS)
    later = run(second, alive=PEERS, replayed=first)
    seed, key = combine(
        PEERS,
        [[seen.reveals[peer].shares[VICTIM].expose() for peer in PEERS] for seen in (first, later)],
    )
    context = FIRST.context(first.roster.digest())
    masks = [Mask(seed=seed, label=context.self_mask(VICTIM), subtract=True)]
    for peer in PEERS:
        label = context.pair(VICTIM, peer)
        (pair,) = PrivateKey(key).agree(first.roster.entries[peer].mask, label)
        masks.append(Mask(seed=pair, label=label, subtract=peer < VICTIM))
    frame = MaskedFrame.from_bytes(first.victims_frame, expect=FIRST.header, index=0, count=5)
    words = frame.words.copy()
    Masks(masks).apply_to(words)
    return words[:-1]


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
    with pytest.raises(RemoteProtocolError, match="a box does not open"):
        attack(second)


@LATER
@pytest.mark.parametrize("unbind", [unbind_key, unbind_outside], ids=["outside", "key"])
def test_either_binding_alone_keeps_it_shut(
    monkeypatch: pytest.MonkeyPatch, second: Agreement, unbind: Any
) -> None:
    unbind(monkeypatch)
    with pytest.raises(RemoteProtocolError, match="a box does not open"):
        attack(second)


@LATER
def test_with_neither_binding_the_earlier_vector_is_read(
    monkeypatch: pytest.MonkeyPatch, second: Agreement
) -> None:
    unbind_key(monkeypatch)
    unbind_outside(monkeypatch)
    assert np.array_equal(attack(second), PRIVATE)
