"""Time, memory and the machine, measured so that two runs can be compared.

The speed of a machine swings by two within minutes, so a second by itself says little. What
is compared is measured in turn, A B B A, and what counts is the ratio *within* a turn: a slow
minute slows both. ``secagg.bench.yardsticks`` has what such a ratio can be taken to.

The interval of a median takes nothing for granted about the law of the samples but that they
are independent draws of one. Turns that follow each other are not quite: who else is on the
machine moves ratios too, by a fifth for some seconds. ``secagg.bench.quick`` makes one sample of
all turns of a pass, and passes lie seconds apart. What differs between two processes of the same
program (where its memory lies) no interval of one run holds; whoever compares two adds a
tolerance for it (``secagg.bench.compare``).
"""

import ctypes
import gc
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Final

from secagg.errors import InputError

CONFIDENCE: Final = 0.95
MIN_SECONDS: Final = 2e-3  # seconds of a sample: a thousand times what asking the clock takes
ROUNDS: Final = 21
LIBRARIES: Final = (
    *("secagg", "numpy", "cryptography", "tenseal", "dp-accounting", "scipy"),
    *("torch", "opacus", "flwr"),
)
FLAGS: Final = (
    *("aes", "vaes", "pclmulqdq", "vpclmulqdq", "sha_ni", "avx2", "avx512f", "avx512ifma"),
    *("avx512vbmi", "bmi2", "adx", "asimd", "pmull", "sha2"),
)
THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Clock(StrEnum):
    """Seconds of what: of the day, or of work by all threads of this process."""

    WALL = "wall"
    CPU = "cpu"

    def now(self) -> float:
        """CPU seconds leave out what others run on the same core, and child processes."""
        return time.perf_counter() if self is Clock.WALL else time.process_time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median, and bounds that hold the true one with at least ``confidence``.

    Attributes:
      value: the median.
      low, high: bounds of the true median.
    """

    value: float
    low: float
    high: float
    confidence: float

    def as_dict(self) -> dict[str, float]:
        """The measurement as JSON."""
        return asdict(self)


def min_samples(confidence: float) -> int:
    """Samples without which nothing holds their median with ``confidence``."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence} is not between 0 and 1")
    return max(1, math.ceil(1 - math.log2(1 - confidence)))


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of independent samples of any law, and where its true one lies.

    Each of n samples is below the true median with probability 1/2 at most, so the interval
    from the k-th smallest to the k-th largest misses it with 2 P[Bin(n, 1/2) < k] at most;
    k is the largest for which that is at most 1 - ``confidence``.
    (David, Nagaraja: Order Statistics, sec. 7.1.)

    Raises:
      InputError: fewer than ``min_samples(confidence)`` samples, or one that is no finite number.
    """
    count = len(samples)
    if count < min_samples(confidence):
        raise InputError(
            f"{count} samples; a median held with {confidence:g} needs {min_samples(confidence)}"
        )
    if not all(map(math.isfinite, samples)):
        raise InputError("a sample is NaN or infinite; measure it again")
    ordered, allowed = sorted(samples), Fraction(1 - confidence) * 2 ** (count - 1)
    below, rank = 0, 0
    while (below := below + math.comb(count, rank)) <= allowed and 2 * (rank + 1) <= count + 1:
        rank += 1
    rank = max(rank, 1)  # ``fewest`` holds; a rounding may not
    return Interval(
        value=median(ordered), low=ordered[rank - 1], high=ordered[-rank], confidence=confidence
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What a contender gives that times its own parts, and so leaves out what is not its work."""

    seconds: Mapping[str, float]
    result: object = None


Work = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interleaved:
    """Seconds of several contenders, turn by turn.

    Attributes:
      clock: processor time, or the clock on the wall.
      seconds: of one call, one a turn; a part that a contender timed itself stands under
        ``contender/part``.
      repeats: calls that one sample is the mean of.
      last: what each gave last.
    """

    clock: Clock
    seconds: Mapping[str, tuple[float, ...]]
    repeats: Mapping[str, int]
    last: Mapping[str, object] = field(repr=False)

    def median(self, name: str) -> float:
        """Seconds of one call."""
        return median(self.seconds[name])

    def ratios(self, name: str, unit: str) -> list[float]:
        """``name`` over ``unit``, turn by turn."""
        pairs = zip(self.seconds[name], self.seconds[unit], strict=True)
        return [one / other for one, other in pairs]

    def ratio(self, name: str, unit: str, confidence: float = CONFIDENCE) -> Interval:
        """The median of ``ratios``, and its interval."""
        return median_interval(self.ratios(name, unit), confidence)

    def as_dict(self) -> dict[str, Any]:
        """The measurement as JSON."""
        return {
            "clock": self.clock.value,
            "seconds": {name: list(kept) for name, kept in self.seconds.items()},
            "repeats": dict(self.repeats),
        }


