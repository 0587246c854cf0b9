"""Secret values, held so that they are hard to leak by accident.

Python cannot promise to wipe memory, and neither do we. What this module does
promise: a secret is never printed, logged, pickled, copied or compared in
variable time by accident, and can be moved out of its holder only once.
"""

import hmac
from typing import Generic, NoReturn, TypeVar

from protocols.errors import LocalProtocolError

T = TypeVar("T")


class Secret:
    """Bytes that must not be seen. Read them with :meth:`expose`, and only there."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def expose(self) -> bytes:
        """Return the bytes. Every call is a place for a reviewer to look."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"<Secret: {len(self._value)} bytes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # a hash of a secret would leak which secrets are equal

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied; encode it on purpose")


class Once(Generic[T]):
    """A value that can be taken one time."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value: list[T] = [value]

    def take(self) -> T:
        """Move the value out; the second call raises ``LocalProtocolError``."""
        try:
            return self._value.pop()
        except IndexError:
            raise LocalProtocolError("this stage was already answered") from None

    def __repr__(self) -> str:
        return "<Once: ready>" if self._value else "<Once: taken>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Once is neither pickled nor copied: two copies could both answer")
