"""Tables of strips: their exact law against mpmath, and every decision against high precision."""

import hashlib
import itertools
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp.noise import gaussian, skellam, strips

REALS = [Fraction(2) ** 82, Fraction(2) ** 48, Fraction(2) ** 40, Fraction(2251799, 3) ** 2]
INTEGERS = [
    Fraction(2) ** 40,
    Fraction(2) ** 32,
    Fraction(10**6, 3),
    Fraction(10**4),
    Fraction(1, 3),
    Fraction(1, 2**16),
]
TABLES = [(v, True) for v in REALS] + [(v, False) for v in INTEGERS]


def exact(fraction):
    return mpmath.mpf(fraction.numerator) / fraction.denominator


def law(table):
    """Outcomes' exact weights: slots and alias table put together again."""
    held = table.slots[: table.sure] >> table.log_width
    found = [0] * (1 << table.log_columns)
    for j, (limit, other) in enumerate(zip(table.exact_limits, table.aliases, strict=True)):
        assert 0 <= limit < table.column
        found[j] += limit
        found[other] += table.column - limit
    slow = Fraction(2**strips.LOG_SLOTS - table.sure, 2**strips.LOG_SLOTS)
    found = [slow * Fraction(w, table.column << table.log_columns) for w in found]
    for strip, slots in enumerate(np.bincount(held, minlength=table.count).tolist()):
        found[strip] += Fraction(slots, 2**strips.LOG_SLOTS)
    assert sum(found) == 1
    return found


def density(variance, x):
    return mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * exact(variance)))


def masses(table, variance, real):
    """What the weights should be in proportion to."""
    width = 1 << table.log_width
    edges = [density(variance, b * width) for b in range(table.count + 1)]
    if table.log_width or real:
        wedges = [width * (edges[b] - edges[b + 1]) for b in range(table.count)]
        return [width * edge for edge in edges[1:]] + wedges
    return [edge / (1 if b else 2) for b, edge in enumerate(edges[:-1])]


@pytest.mark.parametrize(("variance", "real"), TABLES)
def test_a_gaussian_table_is_within_its_error_of_the_exact_law(variance, real):
    table = gaussian.table(variance, real=real)
    with mpmath.workprec(400):
        found = law(table)
        wanted = masses(table, variance, real)
        total = mpmath.fsum(wanted)
        assert not any(found[len(wanted) :])
        distance = mpmath.fsum(
            abs(exact(w) - m / total) for w, m in zip(found, wanted, strict=False)
        )
        assert distance < strips.ROUNDING
        end = table.count << table.log_width
        tail = mpmath.erfc((end - (not real)) / mpmath.sqrt(2 * exact(variance)))
        assert tail < mpmath.mpf(2) ** -122
        # Of laws that are alike but for this, and more than .99 of which is kept.
        assert tail + 2 * distance / 0.99 < gaussian.ERROR


@pytest.mark.parametrize(("variance", "real"), TABLES)
def test_probabilities_at_single_places_are_those_of_the_exact_law(variance, real):
    table = gaussian.table(variance, real=real)
    rng, width = np.random.default_rng(0), 1 << table.log_width
    with mpmath.workprec(400):
        deviation = mpmath.sqrt(exact(variance))
        found, total = law(table), mpmath.fsum(masses(table, variance, real))
        last = min(int(9 * deviation) + 1, table.count * width)
        places = {0, 1, width - 1, width, *rng.integers(0, last, 50).tolist()}
        for k in (k for k in places if k < last):
            b = k >> table.log_width
            top, floor = density(variance, b * width), density(variance, (b + 1) * width)
            at = density(variance, k)
            if real:  # the mean over the cell
                at = deviation * mpmath.sqrt(mpmath.pi / 2)
                at *= mpmath.erf((k + 1) / deviation / mpmath.sqrt(2)) - mpmath.erf(
                    k / deviation / mpmath.sqrt(2)
                )
            if width == 1 and not real:
                have, at = exact(found[b]), at / (1 if k else 2)
            else:
                kept = (at - floor) / (top - floor)
                have = (exact(found[b]) + exact(found[table.count + b]) * kept) / width
            assert abs(have * total / at - 1) < mpmath.mpf(2) ** -100


