"""Noise over what is opened: as wide as agreed, of one ciphertext alone, from a secret of its own.

Without it all else works as well, and opened sums tell the key; so it is looked at here.
"""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.ckks import Coefficients, Engine, residues
from protocols.ckks.client import Holder, Published, encrypt, open_sum
from protocols.ckks.coefficients import Poly, raised, uncut
from protocols.ckks.keys import CollectiveKey, SharedKey, arithmetic
from protocols.ckks.messages import Partial, Request, SharedSum, split
from protocols.ckks.params import Agreement, Params
from protocols.ckks.server import CollectUploads
from protocols.secrets import Secret
from protocols.testing import (
    burn_nothing,
    insecure_entropy,
    played_key,
    small_ckks,
    small_threshold,
)

HOLDERS, CLIENTS = (1, 2, 3, 4), (1, 2, 3)
# Several ciphertexts; on coefficients of two polynomials each, of which all bytes are sent.
SIZES: dict[Engine, dict[str, Any]] = {
    Engine.SEAL: {"entries": 8 * 2048},
    Engine.COEFFICIENTS: {"entries": 5 * 4088, "ring": Coefficients(messages=2, kept=8)},
}


def agreed(params: Params) -> Agreement:
    return Agreement(params=params, session=bytes(16), public_digest=bytes(32))


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """In deviations of what two that have nothing in common would have."""
    return float(abs(np.corrcoef(one, other)[0, 1]) * len(one) ** 0.5)


# --- a holder's ---


@functools.cache
def session(engine: Engine) -> tuple[CollectiveKey, dict[int, Holder]]:
    made = played_key(agreed(small_threshold(engine, **SIZES[engine])), HOLDERS, "requests")
    return made.key, dict(made.states)


