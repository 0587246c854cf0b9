"""The books: what every subject has spent, on disk before a byte leaves.

``Ledger`` is the file, ``books`` its vocabulary, ``records`` the chain on disk, ``rules`` what
composition of charges a budget admits.
"""

from dp.ledger.books import Budget, Keeper, Key, Protection, Reservation, Seal, State, Verified
from dp.ledger.description import Statement
from dp.ledger.ledger import FIXED_PLAN, Ledger
from dp.ledger.records import Book, Charge, Head, Record

__all__ = [
    "FIXED_PLAN",
    "Book",
    "Budget",
    "Charge",
    "Head",
    "Keeper",
    "Key",
    "Ledger",
    "Protection",
    "Record",
    "Reservation",
    "Seal",
    "State",
    "Statement",
    "Verified",
]
