"""Sums and means of model updates, whatever the protocol, with all parties in this process.

As everywhere in this room such a sum measures; it protects nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols import bonawitz, ckks
from protocols.bonawitz import ClientId, Rates
from protocols.entropy import system
from protocols.primitives.prg import Suite
from protocols.primitives.shamir import majority
from protocols.wire import SESSION_SIZE, digest
from secagg.errors import InputError
from secagg.rounds.attendance import Costs
from secagg.rounds.ckks import CKKS, FLOODING, HOLDERS, PRECISION
from secagg.rounds.in_memory import Dropouts, Outcome, run_bonawitz, run_ckks, run_plain
from secagg.stage import Stage
from secagg.vectors.layout import UPDATE, WEIGHT, Count, Layout, NoisyIntegers, Segment
from secagg.vectors.quantize import FixedPoint

Codec: TypeAlias = FixedPoint | NoisyIntegers

PROTOCOL_NAMES: Final = ("bonawitz", "plain", *CKKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bonawitz:
    """Masks that cancel in the sum, ``protocols.bonawitz``. Sums are exact.

    Attributes:
      threshold: shares that open a sum; default a majority of the clients, and of
        two thirds against an active server.
      rates: a sparse graph instead, planned for these fractions of corrupt clients
        and of dropouts.
      active: the server may lie; the clients sign.
      minimum_survivors: clients refuse to open a sum of fewer; default ``threshold``,
        or with ``rates`` half of the clients.
      suite: the cipher that makes the masks.
    """

    threshold: int | None = None
    rates: Rates | None = None
    active: bool = False
    minimum_survivors: int | None = None
    suite: Suite = Suite.AES_128_CTR

    def params(self, layout: Layout) -> bonawitz.Params:
        """What protects a sum of at most ``layout.clients``."""
        clients, threshold, minimum = layout.clients, self.threshold, self.minimum_survivors
        if self.rates is None and threshold is None:
            threshold = majority(clients, clients // 3 if self.active else 0)
        return bonawitz.Params(
            clients=clients,
            threshold=threshold,
            rates=self.rates,
            active=self.active,
            minimum_survivors=(threshold or majority(clients)) if minimum is None else minimum,
            words=layout.words,
            suite=self.suite,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ckks:
    """Approximate homomorphic encryption, ``protocols.ckks``. Every round makes its own key.

    Attributes:
      model: who opens the sum: the server with ``THRESHOLD`` holders of the key, or every
        client with the ``SHARED_KEY`` of all, and the server not.
      holders: of a threshold key; the first clients that are there.
      flooding, precision: as in ``protocols.ckks.plan``.
      minimum_survivors: clients open no sum of fewer; default a majority of the clients.
    """

    model: ckks.Model = ckks.Model.THRESHOLD
    holders: int = HOLDERS
    flooding: int = FLOODING
    precision: float = PRECISION
    minimum_survivors: int | None = None

    def params(self, layout: Layout, there: int) -> ckks.Params:
        """What protects a sum of at most ``layout.clients``, of whom so many are there.

        Raises:
          protocols.InputError: no parameters are precise enough.
        """
        minimum = self.minimum_survivors
        return ckks.plan_parameters(
            model=self.model,
            clients=layout.clients,
            entries=layout.reals,
            clip=1.0,
            precision=self.precision,
            flooding=self.flooding,
            holders=min(self.holders, there) if self.model is ckks.Model.THRESHOLD else 0,
            minimum_survivors=majority(layout.clients) if minimum is None else minimum,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """Nothing is hidden, for comparison.

    Attributes:
      minimum_survivors: there is no sum of fewer; default a majority of the clients.
    """

    minimum_survivors: int | None = None

    def params(self, layout: Layout) -> bonawitz.Params:
        """Parameters of a sum without masks: the words and the minimum as with them."""
        minimum = self.minimum_survivors
        needed = majority(layout.clients) if minimum is None else minimum
        return Bonawitz(threshold=needed).params(layout)


Protocol: TypeAlias = Bonawitz | Ckks | Plain


def run_protocol(
    protocol: Protocol,
    layout: Layout,
    inputs: Mapping[ClientId, Any],
    dropouts: Dropouts | None = None,
    *,
    public: bytes,
    round_number: int = 0,
) -> Outcome:
    """One round among at most ``layout.clients``, in a session of its own.

    Args:
      inputs, dropouts: as in ``run_bonawitz`` and ``run_ckks``.
      public: SHA-256 over whatever else the clients agree upon.
      round_number: on the messages of masks.
    """
    own: dict[str, Any] = {"session": system(SESSION_SIZE), "public_digest": public}
    if isinstance(protocol, Ckks):
        params = protocol.params(layout, len(inputs))
        return run_ckks(ckks.Agreement(params=params, **own), inputs, dropouts)
    agreement = bonawitz.Agreement(params=protocol.params(layout), round=round_number, **own)
    run = run_plain if isinstance(protocol, Plain) else run_bonawitz
    return run(agreement, inputs, dropouts)


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
    dropouts: Mapping[int, Stage | str] | None = None,
    protocol: Protocol = Bonawitz(),
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
      codec: how floats become integers, for all names or for each; ``NoisyIntegers`` for integers
        in which a share of noise is already (``dp.noise.mechanisms``), which no weight may touch.
      dropouts: the stage at which a client, by its place in ``updates``, vanishes.
      protocol: and its settings.

    Raises:
      InputError: updates that do not fit together, or are not finite.
      InputError: the sum could overflow with this many clients, weights and bits.
      TooFewSurvivors: fewer are left than the protocol's settings say.
      MissingExtraError: the protocol needs tenseal, which is not installed.
    """
    if not isinstance(protocol, Protocol):
        raise InputError(f"unknown protocol {protocol!r}; known: Bonawitz(), Ckks(), Plain()")
    named = _named(updates, weights)
    layout = _layout(named, weights, codec)
    into = layout.encode_reals if isinstance(protocol, Ckks) else layout.encode
    vectors = {}
    for client, update in enumerate(named):
        own, weight = {name: _flat(value) for name, value in update.items()}, 1
        if weights is not None:
            own[WEIGHT] = [weight := weights[client]]
        vectors[client] = into(own, weight=weight)
    stages = {client: _stage(stage) for client, stage in (dropouts or {}).items()}
    public = digest(layout.to_bytes())
    outcome = run_protocol(protocol, layout, vectors, stages, public=public)
    sums = outcome.sums(layout)
    weight = int(sums.pop(WEIGHT)[0]) if weights is not None else len(outcome.survivors)
    if not weight:
        raise InputError("weights of all survivors are 0, so there is no mean; one must be above 0")
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


