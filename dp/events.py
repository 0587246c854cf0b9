"""What was released: frozen descriptions that the accountant prices and the ledger stores.

A description says all that its price depends on: the mechanism and its noise, how
the batch was drawn (never a bare rate), the unit that is protected, what makes two
data sets neighbours, and how often. One event has one JSON text, and ``from_json``
accepts that text alone, so texts may be hashed and compared in place of events.

Describing a design is not vouching for it: ``dp.accountant`` refuses, by name, every
design that it cannot treat soundly.
"""

import json
import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar, Self, TypeAlias

from dp.errors import BadParameter

MAX_STEPS = 2**53  # the largest count that a double still tells from its neighbour


class Unit(Enum):
    """Whose presence the guarantee hides."""

    EXAMPLE = "example"
    CLIENT = "client"


class Adjacency(Enum):
    """What makes two data sets neighbours; C is the clip.

    ``ADD_OR_REMOVE``: one unit more or less, the sum moves by at most C.
    ``ZERO_OUT``: one unit's contribution becomes zeros, at most C; who takes part is public.
    ``REPLACE_ONE``: one unit's contribution becomes any other, at most 2C.
    """

    ADD_OR_REMOVE = "add_or_remove"
    ZERO_OUT = "zero_out"
    REPLACE_ONE = "replace_one"


def _positive_int(name: str, value: int, *, least: int = 1) -> None:
    if type(value) is not int or not least <= value <= MAX_STEPS:
        raise BadParameter(f"{name} is {value!r}, must be an integer in [{least}, 2**53]")


def positive_float(name: str, value: float) -> float:
    """Return ``value`` as a finite positive double, or raise ``BadParameter``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadParameter(f"{name} is {value!r}, must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number > 0):
        raise BadParameter(f"{name} is {number}, must be finite and above 0")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class NoSampling:
    """Every unit takes part in every step."""

    DESIGN: ClassVar[str] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonSampling:
    """Every unit takes part in a step by its own secret coin.

    Attributes:
      rate: the probability, in (0, 1]; an upper bound where the coin is not exact.
    """

    DESIGN: ClassVar[str] = "poisson"

    rate: float

    def __post_init__(self) -> None:
        rate = positive_float("sampling rate", self.rate)
        if rate > 1:
            raise BadParameter(f"sampling rate is {rate}, must be in (0, 1]")
        object.__setattr__(self, "rate", rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedSizeSampling:
    """A step takes ``size`` units out of ``population``, uniformly, without replacement."""

    DESIGN: ClassVar[str] = "fixed_size"

    size: int
    population: int

    def __post_init__(self) -> None:
        _positive_int("size", self.size)
        _positive_int("population", self.population)
        if self.size > self.population:
            raise BadParameter(f"size {self.size} is above the population {self.population}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffledSampling:
    """The data is shuffled once an epoch and dealt out in batches of ``size``."""

    DESIGN: ClassVar[str] = "shuffled"

    size: int
    population: int

    def __post_init__(self) -> None:
        _positive_int("size", self.size)
        _positive_int("population", self.population)
        if self.size > self.population:
            raise BadParameter(f"size {self.size} is above the population {self.population}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CyclicSampling:
    """Units take part in a fixed order, each once in ``period`` steps."""

    DESIGN: ClassVar[str] = "cyclic"

    period: int

    def __post_init__(self) -> None:
        _positive_int("period", self.period)


Sampling: TypeAlias = (
    NoSampling | PoissonSampling | FixedSizeSampling | ShuffledSampling | CyclicSampling
)
_DESIGNS: dict[str, type[Sampling]] = {
    design.DESIGN: design
    for design in (
        NoSampling,
        PoissonSampling,
        FixedSizeSampling,
        ShuffledSampling,
        CyclicSampling,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianEvent:
    """``steps`` sums of clipped contributions, each with Gaussian noise added.

    Attributes:
      noise_multiplier: standard deviation of the noise over the clip, sigma / C = z.
      sampling: how the units of one step were drawn, anew and independently each step.
      steps: how many such sums were released; 0 costs nothing.
      unit: whose presence is hidden.
      adjacency: what makes two data sets neighbours.
    """

    KIND: ClassVar[str] = "gaussian"

    noise_multiplier: float
    sampling: Sampling
    steps: int = 1
    unit: Unit = Unit.EXAMPLE
    adjacency: Adjacency = Adjacency.ADD_OR_REMOVE

    def __post_init__(self) -> None:
        number = positive_float("noise multiplier", self.noise_multiplier)
        object.__setattr__(self, "noise_multiplier", number)
        _positive_int("steps", self.steps, least=0)
        for name, value, kind in (
            ("sampling", self.sampling, Sampling),
            ("unit", self.unit, Unit),
            ("adjacency", self.adjacency, Adjacency),
        ):
            if not isinstance(value, kind):
                raise BadParameter(f"{name} is {value!r}, not one of dp.events")

    def one_step(self) -> Self:
        """The same release, once. Two events cost alike a step if these are equal."""
        return replace(self, steps=1)

    def to_json(self) -> str:
        """The one text of this event: keys sorted, no blanks, shortest decimals."""
        sampling = {name: getattr(self.sampling, name) for name in self.sampling.__slots__}
        return _dumps(
            {
                "adjacency": self.adjacency.value,
                "kind": self.KIND,
                "noise_multiplier": self.noise_multiplier,
                "sampling": {"design": self.sampling.DESIGN, **sampling},
                "steps": self.steps,
                "unit": self.unit.value,
            }
        )


Event: TypeAlias = GaussianEvent


def _dumps(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(text: str) -> Event:
    """The event whose ``to_json()`` is ``text``.

    Raises ``BadParameter`` for anything else: other spacing or order, a second spelling
    of a number, an unknown, doubled or missing key, a value out of range.
    """
    try:
        event = _parse(json.loads(text))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadParameter(f"not an event ({type(error).__name__}: {error})") from None
    if event.to_json() != text:
        raise BadParameter(f"not the text of an event, which would be {event.to_json()}")
    return event


def _parse(data: Any) -> Event:
    if data["kind"] != GaussianEvent.KIND:
        raise BadParameter(f"unknown kind of event {data['kind']!r}")
    sampling = dict(data["sampling"])
    return GaussianEvent(
        noise_multiplier=data["noise_multiplier"],
        sampling=_DESIGNS[sampling.pop("design")](**sampling),
        steps=data["steps"],
        unit=Unit(data["unit"]),
        adjacency=Adjacency(data["adjacency"]),
    )
