"""Five small apps become private by the documented lines, and give what plain Flower gives.

``SecureGrid`` and ``secure_mod`` have no arguments here, nodes have the policy of a new folder.
Tolerance: ``mean_error`` of the last sum is what the code promises of an entry, for each round;
on top come some roundings of the arrays' own type, which plain Flower makes too. Where training
goes on from a model that differs by so much, another round may make more of it: those apps
train once, or by a linear map that shrinks.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine import arrays_of, record
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from secagg.adapters.flower import SecureGrid, SumReport, secure_mod
from secagg.adapters.testing import LocalGrid
from secagg.nodes.node import new_folder
from secagg.vectors.buffers import is_counter

ROOT = Path(__file__).parents[3]
QUICKSTART = ROOT / "examples" / "quickstart-pytorch"
NODES = range(5)
RUN = {
    "num-server-rounds": 1,
    "fraction-evaluate": 0.5,
    "local-epochs": 1,
    "learning-rate": 0.1,
    "batch-size": 32,
}
Arrays = dict[str, NDArray[Any]]


def grid_of(app: ClientApp, folder: Path, config: dict[str, Any] | None = None) -> LocalGrid:
    """Every node with the app, and a folder as `secagg node new` makes it."""
    homes = {node: new_folder(folder / str(node)) for node in NODES}
    configs = {
        node: {"secagg-home": str(home), "partition-id": node} for node, home in homes.items()
    }
    return LocalGrid(dict.fromkeys(NODES, app), configs=configs, run_config=config or {})


def check_equal(plain: Arrays, ours: Arrays, history: list[SumReport]) -> None:
    assert all(set(report.survivors) == set(NODES) and not report.reasons for report in history)
    assert not any(report.clipped for report in history)
    error = len(history) * history[-1].mean_error
    assert ours.keys() == plain.keys()
    for name, array in ours.items():
        if is_counter(name):
            continue
        own = 16 * np.finfo(array.dtype).eps * max(1.0, float(np.abs(array).max()))
        assert np.abs(array - plain[name]).max() <= error + own, name
    assert history[-1].error_share < 0.1


# The quickstart, by the diff of the page


def documented_diff() -> str:
    page = (ROOT / "docs" / "flower.md").read_text("utf-8")
    (diff,) = re.findall(r"```diff\n(---.*?)```", page, re.DOTALL)
    return str(diff)


@contextmanager
def loaded(folder: Path) -> Iterator[Any]:
    """The modules of a copy of the quickstart."""
    sys.path.insert(0, str(folder))
    try:
        yield lambda name: import_module(f"quickstart.{name}")
    finally:
        sys.path.remove(str(folder))
        for name in [each for each in sys.modules if each.split(".")[0] == "quickstart"]:
            del sys.modules[name]


def run_quickstart(source: Path, folder: Path, **config: Any) -> Arrays:
    """What its server saves after a run."""
    with loaded(source) as module:
        torch.manual_seed(0)
        grid = grid_of(module("client_app").app, folder, RUN | config)
        context = Context(1, 0, {}, RecordDict(), RUN | config)
        module("server_app").main(grid, context)
    return {name: array.numpy() for name, array in torch.load("final_model.pt").items()}


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A copy of the quickstart with the documented diff."""
    copy = shutil.copytree(QUICKSTART, tmp_path / "app")
    subprocess.run(["git", "apply", "-"], cwd=copy, input=documented_diff(), text=True, check=True)
    return copy


def test_the_documented_diff_is_of_two_imports_and_two_lines() -> None:
    changed = [line for line in documented_diff().splitlines() if re.match(r"\+(?!\+)", line)]
    assert sum("import" in line for line in changed) == 2
    assert len(changed) == 4


def test_the_documented_diff_makes_the_quickstart_private_and_changes_no_result(
    private: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SecureGrid] = []
    begin = SecureGrid.__init__
    monkeypatch.setattr(
        SecureGrid, "__init__", lambda grid, *given: (begin(grid, *given), made.append(grid))[0]
    )
    monkeypatch.chdir(tmp_path)
    plain = run_quickstart(QUICKSTART, folder / "plain")
    ours = run_quickstart(private, folder / "private")
    (secured,) = made
    check_equal(plain, ours, secured.history)
    assert secured.history[0].kept == (
        "features.1.num_batches_tracked",
        "features.5.num_batches_tracked",
    )


