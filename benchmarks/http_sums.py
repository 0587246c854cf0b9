"""What a sum over HTTP on loopback costs, and of what: bytes, cryptography, and all the rest.

    python benchmarks/http_sums.py sums --nodes 20 --entries 1000000
    python benchmarks/http_sums.py sums --nodes 1000 --entries 10000 --sums 1
    python benchmarks/http_sums.py mutants --bodies 100000

``sums`` runs one server process and nodes in ``--processes`` others, without TLS. A sum is timed at
the server, from its proposal to the mean. The floor beside it is the time of all bytes, up and
down, at 1 GB/s, plus the CPU of the same sum among the same nodes in one process without a network:
their cryptography, their folders and the server's own work. ``mutants`` throws changed bodies at a
server that is asking for them, and shows its memory.
"""

import argparse
import json
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from protocols.errors import ProtocolError
from secagg.adapters.http import Server, ServerSettings, join
from secagg.adapters.http.link import Link
from secagg.adapters.http.store import Store
from secagg.files import write_new
from secagg.nodes import (
    Contribution,
    Coordinator,
    Node,
    NodePolicy,
    Request,
    SumSettings,
    WeightedMean,
    model_digest,
    new_folder,
)
from secagg.nodes.proposal import Failure
from secagg.vectors.arrays import flat, shapes_of

MEAN = WeightedMean(clip=1.0, max_weight=100)
POLICY = NodePolicy(
    allow_no_noise=True, graphs=("complete", "sparse"), sums_per_model=1000, maximum_cohort=5000
)
BYTES = 1e9  # a second


def trained(model: dict[str, Any], _: Any) -> tuple[Mapping[str, Any], Mapping[str, float]]:
    return {name: array + np.float32(0.01) for name, array in model.items()}, {"num-examples": 7}


def work(url: str, homes: list[Path]) -> None:
    """A process of nodes, a thread each, until it is killed."""
    threading.stack_size(2**19)
    for home in homes:
        threading.Thread(
            target=join, args=(url, home, trained), kwargs={"policy": POLICY}, daemon=True
        ).start()
    threading.Event().wait()


