"""``secagg bench paper``: section 7 of [BIK+17], done again.

*Communication* is counted as there: the bits that one client sends and is sent in all, over the
16 m bits of its vector. ``PUBLISHED`` holds the paper's factors, from its abstract; its formula
gives them too, and other sizes. Ours are exact sizes of messages, from ``secagg.planning``.

*Running times* are measured at 16-bit entries, two a word, over the complete graph, as there. The
paper's own seconds are of another machine and language, and are not repeated here: no text of its
tables was at hand to check them against.

[BIK+17]: Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning,
ePrint 2017/281.
"""

from dataclasses import dataclass
from typing import Final

from secagg.bench.costs import Case
from secagg.planning import SumWishes, plan_sum

PUBLISHED: Final = {(2**10, 2**20): 1.73, (2**14, 2**24): 1.98}  # clients, entries
"""Communication over that of 16-bit entries in the clear; abstract of [BIK+17]."""

SIZES: Final = ((2**10, 2**20), (2**14, 2**20), (2**14, 2**24))
BITS: Final = 16  # of an entry
KEY_BITS: Final = 256  # a_K, of a public key
SHARE_BITS: Final = 256  # a_S, of a share

CLIENTS: Final = (100, 500)
ENTRIES: Final = 10**5
DROPOUTS: Final = (0.0, 0.1, 0.3)
LANES: Final = 2  # of 32 bits: sums of 2^16 clients


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """What a client sends and is sent, over 16 bits an entry.

    Attributes:
      published: by the paper; None where it names none that could be checked.
      formula: by the formula of its section 7.
      complete, sparse: by our messages, over either graph; nobody drops out.
    """

    clients: int
    entries: int
    published: float | None
    formula: float
    complete: float
    sparse: float


def expansions() -> list[Expansion]:
    """The expansion at the paper's sizes."""
    return [
        Expansion(
            clients=clients,
            entries=entries,
            published=PUBLISHED.get((clients, entries)),
            formula=formula(clients, entries),
            complete=_ours(clients, entries, complete=True),
            sparse=_ours(clients, entries, complete=False),
        )
        for clients, entries in SIZES
    ]


def formula(clients: int, entries: int) -> float:
    """2 n a_K + (5 n - 4) a_S + m ceil(log2 R) over 16 m, with R = n (2^16 - 1) + 1."""
    sum_bits = (clients * (2**BITS - 1)).bit_length()  # ceil(log2(R)), as R - 1 is above 0
    bits = 2 * clients * KEY_BITS + (5 * clients - 4) * SHARE_BITS + entries * sum_bits
    return bits / (BITS * entries)


def cases(*, quick: bool = False) -> list[Case]:
    """What is timed, the small ones first."""
    sizes = [(20, 1000)] if quick else [(clients, ENTRIES) for clients in CLIENTS]
    return [
        Case(protocol="complete", clients=n, entries=d, lanes=LANES, dropout=dropout)
        for n, d in sizes
        for dropout in DROPOUTS
    ]


def _ours(clients: int, entries: int, *, complete: bool) -> float:
    below = clients + 1 if complete else 0
    wishes = SumWishes(clients=clients, entries=entries, bits=BITS, complete_below=below)
    plan = plan_sum(wishes, measure=False)
    total = plan.bytes_up_per_client + plan.bytes_down_per_client
    return 8 * total / (BITS * entries)
