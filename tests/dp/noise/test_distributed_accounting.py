import math

import numpy as np
import pytest
from scipy import stats

from dp.accounting import accountant
from dp.accounting.accountant import ORDERS, epsilon_pld, epsilon_rdp, has_pld, rdp
from dp.accounting.events import (
    DiscreteGaussianEvent,
    NeighboringRelation,
    NoSampling,
    PoissonSampling,
    SkellamEvent,
    Unit,
    from_json,
)
from dp.errors import InputError, UnsoundEvent
from dp.noise.lanes import REDRAW_BIAS, Lanes, rounded_norm
from dp.noise.mechanisms import DistributedNoise

DELTA = 1e-5
CLIENT = {"sampling": NoSampling(), "unit": Unit.CLIENT, "adjacency": NeighboringRelation.ZERO_OUT}


def scale_at_four(bits, entries, clients=100):
    lanes = Lanes(
        bits=bits,
        clients=clients,
        size=entries,
        clip=1,
        batch=1,
        share_stddev=clients**-0.5,
        skellam=True,
        redrawn=True,
        indicator_share=0,
    )
    return lanes.balanced_scale(4)


def events(scale, entries, survivors=100, shares=100):
    """Of z = 1 at ``shares`` shares, C = 1, as it is at ``survivors``."""
    l2 = rounded_norm(scale, entries, REDRAW_BIAS)
    norms = {"l2_sensitivity": l2, "l1_sensitivity": l2 * min(math.sqrt(entries), l2)}
    share = scale**2 / shares
    return (
        SkellamEvent(variance=survivors * share, **norms, **CLIENT),
        DiscreteGaussianEvent(
            shares=survivors, share_variance=share, entries=entries, **norms, **CLIENT
        ),
    )


@pytest.mark.parametrize(
    ("bits", "entries", "scale", "epsilon"),
    [
        (16, 2**20, 8153.213176, 4.762913),
        (8, 4096, 17.037849, 11.8909),
        (16, 4096, 4415.927059, 4.7534),
    ],
)
def test_known_scales_and_epsilons(bits, entries, scale, epsilon):
    assert scale_at_four(bits, entries) == pytest.approx(scale, rel=1e-7)
    skellam, discrete = events(scale, entries)
    assert epsilon_rdp({skellam: 1}, DELTA) == pytest.approx(epsilon, rel=1e-5)
    if bits == 16:
        assert epsilon_rdp({discrete: 1}, DELTA) == pytest.approx(epsilon, rel=1e-5)


@pytest.mark.parametrize(("survivors", "epsilon"), [(100, 4.7528), (70, 5.8242), (50, 7.0880)])
def test_shares_lost_to_dropouts_are_paid_for(survivors, epsilon):
    for event in events(scale_at_four(20, 2**20), 2**20, survivors):
        assert epsilon_rdp({event: 1}, DELTA) == pytest.approx(epsilon, abs=1.5e-4)


def plan(**more):
    values = {
        "entries": 4096,
        "clip": 2.0,
        "noise_multiplier": 1.0,
        "clients": 100,
        "minimum_survivors": 70,
    }
    return DistributedNoise(**(values | more))


@pytest.mark.parametrize("noise", ["skellam", "discrete_gaussian"])
def test_an_event_is_priced_by_the_shares_that_were_there(noise):
    mechanism = plan(noise=noise)
    reserved, least, most = (
        epsilon_rdp({mechanism.event(survivors=n): 1}, DELTA) for n in (None, 70, 100)
    )
    assert reserved == least > most
    for survivors in (69, 101, 0, True):
        with pytest.raises(InputError, match="survivors"):
            mechanism.event(survivors=survivors)
    more_corrupt = plan(noise=noise, uncounted_shares=20)
    # More noise a share, so that what is left counts the same.
    assert more_corrupt.share_stddev > mechanism.share_stddev
    assert epsilon_rdp({more_corrupt.event(): 1}, DELTA) == pytest.approx(reserved, rel=1e-3)


@pytest.mark.parametrize("noise", ["skellam", "discrete_gaussian"])
def test_rounding_is_never_dropped_from_the_price(noise):
    for bits in (10, 12, 16):
        mechanism = plan(bits=bits, noise=noise)
        assert mechanism.sensitivity_inflation > 1
        price = epsilon_rdp({mechanism.event(): 1}, DELTA)
        assert price > epsilon_rdp({mechanism.central_equivalent(): 1}, DELTA)


def test_a_sum_of_few_narrow_discrete_gaussians_pays_tau():
    norms = {"l2_sensitivity": 2.0, "l1_sensitivity": 4.0, "entries": 1000, **CLIENT}
    alone = rdp(DiscreteGaussianEvent(shares=1, share_variance=0.64 * 50, **norms))
    shared = rdp(DiscreteGaussianEvent(shares=50, share_variance=0.64, **norms))
    tau = 10 * sum(math.exp(-2 * math.pi**2 * 0.64 * k / (k + 1)) for k in range(1, 50))
    two = list(ORDERS).index(2.0)
    assert alone[two] == pytest.approx(2 * 4 / (2 * 32))
    assert shared[two] > alone[two]
    ratio = 2 / math.sqrt(32)
    expected = min(
        ratio**2 + 1000 * tau,
        ratio**2 + 2 * 4 / math.sqrt(32) * tau + 1000 * tau**2,
        (ratio + tau * math.sqrt(1000)) ** 2,
    )
    assert shared[two] == pytest.approx(expected)


