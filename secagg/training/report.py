"""The report of one run of ``secagg train``, from what metrics.json holds and nothing else.

``report`` is one HTML page without script whose own policy forbids every
request; ``curves`` is one picture for a slide. What the page claims follows from
the run's protocol, noise and unit (``threat_table``). Epsilon and delta are
rounded up, never down; a protocol or noise that the page does not know is said
to protect from nothing.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, TypeAlias

from secagg.pages import parts
from secagg.pages.charts import bars, line
from secagg.pages.markup import Markup, join, tag
from secagg.pages.numbers import counted, duration, finite, percent, short, size, whole
from secagg.pages.numbers import delta as as_delta
from secagg.pages.numbers import epsilon as as_epsilon
from secagg.training.runs import AUDIT
from secagg.training.settings import OWN, TrainingConfig
from secagg.training.threat_table import PRIVATE, SUMMED, ThreatTable

Metrics: TypeAlias = Mapping[str, Any]

STAGES = ("advertise", "share", "mask", "reveal")
COLOURS = dict(  # of the page in the light
    zip(("train", *STAGES), ("#a3a9b3", "#3a72c9", "#12968a", "#c27803", "#bf3f72"), strict=True)
)
GOOD, BAD = "#14695a", "#a52a17"
MAX_ROWS = 60  # clients in the grid of dropouts; beyond, only those who dropped out most

_OF_NOISE: Final = ("unit", "epsilon", "delta", "uncounted_shares")  # settings
_MEANINGS = {item.name: item.metadata["meaning"] for item in fields(TrainingConfig)} | {
    "noise_multiplier": "noise over clip"
}


def report(metrics: Metrics) -> str:
    """One self-contained HTML page about the run, finished or not."""
    run = _Run(metrics)
    return parts.page(
        f"secagg: {run.name}",
        _headline(run),
        _numbers(run),
        _groups(run),
        *((_course(run), _costs(run)) if run.records else ()),
        _dropouts(run),
        _promise(run),
        _settings(run),
        _rounds(run),
        _footer(run),
    )


def curves(metrics: Metrics) -> bytes:
    """An SVG picture: accuracy, epsilon, survivors and time by round."""
    from matplotlib.figure import Figure

    run = _Run(metrics)
    picture = Figure(figsize=(9, 6), layout="constrained")  # inches
    (accuracy, epsilon), (survivors, seconds) = picture.subplots(2, 2)
    for axes, title in (
        (accuracy, "accuracy"),
        (epsilon, "epsilon spent"),
        (survivors, "survivors"),
        (seconds, "seconds, all parties"),
    ):
        axes.set_title(title, loc="left")
        axes.set_xlabel("round")
        axes.spines[["top", "right"]].set_visible(False)
    what, good, _, _ = _quality(run)
    accuracy.set_title(what.lower(), loc="left")
    accuracy.plot(run.numbers, _gaps(good), marker=".", color=GOOD)
    if what == "Accuracy":
        accuracy.set_ylim(0, 1)
    if run.private:
        epsilon.plot(run.numbers, _gaps(run.values("epsilon")), marker=".", color=GOOD)
        if run.budget is not None:
            epsilon.axhline(run.budget, linestyle="--", color=BAD, linewidth=1)
        epsilon.set_ylim(bottom=0)
    else:
        epsilon.text(0.5, 0.5, "no differential privacy", ha="center", transform=epsilon.transAxes)
    colours = [BAD if lost else "#7aa79f" for lost in run.lost]
    survivors.bar(run.numbers, _gaps(run.values("survivors")), color=colours)
    if run.needed is not None:
        survivors.axhline(run.needed, linestyle="--", color=BAD, linewidth=1)
    below = [0.0] * len(run.records)
    for stage in ("train", *STAGES):
        heights = [stack.get(stage, 0.0) / 1000 for stack in run.stacks("milliseconds")]
        seconds.bar(run.numbers, heights, bottom=below, label=stage, color=COLOURS[stage])
        below = [low + height for low, height in zip(below, heights, strict=True)]
    if run.records:
        seconds.legend(
            fontsize="small",
            frameon=False,
            ncols=5,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.18),
        )
    file = io.BytesIO()
    picture.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


class _Run:
    """Metrics with every number looked at once: what is no finite number is ``None``."""

    def __init__(self, metrics: Metrics) -> None:
        self.config: Mapping[str, Any] = metrics.get("config") or {}
        self.records: list[Mapping[str, Any]] = list(metrics.get("rounds") or ())
        self.final: Mapping[str, Any] | None = metrics.get("final")
        self.versions: Mapping[str, Any] = metrics.get("versions") or {}
        self.protocol = str(self.config.get("protocol"))
        self.noise = str(self.config.get("noise"))
        self.hidden = str(self.config.get("unit"))
        self.numbers = [int(finite(r.get("round")) or 0) for r in self.records]
        self.lost = [r.get("lost") is True for r in self.records]
        self.budget = finite(self.config.get("epsilon"))
        self.clients = whole(self.config.get("clients"))
        self.threshold = whole(self.config.get("threshold"))
        self.minimum = whole(self.config.get("minimum_survivors"))
        self.needed = max(filter(None, (self.threshold, self.minimum)), default=None)

    @property
    def name(self) -> str:
        named = (self.final or {}).get("run")
        return str(named) if named else f"{self.protocol}, noise {self.noise}, unit {self.hidden}"

    @property
    def secure(self) -> bool:
        return self.protocol in SUMMED

    @property
    def unit(self) -> str:
        return "client's update" if self.hidden == "client" else "example's presence"

    @property
    def private(self) -> bool:
        return (self.noise, self.hidden) in PRIVATE

    def values(self, name: str) -> list[float | None]:
        return [finite(record.get(name)) for record in self.records]

    def last(self, name: str) -> float | None:
        """The final record's number, or while there is none the last round's."""
        if self.final is not None and (value := finite(self.final.get(name))) is not None:
            return value
        return next((v for v in reversed(self.values(name)) if v is not None), None)

    @property
    def delta(self) -> float | None:
        return finite((self.final or {}).get("delta")) or finite(self.config.get("delta"))

    @property
    def by(self) -> str:
        """The accountant of the final epsilon."""
        names = {"pld": ", by PLD", "rdp": ", by RDP"}
        return names.get(str((self.final or {}).get("accountant")), "")

    @property
    def bound(self) -> str:
        """What holds now. Before the end that is the budget: the ledger may hold a reservation."""
        spent = finite((self.final or {}).get("epsilon"))
        epsilon = self.budget if spent is None else spent
        shown = "unknown" if epsilon is None else as_epsilon(epsilon)
        return f"epsilon {shown} at delta {as_delta(self.delta)}"

    def stacks(self, name: str) -> list[dict[str, float]]:
        """What a round's mapping holds for each stage that this page knows."""
        tables = [record.get(name) or {} for record in self.records]
        return [
            {stage: max(finite(table.get(stage)) or 0.0, 0.0) for stage in ("train", *STAGES)}
            for table in tables
        ]

    def dropped(self, index: int) -> dict[str, str]:
        return {str(k): str(v) for k, v in (self.records[index].get("dropped") or {}).items()}


