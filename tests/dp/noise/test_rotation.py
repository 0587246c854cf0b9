import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp.errors import InputError
from dp.noise import rotation
from dp.noise.rotation import MAX_ENTRIES, backward, entry_error, forward, padded_size

SEED = bytes(range(16))
vectors = st.tuples(st.integers(1, 5000), st.integers(0, 2**32)).map(
    lambda pair: np.random.default_rng(pair[1]).normal(size=pair[0])
)


@pytest.mark.parametrize("order", [1, 2, 12, 20, 24, 40, 80, 96, 128])
def test_every_factor_is_a_hadamard_matrix(order):
    matrix = rotation._matrix(order, "d")
    assert set(np.unique(matrix)) <= {-1.0, 1.0}
    assert (matrix @ matrix.T == order * np.eye(order)).all()


@pytest.mark.parametrize(
    ("entries", "size"),
    [
        (1, 1),
        (3, 4),
        (9, 12),
        (13, 16),
        (17, 20),
        (130, 144),
        (390, 400),
        (650, 768),
        (900, 960),
        (2**20, 2**20),
        (10**6, 2**20),
        (2**28, 2**28),
    ],
)
def test_padding_ends_at_the_next_known_order(entries, size):
    assert padded_size(entries) == size


def test_padding_is_eight_percent_on_average_over_all_magnitudes():
    lengths = np.exp(np.random.default_rng(1).uniform(np.log(16), np.log(2**24), 5000)).astype(int)
    ratios = [padded_size(int(length)) / length for length in lengths]
    assert np.mean(ratios) == pytest.approx(1.08, abs=0.005)
    assert max(ratios) < 4 / 3


@given(st.integers(1, MAX_ENTRIES))
def test_the_factors_of_any_size_multiply_to_it_and_none_is_above_128(entries):
    size = padded_size(entries)
    orders = rotation._orders(size)
    assert np.prod(orders, dtype=np.int64) == size
    assert max(orders, default=1) <= 128
    assert sum(n**1.5 for n in orders) < 2**13  # what FLOAT64_ERROR counts on


@settings(deadline=None, max_examples=50)
@given(vectors)
def test_a_rotation_keeps_the_norm_and_goes_back(vector):
    rotated = forward(vector, seed=SEED)
    assert rotated.shape == (padded_size(len(vector)),)
    assert np.linalg.norm(rotated) == pytest.approx(np.linalg.norm(vector), rel=1e-12)
    assert backward(rotated, len(vector), seed=SEED) == pytest.approx(vector, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(vectors)
def test_single_precision_errs_by_less_than_is_stated(vector):
    vector = vector.astype(np.float32)
    exact = forward(vector.astype(np.float64), seed=SEED)
    single = forward(vector, seed=SEED)
    assert single.dtype == np.float32
    norm = np.linalg.norm(vector.astype(np.float64))
    assert np.abs(single - exact).max() <= entry_error(len(exact)) * norm


@pytest.mark.parametrize("entries", [16, 650, 4096, 5000])
def test_a_spike_is_spread_evenly_over_the_whole_vector(entries):
    vector = np.zeros(entries)
    vector[entries // 2] = 3.0
    size = padded_size(entries)
    assert np.abs(forward(vector, seed=SEED)) == pytest.approx(np.full(size, 3 / size**0.5))


def test_another_seed_turns_another_way():
    vector = np.ones(4096)
    one, other = (forward(vector, seed=bytes([i]) * 16) for i in (1, 2))
    # A vector that a fixed matrix would map to one spike: only the signs spread it.
    assert max(np.abs(one).max(), np.abs(other).max()) < 6
    assert abs(one @ other) < 0.15 * 4096


@pytest.mark.parametrize("entries", [0, -1, 1.0, True, MAX_ENTRIES + 1])
def test_a_length_out_of_range_is_refused(entries):
    with pytest.raises(InputError, match="entries"):
        padded_size(entries)


def test_a_short_seed_and_a_wrong_shape_are_refused():
    with pytest.raises(InputError, match="seed"):
        forward(np.ones(4), seed=b"short")
    with pytest.raises(InputError, match="shape"):
        backward(np.ones(5), 5, seed=SEED)
