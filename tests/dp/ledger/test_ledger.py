import functools
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from behind import in_child, raw, rechain
from hypothesis import given, settings
from hypothesis import strategies as st

import dp.ledger.records
import dp.ledger.storage
from dp.accounting.accountant import epsilon_pld, epsilon_rdp
from dp.accounting.calibrate import noise_multiplier
from dp.accounting.events import (
    FixedSizeSampling,
    GaussianEvent,
    NoSampling,
    PoissonSampling,
    ShuffledSampling,
    Unit,
)
from dp.errors import (
    BudgetExceeded,
    InputError,
    LedgerBusy,
    LedgerConflict,
    LedgerCorrupt,
    LedgerError,
    LedgerMissing,
    UnsoundEvent,
)
from dp.ledger.ledger import Budget, Charge, Head, Ledger, State

BUDGET = Budget(epsilon=8, delta=1e-5)
EVENT = GaussianEvent(noise_multiplier=2, sampling=PoissonSampling(rate=0.1))
OTHER = GaussianEvent(noise_multiplier=3, sampling=PoissonSampling(rate=0.1), steps=2)
CHEAP = GaussianEvent(noise_multiplier=20, sampling=NoSampling())
LAST = GaussianEvent(noise_multiplier=0.7, sampling=NoSampling())  # one fits, two do not


# Charging


def test_a_reservation_counts_as_spent_before_it_is_committed(ledger):
    ledger.reserve(0, {"a": EVENT, "b": OTHER})
    assert ledger.epsilon("a") == pytest.approx(epsilon_rdp({EVENT: 1}, 1e-5), rel=1e-12)
    assert ledger.epsilon("b", "pld") == epsilon_pld({OTHER: 1}, 1e-5)
    before = ledger.epsilons()
    ledger.commit(0, ["a", "b"])
    assert ledger.epsilons() == before
    assert ledger.spent("b") == {OTHER.one_step(): 2}


def test_the_next_key_is_above_all_that_were_used_given_back_or_not(ledger):
    assert ledger.reserve_next({"a": CHEAP}) == (0, 0)
    assert ledger.reserve_next({"b": CHEAP}, round_number=0) == (0, 1)
    ledger.reserve(7, {"a": CHEAP}, attempt=4)
    ledger.abort(7, ["a"], attempt=4)
    assert ledger.reserve_next({"a": CHEAP}, round_number=7) == (7, 5)
    assert ledger.reserve_next({"a": CHEAP}, round_number=3) == (3, 0)
    assert ledger.reserve_next({"a": CHEAP}) == (8, 0)
    assert ledger.spent("a") == {CHEAP: 4}


def test_a_charge_that_does_not_fit_uses_up_no_key(ledger):
    dear = GaussianEvent(noise_multiplier=0.1, sampling=NoSampling())
    with pytest.raises(BudgetExceeded):
        ledger.reserve_next({"a": dear})
    assert ledger.reservations() == []
    assert ledger.reserve_next({"a": LAST}) == (0, 0)


def test_without_a_subject_or_a_number_left_no_key_is_given(ledger):
    for number in (None, 3):
        with pytest.raises(InputError, match="charges is empty"):
            ledger.reserve_next({}, round_number=number)
    with pytest.raises(InputError, match="round is -1"):
        ledger.reserve_next({"a": CHEAP}, round_number=-1)
    ledger.reserve(2**63 - 1, {"a": CHEAP}, attempt=2**63 - 1)
    with pytest.raises(InputError, match="round is 9223372036854775808"):
        ledger.reserve_next({"a": CHEAP})
    with pytest.raises(InputError, match="attempt is 9223372036854775808"):
        ledger.reserve_next({"a": CHEAP}, round_number=2**63 - 1)
    assert ledger.spent("a") == {CHEAP: 1}


