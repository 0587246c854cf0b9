"""What a node keeps between two stages, and what it does with what it is handed."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from between import (
    Machines,
    carry,
    check_mean,
    mean_after_another_sum,
    mean_of,
    noise_of,
    noisy,
    signing,
)

from dp.ledger.ledger import State
from protocols import bonawitz
from protocols.errors import RemoteProtocolError, TooFewSurvivors
from secagg.errors import IdentityError, InputError, NodeError
from secagg.nodes.coordinator import Coordinator, SumSettings, may_share_ahead
from secagg.nodes.messages import Request
from secagg.nodes.node import Node, new_folder
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import Contribution, Proposal
from secagg.rounds.parties import NO_STATE
from secagg.stage import Stage

SIX = tuple(range(100, 106))


@pytest.mark.parametrize("stage", [Stage.SHARE, Stage.MASK, Stage.REVEAL])
def test_a_node_that_was_restarted_says_so_and_is_gone(folder: Path, stage: Stage) -> None:
    machines, coordinator = Machines(folder, SIX), mean_after_another_sum()
    carry(coordinator, machines)

    def forget(node: int, request: Request) -> Request:
        if node == 102 and request.stage is stage:
            machines.states[102] = None
        return request

    finished = carry(coordinator, machines, change=forget)
    assert [str(error) for error in machines.errors] == [NO_STATE]
    check_mean(finished, machines)


def test_the_state_of_another_node_or_a_changed_one_is_refused(folder: Path) -> None:
    machines = Machines(folder, SIX)
    carry(mean_of(), machines)
    request, state = machines.requests[100, Stage.MASK], machines.before[100, Stage.MASK]
    assert state is not None
    for place in range(0, len(state), 37):
        changed = bytearray(state)
        changed[place] ^= 1
        with pytest.raises(NodeError, match="not of this node, or was changed: begin anew"):
            machines.ask(100, request, bytes(changed))
    with pytest.raises(NodeError, match="not of this node, or was changed: begin anew"):
        machines.ask(101, request, state)
    with pytest.raises(NodeError, match="not of this node, or was changed: begin anew"):
        machines.ask(100, request, state[:20])


def test_a_state_of_another_stage_or_sum_is_refused(folder: Path) -> None:
    machines, coordinator = Machines(folder, SIX), mean_after_another_sum()
    carry(coordinator, machines)
    mask, state = machines.requests[100, Stage.MASK], machines.before[100, Stage.REVEAL]
    with pytest.raises(NodeError, match="asked for stage mask, our state is AwaitSurvivors"):
        machines.ask(100, mask, state)
    old = machines.before[100, Stage.MASK]
    carry(coordinator, machines)
    with pytest.raises(NodeError, match="our state is of another proposal"):
        machines.ask(100, machines.requests[100, Stage.MASK], old)


def test_the_key_of_the_state_is_its_owners_alone(folder: Path) -> None:
    machines = Machines(folder, SIX)
    carry(mean_of(), machines)
    key = machines.home(100) / "state.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_bytes() != (machines.home(101) / "state.key").read_bytes()
    request = machines.requests[100, Stage.ADVERTISE]
    key.chmod(0o640)
    with pytest.raises(IdentityError, match="others may read"):
        machines.ask(100, request, None)
    key.chmod(0o600)
    key.write_bytes(bytes(31))
    with pytest.raises(NodeError, match="no key of 32 bytes"):
        machines.ask(100, request, None)
    key.unlink()
    machines.ask(100, request, None)
    assert sorted(os.listdir(machines.home(100))) == [
        ".lock",
        "burnt.sqlite",
        "policy.toml",
        "state.key",
    ]


def test_a_node_that_lost_the_key_of_its_state_is_back_after_one_sum(folder: Path) -> None:
    machines, coordinator = Machines(folder, SIX), mean_of()
    carry(coordinator, machines)
    (machines.home(100) / "state.key").unlink()
    assert carry(coordinator, machines).survivors == SIX[1:]
    assert [str(error) for error in machines.errors] == [
        "the state is not of this node, or was changed: begin anew"
    ]
    check_mean(finished := carry(coordinator, machines), machines)
    assert finished.survivors == SIX


def test_a_folder_that_is_missing_or_taken_is_an_error(folder: Path) -> None:
    with pytest.raises(NodeError, match="secagg node new"):
        Node(folder / "none")
    home = new_folder(folder / "home")
    assert home.stat().st_mode & 0o077 == 0
    assert Node(home).policy == NodePolicy(allow_no_noise=True)
    with pytest.raises(NodeError, match="cannot make"):
        new_folder(home)
    (home / "policy.toml").unlink()
    with pytest.raises(InputError, match="no policy at"):
        Node(home)


@pytest.mark.parametrize("failure", [NodeError("out of memory"), SystemExit(3)])
def test_a_program_that_fails_brings_its_noise_and_stays_charged(
    folder: Path, failure: BaseException
) -> None:
    def fails(node: int, proposal: Proposal) -> Contribution:
        if node == 100:
            raise failure
        return Contribution(vector=np.zeros(proposal.entries), metrics={})

    machines = Machines(folder, SIX, work=fails)
    finished = carry(Coordinator(noisy(folder / "s.sqlite", noise_of(6)), SumSettings()), machines)
    assert finished.survivors == SIX
    assert not machines.errors
    with machines.books(100) as books:
        assert [entry.state for entry in books.reservations()] == [State.COMMITTED]


def test_sums_of_two_servers_are_two_charges(folder: Path) -> None:
    machines = Machines(folder, SIX)
    for server in ("server", "other"):
        carry(Coordinator(noisy(folder / server, noise_of(6)), SumSettings()), machines)
    with machines.books(100) as books:
        assert len(books.reservations()) == 2


# Keys that come before everything public is known


def test_keys_come_with_the_last_answer_and_nobody_is_asked_for_them_again(folder: Path) -> None:
    machines, coordinator = Machines(folder, SIX), mean_after_another_sum()
    carry(coordinator, machines)
    machines.requests.clear()
    check_mean(carry(coordinator, machines), machines)
    assert {stage for _, stage in machines.requests} == {Stage.SHARE, Stage.MASK, Stage.REVEAL}


def test_a_session_is_never_used_twice(folder: Path) -> None:
    machines, coordinator, sessions = Machines(folder, SIX), mean_of(), []
    for lost in (None, dict.fromkeys(SIX, Stage.REVEAL), None, None):
        with suppress(TooFewSurvivors):
            carry(coordinator, machines, lost=lost)
        request = machines.requests[100, Stage.MASK]
        sessions.append(Proposal.from_bytes(request.proposal).session)
    assert len(set(sessions)) == 4


@pytest.mark.parametrize("begin", [mean_of, mean_after_another_sum])
def test_keys_of_a_sum_that_failed_are_not_used_again(
    begin: Callable[[], Coordinator], folder: Path
) -> None:
    machines, coordinator = Machines(folder, SIX), begin()
    carry(coordinator, machines)
    with pytest.raises(TooFewSurvivors):
        carry(coordinator, machines, lost=dict.fromkeys(SIX, Stage.MASK))
    check_mean(finished := carry(coordinator, machines), machines)
    assert finished.survivors == SIX
    assert not machines.errors  # a node refuses to share one mask key twice


@pytest.mark.parametrize("keys", ["another's", "noise", "of another session"])
def test_keys_that_are_not_the_nodes_count_as_none(folder: Path, keys: str) -> None:
    machines, coordinator = Machines(folder, SIX), mean_after_another_sum()
    carry(coordinator, machines)
    coordinator.advertised[100] = {
        "another's": coordinator.advertised[101],
        "noise": b"noise",
        "of another session": bonawitz.join(
            bonawitz.Agreement(
                params=bonawitz.Params(clients=2, threshold=2, words=1),
                session=bytes(16),
                round=0,
                public_digest=bytes(32),
            ),
            0,
        )[0],
    }[keys]
    machines.requests.clear()
    check_mean(finished := carry(coordinator, machines), machines)
    assert finished.survivors == SIX
    assert [node for node, stage in machines.requests if stage is Stage.ADVERTISE] == [100]


def test_keys_that_are_signed_are_never_asked_for_ahead(folder: Path) -> None:
    machines = Machines(folder, SIX)
    roster, machines.policy = signing(machines)
    carry(mean_of(SumSettings(roster=roster)), machines)
    request, state = (
        machines.requests[100, Stage.REVEAL],
        machines.before[100, Stage.REVEAL],
    )
    assert not request.next_session
    for ahead in ({"next_session": bytes(16)}, {"next_roster": b"a roster"}):
        with pytest.raises(NodeError, match="signed keys are not advertised before"):
            machines.ask(100, replace(request, **ahead), state)


def test_in_a_sparse_graph_with_noise_nothing_is_shared_ahead(folder: Path) -> None:
    machines = Machines(folder, tuple(range(12)))
    machines.policy = replace(machines.policy, corrupt_fraction=0)
    coordinator = Coordinator(noisy(folder / "s.sqlite", noise_of(12)), SumSettings())
    complete = carry(coordinator, machines).proposal
    assert isinstance(complete.params, bonawitz.Params)
    rates = bonawitz.Rates(corrupt_fraction=0, dropout=0.1)
    sparse = replace(complete, params=replace(complete.params, threshold=None, rates=rates))
    assert may_share_ahead(complete)
    assert not may_share_ahead(sparse)
    request = replace(machines.requests[1, Stage.REVEAL], proposal=sparse.to_bytes())
    with pytest.raises(NodeError, match="in a sparse graph with noise nothing is shared before"):
        machines.ask(1, request, machines.before[1, Stage.REVEAL])


def test_a_second_answer_counts_as_none(folder: Path) -> None:
    machines, coordinator = Machines(folder, SIX), mean_of()
    under_way = coordinator.begin("train", SIX, model=bytes(32), shapes=(("a", (2,)),))
    ask = next(under_way.asks())
    answer = machines.answer(101, under_way.request(ask, 101))
    under_way.receive(ask, 101, answer)
    with pytest.raises(RemoteProtocolError, match="already advertised"):
        under_way.receive(ask, 101, answer)
