"""Sums and means of model updates, whatever the protocol, with all parties in this process.

As everywhere in this room such a sum measures; it protects nothing.
"""

import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

import protocols
from protocols import bonawitz, ckks
from protocols.bonawitz import ClientId, Rates
from protocols.entropy import system
from protocols.primitives.prg import Expand, Suite
from protocols.primitives.shamir import majority
from protocols.wire import SESSION_SIZE, digest
from secagg.errors import InputError
from secagg.rounds.attendance import Costs
from secagg.rounds.ckks import CKKS, FLOODING, HOLDERS, PRECISION
from secagg.rounds.in_memory import (
    Dropouts,
    OnStage,
    Outcome,
    run_bonawitz,
    run_ckks,
    run_plain,
)
from secagg.rounds.masking import expand
from secagg.stage import Stage
from secagg.vectors.buffers import (
    STATISTICS,
    is_counter,
    is_statistic,
    is_variance,
    no_negative_variance,
)
from secagg.vectors.compress import NOTHING, SEED_SIZE, Compress
from secagg.vectors.layout import Count, Layout, NoisyIntegers, Segment
from secagg.vectors.packing import BLOCK_WORDS
from secagg.vectors.quantize import FixedPoint, refuse_non_finite
from secagg.vectors.sums import Params, Vector, encode
from secagg.vectors.trees import Form, Models, named_arrays, read_models, vector_of

Codec: TypeAlias = FixedPoint | Count | NoisyIntegers

BITS: Final = 16  # of an entry, sign included: three to a word for up to 32 clients
CUT: Final = 1e-3  # of an array's entries: above it a clip is worth a warning
CKKS_ERROR: Final = 2.0**-13  # of the clip: twice what an entry of a mean is expected to be off by

