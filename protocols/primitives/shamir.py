"""Shamir's secret sharing over GF(2^16), all holders at once in numpy.

A secret of 2 s bytes is s field elements, each the constant term of a random
polynomial of degree t - 1; holder x in 1 .. 65535 gets the values at x. Any t
shares rebuild the secret, fewer say nothing about it, whatever the power of the
reader. Shares are not authenticated: wrong ones rebuild a wrong secret, so the
caller checks what was rebuilt. Shares beyond the threshold correct wrong ones: the values of a
polynomial are a Reed-Solomon code, and of n shares (n - t) / 2 may be wrong.

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
from protocols.errors import InputError
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
        raise InputError(f"cannot share with threshold {threshold} among {holders} holders")
    if len(secret) % 2:
        raise InputError(f"secret has {len(secret)} bytes, must be an even number")
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
            raise InputError(
                f"{len(row)} shares of {sorted(sizes)} bytes do not fit {len(holders)} holders"
            )
        values = _symbols(b"".join(row)).reshape(len(holders), -1)
        terms = _EXP[_LOG[values] + weights[:, None]]
        symbols = np.bitwise_xor.reduce(terms, axis=0)
        rebuilt.append(Secret(symbols.astype(">u2").tobytes()))
    return rebuilt


def correct(
    holders: Sequence[int], shares: Sequence[Sequence[bytes]], threshold: int
) -> tuple[list[Secret | None], list[list[int]]]:
    """Rebuild several secrets where some of the shares are wrong.

    Each secret for itself: whoever shared one of them badly spoils no other. Which shares are
    wrong is found by Berlekamp and Welch's equations in one symbol that does not fit the rest;
    where the same holders are wrong in many secrets they are solved once.

    Args:
      holders: their numbers, distinct, at least as many as the threshold.
      shares: as for ``combine``, of all these holders.
      threshold: shares that rebuild a secret.

    Returns:
      The secrets, and for each the places in ``holders`` of its wrong shares, at most
      (n - threshold) / 2 of them: no other polynomial is as near. ``None`` in place of a
      secret of which more are wrong.

    Raises:
      InputError: the arguments do not fit each other.
    """
    n, most = len(holders), (len(holders) - threshold) // 2
    if threshold < 1 or threshold > n:
        raise InputError(f"threshold {threshold} is outside [1, {n}], the number of shares")
    _weights_at_zero(holders)  # refuses what are no holders
    # By holder, secret and symbol.
    values = np.stack([_symbols(b"".join(row)).reshape(n, -1) for row in shares], axis=1)
    x = np.asarray(holders, np.int64)
    secrets: list[Secret | None] = [None] * len(shares)
    wrong: list[list[int]] = [[] for _ in shares]
    left, suspects = list(range(len(shares))), set[int]()
    while left:
        known = [place for place in range(n) if place not in suspects][:threshold]
        flat = values[:, left].reshape(n, -1)
        expected = _interpolate(x[known], flat[known], x).reshape(n, len(left), -1)
        differ = (expected != values[:, left]).any(axis=2)
        fits = differ.sum(axis=0) <= most
        done = [each for each, good in zip(left, fits, strict=True) if good]
        numbers = [holders[place] for place in known]
        rows = [[shares[each][place] for place in known] for each in done]
        for each, secret in zip(done, combine(numbers, rows), strict=True):
            secrets[each] = secret
            wrong[each] = np.flatnonzero(differ[:, left.index(each)]).tolist()
        left = [each for each in left if each not in set(done)]
        while left:
            try:
                suspects = _wrong_in(x, values[:, left[0]], threshold, most)
            except InputError:
                left.pop(0)
                continue
            break
    return secrets, wrong


def _wrong_in(
    x: NDArray[np.int64], values: NDArray[np.uint16], threshold: int, most: int
) -> set[int]:
    """The places of one secret's wrong shares; ``InputError`` if there are too many."""
    wrong: set[int] = set()
    while True:
        kept = [place for place in range(len(x)) if place not in wrong]
        known = kept[:threshold]
        expected = _interpolate(x[known], values[known], x[kept])
        bad = np.flatnonzero((expected != values[kept]).any(axis=0))
        if not bad.size:
            return wrong
        found = _wrong_places(x[kept], values[kept, bad[0]], threshold, most - len(wrong))
        wrong |= {kept[place] for place in found}


