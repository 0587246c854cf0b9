"""Restore an old record of a client, name other survivors, and collect both shares of a peer.

With t shares of a client's self-mask seed and t of its mask key, every mask comes
off its vector [BIK+17, section 4]. One message cannot ask for both; two messages
to two copies of one state can. The burn store stands in between.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, CollectKeys, Params, join, restore
from protocols.bonawitz.messages import MaskedFrame, Reveal, Roster, Survivors
from protocols.burn import Burn
from protocols.errors import RemoteProtocolError
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, burn_nothing, insecure_entropy

AGREEMENT = Agreement(
    params=Params(clients=3, threshold=2, words=4), session=bytes(16), round=1, public=bytes(32)
)
HEADER = AGREEMENT.header
CLIENTS = (1, 2, 3)
VICTIM = 3
INPUTS = {client: np.arange(4, dtype=np.uint64) + np.uint64(100 * client) for client in CLIENTS}

EVERYBODY = Survivors(header=HEADER, alive=frozenset(CLIENTS)).to_bytes()
VICTIM_GONE = Survivors(header=HEADER, alive=frozenset({1, 2})).to_bytes()


class BurntInADict(dict[tuple[bytes, int], bytes]):
    """The same; while nothing is burnt it is false, as every empty container is."""

    def __call__(self, session: bytes, stage: int, request: bytes) -> bool:
        return self.setdefault((session, stage), request) == request


class Host:
    """A round up to the survivors, as a host sees it that keeps every old record."""

    def __init__(self) -> None:
        collect = CollectKeys(AGREEMENT)
        self.records: dict[tuple[int, int], Secret] = {}
        self.masked = b""
        states: dict[int, Any] = {}
        for client in CLIENTS:
            message, states[client] = join(AGREEMENT, client, insecure_entropy(client))
            collect.receive(message)
            self.keep(client, 1, states)
        self.rosters, shares = collect.close()
        for client in CLIENTS:
            message, states[client] = states[client].on_roster(self.rosters[client])
            shares.receive(message)
            self.keep(client, 2, states)
        self.boxes, _ = shares.close()
        for client in CLIENTS:
            frames, states[client] = states[client].on_boxes(self.boxes[client], INPUTS[client])
            self.masked = next(frames)  # the victim's is the last
            self.keep(client, 3, states)

    def keep(self, client: int, stage: int, states: dict[int, Any]) -> None:
        record = states[client].into_record()
        self.records[client, stage] = record
        states[client] = restore(record, burn=burn_nothing)

    def ask(self, client: int, stage: int, burn: Burn, survivors: bytes) -> Reveal:
        """Roll ``client`` back to ``stage``, and lead it on to reveal its shares."""
        state: Any = restore(self.records[client, stage], burn=burn)
        if stage == 1:
            _, state = state.on_roster(self.rosters[client])
        if stage < 3:
            frames, state = state.on_boxes(self.boxes[client], INPUTS[client])
            list(frames)
        return Reveal.from_bytes(state.on_survivors(survivors), expect=HEADER)

    def attack(self, stage: int, stores: dict[int, Burn]) -> NDArray[np.uint64]:
        """The victim's input, from both shares of it that its two peers hold."""
        seeds, keys = [], []
        for peer in (1, 2):
            seeds.append(self.ask(peer, stage, stores[peer], EVERYBODY).shares[VICTIM].expose())
            keys.append(self.ask(peer, stage, stores[peer], VICTIM_GONE).shares[VICTIM].expose())
        seed, secret = combine([1, 2], [seeds, keys])
        return self.stripped(seed, PrivateKey(secret))

    def stripped(self, seed: Secret, key: PrivateKey) -> NDArray[np.uint64]:
        roster = Roster.from_bytes(self.rosters[VICTIM], expect=HEADER)
        context = AGREEMENT.context(roster.digest())
        masks = [Mask(seed=seed, label=context.self_mask(VICTIM), subtract=True)]
        for peer in (1, 2):
            label = context.pair(VICTIM, peer)
            (pair,) = key.agree(roster.entries[peer].mask, label)
            masks.append(Mask(seed=pair, label=label, subtract=peer < VICTIM))
        frame = MaskedFrame.from_bytes(self.masked, expect=HEADER, index=0, count=5)
        words = frame.words.copy()
        Masks(masks).apply_to(words)
        return words[:-1]


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
    first = host.ask(1, 3, burn, EVERYBODY)
    for _ in range(3):
        with pytest.raises(RemoteProtocolError, match="was answered for another request"):
            host.ask(1, 3, burn, VICTIM_GONE)
        assert host.ask(1, 3, burn, EVERYBODY) == first


def test_one_of_two_peers_with_a_burn_store_is_enough_to_stop_it() -> None:
    with pytest.raises(RemoteProtocolError, match="of client 2 was answered"):
        Host().attack(3, {1: burn_nothing, 2: BurnInMemory()})
