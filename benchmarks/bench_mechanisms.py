"""A client's side of distributed noise, as a whole and stage by stage.

One core: OPENBLAS_NUM_THREADS=1. ``test_whole_client`` has the milliseconds of its parts, each
the least of some rounds, in ``extra_info``; the other samplers and variances are in bench_noise.
"""

import os
import time
from collections.abc import Callable

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dp.noise import mechanisms
from dp.noise.mechanisms import DistributedNoise
from dp.noise.rotation import forward
from dp.noise.sampling import SkellamSampler
from secagg.vectors.layout import Layout, NoisyIntegers, Segment

ENTRIES = 10**6
SEED = bytes(16)


class Silent:
    error = 0.0

    def sample(self, count: int, *, entropy: object) -> np.ndarray:
        return np.zeros(count, np.int64)


def plan() -> DistributedNoise:
    return DistributedNoise(
        entries=ENTRIES,
        clip=1.0,
        noise_multiplier=1.0,
        clients=100,
        minimum_survivors=80,
        bits=16,
    )


def vector(dtype: str) -> np.ndarray:
    return np.random.default_rng(0).normal(size=ENTRIES).astype(dtype)


def milliseconds(stage: Callable[[], object], rounds: int = 15) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        stage()
        times.append(time.perf_counter() - begin)
    return round(1e3 * min(times), 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_client(benchmark: BenchmarkFixture, dtype: str) -> None:
    """Clip, rotate, round, a real Skellam share, pack. The table of the noise is there already."""
    mechanism, values = plan(), vector(dtype)
    segment = Segment(
        name="update", entries=mechanism.size, codec=NoisyIntegers(bits=mechanism.bits)
    )
    layout = Layout(segments=(segment,), clients=mechanism.clients)

    def client() -> None:
        layout.encode({"update": mechanism.encode(values, seed=SEED)})

    benchmark.pedantic(client, rounds=15, warmup_rounds=2)
    rotated = forward(values, seed=SEED)
    integers = np.empty(len(rotated), np.int64)
    sampler = SkellamSampler(mechanism.share_variance)
    bits, norm, rounded = mechanism._fraction, mechanisms._norm, mechanisms._round  # noqa: SLF001 - one stage alone
    benchmark.extra_info["milliseconds of"] = {
        "norm": milliseconds(lambda: norm(values)),
        "rotation": milliseconds(lambda: forward(values, seed=SEED)),
        "rounding": milliseconds(lambda: rounded(rotated, 1.0, bits, os.urandom, integers)),
        "noise": milliseconds(lambda: sampler.sample(mechanism.size)),
        "packing": milliseconds(lambda: layout.encode({"update": integers})),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_norm(benchmark: BenchmarkFixture, dtype: str) -> None:
    benchmark(mechanisms._norm, vector(dtype))  # noqa: SLF001 - one stage alone


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rotation(benchmark: BenchmarkFixture, dtype: str) -> None:
    benchmark(forward, vector(dtype), seed=SEED)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding(benchmark: BenchmarkFixture, dtype: str) -> None:
    mechanism = plan()
    values = forward(vector(dtype), seed=SEED)
    out = np.empty(len(values), np.int64)
    stage, bits = mechanisms._round, mechanism._fraction  # noqa: SLF001 - one stage alone
    benchmark(stage, values, 1.0, bits, os.urandom, out)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_but_noise(
    benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(mechanisms, "_sampler", lambda noise, variance: Silent())
    values = vector(dtype)
    benchmark(plan().encode, values, seed=SEED)


def test_decode(benchmark: BenchmarkFixture) -> None:
    mechanism = plan()
    total = np.random.default_rng(0).integers(-1000, 1000, mechanism.size)
    benchmark(mechanism.decode, total, seed=SEED)
