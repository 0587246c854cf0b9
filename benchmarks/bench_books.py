"""The ledger: reservations in batches of 1,000, in both books, each admitted and synced.

``extra_info`` holds reservations a second. Histories are what admission reads: "alike"
gives every subject the same, "apart" gives each another one, over ten kinds of event.
"""

import itertools
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dp.accounting.events import GaussianEvent, PoissonSampling
from dp.ledger.ledger import Budget, Charge, Ledger

SUBJECTS, ROUNDS = 1_000, 20
SERVER = [
    GaussianEvent(noise_multiplier=20 + kind, sampling=PoissonSampling(rate=0.1))
    for kind in range(10)
]
RELEASE = [
    GaussianEvent(noise_multiplier=30 + kind, sampling=PoissonSampling(rate=0.1))
    for kind in range(10)
]


def charge(subject: int, number: int, histories: str) -> Charge:
    digit = subject // 10 ** (number % 3) if histories == "apart" else 0
    kind = (number + digit) % 10
    return Charge(server=SERVER[kind], release=RELEASE[kind])


@pytest.mark.parametrize("policy", ["fixed plan", "RDP at order 8"])
@pytest.mark.parametrize("histories", ["alike", "apart"])
def test_reserve(benchmark: BenchmarkFixture, tmp_path: Path, histories: str, policy: str) -> None:
    book = Ledger.create(tmp_path / "ledger", Budget(epsilon=8, delta=1e-5), policy=policy)
    rounds = itertools.count()

    def batch() -> tuple[tuple[int, dict[str, Charge]], dict[str, object]]:
        number = next(rounds)
        charges = {f"client-{n}": charge(n, number, histories) for n in range(SUBJECTS)}
        return (number, charges), {}

    benchmark.pedantic(book.reserve, setup=batch, rounds=ROUNDS, warmup_rounds=5)
    benchmark.extra_info["reservations a second"] = SUBJECTS / benchmark.stats.stats.median
    book.close()


def test_verify(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Replay of 100,000 reservations."""
    with Ledger.create(tmp_path / "ledger", Budget(epsilon=8, delta=1e-5)) as book:
        for number in range(100):
            event = Charge(server=SERVER[number % 10], release=RELEASE[0])
            book.reserve(number, {f"client-{n}": event for n in range(SUBJECTS)})
            book.commit(number, [f"client-{n}" for n in range(SUBJECTS)])
        benchmark.pedantic(book.verify, rounds=2)
