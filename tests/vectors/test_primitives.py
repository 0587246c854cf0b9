"""Published vectors through our own types, where the tests of a primitive do not have them.

Those tests hold the rest: X25519 of RFC 7748 sections 5.2 and 6.1, HKDF of RFC 5869
cases 1 and 3, AES-128-CTR of NIST SP 800-38A section F.5.1, ChaCha20 of RFC 8439
section 2.3.2 and vectors 1 and 2 of appendix A.1, AES-256-GCM of its specification.
"""

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.errors import RemoteProtocolError
from protocols.primitives import prg, sign
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Stream, Suite
from protocols.primitives.sign import SigningKey, verify
from protocols.secrets import Secret

# RFC 8032, section 7.1: secret key, public key, message, signature.
ED25519 = {
    "1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    "SHA(abc)": (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
        "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
}
EACH = pytest.mark.parametrize("case", ED25519.values(), ids=ED25519.keys())


@EACH
def test_a_public_identity_is_that_of_rfc_8032(case: tuple[str, ...]) -> None:
    secret, public, _, _ = case
    assert SigningKey(Secret(bytes.fromhex(secret))).public.hex() == public


@EACH
def test_without_its_label_a_signature_is_that_of_rfc_8032(
    case: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign, "opaque", lambda _: b"")
    secret, public, message, signature = map(bytes.fromhex, case)
    assert SigningKey(Secret(secret)).sign(b"any", message) == signature
    verify(public, b"any", message, signature)
    for place in range(64):
        wrong = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
        with pytest.raises(RemoteProtocolError, match="no valid signature"):
            verify(public, b"any", message, wrong)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        (1, "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"),
        (1000, "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"),
    ],
)
def test_x25519_repeated_is_that_of_rfc_7748_section_5_2(rounds: int, expected: str) -> None:
    key = point = b"\x09" + bytes(31)
    for _ in range(rounds):
        private = PrivateKey(Secret(key))
        key, point = private._key.exchange(X25519PublicKey.from_public_bytes(point)), key
    assert key.hex() == expected


# RFC 5869, appendix A, cases 1, 2 and 3: PRK, info, OKM.
EXPANDED = [
    (
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        bytes(range(0xF0, 0xFA)),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        bytes(range(0xB0, 0x100)),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
        "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
        "cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
        b"",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("key", "info", "output"), EXPANDED, ids=["case-1", "case-2", "case-3"])
def test_streams_are_expanded_as_in_rfc_5869(key: str, info: bytes, output: str) -> None:
    size = len(output) // 2
    expander = prg.HKDFExpand(hashes.SHA256(), size, info)
    assert expander.derive(bytes.fromhex(key)).hex() == output


def test_hkdf_of_rfc_5869_case_2_has_blocks_and_a_long_salt() -> None:
    material, salt, info = bytes(range(80)), bytes(range(0x60, 0xB0)), bytes(range(0xB0, 0x100))
    output = HKDF(hashes.SHA256(), 82, salt, info).derive(material)
    assert output.hex() == EXPANDED[1][2]


@pytest.mark.parametrize(
    ("key", "nonce", "block", "output"),
    [
        (
            bytes(31) + b"\x01",
            bytes(12),
            1,
            "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
            "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
        ),
        (
            b"\x00\xff" + bytes(30),
            bytes(12),
            2,
            "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
            "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
        ),
        (
            bytes(32),
            bytes(11) + b"\x02",
            0,
            "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"
            "8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d",
        ),
    ],
    ids=["3", "4", "5"],
)
def test_chacha20_words_are_those_of_rfc_8439_appendix_a_1(
    key: bytes, nonce: bytes, block: int, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Published:
        def __init__(self, *_: object) -> None:
            pass

        def derive(self, _: bytes) -> bytes:
            return key + nonce

    monkeypatch.setattr(prg, "HKDFExpand", Published)
    stream = Stream(Secret(bytes(32)), b"", Suite.CHACHA20, start=8 * block)
    words = bytearray(64)
    stream.spend(8)
    stream.write(memoryview(words))
    assert words.hex() == output
