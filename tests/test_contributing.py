"""CONTRIBUTING.md shows the rooms as they are, and sends nobody to a place that is not there."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PACKAGES = ("secagg", "protocols", "dp")
CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
}
FLOORS = {"secagg": "floors", "protocols": "protocols", "dp": "books"}


def picture(package: str) -> list[set[str]]:
    """The rooms of each floor, from the top, as the picture has them."""
    found = re.search(rf"^{package}/\n((?: {{4}}.+\n)+)", PAGE, re.MULTILINE)
    assert found is not None, f"no picture of {package}"
    return [set(line.strip().split("  ")[0].strip().split(" | ")) for line in found[1].splitlines()]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_floors_are_those_that_make_check_holds(package: str) -> None:
    held = [
        {room.strip().removeprefix(f"{package}.") for room in layer.split("|")}
        for layer in CONTRACTS[FLOORS[package]]["layers"]
    ]
    assert picture(package) == held


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_and_every_room_has_its_place(package: str) -> None:
    home = ROOT / package
    rooms = {
        path.stem
        for path in home.iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem != "__init__"
    }
    assert set().union(*picture(package)) == rooms
    for init in home.glob("*/*/**/__init__.py"):  # a room in a room has to be named by its path
        assert f"`{init.parent.relative_to(ROOT).as_posix()}/`" in PAGE


def test_every_place_that_is_named_is_there() -> None:
    tops = [path.name for path in ROOT.iterdir() if path.is_dir()]
    named = re.findall(rf"`((?:{'|'.join(map(re.escape, tops))})/[^` ]*)`", PAGE)
    assert len(named) > 40
    assert [place for place in named if not (ROOT / place).exists()] == []
    assert [place for place in named if place.endswith("/") != (ROOT / place).is_dir()] == []


def test_the_page_is_one_step_from_the_readme() -> None:
    assert "(CONTRIBUTING.md)" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("engine", ["flower", "flare", "http"])
def test_an_adapter_of_a_network_is_of_short_files(engine: str) -> None:
    files = list((ROOT / "secagg/adapters" / engine).glob("*.py"))
    assert files
    assert [path.name for path in files if len(path.read_text("utf-8").splitlines()) > 300] == []
