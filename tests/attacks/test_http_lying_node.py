"""What a node that lies can do over HTTP: lose its own place in a sum."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from serving import ByHand, check_moved, joined, serving, summing

from protocols.errors import RemoteProtocolError
from secagg.adapters.http import Server
from secagg.nodes import Answer, Request
from secagg.nodes import tasks as tasks_of
from secagg.stage import UNSIGNED, Stage

LIAR, HONEST = 4, [1, 2, 3]


def beside(server: Server) -> None:
    server.app.seen[LIAR] = time.monotonic()


@pytest.mark.parametrize("stage", UNSIGNED)
def test_an_answer_of_an_earlier_sum_is_none_in_the_next(folder: Path, stage: Stage) -> None:
    with serving(folder, LIAR) as (server, homes):
        liar = ByHand(server.url, homes.pop(LIAR), LIAR)
        bodies: dict[Stage, bytes] = {}
        with joined(server.url, homes):
            beside(server)
            with summing(server, LIAR) as found:
                for each in UNSIGNED:
                    name, request = liar.until(each)
                    bodies[each] = liar.answer(request)
                    assert liar.call("POST", f"/v1/task/{name}", bodies[each])[0] == 204
                check_moved(found.result(20).model, [*HONEST, LIAR])
            beside(server)
            with summing(server, LIAR) as found:
                name, _ = liar.until(stage)
                assert liar.call("POST", f"/v1/task/{name}", bodies[stage])[0] == 400
                outcome = found.result(20)
        inside = [*HONEST, LIAR] if stage is Stage.REVEAL else HONEST  # its vector had come
        assert list(outcome.report.survivors) == inside
        check_moved(outcome.model, inside)


def test_an_answer_in_anothers_name_is_none(folder: Path) -> None:
    with serving(folder, LIAR) as (server, homes):
        liar = ByHand(server.url, homes.pop(LIAR), LIAR)
        with joined(server.url, homes):
            beside(server)
            with summing(server, LIAR) as found:
                name, request = liar.until(Stage.ADVERTISE)
                other = replace(request, client=(request.client + 1) % LIAR)
                code, said = liar.call("POST", f"/v1/task/{name}", liar.answer(other))
                assert (code, said.count(b"\n")) == (400, 1)
                outcome = found.result(20)
        check_moved(outcome.model, HONEST)


def test_two_tokens_of_one_node_are_two_numbers_and_a_renewed_one_is_not(folder: Path) -> None:
    with serving(folder, 1) as (server, _):
        first = server.store.invite("node-1")
        member = server.store.member(first)
        second = server.store.invite("node-1")
        assert server.store.member(first) is None
        assert server.store.member(second) == member


@pytest.mark.parametrize("kept", [True, False])
def test_an_answer_is_taken_once_though_two_calls_bring_it_at_once(
    folder: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removed: a task that stays open takes its answer twice, and the second is counted too."""
    if not kept:
        monkeypatch.setattr(tasks_of.Tasks, "_claim", lambda *_: True)
    with serving(folder, LIAR) as (server, homes):
        liar = ByHand(server.url, homes[LIAR], LIAR)
        server.app.seen |= dict.fromkeys(homes, time.monotonic())  # the others only look connected
        with summing(server, LIAR) as found:
            name, request = liar.until(Stage.ADVERTISE)
            answer, came = Answer.from_bytes(liar.answer(request)), list[object]()
            task = server.app.tasks.find(LIAR, bytes.fromhex(name))
            assert task is not None

            def bring() -> None:
                try:
                    came.append(server.app.tasks.take(task, answer, 1))
                except RemoteProtocolError:
                    came.append("counted, and refused")

            both = [threading.Thread(target=bring) for _ in range(2)]
            for each in both:
                each.start()
            for each in both:
                each.join()
            assert True in came
            assert (False if kept else "counted, and refused") in came
            server.app.tasks.close()
            assert found.exception(10)


def test_many_messages_take_no_more_than_their_request_allows(folder: Path) -> None:
    with serving(folder, LIAR) as (server, homes):
        liar = ByHand(server.url, homes.pop(LIAR), LIAR)
        with joined(server.url, homes):
            beside(server)
            with summing(server, LIAR, {"weight": np.zeros(300_000, np.float32)}) as found:
                name, request = liar.until(Stage.MASK)
                assert isinstance(request, Request)
                flood = Answer(messages=(b"",) * 400_000, state=None).to_bytes()
                code, _ = liar.call("POST", f"/v1/task/{name}", flood)
                assert code in (400, 413)
                check_moved(found.result(20).model, HONEST)
