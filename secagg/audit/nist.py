"""What surrounds an epsilon, after the pyramid of [NIST SP 800-226], item by item.

[PHK+23]: Ponomareva et al., How to DP-fy ML, arXiv 2303.00654, section 5.2.

A row says whose word it is. What the records show is said from the records. What no record can
show is the keeper's word, and where the keeper gave none the report says so, loudly.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from dp.accounting.events import (
    DiscreteGaussianEvent,
    Event,
    GaussianEvent,
    NeighboringRelation,
    Unit,
)
from dp.ledger.description import MATTERS
from dp.ledger.ledger import FIXED_PLAN, LedgerOwner, SystemDescription
from secagg.audit.evidence import Measured
from secagg.audit.values import ModelFile, Release, Row, Section, Source
from secagg.pages.numbers import bound, counted, spaced
from secagg.pages.numbers import delta as as_delta

MAX_EVENTS: Final = 12  # kinds of event that a row spells out
MODELS: Final = "Models that were released"
EMPIRICAL: Final = "Empirical audit"
_OF_WHAT: Final = ("purpose", "organisation", "data_set", "data_digest", "parties")


def rows(
    sections: Sequence[Section],
    stated: SystemDescription | None,
    *,
    keeper: LedgerOwner,
    policy: str,
    protection: Iterable[str],
    releases: Sequence[Release],
) -> tuple[Row, ...]:
    """All items, in the order of the report."""
    return (
        *(_matter(stated, name) for name in _OF_WHAT),
        models(releases, None),
        *(
            row
            for section in sections
            for row in _of_section(section, stated, keeper, several=len(sections) > 1)
        ),
        _from("Who keeps the ledger", _KEEPERS[keeper]),
        _units(stated),
        _word(stated, "Who is trusted with what", "trusted"),
        _word(stated, "What is released", "released"),
        _word(stated, "What is released and not accounted for", "unaccounted"),
        _word(stated, "Assumptions", "assumptions"),
        _word(stated, "Mechanism, as stated", "mechanism"),
        _word(stated, "Sampling, as stated", "sampling"),
        _word(stated, "Scope of the composition", "scope"),
        _from(
            "One person at several clients",
            "Costs the sum: the joint composition of what those clients were charged. The "
            "records do not say who is the same person, and no number here covers it.",
        ),
        *_chosen(policy),
        *(_matter(stated, name) for name in MATTERS if name not in _OF_WHAT),
        _reading(sections),
        Row(
            item="Accountant",
            text="Rényi DP at fixed orders, in integers rounded up, decides who is over budget; "
            "privacy loss distributions of dp-accounting, rounded up, where the report names them. "
            "Versions stand below.",
            source="software",
        ),
        _word(stated, "Randomness", "randomness"),
        _word(stated, "Floating point", "floating_point"),
        empirical(()),
        _from("Against tampering", ". ".join(map(_capital, protection)) + "."),
    )


def empirical(measured: Sequence[Measured]) -> Row:
    """The row on what was measured from outside, which is attached to an audit after it."""
    if not measured:
        return Row(item=EMPIRICAL, text="None is attached.", source="software")
    foreign = sum(one.foreign for one in measured)
    other = f", {foreign} of them of another mechanism" if foreign else ""
    return Row(
        item=EMPIRICAL,
        text=f"{counted(len(measured), 'result')} attached{other}: see Measured by attacks. That "
        "this training was attacked is the word of whoever brought them.",
        source="software",
    )


def _matter(stated: SystemDescription | None, name: str) -> Row:
    """One of ``MATTERS``: what was said of it, or that nobody said anything."""
    said = "" if stated is None else str(getattr(stated, name))
    if not said:
        return _nobody(MATTERS[name], "it")
    return Row(item=MATTERS[name], text=_sentence(said), source="keeper")


def models(releases: Sequence[Release], compared: ModelFile | None) -> Row:
    """The row on models, and on the file that was compared with them."""
    if not releases:
        return _nobody(MODELS, "which model this ledger is of")
    last = releases[-1]
    looked = "No model file was looked at" if compared is None else _capital(compared.sentence)
    return Row(
        item=MODELS,
        text=f"{counted(len(releases), 'model')}, the last of round {last.round:,}: digest "
        f"{last.model.hex()}, of the model's values, not of its file. {looked}. The JSON lists "
        "all.",
        source="keeper",
    )


def _reading(sections: Sequence[Section]) -> Row:
    """How an epsilon is to be read, for whoever has to judge one."""
    largest = max((section.epsilon for section in sections), default=0.0)
    where = "up to 1" if largest <= 1 else "between 1 and 10" if largest <= 10 else "above 10"
    return Row(
        item="How to read an epsilon",
        text="It bounds by which factor, e^epsilon, one unit can change the chance of anything "
        "that is concluded; no number is safe for every use. Up to 1 the promise is strong; "
        "between 1 and 10 lie most trained models that are published with one, which approves of "
        "none: e^10 is 22,026. Above "
        f"10 it says little by itself [PHK+23]. Here it is {where}.",
        source="software",
    )


def _of_section(
    section: Section, stated: SystemDescription | None, keeper: LedgerOwner, *, several: bool
) -> Iterator[Row]:
    mark = f" ({section.unit.value}, {spaced(section.adjacency.value)})" if several else ""
    yield _from("Unit" + mark, _UNITS[section.unit])
    yield _from("Neighboring relation" + mark, _ADJACENCIES[section.adjacency])
    for book, report in section.books.items():
        yield _from(
            f"Epsilon, {book.value} book" + mark,
            f"{bound(report.epsilon)}, by {report.accountant.upper()}: {report.why}. "
            f"{_BOOKS[book.value]} {_whom(section, None if several else stated)} Computed from "
            f"the records, which are the {keeper.value}'s word.",
        )
    yield _delta(section, stated, mark)
    yield _from("Mechanism and sampling, in evidence" + mark, _evidence(section))


def _whom(section: Section, stated: SystemDescription | None) -> str:
    """Who was charged, and whom the epsilon holds for."""
    clients = len(section.subjects)
    charged = f"{counted(clients, 'client')} {'was' if clients == 1 else 'were'} charged"
    if section.unit is Unit.CLIENT:
        return f"{charged}; it holds for every one."
    many = "" if stated is None else f" of {counted(stated.unit_count, 'example')}"
    return f"{charged}; it holds for every one{many or ' of their examples'}."


def _delta(section: Section, stated: SystemDescription | None, mark: str) -> Row:
    if section.reported is None or stated is None:
        return Row(
            item="Delta" + mark,
            text=f"{as_delta(section.delta)}, the accountant's alone. Nobody stated a random "
            "graph, rounding, flooding or an inexact sampler, nor that there is none: whatever "
            "they add is missing.",
            source="nobody",
        )
    reported = section.reported
    parts = (
        ("accountant", reported.accountant),
        ("sparse graph", reported.sparse_graph),
        ("rounded sums", reported.rounding),
        ("flooding", reported.flooding),
        ("sampler", reported.sampler),
    )
    listed = ", ".join(f"{name} {as_delta(part)}" for name, part in parts if part)
    return Row(
        item="Delta" + mark,
        text=f"{as_delta(reported.total)} in all: {listed}. Delta is the chance that epsilon says "
        f"nothing, for each unit; times the {stated.unit_count:,} units it is "
        f"{_somebody(reported.total * stated.unit_count)}.",
        source="keeper",
    )


def _somebody(chance: float) -> str:
    """Delta times the units, as a judge reads it; ``reported_delta`` keeps it below 1."""
    if chance > 0.5:
        return f"{chance:.2g}: it is likely that for somebody epsilon says nothing"
    one_in = f"{math.floor(1 / chance):,}" if chance > 0 else "any number"
    return f"{as_delta(chance)}: up to one chance in {one_in} that for somebody it says nothing"


def _evidence(section: Section) -> str:
    shown = [f"up to {one.steps:,} × {describe(one.event)}" for one in section.events[:MAX_EVENTS]]
    if more := len(section.events) - len(shown):
        shown.append(f"and {counted(more, 'other kind')} of step, listed in the JSON")
    done = sum(row.reserved > row.aborted for row in section.rounds)
    return f"{counted(done, 'round')} charged. To one subject: {'; '.join(shown)}."


def describe(event: Event) -> str:
    """One step in words."""
    if isinstance(event, GaussianEvent):
        noise = f"Gaussian noise of {event.noise_multiplier:.6g} times the clip"
    elif isinstance(event, DiscreteGaussianEvent):
        noise = (
            f"{event.shares} shares of discrete Gaussian noise of variance "
            f"{event.share_variance:.6g} at L2 sensitivity {event.l2_sensitivity:.6g}, "
            f"L1 sensitivity {event.l1_sensitivity:.6g}"
        )
    else:
        noise = (
            f"Skellam noise of variance {event.variance:.6g} at L2 sensitivity "
            f"{event.l2_sensitivity:.6g}, L1 sensitivity {event.l1_sensitivity:.6g}"
        )
    values = (getattr(event.sampling, name) for name in event.sampling.__slots__)
    details = ", ".join(
        f"{value:g}" if isinstance(value, float) else _plain(value) for value in values
    )
    design = spaced(event.sampling.DESIGN)
    return f"{noise}, sampling {design}{f' ({details})' if details else ''}"


def _plain(value: object) -> str:
    return spaced(str(getattr(value, "value", value)))


def _units(stated: SystemDescription | None) -> Row:
    if stated is None:
        return _nobody("How many units there are", "whether delta is below one over their number")
    return Row(item="How many units there are", text=f"{stated.unit_count:,}.", source="keeper")


def _word(stated: SystemDescription | None, item: str, name: str) -> Row:
    if stated is None:
        return _nobody(item, "it")
    said: object = getattr(stated, name)
    text = said if isinstance(said, str) else "; ".join(_strings(said))
    return Row(
        item=item,
        text=_sentence(text or "none"),
        source="keeper",
    )


def _strings(said: object) -> Iterable[str]:
    return [str(part) for part in said] if isinstance(said, tuple | list) else [str(said)]


def _nobody(item: str, what: str) -> Row:
    text = f"Nobody stated this, and no record shows {what}: take it as unknown."
    return Row(item=item, text=text, source="nobody")


def _from(item: str, text: str, source: Source = "records") -> Row:
    return Row(item=item, text=text, source=source)


def _chosen(policy: str) -> Iterator[Row]:
    item = "How parameters were chosen"
    if policy == FIXED_PLAN:
        yield Row(
            item=item,
            text="Fixed plan: every noise, rate and number of rounds was chosen before the first "
            "round. No record can show that, and if any was chosen from an output, no number here "
            "holds.",
            source="keeper",
        )
    else:
        yield _from(
            item,
            f"By a filter, {policy}: parameters may follow from earlier outputs, and only the "
            "whole budget may be stated.",
        )


def _sentence(text: str) -> str:
    return _capital(text) + "." * (text[-1:] not in ".!?")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


_KEEPERS: Final = {
    LedgerOwner.SERVER: "The server. What was charged, and how much noise there was, is its word.",
    LedgerOwner.CLIENT: "A client. What was charged is its word; a lower price was taken only on "
    "evidence that the server cannot forge.",
}
_UNITS: Final = {
    Unit.EXAMPLE: "One example of one client. It says nothing about a client's data as a whole: "
    "for k examples of one person epsilon is k times as large, and delta grows faster.",
    Unit.CLIENT: "One client, with all its data.",
}
_ADJACENCIES: Final = {
    NeighboringRelation.ADD_OR_REMOVE: "Add or remove: one unit more or less.",
    NeighboringRelation.ZERO_OUT: "Zero out: the unit's contribution becomes zeros. Who took "
    "part, and how many survived, is public.",
    NeighboringRelation.REPLACE_ONE: "Replace one: one unit becomes any other.",
}
_BOOKS: Final = {
    "server": "Against the aggregator, who saw who took part.",
    "release": "Against whoever gets the model.",
}
