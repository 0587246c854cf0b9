"""Work that a cost is measured beside, so that two runs of a swinging machine can be compared.

Each is what a library of the system does, with nothing of ours in it. A cost over the
reference that bounds it moves by a few percent where seconds move by two.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.entropy import system
from protocols.primitives.prg import CHUNK_WORDS
from secagg.bench.measure import Work

MEBIBYTE: Final = 2**20
_CHUNK: Final = 8 * CHUNK_WORDS  # bytes; as large a piece as masks are made in


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A unit of work, and how to make something that does it once."""

    name: str
    unit: str
    make: Callable[[], Work]


def keystream(size: int = MEBIBYTE) -> Work:
    """``size`` bytes of AES-128-CTR keystream, a chunk at a time into one buffer."""
    update = Cipher(algorithms.AES(system(16)), modes.CTR(system(16))).encryptor().update_into
    zeros, out = bytes(_CHUNK), bytearray(_CHUNK)

    def run() -> None:
        for _ in range(size // _CHUNK):
            update(zeros, out)
        if size % _CHUNK:
            update(zeros[: size % _CHUNK], out)

    return run


def exchange() -> Work:
    """One X25519 exchange, the peer's key decoded for it."""
    mine = X25519PrivateKey.generate()
    theirs = X25519PrivateKey.generate().public_key().public_bytes_raw()
    return lambda: mine.exchange(X25519PublicKey.from_public_bytes(theirs))


def sha256() -> Work:
    """SHA-256 of a mebibyte."""
    data = bytes(MEBIBYTE)
    return lambda: hashlib.sha256(data).digest()


def addition() -> Work:
    """A mebibyte of uint64 words added to another, in pieces that stay in the cache."""
    total, words = (np.zeros(CHUNK_WORDS, np.uint64) for _ in range(2))

    def run() -> None:
        for _ in range(MEBIBYTE // _CHUNK):
            np.add(total, words, out=total)

    return run


AES: Final = Reference(name="aes", unit="MiB of AES-128-CTR", make=keystream)
X25519: Final = Reference(name="x25519", unit="X25519 exchange", make=exchange)
SHA256: Final = Reference(name="sha256", unit="MiB of SHA-256", make=sha256)
NUMPY: Final = Reference(name="numpy", unit="MiB of uint64 added in numpy", make=addition)
REFERENCES: Final = {each.name: each for each in (AES, X25519, SHA256, NUMPY)}
