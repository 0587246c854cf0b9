"""Run report, audit and attacks in a real browser: light, dark, on a phone, on paper, silent."""

import base64
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looking import asked_for, complaints, pixels

from dp.accounting.events import GaussianEvent, NeighboringRelation, NoSampling, Unit
from dp.ledger.ledger import Budget, Ledger
from secagg.attacks.canaries import client_cosines, one_run
from secagg.attacks.inversion import invert_gradients
from secagg.attacks.membership import Models, membership
from secagg.attacks.page import page as attack_page
from secagg.attacks.suite import BROKEN, AttackSuite, Found, Job
from secagg.audit.page import page
from secagg.audit.report import audit
from secagg.training import loop as training
from secagg.training.report import report
from secagg.training.runs import AUDIT, REPORT, RunFolder
from secagg.training.settings import TrainingConfig, noise_and_unit

pytestmark = pytest.mark.slow

PHONE = 390  # CSS pixels
PAPER = 680  # A4 less the page's margins of 15 mm, 180 mm at 96 pixels an inch
ROUNDS, LONG = 6, 60  # of a run, and of the same run drawn out
PAGES = [
    *(f"{mode_name}/{REPORT}" for mode_name in ("distributed", "client", "local", "none")),
    *(f"{mode_name}/{AUDIT}" for mode_name in ("distributed", "client", "local")),
    *(f"many/{file}" for file in (REPORT, AUDIT)),
    "attacks/attack.html",
]

# What lies outside the page, is cut off by its own box, or is a label written over another.
LOOK = """(() => {
  const found = [], width = WIDTH;
  const name = e => e.tagName + '.' + (e.getAttribute('class') || '') + ' '
    + e.textContent.slice(0, 40);
  const hidden = e => e.closest('.hidden') || e.closest('title');
  for (const e of document.querySelectorAll('body *')) {
    if (hidden(e) || !e.checkVisibility()) continue;
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    const scrolls = e.closest('.wide') && SCROLL;
    if (!scrolls && box.width && (box.right > width + 1 || box.left < -1))
      found.push('outside: ' + name(e));
    const cuts = style.overflowX != 'visible' && !(e.matches('.wide') && SCROLL);
    if (cuts && !(e instanceof SVGElement) && e.scrollWidth > e.clientWidth + 1)
      found.push('cut: ' + name(e));
  }
  for (const svg of document.querySelectorAll('svg')) {
    const own = svg.closest('figure').getBoundingClientRect();
    const boxes = [...svg.querySelectorAll('text')].map(t => [t, t.getBoundingClientRect()]);
    boxes.forEach(([t, a], i) => {
      if (a.right > own.right + 1 || a.left < own.left - 1) found.push('out of figure: ' + name(t));
      boxes.slice(i + 1).forEach(([u, b]) => {
        if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
            Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2)
          found.push('over another: ' + t.textContent + ' / ' + u.textContent);
      });
    });
  }
  return found;
})()"""


def look(browser: Any, width: int, *, scroll: bool) -> Any:
    """``scroll``: a table may be wider than the page where it can be moved by itself."""
    return browser.script(
        LOOK.replace("WIDTH", str(width)).replace("SCROLL", "true" if scroll else "false")
    )


