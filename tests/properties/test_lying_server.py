"""Whatever a lying server shows its clients, and in which order, it opens no small set.

Nine real clients that pick their holders, one of them corrupt. The server passes on some boxes
and not others, says that picks never shared, names any set, also of nobody, shows marks of others,
of another session, changed or none, asks again from an old record, and asks at any time. What it
can then open is a set that the rules allow (``openable``), of six at least.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from lying import Lying, Sets, few_clients_pick, openable, params_of, remember

from protocols.bonawitz import Rates
from protocols.bonawitz.client import AwaitSurvivors
from protocols.bonawitz.messages import SignedSet
from protocols.errors import ProtocolError
from protocols.testing import BurnInMemory
from protocols.wire import write_subset

CLIENTS, CORRUPT, HOLDERS, THRESHOLD = 9, frozenset({8}), 3, 2
NOBODY = 100
FEW = 0b111  # three that have two holders in themselves; each of the rest has picked one of them
PICKS: Sets = {n: {(n + 1) % 3, (n + 2) % 3, 3 + n} for n in range(3)} | {
    n: {n % 3, 3 + (n - 2) % 6, 3 + (n - 1) % 6} for n in range(3, CLIENTS)
}
BITS = st.integers(0, 2**CLIENTS - 1)
CLIENT = st.integers(0, CLIENTS - 2)
LIES = ("none", "missing", "without", "replayed", "swapped", "unsigned", "nobody")

outcomes: Counter[str] = Counter()
built: dict[str, Any] = {}


def some(bits: int) -> frozenset[int]:
    return frozenset(n for n in range(CLIENTS) if bits >> n & 1)


class Lies:
    """One round of lies: clients keep all records that they ever wrote, and a burn store each."""

    def __init__(self, part: int, rest: int, told: bool = False) -> None:
        self.server: Lying = built["server"]
        self.server.forget()
        self.burns = {n: BurnInMemory() for n in range(CLIENTS)}
        self.part = some(part) - CORRUPT
        self.rest = some(rest) - self.part - CORRUPT
        self.told = told
        for n in CORRUPT:
            everybody = range(CLIENTS)
            self.server.show_boxes(n, everybody, everybody, self.burns[n])

    def tell(self, what: Callable[..., None], *shown: Any, **more: Any) -> None:
        try:
            what(*shown, **more)
        except ProtocolError as error:
            outcomes[type(error).__name__] += 1

    def boxes(self, client: int, withheld: int, hidden: int) -> None:
        server, everybody = self.server, some(-1)
        shared = everybody - some(hidden) | {client}
        senders = shared - some(withheld) - {client}
        self.tell(server.show_boxes, client, senders, shared, self.burns[client])

    def plan_boxes(self, client: int) -> None:
        """As two views want it: no box passes; picks are said never to have shared, or are not."""
        outside = some(-1) - self.part - CORRUPT if client in self.part else self.part
        bits = sum(1 << n for n in outside) if client in self.part | self.rest else 0
        hidden = bits & sum(1 << n for n in PICKS[client])
        self.boxes(client, bits, 0 if self.told and client in self.rest else hidden)

    def survivors(self, client: int, alive: int, lie: str = "none", about: int = 0) -> None:
        server, named = self.server, some(alive) | {client}
        if client not in server.included:
            return
        marks = server.marks_for(client, named)
        peer = sorted(marks)[about % len(marks)] if marks else None
        if lie == "nobody":
            named |= {NOBODY, NOBODY + 1}
        elif peer is not None and lie == "missing":
            del marks[peer]
        elif peer is not None and lie == "replayed":
            marks |= {n: built["before"][n] for n in marks}
        elif peer is not None and lie == "swapped":
            marks[peer] = marks[min(marks)]
        elif peer is not None and lie in ("without", "unsigned"):
            bits = some(-1) - ({client} if lie == "without" else set())
            signature = marks[peer].signature
            marks[peer] = SignedSet(
                included=write_subset(bits, range(CLIENTS)), signature=signature
            )
        self.tell(server.show_survivors, client, named, self.burns[client], marks)

    def plan_survivors(self, client: int, *, all_named: bool) -> None:
        kept = self.rest | self.part | CORRUPT
        if all_named:
            kept = some(-1)
        self.survivors(client, sum(1 << n for n in kept))

    def signatures(self, client: int) -> None:
        if client in self.server.signing:
            self.tell(self.server.show_signatures, client, self.burns[client])

    def check(self) -> None:
        for part, _ in self.server.opened():
            assert part in built["openable"], sorted(part)
            outcomes["opened"] += 1

    def go_on(self, stage: int, *, all_named: bool) -> None:
        """Everybody who waits is shown what was planned."""
        for n in self.server.honest:
            if stage == 0 and n not in self.server.frames:
                self.plan_boxes(n)
            elif stage == 1 and n in self.server.frames and n not in self.server.signing:
                self.plan_survivors(n, all_named=all_named)
            elif stage == 2 and n in self.server.signing:
                self.signatures(n)


@contextmanager
def clients_that_wait() -> Iterator[pytest.MonkeyPatch]:
    """Nine clients that have sealed their boxes, and their marks of another session."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        few_clients_pick(monkeypatch, HOLDERS, THRESHOLD)
        remember(monkeypatch)
        params = params_of(CLIENTS, rates=Rates(corrupt_fraction="1/9", dropout=0))
        before = Lying(CLIENTS, CORRUPT, params=params, picks=PICKS, session=b"the one before !")
        before.mask(dict.fromkeys(range(CLIENTS), range(CLIENTS)))
        server = Lying(CLIENTS, CORRUPT, params=params, picks=PICKS)
        allowed = openable(PICKS, THRESHOLD, server.quorum, server.needed, CORRUPT)
        assert server.quorum == server.needed == 6
        built.update(server=server, before=before.marks, openable=allowed)
        outcomes.clear()
        yield monkeypatch


