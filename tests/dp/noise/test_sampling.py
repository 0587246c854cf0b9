import hashlib
import math
from collections import Counter
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from dp.errors import BadParameter
from dp.noise import sampling, skellam
from dp.noise.sampling import DiscreteGaussianSampler, SkellamSampler

P_VALUE = 1e-4  # of every chi-square test here; the entropy is fixed, so none of them flakes
SMALL, BLOCKS = [0.01, 1.0, 100.0, 2e5], [3e7, 2.0**36, 2.0**40]  # variances by kind of table
SAMPLERS = [SkellamSampler, DiscreteGaussianSampler]


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
    if kind is DiscreteGaussianSampler:
        total = math.sqrt(2 * math.pi * variance)  # the sum, to e^(-2 pi^2 variance) [Poisson]
        if variance < 10:
            total = 1 + 2 * np.exp(-(np.arange(1.0, 200) ** 2) / (2 * variance)).sum()
        return np.exp(-(values**2) / (2 * variance)) / total
    if variance < 1e8:
        return special.ive(np.abs(values), variance)
    term, found = np.ones(len(values)), np.zeros(len(values))
    for j in range(1, 200):
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
    draws = DiscreteGaussianSampler(variance).sample(2 * 10**5, entropy=fixed(variance))
    if variance < 0.01:
        assert not draws.any()  # 1 has probability e^-32768
    elif variance < 2**38:
        assert chi_square(draws, DiscreteGaussianSampler, float(variance)) > P_VALUE
    else:  # at this size, the normal law to within 2^-40
        cells = np.floor(stats.norm.cdf((draws + 0.5) / 2**20) * 100).astype(int)
        assert stats.chisquare(np.bincount(cells, minlength=100)).pvalue > P_VALUE


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


@pytest.mark.parametrize("variance", [1e7, *BLOCKS])
def test_the_tail_beyond_the_table_is_what_the_module_says(variance):
    last = skellam.reach(variance)
    with mpmath.workprec(500):
        first, second = (skellam_pmf(last + k, variance) for k in (1, 2))
        assert first / (1 - second / first) * 2 < mpmath.mpf(2) ** -120  # p(k+1)/p(k) falls


