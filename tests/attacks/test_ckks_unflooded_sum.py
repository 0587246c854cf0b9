"""Compute the key from one published sum and its ciphertext [LM21].

A decryption of high precision rounds back to the very polynomial c0 + c1 s. The rest is a
division: s = (m - c0) / c1, and every ciphertext of the session is open. So what is published
is flooded; and flooded once for all, since the mean of independently flooded results comes
ever nearer to the unflooded one. Both attacks are made, against the code without the noise
and with noise of every client's own; both work there.

[LM21]: https://eprint.iacr.org/2020/1533
"""

import os
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.ckks import Coefficients, Engine, by_coefficients
from protocols.ckks.client import Private, Published, encrypt, open_sum
from protocols.ckks.coefficients import Poly, raised, ternary, uncut
from protocols.ckks.keys import SharedKey
from protocols.ckks.messages import SharedSum
from protocols.ckks.params import Agreement, Params
from protocols.ckks.residues import Rows, subtract, unpack_ciphertext
from protocols.ckks.server import CollectUploads
from protocols.primitives.prg import Stream
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, reals_of, small_ckks

FLOODED = small_ckks(Engine.SEAL, clients=2, scale_sixteenths=640)  # doubles hold each coefficient
RING = FLOODED.seal_ring
BARE = replace(FLOODED, flooding=None)
SMALL: dict[Engine, dict[str, Any]] = {
    Engine.SEAL: {"scale_sixteenths": 640},
    Engine.COEFFICIENTS: {"ring": Coefficients(kept=8), "scale_sixteenths": 800},
}


class Played:
    def __init__(self, params: Params) -> None:
        self.params = params
        self.agreement = Agreement(params=params, session=bytes(16), public_digest=bytes(32))
        self.secret = Secret(os.urandom(32))
        self.key = SharedKey(self.agreement, self.secret)
        collect = CollectUploads(self.agreement, self.key.digest, (1, 2))
        self.sent = {}
        for client in (1, 2):
            values = np.random.default_rng(client).uniform(-1, 1, params.entries)
            upload = encrypt(self.agreement, client, self.key, values)
            collect.receive(upload)
            self.sent[client] = upload.name
        self.message = collect.close_shared()

    def ciphertext(self) -> Rows:
        found = SharedSum.from_bytes(
            self.message,
            expect=self.agreement.header,
            context=self.key.context(self.agreement),
            params=self.params,
        )
        return unpack_ciphertext(found.ciphertexts, RING)

    def open(self, client: int = 1) -> Published | Private:
        return open_sum(
            self.agreement,
            client,
            self.key,
            self.message,
            burn=BurnInMemory(),
            sent=self.sent[client],
        )

    def published(self, client: int = 1) -> NDArray[np.float64]:
        result = self.open(client)
        assert isinstance(result, Published)
        return reals_of(self.params, result.values)


def solved(played: Played, values: NDArray[np.float64]) -> Rows:
    """What the key would be: (encoding of ``values`` - c0) / c1, out of the transform."""
    from tenseal import sealapi

    from protocols.ckks.microsoft_seal import _PLAINTEXT, _saved, context

    made, (first, second) = context(RING, played.params.scale), played.ciphertext()
    real, imaginary = np.split(values, 2)
    plaintext: Any = sealapi.Plaintext()
    made._encoder.encode((real + 1j * imaginary).tolist(), made.scale, plaintext)
    rows = made.data.residues(_saved(plaintext, made.data.limit), _PLAINTEXT, 1)[0]
    difference = subtract(rows, first, RING.primes)
    (prime,) = RING.primes
    quotient = [
        int(top) * pow(int(bottom), -1, prime) % prime
        for top, bottom in zip(difference[0], second[0], strict=True)
    ]
    return made.data.coefficients(np.array([quotient], np.uint64))


def is_a_key(coefficients: Rows) -> bool:
    (prime,) = RING.primes
    return set(coefficients[0].tolist()) <= {0, 1, prime - 1}


# On coefficients the key is ternary, so that it is enough to divide modulo 4.


def product(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.int64]:
    """Modulo 4 and X^4096 + 1, of coefficients from 0 to 3: exact in doubles."""
    spectrum = np.fft.rfft(one, 8192) * np.fft.rfft(other, 8192)
    found = np.rint(np.fft.irfft(spectrum, 8192)).astype(np.int64)
    return (found[:4096] - found[4096:]) % 4


