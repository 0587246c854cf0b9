"""A study of four hospitals: what each gains by taking part, and a privacy ledger at each.

The 920 patients of the UCI heart disease data [JSPD88] are each at the hospital that examined them.
Every hospital trains a logistic regression alone; then all train one together, in plain, under
masks, and with noise that hides each patient. Every hospital charges its own ledger before its
share of a noised sum leaves, and ``secagg audit`` reads all four.

All hospitals are one process here. The same study between machines is examples/flower, whose data
and model these are.

[JSPD88]: Janosi, Steinbrunn, Pfisterer, Detrano, UCI Machine Learning Repository,
https://doi.org/10.24432/C52P4X, CC BY 4.0.
"""

import json
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import track

import secagg
from dp.ledger import Budget, Ledger, LedgerOwner
from dp.noise import DistributedNoise
from secagg.planning import NoiseWishes, SumWishes, plan_noise

# A Flower app is packed with its folder alone, so what is shared lies there.
sys.path.insert(0, str(Path(__file__).parents[1] / "flower"))

from hospitals import task

Patients = Sequence[task.Patients]

STEPS, RATE = 20, 0.1  # of descent at a hospital, each round
CLIP = 0.5  # one round moves no weight by more
PATIENT_CLIP, NOISY_RATE = 2.0, 1.0  # L2 norm of one patient's gradient; and the step with noise
LEAST = 3  # hospitals in a sum: of two, each has the other's
everybody = tuple(range(len(task.HOSPITALS)))
local = partial(task.train, steps=STEPS, learning_rate=RATE)


def plain(weights: task.Array, patients: Patients) -> task.Array:
    """A round in which the server sees every hospital's weights."""
    trained = [local(weights, each) for each in patients]
    return np.average(trained, axis=0, weights=[len(each) for each in patients])


def masked(weights: task.Array, patients: Patients) -> task.Array:
    """The same round, of which nobody sees more than the mean."""
    found = secagg.aggregate(
        [{"w": local(weights, each)} for each in patients],
        start={"w": weights},
        clip=CLIP,
        weights=[len(each) for each in patients],
        protocol=secagg.Bonawitz(minimum_survivors=LEAST),
    )
    return found.mean["w"]


class Noisy:
    """Rounds with noise that hides each patient; every hospital keeps its own books."""

    def __init__(self, patients: Patients, rounds: int, epsilon: float, delta: float, out: Path):
        wishes = SumWishes(
            clients=len(patients), rounds=rounds, entries=task.FEATURES, clip=PATIENT_CLIP
        )
        noise = NoiseWishes(
            epsilon=epsilon,
            delta=delta,
            unit="example",
            examples=sum(map(len, patients)),
            max_batch=max(map(len, patients)),
            minimum_survivors=LEAST,
        )
        advice = plan_noise(wishes, noise, measure=False)
        self.mechanism: DistributedNoise = advice.mechanism
        self.places = [out / f"{name.lower().replace(' ', '-')}.sqlite" for name in task.HOSPITALS]
        if old := [place for place in self.places if place.exists()]:
            raise secagg.InputError(
                f"{old[0]} is the ledger of another study; choose another --out"
            )
        out.mkdir(parents=True, exist_ok=True)
        budget = Budget(epsilon=epsilon, delta=advice.delta.accountant)
        self.ledgers = [
            Ledger.create(place, budget, keeper=LedgerOwner.CLIENT) for place in self.places
        ]
        self.round = 0

    def __call__(self, weights: task.Array, patients: Patients) -> task.Array:
        self.round, seed = self.round + 1, secrets.token_bytes(32)
        shares = []
        for name, each, ledger in zip(task.HOSPITALS, patients, self.ledgers, strict=True):
            ledger.reserve(
                self.round, {name: self.mechanism.event()}, minimum_survivors=LEAST
            )  # before anything leaves
            gradient = task.clipped_sum(weights, each, clip=PATIENT_CLIP)
            shares.append(self.mechanism.encode(gradient, seed=seed))
        found = secagg.aggregate(
            shares,
            codec=secagg.NoisyIntegers(bits=self.mechanism.bits),
            protocol=secagg.Bonawitz(minimum_survivors=LEAST),
        )
        total = self.mechanism.decode(found.sum, seed=seed)
        moved = weights - NOISY_RATE * total / sum(map(len, patients))
        for name, ledger in zip(task.HOSPITALS, self.ledgers, strict=True):
            ledger.commit(self.round, [name], survivors=len(found.survivors))
            ledger.release(self.round, secagg.model_digest({"w": moved}))
        return moved


