"""``secagg bench attack``: attacks on this library, carried out; on screen, as JSON, as a page.

Exit codes: 0 done, 1 a bound passed the epsilon that a mechanism states, 2 bad input.
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from secagg.cli.screen import OUT_FILE, PLACE, progress, screen
from secagg.errors import InputError
from secagg.extras import TRAIN, require
from secagg.pages.numbers import bound, counted, duration, percent

if TYPE_CHECKING:
    from secagg.attacks.own import Own
    from secagg.attacks.suite import Found, Part

REFUTED: Final = 1  # bad input is 2, as everywhere
_NAMED: Final = {"json_file": "json", "modes": "mode"}  # options by their parameter
_PARTS: Final = ("membership", "audit", "canaries", "inversion")  # of secagg.attacks.suite


@click.command(
    epilog="""\b
Examples:
  secagg bench attack --quick
  secagg bench attack --html attack.html --json attack.json
  secagg bench attack --only audit --epsilon 1 --json attack.json
  secagg bench attack --from attack.json --html attack.html --figures .
  secagg bench attack --data mine:hospitals --clients 6 --rounds 10 --learning-rate 0.5 --clip 1

Exit codes: 0 done, 1 a bound passed the epsilon that a mechanism states, 2 bad input.
"""
)
@click.option(
    "--data", help="A training of your own: digits, breast-cancer, fashion-mnist or module:factory."
)
@click.option("--model", help="Of your own: module:factory.  [default: softmax]")
@click.option("--mode", "modes", help="Of your own: none, local, distributed, client, by commas.")
@click.option("--clients", type=int, help="Of your own: number of clients.  [20]")
@click.option("--rounds", type=int, help="Of your own: rounds of training.")
@click.option("--learning-rate", type=float, help="Of your own: step size.")
@click.option("--clip", type=float, help="Of your own: largest norm that is kept.")
@click.option("--quick", is_flag=True, help="Fewer models, about 20 seconds; wide intervals.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of data and models; never of keys, noise or coins.",
)
@click.option(
    "--epsilon",
    type=float,
    default=2.0,
    show_default=True,
    help="Privacy budget of everything that is trained with noise.",
)
@click.option("--delta", type=float, default=1e-5, show_default=True, help="Delta of that budget.")
@click.option(
    "--only", type=click.Choice(_PARTS), multiple=True, help="Run this part alone; may be repeated."
)
@click.option(
    "--json",
    "json_file",
    type=OUT_FILE,
    help="File to write after every attack; what it holds is not attacked again. "
    "`secagg audit --attack-results` reads it.",
)
@click.option("--csv", "csv_file", type=OUT_FILE, help="Write a line a number.")
@click.option("--html", type=OUT_FILE, help="Write one self-contained page.")
@click.option("--figures", type=PLACE, help="Folder for the page's charts as SVG files.")
@click.option(
    "--from",
    "source",
    type=PLACE,
    help="Attack nothing: print and draw the results in this file, which --json wrote.",
)
@click.pass_context
def attack(
    context: click.Context,
    /,
    *,
    only: tuple["Part", ...],
    json_file: Path | None,
    csv_file: Path | None,
    html: Path | None,
    figures: Path | None,
    source: Path | None,
    quick: bool,
    seed: int,
    epsilon: float,
    delta: float,
    **own: Any,
) -> int:
    """Attack what this library protects, and show what came of it.

    Membership inference, audits of the stated epsilon, canary clients, gradient inversion; each
    with and without privacy, on digits. A weak attack proves nothing good of a defence.

    With --data, or another option of a training of your own, that is attacked: who was in it, the
    audit, and canary clients beside yours. Data and model are as `secagg train` takes them, see
    docs/own-model.md; --rounds, --learning-rate and --clip have no default then.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch; numpy is there already, see Found
    _check_targets(json_file, html, figures)
    if source is not None:
        _check_drawn(context, source, html)
    require("secagg bench attack", *TRAIN, extra="train")
    from secagg.attacks.suite import (
        OWN_PARTS,
        PARTS,
        AttackSuite,
        Found,
        rows,
    )  # torch takes seconds
    from secagg.files import table, write_atomically

    if source is None:
        mine = _own(own, seed)
        known = PARTS if mine is None else OWN_PARTS
        plan = AttackSuite(
            parts=tuple(part for part in PARTS if part in (only or known)),
            own=mine,
            quick=quick,
            seed=seed,
            epsilon=epsilon,
            delta=delta,
        )
        found = _carried_out(Found(plan=plan), json_file)
    else:
        found = Found.read(source)
    if csv_file is not None:
        write_atomically(csv_file, table(rows(found)).encode())
    _write(found, html, figures)
    _print(found)
    return REFUTED if found.refuted else 0


