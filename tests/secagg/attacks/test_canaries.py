"""Planted canaries: bounds below epsilon on sound mechanisms, and above it on broken ones."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from dp import sgd
from dp.accounting.events import Unit
from dp.empirical import Estimate, LowerBound, from_json
from dp.errors import PrivacyError
from dp.ledger import Budget
from dp.noise import mechanisms
from secagg.attacks.canaries import EmpiricalAudit, client_cosines, one_run
from secagg.errors import InputError


def fixed(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


@pytest.mark.parametrize("mechanism", ["local", "distributed"])
def test_what_is_proved_of_a_sound_mechanism_is_below_its_epsilon(mechanism: Any) -> None:
    audits = [one_run(mechanism, entropy=fixed(seed)) for seed in range(2)]
    for audit in audits:
        assert audit.stated == pytest.approx(2.0, abs=1e-3)
        assert not audit.refuted
        assert isinstance(audit.found, LowerBound)
        assert audit.found.epsilon < audit.stated
    assert max(audit.found.epsilon for audit in audits) > 0  # it has power at all


def forget_noise(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Both mechanisms add this share of the deviation that their accountants believe in."""

    source = np.random.default_rng(7)

    class Sampler:
        error = 0.0

        def __init__(self, deviation: float) -> None:
            self.deviation = share * deviation

        def sample(self, count: int, *, entropy: object) -> np.ndarray:
            drawn = source.normal(0, self.deviation, count)
            return np.rint(drawn).astype(np.int64)

    monkeypatch.setattr(sgd, "BinnedGaussianSampler", Sampler)
    monkeypatch.setattr(
        mechanisms, "_sampler", lambda noise, variance: Sampler(math.sqrt(variance))
    )


@pytest.mark.parametrize("share", [0.0, 0.125])
@pytest.mark.parametrize("mechanism", ["local", "distributed"])
def test_noise_that_is_missing_is_found(
    mechanism: Any, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_noise(monkeypatch, share)
    audit = one_run(mechanism, entropy=fixed(1))
    assert audit.stated == pytest.approx(2.0, abs=1e-3)  # what the books would still say
    assert audit.refuted
    assert audit.found.epsilon > 2.5
    assert audit.as_dict()["refuted"] is True


def test_half_of_the_noise_is_found_by_the_gaussian_curve_more_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget_noise(monkeypatch, 0.5)
    runs = [one_run("local", entropy=fixed(seed)) for seed in range(6)]
    found = [sum(one.refuted for one in runs), sum(one.as_gaussian().refuted for one in runs)]
    assert found[1] >= 3 > 1 >= found[0]


def test_the_gaussian_curve_of_a_sound_mechanism_is_not_refuted() -> None:
    whole = one_run("local", entropy=fixed(1)).as_gaussian()
    assert not whole.refuted
    assert EmpiricalAudit.from_dict(whole.as_dict()) == whole


def test_shares_of_skellam_noise_claim_no_gaussian_curve() -> None:
    with pytest.raises(InputError, match="only local"):
        one_run("distributed", canaries=50, guesses=10, entropy=fixed(1)).as_gaussian()


def test_the_whole_noise_put_in_by_the_planted_sampler_is_not_found_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget_noise(monkeypatch, 1.0)
    assert not one_run("distributed", entropy=fixed(1)).refuted


def test_clipping_that_is_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients four times too long, as a loss scaled by 4 makes them, under a clip left out."""

    def unclipped(self: Any, *, scale: float) -> Iterator[Any]:
        for i in self._batch():
            one = slice(i, i + 1)
            yield 4 * scale * self._gradient(self._inputs[one], self._targets[one])

    monkeypatch.setattr(sgd._PerExample, "_clipped", unclipped)
    assert one_run("local", entropy=fixed(1)).refuted


def test_one_run_that_cannot_be_is_refused() -> None:
    with pytest.raises(PrivacyError):
        one_run(canaries=10, guesses=11)
    with pytest.raises(InputError):
        one_run("elsewhere")  # type: ignore[arg-type]  # the mistake
    for share in (0.0, 1.5):
        with pytest.raises(InputError, match="noise_share"):
            one_run(noise_share=share)
    with pytest.raises(InputError, match="was included"):
        one_run(canaries=8, guesses=2, entropy=bytes)


def test_canary_clients_give_an_estimate_that_more_noise_lowers() -> None:
    strict, loose = (
        client_cosines(
            Budget(epsilon=epsilon, delta=1e-4),
            clients=150,
            canaries=120,
            rounds=5,
            entropy=fixed(3),
        )
        for epsilon in (0.5, 20.0)
    )
    assert isinstance(loose.found, Estimate)
    assert loose.found.included.mean > loose.found.unobserved.deviation / 3
    assert strict.found.epsilon < loose.found.epsilon
    assert not loose.refuted  # whatever it is: an estimate refutes nothing
    assert from_json(loose.as_dict()["found"]) == loose.found
    assert loose.found.unit is Unit.CLIENT
    with pytest.raises(InputError):
        client_cosines(clients=10, canaries=10)
