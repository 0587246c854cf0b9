"""The ledger's two books, what a commit may change, budgets, the seal, and older files."""

import ast
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from behind import raw, rechain
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

import dp
from dp.accounting.accountant import epsilon_pld, epsilon_rdp
from dp.accounting.events import (
    GaussianEvent,
    NeighboringRelation,
    NoSampling,
    PoissonSampling,
    Unit,
)
from dp.errors import (
    BudgetExceeded,
    InputError,
    LedgerConflict,
    LedgerCorrupt,
    LedgerError,
    UnsoundEvent,
)
from dp.ledger import admission
from dp.ledger.ledger import (
    Book,
    Budget,
    Charge,
    Head,
    HeadSigner,
    Ledger,
    LedgerOwner,
    Protection,
    State,
)

BUDGET = Budget(epsilon=8, delta=1e-5)


def gaussian(noise, rate=0.1, steps=1):
    return GaussianEvent(noise_multiplier=noise, sampling=PoissonSampling(rate=rate), steps=steps)


SEEN = gaussian(2)  # by the server, without amplification by the cohort
SHOWN = gaussian(4)
LAST = GaussianEvent(noise_multiplier=0.7, sampling=NoSampling())  # one fits, two do not
LESS = gaussian(3)
MORE = gaussian(1.5)


# Two books


def test_each_book_is_charged_its_own_event_and_the_dearer_is_what_is_spent(ledger):
    ledger.reserve(0, {"took part": Charge(server=SEEN, release=SHOWN)})
    assert ledger.spent("took part", Book.SERVER) == {SEEN: 1}
    assert ledger.spent("took part", Book.RELEASE) == {SHOWN: 1}
    assert ledger.epsilon("took part", book=Book.RELEASE) < ledger.epsilon("took part")
    assert ledger.epsilon("took part") == ledger.epsilon("took part", book=Book.SERVER)


def test_who_was_eligible_and_not_picked_is_charged_in_the_release_book_alone(ledger):
    ledger.reserve(0, {"in": Charge(server=SEEN, release=SHOWN), "out": Charge(release=SHOWN)})
    assert ledger.spent("out", Book.SERVER) == {}
    assert ledger.spent("out", Book.RELEASE) == ledger.spent("in", Book.RELEASE)
    assert ledger.epsilon("out", book=Book.SERVER) == 0 < ledger.epsilon("out")


@pytest.mark.parametrize("book", list(Book))
def test_a_round_is_refused_where_one_of_the_books_is_full(ledger, book):
    full = Charge(server=LAST) if book is Book.SERVER else Charge(release=LAST)
    ledger.reserve(0, {"a": full, "b": LAST})
    head = ledger.head()
    with pytest.raises(BudgetExceeded, match=f"in the {book.value} book") as caught:
        ledger.reserve(1, {"new": SEEN, "a": LAST})
    assert (caught.value.subject, caught.value.book) == ("a", book.value)
    assert ledger.head() == head
    other = Charge(release=LAST) if book is Book.SERVER else Charge(server=LAST)
    ledger.reserve(1, {"a": other})


def test_the_release_book_charges_everyone_every_round_and_both_are_above_the_sampled_price(
    path,
):
    """q .1, z 1.2, 60 rounds, a client in 9 of them: noise added by one trusted party.

    Charging only the rounds in which it was drawn, at the amplified price, is the mistake.
    """
    drawn = range(0, 60, 7)
    seen = GaussianEvent(noise_multiplier=1.2, sampling=NoSampling())
    shown = gaussian(1.2)
    with Ledger.create(path, Budget(epsilon=50, delta=1e-5)) as book:
        for number in range(60):
            server = seen if number in drawn else None
            book.reserve(number, {"a": Charge(server=server, release=shown)})
        wrong = epsilon_rdp({shown: len(drawn)}, 1e-5)
        assert len(drawn) == 9
        assert wrong < book.epsilon("a", book=Book.RELEASE) < book.epsilon("a", book=Book.SERVER)


def test_a_charge_without_an_event_is_refused(ledger):
    with pytest.raises(InputError, match="no event"):
        Charge()
    with pytest.raises(InputError, match=r"must be of dp\.accounting"):
        ledger.reserve(0, {"a": "gaussian"})


