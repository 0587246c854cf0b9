"""What commands share: the option for JSON, a bar while they work."""

import sys
from typing import Final

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON object alone.")


def progress(*, elapsed: bool = False) -> Progress:
    """A bar on stderr, where that is a screen; ``elapsed`` where the rest cannot be told."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn() if elapsed else TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
