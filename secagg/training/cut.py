"""Training a part of a model, the same part for all clients: nothing else is sent, or moves.

Which part is public and agreed before: by the names of parameters, or by the size of the entries of
the common model. Both work on the model itself, so that ``Trainer``, ``aggregate``, Flower and your
own loop send what is trained alone, under noise too.
"""

import math
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase

from secagg.errors import InputError
from secagg.extras import missing

try:
    from torch import Tensor, nn
    from torch.nn.utils import parametrize
except ModuleNotFoundError as error:
    raise missing("secagg.training.cut", "torch", extra="train") from error


def train_only(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Train the parameters that ``names`` or patterns name, and freeze all others.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> train_only(model, ["2.*"])
    ['2.weight', '2.bias']

    Args:
      names: of parameters, or patterns such as ``"head.*"``. A parameter that has two names, as
        tied weights have, is trained where one of them fits.

    Returns:
      The names of what is trained, the first of each parameter.

    Raises:
      InputError: a name or pattern fits no parameter.
    """
    patterns = _patterns(names)
    every = list(_named(model))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in every):
            raise InputError(f"{pattern!r:.80} is no parameter of the model")
    found = []
    wanted = {
        id(parameter)
        for name, parameter in _named(model).items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    for name, parameter in model.named_parameters():
        trained = id(parameter) in wanted
        parameter.requires_grad_(trained)
        if trained:
            found.append(name)
    return found


def train_largest(model: nn.Module, keep: float, names: Iterable[str] = ("*",)) -> int:
    """Train the entries of largest magnitude alone, of each parameter that is trained so far.

    In a parameter's place comes a vector of the entries that are trained; the others are held, and
    the model computes as before. ``whole`` puts plain parameters back.

    Args:
      keep: the share of each parameter's entries, above 0 and below 1; rounded up.
      names: parameters, or patterns, of which entries are held; others are trained whole.

    Returns:
      How many entries are trained, in the whole model.

    Raises:
      InputError: ``keep`` is out of range, the model is cut already, nothing fits ``names``, or a
        parameter that fits has two names, as tied weights have.
    """
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep < 1:
        raise InputError(f"keep {keep!r:.40} must be above 0 and below 1")
    if any(isinstance(each, _Held) for each in model.modules()):
        raise InputError("the model is cut already: whole(model) first")
    patterns = _patterns(names)
    cut = [
        (module, own)
        for prefix, module in model.named_modules()
        for own, parameter in module.named_parameters(prefix="", recurse=False)
        if parameter.requires_grad and parameter.numel()
        if any(fnmatchcase(f"{prefix}.{own}".lstrip("."), pattern) for pattern in patterns)
    ]
    if not cut:
        raise InputError("no parameter that is trained fits the names")
    used = Counter(id(parameter) for parameter in _named(model).values())
    if tied := [own for module, own in cut if used[id(getattr(module, own))] > 1]:
        raise InputError(
            f"{tied[0]!r} is a parameter of two names, tied: cut others by names=, or untie it"
        )
    for module, own in cut:
        parameter = getattr(module, own)
        count = math.ceil(keep * parameter.numel())
        chosen = parameter.detach().abs().flatten().topk(count).indices.sort().values
        parametrize.register_parametrization(module, own, _Held(parameter.detach(), chosen))
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def whole(model: nn.Module) -> nn.Module:
    """Put plain parameters of the present values in the place of those that ``train_largest`` cut.

    Raises:
      InputError: the model is not cut.
    """
    cut = [
        (module, name)
        for module in model.modules()
        if parametrize.is_parametrized(module)
        for name, parts in module.parametrizations.items()  # type: ignore[union-attr, operator]  # a ModuleDict
        if any(isinstance(each, _Held) for each in parts)
    ]
    if not cut:
        raise InputError("the model is not cut: train_largest cuts one")
    for module, name in cut:
        values = getattr(module, name).detach().clone()
        # torch has a class for each cut module, and copies share it: they would be made whole too.
        kind = type(module)
        own = {each: what for each, what in vars(kind).items() if each not in _OF_CLASSES}
        module.__class__ = type(kind.__name__, kind.__bases__, own)
        parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        setattr(module, name, nn.Parameter(values))
    return model


_OF_CLASSES = ("__dict__", "__weakref__")  # which each class makes anew


class _Held(nn.Module):
    """A parameter of which some entries are trained, and the others stay."""

    def __init__(self, values: Tensor, chosen: Tensor) -> None:
        super().__init__()
        # No buffer: floats among those are averaged.
        self.held = nn.Parameter(values.clone(), requires_grad=False)
        self.register_buffer("chosen", chosen)

    def forward(self, trained: Tensor) -> Tensor:
        flat = self.held.flatten().scatter(0, self.chosen, trained)  # type: ignore[arg-type]  # a buffer
        return flat.reshape(self.held.shape)

    def right_inverse(self, values: Tensor) -> Tensor:
        return values.flatten()[self.chosen]  # type: ignore[index]  # a buffer


def _named(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every name of every parameter; one that is tied has two."""
    return dict(model.named_parameters(remove_duplicate=False))


def _patterns(names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise InputError(f"names is {names!r:.40}, expected several: [{names!r:.40}]")
    patterns = list(names)
    if not patterns:
        raise InputError("names is empty: nothing would be trained")
    return patterns
