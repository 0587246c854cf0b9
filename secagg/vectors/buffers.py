"""What becomes of a model's entries that are no trained weights, by one rule for every path.

| array                                | in a sum                                            |
|--------------------------------------|-----------------------------------------------------|
| floats                               | averaged                                            |
| running statistics of a BatchNorm    | averaged, within a range of their own               |
| BatchNorm's counter of batches       | not sent: it stays as the server has it             |
| other integers and booleans          | counts, where the caller says so; refused otherwise |

Statistics are in the unit of what the layer sees, and not of the size of a gradient: a clip for
updates would cut them. There are few of them, so that 32 bits an entry cost nothing. Counter and
statistics are known by the last word of their name: torch's, Keras', and Flax' in ``batch_stats``.
"""

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from secagg.vectors.quantize import FixedPoint

STATISTICS: Final = FixedPoint(clip=2.0**16, bits=32)  # one step is 3.1e-5

_COUNTER: Final = "num_batches_tracked"
_MEANS: Final = ("running_mean", "moving_mean")
_VARIANCES: Final = ("running_var", "moving_variance")


def is_counter(name: str) -> bool:
    """Whether an array counts the batches that a layer has seen."""
    return _words(name)[-1] == _COUNTER


def is_statistic(name: str) -> bool:
    """Whether an array is the running mean or variance of a normalisation."""
    *above, last = _words(name)
    return last in (*_MEANS, *_VARIANCES) or (last in ("mean", "var") and "batch_stats" in above)


def is_variance(name: str) -> bool:
    """Whether an array is a running variance."""
    return is_statistic(name) and _words(name)[-1] in (*_VARIANCES, "var")


def no_negative_variance(name: str, values: NDArray[Any], before: NDArray[Any]) -> NDArray[Any]:
    """``values``, and 0 in place of what is below in a variance that was not below ``before``.

    A mean of variances is none: only the rounding of a difference, or of CKKS, gets there.
    """
    if not is_variance(name):
        return values
    return np.where((values < 0) & (before >= 0), np.zeros((), values.dtype), values)


def _words(name: str) -> list[str]:
    return re.split(r"[./]", name)
