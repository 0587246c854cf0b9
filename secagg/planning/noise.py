"""The noise, scale and lanes of a sum for a privacy budget, and what can go wrong with them.

``plan_noise`` adds to ``secagg.planning.sums`` what ``dp.noise.DistributedNoise`` needs. Narrow
lanes leave a small scale; rounding to it stretches what one unit adds, by
``sensitivity_inflation``, and more noise has to make up for that. So the narrowest lanes are
taken, of 8 to 2 a word, with at most ``MORE_NOISE`` more noise in the sum than the widest
would have.

In a sparse graph that the server draws a client cannot count the survivors whose noise it relies
on; ``trusts_count`` says so. Where clients pick their holders, against a server that lies, they
count and sign the survivors, of whom a twentieth may not be in the sum: their shares of noise,
and those of the corrupt, are not counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import dp
from dp.accounting.accountant import (
    GRAPH_FAILURE,
    ReportedDelta,
    check_delta,
    epsilon_rdp,
    reported_delta,
)
from dp.accounting.calibrate import calibrate_noise
from dp.accounting.events import (
    CohortSecrecy,
    HiddenPoissonSampling,
    NoSampling,
    PoissonSampling,
    Sampling,
    Unit,
)
from dp.errors import CalibrationError
from dp.noise.mechanisms import DistributedNoise
from dp.noise.skellam import ERROR
from protocols.bonawitz.picks import LEFT_OUT
from secagg.errors import InputError
from secagg.planning.sums import Advice, SumWishes, fewest, plan_sum
from secagg.planning.survivors import likely_survivors, p_round_lost
from secagg.vectors.packing import lane_bits

Design: TypeAlias = NoSampling | PoissonSampling | HiddenPoissonSampling

MORE_NOISE: Final = 0.01  # of the deviation of a sum, for lanes narrower than the widest
WIDTHS: Final = tuple(map(lane_bits, range(8, 1, -1)))  # 8 to 32 bits; no mechanism uses more


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseWishes:
    """What the noise of a sum should hide, and at which price.

    Attributes:
      epsilon: of one unit, over all rounds.
      delta: all that may fail is inside it; below one over the number of units.
      unit: whom the noise hides, ``example`` or ``client``.
      examples: of all clients together; only for unit ``example``, and needed there.
      max_batch: most examples of one client, ``None`` if they are dealt out evenly.
      sampling_rate: with which an example is in a batch; only for unit ``example``.
      client_sampling_rate: with which a client brings its update; only for unit ``client``.
      minimum_survivors: fewest clients that may be summed. ``None``: so many that few runs lose
        a round; never below a complete graph's threshold.
      uncounted_shares: clients whose shares of noise count for nothing; ``None`` for those
        that may work with the server and those that it may leave out, at least 1.
    """

    epsilon: float
    delta: float
    unit: str = "example"
    examples: int | None = None
    max_batch: int | None = None
    sampling_rate: float = 1.0
    client_sampling_rate: float = 1.0
    minimum_survivors: int | None = None
    uncounted_shares: int | None = None

    def units(self, clients: int) -> tuple[Unit, int, Design]:
        """The unit that the noise hides, how many there are, and how they get into a sum.

        Raises:
          InputError: the wishes contradict each other.
        """
        if self.unit == "client":
            if self.examples is not None:
                raise InputError(f"examples {self.examples}: unit client hides clients")
            if self.sampling_rate != 1:
                raise InputError(
                    f"sampling_rate {self.sampling_rate}: with unit client it changes no price"
                )
            coins = HiddenPoissonSampling(
                rate=self.client_sampling_rate, cover=CohortSecrecy.ALL_TAKE_PART
            )
            return Unit.CLIENT, clients, coins if coins.rate < 1 else NoSampling()
        if self.unit != "example":
            raise InputError(f"unknown unit {self.unit!r}; known: example, client")
        if self.client_sampling_rate != 1:
            raise InputError(
                f"client_sampling_rate {self.client_sampling_rate}: it changes the price with "
                "unit client alone"
            )
        if self.examples is None:
            raise InputError("examples is missing: delta must be below one over their number")
        if self.examples < clients:
            raise InputError(f"examples {self.examples} are fewer than {clients} clients")
        batches = PoissonSampling(rate=self.sampling_rate)
        return Unit.EXAMPLE, self.examples, batches if batches.rate < 1 else NoSampling()


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseAdvice:
    """A sum with noise in shares: its parameters, its price, and what can go wrong.

    Attributes:
      sum: graph, threshold, lanes and bytes.
      mechanism: what a client adds its share with.
      privacy: ``distributed`` hides an example, ``client`` a client.
      epsilon: the budget, over all rounds.
      delta: what it is made of; its total is at most the delta asked for.
      units: how many there are to hide, N.
      sampling: how a unit gets into a sum.
      more_noise: by how much the lanes make the noise of a sum larger than the widest would.
    """

    sum: Advice
    mechanism: DistributedNoise
    epsilon: float
    delta: ReportedDelta
    units: int
    sampling: Design
    more_noise: float

    @property
    def rate(self) -> float:
        """The probability with which a unit is in a sum."""
        return 1.0 if isinstance(self.sampling, NoSampling) else self.sampling.rate

    @property
    def expected_survivors(self) -> int:
        """Those that the planned dropouts leave, and no fewer than the minimum."""
        left = self.sum.clients - int(self.sum.dropout * self.sum.clients)
        return max(left, self.mechanism.minimum_survivors)

    @property
    def epsilon_planned(self) -> float:
        """What is reserved: every sum of ``minimum_survivors`` clients."""
        return self._epsilon(None)

    @property
    def epsilon_expected(self) -> float:
        """What comes to be spent if every sum has ``expected_survivors``."""
        return self._epsilon(self.expected_survivors)

    @property
    def mean_stddev(self) -> float:
        """Standard deviation of an entry of the mean: of a batch's gradients, or of the updates.

        At the expected survivors; the divisor is the public one, of expected numbers.
        """
        survivors = self.expected_survivors
        units = self.units * survivors / self.sum.clients * self.rate
        return self.mechanism.stddev(survivors) / units

    @property
    def trusts_count(self) -> bool:
        """Whether the server's count of survivors is believed: it draws a sparse graph."""
        return self.sum.graph == "sparse" and not self.sum.active

    @property
    def p_round_lost(self) -> float:
        """P[fewer than the minimum survive a round], as each drops out independently."""
        return p_round_lost(
            self.sum.clients, float(self.sum.dropout), self.mechanism.minimum_survivors
        )

    @property
    def p_wrap_any_round(self) -> float:
        """Bound on P[a lane wraps] in all rounds: costs accuracy, never privacy."""
        return min(1.0, self.sum.rounds * self.mechanism.wrap_probability)

    def as_dict(self) -> dict[str, Any]:
        """The advice as JSON: that of the sum, and all of the above under ``noise``."""
        mechanism = self.mechanism
        return self.sum.as_dict() | {
            "noise": {
                "unit": self.mechanism.unit.value,
                "epsilon": self.epsilon,
                "epsilon_planned": self.epsilon_planned,
                "epsilon_expected": self.epsilon_expected,
                "delta": self.delta.total,
                "delta_accountant": self.delta.accountant,
                "units": self.units,
                "rate": self.rate,
                "batch": mechanism.batch,
                "noise_multiplier": mechanism.noise_multiplier,
                "uncounted_shares": mechanism.uncounted_shares,
                "expected_survivors": self.expected_survivors,
                "scale": mechanism.scale,
                "share_stddev": mechanism.share_stddev,
                "sum_stddev": mechanism.stddev(self.expected_survivors),
                "mean_stddev": self.mean_stddev,
                "sensitivity_inflation": mechanism.sensitivity_inflation,
                "more_noise": self.more_noise,
                "sampler_error": mechanism.sampler_error,
                "trusts_count": self.trusts_count,
                "p_wrap": mechanism.wrap_probability,
                "p_wrap_any_round": self.p_wrap_any_round,
                "p_round_lost": self.p_round_lost,
                "p_round_lost_any_round": 1 - (1 - self.p_round_lost) ** self.sum.rounds,
            }
        }

    def _epsilon(self, survivors: int | None) -> float:
        event = self.mechanism.event(
            survivors=survivors, sampling=self.sampling, steps=self.sum.rounds
        )
        return epsilon_rdp([(event, 1)], self.delta.accountant)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """What follows from the wishes alone: all of a mechanism but its noise and its lanes."""

    wishes: SumWishes
    noise: NoiseWishes
    unit: Unit
    units: int
    sampling: Design
    sparse: bool
    minimum_survivors: int
    uncounted_shares: int
    batch: int

    def at(self, noise: float, bits: int) -> DistributedNoise:
        """The mechanism with this much noise, in lanes of ``bits``."""
        return DistributedNoise(
            entries=self.wishes.entries,
            clip=self.wishes.clip,
            noise_multiplier=noise,
            clients=self.wishes.clients,
            minimum_survivors=self.minimum_survivors,
            uncounted_shares=self.uncounted_shares,
            bits=bits,
            unit=self.unit,
            batch=self.batch,
        )

    def calibrated(self, bits: int, delta: float) -> DistributedNoise:
        """The one with the least noise that keeps the budget."""
        noise = calibrate_shared_noise(
            lambda z: self.at(z, bits),
            epsilon=self.noise.epsilon,
            delta=delta,
            sampling=self.sampling,
            steps=self.wishes.rounds,
        )
        return self.at(noise, bits)


