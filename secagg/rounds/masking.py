"""Masks onto a vector, on one core, on several, or on any executor.

Everything here is called as ``expand(words, masks, suite)``, applies all masks to
``words`` in place, and leaves bit for bit what
``protocols.primitives.prg.Masks(masks, suite).apply_to(words)`` leaves. Who expands a
mask can take it off: workers run on the server's side, or on the client's own machine
and as its own user. ``words`` never leave the caller; workers get seeds and make sums
of masks, which the caller adds.

More cores means processes: OpenSSL's ``update_into`` holds the interpreter's lock.
"""

import mmap
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.errors import LocalProtocolError, ParameterError
from protocols.primitives.prg import BLOCK_WORDS, MAX_WORDS, SEED_SIZE, Expand, Mask, Masks, Suite
from protocols.primitives.prg import expand as serial
from protocols.secrets import Secret
from secagg.errors import ConfigError, InputError, SecaggError

__all__ = ["Expand", "MaskPool", "WorkerError", "over", "serial"]

Words: TypeAlias = NDArray[np.uint64]

# Costs, in words of a mask (0.83 ns on one core); measured with AES-128 and two workers.
OPENING = 10_000  # to open a stream: HKDF and the cipher's set-up
HANDING = 2  # to clear a word, hand it over and add it
WAKING = 300_000  # to send the jobs and wake the workers

SLOT_WORDS = 2**17  # 1 MiB: a wake-up is lost in its 0.1 ms a mask, and it stays in the cache
SLOTS = 2  # of a worker: it fills one while the caller adds the other


class WorkerError(SecaggError):
    """A worker failed, or could not be asked. ``words`` are as they were before the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Some masks over some words, as it goes to a worker: **its seeds are in the clear**.

    ``Secret`` refuses to be pickled so that nobody sends one by accident. Here it is the
    purpose: whoever expands a mask has its seed. A job goes through a pipe or whatever
    the executor is made of, never to a disk, and does not print its seeds, because
    executors log the arguments of a job that fails.

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

    def masks(self, *, undo: bool = False) -> Masks:
        """The streams, opened at ``start``; ``undo`` turns every sign around."""
        signs = zip(self.labels, self.subtract, strict=True)
        masks = [
            Mask(seed=Secret(self.seeds[at : at + SEED_SIZE]), label=label, subtract=sign != undo)
            for at, (label, sign) in zip(range(0, len(self.seeds), SEED_SIZE), signs, strict=True)
        ]
        return Masks(masks, self.suite, start=self.start)


def _jobs(words: Words, masks: Sequence[Mask], suite: Suite, parts: int) -> list[Job]:
    """Cut the work into at most ``parts`` jobs that cover every mask at every word once.

    Cut by words, every part opens every stream; cut by masks, every part gives a whole
    vector that the caller adds. The cheaper one is taken.
    """
    if words.dtype != np.uint64 or words.ndim != 1 or not words.flags.writeable:
        raise InputError(
            f"words of {words.dtype} in {words.ndim} dimensions; need a writable vector of uint64"
        )
    for mask in masks:
        if len(mask.seed) != SEED_SIZE:
            raise ParameterError(f"seed has {len(mask.seed)} bytes, expected {SEED_SIZE}")
    count = len(words)
    if count > MAX_WORDS:
        raise LocalProtocolError(f"a seed gives at most {MAX_WORDS} words, asked for {count}")
    if not masks or not count:
        return []
    if len(masks) * OPENING > HANDING * count * parts:
        shares = (masks[part::parts] for part in range(parts))
        return [_job(share, suite, 0, count) for share in shares if share]
    step = -(-count // (parts * BLOCK_WORDS)) * BLOCK_WORDS
    return [_job(masks, suite, start, min(step, count - start)) for start in range(0, count, step)]


def _pays(words: Words, masks: Sequence[Mask], jobs: Sequence[Job]) -> bool:
    """Whether workers, one a job, are done before the caller would be."""
    longest = max((len(job.labels) * (job.count + OPENING) for job in jobs), default=0)
    handed = HANDING * sum(job.count for job in jobs)
    return len(masks) * (len(words) + OPENING) > longest + handed + WAKING


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

    A process pool, or a cluster's (a Dask client's ``get_executor()``): its workers get
    seeds, so it belongs to whoever may know them. Threads work and gain nothing. All parts
    are in before ``words`` change, so the caller holds as much memory again, or
    ``parts`` times as much where many masks go over a short vector.

    Raises:
      ConfigError: ``parts`` is less than 1. The callable raises what :class:`MaskPool` does, and
        WorkerError: a job failed. Only the type of its error is named, because an
        executor's error may quote the job, and so its seeds.
    """
    if parts < 1:
        raise ConfigError(f"{parts} parts; at least 1 is needed")

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
        raise InputError("not the words that were asked for")
    return total


