"""Whatever an own training loop hands over is summed rightly, or refused by name."""

import array
import collections
import types
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from protocols.ckks import Engine
from secagg import (
    Bonawitz,
    Ckks,
    Count,
    FixedPoint,
    InputError,
    NoisyIntegers,
    Plain,
    aggregate,
    calibrate_clip,
)

STEP = 8.0 / (2**15 - 1)  # of the clip below, at 16 bits


class State(NamedTuple):
    kernel: Any
    bias: Any


class Frozen(collections.abc.Mapping):  # as Flax' FrozenDict
    def __init__(self, inner: dict[str, Any]) -> None:
        self._inner = inner

    def __getitem__(self, key: str) -> Any:
        return self._inner[key]

    def __iter__(self) -> Any:
        return iter(self._inner)

    def __len__(self) -> int:
        return len(self._inner)


class Device:  # as a jax.Array: numpy can read it, and it is none
    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values, np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._values


def seen(value: Any) -> Any:
    """Containers, types and rounded numbers of a result, to compare with."""
    if isinstance(value, torch.Tensor):
        return ("torch", str(value.dtype).removeprefix("torch."), rounded(value.tolist()))
    if isinstance(value, np.ndarray):
        return ("numpy", str(value.dtype), rounded(value.tolist()))
    if isinstance(value, collections.abc.Mapping):
        return (type(value).__name__, {key: seen(inner) for key, inner in value.items()})
    if isinstance(value, list | tuple):
        return (type(value).__name__, [seen(inner) for inner in value])
    return value if value is None or isinstance(value, int) else round(value, 2)


def rounded(value: Any) -> Any:
    return [rounded(inner) for inner in value] if isinstance(value, list) else round(value, 2)


F32, F64 = "float32", "float64"
HALF, BRAIN, EIGHTH = torch.float16, torch.bfloat16, torch.float8_e4m3fn

