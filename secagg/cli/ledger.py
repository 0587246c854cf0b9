"""``secagg ledger seal | head | verify``: what makes a ledger tamper-evident, without a program."""

import json
from pathlib import Path

import click

from secagg.cli.audit import check_run, show_verified, tampered
from secagg.cli.heads import LEDGER_PLACE, heads_of, verifier
from secagg.cli.screen import JSON, OUT_FILE, PLACE

_LEDGER = click.argument("ledger", type=LEDGER_PLACE)
_HEAD = click.option(
    "--expected-head",
    metavar="SEQ:HASH",
    help="Number and hash of a record, kept outside the file, or a file of them; the ledger must "
    "still hold it.",
)
_KEY = click.option(
    "--head-key",
    metavar="FILE",
    help="Ed25519 public key that the last record is signed with: PATH.pub of secagg keys new, 32 "
    "raw bytes in a file, or 64 hex digits.",
)


@click.group(
    epilog="""\b
In this order:
  secagg keys new keeper.key --name keeper         and keeper.key.pub to the auditor
  secagg ledger seal ledger.sqlite --signing-key keeper.key
  secagg ledger head ledger.sqlite --out head.txt  and keep head.txt somewhere else
  secagg ledger verify ledger.sqlite --expected-head head.txt --head-key keeper.key.pub
"""
)
def ledger() -> None:
    """Sign a privacy ledger, print the end of its chain, check both.

    A ledger alone shows accidents: whoever can write the file can make all of it. A head that is
    kept elsewhere shows every edit and loss up to it; a signature shows every edit by whoever lacks
    the key, but not that the whole file is an older copy.
    """


@ledger.command(
    epilog="""\b
Example:
  secagg ledger seal runs/train/ledger.sqlite --signing-key keeper.key

From then on whoever writes in it needs the key too: secagg train --resume --seal keeper.key.
"""
)
@_LEDGER
@click.option(
    "--signing-key",
    type=PLACE,
    required=True,
    help="Private key that signs, of secagg keys new.",
)
def seal(*, ledger: Path, signing_key: Path) -> int:
    """Sign the head of a ledger, now and from now on. The whole file is verified first.

    That what stands in it was true before, no signature made now can show.
    """
    from dp.errors import LedgerCorrupt
    from dp.ledger.ledger import Ledger
    from secagg.audit.report import open_ledger, signer
    from secagg.audit.values import head_text
    from secagg.nodes.identities import load_identity

    identity = load_identity(signing_key)
    try:
        open_ledger(ledger, None).close()  # says what it is, if it is none
        with Ledger.open(ledger) as book:
            book.seal(signer(identity.key))
            head = book.head()
    except LedgerCorrupt as error:
        return tampered(error)
    click.echo(f"{ledger} is signed by {identity.name}, {identity.key.public.hex()}")
    click.echo(f"head: {head_text(head)}")
    return 0


@ledger.command(
    epilog="""\b
Examples:
  secagg ledger head runs/train/ledger.sqlite
  secagg ledger head ledger.sqlite --out /mnt/elsewhere/head.txt
"""
)
@_LEDGER
@_KEY
@click.option("--out", type=OUT_FILE, help="File for it, which must not be there yet.")
@JSON
def head(*, ledger: Path, head_key: str | None, out: Path | None, as_json: bool) -> int:
    """Print the end of the chain, SEQ:HASH, after the whole of it was verified.

    Keep it where the ledger's keeper cannot write, and give it to --expected-head next time.
    """
    from dp.errors import LedgerCorrupt
    from secagg.audit.report import verify
    from secagg.audit.values import head_text
    from secagg.files import write_new

    try:
        found = verify(ledger, seal=verifier(head_key, option="--head-key"))
    except LedgerCorrupt as error:
        return tampered(error)
    text = head_text(found.head)
    if out is not None:
        write_new(out, f"{text}\n".encode())
    click.echo(json.dumps({"head": text}) if as_json else text)
    return 0


@ledger.command(
    epilog="""\b
Example:
  secagg ledger verify ledger.sqlite --expected-head head.txt --head-key keeper.key.pub

Exit codes: 0 sound, or signed and not checked, 2 bad input, 3 tampered with or inconsistent.
"""
)
@_LEDGER
@_HEAD
@_KEY
@JSON
def verify(*, ledger: Path, expected_head: str | None, head_key: str | None, as_json: bool) -> int:
    """Check chain, accounts and signature; price nothing. secagg audit --verify is the same."""
    from dp.errors import LedgerCorrupt
    from secagg.audit import report

    kept, beside = heads_of(expected_head, ledger, option="--expected-head")
    seal = verifier(head_key, option="--head-key")
    try:
        check_run(ledger, seal)
        found = report.verify(ledger, head=kept, seal=seal)
    except LedgerCorrupt as error:
        return tampered(error)
    return show_verified(found, beside, seal, as_json=as_json)
