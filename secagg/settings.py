"""The settings of a training run, checked as a whole before anything starts."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self, get_args, get_type_hints

from secagg.data import DATASETS, JUDGES, parse_split
from secagg.errors import ConfigError
from secagg.rounds import PROTOCOLS, majority

PRIVACY = ("local", "none")
_LATER = ("distributed", "client")
# Chosen on the validation part of digits' training examples, `--judge validation`, eight seeds.
LEARNING_RATE = {"local": 8.0, "none": 4.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything that ``secagg train`` can be told; ``secagg train --help`` says it in words.

    Raises:
      ConfigError: a value is out of range, or two contradict each other.
    """

    data: str = "digits"
    clients: int = 20
    rounds: int = 30
    split: str = "iid"
    dropout: float = 0.1
    threshold: int | None = None
    minimum_survivors: int | None = None
    protocol: str = "bonawitz"
    privacy: str = "local"
    epsilon: float = 8.0
    delta: float = 1e-4
    clip: float = 0.5
    bits: int = 16
    learning_rate: float | None = None
    local_steps: int = 2
    sampling_rate: float = 1.0
    seed: int = 0
    judge: str = "test"

    def __post_init__(self) -> None:
        kinds = self.kinds()
        for item in fields(self):
            self._check_kind(item.name, kinds[item.name], optional=item.default is None)
        _one_of("data", self.data, DATASETS)
        _one_of("protocol", self.protocol, PROTOCOLS)
        _one_of("judge", self.judge, JUDGES)
        if self.privacy in _LATER:
            raise ConfigError(
                f"privacy {self.privacy!r} is not there yet; there is: {', '.join(PRIVACY)}"
            )
        _one_of("privacy", self.privacy, PRIVACY)
        parse_split(self.split)
        _between("clients", self.clients, 2, 1000)
        _between("rounds", self.rounds, 1, 100_000)
        _between("dropout", self.dropout, 0.0, 1.0)
        _between("epsilon", self.epsilon, 1e-3, 1e3)
        _between("delta", self.delta, 1e-15, 0.5)
        _between("clip", self.clip, 1e-6, 1e6)
        _between("bits", self.bits, 4, 32)
        _between("local_steps", self.local_steps, 1, 1000)
        _between("sampling_rate", self.sampling_rate, 1e-6, 1.0)
        _between("seed", self.seed, 0, 2**63 - 1)
        if self.learning_rate is not None:
            _between("learning_rate", self.learning_rate, 1e-9, 1e6)
        for name in ("threshold", "minimum_survivors"):
            if (value := getattr(self, name)) is not None:
                _between(name, value, 2, self.clients)
        if 2 * self.shares_needed <= self.clients:
            raise ConfigError(
                f"threshold {self.shares_needed} is no majority of {self.clients} clients; "
                f"every client would refuse it, set at least {majority(self.clients)}"
            )

    @property
    def shares_needed(self) -> int:
        return majority(self.clients) if self.threshold is None else self.threshold

    @property
    def survivors_needed(self) -> int:
        return max(self.shares_needed, self.minimum_survivors or 0)

    @property
    def step(self) -> float:
        """The learning rate, chosen for the privacy mode where none was given."""
        return LEARNING_RATE[self.privacy] if self.learning_rate is None else self.learning_rate

    @classmethod
    def kinds(cls) -> dict[str, type]:
        """Each setting's type: int, float or str."""
        return {
            name: next(kind for kind in (int, float, str) if kind in (hint, *get_args(hint)))
            for name, hint in get_type_hints(cls).items()
        }

    def _check_kind(self, name: str, kind: type, *, optional: bool) -> None:
        value = getattr(self, name)
        if isinstance(value, int) and kind is float and not isinstance(value, bool):
            object.__setattr__(self, name, float(value))
        elif not isinstance(value, kind) or isinstance(value, bool):
            if value is None and optional:
                return
            raise ConfigError(f"{name} is {value!r}, expected {kind.__name__}")

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Self:
        """From a TOML table or a command line; an unknown name is an error."""
        known = {item.name for item in fields(cls)}
        if unknown := sorted(settings.keys() - known):
            raise ConfigError(f"unknown setting {unknown[0]!r}; known: {', '.join(sorted(known))}")
        return cls(**settings)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def filled(self) -> Self:
        """The same run with every default written out."""
        return replace(
            self,
            threshold=self.shares_needed,
            minimum_survivors=self.survivors_needed,
            learning_rate=self.step,
        )


def _between(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{name} {value} is outside [{low}, {high}]")


def _one_of(name: str, value: str, known: Mapping[str, object] | tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {name} {value!r}; known: {', '.join(known)}")
