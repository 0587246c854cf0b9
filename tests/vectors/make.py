"""Write the test vectors of all protocols: ``python tests/vectors/make.py [folder]``.

One file is one round of masks, or one session of sums under encryption (``ckks_*``), as a
script: who does what with which message, and what comes of it. Every byte follows from the
entropy that the file names, so a second implementation can be held against any single step. A
file called ``refuses_*`` holds the errors that it expects. The formats are described in
``docs/protocols/bonawitz.md`` and ``docs/protocols/ckks.md``. The keys in these files are
public: they are for tests and nothing else.
"""

import json
import sys
from pathlib import Path

import ckks_blocks
import ckks_scripts
from blocks import blocks, plans
from carried import carried
from codec import codec
from picks import picks
from refused_by_clients import NOTHING_YET, boxes_of
from refused_by_servers import changed_body, reveal_of
from script import SCRIPTS, Script, script, turned
from zero_sharing import zero_sharing

from protocols.bonawitz import Rates
from protocols.bonawitz.messages import Reveal, ShareBoxes, Signatures
from protocols.primitives.prg import Suite
from protocols.secrets import Secret

RATES = Rates(corrupt_fraction="0.1", dropout="0.3")
SOME = [0, 1, 2, 3, 5, 8, 13, 2**31, 2**32 - 1]
A_CLIENT = "a client drops out at every stage."


@script(
    f"Complete graph, curious server; {A_CLIENT}",
    clients=SOME,
    threshold=5,
    minimum_survivors=3,
    words=5,
)
def complete_curious_aes(run: Script) -> None:
    run.keys(2)
    run.shares(0)
    run.vectors(8)
    run.reveals(13)


@script(
    f"Complete graph, curious server, ChaCha20; {A_CLIENT}",
    clients=SOME,
    threshold=5,
    minimum_survivors=3,
    words=5,
    suite=Suite.CHACHA20,
)
def complete_curious_chacha20(run: Script) -> None:
    complete_curious_aes(run)


@script(
    f"Sparse graph, curious server; {A_CLIENT}",
    clients=13,
    rates=RATES,
    minimum_survivors=4,
    words=5,
)
def sparse_curious(run: Script) -> None:
    run.keys(12)
    run.shares(4)
    run.vectors(7)
    run.reveals(0)


@script(
    f"Complete graph, active server; {A_CLIENT}",
    clients=13,
    threshold=8,
    words=5,
    active=True,
    max_corrupt=2,
)
def complete_active(run: Script) -> None:
    run.keys(11)
    run.shares(4)
    run.vectors(7)
    run.signed(9)
    run.reveals(0)


@script(
    f"Rates, active server, ChaCha20, so few clients that the graph is complete; {A_CLIENT}",
    clients=17,
    rates=Rates(corrupt_fraction="0.1", dropout="0.25"),
    words=5,
    active=True,
    suite=Suite.CHACHA20,
)
def rates_active(run: Script) -> None:
    run.keys(16)
    run.shares(4)
    run.vectors(7)
    run.signed(9)
    run.reveals(0)


@script("A vector that with its check word is one word longer than a frame.", words=2**15)
def two_frames(run: Script) -> None:
    run.keys()
    run.shares()
    run.vectors(1)
    run.reveals()


@script("Every client moves into a record and out again after each of its answers.", records=True)
def through_records(run: Script) -> None:
    run.keys()
    run.shares()
    run.vectors(1)
    run.reveals()


@script(
    "As through_records, against an active server: the fourth stage has a record too.",
    clients=4,
    threshold=3,
    active=True,
    records=True,
)
def through_records_active(run: Script) -> None:
    run.keys()
    run.shares()
    run.vectors(1)
    run.signed()
    run.reveals()


def whole_round(run: Script) -> None:
    run.keys()
    run.shares()
    run.vectors()
    run.reveals()


@script("Two clients, one word.", clients=2, words=1)
def two_clients(run: Script) -> None:
    whole_round(run)


@script("A vector that with its check word fills one frame.", rule="R38", words=2**15 - 1)
def one_full_frame(run: Script) -> None:
    whole_round(run)


@script(
    "Sparse graph: more survivors are wanted than the threshold, and fewer are than came.",
    rule="R43",
    clients=8,
    rates=Rates(corrupt_fraction="0", dropout="0.3"),
    minimum_survivors=6,
)
def sparse_minimum_above_threshold(run: Script) -> None:
    run.keys()
    run.shares(3)
    run.vectors(5)
    run.reveals()


