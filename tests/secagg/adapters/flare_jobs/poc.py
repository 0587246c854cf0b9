"""Run FedAvg over sums in real processes, in the folder that NVFLARE_POC_WORKSPACE names."""

import os
import sys
import threading
import time
from pathlib import Path

from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe.poc_env import PocEnv

from secagg.adapters.flare import secagg_recipe
from secagg.nodes import WeightedMean, new_folder

FOLDER = Path(os.environ["NVFLARE_POC_WORKSPACE"])
SITES = [f"site-{n}" for n in range(1, 4)]
CLINICS = Path(__file__).parents[4] / "examples" / "flare" / "train.py"


def make_homes() -> None:
    """As each site's operator would, as soon as FLARE has made the site's folder."""
    left = set(SITES)
    while left:
        for local in FOLDER.rglob("site-*/local"):
            if local.parent.name in left:
                new_folder(local / "secagg")
                left.discard(local.parent.name)
        time.sleep(0.2)


if __name__ == "__main__":
    threading.Thread(target=make_homes, daemon=True).start()
    recipe = NumpyFedAvgRecipe(
        name="poc", model=[0.0] * 3, min_clients=3, num_rounds=3, train_script=str(CLINICS)
    )
    secagg_recipe(recipe, WeightedMean(clip=2.0, max_weight=120))
    env = PocEnv(num_clients=len(SITES))
    try:
        run = recipe.execute(env)
        env.get_job_result(run.get_job_id(), timeout=150.0)  # run.get_result removes the folder
        sys.stdout.write(str(env.get_job_status(run.get_job_id())))
    finally:
        env.stop()