class Asked:
    """A holder of a session that forgets what it has answered, and a sum's c1."""

    def __init__(self, engine: Engine) -> None:
        self.params = small_threshold(engine, **SIZES[engine])
        self.agreement, self.engine = agreed(self.params), engine
        self.key, holders = session(engine)
        self.holder = replace(holders[1], burn=burn_nothing)
        upload = encrypt(
            self.agreement,
            1,
            self.key,
            np.zeros(self.params.entries),
            entropy=insecure_entropy("upload"),
        )
        collect = CollectUploads(self.agreement, self.key, CLIENTS)
        collect.receive(upload)
        chunks = range(self.params.chunks)
        self.seconds = b"".join(collect._sums.second(index) for index in chunks)

    def noise(self, seconds: bytes, holder: Holder | None = None) -> NDArray[np.float64]:
        """What is left of an answer without c1 times the secret, coefficient by coefficient."""
        holder = holder or self.holder
        request = Request(
            header=self.agreement.header,
            context=self.key.context(self.agreement),
            alive=frozenset(HOLDERS),
            summands={client: bytes([client] * 32) for client in CLIENTS},
            seconds=seconds,
        )
        frames, _ = holder.on_request(self.agreement, request.to_bytes())
        bare = arithmetic(self.agreement).part(holder.me, holder.seed, None, b"")
        parts = enumerate(split(seconds, self.params.second_size))
        left = [
            self._difference(self._part(index, frame), bare((index, second)))
            for frame, (index, second) in zip(frames, parts, strict=True)
        ]
        return np.concatenate(left).astype(np.float64)

    def _part(self, index: int, frame: bytes) -> bytes:
        header, params = self.agreement.header, self.params
        return Partial.from_bytes(frame, expect=header, index=index, params=params).part

    def _difference(self, one: bytes, other: bytes) -> NDArray[np.int64]:
        if self.engine is Engine.COEFFICIENTS:
            first, second = (raised(uncut(data, 8), 8) for data in (one, other))
            return (first - second).view(np.int64)
        from protocols.ckks.microsoft_seal import context

        ring = self.params.seal_ring
        (prime,) = ring.primes
        rows = [residues.unpack(data, ring.degree, ring.primes) for data in (one, other)]
        left = residues.subtract(*rows, ring.primes)
        found = context(ring, self.params.scale).data.coefficients(left)[0].astype(np.int64)
        return np.where(found > prime // 2, found - prime, found)


def test_a_holders_noise_is_as_wide_as_agreed(engine: Engine) -> None:
    made = Asked(engine)
    noise = made.noise(made.seconds) / made.params.flooding_stddev
    assert len(noise) >= 16384
    assert noise.std() == pytest.approx(1, rel=0.03)
    assert abs(noise.mean()) < 5 / len(noise) ** 0.5
    for part in np.array_split(noise, made.params.chunks):  # each of them, not their mean
        assert part.std() == pytest.approx(1, rel=0.1)
    assert (np.abs(noise) > 3).mean() == pytest.approx(0.0027, abs=0.0025)


def test_two_ciphertexts_that_differ_in_one_bit_get_noises_of_nothing_in_common(
    engine: Engine,
) -> None:
    """Else the difference of two answers would be the key's product with a known polynomial."""
    made = Asked(engine)
    changed = bytearray(made.seconds)
    changed[0] ^= 1
    one, same = (made.noise(made.seconds) for _ in range(2))
    assert (one == same).all()
    assert correlation(one, made.noise(bytes(changed))) < 5


def test_one_polynomial_at_two_places_gets_noises_of_nothing_in_common(engine: Engine) -> None:
    made = Asked(engine)
    size = made.params.second_size
    noise = made.noise(made.seconds[:size] * made.params.chunks)
    pieces = np.array_split(noise[: len(noise) // 4096 * 4096], len(noise) // 4096)
    for piece in pieces[1:]:
        assert correlation(pieces[0], piece) < 5


def test_noise_is_of_a_secret_that_is_never_shared(engine: Engine) -> None:
    """The seed is dealt to the other holders: from it nobody may take the noise off."""
    made = Asked(engine)
    noise, other = made.noise(made.seconds), Secret(bytes([7] * 32))
    assert correlation(noise, made.noise(made.seconds, replace(made.holder, own=other))) < 5
    assert (noise == made.noise(made.seconds, replace(made.holder, seed=other))).all()


# --- a shared key's ---


class Opened:
    """Uploads of zeros: what a sum of them opens to is the noise, but for errors 2**-20 as wide."""

    def __init__(self, engine: Engine) -> None:
        self.params = small_ckks(engine, **SIZES[engine])
        self.agreement = agreed(self.params)
        self.key = SharedKey(self.agreement, Secret(bytes(range(32))))

    def upload(self, client: int, again: int = 0) -> tuple[list[bytes], bytes]:
        zeros, entropy = np.zeros(self.params.entries), insecure_entropy((client, again))
        upload = encrypt(self.agreement, client, self.key, zeros, entropy=entropy)
        return list(upload), upload.name

    def sum(self, uploads: Iterable[list[bytes]]) -> bytes:
        collect = CollectUploads(self.agreement, self.key.digest, CLIENTS)
        for frames in uploads:
            collect.receive(frames)
        return collect.close_shared()

    def noise(self, message: bytes) -> NDArray[np.float64]:
        result = open_sum(self.agreement, 9, self.key, message, burn=burn_nothing, sent=None)
        assert isinstance(result, Published)
        if self.params.engine is Engine.COEFFICIENTS:
            return result.values.view(np.int64).astype(np.float64)
        return result.values * self.params.scale / (self.params.ring.degree / 2) ** 0.5


def test_a_published_sums_noise_is_as_wide_as_agreed(engine: Engine) -> None:
    made = Opened(engine)
    noise = made.noise(made.sum(made.upload(n)[0] for n in CLIENTS)) / made.params.flooding_stddev
    assert noise.std() == pytest.approx(1, rel=0.03)
    assert abs(noise.mean()) < 5 / len(noise) ** 0.5
    for part in np.array_split(noise, 5):
        assert part.std() == pytest.approx(1, rel=0.1)
    first, second = np.array_split(noise, 2)
    assert correlation(first, second) < 5


def test_sums_of_other_uploads_get_noises_of_nothing_in_common(engine: Engine) -> None:
    """Else the difference of two published sums would be one without noise."""
    made = Opened(engine)
    one, two, anew = made.upload(1)[0], made.upload(2)[0], made.upload(2, again=1)[0]
    noise = made.noise(made.sum([one, two]))
    assert correlation(noise, made.noise(made.sum([one, anew]))) < 5
    assert correlation(noise, made.noise(made.sum([one, two, made.upload(3)[0]]))) < 5


def test_a_sum_shown_with_another_c0_gets_the_same_noise() -> None:
    """c1 times the key is hidden by it once, however often it is opened."""
    made = Opened(Engine.COEFFICIENTS)
    message = made.sum(made.upload(n)[0] for n in (1, 2))
    found = SharedSum.from_bytes(
        message,
        expect=made.agreement.header,
        context=made.key.context(made.agreement),
        params=made.params,
    )
    words = np.frombuffer(found.ciphertexts, "<u8").copy()
    words[8] += np.uint64(2**40)  # behind the coefficients that are checked
    other = replace(found, ciphertexts=words.tobytes()).to_bytes()
    difference = made.noise(other) - made.noise(message)
    assert difference[0] == 2**40
    assert not difference[1:].any()


# --- whose key it is ---


def moved(agreement: Agreement, share: bytes, by: int) -> bytes:
    """A public share whose error is another in one coefficient."""
    ring = agreement.params.ring
    if isinstance(ring, Coefficients):
        values = np.zeros(4096, np.uint64)
        values[17] = np.uint64(by % 2**64)
        return (Poly.read(ring, share) + Poly(values, None)).to_bytes()
    from protocols.ckks.microsoft_seal import context

    delta = np.zeros(ring.degree, np.int64)
    delta[17] = by
    level = context(ring, agreement.params.scale).keys
    rows = level.transform(residues.reduce(delta, ring.key_primes))
    total = residues.add(
        residues.unpack(share, ring.degree, ring.key_primes), rows, ring.key_primes
    )
    return residues.pack(total, ring.key_primes)


def test_an_error_of_21_is_explained_and_one_of_22_is_not(engine: Engine) -> None:
    """Whatever the error was, 43 neighbours are within it: from -21 to 21, without a gap."""
    agreement = agreed(small_threshold(engine))
    made, seed = arithmetic(agreement), Secret(hashlib.sha256(b"seed").digest())
    share = made.public_share(1, seed, seed)
    explained = [by for by in range(-43, 44) if made.explains(1, seed, moved(agreement, share, by))]
    assert explained == list(range(explained[0], explained[0] + 43))
    for by in (2**20, -(2**20), 2**40, -(2**40)):
        assert not made.explains(1, seed, moved(agreement, share, by))
