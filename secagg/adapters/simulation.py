"""Folders for the nodes of Flower's simulation, which are one machine's and protect nothing."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Final

from secagg.errors import NodeError
from secagg.nodes.node import new_folder
from secagg.nodes.policy import NodePolicy

ACTORS: Final = "flwr.simulation.ray_transport.ray_actor"
SIMULATED: Final = NodePolicy(allow_no_noise=True, graphs=("complete", "sparse"))
"""What a simulated node agrees to: a new folder's policy, and sparse graphs for many nodes."""


def simulated_home(run: int, node: int) -> Path | None:
    """The folder of a simulated node; ``None`` where this process is none of the simulation's.

    It is told by the process, an actor of Ray that Flower's simulation made, and by nothing that
    a server could send: a node that is deployed has no such actors, and goes on to refuse.

    Raises:
      NodeError: another user has taken the place.
    """
    ray = sys.modules.get("ray")
    if ACTORS not in sys.modules or ray is None or not ray.is_initialized():
        return None
    if ray.get_runtime_context().get_actor_id() is None:
        return None
    root = Path(tempfile.gettempdir()) / f"secagg-simulation-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.is_symlink() or root.stat().st_uid != os.getuid():
        raise NodeError(f"{root} is another user's; set TMPDIR to a folder of your own")
    home = root / str(run) / str(node)
    return home if home.is_dir() else new_folder(home)
