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
clients, and the shares.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protocols.bonawitz.graph import Graph, GraphPlan, draw
from protocols.bonawitz.messages import (
    FRAME_WORDS,
    Advertise,
    MaskedFrame,
    PublicKeys,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Signatures,
    SignedSurvivors,
    Survivors,
    check_keys,
    frame_sizes,
    refuse_shared,
)
from protocols.bonawitz.params import Agreement, Context
from protocols.burn import Burn
from protocols.collect import Collect
from protocols.entropy import Entropy, system
from protocols.errors import (
    LocalProtocolError,
    ParameterError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from protocols.primitives.agree import PrivateKey, refuse_low_order
from protocols.primitives.prg import Expand, Mask, expand
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.wire import CHECKSUM_SIZE, ClientId


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What a round releases.

    Attributes:
      words: the survivors' vectors added up modulo 2**64.
      survivors: whose vectors those are, in order.
    """

    words: NDArray[np.uint64] = field(repr=False)
    survivors: tuple[ClientId, ...]


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
            raise ParameterError("an active server, and only that, needs the clients' identities")
        self._identities = identities or {}
        refuse_shared(self._identities)
        self._keys: dict[ClientId, PublicKeys] = {}
        self._taken: set[bytes] = set()

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
            check_keys(self.agreement, sender, advertise.keys, self._identities[sender])
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
        except ParameterError as error:
            raise TooFewSurvivors(f"{error}; nothing was released") from None
        self._enough(len(self._keys), params.needed(plan))
        roster = Roster(header=self.agreement.header, entries=dict(sorted(self._keys.items())))
        graph = draw(roster.entries, plan, entropy)
        if plan.degree is None:
            rosters = dict.fromkeys(roster.entries, roster.to_bytes())
        else:
            digest = roster.digest()
            rosters = {
                client: roster.part(graph.neighbours(client) | {client}, digest).to_bytes()
                for client in roster.entries
            }
        return rosters, CollectShares(_Round(self.agreement, roster, plan, graph))


@dataclass(frozen=True, slots=True)
class _Round:
    """What is settled once the keys are in."""

    agreement: Agreement
    roster: Roster
    plan: GraphPlan
    graph: Graph

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
          RemoteProtocolError: not one box for each other client of the roster.
        """
        self._open()
        shares = SealedShares.from_bytes(message, expect=self.agreement.header)
        self._admit(shares.sender, self._round.roster.entries, self._boxes)
        neighbours = self._round.graph.neighbours(shares.sender)
        if shares.boxes.keys() != neighbours:
            raise RemoteProtocolError(
                f"client {shares.sender} sealed {len(shares.boxes)} boxes, "
                f"not one for each of its {len(neighbours)} peers"
            )
        self._boxes[shares.sender] = shares.boxes
        return shares.sender

    def close(self) -> tuple[dict[ClientId, bytes], "CollectVectors"]:
        """The boxes for each client that shared, and the next stage."""
        self._close(len(self._boxes), self._round.needed)
        senders = sorted(self._boxes)
        messages = {
            recipient: ShareBoxes(
                header=self.agreement.header,
                recipient=recipient,
                boxes={
                    sender: self._boxes[sender][recipient]
                    for sender in self._round.graph.neighbours(recipient) & self._boxes.keys()
                },
            ).to_bytes()
            for recipient in senders
        }
        return messages, CollectVectors(self._round, frozenset(senders))


class CollectVectors(Collect[Agreement]):
    """MaskedInput: the masked vectors, added up as they arrive."""

    def __init__(self, settled: _Round, sharers: frozenset[ClientId]) -> None:
        super().__init__(settled.agreement)
        self._round = settled
        self._sharers = sharers
        self._total = np.zeros(self.agreement.params.words + 1, np.uint64)
        self._sizes = frame_sizes(len(self._total))
        self._alive: set[ClientId] = set()

    def receive(self, frames: Sequence[bytes]) -> ClientId:
        """Take all frames of one client; returns their sender.

        Each is read once and added at once. They may lie in a file: one is in
        memory at a time. If a frame is invalid, the frames already added are read again
        and subtracted, so a broken upload leaves no trace; if that fails, this stage
        stays closed and its sum never comes out.

        Raises:
          RemoteProtocolError: frames missing, repeated, out of order, too long,
            of several clients, or of one that is not expected.
        """
        self._open()
        if len(frames) != len(self._sizes):
            raise RemoteProtocolError(f"{len(frames)} frames, expected {len(self._sizes)}")
        self._closed = True
        sender, added = -1, list[bytes]()
        for index in range(len(frames)):
            try:
                data = frames[index]
                frame = self._decode(data, index)
                if index == 0:
                    sender = frame.sender
                    self._admit(sender, self._sharers, self._alive)
                if frame.sender != sender:
                    raise RemoteProtocolError(
                        f"frames of several clients: {sender} and {frame.sender}"
                    )
            except Exception:  # a file's errors too; it is raised again
                for before, checksum in enumerate(added):
                    self._take_back(frames[before], before, checksum)
                self._closed = False
                raise
            self._part(index)[:] += frame.words
            added.append(data[-CHECKSUM_SIZE:])
        self._closed = False
        self._alive.add(sender)
        return sender

    @property
    def alive(self) -> tuple[ClientId, ...]:
        """The clients whose vectors are in, in order."""
        return tuple(sorted(self._alive))

    def _part(self, index: int) -> NDArray[np.uint64]:
        begin = index * FRAME_WORDS
        return self._total[begin : begin + self._sizes[index]]

    def _take_back(self, data: bytes, index: int, checksum: bytes) -> None:
        if data[-CHECKSUM_SIZE:] != checksum:
            raise LocalProtocolError(f"frame {index} reads differently now; start a new session")
        self._part(index)[:] -= self._decode(data, index).words

    def _decode(self, data: bytes, index: int) -> MaskedFrame:
        return MaskedFrame.from_bytes(
            data, expect=self.agreement.header, index=index, count=self._sizes[index]
        )

    def close(self, burn: Burn | None = None) -> tuple[bytes, "CollectReveals"]:
        """The survivors, to be sent to each of them, and the next stage.

        Args:
          burn: writes the set down before it is sent, so that a server that was
            restarted cannot name another one in the same round.

        Raises:
          LocalProtocolError: the clients want to sign first (``close_to_sign``), or
            another set was named before.
        """
        if self.agreement.params.active:
            raise LocalProtocolError("the clients sign the survivors first: close_to_sign")
        message = self._name(burn)
        return message, self._reveals()

    def close_to_sign(self, burn: Burn | None = None) -> tuple[bytes, "CollectSignatures"]:
        """Close the stage as ``close`` does, for clients that sign the set before they reveal."""
        if not self.agreement.params.active:
            raise LocalProtocolError("nothing is signed in this round: close")
        message = self._name(burn)
        return message, CollectSignatures(self._round, self._alive, self._reveals())

    def _name(self, burn: Burn | None) -> bytes:
        self._close(len(self._alive), self._round.needed)
        message = Survivors(header=self.agreement.header, alive=frozenset(self._alive)).to_bytes()
        self._write_down(message, burn, SURVIVORS_STAGE, "set of survivors was named")
        return message

    def _reveals(self) -> "CollectReveals":
        return CollectReveals(self._round, self._sharers, frozenset(self._alive), self._total)


SURVIVORS_STAGE = 0  # in a burn store, where clients have 1 to 4


class CollectSignatures(Collect[Agreement]):
    """ConsistencyCheck: signatures of the survivors, passed on and not read."""

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
          RemoteProtocolError: not from a survivor.
        """
        self._open()
        signed = SignedSurvivors.from_bytes(message, expect=self.agreement.header)
        self._admit(signed.sender, self._alive, self._signatures)
        self._signatures[signed.sender] = signed.signature
        return signed.sender

    def close(self) -> tuple[dict[ClientId, bytes], "CollectReveals"]:
        """The signatures for each survivor that signed, and the next stage."""
        self._close(len(self._signatures), self._round.needed)
        if self._round.plan.degree is None:
            everything = Signatures(
                header=self.agreement.header, signatures=self._signatures
            ).to_bytes()
            return dict.fromkeys(sorted(self._signatures), everything), self._reveals
        return {
            recipient: Signatures(
                header=self.agreement.header,
                signatures={
                    client: self._signatures[client]
                    for client in self._round.graph.neighbours(recipient) & self._signatures.keys()
                },
            ).to_bytes()
            for recipient in sorted(self._signatures)
        }, self._reveals


class CollectReveals(Collect[Agreement]):
    """Unmask: enough shares to take every mask off the sum."""

    def __init__(
        self,
        settled: _Round,
        sharers: frozenset[ClientId],
        alive: frozenset[ClientId],
        total: NDArray[np.uint64],
    ) -> None:
        super().__init__(settled.agreement)
        self._round = settled
        self._sharers = sharers
        self._alive = alive
        self._total = total
        self._shares: dict[ClientId, dict[ClientId, Secret]] = {}

    def receive(self, message: bytes) -> ClientId:
        """Take a ``Reveal``; returns its sender.

        Raises:
          RemoteProtocolError: not from a survivor, or not one share of every
            peer that shared.
        """
        self._open()
        reveal = Reveal.from_bytes(message, expect=self.agreement.header)
        self._admit(reveal.sender, self._alive, self._shares)
        held = self._round.graph.neighbours(reveal.sender) & self._sharers
        if self._round.plan.degree is None:
            held |= {reveal.sender}
        if reveal.shares.keys() != held:
            raise RemoteProtocolError(
                f"client {reveal.sender} reveals {len(reveal.shares)} shares, "
                f"not one of each of the {len(held)} peers that shared"
            )
        self._shares[reveal.sender] = reveal.shares
        return reveal.sender

    def close(self, expand: Expand = expand) -> Sum:
        """Take the masks off.

        Args:
          expand: another way to apply masks. It sees their seeds.

        Raises:
          TooFewSurvivors: fewer shares of some secret than the threshold. Nothing
            is released.
          RemoteProtocolError: a rebuilt key is not the one advertised, or the
            check word is not the number of survivors: some client lied or
            erred. Nothing is released.
        """
        self._close(len(self._shares), self._round.plan.threshold)
        expand(self._total, self._masks(), self.agreement.params.suite)
        check = int(self._total[-1])
        if check != len(self._alive):
            raise RemoteProtocolError(
                f"the check word does not count the {len(self._alive)} survivors: shares or "
                "vectors are wrong, or clients were shown different public inputs"
            )
        return Sum(words=self._total[:-1], survivors=tuple(sorted(self._alive)))

    def _masks(self) -> list[Mask]:
        """Every mask that is still in the total, turned around."""
        context, keys = self._round.context, self._round.roster.entries
        masks = []
        for client, secret in self._rebuilt().items():
            if client in self._alive:
                label = context.self_mask(client)
                masks.append(Mask(seed=secret, label=label, subtract=True))
                continue
            key = PrivateKey(secret)
            if key.public != keys[client].mask:
                raise RemoteProtocolError(
                    f"the shares of client {client} rebuild another key than it advertised"
                )
            for peer in sorted(self._round.graph.neighbours(client) & self._alive):
                label = context.pair(client, peer)
                (seed,) = key.agree(keys[peer].mask, label)
                masks.append(Mask(seed=seed, label=label, subtract=client < peer))
        return masks

    def _rebuilt(self) -> dict[ClientId, Secret]:
        """The self-mask's seed of who is alive, the mask key of who is gone."""
        graph, threshold = self._round.graph, self._round.plan.threshold
        groups: dict[tuple[int, ...], list[tuple[ClientId, list[bytes]]]] = {}
        for client in sorted(self._sharers):
            holders = graph.holders(client)
            if client not in self._alive and self._alive.isdisjoint(holders):
                continue  # nobody masked with it
            answers = [
                (number, self._shares[holder][client].expose())
                for number, holder in enumerate(holders, 1)
                if holder in self._shares
            ][:threshold]
            if len(answers) < threshold:
                raise TooFewSurvivors(
                    f"{len(answers)} shares of client {client} are left, {threshold} needed; "
                    "nothing was released"
                )
            numbers, shares = zip(*answers, strict=True)
            groups.setdefault(numbers, []).append((client, list(shares)))
        rebuilt: dict[ClientId, Secret] = {}
        for numbers, members in groups.items():  # one set of Lagrange weights a set of holders
            secrets = combine(numbers, [shares for _, shares in members])
            rebuilt |= zip([client for client, _ in members], secrets, strict=True)
        return rebuilt
