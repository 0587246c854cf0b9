"""``interleaved``: contenders measured in turn, and pytest-benchmark told about one of them.

``extra_info`` then holds the medians of all, the ratios of that one to each other contender
with their intervals, bytes and peak memory; and of every benchmark what the machine is: threads,
processor flags, versions. See ``secagg.bench.measure`` and ``secagg.bench.yardsticks``.

    python -m pytest benchmarks/peers --benchmark-only --results benchmarks/results/peers.json

keeps what ``extra_info`` says in a file, a line a benchmark; those that are not run stay in it.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from secagg.bench import measure
from secagg.bench.measure import Clock, Interleaved, Work
from secagg.bench.yardsticks import REFERENCES

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, help="JSON file that keeps what extra_info says")


def load(path: Path) -> ModuleType:
    """A file of this repository that no package holds."""
    if path.stem not in sys.modules:
        spec = spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[path.stem] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[path.stem])
    return sys.modules[path.stem]


@pytest.fixture
def flower_rounds() -> ModuleType:
    return load(Path(__file__).parent / "flower_rounds.py")


@pytest.fixture
def engine() -> ModuleType:
    """Flower's grid in this process, which the tests have too."""
    return load(Path(__file__).parents[1] / "tests" / "secagg" / "adapters" / "engine.py")


@pytest.fixture(autouse=True)
def described(request: pytest.FixtureRequest) -> None:
    """Every benchmark says on which machine; ``interleaved`` does it after its work."""
    if "benchmark" in request.fixturenames and "interleaved" not in request.fixturenames:
        request.getfixturevalue("benchmark").extra_info["machine"] = measure.machine()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Function) -> Iterator[None]:
    began = time.perf_counter()
    yield
    path: Path | None = item.config.getoption("--results")
    benchmark: BenchmarkFixture | None = item.funcargs.get("benchmark")
    if path is not None and benchmark is not None and benchmark.enabled:
        took = {"took": round(time.perf_counter() - began, 1)}
        _keep(path, f"{item.path.stem}::{item.name}", benchmark.extra_info | took)


def _keep(path: Path, name: str, info: Mapping[str, Any]) -> None:
    kept = json.loads(path.read_text())["benchmarks"] if path.exists() else {}
    kept[name] = dict(info)
    lines = ",\n".join(f"  {json.dumps(each)}: {json.dumps(kept[each])}" for each in sorted(kept))
    path.write_text(f'{{\n "schema": 1,\n "benchmarks": {{\n{lines}\n }}\n}}\n')


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
        contenders: Mapping[str, Work],
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
            rounds, seconds = measure.min_samples(measure.CONFIDENCE), 0.0
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
