"""Masks onto a vector, on one core, on several, or on any executor.

Everything here is an ``Expand``: it opens masks, and what it gives applies their next words to a
vector in place, bit for bit as ``protocols.primitives.prg.Masks`` does, on one core. Who expands a
mask can take it off.

``expand`` uses the cores of this machine where that pays: threads, as OpenSSL's ``update_into`` and
numpy's additions hold no lock of the interpreter. ``over`` hands parts to an executor, which then
knows the seeds: for a server, whose seeds they are.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

import protocols
from protocols.errors import LocalProtocolError
from protocols.primitives.prg import (
    BLOCK_WORDS,
    MAX_CHUNK_WORDS,
    MAX_WORDS,
    SEED_SIZE,
    Expand,
    Item,
    Made,
    Mask,
    Masks,
    Streams,
    Suite,
    has_vaes,
)
from protocols.secrets import Secret
from secagg.errors import InputError, WorkerError

__all__ = ["Expand", "Masks", "expand", "over", "threads"]

Words: TypeAlias = NDArray[np.uint64]

THREADS: Final = "SECAGG_THREADS"  # the environment variable: at most so many
PAYS: Final = 2_000_000  # words of all masks: 1 ms on one core: a thread costs a tenth
FRAMES_PAY: Final = 3  # for a thread: to start one costs as much as half a frame's checksum
LATER_START: Final = 1.3  # times the cost of a word from the start on, with VAES (measured)


def threads(count: int | None = None) -> Expand:
    """Expand masks on so many threads of this process.

    Args:
      count: by default the cores that this process may use, and no more than the
        environment variable SECAGG_THREADS says. It changes no word of a result.

    Raises:
      InputError: ``count``, or what the variable says, is no integer from 1.
    """
    several = thread_count(count)

    def expand(masks: Sequence[Mask], suite: Suite) -> Streams:
        check_seeds(masks)
        parts = several if len(masks) else 1
        if parts == 1:
            return _Checked(Masks(masks, suite))
        slower = LATER_START if suite is Suite.AES_128_CTR and has_vaes() else 1.0
        if -(-len(masks) // parts) <= slower * len(masks) / parts:
            return _ByMasks(masks, suite, parts)
        return _ByWords(masks, suite, parts)

    return expand


def expand(masks: Sequence[Mask], suite: Suite) -> Streams:
    """Expand masks on the cores of this machine; see ``threads``.

    Args:
      masks: seeds and signs.
      suite: AES-128 in counter mode, or ChaCha20.
    """
    return threads()(masks, suite)


def _worth(words: int) -> int:
    """The most threads that pay for so many words of all masks."""
    return max(1, words // max(1, PAYS // 2))


def thread_count(count: int | None = None) -> int:
    """How many threads ``threads(count)`` takes; errors as there."""
    if count is None:
        said = os.environ.get(THREADS, "")
        if said and not (said.isascii() and said.isdecimal() and int(said) > 0):
            raise InputError(f"{THREADS} is {said!r:.40}, must be an integer from 1")
        cores = _cores()
        return min(cores, int(said)) if said else cores
    if type(count) is not int or count < 1:
        raise InputError(f"count is {count!r}, must be an integer from 1")
    return count


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OnThreads:
    """Streams whose masks take so many threads, and what else a vector costs with them."""

    _threads = 1

    def each(self, work: Callable[[Item], Made], items: Sequence[Item]) -> Iterable[Made]:
        """Map ``work`` that holds no lock of the interpreter, such as a frame's checksum."""
        several = min(self._threads, len(items) // FRAMES_PAY)
        if several < 2:
            return map(work, items)
        with ThreadPoolExecutor(several) as pool:
            return list(pool.map(work, items))


class _Checked(OnThreads):
    """Streams on this core, of vectors that are checked as elsewhere here."""

    def __init__(self, streams: Masks) -> None:
        self._streams = streams

    def apply_to(self, words: Words) -> None:
        check_words(words)
        self._streams.apply_to(words)


class _ByMasks(OnThreads):
    """A share of the masks for each thread, which adds them up a chunk at a time.

    Sums are taken from every stream's start on, and only adding one to ``words`` is done by one
    thread at a time: no thread waits for another, or holds more than two chunks.
    """

    def __init__(self, masks: Sequence[Mask], suite: Suite, parts: int) -> None:
        self._count = len(masks)
        self._shares = [
            Masks(share, suite, chunk=MAX_CHUNK_WORDS)
            for part in range(parts)
            if (share := masks[part::parts])
        ]
        self._threads = len(self._shares)

    def apply_to(self, words: Words) -> None:
        check_words(words)
        several = min(len(self._shares), _worth(len(words) * self._count))
        if several == 1:
            for share in self._shares:
                share.apply_to(words)
            return
        lock = Lock()
        works = [self._shares[part::several] for part in range(several)]
        _together([partial(_add_sums, shares, words, lock) for shares in works])


def _add_sums(shares: Sequence[Masks], words: Words, lock: Lock) -> None:
    total = np.empty(min(len(words), MAX_CHUNK_WORDS), np.uint64)
    for share in shares:
        for begin in range(0, len(words), MAX_CHUNK_WORDS):
            chunk = words[begin : begin + MAX_CHUNK_WORDS]
            share.write_to(part := total[: len(chunk)])
            with lock:
                chunk += part


class _ByWords(OnThreads):
    """A range of the words for each thread, all masks over it: for few masks over many words."""

    def __init__(self, masks: Sequence[Mask], suite: Suite, parts: int) -> None:
        self._masks, self._suite, self._threads = masks, suite, parts
        self._at = 0

    def apply_to(self, words: Words) -> None:
        check_words(words, self._at)
        count = len(words)
        parts = min(self._threads, _worth(count * len(self._masks)))
        _together(
            [
                partial(_apply, self._masks, self._suite, self._at + start, words[start:][:size])
                for start, size in _ranges(count, parts)
            ]
        )
        self._at += count


def _apply(masks: Sequence[Mask], suite: Suite, start: int, words: Words) -> None:
    _opened(masks, suite, start).apply_to(words)


def _opened(masks: Sequence[Mask], suite: Suite, start: int) -> Masks:
    """The streams from any word on, not from a block alone."""
    beside = start % BLOCK_WORDS
    streams = Masks(masks, suite, start=start - beside, chunk=MAX_CHUNK_WORDS)
    streams.apply_to(np.zeros(beside, np.uint64))
    return streams


def _ranges(count: int, parts: int) -> list[tuple[int, int]]:
    """At most ``parts`` starts and sizes, the starts whole blocks, that cover ``count`` words."""
    step = -(-count // (parts * BLOCK_WORDS)) * BLOCK_WORDS
    return [(start, min(step, count - start)) for start in range(0, count, step or 1)]


def _together(works: Sequence[Callable[[], None]]) -> None:
    """The first on this thread and each other on one of its own; all are over at the end."""
    if len(works) < 2:
        for work in works:
            work()
        return
    with ThreadPoolExecutor(len(works) - 1) as pool:
        others = [pool.submit(work) for work in works[1:]]
        works[0]()
    for other in others:
        other.result()


def check_words(words: Words, start: int = 0) -> None:
    """Refuse what is no writable vector of words, or more than a seed may give from ``start``."""
    if words.dtype != np.uint64 or words.ndim != 1 or not words.flags.writeable:
        raise InputError(
            f"words of {words.dtype} in {words.ndim} dimensions; need a writable vector of uint64"
        )
    if start + len(words) > MAX_WORDS:
        raise LocalProtocolError(
            f"a seed gives at most {MAX_WORDS} words, asked for {start + len(words)}"
        )


def check_seeds(masks: Sequence[Mask]) -> None:
    """Refuse a seed of another size."""
    for mask in masks:
        if len(mask.seed) != SEED_SIZE:
            raise protocols.InputError(f"seed has {len(mask.seed)} bytes, expected {SEED_SIZE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Some masks over some words, as it goes to an executor: **its seeds are in the clear**.

    ``Secret`` refuses to be pickled so that nobody sends one by accident. Here it is the purpose:
    whoever expands a mask has its seed. It does not print them, because executors log the
    arguments of a job that fails.

    Attributes:
      seeds: 32 bytes a mask, one after the other.
      start: the first word.
      count: the number of words.
    """

    suite: Suite
    seeds: bytes = field(repr=False)
    labels: tuple[bytes, ...] = field(repr=False)
    subtract: tuple[bool, ...] = field(repr=False)
    start: int
    count: int

    def masks(self) -> Masks:
        """The streams, opened at ``start``."""
        signs = zip(self.labels, self.subtract, strict=True)
        masks = [
            Mask(seed=Secret(self.seeds[at : at + SEED_SIZE]), label=label, subtract=sign)
            for at, (label, sign) in zip(range(0, len(self.seeds), SEED_SIZE), signs, strict=True)
        ]
        return _opened(masks, self.suite, self.start)


def _jobs(words: Words, masks: Sequence[Mask], suite: Suite, parts: int, at: int) -> list[Job]:
    """At most ``parts`` jobs that cover every mask at every word once, from word ``at`` on.

    Cut by masks where there are as many as parts: a stream is quickest from its start on.
    """
    check_words(words, at)
    count = len(words)
    if not masks or not count:
        return []
    if len(masks) >= parts:
        return [_job(masks[part::parts], suite, at, count) for part in range(parts)]
    return [_job(masks, suite, at + start, size) for start, size in _ranges(count, parts)]


def _job(masks: Sequence[Mask], suite: Suite, start: int, count: int) -> Job:
    return Job(
        suite=suite,
        seeds=b"".join(mask.seed.expose() for mask in masks),
        labels=tuple(mask.label for mask in masks),
        subtract=tuple(mask.subtract for mask in masks),
        start=start,
        count=count,
    )


def sum_of_masks(job: Job) -> Words:
    """What an executor runs: the job's masks, added up."""
    words = np.zeros(job.count, np.uint64)
    job.masks().apply_to(words)
    return words


def over(executor: Executor, *, parts: int) -> Expand:
    """Expand masks on any ``concurrent.futures.Executor``, in ``parts`` jobs.

    A cluster's, such as a Dask client's ``get_executor()``: its workers get seeds, so it
    belongs to whoever may know them. All parts are in before words change, so the caller
    holds as much memory again, or ``parts`` times as much where the masks are shared out.

    Args:
      executor: where jobs run.
      parts: into how many jobs the masks are dealt.

    Raises:
      InputError: ``parts`` is less than 1. What it gives raises InputError, protocols.InputError
        and LocalProtocolError for words and seeds that do not fit, and
        WorkerError: a job failed. Only the type of its error is named, because an
        executor's error may quote the job, and so its seeds.
    """
    if parts < 1:
        raise InputError(f"{parts} parts; at least 1 is needed")

    def expand(masks: Sequence[Mask], suite: Suite) -> Streams:
        check_seeds(masks)
        return _Jobs(executor, parts, masks, suite)

    return expand


class _Jobs(OnThreads):
    """Masks that an executor expands."""

    def __init__(self, executor: Executor, parts: int, masks: Sequence[Mask], suite: Suite) -> None:
        self._executor, self._parts, self._masks, self._suite = executor, parts, masks, suite
        self._at = 0

    def apply_to(self, words: Words) -> None:
        jobs = _jobs(words, self._masks, self._suite, self._parts, self._at)
        try:
            answers = self._executor.map(sum_of_masks, jobs)
            sums = [_checked(answer, job) for answer, job in zip(answers, jobs, strict=True)]
        except Exception as error:  # noqa: BLE001  whatever the executor raises, and none is quoted
            failed = type(error).__name__
        else:
            for job, total in zip(jobs, sums, strict=True):
                words[job.start - self._at :][: job.count] += total
            self._at += len(words)
            return
        raise WorkerError(
            f"{failed} in a job of {type(self._executor).__name__}; words are unchanged"
        )


def _checked(total: Any, job: Job) -> Words:
    """What an executor gave back, if it can be the answer to ``job``."""
    if not isinstance(total, np.ndarray) or total.dtype != np.uint64 or total.shape != (job.count,):
        raise InputError(f"an executor must give back a uint64 vector of {job.count} words")
    return total
