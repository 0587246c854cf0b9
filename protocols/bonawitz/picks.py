"""The sparse graph that stands a server which lies: each client picks its own holders.

Of a roster of n clients, C of them corrupt, everybody draws k holders of its secrets from private
randomness, after it has seen the whole roster. It masks with those and with whoever picked it,
signs whom it included (its *mark*), and reveals only for the one set of survivors that more than
(n + C) / 2 of the roster have signed. What that holds is proved in docs/protocols/bonawitz.md; the
numbers here are its two union bounds:

    alpha  with probability 1 - 2**-41 no honest set of at most alpha clients has, for every
           member, t holders among itself and the corrupt ones. What a server opens is such a set;
           one of a single client is t corrupt holders.
    y0     with probability 1 - 2**-41 at most y0 honest names of the one signed set stay out of
           what is opened, and a second part, larger than alpha > y0, cannot be.

So a sum is of at least ``survivors - C - y0`` honest clients, but for 2**-40, however the server
behaves: the draw of the graph is nobody's to trust. The proof needs that the corrupt clients were
chosen before the picks were seen.

Source of the graph: [BBG+20], section 4, picks its holders likewise; marks and the one signed set
are this project's own.

[BBG+20]: https://eprint.iacr.org/2020/704
"""

from dataclasses import dataclass
from functools import lru_cache
from math import exp, inf, lgamma, log, log2
from typing import Final

SECURITY: Final = -41.0  # log2 of the chance of each of the two events above: together 2**-40
FAILURE: Final = -20.0  # log2 of the chance that too few holders of somebody survive
MIN_CLIENTS: Final = 200  # below, a complete graph costs little more and needs no union bound
MAX_CLIENTS: Final = 20_000  # signatures of half the roster, 68 bytes each, reach every client
LEFT_OUT: Final = 20  # y0 is at most a part of n: one of so many


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """How many holders to pick, and what follows.

    Attributes:
      holders: k, that each client picks.
      threshold: t of them rebuild a secret.
      corrupt_holders: c, the most corrupt ones that a client picks.
      alpha: no honest set of so many clients or fewer is ever opened.
      left_out: y0, the most honest survivors that are not in the sum.
    """

    holders: int
    threshold: int
    corrupt_holders: int
    alpha: int
    left_out: int


@lru_cache(maxsize=256)
def plan_picks(clients: int, corrupt: int, dropped: int) -> Picks | None:
    """The fewest holders that keep all bounds above; ``None`` where a complete graph is better.

    Args:
      clients: n, in the roster.
      corrupt: C of them.
      dropped: D, that vanish after the roster; the picks of everybody keep t holders among the
        rest but for 2**-20.
    """
    if not MIN_CLIENTS <= clients <= MAX_CLIENTS or 2 * (clients - dropped) <= clients + corrupt:
        return None
    for holders in range(2, clients - 1):
        if (clients - 1) * (1 - (1 - holders / (clients - 1)) ** 2) >= (clients - 1) / 2:
            return None  # half as many masks as in the complete graph, and a weaker promise
        threshold = _most_alive(clients, dropped, holders)
        worst = _most_corrupt(clients, corrupt, holders)
        if threshold < max(worst + 1, 2):
            continue
        alpha = _alpha(clients, corrupt, holders, threshold)
        if not _stays_out(clients, corrupt, holders, alpha, clients // LEFT_OUT + 1):
            return Picks(
                holders=holders,
                threshold=threshold,
                corrupt_holders=worst,
                alpha=alpha,
                left_out=_left_out(clients, corrupt, holders, alpha),
            )
    return None


def _most_corrupt(clients: int, corrupt: int, holders: int) -> int:
    """c: P[more of the holders are corrupt] < 2**-41 / n."""
    limit = SECURITY - log2(clients)
    low, high = 0, min(holders, corrupt)
    while low < high:
        middle = (low + high) // 2
        if log_tail(clients - 1, corrupt, holders, middle + 1) < limit:
            high = middle
        else:
            low = middle + 1
    return low


def _most_alive(clients: int, dropped: int, holders: int) -> int:
    """The largest t with P[fewer than t holders survive] < 2**-20 / n."""
    limit, gone = FAILURE - log2(clients), dropped
    low, high = 0, holders
    while low < high:
        middle = (low + high + 1) // 2
        if log_tail(clients - 1, gone, holders, holders - middle + 1) < limit:
            low = middle
        else:
            high = middle - 1
    return low


def _alpha(clients: int, corrupt: int, holders: int, threshold: int) -> int:
    """The largest a with sum over a' <= a of C(n-C, a') P[Hyper(n-1, C+a'-1, k) >= t]**a' small."""
    honest, total = clients - corrupt, 0.0
    for size in range(1, honest + 1):
        opened = log_tail(clients - 1, min(corrupt + size - 1, clients - 1), holders, threshold)
        term = _log_choose(honest, size) / log(2) + size * opened
        total += 2.0 ** min(term, 0.0) if term > -1000 else 0.0
        if total >= 2.0**SECURITY:
            return size - 1
    return honest


def _stays_out(clients: int, corrupt: int, holders: int, alpha: int, names: int) -> bool:
    """Whether ``names`` honest survivors may be picked by none of the clients that reveal.

    The logarithm of C(n-C, r) C(n-C-r, y) P[k picks miss y]**r is concave in r, so its largest
    value over r > alpha is found by halving; of all r and y less than n**2 are added up.
    """
    honest, limit = clients - corrupt, SECURITY - 2 * log2(clients)
    missed = log_tail(clients - 1, clients - 1 - names, holders, holders)

    def log_chance(revealing: int) -> float:
        sets = _log_choose(honest, revealing) + _log_choose(honest - revealing, names)
        return sets / log(2) + revealing * missed

    low, high = alpha + 1, honest - names
    if high < low:
        return False
    while low < high:
        middle = (low + high) // 2
        if log_chance(middle) < log_chance(middle + 1):
            low = middle + 1
        else:
            high = middle
    return log_chance(low) > limit


def _left_out(clients: int, corrupt: int, holders: int, alpha: int) -> int:
    """y0: what ``_stays_out`` allows at most; for each r concave in y, so once below, below."""
    low, high = 0, clients // LEFT_OUT + 1
    while low < high:
        middle = (low + high + 1) // 2
        if _stays_out(clients, corrupt, holders, alpha, middle):
            low = middle
        else:
            high = middle - 1
    return low


def log_tail(population: int, marked: int, drawn: int, least: int) -> float:
    """log2 of P[at least ``least`` of those drawn are marked], from its largest term down."""
    if least <= max(0, drawn - (population - marked)):
        return 0.0
    if least > min(marked, drawn):
        return -inf
    whole = _log_choose(population, drawn)
    terms = [
        _log_choose(marked, hit) + _log_choose(population - marked, drawn - hit) - whole
        for hit in range(least, min(marked, drawn) + 1)
    ]
    top = max(terms)
    return min(0.0, (top + log(sum(exp(term - top) for term in terms))) / log(2))


def _log_choose(of: int, chosen: int) -> float:
    if not 0 <= chosen <= of:
        return -inf
    return lgamma(of + 1) - lgamma(chosen + 1) - lgamma(of - chosen + 1)
