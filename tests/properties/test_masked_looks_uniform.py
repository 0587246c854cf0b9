"""A masked vector looks like noise, whatever the input; entropy is fixed, so no test flickers."""

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params
from protocols.primitives.prg import Suite
from protocols.testing import agreement_of, insecure_entropy, masked_words, played

WORDS = 2**16
INPUTS = {
    "zeros": np.zeros(WORDS, np.uint64),
    "ones": np.full(WORDS, 2**64 - 1, np.uint64),
    "count": np.arange(WORDS, dtype=np.uint64),
}
CASES = pytest.mark.parametrize("name", INPUTS)
SUITES = pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)


def masked(words: NDArray[np.uint64], suite: Suite, seed: str = "") -> NDArray[np.uint64]:
    """One client's masked vector and check word, among three."""
    agreement = agreement_of(Params(clients=3, threshold=2, words=WORDS, suite=suite))
    made = played(
        agreement,
        dict.fromkeys((1, 2, 3), words),
        "survivors",
        entropy=lambda client: insecure_entropy((seed, client)),
    )
    return masked_words(agreement, made.frames[2])


def far_from_uniform(counts: NDArray[np.int64]) -> float:
    """Chi-square of ``counts`` against equal ones, in standard deviations above its mean."""
    expected = counts.sum() / len(counts)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(counts) - 1
    return float((chi_square - freedom) / np.sqrt(2 * freedom))


@SUITES
@CASES
def test_every_byte_of_a_word_is_uniform(name: str, suite: Suite) -> None:
    words = masked(INPUTS[name], suite)
    for place in words.astype("<u8").view(np.uint8).reshape(-1, 8).T:
        assert abs(far_from_uniform(np.bincount(place, minlength=256))) < 5


@SUITES
@CASES
def test_low_bits_and_their_neighbours_are_uniform(name: str, suite: Suite) -> None:
    words = masked(INPUTS[name], suite)
    low = (words & np.uint64(0xF)).astype(np.int64)
    assert abs(far_from_uniform(np.bincount(low, minlength=16))) < 5
    pairs = 16 * low[:-1] + low[1:]
    assert abs(far_from_uniform(np.bincount(pairs, minlength=256))) < 5
    bits = (words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    ones = bits.sum(axis=0).astype(np.int64)
    assert np.abs(ones - len(words) / 2).max() < 5 * np.sqrt(len(words)) / 2


@SUITES
def test_the_check_word_does_not_show(suite: Suite) -> None:
    last = {int(masked(INPUTS["zeros"], suite, seed=str(seed))[-1]) for seed in range(4)}
    assert len(last) == 4
    assert min(last) > 2**32


def test_the_test_itself_notices_an_input_that_is_not_masked() -> None:
    for words in INPUTS.values():
        place = words.astype("<u8").view(np.uint8).reshape(-1, 8).T[2]
        assert far_from_uniform(np.bincount(place, minlength=256)) > 1000
