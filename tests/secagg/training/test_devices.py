"""Clients that take fewer steps, smaller batches or a part of the model: what is right of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secagg
from dp.accounting.accountant import epsilon_rdp
from dp.accounting.events import Event, GaussianEvent, PoissonSampling, SkellamEvent
from dp.ledger import Ledger
from secagg.errors import InputError
from secagg.training.devices import Device, settings_of
from secagg.training.modes import PARTS, Client, Distributed, Local, Mode, Plain, mode
from secagg.training.settings import TrainingConfig
from secagg.training.tasks import own_task
from secagg.vectors.vector import flatten

SIZES = (6, 9, 12, 7)
SEED = bytes(32)
BUDGET = {"epsilon": 8.0, "delta": 1e-3, "clip": 1.0}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def data() -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(4)
    return [(torch.randn(n, 3, generator=drawn), torch.arange(n) % 2) for n in SIZES]


def net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def chosen(devices: dict[int, Device], **more: Any) -> tuple[Any, Any]:
    """A mode of four clients, and where they start."""
    given = {"noise": "none", "data": "own", "model": "own", "rounds": 3, "learning_rate": 0.1}
    given |= {"clients": 4, "dropout": 0.0, "clip": 1.0} | more
    task = own_task(net(), data(), nn.functional.cross_entropy, None)
    config = TrainingConfig.parse(given)
    made = mode(config, task.federation, task.model, 0, task.loss, devices)
    return made, flatten(task.model).clone()


def summed(made: Mode, start: Tensor, clients: tuple[int, ...] = (0, 1, 2, 3)) -> Any:
    total = np.zeros(made.layout.words, np.uint64)
    for client in clients:
        total += made.words(client, start, SEED)
    return made.layout.decode(total)


# Fewer steps, smaller batches


def test_a_client_takes_its_own_steps_and_weighs_what_it_weighed() -> None:
    made, start = chosen({2: Device(local_steps=1)}, local_steps=5)
    assert isinstance(made, Plain)
    brought = [made.brings(client, start, SEED)[0] for client in range(4)]
    all_one, _ = chosen({}, local_steps=1)
    all_five, _ = chosen({}, local_steps=5)
    for client, found in enumerate(brought):
        other = all_one if client == 2 else all_five
        assert np.array_equal(found["update"], other.brings(client, start, SEED)[0]["update"])
    weights = np.array(SIZES)
    expected = sum(w * found["update"] for w, found in zip(weights, brought, strict=True))
    moved = made.moved(summed(made, start), (0, 1, 2, 3), SEED)
    assert np.abs(moved.numpy() - expected / weights.sum()).max() < 1e-5


def test_batches_of_a_rate_of_ones_own_are_of_that_size() -> None:
    rates = {0: Device(sampling_rate=0.05), 1: Device(sampling_rate=0.9)}
    made, _ = chosen(rates, sampling_rate=0.5, **BUDGET, noise="distributed")
    assert isinstance(made, Distributed)
    expected = [client.expected_batch for client in made._clients]
    assert expected == pytest.approx([0.05 * 6, 0.9 * 9, 0.5 * 12, 0.5 * 7])


def test_the_divisor_is_the_sum_of_the_expected_batches() -> None:
    made, start = chosen({0: Device(sampling_rate=0.25)}, **BUDGET, noise="distributed")
    sums = {"update": made.mechanism.encode(np.zeros(len(start)), seed=SEED)}
    gradient = made.mechanism.decode(sums["update"], seed=SEED)
    moved = made.moved(sums, (0, 1), SEED).numpy()
    assert np.allclose(moved, -0.1 / (0.25 * 6 + 9) * gradient)


def ledger_of(folder: Path, devices: dict[int, Device], **more: Any) -> Ledger:
    given = {**BUDGET, "rounds": 2, "learning_rate": 0.1, **more}
    out = folder / "run"
    secagg.Trainer(
        net(), data(), nn.functional.cross_entropy, out=out, devices=devices, **given
    ).run()
    return Ledger.open(out / "ledger.sqlite")


def charged(ledger: Ledger) -> dict[str, Any]:
    return {name: ledger.epsilons("rdp")[name] for name in sorted(ledger.epsilons("rdp"))}


def test_with_local_noise_each_client_is_charged_for_its_own_rate_and_steps(folder: Path) -> None:
    devices = {0: Device(local_steps=1), 1: Device(sampling_rate=0.1)}
    found = charged(ledger_of(folder, devices, noise="local", local_steps=4, sampling_rate=0.5))
    made, _ = chosen(devices, noise="local", local_steps=4, sampling_rate=0.5, **BUDGET, rounds=2)
    assert isinstance(made, Local)
    for client, (rate, steps) in enumerate([(0.5, 1), (0.1, 4), (0.5, 4), (0.5, 4)]):
        event: Event = GaussianEvent(
            noise_multiplier=made.noise_multiplier,
            sampling=PoissonSampling(rate=rate),
            steps=2 * steps,
        )
        assert found[f"client-{client}"] == pytest.approx(epsilon_rdp({event: 1}, delta=made.delta))
    assert found["client-0"] < found["client-2"]
    assert found["client-1"] < found["client-2"] <= 8.0


def test_with_shares_each_client_is_charged_for_its_own_rate(folder: Path) -> None:
    found = charged(
        ledger_of(folder, {1: Device(sampling_rate=0.1)}, noise="distributed", sampling_rate=0.5)
    )
    assert found["client-1"] < found["client-0"] == found["client-2"] <= 8.0
    made, _ = chosen(
        {1: Device(sampling_rate=0.1)}, sampling_rate=0.5, **BUDGET, noise="distributed"
    )
    event = made.event(client=1)
    assert isinstance(event, SkellamEvent)
    assert event.sampling == PoissonSampling(rate=0.1)


def test_a_larger_rate_than_the_settings_is_what_the_noise_is_made_for(folder: Path) -> None:
    found = charged(
        ledger_of(folder, {1: Device(sampling_rate=1.0)}, noise="local", sampling_rate=0.2)
    )
    assert found["client-0"] < found["client-1"] <= 8.0
    assert Ledger.open(folder / "run" / "ledger.sqlite").statement()


def test_charging_all_alike_would_understate_who_samples_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule removed: every client is charged at the rate of the settings."""
    honest = charged(
        ledger_of(folder / "true", {1: Device(sampling_rate=1.0)}, noise="local", sampling_rate=0.2)
    )
    event = Local.event
    monkeypatch.setattr(Local, "event", lambda made, *_: event(made, None, 0))
    alike = charged(
        ledger_of(
            folder / "false", {1: Device(sampling_rate=1.0)}, noise="local", sampling_rate=0.2
        )
    )
    assert alike["client-1"] == pytest.approx(honest["client-0"])
    assert alike["client-1"] < honest["client-1"]


