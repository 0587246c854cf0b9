"""A folder in which one process works is closed to a second one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from secagg.errors import RunError
from secagg.files import LOCK, FolderLock
from secagg.training.runs import RunFolder

HOLDS = """
import sys
from pathlib import Path
from secagg.files import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that works in ``tmp_path``."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_works_there_and_where(tmp_path, holder):
    with pytest.raises(RunError) as refused:
        FolderLock(tmp_path)
    assert str(refused.value) == f"another process (pid {holder.pid}) works in {str(tmp_path)!r}"


def test_a_killed_process_gives_its_folder_back(tmp_path, holder):
    holder.kill()
    holder.wait()
    FolderLock(tmp_path).close()


def test_no_run_is_made_or_continued_where_another_process_works(tmp_path, holder):
    with pytest.raises(RunError, match="another process"):
        RunFolder.create(tmp_path, {"clients": 4})
    assert [entry.name for entry in tmp_path.iterdir()] == [LOCK]
    holder.kill()
    holder.wait()
    run = RunFolder.create(tmp_path, {"clients": 4})
    del run


def test_a_run_is_closed_to_a_second_process_as_long_as_it_lives(tmp_path):
    run = RunFolder.create(tmp_path, {"clients": 4})
    opens = "import sys; from secagg.training.runs import RunFolder; RunFolder.open(sys.argv[1])"
    command = [sys.executable, "-c", opens, str(tmp_path)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"another process (pid {os.getpid()}) works in" in second.stderr
    del run
    assert subprocess.run(command, check=False).returncode == 0


def test_locks_of_one_process_are_one_and_end_with_the_last(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.close()
    first.close()
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    refused = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert "another process" in refused.stderr
    second.close()
    assert subprocess.run(command, input="", text=True, check=False).returncode == 0


def test_a_forked_child_neither_has_nor_keeps_the_lock(tmp_path):
    lock = FolderLock(tmp_path)
    child = os.fork()
    if child == 0:
        try:
            FolderLock(tmp_path)
        except RunError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    lock.close()
