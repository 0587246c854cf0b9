import copy
import hashlib
import math
import pickle
import tracemalloc
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import partial

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from dp.errors import InputError
from dp.noise import gaussian, sampling, skellam
from dp.noise.sampling import (
    BinnedGaussianSampler,
    DiscreteGaussianSampler,
    SkellamSampler,
    coins,
    permutation,
)

P_VALUE = 1e-4  # of every chi-square test here; the entropy is fixed, so none of them flakes
SMALL, LARGE = [0.01, 1.0, 100.0, 2e5], [3e7, 2.0**36, 2.0**40]  # variances by kind of table
SAMPLERS = [SkellamSampler, DiscreteGaussianSampler]
EVERY = [*SAMPLERS, BinnedGaussianSampler]


def fixed(*seed):
    return lambda count: hashlib.shake_256(repr(seed).encode()).digest(count)


def hankel(k, variance):
    """e^-z I_k(z), by Hankel's expansion; of large z, k^2 / z below a few hundred."""
    top, bottom = Fraction(variance).as_integer_ratio()
    term, found, j = 1 << 450, 0, 0
    while term:
        found += term
        j += 1
        term = -term * (4 * k * k - (2 * j - 1) ** 2) * bottom // (8 * j * top)
        term += term < 0  # towards 0, so that it ends
    return mpmath.ldexp(found, -450) / mpmath.sqrt(2 * mpmath.pi * variance)


def skellam_pmf(k, variance):
    with mpmath.workprec(500):
        if variance > 1e4:
            return hankel(k, variance)
        return mpmath.exp(-mpmath.mpf(variance)) * mpmath.besseli(k, variance)


def exact_law(kind, variance, values):
    """Probabilities of ``values`` in doubles, good to 1e-10 up to six deviations."""
    values = values.astype(float)
    if kind is BinnedGaussianSampler:
        near, far = ((np.abs(values) + side) / math.sqrt(variance) for side in (-0.5, 0.5))
        return stats.norm.sf(near) - stats.norm.sf(far)  # no cancellation far out
    if kind is DiscreteGaussianSampler:
        total = math.sqrt(2 * math.pi * variance)  # the sum, to e^(-2 pi^2 variance) [Poisson]
        if variance < 10:
            total = 1 + 2 * np.exp(-(np.arange(1.0, 200) ** 2) / (2 * variance)).sum()
        return np.exp(-(values**2) / (2 * variance)) / total
    if variance < 1e8:
        return special.ive(np.abs(values), variance)
    term, found = np.ones(len(values)), np.zeros(len(values))
    for j in range(1, 100):
        found += term
        term = -term * (4 * values**2 - (2 * j - 1) ** 2) / (8 * j * variance)
        if np.abs(term).max() < 1e-20:  # the largest is e^18, at six deviations
            break
    return found / math.sqrt(2 * math.pi * variance)


