import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secagg.errors import InputError
from secagg.vectors.packing import (
    BLOCK_WORDS,
    lane_bits,
    lanes_for,
    pack,
    pack_blocks,
    unpack,
    unpack_blocks,
    word_count,
)

LANES = st.integers(1, 8)


def bounds(lanes):
    half = 2 ** (lane_bits(lanes) - 1)
    return -half, half - 1


@st.composite
def vectors_whose_sum_fits(draw):
    """Vectors whose entries may each be anything, while every total stays within its lane."""
    lanes = draw(LANES)
    low, high = bounds(lanes)
    entry = st.sampled_from([low, low + 1, -1, 0, 1, high - 1, high]) | st.integers(low, high)
    totals = draw(st.lists(entry, max_size=40))
    clients = draw(st.integers(1, 4))
    parts = [draw(hnp.arrays(np.int64, len(totals), elements=entry)) for _ in range(clients - 1)]
    last = np.array(totals, np.int64)
    for part in parts:
        last = last - part  # wraps for one lane, as the words do
    return lanes, totals, [*parts, last]


@given(vectors_whose_sum_fits())
def test_the_sum_of_packed_vectors_unpacks_to_the_sum_of_the_vectors(case):
    lanes, totals, parts = case
    words = np.zeros(word_count(len(totals), lanes), np.uint64)
    for part in parts:
        words += pack(part, lanes)
    assert unpack(words, len(totals), lanes).tolist() == totals


@pytest.mark.parametrize("lanes", range(1, 9))
def test_extremes_of_the_range_sit_beside_each_other_unharmed(lanes):
    low, high = bounds(lanes)
    values = np.array([low, high, -1, high, low, low, 0, high, high, -1, low] * 5)
    assert unpack(pack(values, lanes), len(values), lanes).tolist() == values.tolist()


@given(LANES, hnp.arrays(np.int64, 17), hnp.arrays(np.int64, 17), st.integers(0, 2**63 - 1))
def test_packing_is_linear_mod_2_to_the_64(lanes, one, other, factor):
    together = pack(one + other, lanes)
    assert (pack(one, lanes) + pack(other, lanes) == together).all()
    assert (pack(one * np.int64(factor), lanes) == pack(one, lanes) * np.uint64(factor)).all()


@given(LANES, st.data())
def test_a_word_is_the_formula_and_the_layout_planar(lanes, data):
    low, high = bounds(lanes)
    values = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=30))
    width, total = 64 // lanes, -(-len(values) // lanes)
    expected = [
        sum(x << (width * lane) for lane, x in enumerate(values[word::total])) % 2**64
        for word in range(total)
    ]
    assert pack(np.array(values), lanes).tolist() == expected


@given(st.integers(2, 8), st.integers(-3, 3), st.data())
def test_an_overflow_by_w_wraps_disturbs_the_upper_neighbour_by_w_units(lanes, wraps, data):
    low, high = bounds(lanes)
    width = lane_bits(lanes)
    values = data.draw(st.lists(st.integers(low + 3, high - 3), min_size=lanes, max_size=lanes))
    lane = data.draw(st.integers(0, lanes - 2))
    overflowing = np.array(values)
    overflowing[lane] += wraps << width
    expected = list(values)
    expected[lane + 1] += wraps
    assert unpack(pack(overflowing, lanes), lanes, lanes).tolist() == expected


@given(LANES, st.integers(1, 60), st.data())
def test_any_run_of_words_can_be_packed_and_unpacked_alone(lanes, entries, data):
    low, high = bounds(lanes)
    values = data.draw(hnp.arrays(np.int64, entries, elements=st.integers(low, high)))
    whole = pack(values, lanes)
    first = data.draw(st.integers(0, len(whole)))
    last = data.draw(st.integers(first, len(whole)))
    part = np.full(last - first, 7, np.uint64)
    pack_blocks(
        lambda span, block: np.copyto(block, values[span]), part, entries, lanes, first=first
    )
    assert (part == whole[first:last]).all()

    seen = {}
    unpack_blocks(
        part,
        lambda span, block: seen.update(zip(range(entries)[span], block.tolist(), strict=True)),
        entries,
        lanes,
        first=first,
    )
    total = len(whole)
    assert seen == {i: values[i] for i in range(entries) if first <= i % total < last}


