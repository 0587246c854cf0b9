import csv
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dp.ledger.ledger import Ledger, State
from secagg.cli import main as cli
from secagg.errors import InputError
from secagg.rounds.in_memory import run_bonawitz, run_plain
from secagg.training import loop as training
from secagg.training.settings import TrainingConfig, noise_and_unit

SMALL = ("--clients", "4", "--rounds", "3", "--dropout", "0")
FILES = {
    *("config.toml", "metrics.json", "metrics.csv", "ledger.sqlite"),
    *("model.safetensors", "curves.svg", "report.html"),
}
CONTEXT = click.Context(cli.cli)
COMMANDS = {name: cli.cli.get_command(CONTEXT, name) for name in cli.COMMANDS}
GROUPS = ["", *(name for name, one in COMMANDS.items() if isinstance(one, click.Group))]

Run = Callable[..., tuple[int, str, str]]


def test_json_prints_the_final_record_alone(secagg: Run, tmp_path: Path) -> None:
    code, out, err = secagg("train", *SMALL, "--out", tmp_path / "run", "--json")
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert record.keys() >= {
        *("accuracy", "epsilon", "delta", "rounds", "survivors_min"),
        *("bytes_up_per_client", "bytes_down_per_client", "seconds", "run"),
    }
    assert record["rounds"] == 3
    assert record["survivors_min"] == 4
    assert 0 < record["epsilon"] <= record["epsilon_rdp"] <= 2
    assert record["accuracy"] > 0.5


