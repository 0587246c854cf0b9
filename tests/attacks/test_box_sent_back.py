"""Send the victim its own box back, as if its recipient had sealed it.

The two have one X25519 secret, so only the direction tells the boxes apart. The
recipient is then named as gone, and the victim itself reveals a share of its own
mask key, while it is alive. With it one colluding client does the work of two.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params, client
from protocols.bonawitz.messages import (
    SHARE_SIZE,
    ShareBoxes,
)
from protocols.bonawitz.params import Context
from protocols.primitives.shamir import combine
from protocols.testing import agreement_of, played, unmasked

AGREEMENT = agreement_of(Params(clients=3, threshold=2, words=4))
HEADER = AGREEMENT.header
CLIENTS, VICTIM, COLLUDER, GONE = (1, 2, 3), 1, 2, 3
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)


def attack() -> NDArray[np.uint64]:
    made = played(AGREEMENT, dict.fromkeys(CLIENTS, PRIVATE), "boxes")
    sealed = made.sealed
    _, colluding = made.states[COLLUDER].on_boxes(made.boxes[COLLUDER], PRIVATE)
    colluders = colluding.shares.take()[VICTIM].expose()

    boxes = {COLLUDER: sealed[COLLUDER][VICTIM], GONE: sealed[VICTIM][GONE]}
    message = ShareBoxes(header=HEADER, recipient=VICTIM, boxes=boxes).to_bytes()
    frames, victim = made.states[VICTIM].on_boxes(message, PRIVATE)
    shares = made.shares(victim.on_survivors(made.named(VICTIM, COLLUDER)))

    (seed,) = combine([VICTIM, COLLUDER], [[shares[VICTIM], colluders[:SHARE_SIZE]]])
    (key,) = combine([GONE, COLLUDER], [[shares[GONE], colluders[SHARE_SIZE:]]])
    return unmasked(AGREEMENT, made.roster, VICTIM, list(frames), seed=seed, key=key)


def one_key_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """One box key for both directions."""
    seal = Context.seal

    def undirected(context: Context, one: int, other: int, mine: bytes, theirs: bytes) -> bytes:
        if one > other:
            one, other, mine, theirs = other, one, theirs, mine
        return seal(context, one, other, mine, theirs)

    monkeypatch.setattr(Context, "seal", undirected)


def undirected_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes that name their two ends on the outside, in no order."""
    about = client._about

    def undirected(context: Context, sender: int, recipient: int) -> bytes:
        return about(context, min(sender, recipient), max(sender, recipient))

    monkeypatch.setattr(client, "_about", undirected)


def test_a_box_sent_back_does_not_open() -> None:
    with pytest.raises(KeyError):  # who cannot open it holds no share
        attack()


@pytest.mark.parametrize("weaken", [one_key_for_both, undirected_outside], ids=["outside", "key"])
def test_either_direction_alone_keeps_it_shut(monkeypatch: pytest.MonkeyPatch, weaken: Any) -> None:
    weaken(monkeypatch)
    with pytest.raises(KeyError):  # who cannot open it holds no share
        attack()


def test_without_a_direction_the_server_and_one_client_read_the_victims_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_key_for_both(monkeypatch)
    undirected_outside(monkeypatch)
    assert np.array_equal(attack(), PRIVATE)
