"""The main job: private federated training of a small model, all parties in this process.

Each round every client that is there computes on its own examples, from the common model,
what its noise and unit ask for (``secagg.training.modes``); the vectors are summed under the
protocol, and what comes of the sum moves the common model.

Guarantee: the ledger counts a release as spent before it happens, and refuses the one that
would pass the budget; that client then stays away. What the budget protects, and from
whom, is the mode's. How many examples a client has is public.
"""

import importlib.metadata
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from secagg.extras import missing

try:
    import torch
except ModuleNotFoundError as error:
    raise missing("secagg.training.loop", "torch", extra="train") from error

from dp.accounting.accountant import has_pld
from dp.accounting.events import Event
from dp.errors import AccountantLimit, BudgetExceeded, UnsoundEvent
from dp.ledger.ledger import Budget, Ledger
from dp.ledger.records import Head
from protocols.entropy import system
from protocols.errors import TooFewSurvivors
from protocols.wire import digest
from secagg.audit.page import page
from secagg.audit.report import audit
from secagg.errors import InputError, RunError
from secagg.files import write_atomically
from secagg.rounds.aggregation import Bonawitz, Ckks, Plain, Protocol, run_protocol
from secagg.rounds.attendance import StageCost
from secagg.rounds.ckks import MODELS, require
from secagg.rounds.in_memory import Outcome
from secagg.stage import UNSIGNED, Stage
from secagg.training.data import Federation, federate, simulated_dropouts
from secagg.training.modes import Mode, evaluate, mode
from secagg.training.report import curves, report
from secagg.training.runs import (
    AUDIT,
    AUDIT_JSON,
    CURVES,
    METRICS,
    REPORT,
    TABLE,
    RoundRecord,
    RunFolder,
    load_run,
)
from secagg.training.settings import TrainingConfig
from secagg.vectors.vector import flatten, unflatten

SEED_SIZE = 32  # bytes, of what a round makes public before anybody trains
_LIBRARIES = ("secagg", "numpy", "cryptography", "torch", "opacus", "dp-accounting")


