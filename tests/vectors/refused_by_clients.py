"""Rounds in which client 0 is shown something that it refuses.

Whatever is changed on its way keeps to the encoding, unless the encoding is the point.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from script import Script, script, turned

from protocols.bonawitz import Rates
from protocols.bonawitz.messages import (
    PublicKeys,
    Roster,
    SealedShares,
    ShareBoxes,
    Signatures,
    SignedSurvivors,
    Survivors,
)
from protocols.bonawitz.params import UNKNOWN
from protocols.errors import DecodeError, InputError, LocalProtocolError, RemoteProtocolError
from protocols.wire import Header

ANOTHER_ROUND = (DecodeError, "message of another session or round")
CLOSED_BOX = (RemoteProtocolError, "a box does not open")
TWO_OF_THREE = (
    RemoteProtocolError,
    "2 clients have signed the survivors that we signed, 3 needed",
)
SPARSE = Rates(corrupt_fraction="0", dropout="0.3")  # of 8: degree 4, threshold 2


# The roster.


def entries_of(run: Script) -> dict[int, PublicKeys]:
    return roster_of(run).entries


def roster_of(run: Script) -> Roster:
    return Roster.from_bytes(
        run.bytes["roster 0"], expect=run.header, signed=run.agreement.params.active
    )


def refuse_roster(run: Script, change: str, client: int, keys: PublicKeys, says: str) -> None:
    """Client 0 is shown other keys of one client."""
    roster = replace(roster_of(run), entries=entries_of(run) | {client: keys})
    fails = (RemoteProtocolError, says)
    run.client_refuses("on_roster", "roster 0", change, roster.to_bytes(), fails)


@script("A roster of another session.", rule="R2", after="keys")
def refuses_another_session(run: Script) -> None:
    data = turned(run.bytes["roster 0"], 2)
    change = "lowest bit of the session's first byte"
    run.client_refuses("on_roster", "roster 0", change, data, ANOTHER_ROUND)


@script("The server puts a key of its own in place of the client's.", rule="R17", after="keys")
def refuses_own_key_changed(run: Script) -> None:
    keys = PublicKeys(mask=b"\x09" + bytes(31), seal=entries_of(run)[0].seal)
    says = "the roster lacks our keys, or shows others"
    refuse_roster(run, "another mask key of client 0", 0, keys, says)


@script("A mask key of low order: its masks would be known to everybody.", rule="R24", after="keys")
def refuses_low_order_key(run: Script) -> None:
    keys = PublicKeys(mask=bytes(32), seal=entries_of(run)[1].seal)
    says = "is a point of low order"
    refuse_roster(run, "the mask key of client 1 is zero", 1, keys, says)


@script(
    "A sealing key of low order: its boxes could be opened by everybody.", rule="R24", after="keys"
)
def refuses_low_order_sealing_key(run: Script) -> None:
    keys = PublicKeys(mask=entries_of(run)[1].mask, seal=b"\x01" + bytes(31))
    says = "is a point of low order"
    refuse_roster(run, "the sealing key of client 1 is one", 1, keys, says)


@script("Two clients with one mask key.", rule="R23", after="keys")
def refuses_one_key_twice(run: Script) -> None:
    entries = entries_of(run)
    keys = PublicKeys(mask=entries[2].mask, seal=entries[1].seal)
    says = "one key stands twice in the roster"
    refuse_roster(run, "client 1 has the mask key of client 2", 1, keys, says)


@script(
    "A client that stands in the roster twice: one holder, two share numbers.",
    rule="R6",
    after="keys",
)
def refuses_client_listed_twice(run: Script) -> None:
    data = run.bytes["roster 0"]
    head, entry = 2 + 20 + 8 + 4 + 32 + 4, 4 + 64
    data = data[: head + entry] + data[head : head + entry] + data[head + 2 * entry :]
    fails = (DecodeError, "client 0 listed after 0: twice, or out of order")
    run.client_refuses("on_roster", "roster 0", "client 0 in place of client 1 too", data, fails)


@script("A whole roster whose hash is not that of its entries.", rule="R16", after="keys")
def refuses_roster_of_another_hash(run: Script) -> None:
    data = turned(run.bytes["roster 0"], 34)
    fails = (DecodeError, "a roster of 3 clients has another size or hash")
    change = "lowest bit of the digest's first byte"
    run.client_refuses("on_roster", "roster 0", change, data, fails)


@script("A part of the roster in a round without a sparse graph.", rule="R20", after="keys")
def refuses_part_of_a_roster(run: Script) -> None:
    roster = roster_of(run)
    entries = {client: roster.entries[client] for client in (0, 1)}
    part_of = (roster.size, roster.digest())
    data = replace(roster, entries=entries, part_of=part_of).to_bytes()
    fails = (RemoteProtocolError, "2 of 3 clients in the roster")
    run.client_refuses("on_roster", "roster 0", "client 2 left out", data, fails)


@script(
    "Half of the clients could rebuild one secret, the other half another.", rule="R21", clients=4
)
def refuses_threshold_no_majority(run: Script) -> None:
    run.keys()
    fails = (RemoteProtocolError, "threshold 2 is no majority of 4 share holders")
    run.act("client 0", "on_roster", ["roster 0"], fails=fails)


@script(
    "The server puts a key of its own in place of a peer's.",
    rule="R25",
    after="keys",
    clients=4,
    threshold=3,
    active=True,
)
def refuses_unsigned_keys(run: Script) -> None:
    other = entries_of(run)[2]
    keys = PublicKeys(mask=turned(other.mask, 0), seal=other.seal, signature=other.signature)
    says = "the keys of client 2 are not signed by its identity"
    refuse_roster(run, "another mask key of client 2", 2, keys, says)


@script("Sparse graph: one neighbour fewer than planned.", rule="R22", clients=8, rates=SPARSE)
def refuses_neighbour_list_of_wrong_size(run: Script) -> None:
    run.keys()
    roster = roster_of(run)
    last = max(roster.entries)
    entries = {client: keys for client, keys in roster.entries.items() if client != last}
    data = replace(roster, entries=entries).to_bytes()
    fails = (RemoteProtocolError, "3 neighbours in the roster, 4 are planned for 8 clients")
    run.client_refuses("on_roster", "roster 0", f"client {last} left out", data, fails)


# The boxes.


def boxes_of(run: Script) -> dict[int, bytes]:
    return ShareBoxes.from_bytes(run.bytes["boxes 0"], expect=run.header).boxes


def refuse_boxes(
    run: Script,
    change: str,
    boxes: dict[int, bytes],
    fails: tuple[type[RemoteProtocolError], str] = CLOSED_BOX,
) -> None:
    """Client 0 is passed these boxes."""
    data = ShareBoxes(header=run.header, recipient=0, boxes=boxes).to_bytes()
    run.client_refuses("on_boxes", "boxes 0", change, data, fails)


@script("A roster arrives where boxes are awaited.", rule="R3", after="shares")
def refuses_another_type(run: Script) -> None:
    fails = (DecodeError, "message type 0x02, expected 0x04")
    run.act("client 0", "on_boxes", ["roster 0"], fails=fails)


@script(
    "A box sealed with the same keys in the next round.",
    rule="R33",
    after="shares",
    minimum_survivors=3,
)
def refuses_box_of_another_round(run: Script) -> None:
    later = Script("", run.agreement.params, run.clients, round_number=2)
    later.keys()
    later.shares()
    boxes = boxes_of(run) | {1: boxes_of(later)[1]}
    refuse_boxes(run, "the box of client 1 is one of round 2", boxes)


@script("The boxes of two senders, exchanged.", rule="R33", after="shares", minimum_survivors=3)
def refuses_box_of_another_sender(run: Script) -> None:
    boxes = boxes_of(run)
    refuse_boxes(run, "the boxes of clients 1 and 2 are exchanged", {1: boxes[2], 2: boxes[1]})


@script(
    "One bit of a box flips, and all boxes are needed.",
    rule="R33",
    after="shares",
    minimum_survivors=3,
)
def refuses_box_changed(run: Script) -> None:
    boxes = boxes_of(run)
    refuse_boxes(run, "lowest bit of the box of client 1", boxes | {1: turned(boxes[1], -1)})


@script("A box of a client that is not in the roster.", rule="R31", after="shares")
def refuses_box_of_a_stranger(run: Script) -> None:
    boxes = boxes_of(run)
    fails = (RemoteProtocolError, "boxes of clients not in the roster: [9]")
    refuse_boxes(run, "one more, of client 9", boxes | {9: boxes[1]}, fails)


@script("Boxes meant for somebody else.", rule="R30", after="shares")
def refuses_boxes_of_another(run: Script) -> None:
    fails = (RemoteProtocolError, "boxes for client 1, we are 0")
    run.act("client 0", "on_boxes", ["boxes 1"], fails=fails)


OTHER_MODEL = {2: hashlib.sha256(b"another model").digest()}


@script(
    "One client was told of another model than the server.",
    rule="R15",
    after="keys",
    told=OTHER_MODEL,
)
def refuses_another_public_input(run: Script) -> None:
    fails = (RemoteProtocolError, "the server agrees to something else")
    run.act("client 2", "on_roster", ["roster 2"], fails=fails)


@script(
    "As before, and the server says that it agrees: no box opens.", rule="R33", told=OTHER_MODEL
)
def refuses_boxes_of_another_public_input(run: Script) -> None:
    run.keys()
    for client in run.clients:
        roster, shares = f"roster {client}", f"shares {client}"
        if client in OTHER_MODEL:
            told = replace(roster_of(run), agreement=run.told_agreement(client).tag).to_bytes()
            roster = run.change(roster, "what client 2 agrees to", told)
        run.act(f"client {client}", "on_roster", [roster])
        if client in OTHER_MODEL:
            sealed = SealedShares.from_bytes(run.bytes[shares], expect=run.header)
            told = replace(sealed, agreement=run.agreement.tag).to_bytes()
            shares = run.change(shares, "what the server agrees to", told)
        run.act("server", "receive", [shares])
    run.act("server", "close")
    run.act("client 2", "on_boxes", ["boxes 2"], fails=CLOSED_BOX)


@script("Too few clients have shared.", rule="R32", after="shares", clients=5, threshold=3)
def refuses_too_few_boxes(run: Script) -> None:
    fails = (RemoteProtocolError, "2 clients have shared, 3 needed")
    refuse_boxes(run, "the boxes of clients 2, 3, 4 left out", {1: boxes_of(run)[1]}, fails)


@script(
    "Sparse graph: fewer boxes than the threshold.",
    rule="R35",
    after="shares",
    clients=8,
    rates=SPARSE,
)
def refuses_too_few_neighbours_shared(run: Script) -> None:
    first, *_ = sorted(boxes_of(run).items())
    fails = (RemoteProtocolError, "1 neighbours have shared, 2 needed")
    refuse_boxes(run, "all boxes but the first left out", dict([first]), fails)


# The survivors.


def survivors_of(run: Script, alive: Iterable[int]) -> Survivors:
    """What client 0 is told, were these alive."""
    shown = sorted(entries_of(run))
    whole = len(shown) == roster_of(run).size
    named = frozenset(alive)
    return Survivors(
        header=run.header,
        alive=named & frozenset(shown),
        members=shown,
        unseen=None if whole else len(named - frozenset(shown)),
    )


def refuse_survivors(run: Script, change: str, alive: Iterable[int], says: str) -> None:
    """Client 0 is told that these are alive."""
    data = survivors_of(run, alive).to_bytes()
    does = "sign_survivors" if run.identity else "on_survivors"
    run.client_refuses(does, "survivors 0", change, data, (RemoteProtocolError, says))


@script("The survivors of another round.", rule="R2", after="vectors")
def refuses_another_round(run: Script) -> None:
    data = turned(run.bytes["survivors 0"], 21)
    change = "round 0 in place of 1"
    run.client_refuses("on_survivors", "survivors 0", change, data, ANOTHER_ROUND)


@script("Survivors, of whom one has no place in the roster.", rule="R7", after="vectors")
def refuses_survivors_beyond_the_roster(run: Script) -> None:
    data = run.bytes["survivors 0"]
    data = data[:-1] + bytes([data[-1] | 0b0001_0000])
    fails = (DecodeError, "names more clients than the 3 of the roster")
    run.client_refuses("on_survivors", "survivors 0", "a fourth place is set", data, fails)


@script("A survivor that never shared.", rule="R44", clients=4, threshold=3)
def refuses_stranger_among_survivors(run: Script) -> None:
    run.keys()
    run.shares(3)
    run.vectors()
    says = "named as alive, never shared: [3]"
    refuse_survivors(run, "client 3 added", [0, 1, 2, 3], says)


@script(
    "The client's vector was sent, and it is not among the survivors.", rule="R42", after="vectors"
)
def refuses_to_be_named_as_gone(run: Script) -> None:
    refuse_survivors(run, "client 0 left out", [1, 2], "we are named as gone")


@script(
    "Fewer survivors than the client agreed to be hidden among.",
    rule="R43",
    after="vectors",
    minimum_survivors=3,
)
def refuses_sum_of_too_few(run: Script) -> None:
    refuse_survivors(run, "client 2 left out", [0, 1], "2 alive, at least 3 needed")


@script(
    "Sparse graph: too few neighbours alive.", rule="R45", after="vectors", clients=8, rates=SPARSE
)
def refuses_too_few_neighbours_alive(run: Script) -> None:
    _, *others = sorted(entries_of(run).keys() - {0})
    alive = set(run.clients) - set(others)
    change = f"clients {others} left out"
    refuse_survivors(run, change, alive, "1 neighbours alive, 2 needed")


@script(
    "Sparse graph: a neighbour whose box was kept back is named as alive.",
    rule="R44",
    clients=8,
    rates=SPARSE,
)
def refuses_survivor_that_never_shared(run: Script) -> None:
    run.keys()
    run.shares()
    first, *others = sorted(boxes_of(run).items())
    data = ShareBoxes(header=run.header, recipient=0, boxes=dict(others)).to_bytes()
    change = f"the box of client {first[0]} left out"
    sent = run.act("client 0", "on_boxes", [run.change("boxes 0", change, data)])
    run.act("server", "receive", sent)
    for client in run.clients[1:]:
        sent = run.act(f"client {client}", "on_boxes", [f"boxes {client}"])
        run.act("server", "receive", sent)
    run.act("server", "close")
    fails = (RemoteProtocolError, f"named as alive, never shared: [{first[0]}]")
    run.act("client 0", "on_survivors", ["survivors 0"], fails=fails)


@script("A client restored from an old copy is asked for another set.", rule="R56", after="vectors")
def refuses_second_answer(run: Script) -> None:
    (record,) = run.act("client 0", "save")
    run.act("client 0", "restore", [record])
    run.act("client 0", "on_survivors", ["survivors 0"])
    run.act("client 0", "restore", [record])
    says = "stage 3 of client 0 was answered for another request"
    refuse_survivors(run, "client 2 left out", [0, 1], says)
    run.act("client 0", "restore", [record])
    run.act("client 0", "on_survivors", ["survivors 0"])


@script("A client is asked again, with no record between.", rule="R46", after="vectors")
def refuses_used_state(run: Script) -> None:
    run.act("client 0", "on_survivors", ["survivors 0"])
    fails = (LocalProtocolError, "this stage was already answered")
    run.act("client 0", "on_survivors", ["survivors 0"], fails=fails)


# The signatures.


@script(
    "Two of four clients were shown, and signed, other survivors than client 0.",
    rule="R52",
    after="vectors",
    clients=4,
    threshold=3,
    active=True,
)
def refuses_signatures_of_another_set(run: Script) -> None:
    lie = survivors_of(run, {0, 1, 2}).to_bytes()
    other = run.change("survivors 0", "client 3 left out", lie)
    for client, named in ((0, "survivors 0"), (1, other), (2, other), (3, "survivors 3")):
        run.act("server", "receive", run.act(f"client {client}", "sign_survivors", [named]))
    run.act("server", "close")
    run.act("client 0", "on_signatures", ["signatures 0"], fails=TWO_OF_THREE)


@script(
    "One peer's signature under the names of two.",
    rule="R52",
    after="signed",
    clients=4,
    threshold=3,
    active=True,
)
def refuses_signature_twice(run: Script) -> None:
    signed = SignedSurvivors.from_bytes(run.bytes["signed 1"], expect=run.header).signature
    data = Signatures(header=run.header, signatures={1: signed, 2: signed}).to_bytes()
    change = "the signature of client 1 as that of client 2 too, and no other"
    run.client_refuses("on_signatures", "signatures 0", change, data, TWO_OF_THREE)


@script(
    "An active server, and a driver that leaves the signatures out.",
    rule="R46",
    after="vectors",
    clients=4,
    threshold=3,
    active=True,
)
def refuses_to_reveal_unsigned(run: Script) -> None:
    fails = (LocalProtocolError, "sign the survivors before revealing")
    run.act("client 0", "on_survivors", ["survivors 0"], fails=fails)


# What only one layer catches.


@script("A roster of version 2.", rule="R1", after="keys")
def refuses_another_version(run: Script) -> None:
    data = b"\2" + run.bytes["roster 0"][1:]
    fails = (DecodeError, "the peer speaks version 2, this is version 1")
    run.client_refuses("on_roster", "roster 0", "version 2", data, fails)


@script("A roster with a byte behind its last field.", rule="R4", after="keys")
def refuses_a_longer_roster(run: Script) -> None:
    data = run.bytes["roster 0"] + b"\0"
    run.client_refuses(
        "on_roster", "roster 0", "a zero byte more", data, (DecodeError, "left over")
    )


@script("Survivors as gaps, where a bitmap is shorter.", rule="R7", after="vectors")
def refuses_a_set_in_its_longer_form(run: Script) -> None:
    data = run.bytes["survivors 0"][:22] + bytes.fromhex("0100000003000000")
    fails = (DecodeError, "no shorter than a bitmap")
    run.client_refuses("on_survivors", "survivors 0", "the same set as gaps", data, fails)


@script("Survivors in a form that is none.", rule="R7", after="vectors")
def refuses_a_set_of_another_form(run: Script) -> None:
    data = run.bytes["survivors 0"][:22] + bytes.fromhex("02e0")
    fails = (DecodeError, "a set of form 2")
    run.client_refuses("on_survivors", "survivors 0", "form 2", data, fails)


@script("Randomness that repeats itself gives two equal keys.", rule="R9")
def refuses_keys_that_are_equal(run: Script) -> None:
    source = run.entropy["client 0"]
    first = source(32)
    source.taken = first + first + first
    run.entropy["client 0"] = Repeating(first, source.taken)
    run.act("client 0", "join", fails=(InputError, "entropy gave the same bytes twice"))


class Repeating:
    """The same bytes over and over."""

    def __init__(self, each: bytes, taken: bytes) -> None:
        self._each, self.taken = each, taken

    def __call__(self, count: int) -> bytes:
        return self._each[:count]


@script(
    "The server puts a sealing key of its own in place of the client's.", rule="R17", after="keys"
)
def refuses_own_sealing_key_changed(run: Script) -> None:
    keys = PublicKeys(mask=entries_of(run)[0].mask, seal=b"\x09" + bytes(31))
    refuse_roster(run, "another sealing key of client 0", 0, keys, "the roster lacks our keys")


@script("A roster in which the client is not.", rule="R17", clients=4, threshold=3)
def refuses_a_roster_without_us(run: Script) -> None:
    run.keys()
    others = {client: keys for client, keys in entries_of(run).items() if client}
    data = replace(roster_of(run), entries=others).to_bytes()
    fails = (RemoteProtocolError, "the roster lacks our keys")
    run.client_refuses("on_roster", "roster 0", "client 0 left out", data, fails)


def resized(run: Script, size: int) -> bytes:
    """The roster with another size beside the digest of its members."""
    data = run.bytes["roster 0"]
    return data[:30] + size.to_bytes(4, "big") + data[34:]


@script("A size above the most clients; nothing is planned for it.", rule="R18", after="keys")
def refuses_more_clients_than_agreed(run: Script) -> None:
    fails = (RemoteProtocolError, "4 clients in the roster, at most 3")
    run.client_refuses("on_roster", "roster 0", "size 4", resized(run, 4), fails)


@script("More clients listed than may take part.", rule="R18", clients=4, most=3, threshold=3)
def refuses_more_members_than_agreed(run: Script) -> None:
    run.keys(3)
    stranger = PublicKeys(mask=bytes([7]) * 32, seal=bytes([11]) * 32)
    data = replace(roster_of(run), entries=entries_of(run) | {3: stranger}).to_bytes()
    fails = (RemoteProtocolError, "4 clients in the roster, at most 3")
    run.client_refuses("on_roster", "roster 0", "client 3 added", data, fails)


@script("A size below the number of those listed.", rule="R16", after="keys")
def refuses_size_below_number(run: Script) -> None:
    fails = (DecodeError, "has another size or hash")
    run.client_refuses("on_roster", "roster 0", "size 2", resized(run, 2), fails)


def fewer(run: Script, *left: int) -> bytes:
    entries = {client: keys for client, keys in entries_of(run).items() if client in left}
    return replace(roster_of(run), entries=entries).to_bytes()


@script(
    "A whole roster of fewer than the client agreed to be hidden among.",
    rule="R19",
    after="keys",
    minimum_survivors=3,
)
def refuses_size_below_minimum(run: Script) -> None:
    fails = (RemoteProtocolError, "2 clients in the roster, 3 needed")
    data = fewer(run, 0, 1)
    run.client_refuses("on_roster", "roster 0", "client 2 left out", data, fails)


@script("A whole roster of fewer than the threshold.", rule="R19", after="keys", threshold=3)
def refuses_size_below_threshold(run: Script) -> None:
    fails = (RemoteProtocolError, "2 clients in the roster, 3 needed")
    data = fewer(run, 0, 1)
    run.client_refuses("on_roster", "roster 0", "client 2 left out", data, fails)


@script(
    "Rates, active: of so few no plan keeps what was agreed.",
    rule="R19",
    after="keys",
    clients=10,
    rates=Rates(corrupt_fraction="0.3", dropout="0.2"),
    active=True,
)
def refuses_size_without_a_plan(run: Script) -> None:
    fails = (RemoteProtocolError, "no graph among the clients of the roster")
    data = fewer(run, 0, 1, 2)
    run.client_refuses("on_roster", "roster 0", "three of ten", data, fails)


@script("Some of the roster, its size, and the digest of those few.", rule="R20", after="keys")
def refuses_part_of_a_roster_with_its_digest(run: Script) -> None:
    entries = {client: keys for client, keys in entries_of(run).items() if client < 2}
    few = replace(roster_of(run), entries=entries)
    data = replace(few, part_of=(3, few.digest())).to_bytes()
    fails = (RemoteProtocolError, "2 of 3 clients in the roster")
    run.client_refuses("on_roster", "roster 0", "client 2 left out", data, fails)


@script("A client with one key for both uses.", rule="R23", after="keys")
def refuses_one_key_for_both_uses(run: Script) -> None:
    mask = entries_of(run)[1].mask
    keys = PublicKeys(mask=mask, seal=mask)
    refuse_roster(run, "client 1 seals with its mask key", 1, keys, "one key stands twice")


@script(
    "A client that nobody has an identity of.",
    rule="R25",
    after="keys",
    clients=4,
    most=5,
    threshold=4,
    active=True,
)
def refuses_member_without_identity(run: Script) -> None:
    other = entries_of(run)[2]
    keys = PublicKeys(mask=bytes([7]) * 32, seal=bytes([11]) * 32, signature=other.signature)
    refuse_roster(run, "client 9 added", 9, keys, "client 9 of the roster has no identity")


@script(
    "Sparse graph: one bit of a box flips.", rule="R34", after="shares", clients=8, rates=SPARSE
)
def refuses_box_changed_in_sparse_graph(run: Script) -> None:
    boxes = boxes_of(run)
    (first, *_) = sorted(boxes)
    fails = (RemoteProtocolError, "a box does not open")
    change = f"lowest bit of the box of client {first}"
    refuse_boxes(run, change, boxes | {first: turned(boxes[first], -1)}, fails)


@script("A box listed twice.", rule="R6", after="shares")
def refuses_box_listed_twice(run: Script) -> None:
    data = run.bytes["boxes 0"]
    data = data[:30] + 2 * data[30:126]
    fails = (DecodeError, "client 1 listed after 1")
    run.client_refuses("on_boxes", "boxes 0", "client 1 in place of client 2 too", data, fails)


@script("Fewer survivors than the threshold.", rule="R43", after="vectors", threshold=3)
def refuses_fewer_survivors_than_the_threshold(run: Script) -> None:
    refuse_survivors(run, "client 2 left out", [0, 1], "2 alive, at least 3 needed")


@script(
    "Sparse graph: more survivors than the roster has clients.",
    rule="R45",
    after="vectors",
    clients=8,
    rates=SPARSE,
)
def refuses_more_survivors_than_clients(run: Script) -> None:
    data = replace(survivors_of(run, run.clients), unseen=4).to_bytes()
    fails = (RemoteProtocolError, "9 alive, 8 clients in the roster")
    run.client_refuses("on_survivors", "survivors 0", "4 that were not shown, of 3", data, fails)


@script(
    "Sparse graph: by the server's word fewer survivors than the client wants to be among.",
    rule="R43",
    after="vectors",
    clients=8,
    rates=SPARSE,
    minimum_survivors=7,
)
def refuses_sum_of_too_few_in_sparse_graph(run: Script) -> None:
    data = replace(survivors_of(run, run.clients), unseen=1).to_bytes()
    fails = (RemoteProtocolError, "6 alive, at least 7 needed")
    run.client_refuses("on_survivors", "survivors 0", "1 that was not shown, of 3", data, fails)


def answer_twice(run: Script, stage: int, does: str, first: str, second: str) -> None:
    """Client 0 answers, and restored from an old copy is asked for another thing."""
    (record,) = run.act("client 0", "save")
    run.act("client 0", "restore", [record])
    run.act("client 0", does, [first])
    run.act("client 0", "restore", [record])
    fails = (RemoteProtocolError, f"stage {stage} of client 0 was answered for another request")
    run.act("client 0", does, [second], fails=fails)
    run.act("client 0", "restore", [record])
    run.act("client 0", does, [first])


@script(
    "A client restored from an old copy is shown another roster.",
    rule="R56",
    clients=4,
    threshold=3,
)
def refuses_second_roster(run: Script) -> None:
    run.keys()
    other = run.change("roster 0", "client 3 left out", fewer(run, 0, 1, 2))
    answer_twice(run, 1, "on_roster", "roster 0", other)


@script("A client restored from an old copy is passed other boxes.", rule="R56", clients=4)
def refuses_second_boxes(run: Script) -> None:
    run.keys(3)
    run.shares()
    few = {1: boxes_of(run)[1]}
    data = ShareBoxes(header=run.header, recipient=0, boxes=few).to_bytes()
    other = run.change("boxes 0", "the box of client 2 left out", data)
    answer_twice(run, 2, "on_boxes", "boxes 0", other)


@script(
    "A client restored from an old copy is asked to sign another set.",
    rule="R56",
    after="vectors",
    clients=4,
    threshold=3,
    active=True,
)
def refuses_second_set_to_sign(run: Script) -> None:
    other = run.change("survivors 0", "client 3 left out", survivors_of(run, {0, 1, 2}).to_bytes())
    answer_twice(run, 3, "sign_survivors", "survivors 0", other)


@script(
    "Signatures of a client that is no survivor.",
    rule="R52",
    clients=4,
    threshold=3,
    active=True,
)
def refuses_signature_of_who_is_gone(run: Script) -> None:
    run.keys()
    run.shares()
    run.vectors(3)
    run.signed()
    first = SignedSurvivors.from_bytes(run.bytes["signed 1"], expect=run.header).signature
    label = run.agreement.context(roster_of(run).digest()).survivors()
    gone = run.identity[3].sign(label, survivors_of(run, {0, 1, 2}).body())
    data = Signatures(header=run.header, signatures={1: first, 3: gone}).to_bytes()
    change = "the signature of client 3 in place of that of client 2"
    run.client_refuses("on_signatures", "signatures 0", change, data, TWO_OF_THREE)


@script(
    "A signature that is none.", rule="R52", after="signed", clients=4, threshold=3, active=True
)
def refuses_signature_that_is_none(run: Script) -> None:
    signed = Signatures.from_bytes(run.bytes["signatures 0"], expect=run.header).signatures
    few = {1: signed[1], 2: turned(signed[2], 0)}
    data = Signatures(header=run.header, signatures=few).to_bytes()
    change = "two, of which one has a bit changed"
    run.client_refuses("on_signatures", "signatures 0", change, data, TWO_OF_THREE)


@script("Boxes under the type of a roster.", rule="R3", after="shares")
def refuses_type_changed(run: Script) -> None:
    data = run.bytes["boxes 0"][:1] + b"\2" + run.bytes["boxes 0"][2:]
    fails = (DecodeError, "message type 0x02, expected 0x04")
    run.client_refuses("on_boxes", "boxes 0", "type 2 in place of 4", data, fails)


@script("Boxes of which the last is cut short; enough others open.", rule="R4", after="shares")
def refuses_boxes_cut_short(run: Script) -> None:
    data = run.bytes["boxes 0"][:-1]
    fails = (DecodeError, "need 192 bytes, 191 left")
    run.client_refuses("on_boxes", "boxes 0", "last byte missing", data, fails)


@script("Its own boxes, under the number of another.", rule="R30", after="shares")
def refuses_recipient_changed(run: Script) -> None:
    data = run.bytes["boxes 0"]
    data = data[:25] + b"\1" + data[26:]
    fails = (RemoteProtocolError, "boxes for client 1, we are 0")
    run.client_refuses("on_boxes", "boxes 0", "recipient 1 in place of 0", data, fails)


ACTIVE = {"clients": 4, "threshold": 3, "active": True}
ONE_IDENTITY = (InputError, "two clients have one identity")
WEAK_IDENTITY = (InputError, "the identity of client 3 is of small order")


@script(
    "Two clients have one identity; a client enters no such round.", rule="R8", twin=3, **ACTIVE
)
def refuses_identities_that_are_equal(run: Script) -> None:
    run.act("client 1", "join", fails=ONE_IDENTITY)


@script("An identity of small order; a client enters no such round.", rule="R8", weak=3, **ACTIVE)
def refuses_identity_of_small_order(run: Script) -> None:
    run.act("client 1", "join", fails=WEAK_IDENTITY)


# What a restored client answers once.


def restored(run: Script) -> str:
    """Client 0 moves into a record and out again; returns the record's name."""
    (record,) = run.act("client 0", "save")
    run.act("client 0", "restore", [record])
    return record


