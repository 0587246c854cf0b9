"""Attacks on models and gradients: they work where nothing protects, and not under noise."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dp.accounting.events import Unit
from dp.empirical import include_canaries
from secagg.attacks import membership as shadows
from secagg.attacks.inversion import invert_gradients
from secagg.attacks.membership import RATES, Membership, Models, membership
from secagg.errors import InputError
from secagg.training.settings import TrainingConfig, noise_and_unit


def fixed(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


def by_attack(found: tuple[Membership, ...]) -> dict[str, Membership]:
    return {one.attack: one for one in found}


# Membership


@pytest.fixture(scope="module")
def overfitted() -> dict[str, Membership]:
    return by_attack(membership("none", pool=100, models=Models(6, 48), entropy=fixed(1)))


def test_a_model_that_overfits_tells_its_members(overfitted: dict[str, Membership]) -> None:
    assert overfitted["loss"].auc > 0.65
    assert overfitted["lira offline"].auc > 0.7
    assert overfitted["lira online"].auc > 0.75


def test_shadow_models_find_the_few_that_loss_alone_does_not(
    overfitted: dict[str, Membership],
) -> None:
    loss, lira = (overfitted[name].rates[0] for name in ("loss", "lira online"))
    assert lira.low > loss.true_positive_rate
    assert lira.low > 3 * RATES[0]


@pytest.mark.parametrize("mode", ["local", "distributed", "client"])
def test_at_epsilon_2_the_same_attacks_are_near_chance(mode: str) -> None:
    pool, targets = (40, 5) if mode == "client" else (100, 1)
    models = Models(targets, 16)
    found = membership(mode, pool=pool, models=models, rounds=3, entropy=fixed(2))
    for one in found:
        assert one.epsilon == 2
        assert one.unit is (Unit.CLIENT if mode == "client" else Unit.EXAMPLE)
        assert one.auc < 0.85


def test_how_far_it_is_is_told_target_by_target() -> None:
    told: list[tuple[int, int]] = []
    membership("local", pool=20, models=Models(3, 16), rounds=1, tell=lambda *at: told.append(at))
    assert told == [(0, 3), (1, 3), (2, 3)]


def test_a_curve_runs_from_nobody_to_everybody_and_its_points_have_intervals(
    overfitted: dict[str, Membership],
) -> None:
    for one in overfitted.values():
        assert (one.roc[0], one.roc[-1]) == ((0.0, 0.0), (1.0, 1.0))
        assert np.all(np.diff(one.roc, axis=0) >= 0)
        assert one.members + one.others == 600
        for rate in one.rates:
            assert rate.low <= rate.true_positive_rate <= rate.high
        assert json.loads(json.dumps(one.as_dict(), allow_nan=False))["auc"] == one.auc


@pytest.mark.parametrize("mode", ["local", "distributed", "client"])
def test_shadow_models_are_trained_as_the_library_trains(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little noise both end in one place from the same coins; without members, nowhere."""
    # No delta stands beside so large an epsilon.
    monkeypatch.setattr("secagg.training.modes.Mode._check_whole_delta", lambda *_, **__: None)
    clients = 20 if mode == "client" else 10
    config = TrainingConfig(
        **noise_and_unit(mode),
        clients=clients,
        epsilon=1000.0,
        rounds=5,
        dropout=0.0,
        learning_rate=4.0,
    )
    pool = shadows._pool(200, each=10 if mode == "client" else 1, seed=0)
    coins = include_canaries(pool.units, entropy=fixed(4))
    theirs = shadows._trained(config, pool, coins)
    (own,) = shadows._shadowed(config, pool, coins[None], fixed(5))
    size = np.linalg.norm(own)
    assert np.linalg.norm(theirs) > 0.5
    assert (theirs * own).sum() / size**2 == pytest.approx(1, abs=0.1)
    assert (theirs * own).sum() / (size * np.linalg.norm(theirs)) > 0.9
    nobody = shadows._trained(config, pool, np.zeros_like(coins))
    if mode == "client":  # elsewhere each client has one example that is always in
        assert np.linalg.norm(nobody) < 0.5 * np.linalg.norm(theirs)


def test_lira_scores_are_likelihood_ratios_and_deviations() -> None:
    drawn = np.random.default_rng(6)
    coins = drawn.random((4000, 2)) < 0.5
    confidences = drawn.normal(size=coins.shape) + 2 * coins + [0.0, 5.0]
    offline, online = shadows.likelihoods(np.array([[1.0, 6.0], [2.0, 8.0]]), confidences, coins)
    assert offline == pytest.approx(np.array([[1.0, 1.0], [2.0, 3.0]]), abs=0.15)
    assert online == pytest.approx(np.array([[0.0, 0.0], [2.0, 4.0]]), abs=0.3)


def test_a_curve_of_equal_scores_is_the_diagonal() -> None:
    coins = np.arange(100) % 2 == 0
    what = {"attack": "loss", "mode": "none", "unit": Unit.EXAMPLE, "epsilon": None}
    found = shadows.judged(np.zeros(100), coins, **what, delta=None, pool=100, accuracy=0.0)
    assert found.roc == ((0.0, 0.0), (1.0, 1.0))
    assert found.auc == 0.5
    assert found.rates[0].true_positive_rate == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"models": Models(0, 64)},
        {"models": Models(8, 8)},
        {"pool": 15},
        {"pool": 1430},
        {"rounds": 0},
        {"mode": "secrecy"},
    ],
)
def test_settings_that_attack_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        membership(**settings)


# Inversion


@pytest.mark.parametrize("model", ["softmax", "mlp"])
def test_an_update_of_one_example_is_its_picture(model: Any) -> None:
    alone, summed, noised = invert_gradients(model, alone=3, search=120, entropy=fixed(1))
    assert (alone.recovered, alone.clients, alone.epsilon) == (3, 3, None)
    for own in alone.pictures:
        assert own.rank == 1
        assert own.psnr > 60
        assert own.ssim > 0.999
        assert np.allclose(own.original, own.reconstructed, atol=1e-3)
    # Most pictures do not come out of a sum of 20; some may, and only noise keeps all of them in.
    assert (summed.clients, noised.clients) == (20, 20)
    assert summed.recovered <= 10
    assert noised.recovered == 0
    assert noised.epsilon == pytest.approx(2.0, abs=1e-3)
    assert max(one.psnr for one in noised.pictures) < 20
    for one in (alone, summed, noised):
        assert {np.shape(each.reconstructed) for each in one.pictures} == {(8, 8)}
        held = json.loads(json.dumps(one.as_dict(), allow_nan=False))
        assert [each["recovered"] for each in held["pictures"]].count(True) == one.recovered


def test_it_is_the_noise_that_hides_a_picture_in_a_sum_of_two() -> None:
    _, summed, noised = invert_gradients("mlp", clients=2, search=120, entropy=fixed(1))
    assert summed.recovered == 2
    assert noised.recovered == 0


def test_an_inversion_that_cannot_be_is_refused() -> None:
    for settings in (
        {"model": "tree"},
        {"clients": 1},
        {"clients": 101},
        {"search": 0},
        {"alone": 21},
    ):
        with pytest.raises(InputError):
            invert_gradients(**settings)  # type: ignore[arg-type]  # the mistakes
