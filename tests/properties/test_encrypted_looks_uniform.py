"""A vector encrypted on coefficients looks like noise, whatever it is; entropy is fixed."""

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.ckks import Coefficients
from protocols.ckks.client import encrypt
from protocols.ckks.keys import SharedKey
from protocols.ckks.params import Agreement, Params
from protocols.secrets import Secret
from protocols.testing import insecure_entropy, played_key, small_ckks, small_threshold

ENTRIES = 16 * 4088
INPUTS = {
    "zeros": np.zeros(ENTRIES, np.uint64),
    "ones": np.full(ENTRIES, 2**64 - 1, np.uint64),
    "count": np.arange(ENTRIES, dtype=np.uint64) << np.uint64(40),
}
RING = Coefficients(messages=4, kept=8)


def encrypted(model: str, words: NDArray[np.uint64], seed: str = "") -> NDArray[np.uint64]:
    """The words of an upload: c0 of every polynomial, and c1 where it is sent."""
    make = small_threshold if model == "threshold" else small_ckks
    params: Params = make(entries=ENTRIES, ring=RING)
    agreement = Agreement(params=params, session=bytes(16), public_digest=bytes(32))
    if model == "threshold":
        key = played_key(agreement, (1, 2, 3, 4), "openings").key
    else:
        key = SharedKey(agreement, Secret(bytes(range(32))))
    frames = encrypt(agreement, 1, key, words, entropy=insecure_entropy(("upload", seed)))
    seed_size = 0 if model == "threshold" else 32
    parts = [np.frombuffer(frame[62 + seed_size : -16], "<u8") for frame in frames]
    return np.concatenate(parts)


def far_from_uniform(counts: NDArray[np.int64]) -> float:
    """Chi-square of ``counts`` against equal ones, in standard deviations above its mean."""
    expected = counts.sum() / len(counts)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(counts) - 1
    return float((chi_square - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("model", ["threshold", "shared"])
@pytest.mark.parametrize("name", INPUTS)
def test_every_byte_of_a_ciphertext_is_uniform(name: str, model: str) -> None:
    words = encrypted(model, INPUTS[name])
    for place in words.view(np.uint8).reshape(-1, 8).T:
        assert abs(far_from_uniform(np.bincount(place, minlength=256))) < 5


@pytest.mark.parametrize("model", ["threshold", "shared"])
def test_two_uploads_of_one_vector_have_nothing_in_common(model: str) -> None:
    """Nor have the polynomials of one upload that share a c1."""
    one, other = (encrypted(model, INPUTS["zeros"], seed) for seed in ("one", "other"))
    for left, right in ((one, other), (one[:-4096], one[4096:])):
        for found in (left - right, left + right):
            for place in found.view(np.uint8).reshape(-1, 8).T:
                assert abs(far_from_uniform(np.bincount(place, minlength=256))) < 5
