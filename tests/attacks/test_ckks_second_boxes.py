"""Deal a holder another share after the first was taken, and no key is rebuilt any more.

Openings are tied to the roster; boxes are what their dealers sealed. A dealer that is gone
when sums are opened, and whose key is rebuilt, may keep a second box back and have it
delivered to a holder that was restored from the record in which it waited: the
holder then has another share in a later round, in which the key is not rebuilt and nothing
is opened. Nothing is read by that, but the session is at its end when the dealer likes. The
burn ties a holder to the boxes that it took; the attack works where it forgets.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols.burn import Burn
from protocols.ckks import Engine
from protocols.ckks.client import AwaitOpenings, AwaitRoster, Holder, encrypt, restore
from protocols.ckks.messages import Opening, ShareBoxes
from protocols.ckks.params import Agreement
from protocols.ckks.server import CollectUploads
from protocols.errors import RemoteProtocolError
from protocols.secrets import Once, Secret
from protocols.testing import BurnInMemory, burn_nothing, played_key, reals_of, small_threshold

HOLDERS, VICTIM, DEALER = (1, 2, 3, 4), 1, 4
ALIVE = HOLDERS[:-1]


def agreed(engine: Engine, index: int = 0) -> Agreement:
    params = small_threshold(engine, decryptions=2)
    return Agreement(params=params, session=bytes(16), round=index, public_digest=bytes(32))


def vector(client: int) -> Any:
    return np.random.default_rng(client).uniform(-1, 1, 2048)


def dealt_anew(agreement: Agreement, record: Secret, roster: bytes) -> bytes:
    """The dealer's box for the victim, under other coefficients."""
    state = restore(record, burn=burn_nothing)
    assert isinstance(state, AwaitRoster)
    making = replace(state.secrets.take(), own=Secret(bytes(32)))
    message, _ = replace(state, secrets=Once(making)).on_roster(roster)
    opening = Opening.from_bytes(message, expect=agreement.key_header, params=agreement.params)
    return opening.boxes[VICTIM]


def attack(engine: Engine, burn: Burn) -> None:
    """Two rounds; between them the victim is handed back its old record, and another box."""
    agreement = agreed(engine)
    made = played_key(agreement, HOLDERS, "roster")
    dealing = made.states[DEALER].into_record()
    dealer = restore(dealing, burn=BurnInMemory())
    made = replace(made, states=dict(made.states) | {DEALER: dealer}).until("openings")
    boxes, key = made.boxes, made.key
    record = made.states[VICTIM].into_record()

    def victim(message: bytes) -> Holder:
        state = restore(record, burn=burn)
        assert isinstance(state, AwaitOpenings)
        return state.on_openings(made.shown, message)[0]

    states = {holder: made.states[holder] for holder in ALIVE if holder != VICTIM}
    holders = dict(replace(made, states=states).until("requests").states)
    holders[VICTIM] = victim(boxes[VICTIM])

    def opened(index: int) -> Any:
        uploads = CollectUploads(agreed(engine, index), key, (1, 2))
        for client in (1, 2):
            uploads.receive(encrypt(agreed(engine, index), client, key, vector(client)))
        message, partials = uploads.close_threshold(ALIVE)
        for holder in ALIVE:
            partials.receive(holders[holder].on_request(agreed(engine, index), message)[0])
        return reals_of(agreement.params, partials.close().values)

    assert np.abs(opened(0) - vector(1) - vector(2)).max() < 0.2
    honest = ShareBoxes.from_bytes(boxes[VICTIM], expect=agreement.key_header)
    other = dict(honest.boxes) | {DEALER: dealt_anew(agreement, dealing, made.roster)}
    holders[VICTIM] = victim(replace(honest, boxes=other).to_bytes())
    opened(1)


def test_other_boxes_than_those_that_were_taken_are_refused(engine: Engine) -> None:
    with pytest.raises(RemoteProtocolError, match="took other openings or boxes in this session"):
        attack(engine, BurnInMemory())


def test_where_burn_records_are_forgotten_a_dealer_ends_the_session_when_it_likes(
    engine: Engine,
) -> None:
    """The burn that is missing: of boxes; those of the holder's answers are kept."""
    whole = BurnInMemory()
    with pytest.raises(RemoteProtocolError, match="shares of holder 4 rebuild another key"):
        attack(
            engine,
            lambda session, stage, request: stage == 5 or whole(session, stage, request),
        )
