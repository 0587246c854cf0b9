"""What the page on the wire says that can be checked, checked."""

import hashlib
import inspect
import json
import re
from collections.abc import Callable
from math import ceil, log2
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from protocols.bonawitz import messages
from protocols.bonawitz.graph import plan_graph
from protocols.bonawitz.messages import FRAME_WORDS
from protocols.bonawitz.params import VERSION
from protocols.bonawitz.records import RECORD
from protocols.errors import InputError
from protocols.wire import Message

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "protocols" / "bonawitz.md").read_text()
KINDS = [
    kind
    for kind in vars(messages).values()
    if inspect.isclass(kind) and issubclass(kind, Message) and kind is not Message
]
FIRST = json.loads((HERE / "complete_curious_aes.json").read_text())


def table(*header: str) -> list[list[str]]:
    """The rows of the table with this header."""
    lines = PAGE.splitlines()
    begin = lines.index("| " + " | ".join(header) + " |") + 2
    rows = []
    while begin < len(lines) and lines[begin].startswith("|"):
        *cells, _ = lines[begin][1:].split(" |")
        rows.append([cell.strip() for cell in cells])
        begin += 1
    return rows


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_structs_of_the_page_are_those_of_the_code(kind: type[Message]) -> None:
    written = inspect.getdoc(kind) or ""
    struct = written[written.index("struct {") :].partition("\n\nAttributes:")[0].rstrip()
    assert f"```\n{struct}\n```" in PAGE
    assert f"type = {kind.TYPE:#04x};" in struct


def test_the_pages_picture_is_that_of_the_code() -> None:
    written = inspect.getdoc(messages) or ""
    picture = written[written.index("    client ") : written.index("\n\nIntegers")]
    assert picture in PAGE


def test_the_names_of_the_page_are_those_on_the_wire() -> None:
    assert f'"{VERSION.decode()}"' in PAGE
    assert f'"{RECORD.decode()}"' in PAGE
    assert FRAME_WORDS == 2**15
    assert "frames of 2^15 words" in PAGE


@pytest.mark.parametrize(
    "row", table("n, g, d", "curious: k, t", "active: k, t"), ids=lambda row: row[0]
)
def test_the_plans_of_the_page_are_those_of_the_planner(row: list[str]) -> None:
    clients, corrupt, dropout = row[0].split(", ")
    for active, cell in zip((False, True), row[1:], strict=True):
        if cell == "none":
            with pytest.raises(InputError):
                plan_graph(int(clients), corrupt, dropout, active=active)
            continue
        found = plan_graph(int(clients), corrupt, dropout, active=active)
        assert cell == f"{found.degree or 'complete'}, {found.threshold}"


def size(name: str, *, near: int, shared: int, words: int, complete: bool, signed: int) -> int:
    """Bytes of one client's message (or messages) by the page's table; ``signed`` 0 if curious.

    A set of survivors is a bitmap, as in a round that loses few.
    """
    frames = ceil((words + 1) / FRAME_WORDS)
    base, more = {
        "Advertise": (106, 64),
        "Roster": (70 + 68 * (near + 1), 64 * (near + 1)),
        "SealedShares": (54 + 96 * near, 0),
        "ShareBoxes": (30 + 96 * shared, 0),
        "MaskedFrame": (46 * frames + 8 * (words + 1), 0),
        "Survivors": ((22 if complete else 26) + 1 + ceil((near + 1) / 8), 0),
        "SignedSurvivors": (0, 106),
        "Signatures": (0, 26 + 68 * signed),
        "Reveal": (46 + 36 * (shared + complete), 0),
    }[name]
    return base + (more if signed else 0)


def test_the_table_of_sizes_is_the_one_computed_here() -> None:
    rows = {row[0]: row[1:] for row in table("message", "bytes", "active, more")}
    assert list(rows) == [kind.__name__ for kind in sorted(KINDS, key=order)]
    assert rows["Advertise"] == ["106", "64"]
    assert rows["Roster"] == ["70 + 68 (near + 1)", "64 (near + 1)"]
    assert rows["SealedShares"][0] == "54 + 96 near"
    assert rows["ShareBoxes"][0] == "30 + 96 near_s"
    assert rows["MaskedFrame"][0] == "46 f + 8 m"
    assert rows["Mark"] == ["", "picks alone: 106 + S"]
    assert rows["Survivors"][0] == "22 + S, sparse 26 + S"
    assert rows["SignedSurvivors"] == ["", "106"]
    assert rows["Signatures"] == ["", "26 + 68 each"]
    assert rows["Reveal"][0] == "46 + 36 (near_s + 1 complete, near_s sparse)"


