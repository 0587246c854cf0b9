"""What a round costs, and how that grows with clients and entries.

Full sessions are run where they are small enough. Beyond that, one client is
run at full size among as many peers as it would have, and the server's work is
timed on a sample of the vectors and masks that it would handle, and scaled;
such a point says so.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from protocols.bonawitz import Agreement, CollectKeys, Params, Rates, join
from protocols.entropy import system
from protocols.primitives.prg import SEED_SIZE, Mask, Suite, expand
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE
from secagg.packing import word_count
from secagg.rounds import majority, run_bonawitz
from secagg.stages import Stage

FULL = 10**9  # clients times entries: the largest session that is run whole
SPARSE_ABOVE = 200  # clients
SAMPLE = 16  # masks and vectors that the server is timed on


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One point: a round of ``clients`` with vectors of ``entries``.

    Attributes:
      neighbours: of each client, and ``threshold`` shares that rebuild a secret.
      client_seconds: one client, all its stages, on one core; protocol alone.
      server_seconds: the server, all its stages, on one core.
      bytes_up: what one client sends in all, and ``bytes_down`` what it is sent.
      whole: the session was run whole; otherwise one client and a sampled server.
    """

    clients: int
    entries: int
    lanes: int
    dropout: float
    neighbours: int
    threshold: int
    client_seconds: float
    server_seconds: float
    bytes_up: int
    bytes_down: int
    whole: bool


def measure(
    clients: int, entries: int, *, lanes: int = 3, dropout: float = 0.1, corrupt: float = 0.05
) -> Cost:
    """Run a round and time it; ``dropout`` of the clients vanish before they send their vector."""
    words = word_count(entries, lanes)
    params = _params(clients, words, dropout, corrupt)
    plan = params.plan(clients)
    neighbours = clients - 1 if plan.degree is None else plan.degree
    gone = int(Fraction(str(dropout)) * clients)
    whole = clients * entries <= FULL
    timed = _whole(params, gone) if whole else _sampled(params, neighbours, gone)
    client, server, up, down = timed
    return Cost(
        clients=clients,
        entries=entries,
        lanes=lanes,
        dropout=dropout,
        neighbours=neighbours,
        threshold=plan.threshold,
        client_seconds=client,
        server_seconds=server,
        bytes_up=up,
        bytes_down=down,
        whole=whole,
    )


def sweep(clients: Sequence[int], entries: Sequence[int], **options: Any) -> Iterator[Cost]:
    """Every combination, the small ones first."""
    for each in sorted(((n, d) for n in clients for d in entries), key=lambda p: p[0] * p[1]):
        yield measure(*each, **options)


def exponents(points: Sequence[Cost], cost: str) -> dict[str, float]:
    """How a cost grows: the powers of clients and entries that fit it best in the logarithm.

    A fit over all points; where a fixed part rules small rounds it is below what large
    ones show.
    """
    rows = np.array([[np.log(p.clients), np.log(p.entries), 1.0] for p in points])
    values = np.log([float(getattr(p, cost)) for p in points])
    (by_clients, by_entries, _), *_ = np.linalg.lstsq(rows, values, rcond=None)
    return {"clients": float(by_clients), "entries": float(by_entries)}


def as_json(points: Sequence[Cost]) -> dict[str, Any]:
    """Points and fitted exponents, for a file."""
    names = ("client_seconds", "server_seconds", "bytes_up", "bytes_down")
    return {
        "schema": 1,
        "points": [asdict(point) for point in points],
        "exponents": {name: exponents(points, name) for name in names},
    }


