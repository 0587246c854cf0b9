"""Sums between machines, whatever carries the messages.

A ``Coordinator`` proposes, a ``Node`` answers out of a folder if its ``NodePolicy`` allows it;
``proposal`` is all that both must agree on, ``identities`` who they are. Where nobody waits for the
slowest, a ``Buffer`` makes sums of who has finished training.
"""

from secagg.nodes.buffer import Buffer, Session
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
from secagg.nodes.versions import Versions
from secagg.vectors.arrays import model_digest

__all__ = [
    "Answer",
    "AnswerReader",
    "Average",
    "Buffer",
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
    "Session",
    "SumSettings",
    "Versions",
    "WeightedMean",
    "create_identity",
    "fingerprint",
    "load_identity",
    "load_public",
    "model_digest",
    "new_folder",
    "sign_roster",
]
