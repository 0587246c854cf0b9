"""The server of a session: collections, each closed by whoever keeps the clock.

Once a session, threshold only:

    CollectCommitments .receive(Advertise)...  .close() -> Roster,                CollectOpenings
    CollectOpenings    .receive(Opening)...    .close() -> Openings, ShareBoxes,  CollectiveKey

Each round:

    CollectUploads     .receive(Frames)...     .close_shared() -> SharedSum
                                               .close_threshold(alive) -> Request, CollectPartials
    CollectPartials    .receive(Partial)...    .close() -> Sum

``receive`` takes a message whole or raises ``RemoteProtocolError`` and stays as it was.
``close`` raises ``TooFewSurvivors`` when too few are left, and then nothing was opened.

Memory: one sum, and one upload while it arrives, whatever the number of clients.
"""

import hashlib
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from protocols.burn import Burn
from protocols.ckks.engine import Sums, Values
from protocols.ckks.keys import (
    Chunks,
    CollectiveKey,
    arithmetic,
    check_opening,
    finish,
    in_turn,
    partial,
)
from protocols.ckks.messages import (
    REQUEST_STAGE,
    Advertise,
    Entry,
    Frame,
    Opened,
    Opening,
    Openings,
    Partial,
    Request,
    Roster,
    ShareBoxes,
    SharedSum,
    seeds_name_uploads,
)
from protocols.ckks.params import DIGEST_SIZE, Agreement, Model
from protocols.collect import Collect
from protocols.errors import (
    InputError,
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from protocols.primitives.agree import refuse_low_order
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.wire import ClientId


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What a round releases.

    Attributes:
      values: the survivors' vectors added up, with the noise of the holders: words, or reals
        under SEAL.
      survivors: whose vectors those are, in order.
    """

    values: Values = field(repr=False)
    survivors: tuple[ClientId, ...]


class _Stage(Collect[Agreement]):
    PARTY = "party"
    NOTHING = "nothing was opened"

    def __init__(self, agreement: Agreement, model: Model) -> None:
        if agreement.params.model is not model:
            raise InputError(f"params.model must be {model.name} for {type(self).__name__}")
        super().__init__(agreement)


class CollectCommitments(_Stage):
    """Every holder commits to its part of the key.

    Args:
      holders: all clients or a committee, as many as agreed. All of them must take part in
        the key's making; later ``threshold`` are enough.
    """

    def __init__(self, agreement: Agreement, holders: Collection[ClientId]) -> None:
        super().__init__(agreement, Model.THRESHOLD)
        self._holders = frozenset(holders)
        if len(self._holders) != agreement.params.holders:
            raise InputError(
                f"{len(self._holders)} holders are named, {agreement.params.holders} were agreed"
            )
        self._entries: dict[ClientId, Entry] = {}

    def receive(self, message: bytes) -> ClientId:
        """Take an ``Advertise``; returns its sender.

        Raises:
          RemoteProtocolError: a stranger, a second one, or a sealing key of low order or
            that another holder has.
        """
        self._open()
        advertise = Advertise.from_bytes(message, expect=self.agreement.key_header)
        sender, entry = advertise.sender, advertise.entry
        self._admit(sender, self._holders, self._entries)
        refuse_low_order(entry.seal_key)
        if any(entry.seal_key == other.seal_key for other in self._entries.values()):
            raise RemoteProtocolError(f"holder {sender} advertises the key of another")
        self._entries[sender] = entry
        return sender

    def close(self) -> tuple[bytes, "CollectOpenings"]:
        """The roster, to be sent to each holder, and the next stage."""
        self._close(len(self._entries), len(self._holders), "holders")
        roster = Roster(header=self.agreement.key_header, entries=self._entries)
        return roster.to_bytes(), CollectOpenings(self.agreement, roster)


class CollectOpenings(_Stage):
    """Every holder opens its commitment, and shares its secret."""

    def __init__(self, agreement: Agreement, roster: Roster) -> None:
        super().__init__(agreement, Model.THRESHOLD)
        self._roster = roster
        self._openings: dict[ClientId, Opening] = {}

    def receive(self, message: bytes) -> ClientId:
        """Take an ``Opening``; returns its sender.

        Raises:
          RemoteProtocolError: it opens another key than its sender committed to, or there is
            not one box for each other holder.
        """
        self._open()
        opening = Opening.from_bytes(
            message, expect=self.agreement.key_header, params=self.agreement.params
        )
        sender, entries = opening.sender, self._roster.entries
        self._admit(sender, entries, self._openings)
        check_opening(self.agreement, sender, self._opened(opening))
        if opening.boxes.keys() != entries.keys() - {sender}:
            raise RemoteProtocolError(
                f"holder {sender} sealed {len(opening.boxes)} boxes, not one for each other holder"
            )
        self._openings[sender] = opening
        return sender

    def _opened(self, opening: Opening) -> Opened:
        commitment = self._roster.entries[opening.sender].commitment
        return Opened(commitment=commitment, blind=opening.blind, share=opening.share)

    def close(self) -> tuple[bytes, dict[ClientId, bytes], CollectiveKey]:
        """The openings for all clients and holders, the boxes for each holder, and the key.

        Raises:
          TooFewSurvivors: an opening is missing. The session is at its end: whoever has seen
            the others' may not choose again.
        """
        self._close(len(self._openings), len(self._roster.entries), "holders")
        header = self.agreement.key_header
        openings = Openings(
            header=header,
            entries={sender: self._opened(self._openings[sender]) for sender in self._senders},
        )
        boxes = {
            recipient: ShareBoxes(
                header=header,
                recipient=recipient,
                boxes={
                    sender: self._openings[sender].boxes[recipient]
                    for sender in self._senders
                    if sender != recipient
                },
            ).to_bytes()
            for recipient in self._senders
        }
        return openings.to_bytes(), boxes, CollectiveKey(self.agreement, openings)

    @property
    def _senders(self) -> list[ClientId]:
        return sorted(self._openings)


class CollectUploads(_Stage):
    """Encrypted vectors, added up as they arrive.

    Args:
      key: the collective key, or the digest of the shared one.
      clients: who may send.
    """

    def __init__(
        self,
        agreement: Agreement,
        key: CollectiveKey | bytes,
        clients: Container[ClientId],
    ) -> None:
        collective = isinstance(key, CollectiveKey)
        super().__init__(agreement, Model.THRESHOLD if collective else Model.SHARED_KEY)
        if isinstance(key, CollectiveKey):
            self._context = key.context(agreement)
        elif len(key) == DIGEST_SIZE:
            self._context = agreement.context(key)
        else:
            raise InputError(f"a key's digest has {len(key)} bytes, expected {DIGEST_SIZE}")
        self._key, self._clients = key, clients
        self._summands: dict[ClientId, bytes] = {}
        self._sums = arithmetic(agreement).sums()

    def receive(self, frames: Iterable[bytes]) -> ClientId:
        """Take all frames of one client; returns their sender.

        They are added once the last of them was found good: an upload that breaks off
        leaves no trace.

        Raises:
          RemoteProtocolError: frames missing, repeated, out of order, of several clients or
            of one that is not expected; another session, round, context or key; a residue
            not below its prime, or a ciphertext that hides nothing.
        """
        self._open()
        params, digest = self.agreement.params, hashlib.sha256()
        sender, parts, seeds = -1, list[Any](), set[bytes]()
        for index, data in enumerate(frames):
            if index == params.chunks:
                raise RemoteProtocolError(f"more than {params.chunks} frames of client {sender}")
            frame = Frame.from_bytes(
                data,
                expect=self.agreement.header,
                context=self._context,
                index=index,
                params=params,
            )
            if index == 0:
                sender = frame.sender
                self._admit(sender, self._clients, self._summands)
                if len(self._summands) == params.clients:
                    raise RemoteProtocolError(f"the sum is full: {params.clients} clients")
            if frame.sender != sender:
                raise RemoteProtocolError(f"frames of clients {sender} and {frame.sender}")
            parts.append(self._sums.read(index, memoryview(frame.ciphertext)))
            seeds.add(frame.ciphertext[:DIGEST_SIZE])
            digest.update(data)
        if len(parts) < params.chunks:
            raise RemoteProtocolError(f"{len(parts)} frames, expected {params.chunks}")
        name = digest.digest()
        if seeds_name_uploads(params):
            name, *others = seeds
            if others:
                raise RemoteProtocolError(f"frames of client {sender} with several seeds")
        if name in self._summands.values():
            raise RemoteProtocolError(f"client {sender} sends the upload of another")
        for index, part in enumerate(parts):
            self._sums.add(index, part)
        self._summands[sender] = name
        return sender

    def close_shared(self, burn: Burn | None = None) -> bytes:
        """The sum, to be sent to every client: a ``SharedSum``.

        Args:
          burn: writes it down before it is sent, so that a server that was restarted cannot
            have another one opened in the same round.
        """
        if isinstance(self._key, CollectiveKey):
            raise LocalProtocolError("the holders open this sum: call close_threshold")
        self._finish()
        chunks = range(self.agreement.params.chunks)
        message = SharedSum(
            header=self.agreement.header,
            context=self._context,
            summands=self._summands,
            ciphertexts=b"".join(map(self._sums.shared, chunks)),
        ).to_bytes()
        self._write_down(message, burn, REQUEST_STAGE, "sum was sent")
        return message

    def close_threshold(
        self, alive: Collection[ClientId], burn: Burn | None = None
    ) -> tuple[bytes, "CollectPartials"]:
        """The request, to be sent to each holder alive, and the next stage.

        Args:
          alive: holders that will answer; the same in every round of the session, since the
            first answer says that the keys of all others may be rebuilt.
          burn: as in :meth:`close_shared`.
        """
        if not isinstance(self._key, CollectiveKey):
            raise LocalProtocolError("the clients open this sum: call close_shared")
        params, left = self.agreement.params, frozenset(alive)
        if strangers := left - set(self._key.holders):
            raise LocalProtocolError(f"named as alive, and no holders: {sorted(strangers)}")
        self._finish()
        if len(left) < params.threshold:
            raise TooFewSurvivors(
                f"{len(left)} holders left, {params.threshold} needed; nothing was opened"
            )
        message = Request(
            header=self.agreement.header,
            context=self._context,
            alive=left,
            summands=self._summands,
            seconds=b"".join(map(self._sums.second, range(params.chunks))),
        )
        encoded = message.to_bytes()
        self._write_down(encoded, burn, REQUEST_STAGE, "sum was sent")
        return encoded, CollectPartials(self.agreement, self._key, message, self._sums)

    def _finish(self) -> None:
        self._close(len(self._summands), self.agreement.params.minimum_survivors, "clients")


class CollectPartials(_Stage):
    """The holders' parts of one decryption, added up as they arrive."""

    def __init__(
        self, agreement: Agreement, key: CollectiveKey, request: Request, sums: Sums
    ) -> None:
        super().__init__(agreement, Model.THRESHOLD)
        self._key, self._request, self._sums = key, request, sums
        self._shares: dict[ClientId, dict[ClientId, Secret]] = {}

    @property
    def _gone(self) -> list[ClientId]:
        return [holder for holder in self._key.holders if holder not in self._request.alive]

    def receive(self, messages: Iterable[bytes]) -> ClientId:
        """Take all ``Partial``s of one holder; returns their sender.

        They are added once the last of them was found good.

        Raises:
          RemoteProtocolError: not from a holder alive, a second answer, parts missing, repeated or
            out of order, or not one share of the key of each holder that is gone.
        """
        self._open()
        params, wanted = self.agreement.params, set(self._gone)
        sender, parts, shares = -1, list[Any](), dict[ClientId, Secret]()
        for index, data in enumerate(messages):
            if index == params.chunks:
                raise RemoteProtocolError(f"more than {params.chunks} parts of holder {sender}")
            answer = Partial.from_bytes(
                data, expect=self.agreement.header, index=index, params=params
            )
            if index == 0:
                sender, shares = answer.sender, dict(answer.shares)
                self._admit(sender, self._request.alive, self._shares)
            if answer.sender != sender:
                raise RemoteProtocolError(f"parts of holders {sender} and {answer.sender}")
            if answer.shares.keys() != (set() if index else wanted):
                raise RemoteProtocolError(
                    f"holder {sender} gives {len(answer.shares)} shares with part {index}; the "
                    f"first has one of each of the {len(wanted)} that are gone, the others none"
                )
            parts.append(self._sums.read_part(index, memoryview(answer.part)))
        if len(parts) < params.chunks:
            raise RemoteProtocolError(f"{len(parts)} parts, expected {params.chunks}")
        for index, part in enumerate(parts):
            self._sums.add_part(index, part)
        self._shares[sender] = shares
        return sender

    def close(self, *, chunks: Chunks = in_turn) -> Sum:
        """Open the sum.

        Args:
          chunks: another way to work through the chunks of a holder whose key is rebuilt.

        Raises:
          TooFewSurvivors: a holder that was asked has not answered. Nobody else can
            answer for it: the others have not given their shares of its key, and never will.
          RemoteProtocolError: shares rebuild another key than their owner published, or the
            sum is larger than its summands can make it.
        """
        params = self.agreement.params
        self._close(len(self._shares), len(self._request.alive), "holders")
        for holder, seed in self._rebuilt().items():
            if not self._key.is_of(holder, seed):
                raise RemoteProtocolError(
                    f"the shares of holder {holder} rebuild another key than it published"
                )
            parts = partial(self.agreement, holder, seed, self._request.seconds, None, chunks)
            for index, part in enumerate(parts):
                self._sums.add_part(index, self._sums.read_part(index, memoryview(part)))
        survivors = tuple(sorted(self._request.summands))
        opened = map(self._sums.values, range(params.chunks))
        values = finish(self.agreement, opened, len(survivors))
        return Sum(values=values, survivors=survivors)

    def _rebuilt(self) -> dict[ClientId, Secret]:
        gone, places = self._gone, {h: n for n, h in enumerate(self._key.holders, 1)}
        if not gone:
            return {}
        helpers = sorted(self._shares)[: self.agreement.params.threshold]
        shares = [[self._shares[helper][holder].expose() for helper in helpers] for holder in gone]
        rebuilt = combine([places[helper] for helper in helpers], shares)
        return dict(zip(gone, rebuilt, strict=True))
