"""Sessions of ``protocols.ckks`` that the vectors hold: some go well, in some much is refused."""

from collections.abc import Callable
from typing import Any

from ckks_play import Play, sha
from page_blocks import u32
from script import Counting
from second_ckks import Holder, commitment

ROW = 4088  # entries of a polynomial
SENDER, INDEX, CONTEXT, FIRST = 22, 26, 30, 62  # where they begin in a frame
NAMED = 54  # where a request's holders begin, and a shared sum's summands
WHOLE = 8 * 4096  # bytes of a polynomial modulo 2^64

SCRIPTS: dict[str, Callable[[], Play]] = {}


def session(shows: str, **how: Any) -> Callable[[Callable[[Play], None]], Callable[[Play], None]]:
    """A file: of ``Play`` with these arguments, and what the function has it do."""

    def enter(write: Callable[[Play], None]) -> Callable[[Play], None]:
        def make() -> Play:
            play = Play(shows, **how)
            write(play)
            return play

        SCRIPTS[f"ckks_{write.__name__}"] = make
        return write

    return enter


# What goes well.


@session(
    "Two polynomials to a c1, two chunks, the last in part; two rounds, opened by all; 3 bytes.",
    entries=3 * ROW + 5,
    messages=2,
    kept=3,
    decryptions=2,
)
def shared(play: Play) -> None:
    play.uploads()
    play.shown(0, 1, 4)
    play.uploads(4, 1, r=1)
    play.shown(1, r=1)


@session("Modulo 2^72, whole words, reals.", limbs=3, kept=8, numbers="reals", clip=2.0)
def shared_reals(play: Play) -> None:
    play.uploads()
    play.shown()


@session(
    "Modulo 2^72, 5 bytes: integers of 60 bits, in digits.",
    limbs=3,
    kept=5,
    messages=3,
    numbers="integers",
    bits=60,
    entries=2 * (ROW + 7),
)
def shared_integers(play: Play) -> None:
    play.uploads()
    play.shown()


@session(
    "Without flooding, 2 bytes: integers of 10 bits. Such a sum may not be shown to anybody.",
    kept=2,
    messages=2,
    numbers="integers",
    bits=10,
    flooding=0,
    entries=ROW,
)
def shared_unflooded(play: Play) -> None:
    play.uploads()
    play.shown()


@session("Four bytes; a client less in the second round.", holders=[2, 3, 7], decryptions=2)
def threshold(play: Play) -> None:
    play.key()
    play.uploads()
    play.opened()
    play.uploads(0, 4, r=1)
    play.opened(r=1)


@session(
    "Modulo 2^72, 5 bytes, two polynomials to a c1, two chunks; two holders gone, and rebuilt.",
    holders=[0, 1, 2, 5, 2**32 - 1],
    limbs=3,
    kept=5,
    messages=2,
    numbers="integers",
    bits=40,
    entries=2 * (2 * ROW + 9),
)
def threshold_gone(play: Play) -> None:
    play.key()
    play.uploads()
    play.opened(1, 2, 2**32 - 1)


@session("Whole words, reals; one holder gone.", holders=[1, 2, 3], kept=8, numbers="reals")
def threshold_reals(play: Play) -> None:
    play.key()
    play.uploads()
    play.opened(1, 3)


# What is refused.