def test_the_same_key_with_another_charge_or_minimum_is_refused(ledger):
    ledger.reserve(0, {"a": Charge(server=SEEN, release=SHOWN)}, minimum_survivors=3)
    head = ledger.head()
    ledger.reserve(0, {"a": Charge(server=SEEN, release=SHOWN)}, minimum_survivors=3)
    assert ledger.head() == head
    for charge, minimum in (
        (SEEN, 3),
        (Charge(server=SEEN), 3),
        (Charge(server=SEEN, release=SHOWN), 2),
    ):
        with pytest.raises(LedgerConflict, match="another event or minimum"):
            ledger.reserve(0, {"a": charge}, minimum_survivors=minimum)


# What was released


def test_less_noise_than_reserved_counts_at_once_even_past_the_budget(ledger):
    ledger.reserve(0, {"a": LAST, "b": LAST})
    worse = GaussianEvent(noise_multiplier=0.5, sampling=NoSampling())
    ledger.commit(0, {"a": worse, "b": Charge(server=LAST, release=worse)})
    assert ledger.epsilon("a") > 8
    assert ledger.spent("a") == {worse: 1}
    assert ledger.spent("b") == {LAST: 1}
    assert ledger.spent("b", Book.RELEASE) == {worse: 1}
    with pytest.raises(BudgetExceeded):
        ledger.reserve(1, {"a": SEEN})
    ledger.verify()


def test_more_noise_than_reserved_lowers_the_report_and_frees_no_budget(ledger):
    ledger.reserve(0, {"a": LAST})
    reserved = ledger.epsilon("a")
    better = GaussianEvent(noise_multiplier=1.4, sampling=NoSampling())
    ledger.commit(0, {"a": better}, survivors=7)
    assert ledger.epsilon("a") == reserved
    assert ledger.epsilon("a", basis="actual") < reserved
    assert ledger.spent("a", basis="actual") == {better: 1}
    (held,) = ledger.reservations(0)
    assert (held.survivors, held.actual) == (7, Charge(server=better, release=better))
    with pytest.raises(BudgetExceeded):
        ledger.reserve(1, {"a": LAST})
    with pytest.raises(UnsoundEvent, match="fixed in advance"):
        ledger.epsilon("a", "pld", basis="actual")
    ledger.verify()


def test_where_neither_costs_less_at_every_order_admission_holds_both(ledger):
    thrice = gaussian(5, steps=3)
    assert admission.raises_price(thrice, SHOWN)
    assert admission.raises_price(SHOWN, thrice)
    ledger.reserve(0, {"a": thrice})
    ledger.commit(0, {"a": SHOWN})
    assert ledger.spent("a") == {thrice.one_step(): 3, SHOWN: 1}
    assert ledger.spent("a", basis="actual") == {SHOWN: 1}


def test_below_the_minimum_of_survivors_there_is_no_commit_and_the_reservation_stands(ledger):
    ledger.reserve(0, {"a": SEEN}, minimum_survivors=5)
    for survivors in (4, 0, None):
        with pytest.raises(LedgerConflict, match="survivors"):
            ledger.commit(0, ["a"], survivors=survivors)
    (held,) = ledger.reservations()
    assert (held.state, held.minimum_survivors) == (State.OPEN, 5)
    assert ledger.spent("a") == {SEEN: 1}
    ledger.commit(0, ["a"], survivors=5)


def test_a_clients_own_book_lowers_a_price_only_on_evidence(path):
    with Ledger.create(path, BUDGET, keeper=LedgerOwner.CLIENT) as book:
        book.reserve(0, {"me": Charge(server=SEEN, release=SHOWN)})
        lower = Charge(server=LESS, release=SHOWN)
        for evidence in (None, b""):
            with pytest.raises(LedgerConflict, match="cannot forge"):
                book.commit(0, {"me": lower}, evidence=evidence)
        assert book.reservations()[0].state is State.OPEN
        book.commit(0, {"me": lower}, evidence=b"signatures of the survivors")
        book.reserve(1, {"me": SEEN})
        book.commit(1, {"me": MORE})
        assert book.spent("me") == {SEEN: 1, MORE: 1}
        assert [record.data.get("evidence") is None for record in book.records()] == [
            *(True, True),
            *(False, True, True),
        ]
    with Ledger.open(path) as again:
        assert again.keeper is LedgerOwner.CLIENT
        again.verify()


