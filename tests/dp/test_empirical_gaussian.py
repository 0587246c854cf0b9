"""The bound against a claim of Gaussian noise, by computations that share nothing with it."""

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import norm

from dp.accounting.accountant import epsilon_pld
from dp.accounting.events import GaussianEvent, NoSampling
from dp.empirical import (
    _gaussian_false,
    _too_good,
    best_lower_bound,
    from_json,
    gaussian_lower_bound,
    guess,
    lower_bound,
)
from dp.errors import InputError

DELTA = 1e-5
TRUE = epsilon_pld([(GaussianEvent(noise_multiplier=1.0, sampling=NoSampling()), 1)], DELTA)


def most_likely(false_rate: Callable[[float], float], m: int, c: int, correct: int) -> float:
    """The bound on P[at least ``correct`` of ``c`` are right], by bisection of ``_too_good``."""
    low, high = 0.0, 1.0
    for _ in range(50):
        level = (low + high) / 2
        low, high = (low, level) if _too_good(false_rate, m, c, correct, level) else (level, high)
    return high


def of_lines(lines: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """The inverse of x -> min(a x + b) over ``lines`` (a, b)."""
    return lambda true: max(0.0, *((true - b) / a for a, b in lines))


# A canary's coin goes through a channel of three outputs, each canary on its own.
CHANNELS = [
    np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]]),
    np.array([[0.6, 0.4, 0.0], [0.0, 0.4, 0.6]]),  # delta 0.6: some outputs tell all
    np.array([[0.45, 0.3, 0.25], [0.25, 0.3, 0.45]]),
]


def curve(channel: np.ndarray) -> Callable[[float], float]:
    """The channel's own trade-off, at its corners [Neyman-Pearson]: exact, and symmetric."""
    out, in_ = channel
    corners = [(0.0, 0.0), (out[2], in_[2]), (out[2] + out[1], in_[2] + in_[1]), (1.0, 1.0)]
    lines = []
    for (x, y), (right, top) in pairwise(corners):
        if right > x and top > y:
            lines.append(((top - y) / (right - x), y - x * (top - y) / (right - x)))
    return of_lines(lines)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize(("canaries", "guesses"), [(1, 1), (2, 1), (2, 2), (5, 2), (5, 5)])
def test_no_guesser_of_a_small_mechanism_passes_the_bound(
    channel: np.ndarray, canaries: int, guesses: int
) -> None:
    right = np.zeros(guesses + 1)
    # Every output; the guesser calls the surest first, which no other order beats here.
    for seen in product(range(3), repeat=canaries):
        ins = channel[:, seen]
        mass = float(np.prod(ins.mean(axis=0)))
        if not mass:
            continue
        sure = np.sort(ins.max(axis=0) / ins.sum(axis=0))[canaries - guesses :]
        law = np.ones(1)
        for each in sure:
            law = np.convolve(law, [1 - each, each])
        right += mass * law
    assert right.sum() == pytest.approx(1)
    for correct in range(1, guesses + 1):
        allowed = most_likely(curve(channel), canaries, guesses, correct)
        assert right[correct:].sum() <= allowed + 1e-12


def test_one_canary_that_is_guessed_is_bounded_to_the_last_digit() -> None:
    for channel in CHANNELS:
        best = channel.max(axis=0).sum() / 2
        assert most_likely(curve(channel), 1, 1, 1) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(("m", "c", "correct"), [(6, 6, 5), (10, 6, 4), (40, 12, 10), (8, 8, 8)])
@pytest.mark.parametrize("mu", [0.3, 1.0, 2.0])
def test_the_recursion_is_the_optimum_of_a_linear_program(
    m: int, c: int, correct: int, mu: float
) -> None:
    at = norm.cdf(np.linspace(-6, 4, 300))  # tangents of the Gaussian curve
    slopes = np.exp(mu * -norm.ppf(at) - mu * mu / 2)
    values = norm.cdf(norm.ppf(at) + mu)
    lines = [(a, v - a * x) for a, v, x in zip(slopes, values, at, strict=True)]
    lines += [(1e12, 0.0)]
    rows, limits = [], []
    for i in range(1, correct + 1):
        r = [k / m if k >= i else 0.0 for k in range(c + 1)]
        h = [(c - k) / m if k >= i - 1 else 0.0 for k in range(c + 1)]
        for a, b in lines[:-1]:
            rows.append(np.array(r) - a * np.array(h))
            limits.append(b)
    tail = [-float(k >= correct) for k in range(c + 1)]
    solved = linprog(tail, A_ub=rows, b_ub=limits, A_eq=[[1.0] * (c + 1)], b_eq=[1.0])
    assert solved.status == 0
    found = most_likely(of_lines(lines), m, c, correct)
    assert found == pytest.approx(-solved.fun, rel=1e-6)
    # The tangents lie above the curve, and so allow a little more than it does.
    exact = most_likely(lambda x: _gaussian_false(x, mu), m, c, correct)
    assert found * (1 - 1e-2) <= exact <= found * (1 + 1e-9)


