"""Attack: a rank hands two ranks two totals, so that they train two models; one gradient is zero.

In a ring each rank passes totals on, so one that lies chooses what those behind it see. It gives
one rank a model whose gradient vanishes (a layer that is dead) and reads the other's gradient off
the next sum, which is then that rank's alone. What was seen as a total is in the next masks of each
pair, so the two do not cancel. arXiv 2111.07380 is the attack on a server's clients.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rank_work import handed_another_total
from ranks import run

from protocols.errors import RemoteProtocolError
from protocols.testing import insecure_entropy
from protocols.zero_sharing import Agreement, Epoch, Params, join

AGREEMENT = Agreement(params=Params(ranks=3), session=bytes(16), round=0, public_digest=bytes(32))
LIAR = 2
SECRET = np.array([41, 42, 43], np.uint64)  # what rank 0's data make of the model
DEAD = 7  # added to a total: the model that it moves to has no gradient

Words = NDArray[np.uint64]


def epochs() -> list[Epoch]:
    joined = [join(AGREEMENT, rank, insecure_entropy(rank)) for rank in range(3)]
    sent = [message for message, _ in joined]
    return [state.on_keys(sent) for _, state in joined]


def gradient(rank: int, total: Words) -> Words:
    """Of a model that followed ``total``: nothing where it is dead."""
    if int(total[0]) == DEAD:
        return np.zeros(3, np.uint64)
    return SECRET if rank == 0 else np.array([900, 800, 700], np.uint64)


def reads(bind: Callable[[int], int]) -> Words:
    """What the liar reads, where ranks name ``bind(counter)`` as ``after``."""
    group = epochs()
    first = [np.zeros(5, np.uint64) for _ in group]
    waits = [
        epoch.begin(vector, counter=0, after=bind(0))
        for epoch, vector in zip(group, first, strict=True)
    ]
    total = np.sum(first, axis=0, dtype=np.uint64)
    dead = total.copy()
    dead[0] += np.uint64(DEAD)
    seen = [waits[rank].open(total if rank != 1 else dead) for rank in range(3)]
    second = [np.zeros(5, np.uint64) for _ in group]
    for rank in (0, 1):
        second[rank][:3] = gradient(rank, seen[rank])
    waits = [
        epoch.begin(vector, counter=1, after=bind(1))
        for epoch, vector in zip(group, second, strict=True)
    ]
    return waits[LIAR].open(np.sum(second, axis=0, dtype=np.uint64))


def test_with_the_check_removed_the_liar_reads_one_gradient() -> None:
    assert reads(lambda counter: 0).tolist() == SECRET.tolist()


def test_ranks_that_saw_two_totals_do_not_cancel() -> None:
    with pytest.raises(RemoteProtocolError, match="was shown other totals"):
        reads(lambda counter: counter)


def test_a_liar_cannot_make_up_for_it() -> None:
    """It knows its own seeds, and neither tag of the two: their difference is a random word."""
    group = epochs()
    first = [np.zeros(5, np.uint64) for _ in group]
    waits = [epoch.begin(vector, counter=0) for epoch, vector in zip(group, first, strict=True)]
    total = np.sum(first, axis=0, dtype=np.uint64)
    other = total.copy()
    other[0] += np.uint64(DEAD)
    for rank, seen in enumerate((total, other, total)):
        waits[rank].open(seen)
    assert group[0]._waits[0] != group[1]._waits[0]
    # Whatever the liar saw, the pair of the two others is as it is.
    assert group[0]._waits[0][1] != group[1]._waits[0][0]
    assert group[0]._waits[0][LIAR] == group[LIAR]._waits[0][0]


@pytest.mark.parametrize("kind", ["ddp", "houses"])
def test_with_the_check_removed_a_training_goes_on_with_two_models(kind: str) -> None:
    found = run(handed_another_total, kind, "removed")
    assert [each[:-1] for each in found] == [[""] * 4] * 4
    # Ranks 1 and 3 hold the same parameters under DDP, and the same shard of two houses.
    assert not torch.equal(found[1][-1], found[3][-1])


@pytest.mark.parametrize("kind", ["ddp", "houses"])
def test_a_training_ends_at_the_next_sum(kind: str) -> None:
    for raised in run(handed_another_total, kind, "kept"):
        # Across houses the next sum is of the same pass, under DDP of the next.
        assert raised == ["", "", "RemoteProtocolError"][-2 if kind == "houses" else 0 :]
