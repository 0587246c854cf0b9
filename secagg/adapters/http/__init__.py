"""Sums between machines over HTTP: ``Server`` for whoever sums, ``join`` for a node.

    with Server(ServerSettings(state=Path("server.sqlite"))) as server:
        model = server.sums("train", WeightedMean()).run(model).model

    join("https://sums.example.org:8443", "/srv/secagg", train)

docs/network.md says what it protects, docs/decisions/0012-http.md why it is as it is. ``join``
needs no extra; ``Server`` needs ``http``.
"""

from typing import TYPE_CHECKING, Any

from secagg.adapters.http.client import Program, join
from secagg.extras import require

if TYPE_CHECKING:
    from secagg.adapters.http.server import Outcome, Server, Sums
    from secagg.adapters.http.settings import ServerSettings, SumPlan, read_settings
else:
    _SERVER = ("Outcome", "Server", "Sums")
    _SETTINGS = ("ServerSettings", "SumPlan", "read_settings")

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name in _SERVER:
            require(
                "secagg.adapters.http.Server", "starlette", "uvicorn", "httptools", extra="http"
            )
            return getattr(import_module("secagg.adapters.http.server"), name)
        if name in _SETTINGS:
            return getattr(import_module("secagg.adapters.http.settings"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)


__all__ = [
    "Outcome",
    "Program",
    "Server",
    "ServerSettings",
    "SumPlan",
    "Sums",
    "join",
    "read_settings",
]
