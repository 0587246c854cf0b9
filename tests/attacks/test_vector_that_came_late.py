"""Name a client as gone, rebuild its mask key, and keep its vector, which comes all the same.

The pairwise masks of that vector are then known. What is left on it is the
self-mask, whose seed no peer opens for a client that is gone: the reason for two
masks in [BIK+17, section 4].
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, CollectKeys, Params, client, join
from protocols.bonawitz.messages import MaskedFrame, Reveal, Roster
from protocols.errors import RemoteProtocolError
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.testing import insecure_entropy

AGREEMENT = Agreement(
    params=Params(clients=3, threshold=2, words=4), session=bytes(16), round=1, public=bytes(32)
)
HEADER = AGREEMENT.header
CLIENTS, PEERS, VICTIM = (1, 2, 3), (2, 3), 1
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)


def attack() -> tuple[NDArray[np.uint64], Any, bytes]:
    """The late vector without its pairwise masks; the victim that waits; the survivors' message."""
    collect = CollectKeys(AGREEMENT)
    states: dict[int, Any] = {}
    for number in CLIENTS:
        message, states[number] = join(AGREEMENT, number, insecure_entropy(number))
        collect.receive(message)
    rosters, shares = collect.close()
    for number in CLIENTS:
        message, states[number] = states[number].on_roster(rosters[number])
        shares.receive(message)
    boxes, vectors = shares.close()
    frames = {}
    for number in CLIENTS:
        sent, states[number] = states[number].on_boxes(boxes[number], PRIVATE)
        (frames[number],) = sent
    for peer in PEERS:
        vectors.receive([frames[peer]])
    message, _ = vectors.close()
    revealed = [
        Reveal.from_bytes(states[peer].on_survivors(message), expect=HEADER).shares[VICTIM]
        for peer in PEERS
    ]
    (key,) = combine(PEERS, [[share.expose() for share in revealed]])
    roster = Roster.from_bytes(rosters[VICTIM], expect=HEADER)
    context = AGREEMENT.context(roster.digest())
    masks = []
    for peer in PEERS:
        label = context.pair(VICTIM, peer)
        (pair,) = PrivateKey(key).agree(roster.entries[peer].mask, label)
        masks.append(Mask(seed=pair, label=label, subtract=peer < VICTIM))
    late = MaskedFrame.from_bytes(frames[VICTIM], expect=HEADER, index=0, count=5).words.copy()
    Masks(masks).apply_to(late)
    return late[:-1], states[VICTIM], message


def test_the_self_mask_stays_on_a_late_vector() -> None:
    late, _, _ = attack()
    assert not np.any(late == PRIVATE)


def test_the_victim_itself_does_not_help() -> None:
    _, victim, survivors = attack()
    with pytest.raises(RemoteProtocolError, match="we are named as gone"):
        victim.on_survivors(survivors)


def test_with_pairwise_masks_alone_a_late_vector_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "Masks", lambda masks, suite: Masks(masks[1:], suite))
    late, _, _ = attack()
    assert np.array_equal(late, PRIVATE)
