"""The audit: every number from the records, every gap named, nothing merged that differs."""

import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp.accounting.accountant import epsilon_pld, epsilon_rdp
from dp.accounting.events import (
    Event,
    GaussianEvent,
    NeighboringRelation,
    NoSampling,
    PoissonSampling,
    SkellamEvent,
    Unit,
)
from dp.accounting.filters import GdpFilter
from dp.empirical import gaussian_lower_bound, lower_bound
from dp.errors import InputError, LedgerCorrupt, PrivacyError
from dp.ledger.books import Verified
from dp.ledger.description import MATTERS
from dp.ledger.ledger import (
    Book,
    Budget,
    Charge,
    Head,
    HeadSigner,
    Ledger,
    LedgerOwner,
    Protection,
    SystemDescription,
)
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg.audit import report as audits
from secagg.audit.page import page
from secagg.audit.recount import MAX_SNAPSHOTS, Recount
from secagg.audit.report import SEAL_LABEL, attach, audit, seal_of, verify
from secagg.audit.values import Audit, Section
from secagg.errors import NotALedger

BUDGET = Budget(epsilon=4, delta=1e-5)


def example(noise: float = 4.0, rate: float = 0.1, steps: int = 1) -> GaussianEvent:
    sampling = PoissonSampling(rate=rate) if rate < 1 else NoSampling()
    return GaussianEvent(noise_multiplier=noise, sampling=sampling, steps=steps)


def client(noise: float = 20.0) -> GaussianEvent:
    return GaussianEvent(
        noise_multiplier=noise,
        sampling=NoSampling(),
        unit=Unit.CLIENT,
        adjacency=NeighboringRelation.ZERO_OUT,
    )


def skellam(variance: float) -> SkellamEvent:
    return SkellamEvent(
        variance=variance,
        l2_sensitivity=100.0,
        l1_sensitivity=1000.0,
        sampling=NoSampling(),
        unit=Unit.CLIENT,
        adjacency=NeighboringRelation.ZERO_OUT,
    )


def charged(
    path: Path, rounds: int = 5, *, noise: float = 4.0, budget: Budget = BUDGET, **more: Any
) -> Path:
    """A ledger of four clients; client 3 is there in the first round alone."""
    with Ledger.create(path, budget, **more) as book:
        for number in range(1, rounds + 1):
            names = [f"client-{n}" for n in range(4 if number == 1 else 3)]
            book.reserve(number, dict.fromkeys(names, example(noise)))
            book.commit(number, names)
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return charged(tmp_path / "ledger")


def only(result: Audit) -> Section:
    (section,) = result.sections
    return section


MATTERS_SAID = {name: f"what was said of {name}" for name in MATTERS} | {"data_digest": 64 * "a"}


def described(unit_count: int = 1000, **more: str) -> SystemDescription:
    """What a keeper may state."""
    return SystemDescription(
        unit_count=unit_count,
        mechanism="DP-SGD on each client",
        sampling="each example by its own coin",
        trusted=("the server follows the protocol",),
        released=("the model after every round",),
        unaccounted=("who took part", "batch sizes"),
        assumptions=("AES-128 is a pseudorandom function",),
        scope="one training",
        randomness="the system's generator",
        floating_point="noise in float32",
        sparse_graph=True,
        rounded_sums=True,
        **more,
    )


def stating(monkeypatch: pytest.MonkeyPatch, stated: SystemDescription) -> None:
    monkeypatch.setattr(Ledger, "statement", lambda _: stated, raising=False)


# Numbers


def test_epsilon_is_the_largest_of_all_subjects_by_loss_distributions(ledger: Path) -> None:
    section = only(audit(ledger))
    for report in section.books.values():
        assert report.accountant == "pld"
        assert report.epsilon == epsilon_pld({example(): 5}, 1e-5)
        assert report.rdp == pytest.approx(epsilon_rdp({example(): 5}, 1e-5), abs=1e-9)
    by_name = {subject.name: subject for subject in section.subjects}
    assert by_name["client-3"].accounts[Book.SERVER].epsilon == pytest.approx(
        epsilon_rdp({example(): 1}, 1e-5), abs=1e-9
    )


