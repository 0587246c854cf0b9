"""What to throw bytes at: every decoder, and every step that receives some, of both layers.

Below: client and server of the protocols, and ranks. Above: what a node and a coordinator read.

A target is called with any bytes and returns, or raises ``AssertionError`` or
whatever slipped through: that is a finding. Decoders may refuse with
``DecodeError``, or give a value that encodes to the very same bytes. Steps may
refuse with ``RemoteProtocolError``; a node with its own errors too, a file's reader with its.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from ckks_targets import ckks_targets

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
from protocols.errors import DecodeError, ProtocolError, RemoteProtocolError
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.wire import with_checksum, without_checksum
from protocols.zero_sharing import Agreement as RanksAgreement
from protocols.zero_sharing import Params as RanksParams
from protocols.zero_sharing import join as join_ranks
from protocols.zero_sharing.messages import Advertise as RankKey
from secagg.adapters.testing import ANYTHING, Machines
from secagg.errors import IdentityError, InputError, NodeError, RefusedError
from secagg.nodes.buffer import Session
from secagg.nodes.coordinator import Coordinator, RunningSum, SumSettings, WeightedMean
from secagg.nodes.identities import Identity, sign_roster
from secagg.nodes.identities import Roster as SignedRoster
from secagg.nodes.messages import Answer, AnswerReader, Request
from secagg.nodes.policy import TEMPLATE, NodePolicy
from secagg.nodes.proposal import Contribution
from secagg.rounds.relay import StageRequests
from secagg.stage import UNSIGNED, Stage
from secagg.vectors.arrays import arrays_of, parts_of

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
    "Survivors": ("complete", "survivors", partial(Survivors.from_bytes, members=range(3))),
    "Survivors.part": (
        "sparse",
        "survivors",
        partial(Survivors.from_bytes, members=range(3), part=True),
    ),
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


# Among ranks


def rank_keys(*, signed: bool) -> tuple[Target, Target]:
    """The key of rank 2 of three: decoded, and taken by rank 0."""
    agreement = RanksAgreement(
        params=RanksParams(ranks=3, signed=signed),
        session=fixed(16, of=98),
        round=7,
        public_digest=bytes(32),
    )
    identity = {rank: SigningKey(Secret(fixed(32, of=60 + rank))) for rank in range(3)}

    def joined(rank: int) -> tuple[bytes, Any]:
        keys: dict[str, Any] = {
            "identity": identity[rank],
            "identities": {each: key.public for each, key in identity.items()},
        }
        entropy = partial(fixed_once, [], rank)
        return join_ranks(agreement, rank, entropy, **(keys if signed else {}))

    sent = [joined(rank)[0] for rank in range(3)]

    def decoded(data: bytes) -> bool:
        try:
            found = RankKey.from_bytes(data, expect=agreement.header, signed=signed)
        except DecodeError:
            return False
        if found.to_bytes() != data:
            raise AssertionError(f"a rank's key has a second encoding: {data.hex()}")
        return True

    def taken(data: bytes) -> bool:
        try:
            joined(0)[1].on_keys([*sent[:2], data])
        except RemoteProtocolError:
            return False
        return True

    seed = stripped(sent[2])
    return Target([seed], decoded), Target([seed], taken)


# Between machines

NODES, MIXED = (100, 101, 102), (100, 101, 102, 103)
MIXES = replace(ANYTHING, maximum_staleness=5, minimum_same=2)
SHAPES = (("weight", (2,)),)
OPERATOR = Identity("operator", SigningKey(Secret(fixed(32, of=70))))
MEAN = WeightedMean(clip=1.0, max_weight=9, train_metrics={"loss": 1.0})


class Sums:
    """Three nodes in folders of their own; the same session over and over."""

    def __init__(self) -> None:
        memory = "/dev/shm"  # noqa: S108  # files are synced often; nothing there is reused
        self._folder = tempfile.TemporaryDirectory(dir=memory if Path(memory).is_dir() else None)
        self.machines = Machines(
            Path(self._folder.name),
            NODES,
            work=lambda *_: Contribution(vector=np.ones(2), metrics={"loss": 0.5}),
        )
        under_way, ask = self.until(Stage.REVEAL)
        for node in NODES:
            self.machines.answer(node, under_way.request(ask, node))
        self.answers, self.before = dict(self.machines.answers), dict(self.machines.before)
        self.requests = dict(self.machines.requests)

    def until(self, stage: Stage) -> tuple[RunningSum, StageRequests]:
        """A sum at a stage at which nobody has answered yet."""
        self.forget()
        coordinator = Coordinator(MEAN, SumSettings())
        coordinator.session = fixed(16, of=80)
        with mock.patch("secagg.nodes.coordinator.system", fixed):  # the same proposal again
            under_way = coordinator.begin("train", NODES, model=self.machines.model, shapes=SHAPES)
        for ask in under_way.asks():
            if ask.stage is stage:
                return under_way, ask
            for node in NODES:
                answer = self.machines.answer(node, under_way.request(ask, node))
                under_way.receive(ask, node, answer)
        raise AssertionError(stage)

    def forget(self) -> None:
        """Burn records would refuse the second request before it is read."""
        for node in NODES:
            for file in self.machines.home(node).glob("burnt.sqlite*"):
                file.unlink()


@cache
def sums() -> Sums:
    return Sums()


def node_step(stage: Stage, field: str) -> Target:
    """A request, or the state that comes back with it, with one field changed."""
    played = sums()
    request, state = played.requests[NODES[0], stage], played.before[NODES[0], stage]

    def attempt(data: bytes) -> bool:
        played.forget()
        changed = request if field == "state" else replace(request, **{field: data})
        try:
            played.machines.ask(NODES[0], changed, data if field == "state" else state)
        except (ProtocolError, RefusedError, NodeError):
            return False
        return True

    return Target([state if field == "state" else getattr(request, field)], attempt)


def coordinator_step(stage: Stage) -> Target:
    played = sums()
    at = [played.until(stage)]
    good = played.answers[NODES[0], stage]

    def attempt(data: bytes) -> bool:
        under_way, ask = at[0]
        try:
            under_way.receive(ask, NODES[0], replace(good, messages=(data,)))
        except RemoteProtocolError:
            return False
        at[0] = played.until(stage)
        return True

    return Target([stripped(good.messages[0])], attempt)


def mixed() -> bytes:
    """A proposal in which clients trained on two versions of the model."""
    coordinator, played = Coordinator(MEAN, SumSettings()), sums()
    session = Session(
        nodes={node: node % 2 for node in MIXED},
        digests={0: bytes(32), 1: played.machines.model},
        weights=(3, 2),
        minimum_same=2,
    )
    coordinator.session = fixed(16, of=81)
    with mock.patch("secagg.nodes.coordinator.system", fixed):
        begun = coordinator.begin(
            "train", MIXED, model=session.model_digest, shapes=SHAPES, session=session
        )
    return begun.proposal.to_bytes()


def proposal() -> Target:
    def attempt(data: bytes) -> bool:
        try:
            found = MIXES.read_proposal(data)
        except (DecodeError, RefusedError):
            return False
        if found.to_bytes() != data:
            raise AssertionError("a proposal has a second encoding")
        return True

    return Target([sums().requests[NODES[0], Stage.SHARE].proposal, mixed()], attempt)


def codec(seed: bytes, decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> Target:
    """A decoder of what networks carry: refused, or a value that encodes to the same bytes."""

    def attempt(data: bytes) -> bool:
        try:
            found = decode(data)
        except DecodeError:
            return False
        if encode(found) != data:
            raise AssertionError(f"a second encoding: {data.hex()}")
        return True

    return Target([seed], attempt)


def in_pieces(data: bytes) -> Answer:
    """An answer that comes in pieces of three bytes is the one that comes whole."""
    reader = AnswerReader(most=len(data))
    for begin in range(0, len(data), 3):
        reader.feed(data[begin : begin + 3])
    found = reader.finish()
    if found != Answer.from_bytes(data):
        raise AssertionError("pieces make another answer")
    return found


def codecs() -> dict[str, Target]:
    played, place = sums(), (NODES[0], Stage.REVEAL)
    request, answer = played.requests[place], replace(played.answers[place], state=None)
    model = {"b": np.ones((2, 3), np.float32), "a": np.array(7), "c": np.zeros((0, 2), bool)}
    return {
        "request": codec(request.to_bytes(), Request.from_bytes, Request.to_bytes),
        "answer": codec(answer.to_bytes(), in_pieces, Answer.to_bytes),
        "arrays": codec(b"".join(parts_of(model)), arrays_of, lambda a: b"".join(parts_of(a))),
    }


def roster() -> Target:
    members = {c: (f"n{c}", SigningKey(Secret(fixed(32, of=71 + c))).public) for c in range(3)}
    signed = sign_roster(OPERATOR, members)

    def attempt(data: bytes) -> bool:
        with suppress(IdentityError):
            SignedRoster.claimed_operator(data)  # parses what nobody signed
        try:
            SignedRoster.read(data, operator=OPERATOR.key.public)
        except IdentityError:
            return False
        if data != signed:
            raise AssertionError("a roster that the operator did not sign was taken")
        return True

    return Target([signed], attempt)


def policy() -> Target:
    path = Path(sums().machines.folder) / "policy.toml"

    def attempt(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            NodePolicy.read(path)
        except InputError:
            return False
        return True

    lines = TEMPLATE.replace("\n# ex", "\nex").replace("\n# c", "\nc").replace("\n# m", "\nm")
    return Target([lines.encode()], attempt)


def targets_between_machines() -> dict[str, Target]:
    found = {"proposal": proposal(), "roster": roster(), "policy": policy()} | codecs()
    found["node.proposal"] = node_step(Stage.SHARE, "proposal")
    for stage in UNSIGNED:
        found[f"coordinator.{stage}"] = coordinator_step(stage)
        if stage is not Stage.ADVERTISE:
            found[f"node.{stage}.message"] = node_step(stage, "message")
            found[f"node.{stage}.state"] = node_step(stage, "state")
    return found


def targets() -> dict[str, Target]:
    """Every entry point by name."""
    found = targets_between_machines()
    for name, signed in (("unsigned", False), ("signed", True)):
        found[f"decode.rank.{name}"], found[f"rank.{name}.keys"] = rank_keys(signed=signed)
    found |= {f"decode.{name}": decoding(*how) for name, how in DECODERS.items()}
    for kind in ROUNDS:
        played = round_of(kind)
        found |= {f"client.{kind}.{name}": client_step(kind, name) for name in played.records}
        found |= {f"record.{kind}.{name}": record(kind, name) for name in played.records}
        found |= {
            f"server.{kind}.{name}": server_step(kind, name)
            for name in SERVER_STEPS
            if name in played.heard
        }
    found |= {name: Target([stripped(seed)], how) for name, (seed, how) in ckks_targets().items()}
    return found
