"""``secagg train``: train a model over clients, and watch it."""

import json
import os
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from secagg.cli.screen import PLACE, on_screen, progress, screen
from secagg.errors import InputError
from secagg.extras import TRAIN, require
from secagg.stage import UNSIGNED
from secagg.training.runs import shown
from secagg.training.settings import TrainingConfig

if TYPE_CHECKING:
    from dp.ledger.ledger import HeadSigner

NOTHING = 4  # the exit code of a run in which every round was lost

F = TypeVar("F", bound=Callable[..., Any])


def _settings(command: F) -> F:
    """One option a field of ``TrainingConfig`` that a command line can hold."""
    kinds = TrainingConfig.kinds()
    for item in reversed([each for each in fields(TrainingConfig) if "help" in each.metadata]):
        option = click.option(
            f"--{item.name.replace('_', '-')}",
            item.name,
            type=kinds[item.name],
            default=item.default,
            show_default=item.default is not None,
            help=item.metadata["help"],
        )
        command = option(command)
    return command


@click.command(
    epilog="""\b
Examples:
  secagg train
  secagg train --epsilon 2 --rounds 50 --out runs/strict
  secagg train --partition dirichlet:0.3 --dropout 0.3 --json
  secagg train --out runs/strict --resume

Exit codes: 0 trained, 2 bad input, 4 nothing was ever opened: every round was lost.
"""
)
@_settings
@click.option(
    "--out",
    type=PLACE,
    default=Path("runs/train"),
    show_default=True,
    help="Folder of the run.",
)
@click.option(
    "--config",
    type=PLACE,
    default=None,
    help="TOML file of these settings; options given here win over it.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@click.option(
    "--seal", type=PLACE, help="Private key of secagg keys new that signs the ledger's head."
)
@click.option("--json", "as_json", is_flag=True, help="Print the final record alone, as JSON.")
@click.pass_context
def train(
    context: click.Context,
    /,
    out: Path,
    config: Path | None,
    seal: Path | None,
    resume: bool,  # noqa: FBT001  # click hands flags in by name
    overwrite: bool,  # noqa: FBT001  # the same
    as_json: bool,  # noqa: FBT001  # the same
    **settings: Any,
) -> int:
    """Train a model over clients that show their updates to nobody.

    Each client adds a share of noise to what it computed on its own examples, and only
    the sum of all of them is ever opened. The run's folder holds the model, the privacy
    ledger, the measurements, report.html and audit.html.
    """
    # Models this small gain nothing from a second thread; on a busy machine one was 5 times faster.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    require("secagg train", *TRAIN, extra="train")
    from secagg.training import loop  # torch takes seconds to import; --help should not

    given = {
        name: value
        for name, value in settings.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    if resume and (overwrite or config):
        raise InputError("--resume takes the run's settings; leave out --overwrite, --config")
    signer = _signer(seal)
    if resume:
        trainer = loop.resume(out, expect=given, seal=signer)
    else:
        chosen = TrainingConfig.parse((_read(config) if config else {}) | given)
        if chosen.noise == "none" and (of_noise := sorted({"epsilon", "delta"} & given.keys())):
            raise InputError(f"{of_noise[0]} is about noise, and noise is none; leave one out")
        if chosen.noise == "none" and (said := sorted({"purpose", "organisation"} & given.keys())):
            raise InputError(
                f"{said[0]} stands in the ledger, and a run without noise has none; leave it out"
            )
        trainer = loop.start(chosen, out, overwrite=overwrite, seal=signer)

    lines = screen(stderr=as_json)
    if not as_json:
        lines.print(trainer.headline)
    with progress() as bar:
        task = bar.add_task("rounds", total=trainer.config.rounds, completed=trainer.done)
        for record in trainer:
            if not as_json:
                (
                    bar.console if on_screen(stderr=True) and on_screen(stderr=False) else lines
                ).print(_line(record, trainer.config), highlight=False)
            bar.advance(task)
        final = trainer.finish()
    if as_json:
        click.echo(json.dumps(final))
    else:
        for line in trainer.closing_lines(final):
            lines.print(line)
    return 0 if trainer.opened else NOTHING


def _signer(path: Path | None) -> "HeadSigner | None":
    from secagg.audit import signer
    from secagg.nodes.identities import load_identity

    return None if path is None else signer(load_identity(path).key)


def _line(record: dict[str, Any], config: TrainingConfig) -> str:
    """What somebody who watches wants to know of a round."""
    head = f"{record['round']:3d}/{config.rounds}  "
    people = f"{record['survivors']:3d}/{config.clients} clients  "
    if record["lost"]:
        return f"{head}round lost: {people.strip()} left, too few; nothing was opened"
    milliseconds = "  ".join(
        f"{stage} {record['milliseconds'][stage]:.0f}" for stage in ("train", *UNSIGNED)
    )
    epsilon = "" if record["epsilon"] is None else f"  epsilon by RDP {record['epsilon']:.2f}"
    return (
        f"{head}{shown(record)}  {people}"
        f"up {kilobytes(record['bytes_up'])}  down {kilobytes(record['bytes_down'])}  "
        f"ms: {milliseconds}{epsilon}"
    )


def kilobytes(count: float) -> str:
    """1234 -> 1.2 kB."""
    return f"{count / 1000:.1f} kB"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}") from error
