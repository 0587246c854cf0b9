import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secagg.errors import InputError
from secagg.vectors.vector import flatten, unflatten

PARTS = pytest.mark.parametrize("of", ["parameters", "gradients"])
GPU = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
)
EIGHTH, HALF, BRAIN = torch.float8_e4m3fn, torch.float16, torch.bfloat16
SINGLE, DOUBLE = torch.float32, torch.float64


class Bag(nn.Module):
    """Just parameters."""

    def __init__(self, *tensors):
        super().__init__()
        for index, tensor in enumerate(tensors):
            self.register_parameter(f"p{index}", nn.Parameter(tensor))


def shapes_of(module, of):
    return [p if of == "parameters" else p.grad for p in module.parameters() if p.requires_grad]


def with_gradients(module):
    for number, parameter in enumerate(module.parameters()):
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, number + 1.0)
    return module


@PARTS
@given(
    shapes=st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), max_size=3),
            st.sampled_from([EIGHTH, HALF, BRAIN, SINGLE, DOUBLE]),
            st.booleans(),
        ),
        max_size=5,
    )
)
@settings(max_examples=60)
def test_unflatten_undoes_flatten_for_any_mix_of_shapes_and_dtypes(of, shapes):
    module = Bag(*(torch.rand(shape).to(dtype) for shape, dtype, _ in shapes))
    for parameter, (_, _, trained) in zip(module.parameters(), shapes, strict=True):
        parameter.requires_grad_(trained)
    with_gradients(module)
    kept = [(p.dtype, p.requires_grad, p.shape, p.data_ptr()) for p in module.parameters()]
    vector = flatten(module, of=of).clone()
    trained = [p for p in module.parameters() if p.requires_grad]
    assert vector.shape == (sum(p.numel() for p in trained),)
    assert vector.dtype == (DOUBLE if any(p.dtype == DOUBLE for p in trained) else SINGLE)
    assert not vector.requires_grad

    before = [t.detach().double().clone() for t in shapes_of(module, of)]
    frozen = [p.clone() for p in module.parameters() if not p.requires_grad]
    unflatten(torch.zeros_like(vector), module, of=of)
    assert all(not t.double().any() for t in shapes_of(module, of))
    unflatten(vector, module, of=of)
    assert all(
        torch.equal(t.double(), b) for t, b in zip(shapes_of(module, of), before, strict=True)
    )
    kept_frozen = [p for p in module.parameters() if not p.requires_grad]
    assert all(map(torch.equal, kept_frozen, frozen))
    assert kept == [(p.dtype, p.requires_grad, p.shape, p.data_ptr()) for p in module.parameters()]


def test_order_is_that_of_parameters_and_rows():
    module = Bag(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0]))
    assert flatten(module).tolist() == [1, 2, 3, 4, 5]
    transposed = Bag(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T)
    assert flatten(transposed).tolist() == [1, 3, 2, 4]
    unflatten(torch.tensor([1.0, 2.0, 3.0, 4.0]), transposed)
    assert transposed.p0.tolist() == [[1, 2], [3, 4]]
    assert transposed.p0.stride() == (1, 2)


@PARTS
def test_frozen_parameters_are_left_out(of):
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    with_gradients(module)
    assert flatten(module, of=of).shape == (4 * 2 + 2,)
    weight = module[0].weight.clone()
    unflatten(torch.ones(10), module, of=of)
    assert torch.equal(module[0].weight, weight)
    assert not module[0].weight.requires_grad
    assert module[0].weight.grad is None


def test_tied_parameters_are_taken_once():
    module = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    module[1].weight = module[0].weight
    assert flatten(module).shape == (15,)
    unflatten(torch.arange(15.0), module)
    assert module[1].weight is module[0].weight
    assert module[0].weight.flatten().tolist() == list(range(15))


def test_tied_gradients_are_the_sum_of_both_uses_once():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    module(torch.ones(1, 2)).sum().backward()
    assert torch.equal(flatten(module, of="gradients"), module[0].weight.grad.flatten())


@PARTS
def test_empty_parameters_take_no_entries(of):
    module = with_gradients(Bag(torch.empty(0, 3), torch.ones(2), torch.empty(0)))
    assert flatten(module, of=of).shape == (2,)
    unflatten(torch.tensor([4.0, 5.0]), module, of=of)
    assert shapes_of(module, of)[1].tolist() == [4, 5]
    assert module.p0.shape == (0, 3)


