import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from secagg.bench import costs
from secagg.bench.costs import PROTOCOLS, Case, Cost, cases, exponents, growth, measure, student
from secagg.errors import InputError, SecaggError
from secagg.rounds.ckks import CKKS
from secagg.rounds.in_memory import Outcome, run_bonawitz

POINT = Cost(
    protocol="complete",
    clients=10,
    entries=100,
    lanes=3,
    dropout=0.1,
    neighbours=9,
    threshold=6,
    client_seconds=1.0,
    decryptor_seconds=0.0,
    server_seconds=1.0,
    bytes_up=1,
    bytes_down=1,
    decryptor_up=0,
    decryptor_down=0,
    whole=True,
)


FOUND = (
    *("client_seconds", "decryptor_seconds", "server_seconds"),
    *("bytes_up", "bytes_down", "decryptor_up", "decryptor_down"),
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_whole_session_and_a_sampled_one_count_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    case = Case(protocol=protocol, clients=30, entries=5000)
    whole = measure(case)
    monkeypatch.setattr(costs, "FULL", 0)
    sampled = measure(case)
    assert (whole.whole, sampled.whole) == (True, False)
    assert sampled.neighbours == whole.neighbours
    # The stand-in for the short session's own vector of one word and its frame.
    extra = 46 + 2 * 8 if protocol in costs.MASKED else 0
    assert sampled.bytes_up - whole.bytes_up == extra
    assert sampled.bytes_down == whole.bytes_down
    assert sampled.decryptor_up == whole.decryptor_up
    assert sampled.decryptor_down == whole.decryptor_down
    assert sampled.server_seconds > 0


def test_against_a_lying_server_the_graph_is_sparse_above_a_few_hundred() -> None:
    many, few = (Case(protocol="active", clients=n, entries=10).params for n in (201, 200))
    assert few.plan(200).degree is None
    degree = many.plan(201).degree
    assert degree is not None
    assert degree < 200


def test_of_clients_that_pick_the_masks_are_counted_not_the_picks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def sampled(case: Case, neighbours: int, now: object) -> dict[str, float]:
        asked.append(neighbours)
        return dict.fromkeys(FOUND, 0)

    monkeypatch.setattr(costs, "FULL", 0)
    monkeypatch.setattr(costs, "_sampled", sampled)
    case = Case(protocol="active", clients=1000, entries=1)
    assert measure(case).neighbours == 78  # and 40 picks
    assert asked == [78]


def test_a_sparse_graph_is_sparse_and_a_complete_one_complete() -> None:
    assert measure(Case(protocol="sparse", clients=40, entries=10)).neighbours < 39
    assert measure(Case(protocol="complete", clients=40, entries=10)).neighbours == 39


@pytest.mark.parametrize("protocol", CKKS)
def test_under_ckks_those_who_open_the_sum_stand_apart(protocol: str) -> None:
    found = measure(Case(protocol=protocol, clients=6, entries=100, dropout=0))
    assert found.decryptor_seconds > 0
    assert found.decryptor_down > 0
    assert found.lanes == found.neighbours == found.threshold == 0


def test_seconds_are_those_of_the_clock_that_is_handed_in() -> None:
    found = measure(
        Case(protocol="complete", clients=4, entries=10, dropout=0), now=itertools.count().__next__
    )
    assert found.client_seconds == 4  # of four stages, a tick each
    # A tick for each message, one before each of four stages, and one for the sum.
    assert found.server_seconds == 4 * 4 + 4 + 1


def test_a_wrong_sum_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: object, **options: object) -> Outcome:
        outcome = run_bonawitz(*arguments, **options)  # type: ignore[arg-type]  # handed through
        return replace(outcome, values=outcome.values + np.uint64(1))

    monkeypatch.setattr(costs, "run_bonawitz", wrong)
    with pytest.raises(SecaggError, match="wrong sum"):
        measure(Case(protocol="complete", clients=4, entries=10))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"protocol": "trust me"}, "unknown protocol"),
        ({"clients": 1}, "at least 2, at least 1"),
        ({"entries": 0}, "at least 2, at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": 0.6}, "are needed"),
        ({"clients": 1001}, "at most 1,000"),
    ],
)
def test_a_case_that_cannot_be_run_is_refused(wrong: dict[str, object], message: str) -> None:
    right: dict[str, object] = {"protocol": "complete", "clients": 10, "entries": 10}
    with pytest.raises(InputError, match=message):
        Case(**(right | wrong))  # type: ignore[arg-type]  # each of its own type


def test_a_sweep_goes_from_small_to_large_and_says_what_it_leaves_out() -> None:
    kept, left_out = cases(["complete", "plain"], [2000, 8], [30, 10], [0.0, 0.6])
    assert [case.clients * case.entries for case in kept] == sorted(
        case.clients * case.entries for case in kept
    )
    assert {case.protocol for case in kept if case.clients == 2000} == {"plain"}
    assert len(left_out) == 2
    assert "2,000 clients" in left_out[1]
    assert "are needed" in left_out[0]


def power_law(scatter: float = 0.0) -> list[Cost]:
    rng = np.random.default_rng(3)
    return [
        replace(
            POINT,
            clients=n,
            entries=d,
            dropout=dropout,
            client_seconds=(1 + dropout) * 1e-9 * n**1.5 * d * math.exp(rng.normal(0, scatter)),
        )
        for n in (10, 100, 1000)
        for d in (10, 1000)
        for dropout in (0.0, 0.3)
    ]


def test_a_power_law_is_found() -> None:
    found = exponents(power_law(), "client_seconds")
    assert found["clients"].power == pytest.approx(1.5)
    assert found["entries"].power == pytest.approx(1.0)


def test_the_interval_of_a_power_holds_it_and_grows_with_the_scatter() -> None:
    narrow, wide = (exponents(power_law(by), "client_seconds")["clients"] for by in (0.01, 0.3))
    for fit in (narrow, wide):
        assert fit.low is not None
        assert fit.high is not None
        assert fit.low < 1.5 < fit.high
    assert narrow.low is not None
    assert wide.low is not None
    assert narrow.low > wide.low


def test_what_does_not_vary_or_is_nothing_has_no_power() -> None:
    assert set(exponents(power_law()[:4], "client_seconds")) == {"entries"}
    assert exponents([POINT], "client_seconds") == {}
    assert exponents([replace(p, client_seconds=0.0) for p in power_law()], "client_seconds") == {}
    two = [POINT, replace(POINT, clients=20)]
    fit = exponents(two, "client_seconds")["clients"]
    assert (fit.low, fit.high) == (None, None)
    assert {protocol for protocol, _, _ in growth(power_law())} == {"complete"}


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 101])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_students_quantile_is_that_of_scipy(freedom: int, confidence: float) -> None:
    assert student(freedom, confidence) == pytest.approx(t.ppf((1 + confidence) / 2, freedom))


def test_points_become_a_picture() -> None:
    assert costs.plot([*power_law(), replace(POINT, protocol="ckks")]).startswith(b"<?xml")
    assert costs.plot([POINT]).startswith(b"<?xml")
