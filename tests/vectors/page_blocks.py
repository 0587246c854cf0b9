"""What both protocols' second implementations are made of, from the masks' page alone.

Streams, key agreement, Shamir's scheme and lists. Nothing of ``protocols`` is imported here.
"""

import hashlib
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

Row = dict[int, bytes]


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def checked(data: bytes) -> bytes:
    return data + sha(data)[:16]


def opaque(data: bytes) -> bytes:
    return u32(len(data)) + data


def public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, theirs: bytes, label: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(secret)
    shared = key.exchange(X25519PublicKey.from_public_bytes(theirs))
    return HKDF(hashes.SHA256(), 32, None, label).derive(shared)


def stream(seed: bytes, label: bytes, suite: int, count: int) -> bytes:
    info = bytes([suite]) + label
    if suite == 1:
        material = HKDFExpand(hashes.SHA256(), 28, info).derive(seed)
        cipher: Any = Cipher(algorithms.AES(material[:16]), modes.CTR(material[16:] + u32(2)))
    else:
        material = HKDFExpand(hashes.SHA256(), 44, info).derive(seed)
        cipher = Cipher(algorithms.ChaCha20(material[:32], bytes(4) + material[32:]), None)
    return bytes(cipher.encryptor().update(bytes(count)))


def words_of(data: bytes) -> list[int]:
    return [int.from_bytes(data[place : place + 8], "little") for place in range(0, len(data), 8)]


def symbols(data: bytes) -> list[int]:
    return [int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2)]


def powers_of_z() -> tuple[list[int], list[int]]:
    """z is primitive: its powers are all elements but 0, and a product is a sum of exponents."""
    powers, logs, element = [], [0] * 2**16, 1
    for exponent in range(2**16 - 1):
        powers.append(element)
        logs[element] = exponent
        element <<= 1
        element ^= 0x1100B if element >> 16 else 0
    return powers * 2, logs


POWERS, LOGS = powers_of_z()


def times(one: int, other: int) -> int:
    return POWERS[LOGS[one] + LOGS[other]] if one and other else 0


def inverse(element: int) -> int:
    return POWERS[2**16 - 1 - LOGS[element]]


def split(secret: bytes, coefficients: bytes, holders: int) -> list[bytes]:
    size = len(secret)
    rows = [coefficients[at : at + size] for at in range(0, len(coefficients), size)]
    shares = []
    for x in range(1, holders + 1):
        values = [0] * (size // 2)
        for row in (*rows, secret):
            values = [times(v, x) ^ c for v, c in zip(values, symbols(row), strict=True)]
        shares.append(b"".join(value.to_bytes(2, "big") for value in values))
    return shares


def combine(shares: Row) -> bytes:
    total = [0] * 16
    for x, share in shares.items():
        weight = 1
        for other in shares.keys() - {x}:
            weight = times(weight, times(other, inverse(other ^ x)))
        total = [t ^ times(weight, y) for t, y in zip(total, symbols(share), strict=True)]
    return b"".join(value.to_bytes(2, "big") for value in total)


def entries(data: bytes, size: int) -> Row:
    """A list of (u32 client, bytes), after its count."""
    count, rest = int.from_bytes(data[:4], "big"), data[4:]
    assert len(rest) == count * (4 + size)
    parts = (rest[at : at + 4 + size] for at in range(0, len(rest), 4 + size))
    return {int.from_bytes(part[:4], "big"): part[4:] for part in parts}


def joined(row: Row) -> bytes:
    return u32(len(row)) + b"".join(u32(client) + row[client] for client in sorted(row))
