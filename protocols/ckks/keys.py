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
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocols.checks import check_size
from protocols.ckks import residues
from protocols.ckks.messages import BLIND_SIZE, Opened, Openings, split
from protocols.ckks.microsoft_seal import Context, Key, PublicKey, context
from protocols.ckks.noise import gaussian
from protocols.ckks.params import VERSION, Agreement, Model, Params
from protocols.ckks.residues import Ring, Rows
from protocols.errors import (
    DecodeError,
    InputError,
    LocalProtocolError,
    RemoteProtocolError,
)
from protocols.primitives.prg import SEED_SIZE, from_seed
from protocols.secrets import Secret
from protocols.wire import ClientId, u32

Values: TypeAlias = NDArray[np.float64]
A = TypeVar("A")
B = TypeVar("B")
_FAR = 12.5  # deviations: a Gaussian passes them once in 2**115


class Chunks(Protocol):
    """A way to work through chunks, in order; :func:`in_turn` is the plain one."""

    def __call__(self, work: Callable[[A], B], chunks: Iterable[A], /) -> Iterable[B]: ...


def in_turn(work: Callable[[A], B], chunks: Iterable[A]) -> Iterator[B]:
    """One after the other, in this process."""
    return map(work, chunks)


@dataclass(frozen=True)
class _Work:
    """What a worker needs for one chunk after another; SEAL's objects it makes for itself."""

    ring: Ring
    scale: float

    @property
    def seal(self) -> Context:
        return context(self.ring, self.scale)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "key"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


@dataclass(frozen=True)
class _Secret(_Work):
    seed: bytes = field(repr=False)
    label: bytes

    @cached_property
    def key(self) -> Key:
        return Key(self.seal, Secret(self.seed), self.label)


@dataclass(frozen=True)
class _EncryptShared(_Secret):
    def __call__(self, values: Values) -> bytes:
        return residues.pack_seeded(*self.key.encrypt(values), self.ring)


@dataclass(frozen=True)
class _EncryptCollective(_Work):
    share: bytes  # sum of all b_i, packed
    common: bytes  # seed of a

    @cached_property
    def key(self) -> PublicKey:
        share = residues.unpack(self.share, self.ring.degree, self.ring.key_primes)
        return PublicKey(self.seal, share, _expand(self.common, self.ring))

    def __call__(self, values: Values) -> bytes:
        return residues.pack_ciphertext(self.key.encrypt(values), self.ring)


@dataclass(frozen=True)
class _Flooded(_Secret):
    """Work with a secret key whose result is flooded, where ``deviation`` is not 0."""

    noise: bytes = field(repr=False)
    about: bytes
    deviation: float

    def partial(self, index: int, second: Rows) -> Rows:
        if not self.deviation:
            return self.key.partial(second, None)
        drawn = from_seed(Secret(self.noise), self.about + u32(index))
        return self.key.partial(second, gaussian(self.ring.degree, self.deviation, drawn))


@dataclass(frozen=True)
class _Part(_Flooded):
    def __call__(self, chunk: tuple[int, bytes]) -> bytes:
        index, packed = chunk
        second = residues.unpack(packed, self.ring.degree, self.ring.primes)
        if not second.any():
            raise DecodeError(f"the second polynomial of chunk {index} is zero")
        return residues.pack(self.partial(index, second), self.ring.primes)


@dataclass(frozen=True)
class _Open(_Flooded):
    def __call__(self, chunk: tuple[int, bytes]) -> Values:
        index, packed = chunk
        first, second = residues.unpack_ciphertext(packed, self.ring)
        opened = residues.add(first, self.partial(index, second), self.ring.primes)
        return self.seal.decode(opened)


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

    def encrypting(self) -> Callable[[Values], bytes]:
        """Work: one chunk of values to one packed ciphertext."""
        return _EncryptShared(*self._parts())

    def opening(self, ciphertexts: bytes) -> Callable[[tuple[int, bytes]], Values]:
        """Work: (index, packed ciphertext) of ``ciphertexts`` to values, flooded if agreed.

        The noise is a function of the key and the whole ciphertext: every client adds the
        same, and the mean of their results says no more than one of them.
        """
        about = self._agreement.label(b"flood", hashlib.sha256(ciphertexts).digest())
        deviation = self._agreement.params.flooding_stddev
        return _Open(*self._parts(), self._secret.expose(), about, deviation)

    def _parts(self) -> tuple[Ring, float, bytes, bytes]:
        params = self._agreement.params
        return params.ring, params.scale, self._secret.expose(), self._agreement.label(b"shared")

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
        self.shares: dict[ClientId, Rows] = {}
        total: Rows = np.zeros((len(params.ring.key_primes), params.ring.degree), np.uint64)
        for holder, opened in openings.entries.items():
            self.shares[holder] = check_opening(agreement, holder, opened)
            total = residues.add(total, self.shares[holder], params.ring.key_primes)
        self._agreement, self._total = agreement, total
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

    def encrypting(self) -> Callable[[Values], bytes]:
        """Work: one chunk of values to one packed ciphertext."""
        params = self._agreement.params
        share = residues.pack(self._total, params.ring.key_primes)
        return _EncryptCollective(params.ring, params.scale, share, common_seed(self._agreement))

    def is_of(self, holder: ClientId, seed: Secret) -> bool:
        """Whether ``holder`` published its b_i for the secret of this ``seed``."""
        made = holder_key(self._agreement, holder, seed)
        common = _expand(common_seed(self._agreement), self._agreement.params.ring)
        return made.explains(self.shares[holder], common)

    def __repr__(self) -> str:
        return f"<CollectiveKey {self.digest.hex()}>"


