"""What masked sums among ranks cost: ``python benchmarks/bench_ranks.py [--json] [PART ...]``.

Ranks are processes of this machine over gloo, each on one thread. Plain and secure are measured in
turn, and of each the median is printed: processor time an entry beyond the plain all-reduce of as
many float32 (of a rank, with gloo's own threads), and the ratio of the clock on the wall, which
says little where ranks share cores. ``words alone`` is the all-reduce of as many masked words: what
is beyond it, too, is a rank's own work. The last line is a step of a GPT of 11.5 million parameters
under DDP, plain and secure.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from secagg.adapters.torch_distributed import SecureGroup, secure_all_reduce, secure_ddp

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "ddp"))

from gpt import TOKENS, WORDS, Gpt

RANKS = 4
ENTRIES = 25 * 2**20 // 4  # of a bucket of DDP, float32
TURNS = 11
BATCH = 4


def in_turn(contenders: dict[str, Callable[[], Any]]) -> dict[str, list[tuple[float, float]]]:
    """Processor and wall seconds of each, in turn; the first turn is not counted."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(TURNS + 1):
        for name, run in contenders.items():
            dist.barrier()
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            seconds = time.process_time() - cpu, time.perf_counter() - wall
            dist.barrier()
            if turn:
                found[name].append(seconds)
    return found


def against_plain(
    found: dict[str, list[tuple[float, float]]], entries: int
) -> dict[str, dict[str, float]]:
    """Of each but plain: ns of processor an entry beyond plain; quartiles of wall over plain."""
    beside = {}
    for name in [name for name in found if name != "plain"]:
        pairs = list(zip(found[name], found["plain"], strict=True))
        beyond = median((own[0] - plain[0]) / entries * 1e9 for own, plain in pairs)
        low, middle, high = quantiles([own[1] / plain[1] for own, plain in pairs], n=4)
        beside[name] = {"ns_beyond_plain": beyond, "wall": middle, "low": low, "high": high}
    return beside


def all_reduce(rank: int) -> dict[str, Any]:
    base = torch.empty(ENTRIES).uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(rank))
    groups = {
        "3 lanes, nearest": SecureGroup(clip=1.0),
        "3 lanes, stochastic": SecureGroup(clip=1.0, rounding="stochastic"),
        "2 lanes, nearest": SecureGroup(clip=1.0, lanes=2),
    }
    tensor = base.clone()

    def run(group: SecureGroup | None) -> None:
        if group is None:
            dist.all_reduce(tensor)
        else:
            secure_all_reduce(tensor, group)
        tensor.copy_(base)  # in every contender alike

    words = torch.zeros(-(-ENTRIES // 3) + 2, dtype=torch.int64)
    contenders = {
        "plain": lambda: run(None),
        "3 lanes, words alone": lambda: dist.all_reduce(words),
    } | {name: lambda group=group: run(group) for name, group in groups.items()}
    found = in_turn(contenders)
    return {"entries": ENTRIES, "beside": against_plain(found, ENTRIES)}


def ddp(rank: int) -> dict[str, Any]:
    torch.manual_seed(rank)
    tokens = torch.randint(0, WORDS, (BATCH, TOKENS + 1))
    steps: dict[str, Callable[[], Any]] = {}
    entries = 0
    for name in ("plain", "secure"):
        torch.manual_seed(0)
        model = DistributedDataParallel(Gpt())
        if name == "secure":
            secure_ddp(model, clip=8.0)
        entries = sum(parameter.numel() for parameter in model.parameters())
        optimizer = torch.optim.SGD(model.parameters(), 0.01)

        def step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            logits = model(tokens[:, :-1])
            nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            optimizer.step()

        steps[name] = step
    found = in_turn(steps)
    plain = median(wall for _, wall in found["plain"])
    return {"entries": entries, "plain_seconds": plain, "beside": against_plain(found, entries)}


def say(part: str, said: dict[str, Any]) -> None:
    print(f"{part}: {said['entries']} entries on {RANKS} ranks, {os.cpu_count()} cores")
    for name, own in said["beside"].items():
        print(
            f"{name:28} {own['ns_beyond_plain']:6.2f} ns of processor an entry beyond plain;  "
            f"wall {own['wall']:.2f} x plain ({own['low']:.2f} to {own['high']:.2f})",
            flush=True,
        )


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {"all-reduce": all_reduce, "ddp": ddp}


def work(rank: int, store: str, parts: list[str], as_json: bool) -> None:  # noqa: FBT001  # spawned
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(minutes=2),
    )
    found = {part: PARTS[part](rank) for part in parts}
    if rank == 0 and as_json:
        print(json.dumps(found))
    elif rank == 0:
        for part, said in found.items():
            say(part, said)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    chosen = [word for word in sys.argv[1:] if word != "--json"] or list(PARTS)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (f"{folder}/store", chosen, "--json" in sys.argv), nprocs=RANKS)
