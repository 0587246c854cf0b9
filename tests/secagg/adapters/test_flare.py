"""Sums under FLARE: what its server is handed, and what a site answers; the simulator runs both."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare")

from nvflare.apis.controller_spec import Task
from nvflare.apis.executor import Executor
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.collab import CollabRecipe, collab
from nvflare.collab.api.context import Context, set_call_context
from nvflare.collab.api.exceptions import CollabCallError

from dp.ledger import Budget, Ledger
from dp.noise import DistributedNoise
from protocols.errors import TooFewSurvivors
from secagg.adapters.flare import SecureExecutor, SecureSite, SecureSums, secagg_recipe
from secagg.adapters.flare.site import RECORD, STEPS, Member
from secagg.adapters.flare.sums import _Gate
from secagg.errors import InputError
from secagg.nodes import (
    Coordinator,
    NoisySum,
    Request,
    SumSettings,
    WeightedMean,
    model_digest,
    new_folder,
)
from secagg.stage import Stage

ROOT = Path(__file__).parents[3]
ABOUT_A_ROW = "row 17 has diabetes"
START = {"w": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float32)}
STEP = 1e-4  # of a sum of few sites, in the mean: two clips over 2^16 and a few weights

Program = Callable[[FLModel], FLModel]


def context(local: Path) -> Any:
    """What a member asks of FLARE: where the site's own folder is."""
    workspace = SimpleNamespace(get_site_config_dir=lambda: str(local))
    engine = SimpleNamespace(get_workspace=lambda: workspace)
    return SimpleNamespace(get_engine=lambda: engine, get_prop=lambda _, default=None: default)


class Proxy:
    """A site as a Collab proxy shows it; from a stage on it may be lost."""

    def __init__(
        self, folder: Path, name: str, program: Program, lost: Stage | None = None
    ) -> None:
        self.name, self.program, self.lost = name, program, lost
        new_folder(folder / name / "secagg")
        self.context, self.member = context(folder / name), Member()
        self.replies: list[object] = []

    def __call__(self, timeout: float) -> "Proxy":
        assert timeout > 0
        return self

    def secagg_answer(self, request: bytes, params: Any = None) -> bytes | str:
        order, stage = list(Stage), Request.from_bytes(request).stage
        if self.lost is not None and order.index(self.lost) <= order.index(stage):
            raise CollabCallError(self.name, "secagg_answer", TimeoutError("timeout"))
        assert (params is not None) is (stage is Stage.MASK), "the model goes with one stage"

        def work(_: object, given: Mapping[str, Any]) -> FLModel:
            return self.program(FLModel(params=dict(given), params_type=ParamsType.FULL))

        reply = self.member.answer(self.context, request, params, work)
        self.replies.append(reply)
        return reply


def moves(by: float, weight: int, **beside: Any) -> Program:
    """A program that adds a number to each entry."""

    def program(model: FLModel) -> FLModel:
        params = {name: array + np.float32(by) for name, array in model.params.items()}
        return FLModel(
            params=params, metrics={"loss": by, **beside}, meta={STEPS: weight, "note": ABOUT_A_ROW}
        )

    return program


def sums() -> SecureSums:
    said = WeightedMean(clip=1.0, max_weight=10, train_metrics={"loss": 1.0})
    return SecureSums(said, SumSettings(dropout="0.3"), deadline=5.0)


def sites(folder: Path, lost: Stage | None = None) -> list[Proxy]:
    return [
        Proxy(folder, f"site-{n}", moves(n / 10, n), lost if n == 4 else None) for n in range(1, 5)
    ]


def test_the_mean_is_the_weighted_one_of_arrays_and_metrics(folder: Path) -> None:
    found = sums().run("train", FLModel(params=START, current_round=3), sites(folder))
    mean = sum(n * n / 10 for n in range(1, 5)) / 10
    for name, array in START.items():
        assert found.params[name].dtype == np.float32
        assert np.abs(found.params[name] - array - mean).max() < STEP
    assert abs(found.metrics["loss"] - mean) < STEP
    assert (found.meta, found.current_round) == ({STEPS: 10}, 3)
    assert found.params_type == ParamsType.FULL