def _own(given: dict[str, Any], seed: int) -> "Own | None":
    """The training that the options of one's own name; none where none is given."""
    from secagg.attacks.own import Own

    settings = {name: value for name, value in given.items() if value is not None}
    if not settings:
        return None
    for name in ("rounds", "learning_rate", "clip"):
        if name not in settings:
            raise InputError(
                f"a training of your own needs --{name.replace('_', '-')}: no default is right for "
                "all"
            )
    if "modes" in settings:
        settings["modes"] = tuple(settings["modes"].split(","))
    return Own(seed=seed, **settings)


def _carried_out(found: "Found", target: Path | None) -> "Found":
    """The jobs that ``target`` does not hold, each written to it when it is done."""
    from secagg.attacks.suite import Found
    from secagg.files import write_atomically

    if target is not None and target.exists():
        known = Found.read(target)
        if (known.plan, known.versions) != (found.plan, found.versions):
            raise InputError(
                f"{target} is of other settings or versions of libraries; choose another file"
            )
        found = known
    jobs = found.left
    with progress(elapsed=True) as bar:
        task = bar.add_task("", total=len(jobs))
        for job in jobs:
            bar.update(task, description=job.name)
            found.tell = partial(_tell, bar, task, job.name)
            found.carry_out(job)
            if target is not None:
                write_atomically(target, _json(found.as_dict()).encode())
            bar.advance(task)
    return found


def _tell(bar: Progress, task: TaskID, name: str, done: int, of: int) -> None:
    bar.update(task, description=f"{name}, model {done + 1} of {of}")


def _write(found: "Found", html: Path | None, figures: Path | None) -> None:
    from secagg.attacks.charts import sheet
    from secagg.attacks.page import drawings, page
    from secagg.files import write_atomically

    if html is not None:
        write_atomically(html, page(found).encode())
    if figures is not None:
        for name, charts in drawings(found).items():
            write_atomically(figures / f"attack_{name}.svg", sheet(charts))


def _json(data: dict[str, object]) -> str:
    """One object, an item of a list a line."""
    parts = []
    for name, value in data.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value:
            lines = ",\n".join(f"  {json.dumps(each, allow_nan=False)}" for each in value)
            text = f"[\n{lines}\n ]"
        parts.append(f' "{name}": {text}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _print(found: "Found") -> None:
    from secagg.attacks.page import NOT_PRIVACY, attacked, audit_sentence, sums_sentence

    out = screen()
    if found.plan.own is not None:
        out.print(f"Attacked: {attacked(found.plan)}.")
    if found.membership:
        table = Table(title="who was in the training? (0.5 is guessing)", title_justify="left")
        for name in ("mode", "pool", "attack", "AUC", "true at 1 % false", "95 %", "accuracy"):
            words = name in ("mode", "attack")
            table.add_column(name, justify="left" if words else "right", no_wrap=words)
        for one in (one for group in found.membership for one in group):
            rate = one.rates[0]
            table.add_row(
                one.mode if one.epsilon is None else f"{one.mode}, {bound(one.epsilon)}",
                f"{one.pool:,}",
                one.attack,
                f"{one.auc:.3f}",
                percent(rate.true_positive_rate),
                f"{percent(rate.low)} to {percent(rate.high)}",
                percent(one.accuracy),
            )
        out.print(table)
    for audited in (*found.audits, *found.canaries):
        passed = audited.refuted and audited.noise_share == 1
        out.print(Text(audit_sentence(audited), style="bold red" if passed else ""))
    for views in found.inversions:
        out.print(f"{sums_sentence(views)}.")
    if found.inversions:
        out.print(Text(f"{NOT_PRIVACY}.", style="bold"))
    if found.audits:
        broken = sum(one.noise_share < 1 and one.refuted for one in found.audits)
        but = f" but the {counted(broken, 'audit')} of noise left out on purpose" if broken else ""
        refuted = ", ".join(found.refuted) or f"none{but}, which proves none of the others"
        out.print(f"Stated epsilon refuted: {refuted}")
    spent = ", ".join(f"{part} {duration(1000 * each)}" for part, each in found.seconds.items())
    out.print(f"Took: {spent}")


def _check_drawn(context: click.Context, source: Path, html: Path | None) -> None:
    """Refuse what says how to attack beside a file of attacks that were."""
    kept = ("source", "html", "figures", "csv_file")
    for option in (each for each in context.params if each not in kept):
        if context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            name = _NAMED.get(option, option).replace("_", "-")
            raise InputError(f"--from attacks nothing and --{name} is for an attack; leave out one")
    if html is not None and html.resolve() == source.resolve():
        raise InputError(f"--from and --html are both {html}; choose two files")


def _check_targets(json_file: Path | None, html: Path | None, figures: Path | None) -> None:
    """Refuse before minutes of work what could not be written after them."""
    if json_file is not None and html is not None and json_file.resolve() == html.resolve():
        raise InputError(f"--json and --html are both {html}; choose two files")
    if figures is not None and not figures.is_dir():
        raise InputError(f"--figures {figures} must be a folder that exists")
