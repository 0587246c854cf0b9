"""The constructions that protocols are made of, each in turn with what bounds it."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import SEED_SIZE, Mask, Masks, Suite
from protocols.primitives.shamir import combine, split
from protocols.secrets import Secret
from secagg.bench.measure import Interleaved
from secagg.bench.yardsticks import keystream

WORDS = 333_334  # 10**6 entries at three lanes a word
MASKS = 20

Measure = Callable[..., Interleaved]


@pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)
def test_mask_expansion(interleaved: Measure, benchmark: BenchmarkFixture, suite: Suite) -> None:
    words = np.zeros(WORDS, np.uint64)
    seeds = [Secret(os.urandom(SEED_SIZE)) for _ in range(MASKS)]

    def expand() -> None:
        masks = [
            Mask(seed=seed, label=b"bench", subtract=n % 2 == 0) for n, seed in enumerate(seeds)
        ]
        Masks(masks, suite).apply_to(words)

    size = 8 * MASKS * WORDS
    found = interleaved({"expand": expand, "raw": keystream(size)}, "expand", sizes={"masks": size})
    for name in ("expand", "raw"):
        rate = size / found.median(name) / 1e9
        benchmark.extra_info[f"{name}_gigabytes_a_second"] = round(rate, 2)


SIZES = pytest.mark.parametrize(("holders", "threshold"), [(100, 51), (500, 251)])


@SIZES
def test_shamir_split(interleaved: Measure, holders: int, threshold: int) -> None:
    secret = Secret(os.urandom(2 * SEED_SIZE))  # as in a round: seed and mask key at once
    interleaved(
        {"split": lambda: split(secret, threshold, holders, os.urandom)}, "split", beside="numpy"
    )


@SIZES
def test_shamir_rebuild_all(interleaved: Measure, holders: int, threshold: int) -> None:
    secrets = [Secret(os.urandom(SEED_SIZE)) for _ in range(holders)]
    shares = [split(secret, threshold, threshold, os.urandom) for secret in secrets]
    rows = [[share.expose() for share in row] for row in shares]

    def rebuild() -> Any:
        return combine(range(1, threshold + 1), rows)

    found = interleaved({"rebuild": rebuild}, "rebuild", beside="numpy")
    assert found.last["rebuild"] == secrets


def test_x25519_agreement(interleaved: Measure) -> None:
    mine, theirs = (PrivateKey(Secret(os.urandom(32))) for _ in range(2))
    interleaved({"agree": lambda: mine.agree(theirs.public, b"bench")}, "agree", beside="x25519")
