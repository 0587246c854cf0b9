"""The error of a sum under real noise is that of one trusted party with the same noise."""

import math

import numpy as np
import pytest

from dp.noise.mechanisms import DistributedNoise
from protocols.testing import insecure_entropy

CLIENTS, MINIMUM, CORRUPT, SURVIVORS, ENTRIES, SUMS = 100, 80, 1, 90, 4096, 2


@pytest.mark.parametrize("bits", [12, 14, 16, 18])
@pytest.mark.parametrize("shape", ["spiky", "dense"])
@pytest.mark.parametrize("noise", ["skellam", "discrete_gaussian"])
def test_a_sum_errs_by_its_noise_within_three_per_cent(bits, shape, noise):
    """From fixed bits. Two sums estimate a deviation to 1/sqrt(2 * 8192), .8 %."""
    plan = DistributedNoise(
        entries=ENTRIES,
        clip=1.0,
        noise_multiplier=1.0,
        clients=CLIENTS,
        minimum_survivors=MINIMUM,
        uncounted_shares=CORRUPT,
        bits=bits,
        noise=noise,
    )
    vector = np.zeros(ENTRIES)
    vector[7] = 1.0
    if shape == "dense":
        vector = np.random.default_rng(0).normal(size=ENTRIES)
        vector /= np.linalg.norm(vector)
    errors = []
    for number in range(SUMS):
        entropy, seed = insecure_entropy((bits, shape, noise, number)), bytes([number] * 16)
        total = sum(plan.encode(vector, seed=seed, entropy=entropy) for _ in range(SURVIVORS))
        errors.append(plan.decode(total, seed=seed) - SURVIVORS * vector)
    expected = math.sqrt(SURVIVORS / (MINIMUM - CORRUPT))
    assert 0.97 < np.sqrt(np.mean(np.square(errors))) / expected < 1.03