@pytest.mark.parametrize("lanes", range(1, 9))
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_blocks_join_without_a_seam(lanes, extra):
    entries = BLOCK_WORDS * lanes * 2 + extra
    values = np.random.default_rng(lanes).integers(*bounds(lanes), entries)
    assert (unpack(pack(values, lanes), entries, lanes) == values).all()


@pytest.mark.parametrize(
    ("limit", "lanes"),
    [
        (0, 8), (127, 8), (128, 7), (255, 7), (256, 6), (511, 6), (512, 5), (2047, 5), (2048, 4),
        (2**15 - 1, 4), (2**15, 3), (2**20 - 1, 3), (2**20, 2), (2**31 - 1, 2), (2**31, 1),
        (2**63 - 1, 1),
    ],
)  # fmt: skip
def test_lanes_for_is_the_most_that_hold_the_limit_both_ways(limit, lanes):
    assert lanes_for(limit) == lanes
    if lanes > 1 or limit < 2**31:
        assert (
            unpack(pack(np.array([-limit, limit] * 4), lanes), 8, lanes).tolist()
            == [
                -limit,
                limit,
            ]
            * 4
        )


@pytest.mark.parametrize("limit", [2**63, 2**64, -1])
def test_what_no_lane_holds_is_refused(limit):
    with pytest.raises(InputError, match=str(abs(limit))):
        lanes_for(limit)


def test_out_is_overwritten_and_returned():
    values = np.arange(-5, 5)
    words = np.full(4, 2**64 - 1, np.uint64)
    assert pack(values, 3, out=words) is words
    entries = np.full(10, 9)
    assert unpack(words, 10, 3, out=entries) is entries
    assert (entries == values).all()


@pytest.mark.parametrize("lanes", range(1, 9))
def test_no_entries_are_no_words(lanes):
    assert pack(np.empty(0, np.int64), lanes).shape == (0,)
    assert unpack(np.empty(0, np.uint64), 0, lanes).shape == (0,)


@pytest.mark.parametrize("lanes", [0, 9, -1])
def test_other_lane_counts_are_refused(lanes):
    with pytest.raises(InputError, match="lanes a word, expected 1 to 8"):
        pack(np.arange(3), lanes)


@pytest.mark.parametrize(
    "values", [np.zeros(3), np.zeros(3, np.uint64), np.zeros((3, 1), np.int64), np.zeros(3, bool)]
)
def test_only_signed_vectors_are_packed(values):
    with pytest.raises(InputError, match="cannot pack"):
        pack(values, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: pack(np.arange(5), 2, out=np.empty(2, np.uint64)),
        lambda: pack(np.arange(5), 2, out=np.empty(3, np.int64)),
        lambda: unpack(np.empty(3, np.uint64), 7, 2),
        lambda: unpack(np.empty(3, np.int64), 5, 2),
        lambda: unpack(np.empty((3, 1), np.uint64), 5, 2),
        lambda: unpack(np.empty(3, np.uint64), 5, 2, out=np.empty(6, np.int64)),
        lambda: unpack(np.empty(3, np.uint64), 5, 2, out=np.empty(5)),
        lambda: pack_blocks(lambda _s, _b: None, np.empty(3, np.uint64), 5, 2, first=1),
        lambda: pack_blocks(lambda _s, _b: None, np.empty(1, np.uint64), 5, 2, first=-1),
    ],
)
def test_arrays_of_another_length_or_type_are_refused(call):
    with pytest.raises(InputError):
        call()
