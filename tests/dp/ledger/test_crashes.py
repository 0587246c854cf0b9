"""The ledger under kill -9, and over a disk that forgets what was not synced, or fails.

A killed process leaves the page cache, so it tests order and not fsync. The second part
therefore stands between SQLite and the file: a VFS that wraps the default one and writes
down every write, truncation, deletion and sync, on the SQLite that the ledger really
uses. From that log every crash is played back: of what was not synced to a file any part
may be on disk, in any order, torn at sector bounds. It trusts what a disk reports as synced.
"""

import _sqlite3
import ctypes
import functools
import os
import random
import resource
import signal
import sqlite3
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from behind import in_child

import dp.ledger.storage
from dp.accounting.events import GaussianEvent, PoissonSampling
from dp.errors import LedgerCorrupt, LedgerError, LedgerMissing
from dp.ledger.ledger import FIXED_PLAN, Book, Budget, Charge, Ledger, SystemDescription

BUDGET = Budget(epsilon=8, delta=1e-5)
CHEAP, PLAN, DEAR = (
    GaussianEvent(noise_multiplier=z, sampling=PoissonSampling(rate=0.1)) for z in (12, 10, 8)
)
STATEMENT = SystemDescription(
    unit_count=1000,
    **dict.fromkeys(("mechanism", "sampling", "scope", "randomness", "floating_point"), "said"),
    **dict.fromkeys(("trusted", "released", "unaccounted", "assumptions"), ()),
)
PATIENT = 12  # subjects of every round
SECTOR = 512  # bytes that a disk writes whole or not at all
FULL, NO_SYNC, NO_WRITE = 13, 10 | 4 << 8, 10 | 3 << 8  # SQLITE_FULL, SQLITE_IOERR_FSYNC, _WRITE


@pytest.fixture
def path():
    """In memory where there is such a place: what is tested here is not the disk's speed."""
    memory = Path("/dev/shm")  # noqa: S108 - a fresh folder inside it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder) / "ledger"


def names(number):
    return [f"client-{number % 3}-{n}" for n in range(PATIENT)]


def protocol(book, say):
    """Rounds of every kind.

    ``say(change)`` maps (subject, book) to how much more is owed from here on, in ``PRICE``:
    above 0 right after the call that charged it, below 0 right before one that takes it back.
    """
    book.set_budgets({"client-0-0": Budget(epsilon=4, delta=1e-6)})
    book.declare(STATEMENT)
    for number in range(9):
        people = names(number)
        gone, spoke = people[:3], people[3:]
        charge = Charge(server=PLAN, release=CHEAP)
        book.reserve(number, dict.fromkeys(people, charge), minimum_survivors=3)
        say({(name, book): PRICE[e] for name in people for book, e in charge.events().items()})
        match number % 3:
            case 0 if book.policy != FIXED_PLAN:  # what came out cheaper is freed
                say({(name, Book.SERVER): PRICE[CHEAP] - PRICE[PLAN] for name in spoke})
                book.commit(number, dict.fromkeys(spoke, CHEAP), survivors=9)
            case 0:
                book.commit(number, spoke, survivors=9)
                say({(n, book): -PRICE[e] for n in gone for book, e in charge.events().items()})
                book.abort(number, gone)
            case 1:
                dearer = Charge(server=DEAR, release=CHEAP)
                book.commit(number, dict.fromkeys(spoke, dearer), survivors=5)
                say({(name, Book.SERVER): PRICE[DEAR] - PRICE[PLAN] for name in spoke})
            case 2:
                book.commit(number, spoke, survivors=9)
                book.reserve(number, dict.fromkeys(gone, PLAN), attempt=1)
                say({(name, kind): PRICE[PLAN] for name in gone for kind in Book})


PRICE = {CHEAP: 1, PLAN: 2, DEAR: 3}


def owed(changes):
    total = Counter()
    for change in changes:
        total.update(change)
    return total


def sound(path, promised):
    """The book opens, is whole, holds all that is owed, and can go on."""
    with Ledger.open(path) as book:
        book.verify()
        if promised and book.statement() != STATEMENT:  # stated before the first charge
            return False
        held = {kind: book.compositions(kind) for kind in Book}
        for (name, kind), least in promised.items():
            spent = held[kind].get(name, {})
            if sum(PRICE[event] * count for event, count in spent.items()) < least:
                return False
        book.reserve(99, {"client-9": PLAN})
    return True


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """All that the protocol says, in order."""
    said = []
    with Ledger.create(tmp_path_factory.mktemp("said") / "ledger", BUDGET) as book:
        protocol(book, said.append)
    return said


