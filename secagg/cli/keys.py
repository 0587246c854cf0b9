"""``secagg keys new | show | roster``: identities against a server that may lie."""

import json
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from secagg.cli.screen import JSON, OUT_FILE, PLACE, screen
from secagg.errors import InputError
from secagg.files import read_file, write_new
from secagg.nodes.identities import (
    LARGEST_ROSTER,
    PublicIdentity,
    Roster,
    create_identity,
    fingerprint,
    load_identity,
    load_public,
    sign_roster,
)

_PATH = PLACE


@click.group(
    epilog="""\b
In this order:
  secagg keys new hospital-1.key --name hospital-1     at each node, which sends away the .pub
  secagg keys new operator.key --name operator         at somebody's who is not the server
  secagg keys show hospital-1.key.pub                  there: compare with the node's own
  secagg keys roster --operator operator.key --out roster.json hospital-*.key.pub
  secagg keys show roster.json --operator operator.key.pub         at each node
""",
)
def keys() -> None:
    """Make identities, and sign which client has which.

    Against a server that may lie, clients sign. The operator, who is not the server, says whose
    signature counts. If the server chose the identities, it could impersonate every client except
    the victim.

    Who keeps a privacy ledger signs it with such a key too: see `secagg ledger seal`.
    """


@keys.command(
    epilog="""\b
Examples:
  secagg keys new hospital-1.key --name hospital-1
  secagg keys new operator.key --name operator --json
"""
)
@click.argument("path", type=_PATH)
@click.option("--name", required=True, help="Name of the identity: 1 to 64 of A-Z a-z 0-9 . _ -")
@JSON
def new(*, path: Path, name: str, as_json: bool) -> None:
    """Make a private key in PATH, and its public half in PATH.pub. Nothing is overwritten."""
    shown = create_identity(path, name).shown
    if as_json:
        click.echo(json.dumps({"kind": "private key", "path": str(path)} | _values(shown)))
        return
    _print_key(shown)
    click.echo(f"{path} stays here: whoever reads it signs as {name}.")
    click.echo(
        f"Give {path}.pub to whoever checks what {name} signs, and compare the fingerprint by "
        "telephone: of a client or server, the operator; of the operator, every node; of a "
        "ledger's keeper, its auditor."
    )


@keys.command(
    epilog="""\b
Examples:
  secagg keys show hospital-1.key
  secagg keys show hospital-1.key.pub --json
  secagg keys show roster.json --operator operator.key.pub
"""
)
@click.argument("path", type=_PATH)
@click.option("--operator", type=_PATH, help="Public key that must have signed the roster.")
@JSON
def show(*, path: Path, operator: Path | None, as_json: bool) -> None:
    """Check a private key, a public key or a roster, and print all but the secret."""
    data = read_file(path, LARGEST_ROSTER)
    if data.startswith(b"{"):
        by = load_public(operator) if operator else Roster.claimed_operator(data)
        found = Roster.read(data, operator=by.public)
        _print_roster(path, found, verified=operator is not None, as_json=as_json)
        return
    if operator is not None:
        raise InputError(f"{path} is no roster: leave out --operator")
    private = data.startswith(b"secagg identity ")
    shown = load_identity(path).shown if private else load_public(path)
    if as_json:
        kind = "private key" if private else "public key"
        click.echo(json.dumps({"kind": kind, "path": str(path)} | _values(shown)))
        return
    _print_key(shown)
    click.echo(
        "A private key, which nobody else may read."
        if private
        else f"A public key: {shown.name}'s, if they read you the same fingerprint."
    )


@keys.command(
    epilog="""\b
Examples:
  secagg keys roster --operator operator.key --out roster.json a.key.pub b.key.pub c.key.pub
  secagg keys roster --operator operator.key --after roster.json --out new.json ?.key.pub

Numbers are dealt out from 0 in the order of the files. A roster's serial is 1, or one above that
of --after: nodes that have seen a serial refuse lower ones.
"""
)
@click.argument("members", nargs=-1, required=True, type=_PATH, metavar="PATH.pub...")
@click.option("--operator", type=_PATH, required=True, help="Private key that signs.")
@click.option(
    "--out",
    type=OUT_FILE,
    required=True,
    help="File to write the roster to; it must not be there yet.",
)
@click.option("--after", type=_PATH, help="Roster that the new one replaces.")
@click.option("--serial", type=int, help="Serial number, in place of one above --after.")
@JSON
def roster(
    *,
    members: tuple[Path, ...],
    operator: Path,
    out: Path,
    after: Path | None,
    serial: int | None,
    as_json: bool,
) -> None:
    """Sign which client number has which identity. Compare every fingerprint first."""
    signer = load_identity(operator)
    last = Roster.read(after, operator=signer.key.public).serial if after else 0
    if serial is not None and serial <= last:
        raise InputError(f"--serial is {serial}, must be above {last}, that of the roster there")
    data = sign_roster(
        signer, dict(enumerate(map(load_public, members))), serial=serial or last + 1
    )
    signed = Roster.read(data, operator=signer.key.public)
    write_new(out, data)
    _print_roster(out, signed, verified=True, as_json=as_json)


def _values(shown: PublicIdentity) -> dict[str, Any]:
    return {
        "name": shown.name,
        "public": shown.public.hex(),
        "fingerprint": fingerprint(shown.public),
    }


def _print_key(shown: PublicIdentity) -> None:
    for word, value in _values(shown).items():
        click.echo(f"{word:11}  {value}")


def _print_roster(path: Path, roster: Roster, *, verified: bool, as_json: bool) -> None:
    if as_json:
        values = {
            "kind": "roster",
            "path": str(path),
            "serial": roster.serial,
            "digest": roster.digest.hex(),
            "verified": verified,
            "operator": _values(roster.operator),
            "members": [
                {"number": number} | _values(member) for number, member in roster.members.items()
            ],
        }
        click.echo(json.dumps(values))
        return
    out = screen()
    table = Table(title=f"{path}: roster {roster.serial}", title_justify="left")
    table.add_column("number", justify="right")
    table.add_column("name", overflow="fold")
    table.add_column("fingerprint", min_width=35)
    for number, member in roster.members.items():
        table.add_row(str(number), member.name, fingerprint(member.public))
    out.print(table)
    name, print_ = roster.operator.name, fingerprint(roster.operator.public)
    out.print(f"digest: {roster.digest.hex()}")
    out.print(
        f"Signed by {name}, fingerprint {print_}."
        if verified
        else f"NOT VERIFIED: it calls its operator {name}, fingerprint {print_}. Anybody can make "
        "a roster that says so; --operator checks it against the key that you were told."
    )
