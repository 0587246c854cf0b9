"""The plan of clients' own picks, against exact integers."""

from fractions import Fraction
from math import comb, log2

import pytest

from protocols.bonawitz.graph import plan_graph
from protocols.bonawitz.picks import Picks, log_tail, plan_picks
from protocols.errors import InputError

PLANS = {  # n, C, D: k, t, c, alpha, y0, and who must sign
    (1000, 100, 300): (88, 36, 35, 242, 30, 551),
    (1000, 50, 330): (71, 24, 23, 210, 44, 526),
    (1000, 330, 50): (77, 59, 58, 405, 16, 666),
    (1000, 50, 100): (40, 22, 18, 423, 47, 526),
}


def exact_tail(population: int, marked: int, drawn: int, least: int) -> float:
    ways = sum(
        comb(marked, hit) * comb(population - marked, drawn - hit)
        for hit in range(least, min(marked, drawn) + 1)
    )
    return log2(Fraction(ways, comb(population, drawn)))


@pytest.mark.parametrize("numbers", PLANS)
def test_the_plan_is_that_of_the_oracle(numbers: tuple[int, int, int]) -> None:
    n, corrupt, dropped = numbers
    k, t, c, alpha, left_out, quorum = PLANS[numbers]
    expected = Picks(holders=k, threshold=t, corrupt_holders=c, alpha=alpha, left_out=left_out)
    assert plan_picks(n, corrupt, dropped) == expected
    found = plan_graph(n, Fraction(corrupt, n), Fraction(dropped, n), active=True)
    assert (found.degree, found.threshold, found.picks, found.quorum) == (k, t, expected, quorum)


@pytest.mark.parametrize(
    ("population", "marked", "drawn", "least", "expected"),
    [
        (999, 100, 88, 36, -51.82),
        (999, 100, 88, 35, -48.66),
        (999, 50, 71, 24, -52.51),
        (999, 330, 77, 59, -51.28),
        (9999, 3300, 92, 70, -55.29),
        (999, 300, 88, 88 - 36 + 1, -30.43),
        (999, 50, 77, 77 - 59 + 1, -31.33),
    ],
)
def test_tails_are_those_of_exact_integers(
    population: int, marked: int, drawn: int, least: int, expected: float
) -> None:
    assert exact_tail(population, marked, drawn, least) == pytest.approx(expected, abs=0.006)
    assert log_tail(population, marked, drawn, least) == pytest.approx(
        exact_tail(population, marked, drawn, least), abs=1e-6
    )


def test_the_largest_core_that_is_ruled_out_is_the_last_below_the_bound() -> None:
    n, corrupt, k, t = 1000, 100, 88, 36

    def term(size: int) -> float:
        sets = log2(comb(n - corrupt, size))
        return sets + size * exact_tail(n - 1, corrupt + size - 1, k, t)

    assert term(242) == pytest.approx(-52.3, abs=0.06)
    assert term(243) == pytest.approx(-41.2, abs=0.06)
    assert sum(2 ** term(size) for size in range(1, 243)) < 2**-41
    assert sum(2 ** term(size) for size in range(1, 244)) > 2**-42


def test_below_two_hundred_and_where_it_halves_no_masks_the_graph_is_complete() -> None:
    assert plan_picks(199, 10, 20) is None
    assert plan_picks(200, 10, 20) is not None
    assert plan_graph(199, 0.05, 0.1, active=True).degree is None


def test_more_than_twenty_thousand_and_too_few_to_sign_are_refused() -> None:
    assert plan_graph(20_000, 0.05, 0.1, active=True).picks
    with pytest.raises(InputError, match="at most 20000"):
        plan_graph(20_001, 0.05, 0.1, active=True)
    with pytest.raises(InputError, match="a threshold of 651 is needed and 600 would be left"):
        plan_graph(1000, 0.3, 0.3 + 0.0, active=True) and plan_graph(
            1000, 0.1, 0.4, active=True, agreed=3000
        )


def test_the_corrupt_are_counted_of_those_agreed_not_of_those_who_came() -> None:
    of_all = plan_graph(600, 0.1, 0.1, active=True, agreed=1000)
    of_those = plan_graph(600, 0.1, 0.1, active=True)
    assert (of_all.quorum, of_those.quorum) == ((600 + 100) // 2 + 1, (600 + 60) // 2 + 1)
    assert of_all.degree is not None
    assert of_those.degree is not None
    assert of_all.degree > of_those.degree
