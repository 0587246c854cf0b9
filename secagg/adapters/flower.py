"""Secure sums for Flower's Message API: a grid around the server's, a mod on the client's app.

    FedAvg(...).start(grid=SecureGrid(grid, clip=0.1, max_weight=1000), ...)    # the server
    app = ClientApp(mods=[secure_mod()])                                        # the client

Every ``train`` (and ``evaluate``) of a strategy becomes one sum under ``secagg.relay``: its
stages travel as messages of the same type, and the strategy is handed one reply with the mean,
the total weight and the mean metrics. A strategy that averages works as it is; one that
compares single updates (Krum, medians, trimmed means) finds one reply, and compares nothing.

Guarantee: what reaches the server of a node's update, weight and metrics is masked; see
``protocols.bonawitz`` for whom that holds against. A message that asks for a plain reply is
refused on both sides, and the model comes with the third stage only, so that an app without
the mod answers with an error, not with its update.

Not protected from: a server that ships another app to nodes that run whatever they are sent
(have nodes verify their apps), what a mean says, and the numbers that are public here: who
takes part, at which stage a node was lost, and how long it took. In Flower's simulation all
parties are one machine's: it measures, it protects nothing.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.books import Charge
from dp.events import Unit
from dp.ledger import Ledger
from dp.mechanisms import DistributedNoise
from protocols import bonawitz, ckks
from protocols.bonawitz import ClientId
from protocols.bonawitz.graph import as_fraction
from protocols.entropy import system
from protocols.errors import ProtocolError, RemoteProtocolError, TooFewSurvivors
from protocols.primitives.prg import Expand, expand
from protocols.primitives.sign import SigningKey
from protocols.wire import SESSION_SIZE, Reader, opaque
from secagg.advisor import choose_graph, fewest
from secagg.errors import ConfigError, InputError, MissingExtraError, NodeError, RefusedError
from secagg.homomorphic import FLOODING, HOLDERS, PRECISION
from secagg.node import PROPOSED, Node, Request
from secagg.packing import lane_bits
from secagg.payload import Layout
from secagg.policy import Policy
from secagg.proposal import (
    BONAWITZ,
    PROTOCOLS,
    SEED_SIZE,
    Average,
    Contribution,
    Noise,
    Proposal,
    Result,
    Shapes,
    flat,
    shapes_of,
    unflat,
)
from secagg.relay import Ask, Relay, Total, relay_bonawitz, relay_threshold_ckks
from secagg.stages import Stage


def _check_version() -> None:
    wanted = "secagg.adapters.flower works with flwr>=1.41,<2"
    try:
        found = version("flwr")
    except PackageNotFoundError:
        raise MissingExtraError(f"{wanted}: pip install 'secagg[flower]'") from None
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if not (1, 41) <= numbers < (2,):
        raise MissingExtraError(f"{wanted}, and {found} is installed: pip install 'secagg[flower]'")


_check_version()

from flwr.app import (  # noqa: E402  # after the check, whose error says what to do
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp.typing import ClientAppCallable, Mod  # noqa: E402
from flwr.serverapp import Grid  # noqa: E402

RECORD: Final = "secagg"  # name of our record in a message, and in a node's context
FRAMES: Final = "secagg.frames"
PRIVACY: Final = "secagg.privacy"  # what noise on examples needs its app to know
SECURE: Final = ("train", "evaluate")
POLL: Final = 0.2  # seconds between looks for replies
REFUSED: Final = 6  # Flower's code of a mod whose precondition failed
LANES: Final = 3  # of a word, that the default of bits makes room for

_log = logging.getLogger("flwr")
Home: TypeAlias = Path | str | Callable[[Context], Path | str]


@dataclass(kw_only=True)
class StageReport:
    """One stage of a sum: whom it asked, who answered, bytes of all nodes, and seconds."""

    stage: Stage
    asked: int
    answered: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


@dataclass(kw_only=True)
class SumReport:
    """One sum, as the server saw it.

    Attributes:
      purpose: the type of the strategy's messages.
      nodes: that the strategy named.
      survivors: nodes in the sum; empty if it failed.
      clipped: share of all entries of the survivors' updates that the clip cut.
      stages: what each took.
      failure: why there was no sum.
    """

    purpose: str
    nodes: tuple[int, ...]
    survivors: tuple[int, ...] = ()
    clipped: float = 0.0
    stages: list[StageReport] = field(default_factory=list)
    failure: str = ""


class SecureGrid(Grid):
    """A grid whose strategy sees sums.

    Args:
      grid: Flower's own.
      clip: largest absolute value of an entry of an update (what training adds to the model);
        what is beyond is cut, and :attr:`history` says how much.
      max_weight: the largest weight of a node, such as its number of examples. The mean is
        within one step, 2 clip / 2^bits, times max_weight over the mean weight.
      bits: of an entry; by default what lets three lie in a word.
      train_metrics, evaluate_metrics: the largest absolute value of each number that is to be
        averaged, by name; numbers that are not named stay on their nodes.
      weighted_by: the strategy's key of a node's weight.
      noise: in place of clip, bits and max_weight: every node adds a share of noise and nothing
        else leaves it; see ``secagg.noise_advisor.plan``. A cohort that a server samples is
        charged as if it were not sampled.
      sampling_rate: with ``noise`` on examples: of each node's own Poisson batches.
      learning_rate: with ``noise`` on examples: ``train`` replies the sum of clipped gradients,
        and the strategy is handed the model moved by -learning_rate times their mean.
      ledger: with ``noise``: where every sum is charged to every node that takes part, before
        it is asked for its vector.
      protocol: "bonawitz" or "threshold-ckks".
      corrupt, dropout: fractions that the graph is planned for, ``secagg.advisor``.
      active: the server may lie, and the clients sign; needs ``identities``.
      identities: public keys of the roster that the operator signed, by client number.
      minimum_survivors: fewest nodes in a sum; by default what the graph needs.
      deadline: seconds for each stage but training, which has the strategy's own timeout.
      clear: types of messages that pass as they are, unprotected: "evaluate", "query".
      identity: signs proposals, for nodes that pin their server.
      expand: how the masks are taken off; see ``secagg.masking``.

    Raises:
      ConfigError: the settings contradict each other.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        clip: float | None = None,
        max_weight: int | None = None,
        bits: int | None = None,
        train_metrics: Mapping[str, float] | None = None,
        evaluate_metrics: Mapping[str, float] | None = None,
        weighted_by: str = "num-examples",
        noise: DistributedNoise | None = None,
        sampling_rate: float = 1.0,
        learning_rate: float | None = None,
        ledger: Ledger | None = None,
        protocol: str = BONAWITZ,
        corrupt: Fraction | float | str = "0.05",
        dropout: Fraction | float | str = "0.1",
        active: bool = False,
        identities: Mapping[ClientId, bytes] | None = None,
        minimum_survivors: int | None = None,
        deadline: float = 60.0,
        clear: Sequence[str] = (),
        identity: SigningKey | None = None,
        expand: Expand = expand,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ConfigError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
        if (noise is None) is (clip is None or max_weight is None):
            raise ConfigError("give clip and max_weight, or noise, and not both")
        if (noise is None) is not (ledger is None):
            raise ConfigError("noise needs a ledger that counts its price, and only noise does")
        of_examples = noise is not None and noise.unit is Unit.EXAMPLE
        if of_examples is (learning_rate is None):
            raise ConfigError("noise on examples, and only that, needs a learning_rate")
        if active is (identities is None) or (active and protocol != BONAWITZ):
            raise ConfigError("active needs identities, and bonawitz; and only active does")
        if noise and (train_metrics or evaluate_metrics or bits):
            raise ConfigError(
                "with noise nothing but the noised vector leaves: no metrics, no bits"
            )
        if strange := set(clear) - {"evaluate", "query"}:
            raise ConfigError(f"clear {sorted(strange)}: only evaluate and query may pass in clear")
        self._grid, self._clip, self._max_weight, self._bits = grid, clip, max_weight, bits
        self._metrics = {"train": train_metrics or {}, "evaluate": evaluate_metrics or {}}
        self._evaluates = evaluate_metrics is not None
        self._weighted_by = weighted_by
        self._noise = Noise(mechanism=noise, sampling_rate=sampling_rate) if noise else None
        self._learning_rate = learning_rate
        self._ledger, self._protocol = ledger, protocol
        self._rates = as_fraction("corrupt", corrupt), as_fraction("dropout", dropout)
        self._active, self._identities = active, identities
        self._minimum, self._deadline = minimum_survivors, deadline
        self._clear, self._identity, self._expand = frozenset(clear), identity, expand
        self._numbers: dict[int, ClientId] = {}  # by node, for as long as this grid lives
        self._session = system(SESSION_SIZE)
        self._advertised: dict[int, bytes] = {}  # keys of that session, by node
        self.history: list[SumReport] = []

    # What a strategy calls

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """One reply with the mean, or errors that say why there is none.

        Raises:
          ConfigError: messages of a type, or of a mixture, that is never summed.
          BudgetExceeded: a node has no budget left; nothing was asked of anybody.
        """
        sent = list(messages)
        if not sent:
            return []
        kinds = {message.metadata.message_type for message in sent}
        category = next(iter(kinds)).split(".")[0]
        if category in self._clear:
            return list(self._grid.send_and_receive(sent, timeout=timeout))
        self._check_type(kinds, category)
        return self._summed(sent, category, timeout)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        for message in sent:
            if message.metadata.message_type.split(".")[0] not in self._clear:
                raise ConfigError(
                    f"a {message.metadata.message_type} message would be answered in clear; "
                    "use send_and_receive"
                )
        return self._grid.push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        return self._grid.get_nodes()

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def _check_type(self, kinds: set[str], category: str) -> None:
        if len(kinds) > 1:
            raise ConfigError(f"messages of several types in one call: {', '.join(sorted(kinds))}")
        if category not in SECURE:
            raise ConfigError(
                f"replies to {category} say what single nodes say; pass clear=[{category!r}] if "
                "that is meant"
            )
        if category == "evaluate" and not self._evaluates:
            raise ConfigError(
                "replies to evaluate hold each node's own metrics. Name those to be averaged in "
                "evaluate_metrics={'accuracy': 1.0}, or set the strategy's fraction_evaluate=0, "
                "or let them pass with clear=['evaluate']"
            )

    # One sum

    def _summed(self, sent: list[Message], category: str, timeout: float | None) -> list[Message]:
        first = sent[0]
        content = first.content
        nodes = [message.metadata.dst_node_id for message in sent]
        if len(set(nodes)) < len(nodes):
            raise ConfigError("a node is addressed twice in one sum")
        model = digest(content)
        if any(other.content is not content and digest(other.content) != model for other in sent):
            raise ConfigError("nodes of one sum must all be sent the same")
        name, start = _arrays(content) if category == "train" else ("", {})
        proposal = self._propose(first.metadata.message_type, len(nodes), model, shapes_of(start))
        report = SumReport(purpose=proposal.purpose, nodes=tuple(nodes))
        self.history.append(report)
        run = _Sum(self, proposal, sent, report, timeout)
        try:
            total = run.total()
            result = proposal.decode(total.values, total.survivors)
        except (ProtocolError, InputError) as error:
            report.failure = f"no sum: {error}"
            _log.warning("secagg: %s", report.failure)
            self._advertised = {}
            return [
                Message(Error(code=REFUSED, reason=report.failure), reply_to=message)
                for message in sent
            ]
        report.survivors = tuple(run.node_of[client] for client in result.survivors)
        run.commit(result)
        if result.clipped:
            report.clipped = result.clipped / (proposal.entries * len(result.survivors))
            _log.warning("secagg: the clip cut %.2g of all entries", report.clipped)
        _log.info("secagg: %s", summary(report))
        records = RecordDict()
        if start:
            records[name] = _record(unflat(self._move(result, run), start))
        metrics: dict[str, Any] = {self._weighted_by: result.weight, **result.metrics}
        records["metrics"] = MetricRecord(metrics)
        return [Message(records, reply_to=first), *run.errors]

    def _move(self, result: Result, run: "_Sum") -> NDArray[np.float64]:
        """By how much the model moves."""
        if self._noise is None:
            return result.vector
        if self._learning_rate is None:  # a client's update
            return result.vector / len(result.survivors)
        examples = sum(run.examples[client] for client in result.survivors)
        return -self._learning_rate / (self._noise.sampling_rate * examples) * result.vector

    def _propose(self, purpose: str, clients: int, model: bytes, shapes: Shapes) -> Proposal:
        entries = sum(int(np.prod(shape)) for _, shape in shapes)
        content = self._content(purpose.split(".")[0], clients)
        if isinstance(content, Noise):
            segments, most = content.segments(), content.mechanism.clients
            if clients > most or entries != content.mechanism.entries:
                raise ConfigError(
                    f"the noise is for at most {most} nodes and {content.mechanism.entries} "
                    f"entries, the strategy has {clients} and {entries}"
                )
        else:
            segments, most = content.segments(entries), clients
        layout = Layout(segments=segments, clients=most)
        chosen = self._bonawitz if self._protocol == BONAWITZ else self._ckks
        return Proposal(
            purpose=purpose,
            session=self._session,
            params=chosen(most, layout),
            model=model,
            seed=system(SEED_SIZE),
            shapes=shapes,
            content=content,
        )

    def _content(self, category: str, clients: int) -> Average | Noise:
        if self._noise is not None:
            return self._noise
        # An average has both; the constructor saw to it.
        clip, max_weight = self._clip or 0.0, self._max_weight or 0
        bits = self._bits or max(lane_bits(LANES) - max(clients - 1, 1).bit_length(), 8)
        metrics = tuple((name, float(most)) for name, most in self._metrics[category].items())
        return Average(
            clip=clip,
            bits=bits,
            max_weight=max_weight,
            weighted_by=self._weighted_by,
            metrics=metrics,
        )

    def _bonawitz(self, clients: int, layout: Layout) -> bonawitz.Params:
        corrupt, dropout = self._rates
        chosen = choose_graph(clients, corrupt, dropout, active=self._active)
        sparse = chosen.degree is not None
        return bonawitz.Params(
            clients=clients,
            threshold=None if sparse else chosen.threshold,
            rates=bonawitz.Rates(corrupt=corrupt, dropout=dropout) if sparse else None,
            minimum_survivors=self._fewest(fewest(clients, dropout, chosen)),
            words=layout.words,
            active=self._active,
            corrupt=int(corrupt * clients) if self._active and not sparse else None,
        )

    def _ckks(self, clients: int, layout: Layout) -> ckks.Params:
        return ckks.plan(
            model=ckks.Model.THRESHOLD,
            clients=clients,
            entries=layout.reals,
            clip=1.0,
            precision=PRECISION,
            flooding=FLOODING,
            holders=min(HOLDERS, clients),
            minimum_survivors=self._fewest(clients // 2 + 1),
        )

    def _fewest(self, least: int) -> int:
        if self._noise is not None:
            return self._noise.mechanism.minimum_survivors
        return least if self._minimum is None else self._minimum


class _Sum:
    """One sum under way: a relay, and the nodes behind its clients."""

    def __init__(
        self,
        grid: SecureGrid,
        proposal: Proposal,
        sent: list[Message],
        report: SumReport,
        timeout: float | None,
    ) -> None:
        self._secure, self._proposal, self._report, self._timeout = grid, proposal, report, timeout
        self._said = proposal.to_bytes()
        identity = grid._identity
        self._signature = identity.sign(PROPOSED, self._said) if identity else b""
        self._first = sent[0]
        numbers = grid._numbers
        for message in sent:
            numbers.setdefault(message.metadata.dst_node_id, len(numbers))
        self.node_of = {
            numbers[message.metadata.dst_node_id]: message.metadata.dst_node_id for message in sent
        }
        self.errors: list[Message] = []
        self.examples: dict[ClientId, int] = {}
        self._following = b""
        self._charged: tuple[int, list[str]] | None = None

    def total(self) -> Total:
        """Drive the relay to its end."""
        advertised = {
            node: keys
            for node, keys in self._secure._advertised.items()
            if node in set(self.node_of.values())
        }
        self._secure._advertised = {}
        self._secure._session = system(SESSION_SIZE)
        relay = self._relay(list(advertised.values()))
        try:
            while True:
                self._ask(next(relay))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration does not say of what

    def _relay(self, advertised: list[bytes]) -> Relay:
        agreement, clients = self._proposal.agreement(), sorted(self.node_of)
        if isinstance(agreement, bonawitz.Agreement):
            return relay_bonawitz(
                agreement,
                clients,
                identities=self._secure._identities,
                advertised=advertised,
                expand=self._secure._expand,
            )
        return relay_threshold_ckks(agreement, clients)

    def _ask(self, ask: Ask) -> None:
        """Send the requests of a stage and hand in the answers, until all came or time is up."""
        grid, report = self._secure._grid, StageReport(stage=ask.stage, asked=len(ask.requests))
        self._report.stages.append(report)
        if ask.stage is Stage.MASK:
            self._reserve(ask)
        last = ask.stage is Stage.REVEAL
        if last and self._proposal.protocol == BONAWITZ and not self._secure._active:
            self._following = self._secure._session
        begin = time.monotonic()
        limit = self._timeout if ask.stage is Stage.MASK else self._secure._deadline
        outgoing = [self._message(ask, client, limit) for client in ask.requests]
        report.bytes_down = sum(
            len(request) + len(self._said) for request in ask.requests.values()
        ) + (len(outgoing) * _size(self._first.content) if ask.stage is Stage.MASK else 0)
        waiting = {str(found) for found in grid.push_messages(outgoing) if found}
        del outgoing
        clients = {self.node_of[client]: client for client in ask.requests}
        learned: dict[ClientId, int] = {}
        while waiting:
            for reply in grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                node = reply.metadata.src_node_id
                if node in clients:
                    self._take(ask, reply, clients[node], learned, report)
            report.seconds = time.monotonic() - begin
            if not waiting or (limit is not None and report.seconds > limit):
                break
            time.sleep(POLL)
        if self._secure._active and ask.stage is Stage.ADVERTISE:
            self.node_of = learned

    def _take(
        self,
        ask: Ask,
        reply: Message,
        client: ClientId,
        learned: dict[ClientId, int],
        report: StageReport,
    ) -> None:
        node = reply.metadata.src_node_id
        if reply.has_error():
            self.errors.append(reply)
            _log.warning("secagg: node %d is lost at %s: %s", node, ask.stage, reply.error.reason)
            return
        try:
            messages, record = _read_answer(reply.content)
            report.bytes_up += sum(map(len, messages))
            sender = ask.receive(messages)
        except (RemoteProtocolError, InputError) as error:
            _log.warning("secagg: node %d is lost at %s: %s", node, ask.stage, error)
            return
        if sender != client and not (self._secure._active and ask.stage is Stage.ADVERTISE):
            raise RemoteProtocolError(f"node {node} is client {client}, and answered as {sender}")
        learned[sender] = node
        report.answered += 1
        if isinstance(examples := record.get("examples"), int) and examples > 0:
            self.examples[sender] = examples
        if self._following and isinstance(keys := record.get("following"), bytes) and keys:
            self._secure._advertised[node] = keys

    def _message(self, ask: Ask, client: ClientId, limit: float | None) -> Message:
        records = RecordDict()
        if ask.stage is Stage.MASK:
            for name, record in self._first.content.items():
                records[name] = record
        records[RECORD] = ConfigRecord(
            {
                "stage": ask.stage.value,
                "proposal": self._said,
                "client": client,
                "message": ask.requests[client],
                "signature": self._signature,
                "following": self._following,
            }
        )
        metadata = self._first.metadata
        return Message(
            records,
            self.node_of[client],
            metadata.message_type,
            ttl=metadata.ttl if limit is None else min(metadata.ttl, limit),
            group_id=metadata.group_id,
        )

    # The books

    def _reserve(self, ask: Ask) -> None:
        """Before the first vector is asked for."""
        ledger, noise = self._secure._ledger, self._proposal.noise
        if ledger is None or noise is None:
            return
        if self._secure._learning_rate is not None:
            for client in ask.requests:
                if client not in self.examples:
                    raise TooFewSurvivors(
                        f"node {self.node_of[client]} did not say how many examples it has"
                    )
        subjects = [str(self.node_of[client]) for client in ask.requests]
        number = max((entry.round for entry in ledger.reservations()), default=-1) + 1
        least = noise.mechanism.minimum_survivors
        ledger.reserve(number, dict.fromkeys(subjects, noise.event()), minimum_survivors=least)
        self._charged = number, subjects

    def commit(self, result: Result) -> None:
        """What the noise of those who are left makes it cost; for who was lost, it stays open."""
        if self._charged is None or self._proposal.noise is None or self._secure._ledger is None:
            return
        number, _ = self._charged
        survivors = len(result.survivors)
        event = self._proposal.noise.event(survivors)
        charges: dict[str, Any] = {
            str(self.node_of[client]): Charge(server=event, release=event)
            for client in result.survivors
        }
        self._secure._ledger.commit(number, charges, survivors=survivors)


def summary(report: SumReport) -> str:
    """One line: who is in the sum, and what each stage took."""
    stages = ", ".join(
        f"{stage.stage} {stage.answered}/{stage.asked} {stage.seconds:.1f} s"
        for stage in report.stages
    )
    return (
        f"{report.purpose} sum of {len(report.survivors)} of {len(report.nodes)} nodes ({stages})"
    )


# On a node


def secure_mod(home: Home | None = None, *, policy: Policy | None = None) -> Mod:
    """A mod for ``ClientApp(mods=[...])`` or ``@app.train(mods=[...])``.

    Args:
      home: the node's folder (``secagg node new``), or a function that tells it from the
        context. By default the node's own configuration says it, which no app can change:
        ``flower-supernode --node-config 'secagg-home="/srv/secagg"'``.
      policy: in place of the folder's file; for trials and simulations.

    The app's ``train`` runs once a sum, at the stage that masks. It replies one ``ArrayRecord``
    of the arrays that it was sent, and one ``MetricRecord``. Where noise hides examples its
    arrays hold the sum of clipped gradients instead, and the record ``secagg.privacy`` of its
    message says ``clip`` and ``sampling-rate``.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        content = message.content
        if (asked := content.config_records.get(RECORD)) is None:
            raise RefusedError(
                f"this {message.metadata.message_type} message asks for a plain reply: put the "
                "server's grid in a SecureGrid, or the mod only where sums are meant"
            )
        request = _read_request(asked)
        inner = RecordDict({name: each for name, each in content.items() if name != RECORD})

        def compute(proposal: Proposal) -> Contribution:
            if proposal.purpose != message.metadata.message_type:
                raise NodeError("the message is of another type than the proposal")
            return _compute(proposal, inner, message, context, call_next)

        kept = context.state.config_records.get(RECORD)
        state = kept["state"] if kept is not None else None
        node = Node(_home(home, context), policy)
        try:
            answer = node.answer(
                request,
                state if isinstance(state, bytes) else None,
                model=digest(inner),
                compute=compute,
            )
        except (RefusedError, NodeError, ProtocolError):
            raise
        except Exception as error:
            # Flower sends an exception's text to the server, and this one's may hold data.
            raise NodeError(
                f"this node cannot take part ({type(error).__name__}); its log says why"
            ) from error
        context.state.pop(RECORD, None)
        if answer.state is not None:
            context.state[RECORD] = ConfigRecord({"state": answer.state})
        return Message(
            _answer(answer.messages, answer.following, answer.examples), reply_to=message
        )

    return mod


def _home(home: Home | None, context: Context) -> Path:
    if callable(home):
        return Path(home(context))
    if home is None and not isinstance(home := context.node_config.get("secagg-home"), str):
        raise NodeError(
            "no folder for this node: start flower-supernode with --node-config "
            "'secagg-home=\"/srv/secagg\"'"
        )
    return Path(home)


def _compute(
    proposal: Proposal,
    inner: RecordDict,
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
) -> Contribution:
    """Run the app on what it would have been sent without us."""
    given = RecordDict(dict(inner.items()))
    noise = proposal.noise
    of_examples = noise is not None and noise.mechanism.unit is Unit.EXAMPLE
    if noise is not None and of_examples:
        given[PRIVACY] = ConfigRecord(
            {"clip": noise.mechanism.clip, "sampling-rate": noise.sampling_rate}
        )
    outer = message.content
    message.content = given
    try:
        reply = call_next(message, context)
    finally:
        message.content = outer
    if reply.has_error():
        raise NodeError("the app replied an error")
    said = reply.content
    if proposal.shapes:
        _, start = _arrays(inner)
        _, after = _arrays(said)
        vector = flat(after, proposal.shapes, start=None if of_examples else start)
    else:
        vector = np.empty(0, np.float32)
    numbers: dict[str, float] = {}
    for record in said.metric_records.values():
        numbers |= {name: float(n) for name, n in record.items() if not isinstance(n, list)}
    if isinstance(proposal.content, Noise):
        return Contribution(vector=vector, weight=1, metrics={})
    weight = numbers.get(proposal.content.weighted_by)
    if weight is None or weight != int(weight):
        raise NodeError(
            f"the app's reply has no whole number {proposal.content.weighted_by!r} to weigh it by"
        )
    return Contribution(vector=vector, weight=int(weight), metrics=numbers)


# Records


def digest(content: RecordDict) -> bytes:
    """SHA-256 of all records, whatever order they came in."""
    found = hashlib.sha256()
    for name in sorted(content):
        record = content[name]
        found.update(opaque(f"{type(record).__name__} {name}".encode()))
        for key in sorted(record):
            value = record[key]
            if isinstance(value, Array):
                head = [key, value.dtype, list(value.shape), value.stype, len(value.data)]
                found.update(opaque(json.dumps(head).encode()))
                found.update(value.data)
            else:
                said = json.dumps([key, value], default=lambda raw: ["bytes", raw.hex()])
                found.update(opaque(said.encode()))
    return found.digest()


def _arrays(content: RecordDict) -> tuple[str, dict[str, NDArray[Any]]]:
    """The one ArrayRecord, and its name."""
    if len(records := content.array_records) != 1:
        raise InputError(f"{len(records)} ArrayRecords in a message, one can be averaged")
    ((name, record),) = records.items()
    return name, {key: array.numpy() for key, array in record.items()}


def _record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _size(content: RecordDict) -> int:
    return sum(
        len(array.data) for record in content.array_records.values() for array in record.values()
    )


def _answer(messages: Sequence[bytes], following: bytes, examples: int) -> RecordDict:
    joined = b"".join(map(opaque, messages))
    frames = Array(dtype="uint8", shape=(len(joined),), stype=RECORD, data=joined)
    return RecordDict(
        {
            RECORD: ConfigRecord({"following": following, "examples": examples}),
            FRAMES: ArrayRecord({"messages": frames}),
        }
    )


def _read_answer(content: RecordDict) -> tuple[list[bytes], Mapping[str, Any]]:
    """The messages of an answer, and what came beside them."""
    record = content.config_records.get(RECORD)
    frames = content.array_records.get(FRAMES, {}).get("messages")
    if record is None or frames is None:
        raise InputError("its app has no secure_mod: it answered in clear, or not at all")
    reader, messages = Reader(frames.data), []
    while reader.left:
        messages.append(reader.opaque())
    return messages, record


def _read_request(record: ConfigRecord) -> Request:
    try:
        stage = Stage(record["stage"])
    except (KeyError, ValueError):
        raise RemoteProtocolError("the server's request names no stage") from None
    named = {name: record.get(name) for name in ("proposal", "message", "signature", "following")}
    client = record.get("client")
    if not all(isinstance(value, bytes) for value in named.values()) or type(client) is not int:
        raise RemoteProtocolError("the server's request lacks a field")
    values: dict[str, Any] = dict(named)
    return Request(stage=stage, client=client, **values)