def _headline(run: _Run) -> Markup:
    who = counted(run.clients, "client").capitalize()
    done = len(run.records)
    lost = sum(run.lost)
    if done and lost == done:
        sentences = [
            f"{who} stood ready, and nothing came out: {counted(done, 'round')} lost to too few "
            "survivors"
        ]
    elif done:
        so_far = "" if run.final is not None else " so far"
        seen = {
            **dict.fromkeys(SUMMED, "between real parties nobody would see one update"),
            "plain": "the server saw every update",
        }
        sentences = [
            f"{who}, simulated in one process, trained together for {counted(done, 'round')}"
            f"{so_far}",
            seen.get(run.protocol, "nothing is known of who saw the updates"),
            f"no {run.unit} changes what can be learned by more than {run.bound}"
            if run.private
            else "what one example changes can be learned without limit",
        ]
    else:
        sentences = [f"{who} stood ready, and no round was finished"]
    partition = f", partition {run.config['partition']}" if "partition" in run.config else ""
    about = f"Data: {run.config.get('data', 'unknown')}{partition}. "
    if lost:
        about += f"{counted(lost, 'round')} lost to too few survivors: nothing came out of them. "
    about += (
        "All parties ran inside one process, and dropouts were drawn, not suffered: "
        "a simulation measures, it protects nothing by itself."
    )
    return parts.header(
        f"secagg · {run.name}",
        "; ".join(sentences) + ".",
        about,
        _audit_link(run),
        warnings=_warnings(run),
    )


def _audit_link(run: _Run) -> Markup:
    # That one name and no other: what a record says is no address.
    if (run.final or {}).get("audit") != AUDIT:
        return Markup()
    link = tag("a", "the audit", href=AUDIT)
    return tag(
        "p",
        "What the ledger proves, computed anew from its records, with the noise that was planned "
        "and the actual noise: ",
        link,
        ".",
    )


