"""Propose sums that hide next to nothing, or in another server's name.

A server that picks a cohort of the victim and one of its own learns the victim's update from
a correct sum; so it does with a threshold that its own clients reach. What a node agrees to is
a file of its own, and whose proposals it reads may be a line of it.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from between import (
    ENTRIES,
    MEAN,
    MODEL,
    SHAPES,
    Machines,
    carry,
    check_mean,
    mean_of,
    noise_of,
    noisy,
)

from protocols import bonawitz
from protocols.errors import DecodeError, InputError, ProtocolError, TooFewSurvivors
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg.adapters.testing import ANYTHING
from secagg.errors import RefusedError
from secagg.nodes.coordinator import Coordinator, SumSettings
from secagg.nodes.messages import Request
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import Proposal
from secagg.stage import Stage
from secagg.vectors.layout import Layout

NODES, VICTIM, OURS = (100, 101, 102), 100, 101
SERVER, OTHER = (SigningKey(Secret(bytes([number]) * 32)) for number in (1, 2))


def of_two(machines: Machines) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A correct sum of two, less what the server's own client brought, over the weight left."""
    cohort = SumSettings(minimum_survivors=2)
    result = carry(mean_of(cohort), machines, nodes=[VICTIM, OURS]).result
    own = machines.brought[OURS]
    left = result.vector * result.weight - own.weight * np.clip(own.vector, -1, 1)
    return left / (result.weight - own.weight)


def test_without_a_minimum_cohort_the_sum_of_two_is_the_victims_update(folder: Path) -> None:
    machines = Machines(folder, NODES, policy=ANYTHING)
    found = of_two(machines)
    assert np.abs(found - np.clip(machines.brought[VICTIM].vector, -1, 1)).max() < 0.01


def test_a_policy_with_a_minimum_cohort_refuses_the_sum_of_two(folder: Path) -> None:
    machines = Machines(folder, NODES, policy=replace(ANYTHING, minimum_cohort=3))
    with pytest.raises(TooFewSurvivors, match="left after CollectKeys"):
        of_two(machines)
    assert [str(error) for error in machines.errors] == [
        "this node's policy refuses (minimum_cohort 3): the server would open sums of 2"
    ] * 2
    assert not machines.brought


def refusals(folder: Path, policy: NodePolicy, cohort: SumSettings) -> set[str]:
    machines = Machines(folder, NODES, policy=policy)
    with pytest.raises(TooFewSurvivors, match="left after CollectKeys"):
        carry(Coordinator(MEAN, cohort), machines)
    assert not machines.brought
    assert all(type(error) is RefusedError for error in machines.errors)
    return {str(error).partition("(")[2].partition(")")[0] for error in machines.errors}


@pytest.mark.parametrize(
    ("line", "change"),
    [
        ("allow_no_noise", {"allow_no_noise": False}),
        ("minimum_cohort 4", {"minimum_cohort": 4}),
        ("minimum_threshold 3", {"minimum_threshold": 3}),
        ("corrupt_fraction", {"corrupt_fraction": "2/3"}),
        ("active", {"active": True, "operator": OTHER.public}),
    ],
)
def test_poor_terms_are_refused_by_the_line_that_they_break(
    folder: Path, line: str, change: dict[str, object]
) -> None:
    check_mean(
        carry(mean_of(), machines := Machines(folder / "a", NODES, policy=ANYTHING)), machines
    )
    policy = replace(ANYTHING, **change)  # type: ignore[arg-type]  # lines of a policy
    assert refusals(folder / "b", policy, SumSettings()) == {line}


def test_the_policy_that_a_new_node_has_refuses_sums_without_noise(folder: Path) -> None:
    assert refusals(folder, NodePolicy(minimum_cohort=2), SumSettings()) == {"allow_no_noise"}


