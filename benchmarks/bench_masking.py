"""Masks on one core against raw AES, and two threads against two raw AES processes.

A core that somebody else takes halves what two processes reach: everything compared is
measured in turn, by the clock on the wall, and ``extra_info`` holds medians of ratios taken
within a turn. Aims: ``rate_over_raw`` at least 1.0, ``speedup`` at least 1.7.
Where ``raw_speedup`` is far below 2, somebody else had a core, or two cores share one's cipher:
the second figure then says little, and ``speedup_over_raw_speedup`` what threads lose of two cores.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from protocols.primitives.prg import CHUNK_WORDS, SEED_SIZE, Mask, Suite
from protocols.secrets import Secret
from secagg.bench.measure import Clock, Interleaved, median_interval
from secagg.rounds.masking import Masks, threads

WORDS = 10**6
AES = Suite.AES_128_CTR
Measure = Callable[..., Interleaved]
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


@pytest.mark.parametrize(("count", "words"), [(30, WORDS), (100, WORDS), (30, 10 * WORDS)])
def test_two_threads(
    interleaved: Measure,
    benchmark: BenchmarkFixture,
    raw: Raw,
    count: int,
    words: int,
) -> None:
    masks = some(count)
    vector = np.zeros(words, np.uint64)
    found = interleaved(
        {
            "raw": lambda: raw.make(count * words, 1),
            "raw_two": lambda: raw.make(count * words, 2),
            "serial": lambda: Masks(masks, AES).apply_to(vector),
            "threads": lambda: threads(2)(masks, AES).apply_to(vector),
        },
        "threads",
        clock=Clock.WALL,
    )
    raw_speedup, speedup = found.ratios("raw", "raw_two"), found.ratios("serial", "threads")
    both = [one / other for one, other in zip(speedup, raw_speedup, strict=True)]
    benchmark.extra_info |= {
        "raw_gigabytes_a_second": round(8 * count * words / found.median("raw") / 1e9, 2),
        "rate_over_raw": found.ratio("raw", "serial").as_dict(),
        "raw_speedup": median_interval(raw_speedup).as_dict(),
        "speedup": median_interval(speedup).as_dict(),
        "speedup_over_raw_speedup": median_interval(both).as_dict(),
    }


def some(count: int) -> list[Mask]:
    return [
        Mask(seed=Secret(os.urandom(SEED_SIZE)), label=b"bench", subtract=number % 2 == 0)
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [100, 1000, 10_000])
def test_short_vectors(interleaved: Measure, benchmark: BenchmarkFixture, count: int) -> None:
    """Where opening the streams is the work: 1,000 words, cut by masks."""
    masks, vector = some(count), np.zeros(1000, np.uint64)
    found = interleaved(
        {
            "serial": lambda: Masks(masks, AES).apply_to(vector),
            "threads": lambda: threads(2)(masks, AES).apply_to(vector),
        },
        "threads",
        clock=Clock.WALL,
    )
    benchmark.extra_info |= {
        "serial_us_a_mask": round(1e6 * found.median("serial") / count, 2),
        "speedup": found.ratio("serial", "threads").as_dict(),
    }
