"""The page of an audit: one HTML file without script that requests nothing, for screen and paper.

It says what ``secagg.audit.values.Audit`` holds and computes no number of its own.
Epsilons and deltas are rounded up.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dp.ledger.ledger import Protection
from secagg.audit.recount import MAX_SNAPSHOTS, Round
from secagg.audit.values import ONE, Audit, Section, Source, Subject
from secagg.pages import parts
from secagg.pages.charts import bands, bars, lines
from secagg.pages.markup import Markup, join, tag
from secagg.pages.numbers import bound, counted, percent, short
from secagg.pages.numbers import delta as as_delta
from secagg.pages.numbers import epsilon as as_epsilon

MAX_SUBJECTS: Final = 200  # in the table; beyond, those who spent most of their budget
_BINS: Final = 10  # of the budget left

_WORD_OF: Final[dict[Source, str]] = {
    "records": "the records",
    "keeper": "its keeper's word",
    "software": "this software",
    "nobody": "nobody",
}
_VERDICTS: Final = {
    "sound": ": chain and accounts agree, and nobody passed the budget",
    "signed, not checked": ", and nobody passed the budget",
}
_NOBODY: Final = "Nobody stated it"
_LOUD: Final = (_NOBODY, "Not sealed", "Sealed, not checked", "Over", "Contradicted", "Agrees")
_SAID: Final = " (as the keeper says)"
_TITLES: Final = {"server": "Against the aggregator", "release": "Against whoever gets the model"}


def page(audit: Audit) -> str:
    """The whole file."""
    return parts.page(
        f"secagg audit: {audit.ledger}",
        _headline(audit),
        *(_section(audit, section) for section in audit.sections),
        _measured(audit),
        _states(audit),
        _footer(audit),
    )


def _headline(audit: Audit) -> Markup:
    if not audit.sections:
        title = "No charge stands in this ledger."
    elif audit.contradictions:
        title = "A measurement contradicts this ledger."
    elif audit.another_model:
        title = "The model's file is none that this ledger names."
    elif audit.over:
        title = f"{counted(len(audit.over), 'subject').capitalize()} passed the budget."
    else:
        title = "Nobody passed the budget."
    if audit.sections and audit.verdict != "contradicted":
        title = f"{title.removesuffix('.')}, {_budget(audit)}."
    return parts.header(
        f"secagg audit · {audit.ledger}", title, _facts(audit), warnings=_warnings(audit)
    )


def _facts(audit: Audit) -> Markup:
    """What somebody who judges a training asks first: the verdict, the price, and of what it is."""
    spent = "; ".join(
        f"Epsilon {bound(section.epsilon)} of {as_epsilon(section.budget[0])}, at delta "
        f"{as_delta(section.total_delta)}, for {ONE[section.unit]}{_open(section)}"
        for section in audit.sections
    )
    facts = {
        "Verdict": f"{_capital(audit.verdict_in_words)}{_VERDICTS.get(audit.verdict, '')}",
        "Spent": spent or "Nothing",
        "Seal": f"{_capital(audit.seal)}{_heads(audit)}",
        "For what": _said(audit.purpose),
        "Which data": _said(audit.data_set),
        "Who answers": _said(audit.organisation),
        "Which model": _model(audit),
        "Where it ran": _said(audit.parties),
        "Ledger": f"{counted(audit.records, 'record')}, kept by the {audit.keeper.value}, policy "
        f"“{audit.policy}”; audited on {audit.made_on}, every number anew from the records; "
        f"{audit.digest_text}",
    }
    return tag(
        "table",
        tag("caption", "The audit in short", class_="hidden"),
        tag(
            "tbody",
            *(
                parts.row(text, head=name, class_="loudly" if text.startswith(_LOUD) else None)
                for name, text in facts.items()
            ),
        ),
        class_="facts",
    )


def _said(text: str) -> str:
    return f"{text}{_SAID}" if text else _NOBODY


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _model(audit: Audit) -> str:
    """The last model that the ledger names, and whether a file of it was looked at."""
    if not audit.releases:
        return _NOBODY
    last = audit.releases[-1]
    looked = "no model file was looked at" if audit.model is None else audit.model.sentence
    return (
        f"That of round {last.round:,}, digest of its values, not of its file, "
        f"{last.model.hex()}{_SAID}; {looked}"
    )


def _open(section: Section) -> str:
    if not section.open:
        return ""
    return f"; {counted(section.open, 'reservation')} open: counted as spent, unfinished"


def _heads(audit: Audit) -> str:
    if audit.kept is None:
        return ""
    where = f"in {audit.beside}, beside it" if audit.beside else "that you gave"
    return f"; agrees with the head {where}, of record {audit.kept} of {audit.head.seq}"


def _budget(audit: Audit) -> str:
    """The least budget of every unit: of how much nobody may spend more."""
    return "; ".join(
        f"epsilon {as_epsilon(epsilon)} at delta {as_delta(delta)} for one {section.unit.value}"
        for section in audit.sections
        for epsilon, delta in (section.budget,)
    )


def _warnings(audit: Audit) -> Iterable[str]:
    if audit.contradictions:
        yield (
            "A measured lower bound is above the epsilon that this ledger states. Unless it is of "
            "another training, or the rare error that it names, the epsilon is not true."
        )
    if audit.model is not None and audit.another_model:
        yield f"{_capital(audit.model.sentence)}."
    if audit.over:
        yield f"Over budget: {_listed(audit.over)}."
    if Protection.NONE in audit.protection:
        yield (
            "This ledger is not tamper-evident: whoever can write the file could have made all "
            "of it. A head kept elsewhere, or a signed one, would show that."
        )
    if audit.unshown and not audit.beside:
        yield (
            f"Not tamper-evident in {audit.unshown}: the head that you gave is of record "
            f"{audit.kept}, and shows nothing of those after it."
        )
    if audit.unchecked_signature:
        yield (
            "Signed, not checked: this ledger's head is signed, and no key was given to check it "
            "with. Audit it again with --head-key and the keeper's public key."
        )
    if audit.beside:
        yield (
            f"The head that this ledger agrees with was kept in {audit.beside}, beside it: a "
            "ledger changed or cut alone would have been found, but whoever can write the whole "
            "folder could have made all of it. A head kept elsewhere, or a signed one, would show "
            "that."
        )
    if not audit.stated:
        yield (
            "Nobody stated what no record can show: how many units there are, who is trusted, "
            "what is released beside the model, how noise is drawn. Delta is the accountant's "
            "alone."
        )
    kinds = {section.unit for section in audit.sections}
    if len(kinds) > 1:
        yield "Examples and clients stand apart below: an epsilon of one says nothing of the other."


def _section(audit: Audit, section: Section) -> Markup:
    unit, adjacency = section.unit.value, section.adjacency.value.replace("_", " ")
    return join(
        tag("h2", f"For one {unit}, {adjacency}"),
        tag("p", "One sentence to quote:"),
        tag("blockquote", section.sentence),
        _numbers(section),
        _charts(audit, section),
        _subjects(section),
    )


def _numbers(section: Section) -> Markup:
    values = []
    for book, report in section.books.items():
        actual = (
            ""
            if report.actual in (None, report.rdp)
            else f"; with the actual noise, by RDP: {bound(report.actual)}"
        )
        held = (
            ""
            if report.rdp is None or report.accountant == "rdp"
            else (f"; by RDP, which admits: {bound(report.rdp)}")
        )
        of = as_epsilon(section.budget[0])
        whom = _TITLES[book.value][0].lower() + _TITLES[book.value][1:]
        label = f"epsilon of {of}, {whom}, by {report.accountant.upper()}{held}{actual}"
        values.append((bound(report.epsilon), label))
    of = "of the whole system" if section.reported else "of the accountant alone"
    values.append((as_delta(section.total_delta), f"delta {of}"))
    rounds = counted(len(section.rounds), "round")
    values.append((f"{len(section.subjects):,}", f"clients charged, in {rounds}"))
    return parts.cards(values)


def _charts(audit: Audit, section: Section) -> Markup:
    return join(
        tag("h3", "How it was spent"),
        tag(
            "p",
            "Hold the pointer over a mark to read its value."
            + (
                f" Of {len(section.rounds):,} rounds, at most {MAX_SNAPSHOTS} are drawn."
                if len(section.rounds) > MAX_SNAPSHOTS
                else ""
            ),
            class_="hint",
        ),
        parts.figures(
            *(_spent(audit, section, book.value) for book in section.books),
            *([] if audit.filtered else [_curve(section)]),
            _left(section),
            _noise(section.rounds),
            _people(section.rounds),
        ),
    )


def _spent(audit: Audit, section: Section, name: str) -> Markup:
    book = next(book for book in section.books if book.value == name)
    series = section.series[book]
    numbers = [number for number, _ in series]
    spreads = [[_known(value) for value in values] for _, values in series]
    show: Callable[[float], str]
    if audit.filtered:
        what, show, limit = "share of the filter spent", percent, 1.0
    else:
        what, show = "epsilon by RDP", as_epsilon
        limit = min(subject.epsilon for subject in section.subjects)
    last = [value for value in (spreads[-1] if spreads else ()) if value is not None]
    words = f", at the end {show(last[0])} to {show(last[-1])}" if last else ""
    chart = bands(
        f"{what[0].upper()}{what[1:]} over rounds, {name} book, by quantile over subjects{words}",
        numbers,
        spreads,
        show,
        top=limit,
        rule=(limit, f"least budget {show(limit)}"),
    )
    detail = join(
        f"{what}, {name} book, of all subjects",
        parts.legend(("all", "half", "median"), inside=True),
    )
    return parts.figure(_TITLES[name], detail, chart)


def _curve(section: Section) -> Markup:
    deltas = [delta for delta, _ in next(iter(section.books.values())).curve]
    series = {
        book.value: [_known(epsilon) for _, epsilon in report.curve]
        for book, report in section.books.items()
    }
    apart = list(series)
    if len(apart) > 1 and len(set(map(tuple, series.values()))) == 1:
        series, apart = {"both": series[apart[0]]}, []  # one line would hide the other
    chart = lines(
        "Epsilon by delta of the subject that spent most, "
        + "; ".join(
            f"{name} book{'' if apart else 's'}: {as_epsilon(known[0])} to {as_epsilon(known[-1])}"
            for name, values in series.items()
            if (known := [value for value in values if value is not None])
        ),
        [as_delta(delta) for delta in deltas],
        series,
        as_epsilon,
        each="delta",
        mark=_own(section, deltas),
    )
    same = "" if apart else ", the same in both books"
    colours = parts.legend(apart, inside=True) if apart else ""
    detail = join(f"of the subject that spent most, along delta{same}", colours)
    return parts.figure("Epsilon and delta", detail, chart)


def _own(section: Section, deltas: Sequence[float]) -> tuple[float, str] | None:
    """Where the ledger's own delta lies among those of the curve, a power of ten apart."""
    if not deltas or not deltas[-1] <= section.delta <= deltas[0]:
        return None
    return math.log10(deltas[0] / section.delta), f"the ledger's {as_delta(section.delta)}"


