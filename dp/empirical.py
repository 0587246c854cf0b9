"""Privacy measured from outside: what attacks prove about an epsilon, and what they suggest.

| function | needs | gives |
|---|---|---|
| ``lower_bound`` | one run, m canaries, each in by its own fair coin [SNJ23] | a bound |
| ``gaussian_lower_bound`` | the same, of noise that is claimed to be Gaussian [MMC25] | a bound |
| ``from_rates`` | many runs, one canary, a threshold of other runs [JUO20, NST+21] | a bound |
| ``from_cosines`` | one run, random canary clients and their cosines [AKO+23] | an estimate |

A ``LowerBound`` is a theorem with a chance of error: of a mechanism that keeps (epsilon, delta)
it passes epsilon with probability at most ``significance``. It is no upper bound: a weak
attack proves little whatever the mechanism is. An ``Estimate`` rests on two fitted Gaussians
and proves nothing. Neither is ever to be printed where an accountant's epsilon belongs.

A run that was audited holds the canaries and the coins; the coins are to be kept from whoever
guesses.

[SNJ23]: Steinke, Nasr, Jagielski, Privacy Auditing with One (1) Training Run, arXiv 2305.08846.
[MMC25]: Mahloujifar, Melis, Chaudhuri, Auditing f-Differential Privacy in One Run, arXiv
2410.22235. [JUO20]: Jagielski, Ullman, Oprea, Auditing Differentially Private Machine
Learning, arXiv 2006.07709. [NST+21]: Nasr et al., Adversary Instantiation, arXiv 2101.04535.
[AKO+23]: Andrew et al., One-shot Empirical Privacy Estimation for Federated Learning, arXiv
2302.03098.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp.accounting.accountant import check_delta
from dp.accounting.events import MECHANISMS, Unit
from dp.checks import integer, positive_float
from dp.errors import InputError

Entropy: TypeAlias = Callable[[int], bytes]
Reals: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Method: TypeAlias = Literal["one run", "one run, Gaussian curve", "many runs"]

_COUNTS: Final[Mapping[Method, tuple[str, ...]]] = {
    "one run": ("canaries", "guesses", "correct"),
    "one run, Gaussian curve": ("canaries", "guesses", "correct"),
    "many runs": ("true_positives", "positives", "false_positives", "negatives"),
}
GAUSSIAN: Final = "one run, Gaussian curve"
MOST: Final = 2**20  # canaries, guesses or runs
_ERROR: Final = 2.0**-20  # relative, above that of a tail: lgamma(2^20) is 1.4e7, in doubles
_PRECISION: Final = 2.0**-40  # relative width at which a search ends
_FAR: Final = 30.0  # deviations, from which erfc is replaced by its asymptotic series
_AGREES: Final = 1e-6  # between an epsilon that a file states and the one recomputed
_WIDE: Final = 1e15  # of means and deviations, so that no square of a ratio leaves a double
_BLOCK: Final = 2**20  # normals made at a time
_NORMAL: Final = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerBound:
    """The mechanism is not (``epsilon``', ``delta``)-private for any epsilon' below ``epsilon``.

    Wrong with probability at most ``significance``. 0 says that nothing was shown.

    By "one run, Gaussian curve" it says less, and finds more: the mechanism does not hide as
    Gaussian noise of any such (epsilon', ``delta``) does, at all deltas at once. That refutes
    whoever claims Gaussian noise, and nobody who claims (epsilon', ``delta``) alone.

    Attributes:
      unit: whose presence was guessed.
      method: "one run", "one run, Gaussian curve" or "many runs".
      counts: what was counted, from which alone the bound follows.
      comparisons: how many bounds were tried of which this is one, paid for by Bonferroni.
      mechanism: what was attacked, of ``dp.accounting.events.MECHANISMS``; empty if not said.
    """

    epsilon: float
    delta: float
    significance: float
    unit: Unit
    method: Method
    counts: Mapping[str, int]
    comparisons: int = 1
    mechanism: str = ""

    def __post_init__(self) -> None:
        _check_mechanism(self.mechanism)

    def at(self, delta: float) -> "LowerBound":
        """The bound from the same counts at a delta that was not chosen by them."""
        found = _BOUNDS[self.method](
            *self.counts.values(),
            delta=delta,
            significance=self.significance,
            comparisons=self.comparisons,
            unit=self.unit,
        )
        return replace(found, mechanism=self.mechanism)

    def as_dict(self) -> dict[str, Any]:
        """The bound as JSON, labelled as a bound; ``from_json`` reads it."""
        return {
            "kind": "bound",
            "method": self.method,
            "unit": self.unit.value,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "significance": self.significance,
            "comparisons": self.comparisons,
            "counts": dict(self.counts),
            **_named(self.mechanism),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """Mean and standard deviation of a statistic."""

    mean: float
    deviation: float

    @classmethod
    def fit(cls, values: Reals) -> Self:
        """Both from a sample of at least two."""
        return cls(mean=float(values.mean()), deviation=float(values.std(ddof=1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What epsilon would be if the statistic were Gaussian with and without a canary [AKO+23].

    No bound in either direction, and no error is known of it: a canary may be less or more
    visible than the worst unit, and a tail that nobody saw is extrapolated.

    Attributes:
      unit: whose presence is estimated.
      included: of the statistic of canaries that took part.
      unobserved: of those that did not.
      canaries: how many took part.
      mechanism: what was attacked, of ``dp.accounting.events.MECHANISMS``; empty if not said.
    """

    epsilon: float
    delta: float
    unit: Unit
    included: Gaussian
    unobserved: Gaussian
    canaries: int
    mechanism: str = ""

    def __post_init__(self) -> None:
        _check_mechanism(self.mechanism)

    def at(self, delta: float) -> "Estimate":
        """The estimate from the same two Gaussians at another delta."""
        found = _estimate(self.included, self.unobserved, self.canaries, delta, self.unit)
        return replace(found, mechanism=self.mechanism)

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON, labelled as an estimate; ``from_json`` reads it."""
        return {
            "kind": "estimate",
            "method": "canary cosines",
            "unit": self.unit.value,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "canaries": self.canaries,
            "included": [self.included.mean, self.included.deviation],
            "unobserved": [self.unobserved.mean, self.unobserved.deviation],
            **_named(self.mechanism),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Guesses:
    """How a guesser did: of ``canaries`` it guessed ``made``, and was ``correct`` that often."""

    canaries: int
    made: int
    correct: int


def include_canaries(canaries: int, *, entropy: Entropy = os.urandom) -> Flags:
    """A fair coin for each canary: whether it is in."""
    integer("canaries", canaries, 1, MOST)
    bits = np.unpackbits(np.frombuffer(_bytes(entropy, -(-canaries // 8)), np.uint8))
    return bits[:canaries].astype(np.bool_)


def guess(
    scores: ArrayLike, included: ArrayLike, *, count: int, highest: int | None = None
) -> Guesses:
    """Call the highest scores "in" and the lowest "out", and count how many are right.

    ``count`` must be fixed before the scores are seen, or be paid for: ``best_lower_bound``.
    Ties are broken by place, so places must not tell who is in.

    Args:
      scores: one a canary; higher says "in".
      included: the coins.
      count: guesses in all, 0 to the number of canaries; about the rest nothing is said.
      highest: of them, calls of "in"; half of them, rounded up, if not given.

    Raises:
      InputError: a score is NaN, the lengths differ, or more is guessed than there is.
    """
    values, coins = np.asarray(scores, np.float64), np.asarray(included)
    if values.ndim != 1 or coins.shape != values.shape or coins.dtype != np.bool_:
        raise InputError(
            f"scores have shape {values.shape} and coins are {coins.dtype} of shape "
            f"{coins.shape}, must be one score and one boolean a canary"
        )
    integer("canaries", len(values), 1, MOST)
    if np.isnan(values).any():
        raise InputError("a score is NaN; give a canary without one the middle of the others")
    integer("count", count, 0, len(values))
    up = (count + 1) // 2 if highest is None else highest
    integer("highest", up, 0, count)
    order = np.argsort(values, kind="stable")
    right = coins[order[len(order) - up :]].sum() + (~coins[order[: count - up]]).sum()
    return Guesses(canaries=len(values), made=count, correct=int(right))


def lower_bound(
    canaries: int,
    guesses: int,
    correct: int,
    *,
    delta: float,
    significance: float = 0.05,
    comparisons: int = 1,
    unit: Unit = Unit.EXAMPLE,
) -> LowerBound:
    """What ``correct`` of ``guesses`` proves of one run with ``canaries`` fair coins [SNJ23].

    With q = e^eps / (1 + e^eps), B ~ Bin(guesses, q), v = correct and m = canaries, an
    (eps, delta)-private run (one canary added or removed) does so well with probability at most

        P[B >= v] + 2 m delta max_{1<=i<=v} P[v - i <= B < v] / i

    and the bound is the largest eps at which that is below the significance, over ``comparisons``.

    Args:
      canaries: all coins that were tossed, m, guessed about or not; at most 2^20.
      guesses: how many were guessed; fixed in advance.
      correct: of those.
      delta: at which epsilon is bounded; not chosen by the outcome.
      significance: the chance of error that is accepted.
      comparisons: bounds that were tried on the same run, this one included.
      unit: what one canary is.

    Raises:
      InputError: an argument is out of range.
    """
    integer("canaries", canaries, 1, MOST)
    integer("guesses", guesses, 0, canaries)
    integer("correct", correct, 0, guesses)
    check_delta(delta)
    level = _level(significance, comparisons) * (1 - _ERROR)

    def rejected(epsilon: float) -> bool:
        return _chance(epsilon, canaries, guesses, correct, delta) < level

    return LowerBound(
        epsilon=_largest(rejected) if correct else 0.0,
        delta=delta,
        significance=significance,
        unit=unit,
        method="one run",
        counts=dict(zip(_COUNTS["one run"], (canaries, guesses, correct), strict=True)),
        comparisons=comparisons,
    )


def gaussian_lower_bound(
    canaries: int,
    guesses: int,
    correct: int,
    *,
    delta: float,
    significance: float = 0.05,
    comparisons: int = 1,
    unit: Unit = Unit.EXAMPLE,
) -> LowerBound:
    """What ``correct`` of ``guesses`` proves against a claim of Gaussian noise [MMC25].

    The claim is a mu: who tells one canary in from out, of false positives x, has true ones at
    most 1 - f(x) = Phi(Phi^-1(x) + mu). ``_too_good`` has the theorem and its proof. The bound
    is the epsilon, at ``delta``, of the largest mu that is refuted.

    Made for noise that *is* Gaussian, or that adds up to it over steps without sampling: there
    it proves 1.5 times and more what ``lower_bound`` does. Few sure guesses prove more than many.
    Arguments and errors are those of ``lower_bound``.
    """
    integer("canaries", canaries, 1, MOST)
    integer("guesses", guesses, 0, canaries)
    integer("correct", correct, 0, guesses)
    check_delta(delta)
    level = _level(significance, comparisons) * (1 - _ERROR)

    def rejected(mu: float) -> bool:
        return _too_good(lambda x: _gaussian_false(x, mu), canaries, guesses, correct, level)

    mu = _largest(rejected) if correct else 0.0
    return LowerBound(
        epsilon=_largest(lambda epsilon: _excess(epsilon, mu, 1.0) > delta),
        delta=delta,
        significance=significance,
        unit=unit,
        method=GAUSSIAN,
        counts=dict(zip(_COUNTS["one run"], (canaries, guesses, correct), strict=True)),
        comparisons=comparisons,
    )


def best_lower_bound(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    counts: Sequence[int],
    delta: float,
    significance: float = 0.05,
    unit: Unit = Unit.EXAMPLE,
    bound: Callable[..., LowerBound] = lower_bound,
) -> LowerBound:
    """The best over several numbers of guesses, each at ``significance`` / len(``counts``).

    So the number may be chosen by the outcome, among those that were named in advance.
    ``bound`` is ``lower_bound`` or ``gaussian_lower_bound``.
    """
    if not counts:
        raise InputError("counts is empty, must name the numbers of guesses to try")
    tried = (guess(scores, included, count=count) for count in counts)
    bounds = (
        bound(
            found.canaries,
            found.made,
            found.correct,
            delta=delta,
            significance=significance,
            comparisons=len(counts),
            unit=unit,
        )
        for found in tried
    )
    return max(bounds, key=lambda each: each.epsilon)


# The four counts of a test's table, and what ``lower_bound`` takes beside its own.
def from_rates(
    true_positives: int,
    positives: int,
    false_positives: int,
    negatives: int,
    *,
    delta: float,
    significance: float = 0.05,
    comparisons: int = 1,
    unit: Unit = Unit.EXAMPLE,
) -> LowerBound:
    """What the rates of a test over independent runs prove [JUO20, NST+21].

    The test says "in"; it and its threshold were fixed on other runs. An (eps, delta)-private
    mechanism has TPR <= e^eps FPR + delta and TNR <= e^eps FNR + delta, so with p below the
    true positive rate and f above the false one

        eps >= max{ ln((p - delta) / f), ln((1 - f - delta) / (1 - p)) }

    Both limits are Clopper-Pearson's, each at half the significance; they serve both terms.

    Args:
      true_positives: of ``positives`` independent runs with the canary, those called "in".
      false_positives: of ``negatives`` runs without it, likewise.
      delta, significance, comparisons, unit: as of ``lower_bound``.

    Raises:
      InputError: an argument is out of range.
    """
    check_delta(delta)
    level = _level(significance, comparisons) / 2
    tested = (true_positives, positives, false_positives, negatives)
    low = clopper_pearson_low(*tested[:2], level)
    high = clopper_pearson_high(*tested[2:], level)
    ratios = [
        math.log((above - delta) / below) if above > delta and below > 0 else 0.0
        for above, below in ((low, high), (1 - high, 1 - low))
    ]
    return LowerBound(
        epsilon=max(0.0, *ratios),
        delta=delta,
        significance=significance,
        unit=unit,
        method="many runs",
        counts=dict(zip(_COUNTS["many runs"], tested, strict=True)),
        comparisons=comparisons,
    )


def clopper_pearson_low(successes: int, trials: int, level: float) -> float:
    """Below a probability, but for a chance of ``level``: Clopper-Pearson's lower limit."""
    integer("trials", trials, 1, MOST)
    integer("successes", successes, 0, trials)
    _level(level, 1)
    if successes == 0:
        return 0.0
    low, high = 0.0, 1.0
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        tail = _masses(trials, math.log(middle), math.log1p(-middle))[successes:].sum()
        low, high = (middle, high) if tail < level * (1 - _ERROR) else (low, middle)
    return low


def clopper_pearson_high(successes: int, trials: int, level: float) -> float:
    """Above a probability, but for a chance of ``level``: Clopper-Pearson's upper limit."""
    integer("successes", successes, 0, trials)
    return 1 - clopper_pearson_low(trials - successes, trials, level)


def random_directions(count: int, entries: int, *, entropy: Entropy = os.urandom) -> Reals:
    """``count`` canary updates, uniform on the unit sphere, float64 (count, entries)."""
    integer("canaries", count, 1, MOST)
    integer("entries", entries, 1, 2**28)
    rows = np.reshape(normals(count * entries, entropy=entropy), (count, entries))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def normals(count: int, *, entropy: Entropy = os.urandom) -> Reals:
    """Standard normals by Box-Muller from 53-bit uniforms: for canaries and attackers, no noise."""
    out = np.empty(count + count % 2)
    for start in range(0, len(out), _BLOCK):
        part = out[start : start + _BLOCK]
        bits = np.frombuffer(_bytes(entropy, 8 * len(part)), "<u8") >> np.uint64(11)
        radius, angle = (bits.reshape(2, -1) + 0.5) * 2.0**-53
        radius = np.sqrt(-2 * np.log(radius))
        part[0::2] = radius * np.cos(2 * math.pi * angle)
        part[1::2] = radius * np.sin(2 * math.pi * angle)
    return out[:count]


def cosines(canaries: Reals, change: ArrayLike) -> Reals:
    """The cosine of each canary with the change of the model, or with one round's.

    Raises ``InputError`` for a change of another length, one that is not finite, or none.
    """
    moved = np.asarray(change, np.float64)
    if moved.shape != canaries.shape[1:]:
        raise InputError(
            f"change has shape {moved.shape}, must be {canaries.shape[1:]} as a canary's"
        )
    length = float(np.linalg.norm(moved))
    if not (math.isfinite(length) and length > 0):
        raise InputError(f"change has norm {length}, must be finite and above 0")
    found: Reals = canaries @ moved / (length * np.linalg.norm(canaries, axis=1))
    return found


def from_cosines(
    included: ArrayLike,
    *,
    delta: float,
    entries: int | None = None,
    unobserved: ArrayLike | None = None,
    unit: Unit = Unit.CLIENT,
) -> Estimate:
    """An estimate from the statistics of random canaries that took part in one run [AKO+23].

    Args:
      included: cosine of each with the final change of the model, or its largest over rounds.
      delta: at which epsilon is estimated.
      entries: d, of the model; without ``unobserved`` a canary that stayed out is taken to have
        cosine N(0, 1/d), which holds of the final change, not of a largest over rounds.
      unobserved: the same statistic of canaries drawn alike that took no part.
      unit: what one canary is.

    Raises:
      InputError: fewer than two statistics, one that is not finite, or both or none of
        ``entries`` and ``unobserved``.
    """
    fitted = _statistics("included", included)
    if (entries is None) == (unobserved is None):
        raise InputError("give either entries, or unobserved of canaries left out")
    if unobserved is not None:
        null = Gaussian.fit(_statistics("unobserved", unobserved))
    else:
        integer("entries", entries or 0, 1, 2**53)
        null = Gaussian(mean=0.0, deviation=1 / math.sqrt(entries or 1))
    return _estimate(Gaussian.fit(fitted), null, len(fitted), delta, unit)


def from_json(data: Any) -> LowerBound | Estimate:
    """The result whose ``as_dict()`` is ``data``, its epsilon computed anew.

    Raises:
      InputError: it is no such object, or states another epsilon than follows from it.
    """
    try:
        found = replace(_parsed(data), mechanism=data.get("mechanism", ""))
        stated = float(data["epsilon"])
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"data is no result that as_dict() gave: {error!r:.200}") from error
    if not abs(stated - found.epsilon) <= _AGREES * max(1.0, found.epsilon):
        raise InputError(
            f"epsilon is {stated:g}, must be {found.epsilon:g} by the other numbers of the result"
        )
    return found


_BOUNDS: Final[Mapping[Method, Callable[..., LowerBound]]] = {
    "one run": lower_bound,
    "one run, Gaussian curve": gaussian_lower_bound,
    "many runs": from_rates,
}


def _check_mechanism(name: str) -> None:
    if name != "" and name not in MECHANISMS:
        raise InputError(f"mechanism {name!r:.80} is unknown; known: {', '.join(MECHANISMS)}")


def _named(mechanism: str) -> dict[str, str]:
    return {"mechanism": mechanism} if mechanism else {}


def _parsed(data: Mapping[str, Any]) -> LowerBound | Estimate:
    unit, delta = Unit(data["unit"]), data["delta"]
    match data["kind"], data["method"]:
        case "bound", ("one run" | "one run, Gaussian curve" | "many runs") as method:
            counts = dict(data["counts"])
            names = _COUNTS[method]
            if counts.keys() != set(names):
                raise InputError(f"counts are {sorted(counts)}, must be {', '.join(names)}")
            return _BOUNDS[method](
                *(counts[name] for name in names),
                delta=delta,
                significance=data["significance"],
                comparisons=data["comparisons"],
                unit=unit,
            )
        case "estimate", "canary cosines":
            pair = [
                Gaussian(mean=float(mean), deviation=float(deviation))
                for mean, deviation in (data["included"], data["unobserved"])
            ]
            integer("canaries", data["canaries"], 2, MOST)
            return _estimate(pair[0], pair[1], data["canaries"], delta, unit)
        case kind, method:
            raise InputError(f"kind {kind!r:.80} by method {method!r:.80} is not known")


def _chance(epsilon: float, canaries: int, guesses: int, correct: int, delta: float) -> float:
    """Most probability with which an (epsilon, delta)-private run is guessed so well."""
    shared = math.log1p(math.exp(-epsilon))
    masses = _masses(guesses, -shared, -epsilon - shared)
    below = np.cumsum(masses[:correct][::-1])
    alpha = float((below / np.arange(1, correct + 1)).max())
    return min(1.0, float(masses[correct:].sum()) + 2 * canaries * delta * alpha)


def _too_good(
    false_rate: Callable[[float], float], canaries: int, guesses: int, correct: int, level: float
) -> bool:
    """Whether so many right guesses have probability below ``level`` under a trade-off curve.

    ``false_rate`` is the inverse g of 1 - f: the least rate of false positives at which true
    ones can be x. It is convex and rises. With p_k = P[k guesses are right], m canaries, c
    guesses:

        r_i = sum_{k>=i} k/m p_k <= 1 - f(h_{i-1}),   h_i = sum_{k>=i} (c - k)/m p_k

    For r_i is the mean, over canaries j and coins, of P[j is guessed right, k >= i right in
    all]. Toss coin j the other way: the same outputs now have j wrong and k - 1 right, and the
    curve bounds one probability by the other; 1 - f is concave, so the mean keeps it.

    P[k >= ``correct``] = ``level`` forces the least mass below when all of it lies at
    ``correct`` and each p_i is as small as h_i >= g(r_{i+1}) lets it: mass that is moved
    up, or added early, leaves every later r as large at the same h. All mass is 1, so
    r_0 + h_0 = c/m; where the least is more, the level is not reached.
    """
    right = level * correct / canaries
    wrong = level * (guesses - correct) / canaries
    for i in range(correct - 1, -1, -1):
        least = false_rate(right)
        if least <= wrong:
            break  # and so in all that follow
        right += i / (guesses - i) * (least - wrong)
        wrong = least
        if right + wrong > guesses / canaries:
            return True
    return right + wrong > guesses / canaries


def _gaussian_false(true: float, mu: float) -> float:
    """Phi(Phi^-1(``true``) - mu)."""
    if not 0 < true < 1:
        return float(true >= 1)
    return math.erfc((mu - _NORMAL.inv_cdf(true)) / math.sqrt(2)) / 2


def _masses(trials: int, log_p: float, log_not: float) -> Reals:
    """P[Bin(trials, p) = k] for every k, to a relative ``_ERROR``; below 1e-308 they are 0."""
    k = np.arange(trials + 1)
    factorials = _log_factorials(trials)
    logs = factorials[trials] - factorials - factorials[::-1] + k * log_p + k[::-1] * log_not
    masses: Reals = np.exp(logs)
    return masses


@lru_cache(maxsize=4)
def _log_factorials(most: int) -> Reals:
    return np.array([math.lgamma(k + 1) for k in range(most + 1)])


def _largest(rejected: Callable[[float], bool]) -> float:
    """An epsilon that is rejected, beyond which the next is not; 0 if that is not."""
    if not rejected(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while rejected(high):
        low, high = high, 2 * high
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def _estimate(
    included: Gaussian, unobserved: Gaussian, canaries: int, delta: float, unit: Unit
) -> Estimate:
    check_delta(delta)
    for name, one in (("included", included), ("unobserved", unobserved)):
        if not (abs(one.mean) <= _WIDE and 1 / _WIDE <= one.deviation <= _WIDE):
            raise InputError(f"{name} is {one}, must be within {_WIDE:g}, spread above 0")
    pairs = [
        ((one.mean - other.mean) / other.deviation, one.deviation / other.deviation)
        for one, other in ((included, unobserved), (unobserved, included))
    ]
    epsilon = _largest(lambda eps: any(_excess(eps, *pair) > delta for pair in pairs))
    return Estimate(
        epsilon=epsilon,
        delta=delta,
        unit=unit,
        included=included,
        unobserved=unobserved,
        canaries=canaries,
    )


def _excess(epsilon: float, mean: float, deviation: float) -> float:
    """The most, over S, of P[S] - e^epsilon Q[S], P = N(mean, deviation^2), Q = N(0, 1).

    S is where ln p/q = a x^2 + b x + c + epsilon is above epsilon: between two roots, outside
    of them, on one side of one, everywhere or nowhere.
    """
    a = (1 - deviation**-2) / 2
    b = mean / deviation**2
    c = -(mean**2) / (2 * deviation**2) - math.log(deviation) - epsilon
    inner = b * b - 4 * a * c
    if a == 0 and b == 0:
        return 0.0
    if a == 0:
        parts = [(-c / b, math.inf)] if b > 0 else [(-math.inf, -c / b)]
    elif inner <= 0:
        parts = [(-math.inf, math.inf)] if a > 0 else []
    else:
        q = -(b + math.copysign(math.sqrt(inner), b)) / 2
        first, last = sorted((q / a, c / q))
        parts = [(first, last)] if a < 0 else [(-math.inf, first), (last, math.inf)]
    excess = 0.0
    for low, high in parts:
        excess += math.exp(_log_mass((low - mean) / deviation, (high - mean) / deviation))
        excess -= math.exp(min(epsilon + _log_mass(low, high), 0.0))
    return excess


def _log_mass(low: float, high: float) -> float:
    """Logarithm of P[low < N(0, 1) < high]."""
    if low + high < 0:
        low, high = -high, -low
    near, far = _log_tail(low), _log_tail(high)
    return near + math.log1p(-math.exp(far - near)) if far < near else -math.inf


def _log_tail(x: float) -> float:
    """Logarithm of P[N(0, 1) > x]."""
    if x == math.inf:
        return -math.inf
    if x < _FAR:
        return math.log(math.erfc(x / math.sqrt(2)) / 2)
    series = -(x**-2) + 3 * x**-4 - 15 * x**-6
    return -x * x / 2 - math.log(x * math.sqrt(2 * math.pi)) + math.log1p(series)


def _statistics(name: str, values: ArrayLike) -> Reals:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or len(found) < 2 or not np.isfinite(found).all():
        raise InputError(f"{name} must be at least two finite numbers in a row")
    return found


def _level(significance: float, comparisons: int) -> float:
    integer("comparisons", comparisons, 1, MOST)
    if positive_float("significance", significance, below=1.0) < 1e-100:
        raise InputError(f"significance is {significance!r}, must be in [1e-100, 1)")
    return significance / comparisons


def _bytes(entropy: Entropy, size: int) -> bytes:
    drawn = entropy(size)
    if len(drawn) != size:
        raise InputError("entropy returned another number of bytes than asked for")
    return drawn
