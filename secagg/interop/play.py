"""A whole round, played with both sides at once: the same requests, so the same answers.

The script that comes out holds every message, so that a later test can bring both sides back to
any stage of it.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, TypeVar

from protocols.bonawitz.params import DIGEST_SIZE
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE
from secagg.interop.peer import CLIENT_ENTROPY, Answer, Answers, Refusal, Request
from secagg.interop.process import PeerError
from secagg.stage import UNSIGNED, Stage

T = TypeVar("T")


class Dice:
    """Choices that come again with their seed: SHAKE-256 of it. Nothing here is secret."""

    def __init__(self, *seed: object) -> None:
        self._seed, self._rolls = "/".join(map(str, seed)), count()

    def octets(self, size: int) -> bytes:
        return hashlib.shake_256(f"{self._seed}/{next(self._rolls)}".encode()).digest(size)

    def below(self, limit: int) -> int:
        return int.from_bytes(self.octets(8), "big") % limit

    def one(self, of: Sequence[T]) -> T:
        return of[self.below(len(of))]

    def some(self, of: Sequence[T], number: int) -> list[T]:
        """Up to ``number`` of them, each at most once, in any order."""
        left, taken = list(of), list[T]()
        while left and len(taken) < number:
            taken.append(left.pop(self.below(len(left))))
        return taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a round is like.

    Attributes:
      name: what it is there for.
      come: clients that advertise, unless one is lost.
      agreed: fields of the agreement that are not everybody's.
      spare: clients that may be lost, each at any stage.
      numbers: of the first clients; the rest are drawn.
      foreign: how many clients the other side plays too; the rest are ours alone.
      mutants: changed messages of each kind that are tried.
      orders: sequences of good and changed messages that a server is sent at each stage.
    """

    name: str
    come: int
    agreed: Mapping[str, Any]
    spare: int = 1
    numbers: tuple[int, ...] = ()
    foreign: int = 2**32
    mutants: int = 120
    orders: int = 4


def _rates(corrupt: str, dropout: str) -> dict[str, str]:
    return {"corrupt": corrupt, "dropout": dropout}


FULL: Final = 2**15  # words of a full frame, the check word included

SETTINGS: Final = (
    Setting(
        name="complete",
        come=6,
        agreed={"clients": 6, "threshold": 4},
        spare=2,
        numbers=(0, 1, 2**32 - 1),
    ),
    Setting(
        name="complete, ChaCha20",
        come=7,
        agreed={"clients": 9, "threshold": 5, "minimum_survivors": 6, "suite": 2},
    ),
    Setting(name="two clients", come=2, agreed={"clients": 2, "threshold": 2, "words": 1}),
    Setting(
        name="sparse",
        come=13,
        agreed={"clients": 14, "rates": _rates("1/10", "1/5")},
        spare=2,
    ),
    Setting(
        name="sparse, ChaCha20",
        come=30,
        agreed={"clients": 40, "rates": _rates("1/20", "1/10"), "suite": 2},
        spare=3,
        mutants=40,
        orders=1,
    ),
    Setting(
        name="fallback",
        come=3,
        agreed={"clients": 12, "rates": _rates("1/10", "1/3")},
    ),
    Setting(
        name="active",
        come=6,
        agreed={"clients": 6, "threshold": 5, "active": True},
    ),
    Setting(
        name="active, corrupt named",
        come=7,
        agreed={"clients": 8, "threshold": 5, "active": True, "corrupt": 1, "suite": 2},
        spare=2,
    ),
    Setting(
        name="active, fallback",
        come=9,
        agreed={"clients": 12, "rates": _rates("0", "1/3"), "active": True},
        spare=2,
    ),
    Setting(
        name="one full frame",
        come=3,
        agreed={"clients": 3, "threshold": 2, "words": FULL - 1},
        mutants=16,
        orders=1,
    ),
    Setting(
        name="two frames",
        come=4,
        agreed={"clients": 4, "threshold": 3, "words": FULL + 3, "suite": 2},
        mutants=16,
        orders=1,
    ),
    Setting(
        name="picks",
        come=201,  # fewer than 200 do not pick
        agreed={"clients": 201, "rates": _rates("1/100", "1/100"), "active": True},
        foreign=1,
        mutants=8,
        orders=1,
    ),
)


