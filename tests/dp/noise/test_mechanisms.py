import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp.accounting.events import Unit
from dp.errors import InputError
from dp.noise import mechanisms
from dp.noise.lanes import log_tail, rounded_norm
from dp.noise.mechanisms import DistributedNoise
from protocols.testing import insecure_entropy

SEED = bytes(range(16))


class Silent:
    """No noise: shows what is under it."""

    error = 0.0

    def sample(self, count, *, entropy):
        return np.zeros(count, np.int64)


@pytest.fixture
def no_noise(monkeypatch):
    monkeypatch.setattr(mechanisms, "_sampler", lambda noise, variance: Silent())


def mechanism(entries=100, **more):
    values = {"clip": 1.0, "noise_multiplier": 1.0, "clients": 10, "minimum_survivors": 8}
    return DistributedNoise(entries=entries, **(values | more))


def normal(entries, seed=0):
    return np.random.default_rng(seed).normal(size=entries)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 5000),
    st.integers(2, 6),
    st.sampled_from(["skellam", "discrete_gaussian"]),
    st.integers(0, 2**32),
)
def test_the_sum_comes_back_within_its_noise(entries, clients, noise, seed):
    plan = mechanism(entries, clients=clients, minimum_survivors=2, noise=noise, bits=16)
    vectors = [normal(entries, seed + i) for i in range(clients)]
    vectors = [vector / np.linalg.norm(vector) for vector in vectors]
    total = sum(plan.encode(vector, seed=SEED) for vector in vectors)
    error = plan.decode(total, seed=SEED) - sum(vectors)
    assert error.shape == (entries,)
    # Seven deviations in the norm's direction, and in each of its entries nine.
    assert np.linalg.norm(error) <= plan.stddev(clients) * (math.sqrt(plan.size) + 7)
    assert np.abs(error).max() <= 9 * plan.stddev(clients) + 1e-9


@pytest.mark.parametrize("bits", [12, 14, 16, 18])
@pytest.mark.parametrize("shape", ["spiky", "dense"])
def test_the_error_of_a_sum_is_that_of_a_trusted_server(bits, shape):
    plan = mechanism(4096, clients=100, minimum_survivors=80, bits=bits)
    vector = np.zeros(4096)
    vector[7] = 1.0
    if shape == "dense":
        vector = normal(4096) / np.linalg.norm(normal(4096))
    survivors = 90
    total = sum(plan.encode(vector, seed=SEED) for _ in range(survivors))
    assert np.abs(total).max() < 2 ** (bits - 1)
    error = plan.decode(total, seed=SEED) - survivors * vector
    expected = math.sqrt(survivors / (80 - 1))
    # Five deviations of the estimate from 4,096 entries: 5 / sqrt(2 * 4096).
    assert np.sqrt(np.mean(error**2)) == pytest.approx(expected, rel=0.055)
    assert plan.stddev(survivors) == pytest.approx(expected, rel=0.03)


@settings(deadline=None, max_examples=50)
@given(
    entries=st.integers(1, 3000),
    length=st.floats(0, 1e30),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    bits=st.integers(10, 32),
    spiky=st.booleans(),
)
def test_no_rounded_vector_is_longer_than_is_priced(entries, length, dtype, bits, spiky):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mechanisms, "_sampler", lambda noise, variance: Silent())
        plan = mechanism(entries, bits=bits)
        vector = np.eye(1, entries)[0] if spiky else normal(entries)
        limit = float(np.finfo(dtype).max) / 10
        vector = (vector * min(length, limit)).astype(dtype)
        encoded = plan.encode(vector, seed=SEED)
    assert encoded.dtype == np.int64
    assert encoded.shape == (plan.size,)
    assert math.isqrt(sum(int(x) ** 2 for x in encoded)) <= plan.l2_sensitivity
    assert sum(abs(int(x)) for x in encoded) <= plan.l1_sensitivity


def test_a_rotated_vector_is_shortened_again_whatever_float32_made_of_it(no_noise, monkeypatch):
    plan = mechanism(1000, bits=16)
    stretched, seen = mechanisms.forward, []
    monkeypatch.setattr(mechanisms, "forward", lambda *a, **k: stretched(*a, **k) * 1.0001)
    rounded = mechanisms._round

    def watched(rotated, factor, *more):
        seen.append(np.linalg.norm(rotated.astype(np.float64) * factor))
        return rounded(rotated, factor, *more)

    monkeypatch.setattr(mechanisms, "_round", watched)
    plan.encode(5 * normal(1000).astype(np.float32), seed=SEED)
    assert 0.999 * plan.scale < max(seen) <= plan.scale


