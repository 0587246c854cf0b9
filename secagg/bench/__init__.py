"""What it costs: measured in turn with a yardstick, so that a slow minute slows both.

``measure`` is the method, ``costs`` the sessions, ``contenders`` protocols of one's own,
``records`` the file that ``quick`` and ``costs`` write, ``compare`` judges two, ``paper`` and
``utility`` are studies, ``page`` is for reading.
"""

from secagg.bench.contenders import Contender
from secagg.bench.costs import Case, Cost
from secagg.bench.measure import Interleaved, Interval, interleaved
from secagg.bench.records import Measurement, Measurements

__all__ = [
    "Case",
    "Contender",
    "Cost",
    "Interleaved",
    "Interval",
    "Measurement",
    "Measurements",
    "interleaved",
]