def test_the_next_key_costs_the_same_after_100_000_reservations_as_after_10(tmp_path):
    """Counted in steps of SQLite's machine; half of the rows are of one round."""

    def steps(rows):
        done = 0

        def step():
            nonlocal done
            done += 1

        with Ledger.create(tmp_path / str(rows), BUDGET) as book:
            book.reserve(rows, {"a": CHEAP})
            with book._file.transaction() as connection:
                connection.executemany(
                    "INSERT INTO charges VALUES (?, 0, ?, 1, 1, 0, 'open', NULL, NULL, NULL)",
                    ((5 if n % 2 else n, n + 9) for n in range(rows)),
                )
            connection.set_progress_handler(step, 1)
            assert book.reserve_next({"a": CHEAP}) == (rows + 1, 0)
            assert book.reserve_next({"a": CHEAP}, round_number=5) == (5, 1)
        return done

    assert steps(10) == steps(100_000) > 100


def test_charges_add_up_over_rounds_as_one_composition(ledger):
    for number in range(5):
        ledger.reserve(number, {"a": EVENT})
    ledger.reserve(5, {"a": OTHER})
    assert ledger.epsilon("a") == pytest.approx(epsilon_rdp({EVENT: 5, OTHER: 1}, 1e-5), rel=1e-12)


def test_who_never_took_part_has_spent_nothing(ledger):
    assert ledger.epsilon("nobody") == 0
    assert ledger.spent("nobody") == {}
    assert ledger.epsilons() == {}


def test_a_round_that_would_pass_the_budget_charges_nobody_and_names_the_subject(ledger):
    ledger.reserve(0, {"b": LAST})
    head = ledger.head()
    with pytest.raises(BudgetExceeded) as caught:
        ledger.reserve(1, {"a": LAST, "b": LAST, "c": LAST})
    assert caught.value.subject == "b"
    assert caught.value.spent == ledger.epsilon("b") <= caught.value.budget == 8
    assert caught.value.would_be == epsilon_rdp({LAST: 2}, 1e-5) > 8
    assert ledger.subjects() == ["b"]
    assert ledger.head() == head


def test_a_calibrated_plan_is_admitted_to_its_last_round_and_no_further(ledger):
    sampling = PoissonSampling(rate=0.25)
    noise = noise_multiplier(epsilon=8, delta=1e-5, sampling=sampling, steps=30)
    for number in range(28):
        event = GaussianEvent(noise_multiplier=noise, sampling=sampling)
        ledger.reserve(number, {"a": event})
    both = GaussianEvent(noise_multiplier=noise, sampling=sampling, steps=2)
    ledger.reserve(28, {"a": both})
    assert 7.99 < ledger.epsilon("a") <= 8
    with pytest.raises(BudgetExceeded):
        ledger.reserve(29, {"a": event})


def test_an_abort_gives_back_and_a_retry_with_new_noise_is_a_new_charge(ledger):
    ledger.reserve(0, {"a": LAST})
    ledger.abort(0, ["a"])
    assert ledger.epsilon("a") == 0
    with pytest.raises(LedgerConflict, match="new attempt"):
        ledger.reserve(0, {"a": LAST})
    ledger.reserve(0, {"a": LAST}, attempt=1)
    assert ledger.epsilon("a") == epsilon_rdp({LAST: 1}, 1e-5)
    with pytest.raises(BudgetExceeded):
        ledger.reserve(0, {"a": LAST}, attempt=2)


def test_repeating_a_call_changes_nothing(ledger):
    ledger.reserve(0, {"a": EVENT, "b": EVENT})
    head = ledger.head()
    ledger.reserve(0, {"a": EVENT, "b": EVENT})
    assert ledger.head() == head
    ledger.commit(0, ["a"])
    ledger.abort(0, ["b"])
    head = ledger.head()
    ledger.reserve(0, {"a": EVENT})
    ledger.commit(0, ["a", "a"])
    ledger.abort(0, ["b"])
    assert ledger.head() == head
    assert ledger.spent("a") == {EVENT: 1}


