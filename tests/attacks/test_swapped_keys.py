"""Put keys of the server's own in place of clients' keys in the roster.

A server that owns every key but the victim's plays everybody else, and the sum is
the victim's input. Each client looks for its own keys, so nobody can be replaced
in a roster that all are shown. A server that shows the victim another roster than
the rest lies, and is not the curious server of this protocol: the last test says
how far the promise goes.
"""

from dataclasses import replace

import numpy as np
import pytest

from protocols.bonawitz import AwaitRoster, CollectKeys, Params, Sum, join
from protocols.bonawitz.messages import Roster
from protocols.errors import RemoteProtocolError
from protocols.testing import agreement_of, insecure_entropy, played

AGREEMENT = agreement_of(Params(clients=3, threshold=2, words=4))
VICTIM, PEERS = 1, (2, 3)
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)
NOTHING = np.zeros(4, np.uint64)


def swapped() -> tuple[bytes, dict[int, AwaitRoster], Sum]:
    """The server plays the peers: its roster, the real peers that wait, and its sum."""
    real = {peer: join(AGREEMENT, peer, insecure_entropy(peer))[1] for peer in PEERS}
    inputs = {VICTIM: PRIVATE} | dict.fromkeys(PEERS, NOTHING)
    made = played(
        AGREEMENT,
        inputs,
        "sum",
        entropy=lambda number: insecure_entropy(f"server's own {number}"),
    )
    return made.rosters[VICTIM], real, made.server.close()


@pytest.mark.parametrize("peer", PEERS)
def test_a_client_whose_keys_were_swapped_refuses_the_roster(peer: int) -> None:
    roster, real, _ = swapped()
    with pytest.raises(RemoteProtocolError, match="lacks our keys, or shows others"):
        real[peer].on_roster(roster)


def test_without_a_look_for_its_own_keys_nobody_notices_and_the_victim_is_read() -> None:
    roster, real, stolen = swapped()
    entries = Roster.from_bytes(roster, expect=AGREEMENT.header).entries
    for peer in PEERS:
        unaware = replace(real[peer], public=entries[peer])
        answer, _ = unaware.on_roster(roster)
        assert answer
    assert np.array_equal(stolen.words, PRIVATE)


def test_not_protected_from_a_roster_made_for_the_victim_alone() -> None:
    _, real, stolen = swapped()
    collect = CollectKeys(AGREEMENT)
    for number in (VICTIM, *PEERS):
        collect.receive(join(AGREEMENT, number, insecure_entropy(number))[0])
    honest, _ = collect.close()
    for peer in PEERS:
        real[peer].on_roster(honest[peer])
    assert np.array_equal(stolen.words, PRIVATE)
