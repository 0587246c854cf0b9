"""What a secure round costs over a plain one in Flower, and of what the difference is made.

    python benchmarks/flower_rounds.py simulation --nodes 1000 --entries 10000 --lost 0.1
    python benchmarks/flower_rounds.py processes --nodes 20 --entries 1000000

``simulation`` runs Flower's engine on ray; ``processes`` a SuperLink and SuperNodes on loopback
with TLS and node keys, where Flower starts a fresh process for every message. A round is timed
at the server, from the first message out to the mean in hand. Plain and secure rounds take
turns, and rounds of one entry stand beside those of all: what they take is starts, polls and
messages. What the cryptography takes is measured in the functions, without Flower.

Each node's training is one addition. Flower's own pauses between two polls (3 s) are left as
they are unless --poll says otherwise.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
HARNESS = Path(__file__).parents[1] / "tests" / "flower"  # starts and reaps Flower's processes

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "rounds"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "secagg"

[tool.flwr.app.components]
serverapp = "rounds.app:server"
clientapp = "rounds.app:client"

[tool.flwr.app.config]
nodes = 2
entries = 1
rounds = 1
lost = 0.0
report = ""
"""
APP = """\
from rounds.flower_rounds import apps

both = apps()
server = both[0]
client = both[1]
"""


def apps(settings: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    """A server that times rounds, and a client that adds one hundredth.

    ``settings`` stand in place of the run's configuration, which a simulation has not.
    """
    from flwr.app import (
        Array,
        ArrayRecord,
        ConfigRecord,
        Context,
        Message,
        MetricRecord,
        RecordDict,
    )
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg

    from secagg.adapters.flower import SecureGrid, WeightedMean, secure_mod
    from secagg.adapters.testing import stage_of
    from secagg.nodes.policy import NodePolicy

    def home_of(context: Context) -> Path:
        home = Path(str(context.node_config.get("secagg-home") or os.environ["ROUNDS_HOME"]))
        (home / str(context.node_id)).mkdir(exist_ok=True, parents=True)
        return home / str(context.node_id)

    secure = secure_mod(home_of, policy=NodePolicy(units=(), allow_no_noise=True))

    def where_asked(message: Message, context: Context, call_next: Any) -> Message:
        """Plain rounds pass, so that both kinds run in one session."""
        if not (stage := stage_of(message)):
            return call_next(message, context)
        if stage == "mask":
            lost = float(message.content.config_records["config"]["lost"])
            if context.node_id % 1000 < 1000 * lost:
                raise RuntimeError("lost, as planned")
        return secure(message, context, call_next)

    client, server = ClientApp(mods=[where_asked]), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        (record,) = message.content.array_records.values()
        moved = ArrayRecord({"w": Array(record["w"].numpy() + np.float32(0.01))})
        content = {"arrays": moved, "metrics": MetricRecord({"num-examples": 10})}
        return Message(RecordDict(content), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        config = settings or context.run_config
        nodes, entries = int(config["nodes"]), int(config["entries"])
        alone = bool(config.get("secure-only"))
        told: list[dict[str, Any]] = []
        for size in (entries,) if alone else dict.fromkeys((1, entries)):
            # One grid a size, since shares are sent ahead for a sum of the same parameters.
            secured = SecureGrid(grid, WeightedMean(clip=0.1, max_weight=10), deadline=600)
            for number, masked in product(range(int(config["rounds"])), (False, True)[alone:]):
                strategy = FedAvg(
                    min_train_nodes=nodes, min_available_nodes=nodes, fraction_evaluate=0
                )
                begin = time.perf_counter()
                result = strategy.start(
                    grid=secured if masked else grid,
                    initial_arrays=ArrayRecord({"w": Array(np.zeros(size, np.float32))}),
                    num_rounds=1,
                    timeout=600,
                    train_config=ConfigRecord({"lost": float(config["lost"])}),
                )
                seconds = time.perf_counter() - begin
                mean = result.arrays["w"].numpy()
                if not np.allclose(mean, 0.01, atol=1e-4):
                    raise RuntimeError(f"the mean is {mean[:3]}, expected .01")
                said = {"round": number, "entries": size, "secure": masked, "seconds": seconds}
                if masked:
                    report = secured.history[-1]
                    said["survivors"] = len(report.survivors)
                    said["stages"] = [asdict(stage) for stage in report.stages]
                told.append(said)
                Path(str(config["report"])).write_text(json.dumps(told))

    return server, client


def in_functions(nodes: int, entries: int) -> dict[str, dict[str, float]]:
    """CPU seconds of all clients together and of the server, by stage, without Flower."""
    from secagg.nodes.coordinator import Coordinator, SumSettings, WeightedMean
    from secagg.nodes.node import Node
    from secagg.nodes.policy import NodePolicy
    from secagg.nodes.proposal import Contribution, Proposal

    update = np.full(entries, 0.01, np.float32)

    def compute(_: Proposal) -> Contribution:
        return Contribution(vector=update, weight=10, metrics={})

    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        parties = []
        for number in range(nodes):
            (home := Path(folder) / str(number)).mkdir()
            parties.append(Node(home, NodePolicy(units=(), allow_no_noise=True)))
        coordinator = Coordinator(WeightedMean(clip=0.1, max_weight=10), SumSettings())
        states: dict[int, bytes | None] = dict.fromkeys(range(nodes))
        shapes = (("w", (entries,)),)
        under_way = coordinator.begin("train", range(nodes), model=bytes(32), shapes=shapes)
        asks = under_way.asks()
        while True:
            begin = time.process_time()
            ask = next(asks, None)
            server, client = time.process_time() - begin, 0.0
            if ask is None:
                found["open"] = {"clients": 0.0, "server": server}
                return found
            for node in under_way.asked(ask):
                request = under_way.request(ask, node)
                begin = time.process_time()
                answer = parties[node].answer(
                    request, states[node], model=bytes(32), compute=compute
                )
                middle = time.process_time()
                states[node] = answer.state
                under_way.receive(ask, node, answer)
                client += middle - begin
                server += time.process_time() - middle
            found[ask.stage.value] = {"clients": client, "server": server}


def simulate(folder: Path, settings: Mapping[str, Any]) -> None:
    """Flower's engine, two workers."""
    from flwr.simulation import run_simulation

    os.environ["ROUNDS_HOME"] = str(folder / "homes")
    server, client = apps(settings)
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=int(settings["nodes"]),
        backend_config={
            "client_resources": {"num_cpus": 1},
            "init_args": {"num_cpus": os.cpu_count() or 1, "log_to_driver": False},
        },
    )


def deploy(folder: Path, settings: Mapping[str, Any], poll: float | None) -> None:
    """SuperLink and SuperNodes, each a process of its own."""
    sys.path.insert(0, str(HARNESS))
    from processes import Cluster

    app = folder / "app"
    (app / "rounds").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PROJECT)
    (app / "rounds" / "__init__.py").touch()
    (app / "rounds" / "app.py").write_text(APP)
    shutil.copy(__file__, app / "rounds" / "flower_rounds.py")
    nodes = int(settings["nodes"])
    homes = [{"secagg-home": str(folder / "homes" / str(node))} for node in range(nodes)]
    with Cluster(folder, nodes=nodes, node_config=homes, poll=poll) as cluster:
        cluster.run(app, deadline=3600, **settings)


