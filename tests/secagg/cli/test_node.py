import json
from pathlib import Path

import pytest

from dp.accounting.events import GaussianEvent, NoSampling
from dp.ledger.ledger import Keeper, Ledger
from secagg.cli.main import main
from secagg.nodes.policy import Policy


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["secagg", "node", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_a_new_folder_is_its_owners_alone_and_its_policy_can_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "node"
    assert run(monkeypatch, "new", str(home)) == 0
    assert home.stat().st_mode & 0o777 == 0o700
    capsys.readouterr()
    assert run(monkeypatch, "show", str(home), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["minimum_cohort"] == 3
    assert said["privacy"] == ["example", "client"]
    assert (said["sums"], said["spent"]) == (0, 0.0)


def test_nothing_is_overwritten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.toml").write_text("mine")
    assert run(monkeypatch, "new", str(tmp_path)) == 2
    assert (tmp_path / "policy.toml").read_text() == "mine"
    assert capsys.readouterr().err.count("\n") == 1


def test_what_was_spent_is_shown_as_a_part_of_the_budget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "node"
    run(monkeypatch, "new", str(home))
    policy = Policy.read(home / "policy.toml")
    path = home / "ledger.sqlite"
    with Ledger.create(path, policy.budget, keeper=Keeper.CLIENT, policy=policy.filter) as ledger:
        ledger.reserve(0, {"this node": GaussianEvent(noise_multiplier=2.0, sampling=NoSampling())})
        share = ledger.filter_of("this node").share
    capsys.readouterr()
    assert run(monkeypatch, "show", str(home)) == 0
    assert f"{share:.1%} of the budget" in capsys.readouterr().out
    assert 0 < share < 1


@pytest.mark.parametrize(
    "broken", ["colour = 'red'", "minimum_cohort = 1", "privacy = 'none'", "["]
)
def test_a_policy_that_cannot_hold_is_one_line_and_two(
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "policy.toml").write_text(broken)
    assert run(monkeypatch, "show", str(tmp_path)) == 2
    assert capsys.readouterr().err.count("\n") == 1