@session("While a key is made.", holders=[2, 3, 7])
def refuses_keys(play: Play) -> None:
    (first,) = play.act("holder 2", "generate")
    for shows, named, error in (
        ("another version", play.change(first, 0, b"\2"), "context"),
        ("another type", play.change(first, 1, b"\2"), "decode"),
        ("another session", play.flipped(first, 2), "context"),
        ("another round", play.change(first, 21, b"\1"), "context"),
        ("cut short", play.shorter(first), "decode"),
        ("a byte left over", play.longer(first), "decode"),
        ("another checksum", play.change(first, -1, b"\0", checksum=False), "decode"),
        ("a stranger", play.change(first, SENDER, u32(4)), "state"),
        ("another version, and checksum", play.change(first, 0, b"\2", checksum=False), "context"),
        ("a key of low order", play.change(first, 26, zeros=32), "check"),
    ):
        play.act("server", "receive", [named], error=error, shows=shows)
    play.act("server", "receive", [first])
    play.act("server", "receive", [first], error="state", shows="a second one")
    other = play.change(first, SENDER, u32(3))
    play.act("server", "receive", [other], error="check", shows="the key of another")
    for h in (3, 7):
        play.act("server", "receive", play.act(f"holder {h}", "generate"))
    play.act("server", "close")
    own, three, seven = (play.bytes["roster"][at : at + 68] for at in (26, 94, 162))
    for shows, named, error in (
        ("its entry changed", play.flipped("roster", 26 + 4 + 32), "check"),
        ("a holder missing", play.change("roster", 22, u32(2) + own + three, cut=208), "check"),
        ("not ascending", play.change("roster", 94, seven + three), "decode"),
        ("one key twice", play.change("roster", 94 + 4, seven[4:36]), "check"),
        ("a key of low order", play.change("roster", 94 + 4, zeros=32), "check"),
    ):
        play.act("holder 2", "on_roster", [named], error=error, shows=shows)
    play.act("holder 2", "save")
    for h in (2, 3, 7):
        (opening,) = play.act(f"holder {h}", "on_roster", ["roster"])
        if h == 2:
            play.act("holder 2", "restore")
            other = play.flipped("roster", 94 + 36)
            shows = "another roster, after a restart"
            play.act("holder 2", "on_roster", [other], error="state", shows=shows)
            play.act("holder 2", "restore")
            play.act("holder 2", "on_roster", ["roster"])
            wrong = play.flipped(opening, 26 + 32 + 5)
            play.act("server", "receive", [wrong], error="check", shows="another opening")
            blind = play.flipped(opening, 26)
            play.act("server", "receive", [blind], error="check", shows="another blind")
            fewer = play.change(opening, 26 + 32 + WHOLE, u32(1), cut=4 + 64)
            play.act("server", "receive", [fewer], error="check", shows="a box missing")
        play.act("server", "receive", [opening])
        play.act("server", "receive", [opening], error="state", shows="a second opening")
    play.act("server", "close")
    wrong = play.flipped("openings", 26 + 4 + 64 + 9)
    fewer = play.change("openings", 22, u32(2), cut=4 + 4 + 64 + WHOLE)
    for party, boxes in (("holder 2", ["boxes 2"]), ("client 0", [])):
        shows = "an opening is not what was committed to"
        play.act(party, "on_openings", [wrong, *boxes], error="check", shows=shows)
        play.act(party, "on_openings", [fewer, *boxes], error="check", shows="one missing")
    blind = sha(b"another blind")
    share = play.bytes["openings"][26 + WHOLE + 68 + 4 + 64 :][:WHOLE]
    promised = commitment(play.theirs, 3, share, bytes.fromhex(blind))
    other = play.change("openings", 26 + WHOLE + 68 + 4, promised + bytes.fromhex(blind))
    boxes = play.bytes["boxes 2"][26 : 30 + 64]
    for shows, named, error in (
        ("an opening of another commitment", [other, "boxes 2"], "check"),
        ("boxes of another", ["openings", play.change("boxes 2", 22, u32(3))], "check"),
        (
            "a box missing",
            ["openings", play.change("boxes 2", 26, u32(1) + boxes[4:68], cut=132)],
            "check",
        ),
    ):
        play.act("holder 2", "on_openings", named, error=error, shows=shows)
    play.act("holder 3", "save")
    play.act("holder 3", "on_openings", ["openings", "boxes 3"])
    play.act("holder 3", "restore")
    dealer = Holder(play.theirs, 7, Counting("holder 7"))
    dealer.on_roster(play.bytes["roster"])
    other = play.change("boxes 3", 30 + 64 + 4, dealer.seal_for(3, bytes(32), bytes(12)))
    named, shows = ["openings", other], "another box from a dealer, after a restart"
    play.act("holder 3", "on_openings", named, error="state", shows=shows)
    play.act("holder 3", "restore")
    play.act("holder 3", "on_openings", ["openings", "boxes 3"])
    box = play.flipped("boxes 2", 26 + 4 + 4 + 40)
    play.act("holder 2", "on_openings", ["openings", box], error="context", shows="a box changed")


