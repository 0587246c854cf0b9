"""The books: what every subject has spent, on disk before a byte leaves.

``Ledger`` is the file, ``books`` its vocabulary, ``records`` the chain on disk, ``rules`` what
composition of charges a budget admits. ``accountant`` puts a ledger under an Opacus loop.
"""

from dp.ledger.accountant import LedgerAccountant
from dp.ledger.books import (
    Budget,
    HeadSigner,
    Key,
    LedgerOwner,
    Protection,
    Reservation,
    State,
    Verified,
)
from dp.ledger.description import SystemDescription
from dp.ledger.ledger import FIXED_PLAN, Ledger
from dp.ledger.records import Book, Charge, Entry, Head

__all__ = [
    "FIXED_PLAN",
    "Book",
    "Budget",
    "Charge",
    "Entry",
    "Head",
    "HeadSigner",
    "Key",
    "Ledger",
    "LedgerAccountant",
    "LedgerOwner",
    "Protection",
    "Reservation",
    "State",
    "SystemDescription",
    "Verified",
]
