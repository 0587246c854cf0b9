"""What docs show is what the committed results say."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
DIAGRAMS = ROOT / "docs" / "site_diagrams.py"


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "benchmarks" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["figures"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["figures"])
    return sys.modules["figures"]


def test_every_picture_and_table_is_what_make_figures_draws(figures: ModuleType) -> None:
    stale = [path.name for path, text in figures.drawn() if path.read_bytes() != text]
    assert stale == [], "run `make figures`"


def test_every_picture_on_the_pages_is_drawn_from_results_or_from_the_code(
    figures: ModuleType,
) -> None:
    drawn = {figures.RESULTS / name for name in figures.PICTURES}
    drawn |= {path for path, _ in runpy.run_path(str(DIAGRAMS))["drawn"]()}
    for page in (ROOT / "docs").rglob("*.md"):
        for shown in re.findall(r"\]\(([^)]+\.svg)\)", page.read_text("utf-8")):
            assert (page.parent / shown).resolve() in drawn, f"{page.name}: {shown}"


def test_a_table_is_drawn_once_and_no_page_names_one_that_is_not(figures: ModuleType) -> None:
    named = [
        name
        for page in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"<!-- table: (\w+) -->", page.read_text("utf-8"))
    ]
    assert sorted(named) == sorted(figures.TABLES)
    with pytest.raises(KeyError):
        figures.filled("<!-- table: nobody -->\n<!-- end -->")


def test_a_changed_result_changes_the_page(figures: ModuleType) -> None:
    page = "before\n<!-- table: expansion -->\n| old |\n<!-- end -->\nafter\n"
    filled = figures.filled(page)
    assert "| old |" not in filled
    assert "1.73" in filled
    assert filled.startswith("before\n<!-- table: expansion -->\n| clients |")
    assert filled.endswith("<!-- end -->\nafter\n")
    assert figures.filled(filled) == filled
