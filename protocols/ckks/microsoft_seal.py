"""CKKS on SEAL, the arithmetic alone: no session, no message, no rule about who may ask.

The only importer of tenseal. SEAL never parses a stranger's bytes: what comes over a
wire is decoded and checked by ``residues``, and what SEAL loads is built here from
residues below their primes. SEAL gives objects out and takes them in through files
only; ours live in anonymous memory (``memfd_create``, Linux) and are gone with the call.

A value is ``degree`` reals in [-1, 1], entry i and entry i + degree/2 in one complex
slot. A ciphertext is (c0, c1) with c0 + c1 s = scale * value + error, a partial
decryption c1 s_i + noise, arrays of residues as in ``residues``.

Randomness: secret keys come from seeds, flooding from the caller. The errors of an
encryption, the polynomial that a shared key's ciphertext carries as a seed, and a
public-key encryption's u are drawn by SEAL itself: BLAKE2Xb, seeded for each encryption
with 64 bytes from ``/dev/urandom`` (native/src/seal/randomgen.cpp). No ``entropy``
argument reaches them, so no ciphertext can be replayed by a test.

[CKKS17]: Cheon, Kim, Kim, Song, https://eprint.iacr.org/2016/421
"""

import ctypes
import functools
import math
import os
import struct
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

try:
    import _sealapi_cpp
    from tenseal import sealapi
except ModuleNotFoundError as error:
    raise ImportError(
        "protocols.ckks needs tenseal, which is not installed: "
        "pip install '.[ckks]' in a clone of secagg",
        name="tenseal",
    ) from error

from protocols.ckks.residues import SEED_SIZE, Ring, Rows, ntt_primes, reduce, subtract, ternary
from protocols.errors import InputError, LocalProtocolError
from protocols.secrets import Secret

_MAGIC = 0xA15E
_HEADER = struct.Struct("<HBBBBHQ")  # magic, own size, version, compression, reserved, total
_NONE, _ZSTD = 0, 2  # compression
_BLAKE2XB = 1
_LARGEST_ERROR = 21  # of SEAL's centred binomial of 21 bits (native/src/seal/util/rlwe.cpp)


class Context:
    """SEAL's tables for one ring and scale. Build it by :func:`context`, which keeps them.

    Take both from a ``Params``: of what it checks, this refuses only the coarsest.

    Attributes:
      ring: the polynomials.
      scale: a value of 1 is encoded as this.
      data, keys: SEAL's tables for ciphertexts and for public shares; for this module.
    """

    def __init__(self, ring: Ring, scale: float) -> None:
        if not 1 < scale < ring.modulus / 4:
            raise InputError(f"scale {scale} is outside (1, {ring.modulus / 4:g})")
        self.ring, self.scale = ring, scale
        levels = sealapi.SEC_LEVEL_TYPE
        self.data = Level(ring.degree, ring.key_primes, levels.TC128)
        # Public shares live under the special prime too, where SEAL encrypts no data: one
        # more prime on top makes a context in which it does. It only calculates, so the
        # security of that longer modulus says nothing about the keys.
        self.keys = (
            Level(ring.degree, (*ring.key_primes, _spare(ring)), levels.NONE)
            if ring.special_bits
            else self.data
        )
        self._encoder = sealapi.CKKSEncoder(self.data.context)

    def encode(self, values: NDArray[np.float64]) -> Any:
        """``degree`` reals in [-1, 1] as a plaintext of SEAL.

        Raises:
          LocalProtocolError: another number of them, one outside, or not a number.
        """
        if values.shape != (self.ring.degree,):
            raise LocalProtocolError(f"{values.shape} values, expected ({self.ring.degree},)")
        if not bool((np.abs(values) <= 1).all()):
            raise LocalProtocolError("a value is outside [-1, 1] or not a number")
        real, imaginary = np.split(values, 2)
        plaintext = sealapi.Plaintext()
        self._encoder.encode((real + 1j * imaginary).tolist(), self.scale, plaintext)
        return plaintext

    def decode(self, rows: Rows) -> NDArray[np.float64]:
        """The reals in c0 + c1 s: the exact sum of the values plus error over scale."""
        plaintext = self.data.plaintext(rows, self.scale)
        slots = np.array(self._encoder.decode_complex(plaintext))
        return np.concatenate([slots.real, slots.imag])

    def expand(self, seed: bytes, first: Rows) -> Rows:
        """The ciphertext that :meth:`Key.encrypt` gave as seed and first polynomial.

        Args:
          seed: any 64 bytes.
          first: c0, residues below their primes.
        """
        if len(seed) != SEED_SIZE:
            raise LocalProtocolError(f"seed has {len(seed)} bytes, expected {SEED_SIZE}")
        loaded = self.data.ciphertext(first[None], self.scale, seed=seed)
        return self.data.rows(loaded)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Context is built again, not pickled")


