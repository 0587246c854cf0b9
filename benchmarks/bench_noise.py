"""Integer noise: draws a second of each sampler, and seconds to build a Skellam table.

``extra_info`` holds draws a second, tables built beforehand; they are measured in turn with AES.
"""

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dp.noise import skellam
from dp.noise.sampling import DiscreteGaussianSampler, SkellamSampler
from secagg.bench.measure import Interleaved

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


@pytest.mark.parametrize("variance", [*VARIANCES, 2.0**24])
def test_build_table(benchmark: BenchmarkFixture, variance: float) -> None:
    """2^24 is near the most that is tabled value by value; 2^36 is tabled in blocks."""
    benchmark.pedantic(skellam.table.__wrapped__, args=(variance,), rounds=3)
