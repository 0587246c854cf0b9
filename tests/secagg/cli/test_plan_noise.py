import json
from collections.abc import Callable
from functools import partial

import pytest

from secagg.planning import NoiseWishes, SumWishes, plan_noise

Run = Callable[..., tuple[int, str, str]]

CLIENTS = ("--clients", "60", "--unit", "client", "--rounds", "20", "--entries", "5000")
WISHES = SumWishes(clients=60, rounds=20, entries=5000)
BUDGET = ("--epsilon", "4", "--delta", "1e-4")
EXAMPLES = ("--clients", "20", "--examples", "1437", "--rounds", "40", "--entries", "650")


@pytest.fixture
def advise(secagg: Run) -> Run:
    return partial(secagg, "plan")


def test_json_is_the_advice_of_the_library(advise: Run) -> None:
    code, out, err = advise(*CLIENTS, *BUDGET, "--client-sampling-rate", "0.5", "--json")
    found = json.loads(out)
    noise = NoiseWishes(epsilon=4.0, delta=1e-4, unit="client", client_sampling_rate=0.5)
    expected = plan_noise(WISHES, noise, measure=False).as_dict()
    for measured in ("client_milliseconds", "server_milliseconds"):
        assert found.pop(measured) > 0
        del expected[measured]
    assert (code, err, found) == (0, "", expected)


def test_people_are_told_noise_looseness_and_what_can_go_wrong(advise: Run) -> None:
    code, out, err = advise(*CLIENTS, *BUDGET)
    assert (code, err) == (0, "")
    advice = plan_noise(WISHES, NoiseWishes(epsilon=4.0, delta=1e-4, unit="client"))
    mechanism = advice.mechanism
    for row in (
        f"{mechanism.noise_multiplier:.4g} x clip",
        f"from {mechanism.minimum_survivors} - {mechanism.uncounted_shares} shares",
        f"{mechanism.scale:.6g}",
        f"{mechanism.sensitivity_inflation:.5f}",
        "a lane wraps",
        "2^-96.0",
        "4.000",
        "54 survivors",
        "lost round",
    ):
        assert row in out
    assert f"and {60 - mechanism.minimum_survivors} may drop out" in out
    assert f"refuse to open a sum of fewer than {mechanism.minimum_survivors}" in out


def test_a_sparse_graph_says_whose_word_the_count_is(advise: Run) -> None:
    code, out, _ = advise("--clients", 500, "--unit", "client", *BUDGET, "--entries", 5000)
    assert code == 0
    assert "Nobody but the server counts the survivors" in out
    assert "is its word" in out


def test_where_clients_pick_their_holders_a_plan_says_what_opens(advise: Run) -> None:
    code, out, _ = advise("--clients", 500, "--unit", "client", *BUDGET, "--active")
    assert code == 0
    for row in (
        "38 holders that each client picks",
        "73 a client",
        "263 clients",
        "50 fewer",
        "25 corrupt",
        "and 25 that are left out",
        "up to 210",
    ):
        assert row in out
    assert "Clients refuse to open a sum of fewer" in out
    found = json.loads(advise("--clients", 1000, "--active", "--json")[1])
    assert (found["masks"], found["quorum"], found["alpha"], found["left_out"]) == (
        78,
        526,
        423,
        47,
    )
    found = json.loads(advise("--clients", 50, "--json")[1])
    assert (found["masks"], found["quorum"], found["alpha"], found["left_out"]) == (
        49,
        0,
        None,
        None,
    )


def test_a_given_width_is_kept_and_its_price_shown(advise: Run) -> None:
    code, out, _ = advise(*EXAMPLES, *BUDGET, "--bits", 16, "--json")
    found = json.loads(out)
    assert (code, found["bits"]) == (0, 16)
    assert found["noise"]["more_noise"] > 0.01
    assert found["noise"]["sensitivity_inflation"] > 1.01


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*CLIENTS, "--epsilon", "4"), "--delta"),
        ((*CLIENTS, "--delta", "1e-4"), "--delta is about noise"),
        (("--clients", "60", "--uncounted-shares", "3"), "--uncounted-shares is about noise"),
        (
            (*CLIENTS, *BUDGET, "--clients", "500", "--active", "--uncounted-shares", "3"),
            "25 may be left out",
        ),
        ((*CLIENTS, *BUDGET, "--bits", "8"), "bits 8"),
        ((*CLIENTS, "--epsilon", "4", "--delta", "0.02"), "below 1/60"),
        ((*CLIENTS, *BUDGET, "--minimum-survivors", "40", "--uncounted-shares", "40"), "no noise"),
        ((*CLIENTS, *BUDGET, "--unit", "none"), "unknown unit"),
        ((*EXAMPLES, "--epsilon", "4", "--delta", "1e-3"), "below 1/1437"),
        ((*EXAMPLES, *BUDGET, "--client-sampling-rate", "0.5"), "client_sampling_rate 0.5"),
        ((*EXAMPLES, *BUDGET, "--sampling-rate", "0"), "rate"),
        ((*EXAMPLES, *BUDGET, "--max-batch", "-1"), "batch is -1"),
        (("--clients", "20", *BUDGET), "examples is missing"),
        ((*EXAMPLES, "--epsilon", "nan", "--delta", "1e-4"), "epsilon"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    advise: Run, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = advise(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("secagg: ")
    assert words in err
    assert err.count("\n") == 1
