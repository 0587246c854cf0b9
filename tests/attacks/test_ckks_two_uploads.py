"""Have a client encrypt twice in a round, open a sum with each, and subtract.

Under a shared key each client counts rounds for itself and publishes what it opens, so a
server that shows two clients two sums has both. They differ in nothing but the two
vectors of one client that began again: its noise anew, on the same update. A client
with a burn store encrypts one vector a round.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.burn import Burn
from protocols.ckks.client import Published, encrypt, open_sum
from protocols.ckks.keys import SharedKey
from protocols.ckks.params import Agreement
from protocols.ckks.server import CollectUploads
from protocols.errors import LocalProtocolError
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, small_ckks

VICTIM, OTHERS = 1, (2, 3)
PARAMS = small_ckks(clients=3, minimum_survivors=3, scale_half_bits=97)
AGREEMENT = Agreement(params=PARAMS, session=bytes(16), public_digest=bytes(32))


def vector(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1, 1, PARAMS.entries)


def attack(burn: Burn | None) -> NDArray[np.float64]:
    """The difference of the victim's two vectors, without its key."""
    key = SharedKey(AGREEMENT, Secret(bytes(32)))
    sent, digests = {}, {}
    for client in OTHERS:
        upload = encrypt(AGREEMENT, client, key, vector(client), burn=BurnInMemory())
        sent[client], digests[client] = list(upload), upload.digest
    published = []
    for reader, seed in zip(OTHERS, (10, 11), strict=True):
        collect = CollectUploads(AGREEMENT, key.digest, (VICTIM, *OTHERS))
        collect.receive(encrypt(AGREEMENT, VICTIM, key, vector(seed), burn=burn))
        for client in OTHERS:
            collect.receive(sent[client])
        result = open_sum(
            AGREEMENT,
            reader,
            key,
            collect.close_shared(),
            burn=BurnInMemory(),
            sent=digests[reader],
        )
        assert isinstance(result, Published)
        published.append(result.values)
    return published[0] - published[1]


def test_a_second_vector_is_not_encrypted() -> None:
    with pytest.raises(LocalProtocolError, match="another vector"):
        attack(BurnInMemory())


def test_without_a_burn_store_the_difference_of_one_clients_vectors_is_read() -> None:
    assert np.abs(attack(None) - (vector(10) - vector(11))).max() < 2e-2
