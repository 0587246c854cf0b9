"""What was released: frozen descriptions that the accountant prices and the ledger stores.

A description says all that its price depends on: the mechanism and its noise, how
the batch was drawn (never a bare rate), the unit that is protected, what makes two
data sets neighbours, and how often. One event has one JSON text, and ``from_json``
accepts that text alone, so texts may be hashed and compared in place of events.

Describing a design is not vouching for it: ``dp.accounting.accountant`` refuses, by name, every
design that it cannot treat soundly.
"""

import json
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, ClassVar, Final, Self, TypeAlias

from dp.checks import freeze_floats, integer
from dp.errors import InputError

MAX_STEPS: Final = 2**53  # the largest count that a double still tells from its neighbour
_KEYS: Final = {"l2_sensitivity": "l2", "l1_sensitivity": "l1"}  # stored texts never change
_MOST_NORM: Final = 1e100  # of a variance too: their squares stay finite


class Unit(Enum):
    """The unit whose presence the guarantee hides."""

    EXAMPLE = "example"
    CLIENT = "client"


class NeighboringRelation(Enum):
    """What makes two data sets neighbours; C is the clip.

    ``ADD_OR_REMOVE``: one unit more or less, the sum moves by at most C.
    ``ZERO_OUT``: one unit's contribution becomes zeros, at most C; who takes part is public.
    ``REPLACE_ONE``: one unit's contribution becomes any other, at most 2C.
    """

    ADD_OR_REMOVE = "add_or_remove"
    ZERO_OUT = "zero_out"
    REPLACE_ONE = "replace_one"