def test_under_client_noise_nothing_changes_but_the_update(folder: Path) -> None:
    devices = {0: Device(local_steps=1, sampling_rate=0.5, trains=["2"])}
    found = charged(ledger_of(folder / "some", devices, unit="client", local_steps=3))
    none = charged(ledger_of(folder / "none", {}, unit="client", local_steps=3))
    assert found == none
    made, start = chosen(devices, **BUDGET, noise="distributed", unit="client", local_steps=3)
    assert isinstance(made, Client)
    update, _ = made._clients[0].update(start)
    assert not update[:16].any()
    assert update[16:].any()


# A part of the model


def test_each_parameter_is_the_mean_of_those_who_train_it() -> None:
    devices = {0: Device(trains=["2"]), 3: Device(trains=["2", "0.bias"])}
    made, start = chosen(devices)
    sums = summed(made, start)
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    trained = {"0.weight": (1, 2), "0.bias": (1, 2, 3)} | dict.fromkeys(names[2:], (0, 1, 2, 3))
    weights = [sum(SIZES[client] for client in trained[name]) for name in names]
    assert sums[PARTS].tolist() == weights
    moved, at = made.moved(sums, (0, 1, 2, 3), SEED).numpy(), 0
    brought = [made.brings(client, start, SEED)[0]["update"] for client in range(4)]
    for name, size, weight in zip(names, (12, 4, 8, 2), weights, strict=True):
        part = slice(at, at := at + size)
        for client in range(4):
            assert bool(brought[client][part].any()) is (client in trained[name])
        mean = sum(SIZES[c] * brought[c][part] for c in trained[name]) / weight
        assert np.abs(moved[part] - mean).max() < 1e-5


def test_a_parameter_that_nobody_trains_stays() -> None:
    devices = dict.fromkeys(range(4), Device(trains=["2"]))
    made, start = chosen(devices)
    moved = made.moved(summed(made, start), (0, 1, 2, 3), SEED).numpy()
    assert not moved[:16].any()
    assert moved[16:].any()


def test_the_vector_is_as_long_whoever_trains_what() -> None:
    some, _ = chosen({0: Device(trains=["2"])})
    other, _ = chosen({3: Device(trains=["0", "2.bias"])})
    assert some.layout.to_bytes() == other.layout.to_bytes()
    assert "2" not in str([segment.name for segment in some.layout.segments])


@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_noise_that_hides_an_example_is_on_all_of_a_gradient(noise: str) -> None:
    with pytest.raises(InputError, match=r"devices\[1\] trains a part"):
        chosen({1: Device(trains=["2"])}, **BUDGET, noise=noise)


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ({4: Device()}, "devices has 4, clients are 0 to 3"),
        ({-1: Device()}, "devices has -1"),
        ({"a": Device()}, "devices has 'a'"),
        ({0: 3}, r"devices\[0\] is a int"),
        ({0: Device(local_steps=0)}, r"devices\[0\]: local_steps 0"),
        ({0: Device(sampling_rate=0.0)}, r"devices\[0\]: sampling_rate 0"),
        ({0: Device(sampling_rate=1.5)}, r"devices\[0\]: sampling_rate 1.5"),
        ({0: Device(trains=["1"])}, "trains names '1'"),
        ({0: Device(trains=["2.wei"])}, "trains names '2.wei'"),
    ],
    ids=str,
)
def test_devices_that_cannot_be_are_refused(devices: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        chosen(devices)


@pytest.mark.parametrize("trains", ["2", [], ()])
def test_trains_is_names(trains: Any) -> None:
    with pytest.raises(InputError, match="must be names"):
        Device(trains=trains)


def test_steps_of_noise_that_hides_an_example_are_one() -> None:
    config = TrainingConfig(noise="distributed", clients=4)
    with pytest.raises(InputError, match=r"devices\[0\]: local_steps 2"):
        settings_of(config, {0: Device(local_steps=2)})


def test_a_run_resumes_with_its_devices_and_with_no_others(folder: Path) -> None:
    given: dict[str, Any] = {"learning_rate": 0.1}
    objects = (net(), data(), nn.functional.cross_entropy)
    devices = {1: Device(local_steps=2, trains=["2"])}
    trainer = secagg.Trainer(
        *objects, out=folder / "run", rounds=3, noise="none", devices=devices, **given
    )
    next(iter(trainer))
    for other in (None, {1: Device(local_steps=3, trains=["2"])}, {0: devices[1]}):
        with pytest.raises(InputError, match="was given"):
            secagg.Trainer.resume(folder / "run", *objects, devices=other, **given)
    again = secagg.Trainer.resume(folder / "run", *objects, devices=devices, **given)
    assert again.run()["rounds"] == 3
