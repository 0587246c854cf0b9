"""What a client computes with Opacus: DP-SGD of its own, or clipped sums to be noised elsewhere.

``LocalDpSgd`` is [ACG+16] as Opacus 1.6 does it: a Poisson batch, every example's gradient
clipped to ``clip``, Gaussian noise of deviation ``noise_multiplier * clip`` on their sum,
over the *expected* batch size. One optimizer and one history for the life of the
client: a fresh engine a round would report the first round's epsilon for ever.
``ClippedSums`` stops after the sum, which ``dp.noise.mechanisms`` hides in shares of noise.

Both clip and sum in float64. In float32 a sum of many gradients is rounded by more than
a small part of ``clip``, and what one example changes would pass the bound.

What the local noise is: floating point from torch's generator, on a CPU the Mersenne
Twister, which is not cryptographic. Floating-point Gaussians are open to attacks on
their low bits [Mironov 2012]; every report says so. Opacus draws in float32, where
``torch.normal`` never passes 5.77 deviations (none of 3e9 draws did), too short a tail
for a small delta. Here it is drawn and added in float64, up to 8.6 deviations, and
rounded to the parameters' type after. The generators get their whole state from
``entropy``: ``manual_seed`` would use 32 bits of it.

``make_private`` of Opacus is not called: it takes 1/ceil(N/B) for the sampling rate and
truncates q N in the divisor. Its parts are put together here with both right.

[ACG+16]: Abadi et al., Deep Learning with Differential Privacy, arXiv 1607.00133.
"""

import copy
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, TypeAlias

from dp.accounting.events import GaussianEvent, NeighboringRelation, PoissonSampling, Unit
from dp.checks import integer, positive_float
from dp.errors import BadParameter, MissingLibrary, NonFiniteGradient, UnsoundModel

try:
    import torch
    from opacus.accountants import RDPAccountant
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from opacus.utils.uniform_sampler import UniformWithReplacementSampler
    from opacus.validators import ModuleValidator
    from opacus.validators.errors import UnsupportedModuleError
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingLibrary(
        f"dp.sgd needs {error.name}, which is not installed: "
        "pip install '.[train]' in a clone of secagg",
        name=error.name,
    ) from error

Entropy: TypeAlias = Callable[[int], bytes]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_COINS: Final = 2**24  # torch.rand in float32 is uniform over multiples of 2^-24
_TWISTER_WORDS: Final = 624  # of 32 bits, the state of MT19937
_TWISTER_OFFSET: Final = 24  # bytes before them in torch's serialised state, 8 bytes a word


