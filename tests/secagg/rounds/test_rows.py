"""Rows that few clients touched are in no sum, whoever is lost on the way."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from protocols.errors import TooFewSurvivors
from secagg import Bonawitz, Ckks, InputError
from secagg.rounds import rows as under_test
from secagg.rounds.rows import aggregate_rows

STEP = 8.0 / (2**15 - 1)


def made(touched: list[set[int]], rows: int = 6) -> list[dict[str, Any]]:
    """A client each; rows that it touched are its number and one, the rest of them 0."""
    updates = []
    for client, own in enumerate(touched):
        words = np.zeros((rows, 2))
        words[sorted(own)] = client + 1
        updates.append({"words": words, "out": np.full(3, client + 1.0)})
    return updates


@given(
    touched=st.lists(st.sets(st.integers(0, 5)), min_size=3, max_size=5),
    least=st.integers(2, 3),
)
@settings(max_examples=25, deadline=None)
def test_every_row_is_the_sum_of_enough_clients_or_nothing(
    touched: list[set[int]], least: int
) -> None:
    updates = made(touched)
    found = aggregate_rows(updates, rows="words", least=least, clip=8.0)
    for row in range(6):
        who = [client for client, own in enumerate(touched) if row in own]
        assert found.counts["words"][row] == len(who)
        expected = sum(client + 1 for client in who) if len(who) >= least else 0
        assert np.abs(found.aggregate.sum["words"][row] - expected).max() <= 5 * STEP
        if len(who) < least:
            assert not found.aggregate.sum["words"][row].any()
    assert np.abs(found.aggregate.sum["out"] - sum(range(1, len(touched) + 1))).max() <= 5 * STEP


@pytest.mark.parametrize("protocol", [Bonawitz(), Bonawitz(active=True), Ckks()], ids=str)
def test_under_each_protocol_and_with_weights(protocol: Any) -> None:
    updates = made([{0, 1}, {0}, {0, 2}])
    how: dict[str, Any] = {"rows": ["words"], "least": 2, "clip": 8.0, "protocol": protocol}
    found = aggregate_rows(updates, weights=[1, 2, 3], **how)
    assert found.withheld == {"words": 2}
    assert found.aggregate.weight == 6
    mean = found.aggregate.mean["words"]
    assert mean[0] == pytest.approx((1 + 4 + 9) / 6, abs=1e-2)
    assert not mean[1:].any()


def test_a_client_of_no_weight_does_not_open_the_row_of_another() -> None:
    updates = made([{0, 1}, {0, 1}, {0}])
    found = aggregate_rows(updates, rows="words", least=2, clip=8.0, weights=iter([0, 2, 3]))
    assert found.counts["words"].tolist() == [2, 1, 0, 0, 0, 0]
    assert not found.aggregate.sum["words"][1].any()
    mean = found.aggregate.mean["words"][0]
    assert mean == pytest.approx((2 * 2 + 3 * 3) / 5, abs=1e-2)


def test_models_come_back_as_they_were_handed_in() -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 2))
    clients = []
    for client in range(3):
        model = {name: value.clone() for name, value in start.state_dict().items()}
        model["0.weight"][0] += 1.0
        model["0.weight"][client + 1] += 1.0
        clients.append(model)
    found = aggregate_rows(
        clients, rows="0.weight", least=2, clip=2.0, start=start.state_dict()
    ).aggregate.mean
    before = start.state_dict()["0.weight"]
    assert found["0.weight"][0] == pytest.approx(before[0] + 1.0, abs=1e-3)
    assert torch.equal(found["0.weight"][1:], before[1:])
    assert found["1.weight"] == pytest.approx(start.state_dict()["1.weight"], abs=1e-3)


def test_who_vanishes_between_the_sums_leaves_no_row_to_fewer() -> None:
    """*Attack*: row 0 is of clients 0 and 1; without 1 it would be the other's own, in clear."""
    updates = made([{0}, {0}, {1}, {1}, {1}])
    how: dict[str, Any] = {"rows": "words", "least": 2, "clip": 8.0}
    with pytest.raises(TooFewSurvivors):
        aggregate_rows(updates, later_dropouts={1: "mask"}, **how)
    found = aggregate_rows(updates, lost=1, later_dropouts={1: "mask"}, **how)
    assert found.aggregate.survivors == (0, 2, 3, 4)
    assert not found.aggregate.sum["words"][0].any()
    assert found.aggregate.sum["words"][1].any()


def test_without_the_minimum_of_the_second_sum_the_attack_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(under_test, "replace", lambda it, **what: _unless_minimum(it, what))
    updates = made([{0}, {0}, {1}, {1}, {1}])
    found = aggregate_rows(updates, rows="words", least=2, clip=8.0, later_dropouts={1: "mask"})
    assert found.aggregate.sum["words"][0] == pytest.approx(1.0, abs=STEP)  # client 0's own


def _unless_minimum(it: Any, what: dict[str, Any]) -> Any:
    from dataclasses import replace

    what.pop("minimum_survivors", None)
    return replace(it, **what)


def test_who_vanishes_in_the_first_sum_is_not_asked_again() -> None:
    updates = made([{0}, {0}, {0}, {0}])
    found = aggregate_rows(updates, rows="words", least=2, clip=8.0, dropouts={0: "mask"})
    assert found.counts["words"].tolist() == [3, 0, 0, 0, 0, 0]
    assert found.aggregate.survivors == (1, 2, 3)


def test_clients_who_were_told_other_counts_agree_to_another_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    honest = under_test.aggregate_bound
    monkeypatch.setattr(
        under_test,
        "aggregate_bound",
        lambda updates, public, **how: seen.append(public) or honest(updates, public, **how),
    )
    for touched in ([{0}, {0}, {1}], [{0}, {0}, {0}]):
        aggregate_rows(made(touched), rows="words", least=2, clip=8.0)
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"least": 1}, "least 1 is not an int from 2"),
        ({"least": True}, "least True"),
        ({"least": 2, "lost": -1}, "lost -1"),
        ({"least": 3, "lost": 1}, "more than the 3 clients"),
        ({"least": 2, "rows": "other"}, "no array of the updates"),
        ({"least": 2, "rows": []}, "rows is empty"),
        ({"least": 2, "rows": "out"}, "rows are of matrices"),
    ],
)
def test_what_cannot_be_kept_is_refused(how: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        aggregate_rows(made([{0}, {1}, {2}]), clip=8.0, **({"rows": "words"} | how))


def test_integers_are_refused() -> None:
    updates = [each | {"n": np.arange(2)} for each in made([{0}, {1}, {2}])]
    with pytest.raises(InputError, match="'n' holds integers"):
        aggregate_rows(updates, rows="words", least=2, clip=8.0)
