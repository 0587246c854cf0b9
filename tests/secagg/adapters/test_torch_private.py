"""A private training among ranks: the noise is in the sum, and every rank's ledger is charged."""

from pathlib import Path
from typing import Any

import pytest
import rank_work as work
import torch
from ranks import run


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ledgers")
    return run(work.private, str(folder), timeout=20)


def test_all_ranks_move_to_the_same_model(found: list[dict[str, Any]]) -> None:
    for each in found[1:]:
        assert torch.equal(each["one"], found[0]["one"])


def test_two_trainings_of_one_model_differ_in_their_noise(found: list[dict[str, Any]]) -> None:
    assert (found[0]["one"] - found[0]["other"]).abs().max() > 1e-3


def test_every_rank_is_charged_for_each_step(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert each["epsilon"] == pytest.approx(each["expected"])
        assert 0.5 < each["epsilon"] < 8


def test_the_divisor_is_the_expected_batch_of_all_ranks(found: list[dict[str, Any]]) -> None:
    assert [each["batch"] for each in found] == [16.0] * 4


def test_next_to_no_noise_leaves_the_mean_of_clipped_gradients(
    found: list[dict[str, Any]],
) -> None:
    for each in found:
        assert (each["gradient"] - each["true"]).abs().max() < 6 * 0.05 * (4 / 3) ** 0.5 / 32


def test_noise_that_is_planned_for_other_ranks_is_refused(found: list[dict[str, Any]]) -> None:
    for each in found:
        name, text, _ = each["planned for others"]
        assert name == "InputError"
        assert "plan it for all 4 ranks" in text
