"""The planner against its oracles and exact arithmetic, and the graph that it plans."""

from fractions import Fraction
from math import comb, factorial, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.bonawitz.graph import Complete, GraphPlan, Harary, as_fraction, draw, plan_graph
from protocols.errors import InputError
from protocols.testing import insecure_entropy

SAFE, FAILS = Fraction(1, 2**41), Fraction(1, 2**20)
quick = settings(max_examples=60, derandomize=True, deadline=None)


def planned(
    clients: int, corrupt: object, dropout: object, *, active: bool = False
) -> tuple[int | None, int]:
    found = plan_graph(clients, corrupt, dropout, active=active)  # type: ignore[arg-type]  # any number
    return found.degree, found.threshold


@pytest.mark.parametrize(
    ("clients", "corrupt", "dropout", "active", "expected"),
    [
        (100, 0.05, 0.33, False, (28, 6)),
        (1000, 0.05, 0.33, False, (72, 24)),
        (10**5, 0.05, 0.33, False, (96, 32)),
        (1000, 0.33, 0.33, False, (286, 150)),
        (1000, 0.33, 0.05, True, (77, 59)),
        (199, 0.05, 0.1, True, (None, 105)),
    ],
)
def test_the_plan_is_that_of_the_oracle(
    clients: int, corrupt: float, dropout: float, active: bool, expected: tuple[int, int]
) -> None:
    assert planned(clients, corrupt, dropout, active=active) == expected


# The same conditions, once more, in exact rational arithmetic


def at_most(population: int, marked: int, drawn: int, most: int) -> Fraction:
    """P[X <= most], X hypergeometric."""
    ways = sum(
        comb(marked, x) * comb(population - marked, drawn - x) for x in range(min(most, drawn) + 1)
    )
    return Fraction(ways, comb(population, drawn))


def exact_plan(
    n: int, corrupt: Fraction, dropout: Fraction, *, active: bool
) -> tuple[int | None, int] | None:
    """None where no graph keeps the promise."""
    c, d = floor(corrupt * n), floor(dropout * n)
    b, s = c + d, n - d
    if corrupt + dropout * (2 if active else 1) > Fraction(9, 10):
        return None
    for k in range(2, n - 1, 2) if not active else ():
        # (1): n (n-k-1) / 2 times b! (n-k)! / ((b-k)! n!)
        cut = k <= b and (
            Fraction(n * (n - k - 1), 2)
            * Fraction(factorial(b) * factorial(n - k), factorial(b - k) * factorial(n))
            >= SAFE
        )
        if cut:
            continue
        t1 = next(x for x in range(k + 1) if 1 - at_most(n, c, k, x) < SAFE / n)
        t2 = next(x for x in range(k + 1) if at_most(n, s, k, x) >= FAILS / n)
        if max(t1 + 1, 2) <= t2:  # t1 < t2, and two shares are there where t1 is 0
            return k, max(t1 + 1, 2)
    t = (n + c) // 2 + 1 if active else max(c, n // 2) + 1
    return (None, max(t, 2)) if t <= s else None


PERCENT = st.integers(0, 89).map(lambda value: f"{value / 100:.2f}")


@given(st.integers(2, 70), PERCENT, PERCENT, st.booleans())
@settings(max_examples=150, derandomize=True, deadline=None)
def test_the_plan_is_that_of_exact_rational_sums(
    clients: int, corrupt: str, dropout: str, active: bool
) -> None:
    expected = exact_plan(clients, Fraction(corrupt), Fraction(dropout), active=active)
    if expected is None:
        with pytest.raises(InputError):
            planned(clients, corrupt, dropout, active=active)
    else:
        assert planned(clients, corrupt, dropout, active=active) == expected


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("clients", [100, 150, 199])
def test_the_plan_of_a_hundred_and_more_is_exact_too(clients: int, active: bool) -> None:
    for corrupt, dropout in (("0.05", "0.33"), ("0.1", "0.1"), ("0.25", "0.05"), ("0", "0.2")):
        expected = exact_plan(clients, Fraction(corrupt), Fraction(dropout), active=active)
        assert planned(clients, corrupt, dropout, active=active) == expected


