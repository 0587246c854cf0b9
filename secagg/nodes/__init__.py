"""Sums between machines, whatever carries the messages.

A ``Coordinator`` proposes, a ``Node`` answers out of a folder if its ``Policy`` allows it;
``proposal`` is all that both must agree on, ``identities`` who they are.
"""

from secagg.nodes.coordinator import (
    Cohort,
    Coordinator,
    Finished,
    ImpersonationError,
    Mean,
    NoisySum,
    UnderWay,
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
from secagg.nodes.node import Answer, Node, Request, new_home
from secagg.nodes.policy import Policy
from secagg.nodes.proposal import Average, Contribution, Noise, Proposal, Result

__all__ = [
    "Answer",
    "Average",
    "Cohort",
    "Contribution",
    "Coordinator",
    "Finished",
    "Identity",
    "ImpersonationError",
    "Mean",
    "Node",
    "Noise",
    "NoisySum",
    "Policy",
    "Proposal",
    "PublicIdentity",
    "Request",
    "Result",
    "Roster",
    "UnderWay",
    "create_identity",
    "fingerprint",
    "load_identity",
    "load_public",
    "new_home",
    "sign_roster",
]
