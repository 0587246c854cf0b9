"""The app in Flower's simulation: virtual nodes on a pool of Ray actors.

``run_simulation`` leaves run_config empty, at the server and at the clients, so ``configured`` puts
one in front of the app. An app given to it must be made inside a function: Ray pickles such a
function by value, and a module of tests cannot be imported in an actor.
"""

import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import ray
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from sklearn.linear_model import LogisticRegression

from hospitals import client_app, server_app
from oracle import EVERYBODY, LEARNING_RATE, STEPS, assert_accurate, assert_averaged, read
from processes import living
from secagg.adapters.flower import SecureGrid, secure_mod
from secagg.adapters.testing import stage_of
from secagg.nodes.policy import NodePolicy

ACTORS = 2
STORE = 80 * 2**20  # bytes; Ray refuses less than 75 MiB


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Two actors, and Ray's files in a folder of their own: a short one, its sockets are in it."""
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # Flower appends to it
    with TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("FLWR_HOME", folder)
        yield {
            "init_args": {
                "num_cpus": ACTORS,
                "include_dashboard": False,
                "object_store_memory": STORE,
                "log_to_driver": False,
                "logging_level": "ERROR",
                "_temp_dir": folder,
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        }
    assert not ray.is_initialized()
    end = time.monotonic() + 30  # Ray has told them to end, and does not wait for it
    while living(Path(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not living(Path(folder))


def configured(context: Context, **run_config: str | float) -> Context:
    config = {name.replace("_", "-"): value for name, value in run_config.items()}
    return Context(context.run_id, context.node_id, context.node_config, context.state, config)


@pytest.mark.parametrize("nodes", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_nine_tenths_of_virtual_hospitals_average_where_the_others_are_lost(
    nodes: int, backend: dict[str, Any], tmp_path: Path
) -> None:
    report, folder = tmp_path / "report.json", str(tmp_path)
    server, actors = ServerApp(), list[int]()

    def home(context: Context) -> Path:
        made = Path(folder) / str(context.node_config["partition-id"])
        made.mkdir(exist_ok=True)
        return made

    def lost(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Before the node is asked: what its program does, it does not tell."""
        planned = int(context.node_config["partition-id"]) % 10 == 0
        if planned and stage_of(message) == "mask" and message.metadata.message_type == "train":
            raise RuntimeError("lost, as planned")
        return call_next(message, context)

    policy = NodePolicy(units=(), allow_no_noise=True, graphs=("complete", "sparse"))
    client = ClientApp(mods=[lost, secure_mod(home, policy=policy)])

    def of_four(context: Context) -> Context:
        """Every fourth virtual hospital has the same patients."""
        node_config = dict(context.node_config)
        node_config["partition-id"] = int(node_config["partition-id"]) % len(EVERYBODY)
        config = {"steps": STEPS, "learning-rate": LEARNING_RATE}
        return Context(context.run_id, context.node_id, node_config, context.state, config)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        config = {"minimum_hospitals": nodes, "timeout": 120.0, "deadline": 120.0, "epsilon": 0.0}
        config |= {"rounds": 1, "roster": "", "report": str(report)}
        server_app.main(grid, configured(context, **config))
        actors.extend(living(Path(os.environ["FLWR_HOME"])))

    @client.train()
    def train(message: Message, context: Context) -> Message:
        return client_app.train(message, of_four(context))

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return client_app.evaluate(message, of_four(context))

    run_simulation(server, client, nodes, backend_config=backend)
    assert len(actors) >= ACTORS  # while it ran; the fixture sees that none is left
    left = [number % len(EVERYBODY) for number in range(nodes) if number % 10]
    said = read(report)
    assert said["sums"][0].startswith(f"train sum: {len(left)} of {nodes} nodes are in it")
    assert f"share {nodes}/{nodes}" in said["sums"][0]
    assert said["sums"][1].startswith(f"evaluate sum: {nodes} of {nodes} nodes are in it")
    assert_averaged(said, [left], named=nodes)
    assert_accurate(said)


def test_a_virtual_node_keeps_its_state_but_not_what_a_failed_message_did(
    backend: dict[str, Any],
) -> None:
    nodes = 3
    server, client = ServerApp(), ClientApp()
    counts: list[list[int]] = []
    failures: list[str] = []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        while len(ids := list(grid.get_node_ids())) < nodes:
            time.sleep(0.05)
        for fails in (False, False, True, False):
            content = RecordDict({"config": ConfigRecord({"fails": fails})})
            messages = [Message(content, dst_node_id=node, message_type="train") for node in ids]
            replies = list(grid.send_and_receive(messages, timeout=60))
            failures.extend(reply.error.reason for reply in replies if reply.has_error())
            counts.append([r.content["count"]["n"] for r in replies if not r.has_error()])

    @client.train()
    def train(message: Message, context: Context) -> Message:
        past = context.state.metric_records.get("count", MetricRecord({"n": 0}))
        context.state["count"] = MetricRecord({"n": int(past["n"]) + 1})
        if message.content["config"]["fails"]:
            raise ValueError("in the client's own words")
        return Message(RecordDict({"count": context.state["count"]}), reply_to=message)

    run_simulation(server, client, nodes, backend_config=backend)
    assert counts == [[1] * nodes, [2] * nodes, [], [3] * nodes]
    assert len(failures) == nodes
    assert all("in the client's own words" in reason for reason in failures)


@pytest.mark.slow
def test_two_lines_are_enough_and_virtual_nodes_have_folders_of_their_own(
    backend: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logistic regression of scikit-learn, and FedAvg's own defaults."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    nodes, server, client = 5, ServerApp(), ClientApp(mods=[secure_mod()])
    found: list[tuple[set[int], float, dict[str, Any]]] = []

    def trained(coef: Any, intercept: Any, partition: int) -> tuple[Any, Any]:
        data = np.random.default_rng(partition)
        features = data.normal(size=(60, 4))
        labels = (features[:, 0] + data.normal(size=60) > 0).astype(int)
        model = LogisticRegression(max_iter=1, warm_start=True, C=0.1)
        model.classes_, model.coef_ = np.array([0, 1]), coef.copy()
        model.intercept_ = intercept.copy()
        with warnings.catch_warnings(action="ignore"):  # of one step that is meant
            model.fit(features, labels)
        return model.coef_, model.intercept_

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        secured = SecureGrid(grid)
        start = ArrayRecord([np.zeros((1, 4)), np.zeros(1)])
        result = FedAvg().start(secured, start, num_rounds=1, timeout=120)
        (report,) = secured.history
        coef, intercept = result.arrays.to_numpy_ndarrays()
        found.append((set(report.survivors), report.mean_error, {"c": coef, "i": intercept}))

    @client.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        after = trained(*message.content["arrays"].to_numpy_ndarrays(), partition)
        content = {
            "arrays": ArrayRecord(list(after)),
            "metrics": MetricRecord({"num-examples": 60}),
        }
        return Message(RecordDict(dict(content)), reply_to=message)

    run_simulation(server, client, nodes, backend_config=backend)
    ((survivors, error, arrays),) = found
    single = [trained(np.zeros((1, 4)), np.zeros(1), number) for number in range(nodes)]
    if len(survivors) == nodes:  # FedAvg begins with fewer, where fewer are there
        for name, each in zip("ci", zip(*single, strict=True), strict=True):
            assert np.abs(arrays[name] - np.mean(each, 0)).max() <= error + 1e-12
    assert len(survivors) >= 3
    (root,) = tmp_path.glob("secagg-simulation-*")
    assert root.stat().st_mode & 0o077 == 0
    assert {int(home.name) for home in root.glob("*/*")} >= survivors
