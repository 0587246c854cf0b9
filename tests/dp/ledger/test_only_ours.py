"""A ledger's file holds a ledger's tables and nothing else; what else it brings is refused."""

import sqlite3
from contextlib import closing

import pytest
from behind import raw, rechain

from dp.accounting.accountant import epsilon_rdp
from dp.accounting.events import GaussianEvent, NoSampling
from dp.errors import InputError, LedgerConflict, LedgerCorrupt, LedgerMissing
from dp.ledger import ledger as ledger_module
from dp.ledger import reader, records, storage
from dp.ledger.ledger import Budget, Ledger

EVENT = GaussianEvent(noise_multiplier=2.0, sampling=NoSampling())
QUIET = GaussianEvent(noise_multiplier=99.0, sampling=NoSampling())
BUDGET = Budget(epsilon=4.0, delta=1e-5)
ROUNDS = 30  # of which the budget leaves room for two

FORGETS = """
CREATE TRIGGER forgets AFTER INSERT ON records WHEN new.body LIKE '{{"action":"commit"%'
BEGIN DELETE FROM records WHERE seq > {seq}; END
"""
LOWERS = """
CREATE TRIGGER lowers AFTER UPDATE OF state ON charges
WHEN new.state = 'committed' AND new.round > 0
BEGIN DELETE FROM charges WHERE round > 0; UPDATE spent SET held = 1, realised = 1; END
"""
KEEPS = """
CREATE TRIGGER keeps AFTER INSERT ON seal WHEN new.seq > {seq} + 1
BEGIN UPDATE seal SET (seq, signature) = (SELECT seq, signature FROM kept); END
"""


@pytest.fixture(params=[False, True], ids=["unsigned", "signed"])
def triggered(request, path, seal):
    """One round charged as it should be, then triggers that take back every later one."""
    seal = seal if request.param else None
    with Ledger.create(path, BUDGET, seal=seal) as book:
        book.reserve(0, {"ann": EVENT})
        book.commit(0, ["ann"])
        head = book.head()
    raw(path, FORGETS.format(seq=head.seq), LOWERS)
    if seal:
        raw(path, "CREATE TABLE kept AS SELECT * FROM seal", KEEPS.format(seq=head.seq))
    return path, seal, head


def release(book):
    for number in range(1, ROUNDS):
        book.reserve(number, {"ann": EVENT})
        book.commit(number, ["ann"])


def test_a_file_with_triggers_is_refused_by_their_name(triggered):
    path, seal, _ = triggered
    for read_only in (False, True):
        with pytest.raises(LedgerCorrupt, match="its trigger 'forgets' is of no ledger"):
            Ledger.open(path, seal=seal, read_only=read_only)


def test_without_the_check_triggers_hide_every_round_from_a_ledger_and_its_audit(
    triggered, monkeypatch
):
    path, seal, head = triggered
    monkeypatch.setattr(reader, "check_schema", lambda _: None)
    monkeypatch.setattr(records, "check_schema", lambda _: None)
    monkeypatch.setattr(storage, "_harden", lambda _: None)
    with Ledger.open(path, seal=seal) as book:
        book.reserve(1, {"ann": EVENT})
        with pytest.raises(LedgerCorrupt, match="was written and is not there"):
            book.commit(1, ["ann"])  # the second net
    monkeypatch.setattr(ledger_module, "holds", lambda *_: True)
    with Ledger.open(path, seal=seal) as book:
        release(book)
        assert book.verify(head).head == head
        assert book.epsilon("ann") < 2.2
    assert epsilon_rdp([(EVENT, ROUNDS)], BUDGET.delta) > 3 * BUDGET.epsilon


