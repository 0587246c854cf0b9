"""What a ledger proves about privacy, computed anew from its records: ``secagg audit``.

No epsilon that anybody stored is read. The chain is verified first, whole; then the records
are counted (``recount``) and priced. Subjects with different units or adjacencies stand in
different sections, and no number covers two of them.

Under the policy "fixed plan" a section's epsilon is the largest of its subjects', by RDP or by
PLD, whichever is less; by RDP where an event has no PLD or a commit rose above its reservation.
Under a filter it is the whole budget as soon as anything was charged: no smaller number holds for
parameters chosen along the way, and none at all once the filter is passed. Who passes a budget
is decided as the ledger admits, by RDP
in integers rounded up, or by the filter's own currency.

Errors are those of ``dp.ledger.ledger``: ``LedgerCorrupt`` for a file that is damaged, edited or
contradicts itself; ``NotALedger`` for one that never was a ledger; ``InputError`` where
delta is 1/N or more, of which no statement can be made.
"""

import math
import platform
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from hashlib import file_digest
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from dp.accounting.accountant import Vector, check_delta, epsilon_curve, epsilon_pld, has_pld
from dp.accounting.events import Event
from dp.empirical import Estimate, LowerBound
from dp.errors import AccountantLimit, LedgerCorrupt, LedgerMissing, UnsoundEvent
from dp.ledger import admission
from dp.ledger.ledger import (
    FIXED_PLAN,
    Book,
    Budget,
    Head,
    HeadSigner,
    Ledger,
    SystemDescription,
    Verified,
)
from dp.ledger.rules import RAISED, composition_rule
from protocols.errors import RemoteProtocolError
from protocols.primitives import sign
from protocols.primitives.sign import SigningKey
from secagg.audit.evidence import measured
from secagg.audit.nist import EMPIRICAL, MODELS, empirical, models, rows
from secagg.audit.recount import Counts, Recount
from secagg.audit.released import model_file
from secagg.audit.values import (
    QUANTILES,
    Account,
    Audit,
    BookReport,
    Evidence,
    Release,
    Section,
    Subject,
    in_words,
)
from secagg.errors import NotALedger
from secagg.pages.numbers import spaced

SEAL_LABEL: Final = b"secagg ledger head"  # of the Ed25519 signature of a head
DELTAS: Final = tuple(10.0**-exponent for exponent in range(2, 13))  # of the curve
_PLD_WORK: Final = 200  # compositions times events of a book; .024 s each (measured)
_MAGIC: Final = b"SQLite format 3\0"  # sqlite.org/fileformat.html, 1.3
_APPLICATION: Final = slice(68, 72)  # where that header names the program, the same page
_LEDGER: Final = b"dpLg"
_TABLE: Final = b"CREATE TABLE records"  # in the first page, which holds the schema
_FIRST: Final = 4096  # bytes of that page
Counted: TypeAlias = tuple[Audit, Recount, SystemDescription | None]
_LIBRARIES: Final = ("secagg", "dp-accounting", "numpy", "scipy", "cryptography")


def open_ledger(path: Path, seal: HeadSigner | None) -> Ledger:
    """The only place where one is opened here; raises as ``Ledger.open``, and ``NotALedger``.

    Args:
      path: of a ledger's file; it is opened for reading alone.
      seal: verifies the signed head; ``None`` believes the chain by itself.
    """
    if not path.exists():  # ``Ledger.open`` says to create one, which is no word to an auditor
        raise LedgerMissing(f"{path} does not exist; give the path of a ledger")
    if not path.is_file():
        raise NotALedger(f"{path} is no regular file; give the path of a ledger")
    try:
        return Ledger.open(path, seal=seal, read_only=True)
    except LedgerCorrupt as error:
        if _is_foreign(path):
            raise NotALedger(f"{path} is no ledger; give the path of one") from error
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySigner(HeadSigner):
    """A signer of heads that says which key it is: ``public``, 32 bytes."""

    public: bytes


