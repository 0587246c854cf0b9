"""What ``quantize`` and ``packing`` do, on torch tensors where they lie: a GPU's stay there.

The same integers and the same words, bit for bit; of stochastic rounding, for the same random
bits. Those come from this machine's cipher, never from torch's generator, at 4 bytes an entry.
``Layout.encode`` comes here by itself when all its vectors lie on one device that is no CPU.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from secagg.extras import missing

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing("secagg.vectors.tensors", "torch", extra="train") from error

from protocols.entropy import Entropy, system
from protocols.primitives.prg import SEED_SIZE, from_seed
from protocols.secrets import Secret
from secagg.errors import InputError
from secagg.vectors.packing import WORD_BITS, lane_bits, word_count
from secagg.vectors.quantize import LABEL, FixedPoint, fraction_bits

if TYPE_CHECKING:
    from secagg.vectors.layout import Layout

DRAWN: Final = 32  # random bits an entry


def on_one_device(values: Mapping[str, Any]) -> torch.device | None:
    """The device that all vectors lie on, if it is no CPU; ``None`` otherwise."""
    devices = {value.device if isinstance(value, Tensor) else None for value in values.values()}
    (found,) = devices if len(devices) == 1 else (None,)
    return None if found is None or found.type == "cpu" else found


def quantize(
    vector: Tensor, codec: FixedPoint, *, name: str = "vector", entropy: Entropy = system
) -> Tensor:
    """The integers of floats, int64, as ``FixedPoint.quantize`` makes them.

    Raises:
      InputError: an entry is NaN or infinite, or ``vector`` is no vector of real numbers.
    """
    if vector.ndim != 1 or vector.is_complex() or vector.is_sparse or vector.dtype is torch.bool:
        raise InputError(f"{name!r} is {vector.dtype} of shape {tuple(vector.shape)}, not a vector")
    scaled = vector.detach().to(torch.float64)
    finite = torch.isfinite(scaled)
    if not bool(finite.all()):
        place = int(finite.to(torch.uint8).argmin())
        raise InputError(f"{name!r} is {vector[place].item()} at entry {place}")
    levels = float(codec.levels)
    scaled = (scaled * (levels / codec.clip)).clamp_(-levels, levels)
    fraction = fraction_bits(codec)
    if not fraction:
        return scaled.round_().to(torch.int64)
    whole = (scaled * 2.0**fraction).round_().to(torch.int64)
    whole += _random(len(vector), entropy).to(vector.device) >> (DRAWN - fraction)
    return whole >> fraction


def _random(count: int, entropy: Entropy) -> Tensor:
    """Integers of 32 random bits, from the stream that rounding on a CPU draws from."""
    drawn = from_seed(Secret(entropy(SEED_SIZE)), LABEL)(4 * count)
    numbers = torch.frombuffer(bytearray(drawn), dtype=torch.int32) if count else torch.empty(0)
    return numbers.to(torch.int64) & 0xFFFFFFFF


def pack(integers: Tensor, lanes: int) -> Tensor:
    """The words of signed integers, int64 whose bits they are; ``unpack`` is its inverse."""
    width, count = lane_bits(lanes), word_count(len(integers), lanes)
    padded = integers.new_zeros(lanes * count)
    padded[: len(integers)] = integers
    words = integers.new_zeros(count)
    for lane in reversed(padded.view(lanes, count)):
        words = (words << (width % WORD_BITS)) + lane
    return words


def unpack(words: Tensor, entries: int, lanes: int) -> Tensor:
    """The ``entries`` integers in ``words``: each lane's total, centred about 0."""
    width = lane_bits(lanes)
    half = sum(1 << (width * lane + width - 1) for lane in range(lanes))
    half -= (half >> (WORD_BITS - 1)) << WORD_BITS  # as a signed integer of 64 bits
    centred = (words + half) ^ half
    parts = [
        (centred << (WORD_BITS - width * (lane + 1))) >> (WORD_BITS - width)
        for lane in range(lanes)
    ]
    return torch.cat(parts)[:entries]


def encode(
    layout: "Layout", values: Mapping[str, Any], *, weight: int = 1, entropy: Entropy = system
) -> Tensor:
    """The vector that ``Layout.encode`` makes, on the device of ``values``.

    Raises:
      InputError: as ``Layout.encode``.
    """
    from secagg.vectors.layout import NoisyIntegers

    layout.check(values, weight)
    words = []
    for segment, lanes in zip(layout.segments, layout.lanes, strict=True):
        name, codec, vector = segment.name, segment.codec, values[segment.name]
        if segment.entries == 1 and vector.ndim == 0:
            vector = vector.reshape(1)
        if vector.ndim != 1:
            raise InputError(f"{name!r} has shape {tuple(vector.shape)}; flatten it")
        if len(vector) != segment.entries:
            raise InputError(f"{name!r} has {len(vector)} entries, the layout {segment.entries}")
        if isinstance(codec, FixedPoint):
            integers = quantize(vector, codec, name=name, entropy=entropy)
        elif vector.is_floating_point() or vector.is_complex():
            raise InputError(f"{name!r} holds {vector.dtype}, expected integers")
        elif isinstance(codec, NoisyIntegers):
            if vector.dtype != torch.int64:
                raise InputError(f"{name!r} holds {vector.dtype}, expected int64 with its noise")
            integers = vector
        else:
            integers = vector.to(torch.int64)
            if (
                len(integers)
                and not 0 <= int(integers.min()) <= int(integers.max()) <= codec.maximum
            ):
                raise InputError(f"{name!r} has an entry outside 0 to {codec.maximum}")
        packed = pack(integers, lanes)
        words.append(packed * weight if segment.weighted else packed)
    return torch.cat(words)
