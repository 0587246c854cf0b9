"""A server of sums over HTTP: a listener beside the threads in which sums run.

with Server(settings) as server:
sums = server.sums("train", WeightedMean(clip=0.1), SumSettings())
for _ in range(10):
model = sums.run(model).model
"""

import logging
import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import uvicorn
from numpy.typing import NDArray

from protocols.errors import TooFewSurvivors
from secagg.adapters.http.app import App
from secagg.adapters.http.lines import Impatient
from secagg.adapters.http.settings import ServerSettings
from secagg.adapters.http.store import Store
from secagg.adapters.http.watch import LOG, Watch, log
from secagg.errors import InputError, RunError
from secagg.files import FolderLock
from secagg.nodes.carry import begin, new_report, noted, run
from secagg.nodes.coordinator import (
    Coordinator,
    NoisySum,
    RunningSum,
    SumSettings,
    WeightedMean,
)
from secagg.nodes.reports import SumReport
from secagg.rounds.relay import StageRequests
from secagg.stage import Stage
from secagg.vectors.arrays import Arrays, model_digest, parts_of

IDLE: Final = 20  # seconds that a connection is kept without a call
START: Final = 30.0  # seconds for the listener
STOP: Final = 2  # seconds for calls that are under way when it ends
POLL: Final = 0.2  # seconds between two looks who is connected


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a sum.

    Attributes:
      model: moved by the mean; as it was, where the purpose is no training.
      metrics: weighted means, by name.
      weight: total.
      report: who was asked and who answered, bytes and seconds, stage by stage.
    """

    model: Mapping[str, NDArray[Any]]
    metrics: Mapping[str, float]
    weight: int
    report: SumReport


class Server:
    """A listener, and the file that holds its state; a context manager.

    Attributes:
      settings: where to listen, and where state is kept; see ``ServerSettings``.
      url: the address for nodes on this machine.

    Raises:
      InputError, RunError: settings, certificate or state file cannot be used, another server uses
        the file, or the address cannot be listened to.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings, self.watch = settings, Watch()
        self.store = Store(settings.state)
        self.app = App(settings, self.store, self.watch)
        self._lock: FolderLock | None = None
        self._idle, self._running = threading.Condition(), 0
        self._thread: threading.Thread | None = None
        try:
            self._http = _uvicorn(settings, self.app)
            self._socket = _listening(*settings.address)
        except BaseException:
            self.store.close()
            raise
        host, port = self._socket.getsockname()[:2]
        scheme = "https" if settings.certificate else "http"
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def __enter__(self) -> Self:
        try:
            self._lock = FolderLock(self.settings.state.parent)
            self._start()
        except BaseException:
            self.__exit__()
            raise
        log("listening", url=self.url)
        return self

    def _start(self) -> None:
        if lost := self.store.give_up():
            log("sums of the last server are given up", logging.WARNING, sums=lost)
        _allow_connections(self.settings.connections)
        self._thread = threading.Thread(
            target=self._http.run, kwargs={"sockets": [self._socket]}, daemon=True
        )
        self._thread.start()
        until = time.monotonic() + START
        while not self._http.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise RunError("the listener did not start; its log says why")
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self.app.tasks.close()
        self._http.should_exit = True
        if self._thread:
            self._thread.join(START)
        with self._idle:  # what came of the sums is written down
            self._idle.wait_for(lambda: self._running == 0, STOP)
        self._socket.close()
        self.store.close()
        if self._lock:
            self._lock.close()

    def connected(self) -> list[int]:
        """Nodes that called a short while ago and may still join, by number."""
        may = {member.node for member in self.store.members() if member.joins}
        return [node for node in self.app.connected() if node in may]

    def wait_for(self, nodes: int) -> list[int]:
        """The nodes that are connected, once there are so many.

        Raises:
          TooFewSurvivors: the server stops.
        """
        while len(found := self.connected()) < nodes:
            if self.app.tasks.closed:
                raise TooFewSurvivors("the server was stopped")
            time.sleep(POLL)
        return found

    @contextmanager
    def running(self) -> Iterator[None]:
        """A sum is under way, and the state file stays open."""
        with self._idle:
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def sums(
        self, purpose: str, summed: WeightedMean | NoisySum, cohort: SumSettings | None = None
    ) -> "Sums":
        """The sums of one purpose, for one thread."""
        return Sums(self, purpose, summed, cohort or SumSettings())


