"""Writes ``prv_reference.json``: what prv-accountant says of 42 plans.

    pip install prv-accountant==0.2.0 && python tests/dp/accounting/prv_reference.py

Gopi, Lee, Wutschitz, Numerical Composition of Differential Privacy, arXiv 2106.02848. Each line:
rate, steps, noise multiplier, delta, then a lower bound, an estimate and an upper bound of epsilon.
The last eight stand in for plans that did not end within ten minutes each.
"""

import json
from itertools import product
from pathlib import Path

PLANS = [
    *product([0.01], [1000], [0.7, 1.0, 2.0, 5.0], [1e-3, 1e-5, 1e-8, 1e-12]),
    *product([0.001, 0.1], [10, 300], [0.8, 1.5, 4.0], [1e-5]),
    *product([0.5], [10], [0.8, 1.5, 4.0], [1e-5]),
    *((1.0, steps, 10.0, 1e-5) for steps in (1, 30, 300)),
    *((0.05, 100, noise, delta) for noise, delta in ((1.0, 1e-5), (3.0, 1e-7))),
    *((0.2, 50, noise, delta) for noise, delta in ((2.0, 1e-5), (5.0, 1e-6))),
    (0.001, 2000, 1.0, 1e-6),
    (0.02, 400, 1.2, 1e-5),
    (0.3, 20, 3.0, 1e-4),
    (1.0, 100, 20.0, 1e-6),
]


def main() -> None:
    from prv_accountant import (
        GaussianMechanism,
        PoissonSubsampledGaussianMechanism,
        PRVAccountant,
    )

    found = []
    for rate, steps, noise, delta in PLANS:
        step = GaussianMechanism(noise)
        if rate < 1:
            step = PoissonSubsampledGaussianMechanism(
                sampling_probability=rate, noise_multiplier=noise
            )
        for error in (0.001, 0.01, 0.1):
            try:
                accountant = PRVAccountant(
                    prvs=[step],
                    max_self_compositions=[steps],
                    eps_error=error,
                    delta_error=delta / 1000,
                )
                bounds = accountant.compute_epsilon(delta, num_self_compositions=[steps])
            except (MemoryError, RuntimeError, ValueError):
                continue
            found.append([rate, steps, noise, delta, *map(float, bounds)])
            break
    Path(__file__).with_name("prv_reference.json").write_text(
        "[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n"
    )


if __name__ == "__main__":
    main()
