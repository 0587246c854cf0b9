"""What an auditor is told and may do: statements, a seal set later, reading without writing."""

import json
import math
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from behind import in_child, raw, rechain
from hypothesis import given
from hypothesis import strategies as st

from dp.accounting.events import GaussianEvent, NoSampling, PoissonSampling
from dp.errors import InputError, LedgerBusy, LedgerConflict, LedgerCorrupt, LedgerError
from dp.ledger import reader
from dp.ledger.ledger import (
    SCHEMA_VERSION,
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
from dp.ledger.records import head_of, write_seal

BUDGET = Budget(epsilon=8, delta=1e-5)
STEP = GaussianEvent(noise_multiplier=4, sampling=NoSampling())
STATEMENT = SystemDescription(
    unit_count=1000,
    mechanism="Skellam noise, one share a client",
    sampling="each example by its own coin, tossed by the client; the seed is not kept",
    trusted=("no party with a single update", "at least 14 clients to add their share"),
    released=("the sum of a round",),
    unaccounted=("who took part", "how many examples a client has"),
    scope="all rounds of this run, and no other run over the same data",
    randomness="AES-CTR, keyed by the operating system",
    floating_point="noise is drawn in integers; the clip is computed in float32",
    assumptions=("AES-128 is a pseudorandom function",),
    sparse_graph=True,
    rounded_sums=True,
    flooding_bits=40,
    sampler_error=1e-16,
    entries=650,
)


def files(folder, *, but="nothing"):
    """All that a reader could have changed."""
    return {
        item.name: (item.read_bytes(), item.stat().st_mtime_ns)
        for item in folder.iterdir()
        if item.is_file() and not item.name.endswith(but)
    }


# Statements


def test_a_statement_adds_up_its_delta_by_name():
    delta = STATEMENT.delta(1e-5, epsilon=2.0, rounds=100, steps=300)
    assert delta.accountant == 1e-5
    assert delta.sparse_graph == 100 * 2.0**-40
    assert delta.rounding == 300 * 2.0**-60
    eta = STATEMENT.epsilon_added(2.0, rounds=100) / 2  # a key each round
    left = 100 * 3 * 2.0**-40 + eta * (1e-5 + delta.sampler)
    assert delta.flooding == pytest.approx(left, rel=1e-3)
    assert delta.sampler == pytest.approx((1 + math.exp(2)) * 650 * 300 * 1e-16)
    assert 0 < 2 * eta < 1e-4
    plain = replace(
        STATEMENT,
        sparse_graph=False,
        rounded_sums=False,
        flooding_bits=None,
        sampler_error=0,
        entries=0,
    )
    assert plain.delta(1e-5, epsilon=2.0, rounds=100, steps=300).total == 1e-5
    with pytest.raises(InputError, match="1/1000"):
        STATEMENT.delta(1e-3, epsilon=2.0, rounds=1, steps=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"unit_count": 0},
        {"unit_count": 1000.0},
        {"unit_count": True},
        {"mechanism": ""},
        {"sampling": "   "},
        {"scope": "one line\nand another"},
        {"randomness": "\x1b[2J"},
        {"floating_point": "x" * 4097},
        {"mechanism": None},
        {"trusted": ["the server"]},
        {"released": "the sum"},
        {"unaccounted": ("",)},
        {"assumptions": (7,)},
        {"sparse_graph": 1},
        {"rounded_sums": None},
        {"flooding_bits": 29},
        {"flooding_bits": 40.0},
        {"sampler_error": -1e-16},
        {"sampler_error": float("nan")},
        {"sampler_error": True},
        {"entries": -1},
        {"entries": 0},
    ],
)
def test_a_statement_is_checked(wrong):
    with pytest.raises(InputError):
        replace(STATEMENT, **wrong)


LINES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20)
LISTS = st.lists(LINES, max_size=3).map(tuple)


