"""The run report: one page that says what is true of the run and asks nothing of the network."""

import math
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.pages import numbers
from secagg.pages.markup import Markup, join, tag
from secagg.training.report import curves, report

STAGES = ("advertise", "share", "mask", "reveal")
VOID = {"meta", "link", "br"}


def round_of(number: int, **more: Any) -> dict[str, Any]:
    return {
        "round": number,
        "accuracy": 0.5 + number / 100,
        "loss": 1.0 / number,
        "survivors": 18,
        "clients": 20,
        "dropped": {"3": "mask", "11": "reveal"} if number == 2 else {},
        "lost": False,
        "bytes_up": 7_600,
        "bytes_down": 5_200,
        "bytes_up_stage": dict.fromkeys(STAGES, 1_900),
        "bytes_down_stage": dict.fromkeys(STAGES, 1_300),
        "milliseconds": dict.fromkeys(("train", *STAGES), 20.0),
        "epsilon": number * 0.25,
        **more,
    }


def metrics_of(
    rounds: int = 30,
    *,
    protocol: str = "bonawitz",
    noise: str = "local",
    finished: bool = True,
    **config: Any,
) -> dict[str, Any]:
    records = [round_of(number) for number in range(1, rounds + 1)]
    if noise == "none":
        records = [record | {"epsilon": None} for record in records]
    final = {
        "accuracy": 0.9312,
        "epsilon": None if noise == "none" else 7.991,
        "delta": None if noise == "none" else 1e-4,
        "rounds": rounds,
        "survivors_min": 14,
        "bytes_up_per_client": 7_600,
        "bytes_down_per_client": 5_200,
        "seconds": 33.2,
        "run": "runs/one",
    }
    return {
        "schema": 1,
        "config": {
            "data": "digits",
            "clients": 20,
            "rounds": 30,
            "partition": "iid",
            "threshold": 11,
            "minimum_survivors": 2,
            "protocol": protocol,
            "noise": noise,
            "unit": "example",
            "epsilon": 8.0,
            "delta": 1e-4,
            "noise_multiplier": 1.25,
        }
        | config,
        "rounds": records,
        "final": final if finished else None,
    }


