"""docs/strategies.md says of each of Flower's strategies what the code does with it."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import flwr.clientapp.mod
import flwr.serverapp.strategy as strategies
import pytest
from engine import MEAN, START, fit, grid_of, programs, record
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.client.mod import secagg_mod, secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import (
    LocalDpMod,
    adaptiveclipping_mod,
    arrays_size_mod,
    fixedclipping_mod,
    message_size_mod,
)
from flwr.serverapp.strategy import FedAvg, FedMedian, Strategy

from secagg.adapters.flower import SecureGrid, secure_mod
from secagg.adapters.strategies import REFUSED_STRATEGIES
from secagg.adapters.testing import LocalGrid
from secagg.errors import InputError
from secagg.nodes.node import new_folder

PAGE = (Path(__file__).parents[3] / "docs" / "strategies.md").read_text("utf-8")
TABLE, _ = PAGE.split("## What a message")
SAID = dict(re.findall(r"^\| `(\w+)` \| (works|refused) \|", TABLE, re.MULTILINE))
KNOWN = {
    name
    for name in dir(strategies)
    if isinstance(kind := getattr(strategies, name), type)
    and issubclass(kind, Strategy)
    and kind is not Strategy
}


def made(name: str) -> Strategy:
    kind = getattr(strategies, name)
    if "ClientSide" in name or "ServerSide" in name:
        if "Fixed" in name:
            return kind(FedAvg(), 1.0, 0.1, 20)
        return kind(FedAvg(), 1.0, 20)
    more = {"FedProx": {"proximal_mu": 0.1}, "QFedAvg": {"client_learning_rate": 0.1}}
    made: Strategy = kind(**more.get(name, {}))
    return made


def test_the_page_names_every_strategy_that_flower_has() -> None:
    assert SAID.keys() == KNOWN
    assert {name for name, said in SAID.items() if said == "refused"} == REFUSED_STRATEGIES.keys()


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_code_does_what_the_page_says(name: str) -> None:
    secured = SecureGrid(LocalGrid({}))
    if SAID[name] == "works":
        secured.check(made(name))
    else:
        with pytest.raises(InputError, match=f"^{name} cannot work on sums: "):
            secured.check(made(name))


def test_a_strategy_is_checked_by_its_own_start_before_a_node_is_asked(folder: Path) -> None:
    class Mine(FedMedian):
        """Made of one that needs single replies."""

    grid = grid_of(programs(4), folder)
    with pytest.raises(InputError, match="FedMedian cannot work on sums"):
        Mine(fraction_evaluate=0).start(SecureGrid(grid, MEAN), record(START), num_rounds=1)
    assert not grid.sent


def test_a_class_of_ones_own_is_not_judged_by_its_name() -> None:
    class Krum(FedAvg):
        """Only called so."""

    SecureGrid(LocalGrid({})).check(Krum())


def test_a_weight_of_another_name_is_refused_before_a_node_is_asked(folder: Path) -> None:
    grid = grid_of(programs(4), folder)
    with pytest.raises(InputError, match="weighs by 'tokens' and the sums by 'num-examples'"):
        fit(SecureGrid(grid, MEAN), weighted_by_key="tokens")
    assert not grid.sent


MODS = {
    "fixedclipping_mod": fixedclipping_mod,
    "adaptiveclipping_mod": adaptiveclipping_mod,
    "LocalDpMod": LocalDpMod(1.0, 0.1, 1.0, 1e-5),
    "arrays_size_mod": arrays_size_mod,
    "message_size_mod": message_size_mod,
    "secagg_mod": secagg_mod,
    "secaggplus_mod": secaggplus_mod,
}
SAID_OF_MODS = {
    name: ways
    for name, *ways in re.findall(r"^\| `(\w+)` \| (\w+) \| (\w+) \| ", PAGE, re.MULTILINE)
    if name in MODS
}


def test_the_page_names_every_mod_that_flower_has() -> None:
    public = {name for name in flwr.clientapp.mod.__all__ if not name.startswith("_")}
    assert SAID_OF_MODS.keys() == MODS.keys()
    assert public <= MODS.keys()


@pytest.mark.parametrize("name", MODS)
@pytest.mark.parametrize("first", [True, False], ids=["ours first", "ours last"])
def test_a_mod_does_what_the_page_says(name: str, first: bool, folder: Path) -> None:
    apps = {}
    for node, each in (nodes := programs(3)).items():
        ours = secure_mod(new_folder(folder / str(node)))
        apps[node] = ClientApp(mods=[ours, MODS[name]] if first else [MODS[name], ours])
        apps[node].train()(each.train)
    secured = SecureGrid(LocalGrid(apps), deadline=0.01)
    config = ConfigRecord({"clipping_norm": 1.0})
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(secured, record(START), num_rounds=1, timeout=0.01, train_config=config)
    (report,) = secured.history
    works = SAID_OF_MODS[name][0 if first else 1] == "works"
    assert set(report.survivors) == (nodes.keys() if works else set())
    if not works:
        assert ("the app r" in report.failure) is first
        assert ("secure_mod, before all other mods?" in report.failure) is not first


def messages(*contents: dict[str, Any]) -> Iterable[Message]:
    return [Message(RecordDict(each), 100 + at, "train") for at, each in enumerate(contents)]


def test_what_a_message_may_not_hold_is_refused(folder: Path) -> None:
    secured = SecureGrid(grid := grid_of(programs(3), folder), MEAN)
    arrays, rates = record(START), [ConfigRecord({"rate": rate}) for rate in (1, 2, 3)]
    for sent, words in (
        (messages(*[{"arrays": arrays, "control": arrays}] * 3), "2 ArrayRecords"),
        (messages(*({"arrays": arrays, "config": each} for each in rates)), "the same content"),
    ):
        with pytest.raises(InputError, match=words):
            secured.send_and_receive(sent)
    assert not grid.sent