class Differs(Exception):
    """Both sides were asked the same, and their answers differ.

    Attributes:
      about: what was asked, in words.
      requests: all that this party was asked, the last one included.
      ours, theirs: the answers to the last; theirs is a sentence where there was none.
    """

    def __init__(
        self, about: str, requests: Sequence[Request], ours: Answer, theirs: Answer | str
    ) -> None:
        super().__init__(about)
        self.about, self.requests, self.ours, self.theirs = about, requests, ours, theirs


class Refused(Exception):
    """Both sides refused alike what an honest round asks: too few are left, and it ends."""


class Pair:
    """Two sides that are asked the same.

    Attributes:
      accepted, refused: answers that were compared and are equal.
      ended: why the other side cannot be asked any more.
    """

    def __init__(self, ours: Answers, theirs: Answers, roles: Collection[str]) -> None:
        self.roles = frozenset(roles)
        self.accepted = self.refused = 0
        self.ended: str | None = None
        self._ours, self._theirs = ours, theirs
        self._asked: dict[str, list[Request]] = {}  # of every party that both sides have
        self._names = (str(number) for number in count())

    @contextmanager
    def party(
        self, about: str, request: Request, *, both: bool = True, counted: bool = True
    ) -> Iterator[tuple[str, Any]]:
        """A client or server that is needed for a while: its name, and what it answers first.

        Args:
          both: the other side has it too, if it plays that role.
          counted: this is no answer that was compared before.
        """
        name = next(self._names)
        if both and request["op"] in self.roles:
            self._asked[name] = []
        try:
            yield name, self.asked(about, {**request, "id": name}, counted=counted)
        finally:
            drop = {"op": "drop", "id": name}
            self._ours.answer(drop)
            if self._asked.pop(name, None) and self.ended is None:
                with suppress(PeerError):
                    self._theirs.answer(drop)

    def ask(self, about: str, request: Request, *, counted: bool = True) -> Answer:
        """Our answer, once it was compared with theirs.

        Raises:
          Differs: theirs is another, or none.
        """
        ours = self._ours.answer(request)
        requests = self._asked.get(request["id"], []) if "id" in request else []
        if "id" in request and request["id"] not in self._asked:
            return ours
        requests.append(request)
        try:
            theirs = self._theirs.answer(request)
        except PeerError as error:
            self.ended = str(error)
            raise Differs(about, requests, ours, self.ended) from None
        part = "ok" if "ok" in ours else "error"
        if part not in theirs or theirs[part] != ours[part]:
            raise Differs(about, requests, ours, theirs)
        self.accepted += counted and part == "ok"
        self.refused += counted and part == "error"
        return ours

    def asked(self, about: str, request: Request, *, counted: bool = True) -> Any:
        """What an honest party answers; raises ``Refused`` where too few are left to go on."""
        answer = self.ask(about, request, counted=counted)
        if "ok" in answer:
            return answer["ok"]
        if answer["error"] not in (Refusal.TOO_FEW, Refusal.RULE):
            raise RuntimeError(f"{about}: {answer['message']}")  # our own mistake: end loudly
        raise Refused(answer["message"])


Sent = list[str]  # messages in hexadecimal: a vector's frames, otherwise one


@dataclass(slots=True, kw_only=True)
class Script:
    """A round as it was played: enough to bring a client or the server to any stage again.

    Attributes:
      agreement, server: as they stand in requests.
      stages: of this round, in order.
      clients: the requests that make them.
      foreign: those that both sides play.
      handed: by stage what a client then reads. At the first nothing is.
      answers: by stage what it sends.
      arrived: by stage whose answers reached the server, in that order.
    """

    agreement: Request
    server: Request
    stages: tuple[Stage, ...]
    clients: dict[int, Request]
    foreign: list[int]
    handed: dict[Stage, dict[int, str]] = field(default_factory=dict)
    answers: dict[Stage, dict[int, Sent]] = field(default_factory=dict)
    arrived: dict[Stage, list[int]] = field(default_factory=dict)

    @contextmanager
    def client_before(self, pair: Pair, client: int, stage: Stage) -> Iterator[str]:
        """A new ``client`` that waits for what it reads at ``stage``."""
        about = f"client {client} again"
        with pair.party(about, self.clients[client], counted=False) as (name, _):
            for before in self.stages[1 : self.stages.index(stage)]:
                message = self.handed[before][client]
                asked = {"op": "message", "id": name, "message": message}
                pair.asked(about, asked, counted=False)
            yield name

    @contextmanager
    def server_at(self, pair: Pair, stage: Stage) -> Iterator[str]:
        """A new server that collects ``stage`` and has nothing of it."""
        about = "the server again"
        with pair.party(about, self.server, counted=False) as (name, _):
            for before in self.stages[: self.stages.index(stage)]:
                for client in self.arrived[before]:
                    messages = self.answers[before][client]
                    asked = {"op": "receive", "id": name, "messages": messages}
                    pair.asked(about, asked, counted=False)
                pair.asked(about, {"op": "close", "id": name}, counted=False)
            yield name


