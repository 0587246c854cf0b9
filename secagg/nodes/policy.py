"""What a node agrees to: a file on the node, and a refusal by name of everything else.

The policy is read from the node's own disk. It holds against a server that proposes what
its operator never agreed to; not against program code that the server ships and the node
runs, which can leave the policy out. Pin the programs too, where the engine can.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self

from dp.ledger.books import Budget
from protocols import bonawitz
from protocols.bonawitz.graph import as_fraction
from protocols.errors import ParameterError
from protocols.primitives.sign import VERIFY_KEY_SIZE
from secagg.errors import ConfigError, RefusedError
from secagg.nodes.proposal import PROTOCOLS, Params, Proposal

PRIVACY: Final = ("none", "example", "client")

TEMPLATE: Final = """\
# What this node agrees to. It refuses everything else, by the name of the line.
protocols = ["bonawitz"]     # of "bonawitz", "threshold-ckks"
minimum_cohort = 3           # clients in a sum, at least
minimum_threshold = 2        # of them must answer before a sum opens, at least
privacy = ["example", "client"]  # what noise must hide; "none" allows sums without noise
maximum_epsilon = 8.0        # over all sums that this node ever joins
delta = 1e-5
corrupt_fraction = 0.05      # of a cohort may work with the server; sums must stand as many
active = false               # true: only cohorts that sign, against a server that lies
# operator = "..."           # public key of who signs the roster; needed by an active cohort
# server = "..."             # public key of the server; proposals that it did not sign are refused
# examples = 303             # how many examples the node has: public where noise hides examples
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePolicy:
    """The node's own limits.

    Attributes:
      protocols: that it takes part in.
      minimum_cohort: fewest clients in a sum.
      minimum_threshold: fewest clients (CKKS: key holders) who can open one together.
      privacy: what noise must hide: "example", "client"; "none" allows sums without noise.
      maximum_epsilon, delta: of everything that the node ever joins.
      corrupt_fraction: fraction of a cohort that may work with the server, a decimal. Threshold, graph
        and noise must be made for as many; of a CKKS key, ``minimum_threshold`` says it.
      active: whether it joins only cohorts that sign.
      operator: whose signature on the roster of identities counts.
      server: whose proposals it reads; ``None``: anybody's that the engine lets through.
      examples: how many there are; public where noise hides examples, and needed then.

    Raises:
      ConfigError: a value out of range.
    """

    protocols: tuple[str, ...] = ("bonawitz",)
    minimum_cohort: int = 3
    minimum_threshold: int = 2
    privacy: tuple[str, ...] = ("example", "client")
    maximum_epsilon: float = 8.0
    delta: float = 1e-5
    corrupt_fraction: Fraction | float | str = 0.05
    active: bool = False
    operator: bytes | None = None
    server: bytes | None = None
    examples: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("protocols", PROTOCOLS), ("privacy", PRIVACY)):
            if not (given := getattr(self, name)) or set(given) - set(known):
                raise ConfigError(f"{name} {list(given)} must name some of {', '.join(known)}")
        for name, least in (("minimum_cohort", 2), ("minimum_threshold", 2), ("examples", 1)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise ConfigError(f"{name} {value!r} is not an integer from {least}")
        if type(self.active) is not bool:
            raise ConfigError(f"active {self.active!r} is neither true nor false")
        for name in ("maximum_epsilon", "delta"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, int | float):
                raise ConfigError(f"{name} {value!r} is not a number")
        Budget(epsilon=self.maximum_epsilon, delta=self.delta)
        object.__setattr__(
            self, "corrupt_fraction", as_fraction("corrupt_fraction", self.corrupt_fraction)
        )
        for name in ("operator", "server"):
            key = getattr(self, name)
            if key is not None and (not isinstance(key, bytes) or len(key) != VERIFY_KEY_SIZE):
                raise ConfigError(f"{name} is not a public key of {VERIFY_KEY_SIZE} bytes")
        if self.active and self.operator is None:
            raise ConfigError("active needs operator, the public key of who signs the roster")

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a TOML file.

        Raises:
          ConfigError: there is none, or it is not one of these.
        """
        try:
            said = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no policy at {path}: `secagg node new` writes one") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None
        try:
            return cls._of(said)
        except (ConfigError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def _of(cls, said: Mapping[str, Any]) -> Self:
        known = {item.name for item in fields(cls)}
        if unknown := sorted(said.keys() - known):
            raise ConfigError(f"unknown line {unknown[0]!r}; known: {', '.join(sorted(known))}")
        values = dict(said)
        for name in ("protocols", "privacy"):
            if name in values:
                if not isinstance(values[name], list):
                    raise ConfigError(f"{name} must be a list")
                values[name] = tuple(values[name])
        for name in ("operator", "server"):
            if name in values:
                values[name] = bytes.fromhex(values[name])
        return cls(**values)

    @property
    def budget(self) -> Budget:
        return Budget(epsilon=self.maximum_epsilon, delta=self.delta)

    @property
    def filter(self) -> str:
        """The ledger's policy: servers choose parameters as they go, so a filter it must be.

        Its order is where eps = a rho + ln(1/delta) / (a - 1) of a Gaussian is least at the
        whole budget, half of it in each term.
        """
        best = 1 + 2 * math.log(1 / self.delta) / self.maximum_epsilon
        return f"RDP at order {min(max(round(best), 2), 256)}"

    def check(self, proposal: Proposal) -> None:
        """Raise ``RefusedError`` for the first line that ``proposal`` does not keep."""
        params = proposal.params
        unit = proposal.noise.mechanism.unit.value if proposal.noise else "none"
        signs = isinstance(params, bonawitz.Params) and params.active
        if proposal.protocol not in self.protocols:
            _refuse("protocols", f"the server proposes {proposal.protocol}")
        if params.minimum_survivors < self.minimum_cohort:
            _refuse(
                f"minimum_cohort {self.minimum_cohort}",
                f"the server would open sums of {params.minimum_survivors}",
            )
        if (threshold := _threshold(params)) < self.minimum_threshold:
            _refuse(
                f"minimum_threshold {self.minimum_threshold}",
                f"{threshold} clients would open a sum",
            )
        corrupt = int(Fraction(self.corrupt_fraction) * params.clients)
        if (stands := _stands(proposal)) < corrupt:
            _refuse(
                "corrupt_fraction", f"the sum stands {stands} of {params.clients}, not {corrupt}"
            )
        if unit not in self.privacy:
            hides = "sums without noise" if unit == "none" else f"noise that hides one {unit}"
            _refuse("privacy", f"the server proposes {hides}")
        if unit == "example" and self.examples is None:
            _refuse("examples", "noise that hides examples needs their public number")
        if self.active and not signs:
            _refuse("active", "the server proposes a cohort that does not sign")
        if signs and self.operator is None:
            _refuse("operator", "a cohort that signs needs a roster, and whose signature it has")


def _threshold(params: Params) -> int:
    """Of the smallest cohort, for that of a sparse graph grows with who is there."""
    if not isinstance(params, bonawitz.Params):
        return params.threshold
    try:
        return params.plan(params.minimum_survivors).threshold
    except ParameterError:  # no graph for so few: a sum of them never begins
        return params.plan(params.clients).threshold


def _stands(proposal: Proposal) -> int:
    """Clients that may work with the server, of as many as there may be."""
    params, noise = proposal.params, proposal.noise
    stands = params.clients
    if isinstance(params, bonawitz.Params):
        if params.rates is not None:
            stands = int(Fraction(params.rates.corrupt_fraction) * params.clients)
        elif params.active:
            stands = params.corrupted
        else:
            stands = (params.threshold or 0) - 1
    return min(stands, noise.mechanism.uncounted_shares) if noise else stands


def _refuse(line: str, found: str) -> None:
    raise RefusedError(f"this node's policy refuses ({line}): {found}")
