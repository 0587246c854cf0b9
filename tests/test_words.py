"""One word for one thing: retired words stay out, and a summary begins with what it names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = [path for name in ("secagg", "dp", "protocols") for path in (ROOT / name).rglob("*.py")]
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "Makefile")),
    *ROOT.glob("secagg/**/*.html"),
    *ROOT.glob("examples/**/*.md"),
    *ROOT.glob("examples/**/*.py"),
    # What was decided, and under which names, stays as it was written.
    *(path for path in ROOT.glob("docs/**/*.md") if path.parent.name != "decisions"),
]
WORDS = ROOT / "docs" / "words.md"
ROW = re.compile(r"^\| `(?P<pattern>.+?)` \| (?P<now>[^|]+) \| (?P<files>[^|]*) \|$", re.MULTILINE)

# A summary that starts with one of these lacks its noun or its verb.
NO_START = re.compile(
    "(Of|Who|Whom|Whose|Where|Which|That|As|To|From|In|By|For|If|When|Under|On|At|With|So|Than|"
    "Until|Because|Before|After|Between|Among|And|But|Not)[ ,:;]"
)


def retired() -> list[tuple[str, set[Path]]]:
    """Every pattern of the page's last table, and the files that may still hold it."""
    table = WORDS.read_text("utf-8").partition("## Retired words")[2]
    return [
        (
            row["pattern"].replace(r"\|", "|"),
            {ROOT / n for n in re.findall("`(.+?)`", row["files"])},
        )
        for row in ROW.finditer(table)
    ]


def summaries(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and first docstring line of a module and of all that is public in it."""
    waiting: list[ast.Module | ast.ClassDef | ast.FunctionDef] = [tree]
    while waiting:
        node = waiting.pop()
        if text := ast.get_docstring(node):
            yield getattr(node, "lineno", 1), text.splitlines()[0]
        if not isinstance(node, ast.FunctionDef):
            waiting += [
                each
                for each in node.body
                if isinstance(each, ast.ClassDef | ast.FunctionDef)
                and not re.match("_[^_]", each.name)
            ]


def test_the_page_is_read() -> None:
    assert len(retired()) > 30
    for pattern, files in retired():
        for path in files:
            assert re.search(pattern, path.read_text("utf-8")), f"{path}: no longer an exception"


@pytest.mark.parametrize(("pattern", "files"), retired(), ids=[each for each, _ in retired()])
def test_a_retired_word_is_not_used_again(pattern: str, files: set[Path]) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in {*PRODUCT, *PAGES} - files - {WORDS}
        for match in re.finditer(pattern, path.read_text("utf-8"))
    ]
    assert not found


def test_every_summary_begins_with_a_noun_that_names_the_thing_or_a_verb() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in PRODUCT
        for line, text in summaries(ast.parse(path.read_text("utf-8")))
        if NO_START.match(text)
    ]
    assert not found


def test_a_summary_without_its_noun_is_found() -> None:
    (found,) = summaries(ast.parse('"""Of one client."""'))
    assert NO_START.match(found[1])