def trained(
    step: Callable[[task.Array, Patients], task.Array], patients: Patients, rounds: Iterable[int]
) -> task.Array:
    """The weights after so many rounds from zeros."""
    weights = np.zeros(task.FEATURES)
    for _ in rounds:
        weights = step(weights, patients)
    return weights


@click.command(
    epilog="""\b
Examples:
  python examples/hospitals/train.py
  python examples/hospitals/train.py --epsilon 2 --fold 1 --out runs/fold-1 --json
  secagg audit runs/hospitals/*.sqlite
"""
)
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True)
@click.option("--epsilon", type=float, default=4.0, show_default=True, help="Of each patient.")
@click.option("--delta", type=float, default=1e-4, show_default=True)
@click.option(
    "--fold", type=click.IntRange(0, 4), default=0, show_default=True, help="The fifth held out."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/hospitals"),
    show_default=True,
    help="Folder of the four ledgers.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object alone.")
def main(*, rounds: int, epsilon: float, delta: float, fold: int, out: Path, as_json: bool) -> None:
    """Train at each hospital alone and at all together, and compare on patients held out."""
    pairs = [task.load(hospital, fold=fold) for hospital in everybody]
    patients, held_out = zip(*pairs, strict=True)
    pooled = task.Patients(
        np.concatenate([each.features for each in patients]),
        np.concatenate([each.ill for each in patients]),
    )
    noisy = Noisy(patients, rounds, epsilon, delta, out)
    screen = Console(stderr=True)

    def watched(told: str) -> Iterable[int]:
        hidden = not screen.is_terminal
        return track(range(rounds), told, console=screen, transient=True, disable=hidden)

    alone = [trained(plain, [each], watched("alone")) for each in patients]
    together = {
        "central": trained(plain, [pooled], watched("central")),
        "plain": trained(plain, patients, watched("plain")),
        "masked": trained(masked, patients, watched("masked")),
        "noisy": trained(noisy, patients, watched("noisy")),
    }
    rows = {}
    for name, mine, tests in zip(task.HOSPITALS, alone, held_out, strict=True):
        models = {"alone": mine, **together}
        right = {each: round(task.accuracy(w, tests) * len(tests)) for each, w in models.items()}
        rows[name] = {"held_out": len(tests), "right": right}
    people = sum(row["held_out"] for row in rows.values())
    accuracy = {
        each: sum(row["right"][each] for row in rows.values()) / people
        for each in ("alone", *together)
    }
    off = float(np.abs(together["masked"] - together["plain"]).max())
    ledgers = [str(place) for place in noisy.places]
    found: dict[str, Any] = {"rounds": rounds, "epsilon": epsilon, "delta": delta, "fold": fold}
    found |= {"hospitals": rows, "accuracy": accuracy, "masked_off": off, "ledgers": ledgers}
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'right of those held out':24}" + "".join(f"{each:>9}" for each in accuracy))
    for name, row in rows.items():
        told = f"{name}, of {row['held_out']}"
        click.echo(f"{told:24}" + "".join(f"{right:9}" for right in row["right"].values()))
    click.echo(f"{'accuracy':24}" + "".join(f"{value:9.3f}" for value in accuracy.values()))
    click.echo(f"noise hides each patient: epsilon {epsilon:g} at delta {delta:g}")
    click.echo(f"audit: secagg audit {' '.join(ledgers)}")


if __name__ == "__main__":
    try:
        main()
    except (secagg.SecaggError, secagg.PrivacyError, OSError) as error:
        sys.exit(f"train.py: {error}")
