import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp import accountant
from dp.accountant import ORDERS, check_delta, epsilon_pld, epsilon_rdp, grouped, rdp
from dp.errors import AccountantLimit, BadParameter, UnsoundEvent
from dp.events import (
    Adjacency,
    CyclicSampling,
    FixedSizeSampling,
    GaussianEvent,
    NoSampling,
    PoissonSampling,
    ShuffledSampling,
    Unit,
)

INTEGERS = len(accountant._FRACTIONAL)  # where the integer orders begin


def gaussian(z, q=1.0, steps=1, **more):
    sampling = PoissonSampling(rate=q) if q < 1 else NoSampling()
    return GaussianEvent(noise_multiplier=z, sampling=sampling, steps=steps, **more)


@pytest.mark.parametrize(
    ("z", "q", "steps", "delta", "pld", "by_rdp"),
    [
        (1.1, 256 / 60000, 14062, 1e-5, 2.3817, 2.5966),
        (1, 0.01, 1000, 1e-5, 1.8282, 2.1014),
        (4, 1, 100, 1e-6, 14.4508, 15.3280),
        (1, 1, 1, 1e-5, 4.3772, 4.7285),
        (100, 1, 1, 1e-5, 0.02722, None),
        (2, 50 / 1000, 100, 1e-5, 1.097, None),
    ],
)
def test_known_answers(z, q, steps, delta, pld, by_rdp):
    composition = {gaussian(z, q, steps): 1}
    reported = epsilon_pld(composition, delta)
    assert reported == pytest.approx(pld, rel=2e-3)
    admitted = epsilon_rdp(composition, delta)
    assert reported <= admitted
    if by_rdp is not None:
        assert admitted <= 1.005 * by_rdp


def test_replace_one_costs_what_it_should_and_twice_the_shift_unsampled():
    sampled = gaussian(2, 0.05, 100, adjacency=Adjacency.REPLACE_ONE)
    assert epsilon_pld({sampled: 1}, 1e-5) == pytest.approx(2.004, rel=2e-3)
    replaced = {gaussian(2, adjacency=Adjacency.REPLACE_ONE): 3}
    half_noise = {gaussian(1): 3}
    assert epsilon_rdp(replaced, 1e-5) == epsilon_rdp(half_noise, 1e-5)
    assert epsilon_pld(replaced, 1e-5) == pytest.approx(epsilon_pld(half_noise, 1e-5), rel=1e-3)


def test_zeroing_out_costs_what_adding_or_removing_does():
    for q in (1.0, 0.05):
        added, zeroed = (
            {gaussian(2, q, 100, adjacency=adjacency): 1}
            for adjacency in (Adjacency.ADD_OR_REMOVE, Adjacency.ZERO_OUT)
        )
        assert epsilon_rdp(added, 1e-5) == epsilon_rdp(zeroed, 1e-5)
        assert epsilon_pld(added, 1e-5) == epsilon_pld(zeroed, 1e-5)


def test_a_sum_of_the_rounds_epsilons_is_not_the_epsilon_of_the_sum():
    one = gaussian(2, 0.05)
    assert epsilon_rdp({one: 100}, 1e-5) < 100 * epsilon_rdp({one: 1}, 1e-5) / 5


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (
            GaussianEvent(noise_multiplier=2, sampling=FixedSizeSampling(size=50, population=1000)),
            "FixedSizeSampling",
        ),
        (
            GaussianEvent(noise_multiplier=2, sampling=ShuffledSampling(size=50, population=1000)),
            "ShuffledSampling",
        ),
        (
            GaussianEvent(noise_multiplier=2, sampling=CyclicSampling(period=20)),
            "CyclicSampling",
        ),
        (gaussian(2, 0.05, unit=Unit.CLIENT), "cohort"),
        (gaussian(2, 0.05, unit=Unit.CLIENT, adjacency=Adjacency.ZERO_OUT), "cohort"),
    ],
)
def test_a_design_that_cannot_be_treated_soundly_is_refused_by_name(event, name):
    for price in (epsilon_rdp, epsilon_pld):
        with pytest.raises(UnsoundEvent, match=name):
            price({event: 1}, 1e-5)


def test_sampled_replace_one_is_not_trusted_to_rdp():
    with pytest.raises(UnsoundEvent, match="replace-one"):
        epsilon_rdp({gaussian(2, 0.05, adjacency=Adjacency.REPLACE_ONE): 1}, 1e-5)


def test_clients_that_all_take_part_are_priced_unamplified():
    clients = {gaussian(2, unit=Unit.CLIENT, adjacency=Adjacency.ZERO_OUT): 5}
    assert epsilon_rdp(clients, 1e-5) == epsilon_rdp({gaussian(2): 5}, 1e-5)


def test_an_example_level_epsilon_does_not_cover_clients():
    mixed = [(gaussian(2), 1), (gaussian(2, unit=Unit.CLIENT), 1)]
    for price in (epsilon_rdp, epsilon_pld):
        with pytest.raises(UnsoundEvent, match="client and example"):
            price(mixed, 1e-5)
    with pytest.raises(UnsoundEvent, match="add_or_remove and zero_out"):
        epsilon_rdp([(gaussian(2), 1), (gaussian(2, adjacency=Adjacency.ZERO_OUT), 1)], 1e-5)


def test_nothing_costs_nothing():
    for price in (epsilon_rdp, epsilon_pld):
        assert price({}, 1e-5) == 0
        assert price({gaussian(1): 0}, 1e-5) == 0
        assert price({gaussian(1, steps=0): 7}, 1e-5) == 0
    assert not rdp(gaussian(1, steps=0)).any()


