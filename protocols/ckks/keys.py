"""The keys of a session: how they are made, what they may do, and to what they are bound.

Shared key: 32 bytes that all clients hold and the server does not, from outside.

Threshold [MTBH21]: holder i has 32 secret bytes, from which its ternary polynomial s_i
comes, and publishes b_i = e_i - a s_i for a common a. (sum of b_i, a) encrypts; what is
encrypted opens under sum of s_i, which nobody has. The last to speak could choose its b_i
as one of its own less the sum of the others, and open everything alone. So every holder
commits to its b_i before any is shown, and everybody adds them up for itself.

A key's name (``digest``) enters the context of every round that it encrypts for.

``chunks`` arguments: chunks of a vector are worked on one by one, and the work may be
handed to processes, ``chunks=pool.map``. Such work is pickled *with its key*, on purpose
and nowhere else: workers run on the machine of the party whose key it is.

[MTBH21]: Mouchet, Troncoso-Pastoriza, Bossuat, Hubaux, https://eprint.iacr.org/2020/304
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocols.checks import check_size
from protocols.ckks.engine import Arithmetic, Encrypt, Open, Values, common_seed
from protocols.ckks.messages import BLIND_SIZE, Opened, Openings, SharedSum, split
from protocols.ckks.params import Agreement, Engine, Model
from protocols.entropy import Entropy
from protocols.errors import InputError, LocalProtocolError, RemoteProtocolError
from protocols.primitives.prg import SEED_SIZE, from_seed
from protocols.secrets import Secret
from protocols.wire import ClientId, u32

A = TypeVar("A")
B = TypeVar("B")


class Chunks(Protocol):
    """A way to work through chunks, in order; :func:`in_turn` is the plain one."""

    def __call__(self, work: Callable[[A], B], chunks: Iterable[A], /) -> Iterable[B]: ...


def in_turn(work: Callable[[A], B], chunks: Iterable[A]) -> Iterator[B]:
    """One after the other, in this process."""
    return map(work, chunks)


def arithmetic(agreement: Agreement) -> Arithmetic:
    """Arithmetic of a session. Each is imported when it is needed: SEAL is an extra."""
    if agreement.params.engine is Engine.SEAL:
        from protocols.ckks.by_seal import BySeal

        return BySeal(agreement)
    from protocols.ckks.by_coefficients import ByCoefficients

    return ByCoefficients(agreement)


class SharedKey:
    """The key of every client, from 32 bytes that no server ever sees.

    Bound to session and parameters: under another agreement the same bytes are another key.

    Args:
      secret: 32 uniform bytes.

    Attributes:
      digest: the key's name, 32 bytes; it says nothing about the key. The server is told
        it, and refuses uploads under another key.
    """

    __slots__ = ("_agreement", "_secret", "digest")

    def __init__(self, agreement: Agreement, secret: Secret) -> None:
        if agreement.params.model is not Model.SHARED_KEY:
            raise InputError("params.model is THRESHOLD, must be SHARED_KEY for a shared key")
        check_size("secret", secret, SEED_SIZE)
        self._agreement, self._secret = agreement, secret
        self.digest = from_seed(secret, agreement.label(b"name"))(32)

    def context(self, agreement: Agreement) -> bytes:
        """The context of a round; ``LocalProtocolError`` in a session of another key."""
        return _context(self._agreement, agreement, self.digest)

    def encrypting(self, agreement: Agreement, me: ClientId, entropy: Entropy) -> Encrypt:
        """Work: (index, values) to a packed ciphertext."""
        return arithmetic(self._agreement).encrypt_shared(agreement, me, self._secret, entropy)

    def opening(self, agreement: Agreement, found: SharedSum) -> Open:
        """Work: (index, packed ciphertext) of a sum to values, flooded if agreed."""
        made = arithmetic(self._agreement)
        return made.open_shared(agreement, self._secret, found.summands, found.ciphertexts)

    def __repr__(self) -> str:
        return f"<SharedKey {self.digest.hex()}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SharedKey is neither pickled nor copied")


class CollectiveKey:
    """The public key of all holders together, added up from what each of them opened.

    Attributes:
      digest: SHA-256 of all openings, the key's name.
      holders: whose it is, in order.
      shares: b_i of each, checked against its commitment.

    Raises:
      RemoteProtocolError: an opening is wrong, or holders are too many or too few.
    """

    __slots__ = ("_agreement", "_total", "digest", "holders", "shares")

    def __init__(self, agreement: Agreement, openings: Openings) -> None:
        params = agreement.params
        if params.model is not Model.THRESHOLD:
            raise InputError("params.model is SHARED_KEY, must be THRESHOLD for a collective key")
        if len(openings.entries) != params.holders:
            raise RemoteProtocolError(
                f"{len(openings.entries)} holders have opened, {params.holders} were agreed"
            )
        self.shares = {
            holder: check_opening(agreement, holder, opened)
            for holder, opened in openings.entries.items()
        }
        self._agreement = agreement
        self._total = arithmetic(agreement).total(self.shares)
        self.digest = openings.digest()
        self.holders: tuple[ClientId, ...] = tuple(openings.entries)

    @classmethod
    def from_bytes(cls, agreement: Agreement, message: bytes) -> "CollectiveKey":
        """The key in an ``Openings``; raises ``RemoteProtocolError`` as above."""
        openings = Openings.from_bytes(
            message, expect=agreement.key_header, params=agreement.params
        )
        return cls(agreement, openings)

    def context(self, agreement: Agreement) -> bytes:
        """The context of a round; ``LocalProtocolError`` in a session of another key."""
        return _context(self._agreement, agreement, self.digest)

    def encrypting(self, agreement: Agreement, me: ClientId, entropy: Entropy) -> Encrypt:
        """Work: (index, values) to a packed ciphertext."""
        made = arithmetic(self._agreement)
        return made.encrypt_for_all(agreement, me, self._total, entropy)

    def is_of(self, holder: ClientId, seed: Secret) -> bool:
        """Whether ``holder`` published its b_i for the secret of this ``seed``."""
        return arithmetic(self._agreement).explains(holder, seed, self.shares[holder])

    def __repr__(self) -> str:
        return f"<CollectiveKey {self.digest.hex()}>"


def commit(agreement: Agreement, holder: ClientId, share: bytes, blind: bytes) -> bytes:
    """SHA-256("ckks key" | session | u32 holder | seed of a | b_i | 32 random bytes)."""
    check_size("blind", blind, BLIND_SIZE)
    head = b"ckks key" + agreement.session + u32(holder) + common_seed(agreement)
    return hashlib.sha256(head + share + blind).digest()


def check_opening(agreement: Agreement, holder: ClientId, opened: Opened) -> bytes:
    """b_i, packed; ``RemoteProtocolError`` unless it is one, and the one committed to."""
    if commit(agreement, holder, opened.share, opened.blind) != opened.commitment:
        raise RemoteProtocolError(f"holder {holder} opens another key than it committed to")
    arithmetic(agreement).check_share(opened.share)
    return opened.share


def partial(
    agreement: Agreement,
    holder: ClientId,
    seed: Secret,
    seconds: bytes,
    noise: Secret | None,
    chunks: Chunks = in_turn,
) -> Iterable[bytes]:
    """c1 s_i + noise of each chunk, packed.

    Args:
      seconds: c1 of all chunks, packed, and good polynomials.
      noise: 32 bytes that are the holder's own, and never shared: the noise is a function of
        them and of all c1, so that one ciphertext gets one answer however often it is asked
        for. None: the key is no secret any more, nothing is hidden.
    """
    about = agreement.label(b"smudge", hashlib.sha256(seconds).digest())
    work = arithmetic(agreement).part(holder, seed, noise, about)
    return chunks(work, enumerate(split(seconds, agreement.params.second_size)))


def finish(agreement: Agreement, opened: Iterable[Values], survivors: int) -> Values:
    """The entries of a sum, from its chunks.

    Raises:
      RemoteProtocolError: a key, an upload or a partial decryption was wrong.
    """
    made, each = arithmetic(agreement), agreement.params.chunk_entries
    values: NDArray[Any] = np.empty(agreement.params.entries, made.KIND)
    for index, part in enumerate(opened):
        into = values[index * each : (index + 1) * each]
        into[:] = part[: len(into)]
    return made.finish(values, survivors)


def _context(own: Agreement, agreement: Agreement, digest: bytes) -> bytes:
    if own.key_context() != agreement.key_context():
        raise LocalProtocolError("agreement is of another session, or parameters, than the key")
    return agreement.context(digest)
