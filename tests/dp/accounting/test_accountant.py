import math

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dp.accounting import accountant
from dp.accounting.accountant import (
    ORDERS,
    check_delta,
    epsilon_curve,
    epsilon_pld,
    epsilon_rdp,
    flooding_epsilon,
    merge,
    rdp,
    reported_delta,
    reported_epsilon,
)
from dp.accounting.events import (
    CohortSecrecy,
    CyclicSampling,
    FixedSizeSampling,
    GaussianEvent,
    HiddenPoissonSampling,
    NeighboringRelation,
    NoSampling,
    PoissonSampling,
    ShuffledSampling,
    SkellamEvent,
    Unit,
)
from dp.errors import AccountantLimit, InputError, UnsoundEvent

INTEGERS = len(accountant._FRACTIONAL)  # where the integer orders begin


def gaussian(z, q=1.0, steps=1, **more):
    sampling = PoissonSampling(rate=q) if q < 1 else NoSampling()
    return GaussianEvent(noise_multiplier=z, sampling=sampling, steps=steps, **more)


def clients(
    z, rate, cover=CohortSecrecy.ALL_TAKE_PART, adjacency=NeighboringRelation.ZERO_OUT, steps=1
):
    return GaussianEvent(
        noise_multiplier=z,
        sampling=HiddenPoissonSampling(rate=rate, cover=cover),
        steps=steps,
        unit=Unit.CLIENT,
        adjacency=adjacency,
    )


def fixed_size(z, size, population, steps=1):
    return GaussianEvent(
        noise_multiplier=z,
        sampling=FixedSizeSampling(size=size, population=population),
        steps=steps,
        adjacency=NeighboringRelation.REPLACE_ONE,
    )


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
    sampled = gaussian(2, 0.05, 100, adjacency=NeighboringRelation.REPLACE_ONE)
    assert epsilon_pld({sampled: 1}, 1e-5) == pytest.approx(2.004, rel=2e-3)
    replaced = {gaussian(2, adjacency=NeighboringRelation.REPLACE_ONE): 3}
    half_noise = {gaussian(1): 3}
    assert epsilon_rdp(replaced, 1e-5) == epsilon_rdp(half_noise, 1e-5)
    assert epsilon_pld(replaced, 1e-5) == pytest.approx(epsilon_pld(half_noise, 1e-5), rel=1e-3)


@pytest.mark.parametrize("pld_discretization", [1e-3, pytest.param(1e-4, marks=pytest.mark.slow)])
def test_zeroing_out_costs_what_adding_or_removing_does(pld_discretization):
    for q in (1.0, 0.05):
        added, zeroed = (
            {gaussian(2, q, 100, adjacency=adjacency): 1}
            for adjacency in (NeighboringRelation.ADD_OR_REMOVE, NeighboringRelation.ZERO_OUT)
        )
        assert epsilon_rdp(added, 1e-5) == epsilon_rdp(zeroed, 1e-5)
        assert epsilon_pld(added, 1e-5, pld_discretization) == epsilon_pld(
            zeroed, 1e-5, pld_discretization
        )


def test_a_sum_of_the_rounds_epsilons_is_not_the_epsilon_of_the_sum():
    one = gaussian(2, 0.05)
    assert 100 * epsilon_pld({one: 1}, 1e-5) == pytest.approx(18.04, rel=1e-3)
    assert epsilon_pld({one: 100}, 1e-5) == pytest.approx(1.097, rel=2e-3)
    assert epsilon_rdp({one: 100}, 1e-5) < 100 * epsilon_rdp({one: 1}, 1e-5) / 5


def test_a_fixed_size_sample_costs_what_it_should_with_twice_the_shift():
    assert epsilon_rdp({fixed_size(2, 50, 1000): 100}, 1e-5) == pytest.approx(6.467, rel=1e-3)
    everybody = gaussian(2, adjacency=NeighboringRelation.REPLACE_ONE)
    np.testing.assert_allclose(rdp(fixed_size(2, 9, 9)), rdp(everybody))