# kill -9


def statements_until(limit):
    """A trace callback that kills its own process before the statement of that number."""
    left = limit

    def count(_):
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    return count


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_any_statement_the_book_holds_all_that_could_have_left(path, changes, stride):
    """SIGKILL before every statement of the protocol above, or before each of that stride."""
    Ledger.create(path, BUDGET).close()
    fresh = path.read_bytes()
    for statement in range(0, 1000, stride):
        for old in path.parent.iterdir():
            old.unlink()
        path.write_bytes(fresh)
        reader, writer = os.pipe()

        def work(statement=statement, writer=writer):
            book = Ledger.open(path)
            book._file.connection.set_trace_callback(statements_until(statement))
            protocol(book, lambda _: os.write(writer, b"."))

        _, status = os.waitpid(in_child(work), 0)
        os.close(writer)
        said = len(os.read(reader, 1000))
        os.close(reader)
        assert sound(path, owed(changes[:said])), statement
        if not os.WIFSIGNALED(status):
            break
    assert status == 0
    assert statement >= 200


def test_a_process_killed_while_creating_leaves_nothing_or_a_ledger(path):
    for statement in range(200):
        for old in path.parent.iterdir():
            old.unlink()

        def work(statement=statement):
            count = statements_until(statement)

            class Mortal(sqlite3.Connection):
                def __init__(self, *args, **more):
                    super().__init__(*args, **more)
                    self.set_trace_callback(count)

            dp.ledger.storage.sqlite3.connect = functools.partial(sqlite3.connect, factory=Mortal)
            Ledger.create(path, BUDGET)

        _, status = os.waitpid(in_child(work), 0)
        try:
            Ledger.open(path).close()
        except LedgerMissing:
            Ledger.create(path, BUDGET).close()
        except LedgerCorrupt:  # a copy without its log looks the same
            with pytest.raises(LedgerCorrupt, match="What was spent is unknown"):
                Ledger.create(path, BUDGET)
        if not os.WIFSIGNALED(status):
            break
    assert statement > 10
    assert status == 0


# A disk that forgets

Pointer = ctypes.c_void_p
Open = ctypes.CFUNCTYPE(
    ctypes.c_int, Pointer, Pointer, Pointer, ctypes.c_int, ctypes.POINTER(ctypes.c_int)
)
Delete = ctypes.CFUNCTYPE(ctypes.c_int, Pointer, ctypes.c_char_p, ctypes.c_int)
Write = ctypes.CFUNCTYPE(ctypes.c_int, Pointer, Pointer, ctypes.c_int, ctypes.c_int64)
Truncate = ctypes.CFUNCTYPE(ctypes.c_int, Pointer, ctypes.c_int64)
Sync = ctypes.CFUNCTYPE(ctypes.c_int, Pointer, ctypes.c_int)
# Places in sqlite3_vfs (its first three ints take two pointers) and in sqlite3_io_methods
# (its first int takes one); https://www.sqlite.org/c3ref/vfs.html and io_methods.html
VFS_SLOTS, NEXT, NAME, OPEN, DELETE = 21, 2, 3, 5, 6
IO_SLOTS, WRITE, TRUNCATE, SYNC = 19, 3, 4, 5


