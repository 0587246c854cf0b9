"""What an operator sees: numbers for OpenMetrics, and one line of log for each thing that happens.

Nothing here is told a token, a body or a model. What a peer wrote comes shortened and escaped.
"""

import json
import logging
import threading
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

LOG: Final = logging.getLogger("secagg.http")
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_SHOWN: Final = 300  # characters of what a peer says
_HELP: Final = {
    "secagg_sums": "Sums, by purpose and outcome.",
    "secagg_answers": "Answers of nodes, by stage and outcome.",
    "secagg_refused_requests": "Requests that were refused, by HTTP status.",
    "secagg_bytes": "Bytes of sums, by direction.",
    "secagg_seconds": "Seconds that stages took, by stage.",
}


class Watch:
    """Counters since the start, for threads; and the log."""

    def __init__(self) -> None:
        self._lock, self._counts = threading.Lock(), Counter[tuple[str, str]]()

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        """Add to a counter. Labels are words of ours, never a peer's."""
        said = ",".join(f'{key}="{value}"' for key, value in labels.items())
        with self._lock:
            self._counts[name, said] += by  # type: ignore[assignment]  # a Counter adds floats

    def text(self, gauges: Mapping[str, float]) -> str:
        """All of it in the format of OpenMetrics 1.0."""
        with self._lock:
            counts = dict(self._counts)
        lines = []
        for name, told in _HELP.items():
            lines += [f"# TYPE {name} counter", f"# HELP {name} {told}"]
            found = sorted((said, n) for (which, said), n in counts.items() if which == name)
            lines += [f"{name}_total{{{said}}} {n:.12g}" for said, n in found]
        for name, value in gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name} {value:.12g}"]
        return "\n".join([*lines, "# EOF", ""])


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """One line: what happened, and to whom."""
    said = {name: _short(value) for name, value in fields.items()}
    shown = " ".join(f"{name}={json.dumps(value)}" for name, value in said.items())
    LOG.log(level, "%s: %s", event, shown, extra={"event": event, "fields": said})


def _short(value: object) -> object:
    return value if isinstance(value, int | float | dict) else str(value)[:_SHOWN]


class JsonLines(logging.Formatter):
    """A line of JSON for each record; an exception's type alone, for its text may hold data."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", None) or record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            said["error"] = record.exc_info[0].__name__
        return json.dumps(said)
