"""``secagg join``: a node of sums over HTTP."""

import logging
import signal
import sys
from pathlib import Path

import click

from secagg.cli.screen import PLACE
from secagg.extras import named


@click.command(
    epilog="""\b
Examples:
  secagg node new /srv/secagg          then edit policy.toml; put the token into /srv/secagg/token
  chmod 600 /srv/secagg/token
  secagg join https://sums.example.org:8443 --home /srv/secagg --program clinic:train

\b
clinic.py, in the current folder or installed:
  def train(model, proposal):
      ...                              named numpy arrays in, of the same names and shapes out
      return arrays, {"num-examples": 303, "loss": 0.41}
"""
)
@click.argument("url")
@click.option("--home", type=PLACE, required=True, help="Folder of the node, with its token.")
@click.option(
    "--program", required=True, metavar="MODULE:FUNCTION", help="Function that trains, once a sum."
)
def join(*, url: str, home: Path, program: str) -> None:
    """Take part in the sums of a server, out of a node's folder.

    It runs until it is stopped, or the server no longer knows its token. While the server is away
    it tries again. What it refuses is one line on stderr.
    """
    from secagg.adapters.http import join as join_server

    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("secagg")
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _stop)
    join_server(url, home, named("--program", program))


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
