"""``secagg bench``: what it prints and writes, and how it fails."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from html.parser import HTMLParser
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg.bench import contenders, quick, utility
from secagg.bench.costs import PROTOCOLS, Case, measure, plot
from secagg.bench.measure import machine as here
from secagg.rounds.ckks import CKKS

Run = Callable[..., tuple[int, str, str]]
FULL = Path(__file__).parents[3] / "benchmarks" / "results" / "utility.json"
POINTS = ("costs", "--clients", "4", "--entries", "10,20", "--dropout", "0")


@pytest.fixture
def bench(secagg: Run) -> Run:
    return partial(secagg, "bench")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """``quick`` as short as it gets: seven samples, enough for an interval."""
    short = partial(quick.quick, sizes=((4, 10),), passes=7, rounds=1)
    monkeypatch.setattr(quick, "quick", short)


def test_quick_prints_one_page_and_writes_two_files(bench: Run, tiny: None, tmp_path: Path) -> None:
    code, out, _ = bench("quick", "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert code == 0
    for protocol in PROTOCOLS:
        assert protocol in out
    assert "Every sum was checked" in out
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["schema"], record["kind"]) == (1, "quick")
    assert [point["protocol"] for point in record["points"]] == list(PROTOCOLS)
    assert {len(each["ratios"]) for each in record["measurements"]} == {7}
    page = Page()
    page.feed((tmp_path / "a.html").read_text())
    assert page.requests == []
    assert page.count["svg"] == 3
    assert page.count["tr"] == 2 + len(PROTOCOLS) + len(record["measurements"])

    code, out, err = bench("compare", tmp_path / "a.json", tmp_path / "a.json")
    assert code == 2  # seven samples hold no median with the confidence that 20 costs need
    assert "samples enough" in err
    code, out, _ = bench(
        "compare", tmp_path / "a.json", tmp_path / "a.json", "--confidence", "0.5", "--json"
    )
    assert code == 0
    assert {change["verdict"] for change in json.loads(out)["changes"]} == {"same"}


class Page(HTMLParser):
    """Counts elements, and collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.requests: list[str] = []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.count[name] = self.count.get(name, 0) + 1
        for key, value in attributes:
            if key in ("src", "href", "data") and not (value or "").startswith("data:"):
                self.requests.append(value or "")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two constructions, and no CKKS."""
    monkeypatch.setattr(quick, "PRIMITIVES", quick.PRIMITIVES[:2])
    monkeypatch.setattr(quick, "PROTOCOLS", [p for p in quick.PROTOCOLS if p not in CKKS])


@pytest.mark.usefixtures("few")
def test_a_machine_too_busy_is_measured_fewer_times_over_and_says_so() -> None:
    *_, (_, record) = quick.quick(sizes=((4, 10),), passes=3, rounds=1, deadline=0.0)
    assert record.notes == ("a busy machine: measured 1 times over, not 3",)
    assert {len(each.ratios) for each in record.measurements} == {1}


@pytest.mark.usefixtures("few")
def test_quick_says_how_many_steps_it_takes() -> None:
    sizes = tuple((4, 10 + at) for at in range(len(quick.SIZES)))
    yielded = sum(1 for _ in quick.quick(passes=2, rounds=1, sizes=sizes))
    assert yielded == quick.steps(2) + 1


@pytest.mark.usefixtures("few")
def test_quick_goes_on_where_it_was_stopped(
    bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = partial(quick.quick, sizes=((4, 10),), passes=3, rounds=1)
    path = tmp_path / "a.json"
    stopped = next(record for _, record in tiny() if len(record.passes) == 2)
    stopped.write(path)
    monkeypatch.setattr(quick, "quick", tiny)
    code, out, _ = bench("quick", "--json", path, "--csv", tmp_path / "a.csv")
    assert code == 0
    record = json.loads(path.read_text())
    for before, after in zip(stopped.measurements, record["measurements"], strict=True):
        assert len(after["ratios"]) == 3
        assert tuple(after["ratios"][:2]) == before.ratios
    assert "passes" not in record
    assert (tmp_path / "a.csv").read_text().count("\n") == 1 + len(record["measurements"])
    monkeypatch.setattr(quick, "interleaved", None)
    code, again, err = bench("quick", "--json", path)
    assert (code, again) == (0, out)
    assert "is whole; nothing is measured anew" in err
    monkeypatch.setattr(quick, "quick", partial(tiny, sizes=((5, 10),)))
    stopped.write(path)
    assert "begun with other protocols" in bench("quick", "--json", path)[2]


def test_costs_prints_points_and_growth_and_draws_them(bench: Run, tmp_path: Path) -> None:
    code, out, _ = bench(
        *("costs", "--clients", "4,1001", "--entries", "1e1,20", "--dropout", "0"),
        *("--protocol", "complete,plain", "--svg", tmp_path / "costs.svg"),
    )
    assert code == 0
    assert "complete 4 x 10" in " ".join(out.split())
    assert "growth: fitted powers" in out
    assert "Left out: complete graph of 1,001 clients" in out
    assert (tmp_path / "costs.svg").read_bytes().startswith(b"<?xml")


def test_costs_goes_on_where_it_was_stopped(bench: Run, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    assert bench(*POINTS, "--protocol", "plain", "--json", path)[0] == 0
    first = json.loads(path.read_text())["points"]
    assert bench(*POINTS, "--protocol", "plain,complete", "--json", path)[0] == 0
    both = json.loads(path.read_text())["points"]
    assert both[:2] == first
    assert [point["protocol"] for point in both] == ["plain"] * 2 + ["complete"] * 2


def test_points_are_written_as_a_table(bench: Run, tmp_path: Path) -> None:
    bench(*POINTS, "--protocol", "plain", "--json", tmp_path / "a", "--csv", tmp_path / "c")
    with (tmp_path / "c").open() as file:
        lines = list(csv.DictReader(file))
    points = json.loads((tmp_path / "a").read_text())["points"]
    assert [line["entries"] for line in lines] == ["10", "20"]
    assert lines[0].keys() == points[0].keys()
    assert float(lines[1]["client_seconds"]) == points[1]["client_seconds"]


@pytest.fixture
def additive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the example, as the current one."""
    folder = Path(__file__).parents[3] / "examples" / "bench"
    monkeypatch.chdir(folder)
    path, modules = list(sys.path), set(sys.modules)
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name == "additive":
            del sys.modules[name]


