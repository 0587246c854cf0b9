import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp.accountant import epsilon_rdp
from dp.calibrate import noise_multiplier
from dp.errors import BadParameter, CalibrationError, UnsoundEvent
from dp.events import FixedSizeSampling, GaussianEvent, NoSampling, PoissonSampling


@pytest.mark.parametrize(("accountant", "expected"), [("pld", 2.1422), ("rdp", 2.3201)])
def test_known_answers(accountant, expected):
    found = noise_multiplier(
        epsilon=1,
        delta=1e-5,
        sampling=PoissonSampling(rate=0.05),
        steps=100,
        accountant=accountant,
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


def test_a_budget_out_of_reach_is_an_error():
    with pytest.raises(CalibrationError, match="epsilon"):
        noise_multiplier(epsilon=1e-4, delta=1e-5, sampling=NoSampling(), steps=1)


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
    with pytest.raises(BadParameter):
        noise_multiplier(**(good | wrong))
