"""Masks on a CUDA device: words checked first, then how fast, beside what its arithmetic allows.

    python benchmarks/gpu.py [--json benchmarks/results/gpu.json]

Takes under four minutes. Without a device it says so and measures nothing.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np

from protocols.primitives.prg import SEED_SIZE, Mask, Masks, Suite
from protocols.secrets import Secret
from secagg.rounds.device import DeviceMasks, why_not
from secagg.vectors.packing import word_count

ENTRIES, LANES, PEERS = 124_000_000, 3, 100  # GPT-2 small, among a hundred clients
INSTRUCTIONS = 1064  # of a thread for 64 bytes of one seed: 74 and ten times 99, for sm_90
LANES_A_CLOCK = 128  # of integer instructions that a multiprocessor issues [CUDA C++ guide]
FLOOR, AIM = 400e9, 700e9  # bytes of keystream a second


def some_masks(count: int) -> list[Mask]:
    return [
        Mask(seed=Secret(os.urandom(SEED_SIZE)), label=b"bench", subtract=bool(number % 2))
        for number in range(count)
    ]


def checked() -> None:
    """Exit unless the device makes the words of the suite."""
    masks = some_masks(9)
    streams, plain = DeviceMasks(masks, "cuda"), Masks(masks, Suite.CHACHA20)
    for length in (1, 7, 8, 1001, 2**20 + 3):
        found, expected = np.ones(length, np.uint64), np.ones(length, np.uint64)
        streams.apply_to(found)
        plain.apply_to(expected)
        if not np.array_equal(found, expected):
            sys.exit(f"wrong words on the device, of {length}")


def clock() -> float:
    """The highest clock of the multiprocessors, Hz; not a number where the driver does not say."""
    asked = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        return 1e6 * float(told.splitlines()[0])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return math.nan


def seconds(work: Callable[[], None], repeats: int) -> float:
    """The median, after one that is not counted."""
    import torch

    took = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - begin)
    return median(took[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    asked = parser.parse_args()
    if why := why_not(Suite.CHACHA20):
        parser.exit(2, f"nothing was measured: {why}\n")
    import torch

    checked()
    about = torch.cuda.get_device_properties(0)
    limit = about.multi_processor_count * LANES_A_CLOCK * clock() / INSTRUCTIONS * 64
    words = word_count(ENTRIES, LANES)
    there = torch.zeros(words, dtype=torch.int64, device="cuda")
    masks = some_masks(PEERS)
    took = seconds(lambda: DeviceMasks(masks, "cuda").apply_to_tensor(there), 5)
    small = there[: 2**20]
    few = seconds(lambda: DeviceMasks(masks, "cuda").apply_to_tensor(small), 20)
    rate = 8 * words * PEERS / took
    host = np.zeros(words, np.uint64)
    through = seconds(lambda: DeviceMasks(masks, "cuda").apply_to(host), 3)
    found = {
        "device": about.name,
        "torch": torch.__version__,
        "triton": version("triton"),
        "keystream_bytes_a_second": rate,
        "limit_bytes_a_second": None if math.isnan(limit) else limit,
        "of_the_limit": None if math.isnan(limit) else rate / limit,
        "seconds": {
            f"{ENTRIES} entries, {LANES} a word, {PEERS} masks": took,
            "the same, words of the host": through,
            f"{len(small)} words, {PEERS} masks": few,
        },
        "floor_met": rate >= FLOOR,
        "aim_met": rate >= AIM,
    }
    text = json.dumps(found, indent=1)
    print(text)
    if not math.isfinite(rate):
        sys.exit("no rate came out")
    if asked.json:
        asked.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
