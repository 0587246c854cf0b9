"""``secagg doctor``: whether this machine has what sums need, a line each, and how to mend it.

Exit code 2 if something must be mended. An extra that is not installed is no fault.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click
import numpy as np
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.table import Table

from protocols.primitives.prg import SEED_SIZE, Stream, Suite, has_vaes
from protocols.secrets import Secret
from secagg.cli.screen import JSON, screen
from secagg.extras import install

OK, ABSENT, WRONG = "ok", "absent", "wrong"
DEVELOPMENT: Final = ("dev", "bench", "all")  # extras that are others put together
WORDS: Final = 2**17  # of one measurement: 1 MiB, 1 ms at a gigabyte a second
SECONDS: Final = 0.2  # of one suite


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line.

    Attributes:
      what: was looked at.
      state: ``ok``, ``absent`` where nothing needs it to be there, or ``wrong``.
      told: what was found.
      cure: a command or a sentence; empty where there is nothing to mend.
    """

    what: str
    state: str
    told: str
    cure: str = ""


@click.command(
    epilog="""\b
Examples:
  secagg doctor
  secagg doctor --json
"""
)
@JSON
def doctor(*, as_json: bool) -> int:
    """Say whether this machine has what sums need.

    One line each: the interpreter, the libraries and their versions, how fast masks are made, what
    each extra adds, a GPU, and whether files can be written here. Exit code 2 if something must be
    mended; an extra that is not installed is no fault.
    """
    found = list(findings())
    wrong = [each for each in found if each.state == WRONG]
    if as_json:
        click.echo(json.dumps({"ok": not wrong, "findings": [asdict(each) for each in found]}))
        return 2 if wrong else 0
    table = Table(box=None, show_header=False, pad_edge=False)
    for each in found:
        told = f"{each.told}; {each.cure}" if each.cure else each.told
        table.add_row(each.state, each.what, told)
    screen().print(table)
    if wrong:
        click.echo(f"{len(wrong)} to mend: {', '.join(each.what for each in wrong)}")
    return 2 if wrong else 0


def findings() -> Iterator[Finding]:
    """All lines, in order."""
    installed = distribution("secagg")
    needs = [Requirement(line) for line in installed.requires or ()]
    yield Finding(what="secagg", state=OK, told=installed.version)
    yield interpreter(SpecifierSet(installed.metadata["Requires-Python"] or ""))
    yield libraries(needs)
    for suite in Suite:
        yield speed(suite)
    for extra in installed.metadata.get_all("Provides-Extra") or ():
        if extra not in DEVELOPMENT:
            yield of_extra(extra, needs)
    yield gpu()
    for name, folder in (("this folder", Path.cwd), ("temporary files", tempfile.gettempdir)):
        yield writable(name, folder)


def interpreter(supported: SpecifierSet) -> Finding:
    """Python's version."""
    here = "{}.{}.{}".format(*sys.version_info[:3])
    if here in supported:
        return Finding(what="Python", state=OK, told=here)
    cure = f"take a Python {supported}"
    return Finding(what="Python", state=WRONG, told=f"{here} is not supported", cure=cure)


def libraries(needs: list[Requirement]) -> Finding:
    """What the package cannot be without."""
    base = [each for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
    faults = [told for each in base if (told := fault(each))]
    if faults:
        return Finding(
            what="libraries", state=WRONG, told=", ".join(faults), cure=_pip(base, faults)
        )
    told = ", ".join(f"{each.name} {version(each.name)}" for each in base)
    return Finding(what="libraries", state=OK, told=told)


def fault(need: Requirement) -> str:
    """What is wrong with an installed library; empty if nothing is."""
    try:
        found = version(need.name)
    except PackageNotFoundError:
        return f"{need.name} is missing"
    if need.specifier.contains(found, prereleases=True):
        return ""
    return f"{need.name} {found} is not {need.specifier}"


def speed(suite: Suite) -> Finding:
    """How fast a core makes masks."""
    stream = Stream(Secret(bytes(SEED_SIZE)), b"secagg doctor", suite)
    words = np.zeros(WORDS, np.uint64)
    stream.fill(words)
    began, rounds = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < SECONDS:
        stream.fill(words)
        rounds += 1
    told = f"{words.nbytes * rounds / taken / 1e9:.2g} GB/s of masks, one core"
    if suite is Suite.AES_128_CTR and has_vaes():
        told += ", several blocks at once (VAES)"
    return Finding(what=suite.name, state=OK, told=told)


def of_extra(extra: str, needs: list[Requirement]) -> Finding:
    """Whether an extra is there, in versions that this package was made for."""
    own = _of(extra, needs)
    what = f"extra {extra}"
    missing = [each.name for each in own if fault(each).endswith("is missing")]
    clashes = [told for each in own if (told := fault(each)) and not told.endswith("is missing")]
    if clashes:
        cure = install(extra)
        return Finding(what=what, state=WRONG, told=", ".join(clashes), cure=cure)
    if missing:
        told = f"without {', '.join(missing)}"
        return Finding(what=what, state=ABSENT, told=told, cure=install(extra))
    told = ", ".join(f"{each.name} {version(each.name)}" for each in own)
    return Finding(what=what, state=OK, told=told)


def _of(extra: str, needs: list[Requirement]) -> list[Requirement]:
    """The libraries of an extra, and of extras that it names."""
    found: list[Requirement] = []
    for each in needs:
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            continue
        if not each.marker.evaluate({"extra": extra}):
            continue
        if each.name == "secagg":
            for other in sorted(each.extras):
                found += _of(other, needs)
        else:
            found.append(each)
    return found


def gpu() -> Finding:
    """Whether masks can be made on a device."""
    if find_spec("torch") is None:
        return Finding(what="GPU", state=ABSENT, told="not looked for, as there is no torch")
    from secagg.rounds.device import why_not

    if why := why_not(Suite.CHACHA20):
        return Finding(what="GPU", state=ABSENT, told=f"{why}: masks are made on the cores")
    import torch

    return Finding(what="GPU", state=OK, told=torch.cuda.get_device_name())


def writable(what: str, folder: Callable[[], str | Path]) -> Finding:
    """Whether files can be written and read again where they are kept."""
    try:
        place = Path(folder())
        handle, name = tempfile.mkstemp(prefix=".secagg-doctor-", dir=place)
        try:
            os.write(handle, b"1")
            os.fsync(handle)
        finally:
            os.close(handle)
            Path(name).unlink()
    except OSError as error:
        told = f"cannot be written: {error.strerror or error}"
        cure = "runs, ledgers and keys need a folder that can"
        return Finding(what=what, state=WRONG, told=told, cure=cure)
    return Finding(what=what, state=OK, told="can be written")


def _pip(base: list[Requirement], faults: list[str]) -> str:
    named = {told.split(" ", 1)[0] for told in faults}
    asked = (f"'{each.name}{each.specifier}'" for each in base if each.name in named)
    return f"pip install {' '.join(asked)}"
