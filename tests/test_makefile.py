"""`make` alone lists every word, and no folder of the same name swallows one."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
WORDS = re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE)


def make(*arguments: str) -> str:
    """What a make of its own says, whatever make runs the tests."""
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_lists_every_word() -> None:
    assert make() == make("help")
    listed = [line.split()[:2] for line in make().splitlines()]
    assert listed == [["make", word] for word in WORDS]


def test_every_word_runs_though_a_file_has_its_name() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert sorted(phony[1].split()) == sorted(WORDS)
    assert (ROOT / "docs").is_dir()
    assert "tests/test_docs.py" in make("--dry-run", "docs")


def test_a_path_is_all_that_is_tested() -> None:
    assert make("--dry-run", "test", "T=tests/dp").splitlines()[-1].endswith(" tests/dp")
    assert make("--dry-run", "test").splitlines()[-1].endswith(" -m 'not slow' ")
