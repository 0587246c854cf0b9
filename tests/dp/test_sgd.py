import copy
import math
import multiprocessing
import pickle
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn import functional

import dp.sgd
from dp.accounting.accountant import epsilon_pld, epsilon_rdp
from dp.accounting.events import GaussianEvent, NeighboringRelation, PoissonSampling, Unit
from dp.errors import InputError, NonFiniteGradient, UnsoundModel
from dp.noise import BinnedGaussianSampler
from dp.sgd import ClippedSums, LocalDpSgd

LOSS = partial(functional.cross_entropy, reduction="none")
N = 40


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(5)
    return torch.rand(N, 6, generator=generator), torch.randint(3, (N,), generator=generator)


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


def vector(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.requires_grad])


def client(data, module=None, **more):
    arguments = {
        "learning_rate": 0.5,
        "clip": 1.0,
        "noise_multiplier": 1.1,
        "sampling_rate": 0.25,
        "loss": LOSS,
    } | more
    loss = arguments.pop("loss")
    return LocalDpSgd(module or model(), *data, loss, **arguments)


QUIET = {"noise_multiplier": 4e-5, "clip": 4.0, "sampling_rate": 1.0}


def test_without_noise_and_clip_a_step_is_the_plain_full_batch_step(data):
    plain = model()
    private = client(data, plain, **QUIET).run(vector(plain), 3)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(plain(data[0]), data[1]).backward()
        optimizer.step()
    torch.testing.assert_close(private, vector(plain), atol=1e-4, rtol=0)


def batches_of(trainer):
    """Watch the batches that a client draws."""
    seen, draw = [], trainer._batch

    def watched():
        seen.append(draw())
        return seen[-1]

    trainer._batch = watched
    return seen


def test_the_divisor_is_the_expected_batch_and_never_the_drawn_one(data):
    """Also with q N = 11.2, which Opacus' own engine would make 11."""
    plain = model()
    trainer = client(data, plain, **(QUIET | {"sampling_rate": 0.28}))
    seen = batches_of(trainer)
    start = vector(plain)
    moved = trainer.run(start, 1) - start
    losses = LOSS(plain(data[0][seen[0]]), data[1][seen[0]])
    (losses.sum() / (0.28 * N)).backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in plain.parameters()])
    torch.testing.assert_close(moved, -0.5 * gradient, atol=1e-4, rtol=0)
    assert len(seen[0]) != 0.28 * N


def test_no_example_moves_the_sum_by_more_than_the_clip(data):
    trainer = client(data, **(QUIET | {"clip": 1e-2}))
    start = torch.zeros(trainer.parameter_count)
    full = trainer.run(start, 1)
    fewer = tuple(part[1:] for part in data)
    rest = client(fewer, **(QUIET | {"clip": 1e-2})).run(start, 1)
    moved = (full - start) * N / 0.5 - (rest - start) * (N - 1) / 0.5
    assert 0.9e-2 < moved.norm() < 1.02e-2


def test_the_noise_has_the_deviation_that_the_event_says(data):
    big = (torch.zeros(N, 200), data[1])
    trainer = client(
        big,
        nn.Linear(200, 50, bias=False),
        clip=0.5,
        noise_multiplier=3.0,
        loss=lambda output, _: 0 * output.sum(dim=1),
    )
    start = torch.zeros(trainer.parameter_count)
    sums = (trainer.run(start, 1) - start) / 0.5 * (0.25 * N)
    assert sums.std().item() == pytest.approx(3.0 * 0.5, rel=0.05)
    assert abs(sums.mean().item()) < 0.1


class Silent:
    """Draws that are all zero."""

    def sample(self, count, *, entropy):
        return np.zeros(count, np.int64)


def integers(trainer, start):
    """What one step added up before its noise."""
    trainer._sampler = Silent()
    moved = trainer.run(start, 1) - start
    step = trainer._learning_rate * trainer._grid / (trainer._rate * len(trainer._inputs))
    return moved / -step


