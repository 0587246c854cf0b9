"""A server and nodes over HTTP for tests: settings, certificates, folders with tokens."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from numpy.typing import NDArray

from secagg.adapters.http import Outcome, Server, ServerSettings, join
from secagg.adapters.http.link import Link
from secagg.adapters.http.store import Store
from secagg.files import write_new
from secagg.nodes import (
    Contribution,
    Node,
    NodePolicy,
    Proposal,
    Request,
    SumSettings,
    WeightedMean,
    model_digest,
    new_folder,
)
from secagg.nodes.proposal import Failure
from secagg.nodes.work import contribution
from secagg.stage import Stage
from secagg.vectors.arrays import arrays_of

MEAN = WeightedMean(clip=1.0, max_weight=100, train_metrics={"loss": 10.0})
ANYBODY = NodePolicy(
    by_array=True,
    allow_no_noise=True,
    sums_per_model=100,
    minimum_cohort=2,
    graphs=("complete", "sparse"),
)
MODEL = {"bias": np.zeros(2, np.float32), "weight": np.zeros((2, 3), np.float32)}


def settings(folder: Path, **change: Any) -> ServerSettings:
    given: dict[str, Any] = {
        "state": folder / "server.sqlite",
        "listen": "127.0.0.1:0",
        "deadline": 20.0,
        "train_deadline": 20.0,
        "rate": 1000.0,
    }
    return ServerSettings(**given | change)


def weigh(number: int) -> int:
    return 1 + number % 7


def move(number: int) -> float:
    """By how much node ``number`` moves every entry."""
    return 0.5 / (1 + number)


def trained(number: int) -> Any:
    """The program of node ``number``."""

    def train(model: dict[str, NDArray[Any]], _: Proposal) -> tuple[Any, Mapping[str, float]]:
        after = {name: array + np.float32(move(number)) for name, array in model.items()}
        return after, {"num-examples": weigh(number), "loss": float(number % 5)}

    return train


def mean_of(numbers: list[int]) -> float:
    return sum(weigh(n) * move(n) for n in numbers) / sum(weigh(n) for n in numbers)


def home_of(folder: Path, store: Store, number: int) -> Path:
    """A node's folder with its token."""
    home = new_folder(folder / f"node-{number}")
    write_new(home / "token", store.invite(f"node-{number}").encode(), private=True)
    return home


@contextmanager
def joined(url: str, homes: Mapping[int, Path], **change: Any) -> Iterator[threading.Event]:
    """Nodes in threads of this process, by number."""
    stop = threading.Event()
    given = {"policy": ANYBODY} | change
    threads = [
        threading.Thread(
            target=join,
            args=(url, home, trained(number)),
            kwargs={"stop": stop, **given},
            daemon=True,
        )
        for number, home in homes.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()


@contextmanager
def serving(folder: Path, nodes: int, **change: Any) -> Iterator[tuple[Server, dict[int, Path]]]:
    """A server with so many nodes invited; theirs are numbers from 1, as the store counts."""
    given = settings(folder, **change)
    with Server(given) as server:
        yield server, {n: home_of(folder, server.store, n) for n in range(1, nodes + 1)}


def check_moved(
    model: Mapping[str, NDArray[Any]],
    numbers: list[int],
    start: float = 0.0,
    within: float = 1e-3,
) -> None:
    """The model moved by the weighted mean of just these nodes."""
    for array in model.values():
        assert np.allclose(array, start + mean_of(numbers), rtol=0, atol=within)


def let_time_pass(server: Server, node: int) -> None:
    """End a stage as its deadline does, once this node alone has not answered."""
    while True:
        for task in list(server.app.tasks._open.get(node, {}).values()):
            if task.turn.left == 1:
                task.turn.done.set()
                return
        time.sleep(0.01)


def free_port() -> int:
    """A port of this machine that nobody has just now."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])


def run_commands(folder: Path) -> subprocess.CompletedProcess[str]:
    """The commands of a README in its folder, all but the one that installs."""
    shim = folder / "bin"
    shim.mkdir()
    for name, code in (("secagg", "from secagg.cli.main import main; main()"), ("python", "")):
        file = shim / name
        words = f"-c '{code}' " if code else ""
        file.write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
        file.chmod(0o755)
    commands = re.findall(r"^\$ (.+)$", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    assert commands.pop(0).startswith("pip install")
    paths = os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, sys.path)])
    return subprocess.run(
        [shutil.which("bash") or "bash", "-ec", "\n".join(commands)],
        cwd=folder,
        env={**os.environ, "PATH": f"{shim}:{os.environ['PATH']}", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )


class Authority:
    """A certificate authority of a test: signs for 127.0.0.1, or for a client."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        builder = self._builder(name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def sign(self, name: str) -> tuple[Path, Path]:
        """A certificate and its key, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        made = self._builder(name, key).add_extension(address, critical=False)
        certificate, secret = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, secret

    def _builder(self, name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class ByHand:
    """A node whose calls a test makes one by one.

    Args:
      home: its folder, with a token.
    """

    def __init__(self, url: str, home: Path, number: int = 1, policy: NodePolicy = ANYBODY) -> None:
        self.link, self.state, self.number = Link(url, home), None, number
        self.node, self.url = Node(home, policy), url
        self.token = (home / "token").read_text()

    def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        return self.link.call(method, path, 2**26, [body] if body else ())

    def ask(self) -> tuple[str, Request]:
        """The next task, however long it takes: its id in hexadecimal, and the request."""
        while (found := self.call("GET", "/v1/task"))[0] == 204:
            pass
        assert found[0] == 200, found
        return found[1][:16].hex(), Request.from_bytes(found[1][16:])

    def model(self, request: Request) -> dict[str, NDArray[Any]]:
        digest = json.loads(request.proposal)["model_digest"]
        status, data = self.call("GET", f"/v1/model/{digest}")
        assert status == 200
        return arrays_of(data)

    def answer(self, request: Request) -> bytes:
        """An honest answer; the state is kept."""
        model = self.model(request) if request.stage is Stage.MASK else {}

        def compute(proposal: Proposal) -> Contribution | Failure:
            return contribution(proposal, model, *trained(self.number)(model, proposal))

        digest = model_digest(model) if model else b""
        found = self.node.answer(request, self.state, model=digest, compute=compute)
        self.state = found.state
        return found.to_bytes()

    def until(self, stage: Stage) -> tuple[str, Request]:
        """Answer honestly up to a stage; the task of that one."""
        while True:
            name, request = self.ask()
            if request.stage is stage:
                return name, request
            assert self.call("POST", f"/v1/task/{name}", self.answer(request))[0] == 204


@contextmanager
def summing(
    server: Server, nodes: int, model: Mapping[str, NDArray[Any]] = MODEL, **change: Any
) -> Iterator["Future[Outcome]"]:
    """A sum of the purpose "train" in a thread."""
    with ThreadPoolExecutor(1) as pool:
        sums = server.sums("train", MEAN, SumSettings(**change))
        yield pool.submit(sums.run, model, nodes=nodes)
