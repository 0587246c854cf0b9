"""The command line: ``secagg train``, ``plan``, ``epsilon``, ``audit``, ``bench`` and the like.

Errors are one line on stderr. Exit codes: 0 done, 2 bad input or a run that
cannot go on, 130 interrupted; ``audit``, ``bench`` and ``interop fuzz`` have
more, see their modules.
"""

import sys
from importlib import import_module
from typing import Final

import click

from dp.errors import PrivacyError
from protocols.errors import ProtocolError
from secagg.errors import SecaggError

COMMANDS: Final = {  # each in a module of its name; the first line of its help
    "audit": "Compute anew what a privacy ledger proves.",
    "bench": "Measure what the protocols cost on this machine.",
    "doctor": "Say whether this machine has what sums need.",
    "epsilon": "Compute the epsilon, noise or steps of a plan.",
    "interop": "Test another implementation of the masks' protocol against this one.",
    "invite": "Give nodes their tokens, take them back, or list who may join.",
    "join": "Take part in the sums of a server, out of a node's folder.",
    "keys": "Make identities, and sign which client has which.",
    "ledger": "Sign a privacy ledger, print the end of its chain, check both.",
    "node": "Say what a node agrees to, and see what it has spent.",
    "plan": "Choose the parameters of a sum, and say its cost.",
    "serve": "Sum over HTTP, for nodes that join.",
    "train": "Train a model over clients that show their updates to nobody.",
}


def main() -> None:
    """Entry point of the ``secagg`` command."""
    try:
        code = cli.main(prog_name="secagg", standalone_mode=False)
    except click.exceptions.Abort:
        _fail("interrupted; `--resume`, where there is one, goes on", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (SecaggError, PrivacyError, ProtocolError, OSError) as error:
        _fail(str(error), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    click.echo(f"secagg: {' '.join(message.split())}", err=True)
    sys.exit(code)


class _Commands(click.Group):
    """Commands whose modules are imported when they are called, and not to list them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"secagg.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    epilog="""\b
Completion of a shell, for its start-up file:
  bash, zsh:  eval "$(_SECAGG_COMPLETE=bash_source secagg)", or zsh_source
  fish:       _SECAGG_COMPLETE=fish_source secagg | source
""",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="secagg", message="%(version)s")
def cli() -> None:
    """Sum model updates that nobody may see one by one."""
