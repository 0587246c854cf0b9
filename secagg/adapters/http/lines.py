"""What a peer may take of a line: time for a head and a body, bytes of a head, calls a second."""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from secagg.adapters.http.watch import log
from secagg.nodes.tasks import Parts

HEAD_SECONDS: Final = 10.0  # for the head of a call, handshake not counted
HEAD_SIZE: Final = 2**15  # bytes of it, and of all else that is no body
DRAINED: Final = 2**20  # bytes of a body that nobody reads
GRACE: Final = 10.0  # seconds for any body, and beside them
SLOWEST: Final = 20_000  # bytes a second of a body: a poor line of a telephone
BURST: Final = 60  # calls at once, above the rate
BINARY: Final = "application/octet-stream"


@dataclass(slots=True)
class Bucket:
    """Calls that somebody has left; they come back at a rate."""

    left: float = BURST
    at: float = 0.0

    def take(self, rate: float) -> bool:
        now = time.monotonic()
        self.left, self.at = min(BURST, self.left + rate * (now - self.at)), now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class ModelResponse(Response):
    """Arrays in parts, to a node that reads faster than ``SLOWEST``."""

    def __init__(self, parts: Parts) -> None:
        self._size = sum(len(part) for part in parts)
        super().__init__(media_type=BINARY, headers={"content-length": str(self._size)})
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: dict[str, Any] = {"status": 200, "headers": self.raw_headers}
        try:
            async with asyncio.timeout(GRACE + self._size / SLOWEST):
                await send({"type": "http.response.start", **start})
                for part in self._parts:
                    for begin in range(0, len(part), 2**18):
                        body = bytes(part[begin : begin + 2**18])
                        await send({"type": "http.response.body", "body": body, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:  # what is not whole is cut off
            log("a model was read too slowly", logging.WARNING)


class Impatient(HttpToolsProtocol):
    """Uvicorn's protocol, with an end to heads that never come, and to what never ends.

    Beside its body a call may have ``HEAD_SIZE`` bytes, or as many as the body where it comes in
    chunks: head, marks of chunks and trailers, all of which the parser keeps. What comes of a body
    after the answer is thrown away, up to ``DRAINED`` bytes.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._body = self._beside = self._drained = self._now = 0
        self._head: asyncio.TimerHandle | None = None
        self._start()

    def _start(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._head is None and (self.cycle is None or self.cycle.response_complete):
            self._start()
        self._now = 0
        super().data_received(data)
        self._beside += len(data) - self._now
        if self.cycle and self.cycle.response_complete:
            self._drained += self._now
        if self._beside > HEAD_SIZE + self._body or self._drained > DRAINED:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._body = self._beside = self._drained = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        self._now += len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._stop()
        super().on_headers_complete()

    def _stop(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)
