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
from protocols.ckks import Engine
from protocols.ckks.client import Published, encrypt, open_sum
from protocols.ckks.keys import SharedKey
from protocols.ckks.params import Agreement
from protocols.ckks.server import CollectUploads
from protocols.errors import LocalProtocolError
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, reals_of, small_ckks

VICTIM, OTHERS = 1, (2, 3)


def vector(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1, 1, 2048)


def attack(engine: Engine, burn: Burn | None) -> NDArray[np.float64]:
    """The difference of the victim's two vectors, without its key."""
    params = small_ckks(engine, clients=3, minimum_survivors=3)
    agreement = Agreement(params=params, session=bytes(16), public_digest=bytes(32))
    key = SharedKey(agreement, Secret(bytes(32)))
    sent, names = {}, {}
    for client in OTHERS:
        upload = encrypt(agreement, client, key, vector(client), burn=BurnInMemory())
        sent[client], names[client] = list(upload), upload.name
    published = []
    for reader, seed in zip(OTHERS, (10, 11), strict=True):
        collect = CollectUploads(agreement, key.digest, (VICTIM, *OTHERS))
        collect.receive(encrypt(agreement, VICTIM, key, vector(seed), burn=burn))
        for client in OTHERS:
            collect.receive(sent[client])
        result = open_sum(
            agreement,
            reader,
            key,
            collect.close_shared(),
            burn=BurnInMemory(),
            sent=names[reader],
        )
        assert isinstance(result, Published)
        published.append(reals_of(params, result.values))
    return published[0] - published[1]


def test_a_second_vector_is_not_encrypted(engine: Engine) -> None:
    with pytest.raises(LocalProtocolError, match="another vector"):
        attack(engine, BurnInMemory())


def test_without_a_burn_store_the_difference_of_one_clients_vectors_is_read(engine: Engine) -> None:
    assert np.abs(attack(engine, None) - (vector(10) - vector(11))).max() < 2e-2
