"""Ledgers under a filter: whatever is chosen along the way, the budget holds."""

import math
import sqlite3

import numpy as np
import pytest
from behind import rechain
from hypothesis import given, settings
from hypothesis import strategies as st

import dp.ledger.rules
from dp.accounting.accountant import ORDERS, conversion, epsilon_rdp, rdp
from dp.accounting.events import (
    GaussianEvent,
    NeighboringRelation,
    NoSampling,
    PoissonSampling,
    ShuffledSampling,
    SkellamEvent,
    Unit,
)
from dp.accounting.filters import SCALE, GdpFilter, RenyiFilter, ZcdpFilter
from dp.errors import BudgetExceeded, InputError, LedgerConflict, LedgerError, UnsoundEvent
from dp.ledger.ledger import FIXED_PLAN, Book, Budget, Charge, Ledger, LedgerOwner

BUDGET = Budget(epsilon=8, delta=1e-5)
AT_8 = "RDP at order 8"
FILTERS = {
    "zCDP": lambda **more: ZcdpFilter(epsilon=8, delta=1e-5, **more),
    "GDP": lambda **more: GdpFilter(epsilon=8, delta=1e-5, **more),
    AT_8: lambda **more: RenyiFilter(epsilon=8, delta=1e-5, order=8, **more),
}
each_filter = pytest.mark.parametrize("policy", FILTERS)


def gaussian(z, q=1.0, steps=1, **more):
    sampling = PoissonSampling(rate=q) if q < 1 else NoSampling()
    return GaussianEvent(noise_multiplier=z, sampling=sampling, steps=steps, **more)


STEP = gaussian(4)
DEAR, CHEAP = gaussian(0.8), gaussian(30)  # of DEAR one fits, two do not
CLIENT = gaussian(4, unit=Unit.CLIENT, adjacency=NeighboringRelation.ZERO_OUT)


# What a policy is


def test_a_policy_has_one_spelling_and_is_fixed_with_the_file(path):
    texts = ["fixed plan", "zCDP", "GDP", "RDP at order 1.1", AT_8, "RDP at order 1024"]
    for number, text in enumerate(texts):
        place = path.with_name(f"{number}")
        Ledger.create(place, BUDGET, policy=text).close()
        with Ledger.open(place) as book:
            assert book.policy == text
            assert next(book.records()).data["policy"] == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "fixed", "zcdp", "zCDP ", "RDP", "RDP at order 8.0", "RDP at order 1"),
        *("RDP at order 16.1", "RDP at order nan", "Fixed plan", None, 8),
    ],
)
def test_an_unknown_policy_is_refused_on_creating_and_on_opening(path, text):
    with pytest.raises(InputError, match="policy"):
        Ledger.create(path, BUDGET, policy=text)
    assert not path.exists()
    Ledger.create(path, BUDGET, policy="zCDP").close()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE records SET body = replace(body, 'zCDP', ?)", (f"{text}",))
    connection.close()
    rechain(path)
    with pytest.raises(LedgerError, match="newer version of secagg"):
        Ledger.open(path)


# Admission


@each_filter
def test_a_filter_admits_to_its_last_step_and_says_how_much_is_gone(path, policy):
    fits = FILTERS[policy]().capacity // FILTERS[policy]().cost(STEP)
    with Ledger.create(path, BUDGET, policy=policy) as book:
        assert book.filter_of("a") is None
        book.reserve(0, {"a": gaussian(4, steps=fits)})
        assert book.filter_of("a") == FILTERS[policy](spent=fits * FILTERS[policy]().cost(STEP))
        assert 0.9 < book.filter_of("a").share <= 1
        head = book.head()
        with pytest.raises(BudgetExceeded) as caught:
            book.reserve(1, {"new": STEP, "a": STEP})
        assert book.head() == head
        assert book.filters() == {"a": book.filter_of("a")}
    error = caught.value
    assert (error.subject, error.book) == ("a", "server")
    assert error.currency == {"zCDP": "rho", "GDP": "mu^2"}.get(policy, policy)
    assert error.spent <= error.budget < error.would_be
    assert error.budget == FILTERS[policy]().capacity / SCALE
    assert f"would reach {error.currency} {error.would_be:.4g}" in str(error)


