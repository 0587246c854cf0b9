"""Name two disjoint sets of survivors, where both reach the threshold.

Each set opens the self-masks of its own members and the mask keys of the other's:
every input is read. A client refuses a roster of which twice its threshold is no
more than the number of share holders.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.primitives.shamir import combine
from protocols.testing import Played, agreement_of, played, unmasked

CLIENTS, LEFT, RIGHT = (1, 2, 3, 4), (1, 2), (3, 4)
INPUTS = {client: np.arange(4, dtype=np.uint64) + np.uint64(100 * client) for client in CLIENTS}


class AnyThreshold(int):
    """The rule removed: twice this number is more than any number of share holders."""

    def __rmul__(self, _: int) -> int:
        return 10**9


def masked(threshold: int) -> Played:
    """A round up to the survivors."""
    agreement = agreement_of(Params(clients=4, threshold=threshold, words=4))
    return played(agreement, INPUTS, "survivors")


def attack(threshold: int) -> dict[int, NDArray[np.uint64]]:
    """Every client's input, from the answers of two halves that think the other is gone."""
    made = masked(threshold)
    revealed = {
        number: made.shares(made.states[number].on_survivors(made.named(*half)))
        for half in (LEFT, RIGHT)
        for number in half
    }
    stolen = {}
    for mine, others in ((LEFT, RIGHT), (RIGHT, LEFT)):
        for victim in mine:
            (seed,) = combine(mine, [[revealed[peer][victim] for peer in mine]])
            (key,) = combine(others, [[revealed[peer][victim] for peer in others]])
            stolen[victim] = unmasked(
                made.agreement, made.roster, victim, made.frames[victim], seed=seed, key=key
            )
    return stolen


def test_a_client_refuses_to_share_where_two_sets_could_reach_the_threshold() -> None:
    with pytest.raises(RemoteProtocolError, match="threshold 2 is no majority of 4"):
        attack(2)


def test_without_that_refusal_every_input_is_read() -> None:
    stolen = attack(AnyThreshold(2))
    assert stolen.keys() == INPUTS.keys()
    assert all(np.array_equal(stolen[client], INPUTS[client]) for client in CLIENTS)


def test_a_half_is_no_majority() -> None:
    with pytest.raises(RemoteProtocolError, match="2 alive, at least 3 needed"):
        attack(3)


def test_of_two_overlapping_sets_only_one_gets_a_threshold_of_answers() -> None:
    made = masked(3)
    for number in (1, 2, 3):
        made.states[number].on_survivors(made.named(1, 2, 3))
    answers = []
    for number in (2, 3, 4):
        try:
            answers.append(made.states[number].on_survivors(made.named(2, 3, 4)))
        except LocalProtocolError:
            continue
    assert len(answers) == 1