@pytest.mark.parametrize(("z", "q"), [(1, 0.01), (0.5, 0.25), (2, 0.9), (4, 0.05), (0.3, 0.01)])
def test_integer_orders_agree_with_dp_accounting(z, q):
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    orders = [int(order) for order in ORDERS[INTEGERS:]]
    reference = RdpAccountant(orders)
    reference.compose(dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z)), 7)
    ours = rdp(gaussian(z, q, 7))[INTEGERS:]
    np.testing.assert_allclose(ours, reference._rdp, rtol=1e-10)


@pytest.mark.parametrize(("z", "q"), [(1, 0.01), (0.5, 0.25), (2, 0.9), (4, 0.05), (0.3, 0.01)])
def test_fractional_orders_bound_the_integral_from_above_and_closely(z, q):
    from scipy.integrate import quad

    ours = rdp(gaussian(z, q))[:INTEGERS]
    for order, price in zip(accountant._FRACTIONAL, ours, strict=True):

        def integrand(x, a=order):
            ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * x - 1) / (2 * z * z))
            return math.exp(a * ratio - x * x / (2 * z * z)) / (z * math.sqrt(2 * math.pi))

        middle = order / 2
        moment = sum(
            quad(integrand, low, high, limit=500, epsabs=0, epsrel=1e-12)[0]
            for low, high in ((-12 * z, middle), (middle, order + 12 * z))
        )
        exact = math.log(moment) / (order - 1)
        assert exact * (1 - 1e-9) - 1e-11 <= price <= exact * (1 + 1e-9) + 2e-10


@settings(deadline=None)
@given(st.floats(0.1, 1e6), st.floats(1e-12, 1, exclude_max=True))
def test_the_price_rises_with_the_order_and_sampling_never_adds_to_it(z, q):
    sampled, plain = rdp(gaussian(z, q)), rdp(gaussian(z))
    assert (sampled <= plain).all()
    rising = sampled[np.argsort(ORDERS)]
    rising = rising[np.isfinite(rising)]
    slack = 1e-9 * rising[1:] + 1e-10
    assert (np.diff(rising) >= -slack).all()


@settings(deadline=None)
@given(st.floats(0.3, 20), st.floats(1e-4, 0.9), st.integers(1, 1000))
def test_more_noise_fewer_steps_and_a_lower_rate_never_cost_more(z, q, steps):
    price = epsilon_rdp({gaussian(z, q, steps): 1}, 1e-5)
    assert epsilon_rdp({gaussian(1.1 * z, q, steps): 1}, 1e-5) <= price
    assert epsilon_rdp({gaussian(z, 0.9 * q, steps): 1}, 1e-5) <= price
    assert epsilon_rdp({gaussian(z, q, steps - 1): 1}, 1e-5) <= price


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0]), st.integers(0, 5), st.integers(0, 5))))
def test_equal_events_are_grouped_whatever_their_steps(items):
    pairs = [(gaussian(z, 0.1, steps), count) for z, steps, count in items]
    together = grouped(pairs)
    assert all(event.steps == 1 for event in together)
    for z in (1.0, 2.0):
        expected = sum(steps * count for noise, steps, count in items if noise == z)
        assert together.get(gaussian(z, 0.1), 0) == expected


def test_rounds_of_several_kinds_compose():
    mixed = [(gaussian(1.5, 0.1), 20), (gaussian(2, 0.2), 10), (gaussian(1.5, 0.1, 3), 2)]
    admitted = epsilon_rdp(mixed, 1e-5)
    reported = epsilon_pld(mixed, 1e-5, interval=1e-3)
    assert epsilon_rdp({gaussian(1.5, 0.1): 26}, 1e-5) < admitted
    assert 0.8 * admitted < reported < admitted


@pytest.mark.parametrize("z", [1e-200, 1e-150, 1e-5])
def test_noise_that_hides_nothing_costs_more_than_any_budget(z):
    for q in (1.0, 0.5, 1e-300):
        assert epsilon_rdp({gaussian(z, q): 1}, 1e-5) > 1e9


def test_a_distribution_that_would_not_fit_is_refused():
    with pytest.raises(AccountantLimit, match="interval"):
        epsilon_pld({gaussian(0.01, 0.5, 100): 1}, 1e-5)


@pytest.mark.parametrize("delta", [0, 1, -0.1, 1.5, math.nan, math.inf, True, "x"])
def test_delta_is_checked(delta):
    for price in (epsilon_rdp, epsilon_pld):
        with pytest.raises(BadParameter, match="delta"):
            price({gaussian(1): 1}, delta)


def test_delta_of_one_over_the_number_of_units_is_refused():
    assert check_delta(1e-5, units=99_999) == 1e-5
    for units in (100_000, 10**9):
        with pytest.raises(BadParameter, match=str(units)):
            check_delta(1e-5, units=units)
    with pytest.raises(BadParameter, match="units"):
        check_delta(1e-5, units=0)


@pytest.mark.parametrize("count", [-1, 1.0, True])
def test_counts_are_checked(count):
    with pytest.raises(BadParameter, match="count"):
        epsilon_rdp({gaussian(1): count}, 1e-5)


def test_cached_prices_cannot_be_overwritten():
    rdp(gaussian(1, 0.5))[:] = 0
    assert epsilon_rdp({gaussian(1, 0.5): 1}, 1e-5) > 0
    with pytest.raises(ValueError, match="read-only"):
        ORDERS[0] = 1
