"""Attacks on a training of one's own: data and model as ``secagg bench utility`` takes them.

Who was in it is guessed as in ``membership``, of any model: targets and shadows are trained by
``secagg.training.modes``, and all examples that no coin was thrown for are in every model. Of
a classification the confidence is ln(p / (1 - p)), of anything else minus the loss.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dp.accounting.events import Unit
from dp.empirical import include_canaries
from dp.ledger import Budget
from protocols.entropy import Entropy, system
from secagg.attacks.canaries import EmpiricalAudit, planted_clients
from secagg.attacks.fields import Fields, shown
from secagg.attacks.membership import (
    ATTACKS,
    Flags,
    Membership,
    Models,
    Reals,
    Tell,
    judged,
    likelihoods,
)
from secagg.errors import InputError
from secagg.training.data import Examples, Federation, federate
from secagg.training.modes import Client, mode
from secagg.training.settings import MODES, TrainingConfig, noise_and_unit
from secagg.training.tasks import (
    AT_ONCE,
    SOFTMAX,
    Task,
    cross_entropy,
    measure,
    named_task,
    tensors,
)
from secagg.vectors.layout import UPDATE
from secagg.vectors.vector import flatten, unflatten

POOL: Final = 1000  # examples that coins put in or out, at most; the others are always in
CANARIES: Final = 200  # clients that an auditor plants beside the real ones
BITS: Final = 24  # of an entry, as in ``secagg bench utility``
_NAMES: Final = ("data", "model", "modes", "clients", "rounds", "learning_rate", "clip")


@dataclass(frozen=True, kw_only=True)
class Own:
    """A training to attack, by the options of ``secagg bench utility``.

    Attributes:
      data: a built-in data set, or ``module:factory``.
      model: ``softmax``, or ``module:factory``.
      modes: of ``secagg.training.settings.MODES``.
      seed: of a built-in data set's partition, and of the pool.
    """

    data: str = "digits"
    model: str = SOFTMAX
    modes: tuple[str, ...] = tuple(MODES)
    clients: int = 20
    rounds: int
    learning_rate: float
    clip: float
    seed: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.modes or len(set(self.modes)) != len(self.modes):
            raise InputError(f"modes {self.modes} must be some of {', '.join(MODES)}, each once")
        for each in self.modes:
            self.config(each, Budget(epsilon=1.0, delta=1e-9))  # or refuses

    def config(self, by_mode: str, budget: Budget, *, planted: int = 0) -> TrainingConfig:
        """Settings of ``secagg train``; nobody drops out."""
        return TrainingConfig(
            **noise_and_unit(by_mode),
            data=self.data,
            model=self.model,
            clients=self.clients + planted,
            rounds=self.rounds,
            learning_rate=self.learning_rate,
            clip=self.clip,
            bits=BITS,
            epsilon=budget.epsilon,
            delta=budget.delta,
            dropout=0.0,
            seed=self.seed,
        )

    @cached_property
    def task(self) -> Task:
        """The model and the data; loaded once."""

        def dealt() -> Federation:
            return federate(self.data, clients=self.clients, partition="iid", seed=self.seed)

        made = named_task(self.data, self.model, clients=self.clients, federation=dealt)
        if (found := len(made.federation.clients)) != self.clients:
            raise InputError(
                f"--data {self.data} has {found} clients, not {self.clients}; set --clients"
            )
        return made

    def pool(self, by_mode: str) -> int:
        """How many examples are put in or out by coins, alone or a client's together."""
        every = sum(map(len, self.task.federation.clients))
        return every if by_mode == "client" else min(POOL, every - self.clients)

    def as_dict(self) -> dict[str, Any]:
        """The training as JSON."""
        return shown(self, _NAMES, modes=list(self.modes))

    @classmethod
    def from_dict(cls, data: Any, *, seed: int) -> Self:
        """The one whose ``as_dict()`` is ``data``; ``InputError`` if there is none."""
        held = Fields(data, _NAMES)
        for name in ("data", "model", *held.items("modes", 1, len(MODES))):
            said = data[name] if name in _NAMES else name
            if not (type(said) is str and said.isprintable() and 0 < len(said) <= 1000):
                raise InputError(f"{name!r:.40} is {said!r:.40}, must be a name")
        return cls(
            data=data["data"],
            model=data["model"],
            modes=tuple(data["modes"]),
            clients=held.whole("clients", 2, 1000),
            rounds=held.whole("rounds", 1, 100_000),
            learning_rate=held.number("learning_rate", 1e-9, 1e6),
            clip=held.number("clip", 1e-6, 1e6),
            seed=seed,
        )


def own_membership(
    own: Own,
    by_mode: str,
    budget: Budget,
    models: Models,
    tell: Tell = lambda done, of: None,
    *,
    entropy: Entropy = system,
) -> tuple[Membership, ...]:
    """Guess who was in trainings of one's own, in the three ways of ``membership``.

    Raises:
      InputError, PrivacyError: the settings cannot be kept, or the model gives no loss an example.
    """
    task, config = own.task, own.config(by_mode, budget)
    units = _Clients(task.federation) if by_mode == "client" else _Examples(own, own.pool(by_mode))
    theirs, mine = (
        include_canaries(count * units.count, entropy=entropy).reshape(count, -1)
        for count in models
    )
    coins = np.concatenate([theirs, mine])
    seen, accuracies = [], []
    for at, row in enumerate(coins):
        tell(at, len(coins))
        model = _trained(config, task, units, row)
        seen.append(units.means(_seen(task, model, each) for each in units.judged))
        if at < len(theirs):
            accuracy, _ = measure(model, task.federation.evaluation, task.loss or cross_entropy)
            if accuracy is None:
                raise InputError("the evaluation is no classification, so it has no accuracy")
            accuracies.append(accuracy)
    losses, confidences = np.stack(seen, axis=1)
    split = len(theirs)
    offline, online = likelihoods(confidences[:split], confidences[split:], mine)
    private = by_mode != "none"
    return tuple(
        judged(
            scores.ravel(),
            theirs.ravel(),
            attack=attack,
            mode=by_mode,
            unit=Unit.CLIENT if by_mode == "client" else Unit.EXAMPLE,
            epsilon=budget.epsilon if private else None,
            delta=budget.delta if private else None,
            pool=own.pool(by_mode),
            accuracy=float(np.mean(accuracies)),
        )
        for attack, scores in zip(ATTACKS, (-losses[:split], offline, online), strict=True)
    )