# More than seven arguments here and below: a model and its data, which belong together at every
# call, and the public numbers of DP-SGD, by the names that papers and Opacus give them.
class _PerExample:
    """A model whose gradients are clipped an example at a time, and one client's examples.

    A step hides the presence of any one example (add or remove), provided that the output
    for an example depends on that example alone: modules known to mix a batch, such as
    BatchNorm, are refused. N = len(inputs) and q are public. Ghost clipping is not
    offered: with a loss of one's own it trains unclipped without a word.

    Attributes:
      parameter_count: entries of the vector of trained parameters, in the order of
        ``model.parameters()``; those that require no gradient stay frozen.
    """

    parameter_count: int

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
        physical_batch: int | None,
        entropy: Entropy,
    ) -> None:
        self._rate = PoissonSampling(rate=sampling_rate).rate
        if len(inputs) != len(targets) or not len(inputs):
            raise BadParameter(
                f"{len(inputs)} inputs and {len(targets)} targets, must be equally many, at least 1"
            )
        coin = math.floor(self._rate * _COINS) / _COINS
        if not coin:
            raise BadParameter(f"sampling rate is {sampling_rate}, must be at least 2**-24")
        if physical_batch is not None:
            integer("physical_batch", physical_batch, 1)
        norm = positive_float("clip", clip)
        model = copy.deepcopy(model).train()
        try:
            ModuleValidator.validate(model, strict=True)
        except UnsupportedModuleError as error:
            raise UnsoundModel(f"Opacus refuses the model: {error}".splitlines()[0]) from error
        self._trained = [p for p in model.parameters() if p.requires_grad]
        if not self._trained:
            raise UnsoundModel("no parameter of the model requires a gradient")
        self.parameter_count = sum(p.numel() for p in self._trained)
        device = self._trained[0].device
        self._inputs, self._targets, self._loss = inputs.to(device), targets.to(device), loss
        # The losses of a batch are summed, so that an example's gradient is its own
        # whatever the batch; the one division is by q N, in the optimizer.
        self._model = GradSampleModule(model, loss_reduction="sum")
        self._model.forbid_grad_accumulation()
        self._physical_batch = physical_batch
        self._optimizer = _DoubleOptimizer(
            torch.optim.SGD(self._trained, lr=learning_rate),
            noise_multiplier=noise_multiplier,
            max_grad_norm=norm,
            expected_batch_size=self._rate * len(inputs),
            loss_reduction="mean",
            generator=_generator(device, entropy),
        )
        self._batches = _batches(
            UniformWithReplacementSampler(
                num_samples=len(inputs),
                sample_rate=coin,
                generator=_generator(torch.device("cpu"), entropy),
            )
        )

    def _load(self, parameters: Tensor) -> None:
        if parameters.shape != (self.parameter_count,) or not parameters.is_floating_point():
            raise BadParameter(
                f"parameters are {parameters.dtype} of shape {tuple(parameters.shape)}, "
                f"must be floats of shape ({self.parameter_count},)"
            )
        if not torch.isfinite(parameters).all():
            raise NonFiniteGradient("the parameters to train from are not finite")
        with torch.no_grad():
            parts = torch.split(parameters, [p.numel() for p in self._trained])
            for parameter, part in zip(self._trained, parts, strict=True):
                parameter.copy_(part.view_as(parameter))

    def _sum(self) -> None:
        """Draw a batch and leave its clipped sum in ``summed_grad``, part by part."""
        batch = next(self._batches)
        size = self._physical_batch or max(len(batch), 1)
        for p in self._trained:
            p.summed_grad = None  # type: ignore[attr-defined]  # Opacus' fields, here and below
        for start in range(0, max(len(batch), 1), size):
            for p in self._trained:
                p.grad = None
                # Not every layer takes an empty batch; its gradients are known without one.
                p.grad_sample = None if batch else p.new_zeros((0, *p.shape))  # type: ignore[attr-defined]
            if batch:
                self._backward(batch[start : start + size])
            self._optimizer.clip_and_accumulate()

    def _backward(self, batch: list[int]) -> None:
        """Leave every example's gradient in ``grad_sample``, or raise before any noise."""
        outputs = self._model(self._inputs[batch])
        losses = self._loss(outputs, self._targets[batch])
        if losses.shape != (len(batch),):
            raise UnsoundModel(
                f"the loss of {len(batch)} examples has shape {tuple(losses.shape)}, must be "
                'one number an example (reduction="none")'
            )
        with warnings.catch_warnings():
            # The hooks fire at the first layer too, whose inputs need no gradient: as meant.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses.sum().backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        for p in self._trained:
            found = getattr(p, "grad_sample", None)
            if not isinstance(found, Tensor) or len(found) != len(batch):
                raise UnsoundModel(
                    f"a parameter of shape {tuple(p.shape)} has no gradient an example; "
                    "freeze it if the loss does not use it"
                )
            if not torch.isfinite(found).all():
                raise NonFiniteGradient("an example's gradient is not finite; check the data")


class ClippedSums(_PerExample):
    """The sum of one client's clipped gradients over a Poisson batch, step after step.

    Adding or removing one example moves ``sum`` by at most ``clip`` in the L2 norm. **No noise
    is in it**: it may leave the client only under ``dp.noise.mechanisms`` and a secure sum, whose
    event names the ``sampling`` of this object. ``expected_batch`` = q N is the public number
    to divide by; the size of the batch that was drawn is secret.
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
        physical_batch: int | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        """Copy ``model`` and make it ready; arguments and errors as of ``LocalDpSgd``."""
        super().__init__(
            model,
            inputs,
            targets,
            loss,
            learning_rate=0.0,
            clip=clip,
            noise_multiplier=0.0,
            sampling_rate=sampling_rate,
            physical_batch=physical_batch,
            entropy=entropy,
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
          float64 of the same shape, on the model's device.

        Raises:
          NonFiniteGradient: a parameter, loss or gradient is NaN or infinite. The batch is spent.
          UnsoundModel: the loss is not one number an example, or a parameter took no part in it.
          BadParameter: the vector's shape or type is wrong.
        """
        self._load(parameters)
        self._sum()
        return torch.cat([p.summed_grad.reshape(-1) for p in self._trained])  # type: ignore[attr-defined]  # Opacus' field