@functools.lru_cache(maxsize=8)
def context(ring: Ring, scale: float) -> Context:
    """The :class:`Context` of ``ring`` and ``scale``, built once."""
    return Context(ring, scale)


class Key:
    """A secret polynomial, ternary and uniform, ready for use. Never printed, never pickled.

    Args:
      seed: 32 uniform bytes; whoever has them has the key.
      label: what the key is for; another label gives an unrelated key.
    """

    __slots__ = ("_context", "_decrypt", "_encrypt", "_share")

    def __init__(self, context: Context, seed: Secret, label: bytes) -> None:
        data, keys, ring = context.data, context.keys, context.ring
        coefficients = reduce(ternary(seed, label, ring.degree), ring.key_primes)
        secret = keys.transform(coefficients)
        loaded = data.secret(secret)
        self._context = context
        self._encrypt = sealapi.Encryptor(data.context, loaded)
        self._decrypt = sealapi.Decryptor(data.context, loaded)
        self._share = secret

    def encrypt(self, values: NDArray[np.float64]) -> tuple[bytes, Rows]:
        """A ciphertext under this key: the seed of c1 and the residues of c0.

        Only for a key that every client knows. See :meth:`Context.expand`.
        """
        level = self._context.data
        sealed = self._encrypt.encrypt_symmetric(self._context.encode(values))
        body = _saved(sealed, level.limit)
        first = level.residues(body, _CIPHERTEXT, 1)[0]
        kind, seed = body[-SEED_SIZE - 1], bytes(body[-SEED_SIZE:])
        if kind != _BLAKE2XB:
            raise LocalProtocolError(f"SEAL expands seeds by generator {kind}, not BLAKE2Xb")
        return seed, first

    def public_share(self, common: Rows) -> Rows:
        """b_i = e_i - a s_i for the common polynomial a, under all primes of the ring.

        e_i is the fresh error of one of SEAL's encryptions of zero: (c0, c1) with
        c0 + c1 s = e, so that (c0, c1 - a) decrypts to b_i. Every call draws another:
        publish one, since the mean of many tells the secret. ``common`` and the answer
        are (all primes, N), and travel by ``residues.pack`` with ``ring.key_primes``.
        """
        keys = self._context.keys
        secret = keys.secret(self._share)
        zero = sealapi.Ciphertext()
        sealapi.Encryptor(keys.context, secret).encrypt_zero_symmetric(zero)
        first, second = keys.rows(zero)
        shifted = keys.ciphertext(np.stack([first, subtract(second, common, keys.primes)]), 1.0)
        return keys.decrypted(sealapi.Decryptor(keys.context, secret), shifted)

    def explains(self, share: Rows, common: Rows) -> bool:
        """Whether ``share`` is -a s under this key but for an error of SEAL's: b_i + a s_i."""
        keys = self._context.keys
        decryptor = sealapi.Decryptor(keys.context, keys.secret(self._share))
        error = keys.decrypted(decryptor, keys.ciphertext(np.stack([share, common]), 1.0))
        found = keys.coefficients(error)
        magnitudes = np.minimum(found, np.array(keys.primes, np.uint64)[:, None] - found)
        return bool((magnitudes <= _LARGEST_ERROR).all())

    def partial(self, second: Rows, noise: NDArray[np.int64] | None) -> Rows:
        """c1 s_i + noise, whose coefficients the noise is added to.

        Args:
          second: c1, not zero.
          noise: ``degree`` integers, see ``noise.gaussian``; None where nobody but
            holders of this very key ever sees the result.
        """
        if not second.any():
            raise LocalProtocolError("the ciphertext's second polynomial is zero")
        level = self._context.data
        zero = np.zeros_like(second)
        if noise is None:
            ciphertext = level.ciphertext(np.stack([zero, second]), self._context.scale)
            return level.decrypted(self._decrypt, ciphertext)
        # The transform of the constant 1 is all ones: (noise, 1) + (0, c1 - 1) = (noise, c1).
        ciphertext = level.transformed(reduce(noise, level.primes), self._context.scale)
        rest = np.stack([zero, subtract(second, np.ones_like(second), level.primes)])
        level.evaluator.add_inplace(ciphertext, level.ciphertext(rest, self._context.scale))
        return level.decrypted(self._decrypt, ciphertext)

    def __repr__(self) -> str:
        return "<Key>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Key is neither pickled nor copied; share its seed on purpose")