@pytest.mark.parametrize(("variance", "real"), TABLES)
def test_strips_are_as_wide_as_the_float_test_counts_on(variance, real):
    table = gaussian.table(variance, real=real)
    width = 1 << table.log_width
    if width == 1:
        assert variance < 4**8
        return
    assert (128 * width) ** 2 <= variance < (256 * width) ** 2
    assert table.count < 2**12
    assert table.count * width < 2**50
    for b in (0, table.count - 1):
        y = Fraction(width * (2 * (b + 1) - 1) * width, 2) / variance
        assert Fraction(1, 2**17) <= y <= Fraction(11, 100)


def wedge_places(table, rng, count):
    """Places all over the wedges, some at the very end of theirs, where floats are worst."""
    strip = rng.integers(0, table.count, count)
    strip[: count // 3] %= 4
    offset = rng.integers(0, 1 << table.log_width, count)
    fraction = rng.integers(0, 2**64, count, np.uint64)
    offset[::5] = (1 << table.log_width) - 1
    fraction[::5] = np.uint64(2**64 - 1) - rng.integers(0, 1000, len(fraction[::5]), np.uint64)
    offset[1::5] = 0
    if not table.wedges.real:
        fraction[:] = 0
    return strip, offset, fraction


@pytest.mark.parametrize(("variance", "real"), TABLES[:6])
def test_a_wedge_s_float_probability_is_within_a_16th_of_its_margin(variance, real):
    table = gaussian.table(variance, real=real)
    places = wedge_places(table, np.random.default_rng(1), 300)
    chances, margin = table.wedges.chance(*places)
    assert margin == gaussian.MARGIN == 2.0**-44
    width = 1 << table.log_width
    with mpmath.workprec(300):
        for b, off, f, chance in zip(*(x.tolist() for x in (*places, chances)), strict=True):
            top, floor = density(variance, b * width), density(variance, (b + 1) * width)
            at = density(variance, b * width + off + mpmath.ldexp(f, -64))
            true = (at - floor) / (top - floor)
            assert abs(chance - true) < 2.0**-48
            least, most = table.wedges.bounds(b, off, f, 64)
            assert exact(least) < true < exact(most)
            end = density(variance, b * width + off + mpmath.ldexp(f + real, -64))
            assert exact(least) < (end - floor) / (top - floor)
            assert most - least < Fraction(1, 2**58)


@pytest.mark.parametrize("real", [True, False])
def test_a_wedge_s_bounds_close_in_on_its_probability(real):
    table = gaussian.table(Fraction(2) ** 48, real=real)
    widths = []
    for bits in (64, 128, 192):
        fraction = (1 << bits) // 3 if real else 0
        least, most = table.wedges.bounds(200, 5, fraction, bits)
        widths.append(most - least)
        assert most - least < Fraction(1, 1 << bits - 6)
    assert widths[2] < widths[1] < widths[0]


@pytest.mark.parametrize("variance", [3e7, 2.0**40])
def test_skellam_s_chord_is_within_its_slack_of_the_exact_probability(variance):
    table = skellam.table(variance)
    strip, offset, fraction = wedge_places(table, np.random.default_rng(2), 1000)
    strip %= table.count // 2  # up to 6.5 deviations: what is ever drawn
    chances, slack = table.wedges.chance(strip, offset, fraction)
    used = 0.0
    for b, off, chance, margin in zip(
        *(x.tolist() for x in (strip, offset, chances, slack)), strict=True
    ):
        least, most = table.wedges.bounds(b, off, 0, 64)
        assert least == most
        used = max(used, abs(float(least - Fraction(chance))) / margin)
        assert abs(least - Fraction(chance)) <= margin
    assert 0.3 < used <= 1  # the bound is not idle
    wedges = [float(w) for w in law(table)[table.count : 2 * table.count]]
    _, slack = table.wedges.chance(*[np.arange(table.count)] * 3)
    assert (wedges * np.minimum(2 * slack, 1)).sum() < 1e-4  # of draws are decided alone


@pytest.mark.parametrize("variance", [3e7, 2.0**40])
def test_skellam_s_strips_have_the_weights_of_their_edges(variance):
    table = skellam.table(variance)
    edges, width = table.wedges.edges, 1 << table.log_width
    wanted = [width * e for e in edges[1:]]
    wanted += [width * (a - e) for a, e in itertools.pairwise(edges)]
    found = law(table)
    total = sum(wanted)
    distance = sum(
        abs(w - Fraction(m, total)) for w, m in zip(found[: len(wanted)], wanted, strict=True)
    )
    assert distance < strips.ROUNDING
    assert not any(found[len(wanted) :])
    assert table.count * width > skellam.reach(variance)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 2**100), min_size=1, max_size=40), st.integers(1, 2**40))
