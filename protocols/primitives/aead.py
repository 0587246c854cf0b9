"""A box from one party to another: AES-256-GCM under a key for that box alone [NIST SP 800-38D].

The key belongs to one sender, recipient and round, so a nonce could hardly
repeat; it is random all the same, and travels in front of the ciphertext. What
the box is about is associated data: moved elsewhere, it does not open.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.entropy import Entropy
from protocols.errors import RemoteProtocolError
from protocols.secrets import Secret

NONCE_SIZE = 12  # bytes, 96 random bits
OVERHEAD = NONCE_SIZE + 16  # bytes a box is longer than its content: nonce and tag


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