@session("A holder does not commit.", holders=[2, 3, 7])
def refuses_a_key_without_a_commitment(play: Play) -> None:
    for h in (2, 7):
        play.act("server", "receive", play.act(f"holder {h}", "generate"))
    play.act("server", "close", error="sum", shows="two of three have committed")


@session("A holder does not open its commitment.", holders=[2, 3])
def refuses_a_key_without_an_opening(play: Play) -> None:
    for h in (2, 3):
        play.act("server", "receive", play.act(f"holder {h}", "generate"))
    play.act("server", "close")
    play.act("server", "receive", play.act("holder 3", "on_roster", ["roster"]))
    play.act("server", "close", error="sum", shows="one of two has opened")


@session(
    "Uploads under a threshold key, two chunks each.",
    holders=[2, 3],
    clients=[0, 1, 4],
    entries=ROW + 1,
)
def refuses_uploads(play: Play) -> None:
    play.key()
    play.act("server", "begin", round=0)
    first, last = play.act("client 0", "encrypt", round=0)
    for shows, named, error in (
        ("c1 is zero", [play.change(first, FIRST, zeros=WHOLE), last], "check"),
        ("another context", [first, play.flipped(last, CONTEXT)], "context"),
        ("a frame missing", [first], "check"),
        ("a frame too many", [first, last, last], "check"),
        ("another index", [first, play.change(last, INDEX, u32(2))], "decode"),
        ("a byte left over", [first, play.longer(last)], "decode"),
        ("cut short", [first, play.shorter(last)], "decode"),
        ("of two clients", [first, play.change(last, SENDER, u32(1))], "check"),
        ("of a stranger", [play.change(n, SENDER, u32(3)) for n in (first, last)], "state"),
    ):
        play.act("server", "receive", named, error=error, shows=shows)
    play.act("server", "receive", [first, last])
    play.act("server", "receive", [first, last], error="state", shows="a second one")
    shows = "one upload only"
    play.act("server", "close", error="sum", shows=shows, round=0, alive=[2, 3])
    play.uploads(1)
    play.act("server", "receive", [first, last])
    shows = "one holder alive"
    play.act("server", "close", error="sum", shows=shows, round=0, alive=[3])
    shows = "another vector in this round"
    play.act("client 0", "encrypt", error="state", shows=shows, round=0, adds=1)


@session("Uploads under a shared key, two chunks each.", entries=ROW + 1, decryptions=2, most=2)
def refuses_shared_uploads(play: Play) -> None:
    play.act("server", "begin", round=0)
    first, last = play.act("client 0", "encrypt", round=0)
    two = [first, play.flipped(last, FIRST)]
    play.act("server", "receive", two, error="check", shows="two seeds")
    play.act("server", "receive", [first, last])
    other = [play.change(name, SENDER, u32(1)) for name in (first, last)]
    play.act("server", "receive", other, error="check", shows="the upload of another")
    play.act("server", "receive", play.act("client 1", "encrypt", round=0))
    late = play.act("client 4", "encrypt", round=0)
    play.act("server", "receive", late, error="state", shows="more than were agreed")
    play.uploads(0, r=1)
    play.act("server", "close", error="sum", shows="one upload only", round=1)


@session("Sums under a shared key; a client opens one a round.", decryptions=2)
def refuses_sums(play: Play) -> None:
    play.uploads()
    (message,) = play.act("server", "close", round=0)
    entry = NAMED + 4
    kept = play.bytes[message][entry : entry + 72]
    wrong = play.flipped(message, entry + 36 + 4)
    for shows, named, error in (
        ("another context", play.flipped(message, 22), "context"),
        ("one upload only", play.change(message, NAMED, u32(1) + kept[:36], cut=112), "check"),
        (
            "one upload twice",
            play.change(message, entry + 36 + 4, kept[4:36]),
            "check",
        ),
        ("not its own upload", play.flipped(message, entry + 4), "check"),
        ("its upload is missing", play.change(message, NAMED, u32(2), cut=4 + 36), "check"),
        ("cut short", play.shorter(message), "decode"),
        ("a byte left over", play.longer(message), "decode"),
    ):
        play.act("client 0", "open_sum", [named], error=error, shows=shows, round=0)
    play.act("client 4", "open_sum", [wrong], error="sum", shows="of other uploads", round=0)
    shows = "the right one after a wrong one"
    play.act("client 4", "open_sum", [message], error="state", shows=shows, round=0)
    fewer = play.change(message, NAMED, u32(2) + kept, cut=112)
    play.act("client 1", "open_sum", [fewer], error="sum", shows="names too few", round=0)
    play.act("client 0", "open_sum", [message], round=0)
    play.act("client 0", "open_sum", [message], error="context", shows="of another round", round=1)