def double(module):
    return module.double()


def test_what_is_noised_are_integers_on_a_grid_much_finer_than_the_noise(data):
    """Noise in integers on a sum that is none would publish every entry's fraction."""
    for z, clip in ((1.1, 1.0), (0.7, 0.013), (30.0, 1e4), (1.0, 2.0**-7)):
        wide = (data[0].double(), data[1])
        more = {"clip": clip, "noise_multiplier": z, "learning_rate": 1.0, "sampling_rate": 1.0}
        trainer = client(wide, double(model()), **more)
        assert math.frexp(trainer._grid)[0] == 0.5
        assert 2.0**40 <= z * clip / trainer._grid < 2.0**41
        assert float(trainer._sampler.deviation) * trainer._grid == z * clip
        found = integers(trainer, torch.zeros(43, dtype=torch.float64))
        off = (found - found.round()).abs()
        assert off.max() <= 2.0**-50 * found.abs().max() + 1e-9
        assert found.abs().max() > 2**20


def test_one_example_moves_the_integers_by_at_most_the_clip(data):
    """No rounding, no order of a sum and no other example adds to that."""
    generator = torch.Generator().manual_seed(3)
    features = 1e4 * (1 + torch.rand(300, 6, generator=generator, dtype=torch.float64))
    labels = torch.zeros(300, dtype=torch.int64)
    more = {"clip": 0.01, "noise_multiplier": 1.0, "learning_rate": 1.0, "sampling_rate": 1.0}
    start = torch.zeros(21, dtype=torch.float64)
    full = client((features, labels), double(nn.Linear(6, 3)), **more)
    rest = client((features[1:], labels[1:]), double(nn.Linear(6, 3)), **more)
    moved = integers(full, start) - integers(rest, start)
    most = 0.01 / full._grid
    assert most * (1 - 2**-30) < moved.norm() <= most


def test_an_example_has_the_same_gradient_in_any_company():
    """To the last bit, also under parameters that were chosen to magnify one.

    Computed in one batch, the same examples differ, and by more than a clip of 1.
    """
    generator = torch.Generator().manual_seed(8)
    features = torch.rand(33, 500, generator=generator)
    labels = torch.zeros(33, dtype=torch.int64)
    module = nn.Linear(500, 30, bias=False)
    start = 1e6 * torch.randn(30 * 500, generator=generator)
    with torch.no_grad():
        module.weight.copy_(start.view(30, 500))
        together = [module(features[:n])[0] for n in range(1, 34)]
    assert any(not torch.equal(one, together[0]) for one in together)

    def gradients(n, place):
        trainer = sums((features, labels), module)
        trainer._batch = lambda: list(range(n))
        trainer._load(start)
        return list(trainer._clipped())[place]

    alone = gradients(1, 0)
    assert all(torch.equal(gradients(n, 0), alone) for n in (2, 7, 33))
    moved = torch.cat([features[5:6], features]), torch.zeros(34, dtype=torch.int64)
    trainer = sums(moved, module)
    trainer._load(start)
    found = list(trainer._clipped())
    assert torch.equal(found[0], found[6])


def test_no_generator_of_torch_is_left():
    source = Path(dp.sgd.__file__).read_text()
    # What a model draws for one example, such as a mask of Dropout, is no noise and no coin.
    source = re.sub(r"torch\.random\.fork_rng\(.*\n +torch\.manual_seed\(seed\)\n", "", source)
    assert not re.search(
        r"torch\.(normal|rand|manual_seed|Generator)|Generator\(|\.normal_", source
    )
    assert not re.search(r"[Ss]ampler\w*\(", source.replace("BinnedGaussianSampler(", ""))


def test_noise_and_batches_take_a_fresh_key_each(data):
    keys = []

    def entropy(size):
        assert size == 32
        keys.append(len(keys).to_bytes(32, "big"))
        return keys[-1]

    trainer = client(data, entropy=entropy)
    trainer.run(torch.zeros(43), 3)
    assert len(set(keys)) == len(keys) > 2 * 3  # and one for each example


