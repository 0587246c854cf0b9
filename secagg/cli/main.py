"""The command line: ``secagg train``, ``plan``, ``epsilon``, ``audit``, ``bench`` and the like.

Errors are one line on stderr. Exit codes: 0 done, 2 bad input or a run that
cannot go on, 130 interrupted; ``audit``, ``bench`` and ``interop fuzz`` have
more, see their modules.
"""

import sys

import click

from dp.errors import PrivacyError
from protocols.errors import ProtocolError
from secagg.cli.attack import attack
from secagg.cli.audit import audit
from secagg.cli.bench import bench
from secagg.cli.epsilon import epsilon
from secagg.cli.interop import interop
from secagg.cli.keys import keys
from secagg.cli.ledger import ledger
from secagg.cli.node import node
from secagg.cli.plan import plan
from secagg.cli.train import train
from secagg.errors import SecaggError


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="secagg", message="%(version)s")
def cli() -> None:
    """Sum model updates that nobody may see one by one."""


for command in (train, plan, epsilon, audit, ledger, bench, interop, keys, node):
    cli.add_command(command)
bench.add_command(attack)
