"""One step of DP-SGD at a client, beside Opacus alone.

A small convolutional net on 2,000 images, about a hundred of them in a Poisson batch. Opacus
alone is ``make_private`` and its optimizer, on batches taken straight from memory, which is
quicker than its data loader; its noise is float32 from torch's generator, as it comes.

Ours stands on the same hooks: ``local`` noises in float64 and refuses what is not finite;
``sums`` stops at the clipped sum, and ``noised`` makes words of it that hold a share of Skellam
noise, ready to be masked. All on one thread.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

if find_spec("opacus") is None:
    pytest.skip("no Opacus to compare with: pip install '.[bench]'", allow_module_level=True)

import torch
from opacus import PrivacyEngine
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from dp.noise.mechanisms import DistributedNoise
from dp.sgd import ClippedSums, LocalDpSgd
from secagg.bench.measure import Interleaved, Work
from secagg.vectors.layout import Layout, NoisyIntegers, Segment
from secagg.vectors.vector import flatten

Measure = Callable[..., Interleaved]

EXAMPLES, RATE = 2000, 0.05
CLIP, NOISE, LEARNING_RATE = 1.0, 1.0, 0.1
CLIENTS = 20
ROUNDS = 15


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def images() -> tuple[Tensor, Tensor]:
    seeded = torch.Generator().manual_seed(7)
    return (
        torch.randn(EXAMPLES, 1, 28, 28, generator=seeded),
        torch.randint(10, (EXAMPLES,), generator=seeded),
    )


def losses(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="none")


def opacus() -> Work:
    inputs, labels = images()
    model = net()
    model, optimizer, _ = PrivacyEngine(accountant="rdp").make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=LEARNING_RATE),
        data_loader=DataLoader(TensorDataset(inputs, labels), batch_size=int(RATE * EXAMPLES)),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
    )
    sampler = UniformWithReplacementSampler(num_samples=EXAMPLES, sample_rate=RATE)

    def step() -> None:
        batch = next(iter(sampler))
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()

    return step


def local() -> Work:
    model = net()
    client = LocalDpSgd(
        model,
        *images(),
        losses,
        learning_rate=LEARNING_RATE,
        clip=CLIP,
        noise_multiplier=NOISE,
        sampling_rate=RATE,
    )
    start = flatten(model).clone()
    return lambda: client.run(start, 1)


def sums(*, noised: bool) -> tuple[Work, int]:
    model = net()
    client = ClippedSums(model, *images(), losses, clip=CLIP, sampling_rate=RATE)
    start = flatten(model).clone()
    mechanism = DistributedNoise(
        entries=client.parameter_count,
        clip=CLIP,
        noise_multiplier=NOISE,
        clients=CLIENTS,
        minimum_survivors=CLIENTS * 4 // 5,
        bits=20,
    )
    segment = Segment(
        name="update", entries=mechanism.size, codec=NoisyIntegers(bits=mechanism.bits)
    )
    layout = Layout(segments=(segment,), clients=CLIENTS)
    if not noised:
        return lambda: client.sum(start), 0

    def words() -> object:
        summed = client.sum(start).numpy()
        return layout.encode({"update": mechanism.encode(summed, seed=bytes(16))})

    return words, 8 * layout.words


@pytest.mark.parametrize("kind", ["local", "sums", "noised"])
def test_a_step_beside_opacus_alone(interleaved: Measure, kind: str) -> None:
    ours, size = (local(), 0) if kind == "local" else sums(noised=kind == "noised")
    found = interleaved({kind: ours, "opacus": opacus()}, kind, sizes={"up": size}, rounds=ROUNDS)
    assert found.median("opacus") > 0
