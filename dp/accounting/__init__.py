"""What releases cost: events, their composition, and the noise that a budget asks for.

``events`` says what was released, ``accountant`` what it costs, ``filters`` what may be chosen from
earlier outputs, ``calibrate`` goes from a budget back to the noise.
"""

from dp.accounting.accountant import (
    Accountant,
    ReportedDelta,
    ReportedEpsilon,
    curve,
    epsilon_pld,
    epsilon_rdp,
    flooding_delta,
    reported_delta,
    reported_epsilon,
)
from dp.accounting.calibrate import least_noise, most_steps, noise_multiplier, sampling_rate
from dp.accounting.events import (
    Adjacency,
    Cover,
    CyclicSampling,
    DiscreteGaussianEvent,
    Event,
    FixedSizeSampling,
    GaussianEvent,
    HiddenPoissonSampling,
    NoSampling,
    PoissonSampling,
    Sampling,
    ShuffledSampling,
    SkellamEvent,
    Unit,
)
from dp.accounting.filters import Filter, GdpFilter, RenyiFilter, ZcdpFilter

__all__ = [
    "Accountant",
    "Adjacency",
    "Cover",
    "CyclicSampling",
    "DiscreteGaussianEvent",
    "Event",
    "Filter",
    "FixedSizeSampling",
    "GaussianEvent",
    "GdpFilter",
    "HiddenPoissonSampling",
    "NoSampling",
    "PoissonSampling",
    "RenyiFilter",
    "ReportedDelta",
    "ReportedEpsilon",
    "Sampling",
    "ShuffledSampling",
    "SkellamEvent",
    "Unit",
    "ZcdpFilter",
    "curve",
    "epsilon_pld",
    "epsilon_rdp",
    "flooding_delta",
    "least_noise",
    "most_steps",
    "noise_multiplier",
    "reported_delta",
    "reported_epsilon",
    "sampling_rate",
]
