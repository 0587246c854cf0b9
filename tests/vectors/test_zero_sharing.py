"""The vectors of ranks, made by a second implementation from the page alone, and played by ours.

``docs/protocols/zero-sharing.md`` and what it takes from ``bonawitz.md`` are the only source of
the functions in the first half; nothing of ``protocols`` is used there.
"""

import hashlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from protocols import errors
from protocols.primitives.prg import Suite
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.zero_sharing import Agreement, AwaitKeys, Epoch, Flag, Params, join
from protocols.zero_sharing.messages import Advertise
from protocols.zero_sharing.params import MAX_RANKS, VERSION

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "protocols" / "zero-sharing.md").read_text("utf-8")
FILE: dict[str, Any] = json.loads((HERE / "zero_sharing.json").read_text())
NAME = b"secagg/1 zero sharing"
EPOCHS = pytest.mark.parametrize("epoch", FILE["epochs"], ids=lambda epoch: str(epoch["round"]))
WORD = 2**64


# From the page.


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def agree(secret: bytes, theirs: bytes, label: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(secret)
    shared = key.exchange(X25519PublicKey.from_public_bytes(theirs))
    return HKDF(hashes.SHA256(), 32, None, label).derive(shared)


def stream(seed: bytes, label: bytes, suite: int, count: int) -> bytes:
    info = bytes([suite]) + label
    cipher: Any
    if suite == 1:
        made = HKDFExpand(hashes.SHA256(), 28, info).derive(seed)
        cipher = Cipher(algorithms.AES(made[:16]), modes.CTR(made[16:] + u32(2)))
    else:
        made = HKDFExpand(hashes.SHA256(), 44, info).derive(seed)
        cipher = Cipher(algorithms.ChaCha20(made[:32], bytes(4) + made[32:]), None)
    return bytes(cipher.encryptor().update(bytes(count)))


class Second:
    """All ranks of an epoch of the file, by the page."""

    def __init__(self, epoch: dict[str, Any]) -> None:
        self.ranks, self.suite = epoch["ranks"], epoch["suite"]
        self.header = bytes.fromhex(epoch["session"]) + u32(epoch["round"])
        numbers = u32(self.ranks) + bytes([self.suite, epoch["signed"]])
        self.agreement = self.header + numbers + bytes.fromhex(epoch["public"])
        self.secrets = [bytes.fromhex(secret) for secret in epoch["secrets"]]
        self.keys = [
            X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
            for secret in self.secrets
        ]
        self.identities = [bytes.fromhex(each["secret"]) for each in epoch["identities"]]
        publics = [bytes.fromhex(each["public"]) for each in epoch["identities"]]
        members = b"".join(
            u32(rank) + key + (publics[rank] if publics else b"")
            for rank, key in enumerate(self.keys)
        )
        self.context = sha(NAME + self.agreement + members)
        self.seen = {pair: bytes(32) for pair in self.pairs()}
        self.totals: dict[int, bytes] = {}

    def pairs(self) -> list[tuple[int, int]]:
        return [(one, other) for one in range(self.ranks) for other in range(one + 1, self.ranks)]

    def advertise(self, rank: int) -> bytes:
        signature = b""
        if self.identities:
            label = NAME + b" keys " + sha(self.agreement) + b" " + u32(rank)
            signed = u32(len(label)) + label + self.keys[rank]
            signature = Ed25519PrivateKey.from_private_bytes(self.identities[rank]).sign(signed)
        body = b"\1\1" + self.header + u32(rank) + sha(self.agreement)[:8] + self.keys[rank]
        return body + signature + sha(body + signature)[:16]

    def label(self, usage: bytes, about: bytes) -> bytes:
        return NAME + b" " + usage + b" " + self.context + self.header + about

    def seed(self, one: int, other: int) -> bytes:
        about = self.label(b"pair", u32(one) + u32(other))
        return agree(self.secrets[one], self.keys[other], about)

    def masked(self, of: dict[str, Any]) -> list[list[int]]:
        for counter in sorted(self.totals):
            if counter < of["after"]:
                self.take_in(counter, self.totals.pop(counter))
        vectors = []
        for rank, inputs in enumerate(of["inputs"]):
            words = len(inputs) // of["shards"]
            flag = of["flags"][rank]
            vector: list[int] = []
            for shard in range(of["shards"]):
                part = [int(word, 16) for word in inputs[shard * words : (shard + 1) * words]]
                vector += [0] * words if flag is not None else part
                vector += [0 if flag is None else 2 ** (16 * flag), 1]
            vectors.append(vector)
        for one, other in self.pairs():
            numbers = u64(of["counter"]) + u32(of["bucket"]) + u64(words) + u32(of["shards"])
            about = numbers + u64(of["after"]) + self.seen[one, other]
            label = self.label(b"mask", about)
            made = stream(self.seed(one, other), label, self.suite, 8 * len(vectors[0]))
            for place in range(len(vectors[0])):
                mask = int.from_bytes(made[8 * place : 8 * place + 8], "little")
                vectors[one][place] = (vectors[one][place] - mask) % WORD
                vectors[other][place] = (vectors[other][place] + mask) % WORD
        total = [sum(column) % WORD for column in zip(*vectors, strict=True)]
        if of["shards"] == 1:
            self.totals[of["counter"]] = b"".join(word.to_bytes(8, "little") for word in total)
        return vectors

    def take_in(self, counter: int, total: bytes) -> None:
        for pair in self.pairs():
            label = self.label(b"total", u64(counter))
            key = stream(self.seed(*pair), label, 1, 28)
            tag = AESGCM(key[:16]).encrypt(key[16:], b"", total)
            self.seen[pair] = sha(self.seen[pair] + u64(counter) + tag)

    def opened(self, of: dict[str, Any], rank: int) -> list[str] | str:
        total = [int(word, 16) for word in of["total"]]
        size = len(total) // of["shards"]
        start = rank * size if of["shards"] > 1 else 0
        *words, flag, check = total[start : start + size]
        if check != self.ranks or flag:
            return "sum"
        return [f"{word:016x}" for word in words]


@EPOCHS
def test_a_second_implementation_makes_the_same_keys(epoch: dict[str, Any]) -> None:
    second = Second(epoch)
    assert second.agreement.hex() == epoch["agreement"]
    sent = [second.advertise(rank).hex() for rank in range(second.ranks)]
    assert sent == epoch["messages"]
    assert second.context.hex() == epoch["context"]
    seeds = {f"{one} {other}": second.seed(one, other).hex() for one, other in second.pairs()}
    assert seeds == epoch["seeds"]


@EPOCHS
def test_a_second_implementation_makes_the_same_masked_vectors(epoch: dict[str, Any]) -> None:
    second = Second(epoch)
    for of in epoch["collectives"]:
        masked = second.masked(of)
        assert [[f"{word:016x}" for word in vector] for vector in masked] == of["masked"]
        total = [sum(column) % WORD for column in zip(*masked, strict=True)]
        assert [f"{word:016x}" for word in total] == of["total"]
        assert [second.opened(of, rank) for rank in range(second.ranks)] == of["opens"]


# By ours.


def ours(epoch: dict[str, Any]) -> list[AwaitKeys]:
    params = Params(ranks=epoch["ranks"], suite=Suite(epoch["suite"]), signed=epoch["signed"])
    agreement = Agreement(
        params=params,
        session=bytes.fromhex(epoch["session"]),
        round=epoch["round"],
        public_digest=bytes.fromhex(epoch["public"]),
    )
    keys = [SigningKey(Secret(bytes.fromhex(each["secret"]))) for each in epoch["identities"]]
    states = []
    for rank, secret in enumerate(epoch["secrets"]):
        message, state = join(
            agreement,
            rank,
            lambda size, secret=secret: bytes.fromhex(secret)[:size],
            identity=keys[rank] if keys else None,
            identities={place: key.public for place, key in enumerate(keys)} or None,
        )
        assert message.hex() == epoch["messages"][rank]
        states.append(state)
    return states


@EPOCHS
def test_ours_opens_what_the_file_says(epoch: dict[str, Any]) -> None:
    sent = [bytes.fromhex(message) for message in epoch["messages"]]
    group: list[Epoch] = [state.on_keys(sent) for state in ours(epoch)]
    for of in epoch["collectives"]:
        total = np.array([int(word, 16) for word in of["total"]], np.uint64)
        for rank, each in enumerate(group):
            inputs = np.array([int(word, 16) for word in of["inputs"][rank]], np.uint64)
            rows = inputs.reshape(of["shards"], -1)
            vector = np.zeros((of["shards"], rows.shape[1] + 2), np.uint64)
            vector[:, :-2] = rows
            flag = of["flags"][rank]
            flat = vector.reshape(-1)
            wait = each.begin(
                flat,
                flag=None if flag is None else Flag(flag),
                **{name: of[name] for name in ("counter", "bucket", "shards", "after")},
            )
            assert [f"{int(word):016x}" for word in flat] == of["masked"][rank]
            seen = total.reshape(of["shards"], -1)[rank if of["shards"] > 1 else 0]
            if of["opens"][rank] == "sum":
                with pytest.raises(errors.RankFailed):
                    wait.open(seen)
            else:
                assert [f"{int(word):016x}" for word in wait.open(seen)] == of["opens"][rank]


SAYS = {
    "context": ("speaks version", "another session or round", "agrees to something else"),
    "check": ("not signed by its identity", "low order", "one key", "our own key", "in place of"),
}


@pytest.mark.parametrize(
    "case", FILE["refused"], ids=lambda case: f"{case['rule']} {case['shows']}"
)
def test_ours_refuses_what_the_file_says_at_its_layer(case: dict[str, Any]) -> None:
    state = ours(FILE["epochs"][case["epoch"]])[0]
    with pytest.raises(errors.RemoteProtocolError) as caught:
        state.on_keys([bytes.fromhex(message) for message in case["messages"]])
    text = str(caught.value)
    found = [layer for layer, texts in SAYS.items() if any(each in text for each in texts)]
    decode = isinstance(caught.value, errors.DecodeError)
    assert (found or ["decode" if decode else "check"]) == [case["error"]]


# The page.


def test_the_struct_of_the_page_is_that_of_the_code() -> None:
    written = inspect.getdoc(Advertise) or ""
    assert f"```\n{written[written.index('struct {') :].rstrip()}\n```" in PAGE


def test_the_page_says_the_names_and_limits_of_the_code() -> None:
    assert f'"{VERSION.decode()}"' in PAGE
    assert f"from 2 to {MAX_RANKS:,}" in PAGE
    assert [int(row) for row in re.findall(r"^\| (\d) \| a", PAGE, re.MULTILINE)] == list(Flag)
    lengths = {len(bytes.fromhex(epoch["messages"][0])) for epoch in FILE["epochs"]}
    assert lengths == {82, 146}
    assert "82 bytes, or 146 if signed" in PAGE


def test_every_rule_of_keys_has_a_vector_at_its_layer() -> None:
    rows = dict(re.findall(r"^\| (Z\d+) \| (\w+) \|", PAGE, re.MULTILINE))
    assert {case["rule"] for case in FILE["refused"]} == {f"Z{number}" for number in range(1, 10)}
    for case in FILE["refused"]:
        assert rows[case["rule"]] == case["error"]


def test_the_page_names_every_field_of_the_file() -> None:
    epoch = FILE["epochs"][0]
    fields = {*epoch, *epoch["collectives"][0], *FILE["refused"][0], *FILE} - {"about", "agreement"}
    for field in fields:
        assert f"`{field}`" in PAGE, field
