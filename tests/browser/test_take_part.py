"""Sums of `secagg serve` with nodes in Node and in Chromium beside nodes in Python.

What runs is examples/browser. Where there is no Node, or no Chromium, its tests are skipped.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from serving import (
    MEAN,
    MODEL,
    check_moved,
    free_port,
    joined,
    let_time_pass,
    mean_of,
    run_commands,
    serving,
    summing,
    weigh,
)

from secagg.adapters.http import Server
from secagg.interop.fuzzer import fuzz
from secagg.interop.process import ForeignPeer
from secagg.nodes import create_identity
from secagg.stage import UNSIGNED, Stage

ROOT = Path(__file__).parents[2]
PARTS = ("examples/browser", "tests/browser", "tests/vectors")
VECTORS = ("blocks.json", "codec.json", "carried.json", "plans.csv")
COMPARED = 100  # values in them that the modules make
EVERYBODY = [1, 2, 3, 4, 5]
FAILS = 99  # a node whose program raises
Wait = Callable[[], object]  # until a node has ended
Start = Callable[..., Wait]  # at a server, out of a folder, of a number, until a line it says


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("NO NODE: nobody took part from it. Put Node 20 or newer on PATH")
    return found


class Quiet(SimpleHTTPRequestHandler):
    """Files, without a word."""

    def log_message(self, *_: Any) -> None:
        pass


class Pages(Quiet):
    """The files of ``PARTS``, and a page with nothing on it."""

    def do_GET(self) -> None:
        if self.path == "/":
            self.send_response(200)
            self.end_headers()
        elif any(self.path.startswith(f"/{part}/") for part in PARTS):
            super().do_GET()
        else:
            self.send_error(404)


@contextmanager
def site(handler: Callable[..., Quiet]) -> Iterator[str]:
    """The origin of what a handler shows."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def pages() -> Iterator[str]:
    """The origin of pages that have the modules."""
    with site(partial(Pages, directory=str(ROOT))) as origin:
        yield origin


@contextmanager
def in_node(node: str) -> Iterator[Start]:
    """Nodes that are processes of Node; they are gone at the end."""
    with ExitStack() as running:

        def start(
            server: Server, home: Path, number: int, last: str | None, /, **policy: Any
        ) -> Wait:
            given = json.dumps([server.url, (home / "token").read_text(), number, last, policy])
            program = str(ROOT / "tests" / "browser" / "member.mjs")
            process = subprocess.Popen([node, program, given], stderr=subprocess.DEVNULL)
            running.enter_context(process)
            running.callback(process.kill)
            return process.wait

        yield start


@contextmanager
def in_chromium(browser: Any, origin: str) -> Iterator[Start]:
    """Nodes that are modules of one page, which is left at the end."""
    browser.open(f"{origin}/")

    def start(server: Server, home: Path, number: int, last: str | None, /, **policy: Any) -> Wait:
        given = json.dumps([server.url, (home / "token").read_text(), number, last, policy])
        browser.script(
            "import('/tests/browser/member.mjs')"
            f".then(({{ member }}) => {{ window.node{number} = member(...{given}); }})"
        )
        return partial(browser.script, f"window.node{number}")

    yield start
    browser.open("about:blank")


