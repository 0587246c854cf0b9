"""Give the victim peers whose secret keys the server knows; it then opens its vector alone.

Knowing the keys of all peers, the server rebuilds the victim's self-mask from the
boxes addressed to them and agrees on every pairwise mask, before a word about
survivors is said. It comes by such peers in three ways: it puts keys of its own
in place of theirs, replays keys of an earlier round that have leaked since, or
invents clients. Against each, a client wants keys that are signed, for this very
round, by an identity it was given by somebody who is not the server.
"""

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, AwaitRoster, Params, client, join
from protocols.bonawitz.messages import (
    Advertise,
    MaskedFrame,
    PublicKeys,
    Roster,
    SealedShares,
    ShareBoxes,
)
from protocols.errors import RemoteProtocolError
from protocols.primitives.aead import seal, unseal
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.testing import insecure_entropy, insecure_identities, publics_of
from protocols.wire import u32

VICTIM, PEERS = 2, (1, 3, 4)
ACTIVE = Params(clients=4, threshold=3, words=4, active=True)
NOW = Agreement(params=ACTIVE, session=bytes(range(16)), round=7, public_digest=bytes(32))
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)
IDENTITIES = insecure_identities((VICTIM, *PEERS))
PUBLICS = publics_of(IDENTITIES)


@dataclass
class Known:
    """A peer's public keys, as the server shows them, and both secret ones."""

    shown: PublicKeys
    mask: PrivateKey
    seal: PrivateKey


def joined(agreement: Agreement, n: int, identity: SigningKey, seed: object) -> Known:
    """Keys made from ``seed``, signed by ``identity`` for that agreement."""
    draw = insecure_entropy(seed)
    mask, sealing = (PrivateKey(Secret(draw(32))) for _ in range(2))
    if agreement.params.active:
        message, _ = join(
            agreement, n, insecure_entropy(seed), identity=identity, identities={n: identity.public}
        )
    else:
        message, _ = join(agreement, n, insecure_entropy(seed))
    signed = agreement.params.active
    keys = Advertise.from_bytes(message, expect=agreement.header, signed=signed).keys
    assert (keys.mask, keys.seal) == (mask.public, sealing.public)
    return Known(keys, mask, sealing)


def victim(agreement: Agreement = NOW) -> AwaitRoster:
    if not agreement.params.active:
        return join(agreement, VICTIM, insecure_entropy("victim"))[1]
    mine = IDENTITIES[VICTIM]
    return join(agreement, VICTIM, insecure_entropy("victim"), identity=mine, identities=PUBLICS)[1]


def attack(state: AwaitRoster, peers: dict[int, Known]) -> NDArray[np.uint64]:
    """The input of the client that ``state`` is of."""
    agreement, header = state.agreement, state.agreement.header
    theirs = state.public
    entries = {n: known.shown for n, known in peers.items()}
    roster = Roster(
        header=header,
        agreement=agreement.tag,
        entries=dict(sorted({**entries, VICTIM: theirs}.items())),
    )
    message, waiting = state.on_roster(roster.to_bytes())
    context = agreement.context(roster.digest())

    shares, boxes, masks = {}, {}, []
    sealed = SealedShares.from_bytes(message, expect=header).boxes
    for n, known in peers.items():
        ends = known.shown.mask, theirs.mask
        sealing, opening = known.seal.agree(
            theirs.seal, context.seal(n, VICTIM, *ends), context.seal(VICTIM, n, *ends[::-1])
        )
        about = SealedShares.head(header)
        boxes[n] = seal(
            sealing, Secret(bytes(64)), about + u32(n) + u32(VICTIM), insecure_entropy("nonce")
        )
        shares[n] = unseal(opening, sealed[n], about + u32(VICTIM) + u32(n)).expose()[:32]
        label = context.pair(n, VICTIM)
        (pair,) = known.mask.agree(theirs.mask, label)
        masks.append(Mask(seed=pair, label=label, subtract=n < VICTIM))
    answer = ShareBoxes(header=header, recipient=VICTIM, boxes=dict(sorted(boxes.items())))
    frames, _ = waiting.on_boxes(answer.to_bytes(), PRIVATE)
    (frame,) = frames

    numbers = [place for place, n in enumerate(roster.entries, 1) if n in shares]
    (seed,) = combine(numbers, [[shares[n] for n in sorted(shares)]])
    masks.append(Mask(seed=seed, label=context.self_mask(VICTIM), subtract=True))
    words = MaskedFrame.from_bytes(frame, expect=header, index=0, count=5).words.copy()
    Masks(masks).apply_to(words)
    return words[:-1]


def own_keys_in_their_place() -> dict[int, Known]:
    """The server signs with identities of its own; theirs it does not have."""
    own = SigningKey(Secret(bytes(32)))
    return {n: joined(NOW, n, own, f"server's {n}") for n in PEERS}


