import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secagg.errors import InputError
from secagg.vectors.layout import Count, Layout, NoisyIntegers, Segment
from secagg.vectors.packing import lane_bits
from secagg.vectors.quantize import FixedPoint


def fixed(bits=16, clip=1.0, rounding="stochastic"):
    return FixedPoint(clip=clip, bits=bits, rounding=rounding)


def segment(name="update", entries=5, codec=None, **options):
    return Segment(name=name, entries=entries, codec=codec or fixed(), **options)


def layout(*segments, clients=10, **options):
    return Layout(segments=segments, clients=clients, **options)


def add(vectors, words):
    return sum(vectors, np.zeros(words, np.uint64))


@st.composite
def rounds(draw):
    """A layout, and what each client brings: update, weight, a metric and a clip bit."""
    entries = draw(st.integers(0, 12))
    clip = draw(st.sampled_from([0.1, 1.0, 37.5]) | st.floats(1e-3, 1e3))
    clients = draw(st.integers(1, 6))
    weights = draw(st.lists(st.integers(0, 500), min_size=clients, max_size=clients))
    heaviest = max(1, *weights)
    made = layout(
        segment("update", entries, fixed(draw(st.integers(2, 32)), clip), weighted=True),
        segment("weight", 1, Count(maximum=heaviest)),
        segment("loss", 1, fixed(20, 10.0, "nearest")),
        segment("clipped", 1, Count(maximum=1)),
        clients=clients,
        max_weight=heaviest,
    )
    float64 = st.floats(-2 * clip, 2 * clip)
    values = [
        {
            "update": draw(hnp.arrays(np.float64, entries, elements=float64)),
            "weight": weight,
            "loss": [draw(st.floats(0, 10))],
            "clipped": draw(st.booleans()),
        }
        for weight in weights
    ]
    return made, clip, values


@given(rounds())
def test_a_weighted_mean_is_exact_to_the_quantisation_step(case):
    made, clip, clients = case
    vectors = [made.encode(values, weight=values["weight"]) for values in clients]
    sums = made.decode(add(vectors, made.words))
    total = sum(values["weight"] for values in clients)
    assert sums["weight"].tolist() == [total]
    assert sums["clipped"].tolist() == [sum(values["clipped"] for values in clients)]
    assert abs(sums["loss"][0] - sum(values["loss"][0] for values in clients)) <= (
        len(clients) * 10.0 / (2**19 - 1)
    )
    if total:
        step = Fraction(clip) / made.segments[0].codec.levels
        exact = [
            sum(v["weight"] * Fraction(min(max(v["update"][i], -clip), clip)) for v in clients)
            for i in range(made.segments[0].entries)
        ]
        for found, expected in zip(sums["update"] / total, exact, strict=True):
            assert abs(Fraction(float(found)) - expected / total) < step


@given(rounds(), st.data())
def test_any_subset_of_clients_decodes_to_the_sum_of_its_integers(case, data):
    made, _, clients = case
    nearest = Layout(
        segments=tuple(
            Segment(name=s.name, entries=s.entries, codec=nearest_of(s.codec), weighted=s.weighted)
            for s in made.segments
        ),
        clients=made.clients,
        max_weight=made.max_weight,
    )
    alive = [values for values in clients if data.draw(st.booleans())]
    vectors = [nearest.encode(values, weight=values["weight"]) for values in alive]
    sums = nearest.decode(add(vectors, nearest.words))
    codec = nearest.segments[0].codec
    expected = sum(
        (v["weight"] * codec.quantize(v["update"]) for v in alive),
        np.zeros(nearest.segments[0].entries, np.int64),
    )
    assert (sums["update"] == codec.dequantize(expected)).all()


def nearest_of(codec):
    if isinstance(codec, Count):
        return codec
    return FixedPoint(clip=codec.clip, bits=codec.bits, rounding="nearest")


@pytest.mark.parametrize("bits", [2, 4, 8, 11, 16, 24, 32])
@pytest.mark.parametrize("sign", [-1, 1])
def test_all_clients_at_the_extreme_with_the_largest_weight_do_not_overflow(bits, sign):
    made = layout(segment(codec=fixed(bits), weighted=True), clients=1000, max_weight=10**6)
    one = made.encode({"update": np.full(5, 9.0 * sign)}, weight=10**6)
    sums = made.decode(one * np.uint64(1000))
    assert sums["update"] == pytest.approx([sign * 1e9] * 5, rel=1e-15)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**16))
