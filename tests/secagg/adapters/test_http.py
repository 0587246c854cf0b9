"""Sums over HTTP in one process: what comes of them, whoever is lost, slow, or sends rubbish."""

import argparse
import json
import logging
import runpy
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    ByHand,
    check_moved,
    home_of,
    joined,
    let_time_pass,
    mean_of,
    serving,
    settings,
    summing,
    trained,
)

from dp.ledger.ledger import Budget, Ledger
from dp.noise.mechanisms import DistributedNoise
from protocols.errors import TooFewSurvivors
from secagg.adapters.http import (
    Outcome,
    Server,
    ServerSettings,
    SumPlan,
    app,
    join,
    lines,
)
from secagg.adapters.http import server as servers
from secagg.adapters.http.plans import run_plan, write_model
from secagg.errors import InputError, NodeError, RefusedError, RunError
from secagg.nodes import (
    Answer,
    NoisySum,
    Roster,
    SumSettings,
    WeightedMean,
    create_identity,
    sign_roster,
)
from secagg.stage import UNSIGNED, Stage

HOSTILE = 5  # the number of the node that a test plays by hand, beside four that are honest
HONEST = [1, 2, 3, 4]


@contextmanager
def beside_four(folder: Path, **change: Any) -> Iterator[tuple[Server, ByHand]]:
    """Four nodes that have joined, and a fifth by hand."""
    with serving(folder, HOSTILE, **change) as (server, homes):
        hostile = ByHand(server.url, homes.pop(HOSTILE), HOSTILE)
        server.app.seen[HOSTILE] = time.monotonic()  # it counts as connected
        with joined(server.url, homes):
            yield server, hostile


def without_fifth(outcome: Outcome) -> bool:
    check_moved(outcome.model, HONEST)
    return outcome.report.survivors == tuple(HONEST)


def test_sums_follow_each_other_and_are_the_weighted_means(folder: Path) -> None:
    with serving(folder, 5) as (server, homes), joined(server.url, homes):
        sums, model = server.sums("train", MEAN), dict(MODEL)
        for done in range(3):
            outcome = sums.run(model, nodes=5)
            check_moved(outcome.model, [*homes], start=done * mean_of([*homes]))
            model = dict(outcome.model)
        assert len(outcome.report.stages) == 2  # a steady cohort
        loss = sum((1 + n % 7) * (n % 5) for n in homes) / outcome.weight
        assert outcome.metrics["loss"] == pytest.approx(loss, abs=1e-6)


def test_a_node_may_train_a_part_of_the_model(folder: Path) -> None:
    def the_bias(model: Any, proposal: Any) -> Any:
        after, numbers = trained(4)(model, proposal)
        return {"bias": after["bias"]}, numbers

    with serving(folder, 4) as (server, homes):
        small = homes.pop(4)
        with joined(server.url, homes), stopped(server, small, the_bias):
            outcome = server.sums("train", replace(MEAN, by_array=True)).run(MODEL, nodes=4)
    assert outcome.report.failed == 0
    assert np.abs(outcome.model["bias"] - mean_of([1, 2, 3, 4])).max() < 1e-3
    assert np.abs(outcome.model["weight"] - mean_of([1, 2, 3])).max() < 1e-3


def test_two_purposes_are_summed_at_once(folder: Path) -> None:
    both, summed = threading.Barrier(2, timeout=20), replace(MEAN, evaluate_metrics={"loss": 10.0})

    def at_once(model: Any, proposal: Any) -> Any:
        both.wait()  # no task of one sum waits for the end of another's
        return trained(1)(model, proposal)

    with serving(folder, 4) as (server, homes), ThreadPoolExecutor(2) as pool:
        first = {1: homes.pop(1)}
        with joined(server.url, homes), stopped(server, first[1], at_once):
            kinds = ("train", "evaluate")
            found = [pool.submit(server.sums(kind, summed).run, MODEL, nodes=4) for kind in kinds]
            train, evaluate = (each.result(30) for each in found)
    check_moved(train.model, [1, 2, 3, 4])
    assert all(np.array_equal(evaluate.model[name], MODEL[name]) for name in MODEL)
    assert train.metrics == pytest.approx(evaluate.metrics, abs=1e-5)


