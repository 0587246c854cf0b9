"""What to say, in one line, where a library is missing that an extra of secagg brings."""

from importlib.util import find_spec
from typing import Final

from secagg.errors import MissingExtraError

TRAIN: Final = ("torch", "opacus", "sklearn", "safetensors", "threadpoolctl", "matplotlib")


def require(what: str, *modules: str, extra: str) -> None:
    """Raise ``MissingExtraError`` if one of ``modules`` is not installed; none is imported."""
    for module in modules:
        if find_spec(module) is None:
            raise missing(what, module, extra=extra)


def missing(what: str, module: str, *, extra: str) -> MissingExtraError:
    """The error that says which library ``what`` lacks, and how to get it."""
    text = f"{what} needs {module}, which is not installed: {install(extra)}"
    return MissingExtraError(text, name=module)


def install(extra: str) -> str:
    """The command that brings ``extra``. No package index has secagg, so it needs a clone."""
    return f"pip install '.[{extra}]' in a clone of secagg"
