"""Pairwise-mask secure aggregation of Bonawitz et al. [BIK+17], complete graph.

Guarantee: an honest-but-curious server, alone or with fewer than ``threshold``
clients, learns the sum of the survivors' vectors modulo 2**64 and nothing else
about them. Clients may vanish at any stage; while ``threshold`` and
``minimum_survivors`` are left the sum is exact, below that nothing is released.
Not protected from: a server that lies about who is alive to different clients,
the server with ``threshold`` clients, and a client that sends a wrong input.

[BIK+17]: Practical Secure Aggregation, https://eprint.iacr.org/2017/281
"""

from protocols.bonawitz.client import (
    AwaitBoxes,
    AwaitRoster,
    AwaitSignatures,
    AwaitSurvivors,
    join,
    restore,
)
from protocols.bonawitz.graph import ClientId
from protocols.bonawitz.params import Agreement, Params, Rates
from protocols.bonawitz.server import (
    CollectKeys,
    CollectReveals,
    CollectShares,
    CollectSignatures,
    CollectVectors,
    Sum,
)

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
