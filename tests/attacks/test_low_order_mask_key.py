"""Advertise mask keys of low order, so that the masks with their owners are known to all.

X25519 of such a point is zero under every private key. Two peers with such keys
leave the victim with no pairwise mask that is a secret; its self-mask is opened
in every round that it survives.
"""

from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from protocols.bonawitz import CollectKeys, Params, client, join
from protocols.bonawitz.messages import (
    Advertise,
    MaskedFrame,
    Roster,
)
from protocols.errors import RemoteProtocolError
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import agreement_of, played

AGREEMENT = agreement_of(Params(clients=3, threshold=2, words=4))
HEADER = AGREEMENT.header
CLIENTS, VICTIM, PEERS = (1, 2, 3), 1, (2, 3)
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)
LOW_ORDER = {
    2: bytes(32),
    3: bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
}


def attack() -> NDArray[np.uint64]:
    """The victim's input, from no private key but the shares that a survivor's peers reveal."""
    made = played(AGREEMENT, dict.fromkeys(CLIENTS, PRIVATE), "roster")
    entries = dict(made.roster.entries)
    states = dict(made.states)
    for peer in PEERS:
        entries[peer] = replace(entries[peer], mask=LOW_ORDER[peer])
        states[peer] = replace(states[peer], public=entries[peer])
    roster = Roster(header=HEADER, agreement=AGREEMENT.tag, entries=entries)
    rosters = dict.fromkeys(CLIENTS, roster.to_bytes())
    made = replace(made, states=states, rosters=rosters).until("survivors")
    answers = [made.states[peer].on_survivors(made.survivors) for peer in PEERS]
    (seed,) = combine(PEERS, [[made.shares(answer)[VICTIM] for answer in answers]])
    context = AGREEMENT.context(roster.digest())
    masks = [Mask(seed=seed, label=context.self_mask(VICTIM), subtract=True)]
    for peer in PEERS:
        label = context.pair(VICTIM, peer)
        masks.append(Mask(seed=of_zero(label), label=label, subtract=peer < VICTIM))
    (frame,) = made.frames[VICTIM]
    words = MaskedFrame.from_bytes(frame, expect=HEADER, index=0, count=5).words.copy()
    Masks(masks).apply_to(words)
    return words[:-1]


def of_zero(label: bytes) -> Secret:
    """What a shared secret of zero turns into: anybody can compute it."""
    return Secret(HKDF(hashes.SHA256(), 32, salt=None, info=label).derive(bytes(32)))


def share_with_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not look at its peers' mask keys before it shares."""
    monkeypatch.setattr(client, "refuse_low_order", lambda _: None)


def agree_on_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """An X25519 that returns zero where RFC 7748, section 6.1, says to abort."""
    agree = PrivateKey.agree

    def careless(key: PrivateKey, peer: bytes, *labels: bytes) -> tuple[Secret, ...]:
        try:
            return agree(key, peer, *labels)
        except RemoteProtocolError:
            return tuple(of_zero(label) for label in labels)

    monkeypatch.setattr(PrivateKey, "agree", careless)


def test_a_server_refuses_the_key() -> None:
    advertise = Advertise.from_bytes(join(AGREEMENT, 2)[0], expect=HEADER)
    for key in LOW_ORDER.values():
        keys = replace(advertise.keys, mask=key)
        with pytest.raises(RemoteProtocolError, match="low order"):
            CollectKeys(AGREEMENT).receive(replace(advertise, keys=keys).to_bytes())


def test_a_client_shares_nothing_in_such_a_roster() -> None:
    with pytest.raises(RemoteProtocolError, match="low order"):
        attack()


def test_a_client_that_shared_all_the_same_masks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    share_with_anybody(monkeypatch)
    with pytest.raises(RemoteProtocolError, match="low order"):
        attack()


def test_with_neither_refusal_the_victims_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    share_with_anybody(monkeypatch)
    agree_on_zero(monkeypatch)
    assert np.array_equal(attack(), PRIVATE)
