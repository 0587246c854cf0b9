"""Signatures: Ed25519 [RFC 8032], always over a label and a message together.

The label says what is signed, so that a signature made for one purpose never
serves another.

RFC 8032 leaves three things to who verifies. Here the equation is the one without the
cofactor, S is below the group's order, and a public key of small order is refused: a
signature of one is easily made on any message.
"""

from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols.errors import InputError, RemoteProtocolError
from protocols.secrets import Secret
from protocols.wire import ClientId, opaque

SIGNATURE_SIZE = 64  # bytes, RFC 8032 section 5.1.6
VERIFY_KEY_SIZE = 32  # bytes of a public key, section 5.1.5
_PRIME = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493  # of the base point, section 5.1
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7  # y of four points
# All eight points of small order by their y, of which 0 and 1 have a second encoding that fits
# 255 bits, with either sign.
_SMALL = frozenset(
    (y | sign << 255).to_bytes(VERIFY_KEY_SIZE, "little")
    for y in (0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8, _PRIME, _PRIME + 1)
    for sign in (0, 1)
)


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


def is_small_order(public: bytes) -> bool:
    """Whether eight times this point is zero, in any of its encodings."""
    return public in _SMALL


def refuse_shared(identities: Mapping[ClientId, bytes]) -> None:
    """Raises ``InputError`` if two clients have one identity, or one has a weak one.

    The signature of one identity would count twice, and anybody can sign for one of small order.
    """
    if len(set(identities.values())) < len(identities):
        raise InputError("two clients have one identity")
    for client, identity in identities.items():
        if is_small_order(identity):
            raise InputError(f"the identity of client {client} is of small order")


def verify(public: bytes, label: bytes, message: bytes, signature: bytes) -> None:
    """Raises ``RemoteProtocolError`` unless ``public``'s owner signed just that."""
    try:
        if is_small_order(public) or int.from_bytes(signature[32:], "little") >= _ORDER:
            raise InvalidSignature
        Ed25519PublicKey.from_public_bytes(public).verify(signature, opaque(label) + message)
    except (InvalidSignature, ValueError):
        raise RemoteProtocolError(f"no valid signature of {public.hex()}") from None


def refuse_weak(public: bytes) -> None:
    """Raises ``RemoteProtocolError`` unless ``public`` is a point, well encoded, not of low order.

    Under a key of low order anybody signs: for the neutral point as a key, the point itself and
    32 zero bytes verify over every message. ``verify`` refuses it too; this names the reason.
    """
    y = int.from_bytes(public, "little") % 2**255  # the highest bit is the sign of x
    # x^2 = (y^2 - 1) / (d y^2 + 1), RFC 8032 section 5.1.3. x = 0 has order 1 or 2, y = 0 order 4;
    # order 8 doubles to y = 0, that is, x^2 = -y^2.
    low = y in (0, 1, _P - 1) or (_D * y**4 + 2 * y**2 - 1) % _P == 0
    on_curve = pow((y**2 - 1) * (_D * y**2 + 1), (_P - 1) // 2, _P) == 1
    if len(public) != VERIFY_KEY_SIZE or y >= _P or low or not on_curve:
        raise RemoteProtocolError(f"{public.hex()} is no public key, or one of low order")


_P = 2**255 - 19  # RFC 8032 section 5.1, as the next
_D = -121665 * pow(121666, -1, _P) % _P
