"""Rounds in which the server refuses a message, or has too little to release a sum.

Whatever is changed on its way has its checksum made anew, unless the checksum is the point.
"""

from dataclasses import replace

import numpy as np
from refused_by_clients import ACTIVE, ONE_IDENTITY, WEAK_IDENTITY, ahead
from script import Script, rewritten, script, turned

from protocols.bonawitz import Rates
from protocols.bonawitz.messages import MaskedFrame, Reveal, SealedShares
from protocols.errors import (
    DecodeError,
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
    WrongShares,
)
from protocols.secrets import Secret

Kind = type[RemoteProtocolError]
BROKE = RemoteProtocolError
BROKEN = (DecodeError, "checksum does not match")
FRAME = "frame 0 of 0"


def mask_input(run: Script) -> None:
    """Client 0 makes its frames, and they are on their way."""
    run.act("client 0", "on_boxes", ["boxes 0"])


@script("An Advertise cut short; the round goes on without its sender.", rule="R5")
def refuses_truncated_message(run: Script) -> None:
    run.act("client 0", "join")
    data = run.bytes["advertise 0"][:-1]
    run.server_refuses("advertise 0", "last byte missing", data, BROKEN)
    run.keys(0)
    run.shares()
    run.vectors()
    run.reveals()


@script("An Advertise with a byte behind its last field.", rule="R4")
def refuses_bytes_left_over(run: Script) -> None:
    run.act("client 0", "join")
    data = rewritten(run.bytes["advertise 0"], lambda body: body + b"\0")
    fails = (DecodeError, "1 bytes left over")
    run.server_refuses("advertise 0", "a zero byte before the checksum", data, fails)


@script("A mask key of low order is advertised.", rule="R12")
def refuses_low_order_key_advertised(run: Script) -> None:
    run.act("client 0", "join")
    data = rewritten(run.bytes["advertise 0"], lambda body: body[:26] + bytes(32) + body[58:])
    fails = (RemoteProtocolError, "is a point of low order")
    run.server_refuses("advertise 0", "the mask key is zero", data, fails)


@script("A client of that number has advertised already.", rule="R10")
def refuses_second_advertise(run: Script) -> None:
    run.act("server", "receive", run.act("client 0", "join"))
    run.act("client 1", "join")
    data = rewritten(run.bytes["advertise 1"], lambda body: turned(body, 25))
    fails = (RemoteProtocolError, "client 0 has already advertised")
    run.server_refuses("advertise 1", "sender 0 in place of 1", data, fails)


@script("An Advertise whose signature is wrong.", rule="R13", clients=4, threshold=3, active=True)
def refuses_bad_signature(run: Script) -> None:
    run.act("client 0", "join")
    data = rewritten(run.bytes["advertise 0"], lambda body: turned(body, -1))
    fails = (RemoteProtocolError, "the keys of client 0 are not signed by its identity")
    run.server_refuses("advertise 0", "lowest bit of the signature's last byte", data, fails)


@script("A client that seals no box for one of its peers.", rule="R28", after="keys")
def refuses_missing_box(run: Script) -> None:
    run.act("client 0", "on_roster", ["roster 0"])
    shares = SealedShares.from_bytes(run.bytes["shares 0"], expect=run.header)
    data = replace(shares, boxes={1: shares.boxes[1]}).to_bytes()
    fails = (RemoteProtocolError, "client 0 sealed 1 boxes, not one for each of its 2 peers")
    run.server_refuses("shares 0", "no box for client 2", data, fails)


@script("One bit of a masked vector flips on its way.", rule="R5", after="shares")
def refuses_wrong_checksum(run: Script) -> None:
    mask_input(run)
    run.server_refuses(FRAME, "lowest bit of byte 30", turned(run.bytes[FRAME], 30), BROKEN)