@given(
    st.builds(
        SystemDescription,
        unit_count=st.integers(1, 10**12),
        **dict.fromkeys(("mechanism", "sampling", "scope", "randomness", "floating_point"), LINES),
        **dict.fromkeys(("trusted", "released", "unaccounted", "assumptions"), LISTS),
        sparse_graph=st.booleans(),
        rounded_sums=st.booleans(),
        flooding_bits=st.none() | st.integers(30, 200),
        sampler_error=st.just(0) | st.floats(1e-300, 1e-9),
        entries=st.integers(1, 10**9),
    )
)
def test_a_statement_comes_back_from_its_json(statement):
    assert SystemDescription.from_json(json.loads(json.dumps(statement.to_json()))) == statement


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data.pop("scope"),
        lambda data: data.update(more="text"),
        lambda data: data.update(trusted="everybody"),
        lambda data: data.update(sampler_error=0),
        lambda data: data.update(unit_count="1000"),
        lambda data: data.update(sparse_graph=1),
    ],
)
def test_json_that_is_no_statement_is_refused(edit):
    data = STATEMENT.to_json()
    edit(data)
    with pytest.raises(InputError):
        SystemDescription.from_json(data)
    with pytest.raises(InputError):
        SystemDescription.from_json([data])


def test_the_last_statement_stands_and_a_change_is_seen(path):
    changed = replace(STATEMENT, scope="this run and the one before")
    with Ledger.create(path, BUDGET) as book:
        assert (book.statement(), book.statements()) == (None, [])
        book.declare(STATEMENT)
        head = book.head()
        book.declare(STATEMENT)
        assert book.head() == head
        book.reserve(0, {"a": STEP})
        book.declare(changed)
        assert book.statement() == changed
        book.declare(STATEMENT)
    with Ledger.open(path, read_only=True) as book:
        assert book.statements() == [STATEMENT, changed, STATEMENT]
        actions = [record.action for record in book.records()]
        assert actions == ["create", "state", "reserve", "state", "state"]
        book.verify(head)


def test_a_statement_is_refused_where_one_unit_of_them_may_be_published_whole(path):
    with Ledger.create(path, BUDGET) as book:
        for units in (100_000, 99_999):  # the sampler is on top
            with pytest.raises(InputError, match=f"1/{units}"):
                book.declare(replace(STATEMENT, unit_count=units))
        assert book.statements() == []
        book.set_budgets({"a": Budget(epsilon=1, delta=1e-3)})
        with pytest.raises(InputError, match="1/1000"):
            book.declare(STATEMENT)
        book.declare(replace(STATEMENT, unit_count=100))
        with pytest.raises(InputError, match="1/100"):
            book.set_budgets({"b": Budget(epsilon=1, delta=0.01)})
        assert book.budget_of("b") == BUDGET


@pytest.mark.parametrize(
    "edit",
    [
        ("1000", "9000"),
        ('"unit_count":1000', '"unit_count":"many"'),
        ("scope", "hope"),
        ('{"action":"state"', '{ "action":"state"'),
    ],
)
def test_an_edited_statement_is_found(path, edit):
    with Ledger.create(path, BUDGET) as book:
        book.declare(STATEMENT)
        head = book.head()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE records SET body = replace(body, ?, ?) WHERE seq = 1", edit)
    connection.close()
    with pytest.raises(LedgerCorrupt, match="breaks the chain"):
        Ledger.open(path)  # the last record is looked at
    rechain(path)
    with pytest.raises(LedgerCorrupt), Ledger.open(path) as book:
        book.verify(head)
    if "9000" not in edit:  # what a chain alone shows
        with pytest.raises(LedgerCorrupt, match="record 1"), Ledger.open(path) as book:
            book.verify()


# A seal set later


