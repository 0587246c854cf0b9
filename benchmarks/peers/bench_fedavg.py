"""A round of ten clients with 10**6 entries under masks, beside Flower's plain FedAvg.

What hiding costs over nothing hidden. Flower's side is its own: a client puts its array into a
record and that into bytes; the server decodes them and does what FedAvg does with the replies,
weighted by examples. Ours gives the same mean by way of 14-bit integers and masks. One client is
lost on both sides; training and transport are left out on both.
"""

import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

if find_spec("flwr") is None:
    pytest.skip("no Flower to compare with: pip install '.[bench]'", allow_module_level=True)

from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as Wire
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from protocols.bonawitz import Agreement, Params
from protocols.entropy import system
from protocols.primitives.shamir import majority
from protocols.wire import SESSION_SIZE
from secagg.bench.measure import Interleaved, Timed
from secagg.rounds.in_memory import run_bonawitz
from secagg.stage import Stage
from secagg.vectors.layout import Count, Layout, Segment
from secagg.vectors.quantize import FixedPoint

Measure = Callable[..., Interleaved]

CLIENTS, ENTRIES, WEIGHT = 10, 10**6, 10
GONE = 1
ROUNDS = 7
LAYOUT = Layout(
    segments=(
        Segment(name="update", entries=ENTRIES, codec=FixedPoint(clip=1.0, bits=14), weighted=True),
        Segment(name="weight", entries=1, codec=Count(maximum=WEIGHT)),
    ),
    clients=CLIENTS,
    max_weight=WEIGHT,
)
UPDATE = np.random.default_rng(7).uniform(-1, 1, ENTRIES).astype(np.float32)


def reply() -> bytes:
    content = {
        "arrays": ArrayRecord({"w": Array(UPDATE)}),
        "metrics": MetricRecord({"num-examples": WEIGHT}),
    }
    return bytes(recorddict_to_proto(RecordDict(content)).SerializeToString())


def plain() -> Timed:
    began = time.process_time()
    sent = [reply() for _ in range(CLIENTS - GONE)]
    middle = time.process_time()
    arrived = [recorddict_from_proto(Wire.FromString(each)) for each in sent]
    mean = aggregate_arrayrecords(arrived, "num-examples")["w"].numpy()
    ended = time.process_time()
    assert np.allclose(mean, UPDATE, atol=1e-6)
    client = (middle - began) / (CLIENTS - GONE)
    return Timed(seconds={"client": client, "server": ended - middle}, result=len(sent[0]))


def masked() -> Timed:
    began = time.process_time()
    words = LAYOUT.encode({"update": UPDATE, "weight": [WEIGHT]}, weight=WEIGHT)
    encoding = time.process_time() - began
    outcome = run_bonawitz(
        Agreement(
            params=Params(clients=CLIENTS, threshold=majority(CLIENTS), words=LAYOUT.words),
            session=system(SESSION_SIZE),
            round=0,
            public_digest=bytes(32),
        ),
        dict.fromkeys(range(CLIENTS), words),
        dict.fromkeys(range(GONE), Stage.MASK),
        now=time.process_time,
    )
    began = time.process_time()
    sums = outcome.sums(LAYOUT)
    mean = sums["update"] / sums["weight"][0]
    decoding = time.process_time() - began
    assert np.abs(mean - UPDATE).max() < 2.0**-13 + 2.0**-23  # a step, and float32's rounding
    costs = outcome.costs.values()
    client = encoding + sum(cost.client_seconds for cost in costs) / CLIENTS
    server = decoding + sum(cost.server_seconds for cost in costs)
    sent = sum(cost.bytes_up for cost in costs)
    return Timed(seconds={"client": client, "server": server}, result=sent)


def test_a_round_beside_plain_averaging(interleaved: Measure, benchmark: BenchmarkFixture) -> None:
    sizes = {"ours": masked().result, "theirs": plain().result}
    found = interleaved({"ours": masked, "theirs": plain}, "ours", sizes=sizes, rounds=ROUNDS)
    for party in ("client", "server"):
        ratio = found.ratio(f"ours/{party}", f"theirs/{party}")
        benchmark.extra_info[f"{party}_times_plain"] = ratio.as_dict()