def test_masks_that_cancel_leave_the_sum(mask, start):
    made = layout(segment(entries=100))
    masks = np.arange(start, start + made.words, dtype=np.uint64) * np.uint64(mask)
    one, other = (made.encode({"update": np.linspace(-1, end, 100)}) for end in (1, 0.5))
    hidden = (one + masks) + (other - masks)
    assert (made.decode(hidden)["update"] == made.decode(one + other)["update"]).all()


@pytest.mark.parametrize(
    ("clients", "weight", "codec", "lanes"),
    [
        (1, 1, Count(maximum=127), 8),
        (2, 1, Count(maximum=127), 7),
        (1000, 1, fixed(11), 3),
        (1026, 1, fixed(11), 2),
        (100, 500, fixed(16), 2),
        (2**31 + 1, 1, fixed(32), 1),
    ],
)
def test_lanes_are_the_most_that_hold_clients_times_weight_times_levels(
    clients, weight, codec, lanes
):
    made = layout(
        segment(entries=840, codec=codec, weighted=True), clients=clients, max_weight=weight
    )
    assert made.lanes == (lanes,)
    assert made.words == 840 // lanes


def test_a_short_segment_takes_the_room_that_its_words_leave():
    made = layout(segment(entries=1), segment("nine", 9, Count(maximum=1)), clients=2)
    assert made.lanes == (1, 5)  # nine entries in two words: five lanes of 12 bits, not eight of 8
    assert made.words == 3


@pytest.mark.parametrize(
    ("clients", "maximum", "lanes", "message"),
    [
        (3, 2**30, 2, "3 clients x 1073741824 does not fit a 32-bit lane"),
        (2, 2**62, None, "2 clients x 4611686018427387904 does not fit a 64-bit lane"),
        (2**32 - 1, 2**63 - 1, None, "does not fit a 64-bit lane"),
    ],
)
def test_overflow_is_an_exception_at_construction(clients, maximum, lanes, message):
    with pytest.raises(InputError, match=message):
        layout(segment(codec=Count(maximum=maximum), lanes=lanes), clients=clients)


def test_overflow_by_weight_alone_is_an_exception_at_construction():
    parts = segment(codec=fixed(32), weighted=True)
    with pytest.raises(InputError, match="10 clients x weight 4294967296 x 2147483647 does not"):
        layout(parts, max_weight=2**32)
    assert layout(segment(codec=fixed(32)), max_weight=2**32).lanes == (1,)


def test_lanes_asked_for_are_lanes_given():
    assert layout(segment(entries=100, lanes=2)).lanes == (2,)


def test_the_fused_path_equals_quantising_and_then_packing():
    entries = 3 * 2**15 * 2 + 1
    update = np.random.default_rng(0).normal(0, 1, entries).astype(np.float32)
    made = layout(segment(entries=entries, codec=fixed(11, rounding="nearest")), clients=1)
    codec = made.segments[0].codec
    found = made.decode(made.encode({"update": update}))["update"]
    assert (found == codec.dequantize(codec.quantize(update))).all()


def test_two_clients_with_one_input_round_differently():
    made = layout(segment(entries=1000))
    values = {"update": np.full(1000, 0.33333)}
    assert (made.encode(values) != made.encode(values)).any()


def test_two_segments_do_not_share_their_rounding():
    made = layout(segment("one", 1000), segment("two", 1000))
    sums = made.decode(made.encode({"one": [0.33333] * 1000, "two": [0.33333] * 1000}))
    assert (sums["one"] != sums["two"]).any()


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.5, -0.25], np.float16),
        np.array([0.5, -0.25], np.float32),
        [0.5, -0.25],
    ],
)
def test_arrays_and_sequences_are_taken(values):
    made = layout(segment(entries=2, codec=fixed(16, clip=32767 / 2**10)))
    assert made.decode(made.encode({"update": values}))["update"].tolist() == [0.5, -0.25]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tensors_are_taken(device):
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    values = torch.tensor([0.5, -0.25], dtype=torch.bfloat16, device=device, requires_grad=True)
    made = layout(segment(entries=2, codec=fixed(16, clip=32767 / 2**10)))
    assert made.decode(made.encode({"update": values}))["update"].tolist() == [0.5, -0.25]


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), [3], True + 2])
def test_one_entry_is_a_plain_number_too(value):
    made = layout(segment("count", 1, Count(maximum=3)))
    assert made.decode(made.encode({"count": value}))["count"].tolist() == [3]


