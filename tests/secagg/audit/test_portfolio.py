"""Several ledgers added up to no less than what who looks at all of them may learn."""

import math
from itertools import count
from pathlib import Path

import pytest

from dp.accounting.accountant import epsilon_pld, epsilon_rdp
from dp.accounting.events import GaussianEvent, NoSampling, PoissonSampling
from dp.errors import InputError
from dp.ledger import SystemDescription
from dp.ledger.ledger import FIXED_PLAN, Budget, Ledger
from dp.ledger.records import Charge
from secagg.audit import portfolio
from secagg.audit.portfolio import Together

WHOLE = GaussianEvent(noise_multiplier=1.0, sampling=NoSampling())
SAMPLED = GaussianEvent(noise_multiplier=1.0, sampling=PoissonSampling(rate=0.01))
BOTH, PICKED = Charge(server=WHOLE, release=WHOLE), Charge(server=WHOLE, release=SAMPLED)
NOT_PICKED = Charge(release=WHOLE)
DELTA, ERROR, ENTRIES = 1e-5, 1e-16, 1000
BUDGET = Budget(epsilon=12, delta=DELTA)
rounds = count()


def stated(**more: object) -> SystemDescription:
    words = ("mechanism", "sampling", "scope", "randomness", "floating_point")
    lists = ("trusted", "released", "unaccounted", "assumptions")
    given = dict.fromkeys(words, "said") | dict.fromkeys(lists, ()) | {"unit_count": 1000}
    return SystemDescription(**given | more)  # type: ignore[arg-type]  # as a test says


def ledger(
    path: Path,
    charge: Charge,
    *,
    budget: Budget = BUDGET,
    policy: str = FIXED_PLAN,
    says: SystemDescription | None = None,
) -> Path:
    with Ledger.create(path, budget, policy=policy) as book:
        if says:
            book.declare(says)
        number = next(rounds)  # no two ledgers are alike
        book.reserve(number, {"ann": charge, "bob": charge})
        book.commit(number, ["ann", "bob"])
    return path


def together(*paths: Path) -> Together:
    (found,) = portfolio(paths).together
    return found


def test_the_aggregator_of_one_ledger_reads_the_releases_of_another(tmp_path: Path) -> None:
    one, other = ledger(tmp_path / "a", PICKED), ledger(tmp_path / "b", NOT_PICKED)
    true = epsilon_pld({WHOLE: 2}, DELTA)
    by_one_book = max(epsilon_pld({WHOLE: 1}, DELTA), epsilon_pld({WHOLE: 1, SAMPLED: 1}, DELTA))
    assert together(one, other).epsilon == pytest.approx(true)
    assert by_one_book < 0.7 * true


def test_too_many_choices_of_a_book_are_bounded_by_every_larger_count(tmp_path: Path) -> None:
    budget = Budget(epsilon=40, delta=DELTA)
    paths = [ledger(tmp_path / str(number), PICKED, budget=budget) for number in range(7)]
    epsilon = together(*paths).epsilon
    assert epsilon >= epsilon_pld({WHOLE: 7}, DELTA)
    assert epsilon <= epsilon_rdp({WHOLE: 7, SAMPLED: 7}, DELTA)


def test_what_samplers_are_off_by_counts_beside_the_epsilon_of_all(tmp_path: Path) -> None:
    says = stated(sampler_error=ERROR, entries=ENTRIES)
    found = together(*(ledger(tmp_path / name, BOTH, says=says) for name in "ab"))
    distance = 2 * ERROR * ENTRIES
    assert found.delta - DELTA == pytest.approx((1 + math.exp(found.epsilon)) * distance, rel=1e-4)
    beside_its_own = (1 + math.exp(epsilon_pld({WHOLE: 1}, DELTA))) * distance
    assert found.delta - DELTA > 5 * beside_its_own


def test_what_decryptions_add_grows_with_the_epsilon_of_all(tmp_path: Path) -> None:
    says = stated(flooding_bits=40)
    paths = [ledger(tmp_path / name, BOTH, says=says) for name in "ab"]
    each = [audited.sections[0].added for audited in portfolio(paths).audits]
    assert together(*paths).epsilon - epsilon_pld({WHOLE: 2}, DELTA) > sum(each)


def test_deltas_that_add_up_to_one_over_the_units_are_no_statement(tmp_path: Path) -> None:
    budget = Budget(epsilon=5, delta=0.3)
    paths = [ledger(tmp_path / n, BOTH, budget=budget, policy="zCDP") for n in "ab"]
    for path in paths:
        assert portfolio([path]).together[0].delta == 0.3
    with pytest.raises(InputError, match="must be below 1/2 for 2 units"):
        portfolio(paths)
    known = [
        ledger(tmp_path / n, BOTH, policy=policy, budget=Budget(epsilon=12, delta=6e-4), says=says)
        for n, policy, says in (("c", "zCDP", stated()), ("d", FIXED_PLAN, None))
    ]
    with pytest.raises(InputError, match="must be below 1/1000 for 1000 units"):
        portfolio(known)
