import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp.accounting.accountant import ORDERS, epsilon_pld, epsilon_rdp, rdp
from dp.accounting.events import (
    FixedSizeSampling,
    GaussianEvent,
    NeighboringRelation,
    NoSampling,
    PoissonSampling,
    ShuffledSampling,
    SkellamEvent,
    Unit,
)
from dp.accounting.filters import SCALE, GdpFilter, RenyiFilter, ZcdpFilter
from dp.errors import FilterFull, InputError, UnsoundEvent


def gaussian(z, q=1.0, steps=1, **more):
    sampling = PoissonSampling(rate=q) if q < 1 else NoSampling()
    return GaussianEvent(noise_multiplier=z, sampling=sampling, steps=steps, **more)


def filters(epsilon=1.0, delta=1e-5, **more):
    return [
        ZcdpFilter(epsilon=epsilon, delta=delta, **more),
        GdpFilter(epsilon=epsilon, delta=delta, **more),
        *(RenyiFilter(epsilon=epsilon, delta=delta, order=order, **more) for order in (8, 16, 32)),
    ]


def filled(book, event):
    """The filter full of ``event``, and how many steps it took."""
    steps = book.capacity // book.cost(event)
    return book.spend(gaussian(event.noise_multiplier, steps=steps)), steps


@pytest.mark.parametrize("epsilon", [0.5, 1, 8])
@pytest.mark.parametrize("z", [10, 40])
def test_a_full_filter_keeps_its_promise_to_the_last_step(epsilon, z):
    step = gaussian(z)
    for book in filters(epsilon):
        full, steps = filled(book, step)
        assert not full.admits(step)
        # A coarser interval is above, and only the exact filter leaves no room for that.
        interval = 1e-4 if isinstance(book, GdpFilter) else 1e-3
        assert epsilon_pld({step: steps}, 1e-5, interval) <= epsilon
        if not isinstance(book, GdpFilter):
            assert epsilon_rdp({step: steps}, 1e-5) <= epsilon


@pytest.mark.parametrize("epsilon", [0.5, 1, 8])
def test_the_gdp_filter_is_exact_for_gaussians_and_zcdp_as_good_as_rdp(epsilon):
    step = gaussian(40)
    by_zcdp, by_gdp = (filled(book, step)[1] for book in filters(epsilon)[:2])
    assert epsilon_pld({step: by_gdp + 2}, 1e-5) > epsilon
    assert epsilon_rdp({step: by_zcdp + 1}, 1e-5) > epsilon


def test_a_renyi_filter_at_the_best_order_admits_nearly_what_rdp_does():
    step = gaussian(2, 0.05)
    best = max(
        book.capacity // book.cost(step)
        for book in (RenyiFilter(epsilon=2, delta=1e-5, order=float(order)) for order in ORDERS)
        if book.cost(step)
    )
    assert epsilon_rdp({step: best}, 1e-5) <= 2 < epsilon_rdp({step: best + 1}, 1e-5)


CHOICES = (
    st.integers(0, 4),
    st.floats(0.3, 8),
    st.lists(st.tuples(st.floats(1, 60), st.floats(0.01, 1), st.integers(1, 9)), max_size=25),
)


@settings(max_examples=12, deadline=None)
@given(*CHOICES)
def test_whatever_is_chosen_along_the_way_the_promise_holds(which, epsilon, wishes):
    keeps_its_promise(which, epsilon, wishes)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(*CHOICES)
def test_whatever_is_chosen_along_the_way_the_promise_holds_in_many_trials(which, epsilon, wishes):
    keeps_its_promise(which, epsilon, wishes)


def keeps_its_promise(which, epsilon, wishes):
    book = filters(epsilon)[which]
    admitted = []
    for z, q, steps in wishes:
        # The next release depends on what happened so far.
        event = gaussian(z * (1 + len(admitted) % 3), q, steps)
        before = book.spent
        if book.admits(event):
            book = book.spend(event)
            admitted.append((event, 1))
            assert before < book.spent <= book.capacity
        else:
            with pytest.raises(FilterFull):
                book.spend(event)
            assert book.spent == before
    assert epsilon_pld(admitted, 1e-5, 1e-3) <= epsilon * (1 + 2e-2)


@settings(deadline=None)
@given(st.permutations([(5.0, 1.0), (9.0, 0.1), (20.0, 0.5), (31.0, 1.0)]))
def test_the_order_of_releases_leaves_no_trace(events):
    for book in filters(8):
        once = book
        for z, q in events:
            book = book.spend(gaussian(z, q))
        for z, q in sorted(events):
            once = once.spend(gaussian(z, q))
        assert book.spent == once.spent


