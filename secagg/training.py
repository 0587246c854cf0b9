"""The main job: private federated training of a small model, all parties in this process.

Each round every client that is there takes ``local_steps`` of (DP-)SGD from the
common model; the differences are summed under the protocol, weighted by the
clients' numbers of examples, and their mean moves the common model.

Guarantee of ``privacy="local"``: everything a client sends is (epsilon,
delta)-differentially private for one of its examples added or removed, whoever
reads it. How many examples a client has is public. The ledger counts a release
as spent before it happens, and refuses the one that would pass the budget; that
client then stays away.
"""

import copy
import importlib.metadata
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dp.accountant import check_delta
from dp.calibrate import noise_multiplier
from dp.errors import BudgetExceeded
from dp.events import Event, GaussianEvent, PoissonSampling
from dp.ledger import Budget, Ledger
from dp.records import Head
from dp.sgd import LocalDpSgd
from protocols.bonawitz import Agreement, Params
from protocols.entropy import system
from protocols.errors import TooFewSurvivors
from protocols.wire import SESSION_SIZE
from secagg.data import ROW_NORM, Examples, Federation, federate, simulated_dropouts
from secagg.errors import ConfigError, InputError, RunError
from secagg.payload import Count, Layout, Segment
from secagg.quantize import FixedPoint
from secagg.reports.run import curves, report
from secagg.rounds import (
    PROTOCOLS,
    UNSIGNED,
    UPDATE,
    WEIGHT,
    Outcome,
    Stage,
    StageCost,
    Words,
    digest,
)
from secagg.runs import CURVES, METRICS, REPORT, Record, RunFolder, write_atomically
from secagg.settings import TrainingConfig
from secagg.vector import flatten, unflatten

