"""Run Python with -O, which drops every ``assert``, and send messages that are cut or changed.

A check of a peer that is an ``assert`` is then no check at all.
"""

import json
import subprocess
import sys
from pathlib import Path

import protocols

HOME = Path(protocols.__file__).resolve().parent.parent
SOURCES = [
    path for package in ("protocols", "dp", "secagg") for path in (HOME / package).rglob("*.py")
]

# Prints how many of the hostile messages and records were refused, of how many.
HOSTILE = """
import json
import numpy as np
from protocols.bonawitz import CollectKeys, Params, join, restore
from protocols.errors import DecodeError, RemoteProtocolError
from protocols.secrets import Secret
from protocols.testing import agreement_of

assert False, "this is to be dropped"

agreement = agreement_of(Params(clients=3, threshold=2, words=4))
refused = tried = 0

def hostile(message):
    yield from (message[:size] for size in range(len(message)))
    yield message + b"x"
    yield bytes([message[0] ^ 1]) + message[1:]
    yield message[:1] + bytes([message[1] ^ 1]) + message[2:]
    yield message[:5] + bytes([message[5] ^ 1]) + message[6:]

def attempt(step, message):
    global refused, tried
    for bad in hostile(message):
        tried += 1
        try:
            step(bad)
        except RemoteProtocolError:
            refused += 1

words = np.arange(4, dtype=np.uint64)
collect, states = CollectKeys(agreement), {}
for client in (1, 2, 3):
    message, states[client] = join(agreement, client)
    attempt(collect.receive, message)
    collect.receive(message)
record = join(agreement, 1)[1].into_record().expose()
attempt(lambda bad: restore(Secret(bad), burn=lambda *_: True), record)
rosters, shares = collect.close()
for client in (1, 2, 3):
    attempt(states[client].on_roster, rosters[client])
    message, states[client] = states[client].on_roster(rosters[client])
    attempt(shares.receive, message)
    shares.receive(message)
boxes, vectors = shares.close()
for client in (1, 2, 3):
    attempt(lambda bad: states[client].on_boxes(bad, words), boxes[client])
    frames, states[client] = states[client].on_boxes(boxes[client], words)
    (frame,) = frames
    attempt(lambda bad: vectors.receive([bad]), frame)
    vectors.receive([frame])
survivors, reveals = vectors.close()
for client, message in survivors.items():
    attempt(states[client].on_survivors, message)
    answer = states[client].on_survivors(message)
    attempt(reveals.receive, answer)
    reveals.receive(answer)
print(json.dumps([refused, tried, (reveals.close().words == 3 * words).tolist()]))
"""


def test_without_asserts_every_hostile_message_is_still_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-O", "-c", HOSTILE], capture_output=True, text=True, cwd=HOME, check=True
    )
    refused, tried, right = json.loads(done.stdout)
    assert refused == tried > 3000
    assert right == [True] * 4


def test_no_check_depends_on_the_flag() -> None:
    """The other way to one; ruff refuses an ``assert``."""
    assert not [path for path in SOURCES if "__debug__" in path.read_text(encoding="utf-8")]


def test_the_sources_are_found() -> None:
    assert HOME / "protocols" / "bonawitz" / "client.py" in SOURCES
