"""secagg runs on its own `dp` and `protocols`, or not at all. Each case is a fresh interpreter."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import secagg._siblings

HOME = Path(secagg._siblings.__file__).parent.parent
NAMES = pytest.mark.parametrize("name", ["dp", "protocols"])
STRANGER = "raise SystemExit('the stranger ran')"


def run(script, folder, *, home=HOME):
    """Run a script that lies in ``folder``, which Python then searches first."""
    (folder / "main.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "main.py"], cwd=folder, env=environment, capture_output=True, text=True
    )


def refused(done, name):
    return (
        done.returncode == 1
        and f"ImportError: secagg needs its own {name!r} package" in done.stderr
        and "the stranger ran" not in done.stderr
    )


def test_alone_it_loads(tmp_path):
    done = run("import secagg._siblings", tmp_path)
    assert done.returncode == 0, done.stderr


@NAMES
def test_a_package_beside_the_script_is_refused_without_running_it(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(STRANGER)
    done = run("import secagg._siblings", tmp_path)
    assert refused(done, name), done.stderr
    assert str(tmp_path / name) in done.stderr  # it says which one to rename


@NAMES
def test_a_single_file_beside_the_script_is_refused_without_running_it(tmp_path, name):
    (tmp_path / f"{name}.py").write_text(STRANGER)
    assert refused(run("import secagg._siblings", tmp_path), name)


@NAMES
def test_a_single_file_one_folder_below_our_home_is_refused(tmp_path, name):
    for package in ("secagg", "dp", "protocols"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    shutil.copy(HOME / "secagg" / "_siblings.py", tmp_path / "secagg")
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    assert run("import secagg._siblings", scripts, home=tmp_path).returncode == 0
    (scripts / f"{name}.py").write_text(STRANGER)
    assert refused(run("import secagg._siblings", scripts, home=tmp_path), name)


@NAMES
def test_a_folder_without_init_does_no_harm_because_python_prefers_ours(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "errors.py").write_text(STRANGER)
    script = f"import secagg._siblings, {name}; print({name}.__file__)"
    done = run(script, tmp_path)
    assert done.stdout.strip() == str(HOME / name / "__init__.py"), done.stderr


@NAMES
def test_a_folder_without_init_is_refused_where_ours_is_gone(tmp_path, name):
    home = tmp_path / "home"
    for package in {"secagg", "dp", "protocols"} - {name}:
        (home / package).mkdir(parents=True)
        (home / package / "__init__.py").touch()
    shutil.copy(HOME / "secagg" / "_siblings.py", home / "secagg")
    (tmp_path / "scripts" / name).mkdir(parents=True)
    # -S: no site-packages, where an installed copy of ours would be found after all.
    script = tmp_path / "scripts" / "main.py"
    script.write_text("import secagg._siblings")
    done = subprocess.run(
        [sys.executable, "-S", str(script)],
        env={**os.environ, "PYTHONPATH": str(home)},
        capture_output=True,
        text=True,
    )
    assert refused(done, name), done.stderr
    assert "a folder without __init__.py" in done.stderr


@NAMES
def test_a_stranger_imported_before_is_refused(tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f"{name}.py").touch()
    script = (
        f"import sys; sys.path.insert(0, 'elsewhere'); import {name}\n"
        "sys.path.pop(0); import secagg._siblings"
    )
    assert refused(run(script, tmp_path), name)


@NAMES
def test_a_module_built_by_hand_is_refused(tmp_path, name):
    script = f"import sys, types; sys.modules[{name!r}] = types.ModuleType({name!r})\n"
    assert refused(run(script + "import secagg._siblings", tmp_path), name)
