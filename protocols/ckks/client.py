"""Everybody but the server: who sends vectors, who opens sums, who holds a part of the key.

Senders, in either model:

    encrypt           -> Upload: Frame, Frame, ...

Clients of a shared key, who also open:

    open_sum          -> Published, or Private where the parameters flood nothing

Holders of a threshold key are in ``protocols.ckks.holder``, and their names here too.

A message that breaks a rule raises ``RemoteProtocolError``, and nothing is opened.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from protocols.burn import Burn
from protocols.checks import check_integer
from protocols.ckks.engine import Values
from protocols.ckks.holder import AwaitOpenings, AwaitRoster, Holder, State, generate, restore
from protocols.ckks.keys import Chunks, CollectiveKey, SharedKey, finish, in_turn
from protocols.ckks.messages import (
    OPEN_STAGE,
    UPLOAD_STAGE,
    Frame,
    SharedSum,
    check_summands,
    seeds_name_uploads,
    split,
)
from protocols.ckks.params import DIGEST_SIZE, Agreement, Engine, Params
from protocols.entropy import Entropy, system
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.wire import ClientId

__all__ = [
    "AwaitOpenings",
    "AwaitRoster",
    "Holder",
    "Private",
    "Published",
    "State",
    "Upload",
    "encrypt",
    "generate",
    "open_sum",
    "restore",
]

# --- who sends ---


class Upload:
    """The frames of one vector, made as they are asked for. They can be had once.

    Attributes:
      name: by it a sum names its summands. SHA-256 of all frames; under a shared key on
        coefficients the seed of their c1. Known once the last frame was taken.

    Args:
      frames: a vector's frames, in order, each computed when it is asked for.
      params: the session's.
    """

    def __init__(self, frames: Iterator[Frame], params: Params) -> None:
        self._frames, self._params = frames, params
        self._seed = b""
        self._hash = hashlib.sha256()
        self._done = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            frame = next(self._frames)
        except StopIteration:
            self._done = True
            raise
        if seeds_name_uploads(self._params):
            self._seed = frame.ciphertext[:DIGEST_SIZE]
        encoded = frame.to_bytes()
        self._hash.update(encoded)
        return encoded

    @property
    def name(self) -> bytes:
        if not self._done:
            raise LocalProtocolError("an upload has a name once all its frames were taken")
        return self._seed or self._hash.digest()


def encrypt(
    agreement: Agreement,
    me: ClientId,
    key: SharedKey | CollectiveKey,
    values: Values | Callable[[], Values],
    *,
    burn: Burn | None = None,
    entropy: Entropy = system,
    chunks: Chunks = in_turn,
) -> Upload:
    """Encrypt ``values``: ``params.entries`` words of uint64, or of float64 within ``params.clip``.

    Words are what is summed on coefficients, and reals become words by ``params.encoding``; a sum
    is of words again. SEAL takes reals alone, and gives reals.

    Or what a function gives. It is asked once the burn record was taken, so that nothing is
    computed for an answer that may not leave; such a round is answered once, whatever it gives.

    What is random is drawn anew: two uploads of one vector differ, and say no more than one.
    Two uploads of two vectors are two summands: a sum opened with each tells the difference.

    Args:
      agreement: all that is public about the round.
      me: our number.
      key: that all clients share, or the holders' joint public one.
      values: of the shape that is said above, or what gives them.
      burn: durable; it lets one vector a round be encrypted, under one key. A client that
        may be restored, or asked again, needs it.
      entropy: gives 32 bytes a vector, or 64; SEAL draws for itself.
      chunks: another way to work through the chunks. It sees a shared key: it runs on our
        own machine.

    Raises:
      LocalProtocolError: another number of values, one above the clip, or not a number; or
        another vector was encrypted in this round.
    """
    params, name = agreement.params, key.context(agreement)
    check_integer("client", me, 0)
    if isinstance(values, np.ndarray):
        _check_values(values, params)
    what = values.tobytes() if isinstance(values, np.ndarray) else system(DIGEST_SIZE)
    request = hashlib.sha256(name + what).digest()
    if burn is not None and not burn(agreement.header.place(me), UPLOAD_STAGE, request):
        raise LocalProtocolError(
            f"another vector, or under another key, was encrypted in round {agreement.round}; "
            "start a new round"
        )
    if not isinstance(values, np.ndarray):
        values = values()
        _check_values(values, params)
    each = params.chunk_entries
    vector = ((at, values[at * each : (at + 1) * each]) for at in range(params.chunks))
    packed = chunks(key.encrypting(agreement, me, entropy), vector)
    frames = (
        Frame(header=agreement.header, sender=me, index=index, context=name, ciphertext=ciphertext)
        for index, ciphertext in enumerate(packed)
    )
    return Upload(frames, params)


def _check_values(values: Values, params: Params) -> None:
    words = values.dtype == np.uint64 and params.engine is Engine.COEFFICIENTS
    if values.shape != (params.entries,) or not (words or values.dtype == np.float64):
        kinds = "float64" if params.engine is Engine.SEAL else "uint64 or float64"
        raise LocalProtocolError(
            f"input is {values.dtype} of shape {values.shape}, expected {kinds} of "
            f"({params.entries},)"
        )
    if not words and not bool((np.abs(values) <= params.clip).all()):
        raise LocalProtocolError(f"an entry is above the clip {params.clip}, or not a number")


# --- who opens under a shared key ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A flooded sum: it may be shown to anybody, and every client has the same.

    Attributes:
      values: sum of the survivors' entries, and noise: words, or reals under SEAL.
      survivors: whose vectors those are, in order.
      digest: SHA-256 of the names of the summands. A server may show clients sums of different
        sets: two published results differ by one client's vector then. Clients that publish
        compare it first, or one of them publishes for all.
    """

    values: Values = field(repr=False)
    survivors: tuple[ClientId, ...]
    digest: bytes


