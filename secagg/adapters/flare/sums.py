"""The server of a FLARE job: sums by Collab calls, or in place of what a workflow broadcasts."""

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.collab import collab
from nvflare.collab.api.exceptions import CollabCallError

from dp.errors import PrivacyError
from protocols.errors import ProtocolError, TooFewSurvivors
from secagg.adapters.flare.site import RECORD, STEPS, arrays_in, like
from secagg.errors import InputError, SecaggError
from secagg.extras import named
from secagg.nodes.carry import Carrier, StageCalls
from secagg.nodes.coordinator import Coordinator, NoisySum, SumSettings, WeightedMean

TRIES: Final = 3  # of a workflow's sum: a new policy allows four over one model
LOOK: Final = 0.5  # seconds between two looks whether the job was aborted
FOREVER: Final = 3.2e7  # seconds: a year, of a task that has no timeout
OTHERS: Final = ("broadcast_forever", "send", "send_and_wait", "relay", "relay_and_wait")


class SecureSums:
    """Sums of one job, one after the other.

    Args:
      summed: weighted means, by default of ``WeightedMean()``; or sums with noise. A site's weight
        is its number of steps, whatever ``weighted_by`` calls it.
      cohort: who sums with whom, under which protocol.
      deadline, train_deadline: seconds for a stage, and for the one that trains.

    Attributes:
      history: a report of every sum.

    Raises:
      InputError: a deadline that nobody can keep.
    """

    def __init__(
        self,
        summed: WeightedMean | NoisySum | None = None,
        cohort: SumSettings | None = None,
        *,
        deadline: float = 60.0,
        train_deadline: float = 3600.0,
    ) -> None:
        for name, value in (("deadline", deadline), ("train_deadline", train_deadline)):
            if not value > 0:  # not a number either
                raise InputError(f"{name} is {value} s, must be above 0")
        self._carrier = Carrier(Coordinator(summed or WeightedMean(), cohort or SumSettings()))
        self._deadline, self._train_deadline = deadline, train_deadline
        self.history = self._carrier.history

    def run(self, purpose: str, model: FLModel, sites: Iterable[Any] | None = None) -> FLModel:
        """One sum by Collab calls: the model that it came to, and the mean metrics.

        Args:
          purpose: "train", or "evaluate" for metrics alone: the method of ``SecureSite``.
          sites: proxies of those who are asked; by default of all.

        Raises:
          InputError, ProtocolError, PrivacyError: there is no sum, and nothing was released.
        """
        asked = {site.name: site for site in (collab.clients if sites is None else sites)}

        def send(calls: StageCalls[str]) -> None:
            params = model.params if calls.masks else None

            def call(name: str) -> None:
                site = asked[name](timeout=calls.seconds)
                try:
                    reply = site.secagg_answer(request=calls.requests[name], params=params)
                except CollabCallError as error:
                    reply = str(error.cause)
                calls.take(name, reply)

            with ThreadPoolExecutor(max(1, len(calls.requests))) as pool:
                list(pool.map(call, calls.requests))  # an abort of the job is raised here

        return self.carry(purpose, model, list(asked), send)

    def carry(
        self,
        purpose: str,
        model: FLModel,
        sites: Sequence[str],
        send: Callable[[StageCalls[str]], None],
        *,
        seconds: float | None = None,
        kind: ParamsType = ParamsType.FULL,
    ) -> FLModel:
        """The same over any calls. ``seconds`` are those of the stage that trains."""
        start = arrays_in(model.params)
        finished, moved = self._carrier.carry(
            purpose,
            start,
            sites,
            send,
            deadline=self._deadline,
            train_deadline=seconds or self._train_deadline,
        )
        trains, result = purpose.startswith("train"), finished.result
        if kind == ParamsType.DIFF:
            moved = {name: array - start[name] for name, array in moved.items()}
        return FLModel(
            params=like(moved, model.params) if trains else None,
            params_type=kind if trains else None,
            metrics=dict(result.metrics) or (None if trains else {}),
            current_round=model.current_round,
            meta={STEPS: result.weight},
        )


