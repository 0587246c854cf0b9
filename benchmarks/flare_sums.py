"""Seconds and CPU of sums by FLARE's Collab calls, beside training; the simulator has all parties.

python benchmarks/flare_sums.py 10 10000 scratch/flare

Each site's training adds a number to each entry. Wall time of each stage is printed for each sum;
the machine's other work is in it, so the minimum of several is what counts.
"""

import logging
import sys
import time
from pathlib import Path

import numpy as np
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.collab import CollabRecipe, collab
from nvflare.recipe.sim_env import SimEnv

from secagg.adapters.flare import SecureSite, SecureSums
from secagg.nodes import SumSettings, WeightedMean

log = logging.getLogger("bench")
SUMS = 6


class Server:
    def __init__(self, entries: int) -> None:
        self.entries = entries

    @collab.main
    def run(self):
        sums = SecureSums(WeightedMean(clip=1.0, max_weight=10), SumSettings(dropout="0.3"))
        model = FLModel(params={"w": np.zeros(self.entries, np.float32)})
        for _ in range(SUMS):
            begin, used = time.perf_counter(), time.process_time()
            model = sums.run("train", model)
            wall, cpu = time.perf_counter() - begin, time.process_time() - used
            stages = {each.stage.value: round(each.seconds, 2) for each in sums.history[-1].stages}
            up = sum(each.bytes_up for each in sums.history[-1].stages)
            log.info("SUM %.2f s, server's CPU %.2f s, %d bytes up, %s", wall, cpu, up, stages)


class Site(SecureSite):
    def train(self, model):
        params = {name: array + np.float32(0.1) for name, array in model.params.items()}
        return FLModel(params=params, params_type=ParamsType.FULL)


if __name__ == "__main__":
    sites, entries, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).resolve()
    recipe = CollabRecipe("sums", Server(entries), Site(), min_clients=sites)
    recipe.execute(SimEnv(num_clients=sites, workspace_root=str(folder)))
