"""Events to epsilon: Rényi DP to admit a release, privacy loss distributions to report it.

Both are upper bounds, for a composition whose parameters were fixed in advance; where
they are chosen from earlier outputs, ``dp.accounting.filters`` decides. A composition is a mapping
from events to counts, or pairs of both. All its events must protect the same unit under
the same adjacency. What cannot be treated soundly raises ``UnsoundEvent``:

| design | RDP | PLD |
|---|---|---|
| none, example: any adjacency | exact | yes |
| none, client: zero out, replace one | exact | yes |
| Poisson, example: add or remove, zero out | [MTZ19] | yes |
| Poisson, example: replace one | refused | yes |
| hidden Poisson, client, all take part: zero out | [MTZ19] | yes |
| hidden Poisson, client, trusted noise: add or remove, zero out | [MTZ19] | yes |
| hidden Poisson, client: replace one | refused | yes |
| fixed size, example: replace one | [WBK19] | refused |
| Poisson, client: the cohort alone adds the noise | refused | refused |
| client: add or remove without trusted noise, as its share goes too | refused | refused |
| fixed size elsewhere, shuffled, cyclic | refused | refused |

``SkellamEvent`` and ``DiscreteGaussianEvent`` have no PLD, know no replace one, and are
amplified at integer orders by the same argument as a Gaussian, because their noise is
symmetric about 0: docs/privacy/distributed-noise.md has the proof. One event that has
RDP alone makes the whole composition's number RDP. ``reported_epsilon`` is the smaller of
the two where both bound it: PLD mostly, RDP for many quiet steps and for a tiny delta.

An example belongs to one client, so disjoint clients cost the largest of their
epsilons, and one person's data at several clients costs their joint composition.

At order a the price of a sampled Gaussian step is log(A) / (a - 1) with
A = E[((1-q) + q exp((2x-1)/(2 z^2)))^a], x ~ N(0, z^2).

[MTZ19]: Mironov, Talwar, Zhang, Rényi Differential Privacy of the Sampled Gaussian
Mechanism, arXiv 1908.10530. [WBK19]: Wang, Balle, Kasiviswanathan, Subsampled Rényi
Differential Privacy, arXiv 1808.00087. [AKL21]: Agarwal, Kairouz, Liu, The Skellam
Mechanism, arXiv 2110.04995. [KLS21]: Kairouz, Liu, Steinke, The Distributed Discrete
Gaussian Mechanism, arXiv 2102.06387. [CKS20]: Canonne, Kamath, Steinke, arXiv 2004.00010.
[LMSS22]: Li, Micciancio, Schultz, Sorrell, ePrint 2022/816.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.accounting.events import (
    CohortSecrecy,
    DiscreteGaussianEvent,
    Event,
    FixedSizeSampling,
    GaussianEvent,
    HiddenPoissonSampling,
    NeighboringRelation,
    NoSampling,
    PoissonSampling,
    SkellamEvent,
    Unit,
)
from dp.checks import integer, positive_float
from dp.errors import AccountantLimit, InputError, PrivacyError, UnsoundEvent

Composition: TypeAlias = Mapping[Event, int] | Iterable[tuple[Event, int]]
Vector: TypeAlias = NDArray[np.float64]
Accountant: TypeAlias = Literal["rdp", "pld"]

_FRACTIONAL: Final = (1.1, *(a / 4 for a in range(5, 40) if a % 4))
_INTEGER: Final = (*range(2, 257), *(2**k for k in range(9, 15)))
ORDERS: Final[Vector] = np.array(_FRACTIONAL + _INTEGER, dtype=np.float64)
ORDERS.setflags(write=False)
_DENSE: Final = 255  # 2 to 256, one by one
_K: Final[Vector] = np.arange(_INTEGER[-1] + 1, dtype=np.float64)

GRAPH_FAILURE: Final = 2.0**-40  # of one random graph of neighbours; what the planner aims at
FLOODING_FAILURE: Final = 3 * 2.0**-40  # of the norm that one opened polynomial's error may have
_NORM: Final = 8 / 7  # it is below so many T, whatever the spectra: 1.142 are proved
_FLOODING_NATS: Final = 42.0  # e^-42 = 2^-60 is left of delta, times e^epsilon by its own distance
ROUNDING_FAILURE: Final = 2.0**-60  # beta of the bound on a rounded sum's norm

_ROUNDING = 1e-12  # added to log(A) of a fractional order: above its quadrature and float error
_MIN_QUADRATURE_NOISE = 0.1  # below, the grid grows like 1/z^3; integer orders alone then bound
_MIN_QUADRATURE_RATE = 1e-30  # below, q^-a may lift what lies beyond the grid
_MAX_PLD_POINTS = 2e7  # of 8 bytes, several arrays of them
_PLD_POINTS = 4e6  # as many are computed in seconds
_PLD_STEPS = (
    4_000_000  # of one event; the engine's time grows faster than they do: 10^7 take minutes
)
_PLD_PER_SPREAD = 5  # so many to a deviation of one step: 1 % of epsilon for a million steps
_PLD_FLOATS = 1e-9  # relative; the engine was found low by up to 6e-12 (prv-accountant, mpmath)
_COARSEST: Final = 10.0  # nats: a loss that is rounded up by more says nothing


def merge(composition: Composition) -> dict[Event, int]:
    """The composition by its one-step events, with the total number of steps of each.

    Raises:
      InputError: a count is no integer >= 0.
      UnsoundEvent: the events differ in unit or adjacency, so no single epsilon covers them.
    """
    pairs = composition.items() if isinstance(composition, Mapping) else composition
    steps: dict[Event, int] = {}
    for event, count in pairs:
        if total := integer("count", count) * event.steps:
            one = event if event.steps == 1 else event.one_step()
            steps[one] = steps.get(one, 0) + total
    for name in ("unit", "adjacency"):
        kinds = sorted({getattr(event, name).value for event in steps})
        if len(kinds) > 1:
            raise UnsoundEvent(
                f"{name} is {' and '.join(kinds)} in one composition; report them apart"
            )
    return steps


def check_delta(delta: float, *, units: int | None = None) -> float:
    """Return delta, or raise ``InputError`` unless 0 < delta < 1 and delta < 1 / ``units``.

    With delta >= 1/N a mechanism may publish one of N units whole and still comply.
    """
    delta = positive_float("delta", delta, below=1.0)
    if units is not None and delta * integer("units", units, 1) >= 1:
        raise InputError(f"delta is {delta}, must be below 1/{units} for {units} units")
    return delta


def rdp(event: Event) -> Vector:
    """The Rényi divergence of ``event``, all its steps, at ``ORDERS``; inf where unbounded."""
    step = _rdp_of_step(event.one_step())
    price: Vector = event.steps * step if event.steps else np.zeros_like(ORDERS)
    return price


def epsilon_rdp(composition: Composition, delta: float) -> float:
    """Epsilon at ``delta`` by Rényi DP: the bound that decides whether a release is admitted.

    The conversion is [CKS20, Prop. 12], the least over ``ORDERS``. 0 for an empty
    composition, ``inf`` where the noise is too small for any order.

    >>> from dp.accounting import GaussianEvent, NoSampling
    >>> event = GaussianEvent(noise_multiplier=4.0, sampling=NoSampling())
    >>> round(epsilon_rdp([(event, 10)], delta=1e-5), 3)
    3.617

    Args:
      composition: (event, count) pairs: what was released, and how often, 0 or more.
      delta: above 0 and below 1.

    Raises:
      UnsoundEvent: see the module's table.
      InputError: delta or a count is out of range.
    """
    delta = check_delta(delta)
    steps = merge(composition)
    if not steps:
        return 0.0
    total = np.zeros_like(ORDERS)
    for event, count in steps.items():
        total += count * _rdp_of_step(event)
    epsilon = float(np.min(total + conversion(delta)))
    return _checked(max(epsilon, 0.0))


def epsilon_pld(
    composition: Composition, delta: float, pld_discretization: float | None = None
) -> float:
    """Epsilon at ``delta`` by privacy loss distributions: the tighter number, for reports.

    dp-accounting rounds every loss up to a multiple of ``pld_discretization``, so a coarser one
    is still an upper bound; ``None`` chooses it from steps and spread. Equal events are
    composed once, with their count; no event reaches the engine whose treatment there was
    found wrong.

    >>> from dp.accounting import GaussianEvent, NoSampling
    >>> event = GaussianEvent(noise_multiplier=4.0, sampling=NoSampling())
    >>> round(epsilon_pld([(event, 10)], delta=1e-5), 3)
    3.341

    Args:
      composition: (event, count) pairs: what was released, and how often, 0 or more.
      delta: above 0 and below 1.
      pld_discretization: width of a loss; ``None`` chooses it.

    Raises:
      UnsoundEvent: see the module's table.
      AccountantLimit: the distribution would not fit, or be too coarse to bound anything.
      InputError: delta, pld_discretization or a count is out of range.
    """
    return epsilon_curve(
        composition, (delta,), accountant="pld", pld_discretization=pld_discretization
    )[0]


def epsilon_curve(
    composition: Composition,
    deltas: Sequence[float],
    *,
    accountant: Accountant,
    pld_discretization: float | None = None,
) -> tuple[float, ...]:
    """Epsilon at each of ``deltas``; the composition is priced once.

    Raises as ``epsilon_rdp`` or ``epsilon_pld`` does.

    Args:
      composition: (event, count) pairs: what was released, and how often, 0 or more.
      deltas: each above 0 and below 1, in any order.
      accountant: ``"rdp"`` or ``"pld"``.
      pld_discretization: width of a loss; ``None`` chooses it.
    """
    deltas = [check_delta(delta) for delta in deltas]
    steps = merge(composition)
    if accountant == "rdp":
        return tuple(epsilon_rdp(steps, delta) for delta in deltas)
    if accountant != "pld":
        raise InputError(f"accountant is {accountant!r}, must be 'rdp' or 'pld'")
    if pld_discretization is not None:
        pld_discretization = positive_float("pld_discretization", pld_discretization)
        if pld_discretization > _COARSEST:
            raise InputError(
                f"pld_discretization is {pld_discretization:g}, must be at most {_COARSEST:g}"
            )
    if not steps:
        return (0.0,) * len(deltas)
    gaussian: dict[GaussianEvent, int] = {}
    for event, count in steps.items():
        check_design(event)
        if not isinstance(event, GaussianEvent) or not has_pld(event):
            raise UnsoundEvent(
                f"{type(event).__name__} with {type(event.sampling).__name__} has no privacy "
                "loss distribution; report by RDP"
            )
        gaussian[event] = count
    price = _engine_pld(gaussian, _interval(gaussian, pld_discretization))
    return tuple(_checked(price(delta) * (1 + _PLD_FLOATS)) for delta in deltas)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedEpsilon:
    """An epsilon, and the accountant that vouches for it.

    Attributes:
      epsilon: the number to print; ``inf`` where nothing is bounded.
      accountant: ``"rdp"`` or ``"pld"``.
    """

    epsilon: float
    accountant: Accountant


def reported_epsilon(
    composition: Composition, delta: float, pld_discretization: float | None = None
) -> ReportedEpsilon:
    """The number to print: the smaller of both bounds, and RDP where only that one answers.

    For parameters that were fixed in advance. Raises as the two accountants do; a
    composition with one event that only RDP treats and one that only PLD does is refused.

    Args:
      composition: (event, count) pairs: what was released, and how often, 0 or more.
      delta: above 0 and below 1.
      pld_discretization: width of a loss; ``None`` chooses it.
    """
    steps = merge(composition)
    if not all(map(has_pld, steps)):
        return ReportedEpsilon(epsilon=epsilon_rdp(steps, delta), accountant="rdp")
    try:
        by_rdp = ReportedEpsilon(epsilon=epsilon_rdp(steps, delta), accountant="rdp")
    except UnsoundEvent:  # sampled replace-one
        return ReportedEpsilon(
            epsilon=epsilon_pld(steps, delta, pld_discretization), accountant="pld"
        )
    with suppress(AccountantLimit):
        by_pld = ReportedEpsilon(
            epsilon=epsilon_pld(steps, delta, pld_discretization), accountant="pld"
        )
        return min(by_pld, by_rdp, key=lambda one: one.epsilon)
    return by_rdp


def has_pld(event: Event) -> bool:
    """Whether the loss of a sound event has a distribution here; otherwise RDP alone bounds it."""
    return isinstance(event, GaussianEvent) and not isinstance(event.sampling, FixedSizeSampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedDelta:
    """Every way in which the statement may fail, by name; ``total`` is what a report says.

    Computational assumptions are named in a report, not added here.

    Attributes:
      accountant: the delta at which the accountant was asked for epsilon.
      sparse_graph: that a random graph of neighbours is a bad one.
      rounding: that the rounded sum of a batch is longer than its bound.
      flooding: what is left of decryptions that are flooded, beside ``flooding_epsilon``.
      sampler: distance of the noise that was drawn from the noise that was priced.
    """

    accountant: float
    sparse_graph: float = 0.0
    rounding: float = 0.0
    flooding: float = 0.0
    sampler: float = 0.0

    @property
    def total(self) -> float:
        """The sum, rounded up; of one part, that part."""
        parts = [part for item in fields(self) if (part := getattr(self, item.name))]
        return parts[0] if len(parts) == 1 else math.nextafter(math.fsum(parts), 1.0)


def flooding_epsilon(bits: int, keys: int, epsilon: float) -> float:
    """What all decryptions under ``keys`` keys, flooded for s = ``bits``, add to ``epsilon``.

    2 eta of docs/privacy/delta.md: the flooded sums are mu-GDP of sums that show nothing else,
    with mu^2 = (8/7)^2 keys / (12 2^s), and eta lies so far out that nearly nothing is left for
    delta. For sums that are exact: integers with noise on coefficients, not on SEAL.
    """
    mu = _flooding_mu(bits, keys)
    found = 2 * (mu * math.sqrt(2 * (epsilon + _FLOODING_NATS)) + mu * mu / 2)
    return found * (1 + 2.0**-50)  # above the roundings of the line before


def _flooding_mu(bits: int, keys: int) -> float:
    return _NORM * math.sqrt(keys / 12) * 2 ** (-bits / 2)


# An argument for every way to fail: whoever reports says of each how often it could happen.
def reported_delta(
    *,
    accountant: float,
    epsilon: float,
    units: int,
    sparse_rounds: int = 0,
    rounded_steps: int = 0,
    flooding_bits: int | None = None,
    flooded_keys: int = 1,
    flooded_ciphertexts: int = 1,
    sampler_error: float = 0.0,
    sampler_draws: int = 0,
) -> ReportedDelta:
    """The delta of the whole system, component by component, each proved in docs/privacy/delta.md.

    What fails whatever the data is counts once; how far the law of what was drawn is from the
    law that was priced counts 1 + e^epsilon times, as either neighbour may be the worse one.

    Args:
      accountant: the accountant's delta.
      epsilon: what is stated beside it, before ``flooding_epsilon``.
      units: how many units the data holds; a total of 1 / ``units`` or more is refused.
      sparse_rounds: rounds over a random graph of neighbours, 2^-40 each.
      rounded_steps: sums that were rounded once without redrawing, 2^-60 each.
      flooding_bits: s of flooded decryptions, at least 30; state ``flooding_epsilon`` more then.
      flooded_keys: how many such keys there were.
      flooded_ciphertexts: how many polynomials were opened under all of them, 3 x 2^-40 each.
      sampler_error: total-variation distance of one drawn entry from the exact law.
      sampler_draws: entries times rounds that were drawn with that error.

    Raises:
      InputError: an argument is out of range, or the total reaches 1 / ``units``.
    """
    for name, count in (
        ("sparse_rounds", sparse_rounds),
        ("rounded_steps", rounded_steps),
        ("flooded_keys", flooded_keys),
        ("flooded_ciphertexts", flooded_ciphertexts),
        ("sampler_draws", sampler_draws),
    ):
        integer(name, count)
    if flooding_bits is not None:
        integer("flooding_bits", flooding_bits, 30)
    epsilon = positive_float("epsilon", epsilon, zero=True)
    either = 1 + math.exp(min(epsilon, 700.0))  # beyond, any distance is more than all
    sampler = sampler_draws * positive_float("sampler_error", sampler_error, zero=True)
    flooding = 0.0
    if flooding_bits is not None and flooded_keys:
        eta = flooding_epsilon(flooding_bits, flooded_keys, epsilon) / 2
        if eta > 0.5:  # the proof's small terms need far less
            raise InputError(
                f"flooded_keys is {flooded_keys}, too many for flooding_bits {flooding_bits}: "
                "decrypt fewer sums, or flood with more bits"
            )
        left = (1 + math.exp(min(epsilon + eta, 700.0))) * math.exp(-epsilon - _FLOODING_NATS) / 2
        stretched = math.expm1(eta) * (accountant + either * sampler)
        flooding = stretched + left + flooded_ciphertexts * FLOODING_FAILURE
    delta = ReportedDelta(
        accountant=check_delta(accountant),
        sparse_graph=sparse_rounds * GRAPH_FAILURE,
        rounding=rounded_steps * ROUNDING_FAILURE,
        flooding=flooding,
        sampler=either * sampler,
    )
    check_delta(delta.total, units=units)
    return delta


def _checked(epsilon: float) -> float:
    if not epsilon >= 0:
        raise PrivacyError(f"epsilon came out as {epsilon}; take the other accountant")
    return epsilon


def check_design(event: Event) -> None:
    """The rows of the module's table in which both accountants refuse."""
    clients = event.unit is Unit.CLIENT
    match event.sampling:
        case PoissonSampling() if clients:
            raise UnsoundEvent(
                "Poisson sampling of clients with noise of the cohort alone: whoever sees "
                "the cohort sees who is in it; charge it as NoSampling"
            )
        case HiddenPoissonSampling() if not clients:
            raise UnsoundEvent("HiddenPoissonSampling draws clients; of examples say Poisson")
        case FixedSizeSampling() if (
            clients or event.adjacency is not NeighboringRelation.REPLACE_ONE
        ):
            raise UnsoundEvent(
                "FixedSizeSampling is bounded for examples under replace-one alone; "
                "a cohort that somebody draws is charged as NoSampling"
            )
        case NoSampling() | PoissonSampling() | HiddenPoissonSampling() | FixedSizeSampling():
            pass
        case design:
            raise UnsoundEvent(
                f"sampling is {type(design).__name__}, must be of dp.accounting.events"
            )
    trusted = getattr(event.sampling, "cover", None) is CohortSecrecy.TRUSTED_NOISE
    if clients and event.adjacency is NeighboringRelation.ADD_OR_REMOVE and not trusted:
        raise UnsoundEvent(
            "a client that is added or removed takes its noise share along; say zero_out, "
            "or HiddenPoissonSampling with TRUSTED_NOISE where one party adds all the noise"
        )
    if not isinstance(event, GaussianEvent) and event.adjacency is NeighboringRelation.REPLACE_ONE:
        raise UnsoundEvent(
            f"the sensitivities of {type(event).__name__} are of one contribution, not of a "
            "replacement; use another neighboring relation"
        )


