"""The server of one round: collections, each closed by whoever keeps the clock.

    CollectKeys        .receive(Advertise)...        .close() -> Rosters,     CollectShares
    CollectShares      .receive(SealedShares)...     .close() -> ShareBoxes,  CollectVectors
    CollectVectors     .receive(MaskedFrames)...     .close() -> Survivors,   CollectReveals
    CollectReveals     .receive(Reveal)...           .close() -> Sum

and where the clients do not trust the server:

    CollectVectors                      .close_to_sign() -> Survivors,   CollectSignatures
    CollectSignatures  .receive(SignedSurvivors)...  .close() -> Signatures,  CollectReveals

``receive`` takes a message whole or raises ``RemoteProtocolError`` and stays as
it was; its sender may be treated as gone. ``close`` raises ``TooFewSurvivors``
when too few are left, and the round has then released nothing.

Memory: one accumulator of ``params.words`` words, whatever the number of
clients, and the shares. Where clients pick their holders the frames that were handed in are
kept besides, until all are in: whoever turns out to lie is taken back out of the sum. They may
lie in a file.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from protocols.bonawitz.graph import Graph, GraphPlan, Picked, draw
from protocols.bonawitz.messages import (
    FRAME_WORDS,
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
    frame_sizes,
)
from protocols.bonawitz.params import Agreement, Context
from protocols.burn import Burn
from protocols.collect import Collect
from protocols.entropy import Entropy, system
from protocols.errors import (
    InputError,
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
    WrongShares,
)
from protocols.primitives.agree import PrivateKey, refuse_low_order
from protocols.primitives.prg import Expand, Mask, Masks
from protocols.primitives.shamir import combine, correct
from protocols.primitives.sign import refuse_shared, verify
from protocols.secrets import Secret
from protocols.wire import CHECKSUM_SIZE, ClientId, read_subset, write_subset


@dataclass(frozen=True, slots=True, order=True)
class Dispute:
    """A wrong share: its holder revealed another than it was sealed, or its dealer sealed it so.

    One of the two lied. If at most c clients lie, whoever is in disputes with more than c others
    is one of them; of a single dispute nobody can tell.

    Attributes:
      holder: who revealed it.
      dealer: whose secret it is a share of.
    """

    holder: ClientId
    dealer: ClientId


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What a round releases.

    Attributes:
      words: the survivors' vectors added up modulo 2**64.
      survivors: whose vectors those are, in order.
      disputes: shares that were wrong, and that the others have corrected.
    """

    words: NDArray[np.uint64] = field(repr=False)
    survivors: tuple[ClientId, ...]
    disputes: tuple["Dispute", ...] = ()


class CollectKeys(Collect[Agreement]):
    """AdvertiseKeys: who takes part.

    Args:
      identities: with ``params.active``: public signing keys. A client whose keys are
        not signed is turned away here, or else every other client refuses the round.
    """

    def __init__(
        self, agreement: Agreement, identities: Mapping[ClientId, bytes] | None = None
    ) -> None:
        super().__init__(agreement)
        if agreement.params.active is not bool(identities):
            raise InputError("identities must be given if active is True, and only then")
        self._identities = identities or {}
        refuse_shared(self._identities)
        self._keys: dict[ClientId, PublicKeys] = {}
        self._taken: set[bytes] = set()
        self._label = agreement.advertised_by()

    def receive(self, message: bytes) -> ClientId:
        """Take an ``Advertise``; returns its sender.

        Raises:
          RemoteProtocolError: a second one, a key of low order, a key that another
            client has, one client more than ``params.clients``, or no valid signature.
        """
        self._open()
        params = self.agreement.params
        advertise = Advertise.from_bytes(
            message, expect=self.agreement.header, signed=params.active
        )
        sender = advertise.sender
        if sender in self._keys:
            raise RemoteProtocolError(f"client {sender} has already advertised")
        if len(self._keys) == params.clients:
            raise RemoteProtocolError(
                f"the round is full: {params.clients} clients have advertised"
            )
        theirs = {advertise.keys.mask, advertise.keys.seal}
        if len(theirs) < 2 or theirs & self._taken:
            raise RemoteProtocolError(f"client {sender} advertises a key twice")
        for key in theirs:
            refuse_low_order(key)
        if params.active:
            if sender not in self._identities:
                raise RemoteProtocolError(f"client {sender} has no identity")
            check_keys(self._label(sender), sender, advertise.keys, self._identities[sender])
        self._taken |= theirs
        self._keys[sender] = advertise.keys
        return sender

    def close(self, entropy: Entropy = system) -> tuple[dict[ClientId, bytes], "CollectShares"]:
        """The roster for each client, and the next stage.

        Args:
          entropy: draws the sparse graph, 16 bytes a client.
        """
        params = self.agreement.params
        self._close(len(self._keys), params.minimum_survivors)
        try:
            plan = params.plan(len(self._keys))
        except InputError as error:
            raise TooFewSurvivors(f"{error}; nothing was released") from None
        self._enough(len(self._keys), params.needed(plan))
        roster = Roster(
            header=self.agreement.header,
            agreement=self.agreement.tag,
            entries=dict(sorted(self._keys.items())),
        )
        whole = plan.degree is None or plan.picks is not None
        graph = Picked({}) if plan.picks else draw(roster.entries, plan, entropy)
        if whole:
            rosters = dict.fromkeys(roster.entries, roster.to_bytes())
        else:
            digest = roster.digest()
            rosters = {
                client: roster.part(graph.neighbours(client) | {client}, digest).to_bytes()
                for client in roster.entries
            }
        return rosters, CollectShares(_Round(self.agreement, roster, plan, graph, self._identities))