def seal_of(public: bytes) -> HeadSigner:
    """The signer that verifies heads by an Ed25519 public key, under ``SEAL_LABEL``.

    Args:
      public: 32 bytes.
    """

    def verify(message: bytes, signature: bytes) -> bool:
        try:
            sign.verify(public, SEAL_LABEL, message, signature)
        except RemoteProtocolError:
            return False
        return True

    return KeySigner(verify=verify, public=public)


def signer(key: SigningKey) -> HeadSigner:
    """The signer of heads by an Ed25519 key, under ``SEAL_LABEL``; it verifies them too.

    Args:
      key: the keeper's; see ``secagg.nodes.load_identity``.
    """
    return replace(seal_of(key.public), sign=lambda message: key.sign(SEAL_LABEL, message))


def verify(path: Path, *, head: Head | None = None, seal: HeadSigner | None = None) -> Verified:
    """Check chain, accounts, and what stands against tampering; prices nothing.

    Args:
      path: of a ledger's file.
      head: the end of the chain as it was kept elsewhere.
      seal: verifies the signed head.
    """
    with open_ledger(path, seal) as ledger:
        return ledger.verify(head)


def audit(
    path: Path,
    *,
    head: Head | None = None,
    seal: HeadSigner | None = None,
    beside: str = "",
    by_run: bool = False,
    today: date | None = None,
) -> Audit:
    """Verify the ledger at ``path``, count it anew, price it. Raises as the module says.

    ``beside`` names the file in the ledger's own folder that kept ``head``, if it was one: the
    report then says that whoever can write there can change both. ``by_run``: the run that wrote
    the ledger asks, and no stranger checks it. ``today`` is printed as the
    day of the audit; by default it is, in UTC.

    Args:
      path: of a ledger's file.
      head: the end of the chain as it was kept elsewhere; it must be a record of this ledger.
      seal: verifies the signed head; see ``seal_of``.
    """
    return counted_audit(path, head=head, seal=seal, beside=beside, by_run=by_run, today=today)[0]


def counted_audit(
    path: Path,
    *,
    head: Head | None = None,
    seal: HeadSigner | None = None,
    beside: str = "",
    by_run: bool = False,
    today: date | None = None,
) -> Counted:
    """The audit, the counts that it priced, and what was stated: for sums over several ledgers."""
    with open_ledger(path, seal) as ledger:
        verified = ledger.verify(head)
        try:
            pricer = _Pricer(ledger.policy)
            recount, sealed = _recounted(ledger, verified.head, pricer)
            stated = ledger.statement()
            sections = tuple(_sections(recount, pricer, stated))
        except UnsoundEvent as error:
            raise LedgerCorrupt(
                f"{path}: holds what its ledger would have refused ({error})"
            ) from error
        keeper, chosen = ledger.keeper, ledger.policy
        whole = b"" if ledger.has_log else _digest_of(path)
        if ledger.has_log:  # somebody wrote meanwhile
            whole = b""
    over = {subject.name for section in sections for subject in section.subjects if subject.over}
    releases = tuple(
        Release(round=key[0], attempt=key[1], model=model) for key, model in recount.models
    )
    key = seal.public if isinstance(seal, KeySigner) else b""
    found = Audit(
        ledger=path.name,
        digest=whole,
        made_on=(today or datetime.now(UTC).date()).isoformat(),
        purpose="" if stated is None else stated.purpose,
        organisation="" if stated is None else stated.organisation,
        data_set="" if stated is None else stated.data_set,
        parties="" if stated is None else stated.parties,
        releases=releases,
        keeper=keeper,
        policy=chosen,
        sealed=sealed,
        records=verified.head.seq + 1,
        head=verified.head,
        protection=verified.protection,
        kept=verified.kept,
        beside=beside,
        key=key,
        by_run=by_run,
        sections=sections,
        rows=rows(
            sections,
            stated,
            keeper=keeper,
            policy=chosen,
            protection=in_words(
                verified.protection,
                head=verified.head,
                kept=verified.kept,
                beside=beside,
                key=key,
                by_run=by_run,
            ),
            releases=releases,
        ),
        versions=_versions(),
        stated=stated is not None,
        over=tuple(sorted(over)),
    )
    return found, recount, stated


