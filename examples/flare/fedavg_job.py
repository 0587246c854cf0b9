"""FLARE's own FedAvg over sums: its workflow and the training script stay as they are."""

import sys
from pathlib import Path

from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe.sim_env import SimEnv

from secagg.adapters.flare import secagg_recipe
from secagg.nodes import WeightedMean

HERE = Path(__file__).parent
workspace = Path(sys.argv[1]).resolve()
recipe = NumpyFedAvgRecipe(
    name="fedavg",
    model=[0.0, 0.0, 0.0],
    min_clients=3,
    num_rounds=3,
    train_script=str(HERE / "train.py"),
)
if "--plain" not in sys.argv:
    secagg_recipe(recipe, WeightedMean(clip=2.0, max_weight=120))
recipe.execute(SimEnv(num_clients=3, workspace_root=str(workspace)))
