"""How many of our own checks the vectors need: ``python tests/vectors/mutate.py [file ...]``.

Each check of ``protocols.bonawitz`` and of what it reads with is taken out, alone, and the vectors
are played against what is left. A check that can go unnoticed is printed: the vectors would not
tell that an implementation lacks it. Left out are errors of our own driver, which no message can
cause, and vectors of long inputs, which check no rule that others do not.
"""

import ast
import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

HERE = Path(__file__).parent
HOME = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HOME)]
FILES = (
    "protocols/wire.py",
    "protocols/collect.py",
    "protocols/primitives/agree.py",
    "protocols/primitives/sign.py",
    "protocols/bonawitz/params.py",
    "protocols/bonawitz/messages.py",
    "protocols/bonawitz/records.py",
    "protocols/bonawitz/client.py",
    "protocols/bonawitz/server.py",
)
REMOTE = {"DecodeError", "RemoteProtocolError", "TooFewSurvivors"}
LIMITS = REMOTE | {"InputError"}  # in params.py: of an Agreement
CALLS = {
    "check_agreed",
    "check_integer",
    "check_keys",
    "check_size",
    "expect",
    "expect_version",
    "finish",
    "refuse_low_order",
    "refuse_shared",
    "verify",
    "_admit",
    "_burn",
    "_check_majority",
    "_check_marks",
    "_check_roster",
    "_close",
    "_enough",
    "_drop_conflicts",
}
LARGEST = 40_000  # bytes of a vector that is played here


class Mutant(NamedTuple):
    file: str
    line: int
    source: str
    without: str  # the whole file


def mutants() -> Iterator[Mutant]:
    for file in FILES:
        text = (HOME / file).read_text()
        kinds = LIMITS if file.endswith("params.py") else REMOTE
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.If) and raises(node, kinds):
                yield edited(file, text, node.test, "({}) and False")
            if isinstance(node, ast.Expr) and called(node.value) in CALLS:
                yield edited(file, text, node, "None")


def raises(node: ast.If, kinds: set[str]) -> bool:
    last = node.body[-1]
    if not isinstance(last, ast.Raise):
        return False
    name = called(last.exc)
    return name in kinds or name == "_wrong"


def called(node: ast.AST | None) -> str:
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    return getattr(function, "attr", getattr(function, "id", ""))


def edited(file: str, text: str, node: ast.expr | ast.stmt, new: str) -> Mutant:
    lines = text.encode().splitlines(keepends=True)
    begin = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: (node.end_lineno or 0) - 1])) + (node.end_col_offset or 0)
    data = text.encode()
    old = data[begin:end].decode()
    without = data[:begin] + new.format(old).encode() + data[end:]
    return Mutant(file, node.lineno, " ".join(old.split()), without.decode())


class Changed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports one module from other text."""

    def __init__(self, file: str, text: str) -> None:
        self._name = file.removesuffix(".py").replace("/", ".")
        self._path, self._text = str(HOME / file), text

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> Any:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self._path)

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str) -> bytes:
        return self._text.encode()


@contextmanager
def without(mutant: Mutant | None) -> Iterator[None]:
    """Imports of ``protocols`` and of the vectors' players begin anew, with one file changed."""
    ours = {
        "test_vectors",
        "test_blocks",
        "test_picks",
        "test_second_implementation",
        "script",
        "picks",
        "blocks",
    }
    for name in list(sys.modules):
        if name in ours or name.split(".")[0] == "protocols":
            del sys.modules[name]
    finder = Changed(mutant.file, mutant.without) if mutant else None
    if finder:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder:
            sys.meta_path.remove(finder)


Kept = tuple[dict[str, Any], dict[str, dict[int, bytes]]]


def honest_round() -> Kept:
    """Messages and records of the round of picks, as bytes."""
    with without(None):
        played = importlib.import_module("picks").round_of_200()
        records = {
            kind: {client: record.expose() for client, record in found.items()}
            for kind, found in played.records.items()
        }
        return played.messages, records


def notices(kept: Kept, file: str = "") -> str:
    """The first vector that goes otherwise than it says, where ``file`` was changed."""
    try:
        vectors = importlib.import_module("test_vectors")
    except Exception as error:  # noqa: BLE001  # whatever a missing check leads to
        return f"import: {type(error).__name__}"
    small = [file for file in vectors.FILES if file.stat().st_size < LARGEST]
    refusing = sorted(small, key=lambda file: (not file.stem.startswith("refuses"), file.name))
    tried: list[tuple[str, Any]] = [(file.stem, (vectors.play, file)) for file in refusing]
    blocks = importlib.import_module("test_blocks")
    for kind, test in (
        ("agreements", blocks.test_an_agreement_is_read_or_refused),
        ("refused subsets", blocks.test_what_is_no_set_is_refused),
        ("refused signatures", blocks.test_what_is_no_signature_is_refused),
    ):
        if kind != "agreements" or file.endswith("params.py"):  # some have plans, which take time
            tried.extend((case["shows"], (test, case)) for case in blocks.FILE[kind])
    picks = importlib.import_module("test_picks")
    played = picks.picks.Round.again(*kept)
    cases = picks.FILE["cases"]
    tried.extend((case["shows"], (picks.play, case, played)) for case in cases)
    for name, (test, *given) in tried:
        try:
            test(*given)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001  # pytest's failures are no exceptions
            return name
    return ""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    named = sys.argv[1:] or FILES
    found = [mutant for mutant in mutants() if mutant.file in named]
    kept = honest_round()
    with without(None):
        if noticed := notices(kept):
            raise SystemExit(f"nothing was removed, and {noticed} fails")
    missed = []
    for mutant in found:
        with without(mutant):
            noticed = notices(kept, mutant.file)
        say(f"{mutant.file}:{mutant.line} {mutant.source[:70]} -> {noticed or 'NOBODY'}")
        if not noticed:
            missed.append(mutant)
    caught = len(found) - len(missed)
    say(f"\n{caught} of {len(found)} removed checks are noticed ({caught / len(found):.3f})")
    for mutant in missed:
        say(f"  not: {mutant.file}:{mutant.line} {mutant.source}")


if __name__ == "__main__":
    main()
