"""Noise in shares: integers that sum to the noise of one trusted server.

``DistributedNoise`` is the mechanism and its guarantee, ``lanes`` the numbers under it,
``rotation`` spreads a vector over its entries, ``sampling`` draws, ``skellam`` proves the tables.
"""

from dp.noise.mechanisms import DistributedNoise
from dp.noise.sampling import DiscreteGaussianSampler, SkellamSampler

__all__ = [
    "DiscreteGaussianSampler",
    "DistributedNoise",
    "SkellamSampler",
]
