"""A recipe of FLARE's whose workflow is handed sums."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from fractions import Fraction
from typing import Any, Final

from nvflare.collab import CollabRecipe
from nvflare.job_config.fed_app_config import ServerAppConfig
from nvflare.recipe.spec import Recipe

from secagg.adapters.flare.site import SecureExecutor
from secagg.adapters.flare.sums import SumsOfJob
from secagg.errors import InputError
from secagg.nodes.coordinator import NoisySum, SumSettings, WeightedMean

WORK: Final = "secagg_work_{}"  # id of the component that trains
POLL: Final = 0.2  # seconds between two calls of a site for tasks, of which a sum takes up to four
EVENTS: Final = "ConvertToFedEvent"  # sends what a program logs, such as its losses
STREAM: Final = "JobLogStreamer"  # sends the log


def secagg_recipe(
    recipe: Recipe,
    summed: WeightedMean | str | None = None,
    cohort: SumSettings | None = None,
    *,
    params_type: str = "FULL",
    deadline: float = 60.0,
    allow_plaintext: Sequence[str] = (),
) -> Recipe:
    """The same recipe, whose server sees sums. Call it last, before ``execute`` or ``export``.

    Args:
      summed: weighted means; or "module:function", which returns what is summed and a
        ``SumSettings``. It is called on the server, where ledgers, rosters and keys are.
      params_type: "DIFF" for a workflow that expects differences, such as FedOpt.
      deadline: seconds for a stage but that which trains, which has the task's own timeout.
      allow_plaintext: names of tasks that pass as they are, unprotected, such as "validate".

    Raises:
      InputError: a Collab job, which calls ``SecureSums`` itself; settings that no job can carry;
        or the recipe streams logs to the server.
    """
    if isinstance(recipe, CollabRecipe):
        raise InputError("a Collab job sums in its own main: SecureSums(...).run('train', model)")
    if params_type not in ("FULL", "DIFF"):
        raise InputError(f"params_type is {params_type!r}, must be 'FULL' or 'DIFF'")
    settings: Mapping[str, Any] | str
    if isinstance(summed, str):
        if cohort is not None:
            raise InputError(f"{summed} returns the settings of the cohort too; leave cohort out")
        settings = summed
    else:
        settings = {
            "summed": _plain(summed or WeightedMean()),
            "cohort": _plain(cohort or SumSettings()),
        }
    clear = list(allow_plaintext)
    recipe.add_client_config({"secagg": 1})  # from here on the apps of sites are there
    recipe.add_server_config({"server": {"task_request_interval": POLL}})
    job = recipe._job  # noqa: SLF001  # FLARE has no other way to an executor that was added
    # What is installed on servers and sites is not sent to them once more.
    job.set_app_packages([*job.job.app_packages, "secagg", "dp", "protocols"])
    for app in job._deploy_map.values():  # noqa: SLF001  # likewise
        config = app.get_app_config()
        if isinstance(config, ServerAppConfig):
            app.add_component(SumsOfJob(settings, params_type, deadline, clear), "secagg_sums")
            continue
        kinds = {name: type(each).__name__ for name, each in config.components.items()}
        if STREAM in kinds.values():
            raise InputError("this recipe streams the logs of sites to the server; leave that out")
        for name in [name for name, kind in kinds.items() if kind == EVENTS]:
            config.handlers.remove(config.components.pop(name))
        for place, each in enumerate(config.executors):
            app.add_component(each.executor, WORK.format(place))
            each.executor = SecureExecutor(WORK.format(place), clear)
    return recipe


def _plain(settings: WeightedMean | NoisySum | SumSettings) -> dict[str, Any]:
    """Fields that are not their defaults, as JSON has them."""
    found: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        default = None if field.default is MISSING else field.default
        if value == default or (isinstance(value, Fraction) and value == Fraction(str(default))):
            continue
        if isinstance(settings, NoisySum) or field.name in ("roster", "identity", "expand"):
            raise InputError(
                f"{field.name} cannot be part of a job, which everybody reads: give "
                "'module:function' in place of settings, which makes them on the server"
            )
        if isinstance(value, Fraction):
            value = str(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        elif isinstance(value, tuple | list | set | frozenset):
            value = sorted(value)
        found[field.name] = value
    return found
