"""Whether a second benchmark is worse than a first, on a machine that is never the same twice.

What is compared is no second but each cost over its reference, measured in turn with it. It is
worse if its interval lies above the first one's, and its median by more than a tolerance.

With M measurements each interval has the confidence 1 - (1 - c) / M, and misses on either side
half as often as it may. A measurement that did not change is called worse only if the first
interval misses below or the second above: with 1 - c at most, over all M together. That is the
noise of the samples. The tolerance stands for what the samples of one process do not show: where
memory came to lie, what else ran. Bytes need neither: one more is worse.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from secagg.bench.measure import CONFIDENCE, Interval, same_machine
from secagg.bench.records import Measurement, Measurements, name_of
from secagg.errors import InputError

TOLERANCE: Final = 0.10
BOUND: Final = 0.05  # of what is made of its reference; see ``Measurement.bound``
_COUNTED: Final = ("bytes_up", "bytes_down", "decryptor_up", "decryptor_down")


class Verdict(StrEnum):
    """The verdict on one measurement."""

    WORSE = "worse"
    BETTER = "better"
    SAME = "same"
    UNJUDGED = "unjudged"  # too few samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One measurement, before and after.

    Attributes:
      before, after: the ratios to ``reference`` and their intervals; None with too few samples.
      factor: after over before, with the least and most that both intervals leave.
    """

    name: str
    reference: str
    tolerance: float
    before: Interval | None
    after: Interval | None
    factor: tuple[float, float, float] | None
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All of them.

    Attributes:
      confidence: of all intervals together, each side of the comparison.
      missing: measured in the first alone; ``new``: in the second alone.
      bytes: case and count, before and after, where they differ.
      busy: that, when either began, more wanted to run than there are cores. Interruptions cost
        some more than others, up to a fifth of a ratio.
    """

    changes: tuple[Change, ...]
    confidence: float
    missing: tuple[str, ...]
    new: tuple[str, ...]
    bytes: tuple[tuple[str, int, int], ...]
    same_machine: bool
    busy: bool

    @property
    def regressions(self) -> list[str]:
        """Names of what became worse."""
        worse = [change.name for change in self.changes if change.verdict is Verdict.WORSE]
        return worse + [name for name, before, after in self.bytes if after > before]

    @property
    def judged(self) -> int:
        """Measurements with samples enough."""
        return sum(change.verdict is not Verdict.UNJUDGED for change in self.changes)

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return asdict(self) | {"schema": 1, "regressions": self.regressions}


def compare(
    before: Measurements,
    after: Measurements,
    *,
    tolerance: float = TOLERANCE,
    bound: float = BOUND,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """See the module.

    Raises:
      InputError: nothing was measured in both, or an argument is out of range.
    """
    if not 0 < confidence < 1 or min(tolerance, bound) < 0:
        raise InputError(
            f"confidence {confidence} must be in (0, 1), {tolerance} and {bound} at least 0"
        )
    old, new = _by_name(before), _by_name(after)
    shared = [name for name in old if name in new]
    if not shared:
        raise InputError("the two benchmarks share no measurement, so nothing can be compared")
    each = 1 - (1 - confidence) / len(shared)
    return Comparison(
        changes=tuple(
            _change(old[name], new[name], bound if new[name].bound else tolerance, each)
            for name in shared
        ),
        confidence=confidence,
        missing=tuple(name for name in old if name not in new),
        new=tuple(name for name in new if name not in old),
        bytes=tuple(_bytes(before, after)),
        same_machine=same_machine(before.machine, after.machine),
        busy=_busy(before) or _busy(after),
    )


def _busy(record: Measurements) -> bool:
    return bool(record.machine["load"][0] > record.machine["cores"])


def _by_name(record: Measurements) -> Mapping[str, Measurement]:
    return {f"{each.name} / {each.reference}": each for each in record.measurements}


def _change(before: Measurement, after: Measurement, tolerance: float, confidence: float) -> Change:
    old, new = before.ratio(confidence), after.ratio(confidence)
    verdict, factor = Verdict.UNJUDGED, None
    if old is not None and new is not None:
        factor = (new.value / old.value, new.low / old.high, new.high / old.low)
        verdict = Verdict.SAME
        if factor[1] > 1 and factor[0] > 1 + tolerance:
            verdict = Verdict.WORSE
        elif factor[2] < 1 and factor[0] < 1 / (1 + tolerance):
            verdict = Verdict.BETTER
    return Change(
        name=before.name,
        reference=before.reference,
        tolerance=tolerance,
        before=old,
        after=new,
        factor=factor,
        verdict=verdict,
    )


def _bytes(before: Measurements, after: Measurements) -> Iterator[tuple[str, int, int]]:
    old = {point.key: point.cost for point in before.points}
    for point in after.points:
        known = old.get(point.key)
        if known is None or known.whole is not point.cost.whole:
            continue
        for name in _COUNTED:
            was, now = getattr(known, name), getattr(point.cost, name)
            if was != now:
                yield f"{name_of(point.key)}: {name}", was, now