class MaskPool:
    """Worker processes that wait for masks; a context manager, called as ``serial`` is.

    Each call cuts the work once a worker. A worker fills a slot of shared memory while
    the caller adds the one before, so memory does not grow with the vector. Little
    work is done in the caller. One pool serves the threads of a process, one at a time.

    Workers are fresh interpreters, not forks: a program that runs threads or has imported
    torch may make a pool, its main module is not run again, and no worker inherits
    another secret than its jobs'. The shared memory has no name, so nobody else opens it
    and nothing is left of it, whoever dies; workers end when this process does.

    Args:
      processes: workers; default one a core that this process may use.

    Raises:
      ConfigError: ``processes`` is less than 1.
      WorkerError: a worker did not start; on a call: one died, or the pool is closed or
        belongs to another process. ``words`` are then unchanged: what was added is taken
        away again, and the pool is closed. Only what breaks in from outside, a
        KeyboardInterrupt, leaves them half masked, as it does with ``serial``.
      InputError: on a call: ``words`` are not one writable vector of uint64.
      ParameterError, LocalProtocolError: on a call: as ``Masks`` does.
    """

    def __init__(self, processes: int | None = None) -> None:
        count = len(os.sched_getaffinity(0)) if processes is None else processes
        if count < 1:
            raise ConfigError(f"{count} processes; at least 1 is needed")
        self._lock = threading.Lock()
        self._pipes: list[Connection] = []
        self._workers: list[subprocess.Popen[bytes]] = []
        self._owner = os.getpid()
        self._stop = weakref.finalize(self, _stop, self._pipes, self._workers)
        memory = os.memfd_create("masks")
        try:
            os.truncate(memory, count * SLOTS * SLOT_WORDS * 8)
            self._slots = _slots(memory)
            for number in range(count):
                self._start(memory, number)
            for pipe in self._pipes:
                pipe.recv_bytes()
        except (EOFError, OSError) as error:
            self.close()
            raise WorkerError(f"a worker did not start: {type(error).__name__}") from error
        except BaseException:
            self.close()
            raise
        finally:
            os.close(memory)

    def _start(self, memory: int, number: int) -> None:
        ours, theirs = Pipe()
        self._pipes.append(ours)
        with theirs:
            numbers = map(str, (theirs.fileno(), memory, number))
            command = [sys.executable, *(f"-W{option}" for option in sys.warnoptions)]
            self._workers.append(
                subprocess.Popen(  # noqa: S603  this interpreter, and a program of ours
                    [*command, "-c", _PROGRAM, *numbers, *map(str, sys.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), memory),
                    start_new_session=True,  # a Ctrl-C is for the caller, who ends its workers
                )
            )

    def __call__(self, words: Words, masks: Sequence[Mask], suite: Suite) -> None:
        """Apply ``masks`` to ``words`` in place, modulo 2**64."""
        if os.getpid() != self._owner:
            raise WorkerError("the pool is another process's; make one after a fork")
        if not self._stop.alive:
            raise WorkerError("the pool is closed; words are unchanged")
        jobs = _jobs(words, masks, suite, len(self._workers))
        if not _pays(words, masks, jobs):
            serial(words, masks, suite)
            return
        with self._lock:
            added = [0] * len(jobs)
            try:
                self._run(jobs, words, added)
            except Exception as error:
                self.close()
                for job, count in zip(jobs, added, strict=True):
                    job.masks(undo=True).apply_to(words[job.start : job.start + count])
                failed = type(error).__name__
                raise WorkerError(
                    f"a worker failed ({failed}); words are unchanged, the pool is closed"
                ) from error
            except BaseException:
                self.close()
                raise

    def _run(self, jobs: list[Job], words: Words, added: list[int]) -> None:
        """Add what the workers send; ``added`` tells how many words of each job are in."""
        for pipe, job in zip(self._pipes, jobs, strict=False):  # fewer jobs than workers
            # send() pickles into a buffer that its traceback keeps, and Python 3.13 complains of.
            pipe.send_bytes(pickle.dumps(job))
        numbers = {pipe: number for number, pipe in enumerate(self._pipes[: len(jobs)])}
        while numbers:
            ready = wait(list(numbers))
            for pipe in [pipe for pipe in numbers if pipe in ready]:
                number = numbers[pipe]
                pipe.recv_bytes()
                job, begin = jobs[number], added[number]
                slot = self._slots[number, begin // SLOT_WORDS % SLOTS]
                size = min(SLOT_WORDS, job.count - begin)
                part = words[job.start + begin :][:size]
                np.add(part, slot[:size], out=part)
                added[number] += size
                if added[number] == job.count:
                    del numbers[pipe]
                elif begin + SLOTS * SLOT_WORDS < job.count:
                    pipe.send_bytes(FREE)

    def close(self) -> None:
        """End the workers. They hold nothing that needs to be put away."""
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MaskPool: {len(self._workers)} processes>"


FULL, FREE = b"f", b"e"  # a slot is full; a slot may be filled again

_PROGRAM = """\
import sys
sys.path[:] = sys.argv[4:]
from secagg.rounds.masking import serve
serve(*map(int, sys.argv[1:4]))
"""


def serve(pipe: int, memory: int, number: int) -> None:
    """A worker's whole life: jobs from the pipe, sums of masks into its slots."""
    slots = _slots(memory)[number]
    with Connection(pipe) as caller, suppress(EOFError, ConnectionError):
        caller.send_bytes(FULL)
        while True:
            job: Job = caller.recv()
            masks = job.masks()
            for turn, begin in enumerate(range(0, job.count, SLOT_WORDS)):
                if turn >= SLOTS:
                    caller.recv_bytes()
                slot = slots[turn % SLOTS, : job.count - begin]
                slot.fill(0)
                masks.apply_to(slot)
                caller.send_bytes(FULL)


def _slots(memory: int) -> NDArray[np.uint64]:
    """All slots by worker and turn; the mapping lives as long as the array."""
    return np.frombuffer(mmap.mmap(memory, 0), np.uint64).reshape(-1, SLOTS, SLOT_WORDS)


def _stop(pipes: list[Connection], workers: list[subprocess.Popen[bytes]]) -> None:
    for pipe in pipes:
        pipe.close()
    for worker in workers:
        worker.kill()  # does nothing in a fork of the caller, whose children they are not
    for worker in workers:
        worker.wait()
