"""The names that ``import secagg`` gives, nothing that leaks beside them, and how light it is."""

import ast
import importlib
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

import secagg
from secagg.cli import main as cli

HELP = "import sys; sys.argv = ['secagg', '--help']; from secagg.cli.main import main; main()"
LIGHT = pytest.mark.parametrize("program", ["import secagg", HELP], ids=["import", "help"])
HEAVY = {"numpy", "cryptography", "scipy", "torch", "tenseal", "opacus", "flwr", "rich"}
SHOWN = [f"secagg.{name}" for name in secagg.__all__]
CPU = 1.0  # seconds, of 0.03 and 0.06: room for a busy machine, none for torch


def fresh(program: str) -> str:
    """What ``program`` prints in an interpreter of its own."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_face_shows_its_names_and_no_others() -> None:
    assert dir(secagg) == sorted([*secagg.__all__, "Trainer"])
    assert all(hasattr(secagg, name) for name in secagg.__all__)


def test_a_name_that_is_not_on_the_face_is_missing() -> None:
    with pytest.raises(AttributeError, match="'secagg' has no attribute 'agregate'"):
        secagg.agregate  # noqa: B018  # the look-up is what is tested


def test_type_checkers_and_python_find_each_name_in_the_same_place() -> None:
    tree = ast.parse(Path(secagg.__file__).read_text())
    (lazy,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = [node for node in lazy.body if isinstance(node, ast.ImportFrom)]
    said = {node.module: tuple(alias.name for alias in node.names) for node in imported}
    assert said == secagg._HOMES
    for home, names in said.items():
        for name in names:
            assert getattr(secagg, name) is getattr(importlib.import_module(str(home)), name)


def test_a_type_checker_refuses_a_name_that_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    user, cache = tmp_path / "user.py", str(tmp_path / "cache")
    user.write_text("".join(f"{name}\n" for name in ["import secagg", *SHOWN, "secagg.agregate"]))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache]
    said = subprocess.run(
        [*command, "--follow-imports", "skip", str(secagg.__file__), str(user)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert said.count("error:") == 1, said
    assert f'user.py:{len(SHOWN) + 2}: error: Module has no attribute "agregate"' in said


@LIGHT
def test_a_start_imports_nothing_heavy(program: str) -> None:
    ended = f"import atexit, sys; atexit.register(lambda: print(*sys.modules))\n{program}"
    loaded = set(fresh(ended).splitlines()[-1].split())
    assert not loaded & HEAVY
    ours = {name for name in loaded if name.split(".")[0] in ("secagg", "dp", "protocols")}
    assert len(ours) <= 12


@LIGHT
def test_a_start_takes_little_time(program: str) -> None:
    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = spent()
    fresh(program)
    assert spent() - before < CPU


def test_a_command_is_listed_by_the_first_line_of_its_own_help() -> None:
    context = click.Context(cli.cli)
    for name, told in cli.COMMANDS.items():
        command = cli.cli.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200) == told
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    modules = {name: importlib.import_module(f"secagg.cli.{name}") for name in files}
    commands = {
        name
        for name, module in modules.items()
        if isinstance(getattr(module, name, None), click.Command)
    }
    assert commands == {*cli.COMMANDS, "attack"}  # which stands under bench
    assert cli.cli.get_command(context, "screen") is None