def test_what_contradicts_the_book_is_refused_whole(ledger):
    ledger.reserve(0, {"a": EVENT, "b": EVENT, "open": EVENT})
    ledger.commit(0, ["a"])
    ledger.abort(0, ["b"])
    head = ledger.head()
    for call in (
        lambda: ledger.reserve(0, {"new": EVENT, "open": OTHER}),
        lambda: ledger.reserve(0, {"new": EVENT, "a": OTHER}),
        lambda: ledger.commit(0, ["open", "b"]),
        lambda: ledger.abort(0, ["open", "a"]),
        lambda: ledger.commit(0, ["open", "stranger"]),
        lambda: ledger.abort(0, ["open", "stranger"]),
        lambda: ledger.commit(0, ["open"], attempt=1),
        lambda: ledger.commit(1, ["open"]),
    ):
        with pytest.raises(LedgerConflict):
            call()
    assert ledger.head() == head


def test_late_joiners_of_a_round_are_charged_and_the_others_not_twice(ledger):
    ledger.reserve(0, {"a": EVENT})
    ledger.reserve(0, {"a": EVENT, "b": EVENT})
    assert ledger.spent("a") == ledger.spent("b") == {EVENT: 1}


@pytest.mark.parametrize(
    "event",
    [
        GaussianEvent(noise_multiplier=9, sampling=FixedSizeSampling(size=1, population=9)),
        GaussianEvent(noise_multiplier=9, sampling=ShuffledSampling(size=1, population=9)),
        GaussianEvent(noise_multiplier=9, sampling=PoissonSampling(rate=0.1), unit=Unit.CLIENT),
        GaussianEvent(noise_multiplier=9, sampling=NoSampling(), unit=Unit.CLIENT),
    ],
)
def test_an_event_that_is_unsound_alone_or_beside_the_others_is_not_admitted(ledger, event):
    ledger.reserve(0, {"a": EVENT})
    with pytest.raises(UnsoundEvent):
        ledger.reserve(1, {"a": event})
    assert ledger.spent("a") == {EVENT: 1}


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "\ud800", "x" * 257, 7, None])
def test_a_subject_that_cannot_be_a_name_is_refused(ledger, name):
    with pytest.raises(InputError):
        ledger.reserve(0, {name: EVENT})
    with pytest.raises(InputError):
        ledger.epsilon(name)


@pytest.mark.parametrize("number", [-1, 2**63, 1.0, True, None])
def test_rounds_and_attempts_are_checked(ledger, number):
    with pytest.raises(InputError):
        ledger.reserve(number, {"a": EVENT})
    with pytest.raises(InputError):
        ledger.commit(0, ["a"], attempt=number)


def test_one_name_in_place_of_a_list_of_names_is_refused(ledger):
    ledger.reserve(0, {"a": EVENT, "b": EVENT})
    with pytest.raises(InputError, match="collection"):
        ledger.abort(0, "ab")


def test_the_history_can_be_read_back(ledger):
    ledger.reserve(0, {"a": EVENT, "b": OTHER})
    ledger.reserve(1, {"a": EVENT}, attempt=1)
    ledger.commit(0, ["a"])
    ledger.abort(0, ["b"])
    create, first, second, commit, abort = ledger.records()
    assert (create.seq, create.action, create.round) == (0, "create", None)
    assert first.charges == {
        "a": Charge(server=EVENT, release=EVENT),
        "b": Charge(server=OTHER, release=OTHER),
    }
    assert (second.round, second.attempt, second.subjects) == (1, 1, ("a",))
    assert (commit.action, commit.subjects) == ("commit", ("a",))
    assert (abort.action, abort.subjects) == ("abort", ("b",))
    assert Head(seq=abort.seq, hash=abort.hash) == ledger.head()
    states = [(held.round, held.subject, held.state) for held in ledger.reservations()]
    assert states == [
        (0, "a", State.COMMITTED),
        (0, "b", State.ABORTED),
        (1, "a", State.OPEN),
    ]
    assert [held.charge.server for held in ledger.reservations(1)] == [EVENT]


NAMES = ("a", "b", "c")
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "commit", "abort", "reopen"]),
        st.integers(0, 1),  # round
        st.integers(0, 1),  # attempt
        st.lists(st.sampled_from(NAMES), unique=True),
        st.sampled_from([EVENT, OTHER, LAST]),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(CALLS)
