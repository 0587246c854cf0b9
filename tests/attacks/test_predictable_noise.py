"""Noise of a generator whose state is linear in its outputs: solved for from one released step.

torch's generator on a CPU is the Mersenne Twister, all of whose bits follow one linear recurrence
of 135 terms over GF(2) [MN98], whatever its state was seeded from. Its float64 normals are made by
Box and Muller's formula, which can be inverted: one step of DP-SGD whose batch was empty publishes
its noise, so the leading bits of the generator's uniforms. That they keep the recurrence shows that
the batch was empty; continued, they give the noise of the next step, and what is left of that
step is the gradient of the examples in it. All without side knowledge, at any epsilon.

[MN98]: Matsumoto, Nishimura, Mersenne Twister, ACM TOMACS 8(1).
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import dp.sgd
from dp.sgd import LocalDpSgd

INPUTS, CLASSES, EXAMPLES = 784, 64, 20
ENTRIES = INPUTS * CLASSES  # 50,176 draws a step, of blocks of 16 as torch makes them
BITS = 14  # leading bits of a uniform that a float32 of the released parameters tells
DEGREE = 19937


def taps() -> np.ndarray:
    """Exponents of the recurrence's polynomial, by its formula [MN98, appendix A.1]."""
    n, m, r, a = 624, 397, 31, 0x9908B0DF

    def above(p: int) -> int:  # times t^n + t^m
        return p << n ^ p << m

    def below(p: int) -> int:  # times t^(n-1) + t^(m-1)
        return p << n - 1 ^ p << m - 1

    powers = [1]
    for _ in range(r):
        powers.append(below(powers[-1]))
    whole = above(powers[r])
    for i in range(r):
        if a >> i & 1:
            whole ^= above(powers[r - 1 - i])
    whole ^= a >> r & 1
    return np.array([i for i in range(DEGREE + 1) if whole >> i & 1])


class Twister:
    """The old noise, kept here alone: float64 normals of a generator with all its state random."""

    def __init__(self, deviation: float) -> None:
        self._deviation = deviation
        self._generator = torch.Generator()
        state = self._generator.get_state()
        words = np.random.default_rng(6).bytes(4 * 624)  # a test that is the same in every run
        place = state[24 : 24 + 8 * 624].view(624, 8)
        place[:, :4] = torch.frombuffer(bytearray(words), dtype=torch.uint8).view(624, 4)
        self._generator.set_state(state)

    error = 0.0

    def sample(self, count: int, *, entropy: object) -> np.ndarray:
        drawn = torch.normal(
            0.0, self._deviation, (count,), generator=self._generator, dtype=torch.float64
        )
        return drawn.round().to(torch.int64).numpy()


@pytest.fixture(params=["twister", "cipher"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Noised sums of two steps as their releases tell them, over the deviation of the noise.

    And the gradient of example 12, which is the batch of the second; the first batch is empty.
    """
    if request.param == "twister":
        monkeypatch.setattr(dp.sgd, "BinnedGaussianSampler", Twister)
    batches = iter([[], [12]])
    monkeypatch.setattr(dp.sgd, "coins", lambda *_, **__: next(batches))
    generator = torch.Generator().manual_seed(1)
    features = torch.rand(EXAMPLES, INPUTS, generator=generator)
    labels = torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)

    def losses(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs, targets, reduction="none")

    model = nn.Linear(INPUTS, CLASSES, bias=False)
    client = LocalDpSgd(
        model,
        features,
        labels,
        losses,
        learning_rate=1.0,
        clip=1.0,
        noise_multiplier=1.0,
        sampling_rate=1 / EXAMPLES,  # the divisor q N is 1
    )
    first = client.run(torch.zeros(ENTRIES), 1)
    second = client.run(first, 1)
    outputs = (features[12:13] @ first.view(CLASSES, INPUTS).T).softmax(1)
    outputs[0, labels[12]] -= 1
    gradient = (outputs[0, :, None] * features[12]).flatten().double()
    gradient /= max(1.0, float(gradient.norm()))
    return [(-first).double().numpy(), (first.double() - second).numpy(), gradient.numpy()]


def uniforms(noise: np.ndarray) -> np.ndarray:
    """Box and Muller's formula, inverted: in the order in which torch drew them."""
    cosine, sine = noise.reshape(-1, 2, 8).transpose(1, 0, 2)
    radius = -np.expm1(-(cosine**2 + sine**2) / 2)
    angle = np.arctan2(sine, cosine) / math.tau % 1.0
    return np.stack([radius, angle], axis=1).reshape(-1)


def normals(uniform: np.ndarray) -> np.ndarray:
    radius, angle = uniform.reshape(-1, 2, 8).transpose(1, 0, 2)
    length, turn = np.sqrt(-2 * np.log1p(-radius)), math.tau * angle
    return np.stack([length * np.cos(turn), length * np.sin(turn)], axis=1).reshape(-1)


def test_noise_that_can_be_predicted(steps: Any, request: pytest.FixtureRequest) -> None:
    first, second, gradient = steps
    terms = taps()
    assert (len(terms), terms[-1]) == (135, DEGREE)
    bits = (uniforms(first) * 2**BITS).astype(np.int64)

    checks = len(bits) - DEGREE
    contradicted = np.bitwise_xor.reduce([bits[t : t + checks] for t in terms]) >> BITS - 1
    share = np.mean(contradicted)  # of the equations about leading bits

    # Every bit goes on by the same recurrence. The lower ones are now and then known wrong.
    known = np.concatenate([bits, np.zeros(ENTRIES, np.int64)])
    longest = DEGREE - terms[-2]  # as many at once
    for start in range(ENTRIES, len(known), longest):
        stop = min(start + longest, len(known))
        parts = [known[start - DEGREE + t : stop - DEGREE + t] for t in terms[:-1]]
        known[start:stop] = np.bitwise_xor.reduce(parts)
    predicted = normals((known[ENTRIES:] + 0.5) / 2**BITS)

    left = second - predicted
    likeness = np.corrcoef(predicted, second)[0, 1]
    if "cipher" in request.node.name:
        assert 0.48 < share < 0.52
        assert abs(likeness) < 6 / math.sqrt(ENTRIES)
        return
    assert share == 0
    assert likeness > 0.9999
    assert np.linalg.norm(second) > 200
    assert np.linalg.norm(left) < 2
    assert float(left @ gradient) / float(gradient @ gradient) == pytest.approx(1.0, abs=0.05)
