"""How long clients of uneven speed take to a target: synchronous rounds against buffered sums.

    python benchmarks/buffered.py --json benchmarks/results/buffered.json

Softmax regression on digits, ``--clients`` of them with Dirichlet .5, each with a speed of its own:
the time of one training is log-normal with sigma 1 among clients, and each training differs by a
log-normal of sigma .1. The clock is simulated; the sums are not: every buffered sum goes through
the coordinator, nodes with policies and burn records, and every stage of the protocol, and is
compared, word for word, with the plain sum of what the survivors brought.

| way | a round is |
|---|---|
| all | everybody trains, the mean comes when the slowest is done |
| drawn | K are drawn, the mean comes when the slowest of them is done |
| mixed | everybody trains all the time; K who have rung are a sum, of versions of 3 clients each |
| alike | the same, all of one version: what policies allow by default |
"""

import argparse
import heapq
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import exp, sqrt
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from secagg.adapters.testing import ANYTHING, Machines, carry
from secagg.nodes import Contribution, Coordinator, Proposal, SumSettings, WeightedMean
from secagg.nodes.buffer import Buffer
from secagg.training.data import federate
from secagg.vectors.arrays import model_digest

SIGMA, JITTER = 1.0, 0.1
PATIENCE = 5.0  # times the median training: no buffered sum waits longer for those of a version
MEAN = WeightedMean(clip=8.0, max_weight=500)
Vector = NDArray[np.float64]


@dataclass
class Task:
    """The data, how a client trains, and how long it takes."""

    clients: int
    seed: int
    steps: int = 10
    rate: float = 0.5
    speeds: Vector = field(init=False)

    def __post_init__(self) -> None:
        self.data = federate(
            "digits", clients=self.clients, partition="dirichlet:0.5", seed=self.seed
        )
        self.features = self.data.clients[0].features.shape[1]
        self.draw = np.random.default_rng([self.seed, 0xB0F])
        self.speeds = np.exp(self.draw.normal(0, SIGMA, self.clients))

    def seconds(self, client: int) -> float:
        return float(self.speeds[client] * exp(self.draw.normal(0, JITTER)))

    def new(self) -> Vector:
        return np.zeros((self.features + 1) * self.data.classes)

    def train(self, client: int, start: Vector) -> Vector:
        """The difference that some full-batch steps make."""
        own, weights = self.data.clients[client], start.reshape(self.features + 1, -1).copy()
        rows = np.hstack([own.features, np.ones((len(own), 1))])
        wanted = np.eye(self.data.classes)[own.labels]
        for _ in range(self.steps):
            weights -= self.rate * rows.T @ (_softmax(rows @ weights) - wanted) / len(own)
        return weights.reshape(-1) - start

    def accuracy(self, model: Vector) -> float:
        held = self.data.evaluation
        scores = np.hstack([held.features, np.ones((len(held), 1))]) @ model.reshape(
            self.features + 1, -1
        )
        return float((scores.argmax(1) == held.labels).mean())

    def mean(self, clients: list[int], start: Vector) -> Vector:
        weights = [len(self.data.clients[client]) for client in clients]
        return np.average([self.train(c, start) for c in clients], axis=0, weights=weights)


def _softmax(scores: Vector) -> Vector:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: Vector = powers / powers.sum(axis=1, keepdims=True)
    return found


@dataclass
class Run:
    """One way to its end: the clock and the accuracy after each round."""

    way: str
    points: list[tuple[float, float]] = field(default_factory=list)
    trained: int = 0  # times that a client trained to the end
    dropped: int = 0  # of which so many came too late to be in any sum
    slowest: float = 0.0  # share of the slowest quarter in what was summed
    stale: float = 0.0  # versions behind, on average

    def time_to(self, target: float) -> float | None:
        return next((clock for clock, reached in self.points if reached >= target), None)


def synchronous(task: Task, way: str, until: float, size: int | None = None) -> Run:
    run, model, clock = Run(way), task.new(), 0.0
    while clock < until:
        everybody = np.arange(task.clients)
        chosen = everybody if size is None else task.draw.choice(everybody, size, replace=False)
        clock += max(task.seconds(client) for client in chosen)
        model = model + task.mean(chosen.tolist(), model)
        run.trained += len(chosen)
        run.points.append((clock, task.accuracy(model)))
    return run


@contextmanager
def brought() -> Iterator[dict[int, NDArray[np.uint64]]]:
    """The words of each client of the sums that are under way."""
    encode, found = Proposal.encode, dict[int, NDArray[np.uint64]]()

    def watched(proposal: Proposal, own: Any, client: int = 0) -> Any:
        found[client] = encode(proposal, own, client)
        return found[client]

    with mock.patch.object(Proposal, "encode", watched):
        yield found


