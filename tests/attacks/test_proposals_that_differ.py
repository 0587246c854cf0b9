"""Propose one sum to the victim, and to everybody else one in which their updates vanish.

The correct sum is then the victim's update alone (arXiv 2111.07380). The hash of the proposal
is in the label of every mask and box of a node: those boxes do not open.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from between import MODEL, Machines, carry, check_mean, mean_of, signing, some_work

from protocols.bonawitz import Agreement
from protocols.bonawitz.params import Context
from protocols.errors import TooFewSurvivors
from secagg.errors import NodeError
from secagg.nodes.coordinator import SumSettings
from secagg.nodes.messages import Request
from secagg.nodes.proposal import Contribution, Proposal

NODES, VICTIM = (100, 101, 102, 103), 103
DEAD = bytes(32)  # digest of a model on which every gradient is 0


def dead_or_alive(node: int, proposal: Proposal) -> Contribution:
    if proposal.model_digest == MODEL:
        return some_work(node, proposal)
    return Contribution(vector=np.zeros(proposal.entries), metrics={"loss": 0.0})


def machines_of(folder: Path) -> Machines:
    """Everybody but the victim is sent the dead model, and finds what was proposed to it."""
    shown = dict.fromkeys(set(NODES) - {VICTIM}, DEAD)
    return Machines(folder, NODES, work=dead_or_alive, shown=shown)


def dead_for_others(node: int, request: Request) -> Request:
    if node == VICTIM:
        return request
    said = Proposal.from_bytes(request.proposal)
    return replace(request, proposal=replace(said, model_digest=DEAD).to_bytes())


def unbind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule removed: no label depends on what a node was shown."""

    def context(agreement: Agreement, roster: bytes) -> Context:
        return Context(header=agreement.header, digest=roster)

    monkeypatch.setattr(Agreement, "context", context)


def told_what_they_agree_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that lies says to each node that it agrees to the same, and asks none of them."""
    monkeypatch.setattr(Agreement, "tag", bytes(8))


def test_without_context_in_the_labels_the_sum_is_the_victims_update(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbind(monkeypatch)
    told_what_they_agree_to(monkeypatch)
    machines = machines_of(folder)
    stolen = carry(mean_of(), machines, change=dead_for_others)
    own = machines.brought[VICTIM]
    found = stolen.result.vector * stolen.result.weight / own.weight
    assert stolen.survivors == NODES
    assert np.abs(found - np.clip(own.vector, -1, 1)).max() < 0.01


def test_a_node_that_was_shown_another_proposal_than_the_rest_sends_no_vector(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = machines_of(folder / "honest")
    with pytest.raises(TooFewSurvivors, match="1 clients left after CollectShares"):
        carry(mean_of(), machines, change=dead_for_others)
    assert {str(error)[:39] for error in machines.errors} == {
        "the server agrees to something else: SH"
    }
    told_what_they_agree_to(monkeypatch)
    machines = machines_of(folder)
    with pytest.raises(TooFewSurvivors, match=r"0 shares of client . are left"):
        carry(mean_of(), machines, change=dead_for_others)
    assert [str(error).startswith("a box does not open") for error in machines.errors] == [True]


def test_nodes_that_sign_turn_each_others_keys_away(folder: Path) -> None:
    machines = machines_of(folder)
    roster, machines.policy = signing(machines)
    with pytest.raises(TooFewSurvivors, match="left after CollectKeys"):
        carry(mean_of(SumSettings(roster=roster)), machines, change=dead_for_others)


def test_a_node_computes_on_no_other_model_than_was_proposed(folder: Path) -> None:
    machines = machines_of(folder)
    with pytest.raises(TooFewSurvivors, match="left after CollectVectors"):
        carry(mean_of(), machines)
    told = "the model that came is not the one that was proposed"
    assert [type(error) for error in machines.errors] == [NodeError] * 3
    assert {str(error) for error in machines.errors} == {told}
    assert set(machines.brought) == {VICTIM}


def test_the_honest_sum_is_of_everybody(folder: Path) -> None:
    machines = Machines(folder, NODES, work=dead_or_alive)
    check_mean(carry(mean_of(), machines), machines)