class Page(HTMLParser):
    """Text by element, every attribute, and that each element that opens is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[tuple[tuple[str, ...], str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((tuple(self._open), data))

    def text(self, element: str = "body") -> str:
        found = (data for path, data in self.words if element in path and "style" not in path)
        return " ".join(" ".join(found).split())


VARIANTS = {
    "whole": metrics_of(),
    "plain": metrics_of(protocol="plain"),
    "not private": metrics_of(noise="none"),
    "nothing": metrics_of(protocol="plain", noise="none"),
    "one round": metrics_of(1),
    "unfinished": metrics_of(7, finished=False),
    "no rounds": metrics_of(0),
    "no rounds, unfinished": metrics_of(0, finished=False),
    "strange": metrics_of(3, protocol="magic", noise="maybe"),
    "empty": {},
    "many": metrics_of(300, clients=500),
    "lost": metrics_of(3) | {"rounds": [round_of(1), round_of(2, lost=True, accuracy=None)]},
}


@pytest.mark.parametrize("metrics", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_run_makes_a_well_formed_page_that_loads_nothing(metrics: dict[str, Any]) -> None:
    html = report(metrics)
    page = Page(html)
    assert not {"script", "iframe", "object", "embed", "img", "base", "form"} & {*page.tags}
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        assert name != "style"
        if name in {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}:
            assert value == "data:,"
    assert not re.search(r"url\(|@import|https?://", html)
    policy = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content")]
    assert any(value.startswith("default-src 'none'") for value in policy)


@pytest.mark.parametrize("metrics", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_run_makes_a_picture(metrics: dict[str, Any]) -> None:
    before = dict(mpl.rcParams)
    picture = curves(metrics)
    assert ElementTree.fromstring(picture).tag.endswith("svg")  # noqa: S314 - made just above
    assert dict(mpl.rcParams) == before


def test_the_headline_says_it_in_plain_words() -> None:
    assert Page(report(metrics_of())).text("h1") == (
        "20 clients, simulated in one process, trained together for 30 rounds; between real "
        "parties nobody would see one update; no example's presence changes what can be learned by "
        "more than epsilon 8.0 at delta 1e-4."
    )


def test_the_big_numbers_are_there() -> None:
    text = Page(report(metrics_of())).text("dl")
    for number in ("93.1 %", "8.0", "1e-4", "30", "14", "7.6 kB", "5.2 kB", "33.2 s"):
        assert f" {number} " in f" {text} "


def test_the_page_admits_that_it_is_a_simulation_and_what_the_noise_is() -> None:
    text = Page(report(metrics_of())).text()
    for words in (
        "it protects nothing by itself",
        "dropouts were drawn",
        "integers from a cipher",
        "The unit is one example, added or removed",
        "The server and 11 clients together",
        "A server that lies",
    ):
        assert words in text


def test_plain_is_said_loudly_to_protect_from_nothing() -> None:
    page = Page(report(metrics_of(protocol="plain", noise="none")))
    assert "“plain” protects from nothing" in page.text("header")
    assert "the server saw every update" in page.text("h1")
    assert "A curious server" not in page.text()
    assert "These settings protect nobody" in page.text()
    assert sum(value == "loud" for _, name, value in page.attributes if name == "class") == 2


def test_no_differential_privacy_is_said_and_no_epsilon_is_shown() -> None:
    page = Page(report(metrics_of(noise="none")))
    assert "There is no differential privacy in this run" in page.text("header")
    assert "without limit" in page.text("h1")
    assert "8.0" not in page.text("dl")
    assert "Learning whether one example was used" not in page.text()


def test_a_good_run_has_no_loud_warning() -> None:
    page = Page(report(metrics_of()))
    assert ("p", "class", "loud") not in page.attributes


def test_an_unknown_protocol_or_privacy_is_trusted_with_nothing() -> None:
    text = Page(report(metrics_of(3, protocol="magic", noise="maybe"))).text()
    assert "take it that it protects from nothing" in text
    assert "take it that there is none" in text
    assert "These settings protect nobody" in text


def test_before_the_end_the_bound_is_the_budget() -> None:
    """A killed round may stand in the ledger as a reservation that no record shows."""
    page = Page(report(metrics_of(7, finished=False)))
    assert "7 rounds so far" in page.text("h1")
    assert "epsilon 8.0" in page.text("h1")
    assert "epsilon after the last finished round" in page.text("dl")


def test_no_rounds_claim_nothing() -> None:
    page = Page(report(metrics_of(0, finished=False)))
    assert page.text("h1") == "20 clients stood ready, and no round was finished."
    assert "svg" not in page.tags


def test_lost_rounds_are_counted_and_marked() -> None:
    page = Page(report(VARIANTS["lost"]))
    assert "1 round lost to too few survivors" in page.text("header")
    assert "2 (lost)" in page.text("details")
    assert ("rect", "class", "bar lost") in page.attributes


def test_each_chart_is_readable_without_seeing_it() -> None:
    page = Page(report(metrics_of()))
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert page.tags.count("svg") == len(labels) == 6
    assert any(re.match(r"Accuracy by round, 30 values: first 51 %, last 80 %", x) for x in labels)
    assert sum(name == "role" and value == "img" for _, name, value in page.attributes) == 6


def test_charts_follow_the_page_in_light_dark_and_on_paper() -> None:
    html = report(metrics_of())
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    body = html[html.index("<body>") :]
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|\bfill=|\bstroke=|rgb\(", body)


def test_no_mark_lies_outside_its_chart() -> None:
    over_budget = metrics_of(30, epsilon=2.0)
    body = report(over_budget)
    for cx, cy in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', body):
        assert 50 <= float(cx) <= 354
        assert 14 <= float(cy) <= 192
    for y, height in re.findall(r' y="([\d.-]+)" width="[\d.]+" height="([\d.-]+)"', body):
        assert float(y) >= 13.9
        assert float(y) + float(height) <= 192.1


def test_the_grid_says_who_dropped_out_when() -> None:
    html = report(metrics_of(3))
    grid = html[html.index('class="grid"') :]
    assert grid.count('<th scope="row">client ') == 20
    row = next(re.finditer(r'<th scope="row">client 3</th>(.*?)</tr>', grid))[1]
    cells = re.findall(r"<td.*?</td>", row)
    assert ["mask" in cell for cell in cells] == [False, True, False]
    assert "2 dropouts" in Page(html).text()
    assert "3 (mask), 11 (reveal)" in Page(html).text("details")


def test_of_many_clients_only_those_who_dropped_out_have_a_row() -> None:
    html = report(metrics_of(3, clients=1000))
    assert html.count('<th scope="row">client ') == 2


def test_the_settings_and_versions_are_listed() -> None:
    metrics = metrics_of() | {"versions": {"torch": "2.13.0"}}
    page = Page(report(metrics))
    for name, value in metrics["config"].items():
        assert name in page.text("table")
        assert str(value) in page.text("table")
    assert "torch 2.13.0" in page.text("footer")


HOSTILE = "</title></style></td><script>alert(1)</script><img src=http://x.test onerror='a'>\"&"


@pytest.mark.parametrize(
    "key", ["data", "partition", "protocol", "noise", "unit", "clients", "epsilon"]
)
def test_a_hostile_setting_is_only_text(key: str) -> None:
    html = report(
        metrics_of(3, finished=False) | {"config": metrics_of()["config"] | {key: HOSTILE}}
    )
    page = Page(html)
    assert not {"script", "img"} & {*page.tags}
    assert HOSTILE in page.text("table")


def test_hostile_records_are_only_text() -> None:
    metrics = metrics_of(2) | {"versions": {HOSTILE: HOSTILE}}
    metrics["config"] = metrics["config"] | {HOSTILE: HOSTILE}
    metrics["final"] = metrics["final"] | {"run": HOSTILE, "accuracy": HOSTILE}
    metrics["rounds"][1] |= {
        "dropped": {HOSTILE: HOSTILE},
        "milliseconds": {HOSTILE: HOSTILE, "train": HOSTILE},
        **dict.fromkeys(("round", "accuracy", "loss", "survivors", "epsilon", "bytes_up"), HOSTILE),
    }
    page = Page(report(metrics))
    assert not {"script", "img"} & {*page.tags}
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    curves(metrics)


@given(text=st.text(), more=st.text())
def test_text_comes_out_of_markup_as_it_went_in(text: str, more: str) -> None:
    html = tag("p", tag("b", text, title=more), more)
    assert isinstance(html, Markup)
    assert "<" not in re.sub(r"</?[pb]( title=\"[^\"<>]*\")?>", "", html)
    assert join(text) == join(Markup(join(text)))


@given(value=st.floats(0, 1e9))
def test_epsilon_is_never_rounded_down(value: float) -> None:
    shown = float(numbers.epsilon(value))
    assert value <= shown <= value + 0.0101 + value * 1e-15


@given(value=st.floats(1e-300, 1))
def test_delta_is_never_rounded_down(value: float) -> None:
    assert value <= float(numbers.delta(value)) <= value * 1.011


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.epsilon(7.991), "8.0"),
        (numbers.epsilon(7.921), "7.93"),
        (numbers.delta(1e-4), "1e-4"),
        (numbers.delta(1.0001e-5), "1.01e-5"),
        (numbers.delta(None), "unknown"),
        (numbers.size(999), "999 B"),
        (numbers.size(7_600), "7.6 kB"),
        (numbers.size(999_900), "1 MB"),
        (numbers.duration(12.34), "12.3 ms"),
        (numbers.duration(33_200), "33.2 s"),
        (numbers.duration(150_000), "2 min 30 s"),
        (numbers.percent(0.93125), "93.1 %"),
        (numbers.counted(1, "round"), "1 round"),
        (numbers.counted(1200, "client"), "1,200 clients"),
        (numbers.finite(True), None),
        (numbers.finite(math.nan), None),
        (numbers.finite(10**400), None),
        (numbers.finite("8"), None),
    ],
)
def test_numbers_are_written_for_people(shown: object, expected: object) -> None:
    assert shown == expected


@pytest.mark.parametrize("protocol", ["ckks", "threshold-ckks"])
def test_what_ckks_protects_from_is_said_and_what_it_does_not(protocol: str) -> None:
    text = Page(report(metrics_of(3, protocol=protocol, noise="none"))).text()
    assert "between real parties nobody would see one update" in text
    assert "nobody saw one update" not in text
    assert ("A server that shows clients different sums" in text) == (protocol == "ckks")
    assert ("One client or server that deviates" in text) == (protocol == "threshold-ckks")
    assert "does not know protocol" not in text
    assert ("The server and one client together" in text) == (protocol == "ckks")
    assert ("a majority of the holders together" in text) == (protocol == "threshold-ckks")
