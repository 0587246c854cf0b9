"""What a round costs under each protocol, and how that grows with clients, entries and dropouts.

Whole sessions are run where they are small enough, and their sums are checked. Beyond that, one
client is run at full size among as many peers as it would have, and the server's work is timed
on a sample of the vectors and masks that it would handle, and scaled; such a point says so.

Seconds are CPU seconds of one core: what others run on the machine is not in them.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols import ckks
from protocols.bonawitz import Agreement, Params, Rates
from protocols.entropy import system
from protocols.primitives.prg import SEED_SIZE, Mask, Masks, Suite
from protocols.primitives.shamir import majority
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE
from secagg.bench.contenders import run
from secagg.errors import InputError, SecaggError
from secagg.planning.sums import masks_of
from secagg.rounds.aggregation import Ckks
from secagg.rounds.attendance import Costs, Now
from secagg.rounds.ckks import CKKS, HOLDERS, MODELS, PRECISION
from secagg.rounds.in_memory import Outcome, run_bonawitz, run_ckks, run_plain
from secagg.rounds.parties import BonawitzClient
from secagg.rounds.relay import relay_bonawitz
from secagg.stage import Stage
from secagg.vectors.layout import Layout, Segment
from secagg.vectors.packing import word_count
from secagg.vectors.quantize import FixedPoint

FULL: Final = 10**9  # clients times entries: the largest session that is run whole
SPARSE_ABOVE: Final = 200  # clients of ``active``: its graph is complete up to here
MAX_COMPLETE: Final = 1000  # clients: beyond, the million pairs of a session take many minutes
SAMPLE: Final = 16  # masks and vectors that the server is timed on
BITS: Final = 14  # of an entry, so that three lie in a word

PLAIN: Final = "plain"
MASKED: Final = ("complete", "sparse", "active")
PROTOCOLS: Final = (PLAIN, *MASKED, *CKKS)
"""Masks over the complete graph, the sparse one, and against a server that lies; and CKKS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One point: a round of ``clients`` with vectors of ``entries``.

    A client is one that stays to the end. Where only some clients open the sum (the holders
    of a threshold key; under a shared key every client does for itself), what that takes is
    a decryptor's, on top of a client's; under masks all clients do all of it, and a decryptor's
    is 0.

    Attributes:
      protocol: its name.
      decryptor_seconds, decryptor_up, decryptor_down: seconds on one core and bytes of who opens
        the sum, beside what a client does; 0 where every client does it.
      lanes: entries a word; 0 under CKKS.
      dropout: fraction of the clients that vanish before they send their vector.
      neighbours: with whom each client masks, and ``threshold`` shares that rebuild a secret; 0
        without masks.
      client_seconds: one client, all its stages, on one core; protocol alone.
      server_seconds: the server, all its stages, on one core.
      bytes_up: what one client sends in all, and ``bytes_down`` what it is sent.
      whole: the session was run whole; otherwise one client and a sampled server.
    """

    protocol: str
    clients: int
    entries: int
    lanes: int
    dropout: float
    neighbours: int
    threshold: int
    client_seconds: float
    decryptor_seconds: float
    server_seconds: float
    bytes_up: int
    bytes_down: int
    decryptor_up: int
    decryptor_down: int
    whole: bool

    @property
    def bytes_per_entry(self) -> float:
        """Sent by one client, without what a decryptor sends."""
        return self.bytes_up / self.entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a point is measured at; see ``Cost``.

    Attributes:
      protocol: a name of ``secagg bench costs --protocol``.
      clients, entries: of a round, and of a client's vector.
      lanes: entries a word under masks.
      dropout: fraction of the clients that vanish before they send their vector.
      corrupt_fraction: fraction of the clients that a sparse graph is planned for.
    """

    protocol: str
    clients: int
    entries: int
    lanes: int = 3
    dropout: float = 0.1
    corrupt_fraction: float = 0.05

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS and not self.own:
            known = ", ".join(PROTOCOLS)
            raise InputError(f"unknown protocol {self.protocol!r}; known: {known}")
        if self.clients < 2 or self.entries < 1:
            raise InputError(
                f"clients {self.clients}, entries {self.entries}: at least 2, at least 1"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout {self.dropout} is not in [0, 1)")
        if self.protocol == "complete" and self.clients > MAX_COMPLETE:
            raise InputError(
                f"complete graph of {self.clients:,} clients: at most {MAX_COMPLETE:,} are run"
            )
        if self.own and self.clients * self.entries > FULL:
            raise InputError(
                f"{self.protocol}, {self.clients:,} x {self.entries:,}: a protocol of your own is "
                f"run whole, up to {FULL:,} clients times entries"
            )
        if self.protocol in CKKS:
            object.__setattr__(self, "lanes", 0)  # it packs no words
        if self.protocol in MASKED:
            self.params  # noqa: B018  # which refuses what the protocol would

    @property
    def own(self) -> bool:
        """Whether it is no protocol of ours: ``module:name``, see ``secagg.bench.contenders``."""
        return ":" in self.protocol

    @property
    def gone(self) -> int:
        """Clients that vanish: the last ones, so that the first stay to hold a key."""
        return int(Fraction(str(self.dropout)) * self.clients)

    @property
    def layout(self) -> Layout:
        """One segment of reals."""
        codec = FixedPoint(clip=1.0, bits=BITS)
        return Layout(
            segments=(Segment(name="update", entries=self.entries, codec=codec),),
            clients=self.clients,
        )

    @property
    def params(self) -> Params:
        """The parameters of a session with masks, and of a plain one."""
        words, active = word_count(self.entries, self.lanes), self.protocol == "active"
        if self.protocol == "sparse" or (active and self.clients > SPARSE_ABOVE):
            rates = Rates(corrupt_fraction=self.corrupt_fraction, dropout=self.dropout)
            return Params(clients=self.clients, rates=rates, words=words, active=active)
        if self.protocol == PLAIN or self.own:
            return Params(clients=self.clients, threshold=2, words=words)
        threshold = majority(self.clients, self.clients // 3 if active else 0)
        if threshold > self.clients - self.gone:
            raise InputError(
                f"{self.protocol}: {self.clients - self.gone} of {self.clients} clients stay, "
                f"{threshold} are needed; take more clients or less dropout"
            )
        return Params(clients=self.clients, threshold=threshold, words=words, active=active)


def measure(case: Case, *, now: Now = time.process_time) -> Cost:
    """Run a round and time it; its sum is checked.

    Raises:
      ProtocolError: the protocol refuses the case.
      SecaggError: the sum is wrong.
    """
    neighbours, threshold = 0, 0
    if case.protocol in MASKED:
        plan = case.params.plan(case.clients)
        neighbours = masks_of(case.clients, plan)
        threshold = plan.threshold
    whole = case.clients * case.entries <= FULL
    if case.own:
        found = _own(case, now)
    elif whole:
        found = _whole(case)(now)
    elif case.protocol in MASKED:
        found = _sampled(case, neighbours, now)
    else:
        found = _scaled(case, now)
    return Cost(
        protocol=case.protocol,
        clients=case.clients,
        entries=case.entries,
        lanes=case.lanes,
        dropout=case.dropout,
        neighbours=neighbours,
        threshold=threshold,
        whole=whole,
        **found,
    )


def cases(
    protocols: Sequence[str],
    clients: Sequence[int],
    entries: Sequence[int],
    dropouts: Sequence[float],
    *,
    lanes: int = 3,
) -> tuple[list[Case], list[str]]:
    """Every combination, the small ones first; and why others are left out."""
    kept, left_out = [], []
    for size in sorted(((n, d) for n in clients for d in entries), key=math.prod):
        for dropout in dropouts:
            for protocol in protocols:
                try:
                    case = Case(
                        protocol=protocol,
                        clients=size[0],
                        entries=size[1],
                        lanes=lanes,
                        dropout=dropout,
                    )
                except ValueError as error:
                    left_out.append(str(error))
                else:
                    kept.append(case)
    return kept, list(dict.fromkeys(left_out))


def plot(points: Sequence[Cost]) -> bytes:
    """An SVG of seconds and bytes, a line a protocol: against clients, entries and dropout.

    What is not on an axis is held at the middle one of its values, dropout at the least.
    """
    from io import BytesIO

    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "costs"
    panels: list[tuple[str, Callable[[Cost], float]]] = [
        ("a client, CPU seconds", lambda point: point.client_seconds + point.decryptor_seconds),
        ("the server, CPU seconds", lambda point: point.server_seconds),
        ("a client sends, MB", lambda point: (point.bytes_up + point.decryptor_up) / 1e6),
    ]
    values = {
        name: sorted({getattr(point, name) for point in points})
        for name in ("clients", "entries", "dropout")
    }
    held = {name: kept[(len(kept) - 1) // 2] for name, kept in values.items()}
    held["dropout"] = values["dropout"][0]
    drawn = [name for name in values if len(values[name]) > 1] or ["clients"]
    figure = Figure(figsize=(11, 3.2 * len(drawn) + 0.4), layout="constrained")
    rows = figure.subplots(len(drawn), len(panels), squeeze=False)
    for row, axis in zip(rows, drawn, strict=True):
        others = {name: value for name, value in held.items() if name != axis}
        fixed = ", ".join(f"{name} {value:g}" for name, value in others.items())
        chosen = [p for p in points if all(getattr(p, name) == v for name, v in others.items())]
        for axes, (title, cost) in zip(row, panels, strict=True):
            for place, protocol in enumerate(names_of(points)):
                line = sorted(
                    (getattr(p, axis), cost(p), p.whole)
                    for p in chosen
                    if p.protocol == protocol and cost(p) > 0
                )
                if line:
                    xs, ys = [x for x, _, _ in line], [y for _, y, _ in line]
                    axes.plot(xs, ys, color=f"C{place}", label=protocol)
                for x, y, whole in line:
                    face = f"C{place}" if whole else "white"
                    axes.plot(x, y, "o", color=f"C{place}", markerfacecolor=face)
            scale = "linear" if axis == "dropout" else "log"
            axes.set(xscale=scale, yscale="log", xlabel=f"{axis} ({fixed})", title=title)
            shown = values[axis][:: -(-len(values[axis]) // 6)]  # no more have room
            axes.set_xticks(shown, [f"{value:g}" for value in shown])
            axes.set_xticks([], minor=True)
            axes.grid(visible=True, alpha=0.3)
    labels = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labels.values(), labels.keys(), loc="outside right upper", fontsize="small")
    figure.supxlabel(
        "a client opens the sum too; filled: whole session, hollow: one client, sampled server",
        fontsize="small",
    )
    out = BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _agreement(params: Params) -> Agreement:
    return Agreement(params=params, session=system(SESSION_SIZE), round=0, public_digest=bytes(32))


_Found: TypeAlias = dict[str, Any]
_OPENING: Final = (Stage.ADVERTISE, Stage.SHARE, Stage.REVEAL)  # of a session under CKKS


def _whole(case: Case, clients: int | None = None) -> Callable[[Now], _Found]:
    """A session ready to be run, of the first ``clients`` alone where that is given."""
    gone = range(case.clients - case.gone, case.clients) if clients is None else ()
    there = range(case.clients if clients is None else clients)
    dropouts = dict.fromkeys(gone, Stage.MASK)
    real_values = case.protocol in CKKS
    vector: Any = _reals(case.layout.reals) if real_values else _words(case.params.words)
    inputs = dict.fromkeys(there, vector)

    def carry(now: Now) -> Outcome:
        if real_values:
            protocol = Ckks(model=MODELS[case.protocol], minimum_survivors=2)
            params = protocol.params(case.layout, len(there))
            agreement = ckks.Agreement(
                params=params, session=system(SESSION_SIZE), public_digest=bytes(32)
            )
            return run_ckks(agreement, inputs, dropouts, now=now)
        agreed = _agreement(case.params)
        if case.protocol == PLAIN:
            return run_plain(agreed, inputs, dropouts, now=now)
        return run_bonawitz(agreed, inputs, dropouts, now=now, expand=Masks)  # on one core

    def run(now: Now) -> _Found:
        outcome = carry(now)
        survivors = len(outcome.survivors)
        # PRECISION is where the largest error of a mean is expected. The deviation of one entry is
        # .18 of that in long vectors, .75 in those of one entry (measured): 8 times is 10 of them.
        wrong = (
            np.abs(outcome.sums(case.layout)["update"] - survivors * vector).max()
            > 8 * case.clients * PRECISION
            if real_values
            else not np.array_equal(outcome.values, vector * np.uint64(survivors))
        )
        if wrong or survivors != len(there) - len(gone):
            raise SecaggError(f"{case} gave a wrong sum; please report it")
        return _found(case, outcome.costs, len(there), survivors)

    return run


def _own(case: Case, now: Now) -> _Found:
    found = run(case, now)
    names = ("client_seconds", "server_seconds", "bytes_up", "bytes_down")
    decryptor: _Found = {"decryptor_seconds": 0.0, "decryptor_up": 0, "decryptor_down": 0}
    return decryptor | {name: getattr(found, name) for name in names}


def _words(count: int) -> NDArray[np.uint64]:
    return np.frombuffer(system(8 * count), np.uint64)


def _reals(count: int) -> NDArray[np.float64]:
    """Uniform in [-1, 1)."""
    return _words(count).astype(np.float64) * 2.0**-63 - 1


def _found(case: Case, costs: Costs, clients: int, survivors: int) -> _Found:
    sending = [s for s in costs if case.protocol not in CKKS or s not in _OPENING]
    opening = [s for s in costs if s not in sending]
    present = {Stage.ADVERTISE: clients, Stage.SHARE: clients}
    decryptors = survivors if case.protocol == CKKS[0] else min(HOLDERS, clients)

    def total(name: str, stages: Sequence[Stage]) -> Any:
        return sum(getattr(costs[stage], name) for stage in stages)

    return {
        "client_seconds": sum(
            costs[stage].client_seconds / present.get(stage, survivors) for stage in sending
        ),
        "decryptor_seconds": total("client_seconds", opening) / decryptors,
        "server_seconds": total("server_seconds", tuple(costs)),
        "bytes_up": total("bytes_up", sending),
        "bytes_down": total("bytes_down", sending),
        "decryptor_up": total("bytes_up", opening),
        "decryptor_down": total("bytes_down", opening),
    }


@lru_cache(maxsize=8)  # a sweep asks for the short session of one size again and again
def _short(case: Case, now: Now) -> _Found:
    return _whole(replace(case, entries=1))(now)


def _sampled(case: Case, neighbours: int, now: Now) -> _Found:
    """The stages up to the masks on short vectors, the masks on long ones."""
    short, words = dict(_short(replace(case, entries=1), now)), case.params.words
    frame_bytes, mask_seconds, receive_seconds = _one_client(words, neighbours, now)
    total = np.zeros(words, np.uint64)
    masks = [Mask(seed=Secret(system(SEED_SIZE)), label=b"sample") for _ in range(SAMPLE)]
    began = now()
    Masks(masks, Suite.AES_128_CTR).apply_to(total)
    one_mask = (now() - began) / SAMPLE
    alive = case.clients - case.gone
    unmasking = one_mask * (alive + case.gone * neighbours * alive / case.clients)
    short["client_seconds"] += mask_seconds
    short["server_seconds"] += alive * receive_seconds + unmasking
    short["bytes_up"] += frame_bytes
    return short


def _one_client(words: int, neighbours: int, now: Now) -> tuple[int, float, float]:
    """One client's frames among as many peers, and the server's time to take them."""
    size = neighbours + 1
    params = Params(clients=size, threshold=majority(size), words=words)
    agreement, part = _agreement(params), np.zeros(2**15, np.uint64)
    full, rest = divmod(words, len(part))
    parts = (part[: len(part) if index < full else rest] for index in range(full + 1))
    clients = [
        BonawitzClient(agreement, client, lambda: parts, expand=Masks) for client in range(size)
    ]
    relay = relay_bonawitz(agreement, range(size))
    while (ask := next(relay)).stage is not Stage.MASK:
        for client, request in ask.requests.items():
            ask.receive(clients[client].answer(ask.stage, request))
    began = now()
    frames = clients[0].answer(Stage.MASK, ask.requests[0])
    masked = now()
    ask.receive(frames)
    return sum(map(len, frames)), masked - began, now() - masked


def _scaled(case: Case, now: Now) -> _Found:
    """A session of ``SAMPLE`` clients, its server scaled to all; lists grow as in short ones."""
    few = min(SAMPLE, case.clients)
    found, alive = _whole(case, few)(now), case.clients - case.gone
    found["server_seconds"] *= alive / few
    whole, part = _short(replace(case, entries=1), now), _whole(replace(case, entries=1), few)(now)
    for name in ("bytes_up", "bytes_down", "decryptor_up", "decryptor_down"):
        found[name] += whole[name] - part[name]
    return found


# Growth

FITTED: Final = ("client_seconds", "server_seconds", "bytes_up", "bytes_down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A power, and its 95 % interval; None where there are as few points as unknowns."""

    power: float
    low: float | None
    high: float | None


def exponents(points: Sequence[Cost], cost: str) -> dict[str, Fit]:
    """How a cost grows: the powers of clients and entries that fit it best in the logarithm.

    Least squares over the points of one protocol, one constant for each dropout. The interval
    is Student's and takes what the power law does not explain for noise: where a fixed part
    rules small rounds, the power is below what large ones show, and the interval wide. A size
    that does not vary has no power; a cost that is 0 somewhere has none at all.
    """
    values = np.array([float(getattr(point, cost)) for point in points])
    sizes = [name for name in ("clients", "entries") if len(_distinct(points, name)) > 1]
    if not sizes or not (values > 0).all():
        return {}
    dropouts = _distinct(points, "dropout")
    rows = np.array(
        [
            [math.log(getattr(p, name)) for name in sizes] + [p.dropout == d for d in dropouts]
            for p in points
        ],
        float,
    )
    powers, *_ = np.linalg.lstsq(rows, np.log(values), rcond=None)
    rank = int(np.linalg.matrix_rank(rows))
    if rank < rows.shape[1]:
        return {}
    freedom = len(rows) - rank
    spread = np.full(len(powers), np.nan)
    if freedom:
        noise = float(((np.log(values) - rows @ powers) ** 2).sum()) / freedom
        spread = student(freedom) * np.sqrt(noise * np.diag(np.linalg.inv(rows.T @ rows)))
    return {
        name: Fit(
            power=float(power),
            low=float(power - wide) if freedom else None,
            high=float(power + wide) if freedom else None,
        )
        for name, power, wide in zip(sizes, powers, spread, strict=False)
    }


def names_of(points: Sequence[Cost]) -> list[str]:
    """The protocols in the order of ``PROTOCOLS``, whether measured or not, then one's own."""
    return list(dict.fromkeys([*PROTOCOLS, *(point.protocol for point in points)]))


def growth(points: Sequence[Cost]) -> Iterator[tuple[str, str, Mapping[str, Fit]]]:
    """Protocol, cost, powers; for all that can be fitted."""
    for protocol in names_of(points):
        own = [point for point in points if point.protocol == protocol]
        for cost in FITTED:
            if own and (found := exponents(own, cost)):
                yield protocol, cost, found


def student(freedom: int, confidence: float = 0.95) -> float:
    """What Student's t with ``freedom`` degrees stays within, with ``confidence``.

    By bisection of A(t) in closed form [Abramowitz, Stegun, 26.7.3 and 26.7.4].
    """
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(freedom)
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _student(angle, freedom) < confidence else (low, angle)
    return math.tan(low) * math.sqrt(freedom)


def _student(angle: float, freedom: int) -> float:
    odd, cosine = freedom % 2, math.cos(angle)
    term = math.sin(angle) * (cosine if odd else 1.0)
    total = term if freedom > 1 else 0.0
    for step in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    return 2 / math.pi * (angle + total) if odd else total


def _distinct(points: Sequence[Cost], name: str) -> list[Any]:
    return sorted({getattr(point, name) for point in points})