class Private:
    """A sum that may not leave this client: with its ciphertext it tells the key [LM21].

    Nor may it leave that a sum was refused: by what the server added to it, that tells of an error.

    Not printed, pickled or copied; no message holds it.
    """

    __slots__ = ("_values", "survivors")

    def __init__(self, values: Values, survivors: tuple[ClientId, ...]) -> None:
        self._values, self.survivors = values, survivors

    def expose(self) -> Values:
        """The values. Every call is a place for a reviewer to look."""
        return self._values

    def __repr__(self) -> str:
        return f"<Private: {len(self._values)} entries>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an unflooded sum is neither pickled nor copied: it tells the key")


def open_sum(
    agreement: Agreement,
    me: ClientId,
    key: SharedKey,
    message: bytes,
    *,
    burn: Burn,
    sent: bytes | None,
    chunks: Chunks = in_turn,
) -> Published | Private:
    """Open the sum of a round. The same message opens to the same numbers again.

    Rounds are counted by each client for itself: a server that shows every client a sum
    of its own has as many opened as there are clients.

    Args:
      agreement: all that is public about the round.
      me: our number.
      key: that all clients share.
      message: of the server: the sum, and whose uploads are in it.
      burn: durable; it lets one sum a round be opened.
      sent: name of the upload that we sent in this round, if we did.
      chunks: as in :func:`encrypt`.

    Raises:
      RemoteProtocolError: too few or too many summands, ours is missing or not ours, another
        sum was opened in this round, or the sum is larger than its summands can make it.
    """
    params = agreement.params
    found = SharedSum.from_bytes(
        message, expect=agreement.header, context=key.context(agreement), params=params
    )
    check_summands(found.summands, params)
    if found.summands.get(me) != sent:
        raise RemoteProtocolError("the sum lacks our upload, or names one that we did not send")
    # Before it is opened: that a sum was refused as too large says something about the key.
    if not burn(agreement.header.place(me), OPEN_STAGE, hashlib.sha256(message).digest()):
        raise RemoteProtocolError(f"another sum was opened in round {agreement.round}")
    parts = enumerate(split(found.ciphertexts, params.opened_size))
    opened = chunks(key.opening(agreement, found), parts)
    values = finish(agreement, opened, len(found.summands))
    survivors = tuple(sorted(found.summands))
    if params.flooding is None:
        return Private(values, survivors)
    return Published(values=values, survivors=survivors, digest=found.summands_digest())
