"""Sums of model updates that nobody may see one by one.

``from secagg import dp, protocols`` gives the two packages below this one.
"""

# isort: off
import secagg._siblings  # noqa: F401  # first: a stranger's dp or protocols is not to be imported
# isort: on

from importlib import import_module
from typing import TYPE_CHECKING

import dp
import protocols
from dp.errors import BudgetExceeded, LedgerError, PrivacyError
from protocols.errors import (
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from secagg.errors import (
    IdentityError,
    InputError,
    MissingExtraError,
    NodeError,
    RefusedError,
    RunError,
    SecaggError,
)
from secagg.stage import Stage

if TYPE_CHECKING:
    from secagg.rounds.aggregation import Aggregate, Bonawitz, Ckks, Plain, aggregate
    from secagg.vectors.layout import Count, Layout, NoisyIntegers, Segment
    from secagg.vectors.quantize import FixedPoint, clip_norm
    from secagg.vectors.vector import flatten, unflatten
else:
    # numpy and OpenSSL take longer to import than all the rest: a name that needs them is looked
    # up where it is first used. Type checkers read the lines above, or any name would pass.
    _HOMES = {
        "secagg.rounds.aggregation": ("Aggregate", "Bonawitz", "Ckks", "Plain", "aggregate"),
        "secagg.vectors.layout": ("Count", "Layout", "NoisyIntegers", "Segment"),
        "secagg.vectors.quantize": ("FixedPoint", "clip_norm"),
        "secagg.vectors.vector": ("flatten", "unflatten"),
    }

    def __getattr__(name):
        for home, names in _HOMES.items():
            if name in names:
                found = globals()[name] = getattr(import_module(home), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)


__version__ = "0.1.0"

__all__ = [
    "Aggregate",
    "Bonawitz",
    "BudgetExceeded",
    "Ckks",
    "Count",
    "FixedPoint",
    "IdentityError",
    "InputError",
    "Layout",
    "LedgerError",
    "LocalProtocolError",
    "MissingExtraError",
    "NodeError",
    "NoisyIntegers",
    "Plain",
    "PrivacyError",
    "ProtocolError",
    "RefusedError",
    "RemoteProtocolError",
    "RunError",
    "SecaggError",
    "Segment",
    "Stage",
    "TooFewSurvivors",
    "__version__",
    "aggregate",
    "clip_norm",
    "dp",
    "flatten",
    "protocols",
    "unflatten",
]


def __dir__() -> list[str]:
    return __all__
