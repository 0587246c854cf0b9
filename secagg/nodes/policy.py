"""What a node agrees to: a file on the node, and a refusal by name of everything else.

No line looks at the node's data: what is refused here says nothing of them.

The policy is read from the node's own disk. It holds against a server that proposes what
its operator never agreed to; not against program code that the server ships and the node
runs, which can leave the policy out. Pin the programs too, where the engine can.
"""

import math
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import protocols
from dp.ledger.books import Budget
from protocols import bonawitz
from protocols.bonawitz.graph import as_fraction
from protocols.primitives.shamir import majority
from protocols.primitives.sign import VERIFY_KEY_SIZE
from secagg.errors import InputError, RefusedError
from secagg.nodes.proposal import PROTOCOLS, Average, Noise, Params, Proposal
from secagg.nodes.versions import LEAST_SAME, Versions

UNITS: Final = ("example", "client")
GRAPHS: Final = ("complete", "sparse")

_LEAST: Final = {  # of the lines that are integers; whether there may be no such line
    "minimum_cohort": (2, False),
    "maximum_cohort": (2, False),
    "minimum_threshold": (2, False),
    "sums_per_model": (1, False),
    "maximum_staleness": (0, False),
    "minimum_same": (2, True),
    "examples": (1, True),
    "max_weight": (1, True),
}

