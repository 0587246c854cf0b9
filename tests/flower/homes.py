"""The folder of each hospital's node, with a policy of its own; and what the node says of it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hospitals import task
from secagg.nodes.identities import create_identity, load_identity, sign_roster
from secagg.nodes.node import new_folder

COMMAND = [sys.executable, "-c", "from secagg.cli.main import main; main()"]


def make(folder: Path, *, noise: bool = False, more: str = "") -> list[Path]:
    """A folder a hospital; ``noise``: every sum needs it. ``more`` stands in every policy."""
    homes = []
    for number in range(len(task.HOSPITALS)):
        home = new_folder(folder / f"hospital-{number}")
        patients, _ = task.load(number)
        (home / "policy.toml").write_text(
            f'units = ["example"]\nallow_no_noise = {str(not noise).lower()}\n'
            f"examples = {len(patients)}\ndelta = 1e-4\n{more}"
        )
        homes.append(home)
    return homes


def config(homes: Sequence[Path]) -> list[dict[str, str]]:
    """What each node is started with."""
    return [{"secagg-home": str(home)} for home in homes]


def make_signing(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Folders of hospitals that sign, and nothing less; and what the run is told of it."""
    operator = create_identity(folder / "operator.key", "operator")
    public = operator.key.public.hex()
    homes = make(folder, more=f'active = true\noperator = "{public}"\n')
    members = {}
    for number, home in enumerate(homes):
        shown = create_identity(home / "identity.key", f"hospital-{number}").shown
        members[number] = (shown.name, shown.public)
    roster = sign_roster(load_identity(folder / "operator.key"), members)
    for home in (folder, *homes):
        (home / "roster.json").write_bytes(roster)
    return homes, {"roster": str(folder / "roster.json"), "operator": public}


def secagg(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
    """``secagg ... --json`` in a process of its own: exit code and what it says."""
    done = subprocess.run([*COMMAND, *arguments, "--json"], capture_output=True, text=True)
    if not done.stdout:
        raise RuntimeError(done.stderr)
    return done.returncode, json.loads(done.stdout)
