"""Somebody on the line between a node and its server: what is read, changed, and played again."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import (
    ANYBODY,
    MEAN,
    MODEL,
    Authority,
    check_moved,
    home_of,
    joined,
    serving,
    settings,
    trained,
)

from secagg.adapters.http import Server, client, join, link
from secagg.adapters.http.link import Link
from secagg.errors import InputError
from secagg.nodes import Request, SumSettings, create_identity
from secagg.vectors.arrays import arrays_of, parts_of

VICTIM = 4
Change = Callable[[str, bytes], bytes]


@contextmanager
def tapped(url: str) -> Iterator[tuple[str, bytearray]]:
    """A line through somebody who copies all that is sent."""
    scheme, _, address = url.partition("://")
    host, port = address.split(":")
    seen, listener = bytearray(), socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                seen.extend(data)
                sink.sendall(data)
            sink.close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection((host, int(port)))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        listener.close()


def test_without_tls_the_line_gives_the_token_and_with_it_nothing(folder: Path) -> None:
    authority = Authority(folder)
    certificate, key = authority.sign("server")
    for tls in ({}, {"certificate": certificate, "key": key}):
        with Server(settings(folder, **tls)) as server:
            home = home_of(folder, server.store, 1 + len(tls))
            (home / "ca.pem").write_bytes(authority.path.read_bytes())
            with tapped(server.url) as (through, seen):
                assert Link(through, home).call("GET", "/v1/model/00", 1000)[0] == 404
            token = (home / "token").read_bytes()
            assert (token in seen) is not bool(tls)


def test_so_a_node_sends_its_token_in_clear_to_its_own_machine_alone(folder: Path) -> None:
    with serving(folder, 1) as (_, homes):
        for url in (
            "http://192.0.2.1:80",
            "http://sums.example.org",
            "http://127.0.0.1.example.org",
        ):
            with pytest.raises(InputError, match="in clear"):
                join(url, homes[1], trained(1), policy=ANYBODY)


@contextmanager
def on_the_line_of(home: Path, change: Change, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever changes what the server sends to one node."""
    token, real = (home / "token").read_text(), Link.call

    def changed(self: Link, method: str, path: str, *rest: Any) -> tuple[int, bytes]:
        status, data = real(self, method, path, *rest)
        hit = method == "GET" and status == 200 and token in self._headers["Authorization"]
        return status, change(path, data) if hit else data

    with monkeypatch.context() as patched:
        patched.setattr(link.Link, "call", changed)
        yield


def another_model(path: str, data: bytes) -> bytes:
    if not path.startswith("/v1/model"):
        return data
    return b"".join(parts_of({name: a + np.float32(1) for name, a in arrays_of(data).items()}))


def another_proposal(path: str, data: bytes) -> bytes:
    """A clip of half the size; signatures and all else as they were."""
    if not path.startswith("/v1/task"):
        return data
    request = Request.from_bytes(data[16:])
    said = json.loads(request.proposal)
    said["average"]["clip"] = 0.5
    proposal = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    return data[:16] + replace(request, proposal=proposal).to_bytes()


@pytest.mark.parametrize("change", [another_model, another_proposal])
@pytest.mark.parametrize("pinned", [False, True])
def test_who_is_shown_something_else_is_left_out_and_the_sum_is_right(
    folder: Path, change: Change, pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = create_identity(folder / "server.key", "server").key
    policy = replace(ANYBODY, server=identity.public if pinned else None)
    with serving(folder, VICTIM, deadline=5.0) as (server, homes):
        sums = server.sums("train", MEAN, SumSettings(identity=identity))
        with (
            on_the_line_of(homes[VICTIM], change, monkeypatch),
            joined(server.url, homes, policy=policy),
        ):
            outcome = sums.run(MODEL, nodes=VICTIM)
    assert VICTIM not in outcome.report.survivors
    check_moved(outcome.model, [1, 2, 3])


def test_removed_a_node_works_on_a_model_that_nobody_proposed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the digest is believed and not computed, the false model's update is in the sum."""
    seen: list[float] = []

    def train(model: Any, proposal: Any) -> Any:
        seen.append(float(model["bias"][0]))
        return trained(1)(model, proposal)

    with serving(folder, VICTIM) as (server, homes):
        victim = homes.pop(VICTIM)
        digest = client.model_digest(MODEL)
        monkeypatch.setattr(client, "model_digest", lambda _: digest)
        stop = threading.Event()
        given = {"policy": ANYBODY, "stop": stop}
        with on_the_line_of(victim, another_model, monkeypatch), joined(server.url, homes):
            node = threading.Thread(target=join, args=(server.url, victim, train), kwargs=given)
            node.daemon = True
            node.start()
            outcome = server.sums("train", MEAN).run(MODEL, nodes=VICTIM)
            stop.set()
    assert VICTIM in outcome.report.survivors
    assert seen == [1.0]
