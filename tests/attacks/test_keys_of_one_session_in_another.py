"""Have keys that a node advertised ahead answer in two sessions, and lose the node in one of them.

The burn records of two sessions stand in two places, so they do not see that it is one mask key.
What a node advertised for a session answers there alone.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from between import Machines, NoStore, carry, mean_after_another_sum

from protocols.bonawitz import AwaitRoster
from protocols.bonawitz.messages import Advertise, Roster
from protocols.errors import LocalProtocolError
from protocols.secrets import Once
from secagg.nodes.messages import Request
from secagg.nodes.proposal import Proposal
from secagg.stage import Stage

NODES, VICTIM = (100, 101, 102), 102


def answered_twice(folder: Path) -> bool:
    """One state, two sessions; the rosters hold the same keys."""
    machines, coordinator = Machines(folder, NODES), mean_after_another_sum()
    carry(coordinator, machines)
    keys, state = coordinator.advertised, machines.states[VICTIM]
    proposal = carry(coordinator, machines).proposal
    header = proposal.agreement().header
    entries = {
        client: Advertise.from_bytes(keys[node], expect=header).keys
        for client, node in enumerate(NODES)
    }
    other = replace(proposal, session=bytes(16))
    answers = []
    for each in (proposal, other):
        assert isinstance(each, Proposal)
        roster = Roster(
            header=each.agreement().header, agreement=each.agreement().tag, entries=entries
        ).to_bytes()
        request = Request(stage=Stage.SHARE, proposal=each.to_bytes(), client=2, message=roster)
        answers.append(machines.ask(VICTIM, request, state).messages)
    return answers[0] != answers[1]


def test_without_the_check_one_mask_key_answers_in_two_sessions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secagg.nodes.node.BurnFile", NoStore)  # nor does a store know the key
    monkeypatch.setattr(
        AwaitRoster,
        "rebind",
        lambda state, agreement: replace(state, agreement=agreement, keys=Once(state.keys.take())),
    )
    assert answered_twice(folder)


def test_keys_answer_in_the_session_that_they_were_advertised_for(folder: Path) -> None:
    with pytest.raises(LocalProtocolError, match="of another session"):
        answered_twice(folder)
