"""The books of one run: what each client has spent, and whether it may go on."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dp.accounting.accountant import has_pld
from dp.accounting.events import Event
from dp.errors import AccountantLimit, BudgetExceeded, UnsoundEvent
from dp.ledger.ledger import Budget, HeadSigner, Ledger, SystemDescription
from dp.ledger.records import Head
from secagg.errors import InputError, RunError
from secagg.training.data import Federation
from secagg.training.modes import Mode
from secagg.training.runs import METRICS, RoundRecord, RunFolder
from secagg.training.settings import TrainingConfig
from secagg.training.tasks import data_digest
from secagg.vectors.arrays import model_digest

_SIDE_CHANNELS = (
    "samplers and big-integer arithmetic are not constant in time; who could measure a client's "
    "time to a microsecond is not considered"
)
_PARTIES = (
    "Simulated: all clients and the server in one process, which could read every update. What a "
    "secure sum hides, it would hide between real parties"
)
_INTERMEDIATE = "every client and the server see the common model of every round"


class Books:
    """What each client has spent, and whether it may go on."""

    FINAL = ("epsilon", "accountant", "epsilon_rdp", "epsilon_actual")

    def __init__(
        self,
        config: TrainingConfig,
        mode: Mode,
        folder: RunFolder,
        records: Sequence[RoundRecord],
        federation: Federation,
        seal: HeadSigner | None = None,
    ) -> None:
        self._mode = mode
        self._event = _event(mode)  # the dearest of any client
        self._minimum = config.minimum_survivors if config.noise == "distributed" else 0
        budget, stated = _said_first(config, mode, federation)
        if folder.ledger.exists():
            self._ledger = Ledger.open(folder.ledger, budget, seal=seal)
            self.verify(records)
        else:
            self._ledger = Ledger.create(folder.ledger, budget, seal=seal)
        said = self._ledger.statement()
        if stated is not None:
            if said is not None:
                stated = replace(stated, utility=said.utility, bias=said.bias)
            self._ledger.declare(stated)

    @property
    def unit(self) -> str:
        """The unit whose presence is hidden."""
        return self._event.unit.value

    def reserve(self, number: int, clients: list[int]) -> tuple[list[int], int]:
        """Charge every client that can still pay; returns those, and the number of this attempt.

        A round that was begun before and may have sent something stays charged.
        """
        paying = {_subject(client): client for client in clients}
        while paying:
            try:
                key = self._ledger.reserve_next(
                    {name: _event(self._mode, client) for name, client in paying.items()},
                    round_number=number,
                    minimum_survivors=self._minimum,
                )
            except BudgetExceeded as refusal:
                del paying[refusal.subject]
            else:
                return list(paying.values()), key.attempt
        return [], 0

    def reserve_rest(self, done: int, rounds: int, clients: int) -> None:
        """Charge the rounds after ``done`` that will not be run.

        Where the stop depends on what was released, the price of fewer rounds proves nothing: it
        holds for a number of rounds that was fixed before.
        """
        for number in range(done + 1, rounds + 1):
            self.reserve(number, list(range(clients)))

    def settle(
        self,
        number: int,
        attempt: int,
        clients: list[int],
        silent: list[int],
        survivors: int | None,
    ) -> None:
        """Close the reservations: taken back for the silent, who sent nothing made of data.

        For the others at the price of the noise that was in the sum. If too few survived, noisy
        shares may be visible one by one, so the reservation stays open.
        """
        quiet = [_subject(client) for client in silent]
        spoke = {_subject(client): client for client in clients if client not in silent}
        self._ledger.abort(number, quiet, attempt=attempt)
        if survivors is not None:
            actual = {n: _event(self._mode, client, survivors) for n, client in spoke.items()}
            self._ledger.commit(number, actual, attempt=attempt, survivors=survivors)
        elif not self._minimum:
            self._ledger.commit(number, list(spoke), attempt=attempt)

    def release(self, number: int, attempt: int, model: Any) -> None:
        """Write down which model came of a round."""
        self._ledger.release(number, model_digest(model), attempt=attempt)

    def verify(self, records: Sequence[RoundRecord]) -> None:
        """Check that the ledger is the one that the last round left, or continues it."""
        self._ledger.verify(head_of(records[-1]) if records else None)

    def state_quality(self, utility: str, bias: str) -> None:
        """Write down how good the model is, and how that differs between groups."""
        if said := self._ledger.statement():
            self._ledger.declare(replace(said, utility=utility, bias=bias))

    def checkpoint(self) -> None:
        """Bring the ledger's log into its file: the file alone is then the ledger."""
        self._ledger.checkpoint()

    def head(self) -> dict[str, Any]:
        """The end of the ledger's chain, for the record of a round: an older copy is then found."""
        head = self._ledger.head()
        return {"seq": head.seq, "hash": head.hash.hex()}

    def epsilon(self) -> float:
        """The largest of any client, as the ledger admits."""
        return max(self._ledger.epsilons("rdp").values(), default=0.0)

    def final(self) -> dict[str, Any]:
        """What the run is reported to have cost, and by which accountant."""
        by_rdp = self.epsilon()
        by_pld = math.inf
        if has_pld(self._event):
            with suppress(AccountantLimit, UnsoundEvent):
                by_pld = max(self._ledger.epsilons("pld").values(), default=0.0)
        actual = self._ledger.epsilons("rdp", basis="actual")
        values = (
            min(by_rdp, by_pld) + self._mode.flooding_epsilon,
            "pld" if by_pld < by_rdp else "rdp",
            by_rdp,
            max(actual.values(), default=0.0),
        )
        return dict(zip(self.FINAL, values, strict=True))


def check_books(
    config: TrainingConfig, mode: Mode, federation: Federation, seal: HeadSigner | None
) -> None:
    """Refuse what no ledger of this run could hold, before anything is written or removed.

    Raises:
      InputError: a seal without a ledger or without a key to sign with; or a statement or
        budget that a ledger refuses.
    """
    if mode.event() is None:
        if seal is not None:
            raise InputError("seal signs a ledger, and a run without noise has none; leave it out")
        return
    if seal is not None and seal.sign is None:
        raise InputError("seal has no sign: give a HeadSigner that can sign, or none")
    budget, stated = _said_first(config, mode, federation)
    if stated is not None:
        stated.delta(budget.delta, epsilon=budget.epsilon, rounds=1, steps=1)


def _said_first(
    config: TrainingConfig, mode: Mode, federation: Federation
) -> tuple[Budget, SystemDescription | None]:
    """The budget of every client, and what the ledger is told of the run before its first round."""
    budget = Budget(epsilon=config.epsilon, delta=mode.delta)
    if (stated := mode.statement()) is None:
        return budget, None
    return budget, replace(
        stated,
        purpose=config.purpose or "",
        organisation=config.organisation or "",
        data_set=config.data,
        data_digest=data_digest(federation.clients).hex(),
        parties=_PARTIES,
        side_channels=_SIDE_CHANNELS,
        intermediate_models=_INTERMEDIATE,
    )


def _event(mode: Mode, client: int | None = None, survivors: int | None = None) -> Event:
    event = mode.event(survivors, client)
    if event is None:
        raise InputError("a run without privacy keeps no books")
    return event


def head_of(record: RoundRecord) -> Head:
    """The end of the ledger's chain after a round."""
    try:
        kept = record["ledger"]
        return Head(seq=int(kept["seq"]), hash=bytes.fromhex(kept["hash"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{METRICS} does not say where the ledger stood after round {record['round']}"
        ) from error


def _subject(client: int) -> str:
    return f"client-{client}"
