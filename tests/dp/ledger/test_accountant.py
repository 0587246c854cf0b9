"""A ledger in the place of Opacus' accountant."""

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from opacus import PrivacyEngine
from opacus.accountants import RDPAccountant
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dp.accounting import GaussianEvent, NoSampling, PoissonSampling, reported_epsilon
from dp.errors import BudgetExceeded, InputError, PrivacyError
from dp.ledger import FIXED_PLAN, Budget, Ledger, LedgerAccountant, State

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
DELTA = 1e-5


def ledger(path: Path, epsilon: float = 8.0, **how: Any) -> Ledger:
    return Ledger.create(path / "ledger.sqlite", Budget(epsilon=epsilon, delta=DELTA), **how)


def private(spent: LedgerAccountant) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    engine, model = PrivacyEngine(), nn.Linear(3, 2)
    engine.accountant = spent
    data = DataLoader(TensorDataset(torch.rand(40, 3), torch.arange(40) % 2), batch_size=10)
    module, optimizer, _ = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        data_loader=data,
        noise_multiplier=1.5,
        max_grad_norm=1.0,
    )
    return module, optimizer


def backward(model: nn.Module) -> None:
    inputs, labels = torch.rand(10, 3), torch.arange(10) % 2
    nn.functional.cross_entropy(model(inputs), labels).backward()


def test_every_step_of_an_opacus_loop_is_charged(tmp_path: Path) -> None:
    spent = LedgerAccountant(ledger(tmp_path), "a")
    model, optimizer = private(spent)
    theirs = RDPAccountant()
    for _ in range(3):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
        theirs.step(noise_multiplier=1.5, sample_rate=0.25)
    event = GaussianEvent(noise_multiplier=1.5, sampling=PoissonSampling(rate=0.25))
    assert spent.history == [(event, 3)]
    assert len(spent) == 3
    assert spent.get_epsilon() == reported_epsilon([(event, 3)], DELTA).epsilon
    assert 0 < spent.get_epsilon(DELTA) <= theirs.get_epsilon(DELTA) * 1.001
    assert spent.get_epsilon(1e-3) < spent.get_epsilon(1e-9)
    with Ledger.open(tmp_path / "ledger.sqlite", read_only=True) as found:
        found.verify()
        assert {each.state for each in found.reservations()} == {State.COMMITTED}


def test_a_step_beyond_the_budget_is_not_made(tmp_path: Path) -> None:
    spent = LedgerAccountant(ledger(tmp_path, epsilon=2.5), "a")
    model, optimizer = private(spent)
    with suppress(BudgetExceeded):
        while True:
            spent.step(noise_multiplier=1.5, sample_rate=0.25)
    made = len(spent)
    backward(model)
    before = [each.detach().clone() for each in model.parameters()]
    with pytest.raises(BudgetExceeded):
        optimizer.step()
    assert len(spent) == made > 0
    assert all(map(torch.equal, model.parameters(), before))
    assert spent.get_epsilon() <= 2.5


def test_what_was_spent_stays_spent_after_a_restart_and_a_checkpoint(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    spent = LedgerAccountant(first, "a")
    old = spent.state_dict()
    spent.step(noise_multiplier=1.0, sample_rate=0.01, steps=100)
    first.close()
    again = LedgerAccountant(Ledger.open(tmp_path / "ledger.sqlite"), "a")
    again.load_state_dict(old)
    assert len(again) == 100
    again.step(noise_multiplier=1.0, sample_rate=0.01)
    assert len(again) == 101
    assert len(LedgerAccountant(Ledger.open(tmp_path / "ledger.sqlite"), "b")) == 0


def test_without_sampling_the_price_is_that_of_all_data(tmp_path: Path) -> None:
    spent = LedgerAccountant(ledger(tmp_path), "a")
    spent.step(noise_multiplier=2.0, sample_rate=1)
    assert spent.history == [(GaussianEvent(noise_multiplier=2.0, sampling=NoSampling()), 1)]


def test_batches_that_were_gathered_for_one_step_are_refused(tmp_path: Path) -> None:
    spent = LedgerAccountant(ledger(tmp_path), "a")
    hook = spent.get_optimizer_hook_fn(0.25)
    with pytest.raises(InputError, match="2 batches for one step"):
        hook(SimpleNamespace(accumulated_iterations=2, noise_multiplier=1.0))
    assert len(spent) == 0


@pytest.mark.parametrize(
    "numbers",
    [
        {"noise_multiplier": 0.0, "sample_rate": 0.1},
        {"noise_multiplier": 1.0, "sample_rate": 0.0},
        {"noise_multiplier": 1.0, "sample_rate": 1.5},
        {"noise_multiplier": float("nan"), "sample_rate": 0.1},
        {"noise_multiplier": 1.0, "sample_rate": 0.1, "steps": -1},
    ],
)
def test_a_step_of_numbers_that_are_none_is_refused(
    tmp_path: Path, numbers: dict[str, Any]
) -> None:
    spent = LedgerAccountant(ledger(tmp_path), "a")
    with pytest.raises(PrivacyError):
        spent.step(**numbers)
    assert len(spent) == 0


def test_a_ledger_with_a_filter_and_a_subject_without_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=FIXED_PLAN):
        LedgerAccountant(ledger(tmp_path, policy="zCDP"), "a")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError):
        LedgerAccountant(ledger(tmp_path / "other"), "")
