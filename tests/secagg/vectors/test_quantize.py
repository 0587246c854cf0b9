import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import protocols
from secagg.errors import InputError
from secagg.vectors.packing import BLOCK_WORDS
from secagg.vectors.quantize import FixedPoint, clip_norm

CLIPS = st.floats(2.0**-500, 2.0**500)
BITS = st.integers(2, 32)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def counting(count):
    """Entropy for a repeatable test."""
    return bytes(range(count))


def clamp(x, clip):
    return max(-Fraction(clip), min(Fraction(clip), Fraction(x)))


@st.composite
def clipped_cases(draw):
    clip = draw(CLIPS | st.sampled_from([1.0, 0.1, 3.0]))
    fraction = st.floats(-1.0, 1.0).map(lambda f: f * clip)
    return clip, draw(st.lists(fraction | FLOATS, max_size=12))


@given(clipped_cases(), BITS)
@example((1.0, [1.0, -1.0, 5e-324, -0.0, 1.7e308, -1.7e308]), 32)
def test_stochastic_error_is_strictly_below_a_step(case, bits):
    clip, values = case
    codec = FixedPoint(clip=clip, bits=bits)
    step = Fraction(clip) / codec.levels
    integers = codec.quantize(values)
    for x, integer, decoded in zip(values, integers, codec.dequantize(integers), strict=True):
        assert abs(integer) <= codec.levels
        assert abs(integer * step - clamp(x, clip)) < step
        assert abs(Fraction(float(decoded)) - clamp(x, clip)) < step


@given(clipped_cases(), BITS)
def test_nearest_error_is_half_a_step(case, bits):
    clip, values = case
    codec = FixedPoint(clip=clip, bits=bits, rounding="nearest")
    step = Fraction(clip) / codec.levels
    decoded = codec.dequantize(codec.quantize(values))
    for x, found in zip(values, decoded, strict=True):
        assert abs(Fraction(float(found)) - clamp(x, clip)) <= step * (
            Fraction(1, 2) + Fraction(2) ** (bits - 51)
        )


@given(BITS, st.data())
def test_integers_on_the_grid_come_back_exactly_under_both_roundings(bits, data):
    levels = 2 ** (bits - 1) - 1
    grid = data.draw(st.lists(st.integers(-levels, levels), max_size=20))
    for rounding in ("stochastic", "nearest"):
        codec = FixedPoint(clip=float(levels), bits=bits, rounding=rounding)
        assert codec.quantize([float(x) for x in grid]).tolist() == grid


@pytest.mark.parametrize("bits", [2, 11, 16, 18, 19, 24, 32])
@pytest.mark.parametrize("fraction", [0.0625, 0.3, 0.5, 0.999, -0.3])
def test_stochastic_rounding_is_unbiased_with_the_variance_of_a_coin(bits, fraction):
    codec = FixedPoint(clip=float(2 ** (bits - 1) - 1), bits=bits)  # step 1
    count = 2**18
    found = codec.quantize(np.full(count, fraction), entropy=counting)
    chance = fraction % 1.0
    deviation = math.sqrt(chance * (1 - chance) / count)
    assert abs(found.mean() - fraction) < 5 * deviation
    assert found.var() <= 0.25
    assert set(found.tolist()) == {math.floor(fraction), math.floor(fraction) + 1}


def test_entries_far_below_a_step_are_not_lost_on_average():
    codec = FixedPoint(clip=127.0, bits=8)
    found = codec.quantize(np.full(2**20, 2.0**-12), entropy=counting)
    assert abs(int(found.sum()) - 2**8) < 5 * 2**4


def test_neighbouring_entries_and_blocks_round_independently():
    codec = FixedPoint(clip=1.0, bits=2)
    found = codec.quantize(np.full(4 * BLOCK_WORDS, 0.5), entropy=counting)
    blocks = found.reshape(4, BLOCK_WORDS)
    limit = 5 / math.sqrt(BLOCK_WORDS)
    for one, other in [(found[:-1], found[1:]), *pairwise(blocks)]:
        assert abs(np.corrcoef(one, other)[0, 1]) < limit