def test_a_trigger_made_while_the_ledger_is_open_stops_its_next_write(path, ledger):
    ledger.reserve(0, {"ann": EVENT})
    raw(path, LOWERS)
    with pytest.raises(LedgerCorrupt, match="its trigger 'lowers'"):
        ledger.commit(0, ["ann"])
    with pytest.raises(LedgerCorrupt, match="its trigger 'lowers'"):
        ledger.verify()
    raw(path, "DROP TRIGGER lowers")
    ledger.commit(0, ["ann"])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("CREATE TABLE notes (line TEXT)", "table 'notes' is of no ledger"),
        ("CREATE INDEX quick ON charges (state)", "index 'quick' is of no ledger"),
        ("CREATE VIEW people AS SELECT name FROM subjects", "view 'people' is of no ledger"),
        ("ALTER TABLE spent ADD COLUMN more", "table 'spent' is not as a ledger's"),
        ("DROP TABLE spent", "table 'spent' is missing"),
        ("ANALYZE", "table 'sqlite_stat1' is of no ledger"),
    ],
)
def test_another_schema_is_refused_by_the_name_of_what_is_wrong(path, ledger, edit, words):
    ledger.reserve(0, {"ann": EVENT})
    ledger.close()
    raw(path, edit)
    with pytest.raises(LedgerCorrupt, match=words):
        Ledger.open(path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("UPDATE records SET body = body || ' ' WHERE seq = 1", "is not written as"),
        (
            'UPDATE records SET body = replace(body, \'"minimum":0\', \'"minimum":0,"minimum":0\')',
            "is not written as",
        ),
        ("UPDATE records SET body = replace(body, '\"round\"', '\"rounds\"')", "says 'rounds'"),
        ("UPDATE records SET body = replace(body, '8.0', '8.00')", "is not written as"),
    ],
)
def test_a_second_spelling_of_a_record_is_refused_though_the_chain_fits(path, ledger, edit, words):
    ledger.reserve(0, {"ann": EVENT})
    ledger.reserve(1, {"ann": EVENT})
    ledger.close()
    raw(path, edit)
    rechain(path)
    with pytest.raises(LedgerCorrupt, match=words), Ledger.open(path) as edited:
        edited.verify()


def test_a_signature_in_an_unsigned_ledger_is_damage_and_no_lock(path, ledger):
    raw(path, "INSERT INTO seal VALUES (0, 0, x'00')")
    with pytest.raises(LedgerCorrupt, match="carries a signature, and no record says"):
        ledger.reserve(0, {"ann": EVENT})
    with pytest.raises(LedgerCorrupt, match="carries a signature, and no record says"):
        Ledger.open(path)
    raw(path, "DELETE FROM seal")
    ledger.reserve(0, {"ann": EVENT})


def test_a_signature_taken_away_is_found_without_the_key(path, seal):
    Ledger.create(path, BUDGET, seal=seal).close()
    raw(path, "DELETE FROM seal")
    with pytest.raises(LedgerCorrupt, match="its signature was removed"):
        Ledger.open(path)


def test_what_opening_looks_at_does_not_grow_with_the_file(path, ledger):
    counts = []
    for number in range(2):
        for round_number in range(number * 50, number * 50 + 50):
            ledger.reserve(round_number, {"ann": QUIET})
        with Ledger.open(path) as again, again._file.snapshot() as connection:
            steps = []
            connection.set_progress_handler(lambda steps=steps: steps.append(1), 1)
            records.check_end(connection)
            counts.append(len(steps))
    assert counts[1] == counts[0]


# A file without its log


def test_a_live_file_copied_without_its_log_is_no_empty_ledger(path, ledger):
    ledger.reserve(0, {"ann": EVENT})
    copy = path.with_name("copy.sqlite")
    copy.write_bytes(path.read_bytes())
    assert len(copy.read_bytes()) == 4096
    for use in (
        lambda: Ledger.open(copy),
        lambda: Ledger.open(copy, read_only=True),
        lambda: Ledger.create(copy, BUDGET),
    ):
        with pytest.raises(LedgerCorrupt, match=r"copied without its log.*spent is unknown"):
            use()


def test_a_file_of_no_bytes_is_taken_over(path):
    path.touch()
    with pytest.raises(LedgerMissing, match="is empty"):
        Ledger.open(path)
    Ledger.create(path, BUDGET).close()
    with pytest.raises(LedgerConflict):
        Ledger.create(path, BUDGET)


# Names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Zoe\u0308", "NFC"),
        (" Zo\u00eb", "begins or ends with a blank"),
        ("Zo\u00eb ", "begins or ends with a blank"),
    ],
)
def test_a_second_spelling_of_a_name_gets_no_budget_of_its_own(ledger, name, words):
    ledger.reserve(0, {"Zo\u00eb": EVENT})
    with pytest.raises(InputError, match=words):
        ledger.reserve(1, {name: EVENT})
    with pytest.raises(InputError, match=words):
        ledger.set_budgets({name: BUDGET})


@pytest.mark.skipif(
    not hasattr(sqlite3.Connection, "setconfig"), reason="sqlite3 has setconfig from 3.12 on"
)
def test_no_trigger_runs_in_a_connection_of_ours(path, ledger):
    raw(path, LOWERS)
    with closing(storage.File(path, 1.0)) as file:
        for switch in (sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW):
            assert file.connection.getconfig(switch) is False
        assert file.connection.getconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE) is True
