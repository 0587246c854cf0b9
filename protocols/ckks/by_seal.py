"""A session on SEAL, through tenseal. Ciphertexts of N reals each, in slots."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from protocols.ckks import residues
from protocols.ckks.engine import (
    Arithmetic,
    Encrypt,
    Open,
    Part,
    Sums,
    Values,
    common_seed,
    holder_label,
)
from protocols.ckks.microsoft_seal import Context, Key, PublicKey, context
from protocols.ckks.noise import gaussian
from protocols.ckks.params import VERSION, Agreement, Model, Params
from protocols.ckks.residues import Ring, Rows
from protocols.entropy import Entropy
from protocols.errors import DecodeError, RemoteProtocolError
from protocols.primitives.prg import from_seed
from protocols.secrets import Secret
from protocols.wire import ClientId, u32

_FAR: Final = 12.5  # deviations: a Gaussian passes them once in 2**115


@dataclass(frozen=True)
class _Work:
    """What a worker needs for one chunk after another; SEAL's objects it makes for itself."""

    params: Params

    @property
    def ring(self) -> Ring:
        return self.params.seal_ring

    @property
    def seal(self) -> Context:
        return context(self.ring, self.params.scale)

    def padded(self, values: Values) -> NDArray[np.float64]:
        out = np.zeros(self.ring.degree)
        out[: len(values)] = values / self.params.clip
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "key"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


@dataclass(frozen=True)
class _Secret(_Work):
    seed: bytes = field(repr=False)
    label: bytes

    @cached_property
    def key(self) -> Key:
        return Key(self.seal, Secret(self.seed), self.label)


@dataclass(frozen=True)
class _EncryptShared(_Secret):
    def __call__(self, chunk: tuple[int, Values]) -> bytes:
        return residues.pack_seeded(*self.key.encrypt(self.padded(chunk[1])), self.ring)


@dataclass(frozen=True)
class _EncryptForAll(_Work):
    share: bytes  # sum of all b_i, packed
    common: bytes  # seed of a

    @cached_property
    def key(self) -> PublicKey:
        share = residues.unpack(self.share, self.ring.degree, self.ring.key_primes)
        return PublicKey(self.seal, share, _expand(self.common, self.ring))

    def __call__(self, chunk: tuple[int, Values]) -> bytes:
        return residues.pack_ciphertext(self.key.encrypt(self.padded(chunk[1])), self.ring)


@dataclass(frozen=True)
class _Flooded(_Secret):
    """Work with a secret key whose result is flooded, where ``deviation`` is not 0."""

    noise: bytes = field(repr=False)
    about: bytes
    deviation: float

    def partial(self, index: int, second: Rows) -> Rows:
        if not self.deviation:
            return self.key.partial(second, None)
        drawn = from_seed(Secret(self.noise), self.about + u32(index))
        return self.key.partial(second, gaussian(self.ring.degree, self.deviation, drawn))


@dataclass(frozen=True)
class _Part(_Flooded):
    def __call__(self, chunk: tuple[int, bytes]) -> bytes:
        index, packed = chunk
        second = residues.unpack(packed, self.ring.degree, self.ring.primes)
        return residues.pack(self.partial(index, second), self.ring.primes)


@dataclass(frozen=True)
class _Open(_Flooded):
    def __call__(self, chunk: tuple[int, bytes]) -> Values:
        index, packed = chunk
        first, second = residues.unpack_ciphertext(packed, self.ring)
        opened = residues.add(first, self.partial(index, second), self.ring.primes)
        return self.seal.decode(opened)


