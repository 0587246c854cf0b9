"""The package as it is built, on every Python that pyproject.toml names.

Wheel and sdist are built once and judged by twine. Then, for each interpreter that is found, every
extra alone goes into a fresh environment, with the versions of constraints.txt, and is run; the
environment without an extra also runs the tests of the unpacked sdist. Those of them that need a
library of an extra are left out and counted. On the oldest Python the same runs once more with the
oldest versions that pyproject.toml allows.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PINS: Final = ROOT / "constraints.txt"
BASE: Final = "base"  # no extra
OLDEST: Final = "oldest"  # no extra, and the lower bounds of what the package needs
_BASE_RUNS: Final = (
    "import secagg.cli.plan, secagg.cli.keys, dp.ledger, dp.noise, protocols.bonawitz"
)
EXTRAS: Final = {  # what runs with it beside a sum under masks
    BASE: _BASE_RUNS,
    OLDEST: _BASE_RUNS,
    "train": "import dp.sgd, secagg.training.loop, secagg.bench.utility, secagg.attacks.suite",
    "ckks": "from protocols.ckks import Engine; how = secagg.Ckks(engine=Engine.SEAL); "
    "print(secagg.aggregate([[0.5]] * 3, clip=1.0, protocol=how).weight)",
    "flower": "import secagg.adapters.flower",
    "flare": "import secagg.adapters.flare",
    "http": "import secagg.adapters.http.server, secagg.adapters.http.plans",
}
SUM: Final = "import secagg; print(secagg.__file__, secagg.aggregate([[0.5]] * 3, clip=1.0).weight)"
PACKAGES: Final = ("secagg", "dp", "protocols")
TEST_TOOLS: Final = ("pytest", "hypothesis", "pytest-xdist")
# These read the packages' source, which is taken away so that the wheel is what is tested.
OF_THE_SOURCE: Final = (
    *("test_contributing", "test_makefile", "test_numbers", "test_words", "vectors/test_mutate"),
)
BUILD_TOOLS: Final = ("hatchling", "hatch-fancy-pypi-readme", "twine")
# Not beside the base package: libraries of the extras, peers, and what builds.
WITHOUT: Final = (
    *("torch", "opacus", "sklearn", "safetensors", "threadpoolctl", "matplotlib"),
    *("tenseal", "flwr", "ray", "distributed", "hatchling"),
    *("starlette", "uvicorn", "httptools", "nvflare", "triton"),
)
OTHER: Final = "other"


class Failed(Exception):
    """A program of ours ended badly; its output is the message."""


def main() -> int:
    """Every Python and extra asked for, or all; 1 if one failed or none was found."""
    supported = pythons_named()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only",
        metavar="VERSION",
        help=f"this Python alone, such as {supported[-1]}; or {OTHER}: the newest but this one",
    )
    parser.add_argument("--extra", choices=EXTRAS, action="append", help="alone; may be repeated")
    asked = parser.parse_args()
    found = {
        each: find(each)
        for each in ([asked.only] if asked.only not in (None, OTHER) else supported)
    }
    for version in (version for version, path in found.items() if path is None):
        say(version, "absent")
    there = {version: path for version, path in found.items() if path is not None}
    if asked.only == OTHER:
        here = "{}.{}".format(*sys.version_info[:2])
        there = dict([each for each in there.items() if each[0] != here][-1:])
        if not there:
            say(OTHER, f"no Python is here beside {here}")
            return 0
    failures = 0 if there else 1
    with tempfile.TemporaryDirectory(prefix="secagg-") as folder:
        place = Path(folder)
        try:
            wheel, source = build(place)
        except Failed as failure:
            say("build", f"FAILED\n{failure}")
            return 1
        for version, python in there.items():
            for extra in asked.extra or EXTRAS:
                if extra == OLDEST and version != supported[0] and not asked.extra:
                    continue  # newer Pythons have no wheels of what is so old
                failures += not tried(version, python, extra, wheel, source, place)
    return 1 if failures else 0


def project() -> dict[str, list[str]]:
    """That table of pyproject.toml."""
    found: dict[str, dict[str, list[str]]]
    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return found["project"]


def pythons_named() -> list[str]:
    """Those of the classifiers, oldest first."""
    return [
        found[1]
        for line in project()["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
    ]


def find(version: str) -> Path | None:
    """An interpreter of this version that starts: pyenv leaves names on the path that do not."""
    for candidate in _candidates(version):
        probe = [candidate, "-c", "import sys; print('{}.{}'.format(*sys.version_info[:2]))"]
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    return None


def _candidates(version: str) -> Iterator[Path]:
    """What may be this Python: on the path, and of pyenv."""
    if on_path := shutil.which(f"python{version}"):
        yield Path(on_path)
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    yield from sorted(versions.glob(f"{version}.*/bin/python{version}"), reverse=True)


def build(place: Path) -> tuple[Path, Path]:
    """The wheel, and the folder of the unpacked sdist without its packages."""
    python = environment(Path(sys.executable), place / "build")
    pip(python, *BUILD_TOOLS)
    dist = place / "dist"
    run(python.with_name("hatchling"), "build", "--directory", dist, cwd=ROOT)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    run(python, "-m", "twine", "check", "--strict", wheel, sdist, cwd=place)
    say("build", f"{wheel.name} and {sdist.name} pass twine check")
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "source", filter="data")
    source = place / "source" / sdist.name.removesuffix(".tar.gz")
    for package in PACKAGES:
        shutil.rmtree(source / package)  # what its tests import is then the wheel's
    return wheel, source


def tried(version: str, python: Path, extra: str, wheel: Path, source: Path, place: Path) -> bool:
    """Whether the wheel works there with that extra; say so either way."""
    began = time.monotonic()
    home = place / f"{version}-{extra}"
    try:
        own = environment(python, home)
        pins = oldest_pins(home / "oldest.txt") if extra == OLDEST else PINS
        bare = extra in (BASE, OLDEST)
        pip(own, str(wheel) if bare else f"{wheel}[{extra}]", pins=pins)
        printed = run(own, "-c", f"{SUM}\n{EXTRAS[extra]}", cwd=place).splitlines()
        if not (printed[0].startswith(str(home)) and printed[0].endswith(" 3")):
            raise Failed(f"another package, or another sum: {printed[0]}")
        said = run(own.with_name("secagg"), "--version", cwd=place).strip()
        if said != wheel.name.split("-")[1]:
            raise Failed(f"secagg --version says {said!r}, the wheel is {wheel.name}")
        summary = tested(own, source, pins) if bare else []
    except Failed as failure:
        say(version, f"{extra} FAILED\n{failure}")
        return False
    finally:
        shutil.rmtree(home, ignore_errors=True)  # with torch it is gigabytes
    say(version, f"{extra} passed in {time.monotonic() - began:.0f} s", *summary)
    return True


def tested(python: Path, source: Path, pins: Path) -> list[str]:
    """Run the sdist's tests on the installed wheel; the last lines that they print."""
    pip(python, *TEST_TOOLS, pins=pins)
    words = ("-q", "-n", "auto", "-m", "not slow", f"--without={','.join(WITHOUT)}")
    left_out = (f"--ignore=tests/{name}.py" for name in OF_THE_SOURCE)
    lines = run(python, "-m", "pytest", *words, *left_out, cwd=source).splitlines()
    return [line for line in lines if re.match(r"\d+ (files|tests) left out|\d+ passed", line)]


