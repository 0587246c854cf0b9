"""Mistakes that others made with differential privacy, each shown to matter and not to happen.

Where a rule of ours prevents one, the test also takes the rule away and succeeds.
Mistakes of accounting alone are in tests/dp: a new accountant a round, shuffled batches as
Poisson, rounding left out of the price, amplification against the server that picks.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import nn
from torch.nn import functional

import dp
from dp.accounting.events import Unit
from dp.errors import UnsoundModel
from dp.ledger.ledger import Ledger
from dp.noise import mechanisms
from dp.noise.mechanisms import DistributedNoise
from dp.sgd import ClippedSums
from secagg.errors import InputError
from secagg.rounds.in_memory import Outcome, run_plain
from secagg.stage import Stage
from secagg.training import loop as training
from secagg.training import modes
from secagg.training.data import Examples, Federation
from secagg.training.modes import mode
from secagg.training.settings import TrainingConfig, noise_and_unit
from secagg.vectors.layout import NoisyIntegers, Segment
from secagg.vectors.vector import flatten

SEED = bytes(range(32))
NOISED = pytest.mark.parametrize("mode_name", ["distributed", "client"])
SMALL = {"clients": 6, "rounds": 3, "minimum_survivors": 4, "delta": 1e-4, "dropout": 0.0}


def federation(seed: int = 1, clients: int = 6, each: int = 8) -> Federation:
    generator = np.random.default_rng(seed)
    parts = [
        Examples(
            features=generator.normal(size=(each, 3)).astype(np.float32),
            labels=generator.integers(0, 2, each),
        )
        for _ in range(clients)
    ]
    evaluation = Examples(features=np.ones((4, 3), np.float32), labels=np.arange(4) % 2)
    return Federation(clients=tuple(parts), evaluation=evaluation, classes=2)


def chosen(mode_name: str, data: Federation | None = None, **more: Any) -> Any:
    config = TrainingConfig(**SMALL | noise_and_unit(mode_name) | more)
    torch.manual_seed(0)
    return mode(config, data or federation(), nn.Linear(3, 2))


def losses(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


class Silent:
    error = 0.0

    def sample(self, count: int, *, entropy: object) -> np.ndarray:
        return np.zeros(count, np.int64)


# Noise shares lost to dropouts


def deviation_against(plan: DistributedNoise, survivors: int, known: int) -> float:
    """Of the noise that is left for who knows some of the survivors' shares, over C."""
    vector = np.zeros(plan.entries)
    total = sum(plan.encode(vector, seed=SEED) for _ in range(survivors - known))
    return float(np.std(plan.decode(total, seed=SEED)))


def test_noise_shares_lost_to_dropouts() -> None:
    wanted: dict[str, Any] = {"entries": 20_000, "clip": 1.0, "noise_multiplier": 2.0, "bits": 21}
    sampled = 6 / math.sqrt(2 * 20_000)  # six deviations of a deviation of so many draws
    kept = DistributedNoise(**wanted, clients=20, minimum_survivors=12, uncounted_shares=2)
    assert deviation_against(kept, 12, known=2) > 2.0 * (1 - sampled)
    with pytest.raises(dp.InputError, match="survivors is 11"):
        kept.event(survivors=11)
    # The rule removed: shares as if nobody dropped out or talked, and 12 survive.
    naive = DistributedNoise(**wanted, clients=20, minimum_survivors=20, uncounted_shares=1)
    assert deviation_against(naive, 12, known=2) < 2.0 * math.sqrt(10 / 19) * (1 + sampled)


# Weighting by the number of examples after the clip


def test_weighting_after_the_clip() -> None:
    data, weight = federation(), 8
    run = chosen("client", data)
    plan = run.mechanism
    with pytest.raises(InputError, match="weight"):
        replace(run.layout.segments[0], weighted=True)
    # The rule removed: the clipped vector times its weight is longer than what is priced.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mechanisms, "_sampler", lambda noise, variance: Silent())
        one = plan.encode(np.ones(plan.entries), seed=SEED)
    assert np.linalg.norm(one) <= plan.l2_sensitivity < np.linalg.norm(weight * one)
    assert isinstance(Segment(name="update", entries=1, codec=NoisyIntegers(bits=21)), Segment)


