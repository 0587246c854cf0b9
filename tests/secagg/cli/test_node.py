import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dp.accounting.events import GaussianEvent, NoSampling
from dp.ledger.ledger import Ledger, LedgerOwner
from secagg.nodes.policy import NodePolicy

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def node(secagg: Run) -> Run:
    return partial(secagg, "node")


def test_a_new_folder_is_its_owners_alone_and_its_policy_can_be_read(
    node: Run, tmp_path: Path
) -> None:
    home = tmp_path / "node"
    assert node("new", home)[0] == 0
    assert home.stat().st_mode & 0o777 == 0o700
    code, out, _ = node("show", home, "--json")
    said = json.loads(out)
    assert code == 0
    assert said["minimum_cohort"] == 3
    assert said["units"] == ["example", "client"]
    assert (said["sums"], said["spent"]) == (0, 0.0)


def test_nothing_is_overwritten(node: Run, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("mine")
    code, _, err = node("new", tmp_path)
    assert (tmp_path / "policy.toml").read_text() == "mine"
    assert (code, err.count("\n")) == (2, 1)


def test_what_was_spent_is_shown_as_a_part_of_the_budget(node: Run, tmp_path: Path) -> None:
    home = tmp_path / "node"
    node("new", home)
    policy = NodePolicy.read(home / "policy.toml")
    path = home / "ledger.sqlite"
    with Ledger.create(
        path, policy.budget, keeper=LedgerOwner.CLIENT, policy=policy.filter
    ) as ledger:
        ledger.reserve(0, {"this node": GaussianEvent(noise_multiplier=2.0, sampling=NoSampling())})
        share = ledger.filter_of("this node").share
    code, out, _ = node("show", home)
    assert code == 0
    assert f"{share:.1%} of the budget" in out
    assert 0 < share < 1


@pytest.mark.parametrize(
    "broken", ["colour = 'red'", "minimum_cohort = 1", "units = 'example'", "["]
)
def test_a_policy_that_cannot_hold_is_one_line_and_two(
    broken: str, node: Run, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text(broken)
    code, _, err = node("show", tmp_path)
    assert (code, err.count("\n")) == (2, 1)


def test_the_bounds_that_a_server_may_not_move_are_shown(node: Run, tmp_path: Path) -> None:
    home = tmp_path / "node"
    node("new", home)
    with (home / "policy.toml").open("a") as policy:
        policy.write("max_weight = 500\nmetrics = { loss = 10.0, accuracy = 1.0 }\n")
    code, out, _ = node("show", home)
    assert code == 0
    assert "loss 10, accuracy 1" in out
    said = json.loads(node("show", home, "--json")[1])
    assert (said["max_weight"], said["metrics"]) == (500, {"loss": 10.0, "accuracy": 1.0})
    assert (said["graphs"], said["sums_per_model"], said["clip"]) == (["complete"], 4, None)