def drawn(trainer, queue=None):
    seen = batches_of(trainer)
    found = trainer.run(torch.zeros(43), 4).tolist(), seen
    if queue:
        queue.put(found)
    return found


def forked(trainer):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=drawn, args=(trainer, queue))
    worker.start()
    found = queue.get(timeout=60)
    worker.join()
    return found


def unpickled(trainer):
    return pickle.loads(pickle.dumps(trainer))  # noqa: S301  # written a moment before


@pytest.mark.parametrize(
    "again",
    [forked, lambda t: drawn(copy.deepcopy(t)), lambda t: drawn(unpickled(t))],
    ids=["fork", "deepcopy", "pickle"],
)
def test_nothing_repeats_in_a_fork_a_copy_or_a_pickle(data, again):
    """A pool that forks a worker a round drew the same noise every round."""
    trainer = client(data)
    (one, batches), (other, theirs) = again(trainer), again(trainer)
    assert batches != theirs
    assert not np.isclose(one, other).any()


def test_two_runs_of_one_torch_seed_differ_in_noise_and_batches(data):
    ends, batches = [], []
    for _ in range(2):
        torch.manual_seed(0)
        trainer = client(data)
        batches.append(batches_of(trainer))
        ends.append(trainer.run(vector(model()), 8))
    assert batches[0] != batches[1]
    assert not torch.isclose(ends[0], ends[1]).any()


def test_the_history_grows_over_rounds_and_the_events_say_the_same(data):
    trainer = client(data)
    parameters = vector(model())
    for steps in (1, 2, 3):
        parameters = trainer.run(parameters, steps)
    assert trainer.history == ((1.1, 0.25, 6),)
    assert trainer.steps_taken == 6
    assert trainer.event(trainer.steps_taken) == GaussianEvent(
        noise_multiplier=1.1,
        sampling=PoissonSampling(rate=0.25),
        steps=6,
        unit=Unit.EXAMPLE,
        adjacency=NeighboringRelation.ADD_OR_REMOVE,
    )
    one, six = ({trainer.event(steps): 1} for steps in (1, 6))
    assert epsilon_rdp(six, 1e-5) > 1.5 * epsilon_rdp(one, 1e-5)


def test_the_history_survives_a_restart(data):
    trainer = client(data, steps_taken=29)
    trainer.run(vector(model()), 1)
    assert trainer.steps_taken == 30
    assert trainer.history == ((1.1, 0.25, 30),)


def test_nothing_but_the_history_passes_between_rounds(data):
    trainer = client(data, **QUIET)
    start = vector(model())
    first = trainer.run(start, 2)
    torch.testing.assert_close(trainer.run(start, 2), first, atol=1e-4, rtol=0)


def test_an_empty_batch_is_a_step_with_noise_and_the_divisor_unchanged(data):
    trainer = client(data, sampling_rate=2**-24, clip=1e-6)
    seen = batches_of(trainer)
    start = torch.zeros(trainer.parameter_count)
    first = trainer.run(start, 1)
    second = trainer.run(first, 1)
    assert seen == [[], []]
    assert trainer.steps_taken == 2
    assert (first != start).all()
    assert (second != first).all()


def test_coins_fall_at_the_rate_of_the_event(data, monkeypatch):
    trainer, rates = client(data, sampling_rate=0.3), []
    monkeypatch.setattr(dp.sgd, "coins", lambda n, rate, **_: rates.append((n, rate)) or [])
    trainer.run(torch.zeros(43), 1)
    assert rates == [(N, trainer.event(1).sampling.rate)] == [(N, 0.3)]


