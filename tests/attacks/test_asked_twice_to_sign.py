"""Restore old records of clients that sign first, and have each of two sets signed and opened.

As with both shares of one peer, two answers of one state open the victim. Here a
set is signed in one stage and opened in the next, so a record of either can be
asked twice; each of the two burns stops it alone.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params, restore
from protocols.bonawitz.messages import (
    Signatures,
    SignedSurvivors,
)
from protocols.errors import RemoteProtocolError
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, agreement_of, played, unmasked

AGREEMENT = agreement_of(Params(clients=3, threshold=2, words=4, active=True, max_corrupt=0))
HEADER = AGREEMENT.header
CLIENTS, PEERS, VICTIM = (1, 2, 3), (1, 2), 3
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)


class Burnt(BurnInMemory):
    """The rule removed but for ``stages``: the others are answered again and again."""

    def __init__(self, *stages: int) -> None:
        super().__init__()
        self.stages = stages

    def __call__(self, session: bytes, stage: int, request: bytes) -> bool:
        return stage not in self.stages or super().__call__(session, stage, request)


class Host:
    """A round up to the survivors, and the records of stage 3."""

    def __init__(self, *burnt: int) -> None:
        self.stores = {n: Burnt(*burnt) for n in CLIENTS}
        self.made = played(AGREEMENT, dict.fromkeys(CLIENTS, PRIVATE), "survivors")
        self.records = {n: self.made.states[n].into_record() for n in CLIENTS}

    def signed(self, *alive: int) -> tuple[dict[int, bytes], dict[int, Secret]]:
        """Signatures of both peers over ``alive``, and their records of stage 4."""
        signatures, records = {}, {}
        for n in PEERS:
            state: Any = restore(self.records[n], burn=self.stores[n])
            answer, after = state.sign_survivors(self.made.named(*alive))
            signatures[n] = SignedSurvivors.from_bytes(answer, expect=HEADER).signature
            records[n] = after.into_record()
        return signatures, records

    def opened(self, *alive: int) -> list[bytes]:
        """The peers' shares of the victim, for that set."""
        signatures, records = self.signed(*alive)
        message = Signatures(header=HEADER, signatures=signatures).to_bytes()
        shares = []
        for n in PEERS:
            state: Any = restore(records[n], burn=self.stores[n])
            shares.append(self.made.shares(state.on_signatures(message))[VICTIM])
        return shares

    def attack(self) -> NDArray[np.uint64]:
        seed, key = combine(PEERS, [self.opened(*CLIENTS), self.opened(*PEERS)])
        frames = self.made.frames[VICTIM]
        return unmasked(AGREEMENT, self.made.roster, VICTIM, frames, seed=seed, key=key)


@pytest.mark.parametrize("burnt", [(), (1, 2)], ids=str)
def test_where_neither_stage_is_burnt_the_victim_is_read(burnt: tuple[int, ...]) -> None:
    assert np.array_equal(Host(*burnt).attack(), PRIVATE)


@pytest.mark.parametrize(("burnt", "stage"), [((3,), 3), ((4,), 4), ((3, 4), 3)], ids=str)
def test_either_burn_stops_it(burnt: tuple[int, ...], stage: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"stage {stage} of client 1 was answered"):
        Host(*burnt).attack()


def test_no_second_set_is_signed() -> None:
    host = Host(3, 4)
    first, _ = host.signed(*CLIENTS)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="stage 3 of client 1 was answered"):
            host.signed(*PEERS)
        assert host.signed(*CLIENTS)[0] == first


def test_what_was_opened_once_is_opened_again_and_nothing_else() -> None:
    host = Host(4)
    first = host.opened(*PEERS)
    with pytest.raises(RemoteProtocolError, match="stage 4 of client 1 was answered"):
        host.opened(*CLIENTS)
    assert host.opened(*PEERS) == first