def order(kind: type[Message]) -> float:
    """In the order in which they travel, which is not quite that in which they were made."""
    late = {"Mark": 5.5, "Reveal": 99}
    return late.get(kind.__name__, kind.TYPE)


NAMES = {
    "Advertise": "advertise {}",
    "Roster": "roster {}",
    "SealedShares": "shares {}",
    "ShareBoxes": "boxes {}",
    "MaskedFrame": "frame 0 of {}",
    "Survivors": "survivors {}",
    "SignedSurvivors": "signed {}",
    "Signatures": "signatures {}",
    "Reveal": "reveal {}",
}


@pytest.mark.parametrize("name", ["complete_curious_aes", "complete_active", "rates_active"])
@pytest.mark.parametrize("client", [1, 3, 5])
def test_the_sizes_of_the_page_are_those_of_the_vectors(name: str, client: int) -> None:
    script = json.loads((HERE / f"{name}.json").read_text())
    sent = {entry["name"]: entry for entry in script["messages"]}

    def sent_size(kind: str) -> int:
        entry = sent[NAMES[kind].format(client)]
        return len(sent[entry.get("same_as", entry["name"])]["bytes"]) // 2

    advertised = sum(name.startswith("advertise") for name in sent)
    degree, active = script["plan"]["degree"], script["params"]["active"]
    boxes = bytes.fromhex(sent[f"boxes {client}"]["bytes"])
    signed = (sent_size("Signatures") - 26) // 68 if active else 0
    for kind in NAMES:
        if not active and kind in ("SignedSurvivors", "Signatures"):
            continue
        assert sent_size(kind) == size(
            kind,
            near=degree or advertised - 1,
            shared=int.from_bytes(boxes[26:30], "big"),
            words=script["params"]["words"],
            complete=degree is None,
            signed=signed,
        )


def factor(clients: int, entries: int, lanes: int, degree: int | None, *, active: bool) -> float:
    """Bits that a client sends and receives, over 16 for each entry; nobody is gone."""
    near = degree or clients - 1
    total = sum(
        size(
            kind,
            near=near,
            shared=near,
            words=ceil(entries / lanes),
            complete=degree is None,
            signed=(degree or clients) if active else 0,
        )
        for kind in NAMES
    )
    return 8 * total / (16 * entries)


def papers_factor(clients: int, entries: int) -> float:
    """[BIK+17], section 7, over the vector in the clear."""
    sums = ceil(log2(clients * (2**16 - 1) + 1))
    bits = 2 * clients * 256 + (5 * clients - 4) * 256 + entries * sums
    return bits / (16 * entries)


def test_the_papers_formula_gives_the_papers_numbers() -> None:
    assert f"{papers_factor(2**10, 2**20):.3f}" == "1.734"
    assert f"{papers_factor(2**14, 2**24):.3f}" == "1.984"


def test_the_factors_of_the_page_are_the_papers_and_ours() -> None:
    rows = table("n, d", "paper", "lanes", "complete", "sparse", "complete, active")
    assert len(rows) == 6
    for row in rows:
        clients, entries = (2 ** int(power) for power in re.findall(r"2\^(\d+)", row[0]))
        assert row[1] == f"{papers_factor(clients, entries):.3f}"
        degree = plan_graph(clients, ".05", ".33", active=False).degree
        assert degree is not None
        ours = [
            factor(clients, entries, int(row[2]), graph, active=active)
            for graph, active in ((None, False), (degree, False), (None, True))
        ]
        assert row[3:] == [f"{each:.3f}" for each in ours]


# The worked example, recomputed from the page's own rules.


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def expand(seed: bytes, info: bytes, size: int) -> bytes:
    return HKDFExpand(hashes.SHA256(), size, info).derive(seed)


