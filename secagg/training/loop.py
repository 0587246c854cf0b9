"""The main job: private federated training of a model, all parties in this process.

Each round every client that is there computes on its own examples, from the common model,
what its noise and unit ask for (``secagg.training.modes``); the vectors are summed under the
protocol, and what comes of the sum moves the common model.

Guarantee: the ledger counts a release as spent before it happens, and refuses the one that
would pass the budget; that client then stays away. What the budget protects, and from
whom, is the mode's. How many examples a client has is public. So are the examples that the model
is evaluated on: what is measured on them is written down and shown.
"""

import importlib.metadata
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from secagg.extras import missing

try:
    import torch
    from torch import nn
except ModuleNotFoundError as error:
    raise missing("secagg.training.loop", "torch", extra="train") from error

from dp.ledger.ledger import HeadSigner
from protocols.entropy import system
from protocols.errors import TooFewSurvivors
from protocols.wire import digest
from secagg.audit.page import page
from secagg.audit.report import audit, compare
from secagg.errors import InputError, RunError
from secagg.files import write_atomically
from secagg.pages.numbers import counted
from secagg.rounds.aggregation import Bonawitz, Ckks, Protocol, run_protocol
from secagg.rounds.attendance import StageCost
from secagg.rounds.ckks import require
from secagg.rounds.in_memory import Outcome
from secagg.stage import UNSIGNED, Stage
from secagg.training.books import Books, check_books, head_of
from secagg.training.callbacks import Callback
from secagg.training.data import Examples, Federation, federate, simulated_dropouts
from secagg.training.devices import ALIKE, Devices
from secagg.training.lora import refuse_both_factors
from secagg.training.modes import Mode, check_loss, mode
from secagg.training.optimizers import Moments, Rate, ServerOptimizer, rate_at
from secagg.training.report import curves, report
from secagg.training.runs import (
    AUDIT,
    AUDIT_JSON,
    CURVES,
    METRICS,
    MODEL,
    MOMENTS,
    REPORT,
    TABLE,
    RoundRecord,
    RunFolder,
    load_run,
    shown,
)
from secagg.training.settings import OWN, TrainingConfig
from secagg.training.tasks import (
    ClientData,
    Groups,
    Loss,
    Metric,
    Task,
    batch_settings,
    check_accounted,
    cross_entropy,
    dealt,
    described,
    filled_protocol,
    load_factory,
    measure,
    own_task,
    protocol_settings,
    rates_of,
)
from secagg.vectors.arrays import bytes_of
from secagg.vectors.vector import flatten, unflatten

_MOST_SAID = 20  # groups that a ledger names
SEED_SIZE = 32  # bytes, of what a round makes public before anybody trains
_LIBRARIES = ("secagg", "numpy", "cryptography", "torch", "opacus", "dp-accounting")
_NOT_HERE = {
    **dict.fromkeys(("threshold", "minimum_survivors"), "give it to the protocol, as Bonawitz()"),
    **dict.fromkeys(("data", "model", "partition", "evaluate_on", "trainer"), "leave it out"),
}


_ARGUMENTS = {
    "with --resume": "with Trainer.resume",
    "with --out": "as out",
    "--overwrite": "overwrite=True",
}


