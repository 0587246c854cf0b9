"""Name two sets of survivors where corrupt clients help both to the threshold.

With n_C corrupt clients, who sign and reveal everything, a majority of n is not
enough: two halves of the honest reach it with their help, each set is signed as
it should be, and every honest input is read. So a client refuses unless twice the
threshold is above n + n_C [BIK+17, section 6.2].
"""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params
from protocols.bonawitz.messages import (
    Signatures,
    SignedSurvivors,
    Survivors,
)
from protocols.errors import InputError, RemoteProtocolError
from protocols.primitives.shamir import combine
from protocols.testing import agreement_of, insecure_identities, played, unmasked

IDENTITIES = insecure_identities(range(1, 10))


class AnyThreshold(int):
    """The rule removed: twice this number is more than any number of share holders."""

    def __rmul__(self, _: int) -> int:
        return 10**9


def input_of(n: int) -> NDArray[np.uint64]:
    return np.full(3, 10**n, np.uint64)


def attack(
    params: Params, left: Sequence[int], right: Sequence[int], corrupt: Sequence[int]
) -> dict[int, NDArray[np.uint64]]:
    """Every honest input; who is in none of the three is left out of the roster."""
    clients = sorted([*left, *right, *corrupt])
    inputs = {n: input_of(n) for n in clients}
    made = played(agreement_of(params), inputs, "survivors", identities=IDENTITIES)
    header, states, survivors = made.header, made.states, made.context.survivors()
    both = {n: states[n].shares.take() for n in corrupt}
    revealed: dict[int, dict[int, bytes]] = {}
    for half in (left, right):
        named = Survivors(header=header, alive=frozenset([*half, *corrupt]), members=clients)
        signed = {n: IDENTITIES[n].sign(survivors, named.body()) for n in corrupt}
        waiting = {}
        for n in half:
            message, waiting[n] = states[n].sign_survivors(named.to_bytes())
            signed[n] = SignedSurvivors.from_bytes(message, expect=header).signature
        message = Signatures(header=header, signatures=signed).to_bytes()
        for n in half:
            revealed[n] = made.shares(waiting[n].on_signatures(message))
    number = {n: place for place, n in enumerate(clients, 1)}
    stolen = {}
    for mine, others in ((left, right), (right, left)):
        for victim in mine:
            seeds = {n: revealed[n][victim] for n in mine}
            keys = {n: revealed[n][victim] for n in others}
            for n in corrupt:
                share = both[n][victim].expose()
                seeds[n], keys[n] = share[:32], share[32:]
            ((seed,), (key,)) = (
                combine([number[n] for n in some], [list(some.values())]) for some in (seeds, keys)
            )
            stolen[victim] = unmasked(
                made.agreement, made.roster, victim, made.frames[victim], seed=seed, key=key
            )
    return stolen


def params(threshold: int, corrupt: int | None, clients: int = 6) -> Params:
    return Params(clients=clients, threshold=threshold, words=3, active=True, max_corrupt=corrupt)


def all_read(stolen: dict[int, NDArray[np.uint64]]) -> bool:
    return all(np.array_equal(words, input_of(n)) for n, words in stolen.items())


def test_without_the_refusal_two_halves_and_the_corrupt_open_every_input() -> None:
    stolen = attack(params(AnyThreshold(4), 2), (1, 2), (3, 4), (5, 6))
    assert stolen.keys() == {1, 2, 3, 4}
    assert all_read(stolen)


@pytest.mark.parametrize("corrupt", [2, None])
def test_a_client_refuses_a_threshold_that_two_sets_reach_with_the_corrupt(
    corrupt: int | None,
) -> None:
    with pytest.raises(InputError, match=r"threshold 4 is no majority of 6 .* 2 of them"):
        attack(params(4, corrupt), (1, 2), (3, 4), (5, 6))


def test_one_more_in_the_threshold_and_the_halves_are_too_few() -> None:
    with pytest.raises(RemoteProtocolError, match="4 alive, at least 5 needed"):
        attack(params(5, 2), (1, 2), (3, 4), (5, 6))


def test_more_corrupt_clients_than_agreed_open_every_input() -> None:
    assert all_read(attack(params(4, 1), (1, 2), (3, 4), (5, 6)))


def test_a_third_is_taken_of_the_clients_agreed_and_not_of_a_roster_without_the_honest() -> None:
    """Two rosters of the same agreement that share no honest client could both reach it."""
    with pytest.raises(InputError, match=r"threshold 5 is no majority of 9 .* 3 of them"):
        params(5, None, clients=9)
    with pytest.raises(InputError, match=r"threshold 40 is no majority of 100 .* 0 of them"):
        params(40, 0, clients=100)


def test_without_the_refusal_a_roster_without_some_honest_opens_every_input() -> None:
    assert all_read(attack(params(AnyThreshold(5), None, clients=9), (1, 2), (3, 4), (7, 8, 9)))