@contextmanager
def stopped(server: Server, home: Path, program: Any, **change: Any) -> Iterator[threading.Event]:
    """One node with a program of its own, until the block ends."""
    stop, given = threading.Event(), {"policy": ANYBODY} | change
    node = threading.Thread(
        target=join, args=(server.url, home, program), kwargs={"stop": stop, **given}, daemon=True
    )
    node.start()
    try:
        yield stop
    finally:
        stop.set()


@pytest.mark.parametrize("stage", UNSIGNED)
def test_a_node_that_is_silent_from_a_stage_on_is_lost_and_comes_too_late(
    folder: Path, stage: Stage
) -> None:
    with beside_four(folder) as (server, hostile):
        with summing(server, 5) as found:
            name, request = hostile.until(stage)
            let_time_pass(server, HOSTILE)
            outcome = found.result(20)
        inside = [*HONEST, HOSTILE] if stage is Stage.REVEAL else HONEST
        check_moved(outcome.model, inside)
        assert list(outcome.report.survivors) == inside
        if stage is not Stage.MASK:  # whose model is gone
            status, said = hostile.call("POST", f"/v1/task/{name}", hostile.answer(request))
            assert (status, said.count(b"\n")) == (409, 1)
            assert b"late" in said
    with Server(replace(server.settings)) as again:
        assert again.store.members()[4].name == "node-5"


def garbage(hostile: ByHand, name: str) -> tuple[int, bytes]:
    return hostile.call("POST", f"/v1/task/{name}", b"\x00garbage" * 9)


def nothing_at_all(hostile: ByHand, name: str) -> tuple[int, bytes]:
    return hostile.call("POST", f"/v1/task/{name}", b"")


def wrong_messages(hostile: ByHand, name: str) -> tuple[int, bytes]:
    answer = Answer(messages=(b"\x01" * 60,), state=None)
    return hostile.call("POST", f"/v1/task/{name}", answer.to_bytes())


def oversize(hostile: ByHand, name: str) -> tuple[int, bytes]:
    """Nothing of it is read: its length is announced."""
    return raw(hostile, f"POST /v1/task/{name}", "Content-Length: 999999999", b"")


def oversize_in_chunks(hostile: ByHand, name: str) -> tuple[int, bytes]:
    head = Answer(messages=(b"",) * 200_000, state=None).to_bytes()
    return raw(hostile, f"POST /v1/task/{name}", "Transfer-Encoding: chunked", b"f0000\r\n" + head)


