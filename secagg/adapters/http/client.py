"""A node of sums over HTTP: it asks a server for tasks, and answers them out of its folder.

    join("https://sums.example.org:8443", Path("/srv/secagg"), train)

``train(model, proposal)`` is handed named arrays, and returns arrays of the same names and shapes
with a mapping of numbers: the weight, by default called "num-examples", and metrics. It runs once a
sum, in this process, after policy and price. The standard library is all that is needed here.

Beside what ``secagg.nodes.node`` keeps, the folder holds

| file | what it is |
|---|---|
| ``token`` | what the server's operator gave this node; for its owner alone to read |
| ``ca.pem`` | certificates that may have signed the server's; without it those of the system |
| ``client.pem``, ``client.key`` | the node's own certificate, where the server asks for one |
| ``join.state`` | sealed states of sums that are under way |
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from numpy.typing import NDArray

from protocols.errors import DecodeError
from protocols.wire import Reader, opaque
from secagg.adapters.http.link import Link
from secagg.errors import NodeError, RefusedError
from secagg.files import FolderLock, write_atomically
from secagg.nodes.messages import Request
from secagg.nodes.node import Node
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import MAX_SIZE, Contribution, Failure, Proposal
from secagg.nodes.tasks import ID_SIZE
from secagg.nodes.work import contribution, spoken
from secagg.stage import Stage
from secagg.vectors.arrays import Arrays, arrays_of, model_digest

Program: TypeAlias = Callable[
    [dict[str, NDArray[Any]], Proposal], tuple[Arrays, Mapping[str, float]]
]

LARGEST_MODEL: Final = 2**31  # bytes, where a proposal does not tell the size of what is trained
LARGEST_TASK: Final = 2**26  # bytes: a roster and boxes of 100,000 peers
RETRY: Final = (0.5, 30.0)  # seconds until a call is made again, doubled up to the second
TRIES: Final = 6  # to hand an answer in
AT_ONCE: Final = 4  # tasks of different sums
EASE: Final = 0.2  # seconds between calls that bring nothing, however fast they are answered
STATES: Final = 16  # purposes whose state is kept
_log = logging.getLogger("secagg")


class _States:
    """The sealed state of each purpose's sum, in one file."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._held: dict[bytes, bytes] = {}
        if path.exists():
            reader = Reader(path.read_bytes())
            try:
                while reader.left:
                    purpose, state = reader.opaque(), reader.opaque()
                    self._held[purpose] = state
            except DecodeError:  # all that is lost is the sum that was under way
                _log.warning("secagg: %s was damaged, and is begun anew", path)

    def get(self, purpose: bytes) -> bytes | None:
        with self._lock:
            return self._held.get(purpose)

    def put(self, purpose: bytes, state: bytes | None) -> None:
        with self._lock:
            self._held.pop(purpose, None)
            if state is not None:
                self._held[purpose] = state
            while len(self._held) > STATES:
                del self._held[next(iter(self._held))]
            parts = (opaque(each) for pair in self._held.items() for each in pair)
            write_atomically(self._path, b"".join(parts))