class SumsOfJob(FLComponent):  # type: ignore[misc]  # nvflare has no types
    """Makes sums of what the workflows of a job broadcast; ``secagg_recipe`` adds it to the server.

    Args:
      settings: fields of a ``WeightedMean`` and of a ``SumSettings``, by "summed" and "cohort"; or
        "module:function", which returns both objects and is called here.
      kind: "FULL" or "DIFF": what a workflow is handed.
    """

    def __init__(
        self,
        settings: Mapping[str, Mapping[str, Any]] | str,
        kind: str = "FULL",
        deadline: float = 60.0,
        allow_plaintext: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._settings, self._kind, self._deadline = settings, kind, deadline
        self._allow_plaintext = list(allow_plaintext)
        self._sums: SecureSums | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type != EventType.START_WORKFLOW:
            return
        try:
            self._sums = self._sums or self._made()
            workflow = fl_ctx.get_engine().get_component(fl_ctx.get_prop(FLContextKey.WORKFLOW))
            _Gate(workflow, self._sums, ParamsType(self._kind), self._allow_plaintext)
        except Exception as error:  # FLARE would log it, and go on without us
            self.system_panic(f"secagg: {type(error).__name__}: {error}", fl_ctx)
            raise

    def _made(self) -> SecureSums:
        if isinstance(said := self._settings, str):
            summed, cohort = named("settings", said)()
        else:
            summed, cohort = WeightedMean(**said["summed"]), SumSettings(**said["cohort"])
        return SecureSums(summed, cohort, deadline=self._deadline)


class _Gate:
    """Stands in for the methods by which a controller sends tasks to sites."""

    def __init__(
        self, controller: Controller, sums: SecureSums, kind: ParamsType, clear: Sequence[str]
    ) -> None:
        self._controller, self._sums, self._kind, self._clear = controller, sums, kind, clear
        self._broadcast, self._wait = controller.broadcast, controller.broadcast_and_wait
        self._running, self._lock = 0, threading.Lock()
        self._standing = controller.get_num_standing_tasks
        controller.broadcast, controller.broadcast_and_wait = (
            self.broadcast,
            self.broadcast_and_wait,
        )
        controller.get_num_standing_tasks = lambda: self._standing() + self._running
        for name in OTHERS:
            setattr(controller, name, partial(self._others, name, getattr(controller, name)))

    def _others(
        self, name: str, plain: Callable[..., Any], task: Task, *rest: Any, **how: Any
    ) -> Any:
        if task.name not in self._clear:
            raise InputError(
                f"{name} of task {task.name!r} would be answered in clear by one site; pass "
                f"allow_plaintext=[{task.name!r}] to secagg_recipe if that is meant"
            )
        return plain(task, *rest, **how)

    def broadcast(
        self, task: Task, fl_ctx: FLContext, targets: Any = None, *rest: Any, **how: Any
    ) -> None:
        if task.name in self._clear:
            self._broadcast(task, fl_ctx, targets, *rest, **how)
            return
        with self._lock:
            self._running += 1
        threading.Thread(target=self._sum, args=(task, fl_ctx, targets), daemon=True).start()

    def broadcast_and_wait(
        self, task: Task, fl_ctx: FLContext, targets: Any = None, *rest: Any, **how: Any
    ) -> None:
        if task.name in self._clear:
            self._wait(task, fl_ctx, targets, *rest, **how)
            return
        with self._lock:
            self._running += 1
        self._sum(task, fl_ctx, targets)

    def _sum(self, task: Task, fl_ctx: FLContext, targets: Any) -> None:
        try:
            self._deliver(task, fl_ctx, targets)
        except (SecaggError, ProtocolError, PrivacyError) as error:
            self._controller.system_panic(f"secagg: no sum of {task.name}: {error}", fl_ctx)
        except Exception as error:  # a thread that dies in silence would leave the job waiting
            self._controller.system_panic(f"secagg: {type(error).__name__}: {error}", fl_ctx)
            raise
        finally:
            with self._lock:
                self._running -= 1

    def _deliver(self, task: Task, fl_ctx: FLContext, targets: Any) -> None:
        """Carry the sum, and hand the workflow one result: the mean, in the first site's name."""
        clients = {client.name: client for client in fl_ctx.get_engine().get_clients()}
        names = [getattr(each, "name", each) for each in (targets or clients)]
        first = ClientTask(client=clients[names[0]], task=task)
        if task.before_task_sent_cb:
            task.before_task_sent_cb(client_task=first, fl_ctx=fl_ctx)
        model = FLModelUtils.from_shareable(task.data)
        send = partial(self._send, task, fl_ctx)
        for tried in range(1, TRIES + 1):
            try:
                mean = self._sums.carry(
                    task.name, model, names, send, seconds=task.timeout or FOREVER, kind=self._kind
                )
                break
            except TooFewSurvivors:
                if tried == TRIES or fl_ctx.get_run_abort_signal().triggered:
                    raise
        first.result = FLModelUtils.to_shareable(mean)
        headers = first.result[ReservedHeaderKey.HEADERS]
        first.result[ReservedHeaderKey.HEADERS] = {
            **task.data[ReservedHeaderKey.HEADERS],
            **headers,
        }
        first.result.set_return_code(ReturnCode.OK)
        first.result.set_peer_props({ReservedKey.IDENTITY_NAME: names[0]})
        peer = FLContext()  # where widgets look for a result, such as those that pick a model
        peer.set_prop(ReservedKey.IDENTITY_NAME, names[0])
        peer.set_prop(FLContextKey.SHAREABLE, first.result, private=True)
        if task.result_received_cb:
            with fl_ctx.get_engine().new_context() as received:
                received.set_peer_context(peer)
                task.result_received_cb(client_task=first, fl_ctx=received)
        task.last_client_task_map[names[0]] = first
        if task.task_done_cb:
            task.task_done_cb(task=task, fl_ctx=fl_ctx)

    def _send(self, task: Task, fl_ctx: FLContext, calls: StageCalls[str]) -> None:
        waiting, done, tasks = set(calls.requests), threading.Event(), []

        def end(name: str) -> None:
            waiting.discard(name)
            if not waiting:
                done.set()

        def received(name: str, client_task: ClientTask, fl_ctx: FLContext) -> None:
            reply, client_task.result = client_task.result, None
            code = reply.get_return_code()
            calls.take(name, reply.get(RECORD) if code == ReturnCode.OK else f"FLARE says {code}")
            end(name)

        for name, request in calls.requests.items():
            data = Shareable({**task.data} if calls.masks else None)
            data[ReservedHeaderKey.HEADERS] = dict(task.data[ReservedHeaderKey.HEADERS])
            data[RECORD] = request
            tasks.append(
                Task(
                    name=task.name,
                    data=data,
                    timeout=math.ceil(calls.seconds),
                    result_received_cb=partial(received, name),
                    task_done_cb=lambda task, fl_ctx, name=name: end(name),
                )
            )
            self._broadcast(tasks[-1], fl_ctx, [name], 1)
        until, abort = time.monotonic() + calls.seconds, fl_ctx.get_run_abort_signal()
        while not done.wait(min(LOOK, max(0.0, until - time.monotonic()))):
            if abort.triggered or time.monotonic() >= until:
                break
        for each in tasks:
            self._controller.cancel_task(each)
        if abort.triggered:
            raise TooFewSurvivors("the job was aborted in mid-sum")
