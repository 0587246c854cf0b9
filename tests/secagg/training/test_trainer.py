"""``secagg.Trainer``: own models, losses and data, under every mode, as promised."""

import csv
import dataclasses
import json
import math
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

import secagg
from dp.errors import UnsoundModel
from dp.ledger import Ledger, State
from protocols.bonawitz import Rates
from secagg.errors import InputError, MissingExtraError, RunError
from secagg.stage import UNSIGNED, Stage
from secagg.training.books import Books
from secagg.training.callbacks import Callback, MLflow, TensorBoard, numbers
from secagg.training.optimizers import SGD, Adam, warmup
from secagg.training.tasks import Loss, examples, per_example

SIZES = (5, 8, 11)
PRIVATE = [
    {"noise": "distributed"},
    {"noise": "local"},
    {"noise": "distributed", "unit": "client"},
]
BUDGET = {"epsilon": 8.0, "delta": 1e-3, "clip": 1.0}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def data() -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(4)
    parts = [(torch.randn(n, 3, generator=drawn), torch.arange(n) % 2) for n in SIZES]
    return [(inputs + 0.7 * targets[:, None], targets) for inputs, targets in parts]


def linear() -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(3, 2)


def trainer(out: Path, **more: Any) -> secagg.Trainer:
    """Three clients, two rounds, without noise unless said otherwise."""
    given: dict[str, Any] = {
        "model": linear(),
        "clients": data(),
        "loss": functional.cross_entropy,
        "out": out,
        "rounds": 2,
        "learning_rate": 0.5,
        "noise": "none",
        "evaluation": data()[2],
    }
    return secagg.Trainer(**(given | more))


