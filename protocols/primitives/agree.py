"""Two parties, one secret: X25519 [RFC 7748] and HKDF-SHA256 [RFC 5869].

A key pair's shared secret never leaves this module; what comes out is derived
from it under a label, so that a secret used in two places is two secrets.
"""

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.errors import RemoteProtocolError
from protocols.secrets import Secret

KEY_SIZE = 32  # bytes of a public or private key, RFC 7748 section 5


class PrivateKey:
    """An X25519 private key and its public key.

    Args:
      secret: 32 uniform bytes.
    """

    __slots__ = ("_key", "_secret", "public")

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._key = X25519PrivateKey.from_private_bytes(secret.expose())
        self.public = self._key.public_key().public_bytes_raw()

    @property
    def secret(self) -> Secret:
        """The private half, to be shared among peers or moved into a record."""
        return self._secret

    def agree(self, peer: bytes, *labels: bytes) -> tuple[Secret, ...]:
        """One 32-byte secret a label, the same at both ends and uniform to all others.

        Raises:
          RemoteProtocolError: ``peer`` is a point of low order; its secret is known to everybody.
        """
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            raise RemoteProtocolError(f"public key {peer.hex()} is a point of low order") from None
        return tuple(
            Secret(HKDF(hashes.SHA256(), 32, salt=None, info=label).derive(shared))
            for label in labels
        )

    def __repr__(self) -> str:
        return f"<PrivateKey of {self.public.hex()}>"


def refuse_low_order(public: bytes) -> None:
    """Raises ``RemoteProtocolError`` for a public key whose every shared secret is zero.

    A lookup in place of an agreement that would find it too.
    """
    if public in LOW_ORDER:
        raise RemoteProtocolError(f"public key {public.hex()} is a point of low order")


# The u of every point of order 1, 2, 4 or 8 on the curve or its twist, in each of its encodings:
# X25519 ignores the highest bit. https://cr.yp.to/ecdh.html, "How do I validate".
_P = 2**255 - 19
LOW_ORDER = frozenset(
    (u | highest << 255).to_bytes(KEY_SIZE, "little")
    for u in (
        *(0, 1, _P - 1, _P, _P + 1),
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
    for highest in (0, 1)
)
