"""Clients of a shared key that publish sums of two sets publish the difference: one vector.

A server that lies to nobody about a ciphertext, and works with no client, shows one client the sum
of all and another that of all but one. Each is the sum of enough uploads, so each opens it. That
the results differ in their ``digest`` is what clients have to see it by.
"""

import numpy as np

from protocols.ckks.client import Published, encrypt, open_sum
from protocols.ckks.keys import SharedKey
from protocols.ckks.params import Agreement
from protocols.ckks.server import CollectUploads
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, small_ckks

CLIENTS, VICTIM = (1, 2, 3, 4), 3
PARAMS = small_ckks(clients=4, minimum_survivors=3, entries=50)
AGREEMENT = Agreement(params=PARAMS, session=bytes(16), public_digest=bytes(32))
KEY = SharedKey(AGREEMENT, Secret(bytes(range(32))))


def published(to: int, shown: tuple[int, ...], frames: dict[int, list[bytes]]) -> Published:
    collect = CollectUploads(AGREEMENT, KEY.digest, CLIENTS)
    for client in shown:
        collect.receive(frames[client])
    sent = frames[to][0]
    name = sent[sent.index(KEY.context(AGREEMENT)) + 32 :][:32]  # the seed is behind the context
    message = collect.close_shared()
    found = open_sum(AGREEMENT, to, KEY, message, burn=BurnInMemory(), sent=name)
    assert isinstance(found, Published)
    return found


def test_the_difference_of_two_published_results_is_one_clients_vector() -> None:
    vectors = {c: np.random.default_rng(c).uniform(-1, 1, 50) for c in CLIENTS}
    frames = {c: list(encrypt(AGREEMENT, c, KEY, vector)) for c, vector in vectors.items()}
    whole = published(1, CLIENTS, frames)
    less = published(2, tuple(c for c in CLIENTS if c != VICTIM), frames)
    read = PARAMS.encoding.decode_reals(whole.values - less.values)
    np.testing.assert_allclose(read, vectors[VICTIM], atol=16 * PARAMS.mean_error())

    # What clients compare before they publish: the attack needs two different ones.
    assert whole.digest != less.digest
    assert whole.digest == published(2, CLIENTS, frames).digest
