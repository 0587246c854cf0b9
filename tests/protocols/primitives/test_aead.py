"""Boxes open under their own key, in their own place, unchanged, and not otherwise."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import RemoteProtocolError
from protocols.primitives.aead import NONCE_SIZE, OVERHEAD, seal, unseal
from protocols.secrets import Secret

KEY = Secret(bytes(range(32)))
NONCE = bytes(range(NONCE_SIZE))
CONTENT = Secret(b"two shares, as long as they are.")
ABOUT = b"from 1 to 2"
BOX = seal(KEY, CONTENT, ABOUT, lambda _: NONCE)
quick = settings(max_examples=50, derandomize=True, deadline=None)


def test_the_cipher_is_aes_256_gcm_of_the_gcm_specification() -> None:
    # Test case 15 of McGrew and Viega: AES-256, 96-bit nonce, no associated data.
    key = Secret(bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2))
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    content = Secret(
        bytes.fromhex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
        )
    )
    sealed = bytes.fromhex(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
        "b094dac5d93471bdec1a502270e3cc6c"
    )
    assert seal(key, content, b"", lambda _: nonce) == nonce + sealed
    assert unseal(key, nonce + sealed, b"") == content


@given(st.binary(max_size=200), st.binary(max_size=60), st.binary(min_size=32, max_size=32))
@quick
def test_a_box_opens_in_its_place(content: bytes, about: bytes, key: bytes) -> None:
    box = seal(Secret(key), Secret(content), about, lambda _: NONCE)
    assert len(box) == len(content) + OVERHEAD
    assert unseal(Secret(key), box, about) == Secret(content)


def test_the_nonce_is_drawn_and_travels_in_front() -> None:
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return b"\x07" * count

    box = seal(KEY, CONTENT, ABOUT, entropy)
    assert asked == [12]
    assert box == b"\x07" * 12 + AESGCM(KEY.expose()).encrypt(b"\x07" * 12, CONTENT.expose(), ABOUT)


@given(st.integers(0, 8 * len(BOX) - 1))
@quick
def test_a_box_with_one_bit_changed_does_not_open(bit: int) -> None:
    changed = bytearray(BOX)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteProtocolError, match="does not open"):
        unseal(KEY, bytes(changed), ABOUT)


@pytest.mark.parametrize("size", [0, 1, 11, 12, 27, 28, len(BOX) - 1])
def test_a_box_cut_short_does_not_open(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match="does not open"):
        unseal(KEY, BOX[:size], ABOUT)


@pytest.mark.parametrize("about", [b"", b"from 2 to 1", b"from 1 to 2 ", b"from 1 to"])
def test_a_box_moved_to_another_place_does_not_open(about: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="does not open"):
        unseal(KEY, BOX, about)


def test_a_box_does_not_open_under_another_key() -> None:
    with pytest.raises(RemoteProtocolError, match="does not open"):
        unseal(Secret(bytes(32)), BOX, ABOUT)
