"""DP-SGD on one client with Opacus, whose state lives as long as the client does.

[ACG+16] as Opacus 1.6 does it: a Poisson batch, every example's gradient clipped to
``clip``, Gaussian noise of deviation ``noise_multiplier * clip`` on their sum, over
the *expected* batch size. One optimizer and one history for the life of the
client: a fresh engine a round would report the first round's epsilon for ever.

What the noise is: floating point from torch's generator, on a CPU the Mersenne
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
from typing import Final, TypeAlias

import torch
from opacus.accountants import RDPAccountant
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from opacus.validators import ModuleValidator
from opacus.validators.errors import UnsupportedModuleError
from torch import Tensor, nn

from dp.errors import BadParameter, NonFiniteGradient, UnsoundModel
from dp.events import Adjacency, GaussianEvent, PoissonSampling, Unit, positive_float

Entropy: TypeAlias = Callable[[int], bytes]
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_COINS: Final = 2**24  # torch.rand in float32 is uniform over multiples of 2^-24
_TWISTER_WORDS: Final = 624  # of 32 bits, the state of MT19937
_TWISTER_OFFSET: Final = 24  # bytes before them in torch's serialised state, 8 bytes a word


class LocalDpSgd:
    """One client's private training, round after round.

    A round is ``run(parameters, steps)``. It hides the presence of any one example of
    ``inputs`` (add or remove), as ``event(steps)`` says, provided that the output
    for an example depends on that example alone: modules known to mix a batch, such as
    BatchNorm, are refused. N = len(inputs) and q are public. Ghost clipping is not
    offered: with a loss of one's own it trains unclipped without a word.

    Attributes:
      parameter_count: entries of the vector that ``run`` takes and returns.
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
          entropy: n random bytes on request; the default is the system's.

        Raises:
          UnsoundModel: a module mixes examples, or nothing is to be trained.
          BadParameter: an argument is out of range.
        """
        sampling = PoissonSampling(rate=sampling_rate)
        if len(inputs) != len(targets) or not len(inputs):
            raise BadParameter(
                f"{len(inputs)} inputs and {len(targets)} targets, must be equally many, at least 1"
            )
        coin = math.floor(sampling.rate * _COINS) / _COINS
        if not coin:
            raise BadParameter(f"sampling rate is {sampling_rate}, must be at least 2**-24")
        if type(steps_taken) is not int or steps_taken < 0:
            raise BadParameter(f"steps_taken is {steps_taken!r}, must be an integer of at least 0")
        step_size = positive_float("learning rate", learning_rate)
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
        self._event = GaussianEvent(
            noise_multiplier=noise_multiplier,
            sampling=sampling,
            unit=Unit.EXAMPLE,
            adjacency=Adjacency.ADD_OR_REMOVE,
        )
        z, q = self._event.noise_multiplier, sampling.rate
        # The losses of a batch are summed, so that an example's gradient is its own
        # whatever the batch; the one division is by q N, in the optimizer.
        self._model = GradSampleModule(model, loss_reduction="sum")
        self._model.forbid_grad_accumulation()
        self._optimizer = _DoubleNoise(
            torch.optim.SGD(self._trained, lr=step_size),
            noise_multiplier=z,
            max_grad_norm=norm,
            expected_batch_size=q * len(inputs),
            loss_reduction="mean",
            generator=_generator(device, entropy),
        )
        self._accountant = RDPAccountant()
        if steps_taken:
            self._accountant.history = [(z, q, steps_taken)]
        self._optimizer.attach_step_hook(self._accountant.get_optimizer_hook_fn(sample_rate=q))
        self._batches = _batches(
            UniformWithReplacementSampler(
                num_samples=len(inputs),
                sample_rate=coin,
                generator=_generator(torch.device("cpu"), entropy),
            )
        )

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
        return GaussianEvent(
            noise_multiplier=self._event.noise_multiplier,
            sampling=self._event.sampling,
            steps=steps,
            unit=self._event.unit,
            adjacency=self._event.adjacency,
        )

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
        if type(steps) is not int or steps < 1:
            raise BadParameter(f"steps is {steps!r}, must be an integer of at least 1")
        self._load(parameters)
        for _ in range(steps):
            self._step(next(self._batches))
        trained = torch.cat([p.detach().reshape(-1) for p in self._trained])
        if not torch.isfinite(trained).all():
            raise NonFiniteGradient("the trained parameters are not finite; lower learning_rate")
        return trained.to(device=parameters.device, dtype=parameters.dtype)

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

    def _step(self, batch: list[int]) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        if batch:
            self._backward(batch)
        else:
            # Not every layer takes an empty batch; its gradients are known without one.
            for p in self._trained:
                p.grad_sample = p.new_zeros((0, *p.shape))  # type: ignore[attr-defined]  # Opacus' field
        self._optimizer.step()

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


class _DoubleNoise(DPOptimizer):  # type: ignore[misc]  # Opacus ships no types
    """Opacus' optimizer with its noise drawn and added in float64."""

    def add_noise(self) -> None:
        std = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            summed = p.summed_grad.double()
            noise = torch.normal(
                0.0,
                std,
                summed.shape,
                generator=self.generator,
                dtype=torch.float64,
                device=summed.device,
            )
            p.grad = (summed + noise).to(p.dtype).view_as(p)


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
