"""Nanoseconds an entry of the numeric face: floats to packed words, and a sum back to floats."""

import numpy as np
import pytest

from secagg.vectors.layout import Layout, Segment
from secagg.vectors.quantize import FixedPoint, Rounding

ENTRIES = 10**6


def layout(rounding: Rounding) -> Layout:
    # 11-bit inputs of 1,000 clients: three lanes of 21 bits, the case of ARCHITECTURE's figures.
    codec = FixedPoint(clip=1.0, bits=11, rounding=rounding)
    return Layout(segments=(Segment(name="update", entries=ENTRIES, codec=codec),), clients=1000)


@pytest.fixture(scope="module")
def update():
    return np.random.default_rng(0).normal(0, 0.5, ENTRIES).astype(np.float32)


def record(benchmark, found, name):
    benchmark.extra_info["ns_an_entry"] = found.median(name) / ENTRIES * 1e9


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_quantise_and_pack(interleaved, benchmark, update, rounding):
    face = layout(rounding)
    assert face.lanes == (3,)
    found = interleaved(
        {"encode": lambda: face.encode({"update": update})}, "encode", beside="numpy"
    )
    record(benchmark, found, "encode")
    assert len(found.last["encode"]) == -(-ENTRIES // 3)


def test_decode(interleaved, benchmark, update):
    face = layout("nearest")
    words = face.encode({"update": update})
    found = interleaved({"decode": lambda: face.decode(words)}, "decode", beside="numpy")
    record(benchmark, found, "decode")
    assert np.abs(found.last["decode"]["update"] - update.clip(-1, 1)).max() < 1 / 1023
