"""One whole round in this process: all parties, dropouts where they are wanted, the cost of it.

For trials, tests and benchmarks. The secrets of all parties lie in one memory
here, so such a round measures; it protects nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, ClientId, Params, Rates, join
from protocols.entropy import Entropy, system
from protocols.errors import TooFewSurvivors
from protocols.primitives.prg import SEED_SIZE, Expand, Suite, expand
from protocols.primitives.shamir import majority
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE, digest
from secagg.errors import InputError
from secagg.rounds.attendance import Attendance, Costs, StageCost, clock, send
from secagg.rounds.ckks import CKKS, RealOutcome, run_ckks
from secagg.rounds.relay import Total, advance, relay_bonawitz
from secagg.stage import UNSIGNED, Stage
from secagg.vectors.layout import UPDATE, WEIGHT, Count, Layout, Noised, Segment
from secagg.vectors.quantize import FixedPoint

Words: TypeAlias = NDArray[np.uint64]
Codec: TypeAlias = FixedPoint | Noised
Input: TypeAlias = Words | Callable[[], Words]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The words of the sum, whose they are, and what it cost."""

    words: Words = field(repr=False)
    survivors: tuple[ClientId, ...]
    costs: Costs

    def sums(self, layout: Layout) -> dict[str, NDArray[Any]]:
        """The totals by segment."""
        return layout.decode(self.words)


def run_bonawitz(
    agreement: Agreement,
    inputs: Mapping[ClientId, Input],
    dropouts: Mapping[ClientId, Stage] | None = None,
    *,
    entropy: Entropy = system,
    expand: Expand = expand,
) -> Outcome:
    """Carry a round of ``protocols.bonawitz`` from keys to sum.

    Args:
      inputs: each client's words, or a function that makes them, called when
        the client masks them.
      dropouts: the stage at which a client vanishes.
      expand: how the server takes the masks off; see ``secagg.rounds.masking``.

    Raises:
      TooFewSurvivors: nothing was released.
    """
    params = agreement.params
    present = Attendance(inputs, dropouts)
    if not params.active and dropouts and Stage.SIGN in dropouts.values():
        raise InputError("nothing is signed in this round, so nobody drops out there")
    costs: Costs = {stage: StageCost() for stage in (Stage if params.active else UNSIGNED)}
    signing = (
        {client: SigningKey(Secret(entropy(SEED_SIZE))) for client in inputs}
        if params.active
        else {}
    )
    identities = {client: key.public for client, key in signing.items()} or None
    states: dict[ClientId, Any] = {}
    words: dict[ClientId, Words] = {}

    def answer(client: ClientId, stage: Stage, request: bytes) -> list[bytes]:
        parts: Iterable[bytes]
        match stage:
            case Stage.ADVERTISE:
                message, states[client] = join(
                    agreement, client, entropy, identity=signing.get(client), identities=identities
                )
            case Stage.SHARE:
                message, states[client] = states[client].on_roster(request)
            case Stage.MASK:
                parts, states[client] = states[client].on_boxes(request, words.pop(client))
                return list(parts)
            case Stage.SIGN:
                message, states[client] = states[client].sign_survivors(request)
            case Stage.REVEAL if params.active:
                message = states.pop(client).on_signatures(request)
            case _:
                message = states.pop(client).on_survivors(request)
        return [message]

    relay = relay_bonawitz(
        agreement, list(inputs), identities=identities, expand=expand, entropy=entropy
    )
    cost = costs[Stage.ADVERTISE]
    while True:
        with clock(cost, "server_seconds"):
            ask = advance(relay)
        if isinstance(ask, Total):
            return Outcome(words=ask.values, survivors=ask.survivors, costs=costs)
        cost = costs[ask.stage]
        for client in present(ask.stage):
            if ask.stage is Stage.MASK:
                words[client] = _words(inputs[client])
            request = ask.requests[client]
            with clock(cost, "client_seconds"):
                messages = answer(client, ask.stage, request)
            send(cost, *messages, answering=request)
            with clock(cost, "server_seconds"):
                ask.receive(messages)


