"""Whole rounds under CKKS, and the error of what they open.

The round: 10**6 entries, 10 clients, under a threshold key among 5 of them or one shared key,
all parties in turn on this machine, each party's chunks on ``WORKERS`` processes and on one.
``extra_info`` holds the seconds of each stage.

The error: the largest of a mean of 100 clients over ``MEASURED`` entries, beside the largest
that ``Params`` expects over 10**6. The noise is that of a session of 10**6 entries, which
opens 245 ciphertexts.
"""

import math
import multiprocessing
from collections.abc import Iterator
from functools import reduce
from multiprocessing.pool import Pool
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from protocols.ckks.keys import in_turn
from protocols.ckks.microsoft_seal import Key, PublicKey, context
from protocols.ckks.noise import gaussian
from protocols.ckks.params import Agreement, Model, Params, plan_parameters
from protocols.ckks.residues import Rows, add, pack_seeded, uniform, unpack_seeded
from protocols.entropy import system
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE
from secagg import Ckks, FixedPoint, Layout, Segment
from secagg.rounds.ckks import CKKS, FLOODING, HOLDERS, MODELS
from secagg.rounds.in_memory import run_ckks

ENTRIES = 10**6
CLIENTS = 10
WORKERS = 2
MANY = 100  # clients of the mean whose error is measured
MEASURED = 300_000  # entries
UNFLOODED, FLOODED = 2.0**-24, 2.0**-14  # of the range, at most


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with multiprocessing.get_context("spawn").Pool(WORKERS) as workers:
        workers.map(math.sqrt, range(WORKERS))  # they have started
        yield workers


@pytest.mark.parametrize("workers", [1, WORKERS])
@pytest.mark.parametrize("protocol", CKKS)
def test_a_round(benchmark: BenchmarkFixture, pool: Pool, protocol: str, workers: int) -> None:
    layout = Layout(
        segments=(Segment(name="update", entries=ENTRIES, codec=FixedPoint(clip=1.0)),),
        clients=CLIENTS,
    )
    vectors = np.random.default_rng(7).uniform(-1, 1, (CLIENTS, ENTRIES))

    settings = Ckks(model=MODELS[protocol], minimum_survivors=CLIENTS)

    def carry() -> Any:
        params = settings.params(layout, CLIENTS)
        agreement = Agreement(params=params, session=system(SESSION_SIZE), public_digest=bytes(32))
        chunks = pool.map if workers > 1 else in_turn
        return run_ckks(agreement, dict(enumerate(vectors)), chunks=chunks)

    pedantic: Any = benchmark.pedantic  # it comes without types
    outcome = pedantic(carry, rounds=3, warmup_rounds=1)
    assert np.abs(outcome.values - vectors.sum(axis=0)).max() < CLIENTS * FLOODED
    for stage, cost in outcome.costs.items():
        benchmark.extra_info[f"{stage}_clients_s"] = round(cost.client_seconds, 2)
        benchmark.extra_info[f"{stage}_server_s"] = round(cost.server_seconds, 2)
        benchmark.extra_info[f"{stage}_up_mb"] = round(cost.bytes_up / 1e6, 3)
        benchmark.extra_info[f"{stage}_down_mb"] = round(cost.bytes_down / 1e6, 3)


@pytest.mark.parametrize(
    ("model", "flooding", "bound"),
    [
        (Model.SHARED_KEY, None, UNFLOODED),
        (Model.SHARED_KEY, FLOODING, FLOODED),
        (Model.THRESHOLD, FLOODING, FLOODED),
    ],
)
def test_the_largest_error_of_a_mean(
    benchmark: BenchmarkFixture, model: Model, flooding: int | None, bound: float
) -> None:
    params = plan_parameters(
        model=model,
        clients=MANY,
        entries=ENTRIES,
        clip=1.0,
        precision=bound,
        flooding=flooding,
        holders=HOLDERS if model is Model.THRESHOLD else 0,
    )
    generator = np.random.default_rng(7)

    def measure() -> NDArray[np.float64]:
        return np.concatenate(
            [_error(params, generator) for _ in range(-(-MEASURED // params.ring.degree))]
        )

    pedantic: Any = benchmark.pedantic
    errors = pedantic(measure, rounds=1)
    largest = float(np.abs(errors).max())
    benchmark.extra_info.update(
        ring=f"{params.ring.degree}: {params.ring.prime_bits} + {params.ring.special_bits}",
        bytes_an_entry=round(params.vector_size / ENTRIES, 3),
        opened=params.opened,
        entries=len(errors),
        deviation_bits=round(math.log2(errors.std()), 2),
        expected_deviation_bits=round(math.log2(params.mean_stddev()), 2),
        largest_bits=round(math.log2(largest), 2),
        expected_largest_bits=round(math.log2(params.mean_error()), 2),
    )
    assert largest <= bound


def _error(params: Params, generator: np.random.Generator) -> NDArray[np.float64]:
    """Of one chunk of the mean of ``MANY`` clients, under keys of its own."""
    ring, made = params.ring, context(params.ring, params.scale)
    primes, parties = ring.primes, max(1, params.holders)
    keys = [Key(made, Secret(system(32)), b"bench") for _ in range(parties)]
    public = None
    if params.model is Model.THRESHOLD:
        common = uniform(system(32), b"bench", ring.degree, ring.key_primes)
        shares = (key.public_share(common) for key in keys)
        public = PublicKey(
            made, reduce(lambda one, other: add(one, other, ring.key_primes), shares), common
        )
    total: Rows = np.zeros((2, len(primes), ring.degree), np.uint64)
    truth = np.zeros(ring.degree, np.longdouble)
    for _ in range(MANY):
        values = generator.uniform(-1, 1, ring.degree)
        truth += values
        if public is None:
            wire = pack_seeded(*keys[0].encrypt(values), ring)
            ciphertext = made.expand(*unpack_seeded(wire, ring))
        else:
            ciphertext = public.encrypt(values)
        total = add(total, ciphertext, primes)
    opened = total[0]
    for key in keys:
        noise = gaussian(ring.degree, params.flooding_stddev, system) if params.flooding else None
        opened = add(opened, key.partial(total[1], noise), primes)
    error: NDArray[np.float64] = ((made.decode(opened) - truth) / MANY).astype(np.float64)
    return error
