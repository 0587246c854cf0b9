"""Softmax regression on Fashion-MNIST over clients that differ, from warm-up to early stop.

How much each client differs is the Dirichlet parameter: at .1 most have two or three kinds of
clothes. Clients count by their examples. Each tests the common model on a fifth of its own images,
and what comes out of that is a sum too: how many were right, how many there were, and how many
clients lie in which tenth of accuracy. So everybody sees how the worst client fares, and nobody
which one it is.
"""

import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import secagg
from secagg.training.data import federate
from secagg.training.optimizers import SGD, rate_at, warmup

Pair = tuple[Tensor, Tensor]

BATCHES = 10  # a round: one pass, each image in a batch with a chance of a tenth
START = 1e-5  # learning rate of the first round
TENTHS = 10
cross_entropy = nn.functional.cross_entropy


def right(model: nn.Module, data: Pair) -> int:
    """How many the model gets right."""
    with torch.no_grad():
        return int((model(data[0]).argmax(1) == data[1]).sum())


def own_tests(model: nn.Module, tests: Sequence[Pair]) -> dict[str, Any]:
    """How the clients fare with the model on their own images, from one sum of counts."""

    def counts(data: Pair) -> dict[str, Any]:
        good, examples = right(model, data), len(data[1])
        tenth = min(good * TENTHS // examples, TENTHS - 1)
        return {"right": good, "examples": examples, "tenths": np.eye(TENTHS, dtype=int)[tenth]}

    found = secagg.aggregate(map(counts, tests), counts=["right", "examples", "tenths"]).sum
    tenths = found["tenths"].tolist()
    return {
        "accuracy": float(found["right"] / found["examples"]),
        "clients_by_tenth": tenths,
        "lowest_tenth": next(place for place, clients in enumerate(tenths) if clients) / TENTHS,
    }


def central(start: nn.Module, data: Sequence[Pair], rates: Iterable[float]) -> nn.Module:
    """The same model with all images at one place, by as many steps."""
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    optimizer = torch.optim.SGD(start.parameters(), lr=1.0)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        for _ in range(BATCHES):
            batch = torch.rand(len(y)) < 1 / BATCHES
            optimizer.zero_grad()
            cross_entropy(start(x[batch]), y[batch]).backward()
            optimizer.step()
    return start


def softmax() -> nn.Module:
    """Zeros to begin with: the loss is convex."""
    model = nn.Linear(784, 10)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def watched(rounds: Iterable[Any], told: str, total: int) -> Iterable[Any]:
    """The rounds, under a bar where somebody may be watching."""
    screen = Console(stderr=True)
    hidden = not screen.is_terminal
    return track(rounds, told, total, console=screen, transient=True, disable=hidden)


@click.command(
    epilog="""\b
Examples:
  make data
  python examples/softmax_784/train.py
  python examples/softmax_784/train.py --clients 100 --alpha 0.1 --out runs/skewed --json
  python examples/softmax_784/train.py --stop-at 0.8 --out runs/stopped
  python examples/softmax_784/train.py --out runs/skewed --clients 100 --alpha 0.1 --resume
"""
)
@click.option("--clients", type=click.IntRange(2, 1000), default=5, show_default=True)
@click.option(
    "--alpha", type=float, default=1.0, show_default=True, help="Dirichlet: .1 deals out unevenly."
)
@click.option("--rounds", type=click.IntRange(1), default=60, show_default=True)
@click.option("--learning-rate", type=float, default=2.0, show_default=True, help="Of the clients.")
@click.option(
    "--server-learning-rate", type=float, default=1.0, show_default=True, help="Of the mean update."
)
@click.option(
    "--warmup", "warm", type=click.IntRange(2), default=5, show_default=True, help="Rounds of it."
)
@click.option("--stop-at", type=float, help="Accuracy on the official test images to stop at.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the deal.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/softmax_784"),
    show_default=True,
    help="Folder of the run: a checkpoint every round, and the report.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out; say the same again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object alone.")