def test_every_example_is_drawn_by_its_own_coin(data):
    trainer = client(data)
    drawn = torch.zeros(N)
    sizes = []
    for _ in range(2000):
        batch = trainer._batch()
        sizes.append(len(batch))
        drawn[batch] += 1
    assert (drawn / 2000 - 0.25).abs().max() < 0.05
    assert torch.tensor(sizes).float().var().item() == pytest.approx(N * 0.25 * 0.75, rel=0.15)


def test_frozen_parameters_are_neither_moved_nor_noised_nor_returned(data):
    module = model()
    module[0].weight.requires_grad_(False)
    trainer = client(data, module)
    assert trainer.parameter_count == 4 + 12 + 3
    end = trainer.run(vector(module), 3)
    assert end.shape == (19,)
    assert (end != vector(module)).all()
    torch.testing.assert_close(trainer._model[0].weight, module[0].weight)


def test_the_model_that_was_handed_in_is_left_alone(data):
    module = model()
    before = copy.deepcopy(module.state_dict())
    start = vector(module)
    kept = start.clone()
    client(data, module).run(start, 2)
    client(data, module).run(start, 2)
    assert torch.equal(start, kept)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.SyncBatchNorm(4)])
def test_batch_norm_is_refused(data, layer):
    module = nn.Sequential(nn.Linear(6, 4), layer, nn.Linear(4, 3))
    with pytest.raises(UnsoundModel, match="BatchNorm"):
        client(data, module)


def test_a_model_with_nothing_to_train_is_refused(data):
    with pytest.raises(UnsoundModel, match="requires a gradient"):
        client(data, model().requires_grad_(False))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_that_mixes_the_examples_of_a_batch_is_refused(data, reduction):
    with pytest.raises(UnsoundModel, match="one number an example"):
        client(data, loss=partial(functional.cross_entropy, reduction=reduction))


def test_a_parameter_that_takes_no_part_is_refused(data):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, inputs):
            return self.used(inputs)

    module = Idle()
    with pytest.raises(UnsoundModel, match="freeze"):
        client(data, module)


def test_a_model_that_fails_is_refused_before_it_sees_data(data):
    with pytest.raises(UnsoundModel, match="fail on an example of zeros"):
        client(data, nn.Linear(7, 3))


class Fussy(nn.Linear):
    """Fails for some examples alone."""

    def forward(self, inputs):
        if (inputs > 1.5).any():
            raise RuntimeError("not this one")
        return super().forward(inputs)


def spoilt(data, place, bad):
    features, labels = data[0].clone(), data[1].clone()
    features[place] = bad
    return features, labels


def without(data, place):
    return tuple(torch.cat([part[:place], part[place + 1 :]]) for part in data)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 2.0])
def test_an_example_that_overflows_or_fails_adds_zeros(data, bad):
    module = Fussy(6, 3)
    start = vector(module)
    trainer = sums(spoilt(data, 7, bad), module)
    expected = sums(without(data, 7), module).sum(start)
    for left_out in (1, 2):
        assert torch.equal(trainer.sum(start), expected)
        assert trainer.left_out == left_out
    local = client(spoilt(data, 7, bad), module, learning_rate=1.0, sampling_rate=1.0)
    other = client(without(data, 7), module, learning_rate=1.0, sampling_rate=1.0)
    found, rest = integers(local, start) * local._grid, integers(other, start) * other._grid
    torch.testing.assert_close(found, rest, atol=1e-4, rtol=0)
    assert (local.left_out, other.left_out) == (1, 0)


