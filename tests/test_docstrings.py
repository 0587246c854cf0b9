"""A public docstring says what each parameter is, and no other."""

import doctest
import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sphinx", reason="the site's tools are not installed: make docs")

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for room in ("secagg", "dp", "protocols") for path in (ROOT / room).rglob("*.py")
)

sys.path.insert(0, str(ROOT / "docs"))
site_reference = import_module("site_reference")

SECTION = re.compile(r"^(?:Args|Attributes):\n((?: +.*\n?|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^  (\S[^:\n]*): ", re.MULTILINE)
# States that a protocol's own functions make: who uses them calls their methods alone.
STATE = re.compile(r"(?:Await|Collect)\w+|Holder|Epoch|Private|RunningSum")


def public() -> Iterator[tuple[str, Any]]:
    for name, module in site_reference._modules().items():
        for own in module.__all__ if hasattr(module, "__all__") else ():
            each = getattr(module, own)
            if not callable(each) or not hasattr(each, "__module__"):
                continue
            if inspect.isclass(each) and issubclass(each, BaseException | Enum):
                continue
            if not STATE.fullmatch(own):
                yield f"{name}.{own}", each


def parameters(each: Any) -> set[str]:
    try:
        found = inspect.signature(each).parameters
    except (TypeError, ValueError):
        return set()
    return {name for name in found if not name.startswith("_")} - {"self", "args", "kwargs"}


def sections(text: str) -> set[str]:
    """The names that Args and Attributes explain; one entry may be of several."""
    return {
        name.strip("* ")
        for block in SECTION.findall(text)
        for entry in ENTRY.findall(block)
        for name in entry.split(",")
    }


def unsaid(each: Any) -> set[str]:
    kinds = each.__mro__ if inspect.isclass(each) else [each]  # fields of a base are said there
    text = "\n\n".join(inspect.getdoc(kind) or "" for kind in kinds)
    if "others" in sections(text):  # "as in" a name that is public too
        return set()
    return {
        name for name in parameters(each) - sections(text) if not re.search(rf"``{name}\b", text)
    }


EVERY = dict(public())


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_of_a_public_name_is_explained(name: str) -> None:
    assert unsaid(EVERY[name]) == set()


def test_a_parameter_that_nobody_explains_is_found() -> None:
    def halve(value: float, places: int) -> None:
        """Half of ``value``."""

    def said(value: float, places: int) -> None:
        """Half of a value.

        Args:
          value, places: of it.

        Raises:
          InputError: it is none.
        """

    assert unsaid(halve) == {"places"}
    assert unsaid(said) == set()


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if ">>> " in path.read_text("utf-8")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_an_example_gives_what_it_says(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    found = doctest.testmod(import_module(name))
    assert found.attempted
    assert not found.failed