@pytest.mark.parametrize(("z", "size"), [(2, 50), (5, 10), (1, 200)])
def test_a_fixed_size_sample_agrees_with_dp_accounting_once_that_is_told_the_shift(z, size):
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    orders = list(range(2, 8))
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    reference, untold = RdpAccountant(orders, relation), RdpAccountant(orders, relation)
    for account, noise in ((reference, z / 2), (untold, z)):
        gaussian_there = dp_accounting.GaussianDpEvent(noise)
        account.compose(dp_accounting.SampledWithoutReplacementDpEvent(1000, size, gaussian_there))
    ours = rdp(fixed_size(z, size, 1000))[INTEGERS : INTEGERS + len(orders)]
    assert ours[0] == pytest.approx(reference._rdp[0], rel=1e-9)
    # From order 3 on they take the least of two bounds, of which we have one.
    assert (ours >= reference._rdp * (1 - 1e-9)).all()
    assert (ours <= reference._rdp * 1.2).all()
    assert (untold._rdp < 0.6 * reference._rdp).all()


@settings(deadline=None)
@given(st.floats(0.05, 100), st.integers(1, 50), st.integers(0, 1000))
def test_a_fixed_size_sample_never_costs_more_than_everybody_and_rises_with_size(z, size, more):
    population = size + more
    price = rdp(fixed_size(z, size, population))
    assert (
        price <= rdp(gaussian(z, adjacency=NeighboringRelation.REPLACE_ONE)) * (1 + 1e-12)
    ).all()
    assert (price <= rdp(fixed_size(z, population, population)) * (1 + 1e-9)).all()
    assert (price <= rdp(fixed_size(z, min(size + 1, population), population)) * (1 + 1e-9)).all()


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
        (
            GaussianEvent(
                noise_multiplier=2,
                sampling=FixedSizeSampling(size=50, population=1000),
                unit=Unit.CLIENT,
                adjacency=NeighboringRelation.REPLACE_ONE,
            ),
            "FixedSizeSampling.*cohort",
        ),
        (
            GaussianEvent(
                noise_multiplier=2,
                sampling=HiddenPoissonSampling(rate=0.1, cover=CohortSecrecy.ALL_TAKE_PART),
            ),
            "HiddenPoissonSampling draws clients",
        ),
        (clients(2, 0.05, adjacency=NeighboringRelation.ADD_OR_REMOVE), "noise share along"),
        (gaussian(2, unit=Unit.CLIENT), "noise share along"),
        (gaussian(2, 0.05, unit=Unit.CLIENT, adjacency=NeighboringRelation.ZERO_OUT), "cohort"),
    ],
)
def test_a_design_that_cannot_be_treated_soundly_is_refused_by_name(event, name):
    for price in (epsilon_rdp, epsilon_pld):
        with pytest.raises(UnsoundEvent, match=name):
            price({event: 1}, 1e-5)


def test_sampled_replace_one_is_not_trusted_to_rdp():
    with pytest.raises(UnsoundEvent, match="replace-one"):
        epsilon_rdp({gaussian(2, 0.05, adjacency=NeighboringRelation.REPLACE_ONE): 1}, 1e-5)


def test_clients_that_all_take_part_are_priced_unamplified():
    everybody = {gaussian(2, unit=Unit.CLIENT, adjacency=NeighboringRelation.ZERO_OUT): 5}
    assert epsilon_rdp(everybody, 1e-5) == epsilon_rdp({gaussian(2): 5}, 1e-5)


