"""A layout's vectors as a protocol sums them: words of masks or coefficients, or reals on SEAL."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from numpy.typing import ArrayLike, NDArray

from protocols import bonawitz, ckks
from secagg.vectors.layout import Layout

Params: TypeAlias = bonawitz.Params | ckks.Params
Vector: TypeAlias = NDArray[Any]  # uint64; float64 under SEAL


def encode(
    layout: Layout, params: Params, values: Mapping[str, ArrayLike], *, weight: int = 1
) -> Vector:
    """One client's vector; ``InputError`` as by ``Layout.encode``."""
    if isinstance(params, bonawitz.Params):
        return layout.encode(values, weight=weight)
    if params.engine is ckks.Engine.SEAL:
        return layout.encode_reals(values, weight=weight)
    return layout.encode_coefficients(values, params.encoding, weight=weight)


def decode(layout: Layout, params: Params, total: Vector) -> dict[str, NDArray[Any]]:
    """The totals of a sum by name; ``InputError`` if it is no sum of such vectors."""
    if isinstance(params, bonawitz.Params):
        return layout.decode(total)
    if params.engine is ckks.Engine.SEAL:
        return layout.decode_reals(total)
    return layout.decode_coefficients(total, params.encoding)


def length(layout: Layout, params: Params) -> int:
    """Numbers in such a vector."""
    if isinstance(params, bonawitz.Params):
        return layout.words
    if params.engine is ckks.Engine.SEAL:
        return layout.reals
    return layout.coefficients(params.encoding)