def test_any_weights_make_an_exact_alias_table(weights, column):
    total = len(weights) * column
    weights = [weight * total // (sum(weights) or 1) for weight in weights]
    weights[0] += total - sum(weights)
    limits, aliases = strips.alias(weights, column)
    found = list(limits)
    for limit, other in zip(limits, aliases, strict=True):
        assert 0 <= limit <= column
        found[other] += column - limit
    assert found == weights


@settings(max_examples=50, deadline=None)
@given(st.fractions(Fraction(1, 2**16), 2**40))
def test_any_variance_makes_a_table_that_holds_its_law(variance):
    table = gaussian.table(variance, real=False)
    assert ((table.count << table.log_width) - 1) ** 2 >= Fraction(64, 5) ** 2 * variance
    found = law(table)
    zero, one = found[0], found[1]
    if not table.log_width:
        with mpmath.workprec(300):
            ratio = exact(one / zero / 2)
            assert abs(ratio - density(variance, 1)) < mpmath.mpf(2) ** -150


def test_limits_are_the_first_bits_of_the_exact_ones():
    table = gaussian.table(Fraction(2) ** 82, real=True)
    high = 64 - table.log_columns
    for limit, whole in zip(table.limits.tolist(), table.exact_limits, strict=True):
        assert limit >> table.log_columns == (whole << high) // table.column
        assert not limit % (1 << table.log_columns)


def test_a_table_cannot_be_written_to():
    table = gaussian.table(Fraction(1), real=False)
    for array in (table.slots, table.limits, table.aliases):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def digest(table):
    hashed = hashlib.sha256()
    for array, kind in ((table.slots, "<i8"), (table.limits, "<u8"), (table.aliases, "<i8")):
        hashed.update(array.astype(kind).tobytes())
    hashed.update(repr((table.sure, table.column, *table.exact_limits)).encode())
    return hashed.hexdigest()[:32]


@pytest.mark.parametrize(
    ("make", "known"),
    [
        (lambda: gaussian.table(Fraction(2) ** 82, real=True), "26f8464e60c5111d532a56770a4913b1"),
        (
            lambda: gaussian.table(Fraction(2251799, 3) ** 2, real=True),
            "0003c525413ac13f905b8439fbcc256b",
        ),
        (lambda: gaussian.table(Fraction(2) ** 32, real=False), "f85bbd5ce03b7f295ff1e7ec7bf771c2"),
        (lambda: gaussian.table(Fraction(1, 3), real=False), "5cfa97842c720a01048eb8300bd396c4"),
        (lambda: skellam.table(2.0**36), "7b29a58fb73354d6eed74b31e4479f0f"),
    ],
    ids=["real 2^82", "real, rational", "integers 2^32", "integers 1/3", "skellam 2^36"],
)
def test_a_table_is_the_same_on_every_machine(make, known):
    assert digest(make()) == known
