"""Whole rounds over clients, entries and dropouts; and one of 100 clients over 10**6 entries.

``test_a_round`` carries sessions of every protocol in turn, and reports the complete graph beside
the others; ``secagg bench costs`` sweeps further. Of the large round one client's work and the
server's last step are timed alone, all on one core; ``extra_info`` holds the milliseconds of each
stage.
"""

import copy
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from protocols.bonawitz import CollectReveals, Params, join
from protocols.testing import agreement_of, insecure_entropy, played
from secagg.bench.costs import Case, measure
from secagg.bench.measure import Interleaved, Timed, Work
from secagg.bench.quick import protocols

Measure = Callable[..., Interleaved]

CLIENTS, DROPPED = 100, 10
WORDS = 333_334  # 10**6 entries at three lanes a word
ME = 0
AGREEMENT = agreement_of(Params(clients=CLIENTS, threshold=51, words=WORDS))
INPUT = np.arange(WORDS, dtype=np.uint64)


@dataclass(frozen=True)
class Recorded:
    """What one honest round sent to client ``ME``, and the server that waits for reveals."""

    roster: bytes
    boxes: bytes
    survivors: bytes
    reveals: CollectReveals
    answers: list[bytes]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    inputs = dict.fromkeys(range(CLIENTS), INPUT)
    made = played(AGREEMENT, inputs, "survivors", alive=range(CLIENTS - DROPPED))
    answers, _ = made.answers()
    return Recorded(
        made.rosters[ME], made.boxes[ME], made.survivors, made.server, list(answers.values())
    )


def session(case: Case) -> Work:
    def carry() -> Timed:
        cost = measure(case)
        client = cost.client_seconds + cost.decryptor_seconds
        return Timed(seconds={"client": client, "server": cost.server_seconds}, result=cost)

    return carry


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("entries", [1000, 30_000])
@pytest.mark.parametrize("clients", [10, 40])
def test_a_round(interleaved: Measure, clients: int, entries: int, dropout: float) -> None:
    cases = {
        name: Case(protocol=name, clients=clients, entries=entries, dropout=dropout)
        for name in protocols()[0]
    }
    cost = measure(cases["complete"])
    interleaved(
        {name: session(case) for name, case in cases.items()},
        "complete",
        beside="x25519",
        sizes={"up": cost.bytes_up, "down": cost.bytes_down},
        rounds=7,
    )


def test_client(benchmark: BenchmarkFixture, recorded: Recorded) -> None:
    stages: dict[str, list[float]] = defaultdict(list)

    def client() -> bytes:
        times = [time.perf_counter()]
        _, roster = join(AGREEMENT, ME, insecure_entropy(ME))
        times.append(time.perf_counter())
        _, boxes = roster.on_roster(recorded.roster)
        times.append(time.perf_counter())
        frames, survivors = boxes.on_boxes(recorded.boxes, INPUT)
        for _ in frames:
            pass
        times.append(time.perf_counter())
        answer = survivors.on_survivors(recorded.survivors)
        times.append(time.perf_counter())
        names = ("advertise", "share", "mask", "reveal")
        for name, (begin, end) in zip(names, itertools.pairwise(times), strict=True):
            stages[name].append(1e3 * (end - begin))
        return answer

    answer = benchmark(client)
    assert answer == recorded.answers[ME]
    for name, times in stages.items():
        benchmark.extra_info[f"{name}_ms"] = round(statistics.median(times), 3)


def test_server_unmask(benchmark: BenchmarkFixture, recorded: Recorded) -> None:
    def waiting() -> tuple[tuple[CollectReveals], dict[str, object]]:
        reveals = copy.deepcopy(recorded.reveals)
        for answer in recorded.answers:
            reveals.receive(answer)
        return (reveals,), {}

    pedantic: Any = benchmark.pedantic  # it comes without types
    released = pedantic(CollectReveals.close, setup=waiting, rounds=7, warmup_rounds=1)
    assert np.array_equal(released.words, INPUT * np.uint64(CLIENTS - DROPPED))
    benchmark.extra_info["masks"] = CLIENTS - DROPPED + DROPPED * (CLIENTS - DROPPED)
