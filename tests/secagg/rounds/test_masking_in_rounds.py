from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from protocols.bonawitz import Agreement, CollectKeys, Params, join
from protocols.primitives.prg import Expand
from secagg.rounds.in_memory import run_bonawitz
from secagg.rounds.masking import MaskPool, over, serial
from secagg.stage import Stage

WORDS = 2**15 + 9


def agreement() -> Agreement:
    return Agreement(
        params=Params(clients=6, threshold=4, words=WORDS),
        session=bytes(16),
        round=0,
        public=bytes(32),
    )


def check(expand: Expand) -> None:
    inputs = {client: np.full(WORDS, client, np.uint64) for client in range(6)}
    total = run_bonawitz(agreement(), inputs, {5: Stage.MASK, 4: Stage.SHARE}, expand=expand)
    assert total.survivors == (0, 1, 2, 3)
    assert (total.values == 6).all()


def test_a_server_unmasks_with_workers() -> None:
    check(serial)
    with MaskPool(2) as pool:
        check(pool)
    with ThreadPoolExecutor() as executor:
        check(over(executor, parts=3))


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_client_masks_with_workers_to_the_same_bytes(*, in_parts: bool) -> None:
    def frames(expand: Expand | None) -> list[bytes]:
        counter = iter(range(10**6))

        def entropy(count: int) -> bytes:
            return b"".join(next(counter).to_bytes(4, "big") for _ in range(-(-count // 4)))[:count]

        keys = CollectKeys(agreement())
        states = {}
        for client in range(6):
            message, states[client] = join(agreement(), client, entropy)
            keys.receive(message)
        rosters, shares = keys.close()
        sharing = {}
        for client in range(6):
            message, sharing[client] = states[client].on_roster(rosters[client])
            shares.receive(message)
        boxes, _ = shares.close()
        words = np.arange(WORDS, dtype=np.uint64)
        given = np.array_split(words, 5) if in_parts else words
        return list(sharing[2].on_boxes(boxes[2], given, expand=expand)[0])

    with ThreadPoolExecutor() as executor:
        assert frames(over(executor, parts=2)) == frames(None)
