"""The reference, read from the code: a page says ``<!-- generated: NAME WORDS -->`` where it goes.

Names of the API come from each module's ``__all__``, commands from click, metrics from what the
server answers. So there is one text of each, and it is beside what it describes.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from textwrap import indent
from types import ModuleType

import click
from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

import secagg
from secagg.adapters.http.watch import Watch
from secagg.cli.main import cli
from secagg.nodes.policy import TEMPLATE

ROOT = Path(__file__).parents[1]
PACKAGES = ("secagg", "dp", "protocols")
MARK = re.compile(r"<!-- generated: (\w+)(?: (.+?))? -->\n")
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORTED = re.compile(r"^(?:from|import) ((?:secagg|dp|protocols)(?:\.\w+)*)", re.MULTILINE)
TABLE = re.compile(r"^(?P<indent> *)\|.*\|\n *\|[-| :]+\|\n(?: *\|.*\|\n)+", re.MULTILINE)
ARRAY_LIKE = stringify_annotation(ArrayLike, "smart")
ARRAY = r"~?(?:numpy\.)?ndarray\[tuple\[.*?\.\.\.\], ~?(?:numpy\.)?dtype\[(.*?)\]\]"
COLON = "\ue000"  # stands for one until napoleon has read the text
CELL = re.compile(r"(?<!\\)\|")


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put what is generated in the place of its mark."""
    source[0] = MARK.sub(lambda mark: PARTS[mark[1]](*(mark[2] or "").split()), source[0])


# The API

ROOMS = ("secagg", "secagg.adapters", "dp", "protocols")  # a page each


def api(room: str) -> str:
    """The modules of a room that programs import from, each with what it gives."""
    lines: list[str] = []
    for name, module in _modules().items():
        if room == max((each for each in ROOMS if f"{name}.".startswith(f"{each}.")), key=len):
            lines += _module(name, module)
    return "\n".join(lines) + "\n"


@cache
def _modules() -> dict[str, ModuleType]:
    """What has an ``__all__``, what a package names, and what the code of a page imports from."""
    found = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        if re.search(r"^__all__.* = \[(?!\])", path.read_text("utf-8"), re.MULTILINE):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.add(".".join(parts).removesuffix(".__init__"))
    for package in PACKAGES:
        found |= set(re.findall(rf"``({package}\.\w+)``", import_module(package).__doc__ or ""))
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for code in FENCE.findall(page.read_text("utf-8")):
            found |= set(IMPORTED.findall(code))
    return {name: module for name in sorted(found) if (module := _imported(name))}


def _imported(name: str) -> ModuleType | None:
    """The module, unless a library of its extra is not installed here."""
    try:
        return import_module(name)
    except (secagg.MissingExtraError, secagg.MissingLibrary):
        return None


@cache
def _homes() -> dict[int, str]:
    """By object the shortest name under which it is given: it is described there alone."""
    found: dict[int, str] = {}
    for name, module in sorted(_modules().items(), key=lambda item: item[0].count(".")):
        for each in _names(module):
            if callable(thing := getattr(module, each)):
                found.setdefault(id(thing), f"{name}.{each}")
    return found


def _names(module: ModuleType) -> list[str]:
    """What it gives, but for modules."""
    if "__dir__" in vars(module):
        names = module.__dir__()
    elif "__all__" in vars(module):
        names = module.__all__
    else:
        names = [
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__ and callable(value)
        ]
    given = [name for name in names if not name.startswith("_")]
    return sorted(name for name in given if not inspect.ismodule(getattr(module, name)))


def _module(name: str, module: ModuleType) -> Iterator[str]:
    yield f"\n## `{name}`\n\n```{{eval-rst}}\n.. automodule:: {name}\n"
    elsewhere = []
    for each in _names(module):
        thing, place = getattr(module, each), f"{name}.{each}"
        if (home := _homes().get(id(thing), place)) != place:
            elsewhere.append(f":py:obj:`{each} <{home}>`")
            continue
        if inspect.isclass(thing):
            error = issubclass(thing, BaseException)
            yield f".. {'autoexception' if error else 'autoclass'}:: {place}"
            yield "   :members:\n   :undoc-members:" + "\n   :show-inheritance:" * error + "\n"
        elif inspect.isfunction(thing):
            yield f".. autofunction:: {place}\n"
        else:
            yield f".. autodata:: {place}\n   :no-value:\n"
    if elsewhere:
        yield f"Also given here: {', '.join(elsewhere)}.\n"
    yield "```\n"


def skip(app: Sphinx, what: str, name: str, member: object, *_: object) -> bool | None:
    """Leave out the fields of a class, which its *Attributes* describe."""
    kept = inspect.isroutine(member) or isinstance(member, property | cached_property | Enum)
    return None if kept else True