def raw(hostile: ByHand, call: str, header: str, body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to a call that is written out; (0, nothing) if it was cut."""
    who = f"Host: x\r\nConnection: close\r\nAuthorization: Bearer {hostile.token}"
    said = b""
    with line_to(hostile.url) as line:
        line.sendall(f"{call} HTTP/1.1\r\n{who}\r\n{header}\r\n\r\n".encode())
        with suppress(ConnectionError):  # cut off while it sent, or after the answer
            line.sendall(body)
        with suppress(ConnectionError):
            while chunk := line.recv(65536):
                said += chunk
    head, _, content = said.partition(b"\r\n\r\n")
    return int(head.split()[1] if head else 0), content


def line_to(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.parametrize(
    ("send", "status", "stage"),
    [
        (garbage, 400, Stage.ADVERTISE),
        (garbage, 400, Stage.MASK),
        (nothing_at_all, 400, Stage.MASK),
        (wrong_messages, 400, Stage.MASK),
        (oversize, 413, Stage.ADVERTISE),
        (oversize_in_chunks, 400, Stage.MASK),
    ],
)
def test_rubbish_costs_its_sender_the_sum_and_the_others_no_time(
    folder: Path,
    send: Callable[[ByHand, str], tuple[int, bytes]],
    status: int,
    stage: Stage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with beside_four(folder) as (server, hostile), summing(server, 5) as found:
        name, _ = hostile.until(stage)
        code, said = send(hostile, name)
        assert code == status
        assert said.count(b"\n") == 1
        assert without_fifth(found.result(15))  # of deadlines of 20 s
        assert hostile.call("POST", f"/v1/task/{name}", b"again")[0] == 409
    refusals = [record for record in caplog.records if record.msg and "refused" in record.message]
    assert [record.fields["status"] for record in refusals] == [status, 409]  # type: ignore[attr-defined]  # set by log


def test_a_call_that_is_replayed_changes_nothing(folder: Path) -> None:
    with beside_four(folder) as (server, hostile), summing(server, 5) as found:
        for stage in UNSIGNED:
            name, request = hostile.until(stage)
            body = hostile.answer(request)
            codes = [hostile.call("POST", f"/v1/task/{name}", body)[0] for _ in range(3)]
            assert codes == [204, 409, 409]
        check_moved(found.result(20).model, [*HONEST, HOSTILE])


def test_a_task_is_its_nodes_alone(folder: Path) -> None:
    with serving(folder, 3) as (server, homes):
        nodes = [ByHand(server.url, home, n) for n, home in homes.items()]
        for number in homes:
            server.app.seen[number] = time.monotonic()
        with summing(server, 3) as found:
            name, request = nodes[0].until(Stage.ADVERTISE)
            body = nodes[0].answer(request)
            assert nodes[1].call("POST", f"/v1/task/{name}", body)[0] == 409
            assert nodes[1].call("POST", f"/v1/task/{name}/decline", b"no")[0] == 409
            assert nodes[0].call("POST", f"/v1/task/{name}", body)[0] == 204
            server.app.tasks.close()
            with pytest.raises(TooFewSurvivors):
                found.result(10)


def test_a_model_is_handed_out_while_it_is_asked_for_and_to_nobody_else(folder: Path) -> None:
    with beside_four(folder) as (server, hostile), summing(server, 5) as found:
        name, request = hostile.until(Stage.SHARE)
        digest = json.loads(request.proposal)["model_digest"]
        assert hostile.call("GET", f"/v1/model/{digest}")[0] == 404
        hostile.call("POST", f"/v1/task/{name}", hostile.answer(request))
        name, request = hostile.until(Stage.MASK)
        assert hostile.call("GET", f"/v1/model/{digest}")[0] == 200
        for other in (digest[:-1], "00" * 32, "..", "x"):
            assert hostile.call("GET", f"/v1/model/{other}")[0] == 404
        hostile.call("POST", f"/v1/task/{name}/decline", b"no")
        assert hostile.call("GET", f"/v1/model/{digest}")[0] == 404
        assert without_fifth(found.result(15))


@pytest.mark.parametrize("token", ["", "0" * 64, "x", "é", "a" * 4000])
def test_a_wrong_token_is_refused_in_one_line(
    folder: Path, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(folder, 1) as (server, homes):
        node = ByHand(server.url, homes[1])
        for path in ("/v1/task", "/v1/model/00", f"/v1/task/{'00' * 16}"):
            method = "POST" if path.count("/") > 2 and "task" in path else "GET"
            node.token = token.encode("utf-8", "replace").decode("latin-1")
            code, said = raw(node, f"{method} {path}", "Content-Length: 0", b"")
            assert (code, said) == (401, b"no token, or none of this server's\n")
    assert sum("refused" in record.message for record in caplog.records) == 3


def test_a_node_whose_token_is_void_ends_in_one_line(folder: Path) -> None:
    with serving(folder, 1) as (server, homes):
        server.store.revoke("node-1")
        with pytest.raises(RefusedError, match="the server refuses this node's token"):
            join(server.url, homes[1], trained(1), policy=ANYBODY)


def test_tokens_are_in_no_file_of_the_server_and_in_no_log(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(folder, 3, metrics=True) as (server, homes), joined(server.url, homes):
        tokens = [(home / "token").read_text() for home in homes.values()]
        server.sums("train", MEAN).run(MODEL, nodes=3)
        ByHand(server.url, homes[1]).call("POST", f"/v1/task/{'00' * 16}", b"x")
        said = urllib.request.urlopen(f"{server.url}/metrics").read()  # noqa: S310  # ours
    kept = b"".join(path.read_bytes() for path in folder.glob("server.sqlite*")) + said
    for token in tokens:
        assert token.encode() not in kept
        assert bytes.fromhex(token) not in kept
        assert token not in caplog.text
    assert (folder / "server.sqlite").stat().st_mode & 0o077 == 0


def test_who_calls_too_fast_is_told_to_wait_and_the_others_are_not(folder: Path) -> None:
    with serving(folder, 2, rate=5.0) as (server, homes):
        one, other = (ByHand(server.url, home) for home in homes.values())
        codes = [one.call("GET", "/v1/model/00")[0] for _ in range(lines.BURST + 20)]
        assert set(codes[: lines.BURST]) == {404}
        assert 429 in codes[lines.BURST :]
        assert other.call("GET", "/v1/model/00")[0] == 404


def test_no_more_than_a_few_calls_of_one_node_are_open(folder: Path) -> None:
    with serving(folder, 1) as (server, homes), ThreadPoolExecutor(app.CALLS) as pool:
        node = ByHand(server.url, homes[1])
        waiting = [pool.submit(raw, node, "GET /v1/task", "X: y", b"") for _ in range(app.CALLS)]
        while server.app._calls[1] < app.CALLS:
            time.sleep(0.01)
        assert node.call("GET", "/v1/task")[0] == 429
        server.app.tasks.close()  # which wakes those that wait
        assert {found.result(10)[0] for found in waiting} == {204}


def test_heads_that_never_end_are_cut_off_and_others_are_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "HEAD_SECONDS", 0.5)
    with serving(folder, 1) as (server, _):
        slow = [line_to(server.url) for _ in range(100)]
        for place, line in enumerate(slow):
            line.sendall(b"GET /healthz HTTP/1.1\r\nX: " if place % 2 else b"")
        with urllib.request.urlopen(f"{server.url}/healthz") as health:  # noqa: S310  # ours
            assert json.loads(health.read()) == {"status": "ok"}
        assert all(closed(line) for line in slow)
        used = line_to(server.url)  # a second head likewise
        used.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while not said.endswith(b"}"):
            said += used.recv(65536)
        used.sendall(b"GET /he")
        assert closed(used)


def closed(line: socket.socket) -> bool:
    try:
        return line.recv(1) == b""
    except ConnectionError:
        return True
    finally:
        line.close()


ENDLESS = {
    "head": (b"GET /healthz HTTP/1.1\r\n", b"X: " + b"y" * 1000 + b"\r\n"),
    "one header": (b"GET /healthz HTTP/1.1\r\nX: ", b"y" * 1000),
    "trailers": (
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"X: " + b"y" * 1000 + b"\r\n",
    ),
    "trailers behind an answer": (
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"X: " + b"y" * 1000 + b"\r\n",
    ),
    "a body that nobody reads": (
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        bytes(1000),
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_has_no_measure_is_cut_off(folder: Path, what: str) -> None:
    begin, more = ENDLESS[what]
    with serving(folder, 1) as (server, _), line_to(server.url) as line:
        line.sendall(begin)
        sent = 0
        with suppress(ConnectionError):
            while sent < 2**25:
                line.sendall(more)
                sent += len(more)
        assert sent < 2**25


def test_trailers_of_a_node_are_cut_off_too(folder: Path) -> None:
    with beside_four(folder) as (server, hostile), summing(server, 5) as found:
        name, request = hostile.until(Stage.ADVERTISE)
        body = hostile.answer(request)
        chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n"
        endless = chunk + b"X: " + b"y" * 2**25
        header = "Transfer-Encoding: chunked"
        assert raw(hostile, f"POST /v1/task/{name}", header, endless) == (0, b"")
        assert hostile.call("POST", f"/v1/task/{name}", body)[0] == 204
        server.app.tasks.close()
        assert found.exception(10)


def test_one_call_at_a_time_brings_an_answer(folder: Path) -> None:
    """Otherwise a node has as much of the disk as it opens calls."""
    with beside_four(folder) as (server, hostile), summing(server, 5) as found:
        name, request = hostile.until(Stage.ADVERTISE)
        body = hostile.answer(request)
        with line_to(server.url) as line:
            line.sendall(
                f"POST /v1/task/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                f"Authorization: Bearer {hostile.token}\r\n\r\n".encode()
            )
            while bytes.fromhex(name) not in server.app._brought:
                time.sleep(0.01)
            assert hostile.call("POST", f"/v1/task/{name}", body)[0] == 429
            line.sendall(body)
            assert b" 204 " in line.recv(100)
        server.app.tasks.close()
        assert found.exception(10)


def test_a_body_that_stands_still_is_cut_off_and_may_be_sent_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "GRACE", 0.3)
    with beside_four(folder) as (server, hostile), summing(server, 5) as found:
        name, request = hostile.until(Stage.ADVERTISE)
        body = hostile.answer(request)
        length = f"Content-Length: {len(body)}"
        assert raw(hostile, f"POST /v1/task/{name}", length, body[:40])[0] == 408
        assert hostile.call("POST", f"/v1/task/{name}", body)[0] == 204
        for stage in UNSIGNED[1:]:
            name, request = hostile.until(stage)
            assert hostile.call("POST", f"/v1/task/{name}", hostile.answer(request))[0] == 204
        check_moved(found.result(20).model, [*HONEST, HOSTILE])


def test_a_line_that_breaks_in_an_answer_takes_nothing_and_may_come_again(folder: Path) -> None:
    with beside_four(folder) as (server, hostile), summing(server, 5) as found:
        for stage in UNSIGNED:
            name, request = hostile.until(stage)
            body = hostile.answer(request)
            with line_to(hostile.url) as line:
                line.sendall(
                    f"POST /v1/task/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                    f"Authorization: Bearer {hostile.token}\r\n\r\n".encode()
                    + body[: len(body) // 2]
                )
            while (code := hostile.call("POST", f"/v1/task/{name}", body)[0]) == 429:
                time.sleep(0.05)  # the server has not noticed yet
            assert code == 204
        check_moved(found.result(20).model, [*HONEST, HOSTILE])


def test_a_server_that_stops_in_mid_sum_ends_it_and_the_next_one_works(folder: Path) -> None:
    with serving(folder, 4) as (first, homes), joined(first.url, homes):
        late = ByHand(first.url, home_of(folder, first.store, 5), 5)
        first.app.seen[5] = time.monotonic()
        with summing(first, 5) as found:
            late.until(Stage.MASK)
            first.__exit__()
            with pytest.raises(TooFewSurvivors, match="stopped"):
                found.result(10)
        given = replace(first.settings, listen=first.url.removeprefix("http://"))
        with Server(given) as second:
            second.wait_for(4)
            outcome = second.sums("train", MEAN).run(MODEL, nodes=4)
            check_moved(outcome.model, [1, 2, 3, 4])


def test_a_sum_that_a_killed_server_left_is_given_up(folder: Path) -> None:
    with serving(folder, 1) as (server, _):
        server.store.begin("train", [1, 2, 3])
    with Server(server.settings) as again:
        rows = again.store._do("SELECT outcome, survivors FROM sums")
        assert rows == [("ended by a restart", 0)]


def test_a_node_that_restarts_between_two_stages_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "WAIT", 0.2)  # a node looks whether it is to stop between two calls
    with serving(folder, 5) as (server, homes), summing(server, 5) as found:
        last = homes.pop(5)
        with joined(server.url, homes):
            for stage in UNSIGNED:
                held = threading.Event()

                def once(task: Any, stage: Stage = stage, held: threading.Event = held) -> Any:
                    if task is not None and task.node == 5 and task.stage is not stage:
                        held.set()
                        return None
                    return task

                with only(server, once), stopped(server, last, trained(5)) as stop:
                    assert stage is Stage.REVEAL or held.wait(20)
                    if stage is Stage.REVEAL:
                        found.result(20)
                stop.set()
                while server.app._calls[5]:
                    time.sleep(0.02)
            check_moved(found.result(20).model, [1, 2, 3, 4, 5])


@contextmanager
def only(server: Server, change: Callable[[Any], Any]) -> Iterator[None]:
    tasks, real = server.app.tasks, server.app.tasks.next
    tasks.next = lambda node, busy=(): change(real(node, busy))  # type: ignore[method-assign]  # a test's own
    try:
        yield
    finally:
        tasks.next = real  # type: ignore[method-assign]  # as it was


def test_a_program_that_fails_brings_zeros_and_says_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(model: Any, proposal: Any) -> Any:
        raise ValueError("patient 17 has no scan")

    with beside_four(folder) as (server, hostile), stopped(server, hostile.node.home, fails):
        outcome = server.sums("train", MEAN).run(MODEL, nodes=5)
    check_moved(outcome.model, HONEST)
    assert outcome.report.reasons == {"the app raised an error": 1}
    told = [record for record in caplog.records if record.name == "secagg.http"]
    assert not any("patient" in record.message for record in told)


def test_a_policy_that_refuses_is_one_line_on_both_sides_and_costs_no_time(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strict = replace(ANYBODY, clip=0.5)
    with (
        beside_four(folder) as (server, hostile),
        stopped(server, hostile.node.home, trained(5), policy=strict),
    ):
        assert without_fifth(server.sums("train", MEAN).run(MODEL, nodes=5))
    mine = [record for record in caplog.records if "refuses (clip 0.5)" in record.message]
    assert sorted(record.name for record in mine) == ["secagg", "secagg.http"]


def test_requests_are_signed_where_the_server_has_an_identity(folder: Path) -> None:
    key = create_identity(folder / "server.key", "server").key
    pinned = replace(ANYBODY, server=key.public)
    with serving(folder, 3) as (server, homes), joined(server.url, homes, policy=pinned):
        signed = server.sums("train", MEAN, SumSettings(identity=key)).run(MODEL, nodes=3)
        check_moved(signed.model, [1, 2, 3])
        with pytest.raises(TooFewSurvivors):
            server.sums("train", MEAN, SumSettings()).run(MODEL, nodes=3)


def test_a_sum_under_threshold_ckks_fits_its_limits(folder: Path) -> None:
    pytest.importorskip("tenseal")
    policy = replace(ANYBODY, protocols=("threshold-ckks",))
    with serving(folder, 4) as (server, homes), joined(server.url, homes, policy=policy):
        model = {"weight": np.zeros(20_000, np.float32)}
        sums = server.sums("train", MEAN, SumSettings(protocol="threshold-ckks"))
        moved = sums.run(model, nodes=4).model
        # 2^-14 of the clip for each, times max_weight over the mean weight: secagg.nodes.proposal
        check_moved(moved, [1, 2, 3, 4], within=2**-14 * 4 * 100 * 4 / 14)


def test_a_page_of_a_named_origin_may_call_and_others_may_not(folder: Path) -> None:
    ours = "https://sums.example.org"
    with serving(folder, 1, origins=(ours,)) as (server, _):

        def preflight(origin: str) -> str | None:
            request = urllib.request.Request(  # noqa: S310  # ours
                f"{server.url}/v1/task",
                method="OPTIONS",
                headers={
                    "Origin": origin,
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "authorization,content-type",
                },
            )
            try:
                with urllib.request.urlopen(request) as answer:  # noqa: S310  # ours
                    found: str | None = answer.headers["Access-Control-Allow-Origin"]
                    return found
            except urllib.error.HTTPError as error:
                return error.headers["Access-Control-Allow-Origin"]

        assert preflight(ours) == ours
        assert preflight("https://elsewhere.example.org") is None


def test_numbers_for_operators_are_there_if_they_are_asked_for(folder: Path) -> None:
    with serving(folder, 3, metrics=True) as (server, homes), joined(server.url, homes):
        server.sums("train", MEAN).run(MODEL, nodes=3)
        with urllib.request.urlopen(f"{server.url}/metrics") as answer:  # noqa: S310  # ours
            assert answer.headers["content-type"].startswith("application/openmetrics-text")
            said = answer.read().decode()
    assert 'secagg_sums_total{purpose="train",outcome="done"} 1\n' in said
    assert 'secagg_answers_total{stage="mask",outcome="taken"} 3\n' in said
    assert "secagg_nodes_connected 3\n" in said
    assert said.endswith("# EOF\n")
    with serving(folder / "..", 0) as (server, _), pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server.url}/metrics")  # noqa: S310  # ours


def test_settings_that_would_send_tokens_in_clear_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="in clear"):
        settings(folder, listen="0.0.0.0:8443")
    assert settings(folder, listen="0.0.0.0:8443", behind_proxy=True).address[1] == 8443
    for url in ("http://sums.example.org", "http://10.0.0.1:80", "ftp://x", "https://", "x"):
        with pytest.raises(InputError):
            join(url, folder, trained(1), policy=ANYBODY)


def test_one_server_and_one_node_work_in_a_folder(folder: Path) -> None:
    with serving(folder, 1) as (server, homes):
        with stopped(server, homes[1], trained(1)):
            server.wait_for(1)
        assert isinstance(server.settings, ServerSettings)
        taken = server.url.removeprefix("http://")
        with pytest.raises(RunError, match="cannot listen"):
            Server(replace(server.settings, listen=taken))


def test_a_model_that_is_not_finite_is_refused_before_anybody_is_asked(folder: Path) -> None:
    with serving(folder, 0) as (server, _), pytest.raises(InputError, match="NaN"):
        server.sums("train", WeightedMean()).run({"a": np.array([np.nan])}, nodes=3)


@pytest.mark.slow
def test_two_hundred_nodes_of_one_process_sum_a_hundred_thousand_entries(folder: Path) -> None:
    model = {"weight": np.zeros(100_000, np.float32)}
    with serving(folder, 200) as (server, homes), joined(server.url, homes):
        outcome = server.sums("train", MEAN).run(model, nodes=200)
        check_moved(outcome.model, [*homes])
        assert len(outcome.report.survivors) == 200


def test_a_line_that_was_closed_for_want_of_use_costs_no_call(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "IDLE", 0.1)
    with serving(folder, 1) as (server, homes):
        node = ByHand(server.url, homes[1])
        for _ in range(3):
            assert node.call("POST", f"/v1/task/{'00' * 16}", b"x")[0] == 409
            time.sleep(0.3)


def test_a_call_of_two_lengths_is_refused(folder: Path) -> None:
    """A proxy and a server that each believe another one see two calls where the other sees one."""
    both = "Content-Length: 4\r\nTransfer-Encoding: chunked"
    with serving(folder, 1) as (server, homes):
        node = ByHand(server.url, homes[1])
        for header in (both, "Content-Length: 4\r\nContent-Length: 5", "Content-Length: +4"):
            assert raw(node, f"POST /v1/task/{'00' * 16}", header, b"0\r\n\r\n")[0] == 400


def test_a_full_disk_is_one_line_on_both_sides(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise RunError("cannot keep the server's state: disk full")

    with serving(folder, 1) as (server, homes):
        node = ByHand(server.url, homes[1])
        monkeypatch.setattr(server.store, "member", full)
        assert node.call("GET", "/v1/task") == (
            503,
            b"this cannot be answered now; the server's log says why\n",
        )
    assert sum("disk full" in record.message for record in caplog.records) == 1


def test_sums_that_come_to_nothing_end_a_plan(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(folder / "start.npz", MODEL)
    given = {"purpose": "train", "model": folder / "start.npz", "pause": 0.0, "nodes": 3}
    with serving(folder, 3, deadline=0.05) as (server, homes):
        server.app.seen |= dict.fromkeys(homes, time.monotonic())  # they only look connected
        with pytest.raises(NodeError, match="3 sums of train in a row came to nothing"):
            run_plan(server, SumPlan(**given))
        assert server.store.model("train") is None


@pytest.mark.parametrize("raising", [False, True])
def test_what_a_program_raises_at_its_machines_expense_still_answers(
    folder: Path, raising: bool
) -> None:
    def train(model: Any, proposal: Any) -> Any:
        if raising:
            raise SystemExit("a program that would end its node")
        return {"bias": np.zeros(3)}, {}

    with beside_four(folder) as (server, hostile), stopped(server, hostile.node.home, train):
        outcome = server.sums("train", MEAN).run(MODEL, nodes=5)
    check_moved(outcome.model, HONEST)
    assert sum(outcome.report.reasons.values()) == 1


def test_some_changed_bodies_are_refused_by_name(folder: Path) -> None:
    """A small run of what ``benchmarks/http_sums.py mutants`` does a hundred thousand times."""
    path = Path(__file__).parents[3] / "benchmarks" / "http_sums.py"
    mutants = runpy.run_path(str(path))["mutants"]
    found = mutants(argparse.Namespace(bodies=150, seed=7))
    statuses = {name.removeprefix("raw ") for name in found["statuses"]}
    assert sum(found["statuses"].values()) == 150
    fine = {"204", "400", "401", "404", "405", "408", "409", "413", "429"}
    assert statuses <= fine | {"cut off", "waited for more"}


def test_a_call_that_is_none_is_one_line_on_both_sides(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(folder, 1) as (server, homes):
        node = ByHand(server.url, homes[1])
        calls = (
            "GET /",
            "GET /v1/task/",
            "PUT /v1/task",
            "POST /healthz",
            "GET /docs",
            "GET /x%0Ay",
        )
        for call in calls:
            status, said = raw(node, call, "Content-Length: 0", b"")
            assert (status in (404, 405), said) == (True, b"no such call\n")
    refusals = [record for record in caplog.records if "refused" in record.message]
    assert len(refusals) == len(calls)
    assert all(record.message.isprintable() for record in refusals)


def test_a_cohort_that_signs_sums_against_a_server_that_lies(folder: Path) -> None:
    operator = create_identity(folder / "operator.key", "operator")
    with serving(folder, 4) as (server, homes):
        members = {}
        for number, home in homes.items():
            identity = create_identity(home / "identity.key", f"node-{number}")
            members[4 - number] = (identity.name, identity.key.public)
        signed = sign_roster(operator, members)
        for home in homes.values():
            (home / "roster.json").write_bytes(signed)
        policy = replace(ANYBODY, active=True, operator=operator.key.public)
        roster = Roster.read(signed, operator=operator.key.public)
        with joined(server.url, homes, policy=policy):
            sums = server.sums("train", MEAN, SumSettings(roster=roster))
            for _ in range(2):
                outcome = sums.run(MODEL, nodes=4)
                check_moved(outcome.model, [*homes])
                assert [stage.stage for stage in outcome.report.stages] == list(Stage)


def test_noise_of_clients_is_charged_on_both_sides(folder: Path) -> None:
    mechanism = DistributedNoise(
        entries=8, clip=1.0, noise_multiplier=2.0, clients=4, minimum_survivors=3
    )
    ledger = Ledger.create(folder / "ledger.sqlite", Budget(epsilon=50.0, delta=1e-5))
    policy = replace(ANYBODY, maximum_epsilon=50.0, corrupt_fraction=0.0)
    noisy = NoisySum(mechanism=mechanism, ledger=ledger)
    with serving(folder, 4) as (server, homes), joined(server.url, homes, policy=policy):
        outcome = server.sums("train", noisy).run(MODEL, nodes=4)
        assert outcome.report.survivors == (1, 2, 3, 4)
        assert [each.subject for each in ledger.reservations()] == ["1", "2", "3", "4"]
        for home in homes.values():
            with Ledger.open(home / "ledger.sqlite") as own:
                assert len(own.reservations()) == 1


def test_a_node_whose_token_was_taken_back_is_asked_no_more(folder: Path) -> None:
    with serving(folder, 4) as (server, homes), joined(server.url, homes):
        sums = server.sums("train", MEAN)
        sums.run(MODEL, nodes=4)
        server.store.revoke("node-4")
        outcome = sums.run(MODEL, nodes=3)
        assert outcome.report.nodes == (1, 2, 3)
        check_moved(outcome.model, [1, 2, 3])


@pytest.mark.parametrize("entries", [0, 1_500_000])
def test_metrics_are_summed_over_a_model_of_any_size(folder: Path, entries: int) -> None:
    model = {"weight": np.zeros(entries, np.float32)} if entries else {}
    summed = replace(MEAN, evaluate_metrics={"loss": 10.0})
    with serving(folder, 3) as (server, homes), joined(server.url, homes):
        outcome = server.sums("evaluate", summed).run(model, nodes=3)
    assert outcome.model.keys() == model.keys()
    assert outcome.metrics["loss"] == pytest.approx(
        sum((1 + n % 7) * (n % 5) for n in homes) / sum(1 + n % 7 for n in homes), abs=1e-6
    )


def test_an_interrupt_ends_a_node_whose_program_trains(folder: Path) -> None:
    begun, held = threading.Event(), threading.Event()

    def train(model: Any, proposal: Any) -> Any:
        begun.set()
        held.wait(20)
        return model, {}

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            join(server.url, home, train, policy=ANYBODY, stop=Interrupts())

    class Interrupts(threading.Event):
        def is_set(self) -> bool:
            if begun.is_set():
                raise KeyboardInterrupt
            return False

    with serving(folder, 4) as (server, homes):
        home = homes.pop(4)
        with joined(server.url, homes), summing(server, 4) as found:
            node = threading.Thread(target=interrupted)
            node.start()
            assert begun.wait(20)
            server.app._wake([4])
            server.app.tasks.close()
            node.join(10)
            assert not node.is_alive()
            held.set()
            assert found.exception(10)


@pytest.mark.parametrize("behind_proxy", [True, False])
def test_an_address_is_taken_from_a_proxy_only_where_there_is_one(
    folder: Path, behind_proxy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(folder, 1, behind_proxy=behind_proxy) as (server, homes):
        node = ByHand(server.url, homes[1])
        node.token = "0" * 64
        assert raw(node, "GET /v1/task", "X-Forwarded-For: 192.0.2.7", b"")[0] == 401
    (refusal,) = (record for record in caplog.records if "refused" in record.message)
    found = refusal.fields["address"]  # type: ignore[attr-defined]  # set by log
    assert found == ("192.0.2.7" if behind_proxy else "127.0.0.1")


def test_wrong_tokens_are_counted_by_address_and_a_right_one_is_not(folder: Path) -> None:
    with serving(folder, 1) as (server, homes):
        node, stranger = (ByHand(server.url, homes[1]) for _ in range(2))
        stranger.link._headers = {"Authorization": f"Bearer {'0' * 64}"}
        codes = [stranger.call("GET", "/v1/model/00")[0] for _ in range(lines.BURST + 10)]
        assert codes[0] == 401
        assert codes[-1] == 429
        assert node.call("GET", "/v1/model/00")[0] == 404
