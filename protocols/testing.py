"""Parts for tests of a driver: known randomness, a burn store in memory, rounds that were played.

For tests only. Whoever knows a seed of ``insecure_entropy`` knows every key that was drawn with
it, and a store that ends with its process burns nothing. No other module of these packages may
import this one; import-linter refuses it.

    made = played(agreement_of(params), inputs, "boxes")   # clients have shared, and wait
    frames, waiting = made.states[1].on_boxes(made.boxes[1], inputs[1])

A test of a server that lies changes what was sent (``dataclasses.replace``) and plays on
(``made.until("survivors")``), or takes the states into its own hands.
"""

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.bonawitz import (
    Agreement,
    AwaitBoxes,
    AwaitRoster,
    AwaitSignatures,
    AwaitSurvivors,
    ClientId,
    CollectKeys,
    Params,
    join,
)
from protocols.bonawitz.graph import GraphPlan
from protocols.bonawitz.messages import (
    MaskedFrame,
    PublicKeys,
    Reveal,
    Roster,
    SealedShares,
    Survivors,
    frame_sizes,
)
from protocols.bonawitz.params import Context
from protocols.bonawitz.picks import Picks
from protocols.burn import Burn
from protocols.entropy import Entropy
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import majority
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.wire import Header

if TYPE_CHECKING:
    from protocols.ckks import Engine
    from protocols.ckks.params import Agreement as CkksAgreement
    from protocols.ckks.params import Params as CkksParams

Words: TypeAlias = NDArray[np.uint64]


# Randomness, keys and stores that keep nothing secret


def insecure_entropy(seed: object) -> Entropy:
    """The same bytes whenever the seed is the same: SHAKE256 of the seed and a counter."""
    calls = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed}/{next(calls)}".encode()).digest(size)


def insecure_identities(clients: Iterable[ClientId]) -> dict[ClientId, SigningKey]:
    """A signing key for each client, which anybody can make."""
    return {n: SigningKey(Secret(insecure_entropy(f"identity {n}")(32))) for n in clients}


def publics_of(identities: Mapping[ClientId, SigningKey]) -> dict[ClientId, bytes]:
    """The public keys, as an operator hands them out."""
    return {client: key.public for client, key in identities.items()}


class BurnInMemory:
    """A ``Burn`` that ends with its process: enough for a party that lives no longer."""

    def __init__(self) -> None:
        self.taken: dict[tuple[bytes, int], bytes] = {}

    def __call__(self, session: bytes, stage: int, request: bytes) -> bool:
        return self.taken.setdefault((session, stage), request) == request


def burn_nothing(session: bytes, stage: int, request: bytes) -> bool:
    """The rule removed: a store that lets every request be answered."""
    return True


# A round of pairwise masks


def insecure_plan(holders: int, threshold: int) -> Callable[..., GraphPlan]:
    """A ``plan_graph`` by which so few clients pick their holders that nothing is promised.

    A test puts it in the place of ``protocols.bonawitz.params.plan_graph``: the planner's own
    picks begin at 200 clients.
    """

    def plan(
        clients: int, corrupt: Fraction, dropout: Fraction, *, active: bool, agreed: int = 0
    ) -> GraphPlan:
        corrupted = int(corrupt * max(clients, agreed))
        picks = Picks(
            holders=holders, threshold=threshold, corrupt_holders=corrupted, alpha=0, left_out=0
        )
        quorum = majority(clients, corrupted)
        return GraphPlan(degree=holders, threshold=threshold, picks=picks, quorum=quorum)

    return plan


def agreement_of(params: Params) -> Agreement:
    """Round 1 of a made-up session, whose id and public digest are zero."""
    return Agreement(params=params, session=bytes(16), round=1, public_digest=bytes(32))


