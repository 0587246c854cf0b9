"""Noise that hides a sum: integers, from the bits of a cipher.

``DistributedNoise`` is noise in shares that sum to that of one trusted server, and its guarantee;
``lanes`` has the numbers under it, ``rotation`` spreads a vector over its entries. ``sampling``
draws, by ``strips``: tables of the laws that ``gaussian`` and ``skellam`` prove.
"""

from dp.noise.mechanisms import DistributedNoise
from dp.noise.sampling import (
    BinnedGaussianSampler,
    DiscreteGaussianSampler,
    SkellamSampler,
    coins,
    permutation,
)

__all__ = [
    "BinnedGaussianSampler",
    "DiscreteGaussianSampler",
    "DistributedNoise",
    "SkellamSampler",
    "coins",
    "permutation",
]