def test_one_entry_is_a_tensor_of_no_dimension_too():
    import torch

    made = layout(segment("count", 1, Count(maximum=3)))
    assert made.decode(made.encode({"count": torch.tensor(3)}))["count"].tolist() == [3]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "missing or unknown: 'update'"),
        ({"update": [0.0] * 5, "loss": 1}, "missing or unknown: 'loss'"),
        ({"update": [0.0] * 4}, "'update' has 4 entries, the layout 5"),
        ({"update": np.zeros((5, 1))}, "'update' has shape"),
        ({"update": 0.5}, "'update' has shape"),
        ({"update": ["x"] * 5}, "'update' holds <U1"),
        ({"update": [0.0, 0.0, math.nan, 0.0, 0.0]}, "'update' is nan at entry 2"),
        ({"update": [0.0, 0.0, 0.0, -math.inf, 0.0]}, "'update' is -inf at entry 3"),
    ],
)
def test_what_does_not_fit_the_layout_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        layout(segment()).encode(values)


@pytest.mark.parametrize("value", [-1, 4, 2**63, 2**64, 1.0, math.nan, "1", None, [1, 1]])
def test_a_count_is_refused_rather_than_clamped(value):
    with pytest.raises(InputError, match="'count'"):
        layout(segment("count", 1, Count(maximum=3))).encode({"count": value})


@pytest.mark.parametrize("weight", [-1, 11, 1.0, True, math.nan, None, "1"])
def test_a_weight_that_is_no_integer_in_range_is_refused(weight):
    with pytest.raises(InputError, match="is not an integer from 0 to 10"):
        layout(segment(weighted=True), max_weight=10).encode({"update": [0.0] * 5}, weight=weight)


def test_a_weight_without_a_weighted_segment_is_refused():
    with pytest.raises(InputError, match="no segment is weighted"):
        layout(segment(), max_weight=10).encode({"update": [0.0] * 5}, weight=2)


def test_weight_zero_adds_nothing_and_still_checks_the_vector():
    made = layout(segment(weighted=True))
    assert not made.encode({"update": [0.7] * 5}, weight=0).any()
    with pytest.raises(InputError, match="is nan"):
        made.encode({"update": [math.nan] * 5}, weight=0)


@pytest.mark.parametrize(
    "words", [np.zeros(2, np.uint64), np.zeros(3, np.int64), np.zeros((3, 1), np.uint64)]
)
def test_words_of_another_length_or_type_are_not_decoded(words):
    made = layout(segment(entries=5, lanes=2))
    assert made.words == 3
    with pytest.raises(InputError, match="cannot decode"):
        made.decode(words)


def test_words_that_no_sum_can_give_are_refused():
    made = layout(segment(entries=30), segment("clipped", 1, Count(maximum=1)))
    words = made.encode({"update": [0.1] * 30, "clipped": 1})
    for place, wrong in [(0, np.uint64(2**62)), (-1, np.uint64(2**64 - 2))]:
        spoiled = words.copy()
        spoiled[place] += wrong
        with pytest.raises(InputError, match="no sum of this layout's vectors"):
            made.decode(spoiled)


def test_one_sum_of_more_clients_than_planned_is_refused():
    made = layout(segment(entries=1), clients=3)
    one = made.encode({"update": [1.0]})
    made.decode(one * np.uint64(3))
    with pytest.raises(InputError, match="no sum of"):
        made.decode(one * np.uint64(4))


def test_no_segments_and_empty_segments_are_no_words():
    assert layout().encode({}).shape == (0,)
    made = layout(segment(entries=0), segment("count", 0, Count(maximum=1)))
    assert made.words == 0
    sums = made.decode(made.encode({"update": [], "count": []}))
    assert [(v.shape, v.dtype) for v in sums.values()] == [((0,), "f8"), ((0,), "i8")]


