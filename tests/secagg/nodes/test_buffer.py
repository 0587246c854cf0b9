"""Rings become sums: of enough, of what is new enough, of none twice."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from between import Machines, carry
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from secagg.adapters.testing import ANYTHING
from secagg.errors import InputError
from secagg.nodes.buffer import Buffer, Session
from secagg.nodes.coordinator import Coordinator, SumSettings, WeightedMean
from secagg.nodes.proposal import Contribution, Proposal

DIGESTS = [bytes([number]) * 32 for number in range(100)]


def rung(buffer: Buffer, nodes: range, version: int = 0) -> None:
    for node in nodes:
        assert buffer.ring(node, version)


def test_a_sum_is_of_those_who_have_rung_and_waits_for_nobody_else() -> None:
    buffer = Buffer(size=3)
    buffer.publish(DIGESTS[0])
    rung(buffer, range(2))
    assert buffer.take() is None
    rung(buffer, range(2, 3))
    session = buffer.take()
    assert session is not None
    assert session.nodes == {0: 0, 1: 0, 2: 0}
    assert session.alike
    assert buffer.take() is None
    assert not buffer.waiting


def test_a_sum_mixes_versions_of_which_each_has_enough() -> None:
    buffer = Buffer(size=5, weights=(2, 1), minimum_same=2)
    buffer.publish(DIGESTS[0])
    rung(buffer, range(2))
    buffer.publish(DIGESTS[1])
    rung(buffer, range(10, 12), 1)
    assert buffer.take() is None
    rung(buffer, range(12, 13), 1)
    session = buffer.take()
    assert session is not None
    assert Counter(session.nodes.values()) == {0: 2, 1: 3}
    versions = session.versions({node: place for place, node in enumerate(session.nodes)})
    assert versions is not None
    assert versions.digests == ((0, DIGESTS[0]), (1, DIGESTS[1]))
    assert [versions.weight_of(client) for client in range(5)] == [1, 1, 2, 2, 2]


def test_one_alone_on_its_version_waits_for_another_or_is_dropped() -> None:
    buffer = Buffer(size=3, weights=(1, 1), minimum_same=2)
    buffer.publish(DIGESTS[0])
    rung(buffer, range(1))
    buffer.publish(DIGESTS[1])
    rung(buffer, range(1, 4), 1)
    session = buffer.take()
    assert session is not None
    assert set(session.nodes) == {1, 2, 3}
    assert buffer.waiting == {0: 0}
    buffer.publish(DIGESTS[2])
    assert not buffer.waiting
    assert not buffer.ring(0, 0)  # too far behind: it trains on the newest


def test_patience_leaves_a_version_alone_whose_last_would_train_in_vain() -> None:
    buffer = Buffer(size=4, weights=(1, 1), minimum_same=2)
    buffer.publish(DIGESTS[0])
    for node in range(5):
        assert buffer.start(node) == 0
    rung(buffer, range(4))
    assert buffer.take(patient=True) is None
    buffer.publish(DIGESTS[1])
    for node in range(10, 16):
        assert buffer.start(node) == 1
    rung(buffer, range(10, 14), 1)
    session = buffer.take(patient=True)  # two are left, and they are enough
    assert session is not None
    assert set(session.nodes) == {10, 11, 12, 13}
    assert set(buffer.waiting) == {0, 1, 2, 3}
    hurried = buffer.take()  # the fifth has been late for too long
    assert hurried is not None
    assert set(hurried.nodes) == {0, 1, 2, 3}


def test_nobody_waits_for_a_node_that_is_gone() -> None:
    buffer = Buffer(size=4, minimum_same=2)
    buffer.publish(DIGESTS[0])
    for node in range(5):
        buffer.start(node)
    rung(buffer, range(4))
    buffer.forget(4)
    assert buffer.take(patient=True) is not None


def test_a_straggler_of_a_thousand_times_blocks_no_sum_and_every_sum_is_exact(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulated clock, and true nodes: 12 of them; what is summed are integers."""
    words, encode = dict[int, Any](), Proposal.encode

    def watched(proposal: Proposal, own: Any, client: int = 0) -> Any:
        words[client] = encode(proposal, own, client)
        return words[client]

    monkeypatch.setattr(Proposal, "encode", watched)
    nodes, patience = range(12), 3.0
    seconds = {node: 1.0 + node / 10 for node in nodes} | {11: 1000.0}
    machines = Machines(
        folder,
        tuple(nodes),
        policy=replace(ANYTHING, maximum_staleness=9, minimum_same=2),
        work=lambda node, proposal: Contribution(
            vector=np.full(proposal.entries, float(node % 3 - 1)), weight=1 + node, metrics={}
        ),
    )
    coordinator = Coordinator(WeightedMean(clip=1.0, max_weight=16), SumSettings())
    buffer = Buffer(size=4, weights=(8, 4, 2, 1), minimum_same=2)
    clock, last, gaps = 0.0, 0.0, list[float]()
    buffer.publish(DIGESTS[0])
    due = {node: (seconds[node], buffer.start(node)) for node in nodes}
    while len(gaps) < 25:
        node = min(due, key=lambda each: due[each][0])
        clock, version = due.pop(node)
        machines.shown[node] = DIGESTS[version]
        waits = buffer.ring(node, version)
        session = buffer.take(patient=clock < last + patience)
        freed = set() if waits else {node}
        if session:
            gaps.append(clock - last)
            last, machines.model = clock, session.model_digest
            finished = carry(coordinator, machines, nodes=session.nodes, session=session)
            assert set(finished.survivors) == set(session.nodes)
            counts = {n: (8 >> buffer.newest - v) * (1 + n) for n, v in session.nodes.items()}
            assert finished.result.weight == sum(counts.values())
            brought = [words[client] for client in finished.result.survivors]
            plain = np.sum(brought, axis=0, dtype=np.uint64)
            expected = finished.proposal.decode(plain, finished.result.survivors)
            assert np.array_equal(expected.vector, finished.result.vector)
            before = buffer.waiting
            buffer.publish(DIGESTS[buffer.newest + 1])
            freed |= session.nodes.keys() | before.keys() - buffer.waiting.keys()
        due |= {each: (clock + seconds[each], buffer.start(each)) for each in freed}
    assert 11 in due  # it trains to this day
    assert max(gaps) <= patience + max(seconds[node] for node in range(11))


