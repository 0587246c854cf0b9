"""Send the victim its own box back, as if its recipient had sealed it.

The two have one X25519 secret, so only the direction tells the boxes apart. The
recipient is then named as gone, and the victim itself reveals a share of its own
mask key, while it is alive. With it one colluding client does the work of two.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, CollectKeys, Params, client, join
from protocols.bonawitz.messages import (
    SHARE_SIZE,
    MaskedFrame,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Survivors,
)
from protocols.bonawitz.params import Context
from protocols.errors import RemoteProtocolError
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.testing import insecure_entropy

AGREEMENT = Agreement(
    params=Params(clients=3, threshold=2, words=4), session=bytes(16), round=1, public=bytes(32)
)
HEADER = AGREEMENT.header
CLIENTS, VICTIM, COLLUDER, GONE = (1, 2, 3), 1, 2, 3
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)


def attack() -> NDArray[np.uint64]:
    collect = CollectKeys(AGREEMENT)
    states: dict[int, Any] = {}
    for number in CLIENTS:
        message, states[number] = join(AGREEMENT, number, insecure_entropy(number))
        collect.receive(message)
    rosters, _ = collect.close()
    roster = Roster.from_bytes(rosters[VICTIM], expect=HEADER)
    sealed = {}
    for number in CLIENTS:
        message, states[number] = states[number].on_roster(rosters[number])
        sealed[number] = SealedShares.from_bytes(message, expect=HEADER).boxes

    honest = {sender: sealed[sender][COLLUDER] for sender in (VICTIM, GONE)}
    message = ShareBoxes(header=HEADER, recipient=COLLUDER, boxes=honest).to_bytes()
    _, colluding = states[COLLUDER].on_boxes(message, PRIVATE)
    colluders = colluding.shares.take()[VICTIM].expose()

    boxes = {COLLUDER: sealed[COLLUDER][VICTIM], GONE: sealed[VICTIM][GONE]}
    message = ShareBoxes(header=HEADER, recipient=VICTIM, boxes=boxes).to_bytes()
    frames, victim = states[VICTIM].on_boxes(message, PRIVATE)
    (frame,) = frames
    survivors = Survivors(header=HEADER, alive=frozenset({VICTIM, COLLUDER})).to_bytes()
    shares = Reveal.from_bytes(victim.on_survivors(survivors), expect=HEADER).shares

    (seed,) = combine([VICTIM, COLLUDER], [[shares[VICTIM].expose(), colluders[:SHARE_SIZE]]])
    (key,) = combine([GONE, COLLUDER], [[shares[GONE].expose(), colluders[SHARE_SIZE:]]])
    context = AGREEMENT.context(roster.digest())
    masks = [Mask(seed=seed, label=context.self_mask(VICTIM), subtract=True)]
    for peer in (COLLUDER, GONE):
        label = context.pair(VICTIM, peer)
        (pair,) = PrivateKey(key).agree(roster.entries[peer].mask, label)
        masks.append(Mask(seed=pair, label=label, subtract=peer < VICTIM))
    words = MaskedFrame.from_bytes(frame, expect=HEADER, index=0, count=5).words.copy()
    Masks(masks).apply_to(words)
    return words[:-1]


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
    with pytest.raises(RemoteProtocolError, match="a box does not open"):
        attack()


@pytest.mark.parametrize("weaken", [one_key_for_both, undirected_outside], ids=["outside", "key"])
def test_either_direction_alone_keeps_it_shut(monkeypatch: pytest.MonkeyPatch, weaken: Any) -> None:
    weaken(monkeypatch)
    with pytest.raises(RemoteProtocolError, match="a box does not open"):
        attack()


def test_without_a_direction_the_server_and_one_client_read_the_victims_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_key_for_both(monkeypatch)
    undirected_outside(monkeypatch)
    assert np.array_equal(attack(), PRIVATE)