class _Sums(Sums):
    """Residues of both polynomials of every chunk."""

    def __init__(self, params: Params) -> None:
        ring = params.seal_ring
        self._params, self._ring = params, ring
        self._total: Rows = np.zeros((params.chunks, 2, len(ring.primes), ring.degree), np.uint64)

    def read(self, index: int, ciphertext: memoryview) -> Rows:
        if self._params.model is Model.THRESHOLD:
            return residues.unpack_ciphertext(ciphertext, self._ring)
        seeded = residues.unpack_seeded(ciphertext, self._ring)
        return context(self._ring, self._params.scale).expand(*seeded)

    def add(self, index: int, read: Rows) -> None:
        self._total[index] = residues.add(self._total[index], read, self._ring.primes)

    def second(self, index: int) -> bytes:
        return residues.pack(self._total[index, 1], self._ring.primes)

    def shared(self, index: int) -> bytes:
        return residues.pack_ciphertext(self._total[index], self._ring)

    def read_part(self, index: int, part: memoryview) -> Rows:
        return residues.unpack(part, self._ring.degree, self._ring.primes)

    def add_part(self, index: int, read: Rows) -> None:
        first = self._total[index, 0]
        first[:] = residues.add(first, read, self._ring.primes)

    def values(self, index: int) -> Values:
        return context(self._ring, self._params.scale).decode(self._total[index, 0])


class BySeal(Arithmetic):
    """Keys and ciphertexts of SEAL's."""

    KIND = np.float64

    def public_share(self, holder: ClientId, seed: Secret, own: Secret) -> bytes:
        ring = self.params.seal_ring
        share = self._key(holder, seed).public_share(_expand(common_seed(self.agreement), ring))
        return residues.pack(share, ring.key_primes)

    def check_share(self, share: bytes) -> None:
        self._share(share)

    def total(self, shares: Mapping[ClientId, bytes]) -> bytes:
        primes = self.params.seal_ring.key_primes
        total: Rows = np.zeros((len(primes), self.params.seal_ring.degree), np.uint64)
        for share in shares.values():
            total = residues.add(total, self._share(share), primes)
        return residues.pack(total, primes)

    def explains(self, holder: ClientId, seed: Secret, share: bytes) -> bool:
        common = _expand(common_seed(self.agreement), self.params.seal_ring)
        return self._key(holder, seed).explains(self._share(share), common)

    def encrypt_for_all(
        self, agreement: Agreement, me: ClientId, total: bytes, entropy: Entropy
    ) -> Encrypt:
        return _EncryptForAll(self.params, total, common_seed(self.agreement))

    def check_second(self, index: int, second: bytes) -> None:
        ring = self.params.seal_ring
        if not residues.unpack(second, ring.degree, ring.primes).any():
            raise DecodeError(f"the second polynomial of chunk {index} is zero")

    def part(self, holder: ClientId, seed: Secret, noise: Secret | None, about: bytes) -> Part:
        label = holder_label(self.agreement, holder)
        own = noise.expose() if noise else b""
        deviation = self.params.flooding_stddev if noise else 0.0
        return _Part(self.params, seed.expose(), label, own, about, deviation)

    def encrypt_shared(
        self, agreement: Agreement, me: ClientId, secret: Secret, entropy: Entropy
    ) -> Encrypt:
        return _EncryptShared(self.params, secret.expose(), self.agreement.label(b"shared"))

    def open_shared(
        self, agreement: Agreement, secret: Secret, summands: Mapping[ClientId, bytes], sums: bytes
    ) -> Open:
        about = self.agreement.label(b"flood", hashlib.sha256(sums).digest())
        own, label = secret.expose(), self.agreement.label(b"shared")
        return _Open(self.params, own, label, own, about, self.params.flooding_stddev)

    def sums(self) -> Sums:
        return _Sums(self.params)

    def finish(self, values: Values, survivors: int) -> Values:
        entries = values.astype(np.float64, copy=False)
        entries *= self.params.clip
        bound = survivors * (self.params.clip + _FAR * self.params.mean_stddev(survivors))
        if not bool((np.abs(entries) <= bound).all()):
            raise RemoteProtocolError(
                f"an entry of the sum is above the {bound:.6g} that {survivors} summands can "
                "reach: some key, upload or partial decryption is wrong"
            )
        return entries

    def _key(self, holder: ClientId, seed: Secret) -> Key:
        seal = context(self.params.seal_ring, self.params.scale)
        return Key(seal, seed, holder_label(self.agreement, holder))

    def _share(self, packed: bytes) -> Rows:
        ring = self.params.seal_ring
        return residues.unpack(packed, ring.degree, ring.key_primes)


def _expand(seed: bytes, ring: Ring) -> Rows:
    return residues.uniform(seed, VERSION + b" common", ring.degree, ring.key_primes)
