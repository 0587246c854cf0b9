"""Vectors of single blocks of ``protocols.ckks``: noise, products, cuts, numbers as words."""

import hashlib
from typing import Any

import numpy as np
from ckks_play import Ours, sha
from ckks_scripts import SCRIPTS
from script import ABOUT, Counting

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
from protocols.primitives.prg import Stream, from_seed
from protocols.secrets import Secret

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


def _parties(name: str) -> Ours:
    return SCRIPTS[name]().parties


def _hex(words: list[int]) -> list[str]:
    return [f"{word:016x}" for word in words]