def own_canaries(own: Own, budget: Budget, *, entropy: Entropy = system) -> EmpiricalAudit:
    """Canary clients beside the clients of one's own, under ``client``; see ``client_cosines``."""
    config = own.config("client", budget, planted=CANARIES)
    how = Client(config, own.task.federation, copy.deepcopy(own.task.model), own.task.loss)
    return planted_clients(how, config, flatten(own.task.model), CANARIES, entropy=entropy)


class _Examples:
    """Examples as units: those of a pool, by coins; the others, one of each client, always.

    Attributes:
      judged: those of the pool, in one part.
    """

    def __init__(self, own: Own, count: int) -> None:
        self._clients = own.task.federation.clients
        places = [(c, row) for c, part in enumerate(self._clients) for row in range(1, len(part))]
        self.count = count
        if count < 1:
            raise InputError(f"--data {own.data} has no client of two examples; nothing to guess")
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(own.seed))
        self._places = np.array([places[at] for at in order[:count].tolist()])
        alone = [_taken(self._clients[c], [row]) for c, row in self._places.tolist()]
        self.judged = [_joined(alone)]

    def parts(self, coins: Flags) -> tuple[Examples, ...]:
        """The clients' data where the coins say so."""
        out = {tuple(place) for place in self._places[~coins].tolist()}
        return tuple(
            _taken(part, [row for row in range(len(part)) if (c, row) not in out])
            for c, part in enumerate(self._clients)
        )

    def silent(self, client: int, coins: Flags) -> bool:
        return False

    def means(self, seen: Iterable[Reals]) -> Reals:
        (each,) = seen
        return each


class _Clients:
    """Clients as units: each takes part, with its data or with nothing but its noise.

    Attributes:
      judged: the examples of each.
    """

    def __init__(self, federation: Federation) -> None:
        self.judged = list(federation.clients)
        self.count = len(self.judged)

    def parts(self, coins: Flags) -> tuple[Examples, ...]:
        return tuple(self.judged)

    def silent(self, client: int, coins: Flags) -> bool:
        return not coins[client]

    def means(self, seen: Iterable[Reals]) -> Reals:
        return np.stack([each.mean(axis=1) for each in seen], axis=1)


def _trained(
    config: TrainingConfig, task: Task, units: _Examples | _Clients, coins: Flags
) -> nn.Module:
    """A model that the library itself trains on the units whose coin says so."""
    model, everyone = copy.deepcopy(task.model), range(config.clients)
    federation = Federation(clients=units.parts(coins), evaluation=task.federation.evaluation)
    how = mode(config, federation, model, loss=task.loss)
    position = flatten(model).clone()
    for _ in range(config.rounds):
        seed, total = system(32), np.zeros(how.layout.words, np.uint64)
        for client in everyone:
            if isinstance(how, Client) and units.silent(client, coins):
                nothing = how.mechanism.encode(np.zeros(how.mechanism.entries), seed=seed)
                total += how.layout.encode({UPDATE: nothing})
            else:
                total += how.words(client, position, seed)
        moved = how.moved(how.layout.decode(total), everyone, seed)
        position = position + moved.to(position.dtype)
        if not torch.isfinite(position).all():
            raise InputError("training has diverged; lower --learning-rate")
    unflatten(position, model)
    return model.eval()


def _seen(task: Task, model: nn.Module, data: Examples) -> Reals:
    """Loss and confidence of every example, (2, examples)."""
    inputs, targets = tensors(data, model)
    found: list[NDArray[Any]] = []
    with torch.no_grad():
        for start in range(0, len(targets), AT_ONCE):
            wanted = targets[start : start + AT_ONCE]
            output = model(inputs[start : start + AT_ONCE])
            losses: Tensor = (task.loss or cross_entropy)(output, wanted).double()
            if losses.shape != (len(wanted),):
                raise InputError(
                    f"the loss of {len(wanted)} examples has shape {tuple(losses.shape)}, must be "
                    f"({len(wanted)},): who was in a training is guessed an example at a time"
                )
            found.append(torch.stack([losses, _confidence(output, wanted, losses)]).cpu().numpy())
    return np.concatenate(found, axis=1)


def _confidence(output: Any, wanted: Tensor, losses: Tensor) -> Tensor:
    classes = isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] > 1
    if not classes or wanted.is_floating_point() or wanted.ndim != 1:
        return -losses
    logits, chosen = output.double(), wanted[:, None]
    own = logits.gather(1, chosen)[:, 0]
    others = logits.scatter(1, chosen, -torch.inf).logsumexp(1)
    margins: Tensor = own - others
    return margins


def _taken(data: Examples, rows: Sequence[int]) -> Examples:
    at = torch.as_tensor(rows)
    return Examples(features=data.features[at], labels=data.labels[at])


def _joined(parts: Sequence[Examples]) -> Examples:
    return Examples(
        features=torch.cat([part.features for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
    )
