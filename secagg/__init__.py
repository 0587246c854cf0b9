"""Sums of model updates that nobody may see one by one.

``from secagg import dp, protocols`` gives the two packages below this one.
"""

# isort: off
import secagg._siblings  # noqa: F401  # first: a stranger's dp or protocols is not to be imported
# isort: on

import dp
import protocols
from dp.errors import (
    AccountantLimit,
    BudgetExceeded,
    CalibrationError,
    FilterFull,
    LedgerBusy,
    LedgerConflict,
    LedgerCorrupt,
    LedgerError,
    LedgerMissing,
    MissingLibrary,
    NonFiniteGradient,
    PrivacyError,
    UnsoundEvent,
    UnsoundModel,
)
from protocols.errors import (
    DecodeError,
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
    NotALedger,
    RefusedError,
    RunError,
    SecaggError,
    WorkerError,
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
    "AccountantLimit",
    "Aggregate",
    "Bonawitz",
    "BudgetExceeded",
    "CalibrationError",
    "Ckks",
    "ClipReport",
    "Count",
    "DecodeError",
    "FilterFull",
    "FixedPoint",
    "IdentityError",
    "InputError",
    "Layout",
    "LedgerBusy",
    "LedgerConflict",
    "LedgerCorrupt",
    "LedgerError",
    "LedgerMissing",
    "LocalProtocolError",
    "MissingExtraError",
    "MissingLibrary",
    "NodeError",
    "NoisyIntegers",
    "NonFiniteGradient",
    "NotALedger",
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
    "UnsoundEvent",
    "UnsoundModel",
    "WorkerError",
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
