"""A ledger's files moved, removed or replaced while it is open, and bytes behind its last page.

Who goes on writing into a file that has lost its name charges what no other process sees.
"""

import os
import shutil
from contextlib import closing

import pytest
from behind import in_child

from dp.accounting.events import GaussianEvent, NoSampling
from dp.errors import BudgetExceeded, LedgerBusy, LedgerCorrupt, LedgerError
from dp.ledger import storage
from dp.ledger.ledger import Budget, Ledger

EVENT = GaussianEvent(noise_multiplier=2.0, sampling=NoSampling())
ONCE = Budget(epsilon=3.0, delta=1e-5)  # room for one EVENT, not for two


def beside(path, end):
    return path.with_name(path.name + end)


def removed(path):
    path.unlink()


def moved(path):
    path.rename(path.with_name("elsewhere"))


def replaced(path):
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.rename(path)


@pytest.fixture
def once(path):
    """A ledger with room for one charge a subject, closed and opened again."""
    Ledger.create(path, ONCE).close()
    return path


def test_there_is_room_for_one_charge(once):
    with Ledger.open(once) as book:
        book.reserve(0, {"a": EVENT})
        with pytest.raises(BudgetExceeded):
            book.reserve(1, {"a": EVENT})


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
@pytest.mark.parametrize("act", [removed, moved, replaced])
def test_a_file_that_lost_its_name_takes_no_charge_and_is_named(once, act, end):
    with Ledger.open(once) as book:
        book.reserve(0, {"a": EVENT})
        act(beside(once, end))
        with pytest.raises(LedgerError, match=rf"ledger.sqlite{end} was moved.*nothing was writ"):
            book.reserve(1, {"b": EVENT})
        assert book.spent("b") == {}


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_a_file_that_loses_its_name_during_a_write_is_refused_before_the_answer(once, end):
    def act(statement):
        if statement == "COMMIT":
            moved(beside(once, end))

    with Ledger.open(once) as book:
        book._file.connection.set_trace_callback(act)
        with pytest.raises(LedgerError, match=rf"ledger.sqlite{end} was moved.*as charged"):
            book.reserve(0, {"a": EVENT})


def test_a_file_that_is_replaced_while_it_is_opened_is_not_used(once, monkeypatch):
    connect = storage.sqlite3.connect

    def late(*given, **more):
        connection = connect(*given, **more)
        replaced(once)
        return connection

    monkeypatch.setattr(storage.sqlite3, "connect", late)
    with pytest.raises(LedgerBusy, match="replaced while it was opened"):
        Ledger.open(once)


def test_a_folder_that_was_moved_takes_no_charge(once):
    with Ledger.open(once) as book:
        book.reserve(0, {"a": EVENT})
        folder = once.parent
        folder.rename(folder.with_name("moved"))
        with pytest.raises(LedgerError, match="was moved"):
            book.reserve(1, {"b": EVENT})
        folder.with_name("moved").rename(folder)
        book.reserve(1, {"b": EVENT})


def test_a_link_that_leads_elsewhere_takes_no_charge(once):
    link, other = once.with_name("link"), once.with_name("other")
    link.symlink_to(once)
    Ledger.create(other, ONCE).close()
    with Ledger.open(link) as book:
        book.reserve(0, {"a": EVENT})
        link.unlink()
        link.symlink_to(other)
        with pytest.raises(LedgerError, match="was moved, removed or replaced"):
            book.reserve(1, {"b": EVENT})


def spends_twice(path):
    """One process holds the ledger and its log is swept away; another one charges as well."""
    reader, writer = os.pipe()

    def work():  # forked first: a copy of an open SQLite file shares what it locks and maps
        os.close(writer)
        os.read(reader, 1)
        with Ledger.open(path) as book:
            book.reserve(1, {"a": EVENT})
            book.reserve(2, {"b": EVENT})

    child = in_child(work)
    os.close(reader)
    with Ledger.open(path) as book:
        book.reserve(0, {"a": EVENT})
        for end in ("-wal", "-shm"):
            beside(path, end).unlink()
        os.close(writer)
        assert os.waitpid(child, 0)[1] == 0
        book.reserve(3, {"b": EVENT})


def test_without_the_check_a_log_swept_away_lets_two_processes_spend_one_budget(once, monkeypatch):
    monkeypatch.setattr(storage.File, "_check_places", lambda *_: None)
    spends_twice(once)


def test_a_log_swept_away_lets_nobody_spend_a_budget_twice(once):
    with pytest.raises(LedgerError, match="-wal was moved"):
        spends_twice(once)


# Bytes behind the last page


@pytest.mark.parametrize("tail", [b"x", bytes(4096), b"hidden" * 5000], ids=len)
@pytest.mark.parametrize("read_only", [False, True])
def test_bytes_behind_the_last_page_are_found_on_opening(once, tail, read_only):
    content = once.read_bytes() + tail
    once.write_bytes(content)
    with pytest.raises(LedgerCorrupt, match=f"{len(tail)} bytes follow its last page"):
        Ledger.open(once, read_only=read_only)
    assert once.read_bytes() == content


def test_bytes_behind_the_last_page_are_found_by_who_has_it_open(once):
    with Ledger.open(once) as book:
        book.reserve(0, {"a": EVENT})
        with once.open("ab") as file:
            file.write(b"x" * 4096 * 9)
        with pytest.raises(LedgerCorrupt, match="bytes follow its last page"):
            book.verify()


def test_a_page_added_and_counted_is_found_by_verify(once):
    content = bytearray(once.read_bytes() + bytes(4096))
    content[28:32] = (len(content) // 4096).to_bytes(4, "big")  # sqlite.org/fileformat.html, 1.3
    once.write_bytes(content)
    with Ledger.open(once) as book, pytest.raises(LedgerCorrupt, match="pages do not fit together"):
        book.verify()


def test_a_log_that_is_not_in_the_file_yet_is_no_damage(path):
    with Ledger.create(path, ONCE) as book:
        for number in range(20):
            book.reserve(number, {f"client-{number}-{n}": EVENT for n in range(50)})
        with closing(Ledger.open(path)) as other:
            other.verify()
        book.verify()