def chi_square(draws, kind, variance):
    """The p-value over cells of at least 20 expected draws, the tails in one."""
    side = math.ceil(6 * math.sqrt(variance)) if variance > 1 else 12
    run = max(1, side >> 15)  # outcomes priced by their middle: off by (run / sigma)^2 / 24
    width = max(1, side // 60 // run)
    cell = width * run
    middles = np.arange(-side, side + 1, run) + (run - 1) / 2
    law = exact_law(kind, variance, middles) * run
    expected = np.add.reduceat(law, np.arange(0, len(law), width)) * len(draws)
    inside = draws[np.abs(draws) <= side]
    observed = np.bincount((inside + side) // cell, minlength=len(expected)).astype(float)
    large = expected >= 20
    expected = np.append(expected[large], len(draws) - expected[large].sum())
    observed = np.append(observed[large], len(draws) - observed[large].sum())
    if expected[-1] < 1:
        assert observed[-1] <= 6
        expected, observed = expected[:-1], observed[:-1]
    statistic = ((observed - expected) ** 2 / expected).sum()
    return stats.chi2.sf(statistic, max(1, len(expected) - 1))


@pytest.mark.parametrize("variance", [0.01, 0.3, 1.0, 100.0, 2e5, 2.4e7, 3e7, 2.0**36])
def test_skellam_draws_follow_the_exact_law(variance):
    draws = SkellamSampler(variance).sample(10**6, entropy=fixed(variance))
    assert chi_square(draws, SkellamSampler, variance) > P_VALUE


@pytest.mark.parametrize(
    "variance",
    [2**-16, 0.05, Fraction(1, 3), 1, 2.5, Fraction(10, 3), 100, 200_000.37, 2.0**36, 2**40],
)
def test_discrete_gaussian_draws_follow_the_exact_law(variance):
    draws = DiscreteGaussianSampler(variance).sample(10**6, entropy=fixed(variance))
    if variance < 0.01:
        assert not draws.any()  # 1 has probability e^-32768
    elif variance < 2**38:
        assert chi_square(draws, DiscreteGaussianSampler, float(variance)) > P_VALUE
    else:  # at this size, the normal law to within 2^-40
        cells = np.floor(stats.norm.cdf((draws + 0.5) / 2**20) * 100).astype(int)
        assert stats.chisquare(np.bincount(cells, minlength=100)).pvalue > P_VALUE


@pytest.mark.parametrize("deviation", [0.25, 0.3, 1, Fraction(37, 10), 40, 2.0**12 / 3])
def test_binned_gaussian_draws_follow_the_exact_law(deviation):
    draws = BinnedGaussianSampler(deviation).sample(10**6, entropy=fixed(deviation))
    assert chi_square(draws, BinnedGaussianSampler, float(deviation) ** 2) > P_VALUE


@pytest.mark.parametrize("log", [10, 24, 40, 42])
def test_a_binned_gaussian_has_the_moments_strips_and_low_bits_of_a_gaussian(log):
    count = 10**6
    draws = BinnedGaussianSampler(2**log).sample(count, entropy=fixed("wide", log))
    z = draws / 2.0**log
    for power, mean, spread in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]:
        assert abs((z**power).mean() - mean) < 4.5 * math.sqrt(spread / count)
    edges = np.arange(-4, 4, 1 / 256)  # as narrow as strips, and across their edges
    expected = np.diff(stats.norm.cdf(edges - 0.5**log / 2)) * count
    observed = np.histogram(z, edges - 0.5**log / 2)[0]
    assert stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected)) > P_VALUE
    assert stats.chisquare(np.bincount(draws & 255, minlength=256)).pvalue > P_VALUE
    for limit in (4, 4.5):
        beyond, expected = int((np.abs(z) > limit).sum()), 2 * stats.norm.sf(limit) * count
        assert stats.poisson.cdf(beyond, expected) > P_VALUE
        assert stats.poisson.sf(beyond - 1, expected) > P_VALUE


@pytest.mark.slow
def test_tails_of_many_binned_draws_are_those_of_a_gaussian():
    sampler, limits, count = BinnedGaussianSampler(2**24), (4.5, 5, 5.5), 25
    beyond, total = np.zeros(3, np.int64), np.zeros(2)
    for turn in range(count):
        z = sampler.sample(10**7, entropy=fixed("tail", turn)) / 2**24
        total += z.sum(), (z**3).sum()
        beyond += [int((np.abs(z) > limit).sum()) for limit in limits]
    for found, limit in zip(beyond, limits, strict=True):
        expected = 2 * stats.norm.sf(limit) * count * 10**7
        assert stats.poisson.cdf(found, expected) > P_VALUE
        assert stats.poisson.sf(found - 1, expected) > P_VALUE
    assert (np.abs(total) < 4 * np.sqrt([count * 10**7, 15 * count * 10**7])).all()


def test_a_binned_gaussian_hides_no_less_than_a_gaussian():
    compared = 0
    for deviation in (0.5, 1, 4, 20):
        for shift in (shift for shift in (1, 2, 5, 20, 60) if shift <= 8 * deviation):
            reach = math.ceil(14 * deviation) + shift
            at = np.arange(-reach, reach + 1)
            p, q = (
                exact_law(BinnedGaussianSampler, deviation**2, at - moved) for moved in (shift, 0)
            )
            mu = shift / deviation
            for epsilon in np.linspace(0, 8, 33):
                delta = np.maximum(p - math.exp(epsilon) * q, 0).sum()
                gaussian_delta = stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(
                    epsilon
                ) * stats.norm.cdf(-mu / 2 - epsilon / mu)
                assert delta <= gaussian_delta + 1e-13
                compared += 1
    assert compared == 462


