"""Hand a node a roster in which the server is everybody else.

Whoever owns the identities of all peers plays them, honestly and with inputs of
zeros; the sum is the victim's input, and no signature within the round is wrong.
The server comes by such a roster in two ways: it signs one itself, or it replays
one of the operator's whose keys have leaked and were replaced since.
"""

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, CollectKeys, Params, join
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg.errors import IdentityError
from secagg.nodes import identities
from secagg.nodes.identities import Identity, Roster, sign_roster

PARAMS = Params(clients=4, threshold=3, words=4, active=True)
AGREEMENT = Agreement(params=PARAMS, session=bytes(16), round=1, public_digest=bytes(32))
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)
NOTHING = np.zeros(4, np.uint64)


def identity_of(name: str, seed: str = "") -> Identity:
    return Identity(name, SigningKey(Secret(hashlib.sha256((name + seed).encode()).digest())))


OPERATOR, VICTIM = identity_of("operator"), identity_of("victim")
PINNED = OPERATOR.key.public  # the victim was told, by somebody who is not the server
LEAKED = {n: identity_of(f"hospital-{n}") for n in (0, 2, 3)}  # and replaced since
PRESENT = {n: identity_of(f"hospital-{n}", "replaced") for n in LEAKED}
SERVERS = {n: identity_of(f"hospital-{n}", "the server's") for n in LEAKED}


def members(peers: dict[int, Identity]) -> dict[int, tuple[str, bytes]]:
    return {1: VICTIM.shown, **{n: peer.shown for n, peer in peers.items()}}


OLD = sign_roster(OPERATOR, members(LEAKED), serial=1)
NEW = sign_roster(OPERATOR, members(PRESENT), serial=2)


def signed_by_the_server() -> bytes:
    """In the operator's name, with the signature of a key that the server has."""
    honest = sign_roster(OPERATOR, members(SERVERS), serial=3)
    body = honest[len(b'{"roster":') : honest.index(b',"signature"')]
    signature = identity_of("operator", "the server's").key.sign(identities.FORMAT, body)
    return b'{"roster":%b,"signature":"%b"}\n' % (body, signature.hex().encode())


def attack(believed: Roster, peers: dict[int, Identity]) -> NDArray[np.uint64]:
    """The sum of a round of the victim, who believes that roster, with the server's peers."""
    me = believed.number_of(VICTIM.key.public)
    known = believed.identities
    collect = CollectKeys(AGREEMENT, known)
    states: dict[int, Any] = {}
    for n, identity in ({me: VICTIM} | peers).items():
        message, states[n] = join(AGREEMENT, n, identity=identity.key, identities=known)
        collect.receive(message)
    rosters, shares = collect.close()
    for n in states:
        message, states[n] = states[n].on_roster(rosters[n])
        shares.receive(message)
    boxes, vectors = shares.close()
    for n in states:
        frames, states[n] = states[n].on_boxes(boxes[n], PRIVATE if n == me else NOTHING)
        vectors.receive(list(frames))
    survivors, signatures = vectors.close_to_sign()
    for n in states:
        message, states[n] = states[n].sign_survivors(survivors[n])
        signatures.receive(message)
    everybody, reveals = signatures.close()
    for n in states:
        reveals.receive(states[n].on_signatures(everybody[n]))
    return reveals.close().words


def test_were_signatures_not_verified_a_roster_of_the_servers_own_would_open_the_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identities, "verify", lambda *_: None)
    believed = Roster.read(signed_by_the_server(), operator=PINNED, at_least=2)
    assert np.array_equal(attack(believed, SERVERS), PRIVATE)


def test_a_roster_of_the_servers_own_is_refused() -> None:
    with pytest.raises(IdentityError, match="not signed by the operator with fingerprint"):
        Roster.read(signed_by_the_server(), operator=PINNED, at_least=2)


def test_not_protected_from_a_roster_that_names_the_operator_itself() -> None:
    """Who asks the roster whose signature it needs is told: the server's."""
    server = identity_of("operator", "the server's")
    roster = sign_roster(server, members(SERVERS), serial=3)
    believed = Roster.read(roster, operator=Roster.claimed_operator(roster).public)
    assert np.array_equal(attack(believed, SERVERS), PRIVATE)


def test_not_protected_from_a_replayed_roster_who_remembers_no_serial() -> None:
    assert Roster.read(NEW, operator=PINNED).serial == 2
    believed = Roster.read(OLD, operator=PINNED)
    assert np.array_equal(attack(believed, LEAKED), PRIVATE)


def test_a_replayed_roster_is_refused_by_who_remembers_the_serial() -> None:
    seen = Roster.read(NEW, operator=PINNED).serial
    with pytest.raises(IdentityError, match="serial 1, and 2 was seen before"):
        Roster.read(OLD, operator=PINNED, at_least=seen)
    assert Roster.read(NEW, operator=PINNED, at_least=seen).serial == seen
