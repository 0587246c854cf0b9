"""``secagg audit LEDGER``: the report on screen, as JSON, as a page.

Exit codes: 0 sound, 1 over budget, 2 bad input, 3 tampered with or inconsistent, which a
ledger also is with a measured bound above the epsilon that it states.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from secagg.cli.heads import LEDGER_PLACE, heads_of, run_head, verifier
from secagg.cli.screen import JSON, OUT_FILE, PLACE, screen
from secagg.errors import InputError
from secagg.pages.numbers import bound, counted
from secagg.pages.numbers import delta as as_delta
from secagg.training.runs import LEDGER, METRICS, MODEL, MOMENTS

if TYPE_CHECKING:
    from dp.ledger.books import HeadSigner, Verified
    from secagg.audit.values import Audit, Section

SOUND, OVER_BUDGET, TAMPERED = 0, 1, 3  # bad input is 2, as everywhere
_AGAINST = {"server": "the aggregator", "release": "whoever gets the model"}
_MAX_NAMES = 5  # of subjects over budget, on screen


@click.command(
    epilog="""\b
Examples:
  secagg audit runs/train                          the ledger in the folder of a run
  secagg audit ledger.sqlite --html audit.html --json > audit.json
  secagg audit ledger.sqlite --expected-head 61:9f86d0... --verify
  secagg audit ledger.sqlite --head-key auditor.pub
  secagg audit ledger.sqlite --attack-results attack.json
  secagg audit 2025/ledger.sqlite 2026/ledger.sqlite