@settings(max_examples=200)
@given(st.integers(-(2**50), 2**50), st.integers(1, 22))
def test_cells_are_joined_to_the_nearest_integer(cell, finer):
    # The middle of the cell [v, v + 1) / 2^finer, which no half integer cuts.
    middle = Fraction(2 * cell + 1, 2 << finer)
    assert cell + (1 << finer - 1) >> finer == math.floor(middle + Fraction(1, 2))


@pytest.mark.parametrize(
    "sampler",
    [
        BinnedGaussianSampler(2**40),
        BinnedGaussianSampler(0.3),
        DiscreteGaussianSampler(2**32),
        SkellamSampler(3e7),
        SkellamSampler(2.0**40),
    ],
    ids=repr,
)
def test_floats_decide_a_wedge_as_high_precision_does(sampler, monkeypatch):
    decided, decide = [], sampling._decide

    def counted(*arguments):
        decided.append(1)
        return decide(*arguments)

    monkeypatch.setattr(sampling, "_decide", counted)
    count = 10**5
    quick = sampler.sample(count, entropy=fixed("decide"))
    assert len(decided) < count * 1e-4
    decided.clear()
    if isinstance(sampler, SkellamSampler):
        wide = np.full(sampler._table.count, 2.0)
        monkeypatch.setattr(sampler._table.wedges, "_slack", wide)
    else:
        monkeypatch.setattr(gaussian, "MARGIN", 2.0)
    assert (sampler.sample(count, entropy=fixed("decide")) == quick).all()
    assert len(decided) > count * 1e-3


@pytest.mark.parametrize("sampler", [BinnedGaussianSampler(2**40), DiscreteGaussianSampler(2**32)])
def test_an_open_wedge_reads_on_until_it_is_decided(sampler):
    table, strip = sampler._table, 200
    real = table.wedges.real
    least, most = table.wedges.bounds(strip, 7, 0, 64)
    assert most - least < 1
    (uniform,) = {math.floor(least * 2**64), math.floor(most * 2**64)}  # one word cannot tell
    for last, below in ((0, True), (2**64 - 1, False)):
        words = [0, last] if real else [last]
        stream = Scripted(*words)
        assert sampling._decide(table, strip, 7, 0, uniform, stream) is below
        assert not stream.left
    assert sampling._decide(table, strip, 7, 0, uniform - 2**10, Scripted()) is True
    assert sampling._decide(table, strip, 7, 0, uniform + 2**10, Scripted()) is False


def test_a_place_and_its_uniform_grow_by_the_words_that_follow():
    class Open:
        real = True

        def bounds(self, strip, offset, fraction, bits):
            seen.append((fraction, bits))
            exact = Fraction(9 << 128 | 5 << 64 | 1, 2**192)  # of the third uniform, 1 below it
            return (Fraction(0), Fraction(1)) if bits < 192 else (exact, exact)

    seen, table = [], replace(BinnedGaussianSampler(2**40)._table, wedges=Open())
    assert sampling._decide(table, 1, 2, 3, 9, Scripted(4, 5, 6, 0)) is True
    assert seen == [(3, 64), (3 << 64 | 4, 128), (3 << 128 | 4 << 64 | 6, 192)]
    assert sampling._decide(table, 1, 2, 3, 9, Scripted(4, 5, 6, 1)) is False


