"""A second implementation, from the page alone, makes the messages and sums of the vectors.

``docs/protocols/bonawitz.md`` is its only source. Nothing of ``protocols`` is
imported here: the two agree through the page and the files.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from page_blocks import (
    Row,
    agree,
    checked,
    combine,
    entries,
    joined,
    opaque,
    public,
    sha,
    split,
    stream,
    u32,
    words_of,
)

FOLDER = Path(__file__).parent
CORRECTED = "wrong_share_is_corrected"  # this server here believes the shares that it gets
WELL = sorted(
    file
    for file in FOLDER.glob("*.json")
    if "steps" in (script := json.loads(file.read_text()))
    and script["sum"]
    and not script["error"]
    and file.stem != CORRECTED
)
VERSION = b"secagg/1 bonawitz"
FRAME = 2**15


def written(chosen: Collection[int], roster: list[int]) -> bytes:
    """A Subset: the shorter of its two forms."""
    size = -(-len(roster) // 8)
    bits = sum((client in chosen) << (8 * size - 1 - at) for at, client in enumerate(roster))
    places = [at for at, client in enumerate(roster) if client in chosen]
    gaps = b""
    for before, place in zip([-1, *places], places, strict=False):
        full, rest = divmod(place - before - 1, 255)
        gaps += b"\xff" * full + bytes([rest])
    short = b"\1" + u32(len(places)) + gaps
    return short if len(short) < 1 + size else b"\0" + bits.to_bytes(size, "big")


def subset(data: bytes, roster: list[int]) -> set[int]:
    """Inverse of ``written``, from the front of ``data``."""
    found, size = set(), -(-len(roster) // 8)
    if data[0]:
        place, at = -1, 5
        for _ in range(int.from_bytes(data[1:5], "big")):
            place += 1
            while data[at] == 255:
                place, at = place + 255, at + 1
            place, at = place + data[at], at + 1
            found.add(roster[place])
    else:
        found = {c for at, c in enumerate(roster) if data[1 + at // 8] >> (7 - at % 8) & 1}
        at = 1 + size
    assert data[:at] == written(found, roster)
    return found


class Common:
    """What everybody knows."""

    digest = b""

    def __init__(self, script: dict[str, Any]) -> None:
        p = script["params"]
        self.header = bytes.fromhex(script["session"]) + u32(script["round"])
        rates = p["rates"]
        rated = (
            b"".join(opaque(rates[n].encode()) for n in ("corrupt", "dropout")) if rates else b""
        )
        self.terms = (
            self.header
            + u32(p["clients"])
            + u32(p["threshold"] or 0)
            + u32(p["minimum_survivors"])
            + p["words"].to_bytes(8, "big")
            + bytes([p["suite"], p["active"]])
            + u32(2**32 - 1 if p["corrupt"] is None else p["corrupt"])
            + opaque(rated)
        )
        self.bind(script["public"])
        self.words, self.suite, self.active = p["words"], p["suite"], p["active"]
        self.threshold, self.degree = script["plan"]["threshold"], script["plan"]["degree"]
        self.quorum = script["plan"].get("quorum", 0)  # where clients pick their holders
        self.identities = {
            int(client): Ed25519PublicKey.from_public_bytes(bytes.fromhex(key["public"]))
            for client, key in script["identities"].items()
        }
        self.entry = 64 + 64 * self.active

    def bind(self, known: str) -> None:
        """Agree to what is public; where there is a roster, its context is another then."""
        self.agreement = self.terms + bytes.fromhex(known)
        self.tag = sha(self.agreement)[:8]
        self.context = sha(VERSION + self.agreement + self.digest)

    def settle(self, roster: bytes) -> Row:
        """The entries of a roster, and with its digest the context."""
        assert roster[:30] == self.head(2) + self.tag
        self.digest = roster[34:66]
        self.context = self.sealed = sha(VERSION + self.agreement + self.digest)
        return entries(roster[66:], self.entry)

    def head(self, kind: int) -> bytes:
        return bytes([1, kind]) + self.header

    def label(self, usage: bytes, about: bytes = b"") -> bytes:
        return VERSION + b" " + usage + b" " + self.context + self.header + about

    def pair(self, one: int, other: int) -> bytes:
        return self.label(b"pair", u32(min(one, other)) + u32(max(one, other)))

    def apply(self, vector: list[int], sign: int, seed: bytes, label: bytes) -> list[int]:
        mask = words_of(stream(seed, label, self.suite, 8 * len(vector)))
        return [(word + sign * m) % 2**64 for word, m in zip(vector, mask, strict=True)]


class Client(Common):
    def __init__(self, script: dict[str, Any], me: int) -> None:
        super().__init__(script)
        self.me = me
        drawn = bytes.fromhex(script["entropy"][f"client {me}"])
        self.mask, self.seal, self.draw = drawn[:32], drawn[32:64], drawn[64:96]
        if self.active:
            secret = bytes.fromhex(script["identities"][str(me)]["secret"])
            self.identity = Ed25519PrivateKey.from_private_bytes(secret)

    def sign(self, label: bytes, message: bytes) -> bytes:
        return self.identity.sign(opaque(label) + message)

    def join(self) -> bytes:
        keys = public(self.mask) + public(self.seal)
        if self.active:
            label = b" ".join((VERSION, b"keys", sha(self.agreement), u32(self.me)))
            keys += self.sign(label, keys)
        return checked(self.head(1) + u32(self.me) + keys)

    def about(self, sender: int, recipient: int) -> bytes:
        return self.head(3) + u32(sender) + u32(recipient)

    def box_key(self, peer: int, *, ours: bool) -> bytes:
        sender, recipient = (self.me, peer) if ours else (peer, self.me)
        keys = (public(self.mask), self.roster[peer][:32])
        numbers = u32(sender) + u32(recipient)
        about = numbers + b"".join(keys if ours else keys[::-1])
        label = VERSION + b" seal " + self.sealed + self.header + about
        return agree(self.seal, self.roster[peer][32:64], label)

    def on_roster(self, roster: bytes) -> bytes:
        self.roster = self.settle(roster)
        peers = sorted(self.roster.keys() - {self.me})
        rows, keys = 64 * (self.threshold - 1), 16 * len(peers) * bool(self.quorum)
        label = self.label(b"draw", u32(self.me))
        random = stream(self.draw, label, 1, 32 + keys + rows + 16 * len(peers))
        self.seed, random = random[:32], random[32:]
        if self.quorum:
            order = {peer: random[16 * at : 16 * at + 16] for at, peer in enumerate(peers)}
            peers = sorted(sorted(peers, key=lambda peer: order[peer])[: self.degree])
        holders = peers if self.degree else sorted(self.roster)
        coefficients, nonces = random[keys : keys + rows], random[keys + rows :]
        self.picks = frozenset(peers)
        values = split(self.seed + self.mask, coefficients, len(holders))
        shares = dict(zip(holders, values, strict=True))
        self.held = {} if self.degree else {self.me: shares[self.me]}
        boxes = {}
        for place, peer in enumerate(peers):
            nonce = nonces[16 * place : 16 * place + 12]
            gcm = AESGCM(self.box_key(peer, ours=True))
            boxes[peer] = nonce + gcm.encrypt(nonce, shares[peer], self.about(self.me, peer))
        return checked(self.head(3) + u32(self.me) + self.tag + joined(boxes))

    def on_boxes(self, message: bytes, words: list[int]) -> Iterator[bytes]:
        vector = self.apply([*words, 1], 1, self.seed, self.label(b"self", u32(self.me)))
        end = 30 + 96 * int.from_bytes(message[26:30], "big")
        boxes = entries(message[26:end], 92)
        for peer, box in boxes.items():
            gcm = AESGCM(self.box_key(peer, ours=False))
            with suppress(InvalidTag):
                self.held[peer] = gcm.decrypt(box[:12], box[12:], self.about(peer, self.me))
        included = set(boxes)
        if self.quorum:
            shared = subset(message[end:], sorted(self.roster))
            included = (self.picks & shared) | (boxes.keys() & self.held.keys())
        for peer in sorted(included):
            label = self.pair(self.me, peer)
            seed = agree(self.mask, self.roster[peer][:32], label)
            vector = self.apply(vector, 1 if self.me > peer else -1, seed, label)
        for index, at in enumerate(range(0, len(vector), FRAME)):
            part = b"".join(word.to_bytes(8, "little") for word in vector[at : at + FRAME])
            yield checked(self.head(5) + u32(self.me) + u32(index) + part)
        if self.quorum:
            named = written(included, sorted(self.roster))
            signature = self.sign(self.label(b"included", u32(self.me)), named)
            yield checked(self.head(10) + u32(self.me) + named + signature)

    def on_survivors(self, message: bytes) -> bytes:
        alive = subset(message[22:], sorted(self.roster))
        shares = {p: both[:32] if p in alive else both[32:] for p, both in self.held.items()}
        return checked(self.head(7) + u32(self.me) + joined(shares))

    def sign_survivors(self, message: bytes) -> bytes:
        self.named = message
        alive = subset(message[22:], sorted(self.roster))
        self.body = written(alive, sorted(self.roster))
        signature = self.sign(self.label(b"survivors"), self.body)
        return checked(self.head(8) + u32(self.me) + signature)

    def on_signatures(self, message: bytes) -> bytes:
        whole, valid = opaque(self.label(b"survivors")) + self.body, {self.me}
        alive = subset(self.body, sorted(self.roster))
        for client, signature in entries(message[22:], 64).items():
            if client in alive:
                with suppress(InvalidSignature):
                    self.identities[client].verify(signature, whole)
                    valid.add(client)
        assert len(valid) >= (self.quorum or self.threshold)
        return self.on_survivors(self.named)


def unmask(script: dict[str, Any], known: dict[str, bytes]) -> tuple[list[int], list[int]]:
    """Survivors and sum, from what a server has received and its draw of the graph."""
    common = Common(script)
    begun = [
        s["agrees"]["public"] for s in script["steps"] if s["does"] == "begin" if "agrees" in s
    ]
    told = sha(common.terms + bytes.fromhex(begun[0]))[:8] if begun else common.tag
    arrived: dict[str, bytes] = {
        name: known[name]
        for step in script["steps"]
        if step["party"] == "server"
        for name in step.get("receives", [])
    }

    def bodies(kind: str) -> Row:
        found = {name: data for name, data in arrived.items() if name.split()[0] == kind}
        return {int.from_bytes(d[22:26], "big"): d[26:-16] for d in found.values()}

    keys, reveals = bodies("advertise"), bodies("reveal")
    sharers, alive = sorted(bodies("shares")), sorted(bodies("frame"))
    members = sorted(keys)
    common.context = sha(VERSION + common.agreement + sha(joined(keys)[4:]))
    near = {client: [m for m in members if m != client] for client in members}
    if common.degree:
        drawn = bytes.fromhex(script["entropy"]["server"])
        order = {c: drawn[16 * at : 16 * at + 16] for at, c in enumerate(members)}
        circle = sorted(members, key=lambda c: order[c])
        half, size = common.degree // 2, len(circle)
        for at, client in enumerate(circle):
            steps = [*range(-half, 0), *range(1, half + 1)]
            near[client] = sorted(circle[(at + step) % size] for step in steps)

    # What the server said is a function of what it had received.
    size_and_digest = u32(len(members)) + sha(joined(keys)[4:])
    signed, boxes = bodies("signed"), {c: entries(d[8:], 92) for c, d in bodies("shares").items()}
    for name, data in known.items():
        kind, *to = name.split()
        if kind not in ("roster", "boxes", "survivors", "signatures") or "changed" in name:
            continue
        me = int(to[0])
        peers = near[me]
        if kind == "survivors":
            shown = sorted([*peers, me])
            unseen = u32(len(set(alive) - set(shown))) if len(shown) < len(members) else b""
            assert data == common.head(6) + written(alive, shown) + unseen
        if kind == "roster":
            seen = {c: keys[c] for c in (*peers, me)}
            assert data == common.head(2) + told + size_and_digest + joined(seen)
        if kind == "boxes":
            passed = {c: boxes[c][me] for c in peers if c in sharers}
            assert data == common.head(4) + u32(me) + joined(passed)
        if kind == "signatures":
            seen = {c: signed[c] for c in (peers if common.degree else members) if c in signed}
            assert data == common.head(9) + joined(seen)

    total = [0] * (common.words + 1)
    for name, data in arrived.items():
        if name.startswith("frame"):
            at = FRAME * int.from_bytes(data[26:30], "big")
            for place, word in enumerate(words_of(data[30:-16]), at):
                total[place] = (total[place] + word) % 2**64
    answers = {client: entries(body, 32) for client, body in reveals.items()}
    for client in sharers:
        holders = near[client] if common.degree else members
        if client not in alive and not set(holders) & set(alive):
            continue
        shares = {
            x: answers[h][client] for x, h in enumerate(holders, 1) if client in answers.get(h, ())
        }
        secret = combine(dict(list(shares.items())[: common.threshold]))
        if client in alive:
            total = common.apply(total, -1, secret, common.label(b"self", u32(client)))
            continue
        assert public(secret) == keys[client][:32]
        for peer in set(near[client]) & set(alive):
            label = common.pair(client, peer)
            seed = agree(secret, keys[peer][:32], label)
            total = common.apply(total, -1 if client < peer else 1, seed, label)
    assert total.pop() == len(alive)
    return alive, total


def inputs_of(script: dict[str, Any], client: int) -> list[int]:
    given = script["inputs"][str(client)]
    if "words" in given:
        return [int(word, 16) for word in given["words"]]
    first, step = int(given["first"], 16), int(given["step"], 16)
    return [(first + place * step) % 2**64 for place in range(script["params"]["words"])]


@pytest.mark.parametrize("file", WELL, ids=lambda file: file.stem)
def test_the_page_is_enough_to_make_every_message_and_the_sum(file: Path) -> None:
    script = json.loads(file.read_text())
    listed = {entry["name"]: entry for entry in script["messages"]}
    known: dict[str, bytes] = {}
    for name, entry in listed.items():
        if "bytes" in entry:
            known[name] = bytes.fromhex(entry["bytes"])
        elif entry.get("same_as") in known:
            known[name] = known[entry["same_as"]]
    clients: dict[int, Client] = {}
    made = 0
    for step in script["steps"]:
        if step["party"] == "server" or step["does"] in ("save", "restore"):
            continue
        me = int(step["party"].removeprefix("client "))
        client = clients.setdefault(me, Client(script, me))
        if step["does"] == "rebind":
            client.bind(script["public"])
            continue
        if "agrees" in step:
            client.bind(step["agrees"]["public"])
        given: list[Any] = [known[name] for name in step.get("receives", [])]
        if step["does"] == "on_boxes":
            given.append(inputs_of(script, me))
        sent = getattr(client, step["does"])(*given)
        for name, data in zip(
            step["sends"], [sent] if isinstance(sent, bytes) else sent, strict=True
        ):
            if name in known:
                assert data == known[name], name
            else:
                assert sha(data).hex() == listed[name]["sha256"], name
                known[name] = data
            made += 1
    assert made >= 3 * len(clients)
    survivors, total = unmask(script, known)
    assert survivors == script["sum"]["survivors"]
    if "words" in script["sum"]:
        assert [f"{word:016x}" for word in total] == script["sum"]["words"]
    else:
        travelling = b"".join(word.to_bytes(8, "little") for word in total)
        assert sha(travelling).hex() == script["sum"]["sha256"]
    plain = [inputs_of(script, client) for client in survivors]
    assert total == [sum(column) % 2**64 for column in zip(*plain, strict=True)]


def counted(party: str, size: int) -> bytes:
    """Bytes of the counting entropy."""
    blocks = (sha(f"secagg vector {party} {block}".encode()) for block in range(-(-size // 32)))
    return b"".join(blocks)[:size]


def of_picks() -> dict[str, Any]:
    """``picks.json`` with what it leaves out, which is counted."""
    script: dict[str, Any] = json.loads((FOLDER / "picks.json").read_text())
    clients = range(script["clients"])
    secrets = {c: counted(f"identity {c}", 32) for c in clients}
    keys = {c: Ed25519PrivateKey.from_private_bytes(secret) for c, secret in secrets.items()}
    script["identities"] = {
        str(c): {"secret": secret.hex(), "public": keys[c].public_key().public_bytes_raw().hex()}
        for c, secret in secrets.items()
    }
    script["entropy"] = {f"client {c}": counted(f"client {c}", 96).hex() for c in clients}
    return script


def in_eights(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 8)]


@pytest.mark.slow
def test_the_page_is_enough_for_a_round_of_picks() -> None:
    script = of_picks()
    common = Common(script)
    inputs = {c: in_eights(counted(f"input {c}", 8 * common.words)) for c in range(200)}
    clients = {c: Client(script, c) for c in range(200)}
    sent: dict[str, dict[int, list[bytes]]] = {}

    def stage(kind: str, messages: dict[int, bytes], does: str, *more: Any) -> None:
        found = sent[kind] = {}
        for c, message in messages.items():
            if script["lost"].get(str(c)) != f"before {kind}":
                given = [message, *(each[c] for each in more)]
                answer = getattr(clients[c], does)(*given)
                found[c] = [answer] if isinstance(answer, bytes) else list(answer)

    def bodies(kind: str, part: int = 0) -> Row:
        return {c: parts[part][26:-16] for c, parts in sent[kind].items()}

    def tell(kind: str, messages: dict[int, bytes]) -> dict[int, bytes]:
        sent[kind] = {c: [message] for c, message in messages.items()}
        return messages

    sent["advertise"] = {c: [client.join()] for c, client in clients.items()}
    keys = bodies("advertise")
    members, digest = sorted(keys), sha(joined(keys)[4:])
    common.context = sha(VERSION + common.agreement + digest)
    roster = common.head(2) + common.tag + u32(len(members)) + digest + joined(keys)
    stage("shares", tell("roster", dict.fromkeys(members, roster)), "on_roster")
    boxes = {c: entries(body[8:], 92) for c, body in bodies("shares").items()}
    sharers = written(boxes, members)
    passed = {c: {s: boxes[s][c] for s in boxes if c in boxes[s]} for c in boxes}
    told = {c: common.head(4) + u32(c) + joined(passed[c]) + sharers for c in boxes}
    stage("frames", tell("boxes", told), "on_boxes", inputs)
    marks = bodies("frames", 1)
    included = {c: subset(mark, members) for c, mark in marks.items()}
    for c, mark in marks.items():
        whole = opaque(common.label(b"included", u32(c))) + mark[:-64]
        common.identities[c].verify(mark[-64:], whole)
    alive = written(marks, members)
    told = {
        c: common.head(6) + alive + joined({p: marks[p] for p in included[c] & marks.keys()})
        for c in marks
    }
    stage("signed", tell("survivors", told), "sign_survivors")
    signed = bodies("signed")
    enough = {c: signed[c] for c in sorted(signed)[: common.quorum]}
    told = dict.fromkeys(signed, common.head(9) + joined(enough))
    stage("reveals", tell("signatures", told), "on_signatures")
    answers = {c: entries(body, 32) for c, body in bodies("reveals").items()}

    total = [0] * (common.words + 1)
    for body in bodies("frames").values():
        total = [(t + word) % 2**64 for t, word in zip(total, words_of(body[4:]), strict=True)]
    for c in boxes:
        holders = enumerate(sorted(boxes[c]), 1)
        shares = {x: answers[h][c] for x, h in holders if c in answers.get(h, ())}
        secret = combine(dict(list(shares.items())[: common.threshold]))
        if c in marks:
            total = common.apply(total, -1, secret, common.label(b"self", u32(c)))
            continue
        assert public(secret) == keys[c][:32]
        for peer in (p for p in marks if c in included[p]):
            label = common.pair(c, peer)
            seed = agree(secret, keys[peer][:32], label)
            total = common.apply(total, -1 if c < peer else 1, seed, label)
    assert total.pop() == len(marks)
    hashes = {
        kind: sha(b"".join(b"".join(parts[c]) for c in sorted(parts))).hex()
        for kind, parts in sent.items()
    }
    assert hashes == script["messages"]
    assert sorted(marks) == script["sum"]["survivors"]
    assert [f"{word:016x}" for word in total] == script["sum"]["words"]