def test_a_repeated_commit_changes_nothing_and_another_one_is_refused(ledger):
    ledger.reserve(0, {"a": SEEN, "b": SEEN})
    ledger.commit(0, {"a": MORE, "b": LESS}, survivors=2)
    head = ledger.head()
    ledger.commit(0, {"b": LESS, "a": MORE}, survivors=2)
    assert ledger.head() == head
    for again, survivors in (
        (["a"], 2),
        ({"a": LESS}, 2),
        ({"a": MORE}, 3),
        ({"a": MORE}, None),
        ({"a": Charge(server=MORE)}, 2),
    ):
        with pytest.raises(LedgerConflict):
            ledger.commit(0, again, survivors=survivors)
    assert ledger.head() == head


def test_an_actual_event_of_another_unit_is_refused(ledger):
    ledger.reserve(0, {"a": SEEN})
    other = GaussianEvent(
        noise_multiplier=3,
        sampling=NoSampling(),
        unit=Unit.CLIENT,
        adjacency=NeighboringRelation.ZERO_OUT,
    )
    with pytest.raises(UnsoundEvent):
        ledger.commit(0, {"a": other})
    assert ledger.reservations()[0].state is State.OPEN


EVENTS = st.sampled_from([SEEN, SHOWN, LESS, MORE, gaussian(5, steps=3), gaussian(9, steps=0)])
CHARGES = st.one_of(
    EVENTS,
    st.builds(Charge, server=EVENTS, release=EVENTS),
    st.builds(Charge, server=EVENTS),
    st.builds(Charge, release=EVENTS),
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(CHARGES, CHARGES, st.sampled_from(["commit", "abort", "open"])), max_size=8)
)
def test_what_is_held_is_never_below_what_was_reserved_or_released(tmp_path_factory, rounds):
    path = tmp_path_factory.mktemp("book") / "ledger"
    least = {book: [] for book in Book}
    with Ledger.create(path, Budget(epsilon=100, delta=1e-5)) as book:
        for number, (charge, real, end) in enumerate(rounds):
            book.reserve(number, {"a": charge})
            (held,) = book.reservations(number)
            try:
                if end == "commit":
                    book.commit(number, {"a": real})
                elif end == "abort":
                    book.abort(number, ["a"])
            except LedgerConflict:
                assert held.charge.events().keys() != (
                    Book if not isinstance(real, Charge) else real.events().keys()
                )
                end = "open"
            (held,) = book.reservations(number)
            for kind in held.charge.events() if end != "abort" else ():
                prices = [held.charge.events()[kind]]
                prices += [held.actual.events()[kind]] if held.actual else []
                least[kind].append((max(prices, key=lambda e: epsilon_rdp({e: 1}, 1e-5)), 1))
        for kind in Book:
            assert book.epsilon("a", book=kind) >= epsilon_rdp(least[kind], 1e-5) * (1 - 1e-12)
            actual = book.epsilon("a", book=kind, basis="actual")
            assert actual <= book.epsilon("a", book=kind)
        book.verify()


# Budgets


def test_a_subject_may_have_a_budget_of_its_own(ledger, path):
    ledger.set_budgets({"frugal": Budget(epsilon=0.5, delta=1e-6), "b": BUDGET})
    assert ledger.budget_of("frugal") == Budget(epsilon=0.5, delta=1e-6)
    assert ledger.budget_of("b") == ledger.budget_of("anybody") == BUDGET
    with pytest.raises(BudgetExceeded) as caught:
        ledger.reserve(0, {"b": SEEN, "frugal": MORE})
    assert (caught.value.subject, caught.value.budget) == ("frugal", 0.5)
    ledger.reserve(0, {"frugal": gaussian(9)})
    assert ledger.epsilon("frugal") == pytest.approx(epsilon_rdp({gaussian(9): 1}, 1e-6))
    assert ledger.epsilon("frugal", "pld") == epsilon_pld({gaussian(9): 1}, 1e-6)
    assert ledger.subjects() == ["frugal"]
    ledger.close()
    with Ledger.open(path, BUDGET) as again:
        assert again.budget_of("frugal").epsilon == 0.5
        again.verify()


def test_a_budget_is_fixed_once_its_subject_was_charged(ledger):
    ledger.set_budgets({"a": Budget(epsilon=1, delta=1e-5)})
    ledger.set_budgets({"a": Budget(epsilon=2, delta=1e-5)})
    ledger.reserve(0, {"a": SEEN})
    head = ledger.head()
    ledger.set_budgets({"a": Budget(epsilon=2, delta=1e-5)})
    with pytest.raises(LedgerConflict, match="fixed"):
        ledger.set_budgets({"new": Budget(epsilon=3, delta=1e-5), "a": BUDGET})
    assert ledger.head() == head


