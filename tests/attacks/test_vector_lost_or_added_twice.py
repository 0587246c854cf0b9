"""Let the server add a vector twice, lose one, or count one that it never added.

Every vector ends in a check word in which its client counts 1. Unless it unmasks
to the number of survivors, nothing is released.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import CollectVectors, Params, Sum
from protocols.errors import RemoteProtocolError
from protocols.primitives.prg import Masks
from protocols.testing import agreement_of, answered, played

AGREEMENT = agreement_of(Params(clients=4, threshold=3, words=4))
CLIENTS = (1, 2, 3, 4)
INPUTS = {client: np.arange(4, dtype=np.uint64) + np.uint64(100 * client) for client in CLIENTS}


class Unchecked(Masks):
    """The rule removed: the check word is what it should be, whatever was added."""

    def apply_to(self, words: NDArray[np.uint64]) -> None:
        super().apply_to(words)
        words[-1] = len(CLIENTS)


def added_twice(vectors: CollectVectors, frames: dict[int, list[bytes]]) -> None:
    vectors._alive.discard(1)
    vectors.receive(frames[1])


def lost(vectors: CollectVectors, frames: dict[int, list[bytes]]) -> None:
    before = vectors._total.copy()
    vectors._alive.discard(1)
    vectors.receive(frames[1])
    vectors._total += 2 * (before - vectors._total)


def one_in_place_of_another(vectors: CollectVectors, frames: dict[int, list[bytes]]) -> None:
    lost(vectors, frames)
    vectors._alive.discard(2)
    vectors.receive(frames[2])


def attack(mistake: Any, expand: Any) -> Sum:
    made = played(AGREEMENT, INPUTS, "boxes")
    vectors, frames, states = made.server, {}, {}
    for number in CLIENTS:
        frames[number], states[number] = answered(
            made.states[number], made.boxes[number], INPUTS[number]
        )
        vectors.receive(frames[number])
    mistake(vectors, frames)
    named, reveals = vectors.close()
    for number in CLIENTS:
        reveals.receive(states[number].on_survivors(named[number]))
    released: Sum = reveals.close(expand)
    return released


MISTAKES = pytest.mark.parametrize("mistake", [added_twice, lost, one_in_place_of_another])


@MISTAKES
def test_the_check_word_notices(mistake: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="the check word does not count the 4 survivors"):
        attack(mistake, Masks)


@MISTAKES
def test_without_the_check_word_a_wrong_sum_is_released(mistake: Any) -> None:
    released = attack(mistake, Unchecked)
    assert released.survivors == CLIENTS
    right = sum(int(words[0]) for words in INPUTS.values())
    assert int(released.words[0]) != right


def test_with_no_mistake_the_check_word_agrees() -> None:
    released = attack(lambda vectors, frames: None, Masks)
    assert released.words.tolist() == [1000 + 4 * place for place in range(4)]