@each_filter
def test_each_book_and_each_subject_has_the_filter_of_its_own_budget(path, policy):
    with Ledger.create(path, BUDGET, policy=policy) as book:
        book.set_budgets({"frugal": Budget(epsilon=2, delta=1e-6)})
        book.reserve(0, {"a": Charge(server=DEAR), "b": Charge(release=DEAR)})
        assert (book.filter_of("a", Book.RELEASE), book.filter_of("b")) == (None, None)
        with pytest.raises(BudgetExceeded, match="in the server book"):
            book.reserve(1, {"a": DEAR})
        with pytest.raises(BudgetExceeded, match="'frugal'"):
            book.reserve(1, {"frugal": DEAR})
        book.reserve(1, {"a": Charge(release=DEAR), "frugal": STEP})
        frugal = book.filter_of("frugal")
        assert (frugal.epsilon, frugal.delta) == (2, 1e-6)
        book.verify()


@each_filter
def test_what_protects_another_unit_is_refused_beside_the_first_and_kept_apart(path, policy):
    with Ledger.create(path, BUDGET, policy=policy) as book:
        book.reserve(0, {"a": STEP, "b": CLIENT})
        head = book.head()
        for subject, event in (("a", CLIENT), ("b", STEP)):
            with pytest.raises(UnsoundEvent, match="in one composition"):
                book.reserve(1, {"new": STEP, subject: event})
            with pytest.raises(UnsoundEvent, match="in one composition"):
                book.commit(0, {subject: event})
        assert book.head() == head
        assert book.filter_of("b").unit is Unit.CLIENT
        assert book.filter_of("b").adjacency is NeighboringRelation.ZERO_OUT
        book.abort(0, ["a"])
        book.reserve(1, {"a": CLIENT})


@each_filter
def test_an_event_that_the_filter_cannot_treat_is_refused(path, policy):
    skellam = SkellamEvent(
        variance=1e4, l2_sensitivity=10, l1_sensitivity=50, sampling=NoSampling()
    )
    shuffled = GaussianEvent(noise_multiplier=9, sampling=ShuffledSampling(size=1, population=9))
    with Ledger.create(path, BUDGET, policy=policy) as book:
        book.reserve(0, {"a": STEP})
        for event in [shuffled] + [skellam] * (policy != AT_8):
            with pytest.raises(UnsoundEvent):
                book.reserve(1, {"b": STEP, "a": event})
            with pytest.raises(UnsoundEvent):
                book.commit(0, {"a": event})
        if policy == AT_8:
            book.reserve(1, {"a": skellam})
        assert book.subjects() == ["a"]


@each_filter
def test_noise_that_hides_nothing_is_over_every_budget_and_no_steps_cost_nothing(path, policy):
    with Ledger.create(path, BUDGET, policy=policy) as book:
        with pytest.raises(BudgetExceeded, match="inf"):
            book.reserve(0, {"a": gaussian(1e-200)})
        book.reserve(0, {"a": gaussian(1, steps=0)})
        assert book.epsilon("a") == 0
        assert book.filter_of("a") is None


@each_filter
def test_no_budget_is_so_large_that_noise_that_hides_nothing_fits(path, policy):
    with Ledger.create(path, Budget(epsilon=1e300, delta=1e-5), policy=policy) as book:
        with pytest.raises(BudgetExceeded):
            book.reserve(0, {"a": gaussian(1e-200)})
        many = gaussian(1e30, steps=2**53)
        wide = Charge(server=many)
        for number in range(511):
            book.reserve(number, {"a": wide})
        with pytest.raises(BudgetExceeded):  # before a sum of steps passes what SQLite holds
            book.reserve(511, {"a": wide})
        book.verify()


# What was released


@each_filter
def test_budget_that_more_noise_left_over_is_spent_again_under_a_filter(path, policy):
    with Ledger.create(path, BUDGET, policy=policy) as book:
        book.reserve(0, {"a": DEAR})
        with pytest.raises(BudgetExceeded):
            book.reserve(1, {"a": DEAR})
        book.commit(0, {"a": CHEAP})
        assert book.filter_of("a").spent == FILTERS[policy]().cost(CHEAP)
        assert book.spent("a") == book.spent("a", basis="actual") == {CHEAP: 1}
        book.reserve(1, {"a": DEAR})
        with pytest.raises(BudgetExceeded):
            book.reserve(2, {"a": DEAR})
        book.verify()