def test_clients_are_amplified_only_if_nobody_learns_who_was_drawn():
    examples = {gaussian(2, 0.05): 100}
    for event in (
        clients(2, 0.05),
        clients(2, 0.05, CohortSecrecy.TRUSTED_NOISE),
        clients(2, 0.05, CohortSecrecy.TRUSTED_NOISE, NeighboringRelation.ADD_OR_REMOVE),
    ):
        assert epsilon_rdp({event: 100}, 1e-5) == epsilon_rdp(examples, 1e-5)
        assert epsilon_pld({event: 100}, 1e-5, 1e-3) == epsilon_pld(examples, 1e-5, 1e-3)


def test_the_missing_noise_share_of_a_removed_client_shows_in_the_variance_alone():
    from scipy.optimize import brentq
    from scipy.stats import chi2

    entries, survivors = 650, 18
    per_loss = 2 / (1 / survivors - 1 / (survivors + 1))
    middle = entries / 2 * math.log((survivors + 1) / survivors)

    def removed(epsilon):
        # The loss is linear in the squared length, whose tail is that of a chi-square.
        square = (middle + epsilon) * per_loss
        tails = [chi2.sf(square / shares, entries) for shares in (survivors + 1, survivors)]
        return tails[0] - math.exp(epsilon) * tails[1]

    def added(epsilon):
        square = (middle - epsilon) * per_loss
        tails = [chi2.cdf(square / shares, entries) for shares in (survivors, survivors + 1)]
        return tails[0] - math.exp(epsilon) * tails[1]

    epsilon = max(brentq(lambda e, f=f: f(e) - 1e-5, 0.1, 15) for f in (removed, added))
    assert epsilon == pytest.approx(4.7, abs=0.05)
    with pytest.raises(UnsoundEvent, match="noise share along"):
        epsilon_rdp({gaussian(1, unit=Unit.CLIENT): 1}, 1e-5)


def test_charging_only_the_sampled_rounds_at_the_amplified_price_is_below_either_book():
    q, z, rounds, took_part = 0.1, 1.2, 60, 9
    for price in (epsilon_rdp, epsilon_pld):
        wrong = price({gaussian(z, q): took_part}, 1e-5)
        server_book = price({gaussian(z): took_part}, 1e-5)
        release_book = price({gaussian(z, q): rounds}, 1e-5)
        assert wrong < release_book < server_book


def test_noise_shares_lost_to_dropouts_cost_what_they_cost():
    for survivors, expected in ((100, 4.7527), (70, 5.8242), (50, 7.0880)):
        actual = {gaussian(math.sqrt(survivors / 100)): 1}
        assert epsilon_pld(actual, 1e-5) <= epsilon_rdp(actual, 1e-5) <= 1.005 * expected
        assert epsilon_rdp(actual, 1e-5) == pytest.approx(expected, rel=6e-3)


def test_late_joiners_pay_for_what_they_joined_and_who_never_came_pays_nothing():
    first, later = gaussian(1.5, 0.1), gaussian(2, 0.2)
    from_the_start, late, never = {first: 30, later: 20}, {first: 0, later: 20}, {}
    for price in (epsilon_rdp, lambda composition, delta: epsilon_pld(composition, delta, 1e-3)):
        costs = [price(composition, 1e-5) for composition in (from_the_start, late, never)]
        assert costs[0] > costs[1] > costs[2] == 0
        assert costs[1] == price({later: 20}, 1e-5)


def test_a_person_with_data_at_several_clients_pays_for_all_of_them():
    here, there = [(gaussian(1.5, 0.1), 30)], [(gaussian(2, 0.3), 20)]
    alone = max(epsilon_rdp(here, 1e-5), epsilon_rdp(there, 1e-5))
    both = epsilon_rdp([*here, *there], 1e-5)
    assert alone < both <= epsilon_rdp(here, 1e-5) + epsilon_rdp(there, 1e-5)


def test_rounds_are_not_priced_by_a_new_accountant_each():
    rounds = [(gaussian(1.5, 0.1, 2), 1)] * 30
    assert epsilon_rdp(rounds, 1e-5) == epsilon_rdp({gaussian(1.5, 0.1): 60}, 1e-5)
    assert epsilon_rdp(rounds, 1e-5) > 2 * epsilon_rdp(rounds[:1], 1e-5)


