"""From a privacy budget to the noise, scale and lanes of a sum, and what can go wrong with them.

``plan`` adds to ``secagg.planning.sums`` what ``dp.noise.DistributedNoise`` needs. Narrow
lanes leave a small scale; rounding to it stretches what one unit adds (``looseness``), and
more noise has to make up for that. So the narrowest lanes are taken, of 8 to 2 a word,
with at most ``MORE_NOISE`` more noise in the sum than the widest would have.

Refused: a sparse graph, a server that lies and shared noise at once. In a sparse graph a
client cannot count the survivors whose noise it relies on; ``trusts_count`` says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Literal, TypeAlias

from dp.accounting.accountant import (
    GRAPH_FAILURE,
    ReportedDelta,
    check_delta,
    epsilon_rdp,
    reported_delta,
)
from dp.accounting.calibrate import least_noise
from dp.accounting.events import (
    Cover,
    HiddenPoissonSampling,
    NoSampling,
    PoissonSampling,
    Sampling,
    Unit,
)
from dp.errors import BadParameter, CalibrationError
from dp.noise.mechanisms import DistributedNoise
from dp.noise.skellam import ERROR
from protocols.bonawitz.graph import as_fraction
from secagg.errors import ConfigError
from secagg.planning.sums import COMPLETE_BELOW, Advice, choose_graph, fewest
from secagg.planning.sums import plan as plan_sum
from secagg.planning.survivors import likely_survivors, p_round_lost
from secagg.vectors.packing import lane_bits

Privacy: TypeAlias = Literal["distributed", "client"]
Design: TypeAlias = NoSampling | PoissonSampling | HiddenPoissonSampling

MORE_NOISE: Final = 0.01  # of the deviation of a sum, for lanes narrower than the widest
WIDTHS: Final = tuple(map(lane_bits, range(8, 1, -1)))  # 8 to 32 bits; no mechanism uses more


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
    privacy: Privacy
    epsilon: float
    delta: ReportedDelta
    units: int
    sampling: Design
    more_noise: float

    @property
    def rate(self) -> float:
        """With which a unit is in a sum."""
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
    def mean_deviation(self) -> float:
        """Of an entry of the mean: of a batch's gradients, or of the updates that were brought.

        At the expected survivors; the divisor is the public one, of expected numbers.
        """
        survivors = self.expected_survivors
        units = self.units * survivors / self.sum.clients * self.rate
        return self.mechanism.deviation(survivors) / units

    @property
    def trusts_count(self) -> bool:
        """Whether the server's count of survivors is believed, as in a sparse graph."""
        return self.sum.graph == "sparse"

    @property
    def p_round_lost(self) -> float:
        """P[fewer than the minimum survive a round], each client gone by a coin of its own."""
        return p_round_lost(
            self.sum.clients, float(self.sum.dropout), self.mechanism.minimum_survivors
        )

    @property
    def p_wrap_any_round(self) -> float:
        """Bound on P[a lane wraps] in all rounds: costs accuracy, never privacy."""
        return min(1.0, self.sum.rounds * self.mechanism.wrap_probability)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: that of the sum, and all of the above under ``noise``."""
        mechanism = self.mechanism
        return self.sum.as_dict() | {
            "noise": {
                "privacy": self.privacy,
                "epsilon": self.epsilon,
                "epsilon_planned": self.epsilon_planned,
                "epsilon_expected": self.epsilon_expected,
                "delta": self.delta.total,
                "delta_accountant": self.delta.accountant,
                "units": self.units,
                "rate": self.rate,
                "batch": mechanism.batch,
                "noise_multiplier": mechanism.noise_multiplier,
                "corrupt": mechanism.corrupt,
                "expected_survivors": self.expected_survivors,
                "scale": mechanism.scale,
                "share_deviation": mechanism.share_deviation,
                "sum_deviation": mechanism.deviation(self.expected_survivors),
                "mean_deviation": self.mean_deviation,
                "looseness": mechanism.looseness,
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


def plan(
    *,
    clients: int,
    epsilon: float,
    delta: float,
    privacy: Privacy = "distributed",
    examples: int | None = None,
    batch: int | None = None,
    sampling_rate: float = 1.0,
    participation: float = 1.0,
    minimum_survivors: int | None = None,
    noise_corrupt: int | None = None,
    corrupt: Fraction | float | str = "0.05",
    dropout: Fraction | float | str = "0.1",
    active: bool = False,
    entries: int = 10**6,
    clip: float = 1.0,
    bits: int | None = None,
    rounds: int = 1,
    complete_below: int = COMPLETE_BELOW,
    measure: bool = True,
) -> NoiseAdvice:
    """Choose noise, scale and lanes that keep ``rounds`` sums within a budget.

    Args:
      clients, corrupt, dropout, active, entries, rounds, complete_below, measure: as of
        ``secagg.planning.sums.plan``.
      epsilon: of one unit, over all rounds.
      delta: all that may fail is inside it; below one over the number of units.
      privacy: ``distributed`` hides an example, ``client`` a client.
      examples: of all clients together; only of ``distributed``, and needed there.
      batch: most examples of one client, ``None`` if they are dealt out evenly.
      sampling_rate: with which an example is in a batch; only of ``distributed``.
      participation: with which a client brings its update; only of ``client``.
      minimum_survivors: fewest clients that may be summed. ``None``: so many that few runs lose
        a round; never below a complete graph's threshold.
      noise_corrupt: clients whose shares of noise count for nothing; ``None`` for those
        that may work with the server, at least 1.
      clip: most that one unit adds to the L2 norm of a sum.
      bits: of a lane; ``None`` for the rule of this module.

    Raises:
      ConfigError, BadParameter, CalibrationError: the settings contradict each other, or no
        noise keeps the budget.
      ParameterError: as of ``secagg.planning.sums.plan``.
    """
    unit, units, sampling = _unit(clients, privacy, examples, sampling_rate, participation)
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ConfigError(f"rounds {rounds!r} is not an int from 1")
    check_delta(delta, units=units)
    g, d = as_fraction("corrupt", corrupt), as_fraction("dropout", dropout)
    chosen = choose_graph(clients, g, d, active=active, complete_below=complete_below)
    sparse = chosen.degree is not None
    if sparse and active:
        raise ConfigError(
            f"{clients} clients get a sparse graph, where none of them can count the survivors: a "
            "server that lies would leave out their noise. Plan without active, or for fewer "
            f"than {complete_below} clients, who share with everybody"
        )
    known = int(g * clients)
    silent = max(1, known) if noise_corrupt is None else noise_corrupt
    if silent < max(1, known):
        raise ConfigError(
            f"noise_corrupt {silent}: {known} corrupt clients know their shares of the noise, and "
            "whoever sees the result its own; set at least "
            f"{max(1, known)}"
        )
    fewest_opened = fewest(clients, d, chosen)
    if minimum_survivors is None:
        minimum_survivors = likely_survivors(clients, float(d), rounds=rounds, least=fewest_opened)
    elif not sparse:
        minimum_survivors = max(minimum_survivors, chosen.threshold)
    if silent >= minimum_survivors:
        raise ConfigError(
            f"noise_corrupt {silent} leaves no noise of minimum_survivors {minimum_survivors}"
        )
    if unit is Unit.CLIENT:
        if batch is not None:
            raise ConfigError(f"batch {batch}: only privacy distributed sums examples")
        batch = 1
    elif batch is None:
        batch = -(-units // clients)

    # What fails for other reasons than the noise: an upper bound, as lanes are not chosen yet.
    fails = rounds * clients * (2 * entries + 1) * ERROR
    fails += rounds * GRAPH_FAILURE if sparse else 0.0

    def at(noise: float, width: int) -> DistributedNoise:
        return DistributedNoise(
            entries=entries,
            clip=clip,
            noise_multiplier=noise,
            clients=clients,
            minimum_survivors=minimum_survivors,
            corrupt=silent,
            bits=width,
            unit=unit,
            batch=batch,
        )

    fails += rounds * at(1.0, WIDTHS[-1]).rounding_failure
    left = (delta - fails) * (1 - 2.0**-40)  # the total is rounded up
    if left <= delta / 2:
        raise ConfigError(
            f"delta {delta:g} is used up by the graph, rounding and sampling ({fails:.3g} over "
            f"{rounds} rounds); raise it, or take fewer rounds"
        )

    def calibrated(width: int) -> DistributedNoise:
        noise = least_shared_noise(
            lambda z: at(z, width), epsilon=epsilon, delta=left, sampling=sampling, steps=rounds
        )
        return at(noise, width)

    if bits is not None:
        mechanism = calibrated(bits)
        more = _more_noise(mechanism, calibrated(WIDTHS[-1]))
    else:
        mechanism, more = _narrowest(calibrated)
    return NoiseAdvice(
        sum=plan_sum(
            clients=clients,
            corrupt=g,
            dropout=d,
            active=active,
            rounds=rounds,
            complete_below=complete_below,
            noise=mechanism,
            measure=measure,
        ),
        mechanism=mechanism,
        privacy=privacy,
        epsilon=epsilon,
        delta=reported_delta(
            accountant=left,
            units=units,
            sparse_rounds=rounds if sparse else 0,
            rounded_steps=rounds if unit is Unit.EXAMPLE else 0,
            sampler_error=mechanism.sampler_error,
            sampler_draws=rounds * mechanism.draws,
        ),
        units=units,
        sampling=sampling,
        more_noise=more,
    )


def least_shared_noise(
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
      ConfigError: no noise is enough, because the lanes are too narrow for it.
      CalibrationError: a trusted server's noise would not be enough either.
    """
    try:
        return least_noise(
            lambda z: at(z).event(sampling=sampling, steps=steps), epsilon=epsilon, delta=delta
        )
    except CalibrationError:
        least_noise(
            lambda z: at(z).trusted_server(sampling=sampling, steps=steps),
            epsilon=epsilon,
            delta=delta,
        )
        bits = at(1.0).bits
        raise ConfigError(
            f"bits {bits}: so few steps fit a lane of {bits} bits that rounding to them costs more "
            f"than epsilon {epsilon:g}, whatever the noise; take more bits"
        ) from None