# Prices


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.builds(gaussian, st.floats(0.3, 50), st.floats(0.001, 1)),
        st.integers(1, 10**6),
        min_size=1,
        max_size=4,
    )
)
def test_the_price_in_integers_is_the_accountants_rounded_up(composition):
    exact = epsilon_rdp(composition, 1e-5)
    price = admission.epsilon(composition, 1e-5)
    if exact < 3000:
        steps = sum(composition.values())
        assert exact * (1 - 1e-12) <= price <= exact * (1 + 1e-12) + steps * 2.0**-50 + 1e-12
    else:
        assert price >= exact * (1 - 1e-12)


def test_the_price_of_many_is_the_price_of_each(ledger):
    events = [SEEN, SHOWN, LAST]
    counts = np.random.default_rng(0).integers(0, 50, (200, 3))
    counts[::7] = 0
    found = admission.epsilons(counts, events, 1e-5)
    for row, price in zip(counts.tolist(), found.tolist(), strict=True):
        assert price == admission.epsilon(dict(zip(events, row, strict=True)), 1e-5)
    assert (found[::7] == 0).all()


def test_what_no_integer_holds_is_infinite():
    assert admission.epsilon({gaussian(0.001): 2**53, SEEN: 2**53}, 1e-5) == np.inf


# The seal


@pytest.fixture
def sealed(path, seal):
    """A closed, signed ledger of four records."""
    with Ledger.create(path, BUDGET, seal=seal) as book:
        book.reserve(0, {"a": SEEN})
        book.commit(0, ["a"])
        book.reserve(1, {"a": SEEN})
        return book.head()


def test_what_protects_a_ledger_is_said(path, seal, sealed):
    with Ledger.open(path) as bare:
        found = bare.verify()
        assert found.protection == (Protection.UNCHECKED,)
        assert found.protection[0].sentence.startswith("signed, not checked")
        assert bare.verify(sealed).protection == (Protection.HEAD, Protection.UNCHECKED)
    with Ledger.open(path, seal=HeadSigner(verify=seal.verify)) as signed:
        assert signed.verify().protection == (Protection.SIGNATURE,)
        assert signed.verify(sealed).protection == (Protection.HEAD, Protection.SIGNATURE)


def test_a_signed_ledger_is_written_only_by_who_can_sign(path, seal, sealed):
    for reader in (None, HeadSigner(verify=seal.verify)):
        with Ledger.open(path, seal=reader) as book, pytest.raises(LedgerError, match="signed"):
            book.reserve(2, {"a": SEEN})
    with pytest.raises(InputError, match="no sign"):
        Ledger.create(path.with_name("other"), BUDGET, seal=HeadSigner(verify=seal.verify))
    with Ledger.open(path, seal=seal) as book:
        book.reserve(2, {"a": SEEN})
        book.verify(sealed)


CUT = (
    "DELETE FROM records WHERE seq = 3",
    "DELETE FROM charges WHERE round = 1",
    "UPDATE spent SET held = 1, realised = 1",
)


@pytest.mark.parametrize(
    "forgery",
    [
        CUT,
        (*CUT, "UPDATE seal SET seq = 2"),
        (*CUT, "DELETE FROM seal"),
        ("UPDATE records SET body = replace(body, '8.0', '9.0') WHERE seq = 0",),
        ("UPDATE records SET body = replace(body, 'true', 'false') WHERE seq = 0",),
        ("UPDATE seal SET signature = randomblob(64)",),
        ("UPDATE seal SET signature = 'text'",),
        ("DELETE FROM seal",),
    ],
)
def test_a_forged_chain_is_found_by_its_signature_on_opening_and_never_signed_over(
    path, seal, sealed, forgery
):
    with Ledger.open(path, seal=seal) as open_before:
        raw(path, *forgery)
        rechain(path)
        with pytest.raises(LedgerCorrupt, match="sign"):
            Ledger.open(path, seal=seal)
        with pytest.raises(LedgerCorrupt, match="sign"):
            open_before.verify()
        with pytest.raises(LedgerCorrupt, match="sign"):
            open_before.reserve(2, {"a": SEEN})


def test_another_key_and_a_verifier_that_does_not_say_true_are_refused(path, seal, sealed):
    other = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(InvalidSignature):
        Ledger.open(path, seal=HeadSigner(verify=lambda message, mark: other.verify(mark, message)))
    with pytest.raises(LedgerCorrupt, match="not good"):
        Ledger.open(path, seal=HeadSigner(verify=lambda message, mark: None))
    Ledger.create(path.with_name("plain"), BUDGET).close()
    with pytest.raises(LedgerCorrupt, match="no signature"):
        Ledger.open(path.with_name("plain"), seal=seal)


