"""What a benchmark wrote down: one JSON file, for `secagg bench compare` and for people.

{"schema": 1, "kind": "quick" | "costs" | "paper", "began": UTC, "seconds": by the wall's clock,
 "machine": see secagg.bench.measure.machine, "notes": [what was left out, and why],
 "points": [the fields of secagg.bench.costs.Cost, and peak_memory: bytes or null],
 "measurements": [{"name", "reference": a name of secagg.bench.yardsticks, "bound": true where the
    reference is what the cost is made of, "seconds": median, "ratios": over the reference,
    measured in turn with it, one a sample}],
 "passes": [{"points", "measurements"}], of a ``quick`` that was stopped: what it goes on from}
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

from secagg.bench.costs import Case, Cost, measure
from secagg.bench.measure import (
    CONFIDENCE,
    Interleaved,
    Interval,
    Timed,
    interleaved,
    machine,
    median_interval,
    min_samples,
    peak_memory,
)
from secagg.bench.yardsticks import REFERENCES, X25519
from secagg.errors import InputError
from secagg.files import write_atomically

SCHEMA: Final = 1
KINDS: Final = ("quick", "costs", "paper")
DIGITS: Final = 5  # of a ratio in the file
_EXCHANGES: Final = 200  # of one sample beside a session: some 6 ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A cost over a reference.

    Attributes:
      name: of the cost.
      reference: of what it is divided by.
      bound: the reference is what the cost is made of, so that their ratio hardly moves.
      seconds: median of one call.
      ratios: one a sample: a session, or a pass of ``secagg.bench.quick``.
    """

    name: str
    reference: str
    bound: bool
    seconds: float
    ratios: tuple[float, ...]

    def ratio(self, confidence: float = CONFIDENCE) -> Interval | None:
        """The median of the ratios; None where there are too few to hold it."""
        if len(self.ratios) < min_samples(confidence):
            return None
        return median_interval(self.ratios, confidence)


def measurement(
    name: str, reference: str, seconds: Sequence[float], ratios: Sequence[float], *, bound: bool
) -> Measurement:
    """The measurement that samples give."""
    return Measurement(
        name=name,
        reference=reference,
        bound=bound,
        seconds=median(seconds),
        ratios=tuple(float(f"{each:.{DIGITS}g}") for each in ratios),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A round; ``peak_memory`` in bytes is that of all parties in one process."""

    cost: Cost
    peak_memory: int | None = None

    @property
    def key(self) -> Case:
        """What it was measured at."""
        return Case(
            protocol=self.cost.protocol,
            clients=self.cost.clients,
            entries=self.cost.entries,
            lanes=self.cost.lanes,
            dropout=self.cost.dropout,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """A whole benchmark; ``passes`` are there while more of them are to come.

    Each pass holds one sample of everything.

    Attributes:
      kind: ``"costs"``, ``"paper"`` or ``"quick"``.
      machine: processor, cores, libraries and load.
      began: ISO 8601, UTC.
      seconds: of the whole, on the wall.
      points, measurements: what was found.
      notes: what was left out, and why.
    """

    kind: str
    machine: Mapping[str, Any]
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: float = 0.0
    points: tuple[Point, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = ()
    passes: tuple["Measurements", ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON."""
        parts = [
            {name: each.as_dict()[name] for name in ("points", "measurements")}
            for each in self.passes
        ]
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "began": self.began,
            "seconds": round(self.seconds, 1),
            "machine": dict(self.machine),
            "notes": list(self.notes),
            "points": [asdict(p.cost) | {"peak_memory": p.peak_memory} for p in self.points],
            "measurements": [asdict(each) for each in self.measurements],
        } | ({"passes": parts} if parts else {})

    def write(self, path: Path) -> None:
        """Whole or not at all.

        Raises:
          RunError: the file cannot be written.
        """
        fields = ",\n".join(
            f" {json.dumps(name)}: {_lines(value)}" for name, value in self.as_dict().items()
        )
        write_atomically(path, f"{{\n{fields}\n}}\n".encode())

    @classmethod
    def read(cls, path: Path) -> Self:
        """A file that ``write`` wrote.

        Raises:
          InputError: it is none, or one of another schema.
        """
        try:
            data = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA or data.get("kind") not in KINDS:
            raise InputError(
                f"{path} is no benchmark of schema {SCHEMA}: schema {schema!r:.40}, "
                f"kind {data.get('kind') if isinstance(data, dict) else None!r:.40}"
            )
        try:
            if missing := sorted(machine().keys() - _typed(data["machine"], dict).keys()):
                raise ValueError(f"of the machine it lacks {missing}")
            _finite(data["machine"]["load"][0])
            _typed(data["machine"]["cores"], int)
            passes = (
                cls(
                    kind=data["kind"],
                    machine=data["machine"],
                    points=tuple(map(_point, _typed(each["points"], list))),
                    measurements=tuple(map(_measurement, _typed(each["measurements"], list))),
                )
                for each in _typed(data.get("passes", []), list)
            )
            return cls(
                kind=data["kind"],
                machine=data["machine"],
                began=_typed(data["began"], str),
                seconds=_finite(data["seconds"]),
                points=tuple(map(_point, _typed(data["points"], list))),
                measurements=tuple(map(_measurement, _typed(data["measurements"], list))),
                notes=tuple(_typed(note, str) for note in _typed(data["notes"], list)),
                passes=tuple(passes),
            )
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(f"{path} is no benchmark: {error!r:.200}") from error