def _rate(event: Event) -> float:
    match event.sampling:
        case PoissonSampling(rate=rate) | HiddenPoissonSampling(rate=rate):
            return rate
        case FixedSizeSampling(size=size, population=population):
            return size / population
        case _:
            return 1.0


@lru_cache(maxsize=4096)
def _rdp_of_step(event: Event) -> Vector:
    """RDP of a one-step event at ``ORDERS``, read-only."""
    check_design(event)
    with np.errstate(over="ignore", divide="ignore"):
        match event:
            case SkellamEvent():
                vector = _integer_noise(_skellam(event), _rate(event))
            case DiscreteGaussianEvent():
                vector = _integer_noise(_discrete_gaussian(event), _rate(event))
            case GaussianEvent():
                vector = _gaussian(event)
    if np.isnan(vector).any():
        raise PrivacyError(f"the price of {event} is not a number; no release may be made with it")
    vector.setflags(write=False)
    return vector


def _gaussian(event: GaussianEvent) -> Vector:
    """The price at ``ORDERS``; sampling never costs more than no sampling, rounding included."""
    q, z = _rate(event), event.noise_multiplier
    replaced = event.adjacency is NeighboringRelation.REPLACE_ONE
    if replaced:
        z /= 2  # the sensitivity of the sum is 2C when a contribution is replaced
    plain: Vector = ORDERS / (2 * np.square(np.float64(z)))
    if q == 1:
        return plain
    if isinstance(event.sampling, FixedSizeSampling):
        return np.minimum(_between(_without_replacement(q, _exponent(z))), plain)
    if replaced:
        raise UnsoundEvent("replace-one under Poisson sampling has no RDP here; use PLD")
    return np.minimum(_sampled(q, z), plain)


