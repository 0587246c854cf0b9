"""The server of one round: four collections, each closed by whoever keeps the clock.

    CollectKeys     .receive(Advertise)...     .close() -> Rosters,     CollectShares
    CollectShares   .receive(SealedShares)...  .close() -> ShareBoxes,  CollectVectors
    CollectVectors  .receive(MaskedFrames)...  .close() -> Survivors,   CollectReveals
    CollectReveals  .receive(Reveal)...        .close() -> Sum

``receive`` takes a message whole or raises ``RemoteProtocolError`` and stays as
it was; its sender may be treated as gone. ``close`` raises ``TooFewSurvivors``
when too few are left, and the round has then released nothing.

Memory: one accumulator of ``params.words`` words, whatever the number of
clients, and the shares.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from protocols.bonawitz.messages import (
    Advertise,
    MaskedFrame,
    PublicKeys,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Survivors,
    frame_sizes,
)
from protocols.bonawitz.params import Agreement, ClientId, Context
from protocols.burn import Burn
from protocols.errors import LocalProtocolError, RemoteProtocolError, TooFewSurvivors
from protocols.primitives.agree import PrivateKey, refuse_low_order
from protocols.primitives.prg import Mask, Masks, Suite
from protocols.primitives.shamir import combine
from protocols.secrets import Secret

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What a round releases.

    Attributes:
      words: the survivors' vectors added up modulo 2**64.
      survivors: whose vectors those are, in order.
    """

    words: NDArray[np.uint64] = field(repr=False)
    survivors: tuple[ClientId, ...]


class Unmask(Protocol):
    """How masks are taken off; :func:`unmask` is the plain way. It sees mask seeds."""

    def __call__(self, words: NDArray[np.uint64], masks: Sequence[Mask], suite: Suite) -> None:
        """Apply ``masks`` to ``words`` in place."""


def unmask(words: NDArray[np.uint64], masks: Iterable[Mask], suite: Suite) -> None:
    """Apply ``masks`` to ``words`` in place, on this core."""
    Masks(masks, suite).apply_to(words)


class _Stage:
    """One message from each client, until closed."""

    def __init__(self, agreement: Agreement) -> None:
        self.agreement = agreement
        self._closed = False

    def _open(self) -> None:
        if self._closed:
            raise LocalProtocolError(f"{type(self).__name__} is closed; late messages are dropped")

    def _close(self, left: int, needed: int) -> None:
        self._open()
        self._closed = True
        if left < needed:
            raise TooFewSurvivors(
                f"{left} clients left after {type(self).__name__}, "
                f"{needed} needed; nothing was released"
            )

    @staticmethod
    def _admit(client: ClientId, expected: Mapping[ClientId, object], seen: Iterable[int]) -> None:
        if client not in expected:
            raise RemoteProtocolError(f"client {client} is not expected at this stage")
        if client in seen:
            raise RemoteProtocolError(f"client {client} has already answered")


class CollectKeys(_Stage):
    """AdvertiseKeys: who takes part."""

    def __init__(self, agreement: Agreement) -> None:
        super().__init__(agreement)
        self._keys: dict[ClientId, PublicKeys] = {}
        self._taken: set[bytes] = set()

    def receive(self, message: bytes) -> ClientId:
        """Take an ``Advertise``; returns its sender.

        Raises:
          RemoteProtocolError: a second one, a key of low order, a key that another
            client has, or one client more than ``params.clients``.
        """
        self._open()
        advertise = Advertise.from_bytes(message, expect=self.agreement.header)
        if advertise.sender in self._keys:
            raise RemoteProtocolError(f"client {advertise.sender} has already advertised")
        if len(self._keys) == self.agreement.params.clients:
            raise RemoteProtocolError(
                f"the round is full: {self.agreement.params.clients} clients have advertised"
            )
        theirs = {advertise.keys.mask, advertise.keys.seal}
        if len(theirs) < 2 or theirs & self._taken:
            raise RemoteProtocolError(f"client {advertise.sender} advertises a key twice")
        for key in theirs:
            refuse_low_order(key)
        self._taken |= theirs
        self._keys[advertise.sender] = advertise.keys
        return advertise.sender

    def close(self) -> tuple[dict[ClientId, bytes], "CollectShares"]:
        """The roster for each client, and the next stage."""
        self._close(len(self._keys), self.agreement.params.needed)
        roster = Roster(header=self.agreement.header, entries=dict(sorted(self._keys.items())))
        message = roster.to_bytes()
        return dict.fromkeys(roster.entries, message), CollectShares(self.agreement, roster)