@each_filter
def test_less_noise_than_reserved_counts_at_once_and_voids_the_promise_past_the_capacity(
    path, policy
):
    with Ledger.create(path, BUDGET, policy=policy) as book:
        book.reserve(0, {"a": STEP, "b": STEP})
        book.commit(0, {"a": Charge(server=gaussian(0.3), release=STEP), "b": DEAR})
        assert book.filter_of("a").share > 1 > book.filter_of("a", Book.RELEASE).share
        assert book.epsilon("a") == book.epsilons()["a"] == math.inf
        assert book.epsilon("a", book=Book.RELEASE) == book.epsilon("b") == 8
        for event in (gaussian(1e6), gaussian(1, steps=0)):
            with pytest.raises(BudgetExceeded):
                book.reserve(1, {"a": event})
        with pytest.raises(BudgetExceeded):
            book.reserve(1, {"b": DEAR})
        book.verify()


def test_a_clients_own_filter_frees_budget_only_on_evidence(path):
    # To zCDP sampling is nothing: what RDP calls dearer at every order is cheaper here.
    reserved, real = gaussian(2, 0.5), gaussian(2.0001)
    assert (rdp(real) > rdp(reserved)).all()
    with Ledger.create(path, BUDGET, policy="zCDP", keeper=LedgerOwner.CLIENT) as book:
        for number, lower in enumerate((CHEAP, real)):
            book.reserve(number, {"me": reserved})
            with pytest.raises(LedgerConflict, match="cannot forge"):
                book.commit(number, {"me": lower})
            before = book.filter_of("me").spent
            book.commit(number, {"me": lower}, evidence=b"signatures of the survivors")
            assert book.filter_of("me").spent < before
        book.reserve(2, {"me": STEP})
        book.commit(2, {"me": DEAR})


def test_without_the_evidence_the_server_spends_a_clients_budget_again_and_again(path, monkeypatch):
    """The check removed: a server that claims survivors who never were."""
    whole = dp.ledger.rules._Filtered.weigh
    trusting = lambda *args: whole(*args)._replace(lower=False)  # noqa: E731
    monkeypatch.setattr(dp.ledger.rules._Filtered, "weigh", trusting)
    with Ledger.create(path, BUDGET, policy="zCDP", keeper=LedgerOwner.CLIENT) as book:
        for number in range(5):
            book.reserve(number, {"me": DEAR})
            book.commit(number, {"me": CHEAP})
    assert epsilon_rdp({DEAR: 5}, 1e-5) > 2 * 8


# What may be stated


@each_filter
def test_what_may_be_stated_of_adaptive_releases_is_the_whole_budget(path, policy):
    with Ledger.create(path, BUDGET, policy=policy) as book:
        book.set_budgets({"b": Budget(epsilon=3, delta=1e-5)})
        book.reserve(0, {"a": Charge(server=STEP), "b": STEP})
        book.reserve(1, {"gone": STEP})
        book.abort(1, ["gone"])
        assert book.epsilons() == {"a": 8, "b": 3, "gone": 0}
        assert book.epsilon("a", basis="actual") == 8 > epsilon_rdp({STEP: 1}, 1e-5)
        assert book.epsilon("a", book=Book.RELEASE) == book.epsilon("nobody") == 0
        for basis in ("reserved", "actual"):
            with pytest.raises(UnsoundEvent, match="chosen from earlier outputs"):
                book.epsilon("a", "pld", basis=basis)
        with pytest.raises(InputError, match="accountant"):
            book.epsilon("a", "gdp")
        assert book.compositions() == {"a": {STEP: 1}, "b": {STEP: 1}, "gone": {}}


def test_a_fixed_plan_has_no_filter(path):
    with Ledger.create(path, BUDGET) as book:
        book.reserve(0, {"a": STEP})
        assert (book.policy, book.filter_of("a"), book.filters()) == (FIXED_PLAN, None, {})


# Adaptive choices under a fixed plan


QUIET, LOUD = gaussian(20, steps=85), gaussian(0.8, 0.01, steps=42)
TWO = Budget(epsilon=2, delta=1e-5)
FIRST = gaussian(2.2)  # nearly all of TWO


