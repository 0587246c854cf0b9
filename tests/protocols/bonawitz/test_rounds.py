"""Whole rounds: whoever drops out, at whatever stage, the rest sum exactly or not at all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.bonawitz import (
    Agreement,
    CollectKeys,
    Params,
    Sum,
    join,
    restore,
)
from protocols.bonawitz.messages import FRAME_WORDS
from protocols.errors import LocalProtocolError, TooFewSurvivors
from protocols.primitives.prg import Suite
from protocols.testing import BurnInMemory, agreement_of, insecure_entropy, played

ADVERTISE, SHARE, MASK, REVEAL, NEVER = range(5)  # the message a client fails to send


def inputs_of(clients: int, words: int, seed: int) -> dict[int, NDArray[np.uint64]]:
    generator = np.random.default_rng(seed)
    return {
        client: generator.integers(0, 2**64, words, np.uint64, endpoint=False)
        for client in range(clients)
    }


@dataclass
class Run:
    """What was sent in one round, and how it ended."""

    up: dict[int, list[bytes]]
    down: dict[int, list[bytes]]
    result: Sum


def run(
    agreement: Agreement,
    inputs: Mapping[int, NDArray[np.uint64]],
    drops: Mapping[int, int],
    *,
    through_records: bool = False,
    parts: int | None = None,
) -> Run:
    """A whole round; a client in ``drops`` goes before it sends the message named there."""
    store = BurnInMemory()
    up: dict[int, list[bytes]] = {client: [] for client in inputs}
    down: dict[int, list[bytes]] = {client: [] for client in inputs}

    def moved(state: Any) -> Any:
        return restore(state.into_record(), burn=store) if through_records else state

    def going(stage: int, clients: Mapping[int, object]) -> Iterator[int]:
        return (client for client in clients if drops.get(client, NEVER) > stage)

    keys = CollectKeys(agreement)
    states: dict[int, Any] = {}
    for client in going(ADVERTISE, inputs):
        message, state = join(agreement, client, insecure_entropy(client))
        up[client].append(message)
        states[client] = moved(state)
        assert keys.receive(message) == client
    rosters, shares = keys.close()
    for client in going(SHARE, rosters):
        down[client].append(rosters[client])
        message, state = states[client].on_roster(rosters[client])
        up[client].append(message)
        states[client] = moved(state)
        assert shares.receive(message) == client
    boxes, vectors = shares.close()
    for client in going(MASK, boxes):
        down[client].append(boxes[client])
        words = inputs[client]
        given_as = words if parts is None else np.array_split(words, parts)
        frames, state = states[client].on_boxes(boxes[client], given_as)
        sent = list(frames)
        up[client].extend(sent)
        states[client] = moved(state)
        assert vectors.receive(sent) == client
    survivors, reveals = vectors.close()
    for client in going(REVEAL, {c: None for c in boxes if drops.get(c, NEVER) > MASK}):
        down[client].append(survivors[client])
        message = states[client].on_survivors(survivors[client])
        up[client].append(message)
        assert reveals.receive(message) == client
    return Run(up, down, reveals.close())


def total(inputs: Mapping[int, NDArray[np.uint64]], survivors: "set[int]") -> NDArray[np.uint64]:
    words = np.zeros_like(next(iter(inputs.values())))
    for client in survivors:
        words += inputs[client]
    return words


@st.composite
def rounds(draw: st.DrawFn) -> tuple[Params, dict[int, int]]:
    clients = draw(st.integers(2, 8))
    params = Params(
        clients=clients,
        threshold=draw(st.integers(clients // 2 + 1, clients)),
        minimum_survivors=draw(st.integers(2, clients)),
        words=draw(st.sampled_from([1, 2, 17])),
        suite=draw(st.sampled_from(list(Suite))),
    )
    stages = st.sampled_from([ADVERTISE, SHARE, MASK, REVEAL])
    return params, draw(st.dictionaries(st.integers(0, clients - 1), stages, max_size=clients))


@given(rounds(), st.booleans())
@settings(max_examples=150, derandomize=True, deadline=None)
def test_any_dropouts_give_the_exact_sum_or_too_few(
    case: tuple[Params, dict[int, int]], through_records: bool
) -> None:
    params, drops = case
    left = [
        {client for client in range(params.clients) if drops.get(client, NEVER) > stage}
        for stage in (ADVERTISE, SHARE, MASK, REVEAL)
    ]
    needed = max(params.minimum_survivors, params.threshold)
    enough = all(len(clients) >= needed for clients in left[: MASK + 1])
    enough = enough and len(left[REVEAL]) >= params.threshold
    inputs = inputs_of(params.clients, params.words, seed=params.clients)
    if not enough:
        with pytest.raises(TooFewSurvivors):
            run(agreement_of(params), inputs, drops, through_records=through_records)
        return
    result = run(agreement_of(params), inputs, drops, through_records=through_records).result
    assert set(result.survivors) == left[MASK]
    assert np.array_equal(result.words, total(inputs, left[MASK]))


@pytest.mark.parametrize("stage", [ADVERTISE, SHARE, MASK, REVEAL])
@pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)
def test_down_to_the_threshold_the_sum_is_exact(stage: int, suite: Suite) -> None:
    params = Params(clients=7, threshold=4, minimum_survivors=3, words=5, suite=suite)
    inputs = inputs_of(7, 5, seed=stage)
    result = run(agreement_of(params), inputs, dict.fromkeys((0, 3, 6), stage)).result
    alive = {1, 2, 4, 5} if stage < REVEAL else set(range(7))
    assert set(result.survivors) == alive
    assert np.array_equal(result.words, total(inputs, alive))


@pytest.mark.parametrize("stage", [ADVERTISE, SHARE, MASK, REVEAL])
def test_below_the_threshold_nothing_is_released(stage: int) -> None:
    params = Params(clients=7, threshold=4, words=5)
    with pytest.raises(TooFewSurvivors, match=r"3 clients left .* 4 needed"):
        run(agreement_of(params), inputs_of(7, 5, 1), dict.fromkeys((0, 2, 3, 6), stage))


@pytest.mark.parametrize("stage", [ADVERTISE, SHARE, MASK])
def test_below_the_minimum_of_survivors_nothing_is_released(stage: int) -> None:
    params = Params(clients=7, threshold=4, minimum_survivors=6, words=5)
    with pytest.raises(TooFewSurvivors, match=r"5 clients left .* 6 needed"):
        run(agreement_of(params), inputs_of(7, 5, 1), dict.fromkeys((0, 6), stage))


def test_once_enough_vectors_are_in_the_threshold_alone_opens_their_sum() -> None:
    params = Params(clients=7, threshold=4, minimum_survivors=6, words=5)
    inputs = inputs_of(7, 5, seed=1)
    result = run(agreement_of(params), inputs, {0: MASK, 1: REVEAL, 2: REVEAL}).result
    assert result.survivors == (1, 2, 3, 4, 5, 6)
    assert np.array_equal(result.words, total(inputs, {1, 2, 3, 4, 5, 6}))


def test_clients_that_drop_at_every_stage_at_once_leave_the_exact_sum() -> None:
    params = Params(clients=11, threshold=6, words=5)
    inputs = inputs_of(11, 5, seed=9)
    drops = {0: ADVERTISE, 1: SHARE, 10: SHARE, 4: MASK, 5: MASK, 7: REVEAL}
    survivors = {2, 3, 6, 7, 8, 9}
    with pytest.raises(TooFewSurvivors, match="5 clients left after CollectReveals"):
        run(agreement_of(params), inputs, drops)
    del drops[7]
    result = run(agreement_of(params), inputs, drops).result
    assert np.array_equal(result.words, total(inputs, survivors))


@pytest.mark.parametrize("suite", list(Suite), ids=lambda suite: suite.name)
@pytest.mark.parametrize(
    "words", [1, FRAME_WORDS - 2, FRAME_WORDS - 1, FRAME_WORDS, FRAME_WORDS + 1]
)
@pytest.mark.parametrize("parts", [None, 1, 3])
def test_a_frame_boundary_leaves_no_mark(words: int, parts: int | None, suite: Suite) -> None:
    params = Params(clients=4, threshold=3, words=words, suite=suite)
    inputs = inputs_of(4, words, seed=words)
    done = run(agreement_of(params), inputs, {2: MASK}, parts=parts)
    assert np.array_equal(done.result.words, total(inputs, {0, 1, 3}))
    frames = [len(message) for message in done.up[0] if message[1] == 5]
    full, rest = divmod(words + 1, FRAME_WORDS)
    expected = [FRAME_WORDS] * full + [rest] * bool(rest)
    assert frames == [8 * count + 46 for count in expected]


@given(st.lists(st.integers(0, 7), max_size=6), st.integers(0, 2**32 - 1))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_an_input_in_parts_makes_the_frames_of_the_whole(sizes: list[int], seed: int) -> None:
    words = sum(sizes) + 1
    agreement = agreement_of(Params(clients=3, threshold=2, words=words))
    value = inputs_of(1, words, seed)[0]
    parts = np.split(value, np.cumsum(sizes))

    def frames_of(given_as: Any) -> list[bytes]:
        made = played(agreement, dict.fromkeys(range(3), value), "boxes")
        return list(made.states[1].on_boxes(made.boxes[1], given_as)[0])

    assert frames_of(parts) == frames_of(iter(parts)) == frames_of(value)


def test_an_input_is_left_as_it_was() -> None:
    inputs = inputs_of(3, 9, seed=3)
    before = {client: words.copy() for client, words in inputs.items()}
    run(agreement_of(Params(clients=3, threshold=2, words=9)), inputs, {})
    assert all(np.array_equal(inputs[client], before[client]) for client in inputs)


def test_an_input_may_be_read_only() -> None:
    inputs = inputs_of(3, 9, seed=3)
    for words in inputs.values():
        words.setflags(write=False)
    result = run(agreement_of(Params(clients=3, threshold=2, words=9)), inputs, {}).result
    assert np.array_equal(result.words, total(inputs, {0, 1, 2}))


def test_client_numbers_need_not_be_dense() -> None:
    clients = [0, 5, 2**31, 2**32 - 1]
    agreement = agreement_of(Params(clients=9, threshold=3, words=4))
    values = inputs_of(4, 4, seed=8)
    inputs = {client: values[place] for place, client in enumerate(clients)}
    result = run(agreement, inputs, {5: MASK}).result
    assert result.survivors == (0, 2**31, 2**32 - 1)
    assert np.array_equal(result.words, total(inputs, {0, 2**31, 2**32 - 1}))


def test_the_bytes_of_a_client_are_counted_exactly() -> None:
    count, words = 6, 100
    params = Params(clients=count, threshold=4, words=words)
    done = run(agreement_of(params), inputs_of(count, words, 1), {5: MASK})
    shared = count
    up = 106 + (54 + 96 * (count - 1)) + (46 + 8 * (words + 1)) + (46 + 36 * shared)
    down = (70 + 68 * count) + (30 + 96 * (shared - 1)) + (23 + (count + 7) // 8)
    assert sum(map(len, done.up[0])) == up
    assert sum(map(len, done.down[0])) == down


def test_the_same_round_with_the_same_entropy_is_the_same_bytes() -> None:
    agreement = agreement_of(Params(clients=4, threshold=3, words=6))
    inputs = inputs_of(4, 6, seed=2)
    assert run(agreement, inputs, {1: MASK}).up == run(agreement, inputs, {1: MASK}).up


def test_without_an_entropy_two_rounds_differ() -> None:
    agreement = agreement_of(Params(clients=4, threshold=3, words=6))
    assert join(agreement, 1)[0] != join(agreement, 1)[0]


def test_one_client_is_no_sum() -> None:
    agreement = agreement_of(Params(clients=2, threshold=2, words=6))
    with pytest.raises(TooFewSurvivors, match="1 clients left"):
        run(agreement, inputs_of(2, 6, 1), {1: ADVERTISE})


def test_a_stage_is_closed_once() -> None:
    agreement = agreement_of(Params(clients=2, threshold=2, words=6))
    stage = CollectKeys(agreement)
    messages = [join(agreement, client)[0] for client in (1, 2)]
    for message in messages:
        stage.receive(message)
    stage.close()
    with pytest.raises(LocalProtocolError, match="closed"):
        stage.close()
    with pytest.raises(LocalProtocolError, match="late messages are dropped"):
        stage.receive(join(agreement, 3)[0])
