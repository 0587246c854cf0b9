"""Whole rounds under CKKS on either engine, and the error of what they open.

The round: 10**6 entries, 10 clients, under a threshold key among 5 of them or one shared key,
all parties in turn on this machine, each party's chunks on ``WORKERS`` processes and on one.
``extra_info`` holds the CPU seconds of the whole, and the seconds of each stage.

The error: the largest of a mean of 100 clients over ``MEASURED`` entries, beside the largest
that ``Params`` expects over 10**6. The noise is that of a session of 10**6 entries, which
opens 245 polynomials.
"""

import math
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.pool import Pool
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from protocols.ckks import Agreement, Engine, Model, Params, plan_parameters
from protocols.ckks.keys import SharedKey, arithmetic, in_turn
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


engines = pytest.mark.parametrize("engine", list(Engine), ids=lambda engine: engine.name)


@pytest.mark.parametrize("workers", [1, WORKERS])
@pytest.mark.parametrize("protocol", CKKS)
@engines
def test_a_round(
    benchmark: BenchmarkFixture, pool: Pool, protocol: str, workers: int, engine: Engine
) -> None:
    layout = Layout(
        segments=(Segment(name="update", entries=ENTRIES, codec=FixedPoint(clip=1.0)),),
        clients=CLIENTS,
    )
    vectors = np.random.default_rng(7).uniform(-1, 1, (CLIENTS, ENTRIES))

    settings = Ckks(model=MODELS[protocol], engine=engine, minimum_survivors=CLIENTS)
    spent: list[float] = []

    def carry() -> Any:
        params = settings.params(layout, CLIENTS)
        agreement = Agreement(params=params, session=system(SESSION_SIZE), public_digest=bytes(32))
        chunks = pool.imap if workers > 1 else in_turn
        began = time.process_time()
        found = run_ckks(agreement, dict(enumerate(vectors)), chunks=chunks)
        spent.append(time.process_time() - began)
        return found

    pedantic: Any = benchmark.pedantic  # it comes without types
    outcome = pedantic(carry, rounds=3, warmup_rounds=1)
    assert np.abs(outcome.sums(layout)["update"] - vectors.sum(axis=0)).max() < CLIENTS * FLOODED
    if workers == 1:
        benchmark.extra_info["cpu_s"] = round(min(spent), 2)
    for stage, cost in outcome.costs.items():
        benchmark.extra_info[f"{stage}_clients_s"] = round(cost.client_seconds, 2)
        benchmark.extra_info[f"{stage}_server_s"] = round(cost.server_seconds, 2)
        benchmark.extra_info[f"{stage}_up_mb"] = round(cost.bytes_up / 1e6, 3)
        benchmark.extra_info[f"{stage}_down_mb"] = round(cost.bytes_down / 1e6, 3)


@engines
@pytest.mark.parametrize(
    ("model", "flooding", "bound"),
    [
        (Model.SHARED_KEY, None, UNFLOODED),
        (Model.SHARED_KEY, FLOODING, FLOODED),
        (Model.THRESHOLD, FLOODING, FLOODED),
    ],
)
def test_the_largest_error_of_a_mean(
    benchmark: BenchmarkFixture, model: Model, flooding: int | None, bound: float, engine: Engine
) -> None:
    params = plan_parameters(
        model=model,
        engine=engine,
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
            [_error(params, generator) for _ in range(-(-MEASURED // params.chunk_entries))]
        )

    pedantic: Any = benchmark.pedantic
    errors = pedantic(measure, rounds=1)
    largest = float(np.abs(errors).max())
    benchmark.extra_info.update(
        ring=str(params.ring),
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
    """Of one ciphertext of the mean of ``MANY`` clients, under keys of its own."""
    agreement = Agreement(params=params, session=system(SESSION_SIZE), public_digest=bytes(32))
    made = arithmetic(agreement)
    sums, truth = made.sums(), np.zeros(params.entries_of(0), np.longdouble)
    seeds = {holder: Secret(system(32)) for holder in range(params.holders)}
    shares = {h: made.public_share(h, seed, Secret(system(32))) for h, seed in seeds.items()}
    secret, names = Secret(system(32)), {}
    total = made.total(shares) if shares else b""
    for client in range(MANY):
        values = generator.uniform(-1, 1, params.entries_of(0))
        truth += values
        work = (
            made.encrypt_for_all(agreement, client, total, system)
            if shares
            else SharedKey(agreement, secret).encrypting(agreement, client, system)
        )
        ciphertext = work((0, values))
        names[client] = ciphertext[:32]
        sums.add(0, sums.read(0, memoryview(ciphertext)))
    if not shares:
        packed = sums.shared(0)
        found = made.open_shared(agreement, secret, names, packed)((0, packed))
    else:
        second = sums.second(0)
        for holder, seed in seeds.items():
            part = made.part(holder, seed, Secret(system(32)), b"bench")((0, second))
            sums.add_part(0, sums.read_part(0, memoryview(part)))
        found = sums.values(0)
    if params.engine is Engine.COEFFICIENTS:
        found = params.encoding.decode_reals(found.astype(np.uint64, copy=False))
    error: NDArray[np.float64] = ((found - truth) / MANY).astype(np.float64)
    return error
