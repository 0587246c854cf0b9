"""Deliver the victim's box a second time, under the name of a client that is gone.

Each peer then holds the victim's shares twice. Asked about the victim, who is
alive, it reveals the share of its self-mask; asked about the one who is gone, it
reveals the share of the victim's mask key.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params, client
from protocols.bonawitz.messages import (
    ShareBoxes,
)
from protocols.bonawitz.params import VERSION, Context
from protocols.primitives.agree import PrivateKey
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import agreement_of, played, unmasked

AGREEMENT = agreement_of(Params(clients=5, threshold=3, words=4))
HEADER = AGREEMENT.header
CLIENTS, VICTIM, GONE, PEERS = (1, 2, 3, 4, 5), 1, 3, (2, 4, 5)
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)


def attack() -> NDArray[np.uint64]:
    made = played(AGREEMENT, dict.fromkeys(CLIENTS, PRIVATE), "boxes")
    sealed, frames, reveals = made.sealed, {}, []
    survivors = made.named(VICTIM, *PEERS)
    for number in (VICTIM, *PEERS):
        boxes = {sender: sealed[sender][number] for sender in CLIENTS if sender != number}
        if number != VICTIM:
            boxes[GONE] = boxes[VICTIM]
        message = ShareBoxes(header=HEADER, recipient=number, boxes=boxes).to_bytes()
        sent, state = made.states[number].on_boxes(message, PRIVATE)
        frames[number] = list(sent)
        if number != VICTIM:
            reveals.append(made.shares(state.on_survivors(survivors)))
    seed, key = combine(PEERS, [[shares[about] for shares in reveals] for about in (VICTIM, GONE)])
    return unmasked(AGREEMENT, made.roster, VICTIM, frames[VICTIM], seed=seed, key=key)


def one_key_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes under a key that the whole group shares."""
    agree = PrivateKey.agree

    def grouped(key: PrivateKey, peer: bytes, *labels: bytes) -> tuple[Secret, ...]:
        if any(label.startswith(VERSION + b" seal ") for label in labels):
            return tuple(Secret(bytes(32)) for _ in labels)
        return agree(key, peer, *labels)

    monkeypatch.setattr(PrivateKey, "agree", grouped)


def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes that name only their recipient on the outside."""

    def about(_: Context, sender: int, recipient: int) -> bytes:
        return repr(recipient).encode()

    monkeypatch.setattr(client, "_about", about)


def test_a_box_under_another_name_does_not_open() -> None:
    with pytest.raises(KeyError):  # who cannot open it holds no share
        attack()


@pytest.mark.parametrize("weaken", [one_key_for_all, nameless], ids=["outside", "key"])
def test_either_binding_alone_keeps_it_shut(monkeypatch: pytest.MonkeyPatch, weaken: Any) -> None:
    weaken(monkeypatch)
    with pytest.raises(KeyError):  # who cannot open it holds no share
        attack()


def test_with_neither_binding_the_victims_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    one_key_for_all(monkeypatch)
    nameless(monkeypatch)
    assert np.array_equal(attack(), PRIVATE)
