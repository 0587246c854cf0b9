"""Rings become sums: of enough, of what is new enough, of none twice."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from secagg.errors import InputError
from secagg.nodes.buffer import Buffer, Session

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

    @rule()
    def publish(self) -> None:
        number = self.buffer.publish(DIGESTS[self.buffer.newest + 1])
        self.waits = {n: v for n, v in self.waits.items() if number - v <= self.stale}

    @rule(node=st.integers(0, 12), behind=st.integers(0, 5))
    def ring(self, node: int, behind: int) -> None:
        version = max(0, self.buffer.newest - behind)
        taken = self.buffer.ring(node, version)
        assert taken is (self.buffer.newest - version <= self.stale)
        self.waits.pop(node, None)
        if taken:
            self.waits[node] = version

    @rule()
    def take(self) -> None:
        session = self.buffer.take()
        least = self.size if self.same is None else self.same
        full = {v: n for v, n in Counter(self.waits.values()).items() if n >= least}
        if session is None:
            assert sum(full.values()) < self.size
            return
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
