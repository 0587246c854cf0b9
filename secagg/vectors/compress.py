"""Compression that survives a sum: public linear maps of a vector, before it is quantised.

Masks hide a sum of vectors of one length, whose entries mean the same for all clients. What may be
left out is therefore chosen in public and by nobody's data: a ``Compress`` maps every client's
vector by one seed, the sum of the maps is the map of the sum, and ``backward`` of it is the sum,
exactly or without bias. Entries that a client chooses by their size (top-k) are no such map: which
they are would travel in the clear or not add up, and tells of its data.

[KMY+16] Konecny et al., *Federated Learning: Strategies for Improving Communication Efficiency*,
arXiv 1610.05492: random masks by a seed, and structured rotations.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from dp.noise import rotation
from secagg.errors import InputError
from secagg.vectors.quantize import refuse_non_finite

SEED_SIZE: Final = 32  # bytes
MOST: Final = 1024  # of one_in
_LABEL: Final = b"secagg 1 sampled entries"  # before the seed: the digest has no other use
_UNSOUND: Final = {
    "top-k": "which entries a client finds largest tells of its data, and is another for each",
    "error-feedback": "what one round leaves out comes into a later one, whose noise does not "
    "cover it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compress:
    """What is sent of a vector, for all clients alike.

    Attributes:
      one_in: send one entry of so many, 1 to 1024: of each ``one_in`` neighbours one, which
        ``seed`` draws. The estimate is without bias for a vector that was there before the seed,
        up to one part in 2^32 / one_in; its squared error is expected at
        ``one_in - 1`` times the squared norm, at most.
      rotate: spread the vector over all its entries first (``dp.noise.rotation``), so that few bits
        an entry lose little of it. Its length is padded, by at most a third and for most lengths
        by a tenth.

    A clip is of what comes out of the map. Without rotation entries keep their size; with it one is
    about the L2 norm over the root of the length, and ``4`` times that is seldom passed.

    Raises:
      InputError: ``one_in`` out of range.
    """

    one_in: int = 1
    rotate: bool = False

    def __post_init__(self) -> None:
        if type(self.one_in) is not int or not 1 <= self.one_in <= MOST:
            raise InputError(f"one_in {self.one_in!r:.40} is not an int from 1 to {MOST}")
        if type(self.rotate) is not bool:
            raise InputError(f"rotate is {self.rotate!r:.40}, neither true nor false")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``none``, ``1/8``, ``rotate`` or ``rotate 1/8``.

        >>> Compress.parse("rotate 1/8")
        Compress(one_in=8, rotate=True)

        Raises:
          InputError: anything else; what is unsound is named.
        """
        if text in _UNSOUND:
            raise InputError(f"{text} is unsound under a sum: {_UNSOUND[text]}")
        words = text.split(" ")
        rotate = words[0] == "rotate"
        share = " ".join(words[rotate:])
        try:
            one_in = int(share.removeprefix("1/")) if share not in ("", "none") else 1
            found = cls(one_in=one_in, rotate=rotate)
        except (ValueError, InputError):
            found = None
        if found is None or str(found) != text:
            raise InputError(
                f"compress {text!r:.40} is none of: none, 1/2 to 1/{MOST}, rotate, rotate 1/8"
            )
        return found

    def __str__(self) -> str:
        """The text that ``parse`` takes."""
        share = f"1/{self.one_in}" if self.one_in > 1 else ""
        return " ".join(filter(None, ("rotate" * self.rotate, share))) or "none"

    def size(self, entries: int) -> int:
        """How many entries are sent of so many.

        Raises:
          InputError: too many to rotate, 2^28.
        """
        return -(-self._whole(entries) // self.one_in)

    def forward(self, vector: NDArray[Any], *, seed: bytes) -> NDArray[Any]:
        """Map ``vector``, floats of shape (entries,), to what is sent: floats of shape (size,).

        Args:
          seed: 32 bytes, public, the same for all clients of a sum, and of this sum alone.

        Raises:
          InputError: an entry is NaN or infinite, or the seed is of another length.
        """
        _check(seed)
        refuse_non_finite(vector, 0, "vector", np.empty(len(vector), np.bool_))
        if self.rotate and len(vector):
            # In float32 it errs by up to a thousandth of the norm.
            vector = rotation.forward(vector.astype(np.float64), seed=seed)
        if self.one_in == 1:
            return vector
        drawn = self._drawn(len(vector), seed)
        sent = np.zeros(len(drawn), vector.dtype)
        within = len(drawn) - int(len(drawn) > 0 and drawn[-1] >= len(vector))
        sent[:within] = vector[drawn[:within]]
        return sent

    def backward(self, total: NDArray[Any], entries: int, *, seed: bytes) -> NDArray[np.float64]:
        """The estimate of the sum of vectors of so many ``entries``, from the sum of their maps.

        Raises:
          InputError: ``total`` is not of shape (size,), or the seed is of another length.
        """
        _check(seed)
        if total.shape != (self.size(entries),):
            raise InputError(
                f"a sum of shape {total.shape}, {entries} entries are ({self.size(entries)},)"
            )
        whole = total.astype(np.float64)
        if self.one_in > 1:
            size = self._whole(entries)
            drawn = self._drawn(size, seed)
            spread = np.zeros(len(drawn) * self.one_in)
            spread[drawn] = whole * self.one_in
            whole = spread[:size]
        if self.rotate and entries:
            whole = rotation.backward(whole, entries, seed=seed).astype(np.float64, copy=False)
        return whole

    def _whole(self, entries: int) -> int:
        if not (self.rotate and entries):
            return entries
        if entries > rotation.MAX_ENTRIES:
            raise InputError(f"{entries} entries are too many to rotate, at most 2^28")
        return rotation.padded_size(entries)

    def _drawn(self, size: int, seed: bytes) -> NDArray[np.int64]:
        """One place of each ``one_in`` neighbours; the last may be beyond the end."""
        blocks = -(-size // self.one_in)
        data = hashlib.shake_128(_LABEL + seed).digest(4 * blocks)
        drawn = np.frombuffer(data, "<u4").astype(np.uint64)
        drawn *= np.uint64(self.one_in)
        drawn >>= np.uint64(32)
        places: NDArray[np.int64] = drawn.astype(np.int64)
        places += np.arange(0, blocks * self.one_in, self.one_in)
        return places


NOTHING: Final = Compress()


def _check(seed: bytes) -> None:
    if len(seed) != SEED_SIZE:
        raise InputError(f"a seed of {len(seed)} bytes, must have {SEED_SIZE}")
