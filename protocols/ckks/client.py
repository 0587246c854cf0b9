"""Everybody but the server: who sends vectors, who opens sums, who holds a part of the key.

Senders, in either model:

    encrypt           -> Upload: Frame, Frame, ...

Clients of a shared key, who also open:

    open_sum          -> Published, or Private where the parameters flood nothing

Holders of a threshold key, once a session, and then once a round:

    generate          -> Advertise,  AwaitRoster
    .on_roster        -> Opening,    AwaitOpenings
    .on_openings      -> Holder, CollectiveKey
    Holder.on_request -> Partial, and whose uploads it is said to open

A message that breaks a rule raises ``RemoteProtocolError``, and no answer leaves. What opens
something goes through a ``Burn`` first: each round opens one ciphertext, and the first
request answered fixes for the whole session which holders are alive. Who answered is in
that set, and shares of its key are given for none: a key is decrypted with, or rebuilt.

An answer is a function of the holder's secrets and the request. Its noise is as good as
fresh: a generator's output under a key that never leaves the holder, another for every
other ciphertext; and the same ciphertext gets the same bytes, from which no mean is taken.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from protocols.burn import Burn
from protocols.ckks.keys import (
    Chunks,
    CollectiveKey,
    SharedKey,
    Values,
    commit,
    finish,
    in_turn,
    partial,
    public_share,
)
from protocols.ckks.messages import (
    BLIND_SIZE,
    SHARE_SIZE,
    Advertise,
    ClientId,
    Entry,
    Frame,
    Opening,
    Openings,
    Partial,
    Request,
    Roster,
    ShareBoxes,
    SharedSum,
    alive_bytes,
    split,
)
from protocols.ckks.noise import from_seed
from protocols.ckks.params import DIGEST_SIZE, Agreement, Model
from protocols.entropy import Entropy, system
from protocols.errors import (
    DecodeError,
    LocalProtocolError,
    ParameterError,
    RemoteProtocolError,
)
from protocols.primitives import shamir
from protocols.primitives.agree import KEY_SIZE, PrivateKey, refuse_low_order
from protocols.primitives.prg import SEED_SIZE
from protocols.primitives.seal import seal, unseal
from protocols.secrets import Once, Secret
from protocols.wire import Reader, open_checksum, read_map, seal_checksum, u32

ALIVE_STAGE = 1  # in a burn store: a session's alive holders,
PARTIAL_STAGE = 2  # a round's request to a holder,
OPEN_STAGE = 3  # a round's sum under a shared key


# --- who sends ---


class Upload:
    """The frames of one vector, made as they are asked for. They can be had once.

    Attributes:
      digest: SHA-256 of all frames, once the last was taken: by it a sum names its summands.
    """

    def __init__(self, frames: Iterator[bytes]) -> None:
        self._frames = frames
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
        self._hash.update(frame)
        return frame

    @property
    def digest(self) -> bytes:
        if not self._done:
            raise LocalProtocolError("an upload has a digest once all its frames were taken")
        return self._hash.digest()


def encrypt(
    agreement: Agreement,
    me: ClientId,
    key: SharedKey | CollectiveKey,
    values: Values,
    *,
    chunks: Chunks = in_turn,
) -> Upload:
    """Encrypt ``values``: ``params.entries`` of float64 within ``params.clip``.

    SEAL draws the randomness: two uploads of one vector differ. Send one a round.

    Args:
      chunks: another way to work through the chunks. It sees a shared key: it runs on our
        own machine.

    Raises:
      LocalProtocolError: another number of values, one above the clip, or not a number.
    """
    params, name = agreement.params, key.context(agreement)
    if not 0 <= me < 2**32:
        raise ParameterError(f"client {me} is outside [0, 2**32)")
    if values.shape != (params.entries,) or values.dtype != np.float64:
        raise LocalProtocolError(
            f"input is {values.dtype} of shape {values.shape}, expected float64 of "
            f"({params.entries},)"
        )
    if not bool((np.abs(values) <= params.clip).all()):
        raise LocalProtocolError(f"an entry is above the clip {params.clip}, or not a number")
    padded = np.zeros((params.chunks, params.ring.degree))
    padded.reshape(-1)[: params.entries] = values / params.clip
    packed = chunks(key.encrypting(), padded)
    return Upload(
        Frame(
            header=agreement.header, sender=me, index=index, context=name, ciphertext=ciphertext
        ).to_bytes()
        for index, ciphertext in enumerate(packed)
    )


# --- who opens under a shared key ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A flooded sum: it may be shown to anybody, and every client has the same.

    Attributes:
      values: sum of the survivors' entries, and noise.
      survivors: whose vectors those are, in order.
    """

    values: Values = field(repr=False)
    survivors: tuple[ClientId, ...]


