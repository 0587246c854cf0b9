"""``secagg bench attack``: what it carries out, what it says of it, and how it fails."""

import base64
import copy
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
from hypothesis import given, settings
from hypothesis import strategies as st

from dp.accounting.events import GaussianEvent, NoSampling, Unit
from dp.empirical import LowerBound
from dp.ledger.ledger import Budget, Ledger
from secagg.attacks import suite as bench
from secagg.attacks.canaries import EmpiricalAudit, client_cosines, one_run
from secagg.attacks.charts import _png, sheet
from secagg.attacks.inversion import Inversion, Picture, invert_gradients
from secagg.attacks.membership import Membership, Models
from secagg.attacks.own import Own
from secagg.attacks.page import NOT_PRIVACY, audit_sentence, drawings, page
from secagg.attacks.suite import BROKEN, AttackSuite, Found
from secagg.audit.evidence import read
from secagg.cli import attack as cli_attack
from secagg.errors import InputError
from secagg.pages.numbers import at_least, percent

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "benchmarks/results/attack.json"
Run = Callable[..., tuple[int, str, str]]
SIZES = {("none", 100): Models(2, 16), ("local", 100): Models(1, 16)}
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


@pytest.fixture(scope="module")
def found(tiny: None) -> Found:
    """Everything, as small as it gets."""
    carried = Found(plan=AttackSuite(quick=True))
    for job in carried.plan.jobs():
        carried.carry_out(job)
    return carried


def test_it_writes_what_audit_reads_and_pages_and_figures_that_are_whole(
    secagg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Found
) -> None:
    held = iter(found.results)  # attacks are slow; they were carried out once
    grouped = dict.fromkeys(bench.PARTS, 0)

    def carry_out(self: Found, job: bench.Job) -> None:
        count = 3 if job.part in ("membership", "inversion") else 1 + job.name.count("local")
        self.results += [next(held) for _ in range(count)]
        self.seconds[job.part] = 1.0
        grouped[job.part] += 1

    monkeypatch.setattr(Found, "carry_out", carry_out)
    files = {name: tmp_path / f"attack.{name}" for name in ("json", "html")}
    code, out, err = secagg(
        *("bench", "attack", "--quick", "--json", files["json"], "--html", files["html"]),
        *("--figures", tmp_path),
    )
    assert (code, err) == (0, "")
    assert grouped == {"membership": 2, "audit": 4, "canaries": 1, "inversion": 2}
    assert f"{NOT_PRIVACY}." in out
    assert "Stated epsilon refuted: none but the 3 audits of noise left out on purpose" in out
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


