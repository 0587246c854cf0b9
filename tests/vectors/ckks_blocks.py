"""Vectors of single blocks of ``protocols.ckks``: noise, products, cuts, numbers as words."""

import hashlib
from typing import Any

import numpy as np
from ckks_play import Ours, sha
from ckks_scripts import SCRIPTS
from script import ABOUT, SESSION, Counting
from second_ckks import Terms

from protocols.ckks import Agreement
from protocols.ckks.coefficients import (
    DEGREE,
    Coefficients,
    Poly,
    cut,
    errors,
    product,
    small_spectrum,
    spectra,
    ternary,
)
from protocols.ckks.noise import gaussian
from protocols.errors import DecodeError
from protocols.primitives.prg import Stream, from_seed
from protocols.secrets import Secret
from protocols.wire import Reader

SEED = Counting("block")(32)
WORDS = [0, 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF, 2**15, 2**47 - 1, 2**48 + 2**39]
INTEGERS = "ckks_shared_integers"
REALS = "ckks_shared_reals"


def blocks() -> dict[str, Any]:
    """The file ``ckks_blocks.json``."""
    return {
        "about": ABOUT,
        "seed": SEED.hex(),
        "gaussians": [
            _gaussians(count, deviation)
            for count, deviation in ((8, 1.0), (9, 2.0**50), (2 * DEGREE, 1.2345e9))
        ],
        "products": [_product(limbs) for limbs in (2, 3)],
        "cuts": [_cut(kept) for kept in range(2, 9)],
        "integers": [_integers(bits) for bits in (1, 38, 39, 60, 64)],
        "reals": _reals(),
        "agreements": agreements(),
    }


def _gaussians(count: int, deviation: float) -> dict[str, Any]:
    label = "gaussians"
    found = gaussian(count, deviation, from_seed(Secret(SEED), label.encode()))
    return {
        "label": label,
        "count": count,
        "deviation": deviation.hex(),
        "first": found[:8].tolist(),
        "sha256": sha(found.astype("<i8").tobytes()),
    }


