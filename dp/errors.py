"""Everything that this package raises.

``PrivacyError`` is the root. An argument that no caller may pass is an
``InputError``, which is a ``ValueError`` too.
"""


class PrivacyError(Exception):
    """A statement about privacy cannot be made, or would be false."""


class InputError(PrivacyError, ValueError):
    """An argument is outside its range; the message names it and its value."""


class MissingLibrary(PrivacyError, ImportError):
    """A part of this package was imported whose optional library is not installed."""


class UnsoundEvent(PrivacyError):
    """No accountant here treats this design soundly. It is refused, never approximated."""


class AccountantLimit(PrivacyError):
    """The sound answer would need more memory than is allowed; nothing was computed."""


class CalibrationError(PrivacyError):
    """Nothing within reach keeps the plan inside the budget."""


class FilterFull(PrivacyError):
    """A release would pass what a filter may spend; nothing was spent."""


class UnsoundModel(PrivacyError):
    """A model or a loss for which the gradient of one example cannot be clipped alone."""


class NonFiniteGradient(PrivacyError):
    """Parameters to train from are NaN or infinite, or may become so; no data was touched."""


class LedgerError(PrivacyError):
    """The ledger cannot be read or written; nothing was charged unless the message says so."""


class LedgerMissing(LedgerError):
    """There is no ledger at this path."""


class LedgerBusy(LedgerError):
    """Another process holds the ledger for longer than we wait. Trying again is safe."""


class LedgerCorrupt(LedgerError):
    """The file is damaged, was changed by hand, or is something else than a ledger."""


class LedgerConflict(LedgerError):
    """A call contradicts what the ledger already holds."""


class BudgetExceeded(PrivacyError):
    """A reservation would pass the budget of one subject; no subject was charged.

    Attributes:
      subject: whose budget it is.
      book: against whom, "server" or "release".
      currency: of the three amounts: "epsilon" under a fixed plan; under a filter its own,
        in which adaptive releases add up, "rho", "mu^2" or "RDP at order A".
      spent: before this reservation, open reservations included.
      would_be: with it.
      budget: what may not be passed; under a filter its capacity.
    """

    def __init__(
        self,
        *,
        subject: str,
        book: str,
        spent: float,
        would_be: float,
        budget: float,
        currency: str = "epsilon",
    ) -> None:
        super().__init__(
            f"{subject!r} would reach {currency} {would_be:.4g} in the {book} book, its budget is "
            f"{budget:.4g} and {spent:.4g} is spent; nobody was charged"
        )
        self.subject = subject
        self.book = book
        self.currency = currency
        self.spent = spent
        self.would_be = would_be
        self.budget = budget
