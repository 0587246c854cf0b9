"""``interleaved``: contenders measured in turn, and pytest-benchmark told about one of them.

``extra_info`` then holds the medians of all, the ratios of that one to each other contender
with their intervals, bytes and peak memory; and of every benchmark what the machine is: threads,
processor flags, versions. See ``secagg.measure`` and ``secagg.references``.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from secagg import measure
from secagg.measure import Clock, Contender, Interleaved
from secagg.references import REFERENCES

Measure = Callable[..., Interleaved]


class Replay:
    """A clock that tells again what was measured: pytest-benchmark reads it twice a round."""

    def __init__(self) -> None:
        self._marks: deque[float] = deque()

    def wind(self, samples: Iterable[float]) -> None:
        for sample in samples:
            self._marks += (0.0, sample)

    def __call__(self) -> float:
        return self._marks.popleft()


@pytest.fixture(autouse=True)
def described(request: pytest.FixtureRequest) -> None:
    """Every benchmark says on which machine; ``interleaved`` does it after its work."""
    if "benchmark" in request.fixturenames and "interleaved" not in request.fixturenames:
        request.getfixturevalue("benchmark").extra_info["machine"] = measure.machine()


@pytest.fixture
def replay(request: pytest.FixtureRequest) -> Replay:
    clock = Replay()
    request.node.add_marker(pytest.mark.benchmark(timer=clock))
    return clock


@pytest.fixture
def interleaved(replay: Replay, benchmark: BenchmarkFixture) -> Measure:
    """Measures, and gives the :class:`Interleaved`; ``replay`` comes before ``benchmark``.

    ``of`` names the contender that is reported, ``beside`` one of ``REFERENCES`` that is
    measured too; ``sizes`` are bytes by name.
    """

    def run(
        contenders: Mapping[str, Contender],
        of: str,
        *,
        beside: str | None = None,
        sizes: Mapping[str, int] | None = None,
        rounds: int = measure.ROUNDS,
        seconds: float = 0.0,
        clock: Clock = Clock.CPU,
    ) -> Interleaved:
        everyone = dict(contenders)
        if beside is not None:
            everyone[beside] = REFERENCES[beside].make()
        peak = measure.peak_memory(everyone[of])
        if not benchmark.enabled:
            rounds, seconds = measure.fewest(measure.CONFIDENCE), 0.0
        found = measure.interleaved(everyone, rounds=rounds, seconds=seconds, clock=clock)
        samples = found.seconds[of]
        replay.wind(samples)
        pedantic: Any = benchmark.pedantic  # it comes without types
        pedantic(lambda: None, rounds=len(samples))
        benchmark.extra_info.update(
            clock=clock.value,
            seconds={name: float(f"{found.median(name):.4g}") for name in found.seconds},
            ratios={
                f"{of}/{other}": {
                    name: float(f"{value:.4g}")
                    for name, value in found.ratio(of, other).as_dict().items()
                }
                for other in everyone
                if other != of
            },
            bytes=dict(sizes or {}),
            peak_memory=peak,
            machine=measure.machine(),  # again: contenders may have started threads
        )
        return found

    return run
