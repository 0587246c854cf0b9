"""Show every client a set of survivors of its own, so that the sum shrinks to two clients.

Each set alone is large enough. Together they open the self-masks of the two that
stand in all of them, and the mask keys of everybody else, though at least
``threshold`` less the corrupt clients were promised to be summed. So a client
reveals nothing until as many clients as the threshold have signed the very set
that it signed. The attack is made with one corrupt client and signatures that the
server comes by in four ways; each works against the code with one check removed.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, Params, client
from protocols.bonawitz.messages import (
    MaskedFrame,
    Signatures,
    SignedSurvivors,
    Survivors,
)
from protocols.bonawitz.params import Context
from protocols.errors import RemoteProtocolError
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.primitives.sign import verify
from protocols.secrets import Secret
from protocols.testing import insecure_entropy, insecure_identities, played, publics_of
from protocols.wire import write_subset

CLIENTS, HONEST, CORRUPT, SUMMED = range(1, 7), range(1, 6), 6, (1, 2)
PARAMS = Params(clients=6, threshold=4, words=3, active=True, max_corrupt=1)  # 2 * 4 > 6 + 1
LAST = Agreement(params=PARAMS, session=bytes(16), round=9, public_digest=bytes(32))
INPUTS = {n: np.full(3, 10**n, np.uint64) for n in CLIENTS}
SHOWN = {1: {1, 2, 3, 6}, 2: {1, 2, 4, 6}, 3: {1, 2, 3, 6}, 4: {1, 2, 4, 6}, 5: {1, 2, 5, 6}}
IDENTITIES = insecure_identities(CLIENTS)
PUBLICS = publics_of(IDENTITIES)


class Seen:
    """A round up to the survivors, as the server and its one client see it."""

    def __init__(self, agreement: Agreement = LAST) -> None:
        entropy = lambda n: insecure_entropy((n, agreement.round))  # noqa: E731  # of one argument
        made = played(agreement, INPUTS, "survivors", entropy=entropy, identities=IDENTITIES)
        self.header, self.context, self.roster = made.header, made.context, made.roster
        self.states, self.frames, self.shares = dict(made.states), made.frames, made.shares
        self.key = PrivateKey(Secret(entropy(CORRUPT)(32)))  # the corrupt one's
        self.held = self.states[CORRUPT].shares.take()  # both of each peer

    def sign(self, n: int, alive: set[int]) -> bytes:
        message = Survivors(header=self.header, alive=frozenset(alive), members=CLIENTS)
        if n == CORRUPT:  # it signs whatever helps
            return IDENTITIES[CORRUPT].sign(self.context.survivors(), message.body())
        answer, self.states[n] = self.states[n].sign_survivors(message.to_bytes())
        return SignedSurvivors.from_bytes(answer, expect=self.header).signature

    def reveal(self, n: int, signatures: Mapping[int, bytes]) -> dict[int, bytes]:
        message = Signatures(header=self.header, signatures=dict(signatures)).to_bytes()
        return self.shares(self.states[n].on_signatures(message))

    def rebuilt(self, peer: int, revealed: Mapping[int, Mapping[int, bytes]]) -> Secret:
        """The self-mask's seed of who is summed, the mask key of all others."""
        summed = peer in SUMMED
        shares = {n: revealed[n][peer] for n in HONEST if (peer in SHOWN[n]) is summed}
        both = self.held[peer].expose()
        shares[CORRUPT] = both[:32] if summed else both[32:]
        chosen = sorted(shares, reverse=True)[: PARAMS.threshold or 0]
        return combine(chosen, [[shares[n] for n in chosen]])[0]

    def stolen(self, revealed: Mapping[int, Mapping[int, bytes]]) -> NDArray[np.uint64]:
        words = np.zeros(4, np.uint64)
        masks = []
        for n in SUMMED:
            (sent,) = self.frames[n]
            frame = MaskedFrame.from_bytes(sent, expect=self.header, index=0, count=4)
            words += frame.words
            seed = self.rebuilt(n, revealed)
            masks.append(Mask(seed=seed, label=self.context.self_mask(n), subtract=True))
        for n in set(CLIENTS) - set(SUMMED):
            key = self.key if n == CORRUPT else PrivateKey(self.rebuilt(n, revealed))
            for peer in SUMMED:
                label = self.context.pair(n, peer)
                (seed,) = key.agree(self.roster.entries[peer].mask, label)
                masks.append(Mask(seed=seed, label=label, subtract=n < peer))
        Masks(masks).apply_to(words)
        return words[:-1]


