"""A clip from a dry round: how large entries are, array by array, as a histogram of all clients.

A client counts its own entries in public bins, four to each power of two, and only the sum of the
counts is opened. Nothing individual leaves, and nothing hides what the sum says: without noise a
histogram of all clients is a release like a mean of them.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputError
from secagg.rounds.aggregation import CUT, Bonawitz, Plain, run_clients
from secagg.vectors.buffers import is_statistic
from secagg.vectors.layout import Count, Layout, Segment
from secagg.vectors.packing import BLOCK_WORDS
from secagg.vectors.quantize import refuse_non_finite
from secagg.vectors.trees import read_models

QUANTILES: Final = (0.5, 0.9, 0.99, 0.999, 1.0)
ROOM: Final = 2.0  # of a clip, for rounds to come

_LOW, _HIGH = -32, 64  # powers of two: the first bin is below, the last from there on
SMALLEST: Final = 2.0**_LOW
_PER_OCTAVE: Final = 4
_BINS: Final = (_HIGH - _LOW) * _PER_OCTAVE + 2
# The exponent of a float64 and the first two bits of its fraction: four bins an octave.
_SHIFT: Final = 50
_FIRST: Final = (1023 + _LOW) * _PER_OCTAVE - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipReport:
    """How large the entries of all survivors are, by array.

    Attributes:
      clip: by name, for ``aggregate(clip=...)``: twice what all but ``cut`` of an array stay
        below, as other rounds are not like this one; it costs one bit. An array of zeros has the
        largest of the others': it will not stay 0. Running statistics are not here, they have a
        range of their own.
      quantiles: by name, what that share (``QUANTILES``) of all entries stays below, in absolute
        value; up to a quarter above the true one, and never below 2^-32.
      survivors: the clients that were counted.
    """

    clip: Mapping[str, float]
    quantiles: Mapping[str, tuple[float, ...]]
    survivors: tuple[int, ...]

    def __str__(self) -> str:
        head = ("array", *(f"{share:.4g}" for share in QUANTILES), "clip")
        rows = [head] + [
            (name, *(f"{value:.3g}" for value in values), self._clip(name))
            for name, values in self.quantiles.items()
        ]
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(wide[0]), *map(str.rjust, row[1:], wide[1:])]) for row in rows
        )

    def _clip(self, name: str) -> str:
        return f"{self.clip[name]:.3g}" if name in self.clip else "own"


def calibrate_clip(
    updates: Iterable[Any],
    *,
    start: Any = None,
    cut: float = CUT,
    protocol: Bonawitz | Plain = Bonawitz(),
) -> ClipReport:
    """Find a clip for every array of floats by a dry round, all parties in this process.

    >>> found = calibrate_clip([{"w": [0.5, 1.1]}, {"w": [0.25, -3.0]}])
    >>> found.clip
    {'w': 7.0}
    >>> from secagg import aggregate
    >>> aggregate([{"w": [0.5, 1.1]}, {"w": [0.25, -3.0]}], clip=found.clip).clipped
    {'w': 0}

    Args:
      updates, start: as of :func:`aggregate`. Integers are left out.
      cut: the share of an array's entries that may be beyond half its clip.
      protocol: that sums the counts; they are exact, so no CKKS.

    Raises:
      InputError: as of :func:`aggregate`; or an array's entries reach 2^64.
      TooFewSurvivors: as of :func:`aggregate`.
    """
    if not isinstance(protocol, Bonawitz | Plain):
        raise InputError(f"protocol {protocol!r:.80} counts nothing; known: Bonawitz(), Plain()")
    if isinstance(cut, bool) or not isinstance(cut, int | float) or not 0 <= cut < 1:
        raise InputError(f"cut {cut!r:.40} is no share from 0 to below 1")
    models = read_models(updates, start)
    entries = {
        name: form.entries
        for name, form in models.forms.items()
        if not form.integer and form.entries
    }
    if not entries:
        raise InputError("the updates hold no float, so there is nothing to clip")
    segments = tuple(
        Segment(name=name, entries=_BINS, codec=Count(maximum=most))
        for name, most in entries.items()
    )
    layout = Layout(segments=segments, clients=len(models))
    outcome = run_clients(
        protocol,
        layout,
        lambda client: (
            {name: _histogram(models.vector(client, name), name) for name in entries},
            1,
        ),
    )
    counts = outcome.sums(layout)
    edges = {name: _above(counts[name], 1 - cut) for name in entries if not is_statistic(name)}
    if large := [name for name, edge in edges.items() if math.isinf(edge)]:
        raise InputError(f"entries of {large[0]!r} reach 2^{_HIGH}; no clip is so large")
    largest = max((edge for edge in edges.values() if edge > SMALLEST), default=1.0)
    return ClipReport(
        clip={name: ROOM * (edge if edge > SMALLEST else largest) for name, edge in edges.items()},
        quantiles={
            name: tuple(_above(counts[name], share) for share in QUANTILES) for name in entries
        },
        survivors=outcome.survivors,
    )


def _histogram(values: NDArray[Any], name: str) -> NDArray[np.int64]:
    """How many entries are in each bin: 0 below 2^-32, the last from 2^64 on."""
    counts = np.zeros(_BINS, np.int64)
    scratch = np.empty(min(BLOCK_WORDS, len(values)), np.float64)
    finite = np.empty(len(scratch), np.bool_)
    for at in range(0, len(values), BLOCK_WORDS):
        block = values[at : at + BLOCK_WORDS]
        refuse_non_finite(block, at, name, finite)
        size = scratch[: len(block)]
        np.abs(block, out=size, casting="same_kind")
        place = size.view(np.int64)
        np.right_shift(place, _SHIFT, out=place)
        np.subtract(place, _FIRST, out=place)
        np.clip(place, 0, _BINS - 1, out=place)
        counts += np.bincount(place, minlength=_BINS)
    return counts


def _above(counts: NDArray[np.int64], share: float) -> float:
    """The smallest edge below which at least that share of all entries lies."""
    total = int(counts.sum())
    wanted = total - math.floor((1 - share) * total)
    place = int(np.searchsorted(np.cumsum(counts), wanted))
    if place == _BINS - 1:
        return math.inf
    octave, quarter = divmod(place, _PER_OCTAVE)
    return float(2.0 ** (_LOW + octave) * (1 + quarter / _PER_OCTAVE))
