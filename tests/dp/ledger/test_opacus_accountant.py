"""A ledger stands in for an accountant of Opacus, and stops what Opacus would not."""

import warnings
from pathlib import Path

import pytest

pytest.importorskip("opacus")
import torch
from opacus import PrivacyEngine
from opacus.accountants import RDPAccountant
from opacus.accountants.accountant import IAccountant
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dp.errors import BudgetExceeded, InputError
from dp.ledger import Budget, Ledger, LedgerAccountant

DELTA = 1e-5


def ledger(folder: Path, epsilon: float = 50.0) -> Ledger:
    return Ledger.create(folder / "ledger.sqlite", Budget(epsilon=epsilon, delta=DELTA))


def test_it_has_every_method_of_an_accountant() -> None:
    wanted = {name for name in dir(IAccountant) if not name.startswith("_")} | {"__len__"}
    assert wanted <= set(dir(LedgerAccountant))


def test_its_epsilon_is_that_of_opacus(tmp_path: Path) -> None:
    spent, theirs = LedgerAccountant(ledger(tmp_path)), RDPAccountant()
    for noise, rate, steps in ((1.1, 0.02, 12), (2.0, 0.1, 3)):
        for _ in range(steps):
            spent.step(noise_multiplier=noise, sample_rate=rate)
            theirs.step(noise_multiplier=noise, sample_rate=rate)
    assert len(spent) == 15
    assert sorted(spent.history) == sorted(theirs.history)
    # Other orders are looked at, so either may be a little lower.
    assert spent.get_epsilon(DELTA) == pytest.approx(theirs.get_epsilon(DELTA), rel=0.02)
    with Ledger.open(tmp_path / "ledger.sqlite") as kept:
        assert kept.verify()
        assert LedgerAccountant(kept).get_epsilon(DELTA) == spent.get_epsilon(DELTA)


def test_a_step_beyond_the_budget_does_not_move_the_model(tmp_path: Path) -> None:
    """Opacus' own accountants count on; here the parameters stay where they are."""
    torch.manual_seed(0)
    spent = LedgerAccountant(ledger(tmp_path, epsilon=4.0))
    engine = PrivacyEngine()
    engine.accountant = spent
    model = nn.Linear(3, 2)
    data = DataLoader(TensorDataset(torch.randn(64, 3), torch.arange(64) % 2), batch_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus on its generator
        model, optimizer, loader = engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=data,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
        )
    places: list[list[torch.Tensor]] = []

    def train() -> None:
        for _ in range(100):
            for inputs, targets in loader:
                places.append([p.detach().clone() for p in model.parameters()])
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch on hooks
        with pytest.raises(BudgetExceeded):
            train()
    assert len(spent) == len(places) - 1 > 0
    assert all(torch.equal(a, b) for a, b in zip(places[-1], model.parameters(), strict=True))
    assert spent.get_epsilon(DELTA) <= 4.0


def test_a_checkpoint_of_more_steps_than_the_ledger_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    spent, empty = LedgerAccountant(ledger(tmp_path)), LedgerAccountant(ledger(tmp_path / "other"))
    spent.step(noise_multiplier=1.0, sample_rate=0.1)
    spent.load_state_dict(spent.state_dict())
    with pytest.raises(InputError, match="1 steps and the ledger holds 0"):
        empty.load_state_dict(spent.state_dict())