@script("The first frame says that it is the second.", rule="R38", after="shares")
def refuses_frame_out_of_order(run: Script) -> None:
    mask_input(run)
    data = rewritten(run.bytes[FRAME], lambda body: turned(body, 29))
    fails = (DecodeError, "frame 1 of client 0, expected frame 0")
    run.server_refuses(FRAME, "index 1 in place of 0", data, fails)


@script("A frame with one word more than agreed.", rule="R38", after="shares")
def refuses_frame_too_long(run: Script) -> None:
    mask_input(run)
    data = rewritten(run.bytes[FRAME], lambda body: body + bytes(8))
    fails = (DecodeError, "8 bytes left over")
    run.server_refuses(FRAME, "a word of zero behind the others", data, fails)


@script("The second frame of two does not come.", rule="R37", after="shares", words=2**15)
def refuses_frame_missing(run: Script) -> None:
    mask_input(run)
    fails = (RemoteProtocolError, "1 frames, expected 2")
    run.act("server", "receive", [FRAME], fails=fails)


@script(
    "Frames whose second is changed: the first is taken back.",
    rule="R5",
    after="shares",
    words=2**15,
)
def refuses_vector_whose_second_frame_is_changed(run: Script) -> None:
    mask_input(run)
    second = "frame 1 of 0"
    bad = run.change(second, "lowest bit of byte 30", turned(run.bytes[second], 30))
    run.act("server", "receive", [FRAME, bad], fails=BROKEN)
    run.vectors(0)
    run.reveals()


@script(
    "The same vector once more; the round goes on, and it counts once.", rule="R39", after="shares"
)
def refuses_vector_twice(run: Script) -> None:
    run.vectors(close=False)
    fails = (RemoteProtocolError, "client 0 has already answered")
    run.act("server", "receive", [FRAME], fails=fails)
    run.act("server", "close")
    run.reveals()


@script(
    "A vector after the survivors were named; the sum is theirs alone.", rule="R3", after="shares"
)
def refuses_vector_that_came_late(run: Script) -> None:
    mask_input(run)
    run.vectors(0)
    fails = (DecodeError, "message type 0x05, expected 0x07")
    run.act("server", "receive", [FRAME], fails=fails)
    run.reveals()


@script("Too few vectors arrive.", rule="R41", after="shares", clients=5, threshold=3)
def refuses_too_few_survivors(run: Script) -> None:
    run.vectors(0, 2, 4, close=False)
    fails = (TooFewSurvivors, "2 clients left after CollectVectors, 3 needed")
    run.act("server", "close", fails=fails)


@script("Too few answer in the end.", rule="R49", after="vectors", clients=5, threshold=3)
def refuses_too_few_reveals(run: Script) -> None:
    run.reveals(0, 2, 4, close=False)
    fails = (TooFewSurvivors, "2 clients left after CollectReveals, 3 needed")
    run.act("server", "close", fails=fails)


def reveal_of(run: Script) -> Reveal:
    run.act("client 0", "on_survivors", ["survivors 0"])
    return Reveal.from_bytes(run.bytes["reveal 0"], expect=run.header)


@script("A share of somebody of whom the sender can have none.", rule="R48", after="vectors")
def refuses_share_of_a_stranger(run: Script) -> None:
    shares = reveal_of(run).shares
    data = Reveal(header=run.header, sender=0, shares=shares | {9: shares[2]}).to_bytes()
    fails = (RemoteProtocolError, "client 0 reveals shares of [9], has none")
    run.server_refuses("reveal 0", "the share of client 2 as one of client 9 too", data, fails)


def refuse_sum(run: Script, client: int, says: str) -> None:
    """Client 0 reveals a wrong share of one client, which is found out when all is in."""
    shares = reveal_of(run).shares
    wrong = shares | {client: Secret(turned(shares[client].expose(), 0))}
    data = Reveal(header=run.header, sender=0, shares=wrong).to_bytes()
    change = f"lowest bit of the first byte of the share of client {client}"
    run.act("server", "receive", [run.change("reveal 0", change, data)])
    run.act("server", "receive", run.act("client 1", "on_survivors", ["survivors 1"]))
    run.act("server", "close", fails=(RemoteProtocolError, says))


