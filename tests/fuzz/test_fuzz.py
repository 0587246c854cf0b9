"""Mutated bytes at every decoder and every receiving step: refused, or read exactly."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

TARGETS: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "targets.py"))["targets"]()
EDGES = [0, 1, 2, 2**15, 2**16, 2**31, 2**32 - 1]


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """A seed after one to four accidents."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 100)))
        match draw(st.sampled_from(["bit", "number", "cut", "put", "over", "again", "end"])):
            case "bit" if begin < len(data):
                data[begin] ^= 1 << draw(st.integers(0, 7))
            case "number":
                data[begin : begin + 4] = draw(st.sampled_from(EDGES)).to_bytes(4, "big")
            case "cut":
                del data[begin:end]
            case "put":
                data[begin:begin] = draw(st.binary(max_size=100))
            case "over":
                data[begin:end] = draw(st.binary(max_size=100))
            case "again":
                data[begin:begin] = data[begin:end]
            case "end":
                del data[begin:]
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_seed_of_a_target_is_taken(name: str) -> None:
    assert all(TARGETS[name].takes(seed) for seed in TARGETS[name].seeds)


@pytest.mark.parametrize("name", TARGETS)
@given(st.data())
@settings(max_examples=40, derandomize=True, deadline=None)
def test_mutated_bytes_are_refused_or_read_exactly(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    target(data.draw(mutated(data.draw(st.sampled_from(target.seeds)))))


@pytest.mark.parametrize("name", TARGETS)
@given(st.binary(max_size=400))
@settings(max_examples=10, derandomize=True, deadline=None)
def test_noise_is_refused_or_read_exactly(name: str, noise: bytes) -> None:
    TARGETS[name](noise)
    TARGETS[name](TARGETS[name].seeds[0][:21] + noise)