@pytest.mark.parametrize("variance", [2.0**10, 2.0**32])
@pytest.mark.parametrize("real", [True, False])
def test_slow_draws_alone_follow_the_law_that_slots_leave(variance, real):
    sampler = DiscreteGaussianSampler(variance)
    if real:
        sampler = BinnedGaussianSampler(math.sqrt(variance))
    table, count = sampler._table, 10**6
    values, kept = sampling._slow(table, count, sampling._Stream(fixed("slow", variance, real)))
    size = np.where(values < 0, -values - real, values)[kept]
    # What an outcome keeps in each half of its strip, were the density straight within it.
    strip, half = size >> table.log_width, size >> max(table.log_width - 1, 0) & 1
    observed = np.bincount(2 * strip + half * (table.log_width > 0), minlength=2 * table.count)
    column = np.arange(1 << table.log_columns)
    below = np.array([limit / table.column for limit in table.exact_limits])
    law = np.bincount(column, below) + np.bincount(table.aliases, 1 - below, len(column))
    law /= len(column)
    rectangle, wedge = law[: table.count], law[table.count : 2 * table.count]
    if not table.log_width:
        expected = np.stack([rectangle, np.zeros(table.count)], 1)
    else:
        b, width = np.arange(table.count), 1 << table.log_width
        edge = np.exp(-((b * width) ** 2) / (2 * float(table.wedges.variance)))
        middle = np.exp(-(((b + 0.5) * width) ** 2) / (2 * float(table.wedges.variance)))
        floor = np.append(edge[1:], 0)
        straight = np.stack([(edge + middle) / 2 - floor, middle / 2 - floor / 2], 1)
        straight /= np.maximum(edge - floor, 1e-300)[:, None]
        expected = rectangle[:, None] / 2 + wedge[:, None] * straight / 2
    expected = expected.ravel() * count
    large = expected >= 20
    statistic = ((observed[large] - expected[large]) ** 2 / expected[large]).sum()
    assert large.sum() > 30
    assert stats.chi2.sf(statistic, large.sum()) > P_VALUE


@pytest.mark.parametrize(
    "sampler", [BinnedGaussianSampler(2**40), DiscreteGaussianSampler(2**32), SkellamSampler(2**40)]
)
def test_a_turned_sign_bit_negates_a_draw(sampler):
    table, count = sampler._table, 2**14
    words = sampling._Stream(fixed("turn")).words(count)
    found = []
    for turned in (words, words ^ np.uint64(2**63)):
        stream, out = Scripted(*turned.tolist()), np.empty(count, np.int64)
        due, void = sampling._fast(table, out, stream, np.empty((3, count), np.int64))
        assert not len(void) or not table.wedges.real
        found.append((out, due))
    (one, due), (other, same) = found
    assert (due == same).all()
    assert 0 < len(due) < count / 30
    sure = np.setdiff1d(np.arange(count), due)
    assert (one[sure] == (-1 - other[sure] if table.wedges.real else -other[sure])).all()


def test_a_slow_draw_at_its_column_s_limit_is_decided_by_the_exact_one():
    table = DiscreteGaussianSampler(100)._table  # W = 1: outcomes are magnitudes
    column = next(i for i, other in enumerate(table.aliases.tolist()) if i != other and i > 1)
    other, step = int(table.aliases[column]), 1 << table.log_columns
    word = int(table.limits[column]) + column
    left = (table.exact_limits[column] << 64 - table.log_columns) % table.column
    edge = (left << 64) // table.column

    def draw(*words):
        stream = Scripted(*words, 0)  # the last is offset and sign
        values, kept = sampling._slow(table, 1, stream)
        assert not stream.left
        assert kept.all()
        return int(values[0])

    assert draw(word, edge - 1) == draw(word - step) == column
    assert draw(word, edge + 1) == draw(word + step) == other


@pytest.mark.parametrize("sampler", [DiscreteGaussianSampler(2**32), SkellamSampler(3e7)])
def test_zero_of_wide_strips_has_one_sign(sampler):
    table = sampler._table
    assert table.slots[0] == 0
    one = 1 << sampling.LOG_SLOTS
    words = [0, 2**63, one, 2**63 + one]
    out = np.empty(4, np.int64)
    due, void = sampling._fast(table, out, Scripted(*words), np.empty((3, 4), np.int64))
    assert not len(due)
    assert void.tolist() == [1]  # -0 is drawn again
    assert out[[0, 2, 3]].tolist() == [0, 1, -1]
    first = 0 if table.limits[0] else 2**63  # of the slow table, what is left of rectangle 0
    for place, kept in ((0, True), (2**63, False), (1, True), (2**63 + 1, True)):
        assert sampling._slow(table, 1, Scripted(first, place))[1].tolist() == [kept]