class _Member:
    """A node that has joined; its calls for tasks, and its answers, each on a line of its own."""

    def __init__(self, url: str, home: Path, program: Program, policy: NodePolicy | None) -> None:
        self._url, self._home, self._program = url, home, program
        self._node, self._states = Node(home, policy), _States(home / "join.state")
        self._busy: set[bytes] = set()
        self._asks, self._free = Link(url, home), list[Link]()

    def ask(self) -> tuple[bytes, Request] | None:
        """The next task, which is then ours; ``None``: there is none for now."""
        busy = ",".join(name.hex() for name in list(self._busy))
        status, data = self._asks.call("GET", f"/v1/task?busy={busy}", LARGEST_TASK)
        if status == 204:
            return None
        if status != 200:
            raise _refusal(status, data)
        task, request = data[:ID_SIZE], Request.from_bytes(data[ID_SIZE:])
        if task in self._busy:
            raise NodeError("the server hands out a task that this node is at work on")
        self._busy.add(task)
        return task, request

    @property
    def at_work(self) -> int:
        """Tasks that are not answered yet."""
        return len(self._busy)

    def work(self, task: bytes, request: Request) -> None:
        """Answer one task, or say why not; whatever happens is one line of log."""
        try:
            line = self._free.pop() if self._free else Link(self._url, self._home)
            self._work(line, task, request)
            self._free.append(line)
        except Exception as error:  # noqa: BLE001  # a node that lives answers the next sum
            _log.warning("secagg: %s: %s", request.stage, _line(spoken(error)))
        finally:
            self._busy.discard(task)

    def _work(self, line: Link, task: bytes, request: Request) -> None:
        purpose, masks = b"", request.stage is Stage.MASK
        try:
            purpose = _purpose(request)
            model = self._model(line, request) if masks else {}
            answer = self._node.answer(
                request,
                self._states.get(purpose),
                model=model_digest(model) if masks else b"",
                compute=lambda proposal: self._compute(proposal, model),
                purpose=purpose.decode(),
            )
        except Exception as error:
            _hand_in(line, task, "/decline", [spoken(error).encode("ascii", "replace")[:900]])
            raise
        self._states.put(purpose, answer.state)
        _hand_in(line, task, "", list(answer.parts()))
        _log.info("secagg: %s: answered %s", purpose.decode(), request.stage)

    def _model(self, line: Link, request: Request) -> dict[str, NDArray[Any]]:
        """The model that the proposal names, within what its policy lets it be."""
        proposal = self._node.policy.read_proposal(request.proposal)
        # Counters and names are beside what is trained.
        most = MAX_SIZE + 16 * proposal.entries if proposal.shapes else LARGEST_MODEL
        status, data = line.call("GET", f"/v1/model/{proposal.model_digest.hex()}", most)
        if status != 200:
            raise _refusal(status, data)
        return arrays_of(data)

    def _compute(
        self, proposal: Proposal, model: dict[str, NDArray[Any]]
    ) -> Contribution | Failure:
        given = {name: array.copy() for name, array in model.items()}
        after, numbers = self._program(given, proposal)
        return contribution(proposal, model, after, numbers)


def _hand_in(line: Link, task: bytes, how: str, body: Sequence[bytes]) -> None:
    for tries, pause in enumerate(_pauses(), 1):
        try:
            status, said = line.call("POST", f"/v1/task/{task.hex()}{how}", 2**16, body)
        except ConnectionError:
            if tries == TRIES:
                raise
        else:
            if status == 204:
                return
            if status not in (429, 503) or tries == TRIES:
                raise _refusal(status, said)
        time.sleep(pause)


def join(
    url: str,
    home: Path | str,
    program: Program,
    *,
    policy: NodePolicy | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Take part in the sums of a server, until it is told to stop or the token is void.

    Args:
      program: gets a model and what the server says of it, and gives arrays and metrics.
      url: of the server, "https://..."; "http://..." on this machine alone.
      home: the node's folder, ``secagg node new``, with the token.
      policy: in place of the folder's file; for trials.
      stop: ends it, after what is under way.

    Raises:
      InputError, IdentityError, NodeError, RunError: the folder cannot be used, the address is no
        server's, or another process works in the folder.
      RefusedError: the server does not know the token.
    """
    stop, home = stop or threading.Event(), Path(home)
    member = _Member(url, home, program, policy)
    pauses, told, workers = _pauses(), "", list[threading.Thread]()
    with FolderLock(home):
        while not stop.is_set():
            if member.at_work >= AT_ONCE:  # whatever a server hands out, none waits in a queue
                stop.wait(EASE)
                continue
            began = time.monotonic()
            try:
                found = member.ask()
            except (ConnectionError, DecodeError, NodeError) as error:
                if (line := _line(str(error))) != told:
                    _log.warning("secagg: %s: %s; trying again", url, line)
                told = line
                stop.wait(next(pauses))
                continue
            pauses, told = _pauses(), ""
            if found is None:
                stop.wait(EASE - (time.monotonic() - began))
            elif not stop.is_set():
                # An interrupt does not wait for a program that trains; a sum can lose a node.
                workers = [each for each in workers if each.is_alive()]
                workers.append(threading.Thread(target=member.work, args=found, daemon=True))
                workers[-1].start()
        for each in workers:
            each.join()


def _pauses() -> Iterator[float]:
    pause, most = RETRY
    while True:
        yield pause
        pause = min(2 * pause, most)


def _purpose(request: Request) -> bytes:
    """What the proposal calls itself; the node reads the rest of it, and refuses what is none."""
    try:
        said = json.loads(request.proposal[: MAX_SIZE + 1])["purpose"]
        return str(said).encode("ascii")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DecodeError("the server's request holds no proposal") from None


def _line(text: str) -> str:
    """One line to print of what a server may have written."""
    return "".join(letter if letter.isprintable() else "?" for letter in text.strip()[:300])


def _refusal(status: int, said: bytes) -> Exception:
    line = _line(said[:300].decode("ascii", "replace"))
    if status == 401:
        return RefusedError(f"the server refuses this node's token: {line}")
    return NodeError(f"the server answers {status}: {line}")
