"""What a composition costs, in integers rounded up: the number that admits or refuses.

One step of an event costs ceil(2**50 RDP(a)) units at each order a of ``dp.accounting.accountant``;
a composition costs the sum over its steps. Integers add up alike in any order and on any
machine, and are never below the accountant's own sum. A step costs one unit at least.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.accounting.accountant import Vector, conversion, merge, rdp
from dp.accounting.events import Event
from dp.errors import UnsoundEvent

Counts: TypeAlias = NDArray[np.int64]

_UNIT: Final = 2.0**-50  # of RDP; 10**6 steps are rounded up by less than 1e-9
_ALONE: Final = 2**18  # products, up to which OpenBLAS starts no thread (interface/gemm.c)
_INFINITE: Final = 2**62  # units, an RDP of 4096 nats: beyond it an order refuses


@lru_cache(maxsize=4096)
def _units(event: Event) -> Counts:
    """The price of a one-step event at ``ORDERS``, in units, read-only."""
    price = np.ceil(rdp(event) / _UNIT)
    units = np.where(price < _INFINITE, price, _INFINITE).astype(np.int64)
    units.setflags(write=False)
    return units


def epsilons(counts: Counts, events: Sequence[Event], delta: float) -> Vector:
    """Epsilon at ``delta`` of every row of ``counts``: how many steps of each one-step event.

    Never below ``epsilon_rdp`` of the same row, save for its float rounding, and above by
    2**-50 a step at most. 0 for a row of zeros, ``inf`` where every order is beyond 4096 nats.

    Raises ``UnsoundEvent`` where an event has no sound price by RDP, or a row mixes
    units or adjacencies.
    """
    if not counts.size:
        return np.zeros(len(counts))
    counts, alike = np.unique(counts, axis=0, return_inverse=True)
    refuse_mixtures(counts, events)
    table = np.stack([_units(event) for event in events])
    # Doubles find the orders that may be the best, integers decide: the estimate is off by
    # far less than the slack, and where int64 would overflow by far less than a factor of 2.
    estimate = _product(counts.astype(np.float64), table.astype(np.float64))
    above = conversion(delta)
    near = np.where(estimate < _INFINITE, estimate * _UNIT + above, np.inf)
    least = near.min(axis=1, keepdims=True)
    slack = 1e-9 * (1 + np.abs(least) + np.abs(above).max())
    rows, orders = np.nonzero(np.isfinite(near) & (near <= least + slack))
    result: Vector = np.full(len(counts), np.inf)
    exact = (counts[rows] * table.T[orders]).sum(axis=1)
    np.minimum.at(result, rows, exact * _UNIT + above[orders])
    result = result.clip(min=0.0)
    result[~counts.any(axis=1)] = 0.0
    return result[alike.reshape(-1)]


def _product(left: Vector, right: Vector) -> Vector:
    """``left @ right``, in pieces that a BLAS computes on this thread.

    A batch of 1,000 subjects takes it less than a millisecond; with threads to wake and to wait
    for, the whole reservation took 47 ms of two busy cores in place of 30.
    """
    rows = max(1, _ALONE // right.size)
    pieces = [left[at : at + rows] @ right for at in range(0, len(left), rows)]
    return np.concatenate(pieces)


def epsilon(composition: Mapping[Event, int], delta: float) -> float:
    """``epsilons`` of one composition."""
    steps = merge(composition)
    counts = np.array([list(steps.values())], dtype=np.int64)
    return float(epsilons(counts, list(steps), delta)[0])


@lru_cache(maxsize=4096)  # a round's subjects are mostly charged alike
def raises_price(event: Event, over: Event) -> bool:
    """Whether ``event`` costs more than ``over`` at any order."""
    merge([(event, 1), (over, 1)])
    return any(
        there * event.steps > here * over.steps
        for there, here in zip(
            _units(event.one_step()).tolist(), _units(over.one_step()).tolist(), strict=True
        )
    )


def refuse_mixtures(counts: Counts, events: Sequence[Event]) -> None:
    """Raise ``UnsoundEvent`` where a row of ``counts`` mixes units or adjacencies."""

    def check(chosen: Iterable[Event]) -> None:
        merge((event, 1) for event in chosen)

    try:
        check(events)
    except UnsoundEvent:
        for row in np.unique(counts != 0, axis=0):
            check(event for event, present in zip(events, row, strict=True) if present)
