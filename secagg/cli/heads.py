"""Ledgers, heads of them and the keys that sign them, as commands are given them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from secagg.cli.screen import Place
from secagg.errors import InputError, RunError
from secagg.training.runs import LEDGER, REPORT, load_run

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


def verifier(text: str | None, *, option: str) -> "HeadSigner | None":
    """A public key: PATH.pub of ``secagg keys new``, a file of 32 bytes, or 64 hex digits."""
    from secagg.audit.report import seal_of
    from secagg.nodes.identities import load_public

    if text is None:
        return None
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
