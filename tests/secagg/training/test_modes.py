"""What the private modes bring, release and charge, driven as a run drives them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import stats
from torch.nn import functional

import dp
import dp.sgd
from dp.errors import CalibrationError
from dp.ledger.ledger import Ledger, State
from dp.noise import mechanisms, sampling
from secagg.errors import InputError
from secagg.rounds.in_memory import run_bonawitz
from secagg.stage import Stage
from secagg.training import loop as training
from secagg.training import modes
from secagg.training.data import Examples, Federation
from secagg.training.modes import Client, mode
from secagg.training.settings import TrainingConfig, noise_and_unit
from secagg.vectors.layout import NoisyIntegers, Segment
from secagg.vectors.vector import flatten

SEED = bytes(range(32))


def federation(clients: int = 6, each: int = 8, features: int = 3, classes: int = 2) -> Federation:
    generator = np.random.default_rng(1)
    parts = [
        Examples(
            features=generator.normal(size=(each, features)).astype(np.float32),
            labels=generator.integers(0, classes, each),
        )
        for _ in range(clients)
    ]
    return Federation(clients=tuple(parts), evaluation=parts[0], classes=classes)


def linear(data: Federation) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(data.evaluation.features.shape[1], data.classes)


def settings(mode_name: str, **more: Any) -> TrainingConfig:
    values = {"clients": 6, "rounds": 4, "dropout": 0.0, "minimum_survivors": 4, "delta": 1e-4}
    return TrainingConfig(**(values | noise_and_unit(mode_name) | more))


def summed(chosen: modes.Mode, members: list[int], start: torch.Tensor) -> Mapping[str, Any]:
    total = np.zeros(chosen.layout.words, np.uint64)
    for client in members:
        total += chosen.words(client, start, SEED)
    return chosen.layout.decode(total)


class Silent:
    """No noise: shows what is under it."""

    error = 0.0

    def sample(self, count: int, *, entropy: object) -> np.ndarray:
        return np.zeros(count, np.int64)


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "_sampler", lambda noise, variance: Silent())


def pooled(data: Federation, members: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    features = np.concatenate([data.clients[client].features for client in members])
    labels = np.concatenate([data.clients[client].labels for client in members])
    return torch.from_numpy(features), torch.from_numpy(labels)


def clipped_sum(
    model: torch.nn.Module, features: torch.Tensor, labels: torch.Tensor, clip: float
) -> torch.Tensor:
    """By the definition: one backward pass an example."""
    total = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for feature, label in zip(features, labels, strict=True):
        model.zero_grad()
        functional.cross_entropy(model(feature[None]), label[None]).backward()
        gradient = flatten(model, of="gradients").double()
        total += gradient * min(1.0, clip / float(gradient.norm()))
    return total


# distributed


@pytest.mark.usefixtures("no_noise")
def test_distributed_without_its_noise_is_full_batch_descent_on_clipped_examples() -> None:
    data, config = federation(), settings("distributed", clip=0.2, bits=32, learning_rate=0.7)
    model = linear(data)
    chosen = mode(config, data, model)
    members = [0, 1, 3, 4, 5]
    position, central = flatten(model).clone(), linear(data)
    for _ in range(3):
        sums = summed(chosen, members, position)
        moved = chosen.moved(sums, members, SEED)
        gradient = clipped_sum(central, *pooled(data, members), clip=0.2)
        assert float(gradient.norm()) > 0
        expected = -0.7 * gradient / (8 * len(members))
        # Rounding moves an entry of each client by less than a step, the rotation mixes them.
        size, step = chosen.mechanism.size, chosen.mechanism.resolution
        error = 0.7 / (8 * len(members)) * len(members) * step * math.sqrt(size)
        assert float((moved - expected).norm()) <= error + 1e-6 * float(expected.norm())
        position = position + moved.float()
        torch.nn.utils.vector_to_parameters(position, central.parameters())


SURVIVORS = [0, 1, 2, 4, 5]


def opacus_updates(
    model: torch.nn.Module, data: Federation, noise: float, draws: int
) -> np.ndarray:
    """Of the survivors' pooled data, by Opacus' own optimizer with one party's noise."""
    start = flatten(model).clone()
    features, labels = pooled(data, SURVIVORS)
    wrapped = GradSampleModule(model, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1.0),
        noise_multiplier=noise,
        max_grad_norm=0.5,
        expected_batch_size=0.5 * len(features),
        loss_reduction="mean",
    )
    updates = []
    torch.manual_seed(7)
    for _ in range(draws):
        torch.nn.utils.vector_to_parameters(start.clone(), wrapped.parameters())
        optimizer.zero_grad()
        batch = torch.rand(len(features)) < 0.5
        outputs = wrapped(features[batch])
        functional.cross_entropy(outputs, labels[batch], reduction="sum").backward()
        optimizer.step()
        updates.append((flatten(wrapped) - start).detach().numpy())
    return np.stack(updates)