@dataclass(frozen=True, slots=True)
class _Round:
    """What is settled once the keys are in."""

    agreement: Agreement
    roster: Roster
    plan: GraphPlan
    graph: Graph  # of clients' own picks: once they have shared
    identities: Mapping[ClientId, bytes]

    @property
    def members(self) -> list[ClientId]:
        """The roster, in order."""
        return list(self.roster.entries)

    @property
    def needed(self) -> int:
        return self.agreement.params.needed(self.plan)

    @property
    def context(self) -> Context:
        return self.agreement.context(self.roster.digest())


class CollectShares(Collect[Agreement]):
    """ShareKeys: every client's secrets, shared among the roster."""

    def __init__(self, settled: _Round) -> None:
        super().__init__(settled.agreement)
        self._round = settled
        self._boxes: dict[ClientId, dict[ClientId, bytes]] = {}

    def receive(self, message: bytes) -> ClientId:
        """Take a ``SealedShares``; returns its sender.

        Raises:
          RemoteProtocolError: it agrees to something else, or has not one box for each peer,
            or for as many others of the roster as every client picks.
        """
        self._open()
        shares = SealedShares.from_bytes(message, expect=self.agreement.header)
        roster, plan, sender = self._round.roster.entries, self._round.plan, shares.sender
        self._admit(sender, roster, self._boxes)
        check_agreed(self.agreement, shares.agreement, f"client {sender}")
        if plan.picks:
            right = shares.boxes.keys() <= roster.keys() - {sender}
            right, expected = right and len(shares.boxes) == plan.degree, plan.degree
        else:
            neighbours = self._round.graph.neighbours(sender)
            right, expected = shares.boxes.keys() == neighbours, len(neighbours)
        if not right:
            raise RemoteProtocolError(
                f"client {sender} sealed {len(shares.boxes)} boxes, "
                f"not one for each of its {expected} peers"
            )
        self._boxes[sender] = shares.boxes
        return sender

    def rebind(self, agreement: Agreement) -> "CollectShares":
        """The same shares, where they were collected before everything public was known.

        This collection is then closed. See ``AwaitBoxes.rebind``.

        Raises:
          LocalProtocolError: they are of another session, or of other parameters.
        """
        self._open()
        if not agreement.completes(self.agreement):
            raise LocalProtocolError("these shares were sealed under another agreement")
        self._closed = True
        bound = CollectShares(replace(self._round, agreement=agreement))
        bound._boxes = self._boxes
        return bound

    def close(self) -> tuple[dict[ClientId, bytes], "CollectVectors"]:
        """The boxes for each client that shared, and the next stage."""
        self._close(len(self._boxes), self._round.needed)
        settled, shared = self._round, b""
        if settled.plan.picks:
            settled = replace(settled, graph=Picked(self._boxes))
            shared = write_subset(self._boxes, settled.members)
        passed_on: dict[ClientId, dict[ClientId, bytes]] = {sender: {} for sender in self._boxes}
        for sender, boxes in self._boxes.items():
            for recipient in boxes.keys() & self._boxes.keys():
                passed_on[recipient][sender] = boxes[recipient]
        messages = {
            recipient: ShareBoxes(
                header=self.agreement.header,
                recipient=recipient,
                boxes=passed_on[recipient],
                shared=shared,
            ).to_bytes()
            for recipient in sorted(self._boxes)
        }
        return messages, CollectVectors(settled, frozenset(self._boxes))


