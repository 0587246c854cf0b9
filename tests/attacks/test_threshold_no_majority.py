"""Name two disjoint sets of survivors, where both reach the threshold.

Each set opens the self-masks of its own members and the mask keys of the other's:
every input is read. A client refuses a roster of which twice its threshold is no
more than the number of share holders.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, CollectKeys, Params, join
from protocols.bonawitz.messages import MaskedFrame, Reveal, Roster, Survivors
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.testing import insecure_entropy
from protocols.wire import Header

CLIENTS, LEFT, RIGHT = (1, 2, 3, 4), (1, 2), (3, 4)
HEADER = Header(bytes(16), 1)
INPUTS = {client: np.arange(4, dtype=np.uint64) + np.uint64(100 * client) for client in CLIENTS}


class AnyThreshold(int):
    """The rule removed: twice this number is more than any number of share holders."""

    def __rmul__(self, _: int) -> int:
        return 10**9


def agreement_of(threshold: int) -> Agreement:
    params = Params(clients=4, threshold=threshold, words=4)
    return Agreement(params=params, session=bytes(16), round=1, public=bytes(32))


def masked(agreement: Agreement) -> tuple[Roster, dict[int, bytes], dict[int, Any]]:
    """A round up to the survivors: roster, masked vectors, and the clients that wait."""
    collect = CollectKeys(agreement)
    states: dict[int, Any] = {}
    for number in CLIENTS:
        message, states[number] = join(agreement, number, insecure_entropy(number))
        collect.receive(message)
    rosters, shares = collect.close()
    for number in CLIENTS:
        message, states[number] = states[number].on_roster(rosters[number])
        shares.receive(message)
    boxes, _ = shares.close()
    vectors = {}
    for number in CLIENTS:
        frames, states[number] = states[number].on_boxes(boxes[number], INPUTS[number])
        (vectors[number],) = frames
    return Roster.from_bytes(rosters[1], expect=HEADER), vectors, states


def survivors(*alive: int) -> bytes:
    return Survivors(header=HEADER, alive=frozenset(alive)).to_bytes()


def attack(agreement: Agreement) -> dict[int, NDArray[np.uint64]]:
    """Every client's input, from the answers of two halves that think the other is gone."""
    roster, vectors, states = masked(agreement)
    revealed = {
        number: Reveal.from_bytes(
            states[number].on_survivors(survivors(*half)), expect=HEADER
        ).shares
        for half in (LEFT, RIGHT)
        for number in half
    }
    context = agreement.context(roster.digest())
    stolen = {}
    for mine, others in ((LEFT, RIGHT), (RIGHT, LEFT)):
        for victim in mine:
            (seed,) = combine(mine, [[revealed[peer][victim].expose() for peer in mine]])
            (key,) = combine(others, [[revealed[peer][victim].expose() for peer in others]])
            masks = [Mask(seed=seed, label=context.self_mask(victim), subtract=True)]
            for peer in set(CLIENTS) - {victim}:
                label = context.pair(victim, peer)
                (pair,) = PrivateKey(key).agree(roster.entries[peer].mask, label)
                masks.append(Mask(seed=pair, label=label, subtract=peer < victim))
            frame = MaskedFrame.from_bytes(vectors[victim], expect=HEADER, index=0, count=5)
            words = frame.words.copy()
            Masks(masks).apply_to(words)
            stolen[victim] = words[:-1]
    return stolen


def test_a_client_refuses_to_share_where_two_sets_could_reach_the_threshold() -> None:
    with pytest.raises(RemoteProtocolError, match="threshold 2 is no majority of 4"):
        attack(agreement_of(2))


def test_without_that_refusal_every_input_is_read() -> None:
    stolen = attack(agreement_of(AnyThreshold(2)))
    assert stolen.keys() == INPUTS.keys()
    assert all(np.array_equal(stolen[client], INPUTS[client]) for client in CLIENTS)


def test_a_half_is_no_majority() -> None:
    with pytest.raises(RemoteProtocolError, match="2 alive, at least 3 needed"):
        attack(agreement_of(3))


def test_of_two_overlapping_sets_only_one_gets_a_threshold_of_answers() -> None:
    _, _, states = masked(agreement_of(3))
    for number in (1, 2, 3):
        states[number].on_survivors(survivors(1, 2, 3))
    answers = []
    for number in (2, 3, 4):
        try:
            answers.append(states[number].on_survivors(survivors(2, 3, 4)))
        except LocalProtocolError:
            continue
    assert len(answers) == 1