# mu and norms of 100 clients, 16 bits, clip 1, noise multiplier 1, rounding bias e^(-1/2).
@pytest.mark.parametrize(
    ("dimension", "scale", "expected"),
    [(2**20, 8153.213176, 4.762913), (4096, 17.037849, 11.8909), (4096, 4415.927059, 4.7534)],
)
def test_known_answers_for_skellam_noise(dimension, scale, expected):
    root = math.sqrt(dimension)
    bound = min(
        (scale + root) ** 2,
        scale**2 + dimension / 4 + math.sqrt(2 * 0.5) * (scale + root / 2),
    )
    l2 = math.sqrt(bound)
    event = SkellamEvent(
        variance=scale**2,
        l2_sensitivity=l2,
        l1_sensitivity=l2 * min(root, l2),
        sampling=NoSampling(),
        unit=Unit.CLIENT,
        adjacency=NeighboringRelation.ZERO_OUT,
    )
    found = epsilon_rdp({event: 1}, 1e-5)
    assert found == pytest.approx(expected, rel=5e-5)
    assert found > epsilon_rdp({gaussian(1): 1}, 1e-5)


@settings(deadline=None)
@given(st.floats(1, 1e8), st.floats(0.1, 100), st.floats(1e-6, 1, exclude_max=True))
@example(17.0, 42.0, 1e-6)
def test_sampled_skellam_is_never_above_unsampled_and_never_below_a_sampled_gaussian(mu, l2, q):
    sampled, plain = (
        rdp(SkellamEvent(variance=mu, l2_sensitivity=l2, l1_sensitivity=l2 * l2, sampling=sampling))
        for sampling in (PoissonSampling(rate=q), NoSampling())
    )
    assert (sampled <= plain * (1 + 1e-9)).all()
    beside = rdp(gaussian(math.sqrt(mu) / l2, q))
    # Where its own series does not converge a Gaussian is priced as if it were not sampled.
    exact = (beside < 1e200) & (beside < rdp(gaussian(math.sqrt(mu) / l2)) * (1 - 1e-9))
    assert (sampled[exact] >= beside[exact] * (1 - 1e-9) - 1e-10).all()


def test_an_event_with_rdp_alone_makes_the_composition_rdp():
    skellam = SkellamEvent(
        variance=100, l2_sensitivity=10, l1_sensitivity=50, sampling=PoissonSampling(rate=0.1)
    )
    gaussians = {gaussian(2, 0.05): 10}
    alone = reported_epsilon(gaussians, 1e-5)
    assert (alone.accountant, alone.epsilon) == ("pld", epsilon_pld(gaussians, 1e-5))
    mixed = gaussians | {skellam: 1}
    together = reported_epsilon(mixed, 1e-5)
    assert (together.accountant, together.epsilon) == ("rdp", epsilon_rdp(mixed, 1e-5))
    assert reported_epsilon({fixed_size(2, 5, 100): 3}, 1e-5).accountant == "rdp"
    for event in (skellam, fixed_size(2, 5, 100)):
        with pytest.raises(UnsoundEvent, match="no privacy loss distribution"):
            epsilon_pld({event: 1}, 1e-5)


def test_an_event_for_rdp_alone_and_one_for_pld_alone_do_not_compose():
    poisson = gaussian(2, 0.05, adjacency=NeighboringRelation.REPLACE_ONE)
    with pytest.raises(UnsoundEvent):
        reported_epsilon({poisson: 1, fixed_size(2, 5, 100): 1}, 1e-5)


def test_skellam_norms_are_not_stretched_to_a_replacement():
    event = SkellamEvent(
        variance=9,
        l2_sensitivity=1,
        l1_sensitivity=1,
        sampling=NoSampling(),
        adjacency=NeighboringRelation.REPLACE_ONE,
    )
    with pytest.raises(UnsoundEvent, match="replacement"):
        epsilon_rdp({event: 1}, 1e-5)