def test_a_stale_sum_of_one_version_counts_less() -> None:
    buffer = Buffer(size=2, weights=(4, 1))
    buffer.publish(DIGESTS[0])
    rung(buffer, range(2))
    buffer.publish(DIGESTS[1])
    session = buffer.take()
    assert session is not None
    assert (session.model_digest, session.factor) == (DIGESTS[0], 1 / 4)


def test_a_node_that_rings_again_waits_once_with_what_it_trained_last() -> None:
    buffer = Buffer(size=2, weights=(1, 1))
    buffer.publish(DIGESTS[0])
    rung(buffer, range(1))
    buffer.publish(DIGESTS[1])
    assert buffer.ring(0, 1)
    assert buffer.waiting == {0: 1}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": 1}, "size 1 must be"),
        ({"size": 2.0}, "size 2.0 must be"),
        ({"size": 3, "minimum_same": 1}, "minimum_same 1 must be at least 2"),
        ({"size": 3, "minimum_same": 4}, "minimum_same is 4"),
        ({"size": 3, "weights": ()}, "must be from 1 on"),
        ({"size": 3, "weights": (1, 2)}, "largest first"),
    ],
    ids=str,
)
def test_a_buffer_that_cannot_work_is_refused(given: Mapping[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Buffer(**given)  # type: ignore[arg-type]  # what is under test


@pytest.mark.parametrize("version", [-1, 1, 10**30, True, None])
def test_a_version_that_was_never_published_is_refused(version: object) -> None:
    buffer = Buffer(size=2)
    with pytest.raises(InputError, match="no version was published"):
        assert buffer.newest
    buffer.publish(DIGESTS[0])
    with pytest.raises(InputError, match="there is no version"):
        buffer.ring(0, version)  # type: ignore[arg-type]  # what is under test
    with pytest.raises(InputError, match="32 bytes"):
        buffer.publish(b"")


class Rings(RuleBasedStateMachine):
    """A server that publishes, and nodes that ring with whatever version they once got."""

    @initialize(
        size=st.integers(2, 6),
        stale=st.integers(0, 3),
        same=st.none() | st.integers(2, 6),
    )
    def begin(self, size: int, stale: int, same: int | None) -> None:
        self.size, self.stale = size, stale
        self.same = same if same is None else min(same, size)
        weights = tuple(range(stale + 1, 0, -1))
        self.buffer = Buffer(size=size, weights=weights, minimum_same=self.same)
        self.buffer.publish(DIGESTS[0])
        self.waits: dict[int, int] = {}
        self.trains: dict[int, int] = {}

    @rule()
    def publish(self) -> None:
        number = self.buffer.publish(DIGESTS[self.buffer.newest + 1])
        self.waits = {n: v for n, v in self.waits.items() if number - v <= self.stale}
        self.trains = {n: v for n, v in self.trains.items() if number - v <= self.stale}

    @rule(node=st.integers(0, 12))
    def start(self, node: int) -> None:
        self.trains[node] = self.buffer.start(node)

    @rule(node=st.integers(0, 12))
    def forget(self, node: int) -> None:
        self.buffer.forget(node)
        self.waits.pop(node, None)
        self.trains.pop(node, None)

    @rule(node=st.integers(0, 12), behind=st.integers(0, 5))
    def ring(self, node: int, behind: int) -> None:
        version = max(0, self.buffer.newest - behind)
        taken = self.buffer.ring(node, version)
        assert taken is (self.buffer.newest - version <= self.stale)
        self.waits.pop(node, None)
        self.trains.pop(node, None)
        if taken:
            self.waits[node] = version

    @rule(patient=st.booleans())
    def take(self, *, patient: bool) -> None:
        session = self.buffer.take(patient=patient)
        least = self.size if self.same is None else self.same
        full = {v: n for v, n in Counter(self.waits.values()).items() if n >= least}
        if patient:
            left = Counter(self.trains.values())
            full = {v: n for v, n in full.items() if not 0 < left[v] < least}
        if session is None:
            assert sum(full.values()) < self.size
            return
        assert full.keys() >= set(session.nodes.values())
        self.check(session, least)
        for node, version in session.nodes.items():
            assert self.waits.pop(node) == version

    def check(self, session: Session, least: int) -> None:
        counts = Counter(session.nodes.values())
        assert len(session.nodes) >= self.size
        assert min(counts.values()) >= least
        assert self.buffer.newest - min(counts) <= self.stale
        numbers = {node: place for place, node in enumerate(sorted(session.nodes))}
        versions = session.versions(numbers)
        if self.same is None:
            assert versions is None
            assert len(counts) == 1
            assert session.model_digest == DIGESTS[min(counts)]
            return
        assert versions is not None
        assert versions.newest == self.buffer.newest
        assert versions.model_digest == session.model_digest == DIGESTS[versions.newest]
        for node, version in session.nodes.items():
            assert versions.digest_of(numbers[node]) == DIGESTS[version]
            assert versions.weight_of(numbers[node]) == self.stale + 1 - versions.newest + version

    @invariant()
    def nobody_is_lost(self) -> None:
        if hasattr(self, "buffer"):
            assert self.buffer.waiting == self.waits


Rings.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRings = Rings.TestCase
