"""What releases cost: events, their composition, and the noise that a budget asks for.

``events`` says what was released, ``accountant`` what it costs, ``filters`` what may be chosen from
earlier outputs, ``calibrate`` goes from a budget back to the noise.
"""

from dp.accounting.accountant import (
    Accountant,
    ReportedDelta,
    ReportedEpsilon,
    epsilon_curve,
    epsilon_pld,
    epsilon_rdp,
    flooding_epsilon,
    reported_delta,
    reported_epsilon,
)
from dp.accounting.calibrate import calibrate_noise, max_steps, noise_multiplier, sampling_rate
from dp.accounting.events import (
    CohortSecrecy,
    CyclicSampling,
    DiscreteGaussianEvent,
    Event,
    FixedSizeSampling,
    GaussianEvent,
    HiddenPoissonSampling,
    NeighboringRelation,
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
    "CohortSecrecy",
    "CyclicSampling",
    "DiscreteGaussianEvent",
    "Event",
    "Filter",
    "FixedSizeSampling",
    "GaussianEvent",
    "GdpFilter",
    "HiddenPoissonSampling",
    "NeighboringRelation",
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
    "calibrate_noise",
    "epsilon_curve",
    "epsilon_pld",
    "epsilon_rdp",
    "flooding_epsilon",
    "max_steps",
    "noise_multiplier",
    "reported_delta",
    "reported_epsilon",
    "sampling_rate",
]
