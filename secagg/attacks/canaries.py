"""Audits by canaries: contributions that an auditor plants to see how well noise hides them.

| function | what is audited | gives |
|---|---|---|
| ``one_run`` | clipping, noise and accounting of ``local`` or ``distributed`` | a bound |
| ``client_cosines`` | a training under ``client``, beside real clients | an estimate |

Canaries of ``one_run`` are the worst examples that there are: canary i has the gradient
C e_i, an entry of its own, at every step, and the auditor sees the model. The bound stays far
below an epsilon of 2 that is true, at 0.5, and passes it where noise is missing: in 20 of 20
runs with a quarter of the noise, in 1 of 20 with half of it (``local`` at the defaults, measured).
Where the noise is claimed to be Gaussian, ``as_gaussian`` proves more from the same guesses.

[SNJ23]: Steinke, Nasr, Jagielski, arXiv 2305.08846. [AKO+23]: Andrew et al., arXiv 2302.03098.
[MMC25]: Mahloujifar, Melis, Chaudhuri, arXiv 2410.22235.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

import dp
from dp.accounting.accountant import epsilon_rdp
from dp.accounting.calibrate import noise_multiplier
from dp.accounting.events import Event, NoSampling, PoissonSampling, Unit
from dp.empirical import (
    GAUSSIAN,
    Estimate,
    Flags,
    LowerBound,
    cosines,
    from_cosines,
    from_json,
    gaussian_lower_bound,
    guess,
    include_canaries,
    lower_bound,
    random_directions,
)
from dp.ledger import Budget
from dp.noise.mechanisms import DistributedNoise
from protocols.entropy import Entropy, system
from secagg.attacks.fields import Fields, shown
from secagg.errors import InputError
from secagg.planning.noise import calibrate_shared_noise
from secagg.training.data import Federation, federate
from secagg.training.settings import TrainingConfig
from secagg.vectors.vector import flatten, unflatten

if TYPE_CHECKING:
    from torch import Tensor

    from secagg.training.modes import Client

Reals: TypeAlias = NDArray[np.float64]
Mechanism: TypeAlias = Literal["local", "distributed"]

CLIENTS: Final = 5  # among whom the canaries of ``distributed`` are dealt out
BITS: Final = 21  # of a lane, as ``secagg train`` takes them
BUDGET: Final = Budget(epsilon=2.0, delta=1e-5)
CLIENT_BUDGET: Final = Budget(epsilon=2.0, delta=1e-4)
SIGNIFICANCE: Final = 0.05  # a bound's chance of error
MAX_VALUE: Final = 10**6  # epsilon, steps or deviations of a result that is read
_NAMES: Final = (
    *("audited", "found", "stated", "noise_multiplier", "steps"),
    *("noise_share", "refuted"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmpiricalAudit:
    """What an audit found, beside what the mechanism was accounted at.

    Attributes:
      audited: the mode.
      found: a bound or an estimate; its ``delta`` is also that of ``stated``.
      stated: epsilon, by the accountant that the ledger admits by.
      noise_multiplier: of one step, for which ``stated`` holds.
      steps: noisy sums.
      noise_share: of that deviation, what was really added; below 1 the mechanism was broken on
        purpose, and ``stated`` is what its books would still say.
    """

    audited: str
    found: LowerBound | Estimate
    stated: float
    noise_multiplier: float
    steps: int
    noise_share: float = 1.0

    @property
    def refuted(self) -> bool:
        """Whether a bound passes what is stated. An estimate refutes nothing."""
        return isinstance(self.found, LowerBound) and self.found.epsilon > self.stated

    def as_gaussian(self) -> "EmpiricalAudit":
        """What the same guesses prove against the claim that ``local`` makes [MMC25].

        Its steps take every example and add Gaussian noise, so all of them together are one
        Gaussian mechanism: z of a step over the root of the steps. ``distributed`` claims no
        such curve: its noise is Skellam's.
        """
        if self.audited != "local" or not isinstance(self.found, LowerBound):
            raise InputError(f"{self.audited} claims no Gaussian curve, only local does")
        bound = gaussian_lower_bound(
            *self.found.counts.values(), delta=self.found.delta, significance=SIGNIFICANCE
        )
        return replace(self, found=replace(bound, mechanism=self.found.mechanism))

    def as_dict(self) -> dict[str, Any]:
        """The audit as JSON; ``found`` as ``dp.empirical.from_json`` reads it."""
        return shown(self, _NAMES, found=self.found.as_dict())

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """The one whose ``as_dict()`` is ``data``, its bound or estimate computed anew.

        Raises:
          InputError: it is no such object, or says what does not follow from its own numbers.
        """
        held = Fields(data, _NAMES)
        audited = held.text("audited", ("local", "distributed", "client"))
        try:
            found = from_json(data["found"])
        except dp.InputError as error:
            raise InputError(f"{audited}: {error}") from error
        if found.epsilon > MAX_VALUE:
            raise InputError(f"{audited}: epsilon {found.epsilon:g} is above {MAX_VALUE:g}")
        estimated = isinstance(found, Estimate)
        unit = Unit.CLIENT if audited == "client" else Unit.EXAMPLE
        if found.unit is not unit or estimated is not (audited == "client"):
            raise InputError(f"{audited}: found must be an estimate for client, else a bound")
        methods = ("one run", GAUSSIAN) if audited == "local" else ("one run",)
        if isinstance(found, LowerBound) and found.method not in methods:
            raise InputError(f"{audited}: found is of {found.method}, must be of {methods[0]}")
        one = cls(
            audited=audited,
            found=found,
            stated=held.number("stated", 0, MAX_VALUE),
            noise_multiplier=held.number("noise_multiplier", 0, MAX_VALUE),
            steps=held.whole("steps", 1, MAX_VALUE),
            noise_share=held.number("noise_share", 1 / MAX_VALUE, 1),
        )
        held.follows(one.as_dict())
        return one


def one_run(
    mechanism: Mechanism = "local",
    budget: Budget = BUDGET,
    *,
    canaries: int = 1000,
    guesses: int = 100,
    steps: int = 4,
    noise_share: float = 1.0,
    entropy: Entropy = system,
) -> EmpiricalAudit:
    """Plant canaries by fair coins, run a private training of them once, guess the coins.

    Args:
      mechanism: ``local`` runs ``dp.sgd.LocalDpSgd``; ``distributed`` sums
        ``dp.sgd.ClippedSums`` of five clients under ``dp.noise.mechanisms.DistributedNoise``.
      budget: what the noise is calibrated to, over all steps.
      canaries: coins; also the entries of the model.
      guesses: how many of them, fixed here; half "in", half "out".
      steps: noisy sums, each of all canaries that are in.
      noise_share: of the noise's deviation, what is really added, above 0 and at most 1: to see
        whether noise that is missing is found.
      entropy: of the coins. Noise and rounding are the system's.

    Raises:
      InputError, PrivacyError: the settings cannot be kept.
    """
    if not 0 < noise_share <= 1:
        raise InputError(f"noise_share {noise_share} must be above 0 and at most 1")
    coins = include_canaries(canaries, entropy=entropy)
    if not coins.any():
        raise InputError(f"none of {canaries} canaries was included; take more canaries")
    match mechanism:
        case "local":
            moved, noise, event = _local(coins, budget, steps, noise_share)
        case "distributed":
            moved, noise, event = _distributed(coins, budget, steps, noise_share)
        case _:
            raise InputError(f"unknown mechanism {mechanism!r}; known: local, distributed")
    found = guess(moved, coins, count=guesses)
    bound = lower_bound(
        found.canaries, found.made, found.correct, delta=budget.delta, significance=SIGNIFICANCE
    )
    return EmpiricalAudit(
        audited=mechanism,
        found=replace(bound, mechanism=event.KIND),
        stated=epsilon_rdp([(event, 1)], budget.delta),
        noise_multiplier=noise,
        steps=steps,
        noise_share=noise_share,
    )


def client_cosines(
    budget: Budget = CLIENT_BUDGET,
    *,
    clients: int = 250,
    canaries: int = 200,
    rounds: int = 20,
    seed: int = 0,
    entropy: Entropy = system,
) -> EmpiricalAudit:
    """Train on digits with unit ``client`` and canary clients, and look for these [AKO+23].

    A canary's update is a random direction as long as the clip, round after round. The
    statistic is its cosine with the final change of the model. One that took no part would have
    N(0, 1/d), whatever the change, as its direction is uniform. Canaries hide one another a
    little, and real clients hide them: at a large epsilon the estimate stays far below it.

    Args:
      budget: of the training.
      clients: all of them, canaries included, at most 1000.
      canaries: from 2 to all but one of them.
      rounds: of training.
      seed: of the data.
      entropy: of the canaries. Noise and rounding are the system's.

    Raises:
      InputError, PrivacyError: the settings cannot be kept.
    """
    from torch import nn

    from secagg.training.modes import Client

    if not 2 <= canaries < clients:
        raise InputError(f"canaries {canaries} must be from 2 to {clients - 1}")
    config = TrainingConfig(
        unit="client",
        clients=clients,
        rounds=rounds,
        epsilon=budget.epsilon,
        delta=budget.delta,
        dropout=0.0,
        seed=seed,
    )
    data: Federation = federate("digits", clients=clients - canaries, partition="iid", seed=seed)
    model = nn.Linear(data.evaluation.features.shape[1], data.classes)
    unflatten(flatten(model).mul(0), model)
    how = Client(config, data, model)
    return planted_clients(how, config, flatten(model), canaries, entropy=entropy)


def planted_clients(
    how: "Client", config: TrainingConfig, start: "Tensor", canaries: int, *, entropy: Entropy
) -> EmpiricalAudit:
    """Canary clients beside the real ones of a training from ``start``, looked for at its end.

    ``config.clients`` counts both.
    """
    from secagg.vectors.layout import UPDATE

    clients = config.clients
    planted = random_directions(canaries, how.mechanism.entries, entropy=entropy)
    position = start.clone()
    for _ in range(config.rounds):
        rotation, total = system(32), np.zeros(how.layout.words, np.uint64)
        for client in range(clients - canaries):
            total += how.words(client, position, rotation)
        for canary in planted:
            encoded = how.mechanism.encode(canary, seed=rotation, indicator=True)
            total += how.layout.encode({UPDATE: encoded})
        moved = how.moved(how.layout.decode(total), range(clients), rotation)
        position = position + moved.to(position.dtype)
    change, event = (position - start).double().numpy(), how.event(clients)
    found = from_cosines(
        cosines(planted, change), entries=len(change), delta=config.delta, unit=Unit.CLIENT
    )
    return EmpiricalAudit(
        audited="client",
        found=replace(found, mechanism=event.KIND),
        stated=epsilon_rdp([(event, config.rounds)], how.delta),
        noise_multiplier=how.noise_multiplier,
        steps=config.rounds,
    )


def _local(coins: Flags, budget: Budget, steps: int, share: float) -> tuple[Reals, float, Event]:
    """What the steps move of each canary's entry, z, and what all steps are priced as."""
    import torch

    from dp.sgd import LocalDpSgd

    noise = noise_multiplier(
        epsilon=budget.epsilon,
        delta=budget.delta,
        sampling=PoissonSampling(rate=1.0),
        steps=steps,
    )
    model, inputs, targets, loss = _planted(coins, np.flatnonzero(coins))
    client = LocalDpSgd(
        model,
        inputs,
        targets,
        loss,
        learning_rate=float(len(inputs)),  # undoes the divisor: a step moves by C
        clip=1.0,
        noise_multiplier=share * noise,
        sampling_rate=1.0,
    )
    moved = client.run(torch.zeros(len(coins)), steps)
    event = replace(client.event(steps), noise_multiplier=noise)
    return moved.double().numpy(), noise, event


