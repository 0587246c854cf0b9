"""``--without`` leaves out what lacks just the libraries it names, and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FILES = {
    "test_top.py": "import nowhere.deep\n\ndef test_never(): pass\n",
    "test_inside.py": (
        "def test_call(): import nowhere\n"
        "def test_there(): pass\n"
        "import pytest\n"
        "@pytest.fixture\n"
        "def brought():\n"
        "    try: import nowhere\n"
        "    except ImportError as error: raise RuntimeError('missing') from error\n"
        "def test_fixture(brought): pass\n"
    ),
}
HIDDEN = (
    "def test_wrong():\n"
    "    try: import nowhere\n"
    "    except ImportError: assert False, 'a claim that does not hold'\n"
)


def run(folder: Path, *words: str, more: str = "") -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    for name, text in (FILES | ({"test_more.py": more} if more else {})).items():
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, "."]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_what_lacks_a_named_library_is_left_out_and_counted(tmp_path: Path) -> None:
    done = run(tmp_path, "--without=elsewhere,nowhere")
    assert done.returncode == 0, done.stdout
    assert "1 files left out without nowhere\n2 tests left out without nowhere\n" in done.stdout
    assert "1 passed, 3 skipped" in done.stdout


@pytest.mark.parametrize("words", [(), ("--without=elsewhere",), ("--without=",)])
def test_a_library_that_is_not_named_fails_its_tests(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(tmp_path, "--continue-on-collection-errors", *words)
    assert done.returncode == 1
    assert "1 failed, 1 passed, 2 errors" in done.stdout
    assert "left out" not in done.stdout


def test_a_claim_that_fails_beside_a_missing_library_still_fails(tmp_path: Path) -> None:
    done = run(tmp_path, "--without=nowhere", more=HIDDEN)
    assert done.returncode == 1
    assert "1 failed, 1 passed, 3 skipped" in done.stdout
