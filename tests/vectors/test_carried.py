"""Requests, answers and models have the bytes of the vectors, and no others are read."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from carried import carried

from protocols.errors import DecodeError, RemoteProtocolError
from protocols.primitives.sign import verify
from secagg.nodes.messages import REQUESTED, Answer, Request
from secagg.stage import Stage
from secagg.vectors.arrays import arrays_of, model_digest, parts_of

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "carried.json").read_text())
DECODERS: dict[str, Callable[[bytes], object]] = {
    "request": Request.from_bytes,
    "answer": Answer.from_bytes,
    "model": arrays_of,
}


def test_the_file_is_what_make_writes() -> None:
    assert json.loads(json.dumps(carried())) == VECTORS


def test_a_request_is_read_and_its_signature_holds() -> None:
    said = VECTORS["request"]
    found = Request.from_bytes(bytes.fromhex(said["unsigned bytes"]))
    assert (found.stage, found.client, found.signature) == (Stage(said["stage"]), 7, b"")
    for name in ("proposal", "message", "next_session", "next_roster"):
        assert getattr(found, name).hex() == said[name]
    assert found.signed().hex() == said["signed"]
    server, signature = bytes.fromhex(said["server"]), bytes.fromhex(said["signature"])
    verify(server, REQUESTED, found.signed(), signature)
    whole = replace(found, signature=signature)
    assert Request.from_bytes(whole.to_bytes()) == whole


@pytest.mark.parametrize(
    "change",
    [
        {"stage": Stage.MASK},
        {"client": 8},
        {"proposal": b"another proposal"},
        {"message": b"another message"},
        {"next_session": bytes(16)},
        {"next_session": b""},
        {"next_roster": b"another roster"},
        {"message": b"", "proposal": b"a proposala message"},
    ],
    ids=lambda change: "+".join(change),
)
def test_a_signature_covers_every_other_field(change: dict[str, Any]) -> None:
    said = VECTORS["request"]
    found = Request.from_bytes(bytes.fromhex(said["unsigned bytes"]))
    changed = replace(found, **change)
    assert changed != found
    with pytest.raises(RemoteProtocolError):
        verify(
            bytes.fromhex(said["server"]),
            REQUESTED,
            changed.signed(),
            bytes.fromhex(said["signature"]),
        )


def test_an_answer_is_read_in_pieces_of_any_size() -> None:
    said = VECTORS["answer"]
    data = bytes.fromhex(said["bytes"])
    found = Answer.from_bytes(data)
    assert [message.hex() for message in found.messages] == said["messages"]
    assert (found.next_keys.hex(), found.examples) == (said["next_keys"], said["examples"])
    assert found.next_shares.hex() == said["next_shares"]
    assert found.to_bytes() == data


def test_a_state_is_not_in_the_bytes() -> None:
    answer = Answer.from_bytes(bytes.fromhex(VECTORS["answer"]["bytes"]))
    kept = replace(answer, state=b"sealed state of the node")
    assert kept.to_bytes() == answer.to_bytes()


def test_a_model_is_read_and_has_its_digest() -> None:
    said = VECTORS["model"]
    found = arrays_of(bytes.fromhex(said["bytes"]))
    for each in said["arrays"]:
        array = found[each["name"]]
        assert (array.dtype.name, list(array.shape)) == (each["type"], each["shape"])
        assert np.array_equal(array, each["values"])
        assert array.flags.writeable
    assert b"".join(parts_of(found)).hex() == said["bytes"]
    assert model_digest(found).hex() == said["digest"]


@pytest.mark.parametrize(
    ("kind", "why"), [(kind, why) for kind, each in VECTORS["refused"].items() for why in each]
)
def test_bytes_that_are_none_of_these_are_refused(kind: str, why: str) -> None:
    with pytest.raises(DecodeError):
        DECODERS[kind](bytes.fromhex(VECTORS["refused"][kind][why]))