class Trainer:
    """A training that goes on round by round: ``for record in trainer``, then ``finish()``.

    ``run()`` does both. Stopped at any moment, even by a signal that cannot be caught, it is
    resumed from the last finished round, and what an unfinished round may have released stays
    charged. A loop that you leave because of what you saw releases no more, but its epsilon is
    then that of the whole plan: such a choice belongs into ``stop_at``, which charges it.

    Attributes:
      config: the settings, every default filled in.
      done: rounds that are finished.
      model: the common model after them.
    """

    config: TrainingConfig
    done: int
    model: nn.Module
    _books: Books | None = None

    def __init__(
        self,
        model: nn.Module,
        clients: Sequence[ClientData],
        loss: Loss | nn.Module,
        *,
        out: str | Path,
        rounds: int,
        learning_rate: Rate,
        evaluation: ClientData | None = None,
        groups: Groups | None = None,
        metric: Metric | None = None,
        protocol: Protocol = Bonawitz(),
        optimizer: ServerOptimizer | None = None,
        batch_size: float | None = None,
        local_epochs: float | None = None,
        stop_at: float | None = None,
        devices: Devices | None = None,
        average_both_factors: bool = False,
        callbacks: Sequence[Callback] = (),
        seal: HeadSigner | None = None,
        overwrite: bool = False,
        **settings: Any,
    ) -> None:
        """Begin a run in the folder ``out``; nothing is trained yet.

        Args:
          model: any torch module. It is copied. Trained are its parameters that require a gradient.
            With noise that hides an example Opacus' validator refuses what mixes examples, such as
            BatchNorm, and with unit client what keeps statistics; each by name.
          clients: the data of each client: a ``Dataset`` or ``DataLoader`` of (input, target),
            whose items are read once and kept as tensors, or a pair of tensors. At least two.
          loss: a function of output and target, or a loss module of torch. One with
            ``reduction`` is asked for "none". Another must give one loss an example, of shape
            (n,), as clipping needs each gradient alone; without noise that hides an example it may
            give their mean.
          out: the run's folder, new or empty.
          rounds: of training.
          learning_rate: of the clients' SGD, a number or a function of the round, from 1, of
            nothing else; ``optimizers.warmup`` makes one.
          evaluation: examples to measure the model on, in the same forms. They are not protected.
          groups: the group of each of those examples, a text or an integer, such as the hospital
            that it comes from. The final record, the report and the ledger then say how good the
            model is for each group.
          metric: a function of all outputs and targets of the evaluation; more is better. By
            default the accuracy of a classification, and elsewhere the loss.
          protocol: ``Bonawitz()``, ``Ckks()`` or ``Plain()``, as for ``secagg.aggregate``.
          optimizer: how the common model follows the mean update; by default it is added.
          batch_size: examples that a batch has on average, over the clients too; sets
            ``sampling_rate``. Every example is in a batch by a coin of its own.
          local_epochs: passes over its examples that a client makes in a round; sets
            ``local_steps``.
          stop_at: ends the run at a metric of so much or more, or without one at a loss of so much
            or less. With noise the rounds that are left are charged.
          devices: clients, by place, that take fewer steps, smaller batches, or train a part of the
            model: ``secagg.training.devices``. docs/uneven-devices.md.
          average_both_factors: train both factors of a layer of LoRA, whose means do not multiply
            to the mean of their products; ``secagg.training.lora`` freezes one.
          callbacks: are told of stages and rounds.
          seal: signs the ledger's head, ``secagg.audit.signer`` makes one of a key; resume with it.
          overwrite: replace the run that is there.
          settings: of ``secagg train``, by name: noise, unit, epsilon, delta, clip, bits,
            local_steps, sampling_rate, client_sampling_rate, uncounted_shares, weighting, dropout,
            seed, purpose, organisation. ``clip`` has no default with noise.

        Raises:
          InputError, PrivacyError, MissingExtraError: something cannot be kept. Nothing was
            written.
          RunError: ``out`` is no new or empty folder, or cannot be written.
        """
        for name, hint in _NOT_HERE.items():
            if name in settings:
                raise InputError(f"setting {name} is not taken here; {hint}")
        rates = rates_of(learning_rate, rounds)
        if not average_both_factors and isinstance(model, nn.Module):
            refuse_both_factors(model)
        task = own_task(
            model,
            clients,
            loss,
            evaluation,
            groups,
            metric=metric,
            protocol=protocol,
            optimizer=optimizer,
            learning_rate=learning_rate,
            stop_at=stop_at,
            devices=devices or ALIKE,
        )
        batches = batch_settings(task.federation, batch_size, local_epochs, settings)
        config = TrainingConfig.parse(
            {"dropout": 0.0}
            | settings
            | batches
            | protocol_settings(protocol, len(clients))
            | {"data": OWN, "model": OWN, "clients": len(clients), "rounds": rounds}
            | {"learning_rate": max(rates), "trainer": described(task, rounds)}
        )
        out = Path(out)
        with _as_arguments():
            self._begin(config, task, out, overwrite=overwrite, callbacks=callbacks, seal=seal)

    # The objects that ``Trainer`` was given, once more: a folder cannot hold them.
    @classmethod
    def resume(
        cls,
        out: str | Path,
        model: nn.Module,
        clients: Sequence[ClientData],
        loss: Loss | nn.Module,
        *,
        learning_rate: Rate | None = None,
        evaluation: ClientData | None = None,
        groups: Groups | None = None,
        metric: Metric | None = None,
        protocol: Protocol = Bonawitz(),
        optimizer: ServerOptimizer | None = None,
        stop_at: float | None = None,
        devices: Devices | None = None,
        callbacks: Sequence[Callback] = (),
        seal: HeadSigner | None = None,
    ) -> "Trainer":
        """Go on with the run in ``out``, handed the same objects again. Settings are the run's.

        Only the architecture of ``model`` counts. A ``learning_rate`` that is a number may be left
        out.

        Raises:
          InputError: an object describes itself otherwise than that of the run.
          RunError: there is no run of a ``Trainer``, it is corrupt, or of another model.
        """
        task = own_task(
            model,
            clients,
            loss,
            evaluation,
            groups,
            metric=metric,
            protocol=protocol,
            optimizer=optimizer,
            learning_rate=learning_rate,
            stop_at=stop_at,
            devices=devices or ALIKE,
        )
        with _as_arguments():
            folder = RunFolder.open(out)
        config = TrainingConfig.parse(folder.config)
        if config.model != OWN:
            raise RunError(f"the run in {out} is one of `secagg train`; resume it with that")
        if len(clients) != config.clients:
            raise InputError(f"the run in {out} has {config.clients} clients, not {len(clients)}")
        if (said := described(task, config.rounds)) != config.trainer:
            raise InputError(f"the run in {out} was given {config.trainer}, not {said}")
        if learning_rate is not None and max(rates_of(learning_rate, config.rounds)) != (
            config.learning_rate
        ):
            raise InputError(f"the run in {out} has learning_rate {config.learning_rate}")
        return _Resumed(folder, config, task, callbacks, seal)

    def _begin(
        self,
        config: TrainingConfig,
        task: Task,
        out: Path,
        *,
        overwrite: bool,
        callbacks: Sequence[Callback] = (),
        seal: HeadSigner | None = None,
    ) -> None:
        _check_name(out)
        if isinstance(task.protocol, Ckks):
            require(task.protocol.engine)
        if task.stop_at is not None and not len(task.federation.evaluation):
            raise InputError("stop_at needs evaluation data")
        check_accounted(config, task.protocol)
        config = replace(config)  # a copy, whatever its maker does with it
        chosen = mode(config, task.federation, task.model, 0, task.loss, task.devices)  # or refuses
        filled_protocol(config, task.protocol)  # the same
        check_books(config, chosen, task.federation, seal)
        folder = RunFolder.create(out, config.as_dict(), versions=_versions(), overwrite=overwrite)
        self._set(folder, config, task, chosen, [], callbacks, seal)

    def _go_on(
        self,
        folder: RunFolder,
        config: TrainingConfig,
        task: Task,
        callbacks: Sequence[Callback] = (),
        seal: HeadSigner | None = None,
    ) -> None:
        if isinstance(task.protocol, Ckks):
            require(task.protocol.engine)
        records, tensors = folder.load()
        moments = {
            name.removeprefix(MOMENTS): tensors.pop(name)
            for name in list(tensors)
            if name.startswith(MOMENTS)
        }
        if records:
            try:
                task.model.load_state_dict(tensors)
            except RuntimeError as error:
                raise RunError(f"the run in {folder.path} is of another model") from error
        done = len(records)
        chosen = mode(config, task.federation, task.model, done, task.loss, task.devices)
        check_books(config, chosen, task.federation, seal)
        if records:
            chosen.state = records[-1].get("state", {})
        self._set(folder, config, task, chosen, records, callbacks, seal, moments)

    def _set(
        self,
        folder: RunFolder,
        config: TrainingConfig,
        task: Task,
        chosen: Mode,
        records: Sequence[RoundRecord],
        callbacks: Sequence[Callback],
        seal: HeadSigner | None,
        moments: Mapping[str, torch.Tensor] = MappingProxyType({}),
    ) -> None:
        self.config, self.done, self.model = config, len(records), task.model
        self._folder, self._task, self._federation = folder, task, task.federation
        self._mode, self._callbacks = chosen, tuple(callbacks)
        self._moments: Moments = moments
        self._protocol = filled_protocol(config, task.protocol)
        if chosen.event() is not None:
            self._books = Books(config, chosen, folder, records, task.federation, seal)
        self._seal = seal
        self._stopped = bool(records) and self._reached(records[-1])

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
            f"{config.data}: {config.clients} clients simulated in one process, {config.rounds} "
            f"rounds, protocol {config.protocol}, {privacy}, in {self._folder.path}"
        )

    def run(self) -> RoundRecord:
        """Train to the end, and finish; returns the final record."""
        for _ in self:
            pass
        return self.finish()

    def __iter__(self) -> Iterator[RoundRecord]:
        while self.done < self.config.rounds and not self._stopped:
            began = time.perf_counter()
            record = self._round(self.done + 1)
            if record is None:
                return
            record["seconds"] = time.perf_counter() - began
            kept = {f"{MOMENTS}{name}": value for name, value in self._moments.items()}
            self._folder.save(self.done + 1, {**self.model.state_dict(), **kept}, record)
            self.done += 1
            self._stopped = self._reached(record)
            for callback in self._callbacks:
                callback.on_round(record)
            yield record

    def finish(self) -> RoundRecord:
        """Write audit, final record, curves and report; returns the record.

        Raises:
          LedgerCorrupt: the ledger is not the one that the last round left. There is no page and
            no final record then.
          RunError: a file cannot be written.
        """
        records = self._folder.metrics["rounds"]
        kept = [record for record in records if not record["lost"]]
        measured, by_group = self._measured(), self._by_group()
        stands = None
        if self._books:
            self._books.verify(records)  # whoever replaced the ledger is found before it is written
            if len(self._federation.evaluation):
                self._books.state_quality(*_quality(measured, self._federation, by_group))
            stands = self._books.head()
            self._books.checkpoint()  # the page says the digest of the file that is handed over
        final = {
            **({"accuracy": measured["accuracy"]} if self._task.loss is None else measured),
            "by_group": by_group,
            **(self._books.final() if self._books else dict.fromkeys(Books.FINAL)),
            "audit": self._audit(stands) if stands else None,
            "ledger": stands,
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
        for callback in self._callbacks:
            callback.on_end(final)
        return final

    def _audit(self, stands: Mapping[str, Any]) -> str:
        """Write what the ledger proves, where it ends as said; returns the page's name."""
        folder = self._folder
        head = head_of({"round": self.done, "ledger": stands})
        found = audit(folder.ledger, head=head, beside=METRICS, seal=self._seal, by_run=True)
        with suppress(InputError):  # of a type that is not compared; the page says so
            found = compare(found, folder.path / MODEL, apart=MOMENTS)
        text = json.dumps(found.as_json(), allow_nan=False, indent=1) + "\n"
        write_atomically(folder.path / AUDIT_JSON, text.encode())
        write_atomically(folder.path / AUDIT, page(found).encode())
        return AUDIT

    @property
    def opened(self) -> int:
        """How many rounds gave a sum."""
        return sum(not record["lost"] for record in self._folder.metrics["rounds"])

    def closing_lines(self, final: Mapping[str, Any]) -> list[str]:
        """What to tell somebody who watched."""
        lines = []
        if not self.opened:
            lines.append(
                f"NOTHING CAME OUT: of {self.done} rounds none was opened, and the model is as it "
                "was; what they may have released stays charged"
            )
        if self._stopped:
            lines.append(f"stopped after {self.done} of {self.config.rounds} rounds: target met")
        elif self.done < self.config.rounds:
            lines.append(
                f"stopped after {self.done} of {self.config.rounds} rounds: too few clients have "
                "budget left for another"
            )
        lines.append(
            f"{shown(final)}{' ' if shown(final) else ''}after {counted(self.done, 'round')}"
        )
        if self._books:
            lines[-1] += (
                f"; each {self._books.unit}: epsilon {final['epsilon']:.3f} at delta "
                f"{final['delta']:g} "
                f"(budget {self.config.epsilon:g})"
            )
        if final["by_group"]:
            lines.append(f"by group: {', '.join(_groups_said(final['by_group']))}")
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
        if callable(self._task.learning_rate):
            self._mode.use_learning_rate(rate_at(self._task.learning_rate, number))
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
            if self._task.optimizer:
                step = self._task.optimizer.step
                moved, self._moments = step(moved.double(), self._moments, number)
            unflatten(start + moved.to(start), self.model)
            if self._books:
                self._books.release(number, attempt, self.model)
        measured = self._measured()
        if self._books and self._reached(measured):
            self._books.reserve_rest(number, config.rounds, config.clients)
        left = len(members) - len(gone)
        return {
            "round": number,
            **measured,
            **self._clipped(number),
            "clients": len(members),
            "survivors": len(outcome.survivors) if outcome else left,
            "dropped": {str(client): str(stage) for client, stage in sorted(gone.items())},
            "lost": outcome is None,
            **_costs(outcome.costs if outcome else {}, train_seconds),
            "epsilon": self._books.epsilon() if self._books else None,
            "ledger": self._books.head() if self._books else None,
            "state": dict(self._mode.state),
        }

    def _by_group(self) -> dict[str, RoundRecord] | None:
        """The same of each group of the evaluation; None where nobody named any."""
        data = self._federation
        return {
            name: {"examples": len(part)} | self._measured(part)
            for name in sorted(set(data.groups))
            for part in [
                data.evaluation.take(np.flatnonzero([each == name for each in data.groups]))
            ]
        } or None

    def _measured(self, part: Examples | None = None) -> RoundRecord:
        """What the record says of the model: accuracy, loss, and a metric of the user's own."""
        task, examples = self._task, self._federation.evaluation if part is None else part
        value: float | None = None
        loss: float | None = None
        if len(examples):
            value, loss = measure(self.model, examples, task.loss or cross_entropy, task.metric)
            check_loss(loss)
        if task.metric is None:
            return {"accuracy": value, "loss": loss}
        return {"accuracy": None, "loss": loss, "metric": value}

    def _reached(self, record: RoundRecord) -> bool:
        """Whether the target of an early stop is met."""
        value = record.get("metric", record["accuracy"])
        if self._task.stop_at is None:
            return False
        if value is None:
            return bool(record["loss"] <= self._task.stop_at)
        return bool(value >= self._task.stop_at)

    def _clipped(self, number: int) -> RoundRecord:
        share = self._mode.clipped
        if share:
            warnings.warn(
                f"round {number}: {share:.2%} of all entries were cut at clip "
                f"{self.config.clip:g}; raise clip, or lower learning_rate",
                RuntimeWarning,
                stacklevel=4,
            )
        return {} if share is None else {"clipped": share}

    def _sum(
        self,
        number: int,
        members: list[int],
        gone: Mapping[int, Stage],
        start: torch.Tensor,
        seed: bytes,
    ) -> tuple[Outcome | None, float]:
        """The round under the protocol, None if too few survived it; and seconds of training."""
        config, layout, protocol = self.config, self._mode.layout, self._protocol
        public = digest(
            layout.to_bytes(),
            start.cpu().numpy().tobytes(),
            *map(bytes_of, self.model.buffers()),
            seed,
            json.dumps([config.as_dict(), self._mode.state], sort_keys=True).encode(),
        )
        seconds = []

        def train(client: int) -> Any:
            began = time.perf_counter()
            brought = self._mode.brings(client, start, seed)
            seconds.append(time.perf_counter() - began)
            return brought

        inputs = {client: lambda client=client: train(client) for client in members}
        try:
            outcome = run_protocol(
                protocol,
                layout,
                inputs,
                gone,
                public=public,
                round_number=number,
                on_stage=self._tell(number) if self._callbacks else None,
            )
        except TooFewSurvivors:
            return None, sum(seconds)
        return outcome, sum(seconds)

    def _tell(self, number: int) -> Callable[[Stage], None]:
        def told(stage: Stage) -> None:
            for callback in self._callbacks:
                callback.on_stage(number, stage)

        return told


class _Named(Trainer):
    """A new run, of what its settings name."""

    def __init__(
        self, config: TrainingConfig, out: Path, *, overwrite: bool, seal: HeadSigner | None
    ) -> None:
        self._begin(config, _task(config), out, overwrite=overwrite, seal=seal)


class _Resumed(Trainer):
    """A run that goes on."""

    def __init__(
        self,
        folder: RunFolder,
        config: TrainingConfig,
        task: Task,
        callbacks: Sequence[Callback] = (),
        seal: HeadSigner | None = None,
    ) -> None:
        self._go_on(folder, config, task, callbacks, seal)


def start(
    config: TrainingConfig, out: Path, *, overwrite: bool = False, seal: HeadSigner | None = None
) -> Trainer:
    """A new run of ``secagg train``, whose model and data the settings name.

    Raises:
      InputError, PrivacyError, MissingExtraError: the settings cannot be kept. Nothing was written.
      RunError: ``out`` is no new or empty folder, or cannot be written.
    """
    return _Named(config, out, overwrite=overwrite, seal=seal)


def resume(
    out: Path, *, expect: Mapping[str, Any] | None = None, seal: HeadSigner | None = None
) -> Trainer:
    """Go on with the run in ``out`` that ``start`` began.

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
    config = TrainingConfig.parse(folder.config)
    return _Resumed(folder, config, _task(config), seal=seal)


def _quality(
    measured: Mapping[str, Any], data: Federation, by_group: Mapping[str, Any] | None
) -> tuple[str, str]:
    """What the ledger says of utility and of bias; the second is empty without groups."""
    count = counted(len(data.evaluation), "evaluation example")
    said = list(_groups_said(by_group or {}))
    more = f", and {len(said) - _MOST_SAID:,} more groups" if len(said) > _MOST_SAID else ""
    bias = f"by group of the evaluation: {', '.join(said[:_MOST_SAID])}{more}" if said else ""
    return f"{shown(measured)} on {count}, which are not protected", bias


def _groups_said(by_group: Mapping[str, Any]) -> Iterator[str]:
    for name, each in by_group.items():
        yield f"{name} {shown(each)} of {counted(each['examples'], 'example')}"


@contextmanager
def _as_arguments() -> Iterator[None]:
    """What an error says of the options of ``secagg train``, said of a ``Trainer``'s arguments."""
    try:
        yield
    except RunError as error:
        said = str(error)
        for option, argument in _ARGUMENTS.items():
            said = said.replace(option, argument)
        raise RunError(said) from error


def _check_name(out: Path) -> None:
    """Refuse before the first round a folder whose name no page can show."""
    try:
        str(out).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"the folder {str(out)!a} is no UTF-8; choose another name") from None


def _task(config: TrainingConfig) -> Task:
    """What the settings of ``secagg train`` name."""
    if OWN in (config.data, config.model):
        raise RunError(
            "the run's model and data came from a program; resume it with Trainer.resume"
        )
    if not config.model:
        federation = _federation(config)
        return Task(model=_new_model(federation, config.seed), federation=federation)
    if ":" in config.data:
        clients, evaluation, groups = dealt("data", config.data, config.clients)
    else:
        federation, groups = _federation(config), None
        clients = [(each.features, each.labels) for each in federation.clients]
        evaluation = (federation.evaluation.features, federation.evaluation.labels)
    made = load_factory("model", config.model)
    model, loss = made if isinstance(made, tuple) and len(made) == 2 else (made, cross_entropy)
    task = own_task(model, clients, loss, evaluation, groups)
    if len(task.federation.clients) != config.clients:
        raise InputError(
            f"data {config.data} has {len(task.federation.clients)} clients, not {config.clients}; "
            "set clients"
        )
    return task


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