def _named(updates: Sequence[Any], weights: Sequence[int] | None) -> list[Mapping[str, Any]]:
    """Every update with names, checked against the others."""
    clients = len(updates)
    if weights is not None and len(weights) != clients:
        raise InputError(f"{len(weights)} weights for {clients} updates")
    if clients < 2:
        raise InputError(f"{clients} updates: at least 2 clients can hide in a sum")
    named = [update if isinstance(update, Mapping) else {UPDATE: update} for update in updates]
    if any(update.keys() != named[0].keys() for update in named):
        raise InputError("updates must all have the same names")
    if WEIGHT in named[0]:
        raise InputError(f"the name {WEIGHT!r} is taken; pass weights=[...]")
    return named


def _layout(
    named: Sequence[Mapping[str, Any]],
    weights: Sequence[int] | None,
    codec: Codec | Mapping[str, Codec],
) -> Layout:
    """The place of everything that a client brings in its vector."""
    codecs = codec if isinstance(codec, Mapping) else dict.fromkeys(named[0], codec)
    if codecs.keys() != named[0].keys():
        raise InputError(f"codecs for {sorted(codecs)}, updates have {sorted(named[0])}")
    segments = [
        Segment(
            name=name,
            entries=len(_flat(value)),
            codec=codecs[name],
            weighted=not isinstance(codecs[name], NoisyIntegers),
        )
        for name, value in named[0].items()
    ]
    heaviest = 1
    if weights is not None:
        heaviest = max(1, *map(_weight, weights))
        if not all(segment.weighted for segment in segments):
            raise InputError("weights beside noisy integers would be released; leave them out")
        segments.append(Segment(name=WEIGHT, entries=1, codec=Count(maximum=heaviest)))
    return Layout(segments=tuple(segments), clients=len(named), max_weight=heaviest)


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
    """The value in one dimension: a torch tensor stays one, on its device."""
    return value.detach().reshape(-1) if hasattr(value, "detach") else np.ravel(value)


def _like(example: Any, values: NDArray[np.float64]) -> Any:
    """``values`` in the shape of ``example``: a tensor on its device, an array, or a number."""
    if hasattr(example, "new_tensor"):
        return example.new_tensor(values).reshape(example.shape)
    shape = np.shape(example)
    return values.reshape(shape) if shape else float(values[0])
