"""Trainings that send less of each update."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secagg
from secagg.errors import InputError
from secagg.training.devices import Device
from secagg.training.settings import TrainingConfig


def data() -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(4)
    parts = [(torch.randn(30, 20, generator=drawn), torch.arange(30) % 2) for _ in range(4)]
    return [(inputs + targets[:, None], targets) for inputs, targets in parts]


def trained(out: Path, **more: Any) -> tuple[dict[str, Any], nn.Module]:
    torch.manual_seed(2)
    trainer = secagg.Trainer(
        nn.Sequential(nn.Linear(20, 512), nn.Tanh(), nn.Linear(512, 2)),
        data(),
        nn.CrossEntropyLoss(),
        out=out,
        evaluation=data()[0],
        **({"rounds": 30, "learning_rate": 0.3, "noise": "none", "clip": 4.0, "bits": 16} | more),
    )
    return trainer.run(), trainer.model


@pytest.mark.parametrize(
    ("more", "times"),
    [
        ({"compress": "1/8"}, 6.0),
        ({"compress": "rotate", "bits": 2, "clip": 0.2}, 3.0),
        ({"compress": "1/4", "bits": 6, "clip": 0.2}, 6.0),
    ],
    ids=str,
)
def test_fewer_bytes_train_as_well(tmp_path: Path, more: dict[str, Any], times: float) -> None:
    whole, _ = trained(tmp_path / "whole")
    less, _ = trained(tmp_path / "less", **more)
    assert whole["bytes_up_per_client"] > times * less["bytes_up_per_client"]
    assert whole["accuracy"] > 0.95
    assert less["accuracy"] > whole["accuracy"] - 0.06


def test_each_round_moves_other_entries(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = nn.Linear(20, 2)
    moved = []
    settings = {"rounds": 4, "learning_rate": 0.3, "noise": "none", "compress": "1/8"}
    trainer = secagg.Trainer(model, data(), nn.CrossEntropyLoss(), out=tmp_path / "run", **settings)
    before = secagg.flatten(model).clone()
    for _ in trainer:
        after = secagg.flatten(trainer.model).clone()
        moved.append(tuple(torch.nonzero(after != before).flatten().tolist()))
        before = after
    assert len(set(moved)) == 4
    assert all(4 <= len(each) <= 6 for each in moved)


def test_what_it_is_not_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="price is of whole vectors"):
        TrainingConfig(compress="1/8")
    with pytest.raises(InputError, match="built-in model's range"):
        TrainingConfig(noise="none", compress="rotate")
    with pytest.raises(InputError, match="top-k is unsound"):
        TrainingConfig(noise="none", compress="top-k")
    with pytest.raises(InputError, match="bits 3 is outside"):
        TrainingConfig(bits=3)
    with pytest.raises(InputError, match="of which some clients train a part"):
        trained(tmp_path / "parts", compress="rotate", devices={1: Device(trains=("0",))})


def test_the_built_in_model_sends_a_sample_too() -> None:
    assert TrainingConfig(noise="none", compress="1/4").compress == "1/4"