def test_the_gaussian_curve_is_that_of_the_accountant() -> None:
    """Of all slopes: max_x TPR(x) - e^eps x is delta at eps, to what a grid shows."""
    xs = norm.cdf(np.linspace(-12, 12, 20_001))
    tops = norm.cdf(norm.ppf(xs) + 1.0)
    assert (tops - math.exp(TRUE) * xs).max() == pytest.approx(DELTA, rel=1e-3)
    for true in (1e-12, 1e-3, 0.5, 0.999):
        expected = norm.cdf(norm.ppf(true) - 1.0)
        assert _gaussian_false(true, 1.0) == pytest.approx(expected, rel=1e-9)
    assert (_gaussian_false(0.0, 1.0), _gaussian_false(1.0, 1.0)) == (0.0, 1.0)


def outcomes(z: float, canaries: int, runs: int, guesses: int, seed: int) -> list[int]:
    """Right guesses of ``runs`` runs of Gaussian noise over canaries with an entry each."""
    source = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        coins = source.random(canaries) < 0.5
        seen = coins + z * source.normal(size=canaries)
        found.append(guess(seen, coins, count=guesses).correct)
    return found


@pytest.mark.parametrize("guesses", [20, 100, 300])
def test_the_bound_passes_the_truth_in_at_most_the_stated_share_of_runs(guesses: int) -> None:
    rights = outcomes(1.0, 300, 400, guesses, seed=guesses)
    bounds = {
        right: gaussian_lower_bound(300, guesses, right, delta=DELTA, significance=0.05).epsilon
        for right in set(rights)
    }
    assert sum(bounds[right] > TRUE for right in rights) <= 0.05 * len(rights)


def test_noise_of_half_the_size_is_found_where_the_other_bound_finds_nothing() -> None:
    rights = outcomes(0.4, 2000, 20, 200, seed=7)
    assert all(gaussian_lower_bound(2000, 200, r, delta=DELTA).epsilon > TRUE for r in rights)
    assert not any(lower_bound(2000, 200, r, delta=DELTA).epsilon > TRUE for r in rights)


@pytest.mark.parametrize("guesses", [50, 100, 250, 500])
def test_of_gaussian_noise_it_proves_half_as_much_again(guesses: int) -> None:
    rights = outcomes(1.0, 500, 60, guesses, seed=1)
    plain, gaussian = (
        float(np.median([bound(500, guesses, r, delta=DELTA).epsilon for r in rights]))
        for bound in (lower_bound, gaussian_lower_bound)
    )
    assert gaussian >= 1.5 * plain
    assert gaussian < TRUE


@pytest.mark.parametrize(("guesses", "correct"), [(0, 0), (10, 0), (10, 5), (1000, 500)])
def test_guesses_no_better_than_coins_prove_nothing(guesses: int, correct: int) -> None:
    assert gaussian_lower_bound(1000, guesses, correct, delta=DELTA).epsilon == 0


def test_a_bound_is_read_back_and_computed_anew() -> None:
    found = gaussian_lower_bound(500, 100, 80, delta=DELTA, comparisons=2)
    data = json.loads(json.dumps(found.as_dict()))
    assert data["method"] == "one run, Gaussian curve"
    assert from_json(data) == found
    assert found.at(1e-3) == gaussian_lower_bound(500, 100, 80, delta=1e-3, comparisons=2)
    assert found.at(1e-3).epsilon < found.epsilon
    for changed in ({"method": "one run"}, {"epsilon": 9.0}, {"counts": {"canaries": 500}}):
        with pytest.raises(InputError):
            from_json(data | changed)


def test_the_best_of_several_numbers_of_guesses_pays_for_them() -> None:
    scores = np.arange(200.0)
    coins = scores >= 100
    found = best_lower_bound(
        scores, coins, counts=(50, 100), delta=DELTA, bound=gaussian_lower_bound
    )
    assert found == gaussian_lower_bound(200, 100, 100, delta=DELTA, comparisons=2)


@pytest.mark.parametrize("wrong", [(0, 0, 0), (10, 11, 1), (10, 5, 6), (10, 5, True)])
def test_counts_that_cannot_be_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(InputError):
        gaussian_lower_bound(*wrong, delta=DELTA)