Way = Callable[[Seen, dict[int, dict[int, bytes]]], Mapping[int, Mapping[int, bytes]]]


def attack(way: Way) -> NDArray[np.uint64]:
    """The sum of two honest clients; ``way`` gives what each client is shown as signatures."""
    seen = Seen()
    own = {n: {n: seen.sign(n, SHOWN[n])} for n in HONEST}
    shown = way(seen, own)
    return seen.stolen({n: seen.reveal(n, shown[n]) for n in HONEST})


def nothing_but_zeros(_: Seen, __: dict[int, dict[int, bytes]]) -> dict[int, dict[int, bytes]]:
    return {n: dict.fromkeys(CLIENTS, bytes(64)) for n in HONEST}


def one_under_many_names(seen: Seen, _: dict[int, dict[int, bytes]]) -> dict[int, dict[int, bytes]]:
    return {n: dict.fromkeys(CLIENTS, seen.sign(CORRUPT, SHOWN[n])) for n in HONEST}


def over_other_sets(seen: Seen, own: dict[int, dict[int, bytes]]) -> dict[int, dict[int, bytes]]:
    everybodys = {n: own[n][n] for n in HONEST}
    return {n: {**everybodys, CORRUPT: seen.sign(CORRUPT, SHOWN[n])} for n in HONEST}


def of_earlier_rounds(_: Seen, __: dict[int, dict[int, bytes]]) -> dict[int, dict[int, bytes]]:
    """In three rounds before, just these sets survived, and all of them signed."""
    signed = {}
    for number, third in enumerate((3, 4, 5), 1):
        earlier = Seen(replace(LAST, round=number))
        alive = {1, 2, third, CORRUPT}
        signed[third] = {n: earlier.sign(n, alive) for n in alive}
    return {n: signed[max(SHOWN[n] - {CORRUPT})] for n in HONEST}


def honest(seen: Seen, own: dict[int, dict[int, bytes]]) -> dict[int, dict[int, bytes]]:
    """What there is: the signatures over the very set of a client."""
    return {
        n: {
            **{peer: own[peer][peer] for peer in HONEST if SHOWN[peer] == SHOWN[n]},
            CORRUPT: seen.sign(CORRUPT, SHOWN[n]),
        }
        for n in HONEST
    }


def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule removed: nobody looks at signatures."""
    monkeypatch.setattr(client, "verify", lambda *_: None)


def whoever_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule removed: a signature counts under any name."""

    def some_identity(_: bytes, label: bytes, message: bytes, signature: bytes) -> None:
        for public in PUBLICS.values():
            try:
                return verify(public, label, message, signature)
            except RemoteProtocolError:
                continue
        raise RemoteProtocolError("nobody has signed this")

    monkeypatch.setattr(client, "verify", some_identity)


def whatever_was_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule removed: a signature need not be over the set that we signed."""

    def some_set(public: bytes, label: bytes, _: bytes, signature: bytes) -> None:
        for alive in SHOWN.values():
            body = write_subset(alive, CLIENTS)
            try:
                return verify(public, label, body, signature)
            except RemoteProtocolError:
                continue
        raise RemoteProtocolError("no set was signed")

    monkeypatch.setattr(client, "verify", some_set)


def whenever_it_was_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule removed: signatures do not name session, round and context."""
    monkeypatch.setattr(Context, "survivors", lambda _: b"survivors")


WAYS = [
    (nothing_but_zeros, unverified),
    (one_under_many_names, whoever_signed),
    (over_other_sets, whatever_was_signed),
    (of_earlier_rounds, whenever_it_was_signed),
]
EACH = pytest.mark.parametrize(
    ("way", "removed"), WAYS, ids=[way.__name__.replace("_", "-") for way, _ in WAYS]
)


@EACH
def test_without_the_check_the_server_reads_the_sum_of_two(
    way: Way, removed: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    removed(monkeypatch)
    assert np.array_equal(attack(way), INPUTS[1] + INPUTS[2])


@EACH
def test_with_the_check_no_client_reveals_anything(
    way: Way, removed: Callable[[pytest.MonkeyPatch], None]
) -> None:
    seen = Seen()
    own = {n: {n: seen.sign(n, SHOWN[n])} for n in HONEST}
    shown = way(seen, own)
    for n in HONEST:
        with pytest.raises(RemoteProtocolError, match=r"clients have signed .* 4 needed"):
            seen.reveal(n, shown[n])


def test_all_the_signatures_that_there_are_do_not_suffice_either() -> None:
    with pytest.raises(RemoteProtocolError, match=r"3 clients have signed .* 4 needed"):
        attack(honest)
