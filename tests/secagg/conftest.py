"""The command ``secagg`` for the tests of every room that has a word of it."""

import math
import sys
from collections.abc import Callable

import pytest

from secagg.cli import main as cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def secagg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``secagg ...`` in this process, on a terminal of 120 columns: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["secagg", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr("secagg.cli.screen.EVERY", math.inf)  # a slow machine has more to say
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run
