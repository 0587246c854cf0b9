"""Errors of ``secagg``, above those of ``dp`` and ``protocols``; docs/errors.md has them all."""

from dp.errors import LedgerError


class SecaggError(Exception):
    """Base of the errors below. Nothing was released when one is raised."""


class InputError(SecaggError, ValueError):
    """An argument or a setting is unusable; the message names it and says what it may be.

    ``dp`` and ``protocols`` stand alone and have a class of this name each. All three are
    ``ValueError``, which catches a bad argument wherever it was found.
    """


class RunError(SecaggError):
    """A run folder is corrupt, belongs to another run, or cannot be written."""


class MissingExtraError(SecaggError, ImportError):
    """A part of secagg was called whose optional dependency is not installed."""


class RefusedError(SecaggError):
    """A node's own policy does not allow what a server proposes. Nothing left the node."""


class NodeError(SecaggError):
    """A node cannot answer: its folder, its state or its program is not as it must be."""


class IdentityError(SecaggError):
    """A key file or a roster cannot be believed, read or written; the message says what to do."""


class PeerError(SecaggError):
    """Another program or rank ended, was silent for too long, or sent what is no answer."""


class WorkerError(SecaggError):
    """A worker failed, or could not be asked. ``words`` are as they were before the call."""


class NotALedger(LedgerError):
    """The file was never a ledger: text, a picture, another program's database."""