def _interpolate(
    x: NDArray[np.int64], values: NDArray[np.uint16], at: NDArray[np.int64]
) -> NDArray[np.uint16]:
    """The columns' polynomials through ``values`` at ``x``, at other places."""
    differences = at[:, None] ^ x[None, :]
    own = x[:, None] ^ x[None, :]
    np.fill_diagonal(own, 1)
    below = _LOG[own].sum(axis=1, dtype=np.int64)
    result = np.empty((len(at), values.shape[1]), np.uint16)
    logs = _LOG[values]
    for row, gaps in enumerate(differences):
        if not gaps.all():
            result[row] = values[np.flatnonzero(gaps == 0)[0]]
            continue
        log_gaps = _LOG[gaps].astype(np.int64)
        weights = ((log_gaps.sum() - log_gaps - below) % ORDER).astype(np.int32)
        result[row] = np.bitwise_xor.reduce(_EXP[logs + weights[:, None]], axis=0)
    return result


def _wrong_places(
    x: NDArray[np.int64], y: NDArray[np.uint16], threshold: int, most: int
) -> list[int]:
    """Where y is not the polynomial of fewer than ``threshold`` terms that is nearest to it.

    The error locator E, monic of degree ``most``, and N = E times the polynomial satisfy
    N(x) = y E(x) everywhere: linear equations in their coefficients.
    """
    if most < 1:
        raise InputError("more shares are wrong than can be corrected")
    powers = np.ones((len(x), threshold + most), np.uint16)
    for column in range(1, threshold + most):
        powers[:, column] = _multiply(powers[:, column - 1], x.astype(np.uint16))
    left = np.concatenate([powers, _multiply(powers[:, :most], y[:, None])], axis=1)
    solution = _solve(left, _multiply(powers[:, most], y))
    locator = np.append(solution[threshold + most :], np.uint16(1))
    at = np.zeros(len(x), np.uint16)
    for coefficient in locator[::-1]:
        at = _multiply(at, x.astype(np.uint16)) ^ coefficient
    suspects = np.flatnonzero(at == 0)
    honest = np.flatnonzero(at)[:threshold]
    if len(honest) < threshold:
        raise InputError("more shares are wrong than can be corrected")
    right = _interpolate(x[honest], y[honest, None], x)[:, 0]
    wrong = np.flatnonzero(right != y)
    if not len(wrong) or len(wrong) > most or not set(wrong) <= set(suspects):
        raise InputError("more shares are wrong than can be corrected")
    return [int(place) for place in wrong]


def _multiply(one: NDArray[np.uint16], other: NDArray[np.uint16]) -> NDArray[np.uint16]:
    product: NDArray[np.uint16] = _EXP[_LOG[one] + _LOG[other]]
    return product


def _solve(left: NDArray[np.uint16], right: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Some solution of the linear equations, free unknowns 0; ``InputError`` if none."""
    rows = np.concatenate([left, right[:, None]], axis=1)
    unknowns, pivots = left.shape[1], list[int]()
    for column in range(unknowns):
        top = len(pivots)
        candidates = np.flatnonzero(rows[top:, column])
        if not candidates.size:
            continue
        if candidates[0]:
            rows[[top, top + candidates[0]]] = rows[[top + candidates[0], top]]
        inverse = np.uint16(_EXP[ORDER - _LOG[rows[top, column]]])
        rows[top] = _multiply(rows[top], np.full(1, inverse))
        factors = rows[:, column].copy()
        factors[top] = 0
        rows ^= _multiply(factors[:, None], rows[top][None, :])
        pivots.append(column)
        if len(pivots) == len(rows):
            break
    if rows[len(pivots) :, -1].any():
        raise InputError("more shares are wrong than can be corrected")
    solution = np.zeros(unknowns, np.uint16)
    solution[pivots] = rows[: len(pivots), -1]
    return solution


def _weights_at_zero(holders: Sequence[int]) -> NDArray[np.int32]:
    """Logarithms of the Lagrange weights prod_{j != i} x_j / (x_j - x_i)."""
    x = np.asarray(holders, np.int64)
    if x.size == 0 or len(set(holders)) != x.size or x.min() < 1 or x.max() > ORDER:
        raise InputError(f"holders must be distinct and in [1, {ORDER}]")
    log_x = _LOG[x].astype(np.int64)
    differences = x[:, None] ^ x[None, :]  # subtraction in characteristic 2
    np.fill_diagonal(differences, 1)  # whose logarithm is 0
    logs: NDArray[np.int64] = log_x.sum() - log_x - _LOG[differences].sum(axis=1, dtype=np.int64)
    return (logs % ORDER).astype(np.int32)


def _symbols(data: bytes) -> NDArray[np.uint16]:
    return np.frombuffer(data, ">u2").astype(np.uint16)
