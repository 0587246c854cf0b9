"""Whoever takes part, and whoever is lost, fails or comes late at which stages: the mean of
exactly the reported survivors, or none."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from engine import MEAN, Program, arrays_of, fit, grid_of, is_mean_of
from hypothesis import event, given, settings
from hypothesis import strategies as st

from secagg.adapters.flower import SecureGrid, SumSettings
from secagg.stage import UNSIGNED

STAGES = [stage.value for stage in UNSIGNED]
FATES = st.tuples(st.sampled_from(["lost", "fails", "late"]), st.sampled_from(STAGES))


@st.composite
def rounds(draw: st.DrawFn) -> tuple[dict[int, Program], list[dict[int, tuple[str, str]]]]:
    """Nodes with their weights, and for each of two rounds whom what befalls."""
    names = draw(st.lists(st.integers(1, 2**63), min_size=2, max_size=7, unique=True))
    nodes = {name: Program(node=name, examples=draw(st.integers(10, 100))) for name in names}
    befalls = st.dictionaries(st.sampled_from(names), FATES, max_size=3)
    return nodes, [draw(befalls), draw(befalls)]


def struck(fate: dict[int, tuple[str, str]], way: str) -> Callable[[int, str], bool]:
    return lambda node, stage: fate.get(node) == (way, stage)


@settings(max_examples=40, deadline=None)
@given(rounds(), st.sampled_from(["0.1", "0.3"]))
def test_a_round_gives_the_mean_of_its_survivors_or_nothing(
    drawn: tuple[dict[int, Program], list[dict[int, tuple[str, str]]]], dropout: str
) -> None:
    nodes, fates = drawn
    memory = Path("/dev/shm")  # noqa: S108  # where syncing a file costs nothing
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        grid = grid_of(nodes, Path(folder))
        secured = SecureGrid(grid, MEAN, SumSettings(dropout=dropout), deadline=0.001)
        for fate in fates:
            for way in ("lost", "fails", "late"):
                setattr(grid, way, struck(fate, way))
            result = fit(secured, timeout=0.001)
            report = secured.history[-1]
            event("no sum" if report.failure else f"{len(nodes) - len(report.survivors)} left out")
            if report.failure:
                assert not report.survivors
                assert not arrays_of(result.arrays)
                continue
            asked = {stage.stage for stage in report.stages} - {"advertise", "reveal"}
            gone = {node for node, (_, stage) in fate.items() if stage in asked}
            assert set(report.survivors) <= set(nodes) - gone
            assert is_mean_of([nodes[node] for node in report.survivors], result)