def _warnings(run: _Run) -> Iterable[str]:
    if run.protocol == "plain":
        yield (
            "Protocol “plain” protects from nothing: every client's update went to the server "
            "in the clear."
        )
    elif not run.secure:
        yield (
            f"This page does not know protocol “{run.protocol}”: take it that it protects from "
            "nothing."
        )
    if run.noise == "none":
        yield (
            "There is no differential privacy in this run: the model may repeat what it learned "
            "from a single example."
        )
    elif not run.private:
        yield (
            f"This page does not know noise “{run.noise}” with unit “{run.hidden}”: take it that "
            "there is none."
        )


def _numbers(run: _Run) -> Markup:
    done, planned = len(run.records), whole(run.config.get("rounds"))
    survivors = [v for v in run.values("survivors") if v is not None]
    fewest = finite((run.final or {}).get("survivors_min"))
    if fewest is None and survivors:
        fewest = min(survivors)
    cards: list[tuple[str, str]] = []
    if (accuracy := run.last("accuracy")) is not None:
        cards.append((percent(accuracy), "accuracy on examples that nobody trained on"))
    elif (value := run.last("metric")) is not None:
        cards.append((short(value), "metric on examples that nobody trained on"))
    elif (loss := run.last("loss")) is not None:
        cards.append((short(loss), "loss on examples that nobody trained on"))
    if run.private:
        if (spent := run.last("epsilon")) is not None:
            when = f"spent{run.by}" if run.final is not None else "after the last finished round"
            budget = "" if run.budget is None else f"; the budget is {as_epsilon(run.budget)}"
            cards.append((as_epsilon(spent), f"epsilon {when}{budget}"))
        cards.append((as_delta(run.delta), "delta"))
        cards += _other_epsilons(run)
    else:
        cards.append(("∞", "epsilon: no differential privacy"))
    of = f"rounds of {planned} planned" if planned not in (None, done) else "rounds"
    cards.append((str(done), f"{of}, {sum(run.lost)} lost" if any(run.lost) else of))
    if fewest is not None:
        need = "" if run.needed is None else f"; {run.needed} are needed"
        cards.append((f"{fewest:.0f}", f"fewest survivors of {run.clients}{need}"))
    for name, way in (("bytes_up", "sent"), ("bytes_down", "received")):
        if sizes := [v for v in run.values(name) if v is not None]:
            cards.append((size(max(sizes)), f"a client {way} in a round, at most"))
    if (seconds := finite((run.final or {}).get("seconds"))) is not None:
        cards.append((duration(1000 * seconds), "all rounds, of all parties one after the other"))
    return parts.cards(cards)


def _other_epsilons(run: _Run) -> Iterable[tuple[str, str]]:
    """What the final record holds beside the epsilon to quote."""
    final = run.final or {}
    by_rdp, actual = finite(final.get("epsilon_rdp")), finite(final.get("epsilon_actual"))
    if by_rdp is not None and final.get("accountant") == "pld":
        yield as_epsilon(by_rdp), "epsilon by RDP, by which the ledger admits"
    if actual is not None and run.private and run.noise == "distributed":
        yield (
            as_epsilon(actual),
            "actual epsilon, by RDP: with the noise that was really in the sums, if no output "
            "decided who dropped out. It frees no budget",
        )


def _groups(run: _Run) -> Markup:
    """How good the model is for each group of the evaluation."""
    by_group = (run.final or {}).get("by_group")
    if not isinstance(by_group, Mapping) or not by_group:
        return Markup()
    what, _, show, _ = _quality(run)
    rows = [
        parts.row(
            _or_dash(finite(each.get("examples")), short),
            _or_dash(finite(each.get(what.lower())), show),
            head=str(name),
        )
        for name, each in by_group.items()
        if isinstance(each, Mapping)
    ]
    return join(
        tag("h2", f"{what} by group"),
        tag(
            "p",
            "Groups are of the evaluation's examples, as whoever started the run named them. What "
            "a few examples show may be chance.",
        ),
        parts.table(("Group", "Examples", what), rows, "rounds people"),
    )


