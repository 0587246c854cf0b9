"""A node that trains for ever holds a sum up until the deadline of the stage, and no longer."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from between import SHAPES, Machines, check_mean, mean_of

from secagg.nodes.carry import Carrier, StageCalls
from secagg.nodes.coordinator import FinishedSum
from secagg.nodes.messages import Request
from secagg.nodes.reports import SumReport
from secagg.nodes.tasks import ID_SIZE, Tasks
from secagg.stage import Stage
from secagg.vectors.arrays import model_digest

SIX, STRAGGLER = tuple(range(100, 106)), 104
DEADLINE, HANGS = 2.0, 30.0  # seconds; a test that takes the second has failed


def in_time(work: Callable[[], None]) -> None:
    done = threading.Thread(target=work, daemon=True)
    done.start()
    done.join(HANGS)
    assert not done.is_alive(), "the sum waits for its straggler"


def test_a_sum_of_nodes_that_fetch_tasks_goes_on_without_its_straggler(folder: Path) -> None:
    machines, tasks, late = Machines(folder, SIX), Tasks(), list[bool]()
    coordinator, report = mean_of(), SumReport(purpose="train", nodes=SIX)
    released, finished = threading.Event(), list[FinishedSum]()

    def node(me: int, stop: threading.Event) -> None:
        while not stop.wait(0.005):
            if (task := tasks.next(me)) is None or (data := task.to_bytes()) is None:
                continue
            answer = machines.answer(me, Request.from_bytes(data[ID_SIZE:]))
            if me == STRAGGLER and task.stage is Stage.MASK:
                released.wait(HANGS)  # it has its task, and trains
                late.append(tasks.take(task, answer, 0))
                return
            tasks.take(task, answer, 0)

    def server() -> None:
        under_way = coordinator.begin("train", SIX, model=machines.model, shapes=SHAPES)
        for ask in under_way.asks():
            limit = DEADLINE if ask.stage is Stage.MASK else HANGS
            tasks.carry(under_way, ask, limit, report)
        finished.append(under_way.finish())

    stop = threading.Event()
    nodes = [threading.Thread(target=node, args=(me, stop), daemon=True) for me in SIX]
    for each in nodes:
        each.start()
    in_time(server)
    released.set()
    nodes[SIX.index(STRAGGLER)].join(HANGS)
    stop.set()
    (done,) = finished
    assert STRAGGLER not in done.survivors
    check_mean(done, machines)
    assert late == [False]  # what came behind the deadline was not looked at


@pytest.mark.parametrize("reply", ["late", "never"])
def test_a_sum_over_calls_takes_nothing_that_comes_behind_the_deadline(
    folder: Path, reply: str
) -> None:
    machines, carrier = Machines(folder, SIX), Carrier(mean_of())
    limits, behind = list[float](), list[Callable[[], None]]()
    start = {"weight": np.zeros((2, 2)), "bias": np.zeros(())}
    machines.model = model_digest(start)

    def send(calls: StageCalls[str]) -> None:
        limits.append(calls.seconds)
        for given in behind:
            given()  # a reply to the stage before
        behind.clear()
        for name, data in calls.requests.items():
            answer = machines.answer(int(name), Request.from_bytes(data)).to_bytes()
            if int(name) == STRAGGLER and calls.masks:
                if reply == "late":
                    behind.append(partial(calls.take, name, answer))
                continue
            calls.take(name, answer)

    nodes = [str(node) for node in SIX]
    finished, _ = carrier.carry(
        "train", start, nodes, send, deadline=HANGS, train_deadline=DEADLINE
    )
    assert limits == [HANGS, HANGS, DEADLINE, HANGS]
    assert len(finished.survivors) == len(SIX) - 1