class Training:
    """A run that goes on round by round: ``for record in training``, then ``finish()``.

    Make one with ``start`` or ``resume``. Stopped at any moment, even by a signal
    that cannot be caught, it is resumed from the last finished round, and what an
    unfinished round may have released stays charged.

    Attributes:
      config: the settings, every default filled in.
      done: rounds that are finished.
      model: the common model after them.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.config = config = TrainingConfig.parse(folder.config)
        require(config.protocol)
        records, tensors = folder.load()
        self.done = len(records)
        self._federation = _federation(config)
        self.model = _new_model(self._federation, config.seed)
        if tensors:
            self.model.load_state_dict(tensors)
        self._mode = mode(config, self._federation, self.model, self.done)
        if records:
            self._mode.state = records[-1].get("state", {})
        self._books = (
            None if self._mode.event() is None else _Books(config, self._mode, folder, records)
        )

    @classmethod
    def start(cls, config: TrainingConfig, out: Path, *, overwrite: bool = False) -> Self:
        """A new run in the folder ``out``.

        Raises:
          InputError, PrivacyError, MissingExtraError: the settings cannot be kept. Nothing was
            written.
          RunError: ``out`` is no new or empty folder, or cannot be written.
        """
        require(config.protocol)
        federation = _federation(config)
        mode(config, federation, _new_model(federation, config.seed))  # refuses what cannot be kept
        folder = RunFolder.create(out, config.as_dict(), versions=_versions(), overwrite=overwrite)
        return cls(folder)

    @classmethod
    def resume(cls, out: Path, *, expect: Mapping[str, Any] | None = None) -> Self:
        """Go on with the run in ``out``.

        Raises:
          InputError: ``expect`` names a setting that the run does not have.
          RunError: there is no run, or it is corrupt.
        """
        folder = RunFolder.open(out)
        for name, value in (expect or {}).items():
            if folder.config.get(name) != value:
                raise InputError(
                    f"the run in {out} has {name} {folder.config.get(name)}, not {value}; "
                    "leave the option out, or start another run"
                )
        return cls(folder)

    @property
    def headline(self) -> str:
        """One line on what is about to happen."""
        config = self.config
        privacy = (
            f"{config.noise} noise that hides one {config.unit}, epsilon {config.epsilon:g} at "
            f"delta {config.delta:g}"
            if self._books
            else "no differential privacy"
        )
        return (
            f"{config.data}: {config.clients} clients, {config.rounds} rounds, protocol "
            f"{config.protocol}, {privacy}, in {self._folder.path}"
        )

    def __iter__(self) -> Iterator[RoundRecord]:
        while self.done < self.config.rounds:
            began = time.perf_counter()
            record = self._round(self.done + 1)
            if record is None:
                return
            record["seconds"] = time.perf_counter() - began
            self._folder.save(self.done + 1, dict(self.model.state_dict()), record)
            self.done += 1
            yield record

    def finish(self) -> RoundRecord:
        """Write audit, final record, curves and report; returns the record.

        Raises:
          LedgerCorrupt: the ledger is not the one that the last round left. Nothing was written.
          RunError: a file cannot be written.
        """
        records = self._folder.metrics["rounds"]
        kept = [record for record in records if not record["lost"]]
        accuracy, _ = evaluate(self.model, self._federation.evaluation)
        final = {
            "accuracy": accuracy,
            **(self._books.final() if self._books else dict.fromkeys(_Books.FINAL)),
            "audit": self._audit(records) if self._books else None,
            "delta": self.config.delta if self._books else None,
            "rounds": self.done,
            "survivors_min": min((record["survivors"] for record in records), default=0),
            "bytes_up_per_client": max((record["bytes_up"] for record in kept), default=0),
            "bytes_down_per_client": max((record["bytes_down"] for record in kept), default=0),
            "seconds": sum(record["seconds"] for record in records),
            "run": str(self._folder.path),
        }
        self._folder.finish(final)
        metrics = self._folder.metrics
        folder = self._folder.path
        write_atomically(folder / TABLE, load_run(folder).to_csv().encode())
        write_atomically(folder / CURVES, curves(metrics))
        write_atomically(folder / REPORT, report(metrics).encode())
        return final

    def _audit(self, records: Sequence[RoundRecord]) -> str:
        """Write what the ledger proves; returns the page's name."""
        folder = self._folder
        head = _head(records[-1]) if records else None
        found = audit(folder.ledger, head=head, beside=METRICS if head else "")
        text = json.dumps(found.as_json(), allow_nan=False, indent=1) + "\n"
        write_atomically(folder.path / AUDIT_JSON, text.encode())
        write_atomically(folder.path / AUDIT, page(found).encode())
        return AUDIT

    def closing_lines(self, final: Mapping[str, Any]) -> list[str]:
        """What to tell somebody who watched."""
        lines = []
        if self.done < self.config.rounds:
            lines.append(
                f"stopped after {self.done} of {self.config.rounds} rounds: too few clients have "
                "budget left for another"
            )
        lines.append(f"accuracy {final['accuracy']:.3f} after {self.done} rounds")
        if self._books:
            lines[-1] += (
                f"; each {self._books.unit}: epsilon {final['epsilon']:.3f} at delta "
                f"{final['delta']:g} "
                f"(budget {self.config.epsilon:g})"
            )
        lines.append(f"report: {self._folder.path / REPORT}")
        if self._books:
            lines.append(f"audit: {self._folder.path / AUDIT}")
        return lines

    def _round(self, number: int) -> RoundRecord | None:
        """One round; None if too few clients may still release anything."""
        config = self.config
        members = list(range(config.clients))
        gone = simulated_dropouts(
            config.clients, config.dropout, seed=config.seed, round_number=number
        )
        attempt, start, seed = 0, flatten(self.model).clone(), system(SEED_SIZE)
        if not torch.isfinite(start).all():  # before anybody is charged or any data is touched
            raise InputError("the model is not finite: training has diverged; lower learning_rate")
        if self._books:
            members, attempt = self._books.reserve(number, members)
            gone = {client: stage for client, stage in gone.items() if client in members}
        if len(members) < config.minimum_survivors:
            if self._books:
                self._books.settle(number, attempt, members, members, None)
            return None
        outcome, train_seconds = self._sum(number, members, gone, start, seed)
        if self._books:
            silent = [c for c in members if gone.get(c) in (Stage.ADVERTISE, Stage.SHARE)]
            survivors = len(outcome.survivors) if outcome else None
            self._books.settle(number, attempt, members, silent, survivors)
        if outcome:
            sums = outcome.sums(self._mode.layout)
            moved = self._mode.moved(sums, outcome.survivors, seed)
            unflatten(start + moved.to(start.dtype), self.model)
        accuracy, loss = evaluate(self.model, self._federation.evaluation)
        left = len(members) - len(gone)
        return {
            "round": number,
            "accuracy": accuracy,
            "loss": loss,
            "clients": len(members),
            "survivors": len(outcome.survivors) if outcome else left,
            "dropped": {str(client): str(stage) for client, stage in sorted(gone.items())},
            "lost": outcome is None,
            **_costs(outcome.costs if outcome else {}, train_seconds),
            "epsilon": self._books.epsilon() if self._books else None,
            "ledger": self._books.head() if self._books else None,
            "state": dict(self._mode.state),
        }

    def _sum(
        self,
        number: int,
        members: list[int],
        gone: Mapping[int, Stage],
        start: torch.Tensor,
        seed: bytes,
    ) -> tuple[Outcome | None, float]:
        """The round under the protocol, None if too few survived it; and seconds of training."""
        config, layout, protocol = self.config, self._mode.layout, _protocol(self.config)
        public = digest(
            layout.to_bytes(),
            start.numpy().tobytes(),
            seed,
            json.dumps([config.as_dict(), self._mode.state], sort_keys=True).encode(),
        )
        brought = self._mode.reals if isinstance(protocol, Ckks) else self._mode.words
        seconds = []

        def train(client: int) -> Any:
            began = time.perf_counter()
            vector = brought(client, start, seed)
            seconds.append(time.perf_counter() - began)
            return vector

        inputs = {client: lambda client=client: train(client) for client in members}
        try:
            outcome = run_protocol(
                protocol, layout, inputs, gone, public=public, round_number=number
            )
        except TooFewSurvivors:
            return None, sum(seconds)
        return outcome, sum(seconds)


