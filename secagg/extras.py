"""What others bring: a library that may be missing, and objects that a user names."""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from secagg.errors import InputError, MissingExtraError

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


def named(setting: str, name: str) -> Any:
    """What ``module:name`` names; found from the current folder too.

    Raises:
      InputError: there is none, or its module fails. The message is one line.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise failed(setting, name, error) from error


def failed(setting: str, name: str, error: Exception) -> InputError:
    """The error, in one line, that says how what a user named has failed."""
    told = f"{error}".splitlines() or [""]
    return InputError(f"{setting} {name}: {type(error).__name__}: {told[0]}".removesuffix(": "))