def test_a_curve_is_the_epsilons_of_its_deltas_and_falls():
    composition, deltas = {gaussian(1.5, 0.1): 30}, (1e-8, 1e-6, 1e-5, 1e-3)
    by_rdp = epsilon_curve(composition, deltas, accountant="rdp")
    by_pld = epsilon_curve(composition, deltas, accountant="pld", pld_discretization=1e-3)
    assert by_rdp == tuple(epsilon_rdp(composition, delta) for delta in deltas)
    assert by_pld == tuple(epsilon_pld(composition, delta, 1e-3) for delta in deltas)
    for points in (by_rdp, by_pld):
        assert list(points) == sorted(points, reverse=True)
    assert all(tight < loose for tight, loose in zip(by_pld, by_rdp, strict=True))
    assert (
        epsilon_curve({}, deltas, accountant="pld")
        == epsilon_curve({}, deltas, accountant="rdp")
        == (0,) * 4
    )
    with pytest.raises(InputError, match="gdp"):
        epsilon_curve(composition, deltas, accountant="gdp")


def test_two_hundred_distinct_events_are_priced_and_a_doubled_list_is_priced_no_less():
    events = [(gaussian(0.8 + k / 150, 0.01 + k / 700), 3) for k in range(200)]
    admitted = epsilon_rdp(events, 1e-5)
    halves = [epsilon_rdp(events[:100], 1e-5), epsilon_rdp(events[100:], 1e-5)]
    assert max(halves) < admitted < sum(halves)
    few = events[::40]
    assert 0.8 * epsilon_rdp(few, 1e-5) < epsilon_pld(few, 1e-5, 1e-3) < epsilon_rdp(few, 1e-5)


def test_a_coarser_interval_never_reports_less():
    composition = {gaussian(1.5, 0.1): 30}
    fine, coarse = (
        epsilon_pld(composition, 1e-5, pld_discretization) for pld_discretization in (1e-4, 1e-2)
    )
    assert fine <= coarse * (1 + 1e-6)


def test_the_reported_delta_adds_every_way_to_fail_by_name():
    delta = reported_delta(
        accountant=1e-5,
        epsilon=2.0,
        units=1000,
        sparse_rounds=100,
        rounded_steps=200,
        flooding_bits=40,
        sampler_error=3e-15,
        sampler_draws=10**6 * 100,
    )
    assert delta.sparse_graph == 100 * 2**-40
    assert delta.rounding == 200 * 2**-60
    eta = flooding_epsilon(40, 1, 2.0) / 2
    assert delta.flooding == pytest.approx(3 * 2.0**-40 + eta * (1e-5 + delta.sampler), rel=1e-3)
    assert delta.sampler == pytest.approx((1 + math.exp(2)) * 3e-7)
    parts = (1e-5, delta.sparse_graph, delta.rounding, delta.flooding, delta.sampler)
    assert math.fsum(parts) < delta.total <= math.fsum(parts) * (1 + 1e-15)
    plain = reported_delta(accountant=1e-5, epsilon=2.0, units=1000)
    assert plain.total == 1e-5  # one part is that part, no digit more


@pytest.mark.parametrize("epsilon", [0.1, 2.0, 8.0])
def test_a_distance_between_laws_counts_for_both_neighbours(epsilon):
    # The law priced: a coin of bias e^eps / (1 + e^eps) says which neighbour it is. What is
    # drawn differs by eta for each: the neighbour lacks an outcome that the other has more of.
    eta, likely = 1e-4, math.exp(epsilon) / (1 + math.exp(epsilon))
    ours, theirs = likely, 1 - likely  # of one outcome; pure epsilon-DP
    lacking = min(eta, theirs)
    drawn, drawn_there = ours + eta, theirs - lacking
    left = drawn - math.exp(epsilon) * drawn_there
    stated = reported_delta(
        accountant=1e-12, epsilon=epsilon, units=1, sampler_error=eta, sampler_draws=1
    )
    assert left <= stated.total
    assert left > 0.99 * stated.sampler  # tight
    assert left > 1.5 * eta  # once would be too little


