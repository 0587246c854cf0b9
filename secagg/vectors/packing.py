"""Signed integers to ``uint64`` words and back, several lanes a word.

A word carries ``lanes`` integers, each ``k = 64 // lanes`` bits wide:
word = sum_j x_j 2^(k j) mod 2^64. That map is linear, so the sum mod 2^64 of
packed vectors is the packed sum, and it unpacks exactly as long as every
lane's *total* stays within [-2^(k-1), 2^(k-1) - 1]. Nothing here can notice a
total outside: it wraps, and every wrap moves the lane above by one unit.
``lanes_for`` picks the lanes so that this cannot happen.

    lanes   1   2   3   4   5   6   7   8
    bits   64  32  21  16  12  10   9   8

The layout is planar: word i of m = ceil(entries / lanes) holds the entries i,
i + m, i + 2m, ... Every pass then runs over contiguous memory, and any run of
words can be handled alone (``first`` below).
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputError

WORD_BITS = 64
MAX_LANES = 8
BLOCK_WORDS = 2**15  # 256 KiB of int64; measured best of 2^12 to 2^16 with 1 MiB of L2 cache

Block: TypeAlias = Callable[[slice, NDArray[np.int64]], None]
"""Called with a slice of entries and an array of that length, to write it or to read it."""


def lane_bits(lanes: int) -> int:
    """Bits of each of ``lanes`` lanes. Raises ``InputError`` unless 1 <= lanes <= 8."""
    if not 1 <= lanes <= MAX_LANES:
        raise InputError(f"{lanes} lanes a word, expected 1 to {MAX_LANES}")
    return WORD_BITS // lanes


def lanes_for(limit: int) -> int:
    """The most lanes a word can have so that each holds every total in [-limit, limit].

    Raises:
      InputError: not even one lane of 64 bits does, or ``limit`` is negative.
    """
    if limit < 0:
        raise InputError(f"limit is {limit}, must be at least 0")
    for lanes in range(MAX_LANES, 0, -1):
        if limit < 2 ** (lane_bits(lanes) - 1):
            return lanes
    raise InputError(f"limit is {limit}, a total of at most {2 ** (WORD_BITS - 1) - 1} fits a lane")


def word_count(entries: int, lanes: int) -> int:
    """Words that ``entries`` integers take up: ceil(entries / lanes)."""
    lane_bits(lanes)
    return -(-entries // lanes)


def pack(
    values: NDArray[np.signedinteger[Any]], lanes: int, *, out: NDArray[np.uint64] | None = None
) -> NDArray[np.uint64]:
    """Pack one vector of signed integers; ``unpack`` is its inverse.

    Args:
      values: int8 to int64, shape (entries,). Not checked against the lane: see the module.
      lanes: integers a word, 1 to 8.
      out: uint64, shape (word_count(entries, lanes),); overwritten and returned.

    Raises:
      InputError: an argument of another dtype or shape.
    """
    if values.ndim != 1 or values.dtype.kind != "i":
        raise InputError(f"cannot pack {values.dtype}{list(values.shape)}; expected signed 1-D")
    if out is None:
        out = np.empty(word_count(len(values), lanes), np.uint64)
    elif len(out) != word_count(len(values), lanes):
        raise InputError(f"{len(values)} entries at {lanes} a word do not fill {len(out)} words")
    pack_blocks(lambda span, block: np.copyto(block, values[span]), out, len(values), lanes)
    return out


def unpack(
    words: NDArray[np.uint64], entries: int, lanes: int, *, out: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The ``entries`` integers in ``words``: each lane's total, centred about 0.

    Args:
      words: uint64, shape (word_count(entries, lanes),).
      entries: how many integers were packed.
      lanes: as they were packed.
      out: int64, shape (entries,); overwritten and returned.

    Raises:
      InputError: an argument of another dtype or shape.
    """
    if out is None:
        out = np.empty(entries, np.int64)
    elif out.dtype != np.int64 or out.shape != (entries,):
        raise InputError(f"cannot unpack into {out.dtype}{list(out.shape)}; need int64[{entries}]")
    if len(words) != word_count(entries, lanes):
        raise InputError(f"{entries} entries at {lanes} a word are not {len(words)} words")
    result = out
    unpack_blocks(words, lambda span, block: np.copyto(result[span], block), entries, lanes)
    return out


def pack_blocks(
    fill: Block, out: NDArray[np.uint64], entries: int, lanes: int, *, first: int = 0
) -> None:
    """Write the words ``first`` to ``first + len(out)`` of a vector that ``fill`` produces.

    ``fill(span, block)`` must write the integers of the entries in ``span`` into ``block``. It is
    called for blocks of at most ``BLOCK_WORDS``, so that nothing of the vector's size is allocated.

    Raises:
      InputError: ``out`` is not uint64[n], or reaches past the vector's words.
    """
    width = lane_bits(lanes)
    scratch = np.empty(min(BLOCK_WORDS, len(out)), np.int64)
    for words, spans in _blocks(out, entries, lanes, first):
        words.fill(0)
        for span in reversed(spans):
            block = scratch[: span.stop - span.start]
            fill(span, block)
            np.left_shift(words, width % WORD_BITS, out=words)
            lane = words[: len(block)]
            np.add(lane, block.view(np.uint64), out=lane)


def unpack_blocks(
    words: NDArray[np.uint64], take: Block, entries: int, lanes: int, *, first: int = 0
) -> None:
    """Hand the integers in ``words``, word ``first`` onwards of a vector, to ``take``.

    ``take(span, block)`` reads the totals of the entries in ``span`` from ``block``, which is
    overwritten after it returns.

    Raises:
      InputError: ``words`` is not uint64[n], or reaches past the vector's words.
    """
    width = lane_bits(lanes)
    # Adding half a lane to every lane at once makes all of them non-negative, so none borrows from
    # the one above; flipping the same bits back leaves each lane in two's complement. This is
    # "take the lowest lane, centre it, subtract, shift" without a pass for each step.
    half = np.uint64(sum(1 << (width * lane + width - 1) for lane in range(lanes)))
    centred = np.empty(min(BLOCK_WORDS, len(words)), np.uint64)
    scratch = np.empty_like(centred)
    for chunk, spans in _blocks(words, entries, lanes, first):
        lanes_of = centred[: len(chunk)]
        np.add(chunk, half, out=lanes_of)
        np.bitwise_xor(lanes_of, half, out=lanes_of)
        for lane, span in enumerate(spans):
            block = scratch[: span.stop - span.start]
            np.left_shift(lanes_of[: len(block)], WORD_BITS - width * (lane + 1), out=block)
            signed = block.view(np.int64)
            np.right_shift(signed, WORD_BITS - width, out=signed)
            take(span, signed)


def _blocks(
    words: NDArray[np.uint64], entries: int, lanes: int, first: int
) -> Iterator[tuple[NDArray[np.uint64], list[slice]]]:
    """Blocks of ``words``, each with the entries of its lanes from the lowest up."""
    total = word_count(entries, lanes)
    if words.ndim != 1 or words.dtype != np.uint64:
        raise InputError(f"words are {words.dtype}{list(words.shape)}, expected uint64 and 1-D")
    if first < 0 or first + len(words) > total:
        raise InputError(f"words {first} to {first + len(words)} are outside the vector's {total}")
    for start in range(0, len(words), BLOCK_WORDS):
        chunk = words[start : start + BLOCK_WORDS]
        low = first + start
        spans = [
            slice(lane * total + low, min(lane * total + low + len(chunk), entries))
            for lane in range(lanes)
        ]
        yield chunk, [span for span in spans if span.start < span.stop]