class PublicKey:
    """The collective key (sum of b_i, a); what it encrypts, all holders together decrypt.

    Args:
      share: sum of the holders' ``public_share``, under all primes of the ring.
      common: a.
    """

    __slots__ = ("_context", "_encrypt")

    def __init__(self, context: Context, share: Rows, common: Rows) -> None:
        level = context.data
        key = sealapi.PublicKey()
        level.load(key, level.cipher_body(np.stack([share, common]), 1.0, level.key_id))
        self._context = context
        self._encrypt = sealapi.Encryptor(level.context, key)

    def encrypt(self, values: NDArray[np.float64]) -> Rows:
        """A ciphertext, (2, primes, N); see ``residues.pack_ciphertext``."""
        ciphertext = sealapi.Ciphertext()
        self._encrypt.encrypt(self._context.encode(values), ciphertext)
        return self._context.data.rows(ciphertext)


# SEAL's layouts before the residues. Ciphertext: parms_id, is_ntt, polynomials, degree,
# primes, scale, correction factor; plaintext: parms_id, coefficients, scale. Then both:
# header and count of the array, the array.
_CIPHERTEXT = struct.Struct("<32sBQQQdQ")
_PLAINTEXT = struct.Struct("<32sQd")
_COUNT = struct.Struct("<Q")


