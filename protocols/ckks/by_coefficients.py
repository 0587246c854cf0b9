"""A session on coefficients modulo a power of two. Needs numpy and cryptography alone.

Threshold. Holder i has L ternary secrets s_ij and publishes b_ij = e_ij - a s_ij; b_j is the sum
over all holders. A client draws one ternary u for L messages m_j and sends

    c1 = u a + e,    c0_j = u b_j + e_j + m_j    [PVW08]

c1 whole, and the upper bytes of c0_j: what is dropped lies below the flooding. Under a shared
key c1 is drawn from a public seed, and c0_j = e_j + m_j - c1 s_j.

The first ``CHECKED`` coefficients of every polynomial are zero. In a sum that opens they are zero
but for its error; where c1 was not that of the uploads in c0, they are uniform.

[PVW08]: Peikert, Vaikuntanathan, Waters, https://eprint.iacr.org/2007/348
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from protocols.ckks.coefficients import (
    CHECKED,
    DEGREE,
    ROW_ENTRIES,
    Kept,
    Poly,
    Small,
    Spectrum,
    cut,
    errors,
    product,
    raised,
    small_spectrum,
    spectra,
    ternary,
    uncut,
)
from protocols.ckks.coefficients import Words as Row
from protocols.ckks.encoding import Words
from protocols.ckks.engine import (
    Arithmetic,
    Encrypt,
    Open,
    Part,
    Sums,
    Values,
    common_seed,
    holder_label,
    label_of,
)
from protocols.ckks.noise import gaussian
from protocols.ckks.params import DIGEST_SIZE, VERSION, Agreement, Model, Params
from protocols.entropy import Entropy
from protocols.errors import DecodeError, RemoteProtocolError
from protocols.primitives.prg import SEED_SIZE, Stream, from_seed
from protocols.secrets import Secret
from protocols.wire import ClientId, u32, write_map

_LARGEST_ERROR: Final = 21  # of a centred binomial of 21 bits


@dataclass(frozen=True)
class _Work:
    """What a worker needs for one ciphertext after another; transforms it makes for itself."""

    agreement: Agreement

    @property
    def params(self) -> Params:
        return self.agreement.params

    def __getstate__(self) -> dict[str, Any]:
        known = self.__dataclass_fields__
        return {name: value for name, value in vars(self).items() if name in known}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def _rows(self, index: int, values: Values) -> Iterator[Row]:
        """The polynomials of one ciphertext, the last no longer than it must be."""
        if values.dtype == np.float64:
            values = self.params.encoding.encode_reals(values.astype(np.float64, copy=False))
        for begin in range(0, self.params.entries_of(index), ROW_ENTRIES):
            entries = values[begin : begin + ROW_ENTRIES]
            row = np.zeros(CHECKED + len(entries), np.uint64)
            row[CHECKED:] = entries
            yield row


@dataclass(frozen=True)
class _Secret(_Work):
    """Work with L secret polynomials."""

    seed: bytes = field(repr=False)
    label: bytes

    @cached_property
    def secrets(self) -> Spectrum:
        return small_spectrum(_secrets(self.params, Secret(self.seed), self.label))


@dataclass(frozen=True)
class _EncryptShared(_Secret):
    me: ClientId
    public: bytes  # the seed of every c1 of the upload
    hidden: bytes = field(repr=False)  # the seed of its errors

    def __call__(self, chunk: tuple[int, Values]) -> bytes:
        index, values = chunk
        ring = self.params.lattice
        second = spectra(ring, _second(self.agreement, self.me, self.public, index))
        label = label_of(self.agreement, b"errors", self.me, index)
        stream, parts = Stream(Secret(self.hidden), label), [self.public]
        for secret, row in zip(self.secrets, self._rows(index, values), strict=False):
            # -(c1 s - e) = e - c1 s, and the error is as likely of either sign.
            masked = product(ring, secret, second, errors(stream, (DEGREE,)))
            parts.append(cut(row - masked.words[: len(row)], ring.kept))
        return b"".join(parts)


@dataclass(frozen=True)
class _EncryptForAll(_Work):
    total: bytes  # sum of all b_i, packed
    me: ClientId
    hidden: bytes = field(repr=False)  # the seed of u and of all errors

    @cached_property
    def common(self) -> Spectrum:
        return spectra(self.params.lattice, _common(self.agreement))

    @cached_property
    def key(self) -> list[Spectrum]:
        ring = self.params.lattice
        return [spectra(ring, poly) for poly in _polys(self.params, self.total)]

    def __call__(self, chunk: tuple[int, Values]) -> bytes:
        index, values = chunk
        ring, hidden = self.params.lattice, Secret(self.hidden)
        mask = Stream(hidden, label_of(self.agreement, b"mask", self.me, index))
        drawn = Stream(hidden, label_of(self.agreement, b"errors", self.me, index))
        once = small_spectrum(ternary(mask, DEGREE))
        parts = [product(ring, once, self.common, errors(drawn, (DEGREE,))).to_bytes()]
        for key, row in zip(self.key, self._rows(index, values), strict=False):
            masked = product(ring, once, key, errors(drawn, (DEGREE,)))
            parts.append(cut(row + masked.words[: len(row)], ring.kept))
        return b"".join(parts)


@dataclass(frozen=True)
class _Flooded(_Secret):
    """Work with secrets whose results are flooded, where ``deviation`` is not 0."""

    noise: bytes = field(repr=False)
    about: bytes
    deviation: float

    def _flood(self, index: int) -> Small | None:
        if not self.deviation:
            return None
        drawn = from_seed(Secret(self.noise), self.about + u32(index))
        count = self.params.rows_of(index) * DEGREE
        return gaussian(count, self.deviation, drawn).reshape(-1, DEGREE)

    def _products(self, index: int, second: Poly) -> Iterator[Row]:
        """c1 s_j + noise of each row, its words."""
        ring, flood = self.params.lattice, self._flood(index)
        limbs = spectra(ring, second)
        for place, length in enumerate(_lengths(self.params, index)):
            noise = None if flood is None else flood[place]
            yield product(ring, self.secrets[place], limbs, noise).words[:length]


@dataclass(frozen=True)
class _Part(_Flooded):
    def __call__(self, chunk: tuple[int, bytes]) -> bytes:
        index, packed = chunk
        second = Poly.read(self.params.lattice, packed)
        kept = self.params.lattice.kept
        return b"".join(cut(row, kept) for row in self._products(index, second))


@dataclass(frozen=True)
class _Open(_Flooded):
    summands: dict[ClientId, bytes]  # the seed of each upload

    def __call__(self, chunk: tuple[int, bytes]) -> Words:
        index, packed = chunk
        ring = self.params.lattice
        second = Poly.zero(ring)
        for client, public in self.summands.items():
            second = second + _second(self.agreement, client, public, index)
        rows = list(_unpacked(self.params, index, memoryview(packed)))
        for row, opened in zip(rows, self._products(index, second), strict=True):
            row += opened
        return _entries(self.params, index, rows)


class _Sums(Sums):
    """Words of c0 of as many bytes as travel, and c1 whole where holders will need it."""

    def __init__(self, params: Params) -> None:
        self._params = params
        empty = [
            [uncut(bytes(length * params.lattice.kept), params.lattice.kept) for length in lengths]
            for lengths in (_lengths(params, index) for index in range(params.chunks))
        ]
        self._firsts: list[list[Kept]] = empty
        threshold = params.model is Model.THRESHOLD
        self._zero = Poly.zero(params.lattice)
        self._seconds = [self._zero] * params.chunks if threshold else []

    def read(self, index: int, ciphertext: memoryview) -> memoryview:
        params = self._params
        if params.model is Model.THRESHOLD and not self._second(ciphertext):
            raise DecodeError("the ciphertext's second polynomial is zero")
        return ciphertext

    def _second(self, ciphertext: memoryview) -> Poly:
        ring = self._params.lattice
        return Poly.read(ring, ciphertext[: ring.whole])

    def add(self, index: int, read: memoryview) -> None:
        if self._params.model is Model.THRESHOLD:
            self._seconds[index] = self._seconds[index] + self._second(read)
            self.add_part(index, read[self._params.second_size :])
        else:
            self.add_part(index, read[DIGEST_SIZE:])

    def second(self, index: int) -> bytes:
        found = self._seconds[index].to_bytes()
        self._seconds[index] = self._zero
        return found

    def shared(self, index: int) -> bytes:
        kept = self._params.lattice.kept
        return b"".join(cut(raised(row, kept), kept) for row in self._firsts[index])

    def read_part(self, index: int, part: memoryview) -> memoryview:
        return part

    def add_part(self, index: int, read: memoryview) -> None:
        kept, begin = self._params.lattice.kept, 0
        for row in self._firsts[index]:
            size = kept * len(row)
            np.add(row, uncut(read[begin : begin + size], kept), out=row)
            begin += size

    def values(self, index: int) -> Words:
        kept = self._params.lattice.kept
        rows = [raised(row, kept) for row in self._firsts[index]]
        self._firsts[index] = []
        return _entries(self._params, index, rows)


class ByCoefficients(Arithmetic):
    """Keys and ciphertexts on coefficients; see the module."""

    KIND = np.uint64

    def public_share(self, holder: ClientId, seed: Secret, own: Secret) -> bytes:
        ring = self.params.lattice
        common = spectra(ring, _common(self.agreement))
        secrets = _secrets(self.params, seed, holder_label(self.agreement, holder))
        drawn = Stream(own, self.agreement.label(b"share", u32(holder)))
        return b"".join(
            product(ring, small_spectrum(-secret), common, errors(drawn, (DEGREE,))).to_bytes()
            for secret in secrets
        )

    def check_share(self, share: bytes) -> None:
        if len(share) != self.params.share_size:
            raise DecodeError(
                f"a public share has {len(share)} bytes, expected {self.params.share_size}"
            )

    def total(self, shares: Mapping[ClientId, bytes]) -> bytes:
        sums: list[Poly] | None = None
        for share in shares.values():
            polys = list(_polys(self.params, share))
            sums = polys if sums is None else [x + y for x, y in zip(sums, polys, strict=True)]
        return b"".join(poly.to_bytes() for poly in sums or [])

    def explains(self, holder: ClientId, seed: Secret, share: bytes) -> bool:
        ring = self.params.lattice
        common = spectra(ring, _common(self.agreement))
        secrets = _secrets(self.params, seed, holder_label(self.agreement, holder))
        for secret, published in zip(secrets, _polys(self.params, share), strict=True):
            error = (published + product(ring, small_spectrum(secret), common)).centred()
            if not bool(((error >= -_LARGEST_ERROR) & (error <= _LARGEST_ERROR)).all()):
                return False
        return True

    def encrypt_for_all(
        self, agreement: Agreement, me: ClientId, total: bytes, entropy: Entropy
    ) -> Encrypt:
        return _EncryptForAll(agreement, total, me, entropy(SEED_SIZE))

    def check_second(self, index: int, second: bytes) -> None:
        if not Poly.read(self.params.lattice, second):
            raise DecodeError(f"the second polynomial of chunk {index} is zero")

    def part(self, holder: ClientId, seed: Secret, noise: Secret | None, about: bytes) -> Part:
        label = holder_label(self.agreement, holder)
        own = noise.expose() if noise else b""
        deviation = self.params.flooding_stddev if noise else 0.0
        return _Part(self.agreement, seed.expose(), label, own, about, deviation)

    def encrypt_shared(
        self, agreement: Agreement, me: ClientId, secret: Secret, entropy: Entropy
    ) -> Encrypt:
        label = self.agreement.label(b"shared")
        seeds = entropy(DIGEST_SIZE), entropy(SEED_SIZE)
        return _EncryptShared(agreement, secret.expose(), label, me, *seeds)

    def open_shared(
        self, agreement: Agreement, secret: Secret, summands: Mapping[ClientId, bytes], sums: bytes
    ) -> Open:
        # Of c1 alone, which the seeds are: c0 has no part in what the result says about the key.
        named = hashlib.sha256(u32(agreement.round) + write_map(summands, bytes)).digest()
        about = self.agreement.label(b"flood", named)
        own, label = secret.expose(), self.agreement.label(b"shared")
        deviation = self.params.flooding_stddev
        return _Open(agreement, own, label, own, about, deviation, dict(summands))

    def sums(self) -> Sums:
        return _Sums(self.params)

    def finish(self, values: Values, survivors: int) -> Values:
        return values  # what could be wrong with them was seen row by row


def _lengths(params: Params, index: int) -> list[int]:
    """Coefficients of each polynomial of a ciphertext that travel."""
    left, lengths = params.entries_of(index), []
    while left > 0:
        lengths.append(CHECKED + min(left, ROW_ENTRIES))
        left -= ROW_ENTRIES
    return lengths


def _unpacked(params: Params, index: int, packed: memoryview) -> Iterator[Row]:
    kept, begin = params.lattice.kept, 0
    for length in _lengths(params, index):
        end = begin + kept * length
        yield raised(uncut(packed[begin:end], kept), kept)
        begin = end


def _entries(params: Params, index: int, rows: list[Row]) -> Words:
    """The entries of the polynomials of an opened sum; those that must be zero are looked at.

    Anything else than the sum of the uploads in c0 passes by a chance of 2 E / q for each, E the
    bound on a sum's error; ``exact_bits`` is 8 or more, so that all of them pass once in 2**64.
    """
    most = math.ceil(params.largest_error / params.lattice.unit) + 1
    for place, row in enumerate(rows):
        checked = row[:CHECKED].view(np.int64)
        if not bool(((checked >= -most) & (checked <= most)).all()):
            raise RemoteProtocolError(
                f"polynomial {place} of ciphertext {index} does not open: some key, upload or "
                "partial decryption is wrong, or it is no sum of the uploads it names"
            )
    return np.concatenate([row[CHECKED:] for row in rows])


def _common(agreement: Agreement) -> Poly:
    stream = Stream(Secret(common_seed(agreement)), VERSION + b" common")
    return Poly.drawn(agreement.params.lattice, stream)


def _second(agreement: Agreement, client: ClientId, seed: bytes, index: int) -> Poly:
    """c1 of a ciphertext under a shared key: of one client, in one round, at one place."""
    stream = Stream(Secret(seed), label_of(agreement, b"second", client, index))
    return Poly.drawn(agreement.params.lattice, stream)


def _secrets(params: Params, seed: Secret, label: bytes) -> "np.ndarray[Any, np.dtype[np.int8]]":
    count = params.lattice.messages
    return ternary(Stream(seed, label), count * DEGREE).reshape(count, DEGREE)


def _polys(params: Params, packed: bytes) -> Iterator[Poly]:
    ring, view = params.lattice, memoryview(packed)
    for begin in range(0, len(view), ring.whole):
        yield Poly.read(ring, view[begin : begin + ring.whole])