def _course(run: _Run) -> Markup:
    what, good, show, top = _quality(run)
    quality = line(_summary(what, good, show), run.numbers, good, show, top=top)
    if run.private:
        spent = run.values("epsilon")
        summary = _summary("Epsilon spent", spent, as_epsilon)
        rule = None if run.budget is None else (run.budget, f"budget {as_epsilon(run.budget)}")
        epsilon = line(summary, run.numbers, spent, as_epsilon, top=run.budget or 1.0, rule=rule)
    else:
        epsilon = tag("p", "No differential privacy, so there is nothing to count.")
    alive = run.values("survivors")
    stacks = [
        {"lost" if lost else "survivors": value or 0.0}
        for value, lost in zip(alive, run.lost, strict=True)
    ]
    survivors = bars(
        _summary("Survivors", alive, short),
        run.numbers,
        stacks,
        short,
        top=float(run.clients or 1),
        rule=run.needed,
    )
    needed = "" if run.needed is None else f"; dashed: the {run.needed} that are needed"
    return join(
        tag("h2", "How it went"),
        tag("p", "Round by round. Hold the pointer over a mark to read its value.", class_="hint"),
        parts.figures(
            parts.figure(what, "of the common model after each round", quality),
            parts.figure("Epsilon spent", "by RDP, the largest of all clients", epsilon),
            parts.figure("Survivors", "updates in the sum; red: a lost round" + needed, survivors),
        ),
    )


def _quality(run: _Run) -> tuple[str, list[float | None], Callable[[float], str], float]:
    """What the model is measured by: name, values, how one is shown, and the top of its axis."""
    for name in ("accuracy", "metric", "loss"):
        values = run.values(name)
        known = [value for value in values if value is not None]
        if known and name != "accuracy":
            return name.capitalize(), values, short, max(*known, 1e-9)
        if known:
            break
    return "Accuracy", run.values("accuracy"), percent, 1.0


def _costs(run: _Run) -> Markup:
    def chart(name: str, title: str, detail: str, show: Callable[[float], str]) -> Markup:
        stacks = run.stacks(name)
        summary = _summary(title, _sums(stacks), show)
        return parts.figure(title, detail, bars(summary, run.numbers, stacks, show))

    return join(
        tag("h2", "What it cost"),
        parts.legend(("train", *STAGES)),
        parts.figures(
            chart("milliseconds", "Time", "a round, all parties one after the other", duration),
            chart("bytes_up_stage", "Bytes sent", "by the client that sent most", size),
            chart("bytes_down_stage", "Bytes received", "by the client that received most", size),
        ),
    )


def _dropouts(run: _Run) -> Markup:
    if not run.records:
        return Markup()
    by_round = [run.dropped(index) for index in range(len(run.records))]
    total = sum(map(len, by_round))
    heading = tag("h2", "Who dropped out when")
    if not total:
        return join(heading, tag("p", "Nobody did."))
    often: dict[str, int] = {}
    for gone in by_round:
        for client in gone:
            often[client] = often.get(client, 0) + 1
    everybody = [str(number) for number in range(run.clients or 0)]
    shown = everybody if len(everybody) <= MAX_ROWS and often.keys() <= {*everybody} else []
    note = f"{counted(total, 'dropout')}, each at the stage that the client did not answer."
    if not shown:
        shown = sorted(sorted(often, key=_by_number), key=lambda c: -often[c])[:MAX_ROWS]
        note += f" Shown: the {counted(len(shown), 'client')} that dropped out most often."
    if any(run.lost):
        note += " × marks a lost round."
    rows = [
        tag(
            "tr",
            tag("th", f"client {client}", scope="row"),
            *(_cell(gone.get(client)) for gone in by_round),
        )
        for client in shown
    ]
    step = 1 if len(by_round) <= 12 else 5
    heads = [
        _round_head(number, lost=lost, shown=index == 0 or number % step == 0)
        for index, (number, lost) in enumerate(zip(run.numbers, run.lost, strict=True))
    ]
    grid = tag(
        "table",
        tag("caption", "Dropouts by client and round", class_="hidden"),
        tag("thead", tag("tr", tag("th", "round", scope="col"), *heads)),
        tag("tbody", *rows),
        class_="grid",
    )
    return join(heading, tag("p", note), parts.legend(STAGES), tag("div", grid, class_="wide"))


def _round_head(number: int, *, lost: bool, shown: bool) -> Markup:
    if lost:
        hidden = tag("span", f"{number}, lost", class_="hidden")
        return tag("th", "×", hidden, class_="lost", scope="col", title=f"round {number}: lost")
    label = str(number) if shown else tag("span", str(number), class_="hidden")
    return tag("th", label, scope="col")


def _cell(stage: str | None) -> Markup:
    if stage is None:
        return tag("td")
    known = stage if stage in STAGES else None
    letter = tag("b", stage[:1].upper(), aria_hidden="true")
    return tag("td", letter, tag("span", stage, class_="hidden"), class_=known, title=stage)