class CollectShares(_Stage):
    """ShareKeys: every client's secrets, shared among the roster."""

    def __init__(self, agreement: Agreement, roster: Roster) -> None:
        super().__init__(agreement)
        self._roster = roster
        self._boxes: dict[ClientId, dict[ClientId, bytes]] = {}

    def receive(self, message: bytes) -> ClientId:
        """Take a ``SealedShares``; returns its sender.

        Raises:
          RemoteProtocolError: not one box for each other client of the roster.
        """
        self._open()
        shares = SealedShares.from_bytes(message, expect=self.agreement.header)
        self._admit(shares.sender, self._roster.entries, self._boxes)
        if shares.boxes.keys() != self._roster.entries.keys() - {shares.sender}:
            raise RemoteProtocolError(
                f"client {shares.sender} sealed {len(shares.boxes)} boxes, "
                f"not one for each of its {len(self._roster.entries) - 1} peers"
            )
        self._boxes[shares.sender] = shares.boxes
        return shares.sender

    def close(self) -> tuple[dict[ClientId, bytes], "CollectVectors"]:
        """The boxes for each client that shared, and the next stage."""
        self._close(len(self._boxes), self.agreement.params.needed)
        senders = sorted(self._boxes)
        messages = {
            recipient: ShareBoxes(
                header=self.agreement.header,
                recipient=recipient,
                boxes={
                    sender: self._boxes[sender][recipient]
                    for sender in senders
                    if sender != recipient
                },
            ).to_bytes()
            for recipient in senders
        }
        keys = {sender: self._roster.entries[sender].mask for sender in senders}
        return messages, CollectVectors(self.agreement, self._roster, keys)


class CollectVectors(_Stage):
    """MaskedInput: the masked vectors, added up as they arrive."""

    def __init__(
        self, agreement: Agreement, roster: Roster, mask_keys: Mapping[ClientId, bytes]
    ) -> None:
        super().__init__(agreement)
        self._roster = roster
        self._mask_keys = mask_keys
        self._total = np.zeros(agreement.params.words + 1, np.uint64)
        self._sizes = frame_sizes(len(self._total))
        self._alive: set[ClientId] = set()

    def receive(self, frames: Sequence[bytes]) -> ClientId:
        """Take all frames of one client; returns their sender.

        The frames are looked through before the first is added, so an upload
        that breaks off leaves no trace. They may lie in a file: one is in
        memory at a time.

        Raises:
          RemoteProtocolError: frames missing, repeated, out of order, too long,
            of several clients, or of one that is not expected.
        """
        self._open()
        if len(frames) != len(self._sizes):
            raise RemoteProtocolError(f"{len(frames)} frames, expected {len(self._sizes)}")
        senders = {self._decode(frames, index).sender for index in range(len(frames))}
        if len(senders) != 1:
            raise RemoteProtocolError(f"frames of several clients: {sorted(senders)}")
        (sender,) = senders
        self._admit(sender, self._mask_keys, self._alive)
        begin = 0
        self._closed = True  # a failure below leaves a part in the total: it must not come out
        for index, size in enumerate(self._sizes):
            self._total[begin : begin + size] += self._decode(frames, index).words
            begin += size
        self._closed = False
        self._alive.add(sender)
        return sender

    def _decode(self, frames: Sequence[bytes], index: int) -> MaskedFrame:
        return MaskedFrame.from_bytes(
            frames[index], expect=self.agreement.header, index=index, count=self._sizes[index]
        )

    def close(self, burn: Burn | None = None) -> tuple[bytes, "CollectReveals"]:
        """The survivors, to be sent to each of them, and the next stage.

        Args:
          burn: writes the set down before it is sent, so that a server that was
            restarted cannot name another one in the same round.
        """
        self._close(len(self._alive), self.agreement.params.needed)
        message = Survivors(header=self.agreement.header, alive=frozenset(self._alive)).to_bytes()
        place = self.agreement.header.to_bytes()
        if burn is not None and not burn(place, SURVIVORS_STAGE, hashlib.sha256(message).digest()):
            raise LocalProtocolError(
                "another set of survivors was named in this round; start a new session"
            )
        return message, CollectReveals(
            self.agreement,
            context=self.agreement.context(self._roster.digest()),
            holders=tuple(self._roster.entries),
            mask_keys=self._mask_keys,
            alive=frozenset(self._alive),
            total=self._total,
        )


