"""Attack: a rank in the middle of a ring leaves others out, or holds on to what passes by.

Masks of a part of the ranks cancel among themselves alone. Ranks that work together and leave out k
of n learn the sum of those k, which the page says, and nothing of fewer of them.
"""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.errors import RemoteProtocolError
from protocols.testing import insecure_entropy
from protocols.zero_sharing import Agreement, AwaitTotal, Epoch, Params, join

RANKS = 4
PARAMS = Params(ranks=RANKS)
AGREEMENT = Agreement(params=PARAMS, session=bytes(16), round=0, public_digest=bytes(32))
INPUT = 5  # of every rank, so that masked words alone tell them apart

Words = NDArray[np.uint64]


def sent() -> tuple[list[Epoch], list[Words], list[AwaitTotal]]:
    joined = [join(AGREEMENT, rank, insecure_entropy(rank)) for rank in range(RANKS)]
    messages = [message for message, _ in joined]
    epochs = [state.on_keys(messages) for _, state in joined]
    vectors = [np.full(9, INPUT, np.uint64) for _ in epochs]
    waits = [each.begin(vector, counter=0) for each, vector in zip(epochs, vectors, strict=True)]
    return epochs, vectors, waits


PARTS = [part for size in (1, 2, 3) for part in itertools.combinations(range(RANKS), size)]


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_partial_sum_on_the_wire_shows_no_word_of_its_ranks(part: tuple[int, ...]) -> None:
    _, vectors, waits = sent()
    partial = np.sum([vectors[rank] for rank in part], axis=0, dtype=np.uint64)
    assert not (partial[:-2] == INPUT * len(part)).any()
    with pytest.raises(RemoteProtocolError, match="check word"):
        waits[0].open(partial)


def test_two_of_four_that_work_together_learn_the_sum_of_the_other_two_and_no_more() -> None:
    """What the page says of k of n, carried out: masks between the two others stay on each."""
    epochs, vectors, _ = sent()
    own = [np.zeros(9, np.uint64) for _ in range(2)]
    for epoch, vector in zip(epochs[:2], own, strict=True):
        epoch._next = 0  # the two make their masks once more; nobody can keep them from it
        epoch.begin(vector, counter=0)
    both = np.sum([*own, vectors[2], vectors[3]], axis=0, dtype=np.uint64)
    assert both[:-2].tolist() == [2 * INPUT] * 7
    for other in (2, 3):
        one = np.sum([*own, vectors[other]], axis=0, dtype=np.uint64)
        assert not (one[:-2] == INPUT).any()


def test_a_check_word_that_the_liar_counts_up_opens_nothing() -> None:
    """It leaves out rank 2 and adds one to its own check word in place of it."""
    _, vectors, waits = sent()
    vectors[3][-1] += np.uint64(1)
    total = np.sum([vectors[rank] for rank in (0, 1, 3)], axis=0, dtype=np.uint64)
    with pytest.raises(RemoteProtocolError, match="check word"):
        waits[0].open(total)
