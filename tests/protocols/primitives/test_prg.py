"""Mask streams against NIST SP 800-38A and RFC 8439, and against HKDF-Expand done by hand."""

import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.errors import InputError, LocalProtocolError
from protocols.primitives import prg
from protocols.primitives.prg import CHUNK_WORDS, MAX_WORDS, Mask, Masks, Stream, Suite
from protocols.secrets import Secret

SEED = Secret(bytes(range(32)))
LABEL = b"a label"
SUITES = pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)


def words_of(stream: Stream, count: int) -> NDArray[np.uint64]:
    words = np.empty(count, np.uint64)
    stream.fill(words)
    return words


def use_material(monkeypatch: pytest.MonkeyPatch, material: bytes) -> None:
    """Make the cipher's key and starting block those of a published vector."""

    class Published:
        def __init__(self, *_: object) -> None:
            pass

        def derive(self, _: bytes) -> bytes:
            return material

    monkeypatch.setattr(prg, "HKDFExpand", Published)


@pytest.fixture(params=[False, True], ids=["CTR", "GCM"])
def vaes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The words of AES come from the one mode of OpenSSL or from the other."""
    monkeypatch.setattr(prg, "has_vaes", lambda: request.param)
    return bool(request.param)


@pytest.mark.usefixtures("vaes")
def test_aes_words_are_the_keystream_of_gcm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test case 3 of McGrew and Viega, The Galois/Counter Mode of Operation, appendix B."""
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
    )
    sealed = bytes.fromhex(
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
        "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985"
    )
    use_material(
        monkeypatch, bytes.fromhex("feffe9928665731c6d6a8f9467308308cafebabefacedbaddecaf888")
    )
    words = words_of(Stream(SEED, LABEL), 8)
    assert words.tobytes() == bytes(one ^ other for one, other in zip(plain, sealed, strict=True))


@pytest.mark.usefixtures("vaes")
@pytest.mark.parametrize("start", [0, 8, 2**32 - 8, 2**33 - 16])
def test_aes_counts_blocks_from_two_on(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    key, nonce = bytes(range(16)), bytes(range(16, 28))
    use_material(monkeypatch, key + nonce)
    ecb = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  a reference, no use
    blocks = range(2 + start // 2, 6 + start // 2)
    keystream = ecb.update(b"".join(nonce + block.to_bytes(4, "big") for block in blocks))
    assert words_of(Stream(SEED, LABEL, start=start), 8).tobytes() == keystream


@given(
    parts=st.lists(st.integers(0, 3 * CHUNK_WORDS), max_size=5),
    seed=st.binary(min_size=32, max_size=32),
)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_both_modes_give_the_same_words(parts: list[int], seed: bytes) -> None:
    found = []
    for has in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prg, "has_vaes", lambda has=has: has)
            stream = Stream(Secret(seed), LABEL)
            found.append(b"".join(words_of(stream, part).tobytes() for part in parts))
    assert found[0] == found[1]


def test_chacha20_words_are_the_keystream_of_rfc_8439(monkeypatch: pytest.MonkeyPatch) -> None:
    use_material(monkeypatch, bytes(44))  # appendix A.1, vectors 1 and 2
    assert words_of(Stream(SEED, LABEL, Suite.CHACHA20), 16).tobytes() == bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )


