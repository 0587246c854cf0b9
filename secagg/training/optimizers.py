"""Server optimizers: from the clients' mean update to the move of the common model.

Every one works on the mean of what a round released, so it costs no privacy, whatever the noise.
Names, defaults and numbers are those of Flower (flwr 1.42), which follows [RCZ+21]:

| here | Flower | [RCZ+21] |
|---|---|---|
| ``SGD`` | ``FedAvgM`` | FedAvg, with ``momentum`` FedAvgM |
| ``Adagrad``, ``Adam``, ``Yogi`` | ``FedAdagrad``, ``FedAdam``, ``FedYogi`` | algorithm 2 |

As Flower's, ``Adam`` corrects the bias of its moments in the step size, and counts a round more
than there were. Delta is the mean update, t the round, from 1; moments begin at 0.

[RCZ+21]: Reddi et al., Adaptive Federated Optimization, arXiv 2003.00295.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Final, TypeAlias

from secagg.errors import InputError
from secagg.extras import missing

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing("secagg.training.optimizers", "torch", extra="train") from error

Rate: TypeAlias = float | Callable[[int], float]
"""A step size: one number, or a function of the round, from 1, that depends on nothing else."""

Moments: TypeAlias = Mapping[str, Tensor]
"""What an optimizer keeps between rounds, by name: flat float64 vectors."""

MOST_RATE: Final = 1e6


def rate_at(rate: Rate, round_number: int) -> float:
    """The step size of a round.

    Raises:
      InputError: it is not a finite number from 0 to 10^6.
    """
    value = rate(round_number) if callable(rate) else rate
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"learning rate of round {round_number} is {value!r}, must be a number")
    if not 0 <= value <= MOST_RATE:  # which NaN is not either
        raise InputError(f"learning rate of round {round_number} is {value}, outside [0, 1e6]")
    return float(value)


def describe_rate(rate: Rate, rounds: int) -> str:
    """A text that two rates share only if they agree in each of so many rounds."""
    if not callable(rate):
        return repr(float(rate))
    values = [rate_at(rate, number) for number in range(1, rounds + 1)]
    digest = hashlib.sha256(repr(values).encode()).hexdigest()[:16]
    return f"{values[0]:g} to {values[-1]:g} by round ({digest})"


def warmup(rate: Rate, rounds: int, *, start: float | None = None) -> Rate:
    """``rate``, reached in equal steps over the first ``rounds`` rounds.

    Args:
      start: the rate of the first round; by default one step.
    """
    if rounds < 1:
        raise InputError(f"a warm-up of {rounds} rounds, must be at least 1")
    if start is None:
        return lambda number: rate_at(rate, number) * min(1.0, number / rounds)
    if rounds < 2:
        raise InputError(f"a warm-up of {rounds} round that starts at {start}, must be at least 2")
    first, steps = rate_at(start, 1), rounds - 1
    return lambda number: first + (rate_at(rate, number) - first) * min(1.0, (number - 1) / steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptimizer(ABC):
    """How the common model follows the mean update.

    Attributes:
      learning_rate: of the server, by which the move is scaled.
    """

    learning_rate: Rate = 1.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "learning_rate":
                rate_at(value, 1)
            elif not 0 <= value <= 1 or (value == 1 and item.name != "tau"):
                raise InputError(f"{item.name} {value!r} is outside [0, 1)")

    @abstractmethod
    def step(self, update: Tensor, moments: Moments, round_number: int) -> tuple[Tensor, Moments]:
        """The move of the model, and the moments after it.

        Args:
          update: the mean update, flat, in float64.
          moments: of the round before; empty at first.
          round_number: from 1.
        """

    def describe(self, rounds: int) -> str:
        """A text that two optimizers share only if they do the same over so many rounds."""
        rest = [f"{f.name}={getattr(self, f.name)}" for f in fields(self)[1:]]
        settings = ", ".join([f"learning_rate={describe_rate(self.learning_rate, rounds)}", *rest])
        return f"{type(self).__name__}({settings})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SGD(ServerOptimizer):
    """m = momentum m + Delta, and the model moves by learning_rate m. Without options: Delta."""

    momentum: float = 0.0

    def step(self, update: Tensor, moments: Moments, round_number: int) -> tuple[Tensor, Moments]:
        rate = rate_at(self.learning_rate, round_number)
        if not self.momentum:
            return rate * update, {}
        first = self.momentum * moments.get("first", torch.zeros_like(update)) + update
        return rate * first, {"first": first}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Adaptive(ServerOptimizer):
    """m = beta_1 m + (1 - beta_1) Delta; the model moves by learning_rate m / (sqrt(v) + tau).

    Attributes:
      tau: keeps the quotient finite where nothing moved yet.
    """

    learning_rate: Rate = 0.1
    tau: float = 1e-3

    def step(self, update: Tensor, moments: Moments, round_number: int) -> tuple[Tensor, Moments]:
        zeros = torch.zeros_like(update)
        beta = self._first_decay
        first = beta * moments.get("first", zeros) + (1 - beta) * update
        second = self._second(moments.get("second", zeros), update**2)
        rate = rate_at(self.learning_rate, round_number) * self._correction(round_number)
        # What never moved stays, without tau too, where the quotient is 0 / 0.
        moved = torch.where(first == 0, zeros, rate * first / (second.sqrt() + self.tau))
        return moved, {"first": first, "second": second}

    @property
    def _first_decay(self) -> float:
        return 0.0

    @abstractmethod
    def _second(self, second: Tensor, squared: Tensor) -> Tensor:
        """The vector v after this round."""

    def _correction(self, round_number: int) -> float:
        return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adagrad(_Adaptive):
    """v = v + Delta^2, and m = Delta."""

    def _second(self, second: Tensor, squared: Tensor) -> Tensor:
        return second + squared


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam(_Adaptive):
    """v = beta_2 v + (1 - beta_2) Delta^2.

    The rate is times sqrt(1 - beta_2^(t+1)) / (1 - beta_1^(t+1)).
    """

    beta_1: float = 0.9
    beta_2: float = 0.99

    @property
    def _first_decay(self) -> float:
        return self.beta_1

    def _second(self, second: Tensor, squared: Tensor) -> Tensor:
        return self.beta_2 * second + (1 - self.beta_2) * squared

    def _correction(self, round_number: int) -> float:
        power = round_number + 1
        return math.sqrt(1 - self.beta_2**power) / (1 - self.beta_1**power)


@dataclass(frozen=True, slots=True, kw_only=True)
class Yogi(_Adaptive):
    """v = v - (1 - beta_2) Delta^2 sign(v - Delta^2)."""

    learning_rate: Rate = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.99

    @property
    def _first_decay(self) -> float:
        return self.beta_1

    def _second(self, second: Tensor, squared: Tensor) -> Tensor:
        return second - (1 - self.beta_2) * squared * torch.sign(second - squared)
