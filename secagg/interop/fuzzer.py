"""Differential fuzzing: both sides get the same requests, and every answer is compared.

A round is played whole, with the same entropy on both sides, so that every message has to be the
same byte for byte. Then its messages are changed: both sides have to accept a changed message with
the same bytes, or to refuse it at the same layer. A round is a function of its seed.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from protocols.bonawitz import Agreement
from protocols.wire import Reader
from secagg.interop.mutants import Round, mutants
from secagg.interop.peer import Answer, Answers, Peer, Request
from secagg.interop.play import SETTINGS, Dice, Differs, Pair, Script, Setting, cast, play
from secagg.stage import Stage

SCHEMA: Final = "secagg interop 1"
CHANGED: Final = 3  # clients whose answers are changed, at each stage of a server

Messages = list[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A request that the two sides answered differently.

    Attributes:
      setting: of the round.
      seed: of the round; one round with this seed plays it again.
      about: what was asked, in words.
      requests: all that this party was asked, the last one included.
      ours, theirs: the answers to the last; theirs is a sentence where there was none.
    """

    setting: str
    seed: int
    about: str
    requests: list[Request]
    ours: Answer
    theirs: Answer | str

    @property
    def layer_alone(self) -> bool:
        """Whether both refused, at different layers."""
        return "error" in self.ours and isinstance(self.theirs, dict) and "error" in self.theirs


@dataclass(slots=True, kw_only=True)
class Report:
    """What was compared.

    Attributes:
      seconds: since the first round began.
      seed: of the first round.
      rounds: that were played, those that ended in a difference included.
      accepted, refused: answers that were compared and are equal.
      settings: comparisons by the setting of their round.
      differences: requests that were answered differently.
      layers: those of them that both refused, at different layers.
      first: the first of them, or of those that not both refused, if there are such.
      ended: why the peer could not be asked to the end.
    """

    seed: int
    rounds: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    settings: dict[str, int] = field(default_factory=dict)
    differences: int = 0
    layers: int = 0
    first: Difference | None = None
    ended: str | None = None

    @property
    def comparisons(self) -> int:
        return self.accepted + self.refused + self.differences

    def as_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "comparisons": self.comparisons, **asdict(self)}


def fuzz(
    theirs: Answers,
    *,
    roles: Collection[str],
    seed: int,
    rounds: int,
    told: Callable[[str, Report], None] = lambda name, report: None,
) -> Report:
    """Play ``rounds`` with both sides, and changed messages of each.

    Args:
      theirs: the answers of the other side.
      roles: what the other side plays.
      seed: of the first round; the next has the next one.
      told: before each round: its setting, and what was compared so far.
    """
    report = Report(seed=seed)
    begun = time.monotonic()
    for number in range(seed, seed + rounds):
        setting = SETTINGS[number % len(SETTINGS)]
        told(setting.name, report)
        _Fuzzed(setting, number, Pair(Peer(), theirs, roles), report).run()
        report.seconds = time.monotonic() - begun
        if report.ended is not None:
            break
    return report


