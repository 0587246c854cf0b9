"""``secagg bench``: what the protocols cost on this machine, and whether that became worse.

A further command is a function under ``@bench.command()``; ``attack`` has a module of its own.
Exit codes: 0 done, 1 a regression, 2 bad input.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.box import SIMPLE_HEAD
from rich.progress import TaskID
from rich.table import Table

from secagg.cli.attack import attack
from secagg.cli.screen import JSON, OUT_FILE, PLACE, Screen, progress, screen
from secagg.errors import InputError
from secagg.extras import TRAIN, require
from secagg.pages.numbers import counted, elapsed, size

if TYPE_CHECKING:
    from secagg.bench.compare import Comparison
    from secagg.bench.costs import Case, Cost
    from secagg.bench.records import Measurement, Measurements
    from secagg.bench.utility import Case as UtilityCase
    from secagg.bench.utility import Known

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

WIDTH = 96  # of the widest table
KEPT = "File to write after every step; what it holds is not done again."
REGRESSION = 1  # bad input is 2, as everywhere


def _file(option: str, name: str, told: str) -> Callable[[F], F]:
    kind = PLACE if option == "--from" else OUT_FILE
    return click.option(option, name, type=kind, help=told)


@click.group()
def bench() -> None:
    """Measure what the protocols cost on this machine.

    Seconds are CPU seconds of one core. They swing with the machine; what is compared are
    ratios to raw AES, X25519, SHA-256 or numpy, measured in turn with what they judge.
    """


bench.add_command(attack)


@bench.command(
    epilog="""\b
Examples:
  secagg bench costs
  secagg bench costs --protocol complete,sparse --clients 10,100,1000 --entries 1e4,1e6
  secagg bench costs --json costs.json --svg costs.svg
  secagg bench costs --json costs.json --clients 300          goes on with that file
  secagg bench costs --protocol plain,sparse,additive:Additive --dropout 0
"""
)
@click.option(
    "--protocol",
    "protocols",
    metavar="NAMES",
    help="Protocols to measure, separated by commas: built-in ones, your own as module:class, or "
    "one that an installed package registers.  [default: all six]",
)
@click.option(
    "--clients", default="10,30,100", show_default=True, help="Numbers of clients, by commas."
)
@click.option(
    "--entries", default="1e3,1e4,1e5", show_default=True, help="Numbers in a vector, by commas."
)
@click.option(
    "--dropout", default="0,0.1,0.3", show_default=True, help="Fractions that drop out, by commas."
)
@click.option("--lanes", type=int, default=3, show_default=True, help="Entries in a 64-bit word.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs of each point, whose median counts; from 6 on a 95 % interval is shown. With fewer, "
    "compare leaves seconds unjudged and looks at bytes alone.",
)
@_file("--json", "target", KEPT)
@_file("--csv", "csv", "Write a line a point.")
@_file("--svg", "svg", "Draw all points.")
def costs(
    *, rounds: int, target: Path | None, csv: Path | None, svg: Path | None, **swept: Any
) -> None:
    """Sweep protocols, clients, entries and dropouts; print costs and how they grow.

    Sessions up to 10^9 clients times entries are run whole and their sums checked; beyond, one
    client is run and the server's work sampled, and the point is marked with a *.
    """
    from secagg.bench import records as kept
    from secagg.bench.costs import plot
    from secagg.files import write_atomically

    if svg is not None:
        require("--svg", "matplotlib", extra="train")
    chosen, notes = _cases(**swept)
    known = _begun(target, "costs")
    record = _swept(chosen, known, target, rounds=rounds, notes=notes)
    points = [point.cost for point in record.points]
    out = screen(width=WIDTH)
    out.print(_costs_table(points))
    if (grows := _growth_table(points)).row_count:
        out.print(grows)
    _close(out, record)
    _export(csv, kept.rows(record))
    if svg is not None:
        write_atomically(svg, plot(points))


@bench.command(
    epilog="""\b
Examples:
  secagg bench quick
  secagg bench quick --json today.json --html today.html
