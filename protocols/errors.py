"""Everything that this package raises.

Who is at fault is the type: ``LocalProtocolError`` is our caller's mistake,
``RemoteProtocolError`` a peer's, ``TooFewSurvivors`` nobody's.
"""


class ProtocolError(Exception):
    """A rule of the protocol was broken. Abstract: see those below."""


class LocalProtocolError(ProtocolError):
    """We were asked to do something that the protocol forbids."""


class InputError(LocalProtocolError, ValueError):
    """An argument is unusable, or parameters would not give what the protocol promises."""


class RemoteProtocolError(ProtocolError):
    """A peer sent something that the protocol forbids."""


class DecodeError(RemoteProtocolError):
    """Bytes from a peer are not a message."""


class TooFewSurvivors(ProtocolError):
    """Fewer peers are left than the round needs; it yields nothing."""
