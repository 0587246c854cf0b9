"""The arrows on top of modules are those of the code: steps, messages, next states."""

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import pytest

import dp
import protocols
import secagg
from dp.ledger import ledger
from protocols.bonawitz import client, server
from protocols.bonawitz import messages as bonawitz_messages
from protocols.ckks import client as ckks_client
from protocols.ckks import holder
from protocols.ckks import messages as ckks_messages
from protocols.ckks import server as ckks_server
from protocols.wire import Message
from protocols.zero_sharing import client as rank
from protocols.zero_sharing import messages as rank_messages

STATES = [(client, bonawitz_messages), (holder, ckks_messages), (rank, rank_messages)]
COLLECTIONS = [(server, bonawitz_messages), (ckks_server, ckks_messages)]
ALL = pytest.mark.parametrize(
    ("machine", "messages"), STATES + COLLECTIONS, ids=lambda module: module.__name__
)


class Arrow(NamedTuple):
    """``owner`` does ``step``: what comes out, a message or the name of a class each."""

    owner: str
    step: str
    gives: tuple[str, ...]


def message_of(name: str, messages: ModuleType) -> type[Message] | None:
    """The class that ``name`` or its singular stands for."""
    for each in (name, name.removesuffix("s")):
        found = getattr(messages, each, None)
        if inspect.isclass(found) and issubclass(found, Message):
            return found
    return None


def written(machine: ModuleType, messages: ModuleType) -> dict[Arrow, list[type[Message]]]:
    """The arrows of the module's docstring, and the messages that each of them names."""
    arrows, owner = {}, ""
    for line in (machine.__doc__ or "").splitlines():
        found = re.fullmatch(r"    +([A-Z]\w+)?(?:.* )?\.?(\w+)(?:\(\w*\))? +-> (.+)", line)
        if not found:
            continue
        steps = machine.__name__.endswith("server")
        owner = found[1] or (owner if steps else owner_of(found[2], machine))
        named = [name.strip() for name in found[3].split(",")]
        sent = [kind for name in named if (kind := message_of(name, messages))]
        gives = ["message" if message_of(name, messages) else name for name in named]
        gives = [name for name in gives if " " not in name]  # said in words
        arrows[Arrow(owner, found[2], tuple(gives))] = sent
    return arrows


def steps_of(machine: ModuleType) -> dict[tuple[str, str], Callable[..., Any]]:
    """Every function that begins, every ``on_``, ``sign_`` and ``close`` method of a class."""
    steps: dict[tuple[str, str], Callable[..., Any]] = {}
    for name, value in vars(machine).items():
        if getattr(value, "__module__", "") != machine.__name__ or name.startswith("_"):
            continue
        if inspect.isfunction(value) and name != "restore":
            steps["", name] = value
        if inspect.isclass(value):
            methods = inspect.getmembers(value, inspect.isfunction)
            steps |= {
                (name, step): method
                for step, method in methods
                if step.startswith(("on_", "sign_", "close"))
            }
    return steps


def owner_of(step: str, machine: ModuleType) -> str:
    """The class that has a method of that name, "" for a function."""
    (owner,) = [owner for owner, name in steps_of(machine) if name == step]
    return owner


def drawn(machine: ModuleType) -> set[Arrow]:
    """The arrows by the return types."""
    arrows = set()
    for (owner, step), function in steps_of(machine).items():
        hint = get_type_hints(function)["return"]
        parts = get_args(hint) if get_origin(hint) is tuple else (hint,)
        gives = [
            "message" if bytes in (part, *get_args(part)) else part.__name__
            for part in parts
            if get_origin(part) is not Mapping  # digests to keep, not to send
        ]
        arrows.add(Arrow(owner, step, tuple(gives)))
    return arrows


def calls(function: FunctionType, owner: type | None) -> list[ast.expr]:
    """What ``function`` calls, and the methods of its own class that it names."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Call):
            found.append(node.func)
            method = getattr(owner, getattr(node.func, "attr", ""), None)
            if inspect.isfunction(method) and ast.unparse(node.func).startswith("self._"):
                found += calls(method, owner)
    return found


@ALL
def test_the_arrows_of_a_machine_are_its_methods_and_their_return_types(
    machine: ModuleType, messages: ModuleType
) -> None:
    assert set(written(machine, messages)) == drawn(machine)


@ALL
def test_a_message_on_an_arrow_is_made_by_that_step(
    machine: ModuleType, messages: ModuleType
) -> None:
    steps = steps_of(machine)
    for (owner, step, _), sent in written(machine, messages).items():
        made = map(ast.unparse, calls(steps[owner, step], getattr(machine, owner, None)))
        assert {kind.__name__ for kind in sent} <= set(made)


@pytest.mark.parametrize(
    "messages", [bonawitz_messages, ckks_messages, rank_messages], ids=lambda it: it.__name__
)
def test_the_ladder_of_a_protocol_has_every_message_and_no_other(messages: ModuleType) -> None:
    rungs = re.findall(r"^ +\| .*(?:--->|<---|<-- ).*$", messages.__doc__ or "", re.MULTILINE)
    named = {name for rung in rungs for name in re.findall(r"[A-Z]\w+", rung.rpartition("|")[0])}
    kinds = [each for each in vars(messages).values() if inspect.isclass(each)]
    assert named == {each.__name__ for each in kinds if issubclass(each, Message)} - {"Message"}


def test_the_arrows_of_a_ckks_client_are_what_its_functions_return() -> None:
    arrows = re.findall(r"^ +(\w+) +-> (.+)$", ckks_client.__doc__ or "", re.MULTILINE)
    assert {step for step, _ in arrows} == {"encrypt", "open_sum"}
    for step, gives in arrows:
        hint = get_type_hints(getattr(ckks_client, step))["return"]
        expected = {each.__name__ for each in get_args(hint) or (hint,)}
        assert set(re.findall(r"[A-Z]\w+", gives)) - {"Frame"} == expected
    assert get_type_hints(ckks_client.Upload.__next__)["return"] is bytes  # a frame


def test_the_arrows_of_the_ledger_are_its_methods() -> None:
    (chain,) = re.findall(r"^``.+→.+", ledger.__doc__ or "", re.MULTILINE)
    steps = re.findall(r"``(\w+)``", chain)
    assert steps == ["reserve", "commit"]
    assert all(callable(getattr(ledger.Ledger, step)) for step in steps)


def test_there_are_arrows_in_no_other_module() -> None:
    tested = {*(machine for machine, _ in STATES + COLLECTIONS), ckks_client, ledger}
    tested |= {bonawitz_messages, ckks_messages, rank_messages}
    drawn = {
        path
        for package in (secagg, dp, protocols)
        for path in Path(package.__file__ or "").parent.rglob("*.py")
        if re.search(
            r"^ {4,}\S.* -+> |→", ast.get_docstring(ast.parse(path.read_text())) or "", re.M
        )
    }
    assert drawn == {Path(module.__file__ or "") for module in tested}


@pytest.mark.parametrize(("machine", "messages"), COLLECTIONS, ids=lambda it: it.__name__)
def test_a_collection_receives_the_message_that_its_arrow_says(
    machine: ModuleType, messages: ModuleType
) -> None:
    received = re.findall(r"(Collect\w+) +\.receive\((\w+)\)", machine.__doc__ or "")
    assert {name for name, _ in received} == {owner for owner, _ in steps_of(machine)}
    for name, message in received:
        owner, kind = getattr(machine, name), message_of(message, messages)
        assert kind is not None
        read = map(ast.unparse, calls(owner.receive, owner))
        assert f"{kind.__name__}.from_bytes" in set(read)
