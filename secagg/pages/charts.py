"""Small SVG charts for a page that colours them: no number, colour or font is fixed here.

Text and lines take their colours from the page's classes, so the same chart is
read on white, on black and on paper. Every mark has a ``title`` with its value,
every chart a sentence for those who do not see it.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from secagg.pages.markup import Markup, join, tag

WIDTH, HEIGHT = 360, 236  # of the drawing; about the width of a phone, so that text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 50, 354, 14, 192  # of the plot inside it
MAX_LABELS = 7  # on the axis of rounds

Format = Callable[[float], str]


def line(
    summary: str,
    rounds: Sequence[int],
    values: Sequence[float | None],
    show: Format,
    *,
    top: float,
    rule: tuple[float, str] | None = None,
) -> Markup:
    """A line through the values that are there, from 0 to ``top``; ``rule`` is a level to watch."""
    ticks = _ticks(max([top, *(v for v in values if v is not None), *(rule[:1] if rule else ())]))
    x, y = _x(len(rounds)), _y(ticks[-1])
    known = [
        (x(index), y(max(value, 0.0)), value, number)
        for index, (number, value) in enumerate(zip(rounds, values, strict=True))
        if value is not None
    ]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b, _, _ in known)
    radius = 2.6 if len(known) <= 60 else 1.2
    marks: list[Markup] = [tag("polyline", class_="line", points=path)]
    for a, b, value, number in known:
        label = tag("title", f"round {number}: {show(value)}")
        marks.append(tag("circle", label, class_="dot", cx=a, cy=b, r=f"{radius}"))
    if known:
        a, b, value, _ = known[-1]
        marks.append(_value(show(value), a, b))
    if rule is not None:
        level, text = rule
        label = tag("text", text, class_="rule", x=LEFT + 4, y=y(level) + 14)
        marks = [_rule(level, y), label, *marks]
    return _chart(summary, rounds, ticks, show, join(*marks), "round")


def bars(
    summary: str,
    rounds: Sequence[int | str],
    stacks: Sequence[Mapping[str, float]],
    show: Format,
    *,
    top: float = 0.0,
    rule: float | None = None,
    each: str = "round",
) -> Markup:
    """A bar a round, of parts from the bottom up; a part's name is its class on the page.

    What is no round is called ``each`` in the titles of its marks.
    """
    highest = max((sum(stack.values()) for stack in stacks), default=0.0)
    ticks = _ticks(max(top, highest, rule or 0.0))
    x, y = _x(len(rounds)), _y(ticks[-1])
    slot = (RIGHT - LEFT) / max(len(rounds), 1)
    width = min(slot * 0.78, 34.0)
    marks = []
    for index, (number, stack) in enumerate(zip(rounds, stacks, strict=True)):
        base = 0.0
        for name, amount in stack.items():
            if amount > 0:
                low, high = y(base), y(base + amount)
                label = tag("title", f"{each} {number}, {name}: {show(amount)}")
                marks.append(
                    tag(
                        "rect",
                        label,
                        class_=f"bar {name}",
                        x=f"{x(index) - width / 2:.2f}",
                        y=f"{high:.2f}",
                        width=f"{width:.2f}",
                        height=f"{low - high:.2f}",
                    )
                )
            base += amount
    if rule is not None:
        marks.append(_rule(rule, y))
    return _chart(summary, rounds, ticks, show, join(*marks), each)


def bands(
    summary: str,
    rounds: Sequence[int],
    spreads: Sequence[Sequence[float | None]],
    show: Format,
    *,
    top: float,
    rule: tuple[float, str] | None = None,
) -> Markup:
    """Least, quarter, half, three quarters and most of many values by round.

    A band from least to most, one between the quarters, and a line through the halves.
    A round in which one of the five is not known is left out.
    """
    known = [
        (index, number, [value for value in spread if value is not None])
        for index, (number, spread) in enumerate(zip(rounds, spreads, strict=True))
        if None not in spread
    ]
    ticks = _ticks(max([top, *(values[-1] for _, _, values in known), *(rule[:1] if rule else ())]))
    x, y = _x(len(rounds)), _y(ticks[-1])
    marks: list[Markup] = []
    for low, high, name in ((0, -1, "band"), (1, -2, "band inner")):
        there = [f"{x(index):.1f},{y(values[high]):.1f}" for index, _, values in known]
        back = [f"{x(index):.1f},{y(values[low]):.1f}" for index, _, values in reversed(known)]
        marks.append(tag("polygon", class_=name, points=" ".join(there + back)))
    path = " ".join(f"{x(index):.1f},{y(values[2]):.1f}" for index, _, values in known)
    marks.append(tag("polyline", class_="line", points=path))
    for index, number, values in known:
        least, quarter, half, more, most = map(show, values)
        label = (
            f"round {number}: median {half}, half of all {quarter} to {more}, all {least} to {most}"
        )
        marks.append(
            tag("circle", tag("title", label), class_="dot", cx=x(index), cy=y(values[2]), r="1.6")
        )
    if known:
        index, _, values = known[-1]
        marks.append(_value(show(values[-1]), x(index), y(values[-1])))
    if rule is not None:
        label_at = y(rule[0]) + 14
        words = tag("text", rule[1], class_="rule", x=LEFT + 4, y=label_at)
        marks = [_rule(rule[0], y), words, *marks]
    return _chart(summary, rounds, ticks, show, join(*marks), "round")


def lines(
    summary: str,
    labels: Sequence[int | str],
    series: Mapping[str, Sequence[float | None]],
    show: Format,
    *,
    top: float = 0.0,
    each: str = "round",
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Several lines from 0 up; a line's name is its class on the page, and in its marks' titles.

    ``mark``: a place among the labels, from 0 and perhaps between two, and what stands there.
    """
    ticks = _ticks(max([top, *(v for values in series.values() for v in values if v is not None)]))
    x, y = _x(len(labels)), _y(ticks[-1])
    marks: list[Markup] = []
    for name, values in series.items():
        known = [(x(at), y(v), v, labels[at]) for at, v in enumerate(values) if v is not None]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b, _, _ in known)
        marks.append(tag("polyline", class_=f"line {name}", points=path))
        for a, b, value, label in known:
            title = tag("title", f"{each} {label}, {name}: {show(value)}")
            marks.append(tag("circle", title, class_=f"dot {name}", cx=a, cy=b, r="2"))
    if mark is not None:
        at, text = LEFT + (RIGHT - LEFT) * (mark[0] + 0.5) / max(len(labels), 1), mark[1]
        end = "end" if at > (LEFT + RIGHT) / 2 else "start"
        words = tag(
            "text",
            text,
            class_="rule",
            x=at + (-5 if end == "end" else 5),
            y=TOP + 12,
            text_anchor=end,
        )
        marks += [tag("line", class_="rule", x1=at, x2=at, y1=TOP, y2=BOTTOM), words]
    return _chart(summary, labels, ticks, show, join(*marks), each)


