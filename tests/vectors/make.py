"""Write the test vectors of ``protocols.bonawitz``: ``python tests/vectors/make.py [folder]``.

One file is one round, as a script: who does what with which message, and what
comes of it. Every byte follows from the entropy in the file, so a second
implementation can be held against any single step. A file called ``refuses_*``
holds the error that it expects. The format is described in
``docs/protocols/bonawitz.md``. The keys in these files are public: they are for
tests and nothing else.
"""

import sys
from pathlib import Path

import refused_by_clients  # noqa: F401  its scripts enter SCRIPTS
from refused_by_servers import reveal_of
from script import SCRIPTS, Script, script, turned

from protocols.bonawitz import Rates
from protocols.bonawitz.messages import Reveal
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


@script(
    "A wrong share is corrected: two more than the threshold have revealed.", clients=5, threshold=3
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


HERE = Path(__file__).parent


def main(folder: Path) -> None:
    for old in HERE.glob("*.json") if folder == HERE else ():
        old.unlink()
    for name, make in SCRIPTS.items():
        (folder / f"{name}.json").write_text(make().to_json())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
