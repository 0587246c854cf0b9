"""Bounds at their edge: what a slack, a term or a sync is there for fails without it."""

import math
import os
import stat
from fractions import Fraction

import mpmath
import pytest

from dp import empirical
from dp.accounting import accountant, filters
from dp.accounting.accountant import ORDERS, rdp
from dp.accounting.events import GaussianEvent, PoissonSampling, Unit
from dp.accounting.filters import SCALE, RenyiFilter
from dp.ledger.ledger import Budget, Ledger
from dp.noise import rotation
from dp.noise.lanes import NORM_ERROR, REDRAW_BIAS, Lanes, rounded_norm
from dp.noise.mechanisms import DistributedNoise


def lanes(**more):
    values = {
        "bits": 16,
        "clients": 100,
        "size": 4096,
        "clip": 1.0,
        "batch": 1,
        "share_stddev": 0.1,
        "skellam": True,
        "redrawn": True,
        "indicator_share": 0.0,
    }
    return Lanes(**(values | more))


def mechanism(**more):
    values = {"clip": 1.0, "noise_multiplier": 1.0, "clients": 10, "minimum_survivors": 8}
    return DistributedNoise(entries=100, **(values | more))


# Noise


def test_the_float_error_of_two_long_sums_is_part_of_their_distance():
    batch, scale = 2**20, 1000.0
    apart = scale * (1 + 2 * batch * rotation.FLOAT64_ERROR)  # each of norm batch * C, and off
    found = lanes(redrawn=False, batch=batch, size=4).l2_sensitivity(scale)
    assert found >= rounded_norm(apart, 4, accountant.ROUNDING_FAILURE)


def test_float64_error_covers_the_longest_transform_that_is_allowed():
    worst = max(
        sum(n**1.5 for n in rotation._orders(rotation.padded_size(entries)))
        for entries in (650, 4096, 2**20 + 1, rotation.MAX_ENTRIES)
    )
    assert 2 * worst * 2.0**-53 <= rotation.FLOAT64_ERROR < 2**8 * worst * 2.0**-53


def test_every_client_that_may_be_there_draws_for_the_samplers_error():
    made = mechanism(unit=Unit.CLIENT)
    assert made.draws == (made.clients - made.uncounted_shares) * made.size
    assert made.draws > (made.minimum_survivors - made.uncounted_shares) * made.size


def test_redrawing_makes_a_wrap_likelier_and_is_paid_for():
    narrow = {"bits": 6, "clients": 4, "share_stddev": 0.02, "size": 64}
    kept, redrawn = (lanes(**narrow, redrawn=flag).log_wrap(20.0) for flag in (False, True))
    assert kept < redrawn <= kept - 4 * math.log1p(-REDRAW_BIAS) + 1e-9


@pytest.mark.parametrize("unit", list(Unit))
def test_a_norm_measured_too_small_is_still_within_the_clip(unit):
    made = mechanism(unit=unit)
    cut = math.sqrt(made._padded) * 2.0 ** -(made._fraction + 1)
    truly = Fraction(made._norm_allowed) * (1 + Fraction(NORM_ERROR)) + Fraction(cut)
    assert truly <= Fraction(made.clip) / Fraction(made.resolution)


def test_the_variance_that_is_priced_is_never_above_that_of_the_shares():
    for hundredths in range(50, 150):
        made = mechanism(noise_multiplier=hundredths / 100)
        for survivors in (8, 9, 10):
            shares = survivors - made.uncounted_shares
            event = made.event(survivors=survivors)
            assert Fraction(event.variance) <= shares * Fraction(made.share_variance)


# Prices


@pytest.mark.parametrize(("q", "z"), [(1e-9, 1.0), (1e-9, 3.0), (3e-9, 0.7), (1e-8, 2.0)])
def test_a_fractional_order_costs_something_however_little(q, z):
    found = rdp(GaussianEvent(noise_multiplier=z, sampling=PoissonSampling(rate=q)))
    for order in (1.1, 1.5, 4.75, 9.25):
        # log E[(1 + q X)^a], X of mean 0 and this variance; terms in q^3 are 10^-7 of it.
        exact = order / 2 * q * q * math.expm1(1 / (z * z))
        assert found[order == ORDERS][0] > exact * (1 - 1e-6)


def test_delta_of_gaussian_dp_is_never_below_its_value():
    with mpmath.workdps(50):
        for mu in (0.01, 0.1, 0.5, 1.0, 3.0):
            for epsilon in (0.001, 0.1, 1.0, 4.0, 8.0):
                far, near = -epsilon / mpmath.mpf(mu) + mu / 2, -epsilon / mpmath.mpf(mu) - mu / 2
                exact = mpmath.ncdf(far) - mpmath.exp(epsilon) * mpmath.ncdf(near)
                if exact > 1e-290:
                    assert filters._gdp_delta(mu, epsilon) >= exact


def test_a_renyi_filter_never_holds_more_than_its_epsilon():
    with mpmath.workdps(50):
        for order in (1.5, 2.0, 8.0, 64.0, 256.0):
            for epsilon in (0.7, 1.0, 3.0, 9.0):
                a, delta = mpmath.mpf(order), mpmath.mpf(1e-5)
                slack = mpmath.log1p(-1 / a) - (mpmath.log(delta) + mpmath.log(a)) / (a - 1)
                most = mpmath.floor((epsilon - slack) * SCALE)
                held = RenyiFilter(epsilon=epsilon, delta=1e-5, order=order).capacity
                assert held <= max(most, 0)


def test_a_chance_within_its_own_error_of_the_level_rejects_nothing(monkeypatch):
    level = empirical._level(0.05, 1)
    for chance, rejects in ((level * (1 - empirical._ERROR / 2), False), (level / 2, True)):
        monkeypatch.setattr(
            empirical, "_chance", lambda epsilon, *_, chance=chance: chance if epsilon < 1 else 1.0
        )
        found = empirical.lower_bound(canaries=100, guesses=50, correct=50, delta=1e-5)
        assert (found.epsilon > 0) is rejects


# The books


def test_the_name_of_a_new_ledger_is_synced(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(file):
        about = os.fstat(file)
        synced.append((stat.S_ISDIR(about.st_mode), about.st_ino))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    Ledger.create(tmp_path / "ledger", Budget(epsilon=1, delta=1e-5)).close()
    assert (True, tmp_path.stat().st_ino) in synced
