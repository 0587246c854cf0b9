"""Restore the record of a client that has sent its vector, and have it mask another one.

Both vectors carry the same masks, so their difference is the difference of the
inputs; of a known second input it is the first one itself.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import AwaitBoxes, Params, restore
from protocols.bonawitz.messages import MaskedFrame
from protocols.burn import Burn
from protocols.errors import RemoteProtocolError
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, agreement_of, burn_nothing, played

AGREEMENT = agreement_of(Params(clients=3, threshold=2, words=4))
VICTIM = 2
PRIVATE = np.array([3, 2**63, 5, 2**64 - 1], np.uint64)
KNOWN = np.zeros(4, np.uint64)


def victim() -> tuple[Secret, bytes]:
    """The victim's record, and the boxes that it waits for."""
    made = played(AGREEMENT, dict.fromkeys((1, 2, 3), KNOWN), "boxes")
    return made.states[VICTIM].into_record(), made.boxes[VICTIM]


def masked(record: Secret, burn: Burn, boxes: bytes, words: Any) -> NDArray[np.uint64]:
    state = restore(record, burn=burn)
    assert isinstance(state, AwaitBoxes)
    frames, _ = state.on_boxes(boxes, words)
    (frame,) = frames
    expect = AGREEMENT.header
    return MaskedFrame.from_bytes(frame, expect=expect, index=0, count=5).words[:-1]


def as_parts(words: NDArray[np.uint64]) -> Any:
    return iter(np.split(words, 2))


AS = pytest.mark.parametrize("given_as", [np.asarray, as_parts], ids=["array", "parts"])


@AS
def test_without_a_burn_store_the_difference_is_the_private_input(given_as: Any) -> None:
    record, boxes = victim()
    first = masked(record, burn_nothing, boxes, given_as(PRIVATE))
    second = masked(record, burn_nothing, boxes, given_as(KNOWN))
    assert not np.array_equal(first, PRIVATE)
    assert np.array_equal(first - second, PRIVATE)


@AS
def test_with_a_burn_store_the_second_input_is_refused(given_as: Any) -> None:
    record, boxes = victim()
    store = BurnInMemory()
    masked(record, store, boxes, given_as(PRIVATE))
    with pytest.raises(RemoteProtocolError, match="was answered for another request"):
        masked(record, store, boxes, given_as(KNOWN))


def test_an_array_given_again_is_masked_to_the_same_bytes() -> None:
    record, boxes = victim()
    store = BurnInMemory()
    first = masked(record, store, boxes, PRIVATE)
    assert np.array_equal(masked(record, store, boxes, PRIVATE.copy()), first)