Brought: TypeAlias = tuple[Mapping[str, Any], int]  # values by segment, and their weight

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
      expand: how they are put on and taken off; see ``secagg.rounds.masking``.
    """

    threshold: int | None = None
    rates: Rates | None = None
    active: bool = False
    minimum_survivors: int | None = None
    suite: Suite = Suite.AES_128_CTR
    expand: Expand = field(default=expand, repr=False)

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
    """Homomorphic encryption, ``protocols.ckks``. Every round makes its own key.

    Reals are approximate. Counts, weights and integers with noise are exact, but on SEAL.

    Attributes:
      model: who opens the sum: the server with ``THRESHOLD`` holders of the key, or every
        client with the ``SHARED_KEY`` of all, and the server not.
      holders: of a threshold key; the first clients that are there.
      engine: whose arithmetic: ``COEFFICIENTS``, or ``SEAL`` by tenseal.
      flooding, precision: as in ``protocols.ckks.plan_parameters``.
      minimum_survivors: clients open no sum of fewer; default a majority of the clients.
    """

    model: ckks.Model = ckks.Model.THRESHOLD
    engine: ckks.Engine = ckks.Engine.COEFFICIENTS
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
        seal = self.engine is ckks.Engine.SEAL
        return ckks.plan_parameters(
            model=self.model,
            engine=self.engine,
            clients=layout.clients,
            entries=layout.reals if seal else layout.floats,
            integers=() if seal else layout.integers,
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
    inputs: Mapping[ClientId, Callable[[], Brought]],
    dropouts: Dropouts | None = None,
    *,
    public: bytes,
    round_number: int = 0,
    on_stage: OnStage | None = None,
) -> Outcome:
    """One round among at most ``layout.clients``, in a session of its own.

    Args:
      inputs: of each client what makes its values by segment, and their weight; asked when it
        sends them.
      dropouts: as in ``run_bonawitz`` and ``run_ckks``.
      public: SHA-256 over whatever else the clients agree upon.
      round_number: on the messages of masks.
      on_stage: called when a stage begins.
    """
    more: dict[str, Any] = {} if on_stage is None else {"on_stage": on_stage}
    own: dict[str, Any] = {"session": system(SESSION_SIZE), "public_digest": public}
    if isinstance(protocol, Ckks):
        params = protocol.params(layout, len(inputs))
        vectors = _encoded(layout, params, inputs)
        return run_ckks(ckks.Agreement(params=params, **own), vectors, dropouts, **more)
    agreement = bonawitz.Agreement(params=protocol.params(layout), round=round_number, **own)
    words = _encoded(layout, agreement.params, inputs)
    if isinstance(protocol, Plain):
        return run_plain(agreement, words, dropouts, **more)
    return run_bonawitz(agreement, words, dropouts, expand=protocol.expand, **more)


def _encoded(
    layout: Layout, params: Params, inputs: Mapping[ClientId, Callable[[], Brought]]
) -> dict[ClientId, Callable[[], Vector]]:
    def vector(client: ClientId) -> Vector:
        try:
            values, weight = inputs[client]()
            return encode(layout, params, values, weight=weight)
        except InputError as error:
            raise InputError(f"client {client}: {error}") from None

    return {client: partial(vector, client) for client in inputs}


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """What :func:`aggregate` gives. Prints shapes and costs, and no value.

    Attributes:
      sum: of the survivors' arrays, each times its weight, in the containers of the updates;
        with ``start`` of what they changed. Counts are int64, and no weight touches them.
      mean: ``sum`` over ``weight``, of counts over the number of survivors; with ``start`` the
        model that this makes of it. float32, or float64 where a client brought that.
      weight: total weight of the survivors; their number where no weights were given.
      survivors: the clients that are in the sum, in order.
      costs: bytes and seconds by stage.
      clipped: by name, entries of all survivors that the clip cut; summed under the masks.
      kept: integers that are in no sum: they stay as the server has them.
    """

    sum: Any
    mean: Any
    weight: int
    survivors: tuple[int, ...]
    costs: Costs
    clipped: Mapping[str, int]
    kept: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shapes = [f"{name} {tuple(leaf.shape)}" for name, leaf in named_arrays(self.mean).items()]
        if len(shapes) > _SHOWN:
            shapes[_SHOWN:] = [f"{len(shapes) - _SHOWN} more"]
        up, down, client, server = (
            sum(getattr(cost, name) for cost in self.costs.values())
            for name in ("bytes_up", "bytes_down", "client_seconds", "server_seconds")
        )
        return (
            f"Aggregate({', '.join(shapes)}; weight {self.weight}, survivors "
            f"{len(self.survivors)}, clipped entries {sum(self.clipped.values())}, kept arrays "
            f"{len(self.kept)}; bytes of a client {up} up and {down} down, seconds of all clients "
            f"{client:.3g}, of the server {server:.3g})"
        )


_SHOWN: Final = 6  # shapes in a repr


# One argument for each thing that people say of their updates; all but the first have a default.
def aggregate(
    updates: Iterable[Any],
    *,
    clip: float | Mapping[str, float] | None = None,
    start: Any = None,
    weights: Iterable[int] | None = None,
    counts: str | Iterable[str] = (),
    codec: Codec | Mapping[str, Codec] | None = None,
    compress: Compress = NOTHING,
    dropouts: Mapping[int, Stage | str] | None = None,
    protocol: Protocol = Bonawitz(),
) -> Aggregate:
    """Sum the clients' updates under a protocol, all parties in this process.

    >>> result = aggregate([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], clip=8.0)
    >>> result.sum.round(2).tolist(), result.mean.round(2).tolist()
    ([5.0, 7.0, 9.0], [2.5, 3.5, 4.5])
    >>> result = aggregate([{"w": [0.5, 1.0]}, {"w": [0.3, 3.0]}], clip=4.0)
    >>> result.mean["w"].round(2).tolist(), result.clipped
    ([0.4, 2.0], {'w': 0})

    The mean is within one quantisation step, clip / 32767, of the true mean of the clipped
    updates, whatever the weights; everything a client brings, its weight too,
    travels in the one masked vector. float32 adds its own rounding. Under CKKS the largest error
    of the mean is expected at 2^-14 of the clip instead; one sum in 12 has a larger one. A total
    weight may be off by as much of itself.

    | array                                       | what becomes of it                           |
    |---------------------------------------------|----------------------------------------------|
    | floats                                      | averaged; an entry beyond the clip is cut    |
    | ``running_mean``, ``running_var``           | averaged within 2^16, in steps of 3.1e-5, or |
    |                                             | within the clip that names them              |
    | integers and booleans in ``counts``         | summed exactly                               |
    | other integers                              | stay as ``start`` has them                   |
    | ``num_batches_tracked`` without ``start``   | left out: ``load_state_dict`` keeps its own  |
    | other integers without ``start``            | ``InputError``                               |

    Args:
      updates: one a client, the same names and shapes for all: arrays, tensors, torch modules,
        ``state_dict``s, or any dicts, lists and tuples of them; ``secagg.vectors.trees`` has the
        table.
      clip: the largest absolute value that an entry keeps, chosen before it is known:
        :func:`calibrate_clip` finds one. Or by name, where a name may be a pattern such as
        ``"*.bias"``: an exact name goes first, then the first pattern that fits, ``"*"`` last.
      start: the model that every client began with. Then what is clipped and summed is what
        a client changed, and ``mean`` is the new model.
      weights: one integer a client, such as its number of examples.
      counts: names, or patterns of them, of integers from 0 that are to be summed.
      codec: how numbers become integers, where ``clip`` and ``counts`` do not say enough; for all
        names or for some. ``NoisyIntegers`` for integers in which a share of noise is already
        (``dp.noise.mechanisms``), which no weight may touch.
      compress: what is sent of each array of floats but running statistics, by a public seed that
        is drawn for this sum and that the masks are bound to. ``clip`` is then of what is sent, and
        ``sum`` an estimate without bias.
      dropouts: the stage at which a client, by its place in ``updates``, vanishes.
      protocol: and its settings.

    Warns:
      UserWarning: the clip cut more than a thousandth of an array.

    Raises:
      InputError: updates that do not fit together, or are not finite; the message numbers the
        client.
      InputError: the sum could overflow with this many clients, weights and bits.
      TooFewSurvivors: fewer are left than the protocol's settings say.
      MissingExtraError: SEAL is asked for, and tenseal is not installed.
    """
    return aggregate_bound(
        updates,
        (),
        clip=clip,
        start=start,
        weights=weights,
        counts=counts,
        codec=codec,
        compress=compress,
        dropouts=dropouts,
        protocol=protocol,
    )


def aggregate_bound(
    updates: Iterable[Any],
    public: Sequence[bytes],
    *,
    clip: float | Mapping[str, float] | None = None,
    start: Any = None,
    weights: Iterable[int] | None = None,
    counts: str | Iterable[str] = (),
    codec: Codec | Mapping[str, Codec] | None = None,
    compress: Compress = NOTHING,
    dropouts: Mapping[int, Stage | str] | None = None,
    protocol: Protocol = Bonawitz(),
) -> Aggregate:
    """Sum as :func:`aggregate` does, under masks that are bound to ``public`` too."""
    if not isinstance(protocol, Protocol):
        raise InputError(f"unknown protocol {protocol!r}; known: Bonawitz(), Ckks(), Plain()")
    models = read_models(updates, start)
    heavy = None if weights is None else read_weights(weights, len(models))
    approximate = isinstance(protocol, Ckks)
    seal = isinstance(protocol, Ckks) and protocol.engine is ckks.Engine.SEAL
    codecs = _codecs(models, clip, counts, codec, approximate=approximate, seal=seal)
    vectors = _Vectors(models, codecs, heavy, compress)
    outcome = run_clients(
        protocol,
        vectors.layout,
        lambda client: (vectors.of(client), heavy[client] if heavy else 1),
        dropouts,
        public=(str(compress).encode(), vectors.seed, *public),
    )
    return vectors.aggregate(outcome, approximate=approximate)


def run_clients(
    protocol: Protocol,
    layout: Layout,
    brings: Callable[[int], Brought],
    dropouts: Mapping[int, Stage | str] | None = None,
    *,
    public: Sequence[bytes] = (),
) -> Outcome:
    """One round of ``layout.clients``, each of whom brings its values when it is asked for.

    Args:
      public: what the clients agree upon beside the layout.

    Raises:
      InputError: as its encoding does, with the client's number; or settings that cannot work.
    """
    inputs = {client: partial(brings, client) for client in range(layout.clients)}
    stages = _stages(dropouts, layout.clients)
    try:
        return run_protocol(
            protocol, layout, inputs, stages, public=digest(layout.to_bytes(), *public)
        )
    except protocols.InputError as error:
        raise InputError(str(error)) from error


class _Vectors:
    """Clients' vectors in one layout: their arrays, and what we sum beside them."""

    def __init__(
        self,
        models: Models,
        codecs: Mapping[str, Codec],
        weights: Sequence[int] | None,
        compress: Compress,
    ) -> None:
        self.models, self.codecs, self.weights = models, codecs, weights
        self.seed = system(SEED_SIZE)
        self.compress = {
            name: compress
            for name, codec in codecs.items()
            if isinstance(codec, FixedPoint) and not is_statistic(name)
        }
        if compress != NOTHING and not self.compress:
            raise InputError("compress is of floats, and the updates hold none")
        noisy = any(isinstance(codec, NoisyIntegers) for codec in codecs.values())
        self.clips = {
            name: codec.clip for name, codec in codecs.items() if isinstance(codec, FixedPoint)
        }
        segments = [
            Segment(
                name=name,
                entries=self._size(name),
                codec=codec,
                weighted=isinstance(codec, FixedPoint),
            )
            for name, codec in codecs.items()
        ]
        # Names of our own that no array has.
        self.weight, self.clipped = (_free(name, models.forms) for name in ("weight", "clipped"))
        heaviest = 1
        if weights is not None:
            heaviest = max(1, *weights)
            if noisy:
                raise InputError("weights beside noised integers would be a release of their own")
            if not self.clips:
                raise InputError("weights are given, but counts take none and there is no float")
            segments.append(Segment(name=self.weight, entries=1, codec=Count(maximum=heaviest)))
        # Beside noise, any other number would be a release of its own.
        self.counted = tuple(() if noisy else self.clips)
        if self.counted:
            most = max(1, *map(self._size, self.counted))
            codec = Count(maximum=most)
            segments.append(Segment(name=self.clipped, entries=len(self.counted), codec=codec))
        self.layout = Layout(segments=tuple(segments), clients=len(models), max_weight=heaviest)

    def _size(self, name: str) -> int:
        """Entries that are sent of an array."""
        return self.compress.get(name, NOTHING).size(self.models.forms[name].entries)

    def _seed(self, name: str) -> bytes:
        """Arrays of one length are not sampled at the same places."""
        return digest(self.seed, name.encode())

    def of(self, client: int) -> dict[str, Any]:
        """What a client brings, by the name of its segment."""
        values: dict[str, Any] = {}
        for name in self.codecs:
            vector = self.models.vector(client, name)
            whole = name in self.clips and vector.dtype.kind != "f"
            values[name] = vector.astype(np.float64) if whole else vector
            if name in self.compress:
                refuse_non_finite(vector, 0, name, np.empty(len(vector), np.bool_))
                values[name] = self.compress[name].forward(values[name], seed=self._seed(name))
        if self.counted:
            values[self.clipped] = [
                _beyond(values[name], self.clips[name]) for name in self.counted
            ]
        if self.weights is not None:
            values[self.weight] = self.weights[client]
        return values

    def aggregate(self, outcome: Outcome, *, approximate: bool) -> Aggregate:
        """What a sum of such vectors says."""
        sums, survivors = outcome.sums(self.layout), len(outcome.survivors)
        weight = survivors if self.weights is None else int(sums.pop(self.weight)[0])
        if weight < 1:
            raise InputError("the survivors' weights are all 0; there is no mean")
        clipped: dict[str, int] = {}
        if self.counted:
            beyond = np.maximum(sums.pop(self.clipped), 0).tolist()
            clipped = dict(zip(self.counted, beyond, strict=True))
        totals, means = dict[str, NDArray[Any]](), dict[str, NDArray[Any]]()
        for name in self.codecs:
            form, total = self.models.forms[name], sums.pop(name)
            if name in self.compress:
                mapped = self.compress[name]
                total = mapped.backward(total, form.entries, seed=self._seed(name))
            mean = total / (weight if name in self.clips else survivors)
            if approximate and is_variance(name) and name in self.clips:
                mean[(mean < 0) & (mean >= -CKKS_ERROR * self.clips[name])] = 0.0
            if self.models.start is not None and not form.integer:
                before = vector_of(self.models.start[name])
                mean = no_negative_variance(name, mean + before, before)
            kind = np.float64 if form.integer else form.dtype
            totals[name] = total if total.dtype == np.int64 else total.astype(kind, copy=False)
            means[name] = mean.astype(kind, copy=False)
        kept = tuple(name for name in self.models.forms if name not in self.codecs)
        if self.models.start is not None:
            means |= {name: vector_of(self.models.start[name]).copy() for name in kept}
        _warn_of_clip(clipped, {name: self._size(name) for name in clipped}, survivors)
        return Aggregate(
            sum=self.models.rebuild(totals),
            mean=self.models.rebuild(means),
            weight=weight,
            survivors=outcome.survivors,
            costs=outcome.costs,
            clipped=clipped,
            kept=kept,
        )


