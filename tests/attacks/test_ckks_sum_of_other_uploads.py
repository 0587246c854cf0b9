"""Show clients of a shared key something else as the sum. All of it fails on coefficients.

The server names uploads by the seeds of their c1, and shows their c0 added up. Clients make c1
from the seeds: it is of these uploads, of these clients, in this round, each once, and a server
has no way to choose it. What is not the c0 of just these opens to noise, which is seen in eight
coefficients that every honest client leaves zero. Each attack works where c1 comes with the sum,
as it does on SEAL, or where what ties a seed to its client and its round is taken out of the code.
"""

import functools
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from ciphertexts import ciphertext
from numpy.typing import NDArray

from protocols.ckks import by_coefficients, client
from protocols.ckks.client import Published, encrypt, open_sum
from protocols.ckks.coefficients import Poly, ternary
from protocols.ckks.keys import SharedKey
from protocols.ckks.messages import SharedSum
from protocols.ckks.params import Agreement
from protocols.errors import RemoteProtocolError
from protocols.primitives.prg import Stream
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, insecure_entropy, reals_of, small_ckks

CLIENTS, VICTIM, READER = (1, 2, 3), 1, 2
PARAMS = small_ckks(clients=3, minimum_survivors=3, entries=4088, decryptions=2)
SECRET = Secret(bytes(range(32)))
SEEN = "does not open: some key, upload or partial"


def agreed(index: int) -> Agreement:
    return Agreement(params=PARAMS, session=bytes(16), round=index, public_digest=bytes(32))