@pytest.mark.parametrize("variance", BLOCKS)
def test_blocks_are_within_their_error_of_the_exact_law(variance):
    table = skellam.table(variance)
    width, last = 1 << table.log_width, skellam.reach(variance)
    assert len(table.weights) * width // 2 > last
    proposed = width * sum(table.edges[:-1])
    some = [*range(3 * width), *range(5 * width, last, last // 300), last]
    for k in some:
        block, offset = divmod(k, width)
        sure, unsure = table.weights[2 * block : 2 * block + 2]
        low, high = table.edges[block + 1], table.edges[block]
        kept = Fraction(table.blocks.weight(block, offset) - low, max(1, high - low))
        found = (sure + unsure * min(max(kept, 0), 1)) / (width * units(table))
        found *= Fraction(proposed, 2**192)  # the mass of what is drawn before anything is dropped
        with mpmath.workprec(500):
            gap = abs(mpmath.mpf(found.numerator) / found.denominator - skellam_pmf(k, variance))
            # 2^25 values, of which the first block takes what rounding left over.
            assert gap < mpmath.mpf(2) ** (-123 if block else -107)


@pytest.mark.parametrize("variance", [0.01, 100.0, 2e5, 3e7, 2.0**40])
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


@settings(max_examples=200)
@given(st.lists(st.integers(0, 2**100), min_size=1, max_size=40), st.integers(1, 2**40))
def test_any_weights_make_an_exact_alias_table(weights, column):
    total = len(weights) * column
    weights = [weight * total // (sum(weights) or 1) for weight in weights]
    weights[0] += total - sum(weights)
    limits, aliases = skellam.alias(weights, column)
    found = list(limits)
    for limit, other in zip(limits, aliases, strict=True):
        assert 0 <= limit <= column
        found[other] += column - limit
    assert found == weights


class Scripted(sampling._Stream):
    """A stream whose bits are written down."""

    def __init__(self, *words):
        self.left = list(words)
        self._update = lambda zeros: b"".join(
            self.left.pop(0).to_bytes(8, "little") for _ in range(len(zeros) // 8)
        )


@pytest.mark.parametrize("variance", [100.0, 3e7])
def test_the_second_word_decides_where_the_first_cannot(variance):
    sampler = SkellamSampler(variance)
    table = sampler._table
    inside = 2 ** (64 - table.high_bits)
    column = next(  # of a sure outcome, so that nothing else is drawn
        i
        for i, other in enumerate(table.aliases.tolist())
        if (other not in (0, i) and not table.blocks) or (i > 1 < other and not (i | other) & 1)
    )
    high, low = int(table.limits[column]), int(table.low_limits[column])
    other = int(table.aliases[column])
    word = high + column

    def draw(word, *more):
        stream = Scripted(*more)
        (value,) = sampler._draw(np.array([word], np.uint64), stream).tolist()
        assert not stream.left
        return value

    def meaning(outcome):
        return outcome // 2 << table.log_width if table.blocks else outcome

    assert draw(word, low - 1) == meaning(column)
    assert draw(word, low) == meaning(other)
    assert draw(word + inside // 2, low) == -meaning(other)  # the sign's bit
    assert draw(word - inside) == meaning(column)
    assert draw(word + inside) == meaning(other)


def test_zero_has_one_sign_in_blocks():
    sampler = SkellamSampler(3e7)
    table = sampler._table
    sign, high = 1 << table.log_columns + table.log_width, 1 << 63
    assert table.aliases[0] == 0  # column 0 is full, with the sure part of block 0
    words = np.array([high, high + sign, high + sign + (1 << table.log_columns)], np.uint64)
    assert sampler._draw(words, Scripted()).tolist() == [0, -1]


def test_an_unsure_draw_of_a_block_is_kept_by_the_exact_ratio():
    sampler = SkellamSampler(3e7)
    table, block = sampler._table, 1500
    floor, top = table.edges[block + 1], table.edges[block]
    assert sampler._keeps(block, 0, Scripted())  # the block's most probable value
    limit = (table.blocks.weight(block, 1) - floor << 64) // (top - floor)
    assert 2**62 < limit < 2**64
    assert sampler._keeps(block, 1, Scripted(limit - 1))
    assert not sampler._keeps(block, 1, Scripted(limit + 1))


def test_a_bernoulli_reads_on_until_it_is_decided():
    assert Scripted(2**62).bernoulli(2**62 + 1, 2**64) is True
    third = (2**64 - 1) // 3
    assert Scripted(third, third, third - 1).bernoulli(1, 3) is True
    assert Scripted(third, third, third + 1).bernoulli(1, 3) is False
    assert Scripted(2**63).bernoulli(1, 2) is False  # U = 1/2 is not below 1/2
    assert Scripted().bernoulli(3, 3) is True
    assert Scripted().bernoulli(0, 3) is False
    assert Scripted().bernoulli(-1, 3) is False


@pytest.mark.parametrize("gamma", [Fraction(0), Fraction(1, 3), Fraction(1), Fraction(19, 7)])
@pytest.mark.parametrize("way", ["close", "wide", "late", "alone"])
def test_exp_of_a_rational_is_flipped_exactly(monkeypatch, gamma, way):
    if way == "late":
        monkeypatch.setattr(sampling, "_MAX_K", 1)
    stream, count = sampling._Stream(fixed(gamma, way)), 10**5 if way == "close" else 5000
    if way == "alone":
        found = sum(sampling._flip(gamma, stream) for _ in range(count))
    else:  # an interval that decides nothing leaves all to the exact comparison
        spare = 2**32 if way == "wide" else 1
        at = math.floor(gamma * 2**32)
        low, high = np.full(count, max(0, at - spare)), np.full(count, at + spare)
        found = int(sampling._flips(low, high, lambda _: gamma, stream).sum())
    assert stats.binomtest(found, count, math.exp(-gamma)).pvalue > P_VALUE


def test_an_open_comparison_is_decided_with_its_own_gamma():
    gammas = [Fraction(1, 10)] * 3000 + [Fraction(3, 4)] * 3000
    low, high = np.zeros(6000, np.int64), np.full(6000, 2**32)
    found = sampling._flips(low, high, gammas.__getitem__, sampling._Stream(fixed("mixed")))
    for part, gamma in [(found[:3000], 0.1), (found[3000:], 0.75)]:
        assert stats.binomtest(int(part.sum()), 3000, math.exp(-gamma)).pvalue > P_VALUE


def test_a_flip_of_one_reads_on_where_its_first_bits_are_those_of_1_over_e():
    with mpmath.workprec(400):
        digits = [int(mpmath.floor(mpmath.ldexp(mpmath.exp(-1), n))) for n in (32, 96, 160)]
    first, second, third = digits[0], digits[1] % 2**64, digits[2] % 2**64

    def flip(first, *more):  # two halves a word; only the first is looked at
        stream = Scripted(first + (2**32 - 1 << 32), *more)
        found = sampling._flips_of_one(2, stream).tolist()
        assert not stream.left
        return found

    assert flip(first - 1) == [True, False]
    assert flip(first + 1) == [False, False]
    assert flip(first, second - 1) == [True, False]
    assert flip(first, second + 1) == [False, False]
    assert flip(first, second, third - 1) == [True, False]
    assert flip(first, second, third + 1) == [False, False]


def test_a_flip_of_one_is_true_once_in_e():
    found = sampling._flips_of_one(10**6, sampling._Stream(fixed("e"))).sum()
    assert stats.binomtest(int(found), 10**6, math.exp(-1)).pvalue > P_VALUE


def test_far_draws_are_decided_alone(monkeypatch):
    sampler = DiscreteGaussianSampler(Fraction(50, 3))
    monkeypatch.setattr(sampling, "_FAR", 1)
    draws = sampler.sample(5000, entropy=fixed("far"))
    assert chi_square(draws, DiscreteGaussianSampler, 50 / 3) > P_VALUE


@settings(max_examples=50, deadline=None)
@given(
    st.fractions(2**-16, 2**40) | st.floats(2**-16, 2**40).map(Fraction),
    st.lists(st.floats(0, 15.99), min_size=1, max_size=20),
)
def test_gamma_lies_in_its_interval(variance, places):
    sampler = DiscreteGaussianSampler(variance)
    size = np.array([int(place * sampler._scale) for place in places])
    low, high = sampler._gamma(size)
    for y, least, most in zip(size.tolist(), low.tolist(), high.tolist(), strict=True):
        gamma = sampler._exact_gamma(y) * 2**32
        assert 0 <= least <= gamma <= most < 2**56
        assert most - least <= 2**12 + 2**11 / variance + gamma / 2**6


@pytest.mark.parametrize("bound", [1, 3, 1000, 2**20 + 1])
def test_integers_below_a_bound_are_uniform(bound):
    found = sampling._Stream(fixed(bound)).below(bound, 10**5)
    assert found.min() >= 0
    assert found.max() < bound
    counts = np.bincount(found * min(bound, 100) // bound)
    cells = np.arange(bound) * min(bound, 100) // bound
    expected = np.bincount(cells) / bound * len(found)
    assert stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), max(1, bound - 1)) > P_VALUE


def test_a_half_that_would_favour_an_integer_is_thrown_away():
    # 2^32 = 1 mod 3, so 0 alone is one half too many for a fair third.
    assert Scripted(0 + (2**31 << 32)).below(3, 2).tolist() == [1]


@pytest.mark.parametrize("kind", SAMPLERS)
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


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("variance", [2.0, 3e7])
def test_two_calls_differ(kind, variance):
    sampler = kind(variance)
    assert (sampler.sample(1000) != sampler.sample(1000)).any()


def test_no_word_of_the_stream_serves_twice():
    stream = sampling._Stream(fixed("once"))
    words = np.concatenate([stream.words(2**14), stream.words(2**14), stream.words(7)])
    assert len(set(words.tolist())) == len(words)
    assert (sampling._Stream(fixed("once")).words(len(words)) == words).all()


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("count", [0, 1, 2**14, 2**14 + 1])
def test_there_are_as_many_draws_as_asked_for(kind, count):
    for variance in (2**-16, 1.0, 3e7):
        assert kind(variance).sample(count, entropy=fixed(count)).shape == (count,)


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize(
    "variance",
    [0, -1.0, math.nan, math.inf, -math.inf, True, "1", None, 2.0**-17, 2.0**41, 10**400],
)
def test_a_variance_out_of_range_is_refused(kind, variance):
    with pytest.raises(BadParameter, match="variance"):
        kind(variance)


def test_skellam_takes_doubles_alone():
    with pytest.raises(BadParameter, match="double"):
        SkellamSampler(Fraction(1, 3))
    assert SkellamSampler(100).variance == 100.0
    assert DiscreteGaussianSampler(0.1).variance == Fraction(0.1)


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("count", [-1, 1.0, True, None, 2**32 + 1])
def test_a_count_out_of_range_is_refused(kind, count):
    with pytest.raises(BadParameter, match="count"):
        kind(1.0).sample(count)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_too_little_entropy_is_refused(kind):
    with pytest.raises(BadParameter, match="entropy gave 16"):
        kind(1.0).sample(1, entropy=lambda _: bytes(16))
