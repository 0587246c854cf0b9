"""A client of one round: three answers, each from a state that is then used up.

    join            -> Advertise,     AwaitRoster
    .on_roster      -> SealedShares,  AwaitBoxes
    .on_boxes       -> MaskedFrames,  AwaitSurvivors
    .on_survivors   -> Reveal

A message that breaks a rule raises ``RemoteProtocolError``, and no answer leaves.
Everything random is drawn in ``join``: an answer is a function of the state and
the request, so the same request gets the same bytes again, and no other request
gets any.

Between stages a state may move into a record (``into_record``) and out again
(``restore``), in another process if need be. A record can be copied, so each
answer of a restored state goes through a ``Burn`` first.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.bonawitz.messages import (
    FRAME_WORDS,
    SHARE_SIZE,
    Advertise,
    MaskedFrame,
    PublicKeys,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Survivors,
)
from protocols.bonawitz.params import DIGEST_SIZE, Agreement, ClientId, Context
from protocols.burn import Burn
from protocols.entropy import Entropy, system
from protocols.errors import (
    DecodeError,
    LocalProtocolError,
    ParameterError,
    RemoteProtocolError,
)
from protocols.primitives.agree import KEY_SIZE, PrivateKey, refuse_low_order
from protocols.primitives.prg import SEED_SIZE, Mask, Masks, Stream
from protocols.primitives.seal import seal, unseal
from protocols.primitives.shamir import split
from protocols.secrets import Once, Secret
from protocols.wire import Reader, open_checksum, seal_checksum, u32

Words: TypeAlias = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What every waiting state knows."""

    STAGE: ClassVar[int]

    agreement: Agreement
    me: ClientId
    burn: Burn | None = field(default=None, repr=False)

    def _burn(self, request: bytes) -> None:
        place = self.agreement.header.to_bytes() + u32(self.me)
        if self.burn is not None and not self.burn(
            place, self.STAGE, hashlib.sha256(request).digest()
        ):
            raise RemoteProtocolError(
                f"stage {self.STAGE} of client {self.me} was answered for another request"
            )

    def _record(self, *fields: bytes) -> Secret:
        head = RECORD + bytes([self.STAGE]) + self.agreement.to_bytes() + u32(self.me)
        return Secret(seal_checksum(head + b"".join(fields)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    mask: PrivateKey
    seal: PrivateKey
    draw: Secret  # seed of everything random that the next answer needs


def join(
    agreement: Agreement, me: ClientId, entropy: Entropy = system
) -> tuple[bytes, "AwaitRoster"]:
    """Enter a round as client ``me``: an ``Advertise`` to send, and the state that waits."""
    if not 0 <= me < 2**32:
        raise ParameterError(f"client {me} is outside [0, 2**32)")
    keys = _Keys(
        mask=PrivateKey(Secret(entropy(KEY_SIZE))),
        seal=PrivateKey(Secret(entropy(KEY_SIZE))),
        draw=Secret(entropy(SEED_SIZE)),
    )
    state = AwaitRoster(agreement=agreement, me=me, keys=Once(keys), public=_public(keys))
    message = Advertise(header=agreement.header, sender=me, keys=state.public)
    return message.to_bytes(), state


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitRoster(_State):
    """We have advertised our keys."""

    STAGE: ClassVar[int] = 1

    keys: Once[_Keys]
    public: PublicKeys

    def on_roster(self, message: bytes) -> tuple[bytes, "AwaitBoxes"]:
        """Share our secrets among the clients of the roster.

        Raises:
          RemoteProtocolError: our own keys are missing or changed; two clients
            have one key, or one has a key of low order; there are too few clients
            to be hidden among, too many for the lanes, or so many that two
            disjoint sets of them could both reach the threshold.
        """
        params = self.agreement.params
        roster = Roster.from_bytes(message, expect=self.agreement.header)
        count = len(roster.entries)
        if roster.entries.get(self.me) != self.public:
            raise RemoteProtocolError("the roster lacks our keys, or shows others in their place")
        if count > params.clients:
            raise RemoteProtocolError(f"{count} clients in the roster, at most {params.clients}")
        if count < params.needed:
            raise RemoteProtocolError(f"{count} clients in the roster, {params.needed} needed")
        if 2 * params.threshold <= count:
            raise RemoteProtocolError(
                f"threshold {params.threshold} is no majority of {count} share holders"
            )
        if len({key for keys in roster.entries.values() for key in (keys.mask, keys.seal)}) < (
            2 * count
        ):
            raise RemoteProtocolError("one key stands twice in the roster")

        keys = self.keys.take()
        context = self.agreement.context(roster.digest())
        draw = _drawing(keys.draw, context.draw(self.me))
        seed = Secret(draw(SEED_SIZE))
        both = Secret(seed.expose() + keys.mask.secret.expose())
        shares = dict(zip(roster.entries, split(both, params.threshold, count, draw), strict=True))
        boxes: dict[ClientId, bytes] = {}
        peers: dict[ClientId, _Peer] = {}
        for peer, theirs in roster.entries.items():
            if peer == self.me:
                continue
            refuse_low_order(theirs.mask)  # the masks themselves are agreed a stage later
            sealing, opening = keys.seal.agree(
                theirs.seal,
                context.seal(self.me, peer, self.public.mask, theirs.mask),
                context.seal(peer, self.me, theirs.mask, self.public.mask),
            )
            boxes[peer] = seal(sealing, shares[peer], _about(context, self.me, peer), draw)
            peers[peer] = _Peer(mask_key=theirs.mask, opening=opening)
        answer = SealedShares(header=context.header, sender=self.me, boxes=boxes).to_bytes()
        self._burn(message)
        return answer, AwaitBoxes(
            agreement=self.agreement,
            me=self.me,
            burn=self.burn,
            roster=roster.digest(),
            secrets=Once(
                _Sharing(mask_key=keys.mask, seed=seed, own_share=shares[self.me], peers=peers)
            ),
        )

    def into_record(self) -> Secret:
        """Move this state into one secret record; the state is then used up."""
        keys = self.keys.take()
        return self._record(
            keys.mask.secret.expose(), keys.seal.secret.expose(), keys.draw.expose()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peer:
    mask_key: bytes
    opening: Secret = field(repr=False)  # the key of the box that this peer seals for us


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sharing:
    mask_key: PrivateKey
    seed: Secret  # of the self-mask, b_u in [BIK+17]
    own_share: Secret
    peers: Mapping[ClientId, _Peer]


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitBoxes(_State):
    """We have shared our secrets."""

    STAGE: ClassVar[int] = 2

    roster: bytes
    secrets: Once[_Sharing] = field(repr=False)

    def on_boxes(
        self, message: bytes, words: Words | Iterable[Words]
    ) -> tuple[Iterator[bytes], "AwaitSurvivors"]:
        """Mask our input with one stream for each peer that shared, and one of our own.

        Args:
          words: the input, ``params.words`` of ``uint64`` in one array or in
            parts. It is read as the frames are asked for, and may not change
            before the last of them: two inputs under one mask would show
            their difference.

        Returns:
          The frames to send, in order, and the state that waits. A restored
          state that is given parts instead of an array answers once only:
          parts cannot be compared with those of an earlier time.

        Raises:
          RemoteProtocolError: boxes of strangers, too few boxes, or one that
            does not open.
          LocalProtocolError: ``words`` are not as many as agreed (in parts: raised
            by the iterator, before the last frame).
        """
        params = self.agreement.params
        boxes = ShareBoxes.from_bytes(message, expect=self.agreement.header)
        if boxes.recipient != self.me:
            raise RemoteProtocolError(f"boxes for client {boxes.recipient}, we are {self.me}")
        if len(boxes.boxes) + 1 < params.needed:
            raise RemoteProtocolError(
                f"{len(boxes.boxes) + 1} clients have shared, {params.needed} needed"
            )
        if isinstance(words, np.ndarray):
            _check_words(words, params.words)

        sharing = self.secrets.take()
        if strangers := boxes.boxes.keys() - sharing.peers.keys():
            raise RemoteProtocolError(f"boxes of clients not in the roster: {sorted(strangers)}")
        context = self.agreement.context(self.roster)
        shares = {self.me: sharing.own_share}
        masks = [Mask(seed=sharing.seed, label=context.self_mask(self.me))]
        for sender, box in boxes.boxes.items():
            peer = sharing.peers[sender]
            shares[sender] = unseal(peer.opening, box, _about(context, sender, self.me))
            label = context.pair(self.me, sender)
            (seed,) = sharing.mask_key.agree(peer.mask_key, label)
            masks.append(Mask(seed=seed, label=label, subtract=self.me < sender))
        if isinstance(words, np.ndarray):
            self._burn(message + hashlib.sha256(words.data).digest())
            words = (words,)
        else:
            self._burn(message + system(DIGEST_SIZE))
        return self._frames(words, Masks(masks, params.suite)), AwaitSurvivors(
            agreement=self.agreement,
            me=self.me,
            burn=self.burn,
            roster=self.roster,
            peers=frozenset(shares),
            shares=Once(shares),
        )

    def _frames(self, words: Iterable[Words], masks: Masks) -> Iterator[bytes]:
        sizes = _counted(words, self.agreement.params.words)
        for index, frame in enumerate(_frames_of(sizes)):
            masks.apply_to(frame)
            yield MaskedFrame(
                header=self.agreement.header, sender=self.me, index=index, words=frame
            ).to_bytes()

    def into_record(self) -> Secret:
        """Move this state into one secret record; the state is then used up."""
        sharing = self.secrets.take()
        return self._record(
            self.roster,
            sharing.mask_key.secret.expose(),
            sharing.seed.expose(),
            sharing.own_share.expose(),
            u32(len(sharing.peers)),
            *(
                u32(client) + peer.mask_key + peer.opening.expose()
                for client, peer in sharing.peers.items()
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitSurvivors(_State):
    """We have sent our masked vector and hold shares of every peer's secrets.

    The server names only who is alive; who is gone is the rest. So one message
    cannot ask for both shares of a peer, and ``shares`` can be taken once.
    """

    STAGE: ClassVar[int] = 3

    roster: bytes
    peers: frozenset[ClientId]
    shares: Once[Mapping[ClientId, Secret]]

    def on_survivors(self, message: bytes) -> bytes:
        """Reveal one share for each peer, and be done.

        Raises:
          RemoteProtocolError: a stranger is named, we are not, or too few are.
          LocalProtocolError: this state has answered before.
        """
        alive = Survivors.from_bytes(message, expect=self.agreement.header).alive
        needed = self.agreement.params.needed
        if strangers := alive - self.peers:
            raise RemoteProtocolError(f"named as alive, never shared: {sorted(strangers)}")
        if self.me not in alive:
            raise RemoteProtocolError("our masked vector was sent, and we are named as gone")
        if len(alive) < needed:
            raise RemoteProtocolError(f"{len(alive)} alive, at least {needed} needed")
        shares = {
            peer: _half(share, first=peer in alive) for peer, share in self.shares.take().items()
        }
        answer = Reveal(header=self.agreement.header, sender=self.me, shares=shares).to_bytes()
        self._burn(message)
        return answer

    def into_record(self) -> Secret:
        """Move this state into one secret record; the state is then used up."""
        shares = self.shares.take()
        return self._record(
            self.roster,
            u32(len(shares)),
            *(u32(peer) + share.expose() for peer, share in shares.items()),
        )


State: TypeAlias = AwaitRoster | AwaitBoxes | AwaitSurvivors

RECORD = b"secagg client state 1"


def restore(record: Secret, *, burn: Burn) -> State:
    """The state that ``record`` holds. Its answer leaves only if ``burn`` allows it.

    Raises:
      DecodeError: the record was cut, changed, or made by another version.
    """
    reader = Reader(open_checksum(record.expose()))
    if reader.take(len(RECORD)) != RECORD:
        raise DecodeError("not a client state of this version")
    stage = reader.u8()
    agreement = Agreement.read(reader)
    me = reader.u32()
    state: State
    match stage:
        case AwaitRoster.STAGE:
            keys = _Keys(
                mask=PrivateKey(Secret(reader.take(KEY_SIZE))),
                seal=PrivateKey(Secret(reader.take(KEY_SIZE))),
                draw=Secret(reader.take(SEED_SIZE)),
            )
            state = AwaitRoster(
                agreement=agreement, me=me, burn=burn, keys=Once(keys), public=_public(keys)
            )
        case AwaitBoxes.STAGE:
            roster = reader.take(DIGEST_SIZE)
            sharing = _Sharing(
                mask_key=PrivateKey(Secret(reader.take(KEY_SIZE))),
                seed=Secret(reader.take(SEED_SIZE)),
                own_share=Secret(reader.take(2 * SHARE_SIZE)),
                peers={
                    reader.u32(): _Peer(
                        mask_key=reader.take(KEY_SIZE), opening=Secret(reader.take(KEY_SIZE))
                    )
                    for _ in range(reader.u32())
                },
            )
            state = AwaitBoxes(
                agreement=agreement, me=me, burn=burn, roster=roster, secrets=Once(sharing)
            )
        case AwaitSurvivors.STAGE:
            roster = reader.take(DIGEST_SIZE)
            shares = {
                reader.u32(): Secret(reader.take(2 * SHARE_SIZE)) for _ in range(reader.u32())
            }
            state = AwaitSurvivors(
                agreement=agreement,
                me=me,
                burn=burn,
                roster=roster,
                peers=frozenset(shares),
                shares=Once(shares),
            )
        case _:
            raise DecodeError(f"no client state has stage {stage}")
    reader.finish()
    return state


def _public(keys: _Keys) -> PublicKeys:
    return PublicKeys(mask=keys.mask.public, seal=keys.seal.public)


def _about(context: Context, sender: ClientId, recipient: ClientId) -> bytes:
    """What a box says on its outside: the header of the message that carries it, and the two."""
    return bytes([SealedShares.TYPE]) + context.header.to_bytes() + u32(sender) + u32(recipient)


def _half(share: Secret, *, first: bool) -> Secret:
    """Shares of the self-mask's seed and of the mask key lie one behind the other."""
    both = share.expose()
    return Secret(both[:SHARE_SIZE] if first else both[SHARE_SIZE:])


def _drawing(seed: Secret, label: bytes) -> Entropy:
    stream = Stream(seed, label)

    def draw(count: int) -> bytes:
        words = np.empty(-(-count // 8), np.uint64)
        stream.fill(words)
        return words.tobytes()[:count]

    return draw


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


def _frames_of(parts: Iterable[Words]) -> Iterator[Words]:
    """The same words in full frames and a last one; each is overwritten by the next."""
    frame = np.empty(FRAME_WORDS, np.uint64)
    filled = 0
    for part in parts:
        while len(part):
            taken = part[: FRAME_WORDS - filled]
            frame[filled : filled + len(taken)] = taken
            filled += len(taken)
            part = part[len(taken) :]
            if filled == FRAME_WORDS:
                yield frame
                filled = 0
    if filled:
        yield frame[:filled]
