"""What networks carry between a server and its nodes, as bytes: requests, answers, models.

``refused`` holds bytes that are none of these, with what is wrong about each.
"""

from typing import Any, Final

import numpy as np

from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg.nodes.messages import REQUESTED, Answer, Request
from secagg.stage import Stage
from secagg.vectors.arrays import model_digest, parts_of

KEY: Final = SigningKey(Secret(bytes(range(32))))
REQUEST: Final = Request(
    stage=Stage.REVEAL,
    proposal=b"a proposal",
    client=7,
    message=b"a message",
    next_session=bytes(range(16)),
    next_roster=b"a roster",
)
ANSWER: Final = Answer(
    messages=(b"first frame", b"", b"last"),
    state=None,
    next_keys=b"keys",
    next_shares=b"shares",
    examples=303,
)
MODEL: Final = {
    "layer.weight": np.array([[0.5, -1.0, 2.0], [0.25, 0.0, -0.125]], np.float32),
    "layer.bias": np.array([1.0, -1.0]),
    "seen": np.array(41, np.int64),
    "used": np.array([True, False]),
}


def refused() -> dict[str, dict[str, str]]:
    """By kind, by what is wrong with them: bytes."""
    request, answer, model = REQUEST.to_bytes(), ANSWER.to_bytes(), b"".join(parts_of(MODEL))
    bias = b"".join(parts_of({"layer.bias": MODEL["layer.bias"]}))
    found = {
        "request": {
            "another version": b"\x02" + request[1:],
            "another type": request[:1] + b"\x41" + request[2:],
            "no such stage": request[:2] + b"\x05" + request[3:],
            "cut short": request[:-1],
            "bytes left over": request + b"\0",
        },
        "answer": {
            "another version": b"\x02" + answer[1:],
            "another type": answer[:1] + b"\x40" + answer[2:],
            "cut short": answer[:-1],
            "bytes left over": answer + b"\0",
            "more messages than bytes": answer[:28] + b"\xff" * 4 + answer[32:],
        },
        "model": {
            "out of order": model[len(bias) :] + bias,
            "an array twice": bias + bias,
            "no such type": bias.replace(b"float64", b"float63"),
            "cut short": model[:-1],
            "neither true nor false": model[:-1] + b"\x02",
        },
    }
    return {kind: {why: data.hex() for why, data in each.items()} for kind, each in found.items()}


def carried() -> dict[str, Any]:
    """One of each, its fields and its bytes."""
    return {
        "about": "secagg.nodes.messages and secagg.vectors.arrays; the keys are public",
        "request": {
            "stage": str(REQUEST.stage),
            "client": REQUEST.client,
            "proposal": REQUEST.proposal.hex(),
            "message": REQUEST.message.hex(),
            "next_session": REQUEST.next_session.hex(),
            "next_roster": REQUEST.next_roster.hex(),
            "signed": REQUEST.signed().hex(),
            "server": KEY.public.hex(),
            "signature": KEY.sign(REQUESTED, REQUEST.signed()).hex(),
            "unsigned bytes": REQUEST.to_bytes().hex(),
        },
        "answer": {
            "examples": ANSWER.examples,
            "next_keys": ANSWER.next_keys.hex(),
            "next_shares": ANSWER.next_shares.hex(),
            "messages": [message.hex() for message in ANSWER.messages],
            "bytes": ANSWER.to_bytes().hex(),
        },
        "model": {
            "arrays": [
                {
                    "name": name,
                    "type": array.dtype.name,
                    "shape": list(array.shape),
                    "values": array.tolist(),
                }
                for name, array in MODEL.items()
            ],
            "digest": model_digest(MODEL).hex(),
            "bytes": b"".join(parts_of(MODEL)).hex(),
        },
        "refused": refused(),
    }
