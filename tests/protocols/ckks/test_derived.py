"""Every value that a session on coefficients draws, from its label: recomputed, and pinned.

The labels are spelled out here, not taken from the code: bytes of a key, an upload, an answer and
an opened sum are put together anew from the streams that the page names.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.ckks import Coefficients, Params
from protocols.ckks.client import Published, encrypt, open_sum
from protocols.ckks.coefficients import (
    Poly,
    cut,
    errors,
    product,
    raised,
    small_spectrum,
    spectra,
    ternary,
    uncut,
)
from protocols.ckks.keys import SharedKey, arithmetic, commit, partial
from protocols.ckks.noise import gaussian
from protocols.ckks.params import Agreement
from protocols.ckks.server import CollectUploads
from protocols.primitives.prg import Stream, from_seed
from protocols.secrets import Secret
from protocols.testing import burn_nothing, insecure_entropy, small_ckks, small_threshold

# All bytes of the first are sent: of fewer the errors of c0 are not seen.
RINGS = [Coefficients(limbs=2, messages=2, kept=8), Coefficients(limbs=3, messages=2, kept=5)]
EACH = pytest.mark.parametrize("ring", RINGS, ids=["2**64", "2**72"])
ENTRIES, LENGTHS = 9000, [[4096, 4096], [8 + 9000 - 2 * 4088]]  # coefficients of each row
SEED, OWN = Secret(bytes(range(32))), Secret(bytes(range(32, 64)))
CLIENT, HOLDER, ROUND = 6, 3, 1
WHO = CLIENT.to_bytes(4, "big")
PINNED = {  # SHA-256, its first half
    (2, "commitment"): "f94f77272c9ec0f9886b8e3fb2c76c1e",
    (2, "for all"): "aca6599f1ea4553362e3e16f3a2f04bc",
    (2, "opened"): "9fc1663da4ca5f91f9d99cd3f9ab546a",
    (2, "part"): "6d10348a44bdcf3559f7d589d90e287b",
    (2, "share"): "4e3fdcfd49fe37c24997aee152a9185e",
    (2, "shared"): "123b09bb9172cc184e50ddfae85dd76f",
    (3, "commitment"): "6963827e36c30d75d090554eb1eed691",
    (3, "for all"): "7d92e7eab0535b2d7c7148c69db6ad43",
    (3, "opened"): "d998eff38b98778f67e04f3334f77047",
    (3, "part"): "cb1988d85c9b2679e4e7a481cfcc2f5a",
    (3, "share"): "601422deaee2840bb39196e7b01d8492",
    (3, "shared"): "bd79ca5d06d5bf2b23d52eb84e70ec0e",
}


def agreed(params: Params) -> Agreement:
    session = bytes(range(16))
    return Agreement(params=params, session=session, round=ROUND, public_digest=bytes(32))


def key_context(agreement: Agreement) -> bytes:
    start = b"secagg/1 ckks key " + agreement.session + agreement.params.to_bytes()
    return hashlib.sha256(start).digest()


def label(agreement: Agreement, usage: bytes, about: bytes = b"") -> bytes:
    return b"secagg/1 ckks " + usage + b" " + key_context(agreement) + about


def place(index: int, client: int = CLIENT) -> bytes:
    """Of one ciphertext of one client in one round."""
    return b"".join(number.to_bytes(4, "big") for number in (ROUND, client, index))


def common(agreement: Agreement) -> Poly:
    seed = hashlib.sha256(b"secagg/1 ckks common " + key_context(agreement)).digest()
    return Poly.drawn(agreement.params.lattice, Stream(Secret(seed), b"secagg/1 ckks common"))


def second_of(agreement: Agreement, client: int, seed: bytes, index: int) -> Poly:
    stream = Stream(Secret(seed), label(agreement, b"second", place(index, client)))
    return Poly.drawn(agreement.params.lattice, stream)


def times(
    agreement: Agreement, small: NDArray[np.int8], poly: Poly, more: NDArray[np.int64]
) -> Poly:
    ring = agreement.params.lattice
    return product(ring, small_spectrum(small), spectra(ring, poly), more)


def vector() -> NDArray[np.uint64]:
    return np.arange(ENTRIES, dtype=np.uint64) << np.uint64(48)


def rows(index: int) -> Iterator[NDArray[np.uint64]]:
    begin = index * 2 * 4088
    for length in LENGTHS[index]:
        row = np.zeros(length, np.uint64)
        row[8:] = vector()[begin : begin + length - 8]
        begin += length - 8
        yield row


def pinned(ring: Coefficients, what: str, data: bytes) -> None:
    assert hashlib.sha256(data).hexdigest()[:32] == PINNED[ring.limbs, what]


@EACH
def test_a_public_share_is_of_common_holder_and_share(ring: Coefficients) -> None:
    agreement = agreed(small_threshold(ring=ring, entries=ENTRIES, decryptions=2))
    number = HOLDER.to_bytes(4, "big")
    drawn = Stream(OWN, label(agreement, b"share", number))
    secret = ternary(Stream(SEED, label(agreement, b"holder", number)), 2 * 4096)
    expected = b"".join(
        times(agreement, -each, common(agreement), errors(drawn, (4096,))).to_bytes()
        for each in secret.reshape(2, 4096)
    )
    assert arithmetic(agreement).public_share(HOLDER, SEED, OWN) == expected
    pinned(ring, "share", expected)
    pinned(ring, "commitment", commit(agreement, HOLDER, expected, bytes(32)))


@EACH
def test_an_upload_for_all_holders_is_of_mask_and_errors(ring: Coefficients) -> None:
    agreement = agreed(small_threshold(ring=ring, entries=ENTRIES, decryptions=2))
    made = arithmetic(agreement)
    total = made.total({HOLDER: made.public_share(HOLDER, SEED, OWN)})
    work = made.encrypt_for_all(agreement, CLIENT, total, insecure_entropy("upload"))
    hidden = Secret(insecure_entropy("upload")(32))
    keys = [Poly.read(ring, total[: ring.whole]), Poly.read(ring, total[ring.whole :])]
    values, sent = vector(), []
    for index in range(2):
        drawn = Stream(hidden, label(agreement, b"errors", place(index)))
        once = ternary(Stream(hidden, label(agreement, b"mask", place(index))), 4096)
        expected = times(agreement, once, common(agreement), errors(drawn, (4096,))).to_bytes()
        for key, row in zip(keys, rows(index), strict=False):
            masked = times(agreement, once, key, errors(drawn, (4096,))).words[: len(row)]
            expected += cut(masked + row, ring.kept)
        assert work((index, values[index * 2 * 4088 :][: 2 * 4088])) == expected
        sent.append(expected)
    pinned(ring, "for all", b"".join(sent))


@EACH
def test_a_partial_decryption_is_of_holder_and_smudge(ring: Coefficients) -> None:
    agreement = agreed(small_threshold(ring=ring, entries=ENTRIES, decryptions=2))
    number = HOLDER.to_bytes(4, "big")
    seconds = from_seed(SEED, b"seconds")(2 * ring.whole)
    secret = ternary(Stream(SEED, label(agreement, b"holder", number)), 2 * 4096).reshape(2, 4096)
    about = label(agreement, b"smudge", hashlib.sha256(seconds).digest())
    expected = []
    for index in range(2):
        second = Poly.read(ring, seconds[index * ring.whole :][: ring.whole])
        drawn = from_seed(OWN, about + index.to_bytes(4, "big"))
        count = len(LENGTHS[index])
        flood = gaussian(count * 4096, agreement.params.flooding_stddev, drawn).reshape(-1, 4096)
        opened = [times(agreement, secret[at], second, flood[at]).words for at in range(count)]
        expected.append(
            b"".join(cut(x[:n], ring.kept) for x, n in zip(opened, LENGTHS[index], strict=True))
        )
    assert list(partial(agreement, HOLDER, SEED, seconds, OWN)) == expected
    pinned(ring, "part", b"".join(expected))


@EACH
def test_an_upload_and_a_sum_of_a_shared_key_are_of_second_shared_errors_and_flood(
    ring: Coefficients,
) -> None:
    params = small_ckks(ring=ring, entries=ENTRIES, decryptions=2, minimum_survivors=2)
    agreement = agreed(params)
    key = SharedKey(agreement, SEED)
    assert key.digest == from_seed(SEED, label(agreement, b"name"))(32)
    secret = ternary(Stream(SEED, label(agreement, b"shared")), 2 * 4096).reshape(2, 4096)
    entropy = insecure_entropy("upload")
    public, hidden = entropy(32), Secret(entropy(32))
    upload = encrypt(agreement, CLIENT, key, vector(), entropy=insecure_entropy("upload"))
    frames = list(upload)
    assert upload.name == public
    sent = []
    for index, frame in enumerate(frames):
        second = second_of(agreement, CLIENT, public, index)
        drawn = Stream(hidden, label(agreement, b"errors", place(index)))
        expected = public
        for each, row in zip(secret, rows(index), strict=False):
            masked = times(agreement, each, second, errors(drawn, (4096,))).words[: len(row)]
            expected += cut(row - masked, ring.kept)
        assert frame[62:-16] == expected
        sent.append(expected)
    pinned(ring, "shared", b"".join(sent))

    other = encrypt(agreement, 7, key, vector(), entropy=insecure_entropy("other"))
    others = list(other)
    collect = CollectUploads(agreement, key.digest, (CLIENT, 7))
    collect.receive(frames)
    collect.receive(others)
    message = collect.close_shared()
    result = open_sum(agreement, CLIENT, key, message, burn=burn_nothing, sent=public)
    assert isinstance(result, Published)
    summands = (2).to_bytes(4, "big") + WHO + public + (7).to_bytes(4, "big") + other.name
    named = hashlib.sha256(ROUND.to_bytes(4, "big") + summands).digest()
    about = label(agreement, b"flood", named)
    opened = []
    for index, lengths in enumerate(LENGTHS):
        drawn = from_seed(SEED, about + index.to_bytes(4, "big"))
        flood = gaussian(len(lengths) * 4096, params.flooding_stddev, drawn).reshape(-1, 4096)
        second = second_of(agreement, CLIENT, public, index)
        second = second + second_of(agreement, 7, other.name, index)
        begin = 32
        for at, length in enumerate(lengths):
            end = begin + ring.kept * length
            firsts = [uncut(each[index][62:-16][begin:end], ring.kept) for each in (frames, others)]
            row = raised(firsts[0] + firsts[1], ring.kept)
            row += times(agreement, secret[at], second, flood[at]).words[:length]
            opened.append(row[8:])
            begin = end
    assert (result.values == np.concatenate(opened)).all()
    pinned(ring, "opened", result.values.tobytes())
