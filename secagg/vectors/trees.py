"""Models as people have them, in any container, as named arrays, and back.

| what a client hands over               | here                                              |
|----------------------------------------|---------------------------------------------------|
| numpy array, torch tensor              | one array, called ``update``                      |
| anything that numpy takes for an array | one array: a jax.Array, a list of numbers         |
| number                                 | one entry                                         |
| torch module                           | its ``state_dict()``                              |
| dict, list, tuple, named tuple         | what is in it, at any depth; None has nothing     |
| sparse tensor or matrix                | made dense                                        |
| bfloat16, half and narrower            | float32, which holds them exactly                 |

An array in a container is called by the way to it, ``encoder/0/kernel``. All clients need the same
names and shapes; the order of a dict's keys, dtypes and devices may differ.

| what a client hands over                         | ``InputError`` |
|--------------------------------------------------|----------------|
| complex, text, objects, masked, quantised        | by name        |
| a tensor without values (``meta``)               | by name        |
| pandas: two may have their labels in other order | by name        |
| keys that are neither text nor int, two of a name | by name       |

Neither torch nor jax is imported here: whoever hands a tensor over has.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputError
from secagg.vectors.layout import UPDATE
from secagg.vectors.quantize import refuse_non_finite

if TYPE_CHECKING:
    import torch

Leaf: TypeAlias = Any  # an ndarray or a torch tensor, dense and real

MAX_DEPTH: Final = 100  # of containers in containers; a list in itself has no end
_NARROW: Final = ("bfloat16", "float8", "float6", "float4")  # ml_dtypes', unknown to numpy


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What is public about an array.

    Attributes:
      shape: of every client's.
      dtype: of a mean: float64 if one client's is, else float32; int64 where all have integers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def entries(self) -> int:
        return int(np.prod(self.shape, dtype=object))

    @property
    def integer(self) -> bool:
        return self.dtype.kind == "i"


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What all clients hand over, of one structure.

    Attributes:
      forms: by name, in the order of the first client.
      start: what is taken off every client's floats; ``None`` for nothing.
    """

    forms: Mapping[str, Form]
    start: Mapping[str, Leaf] | None = field(repr=False)
    _clients: tuple[Mapping[str, Leaf], ...] = field(repr=False)
    _template: Any = field(repr=False)

    def __len__(self) -> int:
        return len(self._clients)

    def vector(self, client: int, name: str) -> NDArray[Any]:
        """One client's array, flat: float32, float64, or integers; less ``start``."""
        form = self.forms[name]
        values = vector_of(self._clients[client][name])
        if form.integer:
            return values
        if values.dtype.kind != "f":
            values = values.astype(np.float64)
        if self.start is None:
            return values
        with np.errstate(over="ignore", invalid="ignore"):  # which is refused later, by name
            change: NDArray[Any] = np.subtract(values, vector_of(self.start[name]))
        return change

    def rebuild(self, values: Mapping[str, NDArray[Any]]) -> Any:
        """``values`` in the containers of the first client.

        A name that has none is left out of a dict, and None in a list. Tensors come back as
        tensors on their device, numbers as numbers.
        """
        return _rebuild(self._template, "", values, self._clients[0])


def read_models(updates: Iterable[Any], start: Any = None) -> Models:
    """Look at what every client hands over, but at no value.

    What comes out of a generator is copied: it may train one model in place, client after client.

    Raises:
      InputError: fewer than 2 clients, or two that do not fit together; the message numbers them.
    """
    template, clients = None, list[dict[str, Leaf]]()
    for number, model in enumerate(_iterate(updates)):
        arrays = named_arrays(model, whose=f"client {number}")
        if isinstance(updates, Iterator):
            arrays = {name: _copied(leaf) for name, leaf in arrays.items()}
        if not clients:
            template = model
        clients.append(arrays)
    if len(clients) < 2:
        raise InputError(f"{len(clients)} updates: at least 2 clients can hide in a sum")
    first = clients[0]
    forms = {name: _form([client.get(name) for client in clients]) for name in first}
    parties = [(f"client {number}", client) for number, client in enumerate(clients)]
    taken = None
    if start is not None:
        parties.append(("start", taken := named_arrays(start, whose="start")))
    for whose, arrays in parties:
        _refuse_strangers(whose, arrays, forms)
    if not any(form.entries for form in forms.values()):
        raise InputError("the updates hold no entry: there is nothing to sum")
    for name, leaf in (taken or {}).items():
        values = vector_of(leaf)
        if values.dtype.kind == "f":
            refuse_non_finite(values, 0, f"start: {name}", np.empty(len(values), np.bool_))
    return Models(forms=forms, start=taken, _clients=tuple(clients), _template=template)