class CohortSecrecy(Enum):
    """What hides from everybody which clients a step drew.

    ``ALL_TAKE_PART``: every eligible client takes part in every step and adds its noise
    share; one whose secret coin says no sends zeros.
    ``TRUSTED_NOISE``: one trusted party draws, adds the whole noise and shows nobody the
    cohort; the noise does not depend on who is in it.
    """

    ALL_TAKE_PART = "all_take_part"
    TRUSTED_NOISE = "trusted_noise"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSampling:
    """Every unit takes part in every step."""

    DESIGN: ClassVar[str] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonSampling:
    """Every unit takes part in a step by its own secret coin.

    Of clients this says that the cohort alone adds the noise, which no accountant here
    amplifies: whoever sees the cohort sees who is in it. See ``HiddenPoissonSampling``.

    Attributes:
      rate: the probability, in (0, 1]; an upper bound where the coin is not exact.
    """

    DESIGN: ClassVar[str] = "poisson"

    rate: float

    def __post_init__(self) -> None:
        freeze_floats(self, "rate", most=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenPoissonSampling:
    """Clients are drawn by secret coins, and nobody learns from the step who was.

    Attributes:
      rate: the probability, in (0, 1]; an upper bound where the coin is not exact.
      cover: what hides the draw.
    """

    DESIGN: ClassVar[str] = "hidden_poisson"

    rate: float
    cover: CohortSecrecy

    def __post_init__(self) -> None:
        freeze_floats(self, "rate", most=1.0)
        if not isinstance(self.cover, CohortSecrecy):
            raise InputError(
                f"cover is {self.cover!r}, not one of dp.accounting.events.CohortSecrecy"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedSizeSampling:
    """A step takes ``size`` units out of ``population``, uniformly, without replacement.

    Attributes:
      size: of a batch, 1 to ``population``.
      population: units in all.
    """

    DESIGN: ClassVar[str] = "fixed_size"

    size: int
    population: int

    def __post_init__(self) -> None:
        _check_size(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffledSampling:
    """The data is shuffled once an epoch and dealt out in batches of ``size``.

    Attributes:
      size: of a batch, 1 to ``population``.
      population: units in all.
    """

    DESIGN: ClassVar[str] = "shuffled"

    size: int
    population: int

    def __post_init__(self) -> None:
        _check_size(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CyclicSampling:
    """Units take part in a fixed order, each once in ``period`` steps."""

    DESIGN: ClassVar[str] = "cyclic"

    period: int

    def __post_init__(self) -> None:
        integer("period", self.period, 1, MAX_STEPS)


Sampling: TypeAlias = (
    NoSampling
    | PoissonSampling
    | HiddenPoissonSampling
    | FixedSizeSampling
    | ShuffledSampling
    | CyclicSampling
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Release:
    """What every kind of event says.

    Attributes:
      sampling: how the units of one step were drawn, anew and independently each step.
      steps: how many such sums were released; 0 costs nothing.
      unit: whose presence is hidden.
      adjacency: what makes two data sets neighbours.
    """

    KIND: ClassVar[str]

    sampling: Sampling
    steps: int = 1
    unit: Unit = Unit.EXAMPLE
    adjacency: NeighboringRelation = NeighboringRelation.ADD_OR_REMOVE

    def one_step(self) -> Self:
        """The same release, once. Two events cost alike a step if these are equal."""
        return replace(self, steps=1)

    def to_json(self) -> str:
        """The one text of this event: keys sorted, no blanks, shortest decimals."""
        data = {_KEYS.get(item.name, item.name): getattr(self, item.name) for item in fields(self)}
        data["kind"] = self.KIND
        data["sampling"] = {"design": self.sampling.DESIGN} | {
            name: getattr(self.sampling, name) for name in self.sampling.__slots__
        }
        return json.dumps(
            data, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_value
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianEvent(_Release):
    """``steps`` sums of clipped contributions, each with Gaussian noise added.

    Attributes:
      noise_multiplier: standard deviation of the noise over the clip, sigma / C = z.
    """

    KIND: ClassVar[str] = "gaussian"

    noise_multiplier: float

    def __post_init__(self) -> None:
        freeze_floats(self, "noise_multiplier")
        _check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkellamEvent(_Release):
    """``steps`` integer sums, each with Skellam noise added; priced by Rényi DP alone.

    All three are in units of the scaled integers, at most 1e100. The norms are of what
    was summed, so they hold what rounding added to the clip.

    Attributes:
      variance: of the noise in one entry of the sum; mu in [AKL21].
      l2_sensitivity: bound on the L2 norm of one unit's contribution; Delta_2 there.
      l1_sensitivity: bound on its L1 norm; Delta_1 there.
    """

    KIND: ClassVar[str] = "skellam"

    variance: float
    l2_sensitivity: float
    l1_sensitivity: float

    def __post_init__(self) -> None:
        freeze_floats(self, "variance", "l2_sensitivity", "l1_sensitivity", most=_MOST_NORM)
        _check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteGaussianEvent(_Release):
    """``steps`` integer sums with ``shares`` discrete Gaussians added; Rényi DP alone.

    In units of the scaled integers, as for ``SkellamEvent``.

    Attributes:
      shares: independent draws added to one entry that nobody knows; n in [KLS21].
      share_variance: parameter S^2 of each draw, slightly above its variance.
      l2_sensitivity: bound on the L2 norm of one unit's contribution.
      l1_sensitivity: bound on its L1 norm.
      entries: of the sum, padding included; d there.
    """

    KIND: ClassVar[str] = "discrete_gaussian"

    shares: int
    share_variance: float
    l2_sensitivity: float
    l1_sensitivity: float
    entries: int

    def __post_init__(self) -> None:
        freeze_floats(self, "share_variance", "l2_sensitivity", "l1_sensitivity", most=_MOST_NORM)
        integer("shares", self.shares, 1, MAX_STEPS)
        integer("entries", self.entries, 1, MAX_STEPS)
        _check(self)


Event: TypeAlias = GaussianEvent | SkellamEvent | DiscreteGaussianEvent
_KINDS: dict[str, type[Event]] = {
    kind.KIND: kind for kind in (GaussianEvent, SkellamEvent, DiscreteGaussianEvent)
}
MECHANISMS: Final = tuple(_KINDS)  # by which noise a release is hidden
_DESIGNS: dict[str, type[Sampling]] = {
    design.DESIGN: design
    for design in (
        NoSampling,
        PoissonSampling,
        HiddenPoissonSampling,
        FixedSizeSampling,
        ShuffledSampling,
        CyclicSampling,
    )
}


def _check_size(sampling: FixedSizeSampling | ShuffledSampling) -> None:
    integer("population", sampling.population, 1, MAX_STEPS)
    integer("size", sampling.size, 1, sampling.population)


def _check(event: Event) -> None:
    integer("steps", event.steps, 0, MAX_STEPS)
    for name, kind in (("sampling", Sampling), ("unit", Unit), ("adjacency", NeighboringRelation)):
        if not isinstance(value := getattr(event, name), kind):
            raise InputError(f"{name} is {value!r}, not one of dp.accounting.events")


def _value(member: object) -> object:
    if isinstance(member, Enum):
        return member.value
    raise TypeError(f"{member!r} has no text")


def from_json(text: str) -> Event:
    """The event whose ``to_json()`` is ``text``.

    Raises ``InputError`` for anything else: other spacing or order, a second spelling
    of a number, an unknown, doubled or missing key, a value out of range.
    """
    try:
        event = _parse(json.loads(text))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"not an event of to_json ({type(error).__name__}: {error})") from None
    if event.to_json() != text:
        raise InputError(f"not as to_json writes it, which is {event.to_json()}")
    return event


def _parse(data: Any) -> Event:
    values, sampling = dict(data), dict(data["sampling"])
    if "cover" in sampling:
        sampling["cover"] = CohortSecrecy(sampling["cover"])
    values["sampling"] = _DESIGNS[sampling.pop("design")](**sampling)
    for name, key in _KEYS.items():
        if key in values:
            values[name] = values.pop(key)
    values["unit"] = Unit(values["unit"])
    values["adjacency"] = NeighboringRelation(values["adjacency"])
    return _KINDS[values.pop("kind")](**values)