class Disk:
    """SQLite's default VFS, with a log of what reaches it, and a fault where one is asked for."""

    def __init__(self):
        self.log = []  # ("write", path, offset, data), ("truncate", path, size), ("sync", path), …
        self.fault = None  # (operation, how many more succeed, SQLite's code)
        self._paths, self._methods = {}, {}
        self._library = ctypes.CDLL(_sqlite3.__file__)  # and through it the SQLite that it uses
        if not hasattr(self._library, "sqlite3_vfs_register"):
            pytest.skip("this Python hides the SQLite that is built into it")
        self._library.sqlite3_vfs_find.restype = Pointer
        self._library.sqlite3_vfs_register.argtypes = [Pointer, ctypes.c_int]
        self._library.sqlite3_vfs_unregister.argtypes = [Pointer]
        self._default = self._library.sqlite3_vfs_find(None)
        original = (Pointer * VFS_SLOTS).from_address(self._default)
        assert ctypes.c_int.from_address(self._default).value == 3  # the layout meant above
        self._vfs = (Pointer * VFS_SLOTS)(*original)
        self._name = ctypes.create_string_buffer(b"forgetful")
        self._vfs[NEXT], self._vfs[NAME] = None, ctypes.addressof(self._name)
        real_open, real_delete = Open(original[OPEN]), Delete(original[DELETE])

        def opened(vfs, name, file, flags, out):  # name: a pointer that SQLite goes on using
            code = real_open(vfs, name, file, flags, out)
            if code == 0 and name:
                self._paths[file] = os.fsdecode(ctypes.string_at(name))
                slot = Pointer.from_address(file)
                slot.value = ctypes.addressof(self._wrapped(slot.value))
            return code

        def deleted(vfs, name, sync):
            self.log.append(("delete", os.fsdecode(name)))
            return real_delete(vfs, name, sync)

        self._keep = (Open(opened), Delete(deleted))
        for place, function in zip((OPEN, DELETE), self._keep, strict=True):
            self._vfs[place] = ctypes.cast(function, Pointer)

    def _wrapped(self, address):
        """The methods of a file with ours among them; one copy for each kind of file."""
        if address not in self._methods:
            original = (Pointer * IO_SLOTS).from_address(address)
            assert ctypes.c_int.from_address(address).value == 3
            write, truncate, sync = (
                kind(original[place])
                for kind, place in ((Write, WRITE), (Truncate, TRUNCATE), (Sync, SYNC))
            )

            def writes(file, data, size, offset):
                if code := self._fails("write"):
                    return code
                self.log.append(("write", self._paths[file], offset, ctypes.string_at(data, size)))
                return write(file, data, size, offset)

            def truncates(file, size):
                self.log.append(("truncate", self._paths[file], size))
                return truncate(file, size)

            def syncs(file, flags):
                if code := self._fails("sync"):
                    return code
                self.log.append(("sync", self._paths[file]))
                return sync(file, flags)

            copy = (Pointer * IO_SLOTS)(*original)
            ours = (Write(writes), Truncate(truncates), Sync(syncs))
            for place, function in zip((WRITE, TRUNCATE, SYNC), ours, strict=True):
                copy[place] = ctypes.cast(function, Pointer)
            self._methods[address] = (copy, ours)
        return self._methods[address][0]

    def _fails(self, operation):
        if self.fault is None or self.fault[0] != operation:
            return 0
        _, left, code = self.fault
        self.fault = (operation, left - 1, code)
        return code if left <= 0 else 0

    def __enter__(self):
        assert self._library.sqlite3_vfs_register(ctypes.addressof(self._vfs), 1) == 0
        return self

    def __exit__(self, *_):
        self._library.sqlite3_vfs_unregister(ctypes.addressof(self._vfs))
        self._library.sqlite3_vfs_register(self._default, 1)


def apply(content, operation):
    if operation[0] == "truncate":
        del content[operation[2] :]
    elif operation[0] == "write":
        _, _, offset, data = operation
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data