def plan_noise(wishes: SumWishes, noise: NoiseWishes, *, measure: bool = True) -> NoiseAdvice:
    """Choose noise, scale and lanes that keep all rounds of a sum within a budget.

    >>> wanted = NoiseWishes(epsilon=4, delta=1e-4, unit="client")
    >>> advice = plan_noise(SumWishes(clients=60, entries=650, rounds=20), wanted, measure=False)
    >>> advice.mechanism.minimum_survivors, advice.epsilon_planned <= 4
    (47, True)

    Args:
      wishes: what the sum should be able to do; ``clip`` bounds what one unit adds to it.
      noise: what to hide, and the budget.
      measure: whether to time this machine.

    Raises:
      InputError, CalibrationError: the wishes contradict each other, or no
        noise keeps the budget.
      protocols.InputError: as of ``plan_sum``.
    """
    chosen = _choose(wishes, noise)
    left = _accountants_delta(chosen)
    mechanism, more = _calibrate(chosen, left)
    return NoiseAdvice(
        sum=plan_sum(wishes, mechanism=mechanism, measure=measure),
        mechanism=mechanism,
        epsilon=noise.epsilon,
        delta=reported_delta(
            accountant=left,
            epsilon=noise.epsilon,
            units=chosen.units,
            sparse_rounds=wishes.rounds if chosen.sparse else 0,
            rounded_steps=wishes.rounds if chosen.unit is Unit.EXAMPLE else 0,
            sampler_error=mechanism.sampler_error,
            sampler_draws=wishes.rounds * mechanism.draws,
        ),
        units=chosen.units,
        sampling=chosen.sampling,
        more_noise=more,
    )


