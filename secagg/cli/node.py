"""``secagg node new | show``: the folder in which a node keeps its own say."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from secagg.cli.screen import JSON, PLACE

_PATH = PLACE


@click.group(
    epilog="""\b
Examples:
  secagg node new /srv/secagg            then edit /srv/secagg/policy.toml
  secagg node show /srv/secagg
  flower-supernode --node-config 'secagg-home="/srv/secagg"' ...
""",
)
def node() -> None:
    """Say what a node agrees to, and see what it has spent.

    A node that sums with others, for example over Flower, keeps in one folder its policy, its
    privacy ledger and its burn records: notes of what it answered, so that it answers nothing
    twice. It refuses what the policy does not allow.
    """


@node.command(epilog="\b\nExample:\n  secagg node new /srv/secagg\n")
@click.argument("home", type=_PATH)
def new(*, home: Path) -> None:
    """Make the folder HOME with a policy to edit. Nothing is overwritten."""
    from secagg.nodes.node import new_folder

    click.echo(
        f"Edit {new_folder(home) / 'policy.toml'}; as it is, it agrees to sums without noise "
        "(allow_no_noise)."
    )
    click.echo("Never copy the folder back from a backup: it keeps what must not be rolled back.")


@node.command(
    epilog="\b\nExamples:\n  secagg node show /srv/secagg\n  secagg node show HOME --json\n"
)
@click.argument("home", type=_PATH)
@JSON
def show(*, home: Path, as_json: bool) -> None:
    """Check the policy in HOME, and print it with what the node has spent."""
    from secagg.nodes.node import SUBJECT, Node

    here = Node(home)
    said: dict[str, Any] = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in asdict(here.policy).items()
    }
    said["corrupt_fraction"] = float(said["corrupt_fraction"])
    said["filter"] = here.policy.filter
    said |= {"sums": 0, "spent": 0.0}
    if (path := home / "ledger.sqlite").exists():
        from dp.ledger.ledger import Ledger

        with Ledger.open(path, here.policy.budget, read_only=True) as ledger:
            said["sums"] = len(ledger.reservations())
            spent = ledger.filter_of(SUBJECT)
            said["spent"] = 0.0 if spent is None else spent.share
    if as_json:
        click.echo(json.dumps(said))
        return
    for name, value in said.items():
        if isinstance(value, dict):
            value = tuple(f"{metric} {most:g}" for metric, most in value.items())
        listed = ", ".join(value) if isinstance(value, tuple) else value
        shown = f"{value:.1%} of the budget" if name == "spent" else listed
        click.echo(f"{name:18}{'-' if shown is None else shown}")
