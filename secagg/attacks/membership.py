"""Membership inference on softmax regression: by loss, and by shadow models (LiRA).

Each unit of a pool is in the training by a fair coin, model by model. The attacker gets the
final model, knows the pool, and trains ``shadows`` models of its own on coins of its own:

| attack | score of a unit, higher says "in" |
|---|---|
| ``loss`` | minus its loss under the model [YGFJ18] |
| ``lira offline`` | its confidence, in deviations above that of shadows without it [CCN+22] |
| ``lira online`` | log-likelihood ratio of its confidence, shadows with it against without |

Confidence is ln(p / (1 - p)), p the probability of the true class; one deviation for all units,
as [CCN+22] advise where shadows are few. Beside the pool each client holds one example that is
always in, so that none is ever without. Private targets are trained by ``secagg.training.modes``
themselves, shadows by the same steps with Gaussian noise of the same deviation.

Intervals are Clopper-Pearson's at 95 %, over pairs of a model and a unit as if they were
independent; those of one model share its noise, so the truth is a little wider.

[YGFJ18]: Yeom et al., Privacy Risk in Machine Learning, arXiv 1709.01604. [CCN+22]: Carlini et
al., Membership Inference Attacks From First Principles, arXiv 2112.03570.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.accounting.events import Unit
from dp.empirical import clopper_pearson_high, clopper_pearson_low, include_canaries, normals
from dp.ledger import Budget
from protocols.entropy import Entropy, system
from secagg.attacks.fields import Fields, shown
from secagg.errors import InputError
from secagg.pages.numbers import finite
from secagg.training.data import Examples, Federation, federate
from secagg.training.settings import MODES, TrainingConfig, noise_and_unit
from secagg.vectors.vector import flatten

Reals: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Tell: TypeAlias = Callable[[int, int], None]
"""Is told, by an attack that takes minutes, how many models are trained and of how many."""

ATTACKS: Final = ("loss", "lira offline", "lira online")
RATES: Final = (0.01, 0.001)  # false positive rates at which the true one is told
CONFIDENCE: Final = 0.95  # of the intervals
MAX_POINTS: Final = 200  # of a curve that is handed on
MAX_PAIRS: Final = 2**40  # pairs, examples or epsilon of a result that is read
# Of ``none``: by then all its training examples are classified right (measured, a pool of 100).
OVERFITTED: Final[Mapping[str, Any]] = {"rounds": 300, "learning_rate": 20.0}
BUDGET: Final = Budget(epsilon=2.0, delta=1e-4)
CLIENTS: Final = 10  # whom the pool is dealt out to; as units, twice as many
_OF_RATE: Final = ("false_positive_rate", "true_positive_rate", "interval")
_NAMES: Final = (
    *("attack", "mode", "unit", "epsilon", "delta", "pool", "members", "others"),
    *("auc", "roc", "rates", "accuracy"),
)


class Models(NamedTuple):
    """How many models are attacked, and how many the attacker trains to learn from."""

    targets: int
    shadows: int


MODELS: Final = Models(targets=8, shadows=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A point of the curve: true positives at a false positive rate, with its interval."""

    false_positive_rate: float
    true_positive_rate: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return shown(self, _OF_RATE, interval=[self.low, self.high])

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """The one whose ``as_dict()`` is ``data``; ``InputError`` if it is no such object."""
        held = Fields(data, _OF_RATE)
        low, high = map(finite, held.items("interval", 2, 2))
        if low is None or high is None or not 0 <= low <= high <= 1:
            raise InputError(f"interval is {[low, high]}, must be two of [0, 1], the lower first")
        return cls(
            false_positive_rate=held.number("false_positive_rate", 0, 1),
            true_positive_rate=held.number("true_positive_rate", low, high),
            low=low,
            high=high,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How one attack did on models of one mode.

    Attributes:
      attack: of ``ATTACKS``.
      mode: of ``secagg.training.settings.MODES``; "none" is trained until it overfits.
      unit: whose presence was guessed.
      epsilon: of the training, with ``delta``; ``None`` without privacy.
      pool: examples that coins put in or out, each alone or a client's together.
      members: pairs of a model and a unit that was in it; ``others``: that was not.
      auc: area under the curve; 1/2 is chance.
      roc: (false, true) positive rates, from (0, 0) to (1, 1), to six decimals.
      rates: at ``RATES``.
      accuracy: of the attacked models on examples that none of them saw, the mean.
    """

    attack: str
    mode: str
    unit: Unit
    epsilon: float | None
    delta: float | None
    pool: int
    members: int
    others: int
    auc: float
    roc: tuple[tuple[float, float], ...]
    rates: tuple[Rate, ...]
    accuracy: float

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        rates = [rate.as_dict() for rate in self.rates]
        roc = [list(point) for point in self.roc]
        return shown(self, _NAMES, unit=self.unit.value, roc=roc, rates=rates)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """The one whose ``as_dict()`` is ``data``.

        Raises:
          InputError: it is no such object, or one that no attack gives.
        """
        held = Fields(data, _NAMES)
        mode = held.text("mode", tuple(MODES))
        private = mode != "none"
        one = cls(
            attack=held.text("attack", ATTACKS),
            mode=mode,
            unit=Unit.CLIENT if mode == "client" else Unit.EXAMPLE,
            epsilon=held.number("epsilon", 0, MAX_PAIRS) if private else None,
            delta=held.number("delta", 0, 1) if private else None,
            pool=held.whole("pool", 1, MAX_PAIRS),
            members=held.whole("members", 1, MAX_PAIRS),
            others=held.whole("others", 1, MAX_PAIRS),
            auc=held.number("auc", 0, 1 + 1e-9),  # but for rounding
            roc=_curve(held.items("roc", 2, MAX_POINTS)),
            rates=tuple(map(Rate.from_dict, held.items("rates", len(RATES), len(RATES)))),
            accuracy=held.number("accuracy", 0, 1),
        )
        if tuple(rate.false_positive_rate for rate in one.rates) != RATES:
            raise InputError(f"rates must be at false positive rates of {RATES}")
        held.follows(one.as_dict())
        return one


def membership(
    mode: str = "none",
    budget: Budget = BUDGET,
    *,
    pool: int = 100,
    models: Models = MODELS,
    rounds: int | None = None,
    seed: int = 0,
    tell: Tell = lambda done, of: None,
    entropy: Entropy = system,
) -> tuple[Membership, ...]:
    """Attack models trained on digits under one mode, in all three ways.

    Args:
      mode: of ``secagg.training.settings.MODES``; with ``client`` the units are clients.
      budget: of the private ones' whole training.
      pool: examples, each, or each client's, in a model by a coin; a multiple of ``CLIENTS``, of
        ``client`` of twice as many.
      models: how many are attacked, at least 1, and of the attacker's own, at least 16.
      rounds: of training; the mode's own number if not given.
      seed: of the pool.
      tell: is told of every model that the library trains.
      entropy: of coins and of the shadows' noise. That of the targets is the system's.

    Raises:
      InputError, PrivacyError: the settings cannot be kept, or are out of range.
    """
    clients = 2 * CLIENTS if mode == "client" else CLIENTS
    targets, shadows = models
    if targets < 1 or shadows < 16 or pool < clients or pool % clients:
        raise InputError(
            f"targets {targets}, shadows {shadows}, pool {pool}: must be at least 1, at least 16, "
            f"and a multiple of {clients}"
        )
    if rounds is not None and rounds < 1:
        raise InputError(f"rounds {rounds} must be at least 1")
    some: dict[str, Any] = {} if rounds is None else {"rounds": rounds}
    drawn = _pool(pool, each=pool // clients if mode == "client" else 1, seed=seed)
    theirs, own = (
        include_canaries(count * drawn.units, entropy=entropy).reshape(count, -1)
        for count in models
    )
    if mode == "none":
        attacked, shadowed = (
            _descend(drawn, coins, **{**OVERFITTED, **some}) for coins in (theirs, own)
        )
    else:
        config = TrainingConfig(
            **noise_and_unit(mode),
            clients=clients,
            epsilon=budget.epsilon,
            delta=budget.delta,
            dropout=0.0,
            **some,
        )
        trained = []
        for at, coins in enumerate(theirs):
            tell(at, targets)
            trained.append(_trained(config, drawn, coins))
        attacked = np.stack(trained)
        shadowed = _shadowed(config, drawn, own, entropy)
    losses, confidences = _seen(attacked, drawn)
    offline, online = likelihoods(confidences, _seen(shadowed, drawn)[1], own)
    rows = _with_one(drawn.evaluation.features)
    accuracy = float(((rows @ attacked).argmax(-1) == drawn.evaluation.labels).mean())
    private = mode != "none"
    return tuple(
        judged(
            scores.ravel(),
            theirs.ravel(),
            attack=attack,
            mode=mode,
            unit=Unit.CLIENT if mode == "client" else Unit.EXAMPLE,
            epsilon=budget.epsilon if private else None,
            delta=budget.delta if private else None,
            pool=pool,
            accuracy=accuracy,
        )
        for attack, scores in zip(ATTACKS, (-losses, offline, online), strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """Units of equally many examples; one more for each client, that is always in; and others.

    Attributes:
      features: (units, examples of one, inputs and a 1).
      fixed: of whom nothing is guessed, so that no client is ever without an example.
    """

    features: Reals
    labels: NDArray[np.int64]
    fixed: Examples
    evaluation: Examples
    classes: int

    @property
    def units(self) -> int:
        return len(self.features)

    def of(self, units: NDArray[np.int64], fixed: int) -> Examples:
        """The examples of some units, and one that is always in."""
        rows = self.features[units][..., :-1]
        always = self.fixed.take(np.array([fixed]))
        return Examples(
            features=np.concatenate(
                [rows.reshape(-1, rows.shape[-1]).astype(np.float32), always.features]
            ),
            labels=np.concatenate([self.labels[units].ravel(), always.labels]),
        )


def _pool(count: int, *, each: int, seed: int) -> _Pool:
    federation = federate("digits", clients=2, partition="iid", seed=seed)
    rows = np.concatenate([c.features for c in federation.clients])
    labels = np.concatenate([c.labels for c in federation.clients])
    fixed = 2 * CLIENTS
    if count + fixed > len(labels):
        there = len(labels) - fixed
        raise InputError(f"pool {count} is above the {there} examples that there are")
    return _Pool(
        features=_with_one(rows[fixed : fixed + count]).reshape(count // each, each, -1),
        labels=labels[fixed : fixed + count].reshape(-1, each),
        fixed=Examples(features=rows[:fixed], labels=labels[:fixed]),
        evaluation=federation.evaluation,
        classes=federation.classes,
    )


def _trained(config: TrainingConfig, pool: _Pool, coins: Flags) -> Reals:
    """The model that the library itself trains on the units whose coin says so."""
    from torch import nn

    from secagg.training.modes import Client, mode
    from secagg.vectors.layout import UPDATE

    everyone = range(config.clients)
    if config.unit == "client":
        parts = [pool.of(np.array([c]), c) for c in everyone]
    else:
        parts = [
            pool.of(units[coins[units]], c)
            for c, units in ((c, np.arange(c, pool.units, config.clients)) for c in everyone)
        ]
    federation = Federation(clients=tuple(parts), evaluation=pool.evaluation, classes=pool.classes)
    model = nn.Linear(pool.features.shape[-1] - 1, pool.classes)
    how = mode(config, federation, model)
    position = flatten(model).mul(0).clone()
    for _ in range(config.rounds):
        seed, total = system(32), np.zeros(how.layout.words, np.uint64)
        for client in range(config.clients):
            if isinstance(how, Client) and not coins[client]:
                # Zero-out: it takes part, with its share of the noise and nothing else.
                silent = how.mechanism.encode(np.zeros(how.mechanism.entries), seed=seed)
                total += how.layout.encode({UPDATE: silent})
            else:
                total += how.words(client, position, seed)
        moved = how.moved(how.layout.decode(total), range(config.clients), seed)
        position = position + moved.to(position.dtype)
    weights, biases = position[: model.weight.numel()], position[model.weight.numel() :]
    return np.concatenate(
        [weights.reshape(pool.classes, -1).T.numpy(), biases[None].numpy()]
    ).astype(np.float64)


def _shadowed(config: TrainingConfig, pool: _Pool, coins: Flags, entropy: Entropy) -> Reals:
    """Models trained by the same steps, all at once, with Gaussian noise as wide."""
    from torch import nn

    from secagg.training.modes import Client, Distributed, mode

    whole = Federation(
        clients=tuple(pool.of(np.arange(2), c) for c in range(config.clients)),
        evaluation=pool.evaluation,
        classes=pool.classes,
    )
    how = mode(config, whole, nn.Linear(pool.features.shape[-1] - 1, pool.classes))
    if isinstance(how, Client):
        noise = how.mechanism.stddev(config.clients)
        return _descend_clients(config, pool, coins, noise, entropy)
    noise = math.sqrt(config.clients) * how.noise_multiplier * config.clip
    if isinstance(how, Distributed):
        noise = how.mechanism.stddev(config.clients)
    return _descend(
        pool,
        coins,
        rounds=config.rounds * config.local_steps,
        learning_rate=config.learning_rate,
        clip=config.clip,
        noise=noise,
        clients=config.clients,
        entropy=entropy,
    )


def _descend(
    pool: _Pool,
    coins: Flags,
    *,
    rounds: int,
    learning_rate: float,
    clip: float = math.inf,
    noise: float = 0.0,
    clients: int = CLIENTS,
    entropy: Entropy = system,
) -> Reals:
    """A softmax regression for each row of ``coins``, (models, inputs and a 1, classes).

    Steps of all examples at once; each example's gradient clipped, noise added to the sum.
    """
    rows = np.concatenate([pool.features[:, 0], _with_one(pool.fixed.features[:clients])])
    wanted = np.eye(pool.classes)[np.concatenate([pool.labels[:, 0], pool.fixed.labels[:clients]])]
    there = np.concatenate([coins, np.ones((len(coins), clients), np.bool_)], axis=1)
    lengths = np.linalg.norm(rows, axis=1)
    weights = np.zeros((len(coins), rows.shape[1], pool.classes))
    for _ in range(rounds):
        errors = _softmax(rows @ weights) - wanted
        norms = np.maximum(lengths * np.linalg.norm(errors, axis=-1), np.finfo(float).tiny)
        kept = there * np.minimum(1.0, clip / norms)
        gradients = rows.T @ (errors * kept[..., None])
        if noise:
            gradients += noise * normals(gradients.size, entropy=entropy).reshape(gradients.shape)
        weights -= learning_rate / there.sum(axis=1)[:, None, None] * gradients
    return weights


def _descend_clients(
    config: TrainingConfig, pool: _Pool, coins: Flags, noise: float, entropy: Entropy
) -> Reals:
    """The same with unit ``client``: a unit is a client, and its update is clipped."""
    from secagg.training.modes import CLIP_QUANTILE, CLIP_RATE

    fixed = _with_one(pool.fixed.features[: pool.units])[:, None]
    rows = np.concatenate([pool.features, fixed], axis=1)
    labels = np.concatenate([pool.labels, pool.fixed.labels[: pool.units, None]], axis=1)
    wanted = np.eye(pool.classes)[labels]
    shape = (len(coins), rows.shape[-1], pool.classes)
    weights, clip = np.zeros(shape), np.full((len(coins), 1), config.clip)
    for _ in range(config.rounds):
        local = np.repeat(weights[:, None], pool.units, axis=1)
        for _ in range(config.local_steps):
            errors = _softmax(rows @ local) - wanted
            gradients = rows.swapaxes(-1, -2) @ errors
            local -= config.learning_rate / rows.shape[1] * gradients
        updates = local - weights[:, None]
        norms = np.linalg.norm(updates, axis=(-1, -2))
        kept = coins * np.minimum(1.0, clip / np.maximum(norms, np.finfo(float).tiny))
        total = (updates * kept[..., None, None]).sum(axis=1)
        drawn = normals(total.size, entropy=entropy).reshape(shape)
        weights = weights + (total + noise * clip[..., None] * drawn) / pool.units
        # The bits that move the clip, without their noise.
        below = 0.5 + (coins * ((norms <= clip) - 0.5)).sum(axis=1, keepdims=True) / pool.units
        clip = clip * np.exp(-CLIP_RATE * (below - CLIP_QUANTILE))
    return weights


def _seen(weights: Reals, pool: _Pool) -> tuple[Reals, Reals]:
    """Loss and confidence of every unit under every model: the means over its examples."""
    logits = pool.features @ weights[:, None]
    true = np.broadcast_to(np.eye(pool.classes, dtype=np.bool_)[pool.labels], logits.shape)
    own = logits[true].reshape(logits.shape[:-1])
    others = np.logaddexp.reduce(np.where(true, -np.inf, logits), axis=-1)
    confidences = own - others
    losses = np.logaddexp(0.0, -confidences)
    return losses.mean(axis=-1), confidences.mean(axis=-1)


def likelihoods(seen: Reals, shadows: Reals, coins: Flags) -> tuple[Reals, Reals]:
    """Offline and online scores of (models, units) from shadows' confidences and their coins."""
    means, deviations = [], []
    for side in (coins, ~coins):
        held = side.sum(axis=0)
        mean = np.where(side, shadows, 0.0).sum(axis=0) / np.maximum(held, 1)
        mean = np.where(held, mean, shadows.mean())
        spread = np.where(side, shadows - mean, 0.0)
        means.append(mean)
        deviations.append(math.sqrt(float((spread**2).sum()) / max(int(side.sum()), 1)))
    inside, outside = (
        (seen - mean) / max(deviation, np.finfo(float).tiny)
        for mean, deviation in zip(means, deviations, strict=True)
    )
    return outside, (outside**2 - inside**2) / 2


def judged(scores: Reals, included: Flags, **what: Any) -> Membership:
    """The curve of one threshold after another; equal scores pass one together."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    members, others = int(included.sum()), int((~included).sum())
    if not members or not others:
        raise InputError("all targets are members, or none is; take more targets or a larger pool")
    true, false = (
        np.concatenate([[0], np.cumsum(side[order])[ends]]) for side in (included, ~included)
    )
    level = (1 - CONFIDENCE) / 2
    rates = []
    for rate in RATES:
        found = int(true[np.searchsorted(false, rate * others, side="right") - 1])
        rates.append(
            Rate(
                false_positive_rate=rate,
                true_positive_rate=found / members,
                low=clopper_pearson_low(found, members, level),
                high=clopper_pearson_high(found, members, level),
            )
        )
    x, y = false / others, true / members
    # Half of the points by length, half by order of magnitude: small rates are what counts.
    last = len(x) - 1
    even, fine = np.linspace(0, last, MAX_POINTS // 2), np.geomspace(1, last, MAX_POINTS // 2)
    kept = np.unique(np.concatenate([even, fine]).round().astype(int))
    return Membership(
        members=members,
        others=others,
        auc=float(np.sum((x[1:] - x[:-1]) * (y[1:] + y[:-1])) / 2),
        roc=tuple(zip(x[kept].round(6).tolist(), y[kept].round(6).tolist(), strict=True)),
        rates=tuple(rates),
        **what,
    )


def _curve(points: list[Any]) -> tuple[tuple[float, float], ...]:
    curve, last = [], (0.0, 0.0)
    for point in points:
        x, y = map(finite, point) if type(point) is list and len(point) == 2 else (None, None)
        if x is None or y is None or x < last[0] or y < last[1]:
            raise InputError(f"roc has a point {point!r:.40}, must be two rates that never fall")
        curve.append(last := (x, y))
    if (curve[0], curve[-1]) != ((0, 0), (1, 1)):
        raise InputError("roc must run from (0, 0) to (1, 1)")
    return tuple(curve)


def _softmax(logits: Reals) -> Reals:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Reals = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _with_one(rows: NDArray[Any]) -> Reals:
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1).astype(np.float64)
