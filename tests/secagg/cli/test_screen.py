"""What commands share: paths, tables and bars on screens that are narrow, closed or none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from secagg.cli import screen as screens
from secagg.cli.screen import on_screen, progress, screen

COMMAND = (sys.executable, "-c", "from secagg.cli.main import main; main()")
EPSILON = ("epsilon", "--noise-multiplier", "1", "--steps", "10", "--delta", "1e-5")


@pytest.mark.parametrize("columns", ["0", "1", "20", "24", "-5", "abc"])
def test_numbers_are_whole_on_every_width(columns: str) -> None:
    wide = subprocess.run(
        [*COMMAND, *EPSILON], env=os.environ | {"COLUMNS": "200"}, capture_output=True, check=True
    )
    narrow = subprocess.run(
        [*COMMAND, *EPSILON], env=os.environ | {"COLUMNS": columns}, capture_output=True, check=True
    )
    numbers = [word for word in wide.stdout.decode().split() if word[:1].isdigit()]
    assert len(numbers) >= 2
    for number in numbers:
        assert number in narrow.stdout.decode()


def test_columns_that_may_not_wrap_make_the_screen_wider(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table("name", "number")
    table.columns[1].no_wrap = True
    table.add_row("a name of several words", "1234567890.1234567890")
    out = screen()
    out.width = 5
    out.print(table)
    assert "1234567890.1234567890" in capsys.readouterr().out


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_stream_ends_no_command(closed: int, tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}>&-', "sh", *COMMAND, *EPSILON],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


def test_no_stream_is_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert not on_screen(stderr=True)
    with progress() as bar:
        bar.advance(bar.add_task("rounds", total=2))


def test_without_a_screen_a_line_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screens, "EVERY", 0.0)
    with progress() as bar:
        task = bar.add_task("rounds", total=3)
        bar.advance(task)
        bar.update(task, completed=2)
    assert capsys.readouterr().err.splitlines() == [
        "secagg: rounds: 1 of 3",
        "secagg: rounds: 2 of 3",
    ]
