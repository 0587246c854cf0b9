"""Events to epsilon: Rényi DP to admit a release, privacy loss distributions to report it.

Both are upper bounds, for a composition whose parameters were fixed in advance.
A composition is a mapping from events to counts, or pairs of both. All its events must
protect the same unit under the same adjacency. What cannot be treated soundly raises
``UnsoundEvent``:

| design | RDP | PLD |
|---|---|---|
| no sampling, any adjacency | exact | yes |
| Poisson, example, add or remove / zero out | [MTZ19] | yes |
| Poisson, example, replace one | refused | yes |
| Poisson, client: noise of the cohort only | refused | refused |
| fixed size, shuffled, cyclic | refused | refused |

[MTZ19]: Mironov, Talwar, Zhang, Rényi Differential Privacy of the Sampled Gaussian
Mechanism, arXiv 1908.10530. At order a the price of a step is
log(A) / (a - 1) with A = E[((1-q) + q exp((2x-1)/(2 z^2)))^a], x ~ N(0, z^2).
"""

import math
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.errors import AccountantLimit, BadParameter, PrivacyError, UnsoundEvent
from dp.events import (
    Adjacency,
    Event,
    GaussianEvent,
    NoSampling,
    PoissonSampling,
    Unit,
    positive_float,
)

Composition: TypeAlias = Mapping[Event, int] | Iterable[tuple[Event, int]]
Vector: TypeAlias = NDArray[np.float64]

_FRACTIONAL: Final = (1.1, *(a / 4 for a in range(5, 40) if a % 4))
_INTEGER: Final = (*range(2, 257), 512, 1024)
ORDERS: Final[Vector] = np.array(_FRACTIONAL + _INTEGER, dtype=np.float64)
ORDERS.setflags(write=False)

_ROUNDING = 1e-12  # added to log(A) of a fractional order: above its quadrature and float error
_MIN_QUADRATURE_NOISE = 0.1  # below, the grid grows like 1/z^3; integer orders alone then bound
_MIN_QUADRATURE_RATE = 1e-30  # below, q^-a may lift what lies beyond the grid
_MAX_PLD_POINTS = 2e7  # of 8 bytes, several arrays of them


def grouped(composition: Composition) -> dict[Event, int]:
    """The composition by its one-step events, with the total number of steps of each.

    Raises:
      BadParameter: a count is no integer >= 0.
      UnsoundEvent: the events differ in unit or adjacency, so no single epsilon covers them.
    """
    pairs = composition.items() if isinstance(composition, Mapping) else composition
    steps: dict[Event, int] = {}
    for event, count in pairs:
        if type(count) is not int or count < 0:
            raise BadParameter(f"count is {count!r}, must be an integer of at least 0")
        if total := count * event.steps:
            one = event if event.steps == 1 else event.one_step()
            steps[one] = steps.get(one, 0) + total
    for name in ("unit", "adjacency"):
        kinds = sorted({getattr(event, name).value for event in steps})
        if len(kinds) > 1:
            raise UnsoundEvent(f"{' and '.join(kinds)} in one composition: report them apart")
    return steps


