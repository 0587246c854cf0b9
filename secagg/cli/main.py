"""The command line: ``secagg train``, ``plan``, ``epsilon``, ``audit``, ``bench`` and the like.

Errors are one line on stderr. Exit codes: 0 done, 2 bad input or a run that
cannot go on, 130 interrupted; ``audit`` and ``bench attack`` have more, see their modules.
"""

import json
import os
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dp.errors import PrivacyError
from protocols.errors import ProtocolError
from secagg.cli.attack import attack
from secagg.cli.audit import audit
from secagg.cli.bench import bench
from secagg.cli.keys import keys
from secagg.cli.node import node
from secagg.cli.plan import plan
from secagg.errors import ConfigError, SecaggError
from secagg.rounds.aggregation import PROTOCOL_NAMES
from secagg.stage import UNSIGNED
from secagg.training.settings import PRIVACY, TrainingConfig

if TYPE_CHECKING:
    from dp.accounting.events import GaussianEvent, Sampling

F = TypeVar("F", bound=Callable[..., Any])


def main() -> None:
    """Entry point of the ``secagg`` command."""
    try:
        code = cli.main(prog_name="secagg", standalone_mode=False)
    except click.exceptions.Abort:
        _fail("interrupted; `--resume` goes on from the last finished round", 130)
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


cli.add_command(audit)
cli.add_command(node)
cli.add_command(keys)
cli.add_command(bench)
cli.add_command(plan)
bench.add_command(attack)

_CHOSEN = "  [default: chosen for the privacy mode]"
_HELP = {
    "data": "Data set: digits, breast-cancer, fashion-mnist (after make data).",
    "clients": "Number of clients.",
    "rounds": f"Rounds of training.{_CHOSEN}",
    "split": "How examples are dealt out: iid, or dirichlet:ALPHA for clients that differ.",
    "dropout": "Probability that a client vanishes in a round, at a random stage.",
    "threshold": "Shares that open a sum.  [default: a majority of the clients]",
    "minimum_survivors": "Clients refuse to open a sum of fewer.  [default: the threshold; where "
    "noise is shared out, the most that lose a round in few runs]",
    "corrupt": "Clients whose share of the noise counts for nothing.",
    "protocol": f"One of: {', '.join(PROTOCOL_NAMES)}. plain hides nothing.",
    "privacy": f"One of: {', '.join(PRIVACY)}. client hides a client, the others an example.",
    "epsilon": "Privacy budget of each example, or client, over the whole training.",
    "delta": "Probability with which the budget may fail; below one over the number of examples.",
    "clip": f"L2 bound on one example's gradient; of client the first one on an update.{_CHOSEN}",
    "bits": f"Bits a quantised entry has; where noise is shared out, its sum.{_CHOSEN}",
    "learning_rate": f"Size of a step.{_CHOSEN}",
    "local_steps": f"Steps of a client a round.{_CHOSEN}",
    "sampling_rate": "Probability that an example is in a batch.",
    "participation": "Probability that a client, by its own secret coin, brings its update.",
    "seed": "Of data split, initialisation and simulated dropouts; never of keys or noise.",
    "judge": "Accuracy on: test, or validation for choosing settings.",
}


def _settings(command: F) -> F:
    """One option a field of ``TrainingConfig``."""
    kinds = TrainingConfig.kinds()
    for item in reversed(fields(TrainingConfig)):
        option = click.option(
            f"--{item.name.replace('_', '-')}",
            item.name,
            type=kinds[item.name],
            default=item.default,
            show_default=item.default is not None,
            help=_HELP[item.name],
        )
        command = option(command)
    return command


@cli.command(
    epilog="""\b
Examples:
  secagg train
  secagg train --epsilon 2 --rounds 50 --out runs/strict
  secagg train --split dirichlet:0.3 --dropout 0.3 --json
  secagg train --out runs/strict --resume
"""
)
@_settings
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/train"),
    show_default=True,
    help="Folder of the run.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=None,
    help="TOML file of these settings; options given here win over it.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the final record alone, as JSON.")