def rows(record: Measurements) -> list[dict[str, Any]]:
    """The points as lines of a table, or of ``quick`` its costs over their references."""
    if record.kind == "quick":
        return [
            {name: value for name, value in asdict(each).items() if name != "ratios"}
            | {"samples": len(each.ratios), "ratio": median(each.ratios)}
            | {name: getattr(each.ratio(), name, None) for name in ("low", "high")}
            for each in record.measurements
        ]
    return [asdict(each.cost) | {"peak_memory": each.peak_memory} for each in record.points]


def pooled(record: Measurements) -> Measurements:
    """The record with the samples of all its passes together."""
    costs: dict[Case, list[Point]] = {}
    samples: dict[str, list[Measurement]] = {}
    for one in record.passes:
        for point in one.points:
            costs.setdefault(point.key, []).append(point)
        for each in one.measurements:
            samples.setdefault(each.name, []).append(each)
    return replace(
        record,
        points=tuple(
            replace(points[0], cost=middle([point.cost for point in points]))
            for points in costs.values()
        ),
        measurements=tuple(
            replace(
                same[0],
                seconds=median(each.seconds for each in same),
                ratios=tuple(ratio for each in same for ratio in each.ratios),
            )
            for same in samples.values()
        ),
    )


def sweep(
    cases: Sequence[Case], record: Measurements, *, rounds: int, notes: Sequence[str] = ()
) -> Iterator[tuple[str, Measurements]]:
    """Measure what ``record`` lacks; the name of each case, and what the record then is.

    Sessions are timed in turn with X25519; a small one of each protocol comes before the first.
    What a protocol refuses at a size is noted.
    """
    warm = set[str]()
    began, before = time.perf_counter(), record.seconds
    record = replace(record, notes=tuple(dict.fromkeys([*record.notes, *notes])))
    for case in cases:
        if case not in (point.key for point in record.points):
            try:
                if case.protocol not in warm:
                    measure(replace(case, entries=min(case.entries, 100), clients=4, dropout=0.0))
                    warm.add(case.protocol)
                point, measured = session(case, rounds)
            except ValueError as error:  # protocols.InputError, InputError: not at this size
                record = replace(record, notes=(*record.notes, f"{name_of(case)}: {error}"))
            else:
                record = replace(
                    record,
                    points=(*record.points, point),
                    measurements=(*record.measurements, *measured),
                )
            record = replace(record, seconds=before + time.perf_counter() - began)
        yield name_of(case), record


