"""One sum between machines, as a server proposes it: every public input, in one encoding.

A node reads the proposal before it does anything, and its hash is in the label of every
mask, box and signature: clients who were shown different ones do not cancel. Nothing here
knows an engine; ``secagg.adapters`` carry the bytes.

What a client brings is one vector. Without noise its segments are the update, running statistics in
a range of their own, the number of entries that were cut, the weight, which numbers were cut or
missing, how the work failed, the weight of each array where clients train a part of the model, and
the metrics that the server named. Nothing that a client computed is refused: a refusal would tell
the server of it; a sum of counts says how many. Update and metrics are multiplied by weight /
max_weight before they are rounded, so that a lane need not hold the weight: the weighted mean is
within step * max_weight * survivors / total weight of the true one. Under CKKS update and metrics
are approximate, within 2^-14 of their range for every survivor. With noise the noised vector is all
there is: any other number would be a release of its own.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp.accounting.events import (
    DiscreteGaussianEvent,
    NoSampling,
    PoissonSampling,
    SkellamEvent,
    Unit,
)
from dp.errors import PrivacyError
from dp.noise.mechanisms import DistributedNoise
from protocols import bonawitz, ckks
from protocols.bonawitz import ClientId
from protocols.errors import DecodeError, ProtocolError
from protocols.wire import Header, Reader
from secagg.errors import InputError, RefusedError, SecaggError
from secagg.nodes.versions import Versions
from secagg.vectors.arrays import Shapes
from secagg.vectors.buffers import STATISTICS, is_statistic
from secagg.vectors.compress import NOTHING, Compress
from secagg.vectors.layout import MAX_ENTRIES, UPDATE, WEIGHT, Count, Layout, NoisyIntegers, Segment
from secagg.vectors.quantize import FixedPoint, refuse_non_finite
from secagg.vectors.sums import Vector, decode, encode, length

VERSION: Final = 2  # of the layout too
BONAWITZ: Final = "bonawitz"
THRESHOLD_CKKS: Final = "threshold-ckks"
PROTOCOLS: Final = (BONAWITZ, THRESHOLD_CKKS)
CLIPPED: Final = "clipped"  # entries of an update
CLAMPED: Final = "clamped"  # weight and metrics, one entry each
MISSING: Final = "missing"  # metrics, one entry each
FAILED: Final = "failed"  # one entry for each ``Failure``
PARTS: Final = "parts"  # a client's weight for each array that it trained, otherwise 0
STATISTIC: Final = "statistic"
STATISTIC_LEVELS: Final = 2**46  # a step of the range is 1.9e-9; 2^17 clients fit a word
METRIC: Final = "metric "  # before a metric's name, in the name of its segment
METRIC_BITS: Final = 32
DIGEST_SIZE: Final = 32  # bytes, SHA-256
MAX_SIZE: Final = 2**22  # bytes of a proposal: tens of thousands of arrays, nothing to choke on
MAX_DIMENSIONS: Final = 64  # of an array, numpy's own limit

Params: TypeAlias = bonawitz.Params | ckks.Params


class Failure(StrEnum):
    """Why work came to nothing, in words that hold no data; the order is that of the vector."""

    RAISED = "the app raised an error"
    REPLIED = "the app replied an error"
    ARRAYS = "the reply's arrays are not those that were sent"
    METRICS = "the reply names a metric in two records"
    WEIGHT = "the reply has no whole number to weigh it by"
    UPDATE = "the update is not finite, or of another length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """A weighted mean, without privacy.

    Attributes:
      clip: of an entry of the update.
      bits: of an entry before the sum.
      max_weight: of one client; more is cut to it.
      weighted_by: the name of the weight among a program's metrics.
      metrics: by name, the largest absolute value of each number beside the update.
      by_array: whether the mean of an array is over those who trained it. Who did not brings
        zeros, and who that was stays under the masks.
      compress: what is sent of an update, but of running statistics, by the proposal's seed; clip
        is then of what is sent, and the mean an estimate without bias.
    """

    clip: float
    bits: int
    max_weight: int
    weighted_by: str
    metrics: tuple[tuple[str, float], ...] = ()
    by_array: bool = False
    compress: Compress = NOTHING

    def __post_init__(self) -> None:
        if not isinstance(self.compress, Compress):
            raise InputError(f"compress is {self.compress!r:.40}, expected a Compress")
        if self.by_array and self.compress.rotate:
            raise InputError("rotation mixes arrays, so that none has a mean by itself: by_array")
        if type(self.by_array) is not bool:
            raise InputError(f"by_array is {self.by_array!r:.40}, neither true nor false")
        if not isinstance(self.weighted_by, str):
            raise InputError(f"weighted_by is {self.weighted_by!r:.40}, expected a name")

    def mean_error(self, weight: float, survivors: int) -> float:
        """An entry of the mean is within this of the true one, at that total weight.

        It is ``Result.least_weight`` for any entry.
        """
        step = FixedPoint(clip=self.clip, bits=self.bits).step
        return step * self.max_weight * survivors / weight

    def segments(
        self, entries: int, statistics: int = 0, *, arrays: int = 0, factor: int = 1
    ) -> tuple[Segment, ...]:
        """The segments of the vector; of ``entries`` so many are running statistics.

        ``arrays`` is their number, of account with ``by_array``; ``factor`` is the largest by which
        weights are multiplied: s(0) of ``Versions``.
        """
        codec = FixedPoint(clip=self.clip, bits=self.bits)
        of_range = Count(maximum=2 * STATISTIC_LEVELS)
        sent = self.compress.size(entries - statistics)
        update = (
            *(Segment(name=UPDATE, entries=n, codec=codec) for n in [sent] if n),
            *(Segment(name=STATISTIC, entries=n, codec=of_range) for n in [statistics] if n),
            Segment(name=CLIPPED, entries=1, codec=Count(maximum=max(sent + statistics, 1))),
        )
        metrics = (
            Segment(name=METRIC + name, entries=1, codec=FixedPoint(clip=most, bits=METRIC_BITS))
            for name, most in self.metrics
        )
        counts = (
            Segment(name=name, entries=many, codec=Count(maximum=most))
            for name, many, most in (
                (WEIGHT, 1, self.max_weight * factor),
                (CLAMPED, 1 + len(self.metrics), 1),
                (MISSING, len(self.metrics), 1),
                (FAILED, len(Failure), 1),
                (PARTS, arrays * self.by_array, self.max_weight * factor),
            )
            if many
        )
        return (*(update if entries else ()), *counts, *metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """A sum with a share of noise from every client, and nothing beside it.

    Attributes:
      mechanism: what a client adds its share with. Of examples, a client brings the sum of
        its clipped gradients; of clients, its update.
      sampling_rate: with which each example is in a client's batch, by its own coin; 1 of
        clients, whose cohort the server picks and sees: amplification is never claimed.
    """

    mechanism: DistributedNoise
    sampling_rate: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise InputError(f"sampling_rate {self.sampling_rate} is outside (0, 1]")
        if self.sampling_rate < 1 and self.mechanism.unit is Unit.CLIENT:
            raise InputError("sampling_rate must be 1 where unit is client: the server picks who")

    def event(self, survivors: int | None = None) -> SkellamEvent | DiscreteGaussianEvent:
        """What the sum costs, of the fewest survivors where they are not known yet."""
        rate = self.sampling_rate
        sampling = PoissonSampling(rate=rate) if rate < 1 else NoSampling()
        return self.mechanism.event(survivors=survivors, sampling=sampling)

    def segments(self) -> tuple[Segment, ...]:
        """The segments of the vector."""
        codec = NoisyIntegers(bits=self.mechanism.bits)
        return (Segment(name=UPDATE, entries=self.mechanism.size, codec=codec),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What a client's own program computed. Not printed.

    Attributes:
      vector: the update, or with noise on examples the sum of clipped gradients; flat.
      weight: of the update in the mean.
      metrics: numbers beside it; those that the proposal does not name stay here.
      trained: arrays that were trained, of account with ``Average.by_array``; others bring zeros.
        ``None``: all.
    """

    vector: NDArray[Any] = field(repr=False)
    weight: int = field(default=1, repr=False)
    metrics: Mapping[str, float] = field(repr=False)
    trained: Set[str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What comes of a sum.

    Attributes:
      survivors: clients in the sum, by number.
      vector: the mean; with noise the sum. Flat float64.
      weight: total, each times what its version counts; with noise the number of survivors.
      least_weight: total of the array that fewest trained, an update of the newest version times 1.
      metrics: weighted means, by name.
      clipped: entries of all updates that the clip cut; 0 with noise.
      clamped: weights and metrics that were beyond their bounds, and cut to them; a metric that
        is missing or no number counts as 0, and here.
      failed: clients whose work failed. They brought zeros, and no weight.
      reasons: how many clients counted each of these, in words.
    """

    survivors: tuple[int, ...]
    vector: NDArray[np.float64]
    weight: int
    least_weight: float
    metrics: Mapping[str, float]
    clipped: int
    clamped: int = 0
    failed: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Everything public about one sum.

    Attributes:
      purpose: what the engine calls it, such as "train".
      session: 16 random bytes, of this sum alone.
      params: of ``protocols.bonawitz`` or of threshold ``protocols.ckks``.
      model_digest: SHA-256 of what clients compute on, which comes later than this does.
      seed: of the rotation before noise is added; 32 bytes, public.
      roster_digest: digest of the roster of identities where clients sign, empty where they do not.
      shapes: of the arrays of an update, by name, in order; none where only metrics are asked.
      content: what is summed.
      versions: which version of the model each client trained on, where they are several; the
        digest of the model is then the newest's.

    Raises:
      InputError: the parts contradict each other.
    """

    purpose: str
    session: bytes
    params: Params
    model_digest: bytes
    seed: bytes
    shapes: Shapes
    content: Average | Noise
    roster_digest: bytes = b""
    versions: Versions | None = None

    def __post_init__(self) -> None:
        Header(self.session, 0)
        if not (self.purpose.isascii() and self.purpose.isprintable() and self.purpose):
            raise InputError(f"purpose is {self.purpose!r:.40}, expected a printable word")
        if len(self.model_digest) != DIGEST_SIZE or len(self.seed) != DIGEST_SIZE:
            raise InputError(f"model_digest and seed must have {DIGEST_SIZE} bytes each")
        signs = isinstance(self.params, bonawitz.Params) and self.params.active
        if len(self.roster_digest) != DIGEST_SIZE * signs:
            raise InputError(f"roster_digest must have {DIGEST_SIZE * signs} bytes here")
        if len(dict(self.shapes)) < len(self.shapes):
            raise InputError("shapes must name each array once, one is named twice")
        if self.versions is not None:
            self._check_versions(self.versions)
        layout = self.layout
        mechanism = self.content.mechanism if isinstance(self.content, Noise) else None
        if mechanism is not None and (
            (mechanism.entries, mechanism.clients, mechanism.minimum_survivors)
            != (self.entries, self.params.clients, self.params.minimum_survivors)
        ):
            raise InputError("the noise is for another vector, cohort or minimum of survivors")
        if isinstance(self.params, bonawitz.Params):
            found = self.params.words
            if mechanism and (left_out := self.params.left_out):
                least = self.params.corrupted + left_out
                if mechanism.uncounted_shares < least:
                    raise InputError(
                        f"uncounted_shares {mechanism.uncounted_shares}: a server that lies leaves "
                        f"out up to {left_out} survivors and their noise, and "
                        f"{self.params.corrupted} may be corrupt; {least} needed"
                    )
        else:
            found = self.params.entries
            if self.params.model is not ckks.Model.THRESHOLD or self.params.clip != 1.0:
                raise InputError("CKKS sums between machines have a threshold key, and clip 1")
            if mechanism:  # fail closed: a smaller epsilon than the true one would be written down
                raise InputError(
                    "sums with noise between machines go under bonawitz: the books of nodes do not "
                    "count what sums opened under CKKS add to epsilon"
                )
        if (expected := length(layout, self.params)) != found:
            raise InputError(f"params are for {found} numbers, must be {expected} as in the layout")

    def _check_versions(self, versions: Versions) -> None:
        params = self.params
        if not isinstance(params, bonawitz.Params) or params.rates or params.active:
            raise InputError(
                "a sum has one version of the model where clients cannot count its survivors, as "
                "in a sparse graph, under CKKS, or where the server may lie: leave versions out"
            )
        if isinstance(self.content, Noise) and self.content.mechanism.unit is Unit.EXAMPLE:
            raise InputError(
                "noise that hides an example is added to gradients of one model: leave versions out"
            )
        if versions.model_digest != self.model_digest:
            raise InputError("model_digest must be that of the newest version")
        if len(versions.clients) > params.clients:
            raise InputError(
                f"versions name {len(versions.clients)} clients, params are for {params.clients}"
            )

    def model_of(self, client: ClientId) -> bytes:
        """The digest of the model that ``client`` computes on.

        Raises:
          RefusedError: the proposal does not name it.
        """
        return self.versions.digest_of(client) if self.versions else self.model_digest

    @property
    def models(self) -> set[bytes]:
        """The digests of all that clients compute on."""
        if self.versions is None:
            return {self.model_digest}
        return {self.versions.digest_of(client) for client, _ in self.versions.clients}

    @property
    def protocol(self) -> str:
        return BONAWITZ if isinstance(self.params, bonawitz.Params) else THRESHOLD_CKKS

    @property
    def entries(self) -> int:
        """Length of an update."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    @property
    def layout(self) -> Layout:
        """The layout of the vector that each client brings."""
        content = self.content
        if isinstance(content, Noise):
            segments = content.segments()
        else:
            statistics = statistics_in(self.shapes, self.protocol)
            segments = content.segments(
                self.entries, statistics, arrays=len(self.shapes), factor=self._factor
            )
        return Layout(segments=segments, clients=self.params.clients)

    @property
    def _factor(self) -> int:
        """The largest by which a weight is multiplied."""
        return self.versions.weights[0] if self.versions else 1

    @property
    def trained(self) -> NDArray[np.bool_]:
        """Entries of an update that are no running statistics; all, with noise or under CKKS."""
        alike = self.noise is not None or self.protocol != BONAWITZ
        kinds = [
            np.full(math.prod(shape), alike or not is_statistic(name))
            for name, shape in self.shapes
        ]
        return np.concatenate(kinds or [np.empty(0, np.bool_)])

    @property
    def noise(self) -> Noise | None:
        return self.content if isinstance(self.content, Noise) else None

    def agreement(self) -> bonawitz.Agreement | ckks.Agreement:
        """What the protocol's parties agree upon."""
        public = hashlib.sha256(self.to_bytes()).digest()
        if isinstance(self.params, bonawitz.Params):
            return bonawitz.Agreement(
                params=self.params, session=self.session, round=0, public_digest=public
            )
        return ckks.Agreement(params=self.params, session=self.session, public_digest=public)

    def encode(self, own: Contribution | Failure, client: ClientId = 0) -> Vector:
        """The vector of ``client``: words, or reals for SEAL.

        Its number is of account where there are ``versions``: an update counts what its own does.

        Work that failed becomes zeros, and no weight; with noise zeros and the share. Whoever
        answers for a client brings that in place of any error, which would tell of its data.

        | weight or metric         | becomes                              |
        |--------------------------|--------------------------------------|
        | beyond its bound         | the bound, counted as clamped        |
        | a metric missing or NaN  | 0, counted as clamped                |

        Raises:
          InputError: not finite, another length, a weight that is no integer.
        """
        failures = np.array([own is failure for failure in Failure], np.uint64)
        if isinstance(own, Failure):
            own = Contribution(vector=np.zeros(self.entries), weight=0, metrics={})
        if own.vector.shape != (self.entries,):
            raise InputError(f"an update of shape {own.vector.shape}, expected ({self.entries},)")
        values: dict[str, Any]
        counts = self.versions.weight_of(client) if self.versions else 1
        if isinstance(self.content, Noise):
            vector = own.vector
            if counts != self._factor:  # before the clip, which bounds what is left
                vector = vector * (counts / self._factor)
            values = {UPDATE: self.content.mechanism.encode(vector, seed=self.seed)}
        else:
            values = self._weighted(self.content, own, counts) | {FAILED: failures}
            for name in {CLAMPED, MISSING} & values.keys():
                values[name] *= np.uint64(not failures.any())
        return encode(self.layout, self.params, values)

    def _weighted(self, average: Average, own: Contribution, counts: int) -> dict[str, Any]:
        if type(own.weight) is not int:
            raise InputError("weight must be an integer")
        weight = min(max(own.weight, 0), average.max_weight)
        part = weight * counts / (average.max_weight * self._factor)
        values: dict[str, Any] = {WEIGHT: weight * counts}
        if self.entries:
            # In float64: the rounding of a narrower product can be above a step.
            vector = np.array(own.vector, np.float64)
            refuse_non_finite(vector, 0, UPDATE, np.empty(len(vector), np.bool_))
            trained = self.trained if statistics_in(self.shapes, self.protocol) else None
            if average.by_array and own.trained is not None:
                vector[~self._by_array([name in own.trained for name, _ in self.shapes])] = 0
            update, cut = vector, 0
            if trained is not None:
                update, statistics = vector[trained], vector[~trained]
                cut = _clip(statistics, STATISTICS.clip)
                of_range = statistics * part / STATISTICS.clip + 1
                values[STATISTIC] = np.rint(of_range * STATISTIC_LEVELS).astype(np.uint64)
            if average.compress != NOTHING:
                update = average.compress.forward(update, seed=self.seed)
            values[CLIPPED] = cut + _clip(update, average.clip)
            if len(update):
                values[UPDATE] = np.multiply(update, part, out=update)
        if average.by_array and self.shapes:
            names = [name for name, _ in self.shapes]
            those = names if own.trained is None else own.trained
            values[PARTS] = [weight * counts * (name in those) for name in names]
        clamped, missing = [weight != own.weight], []
        for name, bound in average.metrics:
            value = own.metrics.get(name, math.nan)
            missing.append(math.isnan(value))
            held = 0.0 if missing[-1] else min(max(value, -bound), bound)
            clamped.append(held != value and not missing[-1])
            values[METRIC + name] = held * part
        values[CLAMPED] = np.array(clamped, np.uint64)
        return values | ({MISSING: np.array(missing, np.uint64)} if missing else {})

    def _by_array(self, values: ArrayLike) -> NDArray[Any]:
        """A value an array, for each of its entries."""
        return np.repeat(values, [math.prod(shape) for _, shape in self.shapes])

    def decode(self, total: NDArray[Any], survivors: tuple[int, ...]) -> Result:
        """What a sum says: uint64 words, or float64 of SEAL.

        Raises:
          InputError: this is no sum of such vectors, or the survivors' weights are all 0.
        """
        sums = decode(self.layout, self.params, total)
        if isinstance(self.content, Noise):
            vector = self.content.mechanism.decode(sums[UPDATE], seed=self.seed)
            count = len(survivors)
            return Result(
                survivors=survivors,
                vector=vector,
                weight=count,
                least_weight=count,
                metrics={},
                clipped=0,
            )
        average, weight = self.content, int(sums[WEIGHT][0])
        failures = {
            str(failure): int(n) for failure, n in zip(Failure, sums[FAILED], strict=True) if n
        }
        failed = sum(failures.values())
        if weight < 1:
            raise InputError(
                f"the survivors' weights are all 0, there is no mean: the work of {failed} of "
                f"{len(survivors)} failed, and their own logs say why{_listed(failures)}"
            )
        one = average.max_weight * self._factor / weight
        counts = self._counts(average, sums)
        return Result(
            survivors=survivors,
            vector=self._mean(sums, self._ones(average, sums, one), len(survivors)),
            weight=weight,
            least_weight=self._least(average, sums) / self._factor,
            metrics={name: float(sums[METRIC + name][0]) * one for name, _ in average.metrics},
            clipped=int(sums[CLIPPED][0]) if self.entries else 0,
            clamped=sum(counts.values()),
            failed=failed,
            reasons=failures | counts,
        )

    def _least(self, average: Average, sums: Mapping[str, NDArray[Any]]) -> int:
        """The smallest weight that a mean is over."""
        by_array = sums[PARTS] if average.by_array and self.shapes else np.empty(0, np.int64)
        return int(min([*sums[WEIGHT], *by_array[by_array > 0]]))

    def _ones(
        self, average: Average, sums: Mapping[str, NDArray[Any]], one: float
    ) -> NDArray[np.float64]:
        """What each entry of a sum is multiplied by; 0 of an array that nobody trained."""
        if not (average.by_array and self.shapes):
            return np.broadcast_to(np.float64(one), self.entries)
        weights = sums[PARTS].astype(np.float64)
        most = float(average.max_weight * self._factor)
        return self._by_array(
            np.divide(most, weights, out=np.zeros(len(weights)), where=weights > 0)
        )

    def _mean(
        self, sums: Mapping[str, NDArray[Any]], one: NDArray[np.float64], survivors: int
    ) -> NDArray[np.float64]:
        """The update, its running statistics where the shapes have them."""
        statistics = statistics_in(self.shapes, self.protocol)
        update = sums.get(UPDATE, np.empty(0))
        if isinstance(self.content, Average) and self.content.compress != NOTHING:
            update = self.content.compress.backward(
                update, self.entries - statistics, seed=self.seed
            )
        if not statistics:
            return update * one
        mean, trained = np.empty(self.entries), self.trained
        mean[trained] = update * one[trained]
        levels = sums[STATISTIC].astype(np.float64) - survivors * float(STATISTIC_LEVELS)
        mean[~trained] = levels / STATISTIC_LEVELS * STATISTICS.clip * one[~trained]
        return mean

    def _counts(self, average: Average, sums: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """How many clients' weights and metrics were cut, or missing."""
        beyond = [f"weight {average.weighted_by!r} outside 0 to {average.max_weight}"]
        beyond += [f"metric {name!r} beyond {most:g}" for name, most in average.metrics]
        missing = [f"metric {name!r} missing or no number" for name, _ in average.metrics]
        found = [*sums[CLAMPED], *(sums[MISSING] if missing else ())]
        return {name: int(n) for name, n in zip([*beyond, *missing], found, strict=True) if n}

    def to_bytes(self) -> bytes:
        """JSON, keys sorted, no spaces: the one encoding."""
        content: dict[str, Any]
        if isinstance(self.content, Noise):
            mechanism = self.content.mechanism
            content = {item.name: getattr(mechanism, item.name) for item in fields(mechanism)}
            content |= {"unit": mechanism.unit.value, "sampling_rate": self.content.sampling_rate}
        else:
            content = {item.name: getattr(self.content, item.name) for item in fields(Average)}
            content["compress"] = str(self.content.compress)
            for name, usual in (("by_array", False), ("compress", str(NOTHING))):
                if content[name] == usual:
                    del content[name]
        said = {
            "version": VERSION,
            "purpose": self.purpose,
            "protocol": self.protocol,
            "session": self.session.hex(),
            "params": self.params.to_bytes().hex(),
            "model_digest": self.model_digest.hex(),
            "seed": self.seed.hex(),
            "roster_digest": self.roster_digest.hex(),
            "shapes": self.shapes,
            "noise" if isinstance(self.content, Noise) else "average": content,
        }
        if self.versions:
            said["versions"] = self.versions.as_json()
        return json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, sized: Callable[[int], None] = lambda _: None) -> Self:
        """Inverse of :meth:`to_bytes`.

        Args:
          sized: is told for how many clients it is, before anything is planned for so many: that
            is work. May raise ``RefusedError``.

        Raises:
          DecodeError: not a proposal, or one in another encoding.
        """
        if len(data) > MAX_SIZE:
            raise DecodeError(f"a proposal of {len(data)} bytes, at most {MAX_SIZE}")
        try:
            said = json.loads(data)
            proposal = cls._read(said, sized)
            same = proposal.to_bytes() == data
        except RefusedError:
            raise
        except (
            *(ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError),
            *(SecaggError, PrivacyError, ProtocolError),
        ) as error:
            raise DecodeError(f"not a proposal: {type(error).__name__}: {error}"[:300]) from None
        if not same:
            raise DecodeError("a proposal in another encoding than ours")
        return proposal

    @classmethod
    def _read(cls, said: dict[str, Any], sized: Callable[[int], None]) -> Self:
        if said["version"] != VERSION:
            raise DecodeError(f"a proposal of version {said['version']!r:.20}, we know {VERSION}")
        encoded = bytes.fromhex(said["params"])
        if said["protocol"] == BONAWITZ:  # whose graph is planned; its first field is the clients
            sized(Reader(encoded).u32())
        reader = Reader(encoded)
        params: Params = (bonawitz.Params if said["protocol"] == BONAWITZ else ckks.Params).read(
            reader
        )
        reader.finish()
        content: Average | Noise
        versions = said.get("versions")
        if (noise := said.get("noise")) is not None:
            rate = noise.pop("sampling_rate")
            mechanism = DistributedNoise(**noise | {"unit": Unit(noise["unit"])})
            content = Noise(mechanism=mechanism, sampling_rate=rate)
        else:
            average = said["average"]
            metrics = tuple((str(name), float(most)) for name, most in average.pop("metrics"))
            compress = Compress.parse(average.pop("compress", str(NOTHING)))
            content = Average(**average, metrics=metrics, compress=compress)
        return cls(
            purpose=said["purpose"],
            session=bytes.fromhex(said["session"]),
            params=params,
            model_digest=bytes.fromhex(said["model_digest"]),
            seed=bytes.fromhex(said["seed"]),
            roster_digest=bytes.fromhex(said["roster_digest"]),
            shapes=tuple((str(name), _shape(shape)) for name, shape in said["shapes"]),
            content=content,
            versions=None if versions is None else Versions.read(versions),
        )


def statistics_in(shapes: Shapes, protocol: str) -> int:
    """How many entries are a normalisation's running statistics, and have a range of their own.

    Under CKKS none: 2^-14 of so wide a range would be no statistic.
    """
    if protocol != BONAWITZ:
        return 0
    return sum(math.prod(shape) for name, shape in shapes if is_statistic(name))


def _clip(entries: NDArray[np.float64], clip: float) -> int:
    """Cut in place; how many were."""
    high = np.float64(clip)
    if not len(entries) or (entries.max() <= high and entries.min() >= -high):
        return 0
    beyond = np.count_nonzero(entries > high) + np.count_nonzero(entries < -high)
    np.clip(entries, -high, high, out=entries)
    return int(beyond)


def _listed(reasons: Mapping[str, int]) -> str:
    """Reasons with their counts, to follow a sentence."""
    return "".join(f"; {count}: {reason}" for reason, count in reasons.items())


def _shape(shape: list[Any]) -> tuple[int, ...]:
    if len(shape) > MAX_DIMENSIONS or not all(
        type(length) is int and 0 <= length <= MAX_ENTRIES for length in shape
    ):
        raise DecodeError(f"a shape of {shape!r:.40}")
    return tuple(shape)