def least_p_value(ours: np.ndarray, other: np.ndarray) -> float:
    """Of means, total variance and the law along each axis and one diagonal, times the tests."""
    size = ours.shape[1]
    covariances = [np.cov(x.T) for x in (ours, other)]
    error = np.sqrt(
        sum(np.diag(s) / len(x) for s, x in zip(covariances, (ours, other), strict=True))
    )
    means = 2 * stats.norm.sf(np.abs(ours.mean(axis=0) - other.mean(axis=0)) / error)
    # The trace of a sample covariance S of n normal draws has variance 2 tr(S^2) / n.
    spread = sum(
        2 * np.sum(s**2) / (np.trace(s) ** 2 * len(x))
        for s, x in zip(covariances, (ours, other), strict=True)
    )
    ratio = np.log(np.trace(covariances[0]) / np.trace(covariances[1]))
    scale = 2 * stats.norm.sf(abs(ratio) / math.sqrt(spread))
    directions = np.vstack([np.eye(size), np.ones(size) / math.sqrt(size)])
    laws = [stats.ks_2samp(ours @ way, other @ way).pvalue for way in directions]
    found = [*means, scale, *laws]
    return len(found) * float(min(found))


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_distributed_updates_are_those_of_opacus_with_the_same_total_noise() -> None:
    """Mean, scale and law of 500 sums each way, Poisson batches and noise at once.

    The noise is drawn anew in every run; a true claim is rejected in one of 10^6. Opacus with z
    alone, as if the survivors above the minimum had brought no share, is told apart.
    """
    data = federation()
    config = settings(
        "distributed",
        clip=0.5,
        sampling_rate=0.5,
        epsilon=8.0,
        learning_rate=1.0,
        uncounted_shares=2,
    )
    chosen = mode(config, data, linear(data))
    start = flatten(linear(data)).clone()
    ours = np.stack(
        [
            chosen.moved(summed(chosen, SURVIVORS, start), SURVIVORS, SEED).numpy()
            for _ in range(500)
        ]
    )
    z = chosen.noise_multiplier
    theirs = opacus_updates(linear(data), data, z * math.sqrt(5 / (4 - 2)), 500)
    assert least_p_value(ours, theirs) > 1e-6
    assert least_p_value(ours, opacus_updates(linear(data), data, z, 300)) < 1e-6


# client


