import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from protocols.bonawitz import Params, client
from protocols.bonawitz.messages import FRAME_WORDS
from protocols.primitives.prg import Expand
from protocols.testing import agreement_of, played
from secagg.rounds import masking
from secagg.rounds.aggregation import Bonawitz, aggregate
from secagg.rounds.in_memory import run_bonawitz
from secagg.rounds.masking import Masks, over, threads
from secagg.stage import Stage

WORDS = 2**15 + 9


AGREEMENT = agreement_of(Params(clients=6, threshold=4, words=WORDS))


def check(expand: Expand) -> None:
    inputs = {client: np.full(WORDS, client, np.uint64) for client in range(6)}
    total = run_bonawitz(AGREEMENT, inputs, {5: Stage.MASK, 4: Stage.SHARE}, expand=expand)
    assert total.survivors == (0, 1, 2, 3)
    assert (total.values == 6).all()


def test_a_server_unmasks_with_workers() -> None:
    check(Masks)
    check(threads(2))
    with ThreadPoolExecutor() as executor:
        check(over(executor, parts=3))


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads of every pool that masks start: little work too, on three cores."""
    made: list[int] = []

    class Watched(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            made.append(count)
            super().__init__(count)

    monkeypatch.setattr(masking, "ThreadPoolExecutor", Watched)
    monkeypatch.setattr(masking, "PAYS", 0)
    monkeypatch.setattr(masking, "_cores", lambda: 3)
    monkeypatch.delenv(masking.THREADS, raising=False)
    return made


def frames_of(expand: Expand, *, in_parts: bool) -> list[bytes]:
    words = np.arange(WORDS, dtype=np.uint64)
    made = played(AGREEMENT, dict.fromkeys(range(6), words), "boxes")
    given = np.array_split(words, 5) if in_parts else words
    return list(made.states[2].on_boxes(made.boxes[2], given, expand=expand)[0])


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("batch", [client.BATCH_WORDS, FRAME_WORDS])
def test_a_client_masks_with_workers_to_the_same_bytes(
    batch: int, pools: list[int], monkeypatch: pytest.MonkeyPatch, *, in_parts: bool
) -> None:
    expected = frames_of(Masks, in_parts=False)
    monkeypatch.setattr(client, "BATCH_WORDS", batch)
    assert frames_of(masking.expand, in_parts=in_parts) == expected
    assert pools == [2] * -(-(WORDS + 1) // batch)
    with ThreadPoolExecutor() as executor:
        assert frames_of(over(executor, parts=2), in_parts=in_parts) == expected


def test_every_client_and_server_uses_threads_unless_told_otherwise(
    pools: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {client: np.full(WORDS, client, np.uint64) for client in range(6)}
    run_bonawitz(AGREEMENT, inputs, expand=Masks)
    assert not pools
    run_bonawitz(AGREEMENT, inputs)
    assert len(pools) == 7  # six clients and the server
    pools.clear()
    aggregate([np.ones(99, np.float32)] * 4, clip=1.0)
    assert len(pools) == 5
    pools.clear()
    aggregate([np.ones(99, np.float32)] * 4, clip=1.0, protocol=Bonawitz(expand=threads(1)))
    assert not pools
    monkeypatch.setenv(masking.THREADS, "1")
    run_bonawitz(AGREEMENT, inputs)
    assert not pools


@pytest.mark.parametrize("expand", [threads(2), threads(3), masking.expand])
def test_frames_made_on_threads_are_the_same_in_the_same_order(
    expand: Expand, pools: list[int]
) -> None:
    frames = 20
    agreement = agreement_of(Params(clients=3, threshold=2, words=frames * FRAME_WORDS))
    words = np.arange(frames * FRAME_WORDS, dtype=np.uint64)
    made = played(agreement, dict.fromkeys(range(3), words), "boxes")
    record = made.states[0].into_record()

    def sent(way: Expand) -> list[bytes]:
        state = client.restore(record, burn=lambda *_: True)
        assert isinstance(state, client.AwaitBoxes)
        return list(state.on_boxes(made.boxes[0], words, expand=way)[0])

    assert sent(expand) == sent(Masks)
    assert max(pools) > 1


def test_a_client_masks_without_a_copy_of_its_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = 40
    monkeypatch.setattr(client, "BATCH_WORDS", 2 * FRAME_WORDS)
    agreement = agreement_of(Params(clients=3, threshold=2, words=frames * FRAME_WORDS))
    part = np.ones(FRAME_WORDS, np.uint64)
    made = played(agreement, dict.fromkeys(range(3), part), "boxes")
    sent, _ = made.states[0].on_boxes(made.boxes[0], (part for _ in range(frames)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in sent) == frames + 1
        assert tracemalloc.get_traced_memory()[1] < frames * part.nbytes / 4
    finally:
        tracemalloc.stop()
