"""Sums over TLS between processes of their own, as people run them, killed and stalled for real."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from serving import (
    MEAN,
    MODEL,
    Authority,
    check_moved,
    free_port,
    let_time_pass,
    mean_of,
    settings,
    trained,
)

from secagg.adapters.http import Outcome, Server, join
from secagg.adapters.http.plans import read_model, write_model
from secagg.adapters.http.store import Store
from secagg.errors import InputError
from secagg.files import write_new
from secagg.nodes import new_folder
from secagg.nodes.policy import NodePolicy
from secagg.stage import UNSIGNED, Stage

PROGRAM = """\
import os
import numpy as np

def train(model, proposal):
    number = int(os.environ["NODE"])
    after = {name: array + np.float32(0.5 / (1 + number)) for name, array in model.items()}
    return after, {"num-examples": 1 + number % 7, "loss": float(number % 5)}
"""
SECAGG = (sys.executable, "-c", "from secagg.cli.main import main; main()")
READY = 30.0  # seconds, of a busy machine


class Processes:
    """Nodes as ``secagg join``, by number, and what each wrote on stderr."""

    def __init__(self, folder: Path, authority: Authority, *, own: bool = False) -> None:
        self.folder, self._authority, self._own = folder, authority, own
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        (folder / "clinic.py").write_text(PROGRAM)

    def make(self, number: int, store: Store) -> None:
        home = new_folder(self.folder / f"node-{number}")
        token = store.invite(f"node-{number}")
        write_new(home / "token", token.encode(), private=True)
        (home / "ca.pem").write_bytes(self._authority.path.read_bytes())
        if self._own:
            certificate, key = self._authority.sign(f"node-{number}")
            (home / "client.pem").write_bytes(certificate.read_bytes())
            (home / "client.key").write_bytes(key.read_bytes())

    def start(self, number: int, url: str) -> None:
        home = self.folder / f"node-{number}"
        self.running[number] = subprocess.Popen(
            [*SECAGG, "join", url, "--home", str(home), "--program", "clinic:train"],
            cwd=self.folder,
            env={**os.environ, "NODE": str(number), "PYTHONPATH": path_of_ours()},
            stderr=(home / "stderr").open("ab"),
        )

    def said(self, number: int) -> str:
        return (self.folder / f"node-{number}" / "stderr").read_text()

    def kill(self, number: int, how: int = signal.SIGKILL) -> None:
        self.running[number].send_signal(how)
        if how == signal.SIGKILL:
            self.running[number].wait()

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


def path_of_ours() -> str:
    return os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, sys.path)])


@contextmanager
def cluster(folder: Path, nodes: int, **change: Any) -> Iterator[tuple[Server, Processes]]:
    """A server of this process, TLS and mutual TLS, and nodes in processes of their own."""
    authority = Authority(folder)
    certificate, key = authority.sign("server")
    given = settings(folder, certificate=certificate, key=key, client_ca=authority.path, **change)
    processes = Processes(folder, authority, own=True)
    with Server(given) as server:
        try:
            for number in range(1, nodes + 1):
                processes.make(number, server.store)
                processes.start(number, server.url)
            wait_until(lambda: len(server.connected()) == nodes)
            yield server, processes
        finally:
            processes.close()


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + READY
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


@contextmanager
def when_asked(server: Server, node: int, stage: Stage, act: Callable[[], None]) -> Iterator[None]:
    """Act when a node is about to be handed its task of that stage, which it then is not.

    The stage ends when all others have answered, as if its deadline had passed.
    """
    tasks, real, done = server.app.tasks, server.app.tasks.next, list[bool]()

    def next_(who: int, busy: Any = ()) -> Any:
        task = real(who, busy)
        if task is None or who != node or task.stage is not stage or done:
            return task
        done.append(True)
        act()
        threading.Thread(target=let_time_pass, args=(server, node), daemon=True).start()
        return None

    tasks.next = next_  # type: ignore[method-assign]  # a test's own
    try:
        yield
    finally:
        tasks.next = real  # type: ignore[method-assign]  # as it was
        assert done


def test_ten_nodes_over_mutual_tls_one_killed_at_each_stage_and_one_stalled(folder: Path) -> None:
    every, model, moved = list(range(1, 11)), dict(MODEL), 0.0
    with cluster(folder, 10) as (server, nodes):
        sums = server.sums("train", MEAN)

        def check(outcome: Outcome, inside: list[int]) -> None:
            nonlocal model, moved
            assert list(outcome.report.survivors) == inside
            check_moved(outcome.model, inside, start=moved)
            model, moved = dict(outcome.model), moved + mean_of(inside)

        for number, stage in enumerate(UNSIGNED, 1):
            with when_asked(server, number, stage, partial(nodes.kill, number)):
                outcome = sums.run(model, nodes=10)
            check(outcome, [n for n in every if n != number or stage is Stage.REVEAL])
            wait_until(lambda: len(server.connected()) == 9)  # the broken line was noticed
            nodes.start(number, server.url)
            wait_until(lambda: len(server.connected()) == 10)
        with when_asked(server, 7, Stage.MASK, partial(nodes.kill, 7, signal.SIGSTOP)):
            check(sums.run(model, nodes=10), [n for n in every if n != 7])
        nodes.kill(7, signal.SIGCONT)
        check(sums.run(model, nodes=10), every)
        assert not any("Traceback" in nodes.said(n) for n in every)


def test_who_has_no_certificate_or_does_not_trust_the_servers_gets_nowhere(folder: Path) -> None:
    authority, other = Authority(folder), Authority(folder, "stranger")
    certificate, key = authority.sign("server")
    given = settings(folder, certificate=certificate, key=key, client_ca=authority.path)
    with Server(given) as server:
        home = new_folder(folder / "node")
        write_new(home / "token", server.store.invite("node").encode(), private=True)
        (home / "ca.pem").write_bytes(other.path.read_bytes())
        with pytest.raises(InputError, match="the server's certificate is not to be trusted"):
            join(server.url, home, trained(1), policy=NodePolicy())
        (home / "ca.pem").write_bytes(authority.path.read_bytes())
        for certificate_of in (None, other):
            if certificate_of:
                for path, name in zip(
                    certificate_of.sign("me"), ("client.pem", "client.key"), strict=True
                ):
                    (home / name).write_bytes(path.read_bytes())
            from secagg.adapters.http.link import Link

            with pytest.raises(ConnectionError):
                Link(server.url, home).call("GET", "/v1/task", 1000)
        assert server.connected() == []


SETTINGS = """\
state = "server.sqlite"
listen = "127.0.0.1:{port}"
certificate = "server.pem"
key = "server.key"
deadline = 30
train_deadline = 30