def descend(
    model: nn.Module, rates: list[float], weights: tuple[float, ...], loss: Loss
) -> nn.Module:
    """Federated averaging of one full step each, by the definition."""
    for rate in rates:
        total = sum(
            weight * loss(model(inputs), targets)
            for weight, (inputs, targets) in zip(weights, data(), strict=True)
        )
        gradients = torch.autograd.grad(total / sum(weights), list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= rate * gradient
    return model


def assert_same(one: nn.Module, other: nn.Module, atol: float = 2e-6) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


# without noise


@pytest.mark.parametrize(
    "protocol",
    [secagg.Bonawitz(), secagg.Bonawitz(active=True), secagg.Plain()],
    ids=["bonawitz", "active", "plain"],
)
@pytest.mark.parametrize("weighting", [None, "examples", "equal"])
def test_without_noise_it_is_federated_averaging(
    protocol: Any, weighting: str | None, tmp_path: Path
) -> None:
    run = trainer(tmp_path / "run", protocol=protocol, weighting=weighting)
    run.run()
    weights = (1.0, 1.0, 1.0) if weighting == "equal" else SIZES
    assert_same(run.model, descend(linear(), [0.5, 0.5], weights, functional.cross_entropy))


def test_the_model_that_was_handed_in_stays_as_it_is(tmp_path: Path) -> None:
    model = linear()
    trainer(tmp_path / "run", model=model).run()
    assert_same(model, linear(), atol=0)


def test_under_ckks_it_is_too_up_to_its_precision(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", protocol=secagg.Ckks())
    assert [record["clipped"] for record in run] == [0.0, 0.0]
    by_hand = descend(linear(), [0.5, 0.5], SIZES, functional.cross_entropy)
    assert_same(run.model, by_hand, atol=2e-3)
    with pytest.raises(InputError, match="too wide for the precision of threshold-ckks"):
        trainer(tmp_path / "normed", model=normed(), protocol=secagg.Ckks())


def mean_by_hand(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets)


def one_each(outputs: Tensor, targets: Tensor) -> Tensor:
    return -functional.log_softmax(outputs, 1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), mean_by_hand, one_each]
)
def test_every_form_of_a_loss_gives_the_same_steps(loss: Any, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", loss=loss)
    run.run()
    assert_same(run.model, descend(linear(), [0.5, 0.5], SIZES, functional.cross_entropy))


def test_several_losses_an_example_become_their_mean() -> None:
    outputs, targets = torch.randn(4, 3), torch.randn(4, 3)
    losses = per_example(functional.mse_loss)(outputs, targets)
    assert losses.shape == (4,)
    torch.testing.assert_close(losses.mean(), functional.mse_loss(outputs, targets))


def test_a_rate_by_round_and_a_server_rate_multiply(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", learning_rate=warmup(0.8, 2), optimizer=SGD(learning_rate=0.5))
    run.run()
    assert_same(run.model, descend(linear(), [0.2, 0.4], SIZES, functional.cross_entropy))


def test_a_size_of_batches_and_a_number_of_passes_set_rate_and_steps(tmp_path: Path) -> None:
    config = trainer(tmp_path / "run", batch_size=2, local_epochs=3).config
    assert config.sampling_rate == pytest.approx(2 / (sum(SIZES) / 3))
    assert config.local_steps == 12
    assert (config.clip, config.bits, config.dropout) == (1.0, 24, 0.0)


def normed() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_statistics_in_floats_are_averaged_and_counters_stay(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", model=normed(), rounds=1)
    run.run()
    means = []
    for inputs, _ in data():
        model = normed()
        model(inputs)
        means.append(model[1].running_mean)
    weighted = sum(n * mean for n, mean in zip(SIZES, means, strict=True)) / sum(SIZES)
    torch.testing.assert_close(run.model[1].running_mean, weighted, rtol=0, atol=1e-5)
    assert int(run.model[1].num_batches_tracked) == 0
    assert secagg.load_run(tmp_path / "run").state_dict().keys() == run.model.state_dict().keys()


def test_cut_entries_are_counted_under_the_masks_and_warned_of(tmp_path: Path) -> None:
    """A range that is too small bends every update, and nobody would see why."""
    run = trainer(tmp_path / "run", clip=1e-3, rounds=1)
    with pytest.warns(RuntimeWarning, match="cut at clip 0.001; raise clip"):
        (record,) = run
    assert record["clipped"] > 0.5
    (record,) = trainer(tmp_path / "wide", rounds=1)
    assert record["clipped"] == 0


# own data


class Indexed(Dataset):
    """A dataset that counts how often it is asked."""

    def __init__(self, part: tuple[Tensor, Tensor]) -> None:
        self.part, self.asked = part, 0

    def __len__(self) -> int:
        return len(self.part[0])

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.asked += 1
        return self.part[0][index].numpy(), int(self.part[1][index])


def test_every_form_of_data_is_the_same_examples_read_once() -> None:
    pair = data()[0]
    indexed = Indexed(pair)
    for form in (
        pair,
        list(pair),
        tuple(part.numpy() for part in pair),
        TensorDataset(*pair),
        DataLoader(TensorDataset(*pair), batch_size=2, shuffle=True),
        indexed,
    ):
        found = examples(form, "client 0")
        assert torch.equal(found.features, pair[0])
        assert torch.equal(found.labels, pair[1])
    assert indexed.asked == SIZES[0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"clients": data()[:1]}, "clients 1"),
        ({"clients": [*data()[:2], (torch.ones(3, 3), torch.ones(2))]}, "client 2 has inputs"),
        ({"clients": [*data()[:2], (torch.ones(0, 3), torch.ones(0))]}, "client 2 has inputs"),
        ({"clients": [*data()[:2], {"x": 1}]}, "client 2 is a dict"),
        ({"clients": [*data()[:2], [(1, 2), "ab", 3]]}, "client 2 is a list"),
        ({"clients": TensorDataset(*data()[0])}, "must be a list with the data of each client"),
        ({"evaluation": 3}, "evaluation is a int"),
        ({"model": "resnet"}, "model is a str"),
        ({"model": nn.ReLU()}, "no parameter"),
        ({"loss": "mse"}, "loss is a str"),
        ({"protocol": "bonawitz"}, "unknown protocol"),
        ({"rounds": 2.5}, "rounds 2.5"),
        ({"rounds": True}, "rounds True"),
        ({"learning_rate": 0}, "above 0 in every round"),
        ({"learning_rate": lambda number: 2 - number}, "above 0 in every round"),
        ({"learning_rate": math.nan}, "learning rate of round 1 is nan"),
        ({"batch_size": 2, "sampling_rate": 0.5}, "say the same"),
        ({"local_epochs": 2, "local_steps": 2}, "say the same"),
        ({"local_epochs": -1}, "local_epochs -1"),
        ({"threshold": 2}, "give it to the protocol"),
        ({"data": "digits"}, "leave it out"),
        ({"momentum": 0.9}, "unknown setting 'momentum'"),
        ({"weighting": "size"}, "unknown weighting"),
        ({"stop_at": 0.9, "evaluation": None}, "stop_at needs evaluation data"),
        ({"noise": "distributed"}, "an own model needs clip"),
        ({"noise": "distributed", "weighting": "equal"} | BUDGET, "weighting equal"),
        ({"unit": "client", "noise": "distributed", "weighting": "examples"} | BUDGET, "equal"),
        ({"noise": "distributed", "protocol": secagg.Plain()} | BUDGET, "hides"),
        (
            {
                "noise": "distributed",
                "protocol": secagg.Bonawitz(rates=Rates(corrupt_fraction=".05", dropout=".1")),
            }
            | BUDGET,
            "leave rates out",
        ),
        ({"noise": "distributed", "protocol": secagg.Ckks(flooding=30)} | BUDGET, "flooding=30"),
    ],
)
def test_what_cannot_be_kept_is_named_before_anything_is_written(
    changed: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        trainer(tmp_path / "run", **changed)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# what an error names


def test_passes_that_noise_does_not_allow_are_named_as_they_were_given(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^local_epochs 2: distributed noise") as caught:
        trainer(tmp_path / "run", local_epochs=2, noise="distributed", **BUDGET)
    assert "local_steps" not in str(caught.value)
    trainer(tmp_path / "one", local_epochs=1, noise="distributed", **BUDGET)


def test_a_folder_that_is_taken_is_told_in_arguments(tmp_path: Path) -> None:
    trainer(tmp_path / "run").run()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, more, words in (
        ("run", {}, "with Trainer.resume, replace it with overwrite=True, or choose another"),
        ("other", {"overwrite": True}, "so overwrite=True removes nothing"),
        ("file", {}, "choose another folder as out"),
    ):
        with pytest.raises(RunError, match=words) as caught:
            trainer(tmp_path / name, **more)
        assert "--" not in str(caught.value)
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(RunError, match="overwrite=True"):
        secagg.Trainer.resume(tmp_path / "run", linear(), data(), functional.cross_entropy)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.BatchNorm1d(4), "layer '1' is a BatchNorm1d: it mixes the examples of a batch; take G"),
        (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), "track_running_stats=False"),
        (nn.LSTM(4, 4), "layer '1' is a LSTM: Opacus cannot .* opacus.layers.DPLSTM"),
    ],
)
def test_a_layer_that_opacus_refuses_is_named_with_its_cure(
    layer: nn.Module, words: str, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2))
    with pytest.raises(UnsoundModel, match=words) as caught:
        trainer(tmp_path / "run", model=model, noise="distributed", **BUDGET)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


