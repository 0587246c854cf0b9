"""Masks are the same words however they are expanded, and words survive whoever dies."""

import copy
import gc
import io
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.errors import LocalProtocolError, ParameterError
from protocols.primitives.prg import CHUNK_WORDS, MAX_WORDS, Mask, Masks, Suite
from protocols.secrets import Secret
from secagg.errors import ConfigError, InputError, SecaggError
from secagg.rounds import masking
from secagg.rounds.masking import SLOT_WORDS, Expand, Job, MaskPool, WorkerError, over, serial

AES = Suite.AES_128_CTR
PAYS = masking._pays  # fixtures replace it
LONG = 3 * SLOT_WORDS + 5  # words; with two workers each fills two slots, the second in part


def seed(number: int) -> bytes:
    return bytes([number % 251 + 1, number // 251]) * 16


def masks_of(count: int, *, turn: int = 0) -> list[Mask]:
    return [
        Mask(
            seed=Secret(seed(number)),
            label=f"pair {number % 3}".encode(),
            subtract=bool((number + turn) % 3),
        )
        for number in range(count)
    ]


def words_of(count: int) -> NDArray[np.uint64]:
    return np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def expanded(words: NDArray[np.uint64], masks: list[Mask], suite: Suite) -> NDArray[np.uint64]:
    expected = words.copy()
    Masks(masks, suite).apply_to(expected)
    return expected


@pytest.fixture(scope="module")
def always_workers() -> Iterator[None]:
    """Little work, too, goes to the workers, or small cases would test ``serial`` alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "_pays", lambda words, masks, jobs: bool(jobs))
        yield


@pytest.fixture(scope="module", params=[1, 2, 3])
def pool(request: pytest.FixtureRequest, always_workers: None) -> Iterator[MaskPool]:
    with MaskPool(request.param) as pool:
        yield pool


@pytest.fixture
def two(always_workers: None) -> Iterator[MaskPool]:
    with MaskPool(2) as pool:
        yield pool


class Elsewhere(Executor):
    """Runs a job as another machine would: only bytes go there, only bytes come back."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.sent.append(pickle.dumps((fn, args, kwargs)))
        function, given, named = pickle.loads(self.sent[-1])  # noqa: S301  written a line above
        answer = pickle.dumps(function(*given, **named))
        future: Future[Any] = Future()
        future.set_result(pickle.loads(answer))  # noqa: S301  written two lines above
        return future


class Failing(Executor):
    """Does ``then`` with the job number ``at``, and the others as they should be."""

    def __init__(self, at: int, then: Callable[[Job], Any]) -> None:
        self.at, self.then = at, then

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.at -= 1
        future: Future[Any] = Future()
        try:
            future.set_result(self.then(*args) if self.at < 0 else fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  as an executor does
            future.set_exception(error)
        return future


SMALL = [0, 1, 7, 8, 9, 15, 16, 17, 100]
CHUNKS = [CHUNK_WORDS - 1, CHUNK_WORDS, CHUNK_WORDS + 1, 2 * CHUNK_WORDS, 3 * CHUNK_WORDS + 5]
SLOTS = [SLOT_WORDS, 2 * SLOT_WORDS + 9, LONG]
REUSED = [6 * SLOT_WORDS, 7 * SLOT_WORDS + 8]  # so long that a worker fills a slot again
LENGTHS = st.sampled_from([*SMALL, *CHUNKS, *SLOTS, *REUSED])
CASES = {
    "length": LENGTHS,
    "count": st.integers(0, 9),
    "turn": st.integers(0, 2),
    "suite": st.sampled_from(list(Suite)),
}


def refuse_another_answer(expand: Expand, length: int, count: int, turn: int, suite: Suite) -> None:
    words, masks = words_of(length), masks_of(count, turn=turn)
    expected = expanded(words, masks, suite)
    expand(words, masks, suite)
    assert np.array_equal(words, expected)


@given(**CASES)
@settings(max_examples=30, derandomize=True, deadline=None)
def test_serial_is_masks_applied(length: int, count: int, turn: int, suite: Suite) -> None:
    refuse_another_answer(serial, length, count, turn, suite)


@given(**CASES)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_a_pool_of_any_size_gives_the_same_words(
    pool: MaskPool, length: int, count: int, turn: int, suite: Suite
) -> None:
    refuse_another_answer(pool, length, count, turn, suite)


@given(**CASES, parts=st.integers(1, 7))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_jobs_that_went_as_bytes_give_the_same_words(
    length: int, count: int, turn: int, suite: Suite, parts: int
) -> None:
    elsewhere = Elsewhere()
    refuse_another_answer(over(elsewhere, parts=parts), length, count, turn, suite)
    assert len(elsewhere.sent) <= parts


@pytest.mark.parametrize("length", [9, LONG])
def test_threads_and_processes_give_the_same_words(length: int) -> None:
    processes = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    for executor in (ThreadPoolExecutor(2), processes):
        with executor:
            refuse_another_answer(over(executor, parts=3), length, 7, 0, AES)


def test_a_cluster_gives_the_same_words() -> None:
    import distributed

    with distributed.Client(n_workers=2, processes=False, dashboard_address=None) as client:
        refuse_another_answer(over(client.get_executor(), parts=3), LONG, 7, 0, AES)


def test_strided_words_are_masked_as_well(pool: MaskPool) -> None:
    for expand in (pool, over(Elsewhere(), parts=2)):
        words = words_of(2 * LONG)
        expected = words.copy()
        expected[::2] = expanded(words[::2].copy(), masks_of(4), AES)
        expand(words[::2], masks_of(4), AES)
        assert np.array_equal(words, expected)


@given(length=st.integers(0, 60_000), count=st.integers(0, 60), parts=st.integers(1, 9))
@settings(max_examples=80, derandomize=True, deadline=None)
def test_jobs_cover_every_mask_at_every_word_once(length: int, count: int, parts: int) -> None:
    jobs = masking._jobs(words_of(length), masks_of(count), AES, parts)
    assert len(jobs) <= parts
    covered = np.zeros((count, length), np.uint8)
    number = {seed(mask): mask for mask in range(count)}
    for job in jobs:
        assert job.start % 8 == 0
        for at in range(0, len(job.seeds), 32):
            covered[number[job.seeds[at : at + 32]], job.start : job.start + job.count] += 1
    assert (covered == 1).all()


def test_a_long_vector_is_cut_by_words_and_many_masks_by_masks() -> None:
    by_words = masking._jobs(words_of(10**6), masks_of(30), AES, 2)
    assert [(len(job.labels), job.start) for job in by_words] == [(30, 0), (30, 500_000)]
    by_masks = masking._jobs(words_of(1000), masks_of(1001), AES, 2)
    assert [(len(job.labels), job.start) for job in by_masks] == [(501, 0), (500, 0)]


def test_little_work_is_done_by_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_pays", PAYS)
    masks, words = masks_of(3), words_of(1000)
    expected = expanded(words, masks, AES)
    with MaskPool(2) as pool:
        for worker in pool._workers:
            worker.kill()
        pool(words, masks, AES)
        assert np.array_equal(words, expected)
        with pytest.raises(WorkerError, match="unchanged"):
            pool(words_of(10**6), masks_of(30), AES)


@pytest.mark.parametrize(
    "words", [np.zeros(8, np.int64), np.zeros((2, 8), np.uint64), np.zeros(8, ">u8")]
)
def test_what_is_no_vector_of_words_is_refused(words: Any, two: MaskPool) -> None:
    for expand in (two, over(Elsewhere(), parts=2)):
        with pytest.raises(InputError, match="vector of uint64"):
            expand(words, masks_of(1), AES)
    assert not words.any()


def test_words_that_cannot_be_written_are_refused(two: MaskPool) -> None:
    words = words_of(8)
    words.flags.writeable = False
    for expand in (two, over(Elsewhere(), parts=2)):
        with pytest.raises(InputError, match="writable"):
            expand(words, masks_of(1), AES)


def test_a_seed_of_another_size_is_refused_as_by_serial(two: MaskPool) -> None:
    words = words_of(LONG)
    bad = [*masks_of(2), Mask(seed=Secret(bytes(31)), label=b"")]
    for expand in (serial, two, over(Elsewhere(), parts=2)):
        with pytest.raises(ParameterError, match="seed has 31 bytes"):
            expand(words, bad, AES)
    assert np.array_equal(words, words_of(LONG))


def test_more_words_than_a_seed_gives_are_refused_although_each_part_is_short(
    two: MaskPool,
) -> None:
    class Vast(np.ndarray):  # 256 GiB are not to be had
        def __len__(self) -> int:
            return MAX_WORDS + 1

    words = np.zeros(8, np.uint64).view(Vast)
    for expand in (two, over(Elsewhere(), parts=2)):
        with pytest.raises(LocalProtocolError, match="a seed gives at most"):
            expand(words, masks_of(1), AES)


@pytest.mark.parametrize("count", [0, -1])
def test_no_workers_are_no_pool(count: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        MaskPool(count)
    with pytest.raises(ConfigError, match="at least 1"):
        over(Elsewhere(), parts=count)


def test_a_dead_worker_is_an_error_and_leaves_the_words_alone(two: MaskPool) -> None:
    two._workers[1].kill()
    two._workers[1].wait()
    words = words_of(LONG)
    with pytest.raises(WorkerError, match="words are unchanged") as caught:
        two(words, masks_of(8), AES)
    assert isinstance(caught.value, SecaggError)
    assert np.array_equal(words, words_of(LONG))
    assert all(worker.returncode is not None for worker in two._workers)
    with pytest.raises(WorkerError, match="closed"):
        two(words, masks_of(8), AES)
    assert np.array_equal(words, words_of(LONG))


@pytest.mark.parametrize("length", [9, 8 * SLOT_WORDS], ids=["by masks", "by words"])
@pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)
def test_a_worker_that_dies_halfway_leaves_the_words_alone(
    two: MaskPool, suite: Suite, length: int
) -> None:
    words, masks = words_of(length), masks_of(9)
    caught: list[BaseException] = []

    def call() -> None:
        try:
            two(words, masks, suite)
        except BaseException as error:  # noqa: BLE001  looked at below
            caught.append(error)

    os.kill(two._workers[1].pid, signal.SIGSTOP)
    thread = threading.Thread(target=call)
    thread.start()
    deadline = time.monotonic() + 30
    while np.array_equal(words, words_of(length)) and time.monotonic() < deadline:
        time.sleep(0.002)  # until the other worker's masks are in
    halfway = words.copy()
    os.kill(two._workers[1].pid, signal.SIGKILL)
    thread.join(30)
    assert not thread.is_alive()
    assert not np.array_equal(halfway, words_of(length))
    assert [type(error) for error in caught] == [WorkerError]
    assert np.array_equal(words, words_of(length))


def test_a_pool_that_is_closed_says_so_and_closes_twice(two: MaskPool) -> None:
    two.close()
    two.close()
    words = words_of(9)
    with pytest.raises(WorkerError, match="closed"):
        two(words, masks_of(1), AES)
    assert np.array_equal(words, words_of(9))


def test_an_interrupt_from_outside_ends_the_workers(
    two: MaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(masking, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        two(words_of(LONG), masks_of(8), AES)
    assert all(worker.returncode is not None for worker in two._workers)
    with pytest.raises(WorkerError, match="closed"):
        two(words_of(LONG), masks_of(8), AES)


def test_workers_that_do_not_start_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("raise SystemExit(3)", None):
        with monkeypatch.context() as patch:
            if program is None:
                patch.setattr(sys, "executable", "/nowhere/python")
            else:
                patch.setattr(masking, "_PROGRAM", program)
            with pytest.raises(WorkerError, match="did not start"):
                MaskPool(2)


def test_threads_share_a_pool(two: MaskPool) -> None:
    masks = masks_of(8)
    expected = expanded(words_of(LONG), masks, AES)
    vectors = [words_of(LONG) for _ in range(6)]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda words: two(words, masks, AES), vectors))
    for words in vectors:
        assert np.array_equal(words, expected)


def fail(job: Job) -> Any:
    raise RuntimeError(f"cannot run {job.seeds!r}")


@pytest.mark.parametrize(
    "then",
    [
        fail,
        lambda job: None,
        lambda job: np.zeros(job.count + 1, np.uint64),
        lambda job: np.zeros(1, np.uint64),
        lambda job: np.zeros(job.count, np.int64),
        lambda job: bytes(8 * job.count),
    ],
    ids=["raises", "none", "long", "short", "signed", "bytes"],
)
@pytest.mark.parametrize("at", [0, 2])
def test_a_job_that_fails_leaves_the_words_alone(at: int, then: Callable[[Job], Any]) -> None:
    words = words_of(LONG)
    with pytest.raises(WorkerError, match="in a job of Failing") as caught:
        over(Failing(at, then), parts=3)(words, masks_of(5), AES)
    assert np.array_equal(words, words_of(LONG))
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_an_executor_that_was_shut_down_leaves_the_words_alone() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    words = words_of(LONG)
    with pytest.raises(WorkerError, match="RuntimeError in a job of ThreadPoolExecutor"):
        over(executor, parts=2)(words, masks_of(5), AES)
    assert np.array_equal(words, words_of(LONG))


def test_no_seed_is_printed(two: MaskPool) -> None:
    masks, words = masks_of(8), words_of(LONG)
    (job,) = masking._jobs(words, masks, AES, 1)
    expand = over(Failing(0, fail), parts=2)
    texts = [repr(thing) for thing in (job, two, expand, vars(two), masks, job.masks())]
    os.kill(two._workers[0].pid, signal.SIGKILL)
    for broken in (two, expand):
        with pytest.raises(WorkerError) as caught:
            broken(words, masks, AES)
        out = io.StringIO()
        traceback.print_exception(caught.value, file=out)
        texts += [out.getvalue(), repr(caught.value)]
    for text in texts:
        for mask in masks:
            value = mask.seed.expose()
            assert repr(value)[2:-1] not in text
            assert value.hex() not in text


def test_a_pool_is_not_copied_or_pickled(two: MaskPool) -> None:
    for duplicate in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            duplicate(two)


def test_a_pool_that_is_forgotten_ends_its_workers(always_workers: None) -> None:
    pool = MaskPool(2)
    workers = list(pool._workers)
    del pool
    gc.collect()
    assert all(worker.returncode is not None for worker in workers)


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program with every warning an error, here and in its workers."""
    head = """
        import os, threading, numpy as np
        from protocols.primitives.prg import Mask, Masks, Suite
        from protocols.secrets import Secret
        from secagg.rounds.masking import MaskPool, WorkerError
        masks = [Mask(seed=Secret(bytes([n]) * 32), label=b"") for n in range(40)]
        words = np.arange(300_001, dtype=np.uint64)
        expected = words.copy()
        Masks(masks).apply_to(expected)
    """
    return subprocess.run(
        [sys.executable, "-Werror", "-c", textwrap.dedent(head) + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


SHARED = Path("/dev/shm")  # noqa: S108  where named shared memory lies
ENDINGS = {
    "closed": """
        with MaskPool(2) as pool:
            pool(words, masks, Suite.AES_128_CTR)
        assert np.array_equal(words, expected)
    """,
    "left open": """
        pool = MaskPool(2)
        pool(words, masks, Suite.AES_128_CTR)
        assert np.array_equal(words, expected)
    """,
    "worker killed": """
        pool = MaskPool(2)
        pool._workers[0].kill()
        try:
            pool(words, masks, Suite.AES_128_CTR)
        except WorkerError:
            assert np.array_equal(words, np.arange(300_001, dtype=np.uint64))
        else:
            raise SystemExit("no error")
    """,
    "threads": """
        done = threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        with MaskPool(2) as pool:
            pool(words, masks, Suite.AES_128_CTR)
        done.set()
        thread.join()
        assert np.array_equal(words, expected)
    """,
    "forked": """
        pool = MaskPool(2)
        if not (child := os.fork()):
            try:
                pool(words, masks, Suite.AES_128_CTR)
            except WorkerError as error:
                pool.close()
                os._exit(7 if "after a fork" in str(error) else 1)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        pool(words, masks, Suite.AES_128_CTR)  # the child's close() has not hurt it
        assert np.array_equal(words, expected)
    """,
}


def shared() -> set[Path]:
    """What lies there but for the fixture ``folder`` of tests that run at the same time."""
    return {path for path in SHARED.iterdir() if not path.name.startswith("folder-")}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_without_a_main_guard_leaves_nothing_behind(ending: str) -> None:
    before = shared()
    done = run(ENDINGS[ending] + "\n        print(*(worker.pid for worker in pool._workers))")
    assert (done.returncode, done.stderr) == (0, "")
    assert_gone(map(int, done.stdout.split()))
    assert shared() <= before


def test_workers_end_when_their_caller_is_killed() -> None:
    done = run("""
        pool = MaskPool(2)
        print(*(worker.pid for worker in pool._workers), flush=True)
        os.kill(os.getpid(), 9)
    """)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    assert_gone(map(int, done.stdout.split()))


def assert_gone(workers: Iterator[int]) -> None:
    deadline = time.monotonic() + 30
    for worker in workers:
        while running(worker):
            assert time.monotonic() < deadline, f"process {worker} is left over"
            time.sleep(0.01)


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