CODECS = st.builds(
    FixedPoint,
    clip=st.sampled_from([1.0, 1.5, 2.0]),
    bits=st.integers(2, 8),
    rounding=st.sampled_from(["stochastic", "nearest"]),
) | st.builds(Count, maximum=st.integers(1, 3))
SEGMENTS = st.builds(
    Segment,
    name=st.text("ab\0\x01", min_size=1, max_size=3),
    entries=st.integers(0, 3),
    codec=CODECS,
    weighted=st.booleans(),
    lanes=st.sampled_from([None, 1, 2]),
) | st.builds(
    Segment,
    name=st.text("ab", min_size=1, max_size=2),
    entries=st.integers(0, 3),
    codec=st.builds(NoisyIntegers, bits=st.integers(2, 4)),
)
LAYOUTS = st.builds(
    Layout,
    segments=st.lists(SEGMENTS, max_size=3, unique_by=lambda s: s.name).map(tuple),
    clients=st.integers(1, 3),
    max_weight=st.integers(1, 3),
)


@given(LAYOUTS, LAYOUTS)
def test_two_layouts_are_equal_if_and_only_if_their_bytes_are(one, other):
    assert (one == other) == (one.to_bytes() == other.to_bytes())


@given(LAYOUTS, st.data())
def test_a_change_of_any_field_changes_the_bytes(one, data):
    changed = [
        Layout(segments=one.segments, clients=one.clients + 1, max_weight=one.max_weight),
        Layout(segments=one.segments, clients=one.clients, max_weight=one.max_weight + 1),
        Layout(
            segments=(*one.segments, segment("more", 0)),
            clients=one.clients,
            max_weight=one.max_weight,
        ),
    ]
    assert len({made.to_bytes() for made in [one, *changed]}) == 4
    if len(one.segments) > 1:
        swapped = Layout(
            segments=one.segments[::-1], clients=one.clients, max_weight=one.max_weight
        )
        assert swapped.to_bytes() != one.to_bytes()