@pytest.fixture(params=["Node", "Chromium"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts nodes outside Python, in each engine in turn."""
    if request.param == "Node":
        made = in_node(request.getfixturevalue("node"))
    else:
        made = in_chromium(request.getfixturevalue("browser"), request.getfixturevalue("pages"))
    with made as starts:
        yield starts


def test_two_sums_with_nodes_in_python_come_to_their_mean(
    start: Start, folder: Path, pages: str
) -> None:
    with serving(folder, 5, origins=(pages,)) as (server, homes):
        for number in (1, 2):
            start(server, homes[number], number, None)
        with joined(server.url, {number: homes[number] for number in (3, 4, 5)}):
            with summing(server, 5) as running:
                outcome = running.result(60)
            check_moved(outcome.model, EVERYBODY)
            with summing(server, 5, outcome.model) as running:
                outcome = running.result(60)
    check_moved(outcome.model, EVERYBODY, start=mean_of(EVERYBODY), within=2e-3)
    assert list(outcome.report.survivors) == EVERYBODY
    assert outcome.weight == sum(map(weigh, EVERYBODY))
    loss = sum(weigh(n) * (n % 5) for n in EVERYBODY) / outcome.weight
    assert outcome.metrics["loss"] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("last", UNSIGNED[:-1])
def test_a_sum_goes_on_without_a_node_that_ends_after_a_stage(
    start: Start, folder: Path, pages: str, last: Stage
) -> None:
    with serving(folder, 5, origins=(pages,)) as (server, homes):
        ended = start(server, homes[1], 1, f"{last}: answered")
        start(server, homes[2], 2, None)
        others = {number: homes[number] for number in (3, 4, 5)}
        with joined(server.url, others), summing(server, 5) as running:
            ended()
            let_time_pass(server, 1)
            outcome = running.result(60)
    inside = EVERYBODY if last is Stage.MASK else EVERYBODY[1:]
    check_moved(outcome.model, inside)
    assert list(outcome.report.survivors) == inside


def test_all_nodes_may_be_outside_python(start: Start, folder: Path, pages: str) -> None:
    with serving(folder, 3, origins=(pages,)) as (server, homes):
        for number, home in homes.items():
            start(server, home, number, None)
        with summing(server, 3) as running:
            outcome = running.result(60)
    check_moved(outcome.model, [1, 2, 3])


def test_metrics_alone_are_summed_and_the_model_stays(
    start: Start, folder: Path, pages: str
) -> None:
    summed = replace(MEAN, evaluate_metrics={"loss": 10.0})
    with serving(folder, 3, origins=(pages,)) as (server, homes):
        for number, home in homes.items():
            start(server, home, number, None)
        outcome = server.sums("evaluate", summed).run(MODEL, nodes=3)
    assert all(np.array_equal(outcome.model[name], MODEL[name]) for name in MODEL)
    loss = sum(weigh(n) * (n % 5) for n in homes) / sum(map(weigh, homes))
    assert outcome.metrics["loss"] == pytest.approx(loss, abs=1e-6)


def test_a_program_that_fails_brings_zeros_and_tells_nothing(
    start: Start, folder: Path, pages: str
) -> None:
    with serving(folder, 4, origins=(pages,)) as (server, homes):
        start(server, homes.pop(1), FAILS, None)
        with joined(server.url, homes), summing(server, 4) as running:
            outcome = running.result(60)
    check_moved(outcome.model, [2, 3, 4])
    assert list(outcome.report.survivors) == [1, 2, 3, 4]


def test_a_node_that_pins_its_server_answers_no_other(
    start: Start, folder: Path, pages: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours, other = (create_identity(folder / name, name) for name in ("ours", "other"))
    with serving(folder, 4, origins=(pages,)) as (server, homes):
        start(server, homes.pop(1), 1, None, server=ours.shown.public.hex())
        start(server, homes.pop(2), 2, None, server=other.shown.public.hex())
        with joined(server.url, homes), summing(server, 4, identity=ours.key) as running:
            outcome = running.result(60)
    assert list(outcome.report.survivors) == [1, 3, 4]
    (why,) = [
        record.getMessage()
        for record in caplog.records
        if getattr(record, "event", "") == "declined"
    ]
    assert "node-2" in why
    assert "policy refuses (server)" in why


def test_a_node_brings_its_update_of_a_model_to_so_many_sums(
    start: Start, folder: Path, pages: str
) -> None:
    with serving(folder, 4, origins=(pages,)) as (server, homes):
        start(server, homes.pop(1), 1, None, sums_per_model=1)
        with joined(server.url, homes):
            found = []
            for _ in range(2):
                with summing(server, 4) as running:
                    found.append(list(running.result(60).report.survivors))
    assert found == [[1, 2, 3, 4], [2, 3, 4]]


def test_a_page_of_another_origin_may_not_take_part(browser: Any, folder: Path, pages: str) -> None:
    with serving(folder, 1, origins=("http://127.0.0.1:1",)) as (server, homes):
        browser.open(f"{pages}/")
        token = (homes[1] / "token").read_text()
        call = (
            f"fetch({server.url + '/v1/task'!r}, {{headers: {{Authorization: 'Bearer {token}'}}}})"
        )
        said = browser.script(f"{call}.then(() => 'answered', (error) => error.name)")
    assert said == "TypeError"


def test_node_makes_the_vectors(node: str) -> None:
    files = [str(ROOT / "tests" / "vectors" / name) for name in VECTORS]
    program = [node, str(ROOT / "tests" / "browser" / "check.mjs"), *files]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= COMPARED


def test_chromium_makes_the_vectors(browser: Any, pages: str) -> None:
    browser.open(f"{pages}/")
    found = browser.script(
        "import('/tests/browser/check.mjs').then(async ({ check }) => check(await Promise.all("
        f"{json.dumps(VECTORS)}.map((name) =>"
        " fetch(`/tests/vectors/${name}`).then((answer) => answer.text())))))"
    )
    assert found >= COMPARED


def test_counts_of_sums_over_a_model_outlive_a_page(browser: Any, pages: str) -> None:
    take = (
        "import('/examples/browser/secagg.mjs')"
        ".then(({ indexedDbBurns }) => indexedDbBurns('test')('a model', 2))"
    )
    found = []
    for _ in range(3):
        browser.open(f"{pages}/")
        found.append(browser.script(take))
    assert found == [True, True, False]


@pytest.mark.slow
def test_the_commands_of_the_readme_come_to_the_model(node: str, folder: Path) -> None:
    example, port = folder / "browser", free_port()
    for name in ("http", "browser"):
        shutil.copytree(ROOT / "examples" / name, folder / name)
    for path in example.iterdir():
        path.write_text(path.read_text("utf-8").replace("8481", str(port)))
    done = run_commands(example)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "train: 10 sums, model in model.npz"
    with np.load(example / "model.npz") as model:
        assert np.allclose(model["weight"], [1.0, -2.0, 0.5], atol=0.05)


def test_the_page_of_the_example_takes_part_from_its_form(browser: Any, folder: Path) -> None:
    shutil.copytree(ROOT / "examples" / "browser", folder / "page")
    shown = folder / "page"
    with (
        site(partial(Quiet, directory=str(shown))) as origin,
        serving(folder, 3, origins=(origin,)) as (server, homes),
    ):
        for path in shown.iterdir():
            path.write_text(path.read_text("utf-8").replace("http://127.0.0.1:8481", server.url))
        browser.open(f"{origin}/index.html")
        token = (homes.pop(1) / "token").read_text()
        browser.script(f"void (form.token.value = {token!r}, form.requestSubmit())")
        start = {"weight": np.zeros(3, np.float32)}
        with joined(server.url, homes), summing(server, 3, start) as running:
            outcome = running.result(60)
        browser.open("about:blank")
    assert list(outcome.report.survivors) == [1, 2, 3]
    assert outcome.weight == MEAN.max_weight + weigh(2) + weigh(3)
    weight = outcome.model["weight"]  # of the first clinic above all: it moves towards 1, -2, 0.5
    assert weight[0] > 0.1 > -0.1 > weight[1]


@pytest.mark.slow
def test_the_fuzzer_finds_no_difference(node: str) -> None:
    command = f"{node} {ROOT / 'examples' / 'browser' / 'peer.mjs'}"
    with ForeignPeer(command) as peer:
        report = fuzz(peer, roles=peer.hello(), seed=0, rounds=12)
    assert (report.differences, report.ended) == (0, None), report.first
    assert report.comparisons > 2000
