"""A user's project passes strict checks of its types against the wheel."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("torch")
pytest.importorskip("flwr")
pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "tests" / "users" / "project.py"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own, with the wheel unpacked, and beside it the libraries from here."""
    folder = tmp_path_factory.mktemp("user")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    made = [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")]
    subprocess.run(made, check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv" / "bin" / "python"


def checked(python: Path, project: Path) -> subprocess.CompletedProcess[str]:
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python)]
    cache = ["--config-file", "", "--cache-dir", str(python.parents[2] / "cache")]
    return subprocess.run(
        [*mypy, *cache, str(project)],
        cwd=python.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_users_project_passes_strict_checks_against_the_wheel(python: Path) -> None:
    done = checked(python, PROJECT)
    assert done.returncode == 0, done.stdout


def test_what_is_wrong_with_it_is_found(python: Path, tmp_path: Path) -> None:
    """Or types that nobody sees would pass the test above."""
    project = tmp_path / "project.py"
    wrong = "weight: int = found.weight"
    text = PROJECT.read_text("utf-8")
    assert wrong in text
    project.write_text(text.replace(wrong, "weight: str = found.weight"), "utf-8")
    done = checked(python, project)
    assert done.returncode == 1
    assert 'has type "int", variable has type "str"' in done.stdout


def test_each_package_of_the_wheel_says_that_it_has_types(python: Path) -> None:
    (packages,) = (python.parents[1] / "lib").glob("python*/site-packages")
    for name in ("secagg", "dp", "protocols"):
        assert (packages / name / "py.typed").is_file()
