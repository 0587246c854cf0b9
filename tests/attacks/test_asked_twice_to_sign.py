"""Restore old records of clients that sign first, and have each of two sets signed and opened.

As with both shares of one peer, two answers of one state open the victim. Here a
set is signed in one stage and opened in the next, so a record of either can be
asked twice; each of the two burns stops it alone.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, CollectKeys, Params, join, restore
from protocols.bonawitz.messages import (
    MaskedFrame,
    Reveal,
    Roster,
    Signatures,
    SignedSurvivors,
    Survivors,
)
from protocols.errors import RemoteProtocolError
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import insecure_entropy, insecure_identities, publics_of

AGREEMENT = Agreement(
    params=Params(clients=3, threshold=2, words=4, active=True, corrupt=0),
    session=bytes(16),
    round=1,
    public=bytes(32),
)
HEADER = AGREEMENT.header
CLIENTS, PEERS, VICTIM = (1, 2, 3), (1, 2), 3
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)
EVERYBODY, VICTIM_GONE = frozenset(CLIENTS), frozenset(PEERS)
IDENTITIES = insecure_identities(CLIENTS)
PUBLICS = publics_of(IDENTITIES)


class Burnt:
    """Burnt stages, in memory; only of ``stages``, the others are answered again and again."""

    def __init__(self, *stages: int) -> None:
        self.stages = stages
        self.taken: dict[tuple[bytes, int], bytes] = {}

    def __call__(self, session: bytes, stage: int, request: bytes) -> bool:
        if stage not in self.stages:
            return True
        return self.taken.setdefault((session, stage), request) == request


class Host:
    """A round up to the survivors, and the records of stage 3."""

    def __init__(self, *burnt: int) -> None:
        self.stores = {n: Burnt(*burnt) for n in CLIENTS}
        collect = CollectKeys(AGREEMENT, PUBLICS)
        states: dict[int, Any] = {}
        for n in CLIENTS:
            message, states[n] = join(
                AGREEMENT, n, insecure_entropy(n), identity=IDENTITIES[n], identities=PUBLICS
            )
            collect.receive(message)
        rosters, shares = collect.close()
        self.roster = Roster.from_bytes(rosters[VICTIM], expect=HEADER, signed=True)
        for n in CLIENTS:
            message, states[n] = states[n].on_roster(rosters[n])
            shares.receive(message)
        boxes, _ = shares.close()
        for n in CLIENTS:
            frames, states[n] = states[n].on_boxes(boxes[n], PRIVATE)
            (self.masked,) = frames  # the victim's is the last
        self.records = {n: states[n].into_record() for n in CLIENTS}

    def signed(self, alive: frozenset[int]) -> tuple[dict[int, bytes], dict[int, Secret]]:
        """Signatures of both peers over ``alive``, and their records of stage 4."""
        message = Survivors(header=HEADER, alive=alive).to_bytes()
        signatures, records = {}, {}
        for n in PEERS:
            state: Any = restore(self.records[n], burn=self.stores[n])
            answer, after = state.sign_survivors(message)
            signatures[n] = SignedSurvivors.from_bytes(answer, expect=HEADER).signature
            records[n] = after.into_record()
        return signatures, records

    def opened(self, alive: frozenset[int]) -> list[bytes]:
        """The peers' shares of the victim, for that set."""
        signatures, records = self.signed(alive)
        message = Signatures(header=HEADER, signatures=signatures).to_bytes()
        shares = []
        for n in PEERS:
            state: Any = restore(records[n], burn=self.stores[n])
            answer = Reveal.from_bytes(state.on_signatures(message), expect=HEADER)
            shares.append(answer.shares[VICTIM].expose())
        return shares

    def attack(self) -> NDArray[np.uint64]:
        seed, secret = combine(PEERS, [self.opened(EVERYBODY), self.opened(VICTIM_GONE)])
        context = AGREEMENT.context(self.roster.digest())
        masks = [Mask(seed=seed, label=context.self_mask(VICTIM), subtract=True)]
        for peer in PEERS:
            label = context.pair(VICTIM, peer)
            (pair,) = PrivateKey(secret).agree(self.roster.entries[peer].mask, label)
            masks.append(Mask(seed=pair, label=label, subtract=peer < VICTIM))
        frame = MaskedFrame.from_bytes(self.masked, expect=HEADER, index=0, count=5)
        words = frame.words.copy()
        Masks(masks).apply_to(words)
        return words[:-1]


@pytest.mark.parametrize("burnt", [(), (1, 2)], ids=str)
def test_where_neither_stage_is_burnt_the_victim_is_read(burnt: tuple[int, ...]) -> None:
    assert np.array_equal(Host(*burnt).attack(), PRIVATE)


@pytest.mark.parametrize(("burnt", "stage"), [((3,), 3), ((4,), 4), ((3, 4), 3)], ids=str)
def test_either_burn_stops_it(burnt: tuple[int, ...], stage: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"stage {stage} of client 1 was answered"):
        Host(*burnt).attack()


def test_no_second_set_is_signed() -> None:
    host = Host(3, 4)
    first, _ = host.signed(EVERYBODY)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="stage 3 of client 1 was answered"):
            host.signed(VICTIM_GONE)
        assert host.signed(EVERYBODY)[0] == first


def test_what_was_opened_once_is_opened_again_and_nothing_else() -> None:
    host = Host(4)
    first = host.opened(VICTIM_GONE)
    with pytest.raises(RemoteProtocolError, match="stage 4 of client 1 was answered"):
        host.opened(EVERYBODY)
    assert host.opened(VICTIM_GONE) == first
