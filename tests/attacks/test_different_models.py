"""Show the victim the model and everybody else one on which their updates vanish.

The correct sum is then the victim's update alone (arXiv 2111.07380). Every label
of a round depends on what the client was shown, so those masks do not cancel and
those boxes do not open.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, CollectKeys, Params, Sum, client, join
from protocols.bonawitz.messages import Advertise, Roster, SealedShares, ShareBoxes
from protocols.bonawitz.params import TAG_SIZE, Context
from protocols.errors import RemoteProtocolError
from protocols.secrets import Secret
from protocols.testing import insecure_entropy, insecure_identities, played, publics_of

VICTIM, CLIENTS = 1, (1, 2, 3, 4)
MODEL, DEAD_MODEL = hashlib.sha256(b"model").digest(), hashlib.sha256(b"dead model").digest()
AGREED = Agreement(
    params=Params(clients=4, threshold=3, words=3), session=bytes(16), round=1, public_digest=MODEL
)
SIGNED = replace(AGREED, params=replace(AGREED.params, active=True, max_corrupt=0))
IDENTITIES = insecure_identities(CLIENTS)
PUBLICS = publics_of(IDENTITIES)


def update_of(number: int, model: bytes) -> NDArray[np.uint64]:
    """What a client computes on ``model``: on the dead one every gradient is zero."""
    return np.full(3, 1000 + number, np.uint64) * np.uint64(model == MODEL)


UPDATES = {number: update_of(number, MODEL) for number in CLIENTS}


def model_of(shown: Callable[[int], bytes], agreed: Agreement = AGREED) -> dict[int, Agreement]:
    """What each client agrees to, where the server shows client ``c`` the model ``shown(c)``."""
    return {number: replace(agreed, public_digest=shown(number)) for number in CLIENTS}


def attack(shown: Callable[[int], bytes], agreed: Agreement = AGREED) -> Sum:
    """A round in which the server shows client ``c`` the model ``shown(c)``."""
    inputs = {number: update_of(number, shown(number)) for number in CLIENTS}
    agreements = model_of(shown, agreed)
    made = played(agreed, inputs, "sum", shown=agreements, identities=IDENTITIES)
    released: Sum = made.server.close()
    return released


def everybody_the_same(_: int) -> bytes:
    return MODEL


def dead_for_all_but_the_victim(number: int) -> bytes:
    return MODEL if number == VICTIM else DEAD_MODEL


def unbind_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes that do not depend on what their sender and recipient were shown."""

    def seal(_: Context, *about: int | bytes) -> bytes:
        return repr(about).encode()

    monkeypatch.setattr(Context, "seal", seal)


def sign_keys_for_no_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rule removed; and a liar's messages begin with the tag that their reader expects."""

    monkeypatch.setattr(Agreement, "advertised_by", lambda _: lambda number: bytes([number]))
    monkeypatch.setattr(Agreement, "tag", bytes(TAG_SIZE))


