"""Sums of model updates that nobody may see one by one.

``from secagg import dp, protocols`` gives the two packages below this one.
"""

# isort: off
import secagg._siblings  # noqa: F401  # first: a stranger's dp or protocols is not to be imported
# isort: on

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
from secagg.rounds.aggregation import Aggregate, Bonawitz, Ckks, Plain, aggregate
from secagg.rounds.calibration import ClipReport, calibrate_clip
from secagg.stage import Stage
from secagg.training.runs import Run, load_run
from secagg.vectors.layout import Count, Layout, NoisyIntegers, Segment
from secagg.vectors.quantize import FixedPoint, clip_norm
from secagg.vectors.vector import flatten, unflatten

__version__ = "0.1.0"

__all__ = [
    "Aggregate",
    "Bonawitz",
    "BudgetExceeded",
    "Ckks",
    "ClipReport",
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
    "Run",
    "RunError",
    "SecaggError",
    "Segment",
    "Stage",
    "TooFewSurvivors",
    "__version__",
    "aggregate",
    "calibrate_clip",
    "clip_norm",
    "dp",
    "flatten",
    "load_run",
    "protocols",
    "unflatten",
]


def __dir__() -> list[str]:
    return __all__
