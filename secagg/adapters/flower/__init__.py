"""Secure sums for Flower's Message API: a grid around the server's, a mod on the client's app.

    FedAvg(...).start(grid=SecureGrid(grid), ...)       # server
    app = ClientApp(mods=[secure_mod()])                # client; our mod before all others

Every ``train`` (and ``evaluate``) of a strategy becomes one sum under ``secagg.rounds.relay``: its
stages travel as messages of the same type, and the strategy is handed one reply with the mean,
the total weight and the mean metrics. A strategy that averages works as it is; one of Flower's
that needs single replies (Krum, medians, trimmed means) is refused by name.

Guarantee: what reaches the server of a node's update, weight and metrics is masked; see
``protocols.bonawitz`` for whom that holds against. A message that asks for a plain reply is
refused on both sides. The model comes with the third stage only: an app without the mod fails
at the first for want of the arrays it trains on, and is not asked again. One that trains on
something else replies in clear; that is not read, but it was sent.

Not protected from: a server that ships another app to nodes that run whatever they are sent
(have nodes verify their apps), what a mean says, and the numbers that are public here: who
takes part, at which stage a node was lost, and how long it took. In Flower's simulation all
parties are one machine's: it measures, it protects nothing.
"""

from importlib.metadata import PackageNotFoundError, version

from secagg.errors import MissingExtraError
from secagg.extras import install


def _check_version() -> None:
    wanted = "secagg.adapters.flower works with flwr>=1.41,<2"
    try:
        found = version("flwr")
    except PackageNotFoundError:
        raise MissingExtraError(f"{wanted}: {install('flower')}", name="flwr") from None
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if not (1, 41) <= numbers < (2,):
        raise MissingExtraError(f"{wanted}, and {found} is installed: {install('flower')}")


_check_version()

from secagg.adapters.flower.grid import SecureGrid  # noqa: E402  # after the check
from secagg.adapters.flower.mod import secure_mod  # noqa: E402  # likewise
from secagg.adapters.flower.records import PRIVACY, digest  # noqa: E402  # likewise
from secagg.nodes.coordinator import NoisySum, SumSettings, WeightedMean  # noqa: E402  # likewise
from secagg.nodes.reports import StageReport, SumReport  # noqa: E402  # likewise

__all__ = [
    "PRIVACY",
    "NoisySum",
    "SecureGrid",
    "StageReport",
    "SumReport",
    "SumSettings",
    "WeightedMean",
    "digest",
    "secure_mod",
]