# by group

PLACES = ["north", "south & west", "north", 7, 7, 7, "south & west", "north"]


def accuracy_of(model: nn.Module, rows: list[int]) -> float:
    inputs, targets = data()[1]
    return float((model(inputs[rows]).argmax(1) == targets[rows]).float().mean())


def test_a_run_says_how_good_the_model_is_for_each_group(tmp_path: Path) -> None:
    run = trainer(
        tmp_path / "run",
        evaluation=data()[1],
        groups=PLACES,
        noise="distributed",
        unit="client",
        **BUDGET,
    )
    final = run.run()
    assert list(final["by_group"]) == ["7", "north", "south & west"]
    for name, each in final["by_group"].items():
        rows = [at for at, place in enumerate(PLACES) if str(place) == name]
        assert each["examples"] == len(rows)
        assert each["accuracy"] == pytest.approx(accuracy_of(run.model, rows))
    shares = [each["examples"] * each["accuracy"] for each in final["by_group"].values()]
    assert sum(shares) / 8 == pytest.approx(final["accuracy"])
    north = final["by_group"]["north"]["accuracy"]
    assert f"north accuracy {north:.3f} of 3 examples" in "\n".join(run.closing_lines(final))
    assert json.loads((tmp_path / "run/metrics.json").read_text())["final"] == final
    page = (tmp_path / "run/report.html").read_text()
    assert "Accuracy by group" in page
    assert "south &amp; west" in page
    # The ledger says the same, and so does an audit of it, whoever makes it.
    audit = json.loads((tmp_path / "run/audit.json").read_text())
    rows_of = {row["item"]: row for row in audit["statement"]}
    assert f"north accuracy {north:.3f} of 3 examples" in rows_of["Bias"]["text"]
    assert rows_of["Bias"]["source"] == "keeper"
    assert f"Accuracy {final['accuracy']:.3f} on 8 evaluation ex" in rows_of["Utility"]["text"]