@script("One mask key in two rounds of a session.", rule="R56")
def refuses_one_mask_key_in_two_rounds(run: Script) -> None:
    run.keys()
    restored(run)
    run.act("client 0", "on_roster", ["roster 0"])
    later = {"round": 2}
    run.act("client 0", "join", agrees=later, again=True)
    restored(run)
    tag = run.other_agreement(later, run.agreement).tag
    header = Header(run.header.session, 2)
    data = replace(roster_of(run), header=header, agreement=tag).to_bytes()
    fails = (RemoteProtocolError, "stage 1 of client 0 was answered for another request")
    run.client_refuses("on_roster", "roster 0", "the same keys in round 2", data, fails)


@script("A client that begins anew, with new keys, where it has answered a roster.", rule="R56")
def refuses_second_roster_with_new_keys(run: Script) -> None:
    run.keys()
    restored(run)
    run.act("client 0", "on_roster", ["roster 0"])
    run.act("client 0", "join")
    restored(run)
    new = run.bytes["advertise 0, again"]
    keys = PublicKeys(mask=new[26:58], seal=new[58:90])
    says = "stage 1 of client 0 was answered for another request"
    refuse_roster(run, "the new keys of client 0", 0, keys, says)


@script("An input that is not at hand whole is masked once, for whatever boxes.", rule="R56")
def refuses_second_answer_in_parts(run: Script) -> None:
    run.keys()
    run.shares()
    record = restored(run)
    run.act("client 0", "on_boxes", ["boxes 0"], parts=True)
    run.act("client 0", "restore", [record])
    fails = (RemoteProtocolError, "stage 2 of client 0 was answered for another request")
    run.act("client 0", "on_boxes", ["boxes 0"], parts=True, fails=fails)


