"""``secagg interop``: another implementation of the masks' protocol, tested against ours.

Exit codes of ``fuzz``: 0 no difference, 1 a difference, 2 bad input.
"""

import json
import shlex
import sys

import click
from rich.console import Console
from rich.table import Table

from secagg.cli.screen import JSON, progress
from secagg.interop import ForeignPeer, Report, fuzz, serve
from secagg.interop.play import SETTINGS

DIFFERENCE = 1  # bad input is 2, as everywhere
SHOWN = 300  # characters of an answer on screen; --json has it whole


@click.group()
def interop() -> None:
    """Test another implementation of the masks' protocol against this one.

    Write a peer: a program that answers one line of JSON with one line. docs/protocols/interop.md
    has every request, docs/protocols/bonawitz.md the protocol.
    """


@interop.command(
    epilog="""\b
Examples:
  echo '{"op": "hello"}' | secagg interop peer
  secagg interop peer < requests.jsonl > answers.jsonl
  secagg interop fuzz --peer "secagg interop peer"
"""
)
def peer() -> None:
    """Our side: requests on standard input, answers on standard output, one a line.

    Whatever a line holds, it gets an answer. All keys are those that a request brings: for tests
    alone.
    """
    serve(sys.stdin.buffer, sys.stdout.buffer)


@interop.command(
    name="fuzz",
    epilog=f"""\b
Examples:
  secagg interop fuzz --peer "node mypeer.mjs"
  secagg interop fuzz --peer "node mypeer.mjs" --rounds 600 --seed 1000
  secagg interop fuzz --peer ./mypeer --seed 17 --rounds 1 --json > found.json
  jq -c '.first.requests[]' found.json | ./mypeer

\b
Exit codes: 0 no difference, 1 a difference, 2 bad input.
Round S is of setting S modulo {len(SETTINGS)}: {len(SETTINGS)} rounds are one of each.
""",
)
@click.option(
    "--peer", "command", required=True, metavar="COMMAND", help="Program that answers requests."
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=len(SETTINGS),
    show_default=True,
    help="Rounds to play, each with changed messages.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the first round; the next round has the next one.",
)
@JSON
def fuzz_(*, command: str, rounds: int, seed: int, as_json: bool) -> int:
    """Play rounds with both sides, and compare every answer.

    Both get the same entropy, so that every message has to be the same byte for byte; a changed
    message both have to accept, with the same bytes, or to refuse at the same layer.
    """
    with ForeignPeer(command) as theirs, progress() as bar:
        roles = theirs.hello()
        task = bar.add_task("", total=rounds)

        def told(setting: str, report: Report) -> None:
            said = f"{setting}: {report.comparisons:,} compared, {report.differences:,} differ"
            bar.update(task, description=said, completed=report.rounds)

        report = fuzz(theirs, roles=roles, seed=seed, rounds=rounds, told=told)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        _print(report, command)
    return DIFFERENCE if report.differences else 0


def _print(report: Report, command: str) -> None:
    out = Console(highlight=False, soft_wrap=True, markup=False)
    table = Table(title=f"{report.rounds:,} rounds from seed {report.seed}", title_justify="left")
    table.add_column("setting")
    table.add_column("compared", justify="right")
    for setting, comparisons in report.settings.items():
        table.add_row(setting, f"{comparisons:,}")
    out.print(table)
    out.print(
        f"{report.comparisons:,} answers compared in {report.seconds:.1f} s: "
        f"{report.accepted:,} accepted by both with the same bytes, "
        f"{report.refused:,} refused by both at the same layer, {report.differences:,} different"
        + (f", {report.layers:,} of them in the layer of a refusal alone" * (report.layers > 0))
    )
    if (first := report.first) is None:
        return
    out.print(f"One of them, in a round of setting {first.setting!r}: {first.about}")
    out.print(f"  ours:   {json.dumps(first.ours)[:SHOWN]}")
    out.print(f"  theirs: {json.dumps(first.theirs)[:SHOWN]}")
    if report.ended is not None:
        out.print("The peer was asked nothing after that.")
    again = f"secagg interop fuzz --peer {shlex.quote(command)} --seed {first.seed} --rounds 1"
    out.print(f"Again: {again}")
    out.print("Its requests, to send to the peer by hand: --json, in first.requests")
