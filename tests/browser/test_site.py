"""The site in a real browser, from its folder alone: light, dark, on a phone, and its search."""

import time
from pathlib import Path
from typing import Any

import pytest
from looking import asked_for, complaints, pixels

pytestmark = pytest.mark.slow

PHONE = 390  # CSS pixels
PATIENCE = 20.0  # seconds for a search, on a machine that is busy
WIDE = {"width": 1200, "height": 900}
SIZES = {
    "light": WIDE | {"scheme": "light"},
    "dark": WIDE | {"scheme": "dark"},
    "phone": {"width": PHONE, "height": 844},
}
STATES = "docs/explanation/states.html"


@pytest.mark.parametrize("size", SIZES)
def test_no_page_complains_asks_elsewhere_or_scrolls_sideways(
    browser: Any, site: Path, size: str
) -> None:
    pages = [path for path in site.rglob("*.html") if path != site / "index.html"]
    assert len(pages) > 60
    for path in pages:
        events = browser.open(path.as_uri(), **SIZES[size])
        assert complaints(events) == [], path
        asked = asked_for(events)
        assert [one for one in asked if not one.startswith(site.as_uri())] == [], path
        wide = browser.script("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{path}: {wide} pixels too wide"


def test_the_front_leads_to_the_index(browser: Any, site: Path) -> None:
    browser.open((site / "docs" / "faq.html").as_uri())
    browser.script("location.href = '../index.html'")
    until(browser, "location.pathname.endsWith('/html/docs/index.html')")


def test_a_page_and_its_pictures_are_dark_by_night(browser: Any, site: Path) -> None:
    shown = {}
    for scheme in ("light", "dark"):
        browser.open((site / STATES).as_uri(), **SIZES[scheme])
        browser.script("document.querySelector('article img').scrollIntoView({block: 'center'})")
        box = browser.script(
            "(b => [b.left, b.top, b.right, b.bottom].map(Math.round))"
            "(document.querySelector('article img').getBoundingClientRect())"
        )
        left, top, right, bottom = box
        seen = pixels(browser)
        picture = seen[max(top, 0) : bottom, left:right]
        shown[scheme] = float(seen[2, 2].mean()), float(picture.mean()), float(picture.max())
    assert min(shown["light"][:2]) > 0.9
    assert max(shown["dark"][:2]) < 0.2
    assert shown["dark"][2] > 0.7  # its letters stand out


def test_a_reader_who_chose_dark_by_day_sees_dark_pictures(browser: Any, site: Path) -> None:
    browser.open((site / STATES).as_uri(), **SIZES["light"])
    browser.script("document.body.dataset.theme = 'dark'")
    scheme = "getComputedStyle(document.querySelector('article img')).colorScheme"
    assert browser.script(scheme) == "dark"


def test_the_search_finds_a_word_and_leads_to_its_page(browser: Any, site: Path) -> None:
    browser.open((site / "docs" / "index.html").as_uri())
    browser.script(
        "(f => { f.querySelector('input').value = 'Skellam'; f.submit() })"
        "(document.querySelector('.sidebar-search-container'))"
    )
    found = (
        "[...document.querySelectorAll('#search-results li a')].map(a => a.href.split(/[?#]/)[0])"
    )
    wanted = (site / "docs" / "privacy" / "distributed-noise.html").as_uri()
    until(browser, f"{found}.includes('{wanted}')")  # they are shown one after the other
    links = browser.script(found)
    assert all(Path(link.removeprefix("file://")).exists() for link in links)


def test_the_search_finds_nothing_where_there_is_nothing(browser: Any, site: Path) -> None:
    events = browser.open(f"{(site / 'search.html').as_uri()}?q=xyzzyplugh")
    until(browser, "document.querySelector('#search-results').textContent.includes('did not')")
    assert complaints(events) == []


def until(browser: Any, true: str) -> None:
    """Wait until a JavaScript expression is true, also while a page is replaced by another."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if browser.script(true):
                return
        except RuntimeError:  # the page went away under the question
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {PATIENCE:g} s: {true}")