def test_slabs_do_not_show(monkeypatch):
    monkeypatch.setattr(sampling, "_SLAB", 2**12)
    draws = DiscreteGaussianSampler(2**20).sample(3 * 10**5, entropy=fixed("slabs"))
    assert chi_square(draws, DiscreteGaussianSampler, 2.0**20) > P_VALUE


def test_draws_that_are_not_kept_begin_again(monkeypatch):
    slow, gone = sampling._slow, []

    def marked(*arguments):
        values, kept = slow(*arguments)
        values[~kept] = 2**62
        gone.append(int((~kept).sum()))
        return values, kept

    monkeypatch.setattr(sampling, "_slow", marked)
    draws = BinnedGaussianSampler(2**40).sample(10**5, entropy=fixed("again"))
    assert sum(gone) > 50
    assert len(gone) > 1  # some began again on the slow table
    assert np.abs(draws).max() < 2**44


def test_a_call_needs_little_beside_its_result():
    sampler, count = BinnedGaussianSampler(2**40), 2**23
    tracemalloc.start()
    try:
        sampler.sample(count)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - 8 * count < 2**22


def test_chi_square_tells_a_discrete_gaussian_from_skellam():
    draws = DiscreteGaussianSampler(5).sample(2 * 10**5, entropy=fixed("power"))
    assert chi_square(draws, SkellamSampler, 5.0) < 1e-12


@pytest.mark.parametrize("variance", [0.5, 3.0, 2e5, 3e7])
def test_skellam_has_its_variance_and_a_kurtosis_of_3_plus_1_over_mu(variance):
    x = SkellamSampler(variance).sample(10**6, entropy=fixed("moments")) / math.sqrt(variance)
    assert abs(x.mean()) < 4e-3
    for power, expected in [(2, 1.0), (4, 3 + 1 / variance)]:
        assert abs((x**power).mean() - expected) < 4 * (x**power).std() / 1e3


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("variance", [1.0, 50.0, 3e7])
def test_noise_is_symmetric(kind, variance):
    count = 10**6 if kind is SkellamSampler else 10**5
    draws = kind(variance).sample(count, entropy=fixed("sign"))
    above, below = (draws > 0).sum(), (draws < 0).sum()
    assert stats.binomtest(int(above), int(above + below)).pvalue > P_VALUE
    if variance < 100:
        found = Counter(draws.tolist())
        pairs = [(found[k], found[-k]) for k in range(1, 30) if found[k] + found[-k] > 40]
        statistic = sum((a - b) ** 2 / (a + b) for a, b in pairs)
        assert stats.chi2.sf(statistic, len(pairs)) > P_VALUE


def units(table):
    return 2 ** (table.log_columns + table.high_bits + 64)


@pytest.mark.parametrize("variance", [2.0**-16, *SMALL])
def test_a_table_is_within_its_error_of_the_exact_law(variance):
    table = skellam.table(variance)
    with mpmath.workprec(500):
        law = [skellam_pmf(k, variance) * (2 if k else 1) for k in range(len(table.weights))]
        distance = sum(
            abs(mpmath.mpf(w) / units(table) - p) for w, p in zip(table.weights, law, strict=True)
        )
        tail = 1 - sum(law)
        assert 0 < tail < mpmath.mpf(2) ** -120
        assert (distance + tail) / 2 < SkellamSampler(variance).error == 2.0**-96
        # A table made of doubles is what this one is finer than.
        coarse = special.ive(np.arange(len(law)), variance) * np.where(np.arange(len(law)), 2, 1)
        doubles = sum(abs(mpmath.mpf(float(w)) - p) for w, p in zip(coarse, law, strict=True))
        assert doubles > 2.0**-70


