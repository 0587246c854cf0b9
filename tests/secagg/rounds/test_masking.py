"""Masks are the same words however they are expanded, and words survive whoever dies."""

import io
import pickle
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import protocols
from protocols.errors import LocalProtocolError
from protocols.primitives.prg import CHUNK_WORDS, MAX_WORDS, Mask, Masks, Suite
from protocols.secrets import Secret
from secagg.errors import InputError, WorkerError
from secagg.rounds import masking
from secagg.rounds.masking import Expand, Job, over, threads

AES = Suite.AES_128_CTR
LONG = 9 * CHUNK_WORDS + 5  # words


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


@pytest.fixture(scope="module", autouse=True)
def always() -> Iterator[None]:
    """Little work, too, goes to threads, or small cases would test one thread alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "PAYS", 0)
        yield


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
LENGTHS = st.sampled_from([*SMALL, *CHUNKS, LONG])
CASES = {
    "length": LENGTHS,
    "count": st.integers(0, 9),
    "turn": st.integers(0, 2),
    "suite": st.sampled_from(list(Suite)),
    "cut": st.sampled_from([0, 1, 8, CHUNK_WORDS, CHUNK_WORDS + 3]),
}


def refuse_another_answer(
    expand: Expand, length: int, count: int, turn: int, suite: Suite, cut: int = 0
) -> None:
    """Whole, or cut in two: streams go on where they stood."""
    words, masks = words_of(length), masks_of(count, turn=turn)
    expected = expanded(words, masks, suite)
    streams = expand(masks, suite)
    for part in (words[:cut], words[cut:]) if cut else (words,):
        streams.apply_to(part)
    assert np.array_equal(words, expected)


@given(**CASES, several=st.integers(1, 4))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_any_number_of_threads_gives_the_same_words(
    length: int, count: int, turn: int, suite: Suite, cut: int, several: int
) -> None:
    refuse_another_answer(threads(several), length, count, turn, suite, cut)


def test_threads_share_masks_or_words_whichever_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(several: int, count: int, suite: Suite = AES) -> str:
        return type(threads(several)(masks_of(count), suite)).__name__

    for vaes, five in ((True, "_ByMasks"), (False, "_ByWords")):
        monkeypatch.setattr(masking, "has_vaes", lambda vaes=vaes: vaes)
        assert shared(2, 1) == "_ByWords"
        assert shared(2, 3) == "_ByWords"
        assert shared(2, 5) == five  # three masks on one thread, or 2.5 that take a third more
        assert shared(2, 5, Suite.CHACHA20) == "_ByWords"
        assert shared(2, 100) == "_ByMasks"
        assert shared(1, 100) == shared(2, 0) == "_Checked"


def test_cores_are_used_as_the_environment_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Watched(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            made.append(count)
            super().__init__(count)

    monkeypatch.setattr(masking, "ThreadPoolExecutor", Watched)
    monkeypatch.setattr(masking.os, "sched_getaffinity", lambda _: set(range(4)))
    for said, expected in (("", [3]), ("2", [1]), ("1", []), ("9", [3])):
        monkeypatch.setenv(masking.THREADS, said)
        made.clear()
        refuse_another_answer(masking.expand, 100, 9, 0, AES)
        assert made == expected


@pytest.mark.parametrize("said", ["0", "-1", "two", "1.5", "²"])
def test_a_number_of_threads_that_is_none_is_refused(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(masking.THREADS, said)
    with pytest.raises(InputError, match="SECAGG_THREADS"):
        masking.expand(masks_of(1), AES)


@pytest.mark.parametrize("count", [0, -1, 1.0, True])
def test_so_many_threads_are_none(count: Any) -> None:
    with pytest.raises(InputError, match="must be an integer from 1"):
        threads(count)


def test_little_work_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "PAYS", 1000)
    monkeypatch.setattr(masking, "ThreadPoolExecutor", None)
    refuse_another_answer(threads(2), 99, 10, 0, AES)
    with pytest.raises(TypeError):
        threads(2)(masks_of(10), AES).apply_to(words_of(100))


def test_a_thread_is_started_for_every_half_of_what_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Watched(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            made.append(count)
            super().__init__(count)

    monkeypatch.setattr(masking, "ThreadPoolExecutor", Watched)
    monkeypatch.setattr(masking, "PAYS", 1000)
    for length, several in ((80, []), (100, [1]), (150, [2]), (10_000, [3])):
        made.clear()
        refuse_another_answer(threads(4), length, 12, 0, AES)
        refuse_another_answer(threads(4), 12 * length, 1, 0, AES)
        assert made == 2 * several


@given(**CASES, parts=st.integers(1, 7))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_jobs_that_went_as_bytes_give_the_same_words(
    length: int, count: int, turn: int, suite: Suite, cut: int, parts: int
) -> None:
    elsewhere = Elsewhere()
    refuse_another_answer(over(elsewhere, parts=parts), length, count, turn, suite, cut)
    assert len(elsewhere.sent) <= 2 * parts


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


def test_strided_words_are_masked_as_well() -> None:
    for expand in (threads(2), over(Elsewhere(), parts=2)):
        words = words_of(2 * LONG)
        expected = words.copy()
        expected[::2] = expanded(words[::2].copy(), masks_of(4), AES)
        expand(masks_of(4), AES).apply_to(words[::2])
        assert np.array_equal(words, expected)


@given(length=st.integers(0, 60_000), count=st.integers(0, 60), parts=st.integers(1, 9))
@settings(max_examples=80, derandomize=True, deadline=None)
def test_jobs_cover_every_mask_at_every_word_once(length: int, count: int, parts: int) -> None:
    jobs = masking._jobs(words_of(length), masks_of(count), AES, parts, 0)
    assert len(jobs) <= parts
    covered = np.zeros((count, length), np.uint8)
    number = {seed(mask): mask for mask in range(count)}
    for job in jobs:
        assert job.start % 8 == 0
        for at in range(0, len(job.seeds), 32):
            covered[number[job.seeds[at : at + 32]], job.start : job.start + job.count] += 1
    assert (covered == 1).all()


def test_a_long_vector_is_cut_by_words_and_many_masks_by_masks() -> None:
    by_words = masking._jobs(words_of(10**6), masks_of(1), AES, 2, 0)
    assert [(len(job.labels), job.start) for job in by_words] == [(1, 0), (1, 500_000)]
    by_masks = masking._jobs(words_of(1000), masks_of(1001), AES, 2, 0)
    assert [(len(job.labels), job.start) for job in by_masks] == [(501, 0), (500, 0)]


@pytest.mark.parametrize(
    "words", [np.zeros(8, np.int64), np.zeros((2, 8), np.uint64), np.zeros(8, ">u8")]
)
def test_what_is_no_vector_of_words_is_refused(words: Any) -> None:
    for expand in (threads(2), over(Elsewhere(), parts=2)):
        with pytest.raises(InputError, match="vector of uint64"):
            expand(masks_of(1), AES).apply_to(words)
    assert not words.any()


def test_words_that_cannot_be_written_are_refused() -> None:
    words = words_of(8)
    words.flags.writeable = False
    for expand in (threads(2), over(Elsewhere(), parts=2)):
        with pytest.raises(InputError, match="writable"):
            expand(masks_of(1), AES).apply_to(words)


def test_a_seed_of_another_size_is_refused_as_by_serial() -> None:
    words = words_of(LONG)
    bad = [*masks_of(2), Mask(seed=Secret(bytes(31)), label=b"")]
    for expand in (Masks, threads(2), over(Elsewhere(), parts=2)):
        with pytest.raises(protocols.InputError, match="seed has 31 bytes"):
            expand(bad, AES).apply_to(words)
    assert np.array_equal(words, words_of(LONG))


def test_more_words_than_a_seed_gives_are_refused_although_each_part_is_short() -> None:
    class Vast(np.ndarray):  # 256 GiB are not to be had
        def __len__(self) -> int:
            return MAX_WORDS + 1

    words = np.zeros(8, np.uint64).view(Vast)
    for expand in (threads(2), over(Elsewhere(), parts=2)):
        with pytest.raises(LocalProtocolError, match="a seed gives at most"):
            expand(masks_of(1), AES).apply_to(words)


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
        over(Failing(at, then), parts=3)(masks_of(5), AES).apply_to(words)
    assert np.array_equal(words, words_of(LONG))
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_an_executor_that_was_shut_down_leaves_the_words_alone() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    words = words_of(LONG)
    with pytest.raises(WorkerError, match="RuntimeError in a job of ThreadPoolExecutor"):
        over(executor, parts=2)(masks_of(5), AES).apply_to(words)
    assert np.array_equal(words, words_of(LONG))


def test_no_seed_is_printed() -> None:
    masks, words = masks_of(8), words_of(LONG)
    (job,) = masking._jobs(words, masks, AES, 1, 0)
    expand = over(Failing(0, fail), parts=2)
    texts = [repr(thing) for thing in (job, expand, threads(2), masks, job.masks())]
    with pytest.raises(WorkerError) as caught:
        expand(masks, AES).apply_to(words)
    out = io.StringIO()
    traceback.print_exception(caught.value, file=out)
    texts += [out.getvalue(), repr(caught.value)]
    for text in texts:
        for mask in masks:
            value = mask.seed.expose()
            assert repr(value)[2:-1] not in text
            assert value.hex() not in text