def test_a_run_without_groups_states_its_utility_and_no_bias(tmp_path: Path) -> None:
    final = trainer(tmp_path / "run", noise="local", **BUDGET).run()
    assert final["by_group"] is None
    assert "by group" not in (tmp_path / "run/report.html").read_text()
    audit = json.loads((tmp_path / "run/audit.json").read_text())
    sources = {row["item"]: row["source"] for row in audit["statement"]}
    assert (sources["Utility"], sources["Bias"]) == ("keeper", "nobody")


def test_a_finished_run_that_is_finished_again_states_nothing_anew(tmp_path: Path) -> None:
    given: dict[str, Any] = {"evaluation": data()[1], "groups": PLACES}
    trainer(tmp_path / "run", noise="local", **given, **BUDGET).run()
    with Ledger.open(tmp_path / "run/ledger.sqlite", read_only=True) as book:
        head = book.head()
    again = secagg.Trainer.resume(
        *(tmp_path / "run", linear(), data(), functional.cross_entropy), **given
    )
    again.finish()
    with Ledger.open(tmp_path / "run/ledger.sqlite", read_only=True) as book:
        assert book.head() == head


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (["a"] * 7, "names 7 examples, and the evaluation has 8"),
        (8, "groups is a int, must name"),
        (["a\nb"] * 8, "must be a printable name"),
        ([" "] * 8, "must be a printable name"),
        (["a" * 101] * 8, "at most 100"),
    ],
)
def test_groups_that_cannot_be_are_refused(groups: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        trainer(tmp_path / "run", evaluation=data()[1], groups=groups)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# with noise


@pytest.mark.parametrize("mode", PRIVATE)
def test_each_mode_trains_an_own_model_within_its_budget(
    mode: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Tanh(), nn.Linear(4, 2))
    run = trainer(tmp_path / "run", model=model, **mode, **BUDGET)
    final = run.run()
    assert 0 < final["epsilon"] <= 8
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())
    read = secagg.load_run(tmp_path / "run")
    assert read.ledger == tmp_path / "run" / "ledger.sqlite"
    assert {"report.html", "audit.html", "audit.json"} <= {
        p.name for p in read.ledger.parent.iterdir()
    }