@session("Requests to a holder.", holders=[2, 3, 7, 8], decryptions=2)
def refuses_requests(play: Play) -> None:
    play.key()
    play.uploads()
    (request,) = play.act("server", "close", round=0, alive=[2, 3, 7])
    summands = NAMED + 4 + 12
    named = play.bytes[request][summands + 4 : summands + 4 + 108]
    seconds = summands + 4 + 108
    one = u32(1) + named[:36]
    for shows, change, error in (
        ("another context", play.flipped(request, 22), "context"),
        ("one upload only", play.change(request, summands, one, cut=112), "check"),
        ("one upload twice", play.change(request, summands + 44, named[4:36]), "check"),
        ("it is not named", play.change(request, NAMED + 4, u32(3) + u32(7) + u32(8)), "check"),
        ("a stranger is named", play.change(request, NAMED + 8, u32(6)), "check"),
        ("not ascending", play.change(request, NAMED + 8, u32(7) + u32(3)), "decode"),
        (
            "too few holders",
            play.change(request, NAMED, u32(2) + u32(2) + u32(3), cut=16),
            "check",
        ),
        ("c1 is zero", play.change(request, seconds, zeros=WHOLE), "check"),
        ("cut short", play.shorter(request), "decode"),
        ("a byte left over", play.longer(request), "decode"),
    ):
        play.act("holder 2", "on_request", [change], error=error, shows=shows, round=0)
    sent = play.act("holder 2", "on_request", [request], round=0)
    other = play.flipped(request, seconds)
    play.act("holder 2", "on_request", [other], error="state", shows="a second one", round=0)
    (short,) = sent
    at = 30 + 4 * (8 + 100)
    fewer = play.change(short, at, u32(0), cut=4 + 36)
    play.act("server", "receive", [fewer], error="check", shows="a share missing", round=0)
    late = play.change(short, INDEX, u32(1))
    play.act("server", "receive", [late], error="decode", shows="another index", round=0)
    gone = play.change(short, SENDER, u32(8))
    play.act("server", "receive", [gone], error="state", shows="of who is gone", round=0)
    play.act("server", "receive", sent, round=0)
    play.act("server", "receive", sent, error="state", shows="a second answer", round=0)
    shows = "an answer is missing"
    play.act("server", "close", error="sum", shows=shows, round=0)
    play.uploads(r=1)
    (request,) = play.act("server", "close", round=1, alive=[2, 3, 8])
    shows = "other holders alive than in the first round"
    play.act("holder 2", "on_request", [request], error="state", shows=shows, round=1)


@session(
    "Answers, of two parts: what is none, then a wrong share, and in another round a wrong part.",
    holders=[1, 2, 3],
    decryptions=2,
    entries=ROW + 1,
)
def refuses_answers(play: Play) -> None:
    play.key()
    for r, at in ((0, 30 + 4 * 4096 + 4 + 4), (1, 30 + 3)):
        play.uploads(r=r)
        (request,) = play.act("server", "close", round=r, alive=[1, 2])
        first, last = play.act("holder 1", "on_request", [request], round=r)
        if not r:
            for shows, named in (
                ("a part missing", [first]),
                ("a part too many", [first, last, last]),
                ("of two holders", [first, play.change(last, SENDER, u32(2))]),
            ):
                play.act("server", "receive", named, error="check", shows=shows, round=r)
        play.act("server", "receive", [play.flipped(first, at), last], round=r)
        sent = play.act("holder 2", "on_request", [request], round=r)
        play.act("server", "receive", sent, round=r)
        play.act("server", "close", error="sum", shows="does not open", round=r)