def test_flooding_is_priced_in_epsilon_and_leaves_delta_alone():
    with mpmath.workdps(50):
        for bits, keys, epsilon in ((40, 1, 1.0), (40, 20, 8.0), (30, 1000, 2.0), (60, 5, 30.0)):
            added = flooding_epsilon(bits, keys, epsilon)
            norm = mpmath.mpf(1142) / 1000
            mu = norm * mpmath.sqrt(mpmath.mpf(keys) / 12) * mpmath.mpf(2) ** (-bits / 2)
            eta = added / 2
            far = mpmath.ncdf(-eta / mu + mu / 2)  # of the hockey stick, its first term
            hockey = far - mpmath.exp(eta) * mpmath.ncdf(-eta / mu - mu / 2)
            left = (1 + mpmath.exp(epsilon + eta)) * hockey
            stretched = (mpmath.exp(eta) - 1) * 1e-6
            stated = reported_delta(
                accountant=1e-6,
                epsilon=epsilon,
                units=9,
                flooding_bits=bits,
                flooded_keys=keys,
                flooded_ciphertexts=0,
            )
            assert left + stretched <= stated.flooding
            assert stated.flooding < 1e-6 * eta * 1.1 + 2.0**-59
    assert flooding_epsilon(40, 20, 8.0) < 3e-5


def test_a_reported_delta_of_one_over_the_units_is_refused():
    with pytest.raises(InputError, match="units"):
        reported_delta(
            accountant=1e-5, epsilon=8.0, units=99_999, sampler_error=1e-13, sampler_draws=1
        )
    with pytest.raises(InputError, match="units"):
        reported_delta(accountant=1e-5, epsilon=8.0, units=100_000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"accountant": 0},
        {"accountant": math.nan},
        {"epsilon": -1.0},
        {"epsilon": math.inf},
        {"units": 0},
        {"sparse_rounds": -1},
        {"rounded_steps": 1.5},
        {"flooding_bits": 29},
        {"sampler_error": -1e-15},
        {"sampler_error": math.nan},
        {"sampler_draws": True},
    ],
)
def test_components_of_a_delta_are_checked(wrong):
    with pytest.raises(InputError):
        reported_delta(**({"accountant": 1e-5, "epsilon": 1.0, "units": 100} | wrong))


def test_an_example_level_epsilon_does_not_cover_clients():
    mixed = [(gaussian(2), 1), (gaussian(2, unit=Unit.CLIENT), 1)]
    for price in (epsilon_rdp, epsilon_pld):
        with pytest.raises(UnsoundEvent, match="client and example"):
            price(mixed, 1e-5)
    with pytest.raises(UnsoundEvent, match="add_or_remove and zero_out"):
        epsilon_rdp(
            [(gaussian(2), 1), (gaussian(2, adjacency=NeighboringRelation.ZERO_OUT), 1)], 1e-5
        )


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
    together = merge(pairs)
    assert all(event.steps == 1 for event in together)
    for z in (1.0, 2.0):
        expected = sum(steps * count for noise, steps, count in items if noise == z)
        assert together.get(gaussian(z, 0.1), 0) == expected


def test_rounds_of_several_kinds_compose():
    mixed = [(gaussian(1.5, 0.1), 20), (gaussian(2, 0.2), 10), (gaussian(1.5, 0.1, 3), 2)]
    admitted = epsilon_rdp(mixed, 1e-5)
    reported = epsilon_pld(mixed, 1e-5, pld_discretization=1e-3)
    assert epsilon_rdp({gaussian(1.5, 0.1): 26}, 1e-5) < admitted
    assert 0.8 * admitted < reported < admitted