class _Fuzzed:
    """One round, and its changed messages."""

    def __init__(self, setting: Setting, seed: int, pair: Pair, report: Report) -> None:
        self._setting, self._seed, self._pair, self._report = setting, seed, pair, report
        self._dice = Dice("secagg interop", seed)
        self._script, self._lost = cast(setting, self._dice)

    def run(self) -> None:
        pair, report = self._pair, self._report
        before = report.comparisons
        with suppress(Differs):  # it is noted; the peer cannot be asked any more
            self._run()
        report.rounds += 1
        report.accepted += pair.accepted
        report.refused += pair.refused
        report.ended = pair.ended
        name = self._setting.name
        report.settings[name] = report.settings.get(name, 0) + report.comparisons - before

    def _run(self) -> None:
        script, pair, before = self._script, self._pair, self._report.differences
        with self._noted():
            request = {"op": "agreement", "agreement": script.agreement}
            agreed = pair.asked("the agreement", request)
            play(pair, script, self._lost, self._dice)
        if self._report.differences > before:
            return  # what follows would differ as well
        around = _around(script, agreed)
        for stage in script.stages:
            if "client" in pair.roles and stage in script.handed:
                self._client(around, stage)
            if "server" in pair.roles and script.arrived.get(stage):
                self._server(around, stage)
        with self._noted():
            self._one_box_does_not_open()

    def _one_box_does_not_open(self) -> None:
        """Another round of the setting, in which one client cannot open what a peer sealed it."""
        script, lost = cast(self._setting, self._dice)
        agreed = self._pair.asked(
            "the agreement", {"op": "agreement", "agreement": script.agreement}
        )
        reader = self._dice.one(script.foreign)

        def between(stage: Stage, client: int, message: str) -> str:
            if (stage, client) != (Stage.MASK, reader):
                return message
            boxes = _around(script, agreed).boxes(bytes.fromhex(message))
            if not boxes.boxes:
                return message
            sender = self._dice.one(sorted(boxes.boxes))
            box = boxes.boxes[sender]
            broken = {sender: box[:-1] + bytes([box[-1] ^ 1])}
            return replace(boxes, boxes=boxes.boxes | broken).to_bytes().hex()

        play(self._pair, script, lost, self._dice, between=between)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Whatever is asked here up to the first difference, which is noted."""
        try:
            yield
        except Differs as found:
            self._note(
                Difference(
                    setting=self._setting.name,
                    seed=self._seed,
                    about=found.about,
                    requests=list(found.requests),
                    ours=found.ours,
                    theirs=found.theirs,
                )
            )
            if self._pair.ended is not None:
                raise

    def _note(self, found: Difference) -> None:
        report = self._report
        report.differences += 1
        report.layers += found.layer_alone
        if report.first is None or (report.first.layer_alone and not found.layer_alone):
            report.first = found

    def _client(self, around: Round, stage: Stage) -> None:
        """One client, that reads changed messages: each a new one, that was asked all before."""
        script, dice = self._script, self._dice
        handed = script.handed[stage]
        readers = [client for client in script.foreign if client in handed]
        if not readers:
            return
        client = dice.one(readers)
        message = bytes.fromhex(handed[client])
        near = dice.some([other for other in handed if other != client], 2)
        others = [bytes.fromhex(handed[other]) for other in near]
        others += [
            bytes.fromhex(read[client])
            for other, read in script.handed.items()
            if other is not stage and client in read
        ]
        roster = bytes.fromhex(script.handed[Stage.SHARE][client])
        decoded = around.handed(stage, message, roster)
        changed = [
            (name, data)
            for name, data in mutants(decoded, others, around.numbers, dice)
            if data != message
        ]
        for name, data in dice.some(changed, self._setting.mutants):
            about = f"client {client}, {stage}: {type(decoded).__name__}, {name}"
            with self._noted(), script.client_before(self._pair, client, stage) as party:
                self._pair.ask(about, {"op": "message", "id": party, "message": data.hex()})

    def _server(self, around: Round, stage: Stage) -> None:
        """A server, that is sent good and changed messages in any order, and then closed."""
        script, dice, setting = self._script, self._dice, self._setting
        arrived = script.arrived[stage]
        good = [
            ("as it is", [bytes.fromhex(sent) for sent in script.answers[stage][client]])
            for client in arrived
        ]
        some = [messages for _, messages in dice.some(good, CHANGED)]
        rest = [messages for _, messages in good]
        changed = [one for messages in some for one in self._changed(around, stage, messages, rest)]
        moved = list(_moved(some)) if stage is Stage.MASK else []
        closes = "result" if stage is Stage.REVEAL else "close"
        for _ in range(setting.orders):
            kept = good if dice.below(2) else dice.some(good, 1 + dice.below(len(good)))
            both = [*kept, *moved, *dice.some(changed, setting.mutants)]
            with self._noted(), script.server_at(self._pair, stage) as party:
                for name, messages in dice.some(both, len(both)):
                    sent = [message.hex() for message in messages]
                    asked = {"op": "receive", "id": party, "messages": sent}
                    self._pair.ask(f"server, {stage}: {name}", asked)
                self._pair.ask(f"server, {stage}: {closes}", {"op": closes, "id": party})

    def _changed(
        self, around: Round, stage: Stage, messages: Messages, good: list[Messages]
    ) -> Iterator[tuple[str, Messages]]:
        """What one client sent, one message of it changed."""
        near = self._dice.some([other for other in good if other != messages], 2)
        for place, message in enumerate(messages):
            decoded = around.answer(stage, place, message)
            kind = type(decoded).__name__
            others = [other[place] for other in near]
            for name, data in mutants(decoded, others, around.numbers, self._dice):
                changed = [*messages[:place], data, *messages[place + 1 :]]
                yield f"{kind}, {name}", changed


def _moved(vectors: list[Messages]) -> Iterator[tuple[str, Messages]]:
    """Vectors whose messages are as they are, but too few, too many or in another order."""
    for messages, other in zip(vectors, [*vectors[1:], vectors[0]], strict=True):
        yield "no message of a vector", []
        yield "one message less", messages[:-1]
        yield "one message more", [*messages, messages[-1]]
        yield "the first message last", [*messages[1:], messages[0]]
        yield "the first message of another", [other[0], *messages[1:]]


def _around(script: Script, agreed: str) -> Round:
    """What the readers of a round's messages need to know, once keys are in."""
    stranger = next(number for number in range(2**32) if number not in script.clients)
    return Round(
        agreement=Agreement.read(Reader(bytes.fromhex(agreed))),
        come=len(script.arrived[Stage.ADVERTISE]),
        numbers=sorted({*script.clients, stranger}),
    )