def test_a_protocol_of_ones_own_is_measured_beside_the_others(
    bench: Run, tmp_path: Path, additive: Path
) -> None:
    path, sizes = tmp_path / "a", ("--clients", "4", "--entries", "30", "--dropout", "0,0.5")
    arguments = ("costs", *sizes, "--protocol", "plain,additive:Additive", "--json", path)
    code, out, _ = bench(*arguments, "--svg", tmp_path / "svg")
    assert code == 0
    assert "Left out: additive:Additive 4 x 30 -50%: additive shares" in " ".join(out.split())
    (point,) = [each for each in json.loads(path.read_text())["points"] if ":" in each["protocol"]]
    assert point["bytes_up"] == (4 + 1) * 8 * 10  # a vector of ten words for each, and a sum
    assert point["bytes_down"] == 4 * 8 * 10
    assert b"additive:Additive" in (tmp_path / "svg").read_bytes()
    assert bench(*arguments)[0] == 0  # gone on with, though it can never measure one point
    code, _, err = bench("compare", path, path)
    assert (code, "samples enough" in err) == (2, True)  # it is read, and one round judges nothing


def test_an_installed_package_names_its_protocol(
    bench: Run, additive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = EntryPoint("additive", "additive:Additive", contenders.GROUP)
    monkeypatch.setattr(contenders, "entry_points", lambda group: [one])
    sizes = ("--clients", "4", "--entries", "30", "--dropout", "0")
    code, out, _ = bench("costs", *sizes, "--protocol", "additive")
    assert (code, "additive:Additive" in out) == (0, True)
    _, _, err = bench("costs", *sizes, "--protocol", "hope")
    assert "threshold-ckks, additive, module:class" in err


class Broken:
    """A protocol whose server loses a client's vector, says a text, or fails."""

    stages, vector_stage, how = 1, 0, "loses"

    def __init__(self, case: Case) -> None:
        self.sent: list[Any] = []

    def client(self, client: int, stage: int, received: bytes, vector: Any) -> Any:
        return "text" if self.how == "says" else vector.tobytes()

    def server(self, stage: int, sent: Mapping[int, bytes]) -> Mapping[int, bytes]:
        self.sent = [np.frombuffer(each, np.uint64) for each in sent.values()]
        return {}

    def total(self) -> Any:
        if self.how == "fails":
            raise KeyError("lost")
        return np.sum(self.sent[self.how == "loses" :], axis=0, dtype=np.uint64)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("loses", "gave a wrong sum"),
        ("says", "sent a str, must be bytes"),
        ("fails", "KeyError: 'lost'"),
    ],
)
def test_a_protocol_of_ones_own_that_is_wrong_gives_no_number(
    bench: Run, how: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "how", how)
    monkeypatch.setattr(contenders, "named", lambda setting, name: Broken)
    code, out, err = bench(*POINTS, "--protocol", "it:Broken")
    assert (code, out) == (2, "")
    assert words in err
    monkeypatch.setattr(Broken, "how", "works")
    assert bench(*POINTS, "--protocol", "it:Broken")[0] == 0