def inverse(of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Modulo 4. Modulo 2 all of it is nilpotent but for 1, so that the 4,096th power is 1."""
    power, found = of % 2, np.eye(1, 4096, dtype=np.int64)[0]
    for _ in range(12):
        found = product(found, power) % 2
        power = product(power, power) % 2
    assert (product(found, of) % 2).sum() == 1
    two = 2 * np.eye(1, 4096, dtype=np.int64)[0]
    return product(found, (two - product(found, of)) % 4)  # Newton's step


def divided(values: NDArray[np.uint64], first: bytes, second: Poly) -> NDArray[np.int64] | None:
    """What the key would be; the eight coefficients that no result shows are tried."""
    shown = np.zeros(4096, np.int64)
    known = raised(uncut(first, 4), 4)[8:]
    shown[8:] = ((values - known) % np.uint64(4)).astype(np.int64)
    by = inverse((second.high % np.uint64(4)).astype(np.int64))
    start, tried = product(by, shown), np.indices((4,) * 8).reshape(8, -1).T
    columns = np.stack(
        [product(by, np.eye(1, 4096, place, dtype=np.int64)[0]) for place in range(8)]
    )
    some = (start[:64] + tried.astype(np.float32) @ columns[:, :64].astype(np.float32)) % 4
    (fits,) = np.nonzero((some != 2).all(axis=1))
    for row in fits:
        found = (start + tried[row] @ columns) % 4
        if (found != 2).all():
            return np.where(found == 3, -1, found)
    return None


def key_from(played: Played, values: NDArray[np.uint64]) -> NDArray[np.int64] | None:
    message, ring = played.message, played.params.lattice
    found = SharedSum.from_bytes(
        message,
        expect=played.agreement.header,
        context=played.key.context(played.agreement),
        params=played.params,
    )
    second = Poly.zero(ring)
    for client, seed in found.summands.items():  # as any reader of the sum
        second = second + by_coefficients._second(played.agreement, client, seed, 0)
    return divided(values, found.ciphertexts, second)


def session_of_coefficients(flooding: int | None) -> tuple[Played, NDArray[np.int8]]:
    """One whose c1 has an inverse: every second has."""
    while True:
        played = Played(small_ckks(clients=2, entries=4088, flooding=flooding))
        total = sum(
            int(by_coefficients._second(played.agreement, client, seed, 0).high.sum() % 2)
            for client, seed in played.sent.items()
        )
        if total % 2:
            break
    secret = ternary(Stream(played.secret, played.agreement.label(b"shared")), 4096)
    return played, secret


@pytest.mark.parametrize("flooding", [None, 30])
def test_on_coefficients_an_unflooded_sum_tells_the_key_and_a_flooded_one_does_not(
    flooding: int | None,
) -> None:
    played, secret = session_of_coefficients(flooding)
    result = played.open()
    if isinstance(result, Private):
        assert (key_from(played, result.expose()) == secret).all()
    else:
        assert key_from(played, result.values) is None


def test_without_the_noise_a_published_sum_of_coefficients_tells_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silence(monkeypatch, Engine.COEFFICIENTS)
    played, secret = session_of_coefficients(30)
    result = played.open()
    assert isinstance(result, Published)
    assert (key_from(played, result.values) == secret).all()


def test_one_unflooded_sum_and_its_ciphertext_tell_the_key() -> None:
    played = Played(BARE)
    result = played.open()
    assert isinstance(result, Private)
    assert is_a_key(solved(played, result.expose()))


def test_so_an_unflooded_sum_does_not_leave_the_client() -> None:
    result = Played(BARE).open()
    assert not isinstance(result, Published)
    with pytest.raises(TypeError, match="it tells the key"):
        pickle.dumps(result)
    assert not hasattr(result, "values")
    assert not hasattr(result, "to_bytes")


def test_a_flooded_sum_and_its_ciphertext_do_not() -> None:
    played = Played(FLOODED)
    assert not is_a_key(solved(played, played.published()))


def silence(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    """The noise taken out of the code."""
    name = "by_seal" if engine is Engine.SEAL else "by_coefficients"
    patch.setattr(f"protocols.ckks.{name}.gaussian", lambda count, *_: np.zeros(count, np.int64))


def test_without_the_noise_a_published_sum_tells_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    silence(monkeypatch, Engine.SEAL)
    played = Played(FLOODED)
    assert is_a_key(solved(played, played.published()))


# --- flooded once for all ---


def flooded(engine: Engine) -> Played:
    return Played(small_ckks(engine, clients=2, **SMALL[engine]))


def mean_of_all(played: Played, count: int) -> float:
    """How far the mean of what ``count`` clients publish is from the unflooded sum."""
    results = [played.published(1 + number % 2) for number in range(count)]
    return float(np.std(np.mean(results, axis=0) - exact(played)))


def exact(played: Played) -> NDArray[np.float64]:
    with pytest.MonkeyPatch.context() as patch:
        silence(patch, played.params.engine)
        return played.published()


def test_all_clients_publish_the_same_numbers_so_their_mean_says_no_more(engine: Engine) -> None:
    played = flooded(engine)
    results = {played.published(client).tobytes() for client in (1, 2)}
    assert len(results) == 1
    assert mean_of_all(played, 64) > 0.9 * mean_of_all(played, 1)


def test_noise_of_each_clients_own_goes_away_in_the_mean(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = flooded(engine)
    name = "by_seal" if engine is Engine.SEAL else "by_coefficients"
    monkeypatch.setattr(f"protocols.ckks.{name}.from_seed", lambda *_: os.urandom)
    assert played.published(1).tobytes() != played.published(2).tobytes()
    assert mean_of_all(played, 64) < 0.2 * mean_of_all(played, 1)
