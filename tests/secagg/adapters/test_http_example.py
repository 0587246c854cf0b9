"""examples/http runs as its README says, and docs/network.md has every line of the settings."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
from serving import free_port, run_commands

from secagg.adapters.http import SumPlan, read_settings
from secagg.adapters.http.settings import ServerSettings, WeightedMean

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "network.md").read_text("utf-8")


def test_the_commands_of_the_readme_come_to_the_model(folder: Path) -> None:
    port = free_port()
    for path in (ROOT / "examples" / "http").iterdir():
        if path.is_file():
            (folder / path.name).write_text(path.read_text("utf-8").replace("8480", str(port)))
    done = run_commands(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "train: 10 sums, model in model.npz"
    with np.load(folder / "model.npz") as model:
        assert np.allclose(model["weight"], [1.0, -2.0, 0.5], atol=0.05)


def test_the_page_has_a_row_for_every_line_and_no_other() -> None:
    rows = re.findall(r"^\| (`.+?`) \|", PAGE.partition("## server.toml")[2], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    known = {item.name for item in fields(ServerSettings)} | {item.name for item in fields(SumPlan)}
    known |= {item.name for item in fields(WeightedMean)} - {"summed", "cohort"}
    known |= {"protocol", "corrupt_fraction", "dropout", "minimum_survivors", "roster", "operator"}
    assert named == known - {"summed", "cohort"}


def test_the_settings_of_the_example_are_read() -> None:
    settings, (plan,) = read_settings(ROOT / "examples" / "http" / "server.toml")
    assert settings.address == ("127.0.0.1", 8480)
    assert (plan.purpose, plan.rounds, plan.summed.clip) == ("train", 10, 2.0)
