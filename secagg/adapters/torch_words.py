"""Entries of tensors as packed words and back, where the tensors lie.

``secagg.adapters.torch_group`` masks and sums the words.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.extras import missing

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing("secagg.adapters.torch_words", "torch", extra="train") from error

from protocols.zero_sharing import Flag
from secagg.vectors import tensors
from secagg.vectors.packing import pack_blocks, unpack_blocks
from secagg.vectors.quantize import FixedPoint


class CannotTakePart(Exception):  # it is told to the other ranks, and raised to nobody
    """An entry that no word holds; ``flag`` says to the other ranks what is wrong with it."""

    def __init__(self, flag: Flag) -> None:
        self.flag = flag


def encode(source: Tensor, codec: FixedPoint, rows: NDArray[np.uint64], lanes: int) -> None:
    """Quantise and pack ``source``, of which each of ``rows`` takes an equal part.

    Raises:
      CannotTakePart: an entry is not finite, or beyond the clip.
    """
    for part, words in zip(_floats(source).reshape(len(rows), -1), rows, strict=True):
        fill = codec.encoder(part)

        def checked(
            span: slice,
            block: NDArray[np.int64],
            part: NDArray[Any] = part,
            fill: Callable[[slice, NDArray[np.int64]], None] = fill,
        ) -> None:
            entries = part[span]
            _check(float(entries.min()), float(entries.max()), codec)
            fill(span, block)

        pack_blocks(checked, words, len(part), lanes)


def encode_there(source: Tensor, codec: FixedPoint, rows: Tensor, lanes: int) -> None:
    """The same on the device of ``source``, of which ``rows`` are too."""
    for part, words in zip(source.detach().reshape(len(rows), -1), rows, strict=True):
        wide = part.to(torch.float64)
        low, high = wide.aminmax()
        _check(float(low), float(high), codec)
        words.copy_(tensors.pack(tensors.quantize(wide, codec), lanes))


def _check(low: float, high: float, codec: FixedPoint) -> None:
    """Both are NaN if an entry is."""
    if not -codec.clip <= low <= high <= codec.clip:
        finite = math.isfinite(low) and math.isfinite(high)
        raise CannotTakePart(Flag.OUT_OF_RANGE if finite else Flag.NOT_FINITE)


def decode(words: NDArray[np.uint64], out: Tensor, factor: float, lanes: int) -> None:
    """Write ``factor`` times the integers of ``words`` over ``out``."""
    direct = out.device.type == "cpu" and out.is_contiguous()
    direct = direct and out.dtype in (torch.float32, torch.float64)
    flat: NDArray[Any] = (
        out.detach().view(-1).numpy() if direct else np.empty(out.numel(), np.float32)
    )

    def take(span: slice, block: NDArray[np.int64]) -> None:
        np.multiply(block, factor, out=flat[span], casting="same_kind")

    unpack_blocks(words, take, len(flat), lanes)
    if not direct:
        out.detach().copy_(torch.from_numpy(flat).view(out.shape))


def decode_there(words: Tensor, out: Tensor, factor: float, lanes: int) -> None:
    """The same on the device of ``out``, of which ``words`` are too."""
    decoded = tensors.unpack(words, out.numel(), lanes).to(torch.float64) * factor
    if out.dtype != torch.float64:
        decoded = decoded.float()
    out.detach().copy_(decoded.view(out.shape))


def _floats(source: Tensor) -> NDArray[Any]:
    flat = source.detach().reshape(-1)
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()  # which holds every narrower type exactly
    return flat.cpu().numpy()
