"""Nanoseconds an entry of the numeric face: floats to packed words, and a sum back to floats."""

import numpy as np
import pytest

from secagg.payload import Layout, Segment
from secagg.quantize import FixedPoint, Rounding

ENTRIES = 10**6


def layout(rounding: Rounding) -> Layout:
    # 11-bit inputs of 1,000 clients: three lanes of 21 bits, the case of ARCHITECTURE's figures.
    codec = FixedPoint(clip=1.0, bits=11, rounding=rounding)
    return Layout(segments=(Segment(name="update", entries=ENTRIES, codec=codec),), clients=1000)


@pytest.fixture(scope="module")
def update():
    return np.random.default_rng(0).normal(0, 0.5, ENTRIES).astype(np.float32)


def record(benchmark):
    benchmark.extra_info["ns_an_entry"] = benchmark.stats.stats.min / ENTRIES * 1e9


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_quantise_and_pack(benchmark, update, rounding):
    face = layout(rounding)
    assert face.lanes == (3,)
    words = benchmark(face.encode, {"update": update})
    record(benchmark)
    assert len(words) == -(-ENTRIES // 3)


def test_decode(benchmark, update):
    face = layout("nearest")
    words = face.encode({"update": update})
    found = benchmark(face.decode, words)["update"]
    record(benchmark)
    assert np.abs(found - update.clip(-1, 1)).max() < 1 / 1023
