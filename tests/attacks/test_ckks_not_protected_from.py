"""Openings that CKKS does not close, of which SECURITY.md says so. All work.

A holder answers c1 times its secret, and noise, for whatever c1 it is shown. A c1 that somebody
chose, one constant of a quarter of q, has the answer be the secret, read off by rounding:
one request, and every upload of the session is open. A client that works with the server
needs no lie of the server's, only an upload so made that the honest sum is that c1.

A holder sees digests of uploads and one ciphertext, and nothing ties the two: a server that
shows one upload as the sum has it opened. And nothing ties a client's ciphertext to a vector
of its own: with the help of the server it is made of others' ciphertexts, and the
sum of all is then no sum. The digests that holders keep are evidence against a server
that named uploads it did not get, not prevention. And nothing says whose entries stand in a
roster: a server that plays all other holders to each of them has every part of the key.

Under a shared key the same works on SEAL alone: see test_ckks_sum_of_other_uploads.py.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from ciphertexts import (
    ciphertext,
    constant,
    difference,
    opened,
    read_off,
    second,
    secret_of,
)
from numpy.typing import NDArray

from protocols.ckks import Engine
from protocols.ckks.client import Published, encrypt, open_sum
from protocols.ckks.keys import CollectiveKey, SharedKey, arithmetic
from protocols.ckks.messages import Frame, Opened, Openings, Partial, Request, SharedSum
from protocols.ckks.params import Agreement, Params
from protocols.ckks.server import CollectPartials, CollectUploads
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import (
    BurnInMemory,
    burn_nothing,
    insecure_entropy,
    played_key,
    reals_of,
    small_ckks,
    small_threshold,
)

CLIENTS, HOLDERS, VICTIM = (1, 2, 3), (1, 2, 3, 4), 1
ENTRIES = {Engine.SEAL: 2048, Engine.COEFFICIENTS: 4088}  # a whole polynomial


def threshold(engine: Engine) -> Params:
    return small_threshold(engine, clients=3, minimum_survivors=3, entries=ENTRIES[engine])


def agreed(params: Params) -> Agreement:
    return Agreement(params=params, session=bytes(16), public_digest=bytes(32))


def vector(client: int, params: Params) -> NDArray[np.float64]:
    return np.random.default_rng(client).uniform(-1, 1, params.entries)


def far(read: NDArray[np.float64], client: int, params: Params) -> float:
    return float(np.abs(read - vector(client, params)).max())


class Session:
    """A key, and the uploads of all clients."""

    def __init__(self, engine: Engine) -> None:
        self.params = threshold(engine)
        self.agreement = agreed(self.params)
        made = played_key(self.agreement, HOLDERS, "requests")
        self.key, self.states, self.frames = made.key, made.states, {}
        for client in CLIENTS:
            values = vector(client, self.params)
            (self.frames[client],) = encrypt(self.agreement, client, self.key, values)

    def ciphertext(self, client: int) -> bytes:
        return ciphertext(self.agreement, self.key, self.frames[client])

    def request(self, seconds: bytes, summands: Mapping[int, bytes] | None = None) -> bytes:
        """One that nothing looks wrong about: by default it names the uploads that came."""
        names = {c: hashlib.sha256(frame).digest() for c, frame in self.frames.items()}
        return Request(
            header=self.agreement.header,
            context=self.key.context(self.agreement),
            alive=frozenset(HOLDERS),
            summands=summands or names,
            seconds=seconds,
        ).to_bytes()

    def answers(self, message: bytes) -> dict[int, list[bytes]]:
        """Of holders that answer one request a round; each test is another session."""
        return {
            holder: list(
                replace(self.states[holder], burn=BurnInMemory()).on_request(
                    self.agreement, message
                )[0]
            )
            for holder in HOLDERS
        }

    def opened(self, message: bytes, sent: bytes) -> NDArray[np.float64]:
        """What the holders' answers make of a ciphertext of the server's choice."""
        made = arithmetic(self.agreement)
        sums = made.sums()
        sums.add(0, sums.read(0, memoryview(sent)))
        found = Request.from_bytes(
            message,
            expect=self.agreement.header,
            context=self.key.context(self.agreement),
            params=self.params,
        )
        partials = CollectPartials(self.agreement, self.key, found, sums)
        for answer in self.answers(message).values():
            partials.receive(answer)
        return reals_of(self.params, partials.close().values)

    def upload(self, client: int, sent: bytes) -> bytes:
        """An upload of this very ciphertext."""
        context = self.key.context(self.agreement)
        header = self.agreement.header
        return Frame(
            header=header, sender=client, index=0, context=context, ciphertext=sent
        ).to_bytes()

    def keys_in(self, message: bytes, value: int) -> bool:
        """Whether every holder's secret can be read off what it answers."""
        for holder, (frame,) in self.answers(message).items():
            part = Partial.from_bytes(
                frame, expect=self.agreement.header, index=0, params=self.params
            ).part
            secret = secret_of(self.agreement, holder, self.states[holder].seed)
            if (read_off(self.params, part, value) != secret).any():
                return False
        return True


