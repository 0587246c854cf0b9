"""What the adapters add: a sum by a node and a coordinator, and under Flower's messages.

``test_a_sum`` is ``in_functions`` of ``flower_rounds``: the policy, the proposal, the keys and
burn records on disk, and the protocol below them. ``test_a_round_of_flower`` is a round of
FedAvg over Flower's grid in this process, every message by way of Flower's encoding, with and
without the mod. Bytes are those that one node sends. Training is an addition.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

if find_spec("flwr") is None:
    pytest.skip("no Flower to adapt to: pip install '.[bench]'", allow_module_level=True)

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_to_proto
from flwr.serverapp.strategy import FedAvg

from secagg.adapters.flower import SecureGrid, WeightedMean, secure_mod
from secagg.bench.measure import Interleaved, Timed, Work
from secagg.nodes.policy import NodePolicy

Measure = Callable[..., Interleaved]

NODES, ENTRIES = 10, 10**5
ROUNDS = 7


def test_a_sum(interleaved: Measure, flower_rounds: ModuleType) -> None:
    def carry() -> Timed:
        stages = flower_rounds.in_functions(NODES, ENTRIES).values()
        return Timed(
            seconds={
                "client": sum(stage["clients"] for stage in stages) / NODES,
                "server": sum(stage["server"] for stage in stages),
            }
        )

    interleaved({"sum": carry}, "sum", beside="x25519", rounds=ROUNDS)


def apps(folder: Path, *, masked: bool) -> dict[int, ClientApp]:
    def home(context: Context) -> Path:
        path = folder / str(context.node_id)
        path.mkdir(exist_ok=True)
        return path

    def app() -> ClientApp:
        mods = (
            [secure_mod(home, policy=NodePolicy(units=(), allow_no_noise=True))] if masked else []
        )
        client = ClientApp(mods=mods)

        @client.train()
        def train(message: Message, context: Context) -> Message:
            (record,) = message.content.array_records.values()
            moved = ArrayRecord({"w": Array(record["w"].numpy() + np.float32(0.01))})
            content = {"arrays": moved, "metrics": MetricRecord({"num-examples": 10})}
            return Message(RecordDict(content), reply_to=message)

        return client

    return {node: app() for node in range(1, NODES + 1)}


def one_round(engine: ModuleType, folder: Path, *, masked: bool) -> tuple[Work, list[int]]:
    """A round, again and again over one grid; and what nodes sent in the last."""
    inner, sent = engine.LocalGrid(apps(folder, masked=masked)), [0]
    grid = SecureGrid(inner, WeightedMean(clip=0.1, max_weight=10)) if masked else inner

    def carry() -> None:
        inner.seen.clear()
        inner.sent.clear()
        strategy = FedAvg(min_train_nodes=NODES, min_available_nodes=NODES, fraction_evaluate=0)
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord({"w": Array(np.zeros(ENTRIES, np.float32))}),
            num_rounds=1,
        )
        assert np.allclose(result.arrays["w"].numpy(), 0.01, atol=1e-4)
        replies = (recorddict_to_proto(each.content).ByteSize() for each in inner.seen)
        sent[0] = sum(replies) // NODES

    return carry, sent


def test_a_round_of_flower(interleaved: Measure, engine: ModuleType, tmp_path: Path) -> None:
    secure, up = one_round(engine, tmp_path, masked=True)
    plain, up_plain = one_round(engine, tmp_path, masked=False)
    secure()
    plain()
    interleaved(
        {"secure": secure, "plain": plain},
        "secure",
        sizes={"up": up[0], "up_plain": up_plain[0]},
        rounds=ROUNDS,
    )
