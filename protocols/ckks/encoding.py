"""Reals and integers as words of 64 bits whose sum comes back with an error in its low bits.

A real is its product with a large scale, rounded. An integer modulo 2**b is the upper b bits of
a word, so that its sum wraps by itself and is exact as long as the error is below half of
its lowest bit; one of more bits than a word has exactly is cut into digits, each with room for
the carries of all clients, and the highest wraps. A session has one: ``Params.encoding``.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.checks import check_integer
from protocols.errors import InputError

Words: TypeAlias = NDArray[np.uint64]
Integers: TypeAlias = NDArray[np.int64] | NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How a session's parameters put numbers into words.

    Attributes:
      clients: most vectors of a sum.
      clip: largest absolute value of a real.
      scale: what a real of ``clip`` becomes.
      exact_bits: upper bits of a word that a sum has exactly.
    """

    clients: int
    clip: float
    scale: float
    exact_bits: int

    def encode_reals(self, values: NDArray[np.float64]) -> Words:
        """One word for each of ``values``.

        Raises:
          InputError: one is above the clip, or not a number.
        """
        if len(values) and not (values.max() <= self.clip and values.min() >= -self.clip):
            raise InputError(f"an entry is above the clip {self.clip}, or not a number")
        scaled = values * (self.scale / self.clip)
        return np.rint(scaled, out=scaled).astype(np.int64).view(np.uint64)

    def decode_reals(self, words: Words) -> NDArray[np.float64]:
        """The reals that a sum of such words stands for, as approximate as the sum is."""
        return words.view(np.int64).astype(np.float64) * (self.clip / self.scale)

    def digits(self, bits: int) -> int:
        """Words for one integer modulo 2**``bits``.

        Raises:
          InputError: ``bits`` is outside [1, 64], or digits have no room beside their carries.
        """
        check_integer("bits", bits, 1, 64)
        if bits <= self.exact_bits:
            return 1
        return 1 + -(-(bits - self.exact_bits) // self._digit_bits)

    @property
    def _digit_bits(self) -> int:
        """Bits of a digit below the highest: a sum of them does not wrap."""
        bits = self.exact_bits - (self.clients - 1).bit_length()
        if bits < 1:
            raise InputError(
                f"digits of integers: a sum of {self.clients} has {self.exact_bits} exact bits, "
                "none beside the carries; take a larger ring"
            )
        return bits

    def encode_integers(self, values: Integers, bits: int) -> Words:
        """The words of integers modulo 2**``bits``: all lowest digits first, then the next."""
        count = self.digits(bits)
        words = values.astype(np.uint64, copy=False)
        out = np.empty((count, len(words)), np.uint64)
        for place in range(count - 1):
            digit = np.uint64(self._digit_bits)
            out[place] = (words & np.uint64((1 << self._digit_bits) - 1)) << np.uint64(
                64 - self.exact_bits
            )
            words = words >> digit
        out[-1] = words << np.uint64(64 - self._top_bits(bits))
        return out.reshape(-1)

    def decode_integers(self, words: Words, bits: int) -> Words:
        """The sums of such integers, modulo 2**``bits``: exact."""
        count = self.digits(bits)
        rows = words.reshape(count, -1)
        total = _nearest(rows[-1], self._top_bits(bits))
        for place in range(count - 2, -1, -1):
            total = (total << np.uint64(self._digit_bits)) + _nearest(rows[place], self.exact_bits)
        if bits < 64:
            total &= np.uint64((1 << bits) - 1)
        return total

    def _top_bits(self, bits: int) -> int:
        """Bits of the highest digit."""
        count = self.digits(bits)
        return bits - (count - 1) * self._digit_bits if count > 1 else bits


def _nearest(words: Words, bits: int) -> Words:
    """The upper ``bits`` of each word, rounded to the nearest."""
    shift = 64 - bits
    return (words + np.uint64(1 << (shift - 1))) >> np.uint64(shift)
