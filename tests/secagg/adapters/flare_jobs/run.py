"""Run a workflow of FLARE's in its simulator, over sums or plain: run.py WHICH FOLDER [--plain]."""

import sys
from pathlib import Path
from typing import Any

from nvflare.recipe.sim_env import SimEnv

from secagg.adapters.flare import secagg_recipe
from secagg.nodes import WeightedMean

HERE = Path(__file__).parent
CLINICS = HERE.parents[3] / "examples" / "flare" / "train.py"


def torch_fedavg() -> Any:
    from net import Net
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe

    script = str(HERE / "train_net.py")
    return FedAvgRecipe(model=Net(), min_clients=3, num_rounds=2, train_script=script)


def scatter_and_gather() -> Any:
    """FLARE's older workflow, whose aggregator takes differences."""
    from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import (
        InTimeAccumulateWeightedAggregator,
    )
    from nvflare.app_common.np.np_model_persistor import NPModelPersistor
    from nvflare.app_common.shareablegenerators.full_model_shareable_generator import (
        FullModelShareableGenerator,
    )
    from nvflare.app_common.workflows.scatter_and_gather import ScatterAndGather
    from nvflare.client.config import TransferType
    from nvflare.job_config.api import FedJob
    from nvflare.job_config.script_runner import ScriptRunner
    from nvflare.recipe.spec import Recipe

    job = FedJob(name="job", min_clients=3)
    job.to_server(NPModelPersistor(model=[0.0, 0.0, 0.0]), id="persistor")
    job.to_server(FullModelShareableGenerator(), id="shareable_generator")
    job.to_server(InTimeAccumulateWeightedAggregator(), id="aggregator")
    job.to_server(ScatterAndGather(min_clients=1, num_rounds=2, persistor_id="persistor"))
    diff = TransferType.DIFF
    job.to_clients(ScriptRunner(script=str(CLINICS), framework="numpy", params_transfer_type=diff))
    return Recipe(job)


if __name__ == "__main__":
    which, folder = sys.argv[1], sys.argv[2]
    made = torch_fedavg() if which == "torch" else scatter_and_gather()
    if "--plain" not in sys.argv:
        kind = "FULL" if which == "torch" else "DIFF"
        secagg_recipe(made, WeightedMean(clip=2.0, max_weight=120), params_type=kind)
    made.execute(SimEnv(num_clients=3, workspace_root=folder))
