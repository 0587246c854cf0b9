"""Protocols that sum vectors nobody may see one by one.

Pure state machines over integers and bytes: no clock, socket, thread, log or
float. Whatever can wait, fail or draw randomness is handed in by the caller.
"""

from protocols.errors import (
    DecodeError,
    InputError,
    LocalProtocolError,
    ProtocolError,
    RankFailed,
    RemoteProtocolError,
    TooFewSurvivors,
    WrongShares,
)

__all__ = [
    "DecodeError",
    "InputError",
    "LocalProtocolError",
    "ProtocolError",
    "RankFailed",
    "RemoteProtocolError",
    "TooFewSurvivors",
    "WrongShares",
]
