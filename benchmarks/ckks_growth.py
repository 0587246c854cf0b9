"""Growth of CKKS rounds beside masks: writes results/ckks_growth.json and .svg.

python benchmarks/ckks_growth.py            n = 10 .. 100, d = 10^3 .. 10^6, some minutes
python benchmarks/ckks_growth.py --quick    up to 10^6 entries in all

At each point whole rounds of the three protocols are run in turn, A B C A B C, on one core,
nobody drops out, and the median is kept. A client sends a vector; an opener is a holder of the
threshold key, a client that opens under the shared key, and under masks nobody.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from protocols.bonawitz import Agreement, Params
from protocols.entropy import system
from protocols.wire import SESSION_SIZE
from secagg import FixedPoint, Layout, Segment
from secagg.homomorphic import CKKS, HOLDERS, run_ckks
from secagg.rounds import majority, run_bonawitz
from secagg.stages import Costs, Stage

RESULTS = Path(__file__).parent / "results"
PROTOCOLS = ("bonawitz", *CKKS)
CLIENTS, ENTRIES = (10, 30, 100), (10**3, 10**4, 10**5, 10**6)
MOST = 10**7  # clients times entries
FEW, LONG = 10, 10**5  # clients and entries at which the other is drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A round: seconds of one client, one opener and the server, bytes of one party."""

    protocol: str
    clients: int
    entries: int
    rounds: int
    client_seconds: float
    opener_seconds: float
    server_seconds: float
    client_up: int
    client_down: int
    opener_up: int
    opener_down: int


def measure(clients: int, entries: int) -> list[Point]:
    """All protocols at one size, in turn."""
    rounds = 5 if clients * entries <= 10**5 else 3
    kept: dict[str, list[Point]] = {protocol: [] for protocol in PROTOCOLS}
    for _ in range(rounds):
        for protocol in PROTOCOLS:
            kept[protocol].append(_point(protocol, clients, entries, rounds))
    return [_median(points) for points in kept.values()]


def _point(protocol: str, clients: int, entries: int, rounds: int) -> Point:
    layout = Layout(
        segments=(Segment(name="update", entries=entries, codec=FixedPoint(clip=1.0, bits=14)),),
        clients=clients,
    )
    vector = {"update": np.random.default_rng(7).uniform(-1, 1, entries)}
    sizes = {"protocol": protocol, "clients": clients, "entries": entries, "rounds": rounds}
    if protocol not in CKKS:
        params = Params(clients=clients, threshold=majority(clients), words=layout.words)
        agreement = Agreement(
            params=params, session=system(SESSION_SIZE), round=0, public=bytes(32)
        )
        words = layout.encode(vector)
        costs = run_bonawitz(agreement, dict.fromkeys(range(clients), words)).costs
        return _of(costs, sizes, clients, tuple(costs), ())
    reals = layout.encode_reals(vector)
    costs = run_ckks(
        protocol,
        layout,
        dict.fromkeys(range(clients), reals),
        clients=clients,
        minimum_survivors=majority(clients),
        public=bytes(32),
    ).costs
    openers = clients if protocol == CKKS[0] else min(HOLDERS, clients)
    making = (Stage.ADVERTISE, Stage.SHARE, Stage.REVEAL)
    return _of(costs, sizes, openers, (Stage.MASK,), making)


def _of(
    costs: Costs,
    sizes: dict[str, object],
    openers: int,
    sending: Sequence[Stage],
    opening: Sequence[Stage],
) -> Point:
    clients = sizes["clients"]
    assert isinstance(clients, int)

    def total(name: str, stages: Sequence[Stage]) -> float:
        return sum(getattr(costs[stage], name) for stage in stages)

    return Point(
        **sizes,  # type: ignore[arg-type]  # what each is stands in ``_point``
        client_seconds=total("client_seconds", sending) / clients,
        opener_seconds=total("client_seconds", opening) / openers,
        server_seconds=total("server_seconds", tuple(costs)),
        client_up=int(total("bytes_up", sending)),
        client_down=int(total("bytes_down", sending)),
        opener_up=int(total("bytes_up", opening)),
        opener_down=int(total("bytes_down", opening)),
    )


def _median(points: Sequence[Point]) -> Point:
    seconds = {
        name: statistics.median(getattr(point, name) for point in points)
        for name in ("client_seconds", "opener_seconds", "server_seconds")
    }
    return Point(**(asdict(points[0]) | seconds))


def plot(points: Sequence[Point]) -> bytes:
    """An SVG: time and bytes against entries, and below against clients."""
    from io import BytesIO

    from matplotlib.figure import Figure

    panels: list[tuple[str, Callable[[Point], float]]] = [
        ("a client, seconds", lambda point: point.client_seconds),
        ("an opener, seconds", lambda point: point.opener_seconds),
        ("the server, seconds", lambda point: point.server_seconds),
        ("a client sends, MB", lambda point: point.client_up / 1e6),
        ("an opener is sent, MB", lambda point: point.opener_down / 1e6),
    ]
    figure = Figure(figsize=(16, 6.4), layout="constrained")
    rows = figure.subplots(2, len(panels))
    drawn = (
        ("entries", [point for point in points if point.clients == FEW], f"{FEW} clients"),
        ("clients", [point for point in points if point.entries == LONG], f"{LONG:,} entries"),
    )
    for row, (axis, chosen, fixed) in zip(rows, drawn, strict=True):
        for axes, (title, value) in zip(row, panels, strict=True):
            for protocol in PROTOCOLS:
                line = sorted(
                    (getattr(p, axis), value(p)) for p in chosen if p.protocol == protocol
                )
                shown = [(x, y) for x, y in line if y > 0]
                axes.plot([x for x, _ in shown], [y for _, y in shown], "o-", label=protocol)
            axes.set(xscale="log", yscale="log", xlabel=f"{axis}, {fixed}", title=title)
            axes.grid(visible=True, alpha=0.3)
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside right upper")
    out = BytesIO()
    figure.savefig(out, format="svg")
    return out.getvalue()


def main() -> None:
    """Measure, and write both files."""
    most = 10**6 if "--quick" in sys.argv else MOST
    sizes = sorted(
        ((n, d) for n in CLIENTS for d in ENTRIES if n * d <= most),
        key=lambda size: size[0] * size[1],
    )
    points: list[Point] = []
    for size in track(sizes):
        points += measure(*size)
        for point in points[-len(PROTOCOLS) :]:
            print(point)
    RESULTS.mkdir(exist_ok=True)
    written = {"schema": 1, "points": [asdict(point) for point in points]}
    (RESULTS / "ckks_growth.json").write_text(json.dumps(written, indent=1) + "\n")
    (RESULTS / "ckks_growth.svg").write_bytes(plot(points))


if __name__ == "__main__":
    main()
