import json
from dataclasses import replace

import pytest

from secagg import costs
from secagg.costs import Cost, exponents, measure, sweep

POINT = Cost(
    clients=10,
    entries=100,
    lanes=3,
    dropout=0.1,
    neighbours=9,
    threshold=6,
    client_seconds=1.0,
    server_seconds=1.0,
    bytes_up=1,
    bytes_down=1,
    whole=True,
)


def test_a_whole_session_and_a_sampled_one_count_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = measure(30, 10_000)
    monkeypatch.setattr(costs, "FULL", 0)
    sampled = measure(30, 10_000)
    assert (whole.whole, sampled.whole) == (True, False)
    assert sampled.neighbours == whole.neighbours == 29
    # The stand-in for the short session's own vector of one word and its frame.
    assert sampled.bytes_up - whole.bytes_up == 45 + 2 * 8
    assert sampled.bytes_down == whole.bytes_down
    assert min(sampled.client_seconds, sampled.server_seconds) > 0


def test_above_a_few_hundred_clients_the_graph_is_sparse() -> None:
    assert measure(201, 10).neighbours < 200 == measure(200, 10).neighbours + 1


def test_a_power_law_is_found() -> None:
    points = [
        replace(POINT, clients=n, entries=d, client_seconds=1e-9 * n**1.5 * d)
        for n in (10, 100, 1000)
        for d in (10, 1000)
    ]
    found = exponents(points, "client_seconds")
    assert found["clients"] == pytest.approx(1.5)
    assert found["entries"] == pytest.approx(1.0)


def test_a_sweep_goes_from_small_to_large_and_becomes_json_and_a_picture() -> None:
    points = list(sweep([4, 8], [30, 10]))
    assert [p.clients * p.entries for p in points] == [40, 80, 120, 240]
    record = json.loads(json.dumps(costs.as_json(points)))
    assert record["schema"] == 1
    assert len(record["points"]) == 4
    assert costs.plot(points).startswith(b"<?xml")
