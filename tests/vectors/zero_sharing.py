"""Vectors of ``protocols.zero_sharing``: epochs of honest ranks, and keys that are refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from script import ABOUT, PUBLIC, SESSION, Counting, turned

from protocols import wire
from protocols.errors import ProtocolError, RankFailed
from protocols.primitives.prg import Suite
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.wire import with_checksum, without_checksum
from protocols.zero_sharing import Agreement, AwaitKeys, Epoch, Flag, Params, join
from protocols.zero_sharing.messages import Advertise

Numbers = dict[str, Any]
ALL_REDUCES: list[Numbers] = [
    {"counter": 0, "words": 3},
    {"counter": 1, "words": 9, "bucket": 1},
    {"counter": 4, "words": 3, "after": 2},
    {"counter": 5, "words": 1, "after": 5},
    {"counter": 6, "words": 2, "after": 6, "flags": {1: Flag.OUT_OF_RANGE, 0: Flag.NOT_FINITE}},
]
EPOCHS: list[Numbers] = [
    {"ranks": 3, "suite": Suite.AES_128_CTR, "collectives": ALL_REDUCES},
    {"ranks": 3, "suite": Suite.CHACHA20, "signed": True, "collectives": ALL_REDUCES},
    {
        "ranks": 2,
        "suite": Suite.AES_128_CTR,
        "collectives": [
            {"counter": 0, "words": 2, "shards": 2},
            {"counter": 1, "words": 2, "after": 1},
            {"counter": 2, "words": 3, "shards": 2, "after": 2},
            {"counter": 3, "words": 1, "shards": 2, "after": 3, "flags": {0: Flag.FAILED}},
        ],
    },
]


def zero_sharing() -> dict[str, Any]:
    """The file ``zero_sharing.json``."""
    made = [_Epoch(place, **numbers) for place, numbers in enumerate(EPOCHS)]
    return {
        "about": ABOUT,
        "epochs": [epoch.played() for epoch in made],
        "refused": [_refused(made[epoch], epoch, *case) for epoch, *case in REFUSED],
    }


class _Epoch:
    def __init__(
        self, place: int, ranks: int, suite: Suite, collectives: list[Numbers], signed: bool = False
    ) -> None:
        params = Params(ranks=ranks, suite=suite, signed=signed)
        self.agreement = Agreement(
            params=params, session=SESSION, round=place, public_digest=PUBLIC
        )
        self.collectives = collectives
        self.identity = {
            rank: SigningKey(Secret(Counting(f"identity {rank}")(32)))
            for rank in (range(ranks) if signed else ())
        }
        self.secrets = [Counting(f"epoch {place} rank {rank}") for rank in range(ranks)]
        self.sent: list[bytes] = []
        self.states: list[AwaitKeys] = []
        for rank, entropy in enumerate(self.secrets):
            message, state = self.join(rank, entropy)
            self.sent.append(message)
            self.states.append(state)

    def join(self, rank: int, entropy: Callable[[int], bytes]) -> tuple[bytes, AwaitKeys]:
        public = {rank: key.public for rank, key in self.identity.items()}
        return join(
            self.agreement,
            rank,
            entropy,
            identity=self.identity.get(rank),
            identities=public or None,
        )

    def played(self) -> dict[str, Any]:
        epochs = [state.on_keys(self.sent) for state in self.states]
        params = self.agreement.params
        return {
            "ranks": params.ranks,
            "suite": int(params.suite),
            "signed": params.signed,
            "session": self.agreement.session.hex(),
            "round": self.agreement.round,
            "public": self.agreement.public_digest.hex(),
            "agreement": self.agreement.to_bytes().hex(),
            "secrets": [entropy.taken.hex() for entropy in self.secrets],
            "identities": [
                {"secret": key.secret.expose().hex(), "public": key.public.hex()}
                for key in self.identity.values()
            ],
            "messages": [message.hex() for message in self.sent],
            "context": epochs[0].context.digest.hex(),
            "seeds": {
                f"{one} {other}": epochs[one]._seeds[other].expose().hex()
                for one in range(params.ranks)
                for other in range(one + 1, params.ranks)
            },
            "collectives": [_collective(epochs, **numbers) for numbers in self.collectives],
        }


def _collective(
    epochs: list[Epoch],
    counter: int,
    words: int,
    bucket: int = 0,
    shards: int = 1,
    after: int = 0,
    flags: dict[int, Flag] | None = None,
) -> dict[str, Any]:
    flags = flags or {}
    inputs, masked, waits = [], [], []
    for rank, epoch in enumerate(epochs):
        drawn = Counting(f"input {counter} of {rank}")(8 * words * shards)
        vector = np.zeros((shards, words + 2), np.uint64)
        vector[:, :words] = np.frombuffer(drawn, ">u8").reshape(shards, words)
        inputs.append(_words(vector[:, :words].reshape(-1)))
        flat = vector.reshape(-1)
        waits.append(
            epoch.begin(
                flat,
                counter=counter,
                bucket=bucket,
                shards=shards,
                after=after,
                flag=flags.get(rank),
            )
        )
        masked.append(flat)
    total = np.sum(masked, axis=0, dtype=np.uint64)
    opens: list[Any] = []
    for rank, wait in enumerate(waits):
        seen = total.reshape(shards, -1)[rank if shards > 1 else 0]
        try:
            opens.append(_words(wait.open(seen)))
        except RankFailed:
            opens.append("sum")
    return {
        "counter": counter,
        "bucket": bucket,
        "shards": shards,
        "after": after,
        "inputs": inputs,
        "flags": [int(flags[rank]) if rank in flags else None for rank in range(len(epochs))],
        "masked": [_words(vector) for vector in masked],
        "total": _words(total),
        "opens": opens,
    }


def _words(words: Any) -> list[str]:
    return [f"{int(word):016x}" for word in words]


def _body(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    return with_checksum(change(bytes(without_checksum(data))))


def _field(name: str, value: bytes) -> Callable[[_Epoch, list[bytes]], list[bytes]]:
    """The last rank's message with another field, and the checksum that belongs to it."""

    def change(epoch: _Epoch, sent: list[bytes]) -> list[bytes]:
        signed = epoch.agreement.params.signed
        read = Advertise.from_bytes(sent[-1], expect=epoch.agreement.header, signed=signed)
        return [*sent[:-1], replace(read, **{name: value}).to_bytes()]

    return change


