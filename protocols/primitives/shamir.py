"""Shamir's secret sharing over GF(2^16), all holders at once in numpy.

A secret of 2 s bytes is s field elements, each the constant term of a random
polynomial of degree t - 1; holder x in 1 .. 65535 gets the values at x. Any t
shares rebuild the secret, fewer say nothing about it, whatever the power of the
reader. Shares are not authenticated: wrong ones rebuild a wrong secret, so the
caller checks what was rebuilt.

The field is GF(2)[z] / (z^16 + z^12 + z^3 + z + 1), in which z is a generator;
elements are big-endian byte pairs, the highest power first. Multiplication goes
through tables of logarithms: not constant in time against a neighbour who
watches the cache.

Source: A. Shamir, How to share a secret, CACM 22(11), 1979.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protocols.entropy import Entropy
from protocols.errors import ParameterError
from protocols.secrets import Secret

ORDER = 2**16 - 1  # of the multiplicative group; also the largest number of holders
_MODULUS = 0x1100B
_LOG_ZERO = 2 * ORDER  # sums with it land in the part of _EXP that is zero


def _tables() -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
    log = np.empty(ORDER + 1, np.int32)
    exp = np.zeros(2 * _LOG_ZERO + 1, np.uint16)
    element = 1
    for power in range(ORDER):
        exp[power] = exp[power + ORDER] = element
        log[element] = power
        element <<= 1
        if element > ORDER:
            element ^= _MODULUS
    log[0] = _LOG_ZERO
    return log, exp


_LOG, _EXP = _tables()


def majority(holders: int, corrupt: int = 0) -> int:
    """The least threshold at which two sets of holders share one that is not corrupt."""
    return (holders + corrupt) // 2 + 1


def split(secret: Secret, threshold: int, holders: int, entropy: Entropy) -> list[Secret]:
    """Share ``secret`` among holders 1 .. ``holders``; entry ``i`` is for holder ``i + 1``.

    Args:
      secret: an even number of bytes. Each share is as long.
      threshold: shares that rebuild it, in [1, holders].
      entropy: gives ``(threshold - 1) * len(secret)`` bytes.
    """
    if not 1 <= threshold <= holders <= ORDER:
        raise ParameterError(f"cannot share with threshold {threshold} among {holders} holders")
    if len(secret) % 2:
        raise ParameterError(f"cannot share {len(secret)} bytes: an even number is needed")
    constant = _symbols(secret.expose())
    random = _symbols(entropy((threshold - 1) * len(secret)))
    polynomial = [*random.reshape(threshold - 1, len(constant)), constant]
    log_x = _LOG[1 : holders + 1, None]
    values = np.zeros((holders, len(constant)), np.uint16)
    for coefficients in polynomial:  # Horner, highest power first
        values = _EXP[_LOG[values] + log_x]
        values ^= coefficients
    return [Secret(row.astype(">u2").tobytes()) for row in values]


def combine(holders: Sequence[int], shares: Sequence[Sequence[bytes]]) -> list[Secret]:
    """Rebuild several secrets from the shares of one set of holders.

    Args:
      holders: their numbers, distinct, exactly as many as the threshold.
      shares: ``shares[i][j]`` is holder ``holders[j]``'s share of secret ``i``; all as long.

    Returns:
      Secret ``i`` at place ``i``.
    """
    weights = _weights_at_zero(holders)
    rebuilt = []
    for row in shares:
        sizes = {len(share) for share in row}
        if len(row) != len(holders) or len(sizes) > 1 or max(sizes) % 2:
            raise ParameterError(
                f"{len(row)} shares of {sorted(sizes)} bytes do not fit {len(holders)} holders"
            )
        values = _symbols(b"".join(row)).reshape(len(holders), -1)
        terms = _EXP[_LOG[values] + weights[:, None]]
        symbols = np.bitwise_xor.reduce(terms, axis=0)
        rebuilt.append(Secret(symbols.astype(">u2").tobytes()))
    return rebuilt


def _weights_at_zero(holders: Sequence[int]) -> NDArray[np.int32]:
    """Logarithms of the Lagrange weights prod_{j != i} x_j / (x_j - x_i)."""
    x = np.asarray(holders, np.int64)
    if x.size == 0 or len(set(holders)) != x.size or x.min() < 1 or x.max() > ORDER:
        raise ParameterError(f"holders must be distinct and in [1, {ORDER}]")
    log_x = _LOG[x].astype(np.int64)
    differences = x[:, None] ^ x[None, :]  # subtraction in characteristic 2
    np.fill_diagonal(differences, 1)  # whose logarithm is 0
    logs: NDArray[np.int64] = log_x.sum() - log_x - _LOG[differences].sum(axis=1, dtype=np.int64)
    return (logs % ORDER).astype(np.int32)


def _symbols(data: bytes) -> NDArray[np.uint16]:
    return np.frombuffer(data, ">u2").astype(np.uint16)
