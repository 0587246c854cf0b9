"""Rows of an embedding that few clients touched are in no sum: two sums, the first of counts.

A row of an embedding moves for who used its word. In a plain sum the row of a word that one client
alone used is that client's own, in clear. Here a first sum counts, for each row, the clients that
touched it; the second one holds the rows that enough of them did, and no others.

| who is told | what |
|---|---|
| whoever sees the first sum | how many clients touched each row, of the smallest counts too |
| whoever sees the second sum | the sum of each row that at least so many touched |

A row is touched by who has an entry of it that is not 0, and a weight that is not 0 either. So what
moves every row, such as decay of weights or momentum, has every client touch every row, and then
nothing is withheld: leave it out of the embedding's training. A client that lies in the first sum
can bring a row over the bound that it alone touched, its own, or with others that lie one of theirs
and of one honest client: let the bound be above the number of clients that may lie.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from protocols.wire import digest
from secagg.errors import InputError
from secagg.rounds.aggregation import (
    Aggregate,
    Bonawitz,
    Protocol,
    aggregate_bound,
    read_weights,
    run_clients,
)
from secagg.stage import Stage
from secagg.vectors.layout import Count, Layout, Segment
from secagg.vectors.trees import Models, read_models, vector_of

LEAST: Final = 2  # below it nothing is withheld


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSums:
    """What :func:`aggregate_rows` gives.

    Attributes:
      aggregate: of the second sum, ``sum`` and ``mean`` in the containers of the updates. Rows that
        were withheld are 0, or as ``start`` has them.
      counts: by array, how many clients of the first sum touched each row.
      withheld: by array, how many of the rows that somebody touched are not in the second sum.
    """

    aggregate: Aggregate
    counts: Mapping[str, NDArray[np.int64]]
    withheld: Mapping[str, int]


def aggregate_rows(
    updates: Iterable[Any],
    *,
    rows: str | Iterable[str],
    least: int,
    lost: int = 0,
    start: Any = None,
    weights: Iterable[int] | None = None,
    dropouts: Mapping[int, Stage | str] | None = None,
    later_dropouts: Mapping[int, Stage | str] | None = None,
    protocol: Protocol = Bonawitz(),
    **how: Any,
) -> RowSums:
    """Sum updates, but rows that fewer than ``least`` clients touched; all parties in this process.

    >>> found = aggregate_rows(
    ...     [{"words": [[1.0], [0.0]]}, {"words": [[3.0], [0.0]]}, {"words": [[0.0], [5.0]]}],
    ...     rows="words", least=2, clip=8.0,
    ... )
    >>> found.aggregate.sum["words"].round(2).tolist(), found.withheld
    ([[4.0], [0.0]], {'words': 1})

    The masks of the second sum are bound to the counts, so that clients who were told others do not
    add up.

    Args:
      updates: as of ``secagg.aggregate``; floats alone.
      rows: names of matrices, or patterns of them, of which rows are withheld.
      least: clients that a row in the second sum is of, at least; from 2.
      lost: clients of the first sum that may be missing in the second. Each of them may have
        touched a row, so rows need ``least + lost`` in the first.
      start: the model that every client began with; a row is touched where it differs.
      weights, protocol, how: as of ``secagg.aggregate``. The protocol's minimum of survivors is
        that of the first sum; the second needs all of those but ``lost``.
      dropouts, later_dropouts: of the first sum and of the second, by place in ``updates``.

    Raises:
      InputError: as of ``secagg.aggregate``; no row could stay, or an array is no matrix of floats.
      TooFewSurvivors: a sum has too few; in the second, some client of the first is missing.
    """
    for name, value, low in (("least", least, LEAST), ("lost", lost, 0)):
        if type(value) is not int or value < low:
            raise InputError(f"{name} {value!r:.40} is not an int from {low}")
    models = read_models(updates, start)
    if least + lost > len(models):
        raise InputError(f"least {least} and lost {lost} are more than the {len(models)} clients")
    named = _named(models, rows)
    heavy = None if weights is None else read_weights(weights, len(models))

    def touched(client: int, name: str) -> NDArray[np.uint8]:
        there: NDArray[np.bool_] = np.any(_matrix(models, client, name) != 0, axis=1)
        if heavy is not None and not heavy[client]:
            there[:] = False  # it is of no row's sum, and hides nobody in one
        return there.astype(np.uint8)

    layout = Layout(
        segments=tuple(
            Segment(name=name, entries=models.forms[name].shape[0], codec=Count(maximum=1))
            for name in named
        ),
        clients=len(models),
    )
    first = run_clients(
        protocol,
        layout,
        lambda client: ({name: touched(client, name) for name in named}, 1),
        dropouts,
        public=(b"rows", least.to_bytes(8, "big"), lost.to_bytes(8, "big")),
    )
    counts = first.sums(layout)
    stay = {name: counts[name] >= least + lost for name in named}
    told = [each.astype("<i8").tobytes() for each in counts.values()]
    there = sorted(first.survivors)
    needed = max(2, len(there) - lost, protocol.minimum_survivors or 0)
    second = aggregate_bound(
        [_left(models, client, stay) for client in there],
        (b"rows", digest(layout.to_bytes(), *told), np.array(there, "<i8").tobytes()),
        weights=None if heavy is None else [heavy[client] for client in there],
        dropouts={there.index(c): s for c, s in (later_dropouts or {}).items() if c in there},
        protocol=replace(protocol, minimum_survivors=needed),
        **how,
    )
    return RowSums(
        aggregate=replace(
            second,
            sum=models.rebuild(_whole(second.sum, models, stay)),
            mean=models.rebuild(_whole(second.mean, models, stay, start=models.start)),
            survivors=tuple(there[place] for place in second.survivors),
        ),
        counts=counts,
        withheld={name: int(((counts[name] > 0) & ~stay[name]).sum()) for name in named},
    )


def _named(models: Models, rows: str | Iterable[str]) -> list[str]:
    patterns = [rows] if isinstance(rows, str) else list(rows)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in models.forms):
            raise InputError(f"rows names {pattern!r:.80}, no array of the updates")
    named = [
        name for name in models.forms if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if not named:
        raise InputError("rows is empty: no row would be withheld")
    for name in named:
        form = models.forms[name]
        if form.integer or len(form.shape) < 2 or not form.entries:
            raise InputError(f"{name!r} has shape {form.shape}; rows are of matrices of floats")
    if other := [name for name, form in models.forms.items() if form.integer]:
        raise InputError(f"{other[0]!r} holds integers: leave it out here")
    return named


def _matrix(models: Models, client: int, name: str) -> NDArray[Any]:
    return models.vector(client, name).reshape(models.forms[name].shape[0], -1)


def _left(models: Models, client: int, stay: Mapping[str, NDArray[np.bool_]]) -> dict[str, Any]:
    return {
        name: _matrix(models, client, name)[stay[name]]
        if name in stay
        else models.vector(client, name)
        for name in models.forms
    }


def _whole(
    found: Mapping[str, NDArray[Any]],
    models: Models,
    stay: Mapping[str, NDArray[np.bool_]],
    start: Mapping[str, Any] | None = None,
) -> dict[str, NDArray[Any]]:
    """Flat arrays, with rows that were withheld."""
    values: dict[str, NDArray[Any]] = {}
    for name, form in models.forms.items():
        flat = np.asarray(found[name]).reshape(-1)
        if name in stay:
            rows = np.zeros((form.shape[0], form.entries // form.shape[0]), flat.dtype)
            rows[stay[name]] = flat.reshape(-1, rows.shape[1])
            flat = rows.reshape(-1)
        if start is not None:
            flat = (flat + vector_of(start[name])).astype(form.dtype)
        values[name] = flat
    return values
