"""On CPU tensors: the same operations run where a tensor lies."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.testing import insecure_entropy
from secagg.errors import InputError
from secagg.vectors import tensors
from secagg.vectors.layout import Count, Layout, NoisyIntegers, Segment
from secagg.vectors.packing import MAX_LANES, lane_bits, pack, unpack
from secagg.vectors.quantize import FixedPoint

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(
    values=st.lists(st.one_of(FLOATS, st.sampled_from([0.5, 1.5, -0.5, -0.0, 2.0**-1074]))),
    bits=st.integers(2, 32),
    clip=st.sampled_from([1.0, 0.1, 2.0**-500, 2.0**500, 3.0]),
    rounding=st.sampled_from(["nearest", "stochastic"]),
    double=st.booleans(),
)
def test_integers_are_those_of_numpy_bit_for_bit(
    values: list[float], bits: int, clip: float, rounding: Any, *, double: bool
) -> None:
    codec = FixedPoint(clip=clip, bits=bits, rounding=rounding)
    with np.errstate(over="ignore"):
        vector = np.array(values, np.float64 if double else np.float32)
    vector = vector[np.isfinite(vector)]
    expected = codec.quantize(vector, entropy=insecure_entropy(1))
    found = tensors.quantize(torch.from_numpy(vector), codec, entropy=insecure_entropy(1))
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8, torch.int64])
def test_narrow_floats_and_integers_are_taken_exactly(dtype: torch.dtype) -> None:
    vector = torch.tensor([-3.0, 0.0, 1.0, 2.0]).to(dtype)
    codec = FixedPoint(clip=2.0, bits=9, rounding="nearest")
    assert np.array_equal(tensors.quantize(vector, codec).numpy(), codec.quantize(vector))


@given(lanes=st.integers(1, MAX_LANES), entries=st.integers(0, 70), seed=st.integers(0, 2**32))
def test_words_are_those_of_numpy_and_come_back(lanes: int, entries: int, seed: int) -> None:
    half = 1 << (lane_bits(lanes) - 1)
    rng = np.random.default_rng(seed)
    integers = rng.integers(-half, half, entries, dtype=np.int64, endpoint=False)
    integers[:2] = [-half, half - 1][:entries]
    words = tensors.pack(torch.from_numpy(integers), lanes)
    assert np.array_equal(words.numpy().view(np.uint64), pack(integers, lanes))
    assert np.array_equal(tensors.unpack(words, entries, lanes).numpy(), integers)
    assert np.array_equal(unpack(words.numpy().view(np.uint64), entries, lanes), integers)


def layout_of(entries: int, rounding: Any) -> Layout:
    codec = FixedPoint(clip=1.0, bits=12, rounding=rounding)
    return Layout(
        segments=(
            Segment(name="u", entries=entries, codec=codec, weighted=True),
            Segment(name="n", entries=3, codec=Count(maximum=9)),
            Segment(name="z", entries=5, codec=NoisyIntegers(bits=20)),
        ),
        clients=7,
        max_weight=30,
    )


@settings(max_examples=30)
@given(entries=st.integers(0, 200), weight=st.integers(0, 30), seed=st.integers(0, 2**32))
def test_a_layout_makes_the_same_words(entries: int, weight: int, seed: int) -> None:
    layout, rng = layout_of(entries, "nearest"), np.random.default_rng(seed)
    values = {
        "u": rng.normal(size=entries).astype(np.float32),
        "n": rng.integers(0, 10, 3),
        "z": rng.integers(-1000, 1000, 5),
    }
    there = {name: torch.from_numpy(value) for name, value in values.items()}
    words = layout.encode(values, weight=weight)
    found = tensors.encode(layout, there, weight=weight)
    assert np.array_equal(found.numpy().view(np.uint64), words)


@pytest.mark.parametrize(
    "change",
    [
        {"u": torch.tensor([0.0, torch.nan])},
        {"u": torch.tensor([0.0, torch.inf])},
        {"u": torch.zeros(3)},
        {"u": torch.zeros(2, 1)},
        {"u": torch.tensor(0.0)},
        {"u": torch.zeros(2, dtype=torch.complex64)},
        {"n": torch.tensor([0, 10, 0])},
        {"n": torch.tensor([0, -1, 0])},
        {"n": torch.zeros(3)},
        {"z": torch.zeros(5, dtype=torch.int32)},
        {"more": torch.zeros(1)},
    ],
)
def test_what_numpy_refuses_is_refused(change: dict[str, torch.Tensor]) -> None:
    layout = layout_of(2, "stochastic")
    whole = {
        "u": torch.zeros(2),
        "n": torch.zeros(3, dtype=torch.int64),
        "z": torch.zeros(5, dtype=torch.int64),
    }
    tensors.encode(layout, whole)
    with pytest.raises(InputError):
        tensors.encode(layout, whole | change)
    with pytest.raises(InputError):
        layout.encode(whole | change)


def test_vectors_on_a_device_are_encoded_there(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_of(2, "nearest")
    values = {
        "u": torch.tensor([0.25, -9.0]),
        "n": torch.tensor([1, 2, 3]),
        "z": torch.arange(5),
    }
    expected = layout.encode(values)
    asked = []
    monkeypatch.setattr(tensors, "on_one_device", lambda values: asked.append(1) or "there")
    assert np.array_equal(layout.encode(values), expected)
    assert asked


def test_only_vectors_of_one_device_that_is_no_cpu_stay_there() -> None:
    meta = torch.empty(1, device="meta")
    assert tensors.on_one_device({"a": meta, "b": meta}) == meta.device
    assert tensors.on_one_device({"a": meta, "b": torch.empty(1)}) is None
    assert tensors.on_one_device({"a": meta, "b": 1.0}) is None
    assert tensors.on_one_device({"a": torch.empty(1)}) is None
    assert tensors.on_one_device({}) is None
