"""Floats to signed integers and back, with an exact bound on the error.

``FixedPoint`` clamps every entry to [-clip, clip] and rounds it to a multiple
of one step. ``clip_norm`` scales a whole vector to a bounded L2 norm. Neither
lets NaN or infinity through: both raise ``InputError`` and name the entry.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.entropy import Entropy, system
from protocols.primitives.prg import SEED_SIZE, Stream
from protocols.secrets import Secret
from secagg.errors import InputError
from secagg.vectors.packing import BLOCK_WORDS, Block

Rounding: TypeAlias = Literal["stochastic", "nearest"]

MIN_BITS, MAX_BITS = 2, 32
MAX_CLIP = 2.0**500  # and 2**-500: between them no step or factor is subnormal in float64
NORM_MARGIN = 2.0**-20  # relative; more than float32 rounding of the scaled entries can add

LABEL = b"secagg 1 stochastic rounding"  # the only use of its seed
# Adding 1.5 * 2^(52-f) to a float64 of magnitude below 2^(51-f) leaves round(x * 2^f) in its low
# mantissa bits, on top of the bits of the constant: rounding and conversion in one pass.
_ROUNDER = 1.5 * 2.0**52
_DRAWN = 32  # random bits an entry


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """Floats as signed integers of ``bits`` bits: entry x becomes about x / step.

    With ``clamp(x)`` the nearest value in [-clip, clip], and ``decode`` of one client's integers
    or of a sum of them:

    * ``"stochastic"``: |decode - clamp(x)| < step for each client, variance at most step^2 / 4,
      and unbiased up to 2^-32 step + 2^-48 clip, entry by entry. Errors of clients and entries
      are independent, so a mean over n clients has deviation at most step / (2 sqrt(n)).
    * ``"nearest"``: |decode - clamp(x)| <= (1/2 + 2^(bits-51)) step; ties go to even. Biased, but
      the same for the same input.

    Random bits come from an AES-128-CTR stream under a fresh seed of ``entropy`` for every call:
    32 an entry, of which all are used up to 18 bits, and what a float64 can hold beyond.

    | entry             | becomes                                       |
    |-------------------|-----------------------------------------------|
    | above clip        | levels                                        |
    | below -clip       | -levels                                       |
    | 0.0 and -0.0      | 0                                             |
    | subnormal         | 0, or stochastically +-1 as rarely as is fair |
    | NaN, inf, -inf    | ``InputError``                                |
    | none, an empty vector | an empty vector                           |

    Attributes:
      clip: largest magnitude of an entry, in the vector's unit; within 2^-500 to 2^500.
      bits: of one signed entry, 2 to 32. levels = 2^(bits-1) - 1, step = clip / levels.
      rounding: ``"stochastic"`` or ``"nearest"``.

    Raises:
      InputError: an attribute out of range.
    """

    clip: float
    bits: int = 16
    rounding: Rounding = "stochastic"

    def __post_init__(self) -> None:
        # A float32 clip would make float32 of everything it meets, and its rounding of the bound.
        if (
            isinstance(self.clip, bool)
            or not isinstance(self.clip, float | int)
            or not 1 / MAX_CLIP <= self.clip <= MAX_CLIP
        ):
            raise InputError(f"clip {self.clip!r} is not a float between 2**-500 and 2**500")
        if type(self.bits) is not int or not MIN_BITS <= self.bits <= MAX_BITS:
            raise InputError(f"bits {self.bits!r} is not an int from {MIN_BITS} to {MAX_BITS}")
        if self.rounding not in ("stochastic", "nearest"):
            raise InputError(f"rounding {self.rounding!r} is neither 'stochastic' nor 'nearest'")

    @property
    def levels(self) -> int:
        """The largest magnitude of an integer: 2^(bits-1) - 1."""
        return (1 << (self.bits - 1)) - 1

    @property
    def step(self) -> float:
        """What one unit of an integer is worth: clip / levels."""
        return self.clip / self.levels

    def quantize(self, values: ArrayLike, *, entropy: Entropy = system) -> NDArray[np.int64]:
        """The integers of ``values``, a 1-D vector of floats or integers.

        Raises:
          InputError: an entry is NaN or infinite, or ``values`` is no such vector.
        """
        vector = as_vector(values)
        out = np.empty(len(vector), np.int64)
        fill = self.encoder(vector, entropy=entropy)
        for start in range(0, len(vector), BLOCK_WORDS):
            span = slice(start, min(start + BLOCK_WORDS, len(vector)))
            fill(span, out[span])
        return out

    def dequantize(self, totals: NDArray[np.signedinteger[Any]]) -> NDArray[np.float64]:
        """Floats of integers, or of their sum over any number of clients."""
        out = np.empty(totals.shape, np.float64)
        np.multiply(totals, self.step, out=out)
        return out

    def encoder(
        self, vector: NDArray[Any], *, name: str = "vector", entropy: Entropy = system
    ) -> Block:
        """A function that writes the integers of any span of ``vector``, for ``pack_blocks``.

        It must be asked for each entry at most once: random bits are drawn as spans come.
        """
        draw = self._draw(entropy) if self.rounding == "stochastic" else None
        fraction = fraction_bits(self)
        rounder = _ROUNDER * 2.0**-fraction
        offset = np.float64(rounder).view(np.int64)
        levels = float(self.levels)
        factor = levels / self.clip
        room = min(BLOCK_WORDS, len(vector))
        scratch = np.empty(room, np.float64)
        finite = np.empty(room, np.bool_)

        def fill(span: slice, block: NDArray[np.int64]) -> None:
            entries = vector[span]
            scaled = scratch[: len(entries)]
            refuse_non_finite(entries, span.start, name, finite)
            np.copyto(scaled, entries)
            with np.errstate(over="ignore"):  # a finite entry that overflows here is clamped next
                np.multiply(scaled, factor, out=scaled)
            np.clip(scaled, -levels, levels, out=scaled)
            np.add(scaled, rounder, out=scaled)
            np.subtract(scaled.view(np.int64), offset, out=block)
            if draw:
                np.add(block, draw(len(block), fraction), out=block)
                np.right_shift(block, fraction, out=block)

        return fill

    def decoder(self, out: NDArray[np.float64]) -> Block:
        """A function that writes the floats of any span of totals into ``out``."""
        step = self.step

        def take(span: slice, block: NDArray[np.int64]) -> None:
            np.multiply(block, step, out=out[span])

        return take

    @staticmethod
    def _draw(entropy: Entropy) -> Callable[[int, int], NDArray[np.uint32]]:
        stream = Stream(Secret(entropy(SEED_SIZE)), LABEL)
        words = np.empty(BLOCK_WORDS // 2, np.uint64)

        def draw(count: int, bits: int) -> NDArray[np.uint32]:
            used = words[: -(-count // 2)]
            stream.fill(used)
            numbers = used.view(np.uint32)[:count]
            if bits < _DRAWN:
                np.right_shift(numbers, _DRAWN - bits, out=numbers)
            return numbers

        return draw


def fraction_bits(codec: FixedPoint) -> int:
    """Bits below an integer to which an entry is rounded, before random ones are added.

    At most 50 - bits: then rounding to them, the multiplication by a step and all of decoding
    together stay inside the strict bound of one step.
    """
    return min(_DRAWN, 50 - codec.bits) if codec.rounding == "stochastic" else 0


def clip_norm(values: ArrayLike, bound: float) -> NDArray[np.floating[Any]]:
    """``values`` scaled down to an L2 norm of at most ``bound``; a new array, never a view.

    The norm is computed in float64 whatever the dtype, without overflow. A vector that is too long
    comes back with a norm in [(1 - 2^-19) bound, bound]; the margin absorbs all rounding, so
    ``bound`` holds as it stands. One with a norm of at most (1 - 2^-20) bound comes back unchanged.

    | values           | result                       |
    |------------------|------------------------------|
    | norm 0           | zeros                        |
    | empty            | empty                        |
    | NaN, inf, -inf   | ``InputError``               |

    Args:
      values: 1-D floats or integers, shape (d,).
      bound: a Python number in the unit of ``values``, within 1e-30 and 2^500; one of numpy's half
        precision would draw all that it meets down to its own.

    Returns:
      float64 for float64 and integer input, else float32; shape (d,).

    Raises:
      InputError: ``values`` is no such vector, or an entry is NaN or infinite.
      InputError: ``bound`` is no such number.
    """
    if (
        isinstance(bound, bool)
        or not isinstance(bound, float | int)
        or not 1e-30 <= bound <= MAX_CLIP
    ):
        raise InputError(f"norm bound {bound!r:.80} is not a float between 1e-30 and 2**500")
    bound = float(bound)
    vector = as_vector(values)
    single = vector.dtype.kind == "f" and vector.itemsize <= 4
    result: NDArray[np.floating[Any]] = np.empty(len(vector), np.float32 if single else np.float64)
    scratch = np.empty(min(BLOCK_WORDS, len(vector)), np.float64)
    finite = np.empty(len(scratch), np.bool_)
    spans = [
        slice(start, min(start + BLOCK_WORDS, len(vector)))
        for start in range(0, len(vector), BLOCK_WORDS)
    ]
    largest = 0.0
    for span in spans:
        refuse_non_finite(vector[span], span.start, "vector", finite)
        np.copyto(result[span], vector[span], casting="same_kind")
        largest = max(largest, float(result[span].max()), -float(result[span].min()))
    if largest == 0.0:
        return result
    # Over the largest entry, squares neither overflow nor vanish.
    squares = []
    for span in spans:
        unit = scratch[: span.stop - span.start]
        np.divide(result[span], largest, out=unit)
        squares.append(float(unit @ unit))
    root = math.sqrt(math.fsum(squares))
    target = bound / root * (1 - NORM_MARGIN)
    if largest <= target:
        return result
    for span in spans:
        unit = scratch[: span.stop - span.start]
        np.divide(result[span], largest, out=unit)
        np.multiply(unit, target, out=result[span], casting="same_kind")
    return result


def as_vector(
    values: ArrayLike, *, name: str = "vector", integers: bool = False, number: bool = False
) -> NDArray[Any]:
    """``values`` as a 1-D numpy array, shared where possible.

    Takes numpy arrays, Python sequences and torch tensors of any device: floats of at most 64 bits
    or integers, or with ``integers`` integers and booleans alone. With ``number`` a plain number,
    too, is a vector of one.

    Raises:
      InputError: anything else.
    """
    array = _to_numpy(values, name)
    if array.dtype.kind not in ("iub" if integers else "fiu"):
        if array.size or not isinstance(values, list | tuple):  # numpy takes [] for floats
            wanted = "integers" if integers else "floats or integers"
            raise InputError(f"{name!r} holds {array.dtype}, expected {wanted}")
        array = array.astype(np.int64)
    if array.itemsize > 8:
        raise InputError(f"{name!r} holds {array.dtype}, expected at most 64 bits")
    if number and array.ndim == 0:
        array = array.reshape(1)
    if array.ndim != 1:
        raise InputError(f"{name!r} has shape {array.shape}, expected one dimension; flatten it")
    return array


def _to_numpy(values: Any, name: str) -> NDArray[Any]:
    # Any: a tensor is known by its methods, so that torch need not be imported to look.
    try:
        if not hasattr(values, "detach"):
            if isinstance(values, np.ma.MaskedArray):  # asarray would bring back what is masked
                raise TypeError
            return np.asarray(values)
        tensor = values.detach().cpu()
        try:
            return np.asarray(tensor.numpy())
        except (
            TypeError
        ):  # bfloat16 and smaller: numpy has no such type, float32 holds them exactly
            return np.asarray(tensor.float().numpy())
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name!r} is a {type(values).__name__}, expected a vector") from None


def refuse_non_finite(
    entries: NDArray[Any], start: int, name: str, scratch: NDArray[np.bool_]
) -> None:
    """Raise ``InputError`` naming the first entry, counted from ``start``, that is no number."""
    finite = scratch[: len(entries)]
    if not np.isfinite(entries, out=finite).all():
        place = int(finite.argmin())
        raise InputError(f"{name!r} is {entries[place]} at entry {start + place}")