def test_an_example_that_the_server_makes_overflow_is_not_seen():
    """Parameters under which only who has feature 0 has a gradient that is not finite.

    A refusal told who is there, whatever the noise, and cost nothing. Below is the rule removed.
    """
    features = torch.rand(20, 4)
    features[:, 0] = 0
    labels = torch.randint(0, 2, (20,))
    crafted = torch.zeros(10)
    crafted[0], crafted[4] = 3e38, -3e38
    neighbour = features.clone()
    neighbour[0, 0] = 2.0
    seen = {}
    for name, inputs in (("absent", features), ("present", neighbour)):
        one = sums((inputs, labels), nn.Linear(4, 2), sampling_rate=0.5)
        noised = client((inputs, labels), nn.Linear(4, 2), noise_multiplier=100.0)
        assert all(one.sum(crafted).isfinite().all() for _ in range(20))
        assert all(noised.run(crafted, 1).isfinite().all() for _ in range(20))
        assert noised.steps_taken == 20
        one._load(crafted)
        losses = LOSS(one._model(inputs), labels)
        seen[name] = bool(losses.isfinite().all())
        assert (one.left_out > 0) == (name == "present")
    assert seen == {"absent": True, "present": False}


def test_a_client_goes_on_after_an_example_that_overflowed(data):
    trainer = sums(spoilt(data, 30, math.nan))
    trainer.sum(vector(model()))
    trainer._inputs = data[0]
    expected = sums(data).sum(vector(model()))
    assert torch.equal(trainer.sum(vector(model())), expected)
    assert trainer.left_out == 1


def test_a_caller_that_wants_no_gradients_gets_them_all_the_same(data):
    with torch.no_grad():
        assert sums(data).sum(vector(model())).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_parameters_that_are_not_finite_are_refused(data, bad):
    with pytest.raises(NonFiniteGradient, match="parameters"):
        client(data).run(torch.full((43,), bad), 1)


def test_parameters_that_run_away_are_not_returned(data):
    """Refused from public numbers, before a step is taken: what came of one would be seen."""
    for more in ({"learning_rate": 1e38}, {"clip": 1e30, "learning_rate": 1e9}):
        trainer = client(data, **more)
        seen = batches_of(trainer)
        with pytest.raises(NonFiniteGradient, match="learning_rate"):
            trainer.run(torch.zeros(43), 1)
        assert (seen, trainer.steps_taken) == ([], 0)
    half = client(data, learning_rate=1e3)
    assert half.run(torch.zeros(43), 1).isfinite().all()
    with pytest.raises(NonFiniteGradient, match="learning_rate"):
        half.run(torch.zeros(43, dtype=torch.float16), 20)


@pytest.mark.parametrize(
    "vector", [torch.zeros(42), torch.zeros(1, 43), torch.zeros(43, dtype=torch.int64)]
)
def test_a_vector_of_another_shape_or_type_is_refused(data, vector):
    with pytest.raises(InputError, match="shape"):
        client(data).run(vector, 1)


@pytest.mark.parametrize("steps", [0, -1, 1.0, True])
def test_steps_are_checked(data, steps):
    with pytest.raises(InputError, match="steps"):
        client(data).run(torch.zeros(43), steps)


@pytest.mark.parametrize(
    "wrong",
    [
        {name: value}
        for name in ("learning_rate", "clip", "noise_multiplier", "sampling_rate")
        for value in (0, -1.0, math.nan, math.inf)
    ]
    + [{"sampling_rate": 1.5}, {"steps_taken": -1}, {"steps_taken": 1.0}]
    + [{name: bad} for name in ("clip", "noise_multiplier") for bad in (1e31, 1e-31)]
    + [{name: np.float16(0.5)} for name in ("learning_rate", "clip", "noise_multiplier")],
)
def test_arguments_are_checked(data, wrong):
    with pytest.raises(InputError):
        client(data, **wrong)


def test_noise_too_small_for_the_integers_of_a_sum_is_refused_before_data_is_touched(data):
    """B C / g from 2^62 on: an int64 would wrap. B / z < 2^20 always holds, B / z > 2^21 never."""
    client(data, noise_multiplier=N * 2.0**-20)
    with pytest.raises(InputError, match=r"noise_multiplier.*too little for 40 examples"):
        client(data, noise_multiplier=N * 2.0**-22)


