"""Have holders open their commitments, and then hand back the states from before they did.

Commitments keep the last speaker from choosing its part of the key by those of the
others. A holder that was restored from an old record opens to a second roster what it has
opened to the first, so whoever has seen the openings commits anew, to a part of its own
less those of all others: the key opens under its secret alone, and every check of every
party passes. Nobody need lie but that one holder, if a server begins again with the old
advertisements. The burn refuses the second roster; the attack works where it forgets.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ciphertexts import ciphertext, difference, opened
from numpy.typing import NDArray

from protocols.burn import Burn
from protocols.ckks import Engine
from protocols.ckks.client import AwaitRoster, encrypt, restore
from protocols.ckks.keys import arithmetic, commit
from protocols.ckks.messages import Advertise, Opening
from protocols.ckks.params import Agreement
from protocols.ckks.server import CollectCommitments
from protocols.errors import RemoteProtocolError
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, burn_nothing, played_key, small_threshold

HOLDERS, LAST = (1, 2, 3, 4), 4
HONEST = HOLDERS[:-1]
OWN = Secret(b"known to the last speaker alone!")
PRIVATE = np.linspace(-1, 1, 2048)


def rogue(agreement: Agreement, shares: list[bytes]) -> bytes:
    """A part of a key: of a secret of its own, less those that were seen."""
    own = arithmetic(agreement).public_share(LAST, OWN, OWN)
    return difference(agreement.params, own, *shares)


def restored(record: Secret, burn: Burn) -> AwaitRoster:
    state = restore(record, burn=burn)
    assert isinstance(state, AwaitRoster)
    return state


def attack(engine: Engine, burns: dict[int, Burn]) -> NDArray[np.float64]:
    """One upload under the key of the second roster, read by the last speaker alone."""
    params = small_threshold(engine)
    agreement = Agreement(params=params, session=bytes(16), public_digest=bytes(32))
    header = agreement.key_header
    made = played_key(agreement, HOLDERS, "roster")
    advertised, roster = made.advertised, made.roster
    records = {holder: state.into_record() for holder, state in made.states.items()}
    shares = []
    for holder in HONEST:
        message, _ = restored(records[holder], burns[holder]).on_roster(roster)
        shares.append(Opening.from_bytes(message, expect=header, params=params).share)

    share, again = rogue(agreement, shares), CollectCommitments(agreement, HOLDERS)
    last = restored(records[LAST], burn_nothing)
    making = replace(last.secrets.take(), share=share)
    entry = replace(last.entry, commitment=commit(agreement, LAST, share, making.blind))
    changed = Advertise(header=header, sender=LAST, entry=entry).to_bytes()
    for holder in HOLDERS:
        again.receive(changed if holder == LAST else advertised[holder])
    second, openings = again.close()
    states: dict[int, Any] = {holder: restored(records[holder], burns[holder]) for holder in HONEST}
    states[LAST] = replace(last, entry=entry, secrets=type(last.secrets)(making))
    anew = replace(made, states=states, server=openings, roster=second).until("openings")
    for holder in HONEST:
        _, key = anew.states[holder].on_openings(anew.shown, anew.boxes[holder])  # nobody notices
    (frame,) = encrypt(agreement, 1, key, PRIVATE)
    return opened(agreement, ciphertext(agreement, key, frame), {LAST: OWN})


def test_a_second_roster_is_refused(engine: Engine) -> None:
    with pytest.raises(RemoteProtocolError, match="answered another roster in this session"):
        attack(engine, {holder: BurnInMemory() for holder in HONEST})


def test_where_burn_records_are_forgotten_one_holder_reads_every_upload(engine: Engine) -> None:
    read = attack(engine, dict.fromkeys(HONEST, burn_nothing))
    assert np.abs(read - PRIVATE).max() < 1e-6