def _last(
    change: Callable[[bytes], bytes],
) -> Callable[[_Epoch, list[bytes]], list[bytes]]:
    return lambda epoch, sent: [*sent[:-1], change(sent[-1])]


def _same_key(epoch: _Epoch, sent: list[bytes]) -> list[bytes]:
    key = Advertise.from_bytes(sent[1], expect=epoch.agreement.header).key
    return _field("key", key)(epoch, sent)


def _own(epoch: _Epoch, sent: list[bytes]) -> list[bytes]:
    return [_body(sent[0], lambda body: turned(body, -1)), *sent[1:]]


REFUSED: list[Any] = [
    (0, "Z1", "context", "a message of version 2", _last(lambda m: _body(m, _version))),
    (0, "Z2", "context", "a message of another session", _last(lambda m: _body(m, _session))),
    (0, "Z3", "decode", "another type", _last(lambda m: _body(m, _type))),
    (0, "Z3", "decode", "cut short", _last(lambda m: with_checksum(m[:-17]))),
    (0, "Z3", "decode", "a byte left over", _last(lambda m: _body(m, lambda body: body + b"\0"))),
    (0, "Z3", "decode", "a checksum of something else", _last(lambda m: turned(m, -1))),
    (0, "Z4", "check", "a key less", lambda epoch, sent: sent[:-1]),
    (0, "Z4", "check", "a key twice", lambda epoch, sent: [*sent[:-1], sent[1]]),
    (0, "Z4", "check", "two keys in each other's place", lambda e, sent: [sent[0], *sent[:0:-1]]),
    (0, "Z5", "context", "a rank agrees to something else", _field("agreement", bytes(8))),
    (0, "Z6", "check", "our own key changed", _own),
    (0, "Z7", "check", "two ranks with one key", _same_key),
    (0, "Z8", "check", "a key of low order", _field("key", bytes(32))),
    (1, "Z9", "check", "another key under the signature", _field("key", bytes(range(32)))),
    (1, "Z9", "check", "a changed signature", _last(lambda m: _body(m, lambda b: turned(b, -1)))),
]


def _version(body: bytes) -> bytes:
    return bytes([wire.VERSION + 1]) + body[1:]


def _session(body: bytes) -> bytes:
    return turned(body, 2)


def _type(body: bytes) -> bytes:
    return turned(body, 1)


def _refused(
    epoch: _Epoch,
    place: int,
    rule: str,
    layer: str,
    shows: str,
    change: Callable[[_Epoch, list[bytes]], list[bytes]],
) -> dict[str, Any]:
    messages = change(epoch, epoch.sent)
    _, state = epoch.join(0, Counting(f"epoch {place} rank 0"))
    try:
        state.on_keys(messages)
    except ProtocolError:
        return {
            "epoch": place,
            "rule": rule,
            "shows": shows,
            "messages": [message.hex() for message in messages],
            "error": layer,
        }
    raise AssertionError(f"{rule}: {shows}: was not refused")