def main() -> None:
    """Measure, print and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=("simulation", "processes"))
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--entries", type=int, default=10**6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lost", type=float, default=0.0, help="share of nodes that never mask")
    parser.add_argument("--poll", type=float, help="seconds in place of Flower's own pauses")
    parser.add_argument("--secure-only", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {
            "nodes": asked.nodes,
            "entries": asked.entries,
            "rounds": asked.rounds,
            "lost": asked.lost,
            "report": str(folder / "report.json"),
        }
        if asked.engine == "simulation":
            simulate(folder, settings | {"secure-only": asked.secure_only})
        else:
            deploy(folder, settings, asked.poll)
        rounds = json.loads((folder / "report.json").read_text())
    functions = in_functions(asked.nodes, asked.entries)
    found = {"engine": asked.engine, "poll": asked.poll, "lost": asked.lost, "nodes": asked.nodes}
    found |= {"entries": asked.entries, "rounds": rounds, "cpu seconds": functions}
    show(found)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


def show(found: Mapping[str, Any]) -> None:
    """Medians over the rounds after the first, where shares came ahead."""
    kinds: dict[tuple[int, bool], list[dict[str, Any]]] = {}
    for said in found["rounds"]:
        kinds.setdefault((said["entries"], said["secure"]), []).append(said)
    for (entries, secure), rounds in kinds.items():
        first, later = rounds[0], rounds[1:] or rounds
        seconds = median(said["seconds"] for said in later)
        kind = "secure" if secure else "plain"
        print(f"{kind:7}{entries:>9} entries: first {first['seconds']:.1f} s, then {seconds:.1f} s")
        if secure:
            for stage in first["stages"][:1] + later[-1]["stages"]:
                print(
                    f"    {stage['stage']:10}{stage['answered']}/{stage['asked']} in "
                    f"{stage['seconds']:.1f} s, bytes a node: up "
                    f"{stage['bytes_up'] / max(stage['answered'], 1):.0f}, "
                    f"down {stage['bytes_down'] / max(stage['asked'], 1):.0f}"
                )
    for stage, seconds in found["cpu seconds"].items():
        print(
            f"CPU {stage:10} clients {seconds['clients']:.3f} s, server {seconds['server']:.3f} s"
        )


if __name__ == "__main__":
    main()
