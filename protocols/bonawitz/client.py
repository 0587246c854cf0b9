"""A client of one round: each answer comes from a state that is then used up.

    join              -> Advertise,        AwaitRoster
    .on_roster        -> SealedShares,     AwaitBoxes
    .on_boxes         -> MaskedFrames,     AwaitSurvivors
    .on_survivors     -> Reveal

and against a server that may lie, in place of the last:

    .sign_survivors   -> SignedSurvivors,  AwaitSignatures
    .on_signatures    -> Reveal

A message that breaks a rule raises ``RemoteProtocolError``, and no answer leaves.
Everything random is drawn in ``join``: an answer is a function of the state and
the request, so the same request gets the same bytes again, and no other request
gets any.

Between stages a state may move into a record (``into_record``) and out again
(``restore``), in another process if need be. A record can be copied, so each
answer of a restored state goes through a ``Burn`` first.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.bonawitz.graph import GraphPlan, pick
from protocols.bonawitz.messages import (
    FRAME_WORDS,
    SHARE_SIZE,
    Advertise,
    Mark,
    MaskedFrame,
    PublicKeys,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Signatures,
    SignedSet,
    SignedSurvivors,
    Survivors,
    check_agreed,
    check_keys,
)
from protocols.bonawitz.params import DIGEST_SIZE, Agreement, Context
from protocols.bonawitz.records import Client, Keys, Peer, Sharing, Stranger
from protocols.burn import Burn
from protocols.checks import check_integer
from protocols.entropy import Entropy, system
from protocols.errors import InputError, LocalProtocolError, RemoteProtocolError
from protocols.primitives.aead import seal, unseal
from protocols.primitives.agree import KEY_SIZE, LOW_ORDER, PrivateKey, refuse_low_order
from protocols.primitives.prg import SEED_SIZE, Expand, Mask, Masks, Streams, from_seed
from protocols.primitives.shamir import split
from protocols.primitives.sign import SigningKey, refuse_shared, verify
from protocols.records import open_record
from protocols.secrets import Once, Secret
from protocols.wire import (
    ClientId,
    Fields,
    Reader,
    read_subset,
    u32,
    write_map,
    write_set,
    write_subset,
)

Words: TypeAlias = NDArray[np.uint64]

BATCH_WORDS = 16 * FRAME_WORDS  # 4 MiB: with 20 masks, 5 ms of work for whoever shares it out


def join(
    agreement: Agreement,
    me: ClientId,
    entropy: Entropy = system,
    *,
    identity: SigningKey | None = None,
    identities: Mapping[ClientId, bytes] | None = None,
) -> tuple[bytes, "AwaitRoster"]:
    """Enter a round as client ``me``: an ``Advertise`` to send, and the state that waits.

    Args:
      agreement: all that is public about the round.
      me: our number, 0 to ``params.clients - 1``.
      entropy: gives 96 bytes.
      identity: against an active server: our long-lived signing key.
      identities: against an active server: everybody's public signing keys, from
        somebody who is not the server.

    Raises:
      InputError: identities are missing, given where nothing is signed, of small order,
        or one is that of two clients; or ``entropy`` repeats itself.
    """
    check_integer("client", me, 0)
    active = agreement.params.active
    if active is not (identity is not None) or active is not bool(identities):
        raise InputError("identity and identities must be given if active is True, and only then")
    if identity and identities and identities.get(me) != identity.public:
        raise InputError(f"identity must be that of client {me} among the identities")
    refuse_shared(identities or {})
    keys = Keys(
        mask=PrivateKey(Secret(entropy(KEY_SIZE))),
        seal=PrivateKey(Secret(entropy(KEY_SIZE))),
        draw=Secret(entropy(SEED_SIZE)),
    )
    if len({keys.mask.secret.expose(), keys.seal.secret.expose(), keys.draw.expose()}) < 3:
        raise InputError("entropy gave the same bytes twice, must be a source that never repeats")
    state = AwaitRoster(
        agreement=agreement,
        me=me,
        identity=identity,
        identities=dict(identities or {}),
        keys=Once(keys),
        public=_public(agreement, me, keys, identity),
    )
    message = Advertise(header=agreement.header, sender=me, keys=state.public)
    return message.to_bytes(), state


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitRoster(Client):
    """We have advertised our keys."""

    STAGE: ClassVar[int] = 1

    keys: Once[Keys]
    public: PublicKeys

    def rebind(self, agreement: Agreement) -> "AwaitRoster":
        """The same keys, where they were advertised before everything public was known.

        Lets an honest-but-curious server collect keys for the next session together with an
        answer of this one. This state is then used up. What we agree to enters every label,
        and the burn record of the next answer: one set of keys answers under one agreement.

        Raises:
          LocalProtocolError: the keys are of another session, or signed, and a signature is
            over everything public.
        """
        if agreement.header != self.agreement.header:
            raise LocalProtocolError("our keys are of another session or round: advertise new ones")
        if agreement != self.agreement and (agreement.params.active or self.identity):
            raise LocalProtocolError("signed keys are of one agreement: advertise new ones")
        return replace(self, agreement=agreement, keys=Once(self.keys.take()))

    # 60 lines and more: checks, shares, burn and state in the order in which they must happen.
    def on_roster(self, message: bytes) -> tuple[bytes, "AwaitBoxes"]:
        """Share our secrets among the clients of the roster.

        Raises:
          RemoteProtocolError: the server agrees to something else; our own keys are missing
            or changed; two clients have one key, or one has a key of low order, or a signature
            is not that of its identity; there are too few clients to be hidden among, or too
            many for the lanes; the threshold is no majority of the honest share
            holders, so two disjoint groups could both reach it; in a sparse graph, there
            is another number of neighbours than planned, or, where the server may lie,
            not everybody is listed.
        """
        params = self.agreement.params
        roster = Roster.from_bytes(message, expect=self.agreement.header, signed=params.active)
        check_agreed(self.agreement, roster.agreement, "the server")
        self._check_roster(roster)

        keys, digest = self.keys.take(), roster.digest()
        context = self.agreement.context(digest)
        plan = params.plan(roster.size)
        draw = from_seed(keys.draw, context.draw(self.me))
        seed = Secret(draw(SEED_SIZE))
        both = Secret(seed.expose() + keys.mask.secret.expose())
        others = roster.entries.keys() - {self.me}
        if plan.degree is None:
            holders = list(roster.entries)
        elif plan.picks is None:
            holders = sorted(others)
        else:
            holders = pick(others, plan.degree, draw)
        shares = dict(zip(holders, split(both, plan.threshold, len(holders), draw), strict=True))
        boxes: dict[ClientId, bytes] = {}
        peers: dict[ClientId, Peer] = {}
        strangers = {  # whom we have not picked; hardly anybody like them picks us
            peer: Stranger(theirs.mask, theirs.seal)
            for peer, theirs in roster.entries.items()
            if peer not in shares and peer != self.me
        }
        for peer in holders:
            if peer == self.me:
                continue
            theirs = roster.entries[peer]
            sealing, opening = keys.seal.agree(
                theirs.seal,
                context.seal(self.me, peer, self.public.mask, theirs.mask),
                context.seal(peer, self.me, theirs.mask, self.public.mask),
            )
            boxes[peer] = seal(sealing, shares[peer], _about(context, self.me, peer), draw)
            peers[peer] = Peer(mask_key=theirs.mask, opening=opening)
        answer = SealedShares(
            header=context.header, sender=self.me, agreement=self.agreement.tag, boxes=boxes
        ).to_bytes()
        request = message + self.agreement.to_bytes()
        # One mask key answers one roster, whatever the session, agreement and state.
        self._burn(request, place=hashlib.sha256(self.public.mask).digest())
        self._burn(request)
        return answer, AwaitBoxes(
            agreement=self.agreement,
            me=self.me,
            burn=self.burn,
            identity=self.identity,
            identities={peer: self.identities[peer] for peer in others} if params.active else {},
            size=roster.size,
            roster=digest,
            secrets=Once(
                Sharing(
                    mask_key=keys.mask,
                    seed=seed,
                    own_share=shares.get(self.me),
                    peers=peers,
                    seal_key=keys.seal if plan.picks else None,
                    strangers=strangers,
                )
            ),
        )

    def _check_roster(self, roster: Roster) -> None:
        params, listed = self.agreement.params, len(roster.entries)
        if roster.entries.get(self.me) != self.public:
            raise RemoteProtocolError("the roster lacks our keys, or shows others in their place")
        if roster.size > params.clients:
            raise RemoteProtocolError(
                f"{roster.size} clients in the roster, at most {params.clients}"
            )
        if roster.size < params.minimum_survivors:
            raise RemoteProtocolError(
                f"{roster.size} clients in the roster, {params.minimum_survivors} needed"
            )
        try:
            plan = params.plan(roster.size)
        except InputError as error:
            raise RemoteProtocolError(
                f"no graph among the clients of the roster: {error}"
            ) from None
        if roster.size < params.needed(plan):
            raise RemoteProtocolError(
                f"{roster.size} clients in the roster, {params.needed(plan)} needed"
            )
        if (plan.degree is None or plan.picks) and roster.part_of:
            raise RemoteProtocolError(f"{listed} of {roster.size} clients in the roster")
        if plan.degree is None:
            if 2 * plan.threshold <= listed + params.corrupted:
                raise RemoteProtocolError(
                    f"threshold {plan.threshold} is no majority of {listed} share holders"
                )
        elif plan.picks is None and listed != plan.degree + 1:
            raise RemoteProtocolError(
                f"{listed - 1} neighbours in the roster, {plan.degree} are planned for "
                f"{roster.size} clients"
            )
        keys = {key for theirs in roster.entries.values() for key in (theirs.mask, theirs.seal)}
        if len(keys) < 2 * listed:
            raise RemoteProtocolError("one key stands twice in the roster")
        if params.active:
            label = self.agreement.advertised_by()
            for client, theirs in roster.entries.items():
                if client not in self.identities:
                    raise RemoteProtocolError(f"client {client} of the roster has no identity")
                check_keys(label(client), client, theirs, self.identities[client])
        for key in keys & LOW_ORDER:
            refuse_low_order(key)

    def _fields(self) -> Fields:
        return self._known(), self.keys.take().to_bytes()

    @classmethod
    def read(cls, reader: Reader, burn: Burn) -> Self:
        known, keys = cls._read_known(reader, burn), Keys.read(reader)
        public = _public(known["agreement"], known["me"], keys, known["identity"])
        return cls(**known, keys=Once(keys), public=public)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitBoxes(Client):
    """We have shared our secrets."""

    STAGE: ClassVar[int] = 2

    size: int
    roster: bytes
    secrets: Once[Sharing] = field(repr=False)

    def rebind(self, agreement: Agreement) -> "AwaitBoxes":
        """The same shares, where they were sealed before everything public was known.

        This state is then used up. The boxes stay bound to session, parameters and roster; the
        masks, and the burn record of the next answer, to ``agreement``.

        Raises:
          LocalProtocolError: another session or other parameters, shares that were sealed under
            everything public, or an active server, whom that would let show two models.
        """
        if not agreement.completes(self.agreement):
            raise LocalProtocolError("our shares were sealed under another agreement")
        return replace(self, agreement=agreement, secrets=Once(self.secrets.take()))

    # 60 lines and more: checks, burn, masks and state in the order in which R30 to R39 stand.
    def on_boxes(
        self, message: bytes, words: Words | Iterable[Words], *, expand: Expand = Masks
    ) -> tuple[Iterator[bytes], "AwaitSurvivors"]:
        """Mask our input with one stream for each peer that shared, and one of our own.

        Args:
          words: the input, ``params.words`` of ``uint64`` in one array or in
            parts. It is read as the frames are asked for, and may not change
            before the last of them: two inputs under one mask would show
            their difference.
          expand: another way to apply the masks, to some megabytes at a time. It sees the
            seeds: it runs on our own machine.

        Returns:
          The frames to send, in order, where we picked our holders our mark behind them, and
          the state that waits. A restored state that is given parts instead of an array answers
          once only: parts cannot be compared with those of an earlier time.

        Raises:
          RemoteProtocolError: boxes of strangers, too few boxes, too few that open; in a sparse
            graph that the server drew, one that does not open.
          LocalProtocolError: ``words`` are not as many as agreed (in parts: raised
            by the iterator, before the last frame), or what is public is not known yet.
        """
        if not self.agreement.known:
            raise LocalProtocolError("no vector is masked before everything public is known")
        params = self.agreement.params
        plan = params.plan(self.size)
        size = self.size if plan.picks else 0
        boxes = ShareBoxes.from_bytes(message, expect=self.agreement.header, size=size)
        if boxes.recipient != self.me:
            raise RemoteProtocolError(f"boxes for client {boxes.recipient}, we are {self.me}")
        if plan.degree is not None and not plan.picks and len(boxes.boxes) < plan.threshold:
            raise RemoteProtocolError(
                f"{len(boxes.boxes)} neighbours have shared, {plan.threshold} needed"
            )
        if isinstance(words, np.ndarray):
            _check_words(words, params.words)

        sharing = self.secrets.take()
        if strangers := boxes.boxes.keys() - sharing.peers.keys() - sharing.strangers.keys():
            raise RemoteProtocolError(f"boxes of clients not in the roster: {sorted(strangers)}")
        members = tuple(sorted(sharing.peers.keys() | sharing.strangers.keys() | {self.me}))
        shared: Set[ClientId] = boxes.boxes.keys() | {self.me}
        if plan.picks:
            shared = self._who_shared(boxes, members)
        if len(shared) < params.needed(plan) and (plan.degree is None or plan.picks):
            raise RemoteProtocolError(
                f"{len(shared)} clients have shared, {params.needed(plan)} needed"
            )
        context = self.agreement.context(self.roster)
        shares, shut = self._open(boxes, sharing, context, plan)
        included: Set[ClientId]
        if plan.degree is None:
            # Shown another model than the rest, we open nobody's box: no vector may leave.
            if len(shares) < params.needed(plan):
                raise RemoteProtocolError(
                    f"a box does not open, and too few do: {len(boxes.boxes) - len(shut)}, "
                    f"{params.needed(plan) - 1} needed"
                )
            included = shared - {self.me}
        else:
            near = sharing.peers.keys() | boxes.boxes.keys() if plan.picks else boxes.boxes.keys()
            included = (near & shared) - shut
        streams = expand(self._masks(included, sharing, context), params.suite)
        request = message + self.agreement.to_bytes()
        if isinstance(words, np.ndarray):
            self._burn(request, words.data)
            words = (words,)
        else:
            self._burn(request, system(DIGEST_SIZE))
        frames = self._frames(_counted(words, params.words), streams)
        if plan.picks:
            frames = chain(frames, (self._mark(included, members),))
        known = sharing.peers.keys() | boxes.boxes.keys()
        return frames, AwaitSurvivors(
            agreement=self.agreement,
            me=self.me,
            burn=self.burn,
            identity=self.identity,
            identities={
                c: key for c, key in self.identities.items() if plan.picks or c in boxes.boxes
            },
            size=self.size,
            roster=self.roster,
            members=members,
            peers=frozenset(included | {self.me}),
            silent=frozenset(known - included),
            shares=Once(shares),
        )

    def _open(
        self, boxes: ShareBoxes, sharing: Sharing, context: Context, plan: GraphPlan
    ) -> tuple[dict[ClientId, Secret], set[ClientId]]:
        """The shares that we hold, our own with them; and whose box does not open."""
        shares = {self.me: sharing.own_share} if sharing.own_share else {}
        shut: set[ClientId] = set()
        for sender, box in boxes.boxes.items():
            about = _about(context, sender, self.me)
            try:
                shares[sender] = unseal(self._opening(sharing, context, sender), box, about)
            except RemoteProtocolError:
                if plan.degree is not None and not plan.picks:
                    raise
                shut.add(sender)
        return shares, shut

    def _masks(self, included: Set[ClientId], sharing: Sharing, context: Context) -> list[Mask]:
        """Our own mask, and one with each of those that we mask with."""
        masks = [Mask(seed=sharing.seed, label=context.self_mask(self.me))]
        for peer_id in sorted(included):
            label = context.pair(self.me, peer_id)
            (seed,) = sharing.mask_key.agree(sharing.mask_key_of(peer_id), label)
            masks.append(Mask(seed=seed, label=label, subtract=self.me < peer_id))
        return masks

    def _opening(self, sharing: Sharing, context: Context, sender: ClientId) -> Secret:
        """The key of the box from a peer."""
        if sender in sharing.peers:
            return sharing.peers[sender].opening
        if sharing.seal_key is None:
            raise LocalProtocolError("no sealing key to open a box with")
        theirs = sharing.strangers[sender]
        own = sharing.mask_key.public
        label = context.seal(sender, self.me, theirs.mask_key, own)
        (opening,) = sharing.seal_key.agree(theirs.seal_key, label)
        return opening

    def _who_shared(self, boxes: ShareBoxes, members: Sequence[ClientId]) -> Set[ClientId]:
        """Where clients pick their holders: of the whole roster."""
        shared = read_subset(boxes.shared, members)
        if self.me not in shared:
            raise RemoteProtocolError("we have shared, and are not among who did")
        if unshared := boxes.boxes.keys() - shared:
            raise RemoteProtocolError(f"boxes of clients that never shared: {sorted(unshared)}")
        return shared

    def _mark(self, included: Set[ClientId], members: Sequence[ClientId]) -> bytes:
        """Whom we have masked with, signed. We mask once, so that we sign one."""
        if self.identity is None:
            raise LocalProtocolError("identity is missing: a mark is signed with it")
        named = write_subset(included, members)
        label = self.agreement.context(self.roster).included(self.me)
        mark = SignedSet(included=named, signature=self.identity.sign(label, named))
        return Mark(header=self.agreement.header, sender=self.me, mark=mark).to_bytes()

    def _frames(self, words: Iterable[Words], masks: Streams) -> Iterator[bytes]:
        index = count()
        for batch in _batches_of(words, self.agreement.params.words + 1):
            masks.apply_to(batch)
            frames = [
                MaskedFrame(
                    header=self.agreement.header,
                    sender=self.me,
                    index=next(index),
                    words=batch[begin : begin + FRAME_WORDS],
                )
                for begin in range(0, len(batch), FRAME_WORDS)
            ]
            yield from masks.each(MaskedFrame.to_bytes, frames)

    def _fields(self) -> Fields:
        return self._known(), u32(self.size), self.roster, self.secrets.take().to_bytes()

    @classmethod
    def read(cls, reader: Reader, burn: Burn) -> Self:
        return cls(
            **cls._read_known(reader, burn),
            size=reader.u32(),
            roster=reader.take(DIGEST_SIZE),
            secrets=Once(Sharing.read(reader)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder(Client):
    """We have sent our masked vector and hold shares of our peers' secrets.

    The server names only who is alive; who is gone is the rest. So one message
    cannot ask for both shares of a peer, and ``shares`` can be taken once.
    """

    size: int
    roster: bytes
    members: tuple[ClientId, ...]  # of the roster as we were shown it
    peers: frozenset[ClientId]  # with whom we have masked, and we
    silent: frozenset[ClientId]  # should have masked with us, and we did not with them
    shares: Once[Mapping[ClientId, Secret]]

    def _read_survivors(self, message: bytes) -> Survivors:
        """Checked as far as one client can."""
        params = self.agreement.params
        plan = params.plan(self.size)
        survivors = Survivors.from_bytes(
            message,
            expect=self.agreement.header,
            members=self.members,
            part=len(self.members) < self.size,
            marked=plan.picks is not None,
        )
        alive = survivors.alive
        # A neighbour whose boxes never reached us may still have masked with us: it counts as a
        # survivor, but we hold no share of it.
        strangers = alive & self.silent if plan.degree else alive - self.peers
        if strangers:
            raise RemoteProtocolError(f"named as alive, never shared: {sorted(strangers)}")
        if self.me not in alive:
            raise RemoteProtocolError("our masked vector was sent, and we are named as gone")
        if (survivors.unseen or 0) > self.size - len(self.members):
            raise RemoteProtocolError(
                f"{survivors.count} alive, {self.size} clients in the roster, of whom we were "
                f"shown {len(self.members)}"
            )
        if survivors.count < params.needed(plan):
            raise RemoteProtocolError(
                f"{survivors.count} alive, at least {params.needed(plan)} needed"
            )
        if plan.picks:
            self._check_marks(survivors)
        elif plan.degree is not None:
            near = len(alive & self.peers) - 1
            if near < plan.threshold:
                raise RemoteProtocolError(f"{near} neighbours alive, {plan.threshold} needed")
        return survivors

    def _check_marks(self, survivors: Survivors) -> None:
        """Every survivor that we masked with has masked with us, and has signed so.

        Without this a server that passed on half of the boxes has one of us help to open the
        other, whose masks are not on its vector.
        """
        context, marks = self.agreement.context(self.roster), survivors.marks or {}
        for client in sorted((survivors.alive & self.peers) - {self.me}):
            mark = marks.get(client)
            if mark is None:
                raise RemoteProtocolError(f"no mark of client {client}, with whom we have masked")
            label = context.included(client)
            if self.me not in mark.check(self.identities[client], label, self.members):
                raise RemoteProtocolError(f"client {client} has not masked with us")

    def _reveal(self, alive: frozenset[ClientId]) -> bytes:
        shares = {
            peer: _half(share, first=peer in alive) for peer, share in self.shares.take().items()
        }
        return Reveal(header=self.agreement.header, sender=self.me, shares=shares).to_bytes()

    def _fields(self) -> Fields:
        shares = write_map(self.shares.take(), Secret.expose)
        sets = b"".join(map(write_set, (self.members, self.peers, self.silent)))
        return self._known(), u32(self.size), self.roster, sets, shares

    @classmethod
    def read(cls, reader: Reader, burn: Burn) -> Self:
        return cls(
            **cls._read_known(reader, burn),
            size=reader.u32(),
            roster=reader.take(DIGEST_SIZE),
            members=tuple(sorted(reader.set("members"))),
            peers=reader.set("peers"),
            silent=reader.set("silent peers"),
            shares=Once(reader.map(lambda source: source.secret(2 * SHARE_SIZE))),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitSurvivors(_Holder):
    """We wait to hear whose masked vectors arrived."""

    STAGE: ClassVar[int] = 3

    def on_survivors(
        self, message: bytes, *, accept: Callable[[Set[ClientId]], None] = lambda _: None
    ) -> bytes:
        """Reveal one share for each peer, and be done.

        Args:
          accept: is told who is in the sum, and raises where we shall not help to open it.

        Raises:
          RemoteProtocolError: a stranger is named, we are not, or too few are.
          LocalProtocolError: this state has answered before, or the server may
            lie: then ``sign_survivors`` comes first.
        """
        if self.agreement.params.active:
            raise LocalProtocolError("the server may lie: sign the survivors before revealing")
        alive = self._read_survivors(message).alive
        accept(alive)
        answer = self._reveal(alive)
        self._burn(message)
        return answer

    def sign_survivors(self, message: bytes) -> tuple[bytes, "AwaitSignatures"]:
        """Sign the set that we were shown; shares are revealed for that set or for none.

        Raises:
          RemoteProtocolError: a stranger is named, we are not, or too few are; or, where we
            picked our holders, the mark of one that we masked with is missing or not good.
          LocalProtocolError: this state has answered before, or nothing is signed
            in this round.
        """
        if self.identity is None:
            raise LocalProtocolError("active is False, so nothing is signed: call on_survivors")
        survivors = self._read_survivors(message)
        label = self.agreement.context(self.roster).survivors()
        answer = SignedSurvivors(
            header=self.agreement.header,
            sender=self.me,
            signature=self.identity.sign(label, survivors.body()),
        ).to_bytes()
        after = AwaitSignatures.after(self, survivors.alive)
        self._burn(message)
        return answer, after


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitSignatures(_Holder):
    """We have signed the survivors, and wait for enough others to have signed the same."""

    STAGE: ClassVar[int] = 4

    alive: frozenset[ClientId]

    @classmethod
    def after(cls, state: AwaitSurvivors, alive: frozenset[ClientId]) -> Self:
        """What ``state`` becomes once it has signed ``alive``; it is then used up."""
        return cls(
            agreement=state.agreement,
            me=state.me,
            burn=state.burn,
            identity=state.identity,
            identities=state.identities,
            size=state.size,
            roster=state.roster,
            members=state.members,
            peers=state.peers,
            silent=state.silent,
            shares=Once(state.shares.take()),
            alive=alive,
        )

    def on_signatures(self, message: bytes) -> bytes:
        """Reveal one share for each peer, and be done.

        Raises:
          RemoteProtocolError: with us, fewer survivors than the threshold (where clients pick
            their holders: than are more than half of all and the corrupt) have signed the set
            that we signed.
          LocalProtocolError: this state has answered before.
        """
        params = self.agreement.params
        plan = params.plan(self.size)
        received = Signatures.from_bytes(message, expect=self.agreement.header).signatures
        label = self.agreement.context(self.roster).survivors()
        body = write_subset(self.alive, self.members)
        valid = 1  # our own
        for client in sorted(received.keys() & self.alive & self.identities.keys()):
            if valid == plan.quorum:
                break
            with suppress(RemoteProtocolError):
                verify(self.identities[client], label, body, received[client])
                valid += 1
        if valid < plan.quorum:
            raise RemoteProtocolError(
                f"{valid} clients have signed the survivors that we signed, {plan.quorum} needed"
            )
        answer = self._reveal(self.alive)
        self._burn(body)  # whichever signatures convinced us, the answer is the same
        return answer

    def _fields(self) -> Fields:
        return *_Holder._fields(self), write_set(self.alive)

    @classmethod
    def read(cls, reader: Reader, burn: Burn) -> Self:
        return cls.after(AwaitSurvivors.read(reader, burn), reader.set("survivors"))


State: TypeAlias = AwaitRoster | AwaitBoxes | AwaitSurvivors | AwaitSignatures


def restore(record: Secret, *, burn: Burn) -> State:
    """The state that ``record`` holds. Its answer leaves only if ``burn`` allows it.

    Raises:
      DecodeError: the record was cut, changed, or made by another version.
    """
    kinds: tuple[type[State], ...] = (AwaitRoster, AwaitBoxes, AwaitSurvivors, AwaitSignatures)
    return open_record(record, burn, kinds)


def _public(
    agreement: Agreement, me: ClientId, keys: Keys, identity: SigningKey | None
) -> PublicKeys:
    mask, seal = keys.mask.public, keys.seal.public
    signature = identity.sign(agreement.advertised_by()(me), mask + seal) if identity else b""
    return PublicKeys(mask=mask, seal=seal, signature=signature)


def _about(context: Context, sender: ClientId, recipient: ClientId) -> bytes:
    """What a box says on its outside: the header of the message that carries it, and the two."""
    return SealedShares.head(context.header) + u32(sender) + u32(recipient)


def _half(share: Secret, *, first: bool) -> Secret:
    """Shares of the self-mask's seed and of the mask key lie one behind the other."""
    both = share.expose()
    return Secret(both[:SHARE_SIZE] if first else both[SHARE_SIZE:])


