import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp.accounting.events import (
    CohortSecrecy,
    CyclicSampling,
    DiscreteGaussianEvent,
    FixedSizeSampling,
    GaussianEvent,
    HiddenPoissonSampling,
    NeighboringRelation,
    NoSampling,
    PoissonSampling,
    ShuffledSampling,
    SkellamEvent,
    Unit,
    from_json,
)
from dp.errors import InputError

positive = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
sizes = st.integers(1, 10**6)
samplings = st.one_of(
    st.just(NoSampling()),
    st.floats(0, 1, exclude_min=True).map(lambda rate: PoissonSampling(rate=rate)),
    sizes.flatmap(
        lambda n: st.integers(1, n).map(lambda k: FixedSizeSampling(size=k, population=n))
    ),
    sizes.flatmap(
        lambda n: st.integers(1, n).map(lambda k: ShuffledSampling(size=k, population=n))
    ),
    sizes.map(lambda period: CyclicSampling(period=period)),
    st.builds(
        HiddenPoissonSampling,
        rate=st.floats(0, 1, exclude_min=True),
        cover=st.sampled_from(CohortSecrecy),
    ),
)
shared = {
    "sampling": samplings,
    "steps": st.integers(0, 2**53),
    "unit": st.sampled_from(Unit),
    "adjacency": st.sampled_from(NeighboringRelation),
}
norms = st.floats(0, 1e100, exclude_min=True)
events = st.one_of(
    st.builds(GaussianEvent, noise_multiplier=positive, **shared),
    st.builds(SkellamEvent, variance=norms, l2_sensitivity=norms, l1_sensitivity=norms, **shared),
    st.builds(
        DiscreteGaussianEvent,
        shares=sizes,
        share_variance=norms,
        l2_sensitivity=norms,
        l1_sensitivity=norms,
        entries=sizes,
        **shared,
    ),
)
EVENT = GaussianEvent(noise_multiplier=1.1, sampling=PoissonSampling(rate=0.25), steps=3)
TEXT = (
    '{"adjacency":"add_or_remove","kind":"gaussian","noise_multiplier":1.1,'
    '"sampling":{"design":"poisson","rate":0.25},"steps":3,"unit":"example"}'
)


@settings(deadline=None)
@given(events)
def test_an_event_survives_its_text(event):
    assert from_json(event.to_json()) == event


@settings(deadline=None)
@given(events, events)
def test_equal_events_have_equal_texts_and_others_have_not(one, other):
    assert (one == other) == (one.to_json() == other.to_json())


def test_the_text_is_canonical():
    assert EVENT.to_json() == TEXT
    hidden = SkellamEvent(
        variance=4,
        l2_sensitivity=2,
        l1_sensitivity=3,
        sampling=HiddenPoissonSampling(rate=0.5, cover=CohortSecrecy.ALL_TAKE_PART),
        unit=Unit.CLIENT,
        adjacency=NeighboringRelation.ZERO_OUT,
    )
    assert hidden.to_json() == (
        '{"adjacency":"zero_out","kind":"skellam","l1":3.0,"l2":2.0,"sampling":'
        '{"cover":"all_take_part","design":"hidden_poisson","rate":0.5},"steps":1,'
        '"unit":"client","variance":4.0}'
    )


@settings(deadline=None)
@given(st.text() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_what_is_no_event_is_refused(text):
    with pytest.raises(InputError):
        from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        TEXT + " ",
        TEXT.replace(",", ", "),
        TEXT.replace("1.1", "1.10"),
        TEXT.replace("1.1", "11e-1"),
        TEXT.replace("1.1", "true"),
        TEXT.replace("1.1", "NaN"),
        TEXT.replace("1.1", "Infinity"),
        TEXT.replace("1.1", "1" + "0" * 400),
        TEXT.replace("1.1", '"1.1"'),
        TEXT.replace("0.25", "1.25"),
        TEXT.replace(":3", ":3.0"),
        TEXT.replace(":3", ":true"),
        TEXT.replace(":3", ":-1"),
        TEXT.replace("gaussian", "laplace"),
        TEXT.replace("gaussian", "skellam"),
        TEXT.replace("poisson", "bernoulli"),
        TEXT.replace("poisson", "hidden_poisson"),
        TEXT.replace('"design":"poisson"', '"cover":"all_take_part","design":"poisson"'),
        TEXT.replace('"design":"poisson"', '"cover":"fog","design":"hidden_poisson"'),
        TEXT.replace('"rate"', '"size"'),
        TEXT.replace('"steps":3', '"steps":2,"steps":3'),
        TEXT.replace('"steps":3', '"extra":0,"steps":3'),
        TEXT.replace(',"unit":"example"', ""),
        TEXT.replace("example", "household"),
        "[" * 100_000,
        "[]",
        "{}",
        "",
    ],
)
def test_a_second_spelling_is_refused(text):
    with pytest.raises(InputError):
        from_json(text)


def test_an_integer_noise_is_the_same_event_as_its_double():
    whole = GaussianEvent(noise_multiplier=2, sampling=PoissonSampling(rate=1))
    assert (
        whole.to_json()
        == GaussianEvent(noise_multiplier=2.0, sampling=PoissonSampling(rate=1.0)).to_json()
    )


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "1", None, 10**400])
def test_noise_and_rate_are_checked_at_construction(value):
    with pytest.raises(InputError):
        GaussianEvent(noise_multiplier=value, sampling=NoSampling())
    with pytest.raises(InputError):
        PoissonSampling(rate=value)
    with pytest.raises(InputError):
        HiddenPoissonSampling(rate=value, cover=CohortSecrecy.TRUSTED_NOISE)
    good = {"variance": 1, "l2_sensitivity": 1, "l1_sensitivity": 1, "sampling": NoSampling()}
    for name in ("variance", "l2_sensitivity", "l1_sensitivity"):
        with pytest.raises(InputError, match=name):
            SkellamEvent(**(good | {name: value}))


def test_skellam_numbers_whose_squares_overflow_are_refused():
    with pytest.raises(InputError, match="1e\\+101"):
        SkellamEvent(variance=1, l2_sensitivity=1e101, l1_sensitivity=1, sampling=NoSampling())


def test_a_hidden_draw_says_what_hides_it():
    with pytest.raises(InputError, match="cover"):
        HiddenPoissonSampling(rate=0.5, cover="all_take_part")


def test_a_rate_above_one_is_refused():
    with pytest.raises(InputError, match=r"1\.01"):
        PoissonSampling(rate=1.01)


@pytest.mark.parametrize("steps", [-1, 1.0, True, 2**53 + 1, None])
def test_steps_are_checked_at_construction(steps):
    with pytest.raises(InputError):
        GaussianEvent(noise_multiplier=1.0, sampling=NoSampling(), steps=steps)


def test_a_bare_rate_is_no_sampling_design():
    with pytest.raises(InputError, match="sampling"):
        GaussianEvent(noise_multiplier=1.0, sampling=0.01)


def test_a_batch_larger_than_its_population_is_refused():
    for design in (FixedSizeSampling, ShuffledSampling):
        with pytest.raises(InputError):
            design(size=11, population=10)
