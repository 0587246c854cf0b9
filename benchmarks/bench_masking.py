"""Masks on one core against raw AES, and two workers against two raw AES processes.

The speed of a machine swings from minute to minute, and a core that somebody else takes
halves what two processes reach: everything compared is measured in turn, A B C D A B C D,
and ``extra_info`` holds medians of ratios taken within a turn. Aims: ``rate_over_raw``
at least .65, ``speedup_over_raw_speedup`` at least .85. Where ``raw_speedup`` is far below 2,
somebody else had a core, and the second figure says little.
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from protocols.primitives.prg import CHUNK_WORDS, SEED_SIZE, Mask, Suite
from protocols.secrets import Secret
from secagg.masking import MaskPool, serial

WORDS = 10**6
AES = Suite.AES_128_CTR
TURNS = 21
RAW = f"""
import os, sys
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
cipher = Cipher(algorithms.AES(os.urandom(16)), modes.CTR(os.urandom(16))).encryptor()
zeros, out = bytes({8 * CHUNK_WORDS}), bytearray({8 * CHUNK_WORDS})
print(flush=True)
for line in sys.stdin:
    for _ in range(int(line)):
        cipher.update_into(zeros, out)
    print(flush=True)
"""


class Raw:
    """Processes that make AES-128-CTR keystream, a chunk at a time, and nothing else."""

    def __init__(self, processes: int) -> None:
        command = [sys.executable, "-c", RAW]
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(processes)
        ]
        self._wait(processes)

    def make(self, words: int, processes: int) -> None:
        chunks = -(-words // (CHUNK_WORDS * processes))
        for process in self.processes[:processes]:
            assert process.stdin is not None
            process.stdin.write(b"%d\n" % chunks)
            process.stdin.flush()
        self._wait(processes)

    def _wait(self, processes: int) -> None:
        for process in self.processes[:processes]:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"

    def close(self) -> None:
        for process in self.processes:
            process.communicate()


@pytest.fixture(scope="module")
def raw() -> Iterator[Raw]:
    raw = Raw(2)
    yield raw
    raw.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[MaskPool]:
    with MaskPool(2) as pool:
        yield pool


def seconds(*steps: Callable[[], object]) -> Iterator[list[float]]:
    """What each step takes, turn by turn; the first turn warms up."""
    for turn in range(TURNS + 1):
        times = [time.perf_counter()]
        for step in steps:
            step()
            times.append(time.perf_counter())
        if turn:
            yield [end - begin for begin, end in itertools.pairwise(times)]


@pytest.mark.parametrize(("count", "words"), [(30, WORDS), (100, WORDS), (30, 10 * WORDS)])
def test_two_processes(
    benchmark: BenchmarkFixture, raw: Raw, pool: MaskPool, count: int, words: int
) -> None:
    masks = [
        Mask(seed=Secret(os.urandom(SEED_SIZE)), label=b"bench", subtract=number % 2 == 0)
        for number in range(count)
    ]
    vector = np.zeros(words, np.uint64)
    turns = list(
        seconds(
            lambda: raw.make(count * words, 1),
            lambda: raw.make(count * words, 2),
            lambda: serial(vector, masks, AES),
            lambda: pool(vector, masks, AES),
        )
    )
    benchmark(pool, vector, masks, AES)
    one, two, alone, pooled = map(statistics.median, zip(*turns, strict=True))
    benchmark.extra_info |= {
        "raw_gigabytes_a_second": round(8 * count * words / one / 1e9, 2),
        "serial_ms": round(1e3 * alone, 2),
        "pool_ms": round(1e3 * pooled, 2),
        "raw_two_ms": round(1e3 * two, 2),
        "rate_over_raw": median(one / alone for one, _, alone, _ in turns),
        "raw_speedup": median(one / two for one, two, _, _ in turns),
        "speedup": median(alone / pooled for _, _, alone, pooled in turns),
        "speedup_over_raw_speedup": median(
            (alone / pooled) / (one / two) for one, two, alone, pooled in turns
        ),
    }


def median(ratios: Iterator[float]) -> float:
    return round(statistics.median(ratios), 3)


@pytest.mark.parametrize("count", [100, 1000, 10_000])
def test_short_vectors(benchmark: BenchmarkFixture, pool: MaskPool, count: int) -> None:
    """Where opening the streams is the work: 1,000 words, cut by masks."""
    masks = [
        Mask(seed=Secret(os.urandom(SEED_SIZE)), label=b"bench", subtract=number % 2 == 0)
        for number in range(count)
    ]
    vector = np.zeros(1000, np.uint64)
    turns = list(seconds(lambda: serial(vector, masks, AES), lambda: pool(vector, masks, AES)))
    benchmark(pool, vector, masks, AES)
    alone = statistics.median(alone for alone, _ in turns)
    benchmark.extra_info |= {
        "serial_us_a_mask": round(1e6 * alone / count, 2),
        "speedup": median(alone / pooled for alone, pooled in turns),
    }


def test_start(benchmark: BenchmarkFixture) -> None:
    """Two fresh interpreters that import numpy, cryptography and this package."""
    pedantic: Any = benchmark.pedantic  # it comes without types
    pedantic(lambda: MaskPool(2).close(), rounds=5)