ACCURACY = "accuracy"
NOISE_TAIL = 8.0  # deviations; one entry in 10^15 is beyond, and then clamped
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
        records, tensors = folder.load()
        self.done = len(records)
        self._federation = federate(
            config.data,
            clients=config.clients,
            split=config.split,
            seed=config.seed,
            judge=config.judge,
        )
        self.model = _new_model(self._federation, config.seed)
        if tensors:
            self.model.load_state_dict(tensors)
        self._books = (
            _Books(config, self._federation, folder, records) if config.privacy == "local" else None
        )
        noise = self._books.noise_multiplier if self._books else 0.0
        taken = self.done * config.local_steps
        self._clients: list[_Client] = [
            _private_client(config, examples, self.model, noise, taken)
            if self._books
            else _PlainClient(config, examples, self.model)
            for examples in self._federation.clients
        ]
        self._layout = _layout(config, self._federation, noise)

    @classmethod
    def start(cls, config: TrainingConfig, out: Path, *, overwrite: bool = False) -> Self:
        """A new run in the folder ``out``.

        Raises:
          ConfigError, PrivacyError: the settings cannot be kept. Nothing was written.
          RunError: ``out`` is no new or empty folder, or cannot be written.
        """
        filled = config.filled()
        federation = federate(
            filled.data,
            clients=filled.clients,
            split=filled.split,
            seed=filled.seed,
            judge=filled.judge,
        )
        if filled.privacy == "local":
            _check_privacy(filled, federation)
        folder = RunFolder.create(out, filled.as_dict(), versions=_versions(), overwrite=overwrite)
        return cls(folder)

    @classmethod
    def resume(cls, out: Path, *, expect: Mapping[str, Any] | None = None) -> Self:
        """Go on with the run in ``out``.

        Raises:
          ConfigError: ``expect`` names a setting that the run does not have.
          RunError: there is no run, or it is corrupt.
        """
        folder = RunFolder.open(out)
        for name, value in (expect or {}).items():
            if folder.config.get(name) != value:
                raise ConfigError(
                    f"the run in {out} has {name} {folder.config.get(name)}, not {value}; "
                    "leave the option out, or start another run"
                )
        return cls(folder)

    @property
    def headline(self) -> str:
        """One line on what is about to happen."""
        config = self.config
        privacy = (
            f"local privacy, epsilon {config.epsilon:g} at delta {config.delta:g}"
            if self._books
            else "no differential privacy"
        )
        return (
            f"{config.data}: {config.clients} clients, {config.rounds} rounds, protocol "
            f"{config.protocol}, {privacy}, in {self._folder.path}"
        )

    def __iter__(self) -> Iterator[Record]:
        while self.done < self.config.rounds:
            began = time.perf_counter()
            record = self._round(self.done + 1)
            if record is None:
                return
            record["seconds"] = time.perf_counter() - began
            self._folder.save(self.done + 1, dict(self.model.state_dict()), record)
            self.done += 1
            yield record

    def finish(self) -> Record:
        """Write the final record, the curves and the report; returns the record."""
        records = self._folder.metrics["rounds"]
        epsilon = self._books.epsilon("pld") if self._books else None
        kept = [record for record in records if not record["lost"]]
        accuracy, _ = _judge(self.model, self._federation.judged_by)
        final = {
            "accuracy": accuracy,
            "epsilon": epsilon,
            "epsilon_rdp": self._books.epsilon("rdp") if self._books else None,
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
        write_atomically(self._folder.path / CURVES, curves(metrics))
        write_atomically(self._folder.path / REPORT, report(metrics).encode())
        return final

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
                f"; each example: epsilon {final['epsilon']:.3f} at delta {final['delta']:g} "
                f"(budget {self.config.epsilon:g})"
            )
        lines.append(f"report: {self._folder.path / REPORT}")
        return lines

    def _round(self, number: int) -> Record | None:
        """One round; None if too few clients may still release anything."""
        config = self.config
        members = list(range(config.clients))
        gone = simulated_dropouts(
            config.clients, config.dropout, seed=config.seed, round_number=number
        )
        attempt = 0
        if self._books:
            members, attempt = self._books.reserve(number, members)
            gone = {client: stage for client, stage in gone.items() if client in members}
        if len(members) < config.survivors_needed:
            return None
        start = flatten(self.model).clone()
        trained: dict[int, float] = {}
        outcome = self._sum(number, members, gone, start, trained)
        if self._books:
            silent = [c for c in members if gone.get(c) in (Stage.ADVERTISE, Stage.SHARE)]
            self._books.settle(number, attempt, members, silent)
        if outcome:
            unflatten(start + self._mean(outcome, start), self.model)
        accuracy, loss = _judge(self.model, self._federation.judged_by)
        left = len(members) - len(gone)
        return {
            "round": number,
            "accuracy": accuracy,
            "loss": loss,
            "clients": len(members),
            "survivors": len(outcome.survivors) if outcome else left,
            "dropped": {str(client): str(stage) for client, stage in sorted(gone.items())},
            "lost": outcome is None,
            **_costs(outcome.costs if outcome else {}, sum(trained.values())),
            "epsilon": self._books.epsilon("rdp") if self._books else None,
            "ledger": self._books.head() if self._books else None,
        }

    def _sum(
        self,
        number: int,
        members: list[int],
        gone: Mapping[int, Stage],
        start: torch.Tensor,
        trained: dict[int, float],
    ) -> Outcome | None:
        """The round under the protocol; None if too few survived it."""
        config = self.config
        agreement = Agreement(
            params=Params(
                clients=config.clients,
                threshold=config.shares_needed,
                minimum_survivors=config.survivors_needed,
                words=self._layout.words,
            ),
            session=system(SESSION_SIZE),
            round=number,
            public=digest(
                self._layout.to_bytes(),
                start.numpy().tobytes(),
                json.dumps(config.as_dict(), sort_keys=True).encode(),
            ),
        )

        def train(client: int) -> Words:
            began = time.perf_counter()
            update, accuracy = self._clients[client].update(start)
            weight = len(self._federation.clients[client])
            values: dict[str, Any] = {UPDATE: update}
            if not self._books:
                values |= {WEIGHT: weight, ACCURACY: accuracy}
            words = self._layout.encode(values, weight=weight)
            trained[client] = time.perf_counter() - began
            return words

        inputs = {client: lambda client=client: train(client) for client in members}
        try:
            return PROTOCOLS[config.protocol](agreement, inputs, gone)
        except TooFewSurvivors:
            return None

    def _mean(self, outcome: Outcome, like: torch.Tensor) -> torch.Tensor:
        sums = self._layout.decode(outcome.words)
        public = sum(len(self._federation.clients[client]) for client in outcome.survivors)
        weight = public if self._books else int(sums[WEIGHT][0])
        return torch.as_tensor(sums[UPDATE] / weight, dtype=like.dtype)


