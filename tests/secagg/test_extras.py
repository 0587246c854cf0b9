"""Where an extra is not installed, a command or an import says in one line which one brings it."""

import subprocess
import sys

import pytest

from secagg.extras import TRAIN

CLONE = "in a clone of secagg"


def without(libraries: tuple[str, ...], program: str) -> subprocess.CompletedProcess[str]:
    """Run ``program`` in a fresh interpreter that has none of ``libraries``."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({libraries}))\n"
    return subprocess.run(
        [sys.executable, "-c", blocked + program], capture_output=True, text=True, check=False
    )


def command(*words: str) -> str:
    return f"sys.argv[1:] = {words}\nfrom secagg.cli.main import main; main()"


@pytest.mark.parametrize("library", TRAIN)
@pytest.mark.parametrize("words", ["train", "bench attack", "bench utility"])
def test_a_command_without_its_extra_says_one_line(words: str, library: str) -> None:
    done = without((library,), command(*words.split()))
    missing = next(each for each in TRAIN if each == library or not installed(each))
    line = f"secagg: secagg {words} needs {missing}, which is not installed: "
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{line}pip install '.[train]' {CLONE}\n"


SERVING = ("starlette", "uvicorn", "httptools")


@pytest.mark.parametrize("library", SERVING)
def test_serving_without_its_extra_says_one_line(library: str) -> None:
    done = without((library,), command("serve", "--config", "server.toml"))
    missing = next(each for each in SERVING if each == library or not installed(each))
    line = f"secagg: secagg serve needs {missing}, which is not installed: "
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{line}pip install '.[http]' {CLONE}\n"


def installed(library: str) -> bool:
    from importlib.util import find_spec

    return find_spec(library) is not None


@pytest.mark.parametrize(
    ("library", "module", "error", "extra"),
    [
        ("torch", "secagg.training.loop", "secagg.errors.MissingExtraError", "train"),
        ("torch", "secagg.training.modes", "secagg.errors.MissingExtraError", "train"),
        ("torch", "dp.sgd", "dp.errors.MissingLibrary", "train"),
        ("opacus", "dp.sgd", "dp.errors.MissingLibrary", "train"),
        ("tenseal", "protocols.ckks.by_seal", "ImportError", "ckks"),
        ("_sealapi_cpp", "protocols.ckks.by_seal", "ImportError", "ckks"),
    ],
)
def test_an_import_without_its_extra_says_which(
    library: str, module: str, error: str, extra: str
) -> None:
    done = without((library,), f"import {module}")
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"{error}: {module.removesuffix('.by_seal')} needs ")
    assert said.endswith(f"which is not installed: pip install '.[{extra}]' {CLONE}")


def test_what_needs_no_extra_runs_without_any() -> None:
    done = without(
        (*TRAIN, "tenseal", "flwr", "starlette", "uvicorn", "httptools"),
        "import secagg, secagg.cli.main as cli, importlib\n"
        "for name in cli.COMMANDS: importlib.import_module(f'secagg.cli.{name}')\n"
        "import dp.ledger, dp.noise, protocols.bonawitz, protocols.ckks\n"
        "import secagg.nodes, secagg.adapters.http\n"
        "for how in (secagg.Bonawitz(), secagg.Ckks()):\n"
        "    print(secagg.aggregate([[0.5]] * 3, clip=1.0, protocol=how).weight)",
    )
    assert (done.stdout, done.stderr) == ("3\n3\n", "")
