"""Sums among ranks without a server: pairwise masks that cancel in any all-reduce.

Guarantee: ranks that follow the protocol learn the sum modulo 2**64 of all ranks' vectors, and a
group of them that leaves out k of n learns the sum of those k; whoever carries the words learns
nothing. All ranks take part, or nothing comes out: there is no dropout.

| keys | safe unless |
|---|---|
| signed by identities that somebody else than the store handed out | n - 1 ranks work together |
| unsigned | whoever runs the store, or the network at the start, swaps keys |

Masks of one epoch come from seeds that each pair of ranks agrees once; an epoch ends with its
process, or with the first error. What two ranks saw as the total of an all-reduce is in the next
masks of theirs, so that ranks which were handed different totals, and so train different models,
do not cancel.

Not protected from: a rank that adds a wrong input, or hands on a wrong total for all; different
models in a reduce-scatter, whose totals differ by rank anyway; and what the sum says.
"""

from protocols.zero_sharing.client import AwaitKeys, AwaitTotal, Epoch, join
from protocols.zero_sharing.params import Agreement, Flag, Params

__all__ = ["Agreement", "AwaitKeys", "AwaitTotal", "Epoch", "Flag", "Params", "join"]