def named_arrays(model: Any, *, whose: str = "model") -> dict[str, Leaf]:
    """The arrays of a model by name, in order, sharing memory where they can.

    >>> list(named_arrays({"dense": {"kernel": [[1.0]], "bias": [0.5]}, "scale": 2.0}))
    ['dense/kernel', 'dense/bias', 'scale']

    Raises:
      InputError: something in it is no array of real numbers; the message says whose.
    """
    found: dict[str, Leaf] = {}
    try:
        for name, value in _walk(model, "", 0):
            if name in found:
                raise InputError(f"two arrays are called {name!r}")
            found[name] = _leaf(value, name)
    except InputError as error:
        raise InputError(f"{whose}: {error}") from None
    return found


def vector_of(leaf: Leaf) -> NDArray[Any]:
    """A leaf as one dimension in numpy: float32, float64 or integers."""
    if not _is_tensor(leaf):
        values: NDArray[Any] = leaf.reshape(-1)
        return values.astype(np.float32) if values.dtype == np.float16 else values
    flat = leaf.cpu().resolve_neg().reshape(-1)
    if flat.dtype.is_floating_point and flat.dtype.itemsize < 4:
        flat = flat.float()
    return np.asarray(flat.numpy())


def _iterate(updates: Iterable[Any]) -> Iterator[Any]:
    if isinstance(updates, Mapping):
        raise InputError("updates is a mapping; hand over its values(), one model a client")
    if isinstance(updates, Set):
        raise InputError("updates is a set, which has no order; hand over a list")
    if isinstance(updates, str | bytes) or _is_module(updates):
        raise InputError(f"updates is one {type(updates).__name__}, expected one model a client")
    try:
        return iter(updates)
    except TypeError:
        what = type(updates).__name__
        raise InputError(f"updates is one {what}, expected one model a client") from None


def _form(leaves: list[Leaf | None]) -> Form:
    """The form of all clients' arrays of one name; one that lacks it is found elsewhere."""
    kinds = [_dtype(leaf) for leaf in leaves if leaf is not None]
    floats = [kind for kind in kinds if kind.kind == "f"]
    dtype = np.result_type(np.float32, *floats) if floats else np.dtype(np.int64)
    return Form(shape=tuple(map(int, leaves[0].shape)), dtype=dtype)  # type: ignore[union-attr]  # the first client has it


def _dtype(leaf: Leaf) -> np.dtype[Any]:
    """What the mean of a leaf needs: float32, float64 or int64."""
    if _is_tensor(leaf):
        floats, wide = leaf.dtype.is_floating_point, leaf.dtype.itemsize > 4
    else:
        floats, wide = leaf.dtype.kind == "f", leaf.dtype.itemsize > 4
    return np.dtype((np.float64 if wide else np.float32) if floats else np.int64)


def _refuse_strangers(whose: str, arrays: Mapping[str, Leaf], forms: Mapping[str, Form]) -> None:
    missing, strange = forms.keys() - arrays.keys(), arrays.keys() - forms.keys()
    if missing or strange:
        parts = [
            f"{word} {', '.join(map(repr, sorted(names)[:3]))}{' ...' if len(names) > 3 else ''}"
            for word, names in (("lacks", missing), ("alone has", strange))
            if names
        ]
        raise InputError(f"{whose} {' and '.join(parts)}: every update needs the same names")
    for name, form in forms.items():
        if (shape := tuple(arrays[name].shape)) != form.shape:
            raise InputError(
                f"{whose}: {name!r} has shape {shape}, that of client 0 has {form.shape}"
            )


