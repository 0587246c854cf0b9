"""Have holders open their commitments, and then hand back the states from before they did.

Commitments keep the last speaker from choosing its part of the key by those of the
others. A holder that was restored from an old record opens to a second roster what it has
opened to the first, so whoever has seen the openings commits anew, to a part of its own
less those of all others: the key opens under its secret alone, and every check of every
party passes. Nobody need lie but that one holder, if a server begins again with the old
advertisements. The burn refuses the second roster; the attack works where it forgets.
"""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols.burn import Burn
from protocols.ckks.client import AwaitRoster, encrypt, restore
from protocols.ckks.keys import CollectiveKey, commit, holder_key, public_share
from protocols.ckks.messages import Advertise, Frame, Opening
from protocols.ckks.microsoft_seal import context
from protocols.ckks.params import Agreement
from protocols.ckks.residues import add, pack, subtract, unpack, unpack_ciphertext
from protocols.ckks.server import CollectCommitments
from protocols.errors import RemoteProtocolError
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, burn_nothing, played_key, small_threshold

HOLDERS, LAST = (1, 2, 3, 4), 4
HONEST = HOLDERS[:-1]
PARAMS = small_threshold()
RING = PARAMS.ring
AGREEMENT = Agreement(params=PARAMS, session=bytes(16), public_digest=bytes(32))
HEADER = AGREEMENT.key_header
OWN = Secret(b"known to the last speaker alone!")
PRIVATE = np.linspace(-1, 1, RING.degree)


def rogue(shares: list[bytes]) -> bytes:
    """A part of a key: of a secret of its own, less those that were seen."""
    rows = [unpack(share, RING.degree, RING.key_primes) for share in shares]
    others = functools.reduce(lambda x, y: add(x, y, RING.key_primes), rows)
    own = unpack(public_share(AGREEMENT, LAST, OWN), RING.degree, RING.key_primes)
    return pack(subtract(own, others, RING.key_primes), RING.key_primes)


def restored(record: Secret, burn: Burn) -> AwaitRoster:
    state = restore(record, burn=burn)
    assert isinstance(state, AwaitRoster)
    return state


def attack(burns: dict[int, Burn]) -> tuple[bytes, CollectiveKey]:
    """One upload under the key of the second roster."""
    made = played_key(AGREEMENT, HOLDERS, "roster")
    advertised, roster = made.advertised, made.roster
    records = {holder: state.into_record() for holder, state in made.states.items()}
    shares = []
    for holder in HONEST:
        message, _ = restored(records[holder], burns[holder]).on_roster(roster)
        shares.append(Opening.from_bytes(message, expect=HEADER, params=PARAMS).share)

    share, again = rogue(shares), CollectCommitments(AGREEMENT, HOLDERS)
    last = restored(records[LAST], burn_nothing)
    making = replace(last.secrets.take(), share=share)
    entry = replace(last.entry, commitment=commit(AGREEMENT, LAST, share, making.blind))
    changed = Advertise(header=HEADER, sender=LAST, entry=entry).to_bytes()
    for holder in HOLDERS:
        again.receive(changed if holder == LAST else advertised[holder])
    second, openings = again.close()
    states: dict[int, Any] = {holder: restored(records[holder], burns[holder]) for holder in HONEST}
    states[LAST] = replace(last, entry=entry, secrets=type(last.secrets)(making))
    anew = replace(made, states=states, server=openings, roster=second).until("openings")
    for holder in HONEST:
        _, key = anew.states[holder].on_openings(anew.shown, anew.boxes[holder])  # nobody notices
    (frame,) = encrypt(AGREEMENT, 1, key, PRIVATE)
    return frame, key


def test_a_second_roster_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="answered another roster in this session"):
        attack({holder: BurnInMemory() for holder in HONEST})


def test_where_burn_records_are_forgotten_one_holder_reads_every_upload() -> None:
    frame, key = attack(dict.fromkeys(HONEST, burn_nothing))
    found = Frame.from_bytes(
        frame, expect=AGREEMENT.header, context=key.context(AGREEMENT), index=0, params=PARAMS
    )
    first, second = unpack_ciphertext(found.ciphertext, RING)
    own = holder_key(AGREEMENT, LAST, OWN).partial(second, None)
    read = context(RING, PARAMS.scale).decode(add(first, own, RING.primes))
    assert np.abs(read - PRIVATE).max() < 1e-6
