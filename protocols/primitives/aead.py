"""A box from one party to another: AES-256-GCM under a key for that box alone [NIST SP 800-38D].

The key belongs to one sender, recipient and round, so a nonce could hardly
repeat; it is random all the same, and travels in front of the ciphertext. What
the box is about is associated data: moved elsewhere, it does not open.

An authenticator is the tag of an empty box: GMAC [there, section 3] under a key for one vector.
"""

from collections.abc import Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from protocols.entropy import Entropy
from protocols.errors import RemoteProtocolError
from protocols.secrets import Secret

NONCE_SIZE = 12  # bytes, 96 random bits
OVERHEAD = NONCE_SIZE + 16  # bytes a box is longer than its content: nonce and tag
GMAC_KEY_SIZE = 16 + NONCE_SIZE  # bytes: a key of AES-128, and the nonce of its one use
_CHUNK_WORDS = 2**15  # 256 KiB: stays in the second-level cache for all keys


def seal(key: Secret, content: Secret, about: bytes, entropy: Entropy) -> bytes:
    """Encrypt and authenticate ``content``, and authenticate ``about``."""
    nonce = entropy(NONCE_SIZE)
    return nonce + AESGCM(key.expose()).encrypt(nonce, content.expose(), about)


def unseal(key: Secret, box: bytes, about: bytes) -> Secret:
    """Raises ``RemoteProtocolError`` unless ``box`` was sealed under ``key`` about the same."""
    try:
        return Secret(AESGCM(key.expose()).decrypt(box[:NONCE_SIZE], box[NONCE_SIZE:], about))
    except (InvalidTag, ValueError):
        raise RemoteProtocolError("a box does not open: wrong key or place, or changed") from None


def authenticators(keys: Sequence[Secret], words: NDArray[np.uint64]) -> list[bytes]:
    """Authenticate one vector under each of ``keys``, 28 uniform bytes that serve once.

    Returns:
      16 bytes a key, of the words in little-endian bytes.
    """
    ciphers = [
        Cipher(algorithms.AES(key.expose()[:16]), modes.GCM(key.expose()[16:])).encryptor()
        for key in keys
    ]
    for begin in range(0, len(words), _CHUNK_WORDS):
        chunk = words[begin : begin + _CHUNK_WORDS].data.cast("B")
        for cipher in ciphers:
            cipher.authenticate_additional_data(chunk)
    tags = []
    for cipher in ciphers:
        cipher.finalize()
        tags.append(cipher.tag)
    return tags
