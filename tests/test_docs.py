"""The Python of every page runs, in order, and prints what its comments say.

A block that cannot run here has ``<!-- not run: why -->`` on the line above it.
"""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
OTHER = {"", "console", "diff", "text", "toml"}  # not Python, and never run
BLOCK = re.compile(
    r"(?P<above>^.*\n)?^(?P<fence> *`{3,})(?P<language>.*)\n(?P<code>(?:.*\n)*?)(?P=fence)$",
    re.MULTILINE,
)
NOT_RUN = re.compile(r"<!-- not run: \w.+ -->\n")
OURS = {"secagg", "dp", "protocols"}
# Looked things up in, and not read from top to bottom.
LOOKED_UP = ("CHANGELOG.md", "docs/benchmarks.md", "docs/protocols/", "docs/reference/")


def blocks(page: Path) -> list[re.Match[str]]:
    """The fenced blocks of Python that run."""
    return [
        block
        for block in BLOCK.finditer(page.read_text("utf-8"))
        if block["language"] == "python" and not NOT_RUN.fullmatch(block["above"] or "")
    ]


def first_of_ours(code: str) -> str | None:
    """The first of the three packages that a program imports."""
    for node in ast.parse(code).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if (top := name.split(".")[0]) in OURS:
                return top
    return None


def test_code_is_found_and_what_is_not_run_says_why(tmp_path: Path) -> None:
    assert {"README.md", "flower-with-noise.md", "audit.md"} <= {
        page.name for page in PAGES if blocks(page)
    }
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: it needs a cluster -->\n```python\nfar()\n```\n"
        "<!-- not run: -->\n```python\nnear()\n```\n"
    )
    assert [block["code"] for block in blocks(page)] == ["near()\n"]


def test_no_code_hides_behind_another_fence() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        found = list(BLOCK.finditer(text))
        assert 2 * len(found) == len(re.findall(r"^ *```", text, re.MULTILINE)), page
        assert {block["language"] for block in found} <= OTHER | {"python"}, page


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda p: p.name)
def test_the_code_of_a_page_runs_and_prints_what_its_comments_say(
    page: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks(page):
        exec(compile(block["code"], page.name, "exec"), namespace)  # noqa: S102  # that is the test
        printed = capsys.readouterr().out.splitlines()
        assert printed == re.findall(r"print\(.*\)  # (.*)", block["code"])


def test_a_page_is_read_in_one_sitting() -> None:
    long = {
        str(page.relative_to(ROOT)): len(page.read_text("utf-8").splitlines()) for page in PAGES
    }
    assert {
        page: lines
        for page, lines in long.items()
        if lines > 200 and not page.startswith(LOOKED_UP)
    } == {}


def test_examples_import_secagg_first_so_that_its_guard_runs() -> None:
    programs = [block["code"] for page in PAGES for block in blocks(page)]
    programs += [path.read_text("utf-8") for path in ROOT.glob("examples/**/*.py")]
    found = [first_of_ours(program) for program in programs]
    assert "secagg" in found
    assert set(found) <= {"secagg", None}