def test_an_older_copy_of_a_signed_file_is_found_only_against_a_head(path, seal, sealed):
    content = path.read_bytes()
    with Ledger.open(path, seal=seal) as book:
        book.reserve(2, {"a": SEEN})
        head = book.head()
    path.write_bytes(content)
    with Ledger.open(path, seal=seal) as old:
        old.verify()
        with pytest.raises(LedgerCorrupt, match="older copy"):
            old.verify(head)


def test_a_signer_that_fails_leaves_nothing_behind(path, seal):
    def broken(message):
        raise OSError("the token was pulled out")

    with Ledger.create(path, BUDGET, seal=seal):
        pass
    with Ledger.open(path, seal=HeadSigner(verify=seal.verify, sign=broken)) as book:
        with pytest.raises(OSError, match="pulled out"):
            book.reserve(0, {"a": SEEN})
        assert book.subjects() == []
        book.verify()


# Policy, schema, clock


def test_the_policy_is_stored_and_an_unknown_one_is_refused(path, ledger):
    assert ledger.policy == "fixed plan"
    assert next(ledger.records()).data["policy"] == "fixed plan"
    with pytest.raises(InputError, match="policy"):
        Ledger.create(path.with_name("other"), BUDGET, policy="anything goes")
    assert not path.with_name("other").exists()
    raw(path, "UPDATE records SET body = replace(body, 'fixed plan', 'tomorrow') WHERE seq = 0")
    rechain(path)
    with pytest.raises(LedgerError, match="tomorrow"):
        Ledger.open(path)


OLD_HEAD = Head(
    seq=6, hash=bytes.fromhex("5a7f1c093a6e89169cdfea57e1793841b2ca17f355540971666376aa9aba90b2")
)


@pytest.fixture
def old(path):
    """A file that the first version of the ledger wrote."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript((Path(__file__).parent / "ledger_v1.sql").read_text())
    connection.close()
    return path


def test_a_file_of_schema_1_is_brought_here_with_its_chain_and_its_costs(old):
    with Ledger.open(old, BUDGET) as book:
        assert book.verify(OLD_HEAD).head.seq == 8
        assert (book.keeper, book.policy) == (LedgerOwner.SERVER, "fixed plan")
        for kind in Book:
            for basis in ("reserved", "actual"):
                assert book.spent("a", kind, basis=basis) == {gaussian(2): 2, gaussian(3): 2}
                assert book.spent("b", kind, basis=basis) == {gaussian(2): 2}
        assert book.epsilon("a") == pytest.approx(0.6183882260872366)
        assert book.epsilon("b") == pytest.approx(0.5942363225231149)
        states = {(r.round, r.subject, r.attempt): r.state for r in book.reservations()}
        assert states[0, "a", 0] is State.COMMITTED
        assert states[1, "b", 0] is State.ABORTED
        assert states[2, "a", 0] is State.OPEN
        assert [record.action for record in book.records()][-3:] == [
            "reserve",
            "migrate",
            "migrate",
        ]
        book.commit(2, ["a"])
        book.reserve(3, {"a": Charge(release=SEEN)})
        head = book.head()
    with Ledger.open(old) as again:
        assert again.verify(OLD_HEAD).head == head


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE spent SET steps = 1 WHERE subject = 'a' AND event = 1",
        "UPDATE charges SET state = 'aborted' WHERE round = 2",
        "UPDATE records SET body = replace(body, '2.0', '9.0') WHERE seq = 1",
        "DELETE FROM records WHERE seq = 6",
    ],
)
def test_a_file_of_schema_1_that_was_tampered_with_is_refused_and_left_alone(old, edit):
    raw(old, edit)
    with pytest.raises(LedgerCorrupt):
        Ledger.open(old)
    connection = sqlite3.connect(old)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM spent").fetchone() == (3,)
    connection.close()


def test_no_clock_is_read_so_none_can_go_backwards():
    home = Path(dp.__file__).parent
    for module in (*(home / "ledger").glob("*.py"), home / "accounting" / "filters.py"):
        text = module.read_text()
        modules = {
            part.split(".")[0]
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for part in [getattr(node, "module", None), *(alias.name for alias in node.names)]
            if part
        }
        assert not modules & {"time", "datetime", "calendar"}
        assert not any(word in text for word in ("CURRENT_TIME", "strftime", "datetime("))
