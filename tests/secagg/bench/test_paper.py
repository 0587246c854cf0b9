import pytest

from secagg.bench.costs import measure
from secagg.bench.paper import BITS, LANES, PUBLISHED, SIZES, cases, expansions, formula
from secagg.planning import SumWishes, plan_sum


@pytest.mark.parametrize("at", PUBLISHED)
def test_the_papers_formula_gives_the_factors_that_it_publishes(at: tuple[int, int]) -> None:
    assert formula(*at) == pytest.approx(PUBLISHED[at], abs=0.005)


def test_our_factors_are_those_of_the_messages_that_a_client_sends_and_is_sent() -> None:
    found = {(each.clients, each.entries): each for each in expansions()}
    assert list(found) == list(SIZES)
    for (clients, entries), each in found.items():
        assert each.sparse < each.complete
        wishes = SumWishes(clients=clients, entries=entries, bits=BITS)
        plan = plan_sum(wishes, measure=False)
        assert plan.lanes == LANES
        # Two lanes a word are 32 bits an entry: nothing is below twice its 16.
        assert each.sparse == pytest.approx(2, abs=0.05)


def test_the_bytes_of_the_advisor_are_those_of_a_session() -> None:
    case = cases(quick=True)[0]
    cost = measure(case)
    wishes = SumWishes(
        clients=case.clients, entries=case.entries, bits=BITS, lanes=LANES, dropout=0
    )
    plan = plan_sum(wishes, measure=False)
    assert plan.graph == "complete"
    assert cost.bytes_up == plan.bytes_up_per_client
    assert cost.bytes_down == plan.bytes_down_per_client


def test_dropouts_of_the_paper_are_all_run() -> None:
    assert {case.dropout for case in cases()} == {0.0, 0.1, 0.3}
    assert {case.protocol for case in cases()} == {"complete"}
