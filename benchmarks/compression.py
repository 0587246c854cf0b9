"""Accuracy against bytes: what of an update may be left out of a secure sum.

    python benchmarks/compression.py --json benchmarks/results/compression.json

An MLP of 50,890 parameters on Fashion-MNIST, ten clients with Dirichlet .5 that count alike, under
masks. Every row trains the same rounds from the same model, for each of ``--seeds`` partitions;
bytes are a client's, up, in a round, keys and shares with them. fp32 is what the same update takes
without any of this: four bytes an entry.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

import secagg
from secagg.training.data import federate
from secagg.vectors.powersgd import PowerSgd

CLIENTS, ALPHA, STEPS, RATE, SHARE = 10, 0.5, 20, 0.1, 0.02
ROWS: dict[str, dict[str, Any]] = {
    "whole, 16 bits": {"bits": 16},
    "whole, 8 bits": {"bits": 8},
    "rotated, 4 bits": {"compress": "rotate", "bits": 4, "clip": 0.05},
    "rotated, 2 bits": {"compress": "rotate", "bits": 2, "clip": 0.03},
    "one in 8, 16 bits": {"compress": "1/8", "bits": 16},
    "one in 8, 8 bits": {"compress": "1/8", "bits": 8},
    "one in 8, 4 bits": {"compress": "1/8", "bits": 4},
    "one in 16, 8 bits": {"compress": "1/16", "bits": 8},
    "one in 32, 8 bits": {"compress": "1/32", "bits": 8},
    "rotated, one in 8, 4 bits": {"compress": "rotate 1/8", "bits": 4, "clip": 0.05},
}
POWER = {"PowerSGD, rank 4": (4, True), "PowerSGD, rank 4, no memory": (4, False)}
CLIP = 0.1  # of an entry, where a row names none


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def data(seed: int) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    found = federate("fashion-mnist", clients=CLIENTS, partition=f"dirichlet:{ALPHA}", seed=seed)

    def pair(examples: Any) -> tuple[Tensor, Tensor]:
        features = torch.tensor(np.asarray(examples.features), dtype=torch.float32)
        return features * 10, torch.tensor(np.asarray(examples.labels))  # rows have norm 1 there

    return [pair(each) for each in found.clients], pair(found.evaluation)


def trained(rounds: int, parts: Any, test: Any, **row: Any) -> dict[str, float]:
    """By ``Trainer``."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the share that is cut is in the record
        trainer = secagg.Trainer(
            network(),
            parts,
            loss,
            out=Path(folder) / "run",
            rounds=rounds,
            learning_rate=RATE,
            local_steps=STEPS,
            sampling_rate=SHARE,
            noise="none",
            weighting="equal",
            **({"clip": CLIP} | row),
        )
        records = list(trainer)
        final = trainer.finish()
        right = accuracy(trainer.model, test)
    return {
        "accuracy": right,
        "bytes": final["bytes_up_per_client"],
        "cut": float(np.mean([each["clipped"] for each in records])),
    }


def powered(
    rounds: int, parts: Any, test: Any, *, rank: int, memory: bool, bits: int = 16
) -> dict[str, float]:
    """By two sums a round, in a loop of one's own."""
    model = network()
    shapes = {name: tuple(each.shape) for name, each in model.named_parameters()}
    silos = [PowerSgd(shapes, rank, seed=bytes(32), memory=memory) for _ in parts]
    up = 0
    for _ in range(rounds):
        updates = [local(model, *part) for part in parts]
        left = secagg.aggregate(
            (s.left(u) for s, u in zip(silos, updates, strict=True)),
            codec=dict.fromkeys(shapes, secagg.FixedPoint(clip=4.0, bits=bits)),
        )
        rights = [silo.right(left.mean) for silo in silos]
        right = secagg.aggregate(
            rights, codec=dict.fromkeys(rights[0], secagg.FixedPoint(clip=4.0, bits=bits))
        )
        found, *_ = [silo.estimate(right.mean) for silo in silos]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += torch.from_numpy(found[name]).float()
        up += sum(c.bytes_up for each in (left, right) for c in each.costs.values())
    return {"accuracy": accuracy(model, test), "bytes": up / rounds, "cut": 0.0}


def local(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
    """What a client's steps change, as ``Trainer`` makes them."""
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    for _ in range(STEPS):
        batch = torch.rand(len(inputs)) < SHARE
        model.zero_grad()
        if batch.any():
            loss(model(inputs[batch]), targets[batch]).sum().backward()  # type: ignore[no-untyped-call]  # torch
        with torch.no_grad():
            for each in model.parameters():
                if each.grad is not None:
                    each -= RATE / (SHARE * len(inputs)) * each.grad
    changed = {
        name: (each.detach() - before[name]).numpy() for name, each in model.named_parameters()
    }
    with torch.no_grad():
        for name, each in model.named_parameters():
            each.copy_(before[name])
    return changed


def accuracy(model: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float((model(test[0]).argmax(1) == test[1]).float().mean())


def rows(rounds: int, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    parts, test = data(seed)
    for name, row in ROWS.items():
        yield name, trained(rounds, parts, test, seed=seed, **row)
    for name, (rank, memory) in POWER.items():
        yield name, powered(rounds, parts, test, rank=rank, memory=memory)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began, every = time.perf_counter(), dict[str, list[dict[str, float]]]()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rows", total=asked.seeds * (len(ROWS) + len(POWER)))
        for seed in range(asked.seeds):
            for name, row in rows(asked.rounds, seed):
                every.setdefault(name, []).append(row)
                bar.advance(task)
    full = 4 * sum(each.numel() for each in network().parameters())
    found = {
        "command": " ".join(["python", *sys.argv]),
        "rounds": asked.rounds,
        "seeds": asked.seeds,
        "clients": CLIENTS,
        "fp32_bytes": full,
        "seconds": round(time.perf_counter() - began, 1),
        "rows": {
            name: {
                "accuracy": [round(each["accuracy"], 4) for each in runs],
                "bytes": round(float(np.mean([each["bytes"] for each in runs]))),
                "times_fewer": round(full / float(np.mean([each["bytes"] for each in runs])), 1),
                "cut": float(f"{np.mean([each['cut'] for each in runs]):.2g}"),
            }
            for name, runs in every.items()
        },
    }
    for name, row in found["rows"].items():
        mean = float(np.mean(row["accuracy"]))
        print(f"{name:28} {mean:.3f}  {row['bytes']:>8,} bytes  {row['times_fewer']:>5.1f} x")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