def buffered(
    task: Task, way: str, folder: Path, until: float, buffer: Buffer, stop: Callable[[Run], bool]
) -> Run:
    """Everybody trains, rings, and trains on, on the newest model as soon as its sum is through."""
    run, coordinator = Run(way), Coordinator(MEAN, SumSettings())
    models, updates, behind = dict[int, Vector](), dict[int, Vector](), list[int]()
    policy = replace(ANYTHING, maximum_staleness=1000, minimum_same=3)
    machines = Machines(
        folder,
        tuple(range(task.clients)),
        policy=policy,
        work=lambda node, _: Contribution(
            vector=updates[node], weight=len(task.data.clients[node]), metrics={}
        ),
    )
    model, shapes = task.new(), (("model", task.new().shape),)
    models[buffer.publish(model_digest({"model": model}))] = model
    waiting: list[tuple[float, int, int]] = []
    slow, took_part = task.speeds > np.quantile(task.speeds, 0.75), np.zeros(task.clients)

    def start(clock: float, client: int) -> None:
        heapq.heappush(waiting, (clock + task.seconds(client), client, buffer.start(client)))

    for client in range(task.clients):
        start(0.0, client)
    last = 0.0
    with brought() as words:
        while waiting and waiting[0][0] < until and not stop(run):
            clock, client, version = heapq.heappop(waiting)
            run.trained += 1
            updates[client] = task.train(client, models[version])
            machines.shown[client] = model_digest({"model": models[version]})
            if not buffer.ring(client, version):
                run.dropped += 1
                start(clock, client)
            while session := buffer.take(patient=clock < last + PATIENCE):
                last = clock
                words.clear()
                machines.model = session.model_digest
                finished = carry(
                    coordinator, machines, nodes=session.nodes, shapes=shapes, session=session
                )
                check(finished.proposal, finished.result, words)
                took_part[list(finished.survivors)] += 1
                behind += [buffer.newest - session.nodes[node] for node in finished.survivors]
                model = model + session.factor * finished.model_update
                before = buffer.waiting
                models[buffer.publish(model_digest({"model": model}))] = model
                run.points.append((clock, task.accuracy(model)))
                late = before.keys() - buffer.waiting.keys()
                run.dropped += len(late)
                for node in (*session.nodes, *late):
                    start(clock, node)
    run.slowest = float(took_part[slow].sum() / max(took_part.sum(), 1))
    run.stale = float(np.mean(behind)) if behind else 0.0
    return run


def check(proposal: Proposal, result: Any, words: dict[int, NDArray[np.uint64]]) -> None:
    """The decoded total is that of the integers that the survivors brought."""
    plain = np.sum([words[client] for client in result.survivors], axis=0, dtype=np.uint64)
    expected = proposal.decode(plain, result.survivors)
    if result.weight != expected.weight or not np.array_equal(result.vector, expected.vector):
        raise SystemExit("a sum is not that of the words that went into it")


def ways(clients: int, size: int, seed: int, until: float) -> list[Run]:
    weights = tuple(round(64 / sqrt(1 + behind)) for behind in range(200))
    found = [
        synchronous(Task(clients, seed), "all", until),
        synchronous(Task(clients, seed), "drawn", until, size),
    ]
    target = max(accuracy for _, accuracy in found[0].points) - 0.01
    for way, same in (("mixed", 3), ("alike", None)):
        buffer = Buffer(size=size, weights=weights, minimum_same=same)
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # no disk timed
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            found.append(
                buffered(
                    Task(clients, seed),
                    way,
                    Path(folder),
                    until,
                    buffer,
                    lambda run: bool(run.points) and run.points[-1][1] >= target,
                )
            )
    return found


def row(run: Run, target: float) -> dict[str, Any]:
    return {
        "way": run.way,
        "time": run.time_to(target),
        "best": max((accuracy for _, accuracy in run.points), default=0.0),
        "sums": len(run.points),
        "trained": run.trained,
        "dropped": run.dropped,
        "slowest_quarter": run.slowest,
        "stale": run.stale,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--size", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--until", type=float, default=2000.0, help="of the simulated clock")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = []
    for seed in range(given.seeds):
        runs = ways(given.clients, given.size, seed, given.until)
        target = max(accuracy for _, accuracy in runs[0].points) - 0.01
        rows = [row(run, target) for run in runs]
        found.append({"seed": seed, "target": target, "ways": rows})
        for each in rows:
            print(seed, f"target {target:.4f}", each)
    if given.json:
        about = {"clients": given.clients, "size": given.size, "until": given.until}
        given.json.write_text(json.dumps({**about, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