def attach(found: Audit, results: Iterable[LowerBound | Estimate]) -> Audit:
    """The audit with what attacks measured beside it. Raises as ``evidence.measured``."""
    beside = measured(results, found.sections)
    rows = (empirical(beside) if row.item == EMPIRICAL else row for row in found.rows)
    return replace(found, measured=beside, rows=tuple(rows))


def compare(found: Audit, model: Path, *, apart: str = "") -> Audit:
    """The audit with a model's file held against those that the ledger names.

    Raises as ``released.model_file``, which says what ``apart`` is.
    """
    beside = model_file(model, found.releases, apart=apart)
    rows = (
        replace(row, text=models(found.releases, beside).text) if row.item == MODELS else row
        for row in found.rows
    )
    return replace(found, model=beside, rows=tuple(rows))


def _recounted(ledger: Ledger, head: Head, pricer: "_Pricer") -> tuple[Recount, bool]:
    """The records up to ``head`` counted, and whether the ledger was made to be signed."""
    recount, sealed = Recount(pricer.shown), False
    for record in ledger.records():
        recount.add(record)
        if record.action == "seal" or record.data.get("sealed", False) is True:
            sealed = True
        if record.seq == head.seq:
            if record.hash != head.hash:
                raise LedgerCorrupt(f"record {record.seq} was changed while it was read")
            break  # what others appended meanwhile was not verified
    recount.finish()
    return recount, sealed


class _Pricer:
    """Counts to what they cost, under one policy."""

    def __init__(self, text: str) -> None:
        self._policy = composition_rule(text)
        self.filtered = text != FIXED_PLAN

    def shown(self, recount: Recount) -> Vector:
        """Epsilon by RDP of (subjects, books), or the spent share of the filter."""
        events, budgets = list(recount.events), recount.budgets()
        shown = np.zeros((len(recount.names), len(Book)))
        for chosen in _alike(budgets):
            flat = recount.reserved[chosen].reshape(-1, len(events))
            price = (
                [used / full for used, full in self.used(flat, events, budgets[chosen[0]])]
                if self.filtered
                else admission.epsilons(flat, events, float(budgets[chosen[0], 1]))
            )
            shown[chosen] = np.reshape(price, (-1, len(Book)))
        return shown

    def used(
        self, counts: Counts, events: Sequence[Event], budget: Vector
    ) -> Iterator[tuple[int, int]]:
        """What each row of counts spent of a filter, and what that filter holds; exact integers."""
        epsilon, delta = budget.tolist()
        whole = Budget(epsilon=epsilon, delta=delta)
        capacity = max(int(self._policy.limit(whole)), 1)
        for spent in self._policy.amounts(counts, events, whole).tolist():
            yield spent, capacity


