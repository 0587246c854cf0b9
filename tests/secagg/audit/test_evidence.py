"""``secagg audit LEDGER --attack-results FILE``: measurements beside an epsilon, and against it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dp.accounting.events import GaussianEvent, NeighboringRelation, NoSampling, Unit
from dp.empirical import from_cosines, lower_bound
from dp.ledger.ledger import Budget, Ledger
from secagg.audit.evidence import SCHEMA, evidence, measured, read
from secagg.audit.page import page
from secagg.audit.report import audit as audit_ledger
from secagg.pages.numbers import at_least

Run = Callable[..., tuple[int, str, str]]
DELTA = 1e-5
WEAK = lower_bound(1000, 100, 75, delta=DELTA)
STRONG = lower_bound(1000, 1000, 1000, delta=DELTA)
GUESS = from_cosines([0.5, 0.6, 0.7, 0.8], entries=10_000, delta=DELTA, unit=Unit.EXAMPLE)


@pytest.fixture
def audit(secagg: Run) -> Run:
    return partial(secagg, "audit")


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return charged(tmp_path / "ledger")


def charged(path: Path, *, budget: float = 2.0, **more: Any) -> Path:
    event = GaussianEvent(noise_multiplier=4, sampling=NoSampling(), **more)
    with Ledger.create(path, Budget(epsilon=budget, delta=DELTA)) as book:
        book.reserve(1, {"a": event})
        book.commit(1, ["a"])
    return path


def written(folder: Path, *results: Any) -> Path:
    path = folder / "attack.json"
    path.write_text(json.dumps(evidence(results)))
    return path


def test_a_bound_below_what_is_stated_stands_beside_it(
    audit: Run, ledger: Path, tmp_path: Path
) -> None:
    code, out, _ = audit(
        ledger, "--attack-results", written(tmp_path, WEAK), "--html", tmp_path / "p"
    )
    assert code == 0
    assert "Measured by attacks" in out
    assert f"lower bound: epsilon at least {at_least(WEAK.epsilon)}" in out
    assert "CONTRADICTED" not in out
    assert "Measured by attacks" in (tmp_path / "p").read_text()


def test_a_bound_above_what_is_stated_is_loud_and_exits_3(
    audit: Run, ledger: Path, tmp_path: Path
) -> None:
    file = written(tmp_path, WEAK, STRONG)
    code, out, _ = audit(ledger, "--attack-results", file, "--html", tmp_path / "p")
    assert code == 3
    assert "CONTRADICTED" in out
    assert "Verdict: contradicted" in out
    assert "A measurement contradicts this ledger." in (tmp_path / "p").read_text()
    code, out, _ = audit(ledger, "--attack-results", file, "--json")
    data = json.loads(out)
    assert (code, data["verdict"]) == (3, "contradicted")
    assert [one["contradicts"] for one in data["measured"]] == [False, True]
    assert [one["kind"] for one in data["measured"]] == ["bound", "bound"]
    assert data["measured"][0]["stated"] == data["sections"][0]["epsilon"]


def test_an_estimate_is_labelled_and_contradicts_nothing(
    audit: Run, ledger: Path, tmp_path: Path
) -> None:
    assert GUESS.epsilon > 1000
    code, out, _ = audit(ledger, "--attack-results", written(tmp_path, GUESS))
    assert code == 0
    assert "estimate, no bound: epsilon about" in out


def test_a_bound_is_held_against_the_deltas_of_the_ledger(ledger: Path) -> None:
    sections = audit_ledger(ledger).sections
    for delta in (1e-9, 1e-3):
        brought = lower_bound(1000, 100, 90, delta=delta)
        (one,) = measured([brought], sections)
        assert one.found == brought.at(DELTA) != brought


def test_without_evidence_nothing_is_said(audit: Run, ledger: Path) -> None:
    code, out, _ = audit(ledger)
    assert (code, "Measured" in out) == (0, False)
    assert "Measured by attacks" not in page(audit_ledger(ledger))
    assert audit_ledger(ledger).as_json()["measured"] == []


def test_a_bound_on_another_unit_or_another_neighbourhood_is_refused(
    audit: Run, tmp_path: Path
) -> None:
    clients = charged(tmp_path / "c", unit=Unit.CLIENT, adjacency=NeighboringRelation.ZERO_OUT)
    replaced = charged(tmp_path / "r", budget=9.0, adjacency=NeighboringRelation.REPLACE_ONE)
    for ledger in (clients, replaced):
        code, out, err = audit(ledger, "--attack-results", written(tmp_path, WEAK))
        assert (code, out) == (2, "")
        assert "charged nothing for that" in err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"schema": "secagg attack 1"}',
        '{"schema": "secagg attack 1", "results": []}',
        '{"schema": "secagg attack 1", "results": [{"kind": "bound"}]}',
        '{"schema": "secagg attack 2", "results": [1]}',
        json.dumps({"schema": SCHEMA, "results": [WEAK.as_dict() | {"epsilon": 0.1}]}),
        json.dumps({"schema": SCHEMA, "results": [WEAK.as_dict()] * 101}),
        " " * (2**20 + 1),
    ],
)
def test_a_file_that_is_no_evidence_exits_2_in_one_line(
    audit: Run, ledger: Path, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "attack.json"
    path.write_text(text)
    code, out, err = audit(ledger, "--attack-results", path)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_evidence_that_is_not_there_or_not_priced_exits_2(
    audit: Run, ledger: Path, tmp_path: Path
) -> None:
    assert audit(ledger, "--attack-results", tmp_path / "none")[0] == 2
    assert audit(ledger, "--attack-results", tmp_path)[0] == 2
    assert audit(ledger, "--verify", "--attack-results", written(tmp_path, WEAK))[0] == 2


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read(written(tmp_path, WEAK, STRONG, GUESS)) == (WEAK, STRONG, GUESS)
