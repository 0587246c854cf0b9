"""Restore an old record of a client, name other survivors, and collect both shares of a peer.

With t shares of a client's self-mask seed and t of its mask key, every mask comes
off its vector [BIK+17, section 4]. One message cannot ask for both; two messages
to two copies of one state can. The burn store stands in between.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params, restore
from protocols.burn import Burn
from protocols.errors import RemoteProtocolError
from protocols.primitives.shamir import combine
from protocols.testing import (
    BurnInMemory,
    Stage,
    agreement_of,
    answered,
    burn_nothing,
    played,
    unmasked,
)

AGREEMENT = agreement_of(Params(clients=3, threshold=2, words=4))
CLIENTS, PEERS, VICTIM = (1, 2, 3), (1, 2), 3
INPUTS = {client: np.arange(4, dtype=np.uint64) + np.uint64(100 * client) for client in CLIENTS}

WAITS: tuple[Stage, ...] = ("roster", "boxes", "survivors")  # for them, at stages 1, 2 and 3


class BurntInADict(dict[tuple[bytes, int], bytes]):
    """The same; while nothing is burnt it is false, as every empty container is."""

    def __call__(self, session: bytes, stage: int, request: bytes) -> bool:
        return self.setdefault((session, stage), request) == request


class Host:
    """A round up to the survivors, as a host sees it that keeps every old record."""

    def __init__(self) -> None:
        played_to = [played(AGREEMENT, INPUTS, each) for each in WAITS]
        self.records = {
            (client, stage): played_to[stage - 1].states[client].into_record()
            for stage in (1, 2, 3)
            for client in CLIENTS
        }
        self.made = played_to[-1]

    def ask(self, client: int, stage: int, burn: Burn, *alive: int) -> dict[int, bytes]:
        """Roll ``client`` back to ``stage``, and lead it on to reveal its shares."""
        made, state = self.made, restore(self.records[client, stage], burn=burn)
        for message in (made.rosters[client], made.boxes[client])[stage - 1 :]:
            _, state = answered(state, message, INPUTS[client])
        answer, _ = answered(state, made.named(*alive), INPUTS[client])
        return made.shares(answer)

    def attack(self, stage: int, stores: dict[int, Burn]) -> NDArray[np.uint64]:
        """The victim's input, from both shares of it that its two peers hold."""
        seeds, keys = [], []
        for peer in PEERS:
            seeds.append(self.ask(peer, stage, stores[peer], *CLIENTS)[VICTIM])
            keys.append(self.ask(peer, stage, stores[peer], *PEERS)[VICTIM])
        seed, key = combine(PEERS, [seeds, keys])
        frames = self.made.frames[VICTIM]
        return unmasked(AGREEMENT, self.made.roster, VICTIM, frames, seed=seed, key=key)


STAGES = pytest.mark.parametrize("stage", [1, 2, 3])


@STAGES
def test_without_a_burn_store_the_attack_reads_the_victims_input(stage: int) -> None:
    stolen = Host().attack(stage, {1: burn_nothing, 2: burn_nothing})
    assert np.array_equal(stolen, INPUTS[VICTIM])


@STAGES
@pytest.mark.parametrize("store", [BurnInMemory, BurntInADict])
def test_with_a_burn_store_the_second_survivor_set_is_refused(
    stage: int, store: Callable[[], Burn]
) -> None:
    with pytest.raises(RemoteProtocolError, match="was answered for another request"):
        Host().attack(stage, {1: store(), 2: store()})


@pytest.mark.parametrize("store", [BurnInMemory, BurntInADict])
def test_the_share_of_one_kind_is_all_that_ever_leaves(store: Callable[[], Burn]) -> None:
    host, burn = Host(), store()
    first = host.ask(1, 3, burn, *CLIENTS)
    for _ in range(3):
        with pytest.raises(RemoteProtocolError, match="was answered for another request"):
            host.ask(1, 3, burn, *PEERS)
        assert host.ask(1, 3, burn, *CLIENTS) == first


def test_one_of_two_peers_with_a_burn_store_is_enough_to_stop_it() -> None:
    with pytest.raises(RemoteProtocolError, match="of client 2 was answered"):
        Host().attack(3, {1: burn_nothing, 2: BurnInMemory()})