def test_a_program_may_reply_differences(folder: Path) -> None:
    def program(model: FLModel) -> FLModel:
        params = {name: np.full_like(array, 0.25) for name, array in model.params.items()}
        return FLModel(params=params, params_type=ParamsType.DIFF, metrics={"loss": 0.0})

    asked = [Proxy(folder, f"site-{n}", program) for n in range(3)]
    found = sums().run("train", FLModel(params=START), asked)
    assert np.abs(found.params["b"] - START["b"] - 0.25).max() < STEP
    assert found.meta == {STEPS: 3}, "a site that says no steps weighs 1, as in FLARE"


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.SIGN])
def test_a_site_that_is_lost_at_any_stage_is_left_out(folder: Path, stage: Stage) -> None:
    server = sums()
    found = server.run("train", FLModel(params=START), sites(folder, lost=stage))
    left = range(1, 5) if stage is Stage.REVEAL else range(1, 4)  # its vector was in by then
    mean = sum(n * n / 10 for n in left) / sum(left)
    assert np.abs(found.params["w"] - START["w"] - mean).max() < STEP
    assert len(server.history[-1].survivors) == len(left)


def test_too_few_sites_come_to_no_sum_and_the_next_works(folder: Path) -> None:
    server, asked = sums(), sites(folder)
    asked[0].lost = asked[1].lost = Stage.SHARE
    with pytest.raises(TooFewSurvivors):
        server.run("train", FLModel(params=START), asked)
    assert server.history[-1].failure
    asked[0].lost = asked[1].lost = None
    assert server.run("train", FLModel(params=START), asked).meta == {STEPS: 10}


def test_a_program_that_raises_tells_the_server_nothing_and_brings_zeros(folder: Path) -> None:
    def program(model: FLModel) -> FLModel:
        raise ValueError(ABOUT_A_ROW)

    server, asked = sums(), sites(folder)
    asked[3].program = program
    found = server.run("train", FLModel(params=START), asked)
    mean = sum(n * n / 10 for n in range(1, 4)) / 6
    assert np.abs(found.params["w"] - START["w"] - mean).max() < STEP
    assert server.history[-1].failed == 1
    assert all(type(reply) is bytes for reply in asked[3].replies)
    assert not any(ABOUT_A_ROW.encode() in bytes(reply) for reply in asked[3].replies)  # type: ignore[arg-type]


def test_only_named_metrics_and_steps_are_handed_on(folder: Path) -> None:
    asked = [Proxy(folder, f"site-{n}", moves(0.1, 2, ward=n, text=ABOUT_A_ROW)) for n in range(3)]
    found = sums().run("train", FLModel(params=START), asked)
    assert (set(found.metrics), found.meta) == ({"loss"}, {STEPS: 6})
    for site in asked:
        assert not any(ABOUT_A_ROW.encode() in bytes(reply) for reply in site.replies)  # type: ignore[arg-type]


