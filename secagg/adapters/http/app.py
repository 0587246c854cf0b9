"""The calls that nodes make, and what is refused before a byte of a body is read.

    GET  /v1/task?busy=ID,ID        16 bytes of id and a request, or 204 after a while
    GET  /v1/model/DIGEST           the arrays, while the node is asked to mask over them
    POST /v1/task/ID                an answer
    POST /v1/task/ID/decline        why there is none, a line of text
    GET  /healthz, /metrics         without a token

A body is read as it comes, within the size that its request allows, faster than ``SLOWEST``, and
no further than to the end of its stage. Every refusal is one line to the node and one in the log.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from protocols.errors import RemoteProtocolError
from secagg.adapters.http.lines import BINARY, GRACE, SLOWEST, Bucket, ModelResponse
from secagg.adapters.http.settings import ServerSettings
from secagg.adapters.http.store import Member, Store
from secagg.adapters.http.watch import OPENMETRICS, Watch, log
from secagg.errors import InputError, SecaggError
from secagg.nodes.messages import AnswerReader
from secagg.nodes.tasks import ID_SIZE, Task, Tasks
from secagg.rounds.spool import Spool

WAIT: Final = 20.0  # seconds until a node without a task is told so
CONNECTED: Final = 2 * WAIT  # seconds after its last call a node counts as connected
SPOOLED: Final = 2**20  # bytes; answers that may be larger wait on disk
CALLS: Final = 8  # of one node at once
LINE: Final = 1000  # bytes of a line of text
LATE: Final = "late or answered before: the sum goes on without this answer"


class _Refused(Exception):
    """A call is refused: an HTTP status, and one line."""

    def __init__(self, status: int, why: str, **about: object) -> None:
        super().__init__(why)
        self.status, self.about = status, about


Call = Callable[["App", Request, Member], Awaitable[Response]]


class App:
    """The calls of nodes as an ASGI application, ``asgi``. One event loop runs it.

    Attributes:
      seen: when each node called last, by the monotonic clock.
    """

    def __init__(self, settings: ServerSettings, store: Store, watch: Watch) -> None:
        self._settings, self._store, self._watch = settings, store, watch
        self.tasks, self.seen = Tasks(self._wake), dict[int, float]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: dict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self._buckets: dict[int | str, Bucket] = {}
        self._calls, self._brought = Counter[int](), set[bytes]()
        routes = [
            Route("/healthz", self._health),
            Route("/v1/task", self._guard(App._next)),
            Route("/v1/model/{name}", self._guard(App._model)),
            Route("/v1/task/{name}", self._guard(App._answer), methods=["POST"]),
            Route("/v1/task/{name}/decline", self._guard(App._decline), methods=["POST"]),
        ]
        if settings.metrics:
            routes.append(Route("/metrics", self._metrics))
        pages = Middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            max_age=3600,
        )
        self.asgi = Starlette(
            routes=routes,
            middleware=[pages] if settings.origins else [],
            exception_handlers={404: self._no_call, 405: self._no_call},
        )
        self.asgi.router.redirect_slashes = False

    def connected(self) -> list[int]:
        """Nodes that called a short while ago, by number."""
        since = time.monotonic() - CONNECTED
        return sorted(node for node, at in list(self.seen.items()) if at >= since)

    def _wake(self, nodes: Collection[int]) -> None:
        if self._loop:
            with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                self._loop.call_soon_threadsafe(self._wake_here, list(nodes))

    def _wake_here(self, nodes: Collection[int]) -> None:
        for node in list(self._woken) if self.tasks.closed else nodes:
            self._woken[node].set()

    # Who calls

    def _guard(self, call: Call) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            about: dict[str, object] = {}
            self._loop = asyncio.get_running_loop()
            try:
                member = self._enter(request)
                about["node"] = member.name
                self._calls[member.node] += 1
                try:
                    return await call(self, request, member)
                finally:
                    self._calls[member.node] -= 1
            except _Refused as error:
                refused = error
            except ClientDisconnect:
                refused = _Refused(400, "the line broke before the body was whole")
            except TimeoutError:
                refused = _Refused(408, f"slower than {SLOWEST} bytes a second, or it stood still")
            except SecaggError as error:  # such as a full disk
                refused = _Refused(503, "this cannot be answered now; the server's log says why")
                about["error"] = str(error)
            return self._refuse(refused, **about)

        return guarded

    def _refuse(self, refused: _Refused, **about: object) -> Response:
        about |= {"status": refused.status, "why": str(refused), **refused.about}
        log("refused", logging.WARNING, **about)
        self._watch.count("secagg_refused_requests", status=str(refused.status))
        head = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}
        said = head.get(refused.status, {})
        if "node" not in about:  # a stranger; a node hears the answer though its body goes on
            said["Connection"] = "close"
        return PlainTextResponse(f"{refused}\n", refused.status, said)

    async def _no_call(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        return self._refuse(_Refused(status, "no such call", path=request.url.path))

    def _enter(self, request: Request) -> Member:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        member = self._store.member(token) if kind.lower() == "bearer" and token else None
        if member is None:
            address = request.client.host if request.client else ""
            if not self._bucket(address).take(1.0):
                raise _Refused(429, "too many wrong tokens", address=address)
            raise _Refused(401, "no token, or none of this server's", address=address)
        if self._calls[member.node] >= CALLS:
            raise _Refused(429, f"more than {CALLS} calls at once")
        if not self._bucket(member.node).take(self._settings.rate):
            raise _Refused(429, f"more than {self._settings.rate:g} calls a second")
        self.seen[member.node] = time.monotonic()
        return member

    def _bucket(self, whose: int | str) -> Bucket:
        if len(self._buckets) > 100_000:  # addresses, of somebody who has very many
            self._buckets = {key: b for key, b in self._buckets.items() if isinstance(key, int)}
        return self._buckets.setdefault(whose, Bucket())

    # Tasks

    async def _next(self, request: Request, member: Member) -> Response:
        said = request.query_params.get("busy", "")
        busy = {_id(name) for name in said.split(",")} if said else set[bytes]()
        until, woken = time.monotonic() + WAIT, self._woken[member.node]
        hung_up = asyncio.create_task(_hangs_up(request))
        try:
            while not self.tasks.closed and (left := until - time.monotonic()) > 0:
                woken.clear()
                if task := self.tasks.next(member.node, busy):
                    if data := await run_in_threadpool(task.to_bytes):
                        return Response(data, media_type=BINARY)
                    continue
                waits = asyncio.create_task(woken.wait())
                first = asyncio.FIRST_COMPLETED
                await asyncio.wait({waits, hung_up}, timeout=left, return_when=first)
                waits.cancel()
                if hung_up.done():
                    self.seen.pop(member.node, None)  # until it calls again
                    break
                self.seen[member.node] = time.monotonic()
        finally:
            hung_up.cancel()
        return Response(status_code=204)

    async def _model(self, request: Request, member: Member) -> Response:
        try:
            digest = bytes.fromhex(request.path_params["name"])
        except ValueError:
            digest = b""
        if (parts := self.tasks.model(member.node, digest)) is None:
            raise _Refused(404, "this node is not asked to work on that model now")
        return ModelResponse(parts)

    def _task(self, request: Request, member: Member) -> Task:
        if (task := self.tasks.find(member.node, _id(request.path_params["name"]))) is None:
            raise _Refused(409, LATE)
        return task

    async def _decline(self, request: Request, member: Member) -> Response:
        task = self._task(request, member)
        text, about = bytearray(), {"purpose": task.purpose, "stage": task.stage}
        async with asyncio.timeout(GRACE):
            async for chunk in request.stream():
                text += chunk
                if len(text) > LINE:
                    raise _Refused(413, f"more than {LINE} bytes of text", **about)
        if not await run_in_threadpool(self.tasks.decline, task):
            raise _Refused(409, LATE, **about)
        self._watch.count("secagg_answers", stage=task.stage, outcome="declined")
        why = text.decode("ascii", "replace")
        log("declined", logging.WARNING, node=member.name, why=why, **about)
        return Response(status_code=204)

    async def _answer(self, request: Request, member: Member) -> Response:
        task = self._task(request, member)
        about = {"purpose": task.purpose, "stage": str(task.stage)}
        if task.id in self._brought:
            raise _Refused(429, "another call is just bringing this answer", **about)
        self._brought.add(task.id)
        spool = Spool() if task.most > SPOOLED else None
        try:
            if not await self._read(request, task, spool):
                raise _Refused(409, LATE, **about)
        except (RemoteProtocolError, InputError) as error:
            await run_in_threadpool(self.tasks.decline, task)
            self._watch.count("secagg_answers", stage=task.stage, outcome="refused")
            raise _Refused(400, str(error)[:LINE], **about) from None
        finally:
            self._brought.discard(task.id)
            if spool:
                spool.close()
        self._watch.count("secagg_answers", stage=task.stage, outcome="taken")
        return Response(status_code=204)

    async def _read(self, request: Request, task: Task, spool: Spool | None) -> bool:
        """Read an answer and hand it in; ``False``: it is late."""
        announced = request.headers.get("content-length", "0")
        if not announced.isdecimal() or int(announced) > task.most:
            await run_in_threadpool(self.tasks.decline, task)
            raise _Refused(413, f"an answer of {announced:.20} bytes, at most {task.most}")
        reader, size = AnswerReader(most=task.most, messages=spool), 0
        clock = asyncio.get_running_loop().time
        until = clock() + GRACE + task.most / SLOWEST
        async with asyncio.timeout(GRACE) as limit:
            async for chunk in request.stream():
                if task.over:
                    return False
                size += len(chunk)
                reader.feed(chunk)
                limit.reschedule(min(until, clock() + GRACE))  # nor may it stand still
        return await run_in_threadpool(self.tasks.take, task, reader.finish(), size)

    # Operators

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _metrics(self, _: Request) -> Response:
        gauges = {"secagg_nodes_connected": float(len(self.connected()))}
        return Response(self._watch.text(gauges), media_type=OPENMETRICS)


async def _hangs_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _id(name: str) -> bytes:
    try:
        found = bytes.fromhex(name)
    except ValueError:
        found = b""
    if len(found) != ID_SIZE:
        raise _Refused(404, f"no task has an id like that: {2 * ID_SIZE} hexadecimal digits")
    return found