@script("A wrong share of the mask key of a client that is gone.", rule="R50", after="shares")
def refuses_wrong_share_of_a_mask_key(run: Script) -> None:
    run.vectors(2)
    refuse_sum(run, 2, "the shares of client 2 rebuild another key than it advertised")


@script(
    "A wrong share of the self-mask's seed of a client that is alive.", rule="R50", after="shares"
)
def refuses_wrong_share_of_a_seed(run: Script) -> None:
    run.vectors()
    refuse_sum(run, 1, "the check word does not count the 3 survivors")


@script("A vector in which the check word counts two.", rule="R50", after="shares")
def refuses_wrong_check_word(run: Script) -> None:
    mask_input(run)
    frame = MaskedFrame.from_bytes(run.bytes[FRAME], expect=run.header, index=0, count=4)
    words = frame.words + np.array([0, 0, 0, 1], np.uint64)
    data = MaskedFrame(header=run.header, sender=0, index=0, words=words).to_bytes()
    run.act("server", "receive", [run.change(FRAME, "1 added to the last word", data)])
    for client in (1, 2):
        sent = run.act(f"client {client}", "on_boxes", [f"boxes {client}"])
        run.act("server", "receive", sent)
    run.act("server", "close")
    run.reveals(close=False)
    fails = (RemoteProtocolError, "the check word does not count the 3 survivors")
    run.act("server", "close", fails=fails)


# What only one layer catches.


def changed_body(run: Script, like: str, at: int, new: bytes) -> bytes:
    """A client's message with these bytes at a place, and its checksum."""
    return rewritten(run.bytes[like], lambda body: body[:at] + new + body[at + len(new) :])


def refuse_advertise(
    run: Script, client: int, change: str, at: int, new: bytes, says: str, kind: Kind = BROKE
) -> None:
    """The server refuses the keys of a client in which some bytes are others."""
    like = f"advertise {client}"
    if like not in run.bytes:
        run.act(f"client {client}", "join")
    run.server_refuses(like, change, changed_body(run, like, at, new), (kind, says))


def keys_of(run: Script, client: int) -> bytes:
    """Both, as they stand in an Advertise."""
    return run.bytes[f"advertise {client}"][26:90]


@script("An Advertise of version 2.", rule="R1")
def refuses_another_version_advertised(run: Script) -> None:
    says = "the peer speaks version 2, this is version 1"
    refuse_advertise(run, 0, "version 2", 0, b"\2", says, DecodeError)


@script("An Advertise of another session.", rule="R2")
def refuses_another_session_advertised(run: Script) -> None:
    says = "another session or round"
    refuse_advertise(run, 0, "another session", 2, bytes(16), says, DecodeError)


@script("Keys where shares are awaited.", rule="R3", after="keys")
def refuses_keys_for_shares(run: Script) -> None:
    fails = (DecodeError, "message type 0x01, expected 0x03")
    run.act("server", "receive", ["advertise 0"], fails=fails)


@script("One client more than may take part.", rule="R10", clients=4, most=3)
def refuses_one_client_too_many(run: Script) -> None:
    for client in (0, 1, 2):
        run.act("server", "receive", run.act(f"client {client}", "join"))
    (sent,) = run.act("client 3", "join")
    run.act("server", "receive", [sent], fails=(BROKE, "the round is full"))


@script("A client with one key for both uses.", rule="R11")
def refuses_one_key_for_both_uses_advertised(run: Script) -> None:
    run.act("client 0", "join")
    mask = keys_of(run, 0)[:32]
    refuse_advertise(run, 0, "the mask key as sealing key", 58, mask, "advertises a key twice")