def torn(operation, chance):
    """Part of a write, by sectors."""
    if operation[0] == "write" and len(operation[3]) > SECTOR and chance.random() < 0.3:
        cut = SECTOR * chance.randrange(1, -(-len(operation[3]) // SECTOR))
        return (*operation[:3], operation[3][:cut])
    return operation


def crashes(before, log):
    """Every moment of the log, and what may be on disk if the power goes there."""
    durable = {name: bytearray(content) for name, content in before.items()}
    pending = {}
    for moment, operation in enumerate(log):
        kind, name = operation[:2]
        if kind == "sync":
            for held in pending.pop(name, ()):
                apply(durable.setdefault(name, bytearray()), held)
        elif kind == "delete":
            yield moment, {at: bytes(content) for at, content in durable.items()}
            durable.pop(name, None)
            pending.pop(name, None)
        else:
            pending.setdefault(name, []).append(operation)
        for share in (0.0, 0.5, 0.9, 1.0) if pending else (0.0,):
            chance = random.Random(moment)  # noqa: S311 - which writes survive, not a key
            disk = {at: bytearray(content) for at, content in durable.items()}
            for at, operations in pending.items():
                for held in operations:
                    if chance.random() < share:
                        whole = held if share == 1 else torn(held, chance)
                        apply(disk.setdefault(at, bytearray()), whole)
            yield moment, {at: bytes(content) for at, content in disk.items()}


def power_cuts(path, pragma, policy=FIXED_PLAN, stride=1):
    """Of one cut in ``stride``: its moment, and whether all that was owed was on disk."""
    Ledger.create(path, BUDGET, policy=policy).close()
    before = {str(path): path.read_bytes()}
    with Disk() as disk:
        book = Ledger.open(path)
        book._file.connection.execute("PRAGMA wal_autocheckpoint = 20")  # so that one happens
        book._file.connection.execute(pragma)
        said = []

        def say(change):
            # Charged: true from the end of the last operation. Freed: from the next one on.
            charged = all(more > 0 for more in change.values())
            said.append((len(disk.log) - charged, change))

        protocol(book, say)
        book.close()
    kinds = {operation[0] for operation in disk.log}
    assert {"write", "sync"} <= kinds
    assert {Path(operation[1]).name for operation in disk.log} >= {"ledger", "ledger-wal"}
    for moment, files in islice(crashes(before, disk.log), 0, None, stride):
        for old in path.parent.iterdir():
            old.unlink()
        for name, content in files.items():
            Path(name).write_bytes(content)
        try:
            yield moment, sound(path, owed(change for since, change in said if since <= moment))
        except LedgerError:
            yield moment, False


@pytest.mark.parametrize(
    ("policy", "stride"),
    [
        (FIXED_PLAN, 7),  # of four cuts a moment: each kind in turn
        pytest.param(FIXED_PLAN, 1, marks=pytest.mark.slow),
        pytest.param("RDP at order 8", 1, marks=pytest.mark.slow),
    ],
)
def test_a_power_cut_at_any_write_loses_nothing_that_was_promised(path, policy, stride):
    cuts = list(power_cuts(path, "PRAGMA synchronous = FULL", policy, stride))
    assert len(cuts) > 400 / stride
    assert [moment for moment, whole in cuts if not whole] == []


def test_the_same_cuts_find_a_ledger_that_does_not_sync_each_commit(path):
    assert not all(whole for _, whole in power_cuts(path, "PRAGMA synchronous = NORMAL", stride=7))


# A disk that fails


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("operation", "code", "stride", "says"),
    [
        ("write", FULL, 13, "disk is full"),
        ("write", NO_WRITE, 13, "disk fails"),
        ("sync", NO_SYNC, 3, "treat what was being written as charged"),
    ],
)
def test_a_disk_that_fails_at_any_moment_is_an_error_and_loses_nothing(
    path, changes, operation, code, stride, says, every
):
    Ledger.create(path, BUDGET).close()
    fresh = path.read_bytes()
    failures = 0
    for moment in range(0, 400, 1 if every else stride):
        for old in path.parent.iterdir():
            old.unlink()
        path.write_bytes(fresh)
        with Disk() as disk:
            said = []
            with Ledger.open(path) as book:
                book._file.connection.execute("PRAGMA wal_autocheckpoint = 20")
                disk.fault, error = (operation, moment, code), None
                try:
                    protocol(book, said.append)
                except LedgerError as raised:
                    error = str(raised)
                disk.fault = None
                if error is None:
                    break
                failures += 1
                assert says in error
                book.reserve(50, {"client-8": PLAN})
                book.verify()
        assert sound(path, owed(changes[: len(said)]))
    assert failures >= 5


def test_a_limit_of_the_kernel_on_the_files_size_is_an_error_and_loses_nothing(path):
    with Ledger.create(path, BUDGET) as book:
        book.reserve(0, {"a": PLAN})

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with Ledger.open(path) as book:
            resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))
            done = 0

            def fill():
                nonlocal done
                for number in range(1, 50):
                    book.reserve(number, dict.fromkeys(names(0), PLAN))
                    done = number

            with pytest.raises(LedgerError, match="disk"):
                fill()
            assert book.spent("client-0-0") == {PLAN: done}

    assert os.waitpid(in_child(work), 0)[1] == 0
    with Ledger.open(path) as book:
        book.verify()
        assert book.spent("a") == {PLAN: 1}
        book.reserve(77, {"a": PLAN})


def test_a_file_that_may_only_be_read_is_named_and_stays_as_it_is(path):
    with Ledger.create(path, BUDGET) as book:
        book.reserve(0, {"a": PLAN})
    path.chmod(0o444)
    path.parent.chmod(0o777)  # so that only the file refuses, and not its folder
    content = path.read_bytes()

    def work():
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            with Ledger.open(path) as book:
                assert book.spent("a") == {PLAN: 1}
                book.reserve(1, {"a": PLAN})
        except LedgerError as error:
            return 0 if "read-only" in str(error) else 2
        return 1

    assert os.waitpid(in_child(work), 0)[1] == 0
    assert path.read_bytes() == content
