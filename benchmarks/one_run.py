"""What one run of canaries proves, by both bounds, of noise whose epsilon is known.

    python benchmarks/one_run.py > benchmarks/results/one_run.json

Each of 500 canaries is one entry of its own, with Gaussian noise of deviation one; medians of 60
runs. Then how often each bound, of 100 guesses, refutes epsilon 2 of half of its noise, and of all.
"""

import json
from statistics import median
from typing import Any

import numpy as np

from dp.accounting import GaussianEvent, NoSampling, calibrate_noise, epsilon_pld
from dp.empirical import gaussian_lower_bound, guess, include_canaries, lower_bound, normals

CANARIES, RUNS, DELTA = 500, 60, 1e-5
GUESSES = (500, 250, 100, 50)


def bounds(deviation: float, guesses: int) -> tuple[float, float]:
    coins = include_canaries(CANARIES)
    found = guess(coins + deviation * normals(CANARIES), coins, count=guesses)
    args = (found.canaries, found.made, found.correct)
    return (
        lower_bound(*args, delta=DELTA).epsilon,
        gaussian_lower_bound(*args, delta=DELTA).epsilon,
    )


def gaussian(noise_multiplier: float) -> GaussianEvent:
    return GaussianEvent(noise_multiplier=noise_multiplier, sampling=NoSampling())


def main() -> dict[str, Any]:
    rows = []
    for guesses in GUESSES:
        found = np.array([bounds(1.0, guesses) for _ in range(RUNS)])
        rows.append({"guesses": guesses, "bounds": [median(each) for each in found.T.tolist()]})
    noise = calibrate_noise(gaussian, epsilon=2.0, delta=DELTA, accountant="pld")
    refuted = {
        part: (np.array([bounds(part * noise, 100) for _ in range(RUNS)]) > 2.0).sum(0).tolist()
        for part in (0.5, 1.0)
    }
    return {
        "canaries": CANARIES,
        "runs": RUNS,
        "delta": DELTA,
        "truth": epsilon_pld([(gaussian(1.0), 1)], delta=DELTA),
        "rows": rows,
        "refuted": refuted,
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
