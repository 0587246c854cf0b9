"""Three openings that CKKS does not close, of which SECURITY.md says so. All work.

A holder sees digests of uploads and one ciphertext, and nothing ties the two: a server that
shows one upload as the sum has it opened. And nothing ties a client's ciphertext to a vector
of its own: with the help of the server it is made of others' ciphertexts, and the
sum of all is then no sum. The digests that holders keep are evidence against a server
that named uploads it did not get, not prevention. And nothing says whose entries stand in a
roster: a server that plays all other holders to each of them has every part of the key.
"""

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from protocols.ckks.client import Published, encrypt, open_sum
from protocols.ckks.keys import CollectiveKey, SharedKey, holder_key
from protocols.ckks.messages import Frame, Opened, Openings, Request, SharedSum
from protocols.ckks.microsoft_seal import context
from protocols.ckks.params import Agreement, Params
from protocols.ckks.residues import (
    Rows,
    add,
    pack,
    pack_ciphertext,
    subtract,
    unpack_ciphertext,
    unpack_seeded,
)
from protocols.ckks.server import CollectPartials, CollectUploads
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, played_key, small_ckks, small_threshold

CLIENTS, HOLDERS, VICTIM = (1, 2, 3), (1, 2, 3, 4), 1
SHARED = small_ckks(clients=3, minimum_survivors=3, scale_half_bits=97)
THRESHOLD = small_threshold(clients=3, minimum_survivors=3, scale_half_bits=97)
RING = SHARED.ring


def agreed(params: Params) -> Agreement:
    return Agreement(params=params, session=bytes(16), public_digest=bytes(32))


def vector(client: int) -> NDArray[np.float64]:
    return np.random.default_rng(client).uniform(-1, 1, RING.degree)


class Session:
    """A key, and the uploads of all clients."""

    def __init__(self) -> None:
        agreement = agreed(THRESHOLD)
        made = played_key(agreement, HOLDERS, "requests")
        self.key, self.holders = made.key, made.states
        self.frames = {}
        for client in CLIENTS:
            (self.frames[client],) = encrypt(agreement, client, self.key, vector(client))

    def ciphertext(self, client: int) -> Rows:
        return unpack_ciphertext(framed(self.frames[client], THRESHOLD, self.key).ciphertext, RING)

    def opened(self, request: Request, first: Rows) -> NDArray[np.float64]:
        partials = CollectPartials(agreed(THRESHOLD), self.key, request, first[None])
        for holder in HOLDERS:
            answer, _ = self.holders[holder].on_request(agreed(THRESHOLD), request.to_bytes())
            partials.receive(answer)
        return partials.close().values


def framed(frame: bytes, params: Params, key: CollectiveKey | SharedKey) -> Frame:
    agreement = agreed(params)
    return Frame.from_bytes(
        frame, expect=agreement.header, context=key.context(agreement), index=0, params=params
    )


def test_a_single_ciphertext_shown_as_the_sum_is_not_protected_from() -> None:
    made = Session()
    first, second = made.ciphertext(VICTIM)
    request = Request(
        header=agreed(THRESHOLD).header,
        context=made.key.context(agreed(THRESHOLD)),
        alive=frozenset(HOLDERS),
        summands={c: hashlib.sha256(made.frames[c]).digest() for c in CLIENTS},
        seconds=pack(second, RING.primes),
    )
    assert np.abs(made.opened(request, first) - vector(VICTIM)).max() < 1e-2


def test_a_single_ciphertext_shown_as_the_sum_under_a_shared_key_is_not_protected_from() -> None:
    agreement = agreed(SHARED)
    key = SharedKey(agreement, Secret(bytes(32)))
    (frame,) = encrypt(agreement, VICTIM, key, vector(VICTIM))
    upload = encrypt(agreement, 2, key, vector(2))
    list(upload)
    seeded = unpack_seeded(framed(frame, SHARED, key).ciphertext, RING)
    alone = context(RING, SHARED.scale).expand(*seeded)
    shown = SharedSum(
        header=agreement.header,
        context=key.context(agreement),
        summands={1: bytes(32), 2: upload.digest, 3: bytes([3] * 32)},
        ciphertexts=pack_ciphertext(alone, RING),
    ).to_bytes()
    result = open_sum(agreement, 2, key, shown, burn=BurnInMemory(), sent=upload.digest)
    assert isinstance(result, Published)  # and a client that publishes tells the server
    assert np.abs(result.values - vector(VICTIM)).max() < 1e-2


def test_an_upload_made_of_others_ciphertexts_is_not_protected_from() -> None:
    """Client 3 sends the first less the second: the sum is twice the first."""
    made = Session()
    crafted = subtract(made.ciphertext(VICTIM), made.ciphertext(2), RING.primes)
    frame = replace(
        framed(made.frames[3], THRESHOLD, made.key), ciphertext=pack_ciphertext(crafted, RING)
    )
    collect = CollectUploads(agreed(THRESHOLD), made.key, CLIENTS)
    for sent in (made.frames[VICTIM], made.frames[2], frame.to_bytes()):
        collect.receive([sent])  # nothing about it looks wrong
    message, partials = collect.close_threshold(HOLDERS)
    for holder in HOLDERS:
        partials.receive(made.holders[holder].on_request(agreed(THRESHOLD), message)[0])
    assert np.abs(partials.close().values / 2 - vector(VICTIM)).max() < 1e-2


def test_digests_are_evidence_against_a_server_that_named_what_it_did_not_get() -> None:
    made = Session()
    second = made.ciphertext(VICTIM)[1]
    request = Request(
        header=agreed(THRESHOLD).header,
        context=made.key.context(agreed(THRESHOLD)),
        alive=frozenset(HOLDERS),
        summands={1: hashlib.sha256(made.frames[1]).digest(), 2: bytes(32), 3: bytes([3] * 32)},
        seconds=pack(second, RING.primes),
    )
    _, kept = made.holders[1].on_request(agreed(THRESHOLD), request.to_bytes())
    assert kept[2] != hashlib.sha256(made.frames[2]).digest()  # client 2 can say so
    assert kept == request.summands


def alone_among_fakes(holder: int) -> tuple[Secret, Opened]:
    """The seed of an honest holder that is shown a roster of the server's making; what it opens."""
    agreement = agreed(THRESHOLD)
    made = played_key(agreement, HOLDERS, "requests")  # all but one are the server
    # Nothing about it looks wrong to the honest one either.
    fakes = [each for each in HOLDERS if each != holder]
    (seed,) = combine(fakes, [[made.states[fake].shares[holder].expose() for fake in fakes]])
    opened = Openings.from_bytes(made.shown, expect=agreement.key_header, params=THRESHOLD)
    return seed, opened.entries[holder]


def test_a_roster_for_each_holder_is_not_protected_from() -> None:
    agreement = agreed(THRESHOLD)
    dealt = {holder: alone_among_fakes(holder) for holder in HOLDERS}
    shown = Openings(
        header=agreement.key_header, entries={holder: dealt[holder][1] for holder in HOLDERS}
    )
    key = CollectiveKey.from_bytes(agreement, shown.to_bytes())  # as a client checks it
    (frame,) = encrypt(agreement, VICTIM, key, vector(VICTIM))
    opened, second = unpack_ciphertext(framed(frame, THRESHOLD, key).ciphertext, RING)
    for holder, (seed, _) in dealt.items():
        part = holder_key(agreement, holder, seed).partial(second, None)
        opened = add(opened, part, RING.primes)
    read = context(RING, THRESHOLD.scale).decode(opened)
    assert np.abs(read - vector(VICTIM)).max() < 1e-2
