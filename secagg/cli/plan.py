"""``secagg plan``: from clients, dropouts and a budget to every parameter of a sum."""

import json
import math
from dataclasses import fields
from typing import Any

import click
from rich.table import Table

from secagg.cli.screen import JSON, screen
from secagg.errors import InputError
from secagg.planning import Advice, NoiseAdvice, NoiseWishes, SumWishes, plan_noise, plan_sum
from secagg.training.settings import UNITS


@click.command(
    epilog="""\b
Examples:
  secagg plan --clients 1000
  secagg plan --clients 1000 --corrupt-fraction 0.33 --dropout 0.05 --active
  secagg plan --clients 100 --entries 124000000 --bits 14 --rounds 50 --json
  secagg plan --clients 100 --epsilon 2 --delta 1e-5 --examples 60000 --rounds 100
  secagg plan --clients 500 --epsilon 4 --delta 1e-4 --unit client --rounds 20
"""
)
@click.option("--clients", type=int, required=True, help="Number of clients that start a round.")
@click.option(
    "--corrupt-fraction",
    default="0.05",
    show_default=True,
    help="Fraction of the clients that may collude with the server.",
)
@click.option(
    "--dropout", default="0.1", show_default=True, help="Fraction of clients that may drop out."
)
@click.option("--active", is_flag=True, help="Plan for a malicious server, not a curious one.")
@click.option("--entries", type=int, default=10**6, show_default=True, help="Numbers in a vector.")
@click.option(
    "--clip",
    type=float,
    default=1.0,
    show_default=True,
    help="Largest magnitude of an entry; with --epsilon: L2 bound on one example or client.",
)
@click.option(
    "--bits",
    type=int,
    help="Bits of a quantised entry; with --epsilon: of a sum.  [default: 16, or chosen]",
)
@click.option("--rounds", type=int, default=1, show_default=True, help="Number of sums.")
@click.option(
    "--epsilon",
    type=float,
    help="Privacy budget over all rounds: plan distributed noise too.",
)
@click.option(
    "--delta",
    type=float,
    help="Probability that epsilon fails: below 1 / examples, or 1 / clients.",
)
@click.option(
    "--unit",
    help=f"Whom the noise hides: {' or '.join(UNITS)}.  [default: {UNITS[0]}]",
)
@click.option(
    "--examples", type=int, help="Number of examples of all clients together, for unit example."
)
@click.option(
    "--max-batch",
    type=int,
    help="Largest number of examples of one client.  [default: an even share]",
)
@click.option("--sampling-rate", type=float, help="Probability that an example is in a batch.")
@click.option(
    "--client-sampling-rate",
    type=float,
    help="Probability that a client, drawn in secret by itself, contributes its update.",
)
@click.option(
    "--minimum-survivors",
    type=int,
    help="Clients refuse to open a sum of fewer.  "
    "[default: the largest minimum at which at most 5 % of runs lose a round]",
)
@click.option(
    "--uncounted-shares",
    type=int,
    help="Noise shares that may be known or missing, and so count for nothing.  "
    "[default: those of the corrupt clients, at least 1]",
)
@JSON
def plan(*, as_json: bool, **wanted: Any) -> None:
    """Choose the parameters of a sum, and say its cost.

    These are graph, threshold and lanes, the integers packed in a 64-bit word; with
    --epsilon also noise, scale and the fewest survivors: the narrowest lanes with at most
    1 % more noise than the widest. Bytes are exact. Milliseconds are an estimate for one
    idle core of this machine. Probabilities that the graph fails, or that a lane wraps
    around, are upper bounds.
    """
    given = {name: value for name, value in wanted.items() if value is not None}
    noise = {each.name: given.pop(each.name) for each in fields(NoiseWishes) if each.name in given}
    wishes = SumWishes(**given)
    advice: Advice | NoiseAdvice
    if not noise:
        advice = plan_sum(wishes)
    elif "epsilon" not in noise:
        option = next(iter(noise)).replace("_", "-")
        raise InputError(f"--{option} is about noise; give the budget too, --epsilon")
    elif "delta" not in noise:
        raise InputError("--epsilon needs --delta, below one over the number of units")
    else:
        advice = plan_noise(wishes, NoiseWishes(**noise))
    if as_json:
        click.echo(json.dumps(advice.as_dict()))
        return
    out = screen()
    if isinstance(advice, NoiseAdvice):
        table = _table(advice.sum, f"{advice.sum.bits} bits for a total")
        _add_noise(table, advice)
        out.print(table)
        out.print(f"{_in_words(advice.sum)} {_noise_in_words(advice)}")
    else:
        out.print(_table(advice, f"{advice.bits} bits for +-{advice.clip:g}"))
        out.print(_in_words(advice))


