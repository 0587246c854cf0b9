"""One sum from its proposal to its result, over any calls that carry bytes to nodes and back."""

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

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

Name = TypeVar("Name", str, int)
Moved: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCalls(Generic[Name]):
    """What an engine carries for one stage.

    Attributes:
      requests: bytes of a ``Request``, by the name of the node.
      stage: of the sum; the model goes with the requests of ``MASK`` alone.
      seconds: until which replies count.
      take: is handed each reply and its node's name, from any thread: bytes of an ``Answer``, or
        a text that says why there is none.
    """

    requests: Mapping[Name, bytes]
    stage: Stage
    seconds: float
    take: Callable[[Name, object], None]

    @property
    def masks(self) -> bool:
        return self.stage is Stage.MASK


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
        send: Callable[[StageCalls[str]], None],
        *,
        deadline: float,
        train_deadline: float,
    ) -> tuple[FinishedSum, Moved]:
        """What a sum came to, and the model that it moved, if its purpose begins with "train".

        Raises:
          InputError, ProtocolError, PrivacyError: there is no sum, and nothing was released.
        """
        named = {self._numbers.setdefault(name, len(self._numbers)): name for name in nodes}
        report = new_report(purpose, list(named), model)
        self.history.append(report)

        def carry_stage(under_way: RunningSum, ask: StageRequests) -> None:
            limit = train_deadline if ask.stage is Stage.MASK else deadline
            carry_calls(under_way, ask, named, report, send, limit)

        with noted(report):
            under_way = begin(self._coordinator, report, model, model_digest(model))
            return run(under_way, report, model, carry_stage)


def new_report(purpose: str, nodes: Sequence[int], model: Arrays) -> SumReport:
    """The report of a sum that is to begin."""
    kept = tuple(name for name in model if _trains(purpose) and is_counter(name))
    return SumReport(purpose=purpose, nodes=tuple(nodes), kept=kept)


def begin(coordinator: Coordinator, report: SumReport, model: Arrays, digest: bytes) -> RunningSum:
    """The proposal of a sum over ``model``, of which nodes see ``digest``.

    Raises:
      InputError, ProtocolError, PrivacyError: there is no sum, and nothing was released.
    """
    shapes = shapes_of(model) if _trains(report.purpose) else ()
    under_way = coordinator.begin(report.purpose, list(report.nodes), model=digest, shapes=shapes)
    report.sums_of_model = under_way.sums_of_model
    return under_way


def run(
    under_way: RunningSum,
    report: SumReport,
    model: Arrays,
    carry_stage: Callable[[RunningSum, StageRequests], None],
    log: logging.Logger = _log,
) -> tuple[FinishedSum, Moved]:
    """What a sum that has begun came to, and the model that it moved, if it trains.

    Args:
      carry_stage: takes the requests of a stage to nodes, hands answers to the sum, and adds the
        stage's report.

    Raises:
      InputError, ProtocolError, PrivacyError: there is no sum, and nothing was released.
    """
    if not all(bool(np.isfinite(array).all()) for array in model.values()):
        raise InputError("the model that the server sent is NaN or infinite")
    for ask in under_way.asks():
        began = time.monotonic()
        carry_stage(under_way, ask)
        report.stages[-1].seconds = time.monotonic() - began
    finished = under_way.finish()
    moved = unflat(finished.model_update, model) if _trains(report.purpose) else dict(model)
    if _trains(report.purpose):
        under_way.release(model_digest(moved))
    report.finish(finished, log)
    return finished, moved


@contextmanager
def noted(report: SumReport, log: logging.Logger | None = _log) -> Generator[None]:
    """Let an error through, and say in the report, and once in the log, why there is no sum."""
    try:
        yield
    except BaseException as error:
        ours = isinstance(error, SecaggError | ProtocolError | PrivacyError)
        report.failure = f"none, {error if ours else type(error).__name__}"
        if log:
            log.warning("secagg: %s", report)
        raise


def carry_calls(
    under_way: RunningSum,
    ask: StageRequests,
    named: Mapping[int, Name],
    report: SumReport,
    send: Callable[[StageCalls[Name]], None],
    limit: float,
    log: logging.Logger = _log,
) -> None:
    """Carry one stage by calls, each of which brings one node's answer."""
    waiting = {named[node]: node for node in under_way.asked(ask)}
    stage = StageReport(stage=ask.stage, asked=len(waiting))
    report.stages.append(stage)
    lock = threading.Lock()
    most = largest_answer(under_way.proposal, ask.stage)

    def take(name: Name, reply: object) -> None:
        with lock:
            if (node := waiting.pop(name, None)) is None:
                return  # late, or twice
            try:
                answer = _read(reply, most)
                stage.bytes_up += len(reply) if isinstance(reply, bytes) else 0
                under_way.receive(ask, node, answer)
                stage.answered += 1
            except (ProtocolError, InputError, NodeError) as error:
                log.warning("secagg: %s at %s: %s", said(name), ask.stage, one_line(str(error)))

    requests = {name: under_way.request(ask, node).to_bytes() for name, node in waiting.items()}
    stage.bytes_down = sum(map(len, requests.values()))
    send(StageCalls(requests=requests, stage=ask.stage, seconds=limit, take=take))
    with lock:
        for name in waiting:
            log.warning("secagg: %s at %s: no answer in time", said(name), ask.stage)
        waiting.clear()


def said(name: str | int) -> str:
    """A node's name as logs say it."""
    return f"node {name}" if isinstance(name, int) else name


def _trains(purpose: str) -> bool:
    return purpose.startswith("train")


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
