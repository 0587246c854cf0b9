"""Tell the victim that few have advertised, and give it neighbours of the server's own.

Were the number of clients the server's word, so would be degree and threshold. Its two corrupt
clients of twenty are as many as planned for. A client that does not trust the server is shown
the whole roster, or refuses.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params, Rates, join
from protocols.bonawitz.messages import (
    Advertise,
    MaskedFrame,
    Roster,
    SealedShares,
    ShareBoxes,
)
from protocols.errors import RemoteProtocolError
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import agreement_of, insecure_entropy, insecure_identities, publics_of

PARAMS = Params(clients=20, rates=Rates(corrupt_fraction=0.1, dropout=0.1), words=4, active=True)
VICTIM, CORRUPT = 5, (3, 8)
PRIVATE = np.array([7, 0, 2**64 - 1, 2**32], np.uint64)
IDENTITIES = insecure_identities(range(20))
PUBLICS = publics_of(IDENTITIES)


def attack(params: Params, size: int) -> NDArray[np.uint64]:
    agreement = agreement_of(params)
    header = agreement.header
    entries, states = {}, {}
    for n in (VICTIM, *CORRUPT):
        message, state = join(
            agreement, n, insecure_entropy(n), identity=IDENTITIES[n], identities=PUBLICS
        )
        states[n]: Any = state
        entries[n] = Advertise.from_bytes(message, expect=header, signed=True).keys
    told = Roster(
        header=header,
        agreement=agreement.tag,
        entries=dict(sorted(entries.items())),
        part_of=(size, bytes(32)),
    )
    sealed = {}
    for n in (VICTIM, *CORRUPT):
        message, states[n] = states[n].on_roster(told.to_bytes())
        sealed[n] = SealedShares.from_bytes(message, expect=header).boxes

    def masked(n: int, words: NDArray[np.uint64]) -> bytes:
        boxes = {peer: sealed[peer][n] for peer in sorted(sealed) if peer != n}
        message = ShareBoxes(header=header, recipient=n, boxes=boxes).to_bytes()
        frames, states[n] = states[n].on_boxes(message, words)
        (frame,) = frames
        return frame

    vector = masked(VICTIM, PRIVATE)
    context = agreement.context(told.digest())
    shares, masks = [], []
    for n in CORRUPT:
        masked(n, np.zeros(4, np.uint64))
        shares.append(states[n].shares.take()[VICTIM].expose()[:32])
        label = context.pair(n, VICTIM)
        (seed,) = PrivateKey(Secret(insecure_entropy(n)(32))).agree(entries[VICTIM].mask, label)
        masks.append(Mask(seed=seed, label=label, subtract=n < VICTIM))
    (seed,) = combine([1, 2], [shares])
    masks.append(Mask(seed=seed, label=context.self_mask(VICTIM), subtract=True))
    words = MaskedFrame.from_bytes(vector, expect=header, index=0, count=5).words.copy()
    Masks(masks).apply_to(words)
    return words[:-1]


@pytest.mark.parametrize("size", [4, 9, 15, 20])
def test_a_part_of_a_roster_is_refused_whatever_size_is_said(size: int) -> None:
    why = f"3 of {size} clients in the roster" if size >= 12 else f"{size} clients .* 12 needed"
    with pytest.raises(RemoteProtocolError, match=why):
        attack(PARAMS, size)


def test_a_size_below_the_minimum_of_survivors_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="9 clients in the roster, 15 needed"):
        attack(replace(PARAMS, minimum_survivors=15), 9)
