"""A vector larger than memory should need: 124 million entries (GPT-2 small), 10 clients.

Each client quantises, packs and masks part by part; the server spools an upload
on disk and keeps one accumulator. Client and server run in processes of their
own, so that the peak memory of each is its own.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocols.bonawitz import Params
from protocols.testing import agreement_of, played
from secagg import FixedPoint, Layout, Segment
from secagg.rounds.masking import expand
from secagg.rounds.spool import Spool

ENTRIES, CLIENTS = 124_000_000, 10
LAYOUT = Layout(
    segments=(Segment(name="u", entries=ENTRIES, codec=FixedPoint(clip=1.0, bits=17)),),
    clients=CLIENTS,
)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def session(seconds: dict[str, float]) -> None:
    """All parties in turn; the input is one array of constants in parts, so nearly no memory."""
    part = np.full(2**15, 12345, np.uint64)
    full, rest = divmod(LAYOUT.words, len(part))
    agreement = agreement_of(Params(clients=CLIENTS, threshold=6, words=LAYOUT.words))
    began, worked = time.perf_counter(), time.process_time()
    base = peak_megabytes()
    made = played(agreement, dict.fromkeys(range(CLIENTS), part), "boxes")
    server, states, boxes = made.server, dict(made.states), made.boxes
    for client in range(CLIENTS):
        parts = (part[: len(part) if index < full else rest] for index in range(full + 1))
        start = time.perf_counter()
        frames, states[client] = states[client].on_boxes(boxes[client], parts, expand=expand)
        with Spool() as spool:
            for frame in frames:
                spool.append(frame)
            seconds["clients"] = seconds.get("clients", 0) + time.perf_counter() - start
            start = time.perf_counter()
            server.receive(spool)
            seconds["server"] = seconds.get("server", 0) + time.perf_counter() - start
    survivors, server = server.close()
    for client in range(CLIENTS):
        server.receive(states[client].on_survivors(survivors[client]))
    start = time.perf_counter()
    total = server.close(expand)
    seconds["server"] += time.perf_counter() - start
    seconds["all"] = time.perf_counter() - began
    seconds["of the processor"] = time.process_time() - worked
    seconds["peak_megabytes"] = peak_megabytes()
    seconds["of which before the round"] = base
    if not (total.words == CLIENTS * 12345).all():
        raise SystemExit("wrong sum")


def encoding(seconds: dict[str, float]) -> None:
    """What a client does before it masks, on its own input of floats."""
    update = np.full(ENTRIES, 0.25, np.float32)
    before = peak_megabytes()
    start = time.perf_counter()
    for _ in LAYOUT.encode_parts({"u": update}):
        pass
    seconds["encode"] = time.perf_counter() - start
    seconds["encode_extra_megabytes"] = peak_megabytes() - before


def _apart(what: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), what], capture_output=True, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("what", ["session", "encoding"])
def test_124_million_entries(benchmark: Any, what: str) -> None:
    result = benchmark.pedantic(_apart, args=(what,), rounds=1)
    benchmark.extra_info.update(result)
    print({name: round(value, 2) for name, value in result.items()})


if __name__ == "__main__":
    measured: dict[str, float] = {}
    {"session": session, "encoding": encoding}[sys.argv[1]](measured)
    print(json.dumps(measured))
