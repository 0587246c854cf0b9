"""Floats to words and back: one flat vector, segments, fixed point, lanes.

``vector`` flattens a torch module, ``layout`` lays segments side by side, ``quantize`` rounds and
clips, ``packing`` puts several integers into a word. ``trees`` names the arrays of a model in any
container, ``buffers`` says what becomes of those that are no trained weights.
"""

from secagg.vectors.layout import Count, Layout, NoisyIntegers, Segment
from secagg.vectors.quantize import FixedPoint, clip_norm
from secagg.vectors.vector import flatten, unflatten

__all__ = [
    "Count",
    "FixedPoint",
    "Layout",
    "NoisyIntegers",
    "Segment",
    "clip_norm",
    "flatten",
    "unflatten",
]
