"""A torch module's parameters or gradients as one flat vector, and back.

What counts is every floating-point parameter that is trained, in the order of
``module.parameters()``:

| parameter                       | here                                             |
|---------------------------------|--------------------------------------------------|
| frozen (``requires_grad=False``)| left out                                         |
| tied (one object, two places)   | once                                             |
| empty                           | takes no entries                                 |
| gradient ``None``               | zeros; ``unflatten`` makes one                   |
| sparse gradient                 | made dense                                       |
| mixed dtypes                    | float64 if one is float64, else float32          |
| several devices                 | ``InputError``                                   |
| complex, or without values      | ``InputError``                                   |

Buffers are no parameters: the running mean and variance of a BatchNorm are not
in the vector. They stay as they are on each client, and so does what they know.

torch is imported when a function is called, not with this module.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

from secagg.errors import InputError
from secagg.extras import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Part: TypeAlias = Literal["parameters", "gradients"]


def flatten(module: nn.Module, *, of: Part = "parameters") -> Tensor:
    """All trained parameters, or their gradients, as one 1-D tensor on their device.

    The result is a view where the tensors already lie side by side in one storage, in order and of
    the result's dtype (a single contiguous one does): writing to it then writes to the module, and
    training the module changes it. ``flatten(module).clone()`` is always a copy. It never requires
    a gradient. No parameters give an empty float32 vector.

    >>> import torch
    >>> flatten(torch.nn.Linear(2, 1)).shape
    torch.Size([3])

    Args:
      module: of torch; its parameters that require a gradient count, in its own order.
      of: ``"parameters"`` or ``"gradients"``.

    Raises:
      InputError: parameters on several devices, complex, or without values; or no module, or an
        unknown ``of``.
      MissingExtraError: torch is not installed.
    """
    require("flatten", "torch", extra="train")
    import torch

    parameters = _trained(module, of)
    if of == "parameters":
        tensors = [parameter.detach() for parameter in parameters]
    else:
        tensors = [_gradient(parameter) for parameter in parameters]
    double = any(tensor.dtype == torch.float64 for tensor in tensors)
    dtype = torch.float64 if double else torch.float32  # which holds every narrower type exactly
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if not tensors:
        return torch.empty(0, dtype=dtype, device=parameters[0].device if parameters else None)
    if _side_by_side(tensors, dtype):
        length = sum(tensor.numel() for tensor in tensors)
        return tensors[0].as_strided((length,), (1,))
    return torch.cat([tensor.reshape(-1).to(dtype) for tensor in tensors])


def unflatten(vector: Tensor, module: nn.Module, *, of: Part = "parameters") -> None:
    """Write ``vector`` into the trained parameters, or their gradients, in place.

    Each keeps its dtype, its device and whether it requires a gradient. Nothing is written unless
    everything fits.

    Args:
      module: of torch; nothing but its trained parameters is written to.
      of: ``"parameters"`` or ``"gradients"``.
      vector: 1-D, as long as ``flatten(module, of=of)``; moved to the module's device. Anything
        that ``torch.as_tensor`` takes.

    Raises:
      InputError: another length or shape; an entry is NaN or infinite, or becomes so in the
        parameter's dtype; or as for :func:`flatten`.
      MissingExtraError: torch is not installed.
    """
    require("unflatten", "torch", extra="train")
    import torch

    parameters = _trained(module, of)
    length = sum(parameter.numel() for parameter in parameters)
    try:
        values = torch.as_tensor(vector).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"vector is a {type(vector).__name__} that torch cannot read") from None
    if values.is_complex():
        raise InputError(f"vector holds {values.dtype}; its imaginary part would be lost")
    if not torch.is_inference_mode_enabled() and any(each.is_inference() for each in parameters):
        raise InputError("the module was made in inference mode, and cannot be written to here")
    if values.shape != (length,):
        raise InputError(f"vector has shape {tuple(values.shape)}, the module needs ({length},)")
    if not length:
        return
    sizes = [parameter.numel() for parameter in parameters]
    pieces = [
        piece.to(device=parameter.device, dtype=parameter.dtype).view(parameter.shape)
        for piece, parameter in zip(torch.split(values, sizes), parameters, strict=True)
    ]
    for name, piece in zip(_names(module, parameters), pieces, strict=True):
        # torch has no isfinite for 8-bit floats
        if not torch.isfinite(piece.float() if piece.itemsize == 1 else piece).all():
            raise InputError(f"vector is not finite at {of} of {name!r} in {piece.dtype}")
    with torch.no_grad():
        for parameter, piece in zip(parameters, pieces, strict=True):
            if of == "parameters":
                parameter.copy_(piece)
            elif parameter.grad is None or parameter.grad.is_sparse:
                parameter.grad = piece.clone()
            else:
                parameter.grad.copy_(piece)


def _trained(module: nn.Module, of: Part) -> list[nn.Parameter]:
    from torch.nn import Module
    from torch.nn.parameter import is_lazy

    if not isinstance(module, Module):
        raise InputError(
            f"{type(module).__name__} is no torch module; aggregate takes state dicts as they are"
        )
    if of not in ("parameters", "gradients"):
        raise InputError(f"of={of!r} is neither 'parameters' nor 'gradients'")
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if any(map(is_lazy, parameters)):
        raise InputError("parameters have no values yet: the module is lazy; run it once")
    devices = sorted({str(parameter.device) for parameter in parameters})
    if len(devices) > 1:
        raise InputError(f"parameters lie on {', '.join(devices)}; move the module to one device")
    if devices == ["meta"]:
        raise InputError("parameters lie on the meta device and have no values")
    if any(parameter.is_complex() for parameter in parameters):
        raise InputError("complex parameters cannot be summed as real entries; use view_as_real")
    return parameters


def _gradient(parameter: nn.Parameter) -> Tensor:
    import torch

    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(parameter, requires_grad=False)
    return (gradient.to_dense() if gradient.is_sparse else gradient).detach()


def _side_by_side(tensors: list[Tensor], dtype: torch.dtype) -> bool:
    if not all(tensor.dtype == dtype and tensor.is_contiguous() for tensor in tensors):
        return False
    return all(
        one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        and one.storage_offset() + one.numel() == other.storage_offset()
        for one, other in pairwise(tensors)
    )


def _names(module: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(parameter)] for parameter in parameters]