MEANS = {
    # a vector
    "list of floats": ([[1.0, 2], [3, 5]], ("numpy", F64, [2, 3.5])),
    "list of integers beside floats": ([[1, 2], [3.0, 5.0]], ("numpy", F64, [2, 3.5])),
    "lists in lists": ([[[1.0], [2]], [[3], [5]]], ("numpy", F64, [[2], [3.5]])),
    "tuple of floats": ([(1.0, 2.0), (3.0, 5.0)], ("numpy", F64, [2, 3.5])),
    "float": ([1.0, 3.5], 2.25),
    "numpy number": ([np.float32(1), np.float32(3.5)], ("numpy", F32, 2.25)),
    "no dimension": ([np.array(1.0), np.array(3.5)], ("numpy", F64, 2.25)),
    "rows of an array": (np.array([[1.0, 2], [3, 5]]), ("numpy", F64, [2, 3.5])),
    "rows of a tensor": (torch.tensor([[1.0, 2], [3, 5]]), ("torch", F32, [2, 3.5])),
    "generator": ((np.full(1, k, np.float32) for k in (1, 2)), ("numpy", F32, [1.5])),
    "values of a dict": ({"a": [1.0], "b": [2.0]}.values(), ("numpy", F64, [1.5])),
    "read-only, strided": (
        [np.broadcast_to(1.0, (2, 2)), np.arange(8.0).reshape(4, 2)[::2]],
        ("numpy", F64, [[0.5, 1], [2.5, 3]]),
    ),
    "big-endian": ([np.ones(1, ">f4"), np.zeros(1, ">f4")], ("numpy", F32, [0.5])),
    "another dtype a client": ([np.ones(1, np.float16), np.zeros(1)], ("numpy", F64, [0.5])),
    "matrix": ([np.matrix([[1.0, 2]]), np.matrix([[3, 5.0]])], ("numpy", F64, [[2, 3.5]])),
    "array.array": ([array.array("d", [1]), array.array("d", [2])], ("numpy", F64, [1.5])),
    "jax": ([Device([1, 2]), Device([3, 5])], ("numpy", F32, [2, 3.5])),
    # numbers of all kinds
    "numpy half": ([np.ones(1, np.float16), np.full(1, 2, np.float16)], ("numpy", F32, [1.5])),
    "numpy single": ([np.ones(1, np.float32)] * 2, ("numpy", F32, [1])),
    "torch half": ([torch.ones(1, dtype=HALF)] * 2, ("torch", F32, [1])),
    "torch bfloat16": ([torch.ones(1, dtype=BRAIN)] * 2, ("torch", F32, [1])),
    "torch 8 bits": ([torch.ones(1).to(EIGHTH)] * 2, ("torch", F32, [1])),
    "torch double": ([torch.ones(1).double()] * 2, ("torch", F64, [1])),
    "with a gradient": ([nn.Parameter(torch.ones(1))] * 2, ("torch", F32, [1])),
    "transposed": ([torch.tensor([[1.0, 2], [3, 4]]).T] * 2, ("torch", F32, [[1, 3], [2, 4]])),
    "sparse COO": ([torch.eye(2).to_sparse()] * 2, ("torch", F32, [[1, 0], [0, 1]])),
    "sparse CSR": ([torch.eye(2).to_sparse_csr()] * 2, ("torch", F32, [[1, 0], [0, 1]])),
    "sparse of scipy": ([scipy.sparse.eye(2, format="csr")] * 2, ("numpy", F64, [[1, 0], [0, 1]])),
    # containers
    "dict": ([{"w": [1.0]}, {"w": [2.0]}], ("dict", {"w": ("numpy", F64, [1.5])})),
    "another order": (
        [{"a": 1.0, "b": 2.0}, {"b": 4.0, "a": 2.0}],
        ("dict", {"a": 1.5, "b": 3.0}),
    ),
    "names of ours": (
        [{"weight": 1.0, "clipped": 2.0, "update": 3.0}] * 2,
        ("dict", {"weight": 1.0, "clipped": 2.0, "update": 3.0}),
    ),
    "int names": ([{0: 1.0, 1: 2.0}] * 2, ("dict", {0: 1.0, 1: 2.0})),
    "NDArrays": (
        [[np.ones((1, 2), np.float32), np.zeros(1)]] * 2,
        ("list", [("numpy", F32, [[1, 1]]), ("numpy", F64, [0])]),
    ),
    "ragged numbers": (
        [[[1.0], [2.0, 3.0]]] * 2,
        ("list", [("numpy", F64, [1]), ("numpy", F64, [2, 3])]),
    ),
    "tuple": ([(np.ones(1), 2.0)] * 2, ("tuple", [("numpy", F64, [1]), 2.0])),
    "named tuple": (
        [State(kernel=np.ones(1), bias=None)] * 2,
        ("State", [("numpy", F64, [1]), None]),
    ),
    "pytree": (
        [{"params": [{"k": Device([1])}, State(Device([2]), ())], "step": None}] * 2,
        (
            "dict",
            {
                "params": (
                    "list",
                    [
                        ("dict", {"k": ("numpy", F32, [1])}),
                        ("State", [("numpy", F32, [2]), ("numpy", F64, [])]),
                    ],
                ),
                "step": None,
            },
        ),
    ),
    "frozen dict": ([Frozen({"w": 1.0})] * 2, ("Frozen", {"w": 1.0})),
    "proxy": ([types.MappingProxyType({"w": 1.0})] * 2, ("mappingproxy", {"w": 1.0})),
    "defaultdict": ([collections.defaultdict(list, w=1.0)] * 2, ("dict", {"w": 1.0})),
    "module": (
        [nn.Linear(1, 1, bias=False).requires_grad_(False)] * 2,
        None,  # compared below
    ),
    "dots and slashes": (
        [{"a.b": 1.0, "a": {"b": 2.0}}] * 2,
        ("dict", {"a.b": 1.0, "a": ("dict", {"b": 2.0})}),
    ),
    "empty beside another": (
        [{"none": np.empty((0, 3)), "one": 1.0}] * 2,
        ("dict", {"none": ("numpy", F64, []), "one": 1.0}),
    ),
}