@script(
    "A box does not open, and enough others do: its client holds no share of who sealed it.",
    rule="R33",
    clients=5,
    threshold=3,
)
def a_box_that_does_not_open(run: Script) -> None:
    run.keys()
    run.shares()
    boxes = boxes_of(run)
    data = ShareBoxes(
        header=run.header, recipient=0, boxes=boxes | {1: turned(boxes[1], -1)}
    ).to_bytes()
    bad = run.change("boxes 0", "lowest bit of the box of client 1", data)
    run.act("server", "receive", run.act("client 0", "on_boxes", [bad]))
    for client in run.clients[1:]:
        sent = run.act(f"client {client}", "on_boxes", [f"boxes {client}"])
        run.act("server", "receive", sent)
    run.act("server", "close")
    run.reveals()


@script(
    "A client's own signature counts, listed or not; strangers' and bad ones are passed over.",
    rule="R52",
    clients=5,
    threshold=4,
    active=True,
)
def own_signature_is_not_listed(run: Script) -> None:
    run.keys()
    run.shares()
    run.vectors()
    run.signed()
    signed = Signatures.from_bytes(run.bytes["signatures 0"], expect=run.header).signatures
    others = {1: turned(signed[1], 0), 2: signed[2], 3: signed[3], 4: signed[4], 9: signed[2]}
    data = Signatures(header=run.header, signatures=others).to_bytes()
    change = "its own left out, that of client 1 changed, one of client 9 added"
    named = run.change("signatures 0", change, data)
    run.act("server", "receive", run.act("client 0", "on_signatures", [named]))
    for client in run.clients[1:]:
        sent = run.act(f"client {client}", "on_signatures", [f"signatures {client}"])
        run.act("server", "receive", sent)
    run.act("server", "close")


@script("Keys are compared as bytes: another encoding of one is taken.", rule="R11")
def key_with_its_top_bit_set(run: Script) -> None:
    run.act("server", "receive", run.act("client 1", "join"))
    run.act("client 0", "join")
    mask = bytearray(run.bytes["advertise 1"][26:58])
    mask[-1] |= 0x80
    data = changed_body(run, "advertise 0", 26, bytes(mask))
    change = "the mask key of client 1 with its top bit set"
    run.act("server", "receive", [run.change("advertise 0", change, data)])


@script(
    "A wrong share is corrected: two more than the threshold have revealed.",
    rule="R50",
    clients=5,
    threshold=3,
)
def wrong_share_is_corrected(run: Script) -> None:
    run.keys()
    run.shares()
    run.vectors()
    shares = reveal_of(run).shares
    wrong = shares | {1: Secret(turned(shares[1].expose(), 0))}
    data = Reveal(header=run.header, sender=0, shares=wrong).to_bytes()
    change = "lowest bit of the first byte of the share of client 1"
    run.act("server", "receive", [run.change("reveal 0", change, data)])
    for client in run.clients[1:]:
        run.act(
            "server",
            "receive",
            run.act(f"client {client}", "on_survivors", [f"survivors {client}"]),
        )
    run.act("server", "close")


@script("Keys alone are older than what is public: a client adds it before it reads a roster.")
def keys_ahead(run: Script) -> None:
    run.act("server", "begin")
    run.agrees = NOTHING_YET
    run.keys()
    for client in run.clients:
        run.act(f"client {client}", "rebind")
    run.shares()
    run.vectors(1)
    run.reveals()


@script(
    "Keys and shares are older than what is public; a client is lost at each stage behind.",
    rule="R58",
    clients=5,
    threshold=3,
)
def shares_ahead(run: Script) -> None:
    run.agrees = NOTHING_YET
    run.act("server", "begin")
    run.keys()
    run.shares(close=False)
    run.act("server", "rebind")
    run.act("server", "close")
    for client in run.clients:
        run.act(f"client {client}", "rebind")
    run.vectors(3)
    run.reveals(4)


HERE = Path(__file__).parent


def main(folder: Path) -> None:
    for old in HERE.glob("*.json") if folder == HERE else ():
        old.unlink()
    for name, make in SCRIPTS.items():
        (folder / f"{name}.json").write_text(make().to_json())
    for name, play in ckks_scripts.SCRIPTS.items():
        (folder / f"{name}.json").write_text(play().to_json())
    for name, made in (
        ("blocks", blocks()),
        ("carried", carried()),
        ("ckks_blocks", ckks_blocks.blocks()),
        ("codec", codec()),
        ("picks", picks()),
        ("zero_sharing", zero_sharing()),
    ):
        (folder / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n")
    (folder / "plans.csv").write_text(plans())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