def read_signature(
    app: Sphinx, what: str, name: str, thing: object, options: object, *said: str | None
) -> tuple[str | None, str | None]:
    """Call types of numpy, and functions that are defaults, as the code does."""
    arguments, gives = (text and _readable(text) for text in said)
    return arguments, gives


def _readable(text: str) -> str:
    text = re.sub(ARRAY, r"NDArray[\1]", text.replace(ARRAY_LIKE, "ArrayLike"))
    text = re.sub(r"= <(?:built-in function|function|class) '?(\w+)'?>", r"= \1", text)
    return re.sub(r"= <[^,)]*>", "= ...", text)


def keep_colon(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Hide a property's first colon: napoleon takes what is before it for a type."""
    if what == "property" and lines:
        lines[0] = lines[0].replace(":", COLON)


def read_docstring(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Docstrings are written as in Markdown, and autodoc reads reStructuredText.

    So tables are rewritten, bars escaped, and blocks of code marked. Of the three errors of one
    name the package's own is meant.
    """
    package = (getattr(thing, "__module__", None) or name).partition(".")[0]
    text = "\n".join([*lines, ""]).replace(COLON, ":")
    text = re.sub(r"(:raises .*?)(?<!\.)\bInputError\b", rf"\1{package}.InputError", text)
    # Sphinx takes the first of two words for a type.
    text = re.sub(r"(:(?:ivar|param) \w+(?:, \w+)+:)", lambda m: m[1].replace(", ", ","), text)
    paragraphs, code = list[str](), False
    for paragraph in TABLE.sub(_table, text).split("\n\n"):
        before = paragraphs[-1] if paragraphs else ""
        struct = paragraph.startswith("struct {")
        code = struct or (paragraph.startswith("    ") and (code or before[:1].isalpha()))
        if struct:
            paragraph = indent(paragraph, "    ")
        if code:
            paragraphs.append(f"::\n\n{paragraph}")
        else:
            paragraphs.append(re.sub(r"(``.*?``)|\|", lambda bar: bar[1] or r"\|", paragraph))
    lines[:] = "\n\n".join(paragraphs).splitlines()


def _table(found: re.Match[str]) -> str:
    head, _, *rows = [
        [cell.strip() for cell in CELL.split(line.strip())[1:-1]]
        for line in found[0].strip().splitlines()
    ]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *rows):
        lines += [f"   {'  -' if at else '* -'} {cell}" for at, cell in enumerate(row)]
    return indent("\n".join(["", *lines, "", ""]), found["indent"])


# Commands


def commands() -> str:
    """Every command with its arguments, options and defaults, as ``--help`` says them."""
    return "\n".join(_command(cli, "secagg", None)) + "\n"


def _command(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, info_name=name.rpartition(" ")[2], parent=parent)
    if parent is not None:
        yield f"{'#' * (1 + name.count(' '))} `{name}`\n"
    yield _options_as_code(inspect.cleandoc(command.help or "").replace("\b\n", "")) + "\n"
    if not isinstance(command, click.Group):
        yield f"```text\n{name} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    records = [each.get_help_record(context) for each in command.get_params(context)]
    rows = [each for each in records if each and each[1] and "--help" not in each[0]]
    if rows and parent is not None:
        yield "| option | meaning |\n|---|---|"
        for option, told in rows:
            yield f"| `{_cell(option)}` | {_options_as_code(_cell(told))} |"
        yield ""
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            if found is not None:
                yield from _command(found, f"{name} {each}", context)


def _options_as_code(text: str) -> str:
    """Two hyphens in prose would become a dash."""
    return re.sub(r"(`.*?`)|(--[a-z][a-z-]*)", lambda it: it[1] or f"`{it[2]}`", text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# Whatever else has one place in the code


def metrics() -> str:
    """What ``/metrics`` answers of a server that has done nothing yet."""
    told = re.findall(r"^# HELP (\S+) (.+)$", Watch().text({}), re.MULTILINE)
    rows = [f"| `{name}_total` | {what} |" for name, what in told]
    return "\n".join(["| counter | what |", "|---|---|", *rows]) + "\n"


def policy() -> str:
    """The policy that ``secagg node new`` writes."""
    return f"```toml\n{TEMPLATE}```\n"


def docstring(module: str) -> str:
    """What a module says of its file."""
    return f"```text\n{inspect.getdoc(import_module(module))}\n```\n"


PARTS: dict[str, Callable[..., str]] = {
    part.__name__: part for part in (api, commands, metrics, policy, docstring)
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Fill pages as they are read."""
    app.connect("source-read", fill)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", read_signature)
    app.connect("autodoc-process-docstring", keep_colon, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", read_docstring)
    return {"parallel_read_safe": True}
