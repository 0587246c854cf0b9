"""Parties train one model among themselves; none sees another's gradient, and there is no server.

Two lines make a plain ``DistributedDataParallel`` secure: the import, and ``secure_ddp``. The
program trains the same model three times, on one party that has all data, under plain DDP and under
secure DDP, and says how far the losses of the last two are apart.

All ranks run on one machine here, so their keys are not signed. Between organisations they must be:
docs/ranks.md.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click
import torch
import torch.distributed as dist
from gpt import Gpt, passages
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from secagg.adapters.torch_distributed import secure_ddp


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is trained on what.

    Attributes:
      inputs, targets: of everybody, in the order in which they are dealt out.
      held_out: how many of the first train nobody.
      batch: examples of a rank in a step; 0 for all of its own.
      steps, learning_rate: of SGD with a momentum of .9.
      clip: no entry of a gradient is larger, or the run ends with an error.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    held_out: int
    batch: int
    steps: int
    learning_rate: float
    clip: float

    def batches(self, ranks: Iterable[int], of: int, step: int) -> tuple[Tensor, Tensor]:
        """What these ranks look at in a step; every rank has as many examples as another."""
        own = (len(self.targets) - self.held_out) // of
        size = self.batch or own
        places = torch.arange(step * size, (step + 1) * size) % own
        rows = torch.cat([self.held_out + rank + of * places for rank in ranks])
        return self.inputs[rows], self.targets[rows]


def work(name: str) -> Work:
    """The work of this name; of every rank the same, as all begin from one seed."""
    torch.manual_seed(0)
    if name == "gpt":
        inputs, targets = passages()
        return Work(
            model=Gpt(), inputs=inputs, targets=targets, held_out=32,
            batch=4, steps=30, learning_rate=0.01, clip=4.0,
        )  # fmt: skip
    digits = load_digits()  # scikit-learn's, handwritten
    return Work(
        model=nn.Linear(64, 10), inputs=torch.tensor(digits.data / 16, dtype=torch.float32),
        targets=torch.tensor(digits.target), held_out=360,
        batch=0, steps=60, learning_rate=0.5, clip=1.0,
    )  # fmt: skip


def train(
    model: nn.Module, task: Work, ranks: Sequence[int], of: int, steps: Iterable[int]
) -> list[float]:
    """Train on what these ranks have; the loss of every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=task.learning_rate, momentum=0.9)
    losses = []
    for step in steps:
        inputs, targets = task.batches(ranks, of, step)
        optimizer.zero_grad()
        logits = model(inputs).flatten(0, -2)
        loss = nn.functional.cross_entropy(logits, targets.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def accuracy(model: nn.Module, task: Work) -> float:
    """Of the classes, or of the next words, of what trained nobody."""
    with torch.no_grad():
        found = model(task.inputs[: task.held_out]).argmax(-1) == task.targets[: task.held_out]
    return float(found.float().mean())


def of_all_ranks(value: float, largest_or_least: Any) -> float:
    """One number of what every rank has found."""
    told = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(told, op=largest_or_least)
    return float(told)


@click.command(
    epilog="""\b
Examples:
  torchrun --nproc-per-node 4 examples/ddp/train.py
  torchrun --nproc-per-node 4 examples/ddp/train.py --model gpt --json
"""
)
@click.option("--model", type=click.Choice(["softmax", "gpt"]), default="softmax")
@click.option("--steps", type=click.IntRange(1), help="[default: 60, gpt 30]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object alone.")
def main(*, model: str, steps: int | None, as_json: bool) -> None:
    """Train among ranks, in plain and in secret, and on all data at one place.

    softmax: a regression on 8x8 digits. gpt: 11.5 million parameters, on the words of Python's
    language reference.
    """
    if int(os.environ.get("WORLD_SIZE", "0")) < 3:
        raise click.UsageError(
            "start it by torchrun with 3 ranks or more: of two, each has the other's gradient"
        )
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    screen = Console(stderr=True)
    count = steps or work(model).steps

    def watched(told: str) -> Iterable[int]:
        hidden = rank > 0 or not screen.is_terminal
        return track(range(count), told, console=screen, transient=True, disable=hidden)

    accuracies, losses = {}, {}
    if rank == 0:
        central = work(model)
        train(central.model, central, range(ranks), ranks, watched("central"))
        accuracies["central"] = accuracy(central.model, central)
    dist.barrier()
    for name in ("plain", "secure"):
        task = work(model)
        network = DistributedDataParallel(task.model)
        if name == "secure":
            secure_ddp(network, clip=task.clip, lanes=2)  # two entries a word: steps of clip / 2^29
        losses[name] = train(network, task, [rank], ranks, watched(name))
        accuracies[name] = accuracy(task.model, task)
    apart = max(abs(a - b) for a, b in zip(losses["plain"], losses["secure"], strict=True))
    apart = of_all_ranks(apart, dist.ReduceOp.MAX)
    for name in ("plain", "secure"):
        accuracies[name] = of_all_ranks(accuracies[name], dist.ReduceOp.MIN)
    if rank == 0:
        found = {
            "model": model,
            "ranks": ranks,
            "steps": count,
            **{f"{name}_accuracy": value for name, value in accuracies.items()},
            **{f"{name}_loss": losses[name][-1] for name in ("plain", "secure")},  # on its own data
            "losses_apart": apart,
        }
        if as_json:
            click.echo(json.dumps(found))
        else:
            told = ", ".join(f"{name} {value:.3f}" for name, value in accuracies.items())
            click.echo(
                f"{model}, {ranks} parties, {count} steps: accuracy {told}; losses of plain and "
                f"secure at most {apart:.1e} apart"
            )
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
