"""A holder of a threshold key: once a session it makes its part, once a round it answers.

    generate          -> Advertise,  AwaitRoster
    .on_roster        -> Opening,    AwaitOpenings
    .on_openings      -> Holder, CollectiveKey
    .on_request       -> Partial, and whose uploads it is said to open

A message that breaks a rule raises ``RemoteProtocolError``, and no answer leaves.
A holder opens its commitment to one roster, takes one set of boxes, and opens one
ciphertext a round; the first request answered fixes for the whole session which holders
are alive. A holder that answered is named alive, so nobody hands out shares of its key: a
key is either used or rebuilt, never both.

An answer is a function of the holder's secrets and the request. Its noise is as good as
fresh: a generator's output under a key that never leaves the holder, another for every
other ciphertext; and the same ciphertext gets the same bytes, from which no mean is taken.

Between messages a state may move into a record (``into_record``) and out again
(``restore``), in another process if need be. A record can be copied, so each answer
of a restored state goes through a ``Burn`` first.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self, TypeAlias

from protocols.burn import Burn
from protocols.checks import check_integer
from protocols.ckks.keys import Chunks, CollectiveKey, arithmetic, commit, in_turn, partial
from protocols.ckks.messages import (
    ALIVE_STAGE,
    BLIND_SIZE,
    OPENINGS_STAGE,
    PARTIAL_STAGE,
    ROSTER_STAGE,
    SHARE_SIZE,
    Advertise,
    Entry,
    Opening,
    Openings,
    Partial,
    Request,
    Roster,
    ShareBoxes,
    check_summands,
    split,
)
from protocols.ckks.params import DIGEST_SIZE, Agreement, Model
from protocols.ckks.records import Making, Party
from protocols.entropy import Entropy, system
from protocols.errors import (
    DecodeError,
    InputError,
    LocalProtocolError,
    RemoteProtocolError,
)
from protocols.primitives import shamir
from protocols.primitives.aead import seal, unseal
from protocols.primitives.agree import KEY_SIZE, PrivateKey, refuse_low_order
from protocols.primitives.prg import SEED_SIZE, from_seed
from protocols.records import open_record
from protocols.secrets import Once, Secret
from protocols.wire import ClientId, Fields, Reader, u32, write_map, write_set


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting(Party):
    """The key is being made. A state that was never in a record answers once anyway."""

    burn: Burn | None = field(default=None, repr=False)

    def _burn(self, store: Burn | None, request: bytes, done: str) -> None:
        session = self.agreement.key_header.place(self.me)
        digest = hashlib.sha256(request).digest()
        if store is not None and not store(session, self.STAGE, digest):
            raise RemoteProtocolError(f"holder {self.me} {done} in this session")


def generate(
    agreement: Agreement, me: ClientId, entropy: Entropy = system
) -> tuple[bytes, "AwaitRoster"]:
    """Begin a session's key as holder ``me``: an ``Advertise`` to send, and the state that waits.

    Args:
      agreement: of any round of the session.
      entropy: gives 128 bytes. The error of b_i comes from them too; SEAL draws its own.
    """
    if agreement.params.model is not Model.THRESHOLD:
        raise InputError("params.model is SHARED_KEY, which has no holders; take THRESHOLD")
    check_integer("holder", me, 0)
    seed, own = Secret(entropy(SEED_SIZE)), Secret(entropy(SEED_SIZE))
    making = Making(
        seed=seed,
        own=own,
        seal=PrivateKey(Secret(entropy(KEY_SIZE))),
        share=arithmetic(agreement).public_share(me, seed, own),
        blind=entropy(BLIND_SIZE),
    )
    entry = _entry(agreement, me, making)
    message = Advertise(header=agreement.key_header, sender=me, entry=entry)
    state = AwaitRoster(agreement=agreement, me=me, entry=entry, secrets=Once(making))
    return message.to_bytes(), state


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitRoster(_Waiting):
    """We have committed to our public share."""

    STAGE: ClassVar[int] = ROSTER_STAGE

    entry: Entry
    secrets: Once[Making]

    def on_roster(self, message: bytes) -> tuple[bytes, "AwaitOpenings"]:
        """Everybody has committed: open our commitment, and share our secret.

        Raises:
          RemoteProtocolError: another number of holders than agreed, our entry is missing or
            changed, or a key stands twice or is of low order; or we answered another roster.
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
        ).to_bytes()
        self._burn(self.burn, message, "answered another roster")
        return answer, AwaitOpenings(
            agreement=agreement,
            me=self.me,
            roster=roster,
            secrets=Once(_Sharing(seed=making.seed, own=making.own, openings=openings)),
            burn=self.burn,
        )

    def _fields(self) -> Fields:
        return self._known(), self.secrets.take().to_bytes()

    @classmethod
    def read(cls, reader: Reader, burn: Burn) -> Self:
        known = cls._read_known(reader, burn)
        making = Making.read(reader, known["agreement"].params)
        entry = _entry(known["agreement"], known["me"], making)
        return cls(**known, entry=entry, secrets=Once(making))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sharing:
    seed: Secret
    own: Secret
    openings: Mapping[ClientId, Secret]  # keys of the boxes that others seal for us


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitOpenings(_Waiting):
    """We have opened our commitment, and shared our secret."""

    STAGE: ClassVar[int] = OPENINGS_STAGE

    roster: Roster
    secrets: Once[_Sharing]

    def on_openings(
        self, message: bytes, boxes: bytes, *, burn: Burn | None = None
    ) -> tuple["Holder", CollectiveKey]:
        """Check what everybody committed to and opened, and keep our shares.

        Args:
          message: the ``Openings``, as clients get them too.
          boxes: our ``ShareBoxes``.
          burn: durable; every answer of the holder goes through it. A restored state has one,
            and keeps it.

        Raises:
          RemoteProtocolError: an opening is missing, wrong, or not of the commitment in the
            roster; or a box does not open. The session is at its end. Or we took other boxes.
          LocalProtocolError: there is no burn store.
        """
        agreement, store = self.agreement, burn if self.burn is None else self.burn
        if store is None:
            raise LocalProtocolError("burn is missing: a holder writes down what it answers")
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
        # Either message says where it ends: no other two are joined to the same bytes.
        self._burn(store, message + boxes, "took other openings or boxes")
        holder = Holder(
            agreement=agreement,
            me=self.me,
            key=key.digest,
            seed=secrets.seed,
            own=secrets.own,
            shares=shares,
            burn=store,
        )
        return holder, key

    def _fields(self) -> Fields:
        secrets = self.secrets.take()
        openings = (secrets.openings[peer].expose() for peer in sorted(secrets.openings))
        both = secrets.seed.expose() + secrets.own.expose()
        return self._known(), *self.roster.fields(), both, *openings

    @classmethod
    def read(cls, reader: Reader, burn: Burn) -> Self:
        known = cls._read_known(reader, burn)
        roster, me = Roster.read(reader, known["agreement"].key_header), known["me"]
        if me not in roster.entries:
            raise DecodeError(f"a roster without holder {me}, whose state this is")
        sharing = _Sharing(
            seed=reader.secret(SEED_SIZE),
            own=reader.secret(SEED_SIZE),
            openings={peer: reader.secret(KEY_SIZE) for peer in roster.entries if peer != me},
        )
        return cls(**known, roster=roster, secrets=Once(sharing))


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder(Party):
    """A part of a session's key, and a share of every other part.

    It may live in a record between rounds. Copies do no harm: what may be answered is in
    the burn store.
    """

    STAGE: ClassVar[int] = PARTIAL_STAGE

    key: bytes  # digest of the collective key
    seed: Secret = field(repr=False)
    own: Secret = field(repr=False)
    shares: Mapping[ClientId, Secret] = field(repr=False)
    burn: Burn = field(repr=False)

    def on_request(
        self, agreement: Agreement, message: bytes, *, chunks: Chunks = in_turn
    ) -> tuple[Iterator[bytes], Mapping[ClientId, bytes]]:
        """Every ``Partial`` for the server, and digests of the uploads that it claims to open.

        They are made as they are asked for, once all that may be refused was looked at.

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
            raise LocalProtocolError("agreement is of another session, or parameters, than the key")
        request = Request.from_bytes(
            message,
            expect=agreement.header,
            context=agreement.context(self.key),
            params=params,
        )
        check_summands(request.summands, params)
        alive = request.alive
        if strangers := alive - self.shares.keys() - {self.me}:
            raise RemoteProtocolError(f"named as alive, and no holders: {sorted(strangers)}")
        if self.me not in alive:
            raise RemoteProtocolError("we are asked for a part, and named as gone")
        if len(alive) < params.threshold:
            raise RemoteProtocolError(f"{len(alive)} holders alive, {params.threshold} needed")
        made = arithmetic(agreement)
        for index, second in enumerate(split(request.seconds, params.second_size)):
            made.check_second(index, second)
        parts = partial(agreement, self.me, self.seed, request.seconds, self.own, chunks)
        gone = {holder: self.shares[holder] for holder in self.shares.keys() - alive}
        answer = (
            Partial(
                header=agreement.header,
                sender=self.me,
                index=index,
                part=part,
                shares={} if index else gone,
            ).to_bytes()
            for index, part in enumerate(parts)
        )
        self._burn(agreement, alive, message)
        return answer, request.summands

    def _burn(self, agreement: Agreement, alive: frozenset[ClientId], message: bytes) -> None:
        session = agreement.key_header.place(self.me)
        if not self.burn(session, ALIVE_STAGE, hashlib.sha256(write_set(alive)).digest()):
            raise RemoteProtocolError("other holders were alive when we answered first")
        request = hashlib.sha256(message).digest()
        if not self.burn(agreement.header.place(self.me), PARTIAL_STAGE, request):
            raise RemoteProtocolError(
                f"holder {self.me} answered another request in round {agreement.round}"
            )

    def _fields(self) -> Fields:
        shares = write_map(self.shares, Secret.expose)
        return self._known(), self.key, self.seed.expose(), self.own.expose(), shares

    @classmethod
    def read(cls, reader: Reader, burn: Burn) -> Self:
        return cls(
            **cls._read_known(reader, burn),
            key=reader.take(DIGEST_SIZE),
            seed=reader.secret(SEED_SIZE),
            own=reader.secret(SEED_SIZE),
            shares=reader.map(lambda source: source.secret(SHARE_SIZE)),
        )


State: TypeAlias = AwaitRoster | AwaitOpenings | Holder


def restore(record: Secret, *, burn: Burn) -> State:
    """The state that ``record`` holds. Its answers leave only if ``burn`` allows them.

    Raises:
      DecodeError: the record was cut, changed, or made by another version.
    """
    kinds: tuple[type[State], ...] = (AwaitRoster, AwaitOpenings, Holder)
    return open_record(record, burn, kinds)


def _entry(agreement: Agreement, me: ClientId, making: Making) -> Entry:
    commitment = commit(agreement, me, making.share, making.blind)
    return Entry(seal_key=making.seal.public, commitment=commitment)


def _seal_label(agreement: Agreement, roster: Roster, sender: ClientId, to: ClientId) -> bytes:
    keys = roster.entries[sender].seal_key + roster.entries[to].seal_key
    return agreement.label(b"seal", roster.digest() + u32(sender) + u32(to) + keys)


def _about(agreement: Agreement, sender: ClientId, recipient: ClientId) -> bytes:
    """What a box says on its outside: the header of the message that carries it, and the two."""
    return Opening.head(agreement.key_header) + u32(sender) + u32(recipient)