class CollectVectors(Collect[Agreement]):
    """MaskedInput: the masked vectors, added up as they arrive."""

    def __init__(self, settled: _Round, sharers: frozenset[ClientId]) -> None:
        super().__init__(settled.agreement)
        self._round = settled
        self._sharers = sharers
        self._total = np.zeros(self.agreement.params.words + 1, np.uint64)
        self._sizes = frame_sizes(len(self._total))
        self._alive: set[ClientId] = set()
        self._dropped: list[ClientId] = []
        self._kept: dict[ClientId, tuple[Sequence[bytes], list[bytes]]] = {}  # with checksums
        self._marks: dict[ClientId, SignedSet] = {}
        self._included: dict[ClientId, frozenset[ClientId]] = {}

    def receive(self, frames: Sequence[bytes]) -> ClientId:
        """Take all frames of one client, and its mark if it picked its holders; returns who it is.

        Each is read once and added at once. They may lie in a file: one is in
        memory at a time. If a frame is invalid, the frames already added are read again
        and subtracted, so a broken upload leaves no trace; if that fails, this stage
        stays closed and its sum never comes out.

        Raises:
          RemoteProtocolError: frames missing, repeated, out of order, too long,
            of several clients, or of one that is not expected; no mark, one that is not its
            sender's, or of clients that it has no mask with.
        """
        self._open()
        if len(frames) != len(self._sizes) + self.marked:
            raise RemoteProtocolError(
                f"{len(frames)} frames, expected {len(self._sizes)}{' and a mark' * self.marked}"
            )
        mark = self._read_mark(frames[len(self._sizes)]) if self.marked else None
        self._closed = True
        sender, added = -1, list[bytes]()
        for index in range(len(self._sizes)):
            try:
                data = frames[index]
                frame = self._decode(data, index)
                if index == 0:
                    sender = frame.sender
                    self._admit(sender, self._sharers, self._alive)
                for other in (frame, mark) if mark else (frame,):
                    if other.sender != sender:
                        raise RemoteProtocolError(
                            f"frames of several clients: {sender} and {other.sender}"
                        )
            except Exception:  # a file's errors too; it is raised again
                for before, checksum in enumerate(added):
                    self._take_back(frames[before], before, checksum)
                self._closed = False
                raise
            self._words(index)[:] += frame.words
            added.append(data[-CHECKSUM_SIZE:])
        self._closed = False
        self._alive.add(sender)
        if mark:
            self._kept[sender] = frames, added
            self._marks[sender] = mark.mark
            self._included[sender] = read_subset(mark.mark.included, self._round.members)
        return sender

    def _read_mark(self, message: bytes) -> Mark:
        members, context = self._round.members, self._round.context
        mark = Mark.from_bytes(message, expect=self.agreement.header, size=len(members))
        sender = mark.sender
        self._admit(sender, self._sharers, self._alive)
        named = mark.mark.check(self._round.identities[sender], context.included(sender), members)
        if not named <= self._round.graph.neighbours(sender):
            raise RemoteProtocolError(f"the mark of client {sender} names others than its peers")
        return mark

    def _drop_conflicts(self) -> None:
        """Of two peers one of whom left out the other, not both may be named.

        Whoever has most of these complaints, for or against it, is dropped first: who seals
        rubbish or complains falsely has many, an honest client at most one for each liar.
        """
        conflicts: dict[ClientId, set[ClientId]] = {}
        for client in self._alive:
            for peer in self._round.graph.neighbours(client) & self._alive:
                if peer not in self._included[client]:
                    conflicts.setdefault(client, set()).add(peer)
                    conflicts.setdefault(peer, set()).add(client)
        while any(conflicts.values()):
            worst = max(sorted(conflicts), key=lambda client: len(conflicts[client]))
            for peer in conflicts.pop(worst):
                conflicts[peer].discard(worst)
            frames, checksums = self._kept[worst]
            for index, checksum in enumerate(checksums):
                self._take_back(frames[index], index, checksum)
            self._alive.discard(worst)
            self._dropped.append(worst)

    @property
    def alive(self) -> tuple[ClientId, ...]:
        """The clients whose vectors are in, in order."""
        return tuple(sorted(self._alive))

    @property
    def dropped(self) -> tuple[ClientId, ...]:
        """The clients whose vectors were taken out of the sum again, who had most conflicts first.

        Of two in conflict one lied, and who has many conflicts has lied in most of them.
        """
        return tuple(self._dropped)

    @property
    def marked(self) -> bool:
        """Whether a mark follows the frames, and those are kept until ``close_to_sign``."""
        return self._round.plan.picks is not None

    def _words(self, index: int) -> NDArray[np.uint64]:
        begin = index * FRAME_WORDS
        return self._total[begin : begin + self._sizes[index]]

    def _take_back(self, data: bytes, index: int, checksum: bytes) -> None:
        if data[-CHECKSUM_SIZE:] != checksum:
            raise LocalProtocolError(f"frame {index} reads differently now; start a new session")
        self._words(index)[:] -= self._decode(data, index).words

    def _decode(self, data: bytes, index: int) -> MaskedFrame:
        return MaskedFrame.from_bytes(
            data, expect=self.agreement.header, index=index, count=self._sizes[index]
        )

    def close(self, burn: Burn | None = None) -> tuple[dict[ClientId, bytes], "CollectReveals"]:
        """The survivors, to be sent to each of them, and the next stage.

        Args:
          burn: writes the set down before it is sent, so that a server that was
            restarted cannot name another one in the same round.

        Raises:
          LocalProtocolError: the clients want to sign first (``close_to_sign``), or
            another set was named before.
        """
        if self.agreement.params.active:
            raise LocalProtocolError("active is True, so clients sign first: call close_to_sign")
        return self._name(burn), self._reveals()

    def close_to_sign(
        self, burn: Burn | None = None
    ) -> tuple[dict[ClientId, bytes], "CollectSignatures"]:
        """Close the stage as ``close`` does, for clients that sign the set before they reveal.

        Returns:
          The survivors for each of them, with the marks that it needs to see; the next stage.
        """
        if not self.agreement.params.active:
            raise LocalProtocolError("active is False, so nothing is signed: call close")
        if self.marked:
            self._open()
            self._drop_conflicts()
            self._kept.clear()
        return self._name(burn), CollectSignatures(self._round, self._alive, self._reveals())

    def _name(self, burn: Burn | None) -> dict[ClientId, bytes]:
        self._close(len(self._alive), self._round.needed)
        alive, plan = frozenset(self._alive), self._round.plan
        whole = Survivors(header=self.agreement.header, alive=alive, members=self._round.members)
        message = whole.to_bytes()
        self._write_down(message, burn, SURVIVORS_STAGE, "set of survivors was named")
        if plan.degree is None:
            return dict.fromkeys(self.alive, message)
        if plan.picks:
            marks = {
                client: {peer: self._marks[peer] for peer in self._included[client] & alive}
                for client in self.alive
            }
            return {c: replace(whole, marks=marks[c]).to_bytes() for c in self.alive}
        return {client: self._part(whole, client).to_bytes() for client in self.alive}

    def _part(self, whole: Survivors, client: ClientId) -> Survivors:
        """What ``client`` is told in the sparse graph: of those it was shown, and how many more."""
        members = sorted(self._round.graph.neighbours(client) | {client})
        alive = whole.alive & frozenset(members)
        return replace(whole, alive=alive, members=members, unseen=len(whole.alive) - len(alive))

    def _reveals(self) -> "CollectReveals":
        return CollectReveals(
            self._round,
            self._sharers,
            frozenset(self._alive),
            self._total,
            self._included if self.marked else None,
        )