@script("The mask key of another client.", rule="R11")
def refuses_mask_key_of_another(run: Script) -> None:
    run.act("server", "receive", run.act("client 1", "join"))
    mask = keys_of(run, 1)[:32]
    refuse_advertise(run, 0, "the mask key of client 1", 26, mask, "advertises a key twice")


@script("The sealing key of another client.", rule="R11")
def refuses_sealing_key_of_another(run: Script) -> None:
    run.act("server", "receive", run.act("client 1", "join"))
    seal = keys_of(run, 1)[32:]
    refuse_advertise(run, 0, "the sealing key of client 1", 58, seal, "advertises a key twice")


@script("A sealing key of low order is advertised.", rule="R12")
def refuses_low_order_sealing_key_advertised(run: Script) -> None:
    one = b"\1" + bytes(31)
    refuse_advertise(run, 0, "the sealing key is one", 58, one, "is a point of low order")


@script("Keys of a client without identity.", rule="R13", clients=4, threshold=3, active=True)
def refuses_keys_without_identity(run: Script) -> None:
    number = bytes([0, 0, 0, 9])
    refuse_advertise(run, 0, "client 9 in place of 0", 22, number, "client 9 has no identity")


def too_few(run: Script, left: int) -> None:
    run.act("server", "close", fails=(TooFewSurvivors, f"{left} clients left"))


@script("Too few clients advertise for the minimum.", rule="R14", clients=4, minimum_survivors=3)
def refuses_too_few_keys_for_the_minimum(run: Script) -> None:
    for client in (0, 1):
        run.act("server", "receive", run.act(f"client {client}", "join"))
    too_few(run, 2)


@script("Too few clients advertise for the threshold.", rule="R14", clients=4, threshold=3)
def refuses_too_few_keys_for_the_threshold(run: Script) -> None:
    for client in (0, 1):
        run.act("server", "receive", run.act(f"client {client}", "join"))
    too_few(run, 2)


@script(
    "Rates, active: no plan for so few.",
    rule="R14",
    clients=10,
    rates=Rates(corrupt_fraction="0.3", dropout="0.2"),
    active=True,
)
def refuses_too_few_keys_for_a_plan(run: Script) -> None:
    for client in (0, 1, 2):
        run.act("server", "receive", run.act(f"client {client}", "join"))
    run.act("server", "close", fails=(TooFewSurvivors, "nothing was released"))


def shares_of(run: Script) -> SealedShares:
    run.act("client 0", "on_roster", ["roster 0"])
    return SealedShares.from_bytes(run.bytes["shares 0"], expect=run.header)


def refuse_shares(run: Script, change: str, data: SealedShares, says: str) -> None:
    run.server_refuses("shares 0", change, data.to_bytes(), (BROKE, says))


@script("Shares of a client that is not in the roster.", rule="R26", after="keys")
def refuses_shares_of_a_stranger(run: Script) -> None:
    data = replace(shares_of(run), sender=9)
    refuse_shares(run, "client 9 in place of 0", data, "client 9 is not expected")


@script("The shares of a client once more.", rule="R26", after="keys")
def refuses_second_shares(run: Script) -> None:
    run.act("server", "receive", run.act("client 0", "on_roster", ["roster 0"]))
    fails = (BROKE, "client 0 has already answered")
    run.act("server", "receive", ["shares 0"], fails=fails)


@script("Shares of a client that agrees to something else.", rule="R27", after="keys")
def refuses_shares_under_another_agreement(run: Script) -> None:
    data = replace(shares_of(run), agreement=bytes(8))
    refuse_shares(run, "another agreement", data, "client 0 agrees to something else")


@script("A box too many.", rule="R28", after="keys")
def refuses_box_too_many(run: Script) -> None:
    shares = shares_of(run)
    data = replace(shares, boxes=shares.boxes | {9: shares.boxes[1]})
    refuse_shares(run, "the box of client 1 for client 9 too", data, "not one for each")


