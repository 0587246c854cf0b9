"""``secagg serve``: a server of sums over HTTP, by a file of settings."""

import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from secagg.cli.screen import JSON, PLACE
from secagg.errors import InputError
from secagg.extras import require


@click.command(
    epilog="""\b
Examples:
  secagg invite hospital-1 --config server.toml       a token for each node, first
  secagg serve --config server.toml
  secagg serve --config server.toml --json 2> server.log

docs/network.md has every line of server.toml. The log, a line of JSON for each event, goes to
stderr. An interrupted sum releases nothing; the next start goes on with the next one.
"""
)
@click.option(
    "--config", "path", type=PLACE, required=True, help="File of settings, such as server.toml."
)
@JSON
def serve(*, path: Path, as_json: bool) -> None:
    """Sum over HTTP, for nodes that join."""
    require("secagg serve", "starlette", "uvicorn", "httptools", extra="http")
    from secagg.adapters.http.settings import read_settings

    settings, plans = read_settings(path)
    if not plans:
        raise InputError(f"{path} has no [[sum]]: there is nothing to sum")
    from secagg.adapters.http.plans import run_plan
    from secagg.adapters.http.server import Server
    from secagg.adapters.http.watch import JsonLines

    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(JsonLines())
    for name, level in (("secagg", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logging.getLogger(name).addHandler(lines)
        logging.getLogger(name).setLevel(level)
    failures: list[BaseException] = []

    def run(plan: Any) -> None:
        try:
            run_plan(server, plan)
        except BaseException as error:  # noqa: BLE001  # raised again below, once all have ended
            failures.append(error)

    signal.signal(signal.SIGTERM, _stop)
    with Server(settings) as server:
        threads = [threading.Thread(target=run, args=(plan,), daemon=True) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = {plan.purpose: server.store.model(plan.purpose) for plan in plans}
    if failures:
        raise failures[0]
    sums = {purpose: kept[0] if kept else 0 for purpose, kept in done.items()}
    if as_json:
        click.echo(json.dumps({"sums": sums}))
        return
    for plan in plans:
        where = f", model in {plan.out}" if plan.out else ""
        click.echo(f"{plan.purpose}: {sums[plan.purpose]} sums{where}")


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
