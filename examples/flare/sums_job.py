"""Three clinics whose sums are Collab calls; the simulator runs all of them on this machine."""

import logging
import sys
from pathlib import Path

import numpy as np
from clinics import TRUE, gradient
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.collab import CollabRecipe, collab
from nvflare.recipe.sim_env import SimEnv

from secagg.adapters.flare import SecureSite, SecureSums
from secagg.nodes import WeightedMean

log = logging.getLogger("sums")


class Server:
    """What the server's operator runs."""

    def __init__(self, out: str) -> None:
        self.out = out

    @collab.main
    def run(self):
        sums = SecureSums(WeightedMean(clip=2.0, max_weight=120, train_metrics={"loss": 100.0}))
        model = FLModel(params={"weight": np.zeros(len(TRUE), np.float32)})
        for _ in range(5):
            model = sums.run("train", model)
            log.info("loss %.4f", model.metrics["loss"])
        np.savez(self.out, **model.params)


class Clinic(SecureSite):
    """What a clinic runs: three steps of linear regression on its own rows."""

    def train(self, model):
        weight = model.params["weight"].astype(float)
        for _ in range(3):
            step, loss, rows = gradient(weight, collab.site_name)
            weight -= 0.5 * step
        return FLModel(
            params={"weight": weight.astype(np.float32)},
            metrics={"loss": loss},
            meta={"NUM_STEPS_CURRENT_ROUND": rows},
        )


if __name__ == "__main__":
    out = Path(sys.argv[1]).resolve()
    recipe = CollabRecipe("sums", Server(str(out)), Clinic(), min_clients=3)
    recipe.execute(SimEnv(num_clients=3, workspace_root=str(out.parent / "workspace")))
