"""Integer noise: draws a second of each sampler, and seconds to build a table.

``extra_info`` holds draws a second, tables built beforehand; they are measured in turn with AES,
and what ``local`` needs in turn with torch's own generator, on one thread.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from dp.noise import gaussian, skellam
from dp.noise.sampling import (
    BinnedGaussianSampler,
    DiscreteGaussianSampler,
    SkellamSampler,
    coins,
    permutation,
)
from secagg.bench.measure import Interleaved, Work

Measure = Callable[..., Interleaved]

DRAWS = 10**6
VARIANCES = [1e2, 2e5, 2.0**36]


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("kind", [SkellamSampler, DiscreteGaussianSampler])
def test_draw(
    interleaved: Measure,
    benchmark: BenchmarkFixture,
    kind: type[SkellamSampler] | type[DiscreteGaussianSampler],
    variance: float,
) -> None:
    sampler = kind(variance)
    found = interleaved({"draw": lambda: sampler.sample(DRAWS)}, "draw", beside="aes", rounds=10)
    benchmark.extra_info["draws a second"] = DRAWS / found.median("draw")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rounded_and_added(deviation: float) -> Work:
    """A float64 vector to the grid, plus noise, and back."""
    sampler, vector = BinnedGaussianSampler(deviation), np.linspace(-1, 1, DRAWS)

    def run() -> np.ndarray:
        noised = np.rint(vector * deviation).astype(np.int64)
        noised += sampler.sample(DRAWS)
        return noised / deviation

    return run


@pytest.mark.parametrize(
    ("ours", "torch_s"),
    [
        (lambda: lambda: BinnedGaussianSampler(2.0**10).sample(DRAWS), "normal"),
        (lambda: lambda: BinnedGaussianSampler(2.0**40).sample(DRAWS), "normal"),
        (lambda: rounded_and_added(2.0**40), "normal and add"),
        (lambda: lambda: coins(DRAWS, 0.01), "rand"),
        (lambda: lambda: permutation(DRAWS), "randperm"),
    ],
    ids=["binned-2^10", "binned-2^40", "binned-2^40-rounded-and-added", "coins", "permutation"],
)
def test_beside_torch(
    interleaved: Measure,
    benchmark: BenchmarkFixture,
    one_thread: None,
    ours: Callable[[], Work],
    torch_s: str,
) -> None:
    generator, vector = torch.Generator().manual_seed(1), torch.linspace(-1, 1, DRAWS).double()

    def normal() -> torch.Tensor:
        return torch.normal(0.0, 1.0, (DRAWS,), dtype=torch.float64, generator=generator)

    theirs = {
        "normal": normal,
        "normal and add": lambda: vector + normal(),
        "rand": lambda: torch.rand(DRAWS, generator=generator) < 0.01,
        "randperm": lambda: torch.randperm(DRAWS, generator=generator),
    }[torch_s]
    found = interleaved({"ours": ours(), "torch": theirs}, "ours")
    benchmark.extra_info["draws a second"] = DRAWS / found.median("ours")


@pytest.mark.parametrize("variance", [*VARIANCES, 2.0**24])
def test_build_table(benchmark: BenchmarkFixture, variance: float) -> None:
    """2^24 is near the most that is tabled value by value; 2^36 is tabled in strips."""
    benchmark.pedantic(skellam.table.__wrapped__, args=(variance,), rounds=3)


@pytest.mark.parametrize("law", ["binned", "integers"])
def test_build_gaussian_table(benchmark: BenchmarkFixture, law: str) -> None:
    build, options = gaussian.table.__wrapped__, {"real": law == "binned"}
    benchmark.pedantic(build, (Fraction(2**60),), options, rounds=3)
