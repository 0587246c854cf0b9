"""The page and the JSON of an audit: what they say, and what no name of a subject can make them."""

import json
import math
import re
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from dp.accounting.events import (
    GaussianEvent,
    NeighboringRelation,
    NoSampling,
    PoissonSampling,
    Unit,
)
from dp.ledger.ledger import Budget, Ledger, SystemDescription
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg.audit.page import page
from secagg.audit.report import audit, signer
from secagg.audit.values import Audit, Section
from secagg.nodes.identities import fingerprint

BUDGET = Budget(epsilon=4, delta=1e-5)


def client(noise: float) -> GaussianEvent:
    return GaussianEvent(
        noise_multiplier=noise,
        sampling=NoSampling(),
        unit=Unit.CLIENT,
        adjacency=NeighboringRelation.ZERO_OUT,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    example = GaussianEvent(noise_multiplier=4, sampling=PoissonSampling(rate=0.1))
    with Ledger.create(tmp_path / "ledger", BUDGET) as book:
        for number in range(1, 6):
            book.reserve(number, {"a": example, "b": example})
            book.commit(number, ["a"])
    return tmp_path / "ledger"


def only(result: Audit) -> Section:
    (section,) = result.sections
    return section


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        if name not in {"meta", "link", "br"}:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "title"}:
            self.text += data


HOSTILE = [
    '<script>alert("x")</script>',
    "</td></table>",
    "' onload='x",
    "&amp;",
    "W" * 256,
    "$body",
]


