"""Speak last when the collective key is made, and decrypt everybody alone.

The key is the sum of the holders' b_i. Who sees those of the others before it names its
own says b - (sum of the others) for a key of its own: the sum is then b, and every upload
opens under its key alone. So each holder commits before anybody opens. The attack
is made with the commitments taken out of the code, and works.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols.ckks import holder as holders
from protocols.ckks import keys
from protocols.ckks.client import encrypt, generate
from protocols.ckks.keys import CollectiveKey, holder_key
from protocols.ckks.messages import Advertise, Frame, Opening, Openings
from protocols.ckks.microsoft_seal import context
from protocols.ckks.params import Agreement
from protocols.ckks.residues import add, pack, subtract, unpack, unpack_ciphertext
from protocols.ckks.server import CollectCommitments
from protocols.errors import RemoteProtocolError
from protocols.secrets import Secret
from protocols.testing import burn_nothing, played_key, small_threshold

HOLDERS, LAST = (1, 2, 3, 4), 4
PARAMS = small_threshold()
RING = PARAMS.ring
AGREEMENT = Agreement(params=PARAMS, session=bytes(16), public_digest=bytes(32))
OWN = Secret(b"known to the last speaker alone!")
PRIVATE = np.linspace(-1, 1, RING.degree)


def making() -> tuple[Any, dict[int, Any], dict[int, bytes]]:
    """Up to the openings; the last speaker has those of all others before it sends its own."""
    made = played_key(AGREEMENT, HOLDERS, "roster")
    opened, states = {}, {}
    for holder, state in made.states.items():
        opened[holder], states[holder] = state.on_roster(made.roster)
    for holder in HOLDERS[:-1]:
        made.server.receive(opened[holder])
    return made.server, states, opened


def opening(message: bytes) -> Opening:
    return Opening.from_bytes(message, expect=AGREEMENT.key_header, params=PARAMS)


def rogue(opened: dict[int, bytes]) -> bytes:
    """The b_i of the last speaker: of a key of its own, less those of all others."""

    def rows(data: bytes) -> Any:
        return unpack(data, RING.degree, RING.key_primes)

    others = functools.reduce(
        lambda x, y: add(x, y, RING.key_primes),
        [rows(opening(opened[holder]).share) for holder in HOLDERS[:-1]],
    )
    own = rows(keys.public_share(AGREEMENT, LAST, OWN))
    return pack(subtract(own, others, RING.key_primes), RING.key_primes)


def read(frame: bytes, key: CollectiveKey) -> Any:
    """One upload, opened by the last speaker alone."""
    found = Frame.from_bytes(
        frame,
        expect=AGREEMENT.header,
        context=key.context(AGREEMENT),
        index=0,
        params=PARAMS,
    )
    first, second = unpack_ciphertext(found.ciphertext, RING)
    own = holder_key(AGREEMENT, LAST, OWN).partial(second, None)
    return context(RING, PARAMS.scale).decode(add(first, own, RING.primes))


def test_the_last_speaker_cannot_open_another_key_than_it_committed_to() -> None:
    openings, states, opened = making()
    chosen = replace(opening(opened[LAST]), share=rogue(opened)).to_bytes()
    with pytest.raises(RemoteProtocolError, match="holder 4 opens another key"):
        openings.receive(chosen)
    openings.receive(opened[LAST])
    message, boxes, _ = openings.close()
    shown = Openings.from_bytes(message, expect=AGREEMENT.key_header, params=PARAMS)
    entry = replace(shown.entries[LAST], share=rogue(opened))
    wrong = replace(shown, entries=dict(shown.entries) | {LAST: entry}).to_bytes()
    with pytest.raises(RemoteProtocolError, match="holder 4 opens another key"):
        CollectiveKey.from_bytes(AGREEMENT, wrong)
    with pytest.raises(RemoteProtocolError, match="holder 4 opens another key"):
        states[1].on_openings(wrong, boxes[1], burn=burn_nothing)


def test_nor_commit_after_it_has_seen_the_others() -> None:
    openings, states, opened = making()
    openings.receive(opened[LAST])
    message, boxes, _ = openings.close()
    shown = Openings.from_bytes(message, expect=AGREEMENT.key_header, params=PARAMS)
    share = rogue(opened)
    late = keys.commit(AGREEMENT, LAST, share, shown.entries[LAST].blind)
    entry = replace(shown.entries[LAST], share=share, commitment=late)
    wrong = replace(shown, entries=dict(shown.entries) | {LAST: entry}).to_bytes()
    with pytest.raises(RemoteProtocolError, match="not of the commitments in the roster"):
        states[1].on_openings(wrong, boxes[1], burn=burn_nothing)


def without_commitments(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Callable[..., bytes] = lambda *_: bytes(32)  # noqa: E731  # commits to nothing
    monkeypatch.setattr(keys, "commit", nothing)
    monkeypatch.setattr(holders, "commit", nothing)


def test_without_commitments_the_last_speaker_reads_every_upload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_commitments(monkeypatch)
    openings, states, opened = making()
    openings.receive(replace(opening(opened[LAST]), share=rogue(opened)).to_bytes())
    message, boxes, key = openings.close()
    states[1].on_openings(message, boxes[1], burn=burn_nothing)  # nobody notices
    (frame,) = encrypt(AGREEMENT, 1, key, PRIVATE)
    assert np.abs(read(frame, key) - PRIVATE).max() < 1e-6


def test_with_an_honest_share_it_reads_nothing() -> None:
    openings, _, opened = making()
    openings.receive(opened[LAST])
    _, _, key = openings.close()
    (frame,) = encrypt(AGREEMENT, 1, key, PRIVATE)
    assert np.abs(read(frame, key) - PRIVATE).max() > 1


def test_a_commitment_cannot_be_copied() -> None:
    """It names its holder: who repeats another's could not open it under its own number."""
    collect = CollectCommitments(AGREEMENT, HOLDERS)
    states: dict[int, Any] = {}
    for holder in HOLDERS:
        message, states[holder] = generate(AGREEMENT, holder)
        advertised = Advertise.from_bytes(message, expect=AGREEMENT.key_header)
        if holder == LAST:
            entry = replace(advertised.entry, commitment=states[1].entry.commitment)
            message = replace(advertised, entry=entry).to_bytes()
        collect.receive(message)
    roster, openings = collect.close()
    answer, _ = states[1].on_roster(roster)
    openings.receive(answer)
    copied = replace(opening(answer), sender=LAST, boxes=dict.fromkeys((1, 2, 3), bytes(60)))
    with pytest.raises(RemoteProtocolError, match="holder 4 opens another key"):
        openings.receive(copied.to_bytes())
