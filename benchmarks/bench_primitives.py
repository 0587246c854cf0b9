"""The constructions that protocols are made of, each beside what bounds it.

The speed of a machine swings from minute to minute, so figures that are compared
are measured in turn, A B A B, in one process; ``extra_info`` holds the ratios.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from pytest_benchmark.fixture import BenchmarkFixture

from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import CHUNK_WORDS, SEED_SIZE, Mask, Masks, Suite
from protocols.primitives.shamir import combine, split
from protocols.secrets import Secret

WORDS = 333_334  # 10**6 entries at three lanes a word
MASKS = 20


def in_turn(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of each, measured alternately."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for step, kept in itertools.islice(
        itertools.cycle(zip((first, second), seconds, strict=True)), 42
    ):
        begin = time.perf_counter()
        step()
        kept.append(time.perf_counter() - begin)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


def raw_keystream() -> Callable[[], None]:
    """As many bytes of AES-128-CTR keystream as the masks take, and nothing else."""
    update = Cipher(algorithms.AES(os.urandom(16)), modes.CTR(os.urandom(16))).encryptor()
    zeros, out = bytes(8 * CHUNK_WORDS), bytearray(8 * CHUNK_WORDS)
    chunks = -(-MASKS * WORDS // CHUNK_WORDS)

    def run() -> None:
        for _ in range(chunks):
            update.update_into(zeros, out)

    return run


@pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)
def test_mask_expansion(benchmark: BenchmarkFixture, suite: Suite) -> None:
    words = np.zeros(WORDS, np.uint64)
    seeds = [Secret(os.urandom(SEED_SIZE)) for _ in range(MASKS)]

    def expand() -> None:
        masks = [
            Mask(seed=seed, label=b"bench", subtract=n % 2 == 0) for n, seed in enumerate(seeds)
        ]
        Masks(masks, suite).apply_to(words)

    raw, expanded = in_turn(raw_keystream(), expand)
    benchmark(expand)
    benchmark.extra_info["rate_over_raw_aes_128_ctr"] = round(raw / expanded, 3)
    benchmark.extra_info["gigabytes_a_second"] = round(8 * MASKS * WORDS / expanded / 1e9, 2)
    benchmark.extra_info["raw_gigabytes_a_second"] = round(8 * MASKS * WORDS / raw / 1e9, 2)


SIZES = pytest.mark.parametrize(("holders", "threshold"), [(100, 51), (500, 251)])


@SIZES
def test_shamir_split(benchmark: BenchmarkFixture, holders: int, threshold: int) -> None:
    secret = Secret(os.urandom(2 * SEED_SIZE))  # as in a round: seed and mask key at once
    benchmark(split, secret, threshold, holders, os.urandom)


@SIZES
def test_shamir_rebuild_all(benchmark: BenchmarkFixture, holders: int, threshold: int) -> None:
    secrets = [Secret(os.urandom(SEED_SIZE)) for _ in range(holders)]
    shares = [split(secret, threshold, threshold, os.urandom) for secret in secrets]
    rows = [[share.expose() for share in row] for row in shares]
    rebuilt = benchmark(combine, range(1, threshold + 1), rows)
    assert rebuilt == secrets


def test_x25519_agreement(benchmark: BenchmarkFixture) -> None:
    mine, theirs = (PrivateKey(Secret(os.urandom(32))) for _ in range(2))
    benchmark(mine.agree, theirs.public, b"bench")
