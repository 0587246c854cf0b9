"""LoRA under a sum: which of its two factors is trained.

A layer of LoRA adds B A to its weights, A drawn at random and B zero at the start. A sum of
clients' updates gives the mean of A and the mean of B, and their product is not the mean of the
products: for clients whose data differ it is off by half of itself and more. With A the same for
all and fixed, B A is linear in B, and the mean of B is the mean of what clients learnt: FFA-LoRA
[SLLD24]. It sends half as much, and noise enters once.

Factors are known by peft's names, ``lora_A`` and ``lora_B`` within a parameter's own.

[SLLD24] Sun, Li, Li, Ding, *Improving LoRA in Privacy-preserving Federated Learning*, ICLR 2024.
"""

from collections.abc import Iterable
from typing import Literal

from secagg.errors import InputError
from secagg.extras import missing

try:
    from torch import nn
except ModuleNotFoundError as error:
    raise missing("secagg.training.lora", "torch", extra="train") from error

FACTORS = ("lora_A", "lora_B")


def train_factor(model: nn.Module, factor: Literal["A", "B"] = "B") -> list[str]:
    """Train one factor of each layer of LoRA, and freeze the other; all else stays as it is.

    ``B`` alone, once, is exact in every round. One factor a round, in turn, is exact in each round
    too, as the other one is then the same for all clients; between them the vector changes, so
    that is for a loop of your own.

    Returns:
      The names of the factors that are trained.

    Raises:
      InputError: ``factor`` is neither, or the model has no layer of LoRA.
    """
    if factor not in ("A", "B"):
        raise InputError(f"factor {factor!r:.80} must be 'A' or 'B'")
    named = [(name, each) for name, each in model.named_parameters() if _factor(name)]
    if not named:
        raise InputError("the model has no layer of LoRA: no parameter is named lora_A or lora_B")
    for name, parameter in named:
        parameter.requires_grad_(_factor(name) == f"lora_{factor}")
    return [name for name, parameter in named if parameter.requires_grad]


def refuse_both_factors(model: nn.Module) -> None:
    """Refuse a model of which both factors of one layer are trained.

    Raises:
      InputError: it would be summed wrongly.
    """
    trained = (name for name, each in model.named_parameters() if each.requires_grad)
    if layers := _layers_with_both(trained):
        raise InputError(
            f"both factors of LoRA are trained in {len(layers)} layers, such as {layers[0]}: the "
            "product of their means is not the mean of their products. Freeze A with "
            "secagg.training.lora.train_factor(model), or say average_both_factors=True"
        )


def _layers_with_both(names: Iterable[str]) -> list[str]:
    found: dict[str, set[str]] = {}
    for name in names:
        if factor := _factor(name):
            found.setdefault(name.partition(f".{factor}")[0], set()).add(factor)
    return [layer for layer, factors in found.items() if len(factors) == len(FACTORS)]


def _factor(name: str) -> str | None:
    parts = name.split(".")
    return next((factor for factor in FACTORS if factor in parts), None)
