"""A node has its own say, by the name of a line in its policy, and the others' round goes on."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine import MEAN, OPEN, fit, is_mean_of, programs
from flwr.clientapp import ClientApp

from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg.adapters.flower import SecureGrid, SumSettings, secure_mod
from secagg.adapters.testing import LocalGrid
from secagg.nodes.identities import Identity, Roster, create_identity, sign_roster
from secagg.nodes.node import new_folder
from secagg.nodes.policy import TEMPLATE, NodePolicy

DEADLINE = 0.01  # seconds, after all who answer have answered
LOSSY = SumSettings(dropout="0.3")
STUBBORN = 103


def key(name: str) -> SigningKey:
    return SigningKey(Secret(hashlib.sha256(name.encode()).digest()))


SERVER = key("server")


def grid_under(policies: dict[int, NodePolicy], folder: Path, count: int = 5) -> LocalGrid:
    nodes = programs(count)
    return LocalGrid(
        {
            node: each.app(new_folder(folder / str(node)), policies.get(node, OPEN))
            for node, each in nodes.items()
        }
    )


def reasons(grid: LocalGrid) -> dict[int, str]:
    return {
        reply.metadata.src_node_id: reply.error.reason for reply in grid.seen if reply.has_error()
    }


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (
            replace(OPEN, allow_no_noise=False),
            r"allow_no_noise): the server proposes sums without noise",
        ),
        (replace(OPEN, protocols=("threshold-ckks",)), "protocols): the server proposes bonawitz"),
        (replace(OPEN, minimum_cohort=5), "minimum_cohort 5): the server would open sums of"),
        (replace(OPEN, minimum_threshold=5), "minimum_threshold 5): "),
        (replace(OPEN, active=True, operator=SERVER.public), "active): the server proposes a coh"),
        (replace(OPEN, server=SERVER.public), "(server): the request lacks that server's signat"),
    ],
    ids=["noise", "protocols", "cohort", "threshold", "active", "server"],
)
def test_who_refuses_says_why_and_is_left_out(policy: NodePolicy, line: str, folder: Path) -> None:
    nodes = programs(5)
    grid = grid_under({STUBBORN: policy}, folder)
    secured = SecureGrid(grid, MEAN, LOSSY, deadline=DEADLINE)
    result = fit(secured)
    assert set(reasons(grid)) == {STUBBORN}
    assert "this node's policy refuses (" in reasons(grid)[STUBBORN]
    assert line in reasons(grid)[STUBBORN]
    left = set(nodes) - {STUBBORN}
    assert set(secured.history[0].survivors) == left
    assert is_mean_of([nodes[node] for node in left], result)
    asked = [m for m in grid.sent if m.metadata.dst_node_id == STUBBORN]
    assert len(asked) == 1  # once


def test_where_all_refuse_there_is_no_sum(folder: Path) -> None:
    policies = {node: replace(OPEN, allow_no_noise=False) for node in programs(5)}
    secured = SecureGrid(grid_under(policies, folder), MEAN, LOSSY, deadline=DEADLINE)
    result = fit(secured)
    assert secured.history[0].failure
    assert not len(result.arrays)


def test_a_pinned_server_signs_every_proposal(folder: Path) -> None:
    pinned = {node: replace(OPEN, server=SERVER.public) for node in programs(4)}
    grid = grid_under(pinned, folder, 4)
    signing = SumSettings(identity=SERVER)
    assert is_mean_of(programs(4).values(), fit(SecureGrid(grid, MEAN, signing, deadline=DEADLINE)))
    another = SecureGrid(grid, MEAN, SumSettings(identity=key("another")), deadline=DEADLINE)
    fit(another)
    assert another.history[0].failure
    assert set(reasons(grid)) == set(programs(4))


# Cohorts that sign

NODES = programs(8)


class Signed:
    """Eight nodes with identities; their numbers are in another order than the nodes."""

    def __init__(self, root: Path, *, unlisted: int | None = None) -> None:
        self.root, self.operator = root, create_identity(root / "operator.key", "operator")
        self.own: dict[int, Identity] = {
            node: create_identity(root / f"{node}.key", f"clinic-{node}") for node in NODES
        }
        listed = [node for node in sorted(NODES, reverse=True) if node != unlisted]
        self.numbers = {node: 7 + 3 * at for at, node in enumerate(listed)}
        self.roster = self.sign(self.operator)
        policy = replace(OPEN, operator=self.operator.key.public, active=True)
        apps = {}
        for node, each in NODES.items():
            home = new_folder(root / str(node))
            os.link(root / f"{node}.key", home / "identity.key")
            (home / "roster.json").write_bytes(self.roster)
            apps[node] = each.app(home, policy)
        self.grid = LocalGrid(apps)
        read = Roster.read(self.roster, operator=self.operator.key.public)
        cohort = SumSettings(roster=read, dropout="0.3")
        self.secured = SecureGrid(self.grid, MEAN, cohort, deadline=DEADLINE)

    def sign(self, operator: Identity) -> bytes:
        members = {
            number: (self.own[node].name, self.own[node].key.public)
            for node, number in self.numbers.items()
        }
        return sign_roster(operator, members)


@pytest.fixture
def signed(folder: Path) -> Signed:
    return Signed(folder)


def test_a_cohort_that_signs_has_the_rosters_numbers(signed: Signed) -> None:
    result = fit(signed.secured, rounds=2)
    for report in signed.secured.history:
        assert [str(stage.stage) for stage in report.stages] == [
            *("advertise", "share", "mask", "sign", "reveal")
        ]
        assert set(report.survivors) == set(NODES)
    assert result.arrays
    single = fit(signed.secured)
    assert is_mean_of(NODES.values(), single)


def test_a_cohort_that_signs_loses_nodes_by_their_names(signed: Signed) -> None:
    signed.grid.lost = lambda node, stage: (node, stage) == (102, "mask")
    result = fit(signed.secured)
    left = set(NODES) - {102}
    assert set(signed.secured.history[0].survivors) == left
    assert is_mean_of([NODES[node] for node in left], result)


@pytest.mark.parametrize("stage", ["sign", "reveal"])
def test_who_is_lost_while_they_sign_is_in_the_sum(stage: str, signed: Signed) -> None:
    signed.grid.lost = lambda node, at: (node, at) == (102, stage)
    result = fit(signed.secured)
    assert set(signed.secured.history[0].survivors) == set(NODES)
    assert is_mean_of(NODES.values(), result)


def test_whom_the_roster_lacks_is_left_out(folder: Path) -> None:
    signed = Signed(folder, unlisted=105)
    result = fit(signed.secured)
    left = set(NODES) - {105}
    assert "this node cannot take part (IdentityError)" in reasons(signed.grid)[105]
    assert set(signed.secured.history[0].survivors) == left
    assert is_mean_of([NODES[node] for node in left], result)


@pytest.mark.parametrize("roster", ["another operator's", "none", "damaged"])
def test_whose_roster_cannot_be_believed_is_left_out(roster: str, signed: Signed) -> None:
    path = signed.root / "105" / "roster.json"
    path.unlink()
    if roster == "another operator's":
        path.write_bytes(signed.sign(create_identity(signed.root / "o.key", "operator")))
    elif roster == "damaged":
        path.write_bytes(signed.roster.replace(b"clinic", b"cl1nic"))
    fit(signed.secured)
    assert set(reasons(signed.grid)) == {105}
    assert set(signed.secured.history[0].survivors) == set(NODES) - {105}


def test_a_node_whose_identity_is_anothers_stops_no_round_of_the_others(signed: Signed) -> None:
    """Two nodes with one key: the second to speak is not taken."""
    path = signed.root / "105" / "identity.key"
    path.unlink()
    os.link(signed.root / "104.key", path)
    fit(signed.secured)
    (report,) = signed.secured.history
    assert not report.failure
    assert len(report.survivors) == 7
    assert len({104, 105} & set(report.survivors)) == 1


# The folder of a node


def test_the_nodes_own_configuration_says_where_its_folder_is(folder: Path) -> None:
    nodes = programs(3)
    apps, configs = {}, {}
    for node, each in nodes.items():
        home = new_folder(folder / str(node))
        apps[node] = ClientApp(mods=[secure_mod()])
        apps[node].train()(each.train)
        configs[node] = {"secagg-home": str(home)}
    secured = SecureGrid(LocalGrid(apps, configs=configs), MEAN, deadline=DEADLINE)
    assert is_mean_of(nodes.values(), fit(secured))


@pytest.mark.parametrize("config", [{}, {"secagg-home": 1}], ids=["none", "a number"])
def test_without_a_folder_a_node_says_how_to_name_one(config: Any, folder: Path) -> None:
    nodes = programs(3)
    apps = {node: ClientApp(mods=[secure_mod(policy=OPEN)]) for node in nodes}
    for node, each in nodes.items():
        apps[node].train()(each.train)
    grid = LocalGrid(apps, configs=dict.fromkeys(nodes, config))
    fit(SecureGrid(grid, MEAN, deadline=DEADLINE))
    assert set(reasons(grid)) == set(nodes)
    hint = "start flower-supernode with --node-config"
    assert all(hint in each for each in reasons(grid).values())


def test_a_policy_without_the_line_refuses_sums_without_noise(folder: Path) -> None:
    nodes = programs(4)
    grid = LocalGrid({n: each.app(new_folder(folder / str(n)), None) for n, each in nodes.items()})
    for node in nodes:
        lines = TEMPLATE.replace("\nallow_no_noise", "\n# allow_no_noise")
        (folder / str(node) / "policy.toml").write_text(lines, encoding="utf-8")
    fit(SecureGrid(grid, MEAN, LOSSY, deadline=DEADLINE))
    assert len(reasons(grid)) == 4
    assert all("this node's policy refuses (" in each for each in reasons(grid).values())


def test_a_policy_that_cannot_be_read_is_not_shown_to_the_server(folder: Path) -> None:
    nodes = programs(4)
    grid = LocalGrid({n: each.app(new_folder(folder / str(n)), None) for n, each in nodes.items()})
    (folder / "101" / "policy.toml").write_text('secret_ward = "7b"\n', encoding="utf-8")
    fit(SecureGrid(grid, MEAN, LOSSY, deadline=DEADLINE))
    assert "this node cannot take part (InputError)" in reasons(grid)[101]
    assert "ward" not in reasons(grid)[101]
