"""Speak last when the collective key is made, and decrypt everybody alone.

The key is the sum of the holders' b_i. Who sees those of the others before it names its
own says b - (sum of the others) for a key of its own: the sum is then b, and every upload
opens under its key alone. So each holder commits before anybody opens. The attack
is made with the commitments taken out of the code, and works.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ciphertexts import ciphertext, difference, opened
from numpy.typing import NDArray

from protocols.ckks import Engine, keys
from protocols.ckks import holder as holders
from protocols.ckks.client import encrypt, generate
from protocols.ckks.keys import CollectiveKey, arithmetic
from protocols.ckks.messages import Advertise, Opening, Openings
from protocols.ckks.params import Agreement
from protocols.ckks.server import CollectCommitments
from protocols.errors import RemoteProtocolError
from protocols.secrets import Secret
from protocols.testing import burn_nothing, played_key, small_threshold

HOLDERS, LAST = (1, 2, 3, 4), 4
OWN = Secret(b"known to the last speaker alone!")


class Making:
    """Up to the openings; the last speaker has those of all others before it sends its own."""

    def __init__(self, engine: Engine) -> None:
        self.params = small_threshold(engine)
        self.agreement = Agreement(params=self.params, session=bytes(16), public_digest=bytes(32))
        self.private = np.linspace(-1, 1, self.params.entries)
        made = played_key(self.agreement, HOLDERS, "roster")
        self.opened, self.states, self.server = {}, {}, made.server
        for holder, state in made.states.items():
            self.opened[holder], self.states[holder] = state.on_roster(made.roster)
        for holder in HOLDERS[:-1]:
            self.server.receive(self.opened[holder])

    def opening(self, message: bytes) -> Opening:
        return Opening.from_bytes(message, expect=self.agreement.key_header, params=self.params)

    def rogue(self) -> bytes:
        """The b_i of the last speaker: of a key of its own, less those of all others."""
        others = [self.opening(self.opened[holder]).share for holder in HOLDERS[:-1]]
        own = arithmetic(self.agreement).public_share(LAST, OWN, OWN)
        return difference(self.params, own, *others)

    def entries(self, message: bytes) -> Openings:
        header = self.agreement.key_header
        return Openings.from_bytes(message, expect=header, params=self.params)

    def read(self, key: CollectiveKey) -> NDArray[np.float64]:
        """One client's upload, opened by the last speaker alone."""
        (frame,) = encrypt(self.agreement, 1, key, self.private)
        sent = ciphertext(self.agreement, key, frame)
        return opened(self.agreement, sent, {LAST: OWN})


def test_the_last_speaker_cannot_open_another_key_than_it_committed_to(engine: Engine) -> None:
    made = Making(engine)
    chosen = replace(made.opening(made.opened[LAST]), share=made.rogue()).to_bytes()
    with pytest.raises(RemoteProtocolError, match="holder 4 opens another key"):
        made.server.receive(chosen)
    made.server.receive(made.opened[LAST])
    message, boxes, _ = made.server.close()
    shown = made.entries(message)
    entry = replace(shown.entries[LAST], share=made.rogue())
    wrong = replace(shown, entries=dict(shown.entries) | {LAST: entry}).to_bytes()
    with pytest.raises(RemoteProtocolError, match="holder 4 opens another key"):
        CollectiveKey.from_bytes(made.agreement, wrong)
    with pytest.raises(RemoteProtocolError, match="holder 4 opens another key"):
        made.states[1].on_openings(wrong, boxes[1], burn=burn_nothing)


def test_nor_commit_after_it_has_seen_the_others(engine: Engine) -> None:
    made = Making(engine)
    made.server.receive(made.opened[LAST])
    message, boxes, _ = made.server.close()
    shown = made.entries(message)
    share = made.rogue()
    late = keys.commit(made.agreement, LAST, share, shown.entries[LAST].blind)
    entry = replace(shown.entries[LAST], share=share, commitment=late)
    wrong = replace(shown, entries=dict(shown.entries) | {LAST: entry}).to_bytes()
    with pytest.raises(RemoteProtocolError, match="not of the commitments in the roster"):
        made.states[1].on_openings(wrong, boxes[1], burn=burn_nothing)


def without_commitments(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Callable[..., bytes] = lambda *_: bytes(32)  # noqa: E731  # commits to nothing
    monkeypatch.setattr(keys, "commit", nothing)
    monkeypatch.setattr(holders, "commit", nothing)


def test_without_commitments_the_last_speaker_reads_every_upload(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_commitments(monkeypatch)
    made = Making(engine)
    made.server.receive(replace(made.opening(made.opened[LAST]), share=made.rogue()).to_bytes())
    message, boxes, key = made.server.close()
    made.states[1].on_openings(message, boxes[1], burn=burn_nothing)  # nobody notices
    assert np.abs(made.read(key) - made.private).max() < 1e-6


def test_with_an_honest_share_it_reads_nothing(engine: Engine) -> None:
    made = Making(engine)
    made.server.receive(made.opened[LAST])
    _, _, key = made.server.close()
    if engine is Engine.COEFFICIENTS:
        with pytest.raises(RemoteProtocolError, match="does not open"):
            made.read(key)
    else:
        assert np.abs(made.read(key) - made.private).max() > 1


def test_a_commitment_cannot_be_copied(engine: Engine) -> None:
    """It names its holder: who repeats another's could not open it under its own number."""
    agreement = Making(engine).agreement
    collect = CollectCommitments(agreement, HOLDERS)
    states: dict[int, Any] = {}
    for holder in HOLDERS:
        message, states[holder] = generate(agreement, holder)
        advertised = Advertise.from_bytes(message, expect=agreement.key_header)
        if holder == LAST:
            entry = replace(advertised.entry, commitment=states[1].entry.commitment)
            message = replace(advertised, entry=entry).to_bytes()
        collect.receive(message)
    roster, openings = collect.close()
    answer, _ = states[1].on_roster(roster)
    openings.receive(answer)
    found = Opening.from_bytes(answer, expect=agreement.key_header, params=agreement.params)
    copied = replace(found, sender=LAST, boxes=dict.fromkeys((1, 2, 3), bytes(60)))
    with pytest.raises(RemoteProtocolError, match="holder 4 opens another key"):
        openings.receive(copied.to_bytes())