@click.pass_context
def train(
    context: click.Context,
    /,
    out: Path,
    config: Path | None,
    resume: bool,  # noqa: FBT001  # click hands flags in by name
    overwrite: bool,  # noqa: FBT001  # the same
    as_json: bool,  # noqa: FBT001  # the same
    **settings: Any,
) -> None:
    """Train a model over clients that show their updates to nobody.

    Each client adds a share of noise to what it computed on its own examples, and only
    the sum of all of them is ever opened. The run's folder holds the model, the privacy
    ledger, the measurements, report.html and audit.html.
    """
    # Models this small gain nothing from a second thread; on a busy machine one was 5 times faster.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from secagg.training.loop import Training  # torch takes seconds to import; --help should not

    given = {
        name: value
        for name, value in settings.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    if resume and (overwrite or config):
        raise ConfigError("--resume goes on with the settings of the run; leave out the others")
    if resume:
        training = Training.resume(out, expect=given)
    else:
        chosen = TrainingConfig.parse((_read(config) if config else {}) | given)
        training = Training.start(chosen, out, overwrite=overwrite)

    lines = Console(stderr=as_json, highlight=False, soft_wrap=True)
    if not as_json:
        lines.print(training.headline)
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        task = bar.add_task("rounds", total=training.config.rounds, completed=training.done)
        for record in training:
            if not as_json:
                (bar.console if sys.stderr.isatty() and sys.stdout.isatty() else lines).print(
                    _line(record, training.config), highlight=False
                )
            bar.advance(task)
        final = training.finish()
    if as_json:
        click.echo(json.dumps(final))
    else:
        for line in training.closing_lines(final):
            lines.print(line)


@cli.command(
    "epsilon",
    epilog="""\b
Examples:
  secagg epsilon --noise-multiplier 1.1 --sampling-rate 0.01 --steps 1000 --delta 1e-5
  secagg epsilon --event 1.1,0.01,1000 --event 2,0.05,100 --delta 1e-5 --json
  secagg epsilon --epsilon 2 --sampling-rate 0.05 --steps 100 --delta 1e-5
  secagg epsilon --epsilon 2 --noise-multiplier 1.5 --sampling-rate 0.05 --delta 1e-5
""",
)
@click.option("--noise-multiplier", type=float, help="Deviation of the noise over the clip.")
@click.option(
    "--sampling-rate",
    type=float,
    help="Probability that an example is in a batch, by its own secret coin.  [default: 1, all]",
)
@click.option("--steps", type=int, help="How many noisy sums are released.")
@click.option("--epsilon", type=float, help="Privacy budget, to be turned into noise or steps.")
@click.option(
    "--delta", type=float, required=True, help="Below one over the number of examples, by far."
)
@click.option(
    "--event",
    "events",
    metavar="Z,Q,T",
    multiple=True,
    help="T steps with noise multiplier Z at sampling rate Q; may be repeated.",
)
@click.option(
    "--interval",
    type=float,
    default=1e-4,
    show_default=True,
    help="To which PLD rounds losses up; 1e-3 is faster and a little higher.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone; null: no finite answer.")
def epsilon_command(
    *,
    noise_multiplier: float | None,
    sampling_rate: float | None,
    steps: int | None,
    epsilon: float | None,
    delta: float,
    events: tuple[str, ...],
    interval: float,
    as_json: bool,
) -> None:
    """What a plan costs, or how much noise or how many steps a budget allows.

    Give two of --epsilon, --noise-multiplier and --steps; the third is the answer.
    Or give whole plans with --event. It holds for one example more or less, Gaussian
    noise on sums of clipped contributions, and settings that were fixed in advance.
    """
    from dp.accounting import (
        calibrate,  # numpy, and dp-accounting when asked, take their time to import
    )
    from dp.accounting.accountant import epsilon_pld, epsilon_rdp

    given = {"epsilon": epsilon, "noise multiplier": noise_multiplier, "steps": steps}
    wanted = [name for name, value in given.items() if value is None]
    rate = 1.0 if sampling_rate is None else sampling_rate
    plan: dict[str, Any] = {"sampling": _sampling(rate), "delta": delta}
    rdp: float
    pld: float
    if events or wanted == ["epsilon"]:
        if events and (len(wanted) < len(given) or sampling_rate is not None):
            raise ConfigError("--event says the whole plan; leave out the other settings of it")
        composition = [(event, 1) for event in map(_event, events)]
        if not events:
            composition = [(_gaussian(noise_multiplier, rate, steps), 1)]
        wanted = ["epsilon"]
        rdp = epsilon_rdp(composition, delta)
        pld = epsilon_pld(composition, delta, interval)
    elif wanted == ["noise multiplier"]:
        plan |= {"epsilon": epsilon, "steps": steps}
        rdp = calibrate.noise_multiplier(**plan)
        pld = calibrate.noise_multiplier(**plan, accountant="pld", interval=interval)
    elif wanted == ["steps"]:
        plan |= {"epsilon": epsilon, "noise_multiplier": noise_multiplier}
        rdp = calibrate.most_steps(**plan)
        pld = calibrate.most_steps(**plan, accountant="pld", interval=interval)
    else:
        raise ConfigError(
            "give two of --epsilon, --noise-multiplier and --steps, or --event; "
            f"of the three you gave {len(given) - len(wanted)}"
        )
    question = wanted[0]
    if as_json:
        answers = {"rdp": rdp, "pld": pld}
        head = {"question": question.replace(" ", "_"), "delta": delta, "interval": interval}
        click.echo(
            json.dumps(
                head | {name: x if x < float("inf") else None for name, x in answers.items()},
                allow_nan=False,
            )
        )
        return
    table = Table(title=f"{_TITLES[question]} at delta {delta:g}", title_justify="left")
    for heading in ("accountant", question, "what it is"):
        table.add_column(heading, justify="right" if heading == question else "left")
    for name, value, words in zip(("RDP", "PLD"), (rdp, pld), _WORDS[question], strict=True):
        finite = value < float("inf")
        table.add_row(
            name,
            _rounded_up(value) if finite else "none",
            words if finite else "no finite bound at this delta",
        )
    Console(highlight=False).print(table)


_TITLES = {
    "epsilon": "epsilon",
    "noise multiplier": "least noise multiplier",
    "steps": "most steps",
}
_WORDS = {
    "epsilon": (
        "an upper bound; the ledger admits by it",
        "an upper bound, tighter; a report prints it",
    ),
    "noise multiplier": (
        "enough by an upper bound; the ledger admits the whole plan",
        "enough by a tighter bound; the ledger would stop the plan early",
    ),
    "steps": (
        "within budget by an upper bound; the ledger admits them all",
        "within budget by a tighter bound; the ledger would stop earlier",
    ),
}


def _event(text: str) -> "GaussianEvent":
    """An event from Z,Q,T."""
    try:
        noise, rate, steps = text.split(",")
        return _gaussian(float(noise), float(rate), int(steps))
    except ValueError as error:
        raise ConfigError(f"--event {text!r} is not Z,Q,T: {error}") from error


def _gaussian(noise: Any, rate: float, steps: Any) -> "GaussianEvent":
    from dp.accounting.events import GaussianEvent

    return GaussianEvent(noise_multiplier=noise, sampling=_sampling(rate), steps=steps)


def _sampling(rate: float) -> "Sampling":
    from dp.accounting.events import NoSampling, PoissonSampling

    sampling = PoissonSampling(rate=rate)  # which checks it
    return sampling if sampling.rate < 1 else NoSampling()


def _rounded_up(value: float) -> str:
    """Five digits that never flatter: noise, epsilon and whole steps alike."""
    if isinstance(value, int):
        return str(value)
    return f"{Context(prec=5, rounding=ROUND_CEILING).create_decimal(value):f}"


def _line(record: dict[str, Any], config: TrainingConfig) -> str:
    """What somebody who watches wants to know of a round."""
    head = f"{record['round']:3d}/{config.rounds}  "
    people = f"{record['survivors']:3d}/{config.clients} clients  "
    if record["lost"]:
        return f"{head}round lost: {people.strip()} left, too few; nothing was opened"
    milliseconds = "  ".join(
        f"{stage} {record['milliseconds'][stage]:.0f}" for stage in ("train", *UNSIGNED)
    )
    epsilon = "" if record["epsilon"] is None else f"  epsilon {record['epsilon']:.2f}"
    return (
        f"{head}accuracy {record['accuracy']:.3f}  {people}"
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
        raise ConfigError(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