def _left(section: Section) -> Markup:
    passed = sum(subject.over for subject in section.subjects)
    left = [1 - subject.share for subject in section.subjects if not subject.over]
    counts = [0] * _BINS
    for value in left:
        counts[min(max(math.floor(value * _BINS), 0), _BINS - 1)] += 1
    size = 100 // _BINS
    labels = [f"{at * size}–{(at + 1) * size} %" for at in range(_BINS)]
    stacks = [{"left": float(count)} for count in counts]
    if passed:
        labels, stacks = ["passed", *labels], [{"passed": float(passed)}, *stacks]
    summary = "Subjects by share of budget left: " + ", ".join(
        f"{label}: {sum(stack.values()):.0f}" for label, stack in zip(labels, stacks, strict=True)
    )
    chart = bars(summary, labels, stacks, short, each="budget left")
    return parts.figure("Budget left", "subjects, by the share left in the dearer book", chart)


def _noise(rounds: Sequence[Round]) -> Markup:
    drawn = _drawn(rounds)
    series = {
        "planned": [_known(row.planned) for row in drawn],
        "actual": [row.actual for row in drawn],
    }
    ends = [
        f"{name} {short(min(known))} to {short(max(known))}"
        for name, values in series.items()
        if (known := [value for value in values if value is not None])
    ]
    chart = lines(
        f"Noise by round, {'; '.join(ends)}", [row.number for row in drawn], series, short
    )
    detail = join("least of a round, over one unit's bound", parts.legend(series, inside=True))
    return parts.figure("Noise reserved and actual", detail, chart)


