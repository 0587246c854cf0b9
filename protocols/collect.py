"""What the stages of a server have in common: one message from each party, until closed."""

import hashlib
from collections.abc import Container
from typing import ClassVar, Generic, Protocol, TypeVar

from protocols.burn import Burn
from protocols.errors import LocalProtocolError, RemoteProtocolError, TooFewSurvivors
from protocols.wire import ClientId, Header


class Agreed(Protocol):
    """An agreement about a round, of either protocol."""

    @property
    def header(self) -> Header: ...


A = TypeVar("A", bound=Agreed)


class Collect(Generic[A]):
    """One message from each party, until closed."""

    PARTY: ClassVar[str] = "client"
    NOTHING: ClassVar[str] = "nothing was released"

    def __init__(self, agreement: A) -> None:
        self.agreement = agreement
        self._closed = False

    def _open(self) -> None:
        if self._closed:
            raise LocalProtocolError(f"{type(self).__name__} is closed; late messages are dropped")

    def _close(self, left: int, needed: int, what: str = "clients") -> None:
        self._open()
        self._closed = True
        self._enough(left, needed, what)

    def _enough(self, left: int, needed: int, what: str = "clients") -> None:
        if left < needed:
            raise TooFewSurvivors(
                f"{left} {what} left after {type(self).__name__}, {needed} needed; {self.NOTHING}"
            )

    def _admit(
        self, party: ClientId, expected: Container[ClientId], seen: Container[ClientId]
    ) -> None:
        if party not in expected:
            raise RemoteProtocolError(f"{self.PARTY} {party} is not expected at this stage")
        if party in seen:
            raise RemoteProtocolError(f"{self.PARTY} {party} has already answered")

    def _write_down(self, message: bytes, burn: Burn | None, stage: int, what: str) -> None:
        """Take the server's ``stage`` of the round for ``message``, before it is sent."""
        place = self.agreement.header.to_bytes()
        if burn is not None and not burn(place, stage, hashlib.sha256(message).digest()):
            raise LocalProtocolError(f"another {what} in this round; start a new session")
