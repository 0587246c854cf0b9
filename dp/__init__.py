"""Differential privacy: what a release costs, how much noise it needs, and the books on disk.

Nothing here talks, waits or tells the time. ``dp.accounting`` says what was released, what it costs
and how much noise a budget asks for, and ``dp.ledger`` keeps the account of every subject.
``dp.noise`` hides a sum in shares of noise, and ``dp.sgd`` is the one place that needs torch and
Opacus. ``dp.empirical`` bounds an epsilon from the other side, by what attacks got right.
"""

from dp.errors import (
    AccountantLimit,
    BudgetExceeded,
    CalibrationError,
    FilterFull,
    InputError,
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

__all__ = [
    "AccountantLimit",
    "BudgetExceeded",
    "CalibrationError",
    "FilterFull",
    "InputError",
    "LedgerBusy",
    "LedgerConflict",
    "LedgerCorrupt",
    "LedgerError",
    "LedgerMissing",
    "MissingLibrary",
    "NonFiniteGradient",
    "PrivacyError",
    "UnsoundEvent",
    "UnsoundModel",
]
