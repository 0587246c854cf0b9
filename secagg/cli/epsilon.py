"""``secagg epsilon``: what a plan costs, or what a budget buys."""

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from typing import Any

import click
from rich.table import Table

from dp.accounting import calibrate
from dp.accounting.accountant import epsilon_pld, epsilon_rdp
from dp.accounting.events import GaussianEvent, NoSampling, PoissonSampling, Sampling
from dp.errors import AccountantLimit
from secagg.cli.screen import screen
from secagg.errors import InputError

_TITLES = {
    "epsilon": "epsilon",
    "noise multiplier": "least noise multiplier",
    "steps": "most steps",
}
_WORDS = {
    "epsilon": (
        "an upper bound; the ledger admits by it",
        "an upper bound",
    ),
    "noise multiplier": (
        "enough by an upper bound; the ledger admits the whole plan",
        "enough by the smaller of both bounds; the ledger would stop the plan early",
    ),
    "steps": (
        "within budget by an upper bound; the ledger admits them all",
        "within budget by the smaller of both bounds; the ledger would stop earlier",
    ),
}


@click.command(
    epilog="""\b
Examples:
  secagg epsilon --noise-multiplier 1.1 --sampling-rate 0.01 --steps 1000 --delta 1e-5
  secagg epsilon --event 1.1,0.01,1000 --event 2,0.05,100 --delta 1e-5 --json
  secagg epsilon --epsilon 2 --sampling-rate 0.05 --steps 100 --delta 1e-5
  secagg epsilon --epsilon 2 --noise-multiplier 1.5 --sampling-rate 0.05 --delta 1e-5
""",
)
@click.option(
    "--noise-multiplier", type=float, help="Standard deviation of the noise, divided by the clip."
)
@click.option(
    "--sampling-rate",
    type=float,
    help="Probability that an example is in a batch (Poisson sampling).  [default: 1, all]",
)
@click.option("--steps", type=int, help="Number of noisy sums that are released.")
@click.option("--epsilon", type=float, help="Privacy budget; the answer is then noise or steps.")
@click.option(
    "--delta",
    type=float,
    required=True,
    help="Probability that epsilon fails: far below one over the number of examples.",
)
@click.option(
    "--event",
    "events",
    metavar="Z,Q,T",
    multiple=True,
    help="A plan of T steps, noise multiplier Z, sampling rate Q; may be repeated.",
)
@click.option(
    "--pld-discretization",
    type=float,
    help="Grid of privacy losses for the PLD accountant.  [default: by steps and spread]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON alone; null: no finite answer.")
def epsilon(*, as_json: bool, **given: Any) -> None:
    """Compute the epsilon, noise or steps of a plan.

    Give two of --epsilon, --noise-multiplier and --steps; the third is the answer.
    Or give whole plans with --event. The answer holds for one example more or less,
    Gaussian noise on sums of clipped contributions, and settings that were fixed in advance.
    """
    asked = _Asked(**given)
    question, rdp, pld = asked.answered()
    if as_json:
        answers = {"rdp": rdp, "pld": pld}
        head = {"question": question.replace(" ", "_"), "delta": asked.delta}
        finite = {name: x if x < math.inf else None for name, x in answers.items()}
        click.echo(
            json.dumps(
                head | {"pld_discretization": asked.pld_discretization} | finite, allow_nan=False
            )
        )
        return
    table = Table(title=f"{_TITLES[question]} at delta {asked.delta:g}", title_justify="left")
    for heading in ("accountant", question, "what it is"):
        table.add_column(heading, justify="right" if heading == question else "left")
    for name, value, words in zip(("RDP", "PLD"), (rdp, pld), _WORDS[question], strict=True):
        if question == "epsilon" and value == min(rdp, pld) < math.inf:
            table.add_row(name, _rounded_up(value), f"{words}; the smaller, so a report prints it")
        elif value < math.inf:
            table.add_row(name, _rounded_up(value), words)
        else:
            table.add_row(name, "none", "no finite bound here")
    screen().print(table)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The options as they were given."""

    noise_multiplier: float | None
    sampling_rate: float | None
    steps: int | None
    epsilon: float | None
    delta: float
    events: tuple[str, ...]
    pld_discretization: float | None

    def answered(self) -> tuple[str, float, float]:
        """What was asked for, by RDP and by PLD."""
        given = {
            "epsilon": self.epsilon,
            "noise multiplier": self.noise_multiplier,
            "steps": self.steps,
        }
        wanted = [name for name, value in given.items() if value is None]
        if self.steps is not None and self.steps < 1:
            raise InputError(f"--steps {self.steps} must be 1 or more: nothing would be released")
        rate = 1.0 if self.sampling_rate is None else self.sampling_rate
        plan: dict[str, Any] = {"sampling": _sampling(rate), "delta": self.delta}
        by_pld: dict[str, Any] = {
            "accountant": "pld",
            "pld_discretization": self.pld_discretization,
        }
        if self.events or wanted == ["epsilon"]:
            if self.events and (len(wanted) < len(given) or self.sampling_rate is not None):
                raise InputError("--event says the whole plan; leave out the other settings of it")
            whole = [_event(text) for text in self.events] or [
                _gaussian(self.noise_multiplier, rate, self.steps)
            ]
            composition = [(event, 1) for event in whole]
            pld = math.inf
            with suppress(AccountantLimit):  # RDP has an answer all the same
                pld = epsilon_pld(composition, self.delta, self.pld_discretization)
            return "epsilon", epsilon_rdp(composition, self.delta), pld
        if wanted == ["noise multiplier"]:
            plan |= {"epsilon": self.epsilon, "steps": self.steps}
            solve: Any = calibrate.noise_multiplier
        elif wanted == ["steps"]:
            plan |= {"epsilon": self.epsilon, "noise_multiplier": self.noise_multiplier}
            solve = calibrate.max_steps
        else:
            raise InputError(
                "give two of --epsilon, --noise-multiplier and --steps, or --event; "
                f"of the three you gave {len(given) - len(wanted)}"
            )
        return wanted[0], solve(**plan), solve(**plan, **by_pld)


def _event(text: str) -> GaussianEvent:
    """An event from Z,Q,T."""
    try:
        noise, rate, steps = text.split(",")
        return _gaussian(float(noise), float(rate), int(steps))
    except ValueError as error:
        raise InputError(f"--event {text!r} is not Z,Q,T: {error}") from error


def _gaussian(noise: Any, rate: float, steps: Any) -> GaussianEvent:
    return GaussianEvent(noise_multiplier=noise, sampling=_sampling(rate), steps=steps)


def _sampling(rate: float) -> Sampling:
    sampling = PoissonSampling(rate=rate)  # which checks it
    return sampling if sampling.rate < 1 else NoSampling()


def _rounded_up(value: float) -> str:
    """Five digits that never flatter: noise, epsilon and whole steps alike."""
    if isinstance(value, int):
        return str(value)
    return f"{Context(prec=5, rounding=ROUND_CEILING).create_decimal(value):f}"
