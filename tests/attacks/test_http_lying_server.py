"""What a server that lies, or breaks, can do to a node that speaks HTTP with it: waste its time."""

import gzip
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from secagg.adapters.http import client, join, link
from secagg.adapters.http.link import Link
from secagg.errors import NodeError, RefusedError
from secagg.files import write_new
from secagg.nodes import NodePolicy, Request, new_folder
from secagg.stage import Stage

TOKEN = "5ec2e7" * 10


@contextmanager
def lying(answer: Callable[[bytes], bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers every head of a call as it likes; its address, and what it was sent."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(line: socket.socket) -> None:
        with line, suppress(OSError):
            while head := line.recv(65536):
                heard.append(head)
                line.sendall(answer(head))

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
    finally:
        listener.close()


def said(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def asking(proposal: bytes) -> bytes:
    return Request(stage=Stage.MASK, proposal=proposal, client=0, message=b"").to_bytes()


@pytest.fixture
def home(folder: Path) -> Path:
    made = new_folder(folder / "node")
    write_new(made / "token", TOKEN.encode(), private=True)
    return made


def call(url: str, home: Path, most: int = 1000) -> tuple[int, bytes]:
    return Link(url, home).call("GET", "/v1/task", most)


def test_a_redirect_does_not_take_the_token_elsewhere(home: Path) -> None:
    with lying(lambda _: said(b"")) as (elsewhere, heard):
        to = f"Location: {elsewhere}/v1/task"
        with lying(lambda _: said(b"", to, status="307 Temporary Redirect")) as (url, _):
            assert call(url, home)[0] == 307
        assert heard == []


def test_a_packed_answer_is_not_unpacked(home: Path) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    packed = said(bomb, "Content-Encoding: gzip")
    with lying(lambda _: packed) as (url, _), pytest.raises(NodeError, match="packed"):
        call(url, home)


@pytest.mark.parametrize("length", [2**40, None])
def test_an_answer_without_end_is_left_at_its_limit(home: Path, length: int | None) -> None:
    endless = said(bytes(5000), length=length)
    if length is None:
        chunk = b"1388\r\n" + bytes(5000) + b"\r\n"
        endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 3
    with lying(lambda _: endless) as (url, _), pytest.raises(NodeError, match="more than 1000"):
        call(url, home)


def test_a_server_that_is_silent_is_left_after_a_while(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "TIMEOUT", 0.2)
    for silence in (b"", b"HTTP/1.1 200 OK\r\n", said(b"half", length=9)):
        with lying(lambda _, some=silence: some) as (url, _), pytest.raises(ConnectionError):  # type: ignore[misc]  # bound now
            call(url, home)


@pytest.mark.parametrize(
    "body",
    [
        said(b"rubbish"),
        said(b""),
        said(bytes(16) + Request(stage=Stage.MASK, proposal=b"", client=0, message=b"").to_bytes()),
        said(
            bytes(16) + Request(stage=Stage.MASK, proposal=b"{}", client=0, message=b"").to_bytes()
        ),
        said(b"<html>\r\n\x1b[2J\x00</html>", status="500 \x1b[31mno"),
        b"not HTTP at all\r\n\r\n",
    ],
)
def test_rubbish_ends_no_node_and_is_told_in_whole_lines(
    home: Path, body: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRY", (0.05, 0.05))
    stop = threading.Event()
    with lying(lambda head: body if head.startswith(b"GET") else said(b"")) as (url, heard):
        node = threading.Thread(
            target=join, args=(url, home, None), kwargs={"policy": NodePolicy(), "stop": stop}
        )
        node.start()
        until = time.monotonic() + 20
        while len(heard) < 3 and time.monotonic() < until:
            time.sleep(0.02)
        assert node.is_alive()
        stop.set()
        node.join(20)
    ours = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert ours
    assert all(line.isprintable() and TOKEN not in line for line in ours)


def test_tasks_without_end_wait_in_no_queue(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed: with room for as many as come, a server fills the node's memory."""
    monkeypatch.setattr(client, "EASE", 0.01)
    hold, stop = threading.Event(), threading.Event()
    monkeypatch.setattr(client._Member, "_work", lambda *_: hold.wait(20))
    number = iter(range(10**6))

    def task(_: bytes) -> bytes:
        return said(next(number).to_bytes(16, "big") + asking(b"{}"))

    def asked() -> int:
        with lying(task) as (url, heard):
            given = {"policy": NodePolicy(), "stop": stop}
            node = threading.Thread(target=join, args=(url, home, None), kwargs=given)
            node.start()
            time.sleep(0.5)
            stop.set()
            hold.set()
            node.join(20)
            return len(heard)

    assert asked() == client.AT_ONCE
    hold.clear()
    stop.clear()
    monkeypatch.setattr(client, "AT_ONCE", 10**6)
    assert asked() > 20


def test_a_token_that_a_server_refuses_ends_the_node(home: Path) -> None:
    refusal, match = said(b"no\n", status="401 Unauthorized"), "refuses this node's token: no"
    with lying(lambda _: refusal) as (url, _), pytest.raises(RefusedError, match=match):
        join(url, home, lambda *_: ({}, {}), policy=NodePolicy())