Exit codes: 0 sound, or signed and not checked, 1 over budget, 2 bad input, 3 tampered with or
inconsistent. Without --head-key or --expected-head a ledger that lost its last records may still
be sound.
"""
)
@click.argument("ledgers", metavar="LEDGER...", nargs=-1, required=True, type=LEDGER_PLACE)
@click.option("--verify", is_flag=True, help="Check hashes, accounts, signature; no epsilon.")
@JSON
@click.option("--html", type=OUT_FILE, help="Write one self-contained page.")
@click.option(
    "--expected-head",
    metavar="SEQ:HASH",
    help="Number and hash of a record, kept outside the file, or a file of them; the ledger must "
    "still hold it.",
)
@click.option(
    "--head-key",
    metavar="FILE",
    help="Ed25519 public key that the last record is signed with: PATH.pub of secagg keys new, 32 "
    "raw bytes in a file, or 64 hex digits.",
)
@click.option(
    "--attack-results",
    type=PLACE,
    help="JSON with results of attacks on this training; shown beside the stated epsilon.",
)
@click.option(
    "--model",
    type=PLACE,
    help="Model that was released, .safetensors, to be compared with those that the ledger names. "
    " [default: model.safetensors of a run's folder]",
)
def audit(
    *,
    ledgers: tuple[Path, ...],
    verify: bool,
    as_json: bool,
    html: Path | None,
    expected_head: str | None,
    head_key: str | None,
    attack_results: Path | None,
    model: Path | None,
) -> int:
    """Compute anew what a privacy ledger proves.

    No epsilon that is stored is believed: all come from the records. Give --expected-head or
    --head-key, or the report says that the ledger is not tamper-evident.

    Several ledgers stand side by side, and what they cost a subject of the same name together.
    """
    from dp.errors import LedgerCorrupt  # numpy and the accountants take their time to import
    from secagg.audit import report as reports
    from secagg.audit.evidence import read
    from secagg.audit.page import page
    from secagg.files import write_atomically

    if len(ledgers) > 1:
        if verify or html or expected_head or attack_results or model:
            raise InputError(
                "several ledgers are added up on screen or as --json; for --verify, --html, "
                "--expected-head, --attack-results and --model name one"
            )
        return _several(ledgers, verifier(head_key, option="--head-key"), as_json=as_json)
    (ledger,) = ledgers
    if html is not None:
        if verify:
            raise InputError("--verify prices nothing, so there is no page; leave out --html")
        _check_target(html, ledger)
    if verify and (attack_results or model):
        option = "--attack-results" if attack_results else "--model"
        raise InputError(f"--verify does not compare {option}; leave out one")
    brought = () if attack_results is None else read(attack_results)
    kept, beside = heads_of(expected_head, ledger, option="--expected-head")
    seal = verifier(head_key, option="--head-key")
    try:
        check_run(ledger, seal)
        if verify:
            found = reports.verify(ledger, head=kept, seal=seal)
            return show_verified(found, beside, seal, as_json=as_json)
        result = reports.audit(ledger, head=kept, seal=seal, beside=beside)
    except LedgerCorrupt as error:
        return tampered(error)
    result = reports.attach(result, brought)
    if (compared := model or _run_model(ledger)) is not None:
        result = reports.compare(result, compared, apart=MOMENTS)
    if html is not None:
        write_atomically(html, page(result).encode())
    if as_json:
        click.echo(json.dumps(result.as_json(), allow_nan=False))
    else:
        _print(result)
    if result.verdict == "contradicted":
        return TAMPERED  # inconsistent: they cannot both be of one training
    return OVER_BUDGET if result.over else SOUND


def tampered(error: Exception) -> int:
    """Say in one line what is wrong with a ledger; the exit code of that."""
    click.echo(f"secagg: {' '.join(str(error).split())}", err=True)
    return TAMPERED


def check_run(ledger: Path, seal: "HeadSigner | None") -> None:
    """Hold the ledger of a run against the head in metrics.json too.

    Raises as ``secagg.audit.verify``.
    """
    from dp.errors import LedgerCorrupt
    from secagg.audit.report import verify

    if (beside := run_head(ledger)) is None:
        return
    try:
        verify(ledger, head=beside, seal=seal)
    except LedgerCorrupt as error:
        raise LedgerCorrupt(f"{error}. The head is that of {METRICS} beside it") from error


def _run_model(ledger: Path) -> Path | None:
    """The model of a run, beside its ledger."""
    model = ledger.parent / MODEL
    return model if run_head(ledger) is not None and model.is_file() else None


def _several(ledgers: tuple[Path, ...], seal: "HeadSigner | None", *, as_json: bool) -> int:
    """Ledgers side by side, and added up."""
    from dp.errors import LedgerCorrupt
    from secagg.audit.portfolio import portfolio

    try:
        for ledger in ledgers:
            check_run(ledger, seal)
        found = portfolio(ledgers, seal=seal)
    except LedgerCorrupt as error:
        code = tampered(error)
        if seal is not None:
            click.echo(
                "secagg: --head-key is asked of every ledger; audit one without a signature, or of "
                "another key, by itself",
                err=True,
            )
        return code
    if as_json:
        click.echo(json.dumps(found.as_json(), allow_nan=False))
    else:
        out = screen()
        table = Table(title="ledgers side by side", title_justify="left")
        for name in (
            "ledger",
            "purpose",
            "unit",
            "clients",
            "epsilon",
            "budget",
            "delta",
            "verdict",
        ):
            numeric = name in ("clients", "epsilon", "budget", "delta")
            table.add_column(name, justify="right" if numeric else "left")
        for place, one in zip(ledgers, found.audits, strict=True):
            for section in one.sections:
                table.add_row(
                    str(place.parent if place.name == LEDGER else place),
                    one.purpose or "nobody stated",
                    section.unit.value,
                    f"{len(section.subjects):,}",
                    bound(section.epsilon),
                    bound(section.budget[0]),
                    as_delta(section.total_delta),
                    one.verdict_in_words,
                )
        out.print(table)
        for together in found.together:
            out.print(together.sentence)
        out.print(
            "No budget stands over all of them: each was held to its own alone. That a name means "
            "the same person in every ledger, and that no plan was chosen from another ledger's "
            "output, is their keepers' word."
        )
    return OVER_BUDGET if any(one.over for one in found.audits) else SOUND


def show_verified(
    found: "Verified", beside: str, seal: "HeadSigner | None", *, as_json: bool
) -> int:
    """What was checked without pricing anything."""
    from dp.ledger.books import Protection
    from secagg.audit.report import KeySigner
    from secagg.audit.values import SCHEMA, fingerprint, head_text, in_words, kinds

    key = seal.public if isinstance(seal, KeySigner) else b""
    words = in_words(found.protection, head=found.head, kept=found.kept, beside=beside, key=key)
    unchecked = Protection.UNCHECKED in found.protection
    verdict = Protection.UNCHECKED.value if unchecked else "verified"
    text, records = head_text(found.head), found.head.seq + 1
    if as_json:
        answer = {
            "schema": SCHEMA,
            "verdict": verdict,
            "records": records,
            "head": text,
            "protection": kinds(found.protection, beside),
            "protection_in_words": words,
            "head_given": found.kept,
            "key": fingerprint(key) if key else None,
        }
        click.echo(json.dumps(answer))
    else:
        click.echo(f"{counted(records, 'record')}, chain and accounts agree")
        click.echo("\n".join([*words, f"head: {text}", f"Verdict: {verdict}"]))
    return SOUND


def _print(result: "Audit") -> None:
    out = screen()
    out.print(f"{result.purpose or 'Nobody stated what this is a ledger of'}: {result.ledger}")
    out.print(f"data: {result.data_set or 'nobody stated which'}")
    out.print(f"who answers for it: {result.organisation or 'nobody stated'}")
    out.print(f"parties: {result.parties or 'nobody stated where they ran'}")
    out.print(f"{result.digest_text}; audited on {result.made_on}")
    if result.releases:
        last = result.releases[-1]
        out.print(
            f"model of round {last.round}: digest of its values, not of its file, "
            f"{last.model.hex()}"
        )
    if result.model is None:
        out.print("no model file was looked at")
    else:
        style = "bold red" if result.another_model else ""
        out.print(Text(result.model.sentence, style=style))
    if word := [row.item for row in result.rows if row.source == "keeper"]:
        out.print(f"On the keeper's word alone: {'; '.join(word)}.")
    out.print(f"seal: {result.seal}")
    out.print()
    for section in result.sections:
        out.print(_table(section))
        out.print(section.sentence)
        if section.open:
            held = counted(section.open, "reservation")
            out.print(f"{held} open: counted as spent, unfinished")
        out.print()
    if not result.sections:
        out.print(
            "No charge stands in this ledger: nothing was released, or nothing wrote it down."
        )
    if result.over:
        more = len(result.over) - _MAX_NAMES
        names = ", ".join(result.over[:_MAX_NAMES]) + (f" and {more:,} more" if more > 0 else "")
        out.print(Text(f"OVER BUDGET: {names}", style="bold red"))
    if result.measured:
        out.print("Measured by attacks, as the file of --attack-results says:")
        for one in result.measured:
            out.print(f"  {one.sentence}")
    if result.contradictions:
        words = "CONTRADICTED: a measured lower bound is above the epsilon that this ledger states"
        out.print(Text(words, style="bold red"))
    missing = [row.item for row in result.rows if row.source == "nobody"]
    if missing:
        out.print(Text(f"Nobody stated: {'; '.join(missing)}.", style="bold"))
    for words in result.protection_in_words:
        out.print(f"Against tampering: {words}.")
    out.print(f"Kept by the {result.keeper.value}; head to keep elsewhere: {result.head_text}")
    out.print(f"Verdict: {result.verdict_in_words}")


def _table(section: "Section") -> Table:
    from secagg.audit.values import ONE

    clients, rounds = (
        counted(len(section.subjects), "client"),
        counted(len(section.rounds), "round"),
    )
    adjacency = section.adjacency.value.replace("_", " ")
    title = f"for {ONE[section.unit]}, {adjacency}: {clients} charged, {rounds}"
    table = Table(title=title, title_justify="left")
    for name in (
        *("against", "epsilon", "budget", "accountant", "delta"),
        *("epsilon by RDP", "with actual noise", "least budget left"),
    ):
        words = name in ("against", "accountant")
        table.add_column(name, justify="left" if words else "right", min_width=10 if words else 0)
    for book, report in section.books.items():
        left = min(
            1 - subject.accounts[book].share
            for subject in section.subjects
            if book in subject.accounts
        )
        table.add_row(
            _AGAINST[book.value],
            bound(report.epsilon),
            bound(section.budget[0]),
            report.accountant.upper(),
            as_delta(section.total_delta),
            bound(report.rdp),
            bound(report.actual),
            f"{int(1000 * left) / 10:g} %" if left >= 0 else "passed",
        )
    return table


def _check_target(html: Path, ledger: Path) -> None:
    """Refuse to write over the ledger, its journal or its index."""
    forbidden = [ledger.with_name(ledger.name + end) for end in ("", "-wal", "-shm")]
    same = any(
        html.resolve() == path.resolve()
        or (html.exists() and path.exists() and html.samefile(path))
        for path in forbidden
    )
    if same:
        raise InputError(f"--html {html} is the ledger itself; choose another file")