SURVIVORS_STAGE = 0  # in a burn store, where clients have 1 to 4


class CollectSignatures(Collect[Agreement]):
    """ConsistencyCheck: signatures of the survivors over the one set, passed on."""

    def __init__(
        self, settled: _Round, alive: Iterable[ClientId], reveals: "CollectReveals"
    ) -> None:
        super().__init__(settled.agreement)
        self._round = settled
        self._alive = frozenset(alive)
        self._reveals = reveals
        self._signatures: dict[ClientId, bytes] = {}

    def receive(self, message: bytes) -> ClientId:
        """Take a ``SignedSurvivors``; returns its sender.

        Raises:
          RemoteProtocolError: not from a survivor, or, where clients pick their holders, and
            are sent no more signatures than they need, no valid one.
        """
        self._open()
        signed = SignedSurvivors.from_bytes(message, expect=self.agreement.header)
        self._admit(signed.sender, self._alive, self._signatures)
        if self._round.plan.picks:
            body = write_subset(self._alive, self._round.members)
            identity = self._round.identities[signed.sender]
            verify(identity, self._round.context.survivors(), body, signed.signature)
        self._signatures[signed.sender] = signed.signature
        return signed.sender

    def close(self) -> tuple[dict[ClientId, bytes], "CollectReveals"]:
        """The signatures for each survivor that signed, and the next stage."""
        self._close(len(self._signatures), self._round.needed)
        passed_on = dict(sorted(self._signatures.items()))
        if self._round.plan.picks:
            enough = islice(passed_on.items(), self._round.plan.quorum)
            passed_on = dict(enough)
        message = Signatures(header=self.agreement.header, signatures=passed_on).to_bytes()
        return dict.fromkeys(sorted(self._signatures), message), self._reveals


