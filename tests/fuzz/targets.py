"""What to throw bytes at: every decoder, and every step of client and server that receives some.

A target is called with any bytes and returns, or raises ``AssertionError`` or
whatever slipped through: that is a finding. Decoders may refuse with
``DecodeError``, or give a value that encodes to the very same bytes. Steps may
refuse with ``RemoteProtocolError``.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from protocols.bonawitz import Agreement, CollectKeys, Params, Rates, join, restore
from protocols.bonawitz.messages import (
    Advertise,
    MaskedFrame,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Signatures,
    SignedSurvivors,
    Survivors,
)
from protocols.errors import DecodeError, RemoteProtocolError
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.wire import with_checksum, without_checksum

WORDS = 3
ROUNDS = {
    "complete": Params(clients=3, threshold=2, words=WORDS),
    "active": Params(clients=4, threshold=3, words=WORDS, active=True),
    "sparse": Params(clients=5, rates=Rates(corrupt_fraction=0, dropout=0), words=WORDS),
}
DECODERS: dict[str, tuple[str, str, Callable[..., Any]]] = {  # of a round: a message, its decoder
    "Advertise": ("complete", "advertise", Advertise.from_bytes),
    "Advertise.signed": ("active", "advertise", partial(Advertise.from_bytes, signed=True)),
    "Roster": ("complete", "roster", Roster.from_bytes),
    "Roster.signed": ("active", "roster", partial(Roster.from_bytes, signed=True)),
    "Roster.part": ("sparse", "roster", Roster.from_bytes),
    "SealedShares": ("complete", "shares", SealedShares.from_bytes),
    "ShareBoxes": ("complete", "boxes", ShareBoxes.from_bytes),
    "MaskedFrame": ("complete", "frame", partial(MaskedFrame.from_bytes, index=0, count=WORDS + 1)),
    "Survivors": ("complete", "survivors", Survivors.from_bytes),
    "SignedSurvivors": ("active", "signed", SignedSurvivors.from_bytes),
    "Signatures": ("active", "signatures", Signatures.from_bytes),
    "Reveal": ("complete", "reveal", Reveal.from_bytes),
}
CLIENT_STEPS = {  # what a client receives, and the step that takes it
    "roster": "on_roster",
    "boxes": "on_boxes",
    "survivors": "on_survivors",
    "signatures": "on_signatures",
}
SERVER_STEPS = ("advertise", "shares", "frame", "signed", "reveal")
CLIENT = 0  # whose messages and states are used


def fixed(size: int, *, of: int = 0) -> bytes:
    """No randomness: a finding must come again."""
    return bytes((37 * of + 11 * place + 5) % 256 for place in range(size))


class Round:
    """An honest round, with client 0's states as records and the server's stages as recipes.

    Attributes:
      sent: by name, client 0's messages and those to it.
      records: by the message that is awaited, client 0's state.
      stages: by the message that is awaited, what makes a server that has heard nobody yet.
    """

    def __init__(self, params: Params) -> None:
        self.agreement = Agreement(
            params=params, session=fixed(16, of=99), round=7, public_digest=bytes(32)
        )
        self.sent: dict[str, bytes] = {}
        self.records: dict[str, bytes] = {}
        self.heard: dict[str, dict[int, list[bytes]]] = {}
        signing = range(params.clients) if params.active else ()
        self.identity = {c: SigningKey(Secret(fixed(32, of=50 + c))) for c in signing}
        self.identities = {c: key.public for c, key in self.identity.items()} or None
        self._play()

    def server(self, awaits: str) -> Any:
        """A server at the stage that awaits this message; the stages before it, played again."""
        server: Any = CollectKeys(self.agreement, self.identities)
        for kind, messages in self.heard.items():
            if kind == awaits:
                break
            for frames in messages.values():
                server.receive(frames if kind == "frame" else frames[0])
            _, server = self._close(server, kind)
        return server

    def _close(self, server: Any, kind: str) -> Any:
        if kind == "advertise":
            return server.close(fixed_entropy())
        if kind == "frame" and self.agreement.params.active:
            return server.close_to_sign()
        return server.close()

    def _play(self) -> None:
        clients = range(self.agreement.params.clients)
        server: Any = CollectKeys(self.agreement, self.identities)
        states: dict[int, Any] = {}
        self.heard["advertise"] = {}
        for c in clients:
            message, states[c] = join(
                self.agreement,
                c,
                partial(fixed_once, [], c),
                identity=self.identity.get(c),
                identities=self.identities,
            )
            self.heard["advertise"][c] = [message]
        active = self.agreement.params.active
        steps = [("advertise", "roster", "shares"), ("shares", "boxes", "frame")]
        steps += [("frame", "survivors", "signed"), ("signed", "signatures", "reveal")]
        steps = steps if active else [*steps[:2], ("frame", "survivors", "reveal")]
        for kind, receives, sends in steps:
            for messages in self.heard[kind].values():
                server.receive(messages if kind == "frame" else messages[0])
            out, server = self._close(server, kind)
            self.heard[sends] = {}
            for c in clients:
                given = out if isinstance(out, bytes) else out[c]
                if c == CLIENT:
                    self.sent[receives] = given
                    self.records[receives] = states[c].into_record().expose()
                    states[c] = self.client(receives)
                answer = take(states[c], self.step(receives), given)
                messages, states[c] = answer if isinstance(answer, tuple) else ([answer], None)
                self.heard[sends][c] = messages if isinstance(messages, list) else [messages]
        self.sent |= {kind: messages[CLIENT][0] for kind, messages in self.heard.items()}

    def step(self, receives: str) -> str:
        if receives == "survivors" and self.agreement.params.active:
            return "sign_survivors"
        return CLIENT_STEPS[receives]

    def client(self, awaits: str) -> Any:
        """Client 0's state that awaits this message."""
        return restore(Secret(self.records[awaits]), burn=lambda *_: True)


