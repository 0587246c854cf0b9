"""Protocols of one's own beside the built-in ones, for ``secagg bench costs``.

    secagg bench costs --protocol plain,sparse,additive:Additive

names a class, or any factory, as module:name; what a package registers is known by its name:

    [project.entry-points."secagg.bench"]
    additive = "additive:Additive"

It is called with the ``Case`` of a point and gives a ``Contender``: one round, all its parties.
The bench calls them, carries their messages, counts and times them, and checks the sum. An
``InputError`` says that the protocol cannot do a case; that point is then left out with its
reason. examples/bench/additive.py is a whole one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.entropy import system
from secagg.errors import InputError, SecaggError
from secagg.extras import named

if TYPE_CHECKING:
    from secagg.bench.costs import Case

GROUP: Final = "secagg.bench"  # of entry points
Words: TypeAlias = NDArray[np.uint64]
Now: TypeAlias = Callable[[], float]


class Contender(Protocol):
    """One round of a protocol: its clients and its server, which meet in messages alone.

    A stage is: every client sends one message, the server answers each. Clients are numbered
    from 0. What a party keeps from stage to stage it keeps in this object.

    Attributes:
      stages: how many there are, from 0.
      vector_stage: clients that drop out vanish before this one.
    """

    stages: int
    vector_stage: int

    def client(self, client: int, stage: int, received: bytes, vector: Words) -> bytes:
        """What a client sends. ``received`` is the answer to its last message, first empty.

        ``vector`` is the client's own, 64-bit words to be added modulo 2^64.
        """

    def server(self, stage: int, sent: Mapping[int, bytes]) -> Mapping[int, bytes]:
        """The answer to each client that is to get one; after the last stage nobody reads it."""

    def total(self) -> Words:
        """The sum over the clients of the last stage, as the server has it at the end."""


Factory: TypeAlias = Callable[["Case"], Contender]


def registered() -> dict[str, str]:
    """The module:name of what installed packages add, by their names."""
    return {each.name: each.value for each in entry_points(group=GROUP)}


def factory(name: str) -> Factory:
    """The class or function that ``module:name`` names; ``InputError`` if there is none."""
    found: Factory = named("--protocol", name)
    if not callable(found):
        raise InputError(f"--protocol {name} is no class or function")
    return found


@dataclass(slots=True, kw_only=True)
class Totals:
    """What one party was measured at: of a client, in the mean of those who took part."""

    client_seconds: float = 0.0
    server_seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


def run(case: "Case", now: Now) -> Totals:
    """Carry a round of an own protocol out, and check its sum.

    Raises:
      InputError: there is no such protocol, or it cannot do the case.
      SecaggError: the sum is wrong, or the protocol failed or sent no bytes.
    """
    made = factory(case.protocol)
    try:
        return _carried(case, made(case), now)
    except (InputError, SecaggError):
        raise
    except Exception as error:  # a stranger's code, which may fail in any way
        told = f"{error}".splitlines() or [""]
        raise SecaggError(f"{case.protocol}: {type(error).__name__}: {told[0]}") from error


def _carried(case: "Case", parties: Contender, now: Now) -> Totals:
    words = case.params.words
    vector = np.frombuffer(system(8 * words), np.uint64)
    present, spent = range(case.clients), Totals()
    answers: Mapping[int, bytes] = {}
    if not 0 <= parties.vector_stage < parties.stages:
        raise SecaggError(
            f"{case.protocol}: vector_stage {parties.vector_stage} is no stage of {parties.stages}"
        )
    for stage in range(parties.stages):
        if stage == parties.vector_stage:
            present = range(case.clients - case.gone)
        sent: dict[int, bytes] = {}
        seconds, down = 0.0, 0
        for client in present:
            own, received = vector + np.uint64(client), answers.get(client, b"")
            began = now()
            sent[client] = parties.client(client, stage, received, own)
            seconds += now() - began
            down += len(received)
            if not isinstance(sent[client], bytes):
                raise SecaggError(
                    f"{case.protocol}: client sent a {type(sent[client]).__name__}, must be bytes"
                )
        began = now()
        answers = parties.server(stage, sent)
        spent.server_seconds += now() - began
        spent.client_seconds += seconds / len(present)
        spent.bytes_up += round(sum(map(len, sent.values())) / len(present))
        spent.bytes_down += round(down / len(present))
    began = now()
    total = parties.total()
    spent.server_seconds += now() - began
    expected = vector * np.uint64(len(present)) + np.uint64(sum(present))
    if not np.array_equal(total, expected):
        raise SecaggError(f"{case} gave a wrong sum")
    return spent