class LocalDpSgd(_PerExample):
    """One client's private training, round after round: ``run(parameters, steps)``.

    A run hides any one example as ``event(steps)`` says.
    """

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
        physical_batch: int | None = None,
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
          noise_multiplier: standard deviation of the noise over C, z.
          sampling_rate: q, at least 2^-24; every coin falls with probability q rounded *down*
            to a multiple of 2^-24.
          steps_taken: steps of this client before, from the ledger after a restart.
          physical_batch: the most examples whose gradients are in memory at once; a larger batch
            is summed in parts, as by Opacus' ``BatchMemoryManager``. ``None`` for no limit.
          entropy: n random bytes on request; the default is the system's.

        Raises:
          UnsoundModel: a module mixes examples, or nothing is to be trained.
          BadParameter: an argument is out of range.
        """
        integer("steps_taken", steps_taken)
        self._event = GaussianEvent(
            noise_multiplier=noise_multiplier,
            sampling=PoissonSampling(rate=sampling_rate),
            unit=Unit.EXAMPLE,
            adjacency=NeighboringRelation.ADD_OR_REMOVE,
        )
        super().__init__(
            model,
            inputs,
            targets,
            loss,
            learning_rate=positive_float("learning rate", learning_rate),
            clip=clip,
            noise_multiplier=self._event.noise_multiplier,
            sampling_rate=sampling_rate,
            physical_batch=physical_batch,
            entropy=entropy,
        )
        z, q = self._event.noise_multiplier, self._rate
        self._accountant = RDPAccountant()
        if steps_taken:
            self._accountant.history = [(z, q, steps_taken)]
        self._optimizer.attach_step_hook(self._accountant.get_optimizer_hook_fn(sample_rate=q))

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
        history, also where the call then raises.

        Args:
          parameters: the trained parameters, flat, in the order of ``model.parameters()``.
          steps: at least 1.

        Returns:
          A new vector of the same shape, type and device.

        Raises:
          NonFiniteGradient: a parameter, loss or gradient is NaN or infinite. Nothing is
            returned, so nothing is released but that.
          UnsoundModel: the loss is not one number an example, or a parameter took no part in it.
          BadParameter: the vector's shape or type, or ``steps``, is wrong.
        """
        integer("steps", steps, 1)
        self._load(parameters)
        for _ in range(steps):
            self._sum()
            self._optimizer.finish()
        trained = torch.cat([p.detach().reshape(-1) for p in self._trained])
        if not torch.isfinite(trained).all():
            raise NonFiniteGradient("the trained parameters are not finite; lower learning_rate")
        return trained.to(device=parameters.device, dtype=parameters.dtype)


class _DoubleOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus ships no types
    """Opacus' optimizer with norms, sums and noise in float64."""

    def clip_and_accumulate(self) -> None:
        samples = [p.grad_sample.double().flatten(start_dim=1) for p in self.params]
        squares = torch.stack([part.square().sum(dim=1) for part in samples]).sum(dim=0)
        # The margin is above the rounding of a norm over 10^6 entries, 2^-53 each.
        factors = (self.max_grad_norm * (1 - 2**-32) / squares.sqrt()).clamp(max=1.0)
        for p, part in zip(self.params, samples, strict=True):
            clipped = (factors @ part).view_as(p)
            p.summed_grad = clipped if p.summed_grad is None else p.summed_grad + clipped

    def add_noise(self) -> None:
        std = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            noise = torch.normal(
                0.0,
                std,
                p.shape,
                generator=self.generator,
                dtype=torch.float64,
                device=p.device,
            )
            p.grad = (p.summed_grad + noise).to(p.dtype)

    def finish(self) -> None:
        """Noise, divisor, history and step, once the sum is whole."""
        self.add_noise()
        self.scale_grad()
        if self.step_hook:
            self.step_hook(self)
        self.original_optimizer.step()


def _batches(sampler: UniformWithReplacementSampler) -> Iterator[list[int]]:
    """Batches without end; every one is drawn anew, whatever Opacus calls an epoch."""
    while True:
        yield from sampler


def _generator(device: torch.device, entropy: Entropy) -> torch.Generator:
    """A torch generator with as much entropy as its state holds."""
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(entropy(8), "big") >> 1)
    if device.type == "cpu":
        state = generator.get_state()
        words = torch.frombuffer(bytearray(entropy(4 * _TWISTER_WORDS)), dtype=torch.uint8)
        place = state[_TWISTER_OFFSET : _TWISTER_OFFSET + 8 * _TWISTER_WORDS]
        place.view(_TWISTER_WORDS, 8)[:, :4] = words.view(_TWISTER_WORDS, 4)
        generator.set_state(state)
    return generator
