"""What a client computes on its examples: DP-SGD, or clipped sums to be noised elsewhere.

``LocalDpSgd`` is [ACG+16]: a Poisson batch, every example's gradient clipped to ``clip``, Gaussian
noise of deviation ``noise_multiplier * clip`` on their sum, over the *expected* batch size.
``ClippedSums`` stops after the sum, which ``dp.noise.mechanisms`` hides in shares of noise.

**Noise and coins come from a cipher**, never from a generator of torch, whose state was solved for
from one released step (tests/attacks/test_predictable_noise.py). Every batch and every step's noise
takes 32 fresh bytes of ``entropy``, so that nothing here repeats in a fork, a copy or a pickle.

**Noise is in integers.** Each clipped gradient is cut towards 0 on a grid g, a power of two. No
entry grows, so one example moves the sum of integers by at most ``clip`` / g in the L2 norm,
whatever the number of examples and the order of the sum. ``dp.noise.BinnedGaussianSampler`` makes
of that a Gaussian mechanism, floating point and all: docs/privacy/gaussian-noise.md.

**An example is computed alone.** In a batch, its float32 gradient moves with the other examples, in
the last bits by itself and by any amount under a model that somebody chose for it. Then what
one example changes would have no bound. Alone, it is a function of the example, the parameters and
a seed of its own: parameters, their hooks, buffers and attributes of modules are put back before
each, and a generator is seeded anew. A model that remembers examples elsewhere, in a class, a
global, a closure, its loss, an object that is no copy of itself or a counter of torch, is not found
out, and voids the bound; one that changes its parameters on an example of zeros is refused.

**What fails says nothing.** An example whose loss or gradient is not finite, or for which the
model fails, adds zeros: whoever chooses the parameters could choose for whose example that happens
and read off who is there. ``left_out`` counts them and is as secret as the examples. To fail is to
raise whatever it be, ``SystemExit`` too, but for ``KeyboardInterrupt``, by which a person ends the
run. Who catches that has charged for the step; a model that raises it ends runs by its data.
What can be refused, is refused before any data is touched.

[ACG+16]: Abadi et al., Deep Learning with Differential Privacy, arXiv 1607.00133.
"""

import copy
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final, TypeAlias

from dp.accounting.events import GaussianEvent, NeighboringRelation, PoissonSampling, Unit
from dp.checks import integer, positive_float
from dp.errors import InputError, MissingLibrary, NonFiniteGradient, UnsoundModel
from dp.noise.sampling import BinnedGaussianSampler, coins

try:
    import torch
    from opacus.accountants import RDPAccountant
    from opacus.validators import ModuleValidator
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingLibrary(
        f"dp.sgd needs {error.name}, which is not installed: "
        "pip install '.[train]' in a clone of secagg",
        name=error.name,
    ) from error

Entropy: TypeAlias = Callable[[int], bytes]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_MOST: Final = 1e30  # of clip and noise multiplier, 1 / _MOST the least: far from float64's ends
_FINE: Final = 41  # a deviation of the noise is from 2^40 to 2^41 steps of the grid
_MOST_STEPS: Final = 2.0**62  # of a sum before noise; with it an int64 holds both
_HOOKS: Final = ("_backward_hooks", "_post_accumulate_grad_hooks")  # a tensor's own
_REACH: Final = 13  # deviations: no draw, and half a step, is beyond