def session(case: Case, rounds: int) -> tuple[Point, list[Measurement]]:
    """A round, measured ``rounds`` times in turn with X25519, and if more than once its memory."""
    peak = peak_memory(lambda: measure(case)) if rounds > 1 else None
    kept, found = beside_exchanges(case, rounds)
    return Point(cost=middle(kept), peak_memory=peak), list(of_session(case, [found]))


def beside_exchanges(case: Case, rounds: int) -> tuple[list[Cost], Interleaved]:
    """Sessions in turn with X25519: their costs, and the times of both."""
    kept: list[Cost] = []

    def session() -> Timed:
        cost = measure(case)
        kept.append(cost)
        client = cost.client_seconds + cost.decryptor_seconds
        return Timed(seconds={"client": client, "server": cost.server_seconds})

    found = interleaved(
        {"session": session, X25519.name: X25519.make()},
        rounds=rounds,
        repeats={"session": 1, X25519.name: _EXCHANGES},
    )
    return kept, found


def of_session(case: Case, found: Sequence[Interleaved]) -> Iterator[Measurement]:
    """Client and server, a sample a turn; not what took no time, as a plain client."""
    for party in ("client", "server"):
        part = f"session/{party}"
        seconds = [each for one in found for each in one.seconds[part]]
        ratios = [each for one in found for each in one.ratios(part, X25519.name)]
        if min(seconds) > 0:
            name = f"{name_of(case)}: {party}"
            yield measurement(name, X25519.name, seconds, ratios, bound=False)


def name_of(case: Case) -> str:
    """``complete 10 x 1000 -10%``: protocol, clients, entries, dropout."""
    lost = f" -{100 * case.dropout:g}%" if case.dropout else ""
    return f"{case.protocol} {case.clients} x {case.entries}{lost}"


def middle(costs: Sequence[Cost]) -> Cost:
    """Medians of the seconds; bytes are the same in all."""
    names = ("client_seconds", "decryptor_seconds", "server_seconds")
    return replace(
        costs[0], **{name: median(getattr(cost, name) for cost in costs) for name in names}
    )


def start(kind: str) -> Measurements:
    """An empty record of this machine."""
    return Measurements(kind=kind, machine=machine())


def _lines(value: Any) -> str:
    """JSON, a list's items one a line."""
    if not isinstance(value, list) or not value:
        return json.dumps(value, allow_nan=False)
    return "[\n" + ",\n".join(f"  {json.dumps(each, allow_nan=False)}" for each in value) + "\n ]"


def _point(data: Any) -> Point:
    values = dict(_typed(data, dict))
    peak = values.pop("peak_memory")
    kinds = {item.name: item.type for item in fields(Cost)}
    if values.keys() != kinds.keys():
        raise ValueError(f"a point of {sorted(values)}")
    for name, value in values.items():
        if kinds[name] is float:
            values[name] = _finite(value)
        elif type(value) is not kinds[name]:
            raise ValueError(f"{name} {value!r:.40}")
    point = Point(cost=Cost(**values), peak_memory=None if peak is None else _typed(peak, int))
    point.key  # noqa: B018  # which refuses what cannot be run
    return point


def _measurement(data: Any) -> Measurement:
    values = _typed(data, dict)
    if values["reference"] not in REFERENCES:
        raise ValueError(f"reference {values['reference']!r:.40}")
    ratios = tuple(map(_finite, _typed(values["ratios"], list)))
    if not ratios or min(ratios) <= 0:
        raise ValueError("no ratios, or one that is not positive")
    return Measurement(
        name=_typed(values["name"], str),
        reference=values["reference"],
        bound=_typed(values["bound"], bool),
        seconds=_finite(values["seconds"]),
        ratios=ratios,
    )


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    return value


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40} is no finite number")
    return float(value)
