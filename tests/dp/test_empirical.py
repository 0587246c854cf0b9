import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from dp.accounting.accountant import epsilon_pld
from dp.accounting.events import GaussianEvent, NoSampling, Unit
from dp.empirical import (
    Estimate,
    Guesses,
    LowerBound,
    best_lower_bound,
    clopper_pearson_high,
    clopper_pearson_low,
    cosines,
    from_cosines,
    from_json,
    from_rates,
    guess,
    include_canaries,
    lower_bound,
    normals,
    random_directions,
)
from dp.errors import InputError

DELTA = 1e-5


def fixed(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


# One run


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "expected"),
    [(1000, 100, 90, 1.6261), (100, 100, 100, 3.4902)],  # [SNJ23]'s own code
)
def test_one_run_bounds_are_those_of_the_paper(
    canaries: int, guesses: int, correct: int, expected: float
) -> None:
    found = lower_bound(canaries, guesses, correct, delta=DELTA)
    assert found.epsilon == pytest.approx(expected, abs=5e-5)


def test_without_delta_the_bound_is_that_of_a_binomial_tail() -> None:
    found = lower_bound(100, 100, 100, delta=1e-15, significance=0.01)
    q = 0.01 ** (1 / 100)  # q^100 = .01
    assert found.epsilon == pytest.approx(math.log(q / (1 - q)), rel=1e-6)


@pytest.mark.parametrize(("guesses", "correct"), [(0, 0), (10, 0), (10, 5), (1000, 500), (4, 4)])
def test_guesses_no_better_than_coins_prove_nothing(guesses: int, correct: int) -> None:
    assert lower_bound(1000, guesses, correct, delta=DELTA).epsilon == 0


def test_more_canaries_at_the_same_delta_prove_less() -> None:
    bounds = [lower_bound(m, 100, 95, delta=DELTA).epsilon for m in (100, 1000, 10_000, 2**20)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == 0  # 2 m delta is 21


def test_every_look_costs_significance() -> None:
    once = lower_bound(1000, 100, 90, delta=DELTA, significance=0.05 / 4)
    assert lower_bound(1000, 100, 90, delta=DELTA, comparisons=4).epsilon == once.epsilon
    assert once.epsilon < 1.6261


def identical(run: int, canaries: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Scores that have nothing to do with the coins."""
    return normals(canaries, entropy=fixed(run)), include_canaries(
        canaries, entropy=fixed(10_000 + run)
    )


@pytest.mark.parametrize("count", [20, 100, 400])
def test_identical_distributions_are_positive_in_at_most_20_of_200_runs(count: int) -> None:
    positive = 0
    for run in range(200):
        found = guess(*identical(run), count=count)
        positive += lower_bound(found.canaries, found.made, found.correct, delta=DELTA).epsilon > 0
    assert positive <= 20


COUNTS = (4, 8, 16, 32, 64, 128, 256, 400)


def test_a_number_of_guesses_chosen_by_the_outcome_is_paid_for() -> None:
    paid = unpaid = 0
    for run in range(200):
        scores, coins = identical(run)
        paid += best_lower_bound(scores, coins, counts=COUNTS, delta=DELTA).epsilon > 0
        found = [guess(scores, coins, count=count) for count in COUNTS]
        unpaid += any(lower_bound(400, g.made, g.correct, delta=DELTA).epsilon > 0 for g in found)
    assert paid <= 20
    assert unpaid > 20  # so many without the correction


def test_a_bound_stays_below_the_truth_of_randomised_response() -> None:
    """Each canary's coin told truly with probability e / (1 + e): exactly 1-private."""
    above, bounds = 0, []
    for run in range(100):
        coins = include_canaries(500, entropy=fixed(run))
        kept = np.random.default_rng(run).random(500) < math.e / (1 + math.e)
        found = guess(np.where(kept, coins, ~coins).astype(float), coins, count=500)
        bounds.append(lower_bound(500, found.made, found.correct, delta=1e-9).epsilon)
        above += bounds[-1] > 1
    assert above <= 10
    assert np.median(bounds) > 0.75


def test_the_highest_are_called_in_and_the_lowest_out() -> None:
    scores = [5.0, 1.0, 4.0, 2.0, 3.0]
    coins = np.array([True, False, True, True, False])
    assert guess(scores, coins, count=3) == Guesses(canaries=5, made=3, correct=3)
    assert guess(scores, coins, count=4) == Guesses(canaries=5, made=4, correct=3)
    assert guess(scores, coins, count=2, highest=0).correct == 1
    assert guess(scores, coins, count=0).made == 0


def test_equal_scores_are_not_told_apart_by_their_coins() -> None:
    coins = np.arange(100) % 2 == 0
    assert guess(np.zeros(100), coins, count=100).correct == 50


@pytest.mark.parametrize(
    ("scores", "coins", "more"),
    [
        ([1.0, math.nan], [True, False], {"count": 1}),
        ([1.0, 2.0], [True], {"count": 1}),
        ([1.0, 2.0], [1, 0], {"count": 1}),
        ([], [], {"count": 0}),
        ([1.0, 2.0], [True, False], {"count": 3}),
        ([1.0, 2.0], [True, False], {"count": -1}),
        ([1.0, 2.0], [True, False], {"count": 1, "highest": 2}),
        ([[1.0, 2.0]], [[True, False]], {"count": 1}),
    ],
)
def test_a_guess_that_means_nothing_is_refused(scores: list, coins: list, more: dict) -> None:
    with pytest.raises(InputError):
        guess(scores, np.array(coins), **more)


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 0, 0, {}),
        (10, 11, 5, {}),
        (10, 5, 6, {}),
        (10, 5, 5.0, {}),
        (2**20 + 1, 5, 5, {}),
        (10, 5, 5, {"delta": 0.0}),
        (10, 5, 5, {"delta": math.nan}),
        (10, 5, 5, {"significance": 0.0}),
        (10, 5, 5, {"significance": 1.0}),
        (10, 5, 5, {"significance": math.nan}),
        (10, 5, 5, {"comparisons": 0}),
    ],
)
def test_counts_that_cannot_be_are_refused(arguments: tuple) -> None:
    *counts, more = arguments
    with pytest.raises(InputError):
        lower_bound(*counts, **{"delta": DELTA} | more)
    with pytest.raises(InputError):
        best_lower_bound([1.0], np.array([True]), counts=(), delta=DELTA)