def _distributed(
    coins: Flags, budget: Budget, steps: int, share: float
) -> tuple[Reals, float, Event]:
    """The same of sums of clients' clipped gradients, with the noise in shares."""
    import torch

    from dp.sgd import ClippedSums

    parts = [part for part in np.array_split(np.flatnonzero(coins), CLIENTS) if len(part)]

    def at(z: float) -> DistributedNoise:
        return DistributedNoise(
            entries=len(coins),
            clip=1.0,
            noise_multiplier=z,
            clients=CLIENTS,
            minimum_survivors=CLIENTS,
            bits=BITS,
            unit=Unit.EXAMPLE,
            batch=max(map(len, parts)),
        )

    noise = calibrate_shared_noise(
        at, epsilon=budget.epsilon, delta=budget.delta, sampling=NoSampling(), steps=steps
    )
    priced = at(noise)
    mechanism = replace(priced, noise_multiplier=share * noise)  # its scale is the priced one's
    clients = [ClippedSums(*_planted(coins, part), clip=1.0, sampling_rate=1.0) for part in parts]
    silent = [np.zeros(len(coins))] * (CLIENTS - len(parts))
    position = torch.zeros(len(coins))
    for _ in range(steps):
        seed = system(32)
        sums = [client.sum(position).numpy() for client in clients] + silent
        total = sum(mechanism.encode(one, seed=seed) for one in sums)
        position = position - torch.from_numpy(mechanism.decode(np.asarray(total), seed=seed))
    return position.double().numpy(), noise, priced.event(survivors=CLIENTS, steps=steps)


def _planted(coins: Flags, places: NDArray[np.intp]) -> tuple[Any, Any, Any, Callable[..., Any]]:
    """A linear model and a loss under which canary i, and no other, moves parameter i by 1."""
    import torch

    inputs = torch.zeros(len(places), len(coins))
    inputs[torch.arange(len(places)), torch.from_numpy(places)] = 1.0
    model = torch.nn.Linear(len(coins), 1, bias=False)
    return model, inputs, torch.ones(len(places)), lambda outputs, _: -outputs[:, 0]