def test_the_private_quickstart_learns_over_rounds(
    private: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    after = run_quickstart(private, folder, **{"num-server-rounds": 3})
    with loaded(QUICKSTART) as module:
        task = module("task")
        net = task.Net()
        net.load_state_dict({name: torch.as_tensor(array) for name, array in after.items()})
        _, accuracy = task.test(net, task.load_data(77, 32)[1])
    assert accuracy > 2 / task.CLASSES


# Four more, each with and without the lines

Train = Callable[[Message, Context], Message]


def replied(message: Message, arrays: Arrays, examples: int) -> Message:
    metrics = MetricRecord({"num-examples": examples, "train_loss": 1.0})
    content = RecordDict({"arrays": record(arrays), "metrics": metrics})
    return Message(content, reply_to=message)


def both(
    train: Train, start: Arrays, folder: Path, *, make: Callable[[], FedAvg] = FedAvg, rounds: int
) -> None:
    """Run the app over plain Flower and by the two lines, and compare."""
    plain, private = ClientApp(), ClientApp(mods=[secure_mod()])
    for app in (plain, private):
        app.train()(train)
    secured = SecureGrid(grid_of(private, folder / "private"))
    results: list[Result] = []
    for app_grid in (grid_of(plain, folder / "plain"), secured):
        strategy = make()
        strategy.fraction_evaluate = 0.0 if app_grid is not secured else 1.0
        results.append(strategy.start(app_grid, record(start), num_rounds=rounds))
    check_equal(*(arrays_of(result.arrays) for result in results), secured.history)


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")  # one step of it is meant
def test_a_logistic_regression_of_scikit_learn(folder: Path) -> None:
    def train(message: Message, context: Context) -> Message:
        data = np.random.default_rng(int(context.node_config["partition-id"]))
        features = data.normal(size=(60, 4))
        labels = (features @ [1.0, -2.0, 0.5, 0.0] + data.normal(size=60) > 0).astype(int)
        model = LogisticRegression(max_iter=1, warm_start=True, solver="lbfgs", C=0.1)
        given = arrays_of(message.content["arrays"])
        model.classes_ = np.array([0, 1])
        model.coef_, model.intercept_ = given["coef"].copy(), given["intercept"].copy()
        model.fit(features, labels)
        return replied(message, {"coef": model.coef_, "intercept": model.intercept_}, len(labels))

    both(train, {"coef": np.zeros((1, 4)), "intercept": np.zeros(1)}, folder, rounds=1)


class Scheduled(FedAvg):
    """A strategy of somebody's own: a rate that falls, and a ``start`` that counts."""

    started = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        config["lr"] = 0.5 / server_round
        return super().configure_train(server_round, arrays, config, grid)

    def start(self, *given: Any, **named: Any) -> Result:
        self.started += 1
        return super().start(*given, **named)


def test_a_strategy_of_ones_own_with_a_schedule_and_a_head_that_stays(folder: Path) -> None:
    def train(message: Message, context: Context) -> Message:
        weights = arrays_of(message.content["arrays"])["body"]
        node = int(context.node_config["partition-id"])
        head = context.state.array_records.setdefault("head", record({"head": np.ones(3)}))
        mine = arrays_of(head)["head"] * 0.9
        context.state["head"] = record({"head": mine})
        aim = np.linspace(-0.5, 0.5, 6).reshape(2, 3) * (node + 1) / 5 + 0.1 * mine
        rate = float(message.content["config"]["lr"])
        return replied(message, {"body": weights + rate * (aim - weights)}, 20 + node)

    start = {"body": np.zeros((2, 3))}
    both(train, start, folder, make=Scheduled, rounds=3)


def stepped(net: nn.Module, loss: torch.Tensor, rate: float) -> None:
    """A step of gradient descent on what has a gradient."""
    loss.backward()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.mean, self.scale = nn.Linear(8, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        self.up = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 8))

    def loss(self, values: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        hidden = functional.relu(self.down(values))
        mean, scale = self.mean(hidden), self.scale(hidden)
        code = mean + torch.exp(0.5 * scale) * torch.randn(mean.shape, generator=draw)
        divergence = -0.5 * (1 + scale - mean**2 - scale.exp()).sum(1).mean()
        return functional.mse_loss(self.up(code), values) + 0.01 * divergence


def test_a_variational_autoencoder(folder: Path) -> None:
    torch.manual_seed(1)
    start = {name: array.numpy() for name, array in Autoencoder().state_dict().items()}

    def train(message: Message, context: Context) -> Message:
        draw = torch.Generator().manual_seed(int(context.node_config["partition-id"]))
        net = Autoencoder()
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        for _ in range(5):
            net.zero_grad()
            stepped(net, net.loss(torch.randn(40, 8, generator=draw), draw), 0.1)
        return replied(message, {n: a.numpy() for n, a in net.state_dict().items()}, 40)

    both(train, start, folder, rounds=1)


class Adapted(nn.Module):
    """A frozen layer of a transformer with an adapter of rank two beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.frozen.requires_grad_(requires_grad=False)
        self.lora_a, self.lora_b = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.frozen(words) + self.lora_b(self.lora_a(words))
        return found

    def adapter(self) -> Arrays:
        state = self.state_dict()
        return {name: array.numpy() for name, array in state.items() if name.startswith("lora")}


def test_a_transformer_of_which_the_adapters_alone_are_sent(folder: Path) -> None:
    def fresh() -> Adapted:
        torch.manual_seed(2)
        return Adapted()

    def train(message: Message, context: Context) -> Message:
        node = int(context.node_config["partition-id"])
        draw = torch.Generator().manual_seed(node)
        net = fresh()
        net.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=False)
        words = torch.randn(10 + node, 5, 8, generator=draw)
        for _ in range(3):
            net.zero_grad()
            stepped(net, functional.mse_loss(net(words), words.flip(1)), 0.1)
        return replied(message, net.adapter(), len(words))

    both(train, fresh().adapter(), folder, rounds=1)
