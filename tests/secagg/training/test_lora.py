"""One factor of LoRA under a sum is exact; the means of two are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import secagg
from secagg.errors import InputError
from secagg.training.lora import refuse_both_factors, train_factor


class Adapted(nn.Module):
    """A linear layer with LoRA, named as peft names its own."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, outputs, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.base(inputs) + self.lora_B["default"](self.lora_A["default"](inputs))

    @property
    def change(self) -> torch.Tensor:
        return (self.lora_B["default"].weight @ self.lora_A["default"].weight).detach()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = Adapted(6, 5, 2), nn.Linear(5, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(inputs)))


def data(client: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(client)
    return torch.randn(12, 6, generator=rng), torch.randint(0, 3, (12,), generator=rng)


def learnt(factor: str | None, client: int, unlike: float = 1.0) -> Adapted:
    """What a client learns of a target of its own, from the common start."""
    layer = Adapted(32, 32, 4)
    if factor:
        train_factor(layer, factor)
    rng = torch.Generator().manual_seed(client)
    common = torch.randn(32, 32, generator=torch.Generator().manual_seed(99))
    target = common + unlike * torch.randn(32, 32, generator=rng)
    trained = [each for each in layer.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.3)
    for _ in range(50):
        optimizer.zero_grad()
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        (product - target / 6).square().sum().div(2).backward()
        optimizer.step()
    return layer


def apart(factor: str | None) -> float:
    """How far the product of means is from the mean of products, relative to that."""
    layers = [learnt(factor, client) for client in range(10)]
    states = [{n: p.detach() for n, p in layer.named_parameters()} for layer in layers]
    mean = secagg.aggregate(states, clip=8.0).mean
    product = mean["lora_B.default.weight"] @ mean["lora_A.default.weight"]
    truth = torch.stack([layer.change for layer in layers]).mean(0)
    return float((product - truth).norm() / truth.norm())


def test_with_a_frozen_the_mean_of_b_is_exact_to_the_rounding() -> None:
    assert apart("B") < 0.01


def test_the_means_of_two_trained_factors_are_off_by_much() -> None:
    assert apart(None) > 0.3


def test_all_else_stays_as_it_is() -> None:
    model = Net()
    assert train_factor(model) == ["first.lora_B.default.weight"]
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {"first.lora_B.default.weight", "last.weight", "last.bias"}
    assert train_factor(model, "A") == ["first.lora_A.default.weight"]


def trainer(model: nn.Module, out: Path, **more: object) -> secagg.Trainer:
    loss = nn.functional.cross_entropy
    settings = {"rounds": 2, "learning_rate": 0.1, "noise": "none"}
    return secagg.Trainer(
        model, [data(client) for client in range(4)], loss, out=out, **settings, **more
    )


def test_a_trainer_refuses_both_factors_by_name_unless_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="both factors of LoRA are trained in 1 layers") as error:
        trainer(Net(), tmp_path / "a")
    assert "train_factor" in str(error.value)
    assert not (tmp_path / "a").exists()
    trainer(Net(), tmp_path / "b", average_both_factors=True)


def test_a_training_of_b_moves_nothing_else(tmp_path: Path) -> None:
    model = Net()
    model.last.requires_grad_(False)
    train_factor(model)
    run = trainer(model, tmp_path / "a")
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    run.run()
    for name, after in run.model.named_parameters():
        moved = not torch.equal(after.detach(), before[name])
        assert moved == (name == "first.lora_B.default.weight")


def test_what_is_no_lora_is_refused_by_one_and_passed_by_the_other() -> None:
    plain = nn.Linear(2, 2)
    refuse_both_factors(plain)
    with pytest.raises(InputError, match="no layer of LoRA"):
        train_factor(plain)
    with pytest.raises(InputError, match="must be 'A' or 'B'"):
        train_factor(Net(), "C")  # type: ignore[arg-type]
    named = nn.ModuleDict({"my_lora_A": nn.Linear(2, 2), "lora_Bx": nn.Linear(2, 2)})
    refuse_both_factors(named)  # other people's names
    assert np.all([each.requires_grad for each in named.parameters()])
