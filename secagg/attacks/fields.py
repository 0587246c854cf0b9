"""Writes the ``as_dict`` of this package, reads it again, and believes none of it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from secagg.errors import InputError
from secagg.pages.numbers import finite

_AGREES: Final = 1e-6  # relative; two machines differ in the last digits of an epsilon


def shown(one: object, names: Iterable[str], **made: Any) -> dict[str, Any]:
    """The attributes of these names as JSON; ``made`` are those that JSON shows otherwise."""
    return {name: made[name] if name in made else getattr(one, name) for name in names}


@dataclass(frozen=True, slots=True)
class Fields:
    """An object with fields of these names and no other.

    Raises:
      InputError: it is none, or a field that is asked for is not of its kind or range.
    """

    held: Any
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if type(self.held) is not dict or self.held.keys() != set(self.names):
            raise InputError(f"{self.held!r:.40} must be an object of {', '.join(self.names)}")

    def number(self, name: str, low: float, high: float) -> float:
        value = finite(self.held[name])
        if value is None or not low <= value <= high:
            raise self._wrong(name, f"a number in [{low:g}, {high:g}]")
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        value = self.held[name]
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(name, f"an integer in [{low}, {high}]")
        return value

    def flag(self, name: str) -> bool:
        value = self.held[name]
        if type(value) is not bool:
            raise self._wrong(name, "true or false")
        return value

    def text(self, name: str, known: Iterable[str]) -> str:
        value, choice = self.held[name], tuple(known)
        if type(value) is not str or value not in choice:
            raise self._wrong(name, f"one of {', '.join(choice)}")
        return value

    def items(self, name: str, low: int, high: int) -> list[Any]:
        value = self.held[name]
        if type(value) is not list or not low <= len(value) <= high:
            raise self._wrong(name, f"a list of {low} to {high}")
        return value

    def follows(self, computed: dict[str, Any]) -> None:
        """Refuse an object that is not what its own numbers give."""
        for name, value in computed.items():
            if not _agree(self.held[name], value):
                raise self._wrong(name, "what the rest gives")

    def _wrong(self, name: str, wanted: str) -> InputError:
        return InputError(f"{name} is {self.held[name]!r:.40}, must be {wanted}")


def _agree(stated: Any, computed: Any) -> bool:
    if isinstance(computed, float):
        number = finite(stated)
        return number is not None and math.isclose(number, computed, rel_tol=_AGREES)
    if type(stated) is not type(computed):
        return False
    if isinstance(computed, dict):
        return stated.keys() == computed.keys() and all(
            _agree(stated[name], value) for name, value in computed.items()
        )
    if isinstance(computed, list):
        return len(stated) == len(computed) and all(map(_agree, stated, computed))
    return bool(stated == computed)
