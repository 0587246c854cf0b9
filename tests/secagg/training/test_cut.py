"""A model of which a part is trained sends that part, and no other entry ever moves."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secagg
from secagg.errors import InputError
from secagg.training.cut import train_largest, train_only, whole
from secagg.vectors.vector import flatten


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(20, 200), nn.Tanh(), nn.Linear(200, 2))


def data() -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(4)
    parts = [(torch.randn(30, 20, generator=drawn), torch.arange(30) % 2) for _ in range(4)]
    return [(inputs + targets[:, None], targets) for inputs, targets in parts]


def trained(start: nn.Module, out: Path, **more: Any) -> tuple[dict[str, Any], nn.Module]:
    settings = {"rounds": 15, "learning_rate": 0.5, "noise": "none"} | more
    loss = nn.CrossEntropyLoss()
    trainer = secagg.Trainer(start, data(), loss, out=out, evaluation=data()[0], **settings)
    return trainer.run(), trainer.model


NOISE = {"noise": "distributed", "epsilon": 8.0, "delta": 5e-3, "clip": 1.0}
OF_CLIENTS = NOISE | {"unit": "client", "delta": 0.1}


@pytest.mark.parametrize("more", [{}, {"protocol": secagg.Ckks()}, NOISE, OF_CLIENTS], ids=str)
def test_layers_that_are_not_named_stay_and_are_not_sent(tmp_path: Path, more: Any) -> None:
    every, _ = trained(model(), tmp_path / "whole", **more)
    start = model()
    assert train_only(start, ["2.*"]) == ["2.weight", "2.bias"]
    found, after = trained(start, tmp_path / "part", **more)
    assert torch.equal(after[0].weight, start[0].weight)
    assert torch.equal(after[0].bias, start[0].bias)
    assert not torch.equal(after[2].weight, start[2].weight)
    assert found["bytes_up_per_client"] < every["bytes_up_per_client"]
    if not more:
        assert found["bytes_up_per_client"] < every["bytes_up_per_client"] / 5
        assert found["accuracy"] > 0.9


@pytest.mark.parametrize("more", [{}, NOISE, OF_CLIENTS], ids=str)
def test_small_entries_stay_and_are_not_sent(tmp_path: Path, more: Any) -> None:
    every, _ = trained(model(), tmp_path / "whole", **more)
    start, before = model(), model()
    assert train_largest(start, 0.1, ["*.weight"]) == 400 + 200 + 40 + 2
    assert flatten(start).numel() == 642
    found, after = trained(start, tmp_path / "part", **more)
    plain = whole(copy.deepcopy(after))
    for layer in (0, 2):
        old, new = before[layer].weight, plain[layer].weight
        chosen = old.abs() >= old.abs().flatten().topk(old.numel() // 10).values[-1]
        assert torch.equal(new[~chosen], old[~chosen])
        assert not torch.equal(new[chosen], old[chosen])
    assert found["bytes_up_per_client"] < every["bytes_up_per_client"] / 2
    inputs = data()[0][0]
    assert torch.equal(plain(inputs), after(inputs))
    if not more:
        assert found["accuracy"] > 0.9


def test_a_run_of_a_cut_model_goes_on(tmp_path: Path) -> None:
    start = model()
    train_largest(start, 0.1)
    settings = {"rounds": 4, "learning_rate": 0.5, "noise": "none"}
    trainer = secagg.Trainer(start, data(), nn.CrossEntropyLoss(), out=tmp_path / "r", **settings)
    next(iter(trainer))
    fresh = model()
    train_largest(fresh, 0.1)
    again = secagg.Trainer.resume(tmp_path / "r", fresh, data(), nn.CrossEntropyLoss())
    assert again.done == 1
    again.run()
    assert again.done == 4


def test_a_cut_model_computes_as_before_and_is_made_whole() -> None:
    start, before, inputs = model(), model(), data()[0][0]
    train_largest(start, 0.3)
    assert torch.equal(start(inputs), before(inputs))
    names = [name for name, _ in before.named_parameters()]
    assert [name for name, _ in whole(start).named_parameters()] == names
    assert all(each.requires_grad for each in start.parameters())
    assert torch.equal(flatten(start), flatten(before))


def test_what_is_frozen_is_not_cut() -> None:
    start = model()
    train_only(start, ["0.weight"])
    assert train_largest(start, 0.1) == 400


@pytest.mark.parametrize("keep", [0, 1, 1.0, -0.1, True, "0.1", float("nan")])
def test_a_share_out_of_range_is_refused(keep: Any) -> None:
    with pytest.raises(InputError, match="must be above 0 and below 1"):
        train_largest(model(), keep)


def test_names_that_fit_nothing_are_refused_and_nothing_is_frozen() -> None:
    start = model()
    with pytest.raises(InputError, match=r"'3\.\*' is no parameter"):
        train_only(start, ["2.*", "3.*"])
    assert all(each.requires_grad for each in start.parameters())
    with pytest.raises(InputError, match="expected several"):
        train_only(start, "2.*")
    with pytest.raises(InputError, match="nothing would be trained"):
        train_only(start, [])
    with pytest.raises(InputError, match="no parameter that is trained fits"):
        train_largest(start, 0.1, ["3.*"])
    train_largest(start, 0.1)
    with pytest.raises(InputError, match="cut already"):
        train_largest(start, 0.1)
    with pytest.raises(InputError, match="is not cut"):
        whole(model())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(6, 4), nn.Linear(4, 6)
        self.head.weight = self.words.weight

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.words(inputs))
        return out


def test_tied_weights_are_not_cut_apart() -> None:
    start = Tied()
    with pytest.raises(InputError, match="'weight' is a parameter of two names, tied"):
        train_largest(start, 0.5)
    assert start.head.weight is start.words.weight
    assert train_largest(start, 0.5, ["head.bias"]) == 24 + 3
    assert whole(start).head.weight is start.words.weight


def test_tied_weights_are_trained_by_either_name() -> None:
    for name in ("words.weight", "head.weight"):
        start = Tied()
        assert train_only(start, [name]) == ["words.weight"]
        assert [each.requires_grad for each in start.parameters()] == [True, False]
