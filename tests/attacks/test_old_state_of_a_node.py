"""Hand a node an old state of its own, and have it answer once more.

The engine keeps a node's state between two stages, so a host, or a server that rules it, can
hand back any that it ever had. Three ways to use that: name other survivors and collect both
shares of a peer; have keys that were advertised ahead answer under two proposals, and lose
the peer in one of them; have one vector masked twice. The burn records in the node's own
folder stand in between.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from between import (
    ENTRIES,
    Machines,
    NoStore,
    carry,
    mean_after_another_sum,
    mean_of,
    noise_of,
    noisy,
)
from numpy.typing import NDArray

from dp.ledger.ledger import State
from protocols.bonawitz import Agreement, AwaitRoster
from protocols.bonawitz.messages import MaskedFrame, Reveal, Roster, Survivors
from protocols.errors import RemoteProtocolError
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from secagg.nodes.coordinator import Coordinator, SumSettings
from secagg.nodes.proposal import Proposal
from secagg.stage import Stage

NODES = (100, 101, 102)  # clients 0, 1, 2
OF_TWO = SumSettings(minimum_survivors=2)  # nodes may be lost
PEERS, VICTIM, CLIENT = NODES[:2], 102, 2
AGAIN = "was answered for another request"


def agreement_of(proposal: Proposal) -> Agreement:
    agreement = proposal.agreement()
    assert isinstance(agreement, Agreement)
    return agreement


def share_of_the_victim(answer: bytes, agreement: Agreement) -> bytes:
    return Reveal.from_bytes(answer, expect=agreement.header).shares[CLIENT].expose()


def opened(
    proposal: Proposal, roster: bytes, frame: bytes, seeds: list[bytes], keys: list[bytes]
) -> NDArray[np.float64]:
    """The victim's update, from its frame and both shares of it that its peers hold."""
    agreement = agreement_of(proposal)
    seed, secret = combine([1, 2], [seeds, keys])
    entries = Roster.from_bytes(roster, expect=agreement.header).entries
    context = agreement.context(Roster.from_bytes(roster, expect=agreement.header).digest())
    masks = [Mask(seed=seed, label=context.self_mask(CLIENT), subtract=True)]
    for peer in (0, 1):
        label = context.pair(CLIENT, peer)
        (pair,) = PrivateKey(secret).agree(entries[peer].mask, label)
        masks.append(Mask(seed=pair, label=label, subtract=peer < CLIENT))
    words = masked(frame, agreement)
    Masks(masks).apply_to(words)
    return proposal.decode(words[:-1], (CLIENT,)).vector


def masked(frame: bytes, agreement: Agreement) -> NDArray[np.uint64]:
    count = agreement.params.words + 1
    return MaskedFrame.from_bytes(frame, expect=agreement.header, index=0, count=count).words.copy()


def is_the_victims(found: NDArray[np.float64], machines: Machines) -> bool:
    own = machines.brought[VICTIM].vector
    return bool(np.abs(found - np.clip(own, -1, 1)).max() < 0.01)


# Other survivors


def two_survivor_sets(folder: Path) -> bool:
    machines = Machines(folder, NODES)
    proposal = carry(mean_of(OF_TWO), machines).proposal
    agreement = agreement_of(proposal)
    gone = Survivors(header=agreement.header, alive=frozenset({0, 1}), members=range(3)).to_bytes()
    seeds, keys = [], []
    for peer in PEERS:
        seeds.append(
            share_of_the_victim(machines.answers[peer, Stage.REVEAL].messages[0], agreement)
        )
        request = replace(machines.requests[peer, Stage.REVEAL], message=gone)
        again = machines.ask(peer, request, machines.before[peer, Stage.REVEAL])
        keys.append(share_of_the_victim(again.messages[0], agreement))
    (frame,) = machines.answers[VICTIM, Stage.MASK].messages
    roster = machines.message(VICTIM, Stage.SHARE)
    return is_the_victims(opened(proposal, roster, frame, seeds, keys), machines)


def test_without_burn_records_two_survivor_sets_open_a_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secagg.nodes.node.BurnFile", NoStore)
    assert two_survivor_sets(folder)


def test_a_node_answers_for_one_survivor_set(folder: Path) -> None:
    with pytest.raises(RemoteProtocolError, match=AGAIN):
        two_survivor_sets(folder)


def test_the_same_request_gets_the_same_bytes_again(folder: Path) -> None:
    machines = Machines(folder, NODES)
    carry(mean_of(), machines)
    for stage in (Stage.SHARE, Stage.REVEAL):
        state = machines.before[100, stage]
        again = machines.ask(100, machines.requests[100, stage], state)
        assert again.messages == machines.answers[100, stage].messages