class _Client(Protocol):
    def update(self, start: torch.Tensor) -> tuple[NDArray[np.float32], float]:
        """Train from ``start``: the difference, and the accuracy of ``start`` on own examples."""


class _PlainClient:
    """SGD without privacy, on batches drawn like the private ones, so that the two compare."""

    def __init__(self, config: TrainingConfig, examples: Examples, model: torch.nn.Module) -> None:
        self._config = config
        self._examples = examples
        self._features = torch.from_numpy(examples.features)
        self._labels = torch.from_numpy(examples.labels)
        self._model = copy.deepcopy(model)

    def update(self, start: torch.Tensor) -> tuple[NDArray[np.float32], float]:
        config, model = self._config, self._model
        unflatten(start, model)
        accuracy, _ = _judge(model, self._examples)
        expected = config.sampling_rate * len(self._labels)
        for _ in range(config.local_steps):
            batch = torch.rand(len(self._labels)) < config.sampling_rate
            model.zero_grad()
            outputs = model(self._features[batch])
            loss = functional.cross_entropy(outputs, self._labels[batch], reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            point = flatten(model) - config.step / expected * flatten(model, of="gradients")
            unflatten(point, model)
        return (flatten(model) - start).numpy(), accuracy


class _PrivateClient:
    """DP-SGD; its history, and so its price, lives as long as the training."""

    def __init__(self, config: TrainingConfig, local: LocalDpSgd) -> None:
        self._config = config
        self._local = local

    def update(self, start: torch.Tensor) -> tuple[NDArray[np.float32], float]:
        trained = self._local.run(start, self._config.local_steps)
        return (trained - start).numpy(), 0.0


class _Books:
    """What each client has spent, and whether it may go on."""

    def __init__(
        self,
        config: TrainingConfig,
        federation: Federation,
        folder: RunFolder,
        records: Sequence[Record],
    ) -> None:
        self.noise_multiplier = _check_privacy(config, federation)
        self._event = _event(config, self.noise_multiplier)
        budget = Budget(epsilon=config.epsilon, delta=config.delta)
        if folder.ledger.exists():
            self._ledger = Ledger.open(folder.ledger, budget)
            self._ledger.verify(_head(records[-1]) if records else None)
        else:
            self._ledger = Ledger.create(folder.ledger, budget)

    def reserve(self, number: int, clients: list[int]) -> tuple[list[int], int]:
        """Charge every client that can still pay; returns those, and the number of this attempt.

        A round that was begun before, and whose end nobody saw, stays charged.
        """
        attempts = [held.attempt for held in self._ledger.reservations(number)]
        attempt = max(attempts, default=-1) + 1
        paying = {_subject(client): client for client in clients}
        while paying:
            try:
                self._ledger.reserve(number, dict.fromkeys(paying, self._event), attempt=attempt)
            except BudgetExceeded as refusal:
                del paying[refusal.subject]
            else:
                break
        return list(paying.values()), attempt

    def settle(self, number: int, attempt: int, clients: list[int], silent: list[int]) -> None:
        """Close the reservations: taken back for the silent, who sent nothing made of data."""
        quiet = [_subject(client) for client in silent]
        spoke = [_subject(client) for client in clients if client not in silent]
        self._ledger.commit(number, spoke, attempt=attempt)
        self._ledger.abort(number, quiet, attempt=attempt)

    def head(self) -> dict[str, Any]:
        """The end of the ledger's chain, for the record of a round: an older copy is then found."""
        head = self._ledger.head()
        return {"seq": head.seq, "hash": head.hash.hex()}

    def epsilon(self, accountant: Literal["rdp", "pld"]) -> float:
        """The largest of any client."""
        return max(self._ledger.epsilons(accountant).values(), default=0.0)


def _head(record: Record) -> Head:
    try:
        kept = record["ledger"]
        return Head(seq=int(kept["seq"]), hash=bytes.fromhex(kept["hash"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{METRICS} does not say where the ledger stood after round {record['round']}"
        ) from error


def _subject(client: int) -> str:
    return f"client-{client}"


def _check_privacy(config: TrainingConfig, federation: Federation) -> float:
    """The least noise that keeps the whole plan inside the budget.

    By RDP, as the ledger admits: a plan with the noise of a tighter accountant
    would be stopped before its end.
    """
    check_delta(config.delta, units=sum(map(len, federation.clients)))
    return noise_multiplier(
        epsilon=config.epsilon,
        delta=config.delta,
        sampling=PoissonSampling(rate=config.sampling_rate),
        steps=config.rounds * config.local_steps,
    )


def _event(config: TrainingConfig, noise: float) -> Event:
    """What one client releases in one round."""
    return GaussianEvent(
        noise_multiplier=noise,
        sampling=PoissonSampling(rate=config.sampling_rate),
        steps=config.local_steps,
    )


def _private_client(
    config: TrainingConfig, examples: Examples, model: torch.nn.Module, noise: float, taken: int
) -> _PrivateClient:
    local = LocalDpSgd(
        model,
        torch.from_numpy(examples.features),
        torch.from_numpy(examples.labels),
        _losses,
        learning_rate=config.step,
        clip=config.clip,
        noise_multiplier=noise,
        sampling_rate=config.sampling_rate,
        steps_taken=taken,
    )
    if local.event(config.local_steps) != _event(config, noise):
        raise ConfigError("the optimizer would release something else than the ledger charges")
    return _PrivateClient(config, local)


def _losses(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs, labels, reduction="none")


def _new_model(federation: Federation, seed: int) -> torch.nn.Module:
    """Softmax regression. Its loss is convex: where it starts matters little."""
    model = torch.nn.Linear(federation.judged_by.features.shape[1], federation.classes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.weight.normal_(0.0, 0.01, generator=generator)
        model.bias.zero_()
    return model


def _layout(config: TrainingConfig, federation: Federation, noise: float) -> Layout:
    """Where everything a client says lies in the masked vector.

    Under differential privacy that is the update alone: a weight or an accuracy
    beside it would be a release of its own. The weights are public then.
    """
    sizes = [len(examples) for examples in federation.clients]
    entries = (federation.judged_by.features.shape[1] + 1) * federation.classes
    codec = FixedPoint(clip=_largest_entry(config, min(sizes), noise), bits=config.bits)
    segments = [Segment(name=UPDATE, entries=entries, codec=codec, weighted=True)]
    if config.privacy == "none":
        segments += [
            Segment(name=WEIGHT, entries=1, codec=Count(maximum=max(sizes))),
            Segment(name=ACCURACY, entries=1, codec=FixedPoint(clip=1.0, bits=16), weighted=True),
        ]
    return Layout(segments=tuple(segments), clients=config.clients, max_weight=max(sizes))


def _largest_entry(config: TrainingConfig, fewest: int, noise: float) -> float:
    """A bound on one entry of an update, from public numbers alone; what is beyond is clamped.

    A step moves an entry by at most ``step / (q N)`` times the batch's gradients,
    N of at most ``clip`` each (without privacy: of at most the norm of a row), and
    their noise.
    """
    bound = config.clip if config.privacy == "local" else ROW_NORM
    tail = NOISE_TAIL * noise * config.clip / fewest
    return config.local_steps * config.step * (bound + tail) / config.sampling_rate


def _judge(model: torch.nn.Module, examples: Examples) -> tuple[float, float]:
    """Accuracy and mean loss."""
    features, labels = torch.from_numpy(examples.features), torch.from_numpy(examples.labels)
    with torch.no_grad():
        outputs = model(features)
    loss = float(functional.cross_entropy(outputs, labels))
    if not np.isfinite(loss):
        raise InputError("the training has diverged: the loss is not finite; lower learning_rate")
    return float((outputs.argmax(1) == labels).float().mean()), loss


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