"""
)
@_file("--json", "target", f"{KEPT} For compare.")
@_file("--csv", "csv", "Write a line a cost.")
@_file("--html", "html", "Write one page of its own.")
def quick(*, target: Path | None, csv: Path | None, html: Path | None) -> None:
    """Measure every protocol in two minutes, on one page.

    Every sum is checked; a wrong one ends the command with exit code 2.
    """
    from secagg.bench import records as kept
    from secagg.bench.page import page
    from secagg.bench.quick import quick as measured
    from secagg.bench.quick import steps
    from secagg.bench.yardsticks import REFERENCES
    from secagg.files import write_atomically

    held = target is not None and target.exists()
    record = _begun(target, "quick")
    if held and not record.passes:
        click.echo(f"secagg: {target} is whole; nothing is measured anew", err=True)
    with progress() as bar:
        task = bar.add_task("quick", total=steps())
        for name, found in measured(known=record if held else None):
            bar.update(task, advance=1, description=name)
            if target is not None and found.measurements and found is not record:
                found.write(target)
            record = found
    out = screen(width=WIDTH)
    out.print(_costs_table([point.cost for point in record.points]))
    out.print(_ratios_table(record.measurements))
    units = "; ".join(f"{each.name}: one {each.unit}" for each in REFERENCES.values())
    out.print(f"Ratios are to {units}.")
    out.print(
        "Every sum was checked against its parts: exact under masks, 2^-11 of the clip under CKKS."
    )
    _close(out, record)
    _export(csv, kept.rows(record))
    if html is not None:
        write_atomically(html, page(record).encode())


@bench.command(
    epilog="""\b
Examples:
  secagg bench compare before.json after.json
  secagg bench compare before.json after.json --tolerance 0.2 --json

Exit codes: 0 no regression, 1 a regression, 2 nothing that can be compared.
"""
)
@click.argument("before", type=PLACE)
@click.argument("after", type=PLACE)
@click.option(
    "--tolerance",
    type=float,
    default=0.10,
    show_default=True,
    help="Largest rise of a ratio that is no regression.",
)
@click.option(
    "--bound-tolerance",
    "bound",
    type=float,
    default=0.05,
    show_default=True,
    help="The same limit for costs that consist of AES or X25519 alone.",
)
@click.option(
    "--confidence",
    type=float,
    default=0.95,
    show_default=True,
    help="Probability that no unchanged cost is called a regression by chance.",
)
@JSON
def compare(
    *, before: Path, after: Path, tolerance: float, bound: float, confidence: float, as_json: bool
) -> int:
    """Say whether AFTER is worse than BEFORE, two files of quick or costs.

    A cost is worse if the interval of its ratio lies above the earlier one, and its median by
    more than the tolerance. Of bytes, one more is worse.
    """
    from secagg.bench.compare import compare as judged
    from secagg.bench.records import Measurements

    found = judged(
        Measurements.read(before),
        Measurements.read(after),
        tolerance=tolerance,
        bound=bound,
        confidence=confidence,
    )
    if not found.same_machine:
        click.echo("secagg: the two were measured on different machines", err=True)
    if found.busy:
        click.echo("secagg: a machine was busy with other work, which moves some ratios", err=True)
    if as_json:
        click.echo(json.dumps(found.as_dict(), allow_nan=False))
    else:
        _print(found)
    if not found.judged and not found.bytes:
        raise InputError("no cost has samples enough to be judged; measure more rounds")
    return REGRESSION if found.regressions else 0


@bench.command(
    epilog="""\b
Examples:
  secagg bench utility --quick
  secagg bench utility --json utility.json --svg utility.svg    an hour and more; goes on
  secagg bench utility --from utility.json --svg utility.svg
  secagg bench utility --mode distributed,local --epsilon 1,4 --clients 10,50 --json own.json
  secagg bench utility --data mine:hospitals --clients 6 --rounds 10 --learning-rate 0.5 --clip 1
