"""What an operator says in ``server.toml``. A line that is not known is refused by its name."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from secagg.errors import InputError
from secagg.nodes.coordinator import SumSettings, WeightedMean
from secagg.nodes.identities import Roster, load_identity, load_public
from secagg.vectors.compress import Compress

_OF_SUM: Final = ("train_metrics", "evaluate_metrics", "compress", "roster", "operator")
_OF_MEAN: Final = ("clip", "max_weight", "bits", "weighted_by", "by_array")
_OF_COHORT: Final = ("protocol", "corrupt_fraction", "dropout", "minimum_survivors")
_METRICS: Final = ("train_metrics", "evaluate_metrics")
_PATHS: Final = ("state", "certificate", "key", "client_ca", "identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """One listener.

    Attributes:
      state: the SQLite file that holds all that the server keeps.
      listen: address and port; port 0 is any that is free.
      certificate, key: of TLS, PEM. Without them only this machine is listened to.
      client_ca: certificates that must have signed those of nodes: mutual TLS.
      behind_proxy: a reverse proxy has TLS, and alone reaches this address.
      identity: key file that signs every request, ``secagg keys new``.
      origins: of pages whose browsers may take part, such as "https://example.org".
      metrics: whether ``/metrics`` is answered, to anybody.
      deadline: seconds for each stage but the one that trains.
      train_deadline: seconds for that one.
      rate: calls a second of one node, in the long run.
      connections: at most, of all.

    Raises:
      InputError: they contradict each other.
    """

    state: Path
    listen: str = "127.0.0.1:8443"
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    behind_proxy: bool = False
    identity: Path | None = None
    origins: tuple[str, ...] = ()
    metrics: bool = False
    deadline: float = 60.0
    train_deadline: float = 600.0
    rate: float = 20.0
    connections: int = 4000

    def __post_init__(self) -> None:
        host, _ = self.address
        if (self.certificate is None) is not (self.key is None):
            raise InputError("certificate and key: give both, or neither")
        if self.client_ca and not self.certificate:
            raise InputError("client_ca needs certificate and key")
        if not (self.certificate or self.behind_proxy or _is_loopback(host)):
            raise InputError(
                f"listen is {self.listen}, and without certificate and key tokens would travel in "
                "clear: give both, listen on 127.0.0.1, or say behind_proxy = true where a proxy "
                "has TLS"
            )
        for name, least in (("deadline", 0), ("train_deadline", 0), ("rate", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{name} is {value!r:.40}, expected a number")
            if not least < value < 1e9:
                raise InputError(f"{name} is {value}, must be above 0 and below 1e9")
        if type(self.connections) is not int or self.connections < 1:
            raise InputError(f"connections is {self.connections!r:.40}, must be 1 or more")
        for name in ("behind_proxy", "metrics"):
            if type(value := getattr(self, name)) is not bool:
                raise InputError(f"{name} is {value!r:.40}, neither true nor false")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, colon, port = str(self.listen).rpartition(":")
        if not (colon and host and port.isdecimal() and int(port) < 2**16):
            raise InputError(f"listen is {self.listen!r:.80}, expected ADDRESS:PORT")
        return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumPlan:
    """One table ``[[sum]]``: sums of one purpose, one after the other.

    Attributes:
      summed: what comes of a sum: ``WeightedMean`` or ``NoisySum``.
      cohort: which protocol, how few survivors, whose roster.
      purpose: what it is called; one that begins with "train" moves its model.
      model: an ``.npz`` file of the arrays to begin with.
      out: the ``.npz`` file of the arrays that came of it, written after every sum.
      rounds: sums that come to a result.
      nodes: fewest that must be connected when a sum begins.
      pause: seconds between two sums.
    """

    purpose: str
    model: Path
    out: Path | None = None
    rounds: int = 1
    nodes: int = 3
    pause: float = 1.0
    summed: WeightedMean = field(default_factory=WeightedMean)
    cohort: SumSettings = field(default_factory=SumSettings)


def read_settings(path: Path) -> tuple[ServerSettings, tuple[SumPlan, ...]]:
    """The settings in a TOML file; its paths are seen from its folder.

    Args:
      path: of a TOML file, such as ``examples/http/server.toml``.

    Raises:
      InputError: there is none, or a line of it is wrong.
    """
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no settings at {path}; docs/network.md has all lines") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    try:
        plans = said.pop("sum", [])
        _refuse_unknown(said, {item.name for item in fields(ServerSettings)})
        if "state" not in said:
            raise InputError("state is missing: the SQLite file that the server keeps all in")
        for name in _PATHS:
            if name in said:
                said[name] = _place(path, name, said[name])
        origins = said.get("origins", [])
        if not (isinstance(origins, list) and all(isinstance(each, str) for each in origins)):
            raise InputError(f"origins is {origins!r:.40}, expected a list of texts")
        said["origins"] = tuple(origins)
        settings = ServerSettings(**said)
        key = load_identity(settings.identity).key if settings.identity else None
        found = tuple(_plan(path, each, key) for each in plans)
        if len({plan.purpose for plan in found}) < len(found):
            raise InputError("two tables of [[sum]] have one purpose")
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None
    return settings, found


def _plan(path: Path, said: Mapping[str, Any], key: Any) -> SumPlan:
    own = ("purpose", "model", "out", "rounds", "nodes", "pause")
    _refuse_unknown(
        said,
        {*own, *_OF_MEAN, *_OF_COHORT, *_OF_SUM},
    )
    if missing := [name for name in ("purpose", "model") if name not in said]:
        raise InputError(f"[[sum]] lacks {missing[0]}")
    values = {name: said[name] for name in own if name in said}
    for name in ("model", "out"):
        if name in values:
            values[name] = _place(path, name, values[name])
    if not isinstance(purpose := values["purpose"], str) or not purpose.isprintable():
        raise InputError(f"purpose is {purpose!r:.40}, expected a printable word")
    pause = values.get("pause", 0.0)
    if isinstance(pause, bool) or not isinstance(pause, int | float) or not 0 <= pause < 1e9:
        raise InputError(f"pause is {pause!r:.40}, must be a number from 0")
    for name, least in (("rounds", 1), ("nodes", 2)):
        if type(value := values.get(name, least)) is not int or value < least:
            raise InputError(f"{name} is {value!r:.40}, must be an integer from {least}")
    mean = {
        name: said[name]
        for name in (*_OF_MEAN, "train_metrics", "evaluate_metrics")
        if name in said
    }
    if "compress" in said:
        mean["compress"] = Compress.parse(str(said["compress"]))
    cohort = {name: said[name] for name in _OF_COHORT if name in said}
    if ("roster" in said) is not ("operator" in said):
        raise InputError("roster and operator: give both, or neither")
    if "roster" in said:
        operator = load_public(_place(path, "operator", said["operator"])).public
        cohort["roster"] = Roster.read(_place(path, "roster", said["roster"]), operator=operator)
    plan = SumPlan(
        **values, summed=WeightedMean(**mean), cohort=SumSettings(**cohort, identity=key)
    )
    plan.summed.content(purpose, plan.nodes).segments(1)  # what cannot be is said before the start
    return plan


def _refuse_unknown(said: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(said.keys() - known):
        raise InputError(f"unknown line {unknown[0]!r}; known: {', '.join(sorted(known))}")


def _place(path: Path, name: str, value: Any) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise InputError(f"{name} is {value!r:.40}, expected a path")
    return path.parent / value


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