def test_coins_are_fair_and_come_by_the_door() -> None:
    coins = include_canaries(10_000, entropy=fixed(1))
    assert abs(coins.mean() - 0.5) < 0.02
    assert (coins == include_canaries(10_000, entropy=fixed(1))).all()
    assert include_canaries(100).tolist() != include_canaries(100).tolist()
    with pytest.raises(InputError, match="bytes"):
        include_canaries(10, entropy=lambda count: b"")


# Many runs


@pytest.mark.parametrize(
    ("successes", "trials", "level", "low", "high"),
    [  # scipy.stats.beta.ppf
        (5, 10, 0.025, 0.18708603, 0.81291397),
        (0, 100, 0.05, 0.0, 0.02951305),
        (100, 100, 0.05, 0.97048695, 1.0),
        (1, 1000, 0.025, 2.53175e-05, 0.00555892),
    ],
)
def test_limits_are_those_of_clopper_and_pearson(
    successes: int, trials: int, level: float, low: float, high: float
) -> None:
    assert clopper_pearson_low(successes, trials, level) == pytest.approx(low, rel=1e-5)
    assert clopper_pearson_high(successes, trials, level) == pytest.approx(high, rel=1e-5)


def test_rates_give_the_known_bound_whichever_side_is_the_surer() -> None:
    found = from_rates(90, 100, 0, 100, delta=DELTA)
    low, high = clopper_pearson_low(90, 100, 0.025), clopper_pearson_high(0, 100, 0.025)
    assert found.epsilon == pytest.approx(math.log((low - DELTA) / high))
    assert from_rates(100, 100, 10, 100, delta=DELTA).epsilon == pytest.approx(found.epsilon)


def test_rates_no_better_than_chance_prove_nothing() -> None:
    for counts in ((50, 100, 50, 100), (0, 100, 0, 100), (100, 100, 100, 100), (1, 1, 0, 1)):
        assert from_rates(*counts, delta=DELTA).epsilon == 0


def test_many_runs_of_a_gaussian_stay_below_its_epsilon() -> None:
    """10,000 runs of N(0, 1) against N(1, 1), of which 4.38 is the exact epsilon."""
    exact = epsilon_pld({GaussianEvent(noise_multiplier=1.0, sampling=NoSampling()): 1}, DELTA)
    runs = normals(20_000, entropy=fixed(3)).reshape(2, -1)
    found = from_rates(
        int((runs[0] + 1 > 2.5).sum()), 10_000, int((runs[1] > 2.5).sum()), 10_000, delta=DELTA
    )
    assert 1.5 < found.epsilon < exact


# Canary clients


@pytest.mark.parametrize("noise", [0.7, 1.0, 3.0, 30.0])
def test_the_estimate_from_two_equal_gaussians_is_the_gaussian_mechanism(noise: float) -> None:
    """Cosines of the sum of k canaries and noise, at k = 1 in expectation: mean 1 / noise."""
    d = 10_000
    spread = normals(2000, entropy=fixed(1))
    spread = (spread - spread.mean()) / spread.std(ddof=1)
    found = from_cosines((spread + 1 / noise) / math.sqrt(d), entries=d, delta=DELTA)
    exact = epsilon_pld({GaussianEvent(noise_multiplier=noise, sampling=NoSampling()): 1}, DELTA)
    assert found.epsilon == pytest.approx(exact, rel=2e-3)


