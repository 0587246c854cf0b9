"""Rounds in which the server refuses a message, or has too little to release a sum.

Whatever is changed on its way has its checksum made anew, unless the checksum is the point.
"""

from dataclasses import replace

import numpy as np
from script import Script, rewritten, script, turned

from protocols.bonawitz.messages import MaskedFrame, Reveal, SealedShares
from protocols.errors import DecodeError, RemoteProtocolError, TooFewSurvivors
from protocols.secrets import Secret

BROKEN = (DecodeError, "checksum does not match")
FRAME = "frame 0 of 0"


def mask_input(run: Script) -> None:
    """Client 0 makes its frames, and they are on their way."""
    run.act("client 0", "on_boxes", ["boxes 0"])


@script("An Advertise cut short; the round goes on without its sender.")
def refuses_truncated_message(run: Script) -> None:
    run.act("client 0", "join")
    data = run.bytes["advertise 0"][:-1]
    run.server_refuses("advertise 0", "last byte missing", data, BROKEN)
    run.keys(0)
    run.shares()
    run.vectors()
    run.reveals()


@script("An Advertise with a byte behind its last field.")
def refuses_bytes_left_over(run: Script) -> None:
    run.act("client 0", "join")
    data = rewritten(run.bytes["advertise 0"], lambda body: body + b"\0")
    fails = (DecodeError, "1 bytes left over")
    run.server_refuses("advertise 0", "a zero byte before the checksum", data, fails)


@script("A mask key of low order is advertised.")
def refuses_low_order_key_advertised(run: Script) -> None:
    run.act("client 0", "join")
    data = rewritten(run.bytes["advertise 0"], lambda body: body[:26] + bytes(32) + body[58:])
    fails = (RemoteProtocolError, "is a point of low order")
    run.server_refuses("advertise 0", "the mask key is zero", data, fails)


@script("A client of that number has advertised already.")
def refuses_second_advertise(run: Script) -> None:
    run.act("server", "receive", run.act("client 0", "join"))
    run.act("client 1", "join")
    data = rewritten(run.bytes["advertise 1"], lambda body: turned(body, 25))
    fails = (RemoteProtocolError, "client 0 has already advertised")
    run.server_refuses("advertise 1", "sender 0 in place of 1", data, fails)


@script("An Advertise whose signature is wrong.", clients=4, threshold=3, active=True)
def refuses_bad_signature(run: Script) -> None:
    run.act("client 0", "join")
    data = rewritten(run.bytes["advertise 0"], lambda body: turned(body, -1))
    fails = (RemoteProtocolError, "the keys of client 0 are not signed by its identity")
    run.server_refuses("advertise 0", "lowest bit of the signature's last byte", data, fails)


@script("A client that seals no box for one of its peers.", after="keys")
def refuses_missing_box(run: Script) -> None:
    run.act("client 0", "on_roster", ["roster 0"])
    shares = SealedShares.from_bytes(run.bytes["shares 0"], expect=run.header)
    data = replace(shares, boxes={1: shares.boxes[1]}).to_bytes()
    fails = (RemoteProtocolError, "client 0 sealed 1 boxes, not one for each of its 2 peers")
    run.server_refuses("shares 0", "no box for client 2", data, fails)


@script("One bit of a masked vector flips on its way.", after="shares")
def refuses_wrong_checksum(run: Script) -> None:
    mask_input(run)
    run.server_refuses(FRAME, "lowest bit of byte 30", turned(run.bytes[FRAME], 30), BROKEN)


@script("The first frame says that it is the second.", after="shares")
def refuses_frame_out_of_order(run: Script) -> None:
    mask_input(run)
    data = rewritten(run.bytes[FRAME], lambda body: turned(body, 29))
    fails = (DecodeError, "frame 1 of client 0, expected frame 0")
    run.server_refuses(FRAME, "index 1 in place of 0", data, fails)


@script("A frame with one word more than agreed.", after="shares")
def refuses_frame_too_long(run: Script) -> None:
    mask_input(run)
    data = rewritten(run.bytes[FRAME], lambda body: body + bytes(8))
    fails = (DecodeError, "8 bytes left over")
    run.server_refuses(FRAME, "a word of zero behind the others", data, fails)


@script("The second frame of two does not come.", after="shares", words=2**15)
def refuses_frame_missing(run: Script) -> None:
    mask_input(run)
    fails = (RemoteProtocolError, "1 frames, expected 2")
    run.act("server", "receive", [FRAME], fails=fails)


@script("Frames whose second is changed: the first is taken back.", after="shares", words=2**15)
def refuses_vector_whose_second_frame_is_changed(run: Script) -> None:
    mask_input(run)
    second = "frame 1 of 0"
    bad = run.change(second, "lowest bit of byte 30", turned(run.bytes[second], 30))
    run.act("server", "receive", [FRAME, bad], fails=BROKEN)
    run.vectors(0)
    run.reveals()


@script("The same vector once more; the round goes on, and it counts once.", after="shares")
def refuses_vector_twice(run: Script) -> None:
    run.vectors(close=False)
    fails = (RemoteProtocolError, "client 0 has already answered")
    run.act("server", "receive", [FRAME], fails=fails)
    run.act("server", "close")
    run.reveals()


@script("A vector after the survivors were named; the sum is theirs alone.", after="shares")
def refuses_vector_that_came_late(run: Script) -> None:
    mask_input(run)
    run.vectors(0)
    fails = (DecodeError, "message type 0x05, expected 0x07")
    run.act("server", "receive", [FRAME], fails=fails)
    run.reveals()


@script("Too few vectors arrive.", after="shares", clients=5, threshold=3)
def refuses_too_few_survivors(run: Script) -> None:
    run.vectors(0, 2, 4, close=False)
    fails = (TooFewSurvivors, "2 clients left after CollectVectors, 3 needed")
    run.act("server", "close", fails=fails)


@script("Too few answer in the end.", after="vectors", clients=5, threshold=3)
def refuses_too_few_reveals(run: Script) -> None:
    run.reveals(0, 2, 4, close=False)
    fails = (TooFewSurvivors, "2 clients left after CollectReveals, 3 needed")
    run.act("server", "close", fails=fails)


def reveal_of(run: Script) -> Reveal:
    run.act("client 0", "on_survivors", ["survivors 0"])
    return Reveal.from_bytes(run.bytes["reveal 0"], expect=run.header)


@script("A share of somebody of whom the sender can have none.", after="vectors")
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


@script("A wrong share of the mask key of a client that is gone.", after="shares")
def refuses_wrong_share_of_a_mask_key(run: Script) -> None:
    run.vectors(2)
    refuse_sum(run, 2, "the shares of client 2 rebuild another key than it advertised")


@script("A wrong share of the self-mask's seed of a client that is alive.", after="shares")
def refuses_wrong_share_of_a_seed(run: Script) -> None:
    run.vectors()
    refuse_sum(run, 1, "the check word does not count the 3 survivors")


@script("A vector in which the check word counts two.", after="shares")
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
