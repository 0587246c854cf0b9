"""Masks onto a vector, on one core, on several, or on any executor.

Everything here is called as ``expand(words, masks, suite)``, applies all masks to ``words`` in
place, and leaves bit for bit what ``protocols.primitives.prg.Masks(masks, suite).apply_to(words)``
leaves. Who expands a mask can take it off.

``expand`` uses the cores of this machine where that pays: threads, as OpenSSL's ``update_into`` and
numpy's additions hold no lock of the interpreter. ``over`` hands parts to an executor, which then
knows the seeds: for a server, whose seeds they are.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import protocols
from protocols.errors import LocalProtocolError
from protocols.primitives.prg import BLOCK_WORDS, MAX_WORDS, SEED_SIZE, Expand, Mask, Masks, Suite
from protocols.primitives.prg import expand as serial
from protocols.secrets import Secret
from secagg.errors import InputError, WorkerError

__all__ = ["Expand", "expand", "over", "serial", "threads"]

Words: TypeAlias = NDArray[np.uint64]

THREADS = "SECAGG_THREADS"  # the environment variable: at most so many
PAYS = 2_000_000  # words of all masks: 1 ms on one core (measured), ten times what a thread costs


def threads(count: int | None = None) -> Expand:
    """Expand masks on so many threads of this process.

    Args:
      count: by default the cores that this process may use, and no more than the
        environment variable SECAGG_THREADS says. It changes no word of a result.

    Raises:
      InputError: ``count``, or what the variable says, is no integer from 1.
    """
    if count is None:
        said = os.environ.get(THREADS, "")
        if said and not (said.isascii() and said.isdecimal() and int(said) > 0):
            raise InputError(f"{THREADS} is {said!r:.40}, must be an integer from 1")
        cores = len(os.sched_getaffinity(0))
        count = min(cores, int(said)) if said else cores
    elif type(count) is not int or count < 1:
        raise InputError(f"count is {count!r}, must be an integer from 1")
    several = count

    def expand(words: Words, masks: Sequence[Mask], suite: Suite) -> None:
        _check(words, masks)
        parts = min(several, len(masks))
        if parts < 2 or len(words) * len(masks) < PAYS:
            serial(words, masks, suite)
            return
        with ThreadPoolExecutor(parts - 1) as pool:
            shares = [masks[part::parts] for part in range(parts)]
            sums = [pool.submit(_sum, len(words), share, suite) for share in shares[1:]]
            Masks(shares[0], suite).apply_to(words)
            for total in sums:
                words += total.result()

    return expand


def expand(words: Words, masks: Sequence[Mask], suite: Suite) -> None:
    """Expand masks on the cores of this machine; see ``threads``."""
    threads()(words, masks, suite)


def _sum(count: int, masks: Sequence[Mask], suite: Suite) -> Words:
    total = np.zeros(count, np.uint64)
    Masks(masks, suite).apply_to(total)
    return total


def _check(words: Words, masks: Sequence[Mask]) -> None:
    if words.dtype != np.uint64 or words.ndim != 1 or not words.flags.writeable:
        raise InputError(
            f"words of {words.dtype} in {words.ndim} dimensions; need a writable vector of uint64"
        )
    for mask in masks:
        if len(mask.seed) != SEED_SIZE:
            raise protocols.InputError(f"seed has {len(mask.seed)} bytes, expected {SEED_SIZE}")
    if len(words) > MAX_WORDS:
        raise LocalProtocolError(f"a seed gives at most {MAX_WORDS} words, asked for {len(words)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Some masks over some words, as it goes to an executor: **its seeds are in the clear**.

    ``Secret`` refuses to be pickled so that nobody sends one by accident. Here it is the purpose:
    whoever expands a mask has its seed. It does not print them, because executors log the
    arguments of a job that fails.

    Attributes:
      seeds: 32 bytes a mask, one after the other.
      start: the first word, a multiple of 8.
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
        return Masks(masks, self.suite, start=self.start)


def _jobs(words: Words, masks: Sequence[Mask], suite: Suite, parts: int) -> list[Job]:
    """At most ``parts`` jobs that cover every mask at every word once.

    Cut by masks where there are as many as parts: a stream is quickest from its start on.
    """
    _check(words, masks)
    count = len(words)
    if not masks or not count:
        return []
    if len(masks) >= parts:
        return [_job(masks[part::parts], suite, 0, count) for part in range(parts)]
    step = -(-count // (parts * BLOCK_WORDS)) * BLOCK_WORDS
    return [_job(masks, suite, start, min(step, count - start)) for start in range(0, count, step)]


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
    belongs to whoever may know them. All parts are in before ``words`` change, so the caller
    holds as much memory again, or ``parts`` times as much where the masks are shared out.

    Raises:
      InputError: ``parts`` is less than 1. The callable raises InputError, protocols.InputError and
        LocalProtocolError for words and seeds that do not fit, and
        WorkerError: a job failed. Only the type of its error is named, because an
        executor's error may quote the job, and so its seeds.
    """
    if parts < 1:
        raise InputError(f"{parts} parts; at least 1 is needed")

    def expand(words: Words, masks: Sequence[Mask], suite: Suite) -> None:
        jobs = _jobs(words, masks, suite, parts)
        try:
            answers = executor.map(sum_of_masks, jobs)
            sums = [_checked(answer, job) for answer, job in zip(answers, jobs, strict=True)]
        except Exception as error:  # noqa: BLE001  whatever the executor raises, and none is quoted
            failed = type(error).__name__
        else:
            for job, total in zip(jobs, sums, strict=True):
                words[job.start : job.start + job.count] += total
            return
        raise WorkerError(f"{failed} in a job of {type(executor).__name__}; words are unchanged")

    return expand


def _checked(total: Any, job: Job) -> Words:
    """What an executor gave back, if it can be the answer to ``job``."""
    if not isinstance(total, np.ndarray) or total.dtype != np.uint64 or total.shape != (job.count,):
        raise InputError(f"an executor must give back a uint64 vector of {job.count} words")
    return total