@pytest.fixture
def url(
    request: pytest.FixtureRequest,
    made: Callable[[str, Callable[[], Path]], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    name, file = request.param.split("/")

    def trained() -> Path:
        mode_name = "distributed" if name == "many" else name
        folder: Path = tmp_path_factory.mktemp("pages") / mode_name
        run = training.start(
            TrainingConfig(
                **noise_and_unit(mode_name), clients=8, rounds=ROUNDS, dropout=0.2, seed=1
            ),
            folder,
        )
        run.run()
        return folder

    def larger() -> Path:
        folder = many(tmp_path_factory.mktemp("many"))
        metrics = RunFolder.open(made("distributed", trained)).metrics
        rounds = [metrics["rounds"][at % ROUNDS] | {"round": at + 1} for at in range(LONG)]
        (folder / REPORT).write_text(report(metrics | {"rounds": rounds}))
        return folder

    def attacks() -> Path:
        return attacked(tmp_path_factory.mktemp("attacks"))

    make = {"many": larger, "attacks": attacks}.get(name, trained)
    return made(name, make).joinpath(file).as_uri()


def attacked(folder: Path) -> Path:
    """Every attack, as small as its charts are whole."""
    found = Found(plan=AttackSuite(quick=True))
    for part, run in (
        ("membership", partial(membership, "none", models=Models(2, 16))),
        ("membership", partial(membership, "local", pool=200, models=Models(1, 16))),
        ("audit", lambda: tuple(one_run("local", noise_share=share) for share in (1.0, BROKEN))),
        ("canaries", lambda: (client_cosines(clients=40, canaries=30, rounds=2),)),
        ("inversion", partial(invert_gradients, "mlp", clients=8, alone=8, search=50)),
    ):
        found.carry_out(Job(part=part, name=part, run=lambda tell, run=run: run(), about=(part,)))
    (folder / "attack.html").write_text(attack_page(found))
    return folder


def many(folder: Path) -> Path:
    """250 clients, 120 rounds, some drop out, one with a long name passes its budget."""

    def at(noise: float) -> GaussianEvent:
        return GaussianEvent(
            noise_multiplier=noise,
            sampling=NoSampling(),
            unit=Unit.CLIENT,
            adjacency=NeighboringRelation.ZERO_OUT,
        )

    clients = [*(f"client-{n}" for n in range(249)), "W" * 256]
    with Ledger.create(folder / "ledger", Budget(epsilon=8, delta=1e-5)) as book:
        for number in range(1, 121):
            book.reserve(number, dict.fromkeys(clients, at(40)), minimum_survivors=100)
            gone = [name for n, name in enumerate(clients[:-1]) if (n + 7 * number) % 9 == n % 5]
            there = dict.fromkeys(set(clients) - {*gone}, at(55))
            if number == 120:
                there |= {clients[-1]: at(0.5)}
            book.commit(number, there, survivors=len(there))
            if number % 2:
                book.abort(number, gone)
    found = audit(folder / "ledger")
    assert found.over == (clients[-1],)
    (folder / AUDIT).write_text(page(found))
    return folder


@pytest.mark.parametrize("url", PAGES, indirect=True)
def test_a_page_asks_for_nothing_but_itself_and_nobody_complains(browser: Any, url: str) -> None:
    events = browser.open(url)
    assert asked_for(events) == [url]
    assert complaints(events) == []


def test_a_page_that_does_ask_for_something_is_found(browser: Any, tmp_path: Path) -> None:
    """Port 9 answers nobody: what counts is the asking."""
    loud = tmp_path / "loud.html"
    loud.write_text('<img src="http://127.0.0.1:9/a"><script>console.log(1); x()</script>')
    events = browser.open(loud.as_uri())
    assert "http://127.0.0.1:9/a" in asked_for(events)
    assert len(complaints(events)) >= 2


@pytest.mark.parametrize("url", PAGES[:1], indirect=True)
def test_the_pages_own_policy_stops_what_slips_in_and_that_is_heard(
    browser: Any, url: str, tmp_path: Path
) -> None:
    whole = Path(url.removeprefix("file://")).read_text()
    slipped = tmp_path / "slipped.html"
    slipped.write_text(whole.replace("<main>", '<main><img src="http://127.0.0.1:9/a">'))
    assert "Content Security Policy" in str(complaints(browser.open(slipped.as_uri())))


@pytest.mark.parametrize("url", PAGES, indirect=True)
def test_a_page_is_light_by_day_and_dark_by_night_and_its_letters_stand_out(
    browser: Any, url: str
) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        browser.open(url, scheme=scheme)
        seen = pixels(browser)
        brightness[scheme] = float(seen[2, 2].mean())
        # Something is written: a good share of contrast on the first screen.
        assert np.ptp(seen.mean(axis=2)) > 0.6
        assert look(browser, 1200, scroll=True) == []
    assert brightness["light"] > 0.9
    assert brightness["dark"] < 0.2


@pytest.mark.parametrize("url", PAGES, indirect=True)
def test_a_page_fits_a_phone(browser: Any, url: str) -> None:
    browser.open(url, width=PHONE, height=844)
    browser.script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.script("innerWidth") == PHONE
    assert browser.script("document.documentElement.scrollWidth") <= PHONE
    assert look(browser, PHONE, scroll=True) == []


def test_what_does_not_fit_or_is_written_twice_is_found(browser: Any, tmp_path: Path) -> None:
    wide = tmp_path / "wide.html"
    wide.write_text(
        '<meta name="viewport" content="width=device-width"><p style="width: 900px">wide</p>'
        '<div style="width: 50px; overflow: hidden; white-space: nowrap">cut off, all of it</div>'
        '<figure><svg viewBox="0 0 99 99"><text x="9" y="50">one</text><text x="9" y="51">two'
        "</text></svg></figure>"
    )
    browser.open(wide.as_uri(), width=PHONE, height=844)
    assert browser.script("document.documentElement.scrollWidth") > PHONE
    found = str(look(browser, PHONE, scroll=True))
    for words in ("outside: P", "cut: DIV", "over another: one / two"):
        assert words in found


@pytest.mark.parametrize("url", PAGES, indirect=True)
def test_a_page_is_whole_on_paper(browser: Any, url: str) -> None:
    """Nothing to scroll or to open there: every table is shown, and nothing is cut off."""
    browser.open(url, width=PAPER, media="print", scheme="dark")
    assert browser.script("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert look(browser, PAPER, scroll=False) == []
    tables = (
        "[...document.querySelectorAll('details tr')].map(e => e.getBoundingClientRect().height)"
    )
    heights = browser.script(tables)
    assert heights
    assert min(heights) > 0
    printed = base64.b64decode(browser.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 1


@pytest.mark.parametrize("url", PAGES[:1], indirect=True)
def test_the_report_leads_to_the_audit_without_a_network(browser: Any, url: str) -> None:
    browser.open(url)
    browser.events.clear()
    browser.script("document.querySelector('header a').click()")
    while not any(event.get("method") == "Page.loadEventFired" for event in browser.events):
        browser.events.append(browser._message())
    assert browser.script("location.href") == url.replace(REPORT, AUDIT)
    title = browser.script("document.querySelector('h1').textContent")
    assert title == "Nobody passed the budget, epsilon 2.0 at delta 1e-4 for one example."
