"""Records of benchmarks, and whether one is worse than another."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.primitives import prg
from secagg.bench import quick
from secagg.bench import records as bench
from secagg.bench.compare import Verdict, compare
from secagg.bench.costs import Case, cases
from secagg.bench.measure import machine
from secagg.bench.records import Measurement, Measurements, Point, sweep
from secagg.errors import InputError

MACHINE = machine()
TINY = Case(protocol="complete", clients=4, entries=10)
MEASURES, SAMPLES = 30, 20  # about as many as ``quick`` has
PASSES = 12  # enough for ten costs
BEFORE, AFTER = "quick_before", "quick"


def sampled(rng: np.random.Generator, factor: float = 1.0, noise: float = 0.1) -> Measurement:
    """Ratios whose law has two humps and a long tail, as those of a busy machine."""
    ratios = factor * rng.choice([1.0, 1.0, 1.05], SAMPLES) * rng.lognormal(0, noise, SAMPLES)
    return Measurement(
        name="it", reference="aes", bound=False, seconds=1.0, ratios=tuple(map(float, ratios))
    )


def record(seed: int, factors: dict[int, float] | None = None, noise: float = 0.1) -> Measurements:
    rng, factors = np.random.default_rng(seed), factors or {}
    return Measurements(
        kind="quick",
        machine=MACHINE,
        measurements=tuple(
            replace(sampled(rng, factors.get(at, 1.0), noise), name=f"cost {at}")
            for at in range(MEASURES)
        ),
    )


def test_noise_alone_is_hardly_ever_a_regression_even_without_a_tolerance() -> None:
    false = sum(
        bool(compare(record(2 * n), record(2 * n + 1), tolerance=0, bound=0).regressions)
        for n in range(100)
    )
    assert false <= 5 + 3 * 2.2  # 5 % of 100, and three deviations


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.15])
def test_a_cost_that_doubled_is_found_and_no_other(noise: float) -> None:
    for seed in range(0, 40, 2):
        found = compare(record(seed, noise=noise), record(seed + 1, {7: 2.0}, noise))
        assert found.regressions == ["cost 7"]


def test_a_cost_that_halved_is_better_and_no_regression() -> None:
    found = compare(record(0), record(1, {7: 0.5}))
    assert found.regressions == []
    assert [c.name for c in found.changes if c.verdict is Verdict.BETTER] == ["cost 7"]


@pytest.mark.parametrize(("bound", "verdict"), [(False, Verdict.SAME), (True, Verdict.WORSE)])
def test_what_is_made_of_its_reference_may_rise_less(bound: bool, verdict: Verdict) -> None:
    before, after = (
        Measurements(
            kind="quick",
            machine=MACHINE,
            measurements=(replace(sampled(rng, factor, 0.001), bound=bound, ratios=tuple(ratios)),),
        )
        for rng, factor, ratios in (
            (np.random.default_rng(1), 1.0, np.linspace(0.99, 1.01, SAMPLES).tolist()),
            (np.random.default_rng(2), 1.07, np.linspace(1.06, 1.08, SAMPLES).tolist()),
        )
    )
    assert compare(before, after).changes[0].verdict is verdict


def test_too_few_samples_judge_nothing() -> None:
    few = replace(
        record(1),
        measurements=tuple(replace(m, ratios=m.ratios[:3]) for m in record(1).measurements),
    )
    found = compare(few, record(2, {7: 9.0}))
    assert {change.verdict for change in found.changes} == {Verdict.UNJUDGED}
    assert found.judged == 0


def test_one_byte_more_is_a_regression_and_one_less_is_none() -> None:
    point, measured = bench.session(TINY, 1)
    before = Measurements(
        kind="costs", machine=MACHINE, points=(point,), measurements=tuple(measured)
    )
    for change, names in ((1, ["complete 4 x 10 -10%: bytes_up"]), (-1, [])):
        cost = replace(point.cost, bytes_up=point.cost.bytes_up + change)
        assert compare(before, replace(before, points=(Point(cost=cost),))).regressions == names


def test_what_only_one_has_is_named_and_nothing_shared_is_refused() -> None:
    one, other = record(1), record(2)
    found = compare(
        replace(one, measurements=one.measurements[1:]),
        replace(other, measurements=other.measurements[:-1]),
    )
    assert (found.missing, found.new) == (("cost 29 / aes",), ("cost 0 / aes",))
    with pytest.raises(InputError, match="share no measurement"):
        compare(one, Measurements(kind="quick", machine=MACHINE))
    with pytest.raises(InputError, match="must be in"):
        compare(one, other, confidence=1.0)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    chosen, _ = cases(["complete", "plain", "ckks"], [4], [10], [0.0], lanes=2)
    for _, written in sweep(chosen, bench.start("costs"), rounds=2, notes=["a note"]):
        written.write(tmp_path / "record")
    read = Measurements.read(tmp_path / "record")
    assert json.loads(json.dumps(read.as_dict())) == json.loads((tmp_path / "record").read_text())
    assert [point.key for point in read.points] == chosen
    assert read.notes == ("a note",)


def test_a_sweep_measures_only_what_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, _ = cases(["plain", "complete"], [4, 6], [10], [0.0])
    *_, (_, first) = sweep(chosen[:3], bench.start("costs"), rounds=1)
    ran = []
    real = bench.session
    monkeypatch.setattr(bench, "session", lambda case, n: ran.append(case) or real(case, n))
    *_, (_, second) = sweep(chosen, first, rounds=1)
    assert ran == chosen[3:]
    assert second.points[:3] == first.points
    assert [point.key for point in second.points] == chosen


def test_what_a_protocol_refuses_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(case: Case, rounds: int) -> Any:
        raise InputError("not so")

    monkeypatch.setattr(bench, "session", refuse)
    ((_, found),) = sweep([TINY], bench.start("costs"), rounds=1)
    assert found.notes == ("complete 4 x 10 -10%: not so",)
    assert found.points == ()


GOOD = json.loads(json.dumps(record(1).as_dict() | {"measurements": []}))


@given(
    st.sampled_from(sorted(GOOD)),
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.lists(st.integers(), min_size=1),
)
def test_a_file_of_another_make_is_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: object
) -> None:
    path = tmp_path_factory.mktemp("bench") / "record"
    path.write_text(json.dumps(GOOD | {name: value}))
    try:
        found = Measurements.read(path)
    except InputError:
        return
    assert found.as_dict() == GOOD | {name: value}  # of the same type, so it is one


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"\xff", b"{}", b'{"schema": 2, "kind": "quick"}', b'{"schema": 1}']
)
def test_what_is_no_record_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "record").write_bytes(data)
    with pytest.raises(InputError):
        Measurements.read(tmp_path / "record")
    with pytest.raises(InputError):
        Measurements.read(tmp_path / "nothing")


def test_a_point_that_cannot_be_is_refused(tmp_path: Path) -> None:
    point, _ = bench.session(TINY, 1)
    good = Measurements(kind="costs", machine=MACHINE, points=(point,)).as_dict()
    for wrong in (
        {"clients": 1},
        {"protocol": "hope"},
        {"whole": 1},
        {"entries": 1.0},
        {"more": 1},
    ):
        data = json.loads(json.dumps(good))
        data["points"][0] |= wrong
        (tmp_path / "record").write_text(json.dumps(data))
        with pytest.raises(InputError):
            Measurements.read(tmp_path / "record")


@pytest.mark.parametrize(
    "wrong",
    [
        {"ratios": []},
        {"ratios": [0.0]},
        {"ratios": [float("nan")]},
        {"reference": "luck"},
        {"bound": 1},
        {"seconds": "1"},
    ],
)
def test_a_measurement_that_cannot_be_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    data = record(1).as_dict()
    data["measurements"] = [data["measurements"][0] | wrong]
    (tmp_path / "record").write_text(json.dumps(data))
    with pytest.raises(InputError):
        Measurements.read(tmp_path / "record")


@pytest.mark.slow
def test_a_mask_loop_that_does_everything_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = prg.Masks.apply_to

    def twice(self: prg.Masks, words: np.ndarray) -> None:
        real(self, words.copy())
        real(self, words)

    runs = [quick.quick(sizes=(), passes=PASSES) for _ in range(3)]
    # In step, so that what else the machine does meets all three.
    for _ in range(PASSES):
        for number, run in enumerate(runs):
            with monkeypatch.context() as patch:
                if number == 2:
                    patch.setattr(prg.Masks, "apply_to", twice)
                for _ in quick.PRIMITIVES:
                    next(run)
    before, again, slowed = (next(run)[1] for run in runs)
    assert compare(before, again).regressions == []
    assert compare(slowed, again).regressions == []
    assert compare(before, slowed).regressions == [each.name for each in quick.PRIMITIVES[:2]]


def test_the_kept_records_say_what_the_page_says_of_masks_before_and_after() -> None:
    results = Path(__file__).parents[3] / "benchmarks" / "results"
    found = compare(*(Measurements.read(results / f"{name}.json") for name in (BEFORE, AFTER)))
    changed = {each.name: each for each in found.changes if each.verdict is not Verdict.SAME}
    assert [each.verdict for each in changed.values()] == [Verdict.BETTER]
    factor = changed["20 masks x 41667 words, AES-128"].factor
    assert factor is not None
    page = (results.parents[1] / "docs" / "benchmarks.md").read_text()
    assert "a factor of {:.2f} ({:.2f} to {:.2f})".format(*factor) in page
