"""Secure sums for Flower's Message API: a grid around the server's, a mod on the client's app.

    FedAvg(...).start(grid=SecureGrid(grid), ...)       # server
    app = ClientApp(mods=[secure_mod()])                # client; our mod before all others

Every ``train`` (and ``evaluate``) of a strategy becomes one sum under ``secagg.rounds.relay``: its
stages travel as messages of the same type, and the strategy is handed one reply with the mean,
the total weight and the mean metrics. A strategy that averages works as it is; one of Flower's
that needs single replies (Krum, medians, trimmed means) is refused by name.

Guarantee: what reaches the server of a node's update, weight and metrics is masked; see
``protocols.bonawitz`` for whom that holds against. A message that asks for a plain reply is
refused on both sides. The model comes with the third stage only: an app without the mod fails
at the first for want of the arrays it trains on, and is not asked again. One that trains on
something else replies in clear; that is not read, but it was sent.

Not protected from: a server that ships another app to nodes that run whatever they are sent
(have nodes verify their apps), what a mean says, and the numbers that are public here: who
takes part, at which stage a node was lost, and how long it took. In Flower's simulation all
parties are one machine's: it measures, it protects nothing.
"""

import hashlib
import inspect
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.accounting.events import Unit
from dp.errors import BudgetExceeded
from protocols.errors import ProtocolError, RemoteProtocolError
from protocols.wire import Reader, opaque
from secagg.adapters.simulation import SIMULATED, simulated_home
from secagg.adapters.strategies import check_strategy
from secagg.errors import InputError, MissingExtraError, NodeError, RefusedError
from secagg.extras import install
from secagg.nodes.coordinator import (
    Coordinator,
    NoisySum,
    RunningSum,
    SumSettings,
    WeightedMean,
)
from secagg.nodes.messages import Answer, Request
from secagg.nodes.node import Node
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import Contribution, Failure, Proposal
from secagg.nodes.reports import StageReport, SumReport, check_failures
from secagg.nodes.work import SPOKEN, contribution, spoken
from secagg.rounds.relay import StageRequests
from secagg.stage import Stage
from secagg.vectors.arrays import model_digest, shapes_of, unflat
from secagg.vectors.buffers import is_counter

__all__ = [
    "NoisySum",
    "SecureGrid",
    "StageReport",
    "SumReport",
    "SumSettings",
    "WeightedMean",
    "secure_mod",
]


def _check_version() -> None:
    wanted = "secagg.adapters.flower works with flwr>=1.41,<2"
    try:
        found = version("flwr")
    except PackageNotFoundError:
        raise MissingExtraError(f"{wanted}: {install('flower')}", name="flwr") from None
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if not (1, 41) <= numbers < (2,):
        raise MissingExtraError(f"{wanted}, and {found} is installed: {install('flower')}")


_check_version()