def test_a_full_sum_and_the_farthest_noise_stay_within_an_int64(data):
    trainer = client(data, noise_multiplier=N * 2.0**-20)
    noise = BinnedGaussianSampler(2.0**41)._table
    farthest = noise.count << noise.log_width
    assert N * trainer._clip / trainer._grid + farthest < 2**63


def test_data_must_be_there_and_match(data):
    with pytest.raises(InputError, match="tensors"):
        client((data[0].numpy(), data[1]))
    for wrong in ((data[0], data[1][1:]), (data[0][:0], data[1][:0])):
        with pytest.raises(InputError, match="inputs"):
            client(wrong)


def test_a_layer_that_opacus_has_no_rule_for_and_tied_weights_are_clipped_as_one(data):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, inputs):
            return self.second(self.first(inputs))[:, :3]

    module = Tied()
    more = {"clip": 1e-2, "noise_multiplier": 1e-5, "sampling_rate": 1.0}
    start = vector(module)
    one = tuple(part[:1] for part in data)
    moved = client(one, module, **more).run(start, 1) - start
    assert start.shape == (36 + 12,)
    assert moved.norm().item() == pytest.approx(0.5 * 1e-2, rel=0.01)


def test_our_epsilon_agrees_with_opacus_where_opacus_is_right(data):
    """Every difference has its reason.

    RDP: Opacus takes orders a tenth apart up to 10.9, then integers up to 63; ours are a
    quarter apart up to 9.75, then integers up to 256. PRV: near our PLD, plus .01 of error
    allowance. GDP: a limit for many small steps, which reports less than is lost.
    """
    from opacus.accountants import GaussianAccountant, PRVAccountant

    trainer = client(data, steps_taken=99)
    trainer.run(vector(model()), 1)
    composition = {trainer.event(100): 1}
    admitted, reported = epsilon_rdp(composition, 1e-5), epsilon_pld(composition, 1e-5)
    rdp = RDPAccountant()
    rdp.history = list(trainer.history)
    theirs = rdp.get_epsilon(1e-5)
    assert admitted == pytest.approx(theirs, rel=2e-3)
    with pytest.warns(UserWarning, match="underestimate"):
        gdp = GaussianAccountant()
    prv = PRVAccountant()
    prv.history = gdp.history = list(trainer.history)
    assert reported < prv.get_epsilon(1e-5) < reported + 0.03
    assert gdp.get_epsilon(1e-5) < reported


def sums(data, module=None, **more):
    arguments = {"clip": 1.0, "sampling_rate": 1.0} | more
    return ClippedSums(module or model(), *data, LOSS, **arguments)


def test_a_clipped_sum_is_of_gradients_clipped_one_by_one(data):
    module = model()
    found = sums(data, module, clip=0.3).sum(vector(module))
    expected = torch.zeros_like(found)
    for features, label in zip(*data, strict=True):
        module.zero_grad()
        LOSS(module(features[None]), label[None]).sum().backward()
        own = torch.cat([p.grad.reshape(-1) for p in module.parameters()]).double()
        expected += own * min(1.0, 0.3 / own.norm().item())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_one_example_moves_a_sum_of_many_by_no_more_than_the_clip():
    """By a double's rounding at most; summed in float32 it would be a part in 10^4."""
    generator = torch.Generator().manual_seed(3)
    features = 1 + torch.rand(4000, 6, generator=generator)
    labels = torch.zeros(4000, dtype=torch.int64)
    module = nn.Linear(6, 3)
    start, far = vector(module), 100.0
    full = sums((far * features, labels), module, clip=0.01)
    rest = sums((far * features[1:], labels[1:]), module, clip=0.01)
    moved = (full.sum(start) - rest.sum(start)).norm().item()
    assert 0.0099 < moved <= 0.01


def test_a_clipped_sum_is_what_opacus_sums(data):
    module = GradSampleModule(model(), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=0.3,
        expected_batch_size=N,
    )
    LOSS(module(data[0]), data[1]).sum().backward()
    optimizer.step()
    theirs = torch.cat([p.summed_grad.reshape(-1) for p in module.parameters()])
    ours = sums(data, clip=0.3).sum(vector(model()))
    torch.testing.assert_close(ours.float(), theirs, atol=1e-5, rtol=0)


