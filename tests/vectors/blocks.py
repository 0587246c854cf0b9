"""Vectors of single blocks: sets, streams, shares, boxes, limits, plans."""

import csv
import hashlib
import io
from typing import Any

import numpy as np
from script import ABOUT, PUBLIC, SESSION, Counting

from protocols.bonawitz.graph import plan_graph
from protocols.bonawitz.messages import SealedShares
from protocols.errors import InputError
from protocols.primitives.aead import seal
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Stream, Suite
from protocols.primitives.shamir import split
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.wire import Header, opaque, u32, u64, write_subset

HEADER = Header(SESSION, 1)
CARRY = bytes.fromhex("80dca91b07fe9538e35495805850fa09b62cd2cb0c215ea0cb7700f1d091a9f5")
"""A seed whose AES counter carries out of its low 32 bits after 4061 blocks."""


def secret(of: str) -> bytes:
    return Counting(of)(32)


def blocks() -> dict[str, Any]:
    """The file ``blocks.json``."""
    return {
        "about": ABOUT,
        "subsets": [_subset(size, chosen) for size, chosen in SUBSETS],
        "refused subsets": [
            {"rule": "R7", "of": size, "shows": shows, "bytes": data}
            for size, data, shows in NO_SUBSETS
        ],
        "streams": [
            _stream(secret("stream"), Suite.AES_128_CTR, 9),
            _stream(secret("stream"), Suite.CHACHA20, 9),
            _stream(CARRY, Suite.AES_128_CTR, 2**15),
        ],
        "agree": _agreed(),
        "shares": _shares(),
        "box": _box(),
        "signature": _signature(),
        "refused signatures": [
            {
                "rule": "R8",
                "shows": "an identity of small order, under which anything is signed",
                "public": (b"\1" + bytes(31)).hex(),
                "label": "label",
                "message": b"what is signed".hex(),
                "signature": (b"\1" + bytes(63)).hex(),
                "error": "check",
            }
        ],
        "agreements": [
            {"rule": "R8", "shows": shows, "bytes": data.hex(), "error": None if good else "check"}
            for shows, data, good in agreements()
        ],
    }


SUBSETS: list[tuple[int, list[int]]] = [
    (3, [0, 2]),
    (8, []),
    (9, [8]),
    (32, []),
    (33, []),
    (40, [39]),
    (41, [40]),
    (49, [0, 48]),
    (300, []),
    (300, [299]),
    (300, [254, 299]),
    (300, [255, 299]),
    (300, list(range(0, 300, 2))),
    (300, list(range(33))),
    (300, list(range(34))),
    (1000, [0, 510, 999]),
]
NO_SUBSETS = [
    (3, "0010", "a place beyond the roster"),
    (9, "00e0", "cut short"),
    (3, "02e0", "another form"),
    (300, "0200000000", "another form of one that gaps would have"),
    (3, "0100000003000000", "gaps, where a bitmap is shorter"),
    (72, "00c0" + 8 * "00", "a bitmap, where gaps are shorter"),
    (40, "0000ff00000000", "a byte more than the roster has"),
    (300, "0100000001ff2d", "a gap that leaves the roster"),
    (300, "0100000001ff", "a gap without its end"),
    (300, "010000000000", "a byte behind the last gap"),
]


def _subset(size: int, chosen: list[int]) -> dict[str, Any]:
    return {"of": size, "places": chosen, "bytes": write_subset(chosen, range(size)).hex()}


