"""What commands share: the option for JSON, paths, tables that never cut a number, a bar.

Streams may be closed: whoever starts a command from a daemon or ``2>&-`` gives it none.
"""

import os
import stat
import sys
import time
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON object alone.")
_NARROWEST: Final = 20  # columns; what says it has fewer, such as COLUMNS=0, has no screen
_WIDEST: Final = 1000  # columns, in which every table has room
EVERY: Final = 10.0  # seconds from one line of progress to the next, where there is no bar


class Place(click.ParamType[Path]):
    """A path that can be: not empty, no zero byte."""

    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        text = str(value)
        if not text or "\0" in text:
            self.fail(f"{text!r} is no path", param, ctx)
        return Path(text)


class _OutFile(Place):
    """A file that can be written, or is refused before minutes of work and not after."""

    name = "file"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        path = super().convert(value, param, ctx)
        if not path.parent.is_dir():
            self.fail(f"there is no folder {str(path.parent)!r}", param, ctx)
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            self.fail(f"{str(path)!r} is no regular file; name another", param, ctx)
        return path


PLACE: Final = Place()
OUT_FILE: Final = _OutFile()


class Screen(Console):
    """A console that is as wide as its tables need: words wrap, numbers are whole."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; a table's columns that may not wrap are never cut."""
        for table in objects:
            if isinstance(table, Table):
                room = self.options.update(max_width=_WIDEST)
                self.width = max(self.width, Measurement.get(self, room, table).minimum)
        super().print(*objects, **options)


def screen(*, stderr: bool = False, width: int = _NARROWEST) -> Screen:
    """The console of a command, at least ``width`` columns wide."""
    made = Screen(stderr=stderr, highlight=False, soft_wrap=True, markup=False)
    made.width = max(made.width, width)
    return made


def on_screen(*, stderr: bool) -> bool:
    """Whether somebody may be watching that stream."""
    stream = sys.stderr if stderr else sys.stdout
    return stream is not None and hasattr(stream, "isatty") and stream.isatty()


class _Lines(Progress):
    """A bar where there is a screen; where there is none, a line every ten seconds."""

    def __init__(self, *columns: Any) -> None:
        self._said = time.monotonic()
        super().__init__(
            *columns,
            console=Console(stderr=True),
            disable=not on_screen(stderr=True),
            transient=True,
        )

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Update the bar, or say a line if one is due."""
        super().update(task_id, **changes)
        self._say(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Take a step, or say a line if one is due."""
        super().advance(task_id, advance)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        now = time.monotonic()
        if not self.disable or now - self._said < EVERY:
            return
        self._said = now
        task = self._tasks[task_id]
        total = "" if task.total is None else f" of {task.total:.0f}"
        click.echo(f"secagg: {task.description}: {task.completed:.0f}{total}", err=True)


def progress(*, elapsed: bool = False) -> Progress:
    """A bar on stderr, or lines where that is no screen; ``elapsed`` where no rest can be told."""
    return _Lines(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn() if elapsed else TimeRemainingColumn(),
    )
