"""What is sent of a vector adds up, is without bias, and is the same for all clients or nothing."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import Bonawitz, Ckks, FixedPoint, InputError, NoisyIntegers, aggregate
from secagg.vectors.compress import MOST, NOTHING, SEED_SIZE, Compress

SEED = bytes(range(SEED_SIZE))


def compressions() -> st.SearchStrategy[Compress]:
    return st.builds(Compress, one_in=st.integers(1, 20), rotate=st.booleans())


@given(
    compress=compressions(),
    entries=st.integers(0, 300),
    seed=st.binary(min_size=SEED_SIZE, max_size=SEED_SIZE),
)
def test_the_map_of_a_sum_is_the_sum_of_the_maps(
    compress: Compress, entries: int, seed: bytes
) -> None:
    rng = np.random.default_rng(entries)
    vectors = rng.normal(size=(3, entries))
    maps = [compress.forward(vector, seed=seed) for vector in vectors]
    assert all(each.shape == (compress.size(entries),) for each in maps)
    together = compress.forward(vectors.sum(axis=0), seed=seed)
    assert np.allclose(np.sum(maps, axis=0), together, atol=1e-12)


@given(compress=compressions(), entries=st.integers(1, 300))
def test_what_comes_back_maps_to_what_was_sent(compress: Compress, entries: int) -> None:
    """It is the estimate of least surprise: where something was sent it is that, times one_in."""
    vector = np.random.default_rng(entries).normal(size=entries)
    sent = compress.forward(vector, seed=SEED)
    back = compress.backward(sent, entries, seed=SEED)
    if compress.one_in == 1:
        assert np.allclose(back, vector, atol=1e-12)
    elif not compress.rotate:
        found = back != 0
        assert np.array_equal(back[found], compress.one_in * vector[found])
        assert np.count_nonzero(found) >= entries // compress.one_in


@pytest.mark.parametrize("compress", [Compress(one_in=4), Compress(one_in=3, rotate=True)])
def test_the_estimate_is_without_bias_and_has_the_squared_error_that_is_said(
    compress: Compress,
) -> None:
    rng = np.random.default_rng(1)
    vector, tries = rng.normal(size=50), 4000
    errors = np.array(
        [
            compress.backward(compress.forward(vector, seed=seed), 50, seed=seed) - vector
            for seed in (rng.bytes(SEED_SIZE) for _ in range(tries))
        ]
    )
    squared = (errors**2).sum(axis=1).mean()
    norm = float(vector @ vector)
    assert squared < 1.1 * (compress.one_in - 1) * norm
    if not compress.rotate:  # some of it lies in what was padded
        assert squared == pytest.approx((compress.one_in - 1) * norm, rel=0.1)
    # Entry by entry: six deviations of a mean of so many.
    assert np.all(np.abs(errors.mean(axis=0)) < 6 * errors.std(axis=0) / tries**0.5 + 1e-12)


def test_every_entry_is_sent_as_often_as_every_other() -> None:
    """Of whole blocks, and of the last one, which reaches beyond the end."""
    rng, tries = np.random.default_rng(2), 6000
    counts = np.zeros(11)
    for _ in range(tries):
        ones = Compress(one_in=4)
        seed = rng.bytes(SEED_SIZE)
        counts += ones.backward(ones.forward(np.ones(11), seed=seed), 11, seed=seed) > 0
    deviation = (tries * 0.25 * 0.75) ** 0.5
    assert np.all(np.abs(counts - tries / 4) < 6 * deviation)


def test_few_bits_keep_a_rotated_vector_where_they_lose_a_plain_one() -> None:
    """One entry of size 1 among 10,000: of 2 bits a plain clip of 1 leaves only noise."""
    vector = np.random.default_rng(3).normal(scale=0.01, size=10_000)
    vector[7] = 10.0
    errors = {}
    for rotate in (False, True):
        compress = Compress(rotate=rotate)
        sent = compress.forward(vector, seed=SEED)
        codec = FixedPoint(clip=float(np.abs(sent).max()), bits=2)
        got = codec.dequantize(codec.quantize(sent))
        back = compress.backward(got, len(vector), seed=SEED)
        errors[rotate] = float(np.linalg.norm(back - vector))
    assert errors[True] < errors[False] / 2


@pytest.mark.parametrize(
    "protocol", [Bonawitz(), Ckks(), Bonawitz(active=True)], ids=["masks", "ckks", "active"]
)
@pytest.mark.parametrize("compress", [Compress(one_in=4), Compress(rotate=True)], ids=str)
def test_a_sum_is_the_estimate_of_the_sum(compress: Compress, protocol: Any) -> None:
    rng = np.random.default_rng(4)
    updates = [{"a": rng.normal(size=(9, 7)), "b": rng.normal(size=5)} for _ in range(4)]
    found = aggregate(updates, clip=8.0, compress=compress, protocol=protocol, dropouts={3: "mask"})
    assert found.survivors == (0, 1, 2)
    step = 8.0 / (2**15 - 1)
    for name, size in (("a", 63), ("b", 5)):
        true = sum(update[name] for update in updates[:3]).reshape(-1)
        got = found.sum[name].reshape(-1)
        assert found.sum[name].shape == updates[0][name].shape
        if compress.one_in == 1:
            assert np.abs(got - true).max() < 3 * step * size**0.5
        else:
            there = got != 0
            assert np.abs(got[there] - 4 * true[there]).max() < 3 * 4 * step
            assert size // 4 <= np.count_nonzero(there) <= -(-size // 4)


def test_a_start_moves_where_entries_were_sent_alone() -> None:
    start = np.linspace(-1, 1, 40)
    found = aggregate([start + 0.5] * 3, clip=1.0, start=start, compress=Compress(one_in=8))
    moved = found.mean - start
    assert np.count_nonzero(moved) == 5
    assert moved[moved != 0] == pytest.approx(8 * 0.5, abs=8e-3)


def test_weights_and_counts_are_summed_whole() -> None:
    updates = [
        {"w": np.full(16, 0.5), "n": np.arange(16)},
        {"w": np.zeros(16), "n": np.ones(16, int)},
    ]
    found = aggregate(updates, clip=1.0, counts="n", weights=[3, 1], compress=Compress(one_in=4))
    assert found.weight == 4
    assert found.sum["n"].tolist() == (np.arange(16) + 1).tolist()
    assert np.count_nonzero(found.mean["w"]) == 4


def test_fewer_bytes_travel() -> None:
    updates = [np.zeros(80_000) for _ in range(3)]
    whole, eighth = (
        sum(
            cost.bytes_up for cost in aggregate(updates, clip=1.0, compress=compress).costs.values()
        )
        for compress in (NOTHING, Compress(one_in=8))
    )
    assert Fraction(whole, eighth) > Fraction(15, 2)


def test_two_sums_never_have_one_seed_and_no_two_arrays_the_same_places() -> None:
    update = {"a": np.ones(64), "b": np.ones(64)}
    seen = set()
    for _ in range(4):
        found = aggregate([update] * 2, clip=1.0, compress=Compress(one_in=8)).sum
        seen |= {tuple(np.flatnonzero(found[name])) for name in found}
    assert len(seen) == 8


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("compress", [Compress(one_in=8), Compress(rotate=True)], ids=str)
def test_an_entry_that_is_not_sent_is_refused_too_if_it_is_not_finite(
    bad: float, compress: Compress
) -> None:
    for place in range(16):
        update = np.zeros(16)
        update[place] = bad
        with pytest.raises(InputError, match=f"client 1: .*entry {place}"):
            aggregate([np.zeros(16), update], clip=1.0, compress=compress)


def test_integers_with_noise_are_not_sampled() -> None:
    noisy = [np.arange(8)] * 3
    with pytest.raises(InputError, match="compress is of floats"):
        aggregate(noisy, codec=NoisyIntegers(bits=16), compress=Compress(one_in=2))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", NOTHING),
        ("1/8", Compress(one_in=8)),
        ("rotate", Compress(rotate=True)),
        ("rotate 1/1024", Compress(one_in=MOST, rotate=True)),
    ],
)
def test_a_text_says_it(text: str, expected: Compress) -> None:
    assert Compress.parse(text) == expected
    assert str(expected) == text


@given(compress=st.builds(Compress, one_in=st.integers(1, MOST), rotate=st.booleans()))
def test_what_is_written_is_read(compress: Compress) -> None:
    assert Compress.parse(str(compress)) == compress


@given(text=st.one_of(st.text(), st.from_regex(r"(rotate ?)?(1/)?[0-9 ]{0,6}", fullmatch=True)))
@settings(max_examples=300)
def test_another_text_is_refused(text: str) -> None:
    try:
        found = Compress.parse(text)
    except InputError:
        return
    assert str(found) == text


@pytest.mark.parametrize("text", ["top-k", "error-feedback"])
def test_what_is_unsound_is_refused_by_name(text: str) -> None:
    with pytest.raises(InputError, match=f"{text} is unsound under a sum: "):
        Compress.parse(text)


@pytest.mark.parametrize("one_in", [0, -1, MOST + 1, 2.0, True, "8"])
def test_a_share_out_of_range_is_refused(one_in: Any) -> None:
    with pytest.raises(InputError, match="one_in"):
        Compress(one_in=one_in)


def test_a_seed_or_a_sum_of_another_size_is_refused() -> None:
    compress = Compress(one_in=4)
    with pytest.raises(InputError, match="31 bytes"):
        compress.forward(np.zeros(9), seed=bytes(31))
    with pytest.raises(InputError, match=r"shape \(4,\), 9 entries are \(3,\)"):
        compress.backward(np.zeros(4), 9, seed=SEED)
