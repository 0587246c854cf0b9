"""``secagg bench attack``: what it carries out, what it says of it, and how it fails."""

import base64
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.dom import minidom

import matplotlib.image
import numpy as np
import pytest

from dp.audit import LowerBound
from dp.events import GaussianEvent, NoSampling, Unit
from dp.ledger import Budget, Ledger
from secagg import cli, cli_attack
from secagg.attacks import bench
from secagg.attacks.bench import BROKEN, Found, Plan
from secagg.attacks.canaries import Audited, client_cosines, one_run
from secagg.attacks.inversion import invert_gradients
from secagg.reports.attack_charts import _png
from secagg.reports.attack_page import NOT_PRIVACY, audit_sentence, page
from secagg.reports.evidence import read
from secagg.reports.numbers import at_least, percent

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]
SIZES = {("none", 100): (2, 16), ("local", 100): (1, 16)}
FEW = {"clients": 40, "canaries": 30, "rounds": 2}


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Any:
    """Fewer models, clients and steps of a search."""
    inverted, estimated = partial(invert_gradients, search=80), partial(client_cosines, **FEW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "_QUICK", SIZES)
        patch.setattr(bench, "invert_gradients", inverted)
        patch.setattr(bench, "client_cosines", estimated)
        yield


def secagg(patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``secagg`` in this process: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        patch.setattr(sys, "argv", ["secagg", *map(str, arguments)])
        patch.setenv("COLUMNS", "140")
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return secagg(monkeypatch, capsys)


@pytest.fixture(scope="module")
def found(tiny: None) -> Found:
    """Everything, as small as it gets."""
    carried = Found(plan=Plan(quick=True))
    for job in carried.plan.jobs():
        carried.carry_out(job)
    return carried


def test_it_writes_what_audit_reads_and_pages_and_figures_that_are_whole(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Found
) -> None:
    held = iter(found.results)  # attacks are slow; they were carried out once
    grouped = dict.fromkeys(bench.PARTS, 0)

    def carry_out(self: Found, job: bench.Job) -> None:
        count = 3 if job.part in ("membership", "inversion") else 1
        self.results += [next(held) for _ in range(count)]
        self.seconds[job.part] = 1.0
        grouped[job.part] += 1

    monkeypatch.setattr(Found, "carry_out", carry_out)
    files = {name: tmp_path / f"attack.{name}" for name in ("json", "html")}
    code, out, err = run(
        *("bench", "attack", "--quick", "--json", files["json"], "--html", files["html"]),
        *("--figures", tmp_path),
    )
    assert (code, err) == (0, "")
    assert grouped == {"membership": 2, "audit": 4, "canaries": 1, "inversion": 2}
    assert f"{NOT_PRIVACY}." in out
    assert "Stated epsilon refuted: none, which proves none of them" in out
    assert read(files["json"]) == tuple(
        one.found for one in (*found.audits, *found.canaries) if one.noise_share == 1
    )
    data = json.loads(files["json"].read_text())
    assert data["plan"]["epsilon"] == 2
    assert [one["attack"] for one in data["membership"][:3]] == [
        *("loss", "lira offline", "lira online")
    ]
    assert files["html"].read_text().count("<svg") == 2 + 2 + 2  # curves, bounds, pictures
    for name in ("membership", "audit", "pictures"):
        drawn = minidom.parse(str(tmp_path / f"attack_{name}.svg"))  # noqa: S318  # our own
        assert drawn.documentElement.tagName == "svg"


def test_what_was_broken_on_purpose_is_found_and_is_no_evidence(found: Found) -> None:
    whole, broken = ([one for one in found.audits if (one.noise_share < 1) is b] for b in (0, 1))
    assert [one.audited for one in broken] == [one.audited for one in whole]
    assert all(one.refuted and one.stated == pytest.approx(2, abs=1e-3) for one in broken)
    assert found.refuted == ()
    stated = found.as_dict()
    assert len(stated["results"]) == 3
    assert len(stated["audits"]) == 5
    json.dumps(stated, allow_nan=False)


def test_a_sum_without_noise_gives_pictures_away_and_the_page_says_so_loudly(found: Found) -> None:
    text = page(found)
    network = found.inversions[1]
    assert [one.recovered for one in network] == [20, network[1].recovered, 0]
    assert f'role="note">{NOT_PRIVACY}.' in text
    assert f"{network[1].recovered} of 20 of their sum, 0 of 20 of the sum with noise" in text
    assert "estimate, no bound: about" in text
    assert text.count("What this does not show") == 4
    assert "<script" not in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)


