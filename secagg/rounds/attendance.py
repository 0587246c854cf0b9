"""Who is there at each stage of a round, and what each cost."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

from protocols.bonawitz import ClientId
from secagg.errors import InputError
from secagg.stage import Stage


@dataclass(slots=True, kw_only=True)
class StageCost:
    """What one stage took.

    Attributes:
      bytes_up: most that one client sent.
      bytes_down: most that one client was sent to make it answer.
      client_seconds: of all clients together, one after the other.
      server_seconds: of the server. Both by the clock on the wall, unless ``timed_by`` another.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    client_seconds: float = 0.0
    server_seconds: float = 0.0


Costs: TypeAlias = dict[Stage, StageCost]


class Attendance:
    """Who is still there at a stage."""

    def __init__(
        self, inputs: Mapping[ClientId, object], dropouts: Mapping[ClientId, Stage] | None
    ) -> None:
        self._dropouts = dropouts or {}
        self._clients = list(inputs)
        if strangers := self._dropouts.keys() - inputs.keys():
            raise InputError(f"dropouts of clients that do not exist: {sorted(strangers)}")

    def __call__(self, stage: Stage) -> list[ClientId]:
        order = list(Stage)
        return [
            client
            for client in self._clients
            if client not in self._dropouts
            or order.index(self._dropouts[client]) > order.index(stage)
        ]


_now: ContextVar[Callable[[], float]] = ContextVar("now", default=time.perf_counter)


@contextmanager
def timed_by(now: Callable[[], float]) -> Iterator[None]:
    """Seconds of the rounds in this block are those of ``now``, such as ``time.process_time``."""
    token = _now.set(now)
    try:
        yield
    finally:
        _now.reset(token)


@contextmanager
def clock(cost: StageCost, who: str) -> Iterator[None]:
    """Add what the block took to ``client_seconds`` or ``server_seconds``."""
    now = _now.get()
    begin = now()
    yield
    setattr(cost, who, getattr(cost, who) + now() - begin)


def send(cost: StageCost, *messages: bytes, answering: bytes = b"") -> None:
    """Count what one client sent, and what it had been sent to make it."""
    cost.bytes_up = max(cost.bytes_up, sum(map(len, messages)))
    cost.bytes_down = max(cost.bytes_down, len(answering))