def _people(rounds: Sequence[Round]) -> Markup:
    drawn = _drawn(rounds)
    names = ("committed", "open", "aborted")
    stacks = [{name: float(getattr(row, name)) for name in names} for row in drawn]
    totals = ", ".join(f"{sum(getattr(row, name) for row in rounds):,} {name}" for name in names)
    survivors = [row.survivors for row in rounds if row.survivors is not None]
    needed = max((row.minimum for row in rounds), default=0)
    said = f"; survivors {min(survivors):,} to {max(survivors):,}" if survivors else ""
    chart = bars(
        f"Reservations by round: {totals}{said}",
        [row.number for row in drawn],
        stacks,
        short,
        rule=needed or None,
    )
    rule = f"; dashed: the {needed:,} survivors that were asked for" if needed else ""
    detail = join(f"reservations by how they ended{said}{rule}", parts.legend(names, inside=True))
    return parts.figure("Who stayed", detail, chart)


def _subjects(section: Section) -> Markup:
    people = sorted(section.subjects, key=lambda subject: (-subject.share, subject.name))
    shown = people[:MAX_SUBJECTS]
    note = f"Show {counted(len(shown), 'subject')}" + (
        f" of {len(people):,}, those that spent most; the JSON holds all"
        if len(people) > len(shown)
        else ""
    )
    names = ["Subject"]
    for book, report in section.books.items():
        by = "" if report.rdp is None else " by RDP"
        names += [f"Epsilon{by}, {book.value}", "actual", "steps"]
    names += ["Budget", "delta", "left"]
    rows = [_person(section, subject) for subject in shown]
    return parts.folded(note, parts.table(names, rows, "rounds people"))


