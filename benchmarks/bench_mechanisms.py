"""A client's side of distributed noise, stage by stage; the noise itself is measured apart."""

import os

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dp import mechanisms
from dp.mechanisms import DistributedNoise
from dp.rotation import forward

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