@pytest.mark.parametrize("start_scale", [0.0, 1.0, 30.0])
@pytest.mark.usefixtures("no_noise")
def test_a_client_whose_update_becomes_zeros_moves_the_integers_by_at_most_l2(
    start_scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = federation()
    chosen = mode(settings("client", learning_rate=50.0), data, linear(data))
    assert isinstance(chosen, Client)
    start = start_scale * torch.ones(chosen._entries)
    for client in range(6):
        brought = chosen.layout.decode(chosen.words(client, start, SEED))["update"]
        with monkeypatch.context() as patch:
            patch.setattr(modes, "_coin", lambda rate: False)
            silent = chosen.layout.decode(chosen.words(client, start, SEED))["update"]
        assert not silent.any()
        norm = math.sqrt(sum(int(x) ** 2 for x in brought))
        assert 0 < norm <= chosen.mechanism.l2_sensitivity
        assert sum(abs(int(x)) for x in brought) <= chosen.mechanism.l1_sensitivity


def test_a_client_that_brings_nothing_sends_as_much_and_its_whole_share_of_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = federation(features=40, classes=10)
    chosen = mode(settings("client"), data, linear(data))
    start = torch.zeros(chosen._entries)
    brought = chosen.words(0, start, SEED)
    monkeypatch.setattr(modes, "_coin", lambda rate: False)
    silent = [chosen.words(0, start, SEED) for _ in range(4)]
    assert all((one.dtype, one.shape) == (brought.dtype, brought.shape) for one in silent)
    noise = np.concatenate([chosen.layout.decode(one)["update"] for one in silent]).astype(float)
    # A variance of n draws: within 6 sqrt(2 / n) of the true one.
    assert np.mean(noise**2) == pytest.approx(
        chosen.mechanism.share_variance, rel=6 * math.sqrt(2 / len(noise))
    )


def test_batches_and_coins_of_every_mode_are_the_ciphers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here and in ``dp.sgd``, and no generator of torch draws either."""
    assert modes.coins is dp.sgd.coins is sampling.coins
    source = Path(modes.__file__).read_text()
    assert "torch.rand" not in source
    assert "Generator" not in source
    for name in ("local", "distributed", "client", "none"):
        data, asked = federation(), []

        def watched(count: int, rate: float, asked: Any = asked, **more: Any) -> Any:
            asked.append((count, rate))
            return sampling.coins(count, rate, **more)

        monkeypatch.setattr(modes, "coins", watched)
        monkeypatch.setattr(dp.sgd, "coins", watched)
        chosen = mode(settings(name, sampling_rate=0.5), data, linear(data))
        chosen.words(0, torch.zeros(chosen._entries), SEED)
        batches = [one for one in asked if one != (1, 1.0)]  # which is the client's own coin
        assert batches == [(8, 0.5)] * len(batches)
        assert len(batches) >= 1


def test_the_coin_falls_as_often_as_it_should() -> None:
    assert all(modes._coin(1.0) for _ in range(100))
    falls = sum(modes._coin(0.3) for _ in range(4000))
    assert abs(falls - 1200) < 6 * math.sqrt(4000 * 0.3 * 0.7)


@pytest.mark.usefixtures("no_noise")
def test_the_clip_moves_to_the_median_norm_and_the_price_stays() -> None:
    data, config = federation(), settings("client", clip=1e-3, learning_rate=0.5)
    model = linear(data)
    chosen = mode(config, data, model)
    start, members = flatten(model).clone(), list(range(6))
    price = chosen.event()
    norms = sorted(
        float(np.linalg.norm(chosen._clients[client].update(start)[0])) for client in members
    )
    clips = []
    for _ in range(150):
        chosen.moved(summed(chosen, members, start), members, SEED)
        clips.append(chosen.state["clip"])
        assert chosen.event() == price
    assert clips[0] < 0.1 * norms[0]
    # Batches are whole, so the norms are fixed; the clip stops between the third and fourth.
    assert 0.8 * norms[2] <= clips[-1] <= 1.25 * norms[3]


@pytest.mark.usefixtures("no_noise")
def test_clients_are_scaled_back_by_the_clip_of_the_round() -> None:
    data, config = federation(), settings("client", clip=1e3, bits=32)
    model = linear(data)
    chosen = mode(config, data, model)
    start, members = flatten(model).clone(), [0, 1, 2, 3, 4]
    moved = chosen.moved(summed(chosen, members, start), members, SEED)
    mean = np.mean([chosen._clients[client].update(start)[0] for client in members], axis=0)
    step = 1e3 * chosen.mechanism.resolution
    assert np.linalg.norm(moved.numpy() - mean) <= step * math.sqrt(chosen.mechanism.size)


def test_the_clip_survives_a_restart(tmp_path: Path) -> None:
    """All norms are above it, and there is hardly any noise: it rises in every round."""
    config = TrainingConfig(
        unit="client", clients=6, rounds=4, dropout=0.0, delta=1e-2, clip=1e-3, epsilon=20.0
    )
    run = training.start(config, tmp_path / "run")
    rounds = iter(run)
    clips = [next(rounds)["state"]["clip"] for _ in range(2)]
    again = training.resume(tmp_path / "run")
    assert again.done == 2
    assert again._mode.state == run._mode.state == {"clip": clips[-1]}
    assert config.clip < clips[0] < clips[1]


# what travels


@pytest.mark.parametrize("mode_name", ["distributed", "client"])
def test_nothing_but_the_noised_vector_travels_and_no_weight_scales_it(mode_name: str) -> None:
    data = federation()
    chosen = mode(settings(mode_name), data, linear(data))
    (segment,) = chosen.layout.segments
    assert (segment.name, segment.weighted) == ("update", False)
    assert isinstance(segment.codec, NoisyIntegers)
    assert segment.entries == chosen.mechanism.size
    integers = chosen.mechanism.encode(np.zeros(chosen._entries), seed=SEED)
    with pytest.raises(InputError, match="weight 2"):
        chosen.layout.encode({"update": integers}, weight=2)
    with pytest.raises(InputError, match="would scale the noise"):
        Segment(name="update", entries=3, codec=segment.codec, weighted=True)


@pytest.mark.parametrize("mode_name", ["distributed", "client"])
def test_a_lower_rate_needs_less_noise(mode_name: str) -> None:
    data, rate = (
        federation(),
        "sampling_rate" if mode_name == "distributed" else "client_sampling_rate",
    )
    whole, half = (
        mode(settings(mode_name, **{rate: value}), data, linear(data)) for value in (1.0, 0.25)
    )
    assert half.noise_multiplier < 0.7 * whole.noise_multiplier


# what is charged


PLAN = {"clients": 6, "rounds": 3, "minimum_survivors": 4, "delta": 1e-4, "dropout": 0.0}


@pytest.fixture(params=["distributed", "client"])
def noised(request: pytest.FixtureRequest) -> TrainingConfig:
    return TrainingConfig(**PLAN, **noise_and_unit(request.param))


def drop(monkeypatch: pytest.MonkeyPatch, gone: Mapping[int, Stage]) -> None:
    monkeypatch.setattr(training, "simulated_dropouts", lambda *_, **__: dict(gone))


def test_a_lost_round_stays_charged_and_is_counted(
    noised: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(monkeypatch, {0: Stage.ADVERTISE, 1: Stage.MASK, 2: Stage.MASK})
    run = training.start(noised, tmp_path / "run")
    start = flatten(run.model).clone()
    record = next(iter(run))
    assert record["lost"]
    assert torch.equal(flatten(run.model), start)
    with Ledger.open(tmp_path / "run" / "ledger.sqlite") as ledger:
        states = {held.subject: held.state for held in ledger.reservations()}
        assert states.pop("client-0") is State.ABORTED
        assert set(states.values()) == {State.OPEN}
        assert len(states) == 5
        assert ledger.epsilons("rdp")["client-1"] == record["epsilon"] > 0


def test_a_commit_costs_what_the_shares_that_were_there_make_it_cost(
    noised: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(monkeypatch, {5: Stage.SHARE})
    run = training.start(noised, tmp_path / "run")
    next(iter(run))
    with Ledger.open(tmp_path / "run" / "ledger.sqlite") as ledger:
        held = {held.subject: held for held in ledger.reservations()}
        assert held["client-5"].state is State.ABORTED
        assert held["client-0"].state is State.COMMITTED
        actual = ledger.spent("client-0", basis="actual")
        reserved = ledger.spent("client-0")
    assert dict(actual) == {run._mode.event(5): 1}
    assert run._mode.event(5).variance > run._mode.event().variance
    assert dict(reserved) == {run._mode.event(): 1}


def test_a_round_that_is_tried_again_is_charged_again(
    noised: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    run = training.start(noised, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(training.Books, "settle", killed)
        with pytest.raises(Killed):
            next(iter(run))
    run._books._ledger.close()
    again = training.resume(tmp_path / "run")
    next(iter(again))
    with Ledger.open(tmp_path / "run" / "ledger.sqlite") as ledger:
        attempts = [h.attempt for h in ledger.reservations(1) if h.subject == "client-0"]
        assert sorted(attempts) == [0, 1]
        twice = ledger.epsilons("rdp")["client-0"]
    once = training.start(noised, tmp_path / "other")
    assert next(iter(once))["epsilon"] < twice


# the fewest survivors


@pytest.mark.parametrize("mode_name", ["distributed", "client"])
def test_below_the_minimum_there_is_no_price_and_clients_open_nothing(
    mode_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = TrainingConfig(**PLAN | {"minimum_survivors": 5}, **noise_and_unit(mode_name))
    run = training.start(config, tmp_path / "run")
    with pytest.raises(dp.InputError, match="survivors is 4"):
        run._mode.event(4)
    seen = []

    def watched(agreement: Any, *more: Any, **options: Any) -> Any:
        seen.append(agreement.params)
        return run_bonawitz(agreement, *more, **options)

    monkeypatch.setattr("secagg.rounds.aggregation.run_bonawitz", watched)
    drop(monkeypatch, {0: Stage.MASK, 1: Stage.MASK})  # 4 are left, as many as rebuild a secret
    assert next(iter(run))["lost"]
    assert seen[0].minimum_survivors == 5 > seen[0].threshold


@pytest.mark.parametrize(
    ("mode_name", "changed", "words"),
    [
        ("distributed", {"bits": 8}, "bits 8.*take more bits"),
        ("client", {"bits": 8}, "bits 8.*take more bits"),
        ("client", {"bits": 4}, "4-bit lanes are too narrow"),
        ("distributed", {"delta": 1e-3}, "below 1/1437"),
        ("client", {"delta": 0.05}, "below 1/20"),
        ("distributed", {"delta": 1e-15}, "used up"),
        ("distributed", {"uncounted_shares": 13}, "uncounted_shares 13 .*minimum_survivors 13"),
        ("client", {"uncounted_shares": 0}, "uncounted_shares 0 "),
        ("client", {"minimum_survivors": 21}, "minimum_survivors 21"),
        ("distributed", {"local_steps": 2}, "local_steps 2"),
        ("distributed", {"protocol": "plain"}, "shows every client's vector"),
        ("client", {"protocol": "plain"}, "shows every client's vector"),
        ("distributed", {"sampling_rate": 0.0}, "sampling_rate 0"),
        ("client", {"client_sampling_rate": 0.0}, "client_sampling_rate 0"),
        ("distributed", {"client_sampling_rate": 0.5}, "client_sampling_rate 0.5"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused_by_name_before_there_is_a_run(
    mode_name: str, changed: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises((InputError, dp.InputError), match=words) as caught:
        training.start(TrainingConfig(**noise_and_unit(mode_name), **changed), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_width_is_blamed_on_the_budget_only_where_no_noise_is_enough() -> None:
    with pytest.raises(CalibrationError, match="raise one of the two"):
        mode(settings("client", epsilon=1e-3, delta=1e-14), federation(), linear(federation()))


@pytest.mark.parametrize(
    ("epsilon", "rate"), [(1.0, 2.83), (2.0, 4.0), (4.0, 5.66), (8.0, 8.0), (50.0, 8.0)]
)
def test_local_training_takes_smaller_steps_under_more_noise(epsilon: float, rate: float) -> None:
    config = TrainingConfig(noise="local", epsilon=epsilon)
    assert (config.rounds, config.clip, config.learning_rate) == (40, 0.5, rate)
    assert TrainingConfig(noise="local", epsilon=epsilon, learning_rate=3.0).learning_rate == 3.0
    assert TrainingConfig(epsilon=epsilon).learning_rate == 32.0


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, math.nan])
def test_an_epsilon_out_of_range_is_refused_before_a_step_size_is_made_of_it(
    epsilon: float,
) -> None:
    with pytest.raises(InputError, match="epsilon"):
        TrainingConfig(noise="local", epsilon=epsilon)
