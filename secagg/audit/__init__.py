"""The privacy officer's room: every number of a ledger, computed anew.

``report`` reads and recounts, ``values`` is what it found and its JSON, ``nist`` what a record
cannot show, ``evidence`` what attacks measured, ``portfolio`` several ledgers added up, ``page``
is for reading.
reading.
"""

from secagg.audit.evidence import evidence
from secagg.audit.portfolio import portfolio
from secagg.audit.report import (
    SEAL_LABEL,
    audit,
    open_ledger,
    seal_of,
    signer,
    verify,
)
from secagg.audit.values import Audit

__all__ = [
    "SEAL_LABEL",
    "Audit",
    "audit",
    "evidence",
    "open_ledger",
    "portfolio",
    "seal_of",
    "signer",
    "verify",
]
