"""``secagg invite``: tokens of nodes, made, taken back and listed."""

import json
from pathlib import Path

import click

from secagg.cli.screen import JSON, PLACE


@click.command(
    epilog="""\b
Examples:
  secagg invite hospital-1 hospital-2 --config server.toml
  secagg invite hospital-1 --config server.toml            another token; the last one is void
  secagg invite --revoke hospital-1 --config server.toml
  secagg invite --config server.toml --json                who may join

A token is shown once, and the server keeps its hash. Send it on a way that nobody else reads. A
server that is running knows of it at once.
"""
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--config", "path", type=PLACE, required=True, help="The server's file of settings.")
@click.option("--revoke", is_flag=True, help="Make the tokens of these nodes void.")
@JSON
def invite(*, names: tuple[str, ...], path: Path, revoke: bool, as_json: bool) -> None:
    """Give nodes their tokens, take them back, or list who may join."""
    from secagg.adapters.http.settings import read_settings
    from secagg.adapters.http.store import Store
    from secagg.errors import InputError

    if revoke and not names:
        raise InputError("--revoke needs the names of nodes")
    settings, _ = read_settings(path)
    with Store(settings.state) as store:
        if revoke:
            for name in names:
                store.revoke(name)
            said = dict.fromkeys(names, "revoked")
        elif names:
            said = {name: store.invite(name) for name in names}
        else:
            members = store.members()
            said = {each.name: "may join" if each.joins else "revoked" for each in members}
    if as_json:
        click.echo(json.dumps(said))
        return
    for name, value in said.items():
        click.echo(f"{name} {value}")