@script("A box for the sender itself in place of one of its peers.", rule="R28", after="keys")
def refuses_box_for_oneself(run: Script) -> None:
    shares = shares_of(run)
    data = replace(shares, boxes={0: shares.boxes[1], 2: shares.boxes[2]})
    refuse_shares(run, "the box of client 1 for client 0", data, "not one for each")


@script("Too few clients share.", rule="R29", after="keys", clients=4, threshold=3)
def refuses_too_few_shares(run: Script) -> None:
    for client in (0, 1):
        run.act("server", "receive", run.act(f"client {client}", "on_roster", [f"roster {client}"]))
    too_few(run, 2)


@script("A frame more than agreed.", rule="R37", after="shares")
def refuses_frame_too_many(run: Script) -> None:
    mask_input(run)
    run.act("server", "receive", [FRAME, FRAME], fails=(BROKE, "2 frames, expected 1"))


@script("Frames of two clients.", rule="R37", after="shares", words=2**15)
def refuses_frames_of_two_clients(run: Script) -> None:
    mask_input(run)
    run.act("client 1", "on_boxes", ["boxes 1"])
    fails = (BROKE, "frames of several clients: 0 and 1")
    run.act("server", "receive", [FRAME, "frame 1 of 1"], fails=fails)


@script("A vector of a client that did not share.", rule="R39", clients=4, threshold=3)
def refuses_vector_of_who_did_not_share(run: Script) -> None:
    run.keys()
    run.shares(3)
    mask_input(run)
    data = changed_body(run, FRAME, 22, bytes([0, 0, 0, 3]))
    fails = (BROKE, "client 3 is not expected")
    run.act("server", "receive", [run.change(FRAME, "client 3 in place of 0", data)], fails=fails)


def sign(run: Script) -> None:
    run.act("client 0", "sign_survivors", ["survivors 0"])


@script("The signature of a client that is no survivor.", rule="R53", **ACTIVE)
def refuses_signature_of_no_survivor(run: Script) -> None:
    run.keys()
    run.shares()
    run.vectors(3)
    sign(run)
    data = changed_body(run, "signed 0", 22, bytes([0, 0, 0, 3]))
    fails = (BROKE, "client 3 is not expected")
    run.server_refuses("signed 0", "client 3 in place of 0", data, fails)


@script("The signature of a client once more.", rule="R53", after="vectors", **ACTIVE)
def refuses_second_signature(run: Script) -> None:
    run.act("server", "receive", run.act("client 0", "sign_survivors", ["survivors 0"]))
    run.act("server", "receive", ["signed 0"], fails=(BROKE, "client 0 has already answered"))


@script("Too few sign.", rule="R55", after="vectors", **ACTIVE)
def refuses_too_few_signatures(run: Script) -> None:
    for client in (0, 1):
        sent = run.act(f"client {client}", "sign_survivors", [f"survivors {client}"])
        run.act("server", "receive", sent)
    too_few(run, 2)


@script("A reveal of a client that is no survivor.", rule="R47", clients=4, threshold=3)
def refuses_reveal_of_no_survivor(run: Script) -> None:
    run.keys()
    run.shares()
    run.vectors(3)
    reveal_of(run)
    data = changed_body(run, "reveal 0", 22, bytes([0, 0, 0, 3]))
    fails = (BROKE, "client 3 is not expected")
    run.server_refuses("reveal 0", "client 3 in place of 0", data, fails)


@script("The reveal of a client once more.", rule="R47", after="vectors")
def refuses_second_reveal(run: Script) -> None:
    run.act("server", "receive", run.act("client 0", "on_survivors", ["survivors 0"]))
    run.act("server", "receive", ["reveal 0"], fails=(BROKE, "client 0 has already answered"))


