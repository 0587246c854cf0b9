"""The checks that every number and byte string from a caller goes through, each once."""

from collections.abc import Sized

from protocols.errors import InputError

NO_SUM = ": the sum of one is no sum"


def check_integer(
    name: str, value: int, least: int, most: int = 2**32 - 1, *, why: str = ""
) -> None:
    """Raises ``InputError`` unless ``value`` is an integer in [least, most]; True is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{name} {value!r:.80} is no integer in [{least}, {most}]{why}")


def check_size(name: str, value: Sized, size: int) -> None:
    """Raises ``InputError`` unless ``value`` has ``size`` bytes."""
    if len(value) != size:
        raise InputError(f"{name} has {len(value)} bytes, expected {size}")
