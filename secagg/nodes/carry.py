"""One sum from its proposal to its result, over any calls that carry bytes to nodes and back."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.errors import PrivacyError
from protocols.errors import ProtocolError, RemoteProtocolError
from secagg.errors import InputError, NodeError, SecaggError
from secagg.nodes.coordinator import Coordinator, FinishedSum, RunningSum
from secagg.nodes.messages import Answer
from secagg.nodes.reports import StageReport, SumReport
from secagg.nodes.tasks import largest_answer
from secagg.rounds.relay import StageRequests
from secagg.stage import Stage
from secagg.vectors.arrays import Arrays, model_digest, shapes_of, unflat
from secagg.vectors.buffers import is_counter

_log: Final = logging.getLogger("secagg")

Take: TypeAlias = Callable[[str, object], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCalls:
    """What an engine carries for one stage.

    Attributes:
      requests: bytes of a ``Request``, by the name of the node.
      masks: whether the model goes with them.
      seconds: until which replies count.
      take: is handed each reply and its node's name, from any thread: bytes of an ``Answer``, or
        a text that says why there is none.
    """

    requests: Mapping[str, bytes]
    masks: bool
    seconds: float
    take: Take


class Carrier:
    """Sums of a server whose nodes have names.

    Attributes:
      history: a report of every sum.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._numbers: dict[str, int] = {}
        self.history: list[SumReport] = []

    def carry(
        self,
        purpose: str,
        model: Arrays,
        nodes: Sequence[str],
        send: Callable[[StageCalls], None],
        *,
        deadline: float,
        train_deadline: float,
    ) -> tuple[FinishedSum, dict[str, NDArray[Any]]]:
        """What a sum came to, and the model that it moved, if its purpose begins with "train".

        Raises:
          InputError, ProtocolError, PrivacyError: there is no sum, and nothing was released.
        """
        trains = purpose.startswith("train")
        named = {self._numbers.setdefault(name, len(self._numbers)): name for name in nodes}
        kept = tuple(name for name in model if trains and is_counter(name))
        report = SumReport(purpose=purpose, nodes=tuple(named), kept=kept)
        self.history.append(report)
        try:
            if not all(bool(np.isfinite(array).all()) for array in model.values()):
                raise InputError("the model is NaN or infinite")
            shapes = shapes_of(model) if trains else ()
            under_way = self._coordinator.begin(
                purpose, list(named), model=model_digest(model), shapes=shapes
            )
            report.sums_of_model = under_way.sums_of_model
            for ask in under_way.asks():
                limit = train_deadline if ask.stage is Stage.MASK else deadline
                _stage(under_way, ask, named, report, send, limit)
            finished = under_way.finish()
            moved = unflat(finished.model_update, model) if trains else dict(model)
            if trains:
                under_way.release(model_digest(moved))
        except BaseException as error:
            ours = isinstance(error, SecaggError | ProtocolError | PrivacyError)
            report.failure = f"none, {error if ours else type(error).__name__}"
            _log.warning("secagg: %s", report)
            raise
        report.finish(finished, _log)
        return finished, moved


def _stage(
    under_way: RunningSum,
    ask: StageRequests,
    named: Mapping[int, str],
    report: SumReport,
    send: Callable[[StageCalls], None],
    limit: float,
) -> None:
    waiting = {named[node]: node for node in under_way.asked(ask)}
    stage = StageReport(stage=ask.stage, asked=len(waiting))
    report.stages.append(stage)
    began, lock = time.monotonic(), threading.Lock()
    most = largest_answer(under_way.proposal, ask.stage)

    def take(name: str, reply: object) -> None:
        with lock:
            if (node := waiting.pop(name, None)) is None:
                return  # late, or twice
            try:
                answer = _read(reply, most)
                stage.bytes_up += len(reply) if isinstance(reply, bytes) else 0
                under_way.receive(ask, node, answer)
                stage.answered += 1
            except (ProtocolError, InputError, NodeError) as error:
                _log.warning("secagg: %s at %s: %s", name, ask.stage, one_line(str(error)))

    requests = {name: under_way.request(ask, node).to_bytes() for name, node in waiting.items()}
    stage.bytes_down = sum(map(len, requests.values()))
    masks = ask.stage is Stage.MASK
    send(StageCalls(requests=requests, masks=masks, seconds=limit, take=take))
    with lock:
        for name in waiting:
            _log.warning("secagg: %s at %s: no answer in time", name, ask.stage)
        waiting.clear()
    stage.seconds = time.monotonic() - began


def _read(reply: object, most: int) -> Answer:
    if isinstance(reply, str):
        raise NodeError(reply)
    if not isinstance(reply, bytes):
        raise RemoteProtocolError("a plain reply, or none; it was not read")
    if len(reply) > most:
        raise RemoteProtocolError(f"an answer of {len(reply)} bytes, {most} are the most")
    return Answer.from_bytes(reply)


def one_line(text: str) -> str:
    """One line to print of what somebody else may have written."""
    return "".join(letter if letter.isprintable() else "?" for letter in text.strip()[:300])