def _skellam(event: SkellamEvent) -> Vector:
    """[AKL21, Thm 3.5] at orders 0, 1, 2, ..., the first two without meaning."""
    a, l2, l1, mu = _K, event.l2_sensitivity, event.l1_sensitivity, event.variance
    excess = np.minimum(
        ((2 * a - 1) * l2 / mu * l2 + 6 * l1 / mu) / (4 * mu), np.float64(3 * l1) / (2 * mu)
    )
    price: Vector = a * l2 / (2 * mu) * l2 + excess
    return price


def _discrete_gaussian(event: DiscreteGaussianEvent) -> Vector:
    """[KLS21] at orders 0, 1, 2, ...: the least of its three bounds."""
    a, d = _K, np.float64(event.entries)
    tau = _distance_of_sum(event.shares, event.share_variance)
    root = math.sqrt(event.shares) * math.sqrt(event.share_variance)
    l2, l1 = np.float64(event.l2_sensitivity) / root, np.float64(event.l1_sensitivity) / root
    price: Vector = np.minimum(
        a / 2 * np.square(l2) + tau * d,
        a
        / 2
        * np.minimum(
            np.square(l2) + 2 * l1 * tau + tau * tau * d, np.square(l2 + tau * np.sqrt(d))
        ),
    )
    return price


