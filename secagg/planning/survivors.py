"""How many clients are left at the end of a round, where each drops out independently."""

import math
from collections.abc import Iterator
from typing import Final

LOST_RUNS: Final = 0.05  # of all runs lose a round, at most, by the default minimum of survivors


def likely_survivors(clients: int, dropout: float, *, rounds: int, minimum: int) -> int:
    """The largest minimum of survivors at which few runs lose a round; no less than ``minimum``.

    A higher minimum makes lost rounds likelier; a lower one makes every client add more
    noise.
    """
    for alive, fewer in enumerate(_fewer(clients, dropout)):
        if rounds * fewer > LOST_RUNS:
            break
        minimum = max(minimum, alive)
    return minimum


def p_round_lost(clients: int, dropout: float, minimum: int) -> float:
    """P[fewer than ``minimum`` survive]."""
    return next(p for alive, p in enumerate(_fewer(clients, dropout)) if alive == minimum)


def _fewer(clients: int, dropout: float) -> Iterator[float]:
    """P[fewer than k survive] for k = 0 .. clients, summed from the small terms up."""
    total = 0.0
    for alive in range(clients + 1):
        yield min(total, 1.0)
        total += _mass(clients, alive, dropout)


def _mass(clients: int, alive: int, dropout: float) -> float:
    gone = clients - alive
    if dropout in (0.0, 1.0):
        return float((gone if dropout == 0 else alive) == 0)
    ways = math.lgamma(clients + 1) - math.lgamma(alive + 1) - math.lgamma(gone + 1)
    return math.exp(ways + alive * math.log1p(-dropout) + gone * math.log(dropout))
