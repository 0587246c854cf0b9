"""The pictures of states are those of the code."""

import runpy
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

PICTURES: dict[str, Any] = runpy.run_path(
    str(Path(__file__).parents[1] / "docs" / "site_diagrams.py")
)


def calls(module: str) -> list[tuple[str | None, str, str]]:
    return [
        (step.source, step.call, step.target) for step in PICTURES["steps"](import_module(module))
    ]


def test_every_picture_is_what_make_figures_draws() -> None:
    stale = [path.name for path, text in PICTURES["drawn"]() if path.read_text("utf-8") != text]
    assert stale == [], "run `make figures`"


def test_the_steps_are_those_of_the_return_types() -> None:
    assert calls("protocols.bonawitz.client") == [
        (None, "join", "AwaitRoster"),
        ("AwaitRoster", "on_roster", "AwaitBoxes"),
        ("AwaitBoxes", "on_boxes", "AwaitSurvivors"),
        ("AwaitSurvivors", "on_survivors", "Reveal"),
        ("AwaitSurvivors", "sign_survivors", "AwaitSignatures"),
        ("AwaitSignatures", "on_signatures", "Reveal"),
    ]


@pytest.mark.parametrize("name", PICTURES["MACHINES"].values())
def test_every_message_that_a_docstring_names_is_in_the_picture(name: str) -> None:
    module = import_module(name)
    drawn = PICTURES["draw"](module)
    found = {line["sent"] for line in PICTURES["SENT"].finditer(module.__doc__)}
    assert found
    assert [word for word in found if word not in drawn] == []


def test_a_step_that_is_added_to_the_code_changes_the_picture() -> None:
    class Begun:
        """A state."""

        def close(self) -> int:
            return 0

    module = SimpleNamespace(__name__=__name__, __doc__="")
    before = PICTURES["draw"](module_of(module, Begun))
    Begun.open_early = lambda self: 0
    assert PICTURES["draw"](module_of(module, Begun)) != before


def module_of(module: SimpleNamespace, *classes: type) -> SimpleNamespace:
    return SimpleNamespace(**vars(module), **{each.__name__: each for each in classes})
