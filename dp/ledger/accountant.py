"""An accountant in the shape of Opacus', whose account is a ledger on disk.

    engine = PrivacyEngine()
    engine.accountant = LedgerAccountant(ledger, "clinic 7")
    model, optimizer, loader = engine.make_private(...)      # and the loop stays as it is

Opacus calls ``step`` when a gradient has its noise and before the weights move: the charge is on
disk before anything of it can be seen, and where the budget would be passed the step is not made.
Opacus is not imported.
"""

from collections.abc import Callable
from typing import Any

from dp.accounting.accountant import reported_epsilon
from dp.accounting.events import Event, GaussianEvent, NoSampling, PoissonSampling, Sampling
from dp.errors import InputError
from dp.ledger.books import subject_name
from dp.ledger.ledger import FIXED_PLAN, Ledger


class LedgerAccountant:
    """Charges steps of DP-SGD, an example the unit, to one subject of a ledger.

    Every step is one charge, synced twice: milliseconds. Batches must be drawn by Poisson sampling,
    Opacus' default, which nothing here can check. Noise and rate must not follow from earlier
    outputs; a ledger with a filter is refused.

    Args:
      ledger: under the rule "fixed plan".
      subject: who is charged.

    Raises:
      InputError: the ledger has another rule, or the subject no name.
    """

    def __init__(self, ledger: Ledger, subject: str) -> None:
        if ledger.policy != FIXED_PLAN:
            raise InputError(f"the ledger composes by {ledger.policy!r}, expected {FIXED_PLAN!r}")
        self._ledger, self._subject = ledger, subject_name(subject)

    def step(self, *, noise_multiplier: float, sample_rate: float, steps: int = 1) -> None:
        """Charge steps that are about to be made, all of them or none.

        Raises:
          BudgetExceeded: the subject would pass its budget; do not make the step.
          InputError: a number is out of range.
        """
        sampling: Sampling = NoSampling() if sample_rate == 1 else PoissonSampling(rate=sample_rate)
        event = GaussianEvent(noise_multiplier=noise_multiplier, sampling=sampling, steps=steps)
        key = self._ledger.reserve_next({self._subject: event})
        self._ledger.commit(key.round, [self._subject], attempt=key.attempt)

    def get_epsilon(self, delta: float | None = None) -> float:
        """What all charges of the subject cost at ``delta``: the smaller of RDP and PLD.

        Args:
          delta: by default that of the subject's budget. Admission is by RDP at that one.

        Raises:
          InputError: delta is outside (0, 1).
        """
        budget = self._ledger.budget_of(self._subject)
        spent = self._ledger.spent(self._subject)
        return reported_epsilon(spent.items(), budget.delta if delta is None else delta).epsilon

    @property
    def history(self) -> list[tuple[Event, int]]:
        """What was charged, each kind of step with how many of them."""
        return list(self._ledger.spent(self._subject).items())

    def __len__(self) -> int:
        return sum(count * event.steps for event, count in self.history)

    @classmethod
    def mechanism(cls) -> str:
        return "ledger"

    def get_optimizer_hook_fn(self, sample_rate: float) -> Callable[[Any], None]:
        """What Opacus attaches to its optimizer.

        The hook raises ``InputError`` where gradients of several batches were gathered for one
        step: an example that is in two of them counts twice, which no price here covers.
        """

        def hook(optimizer: Any) -> None:
            if optimizer.accumulated_iterations != 1:
                raise InputError(
                    f"{optimizer.accumulated_iterations} batches for one step: draw larger batches "
                    "and split them with Opacus' BatchMemoryManager"
                )
            self.step(noise_multiplier=optimizer.noise_multiplier, sample_rate=sample_rate)

        return hook

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the ledger is the state. A checkpoint brings no budget back."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing is loaded: what was spent stays spent."""
