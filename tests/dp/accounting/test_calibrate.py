import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp.accounting.accountant import epsilon_pld, epsilon_rdp
from dp.accounting.calibrate import max_steps, noise_multiplier, sampling_rate
from dp.accounting.events import (
    FixedSizeSampling,
    GaussianEvent,
    NeighboringRelation,
    NoSampling,
    PoissonSampling,
    Unit,
)
from dp.errors import CalibrationError, InputError, UnsoundEvent


@pytest.mark.parametrize(
    ("accountant", "pld_discretization", "expected"),
    [
        ("pld", 1e-3, 2.1422),
        pytest.param("pld", 1e-4, 2.1422, marks=pytest.mark.slow),
        ("rdp", 1e-4, 2.3201),
    ],
)
def test_known_answers(accountant, pld_discretization, expected):
    found = noise_multiplier(
        epsilon=1,
        delta=1e-5,
        sampling=PoissonSampling(rate=0.05),
        steps=100,
        accountant=accountant,
        pld_discretization=pld_discretization,
    )
    assert found == pytest.approx(expected, rel=5e-4)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 50), st.floats(1e-8, 1e-2), st.floats(1e-4, 1), st.integers(1, 5000))
def test_the_noise_never_passes_the_budget_and_a_little_less_does(epsilon, delta, rate, steps):
    sampling = PoissonSampling(rate=rate)
    noise = noise_multiplier(epsilon=epsilon, delta=delta, sampling=sampling, steps=steps)

    def price(z):
        event = GaussianEvent(noise_multiplier=z, sampling=sampling)
        return epsilon_rdp({event: steps}, delta)

    assert price(noise) <= epsilon
    if noise > 2**-6:
        assert price(noise * (1 - 3e-6)) > epsilon


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 50), st.floats(1e-8, 1e-2), st.floats(1e-4, 1), st.floats(0.3, 50))
def test_the_steps_are_the_most_that_fit(epsilon, delta, rate, noise):
    event = GaussianEvent(noise_multiplier=noise, sampling=PoissonSampling(rate=rate))
    steps = max_steps(epsilon=epsilon, delta=delta, noise_multiplier=noise, sampling=event.sampling)
    assert epsilon_rdp({event: steps}, delta) <= epsilon < epsilon_rdp({event: steps + 1}, delta)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.5, 50), st.floats(1e-8, 1e-2), st.floats(0.8, 50), st.integers(1, 5000))
def test_the_rate_never_passes_the_budget_and_a_little_more_does(epsilon, delta, noise, steps):
    def price(rate):
        event = GaussianEvent(noise_multiplier=noise, sampling=PoissonSampling(rate=rate))
        return epsilon_rdp({event: steps}, delta)

    try:
        rate = sampling_rate(epsilon=epsilon, delta=delta, noise_multiplier=noise, steps=steps)
    except CalibrationError:
        assert price(2**-29) > epsilon
        return
    assert price(rate) <= epsilon
    if rate < 1:
        assert price(min(rate * (1 + 3e-6), 1.0)) > epsilon


@pytest.mark.parametrize("pld_discretization", [5e-3, pytest.param(1e-3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "adjacency", [NeighboringRelation.ADD_OR_REMOVE, NeighboringRelation.REPLACE_ONE]
)
def test_steps_and_rate_by_pld_fit_and_no_more_does(adjacency, pld_discretization):
    plan = {"epsilon": 2, "delta": 1e-5, "noise_multiplier": 2, "adjacency": adjacency}
    by_pld = {"accountant": "pld", "pld_discretization": pld_discretization}

    def price(rate, steps):
        event = GaussianEvent(
            noise_multiplier=2, sampling=PoissonSampling(rate=rate), adjacency=adjacency
        )
        return epsilon_pld({event: steps}, 1e-5, pld_discretization)

    steps = max_steps(**plan, **by_pld, sampling=PoissonSampling(rate=0.05))
    assert price(0.05, steps) <= 2 < price(0.05, steps + 1)
    rate = sampling_rate(**plan, **by_pld, steps=steps)
    assert price(rate, steps) <= 2 < price(rate * 1.0002, steps)
    assert rate >= 0.05 * (1 - 1e-3)


@pytest.mark.parametrize("pld_discretization", [1e-2, pytest.param(1e-3, marks=pytest.mark.slow)])
def test_pld_finds_noise_where_rdp_has_no_answer(pld_discretization):
    fixed = {"epsilon": 2, "delta": 1e-5, "sampling": PoissonSampling(rate=0.1), "steps": 5}
    replaced = fixed | {"adjacency": NeighboringRelation.REPLACE_ONE}
    with pytest.raises(UnsoundEvent, match="replace-one"):
        noise_multiplier(**replaced)
    noise = noise_multiplier(**replaced, accountant="pld", pld_discretization=pld_discretization)
    assert noise > noise_multiplier(
        **fixed, accountant="pld", pld_discretization=pld_discretization
    )


def test_no_step_fits_a_budget_that_one_passes_and_all_fit_one_that_none_does():
    plan = {"delta": 1e-5, "sampling": NoSampling()}
    assert max_steps(**plan, epsilon=0.1, noise_multiplier=1) == 0
    assert max_steps(**plan, epsilon=0.1, noise_multiplier=1e30) == 2**53


def test_a_rate_out_of_reach_is_an_error():
    with pytest.raises(CalibrationError, match="noise"):
        sampling_rate(epsilon=1e-4, delta=1e-5, noise_multiplier=1, steps=10)


def test_noise_for_clients_is_asked_for_in_their_unit():
    plan = {"epsilon": 1, "delta": 1e-5, "steps": 10}
    examples = noise_multiplier(**plan, sampling=NoSampling())
    everybody = {
        "sampling": NoSampling(),
        "unit": Unit.CLIENT,
        "adjacency": NeighboringRelation.ZERO_OUT,
    }
    assert noise_multiplier(**plan, **everybody) == examples
    cohort = everybody | {"sampling": PoissonSampling(rate=0.1)}
    with pytest.raises(UnsoundEvent, match="cohort"):
        noise_multiplier(**plan, **cohort)


def test_a_budget_out_of_reach_is_an_error():
    with pytest.raises(CalibrationError, match="RDP's orders end at 16384"):
        noise_multiplier(epsilon=1e-6, delta=1e-5, sampling=NoSampling(), steps=1)


def test_no_steps_need_next_to_no_noise():
    assert noise_multiplier(epsilon=1, delta=1e-5, sampling=NoSampling(), steps=0) == 2**-6


def test_an_unsound_design_is_refused_here_too():
    with pytest.raises(UnsoundEvent, match="FixedSizeSampling"):
        noise_multiplier(
            epsilon=1, delta=1e-5, sampling=FixedSizeSampling(size=1, population=10), steps=1
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0},
        {"epsilon": math.nan},
        {"epsilon": math.inf},
        {"delta": 0},
        {"delta": 1},
        {"steps": -1},
        {"steps": 1.5},
        {"accountant": "gdp"},
    ],
)
def test_arguments_are_checked(wrong):
    good = {"epsilon": 1, "delta": 1e-5, "sampling": NoSampling(), "steps": 1}
    with pytest.raises(InputError):
        noise_multiplier(**(good | wrong))
