"""Budget to noise.

What is returned keeps the whole plan inside the budget as the same accountant prices
it, so a plan calibrated with RDP, by which the ledger admits, is admitted to its last step.
"""

from typing import Literal

from dp.accountant import check_delta, epsilon_pld, epsilon_rdp
from dp.errors import BadParameter, CalibrationError
from dp.events import Adjacency, GaussianEvent, Sampling, Unit, positive_float

_MOST_NOISE = 2.0**20  # far above any use; RDP at our orders does not improve beyond
_LEAST_NOISE = 2.0**-6
_PRECISION = {"rdp": 1e-6, "pld": 1e-4}  # relative width at which the bisection ends


def noise_multiplier(
    *,
    epsilon: float,
    delta: float,
    sampling: Sampling,
    steps: int,
    unit: Unit = Unit.EXAMPLE,
    adjacency: Adjacency = Adjacency.ADD_OR_REMOVE,
    accountant: Literal["rdp", "pld"] = "rdp",
) -> float:
    """The least noise multiplier z for which ``steps`` Gaussian sums cost at most ``epsilon``.

    Above the least one by a factor of at most 1 + 1e-6 (RDP) or 1 + 1e-4 (PLD), never
    below it. At least 2^-6, which no sensible budget asks for. "pld" is the noise of a
    report, and the ledger, which admits by RDP, would stop that plan early.

    Raises:
      CalibrationError: no noise is enough, as when delta is too small for the orders.
      UnsoundEvent: the design cannot be treated soundly.
      BadParameter: an argument is out of range.
    """
    budget = positive_float("epsilon", epsilon)
    delta = check_delta(delta)
    if accountant not in _PRECISION:
        raise BadParameter(f"accountant is {accountant!r}, must be 'rdp' or 'pld'")
    price = epsilon_rdp if accountant == "rdp" else epsilon_pld

    def fits(noise: float) -> bool:
        event = GaussianEvent(
            noise_multiplier=noise, sampling=sampling, steps=steps, unit=unit, adjacency=adjacency
        )
        return price({event: 1}, delta) <= budget

    high = 1.0
    while not fits(high):
        high *= 2
        if high > _MOST_NOISE:
            raise CalibrationError(
                f"no noise multiplier up to 2**20 keeps {steps} steps within epsilon "
                f"{budget:g} at delta {delta:g}; raise one of the two"
            )
    while high > _LEAST_NOISE and fits(high / 2):
        high /= 2
    if high <= _LEAST_NOISE:
        return high
    low = high / 2
    while high - low > _PRECISION[accountant] * low:
        middle = (low + high) / 2
        if fits(middle):
            high = middle
        else:
            low = middle
    return high