def _stream(seed: bytes, suite: Suite, words: int) -> dict[str, Any]:
    label = b"secagg/1 bonawitz test"
    found = np.zeros(words, np.uint64)
    Stream(Secret(seed), label, suite).fill(found)
    data = found.astype("<u8").tobytes()
    return {
        "suite": int(suite),
        "seed": seed.hex(),
        "label": label.decode(),
        "words": words,
        "first": data[:16].hex(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _agreed() -> dict[str, Any]:
    one, other = secret("one"), PrivateKey(Secret(secret("other"))).public
    (seed,) = PrivateKey(Secret(one)).agree(other, b"label")
    return {
        "secret": one.hex(),
        "public": other.hex(),
        "label": "label",
        "gives": seed.expose().hex(),
    }


def _shares() -> dict[str, Any]:
    value, random = Counting("secret")(64), Counting("coefficients")
    shares = split(Secret(value), 3, 5, random)
    return {
        "secret": value.hex(),
        "threshold": 3,
        "coefficients": random.taken.hex(),
        "shares": [share.expose().hex() for share in shares],
    }


def _box() -> dict[str, Any]:
    key, share, nonce = secret("key of a box"), Counting("share")(64), Counting("nonce")
    about = SealedShares.head(HEADER) + u32(1) + u32(3)
    box = seal(Secret(key), Secret(share), about, nonce)
    return {
        "key": key.hex(),
        "share": share.hex(),
        "nonce": nonce.taken.hex(),
        "associated data": about.hex(),
        "box": box.hex(),
    }


def _signature() -> dict[str, Any]:
    key = SigningKey(Secret(secret("identity 3")))
    return {
        "secret": secret("identity 3").hex(),
        "public": key.public.hex(),
        "label": "label",
        "message": b"what is signed".hex(),
        "signature": key.sign(b"label", b"what is signed").hex(),
    }


def agreement_bytes(**changed: Any) -> bytes:
    """An Agreement by its fields, whatever they say."""
    fields: dict[str, Any] = {
        "clients": 9,
        "threshold": 5,
        "minimum": 2,
        "words": 5,
        "suite": 1,
        "active": 0,
        "corrupt": 2**32 - 1,
        "rates": b"",
    }
    fields |= changed
    return b"".join(
        (
            HEADER.to_bytes(),
            *(u32(fields[name]) for name in ("clients", "threshold", "minimum")),
            u64(fields["words"]),
            bytes([fields["suite"], fields["active"]]),
            u32(fields["corrupt"]),
            opaque(fields["rates"]),
            PUBLIC,
        )
    )


def rates(corrupt: str, dropout: str) -> bytes:
    return opaque(corrupt.encode()) + opaque(dropout.encode())


def agreements() -> list[tuple[str, bytes, bool]]:
    """What each shows, its bytes, and whether it is one."""
    wide = {"threshold": 0, "clients": 300}
    most = {"threshold": 0, "active": 1, "rates": rates("1/20", "1/20")}
    cases: list[tuple[str, dict[str, Any], bool]] = [
        ("all well", {}, True),
        ("one client", {"clients": 1, "threshold": 2, "minimum": 1}, False),
        ("a threshold of one", {"threshold": 1}, False),
        ("a threshold above the clients", {"threshold": 10}, False),
        ("no threshold and no rates", {"threshold": 0}, False),
        ("threshold and rates", {"rates": rates("1/20", "1/5")}, False),
        ("65535 clients, complete", {"clients": 65535, "threshold": 40000}, True),
        ("65536 clients, complete", {"clients": 65536, "threshold": 40000}, False),
        ("a minimum of one", {"minimum": 1}, False),
        ("a minimum above the clients", {"minimum": 10}, False),
        ("no words", {"words": 0}, False),
        ("2^33 - 9 words", {"words": 2**33 - 9}, True),
        ("2^33 - 8 words", {"words": 2**33 - 8}, False),
        ("suite 0", {"suite": 0}, False),
        ("suite 2", {"suite": 2}, True),
        ("suite 3", {"suite": 3}, False),
        ("active is 2", {"active": 2, "threshold": 7}, False),
        ("active, a majority of 9 and 3", {"active": 1, "threshold": 7}, True),
        ("active, no majority of 9 and 3", {"active": 1, "threshold": 6}, False),
        ("active, a majority of 9 and 2", {"active": 1, "threshold": 6, "corrupt": 2}, True),
        ("the default of corrupt, said", {"active": 1, "threshold": 7, "corrupt": 3}, False),
        ("all corrupt", {"active": 1, "threshold": 9, "corrupt": 9}, False),
        ("corrupt, curious", {"corrupt": 2}, False),
        ("corrupt and rates", {**wide, "active": 1, "corrupt": 2, "rates": rates("0", "0")}, False),
        ("rates", {**wide, "rates": rates("1/20", "1/3")}, True),
        ("rates that are not reduced", {**wide, "rates": rates("2/40", "1/3")}, False),
        ("rates and a byte more", {**wide, "rates": rates("1/20", "1/3") + b"\0"}, False),
        ("rates as decimals", {**wide, "rates": rates("0.05", "1/3")}, False),
        ("a fraction of one", {**wide, "rates": rates("1", "0")}, False),
        ("a negative fraction", {**wide, "rates": rates("-1/20", "0")}, False),
        ("rates without a plan", {**wide, "rates": rates("1/2", "1/2")}, False),
        ("20000 active", {**most, "clients": 20_000}, True),
        ("20001 active", {**most, "clients": 20_001}, False),
    ]  # fmt: skip
    return [(shows, agreement_bytes(**changed), good) for shows, changed, good in cases]


PLANS = [
    (n, g, d, active)
    for n in (2, 10, 100, 199, 200, 1000, 10_000, 20_000, 100_000)
    for g, d in (("1/20", "1/3"), ("1/10", "3/10"), ("1/3", "1/20"))
    for active in (False, True)
][:50]


def plans() -> str:
    """The file ``plans.csv``: degree (empty: complete), threshold and quorum; or nothing."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["clients", "corrupt", "dropout", "active", "degree", "threshold", "quorum"])
    for n, g, d, active in PLANS:
        try:
            plan = plan_graph(n, g, d, active=active)
            found = [plan.degree or "complete", plan.threshold, plan.quorum]
        except InputError:
            found = ["none", "", ""]
        table.writerow([n, g, d, int(active), *found])
    return out.getvalue()