"""
)
@click.option(
    "--quick", "few", is_flag=True, help="Run digits with two epsilons and two seeds, no search."
)
@click.option(
    "--data", help="A sweep of your own: digits, breast-cancer, fashion-mnist or module:factory."
)
@click.option("--model", help="With --data of your own: module:factory.  [default: softmax]")
@click.option("--mode", "modes", help="A sweep of your own: central, distributed, ... by commas.")
@click.option("--epsilon", "epsilons", help="A sweep of your own: budgets, by commas.  [2,8]")
@click.option("--clients", help="A sweep of your own: numbers of clients, by commas.  [20]")
@click.option(
    "--seeds", type=click.IntRange(1, 100), help="A sweep of your own: runs of each.  [2]"
)
@click.option("--rounds", type=int, help="In such a sweep: rounds of training.")
@click.option("--learning-rate", type=float, help="In such a sweep: step size.")
@click.option("--clip", type=float, help="In such a sweep: largest norm that is kept.")
@click.option("--delta", type=float, help="In such a sweep: delta of the budget.")
@_file("--json", "target", KEPT)
@_file("--csv", "csv", "Write a line a run.")
@_file("--svg", "svg", "Draw all runs.")
@_file("--from", "source", "Run nothing: print and draw the runs in this file, which --json wrote.")
def utility(
    *,
    few: bool,
    target: Path | None,
    csv: Path | None,
    svg: Path | None,
    source: Path | None,
    **own: Any,
) -> None:
    """Measure accuracy against epsilon: mean, lowest and highest of several seeds.

    Settings are searched on validation examples first. The full sweep trains on digits and
    Fashion-MNIST (make data); neither search nor choice is in any epsilon.

    With --data, --mode, --epsilon, --clients or --seeds nothing is searched: a run of every
    combination, with the settings of --quick where none is given. Data and model of your own
    are as `secagg train` takes them, see docs/own-model.md; their seeds are runs anew.
    """
    require("secagg bench utility", *TRAIN, extra="train")
    from secagg.bench import utility as study
    from secagg.files import write_atomically

    _check_source(source, target, few=few)
    cases = _own_cases(own, few=few, drawn=source is not None)
    if source is None and target is None and not few and not cases:
        raise InputError("the full sweep takes more than an hour: it needs --json, to go on with")
    held = source if source is not None else target
    known = study.read(held) if held is not None and held.exists() else study.empty()
    if source is None:
        _check_sweep(known, cases, few=few)

    def save(found: "study.Known") -> None:
        if target is not None:
            study.write(target, found)

    if source is None:
        began = study.keys(known)
        with progress() as bar:
            tasks: dict[str, TaskID] = {}
            steps = (
                study.measure_own(known, save, cases)
                if cases
                else study.measure(known, save, few=few)
            )
            for name, done, total in steps:
                task = tasks.setdefault(name, bar.add_task(name, total=total))
                bar.update(task, completed=done)
        if left := len(began - study.keys(known)):
            click.echo(
                f"secagg: {counted(left, 'run')} of another sweep, which {target} held, left out",
                err=True,
            )
    click.echo(study.table(known["runs"]))
    click.echo(study.settings_table(known), nl=False)
    _export(csv, study.rows(known["runs"]))
    if svg is not None:
        write_atomically(svg, study.plot(known["runs"]))


def _own_cases(own: dict[str, Any], *, few: bool, drawn: bool) -> list["UtilityCase"]:
    """The cases of a sweep of one's own; none where no option asks for one."""
    from secagg.bench import utility as study

    given = {name: value for name, value in own.items() if value is not None}
    if not given:
        return []
    if few or drawn:
        raise InputError(
            f"{'--quick' if few else '--from'} runs its own cases or none; leave out the options "
            "of a sweep of your own"
        )
    settings = ("model", "rounds", "learning_rate", "clip", "delta")
    return study.own(
        data=given.get("data", "digits"),
        modes=_list(given.get("modes", ",".join(study.OWN_MODES)), "mode", str),
        epsilons=_list(given.get("epsilons", "2,8"), "epsilon", float),
        clients=_list(given.get("clients", "20"), "clients", _whole),
        seeds=given.get("seeds", 2),
        settings={name: given[name] for name in settings if name in given},
    )


def _check_sweep(known: "Known", cases: list["UtilityCase"], *, few: bool) -> None:
    """Refuse a file of another sweep, whose runs would be lost or mixed."""
    from secagg.bench import utility as study

    mine = any("clients" in run["settings"] for run in known["runs"])
    if known["search"] and (few or cases):
        raise InputError("the file is of a full sweep; leave out --quick, or choose another file")
    if known["runs"] and mine is not bool(cases):
        raise InputError("the file is of a sweep of another kind; choose another file")
    study.check_own(known, cases)


