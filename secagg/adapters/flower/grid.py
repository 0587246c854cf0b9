"""The server's side: a grid around Flower's own, whose strategy sees sums."""

import inspect
import logging
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from protocols.errors import ProtocolError
from secagg.adapters.flower.records import (
    PRIVACY,
    RAISED,
    RECORD,
    answer_in,
    arrays_of,
    digest,
    is_a_strangers,
    most_frequent,
    size_of,
    with_request,
)
from secagg.adapters.strategies import check_strategy
from secagg.errors import InputError, NodeError
from secagg.nodes.carry import StageCalls, begin, carry_calls, new_report, noted, run
from secagg.nodes.coordinator import (
    Coordinator,
    NoisySum,
    RunningSum,
    SumSettings,
    WeightedMean,
)
from secagg.nodes.reports import StageReport, SumReport, check_failures
from secagg.rounds.relay import StageRequests
from secagg.stage import Stage

SECURE: Final = ("train", "evaluate")
POLL: Final = (0.02, 1.0)  # seconds between looks for replies: a tenth of the wait, within these
NO_MOD: Final = "(no word of secagg: has its app secure_mod, before all other mods?)"
REFUSED: Final = 6  # Flower's code of a mod whose precondition failed

_log = logging.getLogger("flwr")


class SecureGrid(Grid):
    """A grid whose strategy sees sums.

    Args:
      grid: Flower's own.
      summed: weighted means, by default of ``WeightedMean()``; or sums with noise.
      cohort: who sums with whom, under which protocol.
      deadline: seconds for each stage but training, which has the strategy's own timeout; and for
        enough nodes to connect.
      allow_plaintext: types of messages that pass as they are, unprotected: "evaluate", "query".
      fail_after: trainings without a sum, in a row, after which an error ends the run. By default
        three before the first sum, and later none: there is a model to keep.

    Attributes:
      history: a report of every sum.
      model: what the strategy last sent to be trained; it outlives a run that ended with an error.

    Raises:
      InputError: other types in ``allow_plaintext``, a deadline that nobody can keep, or
        ``fail_after`` below 1.
    """

    def __init__(
        self,
        grid: Grid,
        summed: WeightedMean | NoisySum | None = None,
        cohort: SumSettings | None = None,
        *,
        deadline: float = 60.0,
        allow_plaintext: Sequence[str] = (),
        fail_after: int | None = None,
    ) -> None:
        if strange := set(allow_plaintext) - {"evaluate", "query"}:
            raise InputError(f"allow_plaintext {sorted(strange)} may name evaluate and query alone")
        if not deadline > 0:  # not a number either
            raise InputError(f"deadline is {deadline} s, must be above 0")
        self._grid, self._deadline, self._clear = grid, deadline, frozenset(allow_plaintext)
        if fail_after is not None and not fail_after >= 1:
            raise InputError(f"fail_after is {fail_after}, must be 1 or more")
        self._coordinator = Coordinator(summed or WeightedMean(), cohort or SumSettings())
        self._fail_after, self._told = fail_after, False
        self.model: ArrayRecord | None = None
        self.history: list[SumReport] = []

    def check(self, strategy: object) -> None:
        """Refuse a strategy that means nothing over sums; one whose start calls us is checked.

        Raises:
          InputError: it needs single replies, or weighs by another name. docs/strategies.md.
        """
        check_strategy(strategy, self._coordinator.summed.weighted_by)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """One reply with the mean, or errors that say why there is none.

        Raises:
          InputError: messages that are never summed, or a strategy that one mean does not serve.
          NodeError: one training after the other had no sum, as ``fail_after`` says.
          BudgetExceeded: a node has no budget left; no vector was asked for.
        """
        if not self.history:
            # Flower's strategies, and most of one's own, call us from a method of theirs; nothing
            # else says which they are, and a median of one mean would go unnoticed.
            above = getattr(inspect.currentframe(), "f_back", None)
            if above and isinstance(caller := above.f_locals.get("self"), Strategy):
                self.check(caller)
        sent = list(messages)
        if not sent:
            return []
        kinds = {message.metadata.message_type for message in sent}
        if len(kinds) > 1:
            raise InputError(f"messages are of types {', '.join(sorted(kinds))}, must be of one")
        category = kinds.pop().split(".")[0]
        if category in self._clear:
            return list(self._grid.send_and_receive(sent, timeout=timeout))
        if category == "evaluate" and not self._evaluates:
            return []
        if category not in SECURE:
            raise InputError(
                f"replies to {category} show what single nodes say; pass "
                f"allow_plaintext=[{category!r}] if that is meant"
            )
        trains = category == "train"
        if trains and len(arrays := sent[0].content.array_records) == 1:
            (self.model,) = arrays.values()
        replies = self._sum(sent, timeout, trains=trains)
        if trains:
            try:
                check_failures(self.history, self._fail_after)
            except NodeError as error:
                raise NodeError(f"{error}. SecureGrid.model is the model as it stood") from error
        return replies

    @property
    def _evaluates(self) -> bool:
        """Whether evaluations are summed; if not it is said once, and costs no trained model."""
        try:
            self._coordinator.summed.content("evaluate", 2)
        except InputError as error:
            if not self._told:
                _log.warning("secagg: evaluate is left out: %s", error)
            self._told = True
            return False
        return True

    def _sum(self, sent: list[Message], timeout: float | None, *, trains: bool) -> list[Message]:
        first, content = sent[0], sent[0].content
        if taken := {RECORD, PRIVACY} & content.keys():
            raise InputError(f"records named {', '.join(sorted(taken))} are ours; rename yours")
        model = digest(content)
        if any(other.content is not content and digest(other.content) != model for other in sent):
            raise InputError("messages of one sum must have the same content for every node")
        if timeout is not None and not timeout > 0:
            raise InputError(f"timeout is {timeout} s, must be above 0")
        name, start = arrays_of(content) if trains else ("", {})
        nodes = [message.metadata.dst_node_id for message in sent]
        report = new_report(first.metadata.message_type, nodes, start)
        self.history.append(report)
        errors: list[Message] = []

        def carry_stage(under_way: RunningSum, ask: StageRequests) -> None:
            def send(calls: StageCalls[int]) -> None:
                errors.extend(self._send(calls, first, report.stages[-1]))

            limit = timeout if ask.stage is Stage.MASK else self._deadline
            named = {node: node for node in nodes}
            seconds = math.inf if limit is None else limit
            carry_calls(under_way, ask, named, report, send, seconds, _log)

        try:
            with noted(report, log=None):
                under_way = begin(self._coordinator, report, start, model)
        except ProtocolError as error:
            return _no_sum(report, sent, error, errors)
        try:
            with noted(report, log=None):
                finished, moved = run(under_way, report, start, carry_stage, _log)
        except (ProtocolError, InputError) as error:
            return _no_sum(report, sent, error, errors)
        reply = RecordDict()
        if trains:
            reply[name] = ArrayRecord({key: Array(array) for key, array in moved.items()})
        result, weighted_by = finished.result, self._coordinator.summed.weighted_by
        metrics: dict[str, Any] = {weighted_by: result.weight, **result.metrics}
        reply["metrics"] = MetricRecord(metrics)
        return [Message(reply, reply_to=first), *errors]

    def _send(self, calls: StageCalls[int], like: Message, stage: StageReport) -> list[Message]:
        """Carry one stage, until all have answered or time is up; returns errors that came."""
        begin_at, errors = time.monotonic(), list[Message]()
        content = like.content if calls.masks else RecordDict()
        stage.bytes_down += size_of(content) * len(calls.requests)
        outgoing = [
            _message(request, node, content, like, calls.seconds)
            for node, request in calls.requests.items()
        ]
        sent = self._grid.push_messages(outgoing)
        waiting = {str(name): to for name, to in zip(sent, calls.requests, strict=False) if name}
        del outgoing
        end = time.monotonic() + calls.seconds  # from when all were sent
        while waiting and time.monotonic() < end:
            for reply in self._grid.pull_messages(waiting):
                # Errors that Flower raises carry no node id; this tells which request failed.
                if (node := waiting.pop(reply.metadata.reply_to_message_id, None)) is None:
                    _log.warning("secagg: a reply at %s that nobody was asked for", calls.stage)
                elif reply.has_error():
                    if calls.stage is Stage.ADVERTISE and is_a_strangers(reply.error):
                        reply.error = Error(RAISED, f"{reply.error.reason} {NO_MOD}")
                    errors.append(reply)
                    calls.take(node, reply.error.reason or "an error without a reason")
                elif reply.metadata.src_node_id != node:
                    calls.take(node, "another node's answer")
                else:
                    calls.take(node, answer_in(reply.content))
            if waiting:
                nap = min(max((time.monotonic() - begin_at) / 10, POLL[0]), POLL[1])
                time.sleep(max(0.0, min(nap, end - time.monotonic())))
        return errors

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        for message in sent:
            if message.metadata.message_type.split(".")[0] not in self._clear:
                raise InputError(
                    f"a {message.metadata.message_type} message would be answered in clear; "
                    "use send_and_receive"
                )
        return self._grid.push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def get_node_ids(self) -> Iterable[int]:
        """Waits, up to the deadline, for as many nodes as a sum needs at least."""
        end = time.monotonic() + self._deadline
        while len(nodes := list(self._grid.get_node_ids())) < self._coordinator.fewest:
            if (left := end - time.monotonic()) <= 0:
                _log.warning(
                    "secagg: %d nodes are connected, a sum needs %d "
                    "(start more: in a simulation flwr federation simulation-config "
                    "--num-supernodes; or SumSettings(minimum_survivors=...) and each node's "
                    "minimum_cohort)",
                    *(len(nodes), self._coordinator.fewest),
                )
                break
            time.sleep(min(1.0, left))
        return nodes

    def get_nodes(self) -> Iterable[Any]:
        return self._grid.get_nodes()

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)


def _no_sum(
    report: SumReport, sent: Sequence[Message], error: Exception, errors: Sequence[Message]
) -> list[Message]:
    """The answer to each message that was sent, when there is no sum; why goes to the report."""
    why = f"{error}{most_frequent(errors)}"
    report.failure = f"none, {why}"
    _log.warning("secagg: %s", report)
    refusal = Error(code=REFUSED, reason=f"secagg: no sum, {why}")
    return [Message(refusal, reply_to=message) for message in sent]


def _message(
    request: bytes, node: int, content: RecordDict, like: Message, limit: float
) -> Message:
    """A message of the strategy's own type; with its records at the stage that trains."""
    kind, group = like.metadata.message_type, like.metadata.group_id
    ttl = min(like.metadata.ttl, limit)
    return Message(with_request(content, request), node, kind, ttl=ttl, group_id=group)
