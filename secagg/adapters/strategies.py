"""Flower's strategies, and which of them mean something where one reply comes, the mean.

The table is in docs/strategies.md. A class of somebody's own is judged by those that it is made
of; one made of none of them is taken to average.
"""

from typing import Final

from secagg.errors import InputError

_FROM_ONE: Final = "it needs each node's reply, and one mean comes"
_TREES: Final = "trees are no floats that could be averaged; there is nothing in their place"
_NOISE: Final = (
    "its clip and noise are for single replies, and of one mean the noise would be too small by "
    "the number of nodes; take SecureGrid(grid, NoisySum(...)) around a strategy that averages"
)
_ROBUST: Final = (
    f"{_FROM_ONE}, so it would be FedAvg without a word; take FedAvg, whose clip bounds what one "
    "node can do"
)

REFUSED_STRATEGIES: Final = {
    "FedMedian": _ROBUST,
    "FedTrimmedAvg": _ROBUST,
    "Krum": _ROBUST,
    "MultiKrum": _ROBUST,
    "Bulyan": _ROBUST,
    "QFedAvg": f"{_FROM_ONE}, so its weights by loss are none; take FedAvg",
    "FedXgbBagging": _TREES,
    "FedXgbCyclic": _TREES,
    "DifferentialPrivacyServerSideFixedClipping": _NOISE,
    "DifferentialPrivacyServerSideAdaptiveClipping": _NOISE,
    "DifferentialPrivacyClientSideFixedClipping": _NOISE,
    "DifferentialPrivacyClientSideAdaptiveClipping": _NOISE,
}
"""Names of Flower's classes, and why their sums would be wrong or nothing."""


def check_strategy(strategy: object, weighted_by: str) -> None:
    """Refuse a strategy that one mean reply would fail or, worse, would not.

    Raises:
      InputError: it is one of ``REFUSED_STRATEGIES``, or weighs by another name.
    """
    for kind in type(strategy).__mro__:
        if (why := REFUSED_STRATEGIES.get(kind.__name__)) and kind.__module__.startswith("flwr."):
            raise InputError(f"{kind.__name__} cannot work on sums: {why}")
    name = getattr(strategy, "weighted_by_key", weighted_by)
    if name != weighted_by:
        raise InputError(
            f"the strategy weighs by {name!r} and the sums by {weighted_by!r}; say "
            f"weighted_by={name!r} to the WeightedMean or NoisySum too"
        )