def test_any_sequence_of_calls_leaves_what_a_plain_dictionary_says(calls):
    model, refused = {}, []

    def composition(name):
        return [(e, 1) for (s, _, _), (e, x) in model.items() if s == name and x != "aborted"]

    with tempfile.TemporaryDirectory() as folder:
        book = Ledger.create(Path(folder) / "book", BUDGET)
        for action, number, attempt, names, event in calls:
            keys = [(name, number, attempt) for name in names]
            held = [model.get(key) for key in keys]
            try:
                if action == "reserve":
                    book.reserve(number, dict.fromkeys(names, event), attempt=attempt)
                    for key in keys:
                        model.setdefault(key, (event, "open"))
                elif action == "reopen":
                    book.close()
                    book = Ledger.open(Path(folder) / "book", BUDGET)
                else:
                    getattr(book, action)(number, names, attempt=attempt)
                    target = {"commit": "committed", "abort": "aborted"}[action]
                    for key in keys:
                        model[key] = (model[key][0], target)
            except LedgerConflict:
                bad = {"reserve": ["aborted"], "commit": ["aborted"], "abort": ["committed"]}
                assert any(
                    (action != "reserve" and found is None)
                    or (found and found[1] in bad[action])
                    or (found and action == "reserve" and found[0] != event)
                    for found in held
                )
            except BudgetExceeded as error:
                refused.append([*composition(error.subject), (event, 1)])
        assert all(epsilon_rdp(charges, 1e-5) > 8 for charges in refused)
        for name in NAMES:
            assert book.epsilon(name) == pytest.approx(epsilon_rdp(composition(name), 1e-5))
            assert book.epsilon(name) <= 8
        assert {
            (held.subject, held.round, held.attempt): (held.charge.release, held.state.value)
            for held in book.reservations()
        } == model
        assert book.verify().head == book.head()
        book.close()


# Several processes, and their deaths


def test_of_two_processes_that_reserve_what_is_left_exactly_one_wins(path):
    Ledger.create(path, BUDGET).close()
    for contest in range(5):
        start, go = os.pipe()

        def race(number, start=start, go=go, contest=contest):
            os.close(go)
            with Ledger.open(path) as ours:
                os.read(start, 1)  # ends when the parent closes its side
                try:
                    ours.reserve(number, {f"subject {contest}": LAST})
                except BudgetExceeded:
                    return 1
            return 0

        children = [in_child(functools.partial(race, number)) for number in range(2)]
        os.close(start)
        os.close(go)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert sorted(codes) == [0, 1]
    with Ledger.open(path) as book:
        assert len(book.subjects()) == 5
        assert set(book.epsilons().values()) == {epsilon_rdp({LAST: 1}, 1e-5)}
        book.verify()


def test_processes_that_reserve_at_once_get_a_key_and_a_charge_each(path):
    """The same subject, event and minimum: under one key all of it would be one charge."""
    Ledger.create(path, BUDGET).close()
    start, go = os.pipe()
    found, keys = os.pipe()

    def race():
        os.close(go)
        with Ledger.open(path, timeout=60) as ours:
            os.read(start, 1)  # ends when the parent closes its side
            for number in (None, None, 99, 99):
                key = ours.reserve_next({"a": CHEAP}, round_number=number, minimum_survivors=3)
                os.write(keys, b"%d %d\n" % key)

    children = [in_child(race) for _ in range(4)]
    for end in (start, go, keys):
        os.close(end)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    with open(found, "rb") as lines:
        told = [tuple(map(int, line.split())) for line in lines]
    with Ledger.open(path) as book:
        held = [(entry.round, entry.attempt) for entry in book.reservations()]
        assert book.spent("a") == {CHEAP: 16}
        book.verify()
    assert len(held) == 16
    assert sorted(told) == held