def test_attacks_go_on_where_they_were_stopped(
    secagg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, names, carry_out = tmp_path / "a.json", list[str](), Found.carry_out

    def noted(self: Found, job: bench.Job) -> None:
        if len(names) == 2:
            raise KeyboardInterrupt
        names.append(job.name)
        carry_out(self, job)

    monkeypatch.setattr(Found, "carry_out", noted)
    arguments = ("bench", "attack", "--only", "audit", "--json", path)
    assert secagg(*arguments)[0] not in (0, 2)
    assert [one.audited for one in Found.read(path).audits] == ["local", "local", "distributed"]
    begun = json.loads(path.read_text())["audits"]
    names.clear()
    code, out, _ = secagg(*arguments, "--csv", tmp_path / "a.csv")
    assert code == 0
    assert names == ["audit, local, broken", "audit, distributed, broken"]
    assert json.loads(path.read_text())["audits"][:3] == begun
    assert (tmp_path / "a.csv").read_text().count("epsilon at least") == 6
    assert secagg(*arguments)[:2] == (0, out)
    assert len(names) == 2
    for other in (("--epsilon", "1"), ("--only", "inversion"), ("--seed", "5")):
        code, _, err = secagg(*arguments, *other)
        assert (code, "of other settings" in err) == (2, True)
    path.write_text("{}")
    assert secagg(*arguments)[0] == 2


def test_a_table_holds_every_number(found: Found) -> None:
    lines = bench.rows(found)
    assert {line["part"] for line in lines} == set(bench.PARTS)
    assert len(lines) == sum(
        (
            *(1 + len(one.rates) for group in found.membership for one in group),
            *(1 for _ in (*found.audits, *found.canaries)),
            *(len(views) for views in found.inversions),
        )
    )


def test_what_was_found_comes_back_from_its_file(found: Found) -> None:
    held = json.loads(json.dumps(found.as_dict()))
    back = Found.from_dict(held)
    assert back.as_dict() == held
    for kind in (Membership, EmpiricalAudit):
        assert [one for one in back.results if isinstance(one, kind)] == [
            one for one in found.results if isinstance(one, kind)
        ]
    for views, kept in zip(back.inversions, found.inversions, strict=True):
        for one, other in zip(views, kept, strict=True):
            assert [each.mse for each in one.pictures] == [each.mse for each in other.pictures]
            shown = [each.reconstructed for each in other.pictures]
            assert [each.reconstructed for each in one.pictures] == [
                pytest.approx(np.array(each), abs=0.501 / 255) for each in shown
            ]
    assert {name: sheet(charts) for name, charts in drawings(back).items()} == {
        name: sheet(charts) for name, charts in drawings(found).items()
    }


def test_one_part_alone_comes_back(found: Found) -> None:
    for part, kind in (
        ("membership", Membership),
        ("audit", EmpiricalAudit),
        ("inversion", Inversion),
    ):
        alone = Found(
            plan=AttackSuite(parts=(part,)),
            results=[one for one in found.results if isinstance(one, kind)],
            seconds={part: 1.0},
        )
        back = Found.from_dict(json.loads(json.dumps(alone.as_dict())))
        assert back.as_dict() == alone.as_dict()
        assert page(back).startswith("<!doctype html>")


def test_a_file_is_drawn_again_and_nothing_is_attacked(
    secagg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Found, "carry_out", lambda *_: pytest.fail("it went on"))
    html = tmp_path / "attack.html"
    code, out, err = secagg(
        "bench", "attack", "--from", KEPT, "--html", html, "--figures", tmp_path
    )
    assert (code, err) == (0, "")
    assert "local: lower bound 0.65 (74 of 100 guesses right" in out
    assert "3 of 20 of their sum" in html.read_text()
    for name in ("membership", "audit", "pictures"):
        svg = f"attack_{name}.svg"
        assert (tmp_path / svg).read_bytes() == (KEPT.parent / svg).read_bytes()
    lied = json.loads(KEPT.read_text())
    for one in lied["audits"][:3]:
        one.update(stated=0.3, refuted=True)
    lied["refuted"] = ["local", "distributed"]
    path = tmp_path / "attack.json"
    path.write_text(json.dumps(lied))
    assert secagg("bench", "attack", "--from", path)[0] == 1


def _set(*where: Any, to: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for step in where[:-1]:
            data = data[step]
        data[where[-1]] = to

    return change


BROKEN_FILES = {
    "another schema": _set("schema", to="secagg attack 2"),
    "evidence alone": lambda data: [data.pop(name) for name in list(data)[2:]],
    "a field more": _set("audits", 0, "note", to=1),
    "a bound that its counts do not give": _set("audits", 0, "found", "epsilon", to=1.5),
    "counts that give another bound": _set("audits", 0, "found", "counts", "correct", to=90),
    "an estimate of a whole mechanism": lambda data: data["audits"][-1].update(audited="local"),
    "a refutation that is none": _set("audits", 0, "refuted", to=True),
    "a refutation that is hidden": _set("audits", 0, "stated", to=0.1),
    "results of other audits": lambda data: data["results"].reverse(),
    "a result at another delta": _set("results", 0, "delta", to=1.05e-5),
    "a result that was left out": lambda data: data["results"].pop(),
    "a count of pictures that is none": _set("inversion", 1, "recovered", to=1),
    "a picture said to be found": _set("inversion", 2, "pictures", 0, "recovered", to=True),
    "a pixel beyond white": _set("inversion", 0, "pictures", 0, "original", 0, 0, to=256),
    "a view that is missing": lambda data: data["inversion"].pop(),
    "a curve that falls": _set("membership", 0, "roc", 5, to=[0.9, 0.0]),
    "a rate above its interval": _set("membership", 0, "rates", 0, "true_positive_rate", to=0.9),
    "a rate somewhere else": _set("membership", 0, "rates", 0, "false_positive_rate", to=0.02),
    "an attack that is missing": lambda data: data["membership"].pop(),
    "no number": _set("membership", 0, "auc", to=float("nan")),
    "a number as text": _set("audits", 0, "stated", to="2.0"),
    "a plan that cannot be": _set("plan", "delta", to=0.5),
    "a part that nobody knows": _set("plan", "parts", 0, to="everything"),
    "a list for an object": _set("seconds", to=[]),
}


@pytest.mark.parametrize("change", BROKEN_FILES.values(), ids=list(BROKEN_FILES))
def test_a_broken_file_is_one_line_and_nothing_is_drawn(
    secagg: Run, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    data = json.loads(KEPT.read_text())
    change(data)
    path, html = tmp_path / "attack.json", tmp_path / "attack.html"
    path.write_text(json.dumps(data))
    code, out, err = secagg("bench", "attack", "--from", path, "--html", html)
    assert (code, out, err.count("\n"), str(path) in err) == (2, "", 1, True)
    assert not html.exists()


def test_a_result_that_contradicts_itself_is_refused_alone_too() -> None:
    data = json.loads(KEPT.read_text())
    picture = data["inversion"][0]["pictures"][0]
    for read_back, held, odd in (
        (EmpiricalAudit.from_dict, data["audits"][0], {"refuted": True}),
        (Inversion.from_dict, data["inversion"][0], {"recovered": 19}),
        (Picture.from_dict, picture, {"recovered": False}),
        (Picture.from_dict, picture, {"psnr": 20.0}),
        (Membership.from_dict, data["membership"][0], {"epsilon": 2.0}),
        (Membership.from_dict, data["membership"][0], {"unit": "client"}),
    ):
        assert read_back(held).as_dict() == held
        with pytest.raises(InputError, match="what the rest gives"):
            read_back(held | odd)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"schema": []}', "[" * 10**5, "\xff"])
def test_what_is_no_such_file_at_all_is_one_line(secagg: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "attack.json"
    path.write_text(text, "latin-1")
    code, out, err = secagg("bench", "attack", "--from", path)
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.fixture(scope="module")
def few(found: Found) -> dict[str, Any]:
    """A file with a picture in each view and five points of a curve."""
    small: list[Any] = []
    for one in found.results:
        match one:
            case Membership():
                small.append(replace(one, roc=(*one.roc[:4], one.roc[-1])))
            case Inversion():
                small.append(replace(one, pictures=one.pictures[:1]))
            case _:
                small.append(one)
    kept = Found(plan=found.plan, results=small, seconds=found.seconds)
    return dict(json.loads(json.dumps(kept.as_dict())))


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, 1e308, -1e308, 10**400, 5e-324, "", "client", "sum", [], {}, [[]]]),
)