def keys_of(earlier: Agreement) -> Callable[[], dict[int, Known]]:
    """Signed by their identities, in a round whose keys the server has come to know."""
    return lambda: {n: joined(earlier, n, IDENTITIES[n], f"leaked {n}") for n in PEERS}


def invented_clients() -> dict[int, Known]:
    agreement = replace(NOW, params=replace(ACTIVE, clients=4))
    return {n: joined(agreement, n, SigningKey(Secret(u32(n) * 8)), n) for n in (11, 12, 13)}


EARLIER = {
    "round": replace(NOW, round=6),
    "session": replace(NOW, session=bytes(16)),
    "model": replace(NOW, public_digest=b"x" * 32),
    "params": replace(NOW, params=replace(ACTIVE, minimum_survivors=3)),
}
REPLAYS = pytest.mark.parametrize("earlier", EARLIER.values(), ids=EARLIER.keys())


def test_without_a_look_at_signatures_keys_of_the_servers_own_open_the_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "check_keys", lambda *_: None)
    assert np.array_equal(attack(victim(), own_keys_in_their_place()), PRIVATE)


def test_keys_of_the_servers_own_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="client 1 are not signed by its identity"):
        attack(victim(), own_keys_in_their_place())


def test_half_of_a_pair_of_keys_is_refused_as_well() -> None:
    real = {n: joined(NOW, n, IDENTITIES[n], f"real {n}") for n in PEERS}
    for n, own in own_keys_in_their_place().items():
        for mixed in (
            replace(real[n].shown, mask=own.shown.mask),
            replace(real[n].shown, seal=own.shown.seal),
        ):
            with pytest.raises(RemoteProtocolError, match=f"client {n} are not signed"):
                attack(victim(), {**real, n: replace(real[n], shown=mixed)})


def test_not_protected_from_keys_of_the_servers_own_where_the_server_is_trusted() -> None:
    trusted = replace(NOW, params=replace(ACTIVE, active=False))
    own = {n: joined(trusted, n, IDENTITIES[n], f"server's {n}") for n in PEERS}
    assert np.array_equal(attack(victim(trusted), own), PRIVATE)


@REPLAYS
def test_were_signatures_not_for_one_round_leaked_keys_would_open_later_ones(
    earlier: Agreement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Agreement, "advertised_by", lambda _: lambda n: b"keys" + u32(n))
    assert np.array_equal(attack(victim(), keys_of(earlier)()), PRIVATE)


@REPLAYS
def test_keys_signed_for_another_round_are_refused(earlier: Agreement) -> None:
    with pytest.raises(RemoteProtocolError, match="client 1 are not signed by its identity"):
        attack(victim(), keys_of(earlier)())


class WhoeverComes(UserDict[int, bytes]):
    """The rule removed: everybody has an identity."""

    def __contains__(self, _: object) -> bool:
        return True

    def __missing__(self, n: int) -> bytes:
        return SigningKey(Secret(u32(n) * 8)).public


def test_were_everybody_to_have_an_identity_invented_clients_would_open_the_vector() -> None:
    state: Any = replace(victim(), identities=WhoeverComes(PUBLICS))
    assert np.array_equal(attack(state, invented_clients()), PRIVATE)


def test_clients_that_nobody_vouches_for_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="client 11 of the roster has no identity"):
        attack(victim(), invented_clients())


def test_one_invented_client_among_real_ones_is_refused() -> None:
    real = {n: joined(NOW, n, IDENTITIES[n], f"real {n}") for n in PEERS}
    del real[3]
    with pytest.raises(RemoteProtocolError, match="client 11 of the roster has no identity"):
        attack(victim(), {**real, 11: invented_clients()[11]})


def test_an_identity_stands_for_its_client_alone() -> None:
    known = joined(NOW, 1, IDENTITIES[1], "a client that plays another")
    others = {n: joined(NOW, n, IDENTITIES[n], f"real {n}") for n in PEERS}
    with pytest.raises(RemoteProtocolError, match="client 3 are not signed by its identity"):
        attack(victim(), {**others, 3: known})


def test_not_protected_from_whoever_hands_out_the_identities() -> None:
    own = {n: SigningKey(Secret(u32(n) * 8)) for n in PEERS}
    given = {**{n: key.public for n, key in own.items()}, VICTIM: PUBLICS[VICTIM]}
    _, state = join(
        NOW, VICTIM, insecure_entropy("victim"), identity=IDENTITIES[VICTIM], identities=given
    )
    peers = {n: joined(NOW, n, own[n], f"server's {n}") for n in PEERS}
    assert np.array_equal(attack(state, peers), PRIVATE)
