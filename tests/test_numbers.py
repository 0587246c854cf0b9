"""Every measured number of docs comes from a committed file.

A number with a unit, or with two digits behind its point, that stands in prose or in a table that
nobody draws is one of its page's drawn tables, or of the files that the page names below: results
of a benchmark, or the test or the code that holds it. benchmarks/results/by_hand.json has those
that were measured once, each with the command that measures it again.
"""

import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BY_HAND = "benchmarks/results/by_hand.json"
RESULTS = "benchmarks/results"
SOURCES: dict[str, tuple[str, ...]] = {
    "CONTRIBUTING.md": ("pyproject.toml",),
    "docs/benchmarks.md": (
        f"{RESULTS}/flower_rounds.json",
        f"{RESULTS}/quick.json",
        f"{RESULTS}/quick_before.json",
        "constraints.txt",
    ),
    "docs/compression.md": (f"{RESULTS}/compression.json",),
    "docs/faq.md": ("tests/test_readme.py", "tests/test_numbers.py"),
    "docs/flare.md": ("pyproject.toml", "constraints.txt"),
    "docs/flower.md": ("pyproject.toml",),
    "docs/how-to/by-hand.md": ("tests/test_readme.py",),
    "docs/how-to/choose.md": ("tests/test_numbers.py",),
    "docs/ner.md": (f"{RESULTS}/ner.json",),
    "docs/network.md": ("secagg/adapters/http/lines.py", "secagg/adapters/http/app.py"),
    "docs/own-model.md": ("tests/secagg/training/test_lora.py",),
    "docs/privacy/attacks.md": (f"{RESULTS}/attack.json",),
    "docs/privacy/utility.md": (f"{RESULTS}/utility.json",),
    "docs/programs.md": (f"{RESULTS}/programs.json", "examples/linear_regression/train.py"),
    "docs/protocols/ckks.md": (f"{RESULTS}/costs.json",),
    "docs/protocols/interop.md": ("secagg/interop/process.py",),
    "docs/ranks.md": ("pyproject.toml", "constraints.txt", f"{RESULTS}/networks.json"),
    "docs/tutorials/hospitals.md": (f"{RESULTS}/programs.json",),
    "docs/uneven-devices.md": (f"{RESULTS}/buffered.json",),
}
# Decisions are of their day; proofs and the wire compute what they say.
COMPUTED = re.compile(
    r"CHANGELOG\.md|docs/decisions/|docs/privacy/(?:delta|\w+-noise)\.md"
    r"|docs/protocols/(?:bonawitz|codec|ckks-security)\.md"
)
PAGES = [
    name
    for path in sorted(
        [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    )
    if not COMPUTED.match(name := str(path.relative_to(ROOT)))
]

FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
DRAWN = re.compile(r"<!-- table: \w+ -->(.*?)<!-- end -->", re.DOTALL)
NOT_SAID = re.compile(r"`[^`]*`|\]\([^)]*\)")  # code, and where a link leads
SCALES = {  # of a unit: what a file may hold in its place
    "%": (1, 100),
    "ns": (1, 1e9),
    "µs": (1, 1e6),
    "ms": (1, 1e3),
    "s": (1,),
    "seconds": (1,),
    "minutes": (1, 1 / 60),
    "kB": (1, 1e-3),
    "MB": (1, 1e-6),
    "GB": (1, 1e-9),
    "MiB": (1, 2**-20),
    "GiB": (1, 2**-10, 2**-30),
    "times": (1,),
    "": (1,),
}
NUMBER = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
HELD = re.compile(r"(?<![\w.])(?:\d+(?:\.\d+)?|\.\d+)(?:e[-+]?\d+)?")
SAID = re.compile(
    rf"(?<![\w.,^/-])(?:({NUMBER}) ?({'|'.join(filter(None, SCALES))})\b"
    rf"|({NUMBER}) ?(%)|(\d*\.\d\d+)(?![\d./]))"
)


def said(page: str) -> Iterator[tuple[str, str]]:
    """Number and unit of each measured number that nobody draws."""
    text = NOT_SAID.sub("", DRAWN.sub("", FENCED.sub("", (ROOT / page).read_text("utf-8"))))
    for found in SAID.finditer(text):
        number, unit, share, percent, bare = found.groups()
        yield number or share or bare, unit or percent or ""


@cache
def held(path: str) -> frozenset[float]:
    """Every number of a file."""
    path, _, page = path.partition(":")
    text = (ROOT / path).read_text("utf-8")
    if page:
        text = json.dumps([each["numbers"] for each in json.loads(text) if each["page"] == page])
    if path.endswith(".md"):
        text = " ".join(DRAWN.findall(text)).replace(",", "")
    elif not path.endswith(".json"):
        text = text.replace("_", "").replace(",", "")
    return frozenset(map(float, HELD.findall(text)))


def is_held(number: str, unit: str, paths: tuple[str, ...]) -> bool:
    """Whether a file has it, rounded as it is printed."""
    digits = len(number.partition(".")[2])
    value = float(number.replace(",", ""))
    half = 0.5000001 * 10.0**-digits
    return any(
        abs(each * scale - value) <= half
        for path in paths
        for each in held(path)
        for scale in SCALES[unit]
    )


@pytest.mark.parametrize("page", PAGES)
def test_a_measured_number_comes_from_a_committed_file(page: str) -> None:
    paths = (page, *SOURCES.get(page, ()), f"{BY_HAND}:{page}")
    assert [pair for pair in said(page) if not is_held(*pair, paths)] == []


def test_a_number_that_is_a_little_off_is_found() -> None:
    """Few of those that could stand in its place are held by chance."""
    taken = total = 0
    for page in SOURCES:
        for number, unit in said(page):
            paths = (page, *SOURCES[page], f"{BY_HAND}:{page}")
            off = f"{float(number.replace(',', '')) * 1.17:.{len(number.partition('.')[2])}f}"
            total += 1
            taken += is_held(off, unit, paths)
    assert total > 50
    assert taken < total / 3, (taken, total)


ODDS = {0.1: "52", 1: "73", 2: "88", 4: "98", 8: "99.97"}  # %, of right guesses


def test_the_odds_are_those_of_epsilon() -> None:
    page = (ROOT / "docs/how-to/choose.md").read_text("utf-8")
    for epsilon, percent in ODDS.items():
        right = math.exp(epsilon) / (1 + math.exp(epsilon))
        assert f"{100 * right:.{len(percent.partition('.')[2])}f}" == percent
        assert f"| {epsilon} | {percent} % |" in page


def test_what_was_measured_by_hand_has_a_command_and_a_page() -> None:
    for each in json.loads((ROOT / BY_HAND).read_text("utf-8")):
        assert each.keys() == {"page", "of", "command", "numbers"}
        assert (ROOT / each["page"]).exists()
        assert set(map(float, each["numbers"])) <= {
            float(number.replace(",", "")) for number, _ in said(each["page"])
        }, each["page"]