@pytest.mark.parametrize("mode", PRIVATE)
def test_a_model_that_mixes_examples_is_refused_by_name_under_noise(
    mode: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UnsoundModel, match="BatchNorm"):
        trainer(tmp_path / "run", model=normed(), **mode, **BUDGET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", PRIVATE[:2])
def test_a_mean_over_the_batch_is_refused_where_each_gradient_is_clipped(
    mode: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UnsoundModel, match=r"must be \(1,\): one number an example"):
        trainer(tmp_path / "run", loss=mean_by_hand, **mode, **BUDGET)


def test_a_client_whose_data_break_the_model_is_in_the_sum_all_the_same(tmp_path: Path) -> None:
    """Whoever chose the model could otherwise ask whether an example is there."""
    clients = data()
    clients[1] = (clients[1][0], torch.full((8,), 7))  # no such class
    outputs = linear()(clients[1][0])
    with pytest.raises(IndexError):
        functional.cross_entropy(outputs, clients[1][1])
    run = trainer(tmp_path / "run", clients=clients, noise="distributed", unit="client", **BUDGET)
    record = next(iter(run))
    assert (record["survivors"], record["lost"]) == (3, False)


def test_a_rate_by_round_costs_nothing(tmp_path: Path) -> None:
    spent = {
        name: trainer(tmp_path / name, learning_rate=rate, noise="local", **BUDGET).run()
        for name, rate in (("fixed", 0.5), ("falling", lambda number: 0.5 / number))
    }
    assert spent["fixed"]["epsilon"] == spent["falling"]["epsilon"]


# a run that stops, and goes on


CLIENT = {"noise": "distributed", "unit": "client", "rounds": 6} | BUDGET


def test_an_early_stop_is_charged_like_the_whole_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round it stops at follows from what it released: fewer rounds prove no lower price."""
    whole = trainer(tmp_path / "whole", **CLIENT).run()
    run = trainer(tmp_path / "early", **CLIENT, stop_at=0.0)
    early = run.run()
    assert (early["rounds"], whole["rounds"]) == (1, 6)
    assert early["epsilon"] == whole["epsilon"]
    assert run.closing_lines(early)[0] == "stopped after 1 of 6 rounds: target met"
    with Ledger.open(tmp_path / "early" / "ledger.sqlite") as ledger:
        open_ones = [held for held in ledger.reservations() if held.state is State.OPEN]
    assert len(open_ones) == 5 * 3
    # The rule removed.
    monkeypatch.setattr(Books, "reserve_rest", lambda *_: None)
    assert trainer(tmp_path / "free", **CLIENT, stop_at=0.0).run()["epsilon"] < whole["epsilon"]


def test_an_early_stop_stays_one_when_the_run_is_resumed(tmp_path: Path) -> None:
    first = trainer(tmp_path / "run", **CLIENT, stop_at=0.0)
    spent = first.run()["epsilon"]
    again = resumed(tmp_path / "run", stop_at=0.0)
    assert list(again) == []
    assert again.finish()["epsilon"] == spent


def test_without_a_metric_the_loss_is_the_target(tmp_path: Path) -> None:
    clients = [(x, x @ torch.tensor([[1.0], [2.0], [0.0]])) for x, _ in data()]
    run = trainer(
        tmp_path / "run",
        model=nn.Linear(3, 1),
        loss=nn.MSELoss(),
        clients=clients,
        evaluation=clients[0],
        rounds=50,
        learning_rate=0.2,
        clip=10.0,
        stop_at=0.5,
    )
    records = list(run)
    assert 1 < len(records) < 50
    assert records[-1]["loss"] <= 0.5 < records[-2]["loss"]
    assert {record["accuracy"] for record in records} == {None}
    assert "loss" in run.closing_lines(run.finish())[1]
    assert "Loss" in (tmp_path / "run" / "report.html").read_text()


def right_share(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) == targets).double().mean())


def test_an_own_metric_is_recorded_shown_and_the_target(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", metric=right_share, rounds=30, stop_at=0.7)
    records = list(run)
    assert records[-1]["metric"] >= 0.7
    assert run.finish()["metric"] == records[-1]["metric"]
    assert f"metric {records[-1]['metric']:.3f}" in run.closing_lines(run.finish())[-2]


def resumed(out: Path, **more: Any) -> secagg.Trainer:
    given: dict[str, Any] = {
        "model": nn.Linear(3, 2),
        "clients": data(),
        "loss": functional.cross_entropy,
        "evaluation": data()[2],
    }
    return secagg.Trainer.resume(out, **(given | more))


def test_a_resumed_run_has_its_model_and_its_optimizers_moments(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", rounds=4, optimizer=Adam())
    whole.run()
    cut = trainer(tmp_path / "cut", rounds=4, optimizer=Adam())
    rounds = iter(cut)
    next(rounds), next(rounds)
    del cut, rounds
    again = resumed(tmp_path / "cut", optimizer=Adam())
    assert again.done == 2
    again.run()
    # Adam divides by the root of what it saw, so that steps of rounding grow a little.
    assert_same(again.model, whole.model, atol=1e-4)
    forgetful = resumed(tmp_path / "cut", optimizer=Adam())
    assert forgetful.done == 4


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"optimizer": None}, "was given .*Adam.*, not"),
        ({"optimizer": Adam(tau=0.1)}, "tau=0.1"),
        ({"protocol": secagg.Bonawitz(active=True)}, "active=True"),
        ({"learning_rate": warmup(0.5, 3)}, "by round"),
        ({"learning_rate": 0.25}, "has learning_rate 0.5"),
        ({"stop_at": 0.9}, "stop_at 0.9"),
        ({"metric": right_share}, "metric right_share"),
        ({"clients": data()[:2]}, "has 3 clients, not 2"),
        ({"clients": data()[::-1]}, "data [0-9a-f]{16}, not .* data [0-9a-f]{16}$"),
        ({"evaluation": data()[0]}, "data [0-9a-f]{16}, not .* data [0-9a-f]{16}$"),
        ({"model": nn.Linear(3, 4)}, "another model"),
    ],
)
def test_a_run_is_not_resumed_with_something_else(
    changed: dict[str, Any], words: str, tmp_path: Path
) -> None:
    run = trainer(tmp_path / "run", optimizer=Adam())
    next(iter(run))
    del run
    with pytest.raises((InputError, RunError), match=words):
        resumed(tmp_path / "run", **({"optimizer": Adam()} | changed))


# what watches and what is left


class Watch(Callback):
    def __init__(self) -> None:
        self.stages: list[tuple[int, Stage]] = []
        self.rounds: list[int] = []
        self.ended = 0

    def on_stage(self, round_number: int, stage: Stage) -> None:
        self.stages.append((round_number, stage))

    def on_round(self, record: Any) -> None:
        self.rounds.append(record["round"])

    def on_end(self, final: Any) -> None:
        self.ended += 1


def test_callbacks_see_every_stage_every_round_and_the_end(tmp_path: Path) -> None:
    watch = Watch()
    trainer(tmp_path / "run", callbacks=[watch]).run()
    assert watch.stages == [(number, stage) for number in (1, 2) for stage in UNSIGNED]
    assert watch.rounds == [1, 2]
    assert watch.ended == 1


def test_a_callback_that_fails_ends_the_run_with_the_round_on_disk(tmp_path: Path) -> None:
    class Failing(Callback):
        def on_round(self, record: Any) -> None:
            raise RuntimeError("no disk for logs")

    run = trainer(tmp_path / "run", callbacks=[Failing()])
    with pytest.raises(RuntimeError, match="no disk"):
        next(iter(run))
    assert len(secagg.load_run(tmp_path / "run").rounds) == 1


def test_a_run_is_read_back_frozen_and_nothing_is_written(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", optimizer=Adam())
    run.run()
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    read = secagg.load_run(tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert [record["round"] for record in read.rounds] == [1, 2]
    assert read.config["rounds"] == 2
    assert read.final is not None
    assert read.ledger is None
    again = nn.Linear(3, 2)
    again.load_state_dict(read.state_dict())
    assert_same(again, run.model, atol=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.final = None
    with pytest.raises(RunError, match="missing"):
        secagg.load_run(tmp_path)


def test_the_table_of_rounds_holds_what_the_records_do(tmp_path: Path) -> None:
    trainer(tmp_path / "run").run()
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    records = json.loads((tmp_path / "run" / "metrics.json").read_text())["rounds"]
    assert [int(row["round"]) for row in rows] == [1, 2]
    assert [float(row["loss"]) for row in rows] == [record["loss"] for record in records]
    assert {row["epsilon"] for row in rows} == {""}


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_writers_log_every_number_under_its_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Against stand-ins with the calls of tensorboard 2 and mlflow 2 and 3 that writers make."""
    logged: dict[str, list[Any]] = {"tensorboard": [], "mlflow": []}

    class SummaryWriter:
        def __init__(self, log_dir: str) -> None:
            self.log_dir = log_dir

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            logged["tensorboard"].append((step, tag, value))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            logged["tensorboard"].append("closed")

    def log_metrics(metrics: dict[str, float], step: int | None = None) -> None:
        logged["mlflow"].extend((step, name, value) for name, value in metrics.items())

    fake(monkeypatch, "tensorboard")
    fake(monkeypatch, "torch.utils.tensorboard", SummaryWriter=SummaryWriter)
    fake(monkeypatch, "mlflow", log_metrics=log_metrics)
    writers = [TensorBoard(tmp_path / "logs"), MLflow()]
    groups = ["A & E"] * 11
    final = trainer(tmp_path / "run", callbacks=writers, groups=groups).run()
    records = secagg.load_run(tmp_path / "run").rounds
    expected = [(r["round"], name, value) for r in records for name, value in numbers(r)]
    assert {"loss", "accuracy", "bytes_up", "milliseconds/train"} <= {n for _, n, _ in expected}
    assert logged["tensorboard"] == [*expected, "closed"]
    assert logged["mlflow"][: len(expected)] == expected
    assert (None, "final/loss", final["loss"]) in logged["mlflow"]
    assert (None, "final/by_group/A _ E/examples", 11.0) in logged["mlflow"]


@pytest.mark.parametrize(
    ("library", "make"), [("tensorboard", lambda: TensorBoard("logs")), ("mlflow", MLflow)]
)
def test_a_writer_without_its_library_says_which(
    library: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "secagg.extras.find_spec", lambda name: None if name == library else object()
    )
    with pytest.raises(MissingExtraError, match=rf"needs {library}.*\[writers\]"):
        make()


def test_the_face_has_a_trainer_and_does_not_import_torch() -> None:
    program = (
        "import sys, secagg\n"
        "assert {'Trainer', 'load_run'} <= set(dir(secagg))\n"
        "assert 'torch' not in sys.modules\n"
        "from secagg import Trainer\n"
        "assert 'torch' in sys.modules and Trainer is secagg.Trainer\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_optimizer_of_torch_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one of secagg\.training\.optimizers"):
        trainer(tmp_path, optimizer=torch.optim.Adam)