class _Books:
    """What each client has spent, and whether it may go on."""

    FINAL = ("epsilon", "accountant", "epsilon_rdp", "epsilon_actual")

    def __init__(
        self, config: TrainingConfig, mode: Mode, folder: RunFolder, records: Sequence[RoundRecord]
    ) -> None:
        self._mode = mode
        self._event = _event(mode)
        self._minimum = config.minimum_survivors if config.noise == "distributed" else 0
        budget = Budget(epsilon=config.epsilon, delta=mode.delta)
        if folder.ledger.exists():
            self._ledger = Ledger.open(folder.ledger, budget)
            self._ledger.verify(_head(records[-1]) if records else None)
        else:
            self._ledger = Ledger.create(folder.ledger, budget)
        if stated := mode.statement():
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
                    dict.fromkeys(paying, self._event),
                    round_number=number,
                    minimum_survivors=self._minimum,
                )
            except BudgetExceeded as refusal:
                del paying[refusal.subject]
            else:
                return list(paying.values()), key.attempt
        return [], 0

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
        spoke = [_subject(client) for client in clients if client not in silent]
        self._ledger.abort(number, quiet, attempt=attempt)
        if survivors is not None:
            event = _event(self._mode, survivors)
            actual = dict.fromkeys(spoke, event)
            self._ledger.commit(number, actual, attempt=attempt, survivors=survivors)
        elif not self._minimum:
            self._ledger.commit(number, spoke, attempt=attempt)

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


def _protocol(config: TrainingConfig) -> Protocol:
    minimum = config.minimum_survivors
    match config.protocol:
        case "bonawitz":
            return Bonawitz(threshold=config.threshold, minimum_survivors=minimum)
        case "plain":
            return Plain(minimum_survivors=minimum)
        case name:
            return Ckks(model=MODELS[name], minimum_survivors=minimum)


def _event(mode: Mode, survivors: int | None = None) -> Event:
    event = mode.event(survivors)
    if event is None:
        raise InputError("a run without privacy keeps no books")
    return event


def _head(record: RoundRecord) -> Head:
    try:
        kept = record["ledger"]
        return Head(seq=int(kept["seq"]), hash=bytes.fromhex(kept["hash"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{METRICS} does not say where the ledger stood after round {record['round']}"
        ) from error


def _subject(client: int) -> str:
    return f"client-{client}"


def _federation(config: TrainingConfig) -> Federation:
    return federate(
        config.data,
        clients=config.clients,
        partition=config.partition,
        seed=config.seed,
        evaluate_on=config.evaluate_on,
    )


def _new_model(federation: Federation, seed: int) -> torch.nn.Module:
    """Softmax regression. Its loss is convex: where it starts matters little."""
    model = torch.nn.Linear(federation.evaluation.features.shape[1], federation.classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.weight.normal_(0.0, 0.01, generator=generator)
        model.bias.zero_()
    return model


def _costs(costs: Mapping[Stage, StageCost], train_seconds: float) -> dict[str, Any]:
    up = {str(stage): cost.bytes_up for stage, cost in costs.items()}
    down = {str(stage): cost.bytes_down for stage, cost in costs.items()}
    seconds = {
        str(stage): cost.client_seconds + cost.server_seconds for stage, cost in costs.items()
    }
    return {
        "bytes_up": sum(up.values()),
        "bytes_down": sum(down.values()),
        "bytes_up_stage": up,
        "bytes_down_stage": down,
        "milliseconds": {
            "train": 1000 * train_seconds,
            **{str(stage): 1000 * seconds.get(str(stage), 0.0) for stage in UNSIGNED},
        },
    }


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}
