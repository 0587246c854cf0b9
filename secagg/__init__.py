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
    RankFailed,
    RemoteProtocolError,
    TooFewSurvivors,
    WrongShares,
)
from secagg.errors import (
    IdentityError,
    InputError,
    MissingExtraError,
    NodeError,
    NotALedger,
    PeerError,
    RefusedError,
    RunError,
    SecaggError,
    WorkerError,
)
from secagg.stage import Stage

if TYPE_CHECKING:
    from secagg.rounds.aggregation import Aggregate, Bonawitz, Ckks, Plain, aggregate
    from secagg.rounds.calibration import ClipReport, calibrate_clip
    from secagg.training.loop import Trainer as Trainer
    from secagg.training.runs import Run, load_run
    from secagg.vectors.arrays import model_digest
    from secagg.vectors.layout import Count, Layout, NoisyIntegers, Segment
    from secagg.vectors.quantize import FixedPoint, clip_norm
    from secagg.vectors.vector import flatten, unflatten
else:
    # numpy and OpenSSL take longer to import than all the rest: a name that needs them is looked
    # up where it is first used. Type checkers read the lines above, or any name would pass.
    _HOMES = {
        "secagg.rounds.aggregation": ("Aggregate", "Bonawitz", "Ckks", "Plain", "aggregate"),
        "secagg.rounds.calibration": ("ClipReport", "calibrate_clip"),
        "secagg.training.loop": ("Trainer",),
        "secagg.training.runs": ("Run", "load_run"),
        "secagg.vectors.arrays": ("model_digest",),
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
    "PeerError",
    "Plain",
    "PrivacyError",
    "ProtocolError",
    "RankFailed",
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
    "WrongShares",
    "__version__",
    "aggregate",
    "calibrate_clip",
    "clip_norm",
    "dp",
    "flatten",
    "load_run",
    "model_digest",
    "protocols",
    "unflatten",
]


def __dir__() -> list[str]:
    # ``Trainer`` needs torch, which ``from secagg import *`` must not.
    return sorted([*__all__, "Trainer"])
