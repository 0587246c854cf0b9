"""Whatever the network and the hosts do, a round gives the exact sum of its survivors, or an error.

A machine plays both: it delivers messages in any order, late, again and again or
never, flips bits in them, crashes clients and restores them from any record that
they ever wrote, and closes the server's stages at any time. The graph is complete
or sparse, and the server trusted or not.
"""

import hashlib
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
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
from numpy.typing import NDArray

from protocols.bonawitz import (
    Agreement,
    AwaitSignatures,
    AwaitSurvivors,
    CollectKeys,
    CollectVectors,
    Params,
    Rates,
    Sum,
    join,
    restore,
)
from protocols.bonawitz.messages import Reveal, Survivors
from protocols.entropy import Entropy
from protocols.errors import ProtocolError
from protocols.primitives.prg import Suite
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, answered, insecure_entropy, insecure_identities

WORDS = 3
IDENTITIES = insecure_identities(range(10))
outcomes: Counter[str] = Counter()


class AnyInterleaving(RuleBasedStateMachine):
    """Clients live in records only: a host moves a state out, answers, and moves the next in."""

    PARAMS = Params(clients=4, threshold=3, words=WORDS)

    @initialize(suite=st.sampled_from(list(Suite)), minimum=st.integers(2, 4), seed=st.integers())
    def begin(self, suite: Suite, minimum: int, seed: int) -> None:
        params = replace(self.PARAMS, minimum_survivors=minimum, suite=suite)
        self.agreement = Agreement(
            params=params, session=bytes(16), round=1, public_digest=bytes(32)
        )
        self.clients = range(params.clients)
        self.inputs: dict[int, NDArray[np.uint64]] = {
            client: np.frombuffer(
                hashlib.shake_256(f"{seed}/{client}".encode()).digest(8 * WORDS), "<u8"
            )
            for client in self.clients
        }
        publics = {client: IDENTITIES[client].public for client in self.clients}
        known = publics if params.active else None
        self.server: Any = CollectKeys(self.agreement, known)
        self.to_server: list[Any] = []
        self.to_clients: list[tuple[int, bytes]] = []
        self.stores = {client: BurnInMemory() for client in self.clients}
        self.disks: dict[int, list[Secret]] = {}
        self.answers: dict[tuple[int, int], Any] = {}
        self.named: frozenset[int] = frozenset()
        for client in self.clients:
            message, state = join(
                self.agreement,
                client,
                insecure_entropy((seed, client)),
                identity=IDENTITIES[client] if known else None,
                identities=known,
            )
            self.to_server.append(message)
            self.disks[client] = [state.into_record()]

    def answer(self, client: int, message: bytes) -> None:
        """Client ``client`` wakes up from its newest record and answers ``message``."""
        state = restore(self.disks[client][-1], burn=self.stores[client])
        reply, after = answered(state, message, self.inputs[client])
        before = self.answers.setdefault((client, state.STAGE), reply)
        assert before == reply, "one stage had two answers"
        if after is not None:
            self.disks[client].append(after.into_record())
        self.to_server.append(reply)

    def tell(self, client: int, message: bytes) -> None:
        try:
            self.answer(client, message)
        except ProtocolError as error:
            outcomes[f"client: {type(error).__name__}"] += 1

    def hand_in(self, message: Any) -> None:
        try:
            if isinstance(self.server, CollectVectors) != isinstance(message, list):
                message = message[0] if isinstance(message, list) else [message]
            self.server.receive(message)
        except ProtocolError as error:
            outcomes[f"server: {type(error).__name__}"] += 1

    @property
    def alive(self) -> bool:
        return self.server is not None

    @precondition(lambda self: self.alive and self.to_server)
    @rule(data=st.data(), lose=st.booleans())
    def deliver_to_server(self, data: st.DataObject, lose: bool) -> None:
        place = data.draw(st.integers(0, len(self.to_server) - 1))
        self.hand_in(self.to_server[place])
        if lose:
            del self.to_server[place]

    @precondition(lambda self: self.alive and self.to_clients)
    @rule(data=st.data(), lose=st.booleans())
    def deliver_to_client(self, data: st.DataObject, lose: bool) -> None:
        place = data.draw(st.integers(0, len(self.to_clients) - 1))
        self.tell(*self.to_clients[place])
        if lose:
            del self.to_clients[place]

    @precondition(lambda self: self.alive)
    @rule(order=st.randoms(use_true_random=False))
    def deliver_all_that_waits(self, order: Any) -> None:
        self.deliver_everything(order)

    def deliver_everything(self, order: Any) -> None:
        for client, message in order.sample(self.to_clients, len(self.to_clients)):
            self.tell(client, message)
        for message in order.sample(self.to_server, len(self.to_server)):
            self.hand_in(message)

    @precondition(lambda self: self.alive and self.to_server)
    @rule(data=st.data())
    def deliver_changed_to_server(self, data: st.DataObject) -> None:
        message = data.draw(st.sampled_from(self.to_server))
        if isinstance(message, list):
            self.hand_in([self.changed(data, frame) for frame in message])
        else:
            self.hand_in(self.changed(data, message))

    @precondition(lambda self: self.alive and self.to_clients)
    @rule(data=st.data())
    def deliver_changed_to_client(self, data: st.DataObject) -> None:
        client, message = data.draw(st.sampled_from(self.to_clients))
        self.tell(client, self.changed(data, message))

    @precondition(lambda self: self.alive and self.to_clients)
    @rule(data=st.data())
    def deliver_to_the_wrong_client(self, data: st.DataObject) -> None:
        _, message = data.draw(st.sampled_from(self.to_clients))
        self.tell(data.draw(st.sampled_from(self.clients)), message)

    @precondition(lambda self: self.alive and self.named)
    @rule(data=st.data())
    def lie_about_the_survivors(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients))
        alive = data.draw(st.frozensets(st.sampled_from(self.clients)))
        lie = Survivors(header=self.agreement.header, alive=alive, members=sorted(self.clients))
        self.tell(client, lie.to_bytes())

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), kept=st.integers(1, 4))
    def roll_back(self, data: st.DataObject, kept: int) -> None:
        del self.disks[data.draw(st.sampled_from(self.clients))][kept:]

    @precondition(lambda self: self.alive and self.to_server)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        del self.to_server[data.draw(st.integers(0, len(self.to_server) - 1))]

    @precondition(lambda self: self.alive)
    @rule(order=st.randoms(use_true_random=False))
    def a_stage_that_goes_well(self, order: Any) -> None:
        self.deliver_everything(order)
        self.end_stage()

    @precondition(lambda self: self.alive)
    @rule(coin=st.integers(0, 7))
    def close_at_any_time(self, coin: int) -> None:
        if coin == 0:  # seldom, or few rounds see their end
            self.end_stage()

    def end_stage(self) -> None:
        try:
            signing = isinstance(self.server, CollectVectors) and self.agreement.params.active
            if signing:
                closed = self.server.close_to_sign()
            else:
                closed = self.server.close(*self.entropy_for(self.server))
        except ProtocolError as error:
            outcomes[f"closed: {type(error).__name__}"] += 1
            self.server = None
            return
        if isinstance(closed, Sum):
            self.check(closed)
            self.server = None
            return
        if isinstance(self.server, CollectVectors):
            self.named = frozenset(closed[0])
        messages, self.server = closed
        self.to_clients.extend(messages.items())

    @precondition(lambda self: not self.alive)
    @rule(data=st.data())
    def deliver_after_the_end(self, data: st.DataObject) -> None:
        if self.to_clients:
            client = data.draw(st.sampled_from(self.clients))
            self.tell(client, data.draw(st.sampled_from(self.to_clients))[1])

    @staticmethod
    def entropy_for(server: Any) -> tuple[Entropy, ...]:
        return (insecure_entropy("graph"),) if isinstance(server, CollectKeys) else ()

    def check(self, released: Sum) -> None:
        params = self.agreement.params
        assert set(released.survivors) == self.named
        assert len(self.named) >= max(params.minimum_survivors, params.threshold or 0)
        total = np.zeros(WORDS, np.uint64)
        for client in released.survivors:
            total += self.inputs[client]
        assert np.array_equal(released.words, total)
        outcomes["sum"] += 1

    def teardown(self) -> None:
        for (_, stage), reply in getattr(self, "answers", {}).items():
            if stage == (AwaitSignatures if self.PARAMS.active else AwaitSurvivors).STAGE:
                Reveal.from_bytes(reply, expect=self.agreement.header)

    @staticmethod
    def changed(data: st.DataObject, message: bytes) -> bytes:
        copy = bytearray(message)
        bit = data.draw(st.integers(0, 8 * len(copy) - 1))
        copy[bit // 8] ^= 1 << bit % 8
        return bytes(copy)


class AnyInterleavingSigned(AnyInterleaving):
    """The server may lie: keys and survivors are signed."""

    PARAMS = Params(clients=4, threshold=3, words=WORDS, active=True)


class AnyInterleavingSparse(AnyInterleaving):
    """Four neighbours of ten clients, and a threshold of two."""

    PARAMS = Params(clients=10, rates=Rates(corrupt_fraction=0.1, dropout=0.1), words=WORDS)


class AnyInterleavingSparseSigned(AnyInterleaving):
    """Rates against a server that may lie: of ten clients the graph is complete."""

    PARAMS = Params(
        clients=10, rates=Rates(corrupt_fraction=0.1, dropout=0.1), words=WORDS, active=True
    )


@pytest.mark.parametrize(
    ("machine", "examples"),
    [
        (AnyInterleaving, 200),
        (AnyInterleavingSigned, 120),
        (AnyInterleavingSparse, 120),
        (AnyInterleavingSparseSigned, 240),
    ],
    ids=["complete", "complete-active", "sparse", "rates-active"],
)
def test_any_interleaving_gives_the_exact_sum_or_a_protocol_error(
    machine: type[AnyInterleaving], examples: int
) -> None:
    outcomes.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            derandomize=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    # Otherwise the machine has not been where it matters, and the test says nothing. Hypothesis
    # tries constants of all modules that are loaded, so the counts differ from run to run.
    assert outcomes["sum"] >= examples // 10
    assert outcomes["client: RemoteProtocolError"] >= 5
    assert outcomes["closed: TooFewSurvivors"] >= 5
