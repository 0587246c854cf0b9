"""What counts as a signature, where RFC 8032 leaves it open."""

import pytest

from protocols.bonawitz import Params, join
from protocols.errors import InputError, RemoteProtocolError
from protocols.primitives.sign import _SMALL, SigningKey, is_small_order, refuse_shared, verify
from protocols.secrets import Secret
from protocols.testing import agreement_of, insecure_entropy, insecure_identities, publics_of

PRIME = 2**255 - 19
D = -121665 * pow(121666, PRIME - 2, PRIME) % PRIME
NEUTRAL = (1).to_bytes(32, "little")


def times_eight(y: int) -> int:
    """y of eight times a point with this y."""
    for _ in range(3):
        square = (y * y - 1) * pow(D * y * y + 1, PRIME - 2, PRIME) % PRIME  # x squared
        bottom = 1 - D * square * y * y
        y = (y * y + square) * pow(bottom, PRIME - 2, PRIME) % PRIME
    return y


def test_the_points_of_small_order_are_those_that_eight_times_make_neutral() -> None:
    listed = {int.from_bytes(y, "little") % 2**255 for y in _SMALL}
    assert (len(listed), len(_SMALL)) == (7, 14)
    assert {times_eight(y % PRIME) for y in listed} == {1}
    for y in listed:
        for sign in (0, 2**255):
            assert is_small_order((y + sign).to_bytes(32, "little"))
    assert not is_small_order(SigningKey(Secret(bytes(32))).public)


def test_anybodys_signature_of_an_identity_of_small_order_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        verify(NEUTRAL, b"label", b"whatever", NEUTRAL + bytes(32))
    with pytest.raises(InputError, match="the identity of client 4 is of small order"):
        refuse_shared({1: SigningKey(Secret(bytes(32))).public, 4: NEUTRAL})
    identities = insecure_identities(range(3))
    known = publics_of(identities) | {9: NEUTRAL}
    agreement = agreement_of(Params(clients=4, threshold=3, words=1, active=True))
    with pytest.raises(InputError, match="of small order"):
        join(agreement, 1, identity=identities[1], identities=known)


def test_a_client_whose_randomness_repeats_sends_nothing() -> None:
    agreement = agreement_of(Params(clients=3, threshold=2, words=1))
    with pytest.raises(InputError, match="gave the same bytes twice"):
        join(agreement, 1, lambda size: bytes(range(size)))
    assert join(agreement, 1, insecure_entropy(1))