class LyingServer(RuleBasedStateMachine):
    """The server's choices, one at a time."""

    lies: Lies | None = None

    @initialize(part=BITS, rest=BITS, told=st.booleans())
    def begin(self, part: int, rest: int, told: bool) -> None:
        self.lies = Lies(part, rest, told)

    @precondition(lambda self: self.lies)
    @rule(client=CLIENT, withheld=BITS, hidden=BITS)
    def any_boxes(self, client: int, withheld: int, hidden: int) -> None:
        assert self.lies
        self.lies.boxes(client, withheld, hidden)

    @precondition(lambda self: self.lies)
    @rule(client=CLIENT, alive=BITS, lie=st.sampled_from(LIES), about=CLIENT)
    def any_survivors(self, client: int, alive: int, lie: str, about: int) -> None:
        assert self.lies
        self.lies.survivors(client, alive, lie, about)

    @precondition(lambda self: self.lies)
    @rule(client=CLIENT)
    def any_signatures(self, client: int) -> None:
        assert self.lies
        self.lies.signatures(client)

    @precondition(lambda self: self.lies)
    @rule(stage=st.integers(0, 2), all_named=st.booleans())
    def go_on(self, stage: int, all_named: bool) -> None:
        assert self.lies
        self.lies.go_on(stage, all_named=all_named)

    def teardown(self) -> None:
        if self.lies:
            self.lies.check()


def play(rng: random.Random) -> None:
    """The same choices by chance, most clients as planned, so that many rounds see their end."""
    part = rng.choice((-1, FEW, rng.getrandbits(9)))
    rest = rng.choice((0, -1, rng.getrandbits(9)))
    lies, all_named = Lies(part, rest, rng.random() < 0.5), rng.random() < 0.5
    for stage in range(3):
        for _ in range(rng.choice((0, 0, 1, 2, 4))):
            client, bits = rng.randrange(CLIENTS - 1), rng.getrandbits(9) & rng.getrandbits(9)
            match stage:
                case 0:
                    lies.boxes(client, bits, bits & rng.getrandbits(9))
                case 1:
                    named = rng.choice((-1, ~bits))
                    lies.survivors(client, named, rng.choice(LIES), rng.randrange(9))
                case 2:
                    lies.signatures(client)
        lies.go_on(stage, all_named=all_named)
    lies.check()


def play_many(plays: int) -> None:
    rng = random.Random(plays)  # noqa: S311 -- a server's choices
    for _ in range(plays):
        play(rng)


def test_a_server_that_lies_step_by_step_opens_no_set_beside_those_of_the_rules() -> None:
    with clients_that_wait():
        run_state_machine_as_test(
            LyingServer,
            settings=settings(
                max_examples=150,
                stateful_step_count=20,
                derandomize=True,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        assert outcomes["RemoteProtocolError"] >= 50


def test_300_rounds_of_lies_open_no_set_beside_those_of_the_rules() -> None:
    with clients_that_wait():
        assert min(map(len, built["openable"])) == 6 - len(CORRUPT)
        play_many(300)
        assert outcomes["opened"] >= 15, outcomes
        assert outcomes["RemoteProtocolError"] >= 300, outcomes


@pytest.mark.slow
def test_100_000_rounds_of_lies_open_none() -> None:
    with clients_that_wait():
        play_many(100_000)
        assert outcomes["opened"] >= 5_000, outcomes


@pytest.mark.parametrize("check", ["_check_marks", "silent"])
def test_without_one_check_300_rounds_of_lies_open_a_smaller_one(check: str) -> None:
    with clients_that_wait() as monkeypatch:
        if check == "_check_marks":
            monkeypatch.setattr(AwaitSurvivors, check, lambda *_: None)
        else:
            read = AwaitSurvivors._read_survivors

            def unlooked(self: AwaitSurvivors, message: bytes) -> Any:
                object.__setattr__(self, "silent", frozenset())
                return read(self, message)

            monkeypatch.setattr(AwaitSurvivors, "_read_survivors", unlooked)
        with pytest.raises(AssertionError):
            play_many(300)