class Sums:
    """Sums of one purpose, one after the other. Not for threads; each purpose may have its own.

    Attributes:
      history: a report of every sum.

    Args:
      server: whose nodes are asked.
      purpose: what the sums are called; one that begins with "train" moves its model.
      summed: what comes of a sum: ``WeightedMean`` or ``NoisySum``.
      cohort: which protocol, how few survivors, whose roster.
    """

    def __init__(
        self, server: Server, purpose: str, summed: WeightedMean | NoisySum, cohort: SumSettings
    ) -> None:
        self._server, self.purpose = server, purpose
        self._coordinator = Coordinator(summed, cohort)
        self.history: list[SumReport] = []

    def run(self, model: Arrays, *, nodes: int | None = None) -> Outcome:
        """One sum over ``model`` of all nodes that are connected, once there are ``nodes``.

        Args:
          nodes: by default as many as a sum needs at least.

        Raises:
          InputError, ProtocolError, PrivacyError: there is no sum, and nothing was released.
        """
        server = self._server
        if not all(bool(np.isfinite(array).all()) for array in model.values()):
            raise InputError("the model is NaN or infinite")
        asked = server.wait_for(max(nodes or 0, self._coordinator.fewest))
        report = new_report(self.purpose, asked, model)
        self.history.append(report)
        with server.running():
            return self._sum(model, report)

    def _sum(self, model: Arrays, report: SumReport) -> Outcome:
        settings, tasks = self._server.settings, self._server.app.tasks
        parts = tuple(parts_of(model))

        def carry_stage(under_way: RunningSum, ask: StageRequests) -> None:
            limit = settings.train_deadline if ask.stage is Stage.MASK else settings.deadline
            tasks.carry(under_way, ask, limit, report, parts)

        number = self._server.store.begin(self.purpose, list(report.nodes))
        try:
            with noted(report, log=None):  # ``_note`` says it
                under_way = begin(self._coordinator, report, model, model_digest(model))
                finished, moved = run(under_way, report, model, carry_stage, LOG)
        finally:
            self._note(number, report)
        result = finished.result
        return Outcome(model=moved, metrics=result.metrics, weight=result.weight, report=report)

    def _note(self, number: int, report: SumReport) -> None:
        watch, outcome = self._server.watch, "failed" if report.failure else "done"
        for stage in report.stages:
            watch.count("secagg_seconds", stage.seconds, stage=stage.stage)
            watch.count("secagg_bytes", stage.bytes_up, direction="up")
            watch.count("secagg_bytes", stage.bytes_down, direction="down")
            lost = stage.asked - stage.answered
            watch.count("secagg_answers", lost, stage=stage.stage, outcome="missing")
        watch.count("secagg_sums", purpose=self.purpose, outcome=outcome)
        level = logging.WARNING if report.failure else logging.INFO
        log("sum", level, number=number, purpose=self.purpose, said=str(report))
        self._server.store.end(number, report.failure or "done", len(report.survivors))


def _listening(host: str, port: int) -> socket.socket:
    # asyncio lets small writes go at once only where the protocol of a socket is named.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise RunError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    return made


def _uvicorn(settings: ServerSettings, app: App) -> uvicorn.Server:
    config = uvicorn.Config(
        app.asgi,
        http=Impatient,
        loop="asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=settings.behind_proxy,
        forwarded_allow_ips="*" if settings.behind_proxy else "",
        limit_concurrency=settings.connections,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=STOP,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        ssl_ca_certs=str(settings.client_ca) if settings.client_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if settings.client_ca else ssl.CERT_NONE,
    )
    try:
        config.load()
    except (OSError, ValueError) as error:  # of ssl too
        raise InputError(f"certificate, key or client_ca cannot be used: {error}") from None
    return uvicorn.Server(config)


def _allow_connections(many: int) -> None:
    """As many open files as connections need, if the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(2 * many + 100, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
