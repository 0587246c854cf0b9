"""The server of many sums between machines: what it proposes, whom it asks, what it charges.

Framework-free: an adapter carries requests and answers, and keeps the time. For one sum

    under_way = coordinator.begin("train", nodes, model=..., shapes=...)
    for ask in under_way.asks():                # stage by stage
        send under_way.request(ask, node) to each node of under_way.asked(ask)
        under_way.take(ask, node, answer)       # as answers come, until the deadline
    under_way.finish()

A node that does not answer a stage, or whose answer is none or in another's name, is gone for
the rest of the sum. Where too few are left
``asks`` raises; nothing is released, what was charged stays charged, and the next sum works.
"""

import math
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

import protocols
from dp.accounting.events import Unit
from dp.ledger.ledger import Key, Ledger
from dp.noise.mechanisms import DistributedNoise
from protocols import bonawitz
from protocols.bonawitz import ClientId
from protocols.bonawitz.graph import as_fraction
from protocols.bonawitz.params import UNKNOWN
from protocols.entropy import system
from protocols.errors import LocalProtocolError, RemoteProtocolError, TooFewSurvivors
from protocols.primitives.prg import SEED_SIZE, Expand
from protocols.primitives.shamir import majority
from protocols.primitives.sign import SigningKey
from protocols.wire import SESSION_SIZE, sender_of
from secagg.errors import InputError
from secagg.nodes.buffer import Session
from secagg.nodes.identities import Roster
from secagg.nodes.messages import REQUESTED, Answer, Request
from secagg.nodes.proposal import (
    BONAWITZ,
    PROTOCOLS,
    Average,
    Noise,
    Params,
    Proposal,
    Result,
    statistics_in,
)
from secagg.planning.sums import choose_graph, fewest
from secagg.rounds.aggregation import Ckks
from secagg.rounds.masking import expand
from secagg.rounds.relay import (
    Relay,
    StageRequests,
    Total,
    advance,
    relay_bonawitz,
    relay_threshold_ckks,
    share_ahead,
)
from secagg.stage import Stage
from secagg.vectors.arrays import Shapes
from secagg.vectors.compress import NOTHING, Compress
from secagg.vectors.layout import Layout
from secagg.vectors.packing import lane_bits

LANES: Final = 3  # of a word, that the default of bits makes room for
WIDE_LANES: Final = 2  # the same where nobody knows the largest weight: precision in its place
LEAST_BITS: Final = 8
LARGEST_WEIGHT: Final = 100_000  # where nobody says
METRIC_RANGE: Final = 100.0  # where nobody says: a step is 4.7e-8
LEAST_NODES: Final = 3  # in a sum: of two, each has the other's update

