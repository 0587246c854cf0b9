"""ChaCha20 [RFC 8439] as a Triton kernel: many seeds in one pass, added to uint64 words.

A thread makes one block of eight words of every seed, one after the other, and keeps their sum in
registers: each word is read and written once, whatever the number of seeds.

Importing this needs triton; ``secagg.rounds.device`` is what to use.
"""

from contextlib import nullcontext
from typing import Any, Final

import triton
import triton.language as tl

BLOCKS: Final = 128  # of a program: one a thread of 4 warps; measured by registers, see the tests
WARPS: Final = 4


@triton.jit
def _rotate(x, by: tl.constexpr):
    return (x << by) | (x >> (32 - by))


@triton.jit
def _quarter(a, b, c, d):
    a += b
    d = _rotate(d ^ a, 16)
    c += d
    b = _rotate(b ^ c, 12)
    a += b
    d = _rotate(d ^ a, 8)
    c += d
    b = _rotate(b ^ c, 7)
    return a, b, c, d


@triton.jit
def _word(low, high):
    return low.to(tl.uint64) | (high.to(tl.uint64) << 32)


@triton.jit
def _add_streams(w0, w1, w2, w3, w4, w5, w6, w7, material, first, last, counter):
    """Add a block of each seed from ``first`` to ``last`` to eight words; RFC 8439, 2.3."""
    zero = counter ^ counter
    c0 = zero + 0x61707865
    c1 = zero + 0x3320646E
    c2 = zero + 0x79622D32
    c3 = zero + 0x6B206574
    for seed in range(first, last):
        at = material + seed * 11
        k0, k1, k2, k3 = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
        k4, k5, k6, k7 = tl.load(at + 4), tl.load(at + 5), tl.load(at + 6), tl.load(at + 7)
        n0, n1, n2 = tl.load(at + 8), tl.load(at + 9), tl.load(at + 10)
        x0, x1, x2, x3 = c0, c1, c2, c3
        x4, x5, x6, x7 = zero + k0, zero + k1, zero + k2, zero + k3
        x8, x9, x10, x11 = zero + k4, zero + k5, zero + k6, zero + k7
        x12, x13, x14, x15 = counter, zero + n0, zero + n1, zero + n2
        for _ in range(10):
            x0, x4, x8, x12 = _quarter(x0, x4, x8, x12)
            x1, x5, x9, x13 = _quarter(x1, x5, x9, x13)
            x2, x6, x10, x14 = _quarter(x2, x6, x10, x14)
            x3, x7, x11, x15 = _quarter(x3, x7, x11, x15)
            x0, x5, x10, x15 = _quarter(x0, x5, x10, x15)
            x1, x6, x11, x12 = _quarter(x1, x6, x11, x12)
            x2, x7, x8, x13 = _quarter(x2, x7, x8, x13)
            x3, x4, x9, x14 = _quarter(x3, x4, x9, x14)
        w0 += _word(x0 + c0, x1 + c1)
        w1 += _word(x2 + c2, x3 + c3)
        w2 += _word(x4 + k0, x5 + k1)
        w3 += _word(x6 + k2, x7 + k3)
        w4 += _word(x8 + k4, x9 + k5)
        w5 += _word(x10 + k6, x11 + k7)
        w6 += _word(x12 + counter, x13 + n0)
        w7 += _word(x14 + n1, x15 + n2)
    return w0, w1, w2, w3, w4, w5, w6, w7


# One form for all launches, so that the one whose registers a test counts is what runs: by itself
# triton makes others for a number that is 1, one that 16 divides, or one of more than 32 bits.
@triton.jit(do_not_specialize=range(7))
def masks(
    words,
    material,
    count: tl.int64,
    skipped: tl.int32,
    first_block: tl.int64,
    subtracted: tl.int32,
    seeds: tl.int32,
    BLOCKS: tl.constexpr,  # noqa: N803  # triton's own habit
):
    """Add and subtract masks on ``words``, in place, modulo 2**64.

    Args:
      words: uint64, ``count`` of them.
      material: uint32, 11 a seed: key and nonce; those to subtract come first.
      skipped: words of the first block that were used before, 0 to 7.
      first_block: the cipher's counter there.
      subtracted, seeds: how many seeds are subtracted, and how many there are.
    """
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    counter = (block.to(tl.int64) + first_block).to(tl.uint32)
    z = tl.zeros([BLOCKS], tl.uint64)
    w0, w1, w2, w3, w4, w5, w6, w7 = _add_streams(
        z, z, z, z, z, z, z, z, material, 0, subtracted, counter
    )
    w0, w1, w2, w3, w4, w5, w6, w7 = _add_streams(
        0 - w0, 0 - w1, 0 - w2, 0 - w3, 0 - w4, 0 - w5, 0 - w6, 0 - w7,
        material, subtracted, seeds, counter,
    )  # fmt: skip
    at = block.to(tl.int64) * 8 - skipped
    for lane in tl.static_range(8):
        if lane == 0:
            mask = w0
        elif lane == 1:
            mask = w1
        elif lane == 2:
            mask = w2
        elif lane == 3:
            mask = w3
        elif lane == 4:
            mask = w4
        elif lane == 5:
            mask = w5
        elif lane == 6:
            mask = w6
        else:
            mask = w7
        place = at + lane
        inside = (place >= 0) & (place < count)
        old = tl.load(words + place, mask=inside, other=0)
        tl.store(words + place, old + mask, mask=inside)


def launch(words: Any, material: Any, **numbers: int) -> None:
    """Run the kernel over tensors of one device; ``words`` as int64, ``material`` as int32."""
    import torch

    there = torch.cuda.device(words.device) if words.is_cuda else nullcontext()
    blocks = -(-(numbers["skipped"] + numbers["count"]) // 8)
    with there:  # triton launches on the current device, whatever the tensors'
        masks[(-(-blocks // BLOCKS),)](
            words.view(torch.uint64),
            material.view(torch.uint32),
            **numbers,
            BLOCKS=BLOCKS,
            num_warps=WARPS,
        )