def example() -> dict[str, bytes]:
    rows = table("what", "bytes")
    return {
        what.replace("`", ""): bytes.fromhex(value.strip("`"))
        for what, value in rows
        if re.fullmatch(r"`[0-9a-f]+`", value)
    }


def test_the_worked_example_follows_from_the_rules_of_the_page() -> None:
    shown = example()
    header = bytes.fromhex(FIRST["session"]) + u32(FIRST["round"])
    roster = next(entry for entry in FIRST["messages"] if entry["name"].startswith("roster"))
    entries = bytes.fromhex(roster["bytes"])[70:]
    keys = {int.from_bytes(entries[at : at + 4], "big"): at for at in range(0, len(entries), 68)}
    peer = entries[keys[3] + 4 : keys[3] + 68]
    mask, seal, draw = (
        bytes.fromhex(FIRST["entropy"]["client 1"])[at : at + 32] for at in (0, 32, 64)
    )

    def label(usage: str, about: bytes) -> bytes:
        start = f"secagg/1 bonawitz {usage} ".encode()
        return start + shown["context"] + header + about

    def agree(secret: bytes, public: bytes, info: bytes) -> bytes:
        key = X25519PrivateKey.from_private_bytes(secret)
        shared = key.exchange(X25519PublicKey.from_public_bytes(public))
        return HKDF(hashes.SHA256(), 32, bytes(32), info).derive(shared)

    def aes(seed: bytes, info: bytes) -> bytes:
        made = expand(seed, b"\x01" + info, 28)
        cipher = Cipher(algorithms.AES(made[:16]), modes.CTR(made[16:] + (2).to_bytes(4, "big")))
        return cipher.encryptor().update(bytes(16))

    def chacha(seed: bytes, info: bytes) -> bytes:
        made = expand(seed, b"\x02" + info, 44)
        cipher = Cipher(algorithms.ChaCha20(made[:32], bytes(4) + made[32:]), None)
        return cipher.encryptor().update(bytes(16))

    own = X25519PrivateKey.from_private_bytes(mask).public_key().public_bytes_raw()
    agreement = shown["Agreement"]
    whole = b"secagg/1 bonawitz" + agreement + shown["SHA-256(entries)"]
    both = u32(1) + u32(3)
    pair, sealing = label("pair", both), label("seal", both + own + peer[:32])
    seed = agree(mask, peer[:32], pair)
    rules: dict[str, Callable[[], bytes]] = {
        "Agreement": lambda: bytes.fromhex(FIRST["agreement"]),
        "SHA-256(entries)": lambda: hashlib.sha256(entries).digest(),
        "context": lambda: hashlib.sha256(whole).digest(),
        "pair(1, 3)": lambda: pair,
        "self(1)": lambda: label("self", u32(1)),
        "draw(1)": lambda: label("draw", u32(1)),
        "seal(1, 3)": lambda: sealing,
        "survivors": lambda: label("survivors", b""),
        "keys(1)": lambda: (
            b"secagg/1 bonawitz keys " + hashlib.sha256(agreement).digest() + b" " + u32(1)
        ),
        "agree(mask key of 1, mask key of 3, pair(1, 3))": lambda: seed,
        "first two words of its stream, suite 1": lambda: aes(seed, pair),
        "first two words of its stream, suite 2": lambda: chacha(seed, pair),
        "key of the box from 1 to 3": lambda: agree(seal, peer[32:], sealing),
        "first 16 bytes of the stream draw of 1": lambda: aes(draw, label("draw", u32(1))),
    }
    assert shown == {what: rule() for what, rule in rules.items()}


def test_the_page_names_every_field_of_a_vector() -> None:
    for field in FIRST:
        if field != "about":
            assert f"`{field}`" in PAGE
    done = {step["does"] for file in HERE.glob("*.json") for step in steps_of(file)}
    for step in done:
        assert f"`{step}`" in PAGE


def steps_of(file: Path) -> list[dict[str, str]]:
    steps: list[dict[str, str]] = json.loads(file.read_text()).get("steps", [])
    return steps
