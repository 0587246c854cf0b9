"""Ask for a sum over so few that colluding clients can take their own parts out of it.

The server names three survivors where five have sent vectors, or shows a roster of
nobody but the victim and a client of its own. The minimum is the clients' to
enforce: this server ignores it.
"""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params
from protocols.bonawitz.graph import GraphPlan
from protocols.errors import RemoteProtocolError
from protocols.testing import agreement_of, played


class Careless(Params):
    """The rule removed: the minimum of survivors is agreed upon, and nobody looks at it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "minimum_survivors", Unread(self.minimum_survivors))

    def needed(self, plan: GraphPlan) -> int:
        return plan.threshold


class Unread(int):
    """A number that is written as it is, and that nothing is less than."""

    def __gt__(self, _: int) -> bool:
        return False


def careless(params: Params) -> Params:
    return Careless(
        clients=params.clients,
        threshold=params.threshold,
        minimum_survivors=params.minimum_survivors,
        words=params.words,
        suite=params.suite,
    )


PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)


def attack(
    params: Params, roster: tuple[int, ...], summed: tuple[int, ...], *, enforced: bool
) -> NDArray[np.uint64]:
    """Client 1's input, by a server that ignores the minimum, and all others of ``summed``."""
    server = agreement_of(careless(params))
    client = agreement_of(params) if enforced else server
    assert client.to_bytes() == server.to_bytes()
    inputs = {number: PRIVATE * np.uint64(number) for number in roster}
    made = played(server, inputs, "sum", alive=summed, shown=dict.fromkeys(roster, client))
    words: NDArray[np.uint64] = made.server.close().words
    for number in summed[1:]:
        words = words - inputs[number]
    return words


FIVE = Params(clients=5, threshold=3, minimum_survivors=5, words=4)
TWO = Params(clients=3, threshold=2, minimum_survivors=3, words=4)


def test_survivors_below_the_minimum_get_no_shares() -> None:
    with pytest.raises(RemoteProtocolError, match="3 alive, at least 5 needed"):
        attack(FIVE, (1, 2, 3, 4, 5), (1, 2, 3), enforced=True)


def test_without_the_minimum_two_colluding_clients_read_the_third() -> None:
    stolen = attack(FIVE, (1, 2, 3, 4, 5), (1, 2, 3), enforced=False)
    assert np.array_equal(stolen, PRIVATE)


def test_a_tiny_roster_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="2 clients in the roster, 3 needed"):
        attack(TWO, (1, 2), (1, 2), enforced=True)


def test_without_the_minimum_a_roster_of_two_gives_one_away_to_the_other() -> None:
    assert np.array_equal(attack(TWO, (1, 2), (1, 2), enforced=False), PRIVATE)


def test_a_minimum_of_one_cannot_be_agreed_upon() -> None:
    with pytest.raises(ValueError, match="the sum of one is no sum"):
        replace(TWO, minimum_survivors=1)