@pytest.mark.parametrize("variance", [1e7, *LARGE])
def test_the_tail_beyond_the_table_is_what_the_module_says(variance):
    last = skellam.reach(variance)
    with mpmath.workprec(500):
        first, second = (skellam_pmf(last + k, variance) for k in (1, 2))
        assert first / (1 - second / first) * 2 < mpmath.mpf(2) ** -120  # p(k+1)/p(k) falls


@pytest.mark.parametrize("variance", LARGE)
def test_a_large_variance_s_probabilities_are_within_their_error(variance):
    table, last = skellam.table(variance), skellam.reach(variance)
    width = 1 << table.log_width
    for k in [*range(0, width, width // 16), *range(5 * width, last, last // 300), last]:
        found = table.wedges.weight(*divmod(k, width))
        with mpmath.workprec(500):  # 2^25 values of k, see the module
            gap = abs(mpmath.ldexp(found, -192) - skellam_pmf(k, variance))
            assert gap < mpmath.mpf(2) ** -139


@pytest.mark.parametrize("variance", SMALL)
def test_an_alias_table_gives_each_outcome_its_weight_exactly(variance):
    table = skellam.table(variance)
    column = 2 ** (table.high_bits + 64)
    found = [0] * 2**table.log_columns
    highs, lows = table.limits.tolist(), table.low_limits.tolist()
    for i, (high, low, other) in enumerate(zip(highs, lows, table.aliases.tolist(), strict=True)):
        assert high % 2 ** (64 - table.high_bits) == 0
        limit = (high >> 64 - table.high_bits << 64) + low
        found[i] += limit
        found[other] += column - limit
    assert found[: len(table.weights)] == list(table.weights)
    assert not any(found[len(table.weights) :])
    assert sum(table.weights) == units(table)


class Scripted(sampling._Stream):
    """A stream whose bits are written down."""

    def __init__(self, *words):
        self.left = list(words)
        self._update = lambda zeros: b"".join(
            self.left.pop(0).to_bytes(8, "little") for _ in range(len(zeros) // 8)
        )


@pytest.mark.parametrize("variance", [100.0, 2e5])
def test_the_second_word_decides_where_the_first_cannot(variance):
    sampler = SkellamSampler(variance)
    table = sampler._table
    inside = 2 ** (64 - table.high_bits)
    column = next(  # of a sure outcome, so that nothing else is drawn
        i for i, other in enumerate(table.aliases.tolist()) if other not in (0, i)
    )
    high, low = int(table.limits[column]), int(table.low_limits[column])
    other = int(table.aliases[column])
    word = high + column

    def draw(word, *more):
        stream = Scripted(*more)
        (value,) = sampling._magnitudes(table, np.array([word], np.uint64), stream).tolist()
        assert not stream.left
        return value

    assert draw(word, low - 1) == column
    assert draw(word, low) == other
    assert draw(word + inside // 2, low) == -other  # the sign's bit
    assert draw(word - inside) == column
    assert draw(word + inside) == other


def test_a_bernoulli_reads_on_until_it_is_decided():
    assert Scripted(2**62).bernoulli(2**62 + 1, 2**64) is True
    third = (2**64 - 1) // 3
    assert Scripted(third, third, third - 1).bernoulli(1, 3) is True
    assert Scripted(third, third, third + 1).bernoulli(1, 3) is False
    assert Scripted(2**63).bernoulli(1, 2) is False  # U = 1/2 is not below 1/2
    assert Scripted().bernoulli(3, 3) is True
    assert Scripted().bernoulli(0, 3) is False
    assert Scripted().bernoulli(-1, 3) is False


def test_an_integer_below_a_bound_is_fair():
    bound = 3 * 2**61  # 2^64 is no multiple of it: a quarter of all words is thrown away
    assert Scripted(2**64 - 1, 2 * bound, bound + 5).below(bound) == 5
    assert Scripted(bound - 1).below(bound) == bound - 1
    stream = sampling._Stream(fixed("below"))
    counts = np.bincount([stream.below(7) for _ in range(7000)], minlength=7)
    assert stats.chisquare(counts).pvalue > P_VALUE


@pytest.mark.parametrize("rate", [0.01, 0.3, Fraction(1, 3), 0.999, 2.0**-17])
def test_coins_fall_at_their_rate_and_apart_from_each_other(rate):
    count = 2 * 10**6
    fell = coins(count, rate, entropy=fixed("coins", rate))
    assert fell.dtype == np.int64
    assert (np.diff(fell) > 0).all()
    assert stats.binomtest(len(fell), count, float(rate)).pvalue > P_VALUE
    pairs = int((np.diff(fell) == 1).sum())
    assert stats.binomtest(pairs, len(fell), float(rate)).pvalue > P_VALUE


def test_coins_of_rate_0_and_1_are_certain():
    assert coins(10**5, 0).tolist() == []
    assert coins(10**5, 1).tolist() == list(range(10**5))
    assert coins(0, 0.5).tolist() == []


@pytest.mark.parametrize(
    ("rate", "words", "falls"),
    [
        (Fraction(1, 3), [2**32 // 3 - 1], True),
        (Fraction(1, 3), [2**32 // 3 + 1], False),
        (Fraction(1, 3), [2**32 // 3, 2**64 // 3 - 1], True),
        (Fraction(1, 3), [2**32 // 3, 2**64 // 3, 2**64 // 3 - 1], True),
        (Fraction(1, 3), [2**32 // 3, 2**64 // 3, 2**64 // 3 + 1], False),
        (2.0**-34, [0, 2**62 - 1], True),
        (2.0**-34, [0, 2**62], False),
        (0.5, [2**31], False),
        (0.5, [2**31 - 1], True),
    ],
)
def test_a_coin_that_ties_is_decided_by_the_exact_rate(monkeypatch, rate, words, falls):
    stream = Scripted(*words)
    monkeypatch.setattr(stream, "halves", lambda count: stream.words(count).astype(np.uint32))
    monkeypatch.setattr(sampling, "_Stream", lambda entropy: stream)
    assert coins(1, rate).tolist() == [0] * falls
    assert not stream.left


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf, True, "1", None])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(InputError, match="rate"):
        coins(10, rate)


@pytest.mark.parametrize("ties", [False, True])
def test_each_of_24_orders_is_as_likely(monkeypatch, ties):
    def orders():
        for turn in range(6000):
            yield tuple(permutation(4, entropy=fixed("order", ties, turn)).tolist())

    if ties:  # keys alike everywhere: the order is that of equal keys alone

        class Alike(sampling._Stream):
            def words(self, count):
                return super().words(count) if count == 1 else np.zeros(count, np.uint64)

        monkeypatch.setattr(sampling, "_Stream", Alike)
    found = Counter(orders())
    assert len(found) == 24
    assert stats.chisquare(list(found.values())).pvalue > P_VALUE


def test_groups_of_equal_keys_are_ordered_apart(monkeypatch):
    class Pairs(sampling._Stream):
        def words(self, count):
            if count == 1:
                return super().words(1)
            return np.array([3, 1, 3, 1, 2], np.uint64) << np.uint64(60)

    monkeypatch.setattr(sampling, "_Stream", Pairs)
    found = Counter(tuple(permutation(5, entropy=fixed("pairs", i)).tolist()) for i in range(400))
    assert set(found) == {(a, 4 - a, 4, c, 2 - c) for a in (1, 3) for c in (0, 2)}
    assert stats.chisquare(list(found.values())).pvalue > P_VALUE


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, 2**16, 2**16 + 1])
def test_a_permutation_holds_every_position_once(count):
    order = permutation(count)
    assert order.dtype == np.int64
    assert np.sort(order).tolist() == list(range(count))


@pytest.mark.parametrize("count", [-1, 1.0, True, None, 2**24 + 1])
def test_a_permutation_of_too_many_is_refused(count):
    with pytest.raises(InputError, match="count"):
        permutation(count)


def test_a_stream_is_neither_copied_nor_pickled():
    stream = sampling._Stream(fixed("copy"))
    for double in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="twice"):
            double(stream)


@pytest.mark.parametrize("kind", EVERY)
def test_a_sampler_holds_nothing_random(kind):
    sampler = kind(3e7)
    for double in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):  # noqa: S301 - our own bytes
        draws = double.sample(1000, entropy=fixed("double"))
        assert (draws == sampler.sample(1000, entropy=fixed("double"))).all()


@pytest.mark.parametrize(
    ("draw", "known"),
    [
        (BinnedGaussianSampler(2**40).sample, "78b62a5c9b9be17b83f1a2ffd68213f1"),
        (BinnedGaussianSampler(0.3).sample, "b751a1a55a122acd989fa76190f0c07c"),
        (DiscreteGaussianSampler(Fraction(1, 3)).sample, "eaabf1377b3fba3c2ecbf187a1c9bf63"),
        (DiscreteGaussianSampler(2**32).sample, "d66b3004a87dcfd706aa25344e007acd"),
        (SkellamSampler(100.0).sample, "5b264eb7570ff6e28996103477a5424d"),
        (SkellamSampler(2.0**36).sample, "4b524b5a96ff6346b64994a57eab6be9"),
        (partial(coins, rate=0.01), "a1cb3a0d3257d5f39769af6bf0bd2856"),
        (permutation, "77d98851c6fcad235e1c948a984d0f4f"),
    ],
)
def test_the_same_bytes_give_the_same_draws_on_every_machine(draw, known):
    drawn = draw(10**5, entropy=fixed("golden")).astype("<i8")
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:32] == known


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("variance", [2.0, 3e7])
def test_draws_are_a_function_of_the_entropy(kind, variance):
    sampler, seeds = kind(variance), []

    def recorded(count):
        seeds.append(count)
        return fixed("a")(count)

    first = sampler.sample(5000, entropy=recorded)
    assert first.dtype == np.int64
    assert first.shape == (5000,)
    assert (kind(variance).sample(5000, entropy=recorded) == first).all()
    assert seeds == [32, 32]
    for at in (0, 15, 16, 31):  # every byte of it: the key, and the first block
        other = bytearray(fixed("a")(32))
        other[at] ^= 1
        assert (sampler.sample(5000, entropy=lambda _, other=other: bytes(other)) != first).any()


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("variance", [2.0, 3e7])
def test_two_calls_differ(kind, variance):
    sampler = kind(variance)
    assert (sampler.sample(1000) != sampler.sample(1000)).any()


def test_no_word_of_the_stream_serves_twice():
    stream = sampling._Stream(fixed("once"))
    words = np.concatenate([stream.words(2**14), stream.words(2**14), stream.words(7)])
    assert len(set(words.tolist())) == len(words)
    assert (sampling._Stream(fixed("once")).words(len(words)) == words).all()


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("count", [0, 1, 2**15, 2**15 + 1])
def test_there_are_as_many_draws_as_asked_for(kind, count):
    for variance in (2**-2, 1.0, 3e7):
        assert kind(variance).sample(count, entropy=fixed(count)).shape == (count,)


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize(
    "variance",
    [0, -1.0, math.nan, math.inf, -math.inf, True, "1", None, 2.0**-17, 2.0**41, 10**400],
)
def test_a_variance_out_of_range_is_refused(kind, variance):
    with pytest.raises(InputError, match="variance"):
        kind(variance)


@pytest.mark.parametrize(
    "deviation", [0, -1.0, math.nan, math.inf, True, "1", None, 2.0**-3, 2.0**43, 10**400]
)
def test_a_deviation_out_of_range_is_refused(deviation):
    with pytest.raises(InputError, match="deviation"):
        BinnedGaussianSampler(deviation)


def test_skellam_takes_doubles_alone():
    with pytest.raises(InputError, match="exact as a float"):
        SkellamSampler(Fraction(1, 3))
    assert SkellamSampler(100).variance == 100.0
    assert DiscreteGaussianSampler(0.1).variance == Fraction(0.1)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("count", [-1, 1.0, True, None, 2**32 + 1])
def test_a_count_out_of_range_is_refused(kind, count):
    with pytest.raises(InputError, match="count"):
        kind(1.0).sample(count)


@pytest.mark.parametrize("kind", EVERY)
def test_too_little_entropy_is_refused(kind):
    with pytest.raises(InputError, match="entropy gave 16"):
        kind(1.0).sample(1, entropy=lambda _: bytes(16))
