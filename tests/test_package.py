"""What is built: one version, an index page without dead links, and a source that is whole."""

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any

import pytest

import secagg

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
LINK = re.compile(r"\]\(([^)]*)\)|^ *\[[^\]]+\]: *(\S+)|(?:href|src)=[\"']?([^\"'>\s]+)", re.M)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The wheel or the sdist of this tree."""
    from hatchling.builders.sdist import SdistBuilder
    from hatchling.builders.wheel import WheelBuilder

    def built(kind: str) -> Path:
        builder: Any = WheelBuilder if kind == "wheel" else SdistBuilder
        return Path(*builder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp(kind))))

    return built


def test_the_version_is_said_once() -> None:
    assert version("secagg") == secagg.__version__
    assert secagg.__version__ not in (ROOT / "pyproject.toml").read_text()


def test_the_package_is_a_command_too() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "secagg", "--version"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, secagg.__version__)


def test_the_pythons_that_it_names_are_those_that_were_run() -> None:
    named = [line.rpartition(" ")[2] for line in metadata("secagg").get_all("Classifier") or ()]
    assert tuple(each for each in named if re.fullmatch(r"3\.\d+", each)) == PYTHONS


def test_a_relative_link_would_be_found() -> None:
    text = "[a](docs/a.md) [b](#b) [c]: ../c\n[d]: d.md\n<img src='e.svg'> [f](https://f.example)"
    assert links(text) == ["docs/a.md", "#b", "d.md", "e.svg", "https://f.example"]


def test_no_link_of_the_index_page_is_relative(build: Callable[[str], Path]) -> None:
    name = f"secagg-{secagg.__version__}.dist-info/METADATA"
    with zipfile.ZipFile(build("wheel")) as wheel:
        page = wheel.read(name).decode()
    assert "| a Flower app, a FLARE job | two lines more, a controller |" in page
    assert "!An update" not in page
    assert [link for link in links(page) if not link.startswith("https://")] == []


def links(text: str) -> list[str]:
    return ["".join(found) for found in LINK.findall(text)]


def test_the_wheel_holds_the_three_packages_and_nothing_else(build: Callable[[str], Path]) -> None:
    with zipfile.ZipFile(build("wheel")) as wheel:
        names = wheel.namelist()
    ours = {"secagg", "dp", "protocols", f"secagg-{secagg.__version__}.dist-info"}
    assert {name.partition("/")[0] for name in names} == ours
    assert {"secagg/pages/page.html", "secagg/py.typed"} <= set(names)


def test_the_sdist_holds_whatever_make_needs(build: Callable[[str], Path]) -> None:
    with tarfile.open(build("sdist")) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {
        *(".ci/run", ".ci/pythons.py", "Makefile", "pyproject.toml", "constraints.txt"),
        *(
            "requirements-data.txt",
            "requirements-language.txt",
            "data.sha256",
            ".gitignore",
            ".pre-commit-config.yaml",
        ),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"),
        *("examples/flower/pyproject.toml", "benchmarks/results/utility.json"),
        *("tests/vectors/complete_active.json", "docs/protocols/bonawitz.md"),
    }
    assert wanted <= names
    assert {name.partition("/")[0] for name in names} <= {
        *(name.partition("/")[0] for name in wanted),
        *("secagg", "dp", "protocols", "PKG-INFO"),
    }