@bench.command(
    epilog="""\b
Examples:
  secagg bench paper --quick
  secagg bench paper --json paper.json
  secagg bench paper --from paper.json
"""
)
@click.option(
    "--quick", "few", is_flag=True, help="Measure 20 clients only, to see what it prints."
)
@_file("--json", "target", KEPT)
@_file("--csv", "csv", "Write a line a point.")
@_file("--from", "source", "Measure nothing: print the points in this file, which --json wrote.")
def paper(*, few: bool, target: Path | None, csv: Path | None, source: Path | None) -> None:
    """Measure the tables of Bonawitz et al. 2017, section 7: bytes and running time.

    The paper's own factors stand beside ours; its seconds are of another machine.
    """
    from secagg.bench import records as kept
    from secagg.bench.paper import cases, expansions

    _check_source(source, target, few=few)
    record = _begun(target, "paper") if source is None else _record(source, "paper", measured=False)
    if source is None:
        record = _swept(cases(quick=few), record, target, rounds=1)
    out = screen(width=WIDTH)
    headings = ("clients", "entries", "published", "its formula", "complete", "sparse")
    table = _table("a client sends and is sent, over 16 bits an entry", *headings)
    for each in expansions():
        factors = (each.published, each.formula, each.complete, each.sparse)
        table.add_row(
            f"{each.clients:,}",
            f"{each.entries:,}",
            *("–" if factor is None else f"{factor:.2f}" for factor in factors),
        )
    out.print(table)
    out.print(_costs_table([point.cost for point in record.points]))
    _close(out, record)
    _export(csv, kept.rows(record))


def _check_source(source: Path | None, target: Path | None, *, few: bool) -> None:
    """Refuse a file that is not there, and options of a run beside ``--from``."""
    if source is None:
        return
    if not source.exists():
        raise InputError(f"--from {source} must be a file that exists")
    if target is not None or few:
        other = "--quick" if few else "--json"
        raise InputError(f"--from runs nothing and {other} is for a run; leave out one")


def _cases(
    *, protocols: str | None, clients: str, entries: str, dropout: str, lanes: int
) -> tuple[list["Case"], list[str]]:
    """Every point to be measured, and why others are left out."""
    from secagg.bench.contenders import factory, registered
    from secagg.bench.costs import PROTOCOLS, cases

    names, added = list(PROTOCOLS), registered()
    if protocols is not None:
        names = [added.get(name, name) for name in _list(protocols, "protocol", str)]
    if not 1 <= lanes <= 8:
        raise InputError(f"--lanes {lanes} is outside [1, 8]")
    own = [name for name in names if ":" in name]
    if unknown := [name for name in names if name not in (*PROTOCOLS, *own)]:
        known = ", ".join([*PROTOCOLS, *added, "module:class"])
        raise InputError(f"unknown protocol {unknown[0]!r}; known: {known}")
    for name in own:
        factory(name)  # refused before minutes of work
    chosen, left_out = cases(
        names,
        _list(clients, "clients", _whole),
        _list(entries, "entries", _whole),
        _list(dropout, "dropout", float),
        lanes=lanes,
    )
    if not chosen:
        raise InputError(f"nothing to measure: {'; '.join(left_out)}")
    return chosen, left_out


def _swept(
    chosen: Sequence["Case"],
    record: "Measurements",
    target: Path | None,
    *,
    rounds: int,
    notes: Sequence[str] = (),
) -> "Measurements":
    """The record with every point, written to ``target`` after each."""
    from secagg.bench.records import sweep

    with progress() as bar:
        task = bar.add_task(record.kind, total=len(chosen))
        for name, found in sweep(chosen, record, rounds=rounds, notes=notes):
            record = found
            bar.update(task, advance=1, description=name)
            if target is not None:
                record.write(target)
    return record


def _print(found: "Comparison") -> None:
    out = screen(width=WIDTH)
    table = _table("", "cost", "to", "before", "after", "factor", "at least", "verdict")
    for change in found.changes:
        ratios = (
            "–" if each is None else f"{each.value:.4g}" for each in (change.before, change.after)
        )
        factor = ("–", "–") if change.factor is None else (f"{x:.3f}" for x in change.factor[:2])
        style = {"worse": "bold red", "better": "green"}.get(change.verdict.value)
        table.add_row(
            change.name, change.reference, *ratios, *factor, change.verdict.value, style=style
        )
    out.print(table)
    for name, before, after in found.bytes:
        out.print(f"{name}: {before:,} before, {after:,} after")
    for word, names in (("first", found.missing), ("second", found.new)):
        if names:
            out.print(f"Measured in the {word} alone: {'; '.join(names)}.")
    worse = found.regressions
    if not worse and not found.judged:
        return
    judged = f"{found.judged} of {len(found.changes)} costs judged"
    out.print(
        f"Worse: {'; '.join(worse)}."
        if worse
        else f"No regression, with confidence {found.confidence:g}; {judged}."
    )