def test_tau_of_very_many_shares_is_bounded_from_above():
    exact = 10 * sum(math.exp(-2 * math.pi**2 * 0.3 * k / (k + 1)) for k in range(1, 5000))
    assert exact <= accountant._distance_of_sum(5000, 0.3) <= 1.01 * exact


def test_an_event_of_integer_noise_has_one_text_and_no_loss_distribution():
    event = plan(noise="discrete_gaussian").event()
    assert from_json(event.to_json()) == event
    assert not has_pld(event)
    with pytest.raises(UnsoundEvent, match="no privacy loss distribution"):
        epsilon_pld({event: 1}, DELTA)
    replaced = DiscreteGaussianEvent(
        shares=2, share_variance=9, l2_sensitivity=1, l1_sensitivity=1, entries=1,
        sampling=NoSampling(),
        adjacency=NeighboringRelation.REPLACE_ONE,
    )  # fmt: skip
    with pytest.raises(UnsoundEvent, match="replacement"):
        epsilon_rdp({replaced: 1}, DELTA)
    with pytest.raises(UnsoundEvent, match="cohort"):
        epsilon_rdp({plan().event(sampling=PoissonSampling(rate=0.1)): 1}, DELTA)


@pytest.mark.parametrize(("name", "value"), [("shares", 0), ("shares", 1.0), ("entries", 0)])
def test_counts_of_a_discrete_gaussian_are_checked(name, value):
    good = {
        "shares": 2,
        "share_variance": 9,
        "l2_sensitivity": 1,
        "l1_sensitivity": 1,
        "entries": 1,
    }
    with pytest.raises(InputError, match=name):
        DiscreteGaussianEvent(**(good | {name: value}), **CLIENT)


def test_examples_are_amplified_and_their_rounding_may_fail():
    mechanism = plan(unit=Unit.EXAMPLE, batch=10)
    sampled = mechanism.event(sampling=PoissonSampling(rate=0.05), steps=10)
    assert epsilon_rdp({sampled: 1}, DELTA) < epsilon_rdp({mechanism.event(steps=10): 1}, DELTA) / 2
    assert (mechanism.rounding_failure, plan().rounding_failure) == (2.0**-60, 0.0)
    assert mechanism.l2_sensitivity > plan(scale=mechanism.scale).l2_sensitivity


@pytest.mark.parametrize("noise", ["skellam", "discrete_gaussian"])
@pytest.mark.parametrize(("rate", "shift"), [(0.01, 1), (0.2, 3), (0.7, 2)])
def test_sampling_of_symmetric_noise_is_bounded_in_both_directions(noise, rate, shift):
    variance, x = 9.0, np.arange(-150, 151)
    if noise == "skellam":
        mass = stats.skellam.pmf
        base, moved = (mass(x - k, variance / 2, variance / 2) for k in (0, shift))
        event = SkellamEvent(
            variance=variance,
            l2_sensitivity=shift,
            l1_sensitivity=shift,
            sampling=PoissonSampling(rate=rate),
        )
    else:
        base, moved = (np.exp(-((x - k) ** 2.0) / (2 * variance)) for k in (0, shift))
        base, moved = base / base.sum(), moved / moved.sum()
        event = DiscreteGaussianEvent(
            shares=1, share_variance=variance, l2_sensitivity=shift, l1_sensitivity=shift,
            entries=1,
            sampling=PoissonSampling(rate=rate),
        )  # fmt: skip
    inside = (base > 1e-250) & (moved > 1e-250)
    base, moved = base[inside], moved[inside]
    mixed = (1 - rate) * base + rate * moved
    prices = dict(zip(ORDERS, rdp(event), strict=True))
    for a in (2, 3, 5, 8):
        removed, added = (
            math.log(np.sum(p * (p / q) ** (a - 1))) / (a - 1)
            for p, q in ((mixed, base), (base, mixed))
        )
        assert added <= removed + 1e-12
        assert removed <= prices[a] + 1e-12


def test_a_client_that_leaves_with_its_share_shows_in_the_variance_alone():
    # 650 entries, 18 or 17 shares, nothing else differs: two Gaussians of mean 0.
    entries, many, few, delta = 650, 18, 17, 1e-4
    a = np.arange(1.05, 256, 0.01)
    # D_a(N(0, s1) || N(0, s0)), s1 = 18 > s0 = 17, finite while a s0 + (1 - a) s1 > 0.
    rest = a * few + (1 - a) * many
    a, rest = a[rest > 0], rest[rest > 0]
    price = entries * (math.log(few / many) / 2 + np.log(few / rest) / (2 * (a - 1)))
    by_rdp = np.min(price - (math.log(delta) + np.log(a)) / (a - 1) + np.log((a - 1) / a))
    assert 4.7 < by_rdp < 4.8

    def exact_delta(epsilon):
        threshold = (epsilon - entries / 2 * math.log(few / many)) * 2 / (1 / few - 1 / many)
        return stats.chi2.sf(threshold / many, entries) - math.exp(epsilon) * stats.chi2.sf(
            threshold / few, entries
        )

    assert exact_delta(4.2) > delta > exact_delta(4.3)
    removed = SkellamEvent(
        variance=1, l2_sensitivity=1, l1_sensitivity=1, sampling=NoSampling(), unit=Unit.CLIENT
    )
    with pytest.raises(UnsoundEvent, match="noise share"):
        epsilon_rdp({removed: 1}, delta)