SURVIVORS_STAGE = 0  # in a burn store, where clients have 1, 2, 3


class CollectReveals(_Stage):
    """Unmask: enough shares to take every mask off the sum."""

    def __init__(
        self,
        agreement: Agreement,
        *,
        context: Context,
        holders: tuple[ClientId, ...],
        mask_keys: Mapping[ClientId, bytes],
        alive: frozenset[ClientId],
        total: NDArray[np.uint64],
    ) -> None:
        super().__init__(agreement)
        self._context = context
        self._number = {client: number for number, client in enumerate(holders, 1)}
        self._mask_keys = mask_keys
        self._alive = alive
        self._total = total
        self._shares: dict[ClientId, dict[ClientId, Secret]] = {}

    def receive(self, message: bytes) -> ClientId:
        """Take a ``Reveal``; returns its sender.

        Raises:
          RemoteProtocolError: not from a survivor, or not one share of every
            client that shared.
        """
        self._open()
        reveal = Reveal.from_bytes(message, expect=self.agreement.header)
        self._admit(reveal.sender, dict.fromkeys(self._alive), self._shares)
        if reveal.shares.keys() != self._mask_keys.keys():
            raise RemoteProtocolError(
                f"client {reveal.sender} reveals {len(reveal.shares)} shares, "
                f"not one of each of the {len(self._mask_keys)} clients that shared"
            )
        self._shares[reveal.sender] = reveal.shares
        return reveal.sender

    def close(self, unmask: Unmask = unmask) -> Sum:
        """Take the masks off.

        Raises:
          TooFewSurvivors: fewer shares than the threshold. Nothing is released.
          RemoteProtocolError: a rebuilt key is not the one advertised, or the
            check word is not the number of survivors: some client lied or
            erred. Nothing is released.
        """
        self._close(len(self._shares), self.agreement.params.threshold)
        masks = self._masks()
        unmask(self._total, masks, self.agreement.params.suite)
        check = int(self._total[-1])
        if check != len(self._alive):
            raise RemoteProtocolError(
                f"the check word does not count the {len(self._alive)} survivors: shares or "
                "vectors are wrong, or clients were shown different public inputs"
            )
        return Sum(words=self._total[:-1], survivors=tuple(sorted(self._alive)))

    def _masks(self) -> list[Mask]:
        """Every mask that is still in the total, turned around."""
        clients = sorted(self._mask_keys)
        holders = sorted(self._shares)[: self.agreement.params.threshold]
        numbers = [self._number[holder] for holder in holders]
        rebuilt = combine(
            numbers,
            [[self._shares[holder][client].expose() for holder in holders] for client in clients],
        )
        masks = []
        for client, secret in zip(clients, rebuilt, strict=True):
            if client in self._alive:
                label = self._context.self_mask(client)
                masks.append(Mask(seed=secret, label=label, subtract=True))
                continue
            key = PrivateKey(secret)
            if key.public != self._mask_keys[client]:
                raise RemoteProtocolError(
                    f"the shares of client {client} rebuild another key than it advertised"
                )
            for peer in sorted(self._alive):
                label = self._context.pair(client, peer)
                (seed,) = key.agree(self._mask_keys[peer], label)
                masks.append(Mask(seed=seed, label=label, subtract=client < peer))
        return masks
