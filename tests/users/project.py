"""What somebody who uses the package writes, for type checkers: not run, and no part of it."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import secagg
from dp.accounting.accountant import epsilon_rdp
from dp.accounting.events import GaussianEvent, NoSampling
from dp.ledger import Ledger
from secagg import dp, protocols
from secagg.adapters.flower import SecureGrid, secure_mod
from secagg.nodes import SumSettings, WeightedMean
from secagg.training.lora import train_factor
from secagg.training.optimizers import Adam
from secagg.vectors.compress import Compress


def own_loop(updates: list[dict[str, np.ndarray]]) -> float:
    found = secagg.aggregate(
        updates,
        clip={"*": 1.0},
        compress=Compress(one_in=8),
        protocol=secagg.Bonawitz(threshold=2),
        dropouts={0: secagg.Stage.MASK},
    )
    weight: int = found.weight
    survivors: tuple[int, ...] = found.survivors
    return weight / len(survivors)


def trained(model: nn.Module, clients: list[tuple[Tensor, Tensor]], out: Path) -> float:
    trainer = secagg.Trainer(
        model,
        clients,
        nn.CrossEntropyLoss(),
        out=out,
        rounds=3,
        learning_rate=0.1,
        optimizer=Adam(learning_rate=0.01),
        epsilon=2.0,
        clip=1.0,
    )
    losses: list[float | None] = [record["loss"] for record in trainer]
    names: list[str] = train_factor(trainer.model)
    flat: Tensor = secagg.flatten(trainer.model)
    return float(flat.norm()) + len(names) + len(losses)


def price(noise: float) -> float:
    event = GaussianEvent(noise_multiplier=noise, sampling=NoSampling(), steps=10)
    return epsilon_rdp([(event, 1)], 1e-5)


def spent(folder: Path) -> int:
    with Ledger.open(folder) as ledger:
        return len(ledger.subjects())


def caught(updates: list[np.ndarray]) -> str:
    try:
        secagg.aggregate(updates, clip=1.0)
    except (protocols.TooFewSurvivors, dp.PrivacyError, secagg.InputError) as error:
        return str(error)
    return ""


mean = WeightedMean(clip=1.0, max_weight=100)
settings = SumSettings()
grid: type[SecureGrid] = SecureGrid
mod = secure_mod
torch.manual_seed(0)