def test_who_looks_for_a_free_round_before_the_charge_shares_it_with_another(path):
    """What ``reserve_next`` is against: two looked, then both reserved, and one charge is held."""
    with Ledger.create(path, BUDGET) as one, Ledger.open(path) as other:
        numbers = [len(book.reservations()) for book in (one, other)]
        for book, number in zip((one, other), numbers, strict=True):
            book.reserve(number, {"a": EVENT})
        assert one.spent("a") == {EVENT: 1}
        keys = [book.reserve_next({"a": EVENT}) for book in (one, other)]
        assert keys == [(1, 0), (2, 0)]
        assert one.spent("a") == {EVENT: 3}


def test_a_ledger_does_not_cross_a_fork(ledger):
    def use():
        try:
            ledger.reserve(0, {"a": EVENT})
        except LedgerError as error:
            return 0 if "fork" in str(error) else 2
        return 1

    assert os.waitpid(in_child(use), 0)[1] == 0


# Files that cannot be used


def test_the_disk_is_told_to_sync_on_every_connection(ledger, path):
    with Ledger.open(path) as other:
        for book in (ledger, other):
            assert book._file.connection.execute("PRAGMA synchronous").fetchone() == (2,)
            assert book._file.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_connection_that_would_not_sync_is_refused(path, ledger, monkeypatch):
    class Lazy(sqlite3.Connection):
        def execute(self, sql, *more):
            return super().execute(sql.replace("= FULL", "= NORMAL"), *more)

    monkeypatch.setattr(
        dp.ledger.storage.sqlite3, "connect", functools.partial(sqlite3.connect, factory=Lazy)
    )
    with pytest.raises(LedgerError, match="synchronous 1"):
        Ledger.open(path)


def test_the_budget_of_a_file_is_fixed(path, ledger):
    ledger.close()
    for other in (Budget(epsilon=9, delta=1e-5), Budget(epsilon=8, delta=1e-6)):
        with pytest.raises(LedgerConflict, match="budget"):
            Ledger.open(path, other)
    with Ledger.open(path, Budget(epsilon=8, delta=1e-5)) as again:
        assert again.budget == BUDGET


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 0.1), (-1, 0.1), (1, 0), (1, 1), ("8", 0.1)])
def test_a_budget_out_of_range_is_refused(epsilon, delta):
    with pytest.raises(InputError):
        Budget(epsilon=epsilon, delta=delta)


def test_a_ledger_is_never_overwritten(path, ledger):
    ledger.reserve(0, {"a": EVENT})
    with pytest.raises(LedgerConflict, match="exists"):
        Ledger.create(path, BUDGET)
    assert ledger.spent("a") == {EVENT: 1}


def test_closing_twice_is_harmless_and_use_after_it_an_error(ledger):
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        ledger.reserve(0, {"a": EVENT})