def cpu_of(processes: list[Any]) -> float:
    """CPU seconds of these so far."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def make_homes(folder: Path, store: Store, nodes: int) -> list[Path]:
    homes = []
    for number in range(nodes):
        home = new_folder(folder / f"node-{number}")
        write_new(home / "token", store.invite(f"node-{number}").encode(), private=True)
        homes.append(home)
    return homes


@contextmanager
def serving(folder: Path, nodes: int, processes: int) -> Iterator[tuple[Server, list[Any]]]:
    settings = ServerSettings(
        state=folder / "server.sqlite",
        listen="127.0.0.1:0",
        deadline=300.0,
        train_deadline=300.0,
        rate=1000.0,
    )
    spawned = multiprocessing.get_context("spawn")
    with Server(settings) as server:
        homes = make_homes(folder, server.store, nodes)
        workers = [
            spawned.Process(target=work, args=(server.url, homes[place::processes]), daemon=True)
            for place in range(processes)
        ]
        for worker in workers:
            worker.start()
        try:
            server.wait_for(nodes)
            yield server, workers
        finally:
            for worker in workers:
                worker.kill()
                worker.join()


def without_network(folder: Path, nodes: int, entries: int, sums: int) -> float:
    """CPU seconds of one sum, of the last of so many, all parties in this process."""
    model = {"weight": np.zeros(entries, np.float32)}
    shapes, digest, spent = shapes_of(model), model_digest(model), 0.0
    coordinator = Coordinator(MEAN, SumSettings())
    parties = [Node(new_folder(folder / f"alone-{n}"), POLICY) for n in range(nodes)]
    states: dict[int, bytes | None] = {}

    def compute(_: Any) -> Contribution:
        after, numbers = trained(model, None)
        vector = flat(after, shapes, start=model)
        return Contribution(vector=vector, weight=int(numbers["num-examples"]), metrics={})

    for _ in range(sums):
        began = time.process_time()
        under_way = coordinator.begin("train", range(nodes), model=digest, shapes=shapes)
        for ask in under_way.asks():
            for node in under_way.asked(ask):
                request = under_way.request(ask, node)
                answer = parties[node].answer(
                    request, states.get(node), model=digest, compute=compute
                )
                states[node] = answer.state
                under_way.receive(ask, node, answer)
        under_way.finish()
        spent = time.process_time() - began
    return spent


def sums(given: argparse.Namespace) -> dict[str, Any]:
    model = {"weight": np.zeros(given.entries, np.float32)}
    found: list[dict[str, Any]] = []
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108  # a fresh folder
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        with serving(folder, given.nodes, given.processes) as (server, workers):
            runs = server.sums("train", MEAN)
            for _ in range(given.sums):
                wall, cpu, theirs = time.perf_counter(), time.process_time(), cpu_of(workers)
                outcome = runs.run(model, nodes=given.nodes)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                theirs = cpu_of(workers) - theirs
                off = np.abs(outcome.model["weight"] - np.float32(0.01)).max()
                if off > outcome.report.mean_error + 1e-7:
                    raise SystemExit("the sum is wrong")
                stages = outcome.report.stages
                total = sum(stage.bytes_up + stage.bytes_down for stage in stages)
                found.append(
                    {
                        "seconds": round(wall, 3),
                        "server CPU": round(cpu, 3),
                        "nodes' CPU": round(theirs, 3),
                        "bytes": total,
                        "bytes' seconds": round(total / BYTES, 3),
                        "stages": {str(s.stage): round(s.seconds, 3) for s in stages},
                    }
                )
        for place, each in enumerate(found):
            if given.nodes > given.floor_up_to:
                break
            alone = folder / f"alone {place}"
            alone.mkdir()
            each["CPU without network"] = round(
                without_network(alone, given.nodes, given.entries, place + 1), 3
            )
            floor = each["bytes' seconds"] + each["CPU without network"]
            each["over the floor"] = round(each["seconds"] / floor, 2)
            spent = each["server CPU"] + each["nodes' CPU"]
            each["CPU over the floor"] = round(spent / floor, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"sums": found, "server's peak, MiB": round(peak)}


def mutants(given: argparse.Namespace) -> dict[str, Any]:
    """Every body goes to a task of a sum that is under way, so that it is read, and not late."""
    model, draw = {"weight": np.zeros(100, np.float32)}, np.random.default_rng(given.seed)
    statuses, memory, bodies = Counter[str](), list[float](), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = ServerSettings(
            state=folder / "server.sqlite", listen="127.0.0.1:0", rate=1e6, deadline=300.0
        )
        with Server(settings) as server:
            hostile = [Hostile(server, home) for home in make_homes(folder, server.store, 30)]
            while bodies < given.bodies:
                server.app.seen |= dict.fromkeys(range(1, 31), time.monotonic())
                runner = threading.Thread(target=_try, args=(server, model), daemon=True)
                runner.start()
                for each in hostile:
                    statuses[each.attack(draw)] += 1
                bodies += len(hostile)
                runner.join(60)
                if bodies * 10 // given.bodies > len(memory):
                    memory.append(round(_resident(), 1))
    return {"bodies": bodies, "statuses": dict(statuses), "resident MiB": memory}


def _try(server: Server, model: dict[str, Any]) -> None:
    with suppress(ProtocolError):
        server.sums("train", MEAN).run(model, nodes=30)


class Hostile:
    """A node that sends what an accident left of an honest answer, or of the call around it."""

    def __init__(self, server: Server, home: Path) -> None:
        self._line, self._node, self._url = Link(server.url, home), Node(home, POLICY), server.url
        self._token = (home / "token").read_text()

    def attack(self, draw: np.random.Generator) -> str:
        status, data = 204, b""
        while status == 204:
            status, data = self._line.call("GET", "/v1/task", 2**26)
        task, request = data[:16].hex(), Request.from_bytes(data[16:])
        # Of the first stage, which needs no model; other bodies are read by the same code.
        answer = self._node.answer(request, None, model=b"", compute=lambda _: Failure.RAISED)
        match int(draw.integers(0, 4)):
            case 0:  # the call itself
                whole = mutated(self._written(task, answer.to_bytes()), draw)
                found = "raw " + self._send(whole)
                self._line.call("POST", f"/v1/task/{task}/decline", 2**16)
            case 1:  # with a length of its own
                body = mutated(answer.to_bytes(), draw)
                found = "raw " + self._send(self._written(task, body))
            case _:
                body = mutated(answer.to_bytes(), draw)
                status, _ = self._line.call("POST", f"/v1/task/{task}", 2**16, [body])
                found = str(status)
        return found

    def _written(self, task: str, body: bytes) -> bytes:
        head = (
            f"POST /v1/task/{task} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Authorization: Bearer {self._token}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _send(self, data: bytes) -> str:
        host, port = self._url.removeprefix("http://").split(":")
        line = socket.create_connection((host, int(port)), timeout=0.08)
        with line, suppress(ConnectionError):
            line.sendall(data)
            try:
                said = line.recv(64).split()
            except TimeoutError:
                return "waited for more"
            return said[1].decode("ascii", "replace") if len(said) > 1 else "cut off"
        return "cut off"


def mutated(data: bytes, draw: np.random.Generator) -> bytes:
    """One to four accidents."""
    changed = bytearray(data)
    for _ in range(draw.integers(1, 5)):
        place = int(draw.integers(0, len(changed) + 1))
        match int(draw.integers(0, 5)):
            case 0 if place < len(changed):
                changed[place] ^= 1 << int(draw.integers(0, 8))
            case 1:
                del changed[place : place + int(draw.integers(1, 50))]
            case 2:
                changed[place:place] = draw.bytes(int(draw.integers(1, 50)))
            case 3:
                changed[place : place + 4] = b"\xff\xff\xff\xff"
            case 4:
                del changed[place:]
    return bytes(changed)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("sums")
    one.add_argument("--nodes", type=int, default=20)
    one.add_argument("--entries", type=int, default=1_000_000)
    one.add_argument("--sums", type=int, default=3)
    one.add_argument("--processes", type=int, default=2)
    one.add_argument("--floor-up-to", type=int, default=100, help="nodes for which it is measured")
    one.set_defaults(run=sums)
    other = kinds.add_parser("mutants")
    other.add_argument("--bodies", type=int, default=100_000)
    other.add_argument("--seed", type=int, default=1)
    other.set_defaults(run=mutants)
    given = parser.parse_args()
    json.dump(given.run(given), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