def test_costs_are_integers_that_never_round_down():
    for z in (1.0, 3.7, 1e6, 1e30):
        assert ZcdpFilter(epsilon=1, delta=1e-5).cost(gaussian(z)) >= SCALE / (2 * z * z)
        assert GdpFilter(epsilon=1, delta=1e-5).cost(gaussian(z)) >= max(SCALE / z / z, 1)
        at_16 = RenyiFilter(epsilon=1, delta=1e-5, order=16)
        price = float(rdp(gaussian(z, 0.1))[ORDERS == 16][0])
        assert at_16.cost(gaussian(z, 0.1)) >= max(price * SCALE, 1)
        assert at_16.cost(gaussian(z, 0.1, 7)) == 7 * at_16.cost(gaussian(z, 0.1))


def test_a_sampled_gaussian_is_amplified_by_a_renyi_filter_alone():
    zcdp, gdp, _, at_16, _ = filters()
    for book in (zcdp, gdp):
        assert book.cost(gaussian(3, 0.01)) == book.cost(gaussian(3))
    assert at_16.cost(gaussian(3, 0.01)) < at_16.cost(gaussian(3)) / 100


def test_replace_one_counts_twice_the_shift():
    for book, plain in zip(
        filters(adjacency=NeighboringRelation.REPLACE_ONE), filters(), strict=True
    ):
        replaced = book.cost(gaussian(10, adjacency=NeighboringRelation.REPLACE_ONE))
        assert replaced == pytest.approx(4 * plain.cost(gaussian(10)), rel=1e-9)


def test_what_is_no_gaussian_is_for_a_renyi_filter():
    event = SkellamEvent(variance=1e4, l2_sensitivity=10, l1_sensitivity=50, sampling=NoSampling())
    zcdp, gdp, *renyi = filters(8)
    for book in (zcdp, gdp):
        with pytest.raises(UnsoundEvent, match="SkellamEvent"):
            book.admits(event)
    assert all(book.admits(event) for book in renyi)


@pytest.mark.parametrize(
    "event",
    [
        GaussianEvent(noise_multiplier=9, sampling=ShuffledSampling(size=1, population=9)),
        GaussianEvent(noise_multiplier=9, sampling=FixedSizeSampling(size=1, population=9)),
        gaussian(9, unit=Unit.CLIENT, adjacency=NeighboringRelation.ZERO_OUT),
        gaussian(9, adjacency=NeighboringRelation.REPLACE_ONE),
    ],
)
def test_an_unsound_event_and_one_of_another_unit_or_adjacency_are_refused(event):
    for book in filters():
        with pytest.raises(UnsoundEvent):
            book.spend(event)


def test_poisson_cohorts_are_refused_here_too():
    for book in filters(unit=Unit.CLIENT, adjacency=NeighboringRelation.ZERO_OUT):
        event = gaussian(9, 0.1, unit=Unit.CLIENT, adjacency=NeighboringRelation.ZERO_OUT)
        with pytest.raises(UnsoundEvent, match="cohort"):
            book.admits(event)


def test_noise_that_hides_nothing_is_not_admitted_and_no_steps_cost_nothing():
    for book in filters():
        assert not book.admits(gaussian(1e-200))
        with pytest.raises(FilterFull, match="costs inf"):
            book.spend(gaussian(1e-200))
        assert book.spend(gaussian(1, steps=0)) == book


def test_a_budget_below_the_conversion_admits_nothing():
    book = RenyiFilter(epsilon=0.1, delta=1e-5, order=2)
    assert book.capacity == 0
    assert not book.admits(gaussian(1e6))


def test_a_filter_says_which_it_is_and_what_it_keeps():
    texts = [str(book) for book in filters()]
    assert texts[0] == "zCDP filter for epsilon 1 at delta 1e-05"
    assert texts[1] == "GDP filter for epsilon 1 at delta 1e-05"
    assert texts[2] == "Rényi filter of order 8 for epsilon 1 at delta 1e-05"
    with pytest.raises(FilterFull, match=r"zCDP filter for epsilon 1 at delta 1e-05"):
        filters()[0].spend(gaussian(1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0},
        {"epsilon": math.inf},
        {"delta": 0},
        {"delta": 1},
        {"spent": -1},
        {"spent": 1.0},
        {"order": 1},
        {"order": 16.1},
        {"order": math.nan},
        {"unit": "example"},
        {"adjacency": None},
    ],
)
def test_arguments_are_checked(wrong):
    with pytest.raises(InputError):
        RenyiFilter(**({"epsilon": 1, "delta": 1e-5, "order": 16} | wrong))