def test_a_missing_file_a_folder_and_an_unwritable_place_are_named(tmp_path):
    with pytest.raises(LedgerMissing, match="no ledger"):
        Ledger.open(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    for make in (Ledger.open, lambda place: Ledger.create(place, BUDGET)):
        with pytest.raises(LedgerError, match="folder"):
            make(tmp_path)
    with pytest.raises(LedgerError, match="cannot create"):
        Ledger.create(tmp_path / "absent" / "ledger", BUDGET)
    (tmp_path / "empty").touch()
    with pytest.raises(LedgerMissing, match="empty"):
        Ledger.open(tmp_path / "empty")


def test_what_is_no_ledger_is_refused_and_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all, but long enough to be read as one" * 20)
    stranger = tmp_path / "other.sqlite"
    raw(stranger, "CREATE TABLE things (x)")
    for place in (text, stranger):
        content = place.read_bytes()
        with pytest.raises(LedgerCorrupt):
            Ledger.open(place)
        with pytest.raises((LedgerCorrupt, LedgerConflict)):
            Ledger.create(place, BUDGET)
        assert place.read_bytes() == content


def test_a_file_of_a_newer_version_is_refused(path, ledger):
    ledger.close()
    for version, kind in ((4, LedgerError), (0, LedgerCorrupt), (-1, LedgerCorrupt)):
        raw(path, f"PRAGMA user_version = {version}")
        with pytest.raises(kind, match=f"schema {version}"):
            Ledger.open(path)


def test_a_file_that_a_newer_version_took_over_meanwhile_is_refused(path, ledger):
    raw(path, "PRAGMA user_version = 4")
    with pytest.raises(LedgerError, match="schema 4"):
        ledger.reserve(0, {"a": EVENT})


def test_a_locked_file_is_busy_and_nothing_is_charged(path, ledger):
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Ledger.open(path, timeout=0.01) as waiting:
        with pytest.raises(LedgerBusy, match="try again"):
            waiting.reserve(0, {"a": EVENT})
        holder.execute("ROLLBACK")
        waiting.reserve(0, {"a": EVENT})
    holder.close()
    assert ledger.spent("a") == {EVENT: 1}


def test_a_full_disk_charges_nobody_and_says_so(ledger):
    ledger.reserve(0, {"a": EVENT})
    (pages,) = ledger._file.connection.execute("PRAGMA page_count").fetchone()
    ledger._file.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError, match="disk is full"):
        ledger.reserve(1, {f"subject {n:0200}": EVENT for n in range(200)})
    assert ledger.subjects() == ["a"]
    ledger._file.connection.execute("PRAGMA max_page_count = 1000000")
    ledger.reserve(1, {"a": EVENT})
    ledger.verify()


def test_a_read_only_file_is_named(ledger):
    ledger.reserve(0, {"a": EVENT})
    ledger._file.connection.execute("PRAGMA query_only = 1")
    with pytest.raises(LedgerError, match="read-only"):
        ledger.reserve(1, {"a": EVENT})
    assert ledger.spent("a") == {EVENT: 1}


# What the chain shows, and what it does not


@pytest.fixture
def book(path):
    """A closed ledger of six records, and its head."""
    with Ledger.create(path, BUDGET) as made:
        made.reserve(0, {"a": EVENT, "b": EVENT})
        made.commit(0, ["a", "b"])
        made.reserve(1, {"a": OTHER, "b": EVENT})
        made.abort(1, ["b"])
        made.reserve(2, {"a": EVENT})
        return made.head()


@pytest.mark.parametrize(
    "edits",
    [
        ["UPDATE records SET body = replace(body, '2.0', '9.0') WHERE seq = 1"],
        ["UPDATE records SET body = replace(body, '8.0', '80.0') WHERE seq = 0"],
        ["UPDATE records SET hash = randomblob(32) WHERE seq = 5"],
        ["UPDATE records SET hash = 'x' WHERE seq = 5"],
        ["UPDATE records SET body = x'ff' WHERE seq = 5"],
        ["UPDATE records SET body = CAST(x'ff' AS TEXT) WHERE seq = 5"],
        ["DELETE FROM records WHERE seq = 2"],
        ["DELETE FROM records WHERE seq = 5"],
        ["DELETE FROM records WHERE seq = 0"],
        ["DELETE FROM records"],
        ["DELETE FROM records WHERE seq = 2", "UPDATE records SET seq = seq - 1 WHERE seq > 2"],
        [
            "UPDATE records SET seq = 99 WHERE seq = 3",
            "UPDATE records SET seq = 3 WHERE seq = 4",
            "UPDATE records SET seq = 4 WHERE seq = 99",
        ],
        ["UPDATE spent SET held = held - 1 WHERE subject = 1"],
        ["UPDATE spent SET realised = realised - 1 WHERE book = 1"],
        ["DELETE FROM spent WHERE subject = 1"],
        ["UPDATE events SET steps = 1"],
        ["UPDATE subjects SET name = 'z' WHERE name = 'a'"],
        ["UPDATE subjects SET epsilon = 99, delta = 0.1"],
        ["DELETE FROM subjects WHERE name = 'b'"],
        ["UPDATE charges SET minimum = 5"],
        ["UPDATE charges SET survivors = 5 WHERE state = 'committed'"],
        ["UPDATE charges SET real_server = 1, real_release = 1 WHERE round = 0"],
        ["UPDATE charges SET state = 'aborted' WHERE round = 2"],
        ["DELETE FROM charges WHERE round = 2"],
        ["UPDATE charges SET round = 7 WHERE round = 2"],
        ["INSERT INTO charges VALUES (9, 9, 1, 1, 1, 0, 'open', NULL, NULL, NULL)"],
        ["UPDATE events SET json = replace(json, '2.0', '9.0')"],
        ["UPDATE events SET json = 'nonsense' WHERE id = 1"],
        ["DELETE FROM events"],
        ["DROP TABLE spent"],
        ["DROP TABLE records"],
    ],
    ids=lambda edits: edits[0],
)
def test_an_edit_behind_the_ledgers_back_is_found(path, book, edits):
    with Ledger.open(path) as sound:
        assert sound.verify().head == book
    raw(path, *edits)
    with pytest.raises((LedgerCorrupt, LedgerError)) as caught, Ledger.open(path) as edited:
        edited.verify()
    assert str(path) in str(caught.value)


