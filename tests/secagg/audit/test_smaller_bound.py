"""An audit prints the smaller of both bounds, by its name, and PLD only for a plan kept to."""

from pathlib import Path

import pytest

from dp.accounting.events import GaussianEvent, NoSampling, PoissonSampling
from dp.ledger.ledger import Book, Budget, Ledger
from secagg.audit.report import audit


def charged(path: Path, event: GaussianEvent, budget: Budget, real: GaussianEvent | None = None):
    with Ledger.create(path, budget) as book:
        book.reserve(0, {"a": event})
        book.commit(0, {"a": real} if real else ["a"])
    (section,) = audit(path).sections
    return section


@pytest.mark.parametrize(
    ("event", "budget", "by"),
    [
        ((8.0, 1e-4, 10**6), Budget(epsilon=0.05, delta=1e-6), "pld"),
        ((1.0, 0.01, 1000), Budget(epsilon=8, delta=1e-15), "rdp"),
    ],
)
def test_the_headline_is_the_smaller_bound_and_within_a_budget_that_holds(
    tmp_path: Path, event: tuple[float, float, int], budget: Budget, by: str
) -> None:
    z, q, steps = event
    plan = GaussianEvent(noise_multiplier=z, sampling=PoissonSampling(rate=q), steps=steps)
    section = charged(tmp_path / "ledger", plan, budget)
    report = section.books[Book.SERVER]
    assert (report.accountant, report.rdp) == (by, pytest.approx(report.rdp))
    assert report.epsilon <= report.rdp
    assert section.epsilon <= budget.epsilon
    assert "smaller of both" in report.why


def test_a_commit_above_its_reservation_is_reported_by_rdp(tmp_path: Path) -> None:
    quiet, loud = (GaussianEvent(noise_multiplier=z, sampling=NoSampling()) for z in (4.0, 2.0))
    report = charged(tmp_path / "l", quiet, Budget(epsilon=4, delta=1e-5), loud).books[Book.SERVER]
    assert (report.accountant, report.epsilon) == ("rdp", report.rdp)
    assert "cost more than was reserved" in report.why