@script("Of one client too few shares come.", rule="R49", after="vectors")
def refuses_too_few_shares_of_one_client(run: Script) -> None:
    shares = {client: share for client, share in reveal_of(run).shares.items() if client != 2}
    data = Reveal(header=run.header, sender=0, shares=shares).to_bytes()
    run.act("server", "receive", [run.change("reveal 0", "no share of client 2", data)])
    run.act("server", "receive", run.act("client 1", "on_survivors", ["survivors 1"]))
    fails = (TooFewSurvivors, "1 shares of client 2 are left, 2 needed")
    run.act("server", "close", fails=fails)


@script("More wrong shares than can be told from right ones.", rule="R50", clients=5, threshold=3)
def refuses_too_many_wrong_shares(run: Script) -> None:
    run.keys()
    run.shares()
    run.vectors()
    for client in run.clients:
        (name,) = run.act(f"client {client}", "on_survivors", [f"survivors {client}"])
        if client < 3:
            shares = Reveal.from_bytes(run.bytes[name], expect=run.header).shares
            wrong = shares | {1: Secret(turned(shares[1].expose(), client))}
            data = Reveal(header=run.header, sender=client, shares=wrong).to_bytes()
            name = run.change(name, "a wrong share of client 1", data)
        run.act("server", "receive", [name])
    fails = (WrongShares, "too many shares of 1 clients are wrong")
    run.act("server", "close", fails=fails)


@script(
    "A wrong check word, and beside it a wrong share, which is corrected.",
    rule="R50",
    clients=5,
    threshold=3,
)
def refuses_wrong_check_word_beside_a_wrong_share(run: Script) -> None:
    run.keys()
    run.shares()
    mask_input(run)
    frame = MaskedFrame.from_bytes(run.bytes[FRAME], expect=run.header, index=0, count=4)
    words = frame.words + np.array([0, 0, 0, 1], np.uint64)
    data = MaskedFrame(header=run.header, sender=0, index=0, words=words).to_bytes()
    run.act("server", "receive", [run.change(FRAME, "1 added to the last word", data)])
    for client in run.clients[1:]:
        sent = run.act(f"client {client}", "on_boxes", [f"boxes {client}"])
        run.act("server", "receive", sent)
    run.act("server", "close")
    shares = reveal_of(run).shares
    wrong = shares | {1: Secret(turned(shares[1].expose(), 0))}
    data = Reveal(header=run.header, sender=0, shares=wrong).to_bytes()
    run.act("server", "receive", [run.change("reveal 0", "a wrong share of client 1", data)])
    for client in run.clients[1:]:
        sent = run.act(f"client {client}", "on_survivors", [f"survivors {client}"])
        run.act("server", "receive", sent)
    fails = (RemoteProtocolError, "the check word does not count the 5 survivors")
    run.act("server", "close", fails=fails)


@script("A version 2 whose checksum is another; nothing but the version is read.", rule="R1")
def refuses_another_version_with_another_checksum(run: Script) -> None:
    run.act("client 0", "join")
    data = turned(b"\2" + run.bytes["advertise 0"][1:], -1)
    fails = (DecodeError, "the peer speaks version 2, this is version 1")
    run.server_refuses("advertise 0", "version 2, and a bit of the checksum", data, fails)


@script("Two clients have one identity; a server opens no such round.", rule="R8", twin=3, **ACTIVE)
def refuses_to_serve_identities_that_are_equal(run: Script) -> None:
    run.act("server", "begin", fails=ONE_IDENTITY)


@script("An identity of small order; a server opens no such round.", rule="R8", weak=3, **ACTIVE)
def refuses_to_serve_an_identity_of_small_order(run: Script) -> None:
    run.act("server", "begin", fails=WEAK_IDENTITY)


@script("Shares that were collected ahead, for a round of another length.", rule="R58")
def refuses_other_words_for_shares_collected_ahead(run: Script) -> None:
    ahead(run)
    fails = (LocalProtocolError, "these shares were sealed under another agreement")
    run.act("server", "rebind", agrees={"words": 4}, fails=fails)
