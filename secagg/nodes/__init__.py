"""Sums between machines, whatever carries the messages.

A ``Coordinator`` proposes, a ``Node`` answers out of a folder if its ``NodePolicy`` allows it;
``proposal`` is all that both must agree on, ``identities`` who they are.
"""

from secagg.nodes.coordinator import (
    Coordinator,
    FinishedSum,
    NoisySum,
    RunningSum,
    SumSettings,
    WeightedMean,
)
from secagg.nodes.identities import (
    Identity,
    PublicIdentity,
    Roster,
    create_identity,
    fingerprint,
    load_identity,
    load_public,
    sign_roster,
)
from secagg.nodes.messages import Answer, AnswerReader, Request
from secagg.nodes.node import Node, new_folder
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import Average, Contribution, Noise, Proposal, Result
from secagg.vectors.arrays import model_digest

__all__ = [
    "Answer",
    "AnswerReader",
    "Average",
    "Contribution",
    "Coordinator",
    "FinishedSum",
    "Identity",
    "Node",
    "NodePolicy",
    "Noise",
    "NoisySum",
    "Proposal",
    "PublicIdentity",
    "Request",
    "Result",
    "Roster",
    "RunningSum",
    "SumSettings",
    "WeightedMean",
    "create_identity",
    "fingerprint",
    "load_identity",
    "load_public",
    "model_digest",
    "new_folder",
    "sign_roster",
]
