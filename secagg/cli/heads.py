"""Ledgers, heads of them and the keys that sign them, as commands are given them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from secagg.cli.screen import Place
from secagg.errors import InputError, RunError
from secagg.training.runs import LEDGER, METRICS, REPORT, load_run

if TYPE_CHECKING:
    from dp.ledger.ledger import Head, HeadSigner

_LONGEST = 1024  # bytes of a file that holds a head or a key


class _Ledger(Place):
    """A ledger, or the folder of a run that holds one."""

    name = "ledger"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        path = super().convert(value, param, ctx)
        if not path.is_dir():
            return path
        if not (path / LEDGER).is_file():
            if _without_noise(path):
                self.fail(
                    f"{str(path)!r} is a run that was made without noise: no differential privacy, "
                    f"so there is no ledger to audit; see its {REPORT}",
                    param,
                    ctx,
                )
            self.fail(f"{str(path)!r} is a folder without a {LEDGER}; name the file", param, ctx)
        return path / LEDGER


def _without_noise(folder: Path) -> bool:
    try:
        return load_run(folder).config.get("noise") == "none"
    except RunError:
        return False


LEDGER_PLACE: Final = _Ledger()


def head_of(text: str | None, *, option: str) -> "Head | None":
    """``SEQ:HASH``, or what is in a file of it; ``InputError`` for anything else."""
    from dp.ledger.ledger import Head

    if text is None:
        return None
    said = _read(text, option).decode() if os.path.lexists(text) else text
    seq, _, digest = said.strip().partition(":")
    if not (seq.isdecimal() and seq.isascii() and len(seq) < 20 and _is_key(digest)):
        raise InputError(
            f"{option} {text!r:.100} is not SEQ:HASH, a number and 64 hex digits, nor a file of it"
        )
    return Head(seq=int(seq), hash=bytes.fromhex(digest))


def heads_of(text: str | None, ledger: Path, *, option: str) -> "tuple[Head | None, str]":
    """The head to check a ledger with, and the file in its own folder that kept it, if one did.

    Without one given it is the head that metrics.json keeps beside a run's ledger.
    """
    if (given := head_of(text, option=option)) is not None and text is not None:
        path = Path(text)
        beside = os.path.lexists(text) and path.resolve().parent == ledger.resolve().parent
        return given, path.name if beside else ""
    kept = run_head(ledger)
    return kept, "" if kept is None else METRICS


def run_head(ledger: Path) -> "Head | None":
    """The last head that metrics.json keeps, where ``ledger`` lies in the folder of a run.

    Raises:
      RunError: the folder's files are damaged, or that of no run.
    """
    from dp.ledger.ledger import Head

    if ledger.name != LEDGER or not (ledger.parent / METRICS).is_file():
        return None
    run = load_run(ledger.parent)
    records = [*run.rounds, *([] if run.final is None else [run.final])]
    kept = next((record["ledger"] for record in records[::-1] if record.get("ledger")), None)
    if kept is None:
        return None
    try:
        return Head(seq=int(kept["seq"]), hash=bytes.fromhex(kept["hash"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{METRICS} does not say where the ledger stood") from error


def verifier(text: str | None, *, option: str) -> "HeadSigner | None":
    """A public key: PATH.pub of ``secagg keys new``, a file of 32 bytes, or 64 hex digits."""
    from secagg.audit.report import seal_of
    from secagg.nodes.identities import load_public

    if text is None:
        return None
    if " " in text.strip() and _is_key("".join(text.split())):
        raise InputError(f"{option} is a fingerprint, not a key; give PATH.pub of secagg keys new")
    if _is_key(text):
        return seal_of(bytes.fromhex(text))
    held = _read(text, option, raw=True)
    if held.startswith(b"secagg public identity "):
        return seal_of(load_public(text).public)
    if held.startswith(b"secagg identity "):
        raise InputError(f"{option} {text!r:.200} is a private key; give its public half, .pub")
    if len(held) == 32:
        return seal_of(held)
    digits = held.strip().decode("ascii", "replace")
    if not _is_key(digits):
        raise InputError(
            f"{option} {text!r:.200} holds no Ed25519 public key: PATH.pub of secagg keys new, 32 "
            "bytes, or 64 hex digits"
        )
    return seal_of(bytes.fromhex(digits))


def _read(path: str, option: str, *, raw: bool = False) -> bytes:
    try:
        with Path(path).open("rb") as file:
            held = file.read(_LONGEST)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{option}: cannot read {path!r:.200}: {reason}") from error
    return held if raw or held.isascii() else b""


def _is_key(text: str) -> bool:
    return len(text) == 64 and all(digit in "0123456789abcdefABCDEF" for digit in text)