@pytest.fixture(scope="module")
def made(engine: Engine) -> Session:
    return Session(engine)


# --- a c1 that somebody chose ---


def test_one_malformed_request_tells_every_holders_key(made: Session) -> None:
    value = made.params.ring.modulus // 4
    assert made.keys_in(made.request(constant(made.params, value)), value)


def test_so_does_an_honest_request_if_one_client_helps(made: Session) -> None:
    """Its c1 is the constant, less those of all others; the server sums as it should."""
    value, params = made.params.ring.modulus // 4, made.params
    others = [second(params, made.ciphertext(client)) for client in (1, 2)]
    chosen = difference(params, constant(params, value), *others)
    size = params.second_size
    honest = made.ciphertext(3)
    first = params.engine is Engine.COEFFICIENTS
    crafted = chosen + honest[size:] if first else honest[:-size] + chosen
    collect = CollectUploads(made.agreement, made.key, CLIENTS)
    for sent in (made.frames[1], made.frames[2], made.upload(3, crafted)):
        collect.receive([sent])  # nothing about it looks wrong
    message, _ = collect.close_threshold(HOLDERS)
    assert made.keys_in(message, value)


# --- something else shown as the sum ---


def test_a_single_ciphertext_shown_as_the_sum_is_not_protected_from(made: Session) -> None:
    sent = made.ciphertext(VICTIM)
    message = made.request(second(made.params, sent))
    assert far(made.opened(message, sent), VICTIM, made.params) < 1e-2


def test_an_upload_made_of_others_ciphertexts_is_not_protected_from(made: Session) -> None:
    """Client 3 sends the first less the second: the sum is twice the first."""
    crafted = difference(made.params, made.ciphertext(VICTIM), made.ciphertext(2))
    collect = CollectUploads(made.agreement, made.key, CLIENTS)
    for sent in (made.frames[VICTIM], made.frames[2], made.upload(3, crafted)):
        collect.receive([sent])  # nothing about it looks wrong
    message, partials = collect.close_threshold(HOLDERS)
    for answer in made.answers(message).values():
        partials.receive(answer)
    read = reals_of(made.params, partials.close().values)
    assert far(read / 2, VICTIM, made.params) < 1e-2


def test_digests_are_evidence_against_a_server_that_named_what_it_did_not_get(
    made: Session,
) -> None:
    honest = hashlib.sha256(made.frames[1]).digest()
    named = {1: honest, 2: bytes(32), 3: bytes([3] * 32)}
    message = made.request(second(made.params, made.ciphertext(VICTIM)), named)
    holder = replace(made.states[1], burn=burn_nothing)
    _, kept = holder.on_request(made.agreement, message)
    assert kept[2] != hashlib.sha256(made.frames[2]).digest()  # client 2 can say so
    assert kept == named


# --- a roster for each holder ---


def alone_among_fakes(engine: Engine, holder: int) -> tuple[Secret, Opened]:
    """The seed of an honest holder that is shown a roster of the server's making; what it opens."""
    agreement = agreed(threshold(engine))
    entropy = functools.partial(_of_a_session, holder)
    made = played_key(agreement, HOLDERS, "requests", entropy=entropy)  # all but one the server
    # Nothing about it looks wrong to the honest one either.
    fakes = [each for each in HOLDERS if each != holder]
    (seed,) = combine(fakes, [[made.states[fake].shares[holder].expose() for fake in fakes]])
    header, params = agreement.key_header, agreement.params
    shown = Openings.from_bytes(made.shown, expect=header, params=params)
    return seed, shown.entries[holder]


