"""Random rotation: spreads a vector over all its entries and keeps its L2 norm.

``forward`` is x -> H D x / sqrt(size): D holds random signs from a public seed, H is a
Hadamard matrix, and x is padded with zeros to the next size for which H is known here,
m 2^k with m a product of at most two of 12 and 20. The matrix is a Kronecker product of
factors of order at most 128, so one transform is a few matrix products.

The signs are SHAKE-128 of the seed. For a vector that was fixed before the seed was drawn,
each entry of the result is a sum of independent signs with weights of norm
||x|| / sqrt(size), so it passes t ||x|| / sqrt(size) with probability at most
2 exp(-t^2 / 2) [Hoeffding]. Privacy never rests on the seed, only on the norm.

[Paley]: R. E. A. C. Paley, On Orthogonal Matrices, J. Math. Phys. 12 (1933): orders 12, 20.
"""

import hashlib
import math
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.checks import integer
from dp.errors import InputError

Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

MAX_ENTRIES: Final = 2**28  # four factors; the bound on float errors below counts on it
SEED_SIZE: Final = 16  # bytes, at least
BLOCK: Final = 2**15  # entries handled at once, 256 KiB of float64: stays in the cache
# Relative L2 error of ``forward`` in float64. A product of order n errs by n^1.5 2^-53 of the
# norm (n terms a sum [Higham 2002, sec. 3.5], and sqrt(n) between the norms of |H| and H);
# factors n of a product up to 2^28, none above 128, sum to at most 4 128^1.5 = 5793 < 2^13 there.
# Doubled for scaling and signs.
FLOAT64_ERROR: Final = 2.0**-39

_LABEL: Final = b"dp 1 rotation signs"  # before the seed: the digest has no other use
_ODD: Final = {1: (), 12: (12,), 20: (20,), 144: (12, 12), 240: (12, 20), 400: (20, 20)}
_ODD_PART: Final = {m // (m & -m): orders for m, orders in _ODD.items()}
_MOST_BITS: Final = 7  # 128: three products for 2^20 entries


def padded_size(entries: int) -> int:
    """The least m 2^k >= ``entries`` with m a product of at most two of 12 and 20.

    Raises:
      InputError: ``entries`` is not an integer from 1 to 2^28.
    """
    integer("entries", entries, 1, MAX_ENTRIES)
    return min(m << max((-(-entries // m) - 1).bit_length(), 0) for m in _ODD)


def entry_error(size: int) -> float:
    """Most that one entry of a float32 ``forward`` is off, relative to the vector's L2 norm.

    A sum of n terms errs by n 2^-24 of the sum of their magnitudes [Higham 2002, sec. 3.1],
    which is at most the L1 norm / sqrt(size) all told; 8 more for scaling and second order.
    """
    return (sum(_orders(size)) + 8) * 2.0**-24


def forward(vector: Floats, *, seed: bytes, scale: float = 1.0) -> Floats:
    """``scale`` times the rotation of ``vector``, shape (d,), as shape (padded_size(d),).

    In the dtype of ``vector``. In float64 the result is within ``FLOAT64_ERROR`` of the exact
    one, relative to its L2 norm; in float32 within 2^-10.

    Raises:
      InputError: ``seed`` has less than 16 bytes, or the length is out of range.
    """
    size = padded_size(len(vector))
    bits = _sign_bits(seed, size)
    rotated = np.zeros(size, vector.dtype)
    factor = scale / math.sqrt(size)
    for start in range(0, len(vector), BLOCK):
        part = vector[start : start + BLOCK]
        np.multiply(
            part,
            _signs(bits, start, len(part), factor),
            out=rotated[start : start + len(part)],
            casting="same_kind",
        )
    return _apply(rotated, inverse=False)


def backward(rotated: NDArray[Any], entries: int, *, seed: bytes, scale: float = 1.0) -> Floats:
    """``scale`` times the inverse of ``forward``, the padding cut off: float64, (entries,).

    Raises:
      InputError: ``rotated`` is not what ``entries`` are padded to, or the seed is short.
    """
    size = padded_size(entries)
    if rotated.shape != (size,):
        raise InputError(f"rotated has shape {rotated.shape}, {entries} entries give ({size},)")
    bits = _sign_bits(seed, size)
    result = _apply(rotated.astype(np.float64), inverse=True)[:entries]
    factor = scale / math.sqrt(size)
    for start in range(0, entries, BLOCK):
        part = result[start : start + BLOCK]
        np.multiply(part, _signs(bits, start, len(part), factor), out=part)
    return result


def _sign_bits(seed: bytes, size: int) -> NDArray[np.uint8]:
    if not isinstance(seed, bytes) or len(seed) < SEED_SIZE:
        raise InputError(f"seed must be bytes, at least {SEED_SIZE} of them")
    return np.frombuffer(hashlib.shake_128(_LABEL + seed).digest(-(-size // 8)), np.uint8)


def _signs(bits: NDArray[np.uint8], start: int, count: int, factor: float) -> NDArray[np.float64]:
    """+-factor for the entries from ``start``, a multiple of 8."""
    ones = np.unpackbits(bits[start // 8 : (start + count + 7) // 8], count=count)
    signs: NDArray[np.float64] = np.where(ones, -factor, factor)
    return signs


def _apply(vector: Floats, *, inverse: bool) -> Floats:
    """The Hadamard matrix, or its transpose, times ``vector``, which is overwritten."""
    spare = np.empty_like(vector)
    before, after = 1, len(vector)
    for order in _orders(len(vector)):
        matrix = _matrix(order, vector.dtype.char)
        matrix = matrix.T if inverse else matrix
        after //= order
        if after == 1:  # the last axis: one product instead of many of one column
            rows = vector.reshape(before, order)
            np.matmul(rows, matrix.T, out=spare.reshape(before, order))
        else:
            cubes = vector.reshape(before, order, after)
            np.matmul(matrix, cubes, out=spare.reshape(before, order, after))
        before *= order
        vector, spare = spare, vector
    return vector


@lru_cache(maxsize=64)
def _orders(size: int) -> tuple[int, ...]:
    """Factors of the Kronecker product, as equal as may be, each at most 128."""
    odd = _ODD_PART[size // (size & -size)]
    bits = (size // math.prod(odd)).bit_length() - 1
    first = []
    for order in odd:
        extra = min(bits, 3 if order == 12 else 2)  # to 96 and 80
        first.append(order << extra)
        bits -= extra
    count = -(-bits // _MOST_BITS)
    rest = (1 << (bits // count + (i < bits % count)) for i in range(count))
    return (*first, *rest)


@lru_cache(maxsize=64)
def _matrix(order: int, dtype: str) -> Floats:
    """A Hadamard matrix: entries +-1, rows orthogonal."""
    odd = order // (order & -order)
    matrix = _paley(4 * odd - 1) if odd > 1 else np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    result: Floats = np.ascontiguousarray(matrix, dtype=dtype)
    result.setflags(write=False)
    return result


def _paley(prime: int) -> NDArray[np.float64]:
    """Order ``prime`` + 1, for a prime that is 3 modulo 4 [Paley, construction I]."""
    squares = {x * x % prime for x in range(1, prime)}
    character = np.array([0.0] + [1.0 if x in squares else -1.0 for x in range(1, prime)])
    place = np.arange(prime)
    skew = np.zeros((prime + 1, prime + 1))
    skew[0, 1:], skew[1:, 0] = 1.0, -1.0
    skew[1:, 1:] = character[(place[:, None] - place) % prime]
    return skew + np.eye(prime + 1)