def test_an_empty_batch_sums_to_zeros(data):
    trainer = sums(data, sampling_rate=2**-24)
    assert not trainer.sum(vector(model())).any()


def test_a_clipped_sum_says_how_it_was_sampled(data):
    trainer = sums(data, sampling_rate=0.28)
    assert trainer.sampling == PoissonSampling(rate=0.28)
    assert trainer.expected_batch == pytest.approx(0.28 * N)


class Remembering(nn.Module):
    """Scales by a mean over the examples that it was given so far, kept where ``kind`` says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.child = kind, nn.Identity()
        self.rebound: object = torch.zeros(4)
        self.listed: list[torch.Tensor] = []
        self.nested = {"mean": [torch.zeros(4)]}
        self.also = self.nested["mean"]  # one object under two names
        self.known = [self.child]  # a module, which stays the one that it is
        self.register_buffer("mean", torch.zeros(4))
        self.slow = nn.Parameter(torch.zeros(4), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        seen = inputs.detach().mean(0)
        assert self.known[0] is self.child
        assert self.also is self.nested["mean"]
        match self.kind:
            case "buffer":
                self.mean = mean = self.mean + seen
            case "buffer in place":
                mean = self.mean.add_(seen)
            case "attribute":
                self.rebound = mean = self.rebound + seen
            case "attribute in place":
                mean = self.rebound.add_(seen)
            case "new attribute":
                self.made = mean = getattr(self, "made", 0) + seen
            case "list":
                self.listed.append(seen)
                mean = sum(self.listed)
            case "nested":
                mean = self.also[0].add_(seen)
            case "submodule":
                mean = getattr(self.child, "kept", 0) + seen
                self.child.kept = mean
            case "new submodule":
                mean = self.late.kept + seen if hasattr(self, "late") else seen
                self.late = nn.Identity()
                self.late.kept = mean
            case "hook":
                mean = seen + len(self.child._forward_hooks)
                self.child.register_forward_hook(lambda *_: None)
            case "parameter":  # an example of zeros shows nothing of it
                mean = self.slow.add_(seen).clone()
            case "shape of a parameter":
                mean = self.slow.sum() + seen
                if inputs.any():
                    self.slow.data = torch.cat([self.slow.data, seen])
            case "graph of a parameter":
                mean = seen + self.slow.detach()
                if inputs.any():
                    self.slow.mul_(torch.ones(4, requires_grad=True)).detach().add_(seen)
            case "attribute of a parameter":
                self.slow.kept = mean = getattr(self.slow, "kept", 0) + seen
            case "gradient of a parameter":
                mean = seen if self.slow.grad is None else self.slow.grad + seen
                self.slow.grad = mean
            case "hook of a parameter":
                mean = seen + len(self.slow._backward_hooks or ())
                self.slow.requires_grad_().register_hook(lambda gradient: gradient)
        return self.child(inputs * mean)


KINDS = (
    *("buffer", "buffer in place", "attribute", "attribute in place", "new attribute"),
    *("list", "nested", "submodule", "new submodule", "hook", "parameter", "shape of a parameter"),
    *("attribute of a parameter", "gradient of a parameter", "hook of a parameter"),
    "graph of a parameter",
)


def squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().sum(1)


def moved_by_one_example(module: nn.Module, kind: str) -> float:
    """The L2 norm by which the first example moves the sum, where 1 is the clip."""
    torch.manual_seed(0)
    features, labels = torch.randn(30, 4), torch.randn(30, 2)
    hidden = nn.Linear(4, 8)
    model = {
        "dropout": nn.Sequential(hidden, nn.Dropout(0.5), nn.Linear(8, 2)),
        "spectral norm": nn.Sequential(nn.utils.spectral_norm(hidden), nn.Linear(8, 2)),
    }.get(kind) or nn.Sequential(module, nn.Linear(4, 2))

    def total(first: int) -> torch.Tensor:
        sums = ClippedSums(
            model,
            features[first:],
            labels[first:],
            squares,
            clip=1.0,
            sampling_rate=1.0,
            entropy=lambda count: bytes(count),  # so that every example has one seed
        )
        return sums.sum(torch.ones(sums.parameter_count))

    return float((total(0) - total(1)).norm())


@pytest.mark.parametrize("kind", ["dropout", "spectral norm", *KINDS])
def test_no_example_is_computed_from_what_others_left_behind(kind: str) -> None:
    assert moved_by_one_example(Remembering(kind), kind) <= 1.0


def test_no_sum_is_computed_from_what_the_one_before_left_in_a_parameter() -> None:
    module = nn.Sequential(Remembering("parameter"), nn.Linear(4, 2))
    features, labels = torch.randn(5, 4), torch.randn(5, 2)
    sums = ClippedSums(module, features, labels, squares, clip=1.0, sampling_rate=1.0)
    at = torch.ones(sums.parameter_count)
    assert torch.equal(sums.sum(at), sums.sum(at))


@pytest.mark.parametrize("kind", KINDS)
def test_without_putting_back_one_example_moves_the_sum_beyond_the_clip(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dp.sgd._Held, "put_back", lambda _: None)
    assert moved_by_one_example(Remembering(kind), kind) > 1.0


@pytest.mark.parametrize("way", ["in place", "data", "frozen"])
def test_a_model_that_changes_its_parameters_is_refused_by_their_name(data, way):
    class Moving(nn.Linear):
        def forward(self, inputs):
            found = super().forward(inputs)
            with torch.no_grad():
                if way == "data":
                    self.weight.data += 1
                elif way == "frozen":  # as a slow copy of a network is kept
                    self.bias.mul_(0.9)
                else:
                    self.weight.add_(1)
            return found

    module = Moving(6, 3)
    module.bias.requires_grad_(way != "frozen")
    name = "bias" if way == "frozen" else "weight"
    with pytest.raises(UnsoundModel, match=f"changes its parameter '{name}'"):
        client(data, module)


class Leaving(nn.Linear):
    """Leaves, by ``way``, for some examples alone."""

    way: type[BaseException] = SystemExit

    def forward(self, inputs):
        if (inputs > 1.5).any():
            raise self.way
        return super().forward(inputs)


@pytest.mark.parametrize("way", [SystemExit, GeneratorExit, BaseException, MemoryError])
def test_a_model_that_leaves_on_an_example_adds_zeros_and_does_not_end_the_process(data, way):
    module = Leaving(6, 3)
    module.way = way
    start = vector(module)
    trainer = sums(spoilt(data, 7, 2.0), module)
    assert torch.equal(trainer.sum(start), sums(without(data, 7), module).sum(start))
    assert trainer.left_out == 1
    local = client(spoilt(data, 7, 2.0), module, sampling_rate=1.0)
    local.run(start, 2)
    assert (local.left_out, local.steps_taken) == (2, 2)


def test_a_model_that_leaves_on_an_example_of_zeros_is_refused(data):
    class Left(nn.Linear):
        def forward(self, inputs):
            raise SystemExit(3)

    with pytest.raises(UnsoundModel, match="fail on an example of zeros: 3"):
        client(data, Left(6, 3))


def test_a_person_ends_a_run_whose_step_stays_counted(data):
    module = Leaving(6, 3)
    module.way = KeyboardInterrupt
    trainer = client(spoilt(data, 7, 2.0), module, sampling_rate=1.0)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(vector(module), 3)
    assert (trainer.steps_taken, trainer.left_out) == (1, 0)
    trainer._inputs = data[0]
    trainer.run(vector(module), 1)
    assert trainer.steps_taken == 2
