"""A foreign peer that goes astray is an error, and nothing of it is left behind."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from secagg.errors import InputError
from secagg.interop.process import ForeignPeer, PeerError

HELLO = {"op": "hello"}
READ = "import sys; line = sys.stdin.readline();"


@contextmanager
def peer(code: str, *, timeout: float = 20.0, memory: int = 2**31) -> Iterator[ForeignPeer]:
    command = shlex.join([sys.executable, "-c", code])
    with ForeignPeer(command, timeout=timeout, memory=memory) as made:
        yield made


def gone(number: int) -> bool:
    """Whether a process has ended, though nobody may have reaped it yet."""
    state = Path(f"/proc/{number}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_silence_is_an_error_in_time() -> None:
    begun = time.monotonic()
    with pytest.raises(PeerError, match=r"no answer within 0\.2 s"):  # noqa: SIM117
        with peer("import time; time.sleep(600)", timeout=0.2) as silent:
            silent.answer(HELLO)
    assert time.monotonic() - begun < 60


def test_a_peer_that_never_reads_is_an_error_in_time() -> None:
    with pytest.raises(PeerError, match="no answer"):  # noqa: SIM117
        with peer("import time; time.sleep(600)", timeout=0.2) as deaf:
            deaf.answer({"op": "x" * 2**20})


def test_its_children_are_killed_with_it() -> None:
    code = (
        "import json, subprocess, sys; sys.stdin.readline();"
        "child = subprocess.Popen(['sleep', '600']); print(json.dumps({'ok': child.pid}));"
        "sys.stdout.flush(); sys.stdin.read()"
    )
    with peer(code) as parent:
        child = parent.answer(HELLO)["ok"]
        assert not gone(child)
    deadline = time.monotonic() + 20
    while not gone(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone(child)


def test_memory_beyond_the_limit_ends_it() -> None:
    code = f"{READ} taken = bytearray(2**29); print('{{\"ok\": 1}}')"
    with peer(code) as roomy:
        assert roomy.answer(HELLO) == {"ok": 1}
    with (
        pytest.raises(PeerError, match="ended with exit code 1"),
        peer(code, memory=2**28) as tight,
    ):
        tight.answer(HELLO)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("pass", "ended with exit code 0"),
        (f"{READ} sys.exit(3)", "ended with exit code 3"),
        (f"{READ} import os; os.kill(os.getpid(), 11)", "ended with signal 11"),
        (f"{READ} print('half', end='')", "ended with exit code 0"),
        (f"{READ} print('ok')", "no JSON"),
        (f"{READ} print('[' * 100000)", "no JSON"),
        (f"{READ} print(b'\\xff')", "no JSON"),
        (f"{READ} print('[]')", "no answer"),
        (f'{READ} print(\'{{"error": "why"}}\')', "no answer"),
        (f'{READ} print(\'{{"error": ["rule"]}}\')', "no answer"),
        (f'{READ} print(\'{{"ok": 1, "error": "rule"}}\')', "no answer"),
        (f"{READ} print('{{}}\\n{{}}', flush=True)", "more than one line"),
        (f"{READ} print('1' * 2**25)", "a line of more than"),
    ],
)
def test_what_is_no_answer_is_an_error(code: str, said: str) -> None:
    with pytest.raises(PeerError, match=said), peer(code) as astray:
        astray.answer(HELLO)


@pytest.mark.parametrize("command", ["", "  ", "'", "/nowhere/at/all", "."])
def test_what_cannot_be_started_is_bad_input(command: str) -> None:
    with pytest.raises(InputError):
        ForeignPeer(command)


SPEAKS = {"protocol": "secagg interop 1", "speaks": "secagg/1 bonawitz"}


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "request"},
        {"ok": 1},
        {"ok": {**SPEAKS, "protocol": "secagg interop 0", "roles": ["client"]}},
        {"ok": {**SPEAKS, "speaks": "secagg/2 bonawitz", "roles": ["client"]}},
        {"ok": SPEAKS},
        {"ok": {**SPEAKS, "roles": []}},
        {"ok": {**SPEAKS, "roles": [[]]}},
        {"ok": {**SPEAKS, "roles": "client"}},
    ],
)
def test_another_hello_is_bad_input(answer: Any) -> None:
    line = json.dumps(answer)
    with pytest.raises(InputError), peer(f"{READ} print({line!r})") as other:
        other.hello()
