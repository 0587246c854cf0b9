"""The audit, page included, of 1,000 clients that drop out apart in 1,000 rounds.

It runs in a process of its own, so that ``extra_info`` can hold that process's peak of memory.
Writing the ledger takes a minute or two, and is not what is timed.
"""

import math
import subprocess
import sys
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from dp.accounting.events import GaussianEvent, NeighboringRelation, NoSampling, Unit
from dp.ledger.ledger import Budget, Ledger

CLIENTS, ROUNDS, MINIMUM = 1_000, 1_000, 400
AUDIT = """
import resource, sys
from pathlib import Path
from secagg.audit.report import audit
from secagg.audit.page import page
result = audit(Path(sys.argv[1]))
page(result)
print(len({tuple(one.accounts.values()) for one in result.sections[0].subjects}))
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
"""


def client(noise: float) -> GaussianEvent:
    return GaussianEvent(
        noise_multiplier=noise,
        sampling=NoSampling(),
        unit=Unit.CLIENT,
        adjacency=NeighboringRelation.ZERO_OUT,
    )


def test_audit(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Client n misses every (2 + n)th round; noise grows with those who stayed; some stay open."""
    with Ledger.create(tmp_path / "ledger", Budget(epsilon=30, delta=1e-6)) as book:
        for number in range(1, ROUNDS + 1):
            names = [f"client-{n}" for n in range(CLIENTS) if number % (2 + n)]
            there = [name for at, name in enumerate(names) if (at + number) % 11]
            book.reserve(number, dict.fromkeys(names, client(20)), minimum_survivors=MINIMUM)
            real = client(20 * math.sqrt(len(there) / MINIMUM))
            book.commit(number, dict.fromkeys(there, real), survivors=len(there))
            if number % 2:
                book.abort(number, set(names) - set(there))
    command = [sys.executable, "-c", AUDIT, str(tmp_path / "ledger")]
    done = benchmark.pedantic(
        subprocess.run,
        args=(command,),
        kwargs={"check": True, "capture_output": True, "text": True},
        rounds=1,
    )
    histories, peak, seconds = map(float, done.stdout.split())
    benchmark.extra_info["histories"] = int(histories)
    benchmark.extra_info["peak MB"] = peak / 1e3  # ru_maxrss is in kB on Linux
    benchmark.extra_info["CPU s"] = seconds