class Level:
    """SEAL for one list of primes: objects of its first level, where data are encrypted."""

    def __init__(self, degree: int, chain: tuple[int, ...], security: Any) -> None:
        parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(degree)
        parameters.set_coeff_modulus([sealapi.Modulus(prime) for prime in chain])
        self.context = sealapi.SEALContext(parameters, True, security)
        if not self.context.parameters_set():
            raise InputError(f"SEAL: {self.context.parameters_error_message()}")
        self.degree, self.chain = degree, chain
        self.primes = chain[:-1] or chain  # SEAL keeps the last of several for keys
        self.limit = 16 * degree * len(chain) + 1024  # bytes of any object of ours
        self.evaluator = sealapi.Evaluator(self.context)
        self.data_id = struct.pack("<4Q", *self.context.first_parms_id())
        self.key_id = struct.pack("<4Q", *self.context.key_parms_id())
        _, _, *self._version, _, _, _ = _HEADER.unpack(_written(parameters)[: _HEADER.size])

    def secret(self, rows: Rows) -> Any:
        """A secret key from its transform; rows that ``rows`` lacks are zero."""
        padded = np.zeros((len(self.chain), self.degree), np.uint64)
        padded[: len(rows)] = rows
        key = sealapi.SecretKey()
        self.load(key, self._plain_body(padded, 1.0, self.key_id))
        return key

    def plaintext(self, rows: Rows, scale: float) -> Any:
        plaintext = sealapi.Plaintext()
        self.load(plaintext, self._plain_body(rows, scale, self.data_id))
        return plaintext

    def ciphertext(
        self, polynomials: Rows, scale: float, *, seed: bytes = b"", transformed: bool = True
    ) -> Any:
        """A ciphertext of the first level; with ``seed``, of c0 alone, SEAL expands c1."""
        body = self.cipher_body(polynomials, scale, self.data_id, transformed=transformed)
        if seed:
            body += self._header(1 + len(seed)) + bytes([_BLAKE2XB]) + seed
        ciphertext = sealapi.Ciphertext()
        self.load(ciphertext, body)
        return ciphertext

    def transformed(self, coefficients: Rows, scale: float) -> Any:
        """(transform of ``coefficients``, transform of 1), as a ciphertext."""
        one = np.zeros_like(coefficients)
        one[:, 0] = 1
        pair = self.ciphertext(np.stack([coefficients, one]), scale, transformed=False)
        self.evaluator.transform_to_ntt_inplace(pair)
        return pair

    def transform(self, coefficients: Rows) -> Rows:
        rows: Rows = self.rows(self.transformed(coefficients, 1.0))[0]
        return rows

    def coefficients(self, rows: Rows) -> Rows:
        """Inverse of :meth:`transform`."""
        pair = self.ciphertext(np.stack([rows, np.ones_like(rows)]), 1.0)
        self.evaluator.transform_from_ntt_inplace(pair)
        found: Rows = self.rows(pair)[0]
        return found

    def decrypted(self, decryptor: Any, ciphertext: Any) -> Rows:
        plaintext = sealapi.Plaintext()
        decryptor.decrypt(ciphertext, plaintext)
        rows: Rows = self.residues(_saved(plaintext, self.limit), _PLAINTEXT, 1)[0]
        return rows

    def rows(self, ciphertext: Any) -> Rows:
        return self.residues(_saved(ciphertext, self.limit), _CIPHERTEXT, 2)

    def residues(self, body: memoryview, layout: struct.Struct, polynomials: int) -> Rows:
        """The array in what SEAL saved, (polynomials, primes, N)."""
        begin = layout.size + _HEADER.size
        shape = (polynomials, len(self.primes), self.degree)
        (count,) = _COUNT.unpack_from(body, begin)
        if count != math.prod(shape):
            raise LocalProtocolError(f"SEAL saved {count} residues, expected {math.prod(shape)}")
        offset = begin + _COUNT.size
        found: Rows = np.frombuffer(body, "<u8", count, offset).reshape(shape)
        return found

    def cipher_body(
        self, polynomials: Rows, scale: float, level: bytes, *, transformed: bool = True
    ) -> bytes:
        primes = polynomials.shape[1]
        head = _CIPHERTEXT.pack(level, transformed, 2, self.degree, primes, scale, 1)
        return head + self._array(polynomials)

    def _plain_body(self, rows: Rows, scale: float, level: bytes) -> bytes:
        return _PLAINTEXT.pack(level, rows.size, scale) + self._array(rows)

    def _array(self, array: Rows) -> bytes:
        data = _COUNT.pack(array.size) + array.astype("<u8", copy=False).tobytes()
        return self._header(len(data)) + data

    def _header(self, body: int) -> bytes:
        major, minor = self._version
        return _HEADER.pack(_MAGIC, _HEADER.size, major, minor, _NONE, 0, _HEADER.size + body)

    def load(self, target: Any, body: bytes) -> None:
        """Let SEAL read ``body``, which was made here."""
        file = os.memfd_create("secagg", os.MFD_CLOEXEC)
        try:
            os.writev(file, [self._header(len(body)), body])
            target.load(self.context, f"/proc/self/fd/{file}")
        finally:
            os.close(file)


def _spare(ring: Ring) -> int:
    """One more prime, other than those of ``ring``."""
    bits = [prime.bit_length() for prime in ring.key_primes]
    return ntt_primes(ring.degree, (*bits, max(bits)))[-1]


def _written(saveable: Any) -> bytes:
    file = os.memfd_create("secagg", os.MFD_CLOEXEC)
    try:
        saveable.save(f"/proc/self/fd/{file}")
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)


def _saved(saveable: Any, limit: int) -> memoryview:
    """What SEAL saves of an object of its own, after the header, decompressed."""
    data = _written(saveable)
    magic, _, _, _, compression, _, total = _HEADER.unpack_from(data)
    if magic != _MAGIC or total != len(data) or compression not in (_NONE, _ZSTD):
        raise LocalProtocolError("SEAL saved in an unknown format; use tenseal 0.3.18")
    body = np.frombuffer(data, np.uint8)[_HEADER.size :]
    if compression == _NONE:
        return body.data
    out = np.empty(limit, np.uint8)
    length: int = _decompress(out.ctypes.data, limit, body.ctypes.data, len(body))
    if length > limit:  # zstd's errors are the largest numbers
        raise LocalProtocolError("SEAL saved what its own zstd does not open; use tenseal 0.3.18")
    return out[:length].data


def _zstd() -> Any:
    """SEAL's own decompressor, which tenseal's library exports."""
    try:
        function = ctypes.CDLL(_sealapi_cpp.__file__).ZSTD_decompress
    except AttributeError:
        raise ImportError(
            "this build of tenseal hides zstd; secagg was tried with 0.3.18"
        ) from None
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t]
    return function


_decompress = _zstd()