def test_a_ledger_signed_later_is_signed_from_that_record_on(path, seal):
    with Ledger.create(path, BUDGET) as book:
        book.reserve(0, {"a": STEP})
        book.seal(seal)
        book.reserve(1, {"a": STEP})
        found = book.verify()
        assert found.protection == (Protection.SIGNATURE,)
        assert (found.signed_from, found.head.seq) == (2, 3)
        with pytest.raises(LedgerConflict, match="signed already"):
            book.seal(seal)
    with Ledger.open(path) as bare, pytest.raises(LedgerError, match="signed"):
        bare.reserve(2, {"a": STEP})
    with Ledger.open(path, seal=HeadSigner(verify=seal.verify), read_only=True) as reader:
        assert reader.verify().signed_from == 2
    raw(path, "UPDATE records SET body = replace(body, '4.0', '9.0') WHERE seq = 1")
    rechain(path)
    with pytest.raises(LedgerCorrupt, match="sign"):
        Ledger.open(path, seal=seal)


def test_another_process_that_has_it_open_writes_no_more_once_it_is_signed(path, seal):
    with Ledger.create(path, BUDGET) as book, Ledger.open(path) as other:
        book.seal(seal)
        with pytest.raises(LedgerError, match="signed"):
            other.reserve(0, {"a": STEP})


def test_a_seal_set_later_shows_nothing_of_what_was_done_before(path, seal):
    with Ledger.create(path, BUDGET) as book:
        book.reserve(0, {"a": STEP})
    raw(
        path,
        "UPDATE records SET body = replace(body, '4.0', '9.0') WHERE seq = 1",
        "UPDATE events SET json = replace(json, '4.0', '9.0')",
    )
    rechain(path)
    with Ledger.open(path) as forged:
        forged.seal(seal)
        assert forged.verify().signed_from == 2
        assert list(forged.spent("a")) == [replace(STEP, noise_multiplier=9)]


def test_an_unsound_file_a_reader_and_a_key_that_does_not_fit_seal_nothing(path, seal):
    with Ledger.create(path, BUDGET) as book:
        book.reserve(0, {"a": STEP})
        head = book.head()
        with pytest.raises(InputError, match="no sign"):
            book.seal(HeadSigner(verify=seal.verify))
        with pytest.raises(LedgerCorrupt, match="not good"):
            book.seal(HeadSigner(verify=seal.verify, sign=lambda message: b"else"))
        assert book.head() == head
        raw(path, "UPDATE spent SET held = 0")
        with pytest.raises(LedgerCorrupt, match="accounts hold"):
            book.seal(seal)
        assert book.head() == head


# Reading without writing


def test_who_reads_only_writes_nothing_and_is_refused_what_would(path, seal):
    with Ledger.create(path, BUDGET) as book:
        book.reserve(0, {"a": STEP})
    before = files(path.parent)
    with Ledger.open(path, BUDGET, read_only=True) as reader:
        assert reader.epsilons() == {"a": reader.epsilon("a")}
        assert reader.verify().head == reader.head()
        for call in (
            lambda: reader.reserve(1, {"a": STEP}),
            lambda: reader.commit(0, ["a"]),
            lambda: reader.abort(0, ["a"]),
            lambda: reader.set_budgets({"b": BUDGET}),
            lambda: reader.declare(STATEMENT),
            lambda: reader.seal(seal),
        ):
            with pytest.raises(LedgerError, match="opened with read_only"):
                call()
    assert files(path.parent) == before


def test_a_file_being_written_is_read_through_its_log_and_left_alone(path, tmp_path):
    with Ledger.create(path, BUDGET) as book:
        book.reserve(0, {"a": STEP})
        before = files(path.parent, but="-shm")  # locks, which connections of a process share
        assert before["ledger.sqlite-wal"][0]
        with Ledger.open(path, read_only=True) as reader:
            assert reader.spent("a") == {STEP: 1}
            reader.verify()
            assert files(path.parent, but="-shm") == before
            book.reserve(1, {"a": STEP})
            assert reader.spent("a") == {STEP: 2}
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for item in path.parent.glob("ledger.sqlite*"):
            shutil.copy(item, crashed)
    before = files(crashed)
    with Ledger.open(crashed / path.name, read_only=True) as reader:
        assert reader.spent("a") == {STEP: 2}
        reader.verify()
    assert files(crashed) == before
    (crashed / "ledger.sqlite-shm").unlink()
    with pytest.raises(LedgerError, match="copy both"):
        Ledger.open(crashed / path.name, read_only=True)