def check_delta(delta: float, *, units: int | None = None) -> float:
    """Return delta, or raise ``BadParameter`` unless 0 < delta < 1 and delta < 1 / ``units``.

    With delta >= 1/N a mechanism may publish one of N units whole and still comply.
    """
    delta = positive_float("delta", delta)
    if delta >= 1:
        raise BadParameter(f"delta is {delta}, must be below 1")
    if units is not None:
        if type(units) is not int or units < 1:
            raise BadParameter(f"units is {units!r}, must be an integer of at least 1")
        if delta * units >= 1:
            raise BadParameter(f"delta is {delta}, must be below 1/{units} for {units} units")
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

    Raises:
      UnsoundEvent: see the module's table.
      BadParameter: delta or a count is out of range.
    """
    delta = check_delta(delta)
    steps = grouped(composition)
    if not steps:
        return 0.0
    total = np.zeros_like(ORDERS)
    for event, count in steps.items():
        total += count * _rdp_of_step(event)
    epsilon = float(np.min(total + _conversion(delta)))
    return _checked(max(epsilon, 0.0))


def epsilon_pld(composition: Composition, delta: float, interval: float = 1e-4) -> float:
    """Epsilon at ``delta`` by privacy loss distributions: the tighter number, for reports.

    dp-accounting rounds every loss up to a multiple of ``interval``, so a coarser one
    is still an upper bound. Equal events are composed once, with their count; no event
    reaches the engine whose treatment there was found wrong.

    Raises:
      UnsoundEvent: see the module's table.
      AccountantLimit: the distribution would not fit; a coarser interval may.
      BadParameter: delta, interval or a count is out of range.
    """
    delta = check_delta(delta)
    interval = positive_float("interval", interval)
    steps = grouped(composition)
    if not steps:
        return 0.0
    points = 0.0
    for event, count in steps.items():
        _check_design(event)
        points += _pld_points(event, count, interval)
    if points > _MAX_PLD_POINTS:
        raise AccountantLimit(
            f"a loss distribution at interval {interval:g} needs about {points:.2g} points, "
            f"at most {_MAX_PLD_POINTS:.0e} are allowed; take a coarser interval"
        )
    return _checked(_engine_pld(steps, delta, interval))


def _checked(epsilon: float) -> float:
    if not epsilon >= 0:
        raise PrivacyError(f"the accountant returned {epsilon}, which is no epsilon")
    return epsilon


def _check_design(event: Event) -> None:
    match event.sampling:
        case NoSampling():
            return
        case PoissonSampling() if event.unit is Unit.EXAMPLE:
            return
        case PoissonSampling():
            raise UnsoundEvent(
                "Poisson sampling of clients with noise of the cohort alone: whoever sees "
                "the cohort sees who is in it; charge it as NoSampling"
            )
        case design:
            raise UnsoundEvent(f"{type(design).__name__} is not supported by any accountant here")


@lru_cache(maxsize=4096)
def _rdp_of_step(event: Event) -> Vector:
    """RDP of a one-step event at ``ORDERS``, read-only."""
    _check_design(event)
    z = event.noise_multiplier
    q = event.sampling.rate if isinstance(event.sampling, PoissonSampling) else 1.0
    replaced = event.adjacency is Adjacency.REPLACE_ONE
    if replaced and q < 1:
        raise UnsoundEvent("replace-one under Poisson sampling has no RDP bound here; use PLD")
    with np.errstate(over="ignore", divide="ignore"):
        if q == 1:
            # The sensitivity of the sum is 2C when a contribution is replaced.
            vector: Vector = ORDERS / (2 * np.square(np.float64(z / 2 if replaced else z)))
        else:
            plain = ORDERS / (2 * np.square(np.float64(z)))
            # Sampling never costs more than no sampling, rounding included.
            vector = np.minimum(_sampled(q, z), plain)
    if np.isnan(vector).any():
        raise PrivacyError(f"the price of {event} is not a number")
    vector.setflags(write=False)
    return vector


def _sampled(q: float, z: float) -> Vector:
    fractional = np.full(len(_FRACTIONAL), np.inf)
    if z >= _MIN_QUADRATURE_NOISE and q >= _MIN_QUADRATURE_RATE:
        fractional = _sampled_fractional(q, z)
    return np.concatenate([fractional, _sampled_integer(q, z)])


def _sampled_integer(q: float, z: float) -> Vector:
    """[MTZ19, sec. 3.3] at ``_INTEGER``, in logarithms.

    A = sum_k C(a,k) (1-q)^(a-k) q^k exp((k^2-k)/(2 z^2)). The binomial weights sum to 1, so
    A - 1 is the same sum with exp(.) - 1: all terms positive, nothing cancels.
    """
    k = np.arange(_INTEGER[-1] + 1, dtype=np.float64)
    exponent = k * (k - 1) / max(2 * z * z, 1e-300)  # a price of 1e300 passes any budget
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = exponent + np.log(-np.expm1(-exponent))
    growth[:2] = -np.inf  # k = 0 and 1 leave nothing
    log_a = []
    for orders, binomials in _log_binomials():
        width = binomials.shape[1]
        a = np.array(orders, dtype=np.float64)[:, None]
        terms = binomials + k[:width] * math.log(q) + (a - k[:width]) * math.log1p(-q)
        log_a.append(np.logaddexp(0.0, _logsumexp(terms + growth[:width])))
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
    for orders in (_INTEGER[:-2], _INTEGER[-2:]):
        table = np.full((len(orders), orders[-1] + 1), -np.inf)
        for row, a in enumerate(orders):
            table[row, : a + 1] = log_factorial[a] - log_factorial[: a + 1] - log_factorial[a::-1]
        blocks.append((orders, table))
    return tuple(blocks)


@lru_cache(maxsize=64)
def _conversion(delta: float) -> Vector:
    """What turns RDP at ``ORDERS`` into epsilon at ``delta``, [CKS20, Prop. 12]."""
    vector = np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    vector.setflags(write=False)
    return vector


def _pld_points(event: GaussianEvent, count: int, interval: float) -> float:
    """About how many multiples of ``interval`` the losses of ``count`` steps span."""
    z = event.noise_multiplier / (2 if event.adjacency is Adjacency.REPLACE_ONE else 1)
    q = event.sampling.rate if isinstance(event.sampling, PoissonSampling) else 1.0
    if z < 1e-3:
        return math.inf
    # Deviation of the loss of one step: 1/z unsampled, q (exp(1/z^2) - 1)^(1/2) for small q.
    spread = min(1 / z, q * math.exp(min(1 / (z * z), 700.0) / 2))
    one_step = 1 / (z * z) + 20 / z
    all_steps = count * spread * spread + 20 * math.sqrt(count) * spread
    return (one_step + all_steps) / interval


def _engine_pld(steps: Mapping[Event, int], delta: float, interval: float) -> float:
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    relations = dp_accounting.NeighboringRelation
    relation = {
        Adjacency.ADD_OR_REMOVE: relations.ADD_OR_REMOVE_ONE,
        Adjacency.ZERO_OUT: relations.REPLACE_SPECIAL,
        Adjacency.REPLACE_ONE: relations.REPLACE_ONE,
    }[next(iter(steps)).adjacency]
    accountant = PLDAccountant(relation, value_discretization_interval=interval)
    for event, count in steps.items():
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        if isinstance(event.sampling, PoissonSampling) and event.sampling.rate < 1:
            sampled = dp_accounting.PoissonSampledDpEvent(event.sampling.rate, gaussian)
            accountant.compose(sampled, count)
        else:
            accountant.compose(gaussian, count)
    return float(accountant.get_epsilon(delta))
