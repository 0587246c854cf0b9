"""Least squares over clients that show nobody their rows, and how exact it is.

Twice: gradient descent by ``secagg.Trainer`` ends where descent on all rows at one place does, and
one sum of X'X and X'y by ``secagg.aggregate`` gives the solution itself, in one round. Both are off
by rounding alone; the program prints a bound on that beside what it measured.

Of two clients each has the other's numbers, the sum less its own: masks hide them from the server.
"""

import json
import sys
import tempfile
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_diabetes
from torch import nn

import secagg

Array = NDArray[np.float64]
Parts = list[tuple[Array, Array]]

DATA = {"diabetes": (200, 0.1), "synthetic": (10, 0.01)}  # rounds and learning rate
BITS = 32  # of an entry, the most there are
UPDATE = secagg.FixedPoint(clip=1.0, bits=BITS)  # no round moves a weight by more
MOMENT = secagg.FixedPoint(clip=1000.0, bits=BITS)  # no sum of squares is larger in our units
FLOAT = 1e-10  # more than float64 adds: its 2^-52 times a condition number below 10^5


def rows(data: str) -> tuple[Array, Array]:
    """Features with a one in front, and targets, in public units."""
    if data == "synthetic":
        draw = np.random.default_rng(0)  # noqa: TID251  # public rows, no secret
        inputs = draw.normal(size=(100, 1))
        targets = 3 * inputs[:, 0] - 1 + draw.normal(scale=0.1, size=100)
    else:
        found = load_diabetes()
        inputs = (
            found.data * len(found.data) ** 0.5
        )  # of scikit-learn's columns the squares add to 1
        targets = (found.target - 150) / 100
    return np.column_stack([np.ones(len(inputs)), inputs]), targets


def descent(parts: Parts, rounds: int, rate: float, protocol: Any) -> Array:
    """The weights after a federated gradient descent from zeros."""
    model = nn.Linear(parts[0][0].shape[1], 1, bias=False).double()
    nn.init.zeros_(model.weight)
    with tempfile.TemporaryDirectory() as folder:
        trainer = secagg.Trainer(
            model,
            [(torch.tensor(x), torch.tensor(y)[:, None]) for x, y in parts],
            nn.functional.mse_loss,
            out=folder,
            noise="none",
            protocol=protocol,
            clip=UPDATE.clip,
            bits=UPDATE.bits,
            rounds=rounds,
            learning_rate=rate,
        )
        screen = Console(stderr=True)
        hidden = not screen.is_terminal
        for record in track(
            trainer, "rounds", rounds, console=screen, transient=True, disable=hidden
        ):
            if record["clipped"]:
                raise click.ClickException(f"a weight moved by more than {UPDATE.clip:g}")
    return trainer.model.weight.detach().numpy()[0]


def central_descent(x: Array, y: Array, rounds: int, rate: float) -> Array:
    """The same on all rows at one place."""
    weights = np.zeros(x.shape[1])
    for _ in range(rounds):
        weights -= rate * 2 / len(x) * x.T @ (x @ weights - y)
    return weights


def descent_bound(x: Array, rounds: int, rate: float) -> float:
    """The most by which rounding moves the weights of ``descent``, in L2 norm.

    A round's mean is within a step of the true one, entry by entry. With a rate of at most 2 / L,
    L the largest eigenvalue of 2 X'X / n, a round brings no two vectors apart: errors add up.
    """
    limit = len(x) / np.linalg.eigvalsh(x.T @ x)[-1]
    if rate > limit:
        raise click.BadParameter(f"{rate:g} is above {limit:.2g}, where descent diverges")
    return float(rounds * UPDATE.step * x.shape[1] ** 0.5) + FLOAT


def solution(parts: Parts) -> Array:
    """The weights of least squares, from one sum."""
    found = secagg.aggregate(
        [{"xx": x.T @ x, "xy": x.T @ y} for x, y in parts],
        codec=dict.fromkeys(("xx", "xy"), MOMENT),
    )
    if any(found.clipped.values()):
        raise click.ClickException(f"an entry is beyond {MOMENT.clip:g}")
    return np.linalg.solve(found.sum["xx"], found.sum["xy"])


def solution_bound(x: Array, clients: int, weights: Array) -> float:
    """The most by which rounding moved ``weights``, those of ``solution``, in L2 norm.

    Every client rounds by less than a step, so of A w = b the sum has A + E and b + f, each entry
    of E and f within clients * step. A (w + d) = b + f - E (w + d) gives |d| over the smallest
    eigenvalue of A.
    """
    width, smallest = len(weights), np.linalg.eigvalsh(x.T @ x)[0]
    off = clients * MOMENT.step * (width**0.5 + width * np.linalg.norm(weights))
    return float(off / smallest) + FLOAT


def compare(
    test: tuple[Array, Array], central: Array, plain: Array, secure: Array, bound: float
) -> dict[str, float]:
    """Quality of all three, and how far they are apart."""

    def r2(weights: Array) -> float:
        x, y = test
        return float(1 - np.mean((x @ weights - y) ** 2) / np.var(y))

    return {
        "central_r2": r2(central),
        "plain_r2": r2(plain),
        "secure_r2": r2(secure),
        "secure_off": float(np.linalg.norm(secure - central)),
        "bound": bound,
    }


@click.command(
    epilog="""\b
Examples:
  python examples/linear_regression/train.py
  python examples/linear_regression/train.py --data synthetic --clients 10 --json
"""
)
@click.option("--data", type=click.Choice(list(DATA)), default="diabetes", show_default=True)
@click.option("--clients", type=click.IntRange(2, 50), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(1), help="[default: 200, synthetic 10]")
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), help="[default: .1, synthetic .01]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object alone.")
def main(
    *, data: str, clients: int, rounds: int | None, learning_rate: float | None, as_json: bool
) -> None:
    """Fit least squares over clients, by descent and by one sum, and compare with all rows.

    A fifth of the rows is for the test. plain is the same without masks.
    """
    x, y = rows(data)
    held_out = np.arange(len(x)) % 5 == 0
    test, x, y = (x[held_out], y[held_out]), x[~held_out], y[~held_out]
    parts = [(x[client::clients], y[client::clients]) for client in range(clients)]
    rounds, rate = rounds or DATA[data][0], learning_rate or DATA[data][1]

    bound = descent_bound(x, rounds, rate)
    secure, plain = (
        descent(parts, rounds, rate, protocol) for protocol in (secagg.Bonawitz(), secagg.Plain())
    )
    found: dict[str, Any] = {"data": data, "clients": clients, "rounds": rounds}
    found["descent"] = compare(test, central_descent(x, y, rounds, rate), plain, secure, bound)

    secure = solution(parts)
    central = np.linalg.lstsq(x, y)[0]
    open_sum = np.linalg.solve(sum(a.T @ a for a, _ in parts), sum(a.T @ b for a, b in parts))
    bound = solution_bound(x, clients, secure)
    found["solution"] = compare(test, central, open_sum, secure, bound)

    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{data}: {len(x)} rows at {clients} clients; R2 on {len(test[1])} others")
    for way, told in (("descent", f"{rounds} rounds"), ("solution", "one sum")):
        kept = found[way]
        qualities = ", ".join(
            f"{name} {kept[f'{name}_r2']:.4f}" for name in ("central", "plain", "secure")
        )
        click.echo(
            f"{way}, {told}: {qualities}; weights off by {kept['secure_off']:.1e}, at most "
            f"{kept['bound']:.1e}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main()
    except secagg.SecaggError as error:
        sys.exit(f"train.py: {error}")