class Private:
    """A sum that may not leave this client: with its ciphertext it tells the key [LM21].

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
      burn: durable; it lets one sum a round be opened.
      sent: digest of the upload that we sent in this round, if we did.
      chunks: as in :func:`encrypt`.

    Raises:
      RemoteProtocolError: too few or too many summands, ours is missing or not ours, another
        sum was opened in this round, or the sum is larger than its summands can make it.
    """
    params = agreement.params
    found = SharedSum.from_bytes(
        message, expect=agreement.header, context=key.context(agreement), params=params
    )
    _check_summands(agreement, found.summands)
    if found.summands.get(me) != sent:
        raise RemoteProtocolError("the sum lacks our upload, or names one that we did not send")
    if not burn(_place(agreement, me), OPEN_STAGE, hashlib.sha256(message).digest()):
        raise RemoteProtocolError(f"another sum was opened in round {agreement.round}")
    parts = enumerate(split(found.ciphertexts, 2 * params.partial_size // params.chunks))
    opened = chunks(key.opening(found.ciphertexts), parts)
    values = finish(opened, len(found.summands), params)
    survivors = tuple(sorted(found.summands))
    if params.flooding is None:
        return Private(values, survivors)
    return Published(values=values, survivors=survivors)


# --- who holds a part of a threshold key ---


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    seed: Secret  # of s_i: what is shared among the holders
    own: Secret  # of everything random that later answers need; never shared
    seal: PrivateKey
    share: bytes  # b_i
    blind: bytes


def generate(
    agreement: Agreement, me: ClientId, entropy: Entropy = system
) -> tuple[bytes, "AwaitRoster"]:
    """Begin a session's key as holder ``me``: an ``Advertise`` to send, and the state that waits.

    A holder whose process ends before it is a ``Holder`` ends the session's key with it.

    Args:
      agreement: of any round of the session.
      entropy: gives 128 bytes; the error of b_i SEAL draws for itself.
    """
    if agreement.params.model is not Model.THRESHOLD:
        raise ParameterError("a shared key has no holders")
    if not 0 <= me < 2**32:
        raise ParameterError(f"holder {me} is outside [0, 2**32)")
    seed, own = Secret(entropy(SEED_SIZE)), Secret(entropy(SEED_SIZE))
    making = _Making(
        seed=seed,
        own=own,
        seal=PrivateKey(Secret(entropy(KEY_SIZE))),
        share=public_share(agreement, me, seed),
        blind=entropy(BLIND_SIZE),
    )
    commitment = commit(agreement, me, making.share, making.blind)
    entry = Entry(seal_key=making.seal.public, commitment=commitment)
    message = Advertise(header=agreement.key_header, sender=me, entry=entry)
    state = AwaitRoster(agreement=agreement, me=me, entry=entry, secrets=Once(making))
    return message.to_bytes(), state


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitRoster:
    """We have committed to our public share."""

    agreement: Agreement
    me: ClientId
    entry: Entry
    secrets: Once[_Making]

    def on_roster(self, message: bytes) -> tuple[bytes, "AwaitOpenings"]:
        """Everybody has committed: open our commitment, and share our secret.

        Raises:
          RemoteProtocolError: another number of holders than agreed, our entry is missing or
            changed, or a key stands twice or is of low order.
        """
        agreement, params = self.agreement, self.agreement.params
        roster = Roster.from_bytes(message, expect=agreement.key_header)
        if roster.entries.get(self.me) != self.entry:
            raise RemoteProtocolError("the roster lacks our entry, or shows another in its place")
        if len(roster.entries) != params.holders:
            raise RemoteProtocolError(
                f"{len(roster.entries)} holders in the roster, {params.holders} were agreed"
            )
        if len({entry.seal_key for entry in roster.entries.values()}) < len(roster.entries):
            raise RemoteProtocolError("one key stands twice in the roster")
        for entry in roster.entries.values():
            refuse_low_order(entry.seal_key)

        making = self.secrets.take()
        draw = from_seed(making.own, agreement.label(b"draw", roster.digest()))
        shares = shamir.split(making.seed, params.threshold, params.holders, draw)
        boxes: dict[ClientId, bytes] = {}
        openings: dict[ClientId, Secret] = {}
        for (peer, entry), share in zip(sorted(roster.entries.items()), shares, strict=True):
            if peer == self.me:
                continue
            sealing, openings[peer] = making.seal.agree(
                entry.seal_key,
                _seal_label(agreement, roster, self.me, peer),
                _seal_label(agreement, roster, peer, self.me),
            )
            boxes[peer] = seal(sealing, share, _about(agreement, self.me, peer), draw)
        answer = Opening(
            header=agreement.key_header,
            sender=self.me,
            blind=making.blind,
            share=making.share,
            boxes=boxes,
        )
        return answer.to_bytes(), AwaitOpenings(
            agreement=agreement,
            me=self.me,
            roster=roster,
            secrets=Once(_Sharing(seed=making.seed, own=making.own, openings=openings)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sharing:
    seed: Secret
    own: Secret
    openings: Mapping[ClientId, Secret]  # keys of the boxes that others seal for us


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitOpenings:
    """We have opened our commitment, and shared our secret."""

    agreement: Agreement
    me: ClientId
    roster: Roster
    secrets: Once[_Sharing]

    def on_openings(
        self, message: bytes, boxes: bytes, *, burn: Burn
    ) -> tuple["Holder", CollectiveKey]:
        """Check what everybody committed to and opened, and keep our shares.

        Args:
          message: the ``Openings``, as clients get them too.
          boxes: our ``ShareBoxes``.
          burn: durable; every answer of the holder goes through it.

        Raises:
          RemoteProtocolError: an opening is missing, wrong, or not of the commitment in the
            roster; or a box does not open. The session is at its end.
        """
        agreement = self.agreement
        opened = Openings.from_bytes(message, expect=agreement.key_header, params=agreement.params)
        found = ShareBoxes.from_bytes(boxes, expect=agreement.key_header)
        committed = {holder: entry.commitment for holder, entry in self.roster.entries.items()}
        if {holder: entry.commitment for holder, entry in opened.entries.items()} != committed:
            raise RemoteProtocolError("the openings are not of the commitments in the roster")
        key = CollectiveKey(agreement, opened)
        if found.recipient != self.me:
            raise RemoteProtocolError(f"boxes for holder {found.recipient}, we are {self.me}")
        if found.boxes.keys() != self.roster.entries.keys() - {self.me}:
            raise RemoteProtocolError("not one box of each other holder")
        secrets = self.secrets.take()
        shares = {
            sender: unseal(secrets.openings[sender], box, _about(agreement, sender, self.me))
            for sender, box in found.boxes.items()
        }
        holder = Holder(
            agreement=agreement,
            me=self.me,
            key=key.digest,
            seed=secrets.seed,
            own=secrets.own,
            shares=shares,
            burn=burn,
        )
        return holder, key


RECORD = b"secagg ckks holder 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A part of a session's key, and a share of every other part.

    It may live in a record between rounds. Copies do no harm: what may be answered is in
    the burn store.
    """

    agreement: Agreement
    me: ClientId
    key: bytes  # digest of the collective key
    seed: Secret = field(repr=False)
    own: Secret = field(repr=False)
    shares: Mapping[ClientId, Secret] = field(repr=False)
    burn: Burn = field(repr=False)

    def on_request(
        self, agreement: Agreement, message: bytes, *, chunks: Chunks = in_turn
    ) -> tuple[bytes, Mapping[ClientId, bytes]]:
        """A ``Partial`` for the server, and the digests of the uploads that it claims to open.

        Keep the digests: a sum that was none can be shown later, not prevented.

        Args:
          agreement: of the round.
          chunks: another way to work through the chunks. It sees our key: it runs on our own
            machine.

        Raises:
          RemoteProtocolError: too few or too many summands; a stranger named as alive, or not
            we, or fewer than the threshold; a ciphertext that is none or hides nothing;
            other holders alive than in an earlier round, or another request in this one.
        """
        params = agreement.params
        if agreement.key_context() != self.agreement.key_context():
            raise LocalProtocolError("this key is of another session, or of other parameters")
        request = Request.from_bytes(
            message,
            expect=agreement.header,
            context=agreement.context(self.key),
            params=params,
        )
        _check_summands(agreement, request.summands)
        alive = request.alive
        if strangers := alive - self.shares.keys() - {self.me}:
            raise RemoteProtocolError(f"named as alive, and no holders: {sorted(strangers)}")
        if self.me not in alive:
            raise RemoteProtocolError("we are asked for a part, and named as gone")
        if len(alive) < params.threshold:
            raise RemoteProtocolError(f"{len(alive)} holders alive, {params.threshold} needed")
        parts = partial(agreement, self.me, self.seed, request.seconds, self.own, chunks)
        answer = Partial(
            header=agreement.header,
            sender=self.me,
            parts=b"".join(parts),
            shares={holder: self.shares[holder] for holder in self.shares.keys() - alive},
        ).to_bytes()
        self._burn(agreement, alive, message)
        return answer, request.summands

    def _burn(self, agreement: Agreement, alive: frozenset[ClientId], message: bytes) -> None:
        session = agreement.key_header.to_bytes() + u32(self.me)
        if not self.burn(session, ALIVE_STAGE, hashlib.sha256(alive_bytes(alive)).digest()):
            raise RemoteProtocolError("other holders were alive when we answered first")
        request = hashlib.sha256(message).digest()
        if not self.burn(_place(agreement, self.me), PARTIAL_STAGE, request):
            raise RemoteProtocolError(
                f"holder {self.me} answered another request in round {agreement.round}"
            )

    def into_record(self) -> Secret:
        """This state as one secret record; see :func:`restore`."""
        return Secret(
            seal_checksum(
                RECORD
                + self.agreement.to_bytes()
                + u32(self.me)
                + self.key
                + self.seed.expose()
                + self.own.expose()
                + u32(len(self.shares))
                + b"".join(u32(peer) + self.shares[peer].expose() for peer in sorted(self.shares))
            )
        )


def restore(record: Secret, *, burn: Burn) -> Holder:
    """The holder that ``record`` holds. Its answers leave only if ``burn`` allows them.

    Raises:
      DecodeError: the record was cut, changed, or made by another version.
    """
    reader = Reader(open_checksum(record.expose()))
    if reader.take(len(RECORD)) != RECORD:
        raise DecodeError("not a holder's state of this version")
    holder = Holder(
        agreement=Agreement.read(reader),
        me=reader.u32(),
        key=reader.take(DIGEST_SIZE),
        seed=Secret(reader.take(SEED_SIZE)),
        own=Secret(reader.take(SEED_SIZE)),
        shares=read_map(reader, lambda source: Secret(source.take(SHARE_SIZE))),
        burn=burn,
    )
    reader.finish()
    return holder


def _check_summands(agreement: Agreement, summands: Mapping[ClientId, bytes]) -> None:
    params = agreement.params
    if not params.minimum_survivors <= len(summands) <= params.clients:
        raise RemoteProtocolError(
            f"a sum of {len(summands)} uploads is outside "
            f"[{params.minimum_survivors}, {params.clients}]"
        )
    if len(set(summands.values())) < len(summands):
        raise RemoteProtocolError("a sum names one upload twice")


def _place(agreement: Agreement, me: ClientId) -> bytes:
    return agreement.header.to_bytes() + u32(me)


def _seal_label(agreement: Agreement, roster: Roster, sender: ClientId, to: ClientId) -> bytes:
    keys = roster.entries[sender].seal_key + roster.entries[to].seal_key
    return agreement.label(b"seal", roster.digest() + u32(sender) + u32(to) + keys)


def _about(agreement: Agreement, sender: ClientId, recipient: ClientId) -> bytes:
    """What a box says on its outside: the header of the message that carries it, and the two."""
    head = bytes([Opening.TYPE]) + agreement.key_header.to_bytes()
    return head + u32(sender) + u32(recipient)