def test_a_run_leaves_its_whole_folder_and_one_line_a_round(secagg: Run, tmp_path: Path) -> None:
    code, out, _ = secagg("train", *SMALL, "--out", tmp_path / "run")
    assert code == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} >= FILES
    lines = [line for line in out.splitlines() if "accuracy" in line and "/3 " in line]
    assert len(lines) == 3
    for word in ("clients", "up", "down", "ms:", "advertise", "share", "mask", "reveal", "epsilon"):
        assert word in lines[0]
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["threshold"] == 3
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [record["round"] for record in metrics["rounds"]] == [1, 2, 3]
    with (tmp_path / "run" / "metrics.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    for row, record in zip(rows, metrics["rounds"], strict=True):
        assert float(row["accuracy"]) == record["accuracy"]
        assert float(row["epsilon"]) == record["epsilon"]


def test_a_run_can_be_repeated_from_its_own_config(secagg: Run, tmp_path: Path) -> None:
    assert secagg("train", *SMALL, "--noise", "none", "--out", tmp_path / "one")[0] == 0
    config = tmp_path / "one" / "config.toml"
    code, out, _ = secagg(
        "train", "--config", config, "--rounds", "2", "--out", tmp_path / "two", "--json"
    )
    assert code == 0
    assert json.loads(out)["rounds"] == 2
    assert json.loads(out)["epsilon"] is None


@pytest.mark.parametrize("split", ["iid", "dirichlet:0.3"])
def test_bonawitz_and_plain_give_the_same_model_up_to_quantisation(
    split: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The two protocols are run on the very same words, and the sums compared exactly."""
    compared = []

    def both(agreement: Any, inputs: Any, gone: Any, **_: Any) -> Any:
        words = {client: make() for client, make in inputs.items()}
        masked = run_bonawitz(agreement, words, gone)
        plain = run_plain(agreement, words, gone)
        np.testing.assert_array_equal(masked.values, plain.values)
        assert masked.survivors == plain.survivors
        compared.append(masked.survivors)
        return masked

    monkeypatch.setattr("secagg.rounds.aggregation.run_bonawitz", both)
    config = TrainingConfig(clients=9, rounds=3, dropout=0.2, partition=split, seed=2)
    assert len(list(training.start(config, tmp_path / "run"))) == 3
    assert len(compared) == 3


def test_two_runs_of_one_seed_differ_in_noise_but_not_in_data(tmp_path: Path) -> None:
    models = []
    for name in ("one", "two"):
        config = TrainingConfig(clients=4, rounds=1, dropout=0.0)
        run = training.start(config, tmp_path / name)
        start = run.model.weight.detach().clone()
        next(iter(run))
        models.append((start, run.model.weight.detach()))
    (start, one), (same_start, two) = models
    assert torch.equal(start, same_start)
    assert not torch.allclose(one, two, atol=1e-3)


def test_without_privacy_a_run_learns_more_and_keeps_no_ledger(secagg: Run, tmp_path: Path) -> None:
    code, out, _ = secagg("train", "--rounds", 20, "--noise", "none", "--json", "--out", tmp_path)
    assert code == 0
    assert json.loads(out)["accuracy"] > 0.9
    assert not (tmp_path / "ledger.sqlite").exists()


def test_under_privacy_nothing_but_the_update_travels(tmp_path: Path) -> None:
    def names(mode_name: str) -> list[str]:
        config = TrainingConfig(clients=3, rounds=1, **noise_and_unit(mode_name))
        run = training.start(config, tmp_path / mode_name)
        return [segment.name for segment in run._mode.layout.segments]

    assert names("local") == names("distributed") == names("client") == ["update"]
    assert names("none") == ["update", "weight", "accuracy"]


def test_a_client_gone_before_it_masks_is_not_charged_and_one_gone_later_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = dict(zip(range(4), ("advertise", "share", "mask", "reveal"), strict=True))
    monkeypatch.setattr(
        training,
        "simulated_dropouts",
        lambda *_, **__: {client: training.Stage(stage) for client, stage in stages.items()},
    )
    config = TrainingConfig(clients=10, rounds=1)
    (record,) = training.start(config, tmp_path / "run")
    assert record["survivors"] == 7
    with Ledger.open(tmp_path / "run" / "ledger.sqlite") as ledger:
        states = {held.subject: held.state for held in ledger.reservations()}
    assert [client for client in range(10) if states[f"client-{client}"] is State.ABORTED] == [0, 1]
    assert all(state is not State.OPEN for state in states.values())


def test_a_round_with_too_few_survivors_is_lost_charged_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training,
        "simulated_dropouts",
        lambda *_, round_number, **__: (
            dict.fromkeys(range(3), training.Stage.MASK) if round_number == 1 else {}
        ),
    )
    run = training.start(TrainingConfig(clients=4, rounds=2), tmp_path / "run")
    start = run.model.weight.detach().clone()
    rounds = iter(run)
    first = next(rounds)
    assert first["lost"]
    assert first["epsilon"] > 0
    assert torch.equal(run.model.weight, start)
    second = next(rounds)
    assert not second["lost"]
    assert second["epsilon"] > first["epsilon"]
    final = run.finish()
    assert final["rounds"] == 2


KILL = """
import os, signal, sys
import secagg.training.modes, secagg.training.loop, secagg.training.runs, dp.ledger.ledger
from secagg.cli import main as cli

releases = open({log!r}, "a")
modes = secagg.training.modes
mode = {{"local": modes.Local, "distributed": modes.Distributed}}[{mode!r}]
brings = mode.brings
def counted(self, *args):
    releases.write(f"{{self._config.local_steps}}\\n")
    releases.flush(); os.fsync(releases.fileno())
    return brings(self, *args)
mode.brings = counted

def kill_at(owner, name, call):
    original, calls = getattr(owner, name), []
    def wrapped(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(owner, name, wrapped)

if {point!r} == "after the releases, before the commit":
    kill_at(dp.ledger.ledger.Ledger, "commit", 2)
elif {point!r} == "after the commit, before the model is saved":
    kill_at(secagg.training.runs.RunFolder, "save", 2)
elif {point!r} == "in the middle of a round":
    kill_at(mode, "brings", 4 + 2)
sys.argv = ["secagg", "train", "--json", *{more!r}]
cli.main()
"""


@pytest.mark.parametrize(
    "point",
    [
        "after the releases, before the commit",
        "after the commit, before the model is saved",
        "in the middle of a round",
    ],
)
@pytest.mark.parametrize("mode_name", ["local", "distributed"])
def test_killed_and_resumed_it_continues_and_the_ledger_never_under_counts(
    point: str, mode_name: str, tmp_path: Path
) -> None:
    out, log = tmp_path / "run", str(tmp_path / "releases")

    def start(point: str, *more: str) -> subprocess.CompletedProcess[str]:
        arguments = ["--out", str(out), "--noise", mode_name, *more]
        code = KILL.format(log=log, point=point, mode=mode_name, more=arguments)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert start(point, *SMALL).returncode == -signal.SIGKILL
    resumed = start("nowhere", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    final = json.loads(resumed.stdout)
    # The round that was cut off stays charged, so the budget ends a round early.
    assert final["rounds"] == 2
    assert final["epsilon_rdp"] <= 2
    released = sum(int(line) for line in Path(log).read_text().split())
    with Ledger.open(out / "ledger.sqlite") as ledger:
        ledger.verify()
        charged = sum(sum(ledger.spent(subject).values()) for subject in ledger.subjects())
    assert charged >= released > 0


def test_an_interrupted_run_goes_on_where_it_stopped(secagg: Run, tmp_path: Path) -> None:
    run = training.start(TrainingConfig(clients=4, rounds=3, dropout=0.0), tmp_path / "run")
    rounds = iter(run)
    next(rounds), next(rounds)
    weights = run.model.weight.detach().clone()
    again = training.resume(tmp_path / "run")
    assert again.done == 2
    assert torch.equal(again.model.weight, weights)
    code, out, _ = secagg("train", "--out", tmp_path / "run", "--resume", "--json")
    assert code == 0
    assert json.loads(out)["rounds"] == 3
    assert load_file(tmp_path / "run" / "model.safetensors")["weight"].shape == (10, 64)
    code, again_out, _ = secagg("train", "--out", tmp_path / "run", "--resume", "--json")
    assert code == 0
    assert json.loads(again_out) == json.loads(out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--clients", "1"], "clients 1"),
        (["--clients", "many"], "many"),
        (["--rounds", "0"], "rounds 0"),
        (["--dropout", "1.5"], "dropout 1.5"),
        (["--dropout", "nan"], "dropout nan"),
        (["--threshold", "10"], "majority"),
        (["--threshold", "21"], "threshold 21"),
        (["--minimum-survivors", "21"], "minimum_survivors 21"),
        (["--epsilon", "0"], "epsilon 0"),
        (["--epsilon", "inf"], "epsilon inf"),
        (["--delta", "0.01"], "delta"),
        (["--delta", "0"], "delta 0"),
        (["--clip", "-1"], "clip -1"),
        (["--bits", "64"], "bits 64"),
        (["--seed", "-1"], "seed -1"),
        (["--learning-rate", "0"], "learning_rate 0"),
        (["--local-steps", "0"], "local_steps 0"),
        (["--sampling-rate", "2"], "sampling_rate 2"),
        (["--protocol", "rot13"], "unknown protocol"),
        (["--noise", "distributed", "--local-steps", "2"], "added at every step"),
        (["--noise", "distributed", "--protocol", "plain"], "hides"),
        (
            ["--unit", "client", "--minimum-survivors", "12", "--uncounted-shares", "12"],
            "uncounted_shares 12",
        ),
        (["--unit", "client", "--delta", "0.06"], "delta"),
        (["--noise", "local", "--uncounted-shares", "2"], "uncounted_shares 2"),
        (["--client-sampling-rate", "0.5"], "client_sampling_rate 0.5"),
        (["--noise", "trust-me"], "unknown noise"),
        (["--noise", "local", "--unit", "client"], "take noise distributed"),
        (["--noise", "none", "--unit", "client"], "hides nobody"),
        (["--data", "imagenet"], "unknown data"),
        (["--partition", "dirichlet:-1"], "partition"),
        (["--evaluate-on", "jury"], "unknown evaluate_on"),
        (["--config", "/nowhere.toml"], "cannot read"),
        (["--resume"], "missing"),
        (["--resume", "--overwrite"], "--resume"),
        (["--nonsense"], "No such option"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    secagg: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    out = tmp_path / "run"
    code, stdout, stderr = secagg("train", "--out", out, *arguments)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("secagg: ")
    assert words in stderr
    assert stderr.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clients = ", "not TOML"),
        ("clients = '3'", "clients is '3'"),
        ("clients = true", "clients is True"),
        ("cleints = 3", "unknown setting"),
        ("epsilon = nan", "epsilon nan"),
    ],
)
def test_a_bad_config_file_is_one_line(secagg: Run, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    code, _, stderr = secagg("train", "--config", tmp_path / "bad.toml", "--out", tmp_path / "run")
    assert code == 2
    assert words in stderr


@pytest.mark.parametrize(
    "file", ["config.toml", "metrics.json", "model.safetensors", "ledger.sqlite"]
)
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_corrupt_run_folder_is_one_line_and_is_left_alone(
    secagg: Run, tmp_path: Path, file: str, damage: str
) -> None:
    run = training.start(TrainingConfig(clients=4, rounds=3, dropout=0.0), tmp_path)
    next(iter(run))
    run._books._ledger.close()
    path = tmp_path / file
    for journal in tmp_path.glob("ledger.sqlite-*"):
        journal.unlink()
    before = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(before[: len(before) // 2] if damage == "cut" else b"\x00garbage" * 99)
    code, out, err = secagg("train", "--resume", "--out", tmp_path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert path.exists() is (damage != "missing")


def test_an_existing_folder_is_not_written_over(secagg: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for options in ([], ["--overwrite"]):
        code, _, err = secagg("train", *SMALL, "--out", tmp_path, *options)
        assert code == 2
        assert "not" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_settings_than_the_runs_are_refused_on_resume(secagg: Run, tmp_path: Path) -> None:
    training.start(TrainingConfig(clients=4, rounds=3), tmp_path / "run")
    code, _, err = secagg("train", "--out", tmp_path / "run", "--resume", "--epsilon", "20")
    assert code == 2
    assert "epsilon" in err


def test_a_disk_that_fills_up_ends_in_one_line_and_a_run_that_can_go_on(
    secagg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training.start(TrainingConfig(clients=4, rounds=3, dropout=0.0), tmp_path / "run")
    next(iter(run))
    run._books._ledger.close()
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    code, _, err = secagg("train", "--out", tmp_path / "run", "--resume")
    assert code == 2
    assert "No space left on device" in err
    monkeypatch.setattr(os, "write", real)
    assert secagg("train", "--out", tmp_path / "run", "--resume")[0] == 0


def test_help_has_examples(secagg: Run) -> None:
    code, out, _ = secagg("train", "--help")
    assert code == 0
    assert "secagg train --epsilon 2" in out


def test_settings_know_nothing_unknown() -> None:
    with pytest.raises(InputError, match="unknown setting"):
        TrainingConfig.parse({"epsilom": 1})


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_alone_shows_its_help_and_exits_2(secagg: Run, group: str) -> None:
    code, out, err = secagg(*group.split())
    assert (code, out) == (2, "")
    assert "\nCommands:\n" in err
    assert "Missing" not in err