def unbind_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule removed: no label depends on what a client was shown."""

    def context(agreement: Agreement, roster: bytes) -> Context:
        return Context(header=agreement.header, digest=roster)

    monkeypatch.setattr(Agreement, "context", context)


def test_the_honest_round_gives_the_sum() -> None:
    assert attack(everybody_the_same).words.tolist() == [4010] * 3


def test_shown_different_models_no_client_opens_anothers_box() -> None:
    with pytest.raises(RemoteProtocolError, match="a box does not open"):
        attack(dead_for_all_but_the_victim)


def test_the_victim_sends_nothing_of_its_vector() -> None:
    agreements = model_of(dead_for_all_but_the_victim)
    made = played(AGREED, UPDATES, "boxes", shown=agreements)
    with pytest.raises(RemoteProtocolError, match="a box does not open"):
        made.states[VICTIM].on_boxes(made.boxes[VICTIM], UPDATES[VICTIM])


def test_were_the_boxes_to_open_the_masks_would_not_cancel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unbind_boxes(monkeypatch)
    assert attack(everybody_the_same).words.tolist() == [4010] * 3
    with pytest.raises(RemoteProtocolError, match="the check word does not count"):
        attack(dead_for_all_but_the_victim)


def test_without_context_in_the_labels_the_sum_is_the_victims_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unbind_everything(monkeypatch)
    stolen = attack(dead_for_all_but_the_victim)
    assert stolen.survivors == CLIENTS
    assert np.array_equal(stolen.words, update_of(VICTIM, MODEL))


@pytest.mark.parametrize(
    "change", [{"threshold": 4}, {"minimum_survivors": 3}, {"clients": 5}], ids=str
)
def test_shown_different_parameters_no_client_opens_anothers_box(change: dict[str, int]) -> None:
    params = replace(AGREED.params, **change)  # type: ignore[arg-type]  # integers only
    made = played(AGREED, UPDATES, "boxes", shown={VICTIM: replace(AGREED, params=params)})
    with pytest.raises(RemoteProtocolError, match="a box does not open"):
        made.states[VICTIM].on_boxes(made.boxes[VICTIM], UPDATES[VICTIM])
    for number in set(CLIENTS) - {VICTIM}:  # who agree with each other may go on
        _, after = made.states[number].on_boxes(made.boxes[number], UPDATES[number])
        assert VICTIM not in after.shares.take()


def test_shown_different_rosters_no_client_opens_anothers_box() -> None:
    made = played(AGREED, UPDATES, "roster")
    entries = dict(made.roster.entries)
    del entries[4]
    shown = replace(made.roster, entries=entries).to_bytes()
    _, victim = made.states[VICTIM].on_roster(shown)
    boxes = {}
    for number in (2, 3):
        message, _ = made.states[number].on_roster(made.rosters[number])
        boxes[number] = SealedShares.from_bytes(message, expect=AGREED.header).boxes[VICTIM]
    message = ShareBoxes(header=AGREED.header, recipient=VICTIM, boxes=boxes).to_bytes()
    with pytest.raises(RemoteProtocolError, match="a box does not open"):
        victim.on_boxes(message, UPDATES[VICTIM])


def shown_by_a_liar(shown: Callable[[int], bytes]) -> dict[int, Any]:
    """The clients, each with what it makes of the roster; the server looks at no signature."""
    entries, states = {}, {}
    agreements = model_of(shown, SIGNED)
    for number in CLIENTS:
        message, states[number] = join(
            agreements[number],
            number,
            insecure_entropy(number),
            identity=IDENTITIES[number],
            identities=PUBLICS,
        )
        keys = Advertise.from_bytes(message, expect=SIGNED.header, signed=True).keys
        entries[number] = keys
    roster = Roster(header=SIGNED.header, agreement=b"", entries=entries)
    told = {n: replace(roster, agreement=agreements[n].tag).to_bytes() for n in CLIENTS}
    return {number: states[number].on_roster(told[number]) for number in CLIENTS}


def test_where_keys_are_signed_no_client_shares_anything_with_who_saw_another_model() -> None:
    shown_by_a_liar(everybody_the_same)
    with pytest.raises(RemoteProtocolError, match="client 2 are not signed by its identity"):
        shown_by_a_liar(dead_for_all_but_the_victim)


def test_a_server_turns_away_keys_signed_for_another_model() -> None:
    collect = CollectKeys(SIGNED, PUBLICS)
    message, _ = join(
        replace(SIGNED, public_digest=DEAD_MODEL),
        2,
        insecure_entropy(2),
        identity=IDENTITIES[2],
        identities=PUBLICS,
    )
    with pytest.raises(RemoteProtocolError, match="client 2 are not signed by its identity"):
        collect.receive(message)


def test_signatures_that_name_no_model_let_the_attack_through_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unbind_everything(monkeypatch)
    sign_keys_for_no_round(monkeypatch)
    stolen = attack(dead_for_all_but_the_victim, SIGNED)
    assert np.array_equal(stolen.words, update_of(VICTIM, MODEL))


def test_were_keys_not_signed_boxes_would_still_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    sign_keys_for_no_round(monkeypatch)
    assert attack(everybody_the_same, SIGNED).words.tolist() == [4010] * 3
    with pytest.raises(RemoteProtocolError, match="a box does not open"):
        attack(dead_for_all_but_the_victim, SIGNED)
    monkeypatch.setattr(client, "unseal", lambda *_: Secret(bytes(64)))
    with pytest.raises(RemoteProtocolError, match="clients have signed the survivors"):
        attack(dead_for_all_but_the_victim, SIGNED)