def _distance_of_sum(shares: int, variance: float) -> np.float64:
    """Tau of [KLS21]: how far a sum of discrete Gaussians is from one, in max-divergence."""
    k = np.arange(1, min(shares, 1000), dtype=np.float64)
    terms = np.exp(-2 * math.pi**2 * variance * k / (k + 1))
    # The terms fall, so those beyond the thousandth are at most the last one summed.
    rest = (shares - 1 - len(k)) * terms[-1] if len(k) else 0.0
    return np.float64(10 * (terms.sum() + rest))


def _integer_noise(curve_at: Vector, q: float) -> Vector:
    """Prices at orders 0, 1, 2, ... to ``ORDERS``, amplified; fractional ones lie between."""
    curve_at = np.minimum(curve_at, 1e300)
    integer = np.array([curve_at[order] for order in _INTEGER])
    if q < 1:
        exponent = np.minimum((_K - 1) * curve_at, 1e300)
        exponent[:2] = 0.0
        integer = np.minimum(_poisson(q, exponent), integer)
    return _between(integer)


def _between(integer: Vector) -> Vector:
    """Prices at ``_INTEGER`` to prices at ``ORDERS``.

    (a - 1) times the price is convex in a and 0 at 1 [WBK19, Cor. 10], so a chord lies above.
    """
    fractional = np.array(_FRACTIONAL)
    knots = np.array((1, *_INTEGER), dtype=np.float64)
    chord = np.interp(fractional, knots, np.concatenate([[0.0], (knots[1:] - 1) * integer]))
    return np.concatenate([chord / (fractional - 1), integer])