def test_an_event_without_a_loss_distribution_makes_the_number_rdp(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", BUDGET) as book:
        book.reserve(1, {"a": skellam(1e8), "b": client()})
        expected = max(book.epsilons().values())
    report = only(audit(tmp_path / "ledger")).books[Book.SERVER]
    assert (report.accountant, report.epsilon) == ("rdp", expected)
    assert "Skellam noise" in report.why


def test_both_books_are_told_apart(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", BUDGET) as book:
        book.reserve(1, {"a": Charge(server=client(10), release=client(30)), "b": client(30)})
        book.reserve(2, {"b": Charge(release=client(30))})
    books = only(audit(tmp_path / "ledger")).books
    assert books[Book.SERVER].epsilon == epsilon_pld({client(10): 1}, 1e-5)
    assert books[Book.RELEASE].epsilon == epsilon_pld({client(30): 2}, 1e-5)


def test_actual_noise_is_shown_beside_what_is_reserved(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", BUDGET) as book:
        book.reserve(1, {"a": client(10), "b": client(10)}, minimum_survivors=2)
        book.commit(1, {"a": client(14), "b": client(14)}, survivors=4)
        reserved, actual = (book.epsilon("a", basis=basis) for basis in ("reserved", "actual"))
    section = only(audit(tmp_path / "ledger"))
    report = section.books[Book.SERVER]
    assert (report.rdp, report.actual) == (reserved, actual)
    assert actual < reserved
    (row,) = section.rounds
    assert (row.planned, row.actual, row.survivors, row.minimum) == (10, 14, 4, 2)


def test_an_actual_price_beyond_the_budget_is_over_budget(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", Budget(epsilon=1, delta=1e-5)) as book:
        book.reserve(1, {"a": client(10), "b": client(10)})
        book.commit(1, {"a": client(2), "b": client(10)})
        assert book.epsilon("a") > 1
    result = audit(tmp_path / "ledger")
    assert (result.verdict, result.over) == ("over budget", ("a",))


def test_a_subjects_own_budget_is_the_one_that_counts(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", Budget(epsilon=1, delta=1e-5)) as book:
        book.set_budgets({"a": Budget(epsilon=9, delta=1e-6)})
        book.reserve(1, {"a": client(10), "b": client(10)})
        book.commit(1, {"a": client(2), "b": client(10)})
        spent = book.epsilon("a")
    result = audit(tmp_path / "ledger")
    subject = next(one for one in only(result).subjects if one.name == "a")
    assert (result.over, subject.delta) == ((), 1e-6)
    assert subject.accounts[Book.SERVER].epsilon == spent
    assert only(result).delta == 1e-5  # the one that holds for everybody


def test_an_aborted_reservation_costs_nothing_and_an_open_one_all(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", BUDGET) as book:
        book.reserve(1, {"gone": example(), "open": example()})
        book.abort(1, ["gone"])
    section = only(audit(tmp_path / "ledger"))
    spent = {subject.name: subject.accounts[Book.SERVER].epsilon for subject in section.subjects}
    assert spent["gone"] == 0.0
    assert spent["open"] > 0
    (row,) = section.rounds
    assert (row.reserved, row.aborted, row.committed, row.open) == (2, 1, 0, 1)


def test_examples_and_clients_never_share_a_number(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", BUDGET) as book:
        book.reserve(1, {"site": example(), "phone": client(30)})
        book.reserve(2, {"both": Charge(server=example(), release=client(30))})
    result = audit(tmp_path / "ledger")
    of_clients, of_examples = result.sections
    assert (of_clients.unit, of_examples.unit) == (Unit.CLIENT, Unit.EXAMPLE)
    assert {one.name for one in of_clients.subjects} == {"phone", "both"}
    assert {one.name for one in of_examples.subjects} == {"site", "both"}
    assert of_examples.epsilon == epsilon_pld({example(): 1}, 1e-5)
    assert of_clients.epsilon == epsilon_pld({client(30): 1}, 1e-5)
    assert "one example" in of_examples.sentence
    assert "one client" in of_clients.sentence
    assert "example of" not in of_clients.sentence
    assert "an epsilon of one says nothing of the other" in page(result)


def test_many_different_histories_are_reported_by_rdp_for_all(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", BUDGET) as book:
        rates = {f"client-{n}": example(rate=0.1 + n / 1e5) for n in range(audits._PLD_WORK + 1)}
        book.reserve(1, rates)
        most = max(book.epsilons().values())
    report = only(audit(tmp_path / "ledger")).books[Book.SERVER]
    assert (report.accountant, report.epsilon) == ("rdp", most)
    assert "different histories" in report.why


def test_histories_within_another_need_no_price_of_their_own() -> None:
    import numpy as np

    counts = np.array([[3, 0], [5, 1], [5, 0], [0, 2], [5, 1]], dtype=np.int64)
    kept = audits.maximal(counts, np.array([1e-5, 1e-5, 1e-5, 1e-5, 1e-6]))
    assert sorted((row.tolist(), delta) for row, delta in kept) == [
        ([0, 2], 1e-5),
        ([5, 1], 1e-6),
        ([5, 1], 1e-5),
    ]


def test_the_curve_passes_through_the_reported_number(ledger: Path) -> None:
    report = only(audit(ledger)).books[Book.SERVER]
    along = dict(report.curve)
    assert along[1e-5] == pytest.approx(report.epsilon)
    values = [along[delta] for delta in sorted(along, reverse=True)]
    assert values == sorted(values)


def test_quantiles_over_rounds_end_at_the_exact_numbers(tmp_path: Path) -> None:
    rounds = 2 * MAX_SNAPSHOTS + 7
    with Ledger.create(tmp_path / "ledger", Budget(epsilon=40, delta=1e-5)) as book:
        for number in range(rounds):
            book.reserve(
                number, {"a": client(50)} if number % 2 else {"a": client(50), "b": client(50)}
            )
        spent = sorted(book.epsilons().values())
    series = only(audit(tmp_path / "ledger")).series[Book.SERVER]
    assert len(series) <= MAX_SNAPSHOTS + 1
    assert series[-1] == (rounds - 1, (spent[0], *(spent[1],) * 4))
    most = [values[-1] for _, values in series]
    assert most == sorted(most)


OPERATION = st.tuples(
    st.sampled_from(["reserve", "commit", "realise", "abort"]),
    st.integers(0, 3),
    st.sets(st.sampled_from("abcd"), min_size=1),
    st.sampled_from([client(10), client(20), skellam(1e7), skellam(4e7)]),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations=st.lists(OPERATION, max_size=25))
def test_the_recount_agrees_with_the_ledger(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int, set[str], Event]]
) -> None:
    path = tmp_path_factory.mktemp("books") / "ledger"
    with Ledger.create(path, Budget(epsilon=500, delta=1e-5)) as book:
        for action, number, names, event in operations:
            try:
                if action == "reserve":
                    charge = Charge(server=event, release=None if number else client(30))
                    book.reserve(number, dict.fromkeys(names, charge))
                elif action == "commit":
                    book.commit(number, names)
                elif action == "realise":
                    charge = Charge(server=event, release=None if number else client(40))
                    book.commit(number, dict.fromkeys(names, charge))
                else:
                    book.abort(number, names)
            except PrivacyError:
                continue
        recount = Recount(audits._Pricer("fixed plan").shown)
        for record in book.records():
            recount.add(record)
        recount.finish()
        events = list(recount.events)
        assert sorted(recount.names) == book.subjects()
        for name, at in recount.names.items():
            for side in Book:
                for basis, counts in (("reserved", recount.reserved), ("actual", recount.actual)):
                    row = counts[at, side.number].tolist()
                    mine = {event: n for event, n in zip(events, row, strict=True) if n}
                    assert mine == book.spent(name, side, basis=basis)
                if recount.snapshots:
                    assert recount.snapshots[-1][1][at, side.number] == book.epsilon(
                        name, book=side
                    )


def test_under_a_filter_the_whole_budget_is_what_is_spent() -> None:
    event = client(20)
    pricer = audits._Pricer("GDP")
    recount = Recount(pricer.shown)
    recount.default = (2.0, 1e-5)
    recount.names, recount.events = {"a": 0}, {}
    for number in range(3):
        recount.add(_reservation(number, {"a": event}))
    recount.finish()
    (section,) = audits._sections(recount, pricer, None)
    report = section.books[Book.SERVER]
    assert (report.epsilon, report.accountant, report.rdp, report.curve) == (
        2.0,
        "filter",
        None,
        (),
    )
    one = GdpFilter(
        epsilon=2.0, delta=1e-5, unit=Unit.CLIENT, adjacency=NeighboringRelation.ZERO_OUT
    )
    spent = one.spend(replace(event, steps=3)).spent
    assert section.subjects[0].share == spent / one.capacity


def test_a_filter_that_is_passed_is_over_budget() -> None:
    for policy in ("zCDP", "GDP", "RDP at order 8"):
        pricer = audits._Pricer(policy)
        recount = Recount(pricer.shown)
        recount.default = (4.0, 1e-5)
        recount.add(_reservation(1, {"a": client(0.5), "b": client(100.0)}))
        recount.finish()
        (section,) = audits._sections(recount, pricer, None)
        assert [subject.over for subject in section.subjects] == [True, False]
        assert [one.accounts[Book.SERVER].epsilon for one in section.subjects] == [math.inf, 4.0]
        assert "has no bound" in section.sentence


def test_an_unknown_policy_is_refused() -> None:
    for policy in ("none", "Rényi", "RDP at order", "RDP at order many"):
        with pytest.raises(InputError, match="policy is"):
            audits._Pricer(policy)


def _reservation(number: int, charges: Mapping[str, Event]) -> Any:
    from dp.ledger.records import Entry

    both = {name: Charge(server=event) for name, event in charges.items()}
    return Entry(
        seq=number + 1,
        action="reserve",
        round=number,
        attempt=0,
        subjects=tuple(both),
        charges=both,
        data={"minimum": 0},
        hash=bytes(32),
    )


# Delta, and what was stated


def test_without_a_statement_every_gap_is_named(ledger: Path) -> None:
    result = audit(ledger)
    nobody = {row.item for row in result.rows if row.source == "nobody"}
    assert nobody == {
        "Delta",
        "How many units there are",
        "Who is trusted with what",
        "What is released",
        "What is released and not accounted for",
        "Assumptions",
        "Mechanism, as stated",
        "Sampling, as stated",
        "Scope of the composition",
        "Randomness",
        "Floating point",
        "Models that were released",
        *MATTERS.values(),
    }
    assert only(result).total_delta == 1e-5
    assert "Nobody stated" in page(result)


def test_with_a_statement_the_delta_is_the_systems(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stating(monkeypatch, described(**MATTERS_SAID))
    result = audit(ledger)
    section = only(result)
    assert section.reported == described().delta(1e-5, epsilon=section.epsilon, rounds=5, steps=5)
    assert section.total_delta > 1e-5
    missing = [row.item for row in result.rows if row.source == "nobody"]
    assert missing == ["Models that were released"]
    text = page(result)
    for said in ("who took part", "AES-128", "float32", "1,000"):
        assert said in text


def test_a_delta_of_one_over_n_is_refused(
    tmp_path: Path, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = charged(tmp_path / "coarse", budget=Budget(epsilon=9, delta=0.25))
    with pytest.raises(InputError, match="1/4"):  # four subjects hold four units at least
        audit(coarse)
    stating(monkeypatch, described(unit_count=100_000))
    with pytest.raises(InputError, match="1/100000"):
        audit(ledger)


def test_a_second_model_of_a_round_does_not_hide_the_first(ledger: Path) -> None:
    models = (bytes(32), bytes(range(32)), bytes(32))
    with Ledger.open(ledger) as book:
        for number, model in zip((4, 5, 4), models, strict=True):
            book.release(number, model)
        book.release(4, models[1])
    found = [(one.round, one.model) for one in audit(ledger).releases]
    assert found == [*zip((4, 5, 4), models, strict=True), (4, models[1])]


def test_an_audit_says_of_what_it_is(ledger: Path, tmp_path: Path) -> None:
    with Ledger.open(ledger) as book:
        book.declare(described(purpose="a study of hearts", data_set="heart disease, 1988"))
        book.release(4, bytes(32))
        book.release(5, bytes(range(32)))
    result = audit(ledger, today=date(2026, 11, 30))
    data = result.as_json()
    assert data["purpose"] == "a study of hearts"
    assert data["made_on"] == "2026-11-30"
    assert data["sha256"] == sha256(ledger.read_bytes()).hexdigest()
    assert data["models"] == [
        {"round": 4, "attempt": 0, "sha256": 64 * "0"},
        {"round": 5, "attempt": 0, "sha256": bytes(range(32)).hex()},
    ]
    assert data["sections"][0]["budget"] == {"epsilon": 4, "delta": 1e-5}
    text = page(result)
    for said in ("a study of hearts", "2026-11-30", data["sha256"], bytes(range(32)).hex()):
        assert said in text
    assert "Nobody passed the budget, epsilon 4.0 at delta 1e-5 for one example." in text
    named = {row.item: row for row in result.rows}
    assert named["Data set"].source == "keeper"
    assert named["Bias"].source == "nobody"


def test_nobody_is_told_that_records_show_a_plan_was_fixed(ledger: Path) -> None:
    rows = {row.item: row for row in audit(ledger).rows}
    assert rows["How parameters were chosen"].source == "keeper"


def test_a_head_kept_beside_is_called_so(ledger: Path) -> None:
    with Ledger.open(ledger) as book:
        head = book.head()
    assert audit(ledger, head=head).as_json()["protection"] == ["head kept elsewhere"]
    beside = audit(ledger, head=head, beside="metrics.json").as_json()
    assert beside["protection"] == ["head kept beside"]
    assert "elsewhere" not in "".join(beside["protection_in_words"])


def test_an_attached_result_is_counted_in_the_rows_and_its_mechanism_named(ledger: Path) -> None:
    weak = lower_bound(1000, 100, 75, delta=1e-5)
    mine, other = replace(weak, mechanism="gaussian"), replace(weak, mechanism="skellam")
    result = attach(audit(ledger), [mine, other, weak])
    row = next(row for row in result.rows if row.item == "Empirical audit")
    assert row.text.startswith("3 results attached, 1 of them of another mechanism")
    assert "None is attached" not in page(result)
    own, foreign, unnamed = result.measured
    assert "as this ledger's" in own.sentence
    assert "ANOTHER MECHANISM" in foreign.sentence
    assert "nobody said" in unnamed.sentence
    assert [one["another_mechanism"] for one in result.as_json()["measured"]] == [
        False,
        True,
        False,
    ]


def test_a_bound_on_another_mechanism_contradicts_nothing(ledger: Path) -> None:
    strong = lower_bound(1000, 1000, 1000, delta=1e-5)
    assert attach(audit(ledger), [strong]).verdict == "contradicted"
    other = attach(audit(ledger), [replace(strong, mechanism="skellam")])
    assert other.verdict == "sound"


def test_a_gaussian_curve_is_held_against_a_ledger_that_claims_one_alone(tmp_path: Path) -> None:
    strong = gaussian_lower_bound(1000, 1000, 900, delta=1e-5)
    strong = replace(strong, mechanism="gaussian")
    for rate, verdict in ((1.0, "contradicted"), (0.1, "sound")):
        path = tmp_path / f"{rate}"
        with Ledger.create(path, BUDGET) as book:
            book.reserve(1, {"a": example(rate=rate)})
            book.commit(1, ["a"])
        result = attach(audit(path), [strong])
        assert result.verdict == verdict
        said = "which this ledger does not claim" in result.measured[0].sentence
        assert said is (verdict == "sound")


def test_the_report_says_whose_word_it_is(tmp_path: Path) -> None:
    result = audit(charged(tmp_path / "own", keeper=LedgerOwner.CLIENT))
    assert result.keeper is LedgerOwner.CLIENT
    assert any(
        row.item == "Who keeps the ledger" and "A client." in row.text for row in result.rows
    )
    assert "kept by the client" in page(result)


# Attacks


def edit(path: Path, statement: str, *given: object) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement, given)
        connection.commit()


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit without its check of the chain."""
    monkeypatch.setattr(
        Ledger,
        "verify",
        lambda self, head=None: Verified(head=self.head(), protection=(Protection.NONE,)),
    )


def test_an_edited_record_is_found_and_named(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = only(audit(ledger)).epsilon
    edit(
        ledger,
        "UPDATE records SET body = replace(body, '\\\"noise_multiplier\\\":4.0',"
        " '\\\"noise_multiplier\\\":9.0') WHERE seq = 3",
    )
    with pytest.raises(LedgerCorrupt, match="record 3"):
        audit(ledger)
    unchecked(monkeypatch)
    assert only(audit(ledger)).epsilon < before  # the edit would have paid


def test_forged_accounts_are_found_and_were_never_believed(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = only(audit(ledger)).epsilon
    edit(ledger, "UPDATE spent SET held = 1, realised = 1")
    with pytest.raises(LedgerCorrupt, match="spent"):
        audit(ledger)
    unchecked(monkeypatch)
    with Ledger.open(ledger) as book:
        assert max(book.epsilons().values()) < before  # the file now says less
    assert only(audit(ledger)).epsilon == before


def test_a_forged_budget_is_found_and_was_never_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    with Ledger.create(path, Budget(epsilon=1, delta=1e-5)) as book:
        book.reserve(1, {"a": client(10)})
        book.commit(1, {"a": client(2)})
    edit(path, "UPDATE subjects SET epsilon = 50.0, delta = 1e-5")
    with pytest.raises(LedgerCorrupt, match="subjects"):
        audit(path)
    unchecked(monkeypatch)
    assert audit(path).over == ("a",)


def test_a_truncated_ledger_is_found_by_a_kept_head_alone(tmp_path: Path, ledger: Path) -> None:
    kept = audit(ledger).head
    older = charged(tmp_path / "older", rounds=3)
    assert audit(older).protection == (Protection.NONE,)  # in itself perfect
    with pytest.raises(LedgerCorrupt, match="truncated, or an older copy"):
        audit(older, head=kept)
    with pytest.raises(LedgerCorrupt, match="truncated, or an older copy"):
        verify(older, head=kept)


def test_a_chain_computed_anew_is_found_by_a_kept_head_or_a_signed_one(
    tmp_path: Path, ledger: Path
) -> None:
    kept = audit(ledger).head
    anew = charged(tmp_path / "anew", noise=40.0)
    assert audit(anew).verdict == "sound"
    with pytest.raises(LedgerCorrupt, match="not the one whose hash was kept"):
        audit(anew, head=kept)
    key = SigningKey(Secret(bytes(range(32))))
    with pytest.raises(LedgerCorrupt, match="carries no signature"):
        audit(anew, seal=seal_of(key.public))


def test_a_signed_head_is_checked_with_its_key(tmp_path: Path) -> None:
    key, other = (SigningKey(Secret(bytes([n] * 32))) for n in (1, 2))
    signing = HeadSigner(
        verify=seal_of(key.public).verify, sign=lambda message: key.sign(SEAL_LABEL, message)
    )
    path = charged(tmp_path / "ledger", seal=signing)
    assert audit(path, seal=seal_of(key.public)).protection == (Protection.SIGNATURE,)
    without = audit(path)
    assert without.unchecked_signature
    assert "Signed, not checked: this ledger" in page(without)
    with pytest.raises(LedgerCorrupt, match="not good"):
        audit(path, seal=seal_of(other.public))
    edit(path, "UPDATE seal SET signature = zeroblob(64)")
    with pytest.raises(LedgerCorrupt, match="not good"):
        audit(path, seal=seal_of(key.public))
    with pytest.raises(LedgerCorrupt, match="not good"):
        verify(path, seal=seal_of(key.public))


def test_a_record_that_does_not_follow_is_inconsistent() -> None:
    for records in (
        [_reservation(1, {"a": client()}), _reservation(1, {"a": client(9)})],
        [replace(_reservation(1, {"a": client()}), action="abort")],
        [replace(_reservation(1, {"a": client()}), action="refund")],
        [replace(_reservation(1, {"a": client()}), round=None)],
    ):
        recount = Recount(audits._Pricer("fixed plan").shown)
        for record in records[:-1]:
            recount.add(record)
        with pytest.raises(LedgerCorrupt, match="record 2"):
            recount.add(records[-1])


def test_an_event_the_ledger_would_have_refused_is_inconsistent(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(ledger, "UPDATE records SET body = replace(body, '\\\"add_or_remove', '\\\"replace_one')")
    unchecked(monkeypatch)
    with pytest.raises(LedgerCorrupt, match="refused"):
        audit(ledger)


def test_strangers_files_are_no_ledgers(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("epsilon = 0.1, honestly\n" * 50)
    database = tmp_path / "other.sqlite"
    edit(database, "CREATE TABLE notes (body TEXT)")
    edit(database, "PRAGMA application_id = 77")
    for path in (text, database):
        with pytest.raises(NotALedger):
            audit(path)


def test_a_head_belongs_to_its_ledger(ledger: Path) -> None:
    result = audit(ledger)
    assert audit(ledger, head=result.head).protection == (Protection.HEAD,)
    with pytest.raises(LedgerCorrupt):
        audit(ledger, head=Head(seq=result.head.seq, hash=bytes(32)))


def test_records_that_charge_nobody_count_for_nothing() -> None:
    recount = Recount(audits._Pricer("fixed plan").shown)
    for action in ("migrate", "seal", "state"):
        recount.add(replace(_reservation(1, {"a": client()}), action=action))
    recount.finish()
    assert (recount.names, recount.snapshots) == ({}, [])
