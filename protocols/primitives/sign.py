"""Signatures: Ed25519 [RFC 8032], always over a label and a message together.

The label says what is signed, so that a signature made for one purpose never
serves another.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols.errors import RemoteProtocolError
from protocols.secrets import Secret
from protocols.wire import opaque

SIGNATURE_SIZE = 64  # bytes, RFC 8032 section 5.1.6
VERIFY_KEY_SIZE = 32  # bytes of a public key, section 5.1.5


class SigningKey:
    """An Ed25519 private key and its public key.

    Args:
      secret: 32 uniform bytes.
    """

    __slots__ = ("_key", "public", "secret")

    def __init__(self, secret: Secret) -> None:
        self.secret = secret
        self._key = Ed25519PrivateKey.from_private_bytes(secret.expose())
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, label: bytes, message: bytes) -> bytes:
        """64 bytes; the same label and message give the same."""
        return self._key.sign(opaque(label) + message)

    def __repr__(self) -> str:
        return f"<SigningKey of {self.public.hex()}>"


def verify(public: bytes, label: bytes, message: bytes, signature: bytes) -> None:
    """Raises ``RemoteProtocolError`` unless ``public``'s owner signed just that."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, opaque(label) + message)
    except (InvalidSignature, ValueError):
        raise RemoteProtocolError(f"no valid signature of {public.hex()}") from None