def _unit(
    clients: int,
    privacy: str,
    examples: int | None,
    sampling_rate: float,
    participation: float,
) -> tuple[Unit, int, Design]:
    """Whom the noise hides, how many of them there are, and how they get into a sum."""
    if privacy == "client":
        if examples is not None:
            raise ConfigError(f"examples {examples}: privacy client hides clients")
        if sampling_rate != 1:
            raise ConfigError(
                f"sampling_rate {sampling_rate}: of privacy client it changes no price"
            )
        rate = HiddenPoissonSampling(rate=participation, cover=Cover.ALL_TAKE_PART)
        return Unit.CLIENT, clients, rate if rate.rate < 1 else NoSampling()
    if privacy != "distributed":
        raise ConfigError(f"unknown privacy {privacy!r}; known: distributed, client")
    if participation != 1:
        raise ConfigError(
            f"participation {participation}: only clients of privacy client toss for it"
        )
    if examples is None:
        raise ConfigError("examples is missing: delta must be below one over their number")
    if examples < clients:
        raise ConfigError(f"examples {examples} are fewer than {clients} clients")
    batches = PoissonSampling(rate=sampling_rate)
    return Unit.EXAMPLE, examples, batches if batches.rate < 1 else NoSampling()


def _narrowest(calibrated: Callable[[int], DistributedNoise]) -> tuple[DistributedNoise, float]:
    """Of the rule of this module, and how much noise it costs."""
    widest = calibrated(WIDTHS[-1])  # which raises what is wrong with all else
    for width in WIDTHS[:-1]:
        try:
            found = calibrated(width)
        except (BadParameter, CalibrationError, ConfigError):
            continue  # too narrow
        if (more := _more_noise(found, widest)) <= MORE_NOISE:
            return found, more
    return widest, 0.0


def _more_noise(found: DistributedNoise, widest: DistributedNoise) -> float:
    survivors = widest.minimum_survivors
    return found.deviation(survivors) / widest.deviation(survivors) - 1