# Ahead of what is public.


NOTHING_YET = {"public": UNKNOWN.hex()}


def ahead(run: Script, *, boxes: bool = False) -> None:
    """Keys, and shares, that are older than what is public."""
    run.agrees = NOTHING_YET
    run.act("server", "begin")
    run.keys()
    run.shares(close=boxes)


@script("No vector is masked before everything public is known.", rule="R57")
def refuses_to_mask_before_all_is_known(run: Script) -> None:
    ahead(run, boxes=True)
    fails = (LocalProtocolError, "no vector is masked before everything public is known")
    run.act("client 0", "on_boxes", ["boxes 0"], fails=fails)


@script("Shares that were sealed ahead, for a round of another length.", rule="R58")
def refuses_other_words_for_shares_sealed_ahead(run: Script) -> None:
    ahead(run)
    fails = (LocalProtocolError, "our shares were sealed under another agreement")
    run.act("client 0", "rebind", agrees={"words": 4}, fails=fails)


@script("Shares that were sealed under all that is public, for another model.", rule="R58")
def refuses_another_model_for_shares(run: Script) -> None:
    run.keys()
    run.shares()
    fails = (LocalProtocolError, "our shares were sealed under another agreement")
    run.act("client 0", "rebind", agrees={"public": OTHER_MODEL[2].hex()}, fails=fails)


@script("Keys of one round in the next.", rule="R58", after="keys")
def refuses_keys_of_another_round(run: Script) -> None:
    fails = (LocalProtocolError, "our keys are of another session or round")
    run.act("client 0", "rebind", agrees={"round": 2}, fails=fails)


@script("Keys that are signed, under another agreement.", rule="R58", after="keys", **ACTIVE)
def refuses_signed_keys_of_another_agreement(run: Script) -> None:
    fails = (LocalProtocolError, "signed keys are of one agreement")
    run.act("client 0", "rebind", agrees={"words": 4}, fails=fails)
