"""Private training among ranks, with noise that no rank knows: DP-SGD in shares.

Each rank draws a Poisson batch of its own examples, clips every gradient, adds its share of the
noise, and one masked sum a step is all that comes out: no rank sees a sum without noise. Any one
example of any rank is hidden, as the event says that each rank's own ledger is charged for before
its words leave.

All ranks take part in every step, so the noise is planned for all of them but
``uncounted_shares``, at least one: a rank that sees the sum knows its own. Nothing that depends on
data is told beside the sum: a gradient that is not finite is left out, and no flag says so.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from secagg.extras import missing

try:
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise missing("secagg.adapters.torch_private", "torch", extra="train") from error

from dp.accounting import Event, NoSampling, PoissonSampling, Unit
from dp.ledger import Ledger
from dp.noise import DistributedNoise
from dp.sgd import ClippedSums
from secagg.adapters.torch_group import SecureGroup
from secagg.errors import InputError
from secagg.vectors.layout import UPDATE, Layout, NoisyIntegers, Segment
from secagg.vectors.vector import flatten, unflatten

Loss = Callable[[Tensor, Tensor], Tensor]
COUNT_CLIP = 1.0  # of no float: this group sums integers that hold their noise


class PrivateRanks:
    """One rank's part of a private training: ``backward()`` in place of loss and backward pass.

    Args:
      model: the same on all ranks, and on none under DDP or FSDP: it is not communicated.
      inputs: this rank's examples, along the first dimension.
      targets: theirs.
      loss: from outputs and targets of n examples to n losses (``reduction="none"``).
      noise: planned for exactly the ranks: ``clients`` and ``minimum_survivors`` are their number,
        ``unit`` is an example, ``batch`` at least this rank's examples.
      sampling_rate: the probability with which each example is in a batch, the same on all ranks.
      ledger: of this rank, charged under ``subject``.
      how: ``group``, ``identity``, ``roster``, ``timeout`` and ``suite`` as of ``SecureGroup``.

    Raises:
      InputError: the noise is planned for something else.
      UnsoundModel: examples cannot be clipped alone.
      RemoteProtocolError, PeerError: as of ``SecureGroup``; noise, rate or parameters differ, too.
    """

    # What is trained, on what, how privately, and who keeps count.
    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        loss: Loss,
        *,
        noise: DistributedNoise,
        sampling_rate: float,
        ledger: Ledger,
        subject: str,
        **how: Any,
    ) -> None:
        self._sums = ClippedSums(
            model, inputs, targets, loss, clip=noise.clip, sampling_rate=sampling_rate
        )
        self.group = SecureGroup(
            clip=COUNT_CLIP,
            public=repr((noise, float(sampling_rate))).encode(),
            parameters=lambda: dict(model.named_parameters()),
            pair=True,  # each share of noise hides a rank's part from the other
            **how,
        )
        ranks = self.group.ranks
        if (noise.clients, noise.minimum_survivors, noise.unit) != (ranks, ranks, Unit.EXAMPLE):
            raise InputError(
                f"noise is planned for {noise.minimum_survivors} to {noise.clients} clients and "
                f"hides one {noise.unit.value}: plan it for all {ranks} ranks, and an example"
            )
        if noise.batch < len(inputs) or noise.entries != self._sums.parameter_count:
            raise InputError(
                f"noise is planned for {noise.entries} entries and batches of {noise.batch}; this "
                f"rank has {self._sums.parameter_count} and {len(inputs)}"
            )
        self._model, self._noise, self._ledger, self._subject = model, noise, ledger, subject
        segment = Segment(name=UPDATE, entries=noise.size, codec=NoisyIntegers(bits=noise.bits))
        self._layout = Layout(segments=(segment,), clients=ranks)
        self._sampling = PoissonSampling(rate=sampling_rate) if sampling_rate < 1 else NoSampling()
        # How many examples a rank has is public, as their sum and the rate divide what is released.
        counts = self.group.sum_words(np.array([len(inputs)], np.uint64))
        self.expected_batch = sampling_rate * int(counts[0])

    @property
    def event(self) -> Event:
        """What one step costs every example of this rank."""
        return self._noise.event(sampling=self._sampling)

    def backward(self) -> None:
        """Write the noisy mean gradient of all ranks into ``.grad`` of the parameters.

        Raises:
          BudgetExceeded: this rank can pay no more; nothing left it, and the others time out.
          RemoteProtocolError, PeerError, LocalProtocolError: as of ``SecureGroup``. The step stays
            charged.
        """
        key = self._ledger.reserve_next(
            {self._subject: self.event}, minimum_survivors=self.group.ranks
        )
        seed = self.group.public_seed()
        total = self._sums.sum(flatten(self._model).detach())
        integers = self._noise.encode(total.cpu().numpy(), seed=seed)
        words = self.group.sum_words(self._layout.encode({UPDATE: integers}))
        released = self._noise.decode(self._layout.decode(words)[UPDATE], seed=seed)
        self._ledger.commit(
            key.round, [self._subject], attempt=key.attempt, survivors=self.group.ranks
        )
        mean = torch.from_numpy(released / self.expected_batch)
        unflatten(mean, self._model, of="gradients")
