"""A round in which 200 clients pick their holders, in a small file: seeds, and hashes of messages.

Everything follows from the counting entropy, so that the file holds no message. Beside the round
stand cases: one message of it changed at one place, for one party, and the layer that refuses it.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from script import ABOUT, PUBLIC, SESSION, Counting, layers, turned

from protocols.bonawitz import Agreement, CollectKeys, Params, Rates, join, restore
from protocols.bonawitz.graph import pick
from protocols.bonawitz.messages import (
    Mark,
    PublicKeys,
    Roster,
    SealedShares,
    ShareBoxes,
    Signatures,
    SignedSet,
    Survivors,
)
from protocols.errors import ProtocolError
from protocols.primitives.prg import from_seed
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.wire import read_subset, with_checksum, without_checksum, write_subset

CLIENTS, WORDS = range(200), 3
AGREEMENT = Agreement(
    params=Params(
        clients=200,
        rates=Rates(corrupt_fraction="1/20", dropout="1/10"),
        words=WORDS,
        active=True,
    ),
    session=SESSION,
    round=1,
    public_digest=PUBLIC,
)
HEADER = AGREEMENT.header
LOST = {17: "shares", 42: "frames", 99: "signed", 150: "reveals"}
SENT = ("advertise", "shares", "frames", "signed", "reveals")  # by clients
GOT = ("roster", "boxes", "survivors", "signatures")  # by clients, each before the next above
DOES = dict(zip(GOT, ("on_roster", "on_boxes", "sign_survivors", "on_signatures"), strict=True))
Parts = dict[int, list[bytes]]


def input_of(client: int) -> NDArray[np.uint64]:
    return np.frombuffer(Counting(f"input {client}")(8 * WORDS), ">u8").astype(np.uint64)


class Round:
    """An honest round; who is lost says nothing from then on."""

    def __init__(self) -> None:
        self._identify()
        self.messages: dict[str, Parts] = {"advertise": {}}
        self.records: dict[str, dict[int, Secret]] = {}
        states: dict[int, Any] = {}
        for c in CLIENTS:
            message, states[c] = join(
                AGREEMENT,
                c,
                Counting(f"client {c}"),
                identity=self.identity[c],
                identities=self.identities,
            )
            self.messages["advertise"][c] = [message]
        server: Any = self.server("advertise")
        for sent, got, answered in zip(SENT, GOT, SENT[1:], strict=False):
            out, server = self.closed(server, self.messages[sent])
            self.messages[got] = {c: [message] for c, message in out.items()}
            self.messages[answered], self.records[got] = {}, {}
            for c, message in out.items():
                self.records[got][c] = states[c].into_record()
                state = restore(self.records[got][c], burn=free)
                if LOST.get(c) != answered:
                    self.messages[answered][c], states[c] = answer(state, got, message, c)
        self.sum = self.closed(server, self.messages["reveals"])

    @classmethod
    def again(cls, messages: dict[str, Parts], records: dict[str, dict[int, bytes]]) -> "Round":
        """A round that was played before, from its bytes."""
        made = cls.__new__(cls)
        made._identify()
        made.messages = messages
        made.records = {
            kind: {client: Secret(record) for client, record in found.items()}
            for kind, found in records.items()
        }
        return made

    def _identify(self) -> None:
        self.identity = {c: SigningKey(Secret(Counting(f"identity {c}")(32))) for c in CLIENTS}
        self.identities = {c: key.public for c, key in self.identity.items()}

    def server(self, awaits: str) -> Any:
        """The server that awaits these messages and has heard nobody yet."""
        server: Any = CollectKeys(AGREEMENT, self.identities)
        for sent in SENT[: SENT.index(awaits)]:
            _, server = self.closed(server, self.messages[sent])
        return server

    @staticmethod
    def closed(server: Any, heard: Parts) -> Any:
        for parts in heard.values():
            hear(server, parts)
        return server.close_to_sign() if hasattr(server, "close_to_sign") else server.close()


def free(*_: Any) -> bool:
    return True


def hear(server: Any, parts: list[bytes]) -> None:
    server.receive(parts if hasattr(server, "close_to_sign") else parts[0])


def answer(state: Any, got: str, message: bytes, client: int) -> tuple[list[bytes], Any]:
    """What a client sends, and what it becomes."""
    if got == "boxes":
        frames, after = state.on_boxes(message, input_of(client))
        return list(frames), after
    found = getattr(state, DOES[got])(message)
    return ([found], None) if isinstance(found, bytes) else ([found[0]], found[1])


@cache
def round_of_200() -> Round:
    return Round()


def joined(parts: Parts) -> str:
    """SHA-256 of all messages of a kind, by ascending client."""
    return hashlib.sha256(b"".join(b"".join(parts[c]) for c in sorted(parts))).hexdigest()


# One message changed


def splice(old: bytes, new: bytes) -> dict[str, Any]:
    """Where ``new`` differs from ``old``: at a place, so many bytes are these instead."""
    at = next(
        (i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b),
        min(len(old), len(new)),
    )
    tail = 0
    while tail < min(len(old), len(new)) - at and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return {"at": at, "cut": len(old) - at - tail, "bytes": new[at : len(new) - tail].hex()}


TAKEN = (  # cases that nobody refuses
    "a mark that leaves out a peer: that one is dropped",
    "a mark that leaves out two: its client is dropped",
)
Case = tuple[str, str, str, int, int | None, Callable[[bytes], bytes]]


def cases(played: Round) -> Iterator[Case]:
    """Rule, what is shown, kind, whose, which part of it or all, and how that is changed."""
    boxes, survivors = "boxes", "survivors"
    picked = {
        c: frozenset(SealedShares.from_bytes(p[0], expect=HEADER).boxes)
        for c, p in played.messages["shares"].items()
    }
    me = next(c for c in sorted(picked) if 17 in picked[c] and c not in LOST)

    def of_boxes(change: Callable[[ShareBoxes], ShareBoxes]) -> Callable[[bytes], bytes]:
        def changed(data: bytes) -> bytes:
            return change(ShareBoxes.from_bytes(data, expect=HEADER, size=200)).to_bytes()

        return changed

    def shared(left_out: set[int]) -> Callable[[bytes], bytes]:
        def change(message: ShareBoxes) -> ShareBoxes:
            named = read_subset(message.shared, CLIENTS) - left_out
            return replace(message, shared=write_subset(named, CLIENTS))

        return of_boxes(change)

    def of_survivors(change: Callable[[Survivors], Survivors]) -> Callable[[bytes], bytes]:
        def changed(data: bytes) -> bytes:
            found = Survivors.from_bytes(data, expect=HEADER, members=CLIENTS, marked=True)
            return change(found).to_bytes()

        return changed

    def alive(out: set[int], more: frozenset[int] = frozenset()) -> Callable[[bytes], bytes]:
        return of_survivors(lambda m: replace(m, alive=m.alive - out | more))

    peer = min(picked[me] - LOST.keys())

    def mark(change: Callable[[SignedSet], SignedSet | None]) -> Callable[[bytes], bytes]:
        def changed(message: Survivors) -> Survivors:
            marks = dict(message.marks or {})
            new = change(marks.pop(peer))
            return replace(message, marks=marks | ({peer: new} if new else {}))

        return of_survivors(changed)

    def signed(client: int, named: set[int]) -> SignedSet:
        roster = Roster.from_bytes(played.messages["roster"][0][0], expect=HEADER, signed=True)
        label = AGREEMENT.context(roster.digest()).included(client)
        data = write_subset(named, CLIENTS)
        return SignedSet(included=data, signature=played.identity[client].sign(label, data))

    def without_me(old: SignedSet) -> SignedSet:
        return signed(peer, set(read_subset(old.included, CLIENTS)) - {me})

    def least(data: bytes, client: int) -> dict[int, bytes]:
        found = Signatures.from_bytes(data, expect=HEADER).signatures
        others = [c for c in found if c != client]
        quorum = AGREEMENT.params.plan(200).quorum
        return {c: found[c] for c in others[: quorum - 2]}

    senders = ShareBoxes.from_bytes(played.messages[boxes][me][0], expect=HEADER, size=200).boxes
    yield "R36", "it has not shared, it is said", boxes, me, 0, shared({me})
    yield "R36", "one whose box is here has not shared", boxes, me, 0, shared({min(senders)})
    yield (
        "R32",
        "fewer than needed have shared",
        boxes,
        me,
        0,
        shared(set(CLIENTS) - senders.keys() - {me}),
    )
    yield (
        "R7",
        "a set that names nobody, as a bitmap",
        boxes,
        me,
        0,
        (lambda data: data[:-26] + bytes(26)),
    )
    yield "R4", "no set of who shared", boxes, me, 0, lambda data: data[:-26]
    yield "R42", "it is not named", survivors, me, 0, alive({me})
    yield "R43", "fewer than needed are named", survivors, me, 0, alive(set(range(100)) - {me})
    yield (
        "R44",
        "a pick is named that has not shared",
        survivors,
        me,
        0,
        (alive(set(), frozenset({17}))),
    )
    yield "R51", "a mark is missing", survivors, me, 0, mark(lambda _: None)
    yield "R51", "a mark leaves it out, signed so", survivors, me, 0, mark(without_me)
    yield (
        "R51",
        "a mark with another signature",
        survivors,
        me,
        0,
        (mark(lambda old: replace(old, signature=turned(old.signature, 0)))),
    )
    yield (
        "R51",
        "a mark of another client",
        survivors,
        me,
        0,
        (mark(lambda _: signed(me, set(CLIENTS) - {peer}))),
    )
    yield (
        "R52",
        "a signature fewer than the quorum",
        "signatures",
        me,
        0,
        lambda data: Signatures(header=HEADER, signatures=least(data, me)).to_bytes(),
    )

    def body(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        return lambda data: with_checksum(change(bytes(without_checksum(data))))

    def of_shares(
        change: Callable[[dict[int, bytes]], dict[int, bytes]],
    ) -> Callable[[bytes], bytes]:
        def changed(data: bytes) -> bytes:
            found = SealedShares.from_bytes(data, expect=HEADER)
            return replace(found, boxes=change(dict(found.boxes))).to_bytes()

        return changed

    def for_itself(found: dict[int, bytes]) -> dict[int, bytes]:
        first = min(found)
        return {5: found.pop(first)} | found

    yield (
        "R28",
        "a box fewer than it picks",
        "shares",
        5,
        0,
        (of_shares(lambda found: {c: found[c] for c in sorted(found)[1:]})),
    )
    yield "R28", "a box for itself", "shares", 5, 0, of_shares(for_itself)
    near = picked[5] | {c for c in picked if 5 in picked[c]}
    stranger = min(set(picked) - near - {5})

    def marked(client: int, mark: SignedSet) -> Callable[[bytes], bytes]:
        return lambda _: Mark(header=HEADER, sender=client, mark=mark).to_bytes()

    yield (
        "R37",
        "the mark of another client",
        "frames",
        5,
        1,
        (lambda _: played.messages["frames"][6][1]),
    )
    yield (
        "R40",
        "a mark with another signature",
        "frames",
        5,
        1,
        (body(lambda data: turned(data, -1))),
    )
    yield "R40", "a mark of one that is no peer", "frames", 5, 1, marked(5, signed(5, {stranger}))
    number = body(lambda data: data[:22] + bytes([0, 0, 0, 200]) + data[26:])
    yield "R39", "a vector and a mark of who is not in the roster", "frames", 5, None, number

    def leaves_out(count: int) -> Callable[[bytes], bytes]:
        """The mark of client 199 without the peers with the lowest numbers."""
        whole = Mark.from_bytes(played.messages["frames"][199][1], expect=HEADER, size=200).mark
        named = sorted(read_subset(whole.included, CLIENTS) - LOST.keys())
        left = read_subset(whole.included, CLIENTS) - set(named[:count])
        return marked(199, signed(199, left))

    for count, shows in enumerate(TAKEN, 1):
        yield "R40", shows, "frames", 199, 1, leaves_out(count)
    low = "a sealing key of low order, of one that is no pick"
    yield "R24", low, "roster", me, 0, weak_stranger(played, me)
    yield "R54", "another signature", "signed", 5, 0, body(lambda data: turned(data, -1))


def weak_stranger(played: Round, me: int) -> Callable[[bytes], bytes]:
    """A roster in which one whom ``me`` does not pick has signed a sealing key of low order."""

    def changed(data: bytes) -> bytes:
        roster = Roster.from_bytes(data, expect=HEADER, signed=True)
        for weak in CLIENTS:
            mask, seal = roster.entries[weak].mask, b"\1" + bytes(31)
            label = AGREEMENT.advertised_by()(weak)
            signature = played.identity[weak].sign(label, mask + seal)
            keys = PublicKeys(mask=mask, seal=seal, signature=signature)
            found = replace(roster, entries=roster.entries | {weak: keys})
            # The picks follow from the roster, this change included.
            draw_of_me = Counting(f"client {me}")(96)[64:]
            label = AGREEMENT.context(found.digest()).draw(me)
            drawn = from_seed(Secret(draw_of_me), label)
            drawn(32)  # the seed of the self-mask comes first
            degree = AGREEMENT.params.plan(200).degree or 0
            if weak not in {me, *pick(set(CLIENTS) - {me}, degree, drawn)}:
                return found.to_bytes()
        raise ValueError("all are picked")

    return changed


def picks() -> dict[str, Any]:
    """The file ``picks.json``."""
    played = round_of_200()
    plan, params = AGREEMENT.params.plan(200), AGREEMENT.params
    roster = played.messages["roster"][0][0]
    found = []
    for rule, shows, kind, client, part, change in cases(played):
        old = played.messages[kind][client]
        parts = [change(data) if part in (None, at) else data for at, data in enumerate(old)]
        bare = without_checksum if kind in SENT else bytes
        splices = [
            splice(bytes(bare(before)), bytes(bare(after)))
            for before, after in zip(old, parts, strict=True)
            if before != after
        ]
        if any(each != splices[0] for each in splices):
            raise ValueError(f"{shows}: the parts are changed in several ways")
        case = {"rule": rule, "shows": shows, "message": f"{kind} {client}", "part": part}
        case |= splices[0]
        try:
            case |= {"error": None, "closes": heard(played, kind, client, parts)}
        except ProtocolError:
            case |= {"error": layers()[rule]}
        if (case["error"] is None) is not (shows in TAKEN):
            raise ValueError(f"{shows}: {case['error']}")
        found.append(case)
    return {
        "about": ABOUT,
        "shows": "200 clients pick their holders; a client is lost at every stage.",
        "params": {
            "clients": params.clients,
            "threshold": None,
            "rates": {"corrupt": "1/20", "dropout": "1/10"},
            "minimum_survivors": params.minimum_survivors,
            "words": params.words,
            "suite": int(params.suite),
            "active": params.active,
            "corrupt": None,
        },
        "session": SESSION.hex(),
        "round": 1,
        "public": PUBLIC.hex(),
        "agreement": AGREEMENT.to_bytes().hex(),
        "clients": 200,
        "plan": {"degree": plan.degree, "threshold": plan.threshold, "quorum": plan.quorum},
        "context": AGREEMENT.context(roster[34:66]).digest.hex(),
        "lost": {str(client): f"before {kind}" for client, kind in LOST.items()},
        "messages": {kind: joined(parts) for kind, parts in played.messages.items()},
        "first": {
            kind: [hashlib.sha256(part).hexdigest() for part in parts[0]]
            for kind, parts in played.messages.items()
        },
        "sum": {
            "survivors": list(played.sum.survivors),
            "words": [f"{int(word):016x}" for word in played.sum.words],
        },
        "cases": found,
    }


def heard(played: Round, kind: str, client: int, parts: list[bytes]) -> str:
    """What comes of ``parts`` in place of a message of the round.

    Returns:
      the hash of what a server sends that has then heard all others of the kind.

    Raises:
      ProtocolError: the party refuses it.
    """
    if kind not in SENT:
        answer(restore(played.records[kind][client], burn=free), kind, parts[0], client)
        raise ValueError(f"{kind} {client} was taken")
    server = played.server(kind)
    hear(server, parts)
    others = {c: sent for c, sent in played.messages[kind].items() if c != client}
    out, _ = played.closed(server, others)
    return joined({c: [message] for c, message in out.items()})
