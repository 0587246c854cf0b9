"""Refuse to run on somebody else's ``dp`` or ``protocols``.

Both names are short and common: a folder ``protocols/`` with an ``__init__.py``
or a file ``protocols.py`` beside the caller's script is found before ours. Our
three packages are installed side by side, so what is not the package beside
this one is not ours, whatever it contains.

| found first under our name             | then                                               |
|----------------------------------------|----------------------------------------------------|
| the package beside this one            | ours                                               |
| a package or a single file elsewhere   | ``ImportError``                                    |
| a stranger imported earlier            | ``ImportError``                                    |
| a folder without ``__init__.py``       | Python prefers ours; ``ImportError`` if ours is gone |

Looking does not run the stranger's code.
"""

from importlib.util import find_spec
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent


def _refuse_stranger(name: str) -> None:
    try:
        spec = find_spec(name)
    except ValueError:  # imported already, by somebody who built the module by hand
        found, ours = "a module without a file", False
    else:
        if spec is None:
            found, ours = "nothing", False
        elif spec.origin is None:
            found, ours = "a folder without __init__.py", False
        else:
            found = spec.origin
            ours = Path(found).resolve() == _HOME / name / "__init__.py"
    if not ours:
        raise ImportError(
            f"secagg needs its own {name!r} package at {_HOME / name}, but Python finds {found} "
            "first. Rename or remove that one, or install secagg again.",
            name=name,
        )


for _name in ("dp", "protocols"):
    _refuse_stranger(_name)
