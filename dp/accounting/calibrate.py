"""Budget to noise, to steps, or to a sampling rate.

What is returned keeps the whole plan inside the budget as the same accountant prices
it, so a plan calibrated with RDP, by which the ledger admits, is admitted to its last step.
"pld" is the answer of a report, the smaller of both bounds as ``reported_epsilon`` says, and
the ledger would stop that plan early.

All three functions raise ``UnsoundEvent`` for a design that cannot be treated soundly, and
``InputError`` for an argument out of range.
"""

from collections.abc import Callable
from contextlib import suppress

from dp.accounting.accountant import (
    ORDERS,
    Accountant,
    check_delta,
    epsilon_rdp,
    reported_epsilon,
)
from dp.accounting.events import (
    MAX_STEPS,
    Event,
    GaussianEvent,
    NeighboringRelation,
    PoissonSampling,
    Sampling,
    Unit,
)
from dp.checks import positive_float
from dp.errors import CalibrationError, InputError, UnsoundEvent

_MOST_NOISE = 2.0**20  # far above any use; RDP at our orders does not improve beyond
_LIMIT = {  # why no noise is enough, though truly some is
    "rdp": f"RDP's orders end at {ORDERS[-1]:g}, so it states no smaller epsilon at this delta: "
    "ask by 'pld', or",
    "pld": "no accountant here states so small an epsilon at this delta:",
}
_LEAST_NOISE = 2.0**-6
_LEAST_RATE = 2.0**-30
_PRECISION = {"rdp": 1e-6, "pld": 1e-4}  # relative width at which a search ends
_FACTOR = 1.25  # between the answers of the two accountants, about: the stride from RDP's


# Eight arguments here and in ``max_steps``: the fields of an event but the one that is sought,
# a budget, and the accountant that prices them.
def noise_multiplier(
    *,
    epsilon: float,
    delta: float,
    sampling: Sampling,
    steps: int,
    unit: Unit = Unit.EXAMPLE,
    adjacency: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE,
    accountant: Accountant = "rdp",
    pld_discretization: float | None = None,
) -> float:
    """The least noise multiplier z for which ``steps`` Gaussian sums cost at most ``epsilon``.

    As ``calibrate_noise``, for that event.

    >>> from dp.accounting import NoSampling
    >>> z = noise_multiplier(epsilon=2.0, delta=1e-5, sampling=NoSampling(), steps=10)
    >>> round(z, 3)
    6.798

    Args:
      epsilon: of all steps, above 0.
      delta: above 0 and below 1.
      sampling: how the units of a step are drawn.
      steps: sums with noise, 1 or more.
      unit: whose presence is hidden.
      adjacency: what makes two data sets neighbours.
      accountant: ``"rdp"`` or ``"pld"``.
      pld_discretization: width of a loss; ``None`` chooses it.
    """

    def event(noise: float) -> GaussianEvent:
        return GaussianEvent(
            noise_multiplier=noise, sampling=sampling, steps=steps, unit=unit, adjacency=adjacency
        )

    return calibrate_noise(
        event,
        epsilon=epsilon,
        delta=delta,
        accountant=accountant,
        pld_discretization=pld_discretization,
    )


def calibrate_noise(
    event: Callable[[float], Event],
    *,
    epsilon: float,
    delta: float,
    accountant: Accountant = "rdp",
    pld_discretization: float | None = None,
) -> float:
    """The least z for which the whole plan ``event(z)`` costs at most ``epsilon``.

    At most 1e-6 (RDP) or 1e-4 (PLD), relative, above the smallest sufficient z, and never
    below it, where more noise never costs more. At least 2^-6, which no sensible budget asks
    for.

    Args:
      event: what one noise multiplier z makes of the plan, all its steps.
      epsilon: of the whole plan, above 0.
      delta: above 0 and below 1.
      accountant: ``"rdp"`` or ``"pld"``.
      pld_discretization: width of a loss; ``None`` chooses it.

    Raises:
      CalibrationError: no noise is enough, as when delta is too small for the orders.
    """
    price = _price(epsilon, delta, accountant, pld_discretization)

    def fits(noise: float) -> bool:
        return price(event(noise)) <= epsilon

    high, factor = 1.0, 2.0
    if accountant == "pld":
        # PLD is below RDP, so its least noise is too, and mostly not by much.
        with suppress(CalibrationError, UnsoundEvent):
            high, factor = calibrate_noise(event, epsilon=epsilon, delta=delta), _FACTOR
    while not fits(high):
        high *= 2
        if high > _MOST_NOISE:
            raise CalibrationError(
                f"no noise multiplier up to 2**20 keeps the plan within epsilon {epsilon:g} at "
                f"delta {delta:g}. {_LIMIT[accountant]} raise one of the two"
            )
    while high > _LEAST_NOISE and fits(high / factor):
        high /= factor
    if high <= _LEAST_NOISE:
        return _LEAST_NOISE
    low = high / factor
    while high - low > _PRECISION[accountant] * low:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