@given(st.integers(2, 400), PERCENT, PERCENT, st.booleans())
@quick
def test_two_sets_of_holders_never_both_open_a_client(
    clients: int, corrupt: str, dropout: str, active: bool
) -> None:
    try:
        found = plan_graph(clients, corrupt, dropout, active=active)
    except InputError:
        return
    bad = floor(Fraction(corrupt) * clients)
    assert found.threshold >= 2
    if found.degree is None:
        assert 2 * found.threshold > clients + (bad if active else 0)
        assert bad < found.threshold <= clients - floor(Fraction(dropout) * clients)
        return
    k, t = found.degree, found.threshold
    assert k % 2 == 0 or active
    assert 2 <= k < clients - 1
    assert t <= k
    bound = SAFE / clients * (1 + Fraction(1, 10**6))
    assert 1 - at_most(clients, bad, k, t - 1) < bound
    dropped = floor(Fraction(dropout) * clients)
    assert at_most(clients, clients - dropped, k, t - 1) < FAILS / clients
    if active:  # more than half of all and the corrupt sign, and so many are left
        assert found.quorum == (clients + bad) // 2 + 1 <= clients - dropped


# What decimals mean, and what cannot be had


def test_a_decimal_is_the_number_that_is_written() -> None:
    assert floor(0.29 * 100) == 28
    assert as_fraction("corrupt", 0.29) * 100 == 29
    found = planned(100, 0.29, 0.05)
    assert found == planned(100, "0.29", "0.05") == planned(100, Fraction(29, 100), Fraction(1, 20))
    assert found == exact_plan(100, Fraction(29, 100), Fraction(1, 20), active=False) == (32, 26)
    assert planned(100, Fraction(28, 100), Fraction(1, 20)) == (30, 25)


@pytest.mark.parametrize("value", ["", "a", "1/0", "nan", "inf", float("nan"), -0.1, 1, 1.5, "1"])
def test_what_is_no_fraction_below_one_is_refused(value: float | str) -> None:
    with pytest.raises(InputError, match="corrupt"):
        plan_graph(100, value, 0.1, active=False)
    with pytest.raises(InputError, match="dropout"):
        plan_graph(100, 0.1, value, active=False)


@pytest.mark.parametrize(
    ("corrupt", "dropout", "active"),
    [
        (0.5, 0.41, False),
        (0.46, 0.45, False),
        (0.5, 0.21, True),
        (0.0, 0.46, True),
        (0.91, 0, True),
    ],
)
def test_where_less_than_a_tenth_is_left_no_graph_is_planned(
    corrupt: float, dropout: float, active: bool
) -> None:
    for clients in (10, 1000, 10**5):
        with pytest.raises(InputError, match="leave less than a tenth"):
            plan_graph(clients, corrupt, dropout, active=active)


def test_exactly_a_tenth_left_is_no_reason_to_refuse() -> None:
    assert planned(1000, 0.5, 0.4)[0] is not None
    assert planned(20, 0.7, 0.1, active=True) == (None, 18)


def test_a_complete_graph_that_dropouts_bring_below_its_threshold_is_refused() -> None:
    with pytest.raises(InputError, match="a threshold of 6 is needed and 5 would be left"):
        plan_graph(10, 0.4, 0.5, active=False)


@pytest.mark.parametrize("clients", [0, 1, -3])
def test_one_client_is_no_graph(clients: int) -> None:
    with pytest.raises(InputError, match="must be at least 2"):
        plan_graph(clients, 0, 0, active=False)


@pytest.mark.parametrize(
    ("clients", "active", "expected"),
    [
        (2, False, (None, 2)),
        (3, False, (None, 2)),
        (3, True, (None, 2)),
        (4, False, (2, 2)),
        (4, True, (None, 3)),
    ],
)
def test_few_clients_know_each_other(
    clients: int, active: bool, expected: tuple[int | None, int]
) -> None:
    assert planned(clients, 0, 0, active=active) == expected


@pytest.mark.parametrize("clients", [8, 10, 19])
def test_where_nobody_is_corrupt_a_client_still_keeps_the_two_neighbours_that_it_needs(
    clients: int,
) -> None:
    # One of them is lost, as planned: in a ring its two neighbours would have one left.
    assert floor(0.05 * clients) == 0
    assert planned(clients, 0.05, Fraction(1, clients))[0] == 4


def order_of(found: GraphPlan) -> tuple[float, int]:
    return (float("inf") if found.degree is None else found.degree, found.threshold)


@given(st.integers(20, 300), st.integers(0, 30), st.integers(0, 20), st.integers(0, 9))
@quick
def test_who_fears_more_never_gets_a_smaller_degree_or_threshold(
    clients: int, corrupt: int, dropout: int, more: int
) -> None:
    def rate(value: int) -> Fraction:
        return Fraction(value, 100)

    base = plan_graph(clients, rate(corrupt), rate(dropout), active=False)
    others = [
        plan_graph(clients, rate(corrupt + more), rate(dropout), active=False),
        plan_graph(clients, rate(corrupt), rate(dropout + more), active=False),
    ]
    for other in others:
        assert order_of(other)[0] >= order_of(base)[0]
        if base.degree is not None and other.degree is not None:
            assert other.threshold >= base.threshold


