"""Key agreement against RFC 7748 and RFC 5869, both computed apart from the code."""

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import RemoteProtocolError
from protocols.primitives import agree
from protocols.primitives.agree import PrivateKey, refuse_low_order
from protocols.secrets import Secret

ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
ALICE_AND_BOB = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")

# u-coordinates of order 1, 2, 4 and 8, below and above 2**255 - 19 (RFC 7748, section 6.1).
LOW_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
]


def hkdf(ikm: bytes, info: bytes, length: int, salt: bytes = bytes(32)) -> bytes:
    """RFC 5869 with SHA-256, from HMAC alone."""
    key = hmac.digest(salt, ikm, "sha256")
    block, out = b"", b""
    while len(out) < length:
        block = hmac.digest(key, block + info + bytes([len(out) // 32 + 1]), "sha256")
        out += block
    return out[:length]


def test_the_hkdf_of_these_tests_is_that_of_rfc_5869() -> None:
    ikm, salt, info = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    case_1 = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    case_3 = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert hkdf(ikm, info, 42, salt).hex() == case_1
    assert hkdf(ikm, b"", 42).hex() == case_3


@pytest.mark.parametrize(
    ("private", "public"), [(ALICE, ALICE_PUBLIC), (BOB, BOB_PUBLIC)], ids=["alice", "bob"]
)
def test_public_keys_are_those_of_rfc_7748(private: bytes, public: bytes) -> None:
    assert PrivateKey(Secret(private)).public == public


@pytest.mark.parametrize(
    ("scalar", "u", "product"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (  # the top bit of u is to be ignored
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
        (ALICE.hex(), BOB_PUBLIC.hex(), ALICE_AND_BOB.hex()),
        (BOB.hex(), ALICE_PUBLIC.hex(), ALICE_AND_BOB.hex()),
    ],
    ids=["5.2-first", "5.2-second", "6.1-alice", "6.1-bob"],
)
def test_an_agreed_secret_is_hkdf_of_the_product_of_rfc_7748(
    scalar: str, u: str, product: str
) -> None:
    key = PrivateKey(Secret(bytes.fromhex(scalar)))
    one, other = key.agree(bytes.fromhex(u), b"one", b"other")
    assert one.expose() == hkdf(bytes.fromhex(product), b"one", 32)
    assert other.expose() == hkdf(bytes.fromhex(product), b"other", 32)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.binary())
@settings(max_examples=30, derandomize=True, deadline=None)
def test_both_ends_agree_and_another_label_is_another_secret(
    one: bytes, other: bytes, label: bytes
) -> None:
    left, right = PrivateKey(Secret(one)), PrivateKey(Secret(other))
    assert left.agree(right.public, label) == right.agree(left.public, label)
    first, second = left.agree(right.public, label, label + b"x")
    assert first != second


@pytest.mark.parametrize("top_bit", [0x00, 0x80])
@pytest.mark.parametrize("encoded", LOW_ORDER)
def test_a_point_of_low_order_is_refused(encoded: str, top_bit: int) -> None:
    point = bytearray.fromhex(encoded)
    point[31] |= top_bit
    key = PrivateKey(Secret(hashlib.sha256(encoded.encode()).digest()))
    with pytest.raises(RemoteProtocolError, match="low order"):
        key.agree(bytes(point), b"label")
    with pytest.raises(RemoteProtocolError, match="low order"):
        refuse_low_order(bytes(point))


def test_an_honest_key_is_not_of_low_order() -> None:
    refuse_low_order(ALICE_PUBLIC)


def test_a_private_key_shows_only_its_public_half() -> None:
    key = PrivateKey(Secret(ALICE))
    assert repr(key) == str(key) == f"<PrivateKey of {ALICE_PUBLIC.hex()}>"


def test_the_low_order_points_looked_up_are_those_that_agree_on_zero() -> None:
    """Every listed encoding, with either highest bit, gives zero; its neighbours do not."""
    listed = {int.from_bytes(point, "little") % 2**255 for point in agree.LOW_ORDER}
    assert (len(listed), len(agree.LOW_ORDER)) == (7, 14)
    key = PrivateKey(Secret(bytes(range(32))))
    for point in sorted(listed):
        for top in (0, 2**255):
            public = (point + top).to_bytes(32, "little")
            with pytest.raises(RemoteProtocolError):
                key.agree(public, b"label")
            with pytest.raises(RemoteProtocolError):
                agree.refuse_low_order(public)
        for near in {(point + step) % 2**255 for step in (-2, -1, 1, 2)} - listed:
            public = near.to_bytes(32, "little")
            agree.refuse_low_order(public)
            assert len(key.agree(public, b"label")) == 1