class CollectReveals(Collect[Agreement]):
    """Unmask: enough shares to take every mask off the sum."""

    def __init__(
        self,
        settled: _Round,
        sharers: frozenset[ClientId],
        alive: frozenset[ClientId],
        total: NDArray[np.uint64],
        included: Mapping[ClientId, frozenset[ClientId]] | None,
    ) -> None:
        super().__init__(settled.agreement)
        self._included = included
        self._round = settled
        self._sharers = sharers
        self._alive = alive
        self._total = total
        self._shares: dict[ClientId, dict[ClientId, Secret]] = {}

    def receive(self, message: bytes) -> ClientId:
        """Take a ``Reveal``; returns its sender.

        Raises:
          RemoteProtocolError: not from a survivor, or a share of somebody of whom it has none.
        """
        self._open()
        reveal = Reveal.from_bytes(message, expect=self.agreement.header)
        self._admit(reveal.sender, self._alive, self._shares)
        if strangers := reveal.shares.keys() - self._holds(reveal.sender):
            raise RemoteProtocolError(
                f"client {reveal.sender} reveals shares of {sorted(strangers)[:9]}, has none"
            )
        self._shares[reveal.sender] = reveal.shares
        return reveal.sender

    def _holds(self, holder: ClientId) -> Set[ClientId]:
        """Whose shares it may have; of whoever sealed it no good box it has none."""
        if self._included is not None:
            graph = self._round.graph
            return {peer for peer in self._included[holder] if holder in graph.holders(peer)}
        held = self._round.graph.neighbours(holder) & self._sharers
        return held | {holder} if self._round.plan.degree is None else held

    def _masked_with(self, client: ClientId) -> Iterable[ClientId]:
        """The survivors that have masked with ``client``."""
        near = sorted(self._round.graph.neighbours(client) & self._alive)
        if self._included is None:
            return near
        return [peer for peer in near if client in self._included[peer]]

    def close(self, expand: Expand = Masks) -> Sum:
        """Take the masks off.

        A rebuilt mask key must be the one that was advertised, and the check word must count the
        survivors. Where one does not, wrong shares were revealed: they are found and corrected
        as long as there are two shares to spare for each.

        Args:
          expand: another way to apply masks. It sees their seeds.

        Raises:
          TooFewSurvivors: fewer shares of some secret than the threshold. Nothing
            is released.
          WrongShares: of some client's secret too many are wrong. Nothing is released.
          RemoteProtocolError: vectors are wrong: some client lied or erred. Nothing is released.
        """
        self._close(len(self._shares), self._round.plan.threshold)
        suite, disputes = self.agreement.params.suite, set[Dispute]()
        try:
            masks = self._masks(self._rebuilt())
            expand(masks, suite).apply_to(self._total)
        except RemoteProtocolError:
            masks = []
        if not masks or not self._counts():
            secrets, disputes = self._corrected()
            if masks and not disputes:
                raise self._wrong()
            back = [replace(mask, subtract=not mask.subtract) for mask in masks]
            expand(back + self._masks(secrets), suite).apply_to(self._total)
            if not self._counts():
                raise self._wrong()
        return Sum(
            words=self._total[:-1],
            survivors=tuple(sorted(self._alive)),
            disputes=tuple(sorted(disputes)),
        )

    def _counts(self) -> bool:
        return int(self._total[-1]) == len(self._alive)

    def _wrong(self) -> RemoteProtocolError:
        return RemoteProtocolError(
            f"the check word does not count the {len(self._alive)} survivors: shares or "
            "vectors are wrong, or clients were shown different public inputs"
        )

    def _masks(self, secrets: Mapping[ClientId, Secret]) -> list[Mask]:
        """Every mask that is still in the total, turned around."""
        context, keys = self._round.context, self._round.roster.entries
        masks = []
        for client, secret in secrets.items():
            if client in self._alive:
                label = context.self_mask(client)
                masks.append(Mask(seed=secret, label=label, subtract=True))
                continue
            key = PrivateKey(secret)
            if key.public != keys[client].mask:
                raise RemoteProtocolError(
                    f"the shares of client {client} rebuild another key than it advertised"
                )
            for peer in self._masked_with(client):
                label = context.pair(client, peer)
                (seed,) = key.agree(keys[peer].mask, label)
                masks.append(Mask(seed=seed, label=label, subtract=client < peer))
        return masks

    def _rebuilt(self) -> dict[ClientId, Secret]:
        """The self-mask's seed of who is alive, the mask key of who is gone; lowest numbers."""
        rebuilt: dict[ClientId, Secret] = {}
        threshold = self._round.plan.threshold
        for holders, numbers, clients in self._sets():
            rows = [
                [self._shares[holder][client].expose() for holder in holders[:threshold]]
                for client in clients
            ]
            rebuilt |= zip(clients, combine(numbers[:threshold], rows), strict=True)
        return rebuilt

    def _corrected(self) -> tuple[dict[ClientId, Secret], set[Dispute]]:
        """The same from all the shares there are, and which of them were wrong."""
        corrected: dict[ClientId, Secret] = {}
        disputes: set[Dispute] = set()
        beyond: list[ClientId] = []
        for holders, numbers, clients in self._sets():
            rows = [
                [self._shares[holder][client].expose() for holder in holders] for client in clients
            ]
            secrets, wrong = correct(numbers, rows, self._round.plan.threshold)
            for client, secret, places in zip(clients, secrets, wrong, strict=True):
                if secret is None:
                    beyond.append(client)
                    continue
                corrected[client] = secret
                disputes |= {Dispute(holders[place], client) for place in places}
        if beyond:
            raise WrongShares(beyond)
        return corrected, disputes

    def _sets(self) -> Iterable[tuple[tuple[ClientId, ...], tuple[int, ...], list[ClientId]]]:
        """Holders, their numbers, and the clients whose shares they have under these numbers."""
        sets: dict[tuple[tuple[ClientId, ...], tuple[int, ...]], list[ClientId]] = {}
        threshold = self._round.plan.threshold
        for client in sorted(self._sharers):
            if client not in self._alive and not self._masked_with(client):
                continue  # nobody masked with it
            answers = [
                (holder, number)
                for number, holder in enumerate(self._round.graph.holders(client), 1)
                if client in self._shares.get(holder, ())
            ]
            if len(answers) < threshold:
                raise TooFewSurvivors(
                    f"{len(answers)} shares of client {client} are left, {threshold} needed; "
                    "nothing was released"
                )
            holders, numbers = zip(*answers, strict=True)
            sets.setdefault((holders, numbers), []).append(client)
        return [(holders, numbers, clients) for (holders, numbers), clients in sets.items()]