def calibrate_shared_noise(
    at: Callable[[float], DistributedNoise],
    *,
    epsilon: float,
    delta: float,
    sampling: Sampling,
    steps: int,
) -> float:
    """The least z for which ``steps`` sums of ``at(z)`` cost at most ``epsilon``, by RDP.

    By RDP, as the ledger admits: a plan with the noise of a tighter accountant would be stopped
    before its end.

    Raises:
      InputError: no noise is enough, because the lanes are too narrow for it.
      CalibrationError: a trusted server's noise would not be enough either.
    """
    try:
        return calibrate_noise(
            lambda z: at(z).event(sampling=sampling, steps=steps), epsilon=epsilon, delta=delta
        )
    except CalibrationError:
        calibrate_noise(
            lambda z: at(z).central_equivalent(sampling=sampling, steps=steps),
            epsilon=epsilon,
            delta=delta,
        )
        bits = at(1.0).bits
        raise InputError(
            f"bits {bits}: so few steps fit a lane of {bits} bits that rounding to them costs more "
            f"than epsilon {epsilon:g}, whatever the noise; take more bits"
        ) from None


def _choose(wishes: SumWishes, noise: NoiseWishes) -> _Chosen:
    """Unit, survivors and batch, or an ``InputError`` that names the wish that cannot be."""
    clients = wishes.clients
    unit, units, sampling = noise.units(clients)
    check_delta(noise.delta, units=units)
    corrupt, dropout = wishes.rates
    graph = wishes.graph
    sparse = graph.degree is not None
    known, left_out = int(corrupt * clients), clients // LEFT_OUT if graph.picks else 0
    fewest_silent = max(1, known + left_out)
    silent = fewest_silent if noise.uncounted_shares is None else noise.uncounted_shares
    if silent < fewest_silent:
        missing = f", {left_out} may be left out" if left_out else ""
        raise InputError(
            f"uncounted_shares {silent}: {known} corrupt clients know their shares of the noise"
            f"{missing}, and whoever sees the result knows its own; set at least {fewest_silent}"
        )
    minimum = noise.minimum_survivors
    if minimum is None:
        fewest_opened = fewest(clients, dropout, graph)
        minimum = likely_survivors(
            clients, float(dropout), rounds=wishes.rounds, minimum=fewest_opened
        )
    else:
        minimum = max(minimum, graph.quorum)
    if silent >= minimum:
        raise InputError(
            f"uncounted_shares {silent} leaves no noise of minimum_survivors {minimum}"
        )
    batch = noise.max_batch
    if unit is Unit.CLIENT:
        if batch is not None:
            raise InputError(f"max_batch {batch}: only sums with unit example have batches")
        batch = 1
    elif batch is None:
        batch = -(-units // clients)
    return _Chosen(
        wishes=wishes,
        noise=noise,
        unit=unit,
        units=units,
        sampling=sampling,
        sparse=sparse,
        minimum_survivors=minimum,
        uncounted_shares=silent,
        batch=batch,
    )


def _accountants_delta(chosen: _Chosen) -> float:
    """What of delta is left for the noise, where the graph, rounding and sampling may fail too."""
    rounds, delta = chosen.wishes.rounds, chosen.noise.delta
    # An upper bound of the sampler's error, as lanes are not chosen yet.
    fails = rounds * chosen.wishes.clients * (2 * chosen.wishes.entries + 1) * ERROR
    fails += rounds * GRAPH_FAILURE if chosen.sparse else 0.0
    fails += rounds * chosen.at(1.0, WIDTHS[-1]).rounding_failure
    left = (delta - fails) * (1 - 2.0**-40)  # the total is rounded up
    if left <= delta / 2:
        raise InputError(
            f"delta {delta:g} is used up by the graph, rounding and sampling ({fails:.3g} over "
            f"{rounds} rounds); raise it, or take fewer rounds"
        )
    return left


def _calibrate(chosen: _Chosen, delta: float) -> tuple[DistributedNoise, float]:
    """The mechanism in the lanes that were asked for, or of the rule of this module.

    And by how much its noise is above that of the widest lanes.
    """
    widest = chosen.calibrated(WIDTHS[-1], delta)  # which raises what is wrong with all else
    if chosen.wishes.bits is not None:
        found = chosen.calibrated(chosen.wishes.bits, delta)
        return found, _more_noise(found, widest)
    for width in WIDTHS[:-1]:
        try:
            found = chosen.calibrated(width, delta)
        except (dp.InputError, CalibrationError, InputError):
            continue  # too narrow
        if (more := _more_noise(found, widest)) <= MORE_NOISE:
            return found, more
    return widest, 0.0


def _more_noise(found: DistributedNoise, widest: DistributedNoise) -> float:
    survivors = widest.minimum_survivors
    return found.stddev(survivors) / widest.stddev(survivors) - 1
