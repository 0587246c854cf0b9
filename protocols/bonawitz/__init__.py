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
| ``rates``, ``active`` | draws the graph honestly, may lie later | see below |

In the last row 2**-40 bounds the chance that both secrets of one client open. A server
that declares the right neighbours gone may also cut an arc out of the circle and learn
its sum: with a chance of about 2**-17 to 2**-33 for usual rates (docs/protocols).

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
    "Params",
    "Rates",
    "Sum",
    "join",
    "restore",
]