def _walk(value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > MAX_DEPTH:
        raise InputError(f"containers lie more than {MAX_DEPTH} deep in each other")
    items = _items(value, name)
    if items is not None:
        for below, inner in items:
            yield from _walk(inner, below, depth + 1)
    elif value is not None:
        yield name or UPDATE, value


def _items(value: Any, name: str) -> list[tuple[str, Any]] | None:
    """What a container holds, each with its whole name; ``None`` if it is none."""
    if _is_module(value):
        value = value.state_dict()
    if isinstance(value, Mapping):
        return [(_join(name, key), inner) for key, inner in value.items()]
    if isinstance(value, list | tuple) and _number_shape(value, 0) is None:
        keys = getattr(value, "_fields", range(len(value)))
        return [(_join(name, key), inner) for key, inner in zip(keys, value, strict=True)]
    return None


def _join(name: str, key: Any) -> str:
    if isinstance(key, bool) or not isinstance(key, str | int) or key == "":
        raise InputError(f"a name is {key!r:.40}, expected text or an int")
    joined = f"{name}/{key}" if name else str(key)
    try:
        size = len(joined.encode())
    except UnicodeEncodeError:
        raise InputError(f"the name {joined!r:.40} is no Unicode text") from None
    if size >= 2**16 - 2**8:
        raise InputError(f"a name of {size} bytes is too long")
    return joined


def _number_shape(value: Any, depth: int) -> tuple[int, ...] | None:
    """The shape of a list of numbers, or of such lists of one shape; ``None`` of all else."""
    if isinstance(value, int | float | np.generic):
        return ()
    if type(value) not in (list, tuple) or depth > MAX_DEPTH:
        return None
    shapes = {_number_shape(inner, depth + 1) for inner in value}
    if not shapes:
        return (0,)
    inner_shape = shapes.pop()
    return None if shapes or inner_shape is None else (len(value), *inner_shape)


def _leaf(value: Any, name: str) -> Leaf:
    if _is_tensor(value):
        return _dense(value, name)
    refusal = InputError(f"{name!r} is a {type(value).__name__}, expected an array of numbers")
    if isinstance(value, np.ma.MaskedArray | str | bytes):  # numpy would unmask what is masked
        raise refusal
    if hasattr(value, "iloc"):
        raise InputError(f"{name!r} has labels, which a sum does not read; use to_numpy()")
    try:
        array = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise refusal from None
    if array.dtype.kind == "V" and array.dtype.name.startswith(_NARROW):
        array = array.astype(np.float32)
    if array.dtype.kind == "O":
        raise refusal
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise InputError(f"{name!r} holds {array.dtype}, expected real numbers of at most 64 bits")
    return array


def _dense(tensor: "torch.Tensor", name: str) -> "torch.Tensor":
    import torch

    if tensor.is_complex():
        raise InputError(f"{name!r} holds {tensor.dtype}, expected real numbers; use view_as_real")
    lazy = torch.nn.parameter.is_lazy(tensor)
    if lazy or tensor.device.type == "meta":
        raise InputError(f"{name!r} has no values: it is {'lazy' if lazy else 'on meta'}")
    if tensor.is_quantized or tensor.is_nested:
        raise InputError(f"{name!r} is quantised or nested; hand over plain tensors")
    tensor = tensor.detach()
    if tensor.layout is torch.strided:
        return tensor
    try:
        return tensor.to_dense()
    except RuntimeError:
        raise InputError(f"{name!r} of layout {tensor.layout} cannot be made dense") from None


def _rebuild(
    model: Any, name: str, values: Mapping[str, NDArray[Any]], first: Mapping[str, Leaf]
) -> Any:
    items = _items(model, name)
    if items is None:
        leaf = name or UPDATE
        if model is None or leaf not in values:
            return None
        return _like(model, first[leaf], values[leaf])
    if isinstance(model, list | tuple):
        parts = [_rebuild(inner, below, values, first) for below, inner in items]
        return type(model)(*parts) if hasattr(model, "_fields") else type(model)(parts)
    if _is_module(model):
        model = model.state_dict()
    pairs = {
        key: _rebuild(inner, below, values, first)
        for key, (below, inner) in zip(model, items, strict=True)
        if below in values or below not in first
    }
    try:  # made anew, so that a state_dict's own notes do not ask for what was left out
        return type(model)(pairs)
    except (TypeError, ValueError):  # a defaultdict, whose first argument is another
        return pairs


def _like(given: Any, leaf: Leaf, values: NDArray[Any]) -> Any:
    """Flat ``values`` as what was given: a tensor on its device, a number, an array."""
    if _is_tensor(leaf):
        import torch

        return torch.from_numpy(values).reshape(leaf.shape).to(leaf.device)
    if isinstance(given, int | float):
        return values[0].item()
    return values.reshape(leaf.shape)


def _copied(leaf: Leaf) -> Leaf:
    return leaf.clone() if _is_tensor(leaf) else leaf.copy()


def _is_tensor(value: Any) -> "TypeGuard[torch.Tensor]":
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)
