"""No secret shows in what anything prints: states, messages, servers, errors, tracebacks."""

import base64
import hashlib
import traceback
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest

from protocols.bonawitz import CollectKeys, Params, join, restore
from protocols.bonawitz.messages import (
    Advertise,
    MaskedFrame,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Survivors,
)
from protocols.bonawitz.records import RECORD
from protocols.errors import ProtocolError
from protocols.primitives.prg import Mask, Masks, Stream
from protocols.secrets import Once, Secret
from protocols.testing import agreement_of, burn_nothing, insecure_entropy

AGREEMENT = agreement_of(Params(clients=4, threshold=3, words=4))
HEADER = AGREEMENT.header
CLIENTS = (1, 2, 3, 4)
WORDS = np.arange(4, dtype=np.uint64) + np.uint64(2**40)


class Watch:
    """Every secret that ever was, and everything that was printed."""

    def __init__(self) -> None:
        self.secrets: set[bytes] = set()
        self.texts: list[str] = []

    def drawing(self, seed: object) -> Any:
        known = insecure_entropy(seed)

        def entropy(size: int) -> bytes:
            drawn = known(size)
            self.secrets.add(drawn)
            return drawn

        return entropy

    def look(self, *things: Any) -> None:
        for thing in things:
            self.texts += [repr(thing), str(thing), f"{thing}", f"{[thing]}", f"{ {1: thing} }"]
            if is_dataclass(thing) and not isinstance(thing, type):
                self.look(*(getattr(thing, field.name) for field in fields(thing)))
            if isinstance(thing, Once):
                self.look(*thing._value)

    def refused(self, step: Any, *arguments: Any) -> None:
        with pytest.raises(ProtocolError) as caught:
            step(*arguments)
        self.look(caught.value)
        self.texts += traceback.format_exception(caught.value)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    found = Watch()
    plain = Secret.__init__

    def seen(secret: Secret, value: bytes) -> None:
        found.secrets.add(value)
        plain(secret, value)

    monkeypatch.setattr(Secret, "__init__", seen)
    return found


def spellings(secret: bytes) -> Iterator[str]:
    """How a secret of 32 bytes or more might look in a text; parts of it, too."""
    for begin in range(0, len(secret) - 15, 16):
        part = secret[begin : begin + 16]
        yield part.hex()
        yield part.hex().upper()
        yield repr(part)[2:-1]
        yield str(list(part))[1:-1]
        yield str(int.from_bytes(part, "big"))
        yield str(int.from_bytes(part, "little"))
        yield base64.b64encode(part[:15]).decode()


def changed(message: bytes, place: int) -> bytes:
    copy = bytearray(message)
    copy[place] ^= 1
    return bytes(copy)


def test_no_secret_of_a_round_shows_anywhere(watch: Watch) -> None:
    def never(session: bytes, stage: int, request: bytes) -> bool:
        return False

    def moved(state: Any) -> Any:
        watch.look(state)
        record = state.into_record()
        watch.look(record, state)
        return (restore(record, burn=burn) for burn in (burn_nothing, never, burn_nothing))

    collect: Any = CollectKeys(AGREEMENT)
    states: dict[int, Any] = {}
    for client in CLIENTS:
        message, state = join(AGREEMENT, client, watch.drawing(client))
        watch.look(Advertise.from_bytes(message, expect=HEADER))
        states[client] = moved(state)
        watch.refused(collect.receive, changed(message, 40))
        collect.receive(message)
    rosters, shares = collect.close()
    watch.look(collect, shares, Roster.from_bytes(rosters[1], expect=HEADER))
    for client in CLIENTS:
        state, refusing, broken = states[client]
        watch.refused(refusing.on_roster, rosters[client])
        watch.refused(broken.on_roster, rosters[client][:-1])
        message, state = state.on_roster(rosters[client])
        watch.look(SealedShares.from_bytes(message, expect=HEADER))
        states[client] = moved(state)
        watch.refused(shares.receive, changed(message, 60))
        shares.receive(message)
    boxes, vectors = shares.close()
    watch.look(vectors, ShareBoxes.from_bytes(boxes[1], expect=HEADER))
    for client in (1, 2, 3):
        state, refusing, broken = states[client]
        watch.refused(refusing.on_boxes, boxes[client], WORDS)
        watch.refused(broken.on_boxes, boxes[client][:-1], WORDS)
        watch.refused(state.on_boxes, boxes[client], WORDS[:-1])
        frames, state = state.on_boxes(boxes[client], WORDS)
        watch.look(frames)
        (frame,) = frames
        watch.look(MaskedFrame.from_bytes(frame, expect=HEADER, index=0, count=5))
        states[client] = moved(state)
        watch.refused(vectors.receive, [changed(frame, 60)])
        vectors.receive([frame])
    named, reveals = vectors.close()
    watch.look(reveals, Survivors.from_bytes(named[1], expect=HEADER, members=CLIENTS))
    for client, message in named.items():
        state, refusing, broken = states[client]
        watch.refused(refusing.on_survivors, message)
        watch.refused(broken.on_survivors, changed(message, 22))
        answer = state.on_survivors(message)
        watch.refused(state.on_survivors, message)
        watch.look(Reveal.from_bytes(answer, expect=HEADER))
        reveals.receive(answer)
        watch.refused(reveals.receive, answer)

    def unmask(masks: Any, suite: Any) -> Masks:
        watch.look(*masks, Masks(masks, suite), Stream(masks[0].seed, masks[0].label))
        return Masks(masks, suite)

    assert reveals.close(unmask).words.tolist() == (3 * WORDS).tolist()
    text = "\n".join(watch.texts)
    # A record is searched for by its parts: it begins with what is public.
    seeds = [secret for secret in watch.secrets if len(secret) in (32, 64)]
    assert all(secret.startswith(RECORD) for secret in watch.secrets if len(secret) > 64)
    assert len(seeds) > 60
    for secret in seeds:
        for spelling in spellings(secret):
            assert spelling not in text


def test_a_secret_that_printed_would_be_found() -> None:
    secret = hashlib.sha256(b"seed").digest()
    for text in (secret.hex(), repr(secret), str(list(secret)), f"x{secret.hex()[32:]}y"):
        assert any(spelling in text for spelling in spellings(secret))


def test_a_mask_is_printed_by_its_label_alone() -> None:
    mask = Mask(seed=Secret(bytes(range(32))), label=b"label")
    assert repr(mask) == "Mask(label=b'label', subtract=False)"