def after_a_refund(path, event):
    """Whether a fixed plan admits ``event`` once the first release came out cheap."""
    path.unlink(missing_ok=True)
    with Ledger.create(path, TWO) as book:
        book.reserve(0, {"a": FIRST})
        book.commit(0, {"a": gaussian(1000)})
        try:
            book.reserve(1, {"a": event})
        except BudgetExceeded:
            return False
        return True


def test_under_a_fixed_plan_a_choice_that_spends_freed_budget_is_refused(path):
    assert not after_a_refund(path, QUIET)
    assert not after_a_refund(path, LOUD)


def test_freed_budget_under_a_fixed_plan_would_overspend_by_choosing(path, monkeypatch):
    """The check removed: either choice is admitted, at an order that the other one breaks."""

    def freeing(policy, reserved, real):
        return dp.ledger.rules.Weighed(rising=True, falling=True, lower=False)

    monkeypatch.setattr(dp.ledger.rules._FixedPlan, "weigh", freeing)
    assert after_a_refund(path, QUIET)
    assert after_a_refund(path, LOUD)
    worst = np.maximum(rdp(QUIET), rdp(LOUD)) + conversion(1e-5)
    assert len(worst) == len(ORDERS)
    assert worst.min() > 2.2


# Any interleaving


EVENTS = st.sampled_from(
    [STEP, DEAR, CHEAP, gaussian(2, 0.1), gaussian(6, steps=9), gaussian(0.4), gaussian(9, steps=0)]
)
CHARGES = st.one_of(EVENTS, st.builds(Charge, server=EVENTS), st.builds(Charge, release=EVENTS))
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "commit", "realise", "abort"]),
        st.integers(0, 4),
        st.lists(st.sampled_from("ab"), min_size=1, unique=True),
        CHARGES,
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(FILTERS)), CALLS)
def test_under_any_interleaving_a_filter_holds_the_fold_of_the_records_and_no_more_than_fits(
    tmp_path_factory, policy, calls
):
    cost, capacity = FILTERS[policy]().cost, FILTERS[policy]().capacity
    paid, wrongly = {}, []  # (subject, book) -> round -> cost

    def stands(subject, book):
        return sum(paid.get((subject, book), {}).values())

    path = tmp_path_factory.mktemp("book") / "ledger"
    with Ledger.create(path, BUDGET, policy=policy) as ledger:
        for action, number, names, charge in calls:
            events = charge.events() if isinstance(charge, Charge) else dict.fromkeys(Book, charge)
            before = {held.subject: held for held in ledger.reservations(number)}
            try:
                match action:
                    case "reserve":
                        ledger.reserve(number, dict.fromkeys(names, charge))
                        names = [name for name in names if name not in before]
                    case "commit":
                        ledger.commit(number, names)
                        continue
                    case "realise":
                        ledger.commit(number, dict.fromkeys(names, charge))
                    case "abort":
                        ledger.abort(number, names)
                        events = dict.fromkeys(Book)
            except LedgerConflict:
                continue
            except BudgetExceeded as error:
                refused = (error.subject, Book(error.book))
                if stands(*refused) + cost(events[refused[1]]) <= capacity:
                    wrongly.append(refused)
                continue
            for name in names:
                for book, event in events.items():
                    price = 0 if event is None else cost(event)
                    paid.setdefault((name, book), {})[number] = price
                    assert action != "reserve" or stands(name, book) <= capacity
        assert wrongly == []
        ledger.verify()
        for name in "ab":
            for book in Book:
                found = ledger.filter_of(name, book)
                assert (found.spent if found else 0) == stands(name, book)
                passed_above = any(
                    record.action == "commit" and record.charges for record in ledger.records()
                )
                assert stands(name, book) <= capacity or passed_above


def test_a_commit_that_rose_has_no_loss_distribution_in_ledger_or_audit(path):
    with Ledger.create(path, BUDGET) as book:
        for number in range(3):
            book.reserve(number, {"a": gaussian(4), "b": gaussian(4)})
        book.commit(1, {"a": gaussian(2), "b": gaussian(4)})
        with pytest.raises(UnsoundEvent, match="cost more than was reserved"):
            book.epsilon("a", "pld")
        with pytest.raises(UnsoundEvent, match="cost more than was reserved"):
            book.epsilons("pld")
        assert book.epsilon("b", "pld") < book.epsilon("b")
        assert book.epsilon("a") > book.epsilon("b")