from flwr.app import (  # noqa: E402  # after the check, whose error says what to do
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp.typing import ClientAppCallable, Mod  # noqa: E402  # likewise
from flwr.serverapp import Grid  # noqa: E402  # likewise
from flwr.serverapp.strategy import Strategy  # noqa: E402  # likewise

RECORD: Final = "secagg"  # name of our record in a message, and in a node's context
FRAMES: Final = "secagg.frames"
PRIVACY: Final = "secagg.privacy"  # what noise on examples needs its app to know
SECURE: Final = ("train", "evaluate")
AHEAD: Final = ("next_keys", "next_shares")  # fields of an answer that are of later sums
POLL: Final = (0.02, 1.0)  # seconds between looks for replies: a tenth of the wait, within these
NO_MOD: Final = "(no word of secagg: has its app secure_mod, before all other mods?)"
RAISED: Final = 2  # Flower's code of an app that raised an exception
REFUSED: Final = 6  # Flower's code of a mod whose precondition failed

_log = logging.getLogger("flwr")
Home: TypeAlias = Path | str | Callable[[Context], Path | str]


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
        name, start = _arrays(content) if trains else ("", {})
        shapes = shapes_of(start)
        nodes = [message.metadata.dst_node_id for message in sent]
        report = SumReport(
            purpose=first.metadata.message_type,
            nodes=tuple(nodes),
            kept=tuple(name for name in start if is_counter(name)),
        )
        self.history.append(report)
        errors: list[Message] = []
        try:
            under_way = self._coordinator.begin(report.purpose, nodes, model=model, shapes=shapes)
        except (BudgetExceeded, InputError) as error:
            report.failure = f"none, {error}"
            raise
        except ProtocolError as error:
            return _no_sum(report, sent, error, errors)
        try:
            if not all(bool(np.isfinite(array).all()) for array in start.values()):
                raise InputError("the model that the strategy sent is NaN or infinite")
            report.sums_of_model = under_way.sums_of_model
            for ask in under_way.asks():
                limit = timeout if ask.stage is Stage.MASK else self._deadline
                errors += self._ask(under_way, ask, first, limit, report)
            finished = under_way.finish()
        except BudgetExceeded as error:
            report.failure = f"none, {error}"
            raise
        except (ProtocolError, InputError) as error:
            return _no_sum(report, sent, error, errors)
        result = finished.result
        report.finish(finished, _log)
        reply = RecordDict()
        if trains:
            moved = unflat(finished.model_update, start)
            under_way.release(model_digest(moved))
            reply[name] = ArrayRecord({key: Array(array) for key, array in moved.items()})
        weighted_by = self._coordinator.summed.weighted_by
        metrics: dict[str, Any] = {weighted_by: result.weight, **result.metrics}
        reply["metrics"] = MetricRecord(metrics)
        return [Message(reply, reply_to=first), *errors]

    def _ask(
        self,
        under_way: RunningSum,
        ask: StageRequests,
        like: Message,
        limit: float | None,
        report: SumReport,
    ) -> list[Message]:
        """Carry one stage, until all have answered or time is up; returns errors that came."""
        nodes = under_way.asked(ask)
        stage = StageReport(stage=ask.stage, asked=len(nodes))
        report.stages.append(stage)
        begin, errors = time.monotonic(), list[Message]()
        content = like.content if ask.stage is Stage.MASK else RecordDict()
        outgoing = [
            _ask_of(under_way.request(ask, node), node, content, like, limit) for node in nodes
        ]
        stage.bytes_down = sum(_size(message.content) for message in outgoing)
        sent = self._grid.push_messages(outgoing)
        waiting = {str(name): node for name, node in zip(sent, nodes, strict=False) if name}
        del outgoing
        end = math.inf if limit is None else time.monotonic() + limit  # from when all were sent
        while waiting and time.monotonic() < end:
            for reply in self._grid.pull_messages(waiting):
                # Errors that Flower raises carry no node id; this tells which request failed.
                if (node := waiting.pop(reply.metadata.reply_to_message_id, None)) is None:
                    _log.warning("secagg: a reply at %s that nobody was asked for", ask.stage)
                    continue
                if reply.has_error():
                    if ask.stage is Stage.ADVERTISE and _is_a_strangers(reply.error):
                        reply.error = Error(RAISED, f"{reply.error.reason} {NO_MOD}")
                    errors.append(reply)
                    _log.warning("secagg: node %d at %s: %s", node, ask.stage, reply.error.reason)
                    continue
                try:
                    if reply.metadata.src_node_id != node:
                        raise RemoteProtocolError("another node's answer")
                    stage.bytes_up += _size(reply.content)
                    under_way.receive(ask, node, _read_answer(reply.content))
                    stage.answered += 1
                except (RemoteProtocolError, InputError) as error:
                    _log.warning("secagg: node %d at %s: %s", node, ask.stage, error)
            stage.seconds = time.monotonic() - begin
            if waiting:
                nap = min(max(stage.seconds / 10, POLL[0]), POLL[1])
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
    why = f"{error}{_most_frequent(errors)}"
    report.failure = f"none, {why}"
    _log.warning("secagg: %s", report)
    refusal = Error(code=REFUSED, reason=f"secagg: no sum, {why}")
    return [Message(refusal, reply_to=message) for message in sent]


def _most_frequent(errors: Sequence[Message]) -> str:
    """Why nodes did not answer, if they said so."""
    if not (said := Counter(error.error.reason for error in errors)):
        return ""
    ((reason, count),) = said.most_common(1)
    return f"; {count} of {len(errors)} errors: {reason}"


def _is_a_strangers(error: Error) -> bool:
    """Whether an app raised what none of ours raises; Flower writes ``<class 'secagg...``."""
    ours = any(f"'{name}." in (error.reason or "")[:40] for name in ("secagg", "dp", "protocols"))
    return error.code == RAISED and not ours


def _ask_of(
    request: Request, node: int, content: RecordDict, like: Message, limit: float | None
) -> Message:
    """A message of the strategy's own type; with its records at the stage that trains."""
    records = RecordDict(dict(content.items()))
    records[RECORD] = ConfigRecord(
        {
            "stage": request.stage.value,
            "proposal": request.proposal,
            "client": request.client,
            "message": request.message,
            "signature": request.signature,
            "next_session": request.next_session,
            "next_roster": request.next_roster,
        }
    )
    ttl = like.metadata.ttl if limit is None else min(like.metadata.ttl, limit)
    kind, group = like.metadata.message_type, like.metadata.group_id
    return Message(records, node, kind, ttl=ttl, group_id=group)


# On a node


def secure_mod(home: Home | None = None, *, policy: NodePolicy | None = None) -> Mod:
    """A mod for ``ClientApp(mods=[...])`` or ``@app.train(mods=[...])``.

    Args:
      home: the node's folder (``secagg node new``), or a function that tells it from the
        context. By default the node's own configuration says it, which no app can change:
        ``flower-supernode --node-config 'secagg-home="/srv/secagg"'``. Flower's simulation has
        no such nodes: it makes folders that go with the machine's temporary files.
      policy: in place of the folder's file; for trials and simulations.

    The app's ``train`` runs once a sum, at the stage that masks. It replies one ``ArrayRecord``
    of the arrays that it was sent, and one ``MetricRecord``. Where noise hides examples its
    arrays hold the sum of clipped gradients instead, and the record ``secagg.privacy`` of its
    message says ``clip`` and ``sampling-rate``.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        content = message.content
        if (asked := content.config_records.get(RECORD)) is None:
            raise RefusedError(
                f"this {message.metadata.message_type} message asks for a plain reply: put the "
                "server's grid in a SecureGrid, or the mod only where sums are meant"
            )
        request = _read_request(asked)
        inner = RecordDict({name: each for name, each in content.items() if name != RECORD})

        def compute(proposal: Proposal) -> Contribution | Failure:
            return _compute(proposal, inner, message, context, call_next)

        kept = context.state.config_records.get(RECORD)
        state = kept.get("state") if kept is not None else None
        try:
            answer = _node(home, context, policy).answer(
                request,
                state if isinstance(state, bytes) else None,
                model=digest(inner),
                compute=compute,
                purpose=message.metadata.message_type,
            )
        except SPOKEN:
            raise
        except Exception as error:
            # Flower sends an exception's text to the server, and this one's may hold data.
            raise NodeError(spoken(error)) from error
        context.state.pop(RECORD, None)
        if answer.state is not None:
            context.state[RECORD] = ConfigRecord({"state": answer.state})
        return Message(_answer(answer), reply_to=message)

    return mod


def _node(home: Home | None, context: Context, policy: NodePolicy | None) -> Node:
    told = context.node_config.get("secagg-home")
    if callable(home):
        return Node(Path(home(context)), policy)
    if home is not None or isinstance(told, str):
        return Node(Path(home or str(told)), policy)
    if (made := simulated_home(context.run_id, context.node_id)) is not None:
        return Node(made, policy or SIMULATED)
    raise NodeError(
        "no folder for this node: start flower-supernode with --node-config "
        "'secagg-home=\"/srv/secagg\"'"
    )


def _compute(
    proposal: Proposal,
    inner: RecordDict,
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
) -> Contribution | Failure:
    """Run the app on what it would have been sent without us."""
    given = RecordDict(dict(inner.items()))
    noise = proposal.noise
    of_examples = noise is not None and noise.mechanism.unit is Unit.EXAMPLE
    if noise is not None and of_examples:
        given[PRIVACY] = ConfigRecord(
            {"clip": noise.mechanism.clip, "sampling-rate": noise.sampling_rate}
        )
    outer = message.content
    message.content = given
    try:
        reply = call_next(message, context)
    finally:
        message.content = outer
    if reply.has_error():
        return Failure.REPLIED
    said, numbers = reply.content, dict[str, float]()
    start, after = (_arrays(inner)[1], {}) if proposal.shapes else ({}, {})
    if proposal.shapes:
        try:
            after = _arrays(said)[1]
        except InputError as error:
            _log.warning("secagg: %s", error)
            return Failure.ARRAYS
    for record in () if noise is not None else said.metric_records.values():
        if numbers.keys() & record.keys():
            return Failure.METRICS
        numbers |= {name: float(n) for name, n in record.items() if not isinstance(n, list)}
    return contribution(proposal, start, after, numbers)


# Records


def digest(content: RecordDict) -> bytes:
    """SHA-256 of all records, whatever order they came in."""
    found = hashlib.sha256()
    for name in sorted(content):
        record = content[name]
        found.update(opaque(f"{type(record).__name__} {name}".encode()))
        for key in sorted(record):
            value = record[key]
            if isinstance(value, Array):
                head = [key, value.dtype, list(value.shape), value.stype, len(value.data)]
                found.update(opaque(json.dumps(head).encode()))
                found.update(value.data)
            else:
                said = json.dumps([key, value], default=lambda raw: {"bytes": raw.hex()})
                found.update(opaque(said.encode()))
    return found.digest()


def _arrays(content: RecordDict) -> tuple[str, dict[str, NDArray[Any]]]:
    """The one ArrayRecord, and its name."""
    if len(records := content.array_records) != 1:
        raise InputError(f"{len(records)} ArrayRecords in a message, one can be averaged")
    ((name, record),) = records.items()
    return name, {key: array.numpy() for key, array in record.items()}


def _size(content: RecordDict) -> int:
    """Bytes of all arrays and byte strings."""
    arrays = sum(
        len(array.data) for record in content.array_records.values() for array in record.values()
    )
    return arrays + sum(
        len(value)
        for record in content.config_records.values()
        for value in record.values()
        if isinstance(value, bytes)
    )


def _answer(answer: Answer) -> RecordDict:
    joined = b"".join(map(opaque, answer.messages))
    messages = Array(dtype="uint8", shape=(len(joined),), stype=RECORD, data=joined)
    beside = ConfigRecord({name: getattr(answer, name) for name in (*AHEAD, "examples")})
    return RecordDict({RECORD: beside, FRAMES: ArrayRecord({"messages": messages})})


def _read_answer(content: RecordDict) -> Answer:
    beside = content.config_records.get(RECORD)
    frames = content.array_records.get(FRAMES)
    if beside is None or frames is None or "messages" not in frames:
        raise InputError("its app has no secure_mod: this is a plain reply, and was not read")
    ahead, examples = {name: beside.get(name) for name in AHEAD}, beside.get("examples")
    if not all(isinstance(value, bytes) for value in ahead.values()) or type(examples) is not int:
        raise RemoteProtocolError("an answer lacks a field")
    reader, messages = Reader(frames["messages"].data), list[bytes]()
    while reader.left:
        messages.append(reader.opaque())
    values: dict[str, Any] = dict(ahead)
    return Answer(messages=tuple(messages), state=None, examples=examples, **values)


def _read_request(record: ConfigRecord) -> Request:
    try:
        stage = Stage(str(record["stage"]))
    except (KeyError, ValueError):
        raise RemoteProtocolError("the server's request names no stage") from None
    names = ("proposal", "message", "signature", "next_session", "next_roster")
    named = {name: record.get(name) for name in names}
    client = record.get("client")
    if not all(isinstance(value, bytes) for value in named.values()) or type(client) is not int:
        raise RemoteProtocolError("the server's request lacks a field")
    values: dict[str, Any] = dict(named)
    return Request(stage=stage, client=client, **values)