def test_a_low_threshold_is_not_hidden_behind_a_large_cohort_that_never_comes() -> None:
    """A sparse graph is planned for who is there, and its threshold is theirs."""
    rates = bonawitz.Rates(corrupt_fraction="0.05", dropout="0.1")
    content = MEAN.content("train", 1000)
    words = Layout(segments=content.segments(ENTRIES), clients=1000).words

    def proposed(minimum: int) -> Proposal:
        params = bonawitz.Params(clients=1000, rates=rates, minimum_survivors=minimum, words=words)
        return Proposal(
            purpose="train",
            session=bytes(16),
            params=params,
            model_digest=MODEL,
            seed=bytes(32),
            shapes=SHAPES,
            content=content,
        )

    policy = replace(ANYTHING, minimum_threshold=10)
    assert proposed(700).params.plan(1000).threshold >= 10
    policy.check(proposed(700))
    with pytest.raises(RefusedError, match="minimum_threshold 10"):
        policy.check(proposed(3))


def test_no_cohort_that_may_come_has_a_threshold_below_the_nodes() -> None:
    """Where no graph is planned for the fewest, one for some more may be of two neighbours."""
    rates = bonawitz.Rates(corrupt_fraction="0.1", dropout="0.5")
    content = MEAN.content("train", 20)
    words = Layout(segments=content.segments(ENTRIES), clients=20).words
    params = bonawitz.Params(clients=20, rates=rates, minimum_survivors=4, words=words)
    proposal = Proposal(
        purpose="train",
        session=bytes(16),
        params=params,
        model_digest=MODEL,
        seed=bytes(32),
        shapes=SHAPES,
        content=content,
    )
    with pytest.raises(InputError):
        params.plan(4)
    least = []
    for size in range(4, 21):
        with suppress(InputError):
            least.append(params.plan(size).threshold)
    assert min(least) < params.plan(20).threshold
    replace(ANYTHING, minimum_threshold=min(least), corrupt_fraction=0).check(proposal)
    policy = replace(ANYTHING, minimum_threshold=min(least) + 1, corrupt_fraction=0)
    with pytest.raises(RefusedError, match="minimum_threshold"):
        policy.check(proposal)