def cast(setting: Setting, dice: Dice) -> tuple[Script, dict[int, Stage]]:
    """The parts of a round: who plays with which secrets, and who is lost before which answer."""
    agreed: dict[str, Any] = {
        "session": dice.octets(SESSION_SIZE).hex(),
        "round": dice.below(2**32),
        "minimum_survivors": 2,
        "words": 5,
        "suite": 1,
        "active": False,
        "public": dice.octets(DIGEST_SIZE).hex(),
        **setting.agreed,
    }
    numbers = set(setting.numbers[: setting.come])
    while len(numbers) < setting.come:
        numbers.add(dice.below(2 ** dice.one((6, 16, 32))))
    identities = None
    secrets = {number: dice.octets(32) for number in sorted(numbers)}
    if agreed["active"]:
        keys = {number: SigningKey(Secret(secret)) for number, secret in secrets.items()}
        identities = {str(number): key.public.hex() for number, key in keys.items()}
    clients: dict[int, Request] = {
        number: {
            "op": "client",
            "agreement": agreed,
            "client": number,
            "entropy": dice.octets(CLIENT_ENTROPY).hex(),
            "words": dice.octets(8 * agreed["words"]).hex(),
            "identity": secret.hex() if identities else None,
            "identities": identities,
        }
        for number, secret in secrets.items()
    }
    server = {
        "op": "server",
        "agreement": agreed,
        "entropy": dice.octets(16 * setting.come).hex(),
        "identities": identities,
    }
    stages = tuple(Stage) if agreed["active"] else UNSIGNED
    lost = {
        client: dice.one(stages)
        for client in dice.some(list(clients), dice.below(setting.spare + 1))
    }
    # Who is there to the end is played by both first: all of its messages can be changed.
    order = sorted(clients, key=lambda client: client in lost)
    foreign = order[: setting.foreign]
    return (
        Script(agreement=agreed, server=server, stages=stages, clients=clients, foreign=foreign),
        lost,
    )


def _as_it_is(stage: Stage, client: int, message: str) -> str:
    return message


def play(
    pair: Pair,
    script: Script,
    lost: Mapping[int, Stage],
    dice: Dice,
    *,
    between: Callable[[Stage, int, str], str] = _as_it_is,
) -> Answer | None:
    """Play the round, and fill the script. Its sum, or ``None`` where it came to none.

    Args:
      between: what becomes of a message to a client on its way.

    Raises:
      Differs: from there on there is no round that both know.
    """
    with ExitStack() as stack, suppress(Refused):
        names, answers = dict[int, str](), dict[int, Sent]()
        for client, request in script.clients.items():
            party = pair.party(f"client {client}", request, both=client in script.foreign)
            names[client], message = stack.enter_context(party)
            answers[client] = [message]
        server, _ = stack.enter_context(pair.party("the server", script.server))
        here = list(script.clients)
        for stage in script.stages:
            script.answers[stage] = answers
            here = [
                client for client in here if client in answers and lost.get(client) is not stage
            ]
            script.arrived[stage] = here = dice.some(here, len(here))
            for client in here:
                about = f"server, {stage}: client {client}"
                pair.asked(about, {"op": "receive", "id": server, "messages": answers[client]})
            if stage is Stage.REVEAL:
                break
            after = script.stages[script.stages.index(stage) + 1]
            handed = pair.asked(f"server, {stage}: close", {"op": "close", "id": server})
            script.handed[after] = {
                int(client): between(after, int(client), message)
                for client, message in handed.items()
            }
            answers = {}
            for client, message in script.handed[after].items():
                asked = {"op": "message", "id": names[client], "message": message}
                answer = pair.ask(f"client {client}, {after}", asked)
                if "ok" in answer:  # or it sees too few, and is out
                    answers[client] = answer["ok"]
        found: Answer = pair.asked("server: result", {"op": "result", "id": server})
        return found
    return None
