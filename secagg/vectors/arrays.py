"""Named arrays and the flat vector of them, in the order that all parties agreed on.

A counter of batches is not in the vector: each party keeps its own. See ``buffers``.

Models have bytes of their own, for networks: names ascending, as UTF-8 sorts them.

    struct {
        opaque name;
        opaque type;                /* "float32", ... */
        uint8 dimensions;
        uint32 length[dimensions];
        uint8 values[];             /* little-endian, the last index moves fastest */
    } Array;                        /* as many as there are bytes for */
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.errors import DecodeError
from protocols.wire import Reader, digest, opaque, u32
from secagg.errors import InputError
from secagg.vectors.buffers import is_counter, no_negative_variance

Shapes: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
Arrays: TypeAlias = Mapping[str, NDArray[Any]]

TYPES: Final = {
    kind.encode(): np.dtype(kind).newbyteorder("<")
    for kind in (
        *("float16", "float32", "float64", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
}


def model_digest(model: Any) -> bytes:
    """SHA-256 of a model's arrays: names, types, shapes and bytes, in the order of the names.

    Two models have one digest exactly where their state dicts hold the same. A ledger holds it
    beside the round that the model came of.

    Args:
      model: a torch module, or a mapping of names to tensors or arrays.

    Raises:
      InputError: it is neither, or holds what is no array.
    """
    held = model.state_dict() if hasattr(model, "state_dict") else model
    if not isinstance(held, Mapping):
        raise InputError(f"model is a {type(model).__name__}: give a module or a mapping of arrays")
    parts: list[bytes | memoryview] = []
    raw: bytes | memoryview
    for name in sorted(held, key=str):
        value = held[name]
        if hasattr(value, "detach"):  # a tensor: numpy lacks some of its types
            kind = str(value.dtype).removeprefix("torch.")
            raw = bytes_of(value)
        else:
            value = np.asarray(value)
            if value.dtype.kind not in "fiubc":
                raise InputError(f"{name!r} holds {value.dtype}: no array of numbers")
            kind, raw = value.dtype.name, _raw(value)
        parts += [str(name).encode(), kind.encode(), repr(tuple(value.shape)).encode(), raw]
    return digest(*parts)


def bytes_of(tensor: Any) -> bytes:
    """The bytes of a torch tensor of any type, on any device."""
    import torch

    flat = tensor.detach().cpu().reshape(-1).contiguous()
    raw: bytes = flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""
    return raw


def parts_of(arrays: Arrays) -> Iterator[bytes | memoryview]:
    """The bytes of a model in parts; an array that lies in order already is not copied.

    Raises:
      InputError: an array of another type than ``TYPES``.
    """
    for name in sorted(arrays, key=str.encode):
        array = arrays[name]
        if (kind := array.dtype.name.encode()) not in TYPES:
            raise InputError(f"{name!r} holds {array.dtype}: no numbers that can be sent")
        lengths = b"".join(map(u32, array.shape))
        yield opaque(name.encode()) + opaque(kind) + bytes([array.ndim]) + lengths
        yield _raw(array.astype(TYPES[kind], copy=False))


def arrays_of(data: bytes | memoryview) -> dict[str, NDArray[Any]]:
    """The arrays of a model, each in memory of its own; inverse of ``parts_of``.

    Raises:
      DecodeError: not those bytes, or in another order.
    """
    reader, found, last = Reader(data), dict[str, NDArray[Any]](), None
    while reader.left:
        name, kind = reader.opaque(), reader.opaque()
        if last is not None and name <= last:
            raise DecodeError(f"array {name!r:.40} is listed after {last!r:.40}")
        if kind not in TYPES:
            raise DecodeError(f"an array of type {kind!r:.20}")
        shape = tuple(reader.u32() for _ in range(reader.u8()))
        values = reader.view(math.prod(shape) * TYPES[kind].itemsize)
        if kind == b"bool" and values.nbytes and np.frombuffer(values, np.uint8).max() > 1:
            raise DecodeError("an array of neither true nor false")
        try:
            found[name.decode()] = np.frombuffer(values, TYPES[kind]).reshape(shape).copy()
        except ValueError as error:  # no UTF-8, or a shape that numpy has not
            raise DecodeError(f"an array that is none: {error}"[:200]) from None
        last = name
    return found


def _raw(array: NDArray[Any]) -> memoryview:
    """An array's own bytes, copied only where it does not lie in order."""
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)


def shapes_of(arrays: Arrays) -> Shapes:
    """The shapes of arrays that can be averaged, without BatchNorm's counters.

    Raises:
      InputError: another one that holds no floats.
    """
    shapes = []
    for name, array in arrays.items():
        if is_counter(name):  # of any type: a strategy that averages makes floats of it
            continue
        shapes.append((name, tuple(array.shape)))
        if array.dtype.kind != "f":
            raise InputError(
                f"array {name!r} holds {array.dtype}: only floats are averaged, and of integers "
                "only BatchNorm's num_batches_tracked stays as the server has it; leave this one "
                "out of what is sent"
            )
    return tuple(shapes)


def flat(arrays: Arrays, shapes: Shapes, *, start: Arrays | None = None) -> NDArray[Any]:
    """One vector of all arrays, in the order of ``shapes``, less those of ``start``.

    Raises:
      InputError: other names or shapes.
    """
    if any(dict(shapes_of(each)) != dict(shapes) for each in (arrays, start or arrays)):
        raise InputError(
            f"arrays {', '.join(arrays)!r:.200} are not those, or not of the shapes, that were sent"
        )
    kind = np.result_type(np.float32, *(arrays[name] for name, _ in shapes))
    vector, at = np.empty(sum(math.prod(shape) for _, shape in shapes), kind), 0
    for name, shape in shapes:
        part = vector[at : at + math.prod(shape)]
        part[:] = arrays[name].reshape(-1)
        if start is not None:
            part -= start[name].reshape(-1)
        at += len(part)
    return vector


def unflat(vector: NDArray[Any], start: Arrays) -> dict[str, NDArray[Any]]:
    """``start`` moved by ``vector``: new arrays of its names, shapes and types.

    A counter stays as it is, and a running variance stays above 0 whatever was rounded.
    """
    moved, at = {}, 0
    for name, array in start.items():
        if is_counter(name):
            moved[name] = array.copy()
            continue
        part = vector[at : at + array.size].reshape(array.shape)
        moved[name] = np.asarray(no_negative_variance(name, array + part, array), array.dtype)
        at += array.size
    return moved