@pytest.mark.parametrize(
    ("updates", "expected"), MEANS.values(), ids=[name.replace(" ", "_") for name in MEANS]
)
def test_a_mean_is_right_and_in_the_containers_of_the_update(updates: Any, expected: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = aggregate(updates, clip=8.0)
    if expected is None:
        expected = seen(updates[0].state_dict())
    assert seen(result.mean) == expected
    assert not any(result.clipped.values())


COUNTS = {
    "uint8": ([torch.tensor([200, 5], dtype=torch.uint8)] * 3, "torch", [600, 15]),
    "int8": ([np.array([100, 1], np.int8)] * 3, "numpy", [300, 3]),
    "bool": ([torch.tensor([True, False])] * 3, "torch", [3, 0]),
    "numpy bool": ([np.array([True, False])] * 3, "numpy", [3, 0]),
    "int64": ([np.array([2**61, 0])] * 3, "numpy", [3 * 2**61, 0]),
    "uint64": ([np.array([2**61, 0], np.uint64)] * 3, "numpy", [3 * 2**61, 0]),
    "list": ([[1, 2]] * 3, "numpy", [3, 6]),
}


@pytest.mark.parametrize(("updates", "kind", "total"), COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("protocol", [Bonawitz(), Plain()])
def test_counts_are_summed_exactly_and_never_squeezed(
    updates: Any, kind: str, total: list[int], protocol: Bonawitz | Plain
) -> None:
    result = aggregate(updates, counts="*", protocol=protocol)
    assert seen(result.sum) == (kind, "int64", total)
    found, dtype, mean = seen(result.mean)
    assert (found, dtype) == (kind, F64)
    assert mean == [round(value / 3, 2) for value in total]


def test_the_mean_of_integers_is_no_integer() -> None:
    votes = [torch.tensor([1, 0, 1])] * 2 + [torch.tensor([0, 0, 1])]
    assert seen(aggregate(votes, counts="*").mean) == ("torch", F64, [0.67, 0.0, 1.0])
    declared = aggregate(votes, codec=FixedPoint(clip=1.0))
    assert seen(declared.mean) == ("torch", F64, [0.67, 0.0, 1.0])
    small = [np.array([100, -100], np.int8)] * 3
    codec = FixedPoint(clip=128.0)
    total = aggregate(small, codec=codec).sum
    assert total.dtype == np.float64
    assert total == pytest.approx([300, -300], abs=3 * codec.step)


def test_counts_carry_no_weight_and_stand_beside_floats() -> None:
    updates = [{"w": 1.0, "seen": 10}, {"w": 4.0, "seen": 20}]
    result = aggregate(updates, clip=8.0, weights=[1, 2], counts=["seen"])
    assert (result.sum["seen"], result.mean["seen"], result.weight) == (30, 15.0, 3)
    assert result.mean["w"] == pytest.approx(3.0, abs=STEP)


def test_narrow_floats_lose_nothing_on_the_way() -> None:
    brain = [torch.tensor([value], dtype=BRAIN) for value in (1.0, 1.0, 0.9921875)]
    mean = aggregate(brain, clip=1.0).mean
    assert float(mean) == pytest.approx(2.9921875 / 3, abs=2**-15)
    many = aggregate([torch.ones(1, dtype=BRAIN)] * 301, clip=1.0, protocol=Plain())
    assert float(many.sum) == pytest.approx(301, abs=1e-4)
    heavy = aggregate([torch.ones(1, dtype=HALF)] * 99, clip=1.0, weights=[1000] * 99)
    assert float(heavy.sum) == pytest.approx(99_000)


def masked() -> Any:
    return np.ma.masked_array([1.0, 2.0], [True, False])


def endless() -> list[Any]:
    loop: list[Any] = []
    loop.append([loop])
    return loop


ONE = [[1.0], [2.0]]
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    # clients
    "no client": ([], {}, "at least 2"),
    "one client": ([[1.0]], {}, "at least 2"),
    "one model": (nn.Linear(1, 1), {}, "updates is one Linear"),
    "number": (5, {}, "updates is one int"),
    "text": ("updates", {}, "updates is one str"),
    "mapping": ({"a": [1.0], "b": [2.0]}, {}, r"its values\(\)"),
    "nothing": ([None, None], {}, "no entry"),
    "empty vector": ([[], []], {}, "no entry"),
    "empty dict": ([{}, {}], {}, "no entry"),
    "other names": ([{"a": 1.0}, {"b": 1.0}], {}, "client 1 lacks 'a' and alone has 'b'"),
    "one name missing": ([{"a": 1.0, "b": 1.0}, {"b": 1.0}], {}, "client 1 lacks 'a'"),
    "other containers": ([{"update": 1.0}, [[1.0]]], {}, "client 1: 'update' has shape"),
    "transposed": ([np.ones((2, 3)), np.ones((3, 2))], {}, r"client 1.*\(3, 2\).*\(2, 3\)"),
    "flat and not": ([np.ones((2, 1)), np.ones(2)], {}, "client 1: 'update' has shape"),
    "longer": ([[1.0], [1.0, 2.0]], {}, "client 1: 'update' has shape"),
    # values
    "NaN": ([{"a": [1.0]}, {"a": [float("nan")]}], {}, "client 1: 'a' is nan at entry 0"),
    "inf": ([torch.ones(2), torch.tensor([0, float("inf")])], {}, "client 1:.* inf at entry 1"),
    "NaN in half": ([torch.full((1,), float("nan"), dtype=BRAIN)] * 2, {}, "client 0.*nan"),
    "no floats": ([["a"], ["b"]], {}, "client 0: '0' is a str"),
    "text array": ([np.array(["a"])] * 2, {}, "holds <U1"),
    "bytes": ([b"ab"] * 2, {}, "is a bytes"),
    "objects": ([np.array([None])] * 2, {}, "is a ndarray"),
    "dates": ([np.array(["2026"], "datetime64[Y]")] * 2, {}, "holds datetime64"),
    "records": ([np.zeros(1, "f4,f4")] * 2, {}, "holds"),
    "masked": ([masked()] * 2, {}, "MaskedArray"),
    "set": ([{1.0}] * 2, {}, "is a set"),
    "function": ([lambda: 1.0] * 2, {}, "is a function"),
    "complex": ([np.ones(1, complex)] * 2, {}, "holds complex128"),
    "complex tensor": ([torch.ones(1, dtype=torch.complex64)] * 2, {}, "view_as_real"),
    "long double": ([np.ones(1, np.longdouble)] * 2, {}, "at most 64 bits"),
    "huge int": ([[2**70], [1]], {}, "is a list"),
    "on meta": ([torch.ones(1, device="meta")] * 2, {}, "has no values"),
    "lazy": ([nn.LazyLinear(1)] * 2, {}, "has no values"),
    "nested tensor": ([torch.nested.nested_tensor([torch.ones(1)])] * 2, {}, "nested"),
    "endless list": ([endless()] * 2, {}, "deep in each other"),
    # names
    "float name": ([{1.5: 1.0}] * 2, {}, "a name is 1.5"),
    "empty name": ([{"": 1.0}] * 2, {}, "a name is ''"),
    "no Unicode": ([{"\udcff": 1.0}] * 2, {}, "no Unicode"),
    "two of a name": ([{"a/b": 1.0, "a": {"b": 1.0}}] * 2, {}, "two arrays are called 'a/b'"),
    "long name": ([{"a" * 2**16: 1.0}] * 2, {}, "too long"),
    # integers
    "integers": ([torch.tensor([1, 0])] * 2, {}, r"counts=\['update'\]"),
    "unnamed counter": ([[np.ones(1), np.array(7)]] * 2, {}, "'1' holds integers"),
    "negative count": ([[1], [-1]], {"counts": "*"}, "client 1: 'update' has an entry outside"),
    "count above": ([np.array([2**63], np.uint64)] * 2, {"counts": "*"}, "outside 0 to"),
    "floats as counts": (ONE, {"counts": ["update"]}, "holds floats"),
    "count of no array": (ONE, {"counts": ["x"]}, "counts names 'x'"),
    "counts of one int": (ONE, {"counts": 5}, "counts is a int"),
    "counts of ints": (ONE, {"counts": [5]}, "counts holds 5"),
    "counters alone": ([{"num_batches_tracked": 5}] * 2, {}, "nothing to sum"),
    "count under CKKS": (
        [{"n": 1}] * 2,
        {"counts": ["n"], "protocol": Ckks(engine=Engine.SEAL)},
        "Count",
    ),
    "statistic under CKKS": ([{"running_var": 1.0}] * 2, {"protocol": Ckks()}, "their own"),
    # clip and codec
    "no clip": (ONE, {"clip": None}, "no clip for 'update'.*calibrate_clip"),
    "clip of another": (ONE, {"clip": {"x": 1.0}}, "clip names 'x'"),
    "clip of some": ([{"a": 1.0, "b": 1.0}] * 2, {"clip": {"a": 1.0}}, "no clip for 'b'"),
    "clip of integers": ([[1], [2]], {"clip": {"update": 1.0}}, "holds integers"),
    "clip 0": (ONE, {"clip": 0.0}, "clip 0.0"),
    "clip NaN": (ONE, {"clip": float("nan")}, "clip nan"),
    "clip text": (ONE, {"clip": "1"}, "clip '1'"),
    "clip tensor": (ONE, {"clip": torch.tensor(1.0)}, "clip tensor"),
    "clip and codec": (ONE, {"codec": FixedPoint(clip=1.0)}, "leave out clip"),
    "codec of another": (ONE, {"codec": {"x": FixedPoint(clip=1.0)}}, "codecs for 'x'"),
    "no codec": (ONE, {"codec": {"update": 1.0}}, "float is no codec"),
    "no codec at all": (ONE, {"clip": None, "codec": "fixed"}, "str is no codec"),
    "floats in a Count": (ONE, {"clip": None, "codec": Count(maximum=3)}, "client 0.*integers"),
    "floats with noise": (
        ONE,
        {"clip": None, "codec": NoisyIntegers(bits=9)},
        "client 0.*integers",
    ),
    # weights
    "weights of fewer": (ONE, {"weights": [1]}, "1 weights for 2"),
    "weight below 0": (ONE, {"weights": [1, -1]}, "client 1: weight -1"),
    "weight of a float": (ONE, {"weights": [1, 2.0]}, "client 1: weight 2.0"),
    "weight of a bool": (ONE, {"weights": [True, 1]}, "client 0: weight True"),
    "weights of bools": (ONE, {"weights": np.array([True, True])}, "client 0: weight"),
    "weights None": (ONE, {"weights": [None, 1]}, "client 0: weight None"),
    "weights of tensors": (ONE, {"weights": torch.ones(2)}, "client 0: weight"),
    "weights by name": (ONE, {"weights": {0: 1, 1: 1}}, "weights is a dict"),
    "one weight": (ONE, {"weights": 3}, "weights is a int"),
    "weights 0": (ONE, {"weights": [0, 0]}, "all 0"),
    "too heavy": (ONE, {"weights": [2**62, 2**62]}, "does not fit"),
    "far too heavy": (ONE, {"weights": [2**70, 1]}, "client 0: weight"),
    "counts weighted": ([[1], [2]], {"counts": "*", "weights": [1, 2]}, "counts take none"),
    # start
    "other start": ([{"a": 1.0}] * 2, {"start": {"b": 1.0}}, "start lacks 'a'"),
    "start of a shape": (ONE, {"start": [1.0, 2.0]}, "start: 'update' has shape"),
    "start NaN": (ONE, {"start": [float("nan")]}, "'start: update' is nan"),
    # the rest
    "dropouts listed": (ONE, {"dropouts": [0]}, "dropouts is a list"),
    "dropout of a stranger": (ONE, {"dropouts": {7: "mask"}}, "do not exist: 7"),
    "dropout of text": (ONE, {"dropouts": {"a": "mask"}}, "do not exist: 'a'"),
    "no stage": (ONE, {"dropouts": {0: "lunch"}}, "no stage 'lunch'"),
    "stage 3": (ONE, {"dropouts": {0: 3}}, "no stage 3"),
    "unsigned": (ONE, {"dropouts": {0: "sign"}}, "need an active server"),
    "protocol by name": (ONE, {"protocol": "bonawitz"}, "unknown protocol"),
    "threshold above": (ONE, {"protocol": Bonawitz(threshold=3)}, "threshold 3"),
    "threshold text": (ONE, {"protocol": Bonawitz(threshold="2")}, "threshold"),  # type: ignore[arg-type]  # bad on purpose
    "minimum of 1": (ONE, {"protocol": Bonawitz(minimum_survivors=1)}, "no sum"),
}


@pytest.mark.parametrize(
    ("updates", "options", "words"),
    REFUSED.values(),
    ids=[name.replace(" ", "_") for name in REFUSED],
)
def test_what_cannot_be_summed_is_an_input_error_that_names_it(
    updates: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=f"(?s){words}"):
        aggregate(updates, **{"clip": 8.0} | options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_tensor_comes_back_on_the_device_of_the_first_client() -> None:
    result = aggregate([torch.ones(2, device="cuda"), torch.zeros(2)], clip=1.0)
    assert result.mean.device.type == "cuda"
    assert result.mean.tolist() == pytest.approx([0.5, 0.5], abs=1e-4)


def test_weights_of_numpy_and_torch_are_taken() -> None:
    for weights in (np.array([1, 3]), torch.tensor([1, 3]), (w for w in (1, 3)), (1, 3)):
        assert aggregate([[1.0], [2.0]], clip=8.0, weights=weights).weight == 4


def in_place(kind: type) -> Any:
    """Clients whose updates are 1, 2 and 6, all trained in the same memory."""
    array, module = np.zeros(1), nn.Linear(1, 1, bias=False)
    for value in (1.0, 2.0, 6.0):
        array[0] = value
        with torch.no_grad():
            module.weight.fill_(value)
        yield {np.ndarray: array, dict: {"weight": array}, nn.Module: module}[kind]


@pytest.mark.parametrize("kind", [np.ndarray, dict, nn.Module])
def test_a_generator_may_train_one_model_in_place(kind: type) -> None:
    mean = aggregate(in_place(kind), clip=8.0).mean
    assert (mean if kind is np.ndarray else mean["weight"]).item() == pytest.approx(3.0, abs=STEP)
    assert calibrate_clip(in_place(kind)).quantiles.popitem()[1][0] < 6.0


def test_what_has_no_order_is_refused() -> None:
    with pytest.raises(InputError, match="weights is a set"):
        aggregate([[1.0], [2.0]], clip=4.0, weights={100, 3})
    with pytest.raises(InputError, match="updates is a set"):
        aggregate({nn.Linear(1, 1), nn.Linear(1, 1)}, clip=4.0, weights=[1, 2])


def test_what_is_known_by_labels_is_refused() -> None:
    class Series(Device):  # as pandas'
        iloc = None

    with pytest.raises(InputError, match=r"client 0: 'w' has labels"):
        aggregate([{"w": Series([1.0])}] * 2, clip=4.0)


def test_a_negated_view_of_torch_is_read_as_it_is() -> None:
    view = torch.tensor([1 + 2j]).conj().imag
    assert aggregate([view, view], clip=4.0).mean.item() == pytest.approx(-2.0, abs=STEP)


def test_a_value_of_a_client_that_dropped_out_is_never_read() -> None:
    updates = [[1.0], [1.0], [1.0], [float("nan")]]
    assert aggregate(updates, clip=8.0, dropouts={3: "advertise"}).survivors == (0, 1, 2)


# --- the clip ---


def test_entries_beyond_the_clip_are_counted_by_array_and_warned_of() -> None:
    updates = [{"a": [5.0, 0.1], "b": [0.2]}, {"a": [-5.0, 9.0], "b": [0.3]}]
    with pytest.warns(UserWarning, match="0.75 of all entries of 'a'.*1 of 2 arrays"):
        result = aggregate(updates, clip=1.0)
    assert result.clipped == {"a": 3, "b": 0}
    assert result.mean["a"] == pytest.approx([0.0, 0.55], abs=1e-4)


def test_only_survivors_are_counted_as_clipped() -> None:
    updates = [[0.5], [0.5], [0.5], [7.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert aggregate(updates, clip=1.0, dropouts={3: "mask"}).clipped == {"update": 0}


def test_up_to_a_thousandth_there_is_no_warning() -> None:
    updates = [np.zeros(1000), np.zeros(1000)]
    updates[0][:2] = 5.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert aggregate(updates, clip=1.0).clipped == {"update": 2}
    updates[1][7] = -5.0
    with pytest.warns(UserWarning, match="the clip cut 0.0015"):
        aggregate(updates, clip=1.0)


@pytest.mark.parametrize("protocol", [Bonawitz(), Plain(), Ckks()])
def test_every_protocol_counts_what_was_clipped(protocol: Any) -> None:
    with pytest.warns(UserWarning, match="the clip cut"):
        found = aggregate([[5.0, 0.0]] * 5, clip=1.0, protocol=protocol)
    assert found.clipped == {"update": 5}


def test_beside_noise_nothing_else_is_opened() -> None:
    shares = [np.array([client, -5]) for client in range(4)]
    assert aggregate(shares, codec=NoisyIntegers(bits=64)).clipped == {}


def test_a_clip_by_name_goes_before_one_by_pattern() -> None:
    update = {"head.weight": 3.0, "head.bias": 3.0, "body.bias": 3.0}
    clips = {"*": 5.0, "head.*": 2.0, "head.bias": 1.0}
    with pytest.warns(UserWarning, match="the clip cut"):
        result = aggregate([update] * 2, clip=clips)
    assert seen(result.mean) == ("dict", {"head.weight": 2.0, "head.bias": 1.0, "body.bias": 3.0})


def test_a_result_prints_shapes_and_costs_and_no_value() -> None:
    text = repr(aggregate([{"w": np.full((2, 3), 0.765625)}] * 3, clip=1.0, weights=[5, 6, 7]))
    assert "w (2, 3)" in text
    assert "weight 18" in text
    assert "up and" in text
    assert "0.76" not in text
    assert len(repr(aggregate([{str(k): 1.0 for k in range(99)}] * 2, clip=1.0))) < 500


# --- from a start ---


def test_from_a_start_changes_are_clipped_and_the_mean_is_the_new_model() -> None:
    start = {"w": np.array([100.0, -50.0], np.float32)}
    updates = [{"w": start["w"] + np.float32(change)} for change in (0.25, 0.5)]
    result = aggregate(updates, start=start, clip=1.0)
    assert result.mean["w"].dtype == np.float32
    np.testing.assert_allclose(result.mean["w"], start["w"] + 0.375, atol=1e-4)
    np.testing.assert_allclose(result.sum["w"], 0.75, atol=1e-4)
    np.testing.assert_array_equal(start["w"], [100, -50])


def test_a_counter_is_known_by_its_name_whatever_holds_it() -> None:
    """Flower's FedAvg makes a float of it."""
    for counter in (np.array(7), np.array(7.0)):
        update = {"bn.num_batches_tracked": counter, "w": 1.0}
        assert aggregate([update] * 2, clip=1.0).kept == ("bn.num_batches_tracked",)
        kept = aggregate([update] * 2, clip=1.0, start=update).mean["bn.num_batches_tracked"]
        assert kept == 7
    whole = aggregate([{"num_batches_tracked": 7}] * 2, counts=["num_batches_tracked"])
    assert whole.sum == {"num_batches_tracked": 14}


def test_integers_stay_as_the_start_has_them() -> None:
    start = [np.ones(1), np.array([7, 8])]
    result = aggregate([[np.ones(1), np.array([1, 2])]] * 2, start=start, clip=1.0)
    assert result.kept == ("1",)
    assert result.mean[1].tolist() == [7, 8]
    assert not np.shares_memory(result.mean[1], start[1])
    assert result.sum[1] is None


# --- buffers ---


class Block(nn.Module):  # of a ResNet
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample = nn.Sequential(
            nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.downsample(x))


def resnet() -> nn.Module:
    stem = (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    return nn.Sequential(*stem, Block(4, 8, 1), Block(8, 16, 2), *head)


def mobilenet() -> nn.Module:
    def inverted(inner: int, outer: int) -> nn.Module:
        wide = 3 * inner
        return nn.Sequential(
            *(nn.Conv2d(inner, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False),
            *(nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, outer, 1, bias=False), nn.BatchNorm2d(outer, momentum=None)),
        )

    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 3))
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, bias=False), inverted(4, 6), inverted(6, 8), *head)


def trained(make: Any, start: nn.Module, seed: int) -> nn.Module:
    """A client's model after a few steps on pixels from 0 to 255."""
    torch.manual_seed(seed)
    model = make()
    model.load_state_dict(start.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2 + seed):
        optimizer.zero_grad()
        pixels = torch.randint(0, 256, (8, 3, 9, 9)).float()
        model(pixels).logsumexp(1).mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("make", [resnet, mobilenet])
@pytest.mark.parametrize("begun", [True, False], ids=["from_a_start", "whole"])
def test_a_network_with_batch_norm_goes_through_unchanged(make: Any, begun: bool) -> None:
    torch.manual_seed(0)
    server = make()
    clients = [trained(make, server, seed) for seed in range(3)]
    weights = [5, 1, 9]
    begin = server if begun else None
    found = calibrate_clip(clients, start=begin, cut=0.0)
    assert not any("running" in name for name in found.clip)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = aggregate(clients, start=begin, clip=found.clip, weights=weights)
    assert all(name.endswith("num_batches_tracked") for name in result.kept)
    before = server.state_dict()
    counters = [before[name].clone() for name in result.kept]
    assert server.load_state_dict(result.mean)  # strictly
    after = server.state_dict()
    assert [after[name] for name in result.kept] == counters
    states = [client.state_dict() for client in clients]
    largest = max(found.clip.values())
    for name in after.keys() - set(result.kept):
        true = sum(s[name].double() * w for s, w in zip(states, weights, strict=True)) / 15
        step = 2.0**16 / (2**31 - 1) if "running" in name else largest / (2**15 - 1)
        room = 2**-22 * float(true.abs().max())  # float32's own
        assert float((after[name] - true).abs().max()) <= step + room, name
        if name.endswith("running_var"):
            assert float(after[name].min()) >= 0
    largest_seen = max(float(s[n].abs().max()) for s in states for n in s if "running_var" in n)
    assert largest_seen > 100  # which a clip for gradients would have cut


def test_a_variance_is_never_below_zero_whatever_was_rounded() -> None:
    tiny = {"bn.running_var": np.full(2000, 1e-7, np.float32)}
    change = {"bn.running_var": np.zeros(2000, np.float32)}
    clip = {"*.running_var": 1.0}
    assert aggregate([tiny] * 3, clip=clip).mean["bn.running_var"].min() >= 0
    result = aggregate([change] * 3, start=tiny, clip=clip)
    assert result.sum["bn.running_var"].min() < 0  # so that there is something to mend
    assert result.mean["bn.running_var"].min() == 0


def test_changes_of_a_variance_may_be_below_zero() -> None:
    update = {"bn.running_var": np.array([-0.5, 0.5])}
    found = aggregate([update] * 3, clip=1.0).mean["bn.running_var"]
    assert found == pytest.approx([-0.5, 0.5], abs=1e-4)


@pytest.mark.parametrize(
    "name",
    ["bn.running_var", "bn/moving_variance", "batch_stats/bn/var", "running_mean"],
)
def test_statistics_are_known_by_name_and_wider_than_a_clip(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = aggregate([{name: 5000.0, "w": 0.5}] * 2, clip=1.0)
    assert result.mean[name] == pytest.approx(5000, abs=1e-4)


def test_statistics_under_ckks_have_the_clip_that_names_them() -> None:
    updates = [{"running_var": np.zeros(500), "w": np.ones(3)}] * 5
    result = aggregate(updates, clip={"*": 1.0, "running_*": 4.0}, protocol=Ckks())
    assert result.mean["running_var"].min() == 0
    assert result.mean["running_var"].max() > 0  # the error of CKKS, on its other side


# --- calibration ---


def test_a_calibrated_clip_is_twice_what_it_should_keep_and_at_most_a_quarter_more() -> None:
    generator = np.random.default_rng(5)
    updates = [
        {"small": generator.normal(0, 1e-4, 4000), "large": generator.normal(0, 30, 4000)}
        for _ in range(3)
    ]
    found = calibrate_clip(updates)
    for name in ("small", "large"):
        sizes = np.sort(np.abs(np.concatenate([update[name] for update in updates])))
        kept = sizes[-13]  # a thousandth of 12,000 may be cut
        assert kept < found.clip[name] / 2 <= 1.25 * kept
        for share, value in zip((0.5, 0.9, 0.99), found.quantiles[name], strict=False):
            true = np.quantile(sizes, share)
            assert true * 0.99 < value <= 1.26 * true
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aggregate(updates, clip=found.clip)
    assert "small" in str(found)
    assert found.survivors == (0, 1, 2)


def test_what_reaches_a_sum_for_calibration_is_counts_in_public_bins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from secagg.rounds import calibration

    layouts = []
    run = calibration.run_clients
    monkeypatch.setattr(
        calibration, "run_clients", lambda *a, **k: (layouts.append(a[1]), run(*a, **k))[1]
    )
    for scale in (1e-3, 1e3):
        calibrate_clip([np.full(50, scale)] * 3)
    assert layouts[0] == layouts[1]
    (segment,) = layouts[0].segments
    assert segment.codec == Count(maximum=50)


@pytest.mark.parametrize(
    ("value", "clip"),
    [
        (0.0, 1.0),
        (1e-12, 1.0),
        (0.999, 1.0),
        (1.0, 1.25),
        (1.25, 1.5),
        (-1.0, 1.25),
        (2.0**31, 5 * 2.0**29),
    ],
)
def test_the_edges_of_the_bins(value: float, clip: float) -> None:
    assert calibrate_clip([[value]] * 2).clip["update"] == 2 * clip


def test_an_array_of_zeros_gets_the_clip_of_the_others() -> None:
    found = calibrate_clip([{"w": [3.0], "bias": [0.0]}] * 2)
    assert found.clip == {"w": 7.0, "bias": 7.0}


@pytest.mark.parametrize(
    ("updates", "options", "words"),
    [
        ([[1.0], [float("nan")]], {}, "client 1: 'update' is nan"),
        ([[1.0], [2.0]], {"cut": 1.0}, "cut 1.0"),
        ([[1.0], [2.0]], {"cut": True}, "cut True"),
        ([[1.0], [2.0]], {"protocol": Ckks()}, "counts nothing"),
        ([[1], [2]], {}, "no float"),
        ([[1e300], [2.0]], {}, "no clip is so large"),
        ([[1.0], [2.0, 3.0]], {}, "client 1"),
    ],
)
def test_what_cannot_be_calibrated_is_an_input_error(
    updates: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        calibrate_clip(updates, **options)