def _costs_table(points: Sequence["Cost"]) -> Table:
    table = _table("a round, CPU time of one core", "protocol", "clients x entries", "lost")
    for heading in ("client", "decryptor", "server", "sends", "is sent", "B/entry"):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in points:
        table.add_row(
            point.protocol + ("" if point.whole else " *"),
            f"{point.clients} x {point.entries}",
            f"{100 * point.dropout:g}%",
            *(
                elapsed(seconds) if seconds else "–"
                for seconds in (point.client_seconds, point.decryptor_seconds, point.server_seconds)
            ),
            size(point.bytes_up),
            size(point.bytes_down),
            f"{point.bytes_per_entry:.3g}",
        )
    return table


def _growth_table(points: Sequence["Cost"]) -> Table:
    from secagg.bench.costs import growth

    table = _table(
        "growth: fitted powers, 95 % intervals", "protocol", "cost", "of clients", "of entries"
    )
    for protocol, cost, found in growth(points):
        cells = []
        for fit in map(found.get, ("clients", "entries")):
            if fit is None:
                cells.append("–")
                continue
            within = "" if fit.low is None else f"  {fit.low:z.2f} to {fit.high:z.2f}"
            cells.append(f"{fit.power:z.2f}{within}")
        table.add_row(protocol, cost.replace("_", " "), *cells)
    return table


def _ratios_table(measurements: Sequence["Measurement"]) -> Table:
    table = _table("beside a reference, measured in turn", "cost")
    for heading in ("takes", "ratio", "95 % within", "to"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in measurements:
        ratio = each.ratio()
        table.add_row(
            each.name,
            elapsed(each.seconds),
            "–" if ratio is None else f"{ratio.value:.3g}",
            "–"
            if ratio is None
            else f"{ratio.low / ratio.value - 1:+.1%} {ratio.high / ratio.value - 1:+.1%}",
            each.reference,
        )
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(
        title=title or None,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _close(out: Screen, record: "Measurements") -> None:
    for note in record.notes:
        out.print(f"Left out: {note}" if record.kind != "quick" else f"Note: {note}")
    one = record.machine
    out.print(
        f"{one['cpu']}, {one['cores']} cores, {', '.join(one['flags'])}; {one['python']}, "
        f"{one['openssl']}; load {one['load'][0]} at the start; "
        f"{round(record.seconds, 1):.0f} s in all"
    )


def _begun(target: Path | None, kind: str) -> "Measurements":
    """What ``target`` holds already, to go on with it, or nothing yet."""
    from secagg.bench import records as kept

    if target is None or not target.exists():
        return kept.start(kind)
    return _record(target, kind)


def _export(target: Path | None, rows: Sequence[Mapping[str, object]]) -> None:
    from secagg.files import table, write_atomically

    if target is not None:
        write_atomically(target, table(rows).encode())


def _record(path: Path, kind: str, *, measured: bool = True) -> "Measurements":
    """What a file of ``kind`` holds; ``measured``: more is to be measured and put beside it."""
    from secagg.bench.measure import machine, same_machine
    from secagg.bench.records import Measurements

    record = Measurements.read(path)
    if record.kind != kind:
        raise InputError(f"{path} is of `secagg bench {record.kind}`, not of {kind}")
    if measured and not same_machine(record.machine, machine()):
        raise InputError(f"{path} was measured on another machine; choose another file")
    return record


def _list(text: str, name: str, kind: Callable[[str], T]) -> list[T]:
    """``10,1e3`` -> [10, 1000]."""
    try:
        return list(dict.fromkeys(kind(each.strip()) for each in text.split(",")))
    except (OverflowError, ValueError):
        raise InputError(f"--{name} {text!r:.100} is no list by comma, such as 10,100") from None


def _whole(text: str) -> int:
    value = float(text)
    if not value.is_integer():
        raise ValueError(text)
    return int(value)
