"""Pairwise-mask secure aggregation: Bonawitz et al. [BIK+17], and SecAgg+ [BBG+20].

Guarantee: the server, alone or with the corrupt clients that the parameters name,
learns the sum of the survivors' vectors modulo 2**64 and nothing else about them.
Clients may vanish at any stage; while enough are left the sum is exact, below that
nothing is released.

| parameters | the server | learns more with more than |
|---|---|---|
| ``threshold`` | follows the protocol | ``threshold - 1`` clients |
| ``rates`` (sparse graph) | follows the protocol | the planned fraction, or once in 2**40 |
| ``threshold``, ``active`` | may lie | ``max_corrupt`` clients |
| ``rates``, ``active`` | may lie | the planned fraction, or once in 2**40 |

In the last row clients pick the holders of their secrets themselves, sign whom they have masked
with, and reveal for the one set of survivors that more than half of all and the corrupt have
signed: from 200 to 20,000 clients; below the graph is complete. The proof needs that nobody is
corrupted after the picks were seen (docs/protocols).

Not protected from: a client that sends a wrong input, a roster of identities that
comes from the server itself, and what the sum says.

[BIK+17]: Practical Secure Aggregation, https://eprint.iacr.org/2017/281
[BBG+20]: Secure Single-Server Aggregation with (Poly)Logarithmic Overhead,
https://eprint.iacr.org/2020/704
"""

from protocols.bonawitz.client import (
    AwaitBoxes,
    AwaitRoster,
    AwaitSignatures,
    AwaitSurvivors,
    join,
    restore,
)
from protocols.bonawitz.params import Agreement, Params, Rates
from protocols.bonawitz.server import (
    CollectKeys,
    CollectReveals,
    CollectShares,
    CollectSignatures,
    CollectVectors,
    Dispute,
    Sum,
)
from protocols.wire import ClientId

__all__ = [
    "Agreement",
    "AwaitBoxes",
    "AwaitRoster",
    "AwaitSignatures",
    "AwaitSurvivors",
    "ClientId",
    "CollectKeys",
    "CollectReveals",
    "CollectShares",
    "CollectSignatures",
    "CollectVectors",
    "Dispute",
    "Params",
    "Rates",
    "Sum",
    "join",
    "restore",
]