def test_chacha20_counts_blocks_as_rfc_8439_does(monkeypatch: pytest.MonkeyPatch) -> None:
    nonce = bytes.fromhex("000000090000004a00000000")  # section 2.3.2, block counter 1
    use_material(monkeypatch, bytes(range(32)) + nonce)
    assert words_of(Stream(SEED, LABEL, Suite.CHACHA20, start=8), 8).tobytes() == bytes.fromhex(
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


def expand(seed: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand of RFC 5869 with SHA-256, from HMAC alone."""
    block, out = b"", b""
    while len(out) < length:
        block = hmac.digest(seed, block + info + bytes([len(out) // 32 + 1]), "sha256")
        out += block
    return out[:length]


def keystream(seed: bytes, label: bytes, suite: Suite, count: int) -> bytes:
    """The first ``count`` bytes of a stream, from its definition."""
    info = bytes([suite]) + label
    if suite == Suite.AES_128_CTR:
        material = expand(seed, info, 28)
        counter = modes.CTR(material[16:] + (2).to_bytes(4, "big"))
        return Cipher(algorithms.AES(material[:16]), counter).encryptor().update(bytes(count))
    material = expand(seed, info, 44)
    cipher = Cipher(algorithms.ChaCha20(material[:32], bytes(4) + material[32:]), None)
    return cipher.encryptor().update(bytes(count))


@given(
    seed=st.binary(min_size=32, max_size=32),
    label=st.binary(max_size=80),
    suite=st.sampled_from(list(Suite)),
    count=st.integers(0, 40),
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_a_stream_is_a_standard_cipher_under_hkdf_expand(
    seed: bytes, label: bytes, suite: Suite, count: int
) -> None:
    words = words_of(Stream(Secret(seed), label, suite), count)
    assert words.tobytes() == keystream(seed, label, suite, 8 * count)


@SUITES
@pytest.mark.parametrize("count", [CHUNK_WORDS - 1, CHUNK_WORDS, CHUNK_WORDS + 1, 2 * CHUNK_WORDS])
def test_a_chunk_boundary_leaves_no_mark(suite: Suite, count: int) -> None:
    expected = keystream(SEED.expose(), LABEL, suite, 8 * count)
    assert words_of(Stream(SEED, LABEL, suite), count).tobytes() == expected
    words = np.zeros(count, np.uint64)
    Masks([Mask(seed=SEED, label=LABEL)], suite).apply_to(words)
    assert words.tobytes() == expected


@given(
    parts=st.lists(st.integers(0, CHUNK_WORDS + 9), max_size=4),
    suite=st.sampled_from(list(Suite)),
)
@settings(max_examples=25, derandomize=True, deadline=None)
def test_taken_in_parts_a_stream_is_the_same(parts: list[int], suite: Suite) -> None:
    stream = Stream(SEED, LABEL, suite)
    masks = Masks([Mask(seed=SEED, label=LABEL)], suite)
    whole = words_of(Stream(SEED, LABEL, suite), sum(parts))
    begin = 0
    for count in parts:
        expected = whole[begin : begin + count]
        assert np.array_equal(words_of(stream, count), expected)
        masked = np.zeros(count, np.uint64)
        masks.apply_to(masked)
        assert np.array_equal(masked, expected)
        begin += count


@given(start=st.integers(0, 400).map(lambda block: 8 * block), suite=st.sampled_from(list(Suite)))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_a_later_start_is_a_slice(start: int, suite: Suite) -> None:
    whole = words_of(Stream(SEED, LABEL, suite), start + 19)
    assert np.array_equal(words_of(Stream(SEED, LABEL, suite, start=start), 19), whole[start:])
    masked = np.zeros(19, np.uint64)
    Masks([Mask(seed=SEED, label=LABEL)], suite, start=start).apply_to(masked)
    assert np.array_equal(masked, whole[start:])


@SUITES
def test_a_seed_gives_its_last_words_and_no_more(suite: Suite) -> None:
    stream = Stream(SEED, LABEL, suite, start=MAX_WORDS - 8)
    words_of(stream, 8)
    with pytest.raises(LocalProtocolError, match="another seed"):
        words_of(stream, 1)
    with pytest.raises(LocalProtocolError, match="another seed"):
        words_of(Stream(SEED, LABEL, suite, start=MAX_WORDS - 8), 9)


def test_a_seed_used_up_leaves_the_words_alone() -> None:
    masks = Masks([Mask(seed=SEED, label=LABEL)], start=MAX_WORDS - 8)
    words = np.zeros(9, np.uint64)
    with pytest.raises(LocalProtocolError, match="another seed"):
        masks.apply_to(words)
    assert not words.any()


def test_a_seed_gives_the_aes_blocks_that_gcm_may_give() -> None:
    assert MAX_WORDS * 8 == 16 * (2**32 - 4) < 2**36 - 32  # NIST SP 800-38D, 5.2.1.1


@pytest.mark.parametrize("start", [-8, 1, 7, 9, MAX_WORDS, MAX_WORDS + 8])
def test_a_start_that_is_no_block_is_refused(start: int) -> None:
    with pytest.raises(InputError, match="start"):
        Stream(SEED, LABEL, start=start)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_seed_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"seed has {size} bytes"):
        Stream(Secret(bytes(size)), LABEL)


def test_no_two_of_suite_seed_and_label_share_a_stream() -> None:
    streams = [
        words_of(Stream(Secret(seed), label, suite), 8).tobytes()
        for seed in (bytes(32), bytes(31) + b"\x01")
        for label in (b"", b"a", b"b", b"a\x00")
        for suite in Suite
    ]
    assert len(set(streams)) == len(streams)


@given(
    st.lists(st.tuples(st.integers(0, 255), st.booleans()), max_size=5),
    st.sampled_from(list(Suite)),
    st.integers(0, 2**64 - 1),
)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_masks_add_and_subtract_modulo_two_to_the_64(
    signs: list[tuple[int, bool]], suite: Suite, value: int
) -> None:
    masks = [
        Mask(seed=Secret(bytes([number]) * 32), label=LABEL, subtract=subtract)
        for number, subtract in signs
    ]
    words = np.full(5, value, np.uint64)
    Masks(masks, suite).apply_to(words)
    for place in range(5):
        total = value
        for mask in masks:
            word = int(words_of(Stream(mask.seed, LABEL, suite), 5)[place])
            total += -word if mask.subtract else word
        assert int(words[place]) == total % 2**64


def test_a_mask_does_not_print_its_seed() -> None:
    mask = Mask(seed=SEED, label=LABEL)
    for text in (repr(mask), str(mask), f"{mask}", repr(Masks([mask])), repr(Stream(SEED, LABEL))):
        assert SEED.expose().hex() not in text
        assert repr(SEED.expose())[2:-1] not in text