def test_two_calls_round_differently_unless_the_test_supplies_the_entropy():
    codec = FixedPoint(clip=1.0, bits=8)
    values = np.full(1000, 0.3)
    assert (codec.quantize(values) != codec.quantize(values)).any()
    repeated = [codec.quantize(values, entropy=counting) for _ in range(2)]
    assert (repeated[0] == repeated[1]).all()


def test_short_entropy_is_refused():
    with pytest.raises(protocols.InputError, match="seed has 5 bytes"):
        FixedPoint(clip=1.0).quantize([0.5], entropy=lambda _count: bytes(5))


def test_nearest_draws_nothing_and_rounds_ties_to_even():
    codec = FixedPoint(clip=127.0, bits=8, rounding="nearest")
    values = [0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 127.4]
    assert codec.quantize(values, entropy=None).tolist() == [0, 2, 2, 0, -2, 0, 127]


@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (1.0, 127), (-1.0, -127), (7.0, 127), (-7.0, -127), (1.7e308, 127), (-1.7e308, -127),
        (0.0, 0), (-0.0, 0),
    ],
)  # fmt: skip
def test_edge_cases_of_the_table(rounding, entry, expected):
    codec = FixedPoint(clip=1.0, bits=8, rounding=rounding)
    assert codec.quantize(np.full(50, entry)).tolist() == [expected] * 50


@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_a_subnormal_is_practically_zero(rounding):
    codec = FixedPoint(clip=1.0, bits=8, rounding=rounding)
    assert not codec.quantize(np.full(50, 5e-324), entropy=counting).any()


def test_no_entries_give_no_integers():
    assert FixedPoint(clip=1.0).quantize([]).shape == (0,)
    assert clip_norm([], 1.0).shape == (0,)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, BLOCK_WORDS + 7])
def test_nan_and_infinity_pass_neither_quantiser_nor_clip(dtype, bad, place):
    values = np.zeros(BLOCK_WORDS + 8, dtype)
    values[place] = bad
    for call in (
        FixedPoint(clip=1.0).quantize,
        FixedPoint(clip=1.0, rounding="nearest").quantize,
        lambda v: clip_norm(v, 1.0),
    ):
        with pytest.raises(InputError, match=f"'vector' is {bad} at entry {place}$"):
            call(values)


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.5, -2.0, 1.0], np.float16),
        np.array([0.5, -2.0, 1.0], ">f4"),
        np.array([9.0, 0.5, 9.0, -2.0, 9.0, 1.0])[1::2],
        [0.5, -2, True + 0.0],
        (0.5, -2.0, 1.0),
    ],
)
def test_arrays_and_sequences_of_any_float_type_are_taken(values):
    codec = FixedPoint(clip=1.0, bits=2, rounding="nearest")
    assert codec.quantize(values).tolist() == [0, -1, 1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "float16"])
def test_tensors_of_any_float_type_are_taken(dtype):
    import torch

    values = torch.tensor([0.5, -2.0, 1.0], dtype=getattr(torch, dtype), requires_grad=True)
    codec = FixedPoint(clip=1.0, bits=2, rounding="nearest")
    assert codec.quantize(values).tolist() == [0, -1, 1]


def test_integers_are_taken_too():
    codec = FixedPoint(clip=127.0, bits=8)
    assert codec.quantize([3, -200, 0]).tolist() == [3, -127, 0]
    assert codec.quantize(np.array([255], np.uint8)).tolist() == [127]


def test_tensors_of_integers_are_taken_too():
    import torch

    assert FixedPoint(clip=127.0, bits=8).quantize(torch.tensor([5])).tolist() == [5]


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 2)), 0.5, "text", ["a"], [1j], [True], [None], {0.5}, None, [[1.0], [1.0, 2]],
        np.zeros(2, np.longdouble), [2**70], np.ma.masked_array([1.0, 2.0], [True, False]),
    ],
)  # fmt: skip
def test_what_is_no_vector_of_numbers_is_refused(values):
    with pytest.raises(InputError, match=r"^'vector' "):
        FixedPoint(clip=1.0).quantize(values)


