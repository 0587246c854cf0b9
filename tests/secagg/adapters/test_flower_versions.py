"""Without Flower, or with one that this adapter was not written for, an import says what to do.

That nothing else here imports Flower, and nothing the adapters, is a contract of import-linter.
"""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from secagg.adapters import flower
from secagg.errors import MissingExtraError

HINT = r"flwr>=1\.41,<2.*pip install '\.\[flower\]' in a clone of secagg"
WITHOUT = """
import importlib.metadata, sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "flwr":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
found = importlib.metadata.version
def version(name):
    if name == "flwr":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
"""


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_flower_the_adapter_says_what_to_install() -> None:
    said = python(
        f"{WITHOUT}\n"
        "from secagg.errors import MissingExtraError\n"
        "try:\n    import secagg.adapters.flower\n"
        "except MissingExtraError as error:\n    print(isinstance(error, ImportError), error)\n"
    )
    assert said.startswith("True secagg.adapters.flower works with flwr>=1.41,<2")
    assert said.rstrip().endswith("pip install '.[flower]' in a clone of secagg")


def test_without_flower_everything_else_is_there() -> None:
    python(
        f"{WITHOUT}\n"
        "import secagg.cli.node, secagg.cli.keys, secagg.nodes\n"
        "import secagg.rounds.relay, secagg.adapters\n"
        "assert 'flwr' not in sys.modules\n"
    )


@pytest.mark.parametrize("found", ["1.40.0", "1.9.0", "0.19.0", "2.0.0", "2.1", "1.40.1rc1", ""])
def test_another_flower_is_named(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "version", lambda name: found)
    with pytest.raises(MissingExtraError, match=f"{HINT}") as caught:
        flower._check_version()
    assert f"and {found} is installed" in str(caught.value)


@pytest.mark.parametrize("found", ["1.41.0", "1.41.3", "1.42.0.dev20300101", "1.100.0"])
def test_those_that_it_was_written_for_are_taken(
    found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "version", lambda name: found)
    flower._check_version()


def test_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(flower, "version", version)
    with pytest.raises(MissingExtraError, match=HINT):
        flower._check_version()
