"""Named segments in one vector of words: what a client says, it says inside the masked vector.

The update, its weight and the metrics of a client travel side by side, so that
a server that sees sums sees the sum of each and nothing beside it. Overflow is
impossible by construction: ``Layout`` gives every segment lanes that hold the
largest total its clients can reach, or raises. Where noise is in the integers already
(``NoisyIntegers``) a bound is as unlikely to fail as the mechanism says, and nothing is checked.

A weighted segment carries weight * integer. Its decoded sum over the sum of the
weights, which the caller puts into a segment of its own, is then the weighted
mean of the clamped values to within one quantisation step, whatever the weights.
"""

import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.ckks.encoding import Encoding
from protocols.entropy import Entropy, system
from secagg.errors import InputError
from secagg.vectors.packing import (
    MAX_LANES,
    Block,
    lane_bits,
    lanes_for,
    pack_blocks,
    unpack_blocks,
    word_count,
)
from secagg.vectors.quantize import FixedPoint, as_vector, refuse_non_finite

UPDATE, WEIGHT = "update", "weight"  # names of the segments that every sum has
PART_WORDS = 2**15  # of a vector that is made in parts: a frame of protocols.bonawitz
MAX_ENTRIES = 2**33 - 9  # words of an input, one entry a word: protocols.primitives.prg.MAX_WORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Integers from 0 to ``maximum``, summed exactly; booleans count as 0 and 1.

    Outside that range a client's value is refused with ``InputError``, never clamped.

    Attributes:
      maximum: of one client's entry, before any weight; 1 to 2^63 - 1.

    Raises:
      InputError: ``maximum`` out of range.
    """

    maximum: int

    def __post_init__(self) -> None:
        _check_integer("maximum", self.maximum, 1, 2**63 - 1)

    def encoder(self, vector: NDArray[Any], *, name: str = "vector") -> Block:
        """Encode as :meth:`FixedPoint.encoder` does."""

        def fill(span: slice, block: NDArray[np.int64]) -> None:
            entries = vector[span]
            if entries.min() < 0 or entries.max() > self.maximum:
                raise InputError(f"{name!r} has an entry outside 0 to {self.maximum}")
            np.copyto(block, entries, casting="unsafe")  # uint64, which was checked just now

        return fill


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyIntegers:
    """Integers in which a share of noise is: they are taken as they come.

    Neither clamped nor refused, whatever their size: either would depend on data that the
    noise no longer hides. A total in [-2^(bits-1), 2^(bits-1) - 1] decodes exactly; one outside
    wraps and moves another entry by one unit. ``dp.noise.mechanisms`` bounds the chance of that.

    Attributes:
      bits: that a total needs, sign included; 2 to 64.

    Raises:
      InputError: ``bits`` out of range.
    """

    bits: int

    def __post_init__(self) -> None:
        _check_integer("bits", self.bits, 2, 64)

    def encoder(self, vector: NDArray[Any], *, name: str = "vector") -> Block:
        """Encode as :meth:`FixedPoint.encoder` does."""
        if vector.dtype != np.int64:
            raise InputError(f"{name!r} holds {vector.dtype}, expected int64 with its noise in it")
        return _reader(vector)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One named part of the vector.

    Attributes:
      name: not empty.
      entries: its length, 0 to 2^33 - 9.
      codec: ``FixedPoint`` for floats, ``Count`` for integers, ``NoisyIntegers`` for
        those with noise.
      weighted: whether a client's entries count ``weight`` times; never of ``NoisyIntegers``.
      lanes: integers a word, 1 to 8; ``None`` for as few words as are safe.

    Raises:
      InputError: an attribute out of range.
    """

    name: str
    entries: int
    codec: FixedPoint | Count | NoisyIntegers
    weighted: bool = False
    lanes: int | None = None

    def __post_init__(self) -> None:
        if not self.name or len(self.name.encode()) >= 2**16:
            raise InputError(f"a segment's name has 1 to 65535 bytes, not {len(self.name)}")
        if not isinstance(self.codec, FixedPoint | Count | NoisyIntegers):
            raise InputError(f"{self.name!r}: {type(self.codec).__name__} is no codec of ours")
        if self.weighted and isinstance(self.codec, NoisyIntegers):
            raise InputError(f"{self.name!r}: a weight would scale the noise; leave it out")
        _check_integer(f"{self.name!r}: entries", self.entries, 0, MAX_ENTRIES)
        if self.lanes is not None:
            _check_integer(f"{self.name!r}: lanes", self.lanes, 1, MAX_LANES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The place of each segment in the vector, the same for all clients of a round.

    Guarantee: the sum mod 2^64 of what at most ``clients`` clients encode decodes to the exact
    totals of their integers. Only clients that encode with this class are so bounded.

    Attributes:
      segments: with distinct names, in the order in which they lie.
      clients: the most that are ever summed, from 1.
      max_weight: the largest weight of one client, from 1.
      lanes: integers a word, for each segment.
      words: length of the encoded vector.

    Raises:
      InputError: an attribute out of range.
      InputError: the largest total of a segment does not fit its lane.
    """

    segments: tuple[Segment, ...]
    clients: int
    max_weight: int = 1
    lanes: tuple[int, ...] = field(init=False)
    words: int = field(init=False)

    def __post_init__(self) -> None:
        _check_integer("clients", self.clients, 1, 2**32 - 1)
        _check_integer("max_weight", self.max_weight, 1, 2**63 - 1)
        names = [segment.name for segment in self.segments]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"segments named twice: {', '.join(twice)}")
        lanes = tuple(map(self._lanes, self.segments))
        sizes = (word_count(s.entries, n) for s, n in zip(self.segments, lanes, strict=True))
        object.__setattr__(self, "lanes", lanes)
        object.__setattr__(self, "words", sum(sizes))

    def encode(
        self,
        values: Mapping[str, ArrayLike],
        *,
        weight: int = 1,
        entropy: Entropy = system,
    ) -> NDArray[np.uint64]:
        """One client's vector, uint64[words].

        Args:
          values: one vector a segment, by name: numpy array, torch tensor of any device, or
            sequence of numbers. A segment of one entry also takes a plain number.
          weight: from 0 to ``max_weight``; multiplies the integers of weighted segments. Weight 0
            takes part and adds nothing, and the sum does not show who that was.
          entropy: seeds the stochastic rounding, 32 bytes a segment.

        Raises:
          InputError: a name is missing or unknown, a vector is of another length or type, an
            entry is NaN, infinite or outside its ``Count``, or the weight is out of range.
        """
        if sys.modules.get("torch") is not None:
            from secagg.vectors import tensors

            if tensors.on_one_device(values):  # only packed words leave it
                there = tensors.encode(self, values, weight=weight, entropy=entropy)
                return there.cpu().numpy().view(np.uint64)
        fills = self._fills(values, weight, entropy)
        out = np.empty(self.words, np.uint64)
        for fill, (segment, lanes, words) in zip(fills, self._places(out), strict=True):
            _pack(fill, words, segment, lanes, weight)
        return out

    def encode_parts(
        self,
        values: Mapping[str, ArrayLike],
        *,
        weight: int = 1,
        entropy: Entropy = system,
    ) -> Iterator[NDArray[np.uint64]]:
        """Encode as :meth:`encode`, in parts of at most 2^15 words, for vectors larger than memory.

        Everything but the entries is checked at once, the entries as their part is made: a NaN
        raises in the middle, and no server adds half a vector.
        """
        fills = self._fills(values, weight, entropy)
        counts = map(word_count, (s.entries for s in self.segments), self.lanes)
        return (
            _pack(fill, np.empty(min(PART_WORDS, count - first), np.uint64), *place, weight, first)
            for fill, count, place in zip(
                fills, counts, zip(self.segments, self.lanes, strict=True), strict=True
            )
            for first in range(0, count, PART_WORDS)
        )

    def check(self, values: Mapping[str, ArrayLike], weight: int) -> None:
        self._check_weight(weight)
        if strange := sorted(set(values) ^ {segment.name for segment in self.segments}):
            raise InputError(f"segments missing or unknown: {', '.join(map(repr, strange))}")

    def _fills(self, values: Mapping[str, ArrayLike], weight: int, entropy: Entropy) -> list[Block]:
        self.check(values, weight)
        # Every vector is looked at before the first is packed: a wrong length costs no work.
        vectors = [self._vector(segment, values[segment.name]) for segment in self.segments]
        return [
            segment.codec.encoder(vector, name=segment.name, entropy=entropy)
            if isinstance(segment.codec, FixedPoint)
            else segment.codec.encoder(vector, name=segment.name)
            for segment, vector in zip(self.segments, vectors, strict=True)
        ]

    def decode(self, words: NDArray[np.uint64]) -> dict[str, NDArray[Any]]:
        """The totals in a sum of encoded vectors, by name: float64, or int64 of the other codecs.

        Raises:
          InputError: ``words`` is not uint64[words], or a total is larger than ``clients`` clients
            can make it, so that this is no sum of such vectors. Never of a ``NoisyIntegers``
            segment.
        """
        if words.dtype != np.uint64 or words.shape != (self.words,):
            found = f"{words.dtype}{list(words.shape)}"
            raise InputError(f"cannot decode {found}, expected uint64[{self.words}]")
        totals: dict[str, NDArray[Any]] = {}
        for segment, lanes, part in self._places(words):
            high = self._limit(segment)
            if isinstance(segment.codec, FixedPoint):
                floats = np.empty(segment.entries, np.float64)
                take = _within(segment.codec.decoder(floats), -high, high, segment)
                totals[segment.name] = floats
            else:
                integers = np.empty(segment.entries, np.int64)
                take = _copier(integers)
                if isinstance(segment.codec, Count):
                    take = _within(take, 0, high, segment)
                totals[segment.name] = integers
            unpack_blocks(part, take, segment.entries, lanes)
        return totals

    @property
    def reals(self) -> int:
        """Length of the vector of :meth:`encode_reals`."""
        return sum(segment.entries for segment in self.segments)

    def encode_reals(
        self, values: Mapping[str, ArrayLike], *, weight: int = 1
    ) -> NDArray[np.float64]:
        """One client's vector for a protocol that sums reals: float64[reals] in [-1, 1].

        Entries are clamped to the codec's clip and weighted, and nothing is rounded. Those of a
        ``NoisyIntegers`` segment wrap at its bits. Otherwise as :meth:`encode`.
        """
        self.check(values, weight)
        parts = []
        for segment in self.segments:
            vector = self._vector(segment, values[segment.name])
            codec = segment.codec
            if isinstance(codec, FixedPoint):
                parts.append(self._real(segment, codec, vector, weight))
                continue
            integers = np.empty(segment.entries, np.int64)
            if segment.entries:
                codec.encoder(vector, name=segment.name)(slice(None), integers)
            if isinstance(codec, NoisyIntegers):
                integers <<= 64 - codec.bits
                integers >>= 64 - codec.bits
            part = integers / self._one(codec)
            if segment.weighted:
                part *= weight / self.max_weight
            parts.append(part)
        return np.concatenate([np.empty(0), *parts])

    def decode_reals(self, total: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """The totals in a sum of such vectors, by name: float64, as approximate as the sum is.

        Integers of a ``Count`` or ``NoisyIntegers`` segment come back as the nearest int64,
        the latter wrapped at their bits: exact as long as the sum's error is below half a unit,
        1 / (2 maximum) or 2^-bits.

        Raises:
          InputError: ``total`` is not finite float64[reals].
        """
        if total.dtype != np.float64 or total.shape != (self.reals,):
            found = f"{total.dtype}{list(total.shape)}"
            raise InputError(f"cannot decode {found}, expected float64[{self.reals}]")
        refuse_non_finite(total, 0, "total", np.empty(len(total), np.bool_))
        totals: dict[str, NDArray[Any]] = {}
        start = 0
        for segment in self.segments:
            part = total[start : (start := start + segment.entries)]
            if isinstance(segment.codec, FixedPoint):
                scale = segment.codec.clip * (self.max_weight if segment.weighted else 1)
                totals[segment.name] = part * scale
            else:
                scale = self._one(segment.codec) * (self.max_weight if segment.weighted else 1)
                nearest = np.rint(part * scale)
                if isinstance(segment.codec, NoisyIntegers):
                    nearest -= 2 * scale * np.floor((nearest + scale) / (2 * scale))
                totals[segment.name] = nearest.astype(np.int64)
        return totals

    @property
    def integers(self) -> list[tuple[int, int]]:
        """How many integers, modulo how many bits, of each segment of such."""
        return [
            (segment.entries, self._bits(segment))
            for segment in self.segments
            if not isinstance(segment.codec, FixedPoint) and segment.entries
        ]

    @property
    def floats(self) -> int:
        """Entries of all segments of reals."""
        return self.reals - sum(count for count, _ in self.integers)

    def encode_coefficients(
        self, values: Mapping[str, ArrayLike], encoding: Encoding, *, weight: int = 1
    ) -> NDArray[np.uint64]:
        """One client's vector for a sum on coefficients: each segment by ``encoding``.

        Reals are approximate, as in :meth:`encode_reals`; integers are exact, and those of a
        ``NoisyIntegers`` segment wrap at its bits. Otherwise as :meth:`encode`.
        """
        self.check(values, weight)
        parts = [np.empty(0, np.uint64)]
        for segment in self.segments:
            vector = self._vector(segment, values[segment.name])
            codec, times = segment.codec, weight if segment.weighted else 1
            if isinstance(codec, FixedPoint):
                part = self._real(segment, codec, vector, weight)
                parts.append(encoding.encode_reals(part))
            elif segment.entries:
                integers = np.empty(segment.entries, np.int64)
                codec.encoder(vector, name=segment.name)(slice(None), integers)
                integers *= times
                parts.append(encoding.encode_integers(integers, self._bits(segment)))
        return np.concatenate(parts)

    def decode_coefficients(
        self, words: NDArray[np.uint64], encoding: Encoding
    ) -> dict[str, NDArray[Any]]:
        """The totals in a sum of such vectors, by name: float64, or int64 of integers, exact.

        Raises:
          InputError: ``words`` are of another length, or a count is larger than ``clients`` clients
            can make it, so that this is no sum of such vectors.
        """
        sizes = [self._coefficients(segment, encoding) for segment in self.segments]
        if words.dtype != np.uint64 or words.shape != (sum(sizes),):
            found = f"{words.dtype}{list(words.shape)}"
            raise InputError(f"cannot decode {found}, expected uint64[{sum(sizes)}]")
        totals: dict[str, NDArray[Any]] = {}
        start = 0
        for segment, size in zip(self.segments, sizes, strict=True):
            part, codec = words[start : start + size], segment.codec
            start += size
            if isinstance(codec, FixedPoint):
                scale = codec.clip * (self.max_weight if segment.weighted else 1)
                totals[segment.name] = encoding.decode_reals(part) * scale
                continue
            bits = self._bits(segment)
            exact = encoding.decode_integers(part, bits) if size else part
            if isinstance(codec, NoisyIntegers):
                exact <<= np.uint64(64 - bits)
                totals[segment.name] = exact.view(np.int64) >> np.int64(64 - bits)
                continue
            integers = np.empty(segment.entries, np.int64)
            if size:
                checked = _within(_copier(integers), 0, self._limit(segment), segment)
                checked(slice(None), exact.view(np.int64))
            totals[segment.name] = integers
        return totals

    def coefficients(self, encoding: Encoding) -> int:
        """Length of the vector of :meth:`encode_coefficients`."""
        return sum(self._coefficients(segment, encoding) for segment in self.segments)

    def _coefficients(self, segment: Segment, encoding: Encoding) -> int:
        if isinstance(segment.codec, FixedPoint) or not segment.entries:
            return segment.entries
        return segment.entries * encoding.digits(self._bits(segment))

    def _bits(self, segment: Segment) -> int:
        """Bits of a total of a segment of integers."""
        if isinstance(segment.codec, NoisyIntegers):
            return segment.codec.bits
        return self._limit(segment).bit_length()

    def _real(
        self, segment: Segment, codec: FixedPoint, vector: NDArray[Any], weight: int
    ) -> NDArray[np.float64]:
        """A client's reals in [-1, 1]: clamped, divided by the clip, and weighted."""
        part = np.empty(segment.entries, np.float64)
        refuse_non_finite(vector, 0, segment.name, np.empty(len(vector), np.bool_))
        np.clip(vector, -codec.clip, codec.clip, out=part, dtype=np.float64)
        np.divide(part, codec.clip, out=part)
        if segment.weighted:
            part *= weight / self.max_weight
        return part

    @staticmethod
    def _one(codec: Count | NoisyIntegers) -> int:
        """What a real of 1 stands for: the largest integer of one client."""
        return codec.maximum if isinstance(codec, Count) else 1 << (codec.bits - 1)

    def to_bytes(self) -> bytes:
        """Canonical bytes of all that is fixed here; two layouts are equal if these are.

        struct {
            opaque label[16] = "secagg layout 1 ";
            uint32 clients;
            uint64 max_weight;
            uint32 segments;
            struct {
                uint16 name_length;  opaque name[name_length];   /* UTF-8 */
                uint64 entries;
                uint8  weighted, lanes_asked_for, lanes;         /* 0 asked for: none */
                uint8  codec;                        /* 1 FixedPoint, 2 Count, 3 NoisyIntegers */
                select (codec) {
                    case 1: float64 clip; uint8 bits; uint8 nearest;
                    case 2: uint64 maximum;
                    case 3: uint8 bits;
                }
            } segment[segments];
        } Layout;                                                /* big-endian */
        """
        head = struct.pack(">IQI", self.clients, self.max_weight, len(self.segments))
        parts = [b"secagg layout 1 ", head]
        for segment, lanes in zip(self.segments, self.lanes, strict=True):
            name, codec = segment.name.encode(), segment.codec
            flags = (segment.weighted, segment.lanes or 0, lanes)
            parts += [struct.pack(">H", len(name)), name, struct.pack(">Q", segment.entries)]
            parts.append(struct.pack(">BBB", *flags))
            if isinstance(codec, FixedPoint):
                nearest = codec.rounding == "nearest"
                parts.append(struct.pack(">BdBB", 1, codec.clip, codec.bits, nearest))
            elif isinstance(codec, Count):
                parts.append(struct.pack(">BQ", 2, codec.maximum))
            else:
                parts.append(struct.pack(">BB", 3, codec.bits))
        return b"".join(parts)

    def _limit(self, segment: Segment) -> int:
        """The largest total of one entry."""
        codec = segment.codec
        if isinstance(codec, NoisyIntegers):
            return (1 << (codec.bits - 1)) - 1
        one = codec.levels if isinstance(codec, FixedPoint) else codec.maximum
        return self.clients * (self.max_weight if segment.weighted else 1) * one

    def _lanes(self, segment: Segment) -> int:
        limit = self._limit(segment)
        try:
            most = lanes_for(limit)
        except InputError:
            most = 0
        if most < (segment.lanes or 1):
            weight = f" x weight {self.max_weight}" if segment.weighted else ""
            clients = self.clients * (self.max_weight if segment.weighted else 1)
            total = f"{self.clients} clients{weight} x {limit // clients}"
            if isinstance(segment.codec, NoisyIntegers):
                total = f"a total of {segment.codec.bits} bits"
            raise InputError(
                f"{segment.name!r}: {total} does not fit a {lane_bits(segment.lanes or 1)}-bit "
                "lane; use fewer bits or lanes"
            )
        if segment.lanes is not None:
            return segment.lanes
        # Of the lane counts that need as few words, the one with the most room: what is no sum of
        # such vectors then shows as a total that is too large.
        words = word_count(segment.entries, most)
        return -(-segment.entries // words) if words else most

    def _places(
        self, words: NDArray[np.uint64]
    ) -> Iterator[tuple[Segment, int, NDArray[np.uint64]]]:
        start = 0
        for segment, lanes in zip(self.segments, self.lanes, strict=True):
            stop = start + word_count(segment.entries, lanes)
            yield segment, lanes, words[start:stop]
            start = stop

    def _check_weight(self, weight: int) -> None:
        integer = isinstance(weight, int | np.integer) and not isinstance(weight, bool)
        if not integer or not 0 <= weight <= self.max_weight:
            raise InputError(f"weight {weight!r} is not an integer from 0 to {self.max_weight}")
        if weight != 1 and not any(segment.weighted for segment in self.segments):
            raise InputError(f"weight is {weight}, must be 1 where no segment is weighted")

    @staticmethod
    def _vector(segment: Segment, values: ArrayLike) -> NDArray[Any]:
        whole = not isinstance(segment.codec, FixedPoint)
        number = segment.entries == 1
        vector = as_vector(values, name=segment.name, integers=whole, number=number)
        if len(vector) != segment.entries:
            raise InputError(
                f"{segment.name!r} has {len(vector)} entries, the layout {segment.entries}"
            )
        return vector


def _within(take: Block, low: int, high: int, segment: Segment) -> Block:
    def checked(span: slice, block: NDArray[np.int64]) -> None:
        if block.min() < low or block.max() > high:
            raise InputError(
                f"{segment.name!r} has a total outside {low} to {high}: "
                "this is no sum of this layout's vectors"
            )
        take(span, block)

    return checked


def _copier(out: NDArray[np.int64]) -> Block:
    def take(span: slice, block: NDArray[np.int64]) -> None:
        out[span] = block

    return take


def _reader(vector: NDArray[np.int64]) -> Block:
    def fill(span: slice, block: NDArray[np.int64]) -> None:
        block[:] = vector[span]

    return fill


def _pack(
    fill: Block,
    out: NDArray[np.uint64],
    segment: Segment,
    lanes: int,
    weight: int,
    first: int = 0,
) -> NDArray[np.uint64]:
    pack_blocks(fill, out, segment.entries, lanes, first=first)
    if segment.weighted and weight != 1:
        # Packing is linear: weighting the words weights every lane.
        np.multiply(out, np.uint64(weight), out=out)
    return out


def _check_integer(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} {value!r} is not an int from {low} to {high}")
