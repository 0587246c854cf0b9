"""A Flower deployment for tests: SuperLink and SuperNodes as processes, TLS on loopback.

SuperNodes prove who they are by key. Each has a FLWR_HOME of its own, and whatever Flower starts
below it (a SuperExec, a fresh process for every message) inherits that: it is how they are
found and killed, since Flower detaches some of them from the process group. Nothing is written
outside the folder given, and no proxy, update check or telemetry is left in the environment.
"""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
START = 60.0  # seconds for a process to be ready; two seconds on an idle machine

Value = str | int | float | bool


# Flower sleeps up to 3 s between two polls of a SuperNode and of a Grid, and has no setting for
# it. A script of the same name found first on the path shortens these pauses and nothing else.
QUICK = """\
#!{python}
import sys, time
from importlib import import_module
from types import SimpleNamespace

pause = lambda seconds: time.sleep(min(seconds, {poll}))
import_module("{loop}").time = SimpleNamespace(time=time.time, sleep=pause)
sys.exit(import_module("{package}").{function}())
"""
LOOPS = {
    "flower-supernode": ("flwr.supernode.start_client_internal", "flwr.supernode.cli"),
    "flwr-serverapp": ("flwr.superlink.grid.http_grid", "flwr.superlink.cli"),
}


# `flwr supernode register` for each key, in one process: Flower's imports cost a second each time.
REGISTER = """
import sys
from flwr.cli.app import app

for key in sys.argv[1:]:
    app(["supernode", "register", key, "test"], standalone_mode=False)
"""