def test_the_bytes_of_a_layout_are_its_struct():
    made = layout(
        segment("u", 5, fixed(11, 2.0), weighted=True),
        segment("n", 1, Count(maximum=7), lanes=1),
        clients=3,
        max_weight=9,
    )
    assert made.to_bytes() == bytes.fromhex(
        "736563616767206c61796f7574203120 00000003 0000000000000009 00000002"
        "0001 75 0000000000000005 01 00 03 01 4000000000000000 0b 00"
        "0001 6e 0000000000000001 00 01 01 02 0000000000000007"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: segment(""),
        lambda: segment("x" * 2**16),
        lambda: segment(entries=-1),
        lambda: segment(entries=2.0),
        lambda: segment(entries=True),
        lambda: segment(lanes=0),
        lambda: segment(lanes=9),
        lambda: segment(codec="int"),
        lambda: Count(maximum=0),
        lambda: Count(maximum=2**63),
        lambda: Count(maximum=1.0),
        lambda: layout(segment(), clients=0),
        lambda: layout(segment(), clients=2.0),
        lambda: layout(segment(), max_weight=0),
        lambda: layout(segment(), segment()),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_every_lane_count_is_reached_by_some_layout():
    reached = {
        layout(
            segment(entries=840, codec=Count(maximum=2 ** (lane_bits(n) - 1) - 1)), clients=1
        ).lanes[0]
        for n in range(1, 9)
    }
    assert reached == set(range(1, 9))


@given(st.data(), st.integers(2, 64), st.integers(1, 6))
def test_noised_totals_decode_exactly_though_one_client_is_far_outside(data, bits, clients):
    """Only the total must fit its lane: one client's integers may wrap, and cancel again."""
    entries = data.draw(st.integers(1, 9))
    made = layout(segment(entries=entries, codec=NoisyIntegers(bits=bits)), clients=clients)
    any_int = hnp.arrays(np.int64, entries, elements=st.integers(-(2**62), 2**62))
    shares = [data.draw(any_int) for _ in range(clients - 1)]
    half = 2 ** (bits - 1)
    total = data.draw(hnp.arrays(np.int64, entries, elements=st.integers(-half, half - 1)))
    shares.append(total - sum(shares, np.zeros(entries, np.int64)))
    words = add([made.encode({"update": share}) for share in shares], made.words)
    assert np.array_equal(made.decode(words)["update"], total)


def test_a_noised_total_outside_wraps_and_nothing_raises():
    made = layout(segment(entries=1, codec=NoisyIntegers(bits=64)), clients=2)
    words = made.encode({"update": np.array([2**63 - 1])})
    assert made.decode(words + np.uint64(1))["update"] == -(2**63)


def test_noised_integers_are_never_weighted():
    with pytest.raises(InputError, match="scale the noise"):
        segment(codec=NoisyIntegers(bits=16), weighted=True)


@pytest.mark.parametrize("values", [[0.5], [True], np.array([1], np.int32), np.array([1], "u8")])
def test_noised_integers_are_int64_and_nothing_else(values):
    with pytest.raises(InputError):
        layout(segment(entries=1, codec=NoisyIntegers(bits=16))).encode({"update": values})


@pytest.mark.parametrize("bits", [1, 65, 16.0, True])
def test_bits_of_a_noised_total_are_2_to_64(bits):
    with pytest.raises(InputError, match="bits"):
        NoisyIntegers(bits=bits)


def test_lanes_too_narrow_for_the_noised_total_are_refused():
    with pytest.raises(InputError, match="20 bits does not fit a 16-bit lane"):
        layout(segment(codec=NoisyIntegers(bits=20), lanes=4))


@given(rounds())
def test_reals_add_up_to_the_weighted_totals(case):
    made, clip, values = case
    vectors = [made.encode_reals(value, weight=value["weight"]) for value in values]
    assert all(np.abs(vector).max(initial=0) <= 1 for vector in vectors)
    found = made.decode_reals(sum(vectors, np.zeros(made.reals)))
    update = sum(
        (value["weight"] * np.clip(value["update"], -clip, clip) for value in values),
        np.zeros(len(values[0]["update"])),
    )
    heaviest = made.max_weight
    assert found["update"] == pytest.approx(update, rel=1e-9, abs=1e-9 * clip * heaviest)
    assert found["weight"] == sum(value["weight"] for value in values)
    assert found["clipped"] == sum(value["clipped"] for value in values)


@given(st.data(), st.integers(2, 40), st.integers(1, 6))
def test_noised_integers_come_back_exactly_from_a_sum_that_is_off_by_less_than_half(
    data, bits, clients
):
    made = layout(segment(entries=3, codec=NoisyIntegers(bits=bits)), clients=clients)
    half = 2 ** (bits - 1)
    any_int = hnp.arrays(np.int64, 3, elements=st.integers(-(2**62), 2**62))
    shares = [data.draw(any_int) for _ in range(clients - 1)]
    expected = data.draw(hnp.arrays(np.int64, 3, elements=st.integers(-half, half - 1)))
    shares.append(expected - sum(shares, np.zeros(3, np.int64)))  # one client is far outside
    off = data.draw(st.floats(-0.45, 0.45)) / half
    total = sum(made.encode_reals({"update": share}) for share in shares)
    assert np.array_equal(made.decode_reals(total + off)["update"], expected)


def test_reals_refuse_what_words_refuse():
    made = layout(
        segment("u", 2), segment("n", 1, Count(maximum=3)), segment("x", 1, NoisyIntegers(bits=4))
    )
    good = {"u": [0.5, -2.0], "n": [3], "x": [-8]}
    assert made.encode_reals(good).tolist() == [0.5, -1.0, 1.0, -1.0]
    assert made.encode_reals(good | {"x": [9]})[-1] == -7 / 8  # wraps: nothing raises after noise
    for bad in (
        {"u": [math.nan, 0]},
        {"u": [0.0]},
        {"n": [4]},
        {"n": [-1]},
        {"y": [1]},
    ):
        with pytest.raises(InputError):
            made.encode_reals(good | bad)
    for total in (np.zeros(3), np.zeros(4, np.float32), np.array([0, 0, math.inf, 0])):
        with pytest.raises(InputError):
            made.decode_reals(total)
