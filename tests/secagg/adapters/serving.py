"""A server and nodes over HTTP for tests: settings, certificates, folders with tokens."""

import threading
from collections.abc import Iterator, Mapping
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

from secagg.adapters.http import Server, ServerSettings, join
from secagg.adapters.http.store import Store
from secagg.files import write_new
from secagg.nodes import NodePolicy, Proposal, WeightedMean, new_folder

MEAN = WeightedMean(clip=1.0, max_weight=100, train_metrics={"loss": 10.0})
ANYBODY = NodePolicy(
    allow_no_noise=True, sums_per_model=100, minimum_cohort=2, graphs=("complete", "sparse")
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


def check_moved(model: Mapping[str, NDArray[Any]], numbers: list[int], start: float = 0.0) -> None:
    """The model moved by the weighted mean of just these nodes."""
    for array in model.values():
        assert np.allclose(array, start + mean_of(numbers), atol=1e-3)


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
