"""``secagg train`` with a model and data of one's own, named ``module:factory``."""

import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch  # noqa: F401  # without it there is nothing to train

PROGRAM = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

def regression():
    return nn.Linear(3, 1), nn.MSELoss()

def digits():
    return nn.Linear(64, 10)

def hospitals(clients):
    torch.manual_seed(1)
    parts = [(torch.randn(9 + i, 3), torch.arange(9 + i) % 2) for i in range(clients)]
    return parts, parts[0]

def places(clients):
    parts, held_out = hospitals(clients)
    return parts, held_out, ["north"] * 5 + ["south"] * 4

def numbers(clients):
    parts = [(torch.ones(4, 3), torch.ones(4, 1))] * clients
    return parts, None

def four(clients):
    return [(torch.ones(4, 3), torch.ones(4, 1))] * 4, None

def alone(clients):
    return 7

def broken(clients):
    raise OSError("no such share\\nsecond line")
"""
OWN = ("--model", "own_program:model", "--data", "own_program:hospitals", "--clients", 3)
SMALL = ("--rounds", 2, "--dropout", 0, "--learning-rate", 0.5, "--noise", "none")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own_program.py").write_text(PROGRAM)
    yield
    sys.modules.pop("own_program", None)


def test_an_own_model_trains_on_own_data_and_goes_on(secagg: Run) -> None:
    code, out, err = secagg("train", *OWN, *SMALL, "--out", "run", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["rounds"] == 2
    config = tomllib.loads(Path("run/config.toml").read_text())
    assert (config["model"], config["data"]) == ("own_program:model", "own_program:hospitals")
    assert secagg("train", "--resume", "--out", "run", "--json")[1] == out
    code, again, _ = secagg("train", "--config", "run/config.toml", "--out", "again", "--json")
    assert (code, json.loads(again)["rounds"]) == (0, 2)


def test_an_own_model_trains_under_noise(secagg: Run) -> None:
    noised = ("--noise", "distributed", "--unit", "client", "--clip", 1, "--delta", 1e-2)
    code, out, _ = secagg("train", *OWN, *SMALL, *noised, "--out", "run", "--json")
    assert code == 0
    assert 0 < json.loads(out)["epsilon"] <= 2


def test_the_groups_of_the_evaluation_come_with_the_data(secagg: Run) -> None:
    given = (*OWN, "--data", "own_program:places", *SMALL)
    code, out, _ = secagg("train", *given, "--out", "run")
    assert code == 0
    final = json.loads(Path("run/metrics.json").read_text())["final"]
    assert [each["examples"] for each in final["by_group"].values()] == [5, 4]
    assert f"by group: north accuracy {final['by_group']['north']['accuracy']:.3f} of 5" in out


def test_a_model_and_its_loss_and_no_evaluation(secagg: Run) -> None:
    own = ("--model", "own_program:regression", "--data", "own_program:numbers", "--clients", 3)
    code, out, _ = secagg("train", *own, *SMALL, "--out", "run")
    assert code == 0
    assert "accuracy" not in out
    assert "after 2 rounds" in out


def test_an_own_model_trains_on_a_data_set_that_is_here(secagg: Run) -> None:
    given = ("--model", "own_program:digits", *SMALL, "--clients", 4, "--learning-rate", 4)
    code, out, _ = secagg("train", *given, "--out", "run", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "nowhere:model"), "model nowhere:model: ModuleNotFoundError: No module"),
        (("--model", "own_program:nothing"), "AttributeError: module 'own_program' has no"),
        (("--model", "own_program"), "model own_program: "),
        (("--data", "own_program:broken"), "broken: OSError: no such share"),
        (("--data", "own_program:alone"), "must give (clients, evaluation)"),
        (("--data", "own_program:four"), "has 4 clients, not 3; set clients"),
        (("--data", "own"), "resume it with Trainer.resume"),
        (("--model", "own_program:hospitals"), "TypeError"),
        (("--noise", "local"), "an own model needs clip"),
    ],
)
def test_what_is_wrong_with_one_is_one_line(
    secagg: Run, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = secagg("train", *OWN, *SMALL, *arguments, "--out", "run")
    assert (code, out) == (2, "")
    assert err.startswith("secagg: ")
    assert words in err
    assert err.count("\n") == 1
    assert not Path("run").exists()


def test_own_data_need_an_own_model_and_its_numbers(secagg: Run) -> None:
    code, _, err = secagg("train", "--data", "own_program:hospitals")
    assert (code, "give model too" in err) == (2, True)
    code, _, err = secagg("train", *OWN, "--noise", "none")
    assert (code, "an own model needs rounds" in err) == (2, True)