@pytest.mark.parametrize("z", [1e-200, 1e-150, 1e-5])
def test_noise_that_hides_nothing_costs_more_than_any_budget(z):
    for q in (1.0, 0.5, 1e-300):
        assert epsilon_rdp({gaussian(z, q): 1}, 1e-5) > 1e9


def test_a_distribution_that_would_not_fit_is_refused():
    with pytest.raises(AccountantLimit, match="pld_discretization"):
        epsilon_pld({gaussian(0.01, 0.5, 100): 1}, 1e-5, 1e-4)
    for steps, words in ((2**53, "take PLD minutes"), (10**6, "too coarse")):
        long = {gaussian(1, 1e-12 if steps < 2**53 else 0.01): steps}
        with pytest.raises(AccountantLimit, match=words):
            epsilon_pld(long, 1e-5)
        assert reported_epsilon(long, 1e-5).accountant == "rdp"


@pytest.mark.parametrize(
    ("z", "q", "steps", "delta", "by"),
    [
        (8.0, 1e-4, 10**6, 1e-6, "pld"),  # at a fixed 1e-4: .1157, RDP .0487
        (4.0, 3.3e-4, 10**4, 1e-15, "rdp"),  # the distribution's own cut leaves no bound
        (1.0, 0.01, 1000, 1e-15, "rdp"),
        (1.0, 0.01, 1000, 1e-5, "pld"),
    ],
)
def test_the_smaller_bound_is_reported_and_named(z, q, steps, delta, by):
    plan = {gaussian(z, q): steps}
    both = {"rdp": epsilon_rdp(plan, delta), "pld": epsilon_pld(plan, delta)}
    found = reported_epsilon(plan, delta)
    assert (found.accountant, found.epsilon) == (by, min(both.values()))


def test_the_interval_follows_steps_and_spread():
    # 42 settings against prv-accountant: .0918 is its estimate here.
    assert epsilon_pld({gaussian(50, 0.001): 10**6}, 1e-8) == pytest.approx(0.0918, rel=2e-3)


def test_orders_reach_far_enough_for_a_very_quiet_plan():
    assert epsilon_rdp({gaussian(1000, 0.01): 1000}, 1e-5) < 6e-4  # .0125 with orders to 1024


@pytest.mark.parametrize("delta", [0, 1, -0.1, 1.5, math.nan, math.inf, True, "x"])
def test_delta_is_checked(delta):
    for price in (epsilon_rdp, epsilon_pld):
        with pytest.raises(InputError, match="delta"):
            price({gaussian(1): 1}, delta)


def test_delta_of_one_over_the_number_of_units_is_refused():
    assert check_delta(1e-5, units=99_999) == 1e-5
    for units in (100_000, 10**9):
        with pytest.raises(InputError, match=str(units)):
            check_delta(1e-5, units=units)
    with pytest.raises(InputError, match="units"):
        check_delta(1e-5, units=0)


@pytest.mark.parametrize("count", [-1, 1.0, True])
def test_counts_are_checked(count):
    with pytest.raises(InputError, match="count"):
        epsilon_rdp({gaussian(1): count}, 1e-5)


def test_cached_prices_cannot_be_overwritten():
    rdp(gaussian(1, 0.5))[:] = 0
    assert epsilon_rdp({gaussian(1, 0.5): 1}, 1e-5) > 0
    with pytest.raises(ValueError, match="read-only"):
        ORDERS[0] = 1


def test_flooding_that_hides_no_so_many_keys_is_refused() -> None:
    with pytest.raises(InputError, match="flooded_keys"):
        accountant.reported_delta(
            accountant=1e-9,
            epsilon=8.0,
            units=10,
            flooding_bits=30,
            flooded_keys=2**45,
            flooded_ciphertexts=2**45,
        )