def test_a_policy_that_refuses_is_one_line_at_the_server(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = sites(folder)
    policy = folder / "site-4" / "secagg" / "policy.toml"
    policy.write_text(policy.read_text("utf-8").replace("minimum_cohort = 3", "minimum_cohort = 9"))
    found = sums().run("train", FLModel(params=START), asked)
    assert found.meta == {STEPS: 6}
    assert "site-4 at advertise: this node's policy refuses (minimum_cohort 9)" in caplog.text


def test_an_answer_that_is_none_is_not_read(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = sites(folder)
    lies: list[object] = [{"params": START}, b"\x01\x41 and no answer", bytes(2**20), None]
    for lie in lies:
        asked[3].secagg_answer = lambda lie=lie, **_: lie  # type: ignore[method-assign, misc]
        server = sums()
        assert server.run("train", FLModel(params=START), asked[:]).meta == {STEPS: 6}
    assert "it was not read" in caplog.text
    assert "are the most" in caplog.text


def test_a_site_without_a_folder_says_how_to_make_one(folder: Path) -> None:
    request = Request(stage=Stage.ADVERTISE, proposal=b"{}", client=0, message=b"").to_bytes()
    said = Member().answer(context(folder), request, None, lambda *_: None)
    assert "secagg node new" in str(said)


class Clinic(SecureSite):
    def train(self, model: FLModel) -> FLModel:
        return moves(0.1, 1)(model)


@pytest.fixture
def called(folder: Path) -> Iterator[Callable[[str], Clinic]]:
    """A clinic in its own process, as one of the job calls it."""
    new_folder(folder / "secagg")
    app = SimpleNamespace(name="site-1", get_prop=lambda *_: context(folder))

    def by(caller: str) -> Clinic:
        set_call_context(Context(app, caller, "site-1", None))
        return Clinic()

    yield by
    set_call_context(None)


def test_a_site_that_calls_in_the_servers_place_gets_nothing(
    folder: Path, called: Callable[[str], Clinic]
) -> None:
    """It could begin a sum with two clients of its own making, and subtract them."""
    asks = Coordinator(WeightedMean(), SumSettings())
    under_way = asks.begin("train", [0, 1, 2], model=bytes(32), shapes=(("w", (2,)),))
    ask = next(under_way.asks())
    request = under_way.request(ask, 0).to_bytes()
    assert called("site-2").secagg_answer(request) == "this node answers the server alone"
    assert type(called("server").secagg_answer(request)) is bytes


def test_a_program_that_anybody_may_call_is_refused() -> None:
    with pytest.raises(InputError, match="published"):

        class Open(SecureSite):
            @collab.publish  # type: ignore[untyped-decorator, unused-ignore]
            def train(self, model: FLModel) -> FLModel:
                return model


def test_a_sum_with_noise_is_charged_on_both_sides_and_its_model_named(folder: Path) -> None:
    mechanism = DistributedNoise(
        entries=8, clip=1.0, noise_multiplier=2.0, clients=4, minimum_survivors=3
    )
    ledger = Ledger.create(folder / "ledger.sqlite", Budget(epsilon=50.0, delta=1e-5))
    asked = sites(folder)
    for site in asked:
        policy = folder / site.name / "secagg" / "policy.toml"
        said = policy.read_text("utf-8").replace("maximum_epsilon = 8.0", "maximum_epsilon = 50.0")
        policy.write_text(said.replace("corrupt_fraction = 0.05", "corrupt_fraction = 0"))
    found = SecureSums(NoisySum(mechanism=mechanism, ledger=ledger)).run(
        "train", FLModel(params=START), asked
    )
    assert len(ledger.reservations()) == 4
    for site in asked:
        with Ledger.open(folder / site.name / "secagg" / "ledger.sqlite") as own:
            assert len(own.reservations()) == 1
    ledger.close()
    books = b"".join(path.read_bytes() for path in folder.glob("ledger.sqlite*"))
    assert model_digest(found.params).hex().encode() in books, "the model that was handed on"


def test_threshold_ckks_takes_the_place_of_flares_encryption(folder: Path) -> None:
    pytest.importorskip("tenseal")
    asked = sites(folder)
    for site in asked:
        policy = folder / site.name / "secagg" / "policy.toml"
        said = policy.read_text("utf-8").replace('["bonawitz"]', '["threshold-ckks"]')
        policy.write_text(said)
    server = SecureSums(
        WeightedMean(clip=1.0, max_weight=4), SumSettings(protocol="threshold-ckks"), deadline=60.0
    )
    found = server.run("train", FLModel(params=START), asked)
    mean = sum(n * n / 10 for n in range(1, 5)) / 10
    assert np.abs(found.params["w"] - START["w"] - mean).max() < 1e-3


# Behind a workflow


class Trains(Executor):
    """An executor that counts its tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: list[str] = []

    def execute(self, task_name: str, shareable: Any, fl_ctx: Any, abort_signal: Any) -> Any:
        self.tasks.append(task_name)
        return FLModelUtils.to_shareable(FLModel(params=START))


def test_a_plain_task_does_not_reach_the_program(folder: Path) -> None:
    trains, secure = Trains(), SecureExecutor("work", ["validate"])
    ctx = context(folder)
    ctx.get_engine().get_component = lambda name: {"work": trains}[name]
    task = FLModelUtils.to_shareable(FLModel(params=START))
    reply = secure.execute("train", task, ctx, None)
    assert trains.tasks == []
    assert "plain reply" in reply[RECORD]
    assert "DXO" not in reply
    assert "DXO" in secure.execute("validate", task, ctx, None), "that it was allowed"


class Workflow(Controller):
    def start_controller(self, fl_ctx: Any) -> None: ...
    def stop_controller(self, fl_ctx: Any) -> None: ...
    def control_flow(self, abort_signal: Any, fl_ctx: Any) -> None: ...
    def process_result_of_unknown_task(self, *_: Any) -> None: ...


@pytest.mark.parametrize("name", ["send", "send_and_wait", "relay", "relay_and_wait"])
def test_a_workflow_that_asks_single_sites_is_refused(name: str) -> None:
    workflow, sent = Workflow(), []
    setattr(workflow, name, lambda task, *_: sent.append(task.name))
    _Gate(workflow, sums(), ParamsType.FULL, ["validate"])
    with pytest.raises(InputError, match="in clear"):
        getattr(workflow, name)(Task("train", Shareable()), None)
    getattr(workflow, name)(Task("validate", Shareable()), None)
    assert sent == ["validate"]


def recipe() -> NumpyFedAvgRecipe:
    script = str(ROOT / "examples" / "flare" / "train.py")
    return NumpyFedAvgRecipe(
        name="job", model=[0.0], min_clients=3, num_rounds=1, train_script=script
    )


def test_a_job_has_our_executor_no_second_way_to_the_server_and_no_copy_of_us(folder: Path) -> None:
    secagg_recipe(recipe(), WeightedMean(clip=0.5, max_weight=7)).export(str(folder))
    (client,) = folder.rglob("config_fed_client.json")
    said = json.loads(client.read_text("utf-8"))
    (executor,) = said["executors"]
    assert executor["executor"]["path"] == "secagg.adapters.flare.site.SecureExecutor"
    paths = [each["path"].split(".")[-1] for each in said["components"]]
    assert paths == ["ClientAPIExecutor"], "ConvertToFedEvent sends what a program logs"
    (server,) = folder.rglob("config_fed_server.json")
    ours = next(
        e for e in json.loads(server.read_text("utf-8"))["components"] if "Sums" in e["path"]
    )
    assert ours["args"]["settings"] == {"summed": {"clip": 0.5, "max_weight": 7}, "cohort": {}}
    assert not list(folder.rglob("custom/secagg*"))


def test_what_no_job_can_carry_is_refused() -> None:
    with pytest.raises(InputError, match="module:function"):
        secagg_recipe(recipe(), None, SumSettings(expand=lambda *_: None))  # type: ignore[arg-type, return-value]
    streams = recipe()
    streams.enable_log_streaming()
    with pytest.raises(InputError, match="streams the logs"):
        secagg_recipe(streams)
    with pytest.raises(InputError, match="FULL"):
        secagg_recipe(recipe(), params_type="full")
    with pytest.raises(InputError, match="its own main"):
        secagg_recipe(object.__new__(CollabRecipe))


# FLARE's simulator


EXAMPLES = ROOT / "examples" / "flare"
JOBS = Path(__file__).parent / "flare_jobs"


def simulate(script: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_example_of_collab_calls_comes_to_the_model(folder: Path) -> None:
    said = simulate(EXAMPLES / "sums_job.py", str(folder / "out.npz"))
    assert said.count("3 of 3 nodes are in it") == 5
    with np.load(folder / "out.npz") as model:
        assert np.abs(model["weight"] - [1.0, -2.0, 0.5]).max() < 0.1


def test_fedavg_over_sums_is_fedavg_to_the_step(folder: Path) -> None:
    said = simulate(EXAMPLES / "fedavg_job.py", str(folder / "sums"))
    simulate(EXAMPLES / "fedavg_job.py", str(folder / "plain"), "--plain")
    (ours,) = (folder / "sums").rglob("server.npy")
    (plain,) = (folder / "plain").rglob("server.npy")
    assert said.count("3 of 3 nodes are in it") == 3
    assert np.abs(np.load(ours) - np.load(plain)).max() < 3 * STEP


@pytest.mark.slow
def test_an_older_workflow_that_takes_differences_is_itself_to_the_step(folder: Path) -> None:
    said = simulate(JOBS / "run.py", "gather", str(folder / "sums"))
    simulate(JOBS / "run.py", "gather", str(folder / "plain"), "--plain")
    (ours,) = (folder / "sums").rglob("server.npy")
    (plain,) = (folder / "plain").rglob("server.npy")
    assert said.count("3 of 3 nodes are in it") == 2
    assert np.abs(np.load(ours) - np.load(plain)).max() < 3 * STEP


@pytest.mark.slow
def test_fedavg_of_pytorch_is_itself_to_the_step(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    said = simulate(JOBS / "run.py", "torch", str(folder / "sums"))
    simulate(JOBS / "run.py", "torch", str(folder / "plain"), "--plain")
    (ours,) = (folder / "sums").rglob("FL_global_model.pt")
    (plain,) = (folder / "plain").rglob("FL_global_model.pt")
    assert said.count("3 of 3 nodes are in it") == 2
    a, b = torch.load(ours)["model"], torch.load(plain)["model"]
    for name, tensor in a.items():
        if not name.endswith("num_batches_tracked"):  # the server's own stays
            # Two sums whose step is 4 / 2^19 times a largest weight of 120 over a mean one of 2.
            assert (tensor - b[name]).abs().max() < 2 * 4.6e-4, name


@pytest.mark.slow
def test_a_server_and_sites_in_real_processes_come_to_fedavgs_model(folder: Path) -> None:
    said = simulate(JOBS / "poc.py", NVFLARE_POC_WORKSPACE=str(folder / "poc"))
    simulate(EXAMPLES / "fedavg_job.py", str(folder / "plain"), "--plain")
    assert "FINISHED:COMPLETED" in said
    ours = next((folder / "poc").rglob("transfer/**/server.npy"))
    (plain,) = (folder / "plain").rglob("server.npy")
    assert np.abs(np.load(ours) - np.load(plain)).max() < 3 * STEP
    homes = list((folder / "poc").rglob("site-*/local/secagg/burnt.sqlite"))
    assert len(homes) == 3, "each site answered out of its own folder"