def test_bounds_are_rounded_down_and_labelled() -> None:
    bound = LowerBound(
        epsilon=1.239,
        delta=1e-5,
        significance=0.05,
        unit=Unit.EXAMPLE,
        method="one run",
        counts={"canaries": 1000, "guesses": 100, "correct": 80},
    )
    one = Audited(audited="local", found=bound, stated=2.001, noise_multiplier=4.0, steps=4)
    said = audit_sentence(one)
    assert said.startswith("local: lower bound 1.23 (80 of 100 guesses right")
    assert said.endswith("stated 2.01, at delta 1e-5: not refuted")


def test_a_mechanism_that_says_more_than_it_keeps_exits_1(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lying(mechanism: Any, *, noise_share: float, **budget: Any) -> Audited:
        share = BROKEN if mechanism == "local" else noise_share
        return replace(one_run(mechanism, noise_share=share, **budget), noise_share=noise_share)

    monkeypatch.setattr(bench, "one_run", lying)
    path = tmp_path / "attack.html"
    code, out, _ = run("bench", "attack", "--only", "audit", "--html", path)
    assert code == 1
    assert "Stated epsilon refuted: local\n" in out
    assert "A stated epsilon was refuted: local." in path.read_text()


def test_an_audit_without_power_says_so(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "attack.html"
    code, out, _ = run("bench", "attack", "--only", "audit", "--epsilon", 10, "--html", path)
    assert code == 0
    assert "local, 1/1,024 of its noise: lower bound 3.46" in out
    assert "and this audit did not find it" in path.read_text()


def test_its_file_stands_beside_what_a_ledger_of_examples_states(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "attack.json"
    code, out, _ = run("bench", "attack", "--only", "audit", "--json", path)
    assert (code, NOT_PRIVACY in out) == (0, False)
    event = GaussianEvent(noise_multiplier=4.3, sampling=NoSampling())
    with Ledger.create(tmp_path / "ledger", Budget(epsilon=4, delta=1e-5)) as book:
        for number in range(4):
            book.reserve(number, {"a": event})
            book.commit(number, ["a"])
    code, out, _ = run("audit", tmp_path / "ledger", "--evidence", path)
    assert code == 0
    assert out.count("lower bound: epsilon at least") == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--epsilon", "0"),
        ("--epsilon", "nan"),
        ("--delta", "0.001"),
        ("--delta", "0"),
        ("--seed", "-1"),
        ("--only", "everything"),
        ("--json", "/nowhere/attack.json"),
        ("--html", "."),
        ("--figures", "/nowhere"),
        ("--json", "attack.json", "--html", "attack.json"),
    ],
)
def test_bad_input_is_refused_before_anything_is_attacked(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Found, "carry_out", lambda *_: pytest.fail("it went on"))
    code, out, err = run("bench", "attack", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_the_page_in_docs_says_what_the_kept_run_found() -> None:
    held = json.loads((ROOT / "benchmarks/results/attack.json").read_text())
    assert read(ROOT / "benchmarks/results/attack.json")
    whole = {"epsilon": 2.0, "delta": 1e-5, "seed": 0, "quick": False, "parts": list(bench.PARTS)}
    assert held["plan"] == whole
    text = (ROOT / "docs/privacy/attacks.md").read_text()
    for one in held["membership"]:
        where = f"| {one['privacy']} | {one['pool']:,} | {one['attack']} | {one['auc']:.3f} |"
        assert f"{where} {percent(one['rates'][0]['true_positive_rate'])} |" in text
    for one in held["audits"]:
        found = one["found"]["epsilon"]
        proved = one["found"]["kind"] == "bound"
        value = f"at least {at_least(found)}" if proved else f"about {found:.2f}"
        assert re.search(rf"\| {one['audited']}[^|]*\| {value} \|", text)
    counts = [f"{one['recovered']} of {one['clients']}" for one in held["inversion"]]
    assert f"| {' | '.join(counts[:3])} |" in text
    assert f"| {' | '.join(counts[3:])} |" in text


def test_the_parts_that_the_command_knows_are_those_there_are() -> None:
    assert cli_attack._PARTS == bench.PARTS


def test_a_picture_on_the_page_is_the_picture() -> None:
    ink = np.arange(64).reshape(8, 8) / 63
    address = _png(ink.tolist())
    held = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert matplotlib.image.imread(io.BytesIO(held)) == pytest.approx(1 - ink, abs=1 / 255)