def interleaved(
    contenders: Mapping[str, Work],
    *,
    rounds: int = ROUNDS,
    seconds: float = 0.0,
    clock: Clock = Clock.CPU,
    sample_seconds: float = MIN_SECONDS,
    repeats: Mapping[str, int] | None = None,
) -> Interleaved:
    """Call each contender once a turn, in an order that moves on and turns around.

    Of two the order is A B, B A, A B: neither is always the one that finds the cache cold,
    and a machine that slows down steadily slows both alike. One call of each comes before, to
    warm up and to see how often a short one is to be called for one sample. The garbage
    collector is off meanwhile.

    Args:
      clock: processor time, or the clock on the wall.
      contenders: by name. One that returns ``Timed`` is not timed from outside.
      rounds: turns, at least.
      seconds: by the clock on the wall: turns go on until they are over.
      sample_seconds: the least of one sample, unless a contender times itself.
      repeats: calls for one sample of each instead; nothing is warmed up then.

    Raises:
      InputError: nothing to measure, or a contender whose clock did not move.
    """
    if not contenders or rounds < 1:
        raise InputError(f"{len(contenders)} contenders, {rounds} rounds: at least 1 each")
    names = list(contenders)
    kept: dict[str, list[float]] = {}
    last: dict[str, object] = {}
    with _uncollected():
        if repeats is None:
            repeats = {name: _repeats(contenders[name], clock, sample_seconds) for name in names}
        end, turn = time.perf_counter() + seconds, 0
        while turn < rounds or time.perf_counter() < end:
            at = turn % len(names)
            order = names[at:] + names[:at]
            for name in order if turn // len(names) % 2 == 0 else reversed(order):
                found, last[name] = _sample(contenders[name], clock, repeats[name])
                for part, amount in found.items():
                    kept.setdefault(f"{name}/{part}" if part else name, []).append(amount)
            turn += 1
    for name, values in kept.items():
        if "/" not in name and min(values) <= 0:
            raise InputError(f"{name!r} took no time by the {clock} clock; give it more work")
    return Interleaved(
        clock=clock,
        seconds={name: tuple(values) for name, values in kept.items()},
        repeats=dict(repeats),
        last=last,
    )


def _sample(contender: Work, clock: Clock, repeats: int) -> tuple[dict[str, float], object]:
    """Seconds of one call, under no name the whole."""
    began = clock.now()
    for _ in range(repeats):
        result = contender()
    took = (clock.now() - began) / repeats
    if isinstance(result, Timed):
        return {"": sum(result.seconds.values())} | dict(result.seconds), result.result
    return {"": took}, result


def _repeats(contender: Work, clock: Clock, sample_seconds: float) -> int:
    began = clock.now()
    if isinstance(contender(), Timed):
        return 1
    first = clock.now() - began
    if first >= sample_seconds:
        return 1
    began, count = clock.now(), 0  # again: a first call may have built a table
    while clock.now() - began < sample_seconds and count < 10**6:
        contender()
        count += 1
    return count


@contextmanager
def _uncollected() -> Iterator[None]:
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def peak_memory(work: Callable[[], object]) -> int | None:
    """Bytes that were resident at the worst moment of ``work``, over those before it.

    All memory of the process counts, that of numpy, OpenSSL and SEAL too; free memory that the
    allocator kept is given back first, so that ``work`` does not find it and seem to need none.
    The kernel counts by thread and adds up late: small amounts may be some hundred kB off. Linux
    alone tells (VmHWM in proc(5)); None elsewhere.
    """
    try:
        gc.collect()
        with suppress(OSError, AttributeError):  # a C library other than glibc
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # VmHWM falls to VmRSS
        before = _status("VmRSS")
        work()
        peak = _status("VmHWM")
    except OSError:
        return None
    return None if before is None or peak is None else max(0, peak - before) * 1024


def threads() -> int | None:
    """Threads of this process at this moment; None where the system does not say."""
    return _status("Threads")


def machine() -> dict[str, Any]:
    """What a figure depends on beside the code: processor, cores, threads, libraries.

    ``same_machine`` tells two apart by processor and cores.
    """
    model, flags = _processor()
    return {
        "cpu": model,
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads(),
        "threads_asked": {name: os.environ[name] for name in THREADS if name in os.environ},
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "openssl": _openssl(),
        "libraries": _libraries(),
    }


def same_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records of ``machine`` name one kind of processor, flags and cores alike."""
    return all(one.get(name) == other.get(name) for name in ("cpu", "flags", "cores", "system"))


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith(f"{name}:"))
    return next((int(words[1]) for words in found), None)


def _processor() -> tuple[str, set[str]]:
    model, flags = platform.processor() or platform.machine(), set[str]()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            elif name.strip() in ("flags", "Features"):
                flags = set(value.split())
    return model, flags


def _openssl() -> str:
    from cryptography.hazmat.backends.openssl.backend import backend

    return backend.openssl_version_text()


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