Stage = Literal["roster", "boxes", "survivors", "signatures", "sum"]
"""What the clients wait for; at ``sum`` all have revealed, and the server may close."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """A round of honest parties up to a stage: what was sent, and who waits.

    It can be played on once from here, since a state answers once.

    Attributes:
      inputs: the vector of each client; who is in it takes part.
      alive: whose masked vectors reach the server; all clients mask theirs.
      shown: what a client agrees to in place of ``agreement``; the server tells each that it
        agrees to the same.
      stage: what the clients wait for.
      server: the collection that waits for their answers, and has none of them.
      states: of each client; it has not seen the messages of ``stage``.
      rosters: sent to each client; empty until then, as all that follows.
      shared: the ``SealedShares`` of each client.
      boxes: sent to each client.
      frames: the masked vector of each client.
      named_to: the ``Survivors`` sent to each that is alive.
      signed: the ``SignedSurvivors`` of each of them, if the server may lie.
      signatures: sent to each of them.
      reveals: the ``Reveal`` of each of them.
    """

    agreement: Agreement
    inputs: Mapping[ClientId, Words]
    alive: Collection[ClientId]
    shown: Mapping[ClientId, Agreement]
    stage: Stage
    server: Any
    states: Mapping[ClientId, Any]
    rosters: Mapping[ClientId, bytes] = field(default_factory=dict)
    shared: Mapping[ClientId, bytes] = field(default_factory=dict)
    boxes: Mapping[ClientId, bytes] = field(default_factory=dict)
    frames: Mapping[ClientId, list[bytes]] = field(default_factory=dict)
    named_to: Mapping[ClientId, bytes] = field(default_factory=dict)
    signed: Mapping[ClientId, bytes] = field(default_factory=dict)
    signatures: Mapping[ClientId, bytes] = field(default_factory=dict)
    reveals: Mapping[ClientId, bytes] = field(default_factory=dict)

    @property
    def header(self) -> Header:
        return self.agreement.header

    @property
    def roster(self) -> Roster:
        """What the first client was sent; in a complete graph all are sent the same."""
        return self._roster_of(next(iter(self.rosters)))

    @property
    def survivors(self) -> bytes:
        """What all who are alive were sent, where clients do not pick their own holders."""
        return next(iter(self.named_to.values()), b"")

    @property
    def keys(self) -> dict[ClientId, PublicKeys]:
        """What each client has advertised."""
        return {client: self._roster_of(client).entries[client] for client in self.rosters}

    def _roster_of(self, client: ClientId) -> Roster:
        active = self.agreement.params.active
        return Roster.from_bytes(self.rosters[client], expect=self.header, signed=active)

    @property
    def context(self) -> Context:
        return self.agreement.context(self.roster.digest())

    @property
    def sealed(self) -> dict[ClientId, dict[ClientId, bytes]]:
        """The boxes by who sealed them, then by whom they are for."""
        return {
            sender: dict(SealedShares.from_bytes(message, expect=self.header).boxes)
            for sender, message in self.shared.items()
        }

    def named(self, *alive: ClientId) -> bytes:
        """The message that names these survivors, whoever they are."""
        members = list(self.roster.entries)
        return Survivors(header=self.header, alive=frozenset(alive), members=members).to_bytes()

    def shares(self, answer: bytes) -> dict[ClientId, bytes]:
        """The shares in a ``Reveal``, by whose they are."""
        shares = Reveal.from_bytes(answer, expect=self.header).shares
        return {peer: share.expose() for peer, share in shares.items()}

    def until(self, stage: Stage) -> "Played":
        """The round played on, by honest parties, from what was sent and who waits here."""
        made = self
        while made.stage != stage:
            made = made._next()
        return made

    def _next(self) -> "Played":
        match self.stage:
            case "roster":
                shared, states = self._answered(self.rosters)
                boxes, server = self.server.close()
                made = replace(self, stage="boxes", server=server, shared=shared, boxes=boxes)
            case "boxes":
                frames, states = self._answered(self.alive)
                if self.agreement.params.active:
                    named_to, server = self.server.close_to_sign()
                else:
                    named_to, server = self.server.close()
                made = replace(
                    self, stage="survivors", server=server, frames=frames, named_to=named_to
                )
            case "survivors":
                answers, states = self._answered(self.alive)
                if not self.agreement.params.active:
                    return replace(self, stage="sum", states=states, reveals=answers)
                signatures, server = self.server.close()
                made = replace(
                    self, stage="signatures", server=server, signed=answers, signatures=signatures
                )
            case "sum":
                raise ValueError("the round was played to its end")
            case "signatures":
                reveals, states = self._answered(self.signatures)
                made = replace(self, stage="sum", reveals=reveals)
        return replace(made, states=states)

    def answers(self) -> tuple[dict[ClientId, Any], dict[ClientId, Any]]:
        """What the clients answer now, and who waits then; the server is handed nothing."""
        requests: dict[Stage, Mapping[ClientId, bytes]] = {
            "roster": self.rosters,
            "boxes": self.boxes,
            "survivors": self.named_to,
            "signatures": self.signatures,
            "sum": {},
        }
        answers, states = {}, dict(self.states)
        for client, message in requests[self.stage].items():
            answers[client], states[client] = answered(
                self.states[client], message, self.inputs[client]
            )
        return answers, states

    def _answered(
        self, heard: Iterable[ClientId]
    ) -> tuple[dict[ClientId, Any], dict[ClientId, Any]]:
        answers, states = self.answers()
        for client in heard:
            answer = answers[client]
            if self.stage == "roster" and client in self.shown:
                shares = SealedShares.from_bytes(answer, expect=self.header)
                answer = replace(shares, agreement=self.agreement.tag).to_bytes()
            self.server.receive(answer)
        return answers, states


def played(
    agreement: Agreement,
    inputs: Mapping[ClientId, Words],
    until: Stage,
    *,
    alive: Collection[ClientId] | None = None,
    entropy: Callable[[ClientId], Entropy] = insecure_entropy,
    identities: Mapping[ClientId, SigningKey] | None = None,
    shown: Mapping[ClientId, Agreement] | None = None,
) -> Played:
    """A round of honest parties, played up to what the clients then wait for.

    Args:
      alive: whose masked vectors reach the server; by default everybody's.
      entropy: of each client.
      identities: where the server may lie; by default ``insecure_identities``.
      shown: what a client agrees to in place of ``agreement``, which is the server's.
    """
    known, public = {}, None
    if agreement.params.active:
        known = dict(identities or insecure_identities(inputs))
        public = publics_of(known)
    collect, states, agreements = CollectKeys(agreement, public), {}, shown or {}
    for client in inputs:
        message, states[client] = join(
            agreements.get(client, agreement),
            client,
            entropy(client),
            identity=known.get(client),
            identities=public,
        )
        collect.receive(message)
    rosters, shares = collect.close(insecure_entropy("graph"))
    for client, other in agreements.items():
        roster = Roster.from_bytes(
            rosters[client], expect=agreement.header, signed=agreement.params.active
        )
        rosters[client] = replace(roster, agreement=other.tag).to_bytes()
    return Played(
        agreement=agreement,
        inputs=inputs,
        alive=tuple(inputs) if alive is None else alive,
        shown=agreements,
        stage="roster",
        server=shares,
        states=states,
        rosters=rosters,
    ).until(until)


def answered(state: Any, message: bytes, words: Words) -> tuple[Any, Any]:
    """What a client answers (frames as a list), and the state after it, None at the end."""
    match state:
        case AwaitRoster():
            return state.on_roster(message)
        case AwaitBoxes():
            frames, after = state.on_boxes(message, words)
            return list(frames), after
        case AwaitSurvivors() if state.agreement.params.active:
            return state.sign_survivors(message)
        case AwaitSurvivors():
            return state.on_survivors(message), None
        case AwaitSignatures():
            return state.on_signatures(message), None
    raise TypeError(f"{type(state).__name__} is no state of a client")


def masked_words(agreement: Agreement, frames: Sequence[bytes]) -> Words:
    """A masked vector out of its frames, its check word last."""
    sizes = frame_sizes(agreement.params.words + 1)
    found = [
        MaskedFrame.from_bytes(frame, expect=agreement.header, index=index, count=size).words
        for index, (frame, size) in enumerate(zip(frames, sizes, strict=True))
    ]
    return np.concatenate(found)


def unmasked(
    agreement: Agreement,
    roster: Roster,
    client: ClientId,
    frames: Sequence[bytes],
    *,
    seed: Secret | None,
    key: Secret,
) -> Words:
    """The vector of ``client`` for whoever has both its secrets: what no attack may come to.

    Args:
      roster: of a complete graph, in which all of its peers have shared.
      seed: of its self-mask; without one that mask stays on.
      key: its mask key.
    """
    context, masks = agreement.context(roster.digest()), []
    if seed is not None:
        masks.append(Mask(seed=seed, label=context.self_mask(client), subtract=True))
    for peer in roster.entries.keys() - {client}:
        label = context.pair(client, peer)
        (pair,) = PrivateKey(key).agree(roster.entries[peer].mask, label)
        masks.append(Mask(seed=pair, label=label, subtract=peer < client))
    words = masked_words(agreement, frames)
    Masks(masks, agreement.params.suite).apply_to(words)
    return words[:-1]


# Sums under CKKS. On SEAL they need tenseal, and on coefficients nothing that this module does not.


def small_ckks(engine: "Engine | None" = None, **changed: Any) -> "CkksParams":
    """Parameters of a shared key for one ciphertext of a small ring, which is fast.

    Args:
      engine: by default that of coefficients.
      changed: other fields; the scale is the largest that they allow, unless it is one of them.
    """
    from protocols.ckks import Coefficients, Engine, Model, Params, Ring

    seal = engine is Engine.SEAL
    chosen: dict[str, Any] = {
        "model": Model.SHARED_KEY,
        "clients": 4,
        "entries": 2048,
        "clip": 1.0,
        "ring": Ring(degree=2048, prime_bits=(53,)) if seal else Coefficients(),
        "scale_sixteenths": 144,
        "flooding": 30,
    }
    draft = Params(**chosen | changed)
    if "scale_sixteenths" in changed:
        return draft
    return replace(draft, scale_sixteenths=draft.largest_scale_sixteenths)


def small_threshold(engine: "Engine | None" = None, **changed: Any) -> "CkksParams":
    """The same for a key of four holders, of whom three open a sum and one may be corrupt."""
    from protocols.ckks import Model

    holders = {"model": Model.THRESHOLD, "holders": 4, "threshold": 3, "max_corrupt": 1}
    return small_ckks(engine, **holders | changed)


def reals_of(params: "CkksParams", values: NDArray[Any]) -> NDArray[np.float64]:
    """The reals of an opened sum: on coefficients it is of words."""
    if values.dtype == np.uint64:
        return params.encoding.decode_reals(values)
    return values


KeyStage = Literal["roster", "openings", "requests"]
"""What the holders of a key wait for; from ``openings`` on there is the key."""


@dataclass(frozen=True, kw_only=True)
class PlayedKey:
    """A collective key that honest holders make, up to a stage; played on once from here.

    Attributes:
      stage: what the holders wait for.
      states: of each holder; it has not seen the messages of ``stage``.
      server: at ``roster`` the collection that waits for openings, and has none.
      advertised: by each holder.
      roster: sent to all holders.
      opened: the ``Opening`` of each holder; empty until then, as all that follows.
      shown: the ``Openings``, sent to all holders and clients.
      boxes: sent to each holder.
      key: as the server knows it.
    """

    agreement: "CkksAgreement"
    stage: KeyStage
    states: Mapping[ClientId, Any]
    server: Any
    advertised: Mapping[ClientId, bytes]
    roster: bytes
    opened: Mapping[ClientId, bytes] = field(default_factory=dict)
    shown: bytes = b""
    boxes: Mapping[ClientId, bytes] = field(default_factory=dict)
    key: Any = None

    def until(
        self, stage: KeyStage, *, burns: Mapping[ClientId, Burn] | None = None
    ) -> "PlayedKey":
        """The making played on by honest parties, from what was sent and who waits here.

        Args:
          burns: of each holder; by default one in memory. A restored state has one, and keeps it.
        """
        if self.stage == stage:
            return self
        states: dict[ClientId, Any] = {}
        if self.stage == "roster":
            opened = {}
            for holder, state in self.states.items():
                opened[holder], states[holder] = state.on_roster(self.roster)
                self.server.receive(opened[holder])
            shown, boxes, key = self.server.close()
            made = replace(self, stage="openings", states=states, opened=opened)
            return replace(made, shown=shown, boxes=boxes, key=key).until(stage, burns=burns)
        if self.stage == "requests":
            raise ValueError("the key was played to its end")
        for holder, state in self.states.items():
            burn = burns[holder] if burns else BurnInMemory()
            states[holder], _ = state.on_openings(self.shown, self.boxes[holder], burn=burn)
        return replace(self, stage="requests", states=states).until(stage)


def played_key(
    agreement: "CkksAgreement",
    holders: Collection[ClientId],
    until: KeyStage,
    *,
    burns: Mapping[ClientId, Burn] | None = None,
    entropy: Callable[[ClientId], Entropy] = insecure_entropy,
) -> PlayedKey:
    """A collective key that honest holders make, up to what they then wait for.

    On SEAL no two keys are the same: it draws the error of each public share for itself.
    """
    from protocols.ckks.client import generate
    from protocols.ckks.server import CollectCommitments

    collect, advertised, states = CollectCommitments(agreement, holders), {}, {}
    for holder in holders:
        advertised[holder], states[holder] = generate(agreement, holder, entropy(holder))
        collect.receive(advertised[holder])
    roster, openings = collect.close()
    return PlayedKey(
        agreement=agreement,
        stage="roster",
        states=states,
        server=openings,
        advertised=advertised,
        roster=roster,
    ).until(until, burns=burns)