TEMPLATE: Final = """\
# What this node agrees to. It refuses everything else, and the refusal names the line.
protocols = ["bonawitz"]       # protocols it takes part in: "bonawitz", "threshold-ckks"
graphs = ["complete"]          # which clients share masks. "complete": all with all, and the node
                               # counts the survivors itself. "sparse": for hundreds of clients;
                               # the node then believes the server about how many survived
minimum_cohort = 3             # refuse sums of fewer clients. Take all clients of the roster that
                               # may collude, plus the honest ones that you want to hide among
maximum_cohort = 1000          # refuse sums of more: planning and sharing take this node minutes
minimum_threshold = 2          # refuse sums that fewer clients can open together
units = ["example", "client"]  # what the noise of a sum must hide: one of these
allow_no_noise = true          # false: refuse sums without noise, whose mean is exact
maximum_epsilon = 8.0          # budget for all sums that this node ever joins
delta = 1e-5                   # probability that the bound maximum_epsilon fails
corrupt_fraction = 0.05        # refuse sums that are not secure when this fraction of their
                               # clients colludes with the server. The server picks the clients of
                               # a sum, so all colluders may be in it: take at least the colluders
                               # of the whole roster, divided by minimum_cohort
sums_per_model = 4             # without noise: join at most so many sums over one model. More than
                               # one lets a lost round be tried again; but two sums that differ by
                               # one node give its update away
by_array = false               # true: join sums whose arrays are each the mean of those nodes that
                               # trained it; one that you alone trained is then yours, in clear
active = false                 # true: join only sums whose clients sign, safe if the server lies
# operator = "..."             # public key that verifies the roster; active = true needs it
# server = "..."               # public key of the server; refuse requests that it did not sign
# examples = 303               # examples on this node: needed, and public, where noise hides one

# Sums of whoever has finished training, whose updates are of several versions of one model:
maximum_staleness = 0          # refuse sums with an update more versions behind; 0: mix none
# minimum_same = 3             # open no sum with a version of fewer nodes: from a server that hands
                               # out models of its own making you hide among so many. Without this
                               # line as many as open a sum, so that a sum has one version

# Refuse a sum with another number than these; without a line, the server chooses.
# clip = 0.5                   # bound on an entry of an update; with noise on its L2 norm
# max_weight = 500             # without noise: largest weight of a node
# metrics = { loss = 10.0 }    # without noise: all numbers beside an update, and their bounds
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePolicy:
    """The node's own limits.

    Attributes:
      protocols: that it takes part in.
      graphs: of pairwise masks: "complete", "sparse". In a sparse one a client takes the
        server's word for how many there are, unless the cohort signs.
      minimum_cohort, maximum_cohort: fewest clients in a sum, and most.
      minimum_threshold: fewest clients (CKKS: key holders) who can open one together, whatever
        number of clients comes.
      units: whom noise must hide, one of these: "example", "client".
      allow_no_noise: whether it also takes part in sums without noise.
      maximum_epsilon, delta: of everything that the node ever joins.
      corrupt_fraction: fraction of a cohort that may work with the server, a decimal. Threshold,
        graph and noise must be made for as many; of a CKKS key, ``minimum_threshold`` says it.
        The server picks the cohort out of the roster, and may put all who collude into one: this
        times ``minimum_cohort`` must cover those of the whole roster.
      sums_per_model: sums without noise over one model, for one purpose, that it sends a vector to.
      by_array: whether it joins sums in which an array is the mean of those who trained it; an
        array of which a node is the only one shows that node's own.
      maximum_staleness: how many versions behind the newest an update may be in a sum that it
        takes part in; 0: a sum is of one version.
      minimum_same: fewest survivors of each version in such a sum; ``None``: the threshold.
      active: whether it joins only cohorts that sign.
      operator: whose signature on the roster of identities counts.
      server: whose proposals it reads; ``None``: anybody's that the engine lets through.
      examples: how many there are; public where noise hides examples, and needed then.
      clip, max_weight, metrics: what a proposal must say, metrics by name; ``None``: what it
        likes. With noise there is neither weight nor metric.

    Raises:
      InputError: a value out of range.
    """

    protocols: tuple[str, ...] = ("bonawitz",)
    graphs: tuple[str, ...] = ("complete",)
    minimum_cohort: int = 3
    maximum_cohort: int = 1000
    minimum_threshold: int = 2
    units: tuple[str, ...] = ("example", "client")
    allow_no_noise: bool = False
    maximum_epsilon: float = 8.0
    delta: float = 1e-5
    corrupt_fraction: Fraction | float | str = 0.05
    sums_per_model: int = 4
    by_array: bool = False
    maximum_staleness: int = 0
    minimum_same: int | None = None
    active: bool = False
    operator: bytes | None = None
    server: bytes | None = None
    examples: int | None = None
    clip: float | None = None
    max_weight: int | None = None
    metrics: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name, known, empty in (
            ("protocols", PROTOCOLS, False),
            ("graphs", GRAPHS, False),
            ("units", UNITS, self.allow_no_noise is True),
        ):
            given = getattr(self, name)
            if not (given or empty) or any(each not in known for each in given):
                raise InputError(f"{name} {list(given)} must name some of {', '.join(known)}")
        for name, (least, optional) in _LEAST.items():
            value = getattr(self, name)
            if not (optional and value is None) and (type(value) is not int or value < least):
                raise InputError(f"{name} {value!r} is not an integer from {least}")
        if self.maximum_cohort < self.minimum_cohort:
            raise InputError(
                f"maximum_cohort {self.maximum_cohort} is below minimum_cohort "
                f"{self.minimum_cohort}"
            )
        if self.clip is not None:
            _check_bound("clip", self.clip)
        for name, most in (self.metrics or {}).items():
            _check_bound(f"metrics, {name!r},", most)
        for name in ("active", "allow_no_noise", "by_array"):
            if type(value := getattr(self, name)) is not bool:
                raise InputError(f"{name} {value!r} is neither true nor false")
        for name in ("maximum_epsilon", "delta"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, int | float):
                raise InputError(f"{name} {value!r} is not a number")
        Budget(epsilon=self.maximum_epsilon, delta=self.delta)
        object.__setattr__(
            self, "corrupt_fraction", as_fraction("corrupt_fraction", self.corrupt_fraction)
        )
        for name in ("operator", "server"):
            key = getattr(self, name)
            if key is not None and (not isinstance(key, bytes) or len(key) != VERIFY_KEY_SIZE):
                raise InputError(f"{name} is not a public key of {VERIFY_KEY_SIZE} bytes")
        if self.active and self.operator is None:
            raise InputError("active needs operator, the public key of who signs the roster")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a policy from a TOML file.

        Raises:
          InputError: there is none, or it is not one of these.
        """
        try:
            said = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"no policy at {path}: `secagg node new` writes one") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}") from None
        try:
            return cls._of(said)
        except (InputError, ValueError, TypeError) as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def _of(cls, said: Mapping[str, Any]) -> Self:
        known = {item.name for item in fields(cls)}
        if unknown := sorted(said.keys() - known):
            raise InputError(f"unknown line {unknown[0]!r}; known: {', '.join(sorted(known))}")
        values = dict(said)
        for name in ("protocols", "graphs", "units"):
            if name in values:
                if not isinstance(values[name], list):
                    raise InputError(f"{name} must be a list")
                values[name] = tuple(values[name])
        if not isinstance(values.get("metrics", {}), dict):
            raise InputError("metrics must be a table of names and bounds")
        for name in ("operator", "server"):
            if name in values:
                try:
                    values[name] = bytes.fromhex(values[name])
                except (ValueError, TypeError):
                    raise InputError(
                        f"{name} is not a public key of {VERIFY_KEY_SIZE} bytes in hexadecimal"
                    ) from None
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

    def read_proposal(self, data: bytes) -> Proposal:
        """The proposal in ``data``, if all lines are kept.

        Raises:
          RefusedError: a line that is not; of the size, before anything is planned for it.
          DecodeError: it is no proposal.
        """
        proposal = Proposal.from_bytes(data, sized=self._check_size)
        self.check(proposal)
        return proposal

    def _check_size(self, clients: int) -> None:
        if clients > self.maximum_cohort:
            _refuse(
                f"maximum_cohort {self.maximum_cohort}",
                f"the server proposes a cohort of up to {clients}",
            )

    def check(self, proposal: Proposal) -> None:
        """Raise ``RefusedError`` for the first line that ``proposal`` does not keep."""
        params = proposal.params
        self._check_size(params.clients)
        unit = proposal.noise.mechanism.unit.value if proposal.noise else None
        signs = isinstance(params, bonawitz.Params) and params.active
        if proposal.protocol not in self.protocols:
            _refuse("protocols", f"the server proposes {proposal.protocol}")
        if isinstance(params, bonawitz.Params) and params.rates is not None:
            self._check_sparse(params)
        if params.minimum_survivors < self.minimum_cohort:
            _refuse(
                f"minimum_cohort {self.minimum_cohort}",
                f"the server would open sums of {params.minimum_survivors}",
            )
        # No plan has a threshold below 2, and 1,000 clients take 25 s to plan for every cohort.
        asked = self.minimum_threshold > _LEAST["minimum_threshold"][0]
        if asked and (threshold := _threshold(params)) < self.minimum_threshold:
            _refuse(
                f"minimum_threshold {self.minimum_threshold}",
                f"{threshold} clients would open a sum",
            )
        corrupt = int(Fraction(self.corrupt_fraction) * params.clients)
        if (stands := _stands(proposal)) < corrupt:
            _refuse(
                "corrupt_fraction", f"the sum stands {stands} of {params.clients}, not {corrupt}"
            )
        if unit is None and not self.allow_no_noise:
            _refuse("allow_no_noise", "the server proposes sums without noise")
        if unit is not None and unit not in self.units:
            _refuse("units", f"the server proposes noise that hides one {unit}")
        if unit == "example" and self.examples is None:
            _refuse("examples", "noise that hides examples needs their public number")
        if proposal.versions is not None:
            self._check_versions(proposal.versions, _threshold(params))
        self._check_bounds(proposal.content)
        if self.active and not signs:
            _refuse("active", "the server proposes a cohort that does not sign")
        if signs and self.operator is None:
            _refuse("operator", "a cohort that signs needs a roster, and whose signature it has")

    def _check_sparse(self, params: bonawitz.Params) -> None:
        if "sparse" not in self.graphs:
            _refuse("graphs", "the server proposes a sparse graph")
        least = majority(params.clients, params.corrupted)
        if params.active and params.minimum_survivors < least:
            _refuse(
                "graphs",
                f"a sparse graph of {params.clients} against a server that lies opens no sum of "
                f"{params.minimum_survivors}: {least} must be in it, or two sums could open",
            )

    def _check_versions(self, versions: Versions, threshold: int) -> None:
        if versions.stalest > self.maximum_staleness:
            _refuse(
                f"maximum_staleness {self.maximum_staleness}",
                f"an update would be {versions.stalest} versions behind",
            )
        least = threshold if self.minimum_same is None else self.minimum_same
        if versions.minimum_same < least:
            _refuse(
                f"minimum_same {least}",
                f"the server would open sums with {versions.minimum_same} of one version",
            )

    def _check_bounds(self, content: Average | Noise) -> None:
        """What the server may not move."""
        clip = content.clip if isinstance(content, Average) else content.mechanism.clip
        if self.clip is not None and clip != self.clip:
            _refuse(f"clip {self.clip:g}", f"the server proposes {clip:g}")
        if not isinstance(content, Average):
            return
        if content.by_array and not self.by_array:
            _refuse("by_array", "the server would open arrays that few nodes trained")
        if self.max_weight is not None and content.max_weight != self.max_weight:
            _refuse(f"max_weight {self.max_weight}", f"the server proposes {content.max_weight}")
        for name, most in content.metrics:
            if self.metrics is not None and self.metrics.get(name) != most:
                _refuse("metrics", f"the server proposes {name!r} within {most:g}")


