"""One thread a process, and no word to anybody: read when torch, Flower or Ray are imported.

``--without torch,flwr`` leaves out whatever cannot run because one of just these libraries is not
installed, and says how much that was. Without the option a missing library fails its tests.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from protocols.ckks import Engine

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run in as many processes as cores
os.environ.setdefault("SECAGG_THREADS", "1")  # and some count seconds of one core
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

LEFT_OUT = "left out without "
ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A fresh folder, in memory where there is such a place: for files that are synced often."""
    memory = Path("/dev/shm")  # noqa: S108  # nothing there is reused, and its name is random
    with TemporaryDirectory(prefix="folder-", dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


@pytest.fixture(scope="session", params=["COEFFICIENTS", "SEAL"])
def engine(request: pytest.FixtureRequest) -> "Engine":
    """Each arithmetic of CKKS in turn."""
    from protocols.ckks import Engine

    return Engine[request.param]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the pages, built as `make docs` builds it: a warning is an error."""
    pytest.importorskip(
        "sphinx", reason="NO SPHINX: nobody built the site; `make docs` installs it"
    )
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--quiet", "-c", "docs"]
    done = subprocess.run(
        [*build, "-d", str(out / "read"), ".", str(out / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without",
        default="",
        metavar="LIBRARIES",
        help="leave out the tests that need one of these, such as torch,flwr; count them",
    )


def absent(error: BaseException | None, config: pytest.Config) -> str | None:
    """The library of --without whose absence ``error`` comes from."""
    named = config.getoption("--without").split(",")
    while error is not None:
        library = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
        if library and library in named:
            return library
        error = error.__cause__
    return None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file that imports what is left out is skipped whole."""
    report = yield
    if report.failed:
        excinfo = report.call.excinfo
        if library := absent(excinfo.value, collector.config):
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 1, f"Skipped: {LEFT_OUT}{library}")
    return report


def _left_out(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    except Exception as error:
        if library := absent(error, item.config):
            pytest.skip(f"{LEFT_OUT}{library}")
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _left_out(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _left_out(item))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if LEFT_OUT in reason:
            kind = "files" if isinstance(report, pytest.CollectReport) else "tests"
            counts[f"{kind} {reason.removeprefix('Skipped: ')}"] += 1
    for what, count in sorted(counts.items()):
        terminalreporter.write_line(f"{count} {what}")