def _value(text: str, x: float, y: float) -> Markup:
    """The number of a mark, where there is room for it."""
    above = y - 9 if y > TOP + 30 else y + 23
    return tag("text", text, class_="value", x=min(x, RIGHT - 2), y=above, text_anchor="end")


def _chart(
    summary: str,
    rounds: Sequence[int | str],
    ticks: Sequence[float],
    show: Format,
    marks: Markup,
    each: str,
) -> Markup:
    y = _y(ticks[-1])
    axes = [
        join(
            tag("line", class_="rail", x1=LEFT, x2=RIGHT, y1=y(tick), y2=y(tick)),
            tag("text", show(tick), x=LEFT - 7, y=y(tick) + 4, text_anchor="end"),
        )
        for tick in ticks
    ]
    x = _x(len(rounds))
    axes += [
        tag("text", str(rounds[index]), x=x(index), y=BOTTOM + 18, text_anchor="middle")
        for index in _labelled(len(rounds))
    ]
    middle = (LEFT + RIGHT) / 2
    axes.append(tag("text", each, class_="axis", x=middle, y=BOTTOM + 36, text_anchor="middle"))
    return tag("svg", *axes, marks, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=summary)


def _rule(level: float, y: Callable[[float], float]) -> Markup:
    return tag("line", class_="rule", x1=LEFT, x2=RIGHT, y1=y(level), y2=y(level))


def _labelled(count: int) -> Sequence[int]:
    """The rounds that get a number below them: the first, and then every so many."""
    if count <= MAX_LABELS:
        return range(count)
    step = next(s for s in _steps() if count / s <= MAX_LABELS)
    return [0, *range(int(step) - 1, count, int(step))]


def _ticks(top: float) -> list[float]:
    """Three to five equal, round steps from 0 to at least ``top``."""
    if top <= 0:
        return [0.0, 1.0]
    scale = 10.0 ** math.floor(math.log10(top))
    for step in (0.02 * scale, 0.05 * scale, *(s * scale / 10 for s in (1, 2, 2.5, 5, 10, 20, 50))):
        count = math.ceil(top / step - 1e-9)
        if count <= 5:
            return [step * index for index in range(count + 1)]
    return [0.0, top]


def _steps() -> Sequence[float]:
    return [digit * 10**power for power in range(1, 9) for digit in (0.5, 1, 2)]


def _x(count: int) -> Callable[[int], float]:
    slot = (RIGHT - LEFT) / max(count, 1)
    return lambda index: LEFT + slot * (index + 0.5)


def _y(top: float) -> Callable[[float], float]:
    return lambda value: BOTTOM - (BOTTOM - TOP) * value / top