def test_rounding_is_redrawn_until_it_is_short_enough(no_noise, monkeypatch):
    plan = mechanism(1000, bits=10)
    rounded, norms = mechanisms._round, []

    def watched(*arguments):
        norms.append(plan.l2_sensitivity + 1 if len(norms) < 3 else rounded(*arguments))
        return norms[-1]

    monkeypatch.setattr(mechanisms, "_round", watched)
    plan.encode(normal(1000), seed=SEED)
    assert len(norms) >= 4
    assert norms[-1] <= plan.l2_sensitivity


def test_the_rounded_sum_of_a_batch_is_never_redrawn(no_noise, monkeypatch):
    plan = mechanism(1000, unit=Unit.EXAMPLE, batch=50)
    calls, rounded = [], mechanisms._round
    monkeypatch.setattr(mechanisms, "_round", lambda *a: calls.append(1) or rounded(*a) + 1e9)
    plan.encode(normal(1000), seed=SEED)
    assert len(calls) == 1


def test_rounding_is_fair(no_noise):
    plan = mechanism(1, bits=10, scale=3.0)
    found = [int(plan.encode([0.1], seed=SEED)[0]) for _ in range(4000)]
    assert set(map(abs, found)) <= {0, 1}
    # .3 within five deviations
    assert abs(np.mean(np.abs(found)) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 4000)


def test_one_example_moves_a_rounded_batch_by_what_is_priced(no_noise):
    plan = mechanism(600, unit=Unit.EXAMPLE, batch=20)
    fixed = {"entropy": lambda count: bytes(i % 251 for i in range(count))}
    batch = normal(600)
    batch *= 19.9 / np.linalg.norm(batch)
    for seed in range(20):
        example = normal(600, seed)
        example /= np.linalg.norm(example)
        one = plan.encode(batch, seed=SEED, **fixed)
        other = plan.encode(batch + example, seed=SEED, **fixed)
        assert np.linalg.norm(one - other) <= plan.l2_sensitivity


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("unit", list(Unit))
def test_what_is_not_finite_becomes_zeros_under_the_whole_share_of_noise(value, unit):
    """Bit by bit what zeros become: the sum does not show that somebody's vector overflowed."""
    plan = mechanism(unit=unit)
    for kind in (np.float32, np.float64):
        vector = normal(100).astype(kind)
        vector[17] = value
        entropy, again = (insecure_entropy("not finite") for _ in range(2))
        found = plan.encode(vector, seed=SEED, entropy=entropy)
        zeros = plan.encode(np.zeros(100, kind), seed=SEED, entropy=again)
        assert (found == zeros).all()
    assert np.mean(found.astype(float) ** 2) > 0.3 * plan.share_variance


@pytest.mark.parametrize("vector", [np.ones(99), np.ones((10, 10)), ["a"] * 100, np.ones(100) * 1j])
def test_what_is_no_such_vector_is_refused(vector):
    with pytest.raises(InputError, match="vector"):
        mechanism().encode(vector, seed=SEED)
    with pytest.raises(InputError):
        mechanism().decode(np.ones(mechanism().size), seed=SEED)


def test_two_clients_never_share_noise_under_one_rotation():
    plan = mechanism(4096)
    one, other = (plan.encode(np.zeros(4096), seed=SEED) for _ in range(2))
    correlation = np.corrcoef(one, other)[0, 1]
    assert abs(correlation) < 6 / math.sqrt(4096)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"entries": 0}, "entries"),
        ({"clip": math.nan}, "clip"),
        ({"clip": 1e31}, "clip"),
        ({"noise_multiplier": 0}, "noise"),
        ({"clients": 1}, "clients"),
        ({"minimum_survivors": 11}, "minimum_survivors"),
        ({"uncounted_shares": 0}, "uncounted_shares"),
        ({"uncounted_shares": 8}, "uncounted_shares"),
        ({"bits": 33}, "bits"),
        ({"noise": "laplace"}, "noise"),
        ({"unit": "client"}, "unit"),
        ({"batch": 2}, "batch"),
        ({"scale": -1.0}, "scale"),
    ],
)
def test_an_attribute_out_of_range_is_refused_by_name(change, name):
    with pytest.raises(InputError, match=name):
        mechanism(**change)


def test_lanes_too_narrow_for_the_tail_are_refused():
    planned = mechanism().scale
    assert 2**-42 < mechanism().wrap_probability <= 2**-40
    with pytest.raises(InputError, match=r"too narrow.*2\*\*-40"):
        mechanism(scale=planned * 1.01)
    with pytest.raises(InputError, match="every scale"):
        mechanism(bits=3)


