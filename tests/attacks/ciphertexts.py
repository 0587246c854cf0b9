"""What an attacker does with CKKS's polynomials of either engine: add, subtract, open, choose."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.ckks import Engine, residues
from protocols.ckks.coefficients import raised, ternary, uncut
from protocols.ckks.engine import holder_label
from protocols.ckks.keys import CollectiveKey, SharedKey, arithmetic
from protocols.ckks.messages import Frame
from protocols.ckks.params import Agreement, Params
from protocols.primitives.prg import Stream
from protocols.secrets import Secret
from protocols.testing import reals_of


def ciphertext(agreement: Agreement, key: CollectiveKey | SharedKey, frame: bytes) -> bytes:
    """The first of an upload."""
    context, params = key.context(agreement), agreement.params
    found = Frame.from_bytes(
        frame, expect=agreement.header, context=context, index=0, params=params
    )
    return found.ciphertext


def second(params: Params, sent: bytes) -> bytes:
    """Its c1: it stands first on coefficients, and last on SEAL."""
    size = params.second_size
    return sent[:size] if params.engine is Engine.COEFFICIENTS else sent[-size:]


def difference(params: Params, one: bytes, *others: bytes) -> bytes:
    """``one`` less ``others``: public shares, c1's, or ciphertexts for all holders."""
    for other in others:
        one = _difference(params, one, other)
    return one


def _difference(params: Params, one: bytes, other: bytes) -> bytes:
    if params.engine is Engine.COEFFICIENTS:  # one polynomial of 64 bits, then four bytes each
        whole = params.lattice.whole
        parts = [(one[:whole], other[:whole], "<u8"), (one[whole:], other[whole:], "<u4")]
        return b"".join(
            (np.frombuffer(x, kind) - np.frombuffer(y, kind)).tobytes() for x, y, kind in parts
        )
    ring, found = params.seal_ring, []
    size = residues.size(ring.degree, ring.primes)
    for begin in range(0, len(one), size):
        rows = [
            residues.unpack(data[begin : begin + size], ring.degree, ring.primes)
            for data in (one, other)
        ]
        found.append(residues.pack(residues.subtract(*rows, ring.primes), ring.primes))
    return b"".join(found)


def opened(agreement: Agreement, sent: bytes, seeds: Mapping[int, Secret]) -> NDArray[np.float64]:
    """The reals in a ciphertext, by the secrets of these seeds and no others.

    Raises:
      RemoteProtocolError: on coefficients, that it does not open is seen.
    """
    made = arithmetic(agreement)
    sums = made.sums()
    sums.add(0, sums.read(0, memoryview(sent)))
    second = memoryview(sums.second(0))
    for holder, seed in seeds.items():
        part = made.part(holder, seed, None, b"")((0, second))
        sums.add_part(0, sums.read_part(0, memoryview(part)))
    return reals_of(agreement.params, sums.values(0))


def constant(params: Params, value: int) -> bytes:
    """A c1 that is one number."""
    if params.engine is Engine.COEFFICIENTS:
        return value.to_bytes(8, "little") + bytes(params.second_size - 8)
    ring = params.seal_ring
    rows = np.array([[value % prime] * ring.degree for prime in ring.primes], np.uint64)
    return residues.pack(rows, ring.primes)


def secret_of(agreement: Agreement, holder: int, seed: Secret) -> NDArray[Any]:
    """What an attacker must not know."""
    params, label = agreement.params, holder_label(agreement, holder)
    if params.engine is Engine.COEFFICIENTS:
        return ternary(Stream(seed, label), 4096)
    return residues.ternary(seed, label, params.ring.degree)


def read_off(params: Params, part: bytes, value: int) -> NDArray[np.int64]:
    """The secret polynomial in ``value`` times it, and noise."""
    if params.engine is Engine.COEFFICIENTS:
        kept = params.lattice.kept
        found = raised(uncut(part, kept), kept).view(np.int64)
        return np.rint(found / value).astype(np.int64)
    from protocols.ckks.microsoft_seal import context

    ring = params.seal_ring
    rows = residues.unpack(part, ring.degree, ring.primes)
    found = context(ring, params.scale).data.coefficients(rows)[0].astype(np.int64)
    (prime,) = ring.primes
    return np.rint(np.where(found > prime // 2, found - prime, found) / value).astype(np.int64)
