"""Single blocks: the project's, and those of the second implementation, against the files."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import test_second_implementation as second
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.bonawitz import Agreement
from protocols.bonawitz.graph import plan_graph
from protocols.errors import DecodeError, InputError, RemoteProtocolError
from protocols.primitives.sign import verify
from protocols.wire import Reader, read_subset, write_subset

HERE = Path(__file__).parent
FILE = json.loads((HERE / "blocks.json").read_text())
PLANS = list(csv.DictReader((HERE / "plans.csv").open()))


@pytest.mark.parametrize("case", FILE["subsets"], ids=lambda case: case["bytes"][:24])
def test_a_set_has_the_bytes_of_the_file(case: dict[str, Any]) -> None:
    members = list(range(case["of"]))
    data = bytes.fromhex(case["bytes"])
    assert write_subset(case["places"], members) == data
    assert second.written(case["places"], members) == data
    assert read_subset(data, members) == set(case["places"]) == second.subset(data, members)


@pytest.mark.parametrize("case", FILE["refused subsets"], ids=lambda case: case["shows"])
def test_what_is_no_set_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        read_subset(bytes.fromhex(case["bytes"]), range(case["of"]))


@pytest.mark.parametrize("case", FILE["streams"], ids=lambda case: case["sha256"][:8])
def test_a_stream_is_that_of_the_file(case: dict[str, Any]) -> None:
    seed, label = bytes.fromhex(case["seed"]), case["label"].encode()
    data = second.stream(seed, label, case["suite"], 8 * case["words"])
    assert data[:16].hex() == case["first"]
    assert hashlib.sha256(data).hexdigest() == case["sha256"]


def test_shares_box_signature_and_key_agreement_are_those_of_the_file() -> None:
    case = FILE["shares"]
    shares = second.split(
        bytes.fromhex(case["secret"]), bytes.fromhex(case["coefficients"]), len(case["shares"])
    )
    assert [share.hex() for share in shares] == case["shares"]
    case = {name: bytes.fromhex(value) for name, value in FILE["box"].items()}
    sealed = AESGCM(case["key"]).encrypt(case["nonce"], case["share"], case["associated data"])
    assert case["nonce"] + sealed == case["box"]
    case = FILE["signature"]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(case["secret"]))
    signed = second.opaque(case["label"].encode()) + bytes.fromhex(case["message"])
    assert key.sign(signed).hex() == case["signature"]
    case = FILE["agree"]
    found = second.agree(
        bytes.fromhex(case["secret"]), bytes.fromhex(case["public"]), case["label"].encode()
    )
    assert found.hex() == case["gives"]


@pytest.mark.parametrize("case", FILE["refused signatures"], ids=lambda case: case["shows"])
def test_what_is_no_signature_is_refused(case: dict[str, Any]) -> None:
    message, signature = bytes.fromhex(case["message"]), bytes.fromhex(case["signature"])
    with pytest.raises(RemoteProtocolError):
        verify(bytes.fromhex(case["public"]), case["label"].encode(), message, signature)


@pytest.mark.parametrize("case", FILE["agreements"], ids=lambda case: case["shows"])
def test_an_agreement_is_read_or_refused(case: dict[str, Any]) -> None:
    reader = Reader(bytes.fromhex(case["bytes"]))
    if case["error"]:
        with pytest.raises(DecodeError):
            Agreement.read(reader)
        return
    assert Agreement.read(reader).to_bytes().hex() == case["bytes"]
    reader.finish()


@pytest.mark.parametrize("row", PLANS, ids=lambda row: " ".join(row.values()))
def test_a_plan_is_that_of_the_file(row: dict[str, str]) -> None:
    def plan() -> Any:
        active = row["active"] == "1"
        return plan_graph(int(row["clients"]), row["corrupt"], row["dropout"], active=active)

    if row["degree"] == "none":
        with pytest.raises(InputError):
            plan()
        return
    found = plan()
    assert (found.degree or "complete") == (
        row["degree"] if row["degree"] == "complete" else int(row["degree"])
    )
    assert (found.threshold, found.quorum) == (int(row["threshold"]), int(row["quorum"]))
    assert len(PLANS) == 50