# More than seven arguments here and below: a model and its data, which belong together at every
# call, and the public numbers of DP-SGD, by the names that papers and Opacus give them.
class _PerExample:
    """A model whose gradients are clipped an example at a time, and one client's examples.

    A step hides the presence of any one example (add or remove). Modules known to mix a batch, such
    as BatchNorm, are refused: alone an example is not what they are trained for. N = len(inputs)
    and q are public.

    Attributes:
      parameter_count: entries of the vector of trained parameters, in the order of
        ``model.parameters()``; those that require no gradient stay frozen.
      left_out: examples drawn so far that added zeros, as they had no finite gradient. Secret.
    """

    parameter_count: int
    left_out: int

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        loss: Loss,
        *,
        clip: float,
        sampling_rate: float,
        entropy: Entropy,
    ) -> None:
        self._rate = PoissonSampling(rate=sampling_rate).rate
        if not (isinstance(inputs, Tensor) and isinstance(targets, Tensor)):
            raise InputError(
                f"inputs are a {type(inputs).__name__} and targets a {type(targets).__name__}, "
                "must be tensors"
            )
        if not (inputs.ndim and targets.ndim and len(inputs) == len(targets) and len(inputs)):
            raise InputError(
                f"inputs of shape {tuple(inputs.shape)} and targets of {tuple(targets.shape)}, "
                "must be equally many, at least 1"
            )
        self._clip = _ranged("clip", clip)
        model = copy.deepcopy(model).train()
        _check_layers(model)
        self._trained = [p for p in model.parameters() if p.requires_grad]
        if not self._trained:
            raise UnsoundModel("no parameter of the model requires a gradient")
        self.parameter_count = sum(p.numel() for p in self._trained)
        # Below clip by the rounding of a norm over so many entries, and of the scaling after it.
        self._norm = self._clip * (1 - 2.0**-32 - self.parameter_count * 2.0**-53)
        self._device = self._trained[0].device
        self._inputs, self._targets = inputs.to(self._device), targets.to(self._device)
        self._model, self._loss, self._entropy, self.left_out = model, loss, entropy, 0
        self._held = _Held(model)
        self._try()

    def _try(self) -> None:
        """Refuse on an example of zeros what must not be refused on one of the data."""
        before = [(name, p, p.detach().clone()) for name, p in self._model.named_parameters()]
        try:
            self._gradient(torch.zeros_like(self._inputs[:1]), torch.zeros_like(self._targets[:1]))
        except (UnsoundModel, KeyboardInterrupt):
            raise
        except BaseException as error:
            told = f"{error}".splitlines() or [type(error).__name__]
            raise UnsoundModel(
                f"the model and its loss fail on an example of zeros: {told[0]}"
            ) from error
        for name, now, was in before:
            if not torch.equal(now.nan_to_num(), was.nan_to_num()):
                raise UnsoundModel(
                    f"the model changes its parameter {name!r} while it computes: one example "
                    "would be computed from what others left behind; make it a buffer"
                )
        self._held.put_back()

    def _load(self, parameters: Tensor) -> Tensor:
        """``parameters`` checked, as a new float64 vector on the model's device."""
        if parameters.shape != (self.parameter_count,) or not parameters.is_floating_point():
            raise InputError(
                f"parameters are {parameters.dtype} of shape {tuple(parameters.shape)}, "
                f"must be floats of shape ({self.parameter_count},)"
            )
        position = parameters.detach().to(device=self._device, dtype=torch.float64, copy=True)
        self._place(position)
        if not all(torch.isfinite(p).all() for p in (position, *self._trained)):
            raise NonFiniteGradient("the parameters to train from are not finite")
        return position

    def _place(self, position: Tensor) -> None:
        self._held.put_back()
        with torch.no_grad():
            parts = torch.split(position, [p.numel() for p in self._trained])
            for parameter, part in zip(self._trained, parts, strict=True):
                parameter.copy_(part.view_as(parameter))
        self._held.keep_values()

    def _batch(self) -> list[int]:
        """A Poisson batch, drawn anew."""
        return list(map(int, coins(len(self._inputs), self._rate, entropy=self._entropy)))

    def _clipped(self, *, scale: float = 1.0) -> Iterator[Tensor]:
        """Each gradient of a new batch times ``scale``, of a norm of at most ``clip * scale``."""
        for i in self._batch():
            try:
                # A copy, so that not even the place in memory says which example it is.
                gradient = self._gradient(
                    self._inputs[i : i + 1].clone(), self._targets[i : i + 1].clone()
                )
            except KeyboardInterrupt:
                raise
            except BaseException:  # noqa: BLE001  # whatever it is, it is made of this example
                gradient = None
            norm = math.nan if gradient is None else float(torch.linalg.vector_norm(gradient))
            if gradient is None or not math.isfinite(norm):
                self.left_out += 1
                continue
            yield gradient * ((self._norm / norm if norm > self._norm else 1.0) * scale)

    def _gradient(self, inputs: Tensor, targets: Tensor) -> Tensor | None:
        """Of one example, flat in float64; ``None`` if its loss is not finite.

        All that the model holds is as it was when the model was handed in, and what the model
        draws is from a seed of this example alone: otherwise it would depend on who came before.
        """
        self._held.put_back()
        cuda = [self._device] if self._device.type == "cuda" else []
        seed = int.from_bytes(self._entropy(32)[:8]) >> 1
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            torch.manual_seed(seed)
            losses = self._loss(self._model(inputs), targets)
            if losses.shape != (1,):
                raise UnsoundModel(
                    f"the loss of one example has shape {tuple(losses.shape)}, must be (1,): "
                    'one number an example (reduction="none")'
                )
            found = torch.autograd.grad(losses.sum(), self._trained, allow_unused=True)
        for parameter, part in zip(self._trained, found, strict=True):
            if part is None:
                raise UnsoundModel(
                    f"a parameter of shape {tuple(parameter.shape)} has no gradient; "
                    "freeze it if the loss does not use it"
                )
        if not torch.isfinite(losses).all():
            return None
        return torch.cat([part.reshape(-1).double() for part in found])