def test_canaries_in_a_noised_sum_are_estimated_near_its_epsilon() -> None:
    d, noise = 8000, 1.0
    canaries = random_directions(800, d, entropy=fixed(1))
    change = canaries.sum(axis=0) + noise * normals(d, entropy=fixed(2))
    observed = cosines(canaries, change)
    left_out = cosines(random_directions(800, d, entropy=fixed(3)), change)
    exact = epsilon_pld({GaussianEvent(noise_multiplier=noise, sampling=NoSampling()): 1}, DELTA)
    for found in (
        from_cosines(observed, entries=d, delta=DELTA),
        from_cosines(observed, unobserved=left_out, delta=DELTA),
    ):
        # Not exact: 800 statistics, and the sum of the other canaries adds 800 / d to noise^2.
        assert found.epsilon == pytest.approx(exact, rel=0.15)


def test_canaries_that_took_no_part_are_estimated_near_zero() -> None:
    d = 1000
    change = normals(d, entropy=fixed(5))
    found = from_cosines(
        cosines(random_directions(500, d, entropy=fixed(6)), change), entries=d, delta=DELTA
    )
    assert found.epsilon < 0.5


def test_a_wider_gaussian_is_told_apart_by_its_tails() -> None:
    rows = np.array([-1.0, 1.0]) / math.sqrt(2)  # mean 0, deviation 1
    narrow, wide = (from_cosines(rows * s, unobserved=rows, delta=DELTA) for s in (0.5, 2.0))
    assert narrow.epsilon == pytest.approx(wide.epsilon)
    # 2 P[N > t/2] - 2 e^eps P[N > t] = delta at t^2 = (eps + ln 2) 8/3, solved with scipy
    assert wide.epsilon == pytest.approx(27.716599, abs=1e-5)


def test_canaries_are_unit_vectors_in_every_direction() -> None:
    rows = random_directions(500, 50, entropy=fixed(9))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)
    assert np.abs(rows.mean(axis=0)).max() < 4 / math.sqrt(500 * 50)
    assert (rows**2).mean(axis=0) == pytest.approx(np.full(50, 1 / 50), rel=0.4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"included": [0.1], "entries": 10},
        {"included": [0.1, math.inf], "entries": 10},
        {"included": [0.1, 0.1], "entries": 10},
        {"included": [0.1, 0.2]},
        {"included": [0.1, 0.2], "entries": 10, "unobserved": [0.1, 0.2]},
        {"included": [0.1, 0.2], "entries": 0},
    ],
)
def test_cosines_that_say_nothing_are_refused(arguments: dict) -> None:
    with pytest.raises(InputError):
        from_cosines(**arguments, delta=DELTA)


def test_a_change_that_is_none_is_refused() -> None:
    for change in (np.zeros(5), np.full(5, np.nan), np.ones(4)):
        with pytest.raises(InputError):
            cosines(random_directions(3, 5), change)


# What is handed on


RESULTS = [
    lower_bound(1000, 100, 90, delta=DELTA, comparisons=2),
    from_rates(90, 100, 1, 100, delta=DELTA, unit=Unit.CLIENT),
    from_cosines([0.1, 0.2, 0.15], entries=100, delta=DELTA),
]


@pytest.mark.parametrize("result", RESULTS)
def test_a_result_goes_through_json_and_says_what_it_is(result: LowerBound | Estimate) -> None:
    data = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert from_json(data) == result
    kind = "bound" if isinstance(result, LowerBound) else "estimate"
    assert data["kind"] == kind
    assert kind in repr(result).lower()


@pytest.mark.parametrize("result", RESULTS)
def test_an_epsilon_that_does_not_follow_from_the_numbers_is_refused(
    result: LowerBound | Estimate,
) -> None:
    data = result.as_dict()
    for change in (
        {"epsilon": data["epsilon"] + 0.01},
        {"epsilon": math.nan},
        {"epsilon": None},
        {"delta": 0.5e-5},
        {"delta": "1e-5"},
        {"kind": "proof"},
        {"method": "divination"},
        {"unit": "household"},
        {"counts": {}, "included": [1]},
        {"counts": None, "included": ["a", "b"]},
        {"included": [1e200, 1e-200], "counts": {"canaries": 1}},
    ):
        with pytest.raises(InputError):
            from_json(data | change)
    for other in (None, [], "bound", {}):
        with pytest.raises(InputError):
            from_json(other)


def test_the_same_counts_bound_epsilon_at_another_delta() -> None:
    for result in RESULTS:
        assert result.at(result.delta) == result
        assert result.at(1e-3).epsilon < result.epsilon