def test_a_file_written_while_it_is_read_without_its_log_is_busy(path):
    with Ledger.create(path, BUDGET) as book:
        book.reserve(0, {"a": STEP})
    with Ledger.open(path, read_only=True) as reader:
        with Ledger.open(path) as writer:
            writer.reserve(1, {"a": STEP})
        with pytest.raises(LedgerBusy, match="open it anew"):
            reader.verify()


def test_a_copy_without_permission_to_write_in_a_folder_without_it_is_audited(path):
    with Ledger.create(path, BUDGET) as book:
        book.reserve(0, {"a": STEP})
    path.chmod(0o444)
    path.parent.chmod(0o555)
    for folder in path.parent.parents:  # another user must reach it
        if folder.stat().st_uid == os.getuid() and "pytest" in str(folder):
            folder.chmod(0o755)

    def work():
        if os.getuid() == 0:
            os.setuid(65534)
        with Ledger.open(path, read_only=True) as reader:
            return 0 if reader.verify().head.seq == 1 else 2

    assert os.waitpid(in_child(work), 0)[1] == 0
    path.parent.chmod(0o755)


# Older schemas


V1_HEAD = Head(
    seq=6, hash=bytes.fromhex("5a7f1c093a6e89169cdfea57e1793841b2ca17f355540971666376aa9aba90b2")
)
V2_HEAD = Head(
    seq=5, hash=bytes.fromhex("7d4eec42840acd8eb72292745a22c0d5970cdaf8390d32ec99b65e3749c65756")
)


