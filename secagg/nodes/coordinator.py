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
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.accounting.events import Unit
from dp.ledger.ledger import Key, Ledger
from dp.noise.mechanisms import DistributedNoise
from protocols import bonawitz
from protocols.bonawitz import ClientId
from protocols.bonawitz.graph import as_fraction
from protocols.entropy import system
from protocols.errors import LocalProtocolError, RemoteProtocolError, TooFewSurvivors
from protocols.primitives.prg import SEED_SIZE, Expand
from protocols.primitives.sign import SigningKey
from protocols.wire import SESSION_SIZE, sender_of
from secagg.errors import InputError
from secagg.nodes.identities import Roster
from secagg.nodes.node import REQUESTED, Answer, Request
from secagg.nodes.proposal import BONAWITZ, PROTOCOLS, Average, Noise, Params, Proposal, Result
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
)
from secagg.stage import Stage
from secagg.vectors.arrays import Shapes
from secagg.vectors.layout import Layout
from secagg.vectors.packing import lane_bits

LANES: Final = 3  # of a word, that the default of bits makes room for
LEAST_BITS: Final = 8

NodeId: TypeAlias = int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedMean:
    """Weighted means, without privacy from whoever sees them.

    Attributes:
      clip: largest absolute value of an entry of an update (what training adds to the model);
        what is beyond is cut, and the sum says how many entries were.
      max_weight: the largest weight of a node, such as its number of examples. A mean is
        within a step of 2 clip / 2^bits, times max_weight over the mean weight, of the true one.
      bits: of an entry. Default: the most with which three entries fit a 64-bit word.
      weighted_by: the name of a node's weight.
      train_metrics, evaluate_metrics: the largest absolute value of each number that is
        averaged, by name; others stay on their nodes. ``None``: no sum of that kind.
    """

    clip: float
    max_weight: int
    bits: int | None = None
    weighted_by: str = "num-examples"
    train_metrics: Mapping[str, float] = field(default_factory=dict)
    evaluate_metrics: Mapping[str, float] | None = None

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
        room = lane_bits(LANES) - max(clients - 1, 1).bit_length()
        return Average(
            clip=self.clip,
            bits=max(room, LEAST_BITS) if self.bits is None else self.bits,
            max_weight=self.max_weight,
            weighted_by=self.weighted_by,
            metrics=tuple((name, float(most)) for name, most in metrics.items()),
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
      corrupt_fraction, dropout: fractions that the graph is planned for, ``secagg.planning.sums``.
      roster: the server may lie and the clients sign: whose identity is whose, signed by
        the operator. ``None``: the server follows the protocol.
      minimum_survivors: fewest nodes in a sum; by default what the graph needs.
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
            return Ckks(minimum_survivors=asked or None).params(layout, clients)
        corrupt, dropout = Fraction(self.corrupt_fraction), Fraction(self.dropout)
        chosen = choose_graph(clients, corrupt, dropout, active=self.active)
        sparse = chosen.degree is not None
        return bonawitz.Params(
            clients=clients,
            threshold=None if sparse else chosen.threshold,
            rates=bonawitz.Rates(corrupt_fraction=corrupt, dropout=dropout) if sparse else None,
            minimum_survivors=asked or fewest(clients, dropout, chosen),
            words=layout.words,
            active=self.active,
            max_corrupt=int(corrupt * clients) if self.active and not sparse else None,
        )


class Coordinator:
    """Begins one sum after the other. Not for threads."""

    def __init__(self, summed: WeightedMean | NoisySum, cohort: SumSettings) -> None:
        self.summed, self.cohort = summed, cohort
        self.numbers: dict[NodeId, ClientId] = {}  # for as long as this object lives
        self.session = system(SESSION_SIZE)  # of the next sum
        self.advertised: dict[NodeId, bytes] = {}  # keys of that session
        self.examples: dict[NodeId, int] = {}  # what nodes said that they have; it stays
        self.begun: Counter[tuple[str, bytes]] = Counter()  # sums, by purpose and model

    def begin(
        self, purpose: str, nodes: Sequence[NodeId], *, model: bytes, shapes: Shapes
    ) -> "RunningSum":
        """Propose a sum to ``nodes``.

        Raises:
          TooFewSurvivors: so few nodes were named that their sum would never open.
          InputError: no sum of these can be proposed.
        """
        if len(set(nodes)) < len(nodes):
            raise InputError("nodes must be different, one is named twice")
        if len(nodes) < (least := max(2, self._fewest)):
            raise TooFewSurvivors(f"{len(nodes)} nodes were named, {least} needed; wait for more")
        content = self.summed.content(purpose, len(nodes))
        if isinstance(content, Noise):
            mechanism = content.mechanism
            most, minimum, segments = (
                mechanism.clients,
                mechanism.minimum_survivors,
                content.segments(),
            )
        else:
            entries = sum(math.prod(shape) for _, shape in shapes)
            most, minimum, segments = len(nodes), None, content.segments(entries)
        proposal = Proposal(
            purpose=purpose,
            session=self.session,
            params=self.cohort.params(most, Layout(segments=segments, clients=most), minimum),
            model_digest=model,
            seed=system(SEED_SIZE),
            shapes=shapes,
            content=content,
            roster_digest=self.cohort.roster.digest if self.cohort.roster else b"",
        )
        self.begun[purpose, model] += 1
        for node in nodes:
            self.numbers.setdefault(node, len(self.numbers))
        known = {node: keys for node, keys in self.advertised.items() if node in nodes}
        self.advertised, self.session = {}, system(SESSION_SIZE)
        return RunningSum(self, proposal, nodes, known)

    @property
    def _fewest(self) -> int:
        """Nodes that must be left, as far as it was said."""
        if isinstance(self.summed, NoisySum):
            return self.summed.mechanism.minimum_survivors
        return self.cohort.minimum_survivors or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedSum:
    """What a sum between machines came to.

    Attributes:
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
        counted. Without noise, two that differ by one node give that node's update away.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        proposal: Proposal,
        nodes: Sequence[NodeId],
        advertised: Mapping[NodeId, bytes],
    ) -> None:
        self._coordinator, self.proposal = coordinator, proposal
        cohort = coordinator.cohort
        self._said, self._identity = proposal.to_bytes(), cohort.identity
        self.sums_of_model = coordinator.begun[proposal.purpose, proposal.model_digest]
        self._clients = {node: coordinator.numbers[node] for node in nodes}
        self._relay = self._begin({self._clients[node]: keys for node, keys in advertised.items()})
        self._learned: dict[NodeId, ClientId] = {}
        self._charged: Key | None = None  # where in our ledger
        self._finished: FinishedSum | None = None

    def _begin(self, advertised: Mapping[ClientId, bytes]) -> Relay:
        agreement, cohort = self.proposal.agreement(), self._coordinator.cohort
        clients = sorted(self._clients.values())
        if isinstance(agreement, bonawitz.Agreement):
            return relay_bonawitz(
                agreement,
                clients,
                identities=cohort.roster.identities if cohort.roster else None,
                advertised=advertised,
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
            yield ask
            if ask.stage is Stage.ADVERTISE and self._coordinator.cohort.active:
                self._clients = self._learned  # a client that signs has a number of its own
        return ask

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
            next_session=self._coordinator.session if self._asks_ahead(ask) else b"",
        )
        if self._identity is None:
            return request
        return replace(request, signature=self._identity.sign(REQUESTED, request.signed()))

    def _asks_ahead(self, ask: StageRequests) -> bool:
        """Keys of the next sum come with the last answer, where nothing public is signed."""
        cohort = self._coordinator.cohort
        return ask.stage is Stage.REVEAL and cohort.protocol == BONAWITZ and not cohort.active

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
        if tells:
            self._coordinator.examples[node] = answer.examples
        if answer.next_keys and self._asks_ahead(ask):
            self._coordinator.advertised[node] = answer.next_keys

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
            return vector / len(survivors)
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