# The graph


@st.composite
def circles(draw_from: st.DrawFn) -> tuple[list[int], int]:
    clients = draw_from(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=40, unique=True))
    return clients, 2 * draw_from(st.integers(1, (len(clients) - 2) // 2))


@given(circles())
@settings(max_examples=150, derandomize=True, deadline=None)
def test_a_harary_graph_is_symmetric_regular_and_connected(case: tuple[list[int], int]) -> None:
    clients, degree = case
    graph = Harary(clients, degree)
    near = {client: graph.neighbours(client) for client in clients}
    for client in clients:
        assert len(near[client]) == degree
        assert client not in near[client]
        assert near[client] <= set(clients)
        assert all(client in near[peer] for peer in near[client])
        assert graph.holders(client) == tuple(sorted(near[client]))
    reached, edge = {clients[0]}, {clients[0]}
    while edge:
        edge = set().union(*(near[client] for client in edge)) - reached
        reached |= edge
    assert reached == set(clients)


@given(circles(), st.data())
@quick
def test_it_takes_as_many_losses_as_the_degree_to_cut_a_harary_graph(
    case: tuple[list[int], int], data: st.DataObject
) -> None:
    clients, degree = case
    graph = Harary(clients, degree)
    lost = data.draw(st.sets(st.sampled_from(clients), max_size=degree - 1))
    left = set(clients) - lost
    reached, edge = set[int](), {min(left)}
    while edge:
        reached |= edge
        edge = set().union(*(graph.neighbours(client) for client in edge)) & left - reached
    assert reached == left


@pytest.mark.parametrize("degree", [0, 1, 3, 6, 8, -2])
def test_a_degree_that_makes_no_circle_is_refused(degree: int) -> None:
    with pytest.raises(InputError, match="no circle of degree"):
        Harary(range(7), degree)


def test_a_client_that_stands_twice_in_the_circle_is_refused() -> None:
    with pytest.raises(InputError, match="no circle"):
        Harary([1, 2, 3, 4, 5, 1], 2)


def test_in_a_complete_graph_all_are_neighbours_and_hold_their_own_shares() -> None:
    graph = draw([5, 1, 9], GraphPlan(degree=None, threshold=2), insecure_entropy(0))
    assert isinstance(graph, Complete)
    assert graph.neighbours(1) == {5, 9}
    assert graph.holders(5) == (1, 5, 9)


def test_every_distance_on_the_circle_is_as_likely_as_every_other() -> None:
    clients, draws = 9, 4000
    plan_of_two = GraphPlan(degree=2, threshold=2)
    entropy = insecure_entropy("circle")
    first = np.zeros((clients, clients), np.int64)
    met = np.zeros((clients, clients), np.int64)
    for _ in range(draws):
        graph = draw(range(clients), plan_of_two, entropy)
        assert isinstance(graph, Harary)
        for place, client in enumerate(graph._circle):
            first[client, place] += 1
            for peer in graph.neighbours(client):
                met[client, peer] += 1
    expected = draws / clients
    square = float(((first - expected) ** 2 / expected).sum())
    freedom = (clients - 1) ** 2  # rows and columns add up
    assert abs(square - freedom) < 5 * np.sqrt(2 * freedom)
    off = met[~np.eye(clients, dtype=bool)]
    assert np.abs(off - 2 * draws / (clients - 1)).max() < 5 * np.sqrt(2 * draws / (clients - 1))


def test_the_order_in_which_clients_came_says_nothing_about_the_circle() -> None:
    wanted = GraphPlan(degree=2, threshold=2)
    one = draw([3, 1, 2, 7, 5], wanted, insecure_entropy(4))
    other = draw([7, 5, 3, 2, 1], wanted, insecure_entropy(4))
    assert {c: one.neighbours(c) for c in (1, 2, 3, 5, 7)} == {
        c: other.neighbours(c) for c in (1, 2, 3, 5, 7)
    }


def test_the_circle_takes_sixteen_bytes_a_client() -> None:
    asked = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return insecure_entropy(len(asked))(size)

    draw(range(11), GraphPlan(degree=4, threshold=2), entropy)
    assert asked == [16] * 11