def vector(sender: int, index: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng((sender, index)).uniform(-1, 1, PARAMS.entries)


class Round:
    """The uploads of all clients, as the server has them."""

    def __init__(self, index: int = 0) -> None:
        self.agreement, self.index = agreed(index), index
        self.key = SharedKey(self.agreement, SECRET)
        self.names: dict[int, bytes] = {}
        self.firsts: dict[int, NDArray[np.uint32]] = {}  # c0
        for sender in CLIENTS:
            entropy = insecure_entropy((sender, index))
            upload = encrypt(
                self.agreement, sender, self.key, vector(sender, index), entropy=entropy
            )
            (frame,) = upload
            self.names[sender] = upload.name
            sent = ciphertext(self.agreement, self.key, frame)
            self.firsts[sender] = np.frombuffer(sent[32:], "<u4")

    def second(self, sender: int) -> Poly:
        """c1 of an upload, which everybody knows."""
        return by_coefficients._second(self.agreement, sender, self.names[sender], 0)

    def published(
        self, summands: Mapping[int, bytes], first: NDArray[np.uint32], sent: bytes | None = None
    ) -> NDArray[np.float64]:
        """What a client publishes of a sum that the server shows; the server then has it too."""
        words = self.shown(summands, first, sent)
        return reals_of(PARAMS, words)

    def shown(
        self, summands: Mapping[int, bytes], first: NDArray[np.uint32], sent: bytes | None = None
    ) -> NDArray[np.uint64]:
        message = SharedSum(
            header=self.agreement.header,
            context=self.key.context(self.agreement),
            summands=summands,
            ciphertexts=first.tobytes(),
        ).to_bytes()
        result = open_sum(
            self.agreement,
            READER,
            self.key,
            message,
            burn=BurnInMemory(),
            sent=self.names[READER] if sent is None else sent or None,
        )
        assert isinstance(result, Published)
        return result.values


@functools.cache
def made(index: int = 0) -> Round:
    return Round(index)


def far(read: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    return float(np.abs(read - truth).max())


def with_the_servers_second(patch: pytest.MonkeyPatch, chosen: Poly) -> None:
    """The check taken out: clients open under the c1 that comes with a sum, as on SEAL."""
    zero, turns = Poly.zero(PARAMS.lattice), iter(range(10**6))
    patch.setattr(
        by_coefficients,
        "_second",
        lambda *_: chosen if next(turns) % len(CLIENTS) == 0 else zero,
    )


def test_the_honest_sum_opens() -> None:
    found = made()
    read = found.published(found.names, sum(found.firsts.values()))
    assert far(read, sum(vector(sender) for sender in CLIENTS)) < 1e-6


# --- a c1 that the server chose ---


def test_no_c1_can_be_chosen() -> None:
    """With no c0 beside it: what opens is c1 times the key, of a c1 that nobody chose."""
    found = made()
    with pytest.raises(RemoteProtocolError, match=SEEN):
        found.published(found.names, np.zeros(4096, np.uint32))


def test_where_it_can_one_published_result_tells_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large beside the noise, and so small that the eight coefficients pass."""
    found, value = made(), 2**31
    constant = np.zeros(4096, np.uint64)
    constant[0] = value
    with_the_servers_second(monkeypatch, Poly(constant, None))
    words = found.shown(found.names, np.zeros(4096, np.uint32))
    secret = ternary(Stream(SECRET, found.agreement.label(b"shared")), 4096)
    assert (np.rint(words.view(np.int64) / value) == secret[8:]).all()


# --- a single ciphertext ---


def test_a_single_ciphertext_is_not_opened_as_the_sum() -> None:
    """Under the names of all; under its own and invented ones; and under its own alone."""
    found = made()
    alone = found.firsts[VICTIM]
    invented = {VICTIM: found.names[VICTIM], READER: found.names[READER], 3: bytes(32)}
    for summands in (found.names, invented):
        with pytest.raises(RemoteProtocolError, match=SEEN):
            found.published(summands, alone)
    with pytest.raises(RemoteProtocolError, match="a sum of 1 uploads is outside"):
        found.published({VICTIM: found.names[VICTIM]}, alone, sent=b"")


def test_where_c1_comes_with_the_sum_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = made()
    with_the_servers_second(monkeypatch, found.second(VICTIM))
    assert far(found.published(found.names, found.firsts[VICTIM]), vector(VICTIM)) < 1e-6


def test_where_summands_are_not_counted_it_is_opened_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found = made()
    monkeypatch.setattr(client, "check_summands", lambda *_: None)
    read = found.published({VICTIM: found.names[VICTIM]}, found.firsts[VICTIM], sent=b"")
    assert far(read, vector(VICTIM)) < 1e-6


# --- a sum made of others ---


def test_a_sum_made_of_others_is_not_opened() -> None:
    """Client 3, with the server, sends the first less the second; all are named and summed."""
    found, firsts = made(), made().firsts
    crafted = firsts[VICTIM] - firsts[2]
    for name in (found.names[3], bytes(32)):
        named = dict(found.names) | {3: name}
        with pytest.raises(RemoteProtocolError, match=SEEN):
            found.published(named, firsts[VICTIM] + firsts[2] + crafted)


def test_where_c1_comes_with_the_sum_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    found = made()
    second = found.second(VICTIM)
    with_the_servers_second(monkeypatch, second + second)
    read = found.published(found.names, 2 * found.firsts[VICTIM])
    assert far(read / 2, vector(VICTIM)) < 1e-6


@pytest.mark.parametrize("missing", CLIENTS)
def test_no_summand_that_is_named_may_be_missing_and_none_unnamed_be_there(missing: int) -> None:
    found = made()
    rest = sum(first for sender, first in found.firsts.items() if sender != missing)
    for first in (rest, rest + 2 * found.firsts[missing]):
        with pytest.raises(RemoteProtocolError, match=SEEN):
            found.published(found.names, first)


# --- an upload of another round, or of another client ---


def replayed(
    make: Callable[[int], Round] = made,
) -> tuple[Round, dict[int, bytes], NDArray[np.uint32]]:
    """The sum of round 1, with the victim's upload of round 0 in place of its own."""
    found, before = make(1), make(0)
    names = dict(found.names) | {VICTIM: before.names[VICTIM]}
    return found, names, before.firsts[VICTIM] + found.firsts[2] + found.firsts[3]


def test_an_upload_of_another_round_is_no_summand() -> None:
    found, names, first = replayed()
    with pytest.raises(RemoteProtocolError, match=SEEN):
        found.published(names, first)


def without_what_ties(
    patch: pytest.MonkeyPatch, *, sender: bool = True, index: bool = True
) -> None:
    """Part of the label of c1 taken out."""

    def label(agreement: Agreement, usage: bytes, me: int, at: int) -> bytes:
        about = [agreement.round if index else 0, me if sender else 0, at]
        return agreement.label(usage, b"".join(each.to_bytes(4, "big") for each in about))

    patch.setattr(by_coefficients, "label_of", label)


def test_where_labels_name_no_round_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    without_what_ties(monkeypatch, index=False)
    found, names, first = replayed(Round)
    read = found.published(names, first)
    assert far(read, vector(VICTIM, 0) + vector(2, 1) + vector(3, 1)) < 1e-6


def twice(
    make: Callable[[int], Round] = made,
) -> tuple[Round, dict[int, bytes], NDArray[np.uint32]]:
    """The victim's upload, under the name of client 3 once more."""
    found = make(0)
    names = dict(found.names) | {3: found.names[VICTIM]}
    return found, names, 2 * found.firsts[VICTIM] + found.firsts[2]


def test_an_upload_is_no_summand_under_another_client() -> None:
    found, names, first = twice()
    with pytest.raises(RemoteProtocolError, match="names one upload twice"):
        found.published(names, first)
    moved = {VICTIM: found.names[3], READER: found.names[READER], 3: found.names[VICTIM]}
    with pytest.raises(RemoteProtocolError, match=SEEN):
        found.published(moved, sum(found.firsts.values()))


def test_nor_where_names_may_stand_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "check_summands", lambda *_: None)
    found, names, first = twice()
    with pytest.raises(RemoteProtocolError, match=SEEN):
        found.published(names, first)


def test_where_labels_name_no_client_either_it_counts_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "check_summands", lambda *_: None)
    without_what_ties(monkeypatch, sender=False)
    found, names, first = twice(Round)
    read = found.published(names, first)
    assert far(read, 2 * vector(VICTIM) + vector(2)) < 1e-6


# --- the coefficients that are zero ---


def test_without_the_coefficients_that_must_be_zero_noise_would_be_published(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is read by that; but a client could not tell a sum from nonsense."""
    monkeypatch.setattr(
        by_coefficients, "_entries", lambda _, __, rows: np.concatenate([x[8:] for x in rows])
    )
    found = made()
    words = found.shown(found.names, found.firsts[VICTIM])
    assert (np.abs(words.view(np.int64)) > 2**61).mean() == pytest.approx(0.75, abs=0.04)
