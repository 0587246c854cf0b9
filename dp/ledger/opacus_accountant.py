"""A ledger in the place of an accountant of Opacus.

    spent = LedgerAccountant(Ledger.create("ledger.sqlite", Budget(epsilon=4.0, delta=1e-6)))
    engine = PrivacyEngine()
    engine.accountant = spent          # before make_private, which hangs it on the optimizer
    ...
    spent.get_epsilon(delta=1e-6)

It has the methods of ``opacus.accountants.IAccountant``, and needs no Opacus. What is charged is
what Opacus says it did: that its noise is a true Gaussian's and its batches are Poisson's is its
word. ``dp.sgd`` is the training whose noise this library answers for.
"""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from dp.accounting.accountant import epsilon_rdp
from dp.accounting.events import GaussianEvent, PoissonSampling
from dp.errors import InputError
from dp.ledger.ledger import Ledger


class LedgerAccountant:
    """Charges one subject of a ledger for every step, before the step changes the model.

    A step that would pass the budget raises ``BudgetExceeded`` and is not taken. What was spent
    lies in the file: a new object over the same ledger goes on where the last one stopped.
    """

    def __init__(self, ledger: Ledger, subject: str = "training") -> None:
        self._ledger, self._subject = ledger, subject

    def step(self, *, noise_multiplier: float, sample_rate: float) -> None:
        """Charge one step.

        Raises:
          BudgetExceeded: it would pass the budget. Nothing was charged.
        """
        event = GaussianEvent(
            noise_multiplier=noise_multiplier, sampling=PoissonSampling(rate=sample_rate)
        )
        key = self._ledger.reserve_next({self._subject: event})
        self._ledger.commit(key.round, [self._subject], attempt=key.attempt)

    def get_epsilon(self, delta: float, *_: Any, **__: Any) -> float:
        """Epsilon of all steps at ``delta``, by RDP; the accountant's own settings are fixed."""
        return epsilon_rdp([(event, steps) for event, _, steps in self._spent()], delta)

    @property
    def history(self) -> list[tuple[float, float, int]]:
        """Opacus' record: (noise multiplier, sample rate, steps)."""
        return [(event.noise_multiplier, rate, steps) for event, rate, steps in self._spent()]

    def __len__(self) -> int:
        return sum(steps for _, _, steps in self._spent())

    @classmethod
    def mechanism(cls) -> str:
        """The name by which Opacus would make such an accountant; it makes none of these."""
        return "ledger"

    def get_optimizer_hook_fn(self, sample_rate: float) -> Callable[[Any], None]:
        """What Opacus calls when noise is added and the parameters have not moved yet."""

        def charge(optimizer: Any) -> None:
            self.step(
                noise_multiplier=optimizer.noise_multiplier,
                sample_rate=sample_rate * optimizer.accumulated_iterations,
            )

        return charge

    def state_dict(self, destination: MutableMapping[str, Any] | None = None) -> Any:
        """What a checkpoint of Opacus keeps of an accountant."""
        kept: MutableMapping[str, Any] = {} if destination is None else destination
        kept.update(history=self.history, mechanism=self.mechanism())
        return kept

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Check that the ledger holds all steps of a checkpoint; it may hold more.

        Raises:
          InputError: it holds fewer, so that steps were charged somewhere else.
        """
        steps = sum(int(entry[2]) for entry in state_dict.get("history", ()))
        if steps > len(self):
            raise InputError(
                f"the checkpoint has taken {steps} steps and the ledger holds {len(self)}: "
                "charge them, or open the ledger that they are in"
            )

    def _spent(self) -> list[tuple[GaussianEvent, float, int]]:
        """Every kind of step that was charged: its event, its rate, how many."""
        found = []
        for event, steps in self._ledger.spent(self._subject).items():
            sampling = event.sampling
            if not isinstance(event, GaussianEvent) or not isinstance(sampling, PoissonSampling):
                raise InputError(f"{self._subject!r} was charged for something else than DP-SGD")
            found.append((event, sampling.rate, steps))
        return found