# As many arguments as ``noise_multiplier``, for the same reason.
def max_steps(
    *,
    epsilon: float,
    delta: float,
    noise_multiplier: float,
    sampling: Sampling,
    unit: Unit = Unit.EXAMPLE,
    adjacency: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE,
    accountant: Accountant = "rdp",
    pld_discretization: float | None = None,
) -> int:
    """The most steps that cost at most ``epsilon``: one more costs more. At most 2^53.

    0 where the first step passes the budget already.

    Args:
      epsilon: of all steps, above 0.
      delta: above 0 and below 1.
      noise_multiplier: standard deviation of the noise over the clip.
      sampling: how the units of a step are drawn.
      unit: whose presence is hidden.
      adjacency: what makes two data sets neighbours.
      accountant: ``"rdp"`` or ``"pld"``.
      pld_discretization: width of a loss; ``None`` chooses it.
    """
    price = _price(epsilon, delta, accountant, pld_discretization)

    def fits(steps: int) -> bool:
        event = GaussianEvent(
            noise_multiplier=noise_multiplier,
            sampling=sampling,
            steps=steps,
            unit=unit,
            adjacency=adjacency,
        )
        return price(event) <= epsilon

    low, stride = 0, 1
    if accountant == "pld":
        with suppress(UnsoundEvent):
            by_rdp = max_steps(
                epsilon=epsilon,
                delta=delta,
                noise_multiplier=noise_multiplier,
                sampling=sampling,
                unit=unit,
                adjacency=adjacency,
            )
            if fits(by_rdp):
                low, stride = by_rdp, max(by_rdp // 8, 1)
    while fits(high := min(low + stride, MAX_STEPS)):
        if high == MAX_STEPS:
            return MAX_STEPS
        low, stride = high, 2 * stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def sampling_rate(
    *,
    epsilon: float,
    delta: float,
    noise_multiplier: float,
    steps: int,
    adjacency: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE,
    accountant: Accountant = "rdp",
    pld_discretization: float | None = None,
) -> float:
    """The highest rate of Poisson sampling of examples that costs at most ``epsilon``.

    Below the highest one by a factor of at most 1 - 1e-6 (RDP) or 1 - 1e-4 (PLD), never
    above it, and at most 1.

    >>> rate = sampling_rate(epsilon=2.0, delta=1e-5, noise_multiplier=1.0, steps=1000)
    >>> round(rate, 4)
    0.0095

    Args:
      epsilon: of all steps, above 0.
      delta: above 0 and below 1.
      noise_multiplier: standard deviation of the noise over the clip.
      steps: sums with noise, 1 or more.
      adjacency: what makes two data sets neighbours.
      accountant: ``"rdp"`` or ``"pld"``.
      pld_discretization: width of a loss; ``None`` chooses it.

    Raises:
      CalibrationError: a rate of 2^-30 costs more already.
    """
    price = _price(epsilon, delta, accountant, pld_discretization)

    def fits(rate: float) -> bool:
        event = GaussianEvent(
            noise_multiplier=noise_multiplier,
            sampling=PoissonSampling(rate=rate),
            steps=steps,
            adjacency=adjacency,
        )
        return price(event) <= epsilon

    low = 1.0
    if accountant == "pld":
        with suppress(CalibrationError, UnsoundEvent):
            low = sampling_rate(
                epsilon=epsilon,
                delta=delta,
                noise_multiplier=noise_multiplier,
                steps=steps,
                adjacency=adjacency,
            )
    while not fits(low):
        low /= 2
        if low < _LEAST_RATE:
            raise CalibrationError(
                f"no sampling rate down to 2**-30 keeps {steps} steps within epsilon "
                f"{epsilon:g} at delta {delta:g}; add noise"
            )
    while fits(high := min(low * _FACTOR, 1.0)):
        if high == 1:
            return high
        low = high
    while high - low > _PRECISION[accountant] * low:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _price(
    epsilon: float, delta: float, accountant: Accountant, pld_discretization: float | None
) -> Callable[[Event], float]:
    """The price of a plan, once the budget is known to be one."""
    positive_float("epsilon", epsilon)
    check_delta(delta)
    if accountant == "rdp":
        return lambda event: epsilon_rdp([(event, 1)], delta)
    if accountant == "pld":
        return lambda event: reported_epsilon([(event, 1)], delta, pld_discretization).epsilon
    raise InputError(f"accountant is {accountant!r}, must be 'rdp' or 'pld'")