@given(choice=st.data(), value=ODD)
@settings(max_examples=150, deadline=None)
def test_one_odd_value_anywhere_is_refused_or_can_be_drawn(
    few: dict[str, Any], choice: st.DataObject, value: Any
) -> None:
    data = at = copy.deepcopy(few)
    while True:
        steps = sorted(at) if isinstance(at, dict) else range(len(at))
        step = choice.draw(st.sampled_from(steps))
        if not isinstance(at[step], dict | list) or not at[step] or choice.draw(st.booleans()):
            break
        at = at[step]
    at[step] = value
    try:
        back = Found.from_dict(data)
    except InputError:
        return
    page(back)
    json.dumps(back.as_dict(), allow_nan=False)


def test_what_was_broken_on_purpose_is_found_and_is_no_evidence(found: Found) -> None:
    whole, broken = ([one for one in found.audits if (one.noise_share < 1) is b] for b in (0, 1))
    assert [one.audited for one in broken] == [one.audited for one in whole]
    assert all(one.refuted and one.stated == pytest.approx(2, abs=1e-3) for one in broken)
    assert found.refuted == ()
    stated = found.as_dict()
    assert len(stated["results"]) == 4
    assert len(stated["audits"]) == 7
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
    one = EmpiricalAudit(audited="local", found=bound, stated=2.001, noise_multiplier=4.0, steps=4)
    said = audit_sentence(one)
    assert said.startswith("local: lower bound 1.23 (80 of 100 guesses right")
    assert said.endswith("stated 2.01, at delta 1e-5: not refuted")


