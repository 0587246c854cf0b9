"""``secagg audit LEDGER``: the report on screen, as JSON, as a page.

Exit codes: 0 sound, 1 over budget, 2 bad input, 3 tampered with or inconsistent, which a
ledger also is with a measured bound above the epsilon that it states.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from secagg.cli.screen import JSON
from secagg.errors import InputError
from secagg.pages.numbers import bound, counted
from secagg.pages.numbers import delta as as_delta

if TYPE_CHECKING:
    from dp.ledger.ledger import Head, HeadSigner
    from secagg.audit.values import Audit, Section

SOUND, OVER_BUDGET, TAMPERED = 0, 1, 3  # bad input is 2, as everywhere
_MAX_NAMES = 5  # of subjects over budget, on screen


@click.command(
    epilog="""\b
Examples:
  secagg audit runs/train/ledger.sqlite
  secagg audit ledger.sqlite --html audit.html --json > audit.json
  secagg audit ledger.sqlite --expected-head 61:9f86d0... --verify
  secagg audit ledger.sqlite --head-key auditor.pub
  secagg audit ledger.sqlite --attack-results attack.json

Exit codes: 0 sound, 1 over budget, 2 bad input, 3 tampered with or inconsistent.
"""
)
@click.argument("ledger", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Check hashes, accounts, signature; no epsilon.")
@JSON
@click.option("--html", type=click.Path(path_type=Path), help="Write one self-contained page.")
@click.option(
    "--expected-head",
    metavar="SEQ:HASH",
    help="Number and hash of a record, kept outside the file; the ledger must still hold it.",
)
@click.option(
    "--head-key",
    metavar="FILE",
    help="Ed25519 public key that the last record is signed with: a file, or 64 hex digits.",
)
@click.option(
    "--attack-results",
    type=click.Path(path_type=Path),
    help="JSON with results of attacks on this training; shown beside the stated epsilon.",
)
def audit(
    *,
    ledger: Path,
    verify: bool,
    as_json: bool,
    html: Path | None,
    expected_head: str | None,
    head_key: str | None,
    attack_results: Path | None,
) -> int:
    """Compute anew what a privacy ledger proves.

    No epsilon that is stored is believed: all come from the records. Give --expected-head or
    --head-key, or the report says that the ledger is not tamper-evident.
    """
    from dp.errors import LedgerCorrupt  # numpy and the accountants take their time to import
    from secagg.audit import report as reports
    from secagg.audit.evidence import measured, read
    from secagg.audit.page import page
    from secagg.audit.values import SCHEMA, head_text
    from secagg.files import write_atomically

    if html is not None:
        if verify:
            raise InputError("--verify prices nothing, so there is no page; leave out --html")
        _check_target(html, ledger)
    if verify and attack_results is not None:
        raise InputError("--verify prices nothing to compare --attack-results with; leave out one")
    brought = () if attack_results is None else read(attack_results)
    kept, seal = _head(expected_head), _seal(head_key)
    try:
        if verify:
            found = reports.verify(ledger, head=kept, seal=seal)
            words = [kind.sentence for kind in found.protection]
            text = head_text(found.head)
            if as_json:
                answer = {
                    "schema": SCHEMA,
                    "verdict": "verified",
                    "records": found.head.seq + 1,
                    "head": text,
                    "protection": [kind.value for kind in found.protection],
                    "protection_in_words": words,
                }
                click.echo(json.dumps(answer))
            else:
                click.echo(f"{counted(found.head.seq + 1, 'record')}, chain and accounts agree")
                click.echo("\n".join([*words, f"head: {text}"]))
            return SOUND
        result = reports.audit(ledger, head=kept, seal=seal)
    except LedgerCorrupt as error:
        click.echo(f"secagg: {' '.join(str(error).split())}", err=True)
        return TAMPERED
    result = replace(result, measured=measured(brought, result.sections))
    if html is not None:
        write_atomically(html, page(result).encode())
    if as_json:
        click.echo(json.dumps(result.as_json(), allow_nan=False))
    else:
        _print(result)
    if result.contradictions:
        return TAMPERED  # inconsistent: records and measurement cannot both be of one training
    return OVER_BUDGET if result.over else SOUND


def _print(result: "Audit") -> None:
    out = Console(highlight=False, soft_wrap=True, markup=False)
    for section in result.sections:
        out.print(_table(section))
        out.print(section.sentence)
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
    for kind in result.protection:
        out.print(f"Against tampering: {kind.sentence}.")
    if result.unchecked_signature:
        out.print("The head is signed, and no --head-key was given to check it with.")
    out.print(f"Kept by the {result.keeper.value}; head to keep elsewhere: {result.head_text}")
    out.print(f"Verdict: {result.verdict}")


def _table(section: "Section") -> Table:
    unit, adjacency = section.unit.value, section.adjacency.value.replace("_", " ")
    subjects, rounds = (
        counted(len(section.subjects), "subject"),
        counted(len(section.rounds), "round"),
    )
    table = Table(title=f"one {unit}, {adjacency}: {subjects}, {rounds}", title_justify="left")
    for name in ("book", "epsilon", "by", "delta", "RDP", "actual", "budget left, least"):
        table.add_column(name, justify="left" if name in ("book", "by") else "right")
    for book, report in section.books.items():
        left = min(
            1 - subject.accounts[book].share
            for subject in section.subjects
            if book in subject.accounts
        )
        table.add_row(
            book.value,
            bound(report.epsilon),
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
    if html.is_dir():
        raise InputError(f"--html {html} is a folder; name a file")


def _head(text: str | None) -> "Head | None":
    """``SEQ:HASH``, or ``InputError``."""
    from dp.ledger.ledger import Head

    if text is None:
        return None
    seq, _, digest = text.partition(":")
    if not (seq.isdecimal() and seq.isascii() and len(seq) < 20 and _is_key(digest)):
        raise InputError(
            f"--expected-head {text!r:.100} is not SEQ:HASH, a number and 64 hex digits"
        )
    return Head(seq=int(seq), hash=bytes.fromhex(digest))


def _seal(text: str | None) -> "HeadSigner | None":
    """A public key as 64 hex digits, or a file of these or of 32 raw bytes; or ``InputError``."""
    from secagg.audit.report import seal_of

    if text is None:
        return None
    if _is_key(text):
        return seal_of(bytes.fromhex(text))
    try:
        with Path(text).open("rb") as file:
            held = file.read(100)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the key {text!r:.200}: {error}") from error
    if len(held) == 32:
        return seal_of(held)
    digits = held.strip().decode("ascii", "replace")
    if not _is_key(digits):
        raise InputError(f"{text!r:.200} holds no Ed25519 public key: 32 bytes or 64 hex digits")
    return seal_of(bytes.fromhex(digits))


def _is_key(text: str) -> bool:
    return len(text) == 64 and all(digit in "0123456789abcdefABCDEF" for digit in text)
