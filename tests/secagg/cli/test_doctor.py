"""Each thing that is wrong with a machine is a line that says how to mend it."""

import json
import os
import subprocess
import sys
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from secagg.cli import doctor as under_test
from secagg.cli.doctor import ABSENT, OK, WRONG, doctor


def asked(monkeypatch: pytest.MonkeyPatch, **metadata: Any) -> dict[str, Any]:
    """What the command says of a package that needs these lines."""

    said = Message()
    said["Requires-Python"] = metadata.get("python", ">=3.11")
    for extra in metadata.get("extras", []):
        said["Provides-Extra"] = extra
    needs = metadata.get("requires", [])
    installed = SimpleNamespace(version="1.0", requires=needs, metadata=said)
    monkeypatch.setattr(under_test, "distribution", lambda _: installed)
    done = CliRunner().invoke(doctor, ["--json"], standalone_mode=False)
    found: dict[str, Any] = json.loads(done.output)
    assert done.return_value == (0 if found["ok"] else 2)
    return {each["what"]: each for each in found["findings"]} | {"": found["ok"]}


def test_this_machine_is_well_and_says_so_in_a_line_each() -> None:
    done = CliRunner().invoke(doctor, [], standalone_mode=False)
    assert done.return_value == 0
    for word in ("Python", "AES_128_CTR", "CHACHA20", "GB/s", "extra train", "GPU", "this folder"):
        assert word in done.output


def test_an_interpreter_that_is_too_old_is_to_be_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch, python=">=4.0")
    assert not found[""]
    assert found["Python"]["state"] == WRONG
    assert found["Python"]["cure"] == "take a Python >=4.0"


@pytest.mark.parametrize(
    ("need", "told", "cure"),
    [
        ("numpy>=99", "is not >=99", "pip install 'numpy>=99'"),
        ("nosuchlibrary>=1", "nosuchlibrary is missing", "pip install 'nosuchlibrary>=1'"),
    ],
)
def test_a_library_that_is_missing_or_clashes_is_to_be_mended(
    monkeypatch: pytest.MonkeyPatch, need: str, told: str, cure: str
) -> None:
    found = asked(monkeypatch, requires=[need, "click>=8"])
    assert not found[""]
    assert found["libraries"]["state"] == WRONG
    assert told in found["libraries"]["told"]
    assert "click" not in found["libraries"]["told"]
    assert found["libraries"]["cure"] == cure


def test_an_extra_is_there_absent_or_clashes(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        'click>=8; extra == "there"',
        'nosuchlibrary; extra == "absent"',
        'secagg[there]; extra == "absent"',
        'numpy<1; extra == "clash"',
        'nosuchlibrary; extra == "dev"',
    ]
    extras = ["there", "absent", "clash", "dev"]
    found = asked(monkeypatch, requires=lines, extras=extras)
    states = {name: found[f"extra {name}"]["state"] for name in extras[:3]}
    assert states == {"there": OK, "absent": ABSENT, "clash": WRONG}
    assert found["extra absent"]["told"] == "without nosuchlibrary"
    assert ".[absent]" in found["extra absent"]["cure"]
    assert "extra dev" not in found
    assert not found[""]


def test_what_is_absent_alone_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    found = asked(monkeypatch, requires=['nosuchlibrary; extra == "a"'], extras=["a"])
    assert found["extra a"]["state"] == ABSENT
    assert found[""]


def test_a_folder_that_cannot_be_written_is_to_be_mended(tmp_path: Path) -> None:
    found = under_test.writable("here", lambda: tmp_path / "missing")
    assert found.state == WRONG
    assert "cannot be written" in found.told
    assert under_test.writable("here", lambda: tmp_path).state == OK
    assert not list(tmp_path.iterdir())


def test_a_released_candidate_satisfies_its_bound() -> None:
    assert not under_test.fault(Requirement("numpy>=0.1"))
    assert under_test.interpreter(SpecifierSet(">=3.11")).state == OK


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("tr", "train"), ("doctor --js", "--json"), ("train --noi", "--noise"), ("keys ", "new")],
)
def test_a_shell_completes_commands_and_options(typed: str, expected: str) -> None:
    words = f"secagg {typed}".split(" ")
    done = subprocess.run(
        [sys.executable, "-c", "import secagg.cli.main as m; m.main()"],
        env=os.environ
        | {"_SECAGG_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words)}
        | {"COMP_CWORD": str(len(words) - 1)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"plain,{expected}" in done.stdout.splitlines(), done.stderr
