"""Our PLD against another accountant's bounds, written down by ``prv_reference.py``."""

import json
from pathlib import Path

import pytest

from dp.accounting.accountant import epsilon_rdp, reported_epsilon
from dp.accounting.events import GaussianEvent, NoSampling, PoissonSampling

REFERENCE = json.loads(Path(__file__).with_name("prv_reference.json").read_text())


@pytest.mark.parametrize("line", REFERENCE, ids=lambda line: " ".join(map(str, line[:4])))
def test_no_epsilon_is_below_the_lower_bound_of_another_accountant(line: list[float]) -> None:
    rate, steps, noise, delta, low, estimate, high = line
    event = GaussianEvent(
        noise_multiplier=noise,
        sampling=PoissonSampling(rate=rate) if rate < 1 else NoSampling(),
        steps=int(steps),
    )
    found = reported_epsilon({event: 1}, delta).epsilon
    assert low <= found <= epsilon_rdp({event: 1}, delta)
    if delta >= 1e-10:
        assert found <= max(1.01 * estimate, high)  # whose interval is wider than 1 % once