def common_seed(agreement: Agreement) -> bytes:
    """The seed of a, bound to session and parameters, chosen by nobody."""
    return hashlib.sha256(VERSION + b" common " + agreement.key_context()).digest()


def holder_key(agreement: Agreement, holder: ClientId, seed: Secret) -> Key:
    """The secret s_i that a holder's 32 bytes stand for."""
    params = agreement.params
    return Key(context(params.ring, params.scale), seed, _holder_label(agreement, holder))


def public_share(agreement: Agreement, holder: ClientId, seed: Secret) -> bytes:
    """b_i with a fresh error, packed. One a key: the mean of many tells the secret."""
    ring = agreement.params.ring
    made = holder_key(agreement, holder, seed)
    share = made.public_share(_expand(common_seed(agreement), ring))
    return residues.pack(share, ring.key_primes)


def commit(agreement: Agreement, holder: ClientId, share: bytes, blind: bytes) -> bytes:
    """SHA-256("ckks key" | session | u32 holder | seed of a | b_i | 32 random bytes)."""
    check_size("blind", blind, BLIND_SIZE)
    head = b"ckks key" + agreement.session + u32(holder) + common_seed(agreement)
    return hashlib.sha256(head + share + blind).digest()


def check_opening(agreement: Agreement, holder: ClientId, opened: Opened) -> Rows:
    """b_i; ``RemoteProtocolError`` unless it is one, and the one committed to."""
    if commit(agreement, holder, opened.share, opened.blind) != opened.commitment:
        raise RemoteProtocolError(f"holder {holder} opens another key than it committed to")
    ring = agreement.params.ring
    return residues.unpack(opened.share, ring.degree, ring.key_primes)


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
      seconds: c1 of all chunks, packed.
      noise: 32 bytes that are the holder's own, and never shared: the noise is a function of
        them and of all c1, so that one ciphertext gets one answer however often it is asked
        for. None: the key is no secret any more, nothing is hidden.

    Raises:
      DecodeError: a c1 is no polynomial, or zero.
    """
    params = agreement.params
    work = _Part(
        params.ring,
        params.scale,
        seed.expose(),
        _holder_label(agreement, holder),
        noise.expose() if noise else b"",
        agreement.label(b"smudge", hashlib.sha256(seconds).digest()),
        params.flooding_stddev if noise else 0.0,
    )
    size = residues.size(params.ring.degree, params.ring.primes)
    return chunks(work, enumerate(split(seconds, size)))


def finish(opened: Iterable[Values], survivors: int, params: Params) -> Values:
    """The entries of a sum, from its chunks.

    Raises:
      RemoteProtocolError: one is larger than so many summands can make it, by more than the
        errors of honest parties: a key, an upload or a partial decryption was wrong.
    """
    values = np.concatenate(list(opened))[: params.entries] * params.clip
    bound = survivors * (params.clip + _FAR * params.mean_stddev(survivors))
    if not bool((np.abs(values) <= bound).all()):
        raise RemoteProtocolError(
            f"an entry of the sum is above the {bound:.6g} that {survivors} summands can reach: "
            "some key, upload or partial decryption is wrong"
        )
    return values


def _context(own: Agreement, agreement: Agreement, digest: bytes) -> bytes:
    if own.key_context() != agreement.key_context():
        raise LocalProtocolError("agreement is of another session, or parameters, than the key")
    return agreement.context(digest)


def _expand(seed: bytes, ring: Ring) -> Rows:
    return residues.uniform(seed, VERSION + b" common", ring.degree, ring.key_primes)


def _holder_label(agreement: Agreement, holder: ClientId) -> bytes:
    return agreement.label(b"holder", u32(holder))