def _table(advice: Advice, step: str) -> Table:
    of = advice.clients if advice.graph == "complete" else advice.degree
    table = Table("what", "value", "of which")
    picked = advice.active and advice.graph == "sparse"
    of_each = "holders that each client picks" if picked else "neighbours a client"
    table.add_row("graph", advice.graph, f"{advice.degree:,} {of_each}")
    table.add_row("threshold", f"{advice.threshold:,} shares", f"of {of:,} rebuild a secret")
    table.add_row("masks", f"{advice.masks:,} a client", "and one of its own")
    if advice.quorum:
        table.add_row("quorum", f"{advice.quorum:,} clients", "sign the one set of survivors")
    if advice.alpha is not None and advice.left_out is not None:
        corrupt = int(advice.corrupt_fraction * advice.clients)
        table.add_row("one sum", f"{corrupt + advice.left_out:,} fewer", "at most, than are signed")
        table.add_row("", f"{corrupt:,} corrupt", f"and {advice.left_out:,} that are left out")
        table.add_row("no sum", f"up to {advice.alpha:,}", "honest clients, however many sign")
    table.add_row("step", f"{advice.step:.3g}", step)
    table.add_row("lanes", f"{advice.lanes} a word", f"of {advice.lane_bits} bits")
    table.add_row("words", f"{advice.words:,}", f"for {advice.entries:,} entries")
    table.add_section()
    for name, total, part in (
        ("up, a client", advice.bytes_up_per_client, "bytes_up"),
        ("down, a client", advice.bytes_down_per_client, "bytes_down"),
    ):
        stages = [
            f"{stage} {_size(size)}"
            for stage, cost in advice.traffic.items()
            if (size := getattr(cost, part))
        ]
        table.add_row(name, _size(total), "\n".join(stages))
    table.add_row(
        "bits an entry", f"{advice.bits_per_entry:.3g}", f"{advice.expansion:.2f} times plain fp32"
    )
    if advice.client_milliseconds is not None and advice.server_milliseconds is not None:
        table.add_section()
        lost = f"{float(advice.dropout):.1%} of the clients lost"
        table.add_row("client", f"{advice.client_milliseconds:,.0f} ms", "one idle core, estimate")
        table.add_row("server", f"{advice.server_milliseconds:,.0f} ms", f"the same, {lost}")
    table.add_section()
    for name, any_round in (
        ("unsafe graph", advice.p_insecure_any_round),
        ("failed round", advice.p_failure_any_round),
    ):
        most = "at most, " if any_round else ""  # 0 is exact: it cannot happen
        shown = _power_of_two(any_round) if any_round else "0"
        table.add_row(name, shown, f"{most}in {_rounds(advice.rounds)}")
    return table


def _in_words(advice: Advice) -> str:
    if advice.graph == "complete":
        shares, holders = f"all {advice.degree:,} others", f"the {advice.clients:,}"
        lost = advice.clients
    else:
        shares, holders = f"{advice.degree:,} of {advice.clients:,}", "them"
        lost = int(advice.dropout * advice.clients)
    lost = min(lost, advice.clients - advice.minimum_survivors)
    return (
        f"Each client shares with {shares}; any {advice.threshold:,} of {holders} can stand in "
        f"for one that is gone, and {lost:,} may drop out. "
        f"It sends {_size(advice.bytes_up_per_client)}, "
        f"{advice.expansion:.2f} times a plain fp32 vector."
    )


def _add_noise(table: Table, advice: NoiseAdvice) -> None:
    """Rows below those of the sum."""
    mechanism, rounds = advice.mechanism, advice.sum.rounds
    survivors, unit = advice.expected_survivors, mechanism.unit.value
    counted = f"{mechanism.minimum_survivors:,} - {mechanism.uncounted_shares:,} shares"
    table.add_section()
    for name, value, words in (
        ("noise", f"{mechanism.noise_multiplier:.4g} x clip", f"from {counted}"),
        ("of one client", f"{mechanism.share_stddev:.4g}", "deviation of an entry"),
        ("in the sum", f"{mechanism.stddev(survivors):.4g}", f"{survivors:,} survivors"),
        ("in the mean", f"{advice.mean_stddev:.3g}", "the same, an entry"),
        ("scale", f"{mechanism.scale:.6g}", "integers per unit, after a rotation"),
        (
            "rounding",
            f"{mechanism.sensitivity_inflation:.5f}",
            f"x one {unit}, at most, in the price",
        ),
        ("lanes cost", f"{advice.more_noise:.2%}", "more noise than the widest would"),
        (
            "epsilon",
            f"{_up(advice.epsilon_planned)}",
            f"at delta {advice.delta.total:.3g}, reserved for each of {advice.units:,} {unit}s",
        ),
        ("spent", f"{_up(advice.epsilon_expected)}", f"if {survivors:,} always survive"),
        ("sampler", _power_of_two(mechanism.sampler_error), "from the exact law, a draw"),
        ("a lane wraps", _power_of_two(advice.p_wrap_any_round), f"at most, in {_rounds(rounds)}"),
        (
            "lost round",
            f"{advice.p_round_lost:.2g}",
            f"each: below {mechanism.minimum_survivors:,} survivors",
        ),
    ):
        table.add_row(name, value, words)


def _noise_in_words(advice: NoiseAdvice) -> str:
    minimum = advice.mechanism.minimum_survivors
    if advice.trusts_count:
        return (
            "Nobody but the server counts the survivors of a sparse graph: "
            f"that {minimum:,} brought their noise is its word."
        )
    return f"Clients refuse to open a sum of fewer than {minimum:,}, which would lack noise."


def _up(epsilon: float) -> str:
    """Three places, never below."""
    return f"{math.ceil(1000 * epsilon) / 1000:.3f}"


def _rounds(count: int) -> str:
    return f"{count:,} rounds" if count > 1 else "one round"


def _power_of_two(probability: float) -> str:
    """1e-13 -> 2^-43.2 (1e-13); a bound that underflowed is not 0."""
    if probability < 2.0**-1000:
        return "below 2^-1000"
    if probability >= 1:
        return f"{probability:.0f}"
    return f"2^{math.log2(probability):.1f} ({probability:.1g})"


def _size(count: int) -> str:
    """4001234 -> 4.00 MB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count} B"