def _codecs(
    models: Models,
    clip: float | Mapping[str, float] | None,
    counts: str | Iterable[str],
    codec: Codec | Mapping[str, Codec] | None,
    *,
    approximate: bool,
    seal: bool,
) -> dict[str, Codec]:
    """How each array becomes integers; one that stays where it is has none."""
    forms = models.forms
    counted = _patterns("counts", counts, forms)
    clips = clip if isinstance(clip, Mapping) else {} if clip is None else {"*": clip}
    _patterns("clip", clips, forms)
    if codec is not None and not isinstance(codec, Mapping):
        if clip is not None or counted:
            raise InputError("codec= says it of all arrays; leave out clip= and counts=, or name")
        codec = dict.fromkeys(forms, codec)
    own = dict(codec or {})
    if strange := sorted(map(repr, own.keys() - forms.keys())):
        raise InputError(f"codecs for {', '.join(strange)}, updates have {_some(forms)}")
    found: dict[str, Codec] = {}
    for name, form in forms.items():
        if name in own:
            if not isinstance(own[name], Codec):
                raise InputError(f"{name!r}: {type(own[name]).__name__} is no codec")
            found[name] = own[name]
        elif any(fnmatchcase(name, pattern) for pattern in counted):
            if not form.integer:
                raise InputError(f"{name!r} holds floats; counts are integers or booleans")
            if seal:
                raise InputError(
                    f"{name!r}: sums on SEAL are approximate; how large a count may be, "
                    f"codec={{{name!r}: Count(maximum=...)}}, says how exact its sum is"
                )
            found[name] = Count(maximum=(2**63 - 1) // len(models))
        elif is_counter(name) and name not in clips:
            continue
        elif not form.integer:
            found[name] = _float_codec(name, clips, approximate=approximate)
        elif name in clips:
            raise InputError(f"{name!r} holds integers: hand it over as floats to average it")
        elif models.start is None:
            raise InputError(
                f"{name!r} holds integers: name it in counts=[{name!r}] to sum it, hand it over "
                "as floats to average it, or give the server's own as start= to keep that"
            )
    if not any(forms[name].entries for name in found):
        raise InputError("the updates hold nothing to sum but counters that stay where they are")
    return found


def _float_codec(name: str, clips: Mapping[str, Any], *, approximate: bool) -> FixedPoint:
    fitting = [pattern for pattern in clips if pattern != "*" and fnmatchcase(name, pattern)]
    if name in clips:
        clip = clips[name]
    elif fitting:
        clip = clips[fitting[0]]
    elif is_statistic(name) and not approximate:
        return STATISTICS
    elif is_statistic(name):
        raise InputError(
            f"{name!r}: CKKS rounds to a part of the clip, so running statistics need one of their "
            f"own, clip={{'*': ..., '*.running_*': ...}}"
        )
    elif "*" in clips:
        clip = clips["*"]
    else:
        raise InputError(
            f"no clip for {name!r}: say clip=..., the largest absolute value that an entry keeps; "
            "secagg.calibrate_clip finds one"
        )
    try:
        return FixedPoint(clip=clip, bits=BITS)
    except InputError as error:
        raise InputError(f"{name!r}: {error}") from None


def _patterns(what: str, patterns: Any, forms: Mapping[str, Form]) -> list[str]:
    """Names, or patterns of them, each of which fits an array."""
    given = [patterns] if isinstance(patterns, str) else _listed(what, patterns)
    for pattern in given:
        if not isinstance(pattern, str):
            raise InputError(f"{what} holds {pattern!r:.40}, expected names of arrays")
        if pattern != "*" and not any(
            name == pattern or fnmatchcase(name, pattern) for name in forms
        ):
            raise InputError(f"{what} names {pattern!r}, updates have {_some(forms)}")
    return given


def _listed(what: str, values: Any) -> list[Any]:
    try:
        return list(values)
    except TypeError:
        raise InputError(f"{what} is a {type(values).__name__}, expected several") from None


def _some(names: Iterable[str]) -> str:
    some = list(map(repr, names))
    return ", ".join(some[:_SHOWN]) + (" ..." if len(some) > _SHOWN else "")


def read_weights(weights: Iterable[int], clients: int) -> list[int]:
    """One a client, each an integer from 0; ``InputError`` for anything else."""
    if isinstance(weights, Mapping | Set | str):  # no list, or in no order
        raise InputError(f"weights is a {type(weights).__name__}, expected one integer a client")
    listed = _listed("weights", weights)
    if len(listed) != clients:
        raise InputError(f"{len(listed)} weights for {clients} updates")
    return [_weight(client, value) for client, value in enumerate(listed)]


def _weight(client: int, value: Any) -> int:
    try:
        weight = operator.index(value)  # numpy's and torch's too
    except (TypeError, ValueError, RuntimeError):
        weight = -1
    boolean = isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
    if boolean or not 0 <= weight < 2**63:
        raise InputError(
            f"client {client}: weight {value!r:.40} is not a count, an integer from 0 to 2^63 - 1; "
            "pass the number of examples"
        )
    return weight


def _stages(dropouts: Any, clients: int) -> dict[int, Stage]:
    if dropouts is None:
        return {}
    if not isinstance(dropouts, Mapping):
        raise InputError(
            f"dropouts is a {type(dropouts).__name__}, expected a dict such as {{3: 'mask'}}"
        )
    for client in dropouts:
        if type(client) is not int or not 0 <= client < clients:
            raise InputError(f"dropouts of clients that do not exist: {client!r:.40}")
    return {client: _stage(stage) for client, stage in dropouts.items()}


def _stage(name: Any) -> Stage:
    try:
        return Stage(name)
    except ValueError:
        raise InputError(f"no stage {name!r:.40}; stages: {', '.join(Stage)}") from None


def _free(name: str, taken: Iterable[str]) -> str:
    """``name``, changed until no array has it."""
    while name in taken:
        name += "'"
    return name


def _beyond(values: NDArray[Any], clip: float) -> int:
    """How many entries the clip cuts."""
    if not len(values) or (float(values.max()) <= clip and float(values.min()) >= -clip):
        return 0
    clip = min(clip, float(np.finfo(values.dtype).max))  # in the precision of what it cuts
    return sum(
        int(np.count_nonzero(np.abs(values[at : at + BLOCK_WORDS]) > clip))
        for at in range(0, len(values), BLOCK_WORDS)
    )


def _warn_of_clip(clipped: Mapping[str, int], sent: Mapping[str, int], survivors: int) -> None:
    shares = {name: count / (sent[name] * survivors) for name, count in clipped.items() if count}
    cut = [name for name, share in shares.items() if share > CUT]
    if cut:
        worst = max(cut, key=shares.__getitem__)
        warnings.warn(
            f"the clip cut {shares[worst]:.2g} of all entries of {worst!r}, and more than a "
            f"thousandth of {len(cut)} of {len(clipped)} arrays: the mean is not theirs; raise it, "
            "secagg.calibrate_clip finds one",
            stacklevel=4,
        )
