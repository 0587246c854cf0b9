"""Pictures of the pages that are read from the code: states of the protocols, the way of the data.

    python docs/site_diagrams.py

A state is a class, and what its methods return says which state comes next, so the states are drawn
from type hints; the module's docstring names what is sent. ``--check`` writes nothing and fails
where a file is not what would be drawn.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the code beside these pages

from secagg.pages.markup import Markup, join, tag  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
MACHINES = {
    "states_bonawitz_client": "protocols.bonawitz.client",
    "states_bonawitz_server": "protocols.bonawitz.server",
    "states_ckks_holder": "protocols.ckks.holder",
    "states_ckks_server": "protocols.ckks.server",
    "states_zero_sharing": "protocols.zero_sharing.client",
}
ANSWER = re.compile("on_|open|close")  # such a method that leads to no state ends the round
SENT = re.compile(
    r"^ {4,}(?:(?P<owner>\w+) +)?(?:\.receive\((?P<taken>\w+)\)\.\.\. *)?"
    r"\.?(?P<call>\w+)(?:\(.*?\))? +-> +(?P<sent>\w+)",
    re.MULTILINE,
)

# Pixels. A picture is as wide as a phone, so that its text keeps its size there.
WIDTH, BOX, HIGH, STEP = 440, 220, 46, 108
MIDDLE = 252  # of the boxes; a way past others goes left of them
STYLE = """
svg { font: 13px system-ui, sans-serif; }
text { fill: #1c2024; } .soft { fill: #5c636b; font-size: 12px; }
.box { fill: #fff; stroke: #14695a; stroke-width: 1.5; } .end { stroke-dasharray: 4 3; }
.way { fill: none; stroke: #5c636b; stroke-width: 1.4; } .tip { fill: #5c636b; }
.room { fill: #f1eee5; }
@media (prefers-color-scheme: dark) {
  text { fill: #ebe7de; } .soft { fill: #a9b1b8; } .room { fill: #20282d; }
  .box { fill: #13171a; stroke: #63cdb0; } .way { stroke: #a9b1b8; } .tip { fill: #a9b1b8; }
}
"""


@dataclass(frozen=True, slots=True)
class Step:
    """From which state (none: the beginning), by which call, to which state or last message."""

    source: str | None
    call: str
    target: str
    sent: str


def steps(module: ModuleType) -> list[Step]:
    """Every step of a module's states, in the order of its lines."""
    said = _said(module)
    states = {
        name: thing
        for name, thing in vars(module).items()
        if inspect.isclass(thing) and _is_public(module, name, thing)
    }
    found = []
    for name, thing in vars(module).items():
        if inspect.isfunction(thing) and _is_public(module, name, thing):
            nexts = _nexts(thing, states)
            if len(nexts) == 1:  # ``restore`` gives any state, and is no step
                found.append(Step(None, name, nexts[0], said.get((None, name), "")))
    for state, home in states.items():
        for name, method in vars(home).items():
            if name.startswith("_") or not inspect.isfunction(method):
                continue
            sent = said.get((state, name)) or said.get((None, name), "")
            nexts = [each for each in _nexts(method, states) if each != state]
            found += [Step(state, name, each, sent) for each in nexts]
            if not nexts and ANSWER.match(name):
                found.append(Step(state, name, sent or "the sum", ""))
    return found


def taken(module: ModuleType) -> dict[str, str]:
    """By state what it receives of each client."""
    return {
        line["owner"]: line["taken"]
        for line in SENT.finditer(module.__doc__ or "")
        if line["owner"] and line["taken"]
    }


def _said(module: ModuleType) -> dict[tuple[str | None, str], str]:
    """By state and call what is sent, as the docstring says it; a line may leave its state out."""
    return {
        (line["owner"], line["call"]): line["sent"]
        for line in SENT.finditer(module.__doc__ or "")
        if line["sent"] not in vars(module) or "messages" in vars(module)[line["sent"]].__module__
    }


def _is_public(module: ModuleType, name: str, thing: Any) -> bool:
    return bool(thing.__module__ == module.__name__) and not name.startswith("_")


def _nexts(function: Callable[..., Any], states: dict[str, type]) -> list[str]:
    """The states that a call may return."""
    waiting, parts = [get_type_hints(function).get("return")], []
    while waiting:
        parts.append(part := waiting.pop())
        waiting += get_args(part)
    return [name for name, state in states.items() if state in parts]


# Drawing


def draw(module: ModuleType) -> str:
    """The states from top to bottom, and the steps between them."""
    found, receives = steps(module), taken(module)
    rows = _rows(found)
    sources = {step.source for step in found}
    marks: list[Markup] = []
    past = 0
    for source, target in dict.fromkeys((step.source, step.target) for step in found):
        both = [step for step in found if (step.source, step.target) == (source, target)]
        start = _top(rows[source or f"({both[0].call})"]) + HIGH
        end = _top(rows[target])
        words = [step.call for step in both if source]
        words += [f"sends {both[0].sent}"] if both[0].sent else []
        if end - start > STEP:
            past += 1
            left = MIDDLE - BOX / 2
            bend = left - 14 - 12 * past
            line = f"M{left:g},{start - HIGH / 2:g} H{bend:g} V{end + HIGH / 2:g} H{left - 6:g}"
            marks.append(_way(line, left, end + HIGH / 2, "6,0"))
            marks += _words(words, bend - 6, (start + end) / 2, anchor="end")
        else:
            marks.append(_way(f"M{MIDDLE:g},{start:g} V{end - 6:g}", MIDDLE, end, "0,6"))
            marks += _words(words, MIDDLE + 10, (start + end) / 2)
    for name, row in rows.items():
        small = f"takes {receives[name]} of each" if name in receives else ""
        marks += _box(name.strip("()"), small, _top(row), end=name not in sources)
    return _picture(marks, _top(max(rows.values())) + HIGH + 8, f"States of {module.__name__}")


def _rows(found: Sequence[Step]) -> dict[str, int]:
    """A row for each state: after those that lead to it; where a round ends as early as it can."""
    names = [name for step in found for name in (step.source or f"({step.call})", step.target)]
    left = list(dict.fromkeys(names))
    sources = {step.source or f"({step.call})" for step in found}
    rows: dict[str, int] = {}
    while left:
        ready = [
            name
            for name in left
            if all((s.source or f"({s.call})") in rows for s in found if s.target == name)
        ]
        rows[min(ready, key=lambda name: name in sources)] = len(rows)
        left = [name for name in left if name not in rows]
    return rows


def _top(row: int) -> float:
    return 8 + STEP * row


def _box(
    name: str,
    small: str,
    top: float,
    *,
    middle: float = MIDDLE,
    wide: float = BOX,
    end: bool = False,
) -> Iterator[Markup]:
    kind = "box end" if end else "box"
    left, base = middle - wide / 2, top + HIGH / 2 + (-4 if small else 5)
    yield tag("rect", class_=kind, x=left, y=top, width=wide, height=float(HIGH), rx=8.0)
    yield tag("text", name, x=middle, y=base, text_anchor="middle", font_weight="600")
    if small:
        yield tag("text", small, class_="soft", x=middle, y=base + 17, text_anchor="middle")


def _way(line: str, x: float, y: float, direction: str) -> Markup:
    along, down = (float(each) for each in direction.split(","))
    sides = f"{x - along - down * 0.8:g},{y - down - along * 0.8:g} "
    sides += f"{x - along + down * 0.8:g},{y - down + along * 0.8:g}"
    tip = tag("polygon", class_="tip", points=f"{x:g},{y:g} {sides}")
    return join(tag("path", class_="way", d=line), tip)


def _words(
    words: Sequence[str], x: float, middle: float, *, anchor: str = "start"
) -> Iterator[Markup]:
    for at, word in enumerate(words):
        y = middle + 4 + 16 * (at - (len(words) - 1) / 2)
        kind = "soft" if word.startswith("sends ") else None
        yield tag("text", word, class_=kind, x=x, y=y, text_anchor=anchor)


def _picture(marks: Sequence[Markup], height: float, title: str) -> str:
    whole = tag(
        "svg",
        tag("title", title),
        tag("style", Markup(STYLE)),
        *marks,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height:g}",
        width=float(WIDTH),
        height=height,
    )
    return whole.replace("><", ">\n<") + "\n"


# Who holds it, what is done there, and where in the code.
ROOMS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "a client",
        (
            ("update, as floats", "secagg.vectors"),
            ("clipped and rounded", "with noise: dp.noise adds its share"),
            ("packed into words of 64 bits", "secagg.vectors"),
            ("masked or encrypted", "protocols"),
        ),
    ),
    (
        "the server",
        (
            ("sum of all that came", "secagg.rounds, words modulo 2^64"),
            ("opened, if enough clients agree", "protocols: the sum and nothing else"),
            ("unpacked: the mean, as floats", "secagg.vectors"),
        ),
    ),
)


def way_of_the_data() -> str:
    """From an update to the mean: what a client does, and what a server ever holds."""
    step, top = 78, 8.0
    wide, middle = BOX + 80.0, WIDTH / 2
    rooms, marks = list[Markup](), list[Markup]()
    for place, (who, does) in enumerate(ROOMS):
        height = 40.0 + step * (len(does) - 1) + HIGH + 16
        rooms.append(
            tag("rect", class_="room", x=4.0, y=top, width=WIDTH - 8.0, height=height, rx=10.0)
        )
        marks.append(tag("text", who, class_="soft", x=18.0, y=top + 24))
        for at, (what, where) in enumerate(does):
            y = top + 40 + step * at
            marks += _box(what, where, y, middle=middle, wide=wide)
            last = at == len(does) - 1
            if not (last and place == len(ROOMS) - 1):
                end = top + height + 24 + 40 if last else y + step
                marks.append(_way(f"M{middle:g},{y + HIGH:g} V{end - 6:g}", middle, end, "0,6"))
        top += height + 24
    return _picture([*rooms, *marks], top - 16, "The way of an update into a sum")


def drawn() -> Iterator[tuple[Path, str]]:
    """Every picture, as it should be."""
    for name, module in MACHINES.items():
        yield PICTURES / f"{name}.svg", draw(import_module(module))
    yield PICTURES / "way_of_the_data.svg", way_of_the_data()


def main() -> int:
    """Write what is not as it should be, or with --check say it."""
    stale = [
        (path, text)
        for path, text in drawn()
        if not path.exists() or path.read_text("utf-8") != text
    ]
    for path, text in stale:
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