def _product(limbs: int) -> dict[str, Any]:
    """A uniform polynomial times a ternary one, plus an error, each of a label of its own."""
    ring = Coefficients(limbs=limbs)
    labels = ["uniform", "ternary", "errors"]
    uniform, small, more = (Stream(Secret(SEED), label.encode()) for label in labels)
    factor = small_spectrum(ternary(small, DEGREE))
    other = spectra(ring, Poly.drawn(ring, uniform))
    data = product(ring, factor, other, errors(more, (DEGREE,))).to_bytes()
    return {
        "limbs": limbs,
        "labels": labels,
        "first": data[:32].hex(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _cut(kept: int) -> dict[str, Any]:
    words = np.array(WORDS, np.uint64)
    return {"kept": kept, "words": _hex(WORDS), "bytes": cut(words, kept).hex()}


def _integers(bits: int) -> dict[str, Any]:
    """Integers in the session of the file that is named, and the words of all their digits."""
    values = sorted({0, 1, 2 ** (bits - 1), 2**bits - 1, 0x0123456789ABCDEF % 2**bits})
    ours = _parties(INTEGERS)
    words = ours.integers(np.array(values, np.uint64), bits)
    return {"of": INTEGERS, "bits": bits, "values": _hex(values), "words": _hex(words.tolist())}


def _reals() -> dict[str, Any]:
    """Reals at the clip and at ties, as the words that a client adds."""
    ours = _parties(REALS)
    clip, encoding = ours.params["clip"], ours.agreed.encoding
    step = clip / encoding.scale
    values = [0.0, clip, -clip, step / 2, 3 * step / 2, -step / 2, clip / 3, -clip / 7]
    words = encoding.encode_reals(np.array(values))
    return {"of": REALS, "values": [v.hex() for v in values], "words": _hex(words.tolist())}


HOLDERS = {"model": 2, "holders": 5, "threshold": 4, "corrupt": 1}
AGREEMENTS: list[tuple[str, dict[str, Any]]] = [
    ("all well, a shared key", {}),
    ("all well, a threshold key", HOLDERS),
    ("model 0", {"model": 0}),
    ("model 3", {"model": 3}),
    ("one client", {"clients": 1, "minimum_survivors": 1}),
    ("a minimum of one", {"minimum_survivors": 1}),
    ("a minimum above the clients", {"minimum_survivors": 101}),
    ("no entries", {"entries": 0}),
    ("no decryptions", {"decryptions": 0}),
    ("a round beyond the decryptions", {"round": 2}),
    ("a clip of 0", {"clip": 0.0}),
    ("an infinite clip", {"clip": float("inf")}),
    ("a clip that is no number", {"clip": float("nan")}),
    ("limbs 1", {"limbs": 1}),
    ("limbs 4", {"limbs": 4}),
    ("no polynomials to a c1", {"messages": 0}),
    ("16 polynomials to a c1", {"messages": 16}),
    ("17 polynomials to a c1", {"messages": 17}),
    ("one byte", {"kept": 1}),
    ("nine bytes", {"kept": 9}),
    ("no flooding", {"flooding": 0}),
    ("no flooding under a threshold key", HOLDERS | {"flooding": 0}),
    ("29 bits of flooding", {"flooding": 29}),
    ("71 bits of flooding, sigma below 2^50", {"limbs": 3, "flooding": 71}),
    ("72 bits of flooding, sigma above 2^50", {"limbs": 3, "flooding": 72}),
    ("holders under a shared key", {"holders": 2}),
    ("a threshold under a shared key", {"threshold": 2}),
    ("one holder", HOLDERS | {"holders": 1, "threshold": 1, "corrupt": 0}),
    ("all corrupt", HOLDERS | {"threshold": 5, "corrupt": 5}),
    ("no majority of 5 and 1", HOLDERS | {"threshold": 3}),
    ("a majority of 5 and 2", HOLDERS | {"corrupt": 2}),
    ("a threshold above the holders", HOLDERS | {"threshold": 6}),
    ("a scale of 2", {"scale_sixteenths": 16}),
    ("a scale below 2", {"scale_sixteenths": 15}),
    ("a scale of 2^9 modulo 2^72", {"limbs": 3, "scale_sixteenths": 144}),
    ("a scale below 2^9 modulo 2^72", {"limbs": 3, "scale_sixteenths": 143}),
    ("the largest scale", {"scale_sixteenths": 901}),
    ("a scale at which a sum wraps", {"scale_sixteenths": 902}),
    ("eight bits exact", {"kept": 2, "clients": 250}),
    ("seven bits exact", {"kept": 2, "clients": 300}),
    ("a byte left over", {"more": b"\0"}),
]


def agreements() -> list[dict[str, Any]]:
    """Agreements that are one or not."""
    return [_agreement(shows, **changed) for shows, changed in AGREEMENTS]


def _agreement(shows: str, **changed: Any) -> dict[str, Any]:
    """An Agreement by its fields, whatever they say, and whether ours is one."""
    fields: dict[str, Any] = {
        "session": SESSION,
        "public": bytes(32),
        "model": 1,
        "clients": 100,
        "minimum_survivors": 2,
        "entries": 10_000,
        "decryptions": 2,
        "clip": 1.0,
        "limbs": 2,
        "messages": 1,
        "kept": 4,
        "scale_sixteenths": 640,
        "flooding": 30,
        **changed,
    }
    r, more = fields.pop("round", 0), fields.pop("more", b"")
    reader = Reader(Terms(**fields).agreement(r) + more)
    data = bytes(reader.rest)
    try:
        Agreement.read(reader)
        reader.finish()
    except DecodeError:
        return {"shows": shows, "bytes": data.hex(), "error": "decode" if more else "check"}
    return {"shows": shows, "bytes": data.hex(), "error": None}


def _parties(name: str) -> Ours:
    return SCRIPTS[name]().parties


def _hex(words: list[int]) -> list[str]:
    return [f"{word:016x}" for word in words]