def _promise(run: _Run) -> Markup:
    promise = ThreatTable(
        protocol=run.protocol,
        noise=run.noise,
        hidden=run.hidden,
        threshold="t" if run.threshold is None else str(run.threshold),
        needed="the needed number of" if run.needed is None else str(run.needed),
        bound=run.bound,
        uncounted_shares=str(run.config.get("uncounted_shares", 1)),
    )
    kept = promise.protects_from()
    nothing = [("Nothing", "These settings protect nobody.")]
    return join(
        tag("h2", "What these settings promise"),
        tag(
            "p",
            "Between real parties, each on its own machine. In one process, as here, they only "
            "show what it costs.",
        ),
        tag(
            "table",
            _group("Protects from", kept or nothing, "yes" if kept else "no"),
            _group("Does not protect from", promise.does_not_protect_from(), "no"),
            class_="promise",
        ),
    )


def _group(title: str, rows: Sequence[tuple[str, str]], kind: str) -> Markup:
    head = tag("tr", tag("th", title, colspan="2", scope="rowgroup"))
    return tag(
        "tbody",
        head,
        *(parts.row(what, how) for what, how in rows),
        class_=kind,
    )


def _settings(run: _Run) -> Markup:
    rows = [
        parts.row(
            _MEANINGS.get(name, ""),
            tag("code", name),
            "not used: no noise"
            if run.config.get("noise") == "none" and name in _OF_NOISE
            else tag("code", "default" if value is None else str(value)),
        )
        for name, value in run.config.items()
    ]
    return join(
        tag("h2", "Settings"),
        tag("p", "The model and the data came from a program, which can run it again.")
        if run.config.get("data") == OWN
        else tag(
            "p", "The same run again: ", tag("code", "secagg train --config config.toml"), "."
        ),
        parts.table(("Meaning", "Setting", "Value"), rows, "settings"),
    )


def _rounds(run: _Run) -> Markup:
    if not run.records:
        return Markup()
    names = (
        *("Round", "Accuracy", "Loss", "Survivors", "Dropped out (stage)"),
        *("Sent", "Received", "Time", "Epsilon (RDP)"),
    )
    columns = [
        [_or_dash(v, percent) for v in run.values("accuracy")],
        [_or_dash(v, lambda loss: f"{loss:.4f}") for v in run.values("loss")],
        [_or_dash(v, short) for v in run.values("survivors")],
        [_gone(run.dropped(index)) for index in range(len(run.records))],
        [_or_dash(v, size) for v in run.values("bytes_up")],
        [_or_dash(v, size) for v in run.values("bytes_down")],
        [duration(total) for total in _sums(run.stacks("milliseconds"))],
        [_or_dash(v, as_epsilon) for v in run.values("epsilon")],
    ]
    rows = [
        tag(
            "tr",
            tag("th", f"{number} (lost)" if lost else str(number), scope="row"),
            *(
                tag("td", column[index], class_="gone" if column is columns[3] else None)
                for column in columns
            ),
            class_="lost" if lost else None,
        )
        for index, (number, lost) in enumerate(zip(run.numbers, run.lost, strict=True))
    ]
    return join(
        tag("h2", "Every round"),
        parts.folded(f"Show {counted(len(rows), 'round')}", parts.table(names, rows, "rounds")),
    )


def _footer(run: _Run) -> Markup:
    lines = ["Made from metrics.json. This page loads nothing and runs no script."]
    if run.versions:
        listed = ", ".join(f"{name} {version}" for name, version in run.versions.items())
        lines.insert(0, f"Made with {listed}.")
    return parts.footer(*lines)


def _gaps(values: Iterable[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _sums(stacks: Iterable[Mapping[str, float]]) -> list[float]:
    return [sum(stack.values()) for stack in stacks]


def _by_number(client: str) -> tuple[int, str]:
    return (len(client), client) if client.isdecimal() else (1 << 30, client)


def _gone(dropped: Mapping[str, str]) -> str:
    listed = ", ".join(
        f"{client} ({dropped[client]})" for client in sorted(dropped, key=_by_number)
    )
    return listed or "–"


def _summary(what: str, values: Sequence[float | None], show: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return f"{what} by round: no values"
    return (
        f"{what} by round, {counted(len(known), 'value')}: first {show(known[0])}, "
        f"last {show(known[-1])}, lowest {show(min(known))}, highest {show(max(known))}"
    )


def _or_dash(value: float | None, show: Callable[[float], str]) -> str:
    return "–" if value is None else show(value)
