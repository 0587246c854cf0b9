"""Propose a sparse graph to nodes that sign, and tell them of a cohort that is not there.

Forty honest nodes want sums of thirty. Each takes the server's word for how many there are, so
the server deals with three of them: two neighbours, threshold two, and twenty-seven names of
nobody among the survivors. A node's policy says whether it goes into a sparse graph at all.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from between import ENTRIES, MEAN, MODEL, SHAPES, Machines, signing

from protocols import bonawitz
from protocols.errors import InputError, RemoteProtocolError
from secagg.errors import RefusedError
from secagg.nodes.messages import Request
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import Proposal
from secagg.stage import Stage
from secagg.vectors.layout import Layout

COUNT = 12


def proposed(roster: bytes, minimum: int, clients: int = COUNT) -> Request:
    content = MEAN.content("train", clients)
    words = Layout(segments=content.segments(ENTRIES), clients=clients).words
    proposal = Proposal(
        purpose="train",
        session=os.urandom(16),
        params=bonawitz.Params(
            clients=clients,
            rates=bonawitz.Rates(corrupt_fraction="0.05", dropout="0"),
            minimum_survivors=minimum,
            words=words,
            active=True,
        ),
        model_digest=MODEL,
        seed=os.urandom(32),
        shapes=SHAPES,
        content=content,
        roster_digest=roster,
    )
    return Request(stage=Stage.ADVERTISE, proposal=proposal.to_bytes(), client=0, message=b"")


@pytest.fixture
def machines(folder: Path) -> tuple[Machines, bytes, NodePolicy]:
    made = Machines(folder, tuple(range(100, 100 + COUNT)))
    roster, policy = signing(made)
    return made, roster.digest, policy


def refusal(machines: Machines, request: Request) -> str:
    try:
        machines.ask(100, request, None)
    except (RefusedError, InputError, RemoteProtocolError) as error:
        return str(error)
    return ""


def test_a_node_that_wants_complete_graphs_joins_no_other(
    machines: tuple[Machines, bytes, NodePolicy],
) -> None:
    made, roster, policy = machines
    made.policy = replace(policy, graphs=("complete",))
    assert "(graphs): the server proposes a sparse graph" in refusal(made, proposed(roster, 9))
    made.policy = replace(policy, graphs=("complete", "sparse"))
    assert refusal(made, proposed(roster, 9)) == ""  # the line is what held it


def test_sums_of_half_the_cohort_may_be_two_at_once(
    machines: tuple[Machines, bytes, NodePolicy],
) -> None:
    made, roster, policy = machines
    made.policy = replace(policy, graphs=("sparse",))
    assert "or two sums could open" in refusal(made, proposed(roster, 6))
    assert refusal(made, proposed(roster, 7)) == ""


def test_a_cohort_larger_than_the_roster_is_not_there(
    machines: tuple[Machines, bytes, NodePolicy],
) -> None:
    made, roster, policy = machines
    made.policy = replace(policy, graphs=("sparse",))
    larger = proposed(roster, 9, clients=COUNT + 1)
    assert f"of {COUNT + 1}, the roster has {COUNT}" in refusal(made, larger)