def _check_words(words: Words, expected: int) -> None:
    if words.dtype != np.uint64 or words.ndim != 1 or not words.flags.c_contiguous:
        raise LocalProtocolError(
            f"input is {words.dtype} of shape {words.shape}, expected contiguous uint64 words"
        )
    if len(words) != expected:
        raise LocalProtocolError(f"input has {len(words)} words, {expected} were agreed")


def _counted(parts: Iterable[Words], expected: int) -> Iterator[Words]:
    """The parts, refused unless they add up, and the check word behind them."""
    left = expected
    for part in parts:
        if len(part) > left:
            raise LocalProtocolError(f"input has more than the {expected} words agreed")
        _check_words(part, len(part))
        left -= len(part)
        yield part
    if left:
        raise LocalProtocolError(f"input has {expected - left} words, {expected} were agreed")
    yield np.ones(1, np.uint64)


def _batches_of(parts: Iterable[Words], expected: int) -> Iterator[Words]:
    """The same words in batches of full frames and a last one; each is overwritten by the next."""
    batch = np.empty(min(BATCH_WORDS, expected), np.uint64)
    filled = 0
    for part in parts:
        while len(part):
            taken = part[: len(batch) - filled]
            batch[filled : filled + len(taken)] = taken
            filled += len(taken)
            part = part[len(taken) :]
            if filled == len(batch):
                yield batch
                filled = 0
    if filled:
        yield batch[:filled]