def test_ticks_of_less_than_a_decade_are_the_sizes_that_were_measured() -> None:
    points = [measure(Case(protocol="plain", clients=4, entries=d)) for d in (2000, 3000, 5000)]
    drawn = plot(points).decode()
    ticks = re.findall(r"<!-- (\S+) -->", drawn)
    assert [each for each in ticks if each in ("2000", "3000", "5000")]
    assert not [each for each in ticks if "times" in each and "10^{3}" in each]


def test_costs_does_not_mix_machines_or_kinds(bench: Run, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    bench(*POINTS, "--protocol", "plain", "--json", path)
    record = json.loads(path.read_text())
    for change, words in (
        ({"machine": record["machine"] | {"cores": 1000}}, "another machine"),
        ({"kind": "quick"}, "not of costs"),
        ({"schema": 9}, "no benchmark of schema 1"),
    ):
        path.write_text(json.dumps(record | change))
        code, _, err = bench(*POINTS, "--protocol", "plain", "--json", path)
        assert code == 2
        assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("costs", "--clients", "ten"), "--clients 'ten' is no list"),
        (("costs", "--clients", "1.5"), "--clients '1.5' is no list"),
        (("costs", "--clients", "inf"), "--clients 'inf' is no list"),
        (("costs", "--protocol", "hope"), "unknown protocol 'hope'"),
        (("costs", "--clients", "1"), "nothing to measure"),
        (("costs", "--protocol", "nowhere:It"), "--protocol nowhere:It: ModuleNotFoundError"),
        (("quick", "--json", "nowhere/a.json"), "no folder 'nowhere'"),
        (("costs", "--svg", "nowhere/a.svg"), "no folder 'nowhere'"),
        (("compare", "nowhere.json", "nowhere.json"), "cannot read nowhere.json"),
    ],
)
def test_bad_input_is_one_line(bench: Run, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = bench(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def benchmark(path: Path, ratio: float, **machine: Any) -> Path:
    """A file with one cost, whose ratio lies within 1 % of ``ratio``."""
    one = here() | {"load": [0.0]} | machine
    each = {"name": "it", "reference": "aes", "bound": False, "seconds": 1.0}
    record = {
        "schema": 1,
        "kind": "quick",
        "began": "today",
        "seconds": 1.0,
        "machine": one,
        "notes": [],
        "points": [],
        "measurements": [each | {"ratios": [ratio * (1 + n / 1000) for n in range(10)]}],
    }
    path.write_text(json.dumps(record))
    return path


def test_compare_ends_with_1_for_a_regression(bench: Run, tmp_path: Path) -> None:
    before = benchmark(tmp_path / "a", 1.0)
    code, out, err = bench("compare", before, benchmark(tmp_path / "b", 2.0))
    assert (code, err) == (1, "")
    assert "Worse: it." in out
    assert bench("compare", before, tmp_path / "b", "--tolerance", "2")[0] == 0
    code, out, _ = bench("compare", before, tmp_path / "b", "--json")
    assert code == 1
    assert json.loads(out)["regressions"] == ["it"]
    code, out, _ = bench("compare", tmp_path / "b", before)
    assert code == 0
    assert "better" in out


def test_compare_warns_of_another_machine(bench: Run, tmp_path: Path) -> None:
    before = benchmark(tmp_path / "a", 1.0)
    code, _, err = bench("compare", before, benchmark(tmp_path / "b", 1.0, cpu="z"))
    assert code == 0
    assert "different machines" in err
    code, _, err = bench("compare", before, benchmark(tmp_path / "b", 1.0, load=[1e3]))
    assert code == 0
    assert "busy with other work" in err


def test_the_papers_tables_are_printed_again_from_the_file(bench: Run, tmp_path: Path) -> None:
    code, out, _ = bench("paper", "--quick", "--json", tmp_path / "a.json")
    assert code == 0
    assert "1.73" in out
    assert out.count("20 x 1000") == 3
    assert bench("paper", "--from", tmp_path / "a.json")[:2] == (0, out)
    assert bench("costs", "--json", tmp_path / "a.json")[0] == 2
    assert bench("paper", "--from", tmp_path / "b.json")[0] == 2


def test_a_sweep_of_utility_is_gone_on_with_and_drawn_again(
    bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(case: utility.Case) -> dict[str, Any]:
        return asdict(case) | {"accuracy": 0.5, "noise_multiplier": 1.0, "lost": 0, "seconds": 0.0}

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the sweep sets
    monkeypatch.setattr(utility, "run", run)
    monkeypatch.setattr(utility, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    target, svg = tmp_path / "a.json", tmp_path / "a.svg"
    code, out, _ = bench("utility", "--quick", "--json", target)
    assert code == 0
    assert out.count("0.500 (0.500 to 0.500)") == len(utility.MODES) * len(utility.QUICK_EPSILONS)
    monkeypatch.setattr(utility, "run", None)
    assert bench("utility", "--quick", "--json", target) == (0, out, "")
    # What another sweep left in the file is not in the table, and that is said.
    known = utility.read(target)
    stale = [each | {"seed": 7} for each in known["runs"][:3]]
    utility.write(target, known | {"runs": known["runs"] + stale})
    code, same, err = bench("utility", "--quick", "--json", target)
    assert (code, same) == (0, out)
    assert err == f"secagg: 3 runs of another sweep, which {target} held, left out\n"
    assert bench("utility", "--from", target, "--svg", svg)[:2] == (0, out)
    assert b"<svg" in svg.read_bytes()


MINE = """
import torch

def people(clients):
    torch.manual_seed(3)
    rows = torch.randn(40 * clients + 40, 5)
    found = (rows[:, 0] > 0).long()
    parts = [(rows[40 * n : 40 * n + 40], found[40 * n : 40 * n + 40]) for n in range(clients)]
    return parts, (rows[-40:], found[-40:])

def four(clients):
    return people(4)

def network():
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
"""
SWEEP = (
    *("utility", "--epsilon", "4", "--clients", "6", "--delta", "1e-3"),
    *("--rounds", "4", "--learning-rate", "2", "--clip", "1"),
)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module with data and a model of one's own, in the current folder; one process."""
    (tmp_path / "people_of_mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(utility, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("people_of_mine", None)


@pytest.mark.usefixtures("mine")
def test_ones_own_data_is_swept_and_gone_on_with(
    bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, file = ("--data", "people_of_mine:people"), tmp_path / "own.json"
    files = ("--json", file, "--csv", tmp_path / "own.csv", "--svg", tmp_path / "own.svg")
    modes = ("--mode", "none,local,central,distributed")
    code, out, err = bench(*SWEEP, *data, *modes, "--seeds", "1", *files)
    assert (code, err) == (0, "")
    for mode in ("none", "local", "central", "distributed"):
        assert f"people_of_mine:people | {mode}, 6 clients |" in out
    runs = json.loads(file.read_text())["runs"]
    assert {run["mode"]: run["noise_multiplier"] > 0 for run in runs} == {
        "none": False,
        **dict.fromkeys(("local", "central", "distributed"), True),
    }
    assert next(run for run in runs if run["mode"] == "none")["accuracy"] > 0.8
    lines = (tmp_path / "own.csv").read_text().splitlines()
    assert len(lines) == 1 + 4
    assert "learning_rate" in lines[0]
    assert b"<svg" in (tmp_path / "own.svg").read_bytes()

    code, out, _ = bench(*SWEEP, *data, "--mode", "none", "--seeds", "2", "--json", file)
    assert code == 0
    both = json.loads(file.read_text())["runs"]
    assert both[:4] == runs
    assert [run["seed"] for run in both[4:]] == [1]
    assert bench("utility", "--from", file)[:2] == (0, out)
    monkeypatch.setattr(utility, "run", None)
    for other, words in (
        ((*SWEEP, *data, "--mode", "none", "--rounds", "5"), "runs of other settings"),
        (("utility", "--quick"), "of another kind"),
    ):
        code, _, err = bench(*other, "--json", file)
        assert (code, words in err) == (2, True), err


@pytest.mark.usefixtures("mine")
def test_a_model_of_ones_own_is_swept_too(bench: Run) -> None:
    own = ("--data", "people_of_mine:people", "--model", "people_of_mine:network")
    code, out, _ = bench(*SWEEP, *own, "--mode", "none,distributed", "--seeds", "1")
    assert (code, "distributed, 6 clients" in out) == (0, True)


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "people_of_mine:four"), "has 4 clients, not 6; set --clients"),
        (("--data", "people_of_mine:network"), "TypeError"),
        (("--data", "nowhere:it"), "ModuleNotFoundError"),
        (("--data", "mnist"), "unknown data 'mnist'"),
        (("--mode", "magic"), "unknown mode 'magic'"),
        (("--clients", "1"), "clients 1 is outside"),
        (("--epsilon", "x"), "--epsilon 'x' is no list"),
        (("--quick",), "--quick runs its own cases"),
        (("--from", __file__), "--from runs its own cases"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_any_run(
    bench: Run, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(utility, "run", None)
    code, out, err = bench(*SWEEP, *arguments)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())


@pytest.mark.usefixtures("mine")
def test_own_data_needs_the_settings_that_no_default_is_right_for(bench: Run) -> None:
    code, _, err = bench("utility", "--data", "people_of_mine:people", "--clients", "6")
    assert (code, "needs --rounds" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "needs --json"),
        (("--from", "nobody.json", "--quick"), "must be a file that exists"),
        (("--from", "nobody.json"), "must be a file that exists"),
        (("--quick", "--json", FULL), "leave out --quick"),
    ],
)
def test_utility_refuses_what_would_lose_runs(
    bench: Run, arguments: tuple[object, ...], words: str
) -> None:
    code, _, err = bench("utility", *arguments)
    assert code == 2
    assert words in " ".join(err.split())