def test_a_cohort_above_the_nodes_maximum_is_refused_before_it_is_planned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds of planning, or minutes of sharing, for a few bytes of a server's."""
    machines = Machines(folder, NODES, policy=ANYTHING)
    said = carry(mean_of(), machines).proposal.to_bytes()
    params = Proposal.from_bytes(said).params.to_bytes()
    huge = said.replace(params.hex().encode(), (b"\xff" * 4 + params[4:]).hex().encode())
    request = replace(machines.requests[VICTIM, Stage.ADVERTISE], proposal=huge)

    def planned(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("protocols.bonawitz.params.plan_graph", planned)
    monkeypatch.setattr(bonawitz.Params, "plan", planned)
    with pytest.raises(RefusedError, match="maximum_cohort 1000"):
        machines.ask(VICTIM, request, None)


@pytest.mark.parametrize("active", [False, True])
def test_a_graph_planned_for_fewer_corrupt_clients_than_a_node_reckons_with_is_refused(
    active: bool,
) -> None:
    content = MEAN.content("train", 1000)
    words = Layout(segments=content.segments(ENTRIES), clients=1000).words

    def proposed(corrupt: str) -> Proposal:
        rates = bonawitz.Rates(corrupt_fraction=corrupt, dropout="0.1")
        return Proposal(
            purpose="train",
            session=bytes(16),
            params=bonawitz.Params(
                clients=1000, rates=rates, minimum_survivors=700, words=words, active=active
            ),
            model_digest=MODEL,
            seed=bytes(32),
            shapes=SHAPES,
            content=content,
            roster_digest=bytes(32 if active else 0),
        )

    policy = replace(ANYTHING, operator=OTHER.public)
    policy.check(proposed("0.05"))
    with pytest.raises(RefusedError, match="the sum stands 10 of 1000, not 50"):
        policy.check(proposed("0.01"))
    replace(policy, corrupt_fraction=0.01).check(proposed("0.01"))


# Whose proposal it is


@pytest.mark.parametrize("key", [None, OTHER], ids=["unsigned", "another's"])
def test_a_node_that_pins_its_server_reads_no_other_proposals(
    folder: Path, key: SigningKey | None
) -> None:
    policy = replace(ANYTHING, server=SERVER.public)
    assert refusals(folder / "pinned", policy, SumSettings(identity=key)) == {"server"}
    machines = Machines(folder / "not", NODES, policy=ANYTHING)
    check_mean(carry(mean_of(SumSettings(identity=key)), machines), machines)


def test_a_node_that_pins_its_server_sums_for_it(folder: Path) -> None:
    machines = Machines(folder, NODES, policy=replace(ANYTHING, server=SERVER.public))
    check_mean(carry(mean_of(SumSettings(identity=SERVER)), machines), machines)
    assert not machines.errors


def changed_seed(_: int, request: Request) -> Request:
    proposal = replace(Proposal.from_bytes(request.proposal), seed=bytes(32))
    return replace(request, proposal=proposal.to_bytes())


def test_a_signature_is_of_one_proposal(folder: Path) -> None:
    policy = replace(ANYTHING, server=SERVER.public)
    machines = Machines(folder / "pinned", NODES, policy=policy)
    with pytest.raises(TooFewSurvivors):
        carry(mean_of(SumSettings(identity=SERVER)), machines, change=changed_seed)
    assert all("(server)" in str(error) for error in machines.errors)
    machines = Machines(folder / "not", NODES, policy=ANYTHING)
    with pytest.raises(ProtocolError):  # the honest part of this server knows of no such seed
        carry(mean_of(SumSettings(identity=SERVER)), machines, change=changed_seed)
    assert {str(error)[:35] for error in machines.errors} == {"the server agrees to something else"}


@pytest.mark.parametrize(
    "change",
    [
        {"client": 7},
        {"message": b"another"},
        {"next_session": bytes(16)},
        {"next_roster": b"another"},
        {"stage": Stage.REVEAL},
        {"signature": b""},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_signature_is_of_the_whole_request(folder: Path, change: dict[str, Any]) -> None:
    """Who carries messages may not even spoil them."""
    policy = replace(ANYTHING, server=SERVER.public)
    machines = Machines(folder, NODES, policy=policy)
    carry(mean_of(SumSettings(identity=SERVER)), machines)
    request, state = machines.requests[VICTIM, Stage.SHARE], machines.before[VICTIM, Stage.SHARE]
    assert machines.ask(VICTIM, request, state).messages
    with pytest.raises(RefusedError, match=r"\(server\)"):
        machines.ask(VICTIM, replace(request, **change), state)


# Noise that is none


@pytest.mark.parametrize(
    "change",
    [{"minimum_survivors": 2}, {"clients": 4}, {"entries": 6}],
    ids=["survivors", "clients", "entries"],
)
def test_noise_for_another_sum_than_the_one_that_is_opened_is_no_proposal(
    folder: Path, change: dict[str, int]
) -> None:
    """Shares of noise made for many survivors are too little in a sum of few."""
    mechanism = noise_of(3, minimum_survivors=3, bits=32, scale=10.0)
    machines, summed = Machines(folder, NODES), noisy(folder / "s.sqlite", mechanism)
    proposal = carry(Coordinator(summed, SumSettings()), machines).proposal
    said = proposal.to_bytes()
    for name, value in change.items():
        was = f'"{name}":{getattr(mechanism, name)}'.encode()
        assert said.count(was) == 1
        said = said.replace(was, f'"{name}":{value}'.encode())
    with pytest.raises(DecodeError, match="another vector, cohort or minimum of survivors"):
        Proposal.from_bytes(said)
