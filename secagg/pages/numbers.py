"""Numbers as people read them."""

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal


def finite(value: object) -> float | None:
    """``value`` if it is a finite number, else ``None``; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole(value: object) -> int | None:
    """The whole part of a finite number, else ``None``."""
    number = finite(value)
    return None if number is None else int(number)


def spaced(name: str) -> str:
    """``add_or_remove`` -> "add or remove"."""
    return name.replace("_", " ")


def counted(number: int | None, noun: str) -> str:
    """``1 round``, ``30 rounds``."""
    if number is None:
        return f"some {noun}s"
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def percent(share: float) -> str:
    """A share of 1, to a tenth of a percent."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def short(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"


def epsilon(value: float) -> str:
    """Two decimals, rounded up: a bound that is rounded down is none."""
    cents = Decimal(repr(value)).quantize(Decimal("0.01"), ROUND_CEILING, Context(prec=400))
    return f"{cents:f}".removesuffix("0")


def at_least(value: float) -> str:
    """Two decimals, rounded down: what was proved from below, and no more."""
    return f"{Decimal(repr(value)).quantize(Decimal('0.01'), ROUND_FLOOR, Context(prec=400)):f}"


def bound(value: float | None) -> str:
    """An epsilon that may be infinite, or not apply."""
    if value is None:
        return "–"
    return epsilon(value) if math.isfinite(value) else "no bound"


def delta(value: float | None) -> str:
    """Three digits, rounded up, as ``1e-4``."""
    if value is None:
        return "unknown"
    context = Context(prec=3, rounding=ROUND_CEILING)
    return f"{context.create_decimal(repr(value)).normalize():e}".removesuffix("e+0")


def size(count: float) -> str:
    """Bytes, in powers of 1000."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def duration(milliseconds: float) -> str:
    """A duration in the unit that fits, from milliseconds to minutes."""
    if milliseconds < 120_000:
        return _scaled(milliseconds, ("ms", "s"))
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return f"{minutes} min {seconds} s"


def elapsed(seconds: float) -> str:
    """A time in the unit that fits, from microseconds to seconds."""
    return _scaled(1e6 * seconds, ("µs", "ms", "s"))


def _scaled(amount: float, units: Sequence[str]) -> str:
    for unit in units[:-1]:
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} {units[-1]}" if amount < 999.5 else f"{amount:.0f} {units[-1]}"