def test_names_of_subjects_are_text_and_nothing_else(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", Budget(epsilon=1, delta=1e-5)) as book:
        book.reserve(1, dict.fromkeys(HOSTILE, client(10)))
        book.commit(1, dict.fromkeys(HOSTILE, client(2)))
    parsed = _Page(page(audit(tmp_path / "ledger")))
    assert not parsed.open
    assert "script" not in {name for name, _ in parsed.tags}
    assert not any(key.startswith("on") for _, given in parsed.tags for key in given)
    for name in HOSTILE:
        assert name in parsed.text


def test_the_page_requests_nothing_and_says_so(ledger: Path) -> None:
    parsed = _Page(page(audit(ledger)))
    policy = next(
        values["content"]
        for name, values in parsed.tags
        if name == "meta" and values.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in (policy or "")
    for name, values in parsed.tags:
        for key in ("src", "href", "action", "data"):
            assert name == "link" or key not in values
        assert "url(" not in (values.get("style") or "")
    assert not {"script", "iframe", "object", "form"} & {name for name, _ in parsed.tags}


def test_charts_take_their_colours_from_the_page_and_speak(ledger: Path) -> None:
    parsed = _Page(page(audit(ledger)))
    assert sum(name == "svg" for name, _ in parsed.tags) == 6
    for name, values in parsed.tags:
        assert "fill" not in values
        assert "stroke" not in values
        if name == "svg":
            assert values["aria-label"]
    styled = files("secagg.pages").joinpath("page.html").read_text("utf-8")
    for word in ("committed", "open", "aborted", "planned", "actual", "server", "release"):
        assert f".{word}" in styled


def test_the_page_says_what_the_audit_found(ledger: Path) -> None:
    result = audit(ledger)
    text = _Page(page(result)).text
    assert only(result).sentence in text
    assert result.head_text in text
    for row in result.rows:
        assert row.item in text
        assert row.text in text
    assert "None is attached" in text
    assert "Costs the sum" in text
    assert "not tamper-evident" in text
    for name, number in result.versions.items():
        assert f"{name} {number}" in text


STATED = SystemDescription(
    unit_count=1000,
    mechanism="Gaussian noise",
    sampling="by coins",
    trusted=(),
    released=("the model",),
    unaccounted=(),
    assumptions=(),
    scope="one training",
    randomness="the system's generator",
    floating_point="integers",
    purpose="hearts & <lungs>",
    organisation="us",
    data_set="clinic, 1988",
    parties="at three clinics",
)


def facts(result: Audit) -> dict[str, str]:
    """The short table under the headline."""
    (table,) = re.findall(r'<table class="facts">.*?</table>', page(result), re.S)
    rows = re.findall(r"<tr.*?<th.*?>(.*?)</th><td>(.*?)</td></tr>", table, re.S)
    return {name: unescape(text) for name, text in rows}


def test_the_first_screen_says_whose_data_which_model_how_much_and_whether_it_is_sound(
    ledger: Path, tmp_path: Path
) -> None:
    said = facts(audit(ledger))
    assert said["Verdict"].startswith("Agrees with itself; not tamper-evident: chain and accounts")
    assert said["Spent"].startswith("Epsilon ")
    whom = "for one example (one row; a person with k rows: k times)"
    held = "5 reservations open: counted as spent, unfinished"
    assert f" of 4.0, at delta 1e-5, {whom}; {held}" in said["Spent"]
    assert said["Seal"] == "Not sealed"
    for name in ("For what", "Which data", "Who answers", "Which model", "Where it ran"):
        assert said[name] == "Nobody stated it"
    with Ledger.open(ledger) as book:
        book.declare(STATED)
        book.release(5, bytes(range(32)))
        head = book.head()
    result = audit(ledger, head=head)
    said = facts(result)
    last = head.seq
    reach = f"of record {last} of {last}"
    assert said["Seal"] == f"Not sealed; agrees with the head that you gave, {reach}"
    assert said["Verdict"].startswith("Sound, if the head that you gave was kept elsewhere")
    whose = "(as the keeper says)"
    assert said["For what"] == f"hearts & <lungs> {whose}"
    assert said["Which data"] == f"clinic, 1988 {whose}"
    assert said["Who answers"] == f"us {whose}"
    assert said["Which model"] == (
        f"That of round 5, digest of its values, not of its file, {bytes(range(32)).hex()} "
        f"{whose}; no model file was looked at"
    )
    assert said["Where it ran"] == f"at three clinics {whose}"
    rows = {row.item: row.text for row in result.rows}
    assert (
        "2 clients were charged; it holds for every one of 1,000 examples"
        in (rows["Epsilon, release book"])
    )
    assert "the records, which are the server's word" in rows["Epsilon, release book"]
    assert "1e-2: up to one chance in 100 that for somebody it says nothing" in rows["Delta"]
    assert "No model file was looked at" in rows["Models that were released"]
    assert result.digest.hex() in said["Ledger"]
    beside = facts(audit(ledger, head=head, beside="metrics.json"))
    assert beside["Seal"] == (
        f"Not sealed; agrees with the head in metrics.json, beside it, {reach}"
    )
    with Ledger.create(tmp_path / "over", BUDGET) as book:
        book.reserve(1, {"a": client(20)})
        book.commit(1, {"a": client(1e-4)})
    assert facts(audit(tmp_path / "over"))["Verdict"] == "Over budget"
    key = SigningKey(Secret(bytes(32)))
    with Ledger.open(ledger) as book:
        book.seal(signer(key))
    assert facts(audit(ledger))["Verdict"].startswith("Signed, not checked")
    assert facts(audit(ledger, seal=signer(key)))["Seal"] == (
        f"Sealed, and checked against the key of fingerprint {fingerprint(key.public)}"
    )
    own = facts(audit(ledger, seal=signer(key), by_run=True))["Seal"]
    assert own.startswith("Sealed, and checked by the run itself against the key")


def test_the_sentence_rounds_against_us(ledger: Path) -> None:
    section = only(audit(ledger))
    factor = float(re.findall(r"more likely than ([\d.]+) times", section.sentence)[0])
    assert factor >= math.exp(section.epsilon)
    shown = float(re.findall(r"epsilon ([\d.]+) and", section.sentence)[0])
    assert section.epsilon <= shown <= section.epsilon + 0.01


def test_the_json_is_finite_and_complete(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", BUDGET) as book:
        book.reserve(1, {"a": client(20), "b": client(20)})
        book.commit(1, {"a": client(1e-4)})
    result = audit(tmp_path / "ledger")
    data = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert data["schema"] == "secagg audit 1"
    assert data["verdict"] == "over budget"
    section = data["sections"][0]
    assert section["epsilon"] is None
    assert {one["name"] for one in section["subjects"]} == {"a", "b"}
    assert section["subjects"][0]["over"] is True
    assert "no bound" in section["sentence"]
    assert "no bound" in page(result)
    documented = Path(__file__).parents[3] / "docs" / "reference" / "audit-json.md"
    words = documented.read_text()
    for key in {*data, *section, *section["books"]["server"], *section["rounds"][0]}:
        assert f"`{key}`" in words


def test_a_ledger_without_charges_has_a_report(tmp_path: Path) -> None:
    Ledger.create(tmp_path / "ledger", BUDGET).close()
    result = audit(tmp_path / "ledger")
    assert (result.verdict, result.sections, result.records) == ("sound", (), 1)
    assert "No charge stands" in page(result)