# Keys advertised ahead, two proposals


def two_proposals(folder: Path) -> bool:
    """In one the victim's vector is summed, in the other the victim is lost."""
    machines, coordinator = Machines(folder, NODES), mean_after_another_sum(OF_TWO)
    carry(coordinator, machines)
    session, ahead = coordinator.session, dict(coordinator.advertised)
    states = dict(machines.states)

    summed = carry(coordinator, machines).proposal
    assert summed.session == session
    first, answers, brought = dict(machines.requests), dict(machines.answers), machines.brought
    own = brought[VICTIM]

    coordinator.session, coordinator.advertised, coordinator.ahead = session, ahead, None
    machines.states.update(states)
    lost = carry(coordinator, machines, lost={VICTIM: Stage.MASK}).proposal
    assert lost.seed != summed.seed

    seeds, keys = (
        [
            share_of_the_victim(given[peer, Stage.REVEAL].messages[0], agreement_of(of))
            for peer in PEERS
        ]
        for given, of in ((answers, summed), (machines.answers, lost))
    )
    (frame,) = answers[VICTIM, Stage.MASK].messages
    machines.brought[VICTIM] = own
    roster = first[VICTIM, Stage.SHARE].message
    return is_the_victims(opened(summed, roster, frame, seeds, keys), machines)


def test_without_burn_records_a_mask_key_rebuilt_in_one_sum_opens_the_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secagg.nodes.node.BurnFile", NoStore)
    assert two_proposals(folder)


def shared_again(folder: Path) -> None:
    """The first step of it: shares of the same keys under a second proposal."""
    machines, coordinator = Machines(folder, NODES), mean_after_another_sum()
    carry(coordinator, machines)
    carry(coordinator, machines)
    request = machines.requests[VICTIM, Stage.SHARE]
    proposal = Proposal.from_bytes(request.proposal)
    other = replace(proposal, seed=bytes(32)).to_bytes()
    machines.ask(VICTIM, replace(request, proposal=other), machines.before[VICTIM, Stage.SHARE])


def test_keys_advertised_ahead_answer_under_one_proposal(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RemoteProtocolError, match="the server agrees to something else"):
        shared_again(folder / "honest")
    monkeypatch.setattr(Agreement, "tag", bytes(8))  # a liar tells each what it agrees to
    with pytest.raises(RemoteProtocolError, match=f"stage 1 of client 2 {AGAIN}"):
        shared_again(folder)


def test_it_is_what_was_agreed_that_is_burnt_not_the_roster_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    burn = AwaitRoster._burn  # the rule, to take it away

    def roster_alone(state: AwaitRoster, request: bytes, *more: Any, place: bytes = b"") -> None:
        burn(state, request.removesuffix(state.agreement.to_bytes()), *more, place=place)

    monkeypatch.setattr(AwaitRoster, "_burn", roster_alone)
    monkeypatch.setattr(Agreement, "tag", bytes(8))
    shared_again(folder)


# One vector, masked twice


def twice(machines: Machines) -> NDArray[np.int64]:
    """What is left of the noise if one masked vector is taken from the other."""
    mechanism = noise_of(3, bits=32, scale=10.0)
    summed = noisy(machines.folder / "server.sqlite", mechanism)
    proposal = carry(Coordinator(summed, SumSettings()), machines).proposal
    request, state = machines.requests[VICTIM, Stage.MASK], machines.before[VICTIM, Stage.MASK]
    frames = (machines.answers[VICTIM, Stage.MASK].messages[0],)
    frames += machines.ask(VICTIM, request, state).messages
    one, other = (masked(frame, agreement_of(proposal))[:-1] for frame in frames)
    (left,) = proposal.layout.decode(one - other).values()
    return left


def test_without_burn_records_the_difference_of_two_answers_is_noise_without_masks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secagg.nodes.node.BurnFile", NoStore)
    monkeypatch.setattr("secagg.nodes.node.Node.reserve", lambda *_: 0)
    left = twice(Machines(folder, NODES))
    assert len(left) >= ENTRIES
    deviation = np.sqrt(2 * noise_of(3, bits=32, scale=10.0).share_variance)
    assert 0 < np.abs(left).max() < 10 * deviation < 2**20  # of lanes of 2**32


def test_noise_is_not_drawn_twice_and_a_second_request_costs_nothing(folder: Path) -> None:
    machines = Machines(folder, NODES)
    with pytest.raises(RemoteProtocolError, match=AGAIN):
        twice(machines)
    with machines.books(VICTIM) as books:
        states = [entry.state for entry in books.reservations()]
    assert states == [State.COMMITTED]  # who answered already computes nothing
