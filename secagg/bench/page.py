"""The page of ``secagg bench quick``: one HTML file without script that requests nothing.

It says what ``secagg.bench.records.Record`` holds and computes no number of its own but medians and
their intervals.
"""

from collections.abc import Sequence

from secagg.bench.records import Measurement, Measurements, Point
from secagg.bench.yardsticks import REFERENCES
from secagg.pages import parts
from secagg.pages.charts import bars
from secagg.pages.markup import Markup, join, tag
from secagg.pages.numbers import elapsed, percent, short, size


def page(record: Measurements) -> str:
    """The whole file."""
    sizes = list(dict.fromkeys((p.cost.clients, p.cost.entries) for p in record.points))
    return parts.page(
        "secagg bench quick",
        _header(record),
        tag("h2", "A round"),
        tag(
            "p",
            "CPU time of one core: a client from its keys to its last answer, and what opening the "
            "sum takes of those that open it; the server from the first key to the sum.",
        ),
        *(_size(record.points, *each) for each in sizes),
        tag("h2", "Beside a reference"),
        tag(
            "p",
            "Each cost and its reference were measured in turn, so that a slow minute slows both. "
            "The interval holds the median with 95 %.",
        ),
        _ratios(record.measurements),
        _footer(record),
    )


def _header(record: Measurements) -> Markup:
    one = record.machine
    return parts.header(
        f"secagg bench quick · {record.began}",
        "What a private sum costs on this machine",
        f"{one['cpu']}, {one['cores']} cores ({', '.join(one['flags'])}). Every sum was "
        "checked against its parts: exact under masks, within 2^-11 of the clip under CKKS.",
        warnings=record.notes,
    )


def _size(points: Sequence[Point], clients: int, entries: int) -> Markup:
    chosen = [p for p in points if (p.cost.clients, p.cost.entries) == (clients, entries)]
    names = [point.cost.protocol.removesuffix("-ckks") for point in chosen]
    about = f"{clients:,} clients, {entries:,} entries"

    def chart(title: str, unit: str, values: Sequence[float]) -> Markup:
        stacks = [{"committed": value} for value in values]
        return parts.figure(
            title, unit, bars(f"{title}, {about}", names, stacks, short, each="under")
        )

    client = [1e3 * (p.cost.client_seconds + p.cost.decryptor_seconds) for p in chosen]
    server = [1e3 * p.cost.server_seconds for p in chosen]
    return join(
        tag("h3", about),
        tag("p", f"{percent(chosen[0].cost.dropout)} of the clients are lost.", class_="hint"),
        parts.figures(
            chart("A client sends", "bytes an entry", [p.cost.bytes_per_entry for p in chosen]),
            chart("A client computes", "milliseconds, opening the sum too", client),
            chart("The server computes", "milliseconds", server),
        ),
        _table(chosen),
    )


def _table(points: Sequence[Point]) -> Markup:
    headings = (
        "protocol",
        "neighbours",
        "client",
        "decryptor",
        "server",
        "sends",
        "is sent",
        "peak",
    )
    rows = []
    for point in points:
        cost = point.cost
        seconds = (cost.client_seconds, cost.decryptor_seconds, cost.server_seconds)
        cells = (
            cost.protocol + ("" if cost.whole else " (sampled)"),
            f"{cost.neighbours:,}" if cost.neighbours else "–",
            *(elapsed(each) if each else "–" for each in seconds),
            size(cost.bytes_up),
            size(cost.bytes_down),
            "–" if point.peak_memory is None else size(point.peak_memory),
        )
        rows.append(parts.row(*cells))
    caption = (
        "peak: most memory above what was held before, all parties together, to some hundred kB"
    )
    return tag("div", parts.table(headings, rows, caption=caption), class_="wide rounds")


def _ratios(measurements: Sequence[Measurement]) -> Markup:
    rows = []
    for each in measurements:
        ratio = each.ratio()
        cells = (
            each.name,
            elapsed(each.seconds),
            "–" if ratio is None else short(ratio.value),
            "–" if ratio is None else f"{short(ratio.low)} to {short(ratio.high)}",
            REFERENCES[each.reference].unit,
        )
        rows.append(parts.row(*cells))
    headings = ("cost", "takes", "ratio", "interval", "to a")
    return tag("div", parts.table(headings, rows), class_="wide")


def _footer(record: Measurements) -> Markup:
    one = record.machine
    versions = ", ".join(f"{name} {version}" for name, version in one["libraries"].items())
    return parts.footer(
        f"{one['python']}, {one['openssl']}, {one['system']}; {versions}",
        f"Load {one['load'][0]} at the start; measured in {record.seconds:.0f} s.",
    )