# 60 lines and more: each number of a section is made once, from those above it.
def _sections(
    recount: Recount, pricer: _Pricer, stated: SystemDescription | None
) -> Iterator[Section]:
    """A section for every unit and adjacency that was charged."""
    names, events, budgets = list(recount.names), list(recount.events), recount.budgets()
    for kind in sorted(recount.rounds, key=lambda pair: (pair[0].value, pair[1].value)):
        members = {
            book: [at for at in range(len(names)) if recount.kind_of(at, book) == kind]
            for book in Book
        }
        accounts: dict[int, dict[Book, Account]] = {}
        for book, chosen in members.items():
            for at, account in _accounts(recount, pricer, book, chosen, events, budgets):
                accounts.setdefault(at, {})[book] = account
        if not accounts:
            continue
        subjects = tuple(
            Subject(
                name=names[at],
                epsilon=budgets[at, 0].item(),
                delta=budgets[at, 1].item(),
                server=mine.get(Book.SERVER),
                release=mine.get(Book.RELEASE),
            )
            for at, mine in sorted(accounts.items())
        )
        delta = max(subject.delta for subject in subjects)
        # Each subject holds one unit at least, so there are no fewer units than subjects.
        check_delta(delta, units=len(subjects))
        rounds = tuple(row for _, row in sorted(recount.rounds[kind].items()))
        books = {
            book: _book(recount, pricer, book, chosen, accounts)
            for book, chosen in members.items()
            if chosen
        }
        section = Section(
            unit=kind[0],
            adjacency=kind[1],
            delta=delta,
            reported=None,
            added=0.0,
            books=books,
            subjects=subjects,
            rounds=rounds,
            series={book: tuple(_series(recount, book, members[book])) for book in books},
            events=tuple(
                Evidence(event=event, steps=steps_reserved)
                for event, steps_reserved in zip(
                    events, recount.reserved.max(axis=(0, 1), initial=0).tolist(), strict=True
                )
                if steps_reserved and (event.unit, event.adjacency) == kind
            ),
        )
        if stated is not None:
            # Beside no finite epsilon no delta means anything.
            beside = section.epsilon if math.isfinite(section.epsilon) else 0.0
            released, steps = section.released, section.steps
            section = replace(
                section,
                added=stated.epsilon_added(beside, rounds=released),
                reported=stated.delta(delta, epsilon=beside, rounds=released, steps=steps),
            )
        yield section


def _accounts(
    recount: Recount,
    pricer: _Pricer,
    book: Book,
    chosen: list[int],
    events: Sequence[Event],
    budgets: Vector,
) -> Iterator[tuple[int, Account]]:
    reserved, actual = (
        counts[chosen, book.number] for counts in (recount.reserved, recount.actual)
    )
    mine = budgets[chosen]
    for alike in _alike(mine):
        epsilon, delta = mine[alike[0]].tolist()
        steps = reserved[alike].sum(axis=1).tolist()
        places = [chosen[at] for at in alike]
        if pricer.filtered:
            used = pricer.used(reserved[alike], events, mine[alike[0]])
            for at, count, (spent, capacity) in zip(places, steps, used, strict=True):
                whole = epsilon if count else 0.0
                yield (
                    at,
                    Account(
                        epsilon=whole if spent <= capacity else math.inf,
                        actual=None,
                        share=spent / capacity,
                        over=spent > capacity,
                        steps=count,
                    ),
                )
            continue
        prices = (
            admission.epsilons(counts[alike], events, delta).tolist()
            for counts in (reserved, actual)
        )
        for at, count, by_reserved, by_actual in zip(places, steps, *prices, strict=True):
            yield (
                at,
                Account(
                    epsilon=by_reserved,
                    actual=by_actual,
                    share=by_reserved / epsilon,
                    over=not by_reserved <= epsilon,
                    steps=count,
                ),
            )


def _book(
    recount: Recount,
    pricer: _Pricer,
    book: Book,
    chosen: list[int],
    accounts: dict[int, dict[Book, Account]],
) -> BookReport:
    """The numbers of one book that hold for all who stand in it."""
    names, budgets = list(recount.names), recount.budgets()
    dearest = max(chosen, key=lambda at: accounts[at][book].share)
    largest = max(accounts[at][book].epsilon for at in chosen)
    if pricer.filtered:
        return BookReport(
            epsilon=largest,
            accountant="filter",
            why="parameters may follow from earlier outputs, so the whole budget is what is spent",
            rdp=None,
            actual=None,
            dearest=names[dearest],
            curve=(),
        )
    compositions = [
        (_composition(recount, row), delta)
        for row, delta in maximal(recount.reserved[chosen, book.number], budgets[chosen, 1])
    ]
    epsilon, accountant, why = smallest(compositions, largest)
    if any((at, book.number) in recount.raised for at in chosen):
        epsilon, accountant, why = largest, "rdp", RAISED
    units = len(recount.names)
    deltas = tuple(delta for delta in DELTAS if delta * units < 1)
    one = _composition(recount, recount.reserved[dearest, book.number])
    along: tuple[float, ...] = epsilon_curve(one, deltas, accountant="rdp")
    if accountant == "pld":
        along = tuple(map(min, along, epsilon_curve(one, deltas, accountant="pld")))
    return BookReport(
        epsilon=epsilon,
        accountant=accountant,
        why=why,
        rdp=largest,
        actual=max(accounts[at][book].actual or 0.0 for at in chosen),
        dearest=names[dearest],
        curve=tuple(zip(deltas, along, strict=True)),
    )


