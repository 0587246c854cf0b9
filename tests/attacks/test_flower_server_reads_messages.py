"""Search all that a Flower server receives for what single nodes know.

Every message is taken as the bytes that travel and as the text that prints, and searched for
each node's model, update, weight and metrics in the encodings that one would try. The same
search over a plain grid finds all of it, so it can tell.
"""

import itertools
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import Program, arrays_of, grid_of, record
from flwr.app import Message
from flwr.common.serde import message_to_proto
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from secagg.adapters.flower import SecureGrid, SumSettings, WeightedMean
from secagg.adapters.testing import LocalGrid

# Long enough that random bytes hold none of their encodings by accident.
WEIGHTS = {101: 987_654_321_987, 102: 876_543_219_876, 103: 765_432_198_765}
MEAN = WeightedMean(
    clip=0.1, max_weight=10**12, train_metrics={"loss": 1.0}, evaluate_metrics={"accuracy": 1.0}
)
START = {"w": np.linspace(-1, 1, 6, dtype=np.float32), "b": np.linspace(0.1, 1, 3)}


def nodes() -> dict[int, Program]:
    return {node: Program(node=node, examples=weight) for node, weight in WEIGHTS.items()}


def varint(number: int) -> bytes:
    groups = []
    while number:
        groups.append(number & 127 | 128)
        number >>= 7
    groups[-1] &= 127
    return bytes(groups)


def of_numbers(values: Iterable[float]) -> Iterator[bytes]:
    """Each alone as float64, two neighbours as float32, as text."""
    numbers = [float(value) for value in values]
    for order in "<>":
        yield from (struct.pack(f"{order}d", number) for number in numbers)
        for pair in itertools.pairwise(numbers):
            yield struct.pack(f"{order}2f", *pair)
    yield from (repr(number).encode() for number in numbers)


def of_integers(number: int) -> Iterator[bytes]:
    for order in "<>":
        yield from (struct.pack(f"{order}{kind}", number) for kind in "qQd")
    yield from (varint(number), varint(2 * number), json.dumps(number).encode())


def secrets_of(each: Program, model: dict[str, Any]) -> dict[str, set[bytes]]:
    """What nobody else may learn of a node that was sent ``model``."""
    update = each.update(model)
    new = {key: np.asarray(array + update[key], array.dtype) for key, array in model.items()}
    share = each.examples / MEAN.max_weight
    return {
        "model": {needle for array in new.values() for needle in of_numbers(array)},
        "update": {needle for array in update.values() for needle in of_numbers(array)},
        "weighted": {
            needle
            for array in update.values()
            for factor in (share, each.examples)
            for needle in of_numbers(array.astype(float) * factor)
        },
        "weight": set(of_integers(each.examples)),
        **{name: set(of_numbers([each.metrics(name)[name]])) for name in ("loss", "accuracy")},
    }


def sightings(grid: LocalGrid, program: dict[int, Program]) -> dict[int, set[str]]:
    """Which secrets of which node stand in what the server received."""
    received = [part for message in grid.seen for part in (wire(message), printed(message))]
    models = [
        arrays_of(message.content["arrays"]) for message in grid.sent if "arrays" in message.content
    ]
    assert received
    assert models
    return {
        node: {
            name
            for model in models
            for name, needles in secrets_of(each, model).items()
            if any(needle in part for part in received for needle in needles)
        }
        for node, each in program.items()
    }


def wire(message: Message) -> bytes:
    return bytes(message_to_proto(message).SerializeToString())


def printed(message: Message) -> bytes:
    """All but the bytes of arrays, which print as what they are."""
    if message.has_error():
        return repr((message.metadata, message.error.reason)).encode()
    content = message.content
    beside = [*content.metric_records.values(), *content.config_records.values()]
    return repr((message.metadata, beside, [dict(each) for each in beside])).encode()


def train(grid: Grid, rounds: int = 2) -> None:
    strategy = FedAvg(min_train_nodes=3, min_evaluate_nodes=3)
    strategy.start(grid, record(START), num_rounds=rounds, timeout=0.3)


def test_on_a_plain_grid_the_search_finds_everything() -> None:
    program = nodes()
    train(grid := grid_of(program, None))
    everything = {"model", "weight", "loss", "accuracy"}  # its program replies no update
    assert sightings(grid, program) == dict.fromkeys(program, everything)


@pytest.mark.parametrize("protocol", ["bonawitz", "threshold-ckks"])
def test_of_masked_messages_it_finds_nothing(protocol: str, folder: Path) -> None:
    program = nodes()
    grid = grid_of(program, folder)
    train(secured := SecureGrid(grid, MEAN, SumSettings(protocol=protocol)), rounds=1)
    assert all(len(report.survivors) == 3 for report in secured.history)
    assert sightings(grid, program) == {node: set() for node in program}


@pytest.mark.parametrize("stage", ["advertise", "share", "mask", "reveal"])
def test_nor_when_a_node_is_lost_or_fails(stage: str, folder: Path) -> None:
    program = nodes()
    grid = grid_of(program, folder)
    of_two = SumSettings(minimum_survivors=2)
    grid.lost = lambda node, at: node == 101 and at == stage
    train(SecureGrid(grid, MEAN, of_two, deadline=0.02))
    grid.lost, grid.fails = (lambda *_: False), grid.lost
    train(SecureGrid(grid, MEAN, of_two, deadline=0.02))
    assert sightings(grid, program) == {node: set() for node in program}


class Chatty(Program):
    """Its exceptions tell what it knows."""

    def train(self, message: Message, context: Any) -> Message:
        new = self.update(arrays_of(message.content["arrays"]))
        said = [float(value) for array in new.values() for value in array]
        raise ValueError(f"with {self.examples} examples and {self.metrics('loss')}: {said}")


def test_nor_in_what_a_program_says_when_it_fails(folder: Path) -> None:
    program = {**nodes(), 101: Chatty(node=101, examples=WEIGHTS[101])}
    grid = grid_of(program, folder)
    train(SecureGrid(grid, MEAN, deadline=0.02))
    assert not any(reply.has_error() for reply in grid.seen)
    assert sightings(grid, program) == {node: set() for node in program}


def test_which_a_plain_grid_would_have_heard() -> None:
    program = {**nodes(), 101: Chatty(node=101, examples=WEIGHTS[101])}
    train(grid := grid_of(program, None))
    assert {"update", "weight", "loss"} <= sightings(grid, program)[101]