def run_plain(
    agreement: Agreement,
    inputs: Mapping[ClientId, Input],
    dropouts: Mapping[ClientId, Stage] | None = None,
) -> Outcome:
    """The same sum with nothing hidden: the server sees every vector. For comparison only."""
    costs: Costs = {stage: StageCost() for stage in Stage}
    cost = costs[Stage.MASK]
    total = np.zeros(agreement.params.words, np.uint64)
    survivors = tuple(Attendance(inputs, dropouts)(Stage.MASK))
    for client in survivors:
        words = _words(inputs[client])
        send(cost, words.tobytes())
        with clock(cost, "server_seconds"):
            total += words
    params = agreement.params
    needed = params.needed(params.plan(len(inputs)))
    if len(survivors) < needed:
        raise TooFewSurvivors(f"{len(survivors)} clients left, {needed} needed")
    return Outcome(words=total, survivors=survivors, costs=costs)


PROTOCOLS: Mapping[str, Callable[..., Outcome]] = {"bonawitz": run_bonawitz, "plain": run_plain}
PROTOCOL_NAMES: Final = (*PROTOCOLS, *CKKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """What :func:`aggregate` gives.

    Attributes:
      sum: of the survivors' vectors, each times its weight; shaped as the updates were.
      mean: ``sum`` over ``weight``.
      weight: total weight of the survivors; their number where no weights were given.
      survivors: the clients that are in the sum, in order.
      costs: bytes and seconds by stage.
    """

    sum: Any = field(repr=False)
    mean: Any = field(repr=False)
    weight: int
    survivors: tuple[int, ...]
    costs: Costs = field(repr=False)


def aggregate(
    updates: Sequence[Any],
    *,
    weights: Sequence[int] | None = None,
    codec: Codec | Mapping[str, Codec] = FixedPoint(clip=1.0, bits=16),
    threshold: int | None = None,
    rates: Rates | None = None,
    active: bool = False,
    minimum_survivors: int | None = None,
    dropouts: Mapping[int, Stage | str] | None = None,
    protocol: str = "bonawitz",
    suite: Suite = Suite.AES_128_CTR,
) -> Aggregate:
    """Sum the clients' updates under a protocol, all parties in this process.

    The mean is within one quantisation step of the true mean of the clipped
    updates, whatever the weights; everything a client brings, its weight too,
    travels in the one masked vector. Under CKKS the largest error of the mean is expected at
    2^-14 of the clip instead; one sum in 12 has a larger one. A total weight may be off by as
    much of itself.

    Args:
      updates: one a client: a vector (array, torch tensor, list of floats), or
        a dict of named vectors and numbers, the same names and lengths for all.
      weights: one integer a client, such as its number of examples.
      codec: how floats become integers, for all names or for each; ``Noised`` for integers
        in which a share of noise is already (``dp.noise.mechanisms``), which no weight may touch.
      threshold: shares that open a sum; default a majority of the clients, and of
        two thirds against an active server.
      rates: a sparse graph instead, planned for these fractions of corrupt clients
        and of dropouts.
      active: the server may lie; the clients sign.
      minimum_survivors: clients refuse to open a sum of fewer; default ``threshold``,
        or with ``rates`` half of the clients.
      dropouts: the stage at which a client, by its place in ``updates``, vanishes.
      protocol: ``bonawitz``; ``ckks`` or ``threshold-ckks``, see ``secagg.rounds.ckks``; or
        ``plain``, which hides nothing.

    Raises:
      InputError: updates that do not fit together, or are not finite.
      RangeError: the sum could overflow with this many clients, weights and bits.
      TooFewSurvivors: fewer than ``threshold`` or ``minimum_survivors`` are left.
    """
    clients = len(updates)
    if protocol not in PROTOCOL_NAMES:
        raise InputError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOL_NAMES)}")
    if protocol in CKKS and (threshold is not None or rates is not None or active):
        raise InputError(f"threshold, rates and active are for bonawitz, not for {protocol}")
    if weights is not None and len(weights) != clients:
        raise InputError(f"{len(weights)} weights for {clients} updates")
    if clients < 2:
        raise InputError(f"{clients} updates: at least 2 clients can hide in a sum")
    named = [update if isinstance(update, Mapping) else {UPDATE: update} for update in updates]
    if any(update.keys() != named[0].keys() for update in named):
        raise InputError("every update needs the same names")
    if WEIGHT in named[0]:
        raise InputError(f"the name {WEIGHT!r} is taken; pass weights=[...]")

    codecs = codec if isinstance(codec, Mapping) else dict.fromkeys(named[0], codec)
    if codecs.keys() != named[0].keys():
        raise InputError(f"codecs for {sorted(codecs)}, updates have {sorted(named[0])}")
    heaviest = 1 if weights is None else max(1, *map(_weight, weights))
    segments = [
        Segment(
            name=name,
            entries=len(_flat(value)),
            codec=codecs[name],
            weighted=not isinstance(codecs[name], Noised),
        )
        for name, value in named[0].items()
    ]
    if weights is not None and not all(segment.weighted for segment in segments):
        raise InputError("weights beside noised integers would be a release of their own")
    if weights is not None:
        segments.append(Segment(name=WEIGHT, entries=1, codec=Count(maximum=heaviest)))
    layout = Layout(segments=tuple(segments), clients=clients, max_weight=heaviest)

    def encode(client: int) -> Any:
        weight = 1 if weights is None else weights[client]
        own = {name: _flat(value) for name, value in named[client].items()}
        own |= {} if weights is None else {WEIGHT: [weight]}
        into = layout.encode_reals if protocol in CKKS else layout.encode
        return into(own, weight=weight)

    if rates is None and threshold is None:
        threshold = majority(clients, clients // 3 if active else 0)
    if minimum_survivors is None:
        minimum_survivors = threshold or majority(clients)
    vectors = {client: encode(client) for client in range(clients)}
    stages = {client: _stage(stage) for client, stage in (dropouts or {}).items()}
    public = digest(layout.to_bytes())
    outcome: Outcome | RealOutcome
    if protocol in CKKS:
        outcome = run_ckks(
            protocol,
            layout,
            vectors,
            stages,
            clients=clients,
            minimum_survivors=minimum_survivors,
            public=public,
        )
    else:
        params = Params(
            clients=clients,
            threshold=threshold,
            rates=rates,
            active=active,
            minimum_survivors=minimum_survivors,
            words=layout.words,
            suite=suite,
        )
        agreement = Agreement(params=params, session=system(SESSION_SIZE), round=0, public=public)
        outcome = PROTOCOLS[protocol](agreement, vectors, stages)
    sums = outcome.sums(layout)
    weight = int(sums.pop(WEIGHT)[0]) if weights is not None else len(outcome.survivors)
    if not weight:
        raise InputError("the survivors' weights are all 0; there is no mean")
    total = {name: _like(named[0][name], value) for name, value in sums.items()}
    mean = {name: _like(named[0][name], value / weight) for name, value in sums.items()}
    whole = isinstance(updates[0], Mapping)
    return Aggregate(
        sum=total if whole else total[UPDATE],
        mean=mean if whole else mean[UPDATE],
        weight=weight,
        survivors=outcome.survivors,
        costs=outcome.costs,
    )


def _words(given: Input) -> Words:
    return given() if callable(given) else given


def _weight(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise InputError(f"weight {value!r} is not a count; weights are integers from 0")
    return int(value)


def _stage(name: Stage | str) -> Stage:
    try:
        return Stage(name)
    except ValueError:
        raise InputError(f"no stage {name!r}; stages: {', '.join(Stage)}") from None


def _flat(value: Any) -> Any:
    """In one dimension: a torch tensor stays one, on its device."""
    return value.detach().reshape(-1) if hasattr(value, "detach") else np.ravel(value)


def _like(example: Any, values: NDArray[np.float64]) -> Any:
    """``values`` in the shape of ``example``: a tensor on its device, an array, or a number."""
    if hasattr(example, "new_tensor"):
        return example.new_tensor(values).reshape(example.shape)
    shape = np.shape(example)
    return values.reshape(shape) if shape else float(values[0])