def _sampled(q: float, z: float) -> Vector:
    fractional = np.full(len(_FRACTIONAL), np.inf)
    if z >= _MIN_QUADRATURE_NOISE and q >= _MIN_QUADRATURE_RATE:
        fractional = _sampled_fractional(q, z)
    return np.concatenate([fractional, _poisson(q, _exponent(z))])


def _exponent(z: float) -> Vector:
    """(k - 1) times the Gaussian's price at order k, for k = 0, 1, 2, ..."""
    # A price of 1e290 passes any budget, and times the square of an order it is finite.
    exponent: Vector = _K * (_K - 1) / max(2 * z * z, 1e-290)
    return exponent


def _poisson(q: float, exponent: Vector) -> Vector:
    """[MTZ19, sec. 3.3] at ``_INTEGER``, in logarithms; for noise symmetric about 0.

    A = sum_k C(a,k) (1-q)^(a-k) q^k exp(exponent_k). The binomial weights sum to 1, so
    A - 1 is the same sum with exp(.) - 1: all terms positive, nothing cancels.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = exponent + np.log(-np.expm1(-exponent))
    growth[:2] = -np.inf  # k = 0 and 1 leave nothing
    return _mixed(growth + _K * math.log(q), math.log1p(-q))


def _without_replacement(q: float, exponent: Vector) -> Vector:
    """[WBK19, Thm 9] at ``_INTEGER`` for a mechanism with no pure epsilon, in logarithms.

    A - 1 <= sum_(k>=2) C(a,k) q^k m_k; m_k = 2 exp(exponent_k), m_2 at most 4 (exp(.) - 1).
    """
    growth = math.log(2) + exponent
    with np.errstate(divide="ignore"):
        least = math.log(4) + exponent[2] + np.log(-np.expm1(-exponent[2]))
    growth[2] = min(growth[2], least)
    growth[:2] = -np.inf
    return _mixed(growth + _K * math.log(q), 0.0)


def _mixed(growth: Vector, log_rest: float) -> Vector:
    """log(1 + sum_k C(a,k) exp(growth_k + (a-k) log_rest)) / (a-1) at ``_INTEGER``."""
    log_a = []
    for orders, binomials in _log_binomials():
        width = binomials.shape[1]
        a = np.array(orders, dtype=np.float64)[:, None]
        terms = binomials + growth[:width] + (a - _K[:width]) * log_rest
        log_a.append(np.logaddexp(0.0, _logsumexp(terms)))
    price: Vector = np.concatenate(log_a) / (np.array(_INTEGER) - 1)
    return price


def _sampled_fractional(q: float, z: float) -> Vector:
    """The integral of the module docstring at ``_FRACTIONAL``, by the trapezoid rule.

    The integrand f is analytic for |Im x| < pi z^2 and |f(x+iy)| <= exp(y^2/(2z^2)) f(x)
    there, so a step h errs by a factor of at most 1 + 2 exp(c^2/(2z^2)) / (exp(2 pi c/h) - 1)
    for every c < pi z^2 [Trefethen and Weideman 2014, Thm 5.1]; h below makes that exp(-50),
    with c = 2 pi z^2/h where h >= 2 and c -> pi z^2 elsewhere. The grid ends 40 z beyond 0
    and a, which leaves less than q^-a exp(-799) of A.
    """
    h = 0.6 * z
    if h < 2:
        h = min(h, 2 / (0.5 + 50 / (math.pi * z) ** 2))
    order = np.array(_FRACTIONAL)
    x = np.arange(-40 * z, float(order[-1]) + 40 * z + h, h)
    log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * x - 1) / (2 * z * z))
    log_density = -np.square(x / z) / 2 - math.log(z) - math.log(2 * math.pi) / 2
    log_a = _logsumexp(log_density + order[:, None] * log_ratio) + math.log(h)
    price: Vector = (np.maximum(log_a, 0.0) + _ROUNDING) / (order - 1)
    return price


def _logsumexp(terms: Vector) -> Vector:
    top = np.max(terms, axis=1)
    with np.errstate(invalid="ignore"):
        finite: Vector = top + np.log(np.sum(np.exp(terms.T - top), axis=0))
    return np.where(np.isinf(top), top, finite)


@cache
def _log_binomials() -> tuple[tuple[tuple[int, ...], Vector], ...]:
    """Logarithms of C(a, k), a row an order, -inf where k > a, in blocks of like width."""
    log_factorial = np.array([math.lgamma(n + 1.0) for n in range(_INTEGER[-1] + 1)])
    blocks = []
    for orders in (_INTEGER[:_DENSE], _INTEGER[_DENSE:]):
        table = np.full((len(orders), orders[-1] + 1), -np.inf)
        for row, a in enumerate(orders):
            table[row, : a + 1] = log_factorial[a] - log_factorial[: a + 1] - log_factorial[a::-1]
        blocks.append((orders, table))
    return tuple(blocks)


@lru_cache(maxsize=64)
def conversion(delta: float) -> Vector:
    """What is added to RDP at ``ORDERS`` for epsilon at ``delta``, [CKS20, Prop. 12]."""
    vector = np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    vector.setflags(write=False)
    return vector


def _interval(steps: Mapping[GaussianEvent, int], asked: float | None) -> float:
    """What losses are rounded up to: as asked, or as fine as a distribution in seconds can be.

    Finer than the loss of one step by far, else the rounding of many steps drowns it; and no
    finer than 1e-4 of the loss of all. Raises ``AccountantLimit``.
    """
    span, least, variance = 0.0, math.inf, 0.0
    for event, count in steps.items():
        if count > _PLD_STEPS:
            raise AccountantLimit(
                f"{count:,} steps of one event take PLD minutes, at most {_PLD_STEPS:,} are "
                "composed; RDP bounds them"
            )
        z = event.noise_multiplier
        z /= 2 if event.adjacency is NeighboringRelation.REPLACE_ONE else 1
        if z < 1e-3:
            raise AccountantLimit("noise_multiplier is below 0.001, too little for PLD; take RDP")
        # Deviation of the loss of one step: 1/z unsampled, q (exp(1/z^2) - 1)^(1/2) for small q.
        spread = min(1 / z, _rate(event) * math.sqrt(math.expm1(min(1 / (z * z), 700.0))))
        one_step = 1 / (z * z) + 20 / z
        span += one_step + count * spread * spread + 20 * math.sqrt(count) * spread
        least, variance = min(least, spread), variance + count * spread * spread
    if asked is not None:
        if span / asked > _MAX_PLD_POINTS:
            raise AccountantLimit(
                f"a loss distribution at pld_discretization {asked:g} needs about "
                f"{span / asked:.2g} points, "
                f"at most {_MAX_PLD_POINTS:.0e} are allowed; take a coarser pld_discretization"
            )
        return asked
    chosen = min(least / _PLD_PER_SPREAD, 1e-4 * max(1.0, math.sqrt(variance)))
    chosen = max(chosen, span / _PLD_POINTS)
    if chosen > least:
        raise AccountantLimit(
            f"a loss distribution of {_PLD_POINTS:.0e} points is too coarse for losses that differ "
            f"by {least:.2g} a step and span {span:.2g}; RDP bounds them"
        )
    return chosen


def _engine_pld(
    steps: Mapping[GaussianEvent, int], pld_discretization: float
) -> Callable[[float], float]:
    """Delta to epsilon, of the whole composition."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    relations = dp_accounting.NeighboringRelation
    relation = {
        NeighboringRelation.ADD_OR_REMOVE: relations.ADD_OR_REMOVE_ONE,
        NeighboringRelation.ZERO_OUT: relations.REPLACE_SPECIAL,
        NeighboringRelation.REPLACE_ONE: relations.REPLACE_ONE,
    }[next(iter(steps)).adjacency]
    accountant = PLDAccountant(relation, value_discretization_interval=pld_discretization)
    for event, count in steps.items():
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        if (rate := _rate(event)) < 1:
            gaussian = dp_accounting.PoissonSampledDpEvent(rate, gaussian)
        accountant.compose(gaussian, count)
    return lambda delta: float(accountant.get_epsilon(delta))