def _of_a_session(number: int, holder: int) -> object:
    return insecure_entropy((number, holder))


def test_a_roster_for_each_holder_is_not_protected_from(engine: Engine) -> None:
    agreement = agreed(threshold(engine))
    dealt = {holder: alone_among_fakes(engine, holder) for holder in HOLDERS}
    shown = Openings(
        header=agreement.key_header, entries={holder: dealt[holder][1] for holder in HOLDERS}
    )
    key = CollectiveKey.from_bytes(agreement, shown.to_bytes())  # as a client checks it
    (frame,) = encrypt(agreement, VICTIM, key, vector(VICTIM, agreement.params))
    seeds = {holder: seed for holder, (seed, _) in dealt.items()}
    read = opened(agreement, ciphertext(agreement, key, frame), seeds)
    assert far(read, VICTIM, agreement.params) < 1e-2


# --- under a shared key on SEAL ---


class Shared:
    """What clients sent under a key of all of them, and a server that shows what it likes."""

    def __init__(self) -> None:
        self.params = small_ckks(Engine.SEAL, clients=3, minimum_survivors=3)
        self.agreement = agreed(self.params)
        self.secret = Secret(bytes(32))
        self.key = SharedKey(self.agreement, self.secret)
        self.names, self.sent = {}, {}
        for client in CLIENTS:
            values = vector(client, self.params)
            upload = encrypt(self.agreement, client, self.key, values)
            (frame,) = upload
            self.names[client] = upload.name
            self.sent[client] = self.expanded(frame)

    def expanded(self, frame: bytes) -> bytes:
        sums = arithmetic(self.agreement).sums()
        sums.add(0, sums.read(0, memoryview(ciphertext(self.agreement, self.key, frame))))
        return sums.shared(0)

    def published(self, sent: bytes) -> NDArray[np.float64]:
        """By client 2, which finds its upload named; who publishes tells the server."""
        shown = SharedSum(
            header=self.agreement.header,
            context=self.key.context(self.agreement),
            summands=self.names,
            ciphertexts=sent,
        ).to_bytes()
        mine, burn = self.names[2], BurnInMemory()
        result = open_sum(self.agreement, 2, self.key, shown, burn=burn, sent=mine)
        assert isinstance(result, Published)
        return reals_of(self.params, result.values)


def test_under_a_shared_key_on_seal_one_published_result_may_tell_the_key() -> None:
    from protocols.ckks.microsoft_seal import _PLAINTEXT, _saved, context
    from protocols.ckks.residues import pack, ternary

    made, value = Shared(), 2**34
    ring = made.params.seal_ring
    nothing = bytes(made.params.second_size)
    values = made.published(nothing + constant(made.params, value))
    # The encoder undone, of a quarter of the values, which are up to 3 in size.
    seal = context(ring, made.params.scale)
    rows = seal.data.residues(_saved(seal.encode(values / 4), seal.data.limit), _PLAINTEXT, 1)[0]
    found = read_off(made.params, pack(rows, ring.primes), value // 4)
    assert (found == ternary(made.secret, made.agreement.label(b"shared"), ring.degree)).all()


def test_under_a_shared_key_on_seal_a_single_ciphertext_may_be_shown_as_the_sum() -> None:
    made = Shared()
    assert far(made.published(made.sent[VICTIM]), VICTIM, made.params) < 1e-2


def test_under_a_shared_key_on_seal_a_sum_may_be_made_of_others_ciphertexts() -> None:
    """The first, less the second, and all: twice the first."""
    made = Shared()
    zero = difference(made.params, made.sent[1], made.sent[1])
    negative = difference(made.params, zero, made.sent[VICTIM])
    crafted = difference(made.params, made.sent[VICTIM], negative)
    assert far(made.published(crafted) / 2, VICTIM, made.params) < 1e-2
