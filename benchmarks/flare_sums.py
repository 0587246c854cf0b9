"""Seconds and CPU of sums by FLARE's Collab calls, beside training; the simulator has all parties.

python benchmarks/flare_sums.py 10 10000

Each site's training adds a number to each entry. Of each sum the wall time of each stage is
printed, as JSON; the machine's other work is in it, so the minimum of several is what counts.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.collab import CollabRecipe, collab
from nvflare.recipe.sim_env import SimEnv

from secagg.adapters.flare import SecureSite, SecureSums
from secagg.nodes import SumSettings, WeightedMean

SUMS = 6


class Server:
    def __init__(self, entries: int, out: str) -> None:
        self.entries, self.out = entries, out

    @collab.main
    def run(self):
        sums = SecureSums(WeightedMean(clip=1.0, max_weight=10), SumSettings(dropout="0.3"))
        model = FLModel(params={"w": np.zeros(self.entries, np.float32)})
        said = []
        for _ in range(SUMS):
            begin, used = time.perf_counter(), time.process_time()
            model = sums.run("train", model)
            wall, cpu = time.perf_counter() - begin, time.process_time() - used
            stages = {each.stage.value: round(each.seconds, 2) for each in sums.history[-1].stages}
            up = sum(each.bytes_up for each in sums.history[-1].stages)
            said.append({"seconds": wall, "server_cpu": cpu, "bytes_up": up, "stages": stages})
        Path(self.out).write_text(json.dumps(said))


class Site(SecureSite):
    def train(self, model):
        params = {name: array + np.float32(0.1) for name, array in model.params.items()}
        return FLModel(params=params, params_type=ParamsType.FULL)


if __name__ == "__main__":
    sites, entries = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "said.json"
        recipe = CollabRecipe("sums", Server(entries, str(out)), Site(), min_clients=sites)
        own = os.dup(1)
        os.dup2(2, 1)  # the lines of the simulator and its processes
        recipe.execute(SimEnv(num_clients=sites, workspace_root=f"{folder}/work"))
        said = {"sites": sites, "entries": entries, "sums": json.loads(out.read_text())}
        os.write(own, json.dumps(said).encode())
