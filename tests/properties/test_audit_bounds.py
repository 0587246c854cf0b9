"""Whatever the counts: the limits cover, and the bounds move the way that proofs do."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp.empirical import (
    clopper_pearson_high,
    clopper_pearson_low,
    from_cosines,
    from_json,
    from_rates,
    guess,
    lower_bound,
)
from dp.errors import InputError

LEVELS = st.sampled_from([0.2, 0.05, 0.025, 1e-3, 1e-6])
DELTAS = st.sampled_from([1e-2, 1e-5, 1e-12])


def tail(least: int, trials: int, p: Fraction) -> Fraction:
    """P[Bin(trials, p) >= least], exactly."""
    return sum(
        (math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(least, trials + 1)),
        Fraction(0),
    )


@given(trials=st.integers(1, 60), data=st.data(), level=LEVELS)
@settings(deadline=None)
def test_a_lower_limit_is_the_last_p_whose_exact_tail_is_below_the_level(trials, data, level):
    successes = data.draw(st.integers(0, trials))
    low = clopper_pearson_low(successes, trials, level)
    if low:
        assert tail(successes, trials, Fraction(low)) < Fraction(level)
    if successes:
        assert tail(successes, trials, min(Fraction(low) * Fraction(10001, 10000), Fraction(1))) > (
            Fraction(level)
        )


@given(trials=st.integers(1, 40), p=st.fractions(0, 1, max_denominator=50), level=LEVELS)
@settings(deadline=None, max_examples=50)
def test_limits_miss_the_truth_no_oftener_than_they_say(trials, p, level):
    chances = [math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)]
    lows = [clopper_pearson_low(k, trials, level) for k in range(trials + 1)]
    highs = [clopper_pearson_high(k, trials, level) for k in range(trials + 1)]
    assert sum(c for c, low in zip(chances, lows, strict=True) if low > p) <= level
    assert sum(c for c, high in zip(chances, highs, strict=True) if high < p) <= level


@given(
    guesses=st.integers(1, 60),
    epsilon=st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(1), Fraction(3)]),
    level=st.sampled_from([0.2, 0.05, 0.01]),
)
@settings(deadline=None, max_examples=30)
def test_a_randomised_response_passes_its_bound_no_oftener_than_is_said(guesses, epsilon, level):
    """Exactly: each guess is right with probability e^eps / (1 + e^eps), by its own coin."""
    q = Fraction(math.exp(epsilon)) / (1 + Fraction(math.exp(epsilon)))
    missed = Fraction(0)
    for correct in range(guesses + 1):
        bound = lower_bound(guesses, guesses, correct, delta=1e-12, significance=level)
        if bound.epsilon > epsilon + 1e-12:
            missed += math.comb(guesses, correct) * q**correct * (1 - q) ** (guesses - correct)
    assert missed <= level


@given(
    canaries=st.integers(1, 300), data=st.data(), delta=DELTAS, level=st.sampled_from([0.2, 0.05])
)
@settings(deadline=None)
def test_one_more_correct_guess_never_proves_less(canaries, data, delta, level):
    guesses = data.draw(st.integers(1, canaries))
    correct = data.draw(st.integers(0, guesses - 1))
    worse, better = (
        lower_bound(canaries, guesses, v, delta=delta, significance=level)
        for v in (correct, correct + 1)
    )
    assert worse.epsilon <= better.epsilon * (1 + 1e-9)
    fewer = lower_bound(guesses, guesses, correct, delta=delta, significance=level)
    assert worse.epsilon <= fewer.epsilon * (1 + 1e-9)
    surer = lower_bound(canaries, guesses, correct, delta=delta, significance=level / 10)
    assert surer.epsilon <= worse.epsilon * (1 + 1e-9)


@given(runs=st.tuples(st.integers(1, 200), st.integers(1, 200)), data=st.data(), delta=DELTAS)
@settings(deadline=None)
def test_rates_prove_the_same_when_in_and_out_change_places(runs, data, delta):
    positives, negatives = runs
    tp, fp = data.draw(st.integers(0, positives)), data.draw(st.integers(0, negatives))
    found = from_rates(tp, positives, fp, negatives, delta=delta)
    mirrored = from_rates(negatives - fp, negatives, positives - tp, positives, delta=delta)
    assert abs(found.epsilon - mirrored.epsilon) <= 1e-6
    assert found.epsilon >= 0
    assert from_json(found.as_dict()) == found


@given(scores=st.lists(st.floats(allow_nan=False), min_size=1, max_size=40), data=st.data())
def test_calling_everything_the_other_way_round_is_right_where_this_was_wrong(scores, data):
    coins = np.array(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    count = data.draw(st.integers(0, len(scores)))
    assert (
        guess(scores, coins, count=count).correct + (guess(scores, ~coins, count=count).correct)
        == count
    )


@given(mean=st.floats(-50, 50), deviation=st.floats(0.05, 20), delta=st.sampled_from([1e-3, 1e-6]))
@settings(deadline=None, max_examples=40)
def test_an_estimate_is_the_least_epsilon_of_both_directions_on_a_grid(mean, deviation, delta):
    unobserved = np.array([-1.0, 1.0]) / math.sqrt(2)  # deviation 1 about 0
    found = from_cosines(mean + deviation * unobserved, unobserved=unobserved, delta=delta)
    reach = 12 * max(1.0, deviation) + abs(mean)
    # Step fine enough for the narrower of the two.
    x = np.linspace(-reach, reach, 100_001)
    step = x[1] - x[0]
    p = -(((x - mean) / deviation) ** 2) / 2 - math.log(deviation * math.sqrt(2 * math.pi))
    q = -(x**2) / 2 - math.log(math.sqrt(2 * math.pi))

    def excess(epsilon: float) -> float:
        pairs = ((p, q), (q, p))
        return max(
            float(np.maximum(np.exp(a) - np.exp(np.minimum(epsilon + b, 700)), 0).sum() * step)
            for a, b in pairs
        )

    assert excess(found.epsilon * 1.01 + 0.01) <= delta * 1.01
    if found.epsilon > 0.02:
        assert excess(found.epsilon * 0.99 - 0.01) >= delta * 0.99


RESULTS = [
    lower_bound(100, 10, 9, delta=1e-5).as_dict(),
    from_rates(9, 10, 1, 10, delta=1e-5).as_dict(),
    from_cosines([0.1, 0.2, 0.4], entries=100, delta=1e-5).as_dict(),
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 30)
    | st.sampled_from([10**400, 2**64, "bound", "estimate", "one run", "example"])
    | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(data=st.data())
@settings(deadline=None)
def test_whatever_a_file_says_is_refused_or_read_as_it_is_written(data):
    result = dict(data.draw(st.sampled_from(RESULTS)))
    for key in data.draw(st.sets(st.sampled_from(sorted(result)), max_size=3)):
        if data.draw(st.booleans()):
            del result[key]
        else:
            result[key] = data.draw(JSON)
    try:
        found = from_json(result)
    except InputError:
        return
    assert from_json(found.as_dict()) == found
    assert found.as_dict()["kind"] == result["kind"]


@given(anything=JSON)
def test_anything_else_is_no_result(anything):
    with pytest.raises(InputError):
        from_json(anything)
