"""Attack: whoever runs the store in which ranks meet puts its own keys in place of theirs.

Unsigned keys do not stand it, and the page says so: the store reads every input, and the sum is
right all the same. Identities that came from somebody else stop it before a vector leaves.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols.errors import RemoteProtocolError
from protocols.testing import insecure_entropy, insecure_identities, publics_of
from protocols.zero_sharing import Agreement, AwaitKeys, Epoch, Params, join
from protocols.zero_sharing.messages import Advertise

PLAIN = Agreement(params=Params(ranks=3), session=bytes(16), round=0, public_digest=bytes(32))
SIGNED = replace(PLAIN, params=Params(ranks=3, signed=True))
IDENTITIES = insecure_identities(range(3))
SECRETS = [np.array([10 + rank, 20 + rank], np.uint64) for rank in range(3)]


def joined(agreement: Agreement, rank: int, who: str) -> tuple[bytes, AwaitKeys]:
    keys: dict[str, Any] = {}
    if agreement.params.signed:
        known = publics_of(IDENTITIES)
        keys = {"identity": IDENTITIES[rank], "identities": known}
        if who == "store":  # it has no identity of a rank, and signs with one of its own
            forged = insecure_identities([99])[99]
            keys = {"identity": forged, "identities": known | {rank: forged.public}}
    return join(agreement, rank, insecure_entropy(f"{who} {rank}"), **keys)


def between(agreement: Agreement) -> tuple[list[Epoch], list[list[Epoch]]]:
    """Each rank's epoch with a store that plays the two others, and the store's side of each."""
    honest = [joined(agreement, rank, "rank") for rank in range(3)]
    ranks, store = [], []
    for rank, (message, state) in enumerate(honest):
        played = {other: joined(agreement, other, "store") for other in range(3) if other != rank}
        told = [message if place == rank else played[place][0] for place in range(3)]
        ranks.append(state.on_keys(told))
        store.append([played[other][1].on_keys(told) for other in sorted(played)])
    return ranks, store


def masked(epoch: Epoch, words: Any) -> np.ndarray:
    vector = np.append(words, [0, 0]).astype(np.uint64)
    epoch.begin(vector, counter=0)
    return vector


def test_not_protected_from_a_store_that_swaps_unsigned_keys() -> None:
    ranks, store = between(PLAIN)
    read = []
    for rank, epoch in enumerate(ranks):
        sent = masked(epoch, SECRETS[rank])
        masks = [masked(each, np.zeros(2)) for each in store[rank]]
        read.append((sent + masks[0] + masks[1])[:2].tolist())
    assert read == [secret.tolist() for secret in SECRETS]


def test_signed_keys_stop_it_before_a_vector_leaves() -> None:
    with pytest.raises(RemoteProtocolError, match="the key of rank 1 is not signed"):
        between(SIGNED)


def test_old_signed_keys_played_again_open_nothing() -> None:
    """Their secrets are gone; the sum of who believed in them is no sum."""
    old = [joined(SIGNED, rank, "rank, last week")[0] for rank in range(3)]
    fresh = [joined(SIGNED, rank, "rank") for rank in range(3)]
    sent = [message for message, _ in fresh]
    told = [*sent[:2], old[2]]
    epochs = [state.on_keys(told if rank < 2 else sent) for rank, (_, state) in enumerate(fresh)]
    vectors = [np.append(words, [0, 0]).astype(np.uint64) for words in SECRETS]
    waits = [each.begin(vector, counter=0) for each, vector in zip(epochs, vectors, strict=True)]
    total = np.sum(vectors, axis=0, dtype=np.uint64)
    for wait in waits:
        with pytest.raises(RemoteProtocolError, match="check word"):
            wait.open(total)


def test_a_key_sent_back_to_its_rank_is_refused() -> None:
    message, state = joined(PLAIN, 0, "rank")
    read = Advertise.from_bytes(message, expect=PLAIN.header)
    mirrored = [message, *(replace(read, sender=rank).to_bytes() for rank in (1, 2))]
    with pytest.raises(RemoteProtocolError, match="two ranks have one key"):
        state.on_keys(mirrored)
