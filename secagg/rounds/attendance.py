"""The clients that are there at each stage of a round, and what each stage costs."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from protocols.bonawitz import ClientId
from secagg.errors import InputError
from secagg.stage import Stage

Now: TypeAlias = Callable[[], float]


@dataclass(slots=True, kw_only=True)
class StageCost:
    """What one stage took.

    Attributes:
      bytes_up: most that one client sent.
      bytes_down: most that one client was sent to make it answer.
      client_seconds: of all clients together, one after the other.
      server_seconds: of the server, until it had what the next stage needs.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    client_seconds: float = 0.0
    server_seconds: float = 0.0


Costs: TypeAlias = dict[Stage, StageCost]


class DropoutSchedule:
    """The clients that are still there at each stage."""

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


class Meter:
    """Measures what each stage of a round costs.

    Args:
      now: the clock, such as ``time.process_time``.

    Attributes:
      costs: by stage, so far.
    """

    def __init__(self, stages: Iterable[Stage], now: Now = time.perf_counter) -> None:
        self.costs: Costs = {stage: StageCost() for stage in stages}
        self._now, self._paused = now, 0.0

    @contextmanager
    def time(self, stage: Stage, who: Literal["client", "server"]) -> Iterator[None]:
        """Add what the block takes to ``client_seconds`` or ``server_seconds``."""
        begin, cost, name = self._now() - self._paused, self.costs[stage], f"{who}_seconds"
        yield
        setattr(cost, name, getattr(cost, name) + self._now() - self._paused - begin)

    def count(self, stage: Stage, messages: Sequence[bytes], *, answering: bytes = b"") -> None:
        """Record the bytes that one client sent and received in this stage."""
        cost = self.costs[stage]
        cost.bytes_up = max(cost.bytes_up, sum(map(len, messages)))
        cost.bytes_down = max(cost.bytes_down, len(answering))

    def source(self, given: Any) -> Callable[[], Any]:
        """A client's vector when it is asked for; making it is no cost of the protocol."""
        if not callable(given):
            return lambda: given

        def made() -> Any:
            begin = self._now()
            vector = given()
            self._paused += self._now() - begin
            return vector

        return made
