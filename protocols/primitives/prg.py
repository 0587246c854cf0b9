"""Seeds to streams of uint64 words: AES-128-CTR or ChaCha20.

A stream is named by a 32-byte seed and a label. HKDF-Expand(seed, suite |
label) [RFC 5869] gives the cipher's key and starting block, so two labels of
one seed have nothing to do with each other. Words are the keystream read as
little-endian uint64. Both suites are a standard cipher and nothing else: under
a fresh uniform seed the words cannot be told from uniform ones.

    AES-128-CTR   key 16 bytes, nonce 12 bytes, big-endian counter from 2   [NIST SP 800-38A]
    ChaCha20      key 32 bytes, nonce 12 bytes, little-endian counter from 0   [RFC 8439]

AES-GCM encrypts in just that counter mode, from just that block on [NIST SP 800-38D, 7.1]. Where
the processor has VAES, OpenSSL uses it for GCM alone, so the words are taken from there and the
tag is left: the same bytes, and twice as fast.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from protocols.checks import check_size
from protocols.entropy import Entropy
from protocols.errors import InputError, LocalProtocolError
from protocols.secrets import Secret

SEED_SIZE = 32  # bytes
BLOCK_WORDS = 8  # of a ChaCha20 block, and of four AES blocks
CHUNK_WORDS = 2**15  # 256 KiB: a chunk and its keystream stay in the second-level cache
MAX_WORDS = 2**33 - 8  # a seed: the AES blocks from counter 2 on, in whole groups of four

if sys.byteorder != "little":
    raise ImportError("secagg reads keystreams as little-endian words; this machine is big-endian")

# 1 MiB, what a thread takes at a time: each chunk hands the interpreter's lock over. Measured, two
# threads over 99 masks of 10^6 entries: 1.1 times one with 256 KiB, 1.5 with this, no more beyond.
MAX_CHUNK_WORDS = 2**17

_ZEROS = memoryview(bytes(8 * MAX_CHUNK_WORDS))
Item = TypeVar("Item")
Made = TypeVar("Made")


class Suite(IntEnum):
    """The cipher that expands masks. One session uses one suite for all its parties."""

    AES_128_CTR = 1
    CHACHA20 = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """One stream to be added to a vector, or subtracted from it."""

    seed: Secret = field(repr=False)
    label: bytes
    subtract: bool = False


class Stream:
    """The words of one (seed, label), taken from front to back.

    Args:
      seed: 32 uniform bytes.
      label: what the words are for; another label gives unrelated words.
      start: first word, a multiple of 8: parts of one stream can be made apart.
    """

    __slots__ = ("_left", "_update")

    def __init__(
        self, seed: Secret, label: bytes, suite: Suite = Suite.AES_128_CTR, *, start: int = 0
    ) -> None:
        check_size("seed", seed, SEED_SIZE)
        if start % BLOCK_WORDS or not 0 <= start < MAX_WORDS:
            raise InputError(f"start {start} is not a multiple of {BLOCK_WORDS} below 2**33")
        cipher = _cipher(seed.expose(), label, suite, start // BLOCK_WORDS)
        self._update = cipher.encryptor().update_into
        self._left = MAX_WORDS - start

    def fill(self, words: NDArray[np.uint64]) -> None:
        """Write the next ``len(words)`` words over ``words``, a contiguous array."""
        self.spend(len(words))
        out = words.data.cast("B") if len(words) else memoryview(b"")
        for begin in range(0, len(out), len(_ZEROS)):
            part = out[begin : begin + len(_ZEROS)]
            self.write(part)

    def spend(self, count: int) -> None:
        """Refuse more words than a seed may give; the counter would start over."""
        if count > self._left:
            raise LocalProtocolError(f"a seed gives at most {MAX_WORDS} words; use another seed")
        self._left -= count

    def write(self, out: memoryview) -> None:
        """Write the next bytes over ``out``, at most a chunk; ``spend`` comes first."""
        self._update(_ZEROS[: len(out)], out)


def from_seed(seed: Secret, label: bytes) -> Entropy:
    """Bytes that everybody who has ``seed`` and ``label`` gets too, a stream of whole words."""
    stream = Stream(seed, label)

    def take(count: int) -> bytes:
        words = np.empty(-(-count // 8), np.uint64)
        stream.fill(words)
        return words.tobytes()[:count]

    return take


_Signed: TypeAlias = tuple[np.ufunc, Stream]


class Masks:
    """Many masks over one vector, a chunk at a time while it is in the cache.

    Args:
      suite: AES-128 in counter mode, or ChaCha20.
      masks: their streams are opened here and read in step.
      start: first word, a multiple of 8.
      chunk: words at a time, at most ``MAX_CHUNK_WORDS``. It changes no word.
    """

    __slots__ = ("_chunk", "_keystream", "_streams")

    def __init__(
        self,
        masks: Iterable[Mask],
        suite: Suite = Suite.AES_128_CTR,
        *,
        start: int = 0,
        chunk: int = CHUNK_WORDS,
    ) -> None:
        self._streams = [
            (
                np.subtract if mask.subtract else np.add,
                Stream(mask.seed, mask.label, suite, start=start),
            )
            for mask in masks
        ]
        self._chunk = min(chunk, MAX_CHUNK_WORDS)
        self._keystream = np.empty(0, np.uint64)

    def apply_to(self, words: NDArray[np.uint64]) -> None:
        """Add and subtract the next ``len(words)`` words of each, in place, modulo 2**64."""
        for _, stream in self._streams:
            stream.spend(len(words))
        for begin in range(0, len(words), self._chunk):
            self._combine(words[begin : begin + self._chunk], self._streams)

    def write_to(self, chunk: NDArray[np.uint64]) -> None:
        """Write the sum of their next words over ``chunk``, contiguous, of our size at most."""
        for _, stream in self._streams:
            stream.spend(len(chunk))
        first = self._streams[:1]
        for combine, stream in first:
            stream.write(chunk.data.cast("B"))
            if combine is np.subtract:
                np.negative(chunk, out=chunk)
        if not first:
            chunk[:] = 0
        self._combine(chunk, self._streams[1:])

    def each(self, work: Callable[[Item], Made], items: Sequence[Item]) -> Iterable[Made]:
        """Map ``work`` over ``items``, one after the other."""
        return map(work, items)

    def _combine(self, chunk: NDArray[np.uint64], streams: Sequence[_Signed]) -> None:
        if len(self._keystream) < len(chunk):
            self._keystream = np.empty(len(chunk), np.uint64)
        keystream = self._keystream[: len(chunk)]
        out = keystream.data.cast("B") if len(chunk) else memoryview(b"")
        for combine, stream in streams:
            stream.write(out)
            combine(chunk, keystream, out=chunk)


class Streams(Protocol):
    """Masks that were opened, to be read from front to back."""

    def apply_to(self, words: NDArray[np.uint64]) -> None:
        """Add and subtract the next ``len(words)`` words of each, in place, modulo 2**64."""

    def each(self, work: Callable[[Item], Made], items: Sequence[Item]) -> Iterable[Made]:
        """Map what else a masked vector costs, such as its checksums, over the same cores."""


class Expand(Protocol):
    """A way to open masks; :class:`Masks` is the plain one. It sees their seeds."""

    def __call__(self, masks: Sequence[Mask], suite: Suite) -> Streams:
        """Open ``masks`` at their first word."""


@cache
def has_vaes() -> bool:
    """Whether the processor encrypts several AES blocks at once; ``False`` if nothing says so."""
    try:
        return " vaes " in Path("/proc/cpuinfo").read_text("ascii", "replace")
    except OSError:
        return False


def _cipher(
    seed: bytes, label: bytes, suite: Suite, block: int
) -> Cipher[modes.CTR] | Cipher[modes.GCM] | Cipher[None]:
    info = bytes([suite]) + label  # the suite too: no two ciphers ever share a key
    match suite:
        case Suite.AES_128_CTR:
            material = HKDFExpand(hashes.SHA256(), 28, info).derive(seed)
            key, nonce = algorithms.AES(material[:16]), material[16:]
            if not block and has_vaes():
                return Cipher(key, modes.GCM(nonce))
            counter = 2 + block * (BLOCK_WORDS // 2)
            return Cipher(key, modes.CTR(nonce + counter.to_bytes(4, "big")))
        case Suite.CHACHA20:
            material = chacha20_material(seed, label)
            initial = block.to_bytes(4, "little")
            return Cipher(algorithms.ChaCha20(material[:32], initial + material[32:]), None)


def chacha20_material(seed: bytes, label: bytes) -> bytes:
    """The 32 bytes of key and 12 of nonce of a stream: **secret**, for whoever has the cipher."""
    return HKDFExpand(hashes.SHA256(), 44, bytes([Suite.CHACHA20]) + label).derive(seed)
