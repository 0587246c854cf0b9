"""docs/errors.md has the tree of the code, and a row for every error."""

import ast
import re
from pathlib import Path

import pytest

import dp.errors
import protocols.errors
import secagg
import secagg.errors

PAGE = (Path(__file__).parents[1] / "docs" / "errors.md").read_text("utf-8")
MODULES = (secagg.errors, dp.errors, protocols.errors)
ROOTS = (secagg.SecaggError, secagg.PrivacyError, secagg.ProtocolError)
OURS = [
    one
    for module in MODULES
    for one in vars(module).values()
    if isinstance(one, type) and one.__module__ == module.__name__
]


def name_of(error: type) -> str:
    """The name under which ``secagg`` gives it."""
    if getattr(secagg, error.__name__) is error:
        return f"secagg.{error.__name__}"
    return f"secagg.{error.__module__.partition('.')[0]}.{error.__name__}"


def tree(error: type, depth: int = 0) -> list[str]:
    """A line for an error and each below it."""
    pythons = [base.__name__ for base in error.__bases__ if base.__module__ == "builtins"]
    line = " " * 4 * depth + name_of(error) + (f" ({', '.join(pythons)})" if pythons else "")
    below = sorted((one for one in OURS if error in one.__bases__), key=name_of)
    return [line, *(each for one in below for each in tree(one, depth + 1))]


def test_the_tree_of_the_page_is_that_of_the_code() -> None:
    (shown,) = re.findall(r"^```text\n(.*?)```$", PAGE, re.DOTALL | re.MULTILINE)
    assert shown.splitlines() == [line for root in ROOTS for line in tree(root)]


def test_every_error_has_its_row_and_no_row_is_stale() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(name_of(error) for error in OURS)


@pytest.mark.parametrize("error", OURS, ids=name_of)
def test_an_error_is_given_by_secagg_and_stands_under_one_root(error: type) -> None:
    *_, package, name = name_of(error).split(".")
    assert getattr({"secagg": secagg, "dp": dp, "protocols": protocols}[package], name) is error
    assert sum(issubclass(error, root) for root in ROOTS) == 1
    assert issubclass(error, ValueError) == (error.__name__ == "InputError")


def test_no_error_is_defined_elsewhere() -> None:
    places = {Path(module.__file__ or "") for module in MODULES}
    known = {error.__name__ for error in OURS}  # not signals that stay inside one module
    modules = [path for place in places for path in place.parent.rglob("*.py")]
    assert len(modules) > 100
    for path in set(modules) - places:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                assert not bases & known, f"{path}:{node.lineno}: {node.name}"


def test_the_page_has_the_exit_codes_of_the_commands() -> None:
    from secagg.cli import attack, audit, bench, train

    rows = set(re.findall(r"^\| (\d+) \| ([^|]+) \|", PAGE, re.MULTILINE))
    for code, command in (
        (audit.OVER_BUDGET, "`secagg audit`"),
        (bench.REGRESSION, "`secagg bench compare`"),
        (attack.REFUTED, "`secagg bench attack`"),
        (audit.TAMPERED, "`secagg audit`, `secagg ledger`"),
        (train.NOTHING, "`secagg train`"),
    ):
        assert (str(code), command) in rows
