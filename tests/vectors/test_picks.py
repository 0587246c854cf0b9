"""The round in which 200 clients pick their holders, and what is refused there."""

import hashlib
import json
from pathlib import Path
from typing import Any

import picks
import pytest
from test_vectors import layer

from protocols.errors import ProtocolError
from protocols.wire import with_checksum, without_checksum

FILE = json.loads((Path(__file__).parent / "picks.json").read_text())


@pytest.fixture(scope="module")
def played() -> picks.Round:
    return picks.round_of_200()


@pytest.mark.slow
def test_the_round_gives_the_hashes_and_the_sum_of_the_file(played: picks.Round) -> None:
    assert {kind: picks.joined(parts) for kind, parts in played.messages.items()} == (
        FILE["messages"]
    )
    for kind, parts in FILE["first"].items():
        found = [hashlib.sha256(part).hexdigest() for part in played.messages[kind][0]]
        assert found == parts
    assert list(played.sum.survivors) == FILE["sum"]["survivors"]
    assert [f"{int(word):016x}" for word in played.sum.words] == FILE["sum"]["words"]
    plain = sum(picks.input_of(client) for client in played.sum.survivors)
    assert (played.sum.words == plain).all()


def changed(case: dict[str, Any], data: bytes) -> bytes:
    """The message of a case: at one place other bytes, and the checksum that belongs to it."""
    sent = case["message"].split()[0] in picks.SENT
    body = bytes(without_checksum(data)) if sent else data
    end = case["at"] + case["cut"]
    body = body[: case["at"]] + bytes.fromhex(case["bytes"]) + body[end:]
    return with_checksum(body) if sent else body


@pytest.mark.slow
@pytest.mark.parametrize("case", FILE["cases"], ids=lambda case: f"{case['rule']} {case['shows']}")
def test_a_changed_message_is_refused_at_its_layer_or_taken(
    case: dict[str, Any], played: picks.Round
) -> None:
    play(case, played)


def play(case: dict[str, Any], played: picks.Round) -> None:
    kind, client = case["message"].split()
    parts = [
        changed(case, data) if case["part"] in (None, at) else data
        for at, data in enumerate(played.messages[kind][int(client)])
    ]
    if case["error"] is None:
        assert picks.heard(played, kind, int(client), parts) == case["closes"]
        return
    with pytest.raises(ProtocolError) as caught:
        picks.heard(played, kind, int(client), parts)
    assert layer(caught.value) == case["error"]