def fixed_once(taken: list[int], client: int, size: int) -> bytes:
    """Another key at each call, as ``join`` needs."""
    taken.append(size)
    return fixed(size, of=10 * client + len(taken))


def fixed_entropy() -> Callable[[int], bytes]:
    return partial(fixed_once, [], 20)


def take(state: Any, step: str, message: bytes) -> Any:
    """A step; a vector's frames are made at once, so that what goes wrong there is seen."""
    if step != "on_boxes":
        return getattr(state, step)(message)
    frames, state = state.on_boxes(message, np.arange(WORDS, dtype=np.uint64))
    return list(frames), state


@cache
def round_of(kind: str) -> Round:
    return Round(ROUNDS[kind])


class Target:
    """One entry point.

    Args:
      seeds: bytes to start from, without checksum.
      attempt: whether bytes are taken or refused; raises what is a finding.
    """

    def __init__(self, seeds: Sequence[bytes], attempt: Callable[[bytes], bool]) -> None:
        self.seeds, self._attempt = seeds, attempt

    def __call__(self, data: bytes) -> None:
        self.takes(data)

    def takes(self, data: bytes) -> bool:
        """Try the bytes as they are and under a checksum of their own."""
        return self._attempt(data) | self._attempt(with_checksum(data))


def stripped(data: bytes) -> bytes:
    try:
        return bytes(without_checksum(data))
    except DecodeError:
        return data


def decoding(kind: str, name: str, decode: Callable[..., Any]) -> Target:
    played = round_of(kind)

    def attempt(data: bytes) -> bool:
        try:
            found = decode(data, expect=played.agreement.header)
        except DecodeError:
            return False
        if found.to_bytes() != data:
            raise AssertionError(f"{name} has a second encoding: {data.hex()}")
        return True

    return Target([stripped(played.sent[name])], attempt)


def client_step(kind: str, receives: str) -> Target:
    played = round_of(kind)

    def attempt(data: bytes) -> bool:
        state = played.client(receives)
        try:
            take(state, played.step(receives), data)
        except RemoteProtocolError:
            return False
        return True

    return Target([played.sent[receives]], attempt)


def server_step(kind: str, awaits: str) -> Target:
    played = round_of(kind)
    server = [played.server(awaits)]

    def attempt(data: bytes) -> bool:
        try:
            server[0].receive([data] if awaits == "frame" else data)
        except RemoteProtocolError:
            return False
        server[0] = played.server(awaits)
        return True

    return Target([stripped(played.sent[awaits])], attempt)


def record(kind: str, awaits: str) -> Target:
    def attempt(data: bytes) -> bool:
        try:
            state = restore(Secret(data), burn=lambda *_: True)
        except DecodeError:
            return False
        if state.into_record().expose() != data:
            raise AssertionError("a record has a second encoding")
        return True

    return Target([stripped(round_of(kind).records[awaits])], attempt)


def targets() -> dict[str, Target]:
    """Every entry point by name."""
    found = {f"decode.{name}": decoding(*how) for name, how in DECODERS.items()}
    for kind in ROUNDS:
        played = round_of(kind)
        found |= {f"client.{kind}.{name}": client_step(kind, name) for name in played.records}
        found |= {f"record.{kind}.{name}": record(kind, name) for name in played.records}
        found |= {
            f"server.{kind}.{name}": server_step(kind, name)
            for name in SERVER_STEPS
            if name in played.heard
        }
    return found