def test_rounding_at_the_usual_k_of_four_would_wrap():
    plan = mechanism(4096)
    scale = plan._lanes.balanced_scale(4)
    with pytest.raises(InputError, match="too narrow"):
        mechanism(4096, scale=scale)


@pytest.mark.parametrize("skellam", [True, False])
def test_the_tail_bound_is_above_the_exact_tail(skellam):
    from scipy import stats

    for variance in (3.0, 40.0):
        for room in (10, 25):
            if skellam:
                x = np.arange(room, room + 200)  # scipy's own sf loses tails below 1e-16
                exact = stats.skellam.pmf(x, variance / 2, variance / 2).sum()
            else:
                x = np.arange(-400, 401)
                mass = np.exp(-(x**2) / (2 * variance))
                exact = mass[x >= room].sum() / mass.sum()
            bound = math.exp(log_tail(room, 0.0, variance, skellam=skellam))
            assert exact <= bound <= 50 * exact


def test_a_rounded_norm_is_at_least_the_norm_and_within_a_root_of_it():
    for beta in (0, 2**-60, math.exp(-0.5)):
        assert 10 < rounded_norm(10, 64, beta) <= 10 + 8


BITS = {"indicator_share": 0.1, "bits": 20}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.booleans(), st.floats(0.01, 5.0), st.integers(0, 2**32))
def test_vector_and_bit_together_stay_within_the_norms_that_are_priced(entries, bit, length, seed):
    plan = mechanism(entries, **BITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mechanisms, "_sampler", lambda noise, variance: Silent())
        integers = plan.encode(length * normal(entries, seed), seed=SEED, indicator=bit)
    assert integers.shape == (plan.size,)
    assert np.linalg.norm(integers) <= plan.l2_sensitivity
    assert np.abs(integers).sum() <= plan.l1_sensitivity
    assert abs(integers[-1]) == plan.indicator_resolution > 0
    assert plan.indicator_resolution**2 <= 0.1 * plan.rounded_l2_sensitivity**2
    assert plan.l2_sensitivity > plan.rounded_l2_sensitivity


def test_bits_add_up_and_who_says_nothing_adds_nothing(no_noise):
    plan = mechanism(**BITS)
    said = [True, True, True, False, None]
    total = sum(plan.encode(normal(100), seed=SEED, indicator=bit) for bit in said)
    assert plan.decode_indicator(total) == 3 * 0.5 - 0.5
    assert plan.decode(total, seed=SEED).shape == (100,)


def test_the_noise_of_the_bits_is_what_the_mechanism_says():
    plan = mechanism(3, **BITS)
    found = [plan.decode_indicator(plan.encode(np.zeros(3), seed=SEED)) for _ in range(2000)]
    # A sample deviation of 2,000 draws is off by 10 % less than once in 10^9.
    assert np.std(found) == pytest.approx(plan.indicator_stddev(1), rel=0.1)


def test_a_bit_costs_what_splitting_the_noise_costs():
    """z^-2 = z_update^-2 + (2 sigma_b)^-2 [ATMR21], but for rounding."""
    plan = mechanism(
        clients=10, minimum_survivors=8, bits=30, noise_multiplier=2.0, indicator_share=0.2
    )
    update = math.sqrt(plan.event().variance) / plan.rounded_l2_sensitivity
    sigma = plan.indicator_stddev(8 - 1)
    joint = math.sqrt(plan.event().variance) / plan.l2_sensitivity
    assert joint**-2 == pytest.approx(update**-2 + (2 * sigma) ** -2, rel=1e-9)


def test_a_bit_needs_its_share_and_a_client():
    with pytest.raises(InputError, match="indicator"):
        mechanism().encode(normal(100), seed=SEED, indicator=True)
    with pytest.raises(InputError, match="indicator"):
        mechanism().decode_indicator(np.zeros(mechanism().size, np.int64))
    with pytest.raises(InputError, match="must be 0 where unit is EXAMPLE"):
        mechanism(unit=Unit.EXAMPLE, bits=20, indicator_share=0.1)
    for share in (-0.1, 1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="indicator_share"):
            mechanism(indicator_share=share)


def test_lanes_hold_the_bits_of_all_clients_too():
    """With nine tenths of the sensitivity in the bit: one lane of n k, where others spread it."""
    with_bits = mechanism(4096, clients=1000, bits=20, indicator_share=0.9)
    assert with_bits.scale < mechanism(4096, clients=1000, bits=20).scale
    assert 1000 * with_bits.indicator_resolution < 2**19
    assert with_bits.wrap_probability <= mechanisms.WRAP_FAILURE