@PARTS
@pytest.mark.parametrize("module", [nn.ReLU(), Bag(torch.empty(0)), nn.Linear(2, 2)])
def test_no_parameters_are_an_empty_vector(of, module):
    module.requires_grad_(False)
    vector = flatten(module, of=of)
    assert vector.shape == (0,)
    assert vector.dtype == SINGLE
    unflatten(vector, module, of=of)


def test_a_missing_gradient_is_zeros_and_is_made_by_unflatten():
    module = nn.Linear(2, 1)
    assert flatten(module, of="gradients").tolist() == [0, 0, 0]
    assert module.weight.grad is None
    vector = torch.tensor([1.0, 2.0, 3.0])
    unflatten(vector, module, of="gradients")
    assert module.weight.grad.tolist() == [[1, 2]]
    vector.zero_()
    assert module.weight.grad.tolist() == [[1, 2]]  # a copy, not a view of the caller's vector


def test_a_sparse_gradient_is_made_dense():
    module = nn.Embedding(4, 1, sparse=True)
    module(torch.tensor([2, 2])).sum().backward()
    assert module.weight.grad.is_sparse
    assert flatten(module, of="gradients").tolist() == [0, 0, 2, 0]
    unflatten(torch.tensor([1.0, 0, 0, 0]), module, of="gradients")
    assert module.weight.grad.tolist() == [[1], [0], [0], [0]]


def test_one_contiguous_parameter_is_a_view():
    module = nn.Linear(3, 2, bias=False)
    vector = flatten(module)
    assert vector.data_ptr() == module.weight.data_ptr()
    vector.fill_(7)
    assert module.weight.tolist() == [[7, 7, 7], [7, 7, 7]]


@PARTS
def test_tensors_side_by_side_in_one_storage_are_a_view(of):
    storage = torch.arange(12.0)
    parts = [storage[2:8].view(2, 3), storage[8:8], storage[8:10]]
    if of == "parameters":
        module = Bag(*parts)
    else:
        module = Bag(torch.ones(2, 3), torch.ones(0), torch.ones(2))
        for parameter, part in zip(module.parameters(), parts, strict=True):
            parameter.grad = part
    vector = flatten(module, of=of)
    assert vector.tolist() == list(range(2, 10))
    assert vector.data_ptr() == storage[2:].data_ptr()
    unflatten(vector, module, of=of)
    assert storage.tolist() == list(range(12))


@pytest.mark.parametrize(
    "parts",
    [
        lambda s: [s[4:8], s[0:4]],  # out of order
        lambda s: [s[0:3], s[4:8]],  # a gap
        lambda s: [s[0:4], s[3:8]],  # an overlap
        lambda s: [s[0:4], torch.ones(8)[4:8]],  # another storage, at the offset that would follow
        lambda s: [s[0:8:2]],  # strided
        lambda s: [s[0:4], s[4:8].double()],  # another dtype
        lambda s: [s[0:4].to(HALF)],  # narrower than the result
    ],
)
def test_anything_else_is_a_copy(parts):
    storage = torch.arange(8.0)
    module = Bag(*parts(storage))
    vector = flatten(module)
    assert torch.equal(vector, torch.cat([p.detach().flatten() for p in module.parameters()]))
    vector.fill_(-1)
    assert storage.tolist() == list(range(8))


def test_batchnorm_statistics_are_not_in_the_vector():
    module = nn.BatchNorm1d(3)
    module.running_mean.fill_(5)
    assert flatten(module).shape == (6,)
    unflatten(torch.zeros(6), module)
    assert module.running_mean.tolist() == [5, 5, 5]


@pytest.mark.parametrize("device", ["cpu", GPU])
@PARTS
def test_the_device_is_kept(of, device):
    module = with_gradients(nn.Linear(2, 2).to(device))
    assert flatten(module, of=of).device.type == device
    unflatten(torch.arange(6.0), module, of=of)  # from the CPU, wherever the module is
    assert flatten(module, of=of).tolist() == list(range(6))
    assert all(tensor.device.type == device for tensor in shapes_of(module, of))


def test_several_devices_are_refused_in_one_line():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    for call in (lambda: flatten(module), lambda: unflatten(torch.zeros(12), module)):
        with pytest.raises(InputError, match=r"^parameters lie on cpu, meta; [^\n]*$"):
            call()