def _check_layers(model: nn.Module) -> None:
    """Refuse by name the layer that Opacus' validator refuses, in one line."""
    if not (errors := ModuleValidator.validate(model, strict=False)):
        return
    checks = ModuleValidator.VALIDATORS
    for name, layer in model.named_modules():
        if type(layer) in checks and checks[type(layer)](layer):
            kind = type(layer).__name__
            cure = next((cure for start, cure in _CURES.items() if kind.startswith(start)), _OTHER)
            where = f"layer {name!r}" if name else "the model"
            raise UnsoundModel(f"{where} is a {kind}: {cure.format(kind)}")
    told = f"{errors[0]}".splitlines() or [type(errors[0]).__name__]
    raise UnsoundModel(f"Opacus refuses the model: {told[0]:.200}")


_CURES: Final = {
    "BatchNorm": "it mixes the examples of a batch; take GroupNorm",
    "SyncBatchNorm": "it mixes the examples of a batch; take GroupNorm",
    "InstanceNorm": "it keeps statistics of examples; take track_running_stats=False",
}
_OTHER: Final = (
    "Opacus cannot clip one example's gradient in it; take opacus.layers.DP{0}, if there is one"
)


class _Held:
    """What a model's modules hold, to be put back at any time.

    Names and all that stands under them: attributes, hooks, submodules, buffers, parameters with
    their values, hooks and attributes of their own. Functions, classes
    and whatever else Python does not copy are kept as they are, with what they reach.
    """

    def __init__(self, model: nn.Module) -> None:
        modules, tables = list(model.modules()), ("_parameters", "_modules", "_buffers")
        self._shared: dict[int, Any] = {id(p): p for p in (*modules, *model.parameters())}
        # ``data`` is the same memory in its first shape.
        self._parameters = [
            (p, p.data, p.detach().clone(), p.requires_grad, dict(vars(p)))
            for p in model.parameters()
        ]
        self._tables = [(m.__dict__[n], dict(m.__dict__[n])) for m in modules for n in tables]
        self._attributes = [(module, dict(vars(module))) for module in modules]
        self._buffers = [
            (module.__dict__["_buffers"], name, kept.detach().clone())
            for module in modules
            for name, kept in module.named_buffers(recurse=False)
        ]
        others = [
            (module, name, value)
            for module, attributes in self._attributes
            for name, value in attributes.items()
            if name not in tables
        ]
        # Most are hooks that nobody has set: to look at each takes less than to make it anew.
        kinds = (dict, OrderedDict, list, set)
        self._empty = [value for _, _, value in others if type(value) in kinds and not value]
        copies = self._copied([value for _, _, value in others])
        self._changing = [
            (module, name, copied)
            for (module, name, value), copied in zip(others, copies, strict=True)
            if copied is not value and not any(value is empty for empty in self._empty)
        ]

    def keep_values(self) -> None:
        """Take the parameters' values of now for those to put back."""
        for parameter, _, kept, _, _ in self._parameters:
            kept.copy_(parameter.detach())

    def put_back(self) -> None:
        """All as it was when this was made, and parameters as they were kept last."""
        for parameter, data, kept, trained, own in self._parameters:
            parameter.detach_().data = data.copy_(kept)  # a leaf again, whatever was done to it
            parameter.requires_grad, parameter.grad = trained, None
            for hooks in _HOOKS:
                setattr(parameter, hooks, None)
            vars(parameter).clear()
            vars(parameter).update(own)
        for module, attributes in self._attributes:
            own = module.__dict__
            own.clear()
            own.update(attributes)
        for table, held in self._tables:
            table.clear()
            table.update(held)
        for buffers, name, kept in self._buffers:
            buffers[name] = kept.clone()
        for empty in self._empty:
            if empty:
                empty.clear()
        if self._changing:
            fresh = self._copied([kept for _, _, kept in self._changing])
            for (module, name, _), value in zip(self._changing, fresh, strict=True):
                module.__dict__[name] = value

    def _copied(self, values: list[Any]) -> list[Any]:
        """Together, so that what two of them share stays one; modules and parameters themselves."""
        return copy.deepcopy(values, dict(self._shared))