def environment(python: Path, home: Path) -> Path:
    """The interpreter of a fresh environment."""
    run(python, "-m", "venv", home, cwd=home.parent)
    return home / "bin" / "python"


def oldest_pins(path: Path) -> Path:
    """Constraints of the package's own lower bounds, and of constraints.txt for all else."""
    lows = {}
    for needed in project()["dependencies"]:
        if not (found := re.match(r"([\w-]+)>=([\d.]+)", needed)):
            raise Failed(f"{needed!r} of pyproject.toml has no lower bound")
        lows[found[1]] = found[2]
    lines = PINS.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.partition("==")[0] not in lows]
    path.write_text("\n".join([*kept, *(f"{name}=={low}" for name, low in lows.items())]))
    return path


def pip(python: Path, *requirements: str, pins: Path = PINS) -> None:
    """Install what is named, in the versions that ``pins`` gives."""
    words = ("--quiet", "--disable-pip-version-check", "--constraint", pins)
    run(python, "-m", "pip", "install", *words, *requirements, cwd=python.parent)


def run(program: Path, *words: str | Path, cwd: Path) -> str:
    """What it prints. The tree that this file lies in is not on its path."""
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [program, *words],
        cwd=cwd,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, (program, *words)))}\n{done.stdout}")
    return done.stdout


def say(about: str, *lines: str) -> None:
    """Print lines, each under its heading."""
    for line in lines:
        print(f"{about:>6}  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
