"""The values of an epsilon report, and its JSON. They are made by ``secagg.audit.report``."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Context
from hashlib import sha256
from typing import Any, Final, Literal, TypeAlias

from dp.accounting.accountant import ReportedDelta
from dp.accounting.events import (
    Event,
    GaussianEvent,
    NeighboringRelation,
    NoSampling,
    PoissonSampling,
    Unit,
)
from dp.ledger.ledger import FIXED_PLAN, Book, Head, LedgerOwner, Protection
from secagg.audit.evidence import Measured
from secagg.audit.recount import Round
from secagg.pages.numbers import counted
from secagg.pages.numbers import delta as as_delta
from secagg.pages.numbers import epsilon as as_epsilon

SCHEMA: Final = "secagg audit 1"
QUANTILES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)  # over subjects

HEAD_BESIDE: Final = "head kept beside"  # in JSON: whoever can write the folder has both

Source: TypeAlias = Literal["records", "keeper", "software", "nobody"]

# One unit in few words, for who does not know what "example" means.
ONE: Final = {
    Unit.EXAMPLE: "one example (one row; a person with k rows: k times)",
    Unit.CLIENT: "one client (all its data)",
}
_WHO: Final = {Unit.EXAMPLE: "one example of one client", Unit.CLIENT: "all data of one client"}
_HAPPENED: Final = {
    NeighboringRelation.ADD_OR_REMOVE: "{} being there or not",
    NeighboringRelation.ZERO_OUT: "{} being used or set to zeros, who took part being public,",
    NeighboringRelation.REPLACE_ONE: "{} being what it is or any other",
}
_WHOM: Final = {Book.SERVER: "the aggregator", Book.RELEASE: "whoever got the model"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that an epsilon report must say [NIST SP 800-226], and whose word it is."""

    item: str
    text: str
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The SHA-256 of a model, and the round that its keeper says it came of."""

    round: int
    attempt: int
    model: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A model's file, and the release of the ledger that it is.

    Attributes:
      name: of the file.
      digest: of the model's values, as ``secagg.model_digest`` makes it.
      release: what it is by that digest, the last of several; ``None`` where it is none of them.
      last: whether that is the last release.
      named: how many releases the ledger has.
    """

    name: str
    digest: bytes
    release: Release | None
    last: bool
    named: int

    @property
    def foreign(self) -> bool:
        """Whether the ledger names models, and this is none of them."""
        return self.release is None and self.named > 0

    @property
    def sentence(self) -> str:
        if self.release is not None and self.last:
            return f"{self.name} holds that model"
        if self.release is not None:
            return f"{self.name} holds the model of round {self.release.round:,}, not the last"
        if not self.named:
            return f"{self.name} was compared with nothing: the ledger names no model"
        return (
            f"{self.name} holds ANOTHER MODEL: its digest {self.digest.hex()} is none of the "
            f"{counted(self.named, 'model')} that the ledger names"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": self.name,
            "digest": self.digest.hex(),
            "round": None if self.release is None else self.release.round,
            "last": self.last,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One subject in one book.

    Attributes:
      epsilon: by RDP, as admission counts; under a filter the budget once anything was charged,
        and infinite once it is passed.
      actual: the same with the noise that was released; ``None`` under a filter.
      share: of the budget that is spent: epsilon over epsilon, or of the filter's capacity.
      over: whether the budget is passed.
      steps: how many noisy sums.
    """

    epsilon: float
    actual: float | None
    share: float
    over: bool
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The subject of a guarantee and its budget; a book is ``None`` if never charged there."""

    name: str
    epsilon: float
    delta: float
    server: Account | None
    release: Account | None

    @property
    def accounts(self) -> dict[Book, Account]:
        """The books in which it was charged."""
        pairs = ((Book.SERVER, self.server), (Book.RELEASE, self.release))
        return {book: account for book, account in pairs if account is not None}

    @property
    def over(self) -> bool:
        """Whether it passed its budget in a book."""
        return any(account.over for account in self.accounts.values())

    @property
    def share(self) -> float:
        """The fraction of its budget that is spent, in the book that costs more."""
        return max(account.share for account in self.accounts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class BookReport:
    """One book of a section.

    Attributes:
      epsilon: what may be printed: nobody here spent more.
      accountant: "pld", "rdp", or the filter's name, whose budget epsilon then is.
      why: why it is that accountant.
      rdp: the largest by RDP, of what was reserved; ``None`` under a filter.
      actual: the largest by RDP with the noise that was released, likewise.
      dearest: the subject with the largest share of its budget.
      curve: (delta, epsilon) of the dearest subject; empty under a filter.
    """

    epsilon: float
    accountant: str
    why: str
    rdp: float | None
    actual: float | None
    dearest: str
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One kind of step, as the records hold it, and the most that one subject was charged."""

    event: Event
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """All accounts of one unit under one adjacency.

    Attributes:
      delta: the largest of the subjects' budgets.
      reported: the delta of the whole system; ``None`` where nobody stated what adds to it.
      added: what flooded decryptions add to epsilon.
      series: by book, (round, quantiles over subjects) of epsilon, or of the filter's share.
      events: what was charged.
    """

    unit: Unit
    adjacency: NeighboringRelation
    delta: float
    reported: ReportedDelta | None
    added: float
    books: Mapping[Book, BookReport]
    subjects: tuple[Subject, ...]
    rounds: tuple[Round, ...]
    series: Mapping[Book, tuple[tuple[int, tuple[float, ...]], ...]]
    events: tuple[Evidence, ...]

    @property
    def epsilon(self) -> float:
        """The larger of both books, and what decryptions add."""
        return max(book.epsilon for book in self.books.values()) + self.added

    @property
    def released(self) -> int:
        """Rounds of which something may have been released."""
        return sum(row.reserved > row.aborted for row in self.rounds)

    @property
    def steps(self) -> int:
        """The most steps that a subject was charged in a book."""
        return max(
            account.steps for subject in self.subjects for account in subject.accounts.values()
        )

    @property
    def mechanisms(self) -> frozenset[str]:
        """The kinds of noise that were charged for."""
        return frozenset(one.event.KIND for one in self.events)

    @property
    def gaussian(self) -> bool:
        """Whether all of it is Gaussian noise without sampling: one Gaussian mechanism."""
        every = (NoSampling(), PoissonSampling(rate=1.0))
        return all(
            isinstance(one.event, GaussianEvent) and one.event.sampling in every
            for one in self.events
        )

    @property
    def open(self) -> int:
        """How many reservations nobody finished."""
        return sum(row.open for row in self.rounds)

    @property
    def budget(self) -> tuple[float, float]:
        """The least budget of a subject, epsilon and delta: what nobody may pass."""
        return min((subject.epsilon, subject.delta) for subject in self.subjects)

    @property
    def total_delta(self) -> float:
        """The delta to print beside epsilon."""
        return self.delta if self.reported is None else self.reported.total

    @property
    def sentence(self) -> str:
        """What may be quoted, whole."""
        happened = _HAPPENED[self.adjacency].format(_WHO[self.unit])
        whom = " or ".join(_WHOM[book] for book in self.books)
        if not math.isfinite(self.epsilon):
            return f"By this ledger, what {whom} can learn from {happened} has no bound."
        epsilon, delta = as_epsilon(self.epsilon), as_delta(self.total_delta)
        rest = "" if self.reported else " (more if anything may fail that nobody stated)"
        return (
            f"By this ledger, {happened} made no conclusion that {whom} may draw from "
            f"{counted(len(self.rounds), 'round')} more likely than {_factor(self.epsilon)} times "
            f"its probability otherwise, plus {delta}{rest}: differential privacy with epsilon "
            f"{epsilon} and delta {delta}."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Everything the report says.

    ``verdict``: "sound", "over budget", "contradicted", or "signed, not checked" where all else
    is sound.

    Attributes:
      ledger: the file's name.
      digest: SHA-256 of the file; empty where a log beside it holds a part of the ledger.
      made_on: the day of the audit, ISO 8601.
      purpose, organisation, data_set, parties: what the keeper says that the ledger is of, who
        answers for it, which data, and where clients and server ran; empty where nobody said.
      releases: models that were released, as the keeper says.
      keeper: whose word the ledger is, a server's or a client's.
      policy: "fixed plan", or the filter.
      sealed: a signature of the head is in the file.
      records, head: how many there are, and the end of their chain.
      protection: what stood against tampering.
      kept: the record that a head was given of, ``None`` without one.
      beside: the file in the ledger's own folder that kept that head, empty if none did.
      key: the public key that the signature was checked with, empty if it was not.
      by_run: the run that wrote the ledger made this audit.
      sections: one for each unit and adjacency.
      rows: what surrounds the numbers, and whose word each is.
      versions: of Python, SQLite and the libraries that computed.
      stated: the keeper said what no record shows.
      over: names of the subjects that passed a budget.
      measured: what attacks found, as whoever brought it says, of the training that was charged.
      model: a model's file that was compared.
    """

    ledger: str
    digest: bytes
    made_on: str
    purpose: str
    organisation: str
    data_set: str
    parties: str
    releases: tuple[Release, ...]
    keeper: LedgerOwner
    policy: str
    sealed: bool
    records: int
    head: Head
    protection: tuple[Protection, ...]
    kept: int | None
    beside: str
    key: bytes
    by_run: bool
    sections: tuple[Section, ...]
    rows: tuple[Row, ...]
    versions: Mapping[str, str]
    stated: bool
    over: tuple[str, ...]
    measured: tuple[Measured, ...] = ()
    model: ModelFile | None = None

    @property
    def verdict(self) -> str:
        if self.contradictions or self.another_model:
            return "contradicted"
        if self.over:
            return "over budget"
        return "signed, not checked" if self.unchecked_signature else "sound"

    @property
    def verdict_in_words(self) -> str:
        """The verdict, and of a sound ledger for which records and against whom it is that."""
        if self.verdict == "signed, not checked":
            return "signed, not checked; else it agrees with itself"
        if self.another_model and not self.contradictions:
            return "contradicted by the model's file"
        if self.verdict != "sound" or Protection.SIGNATURE in self.protection:
            return {"contradicted": "contradicted by a measurement"}.get(self.verdict, self.verdict)
        if self.beside or Protection.HEAD not in self.protection:
            with_it = f" and with {self.beside} beside it" if self.beside else ""
            return f"agrees with itself{with_it}; not tamper-evident"
        if later := self.unshown:
            return f"sound up to record {self.kept}; not tamper-evident in {later}"
        return "sound, if the head that you gave was kept elsewhere"

    @property
    def unshown(self) -> str:
        """The records that neither a head nor a signature pins, in words; empty if none."""
        pinned = self.kept is None or Protection.SIGNATURE in self.protection
        return "" if pinned else after(self.kept, self.head)

    @property
    def another_model(self) -> bool:
        """Whether the model's file is none that the ledger names."""
        return self.model is not None and self.model.foreign

    @property
    def protection_in_words(self) -> list[str]:
        """What stands against tampering, a sentence each."""
        return in_words(
            self.protection,
            head=self.head,
            kept=self.kept,
            beside=self.beside,
            key=self.key,
            by_run=self.by_run,
        )

    @property
    def contradictions(self) -> tuple[Measured, ...]:
        """The bounds that pass what the ledger proves: one of the two is not of this training."""
        return tuple(one for one in self.measured if one.contradicts)

    @property
    def head_text(self) -> str:
        """The head, to be kept where the ledger's keeper cannot write."""
        return head_text(self.head)

    @property
    def digest_text(self) -> str:
        """What ``sha256sum`` prints of the file, or why no digest would fit."""
        if not self.digest:
            return "no digest of the file: a log (-wal) lies beside it, and both are the ledger"
        return f"SHA-256 of the file {self.digest.hex()}"

    @property
    def seal(self) -> str:
        """Whether the head is signed, and whether that was checked, in words."""
        if not self.sealed:
            return "not sealed"
        if self.unchecked_signature or not self.key:
            return "sealed, not checked"
        by = " by the run itself" if self.by_run else ""
        return f"sealed, and checked{by} against the key of fingerprint {fingerprint(self.key)}"

    @property
    def unchecked_signature(self) -> bool:
        """Whether the head is signed and nobody gave a key to check it with."""
        return Protection.UNCHECKED in self.protection

    @property
    def filtered(self) -> bool:
        """Whether parameters may have been chosen along the way."""
        return self.policy != FIXED_PLAN

    def as_json(self) -> dict[str, Any]:
        """The report as docs/reference/audit-json.md describes it; every number in it is finite."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "verdict_in_words": self.verdict_in_words,
            "over_budget": list(self.over),
            "ledger": self.ledger,
            "sha256": self.digest.hex() or None,
            "made_on": self.made_on,
            "purpose": self.purpose or None,
            "organisation": self.organisation or None,
            "data_set": self.data_set or None,
            "parties": self.parties or None,
            "models": [
                {"round": one.round, "attempt": one.attempt, "sha256": one.model.hex()}
                for one in self.releases
            ],
            "model_file": None if self.model is None else self.model.as_dict(),
            "keeper": self.keeper.value,
            "policy": self.policy,
            "records": self.records,
            "head": self.head_text,
            "protection": kinds(self.protection, self.beside),
            "protection_in_words": self.protection_in_words,
            "head_given": self.kept,
            "key": fingerprint(self.key) if self.key else None,
            "stated": self.stated,
            "statement": [asdict(row) for row in self.rows],
            "sections": [self._section(section) for section in self.sections],
            "measured": [one.as_dict() for one in self.measured],
            "versions": dict(self.versions),
        }

    def _section(self, section: Section) -> dict[str, Any]:
        reported = None if section.reported is None else asdict(section.reported)
        return {
            "unit": section.unit.value,
            "adjacency": section.adjacency.value,
            "sentence": section.sentence,
            "budget": dict(zip(("epsilon", "delta"), section.budget, strict=True)),
            "epsilon": _finite(section.epsilon),
            "epsilon_added": section.added,
            "delta": section.total_delta,
            "delta_components": reported or {"accountant": section.delta},
            "books": {
                book.value: {
                    "epsilon": _finite(report.epsilon),
                    "accountant": report.accountant,
                    "why": report.why,
                    "rdp": _finite(report.rdp),
                    "actual": _finite(report.actual),
                    "dearest": report.dearest,
                    "curve": [[delta, _finite(epsilon)] for delta, epsilon in report.curve],
                    "series": [
                        [number, [_finite(value) for value in values]]
                        for number, values in section.series[book]
                    ],
                }
                for book, report in section.books.items()
            },
            "series_of": "share of the filter" if self.filtered else "epsilon by RDP",
            "quantiles": list(QUANTILES),
            "rounds": [
                asdict(row) | {"planned": _finite(row.planned), "open": row.open}
                for row in section.rounds
            ],
            "events": [
                {"event": one.event.to_json(), "steps": one.steps} for one in section.events
            ],
            "subjects": [
                {
                    "name": subject.name,
                    "budget": {"epsilon": subject.epsilon, "delta": subject.delta},
                    "over": subject.over,
                    **{
                        book.value: {
                            "epsilon": _finite(account.epsilon),
                            "actual": _finite(account.actual),
                            "share": _finite(account.share),
                            "steps": account.steps,
                        }
                        for book, account in subject.accounts.items()
                    },
                }
                for subject in section.subjects
            ],
        }


def kinds(protection: Iterable[Protection], beside: str) -> list[str]:
    """Each kind as the JSON names it."""
    return [
        HEAD_BESIDE if beside and kind is Protection.HEAD else kind.value for kind in protection
    ]


def in_words(
    protection: Iterable[Protection],
    *,
    head: Head,
    kept: int | None,
    beside: str,
    key: bytes,
    by_run: bool = False,
) -> list[str]:
    """A sentence each: how far it reaches, and what it rests on."""
    later = after(kept, head)
    reach = f"nothing was changed or lost up to record {kept}" + (
        f"; of {later} it shows nothing" if later else ", the last"
    )
    told = {kind: kind.sentence for kind in protection}
    if Protection.HEAD in told:
        told[Protection.HEAD] = (
            f"agrees with the head kept in {beside}, beside the ledger: {reach}. But "
            "whoever can write both could have made all of it"
            if beside
            else f"agrees with the head that you gave: {reach}. That shows something only if you "
            "had it from elsewhere than the ledger's folder"
        )
    if Protection.SIGNATURE in told and key:
        by = ", as the run itself checked" if by_run else ""
        told[Protection.SIGNATURE] = (
            f"signed with the key of fingerprint {fingerprint(key)}{by}: "
            f"{Protection.SIGNATURE.sentence}"
        )
    return list(told.values())


def after(kept: int | None, head: Head) -> str:
    """The records after a head that was given, in words; empty if there are none."""
    if kept is None or kept >= head.seq:
        return ""
    first = kept + 1
    return f"record {first}" if first == head.seq else f"records {first} to {head.seq}"


def fingerprint(public: bytes) -> str:
    """A public key as ``secagg keys`` prints it, of a floor above this room."""
    return sha256(public).digest().hex(" ", 4)


def head_text(head: Head) -> str:
    """``SEQ:HASH``, as ``--expected-head`` takes it."""
    return f"{head.seq}:{head.hash.hex()}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _factor(epsilon: float) -> str:
    """e^epsilon, rounded up where people can read it."""
    if epsilon > 15:  # e^15 is three million
        return f"e^{as_epsilon(epsilon)}"
    return f"{Context(prec=3, rounding=ROUND_CEILING).create_decimal(math.exp(epsilon)):,f}"