class ClippedSums(_PerExample):
    """The sum of one client's clipped gradients over a Poisson batch, step after step.

    Adding or removing one example moves ``sum`` by at most ``clip`` in the L2 norm, up to the
    rounding of a float64 sum. **No noise is in it**: it may leave the client only under
    ``dp.noise.mechanisms`` and a secure sum, whose event names the ``sampling`` of this object.
    ``expected_batch`` = q N is the public number to divide by; the size of the batch that was drawn
    is secret.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        loss: Loss,
        *,
        clip: float,
        sampling_rate: float,
        entropy: Entropy = os.urandom,
    ) -> None:
        """Copy ``model`` and make it ready; arguments and errors as of ``LocalDpSgd``."""
        super().__init__(
            model, inputs, targets, loss, clip=clip, sampling_rate=sampling_rate, entropy=entropy
        )
        self.expected_batch = self._rate * len(inputs)

    @property
    def sampling(self) -> PoissonSampling:
        """How a batch is drawn, for the event."""
        return PoissonSampling(rate=self._rate)

    def sum(self, parameters: Tensor) -> Tensor:
        """The sum at ``parameters`` over a batch drawn anew; zeros where that is empty.

        Args:
          parameters: the trained parameters, flat, in the order of ``model.parameters()``.

        Returns:
          float64 of the same shape, on the model's device, always finite.

        Raises:
          NonFiniteGradient: a parameter is NaN or infinite. No data was touched.
          InputError: the vector's shape or type is wrong. No data was touched.
        """
        total = torch.zeros_like(self._load(parameters))
        for gradient in self._clipped():
            total += gradient
        return total


class LocalDpSgd(_PerExample):
    """One client's private training, round after round: ``run(parameters, steps)``.

    A run hides any one example as ``event(steps)`` says, up to ``sampler_error`` in total variation
    for every entry of every step.
    """

    # What is trained, what plain DP-SGD may choose, and where an earlier run stopped.
    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        loss: Loss,
        *,
        learning_rate: float,
        clip: float,
        noise_multiplier: float,
        sampling_rate: float,
        steps_taken: int = 0,
        entropy: Entropy = os.urandom,
    ) -> None:
        """Copy ``model`` and make it ready.

        Args:
          model: trained are its parameters that require a gradient; the rest stays frozen,
            neither clipped nor noised nor returned. It may not change afterwards.
          inputs: the N examples, along the first dimension.
          targets: theirs, along the first dimension.
          loss: from the model's output and the targets of n examples to n losses, one an
            example (``reduction="none"``).
          learning_rate: of plain SGD. Without momentum nothing passes between rounds but
            the history.
          clip: the greatest L2 norm of one example's gradient, C.
          noise_multiplier: standard deviation of the noise over C, z; above N / 2^21.
          sampling_rate: q, the probability of every coin, exactly.
          steps_taken: steps of this client before, from the ledger after a restart.
          entropy: n random bytes on request; the default is the system's.

        Raises:
          UnsoundModel: a module mixes examples, nothing is to be trained, or the model and its loss
            do not work on an example of zeros.
          InputError: an argument is out of range.
        """
        integer("steps_taken", steps_taken)
        self.learning_rate = learning_rate
        self._event = GaussianEvent(
            noise_multiplier=_ranged("noise_multiplier", noise_multiplier),
            sampling=PoissonSampling(rate=sampling_rate),
            unit=Unit.EXAMPLE,
            adjacency=NeighboringRelation.ADD_OR_REMOVE,
        )
        super().__init__(
            model, inputs, targets, loss, clip=clip, sampling_rate=sampling_rate, entropy=entropy
        )
        z = self._event.noise_multiplier
        mantissa, exponent = math.frexp(z * self._clip)
        self._grid = math.ldexp(1.0, exponent - _FINE)
        if len(inputs) * self._clip / self._grid >= _MOST_STEPS:
            raise InputError(
                f"noise_multiplier is {z}, too little for {len(inputs)} examples: their sum must "
                "stay below 2**62 steps of the grid that the noise is drawn on"
            )
        self._sampler = BinnedGaussianSampler(math.ldexp(mantissa, _FINE))
        self.sampler_error = self._sampler.error
        self._accountant = RDPAccountant()
        if steps_taken:
            self._accountant.history = [(z, self._rate, steps_taken)]

    @property
    def learning_rate(self) -> float:
        """The step size of the next run; another one costs nothing, the noise has no part in it."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = positive_float("learning rate", value)

    @property
    def steps_taken(self) -> int:
        """Steps in the life of this client, those before a restart included."""
        return sum(steps for _, _, steps in self._accountant.history)

    @property
    def history(self) -> tuple[tuple[float, float, int], ...]:
        """Opacus' own record: (noise multiplier, sampling rate, steps), of the whole life."""
        return tuple(self._accountant.history)

    def event(self, steps: int) -> GaussianEvent:
        """What ``steps`` steps of this client release: reserve it before ``run``."""
        return replace(self._event, steps=steps)

    def run(self, parameters: Tensor, steps: int) -> Tensor:
        """Train from ``parameters`` for ``steps`` steps and return the new ones.

        An empty batch is a step like any other: noise alone. Every step adds one to the
        history.

        Args:
          parameters: the trained parameters, flat, in the order of ``model.parameters()``.
          steps: at least 1.

        Returns:
          A new vector of the same shape, type and device, always finite.

        Raises:
          NonFiniteGradient: a parameter is NaN or infinite, or could become so in so many steps. No
            data was touched.
          InputError: the vector's shape or type, or ``steps``, is wrong. No data was touched.
        """
        integer("steps", steps, 1)
        position = self._load(parameters)
        self._check_range(position, steps, parameters.dtype)
        q, z = self._rate, self._event.noise_multiplier
        for _ in range(steps):
            self._accountant.step(noise_multiplier=z, sample_rate=q)
            total = torch.zeros_like(position, dtype=torch.int64)
            for gradient in self._clipped(scale=1 / self._grid):
                total += gradient.to(torch.int64)  # towards 0
            noise = self._sampler.sample(self.parameter_count, entropy=self._entropy)
            total += torch.from_numpy(noise).to(self._device)
            # From here on everything follows from numbers that are private.
            position -= self._learning_rate * self._grid / (q * len(self._inputs)) * total.double()
            self._place(position)
        return position.to(device=parameters.device, dtype=parameters.dtype)

    def _check_range(self, position: Tensor, steps: int, dtype: torch.dtype) -> None:
        """Refuse steps after which an entry may be infinite, from public numbers alone."""
        z, n = self._event.noise_multiplier, len(self._inputs)
        step = self._learning_rate * self._clip * (n + _REACH * z) / (self._rate * n)
        most = min(torch.finfo(kind).max for kind in (dtype, *(p.dtype for p in self._trained)))
        if float(position.abs().max()) + steps * step > most * (1 - 2.0**-6):  # roundings below
            raise NonFiniteGradient(
                f"{steps} steps may take the parameters out of their type's range; "
                "lower learning_rate"
            )


def _ranged(name: str, value: float) -> float:
    number = positive_float(name, value, most=_MOST)
    if number < 1 / _MOST:
        raise InputError(f"{name} is {number}, must be at least {1 / _MOST:g}")
    return number