@pytest.mark.parametrize("kind", [{"layout": "sparse_coo"}, {"device": "meta"}])
def test_a_tensor_without_values_side_by_side_is_refused(kind):
    import torch

    options = {name: getattr(torch, each, each) for name, each in kind.items()}
    with pytest.raises(InputError, match=r"^'vector' "):
        FixedPoint(clip=1.0).quantize(torch.zeros(2, **options))


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf, 1e-320, 1e300, "1", np.float32(1)])
def test_a_clip_that_is_no_positive_ordinary_number_is_refused(clip):
    with pytest.raises(InputError, match=r"^clip"):
        FixedPoint(clip=clip)


@pytest.mark.parametrize("bits", [1, 33, 0, -4, 8.0, True])
def test_bits_outside_2_to_32_are_refused(bits):
    with pytest.raises(InputError, match=r"^bits"):
        FixedPoint(clip=1.0, bits=bits)


def test_an_unknown_rounding_is_refused():
    with pytest.raises(InputError, match="'up' is neither"):
        FixedPoint(clip=1.0, rounding="up")


def exceeds(values, bound):
    return sum(Fraction(float(x)) ** 2 for x in values) > Fraction(bound) ** 2


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        st.integers(0, 30),
        elements={"allow_nan": False, "allow_infinity": False},
    ),
    st.floats(1e-30, 1e150) | st.sampled_from([1.0, 0.1]),
)
@settings(max_examples=300)
def test_the_clipped_norm_never_exceeds_the_bound_in_exact_arithmetic(values, bound):
    clipped = clip_norm(values, bound)
    assert not exceeds(clipped, bound)
    if not exceeds(values, bound * (1 - 2.0**-19)):
        assert (clipped == values).all()
    elif exceeds(values, bound):
        assert exceeds(clipped, bound * (1 - 2.0**-19))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_long_vector_keeps_its_direction(dtype):
    values = np.random.default_rng(3).normal(0, 1, 3 * BLOCK_WORDS + 5).astype(dtype)
    clipped = clip_norm(values, 2.5)
    assert clipped.dtype == dtype
    assert 2.5 * (1 - 2**-19) <= float(np.linalg.norm(clipped.astype(np.float64))) <= 2.5
    ratio = clipped / values
    assert ratio.max() - ratio.min() < 1e-6 * ratio.max()


def test_clip_norm_gives_zeros_for_zeros_and_never_a_view():
    zeros = np.zeros(5, np.float32)
    assert not clip_norm(zeros, 1.0).any()
    short = np.full(5, 0.1)
    result = clip_norm(short, 1.0)
    result[0] = 9
    assert short[0] == 0.1


def test_norms_that_overflow_or_vanish_when_squared_are_clipped_right():
    assert clip_norm(np.full(4, 1e308), 1.0) == pytest.approx([0.5] * 4, rel=1e-5)
    assert clip_norm(np.full(4, 1e-200), 1e-30).tolist() == [1e-200] * 4
    assert clip_norm(np.full(4, 6e4, np.float16), 1.0) == pytest.approx([0.5] * 4, rel=1e-5)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf, 1e-40])
def test_a_norm_bound_that_is_no_positive_ordinary_number_is_refused(bound):
    with pytest.raises(InputError, match=r"^norm bound"):
        clip_norm([1.0], bound)


@pytest.mark.parametrize("bound", [np.float16(0.1), np.array(0.1, np.float16), "1", None, True])
def test_a_bound_is_a_python_number_as_one_of_half_precision_would_be_passed(bound):
    with pytest.raises(InputError, match=r"^norm bound"):
        clip_norm([1.0], bound)
    with pytest.raises(InputError, match=r"^clip"):
        FixedPoint(clip=bound)


def test_arithmetic_in_the_precision_of_a_half_bound_passes_it():
    """The rule removed: numpy computes a scalar's factor in half precision and lets 1e-4 by."""
    bound, passed = np.float16(0.1), 0
    for number in range(300):
        values = np.random.default_rng(number).normal(size=50)
        factor = bound / np.float16(np.linalg.norm(values)) * (1 - 2.0**-20)
        passed += bool(np.linalg.norm(values * float(factor)) > float(bound) * (1 + 1e-4))
        assert np.linalg.norm(clip_norm(values, float(bound))) <= float(bound)
    assert passed
