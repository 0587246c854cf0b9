"""What a node's program came to, and what its errors may say; alike under every network."""

import logging
import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from dp.accounting.events import Unit
from protocols.errors import ProtocolError
from secagg.errors import InputError, NodeError, RefusedError
from secagg.nodes.proposal import Average, Contribution, Failure, Noise, Proposal
from secagg.vectors.arrays import Arrays, flat

SPOKEN: Final = (RefusedError, NodeError, ProtocolError)  # errors whose text holds no data
_log = logging.getLogger("secagg")


def contribution(
    proposal: Proposal, start: Arrays, after: Arrays, numbers: Mapping[str, float]
) -> Contribution | Failure:
    """What a program brings that was handed the arrays ``start``.

    Args:
      after: arrays of the same names and shapes, or with ``Average.by_array`` those that were
        trained; where noise hides examples, the sum of their clipped gradients; not looked at
        where only metrics are summed.
      numbers: the weight and the metrics, by name.
    """
    vector, trained = np.empty(0, np.float32), None
    if isinstance(proposal.content, Average) and proposal.content.by_array:
        trained, after = after.keys(), {**start, **after}
    if proposal.shapes:
        noise = proposal.noise
        of_examples = noise is not None and noise.mechanism.unit is Unit.EXAMPLE
        try:
            vector = flat(after, proposal.shapes, start=None if of_examples else start)
        except InputError as error:
            _log.warning("secagg: %s", error)
            return Failure.ARRAYS
    if isinstance(proposal.content, Noise):
        return Contribution(vector=vector, weight=1, metrics={})
    weight = float(numbers.get(proposal.content.weighted_by, math.nan))
    if not weight.is_integer():  # nor NaN or infinite
        return Failure.WEIGHT
    return Contribution(vector=vector, weight=int(weight), metrics=numbers, trained=trained)


def spoken(error: Exception) -> str:
    """What the server may be told of an error: of others than ``SPOKEN``, only their type."""
    if isinstance(error, SPOKEN):
        return str(error)
    return f"this node cannot take part ({type(error).__name__}); its log says why"
