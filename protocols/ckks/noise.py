"""Wide Gaussian noise from cryptographic bytes, the same on every machine.

Marsaglia's polar method: for (u, v) uniform in the unit disc, s = u^2 + v^2, the pair
(u, v) sqrt(-2 ln s / s) is two independent standard Gaussians. Everything is made of
operations that IEEE 754 rounds exactly (the logarithm too, from a series), so the same
bytes give the same integers under any compiler and processor: clients that flood
one result from one seed publish the same numbers.

What is exact: the integers are a rounded *continuous* Gaussian, drawn in doubles. u and
v lie on a grid of 2**-52, so each value is off by some 2**-50 of itself and none passes
12 deviations. For flooding, whose deviation is 2**30 and more and whose security
ends at 2**-(s/2), s <= 60, neither shows; it is no sampler for anything narrower.

Source: G. Marsaglia, T. A. Bray, A convenient method for generating normal variables,
SIAM Review 6(3), 1964.
"""

import math

import numpy as np
from numpy.typing import NDArray

from protocols.entropy import Entropy
from protocols.errors import InputError

MAX_DEVIATION = 2.0**50  # above it a double's steps would be wider than 1 within 8 deviations
_LN2 = 0.6931471805599453  # the double nearest to ln 2
_TERMS = 12  # of the series: the next is below 2**-61 of the first


def gaussian(count: int, deviation: float, entropy: Entropy) -> NDArray[np.int64]:
    """``count`` independent Gaussians of ``deviation``, rounded to integers.

    Args:
      deviation: in [1, 2**50].
      entropy: read in blocks of 16 bytes a pair; about 10 bytes a value in all.
    """
    if not 1 <= deviation <= MAX_DEVIATION:
        raise InputError(f"deviation {deviation} is outside [1, 2**50]")
    pairs = -(-count // 2)
    kept: list[NDArray[np.float64]] = []
    missing = pairs
    while missing > 0:
        # pi/4 of the square is disc; a fixed number of draws would sometimes fall short.
        draws = math.ceil(1.3 * missing) + 16
        words = np.frombuffer(entropy(16 * draws), "<u8").reshape(draws, 2)
        points = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-51 - 1
        squares = points[:, 0] * points[:, 0] + points[:, 1] * points[:, 1]
        inside = squares < 1
        points, squares = points[inside][:missing], squares[inside][:missing]
        kept.append(points * np.sqrt(-2 * _ln(squares) / squares)[:, None])
        missing -= len(points)
    values = np.concatenate(kept).reshape(-1)[:count] if kept else np.empty(0)
    return np.rint(values * deviation).astype(np.int64)


def _ln(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm in (0, 1): 2 artanh((m-1)/(m+1)) + e ln 2, m in [sqrt(1/2), sqrt 2)."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa = np.where(low, 2 * mantissa, mantissa)
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    series = np.full_like(x, 1 / (2 * _TERMS + 1))
    for term in range(_TERMS - 1, -1, -1):
        series = series * square + 1 / (2 * term + 1)
    result: NDArray[np.float64] = (exponent - low) * _LN2 + 2 * ratio * series
    return result