@lru_cache(maxsize=64)
def _threshold(params: Params) -> int:
    """The least of all cohorts that may come: a graph is planned for those who are there."""
    if not isinstance(params, bonawitz.Params):
        return params.threshold
    if params.rates is None:
        return params.plan(params.clients).threshold
    found = []
    for size in range(params.minimum_survivors, params.clients + 1):
        with suppress(protocols.InputError):  # no graph for so many: a sum of them never begins
            found.append(params.plan(size).threshold)
    return min(found)


def _stands(proposal: Proposal) -> int:
    """Clients that may work with the server, of as many as there may be."""
    params, noise = proposal.params, proposal.noise
    stands, left_out = params.clients, 0
    if isinstance(params, bonawitz.Params):
        left_out = params.left_out
        if params.rates is not None:
            stands = int(Fraction(params.rates.corrupt_fraction) * params.clients)
        elif params.active:
            stands = params.corrupted
        else:
            stands = (params.threshold or 0) - 1
    if proposal.versions:  # all of them on one client's version leave another honest one there
        stands = min(stands, proposal.versions.minimum_same - LEAST_SAME)
    return min(stands, noise.mechanism.uncounted_shares - left_out) if noise else stands


def _check_bound(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{name} {value!r} is not a number above 0")


def _refuse(line: str, found: str) -> NoReturn:
    raise RefusedError(f"this node's policy refuses ({line}): {found}")