def main(
    *,
    clients: int,
    alpha: float,
    rounds: int,
    learning_rate: float,
    server_learning_rate: float,
    warm: int,
    stop_at: float | None,
    seed: int,
    out: Path,
    resume: bool,
    as_json: bool,
) -> None:
    """Train softmax regression over clients that differ, and compare it with its twins.

    plain is the same without masks; central has all images at one place.
    """
    deal = federate("fashion-mnist", clients=clients, partition=f"dirichlet:{alpha:g}", seed=seed)
    pairs = [(torch.tensor(each.features), torch.tensor(each.labels)) for each in deal.clients]
    train = [(x[own_train(y)], y[own_train(y)]) for x, y in pairs]
    tests = [(x[::5], y[::5]) for x, y in pairs]
    test = (torch.tensor(deal.evaluation.features), torch.tensor(deal.evaluation.labels))

    rate = warmup(learning_rate, warm, start=START)
    given: dict[str, Any] = {
        "evaluation": test,
        "learning_rate": rate,
        "optimizer": SGD(learning_rate=server_learning_rate),
    }
    settings: dict[str, Any] = {
        "noise": "none",
        "clip": 32.0,  # of an entry of an update
        "local_steps": BATCHES,
        "sampling_rate": 1 / BATCHES,
    }
    task = (softmax(), train, cross_entropy)
    if resume:
        if (of := secagg.load_run(out).config["rounds"]) != rounds:
            raise secagg.InputError(f"the run in {out} has rounds {of}, not {rounds}")
        trainer = secagg.Trainer.resume(out, *task, stop_at=stop_at, **given)
    else:
        trainer = secagg.Trainer(
            *task, out=out, rounds=rounds, stop_at=stop_at, **given, **settings
        )
    course = {}  # every ten rounds
    for record in watched(trainer, "secure", rounds):
        if record["round"] % 10 == 0:
            course[record["round"]] = own_tests(trainer.model, tests)
    final, done = trainer.finish(), trainer.done

    with tempfile.TemporaryDirectory() as folder:
        plain = secagg.Trainer(
            *task, out=folder, rounds=done, protocol=secagg.Plain(), **given, **settings
        )
        for _ in watched(plain, "plain", done):
            pass
    rates = watched([rate_at(rate, number) for number in range(1, done + 1)], "central", done)
    twins = {"plain": plain.model, "central": central(softmax(), train, rates)}
    found = {
        "clients": clients,
        "alpha": alpha,
        "rounds": done,
        "secure_accuracy": final["accuracy"],
        **{f"{name}_accuracy": right(model, test) / len(test[1]) for name, model in twins.items()},
        "own_tests": own_tests(trainer.model, tests),
        "own_tests_by_round": course,
        "run": str(out),
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    accuracies = ", ".join(
        f"{name} {found[f'{name}_accuracy']:.4f}" for name in ("central", "plain", "secure")
    )
    click.echo(f"{clients} clients, alpha {alpha:g}, {done} rounds: accuracy {accuracies}")
    click.echo("on the clients' own images:")
    for number, each in {**course, done: found["own_tests"]}.items():
        click.echo(f"round {number:3} {told(each)}")
    click.echo(f"report: {out / 'report.html'}")


def own_train(labels: Tensor) -> Tensor:
    """All but every fifth, which a client keeps for its own test."""
    return torch.arange(len(labels)) % 5 != 0


def told(tests: dict[str, Any]) -> str:
    """What the sum over the clients' own tests says."""
    low = tests["lowest_tenth"]
    worst = tests["clients_by_tenth"][round(low * TENTHS)]
    return f"{tests['accuracy']:.3f}, the lowest {worst} between {low:.1f} and {low + 0.1:.1f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main()
    except secagg.SecaggError as error:
        sys.exit(f"train.py: {error}")
