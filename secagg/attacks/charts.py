"""Charts of what attacks found, for the page that colours them and as files that stand alone."""

import base64
import math
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dp.empirical import GAUSSIAN, LowerBound
from secagg.attacks.canaries import EmpiricalAudit
from secagg.attacks.inversion import Inversion
from secagg.attacks.membership import Membership
from secagg.pages import parts
from secagg.pages.charts import BOTTOM, LEFT, RIGHT, TOP, WIDTH
from secagg.pages.markup import Markup, join, tag
from secagg.pages.numbers import at_least, percent, short

FLOOR: Final = 1e-3  # rates below are drawn at it
CLASSES: Final = {"loss": "loss", "lira offline": "offline", "lira online": "online"}
COLUMNS: Final = 6  # pictures side by side
_ROW: Final = 48  # of a bar with its name above
_GAP: Final = 26  # between drawings of a sheet, and room for a title


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Marks ``WIDTH`` wide and a sentence for those who do not see them."""

    title: str
    detail: str
    summary: str
    height: int
    marks: Markup

    def svg(self) -> Markup:
        return tag(
            "svg",
            self.marks,
            viewBox=f"0 0 {WIDTH} {self.height}",
            role="img",
            aria_label=self.summary,
        )


def curves(group: Sequence[Membership]) -> Drawing:
    """The attacks on one mode: true against false positive rate, both from ``FLOOR`` to 1."""
    first, marks = group[0], []
    for power in range(round(math.log10(FLOOR)), 1):
        rate = 10.0**power
        anchor = "start" if rate <= FLOOR else "end" if rate >= 1 else "middle"
        marks += [
            tag("line", class_="rail", x1=LEFT, x2=RIGHT, y1=_y(rate), y2=_y(rate)),
            tag("text", percent(rate), x=LEFT - 7, y=_y(rate) + 4, text_anchor="end"),
            tag("text", percent(rate), x=_x(rate), y=BOTTOM + 18, text_anchor=anchor),
        ]
    marks.append(tag("line", class_="rule", x1=LEFT, y1=BOTTOM, x2=RIGHT, y2=TOP))
    for place, one in enumerate(group):
        name = CLASSES[one.attack]
        path = " ".join(f"{_x(false):.1f},{_y(true):.1f}" for false, true in one.roc)
        title = tag("title", f"{one.attack}: area under the curve {short(one.auc)}")
        marks.append(tag("polyline", title, class_=f"line {name}", points=path))
        for point in one.rates:
            at = _x(point.false_positive_rate) + 5 * (place + (point.false_positive_rate <= FLOOR))
            words = (
                f"{one.attack}, at {percent(point.false_positive_rate)} false positives: "
                f"{percent(point.true_positive_rate)} true, 95 % interval {percent(point.low)} to "
                f"{percent(point.high)}"
            )
            label = tag("title", words)
            ends = {"x1": at, "x2": at, "y1": _y(point.low), "y2": _y(point.high)}
            marks.append(tag("line", label, class_=f"whisker {name}", **ends))
        # Below the diagonal, where no curve better than guessing comes.
        at, low = RIGHT - 118, BOTTOM - 46 + 18 * place
        marks += [
            tag("line", class_=f"line {name}", x1=at, x2=at + 20, y1=low - 4, y2=low - 4),
            tag("text", one.attack, x=at + 26, y=low),
        ]
    areas = ", ".join(f"{one.attack} {short(one.auc)}" for one in group)
    mode = "no privacy" if first.mode == "none" else first.mode
    size = f"pool of {first.pool:,}"
    return Drawing(
        title=f"{mode[0].upper()}{mode[1:]}, {size}",
        detail=f"{first.unit.value}s found (up) against others taken for members (right); dashed: "
        "guessing; bars: 95 % intervals",
        summary=f"{mode}, {size}: area under the curve, {areas}",
        height=BOTTOM + 30,
        marks=join(*marks),
    )


def against(title: str, detail: str, audits: Sequence[EmpiricalAudit]) -> Drawing:
    """Bars of what was measured, a dashed mark at what is stated."""
    top = max(*(one.found.epsilon for one in audits), *(one.stated for one in audits), 0.1)
    step = next(s for s in _steps() if top / s <= 5)

    def at(value: float) -> float:
        return 12 + 265 * value / top  # leaves room for a number after the longest bar

    height, marks = 12 + _ROW * len(audits), []
    for count in range(math.floor(top / step) + 1):
        x = at(count * step)
        marks += [
            tag("line", class_="rail", x1=x, x2=x, y1=6, y2=height),
            tag("text", short(count * step), x=x, y=height + 18, text_anchor="middle"),
        ]
    said = []
    for place, one in enumerate(audits):
        base, proved = 12.0 + _ROW * place, isinstance(one.found, LowerBound)
        value = at_least(one.found.epsilon) if proved else f"≈ {one.found.epsilon:.2f}"
        name = called(one)
        kind = "refuted" if one.refuted else "bound" if proved else "estimate"
        words = f"{name}: {'at least' if proved else ''} {value}, stated {short(one.stated)}"
        said.append(" ".join(words.split()))
        width = max(at(one.found.epsilon) - at(0), 0.5)
        label = tag("title", said[-1])
        marks += [
            tag("text", name, x=at(0), y=base + 12),
            tag("rect", label, class_=f"bar {kind}", x=at(0), y=base + 20, width=width, height=14),
            tag(
                "line",
                class_="rule",
                x1=at(one.stated),
                x2=at(one.stated),
                y1=base + 16,
                y2=base + 38,
            ),
            tag(
                "text", value, class_="value", x=max(at(0) + width, at(one.stated)) + 5, y=base + 32
            ),
        ]
    return Drawing(
        title=title,
        detail=detail,
        summary=f"{title}. {'; '.join(said)}",
        height=height + 28,
        marks=join(*marks),
    )


def called(one: EmpiricalAudit) -> str:
    """The mechanism, what it claims, and how much of its noise was left in it on purpose."""
    left = f", 1/{round(1 / one.noise_share):,} of its noise" if one.noise_share < 1 else ""
    bounded = isinstance(one.found, LowerBound) and one.found.method == GAUSSIAN
    return one.audited + (" as Gaussian noise" if bounded else "") + left


def pictures(group: Sequence[Inversion]) -> Drawing:
    """Originals above what came out of each kind of thing that was seen.

    Those that came out of the sum come first; who came out is framed.
    """
    alone, summed, noised = group
    order = sorted(range(alone.clients), key=lambda at: not summed.pictures[at].recovered)
    size, left = 40, 100
    rows = (
        ("original", None),
        ("one update", alone),
        (f"sum of {summed.clients}", summed),
        ("noised sum", noised),
    )
    marks = []
    for line, (name, found) in enumerate(rows):
        y = 4.0 + (size + 6) * line
        marks.append(tag("text", name, x=left - 8, y=y + size / 2 + 4, text_anchor="end"))
        for column, at in enumerate(order[:COLUMNS]):
            picture = (found or alone).pictures[at]
            came = found is not None and picture.recovered
            words = f"client {at + 1}, {name}" + (": came out" if came else "")
            place = {"x": left + (size + 3) * column, "y": y, "width": size, "height": size}
            shown = picture.original if found is None else picture.reconstructed
            marks.append(
                tag("image", tag("title", words), class_="picture", href=_png(shown), **place)
            )
            marks.append(tag("rect", class_="found" if came else "frame", **place))
    counts = [f"{one.seen} {one.recovered} of {one.clients}" for one in group]
    model = "softmax regression" if alone.model == "softmax" else "small network"
    return Drawing(
        title=f"Gradients of a {model}",
        detail=f"pictures that came out (framed): {', '.join(counts)}. Shown are "
        f"{min(COLUMNS, len(order))} clients, those that came out of the sum first",
        summary=f"Pictures recovered, {alone.model}: {', '.join(counts)}",
        height=4 + (size + 6) * len(rows),
        marks=join(*marks),
    )


def sheet(drawings: Sequence[Drawing]) -> bytes:
    """Drawings two in a row as one SVG file, in the page's colours by day and by night."""
    placed, top = [], 10
    for start in range(0, len(drawings), 2):
        row = drawings[start : start + 2]
        for column, one in enumerate(row):
            x = 10 + (WIDTH + _GAP) * column
            title = tag("text", one.title, class_="value", x=6, y=14)
            marks = tag("g", one.marks, transform=f"translate(0 {_GAP})")
            placed.append(tag("g", title, marks, transform=f"translate({x} {top})"))
        top += max(one.height for one in row) + 2 * _GAP
    width = 20 + WIDTH + (WIDTH + _GAP) * (len(drawings) > 1)
    whole = tag(
        "svg",
        tag("style", Markup(_style())),
        tag("rect", class_="sheet", width=width, height=top),
        *placed,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {top}",
        role="img",
        aria_label=". ".join(one.summary for one in drawings),
    )
    return f"{whole}\n".encode()


def _style() -> str:
    """What of the page's style a chart needs."""
    colours, _, rest = parts.template().partition("<style>")[2].partition("* { box-sizing")
    lines = re.findall(r"^svg .*$", rest.partition("@media")[0], re.MULTILINE)
    return "\n".join([colours.strip(), "svg { font-family: var(--sans); }", *lines])


def _png(rows: Sequence[Sequence[float]]) -> str:
    """An 8-bit grey picture as an address; 1 is black."""
    lines = b"".join(bytes([0, *(255 - round(255 * ink) for ink in row)]) for row in rows)

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()


def _x(rate: float) -> float:
    return LEFT + (RIGHT - LEFT) * _along(rate)


def _y(rate: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * _along(rate)


def _along(rate: float) -> float:
    return 1 - math.log(max(rate, FLOOR)) / math.log(FLOOR)


def _steps() -> Sequence[float]:
    return [digit * 10.0**power for power in range(-2, 6) for digit in (1, 2, 5)]
