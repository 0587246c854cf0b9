"""Numbers that a caller gives, checked alike everywhere: the message says name, value and range.

Everything here raises ``InputError``. A boolean is no number.
"""

import math

from dp.errors import InputError


def integer(name: str, value: int, least: int = 0, most: int | None = None) -> int:
    """Return ``value`` if it is an ``int`` of at least ``least`` and at most ``most``."""
    if type(value) is not int or value < least or (most is not None and value > most):
        end = "inf)" if most is None else f"{_short(most)}]"
        raise InputError(f"{name} is {value!r:.80}, must be an integer in [{least}, {end}")
    return value


def positive_float(
    name: str,
    value: float,
    *,
    most: float = math.inf,
    below: float = math.inf,
    zero: bool = False,
) -> float:
    """Return ``value`` as a finite double above 0, or 0 too, up to ``most`` or ``below``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} is {value!r:.80}, must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    above = number >= 0 if zero else number > 0
    if not (above and number < below and number <= most):
        start = "[" if zero else "("
        end = f"{most:g}]" if most < below else f"{below:g})"
        raise InputError(f"{name} is {number}, must be in {start}0, {end}")
    return number


def freeze_floats(value: object, *names: str, most: float = math.inf, zero: bool = False) -> None:
    """Make fields of a frozen dataclass doubles, as ``positive_float`` does.

    So 1 and 1.0, which compare equal, have one text too.
    """
    for name in names:
        number = positive_float(name, getattr(value, name), most=most, zero=zero)
        object.__setattr__(value, name, number)


def _short(bound: int) -> str:
    exponent = bound.bit_length() - 1
    return f"2**{exponent}" if exponent >= 20 and bound == 1 << exponent else str(bound)
