"""Wishes turned into parameters: graph, threshold, lanes, noise, survivors.

``sums`` plans a sum, ``noise`` a private one from its budget, ``survivors`` says how likely a
round is lost.
"""

from secagg.planning.noise import NoiseAdvice, NoiseWishes, plan_noise
from secagg.planning.sums import Advice, SumWishes, plan_sum

__all__ = ["Advice", "NoiseAdvice", "NoiseWishes", "SumWishes", "plan_noise", "plan_sum"]