def plot(points: Sequence[Cost]) -> bytes:
    """An SVG of time and bytes against clients, one line a length."""
    from io import BytesIO

    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels: list[tuple[str, Callable[[Cost], float]]] = [
        ("a client, seconds", lambda point: point.client_seconds),
        ("the server, seconds", lambda point: point.server_seconds),
        ("a client sends, MB", lambda point: point.bytes_up / 1e6),
    ]
    for axes, (title, value) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for entries in sorted({point.entries for point in points}):
            line = sorted(
                (p for p in points if p.entries == entries), key=lambda point: point.clients
            )
            xs, ys = [p.clients for p in line], [value(p) for p in line]
            (drawn,) = axes.plot(xs, ys, label=f"{entries:.0e} entries".replace("e+0", "e"))
            for x, y, point in zip(xs, ys, line, strict=True):
                face = drawn.get_color() if point.whole else "white"
                axes.plot(x, y, "o", color=drawn.get_color(), markerfacecolor=face)
        axes.set(xscale="log", yscale="log", xlabel="clients", title=title)
        axes.grid(visible=True, alpha=0.3)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small"
    )
    figure.supxlabel("filled: whole session; hollow: one client, sampled server", fontsize="small")
    out = BytesIO()
    figure.savefig(out, format="svg")
    return out.getvalue()


def _params(clients: int, words: int, dropout: float, corrupt: float) -> Params:
    if clients <= SPARSE_ABOVE:
        return Params(clients=clients, threshold=majority(clients), words=words)
    return Params(clients=clients, rates=Rates(corrupt=corrupt, dropout=dropout), words=words)


def _agreement(params: Params) -> Agreement:
    return Agreement(params=params, session=system(SESSION_SIZE), round=0, public=bytes(32))


@lru_cache(maxsize=8)  # a sweep asks for the short session of one size again and again
def _short(params: Params, gone: int) -> tuple[float, float, int, int]:
    return _whole(params, gone)


def _whole(params: Params, gone: int) -> tuple[float, float, int, int]:
    words = np.zeros(params.words, np.uint64)
    inputs = dict.fromkeys(range(params.clients), words)
    costs = run_bonawitz(
        _agreement(params), inputs, dict.fromkeys(range(gone), Stage.MASK)
    ).costs.values()
    return (
        sum(cost.client_seconds for cost in costs) / params.clients,
        sum(cost.server_seconds for cost in costs),
        sum(cost.bytes_up for cost in costs),
        sum(cost.bytes_down for cost in costs),
    )


def _sampled(params: Params, neighbours: int, gone: int) -> tuple[float, float, int, int]:
    """The stages up to the masks on short vectors, the masks on long ones."""
    client, server, up, down = _short(replace(params, words=1), gone)
    frame_bytes, mask_seconds, receive_seconds = _one_client(params.words, neighbours)
    total = np.zeros(params.words, np.uint64)
    masks = [Mask(seed=Secret(system(SEED_SIZE)), label=b"sample") for _ in range(SAMPLE)]
    began = time.perf_counter()
    expand(total, masks, Suite.AES_128_CTR)
    one_mask = (time.perf_counter() - began) / SAMPLE
    alive = params.clients - gone
    unmasking = one_mask * (alive + gone * neighbours * alive / params.clients)
    return (
        client + mask_seconds,
        server + alive * receive_seconds + unmasking,
        up + frame_bytes,
        down,
    )


def _one_client(words: int, neighbours: int) -> tuple[int, float, float]:
    """One client's frames among as many peers, and the server's time to take them."""
    size = neighbours + 1
    params = Params(clients=size, threshold=majority(size), words=words)
    agreement = _agreement(params)
    keys, states = CollectKeys(agreement), {}
    for client in range(size):
        message, states[client] = join(agreement, client)
        keys.receive(message)
    rosters, shares = keys.close()
    sharing = {}
    for client in range(size):
        message, sharing[client] = states[client].on_roster(rosters[client])
        shares.receive(message)
    boxes, vectors = shares.close()
    part = np.zeros(2**15, np.uint64)
    full, rest = divmod(words, len(part))
    parts = (part[: len(part) if index < full else rest] for index in range(full + 1))
    began = time.perf_counter()
    frames = list(sharing[0].on_boxes(boxes[0], parts)[0])
    masked = time.perf_counter()
    vectors.receive(frames)
    return sum(map(len, frames)), masked - began, time.perf_counter() - masked