[[sum]]
purpose = "train"
model = "start.npz"
out = "model.npz"
rounds = {rounds}
nodes = 4
pause = 0.2
clip = 1.0
max_weight = 100
train_metrics = {{ loss = 10.0 }}
"""


def secagg(*words: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*SECAGG, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path_of_ours()},
        stdout=subprocess.PIPE,
        stderr=(cwd / "server.log").open("a"),
        text=True,
    )


@pytest.mark.slow
def test_a_served_training_goes_on_after_its_server_was_killed_in_a_sum(folder: Path) -> None:
    authority = Authority(folder)
    authority.sign("server")
    write_model(folder / "start.npz", MODEL)
    port = free_port()
    config = folder / "server.toml"
    config.write_text(SETTINGS.format(port=port, rounds=10))
    nodes = Processes(folder, authority)
    with Store(folder / "server.sqlite") as store:
        for number in range(1, 5):
            nodes.make(number, store)
            nodes.start(number, f"https://127.0.0.1:{port}")
        try:
            first = secagg("serve", "--config", "server.toml", cwd=folder)
            wait_until(lambda: (store.model("train") or (0,))[0] >= 2)
            first.kill()
            first.wait()
            done = (store.model("train") or (0,))[0]
            second = secagg("serve", "--config", "server.toml", "--json", cwd=folder)
            out, _ = second.communicate(timeout=60)
        finally:
            nodes.close()
        assert (second.returncode, json.loads(out)) == (0, {"sums": {"train": 10}})
        assert 2 <= done < 10
        outcomes = [row[0] for row in store._do("SELECT outcome FROM sums")]
    assert outcomes.count("done") == 10
    assert set(outcomes) - {"done"} <= {"ended by a restart"}
    check_moved(read_model(folder / "model.npz"), [1, 2, 3, 4], start=9 * mean_of([1, 2, 3, 4]))
    lines = (folder / "server.log").read_text().splitlines()
    assert all({"time", "level", "event"} <= json.loads(line).keys() for line in lines)