FORGERY = (
    "DELETE FROM records WHERE seq = 5",
    "DELETE FROM charges WHERE round = 2",
    "UPDATE spent SET held = 1, realised = 1 WHERE subject = 1 AND held = 2 AND event = 1",
)


def test_a_chain_computed_anew_is_found_only_against_a_head_kept_elsewhere(path, book):
    raw(path, *FORGERY)
    rechain(path)
    with Ledger.open(path) as forged:
        forged.verify()
        with pytest.raises(LedgerCorrupt, match="truncated"):
            forged.verify(book)
        forged.reserve(3, {"b": EVENT})
        with pytest.raises(LedgerCorrupt, match="not the one"):
            forged.verify(book)


def test_an_older_copy_is_found_only_against_a_head_kept_elsewhere(path, book, tmp_path):
    copy = tmp_path / "yesterday"
    shutil.copy(path, copy)
    with Ledger.open(path) as today:
        today.reserve(3, {"a": EVENT})
        head = today.head()
        assert today.verify(book).head == head
    with Ledger.open(copy) as old:
        old.verify()
        with pytest.raises(LedgerCorrupt, match="older copy"):
            old.verify(head)


def test_a_forged_record_that_contradicts_the_others_is_found(path, book):
    raw(
        path,
        "UPDATE records SET body = replace(replace(body, 'commit', 'abort'),"
        " ',\"survivors\":null', '') WHERE seq = 2",
    )
    rechain(path)
    with Ledger.open(path) as forged, pytest.raises(LedgerCorrupt, match="accounts hold"):
        forged.verify()


def test_damaged_pages_are_an_error_of_ours(path, book):
    content = bytearray(path.read_bytes())
    for place in range(4096, len(content), 512):
        content[place : place + 64] = b"\xa5" * 64
    path.write_bytes(content)
    with pytest.raises(LedgerCorrupt), Ledger.open(path) as damaged:
        damaged.verify()


def test_a_ledger_with_a_second_name_takes_no_charge(path: Path) -> None:
    """Under each name a process keeps a log of its own, and both may draw one key."""
    with Ledger.create(path, Budget(epsilon=8, delta=1e-5)) as ledger:
        ledger.reserve(0, {"a": GaussianEvent(noise_multiplier=4.0, sampling=NoSampling())})
        os.link(path, path.with_name("other.sqlite"))
        with pytest.raises(LedgerError, match="a hard link"):
            ledger.reserve(1, {"a": GaussianEvent(noise_multiplier=4.0, sampling=NoSampling())})
        path.with_name("other.sqlite").unlink()
        ledger.reserve(1, {"a": GaussianEvent(noise_multiplier=4.0, sampling=NoSampling())})


def test_text_that_is_no_utf_8_is_damage(path: Path) -> None:
    Ledger.create(path, Budget(epsilon=8, delta=1e-5)).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE records SET body = CAST(x'ff' || body AS TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerCorrupt, match="UTF-8"), Ledger.open(path) as ledger:
        ledger.verify()