def test_a_mechanism_that_says_more_than_it_keeps_exits_1(
    secagg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lying(mechanism: Any, budget: Budget, *, noise_share: float) -> EmpiricalAudit:
        share = BROKEN if mechanism == "local" else noise_share
        return replace(one_run(mechanism, budget, noise_share=share), noise_share=noise_share)

    monkeypatch.setattr(bench, "one_run", lying)
    path = tmp_path / "attack.html"
    code, out, _ = secagg("bench", "attack", "--only", "audit", "--html", path)
    assert code == 1
    assert "Stated epsilon refuted: local\n" in out
    assert "A stated epsilon was refuted: local." in path.read_text()


def test_an_audit_without_power_says_so(secagg: Run, tmp_path: Path) -> None:
    path = tmp_path / "attack.html"
    code, out, _ = secagg("bench", "attack", "--only", "audit", "--epsilon", 10, "--html", path)
    assert code == 0
    assert "local, 1/1,024 of its noise: lower bound 3.46" in out
    assert "and this audit did not find it" in path.read_text()


def test_its_file_stands_beside_what_a_ledger_of_examples_states(
    secagg: Run, tmp_path: Path
) -> None:
    path = tmp_path / "attack.json"
    code, out, _ = secagg("bench", "attack", "--only", "audit", "--json", path)
    assert (code, NOT_PRIVACY in out) == (0, False)
    event = GaussianEvent(noise_multiplier=4.3, sampling=NoSampling())
    with Ledger.create(tmp_path / "ledger", Budget(epsilon=4, delta=1e-5)) as book:
        for number in range(4):
            book.reserve(number, {"a": event})
            book.commit(number, ["a"])
    code, out, _ = secagg("audit", tmp_path / "ledger", "--attack-results", path)
    assert code == 0
    assert out.count("lower bound: epsilon at least") == 3


MINE = """
import torch
from torch import nn

def people(clients):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12 * clients, 30, generator=generator)
    labels = torch.randint(2, (12 * clients,), generator=generator)  # nothing but to be learned
    parts = [(inputs[i::clients], labels[i::clients]) for i in range(clients)]
    return parts, (inputs[:10], labels[:10])

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 2))

def mean_loss():
    return model(), lambda outputs, targets: nn.functional.cross_entropy(outputs, targets)
"""
OWN = (
    *("bench", "attack", "--data", "mine:people", "--model", "mine:model", "--clients", 3),
    *("--rounds", 60, "--learning-rate", 1, "--clip", 1, "--quick"),
)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of a user's in the current folder."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(bench, "_OWN_QUICK", Models(4, 16))
    return tmp_path


def test_a_training_of_ones_own_is_attacked_and_gone_on_with(
    secagg: Run, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*OWN, "--mode", "none", "--only", "membership", "--json", mine / "a.json")
    code, out, err = secagg(*arguments, "--csv", mine / "a.csv", "--html", mine / "a.html")
    assert (code, err) == (0, "")
    said = "trainings of mine:model on mine:people: 3 clients, 60 rounds"
    assert said in out
    assert said in (mine / "a.html").read_text()
    assert "overfitted" not in (mine / "a.html").read_text()
    found = Found.read(mine / "a.json")
    assert found.plan.own is not None
    assert json.loads((mine / "a.json").read_text())["plan"]["own"]["data"] == "mine:people"
    (group,) = found.membership
    assert [(one.mode, one.pool, one.members + one.others) for one in group] == [
        ("none", 33, 4 * 33)
    ] * 3
    # Labels without a rule can only be learned by heart, so the attack must work on this model.
    assert max(one.auc for one in group) > 0.8
    assert "membership" in (mine / "a.csv").read_text()
    monkeypatch.setattr(Found, "carry_out", lambda *_: pytest.fail("it is there"))
    assert secagg(*arguments)[:2] == (0, out)
    code, _, err = secagg(*arguments[:-2], "--clip", 2, "--json", mine / "a.json")
    assert (code, "of other settings" in err) == (2, True)
    assert secagg("bench", "attack", "--from", mine / "a.json")[:2] == (0, out)


def test_clients_of_ones_own_are_units_and_stand_beside_canaries(secagg: Run, mine: Path) -> None:
    few = ("--rounds", 2, "--mode", "client", "--only", "membership", "--only", "canaries")
    code, _, err = secagg(*OWN, *few, "--json", mine / "a.json")
    assert (code, err) == (0, "")
    found = Found.read(mine / "a.json")
    assert {one.unit for group in found.membership for one in group} == {Unit.CLIENT}
    assert {one.pool for group in found.membership for one in group} == {36}
    assert [(one.audited, one.steps) for one in found.canaries] == [("client", 2)]


def test_how_far_a_long_attack_is_is_told_model_by_model(mine: Path) -> None:
    told: list[tuple[int, int]] = []
    own = Own(
        data="mine:people",
        model="softmax",
        modes=("none",),
        clients=3,
        rounds=1,
        learning_rate=1.0,
        clip=1.0,
    )
    plan = AttackSuite(parts=("membership",), quick=True, own=own)
    found = Found(plan=plan, tell=lambda done, of: told.append((done, of)))
    found.carry_out(next(plan.jobs()))
    assert told == [(at, 20) for at in range(20)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((*OWN, "--only", "inversion"), "inversion looks for pictures of digits"),
        ((*OWN, "--mode", "central"), "unknown mode 'central'"),
        ((*OWN, "--mode", "none,none"), "each once"),
        ((*OWN, "--mode", ""), "unknown mode ''"),
        ((*OWN, "--clients", 4, "--data", "mine:model"), "--data mine:model: TypeError"),
        ((*OWN, "--clients", 1), "clients 1 is outside"),
        ((*OWN, "--rounds", 0), "rounds 0 is outside"),
        ((*OWN, "--clip", "nan"), "clip nan is outside"),
        ((*OWN, "--learning-rate", 0), "learning_rate 0"),
        ((*OWN, "--model", "mine:mean_loss", "--mode", "none"), "must be (33,)"),
        (("bench", "attack", "--clients", 4), "needs --rounds"),
        (("bench", "attack", "--data", "mine:people", "--rounds", 4), "needs --learning-rate"),
        (("bench", "attack", "--from", KEPT, "--mode", "none"), "--mode is for an attack"),
    ],
)
def test_a_training_of_ones_own_that_cannot_be_attacked_is_one_line(
    secagg: Run, mine: Path, options: tuple[Any, ...], said: str
) -> None:
    code, out, err = secagg(*options, "--json", mine / "a.json")
    if "--from" in options:
        code, out, err = secagg(*options)
    assert (code, out, err.count("\n"), said in err) == (2, "", 1, True), err
    assert not (mine / "a.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"data": ""},
        {"data": 1},
        {"modes": []},
        {"modes": ["everything"]},
        {"modes": [[]]},
        {"clients": 1},
        {"clip": None},
        {"more": 1},
    ],
)
def test_a_training_that_cannot_be_is_refused_in_a_file(change: dict[str, Any]) -> None:
    own = {"data": "mine:people", "model": "softmax", "modes": ["none"], "clients": 3}
    own |= {"rounds": 1, "learning_rate": 1.0, "clip": 1.0}
    assert Own.from_dict(own, seed=0).as_dict() == own
    with pytest.raises(InputError):
        Own.from_dict(own | change, seed=0)


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
        ("--from", "/nowhere/attack.json"),
        ("--from", "."),
        ("--from", str(KEPT), "--epsilon", "2"),
        ("--from", str(KEPT), "--quick"),
        ("--from", str(KEPT), "--only", "audit"),
        ("--from", str(KEPT), "--json", "attack.json"),
        ("--from", str(KEPT), "--html", str(KEPT)),
    ],
)
def test_bad_input_is_refused_before_anything_is_attacked(
    secagg: Run, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Found, "carry_out", lambda *_: pytest.fail("it went on"))
    code, out, err = secagg("bench", "attack", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_the_page_in_docs_says_what_the_kept_run_found() -> None:
    held = json.loads(KEPT.read_text())
    assert read(KEPT)
    whole = {"epsilon": 2.0, "delta": 1e-5, "seed": 0, "quick": False, "parts": list(bench.PARTS)}
    assert held["plan"] == whole
    text = (ROOT / "docs/privacy/attacks.md").read_text()
    for one in held["membership"]:
        where = f"| {one['mode']} | {one['pool']:,} | {one['attack']} | {one['auc']:.3f} |"
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