def _person(section: Section, subject: Subject) -> Markup:
    cells: list[str] = []
    for book in section.books:
        account = subject.accounts.get(book)
        if account is None:
            cells += ["–", "–", "–"]
        else:
            cells += [bound(account.epsilon), bound(account.actual), f"{account.steps:,}"]
    left = (
        "passed" if subject.over else f"{max(math.floor(1000 * (1 - subject.share)), 0) / 10:g} %"
    )
    cells += [as_epsilon(subject.epsilon), as_delta(subject.delta), left]
    return parts.row(*cells, head=subject.name, class_="over" if subject.over else None)


def _measured(audit: Audit) -> Markup:
    if not audit.measured:
        return join()
    return join(
        tag("h2", "Measured by attacks"),
        tag(
            "p",
            "What attacks found, computed anew from their counts. That they attacked this training "
            "is the word of whoever brought them. A small number proves nothing.",
        ),
        tag(
            "ul",
            *(
                tag("li", one.sentence, class_="loud" if one.contradicts else None)
                for one in audit.measured
            ),
        ),
    )


def _states(audit: Audit) -> Markup:
    rows = [
        parts.row(one.item, one.text, _WORD_OF[one.source], class_=one.source) for one in audit.rows
    ]
    return join(
        tag("h2", "What an epsilon alone does not say"),
        tag("p", "The items that NIST SP 800-226 asks of such a report, and whose word each is."),
        parts.table(("What", "How it is", "Says"), rows, "states"),
    )


def _footer(audit: Audit) -> Markup:
    listed = ", ".join(f"{name} {number}" for name, number in audit.versions.items())
    return parts.footer(
        f"Made with {listed}.",
        f"The chain ends at {audit.head_text}. Keep this where nobody who can write the "
        "ledger can, and give it with --expected-head next time.",
        "This page loads nothing and runs no script.",
    )


def _drawn(rounds: Sequence[Round]) -> Sequence[Round]:
    """Every so many rounds, and the last."""
    step = math.ceil(len(rounds) / MAX_SNAPSHOTS)
    return rounds[(len(rounds) - 1) % max(step, 1) :: max(step, 1)]


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more:,} more" if more > 0 else "")


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
