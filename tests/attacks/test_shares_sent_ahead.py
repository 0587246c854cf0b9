"""Use shares that nodes sealed before a sum was proposed: docs/decisions/0010-two-messages.md.

With its last answer in a sum a node shares its secrets for the next one, whose model nobody
knows yet. So the boxes are bound to session, parameters and roster alone, and the masks to the
proposal. Each attack here is one row of the table in the decision.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from between import (
    MODEL,
    SHAPES,
    Machines,
    NoStore,
    carry,
    mean_of,
    noise_of,
    noisy,
    some_work,
)

from dp.ledger.ledger import State
from protocols.bonawitz import Agreement, AwaitRoster, join
from protocols.bonawitz.messages import Advertise, Reveal, Roster
from protocols.bonawitz.params import TAG_SIZE, UNKNOWN, Context, Params
from protocols.errors import LocalProtocolError, RemoteProtocolError, TooFewSurvivors
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import unmasked
from secagg.errors import NodeError, RefusedError
from secagg.nodes import node as nodes
from secagg.nodes.coordinator import Ahead, Coordinator, FinishedSum, SumSettings
from secagg.nodes.messages import Request
from secagg.nodes.proposal import Contribution, Proposal
from secagg.rounds.relay import share_ahead
from secagg.stage import Stage

NODES = (100, 101, 102, 103, 104)  # clients 0 to 4; three of them open a sum
VICTIM, LIAR = 103, 104
AGAIN = "was answered for another request"
DEAD = bytes(32)  # digest of a model on which every gradient is 0


def client(node: int) -> int:
    return NODES.index(node)


@dataclass
class Steady:
    """One sum is over, and all nodes have shared for the next one."""

    machines: Machines
    coordinator: Coordinator

    @classmethod
    def of(cls, folder: Path, **more: Any) -> "Steady":
        made = cls(Machines(folder, NODES, **more), mean_of())
        carry(made.coordinator, made.machines)
        return made

    @property
    def ahead(self) -> Ahead:
        assert self.coordinator.ahead
        assert self.coordinator.ahead.shared == set(NODES)
        return self.coordinator.ahead

    @property
    def agreement(self) -> Agreement:
        return self.ahead.shares.agreement

    def other_roster(self) -> Ahead:
        """The same session, and other keys of the liar in its roster."""
        keys = {client(n): self.machines.answers[n, Stage.SHARE].next_keys for n in NODES}
        keys[client(LIAR)], _ = join(self.agreement, client(LIAR))
        rosters, shares = share_ahead(self.agreement, keys)
        return replace(self.ahead, rosters=rosters, shares=shares, shared=set(NODES))


def shares_of_the_victim(machines: Machines, agreement: Agreement) -> list[bytes]:
    answers = [machines.answers[node, Stage.REVEAL].messages[0] for node in NODES[:3]]
    read = (Reveal.from_bytes(answer, expect=agreement.header) for answer in answers)
    return [reveal.shares[client(VICTIM)].expose() for reveal in read]


def rebuilt(shares: list[bytes]) -> Secret:
    (secret,) = combine([1, 2, 3], [shares])
    return secret


# The last answer asked for once more, with another roster


def two_rosters(folder: Path) -> bool:
    """In the sum of one roster the victim is summed, in that of the other it is lost."""
    made = Steady.of(folder)
    machines, coordinator = made.machines, made.coordinator
    asked, before = dict(machines.requests), dict(machines.before)
    other, agreement = made.other_roster(), made.agreement
    roster = Roster.from_bytes(asked[VICTIM, Stage.REVEAL].next_roster, expect=agreement.header)

    proposal = carry(coordinator, machines).proposal
    summed = proposal.agreement()
    assert isinstance(summed, Agreement)
    own = machines.brought[VICTIM].vector
    frames = machines.answers[VICTIM, Stage.MASK].messages
    seeds = shares_of_the_victim(machines, summed)

    for node in set(NODES) - {LIAR}:
        request = replace(asked[node, Stage.REVEAL], next_roster=other.rosters[client(node)])
        answer = machines.ask(node, request, before[node, Stage.REVEAL])
        other.shares.receive(answer.next_shares)
        machines.states[node] = answer.state
    coordinator.ahead = other
    lost = carry(coordinator, machines, lost={VICTIM: Stage.MASK}).proposal.agreement()
    assert isinstance(lost, Agreement)
    assert lost.session == summed.session
    keys = shares_of_the_victim(machines, lost)
    words = unmasked(
        *(summed, roster, client(VICTIM), frames), seed=rebuilt(seeds), key=rebuilt(keys)
    )
    found = proposal.decode(words, (client(VICTIM),)).vector
    return bool(np.abs(found - np.clip(own, -1, 1)).max() < 0.01)


def test_without_burn_records_a_second_roster_opens_the_victim(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secagg.nodes.node.BurnFile", NoStore)
    assert two_rosters(folder)


def test_a_second_roster_gets_no_shares_and_the_sum_before_loses_nobody(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Steady.of(folder)
    machines, other = made.machines, made.other_roster()
    request = machines.requests[VICTIM, Stage.REVEAL]
    caplog.set_level(logging.WARNING, "secagg")
    again = machines.ask(
        VICTIM,
        replace(request, next_roster=other.rosters[client(VICTIM)]),
        machines.before[VICTIM, Stage.REVEAL],
    )
    assert again.messages == machines.answers[VICTIM, Stage.REVEAL].messages
    assert again.next_shares == b""
    assert AGAIN in caplog.text
    same = machines.ask(VICTIM, request, machines.before[VICTIM, Stage.REVEAL])
    assert same.next_shares == machines.answers[VICTIM, Stage.REVEAL].next_shares != b""


# Keys that have answered ahead, asked again in the open


def shared_again(folder: Path) -> None:
    """A proposal comes for the session, and asks for shares as if there were none."""
    made = Steady.of(folder)
    machines, session = made.machines, made.ahead.session
    proposal = Proposal.from_bytes(machines.requests[VICTIM, Stage.REVEAL].proposal)
    request = Request(
        stage=Stage.SHARE,
        proposal=replace(proposal, session=session).to_bytes(),
        client=client(VICTIM),
        message=machines.requests[VICTIM, Stage.REVEAL].next_roster,
    )
    machines.ask(VICTIM, request, machines.before[VICTIM, Stage.REVEAL])


def test_keys_that_answered_ahead_answer_no_proposal(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A liar's roster begins with the tag that its reader expects.
    monkeypatch.setattr(Agreement, "tag", bytes(TAG_SIZE))
    with pytest.raises(RemoteProtocolError, match=f"stage 1 of client 3 {AGAIN}"):
        shared_again(folder / "refused")
    monkeypatch.setattr("secagg.nodes.node.BurnFile", NoStore)
    shared_again(folder / "answered")


# Two rosters for one session, to two groups


def two_groups(folder: Path) -> set[int]:
    """Who sends a vector, of six of whom four open a sum; three are shown another roster."""
    six = (*NODES, 105)
    machines, coordinator = Machines(folder, six), mean_of()

    def change(node: int, request: Request) -> Request:
        if not (request.next_roster and node in (100, 101, 105) and coordinator.ahead):
            return request
        shares = coordinator.ahead.shares
        header = shares.agreement.header
        roster = Roster.from_bytes(request.next_roster, expect=header)
        fresh, _ = join(shares.agreement, client(LIAR))
        keys = Advertise.from_bytes(fresh, expect=header).keys
        other = replace(roster, entries={**roster.entries, client(LIAR): keys})
        return replace(request, next_roster=other.to_bytes())

    carry(coordinator, machines, change=change)
    with pytest.raises((TooFewSurvivors, RemoteProtocolError)):
        carry(coordinator, machines)
    return set(machines.brought)


def test_groups_that_were_shown_other_rosters_send_no_vector(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert two_groups(folder / "refused") == set()

    def context(agreement: Agreement, roster: bytes) -> Context:  # the rule removed
        return Context(header=agreement.header, digest=bytes(32))

    monkeypatch.setattr(Agreement, "context", context)
    assert two_groups(folder / "sent") == {*NODES, 105} - {LIAR}  # half seal it rubbish


# Two proposals to one node


def masked_twice(folder: Path) -> None:
    made = Steady.of(folder)
    carry(made.coordinator, made.machines)
    request = made.machines.requests[VICTIM, Stage.MASK]
    other = replace(Proposal.from_bytes(request.proposal), seed=bytes(32)).to_bytes()
    state = made.machines.before[VICTIM, Stage.MASK]
    made.machines.ask(VICTIM, replace(request, proposal=other), state)


def test_a_node_masks_for_one_proposal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RemoteProtocolError, match=f"stage 2 of client 3 {AGAIN}"):
        masked_twice(folder / "refused")
    monkeypatch.setattr("secagg.nodes.node.BurnFile", NoStore)
    masked_twice(folder / "answered")


# Two proposals to two groups


def dead_or_alive(node: int, proposal: Proposal) -> Contribution:
    if proposal.model_digest == MODEL:
        return some_work(node, proposal)
    return Contribution(vector=np.zeros(proposal.entries), metrics={"loss": 0.0})


def dead_for_others(node: int, request: Request) -> Request:
    if node == VICTIM or request.stage is not Stage.MASK:
        return request
    said = Proposal.from_bytes(request.proposal)
    return replace(request, proposal=replace(said, model_digest=DEAD).to_bytes())


def of_the_victim_alone(made: Steady) -> FinishedSum:
    """Everybody else is sent a model on which its update vanishes (arXiv 2111.07380)."""
    made.machines.shown.update(dict.fromkeys(set(NODES) - {VICTIM}, DEAD))
    reveals = made.machines.answer

    def answer(node: int, request: Request) -> Any:
        if request.stage is Stage.REVEAL:  # whatever this node was shown at the stage before
            request = replace(request, proposal=made.machines.requests[node, Stage.MASK].proposal)
        return reveals(node, request)

    made.machines.answer = answer  # type: ignore[method-assign]  # a server that lies twice
    return carry(made.coordinator, made.machines, change=dead_for_others)


def test_without_the_proposal_in_the_labels_of_masks_the_sum_is_the_victims_update(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def context(agreement: Agreement, roster: bytes) -> Context:  # the rule removed
        return Context(header=agreement.header, digest=roster)

    monkeypatch.setattr(Agreement, "context", context)
    made = Steady.of(folder, work=dead_or_alive)
    stolen, own = of_the_victim_alone(made), made.machines.brought[VICTIM]
    found = stolen.result.vector * stolen.result.weight / own.weight
    assert stolen.survivors == NODES
    assert np.abs(found - np.clip(own.vector, -1, 1)).max() < 0.01


def test_vectors_for_two_proposals_do_not_cancel_and_nothing_is_released(folder: Path) -> None:
    made = Steady.of(folder, work=dead_or_alive)
    with pytest.raises(RemoteProtocolError, match="the check word does not count"):
        of_the_victim_alone(made)


def test_two_groups_cannot_both_be_opened_for_shares_are_sealed_for_a_majority() -> None:
    """Two of four would do for a group of two, and their shares for the other group."""
    for threshold, refused in ((2, True), (3, False)):
        params = Params(clients=4, threshold=threshold, words=1)
        agreement = Agreement(params=params, session=bytes(16), round=0, public_digest=UNKNOWN)
        made = [join(agreement, number) for number in range(4)]
        rosters, _ = share_ahead(agreement, {n: message for n, (message, _) in enumerate(made)})
        state = made[0][1]
        assert isinstance(state, AwaitRoster)
        if refused:
            with pytest.raises(RemoteProtocolError, match="no majority of 4 share holders"):
                state.on_roster(rosters[0])
        else:
            state.on_roster(rosters[0])


# Shares that are kept for longer than their sum


def asked_too_late(folder: Path) -> None:
    """Another sum was begun in between; then a vector is asked for with the shares of before."""
    made = Steady.of(folder)
    machines, coordinator, ahead = made.machines, made.coordinator, made.ahead
    coordinator.ahead, coordinator.last = None, (ahead.params, frozenset())
    with pytest.raises(TooFewSurvivors):
        carry(coordinator, machines, lost=dict.fromkeys(NODES, Stage.MASK))
    coordinator.ahead = ahead
    under_way = coordinator.begin("train", NODES, model=MODEL, shapes=SHAPES)
    ask = next(under_way.asks())
    assert ask.stage is Stage.MASK
    machines.ask(VICTIM, under_way.request(ask, VICTIM), machines.states[VICTIM])


def test_shares_of_a_sum_that_was_passed_over_are_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NodeError, match="our state is of another proposal"):
        asked_too_late(folder / "refused")

    def find(kept: list[Any], session: bytes) -> tuple[Any, list[Any]]:  # the rule removed
        mine = next((each for each in kept if each.session == session), None)
        return mine, [each for each in kept if each is not mine]

    monkeypatch.setattr(nodes, "_find", find)
    asked_too_late(folder / "answered")


# What is asked of the policy, the books and the parameters, and when


def test_nothing_is_charged_before_the_vector_is_asked_for(folder: Path) -> None:
    machines = Machines(folder, NODES)
    coordinator = Coordinator(noisy(folder / "server", noise_of(5)), SumSettings())
    for sums in (1, 2):
        carry(coordinator, machines)
        assert coordinator.ahead
        assert coordinator.ahead.shared == set(NODES)
        with machines.books(VICTIM) as books:
            states = [entry.state for entry in books.reservations()]
        assert states == [State.COMMITTED] * sums


def test_a_policy_refuses_at_the_stage_that_masks_and_that_node_alone_is_lost(folder: Path) -> None:
    made = Steady.of(folder)
    made.machines.policy = replace(made.machines.policy, minimum_cohort=4)
    with pytest.raises(TooFewSurvivors):
        carry(made.coordinator, made.machines)
    assert [type(error) for error in made.machines.errors] == [RefusedError] * 5
    assert not made.machines.brought


def test_shares_for_other_parameters_than_proposed_mask_nothing(folder: Path) -> None:
    made = Steady.of(folder)
    carry(made.coordinator, made.machines)
    request = made.machines.requests[VICTIM, Stage.MASK]
    proposal = Proposal.from_bytes(request.proposal)
    params = replace(proposal.params, minimum_survivors=4)
    other = replace(request, proposal=replace(proposal, params=params).to_bytes())
    with pytest.raises(LocalProtocolError, match="sealed under another agreement"):
        made.machines.ask(VICTIM, other, made.machines.before[VICTIM, Stage.MASK])