def older(path, version):
    """A file that this version of the ledger wrote."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript((Path(__file__).parent / f"ledger_v{version}.sql").read_text())
    connection.close()


def as_of_2(path, *edits, seal=None):
    """Edit a new file into one that schema 2 could have written: no schema in its first record."""
    raw(
        path,
        *edits,
        "UPDATE records SET body = replace(body, ',\"schema\":3', '') WHERE seq = 0",
        "PRAGMA user_version = 2",
    )
    rechain(path)
    if seal:
        connection = sqlite3.connect(path, isolation_level=None)
        write_seal(connection, head_of(connection), seal.sign)
        connection.close()


def sampled(noise):
    return GaussianEvent(noise_multiplier=noise, sampling=PoissonSampling(rate=0.1))


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_of_schema_2_is_read_as_it_is_and_brought_here_only_to_be_written(path, read_only):
    older(path, 2)
    before = files(path.parent)
    with Ledger.open(path, BUDGET, read_only=read_only) as book:
        assert book.verify(V2_HEAD).head.seq == (5 if read_only else 6)
        assert (book.keeper, book.policy) == (LedgerOwner.SERVER, "fixed plan")
        assert book.spent("a") == {sampled(1.5): 1, sampled(3): 2}
        assert book.spent("b", Book.RELEASE) == {sampled(4): 1}
        assert book.spent("b", Book.RELEASE, basis="actual") == {sampled(5): 1}
        assert book.budget_of("b") == Budget(epsilon=2, delta=1e-6)
        assert book.epsilons() == pytest.approx({"a": 0.9637808557029562, "b": 0.17366120924829143})
        assert book.statement() is None
        if read_only:
            assert files(path.parent) == before
        else:
            book.declare(STATEMENT)
            book.commit(1, {"a": sampled(4)})
            actions = [record.action for record in book.records()]
            assert actions[-4:] == ["abort", "migrate", "state", "commit"]
    with Ledger.open(path, read_only=True) as again:
        again.verify(V2_HEAD)


def test_a_file_of_schema_1_is_not_changed_by_who_reads_only(path):
    older(path, 1)
    before = files(path.parent)
    with pytest.raises(LedgerError, match="open a copy of it without read_only"):
        Ledger.open(path, read_only=True)
    assert files(path.parent) == before
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    Ledger.open(copy).close()
    with Ledger.open(copy, read_only=True) as reader:
        reader.verify(V1_HEAD)


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE spent SET held = 0 WHERE subject = 2",
        "UPDATE records SET body = replace(body, '2.0', '9.0') WHERE seq = 2",
        "DELETE FROM records WHERE seq = 0",
    ],
)
def test_a_file_of_schema_2_that_was_tampered_with_is_refused_and_left_alone(path, edit):
    older(path, 2)
    raw(path, edit)
    with pytest.raises(LedgerCorrupt):
        Ledger.open(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


def test_a_signed_file_of_schema_2_is_brought_here_by_who_can_sign_alone(path, seal):
    with Ledger.create(path, BUDGET, seal=seal) as book:
        book.reserve(0, {"a": Charge(server=STEP)})
    as_of_2(path, seal=seal)
    for auditor in (None, HeadSigner(verify=seal.verify)):
        with pytest.raises(LedgerError, match="read_only"):
            Ledger.open(path, seal=auditor)
        with Ledger.open(path, seal=auditor, read_only=True) as book:
            book.verify()
    with Ledger.open(path, seal=seal) as book:
        assert book.verify().signed_from == 0
        assert [record.action for record in book.records()][-1] == "migrate"
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    connection.close()


def test_a_forged_file_of_schema_2_is_never_signed_over(path, seal):
    with Ledger.create(path, BUDGET, seal=seal) as book:
        book.reserve(0, {"a": STEP})
    as_of_2(
        path,
        "UPDATE records SET body = replace(body, '4.0', '9.0') WHERE seq = 1",
        "UPDATE events SET json = replace(json, '4.0', '9.0')",
    )
    with pytest.raises(LedgerCorrupt, match="sign"):
        Ledger.open(path, seal=seal)


def is_refused_as_older(path, seal=None):
    content = path.read_bytes()
    for read_only in (True, False):
        with pytest.raises(LedgerCorrupt, match=r"says schema 2, and its record \d is of a later"):
            Ledger.open(path, seal=seal, read_only=read_only)
    assert path.read_bytes() == content


@pytest.mark.parametrize("signed", [False, True])
def test_a_file_that_says_an_older_schema_than_its_own_is_damage_and_not_migrated(
    path, seal, signed
):
    seal = seal if signed else None
    with Ledger.create(path, BUDGET, seal=seal) as book:
        book.reserve(0, {"a": STEP})
    raw(path, "PRAGMA user_version = 2")
    is_refused_as_older(path, seal)


def test_without_the_check_a_wrong_schema_is_absorbed_by_a_migration(path, monkeypatch):
    Ledger.create(path, BUDGET).close()
    raw(path, "PRAGMA user_version = 2")
    monkeypatch.setattr(reader, "check_age", lambda *_: None)
    with Ledger.open(path) as book:
        book.verify()
        assert [record.action for record in book.records()] == ["create", "migrate"]


@pytest.mark.parametrize("newer", ["policy", "statement", "seal", "migration"])
def test_a_file_made_before_its_first_record_said_a_schema_is_told_by_what_is_new_in_it(
    path, seal, newer
):
    if newer == "migration":
        older(path, 2)
        Ledger.open(path).close()
        raw(path, "PRAGMA user_version = 2")
    else:
        policy = {"policy": "zCDP"} if newer == "policy" else {}
        with Ledger.create(path, BUDGET, **policy) as book:
            if newer == "statement":
                book.declare(STATEMENT)
            elif newer == "seal":
                book.seal(seal)
        as_of_2(path, seal=seal if newer == "seal" else None)
    is_refused_as_older(path)


def test_a_schema_lowered_while_the_ledger_is_open_stops_its_next_write(path):
    with Ledger.create(path, BUDGET) as book:
        raw(path, "PRAGMA user_version = 2")
        with pytest.raises(LedgerCorrupt, match="says schema 2, and was opened with 3"):
            book.reserve(0, {"a": STEP})
        with pytest.raises(LedgerCorrupt, match="its record 0 is of a later one"):
            book.verify()


# Models


def test_a_model_is_written_down_beside_its_round(ledger, path):
    ledger.reserve(3, {"a": STEP})
    ledger.release(3, bytes(range(32)))
    ledger.release(3, bytes(range(32)))  # the same again changes nothing
    last = list(ledger.records())[-1]
    assert (last.action, last.round, last.attempt) == ("model", 3, 0)
    assert last.data["model"] == bytes(range(32)).hex()
    assert ledger.verify().head.seq == last.seq


def test_no_charge_is_taken_back_once_its_model_was_released(ledger):
    ledger.reserve(3, {"a": STEP, "b": STEP})
    ledger.abort(3, ["b"])
    ledger.release(3, bytes(32))
    with pytest.raises(LedgerConflict, match="model of round 3, attempt 0 was released"):
        ledger.abort(3, ["a"])
    assert ledger.epsilon("a") > 0
    ledger.abort(3, ["b"])  # as it was


def test_a_chain_that_takes_back_what_a_model_came_of_is_found(ledger, path, monkeypatch):
    ledger.reserve(3, {"a": STEP})
    ledger.release(3, bytes(32))
    monkeypatch.setattr("dp.ledger.ledger.of_action", lambda *_: iter(()))
    ledger.abort(3, ["a"])  # the first of two checks removed
    assert ledger.epsilon("a") == 0
    with pytest.raises(LedgerCorrupt, match="taken back whose model was released"):
        ledger.verify()


def test_a_model_of_no_round_is_refused(ledger):
    with pytest.raises(LedgerConflict, match="nothing is charged in round 3, attempt 0"):
        ledger.release(3, bytes(32))
    ledger.reserve(3, {"a": STEP})
    ledger.abort(3, ["a"])
    with pytest.raises(LedgerConflict, match="reserve first"):
        ledger.release(3, bytes(32))
    for wrong in (b"", bytes(31), "00" * 32, None):
        with pytest.raises(InputError, match="32 bytes"):
            ledger.release(3, wrong)


@pytest.mark.parametrize(
    "record",
    [
        {"action": "model", "round": 9, "attempt": 0, "model": 64 * "0"},
        {"action": "model", "round": 1, "attempt": 0, "model": 62 * "0"},
        {"action": "model", "round": 1, "attempt": 0, "model": "no hex"},
        {"action": "model", "round": 1, "attempt": 0, "model": 64 * "A"},
        {"action": "model", "round": 1, "attempt": 0},
    ],
)
def test_a_forged_record_of_a_model_is_damage(path, record):
    with Ledger.create(path, BUDGET) as book:
        book.reserve(1, {"a": STEP})
    body = json.dumps(record, sort_keys=True, separators=(",", ":"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO records VALUES (2, ?, zeroblob(32))", (body,))
    rechain(path)
    with Ledger.open(path) as book, pytest.raises(LedgerCorrupt, match="contradicts"):
        book.verify()


def test_what_is_not_stated_is_not_written_and_older_statements_are_read():
    data = STATEMENT.to_json()
    assert "purpose" not in data
    assert SystemDescription.from_json(data) == STATEMENT
    whole = replace(STATEMENT, purpose="a study", data_digest=64 * "0")
    assert SystemDescription.from_json(whole.to_json()) == whole
    with pytest.raises(InputError, match="leave it out"):
        SystemDescription.from_json(data | {"purpose": ""})
    for name, wrong in (("data_digest", "abc"), ("purpose", " "), ("bias", "a\nb"), ("tuning", 3)):
        with pytest.raises(InputError, match=name):
            replace(STATEMENT, **{name: wrong})
