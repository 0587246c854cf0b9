"""Tasks of all sums of a server, which nodes fetch and answer once: who is asked what just now.

For networks on which nodes call the server. Every sum runs in a thread of its own and waits in
``Tasks.carry``; whoever speaks with the nodes calls ``next``, ``find``, ``take`` and ``decline``
from any thread. A task is handed out as often as its node asks, and answered at most once; an
answer to a stage that is over finds no task.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocols import bonawitz
from protocols.entropy import system
from protocols.errors import TooFewSurvivors
from secagg.nodes.coordinator import NodeId, RunningSum
from secagg.nodes.messages import Answer
from secagg.nodes.proposal import Proposal
from secagg.nodes.reports import StageReport, SumReport
from secagg.rounds.relay import StageRequests
from secagg.stage import Stage

ID_SIZE: Final = 16  # bytes; random, so that nobody answers in another's place
Parts = Sequence[bytes | memoryview]


@dataclass(slots=True, kw_only=True, eq=False)
class _Turn:
    """One stage of one sum, while answers to it are taken."""

    under_way: RunningSum
    ask: StageRequests
    report: StageReport
    model: Parts | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)
    over: bool = False
    left: int = 0

    def end_one(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.done.set()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """One request to one node.

    Attributes:
      id: whoever answers names it.
      most: bytes of its answer, at most.
    """

    id: bytes
    node: NodeId
    most: int
    turn: _Turn = field(repr=False)

    @property
    def purpose(self) -> str:
        return self.turn.under_way.proposal.purpose

    @property
    def stage(self) -> Stage:
        return self.turn.ask.stage

    @property
    def over(self) -> bool:
        """Whether the sum went on without it."""
        return self.turn.over

    def to_bytes(self) -> bytes | None:
        """The id, and then the request; ``None`` if the sum went on."""
        turn = self.turn
        with turn.lock:
            if turn.over:
                return None
            data = self.id + turn.under_way.request(turn.ask, self.node).to_bytes()
            turn.report.bytes_down += len(data)
        return data


class Tasks:
    """The tasks of all sums.

    Args:
      woken: is told which nodes have a new task, or that all may stop to wait; from any thread.
    """

    def __init__(self, woken: Callable[[Collection[NodeId]], None] = lambda _: None) -> None:
        self._woken, self._lock = woken, threading.Lock()
        self._open: dict[NodeId, dict[bytes, Task]] = {}
        self._turns: set[_Turn] = set()
        self.closed = False

    def carry(
        self,
        under_way: RunningSum,
        ask: StageRequests,
        seconds: float,
        report: SumReport,
        model: Parts = (),
    ) -> None:
        """Ask the nodes of one stage, until all have answered or time is up.

        Args:
          model: of the sum; handed out at the stage that masks alone.

        Raises:
          TooFewSurvivors: the server stops.
        """
        nodes = under_way.asked(ask)
        stage = StageReport(stage=ask.stage, asked=len(nodes))
        report.stages.append(stage)
        turn = _Turn(
            under_way=under_way,
            ask=ask,
            report=stage,
            model=model if ask.stage is Stage.MASK else None,
            left=len(nodes),
        )
        most = largest_answer(under_way.proposal, ask.stage)
        tasks = [Task(id=system(ID_SIZE), node=node, most=most, turn=turn) for node in nodes]
        with self._lock:
            if not self.closed:
                self._turns.add(turn)
                for task in tasks:
                    self._open.setdefault(task.node, {})[task.id] = task
        self._woken(nodes)
        if tasks and not self.closed:
            turn.done.wait(seconds)
        with turn.lock:
            turn.over = True
        with self._lock:
            self._turns.discard(turn)
            for task in tasks:
                self._forget(task)
        if self.closed:
            raise TooFewSurvivors("the server was stopped in mid-sum")

    def next(self, node: NodeId, busy: Collection[bytes] = ()) -> Task | None:
        """The oldest task of a node, but those that it is at work on."""
        with self._lock:
            waiting = self._open.get(node, {})
            return next((task for name, task in waiting.items() if name not in busy), None)

    def find(self, node: NodeId, name: bytes) -> Task | None:
        """The node's task of that id; ``None``: it was answered, or the sum went on."""
        with self._lock:
            return self._open.get(node, {}).get(name)

    def model(self, node: NodeId, digest: bytes) -> Parts | None:
        """The model of that digest, for a node that is just asked to mask over it."""
        with self._lock:
            for task in self._open.get(node, {}).values():
                same = task.turn.under_way.proposal.model_digest == digest
                if same and task.turn.model is not None:
                    task.turn.report.bytes_down += sum(len(part) for part in task.turn.model)
                    return task.turn.model
        return None

    def take(self, task: Task, answer: Answer, size: int) -> bool:
        """Hand an answer in to its sum; ``False``: it is late, and was not looked at.

        Raises:
          RemoteProtocolError: it counts as none, and the sum goes on without the node.
        """
        turn = task.turn
        with turn.lock:
            if not self._claim(task):
                return False
            try:
                turn.report.bytes_up += size
                turn.under_way.receive(turn.ask, task.node, answer)
                turn.report.answered += 1
            finally:
                turn.end_one()
        return True

    def decline(self, task: Task) -> bool:
        """Go on without the node; ``False``: the sum has already."""
        with task.turn.lock:
            if not self._claim(task):
                return False
            task.turn.end_one()
        return True

    def close(self) -> None:
        """End all sums: nothing of theirs is released."""
        with self._lock:
            self.closed = True
            turns, nodes = list(self._turns), list(self._open)
        for turn in turns:
            turn.done.set()
        self._woken(nodes)

    def _claim(self, task: Task) -> bool:
        with self._lock:
            return not task.turn.over and self._forget(task)

    def _forget(self, task: Task) -> bool:
        waiting = self._open.get(task.node, {})
        found = waiting.pop(task.id, None) is not None
        if not waiting:
            self._open.pop(task.node, None)
        return found


def largest_answer(proposal: Proposal, stage: Stage) -> int:
    """Bytes that no honest answer passes.

    Keys, shares and reveals of pairwise masks take some 100 bytes a peer; a vector 8 a word and 50
    a frame. CKKS takes up to 20 an entry and some 100,000 for a key, in whichever stage.
    """
    params = proposal.params
    room = 2**16 + 512 * params.clients
    if not isinstance(params, bonawitz.Params):
        return room + 2**22 + 64 * params.entries
    return room + 9 * params.words if stage is Stage.MASK else room
