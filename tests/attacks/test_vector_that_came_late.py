"""Name a client as gone, rebuild its mask key, and keep its vector, which comes all the same.

The pairwise masks of that vector are then known. What is left on it is the
self-mask, whose seed no peer opens for a client that is gone: the reason for two
masks in [BIK+17, section 4].
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params, client
from protocols.errors import RemoteProtocolError
from protocols.primitives.prg import Masks
from protocols.primitives.shamir import combine
from protocols.testing import agreement_of, played, unmasked

AGREEMENT = agreement_of(Params(clients=3, threshold=2, words=4))
HEADER = AGREEMENT.header
CLIENTS, PEERS, VICTIM = (1, 2, 3), (2, 3), 1
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)


def attack() -> tuple[NDArray[np.uint64], Any, bytes]:
    """The late vector without its pairwise masks; the victim that waits; the survivors' message."""
    made = played(AGREEMENT, dict.fromkeys(CLIENTS, PRIVATE), "sum", alive=PEERS)
    (key,) = combine(PEERS, [[made.shares(made.reveals[peer])[VICTIM] for peer in PEERS]])
    late = unmasked(AGREEMENT, made.roster, VICTIM, made.frames[VICTIM], seed=None, key=key)
    return late, made.states[VICTIM], made.survivors


def test_the_self_mask_stays_on_a_late_vector() -> None:
    late, _, _ = attack()
    assert not np.any(late == PRIVATE)


def test_the_victim_itself_does_not_help() -> None:
    _, victim, survivors = attack()
    with pytest.raises(RemoteProtocolError, match="we are named as gone"):
        victim.on_survivors(survivors)


def test_with_pairwise_masks_alone_a_late_vector_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {"expand": lambda masks, suite: Masks(masks[1:], suite)}  # our own stands first
    monkeypatch.setattr(client.AwaitBoxes.on_boxes, "__kwdefaults__", without)
    late, _, _ = attack()
    assert np.array_equal(late, PRIVATE)
