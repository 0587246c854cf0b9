"""Everything that this package raises.

Who is at fault is the type: ``LocalProtocolError`` is our caller's mistake,
``RemoteProtocolError`` a peer's, ``TooFewSurvivors`` nobody's.
"""

from collections.abc import Iterable, Mapping


class ProtocolError(Exception):
    """A rule of the protocol was broken. Abstract: see those below."""


class LocalProtocolError(ProtocolError):
    """We were asked to do something that the protocol forbids."""


class InputError(LocalProtocolError, ValueError):
    """An argument is unusable, or parameters would not give what the protocol promises."""


class RemoteProtocolError(ProtocolError):
    """A peer sent something that the protocol forbids."""


class WrongShares(RemoteProtocolError):
    """More shares of a secret are wrong than the others correct; nothing was released.

    Who dealt them sealed wrong ones, or so many of their holders lied that these could have
    stopped the round anyway. Leave out ``dealers`` when it is tried again: else a single one of
    them ends every round.

    Attributes:
      dealers: whose secrets they are of.
    """

    def __init__(self, dealers: Iterable[int]) -> None:
        self.dealers = tuple(sorted(dealers))
        super().__init__(
            f"too many shares of {len(self.dealers)} clients are wrong, of client "
            f"{self.dealers[0]} first: it sealed wrong ones, or many of their holders lied; "
            "nothing was released"
        )


class DecodeError(RemoteProtocolError):
    """Bytes from a peer are not a message."""


class TooFewSurvivors(ProtocolError):
    """Fewer peers are left than the round needs; it yields nothing."""


class RankFailed(ProtocolError):
    """A rank could not take part in a sum of all; every rank raises it, and nothing was released.

    Attributes:
      reasons: how many ranks, by reason: ``NOT_FINITE``, ``OUT_OF_RANGE``, ``FAILED``. Which ones
        nobody but they themselves knows.
    """

    def __init__(self, reasons: Mapping[str, int]) -> None:
        self.reasons = {reason: count for reason, count in reasons.items() if count}
        told = ", ".join(f"{count} {_REASONS[reason]}" for reason, count in self.reasons.items())
        super().__init__(f"ranks that could not take part: {told}; nothing was released")


_REASONS = {
    "NOT_FINITE": "with an entry that is NaN or infinite",
    "OUT_OF_RANGE": "with an entry beyond the agreed range",
    "FAILED": "that failed",
}