def smallest(
    compositions: Sequence[tuple[Mapping[Event, int], float]], largest: float
) -> tuple[float, str, str]:
    """What covers all these histories: the largest by RDP, or by PLD where that is less; why."""
    lacking = next((e for c, _ in compositions for e in c if not has_pld(e)), None)
    if lacking is not None:
        return (
            largest,
            "rdp",
            f"{spaced(lacking.KIND).title()} noise has no privacy loss distribution",
        )
    if sum(len(composition) for composition, _ in compositions) > _PLD_WORK:
        many = f"{len(compositions):,} different histories are too many for loss distributions"
        return largest, "rdp", many
    try:
        by_pld = max((epsilon_pld(*one) for one in compositions), default=0.0)
    except AccountantLimit as error:
        return largest, "rdp", str(error)
    if by_pld < largest:
        return by_pld, "pld", "the smaller of both bounds; every event has a loss distribution"
    return largest, "rdp", "the smaller of both bounds; loss distributions give more here"


def _composition(recount: Recount, row: Counts) -> dict[Event, int]:
    return {event: n for event, n in zip(recount.events, row.tolist(), strict=True) if n}


def maximal(counts: Counts, deltas: Vector) -> Iterator[tuple[Counts, float]]:
    """Rows that no other of the same delta exceeds everywhere: one of them costs the most.

    Removing steps from a composition never raises its epsilon.
    """
    for delta in np.unique(deltas):
        rows = np.unique(counts[deltas == delta], axis=0)
        kept: Counts = rows[:0]
        for row in rows[np.argsort(-rows.sum(axis=1), kind="stable")]:
            if not (kept >= row).all(axis=1).any():
                kept = np.concatenate([kept, row[None]])
        for row in kept:
            yield row, float(delta)


def _series(
    recount: Recount, book: Book, chosen: list[int]
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Quantiles over subjects after sampled rounds; who was not charged yet counts as 0."""
    for number, shown in recount.snapshots:
        values = np.zeros(len(chosen))
        known = [at < len(shown) for at in chosen]
        values[known] = shown[[at for at in chosen if at < len(shown)], book.number]
        # Each is some subject's number, never one between two of them.
        yield number, tuple(np.quantile(values, QUANTILES, method="higher").tolist())


def _alike(budgets: Vector) -> list[list[int]]:
    """Places in groups of the same budget."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for at, budget in enumerate(map(tuple, budgets.tolist())):
        groups.setdefault(budget, []).append(at)
    return list(groups.values())


def _digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file_digest(file, "sha256").digest()


def _is_foreign(path: Path) -> bool:
    """Whether a file that would not open carries another program's header, or none of SQLite's.

    One that has our tables is a ledger whose header was damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_FIRST)
    except OSError:
        return False
    if _TABLE in head:
        return False
    application = head[_APPLICATION]
    return head[: len(_MAGIC)] != _MAGIC or application not in (_LEDGER, bytes(4), b"")


def _versions() -> dict[str, str]:
    """The versions of everything whose arithmetic or storage the numbers rest on."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