NodeId: TypeAlias = int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedMean:
    """Weighted means, without privacy from whoever sees them.

    Attributes:
      clip: largest absolute value of an entry of an update (what training adds to the model);
        what is beyond is cut, and the sum says how many entries were. Running statistics of a
        BatchNorm have a range of their own, but under CKKS.
      max_weight: the largest weight of a node, such as its number of examples. A mean is
        within a step of 2 clip / 2^bits, times max_weight over the mean weight, of the true one.
        ``None``: nobody knows it: 100,000, with entries half as large again.
      bits: of an entry. Default: the most with which three entries fit a 64-bit word, two where
        ``max_weight`` is not said.
      weighted_by: the name of a node's weight.
      train_metrics, evaluate_metrics: the largest absolute value of each number that is
        averaged, by name; of names alone it is 100. Others stay on their nodes. ``None``: no
        sum of that kind.
      by_array: the mean of each array is over those nodes whose program returned it; who left it
        out stays under the masks. ``False``: a program returns all arrays.
      compress: what is sent of an update, ``secagg.vectors.compress``; clip is then of that.

    Raises:
      InputError: metrics that are one text, no names; arrays that a rotation would mix.
    """

    clip: float = 1.0
    max_weight: int | None = None
    bits: int | None = None
    weighted_by: str = "num-examples"
    train_metrics: Mapping[str, float] | Collection[str] = ()
    evaluate_metrics: Mapping[str, float] | Collection[str] | None = None
    by_array: bool = False
    compress: Compress = NOTHING

    def __post_init__(self) -> None:
        for name in ("train_metrics", "evaluate_metrics"):
            if isinstance(said := getattr(self, name), str):
                raise InputError(f"{name} is {said!r:.40}, expected names: [{said!r:.40}]")

    def content(self, purpose: str, clients: int) -> Average:
        """The content of a proposal to so many clients.

        Raises:
          InputError: nothing was named that an evaluation could be averaged of.
        """
        metrics = self.train_metrics if purpose.startswith("train") else self.evaluate_metrics
        if metrics is None:
            raise InputError(
                "replies to evaluate hold each node's own numbers: name those to be averaged, "
                "evaluate_metrics={'accuracy': 1.0}, or set the strategy's fraction_evaluate=0, or "
                "let them pass with allow_plaintext=['evaluate']"
            )
        if not isinstance(metrics, Mapping):
            metrics = dict.fromkeys(metrics, METRIC_RANGE)
        lanes = WIDE_LANES if self.max_weight is None else LANES
        room = lane_bits(lanes) - max(clients - 1, 1).bit_length()
        return Average(
            clip=self.clip,
            bits=max(room, LEAST_BITS) if self.bits is None else self.bits,
            max_weight=LARGEST_WEIGHT if self.max_weight is None else self.max_weight,
            weighted_by=self.weighted_by,
            metrics=tuple((name, float(most)) for name, most in metrics.items()),
            by_array=self.by_array,
            compress=self.compress,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisySum:
    """Sums with a share of noise from every node, and nothing beside them.

    Attributes:
      mechanism: see ``secagg.planning.plan_noise``; its clients are the most that take part.
      ledger: charges every node of a sum before its vector is asked for. A cohort that a
        server picks is charged as if it were not sampled, in both books.
      sampling_rate: of examples: of each node's own Poisson batches.
      learning_rate: of examples, and only of them: nodes reply the sum of clipped gradients,
        and the model moves by -learning_rate times their mean over the public expected batch.
      weighted_by: the name under which a strategy finds the number of survivors.

    Raises:
      InputError: a learning rate is missing, or there is none to have; a rate of clients.
    """

    mechanism: DistributedNoise
    ledger: Ledger = field(repr=False)
    sampling_rate: float = 1.0
    learning_rate: float | None = None
    weighted_by: str = "num-examples"

    def __post_init__(self) -> None:
        Noise(mechanism=self.mechanism, sampling_rate=self.sampling_rate)
        if (self.mechanism.unit is Unit.EXAMPLE) is (self.learning_rate is None):
            raise InputError("noise on examples, and only that, needs a learning_rate")

    def content(self, purpose: str, clients: int) -> Noise:
        """The content of a proposal to so many clients.

        Raises:
          InputError: too many clients, or numbers that would be a release of their own.
        """
        if not purpose.startswith("train"):
            raise InputError(
                f"replies to {purpose} would be a release beside the noise: set the strategy's "
                "fraction_evaluate=0, or let them pass, unprotected and uncounted, with "
                "allow_plaintext=['evaluate']"
            )
        if clients > self.mechanism.clients:
            raise InputError(
                f"the noise is for at most {self.mechanism.clients} nodes, {clients} were named"
            )
        return Noise(mechanism=self.mechanism, sampling_rate=self.sampling_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumSettings:
    """The settings of a sum: how many clients, under which protocol and threshold.

    Attributes:
      protocol: "bonawitz" or "threshold-ckks".
      corrupt_fraction, dropout: fractions that the graph is planned for, ``secagg.planning.sums``;
        ``dropout`` of one sum: a sparse graph without noise is planned for the losses of two.
      roster: the server may lie and the clients sign: whose identity is whose, signed by
        the operator. ``None``: the server follows the protocol.
      minimum_survivors: fewest nodes in a sum; by default what the graph needs, and three at
        least: of two, each has the other's update.
      identity: of this server; signs proposals, for nodes that pin it.
      expand: how the masks are taken off, ``secagg.rounds.masking``.

    Raises:
      InputError: the settings contradict each other.
    """

    protocol: str = BONAWITZ
    corrupt_fraction: Fraction | float | str = "0.05"
    dropout: Fraction | float | str = "0.1"
    roster: Roster | None = None
    minimum_survivors: int | None = None
    identity: SigningKey | None = field(default=None, repr=False)
    expand: Expand = field(default=expand, repr=False)

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InputError(f"unknown protocol {self.protocol!r}; known: {', '.join(PROTOCOLS)}")
        if self.roster is not None and self.protocol != BONAWITZ:
            raise InputError(f"nothing is signed under {self.protocol}; leave the roster out")
        for name in ("corrupt_fraction", "dropout"):
            object.__setattr__(self, name, as_fraction(name, getattr(self, name)))

    @property
    def active(self) -> bool:
        return self.roster is not None

    def params(self, clients: int, layout: Layout, minimum: int | None) -> Params:
        """The parameters of a sum of ``clients`` at most; ``minimum`` goes before the cohort's."""
        asked = self.minimum_survivors if minimum is None else minimum
        if self.protocol != BONAWITZ:
            least = asked or max(majority(clients), LEAST_NODES)
            return Ckks(minimum_survivors=least).params(layout, clients)
        corrupt, dropout = Fraction(self.corrupt_fraction), Fraction(self.dropout)
        chosen = choose_graph(clients, corrupt, dropout, active=self.active)
        sparse = chosen.degree is not None
        if sparse and not self.active and minimum is None:
            # Shares may be a sum old: a graph for the losses of two sums, where there is one.
            of_two = 1 - (1 - dropout) ** 2
            with suppress(protocols.InputError):
                wider = choose_graph(clients, corrupt, of_two, active=False)
                if wider.degree is not None:
                    chosen, dropout = wider, of_two
        return bonawitz.Params(
            clients=clients,
            threshold=None if sparse else chosen.threshold,
            rates=bonawitz.Rates(corrupt_fraction=corrupt, dropout=dropout) if sparse else None,
            minimum_survivors=asked or max(fewest(clients, dropout, chosen), LEAST_NODES),
            words=layout.words,
            active=self.active,
            max_corrupt=int(corrupt * clients) if self.active and not sparse else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What a sum leaves for the next one: who has shared for which session, and what.

    Attributes:
      params: for which the shares are sealed.
      rosters: for each client that is asked to share.
      shares: collects what they answer.
      shared: nodes whose shares are in.
    """

    params: Params
    session: bytes
    rosters: Mapping[ClientId, bytes]
    shares: bonawitz.CollectShares = field(repr=False)
    shared: set[NodeId] = field(default_factory=set)

    def is_for(self, nodes: Sequence[NodeId], params: Params) -> bool:
        """Whether a sum may begin with its vectors: just these were to share, and all have.

        Whoever is new, or was lost in between, has all begin anew together.
        """
        whole = len(self.shared) == len(self.rosters)
        return whole and self.shared == set(nodes) and self.params == params


class Coordinator:
    """Begins one sum after the other. Not for threads.

    Args:
      summed: what comes of a sum: ``WeightedMean`` or ``NoisySum``.
      cohort: which protocol, how few survivors, whose roster.

    Raises:
      InputError: a mean under CKKS without its ``max_weight``.
    """

    def __init__(self, summed: WeightedMean | NoisySum, cohort: SumSettings) -> None:
        known = isinstance(summed, NoisySum) or summed.max_weight is not None
        if cohort.protocol != BONAWITZ and not known:
            raise InputError(
                f"sums under {cohort.protocol} are approximate: say max_weight, near the largest"
            )
        self.summed, self.cohort = summed, cohort
        self.numbers: dict[NodeId, ClientId] = {}  # for as long as this object lives
        self.session = system(SESSION_SIZE)  # of the next sum, or of the one after
        self.advertised: dict[NodeId, bytes] = {}  # keys of that session
        self.ahead: Ahead | None = None  # shares of the session before it
        self.last: tuple[Params, frozenset[NodeId]] | None = None  # sum: what and whose
        self.examples: dict[NodeId, int] = {}  # what nodes said that they have; it stays
        self.begun: Counter[tuple[str, bytes]] = Counter()  # sums, by purpose and model

    def begin(
        self,
        purpose: str,
        nodes: Sequence[NodeId],
        *,
        model: bytes,
        shapes: Shapes,
        session: Session | None = None,
    ) -> "RunningSum":
        """Propose a sum to ``nodes``.

        Args:
          session: of a ``Buffer``: its nodes, on whose versions of the model they trained.

        Raises:
          TooFewSurvivors: so few nodes were named that their sum would never open.
          InputError: no sum of these can be proposed.
        """
        if len(set(nodes)) < len(nodes):
            raise InputError("nodes must be different, one is named twice")
        if session and (session.nodes.keys() != set(nodes) or session.model_digest != model):
            raise InputError("nodes and model must be those of the session")
        if len(nodes) < self.fewest:
            kind = purpose.split(".")[0]
            asked = f"fraction_{kind}=1.0 and min_{kind}_nodes={self.fewest}"
            if kind == "evaluate":
                asked += ", or fraction_evaluate=0 to leave evaluation out"
            raise TooFewSurvivors(
                f"{len(nodes)} nodes were named, {self.fewest} needed; "
                f"name more (in Flower set the strategy's {asked}), or wait for more"
            )
        content = self.summed.content(purpose, len(nodes))
        for node in nodes:
            self.numbers.setdefault(node, len(self.numbers))
        versions = session.versions(self.numbers) if session else None
        if isinstance(content, Noise):
            mechanism = content.mechanism
            most, minimum, segments = (
                mechanism.clients,
                mechanism.minimum_survivors,
                content.segments(),
            )
        else:
            entries = sum(math.prod(shape) for _, shape in shapes)
            statistics = statistics_in(shapes, self.cohort.protocol)
            factor = versions.weights[0] if versions else 1
            segments = content.segments(entries, statistics, arrays=len(shapes), factor=factor)
            most, minimum = len(nodes), None
        params = self.cohort.params(most, Layout(segments=segments, clients=most), minimum)
        # Nodes that are drawn anew for every sum would share for sums that never are.
        now = params, frozenset(nodes)
        steady, self.last = self.last in (None, now), now
        ahead, self.ahead = self.ahead, None
        if ahead and not ahead.is_for(nodes, params):
            ahead = None
        known = {node: keys for node, keys in self.advertised.items() if node in nodes}
        proposal = Proposal(
            purpose=purpose,
            session=ahead.session if ahead else self.session,
            params=params,
            model_digest=model,
            seed=system(SEED_SIZE),
            shapes=shapes,
            content=content,
            roster_digest=self.cohort.roster.digest if self.cohort.roster else b"",
            versions=versions,
        )
        self.begun.update((purpose, digest) for digest in proposal.models)
        if ahead is None:
            self._open_session()
        return RunningSum(self, proposal, nodes, known, ahead, steady=steady)

    def _open_session(self) -> None:
        """A session of which nobody has advertised keys."""
        self.advertised, self.session = {}, system(SESSION_SIZE)

    def share_ahead(self, nodes: Mapping[NodeId, ClientId], params: Params) -> Ahead | None:
        """Collect shares for the session whose keys we have, of those of ``nodes`` that sent them.

        Keys are then asked for of the session after it. ``None``: too few have sent any.
        """
        if not isinstance(params, bonawitz.Params):
            return None
        agreement = bonawitz.Agreement(
            params=params, session=self.session, round=0, public_digest=UNKNOWN
        )
        known = {nodes[node]: keys for node, keys in self.advertised.items() if node in nodes}
        with suppress(TooFewSurvivors):
            rosters, shares = share_ahead(agreement, known)
            self.ahead = Ahead(params=params, session=self.session, rosters=rosters, shares=shares)
            self._open_session()
        return self.ahead

    @property
    def fewest(self) -> int:
        """Nodes that must be left, and so must be named."""
        if isinstance(self.summed, NoisySum):
            return max(2, self.summed.mechanism.minimum_survivors)
        return max(2, self.cohort.minimum_survivors or LEAST_NODES)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedSum:
    """What a sum between machines came to.

    Attributes:
      proposal: what the nodes agreed to.
      result: the sum, and what came of it.
      survivors: nodes in the result, in the order of ``result.survivors``.
      examples: where noise hides examples, how many each survivor says that it has.
      model_update: by how much the model moves.
    """

    proposal: Proposal
    result: Result
    survivors: tuple[NodeId, ...]
    examples: Mapping[NodeId, int]
    model_update: NDArray[np.float64]


class RunningSum:
    """One sum. See the module for the order of calls.

    Attributes:
      proposal: of it.
      sums_of_model: sums that this server began over this model for this purpose, this one
        counted; of several versions, over that which has most. Without noise, two that differ by
        one node give that node's update away.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        proposal: Proposal,
        nodes: Sequence[NodeId],
        advertised: Mapping[NodeId, bytes],
        ahead: Ahead | None = None,
        *,
        steady: bool = False,
    ) -> None:
        self._coordinator, self.proposal = coordinator, proposal
        cohort = coordinator.cohort
        self._said, self._identity = proposal.to_bytes(), cohort.identity
        self.sums_of_model = max(coordinator.begun[proposal.purpose, m] for m in proposal.models)
        self._clients = {node: coordinator.numbers[node] for node in nodes}
        known = {self._clients[node]: keys for node, keys in advertised.items()}
        self._relay = self._begin(known, ahead)
        self._steady = steady and may_share_ahead(proposal)
        self._next: Ahead | None = None
        self._learned: dict[NodeId, ClientId] = {}
        self._answered: set[NodeId] = set()  # of this stage
        self._charged: Key | None = None  # where in our ledger
        self._finished: FinishedSum | None = None

    def _begin(self, advertised: Mapping[ClientId, bytes], ahead: Ahead | None) -> Relay:
        agreement, cohort = self.proposal.agreement(), self._coordinator.cohort
        clients = sorted(self._clients.values())
        if isinstance(agreement, bonawitz.Agreement):
            return relay_bonawitz(
                agreement,
                clients,
                identities=cohort.roster.identities if cohort.roster else None,
                advertised=advertised,
                shared=ahead.shares if ahead else None,
                expand=cohort.expand,
            )
        return relay_threshold_ckks(agreement, clients)

    def asks(self) -> Iterator[StageRequests]:
        """The requests of the sum, stage after stage.

        Raises:
          ProtocolError, InputError: nothing was released.
          BudgetExceeded: a node has no budget left; no vector was asked for.
        """
        total = yield from self._stages()
        result = self.proposal.decode(total.values, total.survivors)
        nodes = {client: node for node, client in self._clients.items()}
        survivors = tuple(nodes[client] for client in result.survivors)
        self._commit(survivors)
        self._finished = FinishedSum(
            proposal=self.proposal,
            result=result,
            survivors=survivors,
            examples=self._examples_of(survivors),
            model_update=self._model_update(result.vector, survivors),
        )

    def finish(self) -> FinishedSum:
        """What the sum came to.

        Raises:
          LocalProtocolError: ``asks`` has not come to its end, or it raised.
        """
        if self._finished is None:
            raise LocalProtocolError("this sum has no result yet: carry every stage of asks first")
        return self._finished

    def _stages(self) -> Generator[StageRequests, None, Total]:
        while isinstance(ask := advance(self._relay), StageRequests):
            if ask.stage is Stage.MASK:
                self._reserve(ask)
            elif ask.stage is Stage.REVEAL and self._steady:
                self._prepare_next(set(self.asked(ask)))
            self._answered.clear()
            yield ask
            # Whoever is lost may have lost its state too, also where the sum now fails for it: it
            # is asked for keys again.
            for node in set(self.asked(ask)) - self._answered:
                self._coordinator.advertised.pop(node, None)
            if ask.stage is Stage.ADVERTISE and self._coordinator.cohort.active:
                self._clients = self._learned  # a client that signs has a number of its own
        return ask

    def _prepare_next(self, alive: Set[NodeId]) -> None:
        """Ask all for shares of the next sum, unless one is lost: with it they would share anew."""
        if self._clients.keys() <= alive:
            self._next = self._coordinator.share_ahead(self._clients, self.proposal.params)

    def asked(self, ask: StageRequests) -> list[NodeId]:
        """The nodes to send a request to."""
        return [node for node, client in self._clients.items() if client in ask.requests]

    def request(self, ask: StageRequests, node: NodeId) -> Request:
        """The request to send to one node."""
        request = Request(
            stage=ask.stage,
            proposal=self._said,
            client=self._clients[node],
            message=ask.requests[self._clients[node]],
            next_session=self._coordinator.session if self._asks_keys(ask) else b"",
            next_roster=self._rosters(ask).get(self._clients[node], b""),
        )
        if self._identity is None:
            return request
        return replace(request, signature=self._identity.sign(REQUESTED, request.signed()))

    def _asks_keys(self, ask: StageRequests) -> bool:
        """Keys come one sum ahead, where nothing public is signed; two, where shares do too."""
        params = self.proposal.params
        if not isinstance(params, bonawitz.Params) or params.active:
            return False
        if not self._steady:
            return ask.stage is Stage.REVEAL
        return ask.stage is Stage.SHARE or bool(self._rosters(ask))

    def _rosters(self, ask: StageRequests) -> Mapping[ClientId, bytes]:
        """Of the next session, for who is asked to share its secrets for it."""
        return self._next.rosters if self._next and ask.stage is Stage.REVEAL else {}

    def receive(self, ask: StageRequests, node: NodeId, answer: Answer) -> None:
        """Hand in an answer.

        Raises:
          RemoteProtocolError: it counts as none, nothing of it was taken, and the sum goes on.
        """
        client = self._clients.get(node)
        if client not in ask.requests:
            raise RemoteProtocolError(f"node {node} was not asked")
        # A node that signs says its number here; its signature must be that number's.
        signs = self._coordinator.cohort.active and ask.stage is Stage.ADVERTISE
        for message in answer.messages:
            if not signs and (sender := sender_of(message)) != client:
                raise RemoteProtocolError(f"node {node} is client {client}, and spoke as {sender}")
        tells = ask.stage is Stage.MASK and self._tells_examples
        if tells:
            self._check_examples(node, answer.examples)
        self._learned[node] = ask.receive(answer.messages)
        self._answered.add(node)
        if tells:
            self._coordinator.examples[node] = answer.examples
        if answer.next_keys and self._asks_keys(ask):
            self._coordinator.advertised[node] = answer.next_keys
        if self._next and answer.next_shares and sender_of(answer.next_shares) == client:
            with suppress(RemoteProtocolError):
                self._next.shares.receive(answer.next_shares)
                self._next.shared.add(node)

    @property
    def _tells_examples(self) -> bool:
        """Whether the model moves by how many examples the nodes have."""
        summed = self._coordinator.summed
        return isinstance(summed, NoisySum) and summed.learning_rate is not None

    def _check_examples(self, node: NodeId, examples: int) -> None:
        """A number of its own choice would stop the model, or make it jump."""
        summed = self._coordinator.summed
        if not isinstance(summed, NoisySum):
            return
        rate, batch = summed.sampling_rate, summed.mechanism.batch
        if type(examples) is not int or examples < 1 or round(examples * rate) > batch:
            raise RemoteProtocolError(
                f"node {node} says {examples!r:.20} examples; from 1 on they must make a batch of "
                f"at most {batch} at rate {rate:g}"
            )
        if (before := self._coordinator.examples.get(node, examples)) != examples:
            raise RemoteProtocolError(f"node {node} says {examples} examples, and {before} before")

    def _examples_of(self, survivors: Sequence[NodeId]) -> dict[NodeId, int]:
        said = self._coordinator.examples
        return {node: said[node] for node in survivors} if self._tells_examples else {}

    def _model_update(
        self, vector: NDArray[np.float64], survivors: Sequence[NodeId]
    ) -> NDArray[np.float64]:
        summed = self._coordinator.summed
        if isinstance(summed, WeightedMean):
            return vector
        if summed.learning_rate is None:  # clients' updates
            versions = self.proposal.versions
            clients = [self._clients[node] for node in survivors]
            return vector / (versions.total(clients) if versions else len(clients))
        examples = sum(self._examples_of(survivors).values())
        return -summed.learning_rate / (summed.sampling_rate * examples) * vector

    # The books

    def _reserve(self, ask: StageRequests) -> None:
        """Charge everybody who is asked for a vector."""
        summed, noise = self._coordinator.summed, self.proposal.noise
        if not isinstance(summed, NoisySum) or noise is None:
            return
        self._charged = summed.ledger.reserve_next(
            {str(node): noise.event() for node in self.asked(ask)},
            minimum_survivors=noise.mechanism.minimum_survivors,
        )

    def _commit(self, survivors: Sequence[NodeId]) -> None:
        """Commit at the noise of the survivors; the reservations of lost nodes stay open."""
        summed, noise, key = self._coordinator.summed, self.proposal.noise, self._charged
        if isinstance(summed, NoisySum) and noise is not None and key is not None:
            left = len(survivors)
            charges = dict.fromkeys(map(str, survivors), noise.event(left))
            summed.ledger.commit(key.round, charges, attempt=key.attempt, survivors=left)

    def release(self, model: bytes) -> None:
        """Write into the server's ledger the digest of the model that came of this sum.

        ``secagg.model_digest`` makes one. Without noise there is no ledger, and nothing is done.
        """
        summed, key = self._coordinator.summed, self._charged
        if isinstance(summed, NoisySum) and key is not None:
            summed.ledger.release(key.round, model, attempt=key.attempt)


def may_share_ahead(proposal: Proposal) -> bool:
    """Whether nothing public is signed, nor noise in a graph whose survivors nobody counts."""
    params = proposal.params
    if not isinstance(params, bonawitz.Params) or params.active:
        return False
    return proposal.noise is None or params.rates is None
