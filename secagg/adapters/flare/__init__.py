"""Secure sums under NVIDIA FLARE: by Collab calls, or behind a workflow that stays as it is.

    class Server:                                             # a Collab job
        @collab.main
        def run(self):
            sums = SecureSums(WeightedMean(clip=0.5, max_weight=500))
            for _ in range(10):
                model = sums.run("train", model)              # FLModel in, FLModel out

    class Site(SecureSite):
        def train(self, model): ...                           # FLModel in, FLModel out

    secagg_recipe(FedAvgRecipe(...), WeightedMean(...))       # any other: FedAvg and its like

Guarantee: what reaches the server of a site's update, number of steps and metrics is masked; see
``protocols.bonawitz`` for whom that holds against. A site answers stages of sums that the policy
in its own ``local/secagg`` allows, and no task in clear but those that were named. What its program
raises stays in its log.

Not protected from: a job that brings code of its own to sites that run whatever they are sent
(docs/flare.md says which rights to withhold), what a mean says, and the numbers that are public
here: who takes part, at which stage a site was lost, and how long it took. In FLARE's simulator all
parties are one machine's.
"""

from importlib.metadata import PackageNotFoundError, version

from secagg.errors import MissingExtraError
from secagg.extras import install


def _check_version() -> None:
    wanted = "secagg.adapters.flare works with nvflare>=2.9,<2.10"
    try:
        found = version("nvflare")
    except PackageNotFoundError:
        raise MissingExtraError(f"{wanted}: {install('flare')}", name="nvflare") from None
    if found.split(".")[:2] != ["2", "9"]:
        raise MissingExtraError(f"{wanted}, and {found} is installed: {install('flare')}")


_check_version()

from secagg.adapters.flare.site import SecureExecutor, SecureSite  # noqa: E402  # after the check
from secagg.adapters.flare.sums import SecureSums, SumsOfJob  # noqa: E402  # likewise
from secagg.adapters.flare.workflow import secagg_recipe  # noqa: E402  # likewise

__all__ = ["SecureExecutor", "SecureSite", "SecureSums", "SumsOfJob", "secagg_recipe"]