class Cluster:
    """One SuperLink and ``nodes`` SuperNodes; all are gone when the ``with`` block ends.

    The configuration of SuperNode i is partition-id=i, num-partitions=nodes and
    ``node_config[i]``. Logs are ``<name>.log`` in ``folder``, with the names superlink,
    supernode-i and run; ``log`` reads one. An error carries the tail of every log.
    ``poll`` is in seconds; None leaves Flower's own pauses. With ``on_disk`` the SuperLink keeps
    its messages in the file superlink.db; unless told, Flower has them in memory alone.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int,
        node_config: Sequence[Mapping[str, Value]] = (),
        poll: float | None = 0.3,
        on_disk: bool = False,
    ) -> None:
        self.folder = folder
        self.nodes = nodes
        self._node_config = node_config or [{}] * nodes
        self._poll = poll
        self._on_disk = on_disk
        self.ports = _free_ports(1 + nodes)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException as error:
            error.add_note(self.logs())
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(self.logs())
        self.close()

    def run(self, app: Path, *, deadline: float, **run_config: Value) -> str:
        """Run the app to its end, at most ``deadline`` seconds. Returns the server's log.

        Raises:
          TimeoutError: it has not ended.
          RuntimeError: it has not completed.
        """
        self.submit(app, **run_config)
        return self.finish(deadline=deadline)

    def submit(self, app: Path, **run_config: Value) -> None:
        """Start the app; underscores in the names of ``run_config`` become hyphens."""
        settings = _toml({name.replace("_", "-"): value for name, value in run_config.items()})
        command = ["flwr", "run", str(app), "test", "--stream", "--run-config", settings]
        self._spawn("run", *command)

    def finish(self, *, deadline: float) -> str:
        """Wait for the end of what ``submit`` started. See ``run``."""
        try:
            self._processes["run"].wait(deadline)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the run has not ended after {deadline} s") from None
        found = re.search(r"started run (\d+)", self.log("run"))
        if found is None:
            raise RuntimeError("the run has not started")
        command = ("flwr", "list", "test", "--run-id", found[1], "--format", "json")
        status = json.loads(self._call(*command))["runs"][0]["status"]
        if status != "finished:completed":
            raise RuntimeError(f"the run is {status}")
        return self.log("run")

    def wait_for(self, name: str, text: str, *, deadline: float, times: int = 1) -> None:
        """Return once the log of ``name`` has ``text`` so many times.

        Raises:
          TimeoutError: it has not, after ``deadline`` seconds.
          RuntimeError: it has not, and that process is dead.
        """
        end = time.monotonic() + deadline
        while True:
            dead = self._processes[name].poll() is not None
            if self.log(name).count(text) >= times:
                return
            if dead:
                raise RuntimeError(f"{name} ended without a word of {text!r}")
            if time.monotonic() > end:
                raise TimeoutError(f"{name} has not said {text!r} after {deadline} s")
            time.sleep(0.05)

    def kill(self, node: int) -> None:
        """SIGKILL a SuperNode and all that it has started. Returns when they are gone."""
        self._kill([f"supernode-{node}"])

    def close(self) -> None:
        """SIGKILL everything. Returns when it is gone."""
        self._kill(self._processes)

    def alive(self) -> list[int]:
        """The processes that run, however far below those that were started."""
        return [pid for name in self._processes for pid in living(self._home(name))]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def logs(self, lines: int = 40) -> str:
        """The last lines of every log."""
        return "\n".join(
            f"--- {name}\n" + "\n".join(self.log(name).splitlines()[-lines:])
            for name in self._processes
        )

    def _start(self) -> None:
        _certificates(self.folder)
        if self._poll is not None:
            self._shorten_pauses(self._poll)
        port, *runtime_ports = self.ports
        self._spawn(
            *("superlink", "flower-superlink", "--host", HOST, "--port", str(port)),
            *("--ssl-ca-certfile", "ca.pem", "--ssl-certfile", "server.pem"),
            *("--ssl-keyfile", "server.key", "--enable-supernode-auth"),
            "--disable-runtime-dependency-installation",
            *(("--database", "superlink.db") if self._on_disk else ()),
        )
        self._wait_for_tls(port)
        connection = f'address = "{HOST}:{port}"\nroot-certificates = "{self.folder / "ca.pem"}"\n'
        self._home("run").mkdir()
        (self._home("run") / "config.toml").write_text(f"[superlink.test]\n{connection}")
        for node in range(self.nodes):
            _key_pair(self.folder / f"node-{node}")
        keys = [f"node-{node}.pub" for node in range(self.nodes)]
        self._call(sys.executable, "-c", REGISTER, *keys)
        for node, runtime_port in enumerate(runtime_ports):
            config = {"partition-id": node, "num-partitions": self.nodes, **self._node_config[node]}
            self._spawn(
                *(f"supernode-{node}", "flower-supernode", "--superlink", f"{HOST}:{port}"),
                *("--root-certificates", "ca.pem", "--auth-supernode-private-key", f"node-{node}"),
                *("--host", HOST, "--port", str(runtime_port), "--node-config", _toml(config)),
            )
        for node in range(self.nodes):
            self.wait_for(f"supernode-{node}", "SuperNode ID:", deadline=START)

    def _wait_for_tls(self, port: int) -> None:
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        end = time.monotonic() + START
        while True:
            try:
                with (
                    socket.create_connection((HOST, port), timeout=1) as connection,
                    context.wrap_socket(connection, server_hostname=HOST),
                ):
                    return
            except ConnectionError:
                if self._processes["superlink"].poll() is not None:
                    raise RuntimeError("the SuperLink did not start") from None
                if time.monotonic() > end:
                    raise TimeoutError(f"no SuperLink after {START} s") from None
                time.sleep(0.05)

    def _shorten_pauses(self, poll: float) -> None:
        (self.folder / "bin").mkdir()
        for name, (loop, package) in LOOPS.items():
            script = self.folder / "bin" / name
            function = name.replace("-", "_")
            script.write_text(
                QUICK.format(
                    python=sys.executable, poll=poll, loop=loop, package=package, function=function
                )
            )
            script.chmod(0o755)

    def _spawn(self, name: str, *command: str) -> None:
        environment = self._environment(name)
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command,
                executable=shutil.which(command[0], path=environment["PATH"]),
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests alone
            )

    def _call(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment("run"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def _home(self, name: str) -> Path:
        return self.folder / f"home-{name}"

    def _environment(self, name: str) -> dict[str, str]:
        return {
            # Flower starts its parts by name.
            "PATH": f"{self.folder / 'bin'}:{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
            "FLWR_HOME": str(self._home(name)),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",  # seconds; 1 unless told
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def _kill(self, names: Iterable[str]) -> None:
        names = list(names)
        while left := [pid for name in names for pid in living(self._home(name))]:
            for pid in left:  # again until none is left: one may have been starting another
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        for name in names:
            self._processes[name].wait()


def living(home: Path) -> list[int]:
    """The processes started with this FLWR_HOME; a dead one has no environment."""
    mark = f"FLWR_HOME={home}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or somebody else's
            if mark in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def _toml(settings: Mapping[str, Value]) -> str:
    return " ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())


def _key_pair(path: Path) -> None:
    """A P-384 pair as ssh-keygen writes it: the kind that Flower's nodes have."""
    key = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    path.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    )


def _certificates(folder: Path) -> None:
    """ca.pem; server.pem for 127.0.0.1 and localhost, signed by it; server.key. For an hour."""
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = _name("test authority")
    ca = (
        _certificate(issuer, issuer, authority.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address(HOST))]
    leaf = (
        _certificate(_name("localhost"), issuer, server.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .sign(authority, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    (folder / "server.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(
        server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
