from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from dp.accounting.accountant import epsilon_rdp
from secagg.bench import utility
from secagg.errors import InputError
from secagg.training.data import federate
from secagg.training.modes import mode
from secagg.training.settings import TrainingConfig

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "utility.json"


def case(by_mode: str, **settings: Any) -> utility.Case:
    return utility.Case(
        data="digits",
        mode=by_mode,
        epsilon=None if by_mode == "none" else 8.0,
        seed=1,
        evaluate_on="validation",
        settings={"rounds": 4, "learning_rate": 8.0, "local_steps": 1} | settings,
    )


@pytest.mark.parametrize(
    "by_mode", ["central", "distributed", "local", "client", "client-20", "none"]
)
def test_every_mode_trains_to_more_than_chance(
    by_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(utility.CLIENTS, "digits", 100)
    some = case(by_mode, **({"clip": 1.0} if "client" in by_mode else {}))
    found = utility.run(some)
    assert utility.Case(**{name: found[name] for name in asdict(some)}) == some
    assert (found["noise_multiplier"] > 0) == (by_mode != "none")
    assert found["accuracy"] > (0.0 if by_mode == "client-20" else 0.25)  # 20 hide each other well
    assert found["lost"] in range(5)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": "distributed", "sampling_rate": 0.1},
        {"noise": "distributed", "sampling_rate": 1.0},
        {"noise": "local", "sampling_rate": 0.1},
        {"unit": "client", "client_sampling_rate": 0.5},
    ],
)
def test_a_plan_spends_its_epsilon_and_no_more(settings: dict[str, Any]) -> None:
    config = TrainingConfig(epsilon=4.0, **settings)
    federation = federate("digits", clients=config.clients, partition="iid", seed=0)
    how = mode(config, federation, torch.nn.Linear(64, 10))
    event = how.event()
    assert event is not None
    whole = replace(event, steps=event.steps * config.rounds)
    assert 0.999 < epsilon_rdp([(whole, 1)], how.delta) / 4.0 <= 1


def test_settings_are_searched_without_test_examples_and_swept_on_them() -> None:
    searches = list(utility.searches())
    assert {each.evaluate_on for each in searches} == {"validation"}
    assert not {each.seed for each in searches} & set(utility.SEEDS)
    found = [asdict(each) | {"accuracy": 0.5} for each in searches]
    swept = list(utility.sweep(utility.chosen(found)))
    assert {each.evaluate_on for each in swept} == {"test"}
    # Two data sets, five modes at four epsilons and one without, five seeds.
    assert len(swept) == len({each.key for each in swept}) == 2 * (5 * 4 + 1) * 5


def test_the_chosen_candidate_has_the_best_mean_and_none_is_chosen_before_all_were_tried() -> None:
    searches = [each for each in utility.searches() if (each.data, each.mode) == ("digits", "none")]
    best = searches[-1].settings
    scores = {100: 0.2, 101: 0.9}
    found = [
        asdict(each) | {"accuracy": scores[each.seed] if each.settings == best else 0.5}
        for each in searches
    ]
    (line,) = utility.chosen(found)
    assert line["settings"] == best
    assert line["validation"] == pytest.approx(0.55)
    assert utility.chosen(found[:-1]) == []


def test_a_finished_run_is_not_run_again_and_one_of_other_settings_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "utility.json"
    cases = list(islice(utility.searches(), 5))
    stale = replace(cases[0], settings={"rounds": 1})
    runs = [asdict(each) | {"accuracy": 0.5} for each in (*cases, stale)]
    utility.write(path, utility.empty() | {"search": runs})
    known = utility.read(path)
    assert known == utility.empty() | {"search": runs}
    monkeypatch.setattr(utility, "run", None)
    assert list(utility.finish("search", cases, known, lambda _: None)) == [("search", 5, 5)]
    assert known["search"] == runs[:-1]


@pytest.mark.parametrize("text", ["", "[]", '{"runs": [{}]}', '{"runs": 1}', '{"runs": [1]}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "utility.json"
    path.write_text(text)
    with pytest.raises(InputError, match="no file of"):
        utility.read(path)


def test_the_quick_sweep_runs_settings_that_the_search_chose() -> None:
    known = utility.read(RESULTS)
    chosen = {
        row["mode"]: row["settings"]
        for row in known["chosen"]
        if row["data"] == "digits" and row["epsilon"] in (None, 4.0)
    }
    assert chosen == utility.QUICK
    swept = list(utility.sweep(utility.quick(), utility.QUICK_SEEDS))
    assert {(each.data, each.evaluate_on) for each in swept} == {("digits", "test")}
    assert len(swept) == (5 * 2 + 1) * 2


def test_a_plot_of_half_a_sweep_is_a_picture_with_a_line_for_each_mode() -> None:
    runs = [
        asdict(case(by_mode)) | {"accuracy": accuracy}
        for by_mode in utility.MODES
        for accuracy in (0.5, 0.7)
    ]
    picture = utility.plot(runs)
    assert picture == utility.plot(runs)
    labels = ["central: one trusted party", "distributed: 20 clients", "local: 20 clients"]
    for label in (
        *labels,
        "client: hides a client of 500",
        "client: hides a client of 20",
        "no privacy",
    ):
        assert f"<!-- {label} -->" in picture.decode()
