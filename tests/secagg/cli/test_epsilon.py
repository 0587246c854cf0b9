import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest

from dp.accounting.accountant import epsilon_pld, epsilon_rdp
from dp.accounting.calibrate import max_steps, noise_multiplier
from dp.accounting.events import GaussianEvent, NoSampling, PoissonSampling

Run = Callable[..., tuple[int, str, str]]
PLAN = ("--sampling-rate", 0.05, "--delta", 1e-5, "--pld-discretization", 1e-3)


@pytest.fixture
def epsilon(secagg: Run) -> Run:
    return partial(secagg, "epsilon")


def gaussian(z: float, q: float) -> GaussianEvent:
    sampling = PoissonSampling(rate=q) if q < 1 else NoSampling()
    return GaussianEvent(noise_multiplier=z, sampling=sampling)


def test_a_plan_costs_what_both_accountants_say(epsilon: Run) -> None:
    code, out, err = epsilon("--noise-multiplier", 2, "--steps", 100, *PLAN, "--json")
    answer = json.loads(out)
    assert (code, err, answer["question"]) == (0, "", "epsilon")
    assert answer["rdp"] == epsilon_rdp({gaussian(2, 0.05): 100}, 1e-5)
    assert answer["pld"] == epsilon_pld({gaussian(2, 0.05): 100}, 1e-5, 1e-3)


def test_the_default_interval_gives_the_known_answer(epsilon: Run) -> None:
    code, out, _ = epsilon(
        *("--noise-multiplier", 1.1, "--sampling-rate", 256 / 60000, "--steps", 14062),
        *("--delta", 1e-5, "--json"),
    )
    answer = json.loads(out)
    assert code == 0
    assert answer["pld"] == pytest.approx(2.3817, rel=2e-3)
    assert answer["pld"] <= answer["rdp"] <= 1.005 * 2.5966


def test_several_events_are_one_composition(epsilon: Run) -> None:
    events = ("--event", "1.5,0.1,20", "--event", "2,1,3", "--event", "1.5,0.1,5")
    code, out, _ = epsilon(*events, "--delta", 1e-5, "--pld-discretization", 1e-3, "--json")
    composition = {gaussian(1.5, 0.1): 25, gaussian(2, 1): 3}
    assert code == 0
    assert json.loads(out)["rdp"] == pytest.approx(epsilon_rdp(composition, 1e-5))
    assert json.loads(out)["pld"] == pytest.approx(epsilon_pld(composition, 1e-5, 1e-3))


def test_a_budget_gives_noise_and_with_noise_it_gives_steps(epsilon: Run) -> None:
    fixed = {"epsilon": 1, "delta": 1e-5, "sampling": PoissonSampling(rate=0.05)}
    by_pld = {"accountant": "pld", "pld_discretization": 1e-3}
    code, out, _ = epsilon("--epsilon", 1, "--steps", 100, *PLAN, "--json")
    noise = json.loads(out)
    assert (code, noise["question"]) == (0, "noise_multiplier")
    assert noise["rdp"] == noise_multiplier(**fixed, steps=100)
    assert noise["pld"] == noise_multiplier(**fixed, steps=100, **by_pld)
    code, out, _ = epsilon("--epsilon", 1, "--noise-multiplier", 2.4, *PLAN, "--json")
    steps = json.loads(out)
    assert (code, steps["question"]) == (0, "steps")
    assert steps["rdp"] == max_steps(**fixed, noise_multiplier=2.4) >= 100
    assert steps["pld"] == max_steps(**fixed, noise_multiplier=2.4, **by_pld)


def test_the_table_labels_bounds_and_rounds_them_up(epsilon: Run) -> None:
    code, out, err = epsilon("--noise-multiplier", 2, "--steps", 100, *PLAN)
    assert (code, err) == (0, "")
    rows = {line.split("│")[1].strip(): line.split("│")[2:4] for line in out.splitlines()[4:6]}
    exact = epsilon_rdp({gaussian(2, 0.05): 100}, 1e-5)
    assert exact <= float(rows["RDP"][0]) <= exact * (1 + 1e-4)
    assert "an upper bound; the ledger admits by it" in rows["RDP"][1]
    assert "the smaller, so a report prints it" in rows["PLD"][1]


def test_a_bound_that_is_not_finite_is_not_called_one(epsilon: Run) -> None:
    tiny = ("--noise-multiplier", 1, "--steps", 3, "--delta", 1e-20)
    code, out, _ = epsilon(*tiny, "--json")
    answer = json.loads(out)
    assert (code, answer["pld"]) == (0, None)
    assert answer["rdp"] > 0
    _, out, _ = epsilon(*tiny)
    assert "no finite bound here" in out


@pytest.mark.parametrize("event", ["1e-9,1,1", "1,0.01,9007199254740992"])
def test_where_pld_has_no_answer_rdp_has_one(epsilon: Run, event: str) -> None:
    code, out, _ = epsilon("--event", event, "--delta", 1e-5, "--json")
    answer = json.loads(out)
    assert (code, answer["pld"]) == (0, None)
    assert answer["rdp"] > 1e9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--delta"),
        (("--delta", 1e-5), "you gave 0"),
        (("--delta", 1e-5, "--epsilon", 1), "you gave 1"),
        (("--delta", 1e-5, "--epsilon", 1, "--steps", 1, "--noise-multiplier", 1), "you gave 3"),
        (("--delta", 1e-5, "--event", "1,1"), "Z,Q,T"),
        (("--delta", 1e-5, "--event", "1,1,1.5"), "Z,Q,T"),
        (("--delta", 1e-5, "--event", "nan,1,1"), "noise_multiplier is nan"),
        (("--delta", 1e-5, "--event", "1,1,1", "--steps", 3), "leave out"),
        (("--delta", 1e-5, "--event", "1,1,1", "--sampling-rate", 0.1), "leave out"),
        (("--delta", 1e-5, "--event", "1,2,1"), "rate is 2.0"),
        (("--delta", 0, "--event", "1,1,1"), "delta"),
        (("--delta", "nan", "--event", "1,1,1"), "delta"),
        (("--delta", "x", "--event", "1,1,1"), "delta"),
        (("--delta", 1e-5, "--event", "1,1,1", "--pld-discretization", 0), "pld_discretization"),
        (("--delta", 1e-5, "--noise-multiplier", -1, "--steps", 3), "noise_multiplier is -1.0"),
        (("--delta", 1e-5, "--noise-multiplier", 1, "--steps", -3), "steps"),
        (("--delta", 1e-5, "--noise-multiplier", 1, "--steps", 3, "--sampling-rate", 0), "rate"),
        (("--delta", 1e-5, "--epsilon", "inf", "--steps", 3), "epsilon"),
        (("--delta", 1e-5, "--epsilon", 1e-6, "--steps", 3), "noise multiplier"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    epsilon: Run, arguments: tuple[object, ...], words: str
) -> None:
    code, out, err = epsilon(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("secagg: ")
    assert err.count("\n") == 1
    assert words in err


def test_help_shows_examples_that_name_every_question(epsilon: Run) -> None:
    code, out, _ = epsilon("--help")
    assert code == 0
    assert out.count("  secagg epsilon ") >= 4
    assert "--event 1.1,0.01,1000 --event" in out


def test_the_command_line_starts_without_the_engine() -> None:
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, secagg.cli.epsilon\n"
            "print({'dp_accounting', 'scipy', 'torch'} & set(sys.modules))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "set()\n"
