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
from tenseal import sealapi

from protocols.ckks import keys
from protocols.ckks.client import Private, Published, encrypt, open_sum
from protocols.ckks.keys import SharedKey
from protocols.ckks.messages import SharedSum
from protocols.ckks.microsoft_seal import _PLAINTEXT, _saved, context
from protocols.ckks.params import Agreement, Params
from protocols.ckks.residues import Rows, subtract, unpack_ciphertext
from protocols.ckks.server import CollectUploads
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, small_ckks

FLOODED = small_ckks(clients=2, scale_half_bits=80)  # doubles hold each coefficient
RING = FLOODED.ring
BARE = replace(FLOODED, flooding=None)


class Played:
    def __init__(self, params: Params) -> None:
        self.params = params
        self.agreement = Agreement(params=params, session=bytes(16), public_digest=bytes(32))
        self.key = SharedKey(self.agreement, Secret(os.urandom(32)))
        collect = CollectUploads(self.agreement, self.key.digest, (1, 2))
        self.sent = {}
        for client in (1, 2):
            values = np.random.default_rng(client).uniform(-1, 1, RING.degree)
            upload = encrypt(self.agreement, client, self.key, values)
            collect.receive(upload)
            self.sent[client] = upload.digest
        self.message = collect.close_shared()
        found = SharedSum.from_bytes(
            self.message,
            expect=self.agreement.header,
            context=self.key.context(self.agreement),
            params=params,
        )
        self.ciphertext = unpack_ciphertext(found.ciphertexts, RING)

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
        return result.values


def solved(played: Played, values: NDArray[np.float64]) -> Rows:
    """What the key would be: (encoding of ``values`` - c0) / c1, out of the transform."""
    made = context(RING, played.params.scale)
    real, imaginary = np.split(values, 2)
    plaintext: Any = sealapi.Plaintext()
    made._encoder.encode((real + 1j * imaginary).tolist(), made.scale, plaintext)
    rows = made.data.residues(_saved(plaintext, made.data.limit), _PLAINTEXT, 1)[0]
    difference = subtract(rows, played.ciphertext[0], RING.primes)
    (prime,) = RING.primes
    quotient = [
        int(top) * pow(int(bottom), -1, prime) % prime
        for top, bottom in zip(difference[0], played.ciphertext[1][0], strict=True)
    ]
    return made.data.coefficients(np.array([quotient], np.uint64))


def is_a_key(coefficients: Rows) -> bool:
    (prime,) = RING.primes
    return set(coefficients[0].tolist()) <= {0, 1, prime - 1}


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


def test_without_the_noise_a_published_sum_tells_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "gaussian", lambda count, *_: np.zeros(count, np.int64))
    played = Played(FLOODED)
    assert is_a_key(solved(played, played.published()))


def mean_of_all(played: Played, count: int) -> float:
    """How far the mean of what ``count`` clients publish is from the unflooded sum."""
    results = [played.published(1 + number % 2) for number in range(count)]
    return float(np.std(np.mean(results, axis=0) - exact(played)))


def exact(played: Played) -> NDArray[np.float64]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "gaussian", lambda count, *_: np.zeros(count, np.int64))
        return played.published()


def test_all_clients_publish_the_same_numbers_so_their_mean_says_no_more() -> None:
    played = Played(FLOODED)
    results = {played.published(client).tobytes() for client in (1, 2)}
    assert len(results) == 1
    assert mean_of_all(played, 64) > 0.9 * mean_of_all(played, 1)


def test_noise_of_each_clients_own_goes_away_in_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(FLOODED)
    monkeypatch.setattr(keys, "from_seed", lambda *_: os.urandom)
    assert played.published(1).tobytes() != played.published(2).tobytes()
    assert mean_of_all(played, 64) < 0.2 * mean_of_all(played, 1)