# The same seed for the noise of two clients, or of two runs


@NOISED
def test_the_same_seed_for_noise(mode_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    same = federation().clients[0]
    data = Federation(clients=(same,) * 6, evaluation=same, classes=2)
    start = torch.zeros(8)

    def noise(client: int) -> np.ndarray:
        run = chosen(mode_name, data, seed=7, bits=32)  # rounding to a lane of 21 would differ
        return run.layout.decode(run.words(client, start, SEED))["update"]

    def alike(one: np.ndarray, other: np.ndarray) -> bool:
        spread = chosen(mode_name, data, bits=32).mechanism.share_variance
        return bool(np.mean((one - other).astype(float) ** 2) < 0.01 * spread)

    assert not alike(noise(0), noise(1))
    assert not alike(noise(0), noise(0))
    # The rule removed: noise from a generator that the run's seed starts.
    drawn = mechanisms._sampler("skellam", 1e6)

    class Seeded:
        error = 0.0

        def sample(self, count: int, *, entropy: object) -> np.ndarray:
            return drawn.sample(count, entropy=lambda size: bytes([7] * size))

    monkeypatch.setattr(mechanisms, "_sampler", lambda noise, variance: Seeded())
    assert alike(noise(0), noise(1))


# NaN passing the clip


@NOISED
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_passing_the_clip(mode_name: str, bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms, "_sampler", lambda noise, variance: Silent())
    plan = chosen(mode_name).mechanism
    assert not plan.encode(np.full(plan.entries, bad), seed=SEED).any()
    # The rule removed: a comparison with NaN is false, so nothing is scaled down.
    vector = np.full(8, math.nan)
    norm = float(np.linalg.norm(vector))
    clipped = vector * (1 / norm) if norm > 1 else vector
    assert not np.linalg.norm(clipped) <= 1


# A failure that is seen, and that depends on an example


@pytest.mark.parametrize("mode_name", ["local", "distributed", "client"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_example_that_overflows_is_neither_seen_nor_refunded(
    mode_name: str, bad: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever chooses the model chooses for whose example it does: one bit a question, for ever."""
    seen = {}
    for name in ("absent", "present"):
        data = federation()
        if name == "present":
            data.clients[3].features[2, 1] = bad
        monkeypatch.setattr(training, "_federation", lambda config, data=data: data)
        config = TrainingConfig(**SMALL, **noise_and_unit(mode_name))
        run = training.start(config, tmp_path / name)
        record = next(iter(run))
        seen[name] = (
            {field: record[field] for field in ("survivors", "lost", "dropped", "epsilon")},
            run._books._ledger.epsilons("rdp"),
            bool(flatten(run.model).isfinite().all()),
        )
    assert seen["absent"] == seen["present"]
    assert len(set(seen["absent"][1].values())) == 1
    assert seen["absent"][0]["epsilon"] > 0


def test_a_model_that_is_not_finite_is_refused_before_anybody_is_charged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "_federation", lambda config: federation())
    run = training.start(TrainingConfig(**SMALL), tmp_path / "run")
    with torch.no_grad():
        run.model.bias[0] = math.inf
    with pytest.raises(InputError, match="not finite"):
        next(iter(run))
    assert not list(run._books._ledger.reservations())


def test_a_client_whose_coin_says_no_does_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or when its answer comes would show the coin, and amplification by it were void."""
    run, worked = chosen("client", client_sampling_rate=0.5), []
    for number, client in enumerate(run._clients):
        inner = client.update
        client.update = lambda start, n=number, inner=inner: worked.append(n) or inner(start)
    for fell in (True, False):
        monkeypatch.setattr(modes, "_coin", lambda rate, fell=fell: fell)
        run.words(2, torch.zeros(8), SEED)
    assert worked == [2, 2]


# Refunds for rounds that were aborted after masked data left


@NOISED
def test_refund_after_masked_data_left(
    mode_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server that never lets a round end sees noised vectors for ever, if that is free."""
    data = federation()
    monkeypatch.setattr(training, "_federation", lambda config: data)
    monkeypatch.setattr(
        training,
        "simulated_dropouts",
        lambda *_, **__: dict.fromkeys(range(3), Stage.MASK),
    )
    config = TrainingConfig(**SMALL, **noise_and_unit(mode_name))

    def lost_rounds(name: str) -> tuple[int, float]:
        run = training.start(config, tmp_path / name)
        # As if the plan had no end: the budget alone stops it.
        object.__setattr__(run.config, "rounds", 12)
        lost = sum(record["lost"] for record in run)
        return lost, run._books.epsilon()

    lost, epsilon = lost_rounds("kept")
    assert lost == config.rounds
    assert 0.99 * config.epsilon < epsilon <= config.epsilon

    def refund(self: Any, number: int, attempt: int, clients: Any, *_: Any) -> None:
        self._ledger.abort(number, [f"client-{c}" for c in clients], attempt=attempt)

    monkeypatch.setattr(training.Books, "settle", refund)
    assert lost_rounds("refunded") == (12, 0.0)


# Exact counts and losses beside the vector

MEASURED = ("seconds", "milliseconds", "ledger")


class Chatty(modes.Distributed):
    """The rule removed: the clients' mean loss goes into the public record."""

    def brings(self, client: int, start: torch.Tensor, seed: bytes) -> Any:
        inner = self._clients[client]
        with torch.no_grad():
            loss = losses(inner._inputs @ torch.eye(3)[:, :2], inner._targets).mean()
        self.state = {**self.state, "loss": float(loss)}
        return super().brings(client, start, seed)


def public_record(config: TrainingConfig, data: Federation, out: Path) -> Mapping[str, Any]:
    """All that a round makes public, when its sum says nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_federation", lambda config: data)

        def silent(agreement: Any, inputs: Any, gone: Any, **_: Any) -> Outcome:
            real = run_plain(agreement, inputs, gone)
            return replace(real, values=np.zeros_like(real.values))

        patch.setattr("secagg.rounds.aggregation.run_bonawitz", silent)
        record = next(iter(training.start(config, out)))
    return {name: value for name, value in record.items() if name not in MEASURED}


@NOISED
def test_counts_and_losses_beside_the_vector(mode_name: str, tmp_path: Path) -> None:
    config = TrainingConfig(**SMALL, **noise_and_unit(mode_name))
    records = [public_record(config, federation(s), tmp_path / str(s)) for s in (1, 2)]
    assert records[0] == records[1]


def test_a_loss_beside_the_vector_would_be_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(modes, "Distributed", Chatty)
    config = TrainingConfig(**SMALL)
    records = [public_record(config, federation(s), tmp_path / str(s)) for s in (1, 2)]
    assert records[0] != records[1]


# An example's epsilon printed as a client's


def test_an_epsilon_names_whom_it_hides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = federation()
    monkeypatch.setattr(training, "_federation", lambda config: data)
    for mode_name, unit in (("distributed", "example"), ("client", "client")):
        config = TrainingConfig(**SMALL, **noise_and_unit(mode_name))
        run = training.start(config, tmp_path / mode_name)
        next(iter(run))
        final = run.finish()
        assert any(f"each {unit}: epsilon" in line for line in run.closing_lines(final))
        with Ledger.open(tmp_path / mode_name / "ledger.sqlite") as ledger:
            assert {event.unit for event in ledger.spent("client-0")} == {Unit(unit)}
    # The mistake: a client has 8 examples, and its epsilon is not that of one of them.
    plan = chosen("distributed", data).mechanism
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mechanisms, "_sampler", lambda noise, variance: Silent())
        whole_client = plan.encode(np.full(plan.entries, 1e3), seed=SEED)
    assert np.linalg.norm(whole_client) > 4 * plan.l2_sensitivity


# Delta of one over the number of units


@pytest.mark.parametrize(
    ("mode_name", "units"), [("distributed", 48), ("client", 6), ("local", 48)]
)
def test_delta_of_one_over_n(
    mode_name: str, units: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A mechanism that publishes one of N units whole keeps every epsilon at delta = 1/N."""
    data = federation()
    monkeypatch.setattr(training, "_federation", lambda config: data)
    settings = SMALL | {"delta": 1 / units} | noise_and_unit(mode_name)
    with pytest.raises(dp.InputError, match=f"below 1/{units} for {units} units"):
        training.start(TrainingConfig(**settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# The rate from who survived


@NOISED
def test_the_rate_is_fixed_whoever_survives(mode_name: str) -> None:
    name = "sampling_rate" if mode_name == "distributed" else "client_sampling_rate"
    run = chosen(mode_name, **{name: 0.5})
    assert {run.event(survivors).sampling.rate for survivors in (None, 4, 5, 6)} == {0.5}


# Models that mix or skip what is clipped


def clipped(model: nn.Module, **more: Any) -> ClippedSums:
    data = federation().clients[0]
    return ClippedSums(
        model,
        torch.from_numpy(data.features),
        torch.from_numpy(data.labels),
        more.pop("loss", losses),
        **{"clip": 0.01, "sampling_rate": 1.0} | more,
    )


def test_batch_norm() -> None:
    """It makes every example's output depend on the batch: one of them moves all gradients."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(UnsoundModel, match="BatchNorm"):
        clipped(model)
    torch.manual_seed(0)
    features = torch.randn(5, 3)
    together, alone = model(features)[0], model(torch.cat([features[:1], -features[1:]]))[0]
    assert not torch.allclose(together, alone, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_ghost_clipping_with_a_raw_loss() -> None:
    """What Opacus' ghost clipping trains on without its own loss and optimizer: unclipped."""
    torch.manual_seed(0)
    data, model = federation().clients[0], nn.Linear(3, 2)
    features, labels = torch.from_numpy(1e3 * data.features), torch.from_numpy(data.labels)
    ghost = GradSampleModuleFastGradientClipping(
        nn.Linear(3, 2), max_grad_norm=0.01, use_ghost_clipping=True, loss_reduction="sum"
    )
    functional.cross_entropy(ghost(features), labels, reduction="sum").backward()
    unclipped = torch.cat([p.grad.flatten() for p in ghost.parameters()]).norm()
    assert float(unclipped) > 0.01 * len(labels)
    ours = ClippedSums(model, features, labels, losses, clip=0.01, sampling_rate=1.0)
    assert float(ours.sum(flatten(model)).norm()) <= 0.01 * len(labels)
    with pytest.raises(UnsoundModel, match="one number an example"):
        clipped(model, loss=functional.cross_entropy)


def test_frozen_parameters() -> None:
    """They are neither in the norm nor in the sum: as many entries as are trained."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for parameter in model[0].parameters():
        parameter.requires_grad = False
    sums = clipped(model)
    assert sums.parameter_count == 10
    trained = torch.cat([p.detach().flatten() for p in model[1].parameters()])
    assert sums.sum(trained).shape == (10,)
    with pytest.raises(dp.InputError, match="shape"):
        sums.sum(torch.zeros(16 + 10))


# Batches and cohorts that are drawn again until they please


def test_empty_batches_and_cohorts_topped_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether somebody was there must not decide that a sum is taken, or who else is in it."""
    monkeypatch.setattr(mechanisms, "_sampler", lambda noise, variance: Silent())
    start = torch.zeros(8)
    run = chosen("distributed", sampling_rate=0.02)
    empty = [not run.layout.decode(run.words(0, start, SEED))["update"].any() for _ in range(300)]
    # (1 - .02)^8 = .851 of all batches; six deviations of 300.
    assert abs(np.mean(empty) - 0.98**8) < 6 * math.sqrt(0.851 * 0.149 / 300)

    tosses = []
    monkeypatch.setattr(modes, "_coin", lambda rate: tosses.append(rate) or False)
    run = chosen("client", client_sampling_rate=0.25)
    sums = run.layout.decode(np.sum([run.words(c, start, SEED) for c in range(6)], axis=0))
    assert tosses == [0.25] * 6
    assert not run.moved(sums, range(6), SEED).any()