def test_what_has_no_real_values_is_refused():
    with pytest.raises(InputError, match="meta device"):
        flatten(nn.Linear(2, 2, device="meta"))
    with pytest.raises(InputError, match="complex"):
        flatten(Bag(torch.ones(2, dtype=torch.complex64)))


@pytest.mark.parametrize("shape", [(5,), (7,), (6, 1), (0,), ()])
def test_another_length_or_shape_is_refused_and_nothing_written(shape):
    module = nn.Linear(2, 2)
    before = flatten(module).clone()
    with pytest.raises(InputError, match=r"the module needs \(6,\)"):
        unflatten(torch.zeros(shape), module)
    assert torch.equal(flatten(module), before)


@PARTS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39])
def test_what_is_or_becomes_non_finite_is_refused_and_nothing_written(of, bad):
    module = with_gradients(nn.Linear(2, 2))
    before = flatten(module, of=of).clone()
    vector = torch.zeros(6, dtype=DOUBLE)
    vector[5] = bad  # in the last tensor: the first must not be written either
    with pytest.raises(InputError, match=r"not finite at .* of 'bias' in torch\.float32"):
        unflatten(vector, module, of=of)
    assert torch.equal(flatten(module, of=of), before)


def test_a_value_too_large_for_half_precision_is_refused():
    with pytest.raises(InputError, match=r"in torch\.float16"):
        unflatten(torch.tensor([1e5]), Bag(torch.ones(1, dtype=HALF)))


def test_an_unknown_part_is_refused():
    for call in (
        lambda: flatten(nn.Linear(1, 1), of="buffers"),
        lambda: unflatten(torch.zeros(2), nn.Linear(1, 1), of="buffers"),
    ):
        with pytest.raises(InputError, match="of='buffers'"):
            call()


@PARTS
def test_it_works_with_and_without_grad_mode_and_takes_arrays(of):
    module = with_gradients(nn.Linear(2, 2))
    with torch.no_grad():
        unflatten(flatten(module, of=of) * 2, module, of=of)
    unflatten(torch.ones(6, requires_grad=True) * 3, module, of=of)
    unflatten(torch.arange(6.0).double().numpy(), module, of=of)
    assert flatten(module, of=of).tolist() == list(range(6))
    assert module.weight.requires_grad
    assert module.weight.is_leaf


def fresh(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_importing_the_module_loads_no_torch():
    done = fresh("import sys, secagg.vectors.vector; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_the_face_loads_no_torch_either():
    modules = (
        "secagg.errors, secagg.vectors.packing, secagg.vectors.layout, secagg.vectors.quantize"
    )
    done = fresh(f"import sys, {modules}; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("call", ["flatten(None)", "unflatten(None, None)"])
def test_without_torch_the_error_names_the_extra(call):
    done = fresh(
        "import sys; sys.modules['torch'] = None\n"
        f"from secagg.vectors.vector import flatten, unflatten; {call}"
    )
    assert done.stderr.splitlines()[-1] == (
        f"secagg.errors.MissingExtraError: {call.partition('(')[0]} needs torch, "
        "which is not installed: pip install '.[train]' in a clone of secagg"
    )


@pytest.mark.parametrize(
    "module", [nn.Linear(1, 1).state_dict(), nn.Linear(1, 1).parameters(), None, nn.LazyLinear(1)]
)
def test_what_is_no_module_with_values_is_refused(module):
    with pytest.raises(InputError, match=r"no torch module|is lazy"):
        flatten(module)
    with pytest.raises(InputError, match=r"no torch module|is lazy"):
        unflatten(torch.zeros(2), module)


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        (np.arange(2.0)[::-1], "ndarray that torch cannot read"),
        ("ab", "str that torch cannot read"),
        ([object(), 1.0], "list that torch cannot read"),
        (torch.zeros(2, dtype=torch.complex64), "imaginary part"),
    ],
)
def test_what_is_no_vector_is_refused(vector, words):
    module = nn.Linear(1, 1)
    before = flatten(module).clone()
    with pytest.raises(InputError, match=words):
        unflatten(vector, module)
    assert torch.equal(flatten(module), before)


def test_a_module_of_inference_mode_is_written_to_there_alone():
    with torch.inference_mode():
        module = nn.Linear(1, 1)
        unflatten(torch.ones(2), module)
    with pytest.raises(InputError, match="inference mode"):
        unflatten(torch.zeros(2), module)
    assert flatten(module).tolist() == [1, 1]
