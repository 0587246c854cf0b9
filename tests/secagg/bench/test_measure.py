import gc
import json
import math
import sys
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from secagg.bench import measure
from secagg.bench import yardsticks as references
from secagg.bench.measure import Clock, Timed, interleaved, median_interval, min_samples
from secagg.errors import InputError

LAWS: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
    "normal": (lambda rng, count: rng.normal(size=count), 0.0),
    "exponential": (lambda rng, count: rng.exponential(size=count), math.log(2)),
    "heavy tails": (lambda rng, count: rng.standard_cauchy(size=count), 0.0),
    "two values": (lambda rng, count: rng.choice([0.0, 1.0, 1.0], count), 1.0),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("count", "confidence"), [(6, 0.95), (20, 0.95), (41, 0.99), (100, 0.8)])
def test_the_interval_holds_the_median_of_any_law_as_often_as_it_says(
    law: str, count: int, confidence: float
) -> None:
    rng, trials = np.random.default_rng(1), 1500
    draw, truth = LAWS[law]
    found = (median_interval(list(draw(rng, count)), confidence) for _ in range(trials))
    held = sum(each.low <= truth <= each.high for each in found)
    deviation = math.sqrt(trials * confidence * (1 - confidence))
    assert held >= trials * confidence - 3 * deviation


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.999])
def test_the_interval_is_the_narrowest_of_order_statistics(confidence: float) -> None:
    for count in [*range(min_samples(confidence), 150), 3000]:
        found = median_interval([float(at) for at in range(1, count + 1)], confidence)
        rank = int(found.low)
        assert found.high == count + 1 - rank
        assert 2 * binom.cdf(rank - 1, count, 0.5) <= (1 - confidence) * (1 + 1e-9)
        if 2 * (rank + 1) <= count + 1:
            assert 2 * binom.cdf(rank, count, 0.5) > (1 - confidence) * (1 - 1e-9)


@given(st.lists(st.floats(1e-9, 1e9), min_size=6, max_size=60), st.randoms())
def test_bounds_are_samples_around_the_median_in_whatever_order(
    samples: list[float], rng: Random
) -> None:
    found = median_interval(samples)
    assert found.low in samples
    assert found.high in samples
    assert found.low <= found.value <= found.high
    rng.shuffle(samples)
    assert median_interval(samples) == found


@pytest.mark.parametrize(
    ("samples", "confidence"),
    [([1.0] * 5, 0.95), ([1.0] * 9 + [math.nan], 0.95), ([1.0], 1.0), ([1.0], 0.0)],
)
def test_too_few_samples_and_no_numbers_are_refused(
    samples: list[float], confidence: float
) -> None:
    with pytest.raises(InputError):
        median_interval(samples, confidence)


def test_nobody_is_always_first() -> None:
    calls: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) or spend() for name in "abc"}
    interleaved(contenders, rounds=6, repeats=dict.fromkeys("abc", 1))
    turns = ["".join(calls[at : at + 3]) for at in range(0, 18, 3)]
    assert turns == ["abc", "bca", "cab", "cba", "acb", "bac"]


def spend() -> None:
    """Long enough for a clock of any resolution to move."""
    began = Clock.CPU.now()
    while Clock.CPU.now() == began:
        pass


def test_a_ratio_within_turns_does_not_feel_a_machine_that_swings_by_two() -> None:
    rng = np.random.default_rng(2)
    speeds = [float(speed) for speed in rng.uniform(1, 2, 30)]

    def contender(seconds: float) -> Callable[[], Timed]:
        pace: Iterator[float] = iter(speeds)
        return lambda: Timed(seconds={"all": seconds * next(pace)})

    found = interleaved(
        {"slow": contender(3.0), "unit": contender(1.0)},
        rounds=30,
        repeats={"slow": 1, "unit": 1},
    )
    ratio = found.ratio("slow", "unit")
    assert ratio.low == pytest.approx(ratio.high) == pytest.approx(3.0)
    assert max(found.seconds["slow"]) > 1.5 * min(found.seconds["slow"])


def test_a_contender_may_time_its_own_parts() -> None:
    found = interleaved(
        {"round": lambda: Timed(seconds={"client": 2.0, "server": 1.0}, result="sum")},
        rounds=3,
    )
    assert found.seconds == {
        "round": (3.0,) * 3,
        "round/client": (2.0,) * 3,
        "round/server": (1.0,) * 3,
    }
    assert found.last == {"round": "sum"}
    assert json.loads(json.dumps(found.as_dict()))["clock"] == "cpu"


def test_a_short_contender_is_called_often_for_one_sample() -> None:
    found = interleaved({"it": spend, "other": spend}, rounds=1)
    assert found.repeats["it"] > 1


@pytest.mark.parametrize("clock", list(Clock))
def test_the_collector_is_off_meanwhile_and_on_again(clock: Clock) -> None:
    seen = []

    def contender() -> None:
        seen.append(gc.isenabled())
        spend()

    interleaved({"it": contender}, rounds=1, clock=clock, repeats={"it": 1})
    assert seen == [False]
    assert gc.isenabled()


def test_what_takes_no_time_is_no_measurement() -> None:
    with pytest.raises(InputError, match="took no time"):
        interleaved({"it": lambda: Timed(seconds={})}, rounds=1)
    with pytest.raises(InputError, match="at least 1 each"):
        interleaved({}, rounds=1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its peak")
def test_peak_memory_sees_what_numpy_took_and_gave_back() -> None:
    def work() -> None:
        np.ones(2**22)  # 32 MiB

    # Twice: what the first left behind must not hide the second.
    for _ in range(2):
        peak = measure.peak_memory(work)
        assert peak is not None
        assert 28 * 2**20 < peak < 64 * 2**20


def test_a_machine_is_told_by_processor_and_cores() -> None:
    here = measure.machine()
    assert json.loads(json.dumps(here)) == here
    assert here["libraries"]["numpy"] == np.__version__
    assert measure.same_machine(here, here | {"load": [9.0], "python": "CPython 4"})
    assert not measure.same_machine(here, here | {"flags": []})


@pytest.mark.parametrize("name", references.REFERENCES)
def test_a_reference_does_its_work_again_and_again(name: str) -> None:
    work = references.REFERENCES[name].make()
    assert work() == work()


def test_keystream_ends_where_it_is_told() -> None:
    for size in (0, 1, 2**17, 2**17 + 5):
        references.keystream(size)()
